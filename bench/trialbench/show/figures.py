"""The parts of a chart: a wide drawing, a narrow one for phones, a legend, and the data as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from trialbench.show.svg import Point, Scale, coordinate, element, join, path, symbol, tick_texts
from trialbench.show.terminal import line as fitting
from trialbench.show.text import apart, cells

WIDE, NARROW = 760, 350
LEFT, RIGHT = 46.0, 12.0
_LONGEST, _TITLE, _DESCRIPTION = 1000, 120, 1000
# Pixels of a tick's digit, and on average of a label's letter, plain and bold, in the widest of the system's fonts.
_DIGIT, _LETTER, _BOLD = 8.0, 7.5, 8.6
# The widest letters, and how much wider than the average they are, in letters: a label may have nothing else. One in
# four is in the average.
_WIDE, _WIDER = "MW@mw%", 0.9
# Letters that a name has at least, and that there is room for at least.
_FEWEST, _ROOM = 8, 12
# Letters are this much smaller in the narrow drawing (style.css).
_SMALL = 11.5 / 12.5
# Between baselines: from the topmost tick up to the title, from a horizontal axis down to its ticks, to its title and
# to the end of the drawing. A line of any font fits in between.
_ABOVE, _TICKS, _NAME = 19, 17, 37
BELOW = 44.0


@dataclass(frozen=True)
class Table:
    """A table as text; the first cell of each row is its header.

    `numbers`: columns that are aligned as numbers; `prose`: columns of sentences, which need room.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    prose: Sequence[int] = ()


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a little drawing, and what it means."""

    drawing: Markup
    text: str


@dataclass(frozen=True)
class Figure:
    """A chart. `description` is for those who can't see it, `caption` stands below it, `table` holds its data."""

    id: str
    title: str
    description: str
    wide: Markup
    narrow: Markup
    keys: list[Key] = field(default_factory=list)
    caption: str = ""
    table: Table | None = None


# Draws into a given width and says how high it became.
Draw = Callable[[float], tuple[Markup, float]]


def drawings(name: str, title: str, description: str, draw: Draw) -> tuple[Markup, Markup]:
    """The wide and the narrow drawing of one chart."""
    found = []
    for width, variant in ((WIDE, "wide"), (NARROW, "narrow")):
        inside, height = draw(float(width))
        head = f"{name}-{variant}"
        found.append(
            element(
                "svg",
                element("title", fitting(title, _TITLE), id=f"{head}-title"),
                element("desc", fitting(description, _DESCRIPTION), id=f"{head}-desc"),
                # Without a style, the page may be dark and the texts are black.
                rectangle(0, 0, width, height, "ground"),
                inside,
                viewBox=f"0 0 {width} {coordinate(height)}",
                width=float(width),
                height=height,
                # Without a style, one of the two is enough.
                display="none" if variant == "narrow" else None,
                font_family="sans-serif",
                font_size=12.5,
                class_=f"chart {variant}",
                role="img",
                aria_labelledby=f"{head}-title {head}-desc",
            )
        )
    return found[0], found[1]


def labels(
    names: Sequence[str], room: float, *, says: Sequence[str] = (), kind: str = "t", small: bool | None = None
) -> list[str]:
    """Each name so short that `room` pixels hold it and what it `says`, in a font of any width.

    Names that differ stay different, and what stands behind them stays whole. Letters are `small` in the narrow
    drawing, which is told by the room where nobody says so.
    """
    letter = _BOLD if "strong" in kind.split() else _LETTER
    most = max(_ROOM, int(room / letter / (_SMALL if (room < NARROW if small is None else small) else 1.0)))
    shown, behind = [fitting(name, _LONGEST) for name in names], says or [""] * len(names)
    limit = max(_FEWEST, most - max(map(cells, behind), default=0))
    while True:
        found = [f"{name}{said}" for name, said in zip(apart(shown, limit), behind, strict=True)]
        if limit <= _FEWEST or all(_letters(label) <= most for label in found):
            return found
        limit -= 1


def text(x: float, y: float, what: str, *, anchor: str = "start", kind: str = "t", room: float = math.inf) -> Markup:
    """A label whose baseline is at y; what does not fit into `room` pixels loses its middle."""
    [shown] = [fitting(what, _LONGEST)] if room == math.inf else labels([what], room, kind=kind)
    return element("text", shown, x=x, y=y, text_anchor=anchor, class_=kind)


