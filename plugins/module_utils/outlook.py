# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a trial would do to the host, before it does it: what stops, in which order, and for how long.

The times are expectations put together from the plan's own figures (the tenants' and the candidate's usual start, the
usual reply, the drain's minimum); the cap is the promise.
"""

from __future__ import annotations

from .plan import Plan

# Usual cost of stopping a tenant and of starting a container, each; small beside what the plan gives.
STOP_S, CONTAINER_S = 1.0, 1.0


def _spans(plan: Plan) -> dict[str, tuple[float, float]]:
    """When every stopped tenant goes and is back, in seconds after the first stop."""
    work, limits = plan.workloads, plan.limits
    replies = work.nav_extended + work.describe_n + work.warmup
    a1_s = replies * work.expected_reply_s + CONTAINER_S
    b_s = (replies + work.nav_cached + 2) * work.expected_reply_s + CONTAINER_S
    times: list[tuple[str, float]] = []
    for name in plan.stop_order:
        if name == plan.baseline.tenant:
            times.append(("", a1_s))
        times.append((f"-{name}", STOP_S))
    if plan.baseline.tenant not in plan.stop_order:
        times.append(("", a1_s))
    times.append(("", plan.candidate.expected_start_s + b_s + limits.drain_min_s))
    for name in plan.restore_order:
        times.append(("", plan.tenant(name).expected_start_s))
        times.append((f"+{name}", 0.0))
        if name == plan.baseline.tenant:
            times.append(("", min(limits.a2_s, replies * work.expected_reply_s) + CONTAINER_S))
    clock, went, spans = 0.0, {}, {}
    for mark, duration in times:
        if mark.startswith("-"):
            went[mark[1:]] = clock
        if mark.startswith("+"):
            spans[mark[1:]] = (went[mark[1:]], clock)
        clock += duration
    return spans


def down_s(plan: Plan) -> dict[str, float]:
    """Expected down time of every tenant that stops, in seconds."""
    spans = _spans(plan)
    return {name: round(spans[name][1] - spans[name][0], 1) for name in plan.stop_order}


def impacts_s(plan: Plan) -> dict[str, float]:
    """Expected time without what people lose: from the first stop of one of its tenants until the last is back."""
    spans = _spans(plan)
    return {
        impact: round(max(spans[n][1] for n in names) - min(spans[n][0] for n in names), 1)
        for impact, names in plan.impacts.items()
    }


def lines(plan: Plan) -> list[str]:
    """The outlook as lines for people."""
    down = down_s(plan)
    found = [f"plan of {plan.run} on {plan.host}: try {plan.candidate.label} on port {plan.candidate.port}"]
    for step, name in enumerate(plan.stop_order, 1):
        tenant = plan.tenant(name)
        found.append(f"{step}. stop {name} ({tenant.title}), expected down {down[name]:.0f} s")
    found.append(f"then restore in the order: {', '.join(plan.restore_order)}")
    for impact, expected in impacts_s(plan).items():
        found.append(f"expected {impact} time {expected:.0f} s, at most {plan.limits.cap_s:.0f} s")
    untouched = [t.name for t in plan.tenants if t.name not in plan.stop_order]
    found.append(f"untouched: {', '.join(untouched) or 'nothing'}")
    return found
