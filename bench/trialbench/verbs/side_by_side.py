"""The verb `engines`: runs of several engines in one table, a line per engine, workload and use of the cache.

Nothing is averaged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialbench.options import Verbs
from trialbench.stats import Quantile


def add(verbs: Verbs) -> None:
    """Add the verb `engines`."""
    engines = verbs.add_parser("engines", help="put runs of several engines into one table")
    engines.add_argument("summaries", type=Path, nargs="+", metavar="SUMMARY.json", help="of `trialbench run`")
    engines.set_defaults(verb=_engines)


def _engines(options: argparse.Namespace) -> int:
    from trialbench.show.terminal import say

    say(_table(options.summaries))
    return 0


def _table(paths: Sequence[Path]) -> str:
    """The summaries of `trialbench run`, in the order given.

    Raises:
        UsageError: one of them can't be read, or is not a summary.
    """
    from trialbench import schemas
    from trialbench.show.text import columns

    rows: list[Sequence[str]] = [("engine", "workload", "cache", "ok/sent", "p50 ms [95 %]", "ttft ms", "tok/s")]
    for path in paths:
        summary = schemas.read(path, "summary", "a summary of `trialbench run`")
        rows += [_row(summary, segment) for segment in summary["segments"].values()]
    return columns(rows)


def _row(summary: dict[str, Any], segment: dict[str, Any]) -> Sequence[str]:
    from trialbench.report.measured import quantile_text
    from trialbench.show.text import number

    cache = segment["cache"]
    asked = "on" if cache["asked"] else "off"
    return (
        summary["model_label"] or summary.get("url") or "unnamed",
        segment["workload"],
        asked if cache.get("as_asked") is not False else f"{asked} (not kept)",
        f"{segment['ok']}/{segment['sent']}",
        quantile_text(_quantile(segment["latency_ms"]["p50"])),
        quantile_text(_quantile(segment["ttft_ms"])),
        number(segment["tokens_per_s"]),
    )


def _quantile(document: dict[str, Any]) -> Quantile:
    return Quantile(**{name: value for name, value in document.items() if name != "text"})
