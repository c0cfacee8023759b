# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a process is, out of a made-up /proc; how a command is made to run as that, with real programs; what differs."""

from __future__ import annotations

import dataclasses
import getpass
import os
import pwd
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import identity, probes, run, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils.identity import Before, Identity, Known

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes
Max file locks            unlimited            unlimited            locks
Max nice priority         0                    0
"""
VOICE = Identity(
    uid=1000,
    gid=1000,
    groups=[27, 998],
    slice="system.slice",
    nice=0,
    oom_score_adj=0,
    limits={"nofile": "1024:524288", "cpu": "unlimited:unlimited"},
    cgroup={"MemoryMax": "infinity", "TasksMax": "4915", "CPUWeight": "100"},
    environment=["HOME", "PATH"],
)


class Proc:
    """A /proc with processes that a test makes up, and the control groups that they live in."""

    def __init__(self, folder: Path) -> None:
        self.path, self.cgroups = folder / "proc", folder / "cgroup"
        (self.path / "self" / "ns").mkdir(parents=True)
        (self.path / "self" / "ns" / "pid").symlink_to("pid:[1]")

    def add(
        self,
        pid: int,
        *,
        parent: int = 1,
        words: tuple[str, ...] = ("python3", "server.py"),
        cwd: str = "/srv/voice",
        exe: str = "/usr/bin/python3",
        groups: str = "27 998 1000",
        cgroup: str = "0::/system.slice/voice.service\n",
        environ: bytes = b"PATH=/bin\0HOME=/home/robot\0",
        nice: int = 0,
        score: int = 0,
        space: str = "pid:[1]",
    ) -> None:
        """A process; the numbers of its stat are those that are read."""
        folder = self.path / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "fd").mkdir()
        (folder / "ns" / "pid").symlink_to(space)
        (folder / "exe").symlink_to(exe)
        (folder / "cwd").symlink_to(cwd)
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
        fields = ["S", str(parent), *["0"] * 14, str(nice), "1", "0", str(pid * 10)]
        (folder / "stat").write_text(f"{pid} (a (strange) name) {' '.join(fields)}\n")
        status = f"Name:\tx\nUid:\t0\t1000\t1000\t1000\nGid:\t0\t1000\t1000\t1000\nGroups:\t{groups} \n"
        (folder / "status").write_text(status)
        (folder / "limits").write_text(LIMITS)
        (folder / "cgroup").write_text(cgroup)
        (folder / "oom_score_adj").write_text(f"{score}\n")
        (folder / "environ").write_bytes(environ)

    def limit(self, group: str, **files: str) -> None:
        """Files of a control group; two underscores stand for a dot."""
        folder = self.cgroups / group
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text + "\n")

    def read(self, pid: int = 7) -> Identity | None:
        """The identity of one of them."""
        return identity.read(pid, self.path, self.cgroups)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """An empty /proc."""
    return Proc(tmp_path)


# Reading.


def test_an_identity_is_what_the_kernel_says(proc: Proc) -> None:
    proc.add(7, nice=5, score=-200)
    assert proc.read() == Identity(
        uid=1000,
        gid=1000,
        groups=[27, 998],
        slice="system.slice",
        nice=5,
        oom_score_adj=-200,
        limits={
            "cpu": "unlimited:unlimited", "nofile": "1024:524288", "memlock": "8388608:8388608", "nice": "0:0",
        },
        cgroup={},
        environment=["HOME", "PATH"],
    )  # fmt: skip


def test_a_snapshot_holds_names_and_no_values(proc: Proc) -> None:
    proc.add(7, environ=b"PATH=/bin\0HF_TOKEN=hf_secret\0")
    found = proc.read()
    assert found
    assert found.environment == ["HF_TOKEN", "PATH"]
    assert "hf_secret" not in repr(found.facts())
    assert identity.recall(found.facts()) == found


def test_who_is_gone_or_torn_is_nobody(proc: Proc) -> None:
    assert proc.read() is None
    proc.add(7)
    (proc.path / "7" / "status").write_text("Name:\tx\n")
    assert proc.read() is None


def test_who_lives_in_a_container_is_its_engines_to_make(proc: Proc) -> None:
    proc.add(7, space="pid:[2]", environ=b"PATH=/opt/venv/bin\0")
    assert proc.read() is None


@pytest.mark.parametrize(
    ("cgroup", "slice_"),
    [
        ("0::/system.slice/voice-boot.service\n", "system.slice"),
        ("0::/user.slice/user-1000.slice/session-5.scope\n", "user-1000.slice"),
        # A user's own manager slices further; to the system's it is one unit.
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/voice.service\n", "user-1000.slice"),
        ("0::/init.scope\n", ""),
        ("0::/\n", ""),
        # The controllers have hierarchies of their own.
        ("5:memory:/\n1:name=systemd:/robots.slice/robots-voice.slice/voice.service\n0::/\n", "robots-voice.slice"),
    ],
)
def test_its_slice_is_the_systems_innermost(proc: Proc, cgroup: str, slice_: str) -> None:
    proc.add(7, cgroup=cgroup)
    found = proc.read()
    assert found
    assert found.slice == slice_


def test_limits_of_its_control_group_go_by_systemds_names(proc: Proc) -> None:
    proc.add(7)
    proc.limit("system.slice", memory__max="1")
    group = "system.slice/voice.service"
    proc.limit(group, memory__max="4294967296", memory__high="max", pids__max="4915", cpu__max="150000 100000")
    (proc.cgroups / group / "cpu.weight").write_text("50\n")
    (proc.cgroups / group / "io.weight").write_text("default 100\n")
    found = proc.read()
    assert found
    # A slice has its limits, whichever processes live in it.
    assert found.cgroup == {
        "MemoryMax": "4294967296",
        "MemoryHigh": "infinity",
        "TasksMax": "4915",
        "CPUQuota": "150%",
        "CPUWeight": "50",
        "IOWeight": "100",
    }


def test_of_limits_within_one_another_the_tightest_counts(proc: Proc) -> None:
    proc.add(7, cgroup="0::/user.slice/user@1.service/app.slice/voice.service\n")
    around = "user.slice/user@1.service"
    proc.limit(around, memory__max="max", pids__max="50", cpu__max="50000 100000")
    proc.limit(f"{around}/app.slice", memory__max="4096")
    proc.limit(f"{around}/app.slice/voice.service", memory__max="8192", pids__max="max", cpu__max="max 100000")
    found = proc.read()
    assert found
    assert found.cgroup == {"MemoryMax": "4096", "TasksMax": "50", "CPUQuota": "50%"}


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b"PATH=/bin\0VOICE=robot\0", {"PATH": "/bin", "VOICE": "robot"}),
        # Of a session, of one invocation, of a shell: the next one has its own.
        (
            (
                b"PATH=/bin\0SSH_CONNECTION=x\0SSH_AUTH_SOCK=x\0XDG_SESSION_ID=3\0INVOCATION_ID=x\0JOURNAL_STREAM=9:9\0"
                b"SUDO_USER=ann\0PWD=/\0OLDPWD=/\0SHLVL=1\0_=/bin/x\0XDG_RUNTIME_DIR=/run/user/1000\0"
            ),
            {"PATH": "/bin", "XDG_RUNTIME_DIR": "/run/user/1000"},
        ),
        (b"PATH=/bin\0BASH_FUNC_x%%=() { :; }\0", {"PATH": "/bin"}),
        # A script that puts its folder in front of the path would make it longer in every trial.
        (b"PATH=/v/bin:/bin:/v/bin\0PYTHONPATH=a:b:a\0", {"PATH": "/v/bin:/bin", "PYTHONPATH": "a:b"}),
        # Written over with a title, from its beginning, or wholly.
        (b"voice: idle\0\0\0PATH=/bin\0", None),
        (b"\0\0\0\0", None),
        (b"", None),
        (b"HOME=/home/robot\0", None),
    ],
)
def test_an_environment_is_what_it_was_started_with(proc: Proc, raw: bytes, names: dict[str, str] | None) -> None:
    proc.add(7, environ=raw)
    assert identity.environment(7, proc.path) == names
    found = proc.read()
    assert found
    assert found.environment == (None if names is None else sorted(names))
    assert identity.environment(8, proc.path) is None


def test_who_looks_alike_has_program_folder_and_words(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "uid", lambda pid, _proc: 666 if pid == 12 else 1000)
    proc.add(7)
    proc.add(8)
    for pid, other in ((9, {"cwd": "/srv/nav"}), (10, {"exe": "/usr/bin/python4"}), (11, {"words": ("python3",)})):
        proc.add(pid, **other)  # type: ignore[arg-type]  # one of them at a time
    proc.add(12)
    look = identity.kin(7, proc.path)
    assert look == ("/usr/bin/python3", "/srv/voice", ("python3", "server.py"))
    assert [process.pid for process in identity.alike(look, 1000, proc.path)] == [7, 8]
    assert identity.kin(13, proc.path) is None


def test_where_a_process_prints_to(proc: Proc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.add(7)
    out, log = proc.path / "7" / "fd" / "1", tmp_path / "voice.log"
    log.write_text("up\n")
    out.symlink_to(log)
    monkeypatch.setattr(probes, "uid", lambda _pid, _proc: os.getuid())
    assert identity.output(7, proc.path) == str(log)
    # Another's file is not his to print to.
    monkeypatch.setattr(probes, "uid", lambda _pid, _proc: os.getuid() + 1)
    assert identity.output(7, proc.path) == ""
    monkeypatch.setattr(probes, "uid", lambda _pid, _proc: os.getuid())
    for elsewhere in ("/dev/null", "socket:[77]", "/gone (deleted)"):
        out.unlink()
        out.symlink_to(elsewhere)
        assert identity.output(7, proc.path) == ""


# Running as that.

ME = getpass.getuser()


def voice(user: str = ME, **before: Any) -> Known:
    """A script's tenant of which something is known."""
    return Known("voice", "script", user=user, start="./start.sh", before=Before(**before))


