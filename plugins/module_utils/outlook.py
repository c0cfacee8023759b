# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a trial would do to the host: what stops, in which order, and for how long.

The times are estimates from the plan's own figures (the usual start of the tenants and the candidate, the usual reply,
the minimum drain); only the cap is a promise. A rehearsal replaces the figures of the tenants and the drain with
measured ones, and the estimates are computed again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .plan import Plan, Workload

# Usual time to stop a tenant, and to start a container; small compared with the plan's figures.
STOP_S, CONTAINER_S = 1.0, 1.0
# A start that differs from the inventory's figure by more than this gets a hint: the estimate would mislead.
FAR_OFF_S, FAR_OFF_SHARE = 2.0, 0.5
# A start or drain that takes a larger share of its limit than this leaves too little margin.
NARROW_SHARE = 0.5


@dataclass(frozen=True)
class Measured:
    """Times that a rehearsal measured, in seconds; what it did not measure is absent.

    ``down_s`` is the whole down time of a tenant in the rehearsal, from the stop request until it is healthy again.
    """

    stop_s: dict[str, float] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    drain_s: dict[str, float] = field(default_factory=dict)
    down_s: dict[str, float] = field(default_factory=dict)


def measured(entries: Sequence[dict[str, Any]]) -> Measured | None:
    """Read the measured times from a rehearsal's journal; None while its host is not restored."""
    restored = [e for e in entries if e.get("event") == "restored"]
    if not restored:
        return None
    times = restored[-1].get("times") or {}
    down = restored[-1].get("down") or {}
    return Measured(
        **{name: dict(times.get(name) or {}) for name in ("stop_s", "start_s", "drain_s")}, down_s=dict(down)
    )


def _spans(plan: Plan, found: Measured) -> dict[str, tuple[float, float]]:
    """When each stopped tenant goes down and is back up, in seconds after the first stop."""
    work, limits = plan.decider, plan.limits
    a1_s = plan.replies_s + CONTAINER_S
    b_s = plan.candidate_replies_s + CONTAINER_S
    # What is shown is not asked again.
    a2_s = min(limits.a2_s, (work.warmup + work.n) * work.expected_reply_s) + CONTAINER_S
    candidate_s = plan.candidate.expected_start_s + b_s
    if plan.rehearsal:
        a1_s = a2_s = candidate_s = 0.0
    times: list[tuple[str, float]] = []
    for name in plan.stop_order:
        if name == plan.baseline.tenant:
            times.append(("", a1_s))
        times.append((f"-{name}", found.stop_s.get(name, STOP_S)))
    if plan.baseline.tenant not in plan.stop_order:
        times.append(("", a1_s))
    times.append(("", found.drain_s.get("window", 0.0)))
    # Nothing drains on a host without a card.
    drain_s = max(limits.drain_min_s, found.drain_s.get("restore", 0.0)) if plan.gpu else 0.0
    times.append(("", candidate_s + drain_s))
    for name in plan.restore_order:
        times.append(("", found.start_s.get(name, plan.tenant(name).expected_start_s)))
        times.append((f"+{name}", 0.0))
        if name == plan.baseline.tenant:
            times.append(("", a2_s))
    clock, went, spans = 0.0, {}, {}
    for mark, duration in times:
        if mark.startswith("-"):
            went[mark[1:]] = clock
        if mark.startswith("+"):
            spans[mark[1:]] = (went[mark[1:]], clock)
        clock += duration
    return spans


def down_s(plan: Plan, found: Measured | None = None) -> dict[str, float]:
    """Expected down time of every tenant that stops, in seconds; measured figures replace the plan's."""
    spans = _spans(plan, found or Measured())
    return {name: round(spans[name][1] - spans[name][0], 1) for name in plan.stop_order}


def impacts_s(plan: Plan, found: Measured | None = None) -> dict[str, float]:
    """Expected time of each impact on people, in seconds: from its first stop until its last tenant is back."""
    spans = _spans(plan, found or Measured())
    return {
        impact: round(max(spans[n][1] for n in names) - min(spans[n][0] for n in names), 1)
        for impact, names in plan.impacts.items()
    }