def _letters(shown: str) -> float:
    """The length of a label in average letters."""
    wide, length = sum(map(shown.count, _WIDE)), cells(shown)
    return length + _WIDER * max(0.0, wide - length / 4)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def rectangle(x: float, y: float, width: float, height: float, kind: str, *children: Markup) -> Markup:
    """A rectangle; one of no width is still a hair wide."""
    return element("rect", *children, x=x, y=y, width=max(width, 0.5), height=max(height, 0.5), class_=kind)


def polyline(points: Sequence[Point], kind: str) -> Markup:
    """A line through points."""
    return element("path", d=path(points), class_=kind)


def x_axis(scale: Scale, y: float, title: str, *, top: float | None = None, count: int = 7) -> Markup:
    """Ticks, their labels and the axis' title below `y`; with `top` a grid up to there."""
    parts = []
    free = -math.inf
    ticks = scale.ticks(count)
    for at, label in zip(ticks, tick_texts(ticks), strict=True):
        x = scale(at)
        parts.append(line(x, y if top is None else top, x, y + 4, "grid"))
        # Neither beyond the drawing nor over the label before.
        half = len(label) * _DIGIT / 2
        middle_x = min(max(x, half), scale.end + RIGHT - half)
        if middle_x - half >= free:
            parts.append(text(middle_x, y + _TICKS, label, anchor="middle"))
            free = middle_x + half + _DIGIT
    parts.append(line(scale.start, y, scale.end, y, "axis"))
    parts.append(text((scale.start + scale.end) / 2, y + _NAME, title, anchor="middle", kind="t name"))
    return join(parts)


def y_axis(scale: Scale, left: float, right: float, title: str, *, count: int = 5, suffix: str = "") -> Markup:
    """A grid with labels left of it, for which `margin` says the room; the title is above the topmost label."""
    parts = []
    ticks = scale.ticks(count)
    for at, label in zip(ticks, tick_texts(ticks), strict=True):
        y = scale(at)
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(left - 6, y + 4, f"{label}{suffix}", anchor="end"))
    if title:
        parts.append(text(2, min(scale.start, scale.end) - _ABOVE, title, kind="t name"))
    return join(parts)


def margin(*scales: Scale, count: int = 5, suffix: str = "") -> float:
    """The room that the labels of upward scales need on the left, in pixels; at least LEFT."""
    shown = [f"{label}{suffix}" for scale in scales for label in tick_texts(scale.ticks(count))]
    return max([LEFT, *(8 + _DIGIT * len(label) for label in shown)])


def swatch(kind: str, shape: str = "box") -> Markup:
    """The little drawing of a legend's entry: a `box`, a `line`, or a symbol by name."""
    if shape == "box":
        inside = rectangle(1, 3, 20, 10, kind)
    elif shape == "line":
        inside = line(0, 8, 22, 8, kind)
    else:
        inside = symbol(shape, 11, 8, 4, class_=kind)
    return _key(inside, 16.0)


def lettered(letter: str, x: float, y: float, kind: str) -> Markup:
    """A small disc with a letter or number."""
    return join(
        [
            element("circle", cx=x, cy=y, r=8.0, class_=f"disc {kind}"),
            text(x, y + 4, letter, anchor="middle", kind="t on"),
        ]
    )


def disc_key(letter: str, kind: str) -> Markup:
    """`lettered` for a legend."""
    return _key(lettered(letter, 11, 9, kind), 18.0)


def _key(inside: Markup, height: float) -> Markup:
    return element(
        "svg",
        inside,
        viewBox=f"0 0 22 {coordinate(height)}",
        width=22.0,
        height=height,
        font_family="sans-serif",
        class_="key",
        aria_hidden="true",
        focusable="false",
    )


def thin(count: int, limit: int, keep: Sequence[int] = ()) -> list[int]:
    """At most about `limit` of `count` positions, evenly spread, and all of `keep`."""
    if count <= limit:
        return list(range(count))
    every = -(-count // limit)
    return sorted({*range(0, count, every), count - 1, *[at for at in keep if 0 <= at < count][:limit]})
