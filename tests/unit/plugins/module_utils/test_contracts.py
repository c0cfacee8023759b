# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fourteen contracts, on a host whose HTTP is real and whose rest is made up: one at a time is broken."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import contracts, gpu, planfile, probes, rehearsal
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import State

JPEG = bytes.fromhex("ffd8ffe000074a46494600ffc0000b0801e0028001011100ffda000801010000003f001234ffd9")
PROMPT = "import requests\n" * 3 + "def build_vlm_prompt(goal):\n    return f'seek {goal}'\n"
CAUGHT = "(httpx.TimeoutException, httpx.HTTPError)"
CLAUSE = f"def f():\n  try:\n    pass\n  except {CAUGHT}:\n    yield TTSStoppedFrame()\n"
PORTS = {"llamacpp": 10, "nav": 20, "phone": 30}
RUNNING = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=10\n"
BOX_RUNS = "docker inspect --type container --format {{json .State}} nav-box"
RUNNING_BOX = '{"Status": "running", "Running": true, "Pid": 20}\n'
INFO = {"ServerVersion": "26.1.5", "LiveRestoreEnabled": False, "Runtimes": {"runc": {}, "nvidia": {}}}


class World:
    """A host on which everything is as it should be; tests break it."""

    def __init__(self, data: dict[str, Any], server: Any, folder: Path, candidate_port: int) -> None:
        self.data, self.server, self.folder = data, server, folder
        self.proc, self.state = folder / "proc", folder / "state"
        self.state.mkdir()
        self.cdi = folder / "cdi"
        self.cdi.mkdir()
        (self.cdi / "nvidia.yaml").write_text('cdiVersion: "0.5.0"\nkind: nvidia.com/gpu\ndevices: []\n')
        self.as_root = False
        self.sudo_error = ""
        self.ss_sees = True
        self.commands: list[tuple[str, ...]] = []
        self.answers: dict[str, contracts.Ran] = {
            "docker info": contracts.Ran(0, json.dumps(INFO), ""),
            "docker ps": contracts.Ran(0, "aa\nbb\n", ""),
            "docker inspect": contracts.Ran(0, "/other always\n/third \n", ""),
            "systemctl show --property LoadState,": contracts.Ran(0, RUNNING, ""),
            "systemctl show --property=TimeoutStopUSec,ExecStop panda-llamacpp": contracts.Ran(
                0, "TimeoutStopUSec=1min 30s\n", ""
            ),
        }
        self.answers["systemctl show --property=Id,TriggeredBy panda-llamacpp"] = contracts.Ran(
            0, "Id=panda-llamacpp.service\nTriggeredBy=\n", ""
        )
        self.unit: dict[str, str] = {}
        # Units that are no tenants, as systemd shows them.
        self.beside: dict[str, dict[str, str]] = {}
        self.total_mib, self.used_mib, self.holders = 16_303, 13_700, 9
        self.gpu_error = ""
        self.program = ""
        (self.proc / "net").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal: 32000000 kB\nMemAvailable: 16000000 kB\n")
        self.listening: dict[int, int] = {}
        self.process(10, ["/usr/bin/llama-server", "--port", "11435"])
        (self.proc / "10" / "cgroup").write_text("0::/system.slice/panda-llamacpp.service\n")
        self.process(20, ["python3", "/usr/bin/uvicorn", "server:app"])
        self.process(30, ["python3", "phone_call.py", "auto"])
        for name, pid in PORTS.items():
            tenant = self.tenant(name)
            # The health pages are one real server's; that it holds each port is what the made-up /proc says.
            tenant["health"]["url"] = f"{server.url}/{name}"
            server.json(f"/{name}", {"status": "ok", "in_call": False})
            self.listen(tenant["port"], pid)
        voice = self.tenant("chatterbox")
        voice["health"]["url"] = f"{server.url}/chatterbox"
        voice.update(user=getpass.getuser(), directory=str(folder), start="./start.sh", stop="./stop.sh")
        for name in ("start.sh", "stop.sh"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        server.json("/chatterbox", {"model_loaded": True})
        data["contracts"]["quiet"][0]["http"]["url"] = f"{server.url}/phone"
        data["candidate"]["port"] = candidate_port
        files = {"prompt": PROMPT, "clause": CLAUSE}
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        (folder / "car.jpg").write_bytes(JPEG)
        data["contracts"]["prompt"].update(file=str(folder / "prompt.py"), lines=[4, 5])
        data["contracts"]["clauses"][0].update(file=str(folder / "clause.py"), lines=[4, 5])
        data["contracts"]["camera"] = str(folder / "car.jpg")
        data["contracts"].update(disk_gb_min=0.001, ram_gb_min=1.0)

    def tenant(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(t for t in self.data["tenants"] if t["name"] == name)
        return found

    def process(self, pid: int, argv: list[str]) -> None:
        """A process of the login user's."""
        folder = self.proc / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")
        (folder / "stat").write_text(f"{pid} (x) S 1 " + "0 " * 17 + f"{pid * 100} 0\n")

    def listen(self, port: int, pid: int) -> None:
        """Somebody listens; a holder of 0 is a process of another user."""
        inode = 5000 + port
        self.listening[inode] = port
        rows = [f" 0: 0100007F:{p:04X} 00000000:0000 0A 0 0 0 0 0 {i} 1" for i, p in self.listening.items()]
        (self.proc / "net" / "tcp").write_text("head\n" + "\n".join(rows) + "\n")
        if pid:
            (self.proc / str(pid) / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")

    def run(self, argv: Sequence[str]) -> contracts.Ran:
        """Commands, made up; what is not known is done for real."""
        words = tuple(argv)
        self.commands.append(words)
        if words[:2] == ("sudo", "-n"):
            if self.sudo_error:
                return contracts.Ran(1, "", self.sudo_error)
            words = words[2:]
        if words[0] in ("true", "sh"):
            return contracts.run_command(words)
        if words[0] == "ss":
            rows = [
                f'LISTEN 0 4096 127.0.0.1:{port} 0.0.0.0:* users:(("x",pid=77,fd=3),("x",pid=78,fd=3))'
                for port in self.listening.values()
            ]
            return contracts.Ran(0, "\n".join(rows) + "\n*\n" if self.ss_sees else "", "")
        if words[:2] == ("systemctl", "show") and words[2].startswith("--property=Id,Names,"):
            return self.shown(words[3:])
        for start, answer in self.answers.items():
            if " ".join(words).startswith(start):
                return answer
        return contracts.Ran(3, "inactive\n", "")

    def shown(self, wanted: Sequence[str]) -> contracts.Ran:
        """What systemd says of units; ``unit`` is what is special with the live model's."""
        plain = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "CanStart": "yes"}
        facts = {"panda-llamacpp.service": self.unit, **self.beside}
        if self.unit.get("silent"):
            return contracts.Ran(1, "", "Failed to connect to bus: Host is down\n")
        blocks = [{"Id": name, "Names": name, **plain, **facts.get(name, {})} for name in wanted if name != "--"]
        return contracts.Ran(0, "\n\n".join("\n".join(f"{k}={v}" for k, v in b.items()) for b in blocks), "")

    def card(self, index: int) -> Any:
        """A GPU, made up."""
        if self.gpu_error:
            raise gpu.GpuError(self.gpu_error)
        words = [t["vram_process"] for t in self.data["tenants"] if t.get("vram_process")]
        holders = tuple(gpu.Holder(10 + i, 4000, f"/usr/bin/{word}") for i, word in enumerate(words))
        vram = gpu.Vram(0.0, self.used_mib, self.total_mib, holders[: self.holders])
        return SimpleNamespace(name="RTX 5070 Ti", read=lambda: vram, close=lambda: None)

    @property
    def host(self) -> contracts.Host:
        return contracts.Host(
            proc=self.proc,
            state_dir=self.state,
            storage=self.folder,
            cdi_dirs=(self.cdi,),
            as_root=self.as_root,
            run=self.run,
            card=self.card,
            program=self.program,
        )

    def evaluate(self) -> dict[int, contracts.Contract]:
        found = contracts.evaluate(planfile.parse(self.data), self.host)
        assert [c.id for c in found] == list(range(1, 15))
        for contract in found:
            assert all((contract.name, contract.expected, contract.found, contract.why)), contract
            assert contract.id == 14 or bool(contract.todo) is (contract.spared or not contract.ok), contract
        return {c.id: c for c in found}

    def broken(self) -> dict[int, contracts.Contract]:
        return {i: c for i, c in self.evaluate().items() if not c.ok}

    def only(self, number: int) -> contracts.Contract:
        """The one broken contract."""
        broken = self.broken()
        assert list(broken) == [number], broken
        return broken[number]


@pytest.fixture
def world(plan_data: dict[str, Any], server: Any, tmp_path: Path, free_port: int) -> World:
    return World(plan_data, server, tmp_path, free_port)


def test_a_host_that_is_fit(world: World) -> None:
    assert world.broken() == {}


def test_everything_broken_is_listed_at_once(world: World, free_port: int) -> None:
    world.listen(free_port, 0)
    world.data["contracts"]["camera"] = "/absent.jpg"
    world.data["image"] = "latest"
    world.server.json("/phone", {"in_call": True})
    broken = world.broken()
    assert list(broken) == [3, 10, 11, 12]
    text = contracts.message(list(broken.values()))
    assert text.count("broken.") == text.count("expected: ") == text.count("what to do: ") == 4
    assert (
        "Contract 10, the camera image exists and is complete: broken.\n  expected: /absent.jpg is a complete" in text
    )
    assert len(text.split("\n\n")) == 4


def test_nothing_is_touched(world: World) -> None:
    world.evaluate()
    looking = {"true", "ss", "docker", "sh", "systemctl", "loginctl", "busctl"}
    assert {command[2] if command[0] == "sudo" else command[0] for command in world.commands} <= looking
    verbs = {command[3] for command in world.commands if command[2:3] == ("docker",)}
    assert verbs == {"info", "ps", "inspect"}


# 1


def test_sudo_that_asks_for_a_password(world: World, free_port: int) -> None:
    world.sudo_error = "sudo: a password is required\n"
    world.listen(free_port, 0)
    broken = world.broken()
    assert broken[1].found == "sudo: a password is required"
    assert "passwordless sudo" in broken[1].todo
    assert list(broken) == [1, 3, 8, 9]
    for number in (8, 9):
        assert "sudo does not work (contract 1): sudo: a password" in broken[number].found
        assert broken[number].todo == "repair contract 1 first"


def test_without_sudo_what_everybody_sees_is_still_judged(world: World) -> None:
    world.sudo_error = "sudo: a password is required\n"
    assert list(world.broken()) == [1, 8, 9]


def test_a_command_that_fails_under_sudo(world: World) -> None:
    world.run = lambda argv: contracts.Ran(1, "", "no such thing")  # type: ignore[method-assign]  # a broken host
    assert world.broken()[1].found == "no such thing"


def test_root_needs_no_sudo(world: World) -> None:
    world.as_root = True
    assert world.evaluate()[1].found == "running as root"
    assert not [command for command in world.commands if command[0] == "sudo"]


# 2


def test_a_clause_that_moved(world: World) -> None:
    path = world.folder / "clause.py"
    path.write_text("\n" * 11 + CLAUSE)
    contract = world.only(2)
    assert contract.found == "clause.py: moved from 4-5 to 15-16"
    assert contract.why == "it makes calls mute instead of crashing them"
    assert "except (httpx.TimeoutException, httpx.HTTPError) -> yield TTSStoppedFrame()" in contract.expected


def test_a_clause_without_a_reason_has_the_general_one(world: World) -> None:
    world.data["contracts"]["clauses"][0]["why"] = ""
    assert "production may crash" in world.evaluate()[2].why


def test_no_clause_is_nothing_to_break(world: World) -> None:
    world.data["contracts"]["clauses"] = []
    assert world.evaluate()[2].found == "the inventory names no clause"


# 3


def test_an_occupied_port_names_its_holder(world: World, free_port: int) -> None:
    world.process(40, ["python3", "-m", "http.server", str(free_port)])
    world.listen(free_port, 40)
    found = world.only(3).found
    assert found == f"port {free_port} is held by PID 40 python3 -m http.server {free_port}"


def test_root_is_asked_for_a_holder_that_may_not_be_seen(world: World, free_port: int) -> None:
    world.process(78, ["their", "server"])
    world.listen(free_port, 0)
    assert world.only(3).found == f"port {free_port} is held by PID 77 (gone), PID 78 their server"


def test_a_holder_that_not_even_root_sees(world: World, free_port: int) -> None:
    world.ss_sees = False
    world.listen(free_port, 0)
    assert world.only(3).found == f"port {free_port} is held by a process that cannot be seen"


def test_a_real_listener_is_seen_by_the_real_host(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        world.data["candidate"]["port"] = listening.getsockname()[1]
        world.proc = Path("/proc")
        assert f"is held by PID {os.getpid()} " in world.broken()[3].found


# 4


def test_a_stranger_on_a_tenants_port(world: World) -> None:
    (world.proc / "20" / "cmdline").write_bytes(b"python3\0-m\0http.server\0")
    world.process(21, ["uvicorn", "elsewhere:app"])
    found = world.only(4).found
    assert "11436 (nav) by PID 20 python3 -m http.server" in found


def test_a_tenant_that_is_gone(world: World) -> None:
    del world.listening[5000 + 11436]
    world.listen(9, 0)
    assert "11436 (nav) by nobody" in world.only(4).found


def test_a_tenant_of_another_user_is_seen_through_sudo(world: World) -> None:
    (world.proc / "20" / "fd" / str(5000 + 11436)).unlink()
    (world.proc / "20").rename(world.proc / "78")
    # Now root sees PIDs 77 and 78 on every port, and 78 is nav.
    assert "11436 (nav) by PID 77 (gone), PID 78 python3 /usr/bin/uvicorn server:app" in world.evaluate()[4].found


def test_without_sudo_another_users_tenant_cannot_be_judged(world: World) -> None:
    world.sudo_error = "sudo: no\n"
    (world.proc / "20" / "fd" / str(5000 + 11436)).unlink()
    assert world.broken()[4].todo == "repair contract 1 first"


def test_no_tenant_with_port_and_process(world: World) -> None:
    for tenant in world.data["tenants"]:
        # The script's tenant keeps its port: nothing else tells whether it runs.
        tenant["port"] = 0 if tenant["kind"] != "script" else tenant["port"]
    assert world.evaluate()[4].found == "no tenant names both port and process"


# 5


def test_the_prompt_is_found_and_hashed(world: World) -> None:
    found = world.evaluate()[5].found
    assert found.startswith("build_vlm_prompt at lines 4-5, sha256 ")
    assert "it was at" not in found


def test_a_prompt_that_moved_is_still_the_prompt(world: World) -> None:
    world.data["contracts"]["prompt"]["lines"] = [131, 145]
    contract = world.evaluate()[5]
    assert contract.ok
    assert contract.found.endswith("(it was at 131-145)")


def test_a_prompt_that_is_gone(world: World) -> None:
    world.data["contracts"]["prompt"]["function"] = "build_prompt"
    assert "no function build_prompt" in world.only(5).found


def test_a_prompt_that_needs_another_package(world: World) -> None:
    (world.folder / "prompt.py").write_text(PROMPT.replace("f'seek", "requests.get('x') + f'seek"))
    assert "requests, needed by build_vlm_prompt" in world.only(5).found


def test_a_pinned_prompt_that_changed(world: World) -> None:
    world.data["contracts"]["prompt"]["sha256"] = "0" * 64
    contract = world.only(5)
    assert "contracts.prompt.sha256" in contract.todo
    assert contract.expected.endswith(f"with sha256 {'0' * 64}")


# 6


def test_an_unhealthy_tenant_is_named(world: World) -> None:
    world.server.json("/chatterbox", {"model_loaded": False})
    found = world.only(6).found
    assert f"chatterbox: {world.server.url}/chatterbox: model_loaded = false" in found
    assert "llamacpp: unit panda-llamacpp is active (running), PID 10" in found


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"LoadState": "masked", "CanStart": "no"}, "its unit is masked"),
        ({"LoadState": "not-found"}, "its unit is not-found"),
        ({"LoadState": "bad-setting"}, "its unit is bad-setting"),
        ({"Transient": "yes"}, "its unit is transient: systemd forgets it when it stops"),
        ({"FragmentPath": "/no/such/x.service"}, "its unit file is gone: /no/such/x.service"),
        ({"RefuseManualStart": "yes", "CanStart": "no"}, "refuses to be started manually (RefuseManualStart=yes)"),
        ({"RefuseManualStop": "yes"}, "its unit refuses to be stopped manually (RefuseManualStop=yes)"),
        ({"CanStart": "no"}, "its unit can't be started (CanStart=no)"),
        ({"CanStop": "no"}, "its unit can't be stopped (CanStop=no)"),
    ],
)
def test_a_unit_that_runs_and_would_not_start_again(world: World, facts: dict[str, str], words: str) -> None:
    """A running unit hides what a start of it needs; its stop would show it, and too late."""
    world.unit = facts
    found = world.only(6).found
    assert "llamacpp could not be brought back: " in found
    assert words in found
    # Who is not stopped need not start.
    world.data.update(stop_order=["chatterbox"], restore_order=["chatterbox"])
    assert world.broken() == {}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"NeedDaemonReload": "yes"}, "its unit files have changed since systemd read them; it will start"),
        ({"TriggeredBy": "panda.socket panda.path"}, "panda.path may start it while it is stopped"),
        ({"UpheldBy": "keeper.service"}, "keeper.service may start it while it is stopped"),
    ],
)
def test_what_a_person_should_know_breaks_nothing(world: World, facts: dict[str, str], words: str) -> None:
    world.unit = facts
    assert world.broken() == {}
    found = world.evaluate()[6].found
    assert "warning: llamacpp: " in found
    assert words in found


