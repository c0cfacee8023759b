"""The verdict by a table written from the spec, every boundary in it.

The spec, first match wins: tainted run or thinking seen -> INCONCLUSIVE · VRAM outside 5.5-7.5 at any gate -> REJECT ·
fewer than 100 nav samples -> INCONCLUSIVE · adherence < 95 % -> REJECT · required ground truth failed -> REJECT,
missing -> INCONCLUSIVE · describe not judged yet -> PENDING REVIEW · judged not materially better -> REJECT · else
ADOPT. Bands: below 5.5 GB low · 5.5 to 7.5 inclusive healthy · above 7.5 to 8.0 inclusive warning · above 8.0 abort.
"""

from __future__ import annotations

from typing import Any

import pytest
from trialbench.verdict import AdherenceRule, Facts, Gate, Level, Rules, decide

GATES = (Gate("start", 6.1), Gate("end", 6.2))


KEPT, MISSED, UNCLEAR = (
    Level("p95", "PASS", "kept"),
    Level("p95", "FAIL", "missed"),
    Level("accuracy", "INCONCLUSIVE", "not shown"),
)


def facts(**changes: Any) -> Facts:
    whole: dict[str, Any] = {"n": 100, "adherent": 100, "gates": GATES, "judged": {"describe": "better"}} | changes
    # Each sample another question, unless it says otherwise.
    return Facts(**({"questions": whole["n"], "effective_n": float(whole["n"]) or None} | whole))


def at(*footprints: float) -> tuple[Gate, ...]:
    return tuple(Gate(f"gate {position}", footprint) for position, footprint in enumerate(footprints))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "ADOPT"),
        # VRAM: 5.5 and 7.5 belong to the healthy band
        ({"gates": at(5.49)}, "REJECT"),
        ({"gates": at(5.5)}, "ADOPT"),
        ({"gates": at(7.5)}, "ADOPT"),
        ({"gates": at(7.51)}, "REJECT"),
        ({"gates": at(8.0)}, "REJECT"),
        ({"gates": at(8.01)}, "REJECT"),
        # above 8.0 the host aborts and restores: what decided stands first
        ({"gates": at(8.01), "n": 0, "adherent": 0, "rolled_back": "candidate: VRAM"}, "REJECT"),
        # VRAM leaves the band after 20: no extension
        ({"gates": at(6.1, 7.51), "n": 20, "adherent": 20}, "REJECT"),
        ({"gates": at(6.1, 5.49), "n": 20, "adherent": 20}, "REJECT"),
        ({"gates": at(6.1, 8.0), "n": 20, "adherent": 20}, "REJECT"),
        ({"gates": at(6.0, 7.51)}, "REJECT"),
        ({"gates": at(7.51, 6.0)}, "REJECT"),
        ({"gates": ()}, "INCONCLUSIVE"),
        # the host's band comes from unrounded figures
        ({"gates": (Gate("end", 7.5, "warning"),)}, "REJECT"),
        ({"gates": (Gate("end", 7.5, "healthy"),)}, "ADOPT"),
        # number of samples
        ({"n": 99, "adherent": 99}, "INCONCLUSIVE"),
        ({"n": 20, "adherent": 20}, "INCONCLUSIVE"),
        ({"n": 0, "adherent": 0}, "INCONCLUSIVE"),
        # adherence as a share
        ({"adherent": 94}, "REJECT"),
        ({"adherent": 95}, "ADOPT"),
        ({"adherent": 99}, "ADOPT"),
        ({"adherent": 100}, "ADOPT"),
        ({"adherent": 0}, "REJECT"),
        ({"n": 200, "adherent": 190}, "ADOPT"),
        ({"n": 200, "adherent": 189}, "REJECT"),
        # thinking and taints
        ({"thinking": 1}, "INCONCLUSIVE"),
        # one thinking sample within the first 20 prevents the extension, on the smoke test it rolls back
        ({"thinking": 1, "n": 20, "adherent": 19}, "INCONCLUSIVE"),
        ({"thinking": 1, "n": 0, "adherent": 0, "rolled_back": "candidate: smoke"}, "INCONCLUSIVE"),
        ({"thinking": 1, "adherent": 94}, "INCONCLUSIVE"),
        ({"taints": ("rebooted",)}, "INCONCLUSIVE"),
        ({"taints": ("rebooted",), "adherent": 94}, "INCONCLUSIVE"),
        # ground truth
        ({"ground_truth": "passed"}, "ADOPT"),
        ({"ground_truth": "failed"}, "REJECT"),
        ({"ground_truth": "missing"}, "INCONCLUSIVE"),
        ({"ground_truth": "failed", "judged": {"describe": "better"}}, "REJECT"),
        ({"ground_truth": "passed", "judged": {"describe": None}}, "PENDING_REVIEW"),
        ({"ground_truth": "missing", "judged": {"describe": None}}, "INCONCLUSIVE"),
        # what was declared about right answers and speed
        ({"levels": (KEPT,)}, "ADOPT"),
        ({"levels": (MISSED,)}, "REJECT"),
        ({"levels": (UNCLEAR,)}, "INCONCLUSIVE"),
        ({"levels": (UNCLEAR, MISSED)}, "REJECT"),
        ({"levels": (MISSED,), "ground_truth": "missing"}, "REJECT"),
        ({"levels": (UNCLEAR,), "ground_truth": "failed"}, "REJECT"),
        ({"levels": (UNCLEAR,), "adherent": 94}, "REJECT"),
        ({"levels": (MISSED,), "judged": {"describe": None}}, "REJECT"),
        ({"levels": (MISSED,), "taints": ("x",)}, "INCONCLUSIVE"),
        # a baseline without one good reply is nothing to compare with, whatever was judged
        ({"silent": ("nav-baseline-a1",)}, "INCONCLUSIVE"),
        ({"silent": ("describe-baseline",)}, "INCONCLUSIVE"),
        ({"silent": ("nav-baseline-a1",), "judged": {}}, "INCONCLUSIVE"),
        ({"silent": ("describe-baseline",), "judged": {"describe": None}}, "INCONCLUSIVE"),
        ({"silent": ("nav-baseline-a1",), "adherent": 94}, "REJECT"),
        ({"silent": ("nav-baseline-a1",), "ground_truth": "failed"}, "REJECT"),
        # judgment
        ({"judged": {"describe": None}}, "PENDING_REVIEW"),
        ({"judged": {"describe": "better"}}, "ADOPT"),
        ({"judged": {"describe": "same"}}, "REJECT"),
        ({"judged": {"describe": "worse"}}, "REJECT"),
        ({"rolled_back": "measure: the candidate died"}, "INCONCLUSIVE"),
        # first match wins
        ({"thinking": 1, "gates": at(9.0)}, "INCONCLUSIVE"),
        ({"taints": ("x",), "gates": at(9.0)}, "INCONCLUSIVE"),
        ({"gates": at(8.2), "n": 20, "adherent": 20, "rolled_back": "candidate: VRAM"}, "REJECT"),
        ({"n": 20, "adherent": 0}, "INCONCLUSIVE"),
        ({"adherent": 90, "ground_truth": "missing"}, "REJECT"),
        ({"adherent": 90, "judged": {"describe": None}}, "REJECT"),
        ({"ground_truth": "failed", "judged": {"describe": None}}, "REJECT"),
        ({"ground_truth": "missing", "judged": {"describe": "worse"}}, "INCONCLUSIVE"),
    ],
)
def test_verdict(changes: dict[str, Any], verdict: str) -> None:
    assert decide(facts(**changes), Rules()).verdict == verdict


