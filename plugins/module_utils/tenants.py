# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants: find them, stop them, start them, wait until they are healthy.

One class per kind, registered by its definition: everything that is true of one kind only is in its class. The
functions below the classes are the same for every kind. Commands of tenants run as the tenant's own user, in a scope
of their own, so that they outlive their caller.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pwd
import re
import secrets
import shlex
import signal
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, ClassVar, Protocol

from . import probes, run
from .gpu import Holder
from .journal import private
from .plan import Tenant
from .probes import Listener, ProcessId
from .run import Ran

POLL_S = 0.05
# How long a killed process may take to be gone.
KILL_S = 5.0
# What a unit's timeouts are when systemd gives them no end.
FOREVER_S = math.inf
_LOG_LINES = 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What listens on a published port for a container, as root.
_DOCKER_LISTENS = ("docker-proxy", "dockerd")
# A question to systemd or docker may take this long.
_QUESTION_S = 10.0
# Asking systemd or docker whether a started tenant has ended costs more than a poll may.
_ENDED_EVERY_S = 0.5


class TenantError(RuntimeError):
    """A tenant did not stop or start; the message has its last words and the command for the operator."""


class Ended(TenantError):
    """What was started ended before it was healthy. Waiting longer is pointless."""


class NotBegun(TenantError):
    """Its stop command could not be run at all: nothing was begun with the tenant."""


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
        return run.command(argv, _QUESTION_S)

    def root(self, *argv: str) -> Ran:
        return run.command(argv, _QUESTION_S)


HERE = _Here()


@dataclass(frozen=True)
class Condition:
    """How a tenant is now: ``running`` (it exists), ``healthy`` (it does its work), its process, words for people."""

    running: bool
    healthy: bool
    process: ProcessId | None
    found: str


@dataclass(frozen=True)
class Begun:
    """Something that was begun with a tenant and has not ended: ``what`` is ``stop`` or ``start``; words for people.

    It goes on by itself when the program that asked for it has gone. Its tenant is neither up nor down.
    """

    what: str
    found: str


KINDS: dict[str, type[Kind]] = {}


