# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a passed rehearsal: what it is of, what makes it stale, who may read it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile, rehearsal, run
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import State
from ansible_collections.edgelab.model_trial.plugins.module_utils.run import Ran

UNIT = "[Service]\nExecStartPre=-{folder}/warm.sh\nExecStart={folder}/serve.sh \\\n  --port 11435 {folder}/model.gguf\n"
BOX = '{"image": "sha256:aa", "config": {}, "host": {}}'


def hashed(file: str) -> str:
    """What the shell says of a file, without a shell: each test would start dozens of programs."""
    path = Path(file)
    if not path.is_file() or not (path.stat().st_mode & 0o111 or path.suffix in (".sh", ".py")):
        return "-"
    size = path.stat().st_size
    return hashlib.sha256(f"{size}\n".encode() + path.read_bytes()[: 4 << 20]).hexdigest()


class Host:
    """A host whose shell, systemd and docker are made up."""

    proc = Path("/proc")

    def __init__(self, folder: Path) -> None:
        self.folder, self.unit, self.box = folder, UNIT.format(folder=folder), BOX
        self.dead: set[str] = set()
        self.asked: list[str] = []

    def run(self, argv: Sequence[str]) -> Ran:
        return self.root(*argv)

    def root(self, *argv: str) -> Ran:
        self.asked.append(argv[0])
        if argv[0] in self.dead:
            return Ran(126, "", f"{argv[0]} did not end within 2.5 s")
        if argv[:2] == ("systemctl", "cat"):
            return Ran(0, self.unit, "")
        if argv[:2] == ("docker", "inspect"):
            return Ran(0, self.box, "")
        if argv[0] == "sha256sum":
            sha = rehearsal.of_program(Path(argv[-1]))
            return Ran(0, f"{sha}  {argv[-1]}\n", "") if sha else Ran(1, "", "No such file")
        if argv[2] == rehearsal._HASH:
            return Ran(0, "".join(f"{hashed(file)}\n" for file in argv[4:]), "")
        path = Path(argv[4])
        return Ran(0, path.read_text() if path.exists() else "", "")


