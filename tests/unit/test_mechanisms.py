"""Mechanisms that promises need and that no fake has: the units of systemd, and how a play takes its hosts.

tests/promises.yml names them; tests/mutations.py removes the mechanisms and demands that these tests fail.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.edgelab.model_trial.plugins.module_utils import install, journal, run, services, watch

ROOT = Path(__file__).resolve().parents[2]
ACQUIRE = ROOT / "roles" / "acquire"
PROGRAM = "/usr/local/sbin/model-trial"
OPEN_MARK = str(journal.ROOT / "open")
RESTORE = ["mt-restore.service"]


def unit(name: str, suffix: str = "service") -> dict[str, list[str]]:
    """The settings of a unit that the role acquire installs, each with its values; sections are part of the name."""
    found: dict[str, list[str]] = defaultdict(list)
    section = ""
    for line in (ACQUIRE / "templates" / f"{name}.{suffix}.j2").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[f"{section}.{key}"].append(value)
    return found


def runner() -> dict[str, list[str]]:
    """The settings of ``mt-run``, which has no file: it is made for one run, with what differs from run to run."""
    argv = services.runner_command(Path("/runs/one/model-trial"), 1234.4)
    options, command = argv[1 : argv.index("--")], argv[argv.index("--") + 1 :]
    found = defaultdict(list, {"command": command})
    for option in options:
        name, _, value = option.removeprefix("--property=").partition("=")
        found[name].append(value)
    return found


def tasks(role: str, name: str = "main") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "roles" / role / "tasks" / f"{name}.yml").read_text())
    return found


def test_however_the_window_ends_systemd_starts_the_restore() -> None:
    window = runner()
    assert (window["OnSuccess"], window["OnFailure"]) == (RESTORE, RESTORE)
    restore = unit("mt-restore")
    [command] = restore["Service.ExecStart"]
    assert command.endswith(f'exec {PROGRAM} "$$@"\' model-trial restore-now')
    # It begins when the window has ended, not beside it.
    assert restore["Unit.Conflicts"] == restore["Unit.After"] == ["mt-run.service"]


def test_the_window_is_a_unit_of_the_host_and_not_started_again() -> None:
    window = runner()
    assert window["--unit"] == ["mt-run.service"]
    # By the program that the run keeps, whatever is installed meanwhile.
    assert window["command"][1:] == ["/runs/one/model-trial", "run"]
    # It ends with its main process, within seconds of being told to, and only a controller begins another one.
    assert window["--service-type"] == ["exec"]
    assert window["RuntimeMaxSec"] == ["1234"]
    assert 0 < float(window["TimeoutStopSec"][0]) <= 5
    assert window["KillMode"] == ["mixed"]
    assert not {"Restart", "RemainAfterExit", "--remain-after-exit", "--scope", "--collect"} & set(window)
    # A file of that name would be in its way.
    assert not (ACQUIRE / "templates" / "mt-run.service.j2").exists()


def test_the_restore_is_tried_until_it_succeeds() -> None:
    restore = unit("mt-restore")
    assert restore["Service.Restart"] == ["on-failure"]
    assert restore["Unit.StartLimitIntervalSec"] == ["0"]
    assert restore["Service.TimeoutStartSec"] == ["infinity"]
    # The tenants that it has started outlive it.
    assert restore["Service.KillMode"] == ["process"]


def test_a_boot_with_an_open_mark_asks_for_a_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recover = unit("mt-recover")
    [command] = recover["Service.ExecStart"]
    assert command.endswith(f'exec {PROGRAM} "$$@"\' model-trial recover')
    assert recover["Unit.ConditionPathExists"] == [OPEN_MARK]
    assert recover["Install.WantedBy"] == ["multi-user.target"]
    # The start of docker has no limit: a job behind it might wait forever.
    assert "docker" not in "".join(recover["Unit.After"] + recover["Unit.Requires"])
    [bring] = (task for task in tasks("acquire") if "block" in task)
    [brought] = (task["loop"] for task in bring["block"] if "ansible.builtin.template" in task)
    assert "mt-recover.service" in brought
    assert bring["when"] == "not ansible_check_mode"
    # The program that was brought installs what lies beside it, and enables the one that a boot starts.
    asked: list[list[str]] = []

    def answer(argv: list[str], _limit_s: float) -> run.Ran:
        asked.append(argv)
        return run.Ran(0, "", "")

    monkeypatch.setattr(install, "UNIT_DIR", tmp_path)
    monkeypatch.setattr(run, "command", answer)
    assert install._enable()
    assert asked == [["systemctl", "enable", "--no-reload", "--root=/", "mt-recover.service"]]


def launched(folder: Path, verb: str) -> tuple[str, str]:
    """What the unit of a verb starts with the state in ``folder``: its words, and what it complained of."""
    [line] = unit({"restore-now": "mt-restore", "recover": "mt-recover", "watch": "mt-watch"}[verb])[
        "Service.ExecStart"
    ]
    here = line.replace("$$", "$").replace(str(journal.ROOT), str(folder)).replace(PROGRAM, str(folder / "installed"))
    done = subprocess.run(shlex.split(here), capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("verb", ["restore-now", "recover", "watch"])
@pytest.mark.parametrize(
    ("trouble", "who", "complains"),
    [
        ("", "kept", False),
        ("no program is installed", "kept", False),
        ("the copy was changed", "installed", True),
        ("the copy is gone", "installed", True),
        ("the file kept is torn", "installed", True),
        ("no run is open", "installed", False),
    ],
)
def test_a_unit_goes_by_the_program_that_the_open_run_keeps_if_that_is_whole(
    tmp_path: Path, verb: str, trouble: str, who: str, complains: bool
) -> None:
    """The unit itself looks, so that whatever was installed meanwhile has no say."""
    (tmp_path / "installed").write_text('#!/bin/sh\necho "installed $*"\n')
    (tmp_path / "installed").chmod(0o755)
    copy = tmp_path / "runs" / "one" / "model-trial"
    copy.parent.mkdir(parents=True)
    copy.write_text("import sys\nprint('kept', *sys.argv[1:])\n")
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    (tmp_path / journal.KEPT).write_text(f"{digest}  runs/one/model-trial\n")
    match trouble:
        case "no program is installed":
            (tmp_path / "installed").unlink()
        case "the copy was changed":
            copy.write_text("raise SystemExit('not that one')\n")
        case "the copy is gone":
            copy.unlink()
        case "the file kept is torn":
            (tmp_path / journal.KEPT).write_text(digest[:20])
        case "no run is open":
            (tmp_path / journal.KEPT).unlink()
    said, complaint = launched(tmp_path, verb)
    assert said == f"{who} {verb}"
    assert ("missing or damaged; the installed one is used" in complaint) is complains


@pytest.mark.parametrize("name", ["mt-run", "mt-restore"])
def test_who_stands_still_is_ended_by_systemd(name: str) -> None:
    found = runner() if name == "mt-run" else {k.removeprefix("Service."): v for k, v in unit(name).items()}
    # Several heartbeats fit in; no core of a big process is written while tenants are down.
    assert watch.BEAT_S * 3 <= float(found["WatchdogSec"][0]) <= 30
    assert found["NotifyAccess"] == ["main"]
    assert found["WatchdogSignal"] == ["SIGKILL"]
    # One that hangs in the kernel is given up within seconds.
    assert float(found["TimeoutStopSec"][0]) <= 5


def test_somebody_looks_every_30_s_whether_anybody_is_at_work() -> None:
    timer, service = unit("mt-watch", "timer"), unit("mt-watch")
    assert timer["Timer.OnActiveSec"] == timer["Timer.OnUnitActiveSec"] == ["30"]
    assert float(timer["Timer.AccuracySec"][0]) <= 1
    [command] = service["Service.ExecStart"]
    assert command.endswith(f'exec {PROGRAM} "$$@"\' model-trial watch')
    # A look that hangs ends, or there would be no next one.
    assert float(service["Service.TimeoutStartSec"][0]) <= 60
    # They live as long as a mark does: started with it, never enabled.
    assert not {"Install.WantedBy"} & (set(timer) | set(service))
    [bring] = (task for task in tasks("acquire") if "block" in task)
    [brought] = (task["loop"] for task in bring["block"] if "ansible.builtin.template" in task)
    assert {"mt-watch.service", "mt-watch.timer"} <= set(brought)
    removed = next(task for task in tasks("acquire", "uninstall") if task["name"] == "Remove program, units and runs")
    assert {f"/etc/systemd/system/{name}" for name in brought} <= set(removed["loop"])


def test_what_is_installed_is_roots_and_nobody_else_writes_it() -> None:
    words = ("ansible.builtin.copy", "ansible.builtin.template", "ansible.builtin.file")
    [bring] = (task for task in tasks("acquire") if "block" in task)
    written = [task[word] for task in bring["block"] for word in words if word in task]
    # Until it is installed it lies in a folder of the state, where nobody else can change it.
    assert {entry.get("dest", entry.get("path")).split("/")[0] for entry in written} == {"{{ _acquire_incoming }}"}
    incoming = yaml_of("roles/acquire/vars/main.yml")["_acquire_incoming"]
    assert incoming.startswith(f"{journal.ROOT}/{install.INCOMING}/")
    for entry in written:
        assert (entry["owner"], entry["group"]) == ("root", "root"), entry
        assert int(entry["mode"], 8) & 0o022 == 0, entry
    # Only root may write what root runs.
    assert str(install.PROGRAM) == PROGRAM
    assert (install.PROGRAM_MODE, install.UNIT_MODE) == (0o755, 0o644)


PLAYS = ["benchmark_e4b.yml", "rehearse.yml"]


def yaml_of(path: str) -> Any:
    """A file of the checkout as Ansible reads it, templates included."""
    return DataLoader().load_from_file(str(ROOT / path), trusted_as_template=True)


def render(text: Any, **variables: Any) -> Any:
    """A template as Ansible renders it."""
    return Templar(loader=DataLoader(), variables=variables).template(text)


@pytest.mark.parametrize("playbook", PLAYS)
def test_one_host_after_another_and_none_in_lockstep(playbook: str) -> None:
    play = yaml_of(f"playbooks/{playbook}")[-1]
    assert str(render(play["serial"])) == "1"
    # With one host at work there is nobody to wait for; with several, `linear` would keep windows open for each other.
    assert render(play["strategy"]) == "linear"
    for at_once in (2, "50%"):
        assert str(render(play["serial"], trial_serial=at_once)) == str(at_once)
        assert render(play["strategy"], trial_serial=at_once) == "host_pinned"


@pytest.mark.parametrize("playbook", PLAYS)
def test_no_host_is_begun_after_one_has_failed(playbook: str) -> None:
    first = yaml_of(f"playbooks/{playbook}")[-1]["tasks"][0]
    assert first["ansible.builtin.import_role"] == {"name": "edgelab.model_trial.trial", "tasks_from": "turn"}
    [leaves] = (task for task in tasks("trial", "turn") if task.get("ansible.builtin.meta"))
    # It leaves this host alone; those at work go on.
    assert leaves["ansible.builtin.meta"] == "end_host"
    assert leaves["when"] == "_trial_too_many"
    known = {**yaml_of("roles/trial/defaults/main.yml"), **yaml_of("roles/trial/vars/main.yml")}
    hosts = ["one", "two", "three"]

    def too_many(well: list[str], **variables: Any) -> Any:
        known.update(ansible_play_hosts_all=hosts, ansible_play_hosts=well, **variables)
        return render(known["_trial_too_many"], **known)

    assert too_many(hosts) is False
    assert too_many(["two", "three"]) is True
    assert too_many(["two", "three"], trial_max_fail_percentage=50) is False
    assert too_many(["three"], trial_max_fail_percentage=50) is True
