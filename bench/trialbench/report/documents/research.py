"""The research document: a marked block of numbers per model, replacing the sentence that no benchmarks exist."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trialbench.measure.summary import SegmentSummary
from trialbench.report.documents.markdown import Edit, Page, Span, escape, masked, rendered, word
from trialbench.report.documents.trial import Trial
from trialbench.report.measured import quantile_text
from trialbench.show.text import number

_MIB_PER_GB = 1024
# Characters of the sentence of facts.
_ANSWER = 1000
_PHRASE = re.compile(r"no\s+benchmarks\s+exist\s+yet(?![^\W_])", re.IGNORECASE)
# Words that may come before the phrase, and only say what has no benchmarks.
_PLACE = r"(?:for|on|in|at|with|of|under|until|to|between|among|as\s+of)\b"
_LINK = (
    r"(?:but|and|also|however|still|so\s+far|to\s+date|at\s+present|currently|today|here|there|unfortunately|sadly"
    r"|to\s+(?:my|our)\s+knowledge)\b,?"
)
_LEAD = re.compile(
    rf"(?P<link>[*_(]*(?:{_LINK}(?:\s+|\Z)){{0,2}})[*_(]*(?P<words>{_PLACE}[^<>()\[\]|;:!?…~\"“”„«»]*)?[*_]*",
    re.IGNORECASE,
)
# Also behind a mark without a blank, as in "of@For".
_PLACES = re.compile(rf"(?<![^\W_]){_PLACE}", re.IGNORECASE)
# A verb or a conjunction among these words makes a statement of them, which would go with the sentence.
_CLAUSE = re.compile(
    r"\b(?:is|are|was|were|be|been|has|have|had|do|does|did|can|could|will|would|shall|should|may|might|must"
    r"|(?:need|take|use|run|fit|work|load|say|show|give|get|claim|seem|make|see|weigh|cost|come|go|want|fail|exist|reach)e?s?"
    r"|needed|took|used|ran|worked|loaded|said|showed|gave|got|claimed|made|saw|came|went|failed|reached|measured|tested"
    r"|tried|found|wrote|told|which|who|whose|that|because|while|although|though|since|if|when|where)\b"
    r"|\b(?:and|or|but|so|yet)\W*\Z",
    re.IGNORECASE,
)
# A figure with its unit is a fact, which would go with the sentence.
_FACT = re.compile(
    r"\d\s*(?:%|[kKMGT]i?B\b|m?s\b|tok|[kMGT]?Hz\b|k?W\b|bits?\b|[€$£¥]|(?:EUR|USD|GBP|CHF|fps|FPS|TFLOPS)\b"
    r"|(?:layers?|runs?|seconds?|minutes?|hours?|days?|euros?|dollars?)\b)|[€$£¥]\s?\d"
)
# Behind a stop still stand closing marks and the marks of footnotes; both belong to the sentence before.
_STOP = re.compile(
    r"(?:[.!?…](?:[*_\"'”’)\]]|\[\^[^\]\s]*\]|<sup>[^<]*</sup>)*(?:\s+|<br\s*/?>\s*|\\\s+)"
    r"|[。！？](?:[*_\"'”’)\]])*\s*)"
)
# They end no sentence, whatever comes behind them.
_ABBREVIATED = re.compile(
    r"(?:\b(?:vs|e\.\s?g|i\.\s?e|cf|ca|approx|appr|incl|excl|resp|esp|nr|no|fig|dr|prof|ver|z\.\s?B"
    r"|bzw)|(?<!\w)(?:(?:\w\.)+\w|(?-i:[A-Z])))\.\s*\Z",
    re.IGNORECASE,
)
_FOOTNOTE = re.compile(r"\[\^[^\]\s]+\]:")
_TAIL = re.compile(r"[*_)]*(?P<stop>[.!。！]?)[*_)]*")
# What may be between the markers; any other line there is the user's.
_OURS = re.compile(r"\s*(?:|Tried on .*|\|.*|\* .*)")
_BEGIN = re.compile(r"<!-- model-trial numbers of (\S+): begin, run (\S+) of (\d{4}-\d\d-\d\d \d\d:\d\d) UTC\b.*-->")
_SUM = re.compile(r"; sum ([0-9a-f]{8}) -->")
_END = re.compile(r"<!-- model-trial numbers of (\S+): end -->")


def research_edits(page: Page, trial: Trial) -> list[Edit]:
    """The model's block: rewritten where it stands, else in place of the sentence, else below another model's block.

    Raises:
        Refused: none of these places, or two.
    """
    comments = list(page.comments())
    comments_ = dict(comments)
    begins = [at for at, text in comments if _names(_BEGIN, text, trial.label)]
    ends = [at for at, text in comments if _names(_END, text, trial.label)]
    block = page.eol.join(_block(trial))
    if begins or ends:
        if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
            lines = ", ".join(str(at + 1) for at in sorted([*begins, *ends]))
            raise page.refused(
                "one begin and one end marker around the numbers of this model", f"markers in lines {lines}"
            )
        inside = [page.content(at) for at in range(begins[0] + 1, ends[0])]
        foreign = [at for at, line in enumerate(inside) if not _OURS.fullmatch(line)]
        if foreign:
            raise page.refused(
                "nothing but our numbers between the markers",
                f"a line of yours in line {begins[0] + foreign[0] + 2} (do: move it out)",
            )
        summed = _SUM.search(comments_[begins[0]])
        if summed and any(map(str.strip, inside)) and summed[1] != _sum(inside):
            raise page.refused(
                "our numbers between the markers, as they were written",
                f"other words or numbers in lines {begins[0] + 2} to {ends[0]} (do: move what is yours out of them)",
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


class _Sentence(NamedTuple):
    """The sentence: lines of its paragraph, and the characters where it begins and ends."""

    lines: Span
    start: int
    end: int


def _sentence(page: Page) -> _Sentence | None:
    """The sentence in a paragraph; it is replaced only if it is certain where it begins and ends, and it says no more.

    Raises:
        Refused: two of it, or one that is not certain.
    """
    found = []
    for lines in page.blocks("paragraph_open"):
        start, end = page.span(lines)
        text = page.text[start:end]
        start += len(text) - len(text.lstrip())
        text = text.strip()
        if _FOOTNOTE.match(text):
            continue
        found += [(lines, start, text, *said.span()) for said in _PHRASE.finditer(masked(text))]
    if len(found) > 1:
        lines_ = ", ".join(str(page.line_at(start + at) + 1) for _, start, _, at, _ in found)
        raise page.refused('one sentence "no benchmarks exist yet" to replace', f"{len(found)} (lines {lines_})")
    if not found:
        return None
    [(lines, start, text, at, to)] = found
    first, last = _begin(text, at), _end(text, to)
    said = text[first or 0 : to if last is None else last]
    if first is None or last is None or not _balanced(said):
        line = page.line_at(start + at) + 1
        raise page.refused(
            'the sentence "no benchmarks exist yet" with nothing else in it, and a full stop on either side',
            f"{_around(text, at, to)!r} in line {line} (do: make it a paragraph of its own)",
        )
    return _Sentence(lines, start + first, start + last)


def _begin(text: str, at: int) -> int | None:
    """Where the sentence begins that has the phrase at `at`; None if it is not certain, or if it says more."""
    shown = masked(text)
    begins = [stop.end() for stop in _STOP.finditer(shown, 0, at) if not _ABBREVIATED.search(shown[: stop.end()])]
    begin = max(begins, default=0)
    lead = shown[begin:at]
    found = _LEAD.fullmatch(lead)
    words = (found["words"] or "") if found else ""
    if not found or _CLAUSE.search(words) or _FACT.search(words) or _STOP.search(_abbreviations_gone(lead)):
        return None
    if "<!--" in text[begin:at]:
        return None
    places = [place[0] for place in _PLACES.finditer(words)]
    # A capital letter begins a sentence: none may begin within this one, as it does after a line without a stop.
    later = [*places[0 if found["link"].strip("*_(") else 1 :], text[at] if lead.strip("*_(") else ""]
    if any(word[:1].isupper() for word in later):
        return None
    # After a full stop, a lower-case word may continue the sentence before.
    return begin if not begins or text[begin:].lstrip("*_(")[:1].isupper() else None


def _abbreviations_gone(lead: str) -> str:
    """The words before the phrase, with the full stops of abbreviations blanked."""
    stops = [stop for stop in _STOP.finditer(lead) if _ABBREVIATED.search(lead[: stop.end()])]
    for stop in stops:
        lead = f"{lead[: stop.start()]} {lead[stop.start() + 1 :]}"
    return lead


def _end(text: str, to: int) -> int | None:
    """Where the sentence ends whose phrase ends at `to`; None if it is not certain."""
    tail = _TAIL.match(text, to)
    assert tail is not None, "it matches nothing, too"
    rest = text[tail.end() :]
    if not rest or (tail["stop"] and rest[0].isspace()) or (tail["stop"] in ("。", "！") and rest[0].isalnum()):
        return tail.end()
    return None


def _balanced(said: str) -> bool:
    """Whether brackets and marks of emphasis close within the sentence; one that does not may be a footnote's."""
    marks = [re.match(r"[*_(]*", said), re.search(r"[*_).!。！]*\Z", said)]
    opened, closed = (mark[0].count("_") if mark else 0 for mark in marks)
    return said.count("(") == said.count(")") and "*" not in rendered(said) and opened == closed


