"""Charts of a verdict: fidelity against size and speed, first divergences, KL divergence by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from trialbench.show.figures import (
    BELOW,
    LEFT,
    NARROW,
    RIGHT,
    Figure,
    Key,
    Table,
    drawings,
    labels,
    line,
    margin,
    text,
    x_axis,
    y_axis,
)
from trialbench.show.svg import Scale, element, join, path, symbol, value_scale

# Told by shape and dashes as well as by color.
_STYLES = (
    ("var(--p5)", "dot", None),
    ("var(--b)", "triangle", "7 3"),
    ("var(--a2)", "square", "2 3"),
    ("var(--p3)", "diamond", "9 3 2 3"),
    ("var(--p2)", "cross", "4 2"),
    ("var(--p1)", "ring", "12 4"),
)
_LEAST_KL, _MOST_KL = 1e-7, 30.0
_MOST_CURVES, _MOST_LANES, _MOST_POSITIONS = 12, 60, 2000
_HEIGHT = 230.0


@dataclass(frozen=True)
class _Point:
    """A file: its style by quant, its cost (MB or tokens per second), its distance from the oracle."""

    name: str
    quant: str
    cost: float
    distance: float


def style(quants: Sequence[str], quant: str) -> tuple[str, str, str | None]:
    """Color, symbol and dashes of a quant, the same in all charts."""
    return _STYLES[quants.index(quant) % len(_STYLES)]


def _quants(verdict: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(file["quant"] for file in verdict["files"]))


def _rows(verdict: dict[str, Any], suite: str, model: str, quant: str) -> list[dict[str, Any]]:
    return [
        row
        for row in verdict["results"]
        if (row["suite"], row["model"], row["quant"], row["other"]) == (suite, model, quant, "")
    ]


def _keys(quants: Sequence[str]) -> list[Key]:
    found = []
    for quant in quants:
        color, shape, dashes = style(quants, quant)
        inside = join([
            element("path", d=path([(0, 8), (22, 8)]), stroke=color, stroke_width=2, stroke_dasharray=dashes),
            _mark(shape, 11, 8, color),
        ])  # fmt: skip
        key = element("svg", inside, viewBox="0 0 22 16", class_="key", aria_hidden="true", focusable="false")
        found.append(Key(key, quant))
    return found


def _mark(shape: str, x: float, y: float, color: str, note: str | None = None) -> Markup:
    hollow = shape in ("cross", "ring")
    fill, stroke = ("none", color) if hollow else (color, None)
    return symbol(shape, x, y, note=note, fill=fill, stroke=stroke, stroke_width=2.0 if hollow else None)


# --- Fidelity against cost --------------------------------------------------------------------------------------------


def fidelity(verdict: dict[str, Any]) -> list[Figure]:
    """Distance from the oracle against size, and against speed: all files, a symbol each."""
    measured, what = _distances(verdict)
    figures = []
    costs: tuple[tuple[str, str, str, Callable[[dict[str, Any]], float]], ...] = (
        ("size", "Fidelity against size", "MB", lambda file: (file["bytes"] or 0) / 1e6),
        ("speed", "Fidelity against speed", "tokens per second", lambda file: file["tokens_per_s"] or 0.0),
    )
    for name, title, unit, cost in costs:
        points = [
            _Point(f"{file['model']} {file['quant']}", file["quant"], cost(file), distance)
            for file, distance in measured
            if cost(file) > 0
        ]
        if len(points) > 1:
            figures.append(_scatter(f"fidelity-{name}", title, unit, what, points, _quants(verdict)))
    return figures


def _distances(verdict: dict[str, Any]) -> tuple[list[tuple[dict[str, Any], float]], str]:
    """KL divergence where files have it, else the share of tokens that differ."""
    by_kl, by_tokens = [], []
    for file in verdict["files"]:
        forced = _rows(verdict, "forced", file["model"], file["quant"])
        if forced and forced[0]["evidence"].get("kl_mean") is not None:
            by_kl.append((file, max(_LEAST_KL, forced[0]["evidence"]["kl_mean"])))
        tokens = [row["evidence"] for row in _rows(verdict, "token", file["model"], file["quant"])]
        compared = sum(one.get("compared", 0) for one in tokens)
        if compared:
            by_tokens.append((file, sum(one.get("mismatches", 0) for one in tokens) / compared * 100))
    if by_kl:
        return by_kl, "KL divergence from the oracle, nats"
    return by_tokens, "tokens that differ, %"


def _scatter(name: str, title: str, unit: str, what: str, points: Sequence[_Point], quants: Sequence[str]) -> Figure:
    def draw(width: float) -> tuple[Markup, float]:
        up = value_scale([one.distance for one in points], _HEIGHT, 34.0)
        left = margin(up) + 8
        across = value_scale([one.cost for one in points], left, width - RIGHT)
        parts = [y_axis(up, left, width - RIGHT, what), x_axis(across, _HEIGHT, unit)]
        for one in points:
            color, shape, _ = style(quants, one.quant)
            note = f"{one.name}: {one.distance:.3g}, {one.cost:.4g} {unit}"
            parts.append(_mark(shape, across(one.cost), up(one.distance), color, note))
        return join(parts), _HEIGHT + BELOW

    told = f"{len(points)} files; lower is closer to the oracle."
    wide, narrow = drawings(name, title, told, draw)
    rows = [[one.name, f"{one.cost:.4g}", f"{one.distance:.3g}"] for one in points]
    table = Table(title, ["file", unit, what], rows, numbers=(1, 2))
    there = [quant for quant in quants if any(one.quant == quant for one in points)]
    keys = [key for key in _keys(quants) if key.text in there]
    return Figure(name, title, told, wide, narrow, keys, "Lower is closer to the oracle.", table)


# --- First divergence -------------------------------------------------------------------------------------------------


def divergence(verdict: dict[str, Any]) -> Figure | None:
    """A lane for each file: where each prompt's continuation leaves the oracle; None where nothing was compared."""
    lanes = []
    for file in verdict["files"]:
        rows = [row for row in _rows(verdict, "token", file["model"], file["quant"]) if row["evidence"].get("compared")]
        if rows:
            lanes.append((file, rows))
    lanes = lanes[:_MOST_LANES]
    if not lanes:
        return None
    longest = max(row["evidence"]["compared"] for _, rows in lanes for row in rows)
    quants = _quants(verdict)

    def draw(width: float) -> tuple[Markup, float]:
        left, step = min(170.0, width * 0.36), 22.0
        across = Scale(0.0, float(longest), left, width - RIGHT - 8)
        bottom = 14 + step * len(lanes)
        parts = [x_axis(across, bottom, "position of the first token that differs", top=8)]
        shown = labels([f"{file['model']} {file['quant']}" for file, _ in lanes], left - 8, small=width <= NARROW)
        for number, (file, rows) in enumerate(lanes):
            y = 20 + step * number
            parts.append(text(left - 8, y + 4, shown[number], anchor="end"))
            parts.append(line(left, y, width - RIGHT - 8, y, "grid"))
            color, _, _ = style(quants, file["quant"])
            for row in rows:
                first = row["evidence"]["first_divergence"]
                at = longest if first is None else first
                says = "the same to the end" if first is None else f"from position {first} on, {row['says']}"
                shape = "ring" if first is None else "dot"
                parts.append(_mark(shape, across(at), y, color, f"{row['prompt']}: {says}"))
        return join(parts), bottom + BELOW

    told = f"{len(lanes)} files; a ring at the end stands for a continuation that is the oracle's."
    wide, narrow = drawings("divergence", "Where continuations leave the oracle", told, draw)
    head = ["file", *dict.fromkeys(row["prompt"] for _, rows in lanes for row in rows)]
    cells = [[f"{file['model']} {file['quant']}", *(_first(rows, name) for name in head[1:])] for file, rows in lanes]
    table = Table("Position of the first token that differs", head, cells, numbers=range(1, len(head)))
    return Figure("divergence", "Where continuations leave the oracle", told, wide, narrow, [], told, table)


