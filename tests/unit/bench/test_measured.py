"""The numbers on a terminal: sparklines, tables, and what stands beside them."""

from __future__ import annotations

import io
import random
from dataclasses import fields, replace
from typing import Any

import pytest
from sample_lines import made
from trialbench.measure.sample import Sample
from trialbench.measure.summary import SegmentFacts, SegmentSummary, Watched, slowed, summarize
from trialbench.report.comparison import Band, Comparison
from trialbench.report.measured import calibration_text, comparison_table, segments_table, telemetry_table
from trialbench.report.telemetry import Energy, Range, SegmentTelemetry, Telemetry
from trialbench.show.terminal import say
from trialbench.show.text import columns, section, sparkline


def lines(latencies: list[float | None], **changes: Any) -> list[Sample]:
    """Samples in their order; None is one that failed."""
    found = []
    for at, latency in enumerate(latencies, 1):
        line = {"server_ms": latency and latency - 1}
        line |= {} if latency is not None else {"ok": False, "error_class": "http_500", "strategy": None}
        found.append(made(at, float(at), latency, **(line | changes)))
    return found


def numbers(samples: list[Sample], requested: int, *, contract: bool = True, **facts: Any) -> SegmentSummary:
    return summarize(samples, [], SegmentFacts("nav", requested, contract, False, **facts))


def summary(**segments: list[Sample]) -> dict[str, SegmentSummary]:
    return {
        key: summarize(samples, lines([50.0] * 3), SegmentFacts("nav", len(samples), True, False))
        for key, samples in segments.items()
    }


def apart(samples: list[Sample]) -> list[Sample]:
    """Each to another question."""
    return [replace(sample, scene=f"s{at}") for at, sample in enumerate(samples)]


def test_sparkline_shows_the_largest_of_each_bar_and_every_failure() -> None:
    assert sparkline([1, 2, 4, 8], 4) == "▁▃▆█"
    # Two values a bar: the larger one. A spike is not lost in the crowd.
    assert sparkline([1, 1, 1, 8, 1, 1, 1, 1], 4) == "▁█▁▁"
    assert sparkline([1, None, 8, 8], 4) == "▁x██"
    assert sparkline([None, None], 4) == "xx"
    assert sparkline([], 4) == ""


def test_sparkline_makes_no_mountains_of_noise() -> None:
    assert set(sparkline([10.0, 10.1, 10.05, 10.1], 4)) == {"▁"}


def test_sparkline_is_as_wide_as_asked() -> None:
    rng = random.Random(1)
    assert len(sparkline([rng.uniform(1, 9) for _ in range(1000)], 56)) == 56


def test_the_set_to_print() -> None:
    rng = random.Random(2)
    samples = lines([rng.uniform(10, 12) for _ in range(98)] + [90.0])
    samples[50:50] = lines([None])
    shown = segments_table(summary(nav=apart(samples)), {"nav": samples})
    for words in (
        "99/100",  # ok of sent
        "3 ",  # warm-ups
        f"{samples[0].latency_ms:.1f}",  # first measured
        "~max 90.0",  # p99 is out of reach
        "1 http_500",
        "1 outlier (kept)",
        "99/100",  # adherence, and what it proves
        "95-100 %",
        "PASS",
        "latency, every sample in its order",
    ):
        assert words in shown
    spark = shown.splitlines()[-1]
    assert spark.count("x") == 1
    assert "█" in spark


def test_a_tail_that_can_be_bounded_is_printed_with_its_maximum() -> None:
    rng = random.Random(3)
    shown = segments_table(summary(nav=lines([rng.uniform(10, 12) for _ in range(400)] + [99.0])))
    assert ", max 99.0" in shown
    assert "~max" not in shown


def test_an_open_threshold_says_how_many_questions_it_takes() -> None:
    assert "? at 59" in segments_table(summary(nav=apart(lines([10.0] * 20))))
    # At 95 % exactly no number of questions would do.
    samples = apart([*lines([10.0] * 95), *lines([10.0] * 5, strategy=3)])
    assert "?\n" in segments_table(summary(nav=samples)) + "\n"


@pytest.mark.parametrize("strategy", [1, 3])
def test_one_question_shows_nothing_that_it_could_prove(strategy: int) -> None:
    shown = segments_table(summary(nav=lines([10.0] * 100, strategy=strategy)))
    for words in ("PASS", "FAIL", "?", "97-100", "0-3"):
        assert words not in shown
    row = next(line.split() for line in shown.splitlines() if line.startswith("nav") and "100 %" in line)
    assert row == ["nav", "1", "100", "1", "100", "%", "100/100" if strategy == 1 else "0/100", "-", "-"]


def test_what_the_replies_are_evidence_of() -> None:
    samples = [replace(one, scene=f"s{at % 2}", content=text) for at, (one, text) in enumerate(
        zip(lines([10.0] * 6), ["a", "b", "a", "b", "a", "c"], strict=True)
    )]  # fmt: skip
    # s0 is always a; of s1's three pairs of replies one is alike.
    found = summary(nav=samples)["nav"].questions
    assert (found.asked, found.repeats, found.distinct_replies, found.repeatability) == (
        2,
        3,
        3,
        pytest.approx(4 / 6, abs=1e-6),
    )
    assert summary(nav=apart(samples))["nav"].questions.repeatability is None


