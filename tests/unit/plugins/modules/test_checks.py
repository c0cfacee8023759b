# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module page over the checks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import checks as core
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Plan
from ansible_collections.edgelab.model_trial.plugins.modules import checks

GOOD = core.CheckResult(1, "VRAM is back", "13-13.8 GB", "13.4 GB", True)
BAD = core.CheckResult(4, "nobody listens", "refused", "somebody", False)
SNAPSHOT = {"phone": {"pid": 7, "start_ticks": 8}}


def running(monkeypatch: pytest.MonkeyPatch, *results: core.CheckResult) -> list[tuple[Any, float]]:
    """Lets the core find ``results``; gives the snapshots and settling times it was asked with."""
    asked: list[tuple[Any, float]] = []

    def run(plan: Plan, snapshot: Mapping[str, Any], settle_s: float, only: list[int]) -> list[core.CheckResult]:
        assert plan.run
        assert only == []
        asked.append((snapshot, settle_s))
        return list(results)

    monkeypatch.setattr(core, "run", run)
    return asked


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_host_as_it_was_passes(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, check_mode: bool
) -> None:
    asked = running(monkeypatch, GOOD)
    result = invoke(checks.main, {"plan": plan_data}, check_mode)
    assert not result["failed"]
    assert not result["changed"]
    assert result["checks"] == [dataclasses.asdict(GOOD)]
    assert result["failed_checks"] == []
    assert asked == [({}, 3.0)]


def test_failed_checks_are_named(invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = running(monkeypatch, GOOD, BAD)
    result = invoke(checks.main, {"plan": plan_data, "snapshot": SNAPSHOT, "settle_s": 1.5})
    assert result["failed"]
    assert result["failed_checks"] == [4]
    assert len(result["checks"]) == 2
    assert result["msg"] == "Check 4, nobody listens: failed.\n  expected: refused\n  found: somebody"
    assert asked == [(SNAPSHOT, 1.5)]


def test_a_snapshot_can_come_from_a_file(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = running(monkeypatch, GOOD)
    path = tmp_path / "snapshot.json"
    for text in (json.dumps({"tenants": SNAPSHOT}), "{torn"):
        path.write_text(text)
        invoke(checks.main, {"plan": plan_data, "snapshot_file": str(path)})
    invoke(checks.main, {"plan": plan_data, "snapshot_file": str(path), "snapshot": {"nav": {}}})
    assert [snapshot for snapshot, _unused in asked] == [SNAPSHOT, {}, {"nav": {}}]


@pytest.mark.parametrize("boot", ["this one", "an earlier one", "torn"])
def test_what_has_changed_since_the_restore_is_a_warning(
    invoke: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, boot: str
) -> None:
    running(monkeypatch, GOOD)
    monkeypatch.setattr(checks, "boot_id", lambda: "this one")
    monkeypatch.setattr(core, "since", lambda _plan, proof: [f"changed since {proof['boot_id']}"])
    told: list[str] = []
    monkeypatch.setattr(checks.AnsibleModule, "warn", lambda _self, text: told.append(text))
    path = tmp_path / "verification.json"
    path.write_text("{" if boot == "torn" else json.dumps({"boot_id": boot, "tenants": {}}))
    result = invoke(checks.main, {"plan": plan_data, "proof_file": str(path)})
    assert not result["failed"]
    wanted = ["changed since this one"] if boot == "this one" else []
    assert result["changed_since"] == wanted
    assert told == wanted


def test_a_plan_that_is_none_is_refused(invoke: Any, plan_data: dict[str, Any]) -> None:
    del plan_data["baseline"]
    result = invoke(checks.main, {"plan": plan_data})
    assert result["failed"]
    assert result["msg"] == "The plan is not usable. baseline: expected a value (it has no default), found None"


SITE = {"tenants": [{"name": "db", "kind": "systemd", "unit": "db", "health": {"url": "http://127.0.0.1:1/"}}]}


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_host_without_a_trial_and_without_a_card(invoke: Any, check_mode: bool) -> None:
    result = invoke(checks.main, {"site": SITE}, check_mode)
    assert result["failed_checks"] == [2]
    assert [c["title"] for c in result["checks"]] == ["VRAM: does not apply", "db is healthy"]
    assert not result.get("changed")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "one of the following is required: plan, site"),
        ({"site": SITE, "plan": {}}, "parameters are mutually exclusive: plan|site"),
        ({"site": {}}, "missing required arguments: tenants found in site"),
        ({"site": {**SITE, "gpus": 1}}, "site.gpus. Supported parameters include"),
        ({"site": {**SITE, "stop_order": ["x"]}}, "The plan is not usable. stop_order: expected names of tenants (db)"),
        ({"site": SITE, "only": [7]}, "only: expected numbers of this host's checks: 2 (db is healthy); found 7"),
        ({"site": SITE, "only": [1]}, "check 1 does not apply: the inventory names no card (trial_gpu)"),
        ({"site": {"tenants": []}}, "tenants: expected something to check"),
        ({"site": SITE, "settle_s": "inf"}, "settle_s: expected a finite number, found inf"),
        ({"site": SITE, "settle_s": -1}, "settle_s: expected 0 or more, found -1.0"),
    ],
)
def test_what_can_not_be_checked_is_said(invoke: Any, args: dict[str, Any], words: str) -> None:
    result = invoke(checks.main, args)
    assert result["failed"]
    assert words in result["msg"]
    assert "checks" not in result
