"""The registry: the model's row under Active Models, the steady-state peak, and a line of the Change Log."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from trialbench.report.documents.markdown import Edit, Heading, Page, Row, Span, escape, masked, plain, word
from trialbench.report.documents.trial import Trial

_MIB_PER_GB = 1024
_MODELS = re.compile(r"\bactive models\b", re.IGNORECASE)
_LOG = re.compile(r"\bchange[\s-]?log\b", re.IGNORECASE)
# A row of totals below the models.
_SUM = re.compile(
    r"(?:the\s+)?steady[-\s]state\b|(?:grand\s+)?(?:total|sum)s?\b\W*(?:\Z|\(|of\b|vram\b|active\b)", re.IGNORECASE
)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_UNITS = r"(?:GB|GiB|MB|MiB)\b"
_MENTION = re.compile(r"steady[-\s]state\s+peak\b", re.IGNORECASE)
# Allowed prefixes of a statement: markup alone, or the end of another sentence and few words.
_MARKUP = re.compile(r"[\s>*_#|+\-]*")
_PREFIX = re.compile(
    r"(?:.*[.!?]\s)?[\s>*_#|+\-]*(?:(?:the|its|our|current|vram|gpu|[\w-]+['’]s)\s+)*", re.IGNORECASE | re.DOTALL
)
_PEAK = re.compile(
    r"[*_]*(?:\s+(?:vram|memory|use|usage|demand|load)\b)*[*_]*\s*(?:[:=–—]|-(?=\s)|is\b|of\b)?[\s*_|]*"
    rf"(?:\\?[~≈]|(?:about|approximately|circa)\b|(?:approx|ca)\.)?\s*(?P<number>{_NUMBER})\s*(?P<unit>{_UNITS})",
    re.IGNORECASE,
)
# What may follow: the size of the card, and words that change nothing.
_OF = re.compile(
    rf"[*_]*\s*(?:of|out\s+of|/)\s*(?:the\s+|a\s+)?(?:card['’]s\s+)?{_NUMBER}(?:\s*{_UNITS})?", re.IGNORECASE
)
_OTHERWISE = re.compile(
    r"[\d±+<>≤≥~≈/?]|\b(?:to|or|and|but|plus|minus|up|with|without|when|while|if|not|excl\w*|except|more|less|most|least"
    r"|over|under|above|below|per|each|was|were|before|formerly|until|idle|once|gb|gib|mb|mib"
    r"|twice|times|half|since|last|in\s+(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)\b",
    re.IGNORECASE,
)
_FIGURE = re.compile(rf"[~≈]?\s*({_NUMBER})\s*({_UNITS})?", re.IGNORECASE)
_UNIT = re.compile(rf"\b({_UNITS})", re.IGNORECASE)
_NO_VRAM = {"", "-", "–", "—", "none", "n/a", "cpu"}
_UNKNOWN = {*_NO_VRAM, "?", "tbd", "unknown"}
_ITEM = re.compile(
    r"(?P<lead> {0,3}[-*+]\s+)(?:(?P<open>[*_`]*)(?P<date>\d{4}-\d\d-\d\d)(?P<shut>[*_`]*)(?P<gap>[\s:–—-]*))?"
)
# Any spelling of a day, a week, a month or a version that the changes below it belong to.
_WHEN = re.compile(
    r"\d{4}\s?(?:[-/.]|-?W)\s?\d|\d\s?[./]\s?\d{1,2}\s?[./]|\bv?\d+\.\d+|\b(?:week|kw|q[1-4])\s?\d"
    r"|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?,?\s+\d"
    r"|\d(?:st|nd|rd|th|\.)?\s+(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)|\A\W*\d{4}\W*\Z",
    re.IGNORECASE,
)
_HTML = re.compile(r"<[^<>]*>")
_DAY = re.compile(r"\W*(\d{4}-\d\d-\d\d)\W*")
_CHANGE = re.compile(r"what|change|description|event|entry|note", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_ACTIVE_CELL = re.compile(r"\|[\s*_`]*active\b", re.IGNORECASE)
_STATUS = re.compile(r"\b(?:ADOPT|REJECT|INCONCLUSIVE|PENDING REVIEW)\b")
_VERDICT = re.compile(rf"(?<=: ){_STATUS.pattern}")
# Marks of footnotes that are characters, and signs such as a star, by themselves or by their short names.
_MARKS = re.compile(
    "[†‡§¶\u00b9\u00b2\u00b3\u2070-\u2079\u2600-\u27bf\u2b50\ufe0f\U0001f300-\U0001faff]|[*]+(?=\\s|\\Z)"
    r"|(?<=\s):[a-z0-9_+-]+:(?=\s|\Z)"
)
# What sets words about a model off from its name.
_SUFFIX = re.compile(r"\s*\(|\s+[\[–—·|/-](?:\s|\Z)|\s+\[|[,;:]\s")


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
    own = [row for row in models.rows if _is(row, models.model, trial.label)]
    if len(own) > 1:
        lines = ", ".join(str(row.line + 1) for row in own)
        raise page.refused(f"one row of {trial.label} under Active Models", f"{len(own)} (lines {lines})")
    log = page.section(_LOG, '"Change Log"')
    active = [row for row in models.rows if row not in own and _active(page, row, models.status)]
    peak = sum((_gb(page, models, row) for row in active), Decimal(0))
    was = own[0].plain(models.status) if own else trial.verdict
    return [_row(page, models, own, trial), *_peak(page, peak, log), *_logged(page, trial, log, was)]


# The row.


def _models(page: Page) -> _Models:
    section = page.section(_MODELS, '"Active Models"')
    tables = [block for block in page.blocks("table_open") if section.start < block.start < section.end]
    if not tables:
        raise page.refused("a table under Active Models", "none")
    alike = [
        block for block in tables if re.search("vram.*status|status.*vram", page.content(block.start), re.IGNORECASE)
    ]
    if len(alike) > 1:
        lines = ", ".join(str(block.start + 1) for block in alike)
        raise page.refused("one table of models under Active Models", f"{len(alike)} (lines {lines})")
    table = (alike or tables)[0]
    header, *body = page.table(table)
    _whole(page, table, section)
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


def _whole(page: Page, table: Span, section: Span) -> None:
    """Refuse rows that a blank line or a comment separates from their table: a reader takes them for text."""
    inside = {line for block in page.blocks("table_open") for line in range(*block)}
    for line in range(table.end, section.end):
        if line not in inside and line not in page.literal and _ACTIVE_CELL.search(page.content(line)):
            raise page.refused("the rows under Active Models in one table", f"a row outside of it in line {line + 1}")


def _is(row: Row, column: int, label: str) -> bool:
    """Whether a row names the model: its label, and perhaps words about it, set off from it."""
    wanted = _key(plain(escape(label)))
    cells = (row.plain(column), row.led(column))
    names = {_key(name) for cell in cells for name in (cell, _MARKS.sub("", cell))}
    return any(name == wanted or (name.startswith(wanted) and _SUFFIX.match(name[len(wanted) :])) for name in names)


def _key(name: str) -> str:
    """A name for comparison: without case, width and a sign before it."""
    shown = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r"\A[^\w(\[]+(?=\w)", "", shown) or shown


def _active(page: Page, row: Row, column: int) -> bool:
    status = re.sub(r"\A[\W_]+|[\W_]+\Z", "", row.plain(column)).casefold()
    if status != "active" and re.search(r"\bactive\b", status):
        raise page.refused(
            f'"active" or another word as status in line {row.line + 1}', f"{row.plain(column)!r}, which may be either"
        )
    return status == "active"


def _row(page: Page, models: _Models, own: list[Row], trial: Trial) -> Edit:
    values = {models.status: trial.verdict}
    if trial.footprint_gb is not None:
        values[models.vram] = _figure(models, Decimal(str(trial.footprint_gb)))
    if models.port is not None and trial.port is not None:
        values[models.port] = str(trial.port)
    if own:
        [row] = own
        # The user's words beside a figure are not ours to replace; those beside a verdict stay.
        if models.vram in values and row.plain(models.vram).casefold() not in _UNKNOWN:
            _measured(page, models, row)
        port = row.plain(models.port) if models.port is not None else ""
        if models.port in values and not re.fullmatch(r"\d*|[-–—?]", port):
            raise page.refused(f"one port in line {row.line + 1}", repr(port))
        if _STATUS.match(row.plain(models.status)):
            values[models.status] = _STATUS.sub(trial.verdict, row.raw(models.status).strip(), count=1)
        return page.replace_line(row.line, _filled(row, values, _widths(models)))
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
    unit = units[0] if len(units) * 2 > len(cells) else "" if _unit(models) else "GB"
    in_mib = (unit or _unit(models)).upper().startswith("M")
    text = f"{gb * _MIB_PER_GB:.0f}" if in_mib else f"{gb:.1f}"
    return f"{text} {unit}".rstrip()


def _unit(models: _Models) -> str:
    """The unit of figures that have none of their own; empty if there is none, or more than one."""
    found = {unit.upper() for unit in _UNIT.findall(models.header.plain(models.vram))}
    return found.pop() if len(found) == 1 else ""


# The peak.


def _gb(page: Page, models: _Models, row: Row) -> Decimal:
    return Decimal(0) if row.plain(models.vram).casefold() in _NO_VRAM else _measured(page, models, row)


def _measured(page: Page, models: _Models, row: Row) -> Decimal:
    """A row's figure in GB.

    Raises:
        Refused: it is not a plain figure, or its unit is not known.
    """
    text = row.plain(models.vram)
    found = _FIGURE.fullmatch(text)
    unit = ((found and found[2]) or _unit(models)).upper()
    if not found or not unit or _may_be_thousands(found[1], unit):
        what = f"a number as VRAM (with its unit, there or in the header) of the model in line {row.line + 1}"
        raise page.refused(what, repr(text))
    return Decimal(found[1]) / (_MIB_PER_GB if unit.startswith("M") else 1)


def _may_be_thousands(figure: str, unit: str) -> bool:
    """A point before three digits separates thousands in half of the world; nobody measures thousandths of a MiB."""
    return unit.upper().startswith("M") and re.fullmatch(r"\d{1,3}\.\d{3}", figure) is not None


def _peak(page: Page, peak_gb: Decimal, log: Span) -> list[Edit]:
    """The edit of the line that states the peak, keeping its digits and unit.

    Raises:
        Refused: no such line, several, or one with more than one plain figure, which could be any.
    """
    stated: list[tuple[int, re.Match[str], str]] = []
    for at in range(len(page.lines)):
        # Skip the log, which mentions former peaks, and code.
        if at in page.literal or log.start <= at < log.end:
            continue
        text = masked(page.content(at))
        stated += [(at, found, text) for found in _MENTION.finditer(text) if re.search(r"\d", text[found.end() :])]
    # If several lines mention the peak, the one that starts with it counts.
    begun = [one for one in stated if _MARKUP.fullmatch(one[2][: one[1].start()]) and _begins(page, one[0], one[1])]
    stated = begun or stated
    if len(stated) != 1:
        lines = f" (lines {', '.join(str(at + 1) for at, _, _ in stated)})" if stated else ""
        raise page.refused('one line such as "Steady-state peak: 12.8 GB"', f"{len(stated) or 'none'}{lines}")
    [(at, mention, text)] = stated
    found = _PEAK.match(text, mention.end())
    known = found and _PREFIX.fullmatch(text[: mention.start()]) and _begins(page, at, mention)
    rest = text[found.end() :] + _goes_on(page, at) if found else ""
    if of := _OF.match(rest):
        rest = rest[of.end() :]
    if not found or not known or _OTHERWISE.search(rest) or _may_be_thousands(found["number"], found["unit"]):
        raise page.refused(
            'one number as steady-state peak, as in "Steady-state peak: 12.8 GB"',
            f"{page.content(at).strip()!r} in line {at + 1}",
        )
    peak = peak_gb * _MIB_PER_GB if found["unit"].upper().startswith("M") else peak_gb
    digits = len(found["number"].partition(".")[2])
    # Keep enough digits for the statement to equal the table's sum.
    digits = max(digits, min(3, len(f"{peak:.3f}".rstrip("0").partition(".")[2])))
    if Decimal(found["number"]) == round(peak, digits):
        return []
    start = page.starts[at] + found.start("number")
    return [Edit(start, start + len(found["number"]), f"{peak:.{digits}f}")]


def _begins(page: Page, at: int, mention: re.Match[str]) -> bool:
    """Whether a mention is not a continuation of the line above, as a wrapped sentence has it."""
    return (
        mention[0][0].isupper() or mention.start() > 0 or not any(block.start < at < block.end for block in page.texts)
    )


def _goes_on(page: Page, at: int) -> str:
    """The line below, if the sentence in line `at` goes on there."""
    if not any(block.start <= at and at + 1 < block.end for block in page.texts):
        return ""
    below = masked(page.content(at + 1)).strip()
    return "" if re.match(r"[*_#|>]*[A-Z]", below) else f" {below}"


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
    below = [heading for heading in page.headings if log.start < heading.line < log.end]
    if below and not (inside and inside[0].start < below[0].line):
        return [_below_heading(page, trial, said, log, below)]
    if not inside:
        return [_first_line(page, trial, said, log)]
    block = page.trimmed(inside[0])
    comments = {at for at, _ in page.comments()}
    for at in range(log.start + 1, block.start):
        if at not in comments and _WHEN.search(_HTML.sub("", page.content(at))):
            raise page.refused(
                "a list or a table of dated lines under Change Log", f"one below line {at + 1}, which dates it"
            )
    if _ITEM.match(page.content(block.start)):
        return [_list_line(page, trial, said, block)]
    return [_table_line(page, trial, said, block)]


def _below_heading(page: Page, trial: Trial, said: str, log: Span, below: list[Heading]) -> Edit:
    """The line below a heading of its own date, which is made like the others, in their order, if it is missing."""
    days = [heading for heading in below if heading.level == min(one.level for one in below)]
    dates = [found[1] if (found := _DAY.fullmatch(heading.text)) else None for heading in days]
    if None in dates or days[0] is not below[0]:
        line = (below[0] if None not in dates else days[dates.index(None)]).line
        raise page.refused("dates as headings under Change Log", f"{page.content(line).strip()!r} in line {line + 1}")
    bullets = [
        page.content(block.start) for block in page.blocks("bullet_list_open") if log.start < block.start < log.end
    ]
    like = _ITEM.match(bullets[0]) if bullets else None
    line_ = f"{like['lead'] if like else '* '}{said}"
    if trial.date in dates:
        return _added(page, line_, Span(days[dates.index(trial.date)].line, log.end), below)
    [title] = [block for block in page.blocks("heading_open", "paragraph_open") if block.start == days[0].line]
    own = [_DATE.sub(trial.date, page.content(at)) for at in range(*title)]
    at = _place(dates, trial.date)
    if at == len(days):
        return page.insert_after(page.trimmed(log).end - 1, ["", *own, "", line_])
    before = days[at].line - 1
    return page.insert_after(before, [*([""] if page.content(before).strip() else []), *own, "", line_, ""])


def _added(page: Page, line: str, own: Span, below: list[Heading]) -> Edit:
    """The line at the beginning of the list below the heading in the first line of `own`."""
    end = min((heading.line for heading in below if heading.line > own.start), default=own.end)
    lists = [block for block in page.blocks("bullet_list_open") if own.start < block.start < end]
    if lists:
        return page.insert_after(lists[0].start - 1, [line])
    return page.insert_after(page.trimmed(Span(own.start, end)).end - 1, ["", line])


def _place(dates: Sequence[str | None], date: str) -> int:
    """Where among dated entries one of `date` belongs: newest first, unless they stand the other way round."""
    known = [one for one in dates if one]
    if len(known) > 1 and known[0] < known[-1]:
        return next((at for at, one in enumerate(dates) if one and one > date), len(dates))
    if not known:
        return 0
    return next((at for at, one in enumerate(dates) if one and one <= date), len(dates))


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
    dates = [found["date"] if (found := _ITEM.match(page.content(item.start))) else None for item in items]
    at = _place(dates, trial.date)
    if at == len(items):
        return page.insert_after(block.end - 1, ["", line] if loose else [line])
    return page.insert_after(items[at].start - 1, [line, ""] if loose else [line])


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
    cells_ = [row.plain(dates[0]) for row in rows]
    days = [cell if _DATE.fullmatch(cell) else None for cell in cells_]
    if any(cells_) and not any(days):
        raise page.refused("dates such as 2026-01-31 under Change Log", repr(next(cell for cell in cells_ if cell)))
    at = _place(days, trial.date)
    return page.insert_after(
        rows[at].line - 1 if at < len(rows) else (rows[-1] if rows else header).line + (not rows), [line]
    )
