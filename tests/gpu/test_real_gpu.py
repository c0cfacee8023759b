"""What only a real NVIDIA GPU can prove: our figures are the driver's, our process list is true, a reading is cheap.

Skipped as a whole where no driver answers. Takes a few GiB of the first card for some seconds, as far as they are free,
and ends no process but its own. What it measures stands in the output (`-s`) and, with ``--junitxml``, in its
properties. `tests/twin/test_gpu_suite.py` runs this suite on the twin's driver, so that it is known to work.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pynvml
import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import driver, gpu, telemetry
from trialbench import schemas

HOLDER = Path(__file__).resolve().parent / "holder.py"
HELD_MIB, LEAST_MIB = 3072, 256
# Between two readings another process may take or free a little.
NEAR_MIB = 16
# What a context takes besides the memory that was asked for.
CONTEXT_MIB = 1024
# At ten readings a second more than this would be felt on a small host.
READ_MS = 20.0
TELEMETRY_MS = 50.0
CPU_PERCENT = 10.0
DRAIN_S = 20.0
# The first PID namespace has a number of its own in every Linux kernel (PROC_PID_INIT_INO).
FIRST_PID_NAMESPACE = "pid:[4026531836]"
PLAUSIBLE = {
    "sm_mhz": (0, 5000),
    "mem_mhz": (0, 30_000),
    "power_w": (0, 2000),
    "temp_c": (0, 120),
    "util_percent": (0, 100),
    "mem_util_percent": (0, 100),
    "energy_j": (0, 1e12),
}

Say = Callable[[str, Any], None]


def why_not() -> str:
    """Why there is nothing to test here; empty when there is."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as err:
        return f"no NVIDIA driver answers here: {err}"
    try:
        return "" if pynvml.nvmlDeviceGetCount() else "the NVIDIA driver knows no card"
    except pynvml.NVMLError as err:
        return f"the NVIDIA driver cannot count its cards: {err}"
    finally:
        pynvml.nvmlShutdown()


REASON = why_not()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.fixture(scope="module")
def card() -> Iterator[gpu.Card]:
    opened = gpu.Card(0)
    yield opened
    opened.close()


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """Keep a figure: printed, and a property of the test."""

    def keep(name: str, value: Any) -> None:
        record_property(name, value)
        print(f"{name}: {value}")

    return keep


@pytest.fixture
def handle() -> Iterator[Any]:
    """The card as pynvml itself has it: what we compare with."""
    pynvml.nvmlInit()
    yield pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlShutdown()


