"""Download one file of a repository; keep what is on the disk already and request only the rest.

The hub's library starts each download from zero, under another name each time: what a killed one leaves is useless
and stays. Here a download has one name, so the next attempt, and the next process, continues where the last one ended.
The caller checks by its hash that the beginning belongs to the same file.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx

from trialbench import hub
from trialbench.errors import ServerError
from trialbench.hub import RemoteFile, Tell
from trialbench.hub.bounds import LIMIT, SLACK_BYTES, TooMuchError

# Attempts in a row that may bring less than this; one that brings more may continue for as long as it takes.
_ATTEMPTS, _PROGRESS_BYTES = 3, 1 << 20
_PAUSE_S = 1.0
_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(?:\d{1,15}|\*)")


class _InterruptedError(ServerError):
    """Worth another attempt."""


def download(repo: str, commit: str, file: RemoteFile, path: Path, tell: Tell = lambda _text: None) -> None:
    """Bring the file at `path`, whose folder is there, to the size of `file`.

    Raises:
        ServerError: the hub refuses, cannot be reached, or its answer ended early several times in a row.
        TooMuchError: there is more of it than the hub has said.
    """
    left, most = _ATTEMPTS, size_of(path)
    while size_of(path) != file.size or not path.exists():
        try:
            with hub.plain_errors(repo, commit):
                _fetch_rest(repo, commit, file, path)
        except _InterruptedError as error:
            have = size_of(path)
            left, most = (_ATTEMPTS, have) if have - most >= _PROGRESS_BYTES else (left - 1, most)
            if not left:
                raise ServerError(str(error)) from error
            tell(f"{error}; continuing at {have / 1e6:.1f} of {file.size / 1e6:.1f} MB")
            time.sleep(_PAUSE_S)


def size_of(path: Path) -> int:
    """The size of `path` in bytes, 0 where it isn't there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _fetch_rest(repo: str, commit: str, file: RemoteFile, path: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import get_session

    hub.api()  # whose clients these are
    have = size_of(path)
    if have > file.size:
        have = 0
    headers = build_hf_headers(token=hub.token() or False) | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(repo, file.name, revision=commit, endpoint=hub.endpoint())
    limit = {LIMIT: file.size + SLACK_BYTES}
    try:
        with get_session().stream("GET", url, headers=headers, extensions=limit) as reply:
            begin = _begin(reply, f"{repo}: {file.name}", path, have)
            _write(reply, file, path, begin)
    except httpx.TransportError as error:
        raise _InterruptedError(
            f"{repo}: {file.name}: the hub cannot be read: {error or type(error).__name__}"
        ) from error
    if size_of(path) < file.size:
        raise _InterruptedError(f"{repo}: {file.name}: the download ended early")


def _begin(reply: httpx.Response, name: str, path: Path, have: int) -> int:
    """Where in the file called `name` the body of `reply` begins; `have` bytes of it are at `path`."""
    from huggingface_hub.utils._http import hf_raise_for_status

    status = reply.status_code
    if status == 429 or status >= 500:
        raise _InterruptedError(f"{name}: the hub answers {status}")
    if status == 416 and have:
        raise _useless(path, f"{name}: the hub does not continue where the last download ended")
    if status >= 400:
        reply.read()
        hf_raise_for_status(reply)
    packed = reply.headers.get("content-encoding", "identity") or "identity"
    if status not in (200, 206) or packed != "identity":
        found = f"status {status}" if packed == "identity" else f"one compressed with {packed[:20]}"
        raise ServerError(f"{name}: expected the file as it is, found {found}")
    if status == 200:
        return 0  # a server without ranges sends everything
    found_range = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    if found_range is None or int(found_range[1]) not in (0, have):
        raise _useless(path, f"{name}: the hub continues at a byte other than the requested one")
    return int(found_range[1])


def _useless(path: Path, why: str) -> _InterruptedError:
    path.unlink(missing_ok=True)
    return _InterruptedError(why)


def _write(reply: httpx.Response, file: RemoteFile, path: Path, begin: int) -> None:
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.truncate(begin)
        stream.seek(begin)
        for chunk in reply.iter_raw():
            begin += len(chunk)
            if begin > file.size:
                raise TooMuchError(f"{file.name}: expected at most {file.size} bytes, found more")
            stream.write(chunk)