@pytest.mark.parametrize(
    ("n", "adherent", "verdict"),
    [
        # one-sided 95 % bounds: 99/100 proves 95 %, 98/100 does not; 91/100 still could be 95 %, 90/100 not
        (100, 100, "ADOPT"),
        (100, 99, "ADOPT"),
        (100, 98, "INCONCLUSIVE"),
        (100, 91, "INCONCLUSIVE"),
        (100, 90, "REJECT"),
        (200, 196, "ADOPT"),
        (200, 195, "INCONCLUSIVE"),
    ],
)
def test_proved_adherence_as_the_gate(n: int, adherent: int, verdict: str) -> None:
    decision = decide(facts(n=n, adherent=adherent), Rules(adherence_rule="proved"))
    assert decision.verdict == verdict


ONE_QUESTION = {"questions": 1, "effective_n": None}


@pytest.mark.parametrize("rule", ["share", "proved"])
@pytest.mark.parametrize("adherent", [100, 98, 95, 90, 0])
def test_one_question_proves_nothing_whatever_its_replies(adherent: int, rule: AdherenceRule) -> None:
    decision = decide(facts(adherent=adherent, **ONE_QUESTION), Rules(adherence_rule=rule))
    told = f"adherence {adherent}/100 (one question asked 100 times; says nothing about other pictures)"
    assert told in decision.reasons
    assert "prove" not in " ".join(decision.reasons).replace("improve", "")
    if rule == "proved":
        assert (decision.verdict, decision.reasons[0]) == ("INCONCLUSIVE", told)
    else:
        assert decision.verdict == ("ADOPT" if adherent >= 95 else "REJECT")


