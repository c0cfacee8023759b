"""The fake driver library, asked by the real nvidia-ml-py, and nvidia-smi beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

MIB = 1024 * 1024
PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
LEDGER = """\
version 1
total_mib 16303
reserved_mib 347
used_mib 13520
temperature_c 47
power_mw 45000
utilization_percent 3
sm_mhz 2452
memory_mhz 13801
fan_percent 30
energy_mj 123456789
throttle_reasons 41
unsupported {unsupported}
fault {fault}
process 93 4300 C python3 services/chatterbox/server.py
process 105 {mib} C /usr/bin/llama-server
process 120 100 G Xorg
process 121 50 C+G blender
"""
# In a process of its own: the library is loaded once per process, and a hanging call must be killable.
ASK = """
import json, pynvml as n
def memory(handle):
    one, two = n.nvmlDeviceGetMemoryInfo(handle), n.nvmlDeviceGetMemoryInfo(handle, version=n.nvmlMemory_v2)
    return [one.total, one.used, one.free], [two.total, two.reserved, two.used, two.free]
def listed(processes):
    return [[p.pid, p.usedGpuMemory] for p in processes]
try:
    n.nvmlInit()
    h = n.nvmlDeviceGetHandleByIndex(0)
    v1, v2 = memory(h)
    facts = {
        "count": n.nvmlDeviceGetCount(), "v1": v1, "v2": v2, "name": n.nvmlDeviceGetName(h),
        "uuid": n.nvmlDeviceGetUUID(h), "bus": n.nvmlDeviceGetPciInfo(h).busId,
        "driver": n.nvmlSystemGetDriverVersion(), "temperature": n.nvmlDeviceGetTemperature(h, 0),
        "watt": n.nvmlDeviceGetPowerUsage(h) / 1000, "load": n.nvmlDeviceGetUtilizationRates(h).gpu,
        "sm": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM), "persistence": n.nvmlDeviceGetPersistenceMode(h),
        "cuda": n.nvmlDeviceGetCudaComputeCapability(h),
        "compute": listed(n.nvmlDeviceGetComputeRunningProcesses(h)),
        "compute_v2": listed(n.nvmlDeviceGetComputeRunningProcesses_v2(h)),
        "graphics": listed(n.nvmlDeviceGetGraphicsRunningProcesses(h)),
        "process_name": n.nvmlSystemGetProcessName(105),
    }
    n.nvmlShutdown()
    try:
        n.nvmlDeviceGetName(h)
    except n.NVMLError as error:
        facts["after_shutdown"] = error.value
    print(json.dumps(facts))
except n.NVMLError as error:
    print(json.dumps({"error": error.value, "text": str(error)}))
"""


class Driver:
    """The compiled programs over a ledger that a test writes."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self.ledger = folder / "ledger"
        self.first = ""

    def use_our_smi(self) -> None:
        """Put our nvidia-smi first in PATH."""
        self.first = f"{self.programs}:"

    def write(self, fault: str = "none 0", mib: int = 4900, age_s: float = 0.0, unsupported: str = "nothing") -> None:
        self.ledger.write_text(LEDGER.format(fault=fault, mib=mib, unsupported=unsupported))
        if age_s:
            then = time.time() - age_s
            os.utime(self.ledger, (then, then))

    def run(self, *command: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.programs), "TWIN_GPU_LEDGER": str(self.ledger)}
        environment["PATH"] = f"{self.first}{os.environ['PATH']}"
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)

    def ask(self) -> dict[str, object]:
        answer = json.loads(self.run(sys.executable, "-c", ASK).stdout)
        assert isinstance(answer, dict)
        return answer

    def smi(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.programs / "nvidia-smi"), *words)


@pytest.fixture
def driver(gpu_programs: Path, tmp_path: Path) -> Driver:
    (tmp_path / "pynvml.py").write_text('raise ImportError("hidden")\n')
    return Driver(gpu_programs, tmp_path)


@pytest.mark.prove
def test_pynvml_reads_the_ledger(driver: Driver) -> None:
    driver.write()
    facts = driver.ask()
    assert facts["count"] == 1
    assert facts["name"] == "NVIDIA GeForce RTX 5070 Ti"
    assert str(facts["uuid"]).startswith("GPU-")
    assert facts["bus"] == "00000000:01:00.0"
    assert str(facts["driver"]).startswith("575.")
    assert (facts["temperature"], facts["watt"], facts["load"], facts["sm"]) == (47, 45.0, 3, 2452)
    assert facts["persistence"] == 1
    assert facts["cuda"] == [12, 0]
    assert facts["compute"] == facts["compute_v2"] == [[93, 4300 * MIB], [105, 4900 * MIB], [121, 50 * MIB]]
    assert facts["graphics"] == [[120, 100 * MIB], [121, 50 * MIB]]
    assert facts["process_name"] == "/usr/bin/llama-server"
    assert facts["after_shutdown"] == 1


