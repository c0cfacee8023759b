"""A verdict as JUnit XML. What could not be decided is an error, so that CI does not take it for a success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trialbench.ground_truth.output.table import label
from trialbench.show.junit import Case, Result, Suite, write
from trialbench.show.terminal import screen

_RESULTS: Mapping[str, Result] = {"FAIL": "failure", "INCONCLUSIVE": "error", "NOT APPLICABLE": "skipped"}
_MOST = 500


def junit(verdict: dict[str, Any]) -> str:
    """The XML document of a verdict (schema `ground-truth`): a suite each, and one for the claims."""
    rows = verdict["results"]
    runtime = verdict["runtime"]["name"]
    suites = [
        Suite(name, [_row(row, runtime) for row in rows if row["suite"] == name])
        for name in dict.fromkeys(row["suite"] for row in rows)
    ]
    if verdict["claims"]:
        classname = f"ground_truth.{runtime}.{verdict['roster']['name']}.claims"
        suites.append(Suite("claims", [_claim(claim) for claim in verdict["claims"]], classname))
    return write(f"ground truth, {runtime}", suites, indented=False)


def _row(row: dict[str, Any], runtime: str) -> Case:
    # An answer that is always the same is not a success.
    result = "skipped" if row["proves_nothing"] else _RESULTS.get(row["status"], "passed")
    says = f"proves nothing: {row['says']}" if row["proves_nothing"] else row["says"]
    # The runtime is in it: verdicts of two are often in one pipeline.
    classname = f"ground_truth.{runtime}.{row['model']}.{row['suite']}"
    return Case(label(row), result, screen(says)[:_MOST], classname=classname)


def _claim(claim: dict[str, Any]) -> Case:
    # Whether it was stated beforehand belongs to it, whatever its status.
    message = screen(f"{claim['standing']}: {claim['says']}")[:_MOST]
    statement = screen(claim["statement"])[:_MOST]
    told = f"{message}\n{statement}"
    return Case(claim["name"], _RESULTS.get(claim["status"], "passed"), message, statement, out=told)
