"""Charts of samples: ratios with their band, distributions, and one symbol per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup

from trialbench.measure.sample import Sample
from trialbench.measure.summary import SegmentSummary, latencies_ms
from trialbench.report.comparison import Comparison, Metric, direction, finding_noisy
from trialbench.report.measured import quantile_text
from trialbench.report.plan import Workload
from trialbench.report.run import Segment
from trialbench.report.telemetry import Rows
from trialbench.show.figures import (
    BELOW,
    LEFT,
    RIGHT,
    Figure,
    Key,
    Table,
    drawings,
    labels,
    line,
    margin,
    polyline,
    rectangle,
    swatch,
    text,
    thin,
    x_axis,
    y_axis,
)
from trialbench.show.svg import Point, Scale, element, group, join, symbol, value_scale
from trialbench.show.text import counted, number, ratio_text
from trialbench.stats import Quantile, quantile

_POINTS, _STEPS = 400, 300
_LANES = 8
# From a lane of flags to the next: the name of the next fits below the ticks of the one before.
_LANE = 30.0
METRICS: dict[Metric, str] = {
    "latency_ms": "latency",
    "server_ms": "server's own time",
    "ttft_ms": "time to first token",
    "tokens_per_s": "tokens per second",
}


@dataclass(frozen=True)
class Series:
    """One segment in a chart; `flags` by the sample's position, its names as `compared` has them."""

    segment: str
    letter: str
    name: str
    shape: str
    css: str
    samples: Sequence[Sample]
    numbers: SegmentSummary
    flags: dict[int, list[str]]

    @property
    def latencies(self) -> list[float]:
        """Of the good samples, ascending."""
        return sorted(latencies_ms(self.samples))


def compared(work: Workload) -> dict[str, tuple[str, str, str, str]]:
    """The compared segments of the workload that decides: letter, display name, symbol, CSS class."""
    return {
        work.a1: ("A1", "baseline before", "dot", "a1"),
        work.candidate: ("B", "candidate", "triangle", "b"),
        work.a2: ("A2", "baseline after", "square", "a2"),
    }


def series(work: Workload, segments: Mapping[str, Segment], joined: Mapping[str, Rows]) -> list[Series]:
    """The compared segments that were measured, in order.

    Args:
        work: the workload that decides.
        segments: by name.
        joined: what telemetry adds to a sample, by segment and seq.
    """
    found = []
    for name, (letter, shown, shape, css) in compared(work).items():
        one = segments.get(name)
        if one and one.samples:
            flags = _flags(one, joined.get(name, {}))
            found.append(Series(name, letter, shown, shape, css, one.samples, one.summary, flags))
    return found


def _flags(segment: Segment, joined: Rows) -> dict[int, list[str]]:
    outliers = set(segment.summary.outliers)
    found = {}
    for at, sample in enumerate(segment.samples):
        flags = [f"failed: {sample.error_class or 'no reason'}"] if not sample.ok else []
        flags += ["outlier"] if sample.ok and sample.seq in outliers else []
        flags += sample.flags
        flags += joined[sample.seq].flags if sample.seq in joined else []
        if flags:
            found[at] = list(dict.fromkeys(flags))
    return found


# --- ratios ----------------------------------------------------------------------------------------------------------


