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


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 7), (19, 20), (20, 20), (91, 100), (95, 100), (196, 200), (1, 5000)])
def test_wilson(k: int, n: int) -> None:
    found = stats.share(k, n)
    both = oracle.binomtest(k, n).proportion_ci(0.95, method="wilson")
    above = oracle.binomtest(k, n, alternative="greater").proportion_ci(0.95, method="wilson")
    below = oracle.binomtest(k, n, alternative="less").proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((both.low, both.high), abs=1e-12)
    assert (found.one_sided_low, found.one_sided_high) == pytest.approx((above.low, below.high), abs=1e-12)


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


def test_needed_n_is_where_the_bound_meets_the_limit() -> None:
    for k, n in ((98, 100), (97, 100), (93, 100), (20, 20)):
        found = stats.threshold(k, n, 0.95)
        assert found.finding == "INCONCLUSIVE"
        assert found.needed_n is not None

        def decided(size: int, share: float = k / n) -> bool:
            # Wilson's bound in its closed form, for the share as it is: k need not be whole there.
            side = "greater" if share > 0.95 else "less"
            z = oracle.norm.ppf(0.95)
            center = (share + z * z / (2 * size)) / (1 + z * z / size)
            half = z / (1 + z * z / size) * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
            return bool(center - half >= 0.95 if side == "greater" else center + half <= 0.95)

        assert decided(found.needed_n)
        assert not decided(found.needed_n - 1)
