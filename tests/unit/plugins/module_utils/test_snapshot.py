# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of a host before a trial, on a made-up host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu, snapshot

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
