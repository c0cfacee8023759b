"""SHA-256 of an engine's files, computed again only when a file has changed."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from trialbench.engines.failures import BAD_WEIGHTS, MISSING_BINARY, Failure, FailureClass

Identity = tuple[int, int, int, int, int]


class Hashes:
    """Remembers hashes. Inode, size and times show whether a file was replaced or written to."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Identity, str]] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """The SHA-256 of `path` in hexadecimal.

        Raises:
            OSError: it can't be read.
        """
        # One at a time: two threads would read the same gigabytes twice.
        with self._lock, path.open("rb") as stream:
            identity = identity_of(os.fstat(stream.fileno()))
            known = self._known.get(path)
            if known is not None and known[0] == identity:
                return known[1]
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._known[path] = (identity, digest)
            return digest

    def known(self, path: Path) -> str | None:
        """What `sha256` found, if the file is still the one that it read; takes no longer than a look.

        Raises:
            OSError: it is not there.
        """
        identity = identity_of(path.stat())
        known = self._known.get(path)
        return known[1] if known is not None and known[0] == identity else None


def identity_of(stat: os.stat_result) -> Identity:
    """What distinguishes one version of a file from another."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_file(
    path: Path, what: str, *, expected: str | None, hashes: Hashes, read: bool = True, binary: bool = False
) -> Failure | None:
    """None, or the problem with a file of the engine.

    Args:
        expected: its SHA-256; None: any.
        read: False: only look; what was read before counts as long as the file is the same.
        binary: it must be executable too.
    """
    wrong: FailureClass = MISSING_BINARY if binary else BAD_WEIGHTS
    if not path.is_absolute():
        return Failure(wrong, f"{what}: expected an absolute path, found {str(path)!r}: PATH is never searched")
    if not path.is_file():
        return Failure(wrong, f"{what}: {path} does not exist, or is not a file")
    if not os.access(path, os.X_OK if binary else os.R_OK):
        return Failure(wrong, f"{what}: {path} is not {'executable' if binary else 'readable'} for this user")
    if expected is not None:
        try:
            found = hashes.sha256(path) if read else hashes.known(path)
        except OSError as error:
            return Failure(wrong, f"{what}: {path}: {error.strerror}")
        if found is not None and found != expected.lower():
            return Failure(wrong, f"{what}: {path}: expected SHA-256 {expected.lower()}, found {found}")
    return None
