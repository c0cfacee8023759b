# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that brings a run's folder to the controller."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import harvest
from ansible_collections.edgelab.model_trial.plugins.module_utils import kept


def packs(stage: Any, *members: tuple[str, str], links: Sequence[tuple[str, bytes, str]] = ()) -> None:
    """Let the host pack these files, as tar would."""

    def tar(argv: list[str]) -> dict[str, Any]:
        with tarfile.open(argv[argv.index("-czf") + 1], "w:gz") as archive:
            for name, text in members:
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
            for name, kind, target in links:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = kind, target
                archive.addfile(link)
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


def test_the_program_that_a_run_keeps_is_no_result(stage: Any, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def tar(argv: list[str]) -> dict[str, Any]:
        asked.append(argv)
        tarfile.open(argv[argv.index("-czf") + 1], "w:gz").close()
        return {"rc": 0, "stdout": "", "stderr": ""}

    stage.answer = tar
    stage.play(harvest, run="run-1", dest=str(tmp_path / "dest"))
    assert f"--exclude=./{kept.NAME}" in asked[0]


def test_nothing_is_unpacked_outside_and_no_link_at_all(stage: Any, tmp_path: Path) -> None:
    dest = tmp_path / "results" / "run-1"
    dest.mkdir(parents=True)
    (dest / "logs").symlink_to(tmp_path)
    links = [
        ("./samples/leak", tarfile.SYMTYPE, "/etc/passwd"),
        ("./samples/hard", tarfile.LNKTYPE, "journal.jsonl"),
        ("./samples/pipe", tarfile.FIFOTYPE, ""),
    ]
    packs(
        stage,
        ("./journal.jsonl", "{}\n"),
        ("../stray.txt", "x"),
        ("/etc/stray", "x"),
        ("./a/b/c/d/e.txt", "x"),
        ("./samples/\x1b[2J.txt", "x"),
        ("./samples/.summary.part", "x"),
        ("./logs/through-a-link.log", "x"),
        links=links,
    )
    result = stage.play(harvest, run="run-1", dest=str(dest))
    assert result["files"] == ["journal.jsonl"]
    assert len(result["left_out"]) == 8
    assert not any("\x1b" in name for name in result["left_out"])
    # The first is the host's archive, which stands in for a transfer.
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*")) if p.is_file()][1:] == [
        "results/run-1/journal.jsonl"
    ]


def test_a_harvest_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "run.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("a", "b", "c"):
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(bytes(600)))
    with pytest.raises(AnsibleActionFail, match="expected at most 0 MiB"):
        harvest.unpack(archive, tmp_path / "dest", max_bytes=1500)
    assert sorted(p.name for p in (tmp_path / "dest").iterdir()) == ["a", "b"]
    monkeypatch.setattr(harvest, "MAX_FILES", 1)
    with pytest.raises(AnsibleActionFail, match="in 1 files, found more"):
        harvest.unpack(archive, tmp_path / "again")


def test_a_disk_without_room_leaves_no_half_file(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs(stage, ("./journal.jsonl", "{}\n"))

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(harvest.shutil, "copyfileobj", full)
    with pytest.raises(AnsibleActionFail, match=r"No space left.*kept on the host; make room and fetch it with"):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "run-1"))
    assert list((tmp_path / "run-1").iterdir()) == []


@pytest.mark.parametrize("run", ["", "a/b", "../x", ".hidden", "x\n", "-x", "\x1b[2J"])
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
