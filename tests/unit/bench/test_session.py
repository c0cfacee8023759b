"""Segments and sessions against the scripted server: what is written, when it stops, and with which exit code."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import accept
from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.measure.progress import PlainProgress
from trialbench.measure.session import run_session


class Session:
    """A session file in a folder, and the outcome of its run."""

    def __init__(self, folder: Path, url: str, image: Path) -> None:
        self.out, self.control = folder / "out", folder / "control"
        self.out.mkdir()
        self.control.mkdir()
        (folder / "prompt.txt").write_text("Where to?", encoding="utf-8")
        self.file = folder / "session.json"
        self.document: dict[str, Any] = {
            "url": url,
            "model_label": "tiny",
            "out_dir": str(self.out),
            "control_dir": str(self.control),
            "start_file": None,
            "wait_s": 10,
            "image": image.name,
            "prompt_file": "prompt.txt",
            "timeout_s": 5,
            "segments": [],
        }

    def run(self, *segments: dict[str, Any], **changes: Any) -> int:
        self.write(*segments, **changes)
        return run_session(self.file, PlainProgress(sys.stdout))

    def write(self, *segments: dict[str, Any], **changes: Any) -> None:
        self.document |= {"segments": list(segments), **changes}
        self.file.write_text(json.dumps(self.document), encoding="utf-8")

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in (self.out / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line
        ]

    def summary(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / f"summary-{name}.json").read_text(encoding="utf-8"))
        accept(found, "summary")
        assert schemas.validate(found, "summary") == []
        return found

    def sign_when(self, path: str, name: str, answer: Any) -> threading.Thread:
        """Answer once `out/path` is there, as the host does."""

        def act() -> None:
            until = time.monotonic() + 30
            while not (self.out / path).exists() and time.monotonic() < until:
                time.sleep(0.005)
            (self.control / name).write_text(json.dumps(answer), encoding="utf-8")

        thread = threading.Thread(target=act)
        thread.start()
        return thread


@pytest.fixture
def session(tmp_path: Path, server: Any, image: Path) -> Session:
    return Session(tmp_path, server.url, image)


NAV = {"id": "nav-candidate", "workload": "nav", "n": 4}


def test_segments_run_in_order_and_leave_their_files(session: Session, server: Any) -> None:
    code = session.run(
        {"id": "smoke", "workload": "nav", "n": 1, "smoke": True},
        {**NAV, "warmup": 2},
        {"id": "nav-cached", "workload": "nav", "n": 2, "cache_prompt": True},
        {"id": "describe", "workload": "describe", "n": 2},
    )
    assert code == 0
    assert [len(session.lines(name)) for name in ("smoke", "nav-candidate", "nav-cached", "describe")] == [1, 4, 2, 2]
    assert len(session.lines("nav-candidate-warmup")) == 2
    assert [body["cache_prompt"] for body in server.bodies] == [False] * 7 + [True] * 2 + [False] * 2
    assert [body["max_tokens"] for body in server.bodies] == [20] * 9 + [200] * 2
    # The prompt file is the text of the variable prompt; describe asks its own question.
    assert {body["messages"][0]["content"][1]["text"] for body in server.bodies} == {
        "Where to?",
        "Describe what you see.",
    }
    lines = session.lines("nav-candidate")
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert all(a["t_start_s"] < b["t_start_s"] for a, b in itertools.pairwise(lines))
    summary = session.summary("smoke")
    assert (summary["stopped"], summary["exit_code"], summary["model_label"]) == (None, 0, "tiny")
    assert list(summary["segments"]) == ["smoke", "nav-candidate", "nav-cached", "describe"]
    nav = summary["segments"]["nav-candidate"]
    assert (nav["sent"], nav["ok"], nav["warmup"]["sent"], nav["adherence"]["k"]) == (4, 4, 2, 4)
    assert summary["segments"]["describe"]["adherence"] is None
    # Asked for, not used: told, and no reason to distrust the rest.
    assert summary["segments"]["nav-cached"]["cache"]["as_asked"] is False


def test_nothing_is_sent_before_the_start_file(session: Session, server: Any) -> None:
    session.write(NAV, start_file="start-candidate")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_in_thread(session)))
    thread.start()
    wait_for((session.out / "ready-start-candidate").exists)
    time.sleep(0.06)
    assert server.bodies == []
    (session.control / "start-candidate").write_text("{}", encoding="utf-8")
    thread.join(30)
    assert codes == [0]
    assert len(server.bodies) == 4


def run_in_thread(session: Session) -> int:
    """Signal handlers belong to the main thread: run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "trialbench", "session", str(session.file)], capture_output=True, check=False
    ).returncode


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "the server never got that far"
        time.sleep(0.005)


