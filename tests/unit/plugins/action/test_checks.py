# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that asks a host for the checks: a cut network is waited out, a host that stays away is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.edgelab.model_trial.plugins.action import checks
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import away


@pytest.mark.parametrize("found", [{"changed": False, "checks": []}, {"failed": True, "msg": "check 7"}])
@pytest.mark.parametrize("cuts", [0, 1, 4])
def test_the_modules_answer_comes_through_a_cut_network(
    stage: Any, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], cuts: int
) -> None:
    monkeypatch.setattr(away.time, "sleep", lambda _s: None)
    left = [AnsibleConnectionFailure("no route")] * cuts

    def module(**_options: Any) -> dict[str, Any]:
        if left:
            raise left.pop()
        return found

    stage.module = module
    result = stage.play(checks, plan={})
    assert {name: result[name] for name in found} == found
    assert stage.shown == ["  panda | the host cannot be reached; retrying", "reset"] * cuts


def test_a_host_that_stays_away_is_a_failure_with_a_way_on(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "unreachable": the play must still get to the harvest."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(away.time, "sleep", lambda _s: None)
    monkeypatch.setattr(away.time, "monotonic", lambda: next(clock))
    asked = []

    def module(**_options: Any) -> dict[str, Any]:
        asked.append(1)
        raise AnsibleConnectionFailure("no route")

    stage.module = module
    with pytest.raises(AnsibleActionFail, match=r"tried for 60 s\): no route.*verify_rollback\.yml.*harvest\.yml"):
        stage.play(checks, plan={})
    assert len(asked) == 6


def test_no_other_failure_is_tried_again(stage: Any) -> None:
    def module(**_options: Any) -> dict[str, Any]:
        raise AnsibleActionFail("no python")

    stage.module = module
    with pytest.raises(AnsibleActionFail, match="no python"):
        stage.play(checks, plan={})
    assert stage.shown == []
