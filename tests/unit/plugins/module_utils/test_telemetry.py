# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks, power, throttling, load: told where they are known, null with a reason where not, never waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import telemetry

FULL = {
    "sm_mhz": 2452,
    "mem_mhz": 13801,
    "power_w": 45.2,
    "temp_c": 47,
    "util_percent": 12,
    "mem_util_percent": 3,
    "throttle": ["sw_power_cap", "hw_thermal_slowdown"],
    "energy_j": 1234.567,
}


class Nvml:
    """A driver that knows everything; ``answers`` is what a test takes away, or lets err."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetClockInfo": lambda kind: {1: 2452, 2: 13801}[kind],
            "nvmlDeviceGetPowerUsage": lambda: 45_200,
            "nvmlDeviceGetTemperature": lambda sensor: 47 + sensor,
            "nvmlDeviceGetUtilizationRates": lambda: SimpleNamespace(gpu=12, memory=3),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda: 0x44,
            "nvmlDeviceGetTotalEnergyConsumption": lambda: 1_234_567,
        }

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self.answers:
            raise AttributeError(name)

        def call(handle: str, *args: Any) -> Any:
            assert handle == "card"
            self.asked.append(name)
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(*args)

        return call


@pytest.fixture
def nvml() -> Nvml:
    return Nvml()


@pytest.fixture
def source(nvml: Nvml) -> telemetry.FromNvml:
    return telemetry.FromNvml(nvml, "card")


# NVML


def test_a_driver_that_tells_everything(source: telemetry.FromNvml) -> None:
    reading = source.read()
    assert reading.values == FULL
    assert tuple(reading.values) == telemetry.CARD_KEYS
    assert reading.missing == {}


ABSENT = [
    ("nvmlDeviceGetPowerUsage", {"power_w"}),
    ("nvmlDeviceGetUtilizationRates", {"util_percent", "mem_util_percent"}),
    ("nvmlDeviceGetTotalEnergyConsumption", {"energy_j"}),
    ("nvmlDeviceGetClockInfo", {"sm_mhz", "mem_mhz"}),
]


@pytest.mark.parametrize(("name", "keys"), ABSENT)
@pytest.mark.parametrize("how", ["NVMLError_NotSupported", "NVMLError_FunctionNotFound", "no attribute"])
def test_what_the_driver_lacks_is_null_and_asked_once(
    nvml: Nvml, source: telemetry.FromNvml, name: str, keys: set[str], how: str
) -> None:
    if how == "no attribute":
        del nvml.answers[name]
    else:
        nvml.answers[name] = getattr(nvml, how)("Not Supported")
    first, second = source.read(), source.read()
    for reading in (first, second):
        assert {key for key, value in reading.values.items() if value is None} == keys
        assert {key: value for key, value in FULL.items() if key not in keys} == {
            key: value for key, value in reading.values.items() if key not in keys
        }
        assert set(reading.missing) == keys
        assert all(name in why for why in reading.missing.values())
    # One question for each clock.
    assert nvml.asked.count(name) == (0 if how == "no attribute" else len(keys & {"sm_mhz", "mem_mhz"}) or 1)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons", "throttle"),
        ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", "temp_c"),
    ],
)
def test_a_function_that_was_renamed_is_found_under_its_other_name(
    nvml: Nvml, source: telemetry.FromNvml, old: str, new: str, key: str
) -> None:
    nvml.answers[old] = nvml.answers[new]
    nvml.answers[new] = nvml.NVMLError_FunctionNotFound("Function Not Found")
    assert source.read().values[key] == FULL[key]
    assert source.read().values[key] == FULL[key]
    assert nvml.asked.count(new) == 1
    assert nvml.asked.count(old) == 2
    del nvml.answers[old]
    assert new in source.read().missing[key]


def test_an_error_of_the_moment_is_asked_again(nvml: Nvml, source: telemetry.FromNvml) -> None:
    answer = nvml.answers["nvmlDeviceGetPowerUsage"]
    nvml.answers["nvmlDeviceGetPowerUsage"] = nvml.NVMLError("Unknown Error")
    reading = source.read()
    assert (reading.values["power_w"], reading.values["temp_c"]) == (None, 47)
    assert reading.missing == {"power_w": "nvmlDeviceGetPowerUsage: Unknown Error"}
    nvml.answers["nvmlDeviceGetPowerUsage"] = answer
    assert source.read().values["power_w"] == 45.2


@pytest.mark.parametrize("answer", [None, "many", SimpleNamespace(watts=3)])
def test_an_unusable_answer_is_null_and_named(nvml: Nvml, source: telemetry.FromNvml, answer: Any) -> None:
    nvml.answers["nvmlDeviceGetPowerUsage"] = lambda: answer
    nvml.answers["nvmlDeviceGetUtilizationRates"] = lambda: answer
    reading = source.read()
    assert (reading.values["power_w"], reading.values["util_percent"], reading.values["temp_c"]) == (None, None, 47)
    assert "unusable answer" in reading.missing["power_w"]
    assert "unusable answer" in reading.missing["mem_util_percent"]


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, []),
        (0x1, ["gpu_idle"]),
        (0x8 | 0x20 | 0x80, ["hw_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown"]),
        (0x10001, ["gpu_idle", "0x10000"]),
        (0x800, ["0x800"]),
    ],
)
def test_reasons_have_names(bits: int, names: list[str]) -> None:
    assert telemetry.reasons(bits) == names


# nvidia-smi


class Smi:
    """Answers a query with what it knows; an unknown field costs the whole answer, as with the real one."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.queries: list[str] = []

    def __call__(self, fields: str) -> list[list[str]]:
        self.queries.append(fields)
        for name in fields.split(","):
            if name not in self.known:
                raise RuntimeError(f'nvidia-smi ended with 2: Field "{name}" is not a valid field to query.')
        return [[self.known[name] for name in fields.split(",")]]


