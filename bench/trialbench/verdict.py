"""The verdict: one pure function of the facts of a run; the first rule that matches wins.

tainted, or thinking seen -> INCONCLUSIVE · VRAM outside its healthy band at any gate -> REJECT · rolled back, no VRAM
gate, or too few samples -> INCONCLUSIVE · adherence too low -> REJECT · required ground truth failed, or a declared
level missed -> REJECT · ground truth missing, or a declared level not shown -> INCONCLUSIVE · no good reply of the
baseline to compare with -> INCONCLUSIVE · a workload that is shown judged worse -> REJECT, one not judged ->
PENDING_REVIEW, none judged better -> REJECT · else ADOPT.

Latency is reported elsewhere and has no effect here, unless a level of service was declared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from trialbench import stats

Verdict = Literal["ADOPT", "REJECT", "INCONCLUSIVE", "PENDING_REVIEW"]
GroundTruth = Literal["not_required", "passed", "failed", "missing"]
Judgment = Literal["better", "same", "worse"]
AdherenceRule = Literal["share", "proved"]
Shown = Literal["better", "same", "worse", "not_shown"]
FileStatus = Literal["passed", "failed", "open", "missing"]


@dataclass(frozen=True)
class Gate:
    """VRAM footprint of the candidate at a gate, in GB of 1024 MiB above the drained level.

    `band` is the host's own finding from unrounded figures; without it the footprint is compared.
    """

    name: str
    footprint_gb: float
    band: str | None = None


@dataclass(frozen=True)
class Level:
    """A level that was declared, and whether the candidate keeps it: PASS, FAIL or INCONCLUSIVE; `text` for people."""

    name: str
    finding: stats.Finding
    text: str


@dataclass(frozen=True)
class Reviewed:
    """What a blind review says of one workload, by pairs of replies; several reviewers count once a pair, by majority.

    Attributes:
        pairs: how many there are; two replies that are the same text are a tie that nobody is asked about.
        wins, losses, ties: pairs in which the candidate's reply is better, worse, neither.
        p: exact two-sided p of wins against losses (sign test), which leaves ties out.
        finding: better or worse by that test at 5 %; same only by `ties_percent`.
        ties_percent: the share of ties that counts as *same*, written down before anybody judged; None: none does.
        more: how many more pairs would decide at these shares; None where it is decided, and where no number would.
    """

    pairs: int
    wins: int
    losses: int
    ties: int
    p: float
    finding: Shown
    ties_percent: float | None = None
    more: int | None = None

    @property
    def judged(self) -> int:
        """How many pairs have a judgment."""
        return self.wins + self.losses + self.ties

    @property
    def left(self) -> int:
        """How many pairs wait for a judgment."""
        return self.pairs - self.judged

    @property
    def word(self) -> str:
        """The finding with the pairs that it rests on: `not shown by 16 of 20 pairs`."""
        word = "not shown" if self.finding == "not_shown" else self.finding
        return f"{word} by {f'{self.judged} of ' if self.left else ''}{_pairs(self.pairs)}"

    @property
    def text(self) -> str:
        """All of it in words."""
        counted = f"{self.wins} better, {self.losses} worse, {self.ties} the same, p = {self.p:.2g}"
        lower = ""
        if self.finding == "same":
            lower = f"; by at least {self.ties_percent:g} % ties"
        return f"{self.word} ({counted}{lower})"

    @property
    def needed(self) -> str:
        """How many more judgments would decide, in words."""
        waiting = f"{self.left} of its pairs {'waits' if self.left == 1 else 'wait'} for one"
        todo = waiting if self.left else "all of its pairs are judged"
        if self.more is None:
            return f"no number of judgments like these would decide; {todo}"
        return f"{self.more} more {'judgment' if self.more == 1 else 'judgments'} like these would decide; {todo}"


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"


def reviewed(wins: int, losses: int, ties: int, pairs: int, ties_percent: float | None) -> Reviewed:
    """What so many judgments say; *not shown* is not *same*, which takes a margin that was written down beforehand."""
    p, judged = stats.sign_test(wins, losses), wins + losses + ties
    finding: Shown = "not_shown"
    if p < 1 - stats.CONFIDENCE:
        finding = "better" if wins > losses else "worse"
    elif ties_percent is not None:
        # A pair is a question. By the lower bound: three ties of three prove little, and one says nothing about others.
        low = stats.bounded(ties, judged, judged, judged if judged > 1 else None).one_sided_low
        finding = "same" if low is not None and low * 100 >= ties_percent else finding
    more = min(_needed(wins, losses, ties, ties_percent), default=None) if finding == "not_shown" else None
    return Reviewed(pairs, wins, losses, ties, round(p, 6), finding, ties_percent, more)


def _needed(wins: int, losses: int, ties: int, ties_percent: float | None) -> Iterator[int]:
    """After how many more judgments one is better, or both are the same, if shares stay as they are."""
    judged, needed = wins + losses + ties, stats.sign_test_needs(wins, losses)
    if needed is not None:
        # As many ties among those that are still to come as among these.
        yield math.ceil(needed * judged / (wins + losses)) - judged
    if ties_percent is not None and ties * 100 > ties_percent * judged:
        same = stats.threshold(stats.bounded(ties, judged, judged, judged), ties_percent / 100)
        yield (same.needed_n or judged + 1) - judged


@dataclass(frozen=True)
class Review:
    """A blind review: by workload, who reviewed, and how far the reviewers agree (None for one of them).

    `id` is the review's own, so that it can be told from a later one of the same run.
    """

    id: str
    reviewers: tuple[str, ...]
    workloads: Mapping[str, Reviewed]
    agreement: stats.Agreement | None = None

    @property
    def agreed(self) -> str:
        """How far the reviewers agree, in words; empty for one of them."""
        found = self.agreement
        if found is None:
            return ""
        if found.share is None:
            return f"{len(self.reviewers)} reviewers judged no pair in common"
        kappa = "" if found.kappa is None else f", kappa {found.kappa:z.2f}"
        return f"{found.raters} reviewers agree in {stats.percent(found.share)} % of {_pairs(found.n)}{kappa}"


@dataclass(frozen=True)
class AttestedFile:
    """What the newest verdict of ground truth says about one file.

    Attributes:
        sha256: of the file, in lower case.
        status: `passed` when its tokens were found to be the oracle's, and nothing failed or stayed open; `missing`
            without a verdict.
        label: model and quant; None without a verdict, as are `made` and `runtime`, which are the verdict's.
        passed, failed, open: how many probative rows about the file have that status; a claim that it breaks is one
            that failed.
        says: all of it in one sentence.
    """

    sha256: str
    status: FileStatus
    label: str | None
    passed: int
    failed: int
    open: int
    made: str | None
    runtime: str | None
    says: str


@dataclass(frozen=True)
class Facts:
    """What the verdict depends on. `n` counts all measured samples of the workload that decides, failed ones too.

    `questions` counts the distinct ones among them, and `effective_n` (`stats.Share`) is what they are worth as
    evidence about others; None for fewer than two. `levels`: what was declared about right answers and speed.

    `judged` has every workload that is shown, by name, with a person's judgment; None where there is none yet.
    `review`: what a blind review found of it; a workload it shows nothing of is not judged by it.
    `rolled_back`: why the trial was not completed, None if it was. `partial`: segments that lack samples they should
    have; told beside the verdict, which follows from the samples that are there. `silent`: segments of the baseline
    without one good reply, which no candidate can be better than.
    """

    n: int
    adherent: int
    gates: tuple[Gate, ...]
    taints: tuple[str, ...] = ()
    thinking: int = 0
    rolled_back: str | None = None
    ground_truth: GroundTruth = "not_required"
    judged: Mapping[str, Judgment | None] = field(default_factory=dict)
    review: Review | None = None
    partial: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    questions: int = 1
    effective_n: float | None = None
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True)
class Rules:
    """The user's decisions. The healthy band includes both its ends."""

    low_gb: float = 5.5
    high_gb: float = 7.5
    n_required: int = 100
    adherence_percent: int = 95
    adherence_rule: AdherenceRule = "share"


