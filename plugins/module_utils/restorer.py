# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase 6: bring the host back. All requests for a restore end up here.

It runs as the unit ``mt-restore``: after the runner's end, by hand, by playbook or at boot. It does not replay
the plan: it compares the snapshot with the live host and does what is missing, in this order: make every holder of the
old epoch stale, remove the run's containers, bring stops that were begun to their end, drain, start the tenants that
ran before and what went down with them, see that they stay up, compare what else ran before, check. So it may be killed
at any point and started again.

What was begun and has not ended is neither up nor down: it outlives the program that asked for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from . import (
    checks,
    containers,
    definitions,
    gpu,
    hook,
    owners,
    probes,
    sessions,
    snapshot,
    surroundings,
    tenants,
    units,
)
from .journal import Journal, State, boot_id, read, read_json, seconds, wall, write_atomic
from .plan import A2_GRACE_S, DEPENDENTS_S, DOCKER_S, PATIENCE_S, Plan, Tenant
from .probes import ProcessId

POLL_S = 0.05
# Without a reading for this long the drain cannot be observed; it then ends at its minimum.
BLIND_S = 1.0
# A tenant that dies and returns between two looks has another process.
SETTLE_POLL_S = 0.5
# The journal's events about a tenant's moves: the last one says whether a stop or start was begun.
MOVES = ("tenant_stopping", "tenant_stopped", "tenant_not_stopped", "tenant_starting", "tenant_started",
         "tenant_healthy")  # fmt: skip
# What a driver usually needs to answer; it gets no more before the candidate is removed.
SEE_S = 0.05
# A failed start is retried after these pauses; after that the next restore tries again.
RETRY_S = (0.5, 1.0)
# No failure with one tenant, not even a bug of ours, may keep the next one down.
TROUBLE = (Exception,)
# Requests that no person made: systemd at the runner's end, systemd at boot, and the watch.
UNATTENDED = ("host", "boot", "watch")
T = TypeVar("T")


class RestoreFailed(RuntimeError):
    """The host is not as it was; the message names what is missing and what to do. The mark stays."""


