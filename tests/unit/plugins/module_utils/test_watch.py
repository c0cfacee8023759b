# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeat that runner and restorer send, and the look that misses it."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import probes, run, watch

NOW_S = 50_000.0


def us(seconds: float) -> str:
    """A moment as systemd tells it."""
    return str(int(seconds * 1e6))


# The heartbeat


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield line


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """The pulse's thread is made and never begins."""
    made: list[Callable[[], None]] = []

    class Thread:
        def __init__(self, target: Callable[[], None], **_options: Any) -> None:
            made.append(target)

        def start(self) -> None:
            return

    monkeypatch.setattr(watch.threading, "Thread", Thread)
    return made


def test_the_first_sign_comes_at_once(systemd: socket.socket, no_thread: list[Any]) -> None:
    watch.begin()
    assert systemd.recv(100) == b"WATCHDOG=1"
    assert len(no_thread) == 1


def test_a_host_without_room_for_a_thread_is_named(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd starts the restorer again; one that went on without heartbeats would be killed at its work."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(run.NoRoom, match="the thread that sends"):
        watch.begin()


def test_an_abstract_address_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_thread: list[Any]) -> None:
    name = f"watch-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0{name}")
        line.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        watch.begin()
        assert line.recv(100) == b"WATCHDOG=1"


def test_what_is_started_does_not_learn_where_systemd_listens(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, no_thread: list[Any]
) -> None:
    """Tenants inherit this environment, and their own signs would be taken for the restorer's."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    watch.begin()
    said = run.command(["env"], 30).out
    assert "NOTIFY_SOCKET" not in said
    assert "WATCHDOG" not in said


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch, no_thread: list[Any]) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    watch.begin()
    assert no_thread == []


def test_nobody_to_hear_it_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_thread: list[Any]) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    watch.begin()
    assert len(no_thread) == 1


class Beats:
    """A pulse with a clock and a main thread that a test moves."""

    def __init__(self) -> None:
        self.now_s, self.wakes, self.told = 100.0, 0, 0
        self.pulse = watch.Pulse(self._tell, lambda: str(self.wakes), lambda: self.now_s)

    def _tell(self) -> None:
        self.told += 1

    def go_on(self, seconds: float, *, waking: bool) -> int:
        """Let time pass; returns how many signs were given in it."""
        before, until = self.told, self.now_s + seconds
        while self.now_s < until:
            self.now_s += watch.BEAT_S
            self.wakes += waking
            self.pulse.beat()
        return self.told - before


def test_a_main_thread_that_wakes_gives_signs_for_ever() -> None:
    beats = Beats()
    assert beats.go_on(3600, waking=True) == 3600 / watch.BEAT_S


def test_a_main_thread_that_hangs_in_one_call_gives_none_after_a_minute() -> None:
    beats = Beats()
    beats.go_on(60, waking=True)
    assert 0 < beats.go_on(watch.STILL_S, waking=False) * watch.BEAT_S <= watch.STILL_S
    assert beats.go_on(600, waking=False) == 0
    # It came back: so do the signs.
    assert beats.go_on(10, waking=True) == 10 / watch.BEAT_S


def test_the_kernel_counts_how_often_a_thread_wakes(eventually: Callable[..., None]) -> None:
    hangs, numbers, moves = threading.Event(), [], threading.Event()

    def work() -> None:
        numbers.append(threading.get_native_id())
        hangs.wait()
        while not moves.is_set():
            time.sleep(0.01)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    eventually(lambda: numbers)
    status = Path(f"/proc/self/task/{numbers[0]}/status")
    time.sleep(0.2)
    before = watch._wakes(status)
    time.sleep(0.2)
    assert "voluntary_ctxt_switches" in before
    assert watch._wakes(status) == before, "it hangs in one call"
    hangs.set()
    eventually(lambda: watch._wakes(status) != before)
    moves.set()
    thread.join()
    # Python's join can return a moment before the kernel has removed the thread.
    eventually(lambda: watch._wakes(status) == "")


def test_who_waits_for_a_command_wakes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that may take long is no hang: otherwise a patient restore would be ended."""
    waited: list[float] = []

    class Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]  # an alias of the platform's own
        def select(self, timeout: float | None = None) -> Any:
            waited.append(-1.0 if timeout is None else timeout)
            return super().select(timeout)

    monkeypatch.setattr(selectors, "DefaultSelector", Selector)
    run.command(["sleep", "0.2"], 600)
    assert waited
    assert all(0 < wait_s <= watch.STILL_S / 10 for wait_s in waited)


# The look

RUNS = {"Id": "mt-run.service", "ActiveState": "active", "SubState": "running", "MainPID": "7", "Job": ""}
RESTORES = {"Id": "mt-restore.service", "ActiveState": "activating", "SubState": "start", "MainPID": "8", "Job": "99"}
FRESH = {"WatchdogTimestampMonotonic": us(NOW_S - 4), "ExecMainStartTimestampMonotonic": us(NOW_S - 900)}
SILENT = {"WatchdogTimestampMonotonic": us(NOW_S - 100), "ExecMainStartTimestampMonotonic": us(NOW_S - 900)}
YOUNG = {"WatchdogTimestampMonotonic": "0", "ExecMainStartTimestampMonotonic": us(NOW_S - 2)}
NEVER = {"WatchdogTimestampMonotonic": "0", "ExecMainStartTimestampMonotonic": us(NOW_S - 90)}

