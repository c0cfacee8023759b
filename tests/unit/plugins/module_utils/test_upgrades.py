# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package manager at work is seen, and one that comes later is kept out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import upgrades

# Locks a file as dpkg does, says so, and waits for the end of its standard input.
LOCK = (
    "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
    "print('locked', flush=True); sys.stdin.read()"
)


def locks(folder: Path, path: Path, pid: int, arrow: str = "") -> Path:
    """A made-up /proc in which a process has locked a file."""
    found = path.stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    folder.mkdir(exist_ok=True)
    (folder / "locks").write_text(f"1: {arrow}POSIX  ADVISORY  WRITE {pid} {place} 0 EOF\n2: FLOCK\n")
    return folder


def storage(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("name", ["dpkg/lock-frontend", "dpkg/lock", "rpm/.rpm.lock"])
@pytest.mark.parametrize(
    ("pid", "arrow", "seen"), [(77, "", True), (77, "-> ", False), (0, "", False)],
    ids=["held", "waited for", "our own"],
)  # fmt: skip
def test_whose_lock_is_held_is_at_work(tmp_path: Path, name: str, pid: int, arrow: str, seen: bool) -> None:
    place = storage(tmp_path, name)
    # Asked here: a runner of tests may give each one a process.
    found = upgrades.at_work(place, locks(tmp_path / "proc", place / name, pid or os.getpid(), arrow))
    assert found == (f"a package manager is at work (PID 77 holds {place / name})" if seen else "")


def test_a_lock_of_another_file_is_nobodys(tmp_path: Path) -> None:
    place = storage(tmp_path, "dpkg/lock")
    (tmp_path / "other").touch()
    assert upgrades.at_work(place, locks(tmp_path / "proc", tmp_path / "other", 77)) == ""
    assert upgrades.at_work(tmp_path / "nowhere", tmp_path / "no proc") == ""


def test_who_holds_it_refuses_us_and_whom_we_keep_out_comes_later(tmp_path: Path) -> None:
    place = storage(tmp_path, "dpkg/lock-frontend")
    words = [sys.executable, "-c", LOCK, str(place / "dpkg/lock-frontend")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as apt:
        assert apt.stdout
        assert apt.stdin
        assert apt.stdout.readline() == "locked\n"
        with pytest.raises(upgrades.Busy, match="a package manager is at work: it holds"):
            upgrades.Hold(place)
        apt.stdin.close()
    held = upgrades.Hold(place)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as apt:
        assert apt.stdin
        held.let_go()
        held.let_go()
        assert apt.stdout
        assert apt.stdout.readline() == "locked\n"
        apt.stdin.close()


def test_where_there_is_no_such_lock_nothing_is_held(tmp_path: Path) -> None:
    upgrades.Hold(tmp_path).let_go()
