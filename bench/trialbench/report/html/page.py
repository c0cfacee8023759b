"""The content of a report: everything its template shows, taken from a result folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import read_json
from trialbench.report.decide import evidence_of
from trialbench.report.evidence import QUESTIONS, Finding
from trialbench.report.folder import Folder
from trialbench.report.html import charts, hostcharts, proofcharts
from trialbench.report.html.clock import Clock
from trialbench.report.html.described import Describe, Picture, command_path, describe, picture
from trialbench.report.html.provenance import Group, provenance
from trialbench.report.journal import Check
from trialbench.report.measured import cells, remarks
from trialbench.report.proofs import proofs_of
from trialbench.report.windows import clock, still_down_text
from trialbench.show.figures import Figure, Table
from trialbench.show.text import number

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
OUTCOMES = {
    "completed": "measured completely, and the host is restored",
    "rehearsed": "a rehearsal: tenants were stopped and restored, nothing was measured",
    "rolled_back": "it failed, and the host is restored",
    "open": "the host is not known to be restored",
    "untouched": "it ended before anything on the host was touched",
}


@dataclass(frozen=True)
class Mark:
    """A badge next to the verdict: a name such as TAINTED, and its meaning."""

    name: str
    kind: str
    lines: list[str]


@dataclass(frozen=True)
class Answer:
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
    """A whole report. Figures are None, and lists empty, where the run has nothing for them."""

    run: str
    title: str
    tried: str
    began: str
    host: str
    word: str
    kind: str
    sign: str
    outcome: str
    outcome_text: str
    reasons: list[str]
    marks: list[Mark]
    failure: dict[str, str]
    steps: list[str]
    answers: list[Answer]
    facts: list[Fact]
    ratios: Figure | None
    comparison: Table | None
    comparison_notes: list[str]
    segments: Table | None
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
    describe: Describe | None
    checks: Sequence[Check]
    checks_by: str
    attested: Table | None
    proofs: list[proofcharts.Shown]
    proofs_hidden: int
    provenance: list[Group]
    version: str
    written: str
    unread: list[str] = field(default_factory=list)


def page(folder: Folder, summary: dict[str, Any], joined: dict[str, dict[int, dict[str, Any]]]) -> Page:
    """The report of a run.

    Args:
        folder: as read.
        summary: of that folder, recomputed.
        joined: what telemetry adds to samples, by segment and seq; empty where there is none.
    """
    times = Clock(folder)
    found = charts.series(folder.samples, summary["segments"], joined)
    word, kind, sign = _word(folder, summary)
    reasons = _reasons(folder, summary)
    checks, checks_by = _checks(folder)
    camera = picture(folder.path / "inputs" / "camera.jpg")
    proofs, proofs_hidden = proofcharts.shown(proofs_of(folder.proofs))
    label = summary["model_label"] or "no plan found"
    tried = f"rehearsal for {label}" if folder.rehearsal else label
    return Page(
        run=summary["run"],
        title=f"{tried} on {summary['host'] or 'an unknown host'}",
        tried=tried,
        began=folder.journal[0].wall if folder.journal else "",
        host=str(summary["host"] or "an unknown host"),
        word=word,
        kind=kind,
        sign=sign,
        outcome=summary["outcome"].replace("_", " "),
        outcome_text=told if (told := OUTCOMES.get(summary["outcome"], "")) not in reasons else "",
        reasons=reasons,
        marks=marks(summary),
        failure=_failure(summary),
        steps=list(summary["restore"]["next"])[:_MOST_ROWS],
        answers=_answers(folder, summary),
        facts=_facts(folder, summary),
        ratios=charts.ratios(
            [(charts.METRICS.get(row["metric"], row["metric"]), row) for row in comparisons(summary)],
            title="Candidate against baseline",
        ),
        comparison=_comparison(summary),
        comparison_notes=_comparison_notes(folder, summary),
        segments=_segments(summary),
        segment_notes=[*_remarks(summary), *client_notes(folder)],
        distribution=charts.distribution(found),
        timeline=charts.timeline(found),
        memory=hostcharts.memory(folder, summary, times),
        telemetry=hostcharts.telemetry(folder, times),
        telemetry_table=_telemetry(summary),
        telemetry_why=_telemetry_why(summary),
        downtime=hostcharts.downtime(folder, times),
        windows=_windows(summary),
        restored=_restored(summary),
        picture=camera,
        describe=describe(folder),
        checks=checks,
        checks_by=checks_by,
        attested=_attested(folder),
        proofs=proofs,
        proofs_hidden=proofs_hidden,
        provenance=provenance(folder, summary, camera),
        version=summary["trialbench"],
        written=summary["created"],
        unread=_unread(folder),
    )


# --- verdict ---------------------------------------------------------------------------------------------------------


def _word(folder: Folder, summary: dict[str, Any]) -> tuple[str, str, str]:
    """The word at the top: the verdict, or its substitute."""
    if summary["outcome"] == "open":
        return "HOST NOT BACK", "bad", "!"
    if folder.rehearsal:
        good = summary["outcome"] == "rehearsed"
        return (
            ("REHEARSED", "good", "\N{CHECK MARK}") if good else ("REHEARSAL FAILED", "bad", "\N{MULTIPLICATION SIGN}")
        )
    if folder.verdict is not None:
        return VERDICTS[folder.verdict["verdict"]]
    if summary["outcome"] == "untouched":
        return "NOTHING TOUCHED", "wait", "\N{HORIZONTAL ELLIPSIS}"
    return "NOT DECIDED", "wait", "\N{HORIZONTAL ELLIPSIS}"


def _reasons(folder: Folder, summary: dict[str, Any]) -> list[str]:
    found: list[str] = []
    if summary["outcome"] == "open":
        lost = [still_down_text(entry) for entry in summary["still_down"]]
        found += lost or ["nothing in the journal says that the host was restored"]
    if summary["restore_failure"]:
        found.append(f"the newest restore failed: {summary['restore_failure']}")
    if folder.verdict is not None and not folder.rehearsal:
        decided = [f"verdict {VERDICTS[folder.verdict['verdict']][0]}"] if summary["outcome"] == "open" else []
        return [*found, *decided, *folder.verdict["reasons"]][:_MOST_ROWS]
    found.append(summary["restore"]["why"] if summary["failure"] else OUTCOMES.get(summary["outcome"], ""))
    if not folder.rehearsal:
        found.append(f"no verdict yet: trialbench verdict {command_path(folder.path)}")
    return [reason for reason in found if reason][:_MOST_ROWS]


def _answers(folder: Folder, summary: dict[str, Any]) -> list[Answer]:
    """Trial, ground truth and engines side by side, even if one of them has no evidence."""
    there = {
        "trial": "numbers" if summary["segments"] else "",
        "ground_truth": "attested" if folder.attestation else "",
        "engines": "proofs" if folder.proofs else "",
    }
    return [
        Answer(*QUESTIONS[one.question], *FINDINGS[one.finding], one.lines[:_MOST_ROWS], there[one.question])
        for one in evidence_of(folder, summary)
    ]


def marks(summary: dict[str, Any]) -> list[Mark]:
    """Named caveats that apply to all numbers."""
    found = []
    if summary["taints"]:
        found.append(Mark("TAINTED", "bad", summary["taints"][:_MOST_ROWS]))
    if summary.get("partial"):
        found.append(Mark("PARTIAL", "warn", summary["partial"][:_MOST_ROWS]))
    noisy = [row for row in comparisons(summary) if row.get("noisy")]
    if noisy:
        names = ", ".join(f"{charts.METRICS.get(row['metric'], row['metric'])} {_percent(row)}" for row in noisy)
        text = f"the baseline varies by more than 5 % ({names})"
        found.append(Mark("NOISY", "warn", [f"{text}: repeat the run before acting on a difference"]))
    if summary["a2_skipped"]:
        found.append(Mark("NO A2", "warn", [f"the live model was not measured again: {summary['a2_skipped']}"]))
    return found


def _percent(row: dict[str, Any]) -> str:
    band = row.get("band") or {}
    return f"{band['percent']:.1f} %" if isinstance(band.get("percent"), (int, float)) else ""


def _failure(summary: dict[str, Any]) -> dict[str, str]:
    failure = summary["failure"]
    if not failure:
        return {}
    names = {"phase": "failed in", "reason": "because", "expected": "expected", "found": "found", "todo": "what to do"}
    return {shown: str(failure[name]) for name, shown in names.items() if failure[name]}


def _facts(folder: Folder, summary: dict[str, Any]) -> list[Fact]:
    segments = summary["segments"]
    found = []
    candidate, baseline = segments.get("nav-candidate"), segments.get("nav-baseline-a1")
    if candidate:
        beside = f"baseline {number(baseline['latency_ms']['p50']['value'])} ms" if baseline else ""
        ratio = next((row for row in comparisons(summary) if row["metric"] == "latency_ms" and row.get("ratio")), None)
        if ratio:
            beside += f", ratio {charts.ratio_text(ratio)}"
        found.append(
            Fact("latency p50", number(candidate["latency_ms"]["p50"]["value"]), "ms", beside.removeprefix(", "))
        )
        adherence = candidate["adherence"]
        if adherence and adherence["n"]:
            found.append(
                Fact(
                    "adherence",
                    f"{adherence['k']}/{adherence['n']}",
                    note=f"95 % interval {adherence['low'] * 100:.1f}-{adherence['high'] * 100:.1f} %",
                )
            )
    peak, plan = summary["vram"]["peak_footprint_gb"], folder.plan
    if peak is not None:
        healthy = (
            f"healthy {plan.low_below_gb:g}-{plan.healthy_to_gb:g}"
            if plan.low_below_gb is not None and plan.healthy_to_gb is not None
            else ""
        )
        found.append(Fact("memory of the candidate", f"{peak:.2f}", "GB", healthy))
    for impact, window in list(summary["windows"].items())[:4]:
        found.append(Fact(impact, f"{window['total_s']:.1f}", "s", f"of it overhead {window['overhead_s']:.1f} s"))
    lost = [
        Fact(entry["impact"], "still", note=f"since {clock(entry['since'])}") for entry in summary["still_down"][:4]
    ]
    return [*found, *lost]


# --- numbers ---------------------------------------------------------------------------------------------------------


def comparisons(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of a summary; runs that failed early have none."""
    return [row for row in summary.get("comparisons") or [] if isinstance(row, dict) and row.get("metric")]


