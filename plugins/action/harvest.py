# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the folder of a run from the host to the controller in one transfer."""

from __future__ import annotations

import shlex
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

RUNS = "/var/lib/model-trial/runs"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Copies; removes nothing on the host."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Unpack the run below ``dest``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        run, dest = str(self._task.args.get("run") or ""), Path(str(self._task.args.get("dest") or ""))
        if not run or "/" in run or run.startswith("."):
            raise AnsibleActionFail(f"run: expected the name of a run, found {run!r}")
        if not self._task.args.get("dest"):
            raise AnsibleActionFail("dest: expected a folder on the controller, found nothing")
        if self._task.check_mode:
            return {**result, "changed": True, "skipped_in_check_mode": True}
        remote = self._connection._shell.join_path(self._make_tmp_path(), "run.tar.gz")
        # Readable for the login user, who fetches it; its folder is closed to everybody else.
        # tar says 1 when a file grew while it was read: a run that is still open may be harvested too.
        folder = shlex.quote(f"{RUNS}/{run}")
        pack = f"tar -C {folder} -czf {remote} .; code=$?; chmod 0644 {remote}; test $code -le 1"
        with tempfile.TemporaryDirectory() as local:
            archive = Path(local) / "run.tar.gz"
            try:
                done = self._low_level_execute_command(pack, sudoable=True)
                if done["rc"] != 0:
                    words = str(done.get("stdout") or done.get("stderr") or "").strip()
                    raise AnsibleActionFail(f"run {run} could not be packed on the host: {words}")
                self._connection.fetch_file(remote, str(archive))
            finally:
                self._remove_tmp_path(self._connection._shell.tmpdir)
            dest.mkdir(parents=True, exist_ok=True)
            with tarfile.open(archive) as tar:
                # The host's folder is data of a stranger: nothing may be unpacked outside dest.
                tar.extractall(dest, filter="data")
        files = sorted(str(path.relative_to(dest)) for path in dest.rglob("*") if path.is_file())
        self._display.display(f"  harvested {len(files)} files of {run} to {dest}")
        return {**result, "changed": True, "files": files, "dest": str(dest)}
