# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU's memory, with an NVML made here (it errs and hangs on demand) and a made-up nvidia-smi.

The process that asks the driver is a thread of this one here; test_driver.py has the real one.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import driver, gpu, run, telemetry

MIB = 1 << 20


RESERVE_MIB = 347


class FakeNvml:
    """As much of pynvml as is used; ``trouble`` maps a function's name to what it does instead."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    nvmlMemory_v2 = 33_554_472

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.old_driver = False
        self.trouble: dict[str, Callable[[], Any]] = {}
        self.used_mib = 13_722
        self.compute: list[tuple[int, int | None]] = []
        self.graphics: list[tuple[int, int | None]] = []
        self.power_mw = 20_000

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.trouble:
            self.trouble[name]()

    def nvmlInit(self) -> None:
        self._called("nvmlInit")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._called("nvmlDeviceGetHandleByIndex")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        self._called("nvmlDeviceGetName")
        return b"NVIDIA Something"

    def nvmlSystemGetDriverVersion(self) -> str:
        self._called("nvmlSystemGetDriverVersion")
        return "580.95.05"

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:
        self._called("nvmlDeviceGetMemoryInfo")
        if version == self.nvmlMemory_v2 and self.old_driver:
            raise self.NVMLError("Function Not Found")
        # The first structure counts the driver's own reserve as used.
        reserve_mib = 0 if version == self.nvmlMemory_v2 else RESERVE_MIB
        return SimpleNamespace(used=(self.used_mib + reserve_mib) * MIB + 5, total=16_303 * MIB + 700)

    def _listed(self, name: str, processes: list[tuple[int, int | None]]) -> list[Any]:
        self._called(name)
        return [SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB) for pid, mib in processes]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return self._listed("nvmlDeviceGetComputeRunningProcesses", self.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:
        return self._listed("nvmlDeviceGetGraphicsRunningProcesses", self.graphics)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._called("nvmlDeviceGetPowerUsage")
        return self.power_mw

    def fail(self, name: str, error: Exception) -> None:
        def raising() -> None:
            raise error

        self.trouble[name] = raising


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that asks the driver is a thread of this one, and so sees what is made here."""

    def helper(argv: list[str], lanes: list[int]) -> SimpleNamespace:
        answers = driver.Answers(json.loads(argv[-1])["index"])
        for fd in lanes:
            lane = socket.socket(fileno=os.dup(fd))
            threading.Thread(target=answers.lane, args=(lane,), daemon=True).start()
        return SimpleNamespace(
            kill=lambda: None, wait=lambda _limit_s: 0, poll=lambda: 0, stdin=None, stdout=None, stderr=None
        )

    monkeypatch.setattr(run, "helper", helper)


