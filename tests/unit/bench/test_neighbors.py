"""Others who use the server: a stand-in that numbers its tasks as llama-server does, and callers who come between."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from published import accept
from trialbench import schemas
from trialbench.engines.llama.slots import Look, Slots, SlotsError
from trialbench.measure import neighbors
from trialbench.measure.neighbors import FOREIGN, RESTARTED, Neighbors
from trialbench.measure.progress import PlainProgress
from trialbench.measure.session import run_session

TOKENS = 3


class Llama:
    """llama-server's numbering: a task takes a number, each step of a reply another one, a look one as well."""

    def __init__(self, slots: int = 1) -> None:
        self.next = 0
        self.busy = [False] * slots
        self.last: list[int | None] = [None] * slots
        self.numbered = True
        self.status = 200
        self.body: bytes | None = None
        self.looks = 0

    def number(self) -> int:
        self.next += 1
        return self.next - 1

    def serve(self, slot: int = 0, tokens: int = TOKENS) -> None:
        self.last[slot] = self.number()
        self.next += tokens + 1

    def restart(self) -> None:
        self.next, self.last = 0, [None] * len(self.last)

    def slots(self) -> bytes:
        self.looks += 1
        self.number()
        rows: list[dict[str, Any]] = [{"id": place, "is_processing": busy} for place, busy in enumerate(self.busy)]
        for row, last in zip(rows, self.last, strict=True):
            if last is not None and self.numbered:
                row |= {"id_task": last, "n_prompt_tokens": 99}
        return self.body if self.body is not None else json.dumps(rows).encode()

    # What Slots is for Neighbors.

    def look(self, limit_s: float) -> Look:
        if self.status != 200:
            raise SlotsError(f"GET /slots answers {self.status}", off=self.status == 501)
        rows = json.loads(self.slots())
        tasks = {row["id"]: row["id_task"] for row in rows if "id_task" in row}
        return Look(time.monotonic() - 1, sum(self.busy), tasks, 99 * len(tasks))

    def close(self) -> None:
        pass


@pytest.fixture
def llama() -> Llama:
    return Llama()


def watch(llama: Llama, wait_s: float = 0.2, stopped: Callable[[], bool] = lambda: False) -> Neighbors:
    found = Neighbors(llama, wait_s=wait_s, stopped=stopped)  # type: ignore[arg-type]  # a stand-in
    found.begin()
    return found


def ask(
    watched: Neighbors,
    llama: Llama,
    *,
    tokens: int | None = TOKENS,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    slot: int = 0,
) -> list[str]:
    """One request of ours; somebody may come in right before it (the server then makes us wait) or right behind it."""
    assert watched.idle(float("inf"))
    before()
    llama.serve(slot, TOKENS if tokens is None else tokens)
    after()
    return watched.settle(tokens, answered=True)


def test_alone_nothing_is_flagged_whatever_the_replies_are_long(llama: Llama) -> None:
    watched = watch(llama)
    assert [ask(watched, llama, tokens=tokens) for tokens in (3, 3, 20, 1, 7, 7)] == [[]] * 6
    assert watched.facts() == {"watched": True, "overlapped": 0, "why": None}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("length", [1, 3, 200])
def test_a_request_that_came_and_went_is_known_by_the_numbers(llama: Llama, when: str, length: int) -> None:
    watched = watch(llama)
    for _ in range(3):
        assert ask(watched, llama) == []
    flags = ask(watched, llama, **{when: lambda: llama.serve(tokens=length)})  # type: ignore[arg-type]
    assert flags == [FOREIGN]
    # The next ones are clean again.
    assert [ask(watched, llama) for _ in range(3)] == [[], [], []]


def test_of_the_first_two_the_dearer_one_was_not_alone(llama: Llama) -> None:
    watched = watch(llama)
    ask(watched, llama)
    # The very first sum is too high to be trusted, and the second shows it.
    ask(watched, llama, before=lambda: llama.serve(tokens=50))
    assert [ask(watched, llama) for _ in range(3)] == [[], [], []]
    assert ask(watched, llama, before=llama.serve) == [FOREIGN]


def test_another_program_that_looks_at_the_slots_is_no_request(llama: Llama) -> None:
    watched = watch(llama)
    for _ in range(3):
        ask(watched, llama)
    assert ask(watched, llama, before=lambda: [None, llama.slots()][0]) == []


