"""Files of judgments that people saved on the review page, counted with the help of the key."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench import schemas, stats
from trialbench.errors import UsageError
from trialbench.report.plan import Side
from trialbench.report.review.key import NAME, Answer, Key, Turn, earlier, listed, read
from trialbench.report.run import Run
from trialbench.verdict import Review, Reviewed, reviewed


@dataclass(frozen=True)
class Judgments:
    """What one reviewer said, by the id of a pair."""

    path: Path
    reviewer: str
    answers: Mapping[str, Answer]


def review(run: Run, files: Sequence[Path]) -> Review:
    """The result of the judgments in `files`; nothing is counted unless all of them can be.

    Raises:
        UsageError: the run has no key, or other replies than its key; a file is none of this review, says the same pair
            twice, or is of a reviewer whose file was given already.
    """
    key = _key(run)
    found: list[Judgments] = []
    for path in files:
        one = _read(path, key, run)
        twice = next((other for other in found if _person(other) == _person(one)), None)
        if twice is not None:
            raise UsageError(
                f"{path}: expected one file of each reviewer, found {one.reviewer!r} here and in {twice.path}: give the"
                " newer one alone; if they are two people, let one save again under another name"
            )
        found.append(one)
    return Review(key.review, tuple(one.reviewer for one in found), _tally(key, found), _agreement(key, found))


def _person(found: Judgments) -> str:
    """A reviewer's name as people compare names, however it is spelled."""
    return unicodedata.normalize("NFC", " ".join(found.reviewer.split()).casefold())


def _key(run: Run) -> Key:
    place = run.path / NAME
    if not place.exists():
        raise UsageError(
            f"{place}: expected the key of a blind review, found none: `trialbench report DIR` writes a page and its"
            " key. Judgments of another page cannot be read without the key of that page"
        )
    key = read(place)
    if not key.of(listed(run)):
        raise UsageError(
            f"{place}: expected the key of this run's replies, found that of others: they changed after the page was"
            " made. `trialbench report DIR` writes a new page; judge that one"
        )
    return key


def _read(path: Path, key: Key, run: Run) -> Judgments:
    document: dict[str, Any] = schemas.read(path, "judgments", "judgments as review.html saves them")
    if document["run"] != key.run:
        raise UsageError(
            f"{path}: expected judgments of the run {key.run}, found those of {document['run']}: give them with the"
            " folder of that run"
        )
    if document["review"] != key.review:
        known = (run.path / earlier(document["review"])).exists()
        why = "the replies have changed since" if known else "it has another key, perhaps on another machine"
        raise UsageError(
            f"{path}: expected judgments of the review {key.review}, found those of {document['review']}: {why}."
            " Judge the review.html beside the key"
        )
    answers: dict[str, Answer] = {}
    for at, one in enumerate(document["judgments"]):
        name = one["pair"]
        if key.turn(name) is None:
            raise UsageError(
                f"{path}: judgments[{at}]: expected a pair from 1 to {len(key.pairs)}, found {name!r}: save the file"
                " again on the page"
            )
        if name in answers:
            raise UsageError(
                f"{path}: judgments[{at}]: expected every pair once, found pair {name} again: save the file again on"
                " the page"
            )
        answers[name] = one["answer"]
    if not answers:
        raise UsageError(
            f"{path}: expected at least one judgment, found none: judge the pairs of review.html, then save again"
        )
    return Judgments(path, document["reviewer"].strip(), answers)


def _tally(key: Key, found: Sequence[Judgments]) -> dict[str, Reviewed]:
    """What the reviewers say about each workload; by majority where several judged a pair."""
    tally: dict[str, Reviewed] = {}
    for name in dict.fromkeys(one.workload for one in (*key.pairs, *key.identical)):
        turns = [one for one in key.pairs if one.workload == name]
        identical = sum(one.workload == name for one in key.identical)
        said = Counter(word for one in turns if (word := _majority(one, found)) is not None)
        tally[name] = reviewed(
            said["candidate"], said["baseline"], said["same"] + identical, len(turns) + identical, key.ties_percent
        )
    return tally


def _majority(turn: Turn, found: Sequence[Judgments]) -> str | None:
    """Which side more of a pair's reviewers prefer; `same` if both sides have as many."""
    winners: list[Side | None] = [turn.winner(one.answers[turn.id]) for one in found if turn.id in one.answers]
    if not winners:
        return None
    ahead = winners.count("candidate") - winners.count("baseline")
    return "same" if ahead == 0 else "candidate" if ahead > 0 else "baseline"


def _agreement(key: Key, found: Sequence[Judgments]) -> stats.Agreement | None:
    """How far reviewers agree on the pairs that all of them judged; None for a single one."""
    if len(found) < 2:
        return None
    common = [one for one in key.pairs if all(one.id in each.answers for each in found)]
    return stats.agreement([[turn.winner(each.answers[turn.id]) or "same" for turn in common] for each in found])