def test_start_that_never_comes(session: Session, server: Any) -> None:
    assert session.run(NAV, start_file="start", wait_s=0.1) == 3
    assert session.summary("nav-candidate")["stopped"] == "gate"
    assert server.bodies == []


@pytest.mark.parametrize(("answer", "sent"), [({"extend": True, "reason": "healthy"}, 9), ({"extend": False}, 4)])
def test_gate_decides_on_the_extension(session: Session, answer: dict[str, Any], sent: int) -> None:
    thread = session.sign_when("at-extend", "extend", answer)
    assert session.run({**NAV, "gate_file": "extend", "extend_to": 9}, {"id": "after", "workload": "nav", "n": 1}) == 0
    thread.join()
    question = json.loads((session.out / "at-extend").read_text(encoding="utf-8"))
    assert question == {"segment": "nav-candidate", "sent": 4, "ok": 4, "failed": 0, "thinking": 0}
    summary = session.summary("nav-candidate")
    assert (summary["segments"]["nav-candidate"]["sent"], summary["stopped"]) == (sent, None)
    assert summary["segments"]["nav-candidate"]["requested"] == sent
    assert len(session.lines("after")) == 1


def test_gate_without_extension_only_waits(session: Session) -> None:
    thread = session.sign_when("at-measure", "measure", {"extend": True})
    smoke = {"id": "smoke", "workload": "nav", "n": 1, "smoke": True, "gate_file": "measure"}
    assert session.run(smoke, NAV) == 0
    thread.join()
    assert len(session.lines("smoke")) == 1
    assert len(session.lines("nav-candidate")) == 4


def test_gate_answer_that_is_still_being_written(session: Session) -> None:
    (session.control / "extend").write_text('{"ext', encoding="utf-8")
    thread = session.sign_when("at-extend", "extend", {"extend": True})
    assert session.run({**NAV, "gate_file": "extend", "extend_to": 5}) == 0
    thread.join()
    assert len(session.lines("nav-candidate")) == 5


def test_hold_point_that_nobody_answers(session: Session) -> None:
    assert session.run({**NAV, "gate_file": "extend", "extend_to": 9}, {**NAV, "id": "after"}, wait_s=0.1) == 3
    summary = session.summary("nav-candidate")
    assert (summary["stopped"], list(summary["segments"])) == ("gate", ["nav-candidate"])


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("loose", ("Well:\nleft large", "stop", {})),
        ("none", ("turn around", "stop", {})),
        ("empty", ("", "stop", {})),
        ("thinking", ("left large", "stop", {"reasoning_content": "Hm."})),
        ("finish", ("left large", "content_filter", {})),
    ],
)
def test_smoke_that_fails_ends_the_session(session: Session, server: Any, acts: Any, name: str, reply: Any) -> None:
    server.script = [acts.chat(reply[0], reply[1], **reply[2])]
    assert session.run({"id": "smoke", "workload": "nav", "n": 1, "smoke": True, "gate_file": "m"}, NAV) == 3
    summary = session.summary("smoke")
    assert (summary["stopped"], summary["exit_code"], list(summary["segments"])) == ("smoke", 3, ["smoke"])
    assert len(server.bodies) == 1
    assert not (session.out / "at-m").exists()


def test_tolerant_smoke_passes(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat("Left, Large.")]
    assert session.run({"id": "smoke", "workload": "nav", "n": 1, "smoke": True}) == 0


def test_smoke_of_free_text_asks_for_validity_alone(session: Session) -> None:
    assert session.run({"id": "smoke", "workload": "describe", "n": 1, "smoke": True}) == 0


