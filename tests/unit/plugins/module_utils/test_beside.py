# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore and what ran beside the tenants: what went down with one comes back, and what is gone is named."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    checks,
    definitions,
    gpu,
    journal,
    probes,
    program,
    surroundings,
    tenants,
    units,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils.restorer import RestoreFailed, Restorer
from ansible_collections.edgelab.model_trial.plugins.module_utils.runner import PhaseFailed

if TYPE_CHECKING:
    from fakeworld import World

LLAMACPP = "panda-llamacpp.service"


def restore(world: World, by: str = "host") -> None:
    Restorer(world.plan, world.state, gpu.Opening(0), by).restore()


def incomplete(world: World, by: str = "host") -> str:
    """An attempt that must not succeed: the mark stays."""
    with pytest.raises(RestoreFailed) as caught:
        restore(world, by)
    assert world.state.mark() is not None
    return str(caught.value)


def needs(world: World, name: str, *others: str, how: str = "RequiredBy", **facts: str) -> Any:
    """A unit that is no tenant and goes down with others."""
    from fakeworld import Beside

    world.beside[name] = Beside(needs=others, how=how, facts=facts)
    return world.beside[name]


def shown(world: World) -> list[units.Unit]:
    """The units of `needs`, as systemd shows them."""
    known = units.parse(world.command(["systemctl", "show", "--property=Id,Names,", "--", *world.beside])[1])
    return [known[name] for name in world.beside]


def killed(_restorer: Restorer) -> bool:
    raise KeyboardInterrupt


def measured(world: World) -> World:
    world.runner().run()
    return world


def events(world: World, name: str) -> list[dict[str, Any]]:
    return [e for e in world.events() if e["event"] == name]


# What went down with a tenant.


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("eyes.service", "RequiredBy"),
        ("eyes.service", "RequisiteOf"),
        ("eyes.service", "BoundBy"),
        ("eyes.service", "ConsistsOf"),
        ("eyes.service", "PropagatesStopTo"),
        ("eyes.socket", "ConsistsOf"),
        ("eyes.timer", "RequiredBy"),
        ("eyes.target", "RequiredBy"),
    ],
)
def test_what_went_down_with_a_tenant_comes_back(world: World, name: str, how: str) -> None:
    unit = needs(world, name, LLAMACPP, how=how)
    far = needs(world, "far.service", name)
    measured(world)
    assert not unit.active
    assert not far.active
    restore(world)
    assert (unit.active, unit.starts, far.active, far.starts) == (True, 1, True, 1)
    assert world.state.mark() is None
    names = world.named()
    # After the tenants, and before everybody must stay up.
    assert names.index("tenant_healthy chatterbox") < names.index("dependent_started") < names.index("settled")
    assert sorted(e["unit"] for e in events(world, "dependent_started")) == sorted([name, "far.service"])


@pytest.mark.parametrize("real", [LLAMACPP, "llama.service"])
def test_a_units_own_socket_is_started_before_it(world: World, monkeypatch: pytest.MonkeyPatch, real: str) -> None:
    """It has PartOf= the unit, and systemd refuses to start it while the unit runs; the inventory may have an alias."""
    facts = world._facts

    def aliased() -> dict[str, dict[str, str]]:
        found = facts()
        found[LLAMACPP] |= {"Id": real, "Names": f"{real} {LLAMACPP}"}
        return found

    monkeypatch.setattr(world, "_facts", aliased)
    own = needs(world, "panda-llamacpp.socket", LLAMACPP, how="ConsistsOf", Triggers=real)
    other = needs(world, "eyes.socket", LLAMACPP, how="ConsistsOf", Triggers="eyes.service")
    measured(world)
    restore(world)
    assert (own.active, own.starts, other.active, other.starts) == (True, 1, True, 1)
    assert world.state.mark() is None
    names = world.named()
    began = names.index("dependent_started")
    assert names.index("tenant_starting llamacpp") < began < names.index("tenant_started llamacpp")


def test_a_socket_is_started_before_a_service_beside_it(world: World) -> None:
    """A one-shot that stays active and its socket both go down with a tenant."""
    service = needs(world, "eyes.service", LLAMACPP)
    own = needs(world, "eyes.socket", LLAMACPP, Triggers="eyes.service")
    measured(world)
    restore(world)
    assert (service.starts, own.starts) == (1, 1)
    assert world.state.mark() is None


