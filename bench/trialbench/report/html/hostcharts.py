"""Charts of the host: GPU memory over the phases, telemetry, and downtime of tenants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trialbench.report.html.clock import Clock
from trialbench.report.journal import Event
from trialbench.report.run import Reading, Run
from trialbench.report.summary import Summary
from trialbench.report.telemetry import held_back
from trialbench.report.windows import impact_of
from trialbench.show.figures import (
    BELOW,
    RIGHT,
    Figure,
    Key,
    Table,
    disc_key,
    drawings,
    labels,
    lettered,
    line,
    margin,
    rectangle,
    swatch,
    text,
    x_axis,
    y_axis,
)
from trialbench.show.svg import Point, Scale, element, join, symbol, value_scale
from trialbench.show.text import number

MIB_PER_GB = 1024
_PHASES = ("snapshot", "window", "candidate", "measure", "restore")
# Phases in which the candidate is loaded.
_LOADED = ("candidate", "measure")
_COLUMNS = 500
_MOST_TENANTS, _MOST_GATES = 24, 12
# Pixels from the middle of a phase's number to that of the next.
_DISC = 17.0
# Key of a VRAM line, what it is called, its unit.
TELEMETRY = {
    "sm_mhz": ("core clock", "MHz"),
    "mem_mhz": ("memory clock", "MHz"),
    "power_w": ("power", "W"),
    "temp_c": ("temperature", "°C"),
    "util_percent": ("utilization", "%"),
    "load1": ("load of the host", ""),
}


@dataclass(frozen=True)
class Span:
    """A phase on the run's own clock, in seconds. `number` counts from 1 and selects its color."""

    name: str
    number: int
    start: float
    end: float
    ok: bool


@dataclass(frozen=True)
class Down:
    """A stopped tenant: times in seconds on the run's own clock, None if the event never happened."""

    tenant: str
    impact: str
    stopping: float
    stopped: float | None
    starting: float | None
    healthy: float | None


def phase_spans(run: Run, clock: Clock) -> list[Span]:
    """The phases of a run including the restore, from the journal; an open phase lasts until the journal's end."""
    begun: dict[str, float] = {}
    found: list[Span] = []
    now = 0.0
    for event in run.journal:
        now, name = clock.event(event), event.event
        if name == "phase_started":
            begun[event.phase] = now
        elif name == "restore_started":
            # Later attempts belong to the same restore.
            begun.setdefault("restore", now)
        elif name in ("phase_done", "phase_failed", "restored"):
            phase = "restore" if name == "restored" else event.phase
            found.append(_span(phase, begun.pop(phase, now), now, name != "phase_failed"))
    found += [_span(phase, start, now, False) for phase, start in begun.items()]
    return sorted(found, key=lambda span: span.start)


def _span(phase: str, start: float, end: float, ok: bool) -> Span:
    at = _PHASES.index(phase) + 1 if phase in _PHASES else len(_PHASES) + 1
    return Span(phase, at, start, max(start, end), ok)


def _bands(spans: Sequence[Span], x: Scale, top: float, bottom: float) -> Markup:
    parts = []
    for span in spans:
        left, right = x(span.start), x(span.end)
        note = element("title", f"{span.name}: {span.end - span.start:.1f} s")
        parts.append(rectangle(left, top, right - left, bottom - top, f"phase p{span.number}", note))
    places = _apart([(x(span.start) + x(span.end)) / 2 for span in spans], x.end - 6)
    parts += [
        lettered(str(span.number), at, top - 12, f"p{span.number}") for span, at in zip(spans, places, strict=True)
    ]
    return join(parts)


def _apart(places: Sequence[float], most: float) -> list[float]:
    """Where the numbers of phases stand, at most at `most`: those of short phases are kept apart."""
    found: list[float] = []
    for at in places:
        found.append(max(at, found[-1] + _DISC) if found else at)
    for at in range(len(found) - 1, -1, -1):
        found[at] = min(found[at], found[at + 1] - _DISC if at + 1 < len(found) else most)
    return found


