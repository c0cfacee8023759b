"""Candidate against baseline: what is called different, what is not, and what can't be compared at all."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from sample_lines import made
from trialbench import schemas
from trialbench.measure.sample import Sample
from trialbench.measure.summary import plain
from trialbench.report.comparison import METRICS, Comparison, compare, comparisons, values
from trialbench.report.measured import comparison_table
from trialbench.report.plan import Workload

Samples = list[Sample]


pytestmark = pytest.mark.usefixtures("few_resamples")


def samples(center: float, n: int = 100, *, seed: int = 1, spread: float = 0.02, **changes: Any) -> Samples:
    """Latencies around `center` ms; the server takes 2 ms less, a reply has 4 tokens."""
    rng = random.Random(seed)
    found = []
    for at in range(1, n + 1):
        latency = center * rng.lognormvariate(0, spread)
        line = {"latency_ms": latency, "server_ms": latency - 2, "completion_tokens": 4} | changes
        found.append(made(at, float(at), **line))
    return found


def one(found: list[Comparison], metric: str = "latency_ms") -> Comparison:
    return next(entry for entry in found if entry.metric == metric)


def test_a_slower_candidate() -> None:
    found = compare(samples(12, seed=1), samples(10, seed=2), samples(10, seed=3))
    assert [entry.metric for entry in found] == ["latency_ms", "server_ms", "tokens_per_s"]
    for entry in found:
        problems = list(schemas._check(plain(entry), {"$ref": "#/$defs/comparison"}, schemas.load("summary"), ()))
        assert problems == []
    latency = one(found)
    assert latency.finding == "different"
    assert latency.low < latency.ratio < latency.high
    assert latency.ratio == pytest.approx(1.2, abs=0.01)
    assert (latency.n_candidate, latency.n_baseline, latency.noisy) == (100, 200, False)
    # The same model against itself, symmetric: 1/x to x.
    band = latency.band
    assert band is not None
    assert band.low == pytest.approx(1 / band.high, abs=1e-4)
    assert band.percent == pytest.approx((band.high - 1) * 100, abs=0.01)
    # Fewer milliseconds are more tokens a second.
    assert one(found, "tokens_per_s").ratio == pytest.approx(1 / 1.2, abs=0.01)
    assert one(found, "tokens_per_s").unit == "tok/s"
    assert latency.text.startswith("latency: 1.20 x [1.")
    assert "% slower (A1-A2 band " in latency.text


def of_scenes(factor: float, *, seed: int, scenes: int = 40, n: int = 100) -> Samples:
    """Scenes that differ by a factor of 16 from the easiest to the hardest, asked in turns."""
    found = samples(10 * factor, n, seed=seed)
    hard = [4 ** (at / scenes * 2 - 1) for at in range(scenes)]
    return [
        replace(one, scene=f"s{at % scenes}", latency_ms=(one.latency_ms or 0.0) * hard[at % scenes])
        for at, one in enumerate(found)
    ]


def test_scenes_are_compared_with_themselves() -> None:
    """What a scene costs is no noise: a tenth more is seen although scenes differ by far more."""
    sides = of_scenes(1.1, seed=1), of_scenes(1, seed=2), of_scenes(1, seed=3)
    found = one(compare(*sides))
    assert (found.finding, found.noisy) == ("different", False)
    assert found.ratio == pytest.approx(1.1, abs=0.01)
    together = one(compare(*([replace(sample, scene=None) for sample in side] for side in sides)))
    assert together.finding != "different" or together.noisy


def test_a_baseline_that_was_asked_fewer_scenes_is_compared_in_those() -> None:
    a2 = of_scenes(1, seed=3)[:30]
    found = one(compare(of_scenes(1.1, seed=1), of_scenes(1, seed=2), a2))
    assert found.finding == "different"
    none = one(compare(of_scenes(1.1, seed=1), of_scenes(1, seed=2), a2[:9]))
    assert (none.finding, none.why) == (
        "not_comparable",
        "A2 has 9 values, 10 are needed: the baseline's own variation is unknown",
    )


def test_few_scenes_are_compared_together() -> None:
    few = {"scenes": 4}
    found = one(compare(of_scenes(1.5, seed=1, **few), of_scenes(1, seed=2, **few), of_scenes(1, seed=3, **few)))
    assert found.n_candidate == 100
    assert found.band is not None


def test_the_same_numbers_give_the_same_interval() -> None:
    sides = samples(12, seed=1), samples(10, seed=2), samples(10, seed=3)
    assert compare(*sides) == compare(*sides)


def test_the_same_model_is_not_different() -> None:
    found = one(compare(samples(10, seed=1), samples(10, seed=2), samples(10, seed=3)))
    assert (found.finding, found.why) == ("not_shown", "the interval includes 1")
    assert ": not shown (A1-A2 band" in found.text


def test_an_interval_that_excludes_1_but_reaches_into_the_band_is_not_shown() -> None:
    # A1 and A2 are 4 % apart; the candidate is 3 % above both together.
    found = one(compare(samples(10.5, seed=1), samples(10, seed=2), samples(10.4, seed=3)))
    assert found.low > 1
    assert found.low < found.band.high
    assert (found.finding, found.why) == (
        "not_shown",
        "the interval excludes 1, but reaches into the A1-A2 band",
    )


def test_baselines_that_agree_by_luck_make_no_band_narrower_than_3_percent() -> None:
    same = samples(10, seed=2, spread=0.001)
    found = one(compare(samples(10.25, seed=1, spread=0.001), same, same))
    assert (found.low > 1, found.finding) == (True, "not_shown")
    assert (found.band.low, found.band.high, found.band.percent) == (0.9709, 1.03, 3.0)
    assert one(compare(samples(10.5, seed=1, spread=0.001), same, same)).finding == "different"


@pytest.mark.parametrize("candidate", [5.0, 20.0])
def test_faster_and_slower_leave_the_band_on_either_side(candidate: float) -> None:
    assert one(compare(samples(candidate), samples(10, seed=2), samples(10, seed=3))).finding == "different"


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        ([], ""),
        (["timeout", "http_503", "empty"], "; leaves out 3 failed requests of the candidate)"),
        # What we ended ourselves did not fail.
        (["cut_off"], ""),
    ],
)
def test_requests_that_failed_are_told_beside_the_medians(failed: list[str], words: str) -> None:
    lost = [replace(made(200 + at, 200.0 + at), ok=False, error_class=name) for at, name in enumerate(failed)]
    found = compare([*samples(5), *lost], samples(10, seed=2), samples(10, seed=3))
    assert all(entry.text.endswith(words or " %)") for entry in found)


@pytest.mark.parametrize("second", [9.0, 11.0])
def test_a_band_beyond_5_percent_is_noisy_whichever_run_was_slower(second: float) -> None:
    noisy = one(compare(samples(10, seed=1), samples(10, seed=2), samples(second, seed=3)))
    assert (noisy.noisy, noisy.finding) == (True, "not_shown")
    assert "NOISY: beyond 5 %" in noisy.text
    # What is far outside of even that band is still different, and says that it was noisy.
    far = one(compare(samples(30, seed=1), samples(10, seed=2), samples(second, seed=3)))
    assert (far.noisy, far.finding) == (True, "different")
    shown = comparison_table([far])
    assert "% slower, NOISY" in shown
    assert "measure again" in shown


@pytest.mark.parametrize(
    ("a1", "a2", "why"),
    [
        (100, 0, "A2 was not measured: the baseline's own variation is unknown"),
        (100, 9, "A2 has 9 values, 10 are needed: the baseline's own variation is unknown"),
        (0, 100, "A1 was not measured: the baseline's own variation is unknown"),
        (5, 100, "A1 has 5 values, 10 are needed: the baseline's own variation is unknown"),
    ],
)
def test_without_both_runs_of_the_baseline_nothing_is_different(a1: int, a2: int, why: str) -> None:
    found = one(compare(samples(30), samples(10, a1, seed=2), samples(10, a2, seed=3)))
    assert (found.finding, found.why, found.band, found.noisy) == ("not_comparable", why, None, None)
    # The ratio is reported anyway.
    assert found.ratio == pytest.approx(3, abs=0.1)
    assert found.text.endswith(f"not comparable: {why}")
    assert why in comparison_table([found]).replace("\n    ", " ")


def test_too_few_values_have_no_ratio() -> None:
    found = one(compare(samples(30, 9), samples(10, seed=2), samples(10, seed=3)))
    assert (found.ratio, found.low, found.finding) == (None, None, "not_comparable")
    assert "9 values against 200: at least 10" in found.text
    assert [entry.a2 for entry in compare(samples(30, 9), samples(10, 4), [])] == [None] * 3


def test_what_was_asked_differently_is_not_compared() -> None:
    found = one(compare(samples(30), samples(10, seed=2), samples(10, seed=3), "they were given different prompts"))
    assert (found.finding, found.why) == ("not_comparable", "they were given different prompts")


def test_only_valid_samples_count_and_only_what_both_have() -> None:
    failed = samples(1000, 50, ok=False, error_class="timeout")
    found = compare([*samples(10), *failed], samples(10, seed=2), samples(10, seed=3, server_ms=None))
    assert one(found).n_candidate == 100
    # A2 without the server's own time: that metric has no band, the others do.
    assert one(found, "server_ms").finding == "not_comparable"
    assert compare(failed, samples(10), samples(10)) == []
    assert compare(samples(10), [], []) == []
    streamed = compare(samples(10, ttft_ms=4.0), samples(10, ttft_ms=4.0), samples(10, ttft_ms=4.0))
    assert [entry.metric for entry in streamed] == list(METRICS)


def test_tokens_a_second_need_tokens_and_time() -> None:
    lines = [*samples(10, 1), *samples(10, 1, completion_tokens=0), *samples(10, 1, completion_tokens=None)]
    assert len(values(lines, "tokens_per_s")) == 1


def test_segments_are_found_by_name() -> None:
    sides = {"nav-candidate": samples(12), "nav-baseline-a1": samples(10, seed=2), "nav-baseline-a2": samples(10)}
    assert one(comparisons(sides.__getitem__, Workload("nav"))).finding == "different"
    assert comparisons(lambda name: [] if name == "nav-candidate" else sides[name], Workload("nav")) == []
    assert comparison_table([]) == ""
