"""Model files, fetched at a pinned revision with every hash checked, and the pins themselves.

huggingface-hub is configured before its (late) import: no telemetry, no progress bars, plain HTTP.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialbench.credentials import HUB_TOKEN, from_environment, redact
from trialbench.errors import ServerError, TrialbenchError, UsageError
from trialbench.urls import parse

if TYPE_CHECKING:
    import httpx
    from huggingface_hub import HfApi

Tell = Callable[[str], None]
COMMIT = re.compile(r"\A[0-9a-f]{40}\Z")
SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")
_REPO = re.compile(r"\A[\w.-]+/[\w.-]+\Z")
_CHUNK_BYTES = 1 << 20
# What a file system takes as a name; more than any model has.
_NAME_BYTES, _FILE_BYTES = 255, 1 << 42


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: size in bytes; `sha256` if the hub knows it (large files), else None."""

    name: str
    size: int
    sha256: str | None


def token() -> str | None:
    """The access token, only from the environment variable HF_TOKEN.

    Raises:
        UsageError: it can't be a token.
    """
    return from_environment(HUB_TOKEN)


def api() -> HfApi:
    """The hub that HF_ENDPOINT names, or the public one.

    Raises:
        UsageError: HF_ENDPOINT, HF_TOKEN or another variable that the library reads can't be used.
    """
    place, secret = endpoint(), token()
    # Read by huggingface-hub when it is imported.
    if place is None:
        os.environ.pop("HF_ENDPOINT", None)  # an empty one would be its endpoint
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_XET"):
        os.environ.setdefault(name, "1")
    try:
        from huggingface_hub import HfApi
    except ValueError as error:
        raise UsageError(f"huggingface-hub refuses a variable of the environment: {error}") from None

    _own_clients()
    # False, not None: with None the library would use a token stored by another program.
    return HfApi(endpoint=place, token=secret or False)


class _NoSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


