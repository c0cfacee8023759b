# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole host in one process: a clock that tests move, tenants, a GPU, docker, systemd, and clients that measure.

``World.live`` puts it under the host program's feet: time, HTTP, ``/proc`` and commands come from here, while files
(marks, journal, samples) are real ones in the world's folder. Nothing waits: a sleep moves the clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import zipfile
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    checks,
    containers,
    gpu,
    hook,
    identity,
    journal,
    kept,
    owners,
    plan,
    planfile,
    probes,
    program,
    restorer,
    run,
    runner,
    services,
    sockets,
    speech,
    standstill,
    tenants,
    units,
    upgrades,
    watch,
)
from fakedocker import FakeDocker

# Process numbers no kernel gives out: whatever looks at the real /proc finds nobody there.
FIRST_PID = 5_000_000
# What a server may answer to a request, as far as the host reads it.
GOOD = {"ok": True, "strategy": 1, "error_class": None}
BAD = {"ok": False, "strategy": None, "error_class": "http_401", "error_detail": "a key, please"}
COMMAND_PID = FIRST_PID - 1_000


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 10_000.0
        self.ticks: list[Callable[[], None]] = []
        self.due: list[tuple[float, Callable[[], None]]] = []

    def sleep(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due by then."""
        self.now += seconds
        for due, act in sorted(self.due, key=lambda item: item[0]):
            if due <= self.now:
                self.due.remove((due, act))
                act()
        for tick in list(self.ticks):
            tick()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something that many seconds from now."""
        self.due.append((self.now + seconds, act))

    def module(self) -> SimpleNamespace:
        """Stands in for the module ``time``."""
        return SimpleNamespace(
            monotonic=lambda: self.now,
            sleep=self.sleep,
            time=lambda: 1_700_000_000 + self.now,
            perf_counter=lambda: self.now,
            clock_gettime=lambda _clock: self.now + 500,
            thread_time=lambda: 0.0,
            CLOCK_BOOTTIME=7,
            CLOCK_MONOTONIC=1,
        )


@dataclass
class Service:
    """A tenant as it is in the world; ``mib`` is the VRAM it holds while it is up.

    A stop takes ``stop_s``: until then the tenant is as healthy as before, and then it ends, whatever became of the
    program that asked for it. ``stop_how`` says how a script's stop command ends it: ``waits`` signals at once, stays
    until the end, ``returns`` signals and returns, ``late`` signals at its own end, and never if it is killed before.
    """

    tenant: plan.Tenant
    mib: int = 0
    load_s: float = 2.0
    pid: int = 0
    healthy_at: float = 0.0
    broken: str = ""
    stop_s: float = 0.0
    stop_how: str = "waits"
    dies_at: float = 0.0
    # A started tenant that is found by its port is found when it listens; its start command stays for ``command_s``.
    listens_s: float = 0.0
    # When it was started; those that were there before have been for long.
    born: float = -1e6
    listens_at: float = 0.0
    command_s: float = 0.0
    restarts: int = 0
    # Whether it would not hear a signal that can be ignored.
    deaf: bool = False
    # A unit without a process (a one-shot that remains active): its ``pid`` is this world's own mark that it is up.
    bare: bool = False
    # Its manager does not report its state, and refuses to stop or start it.
    silent: bool = False
    # What its manager says of it in place of what is: properties of a unit, or a container's state.
    says: dict[str, Any] = field(default_factory=dict)
    ill: bool = False
    # Commands that run: what, their scope, when they end.
    commands: list[tuple[str, str, float]] = field(default_factory=list)
    # The scope of the command that started it; empty where another party did.
    scope: str = ""
    starts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)


@dataclass
class Beside:
    """A unit that is no tenant. systemd stops it with the units in ``needs``, whatever ``how`` calls that."""

    needs: tuple[str, ...] = ()
    how: str = "RequiredBy"
    active: bool = True
    broken: str = ""
    # More of what systemd says of it.
    facts: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    # How long its start takes; it goes on whatever becomes of the systemctl that waits for it.
    start_s: float = 0.0
    starting: bool = False


class FakeCard(gpu.Card):
    """The card: what the world's processes hold, and what lingers after they are gone."""

    name, driver, index = "Fake 16", "1.0", 0

    def __init__(self, world: World) -> None:
        self._world = world
        self.error = ""
        self.hangs = False
        self.closed = False
        self.opens = True

    def read(self, _timeout_s: float = 3.0) -> gpu.Vram:
        """One reading."""
        if self.error:
            raise gpu.GpuError(self.error)
        world = self._world
        holders = [
            gpu.Holder(s.pid, s.mib, world.command_line(s.pid)) for s in world.services.values() if s.pid and s.mib
        ]
        if world.candidate_pid:
            holders.append(gpu.Holder(world.candidate_pid, world.candidate_mib, "llama-server --port candidate"))
        lingering = sum(mib for mib, until in world.lingering if until > world.clock.now)
        used = world.desktop_mib + lingering + sum(h.mib or 0 for h in holders)
        return gpu.Vram(world.clock.now, used, 16_303, tuple(holders) if world.tells else ())

    def close(self) -> None:
        """Remember that it was let go."""
        self.closed = True


