"""Honest statistics for 20 to a few hundred samples, standard library alone.

Order statistics with exact binomial intervals, which assume nothing about the shape of the distribution; tails that the
sample cannot bound are said to be unbounded instead of guessed; shares by the distinct questions that were asked, with
the exact binomial interval, and against a limit with three answers; ratios of medians by the bootstrap, never the
tails: there it covers p99 in one run of five.
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
# |x - median| > 14.8 MAD is ten standard deviations of a normal body.
_OUTLIER_MADS = 14.8
# In simulations the bootstrap interval of a ratio of medians covers nominally from about this many values a side on.
RATIO_MIN_N = 10
_RESAMPLES = 2000
_NORMAL = statistics.NormalDist()
# More questions than that nobody asks to decide a share.
_MOST_QUESTIONS = 1_000_000
# A fixed seed: deciding again on the same samples gives the same answer.
_SEED = 20


def rounded(value: float, decimals: int) -> float:
    """`value` with this many decimals, or with more, so that it has three significant digits."""
    least = 2 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return round(value, max(decimals, least))


def percent(share: float) -> int:
    """A share as whole percent: 100 for all alone, and 0 for none alone."""
    return round(share * 100) if share in (0, 1) else min(max(round(share * 100), 1), 99)


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
def order_interval(n: int, q: float) -> tuple[int, int] | None:
    """1-based ranks (low, high) whose values enclose the q-quantile with at least `CONFIDENCE`; None if n is too small.

    Each side is given half of the error. With 95 % confidence the median needs n >= 6, p95 n >= 72, p99 n >= 368.
    """
    side = (1 - CONFIDENCE) / 2
    below = _below(n, q)
    low = max((rank for rank in range(1, n + 1) if below[rank - 1] <= side), default=None)
    high = min((rank for rank in range(1, n + 1) if 1 - below[rank - 1] <= side), default=None)
    return (low, high) if low is not None and high is not None else None


@cache
def least_n(q: float) -> int:
    """The smallest sample that bounds the q-quantile from both sides."""
    return next(n for n in itertools.count(1) if order_interval(n, q) is not None)


@cache
def lower_rank(n: int, q: float) -> int | None:
    """1-based rank whose value is at most the q-quantile with one-sided `CONFIDENCE`; None if n is too small."""
    below = _below(n, q)
    return max((rank for rank in range(1, n + 1) if below[rank - 1] <= 1 - CONFIDENCE), default=None)


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
    """k of n replies, and what they prove about questions that were not asked; all shares are between 0 and 1.

    Attributes:
        share: None without replies.
        questions: distinct ones.
        effective_n: how many questions, asked once each, would prove as much; None for fewer than two questions.
        low, high: the exact binomial 95 % interval at `effective_n`; None where that is None.
        one_sided_low, one_sided_high: its one-sided 95 % bounds.
    """

    k: int
    n: int
    share: float | None
    questions: int
    effective_n: float | None
    low: float | None
    high: float | None
    one_sided_low: float | None
    one_sided_high: float | None


def share(counts: Sequence[tuple[int, int]]) -> Share:
    """The share of good replies, from `(good, all)` of each question."""
    asked = [(good, n) for good, n in counts if n]
    return bounded(sum(good for good, _ in asked), sum(n for _, n in asked), len(asked), effective_n(asked))


def effective_n(counts: Sequence[tuple[int, int]]) -> float | None:
    """n / design effect, from `(good, all)` of each question; None for fewer than two questions.

    The design effect is the variance of the share by questions over that of n independent replies, held within 1
    (repeats are as good as new questions) and n of the average reply's question (repeats say nothing new). The latter
    holds where all replies agree, too: then nothing is known about how questions differ, and identical repeats prove
    nothing.
    """
    questions, n = len(counts), sum(asked for _, asked in counts)
    if questions < 2:
        return None
    p = sum(good for good, _ in counts) / n
    most = sum(asked * asked for _, asked in counts) / n
    independent = p * (1 - p) / n
    by_questions = sum((good - p * asked) ** 2 for good, asked in counts) / n**2 * questions / (questions - 1)
    return n / (most if independent == 0 else min(max(by_questions / independent, 1.0), most))


def bounded(k: int, n: int, questions: int, effective: float | None) -> Share:
    """The share k / n with its bounds, where `effective` is the number of independent replies that are as good."""
    if effective is None or n == 0:
        return Share(k, n, k / n if n else None, questions, None, None, None, None, None)
    two, one = (1 - CONFIDENCE) / 2, 1 - CONFIDENCE
    good, bad = effective * k / n, effective * (n - k) / n
    return Share(
        k, n, k / n, questions, effective, *(
            bound
            for error in (two, one)
            for bound in (
                0.0 if k == 0 else _beta_quantile(error, good, bad + 1),
                1.0 if k == n else _beta_quantile(1 - error, good + 1, bad),
            )
        )
    )  # fmt: skip


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        # Beyond its peak the fraction converges slowly; from the other side it does not.
        return 1 - _beta_cdf(1 - x, b, a)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    top, bottom = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = bottom
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            bottom = 1 / (1 + term * bottom)
            top = 1 + term / top
            fraction *= top * bottom
        if abs(top * bottom - 1) < 1e-15:
            break
    return math.exp(log) / a * fraction


def _beta_quantile(q: float, a: float, b: float) -> float:
    """Where the beta distribution has `q` below it, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_cdf(middle, a, b) < q else (low, middle)
    return (low + high) / 2


