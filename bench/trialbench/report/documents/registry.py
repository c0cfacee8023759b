"""The registry: the model's row under Active Models, the steady-state peak, and a line of the Change Log."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from trialbench.report.documents.markdown import Edit, Page, Row, Span, escape, masked, plain, word
from trialbench.report.documents.trial import Trial

_MIB_PER_GB = 1024
_MODELS = re.compile(r"\bactive models\b", re.IGNORECASE)
_LOG = re.compile(r"\bchange[\s-]?log\b", re.IGNORECASE)
# A row of totals below the models.
_SUM = re.compile(r"steady[-\s]state|^total\b", re.IGNORECASE)
_PEAK = re.compile(
    r"steady[-\s]state\s+peak\b(?P<between>.*?)(?P<number>\d+(?:\.\d+)?)(?P<gap>\s*)(?P<unit>GB|GiB|MB|MiB)\b",
    re.IGNORECASE,
)
# Allowed prefixes of a statement at the start of a line.
_MARKUP = re.compile(r"[\s>*_#|+\-]*")
_FIGURE = re.compile(r"[~≈<≤]?\s*(\d+(?:\.\d+)?)\s*(GB|GiB|MB|MiB)?", re.IGNORECASE)
_UNIT = re.compile(r"\b(GB|GiB|MB|MiB)\b", re.IGNORECASE)
_NO_VRAM = {"", "-", "–", "—", "none", "n/a", "cpu"}
_ITEM = re.compile(
    r"(?P<lead> {0,3}[-*+]\s+)(?:(?P<open>[*_`]*)(?P<date>\d{4}-\d\d-\d\d)(?P<shut>[*_`]*)(?P<gap>[\s:–—-]*))?"
)
_CHANGE = re.compile(r"what|change|description|event|entry|note", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_VERDICT = re.compile(r"(?<=: )(ADOPT|REJECT|INCONCLUSIVE|PENDING REVIEW)\b")


@dataclass(frozen=True)
class _Models:
    """The table Active Models: its model rows and columns."""

    header: Row
    rows: list[Row]
    model: int
    vram: int
    status: int
    port: int | None


def registry_edits(page: Page, trial: Trial) -> list[Edit]:
    """Row, peak and log line; the status of a tried model is its verdict, so its row never counts toward the peak.

    Raises:
        Refused: one of the three places is missing, or there are two of it.
    """
    models = _models(page)
    own = [row for row in models.rows if _is(row.plain(models.model), trial.label)]
    if len(own) > 1:
        lines = ", ".join(str(row.line + 1) for row in own)
        raise page.refused(f"one row of {trial.label} under Active Models", f"{len(own)} (lines {lines})")
    log = page.section(_LOG, '"Change Log"')
    active = [row for row in models.rows if row not in own and _active(row.plain(models.status))]
    peak = sum((_gb(page, models, row) for row in active), Decimal(0))
    was = own[0].plain(models.status) if own else trial.verdict
    return [_row(page, models, own, trial), *_peak(page, peak, log), *_logged(page, trial, log, was)]


# The row.


def _models(page: Page) -> _Models:
    section = page.section(_MODELS, '"Active Models"')
    tables = [block for block in page.blocks("table_open") if section.start < block.start < section.end]
    if not tables:
        raise page.refused("a table under Active Models", "none")
    header, *body = page.table(tables[0])
    titles = [header.plain(at).casefold() for at in range(len(header.cells))]
    model = _column(page, titles, "Model", lambda title: title in ("model", "models", "name", "model name"))
    ports = [at for at, title in enumerate(titles) if title.startswith("port")]
    return _Models(
        header=header,
        rows=[row for row in body if row.plain(model) and not _SUM.search(row.plain(model))],
        model=model,
        vram=_column(page, titles, "VRAM", lambda title: "vram" in title),
        status=_column(page, titles, "Status", lambda title: title.startswith("status")),
        port=ports[0] if len(ports) == 1 else None,
    )


def _column(page: Page, titles: list[str], what: str, fits: Callable[[str], bool]) -> int:
    found = [at for at, title in enumerate(titles) if fits(title)]
    if len(found) != 1:
        columns = ", ".join(titles)
        raise page.refused(f"one column {what} under Active Models", f"{len(found) or 'none'} (columns: {columns})")
    return found[0]


def _is(cell: str, label: str) -> bool:
    """Whether a cell names the model: its label, and perhaps words about it in brackets."""
    shown, wanted = cell.casefold(), plain(escape(label)).casefold()
    return shown == wanted or shown.startswith(f"{wanted} (")


def _active(status: str) -> bool:
    return re.sub(r"\A[\W_]+|[\W_]+\Z", "", status).casefold() == "active"


def _row(page: Page, models: _Models, own: list[Row], trial: Trial) -> Edit:
    values = {models.status: trial.verdict}
    if trial.footprint_gb is not None:
        values[models.vram] = _figure(models, Decimal(str(trial.footprint_gb)))
    if models.port is not None and trial.port is not None:
        values[models.port] = str(trial.port)
    if own:
        return page.replace_line(own[0].line, _filled(own[0], values, _widths(models)))
    last = models.rows[-1].line if models.rows else models.header.line + 1
    return page.insert_after(last, [_new_row(models, {models.model: escape(trial.label), **values})])


def _widths(models: _Models) -> list[int]:
    """The width of each column including padding; 0 if its rows differ."""
    rows = [models.header, *models.rows]
    found = [{len(row.raw(at)) for row in rows if at < len(row.cells)} for at in range(len(models.header.cells))]
    return [widths.pop() if len(widths) == 1 and len(rows) > 1 else 0 for widths in found]


def _filled(row: Row, values: dict[int, str], widths: list[int]) -> str:
    """The row with other cells, each with its padding, on the side on which its text stands."""
    text = row.text
    for at, value in sorted(values.items(), reverse=True):
        raw = row.raw(at)
        if at >= len(row.cells) or row.plain(at) == value:
            continue
        left, right = len(raw) - len(raw.lstrip()), len(raw) - len(raw.rstrip())
        if not raw.strip():
            left, right = min(left, 1), min(left, 1)
        new = f"{' ' * min(left, 1)}{value}{' ' * min(right, 1)}"
        new = new.rjust(widths[at]) if left > right else new.ljust(widths[at])
        start, end = row.cells[at]
        text = text[:start] + new + text[end:]
    if max(values) < len(row.cells):
        return text
    # A row shorter than its header, which a reader fills with empty cells.
    shut = row.cells[-1][1] < len(row.text)
    more = [values.get(at, "") for at in range(len(row.cells), max(values) + 1)]
    body = text.rstrip()
    return f"{body} {' | '.join(more)} |" if shut else f"{body} | {' | '.join(more)}"


def _new_row(models: _Models, values: dict[int, str]) -> str:
    """A row in the style of the last one: with or without outer pipes, padded to the columns' widths."""
    like = models.rows[-1] if models.rows else models.header
    cells = [f" {values[at]} " if at in values else " " for at in range(len(models.header.cells))]
    cells = [cell.ljust(width) for cell, width in zip(cells, _widths(models), strict=True)]
    before = like.text[: like.cells[0][0]]
    if not before.strip():
        cells[0] = cells[0].removeprefix(" ")
    shut = like.cells[-1][1] < len(like.text)
    return f"{before}{'|'.join(cells)}|" if shut else f"{before}{'|'.join(cells)}".rstrip()


