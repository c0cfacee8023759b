"""Honest statistics for 20 to a few hundred samples, standard library alone.

Order statistics with exact binomial intervals, which assume nothing about the shape of the distribution; tails that the
sample cannot bound are said to be unbounded instead of guessed; shares with Wilson's interval, and against a limit with
three answers; ratios of medians by the bootstrap, never the tails: there it covers p99 in one run of five.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

CONFIDENCE = 0.95
_Z_TWO_SIDED = 1.959963984540054
_Z_ONE_SIDED = 1.6448536269514722
# |x - median| > 14.8 MAD is ten standard deviations of a normal body.
_OUTLIER_MADS = 14.8
# In simulations the bootstrap interval of a ratio of medians covers nominally from about this many values a side on.
RATIO_MIN_N = 10
_RESAMPLES = 2000
# A fixed seed: deciding again on the same samples gives the same answer.
_SEED = 20


def rounded(value: float, decimals: int) -> float:
    """`value` with so many decimals, or with more, so that three of its digits count."""
    least = 2 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return round(value, max(decimals, least))


@dataclass(frozen=True)
class Quantile:
    """A quantile as far as the sample supports it; the unit is that of the values.

    `kind`: `interval` (`low` and `high` enclose it with 95 % confidence), `at_least` (only `low` is known, one-sided
    95 %), `max` (the tail is out of reach: `value` is the largest value seen), `point` (a median of too few values for
    an interval), `none` (no values, all None).
    """

    q: float
    value: float | None
    low: float | None
    high: float | None
    kind: str
    n: int

    def text(self, number: Callable[[float | None], str]) -> str:
        """For people: `18.4 [18.1, 18.9]`, `>= 21.0`, `~max 25.0 (n=100 cannot bound p99)`; `number` sets digits."""
        if self.value is None:
            return "-"
        if self.kind == "interval":
            return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"
        if self.kind == "at_least":
            return f">= {number(self.low)}"
        if self.kind == "point":
            return f"{number(self.value)} (n={self.n})"
        return f"~max {number(self.value)} (n={self.n} cannot bound p{self.q * 100:g})"


def _below(n: int, q: float) -> list[float]:
    """For rank 1 to n + 1 the chance that fewer than `rank` of n values lie below the q-quantile (binomial)."""
    log_q, log_r = math.log(q), math.log1p(-q)
    # By logarithms: factorials of large n overflow a float.
    top = math.lgamma(n + 1)
    terms = (
        math.exp(top - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_q + (n - i) * log_r) for i in range(n + 1)
    )
    return list(itertools.accumulate(terms))


@cache
def order_interval(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """1-based ranks (low, high) whose values enclose the q-quantile with at least `confidence`; None if n is too small.

    Each side is given half of the error. With 95 % confidence the median needs n >= 6, p95 n >= 72, p99 n >= 368.
    """
    side = (1 - confidence) / 2
    below = _below(n, q)
    low = max((rank for rank in range(1, n + 1) if below[rank - 1] <= side), default=None)
    high = min((rank for rank in range(1, n + 1) if 1 - below[rank - 1] <= side), default=None)
    return (low, high) if low is not None and high is not None else None


@cache
def lower_rank(n: int, q: float, confidence: float = CONFIDENCE) -> int | None:
    """1-based rank whose value is at most the q-quantile with one-sided `confidence`; None if n is too small."""
    below = _below(n, q)
    return max((rank for rank in range(1, n + 1) if below[rank - 1] <= 1 - confidence), default=None)


def quantile(values: Sequence[float], q: float) -> Quantile:
    """The q-quantile of `values` with what can be said about it.

    The point value is the median's usual one for q = 0.5, and the nearest rank else.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        return Quantile(q, None, None, None, "none", 0)
    value = statistics.median(ordered) if q == 0.5 else ordered[math.ceil(q * n) - 1]
    ranks = order_interval(n, q)
    if ranks is not None:
        return Quantile(q, value, ordered[ranks[0] - 1], ordered[ranks[1] - 1], "interval", n)
    if q == 0.5:
        return Quantile(q, value, None, None, "point", n)
    low = lower_rank(n, q)
    if q >= 0.99 or low is None:
        return Quantile(q, ordered[-1], None, None, "max", n)
    return Quantile(q, value, ordered[low - 1], None, "at_least", n)


@dataclass(frozen=True)
class Share:
    """k of n with Wilson's intervals; all shares are between 0 and 1. With n = 0 the share is None."""

    k: int
    n: int
    share: float | None
    low: float
    high: float
    one_sided_low: float
    one_sided_high: float


def share(k: int, n: int) -> Share:
    """The share k/n with its two-sided 95 % interval and both one-sided 95 % bounds."""
    low, high = _wilson(k, n, _Z_TWO_SIDED)
    one_low, one_high = _wilson(k, n, _Z_ONE_SIDED)
    return Share(k, n, k / n if n else None, low, high, one_low, one_high)


Finding = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Threshold:
    """A share against a limit (0 to 1): PASS if the lower bound clears it, FAIL if the upper bound stays below it.

    `needed_n`: how many samples would decide, if the share stayed exactly as it is; None where it is decided, and
    where no number would (a share right at its limit, or no samples).
    """

    limit: float
    finding: Finding
    needed_n: int | None = None


