# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mechanisms that tests/promises.yml names and that no other test sees by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import containers, gpu
from ansible_collections.edgelab.model_trial.plugins.module_utils.restorer import Restorer

if TYPE_CHECKING:
    from fakeworld import World


def restore(world: World) -> list[str]:
    """One attempt; returns the names of its events, which stand in the journal also where it was cut off."""
    before = len(world.named())
    try:
        Restorer(world.plan, world.state, gpu.Opening(0), "host").restore()
    finally:
        names = world.named()[before:]
    return names


@pytest.mark.parametrize("cut", ["tenant_healthy llamacpp", "tenant_starting chatterbox"])
def test_a_restore_that_was_cut_off_does_what_is_missing(world: World, cut: str) -> None:
    from fakeworld import Killed

    def kill() -> None:
        raise Killed

    world.runner().run()
    world.at(cut, kill)
    with pytest.raises(Killed):
        restore(world)
    began, log = world.clock.now, len(world.log)
    names = restore(world)
    # The baseline is up: it is not started, not waited for, and not counted among those that are missing.
    assert [name for name in names if name.startswith("tenant_starting")] == ["tenant_starting chatterbox"]
    assert [entry[1] for entry in world.log[log:] if entry[0] in ("start", "stop")] == ["chatterbox"]
    # The next one still has the whole drain before it: nobody knows how long the killed attempt had waited.
    assert world.services["chatterbox"].starts[-1] - began >= world.plan.limits.drain_min_s
    assert names[-2:] == ["restored", "closed"]
    assert all(world.up(name) for name in world.services)


def test_a_restore_with_everybody_up_waits_for_no_drain(world: World) -> None:
    world.runner().run()
    for name in world.plan.restore_order:
        world.start(name, by="somebody")
    world.clock.sleep(60)
    began = world.clock.now
    names = restore(world)
    assert not [name for name in names if name.startswith(("tenant_starting", "drain"))]
    assert world.clock.now - began < world.plan.limits.drain_min_s
    assert names[-2:] == ["restored", "closed"]


def test_the_prompt_is_kept_byte_for_byte(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """White space at either end changes what a model answers, and how fast."""
    made = '  Line one {{ not a template }}\n\t"quotes" and \u2028 odd spaces \n\n'
    monkeypatch.setattr(containers, "extract_prompt", lambda _plan, _source: made)
    world.open()
    assert (world.run_dir / "inputs" / "prompt.txt").read_bytes() == made.encode()
