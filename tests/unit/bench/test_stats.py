"""Statistics against hand-computed values, the numbers of the literature, and their own promises in a simulation."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench import stats
from trialbench.show.text import number


def test_interval_of_the_median_of_ten_is_the_textbook_one() -> None:
    # Conover, table of the binomial with p = 1/2: ranks 2 and 9 for n = 10 (97.9 %).
    assert stats.order_interval(10, 0.5) == (2, 9)


@pytest.mark.parametrize(("q", "smallest"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_smallest_sample_with_an_interval(q: float, smallest: int) -> None:
    assert stats.order_interval(smallest - 1, q) is None
    assert stats.order_interval(smallest, q) is not None


def test_interval_ranks_enclose_at_least_95_percent_by_exact_sums() -> None:
    for n, q in ((20, 0.5), (100, 0.5), (100, 0.95), (400, 0.99)):
        ranks = stats.order_interval(n, q)
        assert ranks is not None
        low, high = ranks
        covered = sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(low, high))
        assert covered >= 0.95
        # One rank tighter on either side would give away more than half of the error there.
        assert sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(low + 1)) > 0.025


def test_interval_covers_the_true_median_in_about_95_of_100_runs() -> None:
    rng = random.Random(7)
    hits = 0
    for _ in range(1000):
        found = stats.quantile([rng.lognormvariate(0, 0.3) for _ in range(40)], 0.5)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.0 <= found.high
    assert 940 <= hits <= 990


def test_large_samples_do_not_overflow() -> None:
    ranks = stats.order_interval(5000, 0.5)
    assert ranks is not None
    assert ranks[0] + ranks[1] == 5001


@pytest.mark.parametrize(
    ("n", "q", "kind", "text"),
    [
        (100, 0.5, "interval", "50.5 [40.0, 61.0]"),
        (100, 0.95, "interval", "95.0 [90.0, 100]"),
        (100, 0.99, "max", "~max 100 (n=100 cannot bound p99)"),
        (20, 0.95, "at_least", ">= 17.0"),
        (5, 0.5, "point", "3.0 (n=5)"),
        (5, 0.95, "at_least", ">= 4.0"),
        (0, 0.5, "none", "-"),
    ],
)
def test_quantile_says_what_the_sample_supports(n: int, q: float, kind: str, text: str) -> None:
    found = stats.quantile([float(value) for value in range(n, 0, -1)], q)
    assert (found.kind, found.text(number)) == (kind, text)


def test_at_least_is_a_one_sided_bound() -> None:
    # P(B(20, .95) >= 17) = .984, P(>= 18) = .925: rank 17 is the highest one that is safe.
    assert stats.lower_rank(20, 0.95) == 17


def test_p50_is_the_usual_median() -> None:
    assert stats.quantile([1.0, 2.0, 3.0, 10.0], 0.5).value == 2.5


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(95, 100, 88.7, 98.4), (20, 20, 83.2, 100.0), (0, 20, 0.0, 16.8)],
)
def test_the_share_of_questions_asked_once(k: int, n: int, low: float, high: float) -> None:
    found = once(k, n)
    assert found.low is not None
    assert found.high is not None
    assert (round(found.low * 100, 1), round(found.high * 100, 1)) == (low, high)


def once(k: int, n: int) -> stats.Share:
    return stats.share([(1, 1)] * k + [(0, 1)] * (n - k))


@pytest.mark.parametrize(
    ("k", "n", "finding", "needed"),
    [
        (99, 100, "PASS", None), (98, 100, "INCONCLUSIVE", 157), (91, 100, "INCONCLUSIVE", 114),
        (90, 100, "FAIL", None), (196, 200, "PASS", None), (195, 200, "INCONCLUSIVE", 223),
        (20, 20, "INCONCLUSIVE", 59), (59, 59, "PASS", None),
        # Right at the limit no number would decide.
        (95, 100, "INCONCLUSIVE", None),
    ],
)  # fmt: skip
def test_one_failure_in_100_questions_proves_95_percent_and_two_do_not(
    k: int, n: int, finding: stats.Finding, needed: int | None
) -> None:
    assert stats.threshold(once(k, n), 0.95) == stats.Threshold(0.95, finding, needed)


@pytest.mark.parametrize(
    ("counts", "effective"),
    [
        # One question, however often, is no evidence about others.
        ([(100, 100)], None),
        ([], None),
        # Identical repeats add nothing: all good, or good and bad by question alone.
        ([(5, 5)] * 20, 20),
        ([(5, 5)] * 16 + [(0, 5)] * 4, 20),
        # Repeats that differ as much as questions do are as good as questions.
        ([(4, 5)] * 20, 100),
        # Where all replies agree, questions that were asked more often count for more, never for more than they are.
        ([(9, 9), (1, 1)], 100 / 82),
        ([(1, 1)] * 7, 7),
        ([(0, 0), (3, 3), (3, 3)], 2),
    ],
)
def test_what_repeats_are_worth(counts: list[tuple[int, int]], effective: float | None) -> None:
    assert stats.share(counts).effective_n == pytest.approx(effective)


def test_one_question_has_no_interval_and_decides_nothing() -> None:
    for found in (stats.share([(100, 100)]), stats.share([(0, 1)]), stats.share([])):
        bounds = {found.low, found.high, found.one_sided_low, found.one_sided_high, found.effective_n}
        assert bounds == {None}
        assert stats.threshold(found, 0.95) == stats.Threshold(0.95, "INCONCLUSIVE")
    assert stats.share([]).share is None


@given(st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=2, max_size=40))
def test_the_interval_encloses_the_share(counts: list[tuple[int, int]]) -> None:
    found = stats.share(counts)
    assert found.share is not None
    assert found.low is not None
    assert found.high is not None
    assert found.one_sided_low is not None
    assert found.one_sided_high is not None
    near = 1e-9
    assert 0 <= found.low <= found.one_sided_low + near
    assert found.one_sided_low <= found.share + near
    assert found.share <= found.one_sided_high + near
    assert found.one_sided_high <= found.high + near <= 1 + near


def test_outliers_are_far_beyond_the_body() -> None:
    body = [10.0, 10.1, 9.9, 10.2, 9.8, 10.0, 10.1]
    limit = 14.8 * statistics.median(abs(value - 10.0) for value in [*body, 12.0])
    assert stats.outliers([*body, 10.0 + limit - 0.01]) == []
    assert stats.outliers([*body, 30.0]) == [7]


def test_outliers_without_any_scale() -> None:
    assert stats.outliers([5.0, 5.0, 5.0, 9.0]) == []
    assert stats.outliers([]) == []


def test_drift_is_seen_and_steadiness_too() -> None:
    rng = random.Random(3)
    steady = [rng.gauss(20, 1) for _ in range(100)]
    moved = [value + (3 if at >= 50 else 0) for at, value in enumerate(steady)]
    quiet, loud = stats.drift(steady), stats.drift(moved)
    assert quiet is not None
    assert loud is not None
    assert not quiet.drifted
    assert loud.drifted
    assert loud.second - loud.first == pytest.approx(3, abs=0.6)
    falling = stats.drift(list(reversed(moved)))
    assert falling is not None
    assert falling.drifted


def test_drift_needs_an_interval_for_each_half() -> None:
    assert stats.drift([1.0] * 11) is None
    assert stats.drift([1.0] * 12) is not None


def test_drift_rarely_cries_wolf() -> None:
    rng = random.Random(11)
    alarms = 0
    for _ in range(400):
        found = stats.drift([rng.lognormvariate(0, 0.2) for _ in range(40)])
        assert found is not None
        alarms += found.drifted
    assert alarms <= 8