def test_a_command_runs_as_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own groups, no word of root's environment, and in a scope of its own."""
    monkeypatch.setattr(identity, "read", lambda _pid: VOICE)
    who = pwd.getpwnam(ME)
    assert identity.as_user(voice(), "s.scope") == [
        "systemd-run",
        "--scope",
        "--quiet",
        "--collect",
        "--unit=s.scope",
        "setpriv",
        f"--reuid={ME}",
        f"--regid={who.pw_gid}",
        "--init-groups",
        "env",
        "-i",
    ]


def test_what_is_known_is_asked_for_and_what_is_so_anyway_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    own = dataclasses.replace(VOICE, uid=0, oom_score_adj=-900)
    known = dataclasses.replace(
        VOICE,
        slice="user-1000.slice",
        nice=5,
        limits={"nofile": "65536:65536", "cpu": "unlimited:unlimited"},
        cgroup={"MemoryMax": "4096", "MemoryHigh": "infinity", "TasksMax": "infinity", "CPUWeight": "100"},
    )
    monkeypatch.setattr(identity, "read", lambda _pid: own)
    argv = identity.as_user(voice(identity=known), "s.scope")
    assert argv[5 : argv.index("setpriv")] == [
        "--slice=user-1000.slice",
        "--property=MemoryMax=4096",
        # systemd limits the tasks of a scope by default.
        "--property=TasksMax=infinity",
        "--nice=5",
        "prlimit",
        "--nofile=65536:65536",
        "choom",
        "-n",
        "0",
        "--",
    ]


