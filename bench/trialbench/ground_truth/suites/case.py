"""One row with everything needed to judge it, and the meaning of trouble."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.model.roster import Model, Roster
from trialbench.ground_truth.runtimes.base import Trouble, TroubleKind
from trialbench.ground_truth.suites.results import Result, Row, Status

_FAILURES = (TroubleKind.PANIC, TroubleKind.REFUSED, TroubleKind.EMPTY)


@dataclass(frozen=True)
class Case:
    """One row with everything needed to judge it."""

    row: Row
    model: Model
    evidence: Evidence

    @property
    def roster(self) -> Roster:
        """The roster."""
        return self.evidence.roster

    def answer(self, status: Status, says: str, **more: Any) -> Result:
        """A result for this row."""
        return Result(self.row, status, says, **more)

    def troubled(self, trouble: Trouble, *, what: str = "") -> Result:
        """The result for trouble: a failure of the runtime, or nothing to judge."""
        status = Status.FAIL if trouble.kind in _FAILURES else Status.INCONCLUSIVE
        words = f"{what}: " if what else ""
        cause = f"{trouble.kind.value}: {defect(trouble.text)}"
        return self.answer(status, f"{words}{trouble.text}", got=trouble.kind.value, cause=cause)


_PLACES = re.compile(r"(?<![\w.])(?:/[^\s:'\"]+)+/([^\s:'\"/]+)")


def defect(text: str) -> str:
    """The text of a failure without paths and numbers, so that the same defect gets the same words in every file."""
    # Numbers that stand alone; those in the name of a file or of a version tell defects apart.
    return re.sub(r"(?<![\w.:])\d+(?![\w.:]*\w)", "N", _PLACES.sub(r"\1", text))[:160]
