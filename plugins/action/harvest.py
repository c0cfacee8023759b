# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the folder of a run from the host to the controller in one transfer."""

from __future__ import annotations

import re
import shlex
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import NAME
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import printable

RUNS = "/var/lib/model-trial/runs"
# What a run keeps in its folder for its restore.
PROGRAM = "model-trial"
# A long run has some fifty files and some megabytes.
MAX_FILES, MAX_BYTES = 2000, 2 << 30
MAX_DEPTH = 4
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")


def _plain(member: tarfile.TarInfo, dest: Path, parts: list[str]) -> bool:
    """Whether it is a file that stays below ``dest``, through no link that lies there already."""
    named = len(parts) <= MAX_DEPTH and all(PART.match(part) for part in parts)
    paths = [dest.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return member.isreg() and named and not any(path.is_symlink() for path in paths)


def unpack(archive: Path, dest: Path, max_bytes: int = MAX_BYTES) -> tuple[list[str], list[str]]:
    """Unpack plain files with plain names below ``dest``, each replaced as a whole.

    The host's folder is untrusted: links, devices, paths that climb and unusual names are skipped, and the archive may
    not fill the controller's disk.

    Returns:
        The files written, and the names that were left out, fit for a terminal; both sorted.

    Raises:
        AnsibleActionFail: more files or bytes than a run can have, or no room for them.
    """
    written, left_out, size = [], [], 0
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            parts = name.split("/")
            # The host's half-written files begin with a dot; they are not results.
            if member.isdir() or (member.isreg() and parts[-1].startswith(".") and parts[-1].strip(".")):
                continue
            if not _plain(member, dest, parts):
                left_out.append(printable(name))
                continue
            size += member.size
            if size > max_bytes or len(written) >= MAX_FILES:
                raise AnsibleActionFail(
                    f"expected at most {max_bytes >> 20} MiB in {MAX_FILES} files, found more; {dest} holds the first "
                    f"{len(written)}. See what fills the run's folder on the host"
                )
            _write(tar, member, dest / name)
            written.append(name)
    return sorted(written), sorted(left_out)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        with part.open("wb") as file:
            if source:
                shutil.copyfileobj(source, file)
        part.replace(path)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise AnsibleActionFail(
            f"{path} could not be written: {err}. The run is kept on the host; make room and fetch it with harvest.yml"
        ) from err


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Copies; removes nothing on the host."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Unpack the run below ``dest``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        run, dest = str(self._task.args.get("run") or ""), Path(str(self._task.args.get("dest") or ""))
        if not NAME.match(run):
            raise AnsibleActionFail(f"run: expected the name of a run, found {run!r}")
        if not self._task.args.get("dest"):
            raise AnsibleActionFail("dest: expected a folder on the controller, found nothing")
        if self._task.check_mode:
            return {**result, "changed": True, "skipped_in_check_mode": True}
        remote = self._connection._shell.join_path(self._make_tmp_path(), "run.tar.gz")
        # Readable for the login user, who fetches it; no other user can open its folder.
        # tar says 1 when a file grew while it was read: a run that is still open may be harvested too.
        folder = shlex.quote(f"{RUNS}/{run}")
        # The program that the run keeps for its restore is no result.
        pack = f"tar -C {folder} --exclude=./{PROGRAM} -czf {remote} .; code=$?; chmod 0644 {remote}; test $code -le 1"
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
            files, left_out = unpack(archive, dest)
        for name in left_out:
            self._display.warning(f"harvest of {run}: {name} was left out: no plain file with a plain name")
        self._display.display(f"  harvested {len(files)} files of {run} to {dest}")
        return {**result, "changed": True, "files": files, "left_out": left_out, "dest": str(dest)}
