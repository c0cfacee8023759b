# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definitions of the stopped tenants, kept on the host while a trial is open: unit files, and docker's descriptions
of containers.

A stopped container can be pruned, and a unit file can be deleted. Nothing here puts one back, but a person can. The
definitions may hold secrets, so only root can read them, no harvest fetches them, and they go with the open mark.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from . import tenants, units
from .journal import State, private
from .plan import Plan


def keep(plan: Plan, state: State, dependents: Iterable[str]) -> None:
    """Save the definitions that a person may need to put a tenant back; those of an earlier trial are removed first.

    Args:
        plan: what lives on the host.
        state: where the folder is.
        dependents: units that go down with a stopped tenant.

    Raises:
        OSError: a manager did not answer, or the disk is full.
        TenantError: docker does not know a tenant's container.
    """
    shutil.rmtree(state.definitions, ignore_errors=True)
    state.definitions.mkdir(mode=0o700)
    for name in plan.stop_order:
        _write(state.definitions / name, tenants.of(plan.tenant(name)).definition())
    known = units.show(tenants.HERE.run, dependents)
    for name in dependents:
        if name in known:
            _write(state.definitions / name, tenants.contents(units.files(known[name])))


def words(state: State, name: str) -> str:
    """Where a tenant's definition is kept, as a line for a message; empty where none is."""
    folder = state.definitions / name
    return f"its definition is kept in {folder} (only root can read it)" if folder.is_dir() else ""


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        place = folder
        # One by one: mkdir would create missing parents without this mode.
        for part in ["", *parts[:-1]]:
            place = place / part
            place.mkdir(mode=0o700, exist_ok=True)
        with open(place / parts[-1], "wb", opener=private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