def _phase_keys(spans: Sequence[Span]) -> list[Key]:
    return [
        Key(
            disc_key(str(span.number), f"p{span.number}"),
            f"{span.name} {span.end - span.start:.1f} s" + ("" if span.ok else ", not done"),
        )
        for span in spans
    ]


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(run: Run, summary: Summary, clock: Clock) -> Figure | None:
    """VRAM over the run, the phases behind it, the healthy band and the gates; None without readings."""
    readings = [(at, used / MIB_PER_GB) for at, used in _known(run.readings, clock, "used_mib")]
    if not readings:
        return None
    spans, gates = phase_spans(run, clock), _gates(run, clock)
    drained, total = summary.vram.drained_mib, summary.vram.total_mib
    base = None if drained is None else drained / MIB_PER_GB
    limits = _limits(run)
    tops = [used for _at, used in readings] + ([total / MIB_PER_GB] if total else [])

    def draw(width: float) -> tuple[Markup, float]:
        height, top = (290.0 if width > 500 else 240.0), 42.0
        y = Scale(0, max(tops) * 1.04, height, top)
        left = margin(y)
        x = _time_scale([at for at, _used in readings], spans, width, left)
        parts = [_bands(spans, x, top, height)]
        parts += [
            y_axis(y, left, width - RIGHT, ""),
            x_axis(x, height, "seconds since the run began", count=8 if width > 500 else 5),
        ]
        parts += _healthy(spans, base, limits, x, y)
        parts.append(element("path", d=_step_path(readings, x, y), class_="area"))
        for letter, at, gate in gates:
            if base is not None and gate.footprint_gb is not None:
                kind = "gate" if gate.ok is not False else "gate failed"
                parts.append(
                    symbol(
                        "diamond",
                        x(at),
                        y(base + gate.footprint_gb),
                        4.5,
                        note=_gate_text(letter, gate),
                        class_=kind,
                    )
                )
        return join(parts), height + BELOW

    title = "Memory in use, GB"
    vram = summary.vram
    described = [
        f"drained to {_gb(drained)}",
        f"peak with the candidate {_gb(vram.peak_mib)}",
        f"at the end {_gb(vram.last_mib)}",
    ]
    description = f"VRAM in use over time: {', '.join(described)}."
    wide, narrow = drawings("memory", title, description, draw)
    keys = _phase_keys(spans)
    if base is not None and limits and any(span.name in _LOADED for span in spans):
        keys.append(Key(swatch("healthy"), f"healthy band: {limits[0]:g}-{limits[1]:g} GB above the drained level"))
        keys.append(Key(swatch("abort", "line"), f"abort above {limits[2]:g} GB"))
    keys += [Key(swatch("gate", "diamond"), _gate_text(letter, gate)) for letter, _at, gate in gates]
    rows = []
    for span in spans:
        used = [value for at, value in readings if span.start <= at <= span.end]
        rows.append(
            [
                span.name,
                f"{span.start:.1f}",
                f"{span.end - span.start:.1f}",
                *([f"{min(used):.2f}", f"{max(used):.2f}"] if used else ["-", "-"]),
            ]
        )
    table = (
        Table("Memory by phase", ["phase", "begins s", "lasts s", "least GB", "most GB"], rows, numbers=range(1, 5))
        if rows
        else None
    )
    return Figure("memory", title, description, wide, narrow, keys=keys, table=table)


def _known(readings: Sequence[Reading], clock: Clock, key: str) -> list[tuple[float, float]]:
    """Time on the run's own clock, in seconds, and value of `key` of the readings that have it."""
    times = clock.series(readings)
    return [(at, value) for at, one in zip(times, readings, strict=True) if (value := one.value(key)) is not None]


def _gates(run: Run, clock: Clock) -> list[tuple[str, float, Event]]:
    return [
        (
            chr(ord("a") + at),
            clock.event(event),
            event,
        )
        for at, event in enumerate(run.events("gate")[:_MOST_GATES])
    ]


def _gate_text(letter: str, gate: Event) -> str:
    size = "not measured" if gate.footprint_gb is None else f"{gate.footprint_gb:.2f} GB"
    return f"gate {gate.name or letter}: {size}" + (f", {gate.band}" if gate.band else "")


def _limits(run: Run) -> tuple[float, float, float] | None:
    low, high, abort = run.plan.low_below_gb, run.plan.healthy_to_gb, run.plan.abort_above_gb
    return None if low is None or high is None or abort is None else (low, high, abort)


def _healthy(
    spans: Sequence[Span],
    base: float | None,
    limits: tuple[float, float, float] | None,
    x: Scale,
    y: Scale,
) -> list[Markup]:
    loaded = [span for span in spans if span.name in _LOADED]
    if base is None or limits is None or not loaded:
        return []
    left, right = x(loaded[0].start), x(loaded[-1].end)
    high, low, abort = y(base + limits[1]), y(base + limits[0]), y(base + limits[2])
    return [rectangle(left, high, right - left, low - high, "healthy"), line(left, abort, right, abort, "abort")]


def _time_scale(times: Sequence[float], spans: Sequence[Span], width: float, left: float) -> Scale:
    start = min([*times[:1], *(span.start for span in spans)], default=0.0)
    end = max([*times[-1:], *(span.end for span in spans)], default=1.0)
    return Scale(start, max(end, start + 0.1), left, width - RIGHT)


