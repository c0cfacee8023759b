"""Numbers and lines on a terminal: plain text, no wider than the terminal, no library."""

from __future__ import annotations

import math
import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from trialbench.show.terminal import screen

# Columns where the output is no terminal, and the narrowest and widest that text is laid out for.
_PIPE, _NARROWEST, _WIDEST = 100, 40, 200
# Cells are cut to no less if that makes a table fit, and the names of its rows to no less in any case.
_NAME, _LEAST = 26, 12
_CUT = "..."
# What is smaller is shown as 0.0.
_NOTHING = 1e-9
_ZERO = ("Mn", "Me", "Cf")
_SOFT_HYPHEN, _JOINER, _EMOJI = "\N{SOFT HYPHEN}", "\N{ZERO WIDTH JOINER}", "\N{VARIATION SELECTOR-16}"
# What an emoji may be made of that is a letter, digit or sign else; and two of these letters are a flag.
_BASE, _FLAG = re.compile("[#*0-9\xa9\xae\u203c-\U0001faff]"), re.compile("[\U0001f1e6-\U0001f1ff]")
# Korean vowels and finals, which stand within the square of the letter before them.
_VOWEL = re.compile("[\u1160-\u11ff\ud7b0-\ud7ff]")
# While lines are broken: the second half of a wide letter, which `screen` lets through nowhere, and the first of the
# letters that stand for what is made of several characters.
_HALF, _MADE, _MOST_MADE = "\0", 0xF0000, 0x1FFFE
# A size in a text, and what is said once where the first one stands.
GIGABYTE, GIGABYTE_IS = re.compile(r"\bGB\b"), "1 GB is 1024 MiB"
# Before the unit of a number, where no line breaks; and what stands for that blank while lines are broken.
_UNIT = re.compile(r"(?<=\d) (?=(?:%|(?:GB|MiB|ms|s|Hz|tok/s|points?)(?!\w)))")
_NO_BREAK, _TIED = "\N{NO-BREAK SPACE}", "\1"
_BARS = "▁▂▃▄▅▆▇█"
# Marks a sparkline bar with at least one failed sample.
_FAILED = "x"
# A narrower scale would exaggerate noise.
_FLAT = 1.5


def number(value: float | None) -> str:
    """`value` with one decimal, from 100 on with none, below 1 with two digits that count; `-` for None."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 99.95 or not math.isfinite(value):
        return f"{value:.0f}"
    if size < _NOTHING:
        return "0.0"
    # From 0.95 on two digits that count may round up to 1.0.
    decimals = 1 if size >= 0.95 else 1 - math.floor(math.log10(float(f"{size:.1e}")))
    return f"{value:.{decimals}f}"


def ratio_text(ratio: float | None, low: float | None = None, high: float | None = None) -> str:
    """A ratio and the ends of its interval, such as `1.97 [1.80, 2.11]`; `-` where there is none above 0."""
    if ratio is None or not 0 < ratio < math.inf:
        return "-"
    ends = (low, high)
    interval = ", ".join(_ratio(one) for one in ends if one is not None and 0 < one < math.inf)
    return f"{_ratio(ratio)} [{interval}]" if interval.count(",") else _ratio(ratio)


def _ratio(value: float) -> str:
    return f"{value:.2f}" if 0.095 <= value < 99.995 else number(value)


def counted(count: int, what: str, plural: str = "") -> str:
    """`1 outlier`, `2 outliers`; `what` is the singular, `plural` is given where it needs more than an s."""
    return f"{count} {what if count == 1 else plural or what + 's'}"


def together(text: str) -> str:
    """`text` for a place that breaks its lines: every number stays with its unit."""
    return _UNIT.sub(_NO_BREAK, text)


def width() -> int:
    """Columns to lay out for: `COLUMNS`, else the terminal's, 40 to 200; 100 where the output is no terminal."""
    try:
        found = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        found = 0
    if found <= 0:
        try:
            found = os.get_terminal_size(sys.stdout.fileno()).columns or _PIPE
        except (AttributeError, ValueError, OSError):
            found = _PIPE  # closed, a pipe, or a file
    return min(max(found, _NARROWEST), _WIDEST)


