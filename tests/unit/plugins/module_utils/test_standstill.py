# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that is alive and runs no more: stopped, frozen, or stuck in the kernel, in a made-up /proc."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import probes, standstill
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import ProcessId
from fakeproc import fake_process, fake_thread, stat_line

PID = 100
V2 = "0::/system.slice/docker-ab.scope\n"
V1 = "13:net_cls:/docker/ab\n6:freezer:/docker/ab\n1:name=systemd:/docker/ab\n0::/\n"


def put(file: Path, text: str) -> None:
    """Write a file and its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "file", "text", "frozen"),
    [
        (V2, "system.slice/docker-ab.scope/cgroup.events", "populated 1\nfrozen 1\n", True),
        (V2, "system.slice/docker-ab.scope/cgroup.events", "populated 1\nfrozen 0\n", False),
        (V2, "unified/system.slice/docker-ab.scope/cgroup.events", "populated 1\nfrozen 1\n", True),
        (V1, "freezer/docker/ab/freezer.state", "FROZEN\n", True),
        (V1, "freezer/docker/ab/freezer.state", "FREEZING\n", True),
        (V1, "freezer/docker/ab/freezer.state", "THAWED\n", False),
        ("0::/../other\n", "../other/cgroup.events", "frozen 1\n", False),
        ("", "cgroup.events", "frozen 1\n", False),
    ],
    ids=["v2", "v2 runs", "hybrid", "v1", "v1 on its way", "v1 runs", "outside of what is mounted", "gone"],
)
def test_a_frozen_control_group_is_seen(tmp_path: Path, cgroup: str, file: str, text: str, frozen: bool) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups" / "here"
    groups.mkdir(parents=True)
    fake_process(proc, PID, ["llama-server"], cgroup=cgroup)
    put(groups / file, text)
    assert standstill.frozen(PID, proc, groups) is frozen


@pytest.mark.parametrize(
    ("wchan", "frozen"), [("do_freezer_trap", True), ("get_signal", True), ("hrtimer_nanosleep", False), ("0", False)]
)
def test_without_its_files_the_kernel_tells_where_a_frozen_process_waits(
    tmp_path: Path, wchan: str, frozen: bool
) -> None:
    fake_process(tmp_path, PID, ["llama-server"], cgroup=V2)
    put(tmp_path / str(PID) / "wchan", wchan)
    assert standstill.frozen(PID, tmp_path, tmp_path / "nowhere") is frozen


class Watched:
    """A process in a made-up /proc, and time that passes between the looks."""

    def __init__(self, proc: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = fake_process(proc, PID, ["llama-server"], cgroup=V2, threads={PID: "S", PID + 1: "S"})
        self.now, self.groups = 1000.0, proc / "groups"
        patch.setattr(standstill, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.freeze(0)
        self.watch = standstill.Standstill(ProcessId(PID, 200), proc, self.groups)

    def freeze(self, frozen: int) -> None:
        """Freeze its control group, or thaw it."""
        put(self.groups / "system.slice/docker-ab.scope/cgroup.events", f"populated 1\nfrozen {frozen}\n")

    def state(self, letter: str) -> None:
        """Give the process another state."""
        (self.folder / "stat").write_bytes(stat_line(PID, letter))

    def look(self, seconds: float, each: Callable[[], None] = lambda: None) -> str:
        """Look every 50 ms for a while; what was said first, with the time that it took."""
        began = self.now
        while self.now - began < seconds:
            self.now += 0.05
            each()
            why = self.watch.look()
            if why:
                return f"{why} after {self.now - began:.1f} s"
        return ""


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A process that runs."""
    return Watched(tmp_path, monkeypatch)


@pytest.mark.parametrize("letter", ["S", "R", "I"])
def test_a_process_that_works_or_waits_does_not_stand_still(watched: Watched, letter: str) -> None:
    watched.state(letter)
    assert watched.look(30) == ""
    assert watched.watch.good_s == watched.now


@pytest.mark.parametrize(("letter", "words"), [("T", "a signal (SIGSTOP)"), ("t", "a debugger")])
def test_a_stopped_process_is_named(watched: Watched, letter: str, words: str) -> None:
    assert watched.look(1) == ""
    good_s = watched.now
    watched.state(letter)
    assert watched.look(5) == f"PID {PID} is stopped by {words} after 0.4 s"
    assert watched.watch.good_s == good_s


def test_a_frozen_process_is_named(watched: Watched) -> None:
    assert watched.look(1) == ""
    good_s = watched.now
    watched.freeze(1)
    assert watched.look(5) == f"PID {PID} is frozen with its control group (docker pause) after 0.4 s"
    assert watched.watch.good_s == good_s


def test_a_moment_in_the_freezer_is_none(watched: Watched) -> None:
    """docker freezes a control group while it changes its limits."""
    for _again in range(5):
        watched.freeze(1)
        assert watched.look(0.2) == ""
        watched.freeze(0)
        assert watched.look(0.2) == ""


def test_a_process_that_has_ended_does_not_stand_still(watched: Watched) -> None:
    watched.freeze(1)
    (watched.folder / "stat").unlink()
    assert watched.look(5) == ""


@pytest.mark.parametrize("thread", [PID, PID + 1], ids=["main", "another"])
def test_a_thread_that_hangs_in_the_kernel_is_named(watched: Watched, thread: int) -> None:
    assert watched.look(1) == ""
    fake_thread(watched.folder, thread, "D", wchan="nvidia_ioctl")
    said = watched.look(30)
    assert said.startswith(f"thread {thread} of PID {PID} has waited in the kernel for 1")
    assert "(state D, in nvidia_ioctl)" in said
    assert watched.now - 1001 < standstill.STUCK_S + 1.1
    # Until it began to wait, or was first seen to, all was well.
    assert 1000.9 < watched.watch.good_s < 1002


def test_a_thread_that_reads_a_slow_disk_does_not_hang(watched: Watched) -> None:
    """It is in state D at every look, and switched in between."""
    count = iter(range(10_000))
    said = watched.look(30, lambda: fake_thread(watched.folder, PID + 1, "D", switched=next(count)))
    assert said == ""
    assert watched.now - watched.watch.good_s < 1.1


def test_a_wait_that_ends_is_forgotten(watched: Watched) -> None:
    for _again in range(3):
        fake_thread(watched.folder, PID + 1, "D")
        assert watched.look(standstill.STUCK_S - 1) == ""
        fake_thread(watched.folder, PID + 1, "S")
        assert watched.look(1) == ""


def test_a_real_process_that_is_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            known = probes.identify(process.pid)
            assert known
            watch = standstill.Standstill(known)
            assert watch.look() == ""
            os.kill(process.pid, signal.SIGSTOP)
            while probes.state(process.pid) != "T":
                pass
            deadline = standstill.time.monotonic() + 30
            while not (said := watch.look()):
                assert standstill.time.monotonic() < deadline
            assert said == f"PID {process.pid} is stopped by a signal (SIGSTOP)"
        finally:
            process.kill()