def test_thinking_in_the_first_samples_prevents_the_extension(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat(), acts.chat(reasoning_content="Hm."), acts.chat()]
    thread = session.sign_when("at-extend", "extend", {"extend": True})
    segment = {**NAV, "gate_file": "extend", "extend_to": 9, "stop_on_thinking": True}
    assert session.run(segment, {**NAV, "id": "after"}) == 3
    thread.join()
    assert json.loads((session.out / "at-extend").read_text(encoding="utf-8"))["thinking"] == 1
    summary = session.summary("nav-candidate")
    assert summary["stopped"] == "thinking"
    assert summary["segments"]["nav-candidate"]["sent"] == 4
    assert summary["segments"]["nav-candidate"]["thinking"] == 1
    assert "after" not in summary["segments"]


def test_thinking_in_the_extension_ends_it_at_once(session: Session, server: Any, acts: Any) -> None:
    server.script = [*[acts.chat()] * 5, acts.chat(reasoning_content="Hm."), acts.chat()]
    thread = session.sign_when("at-extend", "extend", {"extend": True})
    assert session.run({**NAV, "gate_file": "extend", "extend_to": 9, "stop_on_thinking": True}) == 3
    thread.join()
    summary = session.summary("nav-candidate")
    assert (summary["stopped"], summary["segments"]["nav-candidate"]["sent"]) == ("thinking", 6)


def test_some_failures_are_counted_and_go_on(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat(), acts.http(b"no", status=500), acts.http(b"{"), acts.chat("turn around"), acts.chat()]
    assert session.run({**NAV, "n": 6}) == 3
    nav = session.summary("nav-candidate")["segments"]["nav-candidate"]
    assert (nav["sent"], nav["ok"], nav["failed"], nav["errors"]) == (6, 4, 2, {"http_500": 1, "bad_json": 1})
    # Latency counts what was good; adherence counts everything that was sent.
    assert nav["latency_ms"]["p50"]["n"] == 4
    assert (nav["adherence"]["k"], nav["adherence"]["n"]) == (3, 6)
    assert nav["adherence"]["strategies"] == {"1": 3, "2": 0, "3": 0, "none": 3, "cut": 0}


def test_a_model_that_breaks_the_contract_is_no_failure_of_the_run(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat("turn around")]
    assert session.run(NAV) == 0
    assert session.summary("nav-candidate")["segments"]["nav-candidate"]["adherence"]["k"] == 0


def test_nobody_there_is_exit_4_after_five_attempts(session: Session, dead_url: str) -> None:
    assert session.run({**NAV, "n": 50}, {**NAV, "id": "after"}, url=dead_url) == 4
    summary = session.summary("nav-candidate")
    assert summary["stopped"] == "server"
    assert summary["segments"]["nav-candidate"]["errors"] == {"connect": 5}
    assert "after" not in summary["segments"]


def test_nobody_there_with_a_single_sample_is_exit_4_too(session: Session, dead_url: str, capsys: Any) -> None:
    assert session.run({"id": "smoke", "workload": "nav", "n": 1, "smoke": True}, url=dead_url) == 4
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith("the server is broken or unreachable: all requests")
    assert last[1].startswith("first error: smoke 1: connect: ")
    assert session.summary("smoke")["stopped"] == "server"


def test_server_that_dies_while_measuring(session: Session, server: Any, acts: Any, capsys: Any) -> None:
    server.script = [*[acts.chat()] * 3, acts.hangs_up]
    assert session.run({**NAV, "n": 50}) == 4
    told = capsys.readouterr().out
    assert "the server is broken or unreachable: 5 requests in a row" in told
    assert told.count("first error: nav-candidate 4: dropped: ") == 2
    nav = session.summary("nav-candidate")["segments"]["nav-candidate"]
    assert (nav["ok"], nav["stopped"], nav["errors"]) == (3, "server", {"dropped": 5})
    assert len(session.lines("nav-candidate")) == 8


def test_single_timeouts_do_not_end_it(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat(), acts.stalls, acts.chat()]
    assert session.run(NAV, timeout_s=0.2) == 3
    nav = session.summary("nav-candidate")["segments"]["nav-candidate"]
    assert (nav["sent"], nav["ok"], nav["timed_out"]) == (4, 3, 1)


