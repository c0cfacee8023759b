"""`tests/gpu` itself, on the twin's driver: a suite that is skipped on most machines must not be broken on the others.

The card is the twin's ledger, kept here for the suite's own processes and no others; libcuda is a stand-in. So this
proves the suite's logic, and nothing about a GPU: that a lie of the driver is noticed, and the truth not taken for one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
TWIN = ROOT / "images" / "twin"
# Against a suite that hangs.
SUITE_TIMEOUT_S = 600


def load(name: str, path: Path) -> ModuleType:
    """The twin's programs are files, not packages."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Ledger:
    """Keeps the ledger for processes that run ``holder.py`` with this ledger in their environment."""

    def __init__(self, observer: ModuleType, path: Path, faults: str) -> None:
        self.path, self.observer = path, observer
        self.faults = observer.Faults.parse(faults)
        self.settings = observer.Settings(ramp_s=0.1, linger_s=0.2)
        self.card = observer.Card(self.settings)
        self.processes = observer.Processes(self.settings)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.keep, daemon=True)

    def claims(self, pid: int) -> int | None:
        """MiB that a process asked for, None if the process is not ours."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            ours = f"TWIN_GPU_LEDGER={self.path}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return None
        if not ours or len(words) < 3 or not words[1].endswith(b"/tests/gpu/holder.py"):
            return None
        # A context takes some, too.
        return int(words[2]) + 300

    def round(self, now: float) -> None:
        """Look for holders, bury the dead, write."""
        for pid in self.processes.pids():
            mib, start = self.claims(pid), self.processes.start_time(pid)
            if mib and start:
                who = self.observer.Identity(pid, start)
                self.card.admit(who, f"{sys.executable} holder.py", mib, now, ramp_s=self.settings.ramp_s)
        self.card.advance(now, self.processes.alive, self.faults)
        live = [one for one in self.card.holders.values() if one.died_s is None]
        self.card.vitals.advance(now, {one.who: 0 for one in live}, len(live), 0)
        self.observer.atomic_write(self.path, self.card.render(now, self.faults))

    def keep(self) -> None:
        while not self.ended.is_set():
            self.round(time.monotonic())
            self.ended.wait(0.02)

    def __enter__(self) -> Ledger:
        self.round(time.monotonic())
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake driver, nvidia-smi, and a libcuda that can be asked."""
    folder = tmp_path_factory.mktemp("driver")
    load("gpu_suite_twin", TWIN / "twin.py").compile_programs(folder)
    source = ROOT / "tests" / "fixtures" / "cuda" / "libcuda.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden"]
    subprocess.run(["gcc", *flags, "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    return folder


@pytest.fixture(scope="module")
def observer() -> ModuleType:
    return load("gpu_suite_observer", TWIN / "gpu" / "observer.py")


def run_suite(programs: Path, observer: ModuleType, folder: Path, faults: str = "{}", *words: str) -> dict[str, Any]:
    """Run tests/gpu as `make gpu` does; returns exit code, outcome by test, and the figures that it kept."""
    ledger, report = folder / "ledger", folder / "gpu.xml"
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(programs),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TWIN_GPU_LEDGER": str(ledger),
    }
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-v", "-o", "junit_family=xunit1"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    with Ledger(observer, ledger, faults):
        done = subprocess.run(
            [*command, f"--junitxml={report}", f"--basetemp={folder / 'tmp'}", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=environment,
            timeout=SUITE_TIMEOUT_S,
        )
    found: dict[str, str] = {}
    figures: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        children = {child.tag for child in case}
        found[str(case.get("name"))] = next(
            (tag for tag in ("failure", "error", "skipped") if tag in children), "passed"
        )
        figures |= {str(one.get("name")): str(one.get("value")) for one in case.iter("property")}
    return {"code": done.returncode, "tests": found, "figures": figures, "text": done.stdout + done.stderr}


@pytest.fixture(scope="module")
def whole(programs: Path, observer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The suite on a card that does what a card does."""
    return run_suite(programs, observer, tmp_path_factory.mktemp("whole"))


def test_the_suite_passes_on_an_honest_card_and_skips_nothing(whole: dict[str, Any]) -> None:
    assert whole["code"] == 0, whole["text"]
    assert set(whole["tests"].values()) == {"passed"}, whole["text"]
    assert len(whole["tests"]) >= 17


def test_the_suite_keeps_its_figures(whole: dict[str, Any]) -> None:
    wanted = {"reserve_mib", "drain_s", "drain_curve", "reading_p50_ms", "telemetry_p50_ms", "cpu_percent_of_a_core"}
    assert wanted <= set(whole["figures"]), whole["figures"]
    assert whole["figures"]["reserve_mib"] == "347"


@pytest.mark.parametrize(
    ("faults", "which", "outcomes"),
    [
        # Memory that stays is no drained card.
        ('{"stuck": true}', "comes_back", {"failure"}),
        # A driver that can tell none of it must not look like one that was asked.
        (
            '{"unsupported": ["clocks", "power", "energy", "temperature", "utilization", "reasons"]}',
            "every_value or throttle_reasons or energy_counter",
            {"failure", "skipped"},
        ),
        # A driver that lacks some is fine, and is said to.
        (
            '{"unsupported": ["energy", "reasons"]}',
            "every_value or throttle_reasons or energy_counter",
            {"passed", "skipped"},
        ),
        # Sizes that the driver does not tell are no failure.
        ('{"unavailable": true}', "processes_memory", {"passed"}),
    ],
    ids=["stuck", "dumb", "shy", "sizes unknown"],
)
def test_what_the_suite_makes_of_a_card_that_is_odd(
    programs: Path, observer: ModuleType, tmp_path: Path, faults: str, which: str, outcomes: set[str]
) -> None:
    found = run_suite(programs, observer, tmp_path, faults, "-k", which)
    assert set(found["tests"].values()) == outcomes, found["text"]


def test_without_a_driver_every_test_is_skipped_by_name(tmp_path: Path) -> None:
    report = tmp_path / "gpu.xml"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "tests/gpu",
            "-m",
            "gpu",
            "-v",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": "", "TWIN_GPU_LEDGER": str(tmp_path / "none")},
    )
    if "no NVIDIA driver answers here" not in done.stdout:
        pytest.skip("this machine has a driver of its own")
    assert done.returncode == 0
    assert "test_a_reading_is_cheap SKIPPED" in done.stdout
    cases = list(ET.parse(report).iter("testcase"))
    assert all(case.find("skipped") is not None for case in cases)
