# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase 1 on the host: installed by one at a time, never under an open trial, and without a reload of systemd."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import install, journal, kept, program, run, services

UNITS = {
    "mt-restore.service": "the restorer\n",
    "mt-recover.service": "the recoverer\n",
    "mt-watch.service": "the look\n",
    "mt-watch.timer": "when to look\n",
}


class Host:
    """Where things are installed, with a systemd that holds the units it is told to hold."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.state = journal.State(folder / "state")
        self.program = folder / "sbin" / "model-trial"
        self.units = folder / "system"
        self.drop_in = folder / "run" / "mt-run.service.d"
        self.commands: list[str] = []
        # Units that systemd has in memory, and how often it is asked until it has forgotten each.
        self.loaded: dict[str, int] = {}
        self.own = folder
        for path in (self.program.parent, self.units):
            path.mkdir()
        monkeypatch.setattr(install, "PROGRAM", self.program)
        monkeypatch.setattr(install, "UNIT_DIR", self.units)
        monkeypatch.setattr(install, "EARLIER", (self.units / services.RUNNER, self.drop_in))
        monkeypatch.setattr(install.time, "sleep", lambda _s: None)
        monkeypatch.setattr(install, "FORGET_S", 0.05)
        monkeypatch.setattr(kept, "own", lambda: self.own)
        monkeypatch.setattr(run, "command", self._run)

    def _run(self, argv: Sequence[str], _limit_s: float, **_options: Any) -> run.Ran:
        self.commands.append(" ".join(argv))
        if argv[:2] == ["systemctl", "list-units"]:
            left = self.loaded.get(argv[-1], 0)
            self.loaded[argv[-1]] = left - 1
            return run.Ran(0, f"{argv[-1]} loaded inactive dead\n" if left > 0 else "", "")
        if argv[:2] == ["systemctl", "enable"]:
            link = self.units / "multi-user.target.wants" / argv[-1]
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(self.units / argv[-1])
        if argv[0] == "false":
            return run.Ran(7, "said\n", "complained\n")
        return run.Ran(0, "done\n", "")

    def bring(self, version: str = "1", files: dict[str, str] | None = None) -> bytes:
        """What the controller lays there; the program that will be run is that one."""
        source = self.folder / "built"
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr(zipfile.ZipInfo("__main__.py"), f"version = {version!r}")
        raw = source.read_bytes()
        folder = self.state.root / "incoming" / hashlib.sha256(raw).hexdigest()
        folder.mkdir(parents=True)
        for name, text in (UNITS if files is None else files).items():
            (folder / name).write_text(text)
        self.own = folder / "model-trial"
        self.own.write_bytes(raw)
        return raw

    def verb(self, *words: str) -> int:
        return program.main(["--root", str(self.state.root), *words])

    def hold(self) -> None:
        """A trial holds the host."""
        self.state.root.mkdir(exist_ok=True)
        self.state.open(journal.Mark("first", self.state.raise_epoch(), "boot", "noon", "ann"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_program_and_units_are_installed_for_root_alone_to_write(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = host.bring()
    assert host.verb("install", "--by=ann") == 0
    changed = json.loads(capsys.readouterr().out)["changed"]
    assert changed == [*sorted(UNITS), str(host.program), "mt-recover.service enabled"]
    assert host.program.read_bytes() == raw
    assert host.program.stat().st_mode & 0o777 == 0o755
    for name, text in UNITS.items():
        assert (host.units / name).read_text() == text
        assert (host.units / name).stat().st_mode & 0o777 == 0o644
    # What was brought is gone.
    assert sorted(path.name for path in host.state.root.iterdir()) == ["lock"]


def test_systemd_never_reads_its_units_anew(host: Host) -> None:
    host.bring()
    host.verb("install")
    host.bring("2", {name: text + "changed\n" for name, text in UNITS.items()})
    host.verb("install")
    enabling = [words for words in host.commands if words.split()[1] == "enable"]
    assert enabling == ["systemctl enable --no-reload --root=/ mt-recover.service"]
    assert {words.split()[1] for words in host.commands} <= {"enable", "reset-failed", "list-units", "stop"}
    # The watch alone is stopped, which would keep its own units in systemd's memory.
    assert {words for words in host.commands if words.split()[1] == "stop"} == {
        "systemctl stop mt-watch.timer mt-watch.service"
    }


def test_what_is_there_already_is_left_alone(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.bring()
    host.verb("install")
    before = {path: path.stat().st_ino for path in [host.program, *host.units.glob("*.service")]}
    host.bring()
    capsys.readouterr()
    assert host.verb("install") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": []}
    assert {path: path.stat().st_ino for path in before} == before


@pytest.mark.parametrize(
    ("asked", "replaced"),
    [(0, True), (3, True), (10**9, False)],
    ids=["forgotten", "forgotten a moment later", "still in use"],
)
def test_a_changed_unit_is_replaced_when_systemd_has_forgotten_it(
    host: Host, capsys: pytest.CaptureFixture[str], asked: int, replaced: bool
) -> None:
    """systemd would go on with what it has read."""
    host.bring()
    host.verb("install")
    host.loaded["mt-restore.service"] = asked
    host.bring("2", {**UNITS, "mt-restore.service": "the new one\n"})
    program_before = host.program.read_bytes()
    assert host.verb("install") == (0 if replaced else 1)
    assert ((host.units / "mt-restore.service").read_text() == "the new one\n") is replaced
    if not replaced:
        # Neither the one nor the other: a program goes with its units.
        assert host.program.read_bytes() == program_before
        words = capsys.readouterr().err
        assert "mt-restore.service: expected systemd to have unloaded it" in words
        assert "systemctl status mt-restore.service" in words


def test_an_unchanged_unit_may_be_in_use(host: Host) -> None:
    host.bring()
    host.verb("install")
    host.loaded["mt-restore.service"] = 10_000
    host.bring("2")
    assert host.verb("install") == 0


def test_what_earlier_versions_had_and_would_be_in_the_way_goes(host: Host) -> None:
    (host.units / "mt-run.service").write_text("a unit with a file\n")
    host.drop_in.mkdir(parents=True)
    (host.drop_in / "cap.conf").write_text("[Service]\nRuntimeMaxSec=1\n")
    host.bring()
    assert host.verb("install") == 0
    assert not (host.units / "mt-run.service").exists()
    assert not host.drop_in.exists()


def test_under_an_open_trial_nothing_is_replaced_and_it_says_who_and_how_to_go_on(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.bring()
    host.verb("install")
    host.hold()
    before = host.program.read_bytes()
    host.bring("2", {**UNITS, "mt-restore.service": "the new one\n"})
    capsys.readouterr()
    assert host.verb("install", "--by=bob") == 3
    words = capsys.readouterr().err
    assert "held by run first since noon (from ann)" in words
    assert "sudo model-trial status" in words
    assert "restore.yml" in words
    assert host.program.read_bytes() == before
    assert (host.units / "mt-restore.service").read_text() == UNITS["mt-restore.service"]
    assert not (host.state.root / "incoming").exists()


@pytest.mark.parametrize("trouble", ["missing", "damaged"])
def test_a_program_that_an_open_trial_has_lost_is_put_back_and_nothing_else(
    host: Host, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    """People and plays ask it; the restore itself goes by the copy of the run."""
    if trouble == "damaged":
        host.program.write_text("torn")
    host.hold()
    raw = host.bring()
    assert host.verb("install") == 3
    assert host.program.read_bytes() == raw
    assert list(host.units.iterdir()) == []
    words = capsys.readouterr().err
    assert "has been put back" in words
    assert "held by run first" in words


@pytest.mark.parametrize("verb", [["install", "--by=bob"], ["hold", "--by=bob", "--", "true"]])
def test_who_comes_while_another_prepares_is_told_who(
    host: Host, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    host.bring()
    with host.state.lock("phase 1 of run first (from ann)"):
        assert host.verb(*verb) == 3
    words = capsys.readouterr().err
    assert "being prepared on this host right now: phase 1 of run first (from ann) since 20" in words
    assert "try again when that has ended" in words
    assert not host.program.exists()
    assert host.commands == []


def test_an_opening_is_refused_while_phase_1_works(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def meanwhile(_argv: Sequence[str], _limit_s: float, **_options: Any) -> run.Ran:
        with pytest.raises(journal.Held, match="phase 1 of bob"), host.state.lock("run other"):
            seen.append("let in")
        return run.Ran(0, "", "")

    monkeypatch.setattr(run, "command", meanwhile)
    assert host.verb("hold", "--by=phase 1 of bob", "--", "docker", "run") == 0
    assert seen == []


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 7)])
def test_a_command_is_run_with_its_words_and_its_end(
    host: Host, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    assert host.verb("hold", "--by=ann", "--", command, "--option", "x y") == code
    assert host.commands == [f"{command} --option x y"]
    said = capsys.readouterr()
    assert said.out == ("done\n" if code == 0 else "said\n")
    assert said.err == ("" if code == 0 else "complained\n")


def test_a_command_is_not_run_under_an_open_trial(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.hold()
    assert host.verb("hold", "--", "docker", "run") == 3
    assert host.commands == []
    assert "restore.yml" in capsys.readouterr().err


def test_without_a_command_it_is_wrong_usage(host: Host) -> None:
    assert host.verb("hold", "--by=ann") == 2


@pytest.mark.parametrize("trouble", ["elsewhere", "another hash"])
def test_only_what_was_brought_is_installed_and_removed(
    host: Host, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    host.bring()
    if trouble == "elsewhere":
        host.own = host.program
        host.program.write_text("installed")
    else:
        host.own.write_bytes(host.own.read_bytes() + b"x")
    assert host.verb("install") == 1
    assert "named after its hash" in capsys.readouterr().err
    assert host.own.exists()
    assert list(host.units.iterdir()) == []
