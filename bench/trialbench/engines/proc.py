"""The processes of a generation: everything below one leader, found in /proc, ended and reaped.

A process group alone is not enough: a child that calls setsid leaves it, and once its parent is gone nothing shows its
origin. So a process belongs to the leader if it is in its process group or Unix session, descends from it, or carries
the leader's brand: in its environment, or in an unused resource limit, which survives exec and an empty environment.
With a delegated cgroup, `cgroup.py` is more reliable still.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import time
from collections.abc import Container
from dataclasses import dataclass

BRAND = "TRIALBENCH_GENERATION"
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.002
# RLIMIT_LOCKS: Linux has not enforced it since 2.4, and every child inherits it.
_UNUSED_LIMIT = 10
# Processes may fork while they are being killed, and one in uninterruptible sleep delays its end.
SWEEP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `start`: clock ticks since boot; with the pid it identifies a process uniquely."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int

    @property
    def identity(self) -> tuple[int, int]:
        """Unique among all processes, now and later."""
        return self.pid, self.start

    @property
    def dead(self) -> bool:
        """A zombie: it has ended and waits to be reaped."""
        return self.state in "ZX"


def look(pid: int) -> Process | None:
    """The process `pid`, or None where there is none."""
    raw = _read(f"/proc/{pid}/stat", 4096)
    if not raw:
        return None
    # The name stands in brackets and may hold brackets and blanks itself.
    fields = raw[raw.rfind(b")") + 2 :].split()
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def table() -> list[Process]:
    """All processes."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def put_brand(pid: int, brand: str) -> None:
    """Put `brand` where exec does not remove it, and disable core files, which would hold gigabytes and the prompt.

    If limits can't be set (because of a system call filter), children carry the brand only in their environment.
    """
    number = int(brand)
    for limit, values in ((_UNUSED_LIMIT, (number, number)), (resource.RLIMIT_CORE, (0, 0))):
        try:
            resource.prlimit(pid, limit, values)
        except (OSError, ValueError):
            continue


def members(leader: Process, brand: str, known: Container[tuple[int, int]] = ()) -> list[Process]:
    """All processes started by `leader` that still exist, without `leader` itself.

    Args:
        known: identities that belong to it, even if nothing shows that any more.
    """
    # A process older than the leader can't descend from it; this also guards against a reused pid.
    later = [one for one in table() if one.start >= leader.start and one.pid != leader.pid]
    own = {leader.pid}
    found: dict[int, Process] = {}
    needle = f"{BRAND}={brand}\0".encode()
    branded = re.compile(rb"^Max file locks +%b " % brand.encode(), re.MULTILINE)
    rest = []
    for one in later:
        if (
            one.identity in known
            or leader.pid in (one.group, one.session)
            or needle in _environment(one.pid)
            or branded.search(_read(f"/proc/{one.pid}/limits", 4096))
        ):
            found[one.pid] = one
        else:
            rest.append(one)
    grown = True
    while grown:
        grown = False
        for one in rest:
            if one.pid not in found and (one.parent in own or one.parent in found):
                found[one.pid] = one
                grown = True
    return list(found.values())


def _environment(pid: int) -> bytes:
    # The kernel shows it as it was at exec.
    return b"\0" + _read(f"/proc/{pid}/environ", 1 << 16) + b"\0"


def _read(path: str, size: int) -> bytes:
    """The beginning of a file in /proc, empty if the process is gone. Optimized, because there are hundreds."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def become_subreaper() -> bool:
    """Become the subreaper: orphans of our children are handed to us, so that we can reap them. False if refused."""
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):  # pragma: no cover - a C library without prctl
        return False


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process; ignores a process that is gone already."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group; ignores a group that is gone already."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def ask_group(group: int) -> None:
    """Ask a process group to end; stopped processes are continued so that they receive the signal."""
    signal_group(group, signal.SIGTERM)
    signal_group(group, signal.SIGCONT)


def sweep(leader: Process, brand: str) -> tuple[int, bool]:
    """End with SIGKILL everything that `leader` left behind.

    Call it while the leader is a zombie or alive: until it is reaped, its pid can't be reused.

    Returns:
        How many processes were found, and whether all of them are gone.
    """
    until_s = time.monotonic() + SWEEP_LIMIT_S
    seen: set[int] = set()
    # A process that was found once stays on the list: after the kill it has no environment, but still must be reaped.
    family: set[tuple[int, int]] = set()
    while True:
        left = members(leader, brand, family)
        family.update(one.identity for one in left)
        for one in left:
            if one.dead:
                _reap(one)
            else:
                seen.add(one.pid)
                signal_process(one.pid, signal.SIGKILL)
        # A zombie of another parent holds neither memory nor files; its parent reaps it.
        if not any(not one.dead or one.parent == os.getpid() for one in left):
            return len(seen), True
        if time.monotonic() >= until_s:
            return len(seen), False
        time.sleep(_POLL_S)


def _reap(one: Process) -> None:
    if one.parent == os.getpid():
        try:
            os.waitpid(one.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # reaped meanwhile