def _step_path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    """The attribute `d`: one step per reading; above one reading per pixel, the extremes of each column."""
    columns: dict[int, list[Point]] = {}
    for at, value in points:
        columns.setdefault(int((x(at) - x.start) / (x.end - x.start) * _COLUMNS), []).append((at, value))
    steps: list[str] = []
    for column in columns.values():
        extremes = {min(column, key=lambda point: point[1]), max(column, key=lambda point: point[1]), column[-1]}
        for at, value in sorted(extremes):
            steps.append(f"H{x(at):.1f}V{y(value):.1f}" if steps else f"M{x(at):.1f} {y(value):.1f}")
    return "".join(steps)


def _gb(mib: float | None) -> str:
    return "-" if mib is None else f"{mib / MIB_PER_GB:.2f} GB"


# --- telemetry -------------------------------------------------------------------------------------------------------


def telemetry(run: Run, clock: Clock) -> Figure | None:
    """Clocks, power, temperature, utilization and load, one strip each; None if nothing was recorded."""
    times = clock.series(run.readings)
    strips = []
    for name, (label, unit) in TELEMETRY.items():
        points = _known(run.readings, clock, name)
        if points:
            strips.append((label, unit, points))
    if not strips:
        return None
    spans = phase_spans(run, clock)
    throttled = [(at, slowing) for at, one in zip(times, run.readings, strict=True) if (slowing := held_back(one))]
    step = 92.0

    def draw(width: float) -> tuple[Markup, float]:
        top, bottom = 28.0, 28.0 + step * len(strips)
        upward = []
        for at, (_label, unit, points) in enumerate(strips):
            low = top + step * at
            y = value_scale([value for _t, value in points], low + step - 10, low + 24, zero=unit in ("%", ""))
            upward.append(Scale(y.low, y.high, y.start, y.end))
        left = margin(*upward, count=2)
        x = _time_scale(times, spans, width, left)
        parts = [_bands(spans, x, top, bottom)]
        for at, (y, (label, unit, points)) in enumerate(zip(upward, strips, strict=True)):
            parts += [
                y_axis(y, left, width - RIGHT, "", count=2),
                text(left + 4, top + step * at + 16, f"{label}, {unit}".rstrip(", "), kind="t strong"),
            ]
            parts.append(element("path", d=_step_path(points, x, y), class_="strip"))
        for moment, _names in throttled[:_COLUMNS]:
            parts.append(line(x(moment), bottom - 8, x(moment), bottom, "tick"))
        parts.append(x_axis(x, bottom, "seconds since the run began", count=8 if width > 500 else 5))
        return join(parts), bottom + BELOW

    title = "Clocks, power and temperature"
    told = [
        f"{label} {number(min(values))} to {number(max(values))} {unit}".rstrip()
        for label, unit, values in ((label, unit, [value for _t, value in points]) for label, unit, points in strips)
    ]
    wide, narrow = drawings("telemetry", title, "; ".join(told), draw)
    rows = [
        [
            f"{label} {unit}".rstrip(),
            str(len(points)),
            *(number(pick([value for _t, value in points])) for pick in (min, _middle, max)),
        ]
        for label, unit, points in strips
    ]
    table = Table("The whole run", ["what", "readings", "least", "median", "most"], rows, numbers=range(1, 5))
    names = sorted({name for _at, found in throttled for name in found})[:12]
    caption = f"Ticks at the bottom: the card was throttled ({', '.join(names)})." if names else ""
    return Figure(
        "telemetry", title, "; ".join(told), wide, narrow, keys=_phase_keys(spans), caption=caption, table=table
    )


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


# --- downtime --------------------------------------------------------------------------------------------------------


def downs(run: Run, clock: Clock) -> list[Down]:
    """Stopped tenants in order of their stop; a later stop within the run extends the same downtime."""
    found: dict[str, dict[str, float]] = {}
    for event in run.journal:
        name, tenant = event.event, event.tenant
        if not tenant:
            continue
        if name == "tenant_stopping":
            found.setdefault(tenant, {}).setdefault("stopping", clock.event(event))
        elif tenant in found and name in ("tenant_stopped", "tenant_starting", "tenant_healthy"):
            known = found[tenant]
            # The first stop and the last start.
            if name != "tenant_stopped" or "stopped" not in known:
                known[name.removeprefix("tenant_")] = clock.event(event)
    return [
        Down(
            tenant,
            impact_of(run, tenant),
            times["stopping"],
            times.get("stopped"),
            times.get("starting"),
            times.get("healthy"),
        )
        for tenant, times in found.items()
    ]


