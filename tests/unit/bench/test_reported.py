"""What people have reported of servers, hubs, documents and voices, one row a case, and what we make of each.

A row names the kind it stands for, the case, the check, what the check is given, and the expected outcome with words of
it. What needs a process, a device or a disk of its own is held by a test elsewhere, which its row names.
"""

from __future__ import annotations

import ast
import base64
import gzip
import json
import math
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import speech
from chats import GOOD, HEAD, LARGE, LEFT, ROLE, STOP, TAIL, USAGE, Chunk, chunk, completion, data
from riff import RATE, form, part, tone, wav
from trialbench import hub
from trialbench.credentials import redact
from trialbench.engines.openai import EndpointOptions, OpenAICompatible
from trialbench.errors import TrialbenchError
from trialbench.hub.registry import parse_reference
from trialbench.hub.route import proxy_for
from trialbench.measure.client import ChatClient
from trialbench.measure.engine_client import EngineClient
from trialbench.measure.sample import judge
from trialbench.report.documents.markdown import Page, Refused
from trialbench.report.documents.registry import registry_edits
from trialbench.report.documents.research import research_edits
from trialbench.urls import server as server_of
from trialbench.workloads import Workload
from trials import LABEL, RUN

TESTS = Path(__file__).resolve().parent
SECRET = "hf_S3cretS3cretS3cret"
# Nobody waits so long for what is whole, however busy the machine is.
LONG_S = 300.0


class Case(NamedTuple):
    """One row; `words` are in what the check tells, all of it for a document."""

    kind: str
    what: str
    check: Callable[..., tuple[str, str]]
    given: Any
    outcome: str
    words: str = ""


class Place(NamedTuple):
    """What checks may use."""

    server: Any
    acts: Any
    nav: Workload
    began_s: float
    set_variable: Callable[[str, str], None]


# ---- the checks: each gives an outcome and what is told of it ----


