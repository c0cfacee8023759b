"""The stand-in for a tenant, as a process of its own: ports, health, words, needs and faults are those it was told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from by_path import load

PROGRAM = Path(__file__).resolve().parents[3] / "images" / "twin" / "stand_in" / "stand_in.py"
LONG_S = 60.0


def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives to connections and to other tests' servers."""
    while True:
        port = random.SystemRandom().randint(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Twin:
    """A folder with what the twin has, and the stand-ins that run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("run/up", "run/faults"):
            (folder / name).mkdir(parents=True)
        self.tenants: dict[str, dict[str, Any]] = {}
        self.running: list[subprocess.Popen[str]] = []

    def tenant(self, name: str, body: Any, **more: Any) -> int:
        """Describe a tenant; returns its port."""
        port = free_port()
        plain: dict[str, Any] = {"kind": "script", "unit": "", "container": "", "ports": [port], "speech": {}}
        pages = {"/health": {"status": 200, "body": body}}
        self.tenants[name] = {**plain, "pages": pages, "needs": [], "after_s": 0, "words": [], **more}
        (self.folder / "tenants.json").write_text(json.dumps(self.tenants))
        return port

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TWIN_TENANTS": str(self.folder / "tenants.json"), "TWIN_RUN": str(self.folder / "run")}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), *words]
        self.running.append(subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True))
        return self.running[-1]

    def put(self, fault: str) -> Path:
        path = self.folder / "run" / "faults" / fault
        path.touch()
        return path


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    found = Twin(tmp_path)
    yield found
    for process in found.running:
        process.kill()
        process.communicate()


def until(ready: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LONG_S
    while True:
        found = ready()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def answer(port: int, path: str = "/health", body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=body, timeout=LONG_S) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def test_health_says_yes_after_its_time_and_no_with_its_fault(twin: Twin) -> None:
    body = {"ok": True, "slots": [{"state": "idle"}]}
    port = twin.tenant("db", body, after_s=0.5)
    twin.start("db", "dbserver", "--fast")
    first = json.loads(until(lambda: answer(port)[1]))
    assert first in (body, {"ok": False, "slots": [{"state": "idle"}]})
    until(lambda: json.loads(answer(port)[1] or b"0") == body)
    fault = twin.put("health-db")
    assert answer(port) == (200, json.dumps({**body, "ok": False}).encode())
    fault.unlink()
    assert json.loads(answer(port)[1]) == body
    assert answer(port, "/other")[0] == 404
    words = Path(f"/proc/{twin.running[0].pid}/cmdline").read_bytes().split(b"\0")
    assert words[2:5] == [b"db", b"dbserver", b"--fast"]


def test_health_without_anything_to_say_no_with_says_it_by_its_status(twin: Twin) -> None:
    port = twin.tenant("db", {"name": "db"})
    twin.start("db")
    until(lambda: answer(port)[0] == 200)
    twin.put("health-db")
    assert answer(port)[0] == 503


def test_it_speaks_as_loud_and_as_long_as_is_asked(twin: Twin, tmp_path: Path) -> None:
    port = twin.tenant("voice", {"ready": True}, speech={"/say": 90_000})
    twin.start("voice")
    until(lambda: answer(port)[0])
    status, data = answer(port, "/say", b'{"text": "test"}')
    (tmp_path / "said.wav").write_bytes(data)
    with wave.open(str(tmp_path / "said.wav")) as sound:
        assert (status, sound.getsampwidth(), sound.getframerate()) == (200, 2, 22050)
        assert max(sound.readframes(200)) > 100
    assert len(data) > 90_000


def test_who_needs_another_does_not_start_before_it_and_ends_with_it(twin: Twin) -> None:
    twin.tenant("db", {"ok": True})
    port = twin.tenant("api", {"ok": True}, needs=["db"])
    early = twin.start("api")
    assert early.wait(LONG_S) == 1
    assert early.stderr is not None
    assert "needs db, which is down" in early.stderr.read()
    db = twin.start("db")
    until((twin.folder / "run" / "up" / "db").exists)
    until(lambda: held(twin.folder / "run/up/db"))
    api = twin.start("api")
    until(lambda: answer(port)[0] == 200)
    db.send_signal(signal.SIGTERM)
    assert db.wait(LONG_S) == 0
    assert api.wait(LONG_S) == 1


def held(path: Path) -> bool:
    """Whether somebody holds the lock of a file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_start_that_is_to_fail_fails_once(twin: Twin) -> None:
    port = twin.tenant("db", {"ok": True})
    twin.put("start-once-db")
    assert twin.start("db").wait(LONG_S) == 7
    twin.start("db")
    assert until(lambda: answer(port)[0]) == 200


def test_a_name_that_nobody_has_is_refused(twin: Twin) -> None:
    twin.tenant("db", {"ok": True})
    process = twin.start("nobody")
    assert process.wait(LONG_S) == 2
    assert process.stderr is not None
    assert "one of db" in process.stderr.read()


@pytest.fixture
def program(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, for what its verbs do."""
    for name in ("TWIN_TENANTS", "TWIN_RUN"):
        monkeypatch.setenv(name, twin.environment[name])
    return load(PROGRAM)


@pytest.mark.prove
def test_start_returns_at_once_and_starts_no_second_one_and_stop_waits(twin: Twin, program: ModuleType) -> None:
    port = twin.tenant("voice", {"ready": True})
    assert twin.start("--start", "voice", "--wait").wait(LONG_S) == 0
    assert until(lambda: answer(port)[0]) == 200
    pid = (twin.folder / "run/up/voice").read_text()
    assert twin.start("--start", "voice").wait(LONG_S) == 0
    assert (twin.folder / "run/up/voice").read_text() == pid
    assert program.trouble("voice", twin.tenants["voice"]) == ""
    twin.put("health-voice")
    assert 'answers 200, {"ready": false}' in program.trouble("voice", twin.tenants["voice"])
    assert twin.start("--stop", "voice").wait(LONG_S) == 0
    assert answer(port)[0] == 0
    assert program.trouble("voice", twin.tenants["voice"]) == "it does not run"
    twin.put("start-once-voice")
    assert twin.start("--start", "voice", "--wait").wait(LONG_S) == 7


def test_well_says_what_is_not(
    twin: Twin, program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twin.tenant("db", {"ok": True})
    monkeypatch.setattr(program, "system_trouble", lambda: "")
    monkeypatch.setattr(program, "docker_trouble", lambda: "docker does not answer")
    assert program.main(["--well", "0"]) == 1
    assert json.loads(capsys.readouterr().out) == {"docker": "docker does not answer", "db": "it does not run"}
