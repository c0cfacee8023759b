"""Numbers and lines on a terminal: plain text, at most 100 columns, no library."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from trialbench.show.terminal import screen

WIDTH = 100
_BARS = "▁▂▃▄▅▆▇█"
# Marks a sparkline bar with at least one failed sample.
_FAILED = "x"
# A narrower scale would exaggerate noise.
_FLAT = 1.5


def number(value: float | None) -> str:
    """`value` with one decimal, from 100 on with none; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns, two spaces apart."""
    rows = [[screen(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def section(title: str, text: str) -> str:
    """`text` indented below `title`; nothing for an empty text."""
    return f"{title}\n{textwrap.indent(text, '  ')}" if text else ""


def wrap(text: str) -> str:
    """`text` wrapped to fit; its own line ends are kept, because it may hold logs and commands."""
    return "\n".join(_wrap_line(line) for line in screen(text).split("\n"))


def _wrap_line(line: str) -> str:
    indent = " " * min(12, len(line) - len(line.lstrip(" ")))
    wrapped = textwrap.wrap(line.strip(" "), WIDTH - 4, initial_indent=indent, subsequent_indent=f"{indent}    ")
    return "\n".join(wrapped)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """`values` in their order as at most `width` bars on a logarithmic scale from the smallest to the largest.

    A bar of several values shows the largest, so that no spike is lost. None is a sample without a value: `x`.
    """
    known = [value for value in values if value is not None and value > 0]
    if not known:
        return _FAILED * min(len(values), width)
    low = min(known)
    scale = math.log(max(max(known) / low, _FLAT))
    count = min(len(values), width)
    bars = []
    for at in range(count):
        group = values[at * len(values) // count : (at + 1) * len(values) // count]
        if None in group:
            bars.append(_FAILED)
        else:
            top = math.log(max(low, *(value for value in group if value is not None)) / low) / scale
            bars.append(_BARS[min(len(_BARS) - 1, int(top * len(_BARS)))])
    return "".join(bars)