def test_without_a_snapshot_priority_and_score_are_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those of the program that restores."""
    monkeypatch.setattr(identity, "read", lambda _pid: dataclasses.replace(VOICE, nice=-5, oom_score_adj=-900))
    argv = identity.as_user(voice(), "s.scope")
    assert argv[5 : argv.index("setpriv")] == ["--nice=0", "choom", "-n", "0", "--"]


def shell(tenant: Known, line: str, argv: list[str]) -> list[str]:
    """What a command says that is run so, with systemd's own part left out: real programs, as the tester."""
    script = f"{tenants.BEGIN}{line}\nexit $?"
    argv = [*argv, "env", "-i", "/bin/sh", "-c", script, "s.scope"]
    done = run.command(argv, 30, feed=identity.environment_script(tenant))
    assert (done.rc, done.err) == (0, "")
    return done.out.splitlines()


def test_a_command_has_the_environment_of_before_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "roots own")
    values = {"PATH": os.environ["PATH"], "VOICE": "it's $HOME\nand `more`", "ODD": "\udcff"}
    known = dataclasses.replace(VOICE, uid=os.getuid())
    tenant = voice(identity=known, environment=values)
    assert shell(tenant, 'printf "%s|" "$VOICE"; env | grep -c HF_TOKEN; readlink /proc/self/fd/0; true', []) == [
        "it's $HOME",
        "and `more`|0",
        "/dev/null",
    ]
    names = {line.partition("=")[0] for line in shell(tenant, "env | grep -a =", [])}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == set(values)
    # Values are on no command line, which everybody may read, and in no message.
    assert "more" not in " ".join(identity.as_user(tenant, "s.scope"))
    assert "more" not in repr(tenant)


@pytest.mark.parametrize(("before", "given"), [(0o077, "0077"), (0o022, "0022"), (0o002, "0002"), (0, "0002")])
def test_a_command_has_the_umask_of_before(before: int, given: str) -> None:
    """What it writes is no more open than it was; and a program that has lifted it opens nothing else to everybody."""
    known = dataclasses.replace(VOICE, uid=os.getuid(), umask=before)
    assert shell(voice(identity=known, environment={"PATH": os.environ["PATH"]}), "umask", []) == [given]