# Units beside the tenants: name, how it is, what the live model's unit says of it.
NEEDS = {"RequiredBy": "eyes.service"}
LISTED = {"name": "eyes", "kind": "systemd", "unit": "eyes.service"}


@pytest.mark.parametrize("how", ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"])
def test_who_goes_down_with_a_tenant_is_a_tenant_or_breaks_the_contract(world: World, how: str) -> None:
    limits = "systemctl show --property=TimeoutStopUSec,ExecStop eyes.service"
    world.answers[limits] = contracts.Ran(0, "TimeoutStopUSec=10s\n", "")
    world.unit = {how: "eyes.service"}
    broken = world.only(6)
    assert f"eyes.service goes down with llamacpp ({how} of panda-llamacpp.service) and would stay down" in broken.found
    assert broken.todo.split("\n    ") == [
        "trial_tenants: add {name: eyes, kind: systemd, unit: eyes.service}",
        "trial_stop_order: add eyes before llamacpp",
        "trial_restore_order: add eyes after llamacpp",
    ]
    world.data["tenants"].append(LISTED)
    assert world.only(6).todo.split("\n    ") == [
        "trial_stop_order: add eyes before llamacpp",
        "trial_restore_order: add eyes after llamacpp",
    ]
    orders = {"stop_order": ["chatterbox", "eyes", "llamacpp"], "restore_order": ["llamacpp", "eyes", "chatterbox"]}
    world.data.update(orders)
    assert world.broken() == {}
    # In the wrong order systemd would move it, unseen.
    world.data.update(stop_order=["llamacpp", "eyes", "chatterbox"], restore_order=["eyes", "chatterbox", "llamacpp"])
    assert world.only(6).todo.split("\n    ") == [
        "trial_stop_order: put eyes before llamacpp",
        "trial_restore_order: put eyes after llamacpp",
    ]


def two_units(world: World, facts: dict[str, dict[str, str]]) -> None:
    """The live model and the sidecar, both stopped and both of systemd's."""
    world.tenant("nav").update(kind="systemd", unit="nav")
    orders = ["nav", "llamacpp", "chatterbox"]
    world.data.update(stop_order=orders, restore_order=["llamacpp", "nav", "chatterbox"])
    limits = "systemctl show --property=TimeoutStopUSec,ExecStop nav"
    world.answers[limits] = contracts.Ran(0, "TimeoutStopUSec=10s\n", "")
    world.unit, world.beside = facts.get("panda-llamacpp.service", {}), facts


@pytest.mark.parametrize(
    ("facts", "how"),
    [
        ({"nav.service": {"After": "basic.target panda-llamacpp.service"}}, "(After=)"),
        ({"nav.service": {"After": "eyes.target"}, "eyes.target": {"After": "panda-llamacpp.service"}}, "(After=)"),
        ({"panda-llamacpp.service": {"ConsistsOf": "nav.service"}}, "(ConsistsOf of panda-llamacpp.service)"),
        # A timer or a one-shot has its place, too.
        (
            {"panda-llamacpp.service": {"RequiredBy": "nav.service"}, "nav.service": {"SubState": "exited"}},
            "(RequiredBy of panda-llamacpp.service)",
        ),
    ],
)
def test_an_order_against_systemds_own_breaks_the_contract(
    world: World, facts: dict[str, dict[str, str]], how: str
) -> None:
    two_units(world, facts)
    assert 6 not in world.broken()
    world.data.update(stop_order=["llamacpp", "nav", "chatterbox"], restore_order=["nav", "llamacpp", "chatterbox"])
    broken = world.broken()[6]
    assert "nav.service" in broken.found
    assert how in broken.found
    assert broken.todo.split("\n    ") == [
        "trial_stop_order: put nav before llamacpp",
        "trial_restore_order: put nav after llamacpp",
    ]


@pytest.mark.parametrize(
    "facts",
    [
        # A circle, which systemd breaks as it likes; and an order without a tenant in it.
        {"nav.service": {"After": "panda-llamacpp.service"}, "panda-llamacpp.service": {"After": "nav.service"}},
        {"nav.service": {"After": "network.target"}, "panda-llamacpp.service": {"After": "network.target"}},
    ],
)
def test_what_is_no_order_of_systemds_breaks_nothing(world: World, facts: dict[str, dict[str, str]]) -> None:
    two_units(world, facts)
    assert 6 not in world.broken()
    world.data["restore_order"] = ["nav", "llamacpp", "chatterbox"]
    assert 6 not in world.broken()


def test_who_needs_one_that_goes_down_goes_down_too(world: World) -> None:
    """Also through a unit that is not active, and round in a circle."""
    world.unit = NEEDS
    world.beside = {
        "eyes.service": {"ActiveState": "inactive", "SubState": "dead", "BoundBy": "car.service"},
        "car.service": {"ConsistsOf": "panda-llamacpp.service eyes.service"},
    }
    found = world.only(6).found
    assert "car.service goes down with llamacpp (BoundBy of eyes.service) and would stay down" in found
    assert "eyes.service goes" not in found
    assert "panda-llamacpp.service goes" not in found


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("eyes.socket", {"SubState": "listening"}),
        ("eyes.timer", {"SubState": "waiting"}),
        ("eyes.target", {}),
        ("eyes.service", {"Type": "oneshot", "SubState": "exited"}),
    ],
)
def test_what_runs_nothing_is_told_and_comes_back(world: World, name: str, facts: dict[str, str]) -> None:
    world.unit, world.beside = {"RequiredBy": name}, {name: facts}
    assert world.broken() == {}
    assert f"{name} goes down with llamacpp (RequiredBy of panda-llamacpp.service) and is started again" in (
        world.evaluate()[6].found
    )
    plan = contracts.bounded(planfile.parse(world.data), world.host)[0]
    assert plan.dependents_s == 10
    world.beside = {name: {**facts, "LoadState": "masked"}}
    assert "could not be started again: its unit is masked" in world.only(6).found


