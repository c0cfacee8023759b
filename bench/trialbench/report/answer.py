"""Should I switch? One sentence of facts, the same in every output; it decides nothing.

Each fact keeps the word of its own finding: what was not shown is called that, never a tie.
"""

from __future__ import annotations

from collections.abc import Iterator

from trialbench.measure.summary import by_question
from trialbench.report.comparison import finding_told
from trialbench.report.correctness import WORDS, Correctness
from trialbench.report.run import Run
from trialbench.report.summary import Summary
from trialbench.show.text import counted, number
from trialbench.verdict import Facts, Rules, healthy

# Beside the report: the replies side by side, without the names of the models.
REVIEW = "review.html"


def answer(run: Run, summary: Summary, facts: Facts, rules: Rules) -> str:
    """The facts that a decision to switch rests on; empty where no candidate was tried.

    Args:
        run: as read.
        summary: of that run.
        facts, rules: the inputs of the verdict.
    """
    if run.rehearsal or not (facts.n or facts.gates):
        return ""
    return "; ".join(
        [
            *_caveats(facts),
            _memory(facts, rules),
            _speed(summary),
            _obeys(run, facts),
            *_right(summary.correctness),
            *(level.text.partition(" (")[0] for level in facts.levels),
            *_review(run, facts),
        ]
    )


def _caveats(facts: Facts) -> Iterator[str]:
    """What makes the other facts unfit for a decision."""
    if facts.rolled_back:
        yield "the trial was not completed"
    if facts.taints:
        yield "the numbers are tainted"
    if facts.thinking:
        yield f"thinking in {counted(facts.thinking, 'reply', 'replies')}"
    if facts.ground_truth == "failed":
        yield "not the same model (ground truth)"
    if facts.ground_truth == "missing":
        yield "ground truth is required and missing"
    if facts.silent:
        yield f"no good reply of today's model in {', '.join(facts.silent)}"


def _memory(facts: Facts, rules: Rules) -> str:
    band, found = f"{rules.low_gb:g}-{rules.high_gb:g} GB", [gate.footprint_gb for gate in facts.gates]
    outside = [gate.footprint_gb for gate in facts.gates if not healthy(gate, rules)]
    if not found:
        return "memory not measured"
    if not outside:
        return f"fits: {number(max(found))} of {band}"
    # With two digits: rounded to one, a figure outside the band could be read as one within it.
    most, least = max(outside), min(outside)
    if least < rules.low_gb and most <= rules.high_gb:
        return f"not all of it on the card: {least:.2f} GB, healthy {band}"
    return f"does not fit: {most:.2f} GB, healthy {band}"


def _speed(summary: Summary) -> str:
    row = next((row for row in summary.comparisons if row.metric == "latency_ms"), None)
    if row is None:
        return "speed not compared"
    said = finding_told(row)
    return said if row.finding == "different" else f"slower or faster: {said}"


def _obeys(run: Run, facts: Facts) -> str:
    asked = by_question(run.samples(run.plan.decider.candidate))
    if not asked or not facts.n:
        return "no reply of the candidate to judge"
    if len(asked) == 1:
        said = f"obeys in {facts.adherent} of {counted(facts.n, 'reply', 'replies')} to one question"
        return f"{said}, which says nothing about other pictures"
    # One reply that could not be used is enough: in that scene it does not obey.
    kept = sum(all(sample.adherent for sample in samples) for samples in asked.values())
    return f"obeys in {kept} of {len(asked)} scenes"


def _right(found: Correctness | None) -> Iterator[str]:
    """How often both say the same, and who is right where they do not."""
    if found is None:
        return
    agrees, labeled = "agrees with today's model in", found.labeled
    if not found.disagreements:
        both = f", both right in {labeled.all.candidate} of {labeled.all.scenes}" if labeled else ""
        yield f"{agrees} {'the one scene' if found.scenes == 1 else f'all {found.scenes} scenes'}{both}"
        return
    said = f"{agrees} {found.agree} of {found.scenes} scenes"
    known = [one for one in found.disagreements if one.candidate_right is not None and one.baseline_right is not None]
    if labeled is None or not known:
        yield f"{said}, and which is right where they differ is not known"
        return
    candidate, baseline = (
        sum(bool(one.candidate_right) for one in known),
        sum(bool(one.baseline_right) for one in known),
    )
    unknown = len(found.disagreements) - len(known)
    rest = f", the right answer to {unknown} more is not known" if unknown else ""
    shown = labeled.finding != "not_shown"
    finding = WORDS[labeled.finding] if shown else f"right more often: {WORDS[labeled.finding]}"
    right = f"is right where they differ in {candidate} of {len(known)}, today's in {baseline}"
    yield f"{said} and {right} ({finding}{rest})"


def _review(run: Run, facts: Facts) -> Iterator[str]:
    """What people said about the replies that are shown; those that were never measured wait for nobody."""
    measured = {work.name for work in run.plan.shown if run.samples(work.candidate)}
    page = f": open {REVIEW}" if (run.path / REVIEW).is_file() else ""
    waiting = [name for name, word in facts.judged.items() if word is None and name in measured]
    tried = {name: found for name, found in (facts.review.workloads if facts.review else {}).items() if name in waiting}
    said = [f"{name} judged {word}" for name, word in facts.judged.items() if word]
    # A review that shows nothing is a review all the same.
    said += [f"{name} better or worse: {found.word}{page if found.left else ''}" for name, found in tried.items()]
    yield from said
    waiting = [name for name in waiting if name not in tried]
    if waiting:
        yield (f"{', '.join(waiting)} not reviewed yet" if said else "not reviewed yet") + page
