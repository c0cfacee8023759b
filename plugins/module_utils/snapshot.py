# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host before a trial: every tenant's condition and process, and who holds how much VRAM.

Taken once, when a trial opens. Runner and restorer both read it; neither imports the other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from . import gpu, identity, surroundings, tenants
from .journal import State, boot_id
from .plan import Plan, Tenant
from .probes import ProcessId


def take(plan: Plan, card: gpu.Card | None) -> dict[str, Any]:
    """The host as it is: every tenant's condition and process, VRAM in total and by process.

    On a host without a card nothing is known about VRAM, and ``gpu`` is missing.

    Returns:
        ``{"tenants": {name: {running, healthy, pid, start_ticks, vram_mib, vram_pids, scopes, found}}, "used_mib",
        "holders", "gpu": {name, driver}, "system": {kernel}, "surroundings"}``; ``vram_mib`` is None where the driver
        does not tell, and ``surroundings`` is what `surroundings.take` found.
        Tenants with commands of their own have ``identity``, ``kin``, ``family``, ``others`` and ``output`` besides,
        and units ``substate``.

    Raises:
        TenantError: a tenant's manager does not know it, or does not report its state.
        OSError: likewise.
    """
    vram = card.read() if card else None
    holders = vram.holders if vram else ()
    found: dict[str, Any] = {}
    for tenant in plan.tenants:
        condition = tenants.look(tenant)
        held = [h for h in holders if tenant.vram_process and tenant.vram_process in h.command]
        known = [h.mib for h in held if h.mib is not None]
        found[tenant.name] = {
            "running": condition.running,
            "healthy": condition.healthy,
            "pid": condition.process.pid if condition.process else 0,
            "start_ticks": condition.process.start_ticks if condition.process else 0,
            # If no process of a tenant that should hold memory is seen, the driver does not report it: not 0.
            "vram_mib": sum(known) if vram and len(known) == len(held) and (held or not tenant.vram_process) else None,
            "vram_pids": [h.pid for h in held],
            # An earlier trial started these; none of them is loading.
            "scopes": tenants.of(tenant).loading(),
            "found": condition.found,
            **tenants.of(tenant).facts(condition.process),
        }
    return {
        "tenants": found,
        "used_mib": vram.used_mib if vram else None,
        "total_mib": vram.total_mib if vram else None,
        "holders": [{"pid": h.pid, "mib": h.mib, "command": h.command} for h in holders],
        **({"gpu": {"name": card.name, "driver": card.driver}} if card else {}),
        "system": {"kernel": os.uname().release},
        "surroundings": surroundings.take(plan, found),
    }


def environments(plan: Plan, found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """In which environments tenants with commands of their own were started, with values: for root's eyes alone."""
    known = {}
    for tenant in plan.tenants:
        facts = found["tenants"][tenant.name]
        values = identity.environment(facts["pid"]) if facts.get("identity") else None
        if values is not None:
            known[tenant.name] = values
    return known


def recall(plan: Plan, found: Mapping[str, Any] | None, state: State) -> Plan:
    """The plan with what is known about its tenants from before the trial.

    Args:
        plan: the trial's.
        found: its snapshot; without one nothing is known.
        state: where the environments are kept.
    """
    known = (found or {}).get("tenants", {})
    here = (found or {}).get("boot_id") == boot_id()
    values = state.environments(plan.run)
    return dataclasses.replace(
        plan, tenants=[_recalled(tenant, known.get(tenant.name, {}), values, here) for tenant in plan.tenants]
    )


def _recalled(tenant: Tenant, facts: Mapping[str, Any], values: Mapping[str, Any], here: bool) -> Tenant:
    def processes(name: str) -> tuple[ProcessId, ...]:
        # No process outlives a boot.
        return tuple(ProcessId(pid, ticks) for pid, ticks in facts.get(name, []))

    look = facts.get("kin")
    before = identity.Before(
        process=ProcessId(facts["pid"], facts["start_ticks"]) if here and facts.get("pid") else None,
        family=processes("family") if here else (),
        identity=identity.recall(facts.get("identity")),
        kin=(look[0], look[1], tuple(look[2])) if look else None,
        others=processes("others"),
        output=facts.get("output", ""),
        substate=facts.get("substate", ""),
        environment=values.get(tenant.name),
    )
    return identity.Known(**{**vars(tenant), "before": before})


def drain_target(plan: Plan, snapshot: dict[str, Any]) -> int | None:
    """Used MiB once the stopped tenants' memory is free, or None where the driver does not say who holds what."""
    target = int(snapshot["used_mib"])
    for name in plan.stop_order:
        held = snapshot["tenants"][name]["vram_mib"]
        if held is None:
            return None
        target -= held
    return target