def test_the_two_versions_of_memory_info_differ_by_the_reserved_part(driver: Driver) -> None:
    driver.write()
    facts = driver.ask()
    total, used_1, free_1 = facts["v1"]  # type: ignore[misc]  # JSON: the shape is asserted right here
    total_2, reserved, used_2, free_2 = facts["v2"]  # type: ignore[misc]  # as above
    assert total == total_2 == 16303 * MIB
    assert used_1 - used_2 == reserved == 347 * MIB
    assert used_2 == 13520 * MIB
    assert free_1 == free_2 == total - used_1


def test_the_memory_of_a_process_can_be_unavailable(driver: Driver) -> None:
    driver.write(mib=-1)
    assert driver.ask()["compute"] == [[93, 4300 * MIB], [105, None], [121, 50 * MIB]]
    query = driver.smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader")
    assert "105, [N/A]" in query.stdout


# The host program's own reader over the real pynvml, in a process of its own for the same reason.
VITALS = """
import json, sys
sys.path.insert(0, sys.argv[2])
if sys.argv[1] == "smi":
    # Found before the real one, in the process that asks, too.
    sys.path.insert(0, sys.argv[3])
from module_utils import gpu
background = gpu.Card().vitals()
reading = background.take(15)
print(json.dumps([reading.values, reading.missing]))
"""


@pytest.mark.parametrize("source", ["nvml", "smi"])
def test_telemetry_is_what_the_ledger_says(driver: Driver, source: str) -> None:
    driver.write()
    driver.use_our_smi()
    values, missing = json.loads(
        driver.run(sys.executable, "-c", VITALS, source, str(PLUGINS), str(driver.ledger.parent)).stdout
    )
    energy_j = 123456.789 if source == "nvml" else None
    assert values == {
        "sm_mhz": 2452,
        "mem_mhz": 13801,
        "power_w": 45.0,
        "temp_c": 47,
        "util_percent": 3,
        "mem_util_percent": 1,
        "throttle": ["gpu_idle", "hw_thermal_slowdown"],
        "energy_j": energy_j,
    }
    assert set(missing) == (set() if source == "nvml" else {"energy_j"})


@pytest.mark.parametrize("source", ["nvml", "smi"])
def test_what_the_driver_does_not_support_is_null_and_the_rest_is_there(driver: Driver, source: str) -> None:
    driver.write(unsupported="clocks,power,energy,temperature,reasons")
    driver.use_our_smi()
    values, missing = json.loads(
        driver.run(sys.executable, "-c", VITALS, source, str(PLUGINS), str(driver.ledger.parent)).stdout
    )
    assert {key: value for key, value in values.items() if value is not None} == {
        "util_percent": 3,
        "mem_util_percent": 1,
    }
    assert set(missing) == {"sm_mhz", "mem_mhz", "power_w", "temp_c", "throttle", "energy_j"}
    assert driver.smi().returncode == 0


@pytest.mark.parametrize(("fault", "code"), [("error 15", 15), ("error 999", 999), ("init_error 9", 9)])
def test_nvml_can_err(driver: Driver, fault: str, code: int) -> None:
    driver.write(fault=fault)
    assert driver.ask()["error"] == code
    assert driver.smi().returncode == min(code, 255)


def test_without_an_observer_there_is_no_driver_and_a_dead_one_is_a_lost_gpu(driver: Driver) -> None:
    assert driver.ask()["error"] == 9
    driver.write(age_s=60)
    assert driver.ask()["error"] == 15


def test_nvml_can_hang_until_the_fault_is_gone(driver: Driver) -> None:
    driver.write(fault="hang 0")
    with pytest.raises(subprocess.TimeoutExpired):
        driver.run(str(driver.programs / "nvidia-smi"), "-L", timeout=0.4)
    driver.write()
    assert driver.smi("-L").returncode == 0


def test_nvidia_smi_says_what_scripts_ask(driver: Driver) -> None:
    driver.write()
    listing = driver.smi("-L").stdout
    assert listing.startswith("GPU 0: NVIDIA GeForce RTX 5070 Ti (UUID: GPU-")
    query = driver.smi("--query-gpu=name,memory.used,memory.total,driver_version", "--format=csv")
    assert query.stdout.splitlines() == [
        "name, memory.used [MiB], memory.total [MiB], driver_version",
        "NVIDIA GeForce RTX 5070 Ti, 13520 MiB, 16303 MiB, 575.64.03",
    ]
    bare = driver.smi("--query-gpu=memory.used,memory.free", "--format=csv,noheader,nounits")
    assert bare.stdout == "13520, 2436\n"
    apps = driver.smi("--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits")
    assert apps.stdout.splitlines()[1] == "105, /usr/bin/llama-server, 4900"
    assert driver.smi("--query-gpu=nonsense", "--format=csv").returncode == 2
    assert driver.smi("--nonsense").returncode == 2


def test_the_table_of_nvidia_smi_is_as_wide_as_the_real_one(driver: Driver) -> None:
    driver.write()
    lines = driver.smi().stdout.splitlines()
    assert "13520MiB / 16303MiB" in "\n".join(lines)
    assert {len(line) for line in lines[1:] if line.strip()} == {91}
