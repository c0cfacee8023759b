# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fakes of the folder beside this one, as fixtures."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The tests are no package: their helpers are found by path, in the checkout as in the built collection.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fake docker, systemctl, systemd-run and journalctl, first in PATH."""
    from fakecommands import Commands

    found = Commands(tmp_path)
    monkeypatch.setenv("PATH", f"{found.bin}:/usr/bin:/bin")
    return found


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder in memory, where there is one: a world writes many small files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def world_of(quick_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Any]:
    """Makes whole hosts of plans; the latest is under the host program's feet."""
    from fakeworld import make_world

    def make(data: dict[str, Any]) -> Any:
        found = make_world(quick_path / f"world-{len(list(quick_path.glob('world-*')))}", data, free_port)
        found.put(monkeypatch)
        return found

    return make


@pytest.fixture
def world(world_of: Callable[[dict[str, Any]], Any], plan_data: dict[str, Any]) -> Any:
    """The host of the plan with four tenants."""
    return world_of(plan_data)
