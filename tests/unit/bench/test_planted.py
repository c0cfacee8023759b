"""Trials whose outcome was planted: every output says what was planted, and why.

Each is a finished run with a hundred labeled scenes in place of its one picture. All replies keep the format, so only
the right answers tell the models apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trialbench.report.decide import decide_folder
from trialbench.report.html.report import report_html
from trialbench.report.summary import write_summary
from trialbench.report.table import folder_table

SCENES = 100
RIGHT, WRONG = ["left", "large"], ["right", "large"]


def planted(run: Path, wins: int, losses: int, neither: int) -> Path:
    """In `wins` scenes only the candidate is right, in `losses` only the baseline, in `neither` none of them."""
    sides = {
        "nav-candidate": [True] * wins + [False] * (losses + neither),
        "nav-baseline-a1": [False] * wins + [True] * losses + [False] * neither,
    }
    sides["nav-baseline-a2"] = sides["nav-baseline-a1"]
    for name, rights in sides.items():
        path = run / "samples" / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for at, row in enumerate(rows):
            scene = at % SCENES
            parsed = RIGHT if scene >= len(rights) or rights[scene] else WRONG
            row |= {"scene": f"s{scene}", "expected": RIGHT, "parsed": parsed, "content": " ".join(parsed)}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def declare(run: Path, points: float) -> None:
    """The plan's gate of right answers."""
    path = run / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accuracy_not_worse_by": points}), encoding="utf-8")


def told(run: Path) -> dict[str, str]:
    """What people read, by output."""
    return {
        "summary.json": write_summary(run).read_text(encoding="utf-8"),
        "show": " ".join(folder_table(run).split()),
        "report.html": report_html(run),
    }


# wins, losses, neither; the gate, in points; the verdict where a person judged better; what every output says.
CASES: dict[str, tuple[tuple[int, int, int], float | None, str, str]] = {
    "worse in direction, with the gate": ((2, 30, 4), 5, "REJECT", "right less often (2 wins, 30 losses"),
    "worse in direction, without it": ((2, 30, 4), None, "ADOPT", "right less often (2 wins, 30 losses"),
    "equal models": ((0, 0, 10), None, "ADOPT", "not shown (0 wins, 0 losses, p = 1"),
    "equal models, each right in others": ((8, 8, 10), 5, "INCONCLUSIVE", "not shown (8 wins, 8 losses, p = 1"),
    "12 against 2": ((12, 2, 6), 5, "ADOPT", "right more often (12 wins, 2 losses, p = 0.013"),
    "20 against 10": ((20, 10, 10), 5, "ADOPT", "not shown (20 wins, 10 losses, p = 0.099"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_planted_trial_comes_out_right(folders: ModuleType, tmp_path: Path, case: str) -> None:
    counts, points, verdict, sentence = CASES[case]
    run = planted(folders.finished(tmp_path / "run"), *counts)
    if points is not None:
        declare(run, points)
    decided: dict[str, Any] = decide_folder(run, judged={"describe": "better"})
    assert decided["verdict"] == verdict
    # A hundred of a hundred keep the format: that is never the reason.
    assert decided["facts"]["adherent"] == SCENES
    reason = decided["reasons"][0]
    if points is not None and verdict != "ADOPT":
        word = {"REJECT": "missed", "INCONCLUSIVE": "not shown"}[verdict]
        assert reason.startswith(f"right at most {points} points less often than the baseline: {word} (")
    else:
        assert "judged better" in reason
    outputs = told(run)
    assert [name for name, text in outputs.items() if sentence not in text] == []
