"""All HTTP to a llama-server: httpx with a clock at the socket and a deadline for the whole request.

httpx limits each read, not the request: a server that sends one byte per second is never too late. It also measures
0.9 ms away from the wire, because its own work is included. A network backend solves both: it records when the first
byte of the request left and the last byte of the reply arrived, and it waits in short slices so that a deadline is kept
even if a signal moves it forward.

httpx also sends head and body of a request separately, with its own work in between, while the server waits for the
rest. Here, writes are buffered until the reply is read, and leave in one piece. Replies are parsed only when no more
data is arriving: a client that parses a reply while the rest of it arrives measures its own parsing.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import re
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import httpcore
import httpx

from trialbench.engines.llama.messages import QUIET_S, REST_S, page_is_whole, whole

# Callers read its status, its headers and, with `chunks`, its body.
Response = httpx.Response
# How long a connection may take, at most.
CONNECT_S = 5.0
# A signal that shortens the deadline is noticed after one slice at most.
_SLICE_S = 0.2
# Without more data within this time, what came so far is parsed. Tokens of a real model are further apart.
_LULL_S = 0.002
_GATHER_BYTES = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
# A document without a length may be complete after any of its pieces; this is how often we try.
_MAX_TRIES, _TAIL_BYTES = 16, 200
# The head of an interim answer, such as 103: that of the reply follows it.
_INTERIM = re.compile(rb"HTTP/1\.\d 1\d\d\b")
_LAST_CHUNK = b"\r\n0\r\n\r\n"
# We close idle connections before the server does (llama-server: after 5 s), so no request meets a closing connection.
_KEEPALIVE_EXPIRY_S = 3.0


class DeadlineError(Exception):
    """The deadline of the request passed."""


class WireError(Exception):
    """A request had no usable reply; the text says why, and may be empty.

    Attributes:
        kind: `deadline` (ours passed), `connect` (no connection), `dropped` (it closed, or was not HTTP),
            `unusable` (httpx refuses a header or the URL), `too_long`.
        timed_out: whether a time limit was exceeded, the deadline or one of the connection.
    """

    def __init__(
        self,
        kind: Literal["deadline", "connect", "dropped", "unusable", "too_long"],
        text: str = "",
        *,
        timed_out: bool = False,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.timed_out = timed_out


class Wire:
    """Observations at the socket during one request. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self) -> None:
        self.deadline_s = float("inf")
        self.connects = 0
        self.reset()

    def reset(self) -> None:
        """Forget the last request."""
        # Moved forward once the reply is whole; `deadline_s` is still the user's.
        self.whole_until_s = float("inf")
        self.first_write_s: float | None = None
        self.last_read_s: float | None = None
        self.bytes_read = 0

    def remaining_s(self) -> float:
        """Seconds to the deadline, or to the end of the wait for the rest of a whole reply.

        Raises:
            DeadlineError: there are none left.
        """
        left = min(self.deadline_s, self.whole_until_s) - time.monotonic()
        if left <= 0:
            raise DeadlineError
        return left


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, wire: Wire) -> None:
        self._inner = inner
        self._wire = wire
        self._unsent: list[bytes] = []
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._begin()

    def _begin(self) -> None:
        """Forget what came in reply to the last request."""
        self._size, self._ends_at = 0, 0
        self._head: bytes | None = b""
        self._tail = b""

    # The pool's timeouts of these two were fixed when the request began; only the deadline counts.
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the interface has it
        if self._unsent:
            self._flush()
        if not self._pieces:
            self._gather(max_bytes)
        self._wire.last_read_s, piece = self._pieces.popleft()
        return piece

    def _gather(self, max_bytes: int) -> None:
        """Read what arrives in quick succession, each piece with its time, before any of it is parsed.

        Stops at the end of a complete reply, at a lull, or at the end of the connection.
        """
        wire, data = self._wire, bytearray()
        while len(data) < _GATHER_BYTES:
            try:
                piece = self._inner.read(max_bytes, min(_LULL_S if data else _SLICE_S, wire.remaining_s()))
            except httpcore.ReadTimeout:
                if data:
                    return
                continue
            except httpcore.ReadError:
                if data:
                    return  # hand out the data first; the next read sees the same error
                raise
            self._pieces.append((time.monotonic(), piece))
            wire.bytes_read += len(piece)
            self._follow(piece)
            data += piece
            if not piece or _whole(data):
                return

    def _follow(self, piece: bytes) -> None:
        """Follow the reply to its end: the length that its head gives, or the last chunk."""
        self._size += len(piece)
        self._tail = (self._tail + piece[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
        if self._head is None:
            return
        self._head += piece
        while (at := self._head.find(b"\r\n\r\n") + 4) >= 4 and _INTERIM.match(self._head):
            self._head, self._size = self._head[at:], self._size - at
        if at >= 4:
            length = _LENGTH.search(self._head, 0, at - 2)
            self._ends_at = at + int(length[1]) if length is not None else 0
            self._head = None

    @property
    def _at_its_end(self) -> bool:
        """Whether nothing but the reply has come: what follows it would be read as the reply to the next request."""
        return self._size == self._ends_at if self._ends_at else self._tail == _LAST_CHUNK

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the interface has it
        if buffer:
            self._unsent.append(buffer)

    def _flush(self) -> None:
        buffer = b"".join(self._unsent)
        self._unsent.clear()
        self._begin()
        left_s = self._wire.remaining_s()
        if self._wire.first_write_s is None:
            self._wire.first_write_s = time.monotonic()
        line, unsent = self._inner.get_extra_info("socket"), memoryview(buffer)
        # A server may reject a request before it has read all of it; its reply is still read.
        with contextlib.suppress(OSError):
            while unsent:
                line.settimeout(min(_SLICE_S, left_s))
                with contextlib.suppress(TimeoutError):
                    unsent = unsent[line.send(unsent) :]
                left_s = self._wire.remaining_s()

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            limit = min(self._wire.remaining_s(), timeout or float("inf"))
        except DeadlineError:
            # The pool does not know this connection yet, and would leave it open.
            self.close()
            raise
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, limit), self._wire)

    def get_extra_info(self, info: str) -> Any:
        # The pool does not reuse a kept connection with unsolicited data.
        if info == "is_readable" and (self._pieces or not self._at_its_end):
            return True
        return self._inner.get_extra_info(info)


