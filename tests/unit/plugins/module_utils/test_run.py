# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one runner of commands: real commands, and what they may cost."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import run


def sh(line: str, limit_s: float = 60.0, **options: object) -> run.Ran:
    """What a shell says."""
    return run.command(["sh", "-c", line], limit_s, **options)  # type: ignore[arg-type]  # the test's own words


def test_a_status_other_than_0_is_a_value() -> None:
    assert sh("echo out; echo err >&2; exit 3") == run.Ran(3, "out\n", "err\n")


def test_the_locale_is_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert sh("echo $LC_ALL").out == "C\n"


def test_nothing_can_be_read_from_it_but_what_it_is_given() -> None:
    assert sh("cat").out == ""
    # More than a pipe holds, and nobody is blocked who does not read it.
    much = b"x" * 300_000
    assert sh("cat", feed=much).out == much.decode()
    assert sh("true", feed=much).rc == 0


@pytest.mark.parametrize("line", ["exec sleep 60", "sleep 60 & echo up", "exec >&- 2>&-; exec sleep 60"])
def test_a_command_that_does_not_end_is_killed(line: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"sh -c .* timed out after 0.3 s"):
        sh(line, 0.3)
    assert time.monotonic() - began < 30


def test_an_interrupt_ends_the_command_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, and the deadline that a hook puts around its commands."""
    pid = tmp_path / "pid"

    def interrupted(*_: object) -> tuple[str, str]:
        until = time.monotonic() + 30
        while not (pid.exists() and pid.read_text().strip()):
            assert time.monotonic() < until
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sh("echo $$ >pid; exec sleep 60", cwd=str(tmp_path))
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_no_time_left_is_a_time_out_at_once() -> None:
    with pytest.raises(TimeoutError):
        sh("exec sleep 60", 0.0)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="absent-command-of-nobody"):
        run.command(["absent-command-of-nobody"], 10)


def test_output_is_bounded_and_the_command_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MAX_BYTES", 1000)
    done = sh("head -c 300000 /dev/zero | tr '\\0' x; echo late >&2; exit 4")
    assert (done.rc, done.out, done.err) == (4, "x" * 1000, "late\n")


def test_bytes_that_are_no_text_and_lines_of_a_terminal() -> None:
    assert sh(r"printf 'a\377\r\nb\rc'").out == "a\ufffd\nb\nc"


def test_output_may_go_into_a_file_or_nowhere(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as file:
        assert sh("pwd; echo err >&2", into=file, cwd=str(tmp_path)) == run.Ran(0, "", "")
    assert (tmp_path / "log").read_text() == f"{tmp_path}\nerr\n"
    assert sh("echo out; exit 2", into=run.NOWHERE) == run.Ran(2, "", "")


def test_a_service_left_behind_does_not_hold_up_a_command_that_prints_elsewhere(tmp_path: Path) -> None:
    began = time.monotonic()
    with open(tmp_path / "log", "wb") as file:
        sh("sleep 40 & echo up", into=file)
    assert time.monotonic() - began < 30


# A host that can't start another process.


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The next starts of a process are refused with these errors; time passes with each pause."""
    left: list[int] = []
    clock = [0.0]
    start = subprocess.Popen

    def popen(*args: Any, **options: Any) -> Any:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        return start(*args, **options)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(run.subprocess, "Popen", popen)
    monkeypatch.setattr(run.time, "sleep", sleep)
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    return left


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
@pytest.mark.parametrize("times", [1, 40])
def test_a_command_waits_until_the_host_has_room_for_it(crowded: list[int], number: int, times: int) -> None:
    crowded[:] = [number] * times
    before = run.refused()
    assert run.command(["echo", "here"], 60.0).out == "here\n"
    assert run.refused() == before + times


def test_a_host_without_room_is_named_and_not_the_command(crowded: list[int]) -> None:
    crowded[:] = [errno.EAGAIN] * 1000
    with pytest.raises(run.NoRoom, match=r"echo: this host can't start another process .*unavailable.*systemd-cgtop"):
        run.command(["echo", "here"], 60.0)
    # 5 s in steps of 0.1 s, and no more.
    assert 940 <= len(crowded) <= 960
    crowded[:] = [errno.EAGAIN] * 1000
    with pytest.raises(run.NoRoom):
        run.command(["echo", "here"], 1.0)
    assert 980 <= len(crowded) <= 995
    crowded[:] = [errno.EAGAIN] * 3
    child = run.background(["echo", "here"])
    assert child.communicate()[0] == "here\n"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.E2BIG])
def test_no_other_error_is_waited_for(crowded: list[int], number: int) -> None:
    crowded[:] = [number]
    before = run.refused()
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        run.command(["echo", "here"], 60.0)
    assert not isinstance(caught.value, run.NoRoom)
    assert run.refused() == before


@pytest.mark.parametrize(
    ("err", "is_it"),
    [
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("voice: can't start new thread; it is tried again"), True),
        (OSError(errno.EAGAIN, "x"), True),
        (run.NoRoom(errno.EAGAIN, "x"), True),
        (RuntimeError("no voice"), False),
        (OSError(errno.ENOSPC, "x"), False),
        (TimeoutError("x"), False),
    ],
)
def test_what_says_that_there_is_no_room(err: Exception, is_it: bool) -> None:
    assert run.no_room(err) is is_it


def test_whether_there_is_room_is_tried(crowded: list[int]) -> None:
    crowded[:] = [errno.EAGAIN]
    assert [run.room(), run.room()] == [False, True]
