# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants: look at them, stop them, start them, wait until they are healthy.

Four kinds. A *systemd* unit is asked of systemd; a *script* tenant has a start and a stop command in its folder; a
*container* is asked of docker; a *process* is found by its argv, ended by signal and started by its command. Scripts
and commands run as the tenant's own user and in a scope of their own, so that they outlive whoever started them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from . import probes, run
from .gpu import Holder
from .journal import private
from .plan import Tenant
from .probes import ProcessId

POLL_S = 0.05
_LOG_LINES = 20
# Asking systemd or docker whether a start has come to nothing costs more than a poll may.
_ENDED_EVERY_S = 0.5


class TenantError(RuntimeError):
    """A tenant did not stop or start; the message has its last words and the command for the operator."""


class Ended(TenantError):
    """What was started has ended before it was healthy: waiting on would be in vain."""


@dataclass(frozen=True)
class Condition:
    """How a tenant is now: ``running`` (it exists), ``healthy`` (it does its work), its process, words for people."""

    running: bool
    healthy: bool
    process: ProcessId | None
    found: str


def unit_facts(unit: str) -> dict[str, str]:
    """What systemd says of a unit: ActiveState, MainPID, Result and friends."""
    names = "ActiveState,SubState,MainPID,Result,NRestarts,UnitFileState,ActiveEnterTimestampMonotonic"
    reply = run.command(["systemctl", "show", "--property", names, unit], 10)
    return dict(line.split("=", 1) for line in reply.out.splitlines() if "=" in line)


def _container_pid(name: str) -> int:
    reply = run.command(["docker", "inspect", "--format", "{{.State.Pid}}", name], 10)
    return int(reply.out.strip() or 0) if reply.rc == 0 else 0


def find_process(tenant: Tenant) -> ProcessId | None:
    """The tenant's process: its unit's, its container's, the one with its argv, or the one that holds its port."""
    pid = 0
    if tenant.kind == "systemd":
        pid = int(unit_facts(tenant.unit).get("MainPID") or 0)
    elif tenant.kind == "container":
        pid = _container_pid(tenant.container)
    elif tenant.process:
        found = probes.processes(tenant.process)
        return found[0] if found else None
    elif tenant.port:
        pid = next((item.pid for item in probes.listeners() if item.port == tenant.port), 0)
    return probes.identify(pid) if pid else None


def look(tenant: Tenant) -> Condition:
    """How the tenant is now. Looks only."""
    process = find_process(tenant)
    if process is None:
        return Condition(False, False, None, "not running")
    if tenant.health is None:
        return Condition(True, True, process, f"PID {process.pid}")
    answer = probes.ask(tenant.health)
    return Condition(True, answer.ok, process, f"PID {process.pid}, {answer.found}")


def start_command(tenant: Tenant) -> str:
    """The command an operator would type to start the tenant by hand."""
    if tenant.kind == "systemd":
        return f"sudo systemctl start {tenant.unit}"
    if tenant.kind == "container":
        return f"sudo docker start {tenant.container}"
    folder = f"cd {shlex.quote(tenant.directory)} && " if tenant.directory else ""
    return f"sudo -u {tenant.user} sh -c {shlex.quote(folder + tenant.start)}"


def _end_scope(scope: str) -> None:
    with contextlib.suppress(OSError):
        run.command(["systemctl", "kill", "--signal=KILL", scope], 10)


@contextlib.contextmanager
def _log_file(log: Path, command: str) -> Iterator[IO[bytes] | int]:
    """The tenant's log for appending; nowhere when the disk takes no more, because its start must not fail of that."""
    with contextlib.ExitStack() as stack:
        out: IO[bytes] | int = run.NOWHERE
        with contextlib.suppress(OSError):
            file = stack.enter_context(open(log, "ab", buffering=0, opener=private))
            # Whether the disk takes anything is seen by writing: with a tenant's own first word it would be too late.
            file.write(f"--- {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {command}\n".encode())
            out = file
        yield out


