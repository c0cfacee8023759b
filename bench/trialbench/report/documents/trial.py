"""The facts of a run that the documents use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trialbench.errors import UsageError
from trialbench.report.decide import answer_of
from trialbench.report.plan import Workload
from trialbench.report.run import Run, read_run
from trialbench.report.summary import Summary, summarize_run


@dataclass(frozen=True)
class Trial:
    """A trial, for the documents.

    Its texts are untrusted and unescaped; `answer` has the facts in a sentence.
    `begun` is `2026-01-02 03:04` in UTC, `work` the workload that decides.
    """

    id: str
    label: str
    host: str
    begun: str
    verdict: str
    reasons: Sequence[str]
    answer: str
    port: int | None
    work: Workload
    summary: Summary

    @property
    def date(self) -> str:
        """The UTC date on which it began."""
        return self.begun[:10]

    @property
    def outcome(self) -> str:
        """How it ended (`trialbench schema summary`)."""
        return self.summary.outcome

    @property
    def footprint_gb(self) -> float | None:
        """The candidate's peak above the drained level."""
        return self.summary.vram.peak_footprint_gb


def read_trial(path: Path) -> Trial:
    """The facts to document about the run in the result folder `path`.

    Raises:
        UsageError: no run, a rehearsal, or no verdict.
    """
    run = read_run(path)
    if run.rehearsal:
        raise UsageError(f"{path}: is a rehearsal: no candidate was tried, so there is nothing to document")
    if not run.plan.document:
        raise UsageError(f"{path}: expected a plan.json that names the candidate, found none that can be used")
    if run.verdict is None:
        raise UsageError(f"{path}: expected a verdict.json, found none that can be used (do: trialbench verdict DIR)")
    summary = summarize_run(run)
    return Trial(
        id=run.id,
        label=summary.model_label or "unnamed candidate",
        host=summary.host or "unnamed host",
        begun=_begun(run),
        verdict=run.verdict.verdict.replace("_", " "),
        reasons=run.verdict.reasons,
        answer=answer_of(run, summary),
        port=run.plan.candidate_port,
        work=run.plan.decider,
        summary=summary,
    )


def _begun(run: Run) -> str:
    """The wall clock of the first event that has one."""
    for event in run.journal:
        try:
            wall = datetime.fromisoformat(event.wall)
        except ValueError:
            continue
        return wall.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    raise UsageError(f"{run.path}: expected a journal that says when the run began, found none")
