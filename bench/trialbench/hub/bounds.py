"""Limits on bytes and time of what a hub or a registry sends. Answers are read into memory, files onto the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx

from trialbench.errors import ServerError

# The list of a repository's files, or an image's manifest, has some kilobytes; many thousands of files have some MiB.
ANSWER_BYTES, ANSWER_S = 16 << 20, 120.0
# A packed answer may be a thousand times as large when it is unpacked.
PACKED_BYTES = 1 << 20
# For what comes in place of a small file: a redirect's words, an error's.
SLACK_BYTES = 1 << 20
# The extension of a request for a file: how many bytes its answer may have, for as long as it takes.
LIMIT = "trialbench.limit"


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
                raise TooMuchError(
                    f"{self._what}: expected an answer within {self._seconds:.0f} s, found an unfinished one"
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()


def bound(response: httpx.Response) -> None:
    """A hook for httpx: bounds the body of an answer before it is read."""
    url = response.request.url
    stream = response.stream
    if not isinstance(stream, httpx.SyncByteStream):
        return
    packed = response.headers.get("content-encoding", "identity") not in ("", "identity")
    limit, seconds = PACKED_BYTES if packed else ANSWER_BYTES, ANSWER_S
    if LIMIT in response.request.extensions and not packed:
        limit, seconds = response.request.extensions[LIMIT], float("inf")
    response.stream = _Bounded(stream, url.host, limit, seconds)
