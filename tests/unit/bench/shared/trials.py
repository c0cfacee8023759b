"""A run as the user's documents take it, measured by nobody, and how its edits are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trialbench.measure.summary import Latency, Questions, Rate, SegmentFacts, SegmentSummary, summarize
from trialbench.report.documents.markdown import Edit, Page
from trialbench.report.documents.trial import Trial
from trialbench.report.plan import Workload
from trialbench.report.run import Run
from trialbench.report.summary import Summary, summarize_run
from trialbench.report.windows import Window
from trialbench.stats import Quantile

LABEL = "gemma-4-E4B-it-Q4_K_M"
Edits = Callable[[Page, Trial], list[Edit]]

# Nothing was measured.
BARE = summarize_run(Run(Path("run")))


def quantile(value: float | None, kind: str = "interval") -> Quantile:
    return Quantile(0.5, value, 13.3, 14.1, kind, 100)


def segment(p50: float = 13.8, *, adherent: tuple[int, int] = (99, 100)) -> SegmentSummary:
    none = summarize([], [], SegmentFacts("nav", 0, True, False))
    assert none.adherence is not None
    return replace(
        none,
        ok=100,
        sent=100,
        latency_ms=Latency(None, None, quantile(p50), quantile(None, "at_least"), quantile(46.4, "max"), None),
        tokens_per_s=218.0,
        effective_hz=Rate(72.6, None),
        questions=Questions(asked=1, repeats=100, distinct_replies=2, repeatability=0.98),
        adherence=replace(none.adherence, k=adherent[0], n=adherent[1]),
    )


def window(total_s: float) -> Window:
    return Window(["x"], total_s, 0.0, 0.0, 0.0, 0.0, total_s)


MEASURED = replace(
    BARE,
    outcome="completed",
    baseline_label="gemma-4-E2B-it",
    segments={
        "nav-candidate": segment(),
        "nav-candidate-cached": segment(9.25),
        "nav-baseline-a1": segment(7.5),
        "nav-baseline-a2": segment(7.6),
    },
    vram=replace(BARE.vram, peak_footprint_gb=6.152, drained_mib=4320),
    windows={"mute": window(13.5), "blind": window(10.1)},
)


def a_trial(summary: Summary = MEASURED, **changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "id": f"20261121T005200Z-{LABEL}",
        "label": LABEL,
        "host": "panda",
        "begun": "2026-11-21 00:52",
        "verdict": "PENDING REVIEW",
        "reasons": ["nobody has judged yet", "adherence 99/100"],
        "answer": "",
        "port": 11437,
        "work": Workload("nav"),
    }
    return Trial(**(fields | changes), summary=summary)


RUN = a_trial()


def edited(make: Edits, text: str, run: Trial = RUN) -> str:
    """The text after the edits; that a second run changes nothing is asserted each time."""
    page = Page("DOC.md", text)
    after = page.edited(make(page, run))
    again = Page("DOC.md", after)
    assert again.edited(make(again, run)) == after
    return after