@pytest.mark.parametrize(
    ("name", "facts", "start_s"),
    [
        ("eyes.service", {"TimeoutStartUSec": "30s", "SubState": "exited"}, 40.0),
        # What a one-shot has by default.
        ("eyes.service", {"TimeoutStartUSec": "infinity", "SubState": "exited"}, 100.0),
        ("eyes.mount", {"TimeoutUSec": "1min 30s", "SubState": "mounted"}, 100.0),
        # They start at once, whatever the limit of their helpers.
        ("eyes.socket", {"TimeoutUSec": "1min 30s", "SubState": "listening"}, 10.0),
        ("eyes.target", {}, 10.0),
    ],
)
def test_the_start_of_what_goes_down_with_a_tenant_is_part_of_the_bound(
    world: World, name: str, facts: dict[str, str], start_s: float
) -> None:
    before = contracts.bounded(planfile.parse(world.data), world.host)[0]
    world.unit, world.beside = {"RequiredBy": name}, {name: facts}
    after = contracts.bounded(planfile.parse(world.data), world.host)[0]
    assert after.dependents_s == start_s
    assert after.restore_bound_s == before.restore_bound_s + start_s
    short = dataclasses.replace(after, limits=dataclasses.replace(after.limits, cap_s=after.restore_bound_s))
    (trouble,) = contracts.bounded(short, world.host)[1]
    assert trouble.endswith(f" and {start_s:.0f} s for units that go down with a tenant")


def test_units_are_asked_about_all_at_once(world: World) -> None:
    """Each question to systemd costs phase 0 time; there may be many tenants."""
    world.tenant("phone").update(kind="systemd", unit="phone")
    world.tenant("nav").update(kind="systemd", unit="nav")
    world.data["stop_order"] = world.data["restore_order"] = ["chatterbox", "llamacpp", "nav", "phone"]
    world.evaluate()
    asked = [words for words in world.commands if words[1] == "show" and words[2].startswith("--property=Id,Names,")]
    assert len(asked) <= 3
    assert all(words[-3:] == ("nav.service", "panda-llamacpp.service", "phone.service") for words in asked)


