# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches the folder of a run from the host in one transfer, and retries while the network is cut."""

from __future__ import annotations

import contextlib
import gzip
import re
import shlex
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import NAME
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import one_line, printable
from ansible_collections.edgelab.model_trial.plugins.module_utils.words import counted
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.away import patiently

RUNS = "/var/lib/model-trial/runs"
# What a run keeps in its folder for its restore; it is not a result.
PROGRAM = "model-trial"
# A long run has some fifty files and some megabytes.
MAX_FILES, MAX_BYTES = 2000, 2 << 30
MAX_DEPTH = 4
# No file of a run comes near this. A larger file, sparse or not, is reported and left on the host; the rest is fetched.
MAX_FILE_BYTES = 512 << 20
# Time limit for packing on the host, in seconds.
PACK_S = 300
# What the host says about each file that it leaves out.
TOO_BIG = "too big for a harvest:"
# A process on the host can make a file of any apparent size that takes no room: so only files that may be fetched are
# read, and within a time limit. tar may exit with 1, because an open run, whose files grow, may be harvested too. The
# login user, who fetches the archive, can read it; its folder is closed to all others.
PACK = """umask 077
cd {folder} || exit 2
find . ! -path ./{program} -type f -size +{max_file}c -printf '{too_big} %s bytes, %P\\0' | tr -d '\\n' | tr '\\0' '\\n'
bytes=$(find . ! -path ./{program} -type f ! -size +{max_file}c -printf '%s\\n' |
    awk '{{ all += $1 }} END {{ printf "%.0f", all }}')
if test "$bytes" -gt {max_bytes}
then echo "the run has $bytes bytes, at most {max_bytes} are fetched; see what fills its folder"; exit 3
fi
find . ! -path ./{program} ! -type d ! '(' -type f -size +{max_file}c ')' -print0 |
timeout {limit} tar --null --no-recursion --sparse -czf {remote} -T -
code=$?
test $code -ne 124 || echo "it took more than {limit} s"
chmod 0644 {remote}
test $code -le 1"""
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")


def _plain(member: tarfile.TarInfo, dest: Path, parts: list[str]) -> bool:
    """Whether the file stays below ``dest``, without passing through an existing link."""
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
        AnsibleActionFail: more files or bytes than a run can have, no room for them, or no archive.
    """
    try:
        return _unpack(archive, dest, max_bytes)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise AnsibleActionFail(
            f"expected the host's archive of the run, found something else ({err}): it may hold what the login prints "
            "(phase 0 checks that: --tags preflight). The run is kept on the host; fetch it with harvest.yml"
        ) from None


def _unpack(archive: Path, dest: Path, max_bytes: int) -> tuple[list[str], list[str]]:
    written, left_out, size = [], [], 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            parts = name.split("/")
            # The host's half-written files begin with a dot; they are not results.
            if member.isdir() or (member.isreg() and parts[-1].startswith(".") and parts[-1].strip(".")):
                continue
            if not _plain(member, dest, parts):
                left_out.append(one_line(name))
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

    # The folder on the host is created with the archive: to create Ansible's own folder first would be one more request
    # that a cut network can break.
    TRANSFERS_FILES = False

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
        host = str((task_vars or {}).get("inventory_hostname", "host"))
        todo = f"The run is kept there; fetch it when the host answers again: harvest.yml -e verdict_run={run}"
        with tempfile.TemporaryDirectory() as local:
            archive = Path(local) / "run.tar.gz"
            try:
                left = patiently(
                    lambda: self._bring(run, archive),
                    self._connection,
                    lambda text: self._display.display(f"  {host} | {text}"),
                    todo,
                )
            finally:
                # If the host stays unreachable, its temporary folder remains; it is closed to all but the login user.
                with contextlib.suppress(AnsibleConnectionFailure):
                    self._remove_tmp_path(self._connection._shell.tmpdir)
            files, left_out = unpack(archive, dest)
        for name in left:
            self._display.warning(f"harvest of {run}: {name} was left on the host")
        for name in left_out:
            self._display.warning(f"harvest of {run}: {name} was left out: it is not a plain file with a plain name")
        self._display.display(f"  harvested {counted(len(files), 'file')} of {run} to {dest}")
        return {**result, "changed": True, "files": files, "left_out": sorted(left + left_out), "dest": str(dest)}

    def _bring(self, run: str, archive: Path) -> list[str]:
        """Pack the run on the host and fetch it; returns what the host left out, in words.

        Raises:
            AnsibleConnectionFailure: the host cannot be reached.
            AnsibleActionFail: it could not be packed.
        """
        # One folder for all attempts: those of earlier attempts would stay on the host.
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        remote = self._connection._shell.join_path(folder, "run.tar.gz")
        pack = PACK.format(
            program=PROGRAM,
            folder=shlex.quote(f"{RUNS}/{run}"),
            remote=shlex.quote(remote),
            max_file=MAX_FILE_BYTES,
            max_bytes=MAX_BYTES,
            limit=PACK_S,
            too_big=TOO_BIG,
        )
        done = self._low_level_execute_command(pack, sudoable=True)
        words = str(done.get("stdout") or done.get("stderr") or "").strip()
        if done["rc"] != 0:
            said = printable(words) or f"exit code {done['rc']}"
            raise AnsibleActionFail(f"run {run} could not be packed on the host: {said}")
        self._connection.fetch_file(remote, str(archive))
        found = (line.strip() for line in words.splitlines() if line.startswith(TOO_BIG))
        return [one_line(line.removeprefix(TOO_BIG).strip()) for line in found]