WORK = [
    ("a runner", {**RUNS, **FRESH}),
    ("a restorer, with the job that starts it", {**RESTORES, **FRESH}),
    ("one that has just begun", {**RUNS, **YOUNG}),
    ("one that systemd ends", {**RUNS, **SILENT, "ActiveState": "deactivating"}),
    ("one that is about to be started", {"Id": "mt-restore.service", "ActiveState": "inactive", "Job": "12"}),
    ("one that is about to be started again", {**RESTORES, "SubState": "auto-restart", "MainPID": "0"}),
    ("one of which no times are told", {**RUNS}),
]
NO_WORK = [
    ("never started", {"Id": "mt-run.service", "ActiveState": "inactive", "Job": "0"}, "mt-run is inactive"),
    ("failed", {"Id": "mt-restore.service", "ActiveState": "failed", "Job": ""}, "mt-restore is failed"),
    ("silent", {**RUNS, **SILENT}, "mt-run stands still: PID 7 has sent no heartbeat for 100 s"),
    ("silent, with its job", {**RESTORES, **SILENT}, "mt-restore stands still: PID 8 has sent no heartbeat"),
    ("never a sign", {**RESTORES, **NEVER}, "mt-restore stands still: PID 8 has sent no heartbeat for 90 s"),
    ("unknown", {"Id": "mt-run.service"}, "mt-run is unknown"),
]


@pytest.mark.parametrize(("facts"), [one[1] for one in WORK], ids=[one[0] for one in WORK])
def test_who_is_at_work(facts: dict[str, str]) -> None:
    assert watch.idle(facts, NOW_S) == ""


@pytest.mark.parametrize(("facts", "words"), [one[1:] for one in NO_WORK], ids=[one[0] for one in NO_WORK])
def test_who_is_not(facts: dict[str, str], words: str) -> None:
    assert words in watch.idle(facts, NOW_S)


def test_a_process_that_was_stopped_by_a_signal_is_not_at_work(eventually: Callable[..., None]) -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        facts = {**RUNS, **FRESH, "MainPID": str(child.pid)}
        assert watch.idle(facts, NOW_S) == ""
        child.send_signal(signal.SIGSTOP)
        eventually(lambda: probes.stopped(child.pid))
        assert watch.idle(facts, NOW_S) == f"mt-run stands still: PID {child.pid} was stopped by a signal"
        child.send_signal(signal.SIGCONT)
        eventually(lambda: watch.idle(facts, NOW_S) == "")
        child.kill()


GONE_RUN = {"Id": "mt-run.service", "ActiveState": "inactive", "Job": ""}
GONE_RESTORE = {"Id": "mt-restore.service", "ActiveState": "inactive", "Job": ""}


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ([RUNS, GONE_RESTORE], ""),
        ([GONE_RUN, RESTORES], ""),
        ([GONE_RUN, GONE_RESTORE], "mt-run is inactive; mt-restore is inactive"),
        ([{**RUNS, **SILENT}, GONE_RESTORE], "stands still"),
        ([{**RUNS, **SILENT}, RESTORES], ""),
        ([], ""),
    ],
    ids=["runner", "restorer", "nobody", "a runner that stands still", "a restorer beside it", "systemd is silent"],
)
def test_one_of_both_is_enough(monkeypatch: pytest.MonkeyPatch, units: list[dict[str, str]], words: str) -> None:
    text = "\n".join("".join(f"{key}={value}\n" for key, value in facts.items()) for facts in units)
    monkeypatch.setattr(run, "command", lambda *_args: run.Ran(0, text, ""))
    monkeypatch.setattr(watch.time, "monotonic", lambda: NOW_S)
    assert words in watch.trouble()
    assert bool(watch.trouble()) == bool(words)


def test_a_systemd_that_does_not_answer_has_said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_args: Any) -> run.Ran:
        raise TimeoutError("systemctl show timed out")

    monkeypatch.setattr(run, "command", silent)
    assert watch.trouble() == ""
    assert watch.looks() is False


def test_a_moment_without_anybody_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the mark and the runner, and between two units, nobody is at work for a moment."""
    told, slept = ["nobody", ""], []
    monkeypatch.setattr(watch, "trouble", lambda: told.pop(0))
    monkeypatch.setattr(watch.time, "sleep", slept.append)
    assert watch.lasting_trouble() == ""
    assert slept == [watch.AGAIN_S]
    told[:] = ["nobody", "nobody, still"]
    assert watch.lasting_trouble() == "nobody, still"
    told[:] = [""]
    assert watch.lasting_trouble() == ""
    assert slept == [watch.AGAIN_S] * 2