def smi(fields: str) -> list[str]:
    """The first card in nvidia-smi's words."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [cell.strip() for cell in done.stdout.split(",")]


@contextlib.contextmanager
def holding(mib: int) -> Iterator[subprocess.Popen[str]]:
    """A process that holds so much; closing its standard input ends it, and so does leaving this."""
    words = [sys.executable, str(HOLDER), str(mib)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            if process.stdout.readline() != "holding\n":
                # A driver without its compute part, or a card that others fill: nothing to see, no fault of ours.
                pytest.skip(f"CUDA gives no memory here: {process.stderr.read().strip().splitlines()[-1:]}")
            yield process
        finally:
            process.kill()


@pytest.fixture
def free_mib(card: gpu.Card) -> int:
    """What may be taken: gigabytes where there are some, and never the last bit."""
    vram = settled(card)
    mib: int = min(HELD_MIB, (vram.total_mib - vram.used_mib) // 2 - CONTEXT_MIB)
    if mib < LEAST_MIB:
        pytest.skip(f"the card is full: {vram.used_mib} of {vram.total_mib} MiB, {gpu.describe(vram.holders)}")
    return mib


def settled(card: gpu.Card) -> gpu.Vram:
    """The card once its level stands still: what the test before has given back is gone then."""
    drained = gpu.drain(card, None, limit_s=DRAIN_S)
    assert drained.ok, gpu.undrained(drained, 0)
    return card.read()


def listed(vram: gpu.Vram, pid: int) -> gpu.Holder:
    """The process as the driver lists it; in a container it may list nobody, or other numbers."""
    mine = [holder for holder in vram.holders if holder.pid == pid]
    if not mine and os.readlink("/proc/self/ns/pid") != FIRST_PID_NAMESPACE:
        pytest.skip("in a container the driver's process list does not show our processes")
    assert len(mine) == 1, gpu.describe(vram.holders)
    return mine[0]


# Three ways to ask, one answer


def test_name_and_driver_are_those_of_nvidia_smi(card: gpu.Card) -> None:
    assert [card.name, card.driver] == smi("name,driver_version")


def test_memory_is_nvidia_smis(card: gpu.Card) -> None:
    before = [int(cell) for cell in smi("memory.used,memory.total")]
    vram = card.read()
    after = [int(cell) for cell in smi("memory.used,memory.total")]
    low, high = sorted((before[0], after[0]))
    assert low - NEAR_MIB <= vram.used_mib <= high + NEAR_MIB
    assert abs(vram.total_mib - before[1]) <= 1


def test_the_two_memory_structures_differ_by_the_drivers_reserve(card: gpu.Card, handle: Any, say: Say) -> None:
    one = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        two = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as err:
        pytest.skip(f"this driver has no second memory structure: {err}")
    mib = driver.BYTES_PER_MIB
    say("reserve_mib", two.reserved // mib)
    assert one.total == two.total
    assert abs(one.used - two.used - two.reserved) <= NEAR_MIB * mib
    assert abs(two.used + two.reserved + two.free - two.total) <= NEAR_MIB * mib
    assert abs(card.read().used_mib - two.used // mib) <= NEAR_MIB, "ours is the second one"


def test_the_fallback_on_nvidia_smi_agrees_with_nvml(card: gpu.Card) -> None:
    before, fallback, after = card.read(), driver._Smi(0).read(), card.read()
    low, high = sorted((before.used_mib, after.used_mib))
    assert low - NEAR_MIB <= fallback["used_mib"] <= high + NEAR_MIB
    assert abs(fallback["total_mib"] - before.total_mib) <= 1
    assert {pid for pid, _mib, _command in fallback["holders"]} <= {h.pid for h in (*before.holders, *after.holders)}


# Who holds it


def test_the_processes_memory_is_within_the_total(card: gpu.Card, free_mib: int, say: Say) -> None:
    empty = settled(card)
    with holding(free_mib) as process:
        vram = card.read()
        mine = listed(vram, process.pid)
        known = sum(holder.mib for holder in vram.holders if holder.mib is not None)
        say("listed_mib", known)
        say("used_mib", vram.used_mib)
        assert known <= vram.used_mib + NEAR_MIB, "the parts are no more than the whole"
        assert mine.command.startswith(sys.executable)
        if mine.mib is not None:
            assert mine.mib >= free_mib
            # What the total rose by is what the driver books to the process.
            assert abs(vram.used_mib - empty.used_mib - mine.mib) <= 4 * NEAR_MIB


def test_what_a_process_takes_is_seen_in_the_total(card: gpu.Card, free_mib: int) -> None:
    empty = settled(card)
    with holding(free_mib):
        taken_mib = card.read().used_mib - empty.used_mib
    assert free_mib - NEAR_MIB <= taken_mib <= free_mib + CONTEXT_MIB


def test_a_held_card_does_not_drain_and_says_who_holds_it(card: gpu.Card, free_mib: int) -> None:
    with holding(free_mib) as process:
        before = card.read()
        drained = gpu.drain(card, before.used_mib - free_mib, tolerance_mib=64, limit_s=1.0)
        assert drained.ok is False
        assert drained.duration_s >= 1.0
        assert process.poll() is None
        assert str(listed(before, process.pid).pid) in gpu.undrained(drained, 64)


# How it comes back


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_memory_comes_back_after_the_end_of_its_process(
    card: gpu.Card, free_mib: int, say: Say, end: signal.Signals
) -> None:
    empty = settled(card)
    curve: list[tuple[float, int]] = []
    with holding(free_mib) as process:
        full = card.read()
        struck_s = time.monotonic()
        process.send_signal(end)
        drained = gpu.drain(
            card,
            empty.used_mib,
            tolerance_mib=2 * NEAR_MIB,
            limit_s=DRAIN_S,
            pids=[process.pid],
            on_sample=lambda vram: curve.append((round(vram.t_s - struck_s, 3), vram.used_mib)),
        )
        process.wait(timeout=DRAIN_S)
        assert process.returncode == -end
    say("drain_s", round(drained.duration_s, 3))
    say("drain_curve", json.dumps(curve))
    assert drained.ok, gpu.undrained(drained, 2 * NEAR_MIB)
    assert full.used_mib - drained.used_mib >= free_mib - NEAR_MIB
    assert all(holder.pid != process.pid for holder in drained.holders)
    levels = [mib for _t, mib in curve]
    # It falls, and it does not rise again; what others do meanwhile is little.
    assert all(later <= earlier + 2 * NEAR_MIB for earlier, later in pairwise(levels)), curve
    assert max(levels) <= full.used_mib + 2 * NEAR_MIB


def test_a_drained_level_stays(card: gpu.Card, free_mib: int) -> None:
    """Without a target: standing still is enough, once the process is gone."""
    with holding(free_mib) as process:
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=DRAIN_S)
        drained = gpu.drain(card, None, limit_s=DRAIN_S, pids=[process.pid])
    assert drained.ok, drained
    time.sleep(0.5)
    assert abs(card.read().used_mib - drained.used_mib) <= gpu.STABLE_MIB


# What it costs


def test_a_reading_is_cheap(card: gpu.Card, say: Say) -> None:
    took_ms = []
    for _unused in range(100):
        began = time.perf_counter()
        card.read()
        took_ms.append((time.perf_counter() - began) * 1000)
    say("reading_p50_ms", round(statistics.median(took_ms), 3))
    say("reading_max_ms", round(max(took_ms), 3))
    assert statistics.median(took_ms) <= READ_MS


def test_telemetry_is_cheap(card: gpu.Card, say: Say) -> None:
    source = card._asked
    took_ms = []
    for _unused in range(50):
        began = time.perf_counter()
        source.vitals()
        took_ms.append((time.perf_counter() - began) * 1000)
    say("telemetry_p50_ms", round(statistics.median(took_ms), 3))
    say("telemetry_max_ms", round(max(took_ms), 3))
    assert statistics.median(took_ms) <= TELEMETRY_MS


def test_ten_readings_a_second_and_what_they_cost(card: gpu.Card, tmp_path: Path, say: Say) -> None:
    path = tmp_path / "vram.jsonl"
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with gpu.Sampler(card, path, interval_s=0.1, phase="five seconds") as sampler:
        time.sleep(5.0)
        assert sampler.error == ""
    after, took_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    say("cpu_percent_of_a_core", round(100 * cpu_s / took_s, 2))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    gaps_ms = sorted(1000 * (b["t_s"] - a["t_s"]) for a, b in pairwise(lines))
    say("ticks", len(lines))
    say("tick_p50_ms", round(statistics.median(gaps_ms), 1))
    say("tick_p95_ms", round(gaps_ms[int(0.95 * len(gaps_ms))], 1))
    assert len(lines) <= 52
    # A machine with much else to do misses some in a row; a sampler that can't keep up is late every time.
    assert 90 <= statistics.median(gaps_ms) <= 120
    assert len(lines) >= 25
    assert 100 * cpu_s / took_s <= CPU_PERCENT
    assert {line["phase"] for line in lines} == {"five seconds"}
    for line in lines:
        assert schemas.validate(line, "vram") == []
    # Nearly every line has its telemetry: it is asked for with each tick, and comes in time.
    told = [line for line in lines if any(line[key] is not None for key in telemetry.CARD_KEYS)]
    assert len(told) >= 0.8 * len(lines)
    assert all(line["load1"] is not None for line in lines)


# What else it tells


def read_vitals(card: gpu.Card) -> telemetry.Reading:
    background = card.vitals()
    reading = background.take(15)
    background.stop()
    assert reading, "no telemetry within 15 s"
    return reading


def test_every_value_is_there_or_has_a_reason(card: gpu.Card, say: Say) -> None:
    reading = read_vitals(card)
    say("telemetry", json.dumps(reading.values))
    say("telemetry_missing", json.dumps(reading.missing))
    assert tuple(reading.values) == telemetry.CARD_KEYS
    assert set(reading.missing) == {key for key, value in reading.values.items() if value is None}
    for key, (low, high) in PLAUSIBLE.items():
        value = reading.values[key]
        assert value is None or low <= value <= high, f"{key} {value}"
    # A card whose driver can say nothing at all of this would be a mistake of ours.
    assert len(reading.missing) < len(telemetry.CARD_KEYS)


def test_throttle_reasons_have_names(card: gpu.Card) -> None:
    reasons = read_vitals(card).values["throttle"]
    if reasons is None:
        pytest.skip("this driver does not tell why clocks are low")
    assert set(reasons) <= set(telemetry.REASONS.values()), "a reason without a name: look it up and add it"


def test_nvidia_smi_tells_the_same(card: gpu.Card) -> None:
    ours, theirs = read_vitals(card), driver._Smi(0).telemetry.read()
    assert tuple(theirs.values) == telemetry.CARD_KEYS
    for key, near in (("temp_c", 5), ("mem_mhz", 30_000), ("power_w", 2000)):
        if ours.values[key] is not None and theirs.values[key] is not None:
            assert abs(ours.values[key] - theirs.values[key]) <= near, key
    assert isinstance(theirs.values["throttle"], list | None)


def test_the_energy_counter_rises_with_the_power(card: gpu.Card, say: Say) -> None:
    source = card._asked
    watts, began, first = [], time.monotonic(), source.vitals()
    if first.values["energy_j"] is None or first.values["power_w"] is None:
        pytest.skip(f"this driver does not tell both: {first.missing}")
    while time.monotonic() - began < 3.0:
        time.sleep(0.1)
        last = source.vitals()
        watts.append(last.values["power_w"])
    rate_w = (last.values["energy_j"] - first.values["energy_j"]) / (time.monotonic() - began)
    say("counter_w", round(rate_w, 2))
    say("power_w", round(statistics.fmean(watts), 2))
    assert rate_w >= 0
    assert abs(rate_w - statistics.fmean(watts)) <= 0.3 * statistics.fmean(watts) + 10