def test_a_systemd_that_says_nothing_breaks_the_contract(world: World) -> None:
    world.unit = {"silent": "yes"}
    found = world.only(6).found
    assert "it is unknown which tenants could be started again: systemctl show: Failed to connect to bus" in found
    assert "chatterbox: " in found


BOX = {"name": "/nav-box", "id": "ab12", "auto_remove": False, "image": "sha256:77", "labels": {}, "shares": ["host"]}
LODGER = {**BOX, "name": "/lodger", "id": "cd34", "shares": ["container:ab12", "", "private"]}


@pytest.mark.parametrize(
    ("boxes", "image", "words"),
    [
        ([BOX], "sha256:77", ""),
        ([{**BOX, "auto_remove": True}], "sha256:77", "docker removes it when it stops (--rm)"),
        ([BOX], "", "its image sha256:77 is not there any more"),
        (
            [{**BOX, "labels": {"com.docker.compose.project.config_files": "/no/such/compose.yaml"}}],
            "sha256:77",
            "its compose file is gone: /no/such/compose.yaml",
        ),
        ([{**BOX, "labels": {"com.docker.compose.project.config_files": "/etc/passwd"}}], "sha256:77", ""),
        ([BOX, LODGER], "sha256:77", "the container lodger lives in its namespaces and would lose them"),
        ([{**BOX, "name": "/other", "id": "ff"}], "sha256:77", "no such container"),
    ],
)
def test_a_container_that_its_stop_would_destroy(
    world: World, boxes: list[dict[str, Any]], image: str, words: str
) -> None:
    world.tenant("nav").update(kind="container", container="nav-box", process="", port=0)
    world.data["stop_order"] = world.data["restore_order"] = ["chatterbox", "llamacpp", "nav"]
    said = "\n".join(json.dumps(box) for box in boxes)
    world.answers = {
        BOX_RUNS: contracts.Ran(0, RUNNING_BOX, ""),
        "docker inspect --type container": contracts.Ran(0, said, "" if not words else "no such container\n"),
        "docker image inspect": contracts.Ran(0 if image else 1, f"{image}\n", ""),
    } | world.answers
    if not words:
        assert world.broken() == {}
        return
    assert f"nav could not be brought back: {words}" in world.only(6).found


@pytest.mark.parametrize(
    ("start", "file", "words"),
    [
        ("docker compose up -d", "compose.yaml", ""),
        ("docker compose up -d", "docker-compose.yml", ""),
        ("docker compose -f own.yml up -d", "own.yml", ""),
        ("docker-compose --file=own.yml up -d", "own.yml", ""),
        ("docker compose up -d", "", "there is no compose file in"),
        ("docker compose -f own.yml up -d", "compose.yaml", "its compose file is gone: "),
        ("docker-compose --file=own.yml up -d", "compose.yaml", "its compose file is gone: "),
    ],
)
def test_a_compose_project_needs_its_file(world: World, start: str, file: str, words: str) -> None:
    world.tenant("chatterbox")["start"] = start
    if file:
        (world.folder / file).write_text("services: {}\n")
    if not words:
        assert world.broken() == {}
        return
    assert f"chatterbox could not be brought back: {words}" in world.only(6).found


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("TimeoutStopUSec=1min 30s\n", ""),
        # A stop command of its own may take as long, and what then has to be signaled again.
        ("TimeoutStopUSec=10min\n", ""),
        (
            "TimeoutStopUSec=10min\nExecStop={ path=/bin/sleep }\n",
            "limits.cap_s of 1500 s leaves no time for the window",
        ),
        ("TimeoutStopUSec=infinity\n", "the stop of llamacpp has no limit (TimeoutStopSec=infinity in its unit)"),
        ("", "systemd does not say how long llamacpp may take to stop"),
    ],
)
def test_a_unit_must_stop_in_bounded_time(world: World, out: str, words: str) -> None:
    """What was begun is waited for, and the host must be back when the cap is reached."""
    world.answers["systemctl show --property=TimeoutStopUSec,ExecStop panda-llamacpp"] = contracts.Ran(0, out, "")
    if not words:
        assert world.broken() == {}
        return
    assert words in world.only(6).found
    # Who is not stopped may take its time.
    world.data.update(stop_order=["chatterbox"], restore_order=["chatterbox"])
    assert world.broken() == {}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("start", "./strat.sh", "strat.sh is not there or not executable"),
        ("stop", "./stopp.sh", "stopp.sh is not there or not executable"),
        ("directory", "/no/such/folder", "there is no folder /no/such/folder"),
        ("user", "nobody-we-know", "there is no user 'nobody-we-know'"),
    ],
)
def test_a_tenant_that_could_not_be_brought_back(world: World, field: str, value: str, message: str) -> None:
    world.tenant("chatterbox")[field] = value
    assert f"chatterbox could not be brought back: {world.folder}/{message}" in world.only(6).found.replace(
        "back: there", f"back: {world.folder}/there"
    )


def test_vram_that_could_never_be_called_steady_again(world: World) -> None:
    world.used_mib = 14_900
    assert "14.55 GB" in world.only(7).found
    world.used_mib, world.holders = 13_700, 1
    contract = world.only(7)
    assert "no memory is held by" in contract.found
    assert "vram_process" in contract.todo


@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (contracts.Ran(0, "ActiveState=failed\nSubState=failed\n", ""), "unit panda-llamacpp is failed (failed)"),
        (contracts.Ran(0, "ActiveState=activating\nSubState=auto-restart\n", ""), "is activating (auto-restart)"),
        (contracts.Ran(0, RUNNING + "Job=7\n", ""), "is active (running) with a job in the queue (7)"),
        (contracts.Ran(0, "LoadState=not-found\nActiveState=inactive\n", ""), "systemd has no unit panda-llamacpp"),
        (
            contracts.Ran(1, "", "Failed to connect to bus\n"),
            "systemd does not report the state of panda-llamacpp: Failed to",
        ),
    ],
)
def test_a_unit_that_is_not_active(world: World, ran: contracts.Ran, words: str) -> None:
    world.answers["systemctl show --property LoadState,"] = ran
    found = world.evaluate()[6]
    assert not found.ok
    assert words in found.found.split("; ")[0]


def test_a_unit_without_a_process_is_as_healthy_as_its_state(world: World) -> None:
    world.tenant("llamacpp").update(health=None, process="")
    said = "LoadState=loaded\nActiveState=active\nSubState=exited\nMainPID=0\n"
    world.answers["systemctl show --property LoadState,"] = contracts.Ran(0, said, "")
    assert "llamacpp: unit panda-llamacpp is active (exited)" in world.evaluate()[6].found


def test_a_process_that_is_not_there(world: World) -> None:
    world.tenant("phone").update(process="phone_call.py manual", port=0)
    assert "phone: no process 'phone_call.py manual'" in world.only(6).found


def test_containers_are_asked_of_docker(world: World) -> None:
    world.tenant("nav").update(kind="container", container="nav-box", process="", health=None)
    world.answers = {BOX_RUNS: contracts.Ran(0, RUNNING_BOX, "")} | world.answers
    assert "nav: container nav-box is running" in world.evaluate()[6].found
    for said, words in (
        ("Error response from daemon: No such container: nav-box", "nav: docker has no container nav-box"),
        (
            "Cannot connect to the Docker daemon",
            "docker does not report the state of the container nav-box: Cannot connect",
        ),
    ):
        world.answers[BOX_RUNS] = contracts.Ran(1, "", said)
        assert words in world.broken()[6].found


OPENS = "docker exec nav-box sh -c test -e /dev/nvidiactl"
DEAF = "sh: 1: cannot open /dev/nvidiactl: Operation not permitted\n"