def room() -> int:
    """Columns for a line of a section, which is indented by two."""
    return width() - 2


def cells(text: str) -> int:
    """Columns that `text` takes on a terminal: two for a wide letter or an emoji, none for an accent."""
    return len(text) if text.isascii() else sum(_widths(text))


def _widths(text: str) -> Iterator[int]:
    """The columns of each character of `text`, as wcwidth counts them."""
    last, before = 0, ""  # width of the last character that has one, and the one before this
    half = False  # whether the one before is the first half of a flag
    for at, one in enumerate(text):
        if " " <= one <= "~" and before != _JOINER and not half:
            own = 1  # most characters of most texts, and by far the quickest to tell
        elif before == _JOINER and last == 2:
            own = 0
        elif half:
            own, half = 0, False
        elif _FLAG.match(one):
            half = bool(_FLAG.match(text, at + 1))
            own = 2 if half else 1
        elif one == _EMOJI:
            own = 1 if last == 1 and _BASE.match(before) else 0
        elif "\U0001f3fb" <= one <= "\U0001f3ff" and last == 2:
            own = 0  # a color of skin
        elif (unicodedata.category(one) in _ZERO and one != _SOFT_HYPHEN) or _VOWEL.match(one):
            own = 0
        else:
            own = 2 if unicodedata.east_asian_width(one) in "WF" else 1
        last = 2 if one == _EMOJI and own else own or last
        before = one
        yield own


def middle(text: str, limit: int) -> str:
    """`text` in at most `limit` columns: what is too long loses its middle, since names differ at their end."""
    if cells(text) <= limit:
        return text
    left = limit - len(_CUT)
    return f"{_start(text, left - left // 2)}{_CUT}{_end(text, left // 2)}"


def _start(text: str, limit: int) -> str:
    """The first characters of `text` that fit into `limit` columns."""
    used = 0
    for at, own in enumerate(_widths(text)):
        used += own
        if used > limit:
            # A letter that a sign makes an emoji is none without it.
            return text[: at - 1 if text[at] == _EMOJI else at]
    return text


def _end(text: str, limit: int) -> str:
    """The last characters of `text` that fit into `limit` columns; what belongs to a letter before them goes, too."""
    widths = list(_widths(text))
    at = len(text)
    while at > 0 and sum(widths[at - 1 :]) <= limit:
        at -= 1
    while at < len(text) and (widths[at] == 0 or text[at] == _EMOJI):
        at += 1
    return text[at:]


def apart(texts: Sequence[str], limit: int) -> list[str]:
    """Each text in at most `limit` columns, so that those that differ stay different."""
    short = {text: middle(text, limit) for text in texts}
    alike: dict[str, list[str]] = {}
    for text, cut in short.items():
        alike.setdefault(cut, []).append(text)
    for same in alike.values():
        if len(same) > 1:
            short |= _differing(same, limit)
    taken = {text for text, cut in short.items() if cut == text}
    for text in [text for text in short if text not in taken]:
        number = 1
        while short[text] in taken:
            number += 1
            short[text] = f"{middle(text, limit - len(f' #{number}'))} #{number}"
        taken.add(short[text])
    return [short[text] for text in texts]


