# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing the host back: always the same end, from wherever a trial was when it ended."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    checks,
    containers,
    gpu,
    identity,
    journal,
    plan,
    planfile,
    probes,
    program,
    restorer,
    run,
    sessions,
    tenants,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils.containers import A2_LABEL, RUN_LABEL, DockerError
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import Mark
from ansible_collections.edgelab.model_trial.plugins.module_utils.restorer import RestoreFailed, Restorer
from ansible_collections.edgelab.model_trial.plugins.module_utils.runner import PhaseFailed
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples, some

if TYPE_CHECKING:
    from fakeworld import World

WorldOf = Callable[[dict[str, Any]], "World"]

# Names of events in their strict order; A2 stands between the baseline and the next tenant.
STRICT = [
    "restore_started",
    "containers_removed",
    "drain_started",
    "drained_again",
    "tenant_starting llamacpp",
    "tenant_started llamacpp",
    "tenant_healthy llamacpp",
    "segment_done",
    "tenant_starting chatterbox",
    "tenant_started chatterbox",
    "tenant_healthy chatterbox",
    "settled",
    "checks",
    "restored",
    "closed",
]


def restore(world: World, by: str = "host", *, seeing: bool = True) -> Restorer:
    """One attempt; raises when it is not complete."""
    world.card.opens = seeing
    found = Restorer(world.plan, world.state, gpu.Opening(0), by)
    found.restore()
    return found


def incomplete(world: World, by: str = "host", *, seeing: bool = True) -> str:
    """One attempt that must not succeed: the mark stays. Returns what is said."""
    with pytest.raises(RestoreFailed) as caught:
        restore(world, by, seeing=seeing)
    assert world.state.mark() is not None
    assert world.named()[-1] not in ("restored", "closed")
    return str(caught.value)


def measured(world: World) -> World:
    """The host after a whole window."""
    world.runner().run()
    return world


def ended(world: World, event: str = "candidate_started") -> World:
    """The host after a window that was aborted at that event."""
    world.open()
    world.at(event, lambda: world.state.ask("abort", "ann"))
    with pytest.raises(PhaseFailed):
        world.runner().run()
    return world


def ended_in_a1(world: World) -> World:
    """The host after a window that was aborted while A1 ran: one tenant is down, the baseline never was."""
    world.open()
    world.client_ends_in["a1"] = ("nav-baseline-a1", 4)
    with pytest.raises(PhaseFailed, match="baseline"):
        world.runner().run()
    assert world.up("llamacpp")
    assert not world.up("chatterbox")
    return world


def since_restore(world: World) -> list[str]:
    """Names of events since the last restore began."""
    names = world.named()
    return names[len(names) - 1 - names[::-1].index("restore_started") :]


def event(world: World, name: str) -> dict[str, Any]:
    """The last event of a name."""
    return [e for e in world.events() if e["event"] == name][-1]


def is_whole(world: World) -> None:
    """The host is as it was: everybody up, nothing of the trial left, closed and free."""
    assert all(world.up(name) for name in world.services)
    assert not world.candidate_pid
    assert [c for c in world.docker.all() if {RUN_LABEL, A2_LABEL} & set(c["labels"])] == []
    assert world.state.mark() is None
    assert world.named()[-1] == "closed"
    assert world.samplers[-1].stopped
    left = {p.name for p in world.state.root.iterdir()} - {"lock"}
    assert left == {"epoch", "runs"}


def starts(world: World) -> list[str]:
    """Who was started, in order."""
    return [entry[1] for entry in world.done("start")]


# The strict order.


def test_the_order_is_strict(world: World) -> None:
    measured(world)
    world.log.clear()
    restore(world)
    assert since_restore(world) == STRICT
    did = [entry[:2] for entry in world.log if entry[0] != "systemctl"]
    assert did == [
        ("docker", "rm"),
        ("container", "mt-client-a2"),
        ("start", "llamacpp"),
        ("measured", "a2"),
        ("start", "chatterbox"),
        ("docker", "rm"),
    ]
    is_whole(world)