class FakeSampler:
    """The sampler without a thread: it samples at every tick of the clock, and whenever it is asked."""

    def __init__(self, card: Any, path: Path, interval_s: float = 0.1, phase: str = "") -> None:
        self._card, self.path, self.interval_s = card, path, interval_s
        self._peak_mib = -1
        self.segments = [phase]
        self.stopped = False
        self.error = ""
        self.last: gpu.Vram | None = None

    def tick(self) -> None:
        """Take a sample."""
        if self.stopped:
            return
        try:
            self.last = self._card.read()
            self._peak_mib = max(self._peak_mib, self.last.used_mib)
            self.error = ""
        except gpu.GpuError as err:
            self.error = str(err)

    @property
    def peak_mib(self) -> int:
        """Largest used memory of the segment."""
        self.tick()
        return self._peak_mib

    def segment(self, name: str) -> None:
        """Begin a segment."""
        self.segments.append(name)
        self._peak_mib = -1

    def stop(self) -> None:
        """Take no more samples."""
        self.stopped = True

    def __enter__(self) -> FakeSampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Client:
    """A measuring container at work: the protocol of a session, with made-up replies."""

    def __init__(self, world: World, container: dict[str, Any]) -> None:
        self.world, self.container = world, container
        self.mounts = {m.split(":")[1]: Path(m.split(":")[0]) for m in container["options"]["--volume"]}
        self.session = json.loads(self.host(container["command"][1]).read_text())
        self.name = container["name"].removeprefix("mt-client-")
        self.steps = self._work()
        self.done = False

    def host(self, path: str) -> Path:
        """A path inside the container, as the host sees it."""
        for inside, outside in self.mounts.items():
            if path.startswith(inside + "/"):
                return outside / path[len(inside) + 1 :]
        raise AssertionError(f"{path} is not mounted")

    def tick(self) -> None:
        """Go on, if still running."""
        found = self.world.docker.get(self.container["name"])
        if self.done or not found or found["status"] != "running":
            return
        try:
            next(self.steps)
        except StopIteration as end:
            self.done = True
            self.world.docker.end(self.container["name"], end.value, f"{self.name} ended with {end.value}\n")

    def _out(self, name: str, text: str) -> None:
        with self.host(f"{self.session['out_dir']}/{name}").open("a") as file:
            file.write(text + "\n")

    def _summarize(self, name: str, code: int, stopped: str | None) -> int:
        if self.name not in self.world.without_summary:
            self._out(name, json.dumps({"exit_code": code, "stopped": stopped}))
        return code

    def _control(self, name: str) -> Path:
        return self.host(f"{self.session['control_dir']}/{name}")

    def _work(self) -> Generator[None, None, int]:
        world, session = self.world, self.session
        summary = f"summary-{session['segments'][0]['id']}.json"
        if session["start_file"]:
            if self.name in world.never_ready:
                while True:
                    yield
            self._out(f"ready-{session['start_file']}", "{}")
            while not self._control(session["start_file"]).exists():
                yield
        world.log.append(("measured", self.name))
        if self.name in world.client_codes:
            yield
            if world.client_codes[self.name] == 3:
                for segment in session["segments"]:
                    for seq, reply in enumerate(world.replies.get(self.name, [BAD, GOOD]), 1):
                        self._out(f"{segment['id']}.jsonl", json.dumps({"seq": seq, **reply}))
            return self._summarize(summary, world.client_codes[self.name], None)
        for segment in session["segments"]:
            count, asked = int(segment["n"]), False
            smoke = segment.get("smoke", False)
            done = 0
            early = world.client_ends_in.get(self.name)
            if early and early[0] == segment["id"]:
                yield
                return self._summarize(summary, early[1], "thinking")
            while done < count:
                good = {"ok": True, "strategy": 1, "latency_ms": world.latency_ms}
                reply = dict(world.smoke_reply) if smoke else good
                self._out(f"{segment['id']}.jsonl", json.dumps({"seq": done + 1, **reply}))
                done += 1
                if smoke and not reply["ok"]:
                    return self._summarize(summary, 3, "smoke")
                if done == count and segment.get("gate_file") and not asked:
                    asked = True
                    sign = self._control(segment["gate_file"])
                    self._out(f"at-{segment['gate_file']}", json.dumps({"ok": done, "thinking": world.thinking}))
                    while not sign.exists():
                        yield
                    if json.loads(sign.read_text()).get("extend"):
                        count = max(count, int(segment["extend_to"]))
                    world.log.append(("hold", segment["gate_file"], count))
            yield
        return self._summarize(summary, 0, None)


