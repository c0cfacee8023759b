# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants: find them, stop them, start them, wait until they are healthy.

One class per kind, registered by its definition: everything that is true of one kind only is in its class. The
functions below the classes are the same for every kind. Commands of tenants run as the tenant's own user, in a scope
of their own, so that they outlive their caller, and with the identity that the tenant had before the trial.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import pwd
import re
import secrets
import shlex
import signal
import socket
import stat
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

from . import identity, probes, run, sockets, units
from .gpu import Holder
from .journal import private
from .owners import Ports
from .plan import QUESTION_S, Tenant
from .probes import Listener, ProcessId
from .run import Ran

POLL_S = 0.05
# How long a killed process may take to be gone.
KILL_S = 5.0
# What is found for so long after a stop was started again by another party.
AGAIN_S = 1.0
# What a unit's timeouts are when systemd gives them no end.
FOREVER_S = math.inf
# How many lines of a log are read, and how many of them are shown: most may be answers to our own questions.
_LOG_LINES, _TOLD_LINES = 2000, 20
# Where systemd's journal takes what programs print.
JOURNAL = Path("/run/systemd/journal/stdout")
# How a shell begins: it takes its environment from its standard input, which no other user can read.
BEGIN = 'eval "$(cat)"\nexec </dev/null\n'
# The service that starts a tenant at boot, in the words of the inventory.
_BOOT_UNIT = re.compile(r"(?<!\S)[\w@:.\\-]+\.service(?![\w.-])")
# logind removes what a user has left in shared memory when his last session ends, but not of users below.
_FIRST_LOGIN_UID = 1000
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_TAIL_BYTES = 1 << 18
# What listens on a published port for a container, as root.
_DOCKER_LISTENS = ("docker-proxy", "dockerd")
# Opens the device that every use of an NVIDIA card begins with. Its exit status is one of the next line where the
# container has no such device.
_OPEN_CARD = "test -e /dev/nvidiactl || exit 126; exec 3</dev/nvidiactl"
_NOT_THERE = (126, 127)
# Asking systemd or docker whether a started tenant has ended costs more than a poll may.
_ENDED_EVERY_S = 0.5
# What a start of a container needs, as a template of docker: an object a line.
_BOXED = (
    '{"name": {{json .Name}}, "id": {{json .Id}}, "auto_remove": {{json .HostConfig.AutoRemove}}, '
    '"image": {{json .Image}}, "labels": {{json .Config.Labels}}, "shares": [{{json .HostConfig.NetworkMode}}, '
    "{{json .HostConfig.PidMode}}, {{json .HostConfig.IpcMode}}]}"
)
# A shell's loop that prints which of its arguments are not there.
_ABSENT = 'for path; do test -e "$path" || echo "$path"; done'
_COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
# More of a file is no definition.
_FILE_BYTES = 1 << 20
_COMPOSE_LABEL = "com.docker.compose.project.config_files"
# docker's words for a container that it does not have; a socket that is not there is "no such file".
_NO_SUCH = re.compile(r"no such (?:container|object)", re.IGNORECASE)
# A unit in any other state is up, coming up or going down. Its second word reports a pause between two starts.
_DOWN = ("inactive", "failed", "maintenance")
_UP = ("active", "reloading", "refreshing")
_PAUSES = "auto-restart"


class TenantError(RuntimeError):
    """A tenant did not stop or start; the message has its last log lines and the command for the operator."""


class Ended(TenantError):
    """What was started ended before it was healthy. Waiting longer is pointless."""


class NotBegun(TenantError):
    """Its stop command could not be run at all: nothing was begun with the tenant."""


class StartedAgain(TenantError):
    """It has ended, and another party has started it again at once: to end it once more would change nothing."""


class NotThere(TenantError):
    """Its manager knows no such tenant: nothing of it runs, and nothing can be started."""


class Host(Protocol):
    """Where a contract looks: commands as the login user, and as root. A command that fails is a value."""

    @property
    def proc(self) -> Path:
        """Where the processes are."""

    def run(self, argv: Sequence[str], /) -> Ran:
        """Run a command as the login user."""

    def root(self, *argv: str) -> Ran:
        """Run a command as root."""


class _Here:
    """The host that this program acts on, as root."""

    proc = Path("/proc")

    def run(self, argv: Sequence[str], /) -> Ran:
        return run.command(argv, QUESTION_S)

    def root(self, *argv: str) -> Ran:
        return run.command(argv, QUESTION_S)


HERE = _Here()


@dataclass(frozen=True)
class Seen:
    """What its manager says about a tenant; words for people.

    ``running`` is everything but down: one that is on its way up or down, or waits to be started again, runs. ``up``:
    it does its work, as far as its manager can tell. ``process`` is None where it has none, which a timer or a one-shot
    that remains active never has.
    """

    running: bool
    up: bool
    process: ProcessId | None
    found: str


@dataclass(frozen=True)
class Condition:
    """How a tenant is now: ``running`` (as in `Seen`), ``healthy`` (it does its work), its process if it has one."""

    running: bool
    healthy: bool
    process: ProcessId | None
    found: str


@dataclass(frozen=True)
class Begun:
    """A stop or start (``what``) of a tenant that was begun and has not ended; words for people.

    It continues by itself when the program that asked for it has gone. Its tenant is neither up nor down.
    """

    what: str
    found: str


@dataclass(frozen=True)
class WayBack:
    """Whether a tenant could be started again once it is stopped, as far as that can be seen without doing it.

    ``lost`` says why it could not; ``warned`` is what a person should know all the same.
    """

    lost: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)


KINDS: dict[str, type[Kind]] = {}


