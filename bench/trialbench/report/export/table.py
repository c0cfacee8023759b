"""A run as CSV: one row per sample, ready for a spreadsheet or `pandas.read_csv`."""

from __future__ import annotations

import csv
import io
from typing import Any

from trialbench import schemas
from trialbench.report.folder import Folder
from trialbench.report.telemetry import joined
from trialbench.show.terminal import screen

# Prefixes that make a spreadsheet treat a text as a formula; replies are untrusted.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def columns() -> list[str]:
    """The names of the columns, in order (`trialbench schema row`)."""
    return list(schemas.load("row")["properties"])


def samples_csv(folder: Folder, summary: dict[str, Any]) -> str:
    """The table including warm-ups; rows of a segment are in request order."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    for row in rows(folder, summary):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def rows(folder: Folder, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows as objects (`trialbench schema row`); unknown values are None."""
    beside = joined(folder)
    found = []
    for warmup, segments in ((True, folder.warmups), (False, folder.samples)):
        for segment, samples in segments.items():
            label = summary["baseline_label"] if "baseline" in segment else summary["model_label"]
            for sample in samples:
                more = {} if warmup else beside.get(segment, {}).get(sample["seq"], {})
                row = {"run": summary["run"], "host": summary["host"], "label": label, "segment": segment}
                row |= {"warmup": warmup, **sample, **{name: more.get(name) for name in _TELEMETRY}}
                flags = [*sample["flags"], *(flag for flag in more.get("flags", []) if flag not in sample["flags"])]
                row |= {"flags": " ".join(flags), "parsed": _words(sample["parsed"])}
                found.append({name: row.get(name) for name in columns()})
    order = {
        name: at for at, name in enumerate(dict.fromkeys([*summary["segments"], *folder.samples, *folder.warmups]))
    }
    return sorted(found, key=lambda row: (order[row["segment"]], not row["warmup"], row["seq"]))


_TELEMETRY = ("energy_j", "power_w", "sm_mhz", "temp_c", "load1")


def _words(parsed: list[str] | None) -> str | None:
    return None if parsed is None else " ".join(parsed)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    shown = screen(value)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