@pytest.fixture
def nvml(inside: None, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def hang(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], threading.Event]]:
    """Makes a call of NVML hang until the returned event is set."""
    monkeypatch.setattr(gpu, "READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr(gpu, "OPEN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(gpu.Card.read, "__defaults__", (0.05,))
    gates: list[threading.Event] = []

    def make(name: str) -> threading.Event:
        gates.append(threading.Event())
        nvml.trouble[name] = gates[-1].wait
        return gates[-1]

    yield make
    for gate in gates:
        gate.set()


# Opening in the background


def test_a_card_is_opened_in_the_background(nvml: FakeNvml) -> None:
    opening = gpu.Opening(0)
    card = opening.card(5)
    assert card
    assert card.read().used_mib == 13_722
    assert opening.card(0) is card
    assert opening.error == ""


def test_a_driver_that_is_slow_holds_nobody_up(nvml: FakeNvml) -> None:
    gate = threading.Event()
    nvml.trouble["nvmlInit"] = gate.wait
    began = time.monotonic()
    opening = gpu.Opening(0)
    assert opening.card(0) is None
    assert opening.card(-1) is None
    assert opening.card(0.1) is None
    assert time.monotonic() - began < 10
    assert opening.error == "the GPU's driver has not answered yet"
    gate.set()
    assert opening.card(5)
    assert opening.error == ""


def test_a_driver_that_errs_is_no_card_and_a_reason(nvml: FakeNvml) -> None:
    nvml.fail("nvmlInit", nvml.NVMLError("Driver Not Loaded"))
    opening = gpu.Opening(0)
    assert opening.card(5) is None
    assert "Driver Not Loaded" in opening.error


def test_an_opening_that_hangs_is_given_up_with_its_reason(
    hang: Callable[[str], threading.Event], eventually: Callable[..., None]
) -> None:
    hang("nvmlDeviceGetHandleByIndex")
    opening = gpu.Opening(0)
    assert opening.card(0.01) is None
    eventually(lambda: "did not answer within 0.05 s" in opening.error)
    assert opening.card(0) is None


# Reading through NVML


def test_a_card_is_read_as_nvidia_smi_shows_it(nvml: FakeNvml) -> None:
    nvml.compute = [(os.getpid(), 4900)]
    before = time.monotonic()
    card = gpu.Card(0)
    vram = card.read()
    assert (card.name, card.driver) == ("NVIDIA Something", "580.95.05")
    assert (vram.used_mib, vram.total_mib) == (13_722, 16_303)
    assert before <= vram.t_s <= time.monotonic()
    assert [(h.pid, h.mib) for h in vram.holders] == [(os.getpid(), 4900)]
    assert "python" in vram.holders[0].command


def test_compute_and_graphics_are_merged_by_pid(nvml: FakeNvml) -> None:
    nvml.compute = [(30, 100), (10, None), (20, None)]
    nvml.graphics = [(30, 100), (20, 7), (40, 2)]
    held = {h.pid: h.mib for h in gpu.Card().read().holders}
    assert held == {10: None, 20: 7, 30: 100, 40: 2}
    assert list(held) == [10, 20, 30, 40]


def test_nvml_is_initialized_once_and_kept_open(nvml: FakeNvml) -> None:
    card = gpu.Card()
    for _unused in range(3):
        card.read()
    assert nvml.calls.count("nvmlInit") == 1
    card.close()
    with pytest.raises(gpu.GpuError, match="has ended"):
        card.read()
    assert nvml.calls.count("nvmlInit") == 1, "a card that was closed stays closed"


def test_a_card_that_cannot_list_processes_still_tells_its_level(nvml: FakeNvml) -> None:
    nvml.compute = [(10, 5)]
    nvml.fail("nvmlDeviceGetGraphicsRunningProcesses", nvml.NVMLError_NotSupported("Not Supported"))
    assert [h.pid for h in gpu.Card().read().holders] == [10]


@pytest.mark.parametrize(
    "name", ["nvmlInit", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlSystemGetDriverVersion"]
)
def test_a_card_that_cannot_be_opened_says_which_call_failed(nvml: FakeNvml, name: str) -> None:
    nvml.fail(name, nvml.NVMLError("Driver Not Loaded"))
    with pytest.raises(gpu.GpuError, match=f"{name} failed: Driver Not Loaded"):
        gpu.Card(0)


def test_an_old_driver_counts_its_reserve(nvml: FakeNvml) -> None:
    nvml.old_driver = True
    assert gpu.Card().read().used_mib == 13_722 + RESERVE_MIB


@pytest.mark.parametrize("name", ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses"])
def test_a_failed_reading_is_a_gpu_error(nvml: FakeNvml, name: str) -> None:
    card = gpu.Card()
    nvml.fail(name, nvml.NVMLError("Unknown Error"))
    with pytest.raises(gpu.GpuError, match="Unknown Error"):
        card.read()
    nvml.trouble.clear()
    assert card.read().used_mib == 13_722


def test_nonsense_from_the_driver_is_a_gpu_error(nvml: FakeNvml) -> None:
    card = gpu.Card()
    nvml.fail("nvmlDeviceGetMemoryInfo", TypeError("no such structure"))
    with pytest.raises(gpu.GpuError, match="no such structure"):
        card.read()


def test_a_driver_that_hangs_at_the_start_is_given_up(hang: Callable[[str], threading.Event]) -> None:
    hang("nvmlInit")
    with pytest.raises(gpu.GpuError, match=r"did not answer within 0\.05 s"):
        gpu.Card()


def test_a_hanging_driver_costs_one_call_and_may_come_back(
    nvml: FakeNvml, hang: Callable[[str], threading.Event]
) -> None:
    card = gpu.Card()
    gate = hang("nvmlDeviceGetMemoryInfo")
    with pytest.raises(gpu.GpuError, match="did not answer"):
        card.read()
    for _unused in range(3):
        with pytest.raises(gpu.GpuError, match="still hangs"):
            card.read()
    assert nvml.calls.count("nvmlDeviceGetMemoryInfo") == 1
    gate.set()
    nvml.trouble.clear()
    assert card.read().used_mib == 13_722


# Reading through nvidia-smi

SMI = """#!/bin/sh
case "$*" in
*--query-gpu=name,driver_version,memory.used,memory.total*) echo "{card}" ;;
*--query-compute-apps=pid,used_memory,process_name*) printf '{apps}' ;;
*--query-gpu=clocks.sm,*) echo "{vitals}" ;;
esac
exit {code}
"""


@pytest.fixture
def smi(tmp_path: Path, inside: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a made-up nvidia-smi on the path, and hides pynvml."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(card: str = "NVIDIA Other, 550.1, 900, 16303", apps: str = "", code: int = 0, vitals: str = "") -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(SMI.format(card=card, apps=apps, code=code, vitals=vitals))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return write


def test_without_pynvml_nvidia_smi_is_read(smi: Callable[..., None]) -> None:
    smi(apps=f"{os.getpid()}, 4900, x\\n999999999, [N/A], /usr/bin/gone\\nNo running processes found\\n")
    card = gpu.Card(1)
    vram = card.read()
    card.close()
    assert (card.name, card.driver, vram.used_mib, vram.total_mib) == ("NVIDIA Other", "550.1", 900, 16_303)
    assert [(h.pid, h.mib) for h in vram.holders] == [(os.getpid(), 4900), (999_999_999, None)]
    assert "python" in vram.holders[0].command
    assert vram.holders[1].command == "/usr/bin/gone"


@pytest.mark.parametrize("there", ["pynvml", "its library", "nvidia-smi", "an old library"])
def test_a_card_is_read_by_what_there_is(
    there: str, smi: Callable[..., None], nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phase 0 asks without pynvml, the program with it: neither may find a card that the other does not."""
    smi()
    if there == "nvidia-smi":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    if there == "pynvml":
        nvml.fail("nvmlInit", nvml.NVMLError_LibraryNotFound("NVML Shared Library Not Found"))
    if there == "an old library":
        nvml.fail("nvmlDeviceGetComputeRunningProcesses", nvml.NVMLError_FunctionNotFound("Function Not Found"))
    card = gpu.Card()
    card.close()
    assert card.name == ("NVIDIA Something" if there == "its library" else "NVIDIA Other")


@pytest.mark.parametrize("by", ["NVML", "nvidia-smi"])
def test_a_card_that_shares_the_machines_memory_is_named(
    by: str, smi: Callable[..., None], nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(card="NVIDIA GB10, 580.1, [N/A], [N/A]")
    nvml.fail("nvmlDeviceGetMemoryInfo", nvml.NVMLError_NotSupported("Not Supported"))
    if by == "nvidia-smi":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(gpu.GpuError, match=r"shares the machine's memory \(GB10, Jetson\) is not supported"):
        gpu.Card().read()


def test_without_the_library_and_without_nvidia_smi_it_says_so(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvml.fail("nvmlInit", nvml.NVMLError_LibraryNotFound("NVML Shared Library Not Found"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gpu.GpuError, match="neither NVML nor nvidia-smi is there"):
        gpu.Card()


def test_without_anything_it_says_so(monkeypatch: pytest.MonkeyPatch, inside: None, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gpu.GpuError, match="neither NVML nor nvidia-smi is there"):
        gpu.Card()


def test_a_failing_nvidia_smi_is_quoted(smi: Callable[..., None]) -> None:
    smi(card="No devices were found", code=6)
    with pytest.raises(gpu.GpuError, match="ended with 6: No devices were found"):
        gpu.Card()


@pytest.mark.parametrize("card", ["", "only a name", "NVIDIA GB10, 580.1, [N/A], [N/A]"])
def test_an_answer_of_another_shape_is_quoted(smi: Callable[..., None], card: str) -> None:
    smi(card=card)
    with pytest.raises(gpu.GpuError, match="is not name, driver, used and total"):
        gpu.Card()


def test_an_nvidia_smi_that_cannot_run_says_why(tmp_path: Path, smi: Callable[..., None]) -> None:
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF nothing")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(gpu.GpuError, match="nvidia-smi did not answer"):
        gpu.Card()


def test_telemetry_comes_from_nvidia_smi_as_well(smi: Callable[..., None]) -> None:
    smi(vitals="2452, 13801, 45.20, 47, 12, 3, 0x0000000000000001")
    background = gpu.Card().vitals()
    reading = background.take(20)
    background.stop()
    assert reading
    assert reading.values == {
        "sm_mhz": 2452,
        "mem_mhz": 13801,
        "power_w": 45.2,
        "temp_c": 47,
        "util_percent": 12,
        "mem_util_percent": 3,
        "throttle": ["gpu_idle"],
        "energy_j": None,
    }
    assert list(reading.missing) == ["energy_j"]


# Words


def test_holders_in_words() -> None:
    assert gpu.describe([]) == "nobody"
    long = gpu.Holder(812, 4900, "/usr/bin/llama-server " + "x" * 100)
    text = gpu.describe([long, gpu.Holder(7, None, "")])
    assert text.startswith("PID 812 /usr/bin/llama-server xxx")
    assert "… 4900 MiB, PID 7 (unknown command) size unknown" in text
    assert len(text) < 150


# The sampler


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_sampler_writes_the_series_and_keeps_the_segments_apart(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "vram.jsonl"
    nvml.compute = [(os.getpid(), 12)]
    nvml.used_mib = 9000
    with gpu.Sampler(gpu.Card(), path, 0.01, "window") as sampler:
        eventually(lambda: len(lines(path)) >= 3)
        assert sampler.peak_mib == 9000
        nvml.used_mib = 2000
        eventually(lambda: lines(path)[-1]["used_mib"] == 2000)
        assert sampler.peak_mib == 9000
        sampler.segment("candidate")
        eventually(lambda: lines(path)[-1]["phase"] == "candidate")
        assert sampler.peak_mib == 2000
        assert sampler.last
        assert sampler.last.used_mib == 2000
        assert sampler.error == ""
    count = len(lines(path))
    time.sleep(0.05)
    assert len(lines(path)) == count
    first = lines(path)[0]
    assert list(first)[:5] == ["t_s", "used_mib", "total_mib", "processes", "phase"]
    assert set(first) - {"missing"} == {
        *("t_s", "used_mib", "total_mib", "processes", "phase"),
        *telemetry.CARD_KEYS,
        *telemetry.HOST_KEYS,
    }
    assert first["phase"] == "window"
    assert first["total_mib"] == 16_303
    assert first["processes"][0]["pid"] == os.getpid()
    assert first["processes"][0]["mib"] == 12
    times = [line["t_s"] for line in lines(path)]
    assert times == sorted(times)


def test_the_sampler_keeps_its_pace(nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]) -> None:
    path = tmp_path / "vram.jsonl"
    began = time.monotonic()
    with gpu.Sampler(gpu.Card(), path, 0.02):
        eventually(lambda: len(lines(path)) >= 15)
    # Never faster than asked for; how much slower depends on what else the machine has to do.
    assert len(lines(path)) <= (time.monotonic() - began) / 0.02 + 1


def test_a_series_has_an_end(
    nvml: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """A restore that can't succeed goes on for days, and must not fill the disk."""
    monkeypatch.setattr(gpu, "SERIES_BYTES", 1000)
    path = tmp_path / "vram.jsonl"
    with gpu.Sampler(gpu.Card(), path, 0.01) as sampler:
        eventually(lambda: path.exists() and path.stat().st_size >= 1000)
        size, seen = path.stat().st_size, sampler.last
        eventually(lambda: sampler.last is not seen)
    assert path.stat().st_size == size
    assert sampler.error == ""


def test_the_end_of_a_sampler_waits_for_no_reading_that_hangs(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    sampler = gpu.Sampler(gpu.Card(), tmp_path / "vram.jsonl", 0.01)
    eventually(lambda: sampler.last)
    gate = threading.Event()
    nvml.calls.clear()
    nvml.trouble["nvmlDeviceGetMemoryInfo"] = gate.wait
    eventually(lambda: "nvmlDeviceGetMemoryInfo" in nvml.calls)
    began = time.monotonic()
    sampler.stop()
    # A reading gives up by itself, later.
    assert time.monotonic() - began < 0.9 * gpu.READ_TIMEOUT_S
    gate.set()


def test_the_series_is_roots_alone(nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]) -> None:
    path = tmp_path / "vram.jsonl"
    with gpu.Sampler(gpu.Card(), path, 0.01):
        eventually(lambda: lines(path))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_fresh_segment_reads_the_card_itself(nvml: FakeNvml, tmp_path: Path) -> None:
    with gpu.Sampler(gpu.Card(), tmp_path / "vram.jsonl", 60) as sampler:
        sampler.segment("candidate")
        nvml.used_mib = 4321
        assert sampler.peak_mib == 4321
        nvml.fail("nvmlDeviceGetMemoryInfo", nvml.NVMLError("Unknown Error"))
        with pytest.raises(gpu.GpuError):
            _unused = sampler.peak_mib
        started = time.monotonic()
    assert time.monotonic() - started < 20, "stopping must not wait for the next tick"


def test_trouble_with_the_card_is_a_gap_not_an_end(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "vram.jsonl"
    with gpu.Sampler(gpu.Card(), path, 0.01) as sampler:
        eventually(lambda: lines(path))
        nvml.fail("nvmlDeviceGetMemoryInfo", nvml.NVMLError("GPU is lost"))
        eventually(lambda: "GPU is lost" in sampler.error)
        count = len(lines(path))
        nvml.trouble.clear()
        eventually(lambda: len(lines(path)) > count)
        assert sampler.error == ""


def test_trouble_with_the_disk_does_not_lose_the_peak(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "absent" / "vram.jsonl"
    with gpu.Sampler(gpu.Card(), path, 0.01) as sampler:
        eventually(lambda: "No such file" in sampler.error)
        assert sampler.peak_mib == 13_722
        path.parent.mkdir()
        eventually(lambda: lines(path))


def test_a_reading_begun_in_the_old_segment_is_not_the_new_ones_peak(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "vram.jsonl"
    entered, leave = threading.Event(), threading.Event()

    def pause() -> None:
        entered.set()
        leave.wait(60)

    card = gpu.Card()
    nvml.trouble["nvmlDeviceGetMemoryInfo"] = pause
    nvml.used_mib = 15_000
    with gpu.Sampler(card, path, 60, "old") as sampler:
        assert entered.wait(60)
        sampler.segment("new")
        nvml.trouble.clear()
        leave.set()
        eventually(lambda: lines(path))
        nvml.used_mib = 100
        assert lines(path)[0]["used_mib"] == 15_000
        assert lines(path)[0]["phase"] == "old"
        assert sampler.peak_mib == 100


def test_telemetry_goes_with_the_reading(nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]) -> None:
    """What this NVML lacks is null, with the reason once; what it has is there; the host's load needs no driver."""
    path = tmp_path / "vram.jsonl"
    nvml.power_mw = 45_500

    def loads() -> list[float]:
        # Two readings within a tick of the kernel's clock tell no load.
        return [line["cpu_percent"] for line in lines(path) if line["cpu_percent"] is not None]

    with gpu.Sampler(gpu.Card(), path, 0.05) as sampler:
        eventually(lambda: len(lines(path)) >= 4 and loads() != [])
        assert sampler.error == ""
    told = [line for line in lines(path) if line["power_w"] is not None]
    assert {line["power_w"] for line in told} == {45.5}
    assert {line["energy_j"] for line in lines(path)} == {None}
    reasons = [line["missing"] for line in lines(path) if "missing" in line]
    assert len(reasons) == 1
    assert set(reasons[0]) == set(telemetry.CARD_KEYS) - {"power_w"}
    assert isinstance(lines(path)[-1]["load1"], float)
    assert all(0 <= one <= 100 for one in loads())


def test_telemetry_that_hangs_costs_no_reading_of_the_memory(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "vram.jsonl"
    gate = threading.Event()
    nvml.trouble["nvmlDeviceGetPowerUsage"] = gate.wait
    try:
        with gpu.Sampler(gpu.Card(), path, 0.02) as sampler:
            eventually(lambda: len(lines(path)) >= 5)
            assert sampler.error == ""
            assert sampler.last
            assert sampler.peak_mib == 13_722
            began = time.monotonic()
        assert time.monotonic() - began < 0.9 * gpu.READ_TIMEOUT_S, "nobody waits for telemetry that hangs"
        assert {line["used_mib"] for line in lines(path)} == {13_722}
        assert {line["power_w"] for line in lines(path)} == {None}
        assert nvml.calls.count("nvmlDeviceGetPowerUsage") == 1, "one call that hangs is enough"
    finally:
        gate.set()


def test_an_error_of_the_telemetry_is_no_error_of_the_sampler(
    nvml: FakeNvml, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path = tmp_path / "vram.jsonl"
    nvml.fail("nvmlDeviceGetPowerUsage", nvml.NVMLError("Unknown Error"))
    with gpu.Sampler(gpu.Card(), path, 0.02) as sampler:
        eventually(lambda: lines(path))
        assert sampler.error == ""
        eventually(lambda: any("missing" in line for line in lines(path)))
        nvml.trouble.clear()
        eventually(lambda: lines(path)[-1]["power_w"] == 20.0)
    found = [line["missing"].get("power_w") for line in lines(path) if "missing" in line]
    assert found == ["nvmlDeviceGetPowerUsage: Unknown Error", None]


# Draining


class Script:
    """A card that follows a script of (used MiB, holding PIDs), and the clock that goes with it."""

    def __init__(self, steps: list[tuple[int, list[int]] | Exception], step_s: float = 0.1) -> None:
        self.steps, self.step_s, self.now_s, self.slept = steps, step_s, 50.0, 0

    def read(self, _timeout_s: float = 3.0) -> gpu.Vram:
        at = min(int((self.now_s - 50.0) / self.step_s + 1e-6), len(self.steps) - 1)
        step = self.steps[at]
        if isinstance(step, Exception):
            raise step
        used, pids = step
        return gpu.Vram(self.now_s, used, 16_303, tuple(gpu.Holder(pid, used, f"p{pid}") for pid in pids))

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept += 1
        self.now_s += seconds

    def drain(self, target_mib: int | None, **options: Any) -> gpu.Drained:
        card: Any = self
        return gpu.drain(card, target_mib, clock=lambda: self.now_s, sleep=self.sleep, **options)


def test_a_drain_ends_when_the_target_is_reached() -> None:
    script = Script([(9000, [1]), (5000, [1]), (2300, [])])
    drained = script.drain(2000, pids=[1])
    assert drained.ok
    assert (drained.used_mib, drained.target_mib, drained.holders, drained.error) == (2300, 2000, (), "")
    assert 0.2 <= drained.duration_s < 0.4


def test_the_tolerance_is_the_limit_inclusive() -> None:
    assert Script([(2300, [])]).drain(2000, limit_s=1).ok
    assert not Script([(2301, [])]).drain(2000, limit_s=1).ok
    assert Script([(2301, [])]).drain(2000, tolerance_mib=301, limit_s=1).ok


def test_a_level_that_fell_while_the_process_still_holds_is_not_drained() -> None:
    drained = Script([(1000, [1])]).drain(2000, pids=[1], limit_s=3)
    assert not drained.ok
    assert [h.pid for h in drained.holders] == [1]
    assert drained.duration_s == pytest.approx(3, abs=0.1)


def test_others_may_go_on_holding() -> None:
    assert Script([(1000, [2, 3])]).drain(2000, pids=[1]).ok


def test_at_least_the_minimum_is_waited() -> None:
    drained = Script([(100, [])]).drain(2000, min_s=5.0)
    assert drained.ok
    assert 5.0 <= drained.duration_s < 5.2


def test_a_minimum_beyond_the_limit_is_no_success() -> None:
    drained = Script([(100, [])]).drain(2000, min_s=5.0, limit_s=2.0)
    assert not drained.ok
    assert drained.duration_s == pytest.approx(2.0, abs=0.1)


def test_a_level_that_rises_again_is_not_drained() -> None:
    assert not Script([(100, []), (9000, [])], 1.0).drain(2000, min_s=2.0, limit_s=4.0).ok


def test_without_a_target_the_level_must_stand_still() -> None:
    steps: list[Any] = [(9000 - 100 * i, []) for i in range(20)]
    drained = Script(steps).drain(None, limit_s=30)
    assert drained.ok
    assert drained.target_mib is None
    assert 1.9 + 0.5 <= drained.duration_s < 2.8


def test_a_slow_slide_is_not_standing_still() -> None:
    # 30 MiB a step: neighbors are close, but half a second is not.
    steps: list[Any] = [(9000 - 30 * i, []) for i in range(100)]
    assert Script(steps).drain(None, limit_s=30).duration_s > 9.0


def test_without_a_target_the_processes_must_be_gone_too() -> None:
    steps: list[Any] = [(500, [1])] * 20 + [(500, [])]
    assert 2.0 <= Script(steps).drain(None, pids=[1]).duration_s < 2.2


def test_the_card_is_polled_every_50_to_100_ms() -> None:
    script = Script([(9000, [1])])
    script.drain(2000, limit_s=3)
    assert 30 <= script.slept <= 60


def test_every_reading_is_shown() -> None:
    seen: list[int] = []
    Script([(9000, []), (100, [])]).drain(2000, on_sample=lambda vram: seen.append(vram.used_mib))
    assert seen[0] == 9000
    assert seen[-1] == 100


def test_a_caller_may_leave_a_drain_by_raising() -> None:
    def leave(_unused: gpu.Vram) -> None:
        raise KeyError("abort")

    with pytest.raises(KeyError):
        Script([(9000, [])]).drain(2000, on_sample=leave)


def test_failed_readings_are_no_reason_to_give_up() -> None:
    drained = Script([gpu.GpuError("NVML is shy"), gpu.GpuError("NVML is shy"), (100, [])]).drain(2000)
    assert drained.ok
    assert drained.error == ""


def test_a_card_that_never_answers_ends_at_the_limit_with_the_reason() -> None:
    drained = Script([gpu.GpuError("NVML is gone")]).drain(2000, limit_s=2)
    assert drained == gpu.Drained(False, 0, 2000, drained.duration_s, (), "NVML is gone")
    assert drained.duration_s == pytest.approx(2, abs=0.1)


def test_a_card_that_falls_silent_still_names_the_last_holders() -> None:
    drained = Script([(9000, [7]), gpu.GpuError("NVML is gone")]).drain(2000, limit_s=2)
    assert not drained.ok
    assert [h.pid for h in drained.holders] == [7]
    text = gpu.undrained(drained, 300)
    assert "expected at most 2000 + 300 MiB" in text
    assert "found 9000 MiB, held by PID 7 p7 9000 MiB; the last reading failed: NVML is gone" in text


ERROR = gpu.GpuError("NVML is gone")


def test_a_blind_drain_ends_at_its_minimum() -> None:
    drained = Script([ERROR]).drain(2000, min_s=5.0, blind_s=1.0)
    assert 5.0 <= drained.duration_s < 5.2
    assert (drained.ok, drained.error) == (False, "NVML is gone")


def test_a_drain_without_minimum_is_blind_after_its_second() -> None:
    assert 1.0 <= Script([ERROR]).drain(2000, blind_s=1.0).duration_s < 1.2


def test_a_drain_that_falls_blind_later_names_the_last_holders() -> None:
    drained = Script([*[(9000, [7])] * 80, ERROR]).drain(2000, min_s=5.0, blind_s=1.0)
    assert 9.0 <= drained.duration_s < 9.3
    assert not drained.ok
    assert [h.pid for h in drained.holders] == [7]


def test_a_drain_that_sees_again_goes_on_waiting() -> None:
    steps: list[Any] = [(9000, [])] * 10 + [ERROR] * 8 + [(9000, [])] * 20 + [(100, [])]
    drained = Script(steps).drain(2000, blind_s=1.0)
    assert drained.ok
    assert 3.8 <= drained.duration_s < 4.0


def test_a_reading_now_and_then_is_not_blindness() -> None:
    steps: list[Any] = [ERROR, ERROR, ERROR, (9000, [])] * 10 + [(100, [])]
    assert Script(steps).drain(2000, blind_s=1.0).ok


def test_the_runners_drain_is_never_blind() -> None:
    """In the window nobody is waiting for a tenant to come back: it waits for its limit, and fails."""
    assert Script([ERROR]).drain(2000, limit_s=30).duration_s == pytest.approx(30, abs=0.1)


def test_a_driver_that_hangs_delays_a_blind_drain_by_no_more_than_a_second(nvml: FakeNvml) -> None:
    """A reading that begins right before the minimum and hangs is not waited for to its own end."""
    card = gpu.Card()
    gate = threading.Event()
    nvml.trouble["nvmlDeviceGetMemoryInfo"] = gate.wait
    drained = gpu.drain(card, 2000, min_s=0.5, blind_s=0.2)
    gate.set()
    assert not drained.ok
    assert 0.5 <= drained.duration_s < 0.9 * gpu.READ_TIMEOUT_S


def test_an_undrained_level_without_a_target_in_words() -> None:
    text = gpu.undrained(gpu.Drained(False, 500, None, 30.0), 300)
    assert "in 30.0 s: expected a constant level" in text
    assert "found 500 MiB, held by nobody" in text


def test_a_real_drain_waits_in_real_time(nvml: FakeNvml) -> None:
    threading.Timer(0.2, lambda: setattr(nvml, "used_mib", 100)).start()
    drained = gpu.drain(gpu.Card(), 2000, limit_s=60)
    assert drained.ok
    # However late this machine looked: it had drained by then.
    assert (nvml.used_mib, drained.duration_s < 30) == (100, True)
