"""Who belongs to a generation, what it holds, and the cgroup it may have."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench.engines import proc
from trialbench.engines.cgroup import Cgroup, CgroupHome, find_home
from trialbench.engines.memory import LeakWatch, MemoryWatch, own_peak_mib


def test_a_process_whose_name_is_meant_to_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as child:
        found = proc.look(child.pid)
        child.kill()
    assert found is not None
    assert found.parent == os.getpid()
    assert found.group == os.getpgrp()


def test_no_process() -> None:
    assert proc.look(1 << 30) is None
    proc.signal_process(1 << 30, signal.SIGTERM)
    proc.signal_group(1 << 30, signal.SIGTERM)


def test_a_sweep_that_does_not_succeed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "SWEEP_LIMIT_S", 0.02)
    with subprocess.Popen(["/bin/sh", "-c", "sleep 60 & echo; wait"], start_new_session=True, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        leader = proc.look(child.pid)
        assert leader is not None
        with monkeypatch.context() as patch:
            patch.setattr(proc, "signal_process", lambda *_: None)
            assert proc.sweep(leader, "none") == (1, False)
        os.killpg(child.pid, signal.SIGKILL)


def test_an_adopted_zombie_is_reaped() -> None:
    assert proc.become_subreaper()
    child = subprocess.Popen(["/bin/sh", "-c", "(sleep 0.01 & echo) ; sleep 60"], start_new_session=True, stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    leader = proc.look(child.pid)
    assert leader is not None
    until_s = time.monotonic() + 30
    while not any(one.dead for one in proc.members(leader, "")) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert proc.sweep(leader, "none")[1]
    assert not any(one.dead and one.parent == os.getpid() for one in proc.members(leader, "none"))
    child.kill()
    child.wait()
    child.stdout.close()
    proc._reap(proc.Process(1 << 30, "Z", os.getpid(), 0, 0, 0))


def test_memory_of_a_process_and_of_one_that_is_gone() -> None:
    assert own_peak_mib() > 1
    watch = MemoryWatch(1 << 30)
    assert watch.look() == 0.0
    watch.close()
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        watch = MemoryWatch(child.pid)
        assert watch.look() > 0
        child.kill()
    seen = watch.peak_mib
    assert watch.look() == watch.rss_mib
    assert watch.peak_mib == seen
    watch.close()
    watch.close()


def test_growth_is_told_from_noise() -> None:
    watch = LeakWatch(limit_mib=0.5)
    assert watch.growth().as_dict() == {
        "readings": 0, "first_mib": None, "last_mib": None, "slope_mib": None, "leaking": False,
    }  # fmt: skip
    for number in range(4):
        watch.add(100.0 + number)
    assert watch.growth().slope_mib is None
    for number in range(4, 20):
        watch.add(100.0 + number)
    growth = watch.growth()
    assert (growth.slope_mib, growth.leaking) == (1.0, True)
    steady = LeakWatch()
    for number in range(40):
        steady.add(100.0 + (number % 3) * 0.2 + (50 if number == 20 else 0))
    assert not steady.growth().leaking


@given(st.integers(1, 3000), st.floats(1.0, 5.0))
def test_a_leak_is_seen_however_long_it_runs(count: int, step_mib: float) -> None:
    watch = LeakWatch(keep=16)
    for number in range(count):
        watch.add(10 + number * step_mib)
    growth = watch.growth()
    assert growth.readings == count
    assert len(watch._readings) <= 17
    assert growth.leaking == (growth.slope_mib is not None)


def test_a_cgroup_of_files(tmp_path: Path) -> None:
    group = Cgroup(tmp_path / "one", memory_max_mib=2)
    assert group.pids() == []
    assert group.peak_mib() is None
    assert group.oom_kills() == 0
    assert not group.kill()
    (tmp_path / "one" / "cgroup.kill").write_text("")
    assert group.kill()
    assert (tmp_path / "one" / "cgroup.kill").read_text() == "1"
    (tmp_path / "one" / "cgroup.kill").unlink()
    assert group.remove()
    assert group.remove()


def test_a_cgroup_that_is_still_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialbench.engines.cgroup._REMOVE_LIMIT_S", 0.01)
    group = Cgroup(tmp_path / "one")
    (tmp_path / "one" / "somebody").write_text("")
    assert not group.remove()


def test_only_what_was_handed_over_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, mounts = "4:memory:/x\n0::/service\n", f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
    service = tmp_path / "service"
    service.mkdir()
    assert find_home(own, mounts) is None
    assert find_home("4:memory:/x\n", mounts) is None
    assert find_home(own, "proc /proc proc rw 0 0\n") is None
    marks = {"trusted.delegate": b"1"}

    def getxattr(_path: Path, name: str) -> bytes:
        if name not in marks:
            raise OSError
        return marks[name]

    monkeypatch.setattr("os.getxattr", getxattr)
    assert find_home(own, mounts) is None  # no cgroup.procs there
    (service / "cgroup.procs").write_text("12\n")
    (service / "cgroup.controllers").write_text("cpu memory pids\n")
    home = find_home(own, mounts)
    assert isinstance(home, CgroupHome)
    assert (service / "worker" / "cgroup.procs").read_text() == "12"
    assert (service / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert home.make("x", memory_max_mib=1).procs == service / "generation-x" / "cgroup.procs"
    assert find_home("0::/service/worker\n", mounts) is not None
    (service / "cgroup.controllers").write_text("cpu\n")
    (service / "cgroup.subtree_control").unlink()
    CgroupHome(service)
    assert not (service / "cgroup.subtree_control").exists()


@pytest.mark.parametrize("error", [PermissionError(1, "a filter of system calls"), ValueError("not on this system")])
def test_without_limits_the_environment_has_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuses(*_: object) -> None:
        raise error

    monkeypatch.setattr("resource.prlimit", refuses)
    proc.put_brand(os.getpid(), "1")
