"""A verdict as a Markdown ticket: one section for each cause. Everything a runtime said is untrusted text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from trialbench.ground_truth.output.table import guilty, label
from trialbench.show.terminal import line
from trialbench.show.text import counted


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
    defects = f"{counted(len(groups), 'defect')}, {counted(len(failed), 'check')} failed"
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
        nothing = "No check failed; the broken claims are listed above." if broken else "Nothing failed."
        lines += ["", nothing + (f" {counted(waiting, 'check')} could not be decided." if waiting else "")]
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
    """One defect: what is said about it, which checks meet it, one of them in full, the files, a command."""
    first = rows[0]
    lines = [
        "",
        f"## {_md(cause)} ({counted(len(rows), 'check')})",
        "",
        f"Fingerprint: `{fingerprint(runtime, cause)}`",
        "",
    ]
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
    # Never cut, however long: a truncated command would not work.
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


# Bare addresses become links without markup, and entities would undo our escapes.
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
