"""The measuring client: sends a request to a server that speaks OpenAI's chat completions, and times it.

One request gives one `Reply`, never an exception: a failure is named in `error_class` and remains a sample.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trialbench.engines.llama.messages import (
    QUIET_S,
    REST_S,
    StreamedReply,
    compressed,
    explain,
    is_page,
    page_is_whole,
    read_document,
    whole,
)
from trialbench.engines.llama.wire import Answer, Connection, Response, Wire, WireError, chunks
from trialbench.engines.message import Call, Fault, Message
from trialbench.urls import server
from trialbench.workloads import Workload

# Sent in addition to the standard fields. Not every server knows them; each can be left out (`--omit`).
EXTENSIONS: Mapping[str, Any] = {"cache_prompt": False, "chat_template_kwargs": {"enable_thinking": False}}
# Error classes that mean "no server answers": enough of them in a row and the server counts as broken.
CONNECTION_ERRORS = frozenset({"connect", "dropped", "timeout"})
# A reply is untrusted data: anything longer than a real reply is not read.
MAX_REPLY_BYTES = 4 << 20
_MAX_NAME = 300
_PATH = "/v1/chat/completions"
_COUNTS = {
    "completion_tokens": "completion_tokens",
    "thinking_tokens": "thinking_tokens",
    "prompt_n": "prompt_n",
    "cached_tokens": "cache_n",
}
# Bytes that may mean that a stream is at its end, or holds an error: only then is it parsed while it still arrives.
_AN_END = re.compile(rb'"finish_reason"\s*:\s*(?:"[^"]|[\[{])')
_AN_ERROR = re.compile(
    rb'"error"\s*:\s*(?:"[^"]|\[|\{\s*")|"(?:object|type)"\s*:\s*"error"|(?:^|[\r\n])(?:event: ?\w*)?error'
)
_OVERLAP = 64
_PAGE_BYTES, _MAGIC_BYTES = 200, 16
# If the server does not give a length, a complete document is recognized by its text; how often that is tried.
_MAX_TRIES = 64
# The beginning of the hint that is appended to such a server's message.
REFUSED_FIELD = "(the server refuses a field of the request"


@dataclass
class Reply:
    """The outcome of a request. `started_s` is CLOCK_MONOTONIC, other times are milliseconds; None: not reported.

    `error_class`: None, `connect`, `dropped` (closed within the reply), `timeout`, `cut_off` (ended by us: time limit
    or signal), `http_<status>`, `server_error` (an error that was reported in place of a reply, or within one),
    `bad_json`, `bad_reply`.
    """

    started_s: float
    latency_ms: float | None = None
    ttft_ms: float | None = None
    error_class: str | None = None
    error_detail: str | None = None
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[Call, ...] | None = None
    finish_reason: str | None = None
    completion_tokens: int | None = None
    thinking_tokens: int | None = None
    server_ms: float | None = None
    prompt_n: int | None = None
    cache_n: int | None = None
    model: str | None = None
    reconnected: bool = False

    def take(self, message: Message) -> None:
        """Take over what the engine said, whatever engine it is."""
        self.content, self.reasoning, self.refusal = message.content, message.reasoning, message.refusal
        self.tool_calls, self.finish_reason = message.tool_calls, message.finish_reason
        self.model = message.model[:_MAX_NAME] if message.model else None
        counts = message.counts
        if "prompt_ms" in counts and "predicted_ms" in counts:
            self.server_ms = round(counts["prompt_ms"] + counts["predicted_ms"], 3)
        for name, ours in _COUNTS.items():
            if name in counts:
                setattr(self, ours, int(counts[name]))
        if message.fault is not None:
            self.error_class, self.error_detail = message.fault.kind, message.fault.detail


class ChatClient:
    """Sends the request of one workload repeatedly over one connection.

    Args:
        url: the server, with or without a trailing `/v1`.
        stream: ask for a stream, which gives `ttft_ms` and takes a new connection for each request.
        model: sent as `model`; llama-server does not need it.
        omit: names of body fields to leave out, for servers that refuse them.
        api_key: sent as bearer token.

    Raises:
        UsageError: `url` names no server.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: bool = False,
        model: str | None = None,
        omit: frozenset[str] = frozenset(),
        api_key: str | None = None,
    ) -> None:
        self._stream = stream
        self._model = model
        self._omit = omit
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
        }
        self._connection = Connection(server(url, "--url"), api_key=api_key, keep_alive=not stream, headers=headers)
        self.wire = self._connection.wire
        self._interrupted_s = float("inf")

    def encode(self, workload: Workload, *, cache_prompt: bool) -> bytes:
        """The body of the request, the same for every sample of a segment."""
        body: dict[str, Any] = {"messages": workload.messages, "max_tokens": workload.limits.max_tokens}
        if workload.limits.temperature is not None:
            body["temperature"] = workload.limits.temperature
        if self._model is not None:
            body["model"] = self._model
        body |= {**EXTENSIONS, "cache_prompt": cache_prompt}
        body |= {"stream": True, "stream_options": {"include_usage": True}} if self._stream else {"stream": False}
        body |= workload.request
        return json.dumps({key: value for key, value in body.items() if key not in self._omit}).encode()

    def interrupt(self, grace_s: float) -> None:
        """From a signal handler: the request in flight may take `grace_s` more seconds."""
        self._interrupted_s = min(self._interrupted_s, time.monotonic() + grace_s)
        self.wire.deadline_s = min(self.wire.deadline_s, self._interrupted_s)

    def send(self, body: bytes, *, timeout_s: float, connect_timeout_s: float, until_s: float = float("inf")) -> Reply:
        """One request and its reply.

        Args:
            timeout_s: limit of the whole request; exceeding it is the server's failure (`timeout`).
            until_s: CLOCK_MONOTONIC at which we give up for our own reasons (`cut_off`).
        """
        with _undisturbed():
            reply = self._attempt(body, timeout_s, connect_timeout_s, until_s)
            if reply.error_class == "dropped" and self._reused and self.wire.bytes_read == 0:
                # The server was just closing a kept-alive connection and read nothing of this request. Try again on a
                # new connection; if the server is really gone, this fails as well.
                reply = self._attempt(body, timeout_s, connect_timeout_s, until_s)
                reply.reconnected = True
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _attempt(self, body: bytes, timeout_s: float, connect_timeout_s: float, until_s: float) -> Reply:
        wire = self.wire
        wire.reset()
        connects = wire.connects
        started_s = time.monotonic()
        own_limit_s = min(until_s, self._interrupted_s)
        wire.deadline_s = min(started_s + timeout_s, own_limit_s)
        reply = Reply(started_s)
        taking = _Stream(wire) if self._stream else _Document(wire)
        answer = Answer(wire)
        lost: WireError | None = None
        try:
            with self._connection.exchange(
                "POST", _PATH, body, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
            ) as response:
                if response.status_code == 200:
                    taking.take(response)
                else:
                    answer.take(response, MAX_REPLY_BYTES)
        except WireError as error:
            lost = error
        if answer.status is None:
            reply.take(taking.end(closed=lost is None))
        elif lost is None or lost.kind != "too_long":
            reply.error_class, reply.error_detail = f"http_{answer.status}", self._explain(answer)
        # Whatever ended the connection: a reply that was whole before stays one, and an error that the server reported
        # says more than the end.
        if lost is not None and taking.whole_s is None and reply.error_class is None:
            if lost.kind == "deadline" and time.monotonic() >= min(until_s, self._interrupted_s):
                reply.error_class, reply.error_detail = "cut_off", "ended by the time limit or a signal"
            elif lost.kind == "deadline":
                reply.error_class, reply.error_detail = "timeout", f"no complete reply within {timeout_s:g} s"
            elif lost.kind == "connect":
                reply.error_class, reply.error_detail = "connect", str(lost) or f"not within {connect_timeout_s:g} s"
            else:
                reply.error_class = "dropped" if lost.kind == "dropped" else "bad_reply"
                reply.error_detail = str(lost)
        self._reused = wire.connects == connects
        if wire.first_write_s is not None:
            reply.started_s = wire.first_write_s
            if taking.first_s is not None:
                reply.ttft_ms = _ms(taking.first_s - reply.started_s)
        end_s = taking.whole_s or wire.last_read_s or time.monotonic()
        if reply.error_class in (None, "bad_json", "bad_reply") or (reply.error_class or "").startswith("http_"):
            reply.latency_ms = _ms(end_s - reply.started_s)
        return reply

    def _explain(self, answer: Answer) -> str:
        said = bytes(answer.body)
        detail = explain(answer.status or 0, answer.headers, said)
        if answer.status in (400, 422):
            named = [name for name in (*EXTENSIONS, "stream_options", "temperature") if name.encode() in said]
            if named:
                options = " ".join(f"--omit {name}" for name in named)
                detail += f" {REFUSED_FIELD}; leave it out with {options})"
        return detail


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Suspend garbage collection: it takes milliseconds, at unpredictable times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _text(part: bytearray) -> str:
    return part.decode("utf-8", "replace")


