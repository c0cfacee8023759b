"""Finds JSON in a program's output, between whatever else it printed, and says what its values may be. Only `sound`
raises, whatever the bytes are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

# Colors and titles: CSI and OSC sequences, and single-character escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_STARTS = re.compile(r"[{\[]")
# What follows a bracket in a document, and hardly in a line of progress such as `[1/2]` or `{50%}`.
_BEGUN = re.compile(r'\{\s*"|\[\s*[{"]')
_NEXT_LINE = re.compile(r"\n(?=\S)")
# Hostile output can hold a bracket in every place; ours holds a few values.
_TRIES, _DEPTH = 2_000, 64
# No vocabulary is larger, and nothing generates faster; Python's whole numbers have no end of their own.
_HIGHEST_ID, _FASTEST = 2**31, 1e12


def plain(text: str) -> str:
    """Without terminal escape sequences."""
    return _ESCAPES.sub("", text)


def find_json(text: str, keys: Sequence[str]) -> tuple[Any | None, str]:
    """The last value in `text` that has `keys`: an object, or an array whose first element is one that has them.

    Returns:
        The value, or None; and for None the keys of the last object that lacks one, for the message (else empty).
    """
    text = plain(text)
    found, near, end, tries = None, "", 0, 0
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for match in _STARTS.finditer(text):
        place = match.start()
        if place < end:
            continue
        tries += 1
        if tries > _TRIES:
            break
        try:
            value, end = decoder.raw_decode(text, place)
            value = sound(value)
        except (ValueError, RecursionError):
            # A complete part of a truncated document is no answer: continue where another document could begin.
            if _BEGUN.match(text, place):
                line = _NEXT_LINE.search(text, place)
                end = line.end() if line else len(text)
            continue
        named = value[0] if isinstance(value, list) and value else value
        if isinstance(named, dict) and all(key in named for key in keys):
            found = value
        elif isinstance(named, dict):
            near = f"it has {', '.join(list(named)[:12]) or 'no keys'}"[:300]
    return found, "" if found is not None else near


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def sound(value: Any, depth: int = _DEPTH) -> Any:
    """The value with half characters (lone surrogates) replaced.

    Raises:
        ValueError: it is nested too deeply to be an answer.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth == 0 and isinstance(value, dict | list):
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [sound(one, depth - 1) for one in value]
    if isinstance(value, dict):
        return {sound(key, depth): sound(one, depth - 1) for key, one in value.items()}
    return value


def is_whole(value: Any) -> bool:
    """A whole number from 0 on; `true` does not count."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def token_ids(value: Any) -> tuple[int, ...] | None:
    """A list of token ids; None when it is anything else."""
    if not isinstance(value, list) or not all(is_whole(one) and one < _HIGHEST_ID for one in value):
        return None
    return tuple(value)


def speed(value: Any) -> float | None:
    """Tokens per second; None when it is not a speed at all."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _FASTEST
    return float(value) if good else None


def number(value: Any) -> float | None:
    """A finite number; None when it is anything else, or one that no float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None
