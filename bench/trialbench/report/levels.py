"""Levels that a plan declares, and whether the candidate keeps them: right answers, p95, rate; off by default."""

from __future__ import annotations

from trialbench.report.correctness import Correctness
from trialbench.report.plan import Plan
from trialbench.report.summary import Summary
from trialbench.show.text import number
from trialbench.stats import Finding, Quantile
from trialbench.verdict import Level

_WORDS: dict[Finding, str] = {"PASS": "kept", "FAIL": "missed", "INCONCLUSIVE": "not shown"}


def levels(plan: Plan, summary: Summary) -> tuple[Level, ...]:
    """The declared levels, each with its finding."""
    found = []
    if plan.accuracy_not_worse_by is not None:
        found.append(_accuracy(plan.accuracy_not_worse_by, summary.correctness))
    segment = summary.segments.get(plan.decider.candidate)
    if plan.p95_ms is not None:
        p95 = segment.latency_ms.p95 if segment else None
        finding = _at_most(p95, plan.p95_ms)
        found.append(_level("p95", finding, f"p95 of at most {plan.p95_ms:g} ms", f"{_told(p95)} ms"))
    if plan.hz is not None:
        p50 = segment.latency_ms.p50 if segment else None
        finding = _at_most(p50, 1000 / plan.hz)
        rate = number(segment.effective_hz.from_p50) if segment else "-"
        found.append(_level("rate", finding, f"at least {plan.hz:g} Hz", f"{rate} Hz, p50 {_told(p50)} ms"))
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
    low, high = difference.one_sided_low * 100, difference.one_sided_high * 100
    finding: Finding = "PASS" if low >= -points else "FAIL" if high < -points else "INCONCLUSIVE"
    told = (
        f"{pairs.candidate} against {pairs.baseline} of {pairs.scenes},"
        f" one-sided 95 % bounds {low:+z.1f} to {high:+z.1f}"
    )
    return _level("accuracy", finding, declared, told)


def _at_most(found: Quantile | None, limit: float) -> Finding:
    if found is None:
        return "INCONCLUSIVE"
    if found.low is not None and found.low > limit:
        return "FAIL"
    return "PASS" if found.high is not None and found.high <= limit else "INCONCLUSIVE"


def _told(found: Quantile | None) -> str:
    return "-" if found is None else found.text(number)
