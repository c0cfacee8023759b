"""A verdict on a terminal: tables and progress. Everything a runtime said is untrusted text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from trialbench.ground_truth.suites.results import Result, Row
from trialbench.show.terminal import line, say
from trialbench.show.text import columns, counted, wrap

if TYPE_CHECKING:
    from trialbench.ground_truth.controls.run import Caught

_WIDTH = 110
_WORDS = {"PASS": "pass", "FAIL": "FAIL", "INCONCLUSIVE": "?", "NOT APPLICABLE": "n/a"}


def label(row: dict[str, Any]) -> str:
    """`token tiny-llama Q8_0 code` of a published result."""
    return Row(row["suite"], row["model"], row["quant"], row["other"], row["prompt"]).label


def table(verdict: dict[str, Any]) -> str:
    """The verdict, no wider than the terminal: a line for each suite, what failed or could not be decided, claims."""
    rows = verdict["results"]
    runtime, counts = verdict["runtime"], verdict["counts"]
    who = f"{line(runtime['name'], 20)} {line(runtime['version'], 60)}, roster {verdict['roster']['name']}"
    who = f"{who}, {verdict['seconds']:.1f} s, {counted(verdict['loads'], 'model')} loaded"
    suites: list[Sequence[str]] = [("suite", *_WORDS.values(), "")]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        numbers = [str(sum(row["status"] == status for row in mine)) for status in _WORDS]
        suites.append((suite, *numbers, "proves nothing" if all(row["proves_nothing"] for row in mine) else ""))
    head, lines = [wrap(who), "", columns(suites)], list[str]()
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
        lines += [f"  {', '.join(names)}: {line(says, _WIDTH)}" for says, names in by_reason.items()]
    guilt = verdict.get("ladders") or []
    if guilt:
        lines += ["", "Guilty step:"]
        lines += [f"  {one['model']} {one['quant']}: {line(guilty(one), _WIDTH)}" for one in guilt]
    if verdict["claims"]:
        lines += ["", "Claims:"]
        for claim in verdict["claims"]:
            word = _WORDS[claim["status"]]
            lines.append(f"  {word:<5}{claim['name']} ({claim['standing']}): {line(claim['says'], _WIDTH)}")
    lines += ["", _sum(verdict["verdict"], counts)]
    return "\n".join([*head, *map(wrap, lines)])


class Progress:
    """The rows as they are judged: on a terminal one line that is overwritten, elsewhere only the messages."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._numbers = dict.fromkeys(_WORDS, 0)

    def __call__(self, done: int, total: int, result: Result) -> None:
        """One row more."""
        self._numbers[result.status.value] += 1
        if self._live:
            counts = ", ".join(f"{number} {_WORDS[status]}" for status, number in self._numbers.items() if number)
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
        return "no step is shown to be at fault" + (f"; not compared: {missing}" if missing else "")
    return f"{rungs[at]['step']}{f' (or, not compared: {missing})' if missing else ''}: {rungs[at]['says']}"


def _sum(verdict: str, counts: dict[str, int]) -> str:
    silent = counts["declared"] - counts["probative"]
    nothing = f", {silent} of them prove nothing" if silent else ""
    parts = ", ".join(f"{counts[status]} {status}" for status in _WORDS)
    return f"{verdict}: {counted(counts['declared'], 'check')} declared{nothing}: {parts}"


def controls_table(caught: Sequence[Caught], uncovered: Sequence[str]) -> str:
    """Which suite caught which control."""
    lines = ["Negative controls:"]
    for one in caught:
        word = "caught" if one.good else "MISSED" if one.tried else "-"
        by = f"by {', '.join(one.by)}" if one.by else "by no suite"
        lines.append(f"  {word:<7}{one.control.name} ({one.control.wrong}): {by}")
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
        lines.append(f"  {name}: it caught no control, so nothing shows that it can fail")
    good = sum(one.good for one in caught)
    untried = sum(not one.tried for one in caught)
    lines.append(f"{good} of {len(caught)} controls rejected" + (f", {untried} could not be tried" if untried else ""))
    return "\n".join(map(wrap, lines))
