# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows what a trial would do to the host: what stops, in which order, for how long; and what a rehearsal measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils import journal, outlook, rehearsal
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Plan
from ansible_collections.edgelab.model_trial.plugins.module_utils.planfile import PlanError, parse


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Runs only on the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print the outlook of the plan, or with ``journal`` what that rehearsal measured."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            plan = parse(self._task.args.get("plan"))
        except PlanError as err:
            raise AnsibleActionFail(f"the plan cannot be used: {err}") from err
        path = str(self._task.args.get("journal") or "")
        found = self.measured(plan, Path(path)) if path else {}
        lines = found.pop("lines", None) or outlook.lines(plan)
        for line in lines:
            self._display.display(f"  {plan.host} | {line}")
        return {**result, "changed": False, "lines": lines, "down_s": outlook.down_s(plan), **found}

    @staticmethod
    def measured(plan: Plan, path: Path) -> dict[str, Any]:
        """What the journal of a rehearsal says, and what that means for a trial."""
        entries = journal.read(path)
        found = outlook.measured(entries)
        if found is None:
            return {"lines": [f"nothing to compute: {path} does not say that the host was restored"], "measured": None}
        trial, again = dataclasses.replace(plan, rehearsal=False), rehearsal.second_tries(entries)
        return {
            "lines": outlook.report(plan, found, again),
            "second_tries": again,
            "measured": dataclasses.asdict(found),
            "trial_down_s": outlook.down_s(trial, found),
            "trial_impacts_s": outlook.impacts_s(trial, found),
            "hints": outlook.hints(plan, found, again),
        }
