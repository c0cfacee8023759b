# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ``trialbench`` on the controller and shows what it prints."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

OURS = "edgelab-trialbench"


def lacking(said: str) -> str:
    """Why trialbench can't be run here, in words; empty where it failed for another reason."""
    found = ""
    if "No module named trialbench" in said:
        found = "none"
    else:
        owners = importlib.metadata.packages_distributions().get("trialbench", [])
        if owners and OURS not in owners:
            found = f"the distribution {owners[0]}, which is another project"
    if not found:
        return ""
    return (
        f"expected the distribution {OURS} in the Python that runs ansible-playbook ({sys.executable}), found {found}. "
        f"It is part of a checkout of this collection; do: {sys.executable} -m pip install PATH/OF/THE/CHECKOUT"
    )


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Runs on the controller, where the results are."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run one command of trialbench."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = [str(word) for word in self._task.args.get("argv") or []]
        if not args:
            raise AnsibleActionFail("argv: expected a command of trialbench, found nothing")
        if args[0] == "attest":
            return {**result, **self._attest(args)}
        # The only command that edits a person's files: it can report beforehand what it would change.
        writes = args[0] == "documents"
        command = [sys.executable, "-m", "trialbench", *args, *self._options(writes)]
        if self._task.check_mode and not writes:
            return {**result, "changed": False, "skipped_in_check_mode": True, "cmd": command}
        done = self._run(command, self._task.args.get("stdin"))
        result.update(changed=False, rc=done.returncode, cmd=command, stdout=done.stdout, stderr=done.stderr)
        if done.returncode != 0:
            self._show(done.stdout.splitlines())
            why = lacking(done.stderr) or done.stderr.strip() or done.returncode
            raise AnsibleActionFail(f"trialbench {args[0]}: {why}", result=result)
        if writes:
            told = json.loads(done.stdout)
            result.update(changed=told["changed"], documents=told["documents"], diff={"prepared": told["diff"]})
            self._show(told["lines"])
        else:
            self._show(done.stdout.splitlines())
        return result

    def _attest(self, args: list[str]) -> dict[str, Any]:
        """The ground truth of files. It runs in check mode, too; a negative verdict is not a failure."""
        with tempfile.TemporaryDirectory(prefix="trialbench-") as folder:
            path = Path(folder) / "attestation.json"
            command = [sys.executable, "-m", "trialbench", *args, "--json", str(path)]
            done = self._run(command)
            if not path.exists():
                why = lacking(done.stderr) or done.stderr.strip() or done.returncode
                raise AnsibleActionFail(f"trialbench attest: {why}")
            found = json.loads(path.read_text(encoding="utf-8"))
        self._show([file["says"] for file in found["files"]])
        # Without the exit code: Ansible would take a negative verdict for a failed task.
        return {"changed": False, "cmd": command, "attestation": found}

    @staticmethod
    def _run(command: list[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, input=given or "", check=False)

    def _options(self, writes: bool) -> list[str]:
        """How Ansible's check and diff mode apply to a command that writes."""
        if not writes:
            return []
        checked = ["--check"] if self._task.check_mode else []
        return ["--json", *checked, *(["--diff"] if getattr(self._task, "diff", False) else [])]

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            self._display.display(line)