def ratios(rows: Sequence[tuple[str, Comparison]], *, title: str) -> Figure | None:
    """Ratios with interval and band, a row each; None where there is none to draw.

    Args:
        rows: label and comparison.
        title: the figure's title.
    """
    known = [(label, row, row.ratio) for label, row in rows if _positive(row.ratio)]
    if not known:
        return None
    reach = max(max(abs(math.log(value)) for value in _reached(row)) for _label, row, _ratio in known)
    reach = min(max(reach * 1.12, math.log(1.12)), math.log(1000))
    step = 46.0

    def draw(width: float) -> tuple[Markup, float]:
        scale = Scale(math.exp(-reach), math.exp(reach), LEFT / 2, width - RIGHT, logarithmic=True)
        bottom = 10 + step * len(known)
        parts = [x_axis(scale, bottom, "candidate / baseline (1 = equal)", top=6, count=7 if width > 500 else 5)]
        says = [f": {_told(row) if width > 500 else _briefly(row)}" for _label, row, _ratio in known]
        shown = labels([one[0] for one in known], scale.end - scale.start, says=says, kind="t strong")
        for at, (_label, row, ratio) in enumerate(known):
            top = 10 + step * at
            # Not through the label above.
            parts.append(line(scale(1.0), top + 16, scale(1.0), top + 38, "one"))
            if row.band and _positive(row.band.low) and _positive(row.band.high):
                left, right = scale(row.band.low), scale(row.band.high)
                parts.append(rectangle(left, top + 17, right - left, 20, "band"))
            parts.append(text(scale.start, top + 11, shown[at], kind="t strong"))
            middle = top + 27
            kind = _kind(row)
            if _positive(row.low) and _positive(row.high):
                low, high = scale(row.low), scale(row.high)
                parts += [line(low, middle, high, middle, f"whisker {kind}")]
                parts += [line(x, middle - 5, x, middle + 5, f"whisker {kind}") for x in (low, high)]
            shape = {"worse": "diamond", "better": "square"}.get(kind, "dot")
            parts.append(symbol(shape, scale(ratio), middle, 5, class_=f"fill {kind}"))
        return join(parts), bottom + BELOW

    told = [f"{label} {_told(row)}" for label, row, _ratio in known]
    wide, narrow = drawings("ratios", title, "; ".join(told[:12]), draw)
    return Figure(
        "ratios",
        title,
        "; ".join(told),
        wide,
        narrow,
        keys=[
            Key(swatch("fill b", "dot"), "ratio of medians, 95 % interval"),
            Key(swatch("fill worse", "diamond"), "slower: excludes 1 and lies outside the band"),
            Key(swatch("fill better", "square"), "faster: excludes 1 and lies outside the band"),
            Key(swatch("band"), "the baseline's own variation (A2 / A1)"),
        ],
    )


def _kind(row: Comparison) -> str:
    """The class of a ratio's color, which its shape and its words tell, too."""
    words = direction(row)
    return ("worse" if "slow" in words else "better") if words else "b"


def _told(row: Comparison) -> str:
    """`1.22 [1.18, 1.26], 22 % slower`."""
    return f"{ratio_text(row.ratio, row.low, row.high)}, {finding_noisy(row)}"


def _briefly(row: Comparison) -> str:
    """`1.22, 22 % slower`: what fits on a phone."""
    return f"{ratio_text(row.ratio)}, {finding_noisy(row)}"


def _reached(row: Comparison) -> list[float]:
    band = (row.band.low, row.band.high) if row.band else ()
    return [value for value in (row.ratio, row.low, row.high, *band) if _positive(value)]


def _positive(value: float | None) -> TypeGuard[float]:
    return value is not None and 0 < value < math.inf


def medians(rows: Sequence[tuple[str, Quantile | None, Quantile | None]]) -> Figure | None:
    """Medians of candidate and baseline with their intervals, a row each; None where there are none.

    Args:
        rows: label, and p50 of candidate and baseline, in ms.
    """
    known = [(label, [one if one and _positive(one.value) else None for one in pair]) for label, *pair in rows]
    values = [value for _label, pair in known for one in pair if one for value in (one.value, one.low, one.high)]
    reached = [float(value) for value in values if value is not None]
    if not reached:
        return None
    step = 46.0
    sides = (("b", "triangle", 22.0), ("a1", "dot", 33.0))

    def draw(width: float) -> tuple[Markup, float]:
        x = value_scale(reached, LEFT / 2, width - RIGHT)
        bottom = 10 + step * len(known)
        label = "median latency, ms (logarithmic)" if x.logarithmic else "median latency, ms"
        parts = [x_axis(x, bottom, label, top=6, count=7 if width > 500 else 5)]
        shown = labels([name for name, _pair in known], x.end - x.start, kind="t strong")
        for at, (_name, pair) in enumerate(known):
            top = 10 + step * at
            parts.append(text(x.start, top + 11, shown[at], kind="t strong"))
            for one, (kind, shape, down) in zip(pair, sides, strict=True):
                if one is None:
                    continue
                value, low, high = one.value or 0.0, one.low, one.high
                if low is not None and high is not None:
                    parts.append(line(x(low), top + down, x(high), top + down, f"whisker {kind}"))
                parts.append(symbol(shape, x(value), top + down, 4, note=quantile_text(one), class_=f"fill {kind}"))
        return join(parts), bottom + BELOW

    title = "Median latency"
    table_rows = [[label, *(quantile_text(one) if one else "-" for one in pair)] for label, pair in known]
    described = "; ".join(f"{label}: candidate {ours}, baseline {live}" for label, ours, live in table_rows)
    wide, narrow = drawings("medians", title, described, draw)
    return Figure(
        "medians",
        title,
        described,
        wide,
        narrow,
        keys=[
            Key(swatch("fill b", "triangle"), "candidate, 95 % interval"),
            Key(swatch("fill a1", "dot"), "baseline before it (A1)"),
        ],
        table=Table("Median latency in ms [95 %]", ["run", "candidate", "baseline"], table_rows, numbers=(1, 2)),
    )