@pytest.mark.parametrize(
    ("opened", "smi", "broken"),
    [
        (contracts.Ran(0, "", ""), None, ""),
        (contracts.Ran(2, "", DEAF), None, "container nav-box can't open the card: sh: 1: cannot open"),
        (contracts.Ran(126, "", ""), contracts.Ran(0, "GPU 0\n", ""), ""),
        (contracts.Ran(127, "", "no sh"), contracts.Ran(255, "Failed to initialize NVML: Unknown Error\n", ""),
         "container nav-box can't open the card: Failed to initialize NVML: Unknown Error"),
        # An image without either can't be asked.
        (contracts.Ran(127, "", "no sh"), contracts.Ran(127, "", "no nvidia-smi"), ""),
    ],
    ids=["sees", "deaf", "sees by nvidia-smi", "deaf by nvidia-smi", "can't be told"],
)  # fmt: skip
def test_a_container_that_has_lost_the_gpu_is_not_healthy(
    world: World, opened: contracts.Ran, smi: contracts.Ran | None, broken: str
) -> None:
    """Its health page answers as before."""
    world.tenant("nav").update(kind="container", container="nav-box", process="", health=None, vram_process="uvicorn")
    world.answers = {
        BOX_RUNS: contracts.Ran(0, RUNNING_BOX, ""),
        OPENS: opened,
    } | world.answers
    if smi:
        world.answers["docker exec nav-box nvidia-smi -L"] = smi
    found = world.evaluate()[6]
    assert found.ok is not bool(broken)
    assert broken in found.found


def test_a_container_that_uses_no_gpu_is_not_asked_about_it(world: World) -> None:
    world.tenant("nav").update(kind="container", container="nav-box", process="", health=None)
    world.evaluate()
    assert not [words for words in world.commands if "exec" in words]


def test_a_container_cannot_be_asked_without_sudo(world: World) -> None:
    world.sudo_error = "sudo: no\n"
    world.tenant("nav").update(kind="container", container="nav-box", process="")
    assert "nav: sudo: no" in world.broken()[6].found


def test_a_tenant_with_nothing_to_ask(world: World) -> None:
    world.tenant("phone").update(kind="systemd", unit="panda-llamacpp", health=None, process="", watch_process=False)
    assert "phone: unit panda-llamacpp is active (running)" in world.evaluate()[6].found
    world.tenant("phone").update(kind="script", user="u", directory="/", start="a", stop="b")
    assert "phone: nothing to ask" in world.evaluate()[6].found


@pytest.mark.parametrize(("parent", "apart"), [(1, False), (20, True)])
@pytest.mark.parametrize("moved", [True, False])
def test_a_tenant_that_is_stopped_must_be_told_from_others(
    world: World, monkeypatch: pytest.MonkeyPatch, moved: bool, parent: int, apart: bool
) -> None:
    """A worker of its own has the same argv; and so may a stranger's program."""
    # A machine that others share may need longer than a host may take.
    for name in ("QUESTION_S", "TOGETHER_S"):
        monkeypatch.setattr(contracts, name, 60.0)
    nav = world.tenant("nav")
    nav.update(user=getpass.getuser(), start="./start.sh", directory=str(world.folder))
    if moved:
        world.data["stop_order"].append("nav")
        world.data["restore_order"].append("nav")
    world.process(21, ["uvicorn", "elsewhere:app"])
    (world.proc / "21" / "stat").write_text(f"21 (x) S {parent} " + "0 " * 17 + "2100 0\n")
    found = world.evaluate()[6]
    assert found.ok is (apart or not moved)
    words = "PIDs 20, 21 all have the argv 'uvicorn', and none descends from another"
    assert (f"nav could not be stopped alone: {words}" in found.found) is (moved and not apart)
    # Who stays as he is need not be told apart; it is said all the same.
    assert (f"warning: nav cannot be told apart from others: {words}" in found.found) is (not moved and not apart)


# 7


@pytest.mark.parametrize(
    ("section", "key"), [("contracts", "disk_gb_min"), ("contracts", "ram_gb_min"), ("gpu", "total_gb_min")]
)
def test_too_little_room(world: World, section: str, key: str) -> None:
    world.data[section][key] = 1_000_000.0
    contract = world.only(7)
    assert "RAM 15.3 GB available, VRAM 15.92 GB (RTX 5070 Ti)" in contract.found
    assert "1e+06 GB" in contract.expected


def test_a_gpu_that_cannot_be_read(world: World) -> None:
    world.gpu_error = "NVML's nvmlInit failed: Driver Not Loaded"
    assert world.only(7).found == "NVML's nvmlInit failed: Driver Not Loaded"


def test_a_host_that_does_not_tell_its_memory(world: World) -> None:
    (world.proc / "meminfo").write_text("MemTotal: 1 kB\n")
    assert "cannot be evaluated: ValueError" in world.only(7).found


# 8


def test_docker_in_words(world: World) -> None:
    found = world.evaluate()[8].found
    assert found == ("docker 26.1.5, live-restore off, restart policies: other=always, third; GPU access by cdi")


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
def test_containers_that_are_open_to_somebody_elses_reload_are_a_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, "CgroupDriver": driver}), "")
    rows = [
        ["/voice", None, "nvidia", None, ["NVIDIA_VISIBLE_DEVICES=all"]],
        ["/web", None, "runc", None, []],
    ]
    said = "\n".join(map(json.dumps, rows))
    world.answers = {f"docker inspect --format {contracts.reload.INSPECT}": contracts.Ran(0, said, "")} | world.answers
    monkeypatch.setattr(contracts.reload, "unlinked", lambda _dev: ["nvidiactl"])
    found = world.evaluate()[8]
    assert found.ok
    assert ("lose the GPU at a reload of systemd" in found.warning) is (driver == "systemd")
    if driver == "systemd":
        assert ": voice (docker's cgroup driver is systemd" in found.warning
    assert {c.warning for c in world.evaluate().values() if c.id not in (8, 14)} == {""}


@pytest.mark.parametrize(
    ("path", "rc", "ok"),
    [("/usr/bin:/bin", 0, True), ("/nowhere:/not/there", 127, False), ("", 127, True)],
)
def test_docker_is_where_the_trials_units_look(world: World, patient: None, path: str, rc: int, ok: bool) -> None:
    """A login finds it elsewhere, as in /snap/bin; a restore would not."""
    (world.folder / "bin").mkdir()
    docker = world.folder / "bin" / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    if path and ok:
        path = f"{path}:{docker.parent}"
    world.answers["systemctl show-environment"] = contracts.Ran(0, f"LANG=C\nPATH={path}\n" if path else "", "")
    if ok:
        assert world.broken() == {}
        return
    broken = world.only(8)
    assert f"in none of the folders on the PATH of the trial's units ({path})" in broken.found
    assert "sudo ln -s" in broken.todo


def test_docker_without_containers(world: World) -> None:
    world.answers["docker ps"] = contracts.Ran(0, "", "")
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, "LiveRestoreEnabled": True}), "")
    assert "live-restore on, no running containers" in world.evaluate()[8].found


@pytest.mark.parametrize(
    ("ran", "message"),
    [
        (contracts.Ran(127, "", "docker: No such file or directory"), "docker: No such file or directory"),
        (contracts.Ran(1, "", "Cannot connect to the Docker daemon"), "Cannot connect to the Docker daemon"),
        (
            contracts.Ran(0, '{"ServerErrors": ["Cannot connect"]}', ""),
            "docker does not answer: Cannot connect",
        ),
    ],
)
def test_a_docker_that_does_not_answer(world: World, ran: contracts.Ran, message: str) -> None:
    world.answers["docker info"] = ran
    contract = world.only(8)
    assert message in contract.found
    assert "start docker" in contract.todo


def test_no_cdi_specification(world: World) -> None:
    (world.cdi / "nvidia.yaml").write_text("kind: vendor.com/nic\n")
    (world.cdi / "notes.txt").write_text("kind: nvidia.com/gpu\n")
    contract = world.only(8)
    assert f"no CDI specification of kind nvidia.com/gpu in {world.cdi}" in contract.found
    assert "nvidia-ctk cdi generate" in contract.todo


def test_a_cdi_specification_in_json_where_docker_looks(world: World) -> None:
    (world.cdi / "nvidia.yaml").unlink()
    other = world.folder / "other"
    other.mkdir()
    (other / "gpu.json").write_text('{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu"}')
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, "CDISpecDirs": [str(other)]}), "")
    assert world.broken() == {}


def test_cdi_switched_off(world: World) -> None:
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, "CDISpecDirs": []}), "")
    assert "CDI is off in docker's configuration" in world.only(8).found


def test_the_nvidia_runtime(world: World) -> None:
    world.data["candidate"]["gpu_access"] = "gpus"
    (world.cdi / "nvidia.yaml").unlink()
    assert world.broken() == {}
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, "Runtimes": {"runc": {}}}), "")
    contract = world.only(8)
    assert "docker has no runtime called nvidia" in contract.found
    assert "cdi" not in contract.todo


def test_no_gpu_for_containers(world: World) -> None:
    world.data["candidate"]["gpu_access"] = "none"
    (world.cdi / "nvidia.yaml").unlink()
    assert world.broken() == {}


