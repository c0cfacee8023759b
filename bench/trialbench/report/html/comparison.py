"""The page of `trialbench compare`: runs side by side, with charts and links to their reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from trialbench import __version__
from trialbench.files import write_atomic
from trialbench.measure.sample import wall_clock
from trialbench.report.compare import Row, differences, impacts, run_rows
from trialbench.report.html import charts
from trialbench.report.html.page import VERDICTS
from trialbench.show.figures import Figure
from trialbench.show.html import render

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
        entries=entries,
        lost=impacts(rows),
        differences=differences(rows),
        figures=[figure for figure in (_ratios(measured), _medians(measured)) if figure],
        hidden=max(0, len(paths) - _MOST_ROWS),
        version=__version__,
        written=wall_clock(),
    )
    write_atomic(out, document)
    return out


def _label(row: Row) -> str:
    return " ".join(part for part in (row.host, row.date, row.model) if part != "-")[:60]


def _ratios(rows: Sequence[Row]) -> Figure | None:
    return charts.ratios(
        [(_label(row), row.latency) for row in rows if row.latency], title="Latency against the baseline"
    )


def _medians(rows: Sequence[Row]) -> Figure | None:
    return charts.medians([(_label(row), *row.p50) for row in rows])


def _report(row: Row, out: Path) -> str:
    """Path of the run's own report relative to the page; empty if there is none."""
    report = None if row.path is None else row.path / "report.html"
    if report is None or not report.is_file():
        return ""
    return quote(os.path.relpath(report.resolve(), out.resolve().parent))