def threshold(k: int, n: int, limit: float) -> Threshold:
    """The share k/n against `limit` by its one-sided 95 % Wilson bounds."""
    found = share(k, n)
    if found.one_sided_low >= limit:
        return Threshold(limit, "PASS")
    if found.one_sided_high < limit:
        return Threshold(limit, "FAIL")
    # In whole numbers where it matters: 95 of 100 is 0.95, whatever the difference of two floats is.
    if found.share is None or math.isclose(found.share, limit, abs_tol=1e-12):
        return Threshold(limit, "INCONCLUSIVE")
    # Wilson's bound meets the limit where the score test of that limit rejects it.
    exact = _Z_ONE_SIDED**2 * limit * (1 - limit) / (found.share - limit) ** 2
    return Threshold(limit, "INCONCLUSIVE", max(n + 1, math.ceil(exact)))


def _wilson(k: int, n: int, z: float) -> tuple[float, float]:
    if n == 0:
        return 0.0, 1.0
    p = k / n
    z2 = z * z
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Exact at the ends, where rounding would leave 1e-17 or 0.9999999.
    return (0.0 if k == 0 else max(0.0, center - half)), (1.0 if k == n else min(1.0, center + half))


def outliers(values: Sequence[float]) -> list[int]:
    """Positions of values further than 14.8 median absolute deviations from the median.

    They are flagged, never removed. With a MAD of 0 (more than half of the values equal) nothing is flagged: there is
    no scale to measure by.
    """
    if not values:
        return []
    median = statistics.median(values)
    mad = statistics.median(abs(value - median) for value in values)
    return [at for at, value in enumerate(values) if mad > 0 and abs(value - median) > _OUTLIER_MADS * mad]


@dataclass(frozen=True)
class Drift:
    """Medians of the first and the second half. `drifted` when their exact intervals do not even touch.

    Comparing 95 % intervals this way errs on the quiet side: it speaks up wrongly in less than 1 of 100 steady runs.
    """

    first: float
    second: float
    drifted: bool


def drift(values: Sequence[float]) -> Drift | None:
    """First half against second half, in the order measured; None when the halves are too small for an interval."""
    middle = len(values) // 2
    halves = values[:middle], values[middle:]
    ranks = [order_interval(len(half), 0.5) for half in halves]
    if ranks[0] is None or ranks[1] is None:
        return None
    (low, high), (other_low, other_high) = (
        (sorted(half)[rank[0] - 1], sorted(half)[rank[1] - 1])
        for half, rank in zip(halves, (ranks[0], ranks[1]), strict=True)
    )
    drifted = high < other_low or other_high < low
    return Drift(statistics.median(halves[0]), statistics.median(halves[1]), drifted)


@dataclass(frozen=True)
class Ratio:
    """Ratio of two medians, `top` over `bottom`, with its bootstrap 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def excludes_one(self) -> bool:
        """Whether the interval leaves out 1, both medians being the same."""
        return self.low > 1 or self.high < 1


def median_ratio(top: Sequence[float], bottom: Sequence[float], *, resamples: int = _RESAMPLES) -> Ratio | None:
    """Median of `top` over median of `bottom`; both groups are resampled, independently of each other.

    Returns:
        None with fewer than `RATIO_MIN_N` values on a side, or a value that is not above 0: there is no ratio of
        durations or rates then. The same values always give the same interval.
    """
    if min(len(top), len(bottom)) < RATIO_MIN_N or min(*top, *bottom) <= 0:
        return None
    return _median_ratio(tuple(top), tuple(bottom), resamples)


# Who decides on a run summarizes it more than once.
@lru_cache(maxsize=64)
def _median_ratio(top: tuple[float, ...], bottom: tuple[float, ...], resamples: int) -> Ratio:
    rng = random.Random(_SEED)
    ratios = sorted(
        above / below
        for above, below in zip(
            _medians(sorted(top), rng, resamples), _medians(sorted(bottom), rng, resamples), strict=True
        )
    )
    side = (1 - CONFIDENCE) / 2
    low, high = ratios[math.floor(side * resamples)], ratios[math.ceil((1 - side) * resamples) - 1]
    return Ratio(statistics.median(top) / statistics.median(bottom), low, high)


def _medians(ordered: Sequence[float], rng: random.Random, resamples: int) -> list[float]:
    """Medians of `resamples` samples drawn with replacement from `ordered`, which is sorted.

    Drawn as what they are, order statistics of uniform ranks: two random numbers a median instead of n, and no sorting.
    """
    n = len(ordered)
    middle = (n + 1) // 2
    found = []
    for _ in range(resamples):
        rank = rng.betavariate(middle, n - middle + 1)
        value = ordered[min(n - 1, int(rank * n))]
        if n % 2 == 0:
            # The next rank above it is the smallest of the n - middle uniform ones that are left.
            rank += (1 - rank) * (1 - rng.random() ** (1 / (n - middle)))
            value = (value + ordered[min(n - 1, int(rank * n))]) / 2
        found.append(value)
    return found


def band_edge(same: Ratio) -> float:
    """Upper edge, at least 1, of the band that two runs of the same thing span; the lower one is its inverse.

    The interval of their ratio made symmetric about 1: which of two equal runs came first means nothing.
    """
    return max(same.high, 1 / same.low)


def leaves_band(found: Ratio, edge: float) -> bool:
    """Whether the interval lies wholly outside of `1 / edge` to `edge`, and so excludes 1, too."""
    return found.low > edge or found.high < 1 / edge