# 9


def test_an_open_mark_names_run_and_time(world: World) -> None:
    mark = {"run": "e4b-1", "epoch": 3, "boot_id": "x", "since": "2026-05-01T10:00:00Z", "controller": "me"}
    (world.state / "open").write_text(json.dumps(mark))
    contract = world.only(9)
    assert contract.found.startswith("run e4b-1 has held this host since 2026-05-01T10:00:00Z")
    assert "model-trial status" in contract.todo
    assert "restore.yml" in contract.todo


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_torn_mark_is_a_mark(world: World, text: str) -> None:
    (world.state / "open").write_text(text)
    found = world.only(9).found
    assert "run (the mark cannot be read) has held this host since 20" in found
    assert "Z (open mark" in found


def test_no_state_at_all_is_no_mark(world: World) -> None:
    world.state.rmdir()
    assert world.broken() == {}


def test_a_mark_that_cannot_be_read(world: World) -> None:
    (world.state / "open").mkdir()
    assert "cannot be read" in world.only(9).found


def test_a_runner_at_work_without_a_mark(world: World) -> None:
    world.answers["systemctl is-active mt-restore"] = contracts.Ran(3, "activating\n", "")
    assert world.only(9).found == "no open mark, but mt-restore.service is activating"


# 10


def test_the_camera_image_is_described(world: World) -> None:
    assert world.evaluate()[10].found.endswith(f"car.jpg: JPEG, 640 x 480 pixels, {len(JPEG)} bytes")


def test_a_camera_image_that_is_cut_off(world: World) -> None:
    (world.folder / "car.jpg").write_bytes(JPEG[:-2])
    assert "the JPEG has no end" in world.only(10).found


def test_every_picture_of_the_scenes_is_looked_at(world: World) -> None:
    views = world.folder / "views"
    views.mkdir()
    for name, last in (("ball", b"\1"), ("cup", b"\2")):
        (views / f"{name}.jpg").write_bytes(JPEG[:-3] + last + JPEG[-2:])
    (views / "labels.csv").write_text("image,expected\nball.jpg,left large\n")
    world.data["scenes"] = {"folder": str(views), "labels": "labels.csv"}
    assert world.evaluate()[10].found.endswith(f"; 2 scenes of {views}, 1 of them with the right answer")
    world.data["accuracy_not_worse_by"] = 5
    assert world.broken() == {}
    (views / "labels.csv").write_text("image\nball.jpg\n")
    assert "needs scenes with the right answer, found none in 2 scenes" in world.only(10).found
    (views / "labels.csv").write_text("image,expected\nball.jpg,left large\n")
    (views / "cup.jpg").write_bytes(JPEG[:-2])
    broken = world.only(10)
    assert "cup.jpg: the JPEG has no end" in broken.found
    assert f"so is every scene, *.jpg in {views}, and labels.csv describes them" in broken.expected
    assert "trial_scenes" in broken.todo
    (views / "labels.csv").write_text("image\nnone.jpg\n")
    assert "labels.csv:2" in world.only(10).found


def test_right_answers_go_to_the_controller(world: World) -> None:
    views = world.folder / "views"
    views.mkdir()
    for name, last in (("ball", b"\1"), ("cup", b"\2")):
        (views / f"{name}.jpg").write_bytes(JPEG[:-3] + last + JPEG[-2:])
    (views / "labels.csv").write_text('image,expected\ncup.jpg,""\nball.jpg,lefft large\n')
    world.data["scenes"] = {"folder": str(views), "labels": "labels.csv"}
    told = {one.id: one.labels for one in world.evaluate().values() if one.labels}
    assert told == {10: [{"place": f"{views}/labels.csv:3: scene ball: expected", "label": "lefft large"}]}
    world.data["rehearsal"] = True
    assert world.evaluate()[10].labels == []


@pytest.mark.parametrize(
    ("slo", "n", "warned"),
    [
        (None, 20, []),
        ({"p95_ms": 0, "hz": 0}, 20, []),
        (
            {"p95_ms": 30},
            71,
            ["slo.p95_ms can't be shown as kept by 71 samples of nav", "it takes 72 (n in trial_workloads)"],
        ),
        ({"p95_ms": 30}, 72, []),
        ({"hz": 10}, 5, ["slo.hz can't be shown as kept by 5 samples", "it takes 6"]),
        ({"hz": 10}, 6, []),
        ({"p95_ms": 30, "hz": 10}, 1, ["slo.p95_ms can't be shown as kept by 1 sample of nav", "; slo.hz"]),
    ],
)
def test_a_level_that_too_few_samples_can_not_show_is_a_warning(
    world: World, slo: dict[str, float] | None, n: int, warned: list[str]
) -> None:
    world.data["slo"] = slo
    world.data["workloads"][0].update(n=n, first_n=1)
    found = world.evaluate()[10]
    assert found.ok
    assert bool(found.warning) is bool(warned)
    assert all(words in found.warning for words in warned), found.warning
    world.data["rehearsal"] = True
    assert world.evaluate()[10].warning == ""


def test_a_home_folder_is_the_login_users(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(world.folder))
    world.data["contracts"]["camera"] = "~/car.jpg"
    assert world.broken() == {}


# 11


def test_the_pins_in_words(world: World) -> None:
    assert world.evaluate()[11].found == "image, revision and 2 files are pinned"


def test_an_image_by_digest_is_pinned(world: World) -> None:
    world.data["image"] = f"registry.example/bench@sha256:{'a' * 64}"
    assert world.broken() == {}


BASE = "ghcr.example/server:cuda"


@pytest.mark.parametrize(
    ("digest", "built_on", "message"),
    [
        ("", "", f"digest of {BASE} is unset"),
        ("sha256:" + "b" * 64, "cpu-base:1", "the image is built on cpu-base:1"),
        ("sha256:" + "b" * 64, f"ghcr.example/server@sha256:{'c' * 64}", "make image HOST=panda"),
    ],
)
def test_an_image_on_another_base_is_named(world: World, digest: str, built_on: str, message: str) -> None:
    world.data.update(base_image=BASE, base_digest=digest, image_base=built_on, host="panda")
    assert message in world.only(11).found


def test_an_image_on_the_pinned_base(world: World) -> None:
    digest = "sha256:" + "b" * 64
    world.data.update(base_image=BASE, base_digest=digest, image_base=f"ghcr.example/server@{digest}")
    assert world.broken() == {}


def test_files_without_a_repository_need_no_revision(world: World) -> None:
    world.data["candidate"].update(repo="", revision="")
    assert world.broken() == {}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("image", "", "image is unset"),
        ("image", "bench:latest", "image is bench:latest"),
        ("candidate.revision", "main", "revision of unsloth/gemma-4-E4B-it-GGUF is main"),
        ("candidate.revision", "", "is unset"),
        ("candidate.files.1.sha256", "", "sha256 of mmproj-F16.gguf is unset"),
        ("candidate.files.1.sha256", "0" * 63 + "\n", "sha256 of mmproj-F16.gguf is 000"),
        ("candidate.files", [], "no file of the candidate has the role model"),
    ],
)
def test_an_unset_pin_is_named(world: World, path: str, value: Any, message: str) -> None:
    place: Any = world.data
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in parents:
        place = place[key]
    place[last] = value
    contract = world.only(11)
    assert message in contract.found
    assert "make pin" in contract.todo


# 12


def test_a_call_in_progress(world: World) -> None:
    world.server.json("/phone", {"in_call": True})
    contract = world.only(12)
    assert contract.found == "no call in progress: in_call = true"
    assert "operator_confirms_idle=true" in contract.todo


def test_the_operators_word_counts_and_the_probes_stay_visible(world: World) -> None:
    world.server.json("/phone", {"in_call": True})
    world.data["contracts"]["operator_confirms_idle"] = True
    contract = world.evaluate()[12]
    assert contract.ok
    assert contract.found == "the operator says that the host is idle; no call in progress: in_call = true"


def test_nobody_says_that_the_host_is_idle(world: World) -> None:
    world.data["contracts"]["quiet"] = []
    contract = world.only(12)
    assert contract.found == "the inventory has no quiet probe, and operator_confirms_idle is not set"
    world.data["contracts"]["operator_confirms_idle"] = True
    assert world.broken() == {}


def test_quiet_is_asked_alone(world: World) -> None:
    found = contracts.quiet(planfile.parse(world.data), world.host)
    assert [(c.id, c.ok) for c in found] == [(12, True)]
    assert world.commands == []
    world.server.json("/phone", {"in_call": True})
    assert not contracts.quiet(planfile.parse(world.data), world.host)[0].ok