def test_the_epoch_is_raised_before_anything_is_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(world)
    seen: list[int] = []
    command = world.command

    def spy(argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        seen.append(world.state.epoch())
        return command(argv, cwd)

    monkeypatch.setattr(world, "command", spy)
    restore(world)
    assert set(seen) == {2}
    assert {e["epoch"] for e in world.events() if e["by"] == "restorer"} == {2}


def test_the_drain_takes_five_seconds_and_is_measured(world: World) -> None:
    measured(world)
    began = world.clock.now
    restore(world)
    assert world.services["llamacpp"].starts[0] - began >= 5
    assert event(world, "drained_again")["used_mib"] == 5_200


def test_memory_that_lingers_is_waited_for(world: World) -> None:
    measured(world)
    world.linger_s = 12
    began = world.clock.now
    restore(world)
    assert 12 <= world.services["llamacpp"].starts[0] - began < 13


def test_the_next_tenant_waits_until_the_one_before_is_healthy(world: World) -> None:
    measured(world)
    world.services["llamacpp"].load_s = 20
    restore(world)
    first, second = world.services["llamacpp"], world.services["chatterbox"]
    assert second.starts[0] >= first.starts[0] + 20


def test_the_order_is_the_inventorys(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["restore_order"] = ["chatterbox", "llamacpp"]
    world = measured(world_of(plan_data))
    restore(world)
    assert starts(world) == ["chatterbox", "llamacpp"]
    is_whole(world)


def test_undrained_memory_names_its_holders_and_the_restore_goes_on(world: World) -> None:
    measured(world)
    world.linger_s = 500
    began = world.clock.now
    text = incomplete(world)
    timeout = event(world, "drain_timeout")
    assert f"PID {world.services['phone'].pid} phone_call.py" in timeout["holders"]
    assert timeout["target_mib"] == 5_200
    assert timeout["duration_s"] == pytest.approx(30, abs=0.2)
    assert world.services["llamacpp"].starts[0] - began >= 30
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert "check 1 VRAM" in text
    world.lingering.clear()
    restore(world)
    is_whole(world)


def test_a_restore_with_somebody_up_already_expects_his_memory(world: World) -> None:
    """Ended while A1 ran: the baseline was never stopped, and its memory is no reason to wait."""
    ended_in_a1(world)
    began = world.clock.now
    restore(world)
    assert event(world, "drain_started")["target_mib"] == 5_200 + 4_900
    assert "drain_timeout" not in world.named()
    assert world.clock.now - began < 10
    assert starts(world) == ["chatterbox"]
    is_whole(world)


def test_where_the_driver_does_not_tell_the_drain_waits_for_a_still_level(world: World) -> None:
    world.tells = False
    ended_in_a1(world)
    with pytest.raises(RestoreFailed, match="no memory is held by"):
        restore(world)
    assert event(world, "drain_started")["target_mib"] is None
    assert starts(world) == ["chatterbox"]


# What is left alone.


def test_nothing_was_stopped_nothing_is_started(world: World) -> None:
    world.open()
    pids = {name: service.pid for name, service in world.services.items()}
    began = world.clock.now
    restore(world)
    assert starts(world) == []
    assert {name: service.pid for name, service in world.services.items()} == pids
    assert "drain_started" not in world.named()
    assert world.clock.now - began < 1
    is_whole(world)


def test_the_untouched_are_not_touched(world: World) -> None:
    measured(world)
    pids = {name: world.services[name].pid for name in ("nav", "phone")}
    restore(world)
    assert {name: world.services[name].pid for name in ("nav", "phone")} == pids


def test_an_untouched_tenant_that_died_is_told_not_started(world: World) -> None:
    measured(world)
    world.stop("phone", by="somebody")
    text = incomplete(world)
    assert "phone daemon" in text
    assert starts(world) == ["llamacpp", "chatterbox"]


def test_who_was_brought_back_by_others_is_not_started_twice(world: World) -> None:
    measured(world)
    world.start("chatterbox", by="cron")
    world.clock.sleep(5)
    restore(world)
    assert starts(world) == ["llamacpp"]
    assert set(event(world, "restored")["down"]) == {"llamacpp", "chatterbox"}
    is_whole(world)


def test_who_did_not_run_before_is_not_started(world: World) -> None:
    measured(world)
    path = world.run_dir / "snapshot.json"
    snapshot = json.loads(path.read_text())
    snapshot["tenants"]["chatterbox"]["running"] = False
    path.write_text(json.dumps(snapshot))
    incomplete(world)
    assert starts(world) == ["llamacpp"]


def test_a_lost_snapshot_means_everybody_ran(world: World) -> None:
    measured(world)
    (world.run_dir / "snapshot.json").unlink()
    assert program.restore_now(world.state) == 1
    assert "it is unknown what else ran before" in event(world, "restore_failed")["reason"]
    assert starts(world) == ["llamacpp", "chatterbox"]
    # A person has looked.
    world.state.ask("asked", "ann")
    assert program.restore_now(world.state) == 0
    is_whole(world)


@pytest.mark.parametrize("settle_s", [0, 10])
@pytest.mark.parametrize("name", ["llamacpp", "chatterbox"])
@pytest.mark.parametrize("returns", [False, True], ids=["it is gone", "its manager starts another"])
def test_who_dies_after_its_own_check_is_not_back(
    world_of: WorldOf,
    plan_data: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    settle_s: float,
    name: str,
    returns: bool,
) -> None:
    world = settling(world_of, plan_data, settle_s)
    run_checks = checks.run

    def fatal(*args: Any, **options: Any) -> list[checks.CheckResult]:
        found = run_checks(*args, **options)
        world.stop(name, by="itself")
        if returns:
            world.start(name, by="its manager")
            world.services[name].healthy_at = 0.0
        return found

    with monkeypatch.context() as patch:
        patch.setattr(checks, "run", fatal)
        if settle_s or not returns:
            assert f"{name} did not stay up" in incomplete(world)
    restore(world)
    stays_whole(world)


def test_containers_of_others_stay(world: World) -> None:
    measured(world)
    for label, name in ((RUN_LABEL, "another-run"), ("com.example", "x")):
        world.docker.add(f"other-{name}", label, name, status="running")
    restore(world)
    assert [c["name"] for c in world.docker.all()] == ["other-another-run", "other-x"]


def test_a_second_restore_has_nothing_to_do(world: World) -> None:
    measured(world)
    restore(world)
    epoch, log = world.state.epoch(), list(world.log)
    restore(world)
    assert starts(world) == [entry[1] for entry in log if entry[0] == "start"]
    assert world.state.epoch() == epoch + 1
    is_whole(world)


# A loading tenant.


def moves(world: World, what: str, name: str) -> list[float]:
    """When a tenant moved."""
    return [e["t_s"] for e in world.events() if e["event"] == what and e.get("tenant") == name]


@pytest.mark.parametrize("age_s", [10_000.0, 0.0], ids=["long there", "on its way"])
def test_one_that_runs_and_is_ill_gets_one_start_limit(
    world_of: WorldOf, plan_data: dict[str, Any], age_s: float
) -> None:
    """Not a second one for its start: the bound of a restore has one for it."""
    plan_data["tenants"][0]["start_timeout_s"] = 30
    world = measured(world_of(plan_data))
    model = world.services["llamacpp"]
    world.start("llamacpp", by="somebody")
    model.ill, model.born = True, world.clock.now - age_s
    born = model.born
    restore(world)
    [began], [healthy] = moves(world, "tenant_starting", "llamacpp"), moves(world, "tenant_healthy", "llamacpp")
    assert healthy - began < 30
    [started] = model.starts
    if age_s:
        assert started - began < restorer.PATIENCE_S + 2
    else:
        # It was waited for as long as its own limit lasts.
        assert 30 <= started - born < 32
    is_whole(world)


def test_one_that_takes_its_whole_limit_to_fail_is_started_anew_by_the_next_try(
    world_of: WorldOf, plan_data: dict[str, Any]
) -> None:
    plan_data["tenants"][0]["start_timeout_s"] = 30
    world = measured(world_of(plan_data))
    model = world.services["llamacpp"]

    def somebody_starts_it() -> None:
        world.start("llamacpp", by="somebody")
        model.ill = True

    world.at("tenant_starting llamacpp", somebody_starts_it)
    began = world.clock.now
    assert "llamacpp: not healthy after 30 s" in incomplete(world)
    assert model.starts == []
    assert world.clock.now - began < 30 + 30
    restore(world)
    assert len(model.starts) == 1
    assert model.starts[0] - moves(world, "tenant_starting", "llamacpp")[-1] < restorer.PATIENCE_S + 2
    is_whole(world)


@pytest.mark.parametrize("tells", [True, False], ids=["the driver tells", "the driver does not tell"])
def test_the_drain_does_not_wait_for_memory_of_one_that_loads(world: World, tells: bool) -> None:
    """A restore was killed while the voice loaded: it holds its VRAM, and can't be found by its port yet."""
    from fakeworld import Killed

    world.tells = tells
    measured(world)
    voice = world.services["chatterbox"]
    voice.listens_s = 60.0
    voice.load_s = 65.0
    world.at("tenant_started chatterbox", lambda: kill_in(world, 2))
    with pytest.raises(Killed):
        restore(world)
    assert voice.pid
    world.on_entry = lambda _event, _facts: None
    began = world.clock.now
    # Without a word of the driver nobody can say that VRAM is as it was; the tenants are up all the same.
    with contextlib.nullcontext() if tells else pytest.raises(RestoreFailed, match="no memory is held by"):
        restore(world)
    drains = [e for e in world.events() if e["event"] in ("drained_again", "drain_timeout")]
    assert drains[-1]["t_s"] >= began
    assert drains[-1]["duration_s"] < world.plan.limits.drain_min_s + 2
    assert len(voice.starts) == 1
    assert all(world.up(name) for name in world.services)


def test_a_soft_reboot_is_another_boot(world: World) -> None:
    """It ends every process and keeps the kernel, its name and process 1."""
    measured(world)
    for name in ("nav", "phone"):
        # They come back by themselves, as other processes.
        world.stop(name, by="the reboot")
        world.start(name, by="their manager")
    world.soft_reboots += 1
    world.clock.sleep(5)
    restore(world, "boot")
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


def test_without_a_reboot_another_process_is_none_of_that(world: World) -> None:
    measured(world)
    world.stop("phone", by="somebody")
    world.start("phone", by="somebody")
    world.clock.sleep(5)
    assert "it was restarted" in incomplete(world, "boot")


@pytest.mark.parametrize("name", ["llamacpp", "chatterbox"])
def test_a_tenant_that_is_loading_is_waited_for_not_started_again(world: World, name: str) -> None:
    measured(world)
    world.services[name].load_s = 15
    world.start(name, by="an earlier attempt")
    pid = world.services[name].pid
    restore(world)
    assert world.services[name].starts == []
    assert world.services[name].pid == pid
    is_whole(world)


def test_a_tenant_that_hangs_is_stopped_and_started_anew(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][2]["start_timeout_s"] = 20
    world = measured(world_of(plan_data))
    world.services["chatterbox"].load_s = 10_000
    world.start("chatterbox", by="an earlier attempt")
    world.services["chatterbox"].load_s = 2
    world.log.clear()
    restore(world)
    did = [entry for entry in world.done("start", "stop") if entry[1] == "chatterbox"]
    assert did == [("stop", "chatterbox"), ("start", "chatterbox")]
    is_whole(world)


# Failures.


def test_a_failing_tenant_does_not_keep_the_next_one_down(world: World) -> None:
    measured(world)
    world.services["llamacpp"].broken = "no such model"
    text = incomplete(world)
    assert world.up("chatterbox")
    assert "llamacpp: systemctl start panda-llamacpp ended with 1" in text
    assert "no such model" in text
    assert "sudo systemctl start panda-llamacpp" in text
    assert "sudo model-trial restore" in text
    assert event(world, "tenant_failed")["tenant"] == "llamacpp"
    assert event(world, "checks")["ok"] is False

    world.services["llamacpp"].broken = ""
    restore(world)
    assert starts(world) == ["chatterbox", "llamacpp"]
    is_whole(world)


@pytest.mark.parametrize(
    "trouble",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/model"),
        TimeoutError("systemctl show timed out"),
        tenants.TenantError("llamacpp: will not"),
        ValueError("invalid literal for int() with base 10: '<no value>'"),
        KeyError("MainPID"),
    ],
    ids=lambda t: type(t).__name__,
)
@pytest.mark.parametrize("where", ["start", "wait_healthy", "look"])
def test_whatever_goes_wrong_with_one_the_next_gets_its_chance(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: Exception, where: str
) -> None:
    measured(world)
    act = getattr(tenants, where)

    def fail(tenant: plan.Tenant, *args: Any, **options: Any) -> Any:
        if tenant.name == "llamacpp":
            raise trouble
        return act(tenant, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tenants, where, fail)
        text = incomplete(world)
    assert str(trouble) in text
    assert world.up("chatterbox")
    world.clock.sleep(5)
    restore(world)
    is_whole(world)


def test_a_tenant_that_never_gets_healthy_is_told(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][0]["start_timeout_s"] = 20
    world = measured(world_of(plan_data))
    world.services["llamacpp"].load_s = 10_000
    assert "llamacpp: not healthy after 20 s" in incomplete(world)
    assert world.up("chatterbox")


def test_a_tenant_that_is_up_but_mute_keeps_the_mark(world: World) -> None:
    measured(world)
    world.speaks = False
    text = incomplete(world)
    assert "speaks" in text
    assert "silence" in text
    assert event(world, "checks")["ok"] is False
    assert not (world.run_dir / "verification.json").exists()
    world.speaks = True
    restore(world)
    is_whole(world)


def dead_docker(world: World) -> Path:
    """docker answers nobody; returns what to remove to revive it."""
    path = world.docker.folder / "down"
    path.write_text("")
    return path


def test_without_docker_the_candidates_process_is_ended_and_the_tenants_come_back(world: World) -> None:
    ended(world)
    pid = world.candidate_pid
    assert pid
    down = dead_docker(world)
    text = incomplete(world)
    assert world.done("kill") == [("kill", pid)]
    assert event(world, "candidate_killed")["pid"] == pid
    assert "could not be removed" in text
    assert starts(world) == ["llamacpp", "chatterbox"]
    down.unlink()
    restore(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


@pytest.mark.parametrize(
    ("words", "longest_s"),
    [(("ps", "inspect", "rm"), 10), (("inspect", "rm"), 10), (("rm",), 15)],
    ids=["all of it", "logs", "rm"],
)
@pytest.mark.parametrize("window", [ended, measured], ids=["cut short", "measured"])
def test_a_docker_that_hangs_is_asked_once(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    window: Callable[[World], object],
    words: tuple[str, ...],
    longest_s: int,
) -> None:
    """Each question costs time in which people wait for their tenants; the next try asks again."""
    window(world)
    answer, asked = containers.docker, []

    def hang(*args: str, timeout_s: float = 60.0) -> str:
        if args[0] not in words:
            return answer(*args, timeout_s=timeout_s)
        asked.append(args[0])
        world.clock.sleep(timeout_s)
        raise containers.DockerSilent(f"docker {args[0]}: no answer within {timeout_s:.0f} s")

    began = world.clock.now
    with monkeypatch.context() as patch:
        patch.setattr(containers, "docker", hang)
        text = incomplete(world)
    assert len(asked) == 1
    assert "could not be removed: docker" in text
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert event(world, "tenant_healthy")["t_s"] - began < longest_s + 15
    assert "segment_done a2" not in world.named()
    restore(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


@pytest.mark.parametrize("window", [ended, measured], ids=["cut short", "measured"])
def test_a_container_that_can_not_be_killed_keeps_tenants_waiting_once(
    world: World, monkeypatch: pytest.MonkeyPatch, window: Callable[[World], object]
) -> None:
    """docker gives up on it after ten seconds, and the tenants come back beside it; the next try asks again."""
    window(world)
    answer, asked = containers.docker, []

    def unkillable(*args: str, timeout_s: float = 60.0) -> str:
        if args[0] != "rm":
            return answer(*args, timeout_s=timeout_s)
        asked.append(world.clock.now)
        world.clock.sleep(10)
        raise DockerError("docker rm: could not kill: tried to kill container, but did not receive an exit event")

    began = world.clock.now
    with monkeypatch.context() as patch:
        patch.setattr(containers, "docker", unkillable)
        text = incomplete(world)
    assert len(asked) == 1
    assert "could not be removed: docker rm: could not kill" in text
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert event(world, "tenant_healthy")["t_s"] - began < 10 + 15
    restore(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


def test_docker_has_one_bound_in_a_restore(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first removal has used up is not there for the second."""
    measured(world)
    given: list[float] = []

    def slow(_labels: Any, _run: str, *, before: Any, limit_s: float) -> int:
        given.append(limit_s)
        world.clock.sleep(min(20.0, limit_s))
        return 0

    monkeypatch.setattr(containers, "remove", slow)
    with contextlib.suppress(RestoreFailed):
        restore(world)
    assert given[:2] == [plan.DOCKER_S, pytest.approx(plan.DOCKER_S - 20.0)]
    assert sum(min(20.0, one) for one in given) <= plan.DOCKER_S


def test_without_docker_only_our_own_process_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process with the same number is not the candidate."""
    ended(world)
    monkeypatch.setattr(probes, "alive", lambda process: process.start_ticks != process.pid * 10)
    dead_docker(world)
    incomplete(world)
    assert world.done("kill") == []


def test_a_process_of_an_earlier_boot_is_not_ours(world: World) -> None:
    ended(world)
    pid = world.candidate_pid
    world.reboot()
    world.candidate_pid = pid
    dead_docker(world)
    incomplete(world, "boot")
    assert world.done("kill") == []


def test_a_process_that_is_gone_when_it_is_to_be_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(world)
    dead_docker(world)

    def gone(_pid: int, _signal: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(restorer.os, "kill", gone)
    incomplete(world)
    assert starts(world) == ["llamacpp", "chatterbox"]


def test_logs_that_can_not_be_kept_keep_nobody_down(world: World) -> None:
    ended(world)
    (world.docker.folder / "refuse-inspect").write_text("no\n")
    restore(world)
    is_whole(world)


def test_what_containers_said_is_kept(world: World) -> None:
    measured(world)
    restore(world)
    logs = {p.name for p in (world.run_dir / "logs").glob("*.log")}
    assert {"panda-llamacpp-e4b.log", "mt-client-a1.log", "mt-client-candidate.log", "mt-client-a2.log"} <= logs
    assert (world.run_dir / "logs" / "mt-client-candidate.log").read_text() == "candidate ended with 0\n"


def test_a_full_disk_does_not_keep_the_host_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be created or appended; what is there can be written over and removed."""
    measured(world)

    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_append", full)
        patch.setattr(journal, "write_atomic", full)
        patch.setattr(restorer, "write_atomic", full)
        patch.setattr(containers, "save_logs", full)
        restore(world)
    assert all(world.up(name) for name in world.services)
    assert world.state.mark() is None
    assert world.state.epoch() == 2


def test_a_read_only_disk_does_not_keep_the_tenants_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(world)

    def refuse(*_args: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        for module, name in ((journal.Journal, "_append"), (journal.State, "raise_epoch"), (journal.State, "close")):
            patch.setattr(module, name, refuse)
        patch.setattr(restorer, "write_atomic", refuse)
        with pytest.raises((RestoreFailed, OSError)):
            restore(world)
    assert all(world.up(name) for name in world.services)
    assert world.state.mark() is not None


def test_without_eyes_on_the_gpu_the_tenants_come_back(world: World) -> None:
    measured(world)
    world.card.error = "the driver is gone"
    began = world.clock.now
    text = incomplete(world, seeing=False)
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert 5 <= world.services["llamacpp"].starts[0] - began < 6
    assert "no driver" in text
    world.card.error = ""
    restore(world)
    is_whole(world)


def test_a_gpu_that_falls_silent_costs_the_drains_minimum(world: World) -> None:
    measured(world)
    world.card.error = "the driver hangs"
    began = world.clock.now
    text = incomplete(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert 5 <= world.services["llamacpp"].starts[0] - began < 6
    assert event(world, "drain_timeout")["error"] == "the driver hangs"
    assert "the driver hangs" in text


def retries(world: World) -> list[tuple[str, int, float]]:
    """Which starts were tried again: tenant, number of the try that failed, pause before the next."""
    return [(e["tenant"], e["attempt"], e["wait_s"]) for e in world.events() if e["event"] == "tenant_retry"]


@pytest.mark.parametrize("name", ["llamacpp", "chatterbox"])
def test_a_start_that_fails_once_is_tried_again_at_once(world: World, name: str) -> None:
    measured(world)
    world.services[name].broken = "busy"
    world.at(f"tenant_retry {name}", lambda: setattr(world.services[name], "broken", ""))
    restore(world)
    assert retries(world) == [(name, 1, 0.5)]
    assert starts(world) == ["llamacpp", "chatterbox"]
    retried, healthy = event(world, "tenant_retry"), [e for e in world.events() if e["event"] == "tenant_healthy"]
    assert "ended with 1" in retried["reason"]
    # The words of a log come with the last try, and the pause counts as down time.
    assert "\n" not in retried["reason"]
    assert next(e["duration_s"] for e in healthy if e["tenant"] == name) == pytest.approx(2.5, abs=0.1)
    is_whole(world)


@pytest.mark.parametrize("name", ["llamacpp", "chatterbox"])
def test_a_start_that_always_fails_is_tried_three_times(world: World, name: str) -> None:
    measured(world)
    world.services[name].broken = "no"
    text = incomplete(world)
    assert retries(world) == [(name, 1, 0.5), (name, 2, 1.0)]
    assert [n for n in since_restore(world) if n == f"tenant_starting {name}"] == [f"tenant_starting {name}"]
    failed = event(world, "tenant_failed")
    assert failed["tenant"] == name
    assert failed["reason"] in text
    other = next(n for n in world.plan.restore_order if n != name)
    assert world.up(other)
    times = [e["t_s"] for e in world.events() if e["event"] in ("tenant_starting", "tenant_failed")]
    assert max(times) - min(times) < 10


def unit_times(world: World, monkeypatch: pytest.MonkeyPatch, takes: list[float]) -> list[float]:
    """Make each start of the baseline's unit take so long and fail; returns the limits it was given."""
    given: list[float] = []

    def slow(argv: list[str], limit_s: float, **options: Any) -> run.Ran:
        if argv[:2] == ["systemctl", "start"]:
            given.append(limit_s)
            seconds = takes[min(len(given), len(takes)) - 1]
            world.clock.sleep(min(seconds, limit_s))
            if seconds > limit_s:
                raise TimeoutError
            return run.Ran(1, "", "failed\n")
        return world._run(argv, limit_s, **options)

    monkeypatch.setattr(run, "command", slow)
    return given


@pytest.mark.parametrize("takes", [[18.0, 99.0], [99.0], [6.0, 6.0, 99.0], [19.8]], ids=str)
def test_all_tries_keep_to_the_tenants_own_limit(
    world_of: WorldOf, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, takes: list[float]
) -> None:
    """The cap counts with one start limit a tenant, however often it is tried."""
    plan_data["tenants"][0]["start_timeout_s"] = 20
    world = measured(world_of(plan_data))
    unit_times(world, monkeypatch, takes)
    incomplete(world)
    began, ended_ = (
        next(e["t_s"] for e in world.events() if e["event"] == name and e["tenant"] == "llamacpp")
        for name in ("tenant_starting", "tenant_failed")
    )
    assert ended_ - began <= 20.5


def test_a_tenant_that_dies_while_starting_is_seen_at_once_and_tried_again(world: World) -> None:
    measured(world)
    service = world.services["llamacpp"]
    service.load_s = 60
    deaths: list[float] = []

    def die() -> None:
        deaths.append(world.clock.now)
        world.stop("llamacpp", by="itself")
        service.load_s = 2

    world.at("tenant_starting llamacpp", lambda: world.clock.after(0.4, die))
    restore(world)
    assert retries(world) == [("llamacpp", 1, 0.5)]
    assert "ended before it was healthy: its unit is failed" in event(world, "tenant_retry")["reason"]
    assert event(world, "tenant_retry")["t_s"] - deaths[0] < 1
    assert len(service.starts) == 2
    is_whole(world)


@pytest.mark.parametrize("name", ["llamacpp", "chatterbox"])
def test_a_tenant_that_always_dies_costs_seconds_not_its_limit(world: World, name: str) -> None:
    measured(world)
    world.services[name].load_s = 60
    world.clock.ticks.append(
        lambda: (
            world.stop(name, by="itself")
            if world.services[name].pid and world.clock.now > world.services[name].starts[-1] + 0.3
            else None
        )
    )
    incomplete(world)
    assert len(world.services[name].starts) == 3
    began = next(e["t_s"] for e in world.events() if e["event"] == "tenant_starting" and e["tenant"] == name)
    assert event(world, "tenant_failed")["t_s"] - began < 6
    assert "ended before it was healthy" in event(world, "tenant_failed")["reason"]


def test_a_tenant_that_is_slow_is_not_tried_again(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][0]["start_timeout_s"] = 20
    world = measured(world_of(plan_data))
    world.services["llamacpp"].load_s = 10_000
    incomplete(world)
    assert retries(world) == []
    assert len(world.services["llamacpp"].starts) == 1


def test_a_start_that_failed_beside_a_living_process_starts_no_second_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start script gave up waiting for what it had started."""
    measured(world)
    command = world.command

    def impatient(argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        rc, out, err = command(argv, cwd)
        return (1 if "./start.sh" in argv[-2] and len(world.services["chatterbox"].starts) == 1 else rc), out, err

    monkeypatch.setattr(world, "command", impatient)
    restore(world)
    service = world.services["chatterbox"]
    # What the first one left is ended with its scope before it is tried again: never two at once.
    assert retries(world) == [("chatterbox", 1, 0.5)]
    assert len(service.starts) == 2
    is_whole(world)


# Without eyes on the GPU.


def test_a_tenant_that_died_in_an_earlier_restore_is_known_to_die(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next time it dies so fast that nothing is seen in its scope any more."""
    measured(world)
    journal.Journal(world.state.journal_path(world.plan.run), world.plan.run, 2, "restorer", required=True).write(
        "tenant_retry", tenant="chatterbox", attempt=1, wait_s=0.5, reason="died", ended=True
    )
    asked: list[bool] = []

    def die(tenant: plan.Tenant, _log: Path, _scope: str, _limit_s: float, *, sure: bool) -> float:
        if tenant.name == "chatterbox":
            asked.append(sure)
            raise tenants.Ended("gone")
        return 0.0

    monkeypatch.setattr(tenants, "wait_healthy", die)
    incomplete(world)
    assert set(asked) == {True}


class SlowOpening:
    """A driver that gives the card after so many seconds of the world's clock, or never."""

    error = "the GPU's driver has not answered yet"

    def __init__(self, world: World, after_s: float) -> None:
        self._world, self._due = world, world.clock.now + after_s

    def card(self, wait_s: float) -> Any:
        """The card, waited for."""
        left = self._due - self._world.clock.now
        self._world.clock.sleep(max(0.0, min(wait_s, left)))
        return self._world.card if self._world.clock.now >= self._due else None


def restore_slowly(world: World, after_s: float) -> float:
    """One attempt with such a driver; returns the seconds until the first tenant was started."""
    began = world.clock.now
    opening: Any = SlowOpening(world, after_s)
    with contextlib.suppress(RestoreFailed):
        Restorer(world.plan, world.state, opening, "host").restore()
    assert starts(world) == ["llamacpp", "chatterbox"]
    return world.services["llamacpp"].starts[0] - began


def test_a_driver_that_never_answers_costs_the_drains_minimum(world: World) -> None:
    measured(world)
    world.card.opens = False
    assert 5 <= restore_slowly(world, 1e9) <= 5 + restorer.SEE_S + 0.1
    timeout = event(world, "drain_timeout")
    assert timeout["holders"] == "the GPU cannot be read"


@pytest.mark.parametrize("after_s", [0.2, 2.0, 4.9])
def test_a_driver_that_answers_late_is_seen_from_then_on(world: World, after_s: float) -> None:
    measured(world)
    assert 5 <= restore_slowly(world, after_s) <= 5 + restorer.SEE_S + 0.2
    assert "drained_again" in world.named()
    is_whole(world)


@pytest.mark.parametrize("how", ["errs", "hangs"])
@pytest.mark.parametrize("after_s", [-1.0, 2.0, 4.95])
def test_a_driver_that_goes_silent_costs_the_minimum_and_a_second(world: World, how: str, after_s: float) -> None:
    measured(world)

    def silence() -> None:
        world.card.error = "NVML_ERROR_UNKNOWN"
        world.card.hangs = how == "hangs"

    if after_s < 0:
        silence()
    else:
        world.clock.after(after_s, silence)
    began = world.clock.now
    incomplete(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert 5 <= world.services["llamacpp"].starts[0] - began <= 6.2


def test_the_proof_waits_for_a_card_that_comes_late(world: World) -> None:
    measured(world)
    began = world.clock.now
    opening: Any = SlowOpening(world, 12)
    Restorer(world.plan, world.state, opening, "host").restore()
    assert world.services["llamacpp"].starts[0] - began < 6
    assert event(world, "checks")["ok"] is True


# A2.


def test_a2_measures_the_live_model_again(world: World) -> None:
    measured(world)
    restore(world)
    assert len((world.run_dir / "samples" / "nav-baseline-a2.jsonl").read_text().splitlines()) == 100
    (done,) = [e for e in world.events() if e["event"] == "segment_done" and e["session"] == "a2"]
    assert (done["exit_code"], done["by"]) == (0, "restorer")


def no_a2(world: World) -> None:
    """A2 was not run, and the host is restored anyway."""
    assert ("measured", "a2") not in world.log
    assert ("container", "mt-client-a2") not in world.log
    is_whole(world)


def test_no_a2_after_an_abort(world: World) -> None:
    ended(world, "phase_started measure")
    restore(world)
    no_a2(world)


def test_no_a2_after_a_lapsed_lease(world: World) -> None:
    world.open()
    world.controller = lambda: None
    with pytest.raises(PhaseFailed, match="lease"):
        world.runner("candidate").run()
    restore(world)
    no_a2(world)


def test_no_a2_after_a_fault(world: World) -> None:
    world.open()
    world.at("candidate_started", world.candidate_dies)
    with pytest.raises(PhaseFailed, match="died"):
        world.runner().run()
    restore(world)
    no_a2(world)


def test_no_a2_after_a_reboot(world: World) -> None:
    measured(world)
    world.reboot()
    restore(world, "boot")
    no_a2(world)


def test_no_a2_for_a_restore_at_boot_though_the_boot_looks_the_same(world: World) -> None:
    measured(world)
    restore(world, "boot")
    no_a2(world)


def test_no_a2_when_it_is_late(world: World) -> None:
    measured(world)
    world.clock.sleep(world.plan.run_max_s)
    restore(world)
    no_a2(world)


def test_no_a2_in_a_second_attempt(world: World) -> None:
    measured(world)
    world.services["llamacpp"].broken = "no"
    incomplete(world)
    world.services["llamacpp"].broken = ""
    restore(world)
    assert ("measured", "a2") not in world.log
    is_whole(world)


def test_no_a2_when_the_baseline_came_back_by_itself(world: World) -> None:
    measured(world)
    world.start("llamacpp", by="cron")
    world.clock.sleep(5)
    restore(world)
    no_a2(world)


def test_an_a2_client_that_still_runs_is_removed_before_the_drain(world: World) -> None:
    """The restore was killed while A2 ran: nobody measures while the rest comes back."""
    measured(world)
    world.state.raise_epoch()
    journal.Journal(world.state.journal_path(world.plan.run), world.plan.run, 2, "restorer", required=True).write(
        "restore_started", restored_by="host"
    )
    world.docker.main(["start", "mt-client-a2"])
    world.log.clear()
    restore(world)
    kinds = [entry[0] for entry in world.log if entry[0] != "systemctl"]
    assert kinds == ["docker", "start", "start"]
    is_whole(world)


def test_a2_is_bounded(world: World) -> None:
    measured(world)
    world.never_ready.add("a2")
    world.log.clear()
    restore(world)
    first, second = world.services["llamacpp"], world.services["chatterbox"]
    assert 15 <= second.starts[0] - (first.starts[0] + first.load_s) <= 21
    # A client that has not finished in time is ended before the next tenant starts.
    kinds = [entry[0] for entry in world.log if entry[0] in ("docker", "start")]
    assert kinds == ["docker", "start", "docker", "start"]
    is_whole(world)


def test_an_a2_client_that_vanishes_costs_the_comparison_only(world: World) -> None:
    measured(world)
    world.without_summary.add("a2")
    world.client_codes["a2"] = 137
    restore(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


def test_an_a2_container_that_is_missing_costs_the_comparison_only(world: World) -> None:
    measured(world)
    world.docker.main(["rm", "mt-client-a2"])
    restore(world)
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


@pytest.mark.parametrize("what", ["sign", "client"])
def test_an_a2_that_can_not_be_run_costs_the_comparison_only(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    measured(world)

    def fail(*_args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if what == "sign":
        monkeypatch.setattr(restorer, "write_atomic", fail)
    else:
        monkeypatch.setattr(containers, "Client", fail)
    restore(world)
    assert event(world, "a2_skipped")["reason"]
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


def a2_beside(world: World, ready: Callable[[], bool]) -> None:
    """A restore with A2; a stranger listens where A2 asks as soon as ``ready``, and goes when it was said."""
    world.intruders.clear()

    def come() -> None:
        if ready() and not world.intruders and "stranger" not in world.named():
            world.intruders.append(probes.Listener(11435, 6_000_000, "nc -l 11435"))
            world.came = world.clock.now

    world.clock.ticks.insert(0, come)
    world.at("a2_skipped", world.intruders.clear)
    restore(world)


def test_a_stranger_where_a2_asks_ends_it_and_voids_its_last_samples(world: World) -> None:
    measured(world)
    world.log.clear()
    a2_beside(world, lambda: ("measured", "a2") in world.log)
    found = event(world, "stranger")
    told = {key: found[key] for key in ("port", "owner", "pid", "user", "command")}
    assert told == {
        "port": 11435,
        "owner": "the tenant llamacpp",
        "pid": 6_000_000,
        "user": "666",
        "command": "nc -l 11435",
    }
    void = event(world, "samples_void")
    assert (void["session"], void["segments"]) == ("a2", ["nav-baseline-a2"])
    assert 0 < world.came - void["since_s"] <= 0.11
    assert (world.run_dir / "control" / "halt").exists(), "its client sends nothing more"
    assert "another party listens on the port of the tenant llamacpp" in event(world, "a2_skipped")["reason"]
    assert not [e for e in world.events() if e["event"] == "segment_done" and e["session"] == "a2"]
    # Its client is ended before anybody else is started.
    kinds = [entry[0] for entry in world.log if entry[0] in ("docker", "start")]
    assert kinds == ["docker", "start", "docker", "start"]
    is_whole(world)


def test_a_stranger_right_before_a2_gets_no_picture(world: World) -> None:
    """He is there when the baseline has just been found healthy."""
    measured(world)
    skipped: list[str] = []

    def tell(event: str, facts: dict[str, Any]) -> None:
        if event == "tenant_healthy" and facts["tenant"] == "llamacpp":
            world.intruders.append(probes.Listener(11435, 6_000_000, "nc"))
        if event == "a2_skipped":
            skipped.append(facts["reason"])
            world.intruders.clear()

    world.on_entry = tell
    restore(world)
    assert len(skipped) == 1
    assert not (world.run_dir / "control" / "start-a2").exists()
    assert "samples_void" not in world.named()
    is_whole(world)


# What is told afterwards.


def test_the_end_tells_who_restored_and_how_long_who_was_down(world: World) -> None:
    measured(world)
    restore(world, "ann by hand")
    restored = event(world, "restored")
    assert restored["restored_by"] == event(world, "restore_started")["restored_by"] == "ann by hand"
    assert set(restored["down"]) == {"chatterbox", "llamacpp"}
    assert restored["impacts"] == {"mute": restored["down"]["chatterbox"], "blind": restored["down"]["llamacpp"]}
    assert restored["down"]["chatterbox"] > restored["down"]["llamacpp"] > restored["duration_s"] / 2


def test_the_end_tells_what_stops_starts_and_drains_took(world: World) -> None:
    measured(world)
    restore(world)
    times = event(world, "restored")["times"]
    assert set(times) == {"stop_s", "start_s", "drain_s"}
    assert set(times["stop_s"]) == set(times["start_s"]) == {"chatterbox", "llamacpp"}
    assert times["start_s"]["chatterbox"] == pytest.approx(2.0, abs=0.1)
    assert times["drain_s"]["restore"] == pytest.approx(5.0, abs=0.2)
    assert times["drain_s"]["window"] == event(world, "drained")["duration_s"]


def test_times_are_those_of_the_first_stop_and_the_last_start() -> None:
    def entry(name: str, duration_s: float, tenant: str = "a", **facts: Any) -> dict[str, Any]:
        return {"event": name, "tenant": tenant, "duration_s": duration_s, **facts}

    assert restorer.times([]) == {"stop_s": {}, "start_s": {}, "drain_s": {}}
    found = restorer.times(
        [
            entry("tenant_stopped", 1.0),
            entry("drained", 0.5),
            entry("tenant_stopped", 9.0),
            entry("tenant_healthy", 7.0),
            entry("tenant_healthy", 2.0),
            entry("tenant_healthy", 0.0, found=True),
            entry("tenant_stopped", 3.0, "b"),
            # A drain that did not end well was not measured.
            entry("drain_timeout", 30.0),
        ]
    )
    assert found == {"stop_s": {"a": 1.0, "b": 3.0}, "start_s": {"a": 2.0}, "drain_s": {"window": 0.5}}


def test_a_rehearsal_is_restored_like_a_trial_and_tells_its_times(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    world = world_of({**plan_data, "rehearsal": True})
    world.runner().run()
    world.log.clear()
    restore(world, "playbook")
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert world.done("container", "measured") == []
    assert since_restore(world) == [n for n in STRICT if n != "segment_done"]
    restored = event(world, "restored")
    assert set(restored["times"]["start_s"]) == set(restored["down"]) == {"llamacpp", "chatterbox"}
    assert {e["event"] for e in world.events()} & {"a2_skipped", "segment_done", "candidate_starting"} == set()
    is_whole(world)


def test_a_host_without_a_card_comes_back_without_waiting_for_one(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    world = world_of({**plan_data, "rehearsal": True, "gpu": None})
    world.card.opens = False
    world.runner().run()
    results = Restorer(world.plan, world.state, gpu.Opening(None), "ann").restore()
    assert [c.title for c in results if "does not apply" in c.title] == ["VRAM: does not apply"]
    assert all(c.ok for c in results)
    assert [e["event"] for e in world.events() if "drain" in e["event"]] == []
    assert event(world, "restored")["times"]["drain_s"] == {}


def test_the_checks_are_kept_as_a_document(world: World) -> None:
    measured(world)
    results = Restorer(world.plan, world.state, gpu.Opening(0), "ann").restore()
    assert len(results) == 8
    assert all(result.ok for result in results)
    document = json.loads((world.run_dir / "verification.json").read_text())
    assert (document["run"], document["ok"], document["restored_by"]) == (world.plan.run, True, "ann")
    assert [c["id"] for c in document["checks"]] == list(range(1, 9))
    assert set(document["checks"][0]) == {"id", "title", "expected", "found", "ok"}
    assert event(world, "checks")["checks"] == document["checks"]


def test_a_phone_that_was_restarted_by_somebody_is_noticed(world: World) -> None:
    measured(world)
    world.start("phone", by="somebody")
    assert "it was restarted" in incomplete(world)


def killed(world: World, event: str = "candidate_started") -> World:
    """The host after a runner that was killed at that event, without a word."""
    from fakeworld import Killed

    def kill() -> None:
        raise Killed

    world.open()
    world.at(event, kill)
    with pytest.raises(Killed):
        world.runner().run()
    return world


@pytest.mark.parametrize(
    ("result", "words"), [("timeout", "its time limit was reached"), ("signal", "signal"), ("oom-kill", "oom-kill")]
)
def test_a_runner_that_was_killed_is_explained_by_systemd(world: World, result: str, words: str) -> None:
    killed(world)
    world.runner_result = result
    restore(world)
    failed = event(world, "phase_failed")
    assert (failed["phase"], failed["by"], failed["found"]) == ("candidate", "restorer", result)
    assert words in failed["reason"]
    assert "journalctl -u mt-run" in failed["todo"]
    # The reason is shown before the news that the host is being restored.
    assert world.named().index("phase_failed candidate") < world.named().index("restore_started")
    is_whole(world)


def test_a_runner_that_ended_with_its_host_is_explained_by_the_boot(world: World) -> None:
    killed(world)
    world.reboot()
    restore(world, "boot")
    failed = event(world, "phase_failed")
    assert (failed["found"], failed["phase"]) == ("the host was restarted", "candidate")
    assert "the host was restarted" in failed["reason"]
    is_whole(world)


def test_who_explained_himself_is_not_explained_again(world: World) -> None:
    ended(world)
    restore(world)
    (failed,) = [e for e in world.events() if e["event"] == "phase_failed"]
    assert failed["by"] == "runner"


def test_an_end_is_explained_once(world: World) -> None:
    killed(world)
    world.services["chatterbox"].broken = "no"
    incomplete(world)
    world.services["chatterbox"].broken = ""
    restore(world)
    assert world.named().count("phase_failed candidate") == 1


def test_a_systemd_that_does_not_answer_keeps_nobody_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(world)

    def hang(unit: str) -> dict[str, str]:
        raise TimeoutError(f"systemctl show {unit} timed out")

    with monkeypatch.context() as patch:
        patch.setattr(tenants, "unit_facts", hang)
        incomplete(world)
    assert world.up("chatterbox")
    restore(world)
    is_whole(world)


@pytest.mark.parametrize(
    "at", ["tenant_stopping chatterbox", "tenant_stopped llamacpp", "drained", "smoke", "extension"]
)
def test_a_runner_may_be_killed_anywhere(world: World, at: str) -> None:
    killed(world, at)
    restore(world)
    is_whole(world)


def entries(*rows: tuple[str, str, float, str]) -> list[dict[str, Any]]:
    """Journal entries of (event, tenant, seconds, boot); the wall clock shows them too, and a minute a boot."""
    return [
        {
            "event": name,
            "tenant": tenant,
            "t_s": t_s,
            "boot_id": boot,
            "wall": f"2026-05-01T12:{int(boot) + int(t_s) // 60:02d}:{t_s % 60:06.3f}Z",
        }
        for name, tenant, t_s, boot in rows
    ]


def test_down_times_are_from_the_first_word_to_the_last_health(plan_data: dict[str, Any]) -> None:
    found = restorer.downtimes(
        planfile.parse(plan_data),
        entries(
            ("tenant_stopping", "chatterbox", 10.0, "0"),
            ("tenant_stopped", "chatterbox", 11.0, "0"),
            ("tenant_stopping", "llamacpp", 20.0, "0"),
            ("tenant_healthy", "llamacpp", 50.0, "0"),
            ("tenant_healthy", "chatterbox", 55.0, "0"),
            ("tenant_stopping", "chatterbox", 56.0, "0"),
            ("tenant_healthy", "chatterbox", 58.5, "0"),
        ),
    )
    assert found == {
        "down": {"chatterbox": 48.5, "llamacpp": 30.0},
        "impacts": {"mute": 48.5, "blind": 30.0},
    }


def test_down_times_survive_a_reboot(plan_data: dict[str, Any]) -> None:
    found = restorer.downtimes(
        planfile.parse(plan_data),
        entries(("tenant_stopping", "llamacpp", 50.0, "0"), ("tenant_healthy", "llamacpp", 20.0, "5")),
    )
    assert found["down"] == {"llamacpp": 5 * 60 - 30}


def test_an_impact_lasts_until_the_last_of_its_tenants_is_back(plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][2]["impact"] = "blind"
    found = restorer.downtimes(
        planfile.parse(plan_data),
        entries(
            ("tenant_stopping", "chatterbox", 10.0, "0"),
            ("tenant_stopping", "llamacpp", 20.0, "0"),
            ("tenant_healthy", "chatterbox", 30.0, "0"),
            ("tenant_healthy", "llamacpp", 50.0, "0"),
        ),
    )
    assert found["impacts"] == {"blind": 40.0}


def test_who_is_not_back_has_no_down_time_yet(plan_data: dict[str, Any]) -> None:
    found = restorer.downtimes(planfile.parse(plan_data), entries(("tenant_stopping", "llamacpp", 10.0, "0")))
    assert found == {"down": {}, "impacts": {}}


def test_a_restore_after_a_reboot_is_whole_and_its_times_are_possible(world: World) -> None:
    """Everybody has a new process then, the untouched too."""
    ended(world)
    world.reboot()
    restore(world, "boot")
    assert starts(world) == ["llamacpp", "chatterbox"]
    assert all(s >= 0 for s in event(world, "restored")["down"].values())
    is_whole(world)


# From anywhere, the same end.


def whole_journal(world: World) -> list[dict[str, Any]]:
    """The journal of a whole trial with its restore."""
    measured(world)
    restore(world)
    return world.events()


def asked_to_stop(past: list[dict[str, Any]]) -> set[str]:
    """Who was asked to stop and not seen to end, where no manager knows of it."""
    moves = {e["tenant"]: e["event"] for e in past if e["event"] in restorer.MOVES}
    return {name for name, event in moves.items() if event == "tenant_stopping" and name != "llamacpp"}


def situation(
    world: World, past: list[dict[str, Any]], live: dict[str, str], server: str, a2: str, snapshot: dict[str, Any]
) -> None:
    """Put a host into any situation: what the journal says, and how things really are."""
    journal.write_atomic(world.run_dir / "snapshot.json", json.dumps(snapshot))
    world.state.journal_path(world.plan.run).write_text("".join(json.dumps(e) + "\n" for e in past))
    for name in ("inputs", "samples", "control", "logs"):
        (world.run_dir / name).mkdir(exist_ok=True)
    text = json.dumps(sessions.build(world.plan)["a2"])
    (world.run_dir / "inputs" / "session-a2.json").write_text(text)
    while world.state.epoch() < past[-1]["epoch"]:
        world.state.raise_epoch()
    world.clock.now = past[-1]["t_s"] + 1
    for name, how in live.items():
        if how != "up":
            world.stop(name, by="the trial")
        if how == "loading":
            world.start(name, by="an earlier attempt")
    if server != "absent":
        world.docker.add(world.plan.candidate.container, RUN_LABEL, world.plan.run)
        if server != "created":
            world.docker.main(["start", world.plan.candidate.container])
        if server == "exited":
            world.candidate_dies()
    if a2 != "absent":
        containers.create_client(world.plan, "a2", world.run_dir)
        if a2 == "running":
            world.docker.main(["start", "mt-client-a2"])
    world.state.open(Mark(world.plan.run, 1, journal.boot_id(), "then", "ann"))
    world.log.clear()


@pytest.mark.profiled
def test_from_any_point_of_a_trial_the_end_is_the_same(
    world_of: WorldOf, plan_data: dict[str, Any], quick_path: Path, free_port: int
) -> None:
    from fakeworld import make_world

    first = world_of(copy.deepcopy(plan_data))
    past = whole_journal(first)
    opened = next(i for i, e in enumerate(past) if e["event"] == "opened") + 1
    snapshot = json.loads((first.run_dir / "snapshot.json").read_text())
    count = [0]

    def check(cut: int, live: dict[str, str], server: str, a2: str) -> None:
        count[0] += 1
        with make_world(quick_path / f"case-{count[0]}", copy.deepcopy(plan_data), free_port).live() as world:
            situation(world, past[:cut], live, server, a2, snapshot)
            began, before = world.clock.now, len(world.events())
            epoch = world.state.epoch()
            restore(world)
            is_whole(world)
            assert world.state.epoch() == epoch + 1

            # No step is doubled, none is missing.
            asked = {name for name in asked_to_stop(past[:cut]) if live[name] != "down"}
            down = [name for name in world.plan.restore_order if live[name] == "down" or name in asked]
            assert starts(world) == down
            assert world.done("stop") == [("stop", name) for name in sorted(asked)]
            fresh = world.named()[before:]
            found = [f"tenant_healthy {e['tenant']}" for e in world.events()[before:] if e.get("found") is True]
            pending = [n for n in world.plan.restore_order if live[n] != "up" or n in asked]
            moved = any(e["event"] in restorer.MOVES for e in past[:cut])
            assert fresh.count("settled") == (bool(pending) or moved)
            for name in ("restore_started", "containers_removed", "checks", "restored", "closed"):
                assert fresh.count(name) == 1, (name, fresh)
            assert fresh.count("drained_again") == bool(pending)
            assert [n for n in fresh if n.startswith("tenant_starting")] == [f"tenant_starting {n}" for n in pending]
            order = [STRICT.index(n) for n in fresh if n in STRICT and n not in ("segment_done", *found)]
            assert order == sorted(order)
            for name in down:
                assert world.services[name].starts[0] - began >= 5

            # A2 has its place after a completed measure phase, once, and nowhere else.
            names = [e["event"] + str(e.get("phase", "")) for e in past[:cut]]
            allowed = "phase_donemeasure" in names and "restore_started" not in names
            runs_a2 = allowed and live["llamacpp"] != "up" and a2 != "absent"
            assert (("measured", "a2") in world.log) == runs_a2

            # Everybody who was down is in the account.
            stopping = {e["tenant"] for e in past[:cut] if e["event"] == "tenant_stopping"}
            assert set(event(world, "restored")["down"]) >= stopping

    how = st.sampled_from(["up", "down", "loading"])
    cuts = st.integers(opened, len(past))
    everything = given(
        cut=cuts,
        live=st.fixed_dictionaries({"llamacpp": how, "chatterbox": how}),
        server=st.sampled_from(["absent", "created", "running", "exited"]),
        a2=st.sampled_from(["absent", "created", "running"]),
    )
    rules = settings(max_examples=examples(100), derandomize=True, database=None, report_multiple_bugs=False)
    rules(everything(check))()


def troubled_journal(world: World) -> list[dict[str, Any]]:
    """The journal of a trial with a hook that fails, a tenant that is tried again, and a restore that is too."""
    world.hook_rc = 1 if world.plan.hook else 0
    measured(world)
    world.services["chatterbox"].broken = "no voice"
    world.state.ask("asked", "playbook")
    assert program.restore_now(world.state) == 1
    world.at("tenant_retry chatterbox", lambda: setattr(world.services["chatterbox"], "broken", ""))
    assert program.restore_now(world.state) == 0
    wanted = {"tenant_retry chatterbox", "tenant_failed chatterbox", "restore_failed"}
    assert wanted | ({"hook_failed"} if world.plan.hook else set()) <= set(world.named())
    return world.events()


@pytest.mark.profiled
def test_a_journal_torn_at_every_byte_is_its_whole_lines(world: World) -> None:
    past = troubled_journal(world)
    raw = world.state.journal_path(world.plan.run).read_bytes()
    lines = raw.splitlines(keepends=True)
    assert len(lines) == len(past)
    begin = 0
    for i, line in enumerate(lines):
        for cut in some(range(begin, begin + len(line)), 12, always=(begin + 1, begin + len(line) - 2)):
            # A line without its newline is whole.
            whole = i + (cut == begin + len(line) - 1)
            assert len(journal._entries(raw[:cut])) == whole, f"cut at byte {cut}"
        begin += len(line)
    assert journal._entries(raw) == past


@pytest.mark.profiled
def test_from_any_byte_of_a_troubled_trial_the_unit_comes_to_the_same_end(
    world_of: WorldOf, plan_data: dict[str, Any], quick_path: Path, free_port: int
) -> None:
    """What ``mt-restore`` does, pauses and words included, from a journal that was torn anywhere in its last line."""
    from fakeworld import make_world

    plan_data["hook"] = {"command": ["notify"]}
    first = world_of(copy.deepcopy(plan_data))
    past = troubled_journal(first)
    opened = next(i for i, e in enumerate(past) if e["event"] == "opened") + 1
    snapshot = json.loads((first.run_dir / "snapshot.json").read_text())
    count = [0]

    def check(cut: int, torn: float, live: dict[str, str], server: str, word: str) -> None:
        count[0] += 1
        with make_world(quick_path / f"case-{count[0]}", copy.deepcopy(plan_data), free_port).live() as world:
            situation(world, past[:cut], live, server, "absent", snapshot)
            path = world.state.journal_path(world.plan.run)
            if cut < len(past):
                line = json.dumps(past[cut]).encode()
                path.write_bytes(path.read_bytes() + line[: int(torn * len(line))])
            if word:
                program.restore(world.state, word, wait=False)
            world.log.clear()
            before, epoch = world.events(), world.state.epoch()
            assert before == past[:cut]
            began = world.clock.now
            assert program.restore_now(world.state) == 0
            is_whole(world)
            assert world.state.epoch() == epoch + 1

            # Nobody is started twice, nobody is forgotten, nobody is stopped.
            fresh = world.events()[len(before) :]
            names = [e["event"] for e in fresh]
            asked = {name for name in asked_to_stop(before) if live[name] != "down"}
            assert starts(world) == [n for n in world.plan.restore_order if live[n] == "down" or n in asked]
            assert world.done("stop") == [("stop", name) for name in sorted(asked)]
            for name in ("restore_started", "containers_removed", "checks", "restored", "closed"):
                assert names.count(name) == 1, (name, names)
            assert [entry[1] for entry in world.done("hook")] == ["EVENT=closed"]
            stopping = {e["tenant"] for e in before if e["event"] == "tenant_stopping"}
            assert set(event(world, "restored")["down"]) >= stopping

            # Who asked, and the pause: none for somebody's word or for a try that was cut off.
            ends = [e for e in before if e["event"] in ("restore_started", "restore_failed", "restored")]
            under_way = bool(ends) and ends[-1]["event"] != "restore_failed"
            by = word or (ends[-1]["restored_by"] if under_way else "host")
            assert {e["restored_by"] for e in fresh if "restored_by" in e} == {by}
            failed = bool(ends) and ends[-1]["event"] == "restore_failed" and not word
            pause_s = next(e["t_s"] for e in fresh if e["event"] == "restore_started") - began
            assert pause_s == pytest.approx(1.0 if failed else 0.0, abs=0.1)

    how = st.sampled_from(["up", "down", "loading"])
    everything = given(
        cut=st.integers(opened, len(past)),
        torn=st.floats(0, 0.999),
        live=st.fixed_dictionaries({"llamacpp": how, "chatterbox": how}),
        server=st.sampled_from(["absent", "created", "running", "exited"]),
        word=st.sampled_from(["", "", "hand", "playbook", "boot"]),
    )
    rules = settings(max_examples=examples(150), derandomize=True, database=None, report_multiple_bugs=False)
    rules(everything(check))()


@pytest.mark.profiled
def test_killed_at_any_step_and_started_again_the_end_is_the_same(
    plan_data: dict[str, Any], quick_path: Path, free_port: int
) -> None:
    from fakeworld import Killed, make_world

    def attempt(step: int, pause_s: float) -> int:
        """How many steps there were."""
        folder = quick_path / f"kill-{step}-{pause_s}"
        with make_world(folder, copy.deepcopy(plan_data), free_port).live() as world:
            measured(world)
            world.log.clear()
            world.steps, world.kill_at = 0, step
            try:
                restore(world)
            except Killed:
                world.clock.sleep(pause_s)
                restore(world, "systemd, again")
            is_whole(world)
            assert sorted(starts(world)) == ["chatterbox", "llamacpp"], f"killed at step {step}"
            assert world.done("measured").count(("measured", "a2")) <= 1
            assert set(event(world, "restored")["down"]) == {"llamacpp", "chatterbox"}
            return world.steps

    never = 10**6
    count = attempt(never, 0.0)
    assert count > 30
    # Again at once, while what was started may still be loading, and again after systemd's pause.
    for at, step in enumerate(some(range(1, count + 1), 16)):
        assert attempt(step, 6.0 if at % 2 else 0.1) >= step


# What was begun outlives the program that asked for it.


def kind_of(plan_data: dict[str, Any], how: str) -> dict[str, Any]:
    """The plan with a voice of another kind."""
    voice = plan_data["tenants"][2]
    if how == "script by argv":
        voice["process"] = "chatterbox/server.py"
    elif how == "process":
        voice |= {"kind": "process", "process": "chatterbox/server.py", "stop": "", "start": "exec server.py"}
    elif how == "container":
        voice |= {"kind": "container", "container": "voice", "start": "", "stop": ""}
    return plan_data


VOICES = ["script by port", "script by argv", "process", "container"]


def kill_in(world: World, seconds: float) -> None:
    """kill -9 of the host's program that many seconds from now."""
    from fakeworld import Killed

    def kill() -> None:
        raise Killed

    world.clock.after(seconds, kill)


def stays_whole(world: World) -> None:
    """The host is whole, nobody was started twice, and a night later it still is: nothing was under way."""
    is_whole(world)
    assert world.doubled == []
    for _unused in range(20):
        world.clock.sleep(30)
        assert all(world.up(name) for name in world.services)


@pytest.mark.parametrize("name", ["llamacpp", "chatterbox"])
@pytest.mark.parametrize("how", VOICES)
@pytest.mark.parametrize("cut", ["its own limit", "a kill", "a restore meanwhile"])
def test_a_stop_that_was_cut_off_is_brought_to_its_end(
    world_of: WorldOf, plan_data: dict[str, Any], name: str, how: str, cut: str
) -> None:
    """It continues by itself, and its tenant is as healthy as ever until it dies."""
    from fakeworld import Killed

    world = world_of(kind_of(plan_data, how))
    world.open()
    world.services[name].stop_s = 35.0
    # docker, and we where there is no stop command, kill at the end of the grace.
    limited = cut == "its own limit" and not (how in ("container", "process") and name == "chatterbox")
    if cut != "its own limit":
        # Who asks for a restore asks systemd, which ends the runner first.
        world.at(f"tenant_stopping {name}", lambda: kill_in(world, 2))
    with pytest.raises((Killed, PhaseFailed)) if limited or cut != "its own limit" else contextlib.nullcontext():
        world.runner().run()
    if cut == "a restore meanwhile":
        program.restore(world.state, "hand", wait=False)
    while program.restore_now(world.state):
        assert world.named().count("restore_failed") < 5
    assert f"tenant_in_flight {name}" in world.named() or not limited
    stays_whole(world)


def test_a_stop_script_that_still_runs_is_waited_for(world: World) -> None:
    """It would end the voice with its last line."""
    from fakeworld import Killed

    world.open()
    voice = world.services["chatterbox"]
    voice.stop_s, voice.stop_how = 15.0, "late"
    world.at("tenant_stopping chatterbox", lambda: kill_in(world, 2))
    with pytest.raises(Killed):
        world.runner().run()
    assert world.up("chatterbox")
    restore(world)
    assert "its stop command still runs" in event(world, "tenant_in_flight")["found"]
    assert starts(world) == ["chatterbox"]
    # It was waited for, and not done again.
    assert len(voice.stops) == 1
    stays_whole(world)


def test_who_does_not_hear_is_ended_by_signal(world: World) -> None:
    world.open()
    world.services["chatterbox"].deaf = True
    with pytest.raises(PhaseFailed, match="still runs after 20 s"):
        world.runner().run()
    began = world.clock.now
    restore(world)
    assert world.clock.now - began < world.plan.restore_bound_s
    assert starts(world) == ["chatterbox"]
    stays_whole(world)


def test_a_unit_whose_stop_does_not_end_keeps_the_mark(world: World) -> None:
    world.open()
    world.services["llamacpp"].stop_s = 70
    with pytest.raises(PhaseFailed, match="still stopping"):
        world.runner().run()
    text = incomplete(world)
    assert "llamacpp: its stop does not end: its unit is deactivating" in text
    assert world.up("chatterbox")
    while program.restore_now(world.state):
        assert world.named().count("restore_failed") < 5
    stays_whole(world)


def test_a_stop_that_could_not_be_run_began_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The voice's folder is gone: it could not be started again either."""
    pid = world.services["chatterbox"].pid
    command = run.command

    def refuse(argv: list[str], limit_s: float, **options: Any) -> run.Ran:
        if argv[0] == "systemd-run" and "./stop.sh" in argv[-2]:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/home/panda/chatterbox")
        return command(argv, limit_s, **options)

    monkeypatch.setattr(run, "command", refuse)
    world.open()
    with pytest.raises(PhaseFailed, match="cannot be run"):
        world.runner().run()
    assert event(world, "tenant_not_stopped")["begun"] is False
    restore(world)
    assert world.services["chatterbox"].pid == pid
    stays_whole(world)


@pytest.mark.parametrize("how", ["script by port", "script by argv", "process", "launcher"])
@pytest.mark.parametrize("after_s", [0.2, 3.0, 8.0])
def test_a_restore_that_was_killed_while_a_tenant_loads_starts_no_second_one(
    world_of: WorldOf, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, how: str, after_s: float
) -> None:
    """For as long as it loads it does not listen, and is not to be found by its port: longer than the drain lasts.

    Behind a launcher it does not look as it did before the trial either: only the scope of its start tells.
    """
    from fakeworld import Killed

    world = measured(world_of(kind_of(plan_data, how)))
    if how == "launcher":
        monkeypatch.setattr(identity, "alike", lambda *_look: [])
    voice = world.services["chatterbox"]
    voice.listens_s = world.plan.limits.drain_limit_s + 15.0
    voice.load_s = voice.listens_s + 5.0
    world.at("tenant_starting chatterbox", lambda: kill_in(world, after_s))
    with pytest.raises(Killed):
        restore(world)
    restore(world)
    assert len(voice.starts) == 1
    stays_whole(world)


@pytest.mark.parametrize("dies", [False, True])
def test_a_tenant_that_its_boot_unit_has_started_is_not_started_twice(world: World, dies: bool) -> None:
    """It loads, and its port does not tell yet that it runs; one that ends is seen to end, and started then."""
    measured(world)
    world.reboot()
    voice = world.services["chatterbox"]
    voice.listens_s, voice.load_s = 40.0, 45.0
    world.start("chatterbox", by="its boot unit")
    began = world.clock.now
    if dies:
        world.clock.after(20, lambda: world.stop("chatterbox", by="itself"))
    restore(world, "boot")
    assert starts(world) == ["llamacpp", "chatterbox"][: 1 + dies]
    assert world.clock.now - began < 90
    stays_whole(world)


def comes_back_as_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The voice has lost its supplementary group and got root's when it is started again; the window has ended."""
    robot = identity.Identity(1000, 1000, [27], "system.slice", 0, 0, {}, {}, None)
    first = world.services["chatterbox"].pid
    monkeypatch.setattr(identity, "own_groups", lambda _uid: None)
    monkeypatch.setattr(identity, "read", lambda pid: robot if pid == first else dataclasses.replace(robot, groups=[0]))
    measured(world)


def test_who_comes_back_as_another_keeps_the_mark(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    comes_back_as_another(world, monkeypatch)
    assert program.restore_now(world.state) == 1
    assert world.state.mark() is not None
    text = event(world, "restore_failed")["reason"]
    assert "Chatterbox TTS is healthy" in text
    assert "but its identity has changed: groups [1000, 0], were [1000, 27]" in text
    assert world.up("chatterbox")
    # Who asks again may be a program, and has repaired nothing.
    world.state.ask("asked", "ann")
    assert program.restore_now(world.state) == 1
    assert "restart it yourself" in event(world, "restore_failed")["reason"]
    world.stop("chatterbox", by="ann")
    world.start("chatterbox", by="ann")
    world.state.ask("asked", "ann")
    assert program.restore_now(world.state) == 0
    is_whole(world)


def test_a_start_command_that_still_runs_has_not_brought_anybody_up(world: World) -> None:
    """It may yet find the tenant wanting, and end it."""
    from fakeworld import Killed

    measured(world)
    voice = world.services["chatterbox"]
    voice.command_s = 20.0
    world.at("tenant_starting chatterbox", lambda: kill_in(world, 5))
    with pytest.raises(Killed):
        restore(world)
    assert world.up("chatterbox")
    began = world.clock.now
    restore(world)
    assert event(world, "tenant_healthy")["t_s"] - began > 10
    assert len(voice.starts) == 1
    stays_whole(world)


def test_what_an_earlier_trial_started_is_not_loading(world: World) -> None:
    """A helper that lives on in the scope of an earlier start is no voice."""
    voice = world.services["chatterbox"]
    voice.scope = "trial-start.chatterbox.0123abcd.scope"
    world.open()
    world.at("tenant_stopped llamacpp", lambda: world.state.ask("abort", "ann"))
    with pytest.raises(PhaseFailed):
        world.runner().run()
    members = world.members
    left = {voice.scope: [9_999_999]}

    def beside(pattern: str, proc: Path | None = None) -> dict[str, list[int]]:
        return {scope: pids for scope, pids in {**left, **members(pattern, proc)}.items() if "start" in pattern}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "members", beside)
        began = world.clock.now
        restore(world)
    assert world.clock.now - began < 20
    assert starts(world) == ["llamacpp", "chatterbox"]


@pytest.mark.profiled
def test_whatever_is_under_way_and_for_however_long_the_end_is_the_same(
    plan_data: dict[str, Any], quick_path: Path, free_port: int
) -> None:
    """Stops and starts of any length, cut off by limits and kills, of the runner and of restore after restore."""
    from fakeworld import Killed, make_world

    count = [0]

    def check(
        how: str, ends: str, stops: dict[str, float], deaf: bool, cut: str, cut_s: float, kills: list[float],
        loads_s: float, command_s: float,
    ) -> None:  # fmt: skip
        count[0] += 1
        data = kind_of(copy.deepcopy(plan_data), how)
        with make_world(quick_path / f"flight-{count[0]}", data, free_port).live() as world:
            world.open()
            for name, stop_s in stops.items():
                world.services[name].stop_s = stop_s
            voice = world.services["chatterbox"]
            voice.stop_how, voice.deaf = ends, deaf and how != "container"
            voice.listens_s, voice.command_s = loads_s, min(command_s, 30.0)
            voice.load_s = loads_s + 1
            if cut:
                world.at(cut, lambda: kill_in(world, cut_s))
            with contextlib.suppress(PhaseFailed, Killed):
                world.runner().run()
            world.clock.due.clear()
            for kill_s in kills:
                if world.state.mark() is None:
                    break
                kill_in(world, kill_s)
                with contextlib.suppress(Killed):
                    program.restore_now(world.state)
                world.clock.due.clear()
                world.clock.sleep(0.5)
            if world.state.mark():
                while program.restore_now(world.state):
                    assert world.named().count("restore_failed") < 12, event(world, "restore_failed")["reason"]
            stays_whole(world)

    lengths = st.one_of(st.just(0.0), st.floats(0.1, 5.0), st.floats(15.0, 60.0))
    moments = [
        f"{what} {name}" for what in ("tenant_stopping", "tenant_stopped") for name in ("chatterbox", "llamacpp")
    ]
    everything = given(
        how=st.sampled_from(VOICES),
        ends=st.sampled_from(["waits", "returns", "late"]),
        stops=st.fixed_dictionaries({"llamacpp": lengths, "chatterbox": lengths}),
        deaf=st.booleans(),
        cut=st.sampled_from(["", *moments, "candidate_started", "phase_done measure"]),
        cut_s=st.floats(0.0, 25.0),
        kills=st.lists(st.floats(0.0, 60.0), max_size=3),
        loads_s=st.sampled_from([0.0, 3.0, 25.0]),
        command_s=st.sampled_from([0.0, 2.0, 30.0]),
    )
    rules = settings(max_examples=examples(60), derandomize=True, database=None, report_multiple_bugs=False)
    rules(everything(check))()


def test_a_stranger_on_a_tenants_port_is_named_and_nobody_is_taken_for_it(world: World) -> None:
    """Another user's program says that it is the voice, and well."""
    measured(world)
    intruder = probes.Listener(8772, 6_000_000, "nc -l 8772")
    world.intruders.append(intruder)
    world.services["chatterbox"].broken = "address already in use"
    text = incomplete(world)
    assert "port 8772 is held by PID 6000000 (user " in text
    assert "nc -l 8772" in text
    assert world.done("kill") == []
    world.intruders.clear()
    world.services["chatterbox"].broken = ""
    restore(world)
    stays_whole(world)


def test_a_stranger_beside_a_tenant_keeps_the_mark(world: World) -> None:
    """Which of them answers nobody can tell."""
    measured(world)
    world.intruders.append(probes.Listener(11435, 6_000_000, "nc -l 11435"))
    assert "port 11435 is held by PID 6000000" in incomplete(world)
    world.intruders.clear()
    restore(world)
    is_whole(world)


# Restored is settled.


def settling(world_of: WorldOf, plan_data: dict[str, Any], settle_s: float = 10.0) -> World:
    """The host after a whole window, with the settle period of a real host."""
    return measured(world_of({**plan_data, "settle_s": settle_s}))


def test_the_mark_goes_when_everybody_has_stayed_up(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    world = settling(world_of, plan_data)
    restore(world)
    last = [e["t_s"] for e in world.events() if e["event"] == "tenant_healthy"][-1]
    assert event(world, "settled")["duration_s"] == pytest.approx(10, abs=0.1)
    assert event(world, "restored")["t_s"] - last >= 10
    document = json.loads((world.run_dir / "verification.json").read_text())
    assert document["boot_id"] == journal.boot_id()
    for name in world.plan.restore_order:
        pid = world.services[name].pid
        known = {"running": True, "pid": pid, "start_ticks": pid * 10, "restarts": 0}
        assert document["tenants"][name] == known
    is_whole(world)


Trouble = Callable[["World"], None]


def dies(world: World) -> None:
    """The voice dies by itself."""
    world.stop("chatterbox", by="itself")


def dies_and_is_revived(world: World) -> None:
    """A supervisor has started it again before anybody looks."""
    world.start("chatterbox", by="a supervisor")


def counts_a_restart(world: World) -> None:
    """Its manager says that it has started it again."""
    world.services["llamacpp"].restarts += 1


def flaps(world: World) -> None:
    """Its health comes and goes."""
    world.services["chatterbox"].ill = True
    world.clock.after(1.0, lambda: setattr(world.services["chatterbox"], "ill", False))


@pytest.mark.parametrize(
    ("trouble", "words", "started"),
    [
        (dies, r"chatterbox did not stay up: PID \d+ has ended, 7\.\d s after the last start", ["chatterbox"]),
        (dies_and_is_revived, r"chatterbox did not stay up: PID \d+ has ended", []),
        (counts_a_restart, r"llamacpp did not stay up: its manager has restarted it \(1 times, 0 before\)", []),
        (flaps, "chatterbox did not stay up: .*no answer", []),
    ],
)
def test_who_does_not_stay_up_is_not_back(
    world_of: WorldOf, plan_data: dict[str, Any], trouble: Trouble, words: str, started: list[str]
) -> None:
    world = settling(world_of, plan_data)
    world.at("tenant_healthy chatterbox", lambda: world.clock.after(7, lambda: trouble(world)))
    text = incomplete(world)
    assert re.search(words, text), text
    assert event(world, "not_settled")["reason"] in text
    before = len(starts(world))
    world.clock.sleep(2)
    restore(world)
    assert starts(world)[before:] == started
    is_whole(world)


def test_whose_health_never_holds_never_is_back(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    world = settling(world_of, plan_data)
    voice = world.services["chatterbox"]
    world.clock.ticks.append(lambda: setattr(voice, "ill", int(world.clock.now) % 4 == 0))
    for _attempt in range(4):
        incomplete(world)
    world.clock.ticks.pop()
    voice.ill = False
    restore(world)
    is_whole(world)


@pytest.mark.parametrize("settle_s", [0, 10])
def test_where_nobody_was_moved_nothing_has_to_settle(
    world_of: WorldOf, plan_data: dict[str, Any], settle_s: int
) -> None:
    world = world_of({**plan_data, "settle_s": settle_s})
    world.open()
    restore(world)
    assert "settled" not in world.named()
    is_whole(world)


def test_after_a_boot_everybody_has_to_settle(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    world = world_of(plan_data)
    world.open()
    world.reboot()
    restore(world, "boot")
    assert "settled" in world.named()


@pytest.mark.parametrize("settle_s", [0.0, None])
@pytest.mark.parametrize("turn_s", [20.0, 400.0, math.inf])
def test_a_boot_unit_that_waits_for_its_turn_makes_no_second_voice(
    world_of: WorldOf, plan_data: dict[str, Any], turn_s: float, settle_s: float | None
) -> None:
    """It would start one after the settle period, when the trial is closed and nobody looks any more."""
    from fakeworld import Beside

    if settle_s is not None:
        plan_data["settle_s"] = settle_s
    voice = next(tenant for tenant in plan_data["tenants"] if tenant["name"] == "chatterbox")
    voice["boot"] = "voice-boot.service"
    world = world_of(plan_data)
    measured(world)
    world.reboot()
    unit = world.beside["voice-boot.service"] = Beside(active=False, facts={"ActiveState": "inactive", "Job": "7"})

    def turns() -> None:
        unit.facts.update(ActiveState="active", Job="")
        # A script that looks whether one runs already.
        if not world.services["chatterbox"].pid:
            world.start("chatterbox", by="its boot unit")

    world.clock.after(min(turn_s, 1e6), turns)
    attempts = 0
    while world.state.mark():
        began = world.clock.now
        code, attempts = program.restore_now(world.state), attempts + 1
        assert (code == 0) == (unit.facts["Job"] == "")
        assert world.clock.now - began < world.plan.restore_bound_s + program.RETRY_MAX_S
        if attempts == 15:
            # It never gets its turn: the voice is there, and the mark says why it stays.
            assert turn_s == math.inf
            assert "voice-boot.service, which starts it, waits" in event(world, "restore_failed")["reason"]
            break
    # In time it starts the tenant itself; a turn that does not come keeps nobody down.
    assert world.up("chatterbox")
    assert len(world.services["chatterbox"].starts) == (turn_s != 20)
    assert not world.doubled


def test_a_gpu_reading_that_fails_once_is_no_reason_to_hurry(world: World) -> None:
    """The memory of the candidate lingers for eight seconds; two readings in between fail."""
    measured(world)
    world.linger_s = 8
    world.clock.after(4.8, lambda: setattr(world.card, "error", "NVML_ERROR_UNKNOWN"))
    world.clock.after(5.5, lambda: setattr(world.card, "error", ""))
    began = world.clock.now
    restore(world)
    assert world.services["llamacpp"].starts[0] - began >= 8
    is_whole(world)


def test_drained_is_a_word_of_the_card(world: World) -> None:
    """The fake card counts as the real one does: who holds how much, and what lingers."""
    assert world.card.read().used_mib == 13_700
    world.stop("chatterbox")
    assert world.card.read().used_mib == 13_700
    world.clock.sleep(world.linger_s)
    assert world.card.read().used_mib == 10_100
    world.card.error = "gone"
    with pytest.raises(gpu.GpuError, match="gone"):
        world.card.read()


# Neither up nor down: its manager does not tell.


def boxed(plan_data: dict[str, Any]) -> dict[str, Any]:
    """The plan with a voice that is a container."""
    voice = next(tenant for tenant in plan_data["tenants"] if tenant["name"] == "chatterbox")
    voice |= {"kind": "container", "container": "voice", "start": "", "stop": ""}
    return plan_data


@pytest.mark.parametrize("kind", [tenants.NotThere, tenants.TenantError, TimeoutError])
def test_who_can_not_be_seen_after_the_checks_is_missed(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """A container that was removed meanwhile: there is nothing left that could be asked."""
    measured(world)
    run_checks, standing = checks.run, tenants.standing

    def unseen(tenant: Any) -> tenants.Standing:
        if tenant.name == "chatterbox":
            raise kind("no such container")
        return standing(tenant)

    def fatal(*args: Any, **options: Any) -> list[checks.CheckResult]:
        found = run_checks(*args, **options)
        patch.setattr(tenants, "standing", unseen)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(checks, "run", fatal)
        assert "chatterbox is gone after the checks" in incomplete(world)
    restore(world)
    is_whole(world)


def says(**facts: Any) -> Trouble:
    """The manager of the voice or of the model says this of it from now on."""
    return lambda world: world.services["llamacpp" if "ActiveState" in facts else "chatterbox"].says.update(facts)


def is_stopped_by_somebody(world: World) -> None:
    """A person's stop of the model is under way; until it ends, the model answers."""
    world.services["llamacpp"].dies_at = world.clock.now + 10


NOT_UP: dict[str, tuple[Trouble, str]] = {
    "paused": (says(Paused=True, Status="paused"), "container voice is paused"),
    "restarting": (
        says(Running=False, Restarting=True, Pid=0, Status="restarting"),
        "container voice is restarting",
    ),
    "pauses between two starts": (
        says(ActiveState="activating", SubState="auto-restart", MainPID=0),
        "its unit is activating",
    ),
    "its stop is under way": (is_stopped_by_somebody, "its unit is deactivating"),
}


@pytest.mark.parametrize(("trouble", "words"), NOT_UP.values(), ids=NOT_UP)
def test_who_is_neither_up_nor_down_after_the_checks_is_not_back(
    world_of: WorldOf, plan_data: dict[str, Any], trouble: Trouble, words: str
) -> None:
    world = measured(world_of(boxed(plan_data)))
    run_checks = checks.run

    def troubled(*args: Any, **options: Any) -> list[checks.CheckResult]:
        found = run_checks(*args, **options)
        trouble(world)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "run", troubled)
        assert f"did not stay up: after the checks {words}" in incomplete(world)
    world.services["chatterbox"].says.clear()
    restore(world)
    is_whole(world)


def test_whose_manager_is_silent_from_its_start_to_the_end_is_missed(
    world_of: WorldOf, plan_data: dict[str, Any]
) -> None:
    """No check asks this one, and without a settle period there is no look at it before."""
    voice = plan_data["tenants"][2]
    del voice["speech"], voice["health"]
    voice |= {"kind": "systemd", "unit": "voice", "start": "", "stop": "", "port": 0}
    world = settling(world_of, plan_data, settle_s=0)
    world.at("tenant_healthy chatterbox", lambda: setattr(world.services["chatterbox"], "silent", True))
    assert "chatterbox is gone after the checks, or its state can't be read" in incomplete(world)
    world.services["chatterbox"].silent = False
    restore(world)
    is_whole(world)


def test_a_turn_that_was_waited_for_is_part_of_the_start_limit(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    from fakeworld import Beside

    voice = next(tenant for tenant in plan_data["tenants"] if tenant["name"] == "chatterbox")
    voice["boot"] = "voice-boot.service"
    world = world_of(plan_data)
    measured(world)
    world.reboot()
    unit = world.beside["voice-boot.service"] = Beside(active=False, facts={"ActiveState": "inactive", "Job": "7"})
    limit_s = world.plan.tenant("chatterbox").start_timeout_s

    def turns() -> None:
        unit.facts.update(ActiveState="active", Job="")
        world.start("chatterbox", by="its boot unit")
        world.services["chatterbox"].healthy_at = math.inf

    world.at("tenant_in_flight chatterbox", lambda: world.clock.after(0.45 * limit_s, turns))
    incomplete(world)
    began, failed = (event(world, name)["t_s"] for name in ("tenant_starting", "tenant_failed"))
    assert failed - began < 1.2 * limit_s


def test_a_container_that_each_boot_creates_is_only_reported(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    """``docker compose up`` and ``down`` in a unit do so: the trial has lost nothing."""
    world = world_of(boxed(plan_data))
    world.docker.add("voice", "com.example", "x", status="running", id="a" * 64)
    measured(world)
    world.reboot()
    world.docker._containers.clear()
    world.docker.add("voice", "com.example", "x", status="running", id="b" * 64)
    restore(world)
    assert world.state.mark() is None
    assert "container voice is another one" in event(world, "gone")["found"]


@pytest.mark.parametrize("when", ["in the window", "while it is restored"])
@pytest.mark.parametrize("stops", [True, False], ids=["a tenant that stops", "a tenant beside"])
def test_a_container_that_was_replaced_under_its_name_keeps_the_mark(
    world_of: WorldOf, plan_data: dict[str, Any], when: str, stops: bool
) -> None:
    """Its health page answers as before, and what was in the former one is missing."""
    plan_data = boxed(plan_data)
    if not stops:
        for order in ("stop_order", "restore_order"):
            plan_data[order].remove("chatterbox")
    world = world_of(plan_data)

    def make(number: str) -> None:
        for box in [one for one in world.docker.all() if one["name"] == "voice"]:
            del world.docker._containers[box["id"]]
        world.docker.add("voice", "com.example", "x", status="running", id=number * 64)

    make("a")
    measured(world)
    if when == "in the window":
        make("b")
    else:
        world.at("tenant_starting llamacpp", lambda: make("b"))
    for _attempt in range(2):
        assert program.restore_now(world.state) == 1
        reason = event(world, "restore_failed")["reason"]
        assert f"container voice is another one than before ({'b' * 12}" in reason
    # It is back; or a person, who has created it again, asks again.
    if stops:
        make("a")
        restore(world)
    else:
        world.state.ask("asked", "ann")
        assert program.restore_now(world.state) == 0
        assert "container voice is another one" in event(world, "gone")["found"]
    assert world.state.mark() is None


SILENT = {
    "llamacpp": "systemd does not report the state of panda-llamacpp: Failed to connect to bus",
    "chatterbox": "docker does not report the state of the container voice: Cannot connect to the Docker daemon",
}


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.parametrize("running", [True, False], ids=["it runs", "it is down"])
def test_who_is_not_told_about_is_not_started_and_asked_again(
    world_of: WorldOf, plan_data: dict[str, Any], name: str, running: bool
) -> None:
    """Its start could make two of it. The others come back meanwhile."""
    world = measured(world_of(boxed(plan_data)))
    silent, other = world.services[name], ({*SILENT} - {name}).pop()
    if running:
        world.start(name, by="somebody")
    silent.silent = True
    assert SILENT[name] in incomplete(world)
    assert starts(world) == [other]
    silent.silent = False
    world.clock.sleep(5)
    restore(world)
    assert starts(world) == ([other] if running else [other, name])
    assert world.doubled == []
    is_whole(world)


@pytest.mark.parametrize("name", SILENT)
def test_a_manager_that_is_silent_for_a_moment_costs_no_attempt(
    world_of: WorldOf, plan_data: dict[str, Any], name: str
) -> None:
    world = measured(world_of(boxed(plan_data)))
    tenant = world.services[name]

    def falls_silent() -> None:
        tenant.silent = True
        world.clock.after(2, lambda: setattr(tenant, "silent", False))

    world.at(f"tenant_starting {name}", falls_silent)
    restore(world)
    assert sorted(starts(world)) == ["chatterbox", "llamacpp"]
    assert "tenant_retry" not in {e["event"] for e in world.events()}
    is_whole(world)


@pytest.mark.parametrize(("speaks_s", "settles"), [(4, True), (30, False)])
def test_who_is_not_told_about_while_it_settles_is_asked_again(
    world_of: WorldOf, plan_data: dict[str, Any], speaks_s: int, settles: bool
) -> None:
    world = settling(world_of, boxed(plan_data))
    voice = world.services["chatterbox"]
    world.at("tenant_healthy chatterbox", lambda: setattr(voice, "silent", True))
    world.clock.ticks.append(
        lambda: voice.starts and world.clock.now > voice.healthy_at + speaks_s and setattr(voice, "silent", False)
    )
    if settles:
        restore(world)
        assert event(world, "settled")
        is_whole(world)
    else:
        assert f"chatterbox did not stay up: its state can't be read: chatterbox: {SILENT['chatterbox']}" in incomplete(
            world
        )
        assert "settled" not in since_restore(world)


def test_what_waits_to_be_started_again_is_started_at_once(world: World) -> None:
    """`Restart=` with a long pause: systemd would start it some time, and refuses to before."""
    measured(world)
    model = world.services["llamacpp"]
    model.says = {"ActiveState": "activating", "SubState": "auto-restart", "MainPID": 0}
    began = world.clock.now
    restore(world)
    # First it is stopped: systemd takes no start in the pause.
    moves = [("stop", "llamacpp"), ("start", "llamacpp"), ("start", "chatterbox")]
    assert world.done("stop", "start")[-3:] == moves
    assert model.starts[-1] - began < 15
    is_whole(world)


def test_a_unit_without_a_process_is_stopped_and_comes_back(world: World) -> None:
    """A one-shot that remains active: its state tells, and there is no process to compare."""
    model = world.services["llamacpp"]
    model.bare = True
    measured(world)
    assert model.stops
    assert not world.up("llamacpp")
    restore(world)
    document = json.loads((world.run_dir / "verification.json").read_text())
    assert document["tenants"]["llamacpp"] == {"running": True, "pid": 0, "start_ticks": 0, "restarts": 0}
    is_whole(world)


@pytest.mark.parametrize("boots", [False, True])
def test_a_unit_that_remains_active_when_its_program_has_ended_is_not_back(
    world_of: WorldOf, plan_data: dict[str, Any], boots: bool
) -> None:
    """`RemainAfterExit=`, and no health page: its state alone would say that it is up."""
    del plan_data["tenants"][0]["health"]
    world = settling(world_of, plan_data)
    model = world.services["llamacpp"]
    if boots:
        world.reboot()
    world.start("llamacpp", by="somebody")
    model.says = {"SubState": "exited", "MainPID": 0}
    restore(world, "boot" if boots else "host")
    # It was ended and started again, as one that runs and is ill.
    assert world.done("stop", "start")[-3:] == [("stop", "llamacpp"), ("start", "llamacpp"), ("start", "chatterbox")]
    is_whole(world)


def test_who_comes_back_as_another_after_a_boot_keeps_the_mark(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is the one from before, and what a restore starts has to be who it was."""
    comes_back_as_another(world, monkeypatch)
    world.reboot()
    assert "but its identity has changed: groups [1000, 0], were [1000, 27]" in incomplete(world, "boot")
    assert world.up("chatterbox")


@pytest.mark.parametrize("how", ["script by port", "script by argv", "process"])
def test_a_second_copy_beside_a_tenant_keeps_the_mark(
    world_of: WorldOf, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A watchdog or a boot unit has started it, too; it does not get the port, and lives on."""
    world = settling(world_of, kind_of(plan_data, how))
    voice, second = world.services["chatterbox"], probes.ProcessId(6_000_000, 1)
    copies: list[probes.ProcessId] = []
    world.at("tenant_healthy chatterbox", lambda: copies.append(second))

    def beside(find: Callable[..., list[probes.ProcessId]]) -> Callable[..., list[probes.ProcessId]]:
        def found(*asked: Any) -> list[probes.ProcessId]:
            here = find(*asked)
            return [*here, *copies] if voice.pid in [one.pid for one in here] else here

        return found

    monkeypatch.setattr(probes, "processes", beside(world.processes))
    monkeypatch.setattr(identity, "alike", beside(world.alike))
    monkeypatch.setattr(probes, "uid", lambda pid, *_proc: 1000 if pid == second.pid else world.uid(pid))
    text = incomplete(world)
    assert f"chatterbox runs more than once: PIDs {voice.pid}, 6000000 all " in text
    assert "settled" not in since_restore(world)
    pid = voice.pid
    copies.clear()
    restore(world)
    assert voice.pid == pid
    is_whole(world)


def test_a_journal_that_has_lost_its_beginning_moved_somebody(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    """A stop may have been asked for, and ends its tenant some seconds later."""
    world = world_of({**plan_data, "settle_s": 10.0})
    world.open()
    world.state.journal_path(world.plan.run).write_text("")
    voice = world.services["chatterbox"]
    voice.dies_at = world.clock.now + 4.0
    text = incomplete(world)
    assert "chatterbox did not stay up: PID" in text
    restore(world)
    is_whole(world)


# Whatever takes as long as it may, a restore ends within its bound.


def whole(seconds: float) -> float:
    """Nearly all of a limit: what takes all of it has failed."""
    return 0.98 * seconds


def answers_late(world: World, patch: pytest.MonkeyPatch, fits: Callable[[list[str]], bool]) -> None:
    """Commands that fit take nearly all the time that they are given, and work."""
    command = run.command

    def late(argv: Any, limit_s: float, **options: Any) -> run.Ran:
        if fits([*argv]):
            world.clock.sleep(whole(limit_s))
        return command(argv, limit_s, **options)

    patch.setattr(run, "command", late)


def docker_is_late(*words: str) -> Callable[[World, pytest.MonkeyPatch], None]:
    """docker takes its time for these of its commands."""
    return lambda world, patch: answers_late(
        world, patch, lambda argv: argv[0] == "docker" and argv[1] in words and "State" not in " ".join(argv)
    )


def pages_are_late(world: World, patch: pytest.MonkeyPatch) -> None:
    """Every health page takes as long as it may."""
    ask = probes.ask

    def late(question: plan.Http) -> probes.ProbeResult:
        world.clock.sleep(whole(question.timeout_s))
        return ask(question)

    patch.setattr(probes, "ask", late)


def starts_are_late(world: World, _patch: pytest.MonkeyPatch) -> None:
    """Everybody loads for as long as he may."""
    for service in world.services.values():
        service.load_s = whole(service.tenant.start_timeout_s)


def everybody_is_ill(world: World, _patch: pytest.MonkeyPatch) -> None:
    """Another party has started them, and they have to be ended first, which takes as long as it may."""
    for name in world.plan.restore_order:
        world.start(name, by="somebody")
        service = world.services[name]
        service.ill, service.born, service.load_s = True, world.clock.now - 10_000, 1.0
        service.stop_s = whole(service.tenant.stop_timeout_s)


def a_stop_is_under_way(world: World, _patch: pytest.MonkeyPatch) -> None:
    """The model's stop was begun, and takes what its unit allows."""
    world.start("llamacpp", by="somebody")
    world.services["llamacpp"].dies_at = world.clock.now + whole(world.plan.tenant("llamacpp").stop_wait_s)


def memory_is_late(world: World, _patch: pytest.MonkeyPatch) -> None:
    """What was used is not given back."""
    world.lingering.append((3_000, world.clock.now + whole(world.plan.limits.drain_limit_s)))


def the_card_is_late(world: World, patch: pytest.MonkeyPatch) -> None:
    """The driver needs all of the drain's minimum to answer."""
    card, first = gpu.Opening.card, world.clock.now

    def late(opening: gpu.Opening, wait_s: float) -> gpu.Card | None:
        if world.clock.now + wait_s - first < world.plan.limits.drain_min_s:
            world.clock.sleep(wait_s)
            return None
        world.clock.sleep(whole(wait_s))
        return card(opening, wait_s)

    patch.setattr(gpu.Opening, "card", late)


def docker_is_silent_at_the_last_look(world: World, patch: pytest.MonkeyPatch) -> None:
    """When the checks have passed, it no longer tells how a container is; each question takes all its time."""
    check, command = checks.run, run.command
    checked: list[bool] = []

    def checking(*args: Any, **options: Any) -> list[checks.CheckResult]:
        checked.append(True)
        return check(*args, **options)

    def silent(argv: Any, limit_s: float, **options: Any) -> run.Ran:
        if checked and "{{json .State}}" in argv:
            world.clock.sleep(limit_s)
            raise TimeoutError(f"{argv} timed out")
        return command(argv, limit_s, **options)

    patch.setattr(checks, "run", checking)
    patch.setattr(run, "command", silent)


LATE: dict[str, Callable[[World, pytest.MonkeyPatch], None]] = {
    "docker lists": docker_is_late("ps"),
    "docker removes": docker_is_late("rm"),
    "docker tells logs": docker_is_late("inspect", "logs"),
    "docker tells all": docker_is_late("ps", "rm", "inspect", "logs"),
    "a container opens the card": docker_is_late("exec"),
    "pages": pages_are_late,
    "starts": starts_are_late,
    "everybody is ill": everybody_is_ill,
    "a stop": a_stop_is_under_way,
    "memory": memory_is_late,
    "the card": the_card_is_late,
    "the last look": docker_is_silent_at_the_last_look,
}
TOGETHER = [[name] for name in LATE] + [
    ["docker lists", "docker removes", "a container opens the card", "pages", "starts", "a stop", "memory"],
    ["docker removes", "pages", "everybody is ill", "memory", "the card"],
    ["docker tells all", "pages", "starts", "memory", "the last look"],
]


@pytest.mark.parametrize("late", TOGETHER, ids=["+".join(names) for names in TOGETHER])
@pytest.mark.parametrize("how", ["script by port", "container"])
def test_whatever_is_late_a_restore_keeps_to_its_bound(
    world_of: WorldOf, plan_data: dict[str, Any], how: str, late: list[str]
) -> None:
    plan_data["limits"] = {"cap_s": 3000, "drain_limit_s": 8}
    for tenant in plan_data["tenants"]:
        tenant |= {"start_timeout_s": 12, "stop_timeout_s": 4}
    world = measured(world_of(kind_of(plan_data, how)))
    began = world.clock.now
    with pytest.MonkeyPatch.context() as patch:
        for name in late:
            LATE[name](world, patch)
        with contextlib.suppress(RestoreFailed):
            restore(world)
    assert world.clock.now - began <= world.plan.restore_bound_s, world.named()
    assert all(world.up(name) for name in world.services), world.named()


# What starts a tenant again as soon as it ends: a supervisor, a watchdog, its own stop.


def watchdog(world: World, name: str, after_s: float) -> None:
    """Starts a tenant whenever it is down, a moment later."""
    down_since: list[float] = []

    def look() -> None:
        if world.services[name].pid:
            down_since.clear()
        elif not down_since:
            down_since.append(world.clock.now)
        elif world.clock.now - down_since[0] >= after_s:
            world.start(name, by="its watchdog")

    world.clock.ticks.append(look)


@pytest.mark.parametrize("how", ["script by argv", "process", "container"])
@pytest.mark.parametrize("after_s", [0.0, 0.2])
def test_who_is_started_again_at_once_by_others_is_left_up(
    world_of: WorldOf, plan_data: dict[str, Any], how: str, after_s: float
) -> None:
    """Each try to end it would only take it down once more, and the host would never be back."""
    world = world_of(kind_of(plan_data, how))
    world.open()
    watchdog(world, "chatterbox", after_s)
    began = world.clock.now
    with pytest.raises(PhaseFailed, match=r"another party has started it again|still runs|started again by another"):
        world.runner().run()
    if how != "container":
        assert world.clock.now - began < 15
    stops = len(world.services["chatterbox"].stops)
    restore(world)
    assert len(world.services["chatterbox"].stops) == stops
    assert starts(world) in ([], ["llamacpp"])
    assert world.doubled == []
    is_whole(world)


def test_a_unit_that_its_stop_starts_again_is_left_up(world: World) -> None:
    """`ExecStopPost=` that starts the unit."""
    world.open()
    watchdog(world, "llamacpp", 0.0)
    with pytest.raises(PhaseFailed, match=r"started (it )?again"):
        world.runner().run()
    restore(world)
    assert starts(world) == ["chatterbox"]
    is_whole(world)


def test_what_a_tenant_has_forked_since_its_stop_is_not_started_again(
    world_of: WorldOf, plan_data: dict[str, Any]
) -> None:
    """It answers for as long as it lives, and ends with the stop that was asked for."""
    world = world_of(kind_of(plan_data, "script by argv"))
    world.open()
    voice = world.services["chatterbox"]

    voice.stop_s, voice.stop_how = 0.04, "returns"

    def forked() -> None:
        # Its parent ends at the same moment.
        world.start("chatterbox", by="a fork of its own")
        voice.healthy_at, voice.dies_at = world.clock.now, world.clock.now + 15
        world.doubled.clear()

    world.at("tenant_stopping chatterbox", lambda: world.clock.after(0.03, forked))
    with pytest.raises(PhaseFailed, match=r"started (it )?again"):
        world.runner().run()
    assert world.up("chatterbox")
    restore(world)
    assert starts(world) == ["chatterbox"]
    stays_whole(world)


def test_a_stop_that_was_asked_for_twice_is_still_a_stop(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    """The process that an earlier restore has started and begun to end is older than that stop."""
    from fakeworld import Killed

    world = measured(world_of(kind_of(plan_data, "script by argv")))
    voice = world.services["chatterbox"]
    world.start("chatterbox", by="somebody")
    voice.ill, voice.born, voice.stop_s, voice.stop_how = True, world.clock.now - 10_000, 15.0, "returns"
    world.at("tenant_stopping chatterbox", lambda: kill_in(world, 3))
    with pytest.raises(Killed):
        restore(world)
    voice.ill = False
    restore(world)
    assert "tenant_in_flight chatterbox" in world.named()
    stays_whole(world)


# Who says so.


def test_a_play_that_asks_before_any_failure_has_seen_to_nothing(world: World) -> None:
    """Its request waits for the end of the host's own attempt, and must not lessen what the next one proves."""
    measured(world)
    world.start("phone", by="somebody")
    world.at("tenant_starting llamacpp", lambda: program.restore(world.state, "playbook", wait=False))
    for by in ("host", "playbook"):
        assert program.restore_now(world.state) == 1
        assert event(world, "restore_failed")["restored_by"] == by
        assert "it was restarted" in event(world, "restore_failed")["reason"]
    assert world.state.mark() is not None
    # A person who asks now has read that.
    program.restore(world.state, "playbook", wait=False)
    assert program.restore_now(world.state) == 0
    is_whole(world)


def test_a_mark_that_is_removed_while_it_is_restored_is_put_back(world: World) -> None:
    """Otherwise the next try would find nothing to do, and who is missing would stay down."""
    measured(world)
    world.services["chatterbox"].broken = "no voice"
    world.at("tenant_starting chatterbox", (world.state.root / "open").unlink)
    assert program.restore_now(world.state) == 1
    assert "the open mark had been removed meanwhile, and was put back" in event(world, "restore_failed")["reason"]
    world.services["chatterbox"].broken = ""
    assert program.restore_now(world.state) == 0
    is_whole(world)


def test_a_mark_that_is_removed_in_the_window_ends_it_and_the_host_comes_back(world: World) -> None:
    world.open()
    world.at("drained", (world.state.root / "open").unlink)
    with pytest.raises(PhaseFailed, match="the open mark was removed by another party"):
        world.runner().run()
    assert program.restore_now(world.state) == 0
    assert starts(world) == ["llamacpp", "chatterbox"]
    is_whole(world)


def one_shot(world: World, _for_s: float) -> None:
    """The model's unit remains active without a process."""
    world.services["llamacpp"].bare = True


def timed(world: World, for_s: float) -> None:
    """A timer, or a unit's own `Restart=`, starts the model a while after it is down."""
    watchdog(world, "llamacpp", 1.0 + for_s)


def supervised(world: World, for_s: float) -> None:
    """A supervisor starts the voice as soon as it is down, or nearly."""
    watchdog(world, "chatterbox", for_s / 10)


def engine_down(world: World, for_s: float) -> None:
    """The voice is a container, and its engine does not answer for a while."""
    voice = world.services["chatterbox"]
    voice.silent = True
    world.clock.after(for_s, lambda: setattr(voice, "silent", False))


def booted(world: World, for_s: float) -> None:
    """The host has started again, and the voice's boot unit starts it beside the restore: it listens a while later."""
    world.reboot()
    voice = world.services["chatterbox"]
    if voice.pid:
        world.stop("chatterbox", by="the boot")
    voice.listens_s = for_s
    world.start("chatterbox", by="its boot unit")
    voice.listens_s = 0.0
    for service in world.services.values():
        # No stop outlives a boot.
        service.dies_at = 0.0


OTHERS: dict[str, tuple[str, Callable[[World, float], None]]] = {
    "one-shot": ("script by port", one_shot),
    "timer": ("script by argv", timed),
    "supervisor": ("process", supervised),
    "supervised script": ("script by argv", supervised),
    "engine down": ("container", engine_down),
    "boot unit": ("script by port", booted),
}


@pytest.mark.profiled
def test_from_any_point_whatever_kind_the_tenants_are_of_the_end_is_the_same(
    plan_data: dict[str, Any], quick_path: Path, free_port: int
) -> None:
    """Every prefix of a journal, with stops and starts under way of every kind of tenant."""
    from fakeworld import make_world

    count = [0]
    pasts: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {}

    def past_of(kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        how, begin = OTHERS[kind]
        # What its unit is, it was before the trial, too.
        known = how + " bare" * (begin is one_shot)
        if known not in pasts:
            data = kind_of(copy.deepcopy(plan_data), how)
            with make_world(quick_path / f"past-{len(pasts)}", data, free_port).live() as world:
                if begin is one_shot:
                    one_shot(world, 0.0)
                past = whole_journal(world)
                pasts[known] = past, json.loads((world.run_dir / "snapshot.json").read_text())
        return pasts[known]

    def check(kind: str, at: float, live: dict[str, str], stop_s: float, for_s: float) -> None:
        count[0] += 1
        how, begin = OTHERS[kind]
        past, snapshot = past_of(kind)
        opened = next(i for i, e in enumerate(past) if e["event"] == "opened") + 1
        cut = opened + int(at * (len(past) - opened))
        data = kind_of(copy.deepcopy(plan_data), how)
        with make_world(quick_path / f"kind-{count[0]}", data, free_port).live() as world:
            begin_here = {name: "up" if state == "stopping" else state for name, state in live.items()}
            situation(world, past[:cut], begin_here, "absent", "absent", snapshot)
            # Only systemd shows a stop that nobody has journaled.
            ours = {"llamacpp", *asked_to_stop(past[:cut])}
            for name, state in live.items():
                if state == "stopping" and name in ours:
                    world.services[name].stop_s = stop_s
                    world.ask_to_stop(name)
            begin(world, for_s)
            while program.restore_now(world.state):
                assert world.named().count("restore_failed") < 12, event(world, "restore_failed")["reason"]
                world.clock.sleep(0.5)
            world.clock.ticks[:] = world.clock.ticks[:1]
            stays_whole(world)

    state = st.sampled_from(["up", "down", "loading", "stopping"])
    everything = given(
        kind=st.sampled_from(sorted(OTHERS)),
        at=st.floats(0.0, 0.999),
        live=st.fixed_dictionaries({"llamacpp": state, "chatterbox": state}),
        stop_s=st.floats(0.5, 30.0),
        for_s=st.floats(0.0, 30.0),
    )
    rules = settings(max_examples=examples(60), derandomize=True, database=None, report_multiple_bugs=False)
    rules(everything(check))()
