# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that brings a run's folder to the controller."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import harvest


def packs(stage: Any, *members: tuple[str, str]) -> None:
    """Let the host pack these files, as tar would."""

    def tar(argv: list[str]) -> dict[str, Any]:
        with tarfile.open(argv[argv.index("-czf") + 1], "w:gz") as archive:
            for name, text in members:
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return {"rc": 0, "stdout": "", "stderr": ""}

    stage.answer = tar


def test_a_run_is_unpacked_below_dest(stage: Any, tmp_path: Path) -> None:
    packs(stage, ("./journal.jsonl", "{}\n"), ("./samples/nav.jsonl", "{}\n"))
    dest = tmp_path / "results" / "run-1"
    result = stage.play(harvest, run="run-1", dest=str(dest))
    assert result["changed"] is True
    assert result["files"] == ["journal.jsonl", "samples/nav.jsonl"]
    assert (dest / "samples" / "nav.jsonl").read_text() == "{}\n"
    (command,) = stage.commands
    assert command[:3] == ["tar", "-C", "/var/lib/model-trial/runs/run-1"]
    assert stage.removed == [str(stage.remote)]
    assert stage.shown == [f"  harvested 2 files of run-1 to {dest}"]


def test_nothing_is_unpacked_outside_dest(stage: Any, tmp_path: Path) -> None:
    packs(stage, ("../stray.txt", "x"))
    with pytest.raises(tarfile.TarError):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "results" / "run-1"))
    assert not (tmp_path / "results" / "stray.txt").exists()


@pytest.mark.parametrize("run", ["", "a/b", "../x", ".hidden"])
def test_a_run_is_a_name(stage: Any, tmp_path: Path, run: str) -> None:
    with pytest.raises(AnsibleActionFail, match="run: expected the name of a run"):
        stage.play(harvest, run=run, dest=str(tmp_path))


def test_a_destination_is_needed(stage: Any) -> None:
    with pytest.raises(AnsibleActionFail, match="dest: expected a folder"):
        stage.play(harvest, run="run-1")
    assert stage.commands == []


def test_check_mode_brings_nothing(stage: Any, tmp_path: Path) -> None:
    assert stage.play(harvest, check_mode=True, run="run-1", dest=str(tmp_path / "x"))["changed"] is True
    assert stage.commands == []
    assert not (tmp_path / "x").exists()


def test_a_run_that_is_not_there(stage: Any, tmp_path: Path) -> None:
    stage.answer = lambda _argv: {"rc": 2, "stdout": "", "stderr": "tar: run-1: No such file\n"}
    with pytest.raises(AnsibleActionFail, match="run run-1 could not be packed on the host: tar: run-1: No such file"):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "x"))
