"""From a result folder to `verdict.json`: collects the facts, asks `trialbench.verdict`, writes the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast, get_args

from trialbench.errors import UsageError
from trialbench.files import write_json
from trialbench.measure.summary import Adherence
from trialbench.report.answer import answer
from trialbench.report.evidence import Evidence, attested, evidence
from trialbench.report.levels import levels
from trialbench.report.plan import Plan
from trialbench.report.review.judgments import review as review_of
from trialbench.report.run import DESCRIBE, Run, read_run
from trialbench.report.summary import Summary, summarize_run, write_summary
from trialbench.verdict import AdherenceRule, Facts, Gate, GroundTruth, Judgment, Review, Rules, decide

JUDGMENTS: tuple[Judgment, ...] = get_args(Judgment)


def decide_folder(
    path: Path,
    *,
    judged: Mapping[str, str] | None = None,
    judgments: Sequence[Path] = (),
    adherence_rule: AdherenceRule | None = None,
    ground_truth: GroundTruth | None = None,
) -> dict[str, Any]:
    """Decide on the run in `path`, write its verdict.json and return it. Nothing is measured again.

    Omitted arguments keep their earlier value: a recorded judgment of a workload's replies holds until it is replaced.
    The summary is recomputed from the samples, so the verdict never rests on a stale one.

    Args:
        path: the result folder.
        judged: `better`, `same` or `worse` than the baseline, by the name of a workload that is shown.
        judgments: files of a blind review, which replace earlier judgments of what they are about.
        adherence_rule: whether the share of adherent replies decides, or what it proves.
        ground_truth: requires ground truth from now on, with this result.

    Raises:
        UsageError: no result folder, or that of a rehearsal; a judgment of something that the run does not show; files
            of judgments that are not of this run's review.
    """
    run = read_run(path)
    if run.rehearsal:
        raise UsageError(
            f"{path}: is a rehearsal: no candidate was tried, so there is nothing to decide."
            " `trialbench show` tells how the host came back"
        )
    summary = summarize_run(run)
    found = review_of(run, judgments) if judgments else None
    facts, rules = _settled(run, summary, judged or {}, adherence_rule, ground_truth, found)
    decision, told = decide(facts, rules), answer(run, summary, facts, rules)
    document = {
        "format": 1,
        "run": summary.run,
        "verdict": decision.verdict,
        "reasons": decision.reasons,
        **({"answer": told} if told else {}),
        "facts": _filed(facts, rules),
        "evidence": {
            answer.question: {"finding": answer.finding, "lines": answer.lines}
            for answer in evidence(run, summary, facts, rules)
        },
    }
    write_json(path / "verdict.json", document)
    # The next steps depend on the verdict.
    write_summary(path)
    return document


def evidence_of(run: Run, summary: Summary) -> list[Evidence]:
    """The current evidence of trial, ground truth and engines, whether or not there is a verdict."""
    return evidence(run, summary, *_settled(run, summary, {}, None, None))


def answer_of(run: Run, summary: Summary) -> str:
    """Should I switch? The facts in a sentence; empty where no candidate was tried."""
    return answer(run, summary, *_settled(run, summary, {}, None, None))


def older(run: Run, summary: Summary) -> list[str]:
    """A note that the verdict was made from samples other than those in the folder now; empty if it was not."""
    if run.verdict is None or run.rehearsal:
        return []
    segment = summary.segments.get(run.plan.decider.candidate)
    share = segment.adherence if segment else None
    found, then = (share.n if share else 0, share.k if share else 0), (run.verdict.n, run.verdict.adherent)
    if found == then:
        return []
    told = f"it rests on {then[1]} adherent of {then[0]} replies, this folder has {found[1]} of {found[0]}"
    return [f"the verdict is older than the samples: {told}; decide again: trialbench verdict DIR"]


def share_facts(found: Adherence) -> Facts:
    """The facts of a share of adherent replies alone, for what it says and proves."""
    return Facts(n=found.n, adherent=found.k, gates=(), questions=found.questions, effective_n=found.effective_n)


def _settled(
    run: Run,
    summary: Summary,
    judged: Mapping[str, str],
    adherence_rule: AdherenceRule | None,
    ground_truth: GroundTruth | None,
    found: Review | None = None,
) -> tuple[Facts, Rules]:
    """The inputs of the decision: arguments first, then the earlier verdict, then the run's files."""
    before = run.verdict
    rules = rules_of(run.plan, adherence_rule or (before.adherence_rule if before else None))
    facts = facts_of(
        run,
        summary,
        rules,
        judged=_judged(run, judged, found),
        review=found or _kept(before.review if before else None, judged),
        ground_truth=ground_truth or _ground_truth(run, before.ground_truth if before else None),
    )
    return facts, rules


def _kept(review: Review | None, given: Mapping[str, str]) -> Review | None:
    """What an earlier review still says: a person's word about a workload replaces it."""
    left = {name: found for name, found in (review.workloads if review else {}).items() if name not in given}
    return replace(review, workloads=left) if review and left else None


