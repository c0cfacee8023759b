"""Minimal SVG: elements as escaped text, scales, ticks.

Colors are CSS classes, which follow light, dark and paper. Each drawing also carries those of the light scheme as
presentation attributes, which any style overrides: a server may send a policy that forbids styles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from trialbench.show.terminal import screen

Attribute = str | float | None

_INK, _MUTED, _CARD = "#1d1c1a", "#5b5750", "#ffffff"
_GOOD, _BAD, _WARN = "#1b6638", "#a01d1a", "#7f5200"
_A1, _B, _A2 = "#0b62a3", "#b2420b", "#00705a"
# The color that a class gives to the classes beside it, as `--c` in style.css.
_COLORS = {"a1": _A1, "b": _B, "a2": _A2, "worse": _BAD, "better": _GOOD, "failed": _BAD, "kept": _GOOD, "missed": _BAD}
_COLOR = "--c"
_PHASES = ("#5f646b", _WARN, "#74399a", _B, _A1, "#5f646b")
# Presentation attributes by class, in the order in which they override each other; what is black anyway has none.
_INKS: dict[str, dict[str, Attribute]] = {
    "ground": {"fill": _CARD},
    "name": {"fill": _MUTED},
    "on": {"fill": _CARD, "font_size": 11.0, "font_weight": "700"},
    "strong": {"font_weight": "650"},
    "grid": {"stroke": "#e7e3da"},
    "axis": {"stroke": _MUTED},
    "one": {"stroke": _INK, "stroke_width": 1.2},
    "band": {"fill": _MUTED, "fill_opacity": 0.22},
    "interval": {"fill": _MUTED, "fill_opacity": 0.2},
    "fill": {"fill": _COLOR, "stroke": _CARD, "stroke_width": 0.6},
    "soft": {"fill_opacity": 0.75, "stroke": "none"},
    "whisker": {"stroke": _COLOR, "stroke_width": 2.0},
    "curve": {"fill": "none", "stroke": _COLOR, "stroke_width": 2.0},
    "median": {"stroke": _COLOR, "stroke_width": 1.4, "stroke_dasharray": "5 3"},
    "outlier": {"fill": "none", "stroke": _INK, "stroke_width": 1.1},
    "track": {"fill": "#e7e3da"},
    "tick": {"stroke": _BAD, "stroke_width": 1.6},
    "phase": {"fill_opacity": 0.13},
    "disc": {"stroke": "none"},
    **{f"p{at}": {"fill": color} for at, color in enumerate(_PHASES, 1)},
    "area": {"fill": "none", "stroke": _INK, "stroke_width": 1.8},
    "strip": {"fill": "none", "stroke": _A1, "stroke_width": 1.5},
    "healthy": {"fill": _GOOD, "fill_opacity": 0.25},
    "abort": {"stroke": _BAD, "stroke_width": 2.0, "stroke_dasharray": "2 3"},
    "gate": {"fill": _CARD, "stroke": _GOOD, "stroke_width": 2.0},
    "lost": {"fill": _BAD, "fill_opacity": 0.85},
    "edge": {"stroke": _BAD, "stroke_width": 1.5},
    "stopping": {"fill": _WARN},
    "down": {"fill": _MUTED},
    "starting": {"fill": _A1},
    "up": {"stroke": _GOOD, "stroke_width": 3.0},
}
# Classes that mean something else together.
_TOGETHER: dict[tuple[str, str], dict[str, Attribute]] = {
    ("fill", "failed"): {"fill": "none", "stroke": _BAD, "stroke_width": 2.0},
    ("gate", "failed"): {"fill": _BAD, "stroke": _BAD},
    ("curve", "a2"): {"stroke_dasharray": "7 3"},
}
Point = tuple[float, float]


def element(name: str, *children: str, **attributes: Attribute) -> Markup:
    """One element. Text among the children and attributes is escaped; an attribute that is None is left out.

    A trailing underscore is cut from an attribute's name (`class_`), the others become dashes (`text_anchor`). What a
    class looks like without a style is added.
    """
    kind = attributes.get("class_")
    if isinstance(kind, str):
        attributes = {**attributes, **_inks(kind)}
    found = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(child if isinstance(child, Markup) else str(escape(screen(child))) for child in children)
    return Markup(f"<{name}{found}>{inside}</{name}>" if inside else f"<{name}{found}/>")


@functools.cache
def _inks(kind: str) -> dict[str, Attribute]:
    """The presentation attributes of an element with the classes `kind`."""
    classes = kind.split()
    found: dict[str, Attribute] = {}
    for name, inks in _INKS.items():
        if name in classes:
            found |= inks
    for names, inks in _TOGETHER.items():
        if set(names) <= set(classes):
            found |= inks
    color = next((color for name, color in _COLORS.items() if name in classes), None)
    return {name: color if value == _COLOR else value for name, value in found.items()}


def group(parts: Iterable[str], kind: str) -> Markup:
    """Elements without a class of their own that share one: of hundreds of symbols, each would say it again."""
    return element("g", *parts, class_=kind)


def join(parts: Iterable[str]) -> Markup:
    """Concatenated elements."""
    return Markup("").join(parts)


def _value(value: str | float) -> str:
    return str(escape(screen(value))) if isinstance(value, str) else coordinate(value)


def coordinate(value: float) -> str:
    """A coordinate with two decimals, trailing zeros removed; non-finite numbers become 0."""
    if not math.isfinite(value):
        return "0"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def path(points: Sequence[Point], *, closed: bool = False) -> str:
    """The attribute `d` of a line through `points`."""
    steps = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
    return f"M{steps}{'Z' if closed else ''}" if points else ""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`; outside of them it clips."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values within the scale."""
        if self.high <= self.low:
            return [self.low]
        if self.logarithmic:
            return _log_ticks(self.low, self.high, count)
        rough = (self.high - self.low) / max(1, count)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(at * step, 12) for at in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    for factors in ((1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,)):
        found = [
            factor * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factor in factors
            if low * 0.999 <= factor * 10.0**power <= high * 1.001
        ]
        if len(found) <= count:
            break
    every = math.ceil(len(found) / max(1, count)) if found else 1
    return found[::every] or [low, high]


