# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the host as it was? The checks that close a trial, derived from the plan.

Their order: VRAM; the health of every tenant that has a health page, in the order of the inventory; after those that
share the baseline's impact the candidate's port, which must refuse connections; speech; containers that hold VRAM,
which must still be able to open the card; watched processes. The tests of a restarted tenant also compare its identity;
a tenant without any other check gets one for its identity.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import gpu, probes, speech, tenants
from .plan import MIB_PER_GB, Gpu, Plan, Site, Tenant

SETTLE_S = 3.0
_POLL_S = 0.1
_CONNECT_S = 2.0


@dataclass(frozen=True)
class Check:
    """A check before it runs.

    ``kind`` is ``vram``, ``health``, ``refused``, ``speech``, ``gpu``, ``process`` or ``identity``.
    """

    id: int
    kind: str
    title: str
    expected: str
    tenant: str = ""


class NoSuchCheck(ValueError):
    """A chosen check does not exist or can't be made; the message lists the possible ones."""


@dataclass(frozen=True)
class CheckResult:
    """A finished check; the texts are for people."""

    id: int
    title: str
    expected: str
    found: str
    ok: bool


def _name(tenant: Tenant) -> str:
    return tenant.title or tenant.name


def _of_the_card(site: Site) -> tuple[str, str, str, str]:
    if site.gpu is None:
        return ("vram", "VRAM: does not apply", f"nothing, because {gpu.NONE}", "")
    low, high = site.gpu.steady_gb
    holders = [t.name for t in site.tenants if t.vram_process]
    by = f", held by {', '.join(holders)}" if holders else ""
    return ("vram", f"VRAM is back in its steady band of {low:g}-{high:g} GB", f"{low:g}-{high:g} GB used{by}", "")


def _before_the_candidates_port(plan: Plan) -> str:
    impact = plan.tenant(plan.baseline.tenant).impact
    return [t.name for t in plan.tenants if t.name == plan.baseline.tenant or (impact and t.impact == impact)][-1]


def derive(plan: Site) -> list[Check]:
    """The checks of a plan, or of a host where nothing is tried, numbered from 1."""
    checks = [_of_the_card(plan)]
    for tenant in plan.tenants:
        if tenant.health:
            checks.append(("health", f"{_name(tenant)} is healthy", probes.expected(tenant.health), tenant.name))
        if isinstance(plan, Plan) and tenant.name == _before_the_candidates_port(plan):
            title = f"nobody listens on the candidate's port {plan.candidate.port}"
            checks.append(("refused", title, "connection refused", ""))
    for tenant in plan.tenants:
        if tenant.speech:
            text = tenant.speech.body.get("text")
            words = json.dumps(text if isinstance(text, str) else tenant.speech.body)
            wav = f"a valid WAV of more than {tenant.speech.min_bytes} bytes that is not silent"
            checks.append(("speech", f"{_name(tenant)} speaks {words}", wav, tenant.name))
    for tenant in plan.tenants:
        if tenant.kind == "container" and tenant.vram_process:
            title = f"{_name(tenant)} still sees the GPU from its container"
            checks.append(("gpu", title, f"container {tenant.container} can open the card", tenant.name))
    for tenant in plan.tenants:
        if tenant.watch_process:
            title = f"{_name(tenant)} is alive"
            checks.append(("process", title, f"a process with argv {tenant.process}", tenant.name))
    for tenant in plan.tenants:
        # For all other tenants, an earlier check compares it.
        asked = tenant.health or tenant.speech or tenant.watch_process
        if tenant.name in plan.stop_order and tenants.KINDS[tenant.kind].has_own_commands and not asked:
            expected = "user, groups, slice, limits, priority and environment as before"
            checks.append(("identity", f"{_name(tenant)} has the same identity as before", expected, tenant.name))
    return [Check(i, kind, title, expected, name) for i, (kind, title, expected, name) in enumerate(checks, 1)]


def _which(found: Sequence[Check]) -> str:
    return ", ".join(f"{c.id} ({c.title})" for c in found)