Finding = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Threshold:
    """A share against a limit (0 to 1): PASS if the lower bound clears it, FAIL if the upper bound stays below it.

    `needed_n`: how many questions would decide, if share and design effect stayed exactly as they are; None where it is
    decided, and where no number would: a share right at its limit, fewer than two questions.
    """

    limit: float
    finding: Finding
    needed_n: int | None = None


def threshold(found: Share, limit: float) -> Threshold:
    """A share against `limit` by its one-sided 95 % bounds."""
    if found.share is None or found.effective_n is None:
        return Threshold(limit, "INCONCLUSIVE")
    decided = _decided(found.share, found.effective_n, limit)
    # In whole numbers where it matters: 95 of 100 is 0.95, whatever the difference of two floats is.
    if decided != "INCONCLUSIVE" or math.isclose(found.share, limit, abs_tol=1e-12):
        return Threshold(limit, decided)
    each, part = found.effective_n / found.questions, found.share
    needed = _first(lambda asked: _decided(part, asked * each, limit) != "INCONCLUSIVE", found.questions)
    return Threshold(limit, "INCONCLUSIVE", needed)


def _decided(part: float, n: float, limit: float) -> Finding:
    """Whether a share of n independent replies decides against `limit`, without computing its bounds."""
    good, bad = n * part, n * (1 - part)
    if part > limit and _beta_cdf(limit, good, bad + 1) <= 1 - CONFIDENCE:
        return "PASS"
    if part < limit and _beta_cdf(limit, good + 1, bad) > CONFIDENCE:
        return "FAIL"
    return "INCONCLUSIVE"


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


def paired_ratio(
    top: Sequence[Sequence[float]], bottom: Sequence[Sequence[float]], *, resamples: int = _RESAMPLES
) -> Ratio | None:
    """Median of the ratios of medians within pairs of groups, such as the values of one question on either side.

    Whole pairs are resampled, as blocks: values within one are not independent, and questions differ.

    Returns:
        None with fewer than `RATIO_MIN_N` pairs, or a value that is not above 0. The same values always give the same
        interval.
    """
    if len(top) < RATIO_MIN_N or min(min(group) for group in (*top, *bottom)) <= 0:
        return None
    ratios = sorted(
        statistics.median(above) / statistics.median(below) for above, below in zip(top, bottom, strict=True)
    )
    low, high = _middle(_medians(ratios, random.Random(_SEED), resamples))
    return Ratio(statistics.median(ratios), low, high)