class Kind:
    """What one kind of tenant can do. A subclass with a ``name`` is registered under it.

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

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant

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
        """Its process, or None where it does not run."""
        raise NotImplementedError

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
        """What was begun with it and has not ended, as far as this can be seen on the host.

        This looks for commands of its inventory that still run.
        """
        found = probes.members(_scope("(?:start|stop)", self.tenant.name))
        # A stop that goes on counts more than a start beside it.
        for scope in sorted(found, reverse=True):
            what = "stop" if re.fullmatch(_scope("stop", self.tenant.name), scope) else "start"
            # What a start command leaves in the background is the tenant; of a stop nothing may be left.
            running = [pid for pid in found[scope] if what == "stop" or probes.command(pid).endswith(scope)]
            if running:
                return Begun(what, f"its {what} command still runs (PID {running[0]}, {scope})")
        return None

    def loading(self) -> list[str]:
        """Scopes of its start commands in which something lives: it may be loading there, not yet to be found."""
        return []

    def kill(self) -> None:
        """End by signal what its own stop has left; nothing where its manager does that."""

    def restarts(self) -> int:
        """How often its manager has started it again by itself; 0 where it has none that counts."""
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

    def state(self, _host: Host) -> probes.Answer:
        """What its manager says of it, for the contract that every tenant is healthy; nothing where it has none."""
        return probes.Answer(True, "")

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
        return ""

    def last_words(self, log: Path) -> str:
        """Its last log lines, and the command that starts it by hand."""
        text = ""
        # They are asked for when something has failed: trouble here must not hide that failure.
        with contextlib.suppress(OSError):
            text = self.words(log)
        lines = "\n".join(text.splitlines()[-_LOG_LINES:]) or "(nothing)"
        return f"last log lines:\n{probes.printable(lines)}\nto start it by hand: {self.start_command()}"

    def command(self, argv: list[str], limit_s: float, log: Path) -> None:
        """Run a command of its manager that must succeed."""
        done = run.command(argv, limit_s)
        if done.rc != 0:
            raise TenantError(
                f"{self.tenant.name}: {shlex.join(argv)} ended with {done.rc}: {probes.printable(done.err.strip())}; "
                f"{self.last_words(log)}"
            )


def unit_facts(unit: str) -> dict[str, str]:
    """What systemd says of a unit: ActiveState, MainPID, Result and friends; Job is absent where none is queued."""
    names = "ActiveState,SubState,MainPID,Result,NRestarts,UnitFileState,ActiveEnterTimestampMonotonic,Job"
    reply = run.command(["systemctl", "show", "--property", names, unit], _QUESTION_S)
    return dict(line.split("=", 1) for line in reply.out.splitlines() if "=" in line)


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
        ValueError: it is none.
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


class Systemd(Kind):
    """A unit of systemd."""

    name = "systemd"
    needs = ("unit",)
    tells_its_state = True
    knows_its_stops = True

    def find(self) -> ProcessId | None:
        return probes.identify(int(unit_facts(self.tenant.unit).get("MainPID") or 0))

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
        state, job = facts.get("ActiveState", ""), facts.get("Job", "").strip()
        job = "" if job == "0" else job
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
        run.command(["systemctl", "reset-failed", self.tenant.unit], _QUESTION_S)
        self.command(["systemctl", "start", self.tenant.unit], limit_s, log)
        return ""

    def ended(self, scope: str) -> str:
        facts = unit_facts(self.tenant.unit)
        found = facts.get("ActiveState", "")
        return f"its unit is {found} ({facts.get('Result')})" if found in ("failed", "inactive") else ""

    def words(self, log: Path) -> str:
        argv = ["journalctl", "-u", self.tenant.unit, "-n", str(_LOG_LINES), "--no-pager", "-o", "cat"]
        return run.command(argv, _QUESTION_S).out

    def start_command(self) -> str:
        return f"sudo systemctl start {self.tenant.unit}"

    def state(self, host: Host) -> probes.Answer:
        ran = host.run(("systemctl", "is-active", self.tenant.unit))
        if ran.out.strip() != "active":
            return probes.Answer(False, f"unit {self.tenant.unit} is {ran.out.strip() or ran.first_line()}")
        return probes.Answer(True, "unit active")

    def way_back(self, host: Host) -> str:
        # A running unit may be masked, deleted or broken meanwhile, and then does not start again.
        ran = host.run(("systemctl", "show", "--property=LoadState", "--value", self.tenant.unit))
        return "" if ran.out.strip() == "loaded" else f"its unit is {ran.out.strip() or ran.first_line()}"


class _Commands(Kind):
    """A tenant that the inventory's own commands start and stop."""

    def find(self) -> ProcessId | None:
        if self.tenant.process:
            found = probes.processes(self.tenant.process)
            return found[0] if found else None
        if not self.tenant.port:
            return None
        held = (item for item in probes.listeners() if item.port == self.tenant.port and item.pid)
        return probes.identify(next((item.pid for item in held if owns(self.tenant, item, HERE)), 0))

    def claims(self, item: Listener, host: Host) -> bool:
        tenant, units = self.tenant, probes.units(item.pid, host.proc)
        if any(re.fullmatch(_scope("start", tenant.name), unit) for unit in units):
            return True
        # Every user may give his process what name he likes; nobody may run as another.
        if tenant.user and probes.uid(item.pid, host.proc) != _uid(tenant.user):
            return False
        if not tenant.process:
            return True
        own = {process.pid for process in probes.processes(tenant.process, host.proc)}
        return bool(own & probes.ancestors(item.pid, host.proc))

    def loading(self) -> list[str]:
        return sorted(probes.members(_scope("start", self.tenant.name)))

    def kill(self) -> None:
        for scope in probes.members(_scope("(?:start|stop)", self.tenant.name)):
            _end_scope(scope)
        process = self.find()
        _signal([*probes.processes(self.tenant.process), *([process] if process else [])], signal.SIGKILL)

    def start(self, log: Path, limit_s: float) -> str:
        return _as_user(self, "start", self.tenant.start, log, limit_s)

    def ended(self, scope: str) -> str:
        # Without a scope that held its processes nothing is known.
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
            yield "port", "a port or a process, because nothing else tells whether a script's tenant runs"
        yield from super().lacks(tenant, moved)

    def stop(self, log: Path) -> None:
        _as_user(self, "stop", self.tenant.stop, log, self.tenant.stop_timeout_s)