def _around(text: str, at: int, to: int) -> str:
    """The phrase with some words before and behind it."""
    return " ".join(text[max(0, at - 30) : to + 30].split())


def _replaced(page: Page, place: _Sentence, block: str) -> Edit:
    """The block in place of the sentence; the rest of its paragraph becomes paragraphs before and after.

    Raises:
        Refused: a reader would see more change than the sentence, say bold text that began before it.
    """
    lines, first, last = place
    before = page.text[page.starts[lines.start] : first].strip()
    after = page.text[last : page.starts[lines.end]].strip()
    gap = page.eol * 2
    edit = Edit(first, last, (gap if before else "") + block + (gap if after else ""))
    if not _loses_only(page, edit, block):
        raise page.refused(
            'a sentence "no benchmarks exist yet" whose removal does not change how its neighbors look',
            f"one that shares its markup in line {page.line_at(first) + 1} (do: make it a paragraph of its own)",
        )
    return edit


def _loses_only(page: Page, edit: Edit, block: str) -> bool:
    """Whether the page, as its reader sees it, loses the sentence and nothing else."""
    was, now = rendered(page.text), rendered(page.edited([edit]))
    said, new = rendered(page.text[edit.start : edit.end]), rendered(block)
    at = now.find(new)
    return at >= 0 and was == now[:at] + said + now[at + len(new) :]