def value_scale(values: Iterable[float], start: float, end: float, *, zero: bool = False) -> Scale:
    """A scale that holds all `values` with a little air.

    It is logarithmic when the largest is more than eight times the smallest, which must then be above zero; `zero`
    asks for a linear scale from zero on.
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if zero:
        return Scale(min(0.0, low), high * 1.08 if high > 0 else 1.0, start, end)
    if low > 0 and high / low > 8:
        return Scale(low / 1.1, high * 1.1, start, end, logarithmic=True)
    air = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return Scale(low - air if low < 0 else max(0.0, low - air), high + air, start, end)


def tick_text(value: float, digits: int = 4) -> str:
    """A tick's label, as short as it can be, with `digits` that count; whole digits are never left out."""
    whole = len(f"{abs(value):.0f}")
    return f"{value:.{digits}g}" if whole <= digits else f"{value:.0f}"


def tick_texts(values: Sequence[float]) -> list[str]:
    """The labels of ticks: each as short as it can be, and exact compared with the distance to the next tick."""
    gap = min((abs(later - earlier) for earlier, later in pairwise(values)), default=math.inf)
    found: list[str] = []
    for digits in range(4, 16):
        found = [tick_text(value, digits) for value in values]
        if all(abs(float(label) - value) <= gap / 100 for label, value in zip(found, values, strict=True)):
            break
    return found


def symbol(
    kind: str, x: float, y: float, size: float = 3.4, *, note: str | None = None, **attributes: Attribute
) -> Markup:
    """A symbol whose shape carries the same meaning as its color: dot, square, triangle, diamond, cross, ring.

    `note` is shown when a pointer rests on it.
    """
    inside = [] if note is None else [element("title", note)]
    if kind in ("dot", "ring"):
        return element("circle", *inside, cx=x, cy=y, r=size if kind == "dot" else size * 1.7, **attributes)
    if kind == "square":
        side = size * 1.8
        return element("rect", *inside, x=x - side / 2, y=y - side / 2, width=side, height=side, **attributes)
    s = size * 1.25
    if kind == "cross":
        strokes = path([(x - s, y - s), (x + s, y + s)]) + path([(x - s, y + s), (x + s, y - s)])
        return element("path", *inside, d=strokes, **attributes)
    points = {
        "triangle": [(x, y - s), (x + s, y + s * 0.8), (x - s, y + s * 0.8)],
        "diamond": [(x, y - s * 1.2), (x + s, y), (x, y + s * 1.2), (x - s, y)],
    }[kind]
    return element("path", *inside, d=path(points, closed=True), **attributes)