def _comparison(summary: dict[str, Any]) -> Table | None:
    rows = [
        [
            charts.METRICS.get(row["metric"], row["metric"]),
            _measured(row, "candidate"),
            _measured(row, "baseline"),
            f"{_measured(row, 'a1', '')} / {_measured(row, 'a2', '')}",
            charts.ratio_text(row),
            f"\N{PLUS-MINUS SIGN} {_percent(row)}{' NOISY' if row.get('noisy') else ''}"
            if row.get("band")
            else "unknown",
            charts.FINDINGS.get(str(row.get("finding")), "-"),
        ]
        for row in comparisons(summary)
    ]
    if not rows:
        return None
    head = ["median of", "candidate B", "baseline A", "A1 / A2", "B / A [95 %]", "A2 against A1", "finding"]
    return Table("Candidate against baseline, ratios of medians", head, rows, numbers=range(1, 5))


def _measured(row: dict[str, Any], name: str, unit: str | None = None) -> str:
    value = row.get(name)
    if not isinstance(value, (int, float)):
        return "-"
    shown = f"{value:.2f}" if abs(value) < 10 else number(value)
    return f"{shown} {row.get('unit', '') if unit is None else unit}".rstrip()


def _comparison_notes(folder: Folder, summary: dict[str, Any]) -> list[str]:
    rows = comparisons(summary)
    if rows:
        return [f"{charts.METRICS.get(row['metric'], row['metric'])}: {row['why']}" for row in rows if row.get("why")]
    if folder.rehearsal:
        return ["A rehearsal measures nothing."]
    missing = [
        f"{letter} ({segment})"
        for segment, (letter, *_names) in charts.COMPARED.items()
        if not folder.samples.get(segment)
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


def _segments(summary: dict[str, Any]) -> Table | None:
    found = [cells(name, segment) for name, segment in list(summary["segments"].items())[:_MOST_ROWS]]
    rows = [[one[key] for key in _SEGMENT_COLUMNS.values()] for one in found]
    head = list(_SEGMENT_COLUMNS)
    return Table("All segments; warm-ups are not counted", head, rows, numbers=range(1, len(head))) if rows else None


def _remarks(summary: dict[str, Any]) -> list[str]:
    found = [(name, remarks(segment)) for name, segment in list(summary["segments"].items())[:_MOST_ROWS]]
    return [f"{name}: {', '.join(texts)}" for name, texts in found if texts]


def client_notes(folder: Folder) -> list[str]:
    """The clients' closing remarks, without repeats."""
    found: list[str] = []
    for file in sorted((folder.path / "samples").glob("summary-*.json"))[:_MOST_ROWS]:
        try:
            notes = read_json(file).get("notes")
        except (UsageError, AttributeError):
            # Already reported as unreadable.
            continue
        found += [str(note) for note in notes] if isinstance(notes, list) else []
    return list(dict.fromkeys(found))[:_MOST_ROWS]


_TELEMETRY_COLUMNS = ("sm_mhz", "power_w", "temp_c", "util_percent")


def _telemetry(summary: dict[str, Any]) -> Table | None:
    """Telemetry by segment: minimum, median, maximum."""
    segments = (summary.get("telemetry") or {}).get("segments") or {}
    rows = []
    for name, found in list(segments.items())[:_MOST_ROWS]:
        energy = found.get("energy_per_reply_j")
        rows.append(
            [
                name,
                *(_range(found.get(key)) for key in _TELEMETRY_COLUMNS),
                f"{energy['p50']:.2f}" if energy else "-",
                number(found.get("load1_max")),
                str(found.get("throttled") or 0),
                str(found.get("disturbed") or 0),
                ", ".join(str(reason) for reason in found.get("throttle") or []) or "-",
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


def _range(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    least, most = f"{found['min']:.0f}", f"{found['max']:.0f}"
    return least if least == most else f"{least} - {found['p50']:.0f} - {most}"


def _telemetry_why(summary: dict[str, Any]) -> list[str]:
    why = (summary.get("telemetry") or {}).get("why") or {}
    return [
        f"{hostcharts.TELEMETRY.get(name, (name, ''))[0]}: {reason}" for name, reason in list(why.items())[:_MOST_ROWS]
    ]


# --- host ------------------------------------------------------------------------------------------------------------


def _windows(summary: dict[str, Any]) -> Table | None:
    names = ("total_s", "drain_min_s", "tenant_starts_s", "candidate_start_s", "measuring_s", "overhead_s")
    rows = [
        [impact, ", ".join(window["tenants"]), *(f"{window[name]:.1f}" for name in names)]
        for impact, window in list(summary["windows"].items())[:_MOST_ROWS]
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


def _restored(summary: dict[str, Any]) -> list[str]:
    facts = summary["restore"]
    if facts["restored"] is None:
        return ["Nothing was stopped on the host."]
    found = []
    if facts["restored"]:
        after = f", {facts['after_s']:.1f} s after {facts['after']}" if facts["after"] else ""
        found.append(
            f"Restored by {facts['by'] or 'unknown'}{' at ' + clock(facts['at']) if facts['at'] else ''}{after}."
        )
    else:
        found.append("Not known to be restored.")
    found += [
        f"{retry['tenant']} was started again: attempt {retry['attempt']} failed."
        for retry in facts["retries"][:_MOST_ROWS]
    ]
    found += [f"A restore was not complete: {reason}" for reason in facts["failures"][:_MOST_ROWS]]
    return found


def _checks(folder: Folder) -> tuple[Sequence[Check], str]:
    """The checks that closed the run, and who made them."""
    checks, wall = folder.checks() or ((), "")
    if wall == "":
        return (), ""
    by = "from outside, after the host had closed the run" if wall is None else f"by the host itself, {clock(wall)}"
    return checks[:_MOST_ROWS], by


def _attested(folder: Folder) -> Table | None:
    """The ground-truth finding for each candidate file."""
    if folder.attestation is None:
        return None
    rows = [
        [
            file["sha256"][:12],
            str(file["label"] or "-"),
            file["status"],
            *(str(file[count]) for count in ("passed", "failed", "open")),
            str(file["runtime"] or "-"),
            str(file["made"] or "-"),
        ]
        for file in folder.attestation["files"][:_MOST_ROWS]
    ]
    head = ["file, SHA-256", "model", "finding", "passed", "failed", "open", "runtime", "made"]
    return Table("The candidate's files, by their hash", head, rows, numbers=range(3, 6)) if rows else None


def _unread(folder: Folder) -> list[str]:
    lines = [f"{folder.bad_lines} lines of the run's files could not be read (cut short?)"] if folder.bad_lines else []
    return [*lines, *(f"could not be used: {problem}" for problem in folder.unread)][:_MOST_ROWS]