@functools.cache
def _own_clients() -> None:
    """Give the library's clients our route and our limits, and keep secrets out of its log."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_NoSecrets())
    from huggingface_hub import set_client_factory

    set_client_factory(_client)


def _client() -> httpx.Client:
    import httpx
    from huggingface_hub.utils._http import hf_request_event_hook

    from trialbench.hub.bounds import bound
    from trialbench.hub.route import Route

    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [hf_request_event_hook],
        "response": [bound, _check_answer],
    }
    return httpx.Client(transport=Route(), follow_redirects=True, event_hooks=hooks, trust_env=False)


def _check_answer(response: httpx.Response) -> None:
    """A hook for httpx: raises ServerError, with the server's words, for an error that is sent as HTTP 200.

    Mirrors and gateways do so. The library would only miss the fields of a listing.
    """
    from trialbench.hub.bounds import LIMIT

    if response.status_code != 200 or LIMIT in response.request.extensions:
        return
    try:
        answer = json.loads(response.read())
    except (ValueError, RecursionError):
        return  # the library says what it can't read
    error = answer.get("error") if isinstance(answer, dict) and "sha" not in answer else None
    if error:
        words = error.get("message", error) if isinstance(error, dict) else error
        raise ServerError(f"{response.request.url.host} answers HTTP 200 with an error: {redact(str(words))!a:.200}")


def endpoint() -> str | None:
    """HF_ENDPOINT, read now and not when the library was imported; None: the public hub.

    Raises:
        UsageError: it is not a URL of a hub.
    """
    given = os.environ.get("HF_ENDPOINT", "").strip()
    return str(parse(given, "HF_ENDPOINT", expected="https://HOST")) if given else None


@contextmanager
def plain_errors(repo: str, revision: str) -> Iterator[None]:
    """Turns the hub's errors into ours, with advice, and without the token in case it appears in one.

    Raises:
        ServerError: the hub refuses, or cannot be reached.
    """
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except TrialbenchError:
        raise
    except errors.GatedRepoError as error:
        todo = "accept its license on the hub and set HF_TOKEN" if token() is None else "HF_TOKEN has no access to it"
        raise ServerError(f"{repo}: access is restricted: {todo}") from _redacted(error)
    except errors.RevisionNotFoundError as error:
        raise ServerError(f"{repo}: has no revision {revision}: pin one that exists (`make pin`)") from _redacted(error)
    except errors.RepositoryNotFoundError as error:
        raise ServerError(
            f"{repo}: not found on the hub, or private: check the name, and HF_TOKEN if it is private"
        ) from _redacted(error)
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # a full or read-only disk is not the hub's fault
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            todo = "set HF_TOKEN" if token() is None else "it does not accept HF_TOKEN"
            raise ServerError(f"{repo}: the hub asks for a login: {todo}: {redact(str(error))}") from _redacted(error)
        raise ServerError(f"{repo}: the hub cannot be read: {redact(str(error))}") from _redacted(error)
    except (httpx.InvalidURL, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # The library does not check what an answer contains.
        what = f"{type(error).__name__} {redact(str(error)):.200}"
        raise ServerError(f"{repo}: the hub's answer cannot be read: {what}") from _redacted(error)


def _redacted(error: BaseException) -> BaseException | None:
    """The cause to chain; none if its text, which a traceback would print, contains a secret."""
    return error if redact(str(error)) == str(error) else None


def list_files(repo: str, revision: str, include: Sequence[str]) -> tuple[str, list[RemoteFile]]:
    """The commit that `revision` is, and its files that match any of the patterns, sorted by name.

    Raises:
        UsageError: a pattern matches nothing; lists the existing files.
        ServerError: the hub refuses, or cannot be reached.
    """
    asked = api()
    with plain_errors(repo, revision):
        info = asked.model_info(repo, revision=revision, files_metadata=True)
        everything = [
            RemoteFile(
                entry.rfilename,
                -1 if entry.size is None else entry.size,
                plain_hash(entry.lfs.sha256) if entry.lfs else None,
            )
            for entry in info.siblings or []
        ]
    commit = plain_hash(info.sha)
    if not isinstance(commit, str) or not COMMIT.match(commit):
        raise ServerError(f"{repo}: expected the commit of {revision}, found {commit!a:.60}")
    everything = [file for file in everything if isinstance(file.name, str)]
    for pattern in include:
        if not any(fnmatch.fnmatch(file.name, pattern) for file in everything):
            there = ", ".join(sorted(_shown(file.name) for file in everything)[:20]) or "nothing"
            raise UsageError(f"{repo}: expected a file like {pattern!r} at {revision}, found: {there}")
    chosen = [file for file in everything if any(fnmatch.fnmatch(file.name, pattern) for pattern in include)]
    _check_listing(repo, chosen)
    return commit, sorted(chosen, key=lambda file: file.name)


def plain_hash(digest: Any) -> Any:
    """One spelling of a hash: servers and programs write it in capitals, in quotes, or as an ETag. Others are kept."""
    return digest.strip().removeprefix("W/").strip('" ').lower() if isinstance(digest, str) else digest


def _shown(name: str) -> str:
    """A name that the hub has made up, on one line."""
    return name if name.isprintable() and len(name) <= _NAME_BYTES else f"{name!a:.80}"


def _check_listing(repo: str, files: Sequence[RemoteFile]) -> None:
    """Raise ServerError where the hub lists what can't be fetched: names become paths, pins, and words for people."""
    names = [file.name for file in files]
    for file in files:
        parts = file.name.split("/")
        plain = file.name.isprintable() and not parts[0].startswith(".part-")
        if not plain or any(part in ("", ".", "..") or len(part.encode()) > _NAME_BYTES for part in parts):
            raise ServerError(f"{repo}: expected plain names of files, found {file.name!a:.80}")
        if names.count(file.name) > 1:
            raise ServerError(f"{repo}: expected each file once, found {file.name} {names.count(file.name)} times")
        if not isinstance(file.size, int) or not 0 <= file.size <= _FILE_BYTES:
            raise ServerError(f"{repo}: {file.name}: expected a size of a file, found {file.size!r:.40}")
        if file.sha256 is not None and not (isinstance(file.sha256, str) and SHA256.match(file.sha256)):
            raise ServerError(f"{repo}: {file.name}: expected 64 hexadecimal digits, found {file.sha256!a:.80}")


def check_repo(repo: str) -> None:
    """Raise UsageError unless `repo` looks like OWNER/NAME."""
    if not _REPO.match(repo):
        raise UsageError(f"--repo: expected OWNER/NAME, found {repo!r}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
