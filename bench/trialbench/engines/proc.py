"""Who belongs to a generation: the processes below one leader, read from /proc, ended and reaped.

A process group alone is no proof: a child that calls setsid leaves it, and once its parent is gone nothing tells whose
it was. So a process counts as the leader's if it is in its group or session, descends from it, or carries the leader's
mark: in its environment, or as the one limit that nobody uses, which no exec and no empty environment takes away. Where
a cgroup is ours, `cgroup.py` knows better still.
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

MARK = "TRIALBENCH_GENERATION"
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.002
# RLIMIT_LOCKS: Linux has not enforced it since 2.4, and every child inherits it.
_UNUSED_LIMIT = 10
# Processes that are being killed may fork meanwhile, and one in uninterruptible sleep takes its time.
SWEEP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `start`: clock ticks since boot; with the pid it names a process for good."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int

    @property
    def identity(self) -> tuple[int, int]:
        """What no other process shares, now or later."""
        return self.pid, self.start

    @property
    def dead(self) -> bool:
        """A zombie: it runs no more and only waits to be reaped."""
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
    """Every process there is."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def brand(pid: int, mark: str) -> None:
    """Put `mark` where no exec removes it, and have a crash leave no core file: gigabytes, with the prompt among them.

    Where limits can't be set (a filter of system calls) children have the mark in their environment alone.
    """
    number = int(mark)
    for limit, values in ((_UNUSED_LIMIT, (number, number)), (resource.RLIMIT_CORE, (0, 0))):
        try:
            resource.prlimit(pid, limit, values)
        except (OSError, ValueError):
            continue


def members(leader: Process, mark: str, known: Container[tuple[int, int]] = ()) -> list[Process]:
    """Everything that `leader` has brought into the world and that is still there, `leader` itself left out.

    Args:
        known: identities that count among it, whatever they show by now.
    """
    # Whatever is older than the leader can't descend from it; this also guards against a pid that was used again.
    later = [one for one in table() if one.start >= leader.start and one.pid != leader.pid]
    own = {leader.pid}
    found: dict[int, Process] = {}
    needle = f"{MARK}={mark}\0".encode()
    branded = re.compile(rb"^Max file locks +%b " % mark.encode(), re.MULTILINE)
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
    """The beginning of a file below /proc, empty where the process is gone. As quick as can be: there are hundreds."""
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
    """Have orphans of our children handed to us instead of to init, so that we can reap them; False where we can't."""
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):  # pragma: no cover - a C library without prctl
        return False


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process; that it is gone already is no error."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def signal_group(group: int, number: int) -> None:
    """Send a signal to a whole process group; that it is gone already is no error."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def ask_group(group: int) -> None:
    """Ask a whole process group to end; who was stopped is woken to hear it."""
    signal_group(group, signal.SIGTERM)
    signal_group(group, signal.SIGCONT)


def sweep(leader: Process, mark: str) -> tuple[int, bool]:
    """End with SIGKILL whatever `leader` left behind.

    Call it while the leader is a zombie or alive: until it is reaped, nobody else can bear its pid.

    Returns:
        How many processes were found, and whether all of them are gone.
    """
    until_s = time.monotonic() + SWEEP_LIMIT_S
    seen: set[int] = set()
    # Who was found once stays one of them: killed, it has no environment any more, and is to be reaped all the same.
    family: set[tuple[int, int]] = set()
    while True:
        left = members(leader, mark, family)
        family.update(one.identity for one in left)
        for one in left:
            if one.dead:
                _reap(one)
            else:
                seen.add(one.pid)
                signal_process(one.pid, signal.SIGKILL)
        # Someone else's zombie runs no more, holds no memory and no file; its parent reaps it.
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
