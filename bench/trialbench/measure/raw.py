"""A minimal client: one socket, one request, one clock.

Our own client is compared with it (`calibration`, `make bench`), so the two share no code. It trusts llama-server and
parses no more than necessary: where a reply ends, and when the first token came. Do not measure models with it: any
unexpected reply is an error here.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

_TOKEN = re.compile(rb'"(?:content|reasoning_content|reasoning)": *"(?!")')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# A negative time means that there is none.
_SERVER_MS = re.compile(rb'"(?:prompt|predicted)_ms": *([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)')
_MAX_BYTES = 4 << 20


class RawError(Exception):
    """No usable reply; the text says why."""


@dataclass(frozen=True)
class RawReply:
    """Times in milliseconds, from the first byte written to the last one read, and to the first token.

    `server_ms` is the server's own time, None if not reported; `ttft_ms` is None unless streaming.
    """

    latency_ms: float
    ttft_ms: float | None
    server_ms: float | None


class RawClient:
    """Sends one prepared request repeatedly; when streaming, over a new connection each time, as our client does.

    Args:
        url: http://HOST:PORT, with or without a trailing `/v1`.
        body: the JSON of the request, complete.
        api_key: sent as bearer token.
    """

    def __init__(self, url: str, body: bytes, *, stream: bool, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self._stream = stream
        head = [
            f"POST {parts.path.rstrip('/').removesuffix('/v1')}/v1/chat/completions HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Accept: {'text/event-stream' if stream else 'application/json'}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Authorization: Bearer {api_key}"] if api_key else []),
        ]
        self._request = "\r\n".join([*head, "", ""]).encode() + body
        self._socket: socket.socket | None = None

    def send(self, timeout_s: float) -> RawReply:
        """One request and its reply.

        Raises:
            RawError: no whole reply within `timeout_s`, or none that was expected.
        """
        try:
            try:
                reused = self._socket is not None
                return self._once(timeout_s)
            except (BrokenPipeError, ConnectionResetError, EOFError):
                # The server closes a kept connection after 100 requests or 5 idle seconds: try again on a new one.
                if not reused:
                    raise
                self.close()
                return self._once(timeout_s)
        except (OSError, EOFError) as error:
            self.close()
            raise RawError(f"raw socket: {type(error).__name__} {error}".strip()) from None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _once(self, timeout_s: float) -> RawReply:
        until_s = time.monotonic() + timeout_s
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began_s = time.monotonic()
        self._socket.sendall(self._request)
        data, reads, end = b"", [], -1
        while not (data.endswith(b"\r\n0\r\n\r\n") if self._stream else 0 <= end <= len(data)):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or len(data) > _MAX_BYTES:
                raise TimeoutError(f"no whole reply of at most {_MAX_BYTES >> 20} MiB within {timeout_s:g} s")
            self._socket.settimeout(left_s)
            chunk = self._socket.recv(65536)
            ended_s = time.monotonic()
            if not chunk:
                raise EOFError("the connection was closed within the reply" if data else "closed without a reply")
            data += chunk
            reads.append((len(data), ended_s))
            if end < 0 and (head := data.find(b"\r\n\r\n")) >= 0:
                length = _LENGTH.search(data, 0, head + 2)
                end = head + 4 + int(length[1]) if length else _MAX_BYTES
        if self._stream:
            self.close()
        if not data.startswith(b"HTTP/1.1 200"):
            raise RawError(f"raw socket: expected status 200, found {data[:80]!r}")
        token = _TOKEN.search(data) if self._stream else None
        # The read that brought the first byte of the first token's text.
        first_s = next((at_s for size, at_s in reads if token and size > token.end()), None)
        spent = [float(found) for found in _SERVER_MS.findall(data)]
        return RawReply(
            latency_ms=(reads[-1][1] - began_s) * 1000,
            ttft_ms=None if first_s is None else (first_s - began_s) * 1000,
            server_ms=sum(spent[-2:]) if len(spent) >= 2 else None,
        )
