# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the program ``model-trial`` on the controller: a zipapp of ``module_utils`` with pynvml inside."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = """import sys

# The same modules, compiled for this host's Python: acquire lays them here. Without them this file is enough.
sys.path.insert(0, "{compiled}")

from module_utils.program import main

sys.exit(main())
"""
# Python caches no compiled modules for a zipapp; compiling them is half the work of each start.
COMPILED = "/var/cache/model-trial"
# A fixed time in every entry: the same sources give the same bytes, so an unchanged program is never copied again.
EPOCH = (1980, 1, 1, 0, 0, 0)


def build(core: Path, pynvml: Path) -> tuple[bytes, str]:
    """The zipapp as bytes: every module of ``core`` as package ``module_utils``, pynvml beside it.

    Returns:
        The bytes, and the host's folder for the compiled modules: each program has its own.
    """
    files = {f"module_utils/{path.name}": path.read_bytes() for path in sorted(core.glob("*.py"))}
    files.setdefault("module_utils/__init__.py", b"")
    files["pynvml.py"] = pynvml.read_bytes()
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
    compiled = f"{COMPILED}/{digest.hexdigest()[:16]}"
    files["__main__.py"] = MAIN.format(compiled=compiled).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return SHEBANG + buffer.getvalue(), compiled


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Runs only on the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Build the program into ``dest``; an unchanged one is left alone."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        dest = Path(str(self._task.args.get("dest") or "")).expanduser()
        if not dest.name:
            raise AnsibleActionFail("dest: expected a file on the controller, found nothing")
        spec = importlib.util.find_spec("pynvml")
        if spec is None or not spec.origin:
            raise AnsibleActionFail(
                f"expected pynvml in the Python that runs ansible-playbook ({sys.executable}), found none; "
                f"do: {sys.executable} -m pip install nvidia-ml-py"
            )
        core = Path(__file__).resolve().parent.parent / "module_utils"
        data, compiled = build(core, Path(spec.origin))
        changed = not dest.exists() or dest.read_bytes() != data
        if changed:
            # Written in check mode too: it is a build product of the controller, and later tasks compare with it.
            dest.parent.mkdir(parents=True, exist_ok=True)
            # A unique name: the play may build the same file for other hosts at the same time.
            fresh = dest.with_name(f".{dest.name}.{os.getpid()}")
            fresh.write_bytes(data)
            fresh.replace(dest)
        built = {"path": str(dest), "sha256": hashlib.sha256(data).hexdigest(), "compiled": compiled}
        return {**result, "changed": False, **built}
