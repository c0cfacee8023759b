"""Candidate against baseline: ratios of medians, next to the baseline's own variation.

One run of each is not an A/B test: machines drift between runs, and a test that ignores drift raises false alarms in
half of them. So the baseline is measured before (A1) and after (A2) the candidate, and the difference between A1 and A2
is the band within which a difference means nothing.

Where both were asked about several scenes, each scene is compared with itself, and scenes are resampled as blocks: they
differ from each other more than two models may.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from trialbench import stats
from trialbench.measure.sample import Sample
from trialbench.report.plan import Workload
from trialbench.show.text import counted, number, ratio_text

# A wider band is reported as NOISY: such a run cannot show a difference of 10 %.
NOISY_PERCENT = 5.0
# Minimum width of the band: two baselines may agree by chance, and one pair says little about a machine's drift between
# runs. One model differed from itself by 3 % when its pair of baselines differed by 0.8 %.
_NARROWEST = 1.03
Metric = Literal["latency_ms", "server_ms", "ttft_ms", "tokens_per_s"]
METRICS: tuple[Metric, ...] = ("latency_ms", "server_ms", "ttft_ms", "tokens_per_s")
_NAMES: dict[Metric, str] = {
    "latency_ms": "latency",
    "server_ms": "server time",
    "ttft_ms": "time to first token",
    "tokens_per_s": "tokens a second",
}
_UNITS: dict[Metric, str] = {"tokens_per_s": "tok/s"}

Finding = Literal["different", "not_shown", "not_comparable"]
# What every output says about a finding; a difference has its direction besides.
WORDS: dict[Finding, str] = {"different": "different", "not_shown": "not shown", "not_comparable": "not comparable"}


@dataclass(frozen=True)
class Band:
    """How much the baseline varies: the ratio A2 / A1, and its 95 % interval made symmetric about 1.

    `percent` is (high - 1) x 100.
    """

    ratio: float
    low: float
    high: float
    percent: float


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline in one metric, as `summary.json` has it.

    Attributes:
        unit: of the medians: `ms` or `tok/s`.
        candidate, baseline, a1, a2: medians; the baseline is A1 and A2 together. None: not measured.
        ratio: candidate / baseline, with its 95 % interval from `low` to `high`; None with too few values. Where scenes
            are compared in pairs, the median of their ratios, which need not be the ratio of the medians.
        n_candidate, n_baseline: values.
        noisy: the band exceeds `NOISY_PERCENT`; None without a band.
        text: all of it in a line.
        failed_candidate, failed_baseline: requests without a good reply, which no median has; those that we ended
            ourselves are not counted.
    """

    metric: Metric
    unit: str
    candidate: float
    baseline: float
    a1: float | None
    a2: float | None
    ratio: float | None
    low: float | None
    high: float | None
    n_candidate: int
    n_baseline: int
    band: Band | None
    noisy: bool | None
    finding: Finding
    why: str
    text: str
    failed_candidate: int = 0
    failed_baseline: int = 0

    @property
    def left_out(self) -> str:
        """The failed requests, whose time no median has: `4 failed requests of the candidate`; empty without any."""
        sides = {"candidate": self.failed_candidate, "baseline": self.failed_baseline}
        return " and ".join(f"{counted(n, 'failed request')} of the {side}" for side, n in sides.items() if n)


def comparisons(
    samples: Callable[[str], Sequence[Sample]], work: Workload, differs: str | None = None
) -> list[Comparison]:
    """The part `comparisons` of a trial's summary.

    Args:
        samples: gives those of a segment.
        work: the workload that decides.
        differs: how their requests differ, if they do; then no difference is reported.
    """
    return compare(samples(work.candidate), samples(work.a1), samples(work.a2), differs)


def compare(
    candidate: Sequence[Sample], a1: Sequence[Sample], a2: Sequence[Sample], differs: str | None = None
) -> list[Comparison]:
    """One for each metric that both sides have.

    Only valid samples count. `different` means that the ratio's interval excludes 1 and lies entirely outside the
    band. Without A2 there is no band, and no difference is reported.
    """
    found, failed = [], [_failed(candidate), _failed([*a1, *a2])]
    for metric in METRICS:
        sides = [_by_scene(side, metric) for side in (candidate, a1, a2)]
        if sides[0] and (sides[1] or sides[2]):
            one = _compared(metric, *sides, differs=differs)
            one = replace(one, failed_candidate=failed[0], failed_baseline=failed[1])
            found.append(replace(one, text=_text(one)))
    return found


def _failed(samples: Sequence[Sample]) -> int:
    return sum(not sample.ok and sample.error_class != "cut_off" for sample in samples)


def values(samples: Sequence[Sample], metric: Metric) -> list[float]:
    """Values of `metric` of the valid `samples`, in the metric's unit."""
    found = (getattr(sample, metric) for sample in samples if sample.ok)
    return [float(value) for value in found if value is not None]


_Scenes: TypeAlias = Mapping[str | None, Sequence[float]]


def _by_scene(samples: Sequence[Sample], metric: Metric) -> _Scenes:
    """The values by scene; those of a segment without scenes are together."""
    found: dict[str | None, list[float]] = {}
    for sample in samples:
        for value in values([sample], metric):
            found.setdefault(sample.scene, []).append(value)
    return found


def _ratio(top: _Scenes, bottom: _Scenes, *, paired: bool) -> stats.Ratio | None:
    if not paired:
        return stats.median_ratio(_all(top), _all(bottom))
    both = [scene for scene in top if scene in bottom]
    return stats.paired_ratio([top[scene] for scene in both], [bottom[scene] for scene in both])