def test_identical_repeats_prove_no_more_than_their_questions() -> None:
    rules = Rules(adherence_rule="proved")
    assert decide(facts(questions=20, effective_n=20.0), rules).verdict == "INCONCLUSIVE"
    assert "not proved by 20 questions" in decide(facts(questions=20, effective_n=20.0), rules).reasons[0]
    assert decide(facts(n=300, adherent=300, questions=60, effective_n=60.0), rules).verdict == "ADOPT"


def test_whether_adherence_is_proved_stands_beside_the_share() -> None:
    assert any("95/100" in reason and "not proved" in reason for reason in decide(facts(adherent=95), Rules()).reasons)
    assert any("99/100" in reason and ": proved" in reason for reason in decide(facts(adherent=99), Rules()).reasons)
    assert any("50/100" in reason and "refuted" in reason for reason in decide(facts(adherent=50), Rules()).reasons)


def test_reasons_name_what_decided_and_never_twice() -> None:
    decision = decide(facts(gates=at(8.2), rolled_back="candidate: VRAM"), Rules())
    assert "8.2 GB at gate 0" in decision.reasons[0]
    assert decision.reasons[-1] == "the trial was not completed: candidate: VRAM"
    for changes in ({"adherent": 90}, {"rolled_back": "why"}, {"n": 0, "adherent": 0}):
        reasons = decide(facts(**changes), Rules()).reasons
        assert len(reasons) == len(set(reasons))


def test_what_is_not_proved_says_how_many_samples_it_would_take() -> None:
    rules = Rules(adherence_rule="proved")
    assert "; 157 at this share would decide" in decide(facts(adherent=98), rules).reasons[0]
    # At 95 % exactly no number of samples would; proved and refuted ones need none.
    for adherent in (95, 99, 50):
        assert "would decide" not in "".join(decide(facts(adherent=adherent), rules).reasons)


def test_what_is_partial_stands_beside_the_verdict() -> None:
    decision = decide(facts(partial=("nav-baseline-a2: cut short at 63 of 100 samples",)), Rules())
    assert decision.verdict == "ADOPT"
    assert decision.reasons[-1] == "partial: nav-baseline-a2: cut short at 63 of 100 samples"


def test_the_verdict_depends_on_nothing_but_its_facts() -> None:
    # One pure function: same facts, same decision, and nothing of them is changed.
    given = facts(adherent=95)
    assert decide(given, Rules()) == decide(given, Rules()) == decide(facts(adherent=95), Rules())


def test_bands_and_counts_are_the_users() -> None:
    rules = Rules(low_gb=9.0, high_gb=11.0, n_required=20)
    assert decide(facts(gates=at(10.0), n=20, adherent=20), rules).verdict == "ADOPT"
    assert decide(facts(gates=at(6.0), n=20, adherent=20), rules).verdict == "REJECT"


@pytest.mark.parametrize(
    ("judged", "verdict", "reason"),
    [
        ({}, "ADOPT", "adherent and within VRAM; no replies are shown for a person to judge"),
        ({"a": "better"}, "ADOPT", "adherent, within VRAM, and judged better than the baseline"),
        ({"a": "same"}, "REJECT", "a judged same: not materially better than the baseline"),
        ({"a": "worse"}, "REJECT", "a judged worse: not materially better than the baseline"),
        ({"a": None}, "PENDING_REVIEW", "nobody has judged the a replies yet: `trialbench verdict DIR --judge a=...`"),
        # Several: better in one is enough, unless another became worse.
        ({"a": "better", "b": "same"}, "ADOPT", "adherent, within VRAM, and judged better than the baseline"),
        ({"a": "same", "b": "same"}, "REJECT", "a judged same, b judged same: not materially better than the baseline"),
        ({"a": "better", "b": "worse"}, "REJECT", "a judged better, b judged worse: not materially better than the"),
        ({"a": None, "b": "worse"}, "REJECT", "b judged worse: not materially better than the baseline"),
        ({"a": "better", "b": None}, "PENDING_REVIEW", "nobody has judged the b replies yet: `trialbench verdict DIR"),
        (
            {"a": None, "b": None},
            "PENDING_REVIEW",
            "nobody has judged the a and b replies yet: `trialbench verdict DIR --judge a=... --judge b=...`",
        ),
    ],
)
def test_people_judge_every_workload_that_is_shown(judged: dict[str, Any], verdict: str, reason: str) -> None:
    decision = decide(facts(judged=judged), Rules())
    assert decision.verdict == verdict
    assert decision.reasons[0].startswith(reason)


def test_latency_is_no_part_of_the_verdict() -> None:
    names = set(Facts.__dataclass_fields__) | set(Rules.__dataclass_fields__)
    assert not [name for name in names if "ms" in name or "latency" in name or "p50" in name]
