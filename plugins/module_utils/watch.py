# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch runner and restorer: they send heartbeats, and a timer restores the host when it misses them.

systemd sees that a unit has ended, and then starts the restore. It does not see a restore that a person has stopped, an
opening that was killed before it started the runner, or a program that stands still. So while a trial holds the host,
``mt-watch.timer`` looks every 30 s, and restores when neither runner nor restorer is at work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import probes, run, services

TIMER, LOOK = "mt-watch.timer", "mt-watch.service"
# A heartbeat; systemd expects one within the units' WatchdogSec=.
BEAT_S = 5.0
# A waiting program wakes up now and then. A main thread that has not for this long hangs in a call.
STILL_S = 60.0
# Longer than systemd's own watchdog: this covers the cases in which that does not act.
STALE_S = 45.0
# From one unit to the next, and from the mark to the runner, there is a moment in which no unit is at work.
AGAIN_S = 3.0
_QUESTION_S = 10.0
_FACTS = "Id,ActiveState,SubState,MainPID,Job,WatchdogTimestampMonotonic,ExecMainStartTimestampMonotonic"
_US_PER_S = 1e6


# The heartbeat.


def _wakes(status: Path) -> str:
    """How often a thread was put to sleep or preempted, as the kernel counts it."""
    with contextlib.suppress(OSError):
        return "\n".join(line for line in status.read_text().splitlines() if "ctxt_switches" in line)
    return ""


def _notify(address: str, text: str) -> None:
    """sd_notify: send one datagram to systemd; without a listener, this is not a failure."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(text.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


class Pulse:
    """Tells systemd that this program is alive and makes progress.

    A thread says that it is alive, which a stopped process can't do. It makes progress if its main thread wakes up now
    and then.

    Args:
        tell: says it.
        wakes: a value that changes when the main thread has woken up meanwhile.
        clock: seconds, monotonic.
    """

    def __init__(
        self, tell: Callable[[], None], wakes: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._wakes, self._clock = tell, wakes, clock
        self._known, self._since_s = "", clock()

    def beat(self) -> None:
        """Send one heartbeat, unless the main thread stands still."""
        found, now_s = self._wakes(), self._clock()
        if found != self._known:
            self._known, self._since_s = found, now_s
        if now_s - self._since_s < STILL_S:
            self._tell()

    def go_on(self) -> None:
        """Beat until the program ends."""
        while True:
            self.beat()
            time.sleep(BEAT_S)


def begin() -> None:
    """Send heartbeats from here on, if systemd listens. The main thread must call this.

    Raises:
        NoRoom: the host can't start another thread. If a restorer fails like this, systemd starts it again.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")
    # These variables must not reach the programs that the unit starts: tenants inherit its environment.
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(name, None)
    if not address:
        return
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status")
    pulse = Pulse(lambda: _notify(address, "WATCHDOG=1"), lambda: _wakes(status))
    # The first sign at once: until then, systemd knows none.
    pulse.beat()
    try:
        threading.Thread(target=pulse.go_on, name="pulse", daemon=True).start()
    except RuntimeError as err:
        if not run.no_room(err):
            raise
        raise run.NoRoom(errno.EAGAIN, "this host can't start the thread that sends heartbeats") from err


# The look.


def _units(*names: str) -> dict[str, dict[str, str]]:
    reply = run.command(["systemctl", "show", "--property", _FACTS, *names], _QUESTION_S)
    found = {}
    for block in reply.out.split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in facts:
            found[facts["Id"]] = facts
    return found


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def idle(facts: dict[str, str], now_s: float) -> str:
    """Why a unit does no work, in words; empty while it does, or while systemd is about to start or end it.

    Args:
        facts: what ``systemctl show`` says about it.
        now_s: CLOCK_MONOTONIC.
    """
    name, state = facts.get("Id", "").removesuffix(".service"), facts.get("ActiveState", "unknown")
    if state not in ("active", "activating"):
        queued = facts.get("Job", "").strip() not in ("", "0")
        return "" if queued or state in ("deactivating", "reloading") else f"{name} is {state}"
    pid = _number(facts.get("MainPID", ""))
    if not pid:
        # Not started yet, or about to be started again.
        return ""
    if probes.stopped(pid):
        return f"{name} stands still: PID {pid} was stopped by a signal"
    signs = ("WatchdogTimestampMonotonic", "ExecMainStartTimestampMonotonic")
    last_s = max(_number(facts.get(sign, "")) for sign in signs) / _US_PER_S
    silent_s = now_s - last_s
    if last_s and silent_s > STALE_S:
        return f"{name} stands still: PID {pid} has sent no heartbeat for {silent_s:.0f} s"
    return ""


def trouble() -> str:
    """Why neither runner nor restorer is at work on an open trial, in words; empty while one is."""
    try:
        found = _units(*services.UNITS)
    except OSError:
        # If systemd does not answer, it can't start a restore either.
        return ""
    if not found:
        return ""
    now_s = time.monotonic()
    whys = [idle(found.get(name, {"Id": name}), now_s) for name in services.UNITS]
    return "" if any(not why for why in whys) else "; ".join(whys)


def lasting_trouble() -> str:
    """`trouble` that is still there at a second look, some seconds later."""
    if not trouble():
        return ""
    time.sleep(AGAIN_S)
    return trouble()


def looks() -> bool:
    """Whether the timer is at work."""
    try:
        return _units(TIMER).get(TIMER, {}).get("ActiveState") == "active"
    except OSError:
        return False
