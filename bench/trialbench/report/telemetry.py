"""What card and host did while samples were taken: the series of `vram.jsonl`, joined to samples by time.

Both use CLOCK_MONOTONIC of the same host, so a sample that began at `t_start_s` and took `latency_ms` meets the
readings between those two moments. That clock restarts at a reboot, and nothing is measured after one, so later
readings are dropped. Readings may lack values, and readings may be missing; what cannot be computed is None.

Energy is the card's own, idle draw and other processes included. It comes from the driver's counter where there is one
(the difference between end and start of a reply, the counter interpolated between readings), else from the power
integrated over the reply; a segment says which, and never mixes them.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trialbench.report.folder import Folder

# Reasons that make a card slower than its settings allow. An idle card, a clock limit set by a user and the power limit
# do not count: a busy card is expected to run at its power limit.
SLOWING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
RANGES = ("sm_mhz", "mem_mhz", "power_w", "temp_c", "util_percent", "mem_util_percent", "cpu_percent")
# A reading is valid for moments at most this far away: slightly more than three sampler ticks.
NEAR_S = 0.35
# Energy is not interpolated between readings further apart than this, or than this share of the reply.
ENERGY_GAP_S, ENERGY_GAP_SHARE = 0.5, 0.25
# A host is disturbed when its CPUs are this much busier than the segment's usual load and spread.
CPU_POINTS, CPU_SPREAD, CPU_READINGS = 25.0, 3.0, 5
# Changes of another process's memory up to this size are ignored.
STEADY_MIB = 64
# Two samplers may overlap briefly during handover; a clock reset by a reboot jumps back further.
_BACKWARDS_S = 1.0

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """The readings before any reboot, in order of time; `dropped` is how many came after one."""

    times: list[float]
    lines: list[Line]
    dropped: int = 0

    def between(self, start_s: float, end_s: float) -> Sequence[Line]:
        """The readings from `start_s` to `end_s`, both included."""
        return self.lines[bisect_left(self.times, start_s) : bisect_right(self.times, end_s)]

    def around(self, start_s: float, end_s: float) -> Sequence[Line]:
        """The same, with the last reading before and the first one after, where they are near."""
        first, last = bisect_left(self.times, start_s), bisect_right(self.times, end_s)
        if first > 0 and start_s - self.times[first - 1] <= NEAR_S:
            first -= 1
        if last < len(self.times) and self.times[last] - end_s <= NEAR_S:
            last += 1
        return self.lines[first:last]

    def during(self, start_s: float, end_s: float, key: str = "used_mib") -> Sequence[Line]:
        """The readings from `start_s` to `end_s` that have `key`; without any, the nearest one that has, if near."""
        inside = [line for line in self.between(start_s, end_s) if line.get(key) is not None]
        if inside:
            return inside
        middle = (start_s + end_s) / 2
        near = self.between(middle - NEAR_S, middle + NEAR_S)
        known = [line for line in near if line.get(key) is not None]
        return [min(known, key=lambda line: abs(line["t_s"] - middle))] if known else []

    def values(self, start_s: float, end_s: float, key: str) -> list[float]:
        """What those readings say of `key`."""
        return [float(line[key]) for line in self.during(start_s, end_s, key)]


def series(lines: Iterable[Line]) -> Series:
    """The part of `vram.jsonl` that can be joined to samples: everything before the clock restarts."""
    kept: list[Line] = []
    dropped = 0
    for line in lines:
        if dropped or (kept and line["t_s"] < kept[-1]["t_s"] - _BACKWARDS_S):
            dropped += 1
        else:
            kept.append(line)
    kept.sort(key=lambda line: line["t_s"])
    return Series([line["t_s"] for line in kept], kept, dropped)


def held_back(line: Line) -> list[str]:
    """Why the card was slowed at that moment, by name; empty when it was not, or when nothing is known."""
    return [name for name in _names(line) or () if name in SLOWING]


def joined(folder: Folder) -> dict[str, dict[int, dict[str, Any]]]:
    """What the series adds to each sample, by segment and `seq`.

    Returns:
        `{"flags", "energy_j", "power_w", "sm_mhz", "temp_c", "load1"}`: flags are `throttled` (the card was slowed)
        and `disturbed` (the host's CPUs were busier than usual, or another process came, went or grew on the card);
        energy in J or None; power in W and clock in MHz are means, temperature in degrees Celsius and load the most.
    """
    readings = series(folder.vram)
    return {name: _segment(folder, readings, name).samples for name in folder.samples}


def telemetry(folder: Folder) -> dict[str, Any]:
    """Statistics of each segment for `summary.json`, and by key why something is missing."""
    readings = series(folder.vram)
    found = {name: _segment(folder, readings, name) for name in folder.samples}
    segments = {name: one.summary for name, one in found.items()}
    return {"segments": segments, "why": _why(folder, readings, segments)}


@dataclass(frozen=True)
class _Joined:
    summary: dict[str, Any]
    samples: dict[int, dict[str, Any]]


def _segment(folder: Folder, readings: Series, name: str) -> _Joined:
    samples = folder.samples[name]
    if not samples:
        return _Joined(_summary(readings, (0.0, -1.0), {}, None), {})
    spans = [_span(sample) for sample in samples]
    start_s, end_s = min(start for start, _end in spans), max(end for _start, end in spans)
    around = readings.around(start_s, end_s)
    energy, source = _energy_of(readings)
    foreign = _Foreign(_own(folder, name, around), around)
    busy = _busy(readings.values(start_s, end_s, "cpu_percent"))
    rows: dict[int, dict[str, Any]] = {}
    for sample, (first_s, last_s) in zip(samples, spans, strict=True):
        near = readings.around(first_s, last_s)
        told = {key: readings.values(first_s, last_s, key) for key in ("power_w", "sm_mhz", "temp_c", "load1")}
        flags = ["throttled"] if any(held_back(line) for line in near) else []
        if foreign.changed(near) or busy(readings.values(first_s, last_s, "cpu_percent")):
            flags.append("disturbed")
        rows[sample["seq"]] = {
            "flags": flags,
            # A failed sample has no end that one could measure to.
            "energy_j": None if sample["latency_ms"] is None else energy(first_s, last_s),
            "power_w": _rounded(statistics.fmean, told["power_w"]),
            "sm_mhz": _rounded(statistics.fmean, told["sm_mhz"]),
            "temp_c": _rounded(max, told["temp_c"]),
            "load1": _rounded(max, told["load1"]),
        }
    return _Joined(_summary(readings, (start_s, end_s), rows, source), rows)


def _span(sample: Mapping[str, Any]) -> tuple[float, float]:
    start_s = float(sample["t_start_s"])
    return start_s, start_s + (sample["latency_ms"] or 0.0) / 1000


def _summary(
    readings: Series, span: tuple[float, float], rows: Mapping[int, dict[str, Any]], source: str | None
) -> dict[str, Any]:
    # A span that ends before it begins is that of no sample at all.
    measured = span[0] <= span[1]
    around = readings.around(*span) if measured else []
    energies = [row["energy_j"] for row in rows.values() if row["energy_j"] is not None]
    reasons = {name for line in around for name in _names(line) or ()} - {"gpu_idle"}
    told = any(_names(line) is not None for line in around)
    return {
        "readings": len(readings.during(*span)) if measured else 0,
        **{key: _range(readings.values(*span, key) if measured else []) for key in RANGES},
        "load1_max": _rounded(max, readings.values(*span, "load1") if measured else []),
        "throttle": sorted(reasons),
        "energy_per_reply_j": {
            "p50": round(statistics.median(energies), 3),
            "mean": round(statistics.fmean(energies), 3),
            "n": len(energies),
            "source": source,
        }
        if energies
        else None,
        # Unknown is not 0: without readings, throttling cannot be counted.
        "throttled": sum("throttled" in row["flags"] for row in rows.values()) if told else None,
        "disturbed": sum("disturbed" in row["flags"] for row in rows.values()) if around else None,
    }


def _names(line: Line) -> list[str] | None:
    found: list[str] | None = line.get("throttle")
    return found


def _rounded(pick: Callable[[list[float]], float], values: list[float]) -> float | None:
    return round(pick(values), 2) if values else None


def _range(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": round(min(values), 2), "p50": round(statistics.median(values), 2), "max": round(max(values), 2)}


# --- energy ----------------------------------------------------------------------------------------------------------


def _energy_of(readings: Series) -> tuple[Callable[[float, float], float | None], str | None]:
    """What gives the energy in J between two moments, and where it has it from: the same for a whole run."""
    for key, source in (("energy_j", "counter"), ("power_w", "power")):
        curve = _Curve(readings.lines, key)
        if curve:
            return (curve.rise if source == "counter" else curve.area), source
    return lambda _start_s, _end_s: None, None


class _Curve:
    """One value of the series over time, straight between readings; gaps are holes."""

    def __init__(self, lines: Iterable[Line], key: str) -> None:
        known = [(line["t_s"], float(line[key])) for line in lines if line.get(key) is not None]
        self._times: list[float] = [t for t, _v in known]
        self._values: list[float] = [v for _t, v in known]

    def __len__(self) -> int:
        return len(self._times)

    def _at(self, t_s: float, gap_s: float) -> float | None:
        after = bisect_left(self._times, t_s)
        if after < len(self._times) and self._times[after] == t_s:
            return self._values[after]
        if after in (0, len(self._times)) or self._times[after] - self._times[after - 1] > gap_s:
            return None
        low, high = self._values[after - 1], self._values[after]
        share = (t_s - self._times[after - 1]) / (self._times[after] - self._times[after - 1])
        return low + (high - low) * share

    @staticmethod
    def _gap_s(start_s: float, end_s: float) -> float:
        return max(ENERGY_GAP_S, ENERGY_GAP_SHARE * (end_s - start_s))

    def rise(self, start_s: float, end_s: float) -> float | None:
        """How much a counter rose; None across a gap at either end, or when it fell, as at a driver's reload."""
        gap_s = self._gap_s(start_s, end_s)
        before, after = self._at(start_s, gap_s), self._at(end_s, gap_s)
        if before is None or after is None:
            return None
        inside = self._values[bisect_left(self._times, start_s) : bisect_right(self._times, end_s)]
        steps = [before, *inside, after]
        if any(later < earlier for earlier, later in pairwise(steps)):
            return None
        return round(after - before, 3)

    def area(self, start_s: float, end_s: float) -> float | None:
        """The integral between two moments; None where readings are too far apart."""
        gap_s = self._gap_s(start_s, end_s)
        before, after = self._at(start_s, gap_s), self._at(end_s, gap_s)
        if before is None or after is None:
            return None
        first, last = bisect_right(self._times, start_s), bisect_left(self._times, end_s)
        points = [(start_s, before), *zip(self._times[first:last], self._values[first:last], strict=True)]
        points.append((end_s, after))
        total = 0.0
        for (t, value), (next_t, next_value) in pairwise(points):
            if next_t - t > gap_s:
                return None
            total += (value + next_value) / 2 * (next_t - t)
        return round(total, 3)


# --- other processes --------------------------------------------------------------------------------------------------


def _own(folder: Folder, name: str, around: Sequence[Line]) -> frozenset[int]:
    """The processes of the server under test; empty if they cannot be identified."""
    held = {holder["pid"]: str(holder.get("command", "")) for line in around for holder in _holders(line)}
    if "baseline" not in name:
        pids = {event.pid for event in folder.events("candidate_started")}
        return frozenset(pid for pid in held if pid in pids)
    tenant = folder.plan.tenant(folder.plan.baseline_tenant)
    pattern = tenant.vram_process if tenant else ""
    return frozenset(pid for pid, command in held.items() if pattern and pattern in command)


def _holders(line: Line) -> list[dict[str, Any]]:
    return [holder for holder in line.get("processes") or () if isinstance(holder.get("pid"), int)]


class _Foreign:
    """All processes on the card except the server under test, as of the start of the segment."""

    def __init__(self, own: frozenset[int], around: Sequence[Line]) -> None:
        self._own = own
        self._first = self._sizes(around[0]) if around else {}

    def _sizes(self, line: Line) -> dict[int, float | None]:
        return {holder["pid"]: holder.get("mib") for holder in _holders(line) if holder["pid"] not in self._own}

    def changed(self, near: Sequence[Line]) -> bool:
        """Whether another process appeared, exited, or changed its memory since the segment began."""
        looks = [self._sizes(line) for line in near]
        if any(look.keys() - self._first.keys() for look in looks):
            return True
        for earlier, later in pairwise(looks):
            if earlier.keys() != later.keys():
                return True
            # If the server under test cannot be identified, growth may be its own.
            sizes = [(earlier[pid], later[pid]) for pid in earlier] if self._own else []
            if any(abs(a - b) > STEADY_MIB for a, b in sizes if a is not None and b is not None):
                return True
        return False


def _busy(usual: list[float]) -> Callable[[list[float]], bool]:
    """Tells whether the host's CPUs were busier during some readings than is usual in their segment.

    What is usual: the median, and the spread of the middle half; replies that begin with work for the CPU are no
    disturbance. A segment of few readings has no usual.
    """
    if len(usual) < CPU_READINGS:
        return lambda _values: False
    low, middle, high = statistics.quantiles(usual, n=4, method="inclusive")
    limit = middle + max(CPU_POINTS, CPU_SPREAD * (high - low))
    return lambda values: bool(values) and statistics.fmean(values) > limit


# --- missing values ---------------------------------------------------------------------------------------------------

_KEYS = (*RANGES, "throttle", "energy_j", "load1")


def _why(folder: Folder, readings: Series, segments: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    if not readings.lines:
        return {"readings": "vram.jsonl is missing or holds no reading"}
    said: dict[str, str] = {}
    for line in readings.lines:
        # The latest reason wins.
        said |= {str(key): str(why) for key, why in (line.get("missing") or {}).items()}
    found: dict[str, str] = {}
    for key in _KEYS:
        if not any(line.get(key) is not None for line in readings.lines):
            recorded = any(key in line for line in readings.lines)
            default = "the driver does not tell" if recorded else "not recorded by the host program of this run"
            found[key] = said.get(key, default)
    blind = [name for name, one in segments.items() if folder.samples[name] and not one["readings"]]
    if blind:
        found["readings"] = f"none while these segments were measured: {', '.join(sorted(blind))}"
    if readings.dropped:
        found["clock"] = f"the host was restarted; {readings.dropped} later readings are not joined to samples"
    sources = {one["energy_per_reply_j"]["source"] for one in segments.values() if one["energy_per_reply_j"]}
    if "power" in sources and "energy_j" in found:
        found["energy_j"] += "; energy per reply is the power integrated over each reply instead"
    return found