def _as_user(tenant: Tenant, command: str, log: Path, timeout_s: float) -> str:
    # A scope of its own: what the command leaves in the background must not die with the unit that ran it.
    # Output goes to a file, because a pipe held open by a daemon would keep the caller waiting for its end.
    scope = f"{tenant.name}-{secrets.token_hex(4)}.scope"
    argv = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={scope}", f"--uid={tenant.user}"]
    try:
        with _log_file(log, command) as out:
            # The service inherits this environment: its locale is its own.
            done = run.command(
                [*argv, "/bin/sh", "-c", command], timeout_s, cwd=tenant.directory or "/", into=out, c_locale=False
            )
    except TimeoutError:
        _end_scope(scope)
        raise
    if done.rc != 0:
        # A command that failed leaves nothing half done: what it started would be there twice after the next try.
        _end_scope(scope)
        raise TenantError(f"{tenant.name}: {command!r} ended with {done.rc}; {last_words(tenant, log)}")
    return scope


def last_words(tenant: Tenant, log: Path) -> str:
    """The last log lines of a tenant, and the command that starts it by hand."""
    text = ""
    # They are asked for when something has failed: what fails here may not take that failure's place.
    with contextlib.suppress(OSError):
        if tenant.kind == "systemd":
            argv = ["journalctl", "-u", tenant.unit, "-n", str(_LOG_LINES), "--no-pager", "-o", "cat"]
            text = run.command(argv, 10).out
        elif tenant.kind == "container":
            reply = run.command(["docker", "logs", "--tail", str(_LOG_LINES), tenant.container], 10)
            text = reply.out + reply.err
        else:
            text = log.read_text(encoding="utf-8", errors="replace")
    lines = "\n".join(text.splitlines()[-_LOG_LINES:]) or "(nothing)"
    return f"last log lines:\n{probes.printable(lines)}\nto start it by hand: {start_command(tenant)}"


def _checked(tenant: Tenant, argv: list[str], timeout_s: float, log: Path) -> None:
    done = run.command(argv, timeout_s)
    if done.rc != 0:
        raise TenantError(
            f"{tenant.name}: {shlex.join(argv)} ended with {done.rc}: {probes.printable(done.err.strip())}; "
            f"{last_words(tenant, log)}"
        )


def _signal(targets: Iterable[ProcessId], number: int) -> None:
    for process in targets:
        if probes.alive(process):
            # It may end between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _end_processes(tenant: Tenant) -> None:
    deadline = time.monotonic() + tenant.stop_timeout_s
    targets = probes.processes(tenant.process)
    _signal(targets, signal.SIGTERM)
    while any(probes.alive(p) for p in targets):
        if time.monotonic() > deadline:
            _signal(targets, signal.SIGKILL)
            return
        time.sleep(POLL_S)


