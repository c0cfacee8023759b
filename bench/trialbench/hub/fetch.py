"""`trialbench fetch`: model files at a pinned revision, each renamed to its final name only after its hash was checked.

Files are downloaded into a folder next to their destination (`.part-<revision>`), where an interrupted download is
resumed. There they are checked and then renamed: a file with its final name is always complete and correct.
"""

from __future__ import annotations

import glob
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from trialbench import hub
from trialbench.errors import ServerError, TrialbenchError, UsageError
from trialbench.hub import RemoteFile, Tell
from trialbench.hub.bounds import TooMuchError, of_files

# Attempts at the whole download, on top of the library's own retries per file; each resumes the last one.
_ATTEMPTS = 3
_TELL_EVERY_S = 5.0
# Disk space to leave free in addition to the download.
_RESERVE_BYTES = 256 * 1024 * 1024


class WrongHashError(TrialbenchError):
    """A downloaded file is not the pinned one. The download was removed; an existing file was left untouched."""


def fetch(
    repo: str,
    *,
    revision: str,
    include: Sequence[str],
    dest: Path,
    sha256: Mapping[str, str],
    tell: Tell = lambda _text: None,
) -> list[Path]:
    """Download the files of `repo` at `revision` that match `include` to `dest`; returns their paths.

    Args:
        sha256: file name to pinned hash. With pins, every matching file must have one; correct files are kept, and if
            all are correct, the network is not used. Without pins the hub's own hashes are checked: this detects broken
            downloads but not a changed repository, and the output says so.

    Raises:
        UsageError: the revision is no commit, a file has no pin, a pin no file, or the disk is too small.
        ServerError: the hub refuses, or cannot be reached.
        WrongHashError: a file is not the pinned one.
    """
    hub.check_repo(repo)
    # Some programs print hashes in capitals.
    revision, sha256 = revision.lower(), {name: value.lower() for name, value in sha256.items()}
    if not hub.COMMIT.match(revision):
        raise UsageError(f"--revision: expected a full commit (40 hexadecimal digits), found {revision!r}: `make pin`")
    for name, value in sha256.items():
        if not hub.SHA256.match(value):
            raise UsageError(f"--sha256 {name}: expected 64 hexadecimal digits, found {value!r}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"--sha256 {name}: expected a name inside the repository")
    if not dest.is_dir():
        raise UsageError(f"{dest}: is not a folder: make it first, writable for this user")
    right = {name for name in sha256 if _is_right(dest / name, sha256[name], tell)}
    if sha256 and right == set(sha256):
        tell(f"{repo}: all {len(right)} files are present with the right hashes")
        return [dest / name for name in sorted(right)]

    _, files = hub.list_files(repo, revision, include)
    if sha256:
        _compare_pins({file.name for file in files}, set(sha256), repo)
        pins: dict[str, str | None] = dict(sha256)
    else:
        tell(f"{repo}: no pinned hashes; checking against the hub's own")
        pins = {file.name: file.sha256 for file in files}
    missing = [file for file in files if file.name not in right]
    staging = dest / f".part-{revision[:12]}"
    _check_disk(dest, staging, missing)
    staging.mkdir(exist_ok=True)
    size_mb = sum(file.size for file in missing) / 1e6
    tell(f"{repo}: fetching {len(missing)} files, {size_mb:.1f} MB")
    _download(repo, revision, staging, missing, tell)
    # All of them before an error is raised: correct files are kept, and no partial download is left behind.
    wrong = [_place(staging / file.name, dest / file.name, pins[file.name], tell) for file in missing]
    shutil.rmtree(staging)
    problems = [problem for problem in wrong if problem is not None]
    if problems:
        raise WrongHashError("\n".join(problems))
    return [dest / file.name for file in files]


def _is_right(path: Path, expected: str, tell: Tell) -> bool:
    if not path.is_file():
        return False
    if hub.sha256_of(path) == expected:
        return True
    tell(f"{path.name}: has another hash: it is replaced once the right file is fetched")
    return False


def _compare_pins(names: set[str], pinned: set[str], repo: str) -> None:
    problems = [f"{name}: matches the patterns, and has no pinned hash" for name in sorted(names - pinned)]
    problems += [f"{name}: has a pinned hash, and matches no pattern" for name in sorted(pinned - names)]
    if problems:
        raise UsageError(f"{repo}: pins and files differ (`make pin` rewrites them):\n  " + "\n  ".join(problems))


def _check_disk(dest: Path, staging: Path, missing: Sequence[RemoteFile]) -> None:
    there = _bytes_below(staging)
    needed = max(0, sum(file.size for file in missing) - there) + _RESERVE_BYTES
    free = shutil.disk_usage(dest).free
    if free < needed:
        raise UsageError(
            f"{dest}: expected {needed / 1e9:.1f} GB free, found {free / 1e9:.1f} GB: make room, or fetch elsewhere"
        )


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            pass  # renamed between listing and looking
    return total


def _download(repo: str, revision: str, staging: Path, missing: Sequence[RemoteFile], tell: Tell) -> None:
    hub.api()
    from huggingface_hub import snapshot_download

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with (
                hub.plain_errors(repo, revision),
                of_files(missing),
                _told(staging, sum(file.size for file in missing), tell),
            ):
                snapshot_download(
                    repo,
                    revision=revision,
                    # Exactly the missing files: a name may contain pattern characters.
                    allow_patterns=[glob.escape(file.name) for file in missing],
                    local_dir=staging,
                    # Its cache goes next to the files, so that nothing is written to a home folder.
                    cache_dir=staging / ".cache" / "hub",
                    endpoint=hub.endpoint(),
                    token=hub.token() or False,
                    max_workers=2,
                )
            if all((staging / file.name).is_file() for file in missing):
                return
            raise ServerError(f"{repo}: the download ended early")
        except TooMuchError:
            # What has come is no beginning of a file.
            shutil.rmtree(staging, ignore_errors=True)
            raise
        except ServerError as error:
            if attempt == _ATTEMPTS:
                raise
            tell(f"{error}; continuing ({attempt + 1} of {_ATTEMPTS})")


@contextmanager
def _told(staging: Path, total: int, tell: Tell) -> Iterator[None]:
    """A line of progress every few seconds."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_TELL_EVERY_S):
            tell(f"{_bytes_below(staging) / 1e6:.0f} of {total / 1e6:.0f} MB")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _place(source: Path, target: Path, expected: str | None, tell: Tell) -> str | None:
    """Rename a downloaded file to its final name if it is the pinned one; else say what is wrong."""
    found = hub.sha256_of(source)
    if expected is not None and found != expected:
        older = (
            f" The older file {target}, of another hash, was left as it is and not used."
            if target.exists() and hub.sha256_of(target) != expected
            else ""
        )
        return (
            f"{target.name}: expected SHA-256 {expected}, found {found}: the downloaded file was removed. Either the"
            f" download is broken (fetch again) or the pin is not of this revision (`make pin`).{older}"
        )
    with source.open("rb") as stream:
        os.fsync(stream.fileno())
    source.chmod(0o644)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    tell(f"{target.name}: {'right' if expected else 'fetched'}, SHA-256 {found}")
    return None