SMI = {
    "clocks.sm": "2452",
    "clocks.mem": "13801",
    "power.draw": "45.20",
    "temperature.gpu": "47",
    "utilization.gpu": "12",
    "utilization.memory": "3",
    "clocks_event_reasons.active": "0x0000000000000044",
}


def test_nvidia_smi_tells_the_same_keys() -> None:
    smi = Smi(**SMI)
    reading = telemetry.FromSmi(smi).read()
    assert reading.values == {**FULL, "energy_j": None}
    assert tuple(reading.values) == telemetry.CARD_KEYS
    assert set(reading.missing) == {"energy_j"}
    assert len(smi.queries) == 1


def test_an_older_nvidia_smi_knows_the_older_name() -> None:
    known = dict(SMI)
    known["clocks_throttle_reasons.active"] = known.pop("clocks_event_reasons.active")
    smi = Smi(**known)
    source = telemetry.FromSmi(smi)
    assert source.read().values["throttle"] == FULL["throttle"]
    assert source.read().values["throttle"] == FULL["throttle"]
    assert len(smi.queries) == 3, "the field it does not know is asked once"


def test_a_field_that_nvidia_smi_does_not_know_costs_no_other() -> None:
    smi = Smi(**{name: value for name, value in SMI.items() if not name.startswith("clocks")})
    reading = telemetry.FromSmi(smi).read()
    assert {key for key, value in reading.values.items() if value is None} == {
        "sm_mhz", "mem_mhz", "throttle", "energy_j",
    }  # fmt: skip
    assert reading.missing["throttle"] == ("clocks_throttle_reasons.active: nvidia-smi does not know this field")


@pytest.mark.parametrize("text", ["[N/A]", "[Not Supported]", "[Unknown Error]", ""])
def test_a_value_that_nvidia_smi_does_not_tell_is_null(text: str) -> None:
    reading = telemetry.FromSmi(Smi(**{**SMI, "power.draw": text})).read()
    assert (reading.values["power_w"], reading.values["temp_c"]) == (None, 47)
    assert reading.missing["power_w"] == f"power.draw: nvidia-smi answers {text!r}"


def test_an_answer_cut_short_is_read_as_far_as_it_goes() -> None:
    reading = telemetry.FromSmi(lambda fields: [["2452"]]).read()
    assert reading.values == {**dict.fromkeys(telemetry.CARD_KEYS), "sm_mhz": 2452}
    assert reading.missing["power_w"] == "power.draw: nvidia-smi answers nothing"


@pytest.mark.parametrize("error", [RuntimeError("nvidia-smi did not answer"), IndexError()])
def test_an_nvidia_smi_that_fails_tells_nothing_but_why(error: Exception) -> None:
    def fail(fields: str) -> list[list[str]]:
        raise error

    reading = telemetry.FromSmi(fail).read()
    assert reading.values == dict.fromkeys(telemetry.CARD_KEYS)
    assert set(reading.missing.values()) == {str(error) or "nvidia-smi gave no answer"}


def test_an_nvidia_smi_that_knows_no_field_at_all_ends_the_asking() -> None:
    reading = telemetry.FromSmi(Smi()).read()
    assert reading.values == dict.fromkeys(telemetry.CARD_KEYS)


# In the background


