# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a process stand still? It may be alive, hold its port and its memory, and run no more.

Three ways lead there: a signal (SIGSTOP, a debugger), the freezer of its control group (``docker pause``), and a wait
in the kernel that no signal ends (state D).
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
# docker and systemd freeze a control group for a moment while they change it, and a debugger looks in.
STILL_S = 0.3
# A driver or a slow disk may keep a thread for seconds; nothing that is waited for in a window takes longer.
STUCK_S = 10.0
# Looking at every thread costs more than a poll may.
_THREADS_EVERY_S = 0.5
# Where a frozen process waits in the kernel, by version 2 of control groups; by version 1 it is in state D.
_TRAPS = ("do_freezer_trap", "get_signal")


def _text(path: str | Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


@functools.lru_cache(maxsize=8)
def _freezers(groups: Path, text: str) -> tuple[str, ...]:
    """Files that say whether the control groups of a process are frozen; ``text`` is what its ``cgroup`` says."""
    found = []
    for line in text.splitlines():
        controllers, _sep, path = line.split(":", 1)[-1].partition(":")
        # A path may lead out of what is mounted here.
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
    # Its group lies outside of what is mounted here: the kernel tells what it waits for.
    return _text(f"{proc}/{pid}/wchan") in _TRAPS


class Standstill:
    """Watches one process; a look says why it stands still, if it does."""

    def __init__(self, process: ProcessId, proc: Path = PROC, groups: Path = GROUPS) -> None:
        self._process, self._proc, self._groups = process, proc, groups
        # What the last look saw, however short it has been so.
        self.why, self._since_s = "", 0.0
        # Threads that wait in the kernel: how often they were switched, and since when that is so.
        self._stuck: dict[str, tuple[str, float]] = {}
        self._looked_s = 0.0
        self.good_s = time.monotonic()

    def look(self) -> str:
        """Why the process stands still; empty while it runs, or has ended.

        ``good_s`` is then the CLOCK_MONOTONIC of the last look at which it ran.
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
        """The thread that has waited in the kernel too long, and where it waits."""
        folder = self._proc / str(self._process.pid) / "task"
        found: dict[str, tuple[str, float]] = {}
        try:
            threads = os.listdir(folder)
        except OSError:
            threads = []
        for thread in threads:
            if probes.state(int(thread), folder) != "D":
                continue
            # A thread that reads a slow disk is switched with every block; one that hangs never is.
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