def test_replies_that_were_cut_are_counted_and_not_adherent() -> None:
    # Older clients gave them a strategy.
    found = numbers([*lines([10.0] * 3), *lines([10.0] * 2, finish_reason="length", flags=["length"])], 5)
    assert found.adherence is not None
    assert (found.adherence.k, found.adherence.strategies["cut"], found.ok) == (3, 2, 5)
    assert "2 cut by max_tokens, not adherent" in segments_table({"nav": found})


def test_few_samples_have_no_line() -> None:
    samples = lines([10.0] * 7)
    assert "latency, every" not in segments_table(summary(nav=samples), {"nav": samples})


def test_free_text_has_no_share() -> None:
    free = numbers(lines([10.0]), 1, contract=False)
    assert segments_table({"describe": free}).splitlines()[1].split()[-1] == "-"


def test_a_run_alone_names_its_taints_and_what_is_partial() -> None:
    samples = lines([10.0] * 10, cache_n=5)
    found = {"nav": numbers(samples, 20, stopped="server")}
    shown = segments_table(found)
    assert "TAINTED nav: cache: 10 replies came from the prompt cache" in shown
    assert "PARTIAL nav: cut short at 10 of 20 samples: the server died" in shown
    # A whole trial names them at its head.
    assert "TAINTED" not in segments_table(found, alone=False)


def test_overlapped_samples_are_told() -> None:
    found = numbers(lines([10.0]), 1, neighbors=Watched(watched=True, overlapped=4, why=None))
    assert "4 samples overlapped other clients' requests" in segments_table({"nav": found})


@pytest.mark.parametrize(
    ("latencies", "times"),
    [
        ([10.0] * 100, None),
        ([10.0] * 50 + [20.0] * 50, 2.0),
        # Near its end, where the median of the second half does not feel it.
        ([10.0] * 93 + [30.0] * 7, 3.0),
        ([10.0] * 94 + [14.9] * 6, None),
        # Spikes are no slowdown, and getting faster is none.
        ([10.0] * 94 + [90.0, 10.0, 90.0, 90.0, 90.0, 90.0], None),
        ([20.0] * 50 + [10.0] * 50, None),
        ([10.0] * 5 + [90.0] * 6, None),
    ],
)
def test_slowed(latencies: list[float], times: float | None) -> None:
    assert slowed(latencies) == times


def test_telemetry() -> None:
    nothing = dict.fromkeys([one.name for one in fields(SegmentTelemetry)]) | {"readings": 0, "throttle": []}
    known = {
        "readings": 30,
        "sm_mhz": Range(210.0, 2000.0, 2850.4),
        "power_w": Range(20.0, 90.0, 99.5),
        "energy_per_reply_j": Energy(1.25, 1.25, 90, "counter"),
        "load1_max": 1.5,
        "throttle": ["sw_thermal"],
        "throttled": 3,
        "disturbed": 0,
    }
    found = Telemetry(
        {
            "nav-candidate": SegmentTelemetry(**nothing | known),
            "nav-baseline-a1": SegmentTelemetry(**nothing),
        },
        {"temp_c": "the driver does not tell", "fan": "the driver does not tell"},
    )
    shown = telemetry_table(found)
    for words in (
        "210-2850",
        "20.0-99.5",
        "1.2",
        "3 throttled",
        "held back by sw_thermal",
        "temp_c, fan: the driver does not",
    ):
        assert words in shown
    assert "disturbed" not in shown
    assert "nav-baseline-a1" not in shown
    assert telemetry_table(Telemetry({}, {"all": "no series"})) == "all: no series"


def test_calibration_in_a_line() -> None:
    plain = {"ratio": 1.02, "ratio_low": 1.01, "ratio_high": 1.03, "n": 20}
    found = {"format": 1, "modes": {"plain": plain, "stream": {"ratio": 1.05, "n": 20}, "odd": {"ratio": None, "n": 0}}}
    assert calibration_text(found) == (
        "client against a raw socket: plain 1.02 x [1.01, 1.03] (n=20), stream 1.05 x (n=20)"
    )
    assert calibration_text(None) == calibration_text({"format": 1, "modes": {}}) == ""


def test_widest_numbers_fit() -> None:
    found = [
        Comparison(
            "latency_ms", "ms", 99999.0, 99999.0, 99999.0, None, 10.123, 10.1, 10.2, 100, 100,
            Band(2.2, 0.5, 2.234, 123.4), True, "not_shown", "", "",
        )
    ]  # fmt: skip
    samples = lines([99999.0] * 100)
    shown = segments_table(summary(**{"nav-candidate-cached": samples}), {"nav-candidate-cached": samples})
    assert max(map(len, [*shown.splitlines(), *comparison_table(found).splitlines()])) <= 98


def test_a_terminal_without_bars_gets_digits() -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("▁█ ü", plain)
    plain.flush()
    assert plain.buffer.getvalue() == b"18 \\xfc\n"  # type: ignore[attr-defined]


def test_text_helpers() -> None:
    assert section("Title", "") == ""
    assert section("Title", "a\nb") == "Title\n  a\n  b"
    assert columns([("a", "b"), ("ccc", "\x1b[2J")]).splitlines()[1] == "ccc  \\x1b[2J"