def chosen(plan: Site, only: Sequence[int] = ()) -> list[Check]:
    """The checks with these numbers, or all of them, in their order.

    Raises:
        NoSuchCheck: a number that no check has, or whose check does not apply; or the host gives nothing to check.
    """
    derived = derive(plan)
    fit = [c for c in derived if c.kind != "vram" or plan.gpu]
    unfit = sorted(set(only) - {c.id for c in fit})
    if unfit:
        why = f"; check 1 does not apply: {gpu.NONE}" if not plan.gpu and 1 in unfit else ""
        raise NoSuchCheck(
            f"only: expected numbers of this host's checks: {_which(fit) or 'there are none'}; "
            f"found {', '.join(map(str, unfit))}{why}"
        )
    if not fit:
        raise NoSuchCheck(
            "tenants: expected something to check, such as a tenant with health, speech or watch_process, "
            f"found nothing; and {gpu.NONE}"
        )
    return [c for c in derived if not only or c.id in only]


def judge_vram(plan: Site, wanted_gpu: Gpu, vram: gpu.Vram) -> tuple[bool, str]:
    """Whether a reading is in the steady band and every expected process is a holder; and the same in words."""
    used_gb = vram.used_mib / MIB_PER_GB
    wanted = {t.name: t.vram_process for t in plan.tenants if t.vram_process}
    missing = [name for name, word in wanted.items() if not any(word in h.command for h in vram.holders)]
    others = [h for h in vram.holders if not any(word in h.command for word in wanted.values())]
    text = f"{used_gb:.2f} GB ({vram.used_mib} MiB), held by {gpu.describe(vram.holders)}"
    if missing:
        text += f"; no memory is held by {', '.join(missing)}"
    if others:
        text += f"; not in this inventory: {gpu.describe(others)}"
    low, high = wanted_gpu.steady_gb
    return low <= used_gb <= high and not missing, text


def _look_at_vram(plan: Site, wanted: Gpu, card: gpu.Card) -> tuple[bool, str]:
    try:
        return judge_vram(plan, wanted, card.read())
    except gpu.GpuError as err:
        return False, str(err)


def _vram(plan: Site, card: gpu.Card | str | None, settle_s: float) -> tuple[bool, str]:
    wanted = plan.gpu
    if wanted is None:
        return True, f"not looked at: {gpu.NONE}"
    if isinstance(card, str):
        return False, card
    own = None
    if card is None:
        try:
            own = card = gpu.Card(wanted.index)
        except gpu.GpuError as err:
            return False, str(err)
    try:
        # A model that was just loaded may still be filling its memory.
        deadline = time.monotonic() + settle_s
        ok, text = _look_at_vram(plan, wanted, card)
        while not ok and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            ok, text = _look_at_vram(plan, wanted, card)
        return ok, text
    finally:
        if own:
            own.close()


def _refused(port: int) -> tuple[bool, str]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return True, "connection refused"
        except OSError as err:
            return (
                False,
                f"neither refused nor accepted: {errno.errorcode.get(err.errno or 0, '')} {err}".strip(),
            )
    holders = [f"PID {item.pid} {item.command}" for item in probes.listeners(ports=[port]) if item.pid]
    return False, f"{', '.join(holders) or 'an unknown process'} accepts connections on {port}"


def _process(tenant: Tenant, before: Mapping[str, Any] | None) -> tuple[bool, str]:
    found = tenants.of(tenant).matches()
    if not found:
        return False, f"no process with argv {tenant.process}"
    pids = ", ".join(f"PID {p.pid}" for p in found)
    if not before or not before.get("pid"):
        return True, pids
    if probes.ProcessId(int(before["pid"]), int(before["start_ticks"])) in found:
        return True, f"PID {before['pid']}, the same as before"
    return False, f"{pids}, but before it was PID {before['pid']}: it was restarted"


def _sees_gpu(tenant: Tenant) -> tuple[bool, str]:
    """Check that a container can still open the card: without it, its health page answers as before."""
    try:
        seen = tenants.of(tenant).sees_gpu(tenants.HERE)
    except OSError as err:
        return False, str(err)
    return seen.ok, seen.found


def _of_its_own(tenant: Tenant, ask: Callable[[], probes.ProbeResult | speech.Spoken]) -> tuple[bool, str]:
    """An answer counts only if the tenant itself gave it: no other program listened on its port, before and after."""
    before = _stranger(tenant)
    answer = ask()
    stranger = (before or _stranger(tenant)) if answer.ok else ""
    return (False, f"{answer.found}, but {stranger}") if stranger else (answer.ok, answer.found)