class There:
    """A host with a unit, a script, and a container that stop, and the state folder of the trial."""

    def __init__(self, data: dict[str, Any], folder: Path) -> None:
        self.data, self.folder = data, folder
        self.host, self.state = Host(folder), State(folder / "state")
        self.state.root.mkdir()
        for name in ("serve.sh", "warm.sh", "start.sh", "stop.sh", "helper.py", "model.gguf", "notes.txt"):
            (folder / name).write_text(f"{name}\n")
        for name in ("serve.sh", "warm.sh", "start.sh", "stop.sh"):
            (folder / name).chmod(0o755)
        self.tenant("chatterbox").update(
            directory=str(folder), start="./start.sh helper.py notes.txt", stop="./stop.sh"
        )
        data["tenants"].append({"name": "box", "kind": "container", "container": "box", "process": "boxed"})
        data["stop_order"].append("box")
        data["restore_order"].append("box")
        self.program = "ab" * 32

    def tenant(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(t for t in self.data["tenants"] if t["name"] == name)
        return found

    @property
    def plan(self) -> Any:
        return planfile.parse(self.data)

    def keep(self) -> None:
        rehearsal.keep(self.plan, self.state, self.host, self.program)

    def judge(self) -> tuple[bool, str]:
        return rehearsal.judge(self.plan, self.host, self.state.root, self.program)


@pytest.fixture
def there(plan_data: dict[str, Any], tmp_path: Path) -> There:
    return There(plan_data, tmp_path)


def test_the_shell_knows_a_program_by_its_bytes(there: There) -> None:
    """The real one, and its answers are those of the made-up one."""
    folder = there.folder
    (folder / "long.sh").write_bytes(bytes(5 << 20))
    (folder / "-n.sh").write_text("odd")
    names = ["serve.sh", "helper.py", "notes.txt", "model.gguf", "long.sh", "-n.sh", "absent.sh", "state"]
    files = [str(folder / name) for name in names]
    told = run.command(["sh", "-c", rehearsal._HASH, "sh", *files], 300.0).out.splitlines()
    assert told == [hashed(file) for file in files]
    assert [one == "-" for one in told] == [False, False, True, True, False, False, True, True]


def test_what_was_rehearsed_is_known(there: There) -> None:
    there.keep()
    ok, found = there.judge()
    assert ok, found
    assert found.startswith("rehearsed at 20")
    assert found.endswith(f"(run {there.data['run']})")


def test_a_host_that_was_never_rehearsed(there: There) -> None:
    assert there.judge() == (False, "no rehearsal of this host has passed")


def write(name: str) -> Callable[[There], None]:
    return lambda there: (there.folder / name).write_text("other\n") and None


def figure(name: str, field: str, value: Any) -> Callable[[There], None]:
    return lambda there: there.tenant(name).update({field: value})


def unit(there: There) -> None:
    there.host.unit += "# a drop-in\n[Service]\nTimeoutStopSec=9\n"


def box(there: There) -> None:
    there.host.box = BOX.replace("aa", "bb")


def order(there: There) -> None:
    there.data["restore_order"].reverse()


def one_more(there: There) -> None:
    there.data["stop_order"].append("phone")
    there.data["restore_order"].append("phone")
    there.tenant("phone").update(start="./phone.sh", user="panda", directory="/nowhere")


def program(there: There) -> None:
    there.program = "cd" * 32


def gone(there: There) -> None:
    (there.folder / "start.sh").unlink()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (unit, ["unit panda-llamacpp"]),
        (write("serve.sh"), ["script {folder}/serve.sh"]),
        (write("warm.sh"), ["script {folder}/warm.sh"]),
        (write("start.sh"), ["script {folder}/start.sh"]),
        (write("stop.sh"), ["script {folder}/stop.sh"]),
        (write("helper.py"), ["script {folder}/helper.py"]),
        (gone, ["script {folder}/start.sh"]),
        (box, ["container box"]),
        (order, ["the order"]),
        (one_more, ["tenant phone", "the order"]),
        (program, ["the program"]),
        (figure("chatterbox", "port", 9999), ["tenant chatterbox"]),
        (figure("chatterbox", "user", "root"), ["tenant chatterbox"]),
        (figure("llamacpp", "start_timeout_s", 7), ["tenant llamacpp"]),
    ],
)
def test_what_changed_since_is_named(there: There, change: Callable[[There], None], names: list[str]) -> None:
    there.keep()
    change(there)
    ok, found = there.judge()
    assert not ok
    wanted = ", ".join(name.format(folder=there.folder) for name in names)
    assert found.endswith(f"changed since: {wanted}"), found
    # Rehearsed again, it is known again.
    there.keep()
    assert there.judge()[0]


@pytest.mark.parametrize(
    "change",
    [
        write("notes.txt"),
        write("model.gguf"),
        figure("llamacpp", "expected_start_s", 99),
        figure("llamacpp", "title", "another"),
        figure("llamacpp", "impact", "deaf"),
        figure("llamacpp", "boot", "by hand"),
        figure("llamacpp", "stop_limit_s", 180),
    ],
)
def test_what_is_no_part_of_it_may_change(there: There, change: Callable[[There], None]) -> None:
    """Data of the tenants, what people read, and what the rehearsal itself told the operator to correct."""
    there.keep()
    change(there)
    assert there.judge()[0], there.judge()


def test_a_long_program_is_known_by_its_beginning_and_size(there: There) -> None:
    path = there.folder / "serve.sh"
    path.write_bytes(bytes(5 << 20))
    there.keep()
    assert there.judge()[0]
    with path.open("ab") as file:
        file.write(b"x")
    assert not there.judge()[0]