class _Document:
    """A reply that comes in one piece.

    Attributes:
        whole_s: when the whole document had come; None before.
    """

    first_s = None

    def __init__(self, wire: Wire) -> None:
        self.whole_s: float | None = None
        self._wire = wire
        self._got = bytearray()
        self._tries = 0
        self._message: Message | None = None
        self._packed: str | None = None
        self._page = False

    def take(self, response: Response) -> None:
        length = response.headers.get("content-length")
        for chunk in chunks(response, MAX_REPLY_BYTES):
            self._got += chunk
            if length != str(len(self._got)) and (self._message is None or chunk.strip()):
                self._look()
        self._packed = compressed(response.headers, bytes(self._got[:_MAGIC_BYTES]))
        if self.whole_s is None:
            self.whole_s = self._wire.last_read_s

    def _look(self) -> None:
        """Where the server does not say how much will come: see whether this is a whole document already."""
        self._message, self.whole_s = None, None
        self._wire.whole_until_s = float("inf")
        self._page = is_page(_text(self._got[:_PAGE_BYTES]))
        if self._page:
            wait_s = REST_S if page_is_whole(_text(self._got[-_PAGE_BYTES:])) else QUIET_S
            self._wire.whole_until_s = (self._wire.last_read_s or time.monotonic()) + wait_s
        if self._tries < _MAX_TRIES and self._got.rstrip().endswith((b"}", b"]")):
            self._tries += 1
            self._settle()

    def _settle(self) -> None:
        got = bytes(self._got)
        if whole(got):
            self._message, self.whole_s = read_document(got), self._wire.last_read_s
            self._wire.whole_until_s = (self.whole_s or 0.0) + REST_S

    def end(self, *, closed: bool) -> Message:
        """The reply, or what there is of it."""
        if self._message is None and not closed and not self._page:
            # What broke may have been the connection behind a whole reply, or behind an error in another form.
            self._settle()
            found = read_document(bytes(self._got))
            if self._message is None and (found.fault is None or found.fault.kind != "server_error"):
                return Message()
        if self._packed is not None:
            return Message(fault=Fault("bad_json", self._packed))
        return self._message or read_document(bytes(self._got))


