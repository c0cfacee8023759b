# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that brings a run's folder to the controller."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.edgelab.model_trial.plugins.action import harvest
from ansible_collections.edgelab.model_trial.plugins.module_utils import kept
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import away


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
    assert command[:4] == ["umask", "077", "cd", "/var/lib/model-trial/runs/run-1"]
    assert stage.made == stage.removed == [str(stage.remote)]
    assert stage.shown == [f"  harvested 2 files of run-1 to {dest}"]


def test_the_program_that_a_run_keeps_is_no_result(stage: Any, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def tar(argv: list[str]) -> dict[str, Any]:
        asked.append(argv)
        tarfile.open(argv[argv.index("-czf") + 1], "w:gz").close()
        return {"rc": 0, "stdout": "", "stderr": ""}

    stage.answer = tar
    stage.play(harvest, run="run-1", dest=str(tmp_path / "dest"))
    assert f"./{kept.NAME}" in asked[0]


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("./samples/a\n  harvested all of it.txt", "samples/a\ufffd  harvested all of it.txt"),
        ("./samples/a\tb", "samples/a\ufffdb"),
        ("./samples/a\r\x1b[2J\u2028b", "samples/a\ufffd\ufffd[2J\ufffdb"),
    ],
)
def test_a_name_is_told_on_one_line(stage: Any, tmp_path: Path, name: str, shown: str) -> None:
    """A line of its own could pass for a word of this program."""
    packs(stage, (name, "x"))
    assert stage.play(harvest, run="run-1", dest=str(tmp_path / "run-1"))["left_out"] == [shown]
    assert stage.shown[0] == f"harvest of run-1: {shown} was left out: it is not a plain file with a plain name"


@pytest.mark.parametrize("raw", [b"Welcome to panda!\n", b"", b"\x1f\x8b\x08\x00cut"])
def test_what_comes_may_be_no_archive(stage: Any, tmp_path: Path, raw: bytes) -> None:
    stage.fetch = lambda _there, here: Path(here).write_bytes(raw)
    with pytest.raises(AnsibleActionFail, match=r"expected the host's archive.*what the login prints.*harvest\.yml"):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "run-1"))
    assert stage.made == stage.removed


# A cut network.


@pytest.mark.parametrize("where", ["temporary folder", "packing", "transfer"])
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_cut_network_is_waited_out(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, cuts: int
) -> None:
    monkeypatch.setattr(away.time, "sleep", lambda _s: None)
    packs(stage, ("./journal.jsonl", "{}\n"))
    left = [AnsibleConnectionFailure("no route")] * cuts

    def breaks(act: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*args: Any) -> Any:
            if left:
                raise left.pop()
            return act(*args)

        return tried

    if where == "temporary folder":
        monkeypatch.setattr(stage, "_make_tmp_path", breaks(stage._make_tmp_path))
    elif where == "packing":
        stage.answer = breaks(stage.answer)
    else:
        stage.fetch = breaks(stage.fetch)
    assert stage.play(harvest, run="run-1", dest=str(tmp_path / "run-1"))["files"] == ["journal.jsonl"]
    assert stage.shown.count("  panda | the host cannot be reached; retrying") == cuts
    assert stage.shown.count("reset") == cuts
    # However often it was tried, nothing is left on the host.
    assert stage.made == stage.removed == [str(stage.remote)]


def test_a_host_that_stays_away_is_a_failure_with_a_way_on(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not "unreachable": that would end the host's part of the play without another word."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(away.time, "sleep", lambda _s: None)
    monkeypatch.setattr(away.time, "monotonic", lambda: next(clock))

    def cut(*_args: Any) -> None:
        raise AnsibleConnectionFailure("no route")

    stage.answer = cut
    monkeypatch.setattr(stage, "_remove_tmp_path", cut)
    with pytest.raises(AnsibleActionFail, match=r"tried for 60 s\): no route.*harvest\.yml -e verdict_run=run-1"):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "run-1"))
    assert len(stage.commands) == 6