# Time


def test_a_fit_host_is_judged_at_once(world: World) -> None:
    began = time.monotonic()
    world.evaluate()
    assert time.monotonic() - began < 2


def test_dead_tenants_do_not_make_it_slow(world: World, reply: Callable[..., Any]) -> None:
    for tenant in world.data["tenants"]:
        tenant["health"]["timeout_s"] = 30
    for path in list(world.server.routes):
        world.server.routes[path] = reply(b"x" * 100, delay_s=20)
    world.server.routes["/nav"] = reply(b"x" * 100, drip_s=0.2)
    began = time.monotonic()
    broken = world.broken()
    assert time.monotonic() - began < 10
    assert list(broken) == [6, 12]
    assert "chatterbox: " in broken[6].found
    # Its own limit, or that of all looks together: whichever is first.
    assert "timed out" in broken[6].found or "no answer within" in broken[6].found


def test_a_hanging_command_breaks_its_contract_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contracts, "TOGETHER_S", 2.0)
    inner = world.run

    def slow(argv: Sequence[str]) -> contracts.Ran:
        if "docker" in argv:
            time.sleep(5)
        return inner(argv)

    world.run = slow  # type: ignore[method-assign]  # docker hangs
    assert world.only(8).found == "no answer within 2 s"


def test_a_crash_is_a_broken_contract(world: World) -> None:
    inner = world.run

    def crash(argv: Sequence[str]) -> contracts.Ran:
        if "docker" in argv:
            raise KeyError("surprise")
        return inner(argv)

    world.run = crash  # type: ignore[method-assign]  # something nobody thought of
    assert world.only(8).found == "cannot be evaluated: KeyError('surprise')"


# Commands


def test_commands_give_their_status_and_texts() -> None:
    assert contracts.run_command(["sh", "-c", "echo out; echo err >&2; exit 3"]) == contracts.Ran(3, "out\n", "err\n")


def test_an_absent_command_is_a_failed_one() -> None:
    ran = contracts.run_command(["absent-command-of-nobody"])
    assert ran.rc == 127
    assert "No such file" in ran.err


def test_a_slow_command_is_a_failed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contracts, "QUESTION_S", 0.1)
    assert contracts.run_command(["sleep", "5"]).rc == 126


def test_sudo_is_really_called_with_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "sudo"
    tool.write_text('#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec "$@"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    host = contracts.Host(as_root=False)
    assert host.root("echo", "hello") == contracts.Ran(0, "hello\n", "")
    tool.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    with pytest.raises(contracts.NoSudo, match="a password is required"):
        host.root("true")


def test_the_real_host_is_the_default() -> None:
    host = contracts.Host()
    assert host.proc == Path("/proc")
    assert host.state_dir == Path("/var/lib/model-trial")
    assert host.as_root is (subprocess.check_output(["id", "-u"], text=True).strip() == "0")
    assert isinstance(probes.listeners(host.proc), list)


def test_a_parser_that_can_not_be_cut_out_breaks_the_prompts_contract(world: World) -> None:
    prompt = world.data["contracts"]["prompt"]
    world.data["contracts"]["parser"] = {"file": prompt["file"], "function": prompt["function"]}
    assert world.broken() == {}
    world.data["contracts"]["parser"]["function"] = "no_such_parser"
    assert "no_such_parser" in world.only(5).found


# Rehearsals


def test_a_rehearsal_is_spared_what_concerns_a_candidate_alone(world: World) -> None:
    world.data["rehearsal"] = True
    world.data["image"] = ""
    world.data["contracts"]["camera"] = "/absent.jpg"
    world.data["contracts"]["prompt"]["file"] = "/absent.py"
    world.data["contracts"].update(disk_gb_min=1e9, ram_gb_min=1e9)
    (world.cdi / "nvidia.yaml").unlink()
    found = world.evaluate()
    assert [i for i, c in found.items() if not c.ok] == []
    assert [i for i, c in found.items() if c.spared] == [5, 7, 8, 10, 11]
    # What a trial would find is reported anyway, with what to do about it.
    assert "image is unset" in found[11].found
    assert "make pin" in found[11].todo
    world.data["rehearsal"] = False
    assert list(world.broken()) == [5, 7, 8, 10, 11]


def test_in_a_rehearsal_everything_else_holds(world: World, free_port: int) -> None:
    world.data["rehearsal"] = True
    world.listen(free_port, 0)
    world.used_mib = 9_000
    world.server.json("/phone", {"in_call": True})
    world.answers["docker info"] = contracts.Ran(1, "", "Cannot connect to the Docker daemon")
    (world.state / "open").write_text("{}")
    found = world.evaluate()
    assert [i for i, c in found.items() if not c.ok] == [3, 7, 8, 9, 12]
    assert [i for i, c in found.items() if c.spared] == []


def test_a_card_that_is_too_small_is_nothing_to_be_spared(world: World) -> None:
    world.data["rehearsal"] = True
    world.total_mib = 14_000
    world.data["contracts"]["disk_gb_min"] = 1e9
    assert world.only(7).spared is False


# 14: a rehearsal


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time: these tests start real programs, and are about what they say."""
    monkeypatch.setattr(contracts, "QUESTION_S", 100.0)
    monkeypatch.setattr(contracts, "TOGETHER_S", 200.0)


def rehearse(world: World) -> None:
    """The host has come back from exactly this."""
    world.answers["systemctl cat"] = contracts.Ran(0, "[Service]\nExecStart=/usr/bin/llama-server\n", "")
    plan = planfile.parse(world.data)
    rehearsal.keep(plan, State(world.state), dataclasses.replace(world.host, as_root=True), "ab" * 32)


@pytest.mark.parametrize("require", [False, True])
@pytest.mark.parametrize("known", ["never", "stale", "fresh", "silent"])
def test_a_host_that_never_came_back_is_a_warning_or_refused(
    world: World, patient: None, require: bool, known: str
) -> None:
    world.program = "ab" * 32
    world.data["require_rehearsal"] = require
    if known != "never":
        rehearse(world)
    if known == "stale":
        (world.folder / "start.sh").write_text("#!/bin/sh\nexec ./another.sh\n")
    if known == "silent":
        world.answers["systemctl cat"] = contracts.Ran(126, "", "systemctl did not end within 2.5 s")
    found = world.evaluate()[14]
    assert (found.ok, bool(found.warning)) == (known == "fresh" or not require, known != "fresh" and not require)
    words = {
        "never": "no rehearsal of this host has passed",
        "stale": f"changed since: script {world.folder}/start.sh",
        "fresh": "rehearsed at 2",
        "silent": "it is unknown whether this was rehearsed",
    }
    assert words[known] in found.found
    assert ("rehearse.yml" in found.todo) is (known != "fresh")


def test_a_rehearsal_needs_none(world: World) -> None:
    world.data.update(rehearsal=True, require_rehearsal=True)
    found = world.evaluate()[14]
    assert (found.ok, found.warning, found.spared) == (True, "", False)


@pytest.mark.parametrize("require", [False, True])
def test_without_sudo_a_record_can_not_be_read(world: World, require: bool) -> None:
    world.data["require_rehearsal"] = require
    world.sudo_error = "sudo: a password is required"
    assert (14 in world.broken()) is require


# 13: ground truth


def truth(world: World, status: str, **more: Any) -> None:
    """What was found out about the candidate's model file."""
    model = next(f for f in planfile.parse(world.data).candidate.files if f.role == "model")
    file = {"sha256": model.sha256, "status": status, "says": f"tiny Q8_0: {status}", **more}
    world.data["ground_truth"] = {"format": 1, "made": "2026-11-21", "required": True, "files": [file]}


def test_nobody_asked_for_ground_truth(world: World) -> None:
    assert world.evaluate()[13].found == "not requested"


def test_a_good_verdict_about_the_pinned_file(world: World) -> None:
    truth(world, "passed")
    found = world.evaluate()[13]
    assert found.ok
    assert found.found == "gemma-4-E4B-it-Q4_K_M.gguf: tiny Q8_0: passed"
    assert "exactly the pinned model file" in found.expected


@pytest.mark.parametrize(
    ("status", "todo"), [("missing", "-e ground_truth_required=false"), ("open", "check"), ("failed", "another file")]
)
def test_a_required_verdict_that_is_not_good(world: World, status: str, todo: str) -> None:
    truth(world, status)
    contract = world.only(13)
    assert f"tiny Q8_0: {status}" in contract.found
    assert todo in contract.todo
    world.data["ground_truth"]["required"] = False
    assert world.evaluate()[13].found.endswith("(not required)")


def test_a_verdict_about_another_file_is_none(world: World) -> None:
    truth(world, "passed", sha256="f" * 64)
    assert "no verdict about this file was looked up" in world.only(13).found
    # A play that never looked leaves only the requirement.
    world.data["ground_truth"] = {"required": True}
    assert world.only(13).todo


def test_a_candidate_without_a_model_file_has_no_ground_truth(world: World) -> None:
    truth(world, "passed")
    for file in world.data["candidate"]["files"]:
        file["role"] = "other"
    assert world.broken()[13].found == "the candidate has no model file"


def test_a_rehearsal_needs_no_ground_truth(world: World) -> None:
    truth(world, "failed")
    world.data["rehearsal"] = True
    assert world.evaluate()[13].spared


def test_an_unknown_status_is_no_plan(world: World) -> None:
    truth(world, "fine")
    with pytest.raises(planfile.PlanError, match=r"ground_truth\.files\[0\]\.status: expected one of passed, failed"):
        planfile.parse(world.data)


# Without a trial, and without a card


@pytest.fixture
def site(world: World) -> dict[str, Any]:
    """The same host where nothing is tried, without a card."""
    known = ("clauses", "quiet", "disk_gb_min", "ram_gb_min")
    return {
        "tenants": world.data["tenants"],
        "contracts": {name: world.data["contracts"][name] for name in known},
        "stop_order": ["chatterbox", "llamacpp"],
    }


def no_card(_index: int) -> gpu.Card:
    raise AssertionError("nobody may ask for a card")


def of_site(world: World, data: dict[str, Any], only: Sequence[int] = ()) -> dict[int, contracts.Contract]:
    host = dataclasses.replace(world.host, card=no_card)
    return {c.id: c for c in contracts.evaluate(planfile.parse_site(data), host, only)}


def test_a_host_where_nothing_is_tried_has_the_contracts_of_a_host(world: World, site: dict[str, Any]) -> None:
    found = of_site(world, site)
    assert list(found) == [1, 2, 4, 6, 7, 9, 12]
    assert [c.found for c in found.values() if not c.ok] == []
    # It will be stopped, so what a start needs is looked at.
    (world.folder / "start.sh").unlink()
    assert "chatterbox could not be brought back" in of_site(world, site, [6])[6].found


@pytest.mark.parametrize(("lacking", "short"), [("disk_gb_min", 10**9), ("ram_gb_min", 10**9), (None, 0)])
def test_without_a_card_room_is_disk_and_memory(
    world: World, site: dict[str, Any], lacking: str | None, short: int
) -> None:
    if lacking:
        site["contracts"][lacking] = short
    found = of_site(world, site, [7])[7]
    assert found.ok is (lacking is None)
    for text in (found.expected, found.found):
        assert "VRAM does not apply: the inventory names no card (trial_gpu)" in text


def test_a_rehearsal_without_a_card_asks_for_none(world: World) -> None:
    world.data.update(gpu=None, rehearsal=True)
    found = contracts.evaluate(planfile.parse(world.data), dataclasses.replace(world.host, card=no_card))
    assert len(found) == 14
    assert [(c.id, c.found) for c in found if not c.ok] == []
    assert "VRAM does not apply" in found[6].found


@pytest.mark.parametrize(
    ("change", "only", "found"),
    [
        ({}, [9, 1], [1, 9]),
        ({"contracts": {}}, [], [1, 4, 6, 7, 9]),
        ({"tenants": [], "stop_order": []}, [], [1, 2, 7, 9, 12]),
        ({}, [1, 15], "only: expected numbers of contracts: 1 (sudo without a password), 2 (production survives"),
        ({}, [1, 15], "; found 15"),
        ({}, [0], "; found 0"),
        ({}, [11], "; found 11 (it needs the plan of a trial)"),
        ({"contracts": {}}, [2, 12], "; found 2 (it needs contracts.clauses), 12 (it needs contracts.quiet)"),
        ({"tenants": [], "stop_order": []}, [6], "; found 6 (it needs tenants)"),
    ],
)
def test_contracts_are_chosen_by_their_numbers(
    world: World, site: dict[str, Any], change: dict[str, Any], only: list[int], found: list[int] | str
) -> None:
    chosen = planfile.parse_site({**site, **change})
    if isinstance(found, list):
        assert [term.id for term in contracts.chosen(chosen, only)] == found
        return
    with pytest.raises(contracts.NoSuchContract) as caught:
        contracts.evaluate(chosen, world.host, only)
    assert found in str(caught.value)
    assert world.commands == []


def test_a_trials_contracts_are_chosen_likewise(world: World) -> None:
    found = contracts.evaluate(planfile.parse(world.data), world.host, [11, 3])
    assert [(c.id, c.ok) for c in found] == [(3, True), (11, True)]


# What real hosts are like.

DISCOVERED = [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]


@pytest.mark.parametrize("access", ["cdi", "gpus"])
@pytest.mark.parametrize(("devices", "fit"), [(DISCOVERED, True), ([{"Source": "cdi", "ID": "other.com/x=0"}], False)])
def test_devices_that_docker_has_found_itself_count(
    world: World, access: str, devices: list[dict[str, str]], fit: bool
) -> None:
    """Newer versions of Docker serve --gpus with them, without a runtime of NVIDIA's."""
    world.data["candidate"]["gpu_access"] = access
    (world.cdi / "nvidia.yaml").unlink()
    info = {**INFO, "Runtimes": {"runc": {}}, "DiscoveredDevices": devices}
    world.answers["docker info"] = contracts.Ran(0, json.dumps(info), "")
    assert list(world.broken()) == ([] if fit else [8])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, "docker is a snap"),
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=userns"]}, "docker remaps the users of containers"),
    ],
)
def test_a_docker_that_can_not_make_the_candidate_is_named(world: World, facts: dict[str, Any], words: str) -> None:
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, **facts}), "")
    found = world.only(8)
    assert found.found.startswith(words)
    assert found.todo


