"""A verdict for people and machines: terminal table, JUnit XML, ticket. Everything a runtime said is untrusted text."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from trialbench.ground_truth.results import Result
from trialbench.terminal import line, say

if TYPE_CHECKING:
    from trialbench.ground_truth.controls import Caught

_WIDTH = 110
_JUNIT = {"FAIL": "failure", "INCONCLUSIVE": "error", "NOT APPLICABLE": "skipped"}
_MARKS = {"PASS": "pass", "FAIL": "FAIL", "INCONCLUSIVE": "?", "NOT APPLICABLE": "n/a"}


def label(row: dict[str, Any]) -> str:
    """`token tiny-llama Q8_0 code` of a published result."""
    pair = f"{row['quant']}/{row['other']}" if row["other"] else row["quant"]
    return " ".join(part for part in (row["suite"], row["model"], pair, row["prompt"]) if part)


def table(verdict: dict[str, Any]) -> str:
    """The verdict for a terminal: one line for each suite, then what failed, what could not be decided, the claims."""
    rows = verdict["results"]
    runtime, counts = verdict["runtime"], verdict["counts"]
    who = f"{line(runtime['name'], 20)} {line(runtime['version'], 60)}, roster {verdict['roster']['name']}"
    lines = [
        f"{who}, {verdict['seconds']:.1f} s, {verdict['loads']} models loaded",
        "",
        f"{'suite':<14}{'pass':>6}{'FAIL':>6}{'?':>6}{'n/a':>6}",
    ]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        numbers = "".join(f"{sum(row['status'] == status for row in mine):>6}" for status in _MARKS)
        note = "  proves nothing" if all(row["proves_nothing"] for row in mine) else ""
        lines.append(f"{suite:<14}{numbers}{note}")
    for status, title in (("FAIL", "Failed"), ("INCONCLUSIVE", "Could not be decided")):
        found = [row for row in rows if row["status"] == status and not row["proves_nothing"]]
        if found:
            lines += ["", f"{title}:"]
            lines += [f"  {label(row)}: {line(row['says'], _WIDTH)}" for row in found[:40]]
            lines += [f"  and {len(found) - 40} more"] if len(found) > 40 else []
    reasons = {(row["suite"], row["says"]) for row in rows if row["status"] == "NOT APPLICABLE"}
    if reasons:
        lines += ["", "Not applicable:"]
        by_reason: dict[str, list[str]] = {}
        for suite, says in sorted(reasons):
            by_reason.setdefault(says, []).append(suite)
        lines += [f"  {', '.join(suites)}: {line(says, _WIDTH)}" for says, suites in by_reason.items()]
    guilt = verdict.get("ladders") or []
    if guilt:
        lines += ["", "Guilty step:"]
        lines += [f"  {one['model']} {one['quant']}: {line(guilty(one), _WIDTH)}" for one in guilt]
    if verdict["claims"]:
        lines += ["", "Claims:"]
        for claim in verdict["claims"]:
            mark = _MARKS[claim["status"]]
            lines.append(f"  {mark:<5}{claim['name']} ({claim['standing']}): {line(claim['says'], _WIDTH)}")
    lines += ["", _sum(verdict["verdict"], counts)]
    return "\n".join(lines)


class Progress:
    """The rows as they are judged, on a terminal: one line that is written over. Elsewhere only what is told."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._numbers = dict.fromkeys(_MARKS, 0)

    def __call__(self, done: int, total: int, result: Result) -> None:
        """One row more."""
        self._numbers[result.status.value] += 1
        if self._live:
            counts = ", ".join(f"{number} {_MARKS[status]}" for status, number in self._numbers.items() if number)
            self._write(line(f"{done}/{total} {result.row.label}: {result.status} ({counts})", 79))

    def tell(self, text: str) -> None:
        """A line that stays."""
        self._write("")
        say(text, self._stream)

    def end(self) -> None:
        """Leave nothing behind."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._live:
            self._stream.write(f"\r\x1b[2K{text}")
            self._stream.flush()


def guilty(ladder: dict[str, Any]) -> str:
    """What a published ladder finds, in one sentence."""
    rungs = ladder["rungs"]
    at = next((number for number, rung in enumerate(rungs) if rung["good"] is False), len(rungs))
    missing = ", ".join(rung["step"] for rung in rungs[:at] if rung["good"] is None)
    if at == len(rungs):
        return "no step is shown to be guilty" + (f"; not compared: {missing}" if missing else "")
    return f"{rungs[at]['step']}{f' (or, not compared: {missing})' if missing else ''}: {rungs[at]['says']}"


def _sum(verdict: str, counts: dict[str, int]) -> str:
    silent = counts["declared"] - counts["probative"]
    nothing = f", {silent} of them prove nothing" if silent else ""
    parts = ", ".join(f"{counts[status]} {status}" for status in _MARKS)
    return f"{verdict}: {counts['declared']} checks declared{nothing}: {parts}"


def controls_table(caught: Sequence[Caught], uncovered: Sequence[str]) -> str:
    """Which suite caught which control."""
    lines = ["Negative controls:"]
    for one in caught:
        mark = "caught" if one.good else "MISSED" if one.tried else "-"
        by = f"by {', '.join(one.by)}" if one.by else "by nobody"
        lines.append(f"  {mark:<7}{one.control.name} ({one.control.wrong}): {by}")
        lines += [f"         {name} did not: {line(says, _WIDTH)}" for name, says in one.missed.items()]
        lines += [
            f"         {name} could not: it does not pass the intact file either: {line(says, _WIDTH)}"
            for name, says in one.untried.items()
        ]
        if one.blamed is not None:
            wanted = "" if one.rightly else f" WRONG, it is {one.control.guilty}:"
            lines.append(f"         guilty step:{wanted} {line(guilty(one.blamed.as_dict()), _WIDTH)}")
        if one.trouble:
            lines.append(f"         {line(one.trouble, _WIDTH)}")
    for name in uncovered:
        lines.append(f"  {name}: no control was caught by it: nobody has seen this suite fail")
    good = sum(one.good for one in caught)
    untried = sum(not one.tried for one in caught)
    lines.append(f"{good} of {len(caught)} controls rejected" + (f", {untried} could not be tried" if untried else ""))
    return "\n".join(lines)


def junit(verdict: dict[str, Any]) -> str:
    """The verdict as JUnit XML. What could not be decided is an error: CI must not take it for a success."""
    rows = verdict["results"]
    root = ET.Element("testsuites", name=f"ground truth, {_xml(verdict['runtime']['name'])}")
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        kinds = [_kind(row) for row in mine]
        node = _suite(root, suite, kinds)
        for row, kind in zip(mine, kinds, strict=True):
            name, classname = _xml(label(row)), _xml(f"{suite}.{row['model']}")
            case = ET.SubElement(node, "testcase", classname=classname, name=name)
            if kind is not None:
                says = f"proves nothing: {row['says']}" if row["proves_nothing"] else row["says"]
                ET.SubElement(case, kind, message=_xml(says)[:500])
    if verdict["claims"]:
        kinds = [_JUNIT.get(claim["status"]) for claim in verdict["claims"]]
        node = _suite(root, "claims", kinds)
        for claim, kind in zip(verdict["claims"], kinds, strict=True):
            case = ET.SubElement(node, "testcase", classname="claims", name=_xml(claim["name"]))
            # Whether it was stated beforehand belongs to it, however it came out.
            properties = ET.SubElement(case, "properties")
            for key in ("standing", "statement"):
                ET.SubElement(properties, "property", name=key, value=_xml(claim[key])[:500])
            if kind is not None:
                ET.SubElement(case, kind, message=_xml(f"{claim['standing']}: {claim['says']}")[:500])
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _kind(row: dict[str, Any]) -> str | None:
    """What a row is in JUnit's words; None for a success. An answer that is always the same is none."""
    return "skipped" if row["proves_nothing"] else _JUNIT.get(row["status"])