def _figure(models: _Models, gb: Decimal) -> str:
    """A footprint in the column's format: with a unit if most rows have one."""
    cells = [found for row in models.rows if (found := _FIGURE.fullmatch(row.plain(models.vram)))]
    units = [found[2] for found in cells if found[2]]
    unit = units[0] if len(units) * 2 > len(cells) else ""
    in_mib = (unit or _unit(models)).upper().startswith("M")
    text = f"{gb * _MIB_PER_GB:.0f}" if in_mib else f"{gb:.1f}"
    return f"{text} {unit}".rstrip()


def _unit(models: _Models) -> str:
    """The unit of figures that have none of their own."""
    found = _UNIT.search(models.header.plain(models.vram))
    return found[1] if found else "GB"


# The peak.


def _gb(page: Page, models: _Models, row: Row) -> Decimal:
    text = row.plain(models.vram)
    if text.casefold() in _NO_VRAM:
        return Decimal(0)
    found = _FIGURE.fullmatch(text)
    if not found:
        raise page.refused(f"a number as VRAM of the active model in line {row.line + 1}", repr(text))
    return Decimal(found[1]) / (_MIB_PER_GB if (found[2] or _unit(models)).upper().startswith("M") else 1)


def _peak(page: Page, peak_gb: Decimal, log: Span) -> list[Edit]:
    """The edit of the line that states the peak, keeping its digits and unit."""
    stated: list[tuple[int, re.Match[str], bool]] = []
    for at in range(len(page.lines)):
        # Skip the log, which mentions former peaks, and code.
        if at in page.literal or log.start <= at < log.end:
            continue
        text = masked(page.content(at))
        found = _PEAK.search(text)
        if found:
            stated.append((at, found, bool(_MARKUP.fullmatch(text[: found.start()]))))
    # If several lines mention the peak, the one that starts with it counts.
    stated = [one for one in stated if one[2]] or stated
    if len(stated) != 1:
        lines = f" (lines {', '.join(str(at + 1) for at, _, _ in stated)})" if stated else ""
        raise page.refused('one line such as "Steady-state peak: 12.8 GB"', f"{len(stated) or 'none'}{lines}")
    [(at, found, _)] = stated
    if re.search(r"\d\s*[-–]\s*\Z", found["between"]):
        raise page.refused("one number as steady-state peak", f"a range in line {at + 1}")
    peak = peak_gb * _MIB_PER_GB if found["unit"].upper().startswith("M") else peak_gb
    digits = len(found["number"].partition(".")[2])
    # Keep enough digits for the statement to equal the table's sum.
    digits = max(digits, min(3, len(f"{peak:.3f}".rstrip("0").partition(".")[2])))
    if Decimal(found["number"]) == round(peak, digits):
        return []
    start = page.starts[at] + found.start("number")
    return [Edit(start, start + len(found["number"]), f"{peak:.{digits}f}")]


