"""The verb `report`: a result folder to its report.html."""

from __future__ import annotations

from pathlib import Path

from trialbench.files import write_atomic
from trialbench.report.html.page import page
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.report.telemetry import joined
from trialbench.show.html import MAX_BYTES, render

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of the result folder `path` to `out`, by default its report.html; returns its path.

    Raises:
        UsageError: no result folder.
        OSError: not writable.
    """
    target = out or path / "report.html"
    write_atomic(target, report_html(path))
    return target


def report_html(path: Path) -> str:
    """The report of the result folder `path` as one HTML document."""
    run = read_run(path)
    found = page(run, summarize_run(run), joined(run))
    return render(_TEMPLATE, max_bytes=MAX_BYTES + (found.differ.picture_bytes if found.differ else 0), page=found)