# What the host packs, done by the real commands.


@pytest.fixture
def there(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on a host whose shell is real."""
    monkeypatch.setattr(harvest, "RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "runs" / "run-1"
    (folder / "samples").mkdir(parents=True)
    (folder / "journal.jsonl").write_text("{}\n")

    def real(command: str, sudoable: bool = False) -> dict[str, Any]:
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    monkeypatch.setattr(stage, "_execute", real)
    return folder


def test_a_run_is_packed_as_it_is(stage: Any, there: Path, tmp_path: Path) -> None:
    (there / "samples" / "nav a.jsonl").write_text("odd\n")
    (there / "samples" / "two\nlines").write_text("odd\n")
    (there / "samples" / "-T").write_text("odd\n")
    (there / "samples" / "nav.jsonl").write_text("{}\n")
    (there / "samples" / "link").symlink_to("/etc/passwd")
    result = stage.play(harvest, run="run-1", dest=str(tmp_path / "here"))
    assert result["files"] == ["journal.jsonl", "samples/nav.jsonl"]
    names = {"samples/nav a.jsonl", "samples/two\ufffdlines", "samples/-T", "samples/link"}
    assert set(result["left_out"]) == names
    assert stage.made == stage.removed


def test_a_file_that_only_looks_large_costs_nothing_and_the_rest_comes(stage: Any, there: Path, tmp_path: Path) -> None:
    """It takes no room there, and would be read and sent for hours."""
    for name in ("huge", "huge\nnav.jsonl"):
        with (there / "samples" / name).open("wb") as file:
            file.truncate(1 << 43)
    with (there / "samples" / "holes.jsonl").open("wb") as file:
        file.write(b"{}\n")
        file.truncate(64 << 20)
    began = time.monotonic()
    result = stage.play(harvest, run="run-1", dest=str(tmp_path / "here"))
    assert result["files"] == ["journal.jsonl", "samples/holes.jsonl"]
    assert result["left_out"] == [f"{1 << 43} bytes, samples/huge", f"{1 << 43} bytes, samples/hugenav.jsonl"]
    assert "harvest of run-1: 8796093022208 bytes, samples/huge was left on the host" in stage.shown
    assert (tmp_path / "here" / "samples" / "holes.jsonl").stat().st_size == 64 << 20
    assert Path(stage.made[0], "run.tar.gz").stat().st_size < 1 << 20
    assert time.monotonic() - began < 60


def test_a_run_that_is_too_large_as_a_whole_is_not_packed(
    stage: Any, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvest, "MAX_BYTES", 1000)
    for name in "ab":
        (there / "samples" / name).write_bytes(bytes(600))
    with pytest.raises(AnsibleActionFail, match="the run has 1203 bytes, at most 1000 are fetched"):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "here"))
    assert not Path(stage.made[0], "run.tar.gz").exists()


def test_packing_has_an_end(stage: Any, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest, "PACK_S", 0.2)
    slow = tmp_path / "bin" / "tar"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    with pytest.raises(AnsibleActionFail, match=r"could not be packed on the host: it took more than 0\.2 s"):
        stage.play(harvest, run="run-1", dest=str(tmp_path / "here"))


def test_the_archive_is_closed_until_it_is_whole(
    stage: Any, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever umask root has."""
    spy = tmp_path / "bin" / "tar"
    spy.parent.mkdir()
    seen = tmp_path / "mode"
    real = shutil.which("tar")
    spy.write_text(f'#!/bin/sh\n{real} "$@"\ncode=$?\nstat -c %a {stage.remote}/run.tar.gz >{seen}\nexit $code\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    before = os.umask(0)
    try:
        stage.play(harvest, run="run-1", dest=str(tmp_path / "here"))
    finally:
        os.umask(before)
    assert seen.read_text() == "600\n"
    assert Path(stage.made[0], "run.tar.gz").stat().st_mode & 0o777 == 0o644


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
