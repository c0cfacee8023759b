"""The verdict as one HTML page in the style of the trial's report: no network, plots as inline SVG, text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.ground_truth.output.plots import divergence, fidelity, kl_by_position
from trialbench.ground_truth.output.table import guilty, label
from trialbench.show.figures import Figure, Table
from trialbench.show.html import render
from trialbench.show.text import counted

_TEMPLATE = Path(__file__).parent / "templates" / "ground-truth.html.j2"

# Class of the color, and a sign that says it without color.
TONES = {
    "PASS": ("good", "\N{CHECK MARK}"),
    "FAIL": ("bad", "\N{MULTIPLICATION SIGN}"),
    "INCONCLUSIVE": ("warn", "?"),
    "NOT APPLICABLE": ("wait", "-"),
}
_RUNGS = {True: ("holds", *TONES["PASS"]), False: ("broken", *TONES["FAIL"]), None: ("open", *TONES["INCONCLUSIVE"])}
_GROUPS = (
    ("FAIL", "Failed"),
    ("INCONCLUSIVE", "Could not be decided"),
    ("PASS", "Passed"),
    ("NOT APPLICABLE", "Not applicable"),
)
# More rows than people read, and the page stays small.
_MOST_ROWS, _MOST_REASONS, _MOST_COMMANDS = 300, 8, 5


@dataclass(frozen=True)
class Fact:
    """One of the figures on top."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Group:
    """The rows of one status; `hidden` of them are left out."""

    title: str
    count: int
    table: Table
    hidden: int
    open: bool


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    word: str
    kind: str
    sign: str
    lead: str
    reasons: list[str]
    facts: list[Fact]
    runtime: str
    roster: str
    made: str
    version: str
    claims: list[dict[str, Any]]
    figures: list[Figure]
    files: Table
    ladders: list[dict[str, Any]]
    suites: Table
    groups: list[Group]
    reproduce: list[str]
    provenance: list[tuple[str, str]]
    tones: dict[str, tuple[str, str]]


def page(verdict: dict[str, Any]) -> str:
    """The page of a verdict (schema `ground-truth`) as one HTML document."""
    kind, sign = TONES[verdict["verdict"]]
    counts, runtime, machine = verdict["counts"], verdict["runtime"], verdict["machine"]
    silent = counts["declared"] - counts["probative"]
    passed = f"{counted(counts['PASS'], 'check')} passed"
    lead = f"{passed}, {counts['FAIL']} failed, {counts['INCONCLUSIVE']} could not be decided"
    described = Page(
        word=verdict["verdict"],
        kind=kind,
        sign=sign,
        lead=f"{lead}; {verdict['loads']} models were loaded, in {verdict['seconds']:.1f} s.",
        reasons=_reasons(verdict),
        facts=[
            Fact("declared", str(counts["declared"]), f"{silent} of them prove nothing" if silent else ""),
            *(Fact(status.lower(), str(counts[status])) for status in TONES),
        ],
        runtime=f"{runtime['name']} {runtime['version']}",
        roster=verdict["roster"]["name"],
        made=verdict["made"],
        version=verdict["trialbench"],
        claims=verdict["claims"],
        figures=[one for one in (*fidelity(verdict), divergence(verdict), *kl_by_position(verdict)) if one],
        files=_files(verdict),
        ladders=[_ladder(one) for one in verdict.get("ladders") or []],
        suites=_suites(verdict["results"]),
        groups=[_group(verdict["results"], status, title) for status, title in _GROUPS],
        reproduce=_commands(verdict["results"]),
        provenance=[
            *((f"runtime: {key.replace('_', ' ')}", value) for key, value in runtime.items()),
            *((f"machine: {key}", str(value)) for key, value in machine.items()),
            ("roster", verdict["roster"]["path"]),
            *((f"{one['model']} {one['quant']}", one["sha256"] or "not there") for one in verdict["files"]),
        ],
        tones=TONES,
    )
    return render(_TEMPLATE, page=described)


def _reasons(verdict: dict[str, Any]) -> list[str]:
    found = [
        f"Claim {one['name']}: {one['says']}" for one in verdict["claims"] if one["status"] in ("FAIL", "INCONCLUSIVE")
    ]
    causes: dict[str, int] = {}
    for row in verdict["results"]:
        if row["status"] == "FAIL" and not row["proves_nothing"]:
            causes[row["cause"] or row["suite"]] = causes.get(row["cause"] or row["suite"], 0) + 1
    ordered = sorted(causes.items(), key=lambda item: -item[1])
    found += [f"{cause} ({count} check{'s' if count > 1 else ''})" for cause, count in ordered]
    hidden = len(found) - _MOST_REASONS
    return [*found[:_MOST_REASONS], *([f"and {hidden} more"] if hidden > 0 else [])]


def _files(verdict: dict[str, Any]) -> Table:
    rows = []
    for file in verdict["files"]:
        forced = evidence_of(verdict, "forced", file)
        over = evidence_of(verdict, "ppl", file)
        rows.append(
            [
                f"{file['model']} {file['quant']}",
                "-" if file["bytes"] is None else f"{file['bytes'] / 1e6:.2f}",
                "-" if file["tokens_per_s"] is None else f"{file['tokens_per_s']:.0f}",
                f"{forced['agreement']:.1%}" if "agreement" in forced else "-",
                f"{forced['kl_mean']:.2g}" if "kl_mean" in forced else "-",
                f"{over['perplexity']:.4g}" if over.get("perplexity") is not None else "-",
            ]
        )
    head = ["file", "MB", "tokens/s", "top-1 agreement", "KL, nats", "perplexity"]
    return Table("Fidelity against size and speed", head, rows, numbers=range(1, 6))


def evidence_of(verdict: dict[str, Any], suite: str, file: dict[str, Any]) -> dict[str, Any]:
    """The evidence of the suite's first row about a file alone; empty where there is none."""
    for row in verdict["results"]:
        if (row["suite"], row["model"], row["quant"], row["other"]) == (suite, file["model"], file["quant"], ""):
            found: dict[str, Any] = row["evidence"]
            return found
    return {}


def _ladder(ladder: dict[str, Any]) -> dict[str, Any]:
    rungs = []
    for rung in ladder["rungs"]:
        word, kind, sign = _RUNGS[rung["good"]]
        rungs.append({"step": rung["step"], "says": rung["says"], "word": word, "kind": kind, "sign": sign})
    return {"name": f"{ladder['model']} {ladder['quant']}", "says": guilty(ladder), "rungs": rungs}


def _suites(results: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for suite in dict.fromkeys(row["suite"] for row in results):
        mine = [row for row in results if row["suite"] == suite]
        note = "proves nothing" if all(row["proves_nothing"] for row in mine) else "-"
        rows.append([suite, *(str(sum(row["status"] == status for row in mine)) for status in TONES), note])
    return Table("By suite", ["suite", *(status.lower() for status in TONES), "remark"], rows, numbers=range(1, 5))


def _group(results: Sequence[dict[str, Any]], status: str, title: str) -> Group:
    mine = [row for row in results if row["status"] == status]
    rows = [[label(row), row["says"], row["expected"], row["got"]] for row in mine[:_MOST_ROWS]]
    table = Table(title, ["check", "found", "expected", "got"], rows)
    return Group(title, len(mine), table, max(0, len(mine) - _MOST_ROWS), status == "FAIL" and bool(mine))


def _commands(results: Sequence[dict[str, Any]]) -> list[str]:
    failed = [row["reproduce"] for row in results if row["status"] == "FAIL" and row["reproduce"]]
    return list(dict.fromkeys(failed))[:_MOST_COMMANDS]
