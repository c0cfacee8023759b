"""What servers really send in place of a tidy stream: one row a case, read alike by client, engine and worker."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from chats import GOOD, HEAD, LARGE, LEFT, ROLE, STOP, TAIL, USAGE, Chunk, chunk, data
from trialbench.engines.llama.messages import QUIET_S, REST_S, StreamedReply, read_document
from trialbench.engines.openai import EndpointOptions, OpenAICompatible
from trialbench.measure.client import ChatClient
from trialbench.measure.engine_client import EngineClient
from trialbench.measure.sample import Sample, judge
from trialbench.workloads import Workload

# The kind it stands for, and the bytes: each of them is the reply "left large".
WHOLE: list[tuple[str, bytes]] = [
    ("a tidy one", GOOD),
    ("field retry", b"retry: 3000\n\n" + GOOD),
    ("field id", GOOD.replace(b"data: {", b"id: 7\ndata: {")),
    ("field id in an event of its own", HEAD + b"id: 7\n\n" + TAIL),
    ("field without a colon", HEAD + b"id\n\nretry\n\n" + TAIL),
    ("unknown field", HEAD + b"trace: 5\n\n" + TAIL),
    ("event that is called message", GOOD.replace(b"data: {", b"event: message\ndata: {")),
    ("event that is called like its object", GOOD.replace(b"data: {", b"event: chat.completion.chunk\ndata: {")),
    ("name behind the data", GOOD.replace(b"}\n\n", b"}\nevent: message\n\n")),
    ("event of another kind", HEAD + b'event: tool.progress\ndata: {"status": "running"}\n\n' + TAIL),
    ("event of another kind, with a message", HEAD + b'event: progress\ndata: {"message": "step 2"}\n\n' + TAIL),
    ("event of another kind that is no JSON", HEAD + b"event: ping\ndata: 2026-11-30 12:00\n\n" + TAIL),
    ("event without data", HEAD + b"event: ping\n\n" + TAIL),
    ("event whose name and data are apart", HEAD + b'event: ping\n\ndata: {"type": "ping"}\n\n' + TAIL),
    ("comments", b": hello\n\n" + HEAD + b":\n\n: keep-alive\n\n" + TAIL),
    ("empty data", HEAD + b"data:\n\ndata: \n\ndata\n\n" + TAIL),
    ("null as data", HEAD + data("null") + TAIL),
    ("empty object as data", HEAD + data("{}") + TAIL),
    ("data in several lines", HEAD + b'data: {"model": "m",\ndata:  "choices":\ndata: []}\n\n' + TAIL),
    ("a reply in several lines", b"".join(
        b"".join(b"data: " + line + b"\n" for line in json.dumps(one, indent=1).encode().split(b"\n")) + b"\n"
        for one in (LEFT, LARGE, STOP)
    )),
    ("no blank behind the colon", GOOD.replace(b"data: ", b"data:")),
    ("no empty lines between", GOOD.replace(b"\n\n", b"\n")),
    ("no empty lines between, no line end at the end", GOOD.replace(b"\n\n", b"\n").rstrip()),
    ("no empty line before [DONE], no line end behind it", data(LEFT, LARGE, STOP).rstrip() + b"\ndata: [DONE]"),
    ("no empty lines between named ones", GOOD.replace(b"data: {", b"event: message\ndata: {").replace(b"\n\n", b"\n")),
    ("more empty lines", GOOD.replace(b"\n\n", b"\n\n\n\n")),
    ("byte-order mark", b"\xef\xbb\xbf" + data(LEFT) + TAIL),
    ("line ends CR LF", GOOD.replace(b"\n", b"\r\n")),
    ("line ends CR", GOOD.replace(b"\n", b"\r")),
    ("no line end at the end", GOOD.rstrip()),
    ("one line end at the end", GOOD.rstrip() + b"\n"),
    ("no line end behind the finish reason", data(LEFT, LARGE, STOP).rstrip()),
    ("finish reason and no [DONE]", data(LEFT, LARGE, STOP)),
    ("finish reason, usage and no [DONE]", data(LEFT, LARGE, STOP, USAGE)),
    ("finish reason, then cut within the usage", data(LEFT, LARGE, STOP) + b'data: {"usage": {"prom'),
    ("finish reason with the last text", data(LEFT, chunk(" large", "stop"), "[DONE]")),
    ("finish reason, then null", data(LEFT, LARGE, STOP, chunk(), "[DONE]")),
    ("finish reason \"\" in each chunk", data(chunk("left", ""), chunk(" large", ""), STOP, "[DONE]")),
    ("finish reason in each chunk", data(chunk("left", "stop"), chunk(" large", "stop"), "[DONE]")),
    ("garbage behind [DONE]", GOOD + b"data: {broken\n\nwhat?\n"),
    ("error behind [DONE]", GOOD + b'event: error\ndata: {"error": {"message": "late"}}\n\n'),
    ("text behind [DONE]", GOOD + data(chunk("!"))),
    ("blank behind [DONE]", GOOD.replace(b"[DONE]", b"[DONE] ")),
    ("two [DONE]", GOOD + data("[DONE]")),
    ("error null", data(*({**one, "error": None} for one in (ROLE, LEFT, LARGE, STOP)), "[DONE]")),
    ("error empty", data(*({**one, "error": {}} for one in (LEFT, LARGE, STOP)), "[DONE]")),
    ("error \"\"", data(*({**one, "error": ""} for one in (LEFT, LARGE, STOP)), "[DONE]")),
    ("error false", data(*({**one, "error": False} for one in (LEFT, LARGE, STOP)), "[DONE]")),
    ("usage without choices", data(LEFT, LARGE, STOP, {"usage": {"completion_tokens": 2}}, "[DONE]")),
    ("usage with choices null", data(LEFT, LARGE, STOP, {"choices": None, "usage": {}}, "[DONE]")),
    ("usage of another type", data(LEFT, LARGE, {**STOP, "usage": [1], "timings": "fast"}, "[DONE]")),
    ("choices null at first", data({"choices": None}) + GOOD),
    ("choice null", data({"choices": [None]}) + GOOD),
    ("delta null", data({"choices": [{"index": 0, "delta": None}]}) + GOOD),
    ("delta missing", data({"choices": [{"index": 0}]}) + GOOD),
    ("delta empty text", data({"choices": [{"index": 0, "delta": ""}]}) + GOOD),
    ("content null", data({"choices": [{"delta": {"role": "assistant", "content": None}}]}) + GOOD),
    ("object and model null", data({**LEFT, "object": None, "model": None}, LARGE, STOP, "[DONE]")),
    ("the whole message once more", HEAD + data(LARGE, {"choices": [{"message": {"content": "left large"},
                                                                     "finish_reason": "stop"}]}, "[DONE]")),
    ("the message in place of deltas", data({"choices": [{"message": {"content": "left large"},
                                                          "finish_reason": "stop"}]}, "[DONE]")),
    ("content in parts", data({"choices": [{"delta": {"content": [{"type": "text", "text": "left large"}]}}]}, STOP)),
    ("a second choice", data({"choices": [{"index": 0, "delta": {"content": "left large"}},
                                          {"index": 1, "delta": {"content": "right"}}]},
                             {"choices": [{"index": 1, "delta": {"content": "!"}, "finish_reason": "length"}]}, STOP)),
    ("line separators in the JSON", GOOD + "data: {\"x\": \"\u2028\u0085\"}\n\n".encode()),
]  # fmt: skip

ERROR = {"error": {"message": "engine died", "code": 502}}
DIED = (None, "server_error", "engine died")
NONE = (None, "bad_reply", "events without choices")
JSON, NDJSON = "application/json", "application/x-ndjson"
ANSWER: dict[str, Any] = {"choices": [{"message": {"content": "left large"}, "finish_reason": "stop"}]}
# The kind, the bytes, the error class, and words of the detail. `None` as content type: an event stream.
FAILED: list[tuple[str, bytes, str | None, str, str]] = [
    ("error object", HEAD + data(ERROR), *DIED),
    ("error object, and more", HEAD + data(ERROR) + TAIL, *DIED),
    ("error as a text", HEAD + data({"error": "engine died"}), *DIED),
    ("error in an error", HEAD + data({"error": {"error": {"message": "engine died"}}}), *DIED),
    ("error as JSON in a text", HEAD + data({"error": json.dumps(ERROR)}), *DIED),
    ("error without a message", HEAD + data({"error": {"code": 7}}), None, "server_error", '"code": 7'),
    ("event: error", HEAD + b"event: error\n" + data(ERROR), *DIED),
    ("event: error, message beside", HEAD + b'event: error\ndata: {"message": "engine died"}\n\n', *DIED),
    ("event: error, text", HEAD + b"event: error\ndata: engine died\n\n", *DIED),
    ("event: error, data first", HEAD + b'data: {"message": "engine died"}\nevent: error\n\n', *DIED),
    ("event: Error", HEAD + b'event: Error\ndata: {"detail": "engine died"}\n\n', *DIED),
    ("event: error at the end", HEAD + b'event: error\ndata: {"error": "engine died"}', *DIED),
    ("field error", HEAD + b'error: {"code":500,"message":"engine died"}\n\n', *DIED),
    ("object error", HEAD + data({"object": "error", "message": "engine died", "code": 500}), *DIED),
    ("type error", HEAD + data({"type": "error", "message": "engine died"}), *DIED),
    ("type of an error", HEAD + data({"type": "server_error", "message": "engine died"}), *DIED),
    ("status of an error", HEAD + data({"status": 500, "msg": "engine died"}), *DIED),
    ("detail", HEAD + data({"detail": "engine died"}), *DIED),
    ("detail in a list", HEAD + data({"detail": [{"loc": ["body"], "msg": "engine died"}]}), *DIED),
    ("error beside choices", HEAD + data({**STOP, **ERROR}, "[DONE]"), *DIED),
    ("error within a choice", HEAD + data({"choices": [{"delta": {}, **ERROR}]}, "[DONE]"), *DIED),
    ("error behind the finish reason", HEAD + data(STOP, ERROR), *DIED),
    ("error outside of an event", HEAD + json.dumps(ERROR).encode(), *DIED),
    ("error in place of a stream", json.dumps(ERROR).encode(), JSON, *DIED[1:]),
    ("error in place of a stream, in lines", json.dumps(ERROR, indent=2).encode(), JSON, *DIED[1:]),
    ("error in place of a stream, wrong type", json.dumps(ERROR).encode(), *DIED),
    ("detail in place of a stream", b'{"detail": "Not Found"}', JSON, "server_error", "Not Found"),
    ("message in place of a stream", b'{"message": "no such model"}', JSON, "server_error", "no such model"),
    ("errors in place of a stream", b'{"ok": false, "errors": [{"message": "quota"}]}', JSON, "server_error", "quota"),
    ("a page", b"<html><body>login</body></html>", "text/html", "bad_reply", "found text/html: '<html>"),
    ("a page, wrong type", b"<html><body>login</body></html>", None, "bad_reply", "expected a stream of events"),
    ("a whole reply", json.dumps(ANSWER).encode(), JSON, "bad_reply", "found a whole reply"),
    ("another protocol", b'{"message": {"content": "left"}}\n{"done": true}\n', NDJSON, "bad_reply", NDJSON),
    ("events of another protocol", data({"type": "ping"}, {"type": "message_stop"}), *NONE),
    ("a text completion", data({"choices": [{"text": "left"}]}), None, "bad_reply", "the text of a completion"),
    ("no JSON", HEAD + data("{broken"), None, "bad_json", "{broken"),
    ("a list", HEAD + data("[1]"), None, "bad_reply", "found a list"),
    ("choices that are none", HEAD + data({"choices": {"a": 1}}), None, "bad_reply", "choices: expected a list"),
    ("a choice that is none", HEAD + data({"choices": [7]}), None, "bad_reply", "choices[0]"),
    ("a delta that is none", HEAD + data({"choices": [{"delta": "left"}]}), None, "bad_reply", "choices[0].delta"),
    ("a content that is none", HEAD + data(chunk(7)), None, "bad_reply", "content: expected"),
    ("nested too deeply", HEAD + b"data: " + b"[" * 100_000 + b"\n\n", None, "bad_json", "RecursionError"),
    ("nothing", b"", None, "dropped", "before the reply did"),
    ("no end", HEAD, None, "dropped", "no finish reason, no [DONE]"),
    ("no end, cut within an event", HEAD + b'data: {"choices": [{"del', None, "dropped", "no finish reason, no [DONE]"),
    ("no end, last words", HEAD + b"Internal Server Error\n", None, "dropped", "Internal Server Error"),
    ("[DONE] and no finish reason", HEAD + data("[DONE]"), None, "finish_reason", "found None"),
    ("another finish reason", HEAD + data(chunk(finish="eos_token"), "[DONE]"), None, "finish_reason", "'eos_token'"),
    ("a finish reason that is an object", HEAD + data(chunk(finish={"type": "abort"})), None, "finish_reason", "abort"),
]  # fmt: skip


def ids(rows: list[Any]) -> list[str]:
    return [row[0] for row in rows]


@pytest.fixture(params=["client", "engine"])
def ask(request: pytest.FixtureRequest, server: Any, nav: Workload) -> Callable[..., Sample]:
    """Asks the scripted server as one of them does, and judges the reply."""

    def once(timeout_s: float = 20.0) -> Sample:
        client: Any = (
            ChatClient(server.url, stream=True)
            if request.param == "client"
            else EngineClient(OpenAICompatible(EndpointOptions(server.url)))
        )
        try:
            reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=timeout_s, connect_timeout_s=5.0)
        finally:
            client.close()
        return judge(reply, 1, nav, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")

    return once


@pytest.mark.parametrize(("kind", "body"), WHOLE, ids=ids(WHOLE))
def test_whole_replies(server: Any, acts: Any, ask: Callable[..., Sample], kind: str, body: bytes) -> None:
    server.script = [acts.closes_after(acts.http(body, kind="text/event-stream"))]
    sample = ask()
    assert (sample.error_class, sample.content, sample.finish_reason) == (None, "left large", "stop"), kind
    assert sample.ttft_ms is not None
    assert sample.latency_ms is not None


@pytest.mark.parametrize(("kind", "body", "type_", "error_class", "words"), FAILED, ids=ids(FAILED))
def test_failed_replies(
    server: Any,
    acts: Any,
    ask: Callable[..., Sample],
    kind: str,
    body: bytes,
    type_: str | None,
    error_class: str,
    words: str,
) -> None:
    server.script = [acts.closes_after(acts.http(body, kind=type_ or "text/event-stream"))]
    sample = ask()
    assert sample.error_class == error_class, (kind, sample.error_detail)
    assert words in str(sample.error_detail)


@pytest.mark.parametrize(("kind", "body"), WHOLE, ids=ids(WHOLE))
def test_how_the_bytes_are_cut_changes_nothing(kind: str, body: bytes) -> None:
    reading = StreamedReply()
    pieces = [piece for at in range(len(body)) for piece in reading.feed(body[at : at + 1], float(at))] + reading.end()
    assert (reading.message.content, reading.message.finish_reason) == ("left large", "stop"), kind
    assert "".join(piece.text for piece in pieces) == "left large"


# Bytes around the end that say something else when a reader decides before their line has ended.
CUT: list[tuple[str, bytes]] = [
    ("[DONE] as a text behind data that is no document", b'data:\0\ndata: "[DONE]"\n'),
    ("[DONE] behind half a document", b'data: {"choices":\ndata: [DONE]\n'),
    ("[DONE] behind half a document, and more", b'data: {"choices":\ndata: "[DONE] here"\n\n' + GOOD),
    ("[DONE] behind a document, in one event", data(LEFT, LARGE) + data(STOP).rstrip() + b"\ndata: [DONE] 7\n"),
    ("[DONE] behind a mark in the middle", data(LEFT) + b"\xef\xbb\xbfdata: [DONE] here\n\n"),
    ("[DONE] behind the mark of a file", b"\xef\xbb\xbfdata: [DONE] here\n\n"),
    ("an event nobody knows, with CR LF", b"event: progress\r\ndata: 7 %\r\n\r\n" + data(LEFT, LARGE)),
    ("[DONE] in an error's name", b"event: error\ndata: [DONE] with it\n\n"),
    ("CR LF behind a name", (b"event: progress\ndata: 7 %\n\n" + GOOD).replace(b"\n", b"\r\n")),
    ("a second choice first", data({"choices": [{"index": 1, "delta": {"content": "right"}}]}) + GOOD),
    ("a second choice alone", data({"choices": [{"index": 1, "delta": {"content": "right"}}]}, "[DONE]")),
    ("a page", b"<html>\n<body>login\n</body></html>\n"),
]


@pytest.mark.parametrize(("kind", "body"), [*CUT, *((row[0], row[1]) for row in FAILED)], ids=[*ids(CUT), *ids(FAILED)])
def test_how_the_bytes_are_cut_changes_no_fault(kind: str, body: bytes) -> None:
    read: list[Any] = []
    bytes_ = [body[at : at + 1] for at in range(len(body))]
    for pieces in ([body], bytes_, [body[:-1], body[-1:]], [piece for byte in bytes_ for piece in (byte, b"")]):
        reading = StreamedReply()
        for at, piece in enumerate(pieces):
            reading.feed(piece, float(at))
        reading.end(kind="text/event-stream")
        read.append(reading.message)
    assert all(message == read[0] for message in read), kind


def test_halves_of_a_character_in_two_events(server: Any, acts: Any, ask: Callable[..., Sample]) -> None:
    body = data(chunk("left \ud83d"), chunk("\ude00"), chunk(" large \ud83d"), STOP, "[DONE]")
    server.script = [acts.http(body, kind="text/event-stream")]
    assert ask().content == "left \U0001f600 large \N{REPLACEMENT CHARACTER}"


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


OPEN = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: keep-alive\r\n"
PLAIN = OPEN.replace(b"text/event-stream", b"application/json")
# The kind, and what a server sends before it says nothing more and keeps the connection open.
HELD: list[tuple[str, bytes]] = [
    ("behind [DONE]", OPEN + b"\r\n" + GOOD),
    ("behind [DONE] without a line end", OPEN + b"\r\n" + GOOD.rstrip()),
    ("behind [DONE], chunked without an end", OPEN + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(GOOD)),
    ("behind [DONE], a length that is not reached", OPEN + b"Content-Length: 99999\r\n\r\n" + GOOD),
    ("behind the finish reason", OPEN + b"\r\n" + data(LEFT, LARGE, STOP)),
    ("behind the usage", OPEN + b"\r\n" + data(LEFT, LARGE, STOP, USAGE)),
    (
        "behind the finish reason of choice 1, and no 0",
        OPEN + b"\r\n" + data(LEFT, LARGE, STOP).replace(b': 0, "d', b': 1, "d'),
    ),
    (
        "within the usage",
        OPEN + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(data(LEFT, LARGE, STOP)) + b"40\r\ndata",
    ),
]


@pytest.mark.parametrize(("kind", "sent"), HELD, ids=ids(HELD))
def test_a_whole_reply_is_no_timeout(
    server: Any, acts: Any, ask: Callable[..., Sample], kind: str, sent: bytes
) -> None:
    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(sent)
        return bool(acts.stalls(scripted, connection))

    server.script = [act]
    before = time.monotonic()
    sample = ask(timeout_s=60.0)
    assert (sample.error_class, sample.content) == (None, "left large"), kind
    assert time.monotonic() - before < 30
    assert sample.latency_ms is not None


def test_what_follows_a_whole_reply_is_read_but_is_no_latency(server: Any, ask: Callable[..., Sample]) -> None:
    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(OPEN + b"\r\n" + data(LEFT, LARGE, STOP))
        scripted.released.wait(0.25)
        connection.sendall(data({**USAGE, "timings": {"prompt_n": 5, "prompt_ms": 1.5, "predicted_ms": 2.0}}, "[DONE]"))
        return False

    server.script = [act]
    sample = ask()
    assert (sample.error_class, sample.completion_tokens, sample.prompt_n, sample.server_ms) == (None, 2, 5, 3.5)
    assert sample.latency_ms is not None
    assert sample.latency_ms < 250


def test_keep_alives_do_not_prolong_a_whole_reply(server: Any, ask: Callable[..., Sample]) -> None:
    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(OPEN + b"\r\n" + data(LEFT, LARGE, STOP))
        try:
            while not scripted.released.wait(0.05):
                connection.sendall(b": keep-alive\n\n")
        except OSError:
            pass
        return False

    server.script = [act]
    before = time.monotonic()
    assert ask(timeout_s=60.0).error_class is None
    assert time.monotonic() - before < 30


@pytest.mark.prove
def test_text_behind_a_finish_reason_belongs_to_the_reply(server: Any, ask: Callable[..., Sample]) -> None:
    """Some servers put one into every chunk: it ends nothing, and the next text may take its time."""

    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(OPEN + b"\r\n" + data(chunk("le", "stop"), chunk("ft ", "stop")))
        scripted.released.wait(0.8)
        connection.sendall(data(chunk("large", "stop"), "[DONE]"))
        return False

    server.script = [act]
    sample = ask()
    assert (sample.error_class, sample.content) == (None, "left large")
    assert sample.latency_ms is not None
    assert sample.latency_ms > 800


def other(content: Any = None, finish: Any = None, index: int | None = 1, **delta: Any) -> Chunk:
    """A chunk of another choice than 0, or of one that names none."""
    found = {"delta": {"content": content, **delta}, "finish_reason": finish}
    return {"choices": [found if index is None else {"index": index, **found}]}


CALL = {"tool_calls": [{"index": 0, "function": {"name": "go", "arguments": ""}}]}
MORE = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
# The kind, chunks that come a second apart, how long the rest is waited for, and what the reply is after [DONE].
RESTS: list[tuple[str, list[Chunk], float, Any]] = [
    ("a choice 1 that has ended", [other("left"), other(finish="stop")], 1 + QUIET_S, "left"),
    ("nothing more of it", [other("left", "stop"), other(""), other(None)], 2 + QUIET_S, "left"),
    ("one of two has ended", [other("left", "stop"), other("right", index=2)], math.inf, "left"),
    ("a finish reason in every chunk", [other("le", "stop"), other("ft", "stop")], math.inf, "left"),
    ("then without a text", [other("le", "stop"), other("ft", "stop"), other("", "stop")], math.inf, "left"),
    ("a message in every chunk", [
        {"choices": [{"index": 1, "message": {"content": text}, "finish_reason": "stop"}]} for text in ("le", "left")
    ], math.inf, "left"),
    ("a thought in every chunk", [other(None, "stop", reasoning_content="hm")] * 2, math.inf, None),
    ("a call in every chunk", [other(None, "stop", **CALL), other(None, "stop", **MORE)], math.inf, ("go", "{}")),
    ("a text that is none", [other("left", "stop"), other(7, "stop")], 1 + QUIET_S, "a text or a list of parts"),
    ("a choice without an index behind it", [other("right", "stop"), other("left", index=None)], math.inf, "left"),
    ("choice 0 behind it", [other("right", "stop"), other("left", index=0)], math.inf, "left"),
    ("a choice 0 that has ended", [other("right", "stop"), chunk("left", "stop")], 1 + REST_S, "left"),
    ("a call of choice 0 in every chunk", [
        other(None, "stop", 0, **CALL), other(None, "stop", 0, **MORE)
    ], math.inf, ("go", "{}")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "chunks", "until_s", "reply"), RESTS, ids=ids(RESTS))
def test_how_long_the_rest_of_a_choice_is_waited_for(
    kind: str, chunks: list[Chunk], until_s: float, reply: Any
) -> None:
    reading = StreamedReply()
    for at, one in enumerate(chunks):
        reading.feed(data(one), float(at))
    assert reading.until_s == until_s, kind
    reading.feed(data("[DONE]"), 9.0)
    reading.end()
    message = reading.message
    if message.fault is not None:
        assert reply in message.fault.detail
    else:
        assert reply == (message.tool_calls[0] if message.tool_calls else message.content)


LONG = 60.0
DIED_LINES = json.dumps(ERROR, indent=2).encode()
# The kind, what a server sends before it says nothing more and keeps the connection open, the time limit of the
# request, the error class and words of the detail.
SILENT: list[tuple[str, bytes, float, str, str]] = [
    ("no end", OPEN + b"\r\n" + HEAD, 1.0, "timeout", ""),
    ("error", OPEN + b"\r\n" + HEAD + data(ERROR), LONG, *DIED[1:]),
    ("event: error", OPEN + b"\r\n" + HEAD + b"event: error\ndata: engine died\n\n", LONG, *DIED[1:]),
    ("error outside of an event", OPEN + b"\r\n" + HEAD + json.dumps(ERROR).encode(), LONG, *DIED[1:]),
    ("error outside of an event, in lines", OPEN + b"\r\n" + HEAD + DIED_LINES + b"\n", LONG, *DIED[1:]),
    ("document", PLAIN + b"\r\n" + json.dumps(ERROR).encode(), LONG, *DIED[1:]),
    ("document in lines", PLAIN + b"\r\n" + DIED_LINES, LONG, *DIED[1:]),
    ("document of another form", PLAIN + b"\r\n" + b'{"detail": "Not Found"}\n', LONG, "server_error", "Not Found"),
    ("document, wrong type", OPEN + b"\r\n" + b'{"message": "engine died"}', LONG, *DIED[1:]),
    ("a whole reply", PLAIN + b"\r\n" + json.dumps(ANSWER).encode(), LONG, "bad_reply", "found a whole reply"),
    ("status", PLAIN.replace(b"200", b"500") + b"\r\n" + json.dumps(ERROR).encode(), LONG, "http_500", "engine died"),
]


@pytest.mark.parametrize(("kind", "sent", "timeout_s", "error_class", "words"), SILENT, ids=ids(SILENT))
def test_an_error_says_more_than_the_silence_behind_it(
    server: Any,
    acts: Any,
    ask: Callable[..., Sample],
    kind: str,
    sent: bytes,
    timeout_s: float,
    error_class: str,
    words: str,
) -> None:
    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(sent)
        return bool(acts.stalls(scripted, connection))

    server.script = [act]
    before = time.monotonic()
    sample = ask(timeout_s=timeout_s)
    assert sample.error_class == error_class, (kind, sample.error_detail)
    assert words in str(sample.error_detail)
    assert time.monotonic() - before < LONG / 2


@pytest.mark.prove
def test_a_document_that_goes_on_after_a_pause_is_read_to_its_end(server: Any, nav: Workload) -> None:
    """Half of it may look whole to nobody."""

    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(PLAIN + b"\r\n" + DOCUMENT[:-1])
        scripted.released.wait(0.8)
        connection.sendall(DOCUMENT[-1:])
        return False

    server.script = [act]
    client = ChatClient(server.url)
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=LONG, connect_timeout_s=5.0)
    client.close()
    assert (reply.error_class, reply.content) == (None, "left large")


DOCUMENT = json.dumps(ANSWER).encode()


@pytest.mark.parametrize(
    ("sent", "error_class", "words"),
    [
        (PLAIN + b"\r\n" + DOCUMENT, None, ""),
        (PLAIN + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(DOCUMENT + b"\n"), None, ""),
        (PLAIN + b"\r\n" + json.dumps(ERROR).encode(), "server_error", "engine died"),
        (PLAIN + b"\r\n" + b'{"detail": "Not Found"}', "server_error", "Not Found"),
        (PLAIN + b"\r\n" + b'{"model": "m", "choices": []}', "bad_reply", "found none"),
        (PLAIN.replace(b"200", b"500") + b"\r\n" + json.dumps(ERROR).encode(), "http_500", "engine died"),
    ],
    ids=["no length", "chunked without an end", "error", "detail", "no choice", "status"],
)
def test_a_whole_document_is_no_timeout(
    server: Any, acts: Any, nav: Workload, sent: bytes, error_class: str | None, words: str
) -> None:
    def act(scripted: Any, connection: Any) -> bool:
        connection.sendall(sent)
        return bool(acts.stalls(scripted, connection))

    server.script = [act]
    client = ChatClient(server.url)
    before = time.monotonic()
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=60.0, connect_timeout_s=5.0)
    client.close()
    assert (reply.error_class, reply.content) == (error_class, None if error_class else "left large")
    assert words in str(reply.error_detail)
    assert time.monotonic() - before < 30


@pytest.mark.parametrize(
    ("delta", "counts"),
    [
        ({"content": "x"}, True),
        ({"content": [{"type": "text", "text": "x"}]}, True),
        ({"reasoning_content": "x"}, True),
        ({"reasoning_details": [{"text": "x"}]}, True),
        ({"refusal": "x"}, True),
        ({"tool_calls": [{"function": {"name": "go"}}]}, True),
        ({"content": ""}, False),
        ({"role": "assistant", "content": None, "name": "m"}, False),
        ({"id": "7", "channel": "final", "provider": "p"}, False),
        ({"reasoning_signature": "x", "reasoning_format": "none"}, False),
        ({"tool_calls": []}, False),
    ],
    ids=str,
)
def test_what_counts_as_the_first_token(delta: Chunk, counts: bool) -> None:
    reading = StreamedReply()
    reading.feed(data({"choices": [{"index": 0, "delta": delta}]}), 1.0)
    reading.feed(data(LEFT, STOP), 2.0)
    assert reading.first_s == (1.0 if counts else 2.0)


def part(index: int | None, **function: Any) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": index, "function": function}]}}]}


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        ([part(0, name="go", arguments='{"m": '), part(0, arguments="3}")], [("go", '{"m": 3}')]),
        ([part(None, name="go"), part(None, arguments="{}")], [("go", "{}")]),
        # The name in every part.
        ([part(0, name="go", arguments="{"), part(0, name="go", arguments="}")], [("go", "{}")]),
        # Two calls, in turns; and two of the same function.
        (
            [part(0, name="go"), part(1, name="stop"), part(0, arguments="{}"), part(1, arguments="[]")],
            [("go", "{}"), ("stop", "[]")],
        ),
        ([part(None, name="go", arguments="{}")] * 2, [("go", "{}")] * 2),
        # Arguments that are JSON already.
        ([part(0, name="go", arguments={"m": 3})], [("go", '{"m": 3}')]),
        # A part of a call that never began.
        ([part(0, arguments="{}"), part(None, arguments="{}")], []),
    ],
    ids=str,
)
def test_calls_of_functions_are_put_together(parts: list[Chunk], calls: list[tuple[str, str]]) -> None:
    reading = StreamedReply()
    reading.feed(data(*parts, {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}), 1.0)
    reading.end()
    assert list(reading.message.tool_calls or ()) == calls


def test_a_call_in_a_whole_document_has_its_arguments() -> None:
    called = [{"id": "1", "type": "function", "function": {"name": "go", "arguments": '{"m": 3}'}}]
    choice = {"message": {"content": None, "tool_calls": called}, "finish_reason": "tool_calls"}
    message = read_document(json.dumps({"choices": [choice]}).encode())
    assert list(message.tool_calls or ()) == [("go", '{"m": 3}')]


GZIPPED = gzip.compress(json.dumps(ANSWER).encode())
# An answer that is no stream, its error class and words of its detail: the same for both.
REFUSED: list[tuple[str, str, bytes, str, str]] = [
    ("400", "400 X", b'{"error": {"message": "no such field"}}', "http_400", "no such field"),
    ("401", "401 X", b'{"detail": "Invalid API Key"}', "http_401", "Invalid API Key"),
    ("404", "404 X", b"<h1>Not Found</h1>", "http_404", "<h1>Not Found</h1>"),
    ("429", "429 X", b'{"message": "slow down"}', "http_429", "slow down"),
    ("500", "500 X", b"", "http_500", "no text"),
    ("502", "502 X", b"Bad Gateway", "http_502", "Bad Gateway"),
    ("503", "503 X", b'{"error": {"code": 503, "message": "Loading model"}}', "http_503", "Loading model"),
    ("504", "504 X", b"late", "http_504", "late"),
    ("message behind much else", "500 X", b'{"trace": "' + b"x" * 999 + b'", "message": "why"}', "http_500", "why"),
    ("redirect", "307 X\r\nLocation: http://me:pw@127.0.0.1:9/v1?k=s", b"", "http_307", "redirects to http://127.0.0.1:9/v1;"),
    ("redirect within", "308 X\r\nLocation: /v2/", b"", "http_308", "redirects to /v2/;"),
    ("compressed", "200 X\r\nContent-Encoding: gzip", GZIPPED, "bad_json", "compressed with gzip"),
    ("compressed, not named", "200 X", GZIPPED, "bad_json", "compressed with gzip"),
    ("zstd", "200 X\r\nContent-Encoding: zstd", b"\x28\xb5\x2f\xfd", "bad_json", "compressed with zstd"),
    ("compressed error", "500 X\r\nContent-Encoding: gzip", GZIPPED, "http_500", "compressed with gzip"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "head", "body", "error_class", "words"), REFUSED, ids=ids(REFUSED))
def test_answers_that_are_no_reply(
    server: Any, ask: Callable[..., Sample], kind: str, head: str, body: bytes, error_class: str, words: str
) -> None:
    server.script = [f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body]
    sample = ask()
    detail = str(sample.error_detail)
    assert sample.error_class == error_class, kind
    assert words in detail
    assert "me:pw" not in detail
    assert "k=s" not in detail


def test_a_refusal_that_breaks_off_is_one(server: Any, acts: Any, ask: Callable[..., Sample]) -> None:
    server.script = [acts.closes_after(acts.http(b"Loading", status=503, length=99))]
    sample = ask()
    assert (sample.error_class, "Loading" in str(sample.error_detail)) == ("http_503", True)


@pytest.mark.parametrize(
    ("body", "error_class", "words"),
    [
        ({"choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, **ANSWER["choices"][0]}]}, None, ""),
        ({**ANSWER, "error": None}, None, ""),
        ({**ANSWER, "error": {"message": "half"}}, "server_error", "half"),
        ({"choices": [{"error": {"message": "upstream"}, "message": {"content": ""}}]}, "server_error", "upstream"),
        ({"error": "not loaded"}, "server_error", "not loaded"),
        ({"detail": "Not Found"}, "server_error", "Not Found"),
        ({"object": "error", "message": "out of memory"}, "server_error", "out of memory"),
        ({"choices": [{"message": {"content": 7}}]}, "bad_reply", "content: expected a text"),
        ({"choices": [{"text": "left"}]}, "bad_reply", "choices[0].message: expected an object"),
        ([ANSWER], "bad_reply", "found a list"),
        ({"message": {"content": "left"}}, "bad_reply", "without choices"),
    ],
    ids=str,
)
def test_documents(server: Any, acts: Any, nav: Workload, body: Any, error_class: str | None, words: str) -> None:
    server.script = [acts.http(json.dumps(body).encode())]
    client = ChatClient(server.url)
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=20.0, connect_timeout_s=5.0)
    client.close()
    assert reply.error_class == error_class
    assert words in str(reply.error_detail)
    assert error_class is not None or reply.content == "left large"


def test_an_error_event_in_place_of_a_document(server: Any, acts: Any, nav: Workload) -> None:
    server.script = [acts.http(data(ERROR))]
    client = ChatClient(server.url)
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=20.0, connect_timeout_s=5.0)
    client.close()
    assert (reply.error_class, reply.error_detail) == ("server_error", "engine died")


WORDS = json.dumps(ANSWER)


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (WORDS.encode() + b"\n\n", None),
        (b"\xef\xbb\xbf" + WORDS.encode(), None),
        (WORDS.encode("utf-16"), None),
        (WORDS.replace("stop", "st\N{LATIN SMALL LETTER O WITH DIAERESIS}p").encode("latin-1"), "bad_json"),
        (WORDS.encode() * 2, "bad_json"),
        (WORDS.encode() + b"\n\ndata: [DONE]\n\n", "bad_json"),
        (data(chunk("left large", "stop"), "[DONE]"), "bad_json"),
        (b"null", "bad_reply"),
        (b"", "bad_json"),
    ],
    ids=repr,
)
def test_bytes_of_a_document(server: Any, acts: Any, nav: Workload, body: bytes, error_class: str | None) -> None:
    server.script = [acts.http(body)]
    client = ChatClient(server.url)
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=20.0, connect_timeout_s=5.0)
    client.close()
    assert reply.error_class == error_class
    assert error_class is not None or reply.content == "left large"


def test_a_whole_document_whose_length_is_wrong_is_whole(server: Any, acts: Any, nav: Workload) -> None:
    server.script = [acts.closes_after(acts.http(WORDS.encode(), length=5000))]
    client = ChatClient(server.url)
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=20.0, connect_timeout_s=5.0)
    client.close()
    assert (reply.error_class, reply.content) == (None, "left large")