def lines(plan: Plan) -> list[str]:
    """The outlook as lines of text; a rehearsal's outlook also has the times of a trial."""
    down = down_s(plan)
    what = f"try {plan.candidate.label} on port {plan.candidate.port}"
    if plan.rehearsal:
        what = f"rehearse the trial of {plan.candidate.label}: stop, drain, restore, without a candidate"
    found = [f"plan of {plan.run} on {plan.host}: {what}"]
    trial = down_s(_trial(plan))
    beside = {name: f" (in a trial {trial[name]:.0f} s)" if plan.rehearsal else "" for name in plan.stop_order}
    for step, name in enumerate(plan.stop_order, 1):
        tenant = plan.tenant(name)
        found.append(f"{step}. stop {name} ({tenant.title}), expected down {down[name]:.0f} s{beside[name]}")
    found.append(f"then restore in the order: {', '.join(plan.restore_order)}")
    settle = f", including {plan.settle_s:g} s to check that every tenant stays up" if plan.settle_s else ""
    found.append(f"a restore takes at most {plan.restore_bound_s:.0f} s{settle}")
    for impact, expected in impacts_s(plan).items():
        found.append(f"expected {impact} time {expected:.0f} s, at most {plan.limits.cap_s:.0f} s")
    found += [] if plan.rehearsal else [_shown(plan, work) for work in plan.shown]
    untouched = [t.name for t in plan.tenants if t.name not in plan.stop_order]
    found.append(f"untouched: {', '.join(untouched) or 'nothing'}")
    return found


def _shown(plan: Plan, work: Workload) -> str:
    """What the replies that a person is to compare add to each impact."""
    without = dataclasses.replace(work, n=0, warmup=0)
    others = [without if one is work else one for one in plan.workloads]
    less = impacts_s(dataclasses.replace(plan, workloads=others))
    added = [f"{seconds - less[impact]:.1f} s {impact}" for impact, seconds in impacts_s(plan).items()]
    each = "each about another picture, " if plan.scenes else ""
    told = f"{work.n} replies of each model, {each}for a person to compare"
    return f"of that {work.name}: {', '.join(added) or 'nothing'} ({told})"


def _trial(plan: Plan) -> Plan:
    return dataclasses.replace(plan, rehearsal=False)


def report(plan: Plan, found: Measured, again: Sequence[str] = ()) -> list[str]:
    """What a rehearsal measured, and what that means for a trial, as lines of text; ``again`` as in `hints`."""
    trial = _trial(plan)
    expected, impacts = down_s(trial, found), impacts_s(trial, found)
    rows: list[tuple[str, ...]] = [("tenant", "stop s", "start s", "down s, here", "down s, expected in a trial")]
    for name in plan.stop_order:
        figures = (found.stop_s.get(name), found.start_s.get(name), found.down_s.get(name), expected[name])
        rows.append((name, *("-" if value is None else f"{value:.1f}" for value in figures)))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    table = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        table.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    drains = ", ".join(f"{value:.1f} s in the {name}" for name, value in found.drain_s.items() if value is not None)
    ends = [
        f"a trial: {impact} for about {value:.0f} s, at most {plan.limits.cap_s:.0f} s"
        for impact, value in impacts.items()
    ]
    return [*table, f"drain: {drains or 'not measured'}", *ends, *hints(plan, found, again)]


def hints(plan: Plan, found: Measured, again: Sequence[str] = ()) -> list[str]:
    """What to correct in the inventory after a rehearsal: figures that it contradicts, and what to write instead.

    Args:
        plan: the rehearsal's.
        found: what it measured.
        again: what needed a second try, in words.
    """
    said = [
        f"hint: not at the first try: {words}; see whether trial_restore_order starts what it needs before it"
        for words in again
    ]
    for name in plan.restore_order:
        tenant, took = plan.tenant(name), found.start_s.get(name)
        if took is None:
            continue
        off = abs(took - tenant.expected_start_s)
        if off > FAR_OFF_S and off > FAR_OFF_SHARE * tenant.expected_start_s:
            said.append(
                f"hint: {name} took {took:.1f} s to start, the inventory expects {tenant.expected_start_s:g} s; "
                f"set its expected_start_s to {math.ceil(took)}"
            )
        if took > NARROW_SHARE * tenant.start_timeout_s:
            said.append(
                f"hint: {name} took {took:.1f} s of the {tenant.start_timeout_s:g} s it may take to start; "
                f"raise its start_timeout_s (and limits.cap_s with it)"
            )
    limit = plan.limits.drain_limit_s
    for where, took in found.drain_s.items():
        if took is not None and took > NARROW_SHARE * limit:
            said.append(f"hint: VRAM took {took:.1f} s to drain in the {where}; raise limits.drain_limit_s ({limit:g})")
    longest = max(impacts_s(_trial(plan), found).values(), default=0.0)
    if longest > plan.run_max_s:
        said.append(
            f"hint: a trial would take about {longest:.0f} s, but its window ends after {plan.run_max_s:.0f} s; "
            "raise limits.cap_s or measure less (trial_workloads)"
        )
    return said
