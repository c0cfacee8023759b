"""Runs of several engines in one table: a line per engine, workload and use of the cache; nothing is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import read_json
from trialbench.show.text import columns, number, quantile_text


def engines_table(paths: Sequence[Path]) -> str:
    """The summaries of `trialbench run`, in the order given.

    Raises:
        UsageError: one of them can't be read, or is no summary.
    """
    rows: list[Sequence[str]] = [("engine", "workload", "cache", "ok/sent", "p50 ms [95 %]", "ttft ms", "tok/s")]
    for path in paths:
        summary = read_json(path)
        problems = schemas.validate(summary, "summary")
        if problems:
            raise UsageError(f"{path}: expected a summary of `trialbench run`, found: {problems[0]}")
        rows += [_row(summary, segment) for segment in summary["segments"].values()]
    return columns(rows)


def _row(summary: dict[str, Any], segment: dict[str, Any]) -> Sequence[str]:
    cache = segment["cache"]
    asked = "on" if cache["asked"] else "off"
    return (
        summary["model_label"] or summary.get("url") or "unnamed",
        segment["workload"],
        asked if cache.get("as_asked") is not False else f"{asked} (not kept)",
        f"{segment['ok']}/{segment['sent']}",
        quantile_text(segment["latency_ms"]["p50"]),
        quantile_text(segment["ttft_ms"]),
        number(segment["tokens_per_s"]),
    )