class Kind:
    """Operations of one kind of tenant. A subclass with a ``name`` is registered under it.

    Methods that act raise `TenantError`, ``TimeoutError`` or another ``OSError``; `stop` and `start` below turn the
    latter two into a `TenantError`.
    """

    name: ClassVar[str] = ""
    # Fields of the inventory that a tenant must have, and those that it needs if a trial is to stop it.
    needs: ClassVar[tuple[str, ...]] = ()
    needs_to_move: ClassVar[tuple[str, ...]] = ()
    # Whether its manager says that it is back, so that it needs neither health page nor process.
    tells_its_state: ClassVar[bool] = False
    # Whether its start command is the service itself, which never hands its work to another process.
    start_is_service: ClassVar[bool] = False
    # Whether its manager knows of every stop that was begun, and brings it to an end. Elsewhere the journal alone tells
    # that one was: a signal that was sent can't be seen.
    knows_its_stops: ClassVar[bool] = False
    # Whether a restore starts it by a command of the inventory, and so determines its identity.
    has_own_commands: ClassVar[bool] = False

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.before = identity.before(tenant)

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            KINDS[cls.name] = cls

    @classmethod
    def lacks(cls, tenant: Tenant, moved: bool) -> Iterator[tuple[str, str]]:
        """Fields that are missing in the inventory, each with what was expected there.

        Args:
            tenant: as the inventory has it.
            moved: whether it is to be stopped and started.
        """
        for name in (*cls.needs, *(cls.needs_to_move if moved else ())):
            if not getattr(tenant, name):
                yield name, f"a value, because kind is {cls.name}"

    def find(self) -> ProcessId | None:
        """Its process, or None where it has none.

        Raises:
            TenantError: its manager does not report its state.
            OSError: likewise.
        """
        raise NotImplementedError

    def seen(self, _host: Host = HERE) -> Seen:
        """Whether it runs; by default it does while it has a process. Override it where its manager tells more.

        Raises:
            NotThere: its manager does not know it.
            TenantError: its state is unknown, neither up nor down: ask again.
            OSError: likewise.
        """
        process = self.find()
        return Seen(process is not None, process is not None, process, _words_of(process) or "not running")

    def age_s(self) -> float:
        """How long ago it was started, in seconds; 0 if that is unknown."""
        process = self.find()
        return probes.age_s(process.pid) if process else 0.0

    def matches(self, proc: Path = Path("/proc")) -> list[ProcessId]:
        """Processes with its argv that may be its; empty where the inventory names none."""
        return probes.processes(self.tenant.process, proc)

    def stop(self, log: Path) -> None:
        """Ask it to end; its process may still be there on return."""
        raise NotImplementedError

    def start(self, log: Path, limit_s: float) -> str:
        """Start it; returns the scope of its command, empty where its manager runs it."""
        raise NotImplementedError

    def claims(self, item: Listener, host: Host) -> bool:
        """Whether a listener on one of its ports is its own; by default its process and what descends from it."""
        process = self.find()
        return process is not None and process.pid in probes.ancestors(item.pid, host.proc)

    def begun(self) -> Begun | None:
        """Its stop or start that was begun and has not ended, as far as the host shows it.

        This looks for commands of its inventory that still run.
        """
        found = probes.members(_scope("(?:start|stop)", self.tenant.name))
        # A stop that is under way counts more than a start at the same time.
        for scope in sorted(found, reverse=True):
            what = "stop" if re.fullmatch(_scope("stop", self.tenant.name), scope) else "start"
            # A start command leaves the tenant in the background; a stop command must leave nothing.
            running = [pid for pid in found[scope] if what == "stop" or probes.command(pid).endswith(scope)]
            if running:
                return Begun(what, f"its {what} command still runs (PID {running[0]}, {scope})")
        return None

    def loading(self) -> list[str]:
        """Scopes of its start commands that have live processes: it may be loading there and not be found yet."""
        return []

    def coming(self) -> str:
        """Why it is coming up, started by something else, although `find` does not see it yet; empty if it is not."""
        return ""

    def queued(self) -> str:
        """Why it will come up, or a second one of it beside it, although nothing of that is begun; empty if it won't.

        Raises:
            OSError: its manager does not tell.
        """
        return ""

    def facts(self, _process: ProcessId | None) -> dict[str, Any]:
        """What else a snapshot keeps of it, as JSON; by default nothing."""
        return {}

    def twins(self, _host: Host) -> str:
        """Processes that can't be told apart from it, in words; empty if there are none."""
        return ""

    def copies(self) -> str:
        """Copies of it that run beside one another, in words; empty where its manager allows one only."""
        return ""

    def kill(self) -> None:
        """End by signal what its own stop has left; nothing where its manager does that."""

    def restarts(self) -> int:
        """How often its manager has restarted it by itself; 0 where it has none that counts."""
        return 0

    def stop_limit_s(self, _host: Host) -> float:
        """How long its manager lets a stop take, in seconds; 0 where only its ``stop_timeout_s`` bounds it."""
        return 0.0

    def ended(self, scope: str) -> str:
        """Why a started tenant will never be healthy; empty while it may be."""
        raise NotImplementedError

    def words(self, log: Path) -> str:
        """The last lines that it printed."""
        raise NotImplementedError

    def start_command(self) -> str:
        """The command an operator types to start it by hand."""
        raise NotImplementedError

    def state(self, _host: Host) -> probes.ProbeResult:
        """What its manager says about it, for the contract that every tenant is healthy; nothing where it has none."""
        return probes.ProbeResult(True, "")

    def sees_gpu(self, _host: Host) -> probes.ProbeResult:
        """Whether it can still open the card, where that is not a matter of course: in a container."""
        return probes.ProbeResult(True, "")

    def way_back(self, _host: Host) -> str:
        """Why it could not be started again, as far as that can be seen without doing it; empty where it could.

        This looks at the commands that the inventory gives.
        """
        tenant = self.tenant
        if not tenant.start:
            return ""
        try:
            pwd.getpwnam(tenant.user)
        except KeyError:
            return f"there is no user {tenant.user!r}"
        folder = Path(tenant.directory or "/")
        with contextlib.suppress(PermissionError):
            if not folder.is_dir():
                return f"there is no folder {folder}"
            for command in filter(None, (tenant.start, tenant.stop)):
                word = command.split()[0]
                if "/" in word and not os.access(folder / word, os.X_OK):
                    return f"{folder / word} is not there or not executable"
            return _compose_trouble(tenant.start, folder)
        return ""

    @classmethod
    def ways_back(cls, members: Sequence[Tenant], host: Host) -> dict[str, WayBack]:
        """`way_back` of several tenants of this kind; a manager that knows many answers for all at once.

        Raises:
            OSError: their manager did not answer.
        """
        found = {tenant.name: of(tenant).way_back(host) for tenant in members}
        return {name: WayBack([why] if why else []) for name, why in found.items()}

    def definition(self) -> dict[str, bytes]:
        """What a person needs to make it again where its manager has lost it: contents of files, by name.

        Secrets are among them. What is on the host's disk as the tenant's own program is left there.

        Raises:
            OSError: its manager did not answer.
        """
        return {}

    def last_words(self, log: Path) -> str:
        """Its last log lines, and the command that starts it by hand."""
        text = ""
        # Called when something has failed: an error here must not hide that failure.
        with contextlib.suppress(OSError):
            text = self.words(log)
        lines = "\n".join(probes.log_end(text, self.tenant.health, _TOLD_LINES)) or "(nothing)"
        return f"last log lines:\n{probes.printable(lines)}\nto start it by hand: {self.start_command()}"

    def command(self, argv: list[str], limit_s: float, log: Path) -> None:
        """Run a command of its manager that must succeed."""
        done = run.command(argv, limit_s)
        if done.rc != 0:
            raise TenantError(
                f"{self.tenant.name}: {shlex.join(argv)} ended with {done.rc}: {probes.printable(done.err.strip())}; "
                f"{self.last_words(log)}"
            )


def _words_of(process: ProcessId | None) -> str:
    return f"PID {process.pid}" if process else ""


def unit_facts(unit: str, host: Host = HERE) -> dict[str, str]:
    """What systemd says about a unit: ActiveState, MainPID, Result and others; Job is absent where none is queued.

    Raises:
        OSError: it did not answer.
    """
    names = (
        "LoadState,ActiveState,SubState,MainPID,Result,ConditionResult,NRestarts,UnitFileState,"
        "ActiveEnterTimestampMonotonic,Job"
    )
    reply = host.run(["systemctl", "show", "--property", names, unit])
    facts = dict(line.split("=", 1) for line in reply.out.splitlines() if "=" in line)
    if not facts.get("ActiveState"):
        raise OSError(f"systemd does not report the state of {unit}: {probes.printable(reply.first_line())}")
    return facts


def _has_ended(pid: int, host: Host) -> bool:
    """Whether a main process has ended; its manager notices that a moment later.

    A user who may not see other users' processes (``hidepid``) can't know, and relies on the manager.
    """
    return pid != 0 and probes.identify(pid, host.proc) is None and probes.identify(1, host.proc) is not None


def _job(facts: Mapping[str, str]) -> str:
    """The number of a unit's job in systemd's queue; empty where there is none."""
    return facts.get("Job", "").strip().removeprefix("0")


def _runs(facts: Mapping[str, str]) -> bool:
    """Whether a unit is anything but down."""
    return facts["ActiveState"] not in _DOWN or _PAUSES in facts.get("SubState", "") or bool(_job(facts))


_SPANS_S = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 7 * 86400.0,
    "month": 30.44 * 86400.0,
    "y": 365.25 * 86400.0,
}


