# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module page over the contracts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import contracts as core
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Plan
from ansible_collections.edgelab.model_trial.plugins.modules import contracts

GOOD = core.Contract(1, "sudo without a password", "it works", "it works", True, "needed", "")
BAD = core.Contract(3, "the port is free", "nobody", "PID 7", False, "it is ours", "end it")


hosts: list[core.Host] = []


def evaluating(monkeypatch: pytest.MonkeyPatch, *found: core.Contract) -> list[Plan]:
    """Lets the core find ``found``; gives the plans it was asked about."""
    asked: list[Plan] = []
    hosts.clear()

    def evaluate(plan: Plan, host: core.Host, only: list[int]) -> list[core.Contract]:
        assert only == []
        asked.append(plan)
        hosts.append(host)
        return list(found)

    monkeypatch.setattr(core, "evaluate", evaluate)
    return asked


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_fit_host_passes(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, check_mode: bool
) -> None:
    asked = evaluating(monkeypatch, GOOD)
    result = invoke(contracts.main, {"plan": plan_data}, check_mode)
    assert not result["failed"]
    assert not result["changed"]
    assert result["contracts"] == [dataclasses.asdict(GOOD)]
    assert result["broken"] == []
    assert asked[0].run == plan_data["run"]


def test_all_that_is_broken_is_in_the_message(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(BAD, id=10, name="the camera image")
    evaluating(monkeypatch, GOOD, BAD, other)
    result = invoke(contracts.main, {"plan": plan_data})
    assert result["failed"]
    assert result["broken"] == [3, 10]
    assert len(result["contracts"]) == 3
    assert result["msg"] == core.message([BAD, other])
    assert result["msg"].count("\n\n") == 1


def test_what_a_person_should_know_is_a_warning_and_breaks_nothing(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(contracts.AnsibleModule, "warn", lambda _self, text: told.append(text))
    evaluating(monkeypatch, GOOD, dataclasses.replace(GOOD, id=8, name="docker works", warning="open to a reload"))
    result = invoke(contracts.main, {"plan": plan_data})
    assert not result["failed"]
    assert result["contracts"][1]["warning"] == "open to a reload"
    assert told == ["Contract 8, docker works: open to a reload"]


def test_what_is_not_insisted_on_is_a_warning(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = dataclasses.replace(BAD, id=14, name="rehearsed", ok=True, warning="never. What to do: rehearse.")
    evaluating(monkeypatch, GOOD, warned)
    said: list[str] = []
    # On a controller Ansible shows it at once, and on a host it travels with the result.
    monkeypatch.setattr(contracts.AnsibleModule, "warn", lambda _self, warning, **_more: said.append(warning))
    result = invoke(contracts.main, {"plan": plan_data, "program": "ab" * 32})
    assert not result["failed"]
    assert hosts[0].program == "ab" * 32
    assert said == ["Contract 14, rehearsed: never. What to do: rehearse."]


def test_a_plan_that_is_none_is_refused(invoke: Any, plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][0]["kind"] = "cron"
    result = invoke(contracts.main, {"plan": plan_data})
    assert result["failed"]
    assert result["msg"].startswith("The plan is not usable. tenants[0].kind: expected one of systemd")


SITE = {"tenants": [{"name": "db", "kind": "systemd", "unit": "db"}], "contracts": {"disk_gb_min": 0, "ram_gb_min": 0}}


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_host_without_a_trial_and_without_a_card(invoke: Any, check_mode: bool) -> None:
    result = invoke(contracts.main, {"site": SITE, "only": [7]}, check_mode)
    assert not result["failed"]
    assert not result["changed"]
    [found] = result["contracts"]
    assert (found["id"], found["ok"]) == (7, True)
    assert found["found"].endswith("VRAM does not apply: the inventory names no card (trial_gpu)")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "one of the following is required: plan, site"),
        ({"site": SITE, "plan": {}}, "parameters are mutually exclusive: plan|site"),
        ({"site": SITE, "only": [7, 15]}, "only: expected numbers of contracts: 1 (sudo without a password), 4 ("),
        ({"site": SITE, "only": [7, 15]}, "; found 15"),
        ({"site": SITE, "only": [3]}, "; found 3 (it needs the plan of a trial)"),
        ({"site": {"tenants": [{"name": "db", "kind": "systemd"}]}}, "tenants[0].unit: expected a value, because"),
    ],
)
def test_what_can_not_be_evaluated_is_said(invoke: Any, args: dict[str, Any], words: str) -> None:
    result = invoke(contracts.main, args)
    assert result["failed"]
    assert words in result["msg"]
    assert "contracts" not in result
