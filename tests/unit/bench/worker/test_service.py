"""Clients over socket pairs: streams, sessions, aborts, queue, back-pressure, disconnects, stop, fuzz."""

from __future__ import annotations

import json
import socket
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples
from trialbench import schemas
from trialbench.engines import failures
from trialbench.engines.contract import Request
from trialbench.worker.protocol import VERBS


def ends(messages: list[Any]) -> list[Any]:
    return [one for one in messages if one.get("type") in ("done", "error") or one.get("ok") is False]


def generate(key: Any, prompt: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"type": "generate", "id": key, "prompt": prompt, **fields}


def test_the_plain_dialect(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["Hel", "lo é"])))()
    caller.send(generate("a"))
    messages = caller.until("done")
    assert [one.get("text") for one in messages[:-1]] == ["Hel", "lo é"]
    assert messages[-1]["finish_reason"] == "stop"
    assert (messages[-1]["source"], messages[-1]["model"], messages[-1]["bits"]) == ("gemma_local", "gemma2-2b-it", 8)
    caller.send(generate("a", stream=False))
    assert caller.read()["text"] == "Hello é"


def test_the_session_dialect(bench: Any, serve: Any) -> None:
    engine = bench.Engine(["a", "b"])
    caller = serve(bench.dispatcher(engine))()
    status = caller.ask({"type": "status"})
    assert (status["ok"], status["status"], status["model_info"]["model"]) == (True, "running", "gemma2-2b-it")
    session = caller.ask({"type": "create_session", "params": {"temperature": 0.3, "max_tokens": 7}})
    assert session == {"ok": True, "session_id": "sess_1"}
    caller.send({"type": "generate", "session_id": "sess_1", "prompt": "x", "stream": True})
    assert [one["type"] for one in caller.until("done")] == ["token", "token", "stop", "done"]
    assert (engine.requests[0].temperature, engine.requests[0].max_tokens) == (0.3, 7)
    assert caller.ask({"type": "abort", "session_id": "sess_1"}) == {
        "type": "aborted",
        "ok": True,
        "session_id": "sess_1",
        "found": False,
    }
    assert caller.ask({"type": "close_session", "session_id": "sess_1"})["closed"] is True
    assert caller.ask({"type": "generate", "session_id": "sess_1", "prompt": "x"})["error"] == "unknown_session"
    assert caller.ask({"type": "generate", "prompt": "x"})["error"] == "missing_session_id"


def test_the_action_dialect(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["who", "le"])))()
    done = caller.ask({"action": "ask", "action_id": "u1", "input": "hi"})
    assert (done["action"], done["action_id"], done["result"], done["source"]) == ("done", "u1", "whole", "gemma_local")
    caller.send({"action": "ask", "action_id": "u2", "input": "hi", "metadata": {"stream": True}})
    messages = caller.until("done")
    assert [(one["action"], one["result"]) for one in messages] == [("ask", "who"), ("ask", "le"), ("done", "whole")]


def test_model_text_is_data(bench: Any, serve: Any, tmp_path: Any) -> None:
    """What existing workers executed: a reply that looks like a shell request."""
    target = tmp_path / "executed"
    evil = json.dumps({"action": "shell", "action_id": "x", "input": f"touch {target}"})
    caller = serve(bench.dispatcher(bench.Engine([evil + "\n", evil])))()
    caller.send(generate(1))
    assert [one["type"] for one in caller.until("done")] == ["token", "token", "done"]
    assert caller.ask(json.loads(evil))["metadata"]["error"] == "unsupported_action"
    assert not target.exists()


def test_an_error_is_the_one_end(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["half", failures.TIMEOUT], [failures.BAD_WEIGHTS], ["ok"])))()
    caller.send(generate(1))
    messages = caller.until("done", "error")
    assert [one["type"] for one in messages] == ["token", "error"]
    assert messages[-1]["error"]["code"] == 504
    session = caller.ask({"type": "create_session"})["session_id"]
    refused = caller.ask({"type": "generate", "session_id": session, "prompt": "x"})
    assert (refused["ok"], refused["error"], refused["code"]) == (False, "bad_weights", 500)
    caller.send(generate(1))
    assert caller.until("done")[-1]["attempts"] == 1