def _judged(run: Run, given: Mapping[str, str], found: Review | None) -> dict[str, Judgment | None]:
    """The judgment of every workload that is shown: the given one, else the blind review's, else the earlier one.

    Of the workload that decides there is one only where the blind review shows something: nobody has to judge it.
    """
    earlier = run.judged
    for name, word in given.items():
        if name not in earlier:
            names = ", ".join(earlier) or "it shows none"
            raise UsageError(f"--judge {name}={word}: expected a workload that this run shows ({names}), found {name}")
        if word not in JUDGMENTS:
            raise UsageError(f"--judge {name}={word}: expected {', '.join(JUDGMENTS)}, found {word!r}")
        if found is not None and name in found.workloads:
            raise UsageError(
                f"--judge {name}={word}: expected one judgment of {name}, found --review beside it: leave one out"
            )
    judged = {**earlier, **(_reviewed(found, list(earlier)) if found else {})}
    judged.update(cast("Mapping[str, Judgment]", given))
    decider, held = run.plan.decider.name, found or (run.verdict.review if run.verdict else None)
    shown = _reviewed(held, [decider]).get(decider) if held else None
    return judged if shown is None else {**judged, decider: shown}


def _reviewed(found: Review, names: Sequence[str]) -> dict[str, Judgment | None]:
    """What a blind review says about these workloads; None where nothing is shown."""
    said = {name: found.workloads[name].finding for name in names if name in found.workloads}
    return {name: None if word == "not_shown" else word for name, word in said.items()}


def _filed(facts: Facts, rules: Rules) -> dict[str, Any]:
    """The part `facts` of a verdict.json. Its names are older than the list of workloads, and readers rely on them."""
    names = {"n": "nav_n", "n_required": "nav_required"}
    found: dict[str, Any] = {}
    for name, value in {**asdict(facts), **asdict(rules)}.items():
        if name == "review" and value is None:
            continue
        if name != "judged":
            found[names.get(name, name)] = value
            continue
        others = dict(facts.judged)
        if DESCRIBE in others:
            found[DESCRIBE] = others.pop(DESCRIBE)
        if others:
            found["judgments"] = others
    # Through JSON, so that the returned value equals the file: lists, not tuples.
    document: dict[str, Any] = json.loads(json.dumps(found))
    return document


def _ground_truth(run: Run, before: GroundTruth | None) -> GroundTruth:
    """The earlier decision; a missing attestation may have been added to the run since."""
    if before in ("passed", "failed"):
        return before
    return attested(run.attestation, required=before == "missing")


def rules_of(plan: Plan, adherence_rule: AdherenceRule | None) -> Rules:
    """The rules of a run: the plan's bands and sample count, defaults for the rest."""
    return Rules(
        low_gb=plan.low_gb,
        high_gb=plan.high_gb,
        n_required=Rules.n_required if plan.decider.n is None else plan.decider.n,
        adherence_rule=adherence_rule or plan.adherence_rule or Rules.adherence_rule,
    )


def _rolled_back(summary: Summary) -> str | None:
    """Why the trial was not completed, from the best that is known; None if it was."""
    if summary.outcome == "completed":
        return None
    failure, still_open = summary.failure, summary.outcome == "open"
    if failure:
        reason = str(failure)
    elif summary.restore_failure:
        reason = f"restore: {summary.restore_failure}"
    elif still_open:
        return "the run is still open"
    elif summary.outcome == "untouched":
        return "it ended before anything was stopped on the host"
    else:
        return "it ended before measuring was complete, and the host was restored"
    return f"{reason} (the run is still open)" if still_open else reason


def facts_of(
    run: Run,
    summary: Summary,
    rules: Rules,
    *,
    judged: Mapping[str, Judgment | None],
    review: Review | None = None,
    ground_truth: GroundTruth,
) -> Facts:
    """The facts that a trial's summary holds."""
    plan = run.plan
    compared = [plan.decider.a1, *(work.baseline for work in plan.shown)]
    candidate, vram = summary.segments.get(plan.decider.candidate), summary.vram
    adherence = candidate.adherence if candidate else None
    gates = [Gate(str(gate.name), gate.footprint_gb, gate.band) for gate in vram.gates if gate.footprint_gb is not None]
    peak = vram.peak_footprint_gb
    # An abort between two gates leaves no gate behind, the series shows it.
    if peak is not None and peak > rules.high_gb and all(gate.footprint_gb < peak for gate in gates):
        gates.append(Gate("its peak", peak))
    return Facts(
        n=adherence.n if adherence else 0,
        adherent=adherence.k if adherence else 0,
        questions=adherence.questions if adherence else 0,
        effective_n=adherence.effective_n if adherence else None,
        gates=tuple(gates),
        taints=tuple(summary.taints),
        thinking=sum(one.summary.thinking for one in run.answered_by("candidate")),
        rolled_back=_rolled_back(summary),
        ground_truth=ground_truth,
        judged=judged,
        review=review,
        partial=tuple(summary.partial),
        levels=levels(plan, summary, run.samples(plan.decider.candidate)),
        silent=tuple(name for name in compared if not (found := summary.segments.get(name)) or not found.ok),
    )
