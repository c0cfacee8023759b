"""Engines behind HTTP: streams as real servers send them, and everything a server may do instead."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from trialbench.engines.contract import (
    Constraint,
    Deadlines,
    Done,
    Engine,
    Event,
    Failed,
    Refused,
    Request,
    Started,
    Token,
)
from trialbench.engines.gguf import file_type_bits, header, named_bits
from trialbench.engines.llama.generation import CallError, Server
from trialbench.engines.openai import EndpointOptions, LlamaServer, OpenAICompatible
from trialbench.errors import UsageError

Act = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Does what the test has put down for the path, else answers 404."""

    protocol_version = "HTTP/1.1"
    server: Scripted

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def handle_any(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.server.asked.append((self.path, json.loads(self.rfile.read(size)) if size else None))
        self.server.keys.append(self.headers.get("Authorization"))
        act = self.server.acts.get(self.path, 404)
        if callable(act):
            self.close_connection = True
            act(self)
        elif isinstance(act, int):
            self.reply(b"no", status=act)
        else:
            self.reply(json.dumps(act).encode())

    do_GET = do_POST = handle_any  # noqa: N815 - the base class calls them so

    def reply(self, body: bytes, *, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def event(self, value: Any) -> None:
        self.wfile.write(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode())
        self.wfile.flush()


class Scripted(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.keys: list[str | None] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what these tests are about."""


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    one = Scripted()
    thread = threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield one
    one.released.set()
    one.shutdown()
    one.server_close()
    thread.join(30)


CHAT, COMPLETION = "/v1/chat/completions", "/completion"


def delta(text: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"delta": {"content": text} if text is not None else {}, "finish_reason": more.pop("finish", None)}
    return {"choices": [choice], **more}


def says(*events: Any, done: bool = True) -> Act:
    def act(handler: Handler) -> None:
        handler.begin()
        for event in events:
            handler.event(event)
        if done:
            handler.event("[DONE]")

    return act


def page(kind: str, body: bytes) -> Act:
    def act(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def stalls_after(*events: Any) -> Act:
    def act(handler: Handler) -> None:
        handler.begin()
        for event in events:
            handler.event(event)
        handler.server.released.wait(60)

    return act


GOOD = (
    {"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
    delta("left"),
    delta(" l\u2028\x85arge"),
    delta(finish="stop"),
    {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
        "timings": {"prompt_ms": 8.0, "predicted_ms": 0.5, "cache_n": 3},
    },
)


@pytest.fixture
def llama(scripted: Scripted) -> LlamaServer:
    return LlamaServer(EndpointOptions(scripted.url + "/v1", model="e4b", api_key="k"))


def last(engine: Engine, request: Request) -> Event:
    return list(engine.start(request).events())[-1]


def test_a_streamed_reply(scripted: Scripted, llama: LlamaServer) -> None:
    scripted.acts[CHAT] = says(*GOOD)
    generation = llama.start(Request(prompt="where to?", max_tokens=4, temperature=0, top_k=1, extra={"min_p": 0.1}))
    events = list(generation.events())
    assert isinstance(events[0], Started)
    assert [event.text for event in events if isinstance(event, Token)] == ["left", " l\u2028\x85arge"]
    assert isinstance(events[-1], Done)
    result = generation.result()
    assert result.finish_reason == "stop"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.cached_tokens) == (9, 2, 3)
    assert (result.usage.prompt_ms, result.usage.predicted_ms, result.usage.chunks) == (8.0, 0.5, 2)
    assert result.quiet_ms is None
    assert result.ttft_ms is not None
    path, body = scripted.asked[-1]
    assert path == CHAT
    assert body["messages"] == [{"role": "user", "content": "where to?"}]
    assert body["cache_prompt"] is False
    assert (body["max_tokens"], body["temperature"], body["top_k"], body["min_p"]) == (4, 0, 1, 0.1)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert scripted.keys[-1] == "Bearer k"
    generation.cancel()


def test_token_ids_go_to_llama_server_as_they_are(scripted: Scripted, llama: LlamaServer) -> None:
    scripted.acts[COMPLETION] = says(
        {"content": "a", "tokens": [5], "stop": False},
        {"content": "bc", "tokens": [6, 7], "stop": False},
        {"content": "", "tokens": [], "stop": True, "stop_type": "limit", "tokens_evaluated": 3, "tokens_predicted": 3},
        done=False,
    )
    generation = llama.start(Request(prompt_ids=[1, 2, 3], max_tokens=3, seed=4, deterministic=True))
    assert [event.id for event in generation.events() if isinstance(event, Token)] == [5, None]
    result = generation.result()
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 3)
    body = scripted.asked[-1][1]
    assert (body["prompt"], body["n_predict"], body["seed"]) == ([1, 2, 3], 3, 4)


@pytest.mark.parametrize(
    ("event", "finish"),
    [({"stop_type": "eos"}, "stop"), ({"stop_type": "word"}, "stop"), ({"stopped_limit": True}, "length")],
)
def test_older_and_newer_ways_to_say_why_it_stopped(
    scripted: Scripted, llama: LlamaServer, event: dict[str, Any], finish: str
) -> None:
    scripted.acts[COMPLETION] = says("", {"content": "a", "stop": True, **event})
    assert llama.start(Request(prompt_ids=[1], deterministic=True)).result().failure is None  # an empty event is none
    scripted.acts[COMPLETION] = says({"content": "a", "stop": True, **event})
    assert llama.start(Request(prompt_ids=[1], deterministic=True)).result().finish_reason == finish
    assert scripted.asked[-1][1]["seed"] == 0


@pytest.mark.parametrize(
    ("act", "name", "words"),
    [
        (says(delta("left"), done=False), "connection", "before the reply did"),
        (says(delta("a\N{REPLACEMENT CHARACTER}", finish="stop")), "replacement_characters", "1 times"),
        (says(delta(finish="stop")), "empty_output", "no text"),
        (
            says({"choices": [{"delta": {"reasoning_content": "hm"}}]}, delta(finish="stop")),
            "empty_output",
            "2 characters of thinking",
        ),
        (says({"error": {"code": 503, "message": "Loading model"}}), "unavailable", "Loading model"),
        (says({"error": {"message": "broken"}}), "server_error", "broken"),
        (says({"error": "broken"}), "server_error", "broken"),
        (says("{"), "bad_reply", "JSONDecodeError"),
        (says("[1]"), "bad_reply", "expected an event that is a JSON object, found a list"),
        (page("text/html; charset=utf-8", b"<p>Welcome</p>"), "bad_reply", "found text/html"),
        (
            page("application/json", b'{"choices": [{"message": {"content": "whole"}}]}'),
            "bad_reply",
            "application/json",
        ),
        (400, "bad_arguments", "HTTP 400: no"),
        (401, "not_allowed", "HTTP 401"),
        (429, "busy", "HTTP 429"),
        (500, "server_error", "HTTP 500"),
        (502, "connection", "HTTP 502"),
        (503, "unavailable", "HTTP 503"),
        (504, "timeout", "HTTP 504"),
        (302, "server_error", "HTTP 302"),
        (
            lambda handler: handler.reply(b"the request exceeds the available context size", status=400),
            "prompt_too_long",
            "context size",
        ),
        (lambda handler: handler.connection.close(), "connection", "the connection ended"),
        (lambda handler: handler.wfile.write(b"what?\r\n\r\n"), "connection", "the connection ended"),
    ],
)
def test_each_way_to_fail_has_its_class(
    scripted: Scripted, llama: LlamaServer, act: Any, name: str, words: str
) -> None:
    scripted.acts[CHAT] = act
    event = last(llama, Request(prompt="x"))
    assert isinstance(event, Failed)
    assert event.failure.failure_class.name == name
    assert words in event.failure.detail


def test_error_lines_of_older_servers(scripted: Scripted, llama: LlamaServer) -> None:
    def act(handler: Handler) -> None:
        handler.begin()
        handler.wfile.write(b': a comment\nid: 7\nerror: {"code":500,"message":"x"}\n\n')

    for path, request in ((CHAT, Request(prompt="x")), (COMPLETION, Request(prompt_ids=[1]))):
        scripted.acts[path] = act
        event = last(llama, request)
        assert isinstance(event, Failed)
        assert event.failure.failure_class.name == "server_error"


def test_no_error_said_with_each_piece_is_none(scripted: Scripted, llama: LlamaServer) -> None:
    scripted.acts[CHAT] = says(delta("left", error=None), delta(finish="stop", error=None))
    result = llama.start(Request(prompt="Where to?")).result()
    assert (result.text, result.finish_reason, result.failure) == ("left", "stop", None)


def test_nobody_there(dead_url: str) -> None:
    engine = LlamaServer(EndpointOptions(dead_url))
    event = last(engine, Request(prompt="x"))
    assert isinstance(event, Failed)
    assert event.failure.failure_class.name == "connection"
    failure = engine.healthy()
    assert failure is not None
    assert failure.failure_class.name == "connection"
    assert not engine.probe().usable
    assert not OpenAICompatible(EndpointOptions(dead_url)).probe().usable


@pytest.mark.parametrize(
    ("act", "deadlines", "words"),
    [
        (stalls_after(), Deadlines(first_s=0.2), "no first token within 0.2 s"),
        (stalls_after(delta("a")), Deadlines(between_s=0.2), "no further token within 0.2 s"),
        (stalls_after(delta("a")), Deadlines(total_s=0.3), "not complete within 0.3 s"),
        (lambda handler: handler.server.released.wait(60), Deadlines(first_s=0.2), "no first token"),
    ],
)
def test_deadlines(scripted: Scripted, llama: LlamaServer, act: Any, deadlines: Deadlines, words: str) -> None:
    scripted.acts |= {CHAT: act, "/slots": [{"id": 0, "is_processing": False}]}
    generation = llama.start(Request(prompt="x", deadlines=deadlines))
    result = generation.result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "timeout"
    assert words in result.failure.detail
    assert result.quiet_ms is not None
    assert (result.clean, result.facts["slot"]) == (True, "free")


def test_more_than_any_reply(scripted: Scripted, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialbench.engines.llama.generation.MAX_REPLY_BYTES", 100)
    scripted.acts[CHAT] = says(*[delta("abc")] * 20)
    event = last(llama, Request(prompt="x"))
    assert isinstance(event, Failed)
    assert event.failure.failure_class.name == "output_limit"


def test_cancel_disconnects_and_waits_for_the_slot(scripted: Scripted, llama: LlamaServer) -> None:
    busy = [True, True, False]

    def slots(handler: Handler) -> None:
        handler.reply(json.dumps([{"is_processing": busy.pop(0) if len(busy) > 1 else busy[0]}]).encode())

    scripted.acts |= {CHAT: stalls_after(delta("a"), delta("b")), "/slots": slots}
    generation = llama.start(Request(prompt="x"))
    seen = []
    for event in generation.events():
        seen.append(event)
        if isinstance(event, Token):
            threading.Thread(target=generation.cancel).start()
    end = seen[-1]
    assert isinstance(end, Done)
    assert end.finish_reason == "cancelled"
    result = generation.result()
    assert result.failure is None
    assert result.clean
    assert result.quiet_ms is not None
    assert busy == [False]


def test_cancel_before_anything_was_sent(scripted: Scripted, llama: LlamaServer) -> None:
    generation = llama.start(Request(prompt="x"))
    generation.cancel()
    assert [type(event) for event in generation.events()] == [Started, Done]
    assert [path for path, _ in scripted.asked] == ["/props"]
    assert generation.result().finish_reason == "cancelled"


def test_cancel_during_the_prefill(scripted: Scripted, llama: LlamaServer) -> None:
    arrived = threading.Event()

    def act(handler: Handler) -> None:
        arrived.set()
        handler.server.released.wait(60)

    scripted.acts |= {CHAT: act, "/slots": 501}
    generation = llama.start(Request(prompt="x"))
    canceler = threading.Thread(target=lambda: (arrived.wait(60), generation.cancel()))
    canceler.start()
    result = generation.result()
    canceler.join()
    assert result.finish_reason == "cancelled"
    assert (result.clean, result.facts["slot"]) == (False, "not shown by the server")


def test_leaving_early_is_a_cancel(scripted: Scripted, llama: LlamaServer) -> None:
    scripted.acts |= {CHAT: stalls_after(delta("a")), "/slots": {"not": "a list"}}
    generation = llama.start(Request(prompt="x"))
    events = generation.events()
    next(events)
    next(events)
    events.close()  # type: ignore[attr-defined] # a generator, here and in practice
    assert generation.result().finish_reason == "cancelled"
    never = llama.start(Request(prompt="x"))
    never.events().close()  # type: ignore[attr-defined] # before its first event
    assert never.result().finish_reason == "cancelled"


def test_a_slot_that_stays_busy_is_told(
    scripted: Scripted, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialbench.engines.openai._SLOT_LIMIT_S", 0.05)
    scripted.acts |= {CHAT: stalls_after(delta("a")), "/slots": [{"is_processing": True}]}
    result = llama.start(Request(prompt="x", deadlines=Deadlines(total_s=0.2))).result()
    assert (result.clean, result.facts["slot"]) == (False, "1 busy, 0 of them ours")
    scripted.acts["/slots"] = 500
    result = llama.start(Request(prompt="x", deadlines=Deadlines(total_s=0.2))).result()
    assert (result.clean, result.facts["slot"]) == (False, "unknown: server_error")


def test_slots_that_are_told_late(scripted: Scripted, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialbench.engines.openai._HEALTH_S", 0.1)
    late = threading.Event()

    def slots(handler: Handler) -> None:
        if not late.is_set():
            late.set()
            handler.server.released.wait(60)
        handler.reply(b"[]")

    scripted.acts |= {CHAT: stalls_after(delta("a")), "/slots": slots}
    result = llama.start(Request(prompt="x", deadlines=Deadlines(total_s=0.2))).result()
    assert late.is_set()
    assert (result.clean, result.facts["slot"]) == (True, "free")


@pytest.mark.prove
def test_a_reader_who_stops_reading_lets_go_of_the_slot(
    scripted: Scripted, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialbench.engines.llama.generation._OVERDUE_S", 0.0)
    gone = threading.Event()

    def act(handler: Handler) -> None:
        handler.begin()
        handler.event(delta("a"))
        handler.connection.recv(1)
        gone.set()

    scripted.acts |= {CHAT: act, "/slots": []}
    generation = llama.start(Request(prompt="x", deadlines=Deadlines(total_s=2.0)))
    events = generation.events()
    next(events)
    next(events)
    assert gone.wait(60)
    assert isinstance(list(events)[-1], Failed)


def test_constraints_of_llama_server(scripted: Scripted, llama: LlamaServer) -> None:
    scripted.acts |= {CHAT: says(*GOOD), "/props": {"eos_token": "</s>"}}

    def tokenize(handler: Handler) -> None:
        asked = handler.server.asked[-1][1]
        handler.reply(json.dumps({"tokens": [2] if asked.get("parse_special") else [11, 12]}).encode())

    scripted.acts["/tokenize"] = tokenize
    llama.start(Request(prompt="x", constraint=Constraint(grammar="root ::= x"))).result()
    assert scripted.asked[-1][1]["grammar"] == "root ::= x"
    llama.start(Request(prompt="x", constraint=Constraint(json_schema={"type": "object"}))).result()
    assert scripted.asked[-1][1]["json_schema"] == {"type": "object"}
    llama.start(Request(prompt="x", constraint=Constraint(allowed_tokens=[7, "left"]))).result()
    assert scripted.asked[-1][1]["logit_bias"] == [[2, 1000.0], [7, 1000.0], [11, 1000.0], [12, 1000.0]]
    scripted.acts["/props"] = {}
    with pytest.raises(Refused, match="at least one token"):
        llama.start(Request(prompt="x", constraint=Constraint(allowed_tokens=[])))
    scripted.acts["/props"] = 500
    with pytest.raises(Refused, match="can't be looked up"):
        llama.start(Request(prompt="x", constraint=Constraint(allowed_tokens=[1])))


def test_text_and_ids(scripted: Scripted, llama: LlamaServer) -> None:
    scripted.acts |= {"/tokenize": {"tokens": [1, 2, "x"]}, "/detokenize": {"content": "ab"}}
    assert llama.encode("ab", special=True) == [1, 2]
    assert scripted.asked[-1][1] == {"content": "ab", "add_special": True}
    assert llama.decode([1, 2]) == "ab"
    scripted.acts |= {"/tokenize": [], "/detokenize": []}
    assert (llama.encode("ab"), llama.decode([1])) == ([], "")
    scripted.acts["/tokenize"] = lambda handler: handler.reply(b"{")
    with pytest.raises(CallError, match="expected JSON"):
        llama.encode("ab")
    scripted.acts["/tokenize"] = lambda handler: handler.server.released.wait(60)
    with pytest.raises(CallError, match=r"no answer within 0\.1 s"):
        Server(scripted.url).call("POST", "/tokenize", {}, timeout_s=0.1)


def gguf(path: Path, *pairs: tuple[str, int, bytes], version: int = 3) -> Path:
    raw = b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs))
    for name, kind, value in pairs:
        raw += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
    path.write_bytes(raw)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_bits_come_from_the_file(tmp_path: Path) -> None:
    path = gguf(
        tmp_path / "m.gguf",
        ("general.name", 8, text("m")),
        ("list", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        ("numbers", 9, struct.pack("<IQ", 4, 2) + struct.pack("<II", 1, 2)),
        ("general.file_type", 4, struct.pack("<I", 15)),
    )
    assert header(path) == {"general.name": "m", "general.file_type": 15}
    assert file_type_bits(path) == 4
    assert LlamaServer(EndpointOptions("http://localhost:1"), gguf=path).label.bits == 4
    assert LlamaServer(EndpointOptions("http://localhost:1", bits=8), gguf=path).label.bits == 8
    assert file_type_bits(gguf(tmp_path / "n.gguf")) is None


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("all F32", 32), ("F16", 16), ("BF16", 16), ("Q8_0", 8), ("Q4_K - Medium", 4), ("IQ2_XXS - 2.0625 bpw", 2),
        ("MXFP4 MoE", 4), ("TQ1_0 - 1.69 bpw ternary", 1), ("(guessed) Q4_0", None), ("unknown", None), ("", None),
    ],
)  # fmt: skip
def test_bits_by_llama_cpp_s_names(name: str, bits: int | None) -> None:
    assert named_bits(name) == bits


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "other first bytes"),
        (b"GGUF\3\0\0\0", "end in the middle of the header"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "a text of"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 9) + b"a", "middle of a text"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 99), "a value of type 99"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 4, 1 << 60),
            "an array of",
        ),
    ],
)
def test_files_that_are_no_gguf(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=words):
        header(path)
    with pytest.raises(UsageError, match="No such file"):
        header(tmp_path / "none")


def test_probe_of_llama_server(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A wait: what the answer is counts here, not how soon a busy machine gives it.
    monkeypatch.setattr("trialbench.engines.openai._HEALTH_S", 30.0)
    path = gguf(tmp_path / "m.gguf", ("general.file_type", 4, struct.pack("<I", 7)))
    engine = LlamaServer(EndpointOptions(scripted.url), gguf=path)
    scripted.acts |= {
        "/health": {"status": "ok"},
        "/props": {
            "build_info": "b11669", "total_slots": 4, "model_path": "/m.gguf",
            "default_generation_settings": {"n_ctx": 4096},
        },
    }  # fmt: skip
    probe = engine.probe()
    assert probe.usable
    assert probe.version == "b11669"
    assert probe.constrained_decoding
    assert (probe.facts["slots"], probe.facts["seq_len"]) == (4, 4096)
    assert len(probe.hashes["weights"]) == 64
    assert probe.label.bits == 8
    assert probe.label.model is None
    scripted.acts["/props"] |= {"model_alias": "/models/e4b.gguf", "model_ftype": "Q4_K - Medium"}
    named = LlamaServer(EndpointOptions(scripted.url))
    assert named.probe().label.as_dict() == {"source": "llama_server", "model": "e4b.gguf", "bits": 4}
    scripted.acts["/props"] = 500
    assert not engine.probe(hashes=False).usable
    scripted.acts["/props"] = []
    path.unlink()
    failure = engine.probe().failure
    assert failure is not None
    assert "No such file" in failure.detail
    scripted.acts["/health"] = 503
    failure = engine.healthy()
    assert failure is not None
    assert failure.failure_class.name == "unavailable"
    engine.close()


def test_an_openai_endpoint(scripted: Scripted) -> None:
    engine = OpenAICompatible(EndpointOptions(scripted.url, model="m", bits=16))
    scripted.acts |= {"/v1/models": {"data": [{"id": "m"}, 3]}, CHAT: says(*GOOD)}
    probe = engine.probe()
    assert probe.usable
    assert probe.facts["models"] == ["m"]
    assert not probe.constrained_decoding
    assert engine.healthy() is None
    result = engine.start(Request(messages=[{"role": "user", "content": "x"}], seed=1)).result()
    assert result.label.as_dict() == {"source": "openai_compatible", "model": "m", "bits": 16}
    body = scripted.asked[-1][1]
    assert (body["model"], body["seed"]) == ("m", 1)
    assert "cache_prompt" not in body
    assert "ignored" not in result.facts
    odd = Request(prompt="x", top_k=1, top_p=0.5, repeat_penalty=1.1, deterministic=False)
    assert engine.start(odd).result().facts["ignored"] == ["top_k", "repeat_penalty"]
    assert scripted.asked[-1][1]["top_p"] == 0.5
    with pytest.raises(Refused, match="constrained decoding by json_schema"):
        engine.start(Request(prompt="x", constraint=Constraint(json_schema={})))
    able = OpenAICompatible(EndpointOptions(scripted.url, json_schema=True))
    able.start(Request(prompt="x", constraint=Constraint(json_schema={"type": "object"}))).result()
    assert scripted.asked[-1][1]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    scripted.acts["/v1/models"] = 401
    failure = engine.healthy()
    assert failure is not None
    assert failure.failure_class.name == "not_allowed"


@pytest.mark.parametrize(
    ("act", "names"),
    [
        ({"data": None}, []), ([{"id": "m"}], ["m"]),
        ({"models": [{"name": "m"}]}, ["m"]), ({"data": ["m", {"id": None}, 3]}, ["m"]),
        ({"object": "list", "data": [{"id": "m"}], "code": 0, "message": "success"}, ["m"]),
        ({"data": [{"id": "m"}], "code": 200, "msg": "OK", "detail": None, "error": ""}, ["m"]),
    ],
    ids=str,
)  # fmt: skip
def test_lists_of_models(scripted: Scripted, act: Any, names: list[str]) -> None:
    scripted.acts["/v1/models"] = act
    engine = OpenAICompatible(EndpointOptions(scripted.url))
    assert engine.healthy() is None
    assert engine.probe().facts["models"] == names


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize(
    ("body", "up"),
    [
        (b'{"detail": "Not Found"}', True),
        (b'{"error": {"message": "no such path"}}\n', True),
        (b"404 page not found\n", False),
        (b"<html><body>nginx</body></html>", False),
        (b'"no"', False),
        (b"", False),
    ],
    ids=str,
)
def test_a_server_without_a_list_of_models(scripted: Scripted, status: int, body: bytes, up: bool) -> None:
    """It is up where it says so in JSON; a proxy whose server is gone has a page or a word."""

    def says_so(handler: Handler) -> None:
        handler.reply(body, status=status)

    scripted.acts |= {"/v1/models": says_so, "/health": says_so}
    engine = OpenAICompatible(EndpointOptions(scripted.url))
    failure, probe = engine.healthy(), engine.probe()
    assert (failure is None, probe.usable) == (up, up)
    if failure is None:
        assert probe.facts["models"] == []
    else:
        assert failure.status == status
    assert LlamaServer(EndpointOptions(scripted.url)).healthy() is not None


@pytest.mark.parametrize(
    ("act", "name", "words"),
    [
        (
            {"error": "Unexpected endpoint or method. (GET /v1/models)"},
            "server_error",
            "/v1/models: Unexpected endpoint",
        ),
        ({"detail": "Not Found"}, "server_error", "Not Found"),
        ({"object": "error", "message": "no such page"}, "server_error", "no such page"),
        ({"code": 503, "message": "is loading"}, "unavailable", "is loading"),
        ({"error": {"message": "no such key", "code": 401}}, "not_allowed", "no such key"),
        (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/x\r\n", "server_error", "redirects to http://127.0.0.1:9/x;"),
        (b"HTTP/1.1 429 X\r\nRetry-After: 30\r\n", "busy", "Retry-After: 30"),
        (b"HTTP/1.1 200 X\r\nContent-Encoding: br\r\n", "bad_reply", "compressed with br"),
    ],
    ids=[
        "error with 200",
        "detail",
        "object",
        "code",
        "status in an error with 200",
        "redirect",
        "when to come back",
        "compressed",
    ],
)
def test_a_small_answer_that_is_none(scripted: Scripted, act: Any, name: str, words: str) -> None:
    def says_so(handler: Handler) -> None:
        handler.wfile.write(act + b"Content-Length: 0\r\n\r\n")

    scripted.acts["/v1/models"] = says_so if isinstance(act, bytes) else act
    engine = OpenAICompatible(EndpointOptions(scripted.url))
    for failure in (engine.healthy(), engine.probe().failure):
        assert failure is not None
        assert failure.failure_class.name == name
        assert words in failure.detail


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org", "neither this machine's loopback nor an allowed host"),
        ("http://127.0.0.1.example.org", "neither"),
        ("http://user:pass@127.0.0.1", "expected http://HOST:PORT, found one with a user or password in it"),
        ("http://127.0.0.1:0", "expected http://HOST:PORT"),
        ("http://[::1", "url: "),
        ("http://127.0.0.1:99999999", "url: "),
        ("127.0.0.1:8080", "expected http://HOST:PORT"),
        ("file:///etc/passwd", "expected http://HOST:PORT"),
    ],
)
def test_prompts_do_not_leave_the_machine_silently(url: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        OpenAICompatible(EndpointOptions(url))
    assert words in caught.value.failure.detail


def test_hosts_that_may_be_asked() -> None:
    for name in ("API.example.ORG", "api.example.org"):
        OpenAICompatible(EndpointOptions("https://Api.Example.org/v1", allowed_hosts=frozenset({name}))).close()
    for url in ("http://localhost:1", "http://127.9.9.9/v1", "http://[::1]:8080/v1/", "https://127.0.0.1"):
        OpenAICompatible(EndpointOptions(url))
    OpenAICompatible(EndpointOptions("http://llama_server:8080", allowed_hosts=frozenset({"llama_server"})))
    engine = OpenAICompatible(
        EndpointOptions("https://api.example.org/v1", allowed_hosts=frozenset({"api.example.org"}))
    )
    assert engine._server.url == "https://api.example.org"


def test_numbers_that_are_none(scripted: Scripted, llama: LlamaServer) -> None:
    """Counts and times of a stranger."""
    scripted.acts[CHAT] = says(
        delta("\ud800", finish=7),
        {
            "usage": {"prompt_tokens": True, "completion_tokens": -1},
            "timings": {"prompt_ms": "8", "predicted_ms": 1e300},
        },
    )
    result = llama.start(Request(prompt="x")).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "replacement_characters"
    assert result.usage.as_dict() == {
        "chunks": 1, "prompt_tokens": None, "completion_tokens": None, "cached_tokens": None,
        "prompt_ms": None, "predicted_ms": None,
    }  # fmt: skip


def test_a_server_that_resets(llama: LlamaServer, scripted: Scripted) -> None:
    def act(handler: Handler) -> None:
        handler.begin()
        handler.event(delta("a"))
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    scripted.acts[CHAT] = act
    event = last(llama, Request(prompt="x"))
    assert isinstance(event, Failed)
    assert event.failure.failure_class.name == "connection"
