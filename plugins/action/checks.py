# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module ``checks`` on the host, and retries while the network is cut: a short cut must not cost the proof."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.away import patiently

ADVICE = (
    "Nothing was proved from outside. The host restores itself. When it answers again: verify_rollback.yml checks it, "
    "restore.yml brings it back if it is not back yet, and harvest.yml fetches what was measured"
)


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """The module only reads, so it may run again."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the checks, and retry while the host cannot be reached."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        host = str((task_vars or {}).get("inventory_hostname", "host"))

        def ask() -> dict[str, Any]:
            done: dict[str, Any] = self._execute_module(task_vars=task_vars)
            return done

        done = patiently(ask, self._connection, lambda text: self._display.display(f"  {host} | {text}"), ADVICE)
        return {**result, **done}
