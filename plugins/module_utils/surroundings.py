# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ran on the host before a trial beside its tenants: units, containers, listeners, and what depends on a tenant.

When systemd stops a unit, it also stops the units that require it. So phase 0 asks which units would go down with a
stopped tenant, the snapshot records everything that runs, and the restore ends with a comparison.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import containers, probes, run, sockets, tenants, units
from .plan import DEPENDENTS_S, QUESTION_S, UNLIMITED_START_S, Plan, Site, Tenant
from .units import Runs, Unit

# Unit types that keep running. Mounts come and go with containers and sessions; targets run nothing.
_LASTING = ("service", "socket", "timer", "path")
# Units that are not the host's own: the trial's, and those that start and end with a login.
_PASSING = re.compile(r"(mt-.*|user@.*|user-runtime-dir@.*|session-.*)\Z")
# Services that a socket unit starts for one connection each (Accept=yes).
_CONNECTION = re.compile(r".+@\d+-.+\.service\Z")
_SESSION = re.compile(r"session-.*\.scope\Z")
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
Looks = Callable[[Iterable[str]], Mapping[str, Unit]]
_NAME = re.compile(r"[^A-Za-z0-9._-]")
# By kind of unit, the property that limits its start. Units of other kinds start at once.
_START_LIMITS = {"service": "TimeoutStartUSec", "mount": "TimeoutUSec", "swap": "TimeoutUSec"}


def _ask(argv: Any) -> run.Ran:
    return run.command(argv, QUESTION_S)


# ---- what goes down with a tenant ----


@dataclass(frozen=True)
class Beside:
    """What phase 0 says about units that depend on a stopped tenant.

    ``broken``: units that would stay down, or whose place in the orders is wrong. ``told``: units that go down and
    that the restore starts again. ``todo``: the inventory lines that fix the broken ones.
    """

    broken: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)


def _roots(plan: Site) -> dict[str, str]:
    """The units that a trial stops, by tenant."""
    moved = (plan.tenant(name) for name in plan.stop_order)
    return {tenant.name: tenant.unit for tenant in moved if tenant.kind == "systemd" and tenant.unit}


def _looking(ask: Runs) -> Looks:
    """A look at units that asks systemd for each of them once."""
    known: dict[str, Unit] = {}

    def look(names: Iterable[str]) -> Mapping[str, Unit]:
        known.update(units.show(ask, [name for name in names if name not in known]))
        return known

    return look


def dependents(plan: Site, look: Looks) -> list[tuple[Unit, dict[str, str]]]:
    """Active units that systemd stops together with a stopped tenant, each with ``{tenant: how}``.

    Raises:
        OSError: systemd did not answer.
    """
    found, known = units.dragged(_roots(plan), look)
    return [(known[name], found[name]) for name in sorted(found) if name in known and known[name].active]


def _followers(plan: Site, look: Looks) -> list[tuple[Unit, str]]:
    """The units of stopped tenants that systemd orders after that of another one, each with that tenant's name."""
    roots = _roots(plan)
    known = look([units.full(name) for name in roots.values()])
    mine = {tenant: known[units.full(name)] for tenant, name in roots.items() if units.full(name) in known}
    earlier = {tenant: units.before(unit.id, look) for tenant, unit in mine.items()}
    return [
        (unit, other)
        for tenant, unit in mine.items()
        for other in mine
        # A cycle has no order: systemd breaks it at any place.
        if tenant != other and mine[other].id in earlier[tenant] and unit.id not in earlier[other]
    ]


def _tenant_of(plan: Site, unit: Unit) -> Tenant | None:
    names = {unit.id, *unit.words("Names")}
    return next((t for t in plan.tenants if t.kind == "systemd" and units.full(t.unit) in names), None)


