# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of a host before a trial, on a made-up host."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu, identity, runner, snapshot
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import ProcessId

if TYPE_CHECKING:
    from fakeworld import World


def test_a_snapshot_tells_who_runs_and_what_it_holds(world: World) -> None:
    found = snapshot.take(world.plan, world.card)
    service = world.services["chatterbox"]
    assert found["tenants"]["chatterbox"] == {
        "running": True,
        "healthy": True,
        "pid": service.pid,
        "start_ticks": service.pid * 10,
        "vram_mib": 3_600,
        "vram_pids": [service.pid],
        "scopes": [],
        "found": f"PID {service.pid}, HTTP 200",
        # Nobody in this world has a /proc of his own.
        "identity": None,
        "kin": ("/usr/bin/chatterbox", "/srv/chatterbox", ("serve",)),
        "family": [],
        "others": [],
        "output": "",
    }
    assert found["tenants"]["nav"]["vram_mib"] == 0
    assert (found["used_mib"], found["total_mib"]) == (13_700, 16_303)
    assert [h["mib"] for h in found["holders"]] == [4_900, 3_600, 4_700]
    assert found["gpu"] == {"name": "Fake 16", "driver": "1.0"}
    assert found["system"]["kernel"]


def test_a_snapshot_of_a_dead_tenant(world: World) -> None:
    world.stop("phone")
    found = snapshot.take(world.plan, world.card)["tenants"]["phone"]
    assert (found["running"], found["healthy"], found["pid"], found["start_ticks"]) == (False, False, 0, 0)


def test_a_snapshot_of_a_tenant_without_a_process(world: World) -> None:
    """A one-shot that remains: contract 6 and the snapshot ask systemd the same question."""
    world.services["llamacpp"].bare = True
    found = snapshot.take(world.plan, world.card)["tenants"]["llamacpp"]
    assert (found["running"], found["healthy"], found["pid"], found["start_ticks"]) == (True, True, 0, 0)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"LoadState": "not-found", "ActiveState": "inactive", "MainPID": 0}, "systemd has no unit panda-llamacpp"),
        ({"ActiveState": ""}, "systemd does not report the state of panda-llamacpp"),
    ],
)
def test_no_trial_is_opened_over_a_tenant_that_nobody_knows(world: World, says: dict[str, Any], words: str) -> None:
    world.services["llamacpp"].says = says
    with pytest.raises((runner.PhaseFailed, OSError)) as caught:
        world.open()
    if isinstance(caught.value, runner.PhaseFailed):
        assert words in caught.value.facts["found"]
        assert caught.value.facts["todo"] == "nothing was touched"
    else:
        assert words in str(caught.value)
    assert world.state.mark() is None


def test_where_the_driver_does_not_tell_nothing_is_known(world: World) -> None:
    world.tells = False
    found = snapshot.take(world.plan, world.card)
    assert found["tenants"]["chatterbox"]["vram_mib"] is None
    assert found["tenants"]["nav"]["vram_mib"] == 0
    assert snapshot.drain_target(world.plan, found) is None


def test_a_size_the_driver_keeps_to_itself_is_unknown_too(world: World) -> None:
    world.services["chatterbox"].mib = None
    holder = gpu.Holder(world.services["chatterbox"].pid, None, "chatterbox --its-options")
    card = world.card
    read = card.read
    card.read = lambda: gpu.Vram(0.0, 13_700, 16_303, (*read().holders, holder))
    assert snapshot.take(world.plan, card)["tenants"]["chatterbox"]["vram_mib"] is None


def test_the_drain_target_is_what_the_others_hold(world: World) -> None:
    found = snapshot.take(world.plan, world.card)
    assert snapshot.drain_target(world.plan, found) == 13_700 - 3_600 - 4_900


# Who its tenants were.

ROBOT = identity.Identity(1000, 1000, [27], "system.slice", 0, 0, {"nofile": "1024:1024"}, {}, ["HF_TOKEN", "PATH"])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity of every process, and what it has in its environment."""
    monkeypatch.setattr(identity, "read", lambda _pid: ROBOT)
    monkeypatch.setattr(identity, "environment", lambda _pid: {"PATH": "/bin", "HF_TOKEN": "hf_secret"})
    monkeypatch.setattr(identity, "output", lambda _pid: "/home/robot/voice.log")


def test_a_restore_knows_who_a_tenant_was(world: World, known: None) -> None:
    world.open()
    voice = world.services["chatterbox"]
    before = identity.before(world.runner().plan.tenant("chatterbox"))
    assert before == identity.Before(
        process=ProcessId(voice.pid, voice.pid * 10),
        identity=ROBOT,
        kin=("/usr/bin/chatterbox", "/srv/chatterbox", ("serve",)),
        output="/home/robot/voice.log",
        environment={"PATH": "/bin", "HF_TOKEN": "hf_secret"},
    )
    # Of a unit systemd knows who it is.
    assert identity.before(world.runner().plan.tenant("llamacpp")).identity is None


def test_values_of_an_environment_are_roots_alone_and_go_with_the_mark(world: World, known: None) -> None:
    world.open()
    path = world.state.root / "environments"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hf_secret" in path.read_text()
    for kept in world.run_dir.rglob("*"):
        # What is harvested has names only.
        assert not kept.is_file() or "hf_secret" not in kept.read_text(errors="replace"), kept
    assert "HF_TOKEN" in (world.run_dir / "snapshot.json").read_text()
    world.state.close()
    assert not path.exists()


def test_after_a_boot_no_process_is_known_and_the_rest_is(world: World, known: None) -> None:
    world.open()
    world.reboot()
    before = identity.before(world.runner().plan.tenant("chatterbox"))
    assert (before.process, before.family) == (None, ())
    assert before.identity == ROBOT
    assert before.environment


def test_environments_of_another_run_are_nobodys(world: World, known: None) -> None:
    world.open()
    world.state.keep_environments("another", {"chatterbox": {"PATH": "/"}})
    assert identity.before(world.runner().plan.tenant("chatterbox")).environment is None


def test_of_workers_that_look_the_same_none_is_a_stranger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that listens has a parent and a sibling; another program of the same look has neither."""
    pid = world.services["chatterbox"].pid
    parents = {pid: {pid, 40}, 40: {40}, 41: {41, 40}, 42: {42}}
    monkeypatch.setattr(snapshot.tenants.probes, "ancestors", lambda one, *_proc: parents.get(one, {one}))
    monkeypatch.setattr(identity, "alike", lambda *_look: [ProcessId(one, one * 10) for one in (pid, 40, 41, 42)])
    found = snapshot.take(world.plan, world.card)["tenants"]["chatterbox"]
    assert found["others"] == [[42, 420]]


def test_a_snapshot_of_an_earlier_version_is_one_without_identities(world: World) -> None:
    world.open()
    path = world.run_dir / "snapshot.json"
    old = json.loads(path.read_text())
    for facts in old["tenants"].values():
        for name in ("identity", "kin", "family", "others", "output"):
            facts.pop(name, None)
    path.write_text(json.dumps(old))
    (world.state.root / "environments").unlink()
    voice = world.services["chatterbox"]
    process = ProcessId(voice.pid, voice.pid * 10)
    assert identity.before(world.runner().plan.tenant("chatterbox")) == identity.Before(process=process)
