# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module that stops and starts services in order: one look, one act, and nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edgelab.model_trial.plugins.module_utils import plan, tenants
from ansible_collections.edgelab.model_trial.plugins.modules import tenant as module

SERVICES = [
    {"name": "model", "kind": "systemd", "unit": "llama.service"},
    {
        "name": "voice",
        "kind": "script",
        "user": "robot",
        "directory": "/srv/voice",
        "port": 8772,
        "start": "./start.sh",
        "stop": "./stop.sh",
        "health": {"url": "http://127.0.0.1:8772/health"},
    },
]


class Host:
    """Tenants that run or not, and what was done to them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.up = {"model": True, "voice": True}
        self.healthy = {"model": True, "voice": True}
        self.did: list[tuple[str, str, Path]] = []
        self.trouble: dict[str, Exception] = {}
        self.unknown: dict[str, Exception] = {}
        self.stopping: set[str] = set()
        for name in ("look", "start", "stop", "wait_healthy", "await_stop"):
            patch.setattr(tenants, name, getattr(self, name))

    def look(self, tenant: plan.Tenant) -> tenants.Condition:
        if tenant.name in self.unknown:
            raise self.unknown[tenant.name]
        up = self.up[tenant.name]
        return tenants.Condition(up, up and self.healthy[tenant.name], None, "PID 7" if up else "not running")

    def await_stop(self, tenant: plan.Tenant) -> tenants.Begun | None:
        return tenants.Begun("stop", "its unit is deactivating") if tenant.name in self.stopping else None

    def _act(self, verb: str, tenant: plan.Tenant, log: Path) -> None:
        if tenant.name in self.trouble:
            raise self.trouble[tenant.name]
        self.did.append((verb, tenant.name, log))

    def stop(self, tenant: plan.Tenant, log: Path) -> float:
        self._act("stop", tenant, log)
        self.up[tenant.name] = False
        return 0.25

    def start(self, tenant: plan.Tenant, log: Path) -> str:
        self._act("start", tenant, log)
        self.up[tenant.name] = True
        return f"mt-{tenant.name}.scope"

    def wait_healthy(self, tenant: plan.Tenant, log: Path, scope: str) -> float:
        assert scope == (f"mt-{tenant.name}.scope" if ("start", tenant.name, log) in self.did else "")
        self._act("wait", tenant, log)
        self.healthy[tenant.name] = True
        return 1.5

    @property
    def order(self) -> list[str]:
        return [f"{verb} {name}" for verb, name, _unused in self.did]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with two services that run."""
    return Host(monkeypatch)


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the module and returns its answer."""

    def run(state: str, services: list[dict[str, Any]] | None = None, **args: Any) -> dict[str, Any]:
        wanted = {"state": state, "tenants": SERVICES if services is None else services, "log_dir": "/tmp", **args}
        with patch_module_args(wanted), pytest.raises(SystemExit) as caught:
            module.main()
        answer = json.loads(capsys.readouterr().out)
        assert bool(caught.value.code) == answer.get("failed", False)
        return dict(answer)

    return run


def test_services_stop_in_order(host: Host, play: Any, tmp_path: Path) -> None:
    answer = play("stopped", log_dir=str(tmp_path))
    assert answer["changed"] is True
    assert host.order == ["stop model", "stop voice"]
    assert host.did[0][2] == tmp_path / "model.log"
    assert answer["tenants"]["voice"] == {
        "before": "started",
        "after": "stopped",
        "duration_s": 0.25,
        "found": "PID 7",
    }


def test_a_folder_for_logs_that_is_none_is_said_before_anything_is_done(host: Host, play: Any, tmp_path: Path) -> None:
    answer = play("stopped", log_dir=str(tmp_path / "none"))
    assert answer["msg"].startswith("log_dir: expected a folder on the host, found none: ")
    assert not host.did
    # A task before this one may make it, and does not in check mode.
    assert play("stopped", log_dir=str(tmp_path / "none"), _ansible_check_mode=True)["moved"] == ["model", "voice"]


def test_logs_go_with_the_modules_temporary_folder(host: Host, play: Any, tmp_path: Path) -> None:
    play("stopped", log_dir=None, _ansible_remote_tmp=str(tmp_path), _ansible_tmpdir=str(tmp_path / "of-the-task"))
    assert host.did[0][2] == tmp_path / "of-the-task" / "model.log"


def test_services_start_in_order_each_healthy_before_the_next(host: Host, play: Any) -> None:
    host.up = {"model": False, "voice": False}
    answer = play("started")
    assert answer["changed"] is True
    assert host.order == ["start model", "wait model", "start voice", "wait voice"]
    assert answer["tenants"]["model"]["duration_s"] == 1.5
    assert answer["tenants"]["model"]["before"] == "stopped"


@pytest.mark.parametrize("state", ["started", "stopped"])
def test_a_second_time_changes_nothing(host: Host, play: Any, state: str) -> None:
    host.up = dict.fromkeys(host.up, state == "stopped")
    assert play(state)["changed"] is True
    did = list(host.did)
    again = play(state)
    assert again["changed"] is False
    assert host.did == did
    assert {facts["before"] for facts in again["tenants"].values()} == {state}


def test_only_what_differs_is_touched(host: Host, play: Any) -> None:
    host.up["model"] = False
    answer = play("started")
    assert host.order == ["start model", "wait model"]
    assert answer["changed"] is True


@pytest.mark.parametrize("state", ["started", "stopped"])
def test_check_mode_looks_only(host: Host, play: Any, state: str) -> None:
    host.up = dict.fromkeys(host.up, state == "stopped")
    answer = play(state, _ansible_check_mode=True)
    assert answer["changed"] is True
    assert host.did == []
    assert "duration_s" not in answer["tenants"]["model"]


def test_what_was_moved_is_named_and_what_was_there_is_not(host: Host, play: Any) -> None:
    """What was down beforehand can be left down."""
    host.up["model"] = False
    assert play("stopped")["moved"] == ["voice"]
    assert play("stopped")["moved"] == []
    assert play("started", _ansible_check_mode=True)["moved"] == ["model", "voice"]
    host.trouble["voice"] = WILL_NOT
    assert play("started")["moved"] == ["model", "voice"]


def test_the_diff_shows_before_and_after(host: Host, play: Any) -> None:
    host.up["voice"] = False
    diff = play("stopped")["diff"]
    assert diff == {"before": "model: started\nvoice: stopped\n", "after": "model: stopped\nvoice: stopped\n"}


@pytest.mark.parametrize("check", [False, True])
def test_what_is_up_but_not_healthy_is_not_there_yet(host: Host, play: Any, check: bool) -> None:
    host.healthy["voice"] = False
    answer = play("started", _ansible_check_mode=check)
    assert answer["changed"] is True
    assert host.order[-1:] == ([] if check else ["wait voice"])
    # A change has a diff.
    lines = {when: text.splitlines() for when, text in answer["diff"].items()}
    assert lines["before"] == [line.replace("voice: started", "voice: started, not healthy") for line in lines["after"]]
    again = play("started", _ansible_check_mode=True)
    assert (again["changed"], again["diff"]["before"] == again["diff"]["after"]) == (check, not check)


def test_what_is_up_and_only_loading_is_not_started_twice(host: Host, play: Any) -> None:
    host.healthy["voice"] = False
    play("started")
    assert host.order == ["wait voice"]


WILL_NOT = tenants.TenantError("voice: will not")


@pytest.mark.parametrize(
    ("failing", "trouble", "changed", "voice"),
    [
        # What a real stop did before another one refused is a change.
        ("voice", WILL_NOT, True, {"before": "started", "after": "started"}),
        ("voice", OSError(2, "No such file or directory"), True, {"before": "started", "after": "started"}),
        # A stop that was begun may go on; one that could not be run has done nothing.
        ("model", tenants.TenantError("model: still stopping"), True, None),
        ("model", tenants.NotBegun("model: its stop command cannot be run"), False, None),
    ],
)
def test_a_failure_tells_what_was_done_until_then(
    host: Host, play: Any, failing: str, trouble: Exception, changed: bool, voice: dict[str, Any] | None
) -> None:
    host.trouble[failing] = trouble
    answer = play("stopped")
    assert answer["failed"] is True
    assert answer["msg"] == str(trouble)
    assert answer["changed"] is changed
    assert answer["tenants"][failing]["error"] == str(trouble)
    assert answer["tenants"].get("voice") == (voice and {**voice, "found": "PID 7", "error": str(trouble)})
    assert answer["tenants"]["model"]["after"] == ("started" if failing == "model" else "stopped")
    if voice:
        assert answer["diff"] == {
            "before": "model: started\nvoice: started\n",
            "after": "model: stopped\nvoice: started\n",
        }


@pytest.mark.parametrize("state", ["started", "stopped"])
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    "trouble",
    [
        tenants.NotThere("voice: systemd has no unit voice.service"),
        tenants.TenantError("voice: docker does not report the state of the container voice: Cannot connect"),
        OSError("systemd does not report the state of voice.service: Failed to connect to bus"),
    ],
)
def test_what_can_not_be_known_is_an_error(host: Host, play: Any, state: str, check: bool, trouble: Exception) -> None:
    """No answer is not "stopped", and not "would be started"."""
    host.unknown["voice"] = trouble
    answer = play(state, _ansible_check_mode=check)
    assert answer["failed"] is True
    assert answer["msg"] == str(trouble)
    assert answer["tenants"]["voice"] == {"before": "unknown", "after": "unknown", "error": str(trouble)}
    assert not [did for did in host.order if did.endswith("voice")]


def test_two_tenants_of_one_name_are_refused(host: Host, play: Any) -> None:
    """One of the results would be lost."""
    answer = play("stopped", [SERVICES[0], SERVICES[1], SERVICES[0]])
    assert answer["failed"] is True
    assert answer["msg"].startswith("tenants: expected every name once, found")
    assert host.did == []


def test_a_wrong_field_is_named_with_its_place(host: Host, play: Any) -> None:
    answer = play("stopped", [SERVICES[0], {"name": "voice", "kind": "script", "port": 8772}])
    assert answer["failed"] is True
    assert answer["msg"].startswith("tenants[1].start: expected a value, because kind is script")
    assert host.did == []


def test_a_state_nobody_knows(host: Host, play: Any) -> None:
    answer = play("restarted")
    assert "value of state must be one of: started, stopped" in answer["msg"]


def test_a_stop_that_goes_on_is_no_tenant_that_runs(host: Host, play: Any) -> None:
    """It is healthy until it ends, and it did not end in time."""
    host.stopping = {"model"}
    result = play("started")
    assert result["failed"]
    assert "model: a stop is under way and does not end" in result["msg"]
    assert host.order == []
