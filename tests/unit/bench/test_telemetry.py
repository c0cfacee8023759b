"""The series of card and host, joined to samples: by time, with gaps, nulls and reboots, and never with a guess."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_lines import made
from trialbench import schemas
from trialbench.measure.sample import Sample
from trialbench.measure.summary import plain
from trialbench.report.journal import Event
from trialbench.report.plan import read_plan
from trialbench.report.run import Reading, Run, make_segment, read_reading
from trialbench.report.telemetry import (
    SLOWING,
    Energy,
    Joined,
    Range,
    Rows,
    SegmentTelemetry,
    held_back,
    joined,
    series,
    telemetry,
)

OWN = {"pid": 7, "mib": 4900, "command": "/usr/bin/llama-server --port 11435"}
VOICE = {"pid": 8, "mib": 4300, "command": "python3 server.py"}
PLAN = {
    "run": "run-1",
    "baseline": {"label": "live", "tenant": "llamacpp"},
    "tenants": [{"name": "llamacpp", "vram_process": "llama-server"}, {"name": "voice", "vram_process": "server.py"}],
}


def reading(t_s: float, **changes: Any) -> dict[str, Any]:
    """A tick: 100 W, and a counter that agrees with it."""
    line: dict[str, Any] = {
        "t_s": round(t_s, 4),
        "used_mib": 9600,
        "total_mib": 16303,
        "processes": [OWN, VOICE],
        "phase": "measure",
        "load1": 0.5,
        "cpu_percent": 20.0,
        "sm_mhz": 2400,
        "mem_mhz": 13801,
        "power_w": 100.0,
        "temp_c": 50,
        "util_percent": 80,
        "mem_util_percent": 40,
        "throttle": [],
        "energy_j": round(100.0 * t_s, 3),
        **changes,
    }
    assert schemas.validate(line, "vram") == []
    return line


def ticks(start_s: float, end_s: float, **changes: Any) -> list[dict[str, Any]]:
    """Ten readings a second, both ends included."""
    return [reading(start_s + at / 10, **changes) for at in range(round((end_s - start_s) * 10) + 1)]


def sample(seq: int, start_s: float, latency_ms: float | None = 400.0) -> Sample:
    failed = {} if latency_ms is not None else {"ok": False, "error_class": "timeout"}
    return made(seq, start_s, latency_ms, **failed)


def built(vram: Iterable[dict[str, Any]], samples: dict[str, list[Sample]], **more: Any) -> Run:
    """A run of these lines and samples by segment."""
    readings = [read_reading(line) for line in vram]
    segments = {name: make_segment(name, lines) for name, lines in samples.items()}
    return Run(Path(), **{"plan": read_plan(PLAN), "readings": readings, "segments": segments, **more})


@pytest.fixture
def folder() -> Callable[..., Run]:
    """A run with one segment of four replies of 0.4 s from second 101 on, readings from 100 to 104."""

    def make(
        vram: Iterable[dict[str, Any]] | None = None,
        samples: list[Sample] | None = None,
        name: str = "nav-baseline-a1",
        **more: Any,
    ) -> Run:
        if samples is None:
            samples = [sample(at + 1, 101.0 + 0.5 * at) for at in range(4)]
        return built(ticks(100.0, 104.0) if vram is None else vram, {name: samples}, **more)

    return make


Make = Callable[..., Run]


def rows(found: Run) -> Rows:
    (only,) = joined(found).values()
    return only


def segment(found: Run) -> SegmentTelemetry:
    (only,) = telemetry(found).segments.values()
    return only


def energy(found: Run) -> Energy:
    told = segment(found).energy_per_reply_j
    assert told is not None
    return told


# The plain case


def test_a_sample_gets_what_was_read_while_it_ran(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    for line in lines:
        if 101.5 <= line["t_s"] <= 101.9:
            line.update(power_w=200.0, sm_mhz=2600, temp_c=60 + round((line["t_s"] - 101.5) * 10), load1=2.5)
    found = rows(folder(lines))
    assert found[1] == Joined([], energy_j=40.0, power_w=100.0, sm_mhz=2400.0, temp_c=50.0, load1=0.5)
    assert (found[2].power_w, found[2].sm_mhz, found[2].temp_c, found[2].load1) == (200, 2600, 64, 2.5)
    assert found[3].power_w == 100


def test_a_segment_has_least_median_and_most(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    for at, line in enumerate(lines):
        # Outside of the segment, which lasts from 101.0 to 102.9, it must not count.
        line.update(temp_c=40 + at, load1=0.5 + at / 100)
    found = segment(folder(lines))
    assert found.readings == 20
    assert found.temp_c == Range(50, 59.5, 69)
    assert found.power_w == Range(100, 100, 100)
    assert found.load1_max == 0.79
    assert found.energy_per_reply_j == Energy(40.0, 40.0, 4, "counter")
    assert (found.throttle, found.throttled, found.disturbed) == ([], 0, 0)
    assert telemetry(folder(lines)).why == {}


def test_the_summary_has_room_for_it(folder: Make) -> None:
    schema = json.loads((Path(schemas.__file__).parent / "summary.schema.json").read_text(encoding="utf-8"))
    told = plain(telemetry(folder()))
    assert set(told) == set(schema["properties"]["telemetry"]["required"])
    assert set(schema["$defs"]["telemetry"]["properties"]) <= set(plain(segment(folder())))


def test_a_sample_shorter_than_a_tick_gets_the_nearest_reading(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    lines[10]["power_w"] = 300.0
    found = rows(folder(lines, [sample(1, 101.01, 12.0), sample(2, 101.07, 12.0)]))
    assert (found[1].power_w, found[2].power_w) == (300, 100)
    assert found[1].energy_j == pytest.approx(1.2)


def test_a_value_that_is_missing_in_one_reading_comes_from_the_next(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    lines[10].update(power_w=None, energy_j=None)
    found = folder(lines, [sample(1, 101.01, 12.0)])
    assert rows(found)[1].power_w == 100
    assert rows(found)[1].energy_j == pytest.approx(1.2)
    assert segment(found).power_w == Range(100, 100, 100)
    assert energy(found).source == "counter"


def test_a_failed_sample_has_no_energy_and_still_its_surroundings(folder: Make) -> None:
    found = rows(folder(samples=[sample(1, 101.0, None), sample(2, 102.0)]))
    assert (found[1].energy_j, found[1].power_w) == (None, 100)
    assert energy(folder(samples=[sample(1, 101.0, None), sample(2, 102.0)])).n == 1


# Energy


def test_energy_is_the_counters_difference_between_end_and_start(folder: Make) -> None:
    # The counter says something else than power, and the counter counts.
    lines = [reading(line["t_s"], energy_j=1000 + 50 * line["t_s"]) for line in ticks(100.0, 104.0)]
    found = rows(folder(lines, [sample(1, 101.05, 400.0)]))
    assert found[1].energy_j == pytest.approx(20.0)


def test_without_a_counter_power_is_integrated(folder: Make) -> None:
    lines = [
        reading(line["t_s"], energy_j=None, power_w=100.0 + 100.0 * (line["t_s"] - 101)) for line in ticks(100, 104)
    ]
    found = folder(lines, [sample(1, 101.05, 900.0)])
    # The mean power between 101.05 and 101.95 is 150 W.
    assert rows(found)[1].energy_j == pytest.approx(135.0)
    assert energy(found).source == "power"
    assert "integrated" in telemetry(found).why["energy_j"]


def test_a_counter_that_fell_is_no_energy(folder: Make) -> None:
    lines = [
        reading(line["t_s"], energy_j=line["t_s"] * 100 - (10_000 if line["t_s"] > 101.2 else 0))
        for line in ticks(100.0, 104.0)
    ]
    found = rows(folder(lines))
    assert found[1].energy_j is None
    assert found[2].energy_j == pytest.approx(40.0)


def test_a_counter_that_fell_and_rose_beyond_is_no_energy_either(folder: Make) -> None:
    values = {101.1: 20_000.0, 101.2: 5.0}
    lines = [reading(line["t_s"], energy_j=values.get(line["t_s"], line["energy_j"])) for line in ticks(100, 104)]
    assert rows(folder(lines))[1].energy_j is None


@pytest.mark.parametrize("key", ["energy_j", "power_w"])
def test_energy_is_not_guessed_across_a_gap(folder: Make, key: str) -> None:
    lines = ticks(100.0, 104.0, **({"energy_j": None} if key == "power_w" else {}))
    for line in lines:
        if 100.8 < line["t_s"] < 101.45:
            line[key] = None
    found = rows(folder(lines))
    assert found[1].energy_j is None
    assert found[2].energy_j == pytest.approx(40.0)


def test_a_hole_within_a_reply_matters_to_power_and_not_to_the_counter(folder: Make) -> None:
    long = [sample(1, 101.0, 1500.0)]
    lines = [line for line in ticks(100.0, 104.0) if not 101.3 < line["t_s"] < 102.1]
    assert rows(folder(lines, long))[1].energy_j == pytest.approx(150.0)
    for line in lines:
        line["energy_j"] = None
    assert rows(folder(lines, long))[1].energy_j is None


def test_a_long_reply_may_have_sparse_readings(folder: Make) -> None:
    """nvidia-smi is asked once a second: enough for a reply of five."""
    lines = [reading(100.0 + at, energy_j=None) for at in range(12)]
    assert rows(folder(lines, [sample(1, 102.5, 5000.0)]))[1].energy_j == pytest.approx(500.0)
    assert rows(folder(lines, [sample(1, 102.5, 400.0)]))[1].energy_j is None


@given(
    watts=st.lists(st.floats(20, 400), min_size=41, max_size=41),
    start_s=st.floats(100.0, 102.0),
    latency_ms=st.floats(1, 1900),
)
def test_power_and_counter_agree(watts: list[float], start_s: float, latency_ms: float) -> None:
    """A counter that is the integral of the power gives nearly what integrating gives, whatever the reply's place."""
    lines, energy = [], 5000.0
    for at, watt in enumerate(watts):
        if at:
            energy += (watts[at - 1] + watt) / 2 * 0.1
        lines.append({"t_s": 100 + at / 10, "used_mib": 9600, "power_w": watt, "energy_j": energy})
    samples = {"nav-candidate": [sample(1, start_s, latency_ms)]}
    counted = joined(built(lines, samples))["nav-candidate"][1].energy_j
    bare = [{**line, "energy_j": None} for line in lines]
    integrated = joined(built(bare, samples))["nav-candidate"][1].energy_j
    # Within a tick the counter is taken for straight: at each end that is wrong by at most this.
    assert counted is not None
    assert integrated is not None
    assert abs(counted - integrated) <= 2 * 0.1 * 380 / 8 + 0.01