def _differing(texts: Sequence[str], limit: int) -> dict[str, str]:
    """Long texts that a cut makes alike, reduced to where they differ and what stands around it."""
    start = _shared(texts)
    end = _shared([text[len(start) :][::-1] for text in texts])[::-1]
    found = {}
    for text in texts:
        core = text[len(start) : len(text) - len(end)]
        left = max(0, limit - cells(core) - 2 * len(_CUT))
        before, after = _end(start, left - left // 2), _start(end, left // 2)
        found[text] = middle(
            f"{_CUT if before != start else ''}{before}{core}{after}{_CUT if after != end else ''}", limit
        )
    return found


def _shared(texts: Sequence[str]) -> str:
    """The beginning that all of `texts` have."""
    shortest = min(texts, key=len)
    differs = (at for at, one in enumerate(shortest) if any(text[at] != one for text in texts))
    return shortest[: next(differs, len(shortest))]


def columns(rows: Sequence[Sequence[str]], *, indent: int = 0) -> str:
    """Rows as left-aligned columns, two spaces apart, no wider than the terminal less a section's indent and `indent`.

    Where they don't fit, long cells lose their middle; columns that don't fit even then follow below, beside the first
    column again.
    """
    if not rows:
        return ""
    shown = [[screen(cell).replace("\n", " ") for cell in row] for row in rows]
    limit = room() - indent
    table = [list(column) for column in zip(*shown, strict=True)]
    sizes = [_size(column) for column in table]
    gaps = 2 * (len(sizes) - 1)
    least = [min(size, _NAME) for size in sizes]
    least[0] = min(sizes[0], max(_LEAST, limit // 5))
    if sum(least) + gaps <= limit:
        while sum(sizes) + gaps > limit:
            sizes[max(range(len(sizes)), key=lambda at: sizes[at] - least[at])] -= 1
    else:
        sizes[0] = min(sizes[0], max(_LEAST, limit // 3))
        sizes[1:] = [min(size, limit - 2 - sizes[0]) for size in sizes[1:]]
    table = [apart(column, size) for column, size in zip(table, sizes, strict=True)]
    blocks, used = [[0]], sizes[0]
    for at, size in enumerate(sizes[1:], 1):
        if used + 2 + size > limit and len(blocks[-1]) > 1:
            blocks.append([0])
            used = sizes[0]
        blocks[-1].append(at)
        used += 2 + size
    return "\n".join(_aligned([table[at] for at in block], [sizes[at] for at in block]) for block in blocks)


def _size(column: Sequence[str]) -> int:
    return max(map(cells, column))


def _aligned(table: Sequence[Sequence[str]], sizes: Sequence[int]) -> str:
    return "\n".join(
        "  ".join(cell + " " * (size - cells(cell)) for cell, size in zip(row, sizes, strict=True)).rstrip(" ")
        for row in zip(*table, strict=True)
    )


def section(title: str, text: str) -> str:
    """`text` indented below `title`; nothing for an empty text."""
    return f"{title}\n{textwrap.indent(text, '  ')}" if text else ""


def wrap(text: str) -> str:
    """`text` wrapped to fit a section; its own line ends are kept, because it may hold logs and commands."""
    return "\n".join(_wrap_line(line) for line in screen(text).split("\n"))


def _wrap_line(line: str) -> str:
    indent = " " * min(12, len(line) - len(line.lstrip(" ")))
    filled, made = _filled(_UNIT.sub(_TIED, line.strip(" ")))
    wrapped = textwrap.wrap(filled, width() - 4, initial_indent=indent, subsequent_indent=f"{indent}    ")
    return "\n".join(wrapped).replace(_HALF, "").replace(_TIED, " ").translate(made)


def _filled(text: str) -> tuple[str, dict[int, str]]:
    """`text` with as many characters as columns: a wide letter is followed by a filler, and what is made of several
    characters (an emoji, a letter with its accents) becomes one; also what each of these was.
    """
    if text.isascii():
        return text, {}
    wholes: list[tuple[str, int]] = []
    for one, own in zip(text, _widths(text), strict=True):
        if wholes and (own == 0 or one == _EMOJI):
            whole, columns_of = wholes[-1]
            wholes[-1] = whole + one, columns_of + own
        else:
            wholes.append((one, own))
    made: dict[str, int] = {}
    filled = []
    for whole, own in wholes:
        one = whole
        if (len(whole) > 1 or ord(whole) >= _MADE) and len(made) < _MOST_MADE:
            one = chr(made.setdefault(whole, _MADE + len(made)))
        filled.append(one + _HALF * (own - 1))
    return "".join(filled), {number: whole for whole, number in made.items()}


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