# --- distributions ---------------------------------------------------------------------------------------------------

_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def distribution(found: list[Series]) -> Figure | None:
    """The share of samples that were at most so slow (ECDF); None without samples that count."""
    shown = [(one, one.latencies) for one in found if one.latencies]
    if not shown:
        return None
    everything = [value for _one, values in shown for value in (values[0], values[-1])]

    def draw(width: float) -> tuple[Markup, float]:
        height, top = (306.0 if width > 500 else 256.0), 34.0
        y = Scale(0, 100, height, top)
        left = margin(y, count=4, suffix=" %")
        x = value_scale(everything, left, width - RIGHT)
        parts = [y_axis(y, left, width - RIGHT, "share of samples", count=4, suffix=" %")]
        label = "latency, ms (logarithmic)" if x.logarithmic else "latency, ms"
        parts.append(x_axis(x, height, label, count=8 if width > 500 else 5))
        for one, values in shown:
            parts.append(polyline(_steps(values, x, y), f"curve {one.css}"))
        for one, values in shown:
            median = quantile(values, 0.5).value or 0.0
            note = f"{one.letter} {one.name}: p50 {number(median)} ms"
            parts.append(symbol(one.shape, x(median), y(50), 4.6, note=note, class_=f"fill {one.css}"))
        return join(parts), height + BELOW

    title = "Latency distribution"
    medians = ", ".join(f"{one.letter} {number(quantile(values, 0.5).value)} ms" for one, values in shown)
    description = f"Empirical distribution of latency. Medians: {medians}."
    wide, narrow = drawings("ecdf", title, description, draw)
    rows = [
        [
            f"{one.letter} {one.name}",
            str(len(values)),
            *(number(_nearest(values, q)) for q in _SHARES),
            number(values[-1]),
        ]
        for one, values in shown
    ]
    head = ["segment", "n", *(f"p{q * 100:g} ms" for q in _SHARES), "max ms"]
    return Figure(
        "ecdf",
        title,
        description,
        wide,
        narrow,
        keys=[_series_key(one) for one, _values in shown],
        caption="Symbols show the medians. A curve further left is faster, a steeper one steadier.",
        table=Table("Quantiles of latency as measured, nearest rank", head, rows, numbers=range(1, len(head))),
    )


def _nearest(values: list[float], q: float) -> float:
    return values[math.ceil(q * len(values)) - 1]


def _steps(values: list[float], x: Scale, y: Scale) -> list[Point]:
    n = len(values)
    points: list[Point] = [(x.start, y(0))]
    share = 0.0
    for at in thin(n, _STEPS):
        points.append((x(values[at]), y(share)))
        share = 100 * (at + 1) / n
        points.append((x(values[at]), y(share)))
    return [*points, (x.end, y(100))]


def _series_key(one: Series) -> Key:
    return Key(swatch(f"fill {one.css}", one.shape), f"{one.letter} {one.name} (n={len(one.samples)})")


# --- one symbol per sample -------------------------------------------------------------------------------------------