def downtime(run: Run, clock: Clock) -> Figure | None:
    """When each tenant was down, one row each, below what users lost; None when nothing was stopped."""
    found = downs(run, clock)[:_MOST_TENANTS]
    if not found:
        return None
    end = clock.event(run.journal[-1])
    spans = phase_spans(run, clock)
    lost: dict[str, list[Down]] = {}
    for down in found:
        lost.setdefault(down.impact, []).append(down)
    stopped = {"", *(down.tenant for down in found)}
    kept = [tenant.name for tenant in run.plan.tenants if tenant.name not in stopped][:_MOST_TENANTS]
    step, top = 44.0, 28.0

    def draw(width: float) -> tuple[Markup, float]:
        x = Scale(min(0.0, found[0].stopping), max(end, 0.1), RIGHT, width - RIGHT)
        rows = len(lost) + len(found) + len(kept)
        bottom = top + step * rows
        parts = [_bands(spans, x, top, bottom)]
        parts.append(x_axis(x, bottom, "seconds since the run began", count=8 if width > 500 else 5))
        at, room = top, x.end - x.start
        windows = [_window(those) for those in lost.values()]
        told = labels(list(lost), room, says=[f": {_lasted(window)}" for window in windows], kind="t strong")
        for window, label in zip(windows, told, strict=True):
            parts.append(text(x.start + 2, at + 15, label, kind="t strong"))
            stop = end if window[1] is None else window[1]
            parts.append(rectangle(x(window[0]), at + 21, x(stop) - x(window[0]), 14, "lost"))
            parts += [line(x(edge), at + 18, x(edge), at + 38, "edge") for edge in (window[0], stop)]
            at += step
        lasted = [f": {_lasted((down.stopping, down.healthy))}" for down in found]
        told = labels([down.tenant for down in found], room, says=lasted)
        for down, label in zip(found, told, strict=True):
            parts += [text(x.start + 2, at + 15, label), *_bar(down, x, at + 21, end)]
            at += step
        for label in labels(kept, room, says=[": not stopped"] * len(kept)):
            parts += [
                text(x.start + 2, at + 15, label),
                line(x.start, at + 28, x.end, at + 28, "up"),
            ]
            at += step
        return join(parts), bottom + BELOW

    title = "Downtime of tenants, and what people lost"
    description = "; ".join(f"{impact} for {_lasted(_window(downs_of))}" for impact, downs_of in lost.items())
    wide, narrow = drawings("downtime", title, description, draw)
    keys = [
        Key(swatch("lost"), "people lose something"),
        Key(swatch("stopping"), "stopping"),
        Key(swatch("down"), "down"),
        Key(swatch("starting"), "starting"),
        *([Key(swatch("up", "line"), "never stopped by the trial")] if kept else []),
        *_phase_keys(spans),
    ]
    table = Table(
        "Tenants that were stopped",
        ["tenant", "people lose", "stopped at s", "stopping s", "starting s", "down s"],
        [
            [
                down.tenant,
                down.impact if down.impact != down.tenant else "-",
                f"{down.stopping:.1f}",
                _took(down.stopping, down.stopped),
                _took(down.starting, down.healthy),
                _lasted((down.stopping, down.healthy)).removesuffix(" s"),
            ]
            for down in found
        ],
        numbers=range(2, 6),
    )
    return Figure("downtime", title, description, wide, narrow, keys=keys, table=table)


def _window(found: Sequence[Down]) -> tuple[float, float | None]:
    healthy = [down.healthy for down in found]
    back = None if any(at is None for at in healthy) else max(at for at in healthy if at is not None)
    return min(down.stopping for down in found), back


def _lasted(window: tuple[float, float | None]) -> str:
    return "still down" if window[1] is None else f"{window[1] - window[0]:.1f} s"


def _took(start: float | None, end: float | None) -> str:
    return "-" if start is None or end is None or end < start else f"{end - start:.1f}"


def _bar(down: Down, x: Scale, y: float, end: float) -> list[Markup]:
    """A bar with the parts stopping, down and starting."""
    healthy = end if down.healthy is None else down.healthy
    stopped = down.stopping if down.stopped is None else min(down.stopped, healthy)
    starting = healthy if down.starting is None else min(max(down.starting, stopped), healthy)
    edges = ((down.stopping, stopped, "stopping"), (stopped, starting, "down"), (starting, healthy, "starting"))
    found = [
        rectangle(x(left), y, x(right) - x(left), 14, kind, element("title", f"{kind} {right - left:.1f} s"))
        for left, right, kind in edges
        if right > left
    ]
    return [*found, *([text(x(healthy) - 4, y + 11, "...", anchor="end", kind="t on")] if down.healthy is None else [])]