def span_s(text: str) -> float:
    """A span of time as systemd writes it (``1min 30s``), in seconds; `FOREVER_S` for ``infinity``.

    Raises:
        ValueError: the text is not a span of time.
    """
    if text.strip() == "infinity":
        return FOREVER_S
    found = re.findall(r"([0-9.]+)([a-z]+)", text)
    if not found and text.strip() != "0":
        raise ValueError(f"expected a span of time, found {text!r}")
    try:
        return sum(float(number) * _SPANS_S[unit] for number, unit in found)
    except KeyError as err:
        raise ValueError(f"expected a span of time, found {text!r}") from err


class _Managed(Kind):
    """A tenant whose manager says how it is."""

    tells_its_state = True

    def find(self) -> ProcessId | None:
        return self.seen().process

    def seen(self, host: Host = HERE) -> Seen:
        raise NotImplementedError

    def state(self, host: Host) -> probes.ProbeResult:
        try:
            seen = self.seen(host)
        except TenantError as err:
            return probes.ProbeResult(False, str(err).removeprefix(f"{self.tenant.name}: "))
        return probes.ProbeResult(seen.up, seen.found)


class Systemd(_Managed):
    """A unit of systemd."""

    name = "systemd"
    needs = ("unit",)
    knows_its_stops = True

    def seen(self, host: Host = HERE) -> Seen:
        unit = self.tenant.unit
        facts = unit_facts(unit, host)
        if not _runs(facts) and facts.get("LoadState") == "not-found":
            raise NotThere(f"{self.tenant.name}: systemd has no unit {unit}")
        pid, job = int(facts.get("MainPID") or 0), _job(facts)
        # A unit that has no process is judged by its state alone.
        ended = _has_ended(pid, host)
        found = f"unit {unit} is {facts['ActiveState']} ({facts.get('SubState', 'unknown')})"
        found += f", but PID {pid} has ended" if ended else f" with a job in the queue ({job})" if job else ""
        hollow = self._hollow(facts)
        found += f", {hollow}" if hollow else ""
        up = facts["ActiveState"] in _UP and not (job or ended or hollow)
        return Seen(_runs(facts), up, probes.identify(pid, host.proc), found)

    def _hollow(self, facts: Mapping[str, str]) -> str:
        """Why an active unit does no work: with ``RemainAfterExit=`` it stays active when its processes have ended."""
        ran = self.before.substate == "running" and facts.get("SubState") == "exited"
        return "and its processes, which ran before the trial, have ended" if ran else ""

    def facts(self, _process: ProcessId | None) -> dict[str, Any]:
        return {"substate": unit_facts(self.tenant.unit).get("SubState", "")}

    def age_s(self) -> float:
        facts = unit_facts(self.tenant.unit)
        process, since_us = probes.identify(int(facts.get("MainPID") or 0)), facts.get("ActiveEnterTimestampMonotonic")
        if process:
            return probes.age_s(process.pid)
        if _PAUSES in facts.get("SubState", ""):
            # It has been started and has ended: nothing loads, and to start it at once is better than to wait.
            return math.inf
        return time.monotonic() - int(since_us) / 1e6 if facts["ActiveState"] in _UP and since_us else 0.0

    def claims(self, item: Listener, host: Host) -> bool:
        ran = host.run(("systemctl", "show", "--property=Id,TriggeredBy", self.tenant.unit))
        facts = dict(line.split("=", 1) for line in ran.out.splitlines() if "=" in line)
        if item.pid == 1:
            # systemd itself listens for a socket unit, and goes on while its service has the socket, too.
            return ".socket" in facts.get("TriggeredBy", "")
        return facts.get("Id", "") in probes.units(item.pid, host.proc)

    def begun(self) -> Begun | None:
        # A job outlives the systemctl that asked for it, and a unit is healthy for as long as its ExecStop= runs.
        facts = unit_facts(self.tenant.unit)
        state, job = facts["ActiveState"], _job(facts)
        queued = f" with a job in the queue ({job})" if job else ""
        if state == "deactivating" or (state in ("active", "reloading") and job):
            return Begun("stop", f"its unit is {state}{queued}")
        return Begun("start", f"its unit is {state}{queued}") if state == "activating" or job else None

    def restarts(self) -> int:
        found = unit_facts(self.tenant.unit).get("NRestarts", "")
        return int(found) if found.isdigit() else 0

    def stop_limit_s(self, host: Host) -> float:
        ran = host.run(("systemctl", "show", "--property=TimeoutStopUSec,ExecStop", self.tenant.unit))
        facts = dict(line.split("=", 1) for line in ran.out.splitlines() if "=" in line)
        # Its own stop command may take so long, and what then has to be signaled as long again.
        return span_s(facts.get("TimeoutStopUSec", "")) * (2 if facts.get("ExecStop") else 1)

    def stop(self, log: Path) -> None:
        self.command(["systemctl", "stop", self.tenant.unit], self.tenant.stop_timeout_s, log)

    def start(self, log: Path, limit_s: float) -> str:
        # A unit that failed too often refuses to start until its counter is reset.
        run.command(["systemctl", "reset-failed", self.tenant.unit], QUESTION_S)
        self.command(["systemctl", "start", self.tenant.unit], limit_s, log)
        return ""

    def ended(self, scope: str) -> str:
        facts = unit_facts(self.tenant.unit)
        hollow = self._hollow(facts)
        if _runs(facts) and not hollow:
            return ""
        # systemd skips such a start, and calls it a success.
        unmet = (
            "a condition of its unit is not met, so it was not started" if facts.get("ConditionResult") == "no" else ""
        )
        return ", ".join(filter(None, (f"its unit is {facts['ActiveState']} ({facts.get('Result')})", unmet, hollow)))

    def words(self, log: Path) -> str:
        argv = ["journalctl", "-u", self.tenant.unit, "-n", str(_LOG_LINES), "--no-pager", "-o", "cat"]
        return run.command(argv, QUESTION_S).out

    def start_command(self) -> str:
        return f"sudo systemctl start {self.tenant.unit}"

    @classmethod
    def ways_back(cls, members: Sequence[Tenant], host: Host) -> dict[str, WayBack]:
        # A running unit may be masked, deleted or broken meanwhile, and then does not start again.
        known = units.show(host.run, (tenant.unit for tenant in members))
        found = {}
        for tenant in members:
            unit = known.get(units.full(tenant.unit))
            found[tenant.name] = WayBack(units.lacks(unit, there), units.warnings(unit))
        return found

    def definition(self) -> dict[str, bytes]:
        unit = units.show(HERE.run, [self.tenant.unit]).get(units.full(self.tenant.unit))
        return contents(units.files(unit)) if unit else {}