def _middle(drawn: list[float]) -> tuple[float, float]:
    """The ends between which `CONFIDENCE` of the drawn values lie."""
    drawn, side = sorted(drawn), (1 - CONFIDENCE) / 2
    return drawn[math.floor(side * len(drawn))], drawn[math.ceil((1 - side) * len(drawn)) - 1]


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p of `wins` against `losses`, were either as likely: McNemar's test, without the ties."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / (1 << n)
    return min(1.0, 2 * tail)


def sign_test_needs(wins: int, losses: int) -> int | None:
    """How many wins and losses together would decide, if their shares stayed exactly as they are.

    None where none would: as many of either, or none at all. A number that is there already says that it is decided.
    """
    n, fewer = wins + losses, min(wins, losses)
    if 2 * fewer == n:
        return None

    def decides(asked: int) -> bool:
        # The tail of the binomial, which is a beta distribution's and takes parts of a loss, too.
        lost = asked * fewer / n
        return 2 * _beta_cdf(0.5, asked - lost, lost + 1) < 1 - CONFIDENCE

    return _first(decides, n)


def _first(decides: Callable[[int], bool], enough: int) -> int | None:
    """The smallest number from `enough` on that decides; None where none below a million does."""
    if decides(enough):
        return enough
    too_few = enough
    while not decides(enough := 2 * enough):
        too_few = enough
        if enough > _MOST_QUESTIONS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if decides(middle) else (middle, enough)
    return enough


@dataclass(frozen=True)
class Agreement:
    """How often several raters say the same; `kappa` is 1 where they always do, 0 where they do as by chance.

    Attributes:
        raters: how many, all of whom rated every one of `n`.
        share: of all pairs of raters and all that was rated; None where nothing was rated.
        kappa: Cohen's for two raters, Fleiss' for more; None where there is only one answer, which chance gives too.
    """

    raters: int
    n: int
    share: float | None
    kappa: float | None


def agreement(ratings: Sequence[Sequence[str]]) -> Agreement:
    """The agreement of at least two raters; each has an answer for everything, in the same order."""
    raters, n = len(ratings), len(ratings[0])
    if not n:
        return Agreement(raters, 0, None, None)
    words = sorted({word for one in ratings for word in one})
    rated = [[answers.count(word) for word in words] for answers in zip(*ratings, strict=True)]
    seen = sum(count * (count - 1) for counts in rated for count in counts) / (n * raters * (raters - 1))
    if raters == 2:
        by_chance = sum(math.prod(one.count(word) / n for one in ratings) for word in words)
    else:
        by_chance = sum((sum(counts[at] for counts in rated) / (n * raters)) ** 2 for at in range(len(words)))
    return Agreement(raters, n, seen, None if by_chance == 1 else (seen - by_chance) / (1 - by_chance))


@dataclass(frozen=True)
class Difference:
    """A paired difference of two shares with its 95 % interval and both one-sided 95 % bounds."""

    value: float
    low: float
    high: float
    one_sided_low: float
    one_sided_high: float


def paired_difference(wins: int, losses: int, n: int) -> Difference:
    """(wins - losses) / n with the adjusted Wald interval of Agresti and Min: half a pair is added to each cell."""
    total, won, lost = n + 2, wins + 0.5, losses + 0.5
    center = (won - lost) / total
    error = math.sqrt((won + lost) - (won - lost) ** 2 / total) / total
    two, one = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * error, _NORMAL.inv_cdf(CONFIDENCE) * error
    low, high, one_low, one_high = (min(1.0, max(-1.0, center + way)) for way in (-two, two, -one, one))
    return Difference((wins - losses) / n, low, high, one_low, one_high)


# A decision about a run summarizes it more than once.
@lru_cache(maxsize=64)
def _median_ratio(top: tuple[float, ...], bottom: tuple[float, ...], resamples: int) -> Ratio:
    rng = random.Random(_SEED)
    low, high = _middle(
        [
            above / below
            for above, below in zip(
                _medians(sorted(top), rng, resamples), _medians(sorted(bottom), rng, resamples), strict=True
            )
        ]
    )
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