def test_retries_are_invisible_but_counted(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine([failures.KILLED], ["ok"])))()
    caller.send(generate(1))
    messages = caller.until("done")
    assert [one.get("text") for one in messages[:-1]] == ["ok"]
    assert messages[-1]["attempts"] == 2


def test_abort_ends_one_s_own_request_and_the_next_works(bench: Any, serve: Any, wait_for: Any) -> None:
    engine = bench.Engine(["a", "hang"], ["next"])
    caller = serve(bench.dispatcher(engine))()
    caller.send(generate("long"))
    assert caller.read()["text"] == "a"
    caller.send({"type": "abort", "id": "long"})
    messages = [caller.read(), caller.read()]
    assert {one["type"] for one in messages} == {"aborted", "done"}
    done = next(one for one in messages if one["type"] == "done")
    assert (done["finish_reason"], done["id"]) == ("cancelled", "long")
    caller.send(generate("next"))
    assert caller.until("done")[0]["text"] == "next"


def test_nobody_aborts_another_s_request(bench: Any, serve: Any) -> None:
    engine = bench.Engine(["a", "hang"])
    connect = serve(bench.dispatcher(engine))
    victim, other = connect(), connect()
    session = victim.ask({"type": "create_session"})["session_id"]
    victim.send({"type": "generate", "session_id": session, "prompt": "x"})
    assert victim.read()["type"] == "token"
    assert other.ask({"type": "abort", "session_id": session})["error"] == "unknown_session"
    assert other.ask({"type": "close_session", "session_id": session})["error"] == "unknown_session"
    assert other.ask({"type": "abort", "id": "x"})["found"] is False
    assert not engine.generations[0].canceled.is_set()
    victim.send({"type": "abort", "session_id": session})
    assert {victim.read()["type"] for _ in range(3)} == {"aborted", "stop", "done"}


def test_what_waits_is_aborted_at_once(bench: Any, serve: Any, wait_for: Any) -> None:
    engine = bench.Engine(["a", "hang"])
    caller = serve(bench.dispatcher(engine))()
    caller.send(generate(1))
    assert caller.read()["type"] == "token"
    caller.send(generate(2), {"type": "abort", "id": 2})
    messages = [caller.read(), caller.read()]
    assert [(one["type"], one["id"]) for one in messages] == [("done", 2), ("aborted", 2)]
    assert len(engine.requests) == 1


def test_the_queue_has_an_end_and_says_so(bench: Any, serve: Any, wait_for: Any) -> None:
    connect = serve(bench.dispatcher(bench.Engine(["a", "hang"])), queue=2, per_client=2)
    first, second, third = connect(), connect(), connect()
    first.send(generate(1))
    assert first.read()["type"] == "token"
    first.send(generate(2))
    wait_for(lambda: first.ask({"type": "status"})["waiting"] == 1)
    mine = first.ask(generate(3))
    assert (mine["error"]["class"], mine["error"]["code"]) == ("busy", 429)
    assert "this client has 2 requests already" in mine["error"]["detail"]
    second.send(generate(1))
    wait_for(lambda: second.ask({"type": "status"})["waiting"] == 2)
    full = third.ask(generate(1))
    assert full["error"]["detail"] == "2 requests are waiting already; try again later"
    assert third.ask({"action": "ask", "action_id": "q", "input": "x"})["metadata"]["error"] == "busy"


def test_names_in_use(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["a", "hang"])))()
    session = caller.ask({"type": "create_session"})["session_id"]
    caller.send({"type": "generate", "session_id": session, "prompt": "x"})
    assert caller.read()["type"] == "token"
    assert caller.ask({"type": "generate", "session_id": session, "prompt": "x"})["error"] == "busy"
    caller.send(generate("x"), generate("x"))
    assert caller.read()["error"]["class"] == "duplicate_id"


