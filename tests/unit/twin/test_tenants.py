"""The tenants' pure parts, and what the trial expects of their files."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import sys
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from by_path import load

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ROOT / "images" / "twin" / "her-os" / "services"
ROOTFS = ROOT / "images" / "twin" / "rootfs"


class Routes:
    """FastAPI as far as importing the service needs it: the twin has the real one, a checkout need not."""

    def __init__(self, **_: object) -> None:
        pass

    def route(self, _path: str) -> Any:
        return lambda function: function

    get = post = route


@pytest.fixture
def nav(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fastapi, pydantic = ModuleType("fastapi"), ModuleType("pydantic")
    fastapi.FastAPI = Routes  # type: ignore[attr-defined]  # a module made by hand
    pydantic.BaseModel = object  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "fastapi", fastapi)
    monkeypatch.setitem(sys.modules, "pydantic", pydantic)
    return load(SERVICES / "panda_nav" / "server.py")


@pytest.fixture
def tts() -> ModuleType:
    return load(SERVICES / "annie-voice" / "chatterbox_tts.py", "chatterbox_tts")


@pytest.fixture
def phone(tts: ModuleType) -> ModuleType:
    return load(SERVICES / "annie-voice" / "phone_call.py")


@pytest.fixture
def chatterbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("TWIN_FAULTS", str(tmp_path))
    return load(SERVICES / "chatterbox" / "server.py")


# ---- panda-nav ----


def test_the_prompt_function_lies_where_production_has_it() -> None:
    tree = ast.parse((SERVICES / "panda_nav" / "server.py").read_text())
    [function] = [node for node in tree.body if getattr(node, "name", None) == "build_vlm_prompt"]
    assert function.lineno >= 131
    assert function.end_lineno is not None
    assert function.end_lineno <= 145


def test_the_prompt_is_what_the_models_were_trained_on(nav: ModuleType) -> None:
    assert nav.build_vlm_prompt(goal="something interesting") == (
        "You are the navigation module of a small robot.\n"
        "You see one picture from the front camera.\n"
        "Goal: something interesting\n"
        "Answer with exactly two words.\n"
        "The first word is one of forward, left, right.\n"
        "The second word is one of small, medium, large.\n"
        "Do not explain your answer."
    )


def test_the_prompt_function_needs_nothing_but_two_tuples() -> None:
    source = (SERVICES / "panda_nav" / "server.py").read_text()
    wanted = {"build_vlm_prompt", "NAV_ACTIONS", "NAV_SIZES"}
    kept = [
        node
        for node in ast.parse(source).body
        if getattr(node, "name", None) in wanted
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in wanted)
    ]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), "extracted", "exec"), namespace)
    assert "Goal: the door\n" in namespace["build_vlm_prompt"]("the door")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left small", ("left", "small", 1)),
        (" forward large\n", ("forward", "large", 1)),
        ("Left Small.", ("left", "small", 2)),
        ("I would go right, medium.", ("right", "medium", 2)),
        ("FORWARD - LARGE", ("forward", "large", 2)),
        ("go straight, quite far", ("forward", "large", 3)),
        ("left\nsmall", ("left", "small", 3)),
        ("turn left", ("left", "small", 3)),
        ("LARGE", None),
        ("", None),
    ],
)
def test_three_strategies_of_understanding(nav: ModuleType, text: str, expected: tuple[str, str, int] | None) -> None:
    reply = nav.parse_nav_reply(text)
    assert (None if reply is None else (reply.action, reply.size, reply.strategy)) == expected


def test_the_car_is_parked_until_it_says_otherwise(nav: ModuleType) -> None:
    car = nav.CarState()
    assert car.as_dict()["moving"] is False
    car.drive(True)
    assert (car.as_dict()["moving"], car.as_dict()["state"]) == (True, "driving")


# ---- Chatterbox's client ----


def test_the_clause_that_keeps_calls_alive_lies_in_lines_159_to_161() -> None:
    lines = (SERVICES / "annie-voice" / "chatterbox_tts.py").read_text().splitlines()[158:161]
    assert lines[0].strip().startswith("except (httpx.TimeoutException, httpx.HTTPError)")
    assert lines[2].strip() == "yield TTSStoppedFrame()"


def speech(samples: bytes = b"\x01\x02" * 22050) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as writer:
        writer.setframerate(22050)
        writer.setsampwidth(2)
        writer.setnchannels(1)
        writer.writeframes(samples)
    return target.getvalue()


def frames_of(tts: ModuleType, answer: Any) -> list[str]:
    async def speak() -> list[str]:
        service = tts.ChatterboxTTSService()
        await service.close()
        service._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        names = [type(frame).__name__ async for frame in service.run_tts("hello")]
        await service.close()
        return names

    return asyncio.run(speak())


def test_a_sentence_is_spoken_in_frames_of_40_ms(tts: ModuleType) -> None:
    names = frames_of(tts, lambda _: httpx.Response(200, content=speech()))
    assert names == ["TTSStartedFrame", *["TTSAudioRawFrame"] * 25, "TTSStoppedFrame"]


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def stall(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("late", request=request)


@pytest.mark.parametrize(
    "answer",
    [
        refuse,
        stall,
        lambda _: httpx.Response(500),
        lambda _: httpx.Response(200, content=b""),
        lambda _: httpx.Response(200, text="<html>"),
        lambda _: httpx.Response(200, content=speech(bytes(44100))),
    ],
    ids=["refused", "late", "500", "empty", "html", "silence"],
)
def test_without_a_voice_the_sentence_is_silent_and_nothing_is_raised(tts: ModuleType, answer: Any) -> None:
    assert frames_of(tts, answer) == ["TTSStartedFrame", "TTSStoppedFrame"]


# ---- the phone ----


def test_the_begin_and_the_end_of_a_silence_are_written_down(phone: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "mute.jsonl"
    log = phone.MuteLog(path)
    for heard, at_s in ((True, 1.0), (False, 2.0), (False, 3.0), (True, 4.0), (True, 5.0)):
        log.note(heard, at_s, None if heard else "refused")
    begin, end = (json.loads(line) for line in path.read_text().splitlines())
    assert (begin["event"], begin["t_s"], begin["reason"], begin["last_heard_t_s"]) == (
        "mute_begin",
        2.0,
        "refused",
        1.0,
    )
    assert (end["event"], end["t_s"], end["muted_s"]) == ("mute_end", 4.0, 2.0)
    assert begin["wall"].endswith("+00:00")


def test_a_full_disk_is_no_reason_to_hang_up(phone: ModuleType, tmp_path: Path) -> None:
    log = phone.MuteLog(tmp_path / "not" / "there.jsonl")
    log.note(False, 1.0)
    assert log.muted


def test_the_phone_counts_what_was_heard(phone: ModuleType, tts: ModuleType, tmp_path: Path) -> None:
    line = phone.Phone(phone.MuteLog(tmp_path / "mute.jsonl"))

    async def two_sentences() -> None:
        voice = tts.ChatterboxTTSService()
        await voice.close()
        answers = iter([httpx.Response(200, content=speech()), httpx.Response(503)])
        voice._client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(answers)))
        await line.speak(voice, "one")
        await line.speak(voice, "two")
        await voice.close()

    asyncio.run(two_sentences())
    status = line.status()
    assert (status["spoken"], status["silent"], status["muted"], status["call_active"]) == (1, 1, True, False)


# ---- Chatterbox ----


@pytest.fixture
def voice(chatterbox: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Chatterbox's handler on a free port, with espeak-ng replaced by a fixed sound."""
    import http.server
    import threading

    monkeypatch.setattr(chatterbox, "speak", lambda text: speech(text.encode() * 100))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), chatterbox.Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def say(url: str, text: str = "test one two") -> tuple[int, bytes]:
    try:
        request = urllib.request.Request(f"{url}/synthesize", json.dumps({"text": text}).encode())
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def loaded(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as reply:
        return bool(json.loads(reply.read())["model_loaded"])


def test_chatterbox_is_mute_while_it_loads(chatterbox: ModuleType, voice: str) -> None:
    assert not loaded(voice)
    assert say(voice)[0] == 503
    chatterbox.Handler.loaded.set()
    assert loaded(voice)
    assert say(voice)[1].startswith(b"RIFF")


def test_every_fault_of_chatterbox_acts_and_goes(chatterbox: ModuleType, voice: str, tmp_path: Path) -> None:
    chatterbox.Handler.loaded.set()
    expected = {
        "500": lambda code, body: code == 500 and body,
        "html": lambda code, body: code == 200 and body.startswith(b"<!doctype html>"),
        "empty": lambda code, body: (code, body) == (200, b""),
        "silence": lambda code, body: code == 200 and body.startswith(b"RIFF") and not any(body[44:]),
    }
    for name, matches in expected.items():
        switch = tmp_path / f"chatterbox-{name}"
        switch.touch()
        assert matches(*say(voice)), name
        switch.unlink()
        assert any(say(voice)[1][44:]), name
    (tmp_path / "chatterbox-never-loaded").touch()
    assert not loaded(voice)
    (tmp_path / "chatterbox-refuse-start").touch()
    assert chatterbox.main() == 1


def test_a_request_that_makes_no_sense_gets_400(chatterbox: ModuleType, voice: str) -> None:
    assert say(voice, " ")[0] == 400


def test_the_wav_header_tells_the_true_length(chatterbox: ModuleType) -> None:
    with wave.open(io.BytesIO(chatterbox.wav(bytes(2000), 22050))) as reader:
        assert reader.getnframes() == 1000


# ---- the image ----


def test_units_say_where_things_listen() -> None:
    text = {path.name: path.read_text() for path in (ROOTFS / "etc/systemd/system").glob("*.service")}
    assert "--host 127.0.0.1 --port 11435 --jinja" in text["panda-llamacpp.service"]
    assert "--host 127.0.0.1 --port 11436" in text["panda-nav.service"]
    assert "phone_call.py auto" in text["phone-daemon.service"]
    assert "KillMode=process" in text["chatterbox-boot.service"]
    assert all("Restart=" not in text[name] for name in ("panda-llamacpp.service", "phone-daemon.service"))


def test_the_container_device_interface_shares_the_ledger_read_only() -> None:
    spec = json.loads((ROOTFS / "etc/cdi/nvidia.json").read_text())
    assert spec["kind"] == "nvidia.com/gpu"
    assert "all" in [device["name"] for device in spec["devices"]]
    mounts = spec["containerEdits"]["mounts"]
    assert {"/run/twin-gpu", "/usr/bin/nvidia-smi"} <= {mount["hostPath"] for mount in mounts}
    assert all("ro" in mount["options"] for mount in mounts)
    assert json.loads((ROOTFS.parent / "common/etc/docker/daemon.json").read_text())["features"] == {"cdi": True}
