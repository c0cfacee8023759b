# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host program is built on the controller: always the same bytes, and it runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import program

CORE = Path(program.__file__).resolve().parent.parent / "module_utils"


@pytest.fixture
def pynvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pynvml that can be found."""
    folder = tmp_path / "site"
    folder.mkdir()
    path = folder / "pynvml.py"
    path.write_text('"""A stand-in."""\n')
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    return path


def test_the_same_sources_are_the_same_bytes(pynvml: Path) -> None:
    data, compiled = program.build(CORE, pynvml)
    assert (data, compiled) == program.build(CORE, pynvml)
    assert data.startswith(b"#!/usr/bin/env python3\n")
    pynvml.write_text("changed = True\n")
    other, elsewhere = program.build(CORE, pynvml)
    assert data != other
    assert compiled != elsewhere, "a program would run another one's modules"
    assert Path(compiled).parent == Path(elsewhere).parent == Path("/var/cache/model-trial")


def test_the_program_is_the_core_and_pynvml(pynvml: Path, tmp_path: Path) -> None:
    path = tmp_path / "model-trial"
    path.write_bytes(program.build(CORE, pynvml)[0])
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    modules = {f"module_utils/{p.name}" for p in CORE.glob("*.py")}
    assert names == modules | {"module_utils/__init__.py", "pynvml.py", "__main__.py"}


def test_the_program_runs_by_itself(pynvml: Path, tmp_path: Path) -> None:
    """With an interpreter that has nothing but its standard library."""
    path = tmp_path / "model-trial"
    path.write_bytes(program.build(CORE, pynvml)[0])
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "systemctl").write_text("#!/bin/sh\nprintf 'inactive\\n\\ninactive\\n'\n")
    (tools / "systemctl").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-IS", str(path), "--root", str(tmp_path / "state"), "status", "--json"],
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["open"], answer["epoch"], answer["last_run"]) == (None, 0, None)
    assert answer["units"] == {"mt-run.service": "inactive", "mt-restore.service": "inactive"}


def run(path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The program with an interpreter that has nothing but its standard library, and says what it imports."""
    argv = [sys.executable, "-ISv", str(path), *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_compiled_modules_are_taken_and_nothing_is_missed_without_them(
    pynvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, path = tmp_path / "cache", tmp_path / "model-trial"
    monkeypatch.setattr(program, "COMPILED", str(cache))
    data, compiled = program.build(CORE, pynvml)
    path.write_bytes(data)
    (cache / "an-older-one").mkdir(parents=True)
    for _again in range(2):
        done = run(path, "unpack", compiled)
        assert done.returncode == 0, done.stderr
        assert [str(p) for p in cache.iterdir()] == [compiled], "the older one, or what was half done, is left"
    done = run(path, "--help")
    assert done.returncode == 0
    assert f"matches {compiled}/module_utils/program.py" in done.stderr
    assert f"{path}/module_utils" not in done.stderr, "a module came from the zip file"
    # What somebody cleared away is no loss.
    shutil.rmtree(cache)
    done = run(path, "--help")
    assert done.returncode == 0
    assert f"{path}/module_utils" in done.stderr


@pytest.mark.parametrize("check_mode", [False, True])
def test_an_unchanged_program_is_left_alone(stage: Any, pynvml: Path, tmp_path: Path, check_mode: bool) -> None:
    dest = tmp_path / "build" / "model-trial"
    result = stage.play(program, check_mode=check_mode, dest=str(dest))
    assert result["changed"] is False
    assert result["path"] == str(dest)
    assert result["sha256"] == hashlib.sha256(dest.read_bytes()).hexdigest()
    assert result["compiled"].encode() in zipfile.ZipFile(dest).read("__main__.py")
    before = dest.stat()
    stage.play(program, dest=str(dest))
    assert (dest.stat().st_mtime_ns, dest.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    dest.write_text("old")
    stage.play(program, dest=str(dest))
    assert hashlib.sha256(dest.read_bytes()).hexdigest() == result["sha256"]
    assert [p.name for p in dest.parent.iterdir()] == ["model-trial"]
    assert stage.commands == []


def test_a_destination_is_needed(stage: Any) -> None:
    with pytest.raises(AnsibleActionFail, match="dest: expected a file"):
        stage.play(program)


def test_a_controller_without_pynvml(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(AnsibleActionFail, match="pip install nvidia-ml-py"):
        stage.play(program, dest=str(tmp_path / "model-trial"))
