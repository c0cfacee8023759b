"""The evidence for a verdict: three questions, and what is known about each, even if that is nothing.

Still the same model (ground truth)? Does it survive (the proofs of engines)? Good enough here (the trial)? How fast it
is here is reported, but decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trialbench.report.comparison import finding_told
from trialbench.report.levels import speed_decides
from trialbench.report.proofs import NAMES, Proof
from trialbench.report.run import Attestation, Run
from trialbench.report.summary import Summary
from trialbench.show.text import ratio_text
from trialbench.verdict import Facts, GroundTruth, Rules, Verdict, decide

Question = Literal["trial", "ground_truth", "engines"]
Finding = Literal["passed", "failed", "open", "none"]
QUESTIONS: dict[Question, tuple[str, str]] = {
    "trial": ("trial", "Good enough here?"),
    "ground_truth": ("ground truth", "Still the same model?"),
    "engines": ("engines", "Does it survive?"),
}
_FINDINGS: dict[Verdict, Finding] = {
    "ADOPT": "passed",
    "REJECT": "failed",
    "INCONCLUSIVE": "open",
    "PENDING_REVIEW": "open",
}
_MOST_LINES = 60


@dataclass(frozen=True)
class Evidence:
    """The evidence for one question.

    Attributes:
        finding: `open` if it could not be decided, `none` if nothing was tried.
        lines: the evidence, a sentence each; never empty.
    """

    question: Question
    finding: Finding
    lines: list[str]


def evidence(run: Run, summary: Summary, facts: Facts, rules: Rules) -> list[Evidence]:
    """The evidence, in the order of `QUESTIONS`.

    Args:
        run: as read.
        summary: of that run.
        facts, rules: the inputs of the verdict.
    """
    return [
        _trial(run, summary, facts, rules),
        _ground_truth(run.attestation, facts.ground_truth),
        _engines(run.proofs),
    ]


def attested(attestation: Attestation | None, *, required: bool = False) -> GroundTruth:
    """What an attestation means for the verdict: a failed file always counts, other findings only if required.

    Args:
        attestation: of the run, None where it has none.
        required: whether it was required after the run was planned.
    """
    finding = "none" if attestation is None else _finding(attestation)
    if finding == "failed":
        return "failed"
    if not required and not (attestation is not None and attestation.required):
        return "not_required"
    return "passed" if finding == "passed" else "missing"


def _trial(run: Run, summary: Summary, facts: Facts, rules: Rules) -> Evidence:
    if run.rehearsal:
        return Evidence("trial", "none", ["none: a rehearsal measures nothing"])
    if summary.outcome == "untouched" and not facts.n:
        return Evidence("trial", "none", ["none: it ended before anything was measured"])
    # Decided by the same rules, without the ground-truth requirement.
    decision = decide(replace(facts, ground_truth="not_required"), rules)
    finding = _FINDINGS[decision.verdict]
    lines = list(decision.reasons)
    peak = summary.vram.peak_footprint_gb
    if peak is not None:
        lines.append(f"memory of the candidate {peak:.2f} GB, healthy {rules.low_gb:g}-{rules.high_gb:g} GB")
    if summary.correctness is not None:
        lines.append(summary.correctness.text)
    weight = "decides by the declared levels alone" if speed_decides(run.plan) else "decides nothing"
    for row in summary.comparisons:
        if row.metric == "latency_ms" and row.ratio:
            times, _, interval = ratio_text(row.ratio, row.low, row.high).partition(" ")
            lines.append(f"latency {times} times the baseline's {interval}, which {weight}: {finding_told(row)}")
    return Evidence("trial", finding, lines[:_MOST_LINES])


def _ground_truth(attestation: Attestation | None, said: GroundTruth) -> Evidence:
    if attestation is not None and attestation.files:
        return Evidence("ground_truth", _finding(attestation), [file.says for file in attestation.files][:_MOST_LINES])
    if said in ("passed", "failed"):
        told = f"{said}, as set by `trialbench verdict --ground-truth {said}`; its rows are not in this run"
        return Evidence("ground_truth", said, [told])
    required = "it is required, and there" if said == "missing" else "not required, and there"
    return Evidence("ground_truth", "none", [f"none: {required} is no verdict of `trialbench check` for these files"])


def _finding(attestation: Attestation) -> Finding:
    found = {file.status for file in attestation.files}
    if "failed" in found:
        return "failed"
    if "open" in found:
        return "open"
    if found == {"passed"}:
        return "passed"
    # An unknown file leaves the question open, unless all files are unknown.
    return "open" if "passed" in found else "none"


def _engines(proofs: Sequence[Proof]) -> Evidence:
    if not proofs:
        return Evidence("engines", "none", ["none: this run has no proofs (`trialbench proof` makes them)"])
    lines = [proof.line for proof in proofs]
    engines = list(dict.fromkeys(proof.engine for proof in proofs))
    for engine in engines:
        there = {proof.name for proof in proofs if proof.engine == engine}
        missing = [title for name, title in NAMES.items() if name not in there]
        if missing:
            lines.append(f"Not tried: {', '.join(missing)} ({engine})")
    complete = len(lines) == len(proofs)
    failed = any(not proof.ok for proof in proofs)
    return Evidence("engines", "failed" if failed else "passed" if complete else "open", lines[:_MOST_LINES])
