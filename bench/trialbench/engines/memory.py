"""Memory of an engine's process: its peak, its growth over many requests.

The kernel's high-water mark, VmHWM, is read while the process runs. `wait4` (`ru_maxrss`) also counts the memory of our
own process at the time of the fork, so its value is used only if it exceeds that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HWM = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_RSS = re.compile(rb"^VmRSS:\s+(\d+) kB", re.MULTILINE)


class MemoryWatch:
    """Reads one process's memory through a descriptor that stays bound to it even if its pid is reused."""

    def __init__(self, pid: int) -> None:
        self.peak_mib = 0.0
        self.rss_mib = 0.0
        try:
            self._fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def look(self) -> float:
        """Read once; returns the resident size in MiB, and keeps the peak. None for a process that has ended."""
        if self._fd < 0:
            return self.rss_mib
        try:
            text = os.pread(self._fd, 8192, 0)
        except OSError:
            return self.rss_mib
        peak, rss = _HWM.search(text), _RSS.search(text)
        if peak and rss:
            self.peak_mib = max(self.peak_mib, int(peak[1]) / 1024)
            self.rss_mib = int(rss[1]) / 1024
        return self.rss_mib

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def own_peak_mib() -> float:
    """The peak of this process in MiB."""
    watch = MemoryWatch(os.getpid())
    watch.look()
    watch.close()
    return watch.peak_mib


@dataclass(frozen=True, slots=True)
class Growth:
    """How memory went over many requests. `slope_mib`: per request, by Theil and Sen; None below five readings."""

    readings: int
    first_mib: float | None
    last_mib: float | None
    slope_mib: float | None
    leaking: bool

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """All fields."""
        return {
            "readings": self.readings,
            "first_mib": self.first_mib,
            "last_mib": self.last_mib,
            "slope_mib": self.slope_mib,
            "leaking": self.leaking,
        }


class LeakWatch:
    """Takes a reading after each request and detects growth.

    The slope is the median over all pairs, so that single large requests do not count as a leak. Growth counts as a
    leak if the slope exceeds `limit_mib` per request and the later half lies above the earlier one.

    Args:
        limit_mib: growth per request that is still tolerated.
        keep: how many readings are kept; older ones are thinned out, so that memory stays bounded here too.
    """

    MINIMUM = 5

    def __init__(self, *, limit_mib: float = 0.5, keep: int = 256) -> None:
        self._limit_mib = limit_mib
        self._keep = keep
        self._count = 0
        self._readings: list[tuple[int, float]] = []

    def add(self, mib: float) -> None:
        """A reading, in MiB."""
        self._readings.append((self._count, mib))
        self._count += 1
        if len(self._readings) > self._keep:
            self._readings = [*self._readings[:-1:2], self._readings[-1]]

    def growth(self) -> Growth:
        """What the readings say so far."""
        values = [mib for _, mib in self._readings]
        first, last = (values[0], values[-1]) if values else (None, None)
        if len(values) < self.MINIMUM:
            return Growth(self._count, first, last, None, leaking=False)
        slope = _slope(self._readings)
        half = len(values) // 2
        grown = _median(values[half:]) > _median(values[:half])
        return Growth(self._count, first, last, round(slope, 4), leaking=grown and slope > self._limit_mib)


def _slope(points: Sequence[tuple[int, float]]) -> float:
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
    ]
    return _median(slopes)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
