"""The measuring client: sends a request to a server that speaks OpenAI's chat completions, and times it.

One request gives one `Reply`, never an exception: a failure is named in `error_class` and remains a sample.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trialbench.engines.llama.messages import (
    JSON_ERRORS,
    PARSE_ERRORS,
    Message,
    events,
    read_document,
    read_event,
    text,
)
from trialbench.engines.llama.wire import Connection, Response, WireError, chunks
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
_COUNTS = {"completion_tokens": "completion_tokens", "prompt_n": "prompt_n", "cached_tokens": "cache_n"}
# The beginning of the hint that is appended to such a server's message.
REFUSED_FIELD = "(the server refuses a field of the request"


@dataclass
class Reply:
    """The outcome of a request. `started_s` is CLOCK_MONOTONIC, other times are milliseconds; None: not reported.

    `error_class`: None, `connect`, `dropped` (closed within the reply), `timeout`, `cut_off` (ended by us: time limit
    or signal), `http_<status>`, `server_error` (an error event within a stream), `bad_json`, `bad_reply`.
    """

    started_s: float
    latency_ms: float | None = None
    ttft_ms: float | None = None
    error_class: str | None = None
    error_detail: str | None = None
    content: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    completion_tokens: int | None = None
    server_ms: float | None = None
    prompt_n: int | None = None
    cache_n: int | None = None
    model: str | None = None
    reconnected: bool = False


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
        try:
            with self._connection.exchange(
                "POST", _PATH, body, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
            ) as response:
                self._read(response, reply)
        except WireError as error:
            if error.kind == "deadline" and time.monotonic() >= min(until_s, self._interrupted_s):
                reply.error_class, reply.error_detail = "cut_off", "ended by the time limit or a signal"
            elif error.kind == "deadline":
                reply.error_class, reply.error_detail = "timeout", f"no complete reply within {timeout_s:g} s"
            elif error.kind == "connect":
                reply.error_class, reply.error_detail = "connect", str(error) or f"not within {connect_timeout_s:g} s"
            else:
                reply.error_class = "dropped" if error.kind == "dropped" else "bad_reply"
                reply.error_detail = str(error)
        self._reused = wire.connects == connects
        if wire.first_write_s is not None:
            reply.started_s = wire.first_write_s
        end_s = wire.last_read_s or time.monotonic()
        if reply.error_class in (None, "bad_json", "bad_reply") or (reply.error_class or "").startswith("http_"):
            reply.latency_ms = _ms(end_s - reply.started_s)
        return reply

    def _read(self, response: Response, reply: Reply) -> None:
        body = chunks(response, MAX_REPLY_BYTES)
        if response.status_code != 200:
            said = b"".join(body).decode("utf-8", "replace")
            reply.error_class, reply.error_detail = f"http_{response.status_code}", self._explain(response, said)
        elif self._stream:
            # Read everything first, with the time of each piece, and parse afterwards: a client that parses between
            # two reads falls behind a fast server and measures itself.
            pieces = [(self.wire.last_read_s, chunk) for chunk in body]
            _read_stream(pieces, reply, self.wire.first_write_s)
        else:
            _read_document(b"".join(body), reply)

    def _explain(self, response: Response, said: str) -> str:
        detail = said.strip()[:300] or "no text"
        if response.status_code in (400, 422):
            named = [name for name in (*EXTENSIONS, "stream_options", "temperature") if name in said]
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


def _read_document(body: bytes, reply: Reply) -> None:
    message = Message()
    try:
        read_document(body, message)
    except JSON_ERRORS as error:
        reply.error_class, reply.error_detail = "bad_json", f"{error}: {body[:80]!r}"
    except PARSE_ERRORS as error:
        reply.error_class = "bad_reply"
        reply.error_detail = f"not a chat completion: {type(error).__name__} {error}: {body[:80]!r}"
    _add(reply, message)
    reply.content, reply.reasoning = text(message.content), text(message.reasoning)


def _read_stream(pieces: Sequence[tuple[float | None, bytes]], reply: Reply, first_write_s: float | None) -> None:
    came_s: float | None = None

    def replayed() -> Iterator[bytes]:
        nonlocal came_s
        for came_s, chunk in pieces:  # noqa: B007 - read by the loop below, event by event
            yield chunk

    whole = Message()
    for name, value in events(replayed()):
        try:
            message = read_event(name, value, strict=True)
        except PARSE_ERRORS as error:
            reply.error_class = "bad_json" if isinstance(error, ValueError) else "bad_reply"
            reply.error_detail = f"{error}: {value[:80]!r}"
            return
        if message.error is not None:
            reply.error_class, reply.error_detail = "server_error", value[:300]
            return
        whole.last = whole.last or message.last
        for key, piece in message.texts.items():
            whole.texts[key] = whole.texts.get(key, "") + piece
            if piece and reply.ttft_ms is None and came_s is not None and first_write_s is not None:
                reply.ttft_ms = _ms(came_s - first_write_s)
        _add(reply, message)
    if not whole.last:
        reply.error_class, reply.error_detail = "dropped", "the stream ended before [DONE]"
    reply.content, reply.reasoning = text(whole.content), text(whole.reasoning)


def _add(reply: Reply, message: Message) -> None:
    """Copy everything but the texts, which are complete only at the end."""
    counts = message.counts
    reply.finish_reason = message.finish_reason or reply.finish_reason
    reply.model = message.model[:_MAX_NAME] if message.model else reply.model
    if "prompt_ms" in counts and "predicted_ms" in counts:
        reply.server_ms = round(counts["prompt_ms"] + counts["predicted_ms"], 3)
    for name, ours in _COUNTS.items():
        if name in counts:
            setattr(reply, ours, int(counts[name]))
