"""One clock for everything in a result folder: seconds since the run began, across reboots.

Journal, samples and VRAM series share CLOCK_MONOTONIC, which restarts at each boot. The journal also has the wall
clock, so each boot gets an offset; readings without a boot belong to the first one until their time goes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from trialbench.report.journal import Event
from trialbench.report.run import Reading, Run


class Clock:
    """Seconds since the journal's first event, or, without a journal, since the first reading or sample."""

    def __init__(self, run: Run) -> None:
        self._offsets: dict[str, float] = {}
        self._boots: list[str] = []
        first_wall, latest = None, 0.0
        for event in run.journal:
            boot, t_s = event.boot_id, float(event.t_s)
            if boot not in self._offsets:
                wall = _seconds(event.wall)
                if not self._boots:
                    first_wall, offset = wall, -t_s
                elif wall is None or first_wall is None:
                    # Without a usable wall clock, the new boot continues where the old one ended.
                    offset = latest - t_s
                else:
                    offset = wall - first_wall - t_s
                self._offsets[boot] = offset
                self._boots.append(boot)
            latest = t_s + self._offsets[boot]
        if not self._boots:
            times = [reading.t_s for reading in run.readings]
            times += [sample.t_start_s for one in run.segments.values() for sample in one.samples]
            self._offsets[""] = -min(times, default=0.0)
            self._boots.append("")

    def event(self, event: Event) -> float:
        """Time of a journal line."""
        return event.t_s + self._offsets[event.boot_id]

    def series(self, readings: Iterable[Reading]) -> list[float]:
        """Times of a series without boot IDs, in the order they were written."""
        found: list[float] = []
        at, before = 0, float("-inf")
        for reading in readings:
            t_s = float(reading.t_s)
            # A clock that goes back this far was restarted by a reboot.
            if t_s < before - 1.0 and at + 1 < len(self._boots):
                at += 1
            before = t_s
            found.append(t_s + self._offsets[self._boots[at]])
        return found

    def monotonic(self, t_s: float) -> float:
        """A time of the first boot, such as a sample's start."""
        return t_s + self._offsets[self._boots[0]]


def _seconds(wall: str) -> float | None:
    try:
        return datetime.fromisoformat(wall).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
