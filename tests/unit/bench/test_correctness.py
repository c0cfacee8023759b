"""Right answers: by scene, in pairs, with the exact test; planted cases come out as they were planted."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import SLO_SAMPLES
from sample_lines import made
from trialbench import stats
from trialbench.measure.sample import Sample
from trialbench.report.correctness import Correctness, correctness
from trialbench.report.levels import levels
from trialbench.report.measured import correctness_table, remarks
from trialbench.report.plan import Plan, Workload

RIGHT, WRONG = ["left", "large"], ["right", "large"]


def asked(rights: list[bool | None], repeats: int = 1, **changes: Any) -> list[Sample]:
    """The samples of a segment, by scene: right, wrong, or (None) not read."""
    return [
        made(
            turn * len(rights) + at + 1,
            0.0,
            scene=f"s{at}",
            parsed=None if right is None else RIGHT if right else WRONG,
            strategy=None if right is None else 1,
            **({"expected": RIGHT} | changes),
        )
        for turn in range(repeats)
        for at, right in enumerate(rights)
    ]


def found(candidate: list[Sample], baseline: list[Sample]) -> Correctness | None:
    segments = {"nav-candidate": candidate, "nav-baseline-a1": baseline}
    return correctness(lambda name: segments.get(name, []), Workload("nav"))


def planted(wins: int, losses: int, both: int, neither: int) -> Correctness:
    candidate = [True] * wins + [False] * losses + [True] * both + [False] * neither
    baseline = [False] * wins + [True] * losses + [True] * both + [False] * neither
    told = found(asked(list(candidate)), asked(list(baseline)))
    assert told is not None
    return told


@pytest.mark.parametrize(
    ("wins", "losses", "both", "neither", "finding"),
    [
        # 12 against 2 over 100 scenes are shown, 20 against 10 are not.
        (12, 2, 80, 6, "better"),
        (20, 10, 60, 10, "not_shown"),
        (2, 12, 80, 6, "worse"),
        (0, 0, 100, 0, "not_shown"),
        (5, 0, 95, 0, "not_shown"),
        (6, 0, 94, 0, "better"),
    ],
)
def test_planted_cases(wins: int, losses: int, both: int, neither: int, finding: str) -> None:
    labeled = planted(wins, losses, both, neither).labeled
    assert labeled is not None
    assert labeled.finding == finding
    pairs = labeled.all
    assert (pairs.scenes, pairs.wins, pairs.losses) == (wins + losses + both + neither, wins, losses)
    assert (pairs.candidate, pairs.baseline) == (wins + both, losses + both)
    assert len(labeled.won) == wins
    # The interval agrees with the test, but right at its edge.
    if finding != "not_shown" and wins + losses > 10:
        assert labeled.difference.low > 0 or labeled.difference.high < 0


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(12, 2, 0.0129), (20, 10, 0.0987), (0, 0, 1.0), (1, 1, 1.0), (6, 0, 0.0312)]
)
def test_the_exact_test(wins: int, losses: int, p: float) -> None:
    assert stats.sign_test(wins, losses) == pytest.approx(p, abs=1e-4)
    assert stats.sign_test(losses, wins) == stats.sign_test(wins, losses)


def test_the_interval_of_the_difference_covers() -> None:
    """Of 60 scenes with a true difference of 0.1: in 93 of 100 and more."""
    rng, hits, runs = random.Random(3), 0, 1000
    for _ in range(runs):
        draws = [rng.random() for _ in range(60)]
        wins, losses = sum(draw < 0.2 for draw in draws), sum(0.2 <= draw < 0.3 for draw in draws)
        difference = stats.paired_difference(wins, losses, 60)
        hits += difference.low <= 0.1 <= difference.high
    assert hits / runs >= 0.93


def test_without_right_answers_there_is_agreement() -> None:
    told = found(asked([True, True, False, None], expected=None), asked([True, False, False, None], expected=None))
    assert told is not None
    # What neither model answers in a form that anyone could use is no agreement.
    assert (told.scenes, told.agree, told.labeled) == (4, 2, None)
    assert [one.scene for one in told.disagreements] == ["s1", "s3"]
    assert "same answer in 2 of 4 scenes; which of them are right is not known" in told.text
    assert told.disagreements[0].expected is None
    assert told.disagreements[1].candidate is None


def test_a_scene_counts_once_however_often_it_was_asked() -> None:
    mixed = [*asked([True, False]), *asked([True, True]), *asked([True, False])]
    told = found(mixed, asked([True, True], repeats=3))
    assert told is not None
    assert told.labeled is not None
    assert (told.labeled.all.scenes, told.labeled.all.candidate, told.labeled.all.losses) == (2, 1, 1)


def test_a_tie_is_not_right() -> None:
    told = found([*asked([True]), *asked([False])], asked([True], repeats=2))
    assert told is not None
    assert told.labeled is not None
    assert told.labeled.all.candidate == 0
    # What is lost is among the scenes that differ, although both gave the right answer first.
    assert [one.scene for one in told.disagreements] == told.labeled.lost == ["s0"]
    assert told.agree == 0


@pytest.mark.parametrize(("scenes", "share"), [(100, 0.7), (60, 0.7), (100, 0.9)])
def test_a_model_whose_replies_vary_does_not_differ_from_itself(scenes: int, share: float) -> None:
    rng, shown, runs = random.Random(4), 0, 25

    def varied() -> list[Sample]:
        return [
            replace(one, scene=f"s{at % scenes}")
            for at, one in enumerate(asked([rng.random() < share for _ in range(100)]))
        ]

    for _ in range(runs):
        segments = {name: varied() for name in ("nav-candidate", "nav-baseline-a1", "nav-baseline-a2")}
        told = correctness(lambda name, kept=segments: kept.get(name, []), Workload("nav"))
        assert told is not None
        assert told.labeled is not None
        shown += told.labeled.finding != "not_shown"
    assert shown <= 4


def test_of_both_models_as_many_replies_count() -> None:
    candidate = asked([True, False])
    segments = {
        "nav-candidate": candidate,
        "nav-baseline-a1": asked([True]),
        "nav-baseline-a2": [*asked([False]), *asked([False]), replace(asked([True])[0], scene="s1")],
    }
    told = correctness(lambda name: segments.get(name, []), Workload("nav"))
    assert told is not None
    assert told.labeled is not None
    assert (told.agree, told.labeled.won, told.labeled.lost) == (1, [], ["s1"])


def test_groups_are_counted_beside_all() -> None:
    candidate = [replace(one, group="near" if at < 2 else "far") for at, one in enumerate(asked([True, True, False]))]
    told = found(candidate, asked([True, False, True]))
    assert told is not None
    assert told.labeled is not None
    assert {name: (one.scenes, one.wins, one.losses) for name, one in told.labeled.groups.items()} == {
        "far": (1, 0, 1),
        "near": (2, 1, 0),
    }
    shown = correctness_table(told)
    assert "near" in shown
    assert "right large" in shown
    assert "(right)" in shown


def test_one_scene_has_no_interval() -> None:
    assert planted(0, 0, 1, 0).text.endswith(
        "not shown (0 wins, 0 losses, p = 1); both give the same answer in 1 of 1 scenes"
    )
    assert "; difference -" in planted(0, 0, 2, 0).text


def test_one_question_has_no_answers_by_scene() -> None:
    assert found([made(1, 0.0)], [made(1, 0.0)]) is None
    assert correctness_table(None) == ""


class Told:
    """A summary, as far as levels look at it."""

    def __init__(self, correct: Correctness | None, latencies: list[float], lost: dict[str, int]) -> None:
        from trialbench.measure.summary import SegmentFacts, summarize

        self.lines = [made(at, float(at), latency) for at, latency in enumerate(latencies, 1)]
        self.lines += [
            made(900, 1000.0, ok=False, error_class=name, latency_ms=None)
            for name, times in lost.items()
            for _ in range(times)
        ]
        self.correctness = correct
        self.segments = {"nav-candidate": summarize(self.lines, [], SegmentFacts("nav", len(self.lines), True, False))}


STEADY = [20.0 + at % 10 / 10 for at in range(100)]


@pytest.mark.parametrize(
    ("plan", "told", "finding", "words"),
    [
        ({"accuracy_not_worse_by": 5}, (12, 2, 80, 6), "PASS", "kept (92 against 82 of 100"),
        ({"accuracy_not_worse_by": 5}, (2, 22, 70, 6), "FAIL", "missed (72 against 92 of 100"),
        ({"accuracy_not_worse_by": 5}, (10, 12, 70, 8), "INCONCLUSIVE", "not shown"),
        ({"accuracy_not_worse_by": 0}, (0, 0, 100, 0), "INCONCLUSIVE", "not shown"),
        # One scene says nothing about others, however wide the margin is.
        (
            {"accuracy_not_worse_by": 60},
            (0, 0, 1, 0),
            "INCONCLUSIVE",
            "not shown (one scene says nothing about others)",
        ),
        ({"accuracy_not_worse_by": 60}, (0, 0, 2, 0), "PASS", "kept"),
        ({"accuracy_not_worse_by": 5}, None, "INCONCLUSIVE", "no scene has a right answer"),
        ({"p95_ms": 30}, None, "PASS", "p95 of at most 30 ms: kept"),
        ({"p95_ms": 19}, None, "FAIL", "missed"),
        ({"hz": 40}, None, "PASS", "at least 40 Hz: kept"),
        ({"hz": 60}, None, "FAIL", "missed"),
        ({"hz": 1000 / 20.4}, None, "INCONCLUSIVE", "not shown"),
    ],
)
def test_declared_levels(
    plan: dict[str, Any], told: tuple[int, int, int, int] | None, finding: str, words: str
) -> None:
    summary: Any = Told(planted(*told) if told else None, STEADY, {})
    [level] = levels(Plan(**plan), summary, summary.lines)
    assert level.finding == finding
    assert words in level.text


@pytest.mark.parametrize(
    ("plan", "n", "lost", "finding", "words"),
    [
        ({"p95_ms": 30}, 20, {}, "INCONCLUSIVE", "20 samples cannot show that it is kept, 72 can"),
        ({"p95_ms": 30}, 71, {}, "INCONCLUSIVE", "71 samples cannot show that it is kept, 72 can"),
        ({"p95_ms": 30}, 72, {}, "PASS", "20.9] ms)"),
        ({"p95_ms": 19}, 71, {}, "FAIL", "missed (>= 20.8 ms)"),
        ({"hz": 40}, 5, {}, "INCONCLUSIVE", "5 samples cannot show that it is kept, 6 can"),
        ({"hz": 40}, 6, {}, "PASS", "kept"),
        ({"hz": 40}, 0, {}, "INCONCLUSIVE", "0 samples cannot show that"),
        # A reply that never came is late, however fast the others were.
        (
            {"p95_ms": 30},
            199,
            {"timeout": 1},
            "PASS",
            "ms without 1 request that had no whole reply and counts as slower",
        ),
        ({"p95_ms": 30}, 95, {"timeout": 5}, "INCONCLUSIVE", "without 5 requests that had no whole reply and count"),
        ({"p95_ms": 30}, 80, {"timeout": 20}, "FAIL", "missed"),
        ({"p95_ms": 30}, 0, {"timeout": 100}, "FAIL", "missed (- ms without 100 requests"),
        ({"p95_ms": 30}, 80, {"dropped": 12, "connect": 8}, "FAIL", "without 20 requests"),
        # We ended these ourselves, and those came.
        ({"p95_ms": 30}, 80, {"cut_off": 20}, "PASS", "kept"),
        ({"p95_ms": 30}, 80, {"http_500": 20}, "PASS", "kept"),
        ({"hz": 40}, 80, {"timeout": 20}, "PASS", "kept"),
        ({"hz": 40}, 50, {"timeout": 50}, "INCONCLUSIVE", "not shown"),
        ({"hz": 40}, 30, {"timeout": 70}, "FAIL", "missed"),
        # Whether it keeps a level beyond its limit is not known of a request that was ended there.
        ({"p95_ms": 30, "request_timeout_ms": 25.0}, 80, {"timeout": 20}, "INCONCLUSIVE", "not shown"),
        ({"p95_ms": 30, "request_timeout_ms": 30000.0}, 80, {"timeout": 20}, "FAIL", "missed"),
    ],
)
def test_levels_of_few_samples_and_of_replies_that_never_came(
    plan: dict[str, Any], n: int, lost: dict[str, int], finding: str, words: str
) -> None:
    summary: Any = Told(None, (2 * STEADY)[:n], lost)
    [level] = levels(Plan(**plan), summary, summary.lines)
    assert (level.finding, words in level.text) == (finding, True), level.text


def test_phase_0_knows_how_many_samples_a_level_takes() -> None:
    assert {"p95_ms": stats.least_n(0.95), "hz": stats.least_n(0.5)} == SLO_SAMPLES


def test_the_report_says_how_many_requests_no_latency_has() -> None:
    segment = Told(None, STEADY[:9], {"timeout": 2, "cut_off": 1}).segments["nav-candidate"]
    assert segment.latency_ms.p50.n == 9
    assert "the latencies leave out 2 requests without a whole reply" in remarks(segment)
    assert "leave out" not in str(remarks(Told(None, STEADY[:9], {"cut_off": 1}).segments["nav-candidate"]))


def test_nothing_is_declared_unless_somebody_did() -> None:
    summary: Any = Told(planted(2, 22, 70, 6), STEADY, {})
    assert levels(Plan(), summary, summary.lines) == ()