class Container(Kind):
    """A container of docker that exists already."""

    name = "container"
    needs = ("container",)

    def _pid(self) -> int:
        reply = run.command(["docker", "inspect", "--format", "{{.State.Pid}}", self.tenant.container], _QUESTION_S)
        if reply.rc != 0 and reply.err and "No such" not in reply.err:
            # An engine that does not answer has not said that the container is gone.
            raise TenantError(f"{self.tenant.name}: {probes.printable(reply.err.strip())}")
        return int(reply.out.strip() or 0) if reply.rc == 0 else 0

    def find(self) -> ProcessId | None:
        return probes.identify(self._pid())

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
        return ["docker", "stop", "--time", str(int(self.tenant.stop_timeout_s)), self.tenant.container]

    def begun(self) -> Begun | None:
        # docker does not tell that it waits for a container's end; the client that asked for it may live on.
        asking = [p.pid for p in probes.processes(shlex.join(self._stop)) if probes.uid(p.pid) == 0]
        return Begun("stop", f"PID {asking[0]} stops it") if asking else None

    def restarts(self) -> int:
        argv = ["docker", "inspect", "--format", "{{.RestartCount}}", self.tenant.container]
        found = run.command(argv, _QUESTION_S).out.strip()
        return int(found) if found.isdigit() else 0

    def stop(self, log: Path) -> None:
        self.command(self._stop, self.tenant.stop_timeout_s + 10, log)

    def start(self, log: Path, limit_s: float) -> str:
        self.command(["docker", "start", self.tenant.container], limit_s, log)
        return ""

    def ended(self, scope: str) -> str:
        return "" if self._pid() else "its container has ended"

    def words(self, log: Path) -> str:
        reply = run.command(["docker", "logs", "--tail", str(_LOG_LINES), self.tenant.container], _QUESTION_S)
        return reply.out + reply.err

    def start_command(self) -> str:
        return f"sudo docker start {self.tenant.container}"

    def state(self, host: Host) -> probes.Answer:
        ran = host.root("docker", "inspect", "--format", "{{.State.Status}}", self.tenant.container)
        if ran.out.strip() != "running":
            return probes.Answer(False, f"container {self.tenant.container} is {ran.out.strip() or ran.first_line()}")
        return probes.Answer(True, "container running")


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
        targets = probes.processes(self.tenant.process)
        _signal(targets, signal.SIGTERM)
        while any(probes.alive(process) for process in targets):
            if time.monotonic() > deadline:
                _signal(targets, signal.SIGKILL)
                return
            time.sleep(POLL_S)

    def start(self, log: Path, limit_s: float) -> str:
        return _as_user(self, "start", f"{self.tenant.start} &", log, limit_s)


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
        run.command(["systemctl", "kill", "--signal=KILL", scope], _QUESTION_S)
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


def _as_user(kind: Kind, what: str, command: str, log: Path, limit_s: float) -> str:
    # A scope of its own: what the command leaves in the background must not die with the unit that ran it. Its name
    # tells the next restore what was begun with which tenant.
    # Output goes to a file, because a daemon that holds a pipe open would block the caller.
    tenant = kind.tenant
    scope = f"trial-{what}.{tenant.name}.{secrets.token_hex(4)}.scope"
    argv = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={scope}", f"--uid={tenant.user}"]
    try:
        with _log_file(log, command) as out:
            # The service inherits this environment, so its locale is left alone.
            # The shell stays until the command has ended, and bears the name of its scope: see `Kind.begun`.
            script = [*argv, "/bin/sh", "-c", f"{command}\nexit $?", scope]
            done = run.command(script, limit_s, cwd=tenant.directory or "/", into=out, c_locale=False)
    except TimeoutError:
        _end_scope(scope)
        raise
    if done.rc != 0:
        # A failed command leaves nothing half done: what it started would run twice after the next attempt.
        _end_scope(scope)
        raise TenantError(f"{tenant.name}: {command!r} ended with {done.rc}; {kind.last_words(log)}")
    return scope


def of(tenant: Tenant) -> Kind:
    """The tenant, with what its kind can do."""
    return KINDS[tenant.kind](tenant)