# Throttling


@pytest.mark.parametrize("name", sorted(SLOWING))
def test_a_sample_of_a_slowed_card_is_throttled(folder: Make, name: str) -> None:
    lines = ticks(100.0, 104.0)
    lines[17]["throttle"] = ["sw_power_cap", name]
    found = folder(lines)
    assert {seq: row.flags for seq, row in rows(found).items()} == {1: [], 2: ["throttled"], 3: [], 4: []}
    assert (segment(found).throttled, segment(found).throttle) == (1, sorted(["sw_power_cap", name]))


@pytest.mark.parametrize("name", ["gpu_idle", "applications_clocks_setting", "sw_power_cap", "sync_boost", "0x800"])
def test_other_reasons_slow_nobody(folder: Make, name: str) -> None:
    found = folder(ticks(100.0, 104.0, throttle=[name]))
    assert all(row.flags == [] for row in rows(found).values())
    assert segment(found).throttle == ([] if name == "gpu_idle" else [name])
    assert segment(found).throttled == 0


def test_what_happened_right_before_or_after_a_short_sample_counts(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    lines[10]["throttle"] = lines[30]["throttle"] = ["hw_slowdown"]
    found = rows(folder(lines, [sample(1, 101.02, 30.0), sample(2, 102.95, 30.0), sample(3, 102.0, 30.0)]))
    assert [found[seq].flags for seq in (1, 2, 3)] == [["throttled"], ["throttled"], []]


def test_who_does_not_look_sees_no_throttling_and_says_so(folder: Make) -> None:
    found = folder(ticks(100.0, 104.0, throttle=None))
    assert segment(found).throttled is None
    assert telemetry(found).why == {"throttle": "the driver does not tell"}
    assert held_back(Reading(1.0)) == []


# Disturbance


def test_a_host_that_is_suddenly_busy_disturbs(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    for line in lines:
        if 101.5 <= line["t_s"] <= 101.9:
            line["cpu_percent"] = 90.0
    found = folder(lines)
    assert {seq: row.flags for seq, row in rows(found).items()} == {1: [], 2: ["disturbed"], 3: [], 4: []}
    assert segment(found).disturbed == 1
    assert segment(found).cpu_percent == Range(20, 20, 90)


def test_a_host_that_is_always_busy_or_uneven_is_no_disturbance(folder: Make) -> None:
    assert segment(folder(ticks(100.0, 104.0, cpu_percent=95.0))).disturbed == 0
    uneven = [reading(line["t_s"], cpu_percent=(10.0, 60.0)[at % 2]) for at, line in enumerate(ticks(100, 104))]
    assert segment(folder(uneven)).disturbed == 0


def test_a_few_readings_have_no_usual(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    lines[12]["cpu_percent"] = 99.0
    assert segment(folder(lines, [sample(1, 101.0, 300.0)])).disturbed == 0


GUEST = {"pid": 99, "mib": 900, "command": "python3 train.py"}


def processes(lines: list[dict[str, Any]], start_s: float, *holders: dict[str, Any], end_s: float = 1e9) -> None:
    for line in lines:
        if start_s <= line["t_s"] <= end_s:
            line["processes"] = list(holders)


def flagged(found: Run) -> list[int]:
    return [seq for seq, row in rows(found).items() if row.flags == ["disturbed"]]


def test_a_guest_on_the_card_disturbs_as_long_as_he_is_there(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    processes(lines, 101.65, OWN, VOICE, GUEST, end_s=102.25)
    assert flagged(folder(lines)) == [2, 3]
    processes(lines, 102.25, OWN, VOICE, GUEST)
    assert flagged(folder(lines)) == [2, 3, 4]


def test_who_was_there_from_the_start_disturbs_when_he_leaves(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    processes(lines, 102.15, OWN)
    assert flagged(folder(lines)) == [3]


@pytest.mark.parametrize(("mib", "seen"), [(4350, []), (5000, [2]), (None, [])])
def test_who_takes_more_disturbs(folder: Make, mib: int | None, seen: list[int]) -> None:
    lines = ticks(100.0, 104.0)
    processes(lines, 101.65, OWN, {**VOICE, "mib": mib})
    assert flagged(folder(lines)) == seen


def test_the_server_under_test_may_grow_and_even_start_anew(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    processes(lines, 101.65, {**OWN, "mib": 6000}, VOICE)
    assert flagged(folder(lines)) == []
    processes(lines, 102.15, {**OWN, "pid": 70}, VOICE)
    assert flagged(folder(lines)) == [], "a restarted server is a taint of its own, and no disturbance"


def test_the_candidate_is_known_by_its_process(folder: Make) -> None:
    lines = ticks(100.0, 104.0)
    processes(lines, 101.65, {**OWN, "mib": 6000}, VOICE)
    started = [Event("candidate_started", 100.0, "b", pid=8)]
    assert flagged(folder(lines, name="nav-candidate", journal=started)) == [2], "the live model grew beside it"
    started = [Event("candidate_started", 100.0, "b", pid=7)]
    assert flagged(folder(lines, name="nav-candidate", journal=started)) == []
    assert flagged(folder(lines, name="nav-candidate")) == [], "who can't be told from the candidate is not accused"


@pytest.mark.parametrize("plan", [{}, {"baseline": {"tenant": "other"}, "tenants": [{"name": "llamacpp"}]}])
def test_without_a_plan_growth_accuses_nobody_and_a_guest_is_still_one(folder: Make, plan: dict[str, Any]) -> None:
    lines = ticks(100.0, 104.0)
    processes(lines, 101.65, {**OWN, "mib": 6000}, VOICE)
    processes(lines, 102.65, {**OWN, "mib": 6000}, VOICE, GUEST)
    assert flagged(folder(lines, plan=read_plan(plan))) == [4]


# Gaps, nulls, reboots


def test_a_gap_leaves_its_samples_without_values(folder: Make) -> None:
    lines = [line for line in ticks(100.0, 104.0) if not 101.05 < line["t_s"] < 102.45]
    found = rows(folder(lines))
    assert found[2] == Joined([])
    assert found[4].power_w == 100


def test_a_segment_nobody_watched_says_so(folder: Make) -> None:
    found = folder(ticks(200.0, 201.0))
    one = segment(found)
    assert plain(one) == {**dict.fromkeys(plain(one)), "readings": 0, "throttle": []}
    assert telemetry(found).why == {"readings": "none while these segments were measured: nav-baseline-a1"}


def test_no_series_at_all(folder: Make) -> None:
    found = folder([])
    assert telemetry(found).why == {"readings": "vram.jsonl is missing or holds no reading"}
    assert rows(found)[1].flags == []


def test_a_segment_without_samples(folder: Make) -> None:
    found = folder(samples=[])
    assert rows(found) == {}
    assert segment(found).readings == 0
    assert telemetry(found).why == {}


def test_what_an_older_host_program_did_not_record_is_named(folder: Make) -> None:
    old = [{"t_s": line["t_s"], "used_mib": 9600, "processes": [OWN]} for line in ticks(100.0, 104.0)]
    found = folder(old)
    why = telemetry(found).why
    assert why["power_w"] == "not recorded by the host program of this run"
    assert set(why) == {
        *("sm_mhz", "mem_mhz", "power_w", "temp_c", "util_percent", "mem_util_percent"),
        *("throttle", "energy_j", "load1", "cpu_percent"),
    }
    assert segment(found).readings == 20


def test_the_drivers_own_words_say_why(folder: Make) -> None:
    lines = ticks(100.0, 104.0, energy_j=None, temp_c=None)
    lines[0]["missing"] = {"energy_j": "nvmlDeviceGetTotalEnergyConsumption: Not Supported", "power_w": "late"}
    lines[5]["missing"] = {"energy_j": "nvmlDeviceGetTotalEnergyConsumption: Unknown Error"}
    why = telemetry(folder(lines)).why
    assert set(why) == {"energy_j", "temp_c"}, "what came later is not missing"
    assert why["energy_j"].startswith("nvmlDeviceGetTotalEnergyConsumption: Unknown Error; energy per reply is")
    assert why["temp_c"] == "the driver does not tell"


def test_a_clock_that_starts_anew_ends_what_can_be_joined(folder: Make) -> None:
    """After a boot the same numbers mean other moments: the restore's readings must not meet the samples."""
    after = ticks(5.0, 140.0, power_w=999.0, energy_j=1.0, throttle=["hw_slowdown"])
    found = folder([*ticks(100.0, 102.0), *after])
    one = segment(found)
    assert rows(found)[1].power_w == 100
    assert rows(found)[4].power_w is None
    assert one.readings == 11
    assert one.throttled == 0
    assert telemetry(found).why == {
        "clock": f"the host was restarted; {len(after)} later readings are not joined to samples"
    }


def test_two_samplers_may_overlap_for_a_moment() -> None:
    found = series([Reading(10.0), Reading(10.2), Reading(10.15), Reading(10.3)])
    assert found.times == [10.0, 10.15, 10.2, 10.3]
    assert found.dropped == 0


def test_warm_ups_and_other_segments_are_kept_apart() -> None:
    lines = [*ticks(100.0, 102.0, power_w=50.0), *ticks(103.0, 105.0, power_w=200.0)]
    samples = {"nav-baseline-a1": [sample(1, 101.0)], "nav-candidate": [sample(1, 104.0)]}
    segments = telemetry(built(lines, samples)).segments
    assert segments["nav-baseline-a1"].power_w == Range(50, 50, 50)
    assert segments["nav-candidate"].power_w == Range(200, 200, 200)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"t_s": st.floats(0, 1e6), "used_mib": st.just(1)},
            optional={
                "power_w": st.none() | st.floats(0, 1000),
                "energy_j": st.none() | st.floats(0, 1e9),
                "cpu_percent": st.none() | st.floats(0, 100),
                "throttle": st.none() | st.lists(st.sampled_from(["gpu_idle", "hw_slowdown"])),
                "processes": st.lists(st.fixed_dictionaries({}, optional={"pid": st.integers(0, 9)})),
            },
        ),
        max_size=30,
    ),
    st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6)), max_size=5),
)
def test_whatever_was_recorded_can_be_joined(lines: list[dict[str, Any]], wanted: list[tuple[float, Any]]) -> None:
    samples = [sample(at, start_s, latency_ms) for at, (start_s, latency_ms) in enumerate(wanted, 1)]
    found = built(lines, {"nav-candidate": samples})
    assert set(joined(found)["nav-candidate"]) == {one.seq for one in samples}
    for row in joined(found)["nav-candidate"].values():
        assert set(row.flags) <= {"throttled", "disturbed"}
        assert row.energy_j is None or row.energy_j >= 0
    assert set(telemetry(found).segments) == {"nav-candidate"}