def _stranger(tenant: Tenant) -> str:
    try:
        return tenants.foreign(tenant)
    except OSError as err:
        return f"it is unknown which process answered: {err}"


def _who_it_was(tenant: Tenant, before: Mapping[str, Any] | None, found: str) -> tuple[bool, str]:
    """Compare the identity of a restarted tenant that has passed its other test."""
    try:
        changes = tenants.changed(tenant, before or {})
    except (OSError, tenants.TenantError) as err:
        return False, f"{found}, but its identity is unknown: {err}"
    words = f"{found}, but its identity has changed: {changes}; if that is intended, restart it yourself"
    return (False, words) if changes else (True, found)


def _one(
    check: Check, plan: Site, snapshot: Mapping[str, Any], card: gpu.Card | str | None, settle_s: float
) -> tuple[bool, str]:
    if check.kind == "vram":
        return _vram(plan, card, settle_s)
    if check.kind == "refused" and isinstance(plan, Plan):
        return _refused(plan.candidate.port)
    tenant = plan.tenant(check.tenant)
    if check.kind == "gpu":
        return _sees_gpu(tenant)
    before = snapshot.get(tenant.name)
    ok, found = _asked(check, plan, tenant, before)
    return _who_it_was(tenant, before, found) if ok else (ok, found)


def _asked(check: Check, plan: Site, tenant: Tenant, before: Mapping[str, Any] | None) -> tuple[bool, str]:
    if check.kind == "identity":
        return True, "running"
    if check.kind == "health" and tenant.health:
        health = tenant.health
        return _of_its_own(tenant, lambda: probes.ask(health))
    if check.kind == "speech" and tenant.speech:
        question = tenant.speech
        return _of_its_own(tenant, lambda: speech.listen(question))
    # A stopped tenant is expected to have a new process.
    return _process(tenant, None if tenant.name in plan.stop_order else before)


def run(
    plan: Site,
    snapshot: Mapping[str, Any] | None = None,
    card: gpu.Card | str | None = None,
    settle_s: float = SETTLE_S,
    only: Sequence[int] = (),
) -> list[CheckResult]:
    """Run the checks one after another; changes nothing, never raises for what the host does.

    Args:
        plan: what lives on the host, and what was tried if anything was.
        snapshot: tenant -> ``{"pid", "start_ticks", "identity", "scopes"}`` from before: a process that was not stopped
            must be the same one, and a tenant that was started again must have the same identity.
        card: the GPU, opened for the time of the checks where it is None; or the reason why it is known not to answer.
        settle_s: how long VRAM may take to reach its band.
        only: numbers of checks; all of them where there are none.

    Raises:
        NoSuchCheck: as `chosen`, before anything is looked at.
    """
    results = []
    for check in chosen(plan, only):
        ok, found = _one(check, plan, snapshot or {}, card, settle_s)
        results.append(CheckResult(check.id, check.title, check.expected, found, ok))
    return results


def since(plan: Site, proof: Mapping[str, Any]) -> list[str]:
    """What has changed since the restore was proved, in words: tenants that run as another process now.

    Args:
        plan: what lives on the host.
        proof: ``verification.json`` of this boot, or nothing.
    """
    found = []
    for tenant in plan.tenants:
        then = (proof.get("tenants") or {}).get(tenant.name)
        if not then:
            continue
        was = f"PID {then['pid']}" if then["pid"] else "running"
        try:
            now = tenants.standing(tenant).facts()
        except (tenants.TenantError, OSError) as err:
            found.append(f"{_name(tenant)}: it was {was} when the restore was proved, and is now unknown: {err}")
            continue
        if then.items() <= now.items():
            continue
        here = f"it is PID {now['pid']} now" if now["pid"] else "it runs"
        what = f"{here}, restarted by something other than the trial" if now["running"] else "it does not run"
        found.append(f"{_name(tenant)}: it was {was} when the restore was proved, and {what}")
    return found


def message(failed: Sequence[CheckResult]) -> str:
    """All failed checks in words, a paragraph each."""
    parts = [f"Check {c.id}, {c.title}: failed.\n  expected: {c.expected}\n  found: {c.found}" for c in failed]
    return "\n\n".join(parts)
