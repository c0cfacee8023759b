"""Mechanisms that promises stand on and that no fake world has: the units of systemd, and how a play takes its hosts.

tests/promises.yml names them; tests/mutations.py removes the mechanisms and demands that these tests fail.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.edgelab.model_trial.plugins.module_utils import journal, watch

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


def tasks(role: str, name: str = "main") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "roles" / role / "tasks" / f"{name}.yml").read_text())
    return found


def test_however_the_window_ends_systemd_starts_the_restore() -> None:
    run = unit("mt-run")
    assert (run["Unit.OnSuccess"], run["Unit.OnFailure"]) == (RESTORE, RESTORE)
    restore = unit("mt-restore")
    assert restore["Service.ExecStart"] == [f"{PROGRAM} restore-now"]
    # It begins when the window has ended, not beside it.
    assert restore["Unit.Conflicts"] == restore["Unit.After"] == ["mt-run.service"]


def test_the_window_is_a_unit_of_the_host_and_not_started_again() -> None:
    run = unit("mt-run")
    assert run["Service.ExecStart"] == [f"{PROGRAM} run"]
    assert run["Unit.ConditionPathExists"] == [OPEN_MARK]
    # It ends with its main process, within seconds of being told to, and only a controller begins another one.
    assert run["Service.Type"] == ["exec"]
    assert 0 < float(run["Service.TimeoutStopSec"][0]) <= 5
    assert run["Service.KillMode"] == ["mixed"]
    assert not {"Service.Restart", "Service.RemainAfterExit", "Install.WantedBy"} & set(run)


def test_the_restore_is_tried_until_it_succeeds() -> None:
    restore = unit("mt-restore")
    assert restore["Service.Restart"] == ["on-failure"]
    assert restore["Unit.StartLimitIntervalSec"] == ["0"]
    assert restore["Service.TimeoutStartSec"] == ["infinity"]
    # The tenants that it has started outlive it.
    assert restore["Service.KillMode"] == ["process"]


def test_a_boot_with_an_open_mark_asks_for_a_restore() -> None:
    recover = unit("mt-recover")
    assert recover["Service.ExecStart"] == [f"{PROGRAM} recover"]
    assert recover["Unit.ConditionPathExists"] == [OPEN_MARK]
    assert recover["Install.WantedBy"] == ["multi-user.target"]
    installed, enabled = (
        next(task for task in tasks("acquire") if word in task)
        for word in ("ansible.builtin.template", "ansible.builtin.systemd_service")
    )
    assert "mt-recover.service" in installed["loop"]
    unit_of = enabled["ansible.builtin.systemd_service"]
    assert (unit_of["name"], unit_of["enabled"]) == ("mt-recover.service", True)
    assert enabled["when"] == "not ansible_check_mode"


@pytest.mark.parametrize("name", ["mt-run", "mt-restore"])
def test_who_stands_still_is_ended_by_systemd(name: str) -> None:
    found = unit(name)
    # Several signs of life fit in; no core of a big process is written while tenants are down.
    assert watch.BEAT_S * 3 <= float(found["Service.WatchdogSec"][0]) <= 30
    assert found["Service.NotifyAccess"] == ["main"]
    assert found["Service.WatchdogSignal"] == ["SIGKILL"]
    # One that hangs in the kernel is given up within seconds.
    assert float(found["Service.TimeoutStopSec"][0]) <= 5


def test_somebody_looks_every_30_s_whether_anybody_is_at_work() -> None:
    timer, service = unit("mt-watch", "timer"), unit("mt-watch")
    assert timer["Timer.OnActiveSec"] == timer["Timer.OnUnitActiveSec"] == ["30"]
    assert float(timer["Timer.AccuracySec"][0]) <= 1
    assert service["Service.ExecStart"] == [f"{PROGRAM} watch"]
    # A look that hangs ends, or there would be no next one.
    assert float(service["Service.TimeoutStartSec"][0]) <= 60
    # They live as long as a mark does: started with it, never enabled.
    assert not {"Install.WantedBy"} & (set(timer) | set(service))
    installed = next(task for task in tasks("acquire") if "ansible.builtin.template" in task)
    assert {"mt-watch.service", "mt-watch.timer"} <= set(installed["loop"])
    removed = next(task for task in tasks("acquire", "uninstall") if task["name"] == "Remove program, units and runs")
    assert {f"/etc/systemd/system/{name}" for name in installed["loop"]} <= set(removed["loop"])


def test_what_is_installed_is_roots_and_nobody_else_writes_it() -> None:
    words = ("ansible.builtin.copy", "ansible.builtin.template")
    written = [task[word] for task in tasks("acquire") for word in words if word in task]
    assert {entry["dest"] for entry in written} == {PROGRAM, "/etc/systemd/system/{{ item }}"}
    for entry in written:
        assert (entry["owner"], entry["group"]) == ("root", "root"), entry
        # What root runs is written by root alone.
        assert int(entry["mode"], 8) & 0o022 == 0, entry


PLAYS = ["benchmark-e4b.yml", "rehearse.yml"]


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