def test_a_request_between_two_of_ours_overlapped_none(llama: Llama) -> None:
    watched = watch(llama)
    for _ in range(3):
        ask(watched, llama)
    llama.serve(tokens=40)
    assert ask(watched, llama) == []
    assert ask(watched, llama) == []


def test_two_slots_that_both_ran_something_new() -> None:
    llama = Llama(slots=2)
    watched = watch(llama)
    llama.numbered = True
    ask(watched, llama)
    assert ask(watched, llama, slot=0, after=lambda: llama.serve(1)) == [FOREIGN]


def test_at_work_right_after_our_reply(llama: Llama) -> None:
    watched = watch(llama)

    def comes() -> None:
        llama.busy[0] = True

    assert ask(watched, llama, after=comes) == [FOREIGN]
    watched.count([FOREIGN])
    assert watched.facts()["overlapped"] == 1


def test_numbers_that_went_back_are_a_restart(llama: Llama) -> None:
    watched = watch(llama)
    for _ in range(4):
        ask(watched, llama)
    llama.restart()
    assert ask(watched, llama) == [RESTARTED] or llama.last == [1]
    assert ask(watched, llama) == []


def test_a_server_without_numbers_is_watched_by_its_slots_alone(llama: Llama) -> None:
    llama.numbered = False
    watched = watch(llama)
    assert [ask(watched, llama, before=llama.serve) for _ in range(4)] == [[]] * 4
    assert watched.facts()["watched"] is True


