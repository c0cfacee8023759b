# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of the host program: answers, exit codes, and words for people."""

from __future__ import annotations

import copy
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import signal
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    containers,
    gpu,
    journal,
    kept,
    planfile,
    program,
    rehearsal,
    restorer,
    run,
    runner,
    services,
    tenants,
    watch,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils.containers import A2_LABEL, RUN_LABEL
from fakeworld import GoesOn
from profiles import some

if TYPE_CHECKING:
    from fakeworld import World

WorldOf = Callable[[dict[str, Any]], "World"]


class Shell:
    """Runs verbs as a command line does."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self._world, self._capsys = world, capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        self._capsys.readouterr()
        code = program.main(["--root", str(self._world.state.root), *words])
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def json(self) -> Any:
        """The answer: one object on one line."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    def open(self, controller: str = "ann") -> int:
        """Open the world's trial; returns the epoch."""
        assert self("open", f"--run={self._world.plan.run}", f"--controller={controller}") == 0, self.err
        return int(self.json["epoch"])

    def ours(self, verb: str, epoch: int, *words: str) -> int:
        """A verb of the controller for the world's run."""
        return self(verb, f"--run={self._world.plan.run}", f"--epoch={epoch}", *words)


@pytest.fixture
def shell(world: World, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line of the world's host."""
    return Shell(world, capsys)


def systemctl(world: World) -> list[str]:
    """What was asked of systemd, tenants, the watch and looks excepted."""
    others = ("panda", watch.TIMER)
    asked = [entry[1:] for entry in world.done("systemctl") if not entry[-1].startswith(others)]
    return [" ".join(words) for words in asked if words[0] != "show"]


# Usage.


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["open"],
        ["advance", "--run=x", "--phase=window"],
        ["advance", "--run=x", "--epoch=1"],
        ["poll", "--run=x", "--epoch=soon"],
        ["poll", "--run=x", "--epoch=1", "--wait=nan"],
        ["poll", "--run=x", "--epoch=1", "--wait=inf"],
        ["poll", "--run=x", "--epoch=1", "--wait=-1"],
        ["status", "--bogus"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_two(shell: Shell, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        shell(*words)
    assert caught.value.code == 2
    assert "usage: model-trial" in capsys.readouterr().err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for verb in (
        "status",
        "restore",
        "abort",
        "open",
        "advance",
        "poll",
        "run",
        "restore-now",
        "recover",
        "watch",
        "decided",
        "unpack",
    ):
        assert verb in text
    assert "--root" not in text


def test_the_state_is_where_the_units_look(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(program, "_act", lambda _args, state: seen.append(state.root) or 0)
    assert program.main(["status"]) == 0
    assert seen == [Path("/var/lib/model-trial")]


@pytest.mark.parametrize("verb", ["status", "restore", "abort"])
def test_who_is_not_root_is_told_and_not_that_nobody_holds_the_host(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    shell.open()
    world.log.clear()

    def closed(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        assert shell(verb) == 1
    assert shell.out == ""
    assert f"Permission denied: '{world.state.root}'" in shell.err
    assert shell.err.endswith(f"do this: sudo model-trial {verb}\n")
    assert world.log == []


@pytest.mark.parametrize(
    ("trouble", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "status: interrupted"),
        (TimeoutError("systemctl show timed out after 60 s"), 1, "status: systemctl show timed out"),
    ],
    ids=["interrupted", "slow"],
)
def test_a_verb_that_is_cut_short_says_so_in_a_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, trouble: BaseException, code: int, words: str
) -> None:
    def fail(_state: journal.State) -> Any:
        raise trouble

    monkeypatch.setattr(program, "status", fail)
    assert shell("status") == code
    assert shell.err.startswith(words)
    assert shell.err.count("\n") == 1


# open


def test_open_answers_with_run_and_epoch(world: World, shell: Shell) -> None:
    assert shell("open", f"--run={world.plan.run}", "--controller=ann@laptop") == 0
    assert shell.json == {"run": world.plan.run, "epoch": 1}
    mark = world.state.mark()
    assert mark
    assert mark.controller == "ann@laptop"
    assert world.done("stop") == []


def test_who_opens_by_hand_is_known_by_sudo(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "bob")
    assert shell("open", f"--run={world.plan.run}") == 0
    mark = world.state.mark()
    assert mark
    assert mark.controller == "bob"


def test_the_cap_is_armed_before_the_runner_starts(world: World, shell: Shell) -> None:
    shell.open()
    # With what systemd lets the stop of a unit take; the restorer counts on the same figure.
    plan = planfile.load(world.run_dir / "plan.json")
    assert plan.tenant("llamacpp").stop_limit_s == 90
    assert plan.run_max_s < world.plan.run_max_s < world.plan.limits.cap_s
    # What is left of an earlier run goes first; then one command makes the unit with its cap, and no file does.
    assert systemctl(world) == ["reset-failed mt-run.service mt-restore.service"]
    [started] = world.done("systemd-run")
    assert f"--property=RuntimeMaxSec={plan.run_max_s:.0f}" in started
    assert started[-2:] == (str(world.run_dir / "model-trial"), "run")
    names = [entry[0] for entry in world.log if entry[0] in ("systemctl", "systemd-run") and entry[1] != "show"]
    assert names[-2:] == ["systemctl", "systemd-run"]


@pytest.mark.parametrize(
    "words",
    [
        "Failed to start transient service unit: Unit mt-run.service was already loaded or has a fragment file.",
        "Failed to start transient service unit: Transaction for mt-run.service/start is destructive",
    ],
)
def test_what_systemd_has_not_forgotten_yet_is_waited_for(world: World, shell: Shell, words: str) -> None:
    """The unit of the run before, or a restore that has removed its mark and is about to end."""
    world.runner_refused = [words] * 3
    shell.open()
    assert len(world.done("systemd-run")) == 4
    assert world.state.mark()


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Root's umask keeps nothing from anybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> dict[str, str]:
    """What in a folder others than its owner may write, with its mode."""
    found = {str(path.relative_to(folder)): path.lstat().st_mode for path in folder.rglob("*")}
    # What is in the folder of the samples is its container's.
    ours = {name: mode for name, mode in found.items() if "/samples/" not in name and not stat.S_ISLNK(mode)}
    return {name: oct(mode) for name, mode in ours.items() if mode & 0o022}


def test_whatever_umask_root_has_nobody_else_writes_what_a_trial_leaves(
    world: World, shell: Shell, no_umask: None
) -> None:
    epoch = shell.open()
    shell.ours("poll", epoch)
    shell.ours("advance", epoch, "--phase=window")
    assert shell("abort", "--by=ann") == 0
    assert shell("run") == 1
    assert shell("restore-now") == 0
    assert open_to_others(world.state.root) == {}
    assert stat.S_IMODE(world.state.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["a command", "a thread", "within a tenant's start"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_host_without_room_for_a_process_has_not_failed_to_restore(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, how: str, times: int
) -> None:
    """It is said, and tried again at once when there is room: no pause that grows, no call of the hook."""
    shell.open()
    left, rooms = [how] * times, [False, False, True] * times
    real = restorer.Restorer.restore

    def restore(self: restorer.Restorer) -> Any:
        if not left:
            return real(self)
        left.pop()
        if how == "a thread":
            raise RuntimeError("can't start new thread")
        error = OSError(errno.EAGAIN, "Resource temporarily unavailable")
        assert run.no_room(error)
        if how == "a command":
            raise run.NoRoom(errno.EAGAIN, "docker: this host can't start another process")
        raise restorer.RestoreFailed("chatterbox: its start command cannot be run")

    monkeypatch.setattr(restorer.Restorer, "restore", restore)
    monkeypatch.setattr(run, "room", lambda: rooms.pop(0))
    began = world.clock.now
    assert shell("restore-now") == 0
    assert world.clock.now - began < 30
    names = [e["event"] for e in world.events()]
    assert names.count("restore_waits") == times
    assert "restore_failed" not in names
    assert rooms == []
    assert "this host can't start another process; the restore continues as soon as it can" in shell.err
    assert world.state.mark() is None


def test_what_fails_with_all_processes_is_a_failed_restore(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.open()
    assert run.no_room(OSError(errno.EAGAIN, "earlier"))

    def restore(_self: restorer.Restorer) -> Any:
        raise restorer.RestoreFailed("no voice")

    monkeypatch.setattr(restorer.Restorer, "restore", restore)
    assert shell("restore-now") == 1
    assert [e["event"] for e in world.events()][-1] == "restore_failed"


NOBODY = {
    "mt-run.service": {"ActiveState": "inactive"},
    "mt-restore.service": {"ActiveState": "inactive"},
}


def test_somebody_looks_from_before_the_mark_until_it_has_gone(world: World, shell: Shell) -> None:
    """An opening that is killed right after the mark has a watch over it already."""
    seen: list[tuple[str, list[str]]] = []
    world.on_entry = lambda event, _facts: seen.append((event, watching(world)))
    shell.open()
    assert dict(seen)["opened"] == ["start"]
    world.runner().run()
    assert watching(world) == ["start"]
    assert shell("restore-now") == 0
    assert world.state.mark() is None
    assert watching(world) == ["start", "stop"]
    assert ("systemctl", "stop", "--no-block", watch.TIMER) in world.log


def test_a_trial_that_nobody_would_watch_is_not_opened(world: World, shell: Shell) -> None:
    world.systemctl_rc[f"start {watch.TIMER}"] = 5
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "mt-watch.timer does not start; install the program again" in shell.err
    assert world.state.mark() is None
    assert world.docker.all() == []


def test_an_opening_that_failed_leaves_nobody_looking(world: World, shell: Shell) -> None:
    world.services["nav"].pid = 0
    assert shell("open", f"--run={world.plan.run}") == 1
    assert watching(world) == ["start", "stop"]


def test_an_open_mark_at_boot_is_watched(world: World, shell: Shell) -> None:
    shell.open()
    world.log.clear()
    assert shell("recover") == 0
    assert watching(world) == ["start"]


@pytest.mark.parametrize(
    ("facts", "up_s", "waits_s"),
    [
        ({"ActiveState": "active"}, 0.0, 0.0),
        # There is none.
        ({"ActiveState": "inactive"}, 0.0, 0.0),
        ({"ActiveState": "activating"}, 20.0, 20.0),
        # It waits for its own turn.
        ({"ActiveState": "inactive", "Job": "7"}, 20.0, 20.0),
        # It hangs.
        ({"ActiveState": "activating", "Job": "7"}, math.inf, program.DOCKER_UP_S),
        # systemd tells nothing.
        ({}, math.inf, 0.0),
    ],
)
def test_a_boot_waits_for_docker_for_a_while(
    world: World, shell: Shell, facts: dict[str, str], up_s: float, waits_s: float
) -> None:
    from fakeworld import Beside

    shell.open()
    docker = world.beside["docker.service"] = Beside(facts=facts)
    world.clock.after(up_s, lambda: docker.facts.update(ActiveState="active", Job=""))
    world.log.clear()
    began = world.clock.now
    assert shell("recover") == 0
    assert world.clock.now - began == pytest.approx(waits_s, abs=1)
    assert watching(world) == ["start"]
    assert world.state.asked("asked") == "boot"


STANDS: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "opening killed after the mark": (NOBODY, "mt-run is inactive; mt-restore is inactive"),
    "restore stopped by hand": ({**NOBODY, "mt-run.service": {"ActiveState": "failed"}}, "mt-run is failed"),
    "runner that gives no sign": (
        {
            "mt-run.service": {
                "MainPID": 4_000_000,
                "WatchdogTimestampMonotonic": 1,
                "ExecMainStartTimestampMonotonic": 1,
            }
        },
        "mt-run stands still: PID 4000000 has sent no heartbeat for",
    ),
    "restorer that gives no sign": (
        {
            "mt-run.service": {"ActiveState": "failed"},
            "mt-restore.service": {
                "ActiveState": "activating",
                "Job": 7,
                "MainPID": 4_000_000,
                "WatchdogTimestampMonotonic": 1,
                "ExecMainStartTimestampMonotonic": 1,
            },
        },
        "mt-restore stands still: PID 4000000",
    ),
}


@pytest.mark.parametrize("name", STANDS)
def test_where_nobody_is_at_work_the_watch_restores(world: World, shell: Shell, name: str) -> None:
    units, words = STANDS[name]
    shell.open()
    world.watched = dict(units)
    world.log.clear()
    assert shell("status") == 0
    assert "STALLED   nobody is at work on it: mt-run" in shell.out
    assert words in shell.out
    assert "mt-watch restores within a minute" in shell.out
    assert shell("watch") == 0
    assert words in shell.out
    # It ends what stands still, too; a mere start would be merged with the job of the one that hangs.
    assert systemctl(world) == ["restart --no-block mt-restore.service"]
    assert words in world.events()[-1]["reason"]
    assert world.named()[-1] == "nobody_at_work"
    world.watched = {}
    assert shell("restore-now") == 0
    assert world.state.mark() is None
    assert world.events()[-2]["restored_by"] == "watch"


@pytest.mark.parametrize("at_work", ["runner", "restorer"])
def test_where_somebody_is_at_work_the_watch_does_nothing(world: World, shell: Shell, at_work: str) -> None:
    shell.open()
    if at_work == "restorer":
        world.watched = {
            "mt-run.service": {"ActiveState": "inactive"},
            "mt-restore.service": {"ActiveState": "activating"},
        }
    world.log.clear()
    before = world.events()
    assert shell("watch") == 0
    assert world.done("systemctl") == []
    assert world.events() == before
    assert world.state.asked("asked") == ""
    assert shell("status") == 0
    assert "STALLED" not in shell.out


def test_a_restore_that_was_asked_for_keeps_its_name(world: World, shell: Shell) -> None:
    shell.open()
    world.state.ask("asked", "ann")
    world.watched = dict(NOBODY)
    assert shell("watch") == 0
    assert world.state.asked("asked") == "ann"


def test_a_moment_between_two_units_is_nobodys_fault(world: World, shell: Shell) -> None:
    """Between the mark and the runner, and between the runner's end and the restore."""
    shell.open()
    world.watched = dict(NOBODY)
    world.clock.after(watch.AGAIN_S / 2, world.watched.clear)
    world.log.clear()
    assert shell("watch") == 0
    assert world.done("systemctl") == []


def test_without_a_trial_the_watch_ends_itself(world: World, shell: Shell) -> None:
    assert shell("watch") == 0
    assert watching(world) == ["stop"]
    assert systemctl(world) == []


def test_while_a_trial_is_opened_the_watch_stays(world: World, shell: Shell) -> None:
    with world.state.lock("run other (from bob)"):
        assert shell("watch") == 0
    assert watching(world) == []


def test_the_status_says_when_nobody_looks(world: World, shell: Shell) -> None:
    shell.open()
    world.watched = {**NOBODY, watch.TIMER: {"ActiveState": "inactive"}}
    assert shell("status") == 0
    assert "mt-watch is not running; restore by hand" in shell.out
    assert shell("status", "--json") == 0
    assert shell.json["nobody_at_work"] == "mt-run is inactive; mt-restore is inactive"
    assert shell.json["watched"] is False


def test_a_runner_that_stands_still_hears_no_abort(world: World, shell: Shell) -> None:
    shell.open()
    world.units["mt-run.service"] = "active"
    world.watched, _words = STANDS["runner that gives no sign"]
    world.log.clear()
    assert shell("abort", "--by=ann") == 0
    assert systemctl(world) == ["start --no-block mt-restore.service"]


@pytest.mark.parametrize("verb", ["run", "restore-now"])
def test_runner_and_restorer_give_signs_of_life(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(watch, "begin", lambda: begun.append(verb))
    shell(verb)
    assert begun == [verb]


def watching(world: World) -> list[str]:
    """What was asked of the timer that looks whether somebody is at work."""
    return [entry[1] for entry in world.done("systemctl") if entry[-1] == watch.TIMER]


def test_an_attended_run_waits_for_its_controller(world: World, shell: Shell) -> None:
    shell.open()
    assert world.state.furthest() == "snapshot"


def test_an_unattended_run_may_go_all_the_way(
    world_of: WorldOf, plan_data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan_data["attended"] = False
    world = world_of(plan_data)
    Shell(world, capsys).open()
    assert world.state.furthest() == "measure"


def test_two_trials_at_once_are_refused_with_the_holders_name(world: World, shell: Shell) -> None:
    shell.open("ann@laptop")
    mark = world.state.mark()
    assert mark
    world.log.clear()
    assert shell("open", f"--run={world.plan.run}", "--controller=bob") == 3
    assert shell.err == f"this host is held by run {world.plan.run} since {mark.since} (from ann@laptop)\n"
    assert shell.out == ""
    assert world.log == []
    assert world.state.mark() == mark


def test_two_that_open_in_the_same_moment_are_one_and_a_refusal(world: World, shell: Shell) -> None:
    with world.state.lock("run other (from bob)"):
        assert shell("open", f"--run={world.plan.run}") == 3
    assert "another trial is being prepared on this host right now: run other (from bob) since 20" in shell.err
    assert world.log == []


@pytest.mark.parametrize("moment", ["phase_started snapshot", "prompt", "opened"])
def test_a_terminal_that_goes_away_leaves_no_half_of_an_opening(world: World, shell: Shell, moment: str) -> None:
    """Ctrl-C or a cut network in phase 2: sshd hangs up on whatever ran in that connection."""
    hung_up: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: hung_up.append(number))
    world.at(moment, lambda: os.kill(os.getpid(), signal.SIGHUP))
    try:
        shell.open()
        assert hung_up == []
        os.kill(os.getpid(), signal.SIGHUP)
        assert hung_up == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert world.state.mark()
    assert world.done("systemd-run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("moment", ["phase_started snapshot", "prompt", "opened"])
def test_an_opening_that_is_asked_to_end_or_takes_too_long_takes_back_what_it_has_done(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, moment: str, number: signal.Signals
) -> None:
    """Its containers would stay, and its mark would be without a runner."""
    before = signal.getsignal(number)

    real = containers.remove

    def disturbed(*args: Any, **options: Any) -> int:
        os.kill(os.getpid(), number)
        return real(*args, **options)

    def ask() -> None:
        # And once more, while it takes back.
        monkeypatch.setattr(containers, "remove", disturbed)
        os.kill(os.getpid(), number)

    world.at(moment, ask)
    late = number == signal.SIGALRM
    words = f"the opening did not end within {world.plan.open_bound_s:.0f} s"
    assert shell("open", f"--run={world.plan.run}") == (1 if late else 130)
    assert (world.state.mark(), world.docker.all()) == (None, [])
    assert world.done("stop", "start") == []
    assert world.events()[-1]["reason"] == (words if late else "interrupted")
    assert (words in shell.err) is late
    assert signal.getsignal(number) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_opening_has_its_whole_time_and_no_more(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda _which, seconds, _again=0.0: armed.append(seconds))
    assert shell("open", f"--run={world.plan.run}") == 0
    assert armed[0] == world.plan.open_bound_s
    # It ends with the opening: an alarm would end what comes after.
    assert set(armed[1:]) == {0}
    shell("abort")


def test_what_an_opening_that_was_killed_has_left_is_removed(world: World, shell: Shell) -> None:
    """SIGKILL leaves its containers, and no mark."""
    world.docker.add("panda-llamacpp-e4b", RUN_LABEL, world.plan.run)
    world.docker.add("mt-client-tenants", RUN_LABEL, world.plan.run, status="running")
    world.docker.add("somebody", "other", "x")
    with world.state.lock("run next (from bob)"):
        # They may be those of the next one, which is being prepared.
        assert shell("restore-now") == 0
        assert len(world.docker.all()) == 3
    assert shell("restore-now") == 0
    assert "2 containers that an opening has left were removed" in shell.out
    assert [found["name"] for found in world.docker.all()] == ["somebody"]
    assert shell("restore-now") == 0
    assert shell.out == "nothing to restore: no trial holds this host\n"


def test_a_run_without_a_plan(shell: Shell) -> None:
    assert shell("open", "--run=nobody") == 1
    assert "nobody/plan.json" in shell.err


def test_a_run_is_opened_once(world: World, shell: Shell) -> None:
    """What a run left (signs, summaries, its journal) would be taken for the second one's."""
    shell.open()
    world.runner().run()
    assert shell("restore-now") == 0
    assert shell("open", f"--run={world.plan.run}") != 0
    assert world.state.mark() is None


@pytest.mark.parametrize("trouble", ["ill", "docker", "gpu", "sample"])
def test_what_can_not_be_opened_leaves_nothing(world: World, shell: Shell, trouble: str) -> None:
    words = {"ill": "phone: not running", "docker": "Docker daemon", "gpu": "no NVML", "sample": "could not be sampled"}
    if trouble == "ill":
        world.stop("phone", by="somebody")
    elif trouble == "docker":
        (world.docker.folder / "refuse-create").write_text("Cannot connect to the Docker daemon")
    elif trouble == "gpu":
        world.card.error = "no NVML"
    else:
        world.client_codes["tenants"] = 4
    assert shell("open", f"--run={world.plan.run}") == 1
    assert words[trouble] in shell.err
    assert world.state.mark() is None
    assert world.docker.all() == []
    assert systemctl(world) == []
    failed = world.events()[-1]
    assert (failed["event"], failed["phase"], failed["by"]) == ("phase_failed", "snapshot", "program")
    assert words[trouble] in failed["reason"] + failed["found"]
    assert {"expected", "found", "todo"} <= set(failed)


def test_what_went_wrong_is_told_in_one_line_without_empty_parts(world: World, shell: Shell) -> None:
    world.stop("phone", by="somebody")
    shell("open", f"--run={world.plan.run}")
    assert shell.err == (
        "reason: a tenant is not healthy; expected: every tenant healthy; "
        "found: phone: not running; todo: nothing was touched\n"
    )


def test_a_dead_docker_does_not_hide_why(world: World, shell: Shell) -> None:
    (world.docker.folder / "down").write_text("")
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "could not be prepared" in shell.err
    assert world.named()[-1] == "phase_failed snapshot"


def test_a_full_disk_does_not_hide_why(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    world.stop("phone", by="somebody")
    write = journal.Journal.write

    def full(self: journal.Journal, name: str, **facts: Any) -> None:
        if name == "phase_failed":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, **facts)

    monkeypatch.setattr(journal.Journal, "write", full)
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "phone: not running" in shell.err
    assert world.docker.all() == []


def test_without_room_for_the_journal_nothing_is_left(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "reserve", full)
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "no room for the journal" in shell.err
    assert (world.state.mark(), world.state.epoch(), world.docker.all()) == (None, 0, [])
    assert world.done("stop", "start") == []
    assert world.named()[-1] == "phase_failed snapshot"


def test_a_rehearsal_from_open_to_its_end(
    world_of: WorldOf, plan_data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world = world_of({**plan_data, "rehearsal": True})
    shell = Shell(world, capsys)
    epoch = shell.open()
    assert world.docker.all() == []
    assert shell.ours("advance", epoch, "--phase=window") == 0
    assert shell("run") == 0
    assert world.named()[-1] == "phase_done window"
    assert shell.ours("poll", epoch) == 0
    assert (shell.json["phase"], shell.json["samples"]) == ("window", [])
    assert shell("restore-now") == 0
    assert all(world.up(name) for name in world.services)
    assert world.events()[-3]["times"]["start_s"].keys() == {"llamacpp", "chatterbox"}
    assert world.events()[-1]["event"] == "rehearsed"
    assert world.events()[-1]["ok"] is True
    # The next trial on this host finds it.
    trial = dataclasses.replace(world.plan, rehearsal=False)
    seen = rehearsal.judge(trial, Shown(), world.state.root, rehearsal.of_program(kept.own()))
    assert seen == (True, f"rehearsed at {recorded(world)['wall']} (run {world.plan.run})")


class Shown:
    """The host of the made-up world as a contract sees it."""

    proc = Path("/proc")

    def run(self, argv: Sequence[str]) -> run.Ran:
        return self.root(*argv)

    def root(self, *argv: str) -> run.Ran:
        if argv[-1].endswith("rehearsed.json"):
            return run.Ran(0, Path(argv[-1]).read_text(), "")
        return tenants.HERE.root(*argv)


def recorded(world: World) -> dict[str, Any]:
    """The newest record of a rehearsal."""
    found: dict[str, Any] = json.loads((world.state.root / "rehearsed.json").read_text())["rehearsals"][0]
    return found


@pytest.mark.parametrize("trouble", ["aborted", "voice", "disk", "a trial"])
def test_what_did_not_go_well_at_once_is_no_record(
    world_of: WorldOf,
    plan_data: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    world = world_of({**plan_data, "rehearsal": trouble != "a trial"})
    shell = Shell(world, capsys)
    epoch = shell.open()
    shell.ours("advance", epoch, "--phase=measure")
    if trouble == "aborted":
        shell("abort", "--by=ann")
    assert shell("run") == (1 if trouble == "aborted" else 0)
    if trouble == "voice":
        world.services["chatterbox"].broken = "no voice"
        assert shell("restore-now") == 1
        world.services["chatterbox"].broken = ""
    if trouble == "disk":

        def full(*_args: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(rehearsal, "write_atomic", full)
    # The host is back all the same.
    assert shell("restore-now") == 0
    assert world.state.mark() is None
    assert not (world.state.root / "rehearsed.json").exists()
    told = [e for e in world.events() if e["event"] == "rehearsed"]
    assert [e["ok"] for e in told] == ([] if trouble == "a trial" else [False])
    if told:
        assert "this rehearsal is not recorded as passed" in shell.out
        assert {"aborted": "aborted by ann", "voice": "chatterbox", "disk": "No space"}[trouble] in told[0]["reason"]


def test_a_runner_that_does_not_start_gives_the_host_back(world: World, shell: Shell) -> None:
    world.runner_refused = ["Failed to start transient service unit: no bus"] * 1000
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "no bus; see: journalctl -u mt-run" in shell.err
    assert systemctl(world)[-1] == "start mt-restore.service"


def test_a_runner_that_ended_at_once_is_not_started_a_second_time(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end has begun the restore, which raises the epoch; a runner after that would find no trial."""
    command = world._run

    def ends(argv: list[str], *args: Any, **options: Any) -> run.Ran:
        done = command(argv, *args, **options)
        if argv[0] == "systemd-run":
            world.state.raise_epoch()
        return done

    world.runner_refused = ["Job for mt-run.service failed"] * 1000
    monkeypatch.setattr(run, "command", ends)
    assert shell("open", f"--run={world.plan.run}") == 1
    assert len(world.done("systemd-run")) == 1


# The program that an open run keeps.


def replace_program(world: World) -> None:
    """Another version is installed."""
    world.program.unlink()
    with zipfile.ZipFile(world.program, "w") as archive:
        archive.writestr("__main__.py", "newer = True")


def test_an_open_run_keeps_its_program_until_its_end(world: World, shell: Shell) -> None:
    shell.open()
    copy = world.run_dir / "model-trial"
    assert copy.read_bytes() == world.program.read_bytes()
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    assert (world.state.root / "kept").read_text() == f"{digest}  runs/{world.plan.run}/model-trial\n"
    assert (copy.stat().st_mode & 0o777, (world.state.root / "kept").stat().st_mode & 0o777) == (0o600, 0o600)
    world.runner().run()
    assert shell("restore-now") == 0
    assert not (world.state.root / "kept").exists()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["status"], True),
        (["status", "--json"], True),
        (["restore", "--by=ann", "--no-wait"], True),
        (["abort"], True),
        (["advance", "--run=r", "--epoch=1", "--phase=window"], True),
        (["poll", "--run=r", "--epoch=1"], True),
        (["run"], True),
        (["restore-now"], True),
        (["recover"], True),
        (["open", "--run=r"], False),
        (["unpack", "/nowhere"], False),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_another_program_goes_on_as_the_one_that_the_open_run_keeps(
    world: World, shell: Shell, words: list[str], kept: bool
) -> None:
    shell.open()
    replace_program(world)
    whole = ["--root", str(world.state.root), *words]
    if not kept:
        assert shell(*words) != 0
        return
    with pytest.raises(GoesOn) as caught:
        shell(*words)
    assert caught.value.args == (sys.executable, [sys.executable, str(world.run_dir / "model-trial"), *whole])


@pytest.mark.parametrize("trouble", ["the same", "not open", "closed"])
def test_without_an_open_run_or_with_its_own_program_it_acts_itself(world: World, shell: Shell, trouble: str) -> None:
    if trouble != "not open":
        shell.open()
    if trouble == "closed":
        assert shell("restore-now") == 0
    if trouble != "the same":
        replace_program(world)
    assert shell("status") == 0
    assert shell("restore-now") == 0


def test_a_program_that_was_removed_meanwhile_goes_on_as_the_kept_one(world: World, shell: Shell) -> None:
    shell.open()
    world.program.unlink()
    with pytest.raises(GoesOn):
        shell("status")


@pytest.mark.parametrize("trouble", ["changed", "gone", "torn", "of another run", "refused"])
def test_a_damaged_copy_is_told_and_the_installed_program_restores(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    shell.open()
    world.runner().run()
    copy, names = world.run_dir / "model-trial", world.state.root / "kept"
    if trouble == "changed":
        copy.write_bytes(copy.read_bytes() + b"x")
    elif trouble == "gone":
        copy.unlink()
    elif trouble == "torn":
        names.write_text("abc")
    elif trouble == "of another run":
        names.write_text(names.read_text().replace(world.plan.run, "another"))
    else:
        replace_program(world)

        def refuse(*_args: Any) -> None:
            raise OSError(errno.ENOEXEC, "Exec format error")

        monkeypatch.setattr(os, "execv", refuse)
    assert shell("restore-now") == 0
    assert "the installed one is used" in shell.err
    [told] = [e for e in world.events() if e["event"] == "copy_not_used"]
    assert told["by"] == "restorer"
    assert told["reason"] in shell.err
    assert world.state.mark() is None


def test_a_damaged_copy_is_journaled_once(world: World, shell: Shell) -> None:
    shell.open()
    world.runner().run()
    (world.run_dir / "model-trial").unlink()
    world.services["llamacpp"].broken = "no"
    assert [shell("restore-now"), shell("restore-now")] == [1, 1]
    assert world.named().count("copy_not_used") == 1


def test_without_a_copy_nothing_is_opened(world: World, shell: Shell) -> None:
    """As from a checkout: there is no file that could be kept."""
    world.program.write_text("no zipapp")
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "no copy of the program could be kept" in shell.err
    assert (world.state.mark(), world.docker.all(), world.done("systemd-run")) == (None, [], [])
    assert not (world.state.root / "kept").exists()


# advance


def test_advance_lets_the_run_go_on(world: World, shell: Shell) -> None:
    epoch = shell.open()
    assert shell.ours("advance", epoch, "--phase=window") == 0
    assert shell.json == {"furthest": "window"}
    assert shell.ours("advance", epoch, "--phase=snapshot") == 0
    assert shell.json == {"furthest": "window"}


def test_advance_renews_the_lease(world: World, shell: Shell) -> None:
    epoch = shell.open()
    world.controller = lambda: None
    world.clock.sleep(50)
    shell.ours("advance", epoch, "--phase=window")
    assert world.state.lease_age_s() < 0.001


def test_a_phase_nobody_knows(world: World, shell: Shell) -> None:
    epoch = shell.open()
    assert shell.ours("advance", epoch, "--phase=restore") == 2
    assert shell.err == "--phase: expected one of snapshot, window, candidate, measure, found 'restore'\n"


def test_a_stale_epoch_is_refused_with_who_restored_and_when(world: World, shell: Shell) -> None:
    epoch = shell.open()
    world.state.ask("asked", "ann by hand")
    assert shell("restore-now") == 0
    restored = [e for e in world.events() if e["event"] == "restored"][-1]
    assert shell.ours("advance", epoch, "--phase=window") == 3
    assert f"restored by ann by hand at {restored['wall']}" in shell.err
    assert world.state.furthest() == "snapshot"


def test_a_run_that_is_being_restored_is_stale_already(world: World, shell: Shell) -> None:
    epoch = shell.open()
    restorer.Restorer(world.plan, world.state, world.card, "boot").journal.write("restore_started", restored_by="boot")
    assert shell.ours("advance", epoch, "--phase=window") == 3
    assert "restored by boot at" in shell.err


# poll


def renewed(world: World) -> bool:
    """Whether the lease was renewed just now."""
    return world.state.lease_age_s() < 0.001


@pytest.fixture
def alone(world: World) -> World:
    """The world without a controller: only the verb renews."""
    world.controller = lambda: None
    return world


def test_poll_renews_the_holders_lease(alone: World, shell: Shell) -> None:
    epoch = shell.open()
    alone.clock.sleep(50)
    assert not renewed(alone)
    assert shell.ours("poll", epoch) == 0
    assert renewed(alone)


@pytest.mark.parametrize("who", ["an old epoch", "another run", "after a restore began"])
def test_poll_renews_nobody_elses_lease(alone: World, shell: Shell, who: str) -> None:
    epoch = shell.open()
    if who == "after a restore began":
        alone.state.raise_epoch()
    alone.clock.sleep(50)
    if who == "another run":
        other = alone.state.run_dir("other-run")
        other.mkdir()
        (other / "plan.json").write_text((alone.run_dir / "plan.json").read_text())
        assert shell("poll", "--run=other-run", f"--epoch={epoch}") == 0
        assert shell.json["open"] is False
    else:
        assert shell.ours("poll", epoch - (who == "an old epoch")) == 0
    assert alone.state.lease_age_s() > 49


def test_poll_tells_what_is_new(world: World, shell: Shell) -> None:
    epoch = shell.open()
    assert shell.ours("poll", epoch, "--since=0") == 0
    answer = shell.json
    assert [e["event"] for e in answer["events"]][-1] == "opened"
    assert (answer["run"], answer["open"], answer["phase"]) == (world.plan.run, True, "snapshot")
    last = answer["events"][-1]["seq"]
    assert shell.ours("poll", epoch, f"--since={last - 1}") == 0
    assert [e["seq"] for e in shell.json["events"]] == [last]


def test_poll_does_not_wait_unless_asked(world: World, shell: Shell) -> None:
    epoch = shell.open()
    began = world.clock.now
    assert shell.ours("poll", epoch, "--since=999") == 0
    assert shell.json["events"] == []
    assert world.clock.now == began


def test_poll_waits_for_something_new(world: World, shell: Shell) -> None:
    epoch = shell.open()
    seq = world.events()[-1]["seq"]
    writer = journal.Journal(world.state.journal_path(world.plan.run), world.plan.run, 1, "runner", required=True)
    began = world.clock.now
    world.clock.after(2, lambda: writer.write("said"))
    assert shell.ours("poll", epoch, f"--since={seq}", "--wait=5") == 0
    assert [e["event"] for e in shell.json["events"]] == ["said"]
    assert 2 <= world.clock.now - began < 2.2


def test_poll_answers_in_time_though_nothing_is_new(alone: World, shell: Shell) -> None:
    epoch = shell.open()
    seq = alone.events()[-1]["seq"]
    began = alone.clock.now
    assert shell.ours("poll", epoch, f"--since={seq}", "--wait=5") == 0
    assert shell.json["events"] == []
    assert 5 <= alone.clock.now - began < 5.2
    # Renewed when it was asked: whether the asker still lives after that, nobody knows.
    assert 5 <= alone.state.lease_age_s() < 5.2


def test_poll_before_anything_was_written(world: World, shell: Shell) -> None:
    assert shell("poll", f"--run={world.plan.run}", "--epoch=0") == 0
    assert shell.json["events"] == []
    assert shell.json["phase"] == ""


def test_poll_of_an_unknown_run(shell: Shell) -> None:
    assert shell("poll", "--run=nobody", "--epoch=1") == 1
    assert "poll: " in shell.err
    assert "nobody/plan.json" in shell.err


def test_poll_of_a_finished_run_reads_a_plan_of_any_format(world: World, shell: Shell) -> None:
    """Its play may be another version's than the program that is there by now."""
    epoch = shell.open()
    world.state.ask("asked", "ann")
    assert shell("restore-now") == 0
    path = world.run_dir / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99, "a_field_of_the_future": 1}))
    assert shell.ours("poll", epoch) == 0
    assert (shell.json["open"], shell.json["remaining_s"]) == (False, world.plan.limits.cap_s)


def test_poll_counts_the_window_from_the_first_stop(world: World, shell: Shell) -> None:
    epoch = shell.open()
    assert shell.ours("poll", epoch) == 0
    assert (shell.json["window_s"], shell.json["remaining_s"]) == (0.0, 1500.0)
    world.runner().run()
    stopped = next(e["t_s"] for e in world.events() if e["event"] == "tenant_stopping")
    assert shell.ours("poll", epoch) == 0
    assert shell.json["window_s"] == round(world.clock.now - stopped, 1)
    assert shell.json["remaining_s"] == round(1500 - (world.clock.now - stopped), 1)
    assert shell.json["phase"] == "measure"


def test_poll_after_the_end_tells_who_restored(world: World, shell: Shell) -> None:
    epoch = shell.open()
    world.runner().run()
    assert shell("restore-now") == 0
    assert shell.ours("poll", epoch) == 0
    assert (shell.json["open"], shell.json["phase"]) == (False, "restore")
    assert shell.json["events"][-2]["event"] == "restored"


def test_progress_by_sample_file(world: World, shell: Shell) -> None:
    epoch = shell.open()
    world.runner().run()
    assert shell.ours("poll", epoch) == 0
    found = {s["name"]: s for s in shell.json["samples"]}
    assert found["nav-candidate"] == {"name": "nav-candidate", "n": 100, "ok": 100, "p50_ms": 20.0}
    assert shell.json["samples"][-1]["name"] == "describe-candidate"


def test_half_written_samples_disturb_nobody(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    lines = [
        json.dumps({"seq": 1, "ok": True, "latency_ms": 10.0}),
        json.dumps({"seq": 2, "ok": False}),
        json.dumps({"seq": 3, "ok": True, "latency_ms": 31.0}),
    ]
    whole = json.dumps({"seq": 4, "parsed": {"word": "vorwärts"}}, ensure_ascii=False).encode()
    for cut in range(len(whole)):
        (tmp_path / "samples" / "nav.jsonl").write_bytes("\n".join(lines).encode() + b"\n" + whole[:cut])
        assert program.samples(tmp_path) == [{"name": "nav", "n": 3, "ok": 2, "p50_ms": 20.5}]
    (tmp_path / "samples" / "nav.jsonl").write_bytes(b'{"seq": 1, "ok": false}\n')
    assert program.samples(tmp_path) == [{"name": "nav", "n": 1, "ok": 0, "p50_ms": None}]


@pytest.mark.parametrize("kind", ["dangling link", "link", "folder", "pipe"])
def test_what_else_lies_among_the_samples_disturbs_nobody(tmp_path: Path, kind: str) -> None:
    """The folder is a container's own."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "nav.jsonl").write_text('{"ok": true, "latency_ms": 5}\n')
    (tmp_path / "secret").write_text('{"ok": true, "latency_ms": 7}\n' * 9)
    odd = tmp_path / "samples" / "odd.jsonl"
    if kind == "folder":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(tmp_path / ("secret" if kind == "link" else "nowhere"))
    found = {sample["name"]: sample for sample in program.samples(tmp_path)}
    assert found["nav"]["ok"] == 1
    assert found.get("odd", {"n": 0})["n"] == 0


@pytest.mark.parametrize("latency", ['"5"', "null", "[5]", "{}"])
def test_a_latency_that_is_no_number_is_not_counted(tmp_path: Path, latency: str) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "nav.jsonl").write_text(f'{{"ok": true, "latency_ms": {latency}}}\n')
    assert program.samples(tmp_path) == [{"name": "nav", "n": 1, "ok": 0, "p50_ms": None}]


def test_poll_renews_once_a_call(alone: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = shell.open()
    renewals: list[float] = []
    renew = journal.State.renew

    def count(state: journal.State) -> None:
        renewals.append(alone.clock.now)
        renew(state)

    monkeypatch.setattr(journal.State, "renew", count)
    began = alone.clock.now
    assert shell.ours("poll", epoch, "--since=999", "--wait=5") == 0
    assert renewals == [began]


def test_poll_tells_on_a_full_disk_too(alone: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is left to lapse; who watches a restore must still see it."""
    epoch = shell.open()
    alone.clock.sleep(50)

    def full(_state: journal.State) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.State, "renew", full)
    assert shell.ours("poll", epoch) == 0
    assert shell.json["open"] is True
    assert alone.state.lease_age_s() > 49


@pytest.mark.parametrize("name", ["../../etc", "..", "/etc", "a/b", "-x", "\x1b[31m"])
@pytest.mark.parametrize("verb", ["open", "advance", "poll"])
def test_a_run_that_leads_elsewhere_is_refused_in_a_sentence(world: World, shell: Shell, verb: str, name: str) -> None:
    words = {"open": [], "advance": ["--epoch=1", "--phase=window"], "poll": ["--epoch=1"]}
    assert shell(verb, f"--run={name}", *words[verb]) == 1
    assert shell.out == ""
    assert shell.err.startswith(f"{verb}: expected the name of a run ")
    assert shell.err.count("\n") == 1
    assert "\x1b" not in shell.err
    assert world.log == []


# abort, restore, recover


def test_abort_leaves_word_for_the_runner(world: World, shell: Shell) -> None:
    shell.open()
    world.units["mt-run.service"] = "active"
    world.log.clear()
    assert shell("abort", "--by=ann") == 0
    assert world.plan.run in shell.out
    assert world.state.asked("abort") == "ann"
    assert systemctl(world) == []
    assert shell("run") == 1
    assert "aborted by ann" in shell.err


@pytest.mark.parametrize("runner_state", ["inactive", "failed", "active"])
def test_abort_that_no_runner_hears_is_a_restore(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, runner_state: str
) -> None:
    """It never started, it has ended, or the disk takes no word: the host must come back anyway."""
    shell.open()
    world.log.clear()
    world.units["mt-run.service"] = runner_state
    with monkeypatch.context() as patch:
        if runner_state == "active":
            patch.setattr(journal, "write_atomic", full)
        assert shell("abort", "--by=ann") == 0
    assert "has no runner left; the host restores itself now" in shell.out
    assert systemctl(world) == ["start --no-block mt-restore.service"]
    assert shell("restore-now") == 0
    assert world.state.mark() is None


def test_abort_without_a_trial(world: World, shell: Shell) -> None:
    assert shell("abort") == 0
    assert shell.out == "no trial is open on this host\n"
    assert not (world.state.root / "abort").exists()


def test_every_restore_is_the_same_unit(world: World, shell: Shell) -> None:
    shell.open()
    world.log.clear()
    assert shell("restore", "--by=ann") == 0
    assert shell("restore", "--no-wait") == 0
    assert shell("recover") == 0
    assert systemctl(world) == ["start mt-restore.service"] + ["start --no-block mt-restore.service"] * 2
    assert world.state.asked("asked") == "boot"


@pytest.mark.parametrize(("words", "who"), [(["--by=ann"], "ann"), ([], "hand")])
def test_a_restore_remembers_who_asked(world: World, shell: Shell, words: list[str], who: str) -> None:
    shell.open()
    shell("restore", *words)
    assert shell("restore-now") == 0
    assert f"restored and closed by {who}" in shell.out
    assert world.events()[-2]["restored_by"] == who


def test_a_restore_that_fails_is_one(world: World, shell: Shell) -> None:
    shell.open()
    world.systemctl_rc["start mt-restore.service"] = 5
    assert shell("restore") == 1


def test_who_restores_by_hand_sees_what_became_of_it(world: World, shell: Shell) -> None:
    assert shell("restore") == 0
    assert shell.out.startswith("held by   nobody\n")
    failing(world, shell)
    attempt(world, shell)
    world.systemctl_rc["start mt-restore.service"] = 1
    assert shell("restore") == 1
    assert "NOT BACK  chatterbox: " in shell.out
    assert "next try  by itself, 1 s after that" in shell.out.splitlines()
    # A play follows the journal instead.
    assert shell("restore", "--no-wait") == 0
    assert shell.out == ""


def test_a_restore_without_a_trial_leaves_no_word(world: World, shell: Shell) -> None:
    assert shell("restore") == 0
    assert not (world.state.root / "asked").exists()
    assert systemctl(world) == ["start mt-restore.service"]


# restore-now


def test_nothing_to_restore(shell: Shell) -> None:
    assert shell("restore-now") == 0
    assert shell.out == "nothing to restore: no trial holds this host\n"


def test_a_restore_shows_its_checks(world: World, shell: Shell) -> None:
    shell.open()
    world.runner().run()
    assert shell("restore-now") == 0
    lines = shell.out.splitlines()
    assert [line.split(":")[0] for line in lines[:8]] == [f"check {i} ok" for i in range(1, 9)]
    assert lines[8] == f"run {world.plan.run} restored and closed by host"
    assert world.state.mark() is None
    assert shell("restore-now") == 0
    assert "nothing to restore" in shell.out


def test_an_incomplete_restore_says_what_and_is_one(world: World, shell: Shell) -> None:
    shell.open()
    world.runner().run()
    world.services["chatterbox"].broken = "no such voice"
    assert shell("restore-now") == 1
    assert f"restore of {world.plan.run} is not complete" in shell.err
    assert "no such voice" in shell.err
    failed = world.events()[-1]
    assert (failed["event"], failed["restored_by"], failed["by"]) == ("restore_failed", "host", "restorer")
    assert "no such voice" in failed["reason"]
    world.services["chatterbox"].broken = ""
    assert shell("restore-now") == 0


def test_trouble_nobody_thought_of_is_journaled_and_retried(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.open()
    with monkeypatch.context() as patch:

        def fail(_self: restorer.Restorer) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(restorer.Restorer, "restore", fail)
        assert shell("restore-now") == 1
    assert "Input/output error" in world.events()[-1]["reason"]
    assert shell("restore-now") == 0


def test_without_a_gpu_the_tenants_come_back(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.open()
    world.runner().run()

    def no_card(_index: int) -> gpu.Card:
        raise gpu.GpuError("the driver is gone")

    monkeypatch.setattr(gpu, "Card", no_card)
    assert shell("restore-now") == 1
    assert "check 1 VRAM is back" in shell.err
    assert "the driver is gone" in shell.err
    assert all(world.up(name) for name in world.services)


@pytest.mark.parametrize("text", ["", "torn {", "[]", '{"run": 7}', '{"run": "../../etc"}'])
def test_an_unreadable_mark_means_the_run_opened_last(world: World, shell: Shell, text: str) -> None:
    epoch = shell.open()
    world.runner().run()
    (world.state.root / "open").write_text(text)
    # The caller is told which run it is: a play that restores polls it.
    assert shell("status", "--json") == 0
    assert shell.json["open"]["run"] == world.plan.run
    assert shell.ours("poll", epoch) == 0
    assert shell.json["open"] is True
    assert shell.ours("advance", 0, "--phase=measure") == 3
    assert shell("restore-now") == 0
    assert all(world.up(name) for name in world.services)
    assert world.state.mark() is None


def test_a_mark_without_any_run_is_told(world: World, shell: Shell) -> None:
    (world.state.root).mkdir(exist_ok=True)
    (world.state.root / "open").write_text("torn")
    assert shell("restore-now") == 1
    assert "plan.json" in shell.err


# restore-now, again and again


def failing(world: World, shell: Shell) -> World:
    """The host after a window, with a tenant that does not come back."""
    shell.open()
    world.runner().run()
    world.services["chatterbox"].broken = "no voice"
    return world


def attempt(world: World, shell: Shell, code: int = 1) -> float:
    """One run of ``mt-restore``; returns the pause it made before it began, in seconds."""
    began, seen = world.clock.now, len(world.events())
    assert shell("restore-now") == code, shell.err
    return next(float(e["t_s"]) for e in world.events()[seen:] if e["event"] == "restore_started") - began


PAUSES = [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_between_two_tries_grows_to_a_minute(world: World, shell: Shell) -> None:
    failing(world, shell)
    pauses = [attempt(world, shell) for _unused in PAUSES]
    assert pauses == [pytest.approx(s, abs=0.1) for s in PAUSES]
    told = [e["next_try_s"] for e in world.events() if e["event"] == "restore_failed"]
    assert told == [*PAUSES[1:], 60]
    world.services["chatterbox"].broken = ""
    assert attempt(world, shell, 0) == pytest.approx(60, abs=0.1)


def test_a_host_that_stays_broken_for_days_is_tried_every_minute(world: World, shell: Shell) -> None:
    """Some 17 hours are a thousand tries; the pause after them must still be a number."""
    failing(world, shell)
    entry = {"seq": 1000, "event": "restore_failed", "by": "restorer", "reason": "no voice", "restored_by": "host"}
    with (world.run_dir / "journal.jsonl").open("a") as file:
        file.write(f"{json.dumps(entry)}\n" * 1024)
    assert attempt(world, shell) == pytest.approx(60, abs=0.1)
    assert (world.events()[-1]["event"], world.events()[-1]["next_try_s"]) == ("restore_failed", 60)
    world.services["chatterbox"].broken = ""
    assert attempt(world, shell, 0) == pytest.approx(60, abs=0.1)


def test_a_complete_restore_forgets_the_failures_before_it(world: World, shell: Shell) -> None:
    failing(world, shell)
    for _unused in range(4):
        attempt(world, shell)
    world.services["chatterbox"].broken = ""
    attempt(world, shell, 0)
    # A mark that stayed (a power cut between the last entry and its removal) is restored again, at once.
    world.state.open(journal.Mark(world.plan.run, 1, journal.boot_id(), "then", "ann"))
    assert attempt(world, shell, 0) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("who", ["hand", "playbook", "boot"])
def test_somebodys_word_ends_the_pause_at_once(world: World, shell: Shell, who: str) -> None:
    failing(world, shell)
    for _unused in range(7):
        attempt(world, shell)
    world.clock.after(3, lambda: program.restore(world.state, who, wait=False))
    assert 3 <= attempt(world, shell) < 3.2
    assert world.events()[-1]["restored_by"] == who
    # The word is taken: the next one tries by itself, after its pause.
    assert attempt(world, shell) == pytest.approx(60, abs=0.1)
    assert world.events()[-1]["restored_by"] == "host"


def test_a_word_left_before_the_try_makes_no_pause(world: World, shell: Shell) -> None:
    failing(world, shell)
    for _unused in range(7):
        attempt(world, shell)
    world.services["chatterbox"].broken = ""
    assert shell("restore", "--by=ann") == 0
    assert attempt(world, shell, 0) == pytest.approx(0, abs=0.1)
    assert "restored and closed by ann" in shell.out


def test_a_word_that_comes_during_a_try_is_for_the_next_one(world: World, shell: Shell) -> None:
    failing(world, shell)
    world.at("tenant_starting llamacpp", lambda: program.restore(world.state, "ann", wait=False))
    attempt(world, shell)
    assert world.events()[-1]["restored_by"] == "host"
    assert attempt(world, shell) == pytest.approx(0, abs=0.1)
    assert world.events()[-1]["restored_by"] == "ann"


def test_a_word_that_comes_as_a_try_begins_is_not_lost(world: World, shell: Shell) -> None:
    failing(world, shell)
    raised = world.state.raise_epoch

    def late() -> int:
        world.state.ask("asked", "ann")
        return raised()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.State, "raise_epoch", lambda _state: late())
        attempt(world, shell)
    assert [attempt(world, shell), world.events()[-1]["restored_by"]] == [pytest.approx(0, abs=0.1), "ann"]


def cut_off(world: World, by: str) -> None:
    """A restore that was killed half way."""
    writer = journal.Journal(world.state.journal_path(world.plan.run), world.plan.run, 9, "restorer", required=True)
    writer.write("restore_started", restored_by=by)
    writer.write("containers_removed", count=0)


@pytest.mark.parametrize("by", ["ann", "playbook", "boot", "host"])
def test_a_restore_that_was_cut_off_keeps_who_asked(world: World, shell: Shell, by: str) -> None:
    shell.open()
    world.runner().run()
    cut_off(world, by)
    assert attempt(world, shell, 0) == pytest.approx(0, abs=0.1)
    assert f"restored and closed by {by}" in shell.out


def test_a_restore_that_was_cut_off_goes_on_at_once_after_failures_too(world: World, shell: Shell) -> None:
    failing(world, shell)
    for _unused in range(7):
        attempt(world, shell)
    cut_off(world, "ann")
    assert attempt(world, shell) == pytest.approx(0, abs=0.1)
    assert world.events()[-1]["restored_by"] == "ann"
    # That it failed counts on.
    assert world.events()[-1]["next_try_s"] == 60


def test_a_boot_wins_over_who_asked_before(world: World, shell: Shell) -> None:
    failing(world, shell)
    for _unused in range(7):
        attempt(world, shell)
    cut_off(world, "playbook")
    world.reboot()
    world.services["chatterbox"].broken = ""
    assert shell("recover") == 0
    assert attempt(world, shell, 0) == pytest.approx(0, abs=0.1)
    assert "restored and closed by boot" in shell.out


def full(*_args: Any, **_options: Any) -> Any:
    """A disk that takes nothing more."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_word_but_not_the_restore(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.open()
    world.log.clear()
    monkeypatch.setattr(journal, "write_atomic", full)
    assert shell("restore", "--by=ann") == 0
    assert shell("recover") == 0
    assert systemctl(world) == ["start mt-restore.service", "start --no-block mt-restore.service"]


def test_a_read_only_disk_keeps_no_restore_from_beginning(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.open()
    world.runner().run()

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_append", refuse)
        patch.setattr(journal, "write_atomic", refuse)
        patch.setattr(Path, "unlink", refuse)
        assert shell("restore-now") == 1
    assert all(world.up(name) for name in world.services)
    assert world.state.mark()
    assert shell("restore-now") == 0


def test_where_the_journal_can_not_be_written_systemd_counts(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that, a restore that cannot succeed would be tried without a pause, and the hook told each time."""
    failing(world, shell)
    pauses: list[float] = []
    begun: list[float] = []
    for restarts in range(5):
        world.restarts, began = restarts, world.clock.now
        with monkeypatch.context() as patch:
            patch.setattr(journal.Journal, "_append", full)
            patch.setattr(restorer.Restorer, "restore", lambda _self: full(begun.append(world.clock.now)))
            assert shell("restore-now") == 1
        pauses.append(begun[-1] - began)
    assert pauses == [pytest.approx(s, abs=0.1) for s in PAUSES[:5]]


@pytest.mark.parametrize(
    "trouble", [TimeoutError("systemctl timed out"), FileNotFoundError("systemctl"), ValueError("[not set]")]
)
def test_a_systemd_that_can_not_count_keeps_no_restore_from_beginning(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    shell.open()
    world.runner().run()
    facts = program.tenants.unit_facts

    def fail(unit: str, *host: Any) -> dict[str, str]:
        if unit == "mt-restore.service":
            raise trouble
        return dict(facts(unit, *host))

    monkeypatch.setattr(program.tenants, "unit_facts", fail)
    assert shell("restore-now") == 0


@pytest.mark.parametrize("trouble", [KeyError("pid"), ValueError("no number"), TypeError("None"), AssertionError()])
def test_a_mistake_of_ours_is_counted_and_retried(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    shell.open()
    world.runner().run()

    def fail(_self: restorer.Restorer) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(restorer.Restorer, "restore", fail)
        for _unused in range(3):
            assert shell("restore-now") == 1
    failed = [e for e in world.events() if e["event"] == "restore_failed"]
    assert [e["next_try_s"] for e in failed] == [1, 2, 4]
    assert type(trouble).__name__ in failed[0]["reason"]
    assert attempt(world, shell, 0) == pytest.approx(4, abs=0.1)


def test_a_plan_that_can_not_be_read_is_retried_ever_more_rarely(world: World, shell: Shell) -> None:
    shell.open()
    path = world.run_dir / "plan.json"
    text = path.read_text()
    path.write_text("torn {")
    for _unused in range(3):
        assert shell("restore-now") == 1
        assert "plan.json" in shell.err
        # Nobody else knows which tenants there are: a person is told the way out.
        assert f"start the tenants by hand and then remove {world.state.root / 'open'}" in shell.err
    assert [e["next_try_s"] for e in world.events() if e["event"] == "restore_failed"] == [1, 2, 4]
    path.write_text(text)
    assert attempt(world, shell, 0) == pytest.approx(4, abs=0.1)


def test_a_tenant_that_says_what_is_no_text_comes_back_all_the_same(world: World, shell: Shell) -> None:
    failing(world, shell)
    world.services["chatterbox"].broken = "\udcff\x1b[31m"
    assert shell("restore-now") == 1
    world.services["chatterbox"].broken = ""
    assert shell("restore-now") == 0


@pytest.mark.parametrize("killed_after_s", [0.0, 0.02, 1.0, 3.9, 4.0])
def test_a_restore_that_is_killed_in_its_pause_begins_anew(world: World, shell: Shell, killed_after_s: float) -> None:
    from fakeworld import Killed

    failing(world, shell)
    for _unused in range(3):
        attempt(world, shell)
    world.services["chatterbox"].broken = ""
    world.log.clear()
    began, entries = world.clock.now, world.events()

    def kill() -> None:
        if world.clock.now >= began + killed_after_s:
            world.clock.ticks.remove(kill)
            raise Killed

    world.clock.ticks.append(kill)
    with pytest.raises(Killed):
        shell("restore-now")
    if killed_after_s < 4:
        assert (world.events(), world.done("start", "stop", "docker")) == (entries, [])
    assert shell("restore-now") == 0
    assert [entry[1] for entry in world.done("start")] == ["chatterbox"]
    assert world.named().count("restored") == world.named().count("closed") == 1
    assert world.state.mark() is None


@pytest.mark.profiled
def test_a_retried_restore_that_is_killed_at_any_step_ends_the_same(
    plan_data: dict[str, Any], quick_path: Path, free_port: int
) -> None:
    from fakeworld import Killed, make_world

    def end(step: int) -> tuple[bool, int]:
        """Whether it was killed, and how many steps there were."""
        with make_world(quick_path / f"kill-{step}", copy.deepcopy(plan_data), free_port).live() as world:
            world.runner().run()
            world.services["chatterbox"].broken = "no voice"
            assert program.restore_now(world.state) == 1
            world.services["chatterbox"].broken = ""
            world.log.clear()
            program.restore(world.state, "hand", wait=False)
            world.steps, world.kill_at = 0, step
            killed = False
            try:
                assert program.restore_now(world.state) == 0
            except Killed:
                killed = True
                assert program.restore_now(world.state) == 0
            assert all(world.up(name) for name in world.services)
            assert [entry[1] for entry in world.done("start")] == ["chatterbox"], f"killed at step {step}"
            assert world.named().count("closed") <= 2
            assert world.state.mark() is None
            assert {p.name for p in world.state.root.iterdir()} - {"lock"} == {"epoch", "runs"}
            restored = [e for e in world.events() if e["event"] == "restored"]
            assert {e["restored_by"] for e in restored} == {"hand"}, f"killed at step {step}"
            assert set(restored[-1]["down"]) == {"llamacpp", "chatterbox"}
            return killed, world.steps

    never = 10**6
    killed, count = end(never)
    assert not killed
    assert count > 15
    for step in some(range(1, count + 1), 12):
        assert end(step)[0]


def test_an_old_epoch_acts_at_no_step_of_a_restore(world: World, shell: Shell) -> None:
    """A stale controller and a stale runner, at every entry that a restore writes."""
    epoch = shell.open()
    stale = world.runner()
    stale.run()
    seen: list[str] = []

    def try_to_act(name: str, _facts: dict[str, Any]) -> None:
        seen.append(name)
        lease = world.state.lease_age_s()
        with pytest.raises(journal.Held, match="is over: restored by"):
            program._act(program._parser().parse_args(words("advance", "--phase=measure")), world.state)
        program.poll(world.state, world.plan.run, epoch, 10_000, 0)
        assert world.state.lease_age_s() == lease
        with pytest.raises(runner.PhaseFailed, match="this run is stale"):
            stale.check()

    def words(verb: str, *more: str) -> list[str]:
        return [verb, f"--run={world.plan.run}", f"--epoch={epoch}", *more]

    world.services["chatterbox"].broken = "no voice"
    world.on_entry = try_to_act
    assert shell("restore-now") == 1
    world.services["chatterbox"].broken = ""
    assert shell("restore-now") == 0
    assert {"restore_started", "tenant_retry", "tenant_healthy", "restore_failed", "restored", "closed"} <= set(seen)


# run


def test_run_without_a_trial(shell: Shell) -> None:
    assert shell("run") == 1
    assert shell.err == "no trial is open\n"


def test_run_is_the_window(world: World, shell: Shell) -> None:
    epoch = shell.open()
    shell.ours("advance", epoch, "--phase=measure")
    assert shell("run") == 0
    assert world.named()[-1] == "phase_done measure"


def test_a_failed_run_says_why_and_is_one(world: World, shell: Shell) -> None:
    epoch = shell.open()
    shell.ours("advance", epoch, "--phase=measure")
    world.quiet = False
    assert shell("run") == 1
    assert "the host is not quiet" in shell.err
    assert world.plan.run in shell.err


def test_a_journal_that_can_not_be_written_ends_the_run(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.open()
    world.state.advance("measure")

    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.Journal, "_append", full)
    assert shell("run") == 1
    assert "No space left" in shell.err
    assert world.done("stop") == []


def test_a_gpu_that_can_not_be_read_ends_the_run(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.open()

    def no_card(_index: int) -> gpu.Card:
        raise gpu.GpuError("the driver is gone")

    monkeypatch.setattr(gpu, "Card", no_card)
    assert shell("run") == 1
    assert shell.err == "run: the driver is gone\n"


# status


def test_the_status_of_a_new_host(world: World, shell: Shell) -> None:
    assert shell("status") == 0
    assert shell.out.splitlines() == [
        "held by   nobody",
        "last run  none",
        "units     mt-run inactive, mt-restore inactive",
    ]


def test_the_status_of_a_held_host(world: World, shell: Shell) -> None:
    shell.open("ann@laptop")
    world.units["mt-run.service"] = "active"
    mark = world.state.mark()
    assert mark
    assert shell("status") == 0
    lines = shell.out.splitlines()
    assert lines == [
        f"held by   run {world.plan.run} since {mark.since} (from ann@laptop)",
        "phase     snapshot, back in at most 1500 s",
        "lease     renewed 0 s ago, lapses after 60 s",
        "units     mt-run active, mt-restore inactive",
        "you can   sudo model-trial abort     end the run; the host restores itself",
        "          sudo model-trial restore   bring the host back now",
    ]


def test_the_status_in_the_window(world: World, shell: Shell) -> None:
    shell.open()
    world.state.advance("measure")
    world.at("candidate_started", lambda: world.state.ask("abort", "bob"))
    assert shell("run") == 1
    assert shell("status") == 0
    lines = shell.out.splitlines()
    assert lines[1].startswith("phase     candidate, ")
    assert "s since the first stop, back in at most " in lines[1]
    down = {e["tenant"]: e["wall"] for e in world.events() if e["event"] == "tenant_stopping"}
    assert [line for line in lines if line.startswith("down ")] == [
        f"down      {name} since {wall}" for name, wall in down.items()
    ]
    assert "why       phase candidate failed: aborted by bob" in lines


def test_the_status_of_a_run_without_a_lease(
    world_of: WorldOf, plan_data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan_data["attended"] = False
    shell = Shell(world_of(plan_data), capsys)
    shell.open()
    assert shell("status") == 0
    assert "lease     none: the run finishes unattended" in shell.out.splitlines()


def test_the_status_of_a_host_that_can_not_be_restored(world: World, shell: Shell) -> None:
    shell.open()
    world.runner().run()
    world.services["chatterbox"].broken = "no \x1b[31mmemory"
    assert shell("restore-now") == 1
    assert shell("status") == 0
    found = shell.out
    assert "NOT BACK  chatterbox: './start.sh' ended with 1; last log lines:\n          " in found
    assert "next try  by itself, 1 s after that" in found.splitlines()
    # What a tenant printed can't act on the terminal.
    assert "\x1b" not in found


def test_the_status_of_a_host_that_was_restarted_shows_no_lease(world: World, shell: Shell) -> None:
    shell.open()
    world.reboot()
    assert shell("status") == 0
    assert "lease" not in shell.out


def test_the_status_counts_the_window_across_a_restart_and_beyond_the_cap(world: World, shell: Shell) -> None:
    """The steady clock starts from zero at a boot; and a restore that fails does not end with the cap."""
    shell.open()
    world.runner().run()
    world.reboot()
    assert shell("status", "--json") == 0
    # By the wall clock, which hardly moves in this world.
    assert 0 <= shell.json["open"]["window_s"] < 60
    assert 1440 < shell.json["open"]["remaining_s"] <= 1500
    stopped = next(e for e in world.events() if e["event"] == "tenant_stopping")
    path = world.run_dir / "journal.jsonl"
    path.write_text(path.read_text().replace(stopped["wall"], "2026-01-01T00:00:00.000Z"))
    assert shell("status") == 0
    line = next(line for line in shell.out.splitlines() if line.startswith("phase "))
    assert re.fullmatch(r"phase     measure, \d+ s since the first stop, was due back \d+ s ago", line)


def test_the_status_of_a_lease_that_was_never_written(world: World, shell: Shell) -> None:
    shell.open()
    (world.state.root / "lease").unlink()
    assert shell("status") == 0
    assert "lease" not in shell.out
    assert shell("status", "--json") == 0
    assert shell.json["open"]["lease_age_s"] is None


def test_the_status_of_a_run_whose_plan_is_torn(world: World, shell: Shell) -> None:
    shell.open()
    (world.run_dir / "plan.json").write_text("{")
    assert shell("status") == 0
    assert shell.out.startswith(f"held by   run {world.plan.run} ")
    assert "phase" not in shell.out
    assert "sudo model-trial restore" in shell.out


def test_the_status_tells_why_with_everything_known(world: World, shell: Shell) -> None:
    shell.open()
    world.state.advance("measure")
    world.quiet = False
    assert shell("run") == 1
    assert shell("status") == 0
    lines = shell.out.splitlines()
    failed = world.events()[-1]
    assert "why       phase window failed: the host is not quiet" in lines
    assert f"expected  {failed['expected']}" in lines
    assert f"found     {failed['found']}" in lines
    assert "todo      nothing was stopped; try when it is idle" in lines
    # Nothing was stopped: nothing is counted, and nobody is down.
    assert "phase     window, back in at most 1500 s" in lines
    assert not [line for line in lines if line.startswith("down")]
    shell("restore-now")
    assert shell("status") == 0
    assert "why       phase window failed: the host is not quiet" in shell.out.splitlines()


def test_the_status_of_a_host_whose_mark_does_not_go(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is back and proved, and then the disk takes no more."""
    shell.open()
    world.runner().run()
    with monkeypatch.context() as patch:
        patch.setattr(journal.State, "close", full)
        assert shell("restore-now") == 1
    assert shell("status") == 0
    lines = shell.out.splitlines()
    assert not [line for line in lines if line.startswith("down ")]
    assert "NOT BACK  [Errno 28] No space left on device" in lines
    assert shell("restore-now") == 0
    assert shell("status") == 0
    assert "NOT BACK" not in shell.out
    assert "was down  chatterbox " in shell.out


def test_the_status_while_a_restore_waits_for_its_next_try(world: World, shell: Shell) -> None:
    failing(world, shell)
    for _unused in range(5):
        attempt(world, shell)
    assert shell("status", "--json") == 0
    assert shell.json["next_try_s"] == 16
    assert "no voice" in shell.json["restore_failure"]
    assert set(shell.json["down"]) == {"chatterbox"}
    assert shell("status") == 0
    assert "next try  by itself, 16 s after that" in shell.out.splitlines()
    world.services["chatterbox"].broken = ""
    assert shell("restore-now") == 0
    assert shell("status", "--json") == 0
    assert (shell.json["restore_failure"], shell.json["next_try_s"]) == (None, None)
    assert set(shell.json["down"]) == {"chatterbox", "llamacpp"}


def test_the_status_of_a_controller_with_an_odd_name(world: World, shell: Shell) -> None:
    shell.open("ann\x1b[2J")
    assert shell("status") == 0
    assert "(from ann\ufffd[2J)" in shell.out
    assert shell("status", "--json") == 0
    assert "\x1b" not in shell.out


def test_the_status_of_a_mark_nobody_can_read(world: World, shell: Shell) -> None:
    shell.open()
    (world.state.root / "open").write_text("{torn")
    assert shell("status") == 0
    assert shell.out.startswith("held by   run ")
    assert "sudo model-trial restore" in shell.out


def test_the_status_of_a_restored_host(world: World, shell: Shell) -> None:
    shell.open()
    world.runner().run()
    shell("restore", "--by=ann")
    shell("restore-now")
    assert shell("status") == 0
    lines = shell.out.splitlines()
    assert lines[:2] == ["held by   nobody", f"last run  {world.plan.run}"]
    assert lines[2].startswith("restored  by ann at 2")
    assert [line.split()[2] for line in lines if line.startswith("was down")] == ["chatterbox", "llamacpp"]


def test_the_status_as_json(world: World, shell: Shell) -> None:
    epoch = shell.open("ann@laptop")
    assert shell("status", "--json") == 0
    answer = shell.json
    mark = world.state.mark()
    assert mark
    held = answer["open"]
    assert (held["run"], held["since"], held["controller"]) == (world.plan.run, mark.since, "ann@laptop")
    assert answer["epoch"] == epoch
    assert (answer["last_run"], answer["last_event"]) == (world.plan.run, "opened")
    assert answer["restored_by"] is None


def test_the_status_tells_where_the_next_attempt_begins(world: World, shell: Shell) -> None:
    """A caller waits for the restore it asked for, not for one that failed an hour ago."""

    def attempt_seq() -> int:
        assert shell("status", "--json") == 0
        return int(shell.json["attempt_seq"])

    assert attempt_seq() == 0
    shell.open()
    world.runner().run()
    assert attempt_seq() == world.events()[-1]["seq"]
    world.services["chatterbox"].broken = "no"
    for _unused in range(3):
        assert shell("restore-now") == 1
    assert attempt_seq() == world.events()[-1]["seq"]
    # A restore that is under way counts from its beginning.
    writer = journal.Journal(world.state.journal_path(world.plan.run), world.plan.run, 9, "restorer", required=True)
    writer.write("restore_started", restored_by="host")
    begun = world.events()[-1]["seq"]
    writer.write("containers_removed", count=0)
    assert attempt_seq() == begun - 1


@pytest.mark.parametrize("limits", ["TimeoutStopUSec=infinity\n", "TimeoutStopUSec=40min\n", "no such unit\n"])
def test_a_stop_without_a_bound_is_not_begun(world: World, shell: Shell, limits: str) -> None:
    world.stop_limits = limits
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "a restore would have no bound" in shell.err
    assert "llamacpp" in shell.err or "limits.cap_s of 1500 s leaves no time" in shell.err
    assert world.state.mark() is None


def test_a_run_is_run_once(world: World, shell: Shell) -> None:
    """Somebody restarts the unit: a second window would write over the samples of the first, with tenants down."""
    shell.open()
    world.state.advance("measure")
    assert shell("run") == 0
    kept = {path: path.read_bytes() for path in (world.run_dir / "samples").iterdir()}
    world.log.clear()
    before = world.events()
    assert shell("run") == 1
    assert f"run {world.plan.run} has already run, and a run runs once" in shell.err
    assert world.done("stop", "start", "container") == []
    assert world.events() == before
    assert {path: path.read_bytes() for path in (world.run_dir / "samples").iterdir()} == kept
    assert shell("restore-now") == 0
    assert all(world.up(name) for name in world.services)


@pytest.mark.parametrize("epoch", [1, 2], ids=["opened and restored before", "never opened"])
def test_the_last_run_is_that_of_the_last_epoch_whatever_the_clock_did(world: World, shell: Shell, epoch: int) -> None:
    shell.open()
    shell("restore-now")
    other = world.state.run_dir("other-run")
    other.mkdir()
    # One that could not be opened began in the epoch in which this one ended: it is the later one.
    journal.Journal(other / "journal.jsonl", "other-run", epoch, "program", required=True).write("phase_failed")
    for path, age in ((other, 9_999_999_999 if epoch == 1 else 1), (world.run_dir, 5_000_000)):
        os.utime(path / "journal.jsonl", (age, age))
    assert shell("status", "--json") == 0
    assert shell.json["last_run"] == (world.plan.run if epoch == 1 else "other-run")


def test_the_last_run_is_the_one_that_holds_the_host(world: World, shell: Shell) -> None:
    """A clock that jumped back makes its journal older than that of a run before it."""
    shell.open()
    earlier = world.state.run_dir("earlier-run")
    earlier.mkdir()
    journal.Journal(earlier / "journal.jsonl", "earlier-run", 0, "program", required=True).write("opened")
    os.utime(world.run_dir / "journal.jsonl", (1, 1))
    assert shell("status", "--json") == 0
    assert (shell.json["last_run"], shell.json["attempt_seq"]) == (world.plan.run, world.events()[-1]["seq"])


def test_without_systemd_the_status_says_so(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: Any, **_options: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "systemctl")

    monkeypatch.setattr(run, "command", absent)
    assert shell("status") == 1
    assert "status: " in shell.err
    assert "systemctl" in shell.err


# A whole trial by its verbs.


def test_a_trial_from_open_to_the_next_one(world: World, shell: Shell) -> None:
    epoch = shell.open("ann")
    for phase in ("window", "candidate", "measure"):
        assert shell.ours("advance", epoch, f"--phase={phase}") == 0
    assert shell("run") == 0
    assert shell("restore", "--by=playbook") == 0
    assert shell("restore-now") == 0
    assert all(world.up(name) for name in world.services)
    assert [c for c in world.docker.all() if {RUN_LABEL, A2_LABEL} & set(c["labels"])] == []
    assert shell.ours("advance", epoch, "--phase=measure") == 3

    following = world.state.run_dir("next-run")
    following.mkdir()
    data = json.loads((world.run_dir / "plan.json").read_text())
    (following / "plan.json").write_text(json.dumps({**data, "run": "next-run"}))
    assert shell("open", "--run=next-run", "--controller=bob") == 0
    assert shell.json == {"run": "next-run", "epoch": 3}
    assert shell.ours("advance", 3, "--phase=window") == 3


# Its modules, compiled.


@pytest.fixture
def zipapp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of two modules. Compiled files lie beside them: the checkout may keep its own elsewhere."""
    monkeypatch.setattr(sys, "pycache_prefix", None)
    path = tmp_path / "model-trial"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("module_utils/one.py", "ONE = 1\n")
        packed.writestr("module_utils/two.py", "TWO = 2\n")
    return path


def test_what_is_no_zipapp_is_not_unpacked(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, folder = tmp_path / "model-trial", tmp_path / "cache" / "abc"
    path.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert shell("unpack", str(folder)) == 1
    assert f"{path}: expected a zipapp" in shell.err
    assert list(folder.parent.iterdir()) == []


def test_modules_are_there_whole_or_not_at_all(zipapp: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "abc"

    def full(archive: zipfile.ZipFile, where: Path) -> None:
        archive.extract("module_utils/one.py", where)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(zipfile.ZipFile, "extractall", full)
        with pytest.raises(OSError, match="No space left"):
            program.unpack(zipapp, folder)
    assert list(folder.parent.iterdir()) == []
    (folder.parent / "older").mkdir()
    (folder.parent / ".other.123").mkdir()
    program.unpack(zipapp, folder)
    assert {p.name for p in folder.parent.iterdir()} == {"abc", ".other.123"}, "another process's work was removed"
    before = (folder / "module_utils" / "one.py").stat()
    program.unpack(zipapp, folder)
    assert (folder / "module_utils" / "one.py").stat() == before, "the modules of a running program were replaced"
    assert {p.name for p in folder.parent.iterdir()} == {"abc", ".other.123"}


def test_a_folder_that_can_not_be_laid_there_is_told(
    zipapp: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "abc"

    def refused(_source: Path, _target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="Read-only"):
        program.unpack(zipapp, folder)
    assert list(folder.parent.iterdir()) == []


def test_whatever_umask_root_has_nobody_else_writes_the_modules(zipapp: Path, tmp_path: Path, no_umask: None) -> None:
    """They run as root."""
    folder = tmp_path / "cache" / "0123"
    program.unpack(zipapp, folder)
    assert open_to_others(tmp_path / "cache") == {}
    assert list(folder.rglob("*.pyc"))
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_the_modules_are_there_when_unpacking_is_done(
    zipapp: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "abc"
    unnamed: list[bool] = []
    monkeypatch.setattr(os, "sync", lambda: unnamed.append(not folder.exists()))
    program.unpack(zipapp, folder)
    assert unnamed == [True], "a power cut could leave the name and not what is in it"
    assert sorted(p.suffix for p in folder.rglob("*.py*")) == [".py", ".py", ".pyc", ".pyc"]


@pytest.mark.parametrize("name", [services.RESTORER, services.RECOVER, services.LOOK])
@pytest.mark.parametrize("state", ["masked", "not-found", "bad-setting"])
def test_a_host_that_nobody_would_bring_back_is_not_opened(world: World, shell: Shell, name: str, state: str) -> None:
    """systemd starts a runner whose `OnFailure=` is masked, and says nothing."""
    world.unit_loads[name] = state
    assert shell("open", f"--run={world.plan.run}") == 1
    assert f"found: {name} is {state}" in shell.err
    assert (world.state.mark(), world.docker.all()) == (None, [])