def test_another_candidates_rehearsal_is_kept_beside_it(there: There) -> None:
    there.keep()
    there.data["run"] = "second"
    one_more(there)
    there.keep()
    assert there.judge()[0]
    there.data["stop_order"].remove("phone")
    there.data["restore_order"].remove("phone")
    there.tenant("phone").update(start="", user="", directory="")
    ok, found = there.judge()
    assert ok
    assert "(run second)" not in found


def test_records_have_an_end_and_the_same_one_is_replaced(there: There) -> None:
    for number in range(12):
        there.program = f"{number:064x}"
        there.data["run"] = f"run-{number}"
        there.keep()
        there.keep()
    kept = json.loads((there.state.root / "rehearsed.json").read_text())["rehearsals"]
    assert [one["run"] for one in kept] == [f"run-{number}" for number in range(11, 3, -1)]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_record_is_roots_alone_and_never_torn(there: There, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(umask)
    try:
        there.keep()
    finally:
        os.umask(before)
    path = there.state.root / "rehearsed.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    there.program = "cd" * 32
    with pytest.raises(OSError, match="No space left"):
        there.keep()
    assert path.read_text() == text
    assert [one.name for one in there.state.root.iterdir()] == ["rehearsed.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 2, "rehearsals": []}', '{"format": 1}', '{"format": 1, "rehearsals": [1, {}]}'],
)
def test_a_record_that_is_none_is_no_evidence_and_no_obstacle(there: There, text: str) -> None:
    (there.state.root / "rehearsed.json").write_text(text)
    ok, found = there.judge()
    assert not ok
    assert found == "no rehearsal of this host has passed" + (" (its record cannot be used)" if text else "")
    there.keep()
    assert there.judge()[0]


@pytest.mark.parametrize("silent", ["systemctl", "docker"])
def test_what_can_not_be_told_is_not_taken_for_the_same(there: There, silent: str) -> None:
    there.keep()
    there.host.dead.add(silent)
    ok, found = there.judge()
    assert not ok
    assert "it is unknown whether this was rehearsed" in found
    assert "did not end within" in found
    with pytest.raises(rehearsal.Untold):
        there.keep()


def test_without_a_word_the_installed_program_counts(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    path = there.folder / "model-trial"
    path.write_bytes(b"program")
    monkeypatch.setattr(rehearsal, "PROGRAM", str(path))
    there.program = rehearsal.of_program(path)
    there.keep()
    there.program = ""
    assert there.judge()[0]
    path.unlink()
    assert there.judge()[1].endswith("changed since: the program")
    assert rehearsal.of_program(path) == ""


GOOD = [
    {"event": "phase_done", "phase": "window"},
    {"event": "restored"},
    {"event": "closed"},
]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        (GOOD, ""),
        (GOOD[1:], "it did not run to its end"),
        (GOOD[:1], "it did not run to its end"),
        ([{"event": "phase_failed", "reason": "aborted by ann"}, *GOOD], "phase failed: aborted by ann"),
        ([*GOOD[:1], {"event": "restore_failed", "reason": "no voice"}, *GOOD[1:]],
         "restore 1 was not complete: no voice"),
        ([*GOOD[:1], {"event": "tenant_failed", "reason": "no voice"}, *GOOD[1:]], "tenant failed: no voice"),
        ([*GOOD[:1], {"event": "tenant_retry", "tenant": "api", "attempt": 1, "reason": "no db\nlog"}, *GOOD[1:]],
         "api: start 1 failed and was tried again: no db"),
        ([*GOOD[:1], *[{"event": "restore_started"}] * 2, *GOOD[1:]], "restore 1 was cut off and begun again"),
        # One that waited for processes was not cut off.
        ([*GOOD[:1], {"event": "restore_started"}, {"event": "restore_waits", "reason": "EAGAIN"},
          {"event": "restore_started"}, *GOOD[1:]], ""),
    ],
)  # fmt: skip
def test_only_what_went_well_at_once_has_passed(entries: list[dict[str, Any]], why: str) -> None:
    assert rehearsal.passed(entries) == why
