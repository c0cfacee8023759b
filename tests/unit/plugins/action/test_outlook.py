# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that shows what a trial would do."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import outlook


def test_the_outlook_is_shown_and_returned(stage: Any, plan_data: dict[str, Any]) -> None:
    result = stage.play(outlook, plan=plan_data)
    assert result["changed"] is False
    assert set(result["down_s"]) == {"chatterbox", "llamacpp"}
    assert stage.shown == [f"  panda | {line}" for line in result["lines"]]
    assert stage.commands == []


def test_a_plan_that_can_not_be_used(stage: Any, plan_data: dict[str, Any]) -> None:
    plan_data["stop_order"] = ["nobody"]
    with pytest.raises(AnsibleActionFail, match="the plan can not be used: stop_order"):
        stage.play(outlook, plan=plan_data)