def test_sessions_are_counted(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine()))()
    for _ in range(16):
        assert caller.ask({"type": "create_session"})["ok"] is True
    assert caller.ask({"type": "create_session"})["error"] == "too_many_sessions"


def test_closing_a_session_ends_what_it_generates(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["a", "hang"])))()
    session = caller.ask({"type": "create_session"})["session_id"]
    caller.send({"type": "generate", "session_id": session, "prompt": "x"})
    assert caller.read()["type"] == "token"
    caller.send({"type": "close_session", "session_id": session})
    messages = [caller.read() for _ in range(3)]
    assert {one.get("type", "closed") for one in messages} == {"stop", "done", "closed"}


def test_close_ends_everything_and_the_connection(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["a", "hang"])))()
    caller.send(generate(1))
    assert caller.read()["type"] == "token"
    caller.send({"type": "close"})
    assert [caller.read()["type"], caller.read(), caller.read()] == ["done", {"type": "closed", "ok": True}, None]


def test_several_clients_get_their_own(bench: Any, serve: Any) -> None:
    engine = bench.Engine()
    engine.start = (lambda start: start)(engine.start)
    start = engine.start

    def echo(request: Request) -> Any:
        generation = start(request)
        generation.act = [f"{request.prompt}-{n}" for n in range(20)]
        return generation

    engine.start = echo
    connect = serve(bench.dispatcher(engine), slots=4, per_client=50, queue=400)
    callers = [connect() for _ in range(6)]
    for number, caller in enumerate(callers):
        caller.send(*(generate(f"{number}.{k}", f"{number}.{k}") for k in range(10)))
    for caller in callers:
        found: dict[str, list[str]] = {}
        finished = 0
        while finished < 10:
            message = caller.read()
            finished += message["type"] == "done"
            if message["type"] == "token":
                found.setdefault(message["id"], []).append(message["text"])
        number = callers.index(caller)
        assert found == {f"{number}.{k}": [f"{number}.{k}-{n}" for n in range(20)] for k in range(10)}


def test_too_many_clients(bench: Any, serve: Any) -> None:
    connect = serve(bench.dispatcher(bench.Engine()), clients=1)
    first = connect()
    assert first.ask({"type": "status"})["clients"] == 1
    second = connect()
    assert second.read()["error"] == "busy"
    assert second.read() is None


def test_a_client_that_is_gone_ends_its_requests(bench: Any, serve: Any, wait_for: Any) -> None:
    engine = bench.Engine(["a", "hang"], ["next"])
    connect = serve(bench.dispatcher(engine))
    caller = connect()
    caller.send(generate(1), generate(2))
    assert caller.read()["type"] == "token"
    caller.close()
    wait_for(lambda: engine.ended == 1)
    assert engine.generations[0].canceled.is_set()
    other = connect()
    other.send(generate(1))
    assert other.until("done")[0]["text"] == "next"
    assert len(engine.requests) == 2, "what waited for the client that is gone was not begun"


def test_a_client_may_end_its_half_and_still_read(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["a", "b"])))()
    caller.socket.sendall(json.dumps(generate(1)).encode())
    caller.socket.shutdown(socket.SHUT_WR)
    assert [one["type"] for one in caller.until("done")] == ["token", "token", "done"]
    assert caller.read() is None


def test_a_reader_that_sleeps_is_waited_for_and_then_left(bench: Any, serve: Any, wait_for: Any) -> None:
    """Back-pressure: the generation waits for its reader, other clients don't, memory stays where it was."""
    engine = bench.Engine(["x" * 1000] * 5000, ["ok"])
    connect = serve(bench.dispatcher(engine), slots=2)
    sleeper, other = connect(send_timeout_s=0.5), connect()
    sleeper.send(generate(1))
    wait_for(lambda: bool(engine.generations) and engine.generations[0].chunks > 10)
    other.send(generate(1))
    assert other.until("done")[0]["text"] == "ok"
    wait_for(engine.generations[0].canceled.is_set)
    assert engine.generations[0].chunks < 2000
    wait_for(lambda: other.ask({"type": "status"})["ends"].get("caller_gone") == 1)


