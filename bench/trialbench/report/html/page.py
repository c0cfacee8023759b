"""The content of a report: everything its template shows, taken from a result folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from trialbench.measure.summary import SegmentSummary
from trialbench.report.answer import REVIEW
from trialbench.report.comparison import Comparison, finding_noisy, finding_told
from trialbench.report.correctness import WORDS
from trialbench.report.decide import answer_of, evidence_of, older, share_facts
from trialbench.report.evidence import QUESTIONS, Finding
from trialbench.report.html import charts, hostcharts, proofcharts
from trialbench.report.html.clock import Clock
from trialbench.report.html.described import Picture, Shown, camera, command_path, shown
from trialbench.report.html.gallery import Gallery, gallery
from trialbench.report.html.provenance import Group, provenance
from trialbench.report.journal import Check
from trialbench.report.levels import speed_decides
from trialbench.report.measured import EVIDENCE, cells, remarks
from trialbench.report.plan import Plan
from trialbench.report.restore import Outcome, second_tries
from trialbench.report.run import Run
from trialbench.report.summary import Summary
from trialbench.report.telemetry import Range, Rows
from trialbench.report.windows import clock, still_down_text
from trialbench.show.figures import Figure, Table
from trialbench.show.text import GIGABYTE, counted, number, ratio_text
from trialbench.verdict import Rules, proof_text

_MOST_ROWS = 60
# Display word, CSS class, and a sign that conveys it without color.
VERDICTS = {
    "ADOPT": ("ADOPT", "good", "\N{CHECK MARK}"),
    "REJECT": ("REJECT", "bad", "\N{MULTIPLICATION SIGN}"),
    "INCONCLUSIVE": ("INCONCLUSIVE", "warn", "?"),
    "PENDING_REVIEW": ("PENDING REVIEW", "wait", "\N{HORIZONTAL ELLIPSIS}"),
}
FINDINGS: dict[Finding, tuple[str, str, str]] = {
    "passed": ("passed", "good", "\N{CHECK MARK}"),
    "failed": ("failed", "bad", "\N{MULTIPLICATION SIGN}"),
    "open": ("open", "warn", "?"),
    "none": ("none", "wait", "\N{EN DASH}"),
}
OUTCOMES: dict[Outcome, str] = {
    "completed": "measured completely, and the host is restored",
    "rehearsed": "a rehearsal: tenants were stopped and restored, nothing was measured",
    "rolled_back": "it failed, and the host is restored",
    "open": "the host is not known to be restored",
    "untouched": "it ended before anything on the host was touched",
}


@dataclass(frozen=True)
class Step:
    """What to do next; `href` is where on the page or beside it, under the name `link`."""

    text: str
    href: str = ""
    link: str = ""


@dataclass(frozen=True)
class Badge:
    """Stands next to the verdict: a name such as TAINTED, and its meaning."""

    name: str
    kind: str
    lines: Sequence[str]


@dataclass(frozen=True)
class EvidencePanel:
    """One of the three questions behind the verdict; `href` is where the report has more of it."""

    name: str
    question: str
    word: str
    kind: str
    sign: str
    lines: list[str]
    href: str


@dataclass(frozen=True)
class Fact:
    """One of the figures on top."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report. Figures are None, and lists empty, where the run has nothing for them.

    `answer` has the facts that a decision to switch rests on, in a sentence; `beside` names the live model, `speed`
    says how fast the candidate is beside it; all three may be empty. `first` is what to do next. `gigabyte` is the part
    of the page that names a size first: there it is said what a GB is. `differ`: the scenes both answer differently.
    """

    run: str
    title: str
    tried: str
    beside: str
    answer: str
    first: Step
    speed: str
    gigabyte: str
    began: str
    host: str
    word: str
    kind: str
    sign: str
    outcome: str
    outcome_text: str
    reasons: list[str]
    badges: list[Badge]
    failure: dict[str, str]
    steps: list[Step]
    evidence: list[EvidencePanel]
    facts: list[Fact]
    ratios: Figure | None
    comparison: Table | None
    comparison_notes: list[str]
    segments: Table | None
    asked: Table | None
    differ: Gallery | None
    segment_notes: list[str]
    distribution: Figure | None
    timeline: Figure | None
    memory: Figure | None
    telemetry: Figure | None
    telemetry_table: Table | None
    telemetry_why: list[str]
    downtime: Figure | None
    windows: Table | None
    restored: list[str]
    picture: Picture
    shown: list[Shown]
    checks: Sequence[Check]
    checks_by: str
    checks_title: str
    attested: Table | None
    proofs: list[proofcharts.Shown]
    proofs_hidden: int
    provenance: list[Group]
    version: str
    written: str
    unread: list[str] = field(default_factory=list)


def page(run: Run, summary: Summary, joined: Mapping[str, Rows]) -> Page:
    """The report of a run.

    Args:
        run: as read.
        summary: of that run, recomputed.
        joined: what telemetry adds to samples, by segment and seq; empty where there is none.
    """
    times = Clock(run)
    found = charts.series(run.plan.decider, run.segments, joined)
    word, kind, sign = _word(run, summary)
    reasons = _reasons(run, summary)
    checks, checks_by = _checks(run)
    image = camera(run)
    proofs, proofs_hidden = proofcharts.shown(run.proofs)
    label = summary.model_label or "no plan found"
    tried = f"rehearsal for {label}" if run.rehearsal else label
    shown_replies, evidence, facts = shown(run), _evidence(run, summary, reasons), _facts(run, summary)
    marks, failure, steps = badges(summary), _failure(summary), _steps(run, summary, shown_replies)
    answer, differ = answer_of(run, summary), gallery(run, summary)
    card, known = hostcharts.memory(run, summary, times), provenance(run, summary, image)
    return Page(
        run=summary.run,
        title=f"{tried} on {summary.host or 'an unknown host'}",
        tried=tried,
        beside=summary.baseline_label or "",
        answer=answer,
        first=_first(steps, differ, summary),
        speed=_speed(run.plan, summary),
        gigabyte=_gigabyte(
            {
                "first": [answer or reasons[0], *(step.text for step in steps[:1]), *(fact.unit for fact in facts)],
                "reasons": reasons,
                "badges": [text for badge in marks for text in badge.lines],
                "failure": list(failure.values()),
                "steps": [step.text for step in steps],
                "evidence": [text for panel in evidence for text in panel.lines],
                "memory": [card.title] if card else [],
                "checks": [text for check in checks for text in (check.title, check.expected, check.found)],
                "provenance": [text for group in known for _name, text in group.rows],
            }
        ),
        began=run.began,
        host=summary.host or "an unknown host",
        word=word,
        kind=kind,
        sign=sign,
        outcome=summary.outcome.replace("_", " "),
        outcome_text=told if (told := _ended(summary)) not in reasons else "",
        reasons=reasons,
        badges=marks,
        failure=failure,
        steps=steps,
        evidence=evidence,
        facts=facts,
        ratios=charts.ratios(
            [(charts.METRICS[row.metric], row) for row in summary.comparisons],
            title="Candidate against baseline",
        ),
        comparison=_comparison(summary),
        comparison_notes=_comparison_notes(run, summary),
        segments=_segments(summary),
        asked=_asked(summary),
        differ=differ,
        segment_notes=[*_remarks(summary), *run.notes[:_MOST_ROWS]],
        distribution=charts.distribution(found),
        timeline=charts.timeline(found),
        memory=card,
        telemetry=hostcharts.telemetry(run, times),
        telemetry_table=_telemetry(summary),
        telemetry_why=_telemetry_why(summary),
        downtime=hostcharts.downtime(run, times),
        windows=_windows(summary),
        restored=_restored(summary),
        picture=image,
        shown=shown_replies,
        checks=checks,
        checks_by=checks_by,
        checks_title=counted(len(checks), "check") if checks else "Checks",
        attested=_attested(run),
        proofs=proofs,
        proofs_hidden=proofs_hidden,
        provenance=known,
        version=summary.trialbench,
        written=summary.created,
        unread=_unread(run),
    )


# --- verdict ---------------------------------------------------------------------------------------------------------


def _word(run: Run, summary: Summary) -> tuple[str, str, str]:
    """The word at the top: the verdict, or its substitute."""
    if summary.outcome == "open":
        return "HOST NOT BACK", "bad", "!"
    if run.rehearsal:
        good = summary.outcome == "rehearsed"
        return (
            ("REHEARSED", "good", "\N{CHECK MARK}") if good else ("REHEARSAL FAILED", "bad", "\N{MULTIPLICATION SIGN}")
        )
    if run.verdict is not None:
        return VERDICTS[run.verdict.verdict]
    if summary.outcome == "untouched":
        return "NOTHING TOUCHED", "wait", "\N{HORIZONTAL ELLIPSIS}"
    return "NOT DECIDED", "wait", "\N{HORIZONTAL ELLIPSIS}"


def _reasons(run: Run, summary: Summary) -> list[str]:
    found: list[str] = []
    if summary.outcome == "open":
        lost = [still_down_text(entry) for entry in summary.still_down]
        found += lost or ["nothing in the journal says that the host was restored"]
    if summary.restore_failure:
        found.append(f"the newest restore failed: {summary.restore_failure}")
    again = second_tries(run)
    if summary.outcome == "completed":
        found += [f"the host did NOT come back at the first try: {words}" for words in again]
    if run.verdict is not None and not run.rehearsal:
        decided = [f"verdict {VERDICTS[run.verdict.verdict][0]}"] if summary.outcome == "open" else []
        stale = [text.replace("verdict DIR", f"verdict {command_path(run.path)}") for text in older(run, summary)]
        return [*found, *decided, *run.verdict.reasons, *stale][:_MOST_ROWS]
    told = summary.failure or (again and summary.outcome == "rolled_back")
    found.append(summary.restore.why if told else _ended(summary))
    if not run.rehearsal:
        found.append(f"no verdict yet: trialbench verdict {command_path(run.path)}")
    return [reason for reason in found if reason][:_MOST_ROWS]


def _ended(summary: Summary) -> str:
    """How the run ended, in words; with samples missing it was not measured completely."""
    if summary.outcome == "completed" and (summary.partial or not summary.segments):
        return "it ended as planned, and the host is restored"
    return OUTCOMES[summary.outcome]


def _speed(plan: Plan, summary: Summary) -> str:
    """The candidate's latency beside the live model's, in words; empty where they were not compared."""
    row = next((row for row in summary.comparisons if row.metric == "latency_ms"), None)
    if row is None:
        return ""
    live = " ".join(["live model", *([summary.baseline_label] if summary.baseline_label else [])])
    medians = f"p50 {number(row.candidate)} ms, {live} {number(row.baseline)} ms"
    declared = speed_decides(plan)
    weight = "affects the verdict by the declared levels alone" if declared else "does not affect the verdict"
    return f"Latency: {finding_told(row)} ({medians}). It {weight}."


def _steps(run: Run, summary: Summary, replies: Sequence[Shown]) -> list[Step]:
    """What to do next; replies that wait for a judgment are on the page, with the command that records it."""
    waiting = [one for one in replies if one.judged is None and one.candidate]
    if summary.outcome != "completed" or not waiting:
        return [Step(text) for text in summary.restore.next[:_MOST_ROWS]]
    blind = "Judge the replies without knowing whose they are:"
    found = [Step(blind, REVIEW, REVIEW)] if run.unreviewed and (run.path / REVIEW).is_file() else []
    text = "Read the replies side by side; the command below them records which are better:"
    return [*found, *(Step(text, f"#{one.id}", one.title) for one in waiting)]


def _first(steps: Sequence[Step], differ: Gallery | None, summary: Summary) -> Step:
    """The next step, with a link to where it is taken."""
    if steps:
        return steps[0] if steps[0].href else replace(steps[0], href="#next", link="What to do next")
    if differ:
        return Step("Nothing is left to decide. Look at what changes:", "#differ", "Where they differ")
    if summary.segments:
        return Step("Nothing is left to decide. What it rests on:", "#numbers", "Numbers")
    return Step("See what the host says:", "#checks", "Checks")


def _gigabyte(places: Mapping[str, Sequence[str]]) -> str:
    """The first of `places`, in the order of the page, whose texts name a size; empty where none does."""
    return next((place for place, texts in places.items() if any(map(GIGABYTE.search, texts))), "")


def _evidence(run: Run, summary: Summary, reasons: Sequence[str]) -> list[EvidencePanel]:
    """Trial, ground truth and engines side by side, even if one of them has no evidence.

    What the reasons say above is not said again, unless nothing else is left.
    """
    there = {
        "trial": "numbers" if summary.segments else "",
        "ground_truth": "attested" if run.attestation else "",
        "engines": "proofs" if run.proofs else "",
    }
    return [
        EvidencePanel(
            *QUESTIONS[one.question],
            *FINDINGS[one.finding],
            ([line for line in one.lines if line not in reasons] or one.lines)[:_MOST_ROWS],
            there[one.question],
        )
        for one in evidence_of(run, summary)
    ]


def badges(summary: Summary) -> list[Badge]:
    """Named caveats that apply to all numbers."""
    found = []
    if summary.taints:
        found.append(Badge("TAINTED", "bad", summary.taints[:_MOST_ROWS]))
    if summary.partial:
        found.append(Badge("PARTIAL", "warn", summary.partial[:_MOST_ROWS]))
    noisy = [row for row in summary.comparisons if row.noisy]
    if noisy:
        names = ", ".join(f"{charts.METRICS[row.metric]} {_percent(row)}" for row in noisy)
        text = f"the baseline varies by more than 5 % ({names})"
        found.append(Badge("NOISY", "warn", [f"{text}: repeat the run before acting on a difference"]))
    if summary.a2_skipped:
        found.append(Badge("NO A2", "warn", [f"the live model was not measured again: {summary.a2_skipped}"]))
    return found


def _percent(row: Comparison) -> str:
    return f"{row.band.percent:.1f} %" if row.band else ""


def _failure(summary: Summary) -> dict[str, str]:
    failure = summary.failure
    if not failure:
        return {}
    told = {"failed in": failure.phase, "because": failure.reason or ""} | failure.details
    todo = told.pop("todo", "")
    return {name: text for name, text in {**told, "what to do": todo}.items() if text}


def _facts(run: Run, summary: Summary) -> list[Fact]:
    """The figures on top, in the order of the sentence: does it fit, how fast, does it obey, is it right."""
    candidate = summary.segments.get(run.plan.decider.candidate)
    found = [*_fit(run.plan, summary), *(_measured(summary, candidate) if candidate else ()), *_answered(summary)]
    for impact, window in list(summary.windows.items())[:4]:
        found.append(Fact(impact, f"{window.total_s:.1f}", "s", f"of it overhead {window.overhead_s:z.1f} s"))
    lost = [Fact(entry.impact, "still", note=f"since {clock(entry.since)}") for entry in summary.still_down[:4]]
    return [*found, *lost]


def _fit(plan: Plan, summary: Summary) -> list[Fact]:
    peak = summary.vram.peak_footprint_gb
    if peak is None:
        return []
    healthy = (
        f"healthy {plan.low_below_gb:g}-{plan.healthy_to_gb:g}"
        if plan.low_below_gb is not None and plan.healthy_to_gb is not None
        else ""
    )
    return [Fact("memory of the candidate", f"{peak:.2f}", "GB", healthy)]


def _measured(summary: Summary, candidate: SegmentSummary) -> list[Fact]:
    # The two medians that the ratio is of, and no others.
    row = next((row for row in summary.comparisons if row.metric == "latency_ms"), None)
    value = row.candidate if row else candidate.latency_ms.p50.value
    beside = f"baseline {number(row.baseline)} ms" if row else ""
    if row and row.ratio:
        beside += f", ratio {_ratio(row)}: {finding_told(row)}"
    found, adherence = [Fact("latency p50", number(value), "ms", beside)], candidate.adherence
    if adherence and adherence.n:
        # Its bounds, and how many questions would decide, are among the reasons.
        note = proof_text(share_facts(adherence), Rules()).partition(", one-sided")[0]
        found.append(Fact("adherence", f"{adherence.k}/{adherence.n}", note=note))
    return found


def _answered(summary: Summary) -> list[Fact]:
    found = summary.correctness
    if found is None:
        return []
    if found.labeled is None:
        note = "which of the others are right is not known"
        return [Fact("scenes agreed", f"{found.agree}/{found.scenes}", note=note)]
    pairs, word = found.labeled.all, WORDS[found.labeled.finding]
    more = f"right more often: {word}" if found.labeled.finding == "not_shown" else word
    return [Fact("scenes right", f"{pairs.candidate}/{pairs.scenes}", note=f"baseline {pairs.baseline}: {more}")]


# --- numbers ---------------------------------------------------------------------------------------------------------


def _ratio(row: Comparison) -> str:
    return ratio_text(row.ratio, row.low, row.high)


def _comparison(summary: Summary) -> Table | None:
    rows = [
        [
            charts.METRICS[row.metric],
            f"{number(row.candidate)} {row.unit}",
            f"{number(row.baseline)} {row.unit}",
            f"{number(row.a1)} / {number(row.a2)}",
            _ratio(row),
            f"\N{PLUS-MINUS SIGN} {_percent(row)}" if row.band else "unknown",
            finding_noisy(row),
        ]
        for row in summary.comparisons
    ]
    if not rows:
        return None
    head = ["median of", "candidate B", "baseline A", "A1 / A2", "B / A [95 %]", "A2 against A1", "finding"]
    return Table("Candidate against baseline, ratios of medians", head, rows, numbers=range(1, 5))


def _comparison_notes(run: Run, summary: Summary) -> list[str]:
    if summary.comparisons:
        left_out = next((row.left_out for row in summary.comparisons if row.left_out), "")
        why = [f"{charts.METRICS[row.metric]}: {row.why}" for row in summary.comparisons if row.why]
        return [*why, *([f"The medians leave out {left_out}."] if left_out else [])]
    if run.rehearsal:
        return ["A rehearsal measures nothing."]
    missing = [
        f"{letter} ({segment})"
        for segment, (letter, *_names) in charts.compared(run.plan.decider).items()
        if not run.samples(segment)
    ]
    if missing:
        return [f"Not compared: no samples of {', '.join(missing)}."]
    return ["Not compared."]


# Head of a column here, and what `measured.cells` calls it.
_SEGMENT_COLUMNS = {
    "segment": "segment",
    "ok/sent": "ok/sent",
    "p50 ms [95 %]": "p50 ms [95 %]",
    "p95 ms [95 %]": "p95 ms [95 %]",
    "max ms": "max ms",
    "TTFT ms": "ttft",
    "server ms": "server",
    "tok/s": "tok/s",
    "Hz": "Hz",
    "adherent": "adherent",
}


def _asked(summary: Summary) -> Table | None:
    found = [cells(name, segment) for name, segment in list(summary.segments.items())[:_MOST_ROWS]]
    rows = [[one[key] for key in EVIDENCE] for one in found]
    title = "What the replies are evidence of: distinct questions; repeats of one say nothing about others"
    return Table(title, list(EVIDENCE), rows, numbers=range(1, len(EVIDENCE))) if rows else None


def _segments(summary: Summary) -> Table | None:
    found = [cells(name, segment) for name, segment in list(summary.segments.items())[:_MOST_ROWS]]
    rows = [[one[key] for key in _SEGMENT_COLUMNS.values()] for one in found]
    head = list(_SEGMENT_COLUMNS)
    return Table("All segments; warm-ups are not counted", head, rows, numbers=range(1, len(head))) if rows else None


def _remarks(summary: Summary) -> list[str]:
    found = [(name, remarks(segment)) for name, segment in list(summary.segments.items())[:_MOST_ROWS]]
    return [f"{name}: {', '.join(texts)}" for name, texts in found if texts]


def _telemetry(summary: Summary) -> Table | None:
    """Telemetry by segment: minimum, median, maximum."""
    rows = []
    for name, found in list(summary.telemetry.segments.items())[:_MOST_ROWS]:
        energy = found.energy_per_reply_j
        rows.append(
            [
                name,
                *(_range(one) for one in (found.sm_mhz, found.power_w, found.temp_c, found.util_percent)),
                number(energy.p50) if energy else "-",
                number(found.load1_max),
                str(found.throttled or 0),
                str(found.disturbed or 0),
                ", ".join(found.throttle) or "-",
            ]
        )
    if not any(cell not in ("-", "0") for row in rows for cell in row[1:]):
        return None
    head = [
        "segment",
        "core MHz",
        "power W",
        "\N{DEGREE SIGN}C",
        "utilization %",
        "J per reply",
        "load",
        "throttled",
        "disturbed",
        "throttle reasons",
    ]
    return Table("By segment: least - median - most", head, rows, numbers=range(1, 9))


def _range(found: Range | None) -> str:
    if not found:
        return "-"
    least, most = number(found.min), number(found.max)
    return least if least == most else f"{least} - {number(found.p50)} - {most}"


def _telemetry_why(summary: Summary) -> list[str]:
    why = list(summary.telemetry.why.items())[:_MOST_ROWS]
    return [f"{hostcharts.TELEMETRY.get(name, (name, ''))[0]}: {reason}" for name, reason in why]


# --- host ------------------------------------------------------------------------------------------------------------


def _windows(summary: Summary) -> Table | None:
    names = ("total_s", "drain_min_s", "tenant_starts_s", "candidate_start_s", "measuring_s", "overhead_s")
    rows = [
        [impact, ", ".join(window.tenants), *(f"{getattr(window, name):z.1f}" for name in names)]
        for impact, window in list(summary.windows.items())[:_MOST_ROWS]
    ]
    head = [
        "people lose",
        "while down",
        "total s",
        "drain minimum s",
        "tenants' starts s",
        "candidate's start s",
        "measuring s",
        "overhead s",
    ]
    return Table("Parts of each window", head, rows, numbers=range(2, 8)) if rows else None


def _restored(summary: Summary) -> list[str]:
    facts = summary.restore
    if facts.restored is None:
        return ["Nothing was stopped on the host."]
    found = []
    if facts.restored:
        after = f", {facts.after_s:.1f} s after {facts.after}" if facts.after else ""
        found.append(f"Restored by {facts.by or 'unknown'}{' at ' + clock(facts.at) if facts.at else ''}{after}.")
    else:
        found.append("Not known to be restored.")
    found += [f"{retry.tenant} was restarted: attempt {retry.attempt} failed." for retry in facts.retries[:_MOST_ROWS]]
    found += [f"A restore was not complete: {reason}" for reason in facts.failures[:_MOST_ROWS]]
    found += [f"No longer there, and not because of the trial: {text}" for text in facts.gone[:_MOST_ROWS]]
    return found


def _checks(run: Run) -> tuple[Sequence[Check], str]:
    """The checks that closed the run, and who made them."""
    checks, wall = run.checks() or ((), "")
    if wall == "":
        return (), ""
    by = "from outside, after the host had closed the run" if wall is None else f"by the host itself, {clock(wall)}"
    return checks[:_MOST_ROWS], by


def _attested(run: Run) -> Table | None:
    """The ground-truth finding for each candidate file."""
    if run.attestation is None:
        return None
    rows = [
        [
            file.sha256[:12],
            file.label or "-",
            file.status,
            *(str(count) for count in (file.passed, file.failed, file.open)),
            file.runtime or "-",
            file.made or "-",
        ]
        for file in run.attestation.files[:_MOST_ROWS]
    ]
    head = ["file, SHA-256", "model", "finding", "passed", "failed", "open", "runtime", "made"]
    return Table("The candidate's files, by their hash", head, rows, numbers=range(3, 6)) if rows else None


def _unread(run: Run) -> list[str]:
    lines = (
        [f"{counted(run.bad_lines, 'line')} of the run's files could not be read (cut short?)"] if run.bad_lines else []
    )
    return [*lines, *(f"could not be used: {problem}" for problem in run.unread)][:_MOST_ROWS]