def _lines(plan: Site, unit: Unit, roots: Iterable[str]) -> list[str]:
    """The missing inventory lines, with which a unit is stopped before its roots and started after them."""
    tenant = _tenant_of(plan, unit)
    name = tenant.name if tenant else _NAME.sub("-", unit.id.removesuffix(".service"))
    found = [] if tenant else [f"trial_tenants: add {{name: {name}, kind: systemd, unit: {unit.id}}}"]
    for order, listed, word in (
        ("trial_stop_order", plan.stop_order, "before"),
        ("trial_restore_order", plan.restore_order, "after"),
    ):
        present = [root for root in roots if root in listed]
        at = listed.index(name) if name in listed else -1
        good = at >= 0 and all((at < listed.index(root)) == (word == "before") for root in present)
        if not good:
            found.append(f"{order}: {'put' if at >= 0 else 'add'} {name} {word} {' and '.join(present)}")
    return found


def judge(plan: Site, ask: Runs) -> Beside:
    """Check that every unit that goes down with a stopped tenant comes back, and that systemd has the plan's order.

    A unit with a process must itself be a tenant in both orders: it may hold people's work, and its start may take a
    while. The restore starts sockets, timers, targets and the like on its own.

    Raises:
        OSError: systemd did not answer.
    """
    found, look = Beside(), _looking(ask)
    for unit, roots in dependents(plan, look):
        words = f"{unit.id} goes down with {' and '.join(sorted(roots))} ({', '.join(sorted(set(roots.values())))})"
        tenant = _tenant_of(plan, unit)
        if unit.has_process or (tenant and tenant.name in plan.stop_order):
            lines = _lines(plan, unit, roots)
            if lines:
                found.broken.append(f"{words} and would stay down, or move in an order other than the trial's")
                found.todo.extend(lines)
            continue
        lost = units.lacks(unit, tenants.there)
        if lost:
            found.broken.append(f"{words} and could not be started again: {', '.join(lost)}")
        else:
            found.told.append(f"{words} and is started again")
    for unit, root in _followers(plan, look):
        lines = [line for line in _lines(plan, unit, [root]) if line not in found.todo]
        if lines:
            found.broken.append(f"systemd starts {unit.id} after the unit of {root} (After=), and the trial does not")
            found.todo.extend(lines)
    return found


def unlisted(plan: Plan, ask: Runs) -> list[Unit]:
    """Units that go down with a tenant and that the restore starts on its own: they are not tenants in its order.

    Raises:
        OSError: systemd did not answer.
    """
    ours = [plan.tenant(name) for name in plan.restore_order]
    return [unit for unit, _roots in dependents(plan, _looking(ask)) if _tenant_of(plan, unit) not in ours]


def start_limit_s(unit: Unit) -> float:
    """How long a restore waits for the start of such a unit, in seconds; it may go on after that."""
    limit = unit.facts.get(_START_LIMITS.get(unit.kind, ""), "0")
    with contextlib.suppress(ValueError):
        limit_s = tenants.span_s(limit)
        return DEPENDENTS_S + (UNLIMITED_START_S if math.isinf(limit_s) else limit_s)
    return DEPENDENTS_S + UNLIMITED_START_S


def starts_bound_s(found: Iterable[Unit]) -> float:
    """Upper bound of the starts of such units, one after another, in seconds; 0 without any."""
    more = [start_limit_s(unit) - DEPENDENTS_S for unit in found]
    return DEPENDENTS_S + sum(more) if more else 0.0


# ---- what ran before ----


