"""Runs side by side, a line each: what a play on several hosts shows at its end."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trialbench.errors import TrialbenchError
from trialbench.files import read_json
from trialbench.report.decide import CANDIDATE
from trialbench.report.folder import Folder, read_folder
from trialbench.report.summary import summarise_folder
from trialbench.report.table import WIDTH, columns, number

BASELINE = "nav-baseline-a1"


@dataclass
class Row:
    """One host: texts of the columns; `windows` has the seconds by impact, `remarks` what must be known beside them."""

    host: str
    outcome: str = "-"
    verdict: str = "-"
    candidate: str = "-"
    baseline: str = "-"
    restored_by: str = "-"
    windows: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def compare_table(paths: Sequence[Path], without: Sequence[tuple[str, str]] = ()) -> str:
    """Several runs for people, in the order given.

    Args:
        paths: result folders; one that can't be read is a row that says so.
        without: hosts that have no folder, each with the reason.
    """
    rows = [run_row(path) for path in paths]
    rows += [Row(host, outcome="no results", remarks=[why]) for host, why in without]
    impacts = list(dict.fromkeys(impact for row in rows for impact in row.windows))
    head = ["host", "outcome", "verdict", "p50 ms", "baseline", *(f"{name} s" for name in impacts), "restored by"]
    cells = [
        [row.host, row.outcome, row.verdict, row.candidate, row.baseline]
        + [row.windows.get(name, "-") for name in impacts]
        + [row.restored_by]
        for row in rows
    ]
    remarks = [_remark(row.host, text) for row in rows for text in row.remarks]
    return "\n".join([columns([head, *cells]), *remarks])


def run_row(path: Path) -> Row:
    """The row of one result folder."""
    try:
        folder = read_folder(path)
        summary = summarise_folder(folder)
        verdict = read_json(path / "verdict.json") if (path / "verdict.json").exists() else {}
    except TrialbenchError as error:
        return Row(path.name, outcome="no results", remarks=[str(error)])
    segments = summary["segments"]
    row = Row(
        host=str(folder.plan.get("host") or path.name),
        outcome=_outcome(folder, summary),
        verdict=str(verdict.get("verdict", "-")).replace("_", " "),
        candidate=_p50(segments, CANDIDATE),
        baseline=_p50(segments, BASELINE),
        windows={impact: number(window["total_s"]) for impact, window in summary["windows"].items()},
    )
    row.windows |= {entry["impact"]: "still" for entry in summary["still_down"]}
    restored = folder.events("restored")
    if restored:
        row.restored_by = str(restored[-1].get("restored_by") or "-")
    elif summary["outcome"] == "open":
        row.restored_by = "nobody yet"
    failure = summary["failure"]
    if failure:
        row.remarks.append(f"{failure['phase']}: {failure['reason'] or 'failed without a reason'}")
    if summary["restore_failure"]:
        row.remarks.append(f"restore: {summary['restore_failure']}")
    return row


def _outcome(folder: Folder, summary: dict[str, Any]) -> str:
    # A rehearsal has nothing to measure: restored without a failure is all that it can be.
    if folder.plan.get("rehearsal") and folder.events("closed") and not summary["failure"]:
        return "rehearsed"
    return str(summary["outcome"]).replace("_", " ")


def _p50(segments: dict[str, Any], name: str) -> str:
    return number(segments[name]["latency_ms"]["p50"]["value"]) if name in segments else "-"


def _remark(host: str, text: str) -> str:
    # A reason may quote what a model said: nothing of it may act on the terminal.
    plain = "".join(letter if letter.isprintable() else " " for letter in f"{host}: {text}")
    return "\n".join(textwrap.wrap(plain, WIDTH, subsequent_indent="    "))
