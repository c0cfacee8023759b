"""What a hub or a registry may send: so many bytes, for so long. Answers are read into memory, files onto the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from trialbench.errors import ServerError

if TYPE_CHECKING:
    from trialbench.hub import RemoteFile

# The list of a repository's files, or an image's manifest, has some kilobytes; many thousands of files have some MiB.
ANSWER_BYTES, ANSWER_S = 16 << 20, 120.0
# A packed answer may be a thousand times as large when it is unpacked.
PACKED_BYTES = 1 << 20
# For what comes in place of a small file: a redirect's words, an error's.
_SLACK_BYTES = 1 << 20


class TooMuchError(ServerError):
    """More than what was asked for; asking again would bring the same."""


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, what: str, limit: int, seconds: float) -> None:
        self._stream, self._what, self._limit, self._seconds = stream, what, limit, seconds

    def __iter__(self) -> Iterator[bytes]:
        read, began = 0, time.monotonic()
        for chunk in self._stream:
            read += len(chunk)
            if read > self._limit:
                raise TooMuchError(f"{self._what}: expected at most {self._limit} bytes, found more")
            if time.monotonic() - began > self._seconds:
                raise TooMuchError(f"{self._what}: expected an answer within {self._seconds:.0f} s, found no end of it")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _Files:
    # Downloads have threads of their own, so this is no variable of a context.
    limit: int | None = None


@contextmanager
def of_files(files: Sequence[RemoteFile]) -> Iterator[None]:
    """Meanwhile a body that is no answer of the hub's API is a file, at most as large as the largest of these."""
    before = _Files.limit
    _Files.limit = max((file.size for file in files), default=0) + _SLACK_BYTES
    try:
        yield
    finally:
        _Files.limit = before


def bound(response: httpx.Response) -> None:
    """A hook for httpx: bounds the body of an answer before it is read."""
    url = response.request.url
    stream = response.stream
    if not isinstance(stream, httpx.SyncByteStream):
        return
    packed = response.headers.get("content-encoding", "identity") not in ("", "identity")
    limit, seconds = PACKED_BYTES if packed else ANSWER_BYTES, ANSWER_S
    if _Files.limit is not None and not url.path.startswith("/api/") and not packed:
        limit, seconds = _Files.limit, float("inf")
    response.stream = _Bounded(stream, url.host, limit, seconds)


def client_factory(plain: Callable[[], httpx.Client]) -> Callable[[], httpx.Client]:
    """A factory of the hub's clients whose answers are bounded."""

    def make() -> httpx.Client:
        client = plain()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks.get("response", []), bound]}
        return client

    return make