def test_another_store_of_images_is_a_warning(world: World) -> None:
    store = [["driver-type", "io.containerd.snapshotter.v1"]]
    world.answers["docker info"] = contracts.Ran(0, json.dumps({**INFO, "DriverStatus": store}), "")
    assert "containerd's store, where an image has another ID" in world.evaluate()[8].warning


@pytest.mark.parametrize(("memory", "warned"), [("12g", False), ("20g", True), ("20480M", True), ("512m", False)])
def test_a_candidate_that_may_take_more_memory_than_there_is_is_a_warning(
    world: World, memory: str, warned: bool
) -> None:
    world.data["candidate"]["memory"] = memory
    found = world.evaluate()[7]
    assert found.ok
    assert (
        "the candidate may take 20.0 GB of RAM (candidate.memory), and 15.3 GB are available" in found.warning
    ) is warned


def test_a_tenant_that_may_have_unloaded_its_model_is_told_so(world: World) -> None:
    world.holders = 2
    assert "unloads its model while it is idle is not supported" in world.only(7).todo


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("systemd 247 (247.3-7)\n+PAM\n", "systemd 247 is too old: the restore is started by OnSuccess="),
        ("systemd 249 (249.11)\n", ""),
        ("systemd 252 (252.38-1~deb12u1)\n", ""),
        ("what?\n", ""),
    ],
)
def test_a_systemd_without_what_a_restore_needs_is_named(world: World, told: str, words: str) -> None:
    world.answers["systemctl --version"] = contracts.Ran(0, told, "")
    assert list(world.broken()) == ([6] if words else [])
    if words:
        assert words in world.only(6).found


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_package_manager_at_work_is_no_quiet_host(world: World, confirmed: bool) -> None:
    """Not even if the operator says that it is idle: an upgrade may replace the driver in the window."""
    world.data["contracts"]["operator_confirms_idle"] = confirmed
    lock = world.folder / "dpkg" / "lock-frontend"
    lock.parent.mkdir()
    lock.touch()
    there = lock.stat()
    place = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    (world.proc / "locks").write_text(f"1: POSIX  ADVISORY  WRITE 77 {place} 0 EOF\n")
    found = world.only(12)
    assert found.found == f"a package manager is at work (PID 77 holds {lock})"
    assert "wait until it has ended" in found.todo


@pytest.mark.parametrize("name", ["sudo", "sudo-rs"])
def test_either_sudo_is_known_by_its_name(world: World, name: str) -> None:
    world.sudo_error = f"{name}: interactive authentication is required\n"
    broken = world.broken()
    assert broken[1].found == world.sudo_error.strip()
    assert f"(contract 1): {name}:" in broken[8].found
