# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The look at the way to a host: real commands and files, and everything that a login may do to them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible_collections.edgelab.model_trial.plugins.action import channel

GREETING = "Welcome to panda!\x1b[2J\nHave fun.\n"


class Login:
    """A login whose shell does what its user has written into .bashrc."""

    def __init__(self, stage: Any) -> None:
        self.before = self.after = ""
        self.eats = 0
        self.sudo = 'shift\n"$@"'
        self.away = False
        self.bin = stage.remote.with_name("bin")
        stage._execute = self

    def __call__(self, command: str, sudoable: bool = False, in_data: bytes | None = None) -> dict[str, Any]:
        if self.away:
            raise AnsibleConnectionFailure("no route")
        self.bin.mkdir(exist_ok=True)
        (self.bin / "sudo").write_text(f"#!/bin/sh\n{self.sudo}\n")
        (self.bin / "sudo").chmod(0o755)
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            input=(in_data or b"")[self.eats :],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": f"{self.bin}:/usr/bin:/bin"},
            check=False,
        )
        text = self.before + done.stdout.decode() + self.after
        return {"rc": done.returncode, "stdout": text, "stderr": "a warning of sshd's"}


@pytest.fixture
def login(stage: Any) -> Login:
    return Login(stage)


def broken(stage: Any) -> tuple[list[str], str]:
    """What is wrong by name, and in words."""
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(channel)
    return caught.value.result["broken"], str(caught.value)


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_clean_way_leaves_nothing(stage: Any, login: Login, check_mode: bool) -> None:
    result = stage.play(channel, check_mode=check_mode)
    assert (result["changed"], result["broken"]) == (False, [])
    assert stage.made == stage.removed == [str(stage.remote)]


def test_what_sudo_says_is_contract_1_s(stage: Any, login: Login) -> None:
    login.sudo = "echo sudo: a password is required >&2; exit 1"
    assert stage.play(channel)["broken"] == []


@pytest.mark.parametrize(("before", "after"), [(GREETING, ""), ("", GREETING), ("\n12345\n", ""), ("", "x")])
def test_a_login_that_prints_is_found(stage: Any, login: Login, before: str, after: str) -> None:
    login.before, login.after = before, after
    names, words = broken(stage)
    assert {"what a command says", "what a command reads"} & {*names}
    assert "what a command reads" in names
    if GREETING in (before, after):
        assert "found: Welcome to panda!\ufffd[2J\ufffdHave fun." in words
    for text in ("expected: ", "why it matters: ", "what to do: let the shell's files", "only in a terminal"):
        assert text in words


def test_a_greeting_of_roots_is_found(stage: Any, login: Login) -> None:
    login.sudo = 'echo "We trust you have received the usual lecture"\nshift\n"$@"'
    names, words = broken(stage)
    assert names == ["what a command says"]
    assert "usual lecture" in words


def test_a_login_that_reads_what_is_not_its_own_is_found(stage: Any, login: Login) -> None:
    login.eats = 3
    assert broken(stage)[0] == ["what a command reads"]


def test_a_login_that_says_nothing_at_all_is_found(stage: Any, login: Login) -> None:
    stage._execute = lambda *_args, **_options: {"rc": 0, "stdout": "", "stderr": ""}
    names, words = broken(stage)
    assert names == ["what a command says", "what a command reads"]
    assert "found: no output of the command" in words


def spoiled(change: Any) -> Any:
    def copy(source: str, target: str) -> None:
        Path(target).write_bytes(change(Path(source).read_bytes()))

    return copy


def refused(error: Exception) -> Any:
    def copy(_source: str, _target: str) -> None:
        raise error

    return copy


