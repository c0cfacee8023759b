"""A run as JUnit: suites for the trial, its phases, gates, numbers and checks, the ground truth of its files, and its
engine proofs.

The verdict is a test case: ADOPT passes, PENDING_REVIEW is skipped (not judged by a person yet), REJECT and
INCONCLUSIVE fail. A trial that was rolled back fails too, even though the host is restored; so does a rehearsal whose
host came back only at a second try. In a trial that case is skipped and says so.

CI systems know a case by its class name and name: host and model are in the one, so that the runs of one pipeline stay
apart, and no figure is in the other, so that a case has a history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trialbench.report.decide import answer_of, share_facts
from trialbench.report.levels import levels
from trialbench.report.restore import second_tries
from trialbench.report.run import Decided, Run
from trialbench.report.summary import Summary
from trialbench.show.junit import Case, Suite, write
from trialbench.show.text import counted
from trialbench.verdict import Rules, adherence_finding, adherence_text

# In a check's title: a quantity such as `of 13-13.8 GB`, and a port's number.
_FIGURE = re.compile(r"(?: of)? \d[\d.]*(?:-\d[\d.]*)? (?:GB|MiB|ms|s|%)(?!\w)|(?<=port) \d+")


def junit(run: Run, summary: Summary) -> str:
    """The XML document."""
    rooms = {
        "trial": _trial(run, summary),
        "phases": _phases(summary),
        "gates": _gates(run, summary),
        "candidate": _candidate(run, summary),
        "checks": _checks(run),
        "ground_truth": _attested(run),
        "proofs": _proofs(run),
    }
    wall = run.began
    began = wall if wall[:19].count(":") == 2 else ""
    names = ("run", "host", "model_label", "baseline_label", "outcome", "trialbench")
    properties = {name: str(value) for name in names if (value := getattr(summary, name)) is not None}
    told = answer_of(run, summary)
    answer = {"answer": told} if told else {}
    whose = f"trial.{summary.host or 'unknown'}.{summary.model_label or 'unknown'}"
    suites = [
        Suite(
            name,
            cases,
            f"{whose}.{name}",
            summary.host or "",
            began,
            properties | (answer if name == "trial" else {}),
        )
        for name, cases in rooms.items()
        if cases
    ]
    return write(f"trial {summary.run}", suites, timed=True)


def _name(title: str) -> str:
    """A check's title without its figures, which change while the case remains the same."""
    return _FIGURE.sub("", title)


def _trial(run: Run, summary: Summary) -> list[Case]:
    """Whether the trial completed, whether the host is restored, and the verdict."""
    restore, failure = summary.restore, summary.failure
    ended = Case("ended as planned")
    if summary.outcome not in ("completed", "rehearsed"):
        facts = [f"{name}: {text}" for name, text in failure.details.items()] if failure else []
        ended = _failed(ended.name, f"{summary.outcome}: {restore.why}", facts, kind=summary.outcome)
    back = Case("host is back", time_s=restore.after_s)
    if restore.restored is None:
        back = Case(back.name, "skipped", "the run never held the host")
    elif not restore.restored:
        back = _failed(back.name, summary.restore_failure or "not known to be restored", restore.next)
    cases = [ended, back]
    if restore.restored:
        cases += _second_tries(run)
    if not run.rehearsal:
        cases.append(_verdict(run.verdict))
    return cases


def _second_tries(run: Run) -> list[Case]:
    """A case where the host did not come back at the first try: a rehearsal has failed then, a trial says so."""
    name, again = "host is back at the first try", second_tries(run)
    if again and run.rehearsal:
        return [_failed(name, again[0], again[1:])]
    return [Case(name, "skipped", f"NOT at the first try: {'; '.join(again)}")] if again else []


def _verdict(verdict: Decided | None) -> Case:
    if verdict is None:
        return Case("verdict", "skipped", "not decided: trialbench verdict DIR")
    word, reasons = verdict.verdict, verdict.reasons
    message = f"{word}: {reasons[0]}" if reasons else word
    if word == "ADOPT":
        return Case("verdict")
    if word == "PENDING_REVIEW":
        return Case("verdict", "skipped", message)
    return _failed("verdict", message, reasons[1:], kind=word)


