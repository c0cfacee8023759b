# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch who listens on the ports of a window, at every check of its fence.

A foreign program that listens on a model's port can answer in its place, and it receives prompt and picture. A client
in its container cannot see who listens. So the ports are checked here: thoroughly when a socket is new (which process
holds it, and is that the port's owner?), and cheaply afterwards (is it still there, and does a known process hold it?).
"""

from __future__ import annotations

import contextlib
import pwd
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import probes, sockets
from .probes import Listener
from .sockets import Holder, Socket

# Looks use at most this share of a core: after an expensive look, the next ones are skipped.
SHARE = 0.05


@dataclass(frozen=True)
class Change:
    """A foreign process listens on a port, or may have done so since the last good look.

    ``pid`` is 0 and ``command`` empty where it cannot be seen; ``good_s`` is the CLOCK_MONOTONIC of the last good look;
    ``asked`` says whether something was measured on the port meanwhile; ``found`` describes the change in words.
    """

    port: int
    owner: str
    pid: int
    user: str
    command: str
    good_s: float
    asked: bool
    found: str

    def facts(self) -> dict[str, Any]:
        """Return the fields of the journal's entry."""
        return {
            "port": self.port,
            "owner": self.owner,
            "pid": self.pid,
            "user": self.user,
            "command": self.command,
            "found": self.found,
        }


@dataclass
class _Port:
    owner: str
    # Several tenants may share a port: another tenant's program may listen in front of them.
    judges: list[Callable[[Listener], bool]]
    good_s: float
    asked: bool = False
    # The owner's sockets, with the processes that held them; none for a kernel socket.
    known: dict[int, list[Holder]] = field(default_factory=dict)
    held: bool = False


def _user(uid: int | None) -> str:
    with contextlib.suppress(KeyError, TypeError):
        return pwd.getpwuid(uid).pw_name  # type: ignore[arg-type]  # None where it is gone: a TypeError
    return str(uid)


class Ports:
    """The watched ports, each with the owner that may listen there."""

    def __init__(self, proc: Path = sockets.PROC) -> None:
        self._proc = proc
        self._ports: dict[int, _Port] = {}
        self._next_s = 0.0

    def watch(self, ports: Collection[int], owner: str, owns: Callable[[Listener], bool]) -> None:
        """Watch ports from the next look on; a port that is already watched keeps its state.

        Args:
            ports: their numbers.
            owner: their owner, in words.
            owns: says whether a listener is the owner's.
        """
        for port in ports:
            self._ports.setdefault(port, _Port(owner, [], time.monotonic())).judges.append(owns)

    def ask(self, ports: Collection[int]) -> None:
        """Set the ports on which something is asked from now on; all others are not asked.

        While a port is asked, it counts as changed when all of its sockets were replaced between two looks, even if
        its owner holds it again: it was free in between.
        """
        for number, port in self._ports.items():
            port.asked = number in ports

    def held(self, port: int) -> bool:
        """Whether the owner listened on a port at the last look."""
        return self._ports[port].held

    def look(self, *, sure: bool = False) -> Change | None:
        """Return the first port found that has changed hands since the last look; None where none has.

        Args:
            sure: look even if the last look was very recent.
        """
        if not self._ports or (not sure and time.monotonic() < self._next_s):
            return None
        began_s, cpu_s = time.monotonic(), time.thread_time()
        found = sockets.listening(self._ports, self._proc)
        for number, port in self._ports.items():
            change = self._look_at(number, port, [item for item in found if item.port == number], began_s)
            if change:
                return change
        self._next_s = began_s + (time.thread_time() - cpu_s) / SHARE
        return None

    def _look_at(self, number: int, port: _Port, here: list[Socket], now_s: float) -> Change | None:
        fresh = [item for item in here if not self._still(port, item)]
        # Sockets judged now were first seen at `now_s`; only an older socket shows that nothing changed in between.
        before = set(port.known)
        if fresh:
            change = self._judge(number, port, fresh)
            if change:
                return change
        present = {item.inode for item in here} & set(port.known)
        port.held = bool(present)
        if port.asked and before and not before & {item.inode for item in here}:
            # While nothing listens, nothing answers; the next listener has taken a port that was free.
            return self._reopened(number, port, present) if present else None
        port.known = {inode: who for inode, who in port.known.items() if inode in present}
        port.good_s = now_s
        return None

    def _still(self, port: _Port, item: Socket) -> bool:
        if item.inode not in port.known:
            return False
        who = port.known[item.inode]
        return not who or any(sockets.holds(holder, self._proc) for holder in who)

    def _judge(self, number: int, port: _Port, fresh: list[Socket]) -> Change | None:
        """Remember the owner's sockets; the first socket of another process is the change."""
        # A process may end or pass its socket on during the search; then search once more.
        for last in (False, True):
            held = sockets.holders([item.inode for item in fresh], self._proc)
            unseen = []
            for item in fresh:
                who = [holder for holder in held if holder.inode == item.inode]
                who = [holder for holder in who if probes.uid(holder.pid, self._proc) is not None]
                for holder in who:
                    listener = Listener(number, holder.pid, probes.command(holder.pid, self._proc))
                    trouble = self._foreign(port, listener)
                    if trouble is not None:
                        uid = probes.uid(holder.pid, self._proc)
                        change = self._change(number, port, listener, item.uid if uid is None else uid)
                        return replace(change, found=change.found + trouble)
                # A kernel socket has no holder and belongs to root.
                if who or item.uid == 0:
                    port.known[item.inode] = who
                elif item.inode not in port.known:
                    unseen.append(item)
                # Otherwise the owner held it, and no process does now: it is being closed while its process ends.
            there = {item.inode for item in sockets.listening([number], self._proc)} if unseen else set()
            fresh = [item for item in unseen if item.inode in there]
            if not fresh:
                return None
            if last:
                return self._change(number, port, Listener(number, 0, ""), fresh[0].uid)
        return None

    @staticmethod
    def _foreign(port: _Port, listener: Listener) -> str | None:
        """Return None for the owner's listener; otherwise why that could not be determined, or an empty string."""
        try:
            return None if any(owns(listener) for owns in port.judges) else ""
        except Exception as err:
            # A manager that does not answer has not confirmed that the listener is its own.
            return f", and its owner cannot be determined: {err}"

    def _reopened(self, number: int, port: _Port, present: set[int]) -> Change:
        pid = next((who[0].pid for inode, who in port.known.items() if inode in present and who), 0)
        listener = Listener(number, pid, probes.command(pid, self._proc) if pid else "")
        change = self._change(number, port, listener, probes.uid(pid, self._proc) if pid else None)
        return replace(change, found=f"it was closed and reopened in between: {change.found}")

    @staticmethod
    def _change(number: int, port: _Port, listener: Listener, uid: int | None) -> Change:
        user = _user(uid)
        found = f"port {number} is held by PID {listener.pid} (user {user}, {listener.command or 'gone'})"
        if not listener.pid:
            found = f"port {number} is held by a process that can't be seen (user {user})"
        return Change(number, port.owner, listener.pid, user, listener.command, port.good_s, port.asked, found)
