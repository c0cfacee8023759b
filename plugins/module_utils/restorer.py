# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase 6: bring the host back. The one place that does it, whoever asks.

It runs as the unit ``mt-restore``: after the runner's end, by hand, by playbook or at boot. It never replays what was
planned; it compares the snapshot with the live host and does what is missing, in this order: make every holder of the
old epoch stale, remove the run's containers, drain, start the tenants that ran before, check. So it may be killed at
any point and simply start again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from . import checks, containers, gpu, tenants
from .journal import Journal, State, boot_id, read, read_json, wall, write_atomic
from .plan import Plan, Tenant
from .runner import drain_target


POLL_S = 0.05
A2_GRACE_S = 5.0


class RestoreFailed(RuntimeError):
    """The host is not as it was; the message names what is missing and what to do. The mark stays."""


def missing(plan: Plan, snapshot: dict[str, Any]) -> list[Tenant]:
    """Tenants that ran when the trial opened and are not healthy now, in the order in which they must come back."""
    names = [n for n in plan.restore_order if snapshot["tenants"].get(n, {}).get("running")]
    return [plan.tenant(n) for n in names if not tenants.look(plan.tenant(n)).healthy]


def downtimes(plan: Plan, entries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How long each tenant, and each thing people lose with it, was down, in seconds.

    Returns:
        ``{"down": {tenant: s}, "impacts": {impact: s}}``; an impact lasts from the first stop of one of its tenants
        until the last of them is healthy.
    """
    went: dict[str, float] = {}
    came: dict[str, float] = {}
    for entry in entries:
        if entry["event"] == "tenant_stopping":
            went.setdefault(entry["tenant"], entry["t_s"])
        if entry["event"] == "tenant_healthy":
            came[entry["tenant"]] = entry["t_s"]
    down = {n: round(came[n] - went[n], 3) for n in went if n in came}
    impacts = {}
    for impact, names in plan.impacts.items():
        both = [n for n in names if n in down]
        if both:
            impacts[impact] = round(max(came[n] for n in both) - min(went[n] for n in both), 3)
    return {"down": down, "impacts": impacts}


class Restorer:
    """Restores one run."""

    def __init__(self, plan: Plan, state: State, card: gpu.Card, by: str) -> None:
        self.plan, self.state, self.card, self.by = plan, state, card, by
        self.run_dir = state.run_dir(plan.run)
        self.snapshot = read_json(self.run_dir / "snapshot.json") or {"tenants": {}, "used_mib": 0}
        self.past = read(state.journal_path(plan.run))
        # First of all: whoever still holds the old epoch can do nothing any more.
        self.journal = Journal(state.journal_path(plan.run), plan.run, state.raise_epoch(), "restorer", required=False)
        self.sampler = gpu.Sampler(card, self.run_dir / "vram.jsonl")
        self.sampler.segment("restore")

    def restore(self) -> list[checks.CheckResult]:
        """Bring everything back and prove it; returns the passed checks.

        Raises:
            RestoreFailed: something is still missing.
        """
        began = time.monotonic()
        self.journal.write("restore_started", restored_by=self.by)
        try:
            self.remove_containers()
            gone = time.monotonic()
            absent = missing(self.plan, self.snapshot)
            if absent:
                self.drain(gone)
            failures = self.start(absent)
            self.forget_a2()
            return self.prove(began, failures)
        finally:
            self.sampler.stop()

    def remove_containers(self) -> None:
        """End the run's containers, keep what they printed, remove them until none is left."""
        run = self.plan.run
        try:
            containers.save_logs(containers.RUN_LABEL, run, self.run_dir / "logs")
            removed = containers.remove(containers.RUN_LABEL, run)
        except containers.DockerError as err:
            self.journal.write("containers_not_removed", reason=str(err))
            raise RestoreFailed(f"the run's containers could not be removed: {err}") from err
        self.journal.write("containers_removed", count=removed)

    def drain(self, since: float) -> None:
        """Wait until the candidate's VRAM is free: at least the minimum, at most the limit; then go on anyway."""
        limits = self.plan.limits
        levels = [e["used_mib"] for e in self.past if e["event"] == "drained"]
        target = levels[-1] if levels else drain_target(self.plan, self.snapshot)
        self.journal.write("drain_started", target_mib=target)
        drained = gpu.drain(
            self.card,
            target_mib=target,
            tolerance_mib=limits.drain_tolerance_mib,
            min_s=max(0.0, limits.drain_min_s - (time.monotonic() - since)),
            limit_s=limits.drain_limit_s,
            pids=[],
        )
        facts = {"used_mib": drained.used_mib, "target_mib": target, "duration_s": round(drained.duration_s, 3)}
        if drained.ok:
            self.journal.write("drained_again", **facts)
        else:
            self.journal.write("drain_timeout", holders=gpu.describe(drained.holders), **facts)

    def start(self, absent: list[Tenant]) -> list[str]:
        """Start what is missing, strictly one after another; a failure is noted and the next one gets its chance."""
        failures = []
        for tenant in absent:
            baseline = tenant.name == self.plan.baseline.tenant
            measure = baseline and self.may_measure()
            if measure:
                containers.start_in_background(containers.client_name("a2"))
            log = self.run_dir / "logs" / f"{tenant.name}.log"
            self.journal.write("tenant_starting", tenant=tenant.name)
            began = time.monotonic()
            try:
                tenants.start(tenant, log)
                tenants.wait_healthy(tenant, log)
            except tenants.TenantError as err:
                failures.append(str(err))
                self.journal.write("tenant_failed", tenant=tenant.name, reason=str(err))
                continue
            self.journal.write("tenant_healthy", tenant=tenant.name, duration_s=round(time.monotonic() - began, 3))
            if measure:
                self.measure_again()
        return failures

    def may_measure(self) -> bool:
        """Whether A2 has its place: only after a completed measure phase of this boot, and only while there is time."""
        done = [e for e in self.past if e["event"] == "phase_done" and e["phase"] == "measure"]
        stopped = [e for e in self.past if e["event"] == "tenant_stopping"]
        early = any(e["event"] == "restore_started" for e in self.past)
        if not done or not stopped or early or done[-1]["boot_id"] != boot_id():
            return False
        late = time.monotonic() - stopped[0]["t_s"] > self.plan.limits.cap_s - self.plan.restore_bound_s
        return not late

    def measure_again(self) -> None:
        """A2: the live model once more, bounded; whatever goes wrong here only costs the comparison."""
        client = containers.Client(self.plan, "a2", self.run_dir)
        # The session ends by itself within its time limit; the rest is the client's own start.
        deadline = time.monotonic() + self.plan.limits.a2_s + A2_GRACE_S
        try:
            write_atomic(self.run_dir / "control" / "start-a2", "{}", 0o644)
            while client.exit_code() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
            self.journal.write("segment_done", session="a2", exit_code=client.exit_code())
        except OSError as err:
            self.journal.write("a2_skipped", reason=str(err))
        finally:
            client.close()

    def forget_a2(self) -> None:
        """Remove the A2 client, used or not."""
        try:
            containers.save_logs(containers.A2_LABEL, self.plan.run, self.run_dir / "logs")
            containers.remove(containers.A2_LABEL, self.plan.run)
        except containers.DockerError as err:
            self.journal.write("containers_not_removed", reason=str(err))

    def prove(self, began: float, failures: list[str]) -> list[checks.CheckResult]:
        """The checks, then the mark goes; that is the disarm."""
        self.sampler.segment("verify")
        results = checks.run(self.plan, snapshot=self.snapshot["tenants"], card=self.card)
        broken = [f"check {c.id} {c.title}: expected {c.expected}, found {c.found}" for c in results if not c.ok]
        rows = [{"id": c.id, "title": c.title, "expected": c.expected, "found": c.found, "ok": c.ok} for c in results]
        self.journal.write("checks", ok=not broken, checks=rows)
        if broken or failures:
            todo = f"it is tried again; when mended, at once by: sudo model-trial restore (run {self.plan.run})"
            raise RestoreFailed("; ".join([*failures, *broken, todo]))
        times = downtimes(self.plan, read(self.state.journal_path(self.plan.run)))
        duration = round(time.monotonic() - began, 3)
        self.journal.write("restored", restored_by=self.by, duration_s=duration, **times)
        facts = {"run": self.plan.run, "ok": True, "checks": rows, "restored_by": self.by, "wall": wall()}
        _try_write(self.run_dir / "verification.json", json.dumps(facts, indent=1) + "\n")
        self.journal.write("closed")
        self.state.close()
        return results


def _try_write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text)
    except OSError:
        # A full disk keeps a copy of the checks from being written, not the host from being restored.
        return