def test_a_reader_that_is_slow_gets_everything(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["x" * 1000] * 1000)))()
    caller.send(generate(1))
    assert len(caller.until("done")) == 1001


@pytest.mark.parametrize("size", [2000, 200_000])
def test_long_lines_are_answered_and_skipped(bench: Any, serve: Any, size: int) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["ok"])))(max_line_bytes=1024)
    caller.send(b"x" * size, generate(1))
    assert caller.read()["error"] == "line_too_long"
    assert caller.until("done")[0]["text"] == "ok"
    caller.send(b"", b"   ", b"\r", {"type": "status"})
    assert caller.read()["ok"] is True


def test_a_line_as_long_as_allowed(bench: Any, serve: Any) -> None:
    caller = serve(bench.dispatcher(bench.Engine(["ok"])))(max_line_bytes=200)
    line = json.dumps(generate(1, "")).encode()
    exact = json.dumps(generate(1, "p" * (200 - len(line)))).encode()
    assert len(exact) == 200
    caller.send(exact)
    assert caller.until("done")
    caller.send(exact + b" ")
    assert caller.read()["error"] == "line_too_long"


def test_stop_lets_what_runs_end_and_refuses_the_rest(bench: Any, serve: Any, wait_for: Any) -> None:
    release = threading.Event()
    engine = bench.Engine(["a", lambda generation: release.wait(60), "b"])
    connect = serve(bench.dispatcher(engine))
    caller = connect()
    caller.send(generate(1), generate(2))
    assert caller.read()["type"] == "token"
    wait_for(lambda: caller.ask({"type": "status"})["waiting"] == 1)
    stopping = threading.Thread(target=connect.worker.stop, args=(30,))
    stopping.start()
    refused = caller.read()
    assert (refused["id"], refused["error"]["class"], refused["error"]["detail"]) == (
        2,
        "unavailable",
        "the worker is stopping",
    )
    assert caller.ask({"type": "status"})["status"] == "stopping"
    assert caller.ask(generate(3))["error"]["class"] == "unavailable"
    assert connect().read()["error"] == "busy"
    release.set()
    assert [caller.read().get("text"), caller.read()["type"], caller.read()] == ["b", "done", None]
    stopping.join(30)
    assert not stopping.is_alive()


def test_stop_in_a_hurry_cancels(bench: Any, serve: Any) -> None:
    connect = serve(bench.dispatcher(bench.Engine(["a", "hang"])))
    caller = connect()
    caller.send(generate(1))
    assert caller.read()["type"] == "token"
    connect.worker.stop(3600, lambda: True)
    assert caller.read()["finish_reason"] == "cancelled"


def test_one_that_waits_too_long_is_answered_by_the_fallback_meanwhile(bench: Any, serve: Any, wait_for: Any) -> None:
    local, other = bench.Engine(["a", "hang"]), bench.Engine(["elsewhere"], source="openai_compatible")
    caller = serve(bench.dispatcher(local, other))()
    caller.send(generate(1))
    assert caller.read()["type"] == "token"
    caller.send(generate(2))
    wait_for(lambda: caller.ask({"type": "status"})["waiting"] == 1)
    bench.clock.move(31)
    caller.send(generate(3))
    messages = caller.until("done")
    assert (messages[0]["text"], messages[-1]["id"], messages[-1]["fallback"]) == ("elsewhere", 2, True)
    assert messages[-1]["source"] == "openai_compatible"
    assert len(local.requests) == 1