class Slow:
    """A source that answers when it is let; readings are numbered."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.count = 0
        self.errors: list[Exception] = []

    def read(self) -> telemetry.Reading:
        self.count += 1
        number = self.count
        self.entered.release()
        assert self.gate.wait(30)
        for error in self.errors:
            raise error
        return telemetry.Reading({"sm_mhz": number})


@pytest.fixture
def slow() -> Iterator[Slow]:
    found = Slow()
    found.gate.set()
    yield found
    found.gate.set()


def test_an_answer_is_given_out_once(slow: Slow) -> None:
    clock = [100.0]
    background = telemetry.Background(slow.read, every_s=1.0, clock=lambda: clock[0])
    first = background.take(20)
    assert first
    assert first.values == {"sm_mhz": 1}
    clock[0] += 0.5
    assert background.take(20) is None, "not due yet, and nothing is waited for"
    clock[0] += 0.5
    second = background.take(20)
    assert second
    assert second.values == {"sm_mhz": 2}
    background.stop()


def test_a_late_answer_goes_with_the_next_tick_and_is_not_asked_past(slow: Slow) -> None:
    slow.gate.clear()
    background = telemetry.Background(slow.read)
    assert background.take(0.01) is None
    slow.gate.set()
    assert slow.entered.acquire(timeout=60)
    found = None
    while found is None:
        found = background.take(1)
    assert found.values == {"sm_mhz": 1}
    following = background.take(20)
    assert following
    assert following.values == {"sm_mhz": 2}
    background.stop()


def test_a_source_that_hangs_is_asked_once_and_said_to_hang(slow: Slow) -> None:
    clock = [100.0]
    slow.gate.clear()
    background = telemetry.Background(slow.read, clock=lambda: clock[0])
    assert background.take(0.01) is None
    assert slow.entered.acquire(timeout=60)
    clock[0] += telemetry.LATE_S + 0.1
    hanging = background.take(0.01)
    assert hanging
    assert hanging.values == dict.fromkeys(telemetry.CARD_KEYS)
    assert set(hanging.missing) == set(telemetry.CARD_KEYS)
    assert slow.count == 1
    background.stop()


@pytest.mark.parametrize(("error", "why"), [(OSError("lost"), "lost"), (KeyError(), "KeyError")])
def test_a_source_that_raises_ends_nothing(slow: Slow, error: Exception, why: str) -> None:
    slow.errors.append(error)
    background = telemetry.Background(slow.read)
    failed = background.take(20)
    assert failed
    assert set(failed.missing.values()) == {why}
    slow.errors.clear()
    assert background.take(20) == telemetry.Reading({"sm_mhz": 2})
    background.stop()


def test_nobody_waits_for_an_answer_once_it_was_stopped(slow: Slow) -> None:
    slow.gate.clear()
    background = telemetry.Background(slow.read)
    threading.Timer(0.05, background.stop).start()
    assert background.take(600) is None


def test_the_thread_ends_when_it_is_no_longer_needed(slow: Slow) -> None:
    background = telemetry.Background(slow.read)
    background.stop()
    background._thread.join(20)
    assert not background._thread.is_alive()


# The host


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "loadavg").write_text("1.25 0.80 0.60 2/345 6789\n")
    return tmp_path


def ticks(proc: Path, *values: int) -> None:
    (proc / "stat").write_text(f"cpu  {' '.join(map(str, values))}\ncpu0 1 2 3\nintr 99\n")


def test_the_hosts_load_is_read_from_proc(proc: Path) -> None:
    load = telemetry.HostLoad(proc)
    ticks(proc, 100, 0, 100, 700, 100, 0, 0, 0, 50, 0)
    assert load.read() == {"load1": 1.25, "cpu_percent": None}
    # 100 ticks later: 20 user, 5 system, 5 stolen; 60 idle, 10 waiting for a disk. Guests are in user already.
    ticks(proc, 120, 0, 105, 760, 110, 0, 0, 5, 70, 0)
    assert load.read() == {"load1": 1.25, "cpu_percent": 30.0}
    assert load.read()["cpu_percent"] is None, "no time has passed"
    ticks(proc, 220, 0, 105, 760, 110, 0, 0, 5, 70, 0)
    assert load.read()["cpu_percent"] == 100.0


def test_idle_time_that_runs_backwards_is_no_negative_load(proc: Path) -> None:
    load = telemetry.HostLoad(proc)
    ticks(proc, 100, 0, 0, 100, 0, 0, 0, 0)
    load.read()
    ticks(proc, 110, 0, 0, 99, 0, 0, 0, 0)
    assert load.read()["cpu_percent"] == 100.0


@pytest.mark.parametrize("text", ["", "cpu", "cpu  a b c d e f g h", "cpu 1 2 3"])
def test_a_proc_that_tells_nothing_is_null(proc: Path, text: str) -> None:
    (proc / "stat").write_text(text)
    (proc / "loadavg").write_text(text.replace("cpu", ""))
    load = telemetry.HostLoad(proc)
    load.read()
    assert load.read()["cpu_percent"] is None


def test_a_host_without_proc_is_null(tmp_path: Path) -> None:
    assert telemetry.HostLoad(tmp_path).read() == {"load1": None, "cpu_percent": None}