def find_process(tenant: Tenant) -> ProcessId | None:
    """The tenant's process, or None where it does not run."""
    return of(tenant).find()


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def owns(tenant: Tenant, item: Listener, host: Host) -> bool:
    """Whether a listener is the tenant's: its own, or the one that the inventory names (``listener``).

    The latter is a program of root or of the tenant's user: everybody may give his own program that name.
    """
    if tenant.listener and tenant.listener in item.command:
        trusted = {0, _uid(tenant.user)} if tenant.user else {0}
        if probes.uid(item.pid, host.proc) in trusted:
            return True
    return of(tenant).claims(item, host)


def ports(tenant: Tenant) -> set[int]:
    """Where the tenant listens and is asked on this host."""
    asked = [question.url for question in (tenant.health, tenant.speech) if question]
    found = {tenant.port}
    for url in asked:
        # What can't be read as an address is not asked either.
        with contextlib.suppress(ValueError):
            parts = urllib.parse.urlsplit(url)
            if parts.hostname in _LOOPBACK:
                found.add(parts.port or (443 if parts.scheme == "https" else 80))
    return found - {0}


def strangers(tenant: Tenant, listeners: Iterable[Listener], host: Host) -> str:
    """Who listens on the tenant's ports and is not the tenant: PID, user, program; empty if nobody does.

    Any program that listens there can answer in its place. One that can't be seen, or has gone, is left out.
    """
    wanted = ports(tenant)
    held = [item for item in listeners if item.port in wanted and probes.uid(item.pid, host.proc) is not None]
    foreign = [item for item in held if not owns(tenant, item, host)]
    return ", ".join(_held(item, host) for item in foreign)


def _held(item: Listener, host: Host) -> str:
    uid = probes.uid(item.pid, host.proc)
    user = str(uid)
    with contextlib.suppress(KeyError, TypeError):
        user = pwd.getpwuid(uid).pw_name  # type: ignore[arg-type]  # None where it is gone: a TypeError
    return f"port {item.port} is held by PID {item.pid} (user {user}, {item.command or 'gone'})"


def foreign(tenant: Tenant) -> str:
    """`strangers` on this host, as of now."""
    return strangers(tenant, probes.listeners(), HERE)


def look(tenant: Tenant) -> Condition:
    """How the tenant is now. Looks only.

    What was begun and has not ended leaves nobody healthy, nor does an answer that a stranger may have given.
    """
    process, begun = find_process(tenant), of(tenant).begun()
    stranger = foreign(tenant)
    if stranger:
        return Condition(process is not None, False, process, stranger)
    if process is None:
        return Condition(False, False, None, begun.found if begun else "not running")
    if begun:
        return Condition(True, False, process, f"PID {process.pid}, {begun.found}")
    if tenant.health is None:
        return Condition(True, True, process, f"PID {process.pid}")
    answer = probes.ask(tenant.health)
    return Condition(True, answer.ok, process, f"PID {process.pid}, {answer.found}")


