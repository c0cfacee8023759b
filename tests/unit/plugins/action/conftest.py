# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An action plugin without a play: its task, a host that answers commands from a script, and what people see."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# The tests are no package: their helpers are found by path, in the checkout as in the built collection.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

Reply = dict[str, Any]


def said(stdout: str = "", rc: int = 0, stderr: str = "") -> Reply:
    """What a command on the host leaves."""
    return {"rc": rc, "stdout": stdout, "stderr": stderr}


class Stage:
    """Makes an action and stands in for everything around it."""

    def __init__(self, folder: Path) -> None:
        self.shown: list[str] = []
        self.commands: list[list[str]] = []
        self.remote = folder / "remote-tmp"
        # As Ansible does it: the connection knows the folder made last, and no other one is removed.
        self.shell = SimpleNamespace(tmpdir=None, join_path=lambda *parts: "/".join(parts))
        self.made: list[str] = []
        self.removed: list[str] = []
        self.fetch: Callable[[str, str], Any] = shutil.copyfile
        self.put: Callable[[str, str], Any] = shutil.copyfile
        self.module: Callable[..., dict[str, Any]] = lambda **_options: {}
        self.answer: Callable[[list[str]], Reply] = lambda _argv: said()

    def action(self, module: ModuleType, *, check_mode: bool = False, **args: Any) -> Any:
        """The action of a module with these arguments."""
        task = SimpleNamespace(args=args, check_mode=check_mode, async_val=0, action=module.__name__)
        connection = SimpleNamespace(
            _shell=self.shell,
            fetch_file=self.fetch,
            put_file=self.put,
            reset=lambda: self.shown.append("reset"),
        )
        found = module.ActionModule(task, connection, None, None, None)
        found._execute_module = self.module
        found._display = SimpleNamespace(display=self.shown.append, warning=self.shown.append)
        found._low_level_execute_command = self._execute
        found._make_tmp_path = self._make_tmp_path
        found._remove_tmp_path = self._remove_tmp_path
        found._transfer_file = shutil.copyfile
        return found

    def play(self, module: ModuleType, *, check_mode: bool = False, **args: Any) -> dict[str, Any]:
        """Run the action of a module; returns its result."""
        action = self.action(module, check_mode=check_mode, **args)
        return dict(action.run(None, {"inventory_hostname": "panda"}))

    def _make_tmp_path(self) -> str:
        folder = self.remote if not self.made else self.remote.with_name(f"{self.remote.name}-{len(self.made)}")
        folder.mkdir()
        self.made.append(str(folder))
        self.shell.tmpdir = str(folder)
        return str(folder)

    def _remove_tmp_path(self, path: str | None) -> None:
        if path:
            self.removed.append(path)
            self.shell.tmpdir = None

    def _execute(self, command: str, sudoable: bool = False) -> Reply:
        assert sudoable, "what runs on a tried host runs as root"
        self.commands.append(shlex.split(command))
        return self.answer(self.commands[-1])


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A stage."""
    return Stage(tmp_path)


@pytest.fixture
def world(tmp_path: Path, plan_data: dict[str, Any], free_port: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A whole made-up host (see the folder of fakes)."""
    from fakeworld import make_world

    found = make_world(tmp_path / "world", plan_data, free_port)
    found.put(monkeypatch)
    return found
