# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that shows what a trial would do."""

from __future__ import annotations

import json
from pathlib import Path
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
    with pytest.raises(AnsibleActionFail, match="the plan cannot be used: stop_order"):
        stage.play(outlook, plan=plan_data)


def test_a_rehearsal_shows_what_it_measured(stage: Any, plan_data: dict[str, Any], tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    times = {"stop_s": {"chatterbox": 0.5}, "start_s": {"chatterbox": 1.5}, "drain_s": {"restore": 5.0}}
    journal.write_text(json.dumps({"seq": 1, "event": "restored", "down": {"chatterbox": 8.0}, "times": times}) + "\n")
    plan_data["rehearsal"] = True
    result = stage.play(outlook, plan=plan_data, journal=str(journal))
    assert stage.shown == [f"  panda | {line}" for line in result["lines"]]
    assert result["lines"][0].startswith("tenant ")
    assert result["measured"] == {**times, "down_s": {"chatterbox": 8.0}}
    assert result["trial_down_s"]["chatterbox"] > result["down_s"]["chatterbox"]
    assert result["trial_impacts_s"]["mute"] == result["trial_down_s"]["chatterbox"]
    assert result["hints"]


def test_a_second_try_is_the_first_hint(stage: Any, plan_data: dict[str, Any], tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    entries = [
        {"seq": 1, "event": "tenant_retry", "tenant": "chatterbox", "attempt": 1, "reason": "no model"},
        {"seq": 2, "event": "restored", "down": {}, "times": {}},
    ]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    result = stage.play(outlook, plan={**plan_data, "rehearsal": True}, journal=str(journal))
    assert result["second_tries"] == ["chatterbox: start 1 failed and was tried again: no model"]
    hint = f"hint: not at the first try: {result['second_tries'][0]}; see whether trial_restore_order starts"
    assert result["hints"][0].startswith(hint)
    assert any(hint in line for line in stage.shown)


def test_a_rehearsal_whose_host_is_not_back_has_nothing_to_compute(
    stage: Any, plan_data: dict[str, Any], tmp_path: Path
) -> None:
    result = stage.play(outlook, plan=plan_data, journal=str(tmp_path / "journal.jsonl"))
    assert result["measured"] is None
    assert "hints" not in result
    assert "does not say that the host was restored" in result["lines"][0]
