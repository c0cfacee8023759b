"""Levels that a plan declares, and whether the candidate keeps them: right answers, p95, rate; off by default."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trialbench import stats
from trialbench.measure.sample import Sample
from trialbench.measure.summary import SegmentSummary, service_ms
from trialbench.report.correctness import Correctness
from trialbench.report.plan import Plan
from trialbench.report.summary import Summary
from trialbench.show.text import counted, number
from trialbench.stats import Finding, Quantile
from trialbench.verdict import Level

_WORDS: dict[Finding, str] = {"PASS": "kept", "FAIL": "missed", "INCONCLUSIVE": "not shown"}


def levels(plan: Plan, summary: Summary, samples: Sequence[Sample]) -> tuple[Level, ...]:
    """The declared levels, each with its finding.

    Args:
        plan: declares them.
        summary: of the run.
        samples: the candidate's, of the workload that decides.
    """
    found = []
    if plan.accuracy_not_worse_by is not None:
        found.append(_accuracy(plan.accuracy_not_worse_by, summary.correctness))
    segment = summary.segments.get(plan.decider.candidate)
    if plan.p95_ms is not None:
        p95 = segment.latency_ms.p95 if segment else None
        served = stats.quantile(service_ms(samples), 0.95)
        finding = _at_most(served, plan.p95_ms, plan.request_timeout_ms)
        told = f"{_told(p95)} ms{_why(finding, served, segment)}"
        found.append(_level("p95", finding, f"p95 of at most {plan.p95_ms:g} ms", told))
    if plan.hz is not None:
        p50 = segment.latency_ms.p50 if segment else None
        served = stats.quantile(service_ms(samples), 0.5)
        finding = _at_most(served, 1000 / plan.hz, plan.request_timeout_ms)
        rate = number(segment.effective_hz.from_p50) if segment else "-"
        told = f"{rate} Hz, p50 {_told(p50)} ms{_why(finding, served, segment)}"
        found.append(_level("rate", finding, f"at least {plan.hz:g} Hz", told))
    return tuple(found)


def speed_decides(plan: Plan) -> bool:
    """Whether a level about speed is declared; speed affects no verdict without one."""
    return plan.p95_ms is not None or plan.hz is not None


def _level(name: str, finding: Finding, declared: str, told: str) -> Level:
    return Level(name, finding, f"{declared}: {_WORDS[finding]} ({told})")


def _accuracy(points: float, found: Correctness | None) -> Level:
    declared = f"right at most {points:g} points less often than the baseline"
    if found is None or found.labeled is None:
        return _level("accuracy", "INCONCLUSIVE", declared, "no scene has a right answer")
    difference, pairs = found.labeled.difference, found.labeled.all
    if pairs.scenes < 2:
        return _level("accuracy", "INCONCLUSIVE", declared, "one scene says nothing about others")
    low, high = difference.one_sided_low * 100, difference.one_sided_high * 100
    finding: Finding = "PASS" if low >= -points else "FAIL" if high < -points else "INCONCLUSIVE"
    told = (
        f"{pairs.candidate} against {pairs.baseline} of {pairs.scenes},"
        f" one-sided 95 % bounds {low:+z.1f} to {high:+z.1f}"
    )
    return _level("accuracy", finding, declared, told)


def _at_most(found: Quantile, limit: float, timeout_ms: float | None) -> Finding:
    # Of a request without a whole reply it is only known that it took as long as it may.
    if found.low is not None and min(found.low, math.inf if timeout_ms is None else timeout_ms) > limit:
        return "FAIL"
    return "PASS" if found.high is not None and found.high <= limit else "INCONCLUSIVE"


def _why(finding: Finding, served: Quantile, segment: SegmentSummary | None) -> str:
    """What the latencies of the replies do not tell: requests without one, and that there are too few of them."""
    told = ""
    if segment and segment.unanswered:
        counts = "counts" if segment.unanswered == 1 else "count"
        told = f" without {counted(segment.unanswered, 'request')} that had no whole reply and {counts} as slower"
    least = stats.least_n(served.q)
    if finding != "INCONCLUSIVE" or served.n >= least:
        return told
    return f"{told}; {counted(served.n, 'sample')} cannot show that it is kept, {least} can"


def _told(found: Quantile | None) -> str:
    return "-" if found is None else found.text(number)
