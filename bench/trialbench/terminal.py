"""What is printed: the words of strangers (models, servers, logs) are shown on a terminal, never obeyed by it."""

from __future__ import annotations

import sys
from typing import TextIO


def screen(text: str) -> str:
    """`text` with control characters, marks of direction and halves of surrogates escaped; line ends are kept."""
    return "".join(one if one == "\n" or one.isprintable() else _escaped(one) for one in text.expandtabs())


def line(text: str, limit: int) -> str:
    """`text` on one line, its line ends escaped too, cut to `limit` characters."""
    shown = "".join(one if one.isprintable() else _escaped(one) for one in text[:limit])
    return shown if len(text) <= limit and len(shown) <= limit else shown[: limit - 3] + "..."


def say(text: str, stream: TextIO | None = None) -> None:
    """Print `text` for people, to standard output or `stream`."""
    print(screen(text), file=stream or sys.stdout, flush=stream is not None)


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