def test_a_umask_is_the_kernels_word(proc: Proc) -> None:
    proc.add(7)
    status = proc.path / "7" / "status"
    status.write_text(f"{status.read_text()}Umask:\t0027\n")
    found = proc.read()
    assert found
    assert found.umask == 0o027
    assert identity.recall(found.facts()) == found
    assert identity.differences(found, dataclasses.replace(found, umask=0o022)) == ["umask 0022, was 0027"]
    for now in (0o027, 0o077, None):
        assert identity.differences(found, dataclasses.replace(found, umask=now)) == []


def test_what_another_user_had_is_not_given_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may have become root for its service."""
    known = dataclasses.replace(VOICE, uid=os.getuid() + 1, umask=0o077)
    assert b"umask" not in identity.environment_script(voice(identity=known))
    assert b"VOICE" not in identity.environment_script(voice(identity=known, environment={"PATH": "/", "VOICE": "x"}))


def test_a_user_has_his_own_home_and_runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(identity, "RUNTIME", tmp_path)
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("SUDO_COMMAND", "x")
    who = pwd.getpwnam(ME)
    found = identity.login_environment(ME)
    wanted = {"HOME": who.pw_dir, "USER": ME, "LOGNAME": ME, "LANG": "de_DE.UTF-8"}
    assert wanted.items() <= found.items()
    assert found["SHELL"]
    assert not {"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SUDO_COMMAND"} & set(found)
    runtime = tmp_path / str(who.pw_uid)
    runtime.mkdir()
    assert identity.login_environment(ME)["XDG_RUNTIME_DIR"] == str(runtime)
    (runtime / "bus").touch()
    assert identity.login_environment(ME)["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path={runtime}/bus"
    assert set(identity.login_environment("no such user")) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LANGUAGE"}


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root becomes another user")
def test_a_command_of_nobody_reads_nothing_of_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The groups of the caller are root's; a file of that group stays closed."""
    secret = tmp_path / "sudoers"
    secret.write_text("for root only\n")
    secret.chmod(0o440)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    tenant = voice("nobody")
    argv = identity.as_user(tenant, "s.scope")
    argv = argv[argv.index("setpriv") : argv.index("env")]
    who = pwd.getpwnam("nobody")
    line = f"id -u; id -g; id -G; cat {secret} 2>/dev/null || echo closed"
    own = " ".join(map(str, os.getgrouplist("nobody", who.pw_gid)))
    assert shell(tenant, line, argv) == [str(who.pw_uid), str(who.pw_gid), own, "closed"]


# Comparing.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"uid": 0}, ["user 0, was 1000"]),
        ({"gid": 0}, ["groups [0, 27, 998], were [1000, 27, 998]"]),
        ({"groups": [0]}, ["groups [1000, 0], were [1000, 27, 998]"]),
        ({"groups": []}, ["groups [1000], were [1000, 27, 998]"]),
        # He was given another group after the tenant had been started before the trial.
        ({"groups": [27, 44, 998]}, []),
        ({"nice": 10}, ["nice 10, was 0"]),
        ({"oom_score_adj": -900}, ["OOM score -900, was 0"]),
        ({"slice": "user.slice"}, ["slice user.slice, was system.slice"]),
        ({"limits": {"nofile": "256:256"}}, ["limit nofile 256:256, was 1024:524288"]),
        ({"cgroup": {"MemoryMax": "4096", "IOWeight": "7"}}, ["limit MemoryMax 4096, was infinity"]),
        ({"environment": ["PATH"]}, ["without HOME in its environment"]),
        ({"environment": ["HOME", "PATH", "X"]}, ["with X in its environment, which it did not have before"]),
        ({"environment": None}, []),
    ],
)
def test_what_differs_is_named(change: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "own_groups", lambda _uid: (1000, [27, 44, 998]))
    assert identity.differences(VOICE, dataclasses.replace(VOICE, **change)) == words


def test_what_was_not_known_can_not_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "own_groups", lambda _uid: None)
    blank = dataclasses.replace(VOICE, slice="", limits={}, cgroup={}, environment=None)
    assert identity.differences(blank, VOICE) == []


def test_a_users_own_groups_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    who = SimpleNamespace(pw_name="robot", pw_gid=1000)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {1000: who}[uid])
    monkeypatch.setattr(os, "getgrouplist", lambda _name, _gid: [1000, 998, 27])
    assert identity.own_groups(1000) == (1000, [27, 998])
    assert identity.own_groups(7) is None


@pytest.mark.parametrize("facts", [None, {}, {"uid": 7}, {**VOICE.facts(), "more": 1}])
def test_a_snapshot_of_another_version_tells_nothing(facts: Any) -> None:
    assert identity.recall(facts) is None