@pytest.mark.parametrize(
    "facts",
    [
        {"ActiveState": "deactivating", "SubState": "stop-sigterm", "Job": "9"},
        {"ActiveState": "deactivating", "SubState": "stop-sigterm", "Job": ""},
        {"ActiveState": "active", "SubState": "running", "Job": "9"},
    ],
    ids=["its stop is under way", "its stop has no job any more", "its stop waits for its turn"],
)
@pytest.mark.parametrize("ends", [True, False])
def test_what_still_goes_down_with_a_tenant_is_not_up(world: World, facts: dict[str, str], ends: bool) -> None:
    """Nobody would start it again once its stop has ended."""
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)
    unit.facts.update(facts)
    unit.active = True
    if ends:
        world.at("dependent_started", lambda: [unit.facts.pop(name) for name in facts])
        restore(world)
        assert (unit.active, unit.starts) == (True, 1)
    else:
        assert f"is now {facts['ActiveState']} ({facts['SubState']}): it went down with llamacpp" in incomplete(world)


@pytest.mark.parametrize(
    "starting",
    [
        {"ActiveState": "activating", "SubState": "start", "Job": "9"},
        {"ActiveState": "inactive", "SubState": "dead", "Job": "9"},
        {"ActiveState": "failed", "SubState": "failed", "Job": "9"},
    ],
    ids=["it starts", "it waits for its turn", "it has failed and waits for its turn"],
)
@pytest.mark.parametrize("ends", [True, False])
def test_what_is_still_being_started_is_waited_for(world: World, starting: dict[str, str], ends: bool) -> None:
    """A tenant's start or a boot may bring it along; its own start may yet fail, or wait forever."""
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)
    unit.active = True
    unit.facts.update(starting)
    if ends:
        world.at("dependent_started", lambda: [unit.facts.pop(name) for name in starting])
        restore(world)
        assert (unit.active, unit.starts) == (True, 1)
    else:
        state = f"{starting['ActiveState']} ({starting['SubState']})"
        assert f"is now {state}: it went down with llamacpp" in incomplete(world)


SLOW = [
    ({"TimeoutStartUSec": "infinity"}, 60.0),
    ({"TimeoutStartUSec": "2min"}, 110.0),
    ({"TimeoutStartUSec": "no time"}, 60.0),
]


@pytest.mark.parametrize(("facts", "start_s"), SLOW)
def test_a_start_gets_the_time_that_systemd_gives_it(world: World, facts: dict[str, str], start_s: float) -> None:
    """A one-shot loads something, and a unit beside it still gets its turn."""
    unit, after = needs(world, "eyes.service", LLAMACPP, **facts), needs(world, "later.socket", LLAMACPP)
    world.plan = dataclasses.replace(world.plan, dependents_s=surroundings.starts_bound_s(shown(world)))
    measured(world)
    unit.start_s = start_s
    restore(world)
    assert (unit.active, unit.starts, after.active) == (True, 1, True)
    assert world.state.mark() is None


def test_a_start_that_takes_longer_goes_on_and_the_next_attempt_joins_it(world: World) -> None:
    unit = needs(world, "eyes.service", LLAMACPP, TimeoutStartUSec="infinity")
    after = needs(world, "later.socket", LLAMACPP)
    world.plan = dataclasses.replace(world.plan, dependents_s=surroundings.starts_bound_s(shown(world)))
    measured(world)
    unit.start_s = 150.0
    began = world.clock.now
    assert "unit eyes.service was active (running) and is now activating (start)" in incomplete(world)
    assert world.clock.now - began < world.plan.restore_bound_s
    assert after.active
    restore(world)
    assert (unit.active, unit.starts) == (True, 1)
    assert world.state.mark() is None


def test_what_does_not_come_back_keeps_the_mark(world: World) -> None:
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)
    unit.broken = "no such camera"
    text = incomplete(world)
    assert "eyes.service: systemctl start -- eyes.service ended with 1: Job for eyes.service failed: no such" in text
    assert "unit eyes.service was active (running) and is now inactive (dead): it went down with llamacpp" in text
    assert events(world, "dependent_failed")[0]["unit"] == "eyes.service"
    unit.broken = ""
    restore(world)
    assert unit.active
    assert world.state.mark() is None


def test_what_dies_after_its_start_keeps_the_mark(world: World) -> None:
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)

    def dies() -> None:
        unit.active = False

    world.at("dependent_started", dies)
    assert "unit eyes.service was active (running)" in incomplete(world)
    restore(world)
    assert unit.active