def _elsewhere(page: Page) -> str:
    """Where the sentence is, if it is in a place that cannot be replaced."""
    lines = [
        at + 1 for at in range(len(page.lines)) if at not in page.literal and _PHRASE.search(masked(page.lines[at]))
    ]
    return f"it only in a list, table, heading or quotation (line {lines[0]})" if lines else "neither"


def _block(trial: Trial) -> list[str]:
    """The lines of the block, markers included."""
    reasons = "; ".join(escape(reason) for reason in trial.reasons)
    of = f"numbers of {word(trial.label)}: begin, run {word(trial.id)} of {trial.begun} UTC"
    lines = [
        "",
        f"Tried on {escape(trial.host)} on {trial.date}: **{trial.verdict}** ({reasons}).",
        "",
        *_table(trial),
    ]
    told = [escape(trial.answer, _ANSWER)] if trial.answer else []
    told += [escape(one.text) for one in trial.summary.comparisons]
    if told:
        lines += ["", *(f"* {text}" for text in told)]
    begin = f"<!-- model-trial {of}; `trialbench documents` rewrites it; sum {_sum(lines)} -->"
    return [begin, *lines, "", f"<!-- model-trial numbers of {word(trial.label)}: end -->"]


def _sum(lines: Sequence[str]) -> str:
    """A checksum of the words in these lines: it changes with a word, not with widths, bullets or rules."""
    words = " ".join(re.findall(r"\w+", "\n".join(lines)))
    return f"{zlib.crc32(words.encode('utf-8', 'surrogatepass')):08x}"


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
        row("distinct questions, replies", lambda one: f"{one.questions.asked}, {one.questions.distinct_replies}"),
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
    if not found or not found.n:
        return "-"
    # Rounded down: with a reply that does not count it is no 100 %.
    return f"{found.k}/{found.n}, {found.k * 1000 // found.n / 10:g} %"
