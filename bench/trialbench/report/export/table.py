"""A run as CSV: one row per sample, for a spreadsheet or pandas (`docs/results.md` has the call)."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from trialbench import schemas
from trialbench.measure.sample import Sample
from trialbench.report.run import Run, Segment
from trialbench.report.summary import Summary
from trialbench.report.telemetry import Joined, joined
from trialbench.show.terminal import screen

# Signs that make a spreadsheet treat a text as a formula, whatever their width and height; replies are untrusted.
_FORMULA = ("=", "+", "-", "@", "\N{MINUS SIGN}")
_NO_WIDTH = ("Cf", "Mn", "Me")
# Where a spreadsheet of another locale, or one that heeds no quotes, begins a new cell.
_BEGINS = re.compile(r"([;|\t\n；｜\u037e])")  # of any width; a Greek question mark becomes a semicolon


def columns() -> list[str]:
    """The names of the columns, in order (`trialbench schema row`)."""
    return list(schemas.load("row")["properties"])


def samples_csv(run: Run, summary: Summary) -> str:
    """The table including warm-ups; rows of a segment are in request order."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    for row in rows(run, summary):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def rows(run: Run, summary: Summary) -> list[dict[str, Any]]:
    """The rows as objects (`trialbench schema row`); unknown values are None."""
    beside = joined(run)
    found = []
    for one, warmup, samples in _sets(run):
        segment, label = one.name, run.model(one.side)
        for sample in samples:
            more = Joined() if warmup else beside[segment].get(sample.seq, Joined())
            row = {"run": summary.run, "host": summary.host, "label": label, "segment": segment, "warmup": warmup}
            row |= vars(sample) | {name: getattr(more, name) for name in _TELEMETRY}
            row |= {"flags": " ".join(dict.fromkeys([*sample.flags, *more.flags])), "parsed": _words(sample.parsed)}
            found.append({name: row.get(name) for name in columns()})
    order = {name: at for at, name in enumerate([*summary.segments, *run.warmed_up])}
    return sorted(found, key=lambda row: (order[row["segment"]], not row["warmup"], row["seq"]))


def _sets(run: Run) -> Iterator[tuple[Segment, bool, Sequence[Sample]]]:
    """Segment, whether these are its warm-ups, and the samples."""
    for segment in (*run.warmed_up.values(), *run.segments.values()):
        yield segment, True, segment.warmups
        yield segment, False, segment.samples
        yield segment, True, [_void(sample) for sample in segment.void_warmups]
        yield segment, False, [_void(sample) for sample in segment.void]


def _void(sample: Sample) -> Sample:
    """The sample with the flag that it does not count."""
    return replace(sample, flags=[*sample.flags, "void"])


_TELEMETRY = ("energy_j", "power_w", "sm_mhz", "temp_c", "load1")


def _words(parsed: list[str] | None) -> str | None:
    return None if parsed is None else " ".join(parsed)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    # What is written counts: `screen` may have changed the beginning of what was read.
    shown = _BEGINS.split(screen(value))
    guarded = "".join(f"'{part}" if _first(part).startswith(_FORMULA) else part for part in shown)
    return f"'{guarded}" if guarded.startswith("\n") else guarded


def _first(text: str) -> str:
    """The first character that counts, in the plain form of all its widths.

    Spaces and quotes may be taken away when the table is read; what has no width is not seen.
    """
    left = (one for one in text if not one.isspace() and one != '"' and unicodedata.category(one) not in _NO_WIDTH)
    return unicodedata.normalize("NFKC", next(left, ""))