def test_what_dies_during_the_checks_keeps_the_mark(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)
    check = checks.run

    def fatal(*args: Any, **options: Any) -> list[checks.CheckResult]:
        unit.active = False
        return check(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checks, "run", fatal)
        assert "after the checks, unit eyes.service was active (running) and is now inactive" in incomplete(world)
    restore(world)
    assert unit.active
    assert world.state.mark() is None


@pytest.mark.parametrize("again", [False, True])
def test_a_stop_of_the_restores_own_that_no_journal_tells_counts(
    world: World, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """On a full disk: a tenant is ill and stopped, and what goes down with it comes back."""
    unit = needs(world, "eyes.service", LLAMACPP)
    world.open()
    world.services["llamacpp"].ill, world.services["llamacpp"].born = True, world.clock.now - 10_000
    append = journal.Journal._append

    def full(writer: journal.Journal, event: str, facts: dict[str, Any]) -> None:
        if writer.by == "restorer":
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, event, facts)

    monkeypatch.setattr(journal.Journal, "_append", full)
    if again:
        with monkeypatch.context() as patch:
            patch.setattr(Restorer, "start_dependents", killed)
            with pytest.raises(KeyboardInterrupt):
                restore(world)
    restore(world)
    assert (unit.active, unit.starts) == (True, 1)
    assert world.up("llamacpp")


def test_nobody_is_started_past_a_tenant_that_does_not_start(world: World) -> None:
    """systemd would start the tenant with it, past its limits."""
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)
    world.services["llamacpp"].broken = "no such model"
    assert "eyes.service is down, and waits for llamacpp" in incomplete(world)
    assert unit.starts == 0


def test_who_was_down_before_is_not_started(world: World) -> None:
    unit = needs(world, "eyes.service", LLAMACPP)
    unit.active = False
    measured(world)
    restore(world)
    assert unit.starts == 0


def test_who_died_by_himself_is_named_and_not_started(world: World) -> None:
    """The tenant that it needs was never stopped, so the trial did not cause this."""
    unit = needs(world, "eyes.service", LLAMACPP)
    world.open()
    unit.active = False
    restore(world)
    assert unit.starts == 0
    assert world.state.mark() is None
    assert events(world, "gone")[0]["gone"] == ["unit eyes.service was active (running) and is now inactive (dead)"]


def test_a_lost_journal_means_that_everybody_was_stopped(world: World) -> None:
    unit = needs(world, "eyes.service", LLAMACPP)
    measured(world)
    world.state.journal_path(world.plan.run).unlink()
    restore(world)
    assert unit.active


def test_a_snapshot_of_an_earlier_version_is_compared_with_nothing(world: World) -> None:
    needs(world, "eyes.service", LLAMACPP)
    measured(world)
    path = world.run_dir / "snapshot.json"
    snapshot = json.loads(path.read_text())
    del snapshot["surroundings"]
    path.write_text(json.dumps(snapshot))
    restore(world)
    assert world.state.mark() is None


def test_a_systemd_that_can_not_be_asked_keeps_the_mark(world: World) -> None:
    needs(world, "eyes.service", LLAMACPP)
    measured(world)
    world.shows = False
    text = incomplete(world)
    assert "it is unknown which units went down with the tenants: systemctl show: Failed to connect to bus" in text
    assert all(world.up(name) for name in world.services)
    world.shows = True
    restore(world)


# What is gone otherwise.