def downtimes(plan: Plan, entries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How long each tenant, and each thing people lose with it, was down, in seconds.

    Returns:
        ``{"down": {tenant: s}, "impacts": {impact: s}}``; an impact lasts from the first stop of one of its tenants
        until the last of them is healthy.
    """
    went: dict[str, dict[str, Any]] = {}
    came: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["event"] == "tenant_stopping":
            went.setdefault(entry["tenant"], entry)
        if entry["event"] == "tenant_healthy":
            came[entry["tenant"]] = entry
    down = {n: round(seconds(went[n], came[n]), 3) for n in went if n in came}
    impacts = {}
    for impact, names in plan.impacts.items():
        spans = [(i, j) for i in names for j in names if i in down and j in down]
        if spans:
            impacts[impact] = round(max(seconds(went[i], came[j]) for i, j in spans), 3)
    return {"down": down, "impacts": impacts}


def times(entries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How long the host took (s): ``{"stop_s": {tenant}, "start_s": {tenant}, "drain_s": {window, restore}}``."""
    found: dict[str, dict[str, float]] = {"stop_s": {}, "start_s": {}, "drain_s": {}}
    for entry in entries:
        if entry["event"] == "tenant_stopped":
            found["stop_s"].setdefault(entry["tenant"], entry["duration_s"])
        elif entry["event"] == "tenant_healthy" and not entry.get("found"):
            found["start_s"][entry["tenant"]] = entry["duration_s"]
        elif entry["event"] in ("drained", "drained_again"):
            found["drain_s"]["window" if entry["event"] == "drained" else "restore"] = entry["duration_s"]
    return found


class Restorer:
    """Restores one run.

    Args:
        plan: what lives on the host.
        state: where the marks are.
        opening: the GPU; the tenants come back even while it cannot be read.
        by: who asked, for the journal.
    """

    def __init__(self, plan: Plan, state: State, opening: gpu.Opening, by: str) -> None:
        self.state, self.opening, self.by = state, opening, by
        self.card: gpu.Card | None = None
        self.sampler: gpu.Sampler | None = None
        self.run_dir = state.run_dir(plan.run)
        self.snapshot = read_json(self.run_dir / "snapshot.json")
        self.plan = snapshot.recall(plan, self.snapshot, state)
        self.past = read(state.journal_path(plan.run))
        self.failures: list[str] = []
        self.docker_silent = False
        # Of what the bound of a restore has for docker.
        self.docker_left_s = DOCKER_S
        # Tenants at the first look of the settle period.
        self.first: dict[str, tenants.Standing] = {}
        # Tenants that this attempt could not bring up.
        self.unstarted: list[str] = []
        # First: holders of the old epoch can no longer act.
        # On a full disk the new epoch cannot be written; the tenants come back anyway.
        with contextlib.suppress(OSError):
            state.raise_epoch()
        self.journal = Journal(state.journal_path(plan.run), plan.run, state.epoch(), "restorer", required=False)

    def see(self, wait_s: float) -> gpu.Card | None:
        """The card, if it answers within ``wait_s``; it is sampled from then on."""
        if self.card is None:
            self.card = self.opening.card(wait_s)
            if self.card:
                self.sampler = gpu.Sampler(self.card, self.run_dir / "vram.jsonl", phase="restore")
        return self.card

    def restore(self) -> list[checks.CheckResult]:
        """Bring everything back and prove it; returns the passed checks.

        Raises:
            RestoreFailed: something is still missing.
        """
        began = time.monotonic()
        self.explain()
        self.journal.write("restore_started", restored_by=self.by)
        # From here on this request is being served; a later request asks for another restore.
        if self.state.asked("asked") == self.by:
            self.state.take("asked")
        try:
            measure = self.may_measure()
            self.see(SEE_S)
            self.remove_containers(*([containers.RUN_LABEL] if measure else containers.LABELS))
            measure = measure and not self.docker_silent
            gone = time.monotonic()
            self.end_stops()
            absent = self.missing()
            if absent:
                self.drain(gone)
            for tenant in absent:
                self.start(tenant, measure=measure and tenant.name == self.plan.baseline.tenant)
            self.remove_containers(containers.A2_LABEL)
            followed = self.start_dependents()
            self.settle(bool(absent) or followed)
            self.compare()
            return self.prove(began)
        finally:
            if self.sampler:
                self.sampler.stop()

    def explain(self) -> None:
        """Journal the end of a runner that could not do so itself: killed, or past its time."""
        ends = [
            e for e in self.past if e["event"] in ("phase_started", "phase_done", "phase_failed", "restore_started")
        ]
        if not ends or ends[-1]["event"] != "phase_started":
            return
        with contextlib.suppress(*TROUBLE):
            result = tenants.unit_facts("mt-run.service").get("Result", "unknown")
            if ends[-1]["boot_id"] != boot_id():
                result = "the host was restarted"
            why = {"timeout": "its time limit was reached", "success": "stopped for this restore"}.get(result, result)
            self.journal.write(
                "phase_failed",
                phase=ends[-1]["phase"],
                reason=f"the runner was ended from outside ({why})",
                expected="a runner that ends by itself",
                found=result,
                todo="see: journalctl -u mt-run",
            )

    def note(self, failure: str) -> None:
        """Remember a failure for the end; the next steps go on anyway."""
        if failure not in self.failures:
            self.failures.append(failure)

    def before(self, tenant: Tenant) -> dict[str, Any]:
        """The tenant when the trial opened; without a snapshot it is taken for a running one."""
        found: dict[str, Any] = (self.snapshot or {}).get("tenants", {}).get(tenant.name, {"running": True})
        return found

    @property
    def ours(self) -> list[Tenant]:
        """Tenants that must be up in the end, in the order in which they come back: those that ran before."""
        found = (self.plan.tenant(name) for name in self.plan.restore_order)
        return [tenant for tenant in found if self.before(tenant)["running"]]

    def log(self, tenant: Tenant) -> Path:
        """Where a tenant's commands print to."""
        return self.run_dir / "logs" / f"{tenant.name}.log"

    def end_stops(self) -> None:
        """Complete every stop that was begun, and only then look which tenants are up.

        Its caller may be gone, by a limit, a signal or this very restore; the stop goes on anyway, and its tenant
        would answer until it dies.
        """
        for tenant in self.ours:
            self.try_to_end_stop(tenant)

    def try_to_end_stop(self, tenant: Tenant) -> None:
        """`end_stop`; what goes wrong is noted, and keeps no other tenant down."""
        try:
            self.end_stop(tenant)
        except TROUBLE as err:
            self.note(str(err))
            self.journal.write("tenant_not_stopped", tenant=tenant.name, reason=str(err), begun=True)

    def end_stop(self, tenant: Tenant) -> None:
        """Wait for a tenant's stop that is under way; if it can't be seen, stop the tenant again.

        Raises:
            TenantError: it does not end.
        """
        manager = tenants.of(tenant).knows_its_stops
        begun = self.again(lambda: tenants.stop_under_way(tenant))
        asked = not manager and self.asked_to_stop(tenant) and not self.outlived(tenant)
        if not begun and not (asked and self.again(lambda: tenants.runs(tenant))):
            return
        found = begun.found if begun else "it was asked to stop, and not seen to end"
        self.journal.write("tenant_in_flight", tenant=tenant.name, found=found)
        began, begun = time.monotonic(), tenants.await_stop(tenant)
        if manager and begun:
            raise tenants.TenantError(
                f"{tenant.name}: its stop does not end: {begun.found} after {time.monotonic() - began:.0f} s"
            )
        runs = self.again(lambda: tenants.runs(tenant))
        if begun or (asked and runs):
            self.end(tenant)
        elif not runs:
            took = round(time.monotonic() - began, 3)
            self.journal.write("tenant_stopped", tenant=tenant.name, duration_s=took)

    @staticmethod
    def again(ask: Callable[[], T]) -> T:
        """What a manager says about a tenant; until it answers, the tenant is neither up nor down, and we ask again.

        Raises:
            TenantError: its manager does not report its state for `PATIENCE_S`.
            OSError: likewise.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except tenants.NotThere:
                raise
            except (tenants.TenantError, OSError):
                if time.monotonic() >= deadline:
                    raise
            time.sleep(SETTLE_POLL_S)

    def asked_to_stop(self, tenant: Tenant) -> bool:
        """Whether the journal's last event about a tenant is a begun stop; no process outlives a boot."""
        moves = [e for e in self.past if e.get("tenant") == tenant.name and e["event"] in MOVES and not e.get("begun")]
        return bool(moves) and moves[-1]["event"] == "tenant_stopping" and moves[-1]["boot_id"] == boot_id()

    def outlived(self, tenant: Tenant) -> bool:
        """Whether the stop that was asked for has ended what it could, though a tenant runs.

        A watchdog, a supervisor or its own stop may have started it again; to end that would never succeed. What the
        tenant has only forked since would end with it: so it has to outlive the time that the stop may take.
        """
        asked = [e for e in self.past if e["event"] == "tenant_stopping" and e["tenant"] == tenant.name]
        process = tenants.of(tenant).find()
        if not asked or process is None or tenants.lives(tenant):
            return False
        since_s = asked[-1]["t_s"]
        if probes.age_s(process.pid) >= time.monotonic() - since_s:
            return False
        found = f"it was asked to stop and has ended, and PID {process.pid} has appeared since"
        self.journal.write("tenant_in_flight", tenant=tenant.name, found=found)
        while time.monotonic() < since_s + tenant.stop_wait_s and probes.alive(process):
            time.sleep(POLL_S)
        return True

    def end(self, tenant: Tenant) -> None:
        """Stop a tenant that has to be started again."""
        self.journal.write("tenant_stopping", tenant=tenant.name, impact=tenant.impact)
        took = tenants.end(tenant, self.log(tenant))
        self.journal.write("tenant_stopped", tenant=tenant.name, duration_s=round(took, 3))

    def loading(self, tenant: Tenant) -> str:
        """The scope of a start command that was begun in this trial and in which something lives; empty if none."""
        known = self.before(tenant).get("scopes", [])
        return next((scope for scope in tenants.of(tenant).loading() if scope not in known), "")

    def settle(self, started: bool) -> None:
        """Wait and check that every moved tenant stays up: the same processes, healthy all the time, for ``settle_s``.

        A tenant that dies some seconds after its start, or whose health comes and goes, is not back. The next try
        starts it again.
        """
        known = self.snapshot or {}
        # A journal that has lost its beginning does not say who was moved.
        moved = any(e["event"] in MOVES for e in self.past) or not any(e["event"] == "opened" for e in self.past)
        moved = moved or known.get("boot_id", boot_id()) != boot_id()
        # After a failure this attempt can't succeed, and the next one waits again.
        if self.failures or not (started or moved):
            return
        began = time.monotonic()
        first = self.first
        untold: dict[str, str] = {}
        while self.plan.settle_s:
            untold = {}
            for tenant in self.ours:
                try:
                    known = first.get(tenant.name) or tenants.standing(tenant)
                    first[tenant.name], trouble = known, tenants.unsettled(tenant, known)
                except tenants.NotThere as err:
                    trouble = str(err)
                except TROUBLE as err:
                    # Neither up nor down: it is asked again, as long as there is time.
                    untold[tenant.name] = f"its state can't be read: {err}"
                    continue
                if trouble:
                    self.note_unsettled(tenant.name, trouble, began)
                    return
            left_s = self.plan.settle_s - (time.monotonic() - began)
            if left_s <= 0:
                break
            time.sleep(min(SETTLE_POLL_S, left_s))
        for name, why in untold.items():
            self.note_unsettled(name, why, began)
        doubled = [tenant.name for tenant in self.ours if self.doubled(tenant) or self.queued(tenant, began)]
        if self.plan.settle_s and not untold and not doubled:
            self.journal.write("settled", duration_s=round(time.monotonic() - began, 3))

    def doubled(self, tenant: Tenant) -> bool:
        """Whether a tenant runs twice, because another party has started it, too; which one is right is unknown."""
        copies = ""
        with contextlib.suppress(*TROUBLE):
            copies = tenants.of(tenant).copies()
        if copies:
            self.note(f"{tenant.name} runs more than once: {copies}; end the extra one")
            reason = f"it runs more than once: {copies}"
            self.journal.write("not_settled", tenant=tenant.name, reason=reason, duration_s=self.plan.settle_s)
        return bool(copies)

    def queued(self, tenant: Tenant, began: float) -> bool:
        """Whether a unit that starts a tenant at boot has yet to do so, and would start a second one."""
        try:
            found = self.again(tenants.of(tenant).queued)
        except TROUBLE as err:
            found = f"it is unknown whether its boot unit has yet to start it: {err}"
        if found:
            self.note_unsettled(tenant.name, found, began)
        return bool(found)

    def note_unsettled(self, name: str, why: str, began: float) -> None:
        """Note that a tenant did not stay up, or was not seen to."""
        after_s = time.monotonic() - began
        self.note(f"{name} did not stay up: {why}, {after_s:.1f} s after the last start")
        self.journal.write("not_settled", tenant=name, reason=why, duration_s=round(after_s, 3))

    # What ran beside the tenants.

    @property
    def surroundings(self) -> dict[str, Any]:
        """What else ran when the trial opened; empty where the snapshot does not say."""
        found: dict[str, Any] = (self.snapshot or {}).get("surroundings") or {}
        return found

    def stopped(self) -> list[str]:
        """Tenants that were asked to stop in this trial; the whole stop order if the journal may not know them all.

        It may have lost its beginning. On a full disk it does not say what this attempt or an earlier one has stopped.
        """
        entries = read(self.state.journal_path(self.plan.run))
        if self.journal.lost or not any(e["event"] == "opened" for e in entries):
            return self.plan.stop_order
        return sorted({e["tenant"] for e in entries if e["event"] == "tenant_stopping"})

    def start_dependents(self) -> bool:
        """Start units that systemd stopped together with a tenant and that are not tenants; says if there were any."""
        before, ours = self.surroundings, [units.full(tenant.unit) for tenant in self.ours if tenant.unit]
        try:
            down = surroundings.fallen(before, self.stopped(), ours)
        except TROUBLE as err:
            self.note(f"it is unknown which units went down with the tenants: {err}")
            return False
        deadline = time.monotonic() + max(DEPENDENTS_S, self.plan.dependents_s)
        # systemd refuses to start a socket while its service runs.
        for unit in sorted(down, key=lambda unit: unit.kind != "socket"):
            self.start_dependent(unit, deadline)
        return bool(down)

    def start_sockets(self, tenant: Tenant, deadline: float) -> None:
        """Start a unit's own sockets that went down with it: once the unit runs, systemd refuses to start them."""
        before = self.surroundings
        if not tenant.unit or not any(other.endswith(".socket") for other in before.get("dependents") or {}):
            return
        down: list[units.Unit] = []
        # What can't be asked now is asked after the last start.
        with contextlib.suppress(*TROUBLE):
            # The inventory may have another name of the unit than its sockets.
            unit = units.show(tenants.HERE.run, [tenant.unit])[units.full(tenant.unit)]
            fallen = surroundings.fallen(before, self.stopped())
            down = [one for one in fallen if one.kind == "socket" and unit.id in one.words("Triggers")]
        for one in down:
            self.start_dependent(one, deadline)

    def start_dependent(self, unit: units.Unit, deadline: float) -> None:
        """Start one of them; a failure is noted, and keeps the mark."""
        roots = self.surroundings["dependents"].get(unit.id, {})
        waits = sorted(set(roots) & set(self.unstarted))
        if waits:
            # Its start would start them once more, past their limits.
            self.note(f"{unit.id} is down, and waits for {' and '.join(waits)}")
            return
        self.journal.write("dependent_starting", unit=unit.id, found=f"{unit.state}, stopped with {', '.join(roots)}")
        began = time.monotonic()
        try:
            surroundings.start(unit, max(POLL_S, min(deadline - began, surroundings.start_limit_s(unit))))
        except TROUBLE as err:
            reason = "; ".join(filter(None, (f"{unit.id}: {err}", definitions.words(self.state, unit.id))))
            self.note(reason)
            self.journal.write("dependent_failed", unit=unit.id, reason=reason)
            return
        self.journal.write("dependent_started", unit=unit.id, duration_s=round(time.monotonic() - began, 3))

    def compare(self) -> None:
        """The difference of before and after: what went because of our stops keeps the mark, the rest is named."""
        before = self.surroundings
        if not before:
            if not self.snapshot and not self.repaired:
                self.note("the snapshot can't be read: it is unknown what else ran before; look, and then ask again")
            return
        try:
            # With a failure this attempt can't end well, and a docker in trouble is not asked again.
            boxes = [tenant.container for tenant in self.plan.tenants if self.before(tenant)["running"]]
            found = surroundings.gone(before, self.stopped(), docker=not self.failures, boxes=boxes)
        except TROUBLE as err:
            self.note(f"it is unknown what else ran before and is gone: {err}")
            return
        # Many units create their container at each boot: then it is no other one because of the trial.
        booted = (self.snapshot or {}).get("boot_id", boot_id()) != boot_id()
        # A program may choose other ports, and a person may have created a container again: who asks again has seen it.
        unsure = [*found.deaf, *([] if booted else found.replaced), *self.lost()]
        for text in [*found.ours, *([] if self.repaired else unsure)]:
            self.note(text)
        others = [*found.others, *(found.replaced if booted else []), *(unsure if self.repaired else [])]
        if others:
            self.journal.write("gone", gone=others, found="; ".join(others))

    def lost(self) -> list[str]:
        """Tenants outside the stop order that no check asks, in words, where they ran before and do not now."""
        found = []
        for tenant in self.plan.tenants if not self.failures else ():
            asked = tenant.health or tenant.speech or tenant.watch_process
            if asked or tenant.name in self.plan.restore_order or not self.before(tenant)["running"]:
                continue
            try:
                if not tenants.runs(tenant):
                    found.append(f"{tenant.name} ran before and does not run now")
            except TROUBLE as err:
                found.append(f"{tenant.name} ran before, and it is unknown whether it runs now: {err}")
        return found

    @property
    def repaired(self) -> bool:
        """Whether a person asks again after a failed restore: what was broken has been seen to."""
        failed = any(e["event"] == "restore_failed" for e in self.past)
        return failed and self.by not in UNATTENDED and self.state.asked("early") != self.by

    def missing(self) -> list[Tenant]:
        """Tenants that ran when the trial opened and are not healthy now, in the order in which they must come back."""
        absent = []
        for tenant in self.ours:
            try:
                healthy = tenants.look(tenant).healthy
            except TROUBLE:
                # Whether it runs is asked again when its turn comes.
                healthy = False
            if not healthy:
                absent.append(tenant)
            elif self._down_in_journal(tenant):
                # Back already, started by an interrupted attempt or by another party: its down time ends here.
                self.journal.write("tenant_healthy", tenant=tenant.name, duration_s=0.0, found=True)
        return absent

    def running(self, tenant: Tenant) -> bool:
        """Whether a tenant runs; one that its manager does not know does not.

        Raises:
            TenantError: its manager does not report its state: it may run, so it must not be started.
            OSError: likewise.
        """
        try:
            return self.again(lambda: tenants.look(tenant)).running
        except tenants.NotThere:
            return False

    @staticmethod
    def _seen_to_run(tenant: Tenant) -> bool:
        try:
            return tenants.look(tenant).running
        except TROUBLE:
            return False

    def _present(self, tenant: Tenant) -> bool:
        """Whether a tenant is seen to run, or loads and can't be found yet: the VRAM that it holds is its own."""
        if self._seen_to_run(tenant):
            return True
        try:
            return bool(self.loading(tenant))
        except TROUBLE:
            return False

    def _down_in_journal(self, tenant: Tenant) -> bool:
        last = [e["event"] for e in self.past if e.get("tenant") == tenant.name]
        return bool(last) and last[-1] != "tenant_healthy"

    def remove_containers(self, *labels: str) -> None:
        """End the run's containers, keep what they printed, remove them until none is left."""
        if self.docker_silent:
            # Each question costs down time. The failure is noted, so the next attempt asks again.
            return
        began = time.monotonic()
        try:
            count = containers.remove(labels, self.plan.run, before=self.keep_logs, limit_s=self.docker_left_s)
        except containers.DockerError as err:
            self.docker_silent = isinstance(err, containers.DockerSilent)
            self.note(f"the run's containers could not be removed: {err}")
            self.journal.write("containers_not_removed", reason=str(err))
            self.kill_candidate()
            return
        finally:
            self.docker_left_s = max(0.0, self.docker_left_s - (time.monotonic() - began))
        if containers.RUN_LABEL in labels:
            self.journal.write("containers_removed", count=count)

    def keep_logs(self, names: list[str], limit_s: float) -> None:
        """Keep what the run's containers printed; only a docker that hangs is a failure."""
        try:
            containers.save_logs(names, self.run_dir / "logs", limit_s)
        except containers.DockerSilent:
            raise
        except TROUBLE:
            return

    def kill_candidate(self) -> None:
        """Without docker the candidate is still a process that holds VRAM; it is ours, so it is ended."""
        started = [e for e in self.past if e["event"] == "candidate_started" and e["boot_id"] == boot_id()]
        for entry in started[-1:]:
            process = ProcessId(entry["pid"], entry["start_ticks"])
            if probes.alive(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                self.journal.write("candidate_killed", pid=process.pid)

    def drain(self, since: float) -> None:
        """Wait until the candidate's VRAM is free: at least the minimum, at most the limit; then go on anyway."""
        if self.plan.gpu is None:
            return
        limits = self.plan.limits
        min_s = max(0.0, limits.drain_min_s - (time.monotonic() - since))
        began = time.monotonic()
        # A driver that fails or hangs costs no more than the minimum, which passes in any case.
        card = self.see(min_s)
        min_s = max(0.0, min_s - (time.monotonic() - began))
        if card is None:
            self.journal.write("drain_timeout", holders="the GPU cannot be read", duration_s=round(min_s, 3))
            time.sleep(min_s)
            return
        target = self.drain_target()
        # Where nobody can tell who holds what, a level that stands still says that the candidate's is free. It does not
        # stand still while one of ours loads.
        loads = target is None and any(self._present(t) and not self._seen_to_run(t) for t in self.ours)
        self.journal.write("drain_started", target_mib=target)
        drained = gpu.drain(
            card,
            target_mib=target,
            tolerance_mib=limits.drain_tolerance_mib,
            min_s=min_s,
            # The card may have taken some of the limit to answer.
            limit_s=min_s if loads else max(min_s, limits.drain_limit_s - (time.monotonic() - began)),
            blind_s=BLIND_S,
        )
        facts: dict[str, Any] = {
            "used_mib": drained.used_mib,
            "target_mib": target,
            "duration_s": round(drained.duration_s, 3),
        }
        if drained.error:
            facts["error"] = drained.error
        if drained.ok:
            self.journal.write("drained_again", **facts)
        else:
            self.journal.write("drain_timeout", holders=gpu.describe(drained.holders), **facts)

    def drain_target(self) -> int | None:
        """Used MiB once the candidate is gone, or None if unknown: the level of the window, or what the
        snapshot lets expect, plus the stopped tenants that are up again (or still), or load."""
        levels = [e["used_mib"] for e in self.past if e["event"] == "drained"]
        if not self.snapshot:
            return None
        target = levels[-1] if levels else snapshot.drain_target(self.plan, self.snapshot)
        present = [n for n in self.plan.stop_order if self._present(self.plan.tenant(n))]
        held = [self.snapshot["tenants"][n]["vram_mib"] for n in present]
        return None if target is None or None in held else int(target + sum(held))

    def start(self, tenant: Tenant, *, measure: bool) -> None:
        """Start one missing tenant and wait until it is healthy; A2 after the baseline's tenant."""
        if measure:
            containers.start_in_background(containers.client_name("a2"))
        self.journal.write("tenant_starting", tenant=tenant.name)
        began = time.monotonic()
        try:
            self.bring_up(tenant)
        except TROUBLE as err:
            self.unstarted.append(tenant.name)
            reason = "\n".join(filter(None, (str(err), definitions.words(self.state, tenant.name))))
            self.note(reason)
            self.journal.write("tenant_failed", tenant=tenant.name, reason=reason)
            return
        self.journal.write("tenant_healthy", tenant=tenant.name, duration_s=round(time.monotonic() - began, 3))
        if measure and not self.measure_again():
            self.remove_containers(containers.A2_LABEL)

    def bring_up(self, tenant: Tenant) -> None:
        """Start a tenant that does not run. Wait for one that runs, and restart it if it does not become healthy.

        Both together take one start limit, which is what the bound of a restore has for it: one that runs may load for
        as long as it could if this restore had started it, and where that uses up the time, the next try restarts it.
        """
        deadline = time.monotonic() + tenant.start_timeout_s
        self.await_turn(tenant, deadline - tenant.start_timeout_s / 2)
        scope = self.loading(tenant)
        if scope or self.running(tenant):
            left_s = max(PATIENCE_S, tenant.start_timeout_s - tenants.age_s(tenant, scope))
            # What was waited for its turn is no longer there to wait for its health.
            left_s = min(left_s, max(PATIENCE_S, deadline - time.monotonic()))
            try:
                tenants.wait_healthy(tenant, self.log(tenant), scope, left_s)
                return
            except tenants.TenantError:
                if time.monotonic() >= deadline:
                    raise
                if self.running(tenant) or self.loading(tenant):
                    self.end(tenant)
        # A tenant that once died in its scope lives there, however fast it dies the next time.
        sure = any(e.get("ended") for e in self.past if e.get("tenant") == tenant.name)
        for attempt, pause_s in enumerate((*RETRY_S, 0.0), 1):
            trouble = self._try_start(tenant, deadline, sure=sure)
            if trouble is None:
                return
            ended = isinstance(trouble, tenants.Ended)
            sure = sure or ended
            # All attempts together stay within the tenant's limit: the restore bound counts on it.
            if not pause_s or time.monotonic() + pause_s >= deadline:
                raise trouble
            # Its last log lines are reported with the last attempt.
            why = str(trouble).split("; last log lines:", 1)[0]
            facts = {"attempt": attempt, "wait_s": pause_s, "ended": ended}
            self.journal.write("tenant_retry", tenant=tenant.name, reason=why, **facts)
            time.sleep(pause_s)

    def await_turn(self, tenant: Tenant, until: float) -> None:
        """Leave the start of a tenant to the unit that starts it at boot, while that waits for its turn.

        It may wait forever, behind an engine that hangs. Then the tenant is started all the same, and the mark stays
        until the unit's job has ended: it would start a second one.
        """
        told = False
        while time.monotonic() < until:
            found = ""
            with contextlib.suppress(*TROUBLE):
                found = tenants.of(tenant).queued()
            if not found or self._present(tenant):
                return
            if not told:
                self.journal.write("tenant_in_flight", tenant=tenant.name, found=found)
            told = True
            time.sleep(SETTLE_POLL_S)

    def _try_start(self, tenant: Tenant, deadline: float, *, sure: bool) -> Exception | None:
        log = self.log(tenant)
        try:
            # A start that looked failed may have succeeded: never start a second one beside it.
            scope = self.loading(tenant)
            if not scope and not self.running(tenant):
                self.start_sockets(tenant, deadline)
                scope = tenants.start(tenant, log, deadline - time.monotonic())
                self.journal.write("tenant_started", tenant=tenant.name)
            tenants.wait_healthy(tenant, log, scope, deadline - time.monotonic(), sure=sure)
        except TROUBLE as err:
            return err
        return None

    def may_measure(self) -> bool:
        """Whether A2 may run: only after a completed measure phase of this boot, and only while there is time."""
        done = [e for e in self.past if e["event"] == "phase_done" and e["phase"] == "measure"]
        stopped = [e for e in self.past if e["event"] == "tenant_stopping"]
        early = any(e["event"] == "restore_started" for e in self.past)
        if not done or not stopped or early or self.by == "boot" or done[-1]["boot_id"] != boot_id():
            return False
        late = time.monotonic() - stopped[0]["t_s"] > self.plan.limits.cap_s - self.plan.restore_bound_s
        return not late

    def measure_again(self) -> bool:
        """A2: measure the live model again, bounded; a failure here only costs the comparison.

        Returns:
            Whether the client has finished.
        """
        # The session ends within its time limit; the rest is the client's own start.
        deadline = time.monotonic() + self.plan.limits.a2_s + A2_GRACE_S
        baseline, watched = self.plan.baseline, owners.Ports()
        watched.ask(tenants.watch(watched, self.plan.tenant(baseline.tenant), baseline.url))
        if self.changed(watched, begun=False):
            return False
        try:
            write_atomic(self.run_dir / "control" / "start-a2", "{}", 0o644)
            client = containers.Client(self.plan, "a2", self.run_dir)
        except OSError as err:
            self.journal.write("a2_skipped", reason=str(err))
            return False
        try:
            while client.exit_code() is None and time.monotonic() < deadline:
                if self.changed(watched, begun=True, sure=False):
                    return False
                time.sleep(POLL_S)
            # The last sample counts only if its port was still in the right hands.
            if self.changed(watched, begun=True):
                return False
            code = client.exit_code()
        finally:
            client.close()
        if code is None:
            self.journal.write("a2_skipped", reason=f"not finished after {self.plan.limits.a2_s + A2_GRACE_S:.0f} s")
            return False
        self.journal.write("segment_done", session="a2", exit_code=code)
        return True

    def changed(self, watched: owners.Ports, *, begun: bool, sure: bool = True) -> bool:
        """Whether another party listens where A2 asks; what was measured since the last good look does not count."""
        change = watched.look(sure=sure)
        if change is None:
            return False
        self.journal.write("stranger", **change.facts())
        if begun:
            # Until its container is gone it would keep sending. A full disk has no other effect here.
            with contextlib.suppress(OSError):
                write_atomic(self.run_dir / "control" / sessions.HALT, "{}", 0o644)
            segments = [segment["id"] for segment in sessions.build(self.plan)["a2"]["segments"]]
            facts = {"session": "a2", "segments": segments, "since_s": round(change.good_s, 6)}
            self.journal.write("samples_void", **facts, reason=change.found)
        self.journal.write("a2_skipped", reason=f"another party listens on the port of {change.owner}: {change.found}")
        return True

    def standing(self) -> dict[str, tenants.Standing]:
        """How each tenant stands; one whose state is unknown is left out."""
        found = {}
        for tenant in self.ours:
            with contextlib.suppress(*TROUBLE):
                found[tenant.name] = self.again(lambda tenant=tenant: tenants.standing(tenant))  # type: ignore[misc]
        return found

    def note_lost(self, first: Mapping[str, tenants.Standing], last: Mapping[str, tenants.Standing]) -> None:
        """Note who died during the checks, perhaps after its own: tenants, and units that went down with one."""
        for name in (tenant.name for tenant in self.ours):
            before, now = first.get(name), last.get(name)
            if self.plan.settle_s and not (before and before.running):
                continue  # a settle period notes each tenant that is not up in it
            if now is None:
                self.note(f"{name} is gone after the checks, or its state can't be read")
            elif not now.running:
                self.note(f"{name} did not stay up: it does not run after the checks")
            elif before and (now.restarts != before.restarts or (before.process and not probes.alive(before.process))):
                self.note(f"{name} did not stay up: it was started again during the checks")
            elif now.trouble:
                self.note(f"{name} did not stay up: after the checks {now.trouble}")
        beside = self.surroundings
        try:
            lost = surroundings.gone_units(beside, self.stopped(), beside.get("dependents") or {}).ours
            for text in lost:
                self.note(f"after the checks, {text}")
        except TROUBLE as err:
            self.note(f"it is unknown after the checks which units went down with the tenants: {err}")

    def prove(self, began: float) -> list[checks.CheckResult]:
        """Run the checks, then remove the mark, which frees the host."""
        self.see(gpu.READ_TIMEOUT_S)
        if self.sampler:
            self.sampler.segment("verify")
        known = self.snapshot or {}
        before = known.get("tenants") or {}
        if self.repaired or known.get("boot_id") != boot_id():
            # No process survives a reboot, and one that a person started by hand can't be the one from before. As whom
            # a restore starts a tenant is compared all the same.
            before = {name: {**facts, "pid": 0, "start_ticks": 0} for name, facts in before.items()}
        eyes = self.card or self.opening.error or None
        # An attempt that has failed is not proved, and its bound has no time for more questions.
        first = {} if self.failures else self.first or self.standing()
        results = checks.run(self.plan, snapshot=before, card=eyes)
        standing = {}
        if not self.failures and all(c.ok for c in results):
            standing = self.standing()
            self.note_lost(first, standing)
        broken = [f"check {c.id} {c.title}: expected {c.expected}, found {c.found}" for c in results if not c.ok]
        rows = [{"id": c.id, "title": c.title, "expected": c.expected, "found": c.found, "ok": c.ok} for c in results]
        self.journal.write("checks", ok=not broken, checks=rows)
        if broken or self.failures:
            todo = f"the host tries again by itself; to try at once: sudo model-trial restore (run {self.plan.run})"
            raise RestoreFailed("; ".join([*self.failures, *broken, todo]))
        entries = read(self.state.journal_path(self.plan.run))
        facts = {**downtimes(self.plan, entries), "times": times(entries)}
        duration = round(time.monotonic() - began, 3)
        self.journal.write("restored", restored_by=self.by, duration_s=duration, **facts)
        proof = {"run": self.plan.run, "ok": True, "checks": rows, "restored_by": self.by, "wall": wall()}
        proof |= {"boot_id": boot_id(), "tenants": {name: found.facts() for name, found in standing.items()}}
        _try_write(self.run_dir / "verification.json", json.dumps(proof, indent=1) + "\n")
        self.journal.write("closed")
        self.state.close()
        hook.call(self.plan, self.journal, hook.CLOSED, f"restored by {self.by}")
        return results


def _try_write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text)
    except OSError:
        # A full disk costs the copy of the checks, not the restore.
        return