def _phases(summary: Summary) -> list[Case]:
    why = {"restore": summary.restore_failure}
    return [
        Case(phase.phase, time_s=phase.duration_s)
        if phase.ok
        else _failed(phase.phase, why.get(phase.phase) or "the phase failed", [], time_s=phase.duration_s)
        for phase in summary.phases
    ]


def _gates(run: Run, summary: Summary) -> list[Case]:
    """VRAM at each gate: in its healthy band or not."""
    cases = []
    for gate in summary.vram.gates:
        name, found = f"VRAM at {gate.name}", gate.footprint_gb
        if found is None:
            cases.append(Case(name, "skipped", "not measured"))
        elif gate.band == "healthy":
            cases.append(Case(name))
        else:
            expected = f"{run.plan.low_gb:g} to {run.plan.high_gb:g} GB"
            cases.append(_failed(name, f"expected {expected}, found {found:g} GB ({gate.band})", []))
    return cases


def _candidate(run: Run, summary: Summary) -> list[Case]:
    """The cases that the candidate's replies decide."""
    segment = summary.segments.get(run.plan.decider.candidate)
    if segment is None:
        return []
    adherence, cases = segment.adherence, []
    if adherence and adherence.n:
        facts = share_facts(adherence)
        said = run.verdict or Rules()
        rules = Rules(adherence_percent=said.adherence_percent, adherence_rule=said.adherence_rule)
        finding, text = adherence_finding(facts, rules), adherence_text(facts, rules)
        passed = Case("adherence")
        cases.append(passed if finding == "PASS" else _failed(passed.name, text, [], kind=finding))
    for level in levels(run.plan, summary, run.samples(run.plan.decider.candidate)):
        kept = Case(level.name)
        cases.append(kept if level.finding == "PASS" else _failed(kept.name, level.text, [], kind=level.finding))
    thinking = sum(one.summary.thinking for one in run.answered_by("candidate"))
    quiet = Case("no reply was thinking")
    told = f"{counted(thinking, 'reply', 'replies')} {'was' if thinking == 1 else 'were'} thinking"
    cases.append(_failed(quiet.name, told, []) if thinking else quiet)
    clean = Case("numbers are untainted")
    taints = summary.taints
    cases.append(_failed(clean.name, f"tainted: {taints[0]}", taints[1:]) if taints else clean)
    return cases


def _checks(run: Run) -> list[Case]:
    """The checks that closed the run or, without them, the host's own newest checks."""
    checks, _wall = run.checks() or ((), None)
    return [
        Case(_name(check.title))
        if check.ok
        else _failed(
            _name(check.title), f"expected {check.expected}, found {check.found}", [f"{check.id} {check.title}"]
        )
        for check in checks
    ]


def _attested(run: Run) -> list[Case]:
    """One case per candidate file: whether it is the same model; unjudged files are skipped."""
    cases = []
    for file in run.attestation.files if run.attestation else []:
        # By its place: hash and label change with each build of a file, or are not known.
        name = "same model"
        if file.status == "failed":
            cases.append(_failed(name, file.says, [f"SHA-256 {file.sha256}"]))
        else:
            cases.append(Case(name) if file.status == "passed" else Case(name, "skipped", file.says))
    return cases


def _proofs(run: Run) -> list[Case]:
    """A case for each number of a proof that was judged."""
    cases = []
    for proof in run.proofs:
        for number in proof.numbers:
            name = f"{proof.name} {proof.engine}: {number.name}"
            message = f"expected {number.expected} {number.unit}".rstrip() + f", found {number.found}"
            if number.skipped:
                cases.append(Case(name, "skipped", number.detail))
            elif number.judged:
                passed = Case(name)
                cases.append(passed if number.ok else _failed(name, message, [number.detail], kind="expectation"))
    return cases


def _failed(name: str, message: str, text: Sequence[str], *, kind: str = "failed", time_s: float | None = None) -> Case:
    return Case(name, "failure", message, "\n".join([message, *text]).strip(), kind, time_s)
