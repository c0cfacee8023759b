"""A result folder on a terminal: plain text, no wider than the terminal, no library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from trialbench.report.decide import answer_of, evidence_of, older
from trialbench.report.evidence import QUESTIONS, Evidence
from trialbench.report.measured import (
    calibration_text,
    comparison_table,
    correctness_table,
    segments_table,
    telemetry_table,
)
from trialbench.report.proofs import Number, Proof
from trialbench.report.restore import Restore, second_tries
from trialbench.report.run import Decided, Run, read_run
from trialbench.report.summary import Summary, Vram, summarize_run
from trialbench.report.windows import clock, still_down_text
from trialbench.show.terminal import screen
from trialbench.show.text import GIGABYTE, GIGABYTE_IS, cells, columns, counted, section, width, wrap


def folder_table(path: Path) -> str:
    """A result folder for people: the run, its numbers, windows, checks and verdict.

    Raises:
        UsageError: no result folder.
    """
    run = read_run(path)
    summary = summarize_run(run)
    answered = _answered(summary, answer_of(run, summary))
    decided = "" if run.rehearsal else _verdict(run.verdict, answered, older(run, summary))
    parts = [section("Verdict", decided), _head(summary, run), section("Host", _host(summary))]
    parts.append(section("Phases", _phases(summary)))
    if summary.segments:
        samples = {name: one.samples for name, one in run.segments.items()}
        numbers = [segments_table(summary.segments, samples, alone=False), calibration_text(summary.calibration)]
        parts.append(section("Samples", "\n".join(text for text in numbers if text)))
        parts.append(section("Candidate against baseline", comparison_table(summary.comparisons)))
        parts.append(section("Answers by scene", correctness_table(summary.correctness)))
        parts.append(section("Card and host", telemetry_table(summary.telemetry)))
    parts += [section("VRAM", _vram(summary.vram)), section("Windows", _windows(summary))]
    parts.append(section("Checks", _checks(run)))
    parts.append(section("Proofs", "\n".join(_proof(proof) for proof in run.proofs)))
    if run.bad_lines:
        parts.append(wrap(f"{counted(run.bad_lines, 'line')} of its files could not be read (cut short?)"))
    parts += [wrap(f"could not be used: {problem}") for problem in run.unread]
    parts.append(section("Evidence", _evidence(evidence_of(run, summary))))
    return screen("\n\n".join(_gigabyte(part for part in parts if part)))


def _answered(summary: Summary, told: str) -> str:
    """Should I switch? The facts behind the names of both models; empty where no candidate was tried."""
    live = f" instead of {summary.baseline_label}" if summary.baseline_label else ""
    return wrap(f"{summary.model_label or 'candidate'}{live}: {told}") if told else ""


def _gigabyte(parts: Iterable[str]) -> list[str]:
    """`parts`, the first that names a size followed by what a GB is."""
    found = list(parts)
    first = next((at for at, part in enumerate(found) if GIGABYTE.search(part)), None)
    if first is not None:
        found[first] += f"\n  {GIGABYTE_IS}"
    return found


def _head(summary: Summary, run: Run) -> str:
    if run.rehearsal:
        tried = f"rehearsal on {summary.host}"
    elif summary.model_label:
        tried = f"{summary.model_label} on {summary.host}"
    else:
        tried = "no plan found"
    lines = [wrap(f"{summary.run}: {tried}, {summary.outcome.replace('_', ' ')}")]
    failure = summary.failure
    if failure:
        lines.append(wrap(f"  {failure.phase} failed: {failure.reason}"))
        lines += [wrap(f"    {name}: {text}") for name, text in failure.details.items()]
    if summary.restore_failure:
        lines.append(wrap(f"  restore failed: {summary.restore_failure}"))
    if summary.a2_skipped:
        lines.append(wrap(f"  the live model was not measured again (A2 skipped): {summary.a2_skipped}"))
    if not summary.restore_failure:
        lines += [wrap(f"  NOT BACK AT THE FIRST TRY {screen(words)}") for words in second_tries(run)]
    lines += [wrap(f"  TAINTED {text}") for text in summary.taints]
    lines += [wrap(f"  PARTIAL {text}") for text in summary.partial]
    return "\n".join(lines)


def _host(summary: Summary) -> str:
    """Who restored the host and when, the downtime, which files are kept, and the next steps."""
    facts = summary.restore
    lines = [_restored(facts)]
    down = [f"{name} {took:.1f} s" for name, took in summary.down_s.items()]
    if down:
        lines.append(f"down: {', '.join(down)}")
    for kind, what in (("stop_s", "stopping took"), ("start_s", "starting took"), ("drain_s", "draining took")):
        took = (facts.times or {}).get(kind)
        if took:
            lines.append(f"{what}: {', '.join(f'{name} {value:.1f} s' for name, value in took.items())}")
    for retry in facts.retries:
        reason = _short(retry.reason).removeprefix(f"{retry.tenant}: ")
        lines.append(f"{retry.tenant} was restarted (attempt {retry.attempt} failed: {reason})")
    lines += [f"no longer there, and not because of the trial: {text}" for text in facts.gone]
    # The head shows the newest failure of an open restore.
    settled = facts.failures if facts.restored else facts.failures[:-1]
    lines += [f"a restore before was not complete: {_short(reason)}" for reason in settled]
    kept = [f"{count} {name}" for name, count in facts.kept.items()]
    logs = sum(name.startswith("logs/") for name in facts.files)
    kept += [name for name in facts.files if not name.startswith("logs/")] + ([counted(logs, "log")] if logs else [])
    if kept:
        lines.append(_listed("kept", kept))
    lines += [f"next: {step}" for step in facts.next]
    return "\n".join(wrap(line) for line in lines)


def _short(reason: str | None) -> str:
    """The first line of a reason; the last lines of a log may follow it."""
    return (reason or "without a reason").split("\n", 1)[0].removesuffix("; last log lines:")


def _listed(what: str, items: list[str]) -> str:
    """Items on as few lines as possible, without breaking an item."""
    lines = [f"{what}: {items[0]}"]
    for item in items[1:]:
        if cells(lines[-1]) + cells(item) + 4 < width() - 4:
            lines[-1] += f", {item}"
        else:
            lines[-1] += ","
            lines.append(f"    {item}")
    return "\n".join(lines)


def _restored(facts: Restore) -> str:
    if facts.restored is None:
        return "nothing was stopped on it"
    attempts = f" ({facts.attempts} attempts)" if facts.attempts > 1 else ""
    if not facts.restored:
        begun = f"; last asked for by {facts.by}" if facts.by else ""
        return f"NOT known to be restored{begun}{attempts}"
    when = f" at {clock(facts.at)}" if facts.at else ""
    after = f", {facts.after_s:.1f} s after {facts.after}" if facts.after else ""
    return f"restored by {facts.by or 'unknown'}{when}{after}{attempts}"


def _phases(summary: Summary) -> str:
    return (
        columns([(phase.phase, seconds(phase.duration_s), "" if phase.ok else "failed") for phase in summary.phases])
        if summary.phases
        else ""
    )


def seconds(value: float | None) -> str:
    """A duration in seconds, right-aligned."""
    return "-" if value is None else f"{value:7.1f} s"


def _vram(vram: Vram) -> str:
    lines = []
    if vram.drained_mib is not None:
        lines.append(wrap(f"drained to {_gb(vram.drained_mib)}, peak {_gb(vram.peak_mib)}, now {_gb(vram.last_mib)}"))
    rows = [(f"gate {gate.name}", _gb(gate.footprint_gb, 1), gate.band or "") for gate in vram.gates]
    return "\n".join([*lines, *([columns(rows)] if rows else [])])


def _gb(value: float | None, per_gb: int = 1024) -> str:
    return "-" if value is None else f"{value / per_gb:.2f} GB"


def _windows(summary: Summary) -> str:
    lines = [wrap(still_down_text(entry)) for entry in summary.still_down]
    for impact, window in summary.windows.items():
        lines.append(wrap(f"{impact} {window.total_s:.1f} s ({', '.join(window.tenants)} down)"))
        lines.append(
            wrap(
                f"  overhead {window.overhead_s:z.1f} s = {window.total_s:.1f}"
                f" - drain minimum {window.drain_min_s:.1f} - tenants' starts {window.tenant_starts_s:.1f}"
                f" - candidate's start {window.candidate_start_s:.1f} - measuring {window.measuring_s:.1f}"
            )
        )
    return "\n".join(lines)


def _checks(run: Run) -> str:
    """The checks that closed the run or, without them, the host's own newest checks."""
    found = run.checks()
    if found is None:
        return "not made"
    checks, wall = found
    lines = [] if wall is None else [f"by the host, {clock(wall)}"]
    for check in checks:
        lines.append(wrap(f"{'ok    ' if check.ok else 'FAILED'} {check.id} {check.title}"))
        if not check.ok:
            lines.append(wrap(f"       expected {check.expected}, found {check.found}"))
    return "\n".join(lines)


def _proof(proof: Proof) -> str:
    """A proof as `trialbench proof` prints it: every number with its expectation."""
    head = wrap(f"{proof.title}, {proof.engine}: {'passed' if proof.ok else 'FAILED'}, {clock(proof.made)}")
    return section(head, columns([_number(one) for one in proof.numbers], indent=2)) or head


def _number(number: Number) -> tuple[str, ...]:
    return number.name, number.found, number.expected, number.word


def _evidence(answers: list[Evidence]) -> str:
    """The evidence for each of the three questions."""
    lines = []
    for answer in answers:
        name, asked = QUESTIONS[answer.question]
        word = "" if answer.finding == "none" else f" {answer.finding}"
        lines += [wrap(f"{name} ({asked}){word}"), *(wrap(f"- {text}") for text in answer.lines)]
    return "\n".join(lines)


def _verdict(verdict: Decided | None, answered: str, remarks: Sequence[str]) -> str:
    """The word first, then the facts, then what it rests on."""
    word = verdict.verdict.replace("_", " ") if verdict else "not decided: `trialbench verdict DIR`"
    told = [*(verdict.reasons if verdict else ()), *remarks]
    return "\n".join([word, *([answered] if answered else []), *(wrap(f"- {reason}") for reason in told)])
