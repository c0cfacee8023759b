"""The results of a check: one for each declared row, and their totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The four answers. Only PASS is a success; NOT APPLICABLE counts neither way."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT APPLICABLE"


@dataclass(frozen=True)
class Row:
    """One declared check: what is judged, before anything has been asked.

    Attributes:
        suite: its suite's name.
        model: slug.
        quant: the file that is judged; empty where the suite judges no single file.
        other: a second file (drift, diff), or empty.
        prompt: name of the prompt, or empty.
    """

    suite: str
    model: str
    quant: str = ""
    other: str = ""
    prompt: str = ""

    @property
    def label(self) -> str:
        """`token tiny-llama Q8_0 code`."""
        pair = f"{self.quant}/{self.other}" if self.other else self.quant
        return " ".join(part for part in (self.suite, self.model, pair, self.prompt) if part)


@dataclass(frozen=True)
class Result:
    """The answer to one row.

    Attributes:
        says: one sentence for people.
        expected, got: the two sides, short (untrusted text in `got`).
        cause: what a ticket groups by; rows with the same cause are one defect.
        evidence: numbers and raw answers.
        proves_nothing: the answer is the same whatever the file holds; counted apart.
        reproduce: a command line.
    """

    row: Row
    status: Status
    says: str
    expected: str = ""
    got: str = ""
    cause: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    proves_nothing: bool = False
    reproduce: str = ""


@dataclass(frozen=True)
class Counts:
    """The number of declared rows, and of rows by outcome. Rows that prove nothing count only in `declared`."""

    declared: int
    probative: int
    by_status: Mapping[Status, int]

    def of(self, status: Status) -> int:
        """How many probative rows have this status."""
        return self.by_status.get(status, 0)


def count(results: Iterable[Result]) -> Counts:
    """Add results up."""
    rows = list(results)
    probative = [one for one in rows if not one.proves_nothing]
    return Counts(len(rows), len(probative), Counter(one.status for one in probative))


def exit_code(results: Sequence[Result]) -> int:
    """0: something was proved and nothing failed; 1: something failed; 3: something could not be decided, or nothing
    was proved at all.
    """
    counts = count(results)
    if counts.of(Status.FAIL):
        return 1
    if counts.of(Status.INCONCLUSIVE) or not counts.of(Status.PASS):
        return 3
    return 0
