"""The page of `trialbench compare`: runs side by side, with charts and links to their reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from trialbench import __version__
from trialbench.files import is_file, write_atomic
from trialbench.measure.sample import wall_clock
from trialbench.report.compare import Row, differences, impacts, run_rows
from trialbench.report.html import charts
from trialbench.report.html.page import VERDICTS
from trialbench.show.figures import Figure
from trialbench.show.html import render
from trialbench.show.text import counted

_TEMPLATE = Path(__file__).parent / "templates" / "compare.html.j2"

# Limits of the page; a chart has 46 pixels per row.
_MOST_ROWS, _MOST_DRAWN = 300, 40
_KINDS = {word: (kind, sign) for word, kind, sign in VERDICTS.values()}


@dataclass(frozen=True)
class Entry:
    """A run in the table: its row, its report if there is one beside it, class and sign of its verdict."""

    row: Row
    href: str
    kind: str
    sign: str


def write_comparison(paths: Sequence[Path], out: Path, without: Sequence[tuple[str, str]] = ()) -> Path:
    """Write the comparison of result folders to `out`; returns it. Arguments as for `compare.run_rows`.

    Raises:
        OSError: not writable.
    """
    rows = run_rows(paths[:_MOST_ROWS], without[:_MOST_ROWS])
    entries = [Entry(row, _report(row, out), *_KINDS.get(row.verdict, ("wait", ""))) for row in rows]
    measured = [row for row in rows if row.p50][:_MOST_DRAWN]
    document = render(
        _TEMPLATE,
        title=f"{counted(len(entries), 'run')} side by side",
        entries=entries,
        lost=impacts(rows),
        differences=differences(rows),
        figures=[figure for figure in (_ratios(measured), _medians(measured)) if figure],
        hidden=len(paths) + len(without) - len(entries),
        version=__version__,
        written=wall_clock(),
    )
    write_atomic(out, document)
    return out


def _labels(rows: Sequence[Row]) -> list[str]:
    """The name of each row in a chart: model, host and date, but for what all rows share."""
    parts = [[row.model, row.host, row.date] for row in rows]
    telling = [at for at in range(3) if len({part[at] for part in parts}) > 1]
    if len(parts) < 2 or not telling:
        telling = [0, 1, 2]
    return [" ".join(part[at] for at in telling if part[at] != "-") for part in parts]


def _ratios(rows: Sequence[Row]) -> Figure | None:
    measured = [row for row in rows if row.latency]
    pairs = [(label, row.latency) for label, row in zip(_labels(measured), measured, strict=True) if row.latency]
    return charts.ratios(pairs, title="Latency against the baseline")


def _medians(rows: Sequence[Row]) -> Figure | None:
    return charts.medians([(label, *row.p50) for label, row in zip(_labels(rows), rows, strict=True)])


def _report(row: Row, out: Path) -> str:
    """Path of the run's own report, relative to the page if this is a file; empty if there is none."""
    report = None if row.path is None else row.path / "report.html"
    if report is None or not report.is_file():
        return ""
    # Where a page goes that is printed or piped, nobody knows.
    return quote(os.path.relpath(report.resolve(), out.resolve().parent) if is_file(out) else str(report.resolve()))
