"""The research document: a marked block of numbers per model, replacing the sentence that no benchmarks exist."""

from __future__ import annotations

import re
from collections.abc import Callable

from trialbench.measure.summary import SegmentSummary
from trialbench.report.documents.markdown import Edit, Page, Span, escape, masked, word
from trialbench.report.documents.trial import Trial
from trialbench.report.measured import quantile_text
from trialbench.show.text import number

_MIB_PER_GB = 1024
_SENTENCE = re.compile(r"no\s+benchmarks\s+exist\s+yet", re.IGNORECASE)
# The end of a sentence: punctuation, closing marks, and a gap before a possible next sentence.
_STOP = re.compile(r"""[.!?][*_"'”’)\]]*(?=\s+[^\sa-z]|\s*\Z)""")
_BEGIN = re.compile(r"<!-- model-trial numbers of (\S+): begin, run (\S+) of (\d{4}-\d\d-\d\d \d\d:\d\d) UTC\b.*-->")
_END = re.compile(r"<!-- model-trial numbers of (\S+): end -->")


def research_edits(page: Page, trial: Trial) -> list[Edit]:
    """The model's block: rewritten where it stands, else in place of the sentence, else below another model's block.

    Raises:
        Refused: none of these places, or two.
    """
    comments = list(page.comments())
    begins = [at for at, text in comments if _names(_BEGIN, text, trial.label)]
    ends = [at for at, text in comments if _names(_END, text, trial.label)]
    block = page.eol.join(_block(trial))
    if begins or ends:
        if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
            lines = ", ".join(str(at + 1) for at in sorted([*begins, *ends]))
            raise page.refused(
                "one begin and one end marker around the numbers of this model", f"markers in lines {lines}"
            )
        first, last = page.content(begins[0]), page.content(ends[0])
        start = page.starts[begins[0]] + len(first) - len(first.lstrip())
        return [Edit(start, page.starts[ends[0]] + len(last.rstrip()), block)]
    sentence = _sentence(page)
    if sentence:
        return [_replaced(page, sentence, block)]
    others = [at for at, text in comments if _END.fullmatch(text)]
    if others:
        return [page.insert_after(others[-1], ["", block])]
    raise page.refused(
        'the sentence "no benchmarks exist yet" in a paragraph of its own, or a block that replaced it',
        _elsewhere(page),
    )


def shown_run(page: Page, trial: Trial) -> str | None:
    """The run whose numbers the document shows for this model, if it began after `trial`."""
    for _, text in page.comments():
        found = _BEGIN.fullmatch(text)
        if found and found[1] == word(trial.label) and found[3] > trial.begun:
            return found[2]
    return None


def _names(marker: re.Pattern[str], text: str, label: str) -> bool:
    found = marker.fullmatch(text)
    return found is not None and found[1] == word(label)


def _sentence(page: Page) -> tuple[Span, int, int] | None:
    """The paragraph that has the sentence, and the characters where the sentence begins and ends."""
    found = []
    for lines in page.blocks("paragraph_open"):
        start = page.starts[lines.start]
        text = page.text[start : page.starts[lines.end]].rstrip()
        shown = masked(text)
        for said in _SENTENCE.finditer(shown):
            stops = [stop.end() for stop in _STOP.finditer(shown)]
            first = max((stop for stop in stops if stop <= said.start()), default=0)
            first += len(text[first:]) - len(text[first:].lstrip())
            last = min((stop for stop in stops if stop >= said.end()), default=len(text))
            found.append((lines, start + first, start + last))
    if len(found) > 1:
        lines_ = ", ".join(str(page.line_at(first) + 1) for _, first, _ in found)
        raise page.refused('one sentence "no benchmarks exist yet" to replace', f"{len(found)} (lines {lines_})")
    return found[0] if found else None


def _replaced(page: Page, place: tuple[Span, int, int], block: str) -> Edit:
    """The block in place of the sentence; the rest of its paragraph becomes paragraphs before and after."""
    lines, first, last = place
    before = page.text[page.starts[lines.start] : first].strip()
    after = page.text[last : page.starts[lines.end]].strip()
    gap = page.eol * 2
    return Edit(first, last, (gap if before else "") + block + (gap if after else ""))


def _elsewhere(page: Page) -> str:
    """Where the sentence is, if it is in a place that cannot be replaced."""
    lines = [
        at + 1 for at in range(len(page.lines)) if at not in page.literal and _SENTENCE.search(masked(page.lines[at]))
    ]
    return f"it only in a list, table, heading or quotation (line {lines[0]})" if lines else "neither"


def _block(trial: Trial) -> list[str]:
    """The lines of the block, markers included."""
    reasons = "; ".join(escape(reason) for reason in trial.reasons)
    of = f"numbers of {word(trial.label)}: begin, run {word(trial.id)} of {trial.begun} UTC"
    lines = [
        f"<!-- model-trial {of}; `trialbench documents` rewrites it -->",
        "",
        f"Tried on {escape(trial.host)} on {trial.date}: **{trial.verdict}** ({reasons}).",
        "",
        *_table(trial),
    ]
    compared = [one.text for one in trial.summary.comparisons]
    if compared:
        lines += ["", *(f"* {escape(text)}" for text in compared)]
    return [*lines, "", f"<!-- model-trial numbers of {word(trial.label)}: end -->"]


def _table(trial: Trial) -> list[str]:
    """The numbers: a column for the candidate, and one each for the live model before and after it."""
    segments, vram, work = trial.summary.segments, trial.summary.vram, trial.work
    live = str(trial.summary.baseline_label or "live model")
    columns = [(trial.label, segments.get(work.candidate))]
    for name, title in ((work.a1, f"{live} before"), (work.a2, f"{live} after")):
        if name in segments:
            columns.append((title, segments[name]))

    def row(title: str, text: Callable[[SegmentSummary], str]) -> list[str]:
        return [title, *(text(segment) if segment else "-" for _, segment in columns)]

    def alone(title: str, text: str) -> list[str]:
        return [title, text, *("-" for _ in columns[1:])]

    def quantile(name: str) -> Callable[[SegmentSummary], str]:
        return lambda segment: quantile_text(getattr(segment.latency_ms, name))

    drained = vram.drained_mib
    above = "" if drained is None else f" above the drained {drained / _MIB_PER_GB:.2f}"
    rows = [
        [escape(work.name), *(escape(title) for title, _ in columns)],
        *(row(f"{name} ms, 95 % interval", quantile(name)) for name in ("p50", "p95", "p99")),
        row("tok/s", lambda segment: number(segment.tokens_per_s)),
        row("effective Hz, 1 / p50", lambda segment: number(segment.effective_hz.from_p50)),
        alone(f"VRAM GB{above}", "-" if trial.footprint_gb is None else f"{trial.footprint_gb:.2f}"),
        row("adherence", _adherence),
        row("valid replies", lambda segment: f"{segment.ok}/{segment.sent}"),
    ]
    cached = segments.get(work.cached)
    if cached:
        rows.append(alone("p50 ms, prompt cache on", quantile("p50")(cached)))
    shown = [f"| {' | '.join(cells)} |" for cells in rows]
    # Our tildes mean "about"; two unescaped tildes would strike text through.
    shown[1:] = [line.replace("~", r"\~") for line in shown[1:]]
    return [shown[0], f"|{'---|' * (len(columns) + 1)}", *shown[1:]]


def _adherence(segment: SegmentSummary) -> str:
    found = segment.adherence
    return f"{found.k}/{found.n}, {found.k / found.n * 100:.0f} %" if found and found.n else "-"
