"""Is it right, and is it right more often than the baseline? By scene, which is the unit of evidence.

A scene that was asked several times counts once: its answer is the one given most often, and it is right if more than
half of its replies are. Of both models as many replies count, the first ones: of two replies both have to be right, so
a model that was asked more often would differ from itself where its replies vary. With right answers in the labels,
both models are compared in pairs; without them the result still says how often they agree, and where they do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trialbench import stats
from trialbench.measure.sample import Sample
from trialbench.measure.summary import by_question
from trialbench.report.plan import Workload
from trialbench.show.text import counted

Finding = Literal["better", "worse", "not_shown"]
WORDS: dict[Finding, str] = {"better": "right more often", "worse": "right less often", "not_shown": "not shown"}


@dataclass(frozen=True)
class Disagreement:
    """A scene that the models answer differently, or one alone right; None for an answer that keeps no contract.

    `expected` and whether they are right are None where the right answer is not known.
    """

    scene: str
    baseline: Sequence[str] | None
    candidate: Sequence[str] | None
    expected: Sequence[str] | None
    baseline_right: bool | None
    candidate_right: bool | None


@dataclass(frozen=True)
class Pairs:
    """Scenes with a right answer, as both models answered them.

    Attributes:
        scenes: how many.
        candidate, baseline: right ones of each.
        wins, losses: scenes in which only the candidate, or only the baseline, is right.
        p: exact two-sided p of wins against losses (McNemar).
    """

    scenes: int
    candidate: int
    baseline: int
    wins: int
    losses: int
    p: float


@dataclass(frozen=True)
class Labeled:
    """What the right answers say.

    Attributes:
        all: every scene with a right answer.
        groups: the same by group.
        difference: candidate minus baseline, as a share of the scenes.
        finding: by the exact test at 5 %.
        won, lost: ids of the scenes that only the candidate, or only the baseline, gets right.
    """

    all: Pairs
    groups: dict[str, Pairs]
    difference: stats.Difference
    finding: Finding
    won: Sequence[str]
    lost: Sequence[str]


@dataclass(frozen=True)
class Correctness:
    """Answers of both models to the same scenes; `text` is all of it in a sentence.

    Attributes:
        scenes: that both were asked.
        agree: in which both give the same answer.
        labeled: None without right answers.
    """

    scenes: int
    agree: int
    disagreements: Sequence[Disagreement]
    labeled: Labeled | None
    text: str


def correctness(samples: Callable[[str], Sequence[Sample]], work: Workload) -> Correctness | None:
    """The part `correctness` of a trial's summary; None for a trial of one question.

    Args:
        samples: gives those of a segment.
        work: the workload that decides.
    """
    baseline, candidate = compared(samples, work)
    both = list(candidate)
    if not both:
        return None
    answers = {scene: (answer_of(baseline[scene]), answer_of(candidate[scene])) for scene in both}
    rights = {scene: (_right(baseline[scene]), _right(candidate[scene])) for scene in both}
    # Where replies vary, an answer can be the usual one of both and right often enough of one alone.
    agree = [
        scene
        for scene in both
        if same_answer(baseline[scene], candidate[scene]) and (None in rights[scene] or len({*rights[scene]}) == 1)
    ]
    disagreements = [
        Disagreement(scene, *answers[scene], candidate[scene][0].expected, *rights[scene])
        for scene in both
        if scene not in agree
    ]
    known = [scene for scene in both if None not in rights[scene]]
    labeled = _labeled(known, rights, {scene: candidate[scene][0].group for scene in known}) if known else None
    return Correctness(len(both), len(agree), disagreements, labeled, _text(len(both), len(agree), labeled))


def compared(
    samples: Callable[[str], Sequence[Sample]], work: Workload, *, every: bool = False
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """The replies that count, of the baseline and of the candidate, by scene: those that both were asked.

    The baseline's are those of A1, and of A2 as far as A1 lacks some; with `every` all of both, however many the
    candidate has.
    """
    theirs, ours = by_question([*samples(work.a1), *samples(work.a2)]), by_question(samples(work.candidate))
    baseline, candidate = {}, {}
    for scene, replies in ours.items():
        if scene is not None and scene in theirs:
            most = None if every else min(len(replies), len(theirs[scene]))
            baseline[scene], candidate[scene] = theirs[scene][:most], replies[:most]
    return baseline, candidate


def same_answer(baseline: Sequence[Sample], candidate: Sequence[Sample]) -> bool:
    """Whether both models answer a scene alike; replies that keep no contract are no answer."""
    return answer_of(baseline) == answer_of(candidate) is not None


def answer_of(samples: Sequence[Sample]) -> tuple[str, ...] | None:
    """The answer given most often, the first of them where several are; None for replies that keep no contract."""
    found = Counter(tuple(sample.parsed or ()) if sample.adherent else None for sample in samples)
    return found.most_common(1)[0][0]


def _right(samples: Sequence[Sample]) -> bool | None:
    rights = [sample.right for sample in samples]
    return None if None in rights else 2 * sum(map(bool, rights)) > len(rights)


def _pairs(scenes: Sequence[str], rights: dict[str, tuple[bool | None, bool | None]]) -> Pairs:
    wins = sum(not rights[scene][0] and bool(rights[scene][1]) for scene in scenes)
    losses = sum(bool(rights[scene][0]) and not rights[scene][1] for scene in scenes)
    return Pairs(
        scenes=len(scenes),
        candidate=sum(bool(rights[scene][1]) for scene in scenes),
        baseline=sum(bool(rights[scene][0]) for scene in scenes),
        wins=wins,
        losses=losses,
        p=round(stats.sign_test(wins, losses), 6),
    )


def _labeled(
    scenes: Sequence[str], rights: dict[str, tuple[bool | None, bool | None]], groups: dict[str, str | None]
) -> Labeled:
    pairs = _pairs(scenes, rights)
    shown = pairs.p < 1 - stats.CONFIDENCE
    names = sorted({group for group in groups.values() if group is not None})
    return Labeled(
        all=pairs,
        groups={name: _pairs([scene for scene in scenes if groups[scene] == name], rights) for name in names},
        difference=stats.paired_difference(pairs.wins, pairs.losses, pairs.scenes),
        finding="not_shown" if not shown else "better" if pairs.wins > pairs.losses else "worse",
        won=[scene for scene in scenes if rights[scene] == (False, True)],
        lost=[scene for scene in scenes if rights[scene] == (True, False)],
    )


def _text(scenes: int, agree: int, labeled: Labeled | None) -> str:
    agreement = f"both give the same answer in {agree} of {scenes} scenes"
    if labeled is None:
        return f"{agreement}; which of them are right is not known"
    pairs, difference = labeled.all, labeled.difference
    # One scene says nothing about others.
    interval = (
        f"; difference {difference.low * 100:+z.0f} to {difference.high * 100:+z.0f} points" if pairs.scenes > 1 else ""
    )
    return (
        f"right in {pairs.candidate} of {pairs.scenes} scenes, the baseline in {pairs.baseline}:"
        f" {WORDS[labeled.finding]} ({counted(pairs.wins, 'win')}, {counted(pairs.losses, 'loss', 'losses')},"
        f" p = {pairs.p:.2g}{interval}); {agreement}"
    )
