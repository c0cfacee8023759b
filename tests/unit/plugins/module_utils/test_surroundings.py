# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ran beside the tenants: what is held for a difference, and what the difference says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import probes, surroundings, units
from ansible_collections.edgelab.model_trial.plugins.module_utils.containers import RUN_LABEL

if TYPE_CHECKING:
    from fakeworld import World

LLAMACPP = "panda-llamacpp.service"


def taken(world: World) -> dict[str, Any]:
    """What is held, as the snapshot has it."""
    tenants = {name: {"pid": service.pid} for name, service in world.services.items()}
    found = surroundings.take(world.plan, tenants)
    assert json.loads(json.dumps(found)) == found
    return found


def beside(**facts: str) -> Any:
    """A unit that is no tenant."""
    from fakeworld import Beside

    return Beside(facts=facts)


@pytest.mark.parametrize(
    ("name", "facts", "lasts"),
    [
        ("web.service", {"Type": "simple"}, True),
        ("web.service", {"Type": "notify", "TriggeredBy": "web.socket"}, True),
        ("web.service", {"ActiveState": "failed"}, False),
        ("web.service", {"ActiveState": "inactive"}, False),
        ("web.socket", {}, True),
        ("backup.timer", {}, True),
        ("drop.path", {}, True),
        ("backup.service", {"TriggeredBy": "backup.timer"}, False),
        ("once.service", {"Type": "oneshot", "SubState": "exited"}, False),
        # Started when the bus asks, ended when nobody does any more.
        ("hostnamed.service", {"BusName": "org.x", "UnitFileState": "static"}, False),
        ("network.service", {"BusName": "org.y", "UnitFileState": "enabled"}, True),
        # A login, and what is handed to a connection.
        ("user@1000.service", {}, False),
        ("session-4.scope", {}, False),
        ("sshd@3-10.0.0.1:22-10.0.0.2:5555.service", {}, False),
        ("mt-run.service", {}, False),
        ("run-user-1000.mount", {}, False),
        ("multi-user.target", {}, False),
    ],
)
def test_what_lasts_is_held(world: World, name: str, facts: dict[str, str], lasts: bool) -> None:
    world.beside[name] = beside(**facts)
    assert (name in taken(world)["units"]) is lasts


