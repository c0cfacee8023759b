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
    suites = [
        Suite(name, [_row(row) for row in rows if row["suite"] == name])
        for name in dict.fromkeys(row["suite"] for row in rows)
    ]
    if verdict["claims"]:
        suites.append(Suite("claims", [_claim(claim) for claim in verdict["claims"]], "claims"))
    return write(f"ground truth, {verdict['runtime']['name']}", suites, indented=False)


def _row(row: dict[str, Any]) -> Case:
    # An answer that is always the same is no success.
    result = "skipped" if row["proves_nothing"] else _RESULTS.get(row["status"], "passed")
    says = f"proves nothing: {row['says']}" if row["proves_nothing"] else row["says"]
    return Case(label(row), result, screen(says)[:_MOST], classname=f"{row['suite']}.{row['model']}")


def _claim(claim: dict[str, Any]) -> Case:
    # Whether it was stated beforehand belongs to it, whatever its status.
    properties = {key: screen(claim[key])[:_MOST] for key in ("standing", "statement")}
    message = screen(f"{claim['standing']}: {claim['says']}")[:_MOST]
    return Case(claim["name"], _RESULTS.get(claim["status"], "passed"), message, properties=properties)
