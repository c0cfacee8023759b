# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new kind of tenant is one class: plan, contract, stop, start and restore work with it as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    contracts,
    gpu,
    planfile,
    probes,
    restorer,
    run,
    tenants,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import ProcessId
from ansible_collections.edgelab.model_trial.plugins.module_utils.tenants import KINDS, Host, Kind, TenantError

if TYPE_CHECKING:
    from fakeworld import World


class Supervisor(Kind):
    """A program of supervisord; ``unit`` is its name."""

    name = "supervisor"
    needs = ("unit",)
    tells_its_state = True

    def find(self) -> ProcessId | None:
        out = run.command(["supervisorctl", "pid", self.tenant.unit], 10).out.strip()
        if not out.isdigit():
            raise TenantError(f"{self.tenant.name}: supervisord does not report its PID: {out}")
        return probes.identify(int(out))

    def stop(self, log: Path) -> None:
        self.command(["supervisorctl", "stop", self.tenant.unit], self.tenant.stop_timeout_s, log)

    def start(self, log: Path, limit_s: float) -> str:
        self.command(["supervisorctl", "start", self.tenant.unit], limit_s, log)
        return ""

    def ended(self, scope: str) -> str:
        return "" if self.find() else "supervisord does not run it any more"

    def words(self, log: Path) -> str:
        return run.command(["supervisorctl", "tail", self.tenant.unit], 10).out

    def start_command(self) -> str:
        return f"sudo supervisorctl start {self.tenant.unit}"

    def state(self, host: Host) -> probes.ProbeResult:
        out = host.root("supervisorctl", "status", self.tenant.unit).out
        return probes.ProbeResult("RUNNING" in out, f"supervisord: {out.strip()}")


# Its definition has registered it; the other tests know the kinds of the collection only.
KINDS.pop("supervisor")


@pytest.fixture
def data(plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A plan whose live model belongs to supervisord."""
    monkeypatch.setitem(KINDS, "supervisor", Supervisor)
    plan_data["tenants"][0].update(kind="supervisor", unit="model", process="")
    return plan_data


@pytest.fixture
def world(data: dict[str, Any], world_of: Callable[[dict[str, Any]], World], monkeypatch: pytest.MonkeyPatch) -> World:
    """The host of that plan."""
    found = world_of(data)
    command = found.command

    def supervised(argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        if argv[0] != "supervisorctl":
            return command(argv, cwd)
        service = found.services["llamacpp"]
        assert argv[2] == "model"
        if argv[1] in ("start", "stop"):
            if service.broken:
                return 1, "", f"model: ERROR ({service.broken})\n"
            getattr(found, argv[1])("llamacpp")
        return 0, {"pid": f"{service.pid}\n", "tail": "no memory left\n"}.get(argv[1], ""), ""

    monkeypatch.setattr(found, "command", supervised)
    return found


def restore(world: World) -> None:
    """What systemd starts when the runner has ended."""
    restorer.Restorer(world.plan, world.state, gpu.Opening(0), "host").restore()


def test_a_plan_knows_what_the_new_kind_needs(data: dict[str, Any]) -> None:
    assert planfile.parse(data).tenants[0].kind == "supervisor"
    data["tenants"][0]["unit"] = ""
    with pytest.raises(planfile.PlanError, match=r"tenants\[0\]\.unit: expected a value, because kind is supervisor"):
        planfile.parse(data)
    data["tenants"][0]["kind"] = "runit"
    with pytest.raises(planfile.PlanError, match="one of systemd, script, container, process, supervisor"):
        planfile.parse(data)


@pytest.mark.parametrize("state", ["RUNNING   pid 7, uptime 1:02:03", "FATAL     Exited too quickly"])
def test_its_contract_is_what_its_manager_says(world: World, state: str) -> None:
    def say(argv: Sequence[str]) -> contracts.Ran:
        return contracts.Ran(0, f"model   {state}\n" if argv[0] == "supervisorctl" else "", "")

    host = contracts.Host(as_root=True, run=say, card=lambda _index: world.card, state_dir=world.folder)
    found = next(c.found for c in contracts.evaluate(world.plan, host) if c.id == 6)
    assert f"llamacpp: supervisord: model   {state}" in found
    assert ("HTTP 200" in found.split("; ")[0]) == state.startswith("RUNNING")
    assert "llamacpp could not be brought back" not in found


def test_a_trial_stops_it_and_the_restore_starts_it(world: World) -> None:
    world.runner().run()
    assert world.done("stop") == [("stop", "chatterbox"), ("stop", "llamacpp")]
    restore(world)
    assert world.done("start") == [("start", "llamacpp"), ("start", "chatterbox")]
    assert all(world.up(name) for name in world.services)
    assert world.state.mark() is None


def test_what_goes_wrong_is_told_with_its_last_words(world: World) -> None:
    world.runner().run()
    world.services["llamacpp"].broken = "spawn error"
    with pytest.raises(restorer.RestoreFailed) as caught:
        restore(world)
    text = str(caught.value)
    assert "llamacpp: supervisorctl start model ended with 1: model: ERROR (spawn error)" in text
    assert "last log lines:\nno memory left\nto start it by hand: sudo supervisorctl start model" in text
    world.services["llamacpp"].broken = ""
    restore(world)
    assert world.up("llamacpp")


def test_one_that_ends_while_it_loads_is_not_waited_for(world: World) -> None:
    world.stop("llamacpp")
    began = world.clock.now
    with pytest.raises(tenants.Ended, match="supervisord does not run it any more"):
        tenants.wait_healthy(world.plan.tenants[0], Path("/nowhere"))
    assert world.clock.now - began < 1


def test_a_helper_class_without_a_name_is_no_kind() -> None:
    before = dict(KINDS)

    class Helper(Supervisor):
        """It shares code, and is nothing that an inventory can name."""

    assert Helper.name == "supervisor"
    assert before == KINDS
