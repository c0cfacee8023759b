"""Tables for a terminal: plain text, at most 100 columns, no library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns, two spaces apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def segments_table(summary: dict[str, Any]) -> str:
    """One line of numbers per segment."""
    rows = [("segment", "ok/sent", "p50 ms", "p95 ms", "max", "tok/s", "Hz", "adherent", "remarks")]
    for name, segment in summary["segments"].items():
        rows.append(_segment_row(name, segment))
    return columns(rows)


def _segment_row(name: str, segment: dict[str, Any]) -> tuple[str, ...]:
    latency = segment["latency_ms"]
    adherence = segment["adherence"]
    return (
        name,
        f"{segment['ok']}/{segment['sent']}",
        latency["p50"]["text"],
        latency["p95"]["text"],
        number(latency["max"]),
        number(segment["tokens_per_s"]),
        number(segment["effective_hz"]["from_p50"]),
        f"{adherence['k']}/{adherence['n']}" if adherence else "-",
        ", ".join(remarks(segment)),
    )


def number(value: float | None, digits: int = 1) -> str:
    """`value` with `digits` decimals, `-` for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def remarks(segment: dict[str, Any]) -> list[str]:
    """What a reader must know about a segment beside its numbers."""
    found = [f"{count} {name}" for name, count in segment["errors"].items()]
    if segment["stopped"]:
        found.append(f"stopped: {segment['stopped']}")
    if segment["cut_off"]:
        found.append(f"{segment['cut_off']} cut off")
    if segment["cache"]["as_asked"] is False:
        found.append("cache not as asked")
    if segment["drift"] and segment["drift"]["drifted"]:
        found.append("drift")
    if segment["outliers"]:
        found.append(f"{len(segment['outliers'])} outliers")
    return found
