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

from trialbench.measure.sample import Sample
from trialbench.report.run import Reading, Run, Segment

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


@dataclass(frozen=True)
class Series:
    """The readings before any reboot, in order of time; `dropped` is how many came after one."""

    times: list[float]
    readings: list[Reading]
    dropped: int = 0

    def between(self, start_s: float, end_s: float) -> Sequence[Reading]:
        """The readings from `start_s` to `end_s`, both included."""
        return self.readings[bisect_left(self.times, start_s) : bisect_right(self.times, end_s)]

    def around(self, start_s: float, end_s: float) -> Sequence[Reading]:
        """The same, with the last reading before and the first one after, where they are near."""
        first, last = bisect_left(self.times, start_s), bisect_right(self.times, end_s)
        if first > 0 and start_s - self.times[first - 1] <= NEAR_S:
            first -= 1
        if last < len(self.times) and self.times[last] - end_s <= NEAR_S:
            last += 1
        return self.readings[first:last]

    def during(self, start_s: float, end_s: float, key: str = "used_mib") -> Sequence[Reading]:
        """The readings from `start_s` to `end_s` that have `key`; without any, the nearest one that has, if near."""
        inside = [one for one in self.between(start_s, end_s) if one.value(key) is not None]
        if inside:
            return inside
        middle = (start_s + end_s) / 2
        near = self.between(middle - NEAR_S, middle + NEAR_S)
        known = [one for one in near if one.value(key) is not None]
        return [min(known, key=lambda one: abs(one.t_s - middle))] if known else []

    def values(self, start_s: float, end_s: float, key: str) -> list[float]:
        """What those readings say about `key`."""
        return _values(self.during(start_s, end_s, key), key)


def series(readings: Iterable[Reading]) -> Series:
    """The part of `vram.jsonl` that can be joined to samples: everything before the clock restarts."""
    kept: list[Reading] = []
    dropped = 0
    for one in readings:
        if dropped or (kept and one.t_s < kept[-1].t_s - _BACKWARDS_S):
            dropped += 1
        else:
            kept.append(one)
    kept.sort(key=lambda one: one.t_s)
    return Series([one.t_s for one in kept], kept, dropped)


def _values(readings: Iterable[Reading], key: str) -> list[float]:
    """What is known about `key`."""
    return [float(value) for one in readings if (value := one.value(key)) is not None]


def held_back(reading: Reading) -> list[str]:
    """Why the card was slowed at that moment, by name; empty when it was not, or when nothing is known."""
    return [name for name in reading.throttle or () if name in SLOWING]


@dataclass(frozen=True)
class Joined:
    """What the series adds to one sample.

    Attributes:
        flags: `throttled` (the card was slowed) and `disturbed` (the host's CPUs were busier than usual, or another
            process came, went or grew on the card).
        energy_j: of the card, over the reply.
        power_w, sm_mhz: means.
        temp_c, load1: the most; degrees Celsius.
    """

    flags: Sequence[str] = ()
    energy_j: float | None = None
    power_w: float | None = None
    sm_mhz: float | None = None
    temp_c: float | None = None
    load1: float | None = None


@dataclass(frozen=True)
class Range:
    """Minimum, median and maximum of a series."""

    min: float
    p50: float
    max: float


@dataclass(frozen=True)
class Energy:
    """The card's energy over a reply, in J; `n` replies, from the driver's `counter` or integrated from `power`."""

    p50: float
    mean: float
    n: int
    source: str | None


@dataclass(frozen=True)
class SegmentTelemetry:
    """Card and host during one segment; None: not known.

    Attributes:
        throttle: what held the card back, an idle card aside.
        throttled, disturbed: samples with that flag.
    """

    readings: int
    sm_mhz: Range | None
    mem_mhz: Range | None
    power_w: Range | None
    temp_c: Range | None
    util_percent: Range | None
    mem_util_percent: Range | None
    cpu_percent: Range | None
    load1_max: float | None
    throttle: Sequence[str]
    energy_per_reply_j: Energy | None
    throttled: int | None
    disturbed: int | None


@dataclass(frozen=True)
class Telemetry:
    """Statistics by segment, and by key why something is missing."""

    segments: Mapping[str, SegmentTelemetry]
    why: Mapping[str, str]


Rows = Mapping[int, Joined]


def joined(run: Run) -> dict[str, Rows]:
    """What the series adds to each sample, by segment and `seq`."""
    readings = series(run.readings)
    return {name: _joined(run, readings, one)[0] for name, one in run.segments.items()}


def telemetry(run: Run) -> Telemetry:
    """Card and host in a run."""
    readings = series(run.readings)
    segments = {name: _summary(readings, one, *_joined(run, readings, one)) for name, one in run.segments.items()}
    return Telemetry(segments, _why(run, readings, segments))