def test_what_is_gone_otherwise_is_named_and_keeps_no_mark(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    web = needs(world, "web.service")
    world.docker.add("db", "com.example", "x", status="running")
    measured(world)
    web.active = False
    world.docker.end("db", 0)
    assert program.restore_now(world.state) == 0
    said = ["unit web.service was active (running) and is now inactive (dead)", "container db is no longer running"]
    assert events(world, "gone")[0]["gone"] == said
    assert web.starts == 0
    assert world.state.mark() is None
    program._act(program._parser().parse_args(["status"]), world.state)
    shown = capsys.readouterr().out
    assert all(words in shown for words in said)
    assert program.status(world.state)["gone"] == said


def test_a_tenant_that_no_check_asks_keeps_the_mark_until_a_person_has_seen_it(
    world_of: Callable[[dict[str, Any]], World], plan_data: dict[str, Any]
) -> None:
    """It is not the trial's to start, and was lost without a word."""
    del plan_data["tenants"][1]["health"]
    world = world_of(plan_data)
    measured(world)
    world.stop("nav", by="itself")
    assert program.restore_now(world.state) == 1
    assert "nav ran before and does not run now" in events(world, "restore_failed")[-1]["reason"]
    assert not world.services["nav"].starts
    world.state.ask("asked", "ann")
    assert program.restore_now(world.state) == 0
    assert "nav ran before and does not run now" in events(world, "gone")[-1]["gone"]


def test_a_second_port_of_a_tenant_keeps_the_mark_until_a_person_has_seen_it(world: World) -> None:
    """It may have chosen another; only a person can tell."""
    metrics = probes.Listener(9090, world.services["llamacpp"].pid, "llama-server")
    world.intruders = [metrics]
    world.open()
    measured(world)
    world.intruders = []
    for _attempt in range(2):
        assert program.restore_now(world.state) == 1
    assert "nothing listens on port 9090 any more; llama-server did" in events(world, "restore_failed")[-1]["reason"]
    restore(world, "hand")
    assert world.state.mark() is None
    assert "port 9090" in events(world, "gone")[-1]["found"]


# What the tenants are made of.


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Mode and kind of everything below a folder, itself included."""
    return {
        str(path.relative_to(folder)): (stat.S_IMODE(path.stat().st_mode), "dir" if path.is_dir() else "file")
        for path in [folder, *folder.rglob("*")]
    }


def test_definitions_are_kept_for_root_alone_and_go_with_the_mark(world: World) -> None:
    os_umask = os.umask(0)
    try:
        world.open()
    finally:
        os.umask(os_umask)
    folder = world.state.definitions
    (file,) = (path for path in (folder / "llamacpp").rglob("*") if path.is_file())
    assert "TOKEN=hidden" in file.read_text()
    assert {mode for mode, kind in tree(folder).values() if kind == "dir"} == {0o700}
    assert {mode for mode, kind in tree(folder).values() if kind == "file"} == {0o600}
    # What is harvested is the run's own folder.
    assert world.run_dir not in folder.parents
    harvested = [path.read_text(errors="replace") for path in world.run_dir.rglob("*") if path.is_file()]
    assert not any("hidden" in text for text in harvested)
    measured(world)
    assert folder.is_dir()
    restore(world)
    assert not folder.exists()


def test_a_trial_that_does_not_open_leaves_no_definitions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.state, "open", lambda _mark: (_none for _none in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        program.open_trial(world.state, world.plan.run, "ann")
    assert not world.state.definitions.exists()


def test_what_can_not_be_kept_is_not_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_kind: tenants.Kind) -> dict[str, bytes]:
        raise tenants.TenantError("llamacpp: No such container")

    monkeypatch.setattr(tenants.Systemd, "definition", refuse)
    with pytest.raises(PhaseFailed, match="definitions of the tenants"):
        world.open()
    assert world.state.mark() is None


def test_a_pruned_container_leaves_its_definition_and_keeps_the_mark(world_of: Any, plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][0].update(kind="container", container="llama-box", unit="", process="")
    world = world_of(plan_data)
    world.open()
    measured(world)
    world.services["llamacpp"].broken = "No such container: llama-box"
    text = incomplete(world)
    kept = world.state.definitions / "llamacpp"
    assert f"its definition is kept in {kept} (only root can read it)" in text
    assert json.loads((kept / "container.json").read_text())[0]["Config"]["Env"] == ["TOKEN=hidden"]
    (reason,) = (e["reason"] for e in events(world, "tenant_failed"))
    # The command stands on a line of its own: programs read it from there.
    assert "\nto start it by hand: sudo docker start llama-box\n" in reason
    world.services["llamacpp"].broken = ""
    restore(world)
    assert not world.state.definitions.exists()


def test_a_definition_is_plain_files_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    os.mkfifo(tmp_path / "pipe")
    paths = [str(tmp_path / "a"), str(tmp_path / "pipe"), str(tmp_path / "gone"), str(tmp_path), "/dev/zero"]
    assert tenants.contents(paths) == {str(tmp_path / "a").lstrip("/"): b"a"}
    definitions._write(tmp_path / "kept", {"../../etc/x": b"x", "/etc/y": b"y"})
    files = [str(p.relative_to(tmp_path / "kept")) for p in (tmp_path / "kept").rglob("*") if p.is_file()]
    assert sorted(files) == ["etc/x", "etc/y"]
