# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host before a trial: every tenant's condition and process, and who holds how much VRAM.

Taken once, when a trial opens. Runner and restorer both read it; neither imports the other.
"""

from __future__ import annotations

import os
from typing import Any

from . import gpu, surroundings, tenants
from .plan import Plan


def take(plan: Plan, card: gpu.Card) -> dict[str, Any]:
    """The host as it is: every tenant's condition and process, VRAM in total and by process.

    Returns:
        ``{"tenants": {name: {running, healthy, pid, start_ticks, vram_mib, vram_pids, scopes, found}}, "used_mib",
        "holders", "gpu": {name, driver}, "system": {kernel}, "surroundings"}``; ``vram_mib`` is None where the driver
        does not tell, and ``surroundings`` is what `surroundings.take` found.

    Raises:
        OSError: systemd did not answer.
    """
    vram = card.read()
    found: dict[str, Any] = {}
    for tenant in plan.tenants:
        condition = tenants.look(tenant)
        held = [h for h in vram.holders if tenant.vram_process and tenant.vram_process in h.command]
        known = [h.mib for h in held if h.mib is not None]
        found[tenant.name] = {
            "running": condition.running,
            "healthy": condition.healthy,
            "pid": condition.process.pid if condition.process else 0,
            "start_ticks": condition.process.start_ticks if condition.process else 0,
            # If no process of a tenant that should hold memory is seen, the driver does not tell; the figure is not 0.
            "vram_mib": sum(known) if len(known) == len(held) and (held or not tenant.vram_process) else None,
            "vram_pids": [h.pid for h in held],
            # An earlier trial started these; none of them is loading.
            "scopes": tenants.of(tenant).loading(),
            "found": condition.found,
        }
    holders = [{"pid": h.pid, "mib": h.mib, "command": h.command} for h in vram.holders]
    return {
        "tenants": found,
        "used_mib": vram.used_mib,
        "total_mib": vram.total_mib,
        "holders": holders,
        "gpu": {"name": card.name, "driver": card.driver},
        "system": {"kernel": os.uname().release},
        "surroundings": surroundings.take(plan, found),
    }


def drain_target(plan: Plan, snapshot: dict[str, Any]) -> int | None:
    """Used MiB once the stopped tenants' memory is free, or None where the driver does not say who holds what."""
    target = int(snapshot["used_mib"])
    for name in plan.stop_order:
        held = snapshot["tenants"][name]["vram_mib"]
        if held is None:
            return None
        target -= held
    return target
