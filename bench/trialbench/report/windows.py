"""Downtime from the journal: per tenant, per impact on users, and the trial's own overhead.

A *window* is the time during which users lose something (mute, blind): from the stop of the first tenant with that
impact until the last one is healthy. Its *overhead* is what remains after subtracting the drain minimum, the starts of
candidate and tenants, and measuring (first request to last reply of each samples file). All times are
seconds on CLOCK_MONOTONIC of the host, which journal and samples share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trialbench.report.run import Run

Interval = tuple[float, float]


@dataclass(frozen=True)
class Window:
    """One window and its parts, in seconds; `overhead_s` is what the parts leave."""

    tenants: list[str]
    total_s: float
    drain_min_s: float
    tenant_starts_s: float
    candidate_start_s: float
    measuring_s: float
    overhead_s: float


@dataclass(frozen=True)
class StillDown:
    """What users still lose.

    Attributes:
        since: wall clock of the first stop of the window that is still open.
        tenants: those that are not healthy again.
    """

    impact: str
    since: str
    tenants: list[str]


def down_intervals(run: Run) -> dict[str, Interval]:
    """Tenant to (stop began, healthy again), without tenants that never recovered."""
    found: dict[str, Interval] = {}
    back = {event.tenant: event.t_s for event in run.events("tenant_healthy")}
    for event in run.events("tenant_stopping"):
        name = event.tenant
        if name in back and name not in found and back[name] > event.t_s:
            found[name] = (event.t_s, back[name])
    return found


def windows(run: Run) -> dict[str, Window]:
    """Window by impact (`mute`, `blind`, ...)."""
    down = down_intervals(run)
    lasting = {entry.impact for entry in still_down(run)}
    impacts: dict[str, list[str]] = {}
    for name in down:
        impacts.setdefault(impact_of(run, name), []).append(name)
    return {
        impact: _window(run, names, _union_span(down[name] for name in names))
        for impact, names in impacts.items()
        if impact not in lasting
    }


def still_down(run: Run) -> list[StillDown]:
    """What users still lose according to the journal of an open run; empty for a closed run.

    Journal order counts, which a reboot does not change.
    """
    if run.events("closed"):
        return []
    since: dict[str, str] = {}
    down: dict[str, list[str]] = {}
    for event in run.journal:
        name, tenant = event.event, event.tenant
        if name not in ("tenant_stopping", "tenant_healthy") or not tenant:
            continue
        impact = impact_of(run, tenant)
        tenants = down.setdefault(impact, [])
        if name == "tenant_stopping":
            if not tenants:
                since[impact] = event.wall
            if tenant not in tenants:
                tenants.append(tenant)
        elif tenant in tenants:
            tenants.remove(tenant)
    return [StillDown(impact, since[impact], tenants) for impact, tenants in down.items() if tenants]


def still_down_text(entry: StillDown) -> str:
    """One line for people, such as `mute since 22:41:07Z (chatterbox still down)`."""
    return f"{entry.impact} since {clock(entry.since)} ({', '.join(entry.tenants)} still down)"


def clock(wall: str) -> str:
    """Time of day of an ISO 8601 time in UTC, to the second; any other text is returned unchanged."""
    return f"{wall[11:19]}Z" if len(wall) >= 20 and wall.endswith("Z") else wall


def impact_of(run: Run, tenant: str) -> str:
    """What users lose without `tenant`, by plan or journal; without an impact, the tenant's own name."""
    planned = run.plan.tenant(tenant)
    if planned and planned.impact:
        return planned.impact
    for event in run.events("tenant_stopping"):
        if event.tenant == tenant and event.impact:
            return event.impact
    return tenant


def _window(run: Run, tenants: list[str], span: Interval) -> Window:
    starts, candidate = (
        [_clip((event.t_s - (event.duration_s or 0.0), event.t_s), span) for event in run.events(name)]
        for name in ("tenant_healthy", "candidate_healthy")
    )
    total = span[1] - span[0]
    parts = {
        "drain_min_s": _drain_minimum(run, span),
        "tenant_starts_s": sum(starts),
        "candidate_start_s": sum(candidate),
        "measuring_s": _measuring(run, span),
    }
    rounded = {name: round(value, 3) for name, value in parts.items()}
    return Window(tenants=tenants, total_s=round(total, 3), overhead_s=round(total - sum(parts.values()), 3), **rounded)


def _union_span(intervals: Iterable[Interval]) -> Interval:
    starts, ends = zip(*intervals, strict=True)
    return min(starts), max(ends)


def _clip(interval: Interval, span: Interval) -> float:
    """Seconds of `interval` within `span`."""
    return max(0.0, min(interval[1], span[1]) - max(interval[0], span[0]))


def _drain_minimum(run: Run, span: Interval) -> float:
    """The minimum drain time of a restore within the window; other drains have no minimum."""
    minimum = run.plan.drain_min_s
    restores = [event.t_s for event in run.events("restore_started")]
    drains = [
        event.t_s
        for event in run.journal
        # If the card cannot be read, the drain only waits and says so.
        if event.event in ("drain_started", "drain_timeout")
        and restores
        and event.t_s >= restores[0]
        and span[0] <= event.t_s <= span[1]
    ]
    return min(minimum, span[1] - drains[0]) if drains else 0.0


def _measuring(run: Run, span: Interval) -> float:
    """First request to last reply of each samples file within the window; overlaps count once."""
    spans = []
    lists = [
        lines
        for one in (*run.segments.values(), *run.warmed_up.values())
        for lines in ((*one.samples, *one.void), (*one.warmups, *one.void_warmups))
    ]
    for samples in lists:
        if samples:
            first, last = min(sample.t_start_s for sample in samples), max(sample.t_end_s for sample in samples)
            spans.append((max(first, span[0]), min(last, span[1])))
    total, reached = 0.0, span[0]
    for first, last in sorted(spans):
        if last > reached:
            total += last - max(first, reached)
            reached = last
    return total