def _joined(run: Run, readings: Series, segment: Segment) -> tuple[Rows, str | None]:
    """What is added to the samples of a segment, and where their energy is from."""
    span = _span(segment.samples)
    if span is None:
        return {}, None
    around = readings.around(*span)
    energy, source = _energy_of(readings)
    foreign = _Foreign(_own(run, segment, around), around)
    busy = _busy(readings.values(*span, "cpu_percent"))
    rows = {}
    for sample in segment.samples:
        first_s, last_s = sample.t_start_s, sample.t_end_s
        near = readings.around(first_s, last_s)
        told = {key: readings.values(first_s, last_s, key) for key in ("power_w", "sm_mhz", "temp_c", "load1")}
        flags = ["throttled"] if any(held_back(one) for one in near) else []
        if foreign.changed(near) or busy(readings.values(first_s, last_s, "cpu_percent")):
            flags.append("disturbed")
        rows[sample.seq] = Joined(
            flags=flags,
            # A failed sample has no end that one could measure to.
            energy_j=None if sample.latency_ms is None else energy(first_s, last_s),
            power_w=_rounded(statistics.fmean, told["power_w"]),
            sm_mhz=_rounded(statistics.fmean, told["sm_mhz"]),
            temp_c=_rounded(max, told["temp_c"]),
            load1=_rounded(max, told["load1"]),
        )
    return rows, source


def _span(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """From the first request to the last reply, in seconds; None without samples."""
    if not samples:
        return None
    return min(sample.t_start_s for sample in samples), max(sample.t_end_s for sample in samples)


def _summary(readings: Series, segment: Segment, rows: Rows, source: str | None) -> SegmentTelemetry:
    span = _span(segment.samples)
    around = readings.around(*span) if span else []
    energies = [row.energy_j for row in rows.values() if row.energy_j is not None]
    known = [one.throttle for one in around if one.throttle is not None]

    def flagged(name: str) -> int:
        return sum(name in row.flags for row in rows.values())

    def values(key: str) -> list[float]:
        return readings.values(*span, key) if span else []

    return SegmentTelemetry(
        readings=len(readings.during(*span)) if span else 0,
        **{key: _range(values(key)) for key in RANGES},
        load1_max=_rounded(max, values("load1")),
        throttle=sorted({name for names in known for name in names} - {"gpu_idle"}),
        energy_per_reply_j=Energy(
            round(statistics.median(energies), 3), round(statistics.fmean(energies), 3), len(energies), source
        )
        if energies
        else None,
        # Unknown is not 0: without readings, throttling cannot be counted.
        throttled=flagged("throttled") if known else None,
        disturbed=flagged("disturbed") if around else None,
    )


def _rounded(pick: Callable[[list[float]], float], values: list[float]) -> float | None:
    return round(pick(values), 2) if values else None


def _range(values: list[float]) -> Range | None:
    if not values:
        return None
    return Range(round(min(values), 2), round(statistics.median(values), 2), round(max(values), 2))


# --- energy ----------------------------------------------------------------------------------------------------------


def _energy_of(readings: Series) -> tuple[Callable[[float, float], float | None], str | None]:
    """What gives the energy in J between two moments, and where it has it from: the same for a whole run."""
    for key, source in (("energy_j", "counter"), ("power_w", "power")):
        curve = _Curve(readings.readings, key)
        if curve:
            return (curve.rise if source == "counter" else curve.area), source
    return lambda _start_s, _end_s: None, None


class _Curve:
    """One value of the series over time, straight between readings; gaps are holes."""

    def __init__(self, readings: Iterable[Reading], key: str) -> None:
        known = [(one.t_s, float(value)) for one in readings if (value := one.value(key)) is not None]
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


def _own(run: Run, segment: Segment, around: Sequence[Reading]) -> frozenset[int]:
    """The processes of the server under test; empty if they cannot be identified."""
    held = {holder.pid: holder.command for one in around for holder in one.holders if holder.pid is not None}
    if segment.side != "baseline":
        pids = {event.pid for event in run.events("candidate_started")}
        return frozenset(pid for pid in held if pid in pids)
    tenant = run.plan.tenant(run.plan.baseline_tenant)
    pattern = tenant.vram_process if tenant else ""
    return frozenset(pid for pid, command in held.items() if pattern and pattern in command)


class _Foreign:
    """All processes on the card except the server under test, as of the start of the segment."""

    def __init__(self, own: frozenset[int], around: Sequence[Reading]) -> None:
        self._own = own
        self._first = self._sizes(around[0]) if around else {}

    def _sizes(self, reading: Reading) -> dict[int, float | None]:
        held = {one.pid: one.mib for one in reading.holders if one.pid is not None}
        return {pid: mib for pid, mib in held.items() if pid not in self._own}

    def changed(self, near: Sequence[Reading]) -> bool:
        """Whether another process appeared, exited, or changed its memory since the segment began."""
        looks = [self._sizes(one) for one in near]
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


def _why(run: Run, readings: Series, segments: Mapping[str, SegmentTelemetry]) -> dict[str, str]:
    if not readings.readings:
        return {"readings": "vram.jsonl is missing or holds no reading"}
    said: dict[str, str] = {}
    for one in readings.readings:
        # The latest reason wins.
        said |= one.missing
    found: dict[str, str] = {}
    for key in _KEYS:
        if all(getattr(one, key) is None for one in readings.readings):
            recorded = any(key in one.recorded for one in readings.readings)
            default = "the driver does not tell" if recorded else "not recorded by the host program of this run"
            found[key] = said.get(key, default)
    blind = [name for name, one in segments.items() if run.samples(name) and not one.readings]
    if blind:
        found["readings"] = f"none while these segments were measured: {', '.join(sorted(blind))}"
    if readings.dropped:
        found["clock"] = f"the host was restarted; {readings.dropped} later readings are not joined to samples"
    sources = {one.energy_per_reply_j.source for one in segments.values() if one.energy_per_reply_j}
    if "power" in sources and "energy_j" in found:
        found["energy_j"] += "; energy per reply is the power integrated over each reply instead"
    return found