class FakePopen:
    """A command in the background: started at once, asked for its end later. Its output can be read once."""

    def __init__(self, world: World, argv: list[str]) -> None:
        self._world, self.argv = world, argv
        self.pid = world.new_pid()
        self.returncode: int | None = None
        self._out = ""
        self.stdout = SimpleNamespace(close=lambda: None, closed=False)
        if argv[:2] != ["docker", "wait"]:
            self.returncode, self._out, _err = world.command(argv)

    def poll(self) -> int | None:
        """Exit code, or None while the container that is waited for runs."""
        if self.returncode is None and not self._world.runs(self.argv[-1]):
            self.returncode, self._out, _err = self._world.command(self.argv)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed; a second time there is nothing to read from, as with a real one."""
        if self.stdout.closed:
            raise ValueError("I/O operation on closed file.")
        self.stdout.closed = True
        return self._out, ""

    def kill(self) -> None:
        """End it."""
        if self.returncode is None:
            self.returncode = -9

    terminate = kill

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        return self.returncode or 0

    def __enter__(self) -> FakePopen:
        return self

    def __exit__(self, *_: object) -> None:
        return


class InlineThread:
    """A thread that has done its work when it is started: what happens in the background is part of the order here."""

    def __init__(self, target: Callable[[], None], name: str = "", daemon: bool = False) -> None:
        self.start = target


class GoesOn(BaseException):
    """The program has replaced itself by another one, with these arguments."""


class Killed(BaseException):
    """The program was killed at this point: nothing of it runs any more."""


class World:
    """The host of a plan. Attributes are knobs; ``log`` is what was done to the host, in order."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.folder = folder
        self.clock = Clock()
        self.docker = FakeDocker(folder / "docker", shared=False)
        self.docker.on_start, self.docker.on_end = self._container_starts, self._container_ends
        self.plan = planfile.parse(data)
        self.state = journal.State(folder / "state")
        self.run_dir = self.state.run_dir(self.plan.run)
        self.log: list[tuple[Any, ...]] = []
        self.units: dict[str, str] = dict.fromkeys(services.UNITS, "inactive")
        self.systemctl_rc: dict[str, int] = {}
        # Units of the restore that systemd has not loaded, and what it says instead.
        self.unit_loads: dict[str, str] = {}
        # What the watch is told of units, where it differs from a runner at work.
        self.watched: dict[str, dict[str, Any]] = {}
        # What systemd-run says of mt-run, one after another; then it starts it.
        self.runner_refused: list[str] = []
        # The installed program.
        self.program = folder / "model-trial"
        with zipfile.ZipFile(self.program, "w") as archive:
            archive.writestr("__main__.py", "installed = True")
        self.runner_result = "success"
        # What systemd says of every unit's stop.
        self.stop_limits = "TimeoutStopUSec=1min 30s\n"
        # Units that are no tenants, by name; and whether systemd answers about many at once.
        self.beside: dict[str, Beside] = {}
        self.shows = True
        # How often systemd has started mt-restore again by itself, as it tells.
        self.restarts = 0
        # How often everything but the kernel was started again.
        self.soft_reboots = 0
        # Tenants of which a second copy was started beside the first.
        self.doubled: list[str] = []
        self._ready: Callable[[], bool] = lambda: True
        self.pids = FIRST_PID
        self.dead: set[int] = set()
        self.services = {t.name: Service(t) for t in self.plan.tenants}
        for service in self.services.values():
            service.pid = self.new_pid()
        for name, mib in {"llamacpp": 4_900, "chatterbox": 3_600, "phone": 4_700}.items():
            if name in self.services:
                self.services[name].mib = mib
        self.card = FakeCard(self)
        self.tells = True
        self.desktop_mib = 500
        self.linger_s = 1.0
        self.lingering: list[tuple[int, float]] = []
        self.candidate_pid = 0
        self.candidate_mib = 6_400
        self.candidate_load_s = 5.0
        self.candidate_healthy_at = 0.0
        self.candidate_dies_at_once = False
        self.candidate_listens = True
        self.candidate_state = "S"
        self.candidate_frozen = False
        self.hook_rc = 0
        self.quiet = True
        self.speaks = True
        self.intruders: list[probes.Listener] = []
        self.clients: dict[str, Client] = {}
        self.client_codes: dict[str, int] = {}
        # By session, what each of its segments gets where its code is 3; without it a failed reply and a good one.
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self.never_ready: set[str] = set()
        self.without_summary: set[str] = set()
        self.client_ends_in: dict[str, tuple[str, int]] = {}
        self.latency_ms = 20.0
        self.chowned: list[tuple[Path, int, int]] = []
        self.smoke_reply: dict[str, Any] = {"ok": True, "strategy": 1, "latency_ms": 30.0, "content": "forward"}
        self.thinking = 0
        self.samplers: list[FakeSampler] = []
        self.controller: Callable[[], None] = self.attend
        self.attended = self.clock.now
        # Called after every entry of the journal.
        self.on_entry: Callable[[str, dict[str, Any]], None] = lambda _event, _facts: None
        # A kill of the host program: before the command or the durable write with this number takes effect.
        self.kill_at = -1
        self.steps = 0
        self.clock.ticks.append(self._tick)

    # Life.

    def attend(self) -> None:
        """A controller that polls every five seconds: its lease never lapses."""
        if self.clock.now - self.attended > 5 and (self.state.root / "lease").exists():
            self.attended = self.clock.now
            self.state.renew()

    def _tick(self) -> None:
        for name, service in self.services.items():
            for what, _scope, until in list(service.commands):
                if until <= self.clock.now:
                    self.command_ends(name, what)
            if service.dies_at and service.dies_at <= self.clock.now:
                self.stop(name, by="a stop that was begun")
        self.controller()
        for client in list(self.clients.values()):
            client.tick()
        for sampler in self.samplers:
            sampler.tick()

    def new_pid(self) -> int:
        """A fresh process number."""
        self.pids += 1
        return self.pids

    def up(self, name: str) -> bool:
        """Whether a tenant runs and does its work."""
        service = self.services[name]
        return bool(service.pid) and self.clock.now >= service.healthy_at and not service.ill

    def ask_to_stop(self, name: str) -> None:
        """Begin a stop: the tenant ends ``stop_s`` later. Asked again, it is not postponed."""
        service = self.services[name]
        if service.pid and not service.deaf:
            due = self.clock.now + service.stop_s
            service.dies_at = min(service.dies_at or due, due)
            if service.dies_at <= self.clock.now:
                self.stop(name, by="a stop that was begun")

    def command_ends(self, name: str, what: str, *, killed: bool = False) -> None:
        """A command of a tenant's ends, by itself or by signal."""
        service = self.services[name]
        service.commands = [command for command in service.commands if command[0] != what]
        if what == "stop" and service.stop_how == "late" and not killed and service.pid:
            service.dies_at = self.clock.now
            self.stop(name, by="a stop that was begun")

    def start(self, name: str, by: str = "us") -> None:
        """Start a tenant, as its own start command does: a script does not ask whether one runs already."""
        service = self.services[name]
        if by == "us":
            self.log.append(("start", name))
            service.starts.append(self.clock.now)
        else:
            service.scope = ""
        if service.pid and service.tenant.kind in ("systemd", "container"):
            return
        if service.pid:
            self.doubled.append(name)
        service.pid, service.dies_at, service.ill = self.new_pid(), 0.0, False
        service.born = self.clock.now
        service.healthy_at = self.clock.now + max(service.load_s, service.listens_s)
        service.listens_at = self.clock.now + service.listens_s

    def stop(self, name: str, by: str = "us") -> None:
        """Stop a tenant; its memory lingers."""
        service = self.services[name]
        if by == "us":
            self.log.append(("stop", name))
            service.stops.append(self.clock.now)
        if service.pid:
            self.lingering.append((service.mib, self.clock.now + self.linger_s))
        service.pid, service.dies_at = 0, 0.0

    def runs(self, container: str) -> bool:
        """Whether a container runs."""
        found = self.docker.get(container)
        return bool(found and found["status"] == "running")

    def candidate_dies(self, code: int = 1, *, oom: bool = False) -> None:
        """End the candidate's server by itself."""
        self.docker.end(self.plan.candidate.container, code, "out of luck\n", oom=oom)
        self.candidate_pid = 0

    def _container_starts(self, container: dict[str, Any]) -> int:
        self.log.append(("container", container["name"]))
        if container["name"] == self.plan.candidate.container:
            if self.candidate_dies_at_once:
                return 0
            self.candidate_pid = self.new_pid()
            self.candidate_healthy_at = self.clock.now + self.candidate_load_s
            return self.candidate_pid
        if container["options"]:
            self.clients[container["name"]] = Client(self, container)
        return self.new_pid()

    def _container_ends(self, container: dict[str, Any]) -> None:
        if container["name"] == self.plan.candidate.container and self.candidate_pid:
            self.lingering.append((self.candidate_mib, self.clock.now + self.linger_s))
            self.candidate_pid = 0

    # /proc and HTTP.

    def _service(self, pid: int) -> Service | None:
        return next((s for s in self.services.values() if s.pid == pid), None)

    def identify(self, pid: int, _proc: Path | None = None) -> probes.ProcessId | None:
        """The process, if it lives."""
        lives = pid in (self.candidate_pid, *(s.pid for s in self.services.values()))
        lives = lives or any(c["pid"] == pid for c in self.docker.all())
        return probes.ProcessId(pid, pid * 10) if pid and lives else None

    def age_s(self, pid: int, _proc: Path | None = None) -> float:
        """For how long a tenant's process has lived."""
        service = self._service(pid)
        return self.clock.now - service.born if service else 0.0

    def members(self, pattern: str, _proc: Path | None = None) -> dict[str, list[int]]:
        """Who lives in scopes: tenants in those of their start commands, and the commands that still run."""
        found: dict[str, list[int]] = {}
        for number, service in enumerate(self.services.values()):
            if service.pid and service.scope:
                found.setdefault(service.scope, []).append(service.pid)
            for _what, scope, _until in service.commands:
                found.setdefault(scope, []).append(COMMAND_PID + number)
        return {scope: pids for scope, pids in found.items() if re.fullmatch(pattern, scope)}

    def units_of(self, pid: int, _proc: Path | None = None) -> list[str]:
        """In which units a process lives."""
        service = self._service(pid)
        return [service.tenant.unit or service.tenant.container or service.scope or "user.slice"] if service else []

    def uid(self, pid: int, _proc: Path | None = None) -> int:
        """Whose a process is: tenants are all one user's, and everybody else is another's."""
        return 1000 if self._service(pid) else 666

    def kin(self, pid: int, _proc: Path | None = None) -> identity.Kin | None:
        """How a process looks: each tenant's has a program and a folder of its own."""
        service = self._service(pid)
        return (f"/usr/bin/{service.tenant.name}", f"/srv/{service.tenant.name}", ("serve",)) if service else None

    def alike(self, look: identity.Kin, user: int, _proc: Path | None = None) -> list[probes.ProcessId]:
        """Tenants' processes that look so."""
        pids = [s.pid for s in self.services.values() if s.pid and self.kin(s.pid) == look and self.uid(s.pid) == user]
        return [probes.ProcessId(pid, pid * 10) for pid in pids]

    def command_line(self, pid: int, _proc: Path | None = None) -> str:
        """Command line of a tenant's process, or of a command."""
        if COMMAND_PID <= pid < FIRST_PID:
            return f"/bin/sh -c command {list(self.services.values())[pid - COMMAND_PID].commands[0][1]}"
        service = self._service(pid)
        if service:
            return f"{service.tenant.vram_process or service.tenant.process} --its-options"
        return next((item.command for item in self.intruders if item.pid == pid), "")

    def processes(self, pattern: str, _proc: Path | None = None) -> list[probes.ProcessId]:
        """Processes of tenants with that pattern."""
        found = [s for s in self.services.values() if pattern and s.pid and s.tenant.process == pattern]
        return [probes.ProcessId(s.pid, s.pid * 10) for s in found]

    def listeners(self, _proc: Path | None = None, ports: Collection[int] | None = None) -> list[probes.Listener]:
        """Ports of the tenants that run, and of intruders."""
        found = [
            probes.Listener(s.tenant.port, s.pid, s.tenant.name)
            for s in self.services.values()
            if s.pid and self.clock.now >= s.listens_at
        ]
        if self.candidate_pid and self.candidate_listens:
            found.append(probes.Listener(self.plan.candidate.port, self.candidate_pid, "llama-server"))
        return [item for item in [*found, *self.intruders] if ports is None or item.port in ports]

    def listening(self, ports: Collection[int] | None, _proc: Path | None = None) -> list[sockets.Socket]:
        """The sockets of the listeners: one for each, named after its process."""
        return [sockets.Socket(i.port, i.pid, self.uid(i.pid)) for i in self.listeners(ports=ports)]

    def holders(self, inodes: Collection[int], _proc: Path | None = None) -> list[sockets.Holder]:
        """Who holds those sockets."""
        return [sockets.Holder(pid, pid, "3") for pid in inodes if pid in {item.pid for item in self.listeners()}]

    def process_state(self, pid: int, _proc: Path | None = None) -> str:
        """The kernel's letter for the candidate, which may be stopped."""
        return self.candidate_state if self.identify(pid) else ""

    def ask(self, question: plan.Http) -> probes.ProbeResult:
        """HTTP questions: health of tenants and candidate, and whether the host is quiet."""
        yes, no = probes.ProbeResult(True, "HTTP 200", 200), probes.ProbeResult(False, "no answer: connection refused")
        for name, service in self.services.items():
            if service.tenant.health and service.tenant.health.url == question.url and not question.json.get("in_call"):
                if "in_call" in question.json:
                    return yes if self.quiet else probes.ProbeResult(False, "in_call = true", 200)
                return yes if self.up(name) else no
        if question.url.startswith(f"http://127.0.0.1:{self.plan.candidate.port}/"):
            return yes if self.candidate_pid and self.clock.now >= self.candidate_healthy_at else no
        return no

    def listen(self, _question: plan.Speech) -> speech.Spoken:
        """What is heard when a tenant speaks."""
        return speech.Spoken(self.speaks, "WAV, 1.2 s" if self.speaks else "silence")

    def kill(self, pid: int, number: int) -> None:
        """A signal: it ends the process, wherever it lives."""
        if pid < FIRST_PID:
            os_kill(pid, number)
            return
        self.log.append(("kill", pid))
        service = self._service(pid)
        if service:
            if number == signal.SIGKILL:
                self.stop(service.tenant.name, by="a signal")
            else:
                self.ask_to_stop(service.tenant.name)
        if pid == self.candidate_pid:
            self.lingering.append((self.candidate_mib, self.clock.now + self.linger_s))
            self.candidate_dies(137)

    # Commands.

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    def command(self, argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        """Run a command on this host; returns exit code, output, errors."""
        self._step()
        if argv[0] == "docker":
            service = next(
                (s for s in self.services.values() if s.tenant.container and s.tenant.container in argv), None
            )
            if service:
                return self._boxed(service, argv[1:])
            if argv[1] in ("rm", "kill", "create"):
                self.log.append(("docker", *argv[1:]))
            return self.docker.main(argv[1:])
        if argv[0] == "systemctl":
            return self._systemctl(argv[1:])
        if argv[0] == "systemd-run":
            return self._as_user(argv, cwd)
        if argv[0] == "sh":
            # What the tenants' programs are: this host's folders have none.
            return 0, "-\n" * len(argv[4:]), ""
        if argv[0] == "journalctl":
            return 0, "words of the unit\n", ""
        raise AssertionError(f"a trial runs no {argv}")

    def _boxed(self, service: Service, args: list[str]) -> tuple[int, str, str]:
        """docker and a tenant that is a container; the engine itself kills it at the end of a stop's grace."""
        name = service.tenant.name
        if service.silent:
            return 1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?\n"
        if args[0] == "inspect" and ".Id" in args[2]:
            return 0, json.dumps({"id": service.tenant.container, "pid": service.pid, "ports": {}}), ""
        if args[0] == "inspect" and "{{json .State}}" in args:
            state = {"Status": "running" if service.pid else "exited", "Running": bool(service.pid)}
            return 0, json.dumps({**state, "Pid": service.pid, **service.says}), ""
        if args[0] == "inspect" and "--format" not in args:
            return 0, json.dumps([{"Name": f"/{service.tenant.container}", "Config": {"Env": ["TOKEN=hidden"]}}]), ""
        if args[0] == "inspect":
            assert "RestartCount" in args[2], args
            return 0, f"{service.restarts}\n", ""
        if args[0] in ("start", "stop") and service.broken:
            return 1, "", f"Error response from daemon: {service.broken}\n"
        if args[0] == "start":
            self.start(name)
        elif args[0] == "stop":
            self.log.append(("stop", name))
            self.ask_to_stop(name)
            if service.pid:
                due = self.clock.now + float(args[2])
                service.dies_at = min(service.dies_at or due, due)
            self._ready = lambda: not service.pid
        return 0, "", ""

    def _systemctl(self, args: list[str]) -> tuple[int, str, str]:
        if args[0] == "cat":
            return 0, f"# {args[-1]}\n[Service]\nExecStart=/usr/bin/{args[-1]}\n", ""
        if args[0] == "show" and args[1].startswith("--property=Id,Names,"):
            return (0, self._shown(args[2:]), "") if self.shows else (1, "", "Failed to connect to bus\n")
        if args[0] == "show":
            if watch._FACTS in args:
                return 0, "\n".join(self._watched(unit) for unit in args[3:]), ""
            if "--property=TimeoutStopUSec,ExecStop" in args:
                return 0, self.stop_limits, ""
            if "--value" in args:
                return 0, "\n\n".join(self.units[u] for u in services.UNITS) + "\n", ""
            if args[-1] in services.UNITS:
                state, restarts = self.units[args[-1]], self.restarts
                return 0, f"ActiveState={state}\nMainPID=0\nResult={self.runner_result}\nNRestarts={restarts}\n", ""
            if args[-1] == "docker.service" and args[-1] not in self.beside:
                return 0, "ActiveState=active\nSubState=running\n", ""
            if args[-1] in self.beside:
                return 0, "".join(f"{name}={value}\n" for name, value in self.beside[args[-1]].facts.items()), ""
            service = self._by(lambda t: t.unit == args[-1])
            if "--property=Id,TriggeredBy" in args:
                return 0, f"Id={service.tenant.unit}\nTriggeredBy=\n", ""
            if service.silent:
                return 1, "", "Failed to connect to bus: Connection refused\n"
            state = "deactivating" if service.dies_at else "active" if service.pid else "failed"
            facts = {"LoadState": "loaded", "ActiveState": state, "SubState": "exited" if service.bare else "running",
                     "MainPID": 0 if service.bare else service.pid, "NRestarts": service.restarts,
                     **service.says}  # fmt: skip
            return 0, "".join(f"{name}={value}\n" for name, value in facts.items()), ""
        if args[-1].endswith(".scope"):
            for name, service in self.services.items():
                for what in [what for what, scope, _until in service.commands if scope == args[-1]]:
                    self.command_ends(name, what, killed=True)
                if service.scope == args[-1] and service.pid:
                    self.stop(name, by="its scope")
            return 0, "", ""
        self.log.append(("systemctl", *args))
        if args[-1] in self.beside:
            return self._start_beside(args[-1]) if args[0] == "start" else (0, "", "")
        if args[0] in ("start", "stop") and args[-1] not in (*services.UNITS, watch.TIMER):
            service = self._by(lambda t: t.unit == args[-1])
            if service.silent:
                return 1, "", "Failed to connect to bus: Connection refused\n"
            if service.broken:
                return 1, "", f"Job for {args[-1]} failed: {service.broken}\n"
            service.says.clear()
            self._unit(service, args[0])
        return self.systemctl_rc.get(" ".join(args), 0), "", ""

    def _watched(self, unit: str) -> str:
        """What systemd tells the watch of a unit: by default a runner at work, a timer that runs, no restorer."""
        state = "inactive" if unit == "mt-restore.service" else "active"
        now_us = int(self.clock.now * 1e6)
        facts = {"Id": unit, "ActiveState": state, "SubState": "running", "MainPID": 0, "Job": "",
                 "WatchdogTimestampMonotonic": now_us, "ExecMainStartTimestampMonotonic": now_us}  # fmt: skip
        return "".join(f"{name}={value}\n" for name, value in {**facts, **self.watched.get(unit, {})}.items())

    def _facts(self) -> dict[str, dict[str, str]]:
        """What systemd says of every unit, by name."""
        found: dict[str, dict[str, Any]] = {"basic.target": {"state": ("active", "active")}}
        for name in (services.RESTORER, services.RECOVER, services.LOOK):
            found[name] = {"state": ("inactive", "dead"), "LoadState": self.unit_loads.get(name, "loaded")}
        for service in self.services.values():
            if service.tenant.kind == "systemd":
                file = self.folder / service.tenant.unit
                file.write_text("[Service]\nEnvironment=TOKEN=hidden\n")
                state = ("active", "running") if service.pid else ("inactive", "dead")
                found[f"{service.tenant.unit}.service"] = {"state": state, "FragmentPath": str(file)}
        for name, unit in self.beside.items():
            found[name] = {"state": ("active", "running") if unit.active else ("inactive", "dead"), **unit.facts}
            if unit.starting:
                found[name] |= {"state": ("activating", "start"), "Job": "9"}
        for name, facts in found.items():
            state = facts.pop("state")
            facts.update({"Id": name, "Names": name, "LoadState": "loaded", "CanStart": "yes", **facts})
            facts.update(ActiveState=facts.get("ActiveState", state[0]), SubState=facts.get("SubState", state[1]))
            for how in units.DRAGS:
                facts[how] = " ".join(n for n, u in self.beside.items() if u.how == how and name in u.needs)
        return found

    def _shown(self, wanted: list[str]) -> str:
        facts = self._facts()
        names = list(facts) if "--all" in wanted else [name for name in wanted if name != "--"]
        unknown = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"}
        blocks = [facts.get(name) or {"Id": name, "Names": name, **unknown} for name in names]
        return "\n\n".join("\n".join(f"{k}={v}" for k, v in block.items()) for block in blocks) + "\n"

    def drag(self, name: str) -> None:
        """Stop what systemd stops together with a unit."""
        for other, unit in self.beside.items():
            if name in unit.needs and unit.active:
                unit.active = False
                self.drag(other)

    def _start_beside(self, name: str) -> tuple[int, str, str]:
        unit = self.beside[name]
        if unit.broken:
            return 1, "", f"Job for {name} failed: {unit.broken}\n"
        running = {f"{s.tenant.unit}.service" for s in self.services.values() if s.pid and s.tenant.unit}
        running |= {other for other, one in self.beside.items() if one.active}
        if name.endswith(".socket") and running & set(unit.facts.get("Triggers", "").split()):
            return 1, "", f"Job for {name} failed: Socket service already active, refusing.\n"
        unit.starts += not unit.starting
        if unit.start_s and not unit.starting:
            unit.starting = True
            self.clock.after(unit.start_s, lambda: self._started_beside(unit))
        elif not unit.starting:
            unit.active = True
        self._ready = lambda: not unit.starting
        for tenant, service in self.services.items():
            # What it needs is started with it.
            if f"{service.tenant.unit}.service" in unit.needs and not service.pid:
                self.start(tenant, by="systemd")
        return 0, "", ""

    @staticmethod
    def _started_beside(unit: Beside) -> None:
        unit.active, unit.starting = True, False

    def _unit(self, service: Service, verb: str) -> None:
        """A job of systemd: it goes on whatever becomes of the systemctl that waits for it."""
        name = service.tenant.name
        if verb == "stop":
            self.log.append(("stop", name))
            service.stops.append(self.clock.now)
            self.drag(f"{service.tenant.unit}.service")
            self.ask_to_stop(name)
            self._ready = lambda: not service.dies_at
        elif service.dies_at:
            # It waits in the queue until the stop has ended.
            self.clock.after(service.dies_at - self.clock.now + 0.01, lambda: self.start(name))
            self._ready = lambda: bool(service.pid) and not service.dies_at
        else:
            self.start(name)

    def _by(self, fits: Callable[[plan.Tenant], bool]) -> Service:
        return next(s for s in self.services.values() if fits(s.tenant))

    def goes_on(self, interpreter: str, argv: list[str]) -> None:
        """The program goes on as another one; what that one does is not of this world."""
        raise GoesOn(interpreter, argv)

    def _as_user(self, argv: list[str], cwd: str) -> tuple[int, str, str]:
        if f"--unit={services.RUNNER}" in argv:
            self.log.append(("systemd-run", *argv[1:]))
            if self.runner_refused:
                return 1, "", f"{self.runner_refused.pop(0)}\n"
            return 0, "", ""
        if "--no-block" in argv:
            told = [word.removeprefix("--setenv=MODEL_TRIAL_") for word in argv if word.startswith("--setenv=")]
            self.log.append(("hook", *told))
            return self.hook_rc, "", "no such user\n" if self.hook_rc else ""
        script, scope = argv[-2:]
        line = script.removeprefix(tenants.BEGIN).removesuffix("\nexit $?").removesuffix(" &")
        service = self._by(lambda t: bool(line) and line in (t.start, t.stop) and cwd == (t.directory or "/"))
        assert f"--reuid={service.tenant.user}" in argv
        assert "--scope" in argv
        if service.broken:
            return 1, service.broken, ""
        assert f"--unit={scope}" in argv
        name = service.tenant.name
        if line == service.tenant.start:
            self.start(name)
            service.scope = scope
            self._commanded(service, "start", scope, service.command_s)
            return 0, "", ""
        self.log.append(("stop", name))
        service.stops.append(self.clock.now)
        if service.stop_how != "late":
            self.ask_to_stop(name)
        waits_s = 0.0 if service.stop_how == "returns" or service.deaf else service.stop_s
        if service.pid and not waits_s and service.stop_how == "late":
            self.command_ends(name, "stop")
        self._commanded(service, "stop", scope, waits_s)
        return 0, "", ""

    def _commanded(self, service: Service, what: str, scope: str, for_s: float) -> None:
        """A command of a tenant runs for a while; its caller waits for it, and may be killed meanwhile."""
        until = self.clock.now + for_s
        if for_s:
            service.commands.append((what, scope, until))
            self._ready = lambda: (what, scope, until) not in service.commands

    # In place of the module run.

    def _run(self, argv: list[str], limit_s: float, *, cwd: str = "", into: Any = None, **_options: Any) -> run.Ran:
        if argv[:2] == ["docker", "wait"]:
            # As slow as the container that is waited for.
            deadline = self.clock.now + limit_s
            while self.runs(argv[2]):
                if self.clock.now > deadline:
                    raise TimeoutError(f"{argv} timed out")
                self.clock.sleep(0.05)
        self._ready = lambda: True
        rc, out, err = self.command(argv, cwd)
        ready, deadline = self._ready, self.clock.now + limit_s
        while not ready():
            if self.clock.now > deadline:
                raise TimeoutError(f"{argv} timed out")
            self.clock.sleep(0.05)
        if into is None:
            return run.Ran(rc, out, err)
        if hasattr(into, "write"):
            into.write((out + err).encode())
        return run.Ran(rc, "", "")

    def _popen(self, argv: list[str], **_options: Any) -> FakePopen:
        return FakePopen(self, argv)

    def _sampler(self, *args: Any, **options: Any) -> FakeSampler:
        self.samplers.append(FakeSampler(*args, **options))
        return self.samplers[-1]

    def _open_card(self, _index: int = 0) -> FakeCard:
        if not self.card.opens:
            raise gpu.GpuError("no driver")
        return self.card

    @contextlib.contextmanager
    def live(self) -> Iterator[World]:
        """Put the world under the host program's feet for a while."""
        with pytest.MonkeyPatch.context() as patch:
            self.put(patch)
            yield self

    def put(self, patch: pytest.MonkeyPatch) -> None:
        """Put the world under the host program's feet.

        Take the test's own ``monkeypatch``, where it has one: patches must be undone in the order they came in.
        """
        boot = self.folder / "boot_id"
        if not boot.exists():
            boot.write_text("boot-1\n")
        clock = self.clock.module()
        patch.setattr(run, "command", self._run)
        patch.setattr(run, "background", self._popen)
        for module in (
            checks,
            containers,
            hook,
            journal,
            owners,
            program,
            restorer,
            runner,
            services,
            standstill,
            tenants,
            watch,
        ):
            if hasattr(module, "time"):
                patch.setattr(module, "time", clock)
            if hasattr(module, "threading"):
                patch.setattr(module, "threading", SimpleNamespace(Thread=InlineThread))
        defaults = gpu.drain.__kwdefaults__ or {}
        patch.setitem(defaults, "clock", clock.monotonic)
        patch.setitem(defaults, "sleep", clock.sleep)
        append = journal.Journal._append

        def tell(writer: journal.Journal, event: str, facts: dict[str, Any]) -> None:
            append(writer, event, facts)
            self.on_entry(event, facts)

        patch.setattr(journal.Journal, "_append", tell)
        patch.setattr(journal, "_BOOT_ID", boot)
        patch.setattr(journal, "soft_reboots", lambda: self.soft_reboots)
        patch.setattr(kept, "own", lambda: self.program)
        patch.setattr(os, "execv", self.goes_on)
        patch.setattr(containers, "identify", self.identify)
        # Not this machine's.
        patch.setattr(upgrades.Hold.__init__, "__defaults__", (self.folder,))
        patch.setattr(upgrades, "at_work", lambda *_places: "")
        for name in ("identify", "processes", "listeners", "ask"):
            patch.setattr(probes, name, getattr(self, name))
        patch.setattr(probes, "command", self.command_line)
        patch.setattr(probes, "state", self.process_state)
        patch.setattr(sockets, "listening", self.listening)
        patch.setattr(sockets, "holders", self.holders)
        patch.setattr(sockets, "holds", lambda holder, _proc=None: bool(self.holders([holder.inode])))
        patch.setattr(standstill, "frozen", lambda _pid, _proc=None, _groups=None: self.candidate_frozen)
        patch.setattr(probes, "members", self.members)
        patch.setattr(probes, "age_s", self.age_s)
        patch.setattr(probes, "units", self.units_of)
        patch.setattr(probes, "uid", self.uid)
        patch.setattr(identity, "kin", self.kin)
        patch.setattr(identity, "alike", self.alike)
        patch.setattr(identity, "uid_of", lambda user: 1000 if user else None)
        patch.setattr(probes, "inhabited", lambda unit: bool(self.members(re.escape(unit))))
        patch.setattr(probes, "alive", lambda process: self.identify(process.pid) == process)
        patch.setattr(speech, "listen", self.listen)
        patch.setattr(gpu, "Sampler", self._sampler)
        patch.setattr(gpu, "Card", self._open_card)
        patch.setattr(os, "kill", self.kill)
        patch.setattr(os, "chown", lambda *args: self.chowned.append(args))
        # What a power cut would do is the journal's own tests; here it is a point where a kill may come.
        patch.setattr(os, "fsync", lambda _fd: self._step())

    # Short cuts.

    def open(self, controller: str = "ann") -> int:
        """Prepare and open the trial; returns its epoch. What was done for it is forgotten by the log."""
        program_journal = journal.Journal(
            self.state.journal_path(self.plan.run), self.plan.run, self.state.epoch(), "program", required=True
        )
        runner.prepare(self.plan, self.state, program_journal)
        epoch = runner.open_trial(self.plan, self.state, self.card if self.plan.gpu else None, controller)
        self.log.clear()
        return epoch

    def at(self, event: str, act: Callable[[], object]) -> None:
        """Do something right after the first journal entry of that name (``phase_started measure``)."""
        waiting = [act]

        def look(name: str, facts: dict[str, Any]) -> None:
            known = " ".join([name, *(str(facts[k]) for k in ("phase", "tenant") if k in facts)])
            if known == event and waiting:
                waiting.pop()()

        self.on_entry = look

    def runner(self, furthest: str = "measure") -> runner.Runner:
        """A runner of the opened trial that may go as far as told."""
        mark = self.state.mark()
        epoch = mark.epoch if mark else self.open()
        self.state.advance(furthest)
        return runner.Runner(self.plan, self.state, epoch, self.card if self.plan.gpu else None)

    def done(self, *kinds: str) -> list[tuple[Any, ...]]:
        """What was done to the host, of these kinds."""
        return [entry for entry in self.log if entry[0] in kinds]

    # The state folder.

    def events(self) -> list[dict[str, Any]]:
        """The journal of the run."""
        return journal.read(self.state.journal_path(self.plan.run))

    def named(self) -> list[str]:
        """Names of the journal's events, with their phase or tenant."""
        return [" ".join([e["event"], *(str(e[k]) for k in ("phase", "tenant") if k in e)]) for e in self.events()]

    def reboot(self) -> None:
        """Everything starts again, with a clock near zero; the marks stay."""
        (self.folder / "boot_id").write_text("boot-2\n")
        self.clock.now = 100.0
        self.lingering.clear()
        self.clients.clear()
        for container in self.docker.all():
            if container["status"] == "running":
                self.docker.end(container["name"], 137)
        self.candidate_pid = 0
        for service in self.services.values():
            if service.pid:
                service.pid, service.born = self.new_pid(), self.clock.now
                # By the clock of this boot, which started again.
                service.healthy_at = min(service.healthy_at, self.clock.now)
                service.listens_at = min(service.listens_at, self.clock.now)


os_kill = os.kill


def world_data(data: dict[str, Any], folder: Path, port: int) -> dict[str, Any]:
    """A plan's data made fit for a world: files that exist, and a candidate's port nobody listens on."""
    source = folder / "server.py"
    source.write_text('WORDS = "see"\n\n\ndef build_vlm_prompt(goal):\n    return f"{WORDS} {goal}"\n')
    camera = folder / "car-view.jpg"
    camera.write_bytes(b"jpeg")
    data["contracts"]["prompt"]["file"] = str(source)
    data["contracts"]["camera"] = str(camera)
    data["candidate"]["port"] = port
    data["candidate"]["model_dir"] = str(folder / "models")
    return data


def make_world(folder: Path, data: dict[str, Any], port: int) -> World:
    """A world with the plan sent to the host, as a role leaves it; nothing is open."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder, world_data(data, folder, port))
    world.run_dir.mkdir(parents=True)
    (world.run_dir / "plan.json").write_text(planfile.to_json(world.plan))
    return world
