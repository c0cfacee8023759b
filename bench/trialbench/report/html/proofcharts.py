"""Engine proofs in a report: numbers as bars against their limits, and all of them as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trialbench.report.proofs import Number, Proof
from trialbench.show.figures import LEFT, RIGHT, Figure, Key, Table, drawings, line, rectangle, swatch, text
from trialbench.show.svg import Scale, join, symbol, tick_text, value_scale
from trialbench.show.text import cells

_STEP, _TRACK, _BAR = 46.0, 16.0, 7.0
# Enough for four engines with three proofs each.
_MOST_DRAWN = 12
_KEYS = [
    Key(swatch("fill kept"), "as expected"),
    Key(swatch("fill missed"), "not as expected"),
    Key(swatch("healthy"), "expected range"),
    Key(swatch("one", "line"), "limit"),
    Key(swatch("outlier", "dot"), "a single repetition"),
]


@dataclass(frozen=True)
class Shown:
    """The proofs of one engine; `figure` is None if no number has a limit to draw."""

    engine: str
    ok: bool
    figure: Figure | None
    tables: list[Table]


def shown(proofs: Sequence[Proof]) -> tuple[list[Shown], int]:
    """The proofs by engine, as they are shown, and how many more there are."""
    drawn = proofs[:_MOST_DRAWN]
    found = []
    for at, engine in enumerate(dict.fromkeys(proof.engine for proof in drawn), 1):
        own = [proof for proof in drawn if proof.engine == engine]
        figure = _figure(f"proof-{at}", [number for proof in own for number in proof.judged if _is_drawn(number)])
        found.append(Shown(engine, all(proof.ok for proof in own), figure, [_table(proof) for proof in own]))
    return found, len(proofs) - len(drawn)


def _is_drawn(number: Number) -> bool:
    """Whether a bar adds anything: a count that equals its limit needs none."""
    return number.relation != "=" or not number.ok


def _table(proof: Proof) -> Table:
    word = "passed" if proof.ok else "FAILED"
    made = proof.made[:16].replace("T", " ")
    return Table(
        f"{proof.title}: {word} ({made} UTC)",
        ["number", "found", "expected", "finding", "what it is"],
        [[one.name, one.found, one.expected or "-", one.word or "-", one.detail or "-"] for one in proof.numbers],
        numbers=(1, 2),
        prose=(4,),
    )


def _figure(name: str, numbers: Sequence[Number]) -> Figure | None:
    """One row per number, each on its own scale, since the numbers share no unit."""
    if not numbers:
        return None

    def draw(width: float) -> tuple[Markup, float]:
        return join(_row(number, 6 + _STEP * at, width) for at, number in enumerate(numbers)), 6 + _STEP * len(numbers)

    title = "Found and expected"
    told = "; ".join(f"{one.name} {one.found}, expected {one.expected}: {one.word}" for one in numbers)
    wide, narrow = drawings(name, title, told, draw)
    caption = "Each row has its own scale, starting at 0."
    return Figure(name, title, told, wide, narrow, keys=_KEYS, caption=caption)


def _row(number: Number, top: float, width: float) -> Markup:
    left, right, limit = LEFT / 2, width - RIGHT, number.limit or 0.0
    known = [limit, *number.singles, *([] if number.value is None else [number.value])]
    scale = value_scale(known, left, right, zero=True)
    track, kind = top + 18, "kept" if number.ok else "missed"
    word = "" if number.ok else "FAILED "
    told = f"{word}{number.name} {number.found}, expected {number.expected}"
    reach = f"to {tick_text(scale.high)} {number.unit}".rstrip() if width > 500 else ""
    # Of the row, at most a third tells how far it reaches.
    aside = min((right - left) / 3, 8.0 * (cells(reach) + 2)) if reach else 0.0
    parts = [text(left, top + 11, told, kind="t strong", room=right - left - aside)]
    if reach:
        parts.append(text(right, top + 11, reach, anchor="end", room=aside))
    low, high = _expected(number, scale)
    parts.append(rectangle(left, track, right - left, _TRACK, "track"))
    parts.append(rectangle(low, track, high - low, _TRACK, "healthy"))
    if number.value is not None:
        x, zero = scale(number.value), scale(0.0)
        bar = rectangle(min(x, zero), track + (_TRACK - _BAR) / 2, abs(x - zero), _BAR, f"fill {kind}")
        parts.append(bar)
    parts += [symbol("dot", scale(one), track + _TRACK / 2, 2.4, class_="outlier") for one in number.singles]
    parts.append(line(scale(limit), track - 2, scale(limit), track + _TRACK + 2, "one"))
    if not number.ok:
        at = left + 8 if number.value is None else scale(number.value)
        parts.append(symbol("cross", at, track + _TRACK / 2, 4.5, class_="fill failed"))
    return join(parts)


def _expected(number: Number, scale: Scale) -> tuple[float, float]:
    """The expected range in pixels; for `=`, the limit itself."""
    at = scale(number.limit or 0.0)
    if number.relation in ("<", "<="):
        return scale.start, at
    if number.relation in (">", ">="):
        return at, scale.end
    return max(scale.start, at - 3), min(scale.end, at + 3)