def _all(scenes: _Scenes) -> list[float]:
    return [value for those in scenes.values() for value in those]


def _compared(metric: Metric, of_b: _Scenes, of_a1: _Scenes, of_a2: _Scenes, *, differs: str | None) -> Comparison:
    # Fewer scenes are too few to resample.
    paired = len(of_b) >= stats.RATIO_MIN_N
    of_a = {scene: [*of_a1.get(scene, ()), *of_a2.get(scene, ())] for scene in {**of_a1, **of_a2}}
    ratio = _ratio(of_b, of_a, paired=paired)
    same = _ratio(of_a2, of_a1, paired=paired) if ratio is not None else None
    candidate, a1, a2 = _all(of_b), _all(of_a1), _all(of_a2)
    pooled = [*a1, *a2]
    edge = max(stats.band_edge(same), _NARROWEST) if same is not None else None
    counts = [len(of_b), len(of_a1), len(of_a2)] if paired else [len(candidate), len(a1), len(a2)]
    finding, why = _finding(ratio, edge, differs, *counts)
    return Comparison(
        metric=metric,
        unit=_UNITS.get(metric, "ms"),
        candidate=stats.rounded(statistics.median(candidate), 3),
        baseline=stats.rounded(statistics.median(pooled), 3),
        a1=stats.rounded(statistics.median(a1), 3) if a1 else None,
        a2=stats.rounded(statistics.median(a2), 3) if a2 else None,
        ratio=stats.rounded(ratio.ratio, 4) if ratio else None,
        low=stats.rounded(ratio.low, 4) if ratio else None,
        high=stats.rounded(ratio.high, 4) if ratio else None,
        n_candidate=len(candidate),
        n_baseline=len(pooled),
        band=None
        if same is None or edge is None
        else Band(round(same.ratio, 4), round(1 / edge, 4), round(edge, 4), round((edge - 1) * 100, 2)),
        noisy=None if edge is None else (edge - 1) * 100 > NOISY_PERCENT,
        finding=finding,
        why=why,
        text="",
    )


def _finding(
    ratio: stats.Ratio | None, edge: float | None, differs: str | None, n: int, n_a1: int, n_a2: int
) -> tuple[Finding, str]:
    if differs is not None:
        return "not_comparable", differs
    if ratio is None:
        found = f"{counted(n, 'value')} against {n_a1 + n_a2}"
        return "not_comparable", f"{found}: at least {stats.RATIO_MIN_N} above 0 are needed on each side"
    if edge is None:
        missing = "A2" if n_a2 < stats.RATIO_MIN_N else "A1"
        count = n_a2 if missing == "A2" else n_a1
        found = f"has {counted(count, 'value')}, {stats.RATIO_MIN_N} are needed" if count else "was not measured"
        return "not_comparable", f"{missing} {found}: the baseline's own variation is unknown"
    if stats.leaves_band(ratio, edge):
        return "different", "the interval excludes 1 and lies entirely outside the A1-A2 band"
    if ratio.excludes_one:
        return "not_shown", "the interval excludes 1, but reaches into the A1-A2 band"
    return "not_shown", "the interval includes 1"


# Metrics for which more is better.
_RATES: tuple[Metric, ...] = ("tokens_per_s",)
# From this factor on a difference is a factor, not a percentage.
_FACTOR = 10.0


def direction(found: Comparison) -> str:
    """A difference in words: `22 % slower`, `18 % faster`, `300 times as slow`; empty where none was shown."""
    if found.finding != "different" or not found.ratio:
        return ""
    word = "faster" if (found.ratio > 1) == (found.metric in _RATES) else "slower"
    if 1 / _FACTOR < found.ratio < _FACTOR:
        return f"{abs(found.ratio - 1) * 100:.0f} % {word}"
    return f"{max(found.ratio, 1 / found.ratio):.0f} times as {word.removesuffix('er')}"


def finding_text(found: Comparison) -> str:
    """The finding in the words of every output: `22 % slower`, `not shown`, `not comparable`."""
    return direction(found) or WORDS[found.finding]


def finding_noisy(found: Comparison) -> str:
    """The finding, marked where the baseline varies too much: `not shown, NOISY`."""
    return finding_text(found) + (", NOISY" if found.noisy else "")


def finding_told(found: Comparison) -> str:
    """The finding with what it leaves out: a model that fails its slow requests is fast in the others."""
    return finding_noisy(found) + (f", leaving out {found.left_out}" if found.left_out else "")


def _text(found: Comparison) -> str:
    """One line, such as `latency: 1.83 x [1.79, 1.86] the baseline's (13.8 against 7.5 ms): 83 % slower (...)`."""
    name = _NAMES[found.metric]
    medians = f"{number(found.candidate)} against {number(found.baseline)} {found.unit}"
    if found.ratio is None:
        return f"{name}: {medians}: not comparable: {found.why}"
    times, _, interval = ratio_text(found.ratio, found.low, found.high).partition(" ")
    ratio = f"{name}: {times} x {interval} the baseline's ({medians})"
    if found.band is None or found.finding == "not_comparable":
        return f"{ratio}: not comparable: {found.why}"
    band = f"A1-A2 band {found.band.percent:.1f} %"
    if found.noisy:
        band += f", NOISY: beyond {NOISY_PERCENT:g} %"
    left_out = f"; leaves out {found.left_out}" if found.left_out else ""
    return f"{ratio}: {finding_text(found)} ({band}{left_out})"