def stop(tenant: Tenant, log: Path) -> float:
    """Stop a tenant and wait until its process is gone.

    Returns:
        Seconds it took.

    Raises:
        NotBegun: its stop command could not be run at all.
        TenantError: it still runs after its ``stop_timeout_s``, or its stop failed: what was begun goes on.
    """
    began = time.monotonic()
    process = find_process(tenant)
    try:
        of(tenant).stop(log)
    except TimeoutError as err:
        raise TenantError(f"{tenant.name}: still stopping after {tenant.stop_timeout_s:.0f} s") from err
    except OSError as err:
        raise NotBegun(f"{tenant.name}: its stop command cannot be run: {err}") from err
    while process and probes.alive(process):
        if time.monotonic() - began > tenant.stop_timeout_s + 1:
            raise TenantError(f"{tenant.name}: PID {process.pid} still runs after {tenant.stop_timeout_s:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - began


def age_s(tenant: Tenant, scope: str = "") -> float:
    """How long ago a tenant was started, in seconds: its process, or the oldest one that loads in ``scope``."""
    process = find_process(tenant)
    pids = [process.pid] if process else []
    if scope:
        pids += probes.members(re.escape(scope)).get(scope, [])
    return max((probes.age_s(pid) for pid in pids), default=0.0)


def stop_under_way(tenant: Tenant) -> Begun | None:
    """A stop that was begun and has not ended, as far as this can be seen on the host."""
    begun = of(tenant).begun()
    return begun if begun and begun.what == "stop" else None


def await_stop(tenant: Tenant) -> Begun | None:
    """Wait for the end of a stop that is under way, at most the tenant's ``stop_wait_s``; returns what goes on then."""
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
        TenantError: it is still there.
    """
    began, kind = time.monotonic(), of(tenant)
    process, trouble = kind.find(), None
    try:
        stop(tenant, log)
    except NotBegun:
        raise
    except TenantError as err:
        trouble = err
    # What hangs while it loads is not to be found, and its own stop may not find it either.
    killing = bool(trouble or kind.begun() or (process is None and kind.loading()))
    if killing:
        kind.kill()
    left_s = tenant.stop_wait_s - (time.monotonic() - began) if kind.knows_its_stops else 0.0
    deadline = time.monotonic() + max(KILL_S, left_s)
    while find_process(tenant) or kind.begun():
        if time.monotonic() > deadline:
            raise trouble or TenantError(f"{tenant.name}: it can't be ended; {kind.last_words(log)}")
        time.sleep(POLL_S)
        # What is found then may be a worker that the one before has left.
        if killing:
            kind.kill()
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
    while True:
        # The port first: asking systemd or walking all processes at every look would cost more than the wait.
        answer = probes.ask(tenant.health) if tenant.health else None
        if answer is None or answer.ok:
            condition = look(tenant)
            if condition.healthy:
                return time.monotonic() - began
            found = condition.found
        else:
            found = answer.found
        now = time.monotonic()
        if now - began > limit_s:
            # A stranger on its port may be why it can't listen there.
            found = foreign(tenant) or found
            raise TenantError(
                f"{tenant.name}: not healthy after {tenant.start_timeout_s:.0f} s (found: {found}); "
                f"{kind.last_words(log)}"
            )
        if now - asked > _ENDED_EVERY_S:
            asked = now
            why = kind.ended(scope if known else "")
            if why:
                why = "; ".join(filter(None, (why, foreign(tenant))))
                raise Ended(f"{tenant.name}: ended before it was healthy: {why}; {kind.last_words(log)}")
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Standing:
    """Which process a tenant is, and how often its manager has started it again by itself."""

    process: ProcessId | None
    restarts: int

    def facts(self) -> dict[str, int]:
        """It as JSON: ``{"pid", "start_ticks", "restarts"}``."""
        found = self.process or ProcessId(0, 0)
        return {"pid": found.pid, "start_ticks": found.start_ticks, "restarts": self.restarts}


def standing(tenant: Tenant) -> Standing:
    """What `unsettled` compares with; without a process where it can't be told."""
    # What went wrong is the next look's to tell.
    with contextlib.suppress(Exception):
        return Standing(find_process(tenant), of(tenant).restarts())
    return Standing(None, 0)


def unsettled(tenant: Tenant, first: Standing) -> str:
    """Why a tenant is not what it was at the first look, or is not healthy; empty while it is. Never raises."""
    if first.process is None:
        return "not running"
    if not probes.alive(first.process):
        return f"PID {first.process.pid} has ended"
    try:
        condition, restarts = look(tenant), of(tenant).restarts()
    except Exception as err:
        # A manager that can't be asked has not said that it is well.
        return f"it can't be looked at: {err}"
    if restarts != first.restarts:
        return f"its manager has started it again ({restarts} times, {first.restarts} before)"
    return "" if condition.healthy else condition.found


def revived(tenants: Iterable[Tenant], newcomers: Sequence[Holder] = ()) -> str:
    """Name of a stopped tenant that another party started again, with its process; empty when none.

    Args:
        newcomers: processes that have come to hold VRAM meanwhile. A tenant that is found by its port fills its memory
            long before it listens.
    """
    for tenant in tenants:
        process = None
        # A manager that does not answer revives nobody.
        with contextlib.suppress(TenantError):
            process = find_process(tenant)
        if process:
            return f"{tenant.name} runs again (PID {process.pid}, {probes.command(process.pid)})"
        for holder in newcomers:
            if tenant.vram_process and tenant.vram_process in holder.command:
                return f"{tenant.name} runs again (PID {holder.pid}, {probes.printable(holder.command)})"
    return ""
