# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module page that reads a card."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu
from ansible_collections.edgelab.model_trial.plugins.modules import gpu_info


class FakeCard:
    """A card that can be read, or not."""

    name, driver = "NVIDIA Something", "580.1"
    closed = False
    error = ""

    def __init__(self, index: int) -> None:
        assert index == 1

    def read(self) -> gpu.Vram:
        if FakeCard.error:
            raise gpu.GpuError(FakeCard.error)
        return gpu.Vram(0.0, 500, 16_303, (gpu.Holder(7, None, "x"),))

    def close(self) -> None:
        FakeCard.closed = True


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_card_is_described(invoke: Any, monkeypatch: pytest.MonkeyPatch, check_mode: bool) -> None:
    monkeypatch.setattr(gpu, "Card", FakeCard)
    monkeypatch.setattr(FakeCard, "closed", False)
    result = invoke(gpu_info.main, {"index": 1}, check_mode)
    assert {key: result[key] for key in ("available", "changed", "failed", "name", "driver")} == {
        "available": True,
        "changed": False,
        "failed": False,
        "name": "NVIDIA Something",
        "driver": "580.1",
    }
    assert (result["used_mib"], result["total_mib"]) == (500, 16_303)
    assert result["processes"] == [{"pid": 7, "mib": None, "command": "x"}]
    assert FakeCard.closed


def test_no_card_is_no_failure(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Card", FakeCard)
    monkeypatch.setattr(FakeCard, "error", "GPU is lost")
    result = invoke(gpu_info.main, {"index": 1})
    assert not result["failed"]
    assert (result["available"], result["reason"]) == (False, "GPU is lost")
