"""The statistics against scipy, which the measuring client does without: every number has a second opinion."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from scipy import stats as oracle
from trialbench import stats


def spiky(rng: random.Random, n: int, factor: float = 1.0) -> list[float]:
    """An 18 ms lognormal body and 3 % spikes: what a small vision model on one machine looks like."""
    return [18 * factor * rng.lognormvariate(0, 0.05) * (3 if rng.random() < 0.03 else 1) for _ in range(n)]


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [20, 72, 100, 367, 400])
def test_exact_intervals_are_those_of_the_quantile_test(n: int, q: float) -> None:
    values = spiky(random.Random(n), n)
    expected = oracle.quantile_test(values, p=q).confidence_interval(0.95)
    found = stats.quantile(values, q)
    if found.kind == "interval":
        assert (found.low, found.high) == (expected.low, expected.high)
    else:
        # Withheld exactly where there is no such order statistic.
        assert np.isnan(expected.low) or np.isnan(expected.high)


@pytest.mark.parametrize("n", [6, 20, 100])
def test_the_one_sided_bound_is_that_of_the_quantile_test(n: int) -> None:
    values = spiky(random.Random(n), n)
    expected = oracle.quantile_test(values, p=0.95, alternative="greater").confidence_interval(0.95)
    rank = stats.lower_rank(n, 0.95)
    assert rank is not None
    assert sorted(values)[rank - 1] == expected.low


def once(k: int, n: int) -> stats.Share:
    """Of n questions, asked once each."""
    return stats.share([(1, 1)] * k + [(0, 1)] * (n - k))


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 7), (19, 20), (20, 20), (91, 100), (95, 100), (196, 200), (1, 5000)])
def test_a_share_of_questions_has_the_exact_binomial_interval(k: int, n: int) -> None:
    found = once(k, n)
    both = oracle.binomtest(k, n).proportion_ci(0.95, method="exact")
    above = oracle.binomtest(k, n, alternative="greater").proportion_ci(0.95, method="exact")
    below = oracle.binomtest(k, n, alternative="less").proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((both.low, both.high), abs=1e-9)
    assert (found.one_sided_low, found.one_sided_high) == pytest.approx((above.low, below.high), abs=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "effective"), [(0, 100, 33.3), (1, 100, 20.5), (95, 100, 20.0), (240, 300, 71.9), (100, 100, 2.5)]
)
def test_the_interval_at_any_design_effect(k: int, n: int, effective: float) -> None:
    found = stats.bounded(k, n, 20, effective)
    good, bad = effective * k / n, effective * (n - k) / n
    for low, high, error in (
        (found.low, found.high, 0.025),
        (found.one_sided_low, found.one_sided_high, 0.05),
    ):
        assert low == pytest.approx(oracle.beta.ppf(error, good, bad + 1) if k else 0, abs=1e-9)
        assert high == pytest.approx(oracle.beta.ppf(1 - error, good + 1, bad) if k < n else 1, abs=1e-9)


def test_outliers_are_by_the_median_absolute_deviation() -> None:
    values = spiky(random.Random(4), 200)
    limit = 14.8 * oracle.median_abs_deviation(values)
    assert stats.outliers(values) == [
        at for at, value in enumerate(values) if abs(value - statistics.median(values)) > limit
    ]


@pytest.mark.parametrize(("n_top", "n_bottom"), [(100, 200), (21, 40), (10, 20)])
def test_the_ratio_of_medians_is_the_percentile_bootstraps(n_top: int, n_bottom: int) -> None:
    rng = random.Random(n_top)
    top, bottom = spiky(rng, n_top, 1.1), spiky(rng, n_bottom)
    found = stats.median_ratio(top, bottom, resamples=20_000)
    assert found is not None
    expected = oracle.bootstrap(
        (top, bottom),
        lambda above, below, axis: np.median(above, axis=axis) / np.median(below, axis=axis),
        n_resamples=20_000,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.ratio == pytest.approx(statistics.median(top) / statistics.median(bottom))
    # Two Monte Carlo runs of 20 000: their ends differ by a fraction of the interval.
    near = 0.06 * (expected.high - expected.low)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=near)


@pytest.mark.parametrize("n", [9, 10])
def test_medians_are_drawn_as_resampling_would(n: int) -> None:
    """The short cut by order statistics against drawing n values and sorting them."""
    rng = random.Random(8)
    ordered = sorted(spiky(rng, n))
    drawn = stats._medians(ordered, rng, 4000)
    resampled = [statistics.median(rng.choices(ordered, k=n)) for _ in range(4000)]
    assert oracle.ks_2samp(drawn, resampled).pvalue > 0.001
    assert set(drawn) <= {(a + b) / 2 for a in ordered for b in ordered}


@pytest.mark.parametrize(("k", "n", "each"), [(98, 100, 1), (97, 100, 1), (93, 100, 1), (20, 20, 1), (20, 20, 5)])
def test_needed_n_is_where_the_bound_meets_the_limit(k: int, n: int, each: int) -> None:
    share = stats.share([(each, each)] * k + [(0, each)] * (n - k))
    found = stats.threshold(share, 0.95)
    assert found.finding == "INCONCLUSIVE"
    assert found.needed_n is not None

    def decided(questions: int) -> bool:
        good, bad = questions * k / n, questions * (n - k) / n
        return bool(
            oracle.beta.ppf(0.05, good, bad + 1) >= 0.95
            if k / n > 0.95
            else oracle.beta.ppf(0.95, good + 1, bad) < 0.95
        )

    assert decided(found.needed_n)
    assert not decided(found.needed_n - 1)