class _Commands(Kind):
    """A tenant that the inventory's own commands start and stop."""

    has_own_commands = True

    def matches(self, proc: Path = Path("/proc")) -> list[ProcessId]:
        # Every user may give his own process what name he likes.
        found = super().matches(proc)
        user = identity.uid_of(self.tenant.user) if self.tenant.user else None
        return [process for process in found if user is None or probes.uid(process.pid, proc) == user]

    def find(self) -> ProcessId | None:
        if self.tenant.process:
            found = self.matches()
            # The one from before, while it lives: another may have come beside it.
            known = self.before.process
            return known if known in found else next(iter(found), None)
        if not self.tenant.port:
            return None
        # While it is down nobody listens there, and this is asked every second.
        held = (item for item in probes.listeners(ports=[self.tenant.port]) if item.pid)
        return probes.identify(next((item.pid for item in held if owns(self.tenant, item, HERE)), 0))

    def claims(self, item: Listener, host: Host) -> bool:
        tenant, units = self.tenant, probes.units(item.pid, host.proc)
        if any(re.fullmatch(_scope("start", tenant.name), unit) for unit in units):
            return True
        # A user may give a process any name, but cannot run it as another user.
        if tenant.user and probes.uid(item.pid, host.proc) != identity.uid_of(tenant.user):
            return False
        if not tenant.process:
            return True
        own = {process.pid for process in probes.processes(tenant.process, host.proc)}
        return bool(own & probes.ancestors(item.pid, host.proc))

    def own(self) -> list[ProcessId]:
        """What has its argv and may be ended for it.

        That is the process from before the trial with what descends from it, and what its start commands have left.
        Where no such process is known, the one family there is.

        Raises:
            TenantError: several processes match, and it is unknown which one it is.
        """
        found, known = self.matches(), self.before.process
        roots = {pid for pids in probes.members(_scope("start", self.tenant.name)).values() for pid in pids}
        if known and probes.alive(known):
            roots.add(known.pid)
        mine = [one for one in found if one in self.before.family or roots & probes.ancestors(one.pid)]
        if known or mine:
            return mine
        heads = probes.heads(found)
        if len(heads) > 1:
            raise TenantError(f"{self.tenant.name}: {self._several(heads)}; none of them is ended")
        return found

    def _several(self, heads: Iterable[ProcessId]) -> str:
        pids = ", ".join(str(one.pid) for one in heads)
        return f"PIDs {pids} all have the argv {self.tenant.process!r}, and none descends from another"

    def twins(self, host: Host) -> str:
        heads = probes.heads(self.matches(host.proc), host.proc)
        return self._several(heads) if len(heads) > 1 else ""

    def copies(self) -> str:
        # Where others looked like it before the trial, nobody can tell one of them from a copy.
        heads = [] if self.before.others else probes.heads(self.awaited())
        if len(heads) > 1:
            pids = ", ".join(str(one.pid) for one in heads)
            return f"PIDs {pids} all look like it, and none descends from another"
        return self.twins(HERE)

    def facts(self, process: ProcessId | None) -> dict[str, Any]:
        # A proxy's slice, limits and priority are not the tenant's.
        if process is None or self._is_proxy(process):
            return {}
        pid, who = process.pid, identity.read(process.pid)
        look, user = identity.kin(pid), probes.uid(pid)
        found = identity.alike(look, user) if look and user is not None else []
        # Workers of one program look like one another.
        mine = {pid} | (probes.ancestors(pid) & {one.pid for one in found})
        return {
            "identity": who.facts() if who else None,
            "kin": look,
            "family": [[one.pid, one.start_ticks] for one in self.matches() if pid in probes.ancestors(one.pid)],
            "others": [[one.pid, one.start_ticks] for one in found if not mine & probes.ancestors(one.pid)],
            "output": identity.output(pid),
        }

    def awaited(self) -> list[ProcessId]:
        """Processes that look as its own did before the trial and were not there: it may be loading in one of them.

        Only where its port tells that it runs: what has its argv is found at once.
        """
        user = identity.uid_of(self.tenant.user)
        look, others = self.before.kin, self.before.others
        # After a boot nobody can tell it from others that look the same.
        if self.tenant.process or look is None or user is None or (others and not self.before.process):
            return []
        return [process for process in identity.alike(look, user) if process not in others]

    def queued(self) -> str:
        unit = _BOOT_UNIT.search(self.tenant.boot)
        facts = unit_facts(unit.group()) if unit else {}
        if unit is None or _job(facts) == "":
            return ""
        if facts["ActiveState"] in _DOWN:
            return f"{unit.group()}, which starts it, waits for its turn (job {_job(facts)})"
        process = self.find() if facts["ActiveState"] == "activating" else None
        if process is None or unit.group() in probes.units(process.pid):
            return ""
        return f"{unit.group()} is activating, and would start it beside PID {process.pid}"

    def coming(self) -> str:
        unit = _BOOT_UNIT.search(self.tenant.boot)
        # One that only waits for its turn (`queued`) may wait forever, behind an engine that hangs.
        if unit and unit_facts(unit.group()).get("ActiveState") == "activating":
            return f"{unit.group()}, which starts it, is activating"
        found = self.awaited()
        return f"PID {found[0].pid} does not listen yet ({probes.command(found[0].pid)})" if found else ""

    def loading(self) -> list[str]:
        return sorted(probes.members(_scope("start", self.tenant.name)))

    def kill(self) -> None:
        for scope in probes.members(_scope("(?:start|stop)", self.tenant.name)):
            _end_scope(scope)
        # The holder of its port belongs to its user; a process that only has its argv may be another one.
        found = [] if self.tenant.process else [self.find(), self.before.process]
        _signal([*self.own(), *(one for one in found if one and not self._is_proxy(one))], signal.SIGKILL)

    def _is_proxy(self, process: ProcessId) -> bool:
        """Whether it is the inventory's listener and another user's: it may listen for others, too."""
        named = self.tenant.listener and self.tenant.listener in probes.command(process.pid)
        return bool(named) and probes.uid(process.pid) != identity.uid_of(self.tenant.user)

    def way_back(self, host: Host) -> str:
        return super().way_back(host) or (self._forgets(host) if self.tenant.start else "")

    def _forgets(self, host: Host) -> str:
        user = self.tenant.user
        if (identity.uid_of(user) or 0) < _FIRST_LOGIN_UID:
            return ""
        # A user who lingers never loses his last session.
        if host.run(("loginctl", "show-user", user, "--property=Linger", "--value")).out.strip() == "yes":
            return ""
        if host.run(("busctl", "get-property", *_LOGIND, "RemoveIPC")).out.strip() != "b true":
            return ""
        return (
            f"its shared memory and semaphores are removed when the last session of {user} ends, this trial's own "
            f"included (RemoveIPC=yes of logind, and {user} does not linger): `sudo loginctl enable-linger {user}`"
        )

    def start(self, log: Path, limit_s: float) -> str:
        return _as_user(self, "start", self.tenant.start, log, limit_s)

    def ended(self, scope: str) -> str:
        # Without a scope for its processes nothing is known.
        if scope and not probes.inhabited(scope) and self.find() is None:
            return "what its start command left in the background has ended"
        return ""

    def words(self, log: Path) -> str:
        return log.read_text(encoding="utf-8", errors="replace")

    def start_command(self) -> str:
        folder = f"cd {shlex.quote(self.tenant.directory)} && " if self.tenant.directory else ""
        return f"sudo -u {self.tenant.user} sh -c {shlex.quote(folder + self.tenant.start)}"


class Script(_Commands):
    """A start and a stop command in a folder."""

    name = "script"
    needs = ("start", "user", "stop", "directory")

    @classmethod
    def lacks(cls, tenant: Tenant, moved: bool) -> Iterator[tuple[str, str]]:
        if not tenant.port and not tenant.process:
            yield "port", "a port or a process, because nothing else shows whether a script tenant runs"
        yield from super().lacks(tenant, moved)

    def stop(self, log: Path) -> None:
        _as_user(self, "stop", self.tenant.stop, log, self.tenant.stop_timeout_s)