def test_idle_slots_are_waited_for(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(llama, wait_s=60.0)
    llama.busy[0] = True
    before, look = llama.looks, llama.look

    def third_is_the_last_busy_one(limit_s: float) -> Look:
        found = look(limit_s)
        llama.busy[0] = llama.looks - before < 3
        return found

    monkeypatch.setattr(llama, "look", third_is_the_last_busy_one)
    assert watched.idle(float("inf"))
    assert llama.looks - before == 4
    assert watched.seen.waited_s > 0


def test_the_wait_is_bounded_in_all(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(llama, wait_s=0.1)
    llama.busy[0] = True
    assert not watched.idle(float("inf"))
    # What is used up is used up, until the next segment.
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda _s: pytest.fail("it waits again"))
        assert not watched.idle(float("inf"))
    watched.begin()
    assert watched.seen.waited_s == 0


def test_the_segments_limit_and_a_signal_end_the_wait(llama: Llama) -> None:
    llama.busy[0] = True
    began_s = time.monotonic()
    assert not watch(llama, wait_s=30).idle(time.monotonic() + 0.05)
    assert not watch(llama, wait_s=30, stopped=lambda: True).idle(float("inf"))
    assert time.monotonic() - began_s < 20


def test_a_request_of_our_own_that_never_ended_does_not_stop_us(llama: Llama) -> None:
    watched = watch(llama, wait_s=0.05)
    ask(watched, llama)
    llama.busy[0] = True
    assert watched.settle(None, answered=False) == []
    # The next request names what is wrong; a "busy" server would hide it.
    assert watched.idle(float("inf"))


def test_where_nobody_tells_we_do_not_ask_twice(llama: Llama) -> None:
    llama.status = 501
    watched = watch(llama)
    for _ in range(3):
        assert ask(watched, llama) == []
    assert watched.facts() == {"watched": False, "overlapped": None, "why": "GET /slots answers 501"}
    assert llama.looks == 0


def test_looks_that_fail_now_and_then_are_forgiven_but_not_for_ever(llama: Llama) -> None:
    watched = watch(llama)
    ask(watched, llama)
    llama.status = 503
    assert ask(watched, llama) == []
    assert watched.facts()["watched"] is True
    assert ask(watched, llama) == []
    assert watched.facts()["why"] == "GET /slots answers 503"


def test_nothing_sent_is_nothing_watched(llama: Llama) -> None:
    assert watch(llama).facts() == {"watched": False, "overlapped": None, "why": "no request was sent"}


def test_a_fresh_look_is_enough(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_FRESH_S", 60.0)
    watched = watch(llama)
    for _ in range(5):
        ask(watched, llama)
    # One before the first request, one after each.
    assert llama.looks == 6


def test_the_cache_that_gives_way_is_named(llama: Llama) -> None:
    llama.serve(tokens=30)
    watched = watch(llama)
    ask(watched, llama)
    assert (watched.cache_replaced, watched.cache_tokens) == (True, 99)
    fresh = watch(Llama())
    fresh.idle(float("inf"))
    assert (fresh.cache_replaced, fresh.cache_tokens) == (False, 0)


# --- over HTTP -------------------------------------------------------------------------------------------------------


class Web:
    """The stand-in behind a socket, chat included."""

    def __init__(self, llama: Llama) -> None:
        self.delays_s: list[float] = []
        self.chats = 0
        self.before: Callable[[int], None] = lambda _number: None
        self.authorization: list[str | None] = []
        self.model = "tiny-7b"
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                web.authorization.append(self.headers.get("Authorization"))
                self.reply(llama.status, llama.slots())

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                web.chats += 1
                web.before(web.chats)
                llama.serve()
                time.sleep(web.delays_s.pop(0) if web.delays_s else 0)
                timings = {"prompt_n": 9, "prompt_ms": 0.5, "predicted_ms": 0.5, "cache_n": 0}
                usage = {"completion_tokens": TOKENS}
                choice: dict[str, Any] = {"finish_reason": "stop", "index": 0}
                facts = {"model": web.model, "usage": usage, "timings": timings}
                if not asked["stream"]:
                    choice["message"] = {"role": "assistant", "content": "left large"}
                    self.reply(200, json.dumps({**facts, "choices": [choice]}).encode())
                    return
                first = {"choices": [{"index": 0, "finish_reason": None, "delta": {"content": "left large"}}]}
                last = {**facts, "choices": [{**choice, "delta": {}}]}
                events = "".join(f"data: {json.dumps(event)}\n\n" for event in (first, last)) + "data: [DONE]\n\n"
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(f"{len(events):x}\r\n{events}\r\n".encode())
                self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
                self.wfile.flush()
                self.close_connection = True

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web(llama: Llama) -> Iterator[Web]:
    found = Web(llama)
    yield found
    found.close()


def test_a_look_over_http(web: Web, llama: Llama) -> None:
    llama.serve()
    llama.busy[0] = True
    slots = Slots(web.url + "/v1/", api_key="k-1")
    look = slots.look(2.0)
    slots.close()
    assert (look.busy, look.tasks, look.newest, look.tokens) == (1, {0: 0}, 0, 99)
    assert web.authorization == ["Bearer k-1"]


@pytest.mark.parametrize(
    ("status", "body", "why", "off"),
    [
        (501, b"{}", "GET /slots answers 501", True),
        (404, b"", "GET /slots answers 404", True),
        (503, b"", "GET /slots answers 503", False),
        (200, b"oops", "not a list of slots", True),
        (200, b'{"a": 1}', "not a list of slots", True),
        (200, b"[[]]", "not a list of slots", True),
        (200, b"[" * 100_000, "not a list of slots", True),
        (200, b" " * (2 << 20), "longer than 1 MiB", True),
    ],
)
def test_servers_that_do_not_tell(web: Web, llama: Llama, status: int, body: bytes, why: str, off: bool) -> None:
    llama.status, llama.body = status, body
    slots = Slots(web.url)
    with pytest.raises(SlotsError, match=why) as caught:
        slots.look(2.0)
    slots.close()
    assert caught.value.off is off


def test_odd_values_in_a_look_are_no_numbers(web: Web, llama: Llama) -> None:
    llama.body = json.dumps([{"is_processing": False, "id_task": -1, "n_prompt_tokens": "many"}]).encode()
    slots = Slots(web.url)
    assert slots.look(2.0).tasks == {}
    slots.close()


def test_nobody_there_and_nobody_who_answers(dead_url: str, server: Any) -> None:
    slots = Slots(dead_url)
    with pytest.raises(SlotsError, match="GET /slots") as caught:
        slots.look(1.0)
    assert not caught.value.off
    slots.close()


def test_a_look_has_a_limit(web: Web, llama: Llama) -> None:
    held = threading.Event()
    kept = llama.slots

    def slow() -> bytes:
        held.wait(60)
        return kept()

    llama.slots = slow  # type: ignore[method-assign]  # a stand-in
    slots = Slots(web.url)
    began_s = time.monotonic()
    with pytest.raises(SlotsError, match=r"no answer within 0\.2 s"):
        slots.look(0.2)
    assert time.monotonic() - began_s < 30
    held.set()
    slots.close()


# --- a whole session -------------------------------------------------------------------------------------------------


def measured(
    tmp_path: Path, url: str, image: Path, segment: dict[str, Any], **more: Any
) -> tuple[int, list[Any], dict[str, Any]]:
    """(exit code, samples, summary)."""
    (tmp_path / "prompt.txt").write_text("Where to?", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    segment = {"id": "nav", "workload": "nav", "n": 6, "warmup": 3, **segment}
    document = {"url": url, "out_dir": str(out), "image": str(image), "prompt_file": "prompt.txt", "timeout_s": 5}
    file = tmp_path / "session.json"
    file.write_text(json.dumps({**document, "idle_wait_s": 1, "segments": [segment], **more}), encoding="utf-8")
    code = run_session(file, PlainProgress())
    samples = [json.loads(line) for line in (out / "nav.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((out / "summary-nav.json").read_text(encoding="utf-8"))
    for sample in samples:
        accept(sample, "sample")
        assert schemas.validate(sample, "sample") == []
    accept(summary, "summary")
    assert schemas.validate(summary, "summary") == []
    return code, samples, summary


def test_a_session_alone(tmp_path: Path, web: Web, image: Path) -> None:
    code, samples, summary = measured(tmp_path, web.url, image, {})
    assert code == 0
    assert all(sample["flags"] == [] and sample["model"] == "tiny-7b" for sample in samples)
    nav = summary["segments"]["nav"]
    assert nav["neighbours"] == {"watched": True, "overlapped": 0, "why": None}
    assert nav["request"]["models"] == ["tiny-7b"]
    assert summary["notes"] == []


def test_a_session_beside_a_caller(tmp_path: Path, web: Web, llama: Llama, image: Path) -> None:
    llama.serve(tokens=12)

    def caller(number: int) -> None:
        if number == 6:
            llama.serve(tokens=9)

    web.before = caller
    code, samples, summary = measured(tmp_path, web.url, image, {})
    # A flag is no failure: the sample is kept, and told apart.
    assert code == 0
    assert [sample["seq"] for sample in samples if "foreign" in sample["flags"]] == [3]
    assert summary["segments"]["nav"]["neighbours"]["overlapped"] == 1
    assert "nav: other clients' requests overlapped 1 of 6 samples" in summary["notes"]
    assert "the prompt cache of the server's slots (99 tokens) was replaced" in summary["notes"][0]


def test_a_server_that_is_never_idle_is_left_alone(tmp_path: Path, web: Web, llama: Llama, image: Path) -> None:
    llama.busy[0] = True
    code, samples, summary = measured(tmp_path, web.url, image, {}, idle_wait_s=0.1)
    assert (code, samples, web.chats) == (3, [], 0)
    assert summary["stopped"] == summary["segments"]["nav"]["stopped"] == "busy"


def test_its_own_limit_is_not_called_busy(tmp_path: Path, web: Web, llama: Llama, image: Path) -> None:
    llama.busy[0] = True
    code, _, summary = measured(tmp_path, web.url, image, {"time_limit_s": 0.1}, idle_wait_s=5)
    assert code == 3
    assert summary["segments"]["nav"]["stopped"] == "time_limit"


def test_a_server_that_does_not_tell_is_measured_and_it_is_said(
    tmp_path: Path, web: Web, llama: Llama, image: Path
) -> None:
    llama.status = 501
    code, samples, summary = measured(tmp_path, web.url, image, {})
    assert (code, len(samples)) == (0, 6)
    why = "GET /slots answers 501"
    assert summary["segments"]["nav"]["neighbours"] == {"watched": False, "overlapped": None, "why": why}
    assert summary["notes"] == [f"requests of other clients could not be detected: {why}"]


def test_a_restart_in_mid_run_is_flagged_and_no_clean_end(tmp_path: Path, web: Web, llama: Llama, image: Path) -> None:
    def falls_over(number: int) -> None:
        if number == 7:
            llama.restart()

    web.before = falls_over
    code, samples, summary = measured(tmp_path, web.url, image, {})
    assert code == 3
    assert [sample["seq"] for sample in samples if "restarted" in sample["flags"]] == [4]
    assert "nav: the server was restarted 1 time while it was measured" in summary["notes"]


def test_another_model_in_mid_run_is_named(tmp_path: Path, web: Web, image: Path) -> None:
    def changes(number: int) -> None:
        if number == 7:
            web.model = "other\x1b[31m"

    web.before = changes
    _, samples, summary = measured(tmp_path, web.url, image, {})
    assert summary["segments"]["nav"]["request"]["models"] == ["tiny-7b", "other\x1b[31m"]
    # Names are a stranger's text.
    assert "\x1b" not in "".join(summary["notes"])
    assert any("different models" in note for note in summary["notes"])
    assert samples[-1]["model"] == "other\x1b[31m"


def test_a_server_that_slows_down_is_no_clean_end(tmp_path: Path, web: Web, image: Path) -> None:
    web.delays_s = [0.01] * 11 + [0.06] * 20
    code, samples, summary = measured(tmp_path, web.url, image, {"n": 16})
    assert code == 3
    assert all(sample["ok"] for sample in samples)
    assert any("the server slowed down" in note for note in summary["notes"])


def test_the_whole_session_has_a_limit(tmp_path: Path, web: Web, image: Path) -> None:
    # Each reply comes in time, and all of them together never would.
    web.delays_s = [0.1] * 100
    code, samples, summary = measured(tmp_path, web.url, image, {"n": 100}, time_limit_s=0.75)
    assert code == 3
    assert 0 < len(samples) < 10
    assert (summary["stopped"], summary["segments"]["nav"]["stopped"]) == ("time_limit", "time_limit")


# --- calibration -----------------------------------------------------------------------------------------------------


def calibrated(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    accept(found, "calibration")
    assert schemas.validate(found, "calibration") == []
    return found


def test_calibration_both_ways(tmp_path: Path, web: Web, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = measured(tmp_path, web.url, image, {}, calibrate={"n": 12, "rate_hz": 400})
    assert code == 0
    found = calibrated(tmp_path)
    assert found["stopped"] is None
    for name, mode in found["modes"].items():
        assert (mode["n"], mode["failed"], mode["foreign"], mode["why"]) == (12, 0, 0, None)
        assert mode["ratio_low"] <= mode["ratio"] <= mode["ratio_high"]
        assert mode["server_p50_ms"] == 1.0
        assert (mode["ttft_ratio"] is None) == (name == "plain")
    # Nine samples, and in each mode thirteen pairs, one of them to warm up.
    assert web.chats == 9 + 2 * 2 * 13
    assert "calibration, our client against a raw socket" in capsys.readouterr().err


def test_calibration_gives_up_on_a_server_that_fails(tmp_path: Path, web: Web, llama: Llama, image: Path) -> None:
    def breaks(number: int) -> None:
        if number > 9:
            raise ConnectionError

    web.before = breaks
    web.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the thread's traceback is no news
    code, samples, _ = measured(tmp_path, web.url, image, {}, calibrate={"n": 12})
    # What was measured before is not worse for it.
    assert (code, len(samples)) == (0, 6)
    found = calibrated(tmp_path)
    assert (found["stopped"], found["modes"]["plain"]["n"], found["modes"]["plain"]["failed"]) == ("server", 0, 3)
    assert found["modes"]["plain"]["ratio"] is None
    assert "dropped" in found["modes"]["plain"]["why"] or "raw socket" in found["modes"]["plain"]["why"]


def test_calibration_steps_back_and_keeps_its_limit(tmp_path: Path, web: Web, llama: Llama, image: Path) -> None:
    def comes(number: int) -> None:
        llama.busy[0] = number >= 12

    web.before = comes
    measured(tmp_path, web.url, image, {}, calibrate={"n": 12}, idle_wait_s=0.1)
    assert calibrated(tmp_path)["stopped"] == "busy"


def test_calibration_in_too_little_time(tmp_path: Path, web: Web, image: Path) -> None:
    measured(tmp_path, web.url, image, {}, calibrate={"n": 1000, "rate_hz": 40, "time_limit_s": 0.2})
    found = calibrated(tmp_path)
    assert found["stopped"] == "time_limit"
    assert found["modes"]["stream"]["n"] == 0


def test_no_calibration_of_a_server_that_is_broken(tmp_path: Path, dead_url: str, image: Path) -> None:
    code, _, _ = measured(tmp_path, dead_url, image, {}, calibrate={"n": 5})
    assert code == 4
    assert not (tmp_path / "out" / "calibration.json").exists()
