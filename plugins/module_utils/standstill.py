# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detect a process that stands still: it is alive and holds its port and its memory, but it does not run.

There are three causes: a signal (SIGSTOP, a debugger), the freezer of its control group (``docker pause``), and an
uninterruptible wait in the kernel (state D).
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

from . import probes
from .probes import ProcessId

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
# docker and systemd freeze a control group for a moment while they change it; a debugger stops a process to look in.
STILL_S = 0.3
# A driver or a slow disk may block a thread for seconds, but no healthy wait in a window takes longer than this.
STUCK_S = 10.0
# A look at every thread is too expensive for each poll.
_THREADS_EVERY_S = 0.5
# Kernel functions in which a frozen process waits under cgroup v2; under v1 it is in state D.
_TRAPS = ("do_freezer_trap", "get_signal")


def _text(path: str | Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


@functools.lru_cache(maxsize=8)
def _freezers(groups: Path, text: str) -> tuple[str, ...]:
    """Files that say whether the control groups of a process are frozen; ``text`` is the content of its ``cgroup``."""
    found = []
    for line in text.splitlines():
        controllers, _sep, path = line.split(":", 1)[-1].partition(":")
        # The path may lead out of the mounted hierarchy.
        if ".." in path.split("/"):
            continue
        if not controllers:
            found += [f"{groups}{path}/cgroup.events", f"{groups}/unified{path}/cgroup.events"]
        elif "freezer" in controllers.split(","):
            found.append(f"{groups}/freezer{path}/freezer.state")
    return tuple(found)


def frozen(pid: int, proc: Path = PROC, groups: Path = GROUPS) -> bool:
    """Whether the control group of a process, or one above it, is frozen."""
    said = "\n".join(_text(file) for file in _freezers(groups, _text(f"{proc}/{pid}/cgroup"))).strip()
    if said:
        return any(word in said for word in ("frozen 1", "FROZEN", "FREEZING"))
    # Its group is outside the mounted hierarchy: see in which kernel function it waits.
    return _text(f"{proc}/{pid}/wchan") in _TRAPS


class Standstill:
    """Watches one process; a look says why it stands still, if it does."""

    def __init__(self, process: ProcessId, proc: Path = PROC, groups: Path = GROUPS) -> None:
        self._process, self._proc, self._groups = process, proc, groups
        # What the last look saw, even if it has lasted only a moment.
        self.why, self._since_s = "", 0.0
        # Threads that wait in the kernel: their count of context switches, and since when it has not changed.
        self._stuck: dict[str, tuple[str, float]] = {}
        self._looked_s = 0.0
        self.good_s = time.monotonic()

    def look(self) -> str:
        """Return why the process stands still; empty while it runs, or when it has ended.

        Afterwards, ``good_s`` is the CLOCK_MONOTONIC of the last look at which it ran.
        """
        now_s = time.monotonic()
        why = self._held()
        if why:
            if not self.why:
                self._since_s = now_s
            self.why = why
            return why if now_s - self._since_s >= STILL_S else ""
        self.why = ""
        if now_s - self._looked_s >= _THREADS_EVERY_S:
            self._looked_s = now_s
            stuck = self._waits(now_s)
            if stuck:
                return stuck
        self.good_s = max(self.good_s, min((since_s for _switched, since_s in self._stuck.values()), default=now_s))
        return ""

    def _held(self) -> str:
        pid = self._process.pid
        state = probes.state(pid, self._proc)
        if state in ("T", "t"):
            by = "a signal (SIGSTOP)" if state == "T" else "a debugger"
            return f"PID {pid} is stopped by {by}"
        if state and frozen(pid, self._proc, self._groups):
            return f"PID {pid} is frozen with its control group (docker pause)"
        return ""

    def _waits(self, now_s: float) -> str:
        """Name the thread that has waited in the kernel too long, and where it waits; empty where none has."""
        folder = self._proc / str(self._process.pid) / "task"
        found: dict[str, tuple[str, float]] = {}
        try:
            threads = os.listdir(folder)
        except OSError:
            threads = []
        for thread in threads:
            if probes.state(int(thread), folder) != "D":
                continue
            # A thread that reads a slow disk is switched at every block; a hung thread never is.
            lines = _text(folder / thread / "status").splitlines()
            switched = next((line for line in lines if line.startswith("voluntary_ctxt_switches")), "")
            before = self._stuck.get(thread)
            found[thread] = before if before and before[0] == switched else (switched, now_s)
        self._stuck = found
        for thread, (_switched, since_s) in found.items():
            if now_s - since_s >= STUCK_S:
                where = _text(folder / thread / "wchan")
                place = f", in {where}" if where not in ("", "0") else ""
                return (
                    f"thread {thread} of PID {self._process.pid} has waited in the kernel for {now_s - since_s:.0f} s "
                    f"(state D{place})"
                )
        return ""