class Container(_Managed):
    """A container of docker that exists already."""

    name = "container"
    needs = ("container",)

    def _state(self, host: Host = HERE) -> dict[str, Any]:
        """What docker says about it: ``Status``, ``Running``, ``Paused``, ``Restarting``, ``Pid`` and more."""
        name, form = self.tenant.container, "{{json .State}}"
        reply = host.root("docker", "inspect", "--type", "container", "--format", form, name)
        said = probes.printable(reply.first_line())
        if reply.rc != 0 and _NO_SUCH.search(reply.err):
            raise NotThere(f"{self.tenant.name}: docker has no container {name}")
        state = next(iter(_objects(reply.out)), {})
        if reply.rc != 0 or "Running" not in state:
            # It may still be there.
            raise TenantError(f"{self.tenant.name}: docker does not report the state of the container {name}: {said}")
        return state

    def seen(self, host: Host = HERE) -> Seen:
        state = self._state(host)
        pid = int(state.get("Pid") or 0)
        # docker starts it again by itself after a pause, in which it has no process.
        running, waits = bool(state["Running"]), bool(state.get("Restarting"))
        ended = _has_ended(pid, host)
        found = f"container {self.tenant.container} is {state.get('Status', 'unknown')}"
        found += f", but PID {pid} has ended" if ended else ""
        up = running and not (waits or ended or state.get("Paused"))
        return Seen(running or waits, up, probes.identify(pid, host.proc), found)

    def claims(self, item: Listener, host: Host) -> bool:
        form = '{"id": {{json .Id}}, "pid": {{json .State.Pid}}, "ports": {{json .NetworkSettings.Ports}}}'
        try:
            facts = json.loads(host.root("docker", "inspect", "--format", form, self.tenant.container).out)
        except ValueError:
            return False
        if facts["pid"] and facts["pid"] in probes.ancestors(item.pid, host.proc):
            return True
        if any(facts["id"] in unit for unit in probes.units(item.pid, host.proc)):
            return True
        # docker's own list says which ports lead into it; a proxy of docker's listens there, or nobody (NAT).
        published = {bound["HostPort"] for bounds in (facts["ports"] or {}).values() for bound in bounds or []}
        program = os.path.basename(item.command.split(" ", 1)[0])
        proxy = program in _DOCKER_LISTENS and probes.uid(item.pid, host.proc) == 0
        return proxy and str(item.port) in published

    @property
    def _stop(self) -> list[str]:
        return ["docker", "stop", "-t", str(int(self.tenant.stop_timeout_s)), self.tenant.container]

    def begun(self) -> Begun | None:
        # docker does not show that it waits for a container's end; the client that asked may still run.
        asking = [p.pid for p in probes.processes(shlex.join(self._stop)) if probes.uid(p.pid) == 0]
        return Begun("stop", f"PID {asking[0]} stops it") if asking else None

    def restarts(self) -> int:
        argv = ["docker", "inspect", "--format", "{{.RestartCount}}", self.tenant.container]
        found = run.command(argv, QUESTION_S).out.strip()
        return int(found) if found.isdigit() else 0

    def stop(self, log: Path) -> None:
        self.command(self._stop, self.tenant.stop_timeout_s + 10, log)

    def start(self, log: Path, limit_s: float) -> str:
        self.command(["docker", "start", self.tenant.container], limit_s, log)
        return ""

    def ended(self, scope: str) -> str:
        return "" if self.seen().running else "its container has ended"

    def words(self, log: Path) -> str:
        reply = run.command(["docker", "logs", "--tail", str(_LOG_LINES), self.tenant.container], QUESTION_S)
        return reply.out + reply.err

    def start_command(self) -> str:
        return f"sudo docker start {self.tenant.container}"

    def sees_gpu(self, host: Host) -> probes.ProbeResult:
        if not self.tenant.vram_process:
            return probes.ProbeResult(True, "")
        unsure = []
        # To open the device is what fails for a container that has lost it. An image may lack either program.
        for words in (("sh", "-c", _OPEN_CARD), ("nvidia-smi", "-L")):
            ran = host.root("docker", "exec", self.tenant.container, *words)
            if ran.rc == 0:
                return probes.ProbeResult(True, "the container opens the card")
            if ran.rc not in _NOT_THERE:
                lost = f"container {self.tenant.container} can't open the card: {ran.first_line()}"
                return probes.ProbeResult(False, probes.printable(lost))
            unsure.append(words[0])
        return probes.ProbeResult(
            True, f"it is unknown: the container has no device of the card, or no {' and no '.join(unsure)}"
        )

    @classmethod
    def ways_back(cls, members: Sequence[Tenant], host: Host) -> dict[str, WayBack]:
        # All that run are asked about, too: one may live in another's network.
        running = host.root("docker", "ps", "--quiet", "--no-trunc").out.split()
        names = [tenant.container for tenant in members]
        ran = host.root("docker", "inspect", "--type", "container", "--format", _BOXED, *names, *running)
        everybody = {str(box["id"]): box for box in _objects(ran.out)}
        own = {t.name: box for t in members for box in everybody.values() if _is_called(box, t.container)}
        boxes = list(own.values())
        images = sorted({str(box["image"]) for box in boxes})
        asked = host.root("docker", "image", "inspect", "--format", "{{.Id}}", *images).out if images else ""
        paths = sorted({path for box in boxes for path in _compose_files(box)})
        absent = host.root("sh", "-c", _ABSENT, "sh", *paths).out.splitlines() if paths else []
        found = {}
        for tenant in members:
            box = own.get(tenant.name)
            if box is None:
                found[tenant.name] = WayBack([ran.first_line()])
                continue
            lodgers = [b for b in everybody.values() if b not in boxes and f"container:{box['id']}" in b["shares"]]
            lost = [f"the container {_name_of(b)} lives in its namespaces and would lose them" for b in lodgers]
            found[tenant.name] = WayBack([*_box_lacks(box, asked.split(), absent), *lost])
        return found

    def definition(self) -> dict[str, bytes]:
        reply = run.command(["docker", "inspect", "--type", "container", self.tenant.container], QUESTION_S)
        if reply.rc != 0:
            raise TenantError(f"{self.tenant.name}: {probes.printable(reply.err.strip())}")
        labels = [(box.get("Config") or {}).get("Labels") for box in json.loads(reply.out)]
        paths = [path for one in labels for path in _compose_files({"labels": one})]
        return {"container.json": reply.out.encode(), **contents(paths)}


class Process(_Commands):
    """A process that is found by its argv, ended by signal and started by its command."""

    name = "process"
    needs = ("process",)
    needs_to_move = ("start", "user")
    start_is_service = True

    def stop(self, log: Path) -> None:
        if self.tenant.stop:
            _as_user(self, "stop", self.tenant.stop, log, self.tenant.stop_timeout_s)
            return
        deadline = time.monotonic() + self.tenant.stop_timeout_s
        targets = self.own()
        _signal(targets, signal.SIGTERM)
        while any(probes.alive(process) for process in targets):
            if time.monotonic() > deadline:
                _signal(targets, signal.SIGKILL)
                return
            time.sleep(POLL_S)

    def start(self, log: Path, limit_s: float) -> str:
        # It is the service itself and prints for as long as it runs: where it printed before, else into the journal.
        path = shlex.quote(self.before.output)
        first = f"[ -f {path} ] && [ -w {path} ] && exec >>{path} 2>&1\n" if self.before.output else ""
        return _as_user(self, "start", f"{self.tenant.start} &", log, limit_s, first, self._printer)

    @property
    def _printer(self) -> list[str]:
        # Without a journal there is only the folder of the run.
        return ["systemd-cat", f"--identifier=trial-{self.tenant.name}"] if JOURNAL.exists() else []

    def words(self, log: Path) -> str:
        text = ""
        with contextlib.suppress(OSError):
            text = super().words(log)
        if self._printer:
            argv = ["journalctl", f"--identifier=trial-{self.tenant.name}", "-n", str(_LOG_LINES)]
            text += run.command([*argv, "--no-pager", "-o", "cat"], QUESTION_S).out
        return text + _tail(self.before.output, identity.uid_of(self.tenant.user))