@dataclass(frozen=True)
class Decision:
    """The verdict; the first reason decided it, the others are worth knowing beside it."""

    verdict: Verdict
    reasons: list[str] = field(default_factory=list)


def decide(facts: Facts, rules: Rules) -> Decision:
    """The verdict on `facts`."""
    verdict, reason = _first_match(facts, rules)
    beside = [adherence_text(facts, rules)] if facts.n else []
    if facts.rolled_back and facts.rolled_back not in reason:
        beside.append(f"the trial was not completed: {facts.rolled_back}")
    beside += [level.text for level in facts.levels]
    beside += [f"blind review: {told}" for told in _review_text(facts.review) if told not in reason]
    beside += [f"partial: {text}" for text in facts.partial]
    return Decision(verdict, [reason, *(text for text in beside if text not in reason)])


def adherence_text(facts: Facts, rules: Rules) -> str:
    """Adherence as a share, with what it says about other questions, and how many would decide."""
    return f"adherence {facts.adherent}/{facts.n} ({proof_text(facts, rules)})"


def proof_text(facts: Facts, rules: Rules) -> str:
    """What the share says about questions that were not asked."""
    share = _share(facts)
    if share.one_sided_low is None or share.one_sided_high is None:
        times = "once" if facts.n == 1 else f"{facts.n} times"
        return f"one question asked {times}; says nothing about other pictures"
    limit = stats.threshold(share, rules.adherence_percent / 100)
    proof = {"PASS": "proved", "FAIL": "refuted", "INCONCLUSIVE": "not proved"}[limit.finding]
    needed = f"; {limit.needed_n} at this share would decide" if limit.needed_n else ""
    return (
        f"at least {rules.adherence_percent} %: {proof} by {facts.questions} questions, one-sided 95 % bounds"
        f" {share.one_sided_low * 100:.1f}-{share.one_sided_high * 100:.1f} %{needed}"
    )


