"""Lines into requests, outcomes into lines, both dialects and the plain one; nothing a stranger sends gets past."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from profiles import examples
from trialbench import schemas
from trialbench.engines import failures
from trialbench.engines.contract import Constraint, Deadlines, Label, Request, Token, Usage
from trialbench.engines.failures import Failure
from trialbench.worker import protocol
from trialbench.worker.dispatch import Outcome
from trialbench.worker.protocol import Abort, Close, CloseSession, CreateSession, Generate, ProtocolError, Status

DEFAULTS = protocol.Defaults(Request(max_tokens=512, temperature=1.0, deadlines=Deadlines(20, 20, 60)))
LABEL = Label("gemma_local", "gemma2-2b-it", 8)


def parse(message: Any) -> protocol.Line:
    line = message if isinstance(message, bytes) else json.dumps(message).encode()
    return protocol.parse(line, DEFAULTS)


def read(data: bytes) -> list[Any]:
    assert data.endswith(b"\n")
    messages = [json.loads(line) for line in data.splitlines()]
    for message in messages:
        assert schemas.validate(message, "worker-reply") == [], message
    return messages


def test_the_verbs() -> None:
    assert parse({"type": "status"}) == Status()
    assert parse({"type": "status", "id": 7}) == Status(7)
    assert parse({"type": "close"}) == Close()
    assert parse({"type": "abort", "id": "a"}) == Abort(("plain", "a"))
    assert parse({"type": "abort", "session_id": "sess_1"}) == Abort(("session", "sess_1"))
    assert parse({"type": "close_session", "session_id": "sess_1"}) == CloseSession("sess_1")
    assert parse({"action": "close_session", "session_id": "sess_1"}) == CloseSession("sess_1")
    created = parse({"type": "create_session", "params": {"temperature": 0.7, "max_tokens": 9, "repeat_penalty": 1.1}})
    assert isinstance(created, CreateSession)
    assert (created.wanted.temperature, created.wanted.max_tokens, created.wanted.repeat_penalty) == (0.7, 9, 1.1)
    assert parse({"type": "create_session", "params": None}) == CreateSession(DEFAULTS.request)


def test_generate_in_each_dialect() -> None:
    plain = parse({"type": "generate", "id": "a", "prompt": "hi", "max_tokens": 5, "timeout_s": 3})
    assert isinstance(plain, Generate)
    assert (plain.dialect, plain.key, plain.stream) == ("plain", ("plain", "a"), True)
    assert (plain.wanted.prompt, plain.wanted.max_tokens, plain.wanted.temperature) == ("hi", 5, 1.0)
    assert plain.wanted.deadlines == Deadlines(20, 20, 3)

    session = parse({"type": "generate", "session_id": "sess_1", "prompt": "hi", "stream": False})
    assert isinstance(session, Generate)
    assert (session.key, session.stream) == (("session", "sess_1"), False)

    action = parse({"action": "ask", "action_id": "u", "input": "hi", "result": None})
    assert isinstance(action, Generate)
    assert (action.key, action.stream, action.action, action.wanted.prompt) == (("action", "u"), False, "ask", "hi")
    assert parse({"action": "plan", "action_id": 1, "input": "x", "metadata": {"stream": True}}).stream  # type: ignore[union-attr]


def test_a_session_s_parameters_stand_behind_the_line_s() -> None:
    session = Request(max_tokens=99, temperature=0.1, deadlines=Deadlines(1, 2, 3))
    request = parse({"type": "generate", "session_id": "s", "prompt": "x", "temperature": 0.9})
    assert isinstance(request, Generate)
    merged = protocol.behind(request.wanted, request.given, session)
    assert (merged.prompt, merged.max_tokens, merged.temperature) == ("x", 99, 0.9)
    assert merged.deadlines == Deadlines(1, 2, 3)
    timed = parse({"type": "generate", "session_id": "s", "prompt": "x", "token_timeout_s": 5})
    assert isinstance(timed, Generate)
    assert protocol.behind(timed.wanted, timed.given, session).deadlines == Deadlines(1, 5, 3)


@pytest.mark.parametrize(
    ("accept", "constraint"),
    [
        ({"grammar": "root ::= [0-9]"}, Constraint(grammar="root ::= [0-9]")),
        ({"json_schema": {"type": "object"}}, Constraint(json_schema={"type": "object"})),
        ({"allowed_tokens": [1, "yes"]}, Constraint(allowed_tokens=[1, "yes"])),
    ],
)
def test_constraints(accept: Any, constraint: Constraint) -> None:
    request = parse({"type": "generate", "id": 1, "prompt": "x", "accept": accept})
    assert isinstance(request, Generate)
    assert request.wanted.constraint == constraint


G = {"type": "generate", "id": 1, "prompt": "x"}


@pytest.mark.parametrize(
    ("message", "code", "detail"),
    [
        (b"{", "invalid_request", "not JSON"),
        (b"\xff\xfe", "invalid_request", "not UTF-8 at byte 0"),
        (b"[" * 100000, "invalid_request", "nested too deeply"),
        (b"[1]", "invalid_request", "expected a JSON object, found a list"),
        (b"3", "invalid_request", "found a number"),
        (b"null", "invalid_request", "found null"),
        (b'{"type":"status","x":NaN}', "invalid_request", "NaN is not a JSON number"),
        (b'{"x":' + b"9" * 5000 + b"}", "invalid_request", "not JSON"),
        ({}, "invalid_request", 'expected a text as "type"'),
        ({"type": 3}, "invalid_request", "one of status, generate, abort, close"),
        ({"type": "exec"}, "unknown_type", "found exec"),
        ({"type": "\x1b[2J"}, "unknown_type", "found \\x1b[2J"),
        ({"type": "generate", "prompt": "x"}, "missing_session_id", 'expected "session_id" (or "id"'),
        ({"type": "generate", "session_id": 3, "prompt": "x"}, "invalid_request", 'expected "session_id": a text'),
        ({"type": "generate", "id": 1}, "missing_prompt", 'expected "prompt"'),
        ({"type": "generate", "session_id": "s", "prompt": ""}, "missing_prompt", ""),
        ({**G, "prompt": 3}, "invalid_request", 'expected "prompt": a text, found a number'),
        (b'{"type":"generate","id":1,"prompt":"\\ud800"}', "invalid_request", "half of a surrogate"),
        ({**G, "prompt": "a\0b"}, "invalid_request", "holds a NUL"),
        ({**G, "id": ""}, "invalid_request", 'expected "id"'),
        ({**G, "id": True}, "invalid_request", 'expected "id"'),
        ({**G, "id": 1.5}, "invalid_request", 'expected "id"'),
        ({**G, "id": "x" * 129}, "invalid_request", 'expected "id"'),
        ({**G, "id": None}, "invalid_request", 'expected "id"'),
        ({**G, "stream": "yes"}, "invalid_request", 'expected "stream": true or false, found a text'),
        ({**G, "max_tokens": 1.5}, "invalid_request", 'expected "max_tokens": a whole number'),
        ({**G, "max_tokens": True}, "invalid_request", "found true or false"),
        ({**G, "temperature": "hot"}, "invalid_request", 'expected "temperature": a number'),
        ({**G, "temperature": 1e300}, "invalid_request", 'expected "temperature": a number'),
        ({**G, "deterministic": 1}, "invalid_request", 'expected "deterministic"'),
        ({**G, "timeout_s": 0}, "invalid_request", 'expected "timeout_s": seconds above 0, at most 3600'),
        ({**G, "timeout_s": 1e9}, "invalid_request", 'expected "timeout_s"'),
        ({**G, "accept": {}}, "invalid_request", 'expected "accept": one of'),
        ({**G, "accept": {"grammar": 1}}, "invalid_request", 'expected "accept": one of'),
        ({**G, "accept": {"grammar": "x", "json_schema": {}}}, "invalid_request", 'expected "accept": one of'),
        ({**G, "accept": {"allowed_tokens": []}}, "invalid_request", 'expected "accept": one of'),
        ({**G, "accept": {"allowed_tokens": [True]}}, "invalid_request", 'expected "accept": one of'),
        ({**G, "params": 3}, "invalid_request", 'expected "params": an object'),
        ({"type": "abort"}, "missing_session_id", ""),
        ({"type": "close_session"}, "missing_session_id", ""),
        ({"type": "create_session", "params": []}, "invalid_request", 'expected "params": an object, found a list'),
        ({"action": "ask", "input": "x"}, "invalid_request", 'expected "action_id"'),
        ({"action": "shell", "action_id": "a", "input": "rm -rf /"}, "unsupported_action", "nothing is executed"),
        ({"action": "toolSpec", "action_id": "a", "input": "x"}, "unsupported_action", ""),
        ({"action": "dance", "action_id": "a", "input": "x"}, "unknown_action", "ask, observe, plan, research"),
        ({"action": ["ask"], "action_id": "a", "input": "x"}, "unknown_action", ""),
        ({"action": {}, "action_id": "a", "input": "x"}, "unknown_action", ""),
        ({"action": "ask", "action_id": "a"}, "missing_prompt", 'expected "input"'),
        ({"action": "ask", "action_id": "a", "input": "x", "metadata": 3}, "invalid_request", '"metadata": an object'),
    ],
)
def test_what_is_no_request(message: Any, code: str, detail: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(message)
    assert caught.value.code == code
    assert detail in caught.value.detail
    read(protocol.error_line(caught.value))


def test_an_error_is_addressed_as_its_line_was() -> None:
    def answer(message: Any) -> Any:
        with pytest.raises(ProtocolError) as caught:
            parse(message)
        return read(protocol.error_line(caught.value))[0]

    assert answer(b"{") == {"ok": False, "error": "invalid_request", "detail": answer(b"{")["detail"]}
    assert answer({"type": "generate", "session_id": "sess_1"})["session_id"] == "sess_1"
    plain = answer({"type": "generate", "id": "a"})
    assert (plain["type"], plain["id"], plain["error"]["class"]) == ("error", "a", "missing_prompt")
    action = answer({"action": "shell", "action_id": "u", "input": "ls"})
    assert (action["action"], action["action_id"], action["source"]) == ("done", "u", "error")
    assert action["metadata"]["error"] == "unsupported_action"
    # Who speaks a dialect is answered in it, also where the name is missing or wrong; a session's name precedes an id.
    for nameless in ({"action": "ask", "input": "x"}, {"action": "ask", "action_id": [1], "id": 3, "input": "x"}):
        action = answer(nameless)
        assert (action["action"], action["action_id"], action["source"]) == ("done", None, "error")
    both = {"type": "generate", "id": 1, "session_id": "sess_1"}
    assert answer(both)["session_id"] == "sess_1"
    served = parse({**both, "prompt": "x"})
    assert isinstance(served, Generate)
    assert served.key == ("session", "sess_1")
    assert parse({**both, "type": "abort"}) == Abort(("session", "sess_1"))
    assert parse({**both, "type": "status"}) == Status(1)


def generate(**fields: Any) -> Generate:
    request = parse({"type": "generate", "prompt": "hi", **fields})
    assert isinstance(request, Generate)
    return request


DONE = Outcome(LABEL, finish_reason="stop", usage=Usage(chunks=2, completion_tokens=2), attempts=1)
FAILED = Outcome(LABEL, failure=Failure(failures.TIMEOUT, "too late"), attempts=3)


def test_ends_of_the_plain_dialect() -> None:
    token = read(protocol.token_line(generate(id="a"), Token("é\n", 0.0), LABEL))
    assert token == [{"type": "token", "id": "a", "text": "é\n"}]
    (done,) = read(protocol.end_lines(generate(id="a"), DONE, "é"))
    assert (done["type"], done["id"], done["finish_reason"]) == ("done", "a", "stop")
    assert (done["source"], done["model"], done["bits"]) == ("gemma_local", "gemma2-2b-it", 8)
    assert "text" not in done
    assert read(protocol.end_lines(generate(id="a", stream=False), DONE, "é"))[0]["text"] == "é"
    (error,) = read(protocol.end_lines(generate(id="a"), FAILED, ""))
    assert error["error"] == {"class": "timeout", "code": 504, "kind": "recoverable", "detail": "too late"}
    assert (error["attempts"], error["source"]) == (3, "gemma_local")


def test_ends_of_the_session_dialect() -> None:
    request = generate(session_id="sess_1")
    stop, done = read(protocol.end_lines(request, DONE, ""))
    assert (stop["type"], done["type"], done["session_id"]) == ("stop", "done", "sess_1")
    (error,) = read(protocol.end_lines(request, FAILED, ""))
    assert (error["ok"], error["error"], error["code"], error["session_id"]) == (False, "timeout", 504, "sess_1")
    nobody = Outcome(None, failure=Failure(failures.BUSY, "full"))
    assert read(protocol.end_lines(request, nobody, ""))[0]["source"] is None


def test_ends_of_the_action_dialect() -> None:
    request = parse({"action": "ask", "action_id": "u", "input": "hi", "metadata": {"stream": True}})
    assert isinstance(request, Generate)
    (token,) = read(protocol.token_line(request, Token("x", 0.0), LABEL))
    assert (token["action"], token["result"], token["source"]) == ("ask", "x", "gemma_local")
    (done,) = read(protocol.end_lines(request, DONE, "whole"))
    assert (done["action"], done["action_id"], done["input"], done["result"]) == ("done", "u", "hi", "whole")
    assert (done["source"], done["model"], done["metadata"]["bits"]) == ("gemma_local", "gemma2-2b-it", 8)
    elsewhere = Outcome(Label("openai_compatible", "big"), finish_reason="stop", attempts=2, fallback=True)
    assert read(protocol.end_lines(request, elsewhere, "x"))[0]["source"] == "fallback"
    (error,) = read(protocol.end_lines(request, FAILED, "half"))
    assert (error["source"], error["result"], error["metadata"]["error"]) == ("error", "", "timeout")
    canceled = Outcome(None, finish_reason="cancelled")
    assert read(protocol.end_lines(request, canceled, ""))[0]["metadata"]["finish_reason"] == "cancelled"


def test_a_line_is_a_line_for_everybody() -> None:
    text = "a\u2028b\u0085c\x1b[2J\ud800\r\n"
    data = protocol.token_line(generate(id=1), Token(text, 0.0), LABEL)
    assert data.count(b"\n") == 1
    assert data.isascii()
    assert len(data.decode().splitlines()) == 1
    assert json.loads(data)["text"] == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["type", "action", "id", "session_id", "action_id", "prompt", "input", "params", "metadata", "accept"]
KEYS += ["max_tokens", "temperature", "timeout_s", "stream", "deterministic", "seed", "top_k"]
WORDS = st.sampled_from([*protocol.VERBS, *protocol.ASKING, "shell", "sess_1", "x", "grammar", ""])


@settings(max_examples=examples(200))
@given(
    st.one_of(
        st.binary(max_size=200),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from(KEYS), WORDS | JSON, max_size=8).map(lambda value: json.dumps(value).encode()),
    )
)
@example(b'{"type": []}')
@example(b'{"type": 5, "action": {}, "id": [], "session_id": {}}')
@example(b'{"type": "generate", "prompt": "x", "params": {"seed": [], "top_k": {}}}')
def test_any_line_is_a_request_or_an_answered_error(line: bytes) -> None:
    try:
        request = protocol.parse(line, DEFAULTS)
    except ProtocolError as error:
        read(protocol.error_line(error))
        return
    assert schemas.validate(json.loads(line), "worker-request") == []
    if isinstance(request, Generate):
        assert request.wanted.prompt
