"""A run in other tools' formats: JUnit for CI, CSV for tables, OpenMetrics for monitoring.

They are written to `exports/` in the run's folder and regenerated each time; nothing is read back from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialbench.files import write_atomic
from trialbench.report.export.junit import junit
from trialbench.report.export.openmetrics import openmetrics
from trialbench.report.export.table import samples_csv
from trialbench.report.run import Run, read_run
from trialbench.report.summary import Summary, summarize_run

Writer = Callable[[Run, Summary], str]


@dataclass(frozen=True)
class Export:
    """One format: the file it becomes, and what makes its text of folder and summary."""

    file: str
    write: Writer


FORMATS = {
    "junit": Export("junit.xml", junit),
    "csv": Export("samples.csv", samples_csv),
    "openmetrics": Export("metrics.prom", openmetrics),
}


def write_exports(path: Path, formats: Sequence[str] = ()) -> list[Path]:
    """Write the run in `path` in these formats, or in all; returns the files.

    Raises:
        UsageError: no result folder.
        OSError: the folder is not writable.
    """
    run = read_run(path)
    summary = summarize_run(run)
    target = path / "exports"
    target.mkdir(exist_ok=True)
    written = []
    for name in formats or FORMATS:
        export = FORMATS[name]
        write_atomic(target / export.file, export.write(run, summary))
        written.append(target / export.file)
    return written