def test_time_limit_ends_the_segment_and_not_the_session(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat(), acts.chat(), acts.stalls, acts.chat()]
    code = session.run({**NAV, "n": 50, "time_limit_s": 0.4}, {"id": "after", "workload": "nav", "n": 1})
    assert code == 0
    summary = session.summary("nav-candidate")
    nav = summary["segments"]["nav-candidate"]
    assert (nav["ok"], nav["failed"], nav["cut_off"], nav["stopped"]) == (2, 0, 1, "time_limit")
    assert nav["adherence"]["n"] == 2
    assert nav["adherence"]["strategies"]["none"] == 0
    assert (summary["stopped"], summary["segments"]["after"]["ok"]) == (None, 1)


def test_time_limit_without_any_reply_is_not_a_success(session: Session, server: Any, acts: Any) -> None:
    server.script = [acts.chat(), acts.stalls]
    first = {"id": "first", "workload": "nav", "n": 1}
    assert session.run(first, {**NAV, "time_limit_s": 0.2}) == 3
    assert session.summary("first")["stopped"] is None


def test_a_session_that_is_told_to_halt_sends_nothing_more(session: Session, server: Any, acts: Any) -> None:
    """Another party listens there: it gets no further prompt, whichever segment would come next."""

    def halts(_server: Any, connection: Any) -> bool:
        (session.control / "halt").write_text("{}", encoding="utf-8")
        connection.sendall(acts.chat())
        return True

    server.script = [acts.chat(), halts, acts.chat()]
    assert session.run({**NAV, "n": 50}, {**NAV, "id": "after"}) == 3
    summary = session.summary("nav-candidate")
    nav = summary["segments"]["nav-candidate"]
    assert (summary["stopped"], nav["stopped"], nav["sent"]) == ("halt", "halt", 2)
    assert nav["partial"] == ["cut short at 2 of 50 samples: another process may be answering"]
    assert "after" not in summary["segments"]


def test_rate_is_kept(session: Session) -> None:
    assert session.run({**NAV, "n": 3, "rate_hz": 5}) == 0
    starts = [line["t_start_s"] for line in session.lines("nav-candidate")]
    # Half of it: the clock at the socket starts some time after the pause, on a busy machine some more.
    assert all(b - a >= 0.1 for a, b in itertools.pairwise(starts))


def test_sigterm_finishes_the_request_and_writes_the_summary(session: Session, server: Any, acts: Any) -> None:
    busy, go = threading.Event(), threading.Event()

    def slow(_server: Any, connection: Any) -> bool:
        busy.set()
        go.wait(60)
        connection.sendall(acts.chat())
        return True

    server.script = [acts.chat(), slow, acts.chat()]
    session.write({**NAV, "n": 1000}, {**NAV, "id": "after"})
    process = subprocess.Popen(
        [sys.executable, "-m", "trialbench", "session", str(session.file)], stdout=subprocess.PIPE
    )
    assert busy.wait(60)
    process.send_signal(signal.SIGTERM)
    go.set()
    process.communicate(timeout=30)
    assert process.returncode == 3
    summary = session.summary("nav-candidate")
    nav = summary["segments"]["nav-candidate"]
    assert (summary["stopped"], nav["ok"], nav["cut_off"], nav["requested"]) == ("signal", 2, 0, 1000)
    assert "after" not in summary["segments"]


