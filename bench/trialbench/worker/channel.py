"""A channel to one client: a Unix socket, or standard input and output.

Reading yields lines up to a maximum length; writing waits for a slow reader, but only for a limited time.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator

_READ_BYTES = 1 << 16
_IDLE_S = 3600.0
# A writable pipe accepts this much without blocking (PIPE_BUF); a socket may accept less and reports it.
_WRITE_BYTES = 4096


class StalledError(Exception):
    """The reader at the other end stalled for too long, or is gone."""


class TooLong:
    """Replaces a line that exceeded the limit."""


TOO_LONG = TooLong()


class Channel:
    """Lines in, bytes out. One thread reads; any thread may write, one at a time.

    Args:
        in_fd: descriptor to read from.
        out_fd: descriptor to write to; may be the same.
        max_line_bytes: maximum length of a line; a longer one is skipped and reported as `TOO_LONG`.
        send_timeout_s: how long a write waits for its reader.
    """

    def __init__(self, in_fd: int, out_fd: int, *, max_line_bytes: int, send_timeout_s: float) -> None:
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._max_line_bytes = max_line_bytes
        self._send_timeout_s = send_timeout_s
        self._lock = threading.Lock()
        self._dead = False

    def lines(self) -> Iterator[bytes | TooLong]:
        """Lines without line ends until the other side closes; an incomplete last line counts."""
        kept = bytearray()
        skipping = False
        while True:
            try:
                data = os.read(self._in_fd, _READ_BYTES)
            except BlockingIOError:
                # Another process that shares the descriptor made it non-blocking: no data yet, but not the end.
                _ready(self._in_fd, select.POLLIN, _IDLE_S)
                continue
            except OSError:
                data = b""
            if not data:
                break
            *whole, rest = data.split(b"\n")
            for part in whole:
                if not skipping and len(kept) + len(part) <= self._max_line_bytes:
                    yield bytes(kept + part)
                elif not skipping:
                    yield TOO_LONG
                kept.clear()
                skipping = False
            if not skipping and len(kept) + len(rest) > self._max_line_bytes:
                # Reported now and not at the end of the line, which may never come.
                yield TOO_LONG
                skipping = True
                kept.clear()
            elif not skipping:
                kept += rest
        if kept and not skipping:
            yield bytes(kept)

    def send(self, data: bytes) -> None:
        """Write all of `data`; writes of other senders do not interleave with it.

        Raises:
            StalledError: the reader is gone or too slow; nothing more can be written.
        """
        with self._lock:
            if self._dead:
                raise StalledError
            try:
                self._write(data)
            except (OSError, ValueError, StalledError):
                # A part may have been written: anything written after it would be read as its continuation.
                self._dead = True
                raise StalledError from None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        until_s = time.monotonic() + self._send_timeout_s
        while view:
            try:
                # The common case, a small line and a reader with room for it, costs one call.
                view = view[self._push(view) :]
            except BlockingIOError:
                left_s = max(0.0, until_s - time.monotonic())
                if not _ready(self._out_fd, select.POLLOUT, left_s):
                    raise StalledError from None

    def _push(self, view: memoryview) -> int:
        """Write as much as possible without waiting.

        Raises:
            BlockingIOError: nothing can be written now.
        """
        # The descriptor is shared and stays blocking; a writable pipe accepts PIPE_BUF without waiting.
        if not _ready(self._out_fd, select.POLLOUT, 0):
            raise BlockingIOError
        return os.write(self._out_fd, view[:_WRITE_BYTES])

    def hung_up(self, wait_s: float) -> bool:
        """Whether the reader at the other end is gone, not just done writing; waits up to `wait_s` seconds."""
        return _ready(self._out_fd, 0, wait_s)

    def close(self) -> None:
        """Close it; a reading thread sees the end."""
        self._dead = True


class SocketChannel(Channel):
    """A connected Unix socket."""

    def __init__(self, connection: socket.socket, *, max_line_bytes: int, send_timeout_s: float) -> None:
        self._socket = connection
        super().__init__(
            connection.fileno(), connection.fileno(), max_line_bytes=max_line_bytes, send_timeout_s=send_timeout_s
        )

    def _push(self, view: memoryview) -> int:
        return self._socket.send(view, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Shut down both directions; reading and writing threads see the end."""
        super().close()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def release(self) -> None:
        """Close the descriptor; later sends fail.

        Done under the senders' lock: the number may be reused for another client at once, and a write that is about to
        begin would go to the wrong client.
        """
        self._dead = True
        with self._lock:
            self._socket.close()


def _ready(descriptor: int, events: int, wait_s: float) -> bool:
    """Whether one of `events` came within `wait_s`; a hang-up and an error always count."""
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(wait_s * 1000))
