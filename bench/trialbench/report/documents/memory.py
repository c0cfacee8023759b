"""The memory document: one line per trial, newest first, in a marked block at the end."""

from __future__ import annotations

import re

from trialbench.report.documents.markdown import Edit, Page, escape, word
from trialbench.report.documents.trial import Trial
from trialbench.show.text import number

_BEGIN = "<!-- model-trial runs: begin; `trialbench documents` keeps a line for each -->"
_END = "<!-- model-trial runs: end -->"
_VERDICT = "(?:ADOPT|REJECT|INCONCLUSIVE|PENDING REVIEW)"
_ENTRY = re.compile(r"\* (\d{4}-\d\d-\d\d \d\d:\d\d) UTC, run (\S+):")


def memory_edits(page: Page, trial: Trial) -> list[Edit]:
    """The run's line, rewritten or inserted by time; the block is created at the end if it is missing.

    Raises:
        Refused: a marker without its other.
    """
    comments = list(page.comments())
    begins = [at for at, text in comments if text == _BEGIN]
    ends = [at for at, text in comments if text == _END]
    if begins or ends:
        if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
            lines = ", ".join(str(at + 1) for at in sorted([*begins, *ends]))
            raise page.refused("one begin and one end marker around the runs", f"markers in lines {lines}")
        return [_entered(page, trial, begins[0], ends[0])]
    last = len(page.lines) - 1
    block = ["## Model trials", "", _BEGIN, "", _line(trial), "", _END]
    if not page.text.strip("\ufeff"):
        return [page.insert_after(last, block)]
    return [page.insert_after(last, ["", *block] if page.lines[last].strip() else block)]


def _entered(page: Page, trial: Trial, begin: int, end: int) -> Edit:
    entries = [(at, found) for at in range(begin + 1, end) if (found := _ENTRY.match(page.content(at)))]
    own = [at for at, found in entries if found[2] == escape(word(trial.id))]
    if own:
        return _rewritten(page, trial, own[0])
    older = [at for at, found in entries if (found[1], found[2]) < (trial.begun, escape(word(trial.id)))]
    if older:
        return page.insert_after(older[0] - 1, [_line(trial)])
    if entries:
        return page.insert_after(entries[-1][0], [_line(trial)])
    return page.insert_after(begin, ["", _line(trial)])


def _rewritten(page: Page, trial: Trial, at: int) -> Edit:
    """The run's line with today's verdict and its reasons; words that the user has added to it stay.

    Raises:
        Refused: the place of the verdict and its reasons is ambiguous.
    """
    text, new = page.content(at), _line(trial)
    _, today, facts = _parts(trial)
    # Reasons may have brackets in them. Where these do not match, what follows tells the end: it stays the same.
    ends = rf"(?:[^()]|\([^()]*\))*\)|.*\)(?={re.escape(facts)})"
    found = list(re.finditer(rf"\*\*{_VERDICT}\*\* \((?:{ends})", text))
    if text == new or (len(found) == 1 and found[0][0] == today):
        return page.replace_line(at, text)
    if len(found) != 1:
        raise page.refused(
            f'"**verdict** (its reasons)" once in the line of the run {trial.id}',
            f"it {len(found) or 'not'} {'times ' if found else ''}in line {at + 1} (do: remove the line)",
        )
    start, end = found[0].span()
    return page.replace_line(at, text[:start] + today + text[end:])


def _line(trial: Trial) -> str:
    """One run in one line."""
    return "".join(_parts(trial))


def _parts(trial: Trial) -> tuple[str, str, str]:
    """The run's line in parts: what was tried, the verdict with its reasons, the facts."""
    head = f"* {trial.begun} UTC, run {escape(word(trial.id))}: {escape(trial.label)} on {escape(trial.host)}:"
    reasons = "; ".join(escape(reason) for reason in trial.reasons)
    facts = _numbers(trial) if trial.outcome == "completed" else []
    windows = trial.summary.windows
    facts += [f"{escape(impact)} for {number(window.total_s)} s" for impact, window in windows.items()]
    outcome = "" if trial.outcome == "completed" else f" {trial.outcome.replace('_', ' ')},"
    return f"{head}{outcome} ", f"**{trial.verdict}** ({reasons})", f"{'; ' if facts else ''}{', '.join(facts)}."


def _numbers(trial: Trial) -> list[str]:
    segments = trial.summary.segments
    found = []
    candidate, baseline = segments.get(trial.work.candidate), segments.get(trial.work.a1)
    if candidate:
        live = f" (live model {number(baseline.latency_ms.p50.value)})" if baseline else ""
        found.append(f"p50 {number(candidate.latency_ms.p50.value)} ms{live}")
        found.append(f"{number(candidate.effective_hz.from_p50)} Hz")
        found.append(f"{number(candidate.tokens_per_s)} tok/s")
    if candidate and candidate.adherence:
        found.append(f"{candidate.adherence.k}/{candidate.adherence.n} adherent")
    if trial.footprint_gb is not None:
        found.append(f"{trial.footprint_gb:.2f} GB above the drained level")
    return found
