"""What is fuzzed, a property each: no input ends in another error than its own, shows a secret, loses a byte, or hangs.

A target draws its input, bytes or a structure, and asserts what must be true of any such input.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock
from urllib.parse import quote, quote_plus

import httpx
from ansible_collections.edgelab.model_trial.plugins.module_utils import speech
from chats import chunk, completion, data
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from riff import form, part, tone, wav
from trialbench import hub, schemas
from trialbench.credentials import redact
from trialbench.engines.llama.messages import StreamedReply, read_document
from trialbench.engines.message import Message
from trialbench.engines.openai import EndpointOptions, OpenAICompatible
from trialbench.errors import TrialbenchError, UsageError
from trialbench.hub import download as downloads
from trialbench.hub.registry import image_digest
from trialbench.hub.route import Route, is_direct, proxy_for
from trialbench.measure.client import ChatClient, Reply
from trialbench.measure.engine_client import EngineClient
from trialbench.measure.sample import Sample, judge
from trialbench.report.documents.markdown import Edit, Page, Refused
from trialbench.report.documents.memory import memory_edits
from trialbench.report.documents.registry import registry_edits
from trialbench.report.documents.research import research_edits
from trialbench.show.terminal import screen
from trialbench.urls import parse, server
from trialbench.workloads import Workload, load_workload
from trials import RUN, a_trial

# An example that takes longer hangs, however busy the machine is.
LONGEST_S = 60
EXAMPLES = 50
SECRET = "S3cr3t-of-n0body/+=~'&%"
TARGETS: list[Callable[[], None]] = []


def target(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a target of a property: called, it tries some examples, and others each time."""

    def make(check: Callable[..., None]) -> Callable[[], None]:
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(**strategies)
        def some(**drawn: Any) -> None:
            with bounded(), mock.patch.dict(os.environ, {"TRIALBENCH_API_KEY": SECRET, "HF_TOKEN": SECRET}):
                check(**drawn)

        some.__name__ = check.__name__
        TARGETS.append(some)
        return some

    return make


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail what hangs; the interpreter also looks for signals within a regular expression."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"hangs: not done within {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- what is drawn ----

NAMES = (
    "choices", "delta", "message", "content", "text", "finish_reason", "index", "model", "usage", "timings", "error",
    "detail", "errors", "object", "type", "code", "status", "reasoning", "reasoning_content", "reasoning_details",
    "thinking", "refusal", "tool_calls", "function", "name", "completion_tokens", "completion_tokens_details",
    "reasoning_tokens", "prompt_tokens_details", "cached_tokens", "prompt_ms", "predicted_ms", "prompt_n", "cache_n",
    "tokens", "stop", "stop_type", "data", "value", "summary",
)  # fmt: skip
WORDS = (
    "stop", "length", "tool_calls", "error", "server_error", "left large", "<think>", "</think>", "[THINK]", "[DONE]",
    "<|channel|>analysis", "text", "thinking", "refusal", "\ud83d", "\ude00", "\u2028", "\x00", SECRET, repr(SECRET),
    quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode(), json.dumps(SECRET), "500", "{}",
    '{"error": "x"}',
)  # fmt: skip
words = st.sampled_from(WORDS) | st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | words, inner, max_size=4),
    max_leaves=12,
)
# A completion or a chunk in which some values are others.
SHAPES = (
    chunk("left"), chunk(finish="stop"), completion(), {"choices": [], "usage": {"completion_tokens": 2}},
    {"error": {"message": "died", "code": 500}}, completion([{"type": "text", "text": "left"}]),
    {"content": "left", "stop": True, "tokens": [1], "tokens_evaluated": 3},
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Any JSON value, or a known shape with other values in some of its places."""
    if draw(st.integers(0, 3)) == 0:
        return draw(values)
    document = json.loads(json.dumps(draw(st.sampled_from(SHAPES))))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(values)
            break
        if isinstance(place, dict) and draw(st.booleans()):
            place[draw(st.sampled_from(NAMES))] = draw(values)
    return document


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


encoded = documents().map(_json)
LINES = (
    b"", b": comment", b"event: error", b"event: ping", b"event:message", b"id: 7", b"retry: 5", b"data", b"data:",
    b"data: [DONE]", b'data: "[DONE]"', b"data:  [DONE] ", b" data: [DONE]", b"data: null", b"error: died",
    b'error: {"message": "died"}', b"{", b"}", b"data: {broken", b"<html>", b"\xef\xbb\xbf", b"\xff\xfe",
)  # fmt: skip
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.one_of(
    st.sampled_from(LINES),
    encoded.map(lambda raw: b"data: " + raw),
    encoded,
    st.binary(max_size=20),
    words.map(lambda text: b"data: " + text.encode("utf-8", "surrogatepass")),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Lines of an event stream, most of them events, and each with any line end."""
    parts = draw(st.lists(st.tuples(lines, line_ends, st.booleans()), max_size=10))
    raw = b"".join(line + end * (2 if double else 1) for line, end, double in parts)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + raw.removesuffix(draw(st.sampled_from([b"", b"\n"])))


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    at = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    return [raw[begin:end] for begin, end in zip([0, *at], [*at, len(raw)], strict=True)]


# ---- streams and documents of servers ----

_folder = tempfile.TemporaryDirectory()


def _workload() -> Workload:
    path = Path(_folder.name) / "word.yml"
    path.write_text(
        "{name: word, title: one, messages: [{role: user, content: Go}], samples: {n: 1, warmup: 0},"
        " limits: {max_tokens: 9, temperature: 0.0, timeout_s: 5}, contract: {words: [[left, right], [large, small]]}}",
        encoding="utf-8",
    )
    return load_workload(str(path))


WORKLOAD = _workload()


def judged(message: Message) -> Sample:
    """The sample, of which nothing may show the secret that is no word of the model's."""
    reply = Reply(1.0, latency_ms=2.0)
    reply.take(message)
    sample = judge(reply, 1, WORKLOAD, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
    assert schemas.validate(json.loads(json.dumps(sample.as_dict(), allow_nan=False)), "sample") == []
    for said in (sample.error_detail, sample.finish_reason, sample.model):
        hides(said or "")
    hides(screen(sample.content or ""))
    return sample


def hides(text: str) -> None:
    """Assert that no beginning of the secret is in `text`, in whatever form."""
    for form_ in (str, repr, json.dumps, lambda one: quote(one, safe=""), quote_plus):
        assert form_(SECRET).strip("\"'")[:12] not in text
    assert base64.b64encode(SECRET.encode()).decode()[:12] not in text


def read(pieces: list[bytes]) -> Message:
    """What is read of a stream that ends after these pieces."""
    reading = StreamedReply()
    pieces_ = [piece for at, raw in enumerate(pieces) for piece in reading.feed(raw, float(at))]
    pieces_ += reading.end(kind="text/event-stream")
    assert "".join(piece.text for piece in pieces_) == (reading.message.content or "")
    return reading.message


@target(raw=streams() | st.binary(max_size=60), pieces=st.data())
def stream_cut_anywhere(raw: bytes, pieces: st.DataObject) -> None:
    whole = read([raw])
    judged(whole)
    assert read(pieces.draw(cut(raw))) == whole
    assert read([raw[at : at + 1] for at in range(len(raw))]) == whole


NOISE = (
    b": hello\n\n", b"id: 7\n\n", b"retry: 3\n\n", b"event: ping\n\n", b"data:\n\n", b"data: null\n\n", b"data: {}\n\n",
    b'event: ping\ndata: {"type": "ping"}\n\n', b"event: progress\ndata: 7 %\n\n", b"\n\n", b"trace: 1\n\n",
    b'data: {"choices": []}\n\n', b'data: {"choices": null, "usage": {"completion_tokens": 1}}\n\n',
    b'data: {"choices": [{"delta": null}]}\n\n', b'data: {"choices": [null], "error": null}\n\n',
)  # fmt: skip


@target(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=6),
    noise=st.lists(st.sampled_from(NOISE), min_size=8, max_size=8),
    tail=st.sampled_from([b"data: [DONE]\n\n", b"data: [DONE]", b"", b"data: [DONE]\n\ndata: {late\n\nwhat?"]),
    end=line_ends,
    pieces=st.data(),
)
def stream_no_text_is_lost(
    texts: list[str], noise: list[bytes], tail: bytes, end: bytes, pieces: st.DataObject
) -> None:
    """Whatever stands between the chunks, their texts are the reply, each character of them."""
    raw = b"".join(extra + data(chunk(text)) for extra, text in zip(noise, texts, strict=False))
    raw = (raw + noise[-1] + data(chunk(finish="stop")) + tail).replace(b"\n", end)
    message = read(pieces.draw(cut(raw)))
    assert (message.fault, message.finish_reason) == (None, "stop")
    assert (message.content or "") == "".join(texts)


@target(raw=encoded | st.binary(max_size=60) | streams(), encoding=st.sampled_from(["", "utf-8-sig", "utf-16"]))
def document_of_any_shape(raw: bytes, encoding: str) -> None:
    if encoding:
        raw = raw.decode("utf-8", "replace").encode(encoding)
    judged(read_document(raw))


class Wire:
    """A server that answers each request with the same bytes, and then closes, or says nothing more."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.pieces: list[bytes] = []
        self.holds = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(LONGEST_S)
            connection.recv(1 << 20)
            for piece in self.pieces:
                connection.sendall(piece)
            if self.holds:
                connection.recv(1 << 20)


HEADS = (
    b"Content-Type: text/event-stream", b"Content-Type: application/json", b"Content-Length: 20", b"Content-Length: x",
    b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Connection: close", b"Location: http://[",
    b"\xff: \xff",
    b"X", b"Set-Cookie: a=" + SECRET.encode(),
)  # fmt: skip
_wire: list[Wire] = []


@target(
    status=st.sampled_from(
        [b"HTTP/1.1 200 OK"] * 6 + [b"HTTP/1.1 500 X", b"HTTP/1.0 307 X", b"HTTP/1.1 100 C", b"\x1b"]
    ),
    heads=st.lists(st.sampled_from(HEADS), max_size=3),
    body=streams() | encoded | st.binary(max_size=60),
    holds=st.booleans(),
    how=st.sampled_from(["document", "stream", "engine"]),
    pieces=st.data(),
)
def answers_over_a_wire(
    status: bytes, heads: list[bytes], body: bytes, holds: bool, how: str, pieces: st.DataObject
) -> None:
    """Whatever a server sends, one reply comes of it, in time."""
    if not _wire:
        _wire.append(Wire())
    raw = b"\r\n".join([status, *heads, b"", b""]) + body
    _wire[0].pieces, _wire[0].holds = pieces.draw(cut(raw)), holds
    url = _wire[0].url
    client: Any = (
        EngineClient(OpenAICompatible(EndpointOptions(url)))
        if how == "engine"
        else ChatClient(url, stream=how == "stream")
    )
    before_s = time.monotonic()
    try:
        reply = client.send(client.encode(WORKLOAD, cache_prompt=False), timeout_s=0.3, connect_timeout_s=0.3)
    finally:
        client.close()
    assert time.monotonic() - before_s < LONGEST_S / 2
    sample = judge(reply, 1, WORKLOAD, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
    assert schemas.validate(json.loads(json.dumps(sample.as_dict(), allow_nan=False)), "sample") == []
    for said in (sample.error_detail, sample.finish_reason, sample.model):
        hides(said or "")


# ---- the user's documents ----

BITS = (
    "It is", "For it", "for it", "Next", "llama.cpp", "5.0 GB", "vs", "e.g", "x", "...", ".", "。", "…", ";", ":", ",",
    "!",
    "?", "[^1]", "<br>", "\\", "*", "**", "_", "~~", "(", ")", '"', "”", "`", "```", "<!-- c -->", "<!--", "-->", "<b>",
    "</b>", "- ", "* ", "# ", "## ", "1. ", "> ", "| a | b |", "|-|-|", " ", "  ", "    ", "\t", "\n", "  \n", "\r\n",
    "\r",
    "\n\n", "&amp;", "[a](b)", "[a]", "[a]: b", "\u00a0", "\u2028", "\udcff", "no benchmarks exist yet",
    "Steady-state peak: 12.8 GB", "Active Models", "Change Log", "2026-11-21", "### 2026-09-14", RUN.label, RUN.id,
    "<!-- model-trial runs: end -->", f"<!-- model-trial numbers of {RUN.label}: end -->", "± 0.2", "12,8 GB", "MiB",
    "| a | 1 | 4.8 | active |",
)  # fmt: skip
around = st.lists(st.sampled_from(BITS) | st.text(max_size=6), max_size=6).map("".join)
SENTENCES = ("No benchmarks exist yet.", "For it no benchmarks exist yet", "no\nbenchmarks exist yet")
# Nothing but words of place may go with it, and no figure.
SENTENCE = re.compile(
    r"[*_(]*(?:for it(?:(?!GB|\bis\b)[^()<>;:!?…])*)?no\s+benchmarks\s+exist\s+yet[*_).!。！]*",
    re.IGNORECASE | re.DOTALL,
)
MODELS = "## Active Models\n\n| Model | Port | VRAM GB | Status |\n|---|---|---|---|\n| a | 1 | 4.8 | active |"
PEAK, LOG = "Steady-state peak: 9.0 GB", "## Change Log\n\n* 2026-01-01: x"
DECIDED = a_trial(verdict="ADOPT", reasons=["better"])


def written(make: Callable[[Page, Any], list[Edit]], text: str, gone: re.Pattern[str]) -> str:
    """The text after the edits: only what `gone` matches has gone, and a second time changes nothing."""
    page = Page("DOC.md", text)
    edits = make(page, RUN)
    after = page.edited(edits)
    kept, rest = 0, after
    for edit in sorted(edits):
        assert gone.fullmatch(text[edit.start : edit.end]), text[edit.start : edit.end]
        same = text[kept : edit.start] + edit.text
        assert rest.startswith(same)
        rest, kept = rest[len(same) :], edit.end
    assert rest == text[kept:]
    again = Page("DOC.md", after)
    with contextlib.suppress(Refused):
        # A place within a fence that is not closed is refused as a whole (`write_documents`).
        second = again.edited(make(again, DECIDED))
        third = Page("DOC.md", second)
        # Likewise a place that swallows what is written there.
        assert third.edited(make(third, DECIDED)) == second or again.edited(make(again, RUN)) != after
    return after


@target(above=around, sentence=st.sampled_from(SENTENCES), below=around)
def research_document(above: str, sentence: str, below: str) -> None:
    assume(not re.search(r"(?i)\w\Z|\b(?:for|no)\s+\Z", above))
    with contextlib.suppress(Refused):
        written(research_edits, f"# T\n\n{above}{sentence}{below}\n\nEnd.\n", SENTENCE)


@target(parts=st.permutations([MODELS, PEAK, LOG]), between=st.lists(around, min_size=4, max_size=4))
def registry_document(parts: list[str], between: list[str]) -> None:
    text = "".join(f"{extra}\n\n{one}\n\n" for extra, one in zip(between, parts, strict=False)) + between[-1]
    with contextlib.suppress(Refused):
        # The peak's number, or a row of this model that the draw has made.
        written(registry_edits, text, re.compile(rf"|\d+(?:\.\d+)?|.*{re.escape(RUN.label)}.*", re.IGNORECASE))


@target(above=around, below=around)
def memory_document(above: str, below: str) -> None:
    with contextlib.suppress(Refused):
        after = written(memory_edits, above, re.compile("|\\* .*"))
        # Words of the user's in and below our line.
        written(memory_edits, after.replace("on panda:", f"on panda: {below.split('**')[0]}", 1), re.compile("|\\* .*"))


# ---- URLs, proxies, secrets ----

URL_BITS = (
    "http://", "https://", "HTTP://", "ftp://", "://", "//", "/", "\\", "@", ":", "?", "#", "[", "]", "::1",
    "127.0.0.1",
    "localhost", "a.b", "a_b", "..", ".", "%2f", "%zz", "%40", "0x7f.1", "80", "65535", "65536", "99999", "0", "-1",
    " ",
    "\t", "\n", "\x00", "é", "\udcff", "/v1", "/chat/completions", "v1", "user", "fe80::1%25eth0", "*", ",",
)  # fmt: skip
urls = st.lists(st.sampled_from(URL_BITS) | st.text(max_size=3), max_size=8).map("".join)


def shown(error: UsageError) -> None:
    """What a refusal says is on one line, and has no part of the secret."""
    assert str(error).isprintable()
    assert SECRET[:6] not in str(error)


@target(text=urls, host=st.sampled_from(["127.0.0.1", "[::1]", "box", "box.example."]), port=st.integers(-5, 70000))
def url_of_a_server(text: str, host: str, port: int) -> None:
    for given_ in (text, f"http://{text}", f"http://{host}:{port}{text}", f"http://{host}{text}:{port}"):
        try:
            found = parse(given_, "--url")
            named = server(given_, "--url")
        except UsageError as error:
            shown(error)
            continue
        for one in (str(found), named):
            asked = httpx.URL(one)
            assert (asked.scheme, asked.host) == (found.scheme, found.host)
            assert asked.port in (found.port, None)
            assert found.port is None or 1 <= found.port <= 65535
    for given_ in (
        f"http://me:{SECRET}@{host}{text}",
        f"http://{host}/?k={SECRET}{text}",
        f"http://{host}:{SECRET}{text}",
    ):
        try:
            accepted = server(given_, "--url")
        except UsageError as error:
            shown(error)
        else:
            raise AssertionError(f"accepted: {given_!r} as {accepted!r}")


@target(value=urls, no_proxy=urls, name=st.sampled_from(["http_proxy", "HTTP_PROXY", "all_proxy"]))
def proxy_of_the_environment(value: str, no_proxy: str, name: str) -> None:
    assume("\x00" not in value + no_proxy)
    value = value.replace("@", f":{SECRET}@")
    with mock.patch.dict(os.environ, {name: value, "no_proxy": no_proxy}):
        for url in ("http://hub.example", "http://[::1]:8080", "http://127.0.0.1"):
            try:
                found = proxy_for(httpx.URL(url))
            except UsageError as error:
                shown(error)
            else:
                assert found is None or SECRET not in str(found.url)
    assert is_direct("http", "hub.example", 80, f"{no_proxy},hub.example")


@target(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    form_=st.sampled_from([
        str, repr, json.dumps, lambda one: repr(one.encode()), lambda one: quote(one, safe=""), quote_plus,
        lambda one: base64.b64encode(one.encode()).decode(), lambda one: base64.b64encode(f"a:{one}".encode()).decode(),
        lambda one: one.encode().hex(), lambda one: one[: len(one) // 2 + 6],
    ]),
)  # fmt: skip
def secret_in_a_message(secret: str, before: str, after: str, form_: Callable[[str], str]) -> None:
    shown = form_(secret)
    assume(not any(shown[at : at + 8] in before + after for at in range(len(shown) - 7)))
    with mock.patch.dict(os.environ, {"HF_TOKEN": secret}):
        masked = redact(before + shown + after)
    assert "***" in masked
    assert not [at for at in range(4, len(shown) - 11) if shown[at : at + 8] in masked]


# ---- hub and registry ----

LISTED: dict[str, Any] = {
    "id": "a/b", "sha": "a" * 40,
    "siblings": [{"rfilename": "m.gguf", "size": 5, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 5}}],
}  # fmt: skip
hub_names = st.sampled_from(["id", "sha", "siblings", "rfilename", "size", "lfs", "sha256", "gated", "private", "tags"])
hub_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | words
    | st.sampled_from(["../x", "/etc/x", "m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hub_names, inner, max_size=4),
    max_leaves=8,
)
answer_heads = st.dictionaries(
    st.sampled_from([
        "content-encoding", "content-range", "content-length", "location", "www-authenticate", "docker-content-digest",
        "x-error-code", "x-error-message", "retry-after", "content-type", "link",
    ]),
    st.sampled_from([
        "", "gzip", "identity", "bytes 0-4/5", "bytes 3-4/5", "bytes x", "http://[", "/again", SECRET,
        "sha256:" + "a" * 64,
        f'Bearer realm="http://hub/token",service="{SECRET}"', "Bearer", "Basic realm=x", "GatedRepo", "RepoNotFound",
        "1",
    ]),
    max_size=3,
)  # fmt: skip
statuses = st.sampled_from([200] * 6 + [206, 204, 301, 302, 400, 401, 403, 404, 405, 416, 429, 500, 503])


@st.composite
def listings(draw: st.DrawFn) -> bytes:
    """A listing of a hub in which some values are others, or anything else."""
    document: Any = json.loads(json.dumps(LISTED))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from([document, document["siblings"][0], document["siblings"][0]["lfs"]]))
        place[draw(hub_names)] = draw(hub_values)
        if not isinstance(document["siblings"], list) or not document["siblings"]:
            break
        if not isinstance(document["siblings"][0], dict) or not isinstance(document["siblings"][0].get("lfs"), dict):
            break
    return draw(st.just(_json(document)) | hub_values.map(_json) | st.binary(max_size=40))


@contextlib.contextmanager
def answering(answers: list[tuple[int, dict[str, str], bytes]]) -> Iterator[None]:
    """Hub and registry answer so, the last one again and again."""
    left = list(answers)

    def answer(_self: object, request: httpx.Request) -> httpx.Response:
        status, headers, body = left.pop(0) if len(left) > 1 else left[0]
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body), request=request)

    with (
        mock.patch.object(Route, "handle_request", answer),
        mock.patch.object(downloads, "_PAUSE_S", 0.0),
        mock.patch.object(time, "sleep"),
        mock.patch.dict(os.environ, {"HF_ENDPOINT": "http://hub"}),
    ):
        yield


def told(error: TrialbenchError) -> None:
    """What of an error reaches a person shows no secret."""
    hides(screen(str(error)))
    hides(str(error.__cause__ or ""))


@target(answers=st.lists(st.tuples(statuses, answer_heads, listings()), min_size=1, max_size=3))
def listing_of_a_hub(answers: list[tuple[int, dict[str, str], bytes]]) -> None:
    with answering(answers):
        try:
            commit, files = hub.list_files("a/b", "main", ["*"])
        except TrialbenchError as error:
            told(error)
            return
    assert hub.COMMIT.match(commit)
    for file in files:
        assert file.name.isprintable()
        assert not {"", ".", ".."} & set(file.name.split("/"))
        assert file.size >= 0
        assert file.sha256 is None or hub.SHA256.match(file.sha256)


@target(
    have=st.binary(max_size=8),
    answers=st.lists(st.tuples(statuses, answer_heads, st.binary(max_size=8)), min_size=1, max_size=4),
)
def file_of_a_hub(have: bytes, answers: list[tuple[int, dict[str, str], bytes]]) -> None:
    with answering(answers), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        path.write_bytes(have)
        try:
            downloads.download("a/b", "a" * 40, hub.RemoteFile("m.gguf", 5, None), path)
        except TrialbenchError as error:
            told(error)
            assert not path.exists() or path.stat().st_size <= max(5, len(have))
        else:
            assert path.stat().st_size == 5
        assert sorted(os.listdir(folder)) in ([], ["m.gguf"])


@target(
    answers=st.lists(st.tuples(statuses, answer_heads, encoded | st.just(b'{"token": "t"}')), min_size=1, max_size=4),
    image=st.sampled_from(["127.0.0.1:1/a/b:c", "a/b", "hub.example/a@sha256:" + "0" * 64]) | urls,
)
def answer_of_a_registry(answers: list[tuple[int, dict[str, str], bytes]], image: str) -> None:
    with answering(answers):
        try:
            found = image_digest(image)
        except TrialbenchError as error:
            told(error)
        else:
            assert re.fullmatch("sha256:[0-9a-f]{64}", found)


# ---- voices ----

kinds = st.sampled_from([b"data", b"fmt ", b"LIST", b"JUNK", b"fact", b"ds64", b"DATA", b"\0\0\0\0"])
sizes = (
    st.none() | st.sampled_from([0, 1, 44, 0x7FFFFFFF, 0xFFFFFFFF, speech.MAX_WAV_BYTES]) | st.integers(0, 0xFFFFFFFF)
)
forms = st.builds(
    form, encoding=st.sampled_from([0, 1, 3, 6, 7, 0xFFFE, 0xFFFF]), bits=st.sampled_from([0, 4, 8, 12, 16, 24, 32,
    64]),
    channels=st.integers(0, 3), rate=st.sampled_from([0, 1, 8000, 24000, 0xFFFF]), extra=st.binary(max_size=30),
)  # fmt: skip
chunks = st.builds(part, kinds, st.binary(max_size=60) | st.just(tone(0.3)), sizes)


@target(
    raw=st.builds(wav, st.lists(forms | chunks | st.binary(max_size=9), max_size=5).map(b"".join))
    | st.binary(max_size=60),
    status=st.sampled_from([200, 200, 200, 404, 500]),
    least=st.integers(0, 5000),
)
def sound_of_any_shape(raw: bytes, status: int, least: int) -> None:
    spoken = speech.judge(status, raw, least)
    assert spoken.found.isprintable()
    assert spoken.bytes == len(raw)
    assert not spoken.ok or (status == 200 and len(raw) > least and spoken.duration_s > 0)


@target(
    before=st.lists(st.builds(part, st.sampled_from([b"LIST", b"JUNK", b"fact"]), st.binary(max_size=21)), max_size=3),
    size=st.sampled_from([None, 0]) | st.integers(speech.MAX_WAV_BYTES, 0xFFFFFFFF),
    behind=st.binary(max_size=9),
)
def voice_that_speaks(before: list[bytes], size: int | None, behind: bytes) -> None:
    """No size that can not be true makes it mute."""
    raw = wav(form() + b"".join(before) + part(b"data", tone(0.5), size)) + behind
    spoken = speech.judge(200, raw, 1000)
    assert spoken.ok, spoken.found