# The log.


def _logged(page: Page, trial: Trial, log: Span, was: str) -> list[Edit]:
    """The run's line, added once; writing the run again may only change its verdict."""
    id_ = escape(word(trial.id))
    named = re.compile(rf"(?<![\w.%-]){re.escape(id_)}(?![\w%-]|\.\w)")
    for at in range(log.start, log.end):
        text = page.content(at)
        found = named.search(text) if at not in page.literal else None
        if found:
            verdicts = list(_VERDICT.finditer(text, 0, found.start()))
            if not verdicts or verdicts[-1][0] == trial.verdict:
                return []
            start = page.starts[at]
            return [Edit(start + verdicts[-1].start(), start + verdicts[-1].end(), trial.verdict)]
    uses = "" if trial.footprint_gb is None else f", {trial.footprint_gb:.1f} GB"
    before = f" (was {escape(was)})" if was != trial.verdict else ""
    said = f"{escape(trial.label)} tried on {escape(trial.host)}: {trial.verdict}{before}{uses}, run {id_}."
    inside = [block for block in page.blocks("table_open", "bullet_list_open") if log.start < block.start < log.end]
    if not inside:
        return [_first_line(page, trial, said, log)]
    block = page.trimmed(inside[0])
    if _ITEM.match(page.content(block.start)):
        return [_list_line(page, trial, said, block)]
    return [_table_line(page, trial, said, block)]


def _first_line(page: Page, trial: Trial, said: str, log: Span) -> Edit:
    """The first line of an empty log."""
    end = page.trimmed(log).end
    heading = next(block for block in page.blocks("heading_open", "paragraph_open") if block.start == log.start)
    if end > heading.end:
        raise page.refused("a list or a table of dated lines under Change Log", f"something else in line {end}")
    return page.insert_after(end - 1, ["", f"* {trial.date}: {said}"])


def _list_line(page: Page, trial: Trial, said: str, block: Span) -> Edit:
    items = [
        Span(*token.map) for token in page.tokens if token.type == "list_item_open" and token.level == 1 and token.map
    ]
    items = [item for item in items if block.start <= item.start < block.end]
    dated = [(item, found) for item in items if (found := _ITEM.match(page.content(item.start))) and found["date"]]
    like = dated[0][1] if dated else _ITEM.match(page.content(items[0].start))
    assert like is not None, "the list begins with an item"
    lead = like["lead"]
    head = f"{like['open']}{trial.date}{like['shut']}{like['gap'] or ': '}" if dated else f"{trial.date}: "
    line = f"{lead}{head}{said}"
    loose = len(items) > 1 and not page.lines[items[1].start - 1].strip()
    if len(dated) > 1 and dated[0][1]["date"] < dated[-1][1]["date"]:
        return page.insert_after(block.end - 1, ["", line] if loose else [line])
    return page.insert_after(items[0].start - 1, [line, ""] if loose else [line])


def _table_line(page: Page, trial: Trial, said: str, block: Span) -> Edit:
    header, *rows = page.table(block)
    dates = [
        at
        for at in range(len(header.cells))
        if header.plain(at).casefold() == "date" or any(_DATE.match(row.plain(at)) for row in rows)
    ]
    if len(header.cells) < 2 or not dates:
        raise page.refused("a column with dates and one for the change under Change Log", "a table without them")
    # The change goes into the column named for it, else into the column with the longest texts.
    said_in = [0 if at == dates[0] else 1 + sum(len(row.plain(at)) for row in rows) for at in range(len(header.cells))]
    named = [at for at in range(len(header.cells)) if _CHANGE.match(header.plain(at)) and at != dates[0]]
    cells = [""] * len(header.cells)
    cells[dates[0]] = trial.date
    cells[named[0] if named else said_in.index(max(said_in))] = said
    line = f"| {' | '.join(cells)} |"
    days = [row.plain(dates[0]) for row in rows]
    if len(days) > 1 and days[0] < days[-1]:
        return page.insert_after(rows[-1].line, [line])
    return page.insert_after(header.line + 1, [line])
