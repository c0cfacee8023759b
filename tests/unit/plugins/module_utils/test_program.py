# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of the host program: answers, exit codes, and words for people."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu, journal, program, restorer
from ansible_collections.edgelab.model_trial.plugins.module_utils.containers import A2_LABEL, RUN_LABEL

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
    """What was asked of systemd, tenants excepted."""
    return [" ".join(entry[1:]) for entry in world.done("systemctl") if not entry[-1].startswith("panda")]


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
    for verb in ("status", "restore", "abort", "open", "advance", "poll", "run", "restore-now", "recover"):
        assert verb in text
    assert "--root" not in text


def test_the_state_is_where_the_units_look(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(program, "_act", lambda _args, state: seen.append(state.root) or 0)
    assert program.main(["status"]) == 0
    assert seen == [Path("/var/lib/model-trial")]


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
    text = program.DROP_IN.read_text()
    assert text == f"[Service]\nRuntimeMaxSec={world.plan.run_max_s:.0f}\n"
    assert world.plan.run_max_s < world.plan.limits.cap_s
    asked = systemctl(world)
    assert asked[:2] == ["daemon-reload", "reset-failed mt-run.service mt-restore.service"]
    assert asked[2].split()[0] == "start"
    assert asked[2].split()[-1] == "mt-run.service"
    assert len(asked) == 3


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
    with world.state.lock():
        assert shell("open", f"--run={world.plan.run}") == 3
    assert "another trial is being prepared" in shell.err
    assert world.log == []


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


def test_a_runner_that_does_not_start_gives_the_host_back(world: World, shell: Shell) -> None:
    for words in ("start mt-run.service", "start --no-block mt-run.service"):
        world.systemctl_rc[words] = 5
    assert shell("open", f"--run={world.plan.run}") == 1
    assert "journalctl -u mt-run" in shell.err
    assert systemctl(world)[-1] == "start mt-restore.service"


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


# abort, restore, recover


def test_abort_leaves_word_for_the_runner(world: World, shell: Shell) -> None:
    shell.open()
    assert shell("abort", "--by=ann") == 0
    assert world.plan.run in shell.out
    assert world.state.asked("abort") == "ann"
    assert shell("run") == 1
    assert "aborted by ann" in shell.err


def test_abort_without_a_trial(world: World, shell: Shell) -> None:
    assert shell("abort") == 0
    assert shell.out == "no trial is open on this host\n"
    assert not (world.state.root / "abort").exists()


def test_restore_is_one_unit_whoever_asks(world: World, shell: Shell) -> None:
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


def test_trouble_nobody_thought_of_is_journalled_and_retried(
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


@pytest.mark.parametrize("text", ["", "torn {", "[]"])
def test_an_unreadable_mark_means_the_run_opened_last(world: World, shell: Shell, text: str) -> None:
    shell.open()
    world.runner().run()
    (world.state.root / "open").write_text(text)
    assert shell("restore-now") == 0
    assert all(world.up(name) for name in world.services)
    assert world.state.mark() is None


def test_a_mark_without_any_run_is_told(world: World, shell: Shell) -> None:
    (world.state.root).mkdir(exist_ok=True)
    (world.state.root / "open").write_text("torn")
    assert shell("restore-now") == 1
    assert "plan.json" in shell.err


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
    """Whoever asks for a restore waits for what comes, not for what failed an hour ago."""

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


def test_the_last_run_is_the_one_written_last(world: World, shell: Shell) -> None:
    shell.open()
    shell("restore-now")
    older = world.state.run_dir("older-run")
    older.mkdir()
    journal.Journal(older / "journal.jsonl", "older-run", 0, "program", required=True).write("opened")
    os.utime(older / "journal.jsonl", (1, 1))
    assert shell("status", "--json") == 0
    assert shell.json["last_run"] == world.plan.run


def test_without_systemd_the_status_says_so(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: Any, **_options: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "systemctl")

    monkeypatch.setattr(program.subprocess, "run", absent)
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