def _suite(root: ET.Element, name: str, kinds: Sequence[str | None]) -> ET.Element:
    numbers = {f"{kind}s" if kind != "skipped" else kind: str(kinds.count(kind)) for kind in _JUNIT.values()}
    return ET.SubElement(root, "testsuite", {"name": _xml(name), "tests": str(len(kinds)), **numbers})


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold, whatever they are escaped as."""
    return "".join(one if one in "\t\n" or one.isprintable() else repr(one)[1:-1] for one in text)


def ticket(verdict: dict[str, Any]) -> str:
    """Markdown for an issue tracker: one section for each cause, with all that is needed to look into it.

    A section's fingerprint depends on the runtime's name and the cause alone, so that a defect that is still there in
    the next version, or on another machine, finds the issue that was opened for it.
    """
    failed = [row for row in verdict["results"] if row["status"] == "FAIL" and not row["proves_nothing"]]
    runtime, machine, roster = verdict["runtime"], verdict["machine"], _md(verdict["roster"]["name"])
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in failed:
        groups.setdefault(row["cause"] or row["suite"], []).append(row)
    broken = [claim for claim in verdict["claims"] if claim["status"] == "FAIL"]
    defects = f"{len(groups)} defect{'s' if len(groups) != 1 else ''}, {len(failed)} checks failed"
    defects += f", {len(broken)} claim{'s' if len(broken) != 1 else ''} broken" if broken else ""
    lines = [
        f"# {_md(runtime['name'])} {_md(runtime['version'])}: {defects}",
        "",
        f"* made {_md(verdict['made'])} with trialbench {_md(verdict['trialbench'])}, roster {roster}",
        f"* {_md(machine['system'])}, {_md(machine['processor'])}, {machine['cores']} cores",
    ]
    for claim in verdict["claims"]:
        what = f"{_md(claim['name'])} ({_md(claim['standing'])})"
        lines.append(f"* claim {what}: {claim['status']}: {_md(claim['says'])}")
    if not failed:
        # What is open, or was claimed and is not so, is no reason to say that all is well.
        waiting = verdict["counts"]["INCONCLUSIVE"]
        nothing = "No check failed; the broken claims stand above." if broken else "Nothing failed."
        lines += ["", nothing + (f" {waiting} checks could not be decided." if waiting else "")]
        return "\n".join(lines) + "\n"
    files = {(one["model"], one["quant"]): one for one in verdict["files"]}
    for cause, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
        lines += _section(runtime["name"], cause, rows, files, verdict.get("ladders") or [])
    return "\n".join(lines) + "\n"


_SAID, _CHECKS, _FILES, _PROMPTS = 3, 12, 12, 10
_COMMAND = 20_000


def _section(
    runtime: str,
    cause: str,
    rows: Sequence[dict[str, Any]],
    files: dict[tuple[str, str], dict[str, Any]],
    ladders: Sequence[dict[str, Any]],
) -> list[str]:
    """One defect: what is said of it, which checks meet it, one of them in full, the files, a command."""
    first = rows[0]
    lines = ["", f"## {_md(cause)} ({len(rows)} checks)", "", f"Fingerprint: `{fingerprint(runtime, cause)}`", ""]
    said = list(dict.fromkeys(row["says"] for row in rows))
    lines += [f"* {_md(one)}" for one in said[:_SAID]]
    lines += [f"* and {len(said) - _SAID} more of the kind"] if len(said) > _SAID else []
    lines += ["", f"Met by {_listed(_compact(rows), _CHECKS)}."]
    for title, text in (("Expected", first["expected"]), ("Got", first["got"])):
        if text:
            lines += ["", f"{title} ({_code(label(first))}):", "", _block(text)]
    known = [files[key] for key in sorted({(row["model"], row["quant"]) for row in rows}) if key in files]
    lines += [""] if known else []
    for file in known[:_FILES]:
        made = " -> ".join(file["parents"]) or "made elsewhere"
        size = "not there" if file["bytes"] is None else f"{file['bytes']} bytes, SHA-256 `{file['sha256']}`"
        lines.append(f"* {_md(file['model'])} {_md(file['quant'])}: {size}, {_md(made)}")
    for ladder in ladders:
        if (ladder["model"], ladder["quant"]) in {(row["model"], row["quant"]) for row in rows}:
            lines.append(f"* guilty step of {_md(ladder['model'])} {_md(ladder['quant'])}: {_md(guilty(ladder))}")
    # Whole, however long: a command that was cut is none.
    return [*lines, "", "To reproduce:", "", _block(first["reproduce"], _COMMAND)]


def fingerprint(runtime: str, cause: str) -> str:
    """What an issue tracker is searched for before an issue is opened."""
    return f"gt-{hashlib.sha256(f'{runtime}/{cause}'.encode()).hexdigest()[:12]}"


def _compact(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Labels of the rows; those that differ in the prompt alone become one."""
    prompts: dict[str, list[str]] = {}
    for row in rows:
        prompts.setdefault(label({**row, "prompt": ""}), []).append(row["prompt"])
    return [
        _code(name) + (f" ({_md(_listed(found, _PROMPTS))})" if any(found) else "") for name, found in prompts.items()
    ]


def _listed(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


# An address needs no marks to become a link; entities become the characters that were to be escaped.
_LINKS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)


def _md(text: str) -> str:
    """One line without marks that Markdown or a tracker would act on: links, mentions, HTML."""
    flat = _LINKS.sub("\u200b", line(str(text), 500)).replace("@", "@\u200b")
    return "".join(f"\\{one}" if one in "\\`*_[]<>#|!&~$" else one for one in flat)


def _code(text: str) -> str:
    """One line in a code span: no mark in it can end that."""
    return f"`{line(text, 500).replace('`', chr(39))}`"


def _block(text: str, width: int = 300) -> str:
    """An indented block: no fence that the text could close."""
    shown = [line(one, width) for one in str(text).split("\n")[:20]] or [""]
    return "\n".join(f"    {one}" for one in shown)