CHANGES = [
    spoiled(lambda raw: GREETING.encode() + raw),
    spoiled(lambda raw: raw + b"\n"),
    spoiled(lambda raw: raw.replace(b"\n", b"\r\n")),
    spoiled(lambda raw: raw.replace(b"\0", b"")),
    spoiled(lambda raw: bytes(byte & 0x7F for byte in raw)),
    spoiled(lambda raw: raw[:100]),
    spoiled(lambda _raw: b""),
    refused(AnsibleError("Received message too long 1466263657\nEnsure the remote shell produces no output")),
    refused(AnsibleConnectionFailure("no route")),
]


@pytest.mark.parametrize("way", ["put", "fetch"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_comes_back_as_another_is_found(stage: Any, login: Login, way: str, change: Any) -> None:
    setattr(stage, way, change)
    names, words = broken(stage)
    assert names == ["files"]
    assert "\x1b" not in words
    # Whatever it was, nothing is left on the host.
    assert stage.made == stage.removed == [str(stage.remote)]


def test_everything_is_told_at_once(stage: Any, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    login.before = GREETING
    stage.fetch = CHANGES[0]
    monkeypatch.setattr(channel.time, "time", lambda: 1.0)
    names, words = broken(stage)
    assert names == ["what a command says", "what a command reads", "the clocks", "files"]
    assert len(words.split("\n\n")) == 4


@pytest.mark.parametrize(
    ("apart_s", "words"),
    [(-86400, "s ahead"), (7200, "s behind"), (-7200, "s ahead"), (3000, ""), (-3000, "")],
)
def test_clocks_that_differ_are_named(
    stage: Any, login: Login, monkeypatch: pytest.MonkeyPatch, apart_s: int, words: str
) -> None:
    now = time.time()
    monkeypatch.setattr(channel.time, "time", lambda: now + apart_s)
    if not words:
        assert stage.play(channel)["broken"] == []
        return
    names, said = broken(stage)
    assert names == ["the clocks"]
    assert words in said
    assert "timedatectl" in said


@pytest.mark.parametrize(("year", "ok"), [(1970, False), (2025, False), (2026, True)])
def test_a_controller_without_a_clock_is_told(
    stage: Any, login: Login, monkeypatch: pytest.MonkeyPatch, year: int, ok: bool
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, _tz: Any = None) -> Any:
            return datetime(year, 6, 1, tzinfo=UTC)

    monkeypatch.setattr(channel, "datetime", Clock)
    action = stage.action(channel)
    assert [one.name for one in action.clock()] == ([] if ok else ["the controller's clock"])


@pytest.fixture
def zero() -> Iterator[Any]:
    """A file that takes everything and keeps nothing."""
    with Path("/dev/zero").open("r+b", buffering=0) as file:
        yield file


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("trouble", ["none", "read-only", "full", "small", "forgetful"])
def test_a_temporary_folder_that_can_not_be_used_is_told(
    stage: Any, login: Login, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, trouble: str
) -> None:
    def fails(*_args: Any) -> Any:
        raise OSError(28 if trouble == "full" else 30, "No space left" if trouble == "full" else "Read-only")

    if trouble == "none":

        def nowhere() -> str:
            raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

        monkeypatch.setattr(channel.tempfile, "gettempdir", nowhere)
    elif trouble == "small":
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 30, 1 << 30, 1 << 20))
    elif trouble == "forgetful":
        zero = request.getfixturevalue("zero")
        monkeypatch.setattr(channel.tempfile, "TemporaryFile", lambda: zero)
        monkeypatch.setattr(channel.os, "fsync", lambda _fd: None)
        monkeypatch.setattr(channel, "BYTES", b"x" * 10)
    else:
        monkeypatch.setattr(channel.tempfile, "TemporaryFile", fails)
    names, words = broken(stage)
    assert names == ["the controller's temporary folder"]
    assert "export TMPDIR" in words
    assert stage.made == []


def test_a_host_that_goes_away_meanwhile_is_told(stage: Any, login: Login) -> None:
    login.away = True
    stage.put = refused(AnsibleConnectionFailure("no route"))
    names, words = broken(stage)
    assert names == ["commands", "files"]
    assert words.count("no route") == 2
