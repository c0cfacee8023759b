"""Streamed generations over the wire, for engines: one connection each, with deadlines and cancellation.

Canceling a reply means disconnecting, but the server may notice late. If it shows its slots, the end is reported only
once ours is free.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trialbench.engines.contract import (
    Deadlines,
    Done,
    Event,
    Failed,
    FinishReason,
    Label,
    Result,
    Started,
    Token,
    Usage,
)
from trialbench.engines.failures import (
    BAD_ARGUMENTS,
    BAD_REPLY,
    BUSY,
    CONNECTION,
    EMPTY_OUTPUT,
    NOT_ALLOWED,
    OUTPUT_LIMIT,
    PROMPT_TOO_LONG,
    REPLACEMENT_CHARACTERS,
    SERVER_ERROR,
    TIMEOUT,
    UNAVAILABLE,
    Failure,
    FailureClass,
)
from trialbench.engines.llama.messages import Piece, Read, StreamedReply, compressed, error_in, explain, whole
from trialbench.engines.llama.wire import CONNECT_S, Answer, Connection, Response, WireError, chunks, fetch
from trialbench.engines.message import Fault, FaultKind
from trialbench.engines.process import timeout

MAX_REPLY_BYTES = 16 << 20
_MAX_SMALL_BYTES = 8 << 20
# Of an answer that is not a reply.
_MAX_REFUSAL_BYTES = 1 << 16
_DETAIL = 300
# A reader that stops reading occupies the slot at most this long after the total deadline.
_OVERDUE_S = 2.0
_BY_STATUS: Mapping[int, FailureClass] = {
    400: BAD_ARGUMENTS,
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: BAD_ARGUMENTS,
    405: BAD_ARGUMENTS,
    408: TIMEOUT,
    413: PROMPT_TOO_LONG,
    415: BAD_ARGUMENTS,
    422: BAD_ARGUMENTS,
    429: BUSY,
    502: CONNECTION,
    503: UNAVAILABLE,
    504: TIMEOUT,
}
_TOO_LONG = ("exceeds the available context", "context size", "context length", "exceed_context_size", "too long")
# OpenAI's words, and those of llama-server's `/completion` and of other servers.
_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "word": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "limit": "length", "max_tokens": "length",
}  # fmt: skip
_USAGE = ("prompt_tokens", "completion_tokens", "cached_tokens", "prompt_ms", "predicted_ms")
_TOO_LARGE_S = 1e9


@dataclass(frozen=True)
class Server:
    """A server and its API key.

    Args:
        url: without path: `http://127.0.0.1:8080`.
        api_key: sent as bearer token.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)

    def connection(self) -> Connection:
        """A connection for one request that streams."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return Connection(self.url, api_key=self.api_key, keep_alive=False, headers=headers)

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 5.0) -> Any:
        """A small JSON request and its reply.

        Raises:
            CallError: no reply, a status other than 200, an error in its place, or not JSON.
        """
        try:
            answer = fetch(
                self.url, method, path, body, timeout_s=timeout_s, limit=_MAX_SMALL_BYTES, api_key=self.api_key
            )
        except WireError as error:
            if error.kind == "deadline":
                raise CallError(Failure(TIMEOUT, f"{path}: no answer within {timeout_s:g} s")) from None
            if error.kind == "too_long":
                raise CallError(Failure(BAD_REPLY, f"{path}: expected JSON, found too much")) from error
            raise CallError(Failure(CONNECTION, f"{path}: {error}")) from error
        if answer.status != 200:
            raise CallError(refused(answer), in_json=whole(bytes(answer.body)))
        if (packed := compressed(answer.headers, bytes(answer.body))) is not None:
            raise CallError(Failure(BAD_REPLY, f"{path}: {packed}"))
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise CallError(Failure(BAD_REPLY, f"{path}: expected JSON, found {error}")) from error
        # Some servers answer 200 to what they don't know, and others tell a success in a message.
        fault = error_in(found, whole=False) if isinstance(found, dict) else None
        if fault is not None:
            raise CallError(error_event(replace(fault, detail=f"{path}: {fault.detail}")))
        return found


class CallError(Exception):
    """A small request failed; `failure` says why, and `in_json` whether the server refused it in JSON."""

    def __init__(self, failure: Failure, *, in_json: bool = False) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.in_json = in_json


class HttpGeneration:
    """One streamed reply as a `Generation`. The request is sent when the first event is requested.

    Args:
        read: takes one event of the stream into the reply.
        quiet: called after a reply that did not end by itself; waits until the server has stopped it. Returns whether
            that was seen, and facts about it.
        track: called with +1 before the request is sent, and with -1 at the end.
        facts: additional facts for the result.
    """

    def __init__(
        self,
        server: Server,
        label: Label,
        path: str,
        body: Mapping[str, Any],
        deadlines: Deadlines,
        read: Read,
        *,
        quiet: Callable[[], tuple[bool, Mapping[str, Any]]] | None = None,
        track: Callable[[int], None] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._server = server
        self._label = label
        self._path = path
        self._body = json.dumps(body).encode()
        self._deadlines = deadlines
        self._reading = StreamedReply(read)
        self._quiet = quiet
        self._track = track or (lambda _step: None)
        self._facts = dict(facts or {})
        # A signal handler may cancel while the main thread holds it.
        self._lock = threading.RLock()
        self._connection = server.connection()
        self._wire = self._connection.wire
        self._socket: socket.socket | None = None
        self._canceled_s: float | None = None
        self._texts: list[str] = []
        self._chunks = 0
        self._thinking = 0
        self._waiting = "first"
        self._sent = False
        self._cut_off = False
        self._result: Result | None = None
        self._created_s = time.monotonic()
        self._events = self._make()

    def events(self) -> Generator[Event, None, None]:
        """Started, tokens as they come, then exactly one Done or Failed."""
        return self._events

    def cancel(self) -> None:
        """Disconnect soon: at once if the reply has begun, else within 0.2 s."""
        with self._lock:
            if self._result is not None or self._canceled_s is not None:
                return
            self._canceled_s = time.monotonic()
        self._cut()

    def result(self) -> Result:
        """The outcome; waits for the end."""
        for _ in self._events:
            pass
        if self._result is None:
            self.cancel()
            self._settle(None)
        assert self._result is not None
        return self._result

    def _cut(self) -> None:
        with self._lock:
            self._cut_off = True
            self._wire.deadline_s = 0.0
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed already

    def _make(self) -> Generator[Event, None, None]:
        failure: Failure | None = None
        overdue = threading.Timer(min(self._deadlines.total_s + _OVERDUE_S, _TOO_LARGE_S), self._cut)
        overdue.daemon = True
        left = True
        try:
            yield Started(self._begin())
            overdue.start()
            if self._canceled_s is None:
                self._sent = True
                self._track(1)
                failure = yield from self._stream()
            left = False
        finally:
            overdue.cancel()
            if left:
                # The caller left early, which is a cancel.
                self.cancel()
            last = self._settle(failure)
        yield last

    def _begin(self) -> float:
        self._created_s = now_s = time.monotonic()
        self._total_s = now_s + self._deadlines.total_s
        self._wait_for("first", self._deadlines.first_s)
        return now_s

    def _wait_for(self, which: str, span_s: float | None) -> None:
        now_s = time.monotonic()
        at_s = self._total_s if span_s is None else now_s + span_s
        self._waiting = which if at_s < self._total_s else "total"
        with self._lock:
            if not self._cut_off:
                self._wire.deadline_s = min(at_s, self._total_s)

    def _stream(self) -> Generator[Event, None, Failure | None]:
        answer = Answer(self._wire)
        with contextlib.closing(self._connection) as connection:
            try:
                with connection.exchange(
                    "POST",
                    self._path,
                    self._body,
                    timeout_s=self._deadlines.total_s,
                    connect_timeout_s=min(CONNECT_S, self._deadlines.total_s),
                ) as response:
                    with self._lock:
                        stream = response.extensions.get("network_stream")
                        self._socket = stream.get_extra_info("socket") if stream is not None else None
                        if self._cut_off:
                            raise WireError("deadline")
                    if response.status_code != 200:
                        answer.take(response, _MAX_REFUSAL_BYTES)
                    else:
                        yield from self._take(response)
                        kind = response.headers.get("Content-Type", "")
                        yield from self._tokens(self._reading.end(kind=kind))
            except WireError as error:
                if answer.status is not None:
                    return refused(answer)
                # Whatever ended the connection: a reply that was whole before stays one, and an error that the server
                # reported says more than the end.
                yield from self._tokens(self._reading.end(closed=False))
                if self._reading.whole_s is None and self._reading.message.fault is None:
                    return self._failure(error)
            finally:
                with self._lock:
                    self._socket = None
        return self._judge() if answer.status is None else refused(answer)

    def _failure(self, error: WireError) -> Failure:
        if error.kind == "deadline":
            return timeout(self._waiting, self._deadlines)
        if error.kind == "connect":
            return Failure(CONNECTION, f"no connection to {self._server.url}: {str(error) or 'in time'}")
        kind: FaultKind = "dropped" if error.kind == "dropped" else "bad_reply"
        self._reading.message.fault = Fault(kind, str(error))
        if error.kind == "dropped":
            return Failure(CONNECTION, f"the connection ended within the reply: {error}")
        if error.kind == "unusable":
            return Failure(BAD_REPLY, str(error))
        return Failure(OUTPUT_LIMIT, f"more than {MAX_REPLY_BYTES >> 20} MiB")

    def _take(self, response: Response) -> Generator[Event, None, None]:
        reading, first = self._reading, True
        for chunk in chunks(response, MAX_REPLY_BYTES):
            if first and (packed := compressed(response.headers, chunk)) is not None:
                reading.fail(Fault("bad_json", packed))
                return
            first = False
            yield from self._tokens(reading.feed(chunk, self._wire.last_read_s or time.monotonic()))
            if reading.done or self._canceled_s is not None:
                return
            self._wire.whole_until_s = reading.until_s

    def _tokens(self, pieces: list[Piece]) -> Generator[Event, None, None]:
        for piece in pieces:
            if self._canceled_s is not None:
                return  # events from the same read are not yielded any more
            if piece.text:
                self._texts.append(piece.text)
                self._chunks += 1
                t_s = self._wire.last_read_s or time.monotonic()
                yield Token(piece.text, t_s, piece.ids[0] if len(piece.ids) == 1 else None)
            self._thinking += len(piece.thought)
            self._wait_for("between", self._deadlines.between_s)

    def _judge(self) -> Failure | None:
        message, text = self._reading.message, "".join(self._texts)
        if message.fault is not None:
            return error_event(message.fault)
        if not text.strip():
            found = [
                f"{self._thinking} characters of thinking" if self._thinking else "",
                f"a call of {', '.join(call.name for call in message.tool_calls)}"[:_DETAIL]
                if message.tool_calls is not None
                else "",
                f"a refusal: {message.refusal[:_DETAIL]}" if message.refusal else "",
            ]
            return Failure(EMPTY_OUTPUT, ", and ".join(["success, but no text", *filter(None, found)]))
        if "\N{REPLACEMENT CHARACTER}" in text:
            return Failure(REPLACEMENT_CHARACTERS, f"U+FFFD {text.count(chr(0xFFFD))} times in {len(text)} characters")
        return None

    def _settle(self, failure: Failure | None) -> Done | Failed:
        with self._lock:
            canceled_s = self._canceled_s
        facts = dict(self._facts)
        clean, quiet_ms = True, None
        reading = self._reading
        # A complete reply ended when it was whole: what the server adds to it is not generated.
        ended_s = (reading.whole_s if failure is None else None) or time.monotonic()
        finish: FinishReason | None = None if failure is not None else _finish(reading.message.finish_reason)
        if canceled_s is not None:
            failure, finish = None, "cancelled"
            ended_s = time.monotonic()
        if canceled_s is not None or (failure is not None and failure.failure_class in (TIMEOUT, OUTPUT_LIMIT)):
            if self._quiet is not None and self._sent:
                clean, noted = self._quiet_now()
                facts |= noted
            ended_s_now = time.monotonic()
            quiet_ms = round((ended_s_now - (canceled_s if canceled_s is not None else ended_s)) * 1000, 3)
            ended_s = ended_s_now
        if self._thinking:
            facts["thinking_characters"] = self._thinking
        usage = Usage(chunks=self._chunks, **_usage(reading.message.counts))
        with self._lock:
            self._result = Result(
                label=self._label,
                text="".join(self._texts),
                finish_reason=finish,
                failure=failure,
                usage=usage,
                started_s=self._wire.first_write_s or self._created_s,
                first_token_s=reading.first_s,
                ended_s=ended_s,
                quiet_ms=quiet_ms,
                clean=clean,
                facts=facts,
                message=reading.message,
            )
        if self._sent:
            self._track(-1)
        if failure is not None:
            return Failed(failure, ended_s)
        assert finish is not None
        return Done(finish, usage, ended_s)

    def _quiet_now(self) -> tuple[bool, dict[str, Any]]:
        assert self._quiet is not None
        seen, noted = self._quiet()
        return seen, dict(noted)


def refused(answer: Answer) -> Failure:
    """The failure for an answer with a status other than 200."""
    status = answer.status or 0
    return by_status(status, explain(status, answer.headers, bytes(answer.body)))


def by_status(status: int, text: str) -> Failure:
    """The failure for an HTTP status and its text."""
    row = _BY_STATUS.get(status, SERVER_ERROR)
    if row is BAD_ARGUMENTS and any(words in text for words in _TOO_LONG):
        row = PROMPT_TOO_LONG
    return Failure(row, f"HTTP {status}: {text}", status)


def error_event(fault: Fault) -> Failure:
    """The failure for a stream that holds no reply; an error of the server may name a status."""
    if fault.kind != "server_error":
        return Failure(CONNECTION if fault.kind == "dropped" else BAD_REPLY, fault.detail)
    return Failure(SERVER_ERROR, fault.detail) if fault.code is None else by_status(fault.code, fault.detail)


def _finish(value: str | None) -> FinishReason:
    return _FINISH.get(value or "", "unknown")


def _usage(counts: Mapping[str, float]) -> dict[str, Any]:
    return {name: round(counts[name], 3) for name in _USAGE if name in counts}
