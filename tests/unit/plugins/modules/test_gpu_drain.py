# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module page that waits for memory of a card."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu
from ansible_collections.edgelab.model_trial.plugins.modules import gpu_drain


class FakeCard:
    """A card on which PID 7 holds memory until ``free_at``."""

    free_at = 0.0

    def __init__(self, index: int) -> None:
        if index == 9:
            raise gpu.GpuError("no such card")

    def read(self) -> gpu.Vram:
        if time.monotonic() < FakeCard.free_at:
            return gpu.Vram(0.0, 5000, 16_303, (gpu.Holder(7, 5000, "llama-server"),))
        return gpu.Vram(0.0, 400, 16_303)

    def close(self) -> None:
        return


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Card", FakeCard)
    monkeypatch.setattr(FakeCard, "free_at", 0.0)


def test_it_waits_until_memory_is_free(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCard, "free_at", time.monotonic() + 0.3)
    result = invoke(gpu_drain.main, {"pids": [7], "target_mib": 500})
    assert not result["failed"]
    assert not result["changed"]
    assert result["drained"]
    assert (result["used_mib"], result["target_mib"], result["processes"]) == (400, 500, [])
    assert 0.2 <= result["duration_s"] < 10


@pytest.mark.parametrize(
    ("option", "given", "found"),
    [
        ("limit_s", "nan", "limit_s: expected a finite number, found nan"),
        ("limit_s", "inf", "limit_s: expected a finite number, found inf"),
        ("min_s", -1, "min_s: expected 0 or more, found -1.0"),
        ("tolerance_mib", "-300", "tolerance_mib: expected 0 or more, found -300"),
        ("target_mib", -1, "target_mib: expected 0 or more, found -1"),
        ("pids", [-7], "pids[0]: expected 0 or more, found -7"),
    ],
)
def test_a_figure_that_can_not_be_meant_is_refused(invoke: Any, option: str, given: Any, found: str) -> None:
    result = invoke(gpu_drain.main, {option: given})
    assert (result["failed"], result["msg"]) == (True, found)


def test_the_minimum_is_kept(invoke: Any) -> None:
    assert invoke(gpu_drain.main, {"target_mib": 500, "min_s": 0.4})["duration_s"] >= 0.4


def test_the_limit_names_the_holders(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCard, "free_at", time.monotonic() + 60)
    result = invoke(gpu_drain.main, {"target_mib": 500, "tolerance_mib": 50, "limit_s": 0.3})
    assert result["failed"]
    assert "expected at most 500 + 50 MiB" in result["msg"]
    assert "held by PID 7 llama-server 5000 MiB" in result["msg"]
    assert result["processes"] == [{"pid": 7, "mib": 5000, "command": "llama-server"}]


def test_check_mode_looks_once_and_never_fails(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCard, "free_at", time.monotonic() + 60)
    result = invoke(gpu_drain.main, {"target_mib": 500, "min_s": 5}, check_mode=True)
    assert not result["failed"]
    assert not result["drained"]
    assert result["duration_s"] < 4


def test_a_card_that_is_not_there_fails(invoke: Any) -> None:
    result = invoke(gpu_drain.main, {"index": 9})
    assert result["failed"]
    assert result["msg"] == "GPU 9 cannot be read: no such card"


def test_a_card_that_is_not_there_is_no_failure_of_check_mode(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was stopped, and the results of later tasks may be asked for."""
    # Where Ansible's controller is loaded as well, a warning goes to its display and not into the result.
    warnings: list[str] = []
    monkeypatch.setattr(gpu_drain.AnsibleModule, "warn", lambda _self, text: warnings.append(text))
    result = invoke(gpu_drain.main, {"index": 9, "target_mib": 500}, check_mode=True)
    assert not result["failed"]
    assert not result["changed"]
    assert "GPU 9 cannot be read: no such card" in str(warnings)
    found = {name: result[name] for name in ("drained", "used_mib", "target_mib", "duration_s", "processes")}
    assert found == {"drained": False, "used_mib": 0, "target_mib": 500, "duration_s": 0.0, "processes": []}