def timeline(found: list[Series]) -> Figure | None:
    """Every sample in the order measured, with lanes for flags below."""
    heard = [sample.latency_ms for one in found for sample in one.samples if sample.latency_ms]
    if not heard:
        return None
    lanes = list(dict.fromkeys(_lane(flag) for one in found for flags in one.flags.values() for flag in flags))
    hidden, lanes = lanes[_LANES:], lanes[:_LANES]
    total = sum(len(one.samples) for one in found)

    def draw(width: float) -> tuple[Markup, float]:
        height, top = (278.0 if width > 500 else 238.0), 52.0
        y = value_scale(heard, height, top)
        start = margin(y)
        gap = 14.0 if width > 500 else 8.0
        room = width - RIGHT - start - gap * (len(found) - 1)
        label = "latency, ms (logarithmic)" if y.logarithmic else "latency, ms"
        parts = [y_axis(y, start, width - RIGHT, label)]
        for row, lane in enumerate(lanes):
            lane_y = height + 34 + row * _LANE
            parts += [
                text(start, lane_y, lane, kind="t name", room=width - RIGHT - start),
                line(start, lane_y + 13, width - RIGHT, lane_y + 13, "grid"),
            ]
        left = start
        for one in found:
            right = left + room * len(one.samples) / total
            parts.append(_panel(one, y, left, right, height, lanes))
            left = right + gap
        bottom = height + 24 + _LANE * len(lanes)
        parts.append(
            text((start + width) / 2, bottom + 16, "samples in the order measured", anchor="middle", kind="t name")
        )
        return join(parts), bottom + 24

    title = "Every sample, in order"
    told = [
        f"{one.letter} {one.name}: {counted(len(one.samples), 'sample')}, {len(one.flags)} of them flagged"
        for one in found
    ]
    description = "; ".join(told)
    wide, narrow = drawings("timeline", title, description, draw)
    keys = [_series_key(one) for one in found]
    keys += [
        Key(swatch("fill failed", "cross"), "failed (at its time, or at the top without one)"),
        Key(swatch("outlier", "ring"), "outlier: kept, and counted"),
        Key(swatch("interval"), "median with its 95 % interval"),
    ]
    notes = ["Lanes below the samples mark flags, one tick per sample."] if lanes else ["No flagged samples."]
    if hidden:
        notes.append(f"{counted(len(hidden), 'rarer flag')} without a lane; the table has them.")
    if any(len(one.samples) > _POINTS for one in found):
        notes.append("Long segments are thinned out; all flagged samples are drawn.")
    return Figure(
        "timeline", title, description, wide, narrow, keys=keys, caption=" ".join(notes), table=_flag_table(found)
    )


def _lane(flag: str) -> str:
    return flag.split(":", 1)[0][:40]


def _panel(one: Series, y: Scale, left: float, right: float, height: float, lanes: list[str]) -> Markup:
    n = len(one.samples)
    x = Scale(0, max(1, n - 1), left + 4, right - 4)
    parts = [
        line(left, height, right, height, "axis"),
        text((left + right) / 2, 14, one.letter, anchor="middle", kind="t strong"),
    ]
    p50 = one.numbers.latency_ms.p50
    if p50.value is not None:
        if p50.low is not None and p50.high is not None:
            parts.append(rectangle(left, y(p50.high), right - left, y(p50.low) - y(p50.high), "interval"))
        parts.append(line(left, y(p50.value), right, y(p50.value), f"median {one.css}"))
    top = min(y.start, y.end)
    soft = f"fill {one.css} soft"
    # By class, in the order in which they are drawn.
    marks: dict[str, list[Markup]] = {soft: [], "fill failed": [], "outlier": [], "tick": []}
    for at in thin(n, _POINTS, list(one.flags)):
        sample, flags = one.samples[at], one.flags.get(at, [])
        latency = sample.latency_ms
        place = y(latency) if latency else top
        told = f"{one.letter} {sample.seq}: {number(latency)} ms"
        note = ", ".join([told, *flags])
        if sample.ok:
            marks[soft].append(symbol(one.shape, x(at), place, 2.6, note=note))
        else:
            marks["fill failed"].append(symbol("cross", x(at), place, 3.4, note=note))
        if "outlier" in flags:
            marks["outlier"].append(symbol("ring", x(at), place, 3.2))
        own = {_lane(flag) for flag in flags}
        for row, lane in enumerate(lanes):
            if lane in own:
                lane_y = height + 34 + row * _LANE + 13
                marks["tick"].append(element("line", x1=x(at), y1=lane_y - 7, x2=x(at), y2=lane_y + 3))
    return join([*parts, *(group(those, kind) for kind, those in marks.items() if those)])


def _flag_table(found: list[Series]) -> Table | None:
    rows = []
    for one in found:
        for at, flags in one.flags.items():
            sample = one.samples[at]
            rows.append([f"{one.letter} {sample.seq}", number(sample.latency_ms), ", ".join(flags)])
    if not rows:
        return None
    shown = rows[:200]
    caption = "Flagged samples" + (f" (the first 200 of {len(rows)})" if len(rows) > len(shown) else "")
    return Table(caption, ["sample", "latency ms", "why"], shown, numbers=(1,))