def test_status_tells_health_breaker_and_growth(bench: Any, serve: Any) -> None:
    engine = bench.Engine([failures.BAD_WEIGHTS], ["ok"])
    caller = serve(bench.dispatcher(engine))()
    assert caller.ask(generate(1))["type"] == "error"
    for key in range(20):
        engine.peak_mib = 100.0 + 5 * key
        caller.send(generate(key))
        caller.until("done")
    engine.health = [failures.Failure(failures.MISSING_BINARY, "no such file")]
    bench.clock.move(10)
    status = caller.ask({"type": "status", "id": "s"})
    assert schemas.validate(status, "worker-reply") == []
    assert status["id"] == "s"
    assert status["ends"] == {"bad_weights": 1, "stop": 20}
    local = status["backends"]["local"]
    assert (local["healthy"], local["error"]["class"], local["breaker"]["state"]) == (
        False,
        "missing_binary",
        "closed",
    )
    assert (status["memory"]["leaking"], status["memory"]["peak_mib"], status["memory"]["readings"]) == (True, 195, 21)
    assert [fields["leaking"] for event, fields in bench.logged if event == "memory_grows"] == [True]


def test_a_fault_of_ours_ends_nothing(bench: Any, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = serve(bench.dispatcher(bench.Engine(["ok"])))
    caller = connect()
    monkeypatch.setattr(connect.worker, "_status", lambda request: 1 / 0)
    assert caller.ask({"type": "status"})["error"] == "internal_error"
    caller.send(generate(1))
    assert caller.until("done")
    assert bench.logged[0] == ("internal_error", {"error": "ZeroDivisionError: division by zero"})


WORDS = st.sampled_from([*VERBS, "ask", "plan", "shell", "sess_1", "sess_2", "x", "", "hi"])
VALUES = WORDS | st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.lists(WORDS, max_size=2)
OBJECTS = st.dictionaries(
    st.sampled_from(["type", "action", "id", "session_id", "action_id", "prompt", "input", "params", "stream"]),
    VALUES | st.dictionaries(WORDS, VALUES, max_size=2),
    max_size=6,
)
LINES = st.binary(max_size=60) | OBJECTS.map(lambda value: json.dumps(value).encode())


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=25))
def test_fuzzed_input_never_kills_the_worker_nor_reaches_another(fuzzed: Any, lines: list[bytes]) -> None:
    connect, bench = fuzzed
    stranger, witness = connect(max_line_bytes=100), connect()
    witness.send(generate("mine", "witness"))
    # At once: after a fuzzed close the worker may be gone before the next line is sent.
    stranger.send(b"\n".join([*lines, b'{"type": "status", "id": "last"}']))
    stranger.socket.shutdown(socket.SHUT_WR)
    heard = []
    while (message := stranger.read()) is not None:
        assert schemas.validate(message, "worker-reply") == [], message
        heard.append(message)
    # A fuzzed close ends the connection before the last line is read; otherwise the worker still answers it.
    closed = any(one.get("type") == "closed" for one in heard)
    assert closed or any(one.get("id") == "last" and one.get("type") == "status" for one in heard)
    assert "witness" not in str([one.get("text") for one in heard])
    mine = witness.until("done")
    assert [one.get("text") for one in mine] == ["echo witness", None]
    witness.close()
    stranger.close()
    assert not [fields for event, fields in bench.logged if event == "internal_error"]


@pytest.fixture
def fuzzed(bench: Any, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One worker for all examples: what one leaves behind would show in the next."""
    engine = bench.Engine()
    start = engine.start

    def echo(request: Request) -> Any:
        generation = start(request)
        generation.act = [f"echo {request.prompt}"]
        return generation

    monkeypatch.setattr(engine, "start", echo)
    return serve(bench.dispatcher(engine), slots=2, queue=64, per_client=64), bench


def test_memory_stays_bounded_under_garbage(bench: Any, serve: Any) -> None:
    """8 MiB of lines without an end, and a thousand refused requests: nothing of it is kept."""
    connect = serve(bench.dispatcher(bench.Engine(["ok"])))
    caller = connect(max_line_bytes=4096)
    caller.ask({"type": "status"})
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(128):
            caller.socket.sendall(b"x" * 65536)
        caller.socket.sendall(b"\n")
        assert caller.read()["error"] == "line_too_long"
        for number in range(1000):
            assert caller.ask({"type": "generate", "id": number})["error"]["class"] == "missing_prompt"
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 2 << 20
    assert after - before < 1 << 20