def _whole(data: bytearray) -> bool:
    """Whether `data`, which begins where a read began, ends where a reply ends. A wrong guess costs one lull."""
    if data.endswith(_LAST_CHUNK):
        return True
    head = data.find(b"\r\n\r\n")
    length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
    return length is not None and len(data) >= head + 4 + int(length[1])


class _Backend(httpcore.NetworkBackend):
    def __init__(self, wire: Wire) -> None:
        self._inner = httpcore.SyncBackend()
        self._wire = wire

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        limit = min(self._wire.remaining_s(), timeout or float("inf"))
        stream = self._inner.connect_tcp(host, port, limit, local_address, socket_options)
        self._wire.connects += 1
        return _Stream(stream, self._wire)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


class WireTransport(httpx.BaseTransport):
    """Sends httpx requests over one httpcore pool; `wire` holds the last request's times and the deadline.

    For one request at a time: a benchmark client with overlapping requests would measure itself.
    Errors are httpcore's own (`ConnectError`, `ReadError`, `RemoteProtocolError`, ...) or `DeadlineError`.

    Args:
        keep_alive: False opens a connection per request. llama-server closes the socket after a streamed reply
            although it announces keep-alive, so streaming must not reuse it.
    """

    def __init__(self, *, keep_alive: bool) -> None:
        self.wire = Wire()
        self._pool = httpcore.ConnectionPool(
            ssl_context=None,  # httpcore makes one for the first https request; plain http must not pay for it
            max_connections=1,
            max_keepalive_connections=1 if keep_alive else 0,
            keepalive_expiry=_KEEPALIVE_EXPIRY_S,
            network_backend=_Backend(self.wire),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the body of the response is still to be read, under the same deadline."""
        reply = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(reply.stream, Iterable)
        return httpx.Response(
            status_code=reply.status, headers=reply.headers, stream=_Body(reply.stream), extensions=reply.extensions
        )

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()


class Connection:
    """A client of one server: no proxy from the environment, no cookies, no redirects, no compression.

    Args:
        url: the server, without path.
        api_key: sent as bearer token.
        keep_alive: see `WireTransport`.
        headers: sent with every request.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, keep_alive: bool, headers: Mapping[str, str] | None = None
    ) -> None:
        self._url = url
        transport = WireTransport(keep_alive=keep_alive)
        self.wire = transport.wire
        # No decompression: a few bytes of a compressed reply could fill the memory.
        sent = {**(headers or {}), "Accept-Encoding": "identity"}
        if api_key:
            sent["Authorization"] = f"Bearer {api_key}"
        # No cookies: every request sends the same bytes, whatever the server answered before.
        cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        # trust_env off: proxies and .netrc must not come between client and server.
        self._client = httpx.Client(transport=transport, headers=sent, cookies=cookies, trust_env=False)

    @contextlib.contextmanager
    def exchange(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float, connect_timeout_s: float
    ) -> Iterator[httpx.Response]:
        """One request; the body of its reply is read within the context, with `chunks`.

        `wire.deadline_s` limits the whole request, `timeout_s` and `connect_timeout_s` its steps.

        Raises:
            WireError: no usable reply; also raised while the caller reads it.
        """
        try:
            request = self._client.build_request(
                method, self._url + path, content=body, timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s)
            )
            with contextlib.closing(self._client.send(request, stream=True)) as response:
                yield response
        except DeadlineError:
            raise WireError("deadline", timed_out=True) from None
        except httpcore.ConnectTimeout as error:
            raise WireError("connect", str(error), timed_out=True) from error
        except httpcore.ConnectError as error:
            raise WireError("connect", str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            late = isinstance(error, httpcore.TimeoutException)
            raise WireError("dropped", str(error) or type(error).__name__, timed_out=late) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # httpx also parses headers that are not used here, such as the target of a redirect.
            raise WireError("unusable", f"{type(error).__name__}: {error}") from error

    def fetch(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float, limit: int) -> Answer:
        """An answer that is complete within `timeout_s` and has at most `limit` bytes.

        Raises:
            WireError: there is none.
        """
        self.wire.reset()
        self.wire.deadline_s = time.monotonic() + timeout_s
        connect_s = min(timeout_s, CONNECT_S)
        answer = Answer(self.wire)
        try:
            with self.exchange(method, path, body, timeout_s=timeout_s, connect_timeout_s=connect_s) as response:
                answer.take(response, limit)
        except WireError:
            # A status other than 200 is an answer, even if its body is incomplete.
            if answer.status in (None, 200) and not whole(bytes(answer.body)):
                raise
        assert answer.status is not None, "nothing was raised"
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Answer:
    """An answer that is not a stream of events: status, headers, and the part of the body that arrived.

    Attributes:
        status: None: there was no answer.
    """

    def __init__(self, wire: Wire) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body = bytearray()
        self._wire = wire

    def take(self, response: httpx.Response, limit: int) -> None:
        """Read `response` to its end, or to that of the document in it: the connection may stay open behind it.

        The body of a status other than 200 is only for people: we read it as long as it keeps coming.

        Raises:
            WireError: as with `chunks`; what came is kept.
        """
        self.status, self.headers = response.status_code, response.headers
        self._wait(QUIET_S)
        tries = 0
        for chunk in chunks(response, limit):
            self.body += chunk
            self._wait(QUIET_S)
            if tries < _MAX_TRIES and self.body.rstrip().endswith((b"}", b"]", b">")):
                tries += 1
                if whole(bytes(self.body)):
                    self._wire.whole_until_s = (self._wire.last_read_s or time.monotonic()) + REST_S
                elif page_is_whole(self.body[-_TAIL_BYTES:].decode("latin-1")):
                    self._wait(REST_S)

    def _wait(self, span_s: float) -> None:
        if self.status != 200:
            self._wire.whole_until_s = (self._wire.last_read_s or time.monotonic()) + span_s


def fetch(
    url: str, method: str, path: str, body: Any = None, *, timeout_s: float, limit: int, api_key: str | None = None
) -> Answer:
    """Like `Connection.fetch`, over a new connection; `body` is sent as JSON."""
    headers = None if body is None else {"Content-Type": "application/json"}
    raw = None if body is None else json.dumps(body).encode()
    with contextlib.closing(Connection(url, api_key=api_key, keep_alive=False, headers=headers)) as connection:
        return connection.fetch(method, path, raw, timeout_s=timeout_s, limit=limit)


def chunks(response: httpx.Response, limit: int) -> Iterator[bytes]:
    """The body as it came over the wire.

    Raises:
        WireError: more than `limit` bytes came.
    """
    size = 0
    for chunk in response.iter_raw():
        size += len(chunk)
        if size > limit:
            raise WireError("too_long", f"longer than {limit >> 20} MiB")
        yield chunk
