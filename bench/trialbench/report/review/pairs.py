"""The pairs of a blind review: both models' replies to one question, one pair a question.

A question that was asked several times is still one, so each side has the reply it gave most often. The pairs of what
is shown come first, then those of the workload that decides, where the models answer differently.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trialbench.measure.sample import Sample
from trialbench.measure.summary import by_question
from trialbench.report.correctness import compared, same_answer
from trialbench.report.plan import Workload
from trialbench.report.run import Run

NO_REPLY = "(no usable reply)"


@dataclass(frozen=True)
class Pair:
    """Two replies to one question; `scene` is None where the workload has only one question."""

    workload: str
    scene: str | None
    baseline: str
    candidate: str

    @property
    def identical(self) -> bool:
        """Whether both are the same text: nobody need be asked which is better."""
        return self.baseline == self.candidate

    @property
    def sha256(self) -> str:
        """Tells the pair from one of the same question with other replies."""
        text = json.dumps([self.workload, self.scene, self.baseline, self.candidate])
        return hashlib.sha256(text.encode()).hexdigest()


def pairs(run: Run, *, every: bool = False) -> list[Pair]:
    """All pairs of a run, identical ones included; none where nothing was tried.

    Args:
        every: all replies of the baseline count, in the way in which keys were drawn at first.
    """
    if run.rehearsal:
        return []
    found: list[Pair] = []
    for work in run.plan.shown:
        found += _pairs(work, by_question(run.samples(work.baseline)), by_question(run.samples(work.candidate)))
    work = run.plan.decider
    baseline, candidate = compared(run.samples, work, every=every)
    apart = {scene: replies for scene, replies in baseline.items() if not same_answer(replies, candidate[scene])}
    return found + [one for one in _pairs(work, apart, candidate) if not one.identical]


def _pairs(
    work: Workload, baseline: Mapping[Any, Sequence[Sample]], candidate: Mapping[Any, Sequence[Sample]]
) -> list[Pair]:
    both = [(scene, _reply(baseline[scene]), _reply(candidate[scene])) for scene in baseline if scene in candidate]
    return [Pair(work.name, scene, left or NO_REPLY, right or NO_REPLY) for scene, left, right in both if left or right]


def _reply(samples: Sequence[Sample]) -> str | None:
    """The reply given most often, the first of them where several are; None without a good one."""
    found = Counter(sample.content.strip() for sample in samples if sample.ok and sample.content)
    return found.most_common(1)[0][0] if found else None