def _tail(path: str, user: int | None) -> str:
    """The end of a file, if it is a plain one of that user: root reads nothing that this user could not read."""

    def unfollowed(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    with contextlib.suppress(OSError), open(path, "rb", opener=unfollowed) as file:
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_uid == user:
            file.seek(max(0, found.st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode("utf-8", "replace")
    return ""


def there(path: str) -> bool:
    """Whether a file exists; what the login user may not see is taken to be there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _objects(text: str) -> list[dict[str, Any]]:
    """The lines of a docker template that are objects."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [one for one in found if isinstance(one, dict)]


def _name_of(box: dict[str, Any]) -> str:
    return str(box["name"]).lstrip("/")


def _is_called(box: dict[str, Any], name: str) -> bool:
    """Whether docker finds a container by this word: its name, or how its ID begins."""
    return name in (_name_of(box), box["name"]) or str(box["id"]).startswith(name)


def _compose_files(box: dict[str, Any]) -> list[str]:
    """The files of the compose project that a container belongs to."""
    labels = box.get("labels") or {}
    return [path for path in str(labels.get(_COMPOSE_LABEL) or "").split(",") if path.startswith("/")]


def _box_lacks(box: dict[str, Any], images: Sequence[str], absent: Sequence[str]) -> list[str]:
    """Why a container could not be stopped and started again."""
    found = []
    if box["auto_remove"]:
        found.append("docker removes it when it stops (--rm); create it without")
    if box["image"] not in images:
        found.append(f"its image {box['image']} is not there any more")
    found += [f"its compose file is gone: {path}" for path in _compose_files(box) if path in absent]
    return found


def _compose_trouble(command: str, folder: Path) -> str:
    """Why docker compose would not find the file of a start command; empty where it would, or none is asked for."""
    words = command.split()
    if words[:2] == ["docker", "compose"]:
        words = words[2:]
    elif words and os.path.basename(words[0]) == "docker-compose":
        words = words[1:]
    else:
        return ""
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-f", "--file")]
    named += [word.removeprefix("--file=") for word in words if word.startswith("--file=")]
    gone = [str(folder / name) for name in named if not there(str(folder / name))]
    if gone:
        return f"its compose file is gone: {', '.join(gone)}"
    # Without a name it is looked for in the folder and above it.
    if named or any(there(str(place / name)) for place in (folder, *folder.parents) for name in _COMPOSE_FILES):
        return ""
    return f"there is no compose file in {folder}"


def contents(paths: Iterable[str]) -> dict[str, bytes]:
    """Plain files as they are, by path without the leading slash; anything else, and what is gone, is left out."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            # A named pipe must not be waited for.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    found[path.lstrip("/")] = file.read(_FILE_BYTES)
    return found


def _signal(targets: Iterable[ProcessId], number: int) -> None:
    for process in targets:
        if probes.alive(process):
            # It may end between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _scope(what: str, tenant: str) -> str:
    """Names of the scopes in which a tenant's ``start`` or ``stop`` commands run, as a regular expression."""
    return rf"trial-{what}\.{re.escape(tenant)}\.[0-9a-f]{{8}}\.scope"


def _end_scope(scope: str) -> None:
    with contextlib.suppress(OSError):
        run.command(["systemctl", "kill", "--signal=KILL", scope], QUESTION_S)
    # What was killed is gone a moment later, and must not be taken for a tenant that loads.
    deadline = time.monotonic() + KILL_S
    while probes.inhabited(scope) and time.monotonic() < deadline:
        time.sleep(POLL_S)


@contextlib.contextmanager
def _log_file(log: Path, command: str) -> Iterator[IO[bytes] | int]:
    """The tenant's log for appending, or `run.NOWHERE` where the disk is full: a start must not fail because of it."""
    with contextlib.ExitStack() as stack:
        out: IO[bytes] | int = run.NOWHERE
        with contextlib.suppress(OSError):
            file = stack.enter_context(open(log, "ab", buffering=0, opener=private))
            # Only a write shows whether the disk is full; the tenant's own first line would come too late.
            file.write(f"--- {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {command}\n".encode())
            out = file
        yield out


def _as_user(
    kind: Kind, what: str, command: str, log: Path, limit_s: float, first: str = "", printer: Sequence[str] = ()
) -> str:
    # A scope of its own: what the command leaves in the background must not die with the unit that ran it. Its name
    # tells the next restore what was begun with which tenant.
    # Output goes to a file, because a daemon that holds a pipe open would block the caller.
    tenant = kind.tenant
    scope = f"trial-{what}.{tenant.name}.{secrets.token_hex(4)}.scope"
    try:
        with _log_file(log, command) as out:
            # The shell stays until the command has ended, and bears the name of its scope: see `Kind.begun`.
            argv = [*identity.as_user(tenant, scope), *printer]
            argv += ["/bin/sh", "-c", f"{BEGIN}{first}{command}\nexit $?", scope]
            feed = identity.environment_script(tenant)
            done = run.command(argv, limit_s, cwd=tenant.directory or "/", into=out, feed=feed)
    except TimeoutError:
        _end_scope(scope)
        raise
    if done.rc != 0:
        # End what a failed command started: it would run twice after the next attempt.
        _end_scope(scope)
        raise TenantError(f"{tenant.name}: {command!r} ended with {done.rc}; {kind.last_words(log)}")
    return scope


def ways_back(members: Iterable[Tenant], host: Host) -> dict[str, WayBack]:
    """Whether tenants could be started again once they are stopped, by name; each kind's manager is asked once.

    Raises:
        OSError: a manager did not answer.
    """
    found: dict[str, WayBack] = {}
    listed = list(members)
    for name, kind in KINDS.items():
        mine = [tenant for tenant in listed if tenant.kind == name]
        found.update(kind.ways_back(mine, host) if mine else {})
    return found


def of(tenant: Tenant) -> Kind:
    """The tenant, with what its kind can do."""
    return KINDS[tenant.kind](tenant)


def runs(tenant: Tenant) -> bool:
    """Whether it is anything but down; one that its manager does not know is down.

    Raises:
        TenantError: its state is unknown, neither up nor down: ask again.
        OSError: likewise.
    """
    try:
        return of(tenant).seen().running
    except NotThere:
        return False


def owns(tenant: Tenant, item: Listener, host: Host) -> bool:
    """Whether a listener is the tenant's: its own, or the one that the inventory names (``listener``).

    The latter is a program of root or of the tenant's user: any user may give a program that name.
    """
    if tenant.listener and tenant.listener in item.command:
        trusted = {0, identity.uid_of(tenant.user)} if tenant.user else {0}
        if probes.uid(item.pid, host.proc) in trusted:
            return True
    return of(tenant).claims(item, host)


def ports(tenant: Tenant) -> set[int]:
    """Where the tenant listens and is asked on this host."""
    return ports_of([question.url for question in (tenant.health, tenant.speech) if question]) | {tenant.port} - {0}


def ports_of(urls: Iterable[str]) -> set[int]:
    """The ports of this host that addresses lead to."""
    return {_port(url) for url in urls} - {0}


@functools.cache
def _is_here(name: str) -> bool:
    """Whether a name or an address is this host's: only what is its own can be bound."""
    if name in ("localhost", socket.gethostname()):
        return True
    family, address = socket.AF_INET6, name
    with contextlib.suppress(OSError):
        # There are many ways to write one of version 4.
        family, address = socket.AF_INET, socket.inet_ntoa(socket.inet_aton(name))
    if family == socket.AF_INET6 and ":" not in name:
        # A name: to look it up would ask another machine.
        return False
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _port(url: str) -> int:
    """The port of this host that an address leads to; 0 where it leads elsewhere."""
    # What can't be read as an address is not asked either.
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and _is_here(parts.hostname):
            return parts.port or (443 if parts.scheme == "https" else 80)
    return 0


def watch(watched: Ports, tenant: Tenant, *urls: str) -> set[int]:
    """Have a tenant's ports watched, and those of further addresses at which it is asked; returns their numbers."""
    found = ports(tenant) | ports_of(urls)
    watched.watch(found, f"the tenant {tenant.name}", lambda item: owns(tenant, item, HERE))
    return found


def strangers(tenant: Tenant, listeners: Iterable[Listener], host: Host) -> str:
    """Who listens on the tenant's ports and is not the tenant: PID, user, program; empty if nobody does.

    Any program that listens there can answer in its place. One that can't be seen, or has gone, is left out.
    """
    wanted = ports(tenant)
    held = [item for item in listeners if item.port in wanted and probes.uid(item.pid, host.proc) is not None]
    foreign = [item for item in held if not owns(tenant, item, host)]
    return ", ".join(_held(item, host) for item in foreign)


def _held(item: Listener, host: Host) -> str:
    user = _user(probes.uid(item.pid, host.proc))
    return f"port {item.port} is held by PID {item.pid} (user {user}, {item.command or 'gone'})"


def _user(uid: int | None) -> str:
    with contextlib.suppress(KeyError, TypeError):
        return pwd.getpwuid(uid).pw_name  # type: ignore[arg-type]  # None where it is gone: a TypeError
    return str(uid)


def foreign(tenant: Tenant) -> str:
    """`strangers` on this host, as of now, and sockets whose holder is hidden."""
    held = probes.listeners(ports=ports(tenant))
    return strangers(tenant, held, HERE) or (_hidden(tenant) if any(not item.pid for item in held) else "")


def _hidden(tenant: Tenant) -> str:
    """A socket on the tenant's ports that no process is seen to hold, in words; empty if there is none.

    A socket that is on its way to another process, or registered with io_uring, is in nobody's list of descriptors,
    and answers all the same. Only root sees every list. The kernel's own sockets are root's.
    """
    if os.geteuid() != 0:
        return ""
    trusted = {0, identity.uid_of(tenant.user)} if tenant.user else {0}

    def look() -> list[sockets.Socket]:
        here = [item for item in sockets.listening(ports(tenant)) if item.uid not in trusted]
        seen = {holder.inode for holder in sockets.holders([item.inode for item in here])} if here else set()
        return [item for item in here if item.inode not in seen]

    before = look()
    if before:
        # The socket of a process that ends is closed a moment after its descriptors.
        time.sleep(POLL_S)
    for item in look() if before else ():
        if item in before:
            return f"port {item.port} is held by a process that can't be seen (user {_user(item.uid)})"
    return ""


def look(tenant: Tenant) -> Condition:
    """How the tenant is now. Looks only.

    A tenant is not healthy while its stop or start is under way, nor by an answer of another program on its port.

    Raises:
        NotThere: its manager does not know it.
        TenantError: its state is unknown, neither up nor down: ask again.
        OSError: likewise.
    """
    kind = of(tenant)
    seen, begun = kind.seen(), kind.begun()
    process, words = seen.process, _words_of(seen.process)
    stranger = foreign(tenant)
    if stranger:
        return Condition(seen.running, False, process, stranger)
    if not seen.running:
        coming = kind.coming()
        return Condition(bool(coming), False, None, begun.found if begun else coming or seen.found)
    if begun or not seen.up:
        why = begun.found if begun and process else seen.found
        return Condition(True, False, process, ", ".join(filter(None, (words, why))))
    if tenant.health is None:
        return Condition(True, True, process, words or seen.found)
    answer = probes.ask(tenant.health)
    return Condition(True, answer.ok, process, f"{words or seen.found}, {answer.found}")


def _rest(kind: Kind, process: ProcessId | None) -> str:
    """What is left of a tenant that was stopped, in words; empty once it is down.

    Args:
        kind: the tenant.
        process: its process before the stop.
    """
    if process and probes.alive(process):
        return f"PID {process.pid} still runs"
    try:
        seen = kind.seen()
    except NotThere:
        # Some are removed by their stop.
        return ""
    except (TenantError, OSError) as err:
        return f"it is unknown whether it still runs: {err}"
    return f"it still runs ({seen.found})" if seen.running else ""


def lives(tenant: Tenant) -> bool:
    """Whether anything of the tenant from before the trial still lives: its process, or what descended from it."""
    known = identity.before(tenant)
    return any(probes.alive(process) for process in (known.process, *known.family) if process)


def _again(kind: Kind, process: ProcessId | None, began: float) -> str:
    """What has been started in place of a process that was stopped, in words; empty where nothing was."""
    if process is None or probes.alive(process):
        return ""
    with contextlib.suppress(TenantError, OSError):
        fresh = kind.find()
        # Another of its old processes is older than the stop.
        if fresh and probes.age_s(fresh.pid) < time.monotonic() - began:
            return f"PID {fresh.pid}, {probes.command(fresh.pid)}"
    return ""


def stop(tenant: Tenant, log: Path) -> float:
    """Stop a tenant and wait until it is down, as its manager says, and its process is gone.

    Returns:
        Seconds it took.

    Raises:
        NotBegun: its stop command could not be run at all.
        TenantError: it still runs after its ``stop_timeout_s``, another party has started it again, or its stop failed:
            what was begun goes on.
    """
    began, kind, process = time.monotonic(), of(tenant), None
    # A manager that does not answer refuses the stop, too.
    with contextlib.suppress(TenantError, OSError):
        process = kind.find()
    try:
        kind.stop(log)
    except TimeoutError as err:
        raise TenantError(f"{tenant.name}: still stopping after {tenant.stop_timeout_s:.0f} s") from err
    except OSError as err:
        raise NotBegun(f"{tenant.name}: its stop command cannot be run: {err}") from err
    rest, again_s = _rest(kind, process), 0.0
    while rest:
        now = time.monotonic()
        if now - began > tenant.stop_timeout_s + 1:
            raise TenantError(f"{tenant.name}: {rest} after {tenant.stop_timeout_s:.0f} s")
        # Its own stop may use a program of its name for a moment.
        again = _again(kind, process, began)
        again_s = (again_s or now) if again else 0.0
        if again and now - again_s > AGAIN_S:
            raise StartedAgain(
                f"{tenant.name}: it has ended, and another party has started it again at once ({again}); find what "
                "does (a supervisor, Restart= of a unit, a watchdog, its own stop), and pause it or name its unit"
            )
        time.sleep(POLL_S)
        rest = _rest(kind, process)
    return time.monotonic() - began


def age_s(tenant: Tenant, scope: str = "") -> float:
    """How long ago a tenant was started, in seconds, or the oldest process that loads in ``scope``."""
    pids = probes.members(re.escape(scope)).get(scope, []) if scope else []
    return max([of(tenant).age_s(), *(probes.age_s(pid) for pid in pids)])


def stop_under_way(tenant: Tenant) -> Begun | None:
    """A stop that was begun and has not ended, as far as this can be seen on the host."""
    begun = of(tenant).begun()
    return begun if begun and begun.what == "stop" else None


def await_stop(tenant: Tenant) -> Begun | None:
    """Wait for the end of a stop that is under way, at most ``stop_wait_s``; returns what is still under way."""
    deadline = time.monotonic() + tenant.stop_wait_s
    begun = stop_under_way(tenant)
    while begun and time.monotonic() < deadline:
        time.sleep(POLL_S)
        begun = stop_under_way(tenant)
    return begun


def end(tenant: Tenant, log: Path) -> float:
    """Stop a tenant that was asked to stop before and may be on its way: as `stop`, and by signal where that fails.

    Afterwards nothing that was begun can end what is started then.

    Returns:
        Seconds it took.

    Raises:
        NotBegun: its stop command could not be run at all; no signal was sent.
        StartedAgain: another party has started it again; that one was sent no signal.
        TenantError: it is still there.
    """
    began, kind = time.monotonic(), of(tenant)
    process, trouble = kind.find(), None
    try:
        stop(tenant, log)
    except (NotBegun, StartedAgain):
        raise
    except TenantError as err:
        trouble = err
    # A tenant that hangs while it loads can't be found, and its own stop may not find it either.
    killing = bool(trouble or kind.begun() or kind.coming() or (process is None and kind.loading()))
    if killing:
        kind.kill()
    left_s = tenant.stop_wait_s - (time.monotonic() - began) if kind.knows_its_stops else 0.0
    deadline = time.monotonic() + max(KILL_S, left_s)
    rest = _rest(kind, process)
    while rest or kind.begun():
        if time.monotonic() > deadline:
            why = f"it can't be ended{f' ({rest})' if rest else ''}"
            raise trouble or TenantError(f"{tenant.name}: {why}; {kind.last_words(log)}")
        time.sleep(POLL_S)
        # The process found then may be a worker that its predecessor left.
        if killing:
            kind.kill()
        rest = _rest(kind, process)
    return time.monotonic() - began


def start(tenant: Tenant, log: Path, limit_s: float | None = None) -> str:
    """Start a tenant; it may still be loading on return.

    Args:
        tenant: the one to start.
        log: where its start command prints to.
        limit_s: seconds that the command may take, ``start_timeout_s`` where it is None.

    Returns:
        The scope in which its own command was run, for `wait_healthy`; empty where its manager runs it.

    Raises:
        TenantError: its start command failed.
    """
    limit_s = tenant.start_timeout_s if limit_s is None else max(0.0, limit_s)
    kind = of(tenant)
    try:
        return kind.start(log, limit_s)
    except TimeoutError as err:
        raise TenantError(
            f"{tenant.name}: its start command did not return within {limit_s:.0f} s; {kind.last_words(log)}"
        ) from err
    except OSError as err:
        raise TenantError(f"{tenant.name}: its start command cannot be run: {err}; {kind.last_words(log)}") from err


def wait_healthy(
    tenant: Tenant, log: Path, scope: str = "", limit_s: float | None = None, *, sure: bool = False
) -> float:
    """Wait until the tenant does its work.

    Args:
        tenant: the one that was started.
        log: what its start command printed.
        scope: what ``start`` returned.
        limit_s: seconds to wait, ``start_timeout_s`` where it is None.
        sure: its processes are known to live in ``scope``. Otherwise that is looked up now: a script may hand its
            service to another manager (docker, systemd), and then an empty scope says nothing.

    Returns:
        Seconds waited.

    Raises:
        Ended: what was started ended before it was healthy.
        TenantError: not healthy within the limit; says what was found last.
    """
    limit_s = tenant.start_timeout_s if limit_s is None else limit_s
    kind = of(tenant)
    began = asked = time.monotonic()
    known = sure or kind.start_is_service or (bool(scope) and probes.inhabited(scope))
    awaited = "" if scope else kind.coming()
    while True:
        # The port first: asking systemd or walking all processes at every look would cost more than the wait.
        answer = probes.ask(tenant.health) if tenant.health else None
        if answer is None or answer.ok:
            try:
                condition = look(tenant)
                if condition.healthy:
                    return time.monotonic() - began
                found = condition.found
            except (TenantError, OSError) as err:
                # Neither up nor down: it is asked again.
                found = f"it is unknown: {err}"
        else:
            found = answer.found
        now = time.monotonic()
        if now - began > limit_s:
            state = ""
            with contextlib.suppress(TenantError, OSError):
                seen = kind.seen()
                # What has ended, or is started again and again, gives no answer either.
                state = "" if seen.up or seen.found in found else seen.found
            # Another program on its port may be why it can't listen there.
            found = foreign(tenant) or "; ".join(filter(None, (found, state, awaited)))
            raise TenantError(
                f"{tenant.name}: not healthy after {tenant.start_timeout_s:.0f} s (found: {found}); "
                f"{kind.last_words(log)}"
            )
        if now - asked > _ENDED_EVERY_S:
            asked, why = now, ""
            # A manager that does not answer now is asked again.
            with contextlib.suppress(TenantError, OSError):
                why = kind.ended(scope if known else "")
                if awaited and kind.find() is None and not kind.coming():
                    why = f"it was coming up ({awaited}), but is no longer"
            if why:
                why = "; ".join(filter(None, (why, foreign(tenant))))
                raise Ended(f"{tenant.name}: ended before it was healthy: {why}; {kind.last_words(log)}")
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Standing:
    """Whether a tenant runs, which process it is if it has one, how often its manager has restarted it by itself.

    ``trouble`` says why one that runs is not up, in words: it is paused, waits for a new start, or a stop is under way.
    """

    running: bool
    process: ProcessId | None
    restarts: int
    trouble: str = ""

    def facts(self) -> dict[str, int | bool]:
        """It as JSON: ``{"running", "pid", "start_ticks", "restarts"}``; the numbers of no process are 0."""
        found = self.process or ProcessId(0, 0)
        return {
            "running": self.running,
            "pid": found.pid,
            "start_ticks": found.start_ticks,
            "restarts": self.restarts,
        }


def standing(tenant: Tenant) -> Standing:
    """What `unsettled` compares with.

    Raises:
        TenantError: its state is unknown: ask again.
        OSError: likewise.
    """
    kind = of(tenant)
    seen, begun = kind.seen(), kind.begun()
    trouble = begun.found if begun else "" if seen.up else seen.found
    return Standing(seen.running, seen.process, kind.restarts(), trouble)


def unsettled(tenant: Tenant, first: Standing) -> str:
    """Why a tenant is not what it was at the first look, or is not healthy; empty while it is.

    One that has no process is compared by its state alone.

    Raises:
        TenantError: its state is unknown: ask again.
        OSError: likewise.
    """
    if first.process and not probes.alive(first.process):
        return f"PID {first.process.pid} has ended"
    condition, restarts = look(tenant), of(tenant).restarts()
    if restarts != first.restarts:
        return f"its manager has restarted it ({restarts} times, {first.restarts} before)"
    return "" if condition.healthy else condition.found


def changed(tenant: Tenant, then: Mapping[str, Any]) -> str:
    """How a tenant that a restore has started is not who it was, in words; empty where it is, or was started by others.

    Args:
        tenant: as it is now.
        then: what the snapshot says about it.
    """
    known = identity.recall(then.get("identity"))
    process = of(tenant).find() if known else None
    if known is None or process is None:
        return ""
    scopes = set(probes.units(process.pid)) - set(then.get("scopes", []))
    if not any(re.fullmatch(_scope("start", tenant.name), scope) for scope in scopes):
        return ""
    now = identity.read(process.pid)
    return "; ".join(identity.differences(known, now)) if now else ""


def revived(tenants: Iterable[Tenant], newcomers: Sequence[Holder] = ()) -> str:
    """Name of a stopped tenant that another party started again, with what it is now; empty when none.

    Args:
        newcomers: processes that have come to hold VRAM meanwhile. A tenant that is found by its port fills its memory
            long before it listens.
    """
    for tenant in tenants:
        seen = None
        # A manager that does not answer proves no revival; it is asked again at the next look.
        with contextlib.suppress(TenantError, OSError):
            seen = of(tenant).seen()
        if seen and seen.running:
            process = seen.process
            words = f"PID {process.pid}, {probes.command(process.pid)}" if process else seen.found
            return f"{tenant.name} runs again ({words})"
        for holder in newcomers:
            if tenant.vram_process and tenant.vram_process in holder.command:
                return f"{tenant.name} runs again (PID {holder.pid}, {probes.printable(holder.command)})"
    return ""