def test_all_units_are_one_question(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.beside = {"a.service": beside(), "b.socket": beside()}
    world.beside["a.service"].needs = (LLAMACPP,)
    asked: list[list[str]] = []
    command = world.command

    def spy(argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        if argv[0] == "systemctl":
            asked.append(argv)
        return command(argv, cwd)

    monkeypatch.setattr(world, "command", spy)
    before = taken(world)
    assert len(asked) == 1
    assert before["dependents"] == {"a.service": {"llamacpp": f"RequiredBy of {LLAMACPP}"}}
    asked.clear()
    surroundings.gone(before, ["llamacpp"], docker=True)
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["eyes.target", "eyes.mount", "once.service"])
def test_a_unit_that_goes_down_with_a_tenant_is_held(world: World, name: str) -> None:
    """Also what lasts no longer than its need."""
    world.beside[name] = beside(Type="oneshot")
    assert name not in taken(world)["units"]
    world.beside[name].needs = (LLAMACPP,)
    found = taken(world)
    assert name in found["units"]
    assert list(found["dependents"]) == [name]
    # Who was down before is nobody to bring back.
    world.beside[name].active = False
    assert taken(world)["dependents"] == {}


def test_the_difference_says_whose_it_is(world: World) -> None:
    for name, needs in {"eyes.service": (LLAMACPP,), "car.service": ("eyes.service",), "web.service": ()}.items():
        world.beside[name] = beside()
        world.beside[name].needs = needs
    world.docker.add("db", "com.example", "x", status="running")
    world.docker.add("ours", RUN_LABEL, "run", status="running")
    world.docker.add("idle", "com.example", "x")
    world.intruders = [probes.Listener(9090, world.services["llamacpp"].pid, "/usr/bin/llama-server --key secret"),
                       probes.Listener(5432, 77, "postgres: checkpointer")]  # fmt: skip
    before = taken(world)
    assert list(before["containers"]) == ["db"]
    assert "secret" not in json.dumps(before)
    nothing = surroundings.Gone()
    assert surroundings.gone(before, ["llamacpp"], docker=True) == nothing

    world.drag(LLAMACPP)
    world.beside["web.service"].active = False
    world.docker.end("db", 0)
    world.intruders = []
    found = surroundings.gone(before, ["llamacpp"], docker=True)
    assert found.ours == [
        "unit eyes.service was active (running) and is now inactive (dead): it went down with llamacpp",
        "unit car.service was active (running) and is now inactive (dead): it went down with llamacpp",
    ]
    assert [words[:38] for words in found.deaf] == ["nothing listens on port 9090 any more;"]
    assert "; llama-server did (unit panda-llamacpp)" in found.deaf[0]
    assert found.others == [
        "unit web.service was active (running) and is now inactive (dead)",
        "container db is no longer running",
        "nothing listens on port 5432 any more; postgres: did",
    ]
    # Without a stop of ours nothing of it is ours.
    other = surroundings.gone(before, [], docker=False)
    assert (other.ours, other.deaf, len(other.others)) == ([], [], 5)


@pytest.mark.parametrize(
    ("then", "now", "lost"),
    [
        ("active (running)", ("active", "exited"), True),
        ("active (running)", ("activating", "auto-restart"), True),
        ("active (exited)", ("active", "exited"), False),
        ("active (running)", ("reloading", "reload"), False),
        ("active (running)", ("activating", "start-pre"), False),
    ],
)
def test_an_active_unit_whose_processes_have_ended_is_gone(
    world: World, then: str, now: tuple[str, str], lost: bool
) -> None:
    """`RemainAfterExit=` keeps it active, and `Restart=` starts it again and again."""
    world.beside["web.service"] = beside(ActiveState=now[0], SubState=now[1])
    found = surroundings.gone({"units": {"web.service": then}}, [], docker=False)
    words = f"unit web.service was {then} and is now {now[0]} ({now[1]})"
    assert found.others == ([words] if lost else [])


@pytest.mark.parametrize("boxes", [["voice"], []], ids=["a tenant", "no tenant"])
def test_another_container_under_the_name_of_a_tenant_is_not_that_tenant(world: World, boxes: list[str]) -> None:
    """Its page may answer as the former one's did."""
    world.docker.add("voice", "com.example", "x", status="running", id="a" * 64)
    before = taken(world)
    assert surroundings.gone(before, [], docker=True, boxes=boxes) == surroundings.Gone()
    world.docker._containers.clear()
    world.docker.add("voice", "com.example", "x", status="running", id="b" * 64)
    words = f"container voice is another one than before ({'b' * 12}, was {'a' * 12}): what was in the former one is "
    words += "missing"
    assert surroundings.gone(before, [], docker=True, boxes=boxes) == surroundings.Gone(replaced=[words] * len(boxes))
    # One that is down is missed as a tenant.
    world.docker.end("voice", 0)
    assert not surroundings.gone(before, [], docker=True, boxes=boxes).replaced
    (world.docker.folder / "down").write_text("")
    silent = surroundings.gone(before, [], docker=True, boxes=boxes).replaced
    assert [words[:16] for words in silent] == ["it is unknown wh"] * len(boxes)


def test_a_docker_that_does_not_answer_has_lost_nobody(world: World) -> None:
    world.docker.add("db", "com.example", "x", status="running")
    before = taken(world)
    (world.docker.folder / "down").write_text("")
    assert surroundings.gone(before, [], docker=True) == surroundings.Gone()
    assert taken(world)["containers"] is None
    (world.docker.folder / "down").unlink()
    assert surroundings.gone(taken(world) | {"containers": None}, [], docker=True) == surroundings.Gone()


@pytest.mark.parametrize(
    ("port", "inside", "held"), [(9090, "", True), (40_000, "", False), (9090, "session-3.scope", False)]
)
def test_ports_that_mean_nothing_are_not_held(
    world: World, monkeypatch: pytest.MonkeyPatch, port: int, inside: str, held: bool
) -> None:
    """The kernel gives some to a program that asks for any; others end with a login."""
    world.intruders = [probes.Listener(port, 77, "python3")]
    monkeypatch.setattr(surroundings, "_fleeting_ports", lambda: range(32_768, 61_000))
    monkeypatch.setattr(probes, "units", lambda _pid: [inside] if inside else [])
    assert (port in [row["port"] for row in taken(world)["listeners"]]) is held


def test_the_kernels_range_is_read_or_assumed(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    path = world.folder / "range"
    monkeypatch.setattr(surroundings, "_PORT_RANGE", path)
    assert surroundings._fleeting_ports() == range(32_768, 61_000)
    path.write_text("10000\t20000\n")
    assert surroundings._fleeting_ports() == range(10_000, 20_001)


def test_who_fell_and_is_no_tenant_is_started(world: World) -> None:
    for name in ("eyes.socket", "eyes.service", "idle.timer"):
        world.beside[name] = beside()
        world.beside[name].needs = (LLAMACPP,)
    before = taken(world)
    world.drag(LLAMACPP)
    world.beside["idle.timer"].active = True
    names = [unit.id for unit in surroundings.fallen(before, ["llamacpp"], but=["eyes.service"])]
    assert names == ["eyes.socket"]
    assert surroundings.fallen(before, ["chatterbox"]) == []
    # One that systemd does not know any more is not back either.
    del world.beside["eyes.socket"]
    (gone,) = surroundings.fallen(before, ["llamacpp"], but=["eyes.service"])
    assert gone.id == "eyes.socket"
    assert not gone.active


def test_a_unit_that_systemd_does_not_start_is_told(world: World) -> None:
    world.beside["eyes.socket"] = beside()
    world.beside["eyes.socket"].broken = "address in use"
    with pytest.raises(Exception, match=r"systemctl start -- eyes.socket ended with 1: .*address in use"):
        surroundings.start(units.Unit({"Id": "eyes.socket"}), 5)


def test_a_systemd_that_says_nothing_is_no_healthy_host(world: World) -> None:
    before = taken(world)
    world.shows = False
    with pytest.raises(OSError, match="systemctl show"):
        surroundings.gone(before, [], docker=True)
    with pytest.raises(OSError, match="systemctl show"):
        taken(world)