def _share(facts: Facts) -> stats.Share:
    return stats.bounded(facts.adherent, facts.n, facts.questions, facts.effective_n)


def _first_match(facts: Facts, rules: Rules) -> tuple[Verdict, str]:
    if facts.taints:
        return "INCONCLUSIVE", "tainted: " + "; ".join(facts.taints)
    if facts.thinking:
        replies = "1 reply" if facts.thinking == 1 else f"{facts.thinking} replies"
        return "INCONCLUSIVE", f"thinking in {replies}: latency counts tokens nobody sees"
    outside = [gate for gate in facts.gates if not healthy(gate, rules)]
    if outside:
        found = ", ".join(f"{gate.footprint_gb:g} GB at {gate.name}" for gate in outside)
        return "REJECT", f"VRAM outside {rules.low_gb:g}-{rules.high_gb:g} GB: {found}"
    if facts.rolled_back:
        return "INCONCLUSIVE", f"the trial was not completed: {facts.rolled_back}"
    if not facts.gates:
        return "INCONCLUSIVE", "VRAM was not measured at any gate"
    if facts.n < rules.n_required:
        return "INCONCLUSIVE", f"expected {rules.n_required} samples, found {facts.n}"
    adherence = adherence_finding(facts, rules)
    if adherence != "PASS":
        verdict: Verdict = "REJECT" if adherence == "FAIL" else "INCONCLUSIVE"
        return verdict, adherence_text(facts, rules)
    if facts.ground_truth == "failed":
        return "REJECT", "ground truth failed: it is not the same model"
    failed = [level.text for level in facts.levels if level.finding == "FAIL"]
    if failed:
        return "REJECT", "; ".join(failed)
    if facts.ground_truth == "missing":
        return "INCONCLUSIVE", "ground truth is required, and there is none for this file"
    unclear = [level.text for level in facts.levels if level.finding == "INCONCLUSIVE"]
    if unclear:
        return "INCONCLUSIVE", "; ".join(unclear)
    if facts.silent:
        return "INCONCLUSIVE", f"nothing to compare with: no good reply of the baseline in {', '.join(facts.silent)}"
    return _judged(facts.judged, facts.review)


def _review_text(review: Review | None) -> list[str]:
    if review is None:
        return []
    told = [f"{name} {found.text}" for name, found in review.workloads.items()]
    return [*told, review.agreed] if review.agreed else told


def _judged(judged: Mapping[str, Judgment | None], review: Review | None) -> tuple[Verdict, str]:
    """What people said about the replies that are shown; where nothing is shown, nobody is asked."""
    if not judged:
        return "ADOPT", "adherent and within VRAM; no replies are shown for a person to judge"
    words = set(judged.values())
    said = ", ".join(f"{name} judged {word}" for name, word in judged.items() if word)
    if "worse" not in words and None in words:
        names = [name for name, word in judged.items() if word is None]
        tried = {name: review.workloads[name] for name in names if review and name in review.workloads}
        if tried:
            told = "; ".join(f"{name} {found.text}: {found.needed}" for name, found in tried.items())
            return "PENDING_REVIEW", f"the blind review decides nothing yet: {told}"
        options = " ".join(f"--judge {name}=..." for name in names)
        return (
            "PENDING_REVIEW",
            f"nobody has judged the {' and '.join(names)} replies yet: `trialbench verdict DIR {options}`",
        )
    if "worse" in words or "better" not in words:
        return "REJECT", f"{said}: not materially better than the baseline"
    return "ADOPT", "adherent, within VRAM, and judged better than the baseline"


def healthy(gate: Gate, rules: Rules) -> bool:
    """Whether the footprint lies in the healthy band, by the host's own finding where there is one."""
    if gate.band is not None:
        return gate.band == "healthy"
    return rules.low_gb <= gate.footprint_gb <= rules.high_gb


def adherence_finding(facts: Facts, rules: Rules) -> stats.Finding:
    """Whether the rule of adherence is met, failed, or (by the rule `proved`) left open."""
    if rules.adherence_rule == "share":
        # In whole numbers: 95 of 100 is 95 %, whatever 0.95 is in binary.
        return "PASS" if facts.adherent * 100 >= rules.adherence_percent * facts.n else "FAIL"
    return stats.threshold(_share(facts), rules.adherence_percent / 100).finding