def stop(tenant: Tenant, log: Path) -> float:
    """Stop a tenant and wait until its process is gone.

    Returns:
        Seconds it took.

    Raises:
        TenantError: it still runs after its ``stop_timeout_s``.
    """
    began = time.monotonic()
    process = find_process(tenant)
    try:
        if tenant.kind == "systemd":
            _checked(tenant, ["systemctl", "stop", tenant.unit], tenant.stop_timeout_s, log)
        elif tenant.kind == "container":
            grace = str(int(tenant.stop_timeout_s))
            _checked(tenant, ["docker", "stop", "--time", grace, tenant.container], tenant.stop_timeout_s + 10, log)
        elif tenant.stop:
            _as_user(tenant, tenant.stop, log, tenant.stop_timeout_s)
        else:
            _end_processes(tenant)
    except TimeoutError as err:
        raise TenantError(f"{tenant.name}: still stopping after {tenant.stop_timeout_s:.0f} s") from err
    except OSError as err:
        raise TenantError(f"{tenant.name}: its stop command can not be run: {err}") from err
    while process and probes.alive(process):
        if time.monotonic() - began > tenant.stop_timeout_s + 1:
            raise TenantError(f"{tenant.name}: PID {process.pid} still runs after {tenant.stop_timeout_s:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - began


def start(tenant: Tenant, log: Path, limit_s: float | None = None) -> str:
    """Start a tenant; it may still be loading on return.

    Args:
        tenant: the one to start.
        log: where its start command prints to.
        limit_s: seconds that the command may take, ``start_timeout_s`` where it is None.

    Returns:
        The scope in which a script or command was run, for ``wait_healthy``; empty for the other kinds.

    Raises:
        TenantError: its start command failed.
    """
    limit_s = tenant.start_timeout_s if limit_s is None else max(0.0, limit_s)
    try:
        if tenant.kind == "systemd":
            # A unit that failed too often refuses to start until its counter is reset.
            run.command(["systemctl", "reset-failed", tenant.unit], 10)
            _checked(tenant, ["systemctl", "start", tenant.unit], limit_s, log)
        elif tenant.kind == "container":
            _checked(tenant, ["docker", "start", tenant.container], limit_s, log)
        else:
            background = " &" if tenant.kind == "process" else ""
            return _as_user(tenant, tenant.start + background, log, limit_s)
    except TimeoutError as err:
        raise TenantError(
            f"{tenant.name}: its start command did not return within {limit_s:.0f} s; {last_words(tenant, log)}"
        ) from err
    except OSError as err:
        raise TenantError(f"{tenant.name}: its start command can not be run: {err}; {last_words(tenant, log)}") from err
    return ""


def ended(tenant: Tenant, scope: str = "") -> str:
    """Why a started tenant will never be healthy, because what was started has ended already; empty while it may.

    Args:
        tenant: the one that was started.
        scope: one that held its processes; without it nothing is known of a script's.
    """
    if tenant.kind == "systemd":
        facts = unit_facts(tenant.unit)
        found = facts.get("ActiveState", "")
        return f"its unit is {found} ({facts.get('Result')})" if found in ("failed", "inactive") else ""
    if tenant.kind == "container":
        return "" if _container_pid(tenant.container) else "its container has ended"
    if scope and not probes.inhabited(scope) and find_process(tenant) is None:
        return "what its start command left in the background has ended"
    return ""


def wait_healthy(
    tenant: Tenant, log: Path, scope: str = "", limit_s: float | None = None, *, sure: bool = False
) -> float:
    """Wait until the tenant does its work.

    Args:
        tenant: the one that was started.
        log: what its start command printed.
        scope: what ``start`` returned.
        limit_s: seconds to wait, ``start_timeout_s`` where it is None.
        sure: that its processes live in ``scope``. Otherwise that is seen at once: a script may leave its service to
            somebody else (docker, systemd), and then an empty scope says nothing.

    Returns:
        Seconds waited.

    Raises:
        Ended: what was started has ended before it was healthy.
        TenantError: not healthy within the limit; says what was found last.
    """
    limit_s = tenant.start_timeout_s if limit_s is None else limit_s
    began = asked = time.monotonic()
    # The command of a process is the service itself; it hands nothing over to others.
    known = sure or tenant.kind == "process" or (bool(scope) and probes.inhabited(scope))
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
            raise TenantError(
                f"{tenant.name}: not healthy after {tenant.start_timeout_s:.0f} s (found: {found}); "
                f"{last_words(tenant, log)}"
            )
        if now - asked > _ENDED_EVERY_S:
            asked = now
            why = ended(tenant, scope if known else "")
            if why:
                raise Ended(f"{tenant.name}: ended before it was healthy: {why}; {last_words(tenant, log)}")
        time.sleep(POLL_S)


def revived(tenants: Iterable[Tenant], newcomers: Sequence[Holder] = ()) -> str:
    """Name of a stopped tenant that somebody brought back, with its process; empty when none.

    Args:
        newcomers: who has come to hold VRAM meanwhile. A tenant that is found by its port fills its memory long before
            it listens.
    """
    for tenant in tenants:
        process = find_process(tenant)
        if process:
            return f"{tenant.name} runs again (PID {process.pid}, {probes.command(process.pid)})"
        for holder in newcomers:
            if tenant.vram_process and tenant.vram_process in holder.command:
                return f"{tenant.name} runs again (PID {holder.pid}, {probes.printable(holder.command)})"
    return ""
