"""Where the models differ: each scene with its picture, both replies, and the right answer where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trialbench.measure.sample import Sample
from trialbench.report.correctness import Disagreement, answer_of, compared
from trialbench.report.html.thumbnail import NEEDED, Thumbnail, available, thumbnail
from trialbench.report.run import Run
from trialbench.report.summary import Summary

# More would be read by nobody, and the page would grow beyond what is documented.
MOST = 60


@dataclass(frozen=True)
class Said:
    """What a model replied, in its own words; `trouble` if that was no good reply. `right` None: not known.

    `count` of its `total` replies give that answer; it can be the right one without being that of most of them.
    """

    text: str
    trouble: str
    right: bool | None
    count: int
    total: int


@dataclass(frozen=True)
class Card:
    """A scene; `expected` is empty where the right answer is not known, `picture` None for a scene without one."""

    scene: str
    picture: Thumbnail | None
    baseline: Said
    candidate: Said
    expected: str


@dataclass(frozen=True)
class Gallery:
    """All of them; `hidden` counts those that are not shown, `hint` says why there are no pictures."""

    text: str
    cards: Sequence[Card]
    hidden: int
    hint: str

    @property
    def picture_bytes(self) -> int:
        """What the pictures take of the page."""
        return sum(len(card.picture.uri) for card in self.cards if card.picture)


def gallery(run: Run, summary: Summary) -> Gallery | None:
    """The scenes that the models answer differently; None where there are none."""
    found = summary.correctness
    if found is None or not found.disagreements:
        return None
    baseline, candidate = compared(run.samples, run.plan.decider)
    shown = found.disagreements[:MOST]
    pictures = available()
    cards = [
        Card(
            scene=one.scene,
            picture=_picture(run, one) if pictures else None,
            baseline=_said(baseline[one.scene], one.baseline_right),
            candidate=_said(candidate[one.scene], one.candidate_right),
            expected=" ".join(one.expected or ()),
        )
        for one in shown
    ]
    without = not pictures and any(one.scene in run.pictures for one in shown)
    return Gallery(found.text, cards, len(found.disagreements) - len(shown), NEEDED if without else "")


def _picture(run: Run, one: Disagreement) -> Thumbnail | None:
    path = run.pictures.get(one.scene)
    return thumbnail(path) if path else None


def _said(samples: Sequence[Sample], right: bool | None) -> Said:
    """The first reply that gives the answer which was given most often."""
    usual = answer_of(samples)
    one = next(sample for sample in samples if answer_of([sample]) == usual)
    trouble = "" if one.ok else f"{one.error_class or 'failed'}: {one.error_detail or 'no valid reply'}"
    if one.ok and not one.adherent:
        trouble = "cut by max_tokens" if one.cut else "not by the contract"
    count = sum(answer_of([sample]) == usual for sample in samples)
    return Said(one.content or "", trouble, right, count, len(samples))
