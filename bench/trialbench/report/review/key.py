"""The key of a blind review, `review-key.json`: which reply of each pair is whose. Nothing of it is on the page."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trialbench import schemas
from trialbench.files import locked, write_json
from trialbench.measure.sample import wall_clock
from trialbench.report.plan import Side
from trialbench.report.review.pairs import Pair, pairs
from trialbench.report.run import Run

NAME = "review-key.json"
Answer = Literal["first", "second", "same"]
_SEED_BITS = 53


@dataclass(frozen=True)
class Turn:
    """A pair as the page shows it: under which name, and whose reply stands first."""

    id: str
    workload: str
    scene: str | None
    first: Side
    sha256: str

    def winner(self, answer: Answer) -> Side | None:
        """Who is better by an answer; None for neither."""
        if answer == "same":
            return None
        second: Side = "candidate" if self.first == "baseline" else "baseline"
        return self.first if answer == "first" else second


@dataclass(frozen=True)
class Key:
    """The key.

    Attributes:
        review: names this review, so that judgments of another one are told from its own.
        seed: shuffled pairs and sides.
        ties_percent: the share of ties that counts as *same*, from the plan; None: no share does.
        pairs: in the order of the page.
        identical: pairs of the same text, which are ties without a judgment: workload, scene and hash.
    """

    run: str
    review: str
    seed: int
    made: str
    ties_percent: float | None
    pairs: tuple[Turn, ...]
    identical: tuple[Turn, ...]

    def of(self, found: Sequence[Pair]) -> bool:
        """Whether the key is that of these pairs, reply by reply, each under a name of its own."""
        turns = [(one, False) for one in self.pairs] + [(one, True) for one in self.identical]
        mine = sorted((one.workload, one.scene or "", one.sha256, same) for one, same in turns)
        names = {one.id for one in self.pairs}
        return len(names) == len(self.pairs) and mine == sorted(
            (one.workload, one.scene or "", one.sha256, one.identical) for one in found
        )

    def turn(self, name: str) -> Turn | None:
        """The pair that the page calls `name`."""
        return next((one for one in self.pairs if one.id == name), None)


def listed(run: Run) -> list[Pair]:
    """The pairs of a run; where the key in its folder was drawn as it was at first, those of that key.

    Raises:
        UsageError: there is a file of the key's name that is not a key.
    """
    found, place = pairs(run), run.path / NAME
    if place.exists() and not (key := read(place)).of(found) and key.of(first := pairs(run, every=True)):
        return first
    return found


def draw(run: Run, found: Sequence[Pair], seed: int) -> Key:
    """The key that `seed` draws: each model stands first in half of a workload's pairs, so its place earns nothing.

    Workloads keep their order.
    """
    rng = random.Random(seed)
    turns: list[Turn] = []
    for name in dict.fromkeys(one.workload for one in found):
        own = [one for one in found if one.workload == name and not one.identical]
        sides: list[Side] = ["baseline", "candidate"]
        rng.shuffle(sides)
        firsts = [sides[at % 2] for at in range(len(own))]
        rng.shuffle(own)
        rng.shuffle(firsts)
        turns += [
            Turn(str(len(turns) + at), name, one.scene, first, one.sha256)
            for at, (one, first) in enumerate(zip(own, firsts, strict=True), 1)
        ]
    return Key(
        run=run.id,
        # Of no use to who wants to know the seed.
        review=secrets.token_hex(8),
        seed=seed,
        made=wall_clock(),
        ties_percent=run.plan.review_ties_percent,
        pairs=tuple(turns),
        identical=tuple(Turn("", one.workload, one.scene, "baseline", one.sha256) for one in found if one.identical),
    )


def keep(run: Run, found: Sequence[Pair]) -> Key:
    """The key of these pairs in the run's folder, drawn and written where there is none.

    A key stays as it is while its replies are the run's: somebody may have begun to judge. One of other replies is kept
    beside it as `review-key-REVIEW.json`.

    Raises:
        UsageError: there is a file of that name that is not a key; it is left alone.
    """
    place = run.path / NAME
    with locked(run.path):
        there = read(place) if place.exists() else None
        if there is not None and there.of(found):
            return there
        if there is not None:
            write_json(run.path / earlier(there.review), _document(there))
        key = draw(run, found, secrets.randbits(_SEED_BITS))
        write_json(place, _document(key))
    return key


def earlier(review: str) -> str:
    """The name of the key of an earlier review."""
    return f"review-key-{review}.json"


def read(path: Path) -> Key:
    """The key in `path`.

    Raises:
        UsageError: it is not a key.
    """
    document: dict[str, Any] = schemas.read(path, "review-key", "the key of a blind review; move it aside")
    return Key(
        run=document["run"],
        review=document["review"],
        seed=document["seed"],
        made=document["made"],
        ties_percent=document["ties_percent"],
        pairs=tuple(Turn(**one) for one in document["pairs"]),
        identical=tuple(Turn(id="", first="baseline", **one) for one in document["identical"]),
    )


def _document(key: Key) -> dict[str, Any]:
    same = [{"workload": one.workload, "scene": one.scene, "sha256": one.sha256} for one in key.identical]
    return {"format": 1, **asdict(key), "identical": same}