class _Stream:
    """A reply that comes as a stream of events.

    All of it is read first, with the time of each piece, and parsed afterwards: a client that parses between two reads
    falls behind a fast server and measures itself. Only what looks like the end is parsed as it comes, so that nothing
    is waited for once the reply is whole.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reading = StreamedReply()
        self._pieces: list[tuple[float, bytes]] = []
        self._tail = b""
        self._near_end = False
        self._kind = ""

    @property
    def whole_s(self) -> float | None:
        """When the reply was whole."""
        return self._reading.whole_s

    @property
    def first_s(self) -> float | None:
        """When the first token came."""
        return self._reading.first_s

    def take(self, response: Response) -> None:
        wire, reading = self._wire, self._reading
        self._kind = response.headers.get("content-type", "")
        first = True
        for chunk in chunks(response, MAX_REPLY_BYTES):
            if first and (packed := compressed(response.headers, chunk)) is not None:
                reading.fail(Fault("bad_json", packed))
                return
            first = False
            self._pieces.append((wire.last_read_s or time.monotonic(), chunk))
            self._near_end = self._near_end or not self._is_stream(chunk) or self._looks_like_the_end(chunk)
            if self._near_end:
                self._parse()
                if reading.done:
                    return
                wire.whole_until_s = reading.until_s

    def _is_stream(self, chunk: bytes) -> bool:
        """Whether this may go on for long; an answer in place of a stream is looked at as it comes."""
        return len(self._pieces) > 1 or not chunk.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[", b"<"))

    def _looks_like_the_end(self, chunk: bytes) -> bool:
        seen = self._tail + chunk
        self._tail = seen[-_OVERLAP:]
        return (
            b"[DONE]" in seen
            or _AN_END.search(seen) is not None
            or (b"error" in seen and _AN_ERROR.search(seen) is not None)
        )

    def _parse(self) -> None:
        for at_s, chunk in self._pieces:
            self._reading.feed(chunk, at_s)
        self._pieces.clear()

    def end(self, *, closed: bool) -> Message:
        """The reply, or what there is of it."""
        self._parse()
        self._reading.end(kind=self._kind, closed=closed)
        return self._reading.message