def test_signal_cuts_off_a_request_that_does_not_end(
    session: Session, server: Any, acts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialbench.measure.segments.TERM_GRACE_S", 0.1)

    def stall_and_signal(scripted: Any, connection: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return bool(acts.stalls(scripted, connection))

    server.script = [acts.chat(), stall_and_signal]
    before = signal.getsignal(signal.SIGTERM)
    assert session.run(NAV) == 3
    assert signal.getsignal(signal.SIGTERM) is before
    nav = session.summary("nav-candidate")["segments"]["nav-candidate"]
    assert (nav["ok"], nav["cut_off"], nav["stopped"]) == (1, 1, "signal")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_before_its_first_reply_blames_no_server(
    session: Session, server: Any, acts: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("trialbench.measure.segments.TERM_GRACE_S", 0.1)

    def stall_and_signal(scripted: Any, connection: Any) -> bool:
        os.kill(os.getpid(), number)
        return bool(acts.stalls(scripted, connection))

    server.script = [stall_and_signal]
    assert session.run({**NAV, "warmup": 0}) == 3
    assert session.summary("nav-candidate")["stopped"] == "signal"


def test_signal_while_waiting_for_the_start(session: Session) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        # A signal that comes before the session listens would end the tests instead.
        while signal.getsignal(signal.SIGINT) == before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt, daemon=True)
    sender.start()
    assert session.run(NAV, start_file="never") == 3
    sender.join()
    assert session.summary("nav-candidate")["stopped"] == "signal"


def test_refused_field_is_hinted_at_once(session: Session, server: Any, acts: Any, capsys: Any) -> None:
    server.script = [acts.http(b"unknown field cache_prompt", status=400)]
    assert session.run(NAV) == 3
    told = capsys.readouterr().out
    assert told.count("\n(the server refuses a field of the request; leave it out with --omit cache_prompt)\n") == 1
    assert "first error: nav-candidate 1: http_400: unknown field cache_prompt" in told
    server.script = [acts.http(b"--omit is a word of the server's own", status=500)]
    assert session.run(NAV) == 3
    assert "refuses a field" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segments": []}, "segments: expected at least 1 entries"),
        ({"segment": 1}, "one of the keys"),
        ({"segments": [{"id": "a b", "workload": "nav", "n": 1}]}, r"segments\[0\]\.id"),
        ({"segments": [{**NAV, "gate_file": "x", "extend_to": 3}]}, "extend_to of at least n"),
        ({"segments": [NAV, NAV]}, "found twice: nav-candidate"),
        ({"control_dir": None, "start_file": "x", "segments": [NAV]}, "expected control_dir"),
        ({"out_dir": "/nonexistent/out", "segments": [NAV]}, "out_dir is not a folder"),
        ({"segments": [{**NAV, "workload": "none.yml"}]}, "cannot be read"),
    ],
)
def test_wrong_sessions_are_refused_before_anything_is_sent(
    session: Session, server: Any, changes: dict[str, Any], words: str
) -> None:
    session.document |= changes
    session.file.write_text(json.dumps(session.document), encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        run_session(session.file, PlainProgress(sys.stdout))
    assert server.bodies == []


def test_first_error_may_be_a_warm_up_and_the_end_says_why(
    session: Session, server: Any, acts: Any, capsys: Any
) -> None:
    server.script = [acts.chat(""), acts.chat()]
    assert session.run({**NAV, "warmup": 1}) == 0
    assert capsys.readouterr().out.count("first error: nav-candidate warm-up 1: empty\n") == 2
    server.script = [acts.chat("turn around")]
    assert session.run({"id": "smoke", "workload": "nav", "n": 1, "smoke": True}) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "ended early: smoke"


def test_productions_own_parser_takes_the_place_of_the_words(session: Session, tmp_path: Path) -> None:
    source = "def read(text):\n    return {'word': text.split()[0], 'strategy': 3}\n"
    (session.file.parent / "parser.py").write_text(source, encoding="utf-8")
    parser = {"source": "parser.py", "function": "read"}
    session.run(NAV, {"id": "describe", "workload": "describe", "n": 1}, parser=parser)
    assert {line["strategy"] for line in session.lines("nav-candidate")} == {3}
    assert session.lines("describe")[0]["strategy"] is None


@pytest.mark.parametrize(
    ("source", "message"),
    [("x = 1\n", "expected a function 'read'"), ("import nothing_like_it\n", "failed: ModuleNotFoundError")],
)
def test_a_parser_that_can_not_be_had_stops_before_the_first_request(
    session: Session, server: Any, source: str, message: str
) -> None:
    (session.file.parent / "parser.py").write_text(source, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        session.run(NAV, parser={"source": "parser.py", "function": "read"})
    with pytest.raises(UsageError, match="cannot be read"):
        session.run(NAV, parser={"source": "absent.py", "function": "read"})