def take(plan: Plan, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Record what runs on the host now.

    Args:
        plan: what lives on the host.
        found: the tenants of the snapshot, with their ``pid``.

    Returns:
        ``{"units": {name: state}, "dependents": {unit: {tenant: how}}, "containers": {name: id} or None, "listeners":
        [{"port", "program", "unit", "tenant"}]}``. Units that end by themselves are left out (one-shots, scopes,
        sessions, units that a timer or a bus name starts), and so are ephemeral ports.

    Raises:
        OSError: systemd did not answer.
    """
    known = units.everything(_ask)

    def look(names: Iterable[str]) -> Mapping[str, Unit]:
        unknown = [name for name in names if name not in known]
        return {**known, **units.show(_ask, unknown)}

    down, seen = units.dragged(_roots(plan), look)
    down = {name: roots for name, roots in down.items() if name in seen and seen[name].active}
    lasting = {unit.id: unit.state for unit in known.values() if _lasts(unit)}
    return {
        "units": {**lasting, **{name: seen[name].state for name in down}},
        "dependents": down,
        "containers": _containers(),
        "listeners": _listeners(plan, found),
    }


def _lasts(unit: Unit) -> bool:
    """Whether an active unit stays until it is stopped."""
    if not unit.active or unit.kind not in _LASTING or _PASSING.match(unit.id) or _CONNECTION.match(unit.id):
        return False
    if unit.kind != "service":
        return True
    if unit.facts.get("Type") == "oneshot" or any(name.endswith(".timer") for name in unit.words("TriggeredBy")):
        return False
    # A bus-activated service ends when it is idle.
    return not (unit.facts.get("BusName") and unit.facts.get("UnitFileState") == "static")


def _containers() -> dict[str, str] | None:
    """Running containers that belong to no trial; None where docker does not answer."""
    labels = "".join(f",{{{{json (.Label {json.dumps(label)})}}}}" for label in containers.LABELS)
    form = f"[{{{{json .ID}}}},{{{{json .Names}}}}{labels}]"
    try:
        out = containers.docker("ps", "--no-trunc", "--format", form, timeout_s=QUESTION_S)
        rows = [json.loads(line) for line in out.splitlines()]
    except (containers.DockerError, ValueError):
        return None
    return {row[1]: row[0] for row in rows if not any(row[2:])}


def _fleeting_ports() -> range:
    """The kernel's ephemeral ports."""
    with contextlib.suppress(OSError, ValueError):
        low, high = _PORT_RANGE.read_text(encoding="ascii").split()
        return range(int(low), int(high) + 1)
    return range(32768, 61000)


def _listeners(plan: Plan, found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Listeners, one row a port. A row has the program's name without its arguments, which may hold a secret."""
    pids = {name: facts["pid"] for name, facts in found.items() if facts.get("pid")}
    by_unit = {units.full(tenant.unit): tenant.name for tenant in plan.tenants if tenant.kind == "systemd"}
    fleeting, rows = _fleeting_ports(), {}
    for item in probes.listeners():
        inside = probes.units(item.pid) if item.pid else []
        if item.port in fleeting or item.port in rows or any(_SESSION.match(name) for name in inside):
            continue
        above = probes.ancestors(item.pid) if item.pid else set()
        tenant = next((name for name, pid in pids.items() if pid in above), "")
        rows[item.port] = {
            "port": item.port,
            "program": os.path.basename(item.command.split(" ", 1)[0]),
            "unit": inside[-1] if inside else "",
            "tenant": tenant or by_unit.get(inside[-1] if inside else "", ""),
        }
    return [rows[port] for port in sorted(rows)]


# ---- the difference ----


@dataclass(frozen=True)
class Gone:
    """What ran before a trial and does not run now, in words, by name.

    ``ours`` are units that went down with a stopped tenant. ``deaf`` are ports where a stopped tenant, or such a unit,
    listened. ``replaced`` are containers of tenants whose name another container has now. ``others`` are gone for a
    reason unrelated to the trial.
    """

    ours: list[str] = field(default_factory=list)
    deaf: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def _fell_with(before: Mapping[str, Any], unit: str, stopped: Iterable[str]) -> list[str]:
    """The stopped tenants with which a unit went down."""
    return sorted(set(before.get("dependents", {}).get(unit, {})) & set(stopped))


def fallen(before: Mapping[str, Any], stopped: Iterable[str], but: Iterable[str] = ()) -> list[Unit]:
    """Units that went down with a stopped tenant and are not back.

    Args:
        before: what `take` found.
        stopped: tenants that the trial has stopped.
        but: names of units to leave out, because they are started as tenants.

    Raises:
        OSError: systemd did not answer.
    """
    mine = [name for name in before.get("dependents", {}) if _fell_with(before, name, stopped) and name not in but]
    known = units.show(_ask, mine)
    now = {name: known.get(name) or Unit({"Id": name}) for name in mine}
    was = before.get("units") or {}
    # A start waits for the end of a stop that is under way, replaces one that waits for its turn, and joins a start.
    return [unit for name, unit in now.items() if not unit.active or _moves(unit, was.get(name, ""))]


def start(unit: Unit, limit_s: float) -> None:
    """Start a unit that went down with a tenant, within ``limit_s`` in all.

    Raises:
        TenantError: systemd refused.
        OSError: systemd did not answer in time; the start continues.
    """
    # A unit that has failed too often refuses to start until its counter is reset.
    deadline = time.monotonic() + limit_s
    run.command(["systemctl", "reset-failed", "--", unit.id], limit_s)
    argv = units.start_command(unit)
    done = run.command(argv, max(0.0, deadline - time.monotonic()))
    if done.rc:
        raise tenants.TenantError(f"{' '.join(argv)} ended with {done.rc}: {probes.printable(done.err.strip())}")


def _ended(unit: Unit, before: str) -> bool:
    """Whether an active unit does no work: its processes have ended, and systemd keeps it or starts it again."""
    substate = unit.facts.get("SubState", "")
    return substate.startswith("auto-restart") or (substate == "exited" and before.endswith("(running)"))


def _moves(unit: Unit, before: str) -> bool:
    """Whether a stop or start of a unit is begun and not ended: it is neither up nor down."""
    # A job of one that is down waits for its turn, perhaps forever.
    coming = unit.active and not unit.up and not before.startswith(unit.facts.get("ActiveState", ""))
    return unit.leaving or coming


def gone_units(before: Mapping[str, Any], stopped: Iterable[str], names: Iterable[str]) -> Gone:
    """Units among these that ran before and do not run now.

    Args:
        before: what `take` found.
        stopped: tenants that the trial has stopped.
        names: the units to look at.

    Raises:
        OSError: systemd did not answer.
    """
    found, stopped, wanted = Gone(), set(stopped), list(names)
    known = units.show(_ask, wanted)
    for name in wanted:
        unit, state = known.get(name), (before.get("units") or {}).get(name, "unknown")
        roots = _fell_with(before, name, stopped)
        if unit and unit.active and not _ended(unit, state) and not (roots and _moves(unit, state)):
            continue
        words = f"unit {name} was {state} and is now {unit.state if unit else 'not known to systemd'}"
        if roots:
            found.ours.append(f"{words}: it went down with {' and '.join(roots)}")
        else:
            found.others.append(words)
    return found


def gone(before: Mapping[str, Any], stopped: Iterable[str], *, docker: bool, boxes: Iterable[str] = ()) -> Gone:
    """Everything that ran before and does not run now.

    Args:
        before: what `take` found.
        stopped: tenants that the trial has stopped.
        docker: whether docker may be asked.
        boxes: containers that are tenants. The commands of a tenant (``docker compose``) may replace others, so these
            only have to run.

    Raises:
        OSError: systemd did not answer.
    """
    stopped = set(stopped)
    found = gone_units(before, stopped, before.get("units") or {})
    running = _containers() if docker and before.get("containers") else None
    for name in sorted(set(boxes) & set(before.get("containers") or {})) if docker else ():
        was = before["containers"][name]
        if running is None:
            found.replaced.append(f"it is unknown whether container {name} is the one from before: docker is silent")
        elif running.get(name, was) != was:
            words = f"container {name} is another one than before ({running[name][:12]}, was {was[:12]})"
            found.replaced.append(f"{words}: what was in the former one is missing")
    if running is not None:
        absent = [name for name in before["containers"] if name not in running]
        found.others.extend(f"container {name} is no longer running" for name in absent)
    listening = {item.port for item in sockets.listening(None)}
    for row in before.get("listeners") or []:
        if row["port"] in listening:
            continue
        words = f"nothing listens on port {row['port']} any more; {row['program'] or 'a program'} did"
        words += f" (unit {row['unit']})" if row["unit"] else ""
        mine = row["tenant"] in stopped or bool(_fell_with(before, row["unit"], stopped))
        (found.deaf if mine else found.others).append(words)
    return found
