"""`trialbench fetch`: model files at a pinned revision, each renamed to its final name only after its hash was checked.

Files are downloaded into a folder next to their destination (`.part-<repository>-<revision>`), where an interrupted
download is resumed, also by the next process. There they are checked and then renamed: a file with its final name is
always complete and correct. Folders of other revisions of the repository, which nobody would resume, are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from trialbench import hub
from trialbench.errors import TrialbenchError, UsageError
from trialbench.hub import RemoteFile, Tell
from trialbench.hub.bounds import TooMuchError
from trialbench.hub.download import download, size_of

_TELL_EVERY_S = 5.0
# Disk space to leave free in addition to the download.
_RESERVE_BYTES = 256 * 1024 * 1024
# The repository is named by a hash, as its name has a slash; folders without one are of older versions.
_STAGING = re.compile(r"\.part-(?:(?P<repo>[0-9a-f]{8})-)?[0-9a-f]{12}")


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
        UsageError: the revision is not a commit, a file has no pin, a pin no file, or the disk is too small.
        ServerError: the hub refuses, or cannot be reached.
        WrongHashError: a file is not the pinned one.
    """
    # Some programs print hashes in capitals.
    revision = hub.plain_hash(revision)
    sha256 = _checked(repo, revision, sha256, dest)
    staging = staging_of(dest, repo, revision)
    _remove_others(dest, staging, tell)
    right = {name for name in sha256 if _is_right(dest / name, sha256[name], tell)}
    if sha256 and right == set(sha256):
        tell(f"{repo}: all {len(right)} files are present with the right hashes")
        if staging.is_dir():
            with _alone(staging):
                shutil.rmtree(staging)
        return [dest / name for name in sorted(right)]

    _, files = hub.list_files(repo, revision, include)
    if sha256:
        _compare_pins({file.name for file in files}, set(sha256), repo)
        pins: dict[str, str | None] = dict(sha256)
    else:
        tell(f"{repo}: no pinned hashes; checking against the hub's own")
        pins = {file.name: file.sha256 for file in files}
    missing = [file for file in files if file.name not in right]
    made = not staging.exists()
    staging.mkdir(exist_ok=True)
    with _alone(staging):
        _remove_strangers(staging, {staging / file.name for file in missing})
        try:
            _check_disk(dest, staging, missing)
        except UsageError:
            if made:
                staging.rmdir()
            raise
        problems = _fetch_all(repo, revision, missing, staging, dest, pins, tell)
        shutil.rmtree(staging)
    if problems:
        raise WrongHashError("\n".join(problems))
    return [dest / file.name for file in files]


def staging_of(dest: Path, repo: str, revision: str) -> Path:
    """Where the files of `repo` at the commit `revision` are downloaded to on their way to `dest`."""
    return dest / f".part-{hashlib.sha256(repo.encode()).hexdigest()[:8]}-{revision[:12]}"


def _checked(repo: str, revision: str, sha256: Mapping[str, str], dest: Path) -> dict[str, str]:
    """Check the arguments; returns the pins in lower case."""
    hub.check_repo(repo)
    if not hub.COMMIT.match(revision):
        raise UsageError(f"--revision: expected a full commit (40 hexadecimal digits), found {revision!r}: `make pin`")
    for name, value in sha256.items():
        if not hub.SHA256.match(hub.plain_hash(value)):
            raise UsageError(f"--sha256 {name}: expected 64 hexadecimal digits, found {value!r}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"--sha256 {name}: expected a name inside the repository")
    if not dest.is_dir():
        raise UsageError(f"{dest}: is not a folder: make it first, writable for this user")
    return {name: hub.plain_hash(value) for name, value in sha256.items()}


def _fetch_all(
    repo: str,
    revision: str,
    missing: Sequence[RemoteFile],
    staging: Path,
    dest: Path,
    pins: Mapping[str, str | None],
    tell: Tell,
) -> list[str]:
    """Download the missing files and put the right ones in place; returns what is wrong with the others.

    All are put in place before an error is raised: correct files are kept, and no partial download is left behind.
    """
    begun = {file.name for file in missing if size_of(staging / file.name)}
    size_mb = sum(file.size for file in missing) / 1e6
    tell(f"{repo}: fetching {len(missing)} files, {size_mb:.1f} MB")
    if begun:
        tell(f"{repo}: {_bytes_of(staging, missing) / 1e6:.1f} MB of them are there from an interrupted download")
    _download(repo, revision, staging, missing, tell)
    wrong = []
    for file in missing:
        source, target, pin = staging / file.name, dest / file.name, pins[file.name]
        problem = _place(source, target, pin, tell)
        if problem is not None and file.name in begun:
            tell(f"{file.name}: what was resumed is not the right file: fetching it from the start")
            source.unlink()
            _download(repo, revision, staging, [file], tell)
            problem = _place(source, target, pin, tell)
        wrong.append(problem)
    return [problem for problem in wrong if problem is not None]


@contextmanager
def _alone(staging: Path) -> Iterator[None]:
    """Hold `staging` for this process.

    Raises:
        UsageError: another one downloads there.
    """
    handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{staging}: another fetch downloads there: wait until it has ended") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _remove_others(dest: Path, staging: Path, tell: Tell) -> None:
    """Remove the downloads of other revisions of the same repository, except one that is running."""
    own = _STAGING.fullmatch(staging.name)
    assert own is not None, "it was named so"
    for folder in sorted(dest.glob(".part-*")):
        found = _STAGING.fullmatch(folder.name)
        if folder == staging or folder.is_symlink() or not folder.is_dir():
            continue
        if found is None or found["repo"] not in (None, own["repo"]):
            continue
        try:
            with _alone(folder):
                size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
                shutil.rmtree(folder)
        except UsageError:
            continue
        tell(f"{folder.name}: removed, {size / 1e6:.1f} MB of a download of another revision")


def _remove_strangers(staging: Path, expected: set[Path]) -> None:
    """Remove what no expected file continues from, such as what older versions left."""
    for path in sorted(staging.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if path in expected or not any(path in one.parents for one in expected):
                shutil.rmtree(path)
        elif path not in expected or path.is_symlink() or not path.is_file():
            path.unlink()


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
    needed = sum(file.size for file in missing) - _bytes_of(staging, missing) + _RESERVE_BYTES
    free = shutil.disk_usage(dest).free
    if free < needed:
        raise UsageError(
            f"{dest}: expected {needed / 1e9:.1f} GB free, found {free / 1e9:.1f} GB: make room, or fetch elsewhere"
        )


def _bytes_of(staging: Path, files: Sequence[RemoteFile]) -> int:
    """How much of these files is there: never more than they have."""
    return sum(min(size_of(staging / file.name), file.size) for file in files)


def _download(repo: str, revision: str, staging: Path, missing: Sequence[RemoteFile], tell: Tell) -> None:
    try:
        with _told(staging, missing, tell):
            for file in missing:
                path = staging / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                download(repo, revision, file, path, tell)
    except TooMuchError:
        # What has come is no beginning of a file.
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def _told(staging: Path, files: Sequence[RemoteFile], tell: Tell) -> Iterator[None]:
    """A line of progress every few seconds."""
    done, total = threading.Event(), sum(file.size for file in files)

    def watch() -> None:
        while not done.wait(_TELL_EVERY_S):
            tell(f"{_bytes_of(staging, files) / 1e6:.0f} of {total / 1e6:.0f} MB")

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
