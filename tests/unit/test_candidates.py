"""Every candidate that playbooks/ brings fits the inventory that its file names."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import outlook
from inventories import PLAYBOOKS, plan_of

# The name of the inventory comes first in the name of a candidate's file.
FILES = sorted((PLAYBOOKS / "candidates").glob("*.yml"))
PLANS = [*((name, None) for name in ("panda", "twin")), *((file.stem.split("-")[0], file) for file in FILES)]


@pytest.mark.parametrize(("name", "file"), PLANS, ids=[file.stem if file else name for name, file in PLANS])
def test_the_cap_leaves_time_for_the_expected_trial(name: str, file: Path | None) -> None:
    """Otherwise phase 0 refuses the command that the file itself names, or the window ends before the trial does."""
    plan = plan_of(name, file)
    expected_s = max(outlook.impacts_s(plan).values())
    assert plan.restore_bound_s < plan.limits.cap_s
    assert expected_s < plan.run_max_s, f"{expected_s} s expected, {plan.run_max_s:.0f} s left in the window"
