# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the package manager out of a window: an upgrade could replace the driver, docker or a tenant in it.

Package managers lock a file while they work. Every user can see whether it is locked. Only root can hold the lock; then
an unattended upgrade is put off until its next turn.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

STORAGE = Path("/var/lib")
# dpkg's own lock and the one that its frontends take before (apt, unattended-upgrades); rpm's, which dnf takes as well.
_LOCKS = ("dpkg/lock-frontend", "dpkg/lock", "rpm/.rpm.lock")
_BUSY = (errno.EAGAIN, errno.EACCES)


def at_work(storage: Path = STORAGE, proc: Path = Path("/proc")) -> str:
    """Which package manager works now, in words; empty where none does, or where that can't be seen."""
    held: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "locks").read_text().splitlines():
            # A number, a kind, a mode, an access, a PID, MAJOR:MINOR:INODE; who waits for a lock has an arrow first.
            fields = line.split()
            if len(fields) > 5 and fields[1] != "->" and fields[4] != str(os.getpid()):
                held[fields[5]] = fields[4]
    for name in _LOCKS:
        with contextlib.suppress(OSError):
            found = os.stat(storage / name)
            place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
            if place in held:
                return f"a package manager is at work (PID {held[place]} holds {storage / name})"
    return ""


class Hold:
    """The package manager's lock, if it has one: held until `let_go` or the end of this process."""

    def __init__(self, storage: Path = STORAGE) -> None:
        self._fd = -1
        path = storage / _LOCKS[0]
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            # Another package manager, or a read-only system: nothing to keep out this way.
            return
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(fd)
            if err.errno in _BUSY:
                raise Busy(f"a package manager is at work: it holds {path}") from err
            return
        self._fd = fd

    def let_go(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Busy(OSError):
    """A package manager holds its lock."""