def _first(rows: Sequence[dict[str, Any]], prompt: str) -> str:
    found = [row["evidence"]["first_divergence"] for row in rows if row["prompt"] == prompt]
    return "-" if not found else "none" if found[0] is None else str(found[0])


# --- KL by position ---------------------------------------------------------------------------------------------------


def kl_by_position(verdict: dict[str, Any]) -> list[Figure]:
    """For each model a curve a file, all prompts one after the other; rings where another token was chosen."""
    figures: list[Figure] = []
    quants = _quants(verdict)
    for model in dict.fromkeys(file["model"] for file in verdict["files"]):
        curves = []
        for file in [one for one in verdict["files"] if one["model"] == model][:_MOST_CURVES]:
            forced = _rows(verdict, "forced", model, file["quant"])
            evidence = forced[0]["evidence"] if forced else {}
            values: list[float] = []
            wrong: list[int] = []
            for prompt, row in (evidence.get("kl_by_position") or {}).items():
                wrong += [len(values) + at for at in evidence["disagreements"].get(prompt, [])]
                values += row
            if values:
                curves.append((file["quant"], values[:_MOST_POSITIONS], [at for at in wrong if at < _MOST_POSITIONS]))
        if curves:
            figures.append(_curves(f"kl-{len(figures) + 1}", model, curves, quants))
    return figures


def _curves(
    name: str, model: str, curves: Sequence[tuple[str, list[float], list[int]]], quants: Sequence[str]
) -> Figure:
    longest = max(len(values) for _, values, _ in curves)

    def draw(width: float) -> tuple[Markup, float]:
        across = Scale(0.0, float(max(1, longest - 1)), LEFT + 8, width - RIGHT)
        up = Scale(_LEAST_KL, _MOST_KL, _HEIGHT, 34.0, logarithmic=True)
        parts = [y_axis(up, LEFT + 8, width - RIGHT, "KL divergence, nats"), x_axis(across, _HEIGHT, "position")]
        for quant, values, wrong in curves:
            color, _, dashes = style(quants, quant)
            points = [(across(at), up(value)) for at, value in enumerate(values)]
            parts.append(
                element("path", d=path(points), fill="none", stroke=color, stroke_width=1.6, stroke_dasharray=dashes)
            )
            parts += [_mark("ring", *points[at], color, f"{quant}, position {at}: another token") for at in wrong]
        return join(parts), _HEIGHT + BELOW

    title = f"{model}: KL divergence by position"
    told = f"{len(curves)} files, {longest} positions, all prompts one after the other; rings: another token."
    wide, narrow = drawings(name, title, told, draw)
    there = [quant for quant, _, _ in curves]
    rows = [
        [quant, f"{sum(values) / len(values):.3g}", f"{max(values):.3g}", str(len(wrong)), str(len(values))]
        for quant, values, wrong in curves
    ]
    table = Table(title, ["file", "mean", "most", "another token", "positions"], rows, numbers=range(1, 5))
    keys = [key for key in _keys(quants) if key.text in there]
    return Figure(name, title, told, wide, narrow, keys, told, table)