def _judged(place: Place, client: Any, timeout_s: float = 20.0) -> tuple[str, str]:
    try:
        reply = client.send(client.encode(place.nav, cache_prompt=False), timeout_s=timeout_s, connect_timeout_s=5.0)
    finally:
        client.close()
    sample = judge(reply, 1, place.nav, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
    facts = f"{sample.content}, {sample.completion_tokens} tokens, {sample.server_ms} ms, of {sample.model}"
    return sample.error_class or "valid", sample.error_detail or f"{facts}, flags {' '.join(sample.flags)}"


def _both(place: Place, timeout_s: float = 20.0) -> tuple[str, str]:
    """As `--stream` and as `--engine` see it, which must be the same."""
    found = _judged(place, ChatClient(place.server.url, stream=True), timeout_s)
    other = _judged(place, EngineClient(OpenAICompatible(EndpointOptions(place.server.url))), timeout_s)
    assert found[0] == other[0], (found, other)
    return found


def stream(place: Place, body: bytes) -> tuple[str, str]:
    """The events that are sent, whatever ends the connection."""
    return answer(place, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body)


def answer(place: Place, raw: bytes) -> tuple[str, str]:
    """The whole answer to a request for a stream; the connection is closed behind it."""
    place.server.script = [place.acts.closes_after(raw)]
    return _both(place)


def held_answer(place: Place, raw: bytes) -> tuple[str, str]:
    """The whole answer to a request for a document, before nothing more comes over a connection that stays open."""

    def act(server: Any, connection: Any) -> bool:
        connection.sendall(raw)
        return bool(place.acts.stalls(server, connection))

    place.server.script = [act]
    found = _judged(place, ChatClient(place.server.url), LONG_S)
    assert time.monotonic() - place.began_s < LONG_S, "it was waited for"
    return found


def held(place: Place, body: bytes) -> tuple[str, str]:
    """The events that are sent before nothing more comes over a connection that stays open."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: keep-alive\r\n\r\n"
    ended: list[bool] = []

    def act(server: Any, connection: Any) -> bool:
        connection.sendall(head + body)
        ended.append(bool(place.acts.stalls(server, connection)))
        return ended[-1]

    place.server.script = [act]
    found = _both(place, LONG_S)
    assert not ended, "the connection's end was waited for"
    return found


def document(place: Place, body: bytes | Chunk) -> tuple[str, str]:
    """The document that is sent."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return raw_document(place, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + raw)


def raw_document(place: Place, raw: bytes) -> tuple[str, str]:
    """The whole answer to a request for a document; the connection is closed behind it."""
    place.server.script = [place.acts.closes_after(raw)]
    return _judged(place, ChatClient(place.server.url))


def url(_place: Place, text: str) -> tuple[str, str]:
    """The URL of a server."""
    return _refused_or(lambda: ("asked", server_of(text, "--url")))


def image(_place: Place, text: str) -> tuple[str, str]:
    """The name of an image."""
    return _refused_or(lambda: ("asked", parse_reference(text).url))


def token(place: Place, value: str) -> tuple[str, str]:
    """HF_TOKEN."""
    place.set_variable("HF_TOKEN", value)
    return _refused_or(lambda: ("used", hub.token() or "none"))


def words_with(place: Place, given: tuple[dict[str, str], str, str]) -> tuple[str, str]:
    """A variable with a secret, words that hold it in some form, and a part of them that would tell it."""
    for name, value in given[0].items():
        place.set_variable(name, value)
    said = redact(given[1])
    return "shown" if given[2] in said else "hidden", said


def echo(place: Place, raw: bytes) -> tuple[str, str]:
    """The answer of a server that shows the key that it was sent."""
    place.set_variable("TRIALBENCH_API_KEY", SECRET)
    return answer(place, raw)


def proxy(place: Place, given: tuple[dict[str, str], str]) -> tuple[str, str]:
    """Variables of the environment, and what is asked for."""
    for name, value in given[0].items():
        place.set_variable(name, value)

    def ask() -> tuple[str, str]:
        found = proxy_for(httpx.URL(given[1]))
        return ("direct", "") if found is None else ("by proxy", str(found.url))

    return _refused_or(ask)


def _refused_or(ask: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    try:
        return ask()
    except TrialbenchError as error:
        return "refused", str(error)


def _edited(make: Any, text: str) -> str | None:
    page = Page("DOC.md", text)
    try:
        return page.edited(make(page, RUN))
    except Refused:
        return None


def research(_place: Place, text: str) -> tuple[str, str]:
    """A research document; what is left of it around the block."""
    after = _edited(research_edits, text)
    return ("refused", text) if after is None else ("replaced", re.sub(r"(?s)<!-- model-trial.*end -->", "#", after))


MODELS = "| Model | VRAM GB | Status |\n|---|---|---|\n| E2B | 4.8 | active |\n| Chatterbox | 4.2 | active |"


def _registry(models: str = MODELS, peak: str = "Steady-state peak: 9.0 GB", log: str = "* 2026-06-02: new") -> str:
    return f"# R\n\n## Active Models\n\n{models}\n\n{peak}\n\n## Change Log\n\n{log}\n"


def peak(_place: Place, line: str) -> tuple[str, str]:
    """The line with the steady-state peak; it is 9 GB."""
    after = _edited(registry_edits, _registry(peak=line))
    return ("refused", line) if after is None else ("written", after.split("\n\n## Change")[0].rpartition("\n\n")[2])


def row(_place: Place, cell: str) -> tuple[str, str]:
    """The cell that names the model; it gets a row of its own, or none."""
    after = _edited(registry_edits, _registry(f"{MODELS}\n| {cell} | 5.0 | retired |"))
    if after is None:
        return "refused", cell
    models = after.partition("Steady-state")[0]
    return "another" if "retired" in models else "found", cell


def log(_place: Place, lines: str) -> tuple[str, str]:
    """The change log; the line above ours and the line below it."""
    after = _edited(registry_edits, _registry(log=lines))
    if after is None:
        return "refused", lines
    shown = [line for line in after.partition("## Change Log")[2].splitlines() if line.strip()]
    [at] = [at for at, line in enumerate(shown) if "tried on panda" in line]
    return "written", f"{shown[at - 1] if at else 'the top'} / {shown[at + 1] if at + 1 < len(shown) else 'the end'}"


def voice(_place: Place, raw: bytes) -> tuple[str, str]:
    """What a speech service sends."""
    spoken = speech.judge(200, raw, 1000)
    return "speaks" if spoken.ok else "mute", spoken.found


def elsewhere(_place: Place, name: str) -> tuple[str, str]:
    """The test that holds it."""
    file, _, function = name.partition("::")
    return "held" if function in _functions(TESTS / file) else "gone", name


@cache
def _functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


# ---- what the rows are made of ----


def with_field(line: bytes) -> bytes:
    """The reply with a field before each event's data."""
    return GOOD.replace(b"data: {", line + b"\ndata: {")


def between(block: bytes) -> bytes:
    """The reply with a block between its words."""
    return HEAD + block + TAIL


def ends(finish: Any) -> bytes:
    """The reply with another finish reason."""
    return HEAD + data(LARGE, chunk(finish=finish), USAGE, "[DONE]")


def delta(**fields: Any) -> bytes:
    """The reply with a delta before its words."""
    return data({"model": "m", "choices": [{"index": 0, "delta": fields}]}) + GOOD


def counted(**usage: Any) -> Chunk:
    """The reply with another usage."""
    return {**completion(), "usage": usage}


def said(content: str, finish: Any = None) -> Chunk:
    """A chunk that has a message in place of a delta."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}]}


def timed(timings: Any) -> Chunk:
    """The reply with timings."""
    return {**completion(), "timings": timings}


def http(head: str, body: bytes = b"") -> bytes:
    """An answer with this status line and these headers."""
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


OK = "HTTP/1.1 200 OK\nContent-Type: application/json"
WORDS = json.dumps(completion()).encode()
DIED = {"error": {"message": "engine died", "type": "server_error", "code": 500}}
MINIMAX = {"choices": None, "usage": {"total_tokens": 0},
           "base_resp": {"status_code": 1004, "status_msg": "engine died"}}  # fmt: skip
LONG_PAGE = (b'<!DOCTYPE html>\n' + b'<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->\n' * 5
             + b"<head><style>a > b {}</style><title>example | 502: Bad gateway</title></head>")  # fmt: skip
PCM = tone()
FLOATS = struct.pack(f"<{RATE}f", *(0.3 * math.sin(at / 17) for at in range(RATE)))


def streamed(size: int) -> bytes:
    """A WAV of a program that did not know its size."""
    return wav(form(), part(b"data", PCM, size), size=min(size + 36, 0xFFFFFFFF))


GUID = bytes.fromhex("000000001000800000aa00389b71")
HEADS = "### 2026-09-14\n\n- E2B replaces 3n.\n\n### 2026-06-02\n\n- Chatterbox added."
SAYS, NO_MORE = "No benchmarks exist yet", "It needs b6000."


def each(form_: Callable[[str], str], secret: str = SECRET) -> str:
    """The secret, each character of it in another form."""
    return "".join(map(form_, secret))


def ordered(*indexes: int) -> bytes:
    """A stream of two choices; those of index 0 are the reply, as the official client's user reads it."""
    words = {0: iter((LEFT, LARGE, STOP)), 1: iter((other("right"), other(" small"), other(finish="length")))}
    return data(*(next(words[index]) for index in indexes), "[DONE]")


def other(content: str | None = None, finish: str | None = None) -> Chunk:
    """A chunk of choice 1."""
    found = chunk(content, finish)
    return {**found, "choices": [{**found["choices"][0], "index": 1}]}


HUB, KEY, BY_PROXY = "HF_TOKEN", "TRIALBENCH_API_KEY", "HTTPS_PROXY"
KEY_OF_MANY = "sk-" + "Ab3" * 30
LINES_OF_MAIL = base64.encodebytes(f"x:{KEY_OF_MANY}".encode()).decode()
SIGNS = 'k3y/"q+\\z=%41~end'
RANDOM = "sk-proj-9aXk2Lq7ZtB4mWv8RcYe1NfUj6Hd"
TWICE = base64.b64encode(base64.b64encode(f"u:{RANDOM}".encode())).decode()
NAMED = SIGNS.replace("/", "&sol;").replace('"', "&quot;").replace("+", "&plus;").replace("=", "&equals;")
DOUBLES = struct.pack(f"<{RATE}d", *(0.3 * math.sin(at / 17) for at in range(RATE)))
PAGE = b"<!DOCTYPE html>\n<html><body>the proxy says no</body></html>\n"

CASES: tuple[Case, ...] = (
    # ---- streams: fields and events ----
    Case("stream", "a tidy one", stream, GOOD, "valid", "left large, 2 tokens"),
    Case("stream: fields", "retry alone", stream, b"retry: 3000\n\n" + GOOD, "valid", "left large, 2 tokens"),
    Case("stream: fields", "id alone", stream, between(b"id: 7\n\n"), "valid", "left large"),
    Case("stream: fields", "id before data", stream, with_field(b"id: 7"), "valid", "left large"),
    Case("stream: fields", "event alone", stream, between(b"event: ping\n\n"), "valid", "left large"),
    Case("stream: fields", "event: message before data", stream, with_field(b"event: message"), "valid", "left large"),
    Case("stream: fields", "an event of the server's own", stream,
         between(b'event: tool.progress\ndata: {"status": "running"}\n\n'), "valid", "left large"),
    Case("stream: fields", "a ping with data", stream, between(b'event: ping\ndata: {"type": "ping"}\n\n'), "valid"),
    Case("stream: fields", "event and data apart", stream, between(b'event: ping\n\ndata: {"type": "ping"}\n\n'),
         "valid"),
    Case("stream: fields", "comments", stream, b": keep-alive\n\n" + between(b": ping\n\n"), "valid", "left large"),
    Case("stream: fields", "a queue's comments", stream, b": PROCESSING\n\n" * 3 + GOOD, "valid", "left large"),
    Case("stream: data", "empty", stream, between(b"data:\n\n"), "valid", "left large"),
    Case("stream: data", "a blank", stream, between(b"data: \n\n"), "valid", "left large"),
    Case("stream: data", "no blank behind the colon", stream, GOOD.replace(b"data: ", b"data:"), "valid", "left large"),
    Case("stream: data", "{}", stream, between(b"data: {}\n\n"), "valid", "left large"),
    Case("stream: data", "no empty lines between", stream, GOOD.replace(b"\n\n", b"\n"), "valid", "left large"),
    Case("stream: line ends", "CR LF", stream, GOOD.replace(b"\n", b"\r\n"), "valid", "left large"),
    Case("stream: line ends", "none at the end", stream, GOOD.rstrip(), "valid", "left large, 2 tokens"),
    Case("stream: mark", "byte-order mark", stream, b"\xef\xbb\xbf" + data(LEFT) + TAIL, "valid", "left large"),
    # ---- streams: choices, deltas, counts ----
    Case("stream: choices", "none at first", stream, data({"choices": [], "prompt_filter_results": []}) + GOOD,
         "valid"),
    Case("stream: choices", "usage without them", stream,
         data(LEFT, LARGE, STOP, {"usage": USAGE["usage"]}, "[DONE]"), "valid", "left large, 2 tokens"),
    Case("stream: choices", "usage with null", stream,
         data(LEFT, LARGE, STOP, {"choices": None, "usage": USAGE["usage"]}, "[DONE]"), "valid",
         "left large, 2 tokens"),
    Case("stream: choices", "two of them", stream,
         data({"choices": [{"index": 0, "delta": {"content": "left large"}},
                           {"index": 1, "delta": {"content": "right"}}]}, STOP, "[DONE]"), "valid", "left large,"),
    Case("stream: delta", "content null", stream, delta(role="assistant", content=None), "valid", "left large"),
    Case("stream: delta", "object null", stream, data({**LEFT, "object": None}) + TAIL, "valid", "left large"),
    Case("stream: delta", "content in parts", stream,
         data(chunk([{"type": "text", "text": "left large"}]), STOP), "valid", "left large"),
    Case("stream: delta", "audio and no text", stream, data(ROLE, STOP, "[DONE]"), "empty"),
    Case("stream: delta", "the text of a completion", stream,
         data({"choices": [{"index": 0, "text": "left", "finish_reason": "stop"}]}, "[DONE]"), "bad_reply",
         "completion"),
    Case("stream: usage", "in each chunk", stream,
         data({**LEFT, **USAGE, "choices": LEFT["choices"]}, {**LARGE, "usage": USAGE["usage"]}, STOP, "[DONE]"),
         "valid", "2 tokens"),
    Case("stream: usage", "null after a good one", stream, HEAD + data(LARGE, USAGE, {**STOP, "usage": None}), "valid",
         "2 tokens"),
    Case("stream: usage", "a float", stream, HEAD + data(LARGE, STOP, {"usage": {"completion_tokens": 2.0}}), "valid",
         "2 tokens"),
    Case("stream: usage", "a text", stream, HEAD + data(LARGE, STOP, {"usage": {"completion_tokens": "2"}}), "valid",
         "None tokens"),
    Case("stream: usage", "a list", stream, HEAD + data(LARGE, STOP, {"choices": [], "usage": [1]}), "valid"),
    Case("stream: usage", "in the choice", stream,
         HEAD + data(LARGE, {"choices": [{**STOP["choices"][0], "usage": USAGE["usage"]}]}, "[DONE]"), "valid",
         "2 tokens"),
    Case("stream: timings", "with the usage", stream,
         HEAD + data(LARGE, STOP, {**USAGE, "timings": {"prompt_ms": 1.5, "predicted_ms": 3.5}}, "[DONE]"), "valid",
         "5.0 ms"),
    Case("stream: model", "a path", stream, data({**LEFT, "model": "/models/a.gguf"}, LARGE, STOP, "[DONE]"), "valid"),
    Case("stream: numbers", "NaN", stream, between(b'data: {"choices": [], "usage": {"completion_tokens": NaN}}\n\n'),
         "valid", "left large, 2 tokens"),
    *(Case("stream: choices", f"two of them, {name}", stream, ordered(*indexes), "valid", "left large,")
      for name, indexes in (("1 before 0", (1, 0, 1, 0, 1, 0)), ("1 ends before 0 begins", (1, 1, 1, 0, 0, 0)),
                            ("0 before 1", (0, 1, 0, 1, 0, 1)))),
    Case("stream: choices", "1 and no 0", stream, data(other("left"), other(" large"), other(finish="stop"), "[DONE]"),
         "valid", "left large,"),
    Case("stream: choices", "1 and no 0, cut", stream, data(other("left")), "dropped", "no finish reason"),
    Case("stream: choices", "an error behind 1", stream, data(other("left"), DIED), "server_error", "engine died"),
    Case("stream: choices", "index a text", stream,
         data({"choices": [{"index": "0", "delta": {"content": "left large"}, "finish_reason": "stop"}]}), "valid",
         "left large,"),
    Case("stream: line ends", "CR, CR LF", stream, GOOD.replace(b"\n\n", b"\r\r\n"), "valid", "left large"),
    Case("stream: data", "a tab behind the colon", stream, GOOD.replace(b"data: ", b"data:\t"), "valid", "left large"),
    Case("stream: data", "lines of one document", stream,
         HEAD + b"".join(b"data: " + one + b"\n" for one in json.dumps(LARGE, indent=1).encode().split(b"\n")) + b"\n"
         + data(STOP), "valid", "left large,"),
    # ---- streams: the end ----
    Case("stream: end", "finish reason and no [DONE]", stream, HEAD + data(LARGE, STOP), "valid", "left large"),
    Case("stream: end", "finish reason with the last word", stream, data(LEFT, chunk(" large", "stop"), "[DONE]"),
         "valid"),
    Case("stream: end", "finish reason \"\" in each chunk", stream,
         data(chunk("left", ""), chunk(" large", ""), STOP, "[DONE]"), "valid", "left large"),
    Case("stream: end", "a blank behind [DONE]", stream, GOOD.replace(b"[DONE]", b"[DONE] "), "valid", "left large"),
    Case("stream: end", "no line end behind [DONE]", stream, GOOD.rstrip(), "valid", "left large"),
    Case("stream: end", "more behind [DONE]", stream, GOOD + data({"late": 1}), "valid", "left large"),
    Case("stream: end", "an error behind [DONE]", stream,
         GOOD + b'event: error\ndata: {"error": {"message": "late"}}\n\n', "valid", "left large"),
    Case("stream: end", "[DONE] and no finish reason", stream, HEAD + data(LARGE, "[DONE]"), "finish_reason", "None"),
    Case("stream: end", "neither", stream, HEAD, "dropped", "no finish reason, no [DONE]"),
    Case("stream: end", "nothing", stream, b"", "dropped", "before the reply did"),
    Case("stream: open", "behind [DONE]", held, GOOD, "valid", "left large, 2 tokens"),
    Case("stream: open", "behind [DONE] without a line end", held, GOOD.rstrip(), "valid", "left large"),
    Case("stream: open", "behind the finish reason", held, HEAD + data(LARGE, STOP), "valid", "left large"),
    Case("stream: open", "behind an error", held, HEAD + data(DIED), "server_error", "engine died"),
    Case("stream: open", "behind a document", held, json.dumps(DIED).encode(), "server_error", "engine died"),
    Case("stream: end", "[done] in other letters", stream, HEAD + data(LARGE, STOP, "[done]"), "valid", "left large"),
    Case("stream: end", "a word behind the finish reason", stream, HEAD + data(LARGE, STOP, "DONE"), "valid",
         "left large"),
    Case("stream: end", "half a document behind the finish reason", stream, HEAD + data(LARGE, STOP, "{broken"),
         "bad_json", "{broken"),
    Case("stream: message", "piece by piece", stream, data(said("left"), said(" large"), said("", "stop"), "[DONE]"),
         "valid", "left large,"),
    Case("stream: message", "the same piece twice", stream, data(said("left "), said("ha"), said("ha"), said("",
         "stop")),
         "valid", "left haha,"),
    Case("stream: message", "longer each time", stream, data(said("left"), said("left large"), said("left large",
         "stop")),
         "valid", "left large,"),
    Case("stream: message", "behind deltas", stream, HEAD + data(LARGE, said("left large", "stop"), "[DONE]"), "valid",
         "left large,"),
    Case("stream: message", "a call, behind deltas", stream,
         data({"choices": [{"delta": {"tool_calls": [{"function": {"name": "go"}}]}}]},
              {"choices": [{"message": {"tool_calls": [{"function": {"name": "go"}}]},
              "finish_reason": "tool_calls"}]}),
         "tool_calls", "a call of go"),
    Case("stream: choices", "an object without fields", stream, HEAD + data(LARGE, STOP, {"choices": {}, "usage": {}}),
         "valid", "left large"),
    # ---- finish reasons: known ones are answers, the others are told as the server says them ----
    *(Case("finish reason", f"stream, {finish!r}", stream, ends(finish), "finish_reason", str(finish))
      for finish in ("STOP", "abort", "end_turn", "eos_token", "content_filter")),
    Case("finish reason", "stream, an object", stream, ends({"type": "abort"}), "finish_reason", "abort"),
    Case("finish reason", "stream, length and nothing", stream, data(ROLE, chunk(finish="length")), "empty"),
    *(Case("finish reason", f"{finish!r}", document, completion(finish=finish), "finish_reason", words)
      for finish, words in (("STOP", "STOP"), ("eos_token", "eos_token"), (None, "None"), (["stop"], '["stop"]'))),
    Case("finish reason", "missing", document, {"choices": [{"message": {"content": "left"}}]}, "finish_reason",
         "None"),
    # ---- errors with HTTP 200: the server's words reach the user ----
    Case("error", "in a stream", stream, HEAD + data(DIED, "[DONE]"), "server_error", "engine died"),
    Case("error", "beside choices", stream, HEAD + data({**STOP, **DIED}, "[DONE]"), "server_error", "engine died"),
    Case("error", "event: error", stream, HEAD + b"event: error\n" + data(DIED), "server_error", "engine died"),
    Case("error", "event: error, the message alone", stream, HEAD + b'event: error\ndata: {"message": "died"}\n\n',
         "server_error", "died"),
    Case("error", "object error", stream,
         HEAD + data({"object": "error", "message": "CUDA out of memory", "type": "InternalServerError", "code": 500}),
         "server_error", "CUDA out of memory"),
    *(Case("error", f"that is none: {value!r}", stream,
           data(*({**one, "error": value} for one in (ROLE, LEFT, LARGE, STOP)), "[DONE]"), "valid", "left large")
      for value in (None, {}, "")),
    Case("error", "none, in an object of the server's own", stream,
         data(*({**one, "x_groq": {"error": None}} for one in (ROLE, LEFT, LARGE, STOP)), "[DONE]"), "valid"),
    *(Case("error", f"named otherwise: {value}", stream, HEAD + data(value), "server_error",
           "engine died") for value in (
        {"error_code": 17, "error_msg": "engine died"}, {"errors": [{"message": "engine died"}]},
        {"Error": {"Message": "engine died"}}, {"errorMessage": "engine died"}, {"err": "engine died"},
        {"detail": {"error": "engine died"}}, {"success": False, "message": "engine died", "code": 429})),
    Case("error", "a document, in capitals", document, {"Error": {"Message": "engine died"}}, "server_error",
         "engine died"),
    Case("error", "a document for a stream", answer, http(OK, json.dumps(DIED).encode()), "server_error",
         "engine died"),
    Case("error", "a reply for a stream", answer, http(OK, WORDS), "bad_reply", "did not stream"),
    Case("error", "a page for a stream", answer, http(OK, b"<html>login</html>"), "bad_reply", "<html>login"),
    Case("error", "a page, told as a stream", stream, b"<html>login</html>", "bad_reply", "<html>login"),
    Case("error", "a document", document, {"error": {"message": "not loaded"}}, "server_error", "not loaded"),
    Case("error", "a document, a text", document, {"error": "not loaded"}, "server_error", "not loaded"),
    Case("error", "a document, detail", document, {"detail": "Not Found"}, "server_error", "Not Found"),
    Case("error", "a document, beside choices", document, {**completion(), "error": {"message": "half"}},
         "server_error",
         "half"),
    *(Case("error", f"in a list, {name}", check, given, "server_error", "engine died") for name, check, given in (
        ("a document", document, json.dumps([DIED]).encode()), ("an event", stream, data(json.dumps([DIED]))),
        ("a document for a stream", answer, http(OK, json.dumps([DIED]).encode())),
        ("a document for a stream, open", held, json.dumps([DIED], indent=1).encode()))),
    Case("error", "within a message", document, completion("", **DIED), "server_error", "engine died"),
    Case("error", "within a delta", stream, data({"choices": [{"delta": DIED}]}, "[DONE]"), "server_error",
         "engine died"),
    *(Case("error", f"MiniMax's, {check.__name__}", check, given, "server_error", "engine died")
      for check, given in ((document, MINIMAX), (stream, data(MINIMAX)))),
    Case("error", "MiniMax's, none", document,
         {**completion(), "base_resp": {"status_code": 0, "status_msg": "success"}}, "valid", "left large"),
    Case("error", "a document, within a choice", document,
         {"choices": [{"error": {"message": "upstream failed"}, "message": {"content": ""}}]}, "server_error",
         "upstream"),
    # ---- documents ----
    Case("document", "a tidy one", document, completion(), "valid", "left large, 2 tokens"),
    Case("document", "content in parts", document, completion([{"type": "text", "text": "left large"}]), "valid",
         "left large"),
    Case("document", "content an object", document, completion({"text": "left large"}), "valid", "left large"),
    Case("document", "content a number", document, completion(7), "bad_reply", "content: expected a text"),
    Case("document", "content null", document, completion(None), "empty"),
    Case("document", "content twice", document, WORDS.replace(b'large"', b'large", "content": null'), "empty"),
    Case("document", "NUL in the content", document, completion("left\0 large"), "valid"),
    Case("document", "half a surrogate pair", document, completion("left large \ud83d"), "valid", "left large \ufffd"),
    Case("document", "U+2028", document, completion("left large\u2028"), "valid"),
    Case("document", "a token of the template", document, completion("left large<|im_end|>"), "valid"),
    Case("document", "the choices in another order", document,
         {"choices": [{"index": 1, "message": {"content": "b"}}, completion()["choices"][0]]}, "valid", "left large"),
    Case("document", "no choice", document, {"choices": []}, "bad_reply", "at least one, found none"),
    Case("document", "the text of a completion", document, {"choices": [{"text": "left", "finish_reason": "stop"}]},
         "bad_reply", "choices[0].message"),
    Case("document", "another protocol", document, {"message": {"content": "left"}, "done": True}, "bad_reply",
         "without choices"),
    Case("document", "a list", document, b"[" + WORDS + b"]", "bad_reply", "found a list"),
    Case("document", "null", document, b"null", "bad_reply", "found null"),
    Case("document", "nothing", document, b"", "bad_json"),
    Case("document", "a page", document, b"<html>login</html>", "bad_json", "<html>login"),
    Case("document", "blank lines before it", document, b"\n\n   " + WORDS, "valid", "left large"),
    Case("document", "blank lines behind it", document, WORDS + b"\n\n", "valid", "left large"),
    Case("document", "a brace too many", document, WORDS + b"}", "bad_json"),
    Case("document", "twice", document, WORDS + b"\n" + WORDS, "bad_json"),
    Case("document", "an event stream in its place", document, data(chunk("left large"), "[DONE]"), "bad_json",
         "stream"),
    Case("document", "[DONE] behind it", document, WORDS + b"\n\ndata: [DONE]\n\n", "bad_json"),
    Case("document", "byte-order mark", document, b"\xef\xbb\xbf" + WORDS, "valid", "left large"),
    Case("document", "UTF-16", document, WORDS.decode().encode("utf-16"), "valid", "left large"),
    Case("document", "Latin-1", document, WORDS.replace(b"large", b"l\xe4rge"), "bad_json"),
    Case("document", "model null", document, {**completion(), "model": None}, "valid", "of None"),
    Case("counts", "no usage", document, {"choices": completion()["choices"]}, "valid", "None tokens"),
    Case("counts", "usage null", document, {**completion(), "usage": None}, "valid", "None tokens"),
    Case("counts", "usage a list", document, {**completion(), "usage": []}, "valid", "None tokens"),
    Case("counts", "a text", document, counted(completion_tokens="2"), "valid", "None tokens"),
    Case("counts", "a truth", document, counted(completion_tokens=True), "valid", "None tokens"),
    Case("counts", "below zero", document, counted(completion_tokens=-1), "valid", "None tokens"),
    Case("counts", "zero", document, counted(completion_tokens=0), "valid", "0 tokens"),
    Case("counts", "from the cache", document, counted(prompt_tokens_details={"cached_tokens": 4}), "valid", "cached"),
    *(Case("counts", f"from the cache, {name}", document, counted(**usage), "valid", "cached") for name, usage in (
        ("Kimi", {"cached_tokens": 4}), ("DeepSeek", {"prompt_cache_hit_tokens": 4}),
        ("null and DeepSeek", {"prompt_tokens_details": {"cached_tokens": None}, "prompt_cache_hit_tokens": 4}),
        ("input_tokens_details", {"input_tokens_details": {"cached_tokens": 4}}))),
    Case("counts", "from the cache, null", document, counted(prompt_tokens_details=None), "valid", "left large"),
    Case("counts", "from the cache, a list", document, counted(prompt_tokens_details=[1]), "valid", "left large"),
    Case("counts", "infinite", document, WORDS.replace(b'"completion_tokens": 2', b'"completion_tokens": Infinity'),
         "valid", "None tokens"),
    Case("times", "below zero", document, timed({"prompt_ms": -5.0, "predicted_ms": 1.0}), "valid", "None ms"),
    Case("times", "NaN", document, json.dumps(timed({"prompt_ms": math.nan, "predicted_ms": 1.0})).encode(), "valid",
         "None ms"),
    Case("times", "a list", document, timed([1, 2]), "valid", "None ms"),
    Case("tools", "a call", document, completion(None, "tool_calls", tool_calls=[{"function": {"name": "go"}}]),
         "tool_calls", "a call of go"),
    Case("tools", "a call that ends with stop", document, completion(None, tool_calls=[{"function": {"name": "go"}}]),
         "tool_calls", "a call of go"),
    Case("tools", "a call in a stream", stream,
         data(ROLE, {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "go"}}]}}]},
              chunk(finish="tool_calls"), "[DONE]"), "tool_calls", "a call of go"),
    *(Case("tools", name, document, completion(None, "tool_calls", tool_calls=calls), "tool_calls", "a call of go")
      for name, calls in (("a call that is not in a list", {"function": {"name": "go"}}),
                          ("a call of a tool without a schema", [{"type": "custom", "custom": {"name": "go"}}]))),
    Case("tools", "null in a list", stream, delta(tool_calls=[None]), "valid", "left large"),
    Case("refusal", "a document", document, completion(None, refusal="I can not"), "empty", "I can not"),
    Case("refusal", "a stream", stream, data({"choices": [{"delta": {"refusal": "I can not"}}]}, STOP, "[DONE]"),
         "empty",
         "I can not"),
    # ---- HTTP ----
    Case("HTTP", "100 before it", raw_document, http("HTTP/1.1 100 Continue", http(OK, WORDS)), "valid", "left large"),
    Case("HTTP", "103 before it", raw_document, http("HTTP/1.1 103 Hints\nLink: x", http(OK, WORDS)), "valid"),
    Case("HTTP", "1.0", raw_document, http(OK.replace("1.1", "1.0"), WORDS), "valid", "left large"),
    Case("HTTP", "201", raw_document, http(OK.replace("200", "201"), WORDS), "http_201"),
    Case("HTTP", "204", raw_document, http("HTTP/1.1 204 No Content"), "http_204", "no text"),
    Case("HTTP", "a redirect", raw_document, http("HTTP/1.1 307 X\nLocation: /v1/x/\nContent-Length: 0"), "http_307",
         "redirects to /v1/x/;"),
    Case("HTTP", "a redirect to another place", raw_document,
         http("HTTP/1.1 307 X\nLocation: http://127.0.0.1:9/v1\nContent-Length: 0"), "http_307",
         "redirects to http://127.0.0.1:9/v1;"),
    *(Case("HTTP", str(status), raw_document, http(f"HTTP/1.1 {status} X", b'{"error": {"message": "why"}}'),
           f"http_{status}", "why") for status in (401, 404, 429, 503)),
    Case("HTTP: words", "a page that begins with much else", raw_document, http("HTTP/1.1 502 X", LONG_PAGE),
         "http_502", "example | 502: Bad gateway"),
    Case("HTTP: words", "UTF-16", raw_document, http("HTTP/1.1 500 X", json.dumps(DIED).encode("utf-16")), "http_500",
         "engine died"),
    Case("HTTP: words", "when to come back", answer, http("HTTP/1.1 429 X\nRetry-After: 30", json.dumps(DIED).encode()),
         "http_429", "engine died; Retry-After: 30"),
    Case("HTTP: words", "in a header alone", raw_document,
         http('HTTP/1.1 401 X\nWWW-Authenticate: Bearer error="invalid_token"'), "http_401", "invalid_token"),
    Case("HTTP", "a field that is refused", raw_document,
         http("HTTP/1.1 400 X", b'{"error": {"message": "Unsupported parameter: \'max_tokens\'"}}'), "http_400",
         "'max_tokens'"),
    Case("HTTP", "a length that is too large", raw_document, http(f"{OK}\nContent-Length: {len(WORDS) + 20}", WORDS),
         "valid", "left large"),
    Case("HTTP", "a length that is too small", raw_document, http(f"{OK}\nContent-Length: {len(WORDS) - 20}", WORDS),
         "bad_json"),
    *(Case("HTTP: open", f"502, {name}", held_answer, http(f"HTTP/1.1 502 X{head}", body), "http_502", told)
      for name, head, body, told in (
          ("a page", "", PAGE, "the proxy says no"), ("half a page", "", PAGE[:40], "<html>"),
          ("words", "", b"busy", "busy"), ("nothing", "", b"", "no text"),
          ("less than was promised", "\nContent-Length: 99", b"busy", "busy"),
          ("chunks without an end", "\nTransfer-Encoding: chunked", b"4\r\nbusy\r\n", "busy"))),
    Case("HTTP: open", "200, a page", held_answer, http("HTTP/1.1 200 X", PAGE), "bad_json", "the proxy"),
    Case("HTTP: open", "200, half a page", held_answer, http("HTTP/1.1 200 X", PAGE[:40]), "bad_json", "<html>"),
    Case("HTTP: open", "200, a page for a stream", held, PAGE, "bad_reply", "DOCTYPE"),
    *(Case("HTTP: encoding", name, raw_document, http(f"{OK}\nContent-Encoding: {name}", WORDS), "valid", "left large")
      for name in ("identity, identity", "utf-8", "none", "gzip")),
    Case("HTTP: encoding", "deflate", raw_document, http(f"{OK}\nContent-Encoding: deflate", zlib.compress(WORDS)),
         "bad_json", "compressed with deflate"),
    Case("HTTP: encoding", "gzip, and nobody says so", raw_document, http(OK, gzip.compress(WORDS)), "bad_json",
         "compressed with gzip"),
    Case("HTTP: encoding", "zstd, and nobody says so", raw_document, http(OK, b"\x28\xb5\x2f\xfd\x04\0abc"), "bad_json",
         "compressed with zstd"),
    Case("HTTP", "gzip, although not asked for", raw_document,
         http(f"{OK}\nContent-Encoding: gzip", gzip.compress(WORDS)), "bad_json", "compressed with gzip"),
    # ---- thinking ----
    *(Case("thinking", words, document, completion(words), "thinking", "thought") for words in (
        "<think>hmm</think>left large", "hmm</think>left large", '<think type="x">hmm</think>left large',
        "[THINK]hmm[/THINK]left large", "<seed:think>hmm</seed:think>left large", "<|think|>hmm<|/think|>left large",
        "<thought_process>hmm</thought_process>left large", "<internal_monologue>hmm</internal_monologue>left large",
        "[BEGIN_THINK]hmm[END_THINK]left large", "<|think_start|>hmm<|think_end|>left large",
        "<think_start>hmm<think_end>left large",
        "<|channel>thought\nhmm<channel|>left large", "analysishmmassistantfinalleft large",
        "<|channel|>analysis<|message|>hmm<|end|><|start|>assistant<|channel|>final<|message|>left large")),
    *(Case("thinking", f"{words!r}, empty", document, completion(words), "valid", "think_echo")
      for words in ("[BEGIN_THINK][END_THINK]left large", "<think_start>\n<think_end>left large",
                    "<think>\n\n</think>\n\nleft large", "<|channel>thought\n<channel|>left large")),
    Case("thinking", "the channel final", document, completion("<|channel|>final<|message|>left large"), "valid"),
    *(Case("thinking", name, document, completion(**{name: "hmm"}), "thinking", "hmm")
      for name in ("reasoning_content", "reasoning", "thinking", "reasoning_text", "cot")),
    Case("thinking", "reasoning_details", document, completion(reasoning_details=[{"text": "hmm"}]), "thinking", "hmm"),
    Case("thinking", "and no content", document, completion(None, "length", reasoning_content="hmm"), "thinking",
         "hmm"),
    Case("thinking", "parts", document, completion([{"type": "thinking", "thinking": "hmm"},
                                                    {"type": "text", "text": "left large"}]), "thinking", "hmm"),
    Case("thinking", "tokens of the usage", document, counted(completion_tokens_details={"reasoning_tokens": 57}),
         "thinking", "57 tokens"),
    Case("thinking", "stream, reasoning_content", stream, delta(reasoning_content="hmm"), "thinking", "hmm"),
    Case("thinking", "stream, reasoning", stream, delta(reasoning="hmm"), "thinking", "hmm"),
    Case("thinking", "stream, parts", stream, delta(content=[{"type": "thinking", "thinking": "hmm"}]), "thinking"),
    Case("thinking", "stream, and nothing else", stream,
         data({"choices": [{"delta": {"reasoning_content": "hmm"}}]}, chunk(finish="length"), "[DONE]"), "thinking",
         "hmm"),
    Case("thinking", "stream, harmony", stream,
         data(chunk("<|channel|>analysis<|message|>hm"), chunk("m<|end|>"), STOP, "[DONE]"), "thinking"),
    Case("first token", "a field that is no text", elsewhere, "test_streams.py::test_what_counts_as_the_first_token",
         "held"),
    # ---- URLs ----
    Case("URL", "a prefix", url, "http://127.0.0.1:8080/api/v1", "asked", "http://127.0.0.1:8080/api"),
    Case("URL", "slashes at its end", url, "http://127.0.0.1:8080/v1/", "asked", "http://127.0.0.1:8080"),
    Case("URL", "the whole endpoint", url, "http://127.0.0.1:8080/v1/chat/completions", "asked",
         "http://127.0.0.1:8080"),
    Case("URL", "IPv6", url, "http://[::1]:8080", "asked", "http://[::1]:8080"),
    Case("URL", "a query", url, f"http://127.0.0.1/v1?key={SECRET}", "refused", "a query"),
    Case("URL", "a port above 65535", url, "http://127.0.0.1:73616", "refused", "a port"),
    Case("URL", "no host", url, "http://:8080", "refused", "no host"),
    Case("URL", "a user and a password", url, f"http://me:{SECRET}@127.0.0.1", "refused", "a user or password"),
    Case("URL", "dots in other letters", url, "http://127.0.0.1/%2e%2e/x", "refused", "a path that servers read"),
    Case("URL", "an image with a scheme", image, "https://127.0.0.1/x", "refused", "a URL"),
    Case("URL", "proxies and a server", elsewhere, "test_urls.py::test_what_is_accepted_is_what_is_asked", "held"),
    # ---- secrets ----
    Case("secret", "a line end behind it", token, f"{SECRET}\n", "used", SECRET),
    Case("secret", "a line end in it", token, f"{SECRET}\nX: y", "refused", "a control character (number 22"),
    Case("secret", "empty", token, "", "used", "none"),
    *(Case("secret: form", name, words_with, ({HUB: SECRET}, text, tells), "hidden") for name, text, tells in (
        ("\\u in capitals", each(lambda one: f"\\u{ord(one):04X}"), "\\u0065\\u0074"),
        ("\\u, escaped again", each(lambda one: f"\\\\u{ord(one):04x}"), "0065\\\\u0074"),
        ("\\u in braces", each(lambda one: f"\\u{{{ord(one):x}}}"), "{65}"),
        ("\\U", each(lambda one: f"\\U{ord(one):08x}"), "\\U00000065"),
        ("octal", each(lambda one: f"\\{ord(one):03o}"), "\\145"),
        ("percent, lower case", each(lambda one: f"%{ord(one):02x}"), "%65"),
        ("percent, twice", each(lambda one: f"%25{ord(one):02X}"), "%2565"),
        ("HTML, padded", each(lambda one: f"&#{ord(one):04d};"), "&#0101;"),
        ("HTML, hexadecimal", each(lambda one: f"&#x{ord(one):04x};"), "x0065;"),
        ("bytes with colons", ":".join(each(lambda one: f"{ord(one):02x} ").split()), "65:74"),
        ("bytes with blanks", each(lambda one: f"{ord(one):02X} "), "65 74"),
        ("bytes of a list", ", ".join(each(lambda one: f"{ord(one):#04x} ").split()), "0x65"),
        ("a line end in it", f"x: {SECRET[:12]}\n      {SECRET[12:]}", SECRET[12:]),
        ("a mail's line end", f"{SECRET[:10]}=\n{SECRET[10:]}", SECRET[10:]),
        ("a terminal's color", f"{SECRET[:9]}\x1b[0m{SECRET[9:]}", SECRET[9:]),
        ("two messages", json.dumps([SECRET[:11], SECRET[11:]]), SECRET[11:]),
        ("three messages", "; ".join((SECRET[:9], SECRET[9:14], SECRET[14:])), SECRET[14:]),
        ("its end alone", f"...{SECRET[4:]}", SECRET[10:]),
        ("of a user, with padding", f"Basic {base64.b64encode(f'u:{SECRET}'.encode()).decode()}",
         base64.b64encode(f"u:{SECRET}".encode()).decode()[10:22]))),
    Case("secret: form", "lines of base64", words_with, ({KEY: KEY_OF_MANY}, LINES_OF_MAIL,
                                                        LINES_OF_MAIL.split("\n")[1][4:20]), "hidden"),
    Case("secret: form", "signs, quoted for a URL in part", words_with,
         ({KEY: SIGNS}, quote(SIGNS, safe="/=~+"), "2541~end"), "hidden"),
    Case("secret: form", "signs, JSON in JSON in JSON", words_with,
         ({KEY: SIGNS}, json.dumps(json.dumps(json.dumps(SIGNS))), "41~end"), "hidden"),
    Case("secret: form", "the end of another word", words_with,
         ({KEY: "dummy-password"}, "the password of the page", "the ***"), "hidden", "the password of the page"),
    *(Case("secret: form", name, words_with, ({KEY: RANDOM}, text, tells), "hidden") for name, text, tells in (
        ("its middle alone", f"...{RANDOM[10:26]}...", RANDOM[12:22]),
        ("the middle of base64", TWICE[20:44], TWICE[26:38]),
        ("base64 twice", f"auth: {TWICE}", TWICE[12:24]),
        ("in capitals", RANDOM.upper(), RANDOM.upper()[8:18]),
        ("a narrow column", "\n".join(RANDOM[at : at + 6] for at in range(0, 36, 6)), RANDOM[12:18]),
        ("a narrow column in a frame", "\n".join(f"│ {RANDOM[at : at + 7]} │" for at in range(0, 36, 7)),
         RANDOM[14:21]),
        ("a narrow column of base64", "\n".join(TWICE[at : at + 6] for at in range(0, 60, 6)), TWICE[18:24]),
        ("pieces of a program", " + ".join(f'"{RANDOM[at : at + 6]}"' for at in range(0, 36, 6)), RANDOM[12:18]),
        ("tags in it", "<wbr>".join(RANDOM[at : at + 5] for at in range(0, 36, 5)), RANDOM[15:20]),
        ("a list of characters", str(list(RANDOM)), "'9', 'a'"),
        ("blanks without width", "\u200b".join(RANDOM), "9\u200ba"),
        ("UTF-16", repr(RANDOM.encode("utf-16-le")), "9\\x00a"),
        ("UTF-16 in JSON", json.dumps(RANDOM.encode("utf-16-le").decode("latin-1")), "9\\u0000a"),
        ("a list of bytes", str(list(RANDOM.encode())), "57, 97"),
        ("bytes in groups", RANDOM.encode().hex(" ", 2), "3961 586b"),
        ("bytes in lines with letters", f"{RANDOM[:16].encode().hex(' ')} |{RANDOM[:16]}|\n00000010 |{RANDOM[16:]}|",
         RANDOM[20:30]),
        ("HTML, escaped again", each(lambda one: f"&amp;#{ord(one)};", RANDOM), "#57;&amp;#97"),
        ("HTML without a semicolon", each(lambda one: f"&#{ord(one)}", RANDOM), "&#57&#97"),
        ("%u", each(lambda one: f"%u{ord(one):04X}", RANDOM), "%u0039%u0061"),
        ("\\x in braces", each(lambda one: f"\\x{{{ord(one):x}}}", RANDOM), "{39}"),
        ("a mail's signs", each(lambda one: f"={ord(one):02X}", RANDOM), "=39=61"))),
    Case("secret: form", "signs, with their names", words_with, ({KEY: SIGNS}, NAMED, "z&equals;"), "hidden"),
    *(Case("secret: short", name, words_with, ({KEY: key}, text, tells), "hidden", words)
      for name, key, text, tells, words in (
        ("base64", "s3cret", "Basic dTpzM2NyZXQ=", "M2NyZX", "Basic "),
        ("bytes", "s3cret", "733363726574", "6372", ""),
        ("a word in a header", "hunter", "Illegal header value b'Bearer hunter '", "hunter", "Bearer ***"),
        ("a word elsewhere", "hunter", "the hunter of tokens", "***", "the hunter of tokens"),
        ("no key", "none", "limit: none", "***", "limit: none"))),
    *(Case("secret: no form", key, words_with, ({KEY: key}, text, "***"), "hidden", text) for key, text in (
        ("sk-12345678", "p50 12.3, p95 45.67, 8 samples"), ("no-key-required", "no key required for key 3"),
        ("local-key-2026", "the local key of 2025"))),
    *(Case("secret: proxy", name, words_with, ({BY_PROXY: value}, f"x {SECRET}", SECRET[8:]), "hidden")
      for name, value in (("no scheme", f"me:{SECRET}@p:1"), ("a token as the user", f"http://{SECRET}@p:1"),
                          ("a token and no password", f"http://{SECRET}:@p:1"))),
    *(Case("secret: echo", name, echo, raw, outcome) for name, raw, outcome in (
        ("of the header", http("HTTP/1.1 401 X", json.dumps({"error": f"bad key {SECRET}"}).encode()), "http_401"),
        ("in a redirect", http(f"HTTP/1.1 307 X\nLocation: /k/{SECRET}/v1"), "http_307"),
        ("in a page", http("HTTP/1.1 502 X", f"<html>{SECRET}</html>".encode()), "http_502"),
        ("in two messages", http("HTTP/1.1 400 X", json.dumps({"errors": [SECRET[:11], SECRET[11:]]}).encode()),
         "http_400"))),
    # ---- proxies ----
    *(Case("proxy", f"NO_PROXY={value}", proxy, ({"NO_PROXY": value, "HTTP_PROXY": "http://p:1"}, "http://[::1]:9"),
           found)
      for value, found in (("fd00::/8", "by proxy"), ("[::1]", "direct"), ("::1", "direct"), ("::/0", "direct"))),
    Case("proxy", "SOCKS", proxy, ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, "http://hub"), "refused", "found SOCKS"),
    Case("proxy", "SOCKS that is not needed", proxy,
         ({"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "hub"}, "http://hub"), "direct"),
    # ---- hub and registry ----
    Case("download", "killed and resumed", elsewhere,
         "test_hub.py::test_a_killed_download_is_resumed_by_the_next_process", "held"),
    Case("download", "parts of other revisions", elsewhere, "test_hub.py::test_what_nobody_resumes_is_removed", "held"),
    Case("download", "space and progress", elsewhere, "test_hub.py::test_only_what_goes_on_counts_for_the_disk",
         "held"),
    Case("download", "a part that is whole already", elsewhere,
         "test_hub.py::test_whatever_a_part_holds_the_file_is_right",
         "held"),
    Case("download", "a hash in capitals", elsewhere, "test_hub.py::test_a_hash_in_capitals_is_a_hash", "held"),
    Case("registry", "no HEAD", elsewhere, "test_registry.py::test_a_registry_without_heads_is_asked_for_the_whole",
         "held"),
    Case("registry", "no digest", elsewhere, "test_registry.py::test_digest_is_computed_where_the_header_is_missing",
         "held"),
    Case("registry", "challenges", elsewhere, "test_registry.py::test_challenges_of_all_kinds", "held"),
    Case("registry", "certificates that are not there", elsewhere,
         "test_route.py::test_certificates_that_are_not_there",
         "held"),
    # ---- verbatim ----
    Case("verbatim", "line ends of a prompt", elsewhere, "test_workloads.py::test_files_arrive_byte_for_byte", "held"),
    Case("verbatim", "production's own prompt", elsewhere, "test_prompt.py::test_a_prompt_is_written_byte_for_byte",
         "held"),
    Case("verbatim", "CSV", elsewhere, "test_export.py::test_pandas_reads_each_text_as_it_is", "held"),
    Case("output", "a link", elsewhere, "test_outputs.py::test_a_link_stays_one", "held"),
    Case("output", "a pipe", elsewhere, "test_outputs.py::test_a_pipe_stays_one_and_its_reader_gets_all", "held"),
    Case("output", "a device", elsewhere, "test_outputs.py::test_devices_are_written_to", "held"),
    # ---- the sentence of the research document; # stands for the block ----
    Case("sentence", "a lower-case word behind it", research, f"{SAYS}. llama.cpp needs it.", "replaced",
         "#\n\n llama.cpp needs it."),
    Case("sentence", "a footnote before it", research, f"It has 5.0 GB.[^1] {SAYS}. {NO_MORE}", "replaced",
         f"It has 5.0 GB.[^1] \n\n#\n\n {NO_MORE}"),
    *(Case("sentence", words, research, words, "refused", words) for words in (
        f"It has 5.0 GB.[^1] {SAYS}.[^2] {NO_MORE}", f"{SAYS}.<br>{NO_MORE}", f"{SAYS}.\\\n{NO_MORE}",
        f"{SAYS}… {NO_MORE}", f"{SAYS}; Bob has some.", f"One line\n{SAYS}\nanother line")),
    *(Case("sentence", f"a fact: {fact}", research, f"It is. For {fact} no benchmarks exist yet. {NO_MORE}", "refused")
      for fact in ("a card of 5 EUR", "Bob's $500 card", "a clock of 2.1 GHz", "a model of 24 layers", "12 fps")),
    Case("sentence", "a fact in brackets", research,
         f"It is. For Q4 (5.0 GB, by Bob) no benchmarks exist yet. {NO_MORE}",
         "refused"),
    Case("sentence", "a stop of another script", research, f"{SAYS}。次です。", "replaced", "#\n\n次です。"),
    *(Case("sentence", words, research, f"It is. For {words} no benchmarks exist yet. {NO_MORE}", "replaced",
           f"It is. \n\n#\n\n {NO_MORE}") for words in ("Q4 vs. Q8", "some, e.g. Q4,")),
    # ---- the steady-state peak ----
    Case("peak", "plain", peak, "Steady-state peak: 12.8 GB", "written", "Steady-state peak: 9.0 GB"),
    *(Case("peak", line, peak, line, "refused", line) for line in (
        "Steady-state peak: 12,8 GB", "Steady-state peak: 12,800 MiB", "Steady-state peak: 12.8 to 13.1 GB",
        "Steady-state peak: 12.8 ± 0.2 GB", "Steady-state peak (card of 16 GB) 12.8 GB", "Steady-state peak -12.8 GB",
        "Steady-state peak: 12.800 MiB", "Steady-state peak: 12.8 GB twice", "Steady-state peak: 12.8 GB in May")),
    *(Case("row", cell, row, cell, "found") for cell in (
        f"`{LABEL}` (4 bit)", f"[{LABEL}](x.md)", f"[{LABEL}][1]", f"{LABEL}[^1]", f"<b>{LABEL}</b>",
        f"**{LABEL}** (4 bit)", LABEL.upper(), f"{LABEL}†", f"{LABEL}¹", f"{LABEL}\\*", f"{LABEL}² (4 bit)",
        f"{LABEL} :star:", f"{LABEL} \N{WHITE MEDIUM STAR}", f"[**{LABEL}**](x.md)", f"<code>{LABEL}</code>")),
    Case("row", "another quantization", row, LABEL.replace("Q4_K_M", "Q4_K_S"), "another"),
    Case("log", "dates as headings", log, HEADS, "written", f"### {RUN.date} / ### 2026-09-14"),
    Case("log", "dated lines", log, "* 2026-12-01: later\n* 2026-06-02: new", "written", "later / * 2026-06-02"),
    Case("log", "versions as headings", log, "### 1.2.0\n\n- new", "refused", "1.2.0"),
    # ---- voices ----
    Case("voice", "plain", voice, wav(form(), part(b"data", PCM)), "speaks", "1.00 s, 24000 Hz"),
    *(Case("voice: size", str(size), voice, streamed(size), "speaks", "1.00 s") for size in (
        0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36, 1 << 30, 2_000_000_000, 100_000_000)),
    Case("voice: size", "two bytes short", voice, wav(form(), part(b"data", PCM[:-2], len(PCM))), "mute", "truncated"),
    Case("voice: size", "of the first piece", voice, wav(form(), part(b"data", PCM, 4000), size=4036), "mute",
         "0.08 s"),
    Case("voice: size", "two WAVs", voice, wav(form(), part(b"data", PCM[:4000])) + wav(form(), part(b"data", PCM)),
         "mute",
         "0.08 s"),
    *(Case("voice: chunks", name, voice, wav(*parts), "speaks", "1.00 s") for name, parts in (
        ("LIST before", (part(b"LIST", b"INFOISFT"), form(), part(b"data", PCM))),
        ("LIST between", (form(), part(b"LIST", b"INFOISFT"), part(b"data", PCM, 0xFFFFFFFF))),
        ("LIST behind", (form(), part(b"data", PCM), part(b"LIST", b"INFO"))),
        ("JUNK before", (part(b"JUNK", bytes(28)), form(), part(b"data", PCM))),
        ("a longer format", (form(extra=b"\0\0"), part(b"data", PCM))),
        ("float", (form(3, 32), part(b"fact", struct.pack("<I", RATE)), part(b"data", FLOATS))),
        ("float, 64 bits", (form(3, 64), part(b"data", DOUBLES))),
        ("extensible", (form(0xFFFE, extra=struct.pack("<HHIH", 22, 16, 4, 1) + GUID), part(b"data", PCM))),
    )),
    Case("voice: chunks", "RF64", voice,
         wav(part(b"ds64", struct.pack("<QQQI", len(PCM) + 72, len(PCM), RATE, 0)), form(),
             part(b"data", PCM, 0xFFFFFFFF), size=0xFFFFFFFF, head=b"RF64"), "speaks", "1.00 s"),
    Case("voice: chunks", "DATA in capitals", voice, wav(form(), part(b"DATA", PCM)), "mute", "no chunk 'data'"),
    Case("voice: chunks", "data before the format", voice, wav(part(b"data", PCM), form()), "mute", "no chunk 'fmt '"),
    Case("voice", "silence", voice, wav(form(), part(b"data", bytes(len(PCM)))), "mute", "silence"),
    Case("voice", "an offset", voice, wav(form(), part(b"data", struct.pack("<h", 9000) * RATE)), "mute", "silence"),
    Case("voice", "samples that are no numbers", voice,
         wav(form(3, 32), part(b"data", struct.pack("<f", math.nan) + FLOATS)), "mute", "not a finite number"),
    Case("voice", "MP3", voice, b"ID3\x04" + bytes(2000), "mute", "not a WAV"),
    Case("voice", "bytes without a head", voice, PCM, "mute", "no RIFF/WAVE"),
)  # fmt: skip


@pytest.fixture
def place(server: Any, acts: Any, nav: Workload, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return Place(server, acts, nav, time.monotonic(), monkeypatch.setenv)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.what}")
def test_what_was_reported_ends_as_a_careful_user_expects(place: Place, case: Case) -> None:
    outcome, told = case.check(place, case.given)
    assert outcome == case.outcome, told
    assert case.words in told
    assert outcome == "used" or SECRET not in told


def test_no_row_stands_twice() -> None:
    names = [(case.kind, case.what) for case in CASES]
    assert sorted(set(names)) == sorted(names)
