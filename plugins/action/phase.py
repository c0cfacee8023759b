# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the host to enter a phase, and shows live what it does until the phase has ended."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shlex
import time
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils.planfile import PlanError, parse
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import printable
from ansible_collections.edgelab.model_trial.plugins.module_utils.rehearsal import second_tries
from ansible_collections.edgelab.model_trial.plugins.module_utils.words import counted
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.away import AWAY_S, patiently

PROGRAM = "/usr/local/sbin/model-trial"
MARK = "/var/lib/model-trial/open"
# A word, not an exit code: an exit code of sudo or SSH could be taken for "no program, so no trial".
STANDING = f"test -x {PROGRAM} && echo installed || {{ test -e {MARK} && echo held || echo free; }}"
# The host answers as soon as something happens; this is only how long it may stay silent. Each poll renews the lease;
# three fit into one.
WAIT_S, POLLS_PER_LEASE = 5.0, 3.0
# What to do about a host that stays unreachable.
AWAY_TODO = "A run that is open restores itself; harvest.yml fetches what it measured"
# A restore journals each step, and no step takes this long: without an event it cannot write its journal.
MUTE_S = 1800.0
# The program's exit code for a caller that no longer holds the host.
STALE = 3
# Its exit codes when it has said why, and left nothing behind.
REFUSALS = (1, 2, STALE)
ARGUMENTS = ("name", "plan", "epoch", "advance", "by", "controller")
# Events to show, and how; everything else is in the journal.
SHOWN = {
    "tenant_stopping": "stopping {tenant}",
    "tenant_stopped": "{tenant} stopped in {duration_s:.1f} s",
    "tenant_in_flight": "{tenant} is neither up nor down: {found}; waiting for it to end",
    "tenant_not_stopped": "{tenant} could not be stopped: {reason}",
    "tenant_starting": "starting {tenant}",
    "tenant_healthy": "{tenant} healthy after {duration_s:.1f} s",
    "tenant_retry": "{tenant} did not start, retrying in {wait_s:.1f} s: {reason}",
    "tenant_failed": "{tenant} FAILED",
    "segment_done": "session {session} done (exit code {exit_code})",
    "drained": "VRAM drained to {used_mib} MiB in {duration_s:.1f} s",
    "drained_again": "VRAM drained to {used_mib} MiB in {duration_s:.1f} s",
    "drain_timeout": "VRAM did NOT drain, held by {holders}",
    "candidate_healthy": "candidate healthy after {duration_s:.1f} s",
    "gate": "VRAM gate {name}: {footprint_gb:.2f} GB, {band}",
    "smoke": "smoke test ok: {ok}, strategy {strategy}, reply {content!r}",
    "extension": "extension: {extend} ({reason})",
    "phase_failed": "phase {phase} FAILED: {reason}; expected {expected}; found {found}; {todo}",
    "nobody_at_work": "NOBODY was at work on the trial ({reason}); the host restores itself",
    "restore_started": "restore started by {restored_by}",
    "copy_not_used": "the program that the run keeps can't be used, the installed one is used: {reason}",
    "containers_removed": "{containers} removed",
    "dependent_started": "{unit} started again in {duration_s:.1f} s: it went down with a tenant",
    "dependent_failed": "{unit} went down with a tenant and did NOT start: {reason}",
    "gone": "no longer there, for a reason unrelated to the trial: {found}",
    "settled": "every tenant stayed up for {duration_s:.1f} s",
    "not_settled": "{tenant} did NOT stay up: {reason}",
    "checks": "checks passed: {ok}",
    "restored": "host restored in {duration_s:.1f} s; down: {impacts}",
    "restore_failed": "restore NOT complete: {reason}",
    "restore_waits": "restore waits: {reason}",
}


def answer_of(verb: str, done: dict[str, Any]) -> dict[str, Any]:
    """The object that a verb printed on its last line."""
    try:
        found = json.loads(done["stdout"].strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = None
    if not isinstance(found, dict):
        raise AnsibleActionFail(
            f"model-trial {verb}: expected an object of JSON, found {words_of(done)}. Is {PROGRAM} what the role "
            "acquire installs, and does the login print nothing else?"
        )
    return found


def words_of(done: dict[str, Any]) -> str:
    """What a failed command said; with a terminal in between both streams arrive as stdout."""
    return printable(str(done.get("stdout") or done.get("stderr") or f"exit code {done['rc']}").strip())


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """One task per phase."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Enter the phase and wait for its end."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        unknown = set(self._task.args) - set(ARGUMENTS)
        if unknown:
            raise AnsibleActionFail(f"unknown option {min(unknown)}: expected one of {', '.join(ARGUMENTS)}")
        name = self._task.args.get("name")
        if name not in ("snapshot", "window", "candidate", "measure", "restore"):
            raise AnsibleActionFail(f"name: expected snapshot, window, candidate, measure or restore, found {name!r}")
        self.host = str((task_vars or {}).get("inventory_hostname", "host"))
        self.wait_s = WAIT_S
        if self._task.check_mode and name != "restore":
            # Later roles need an epoch; 0 is one that no host ever opens under.
            facts = {"ansible_facts": {"trial_epoch": 0}} if name == "snapshot" else {}
            return {**result, **facts, "changed": True, "skipped_in_check_mode": True}
        if name == "restore":
            return {**result, **self.restore(str(self._task.args.get("by") or "playbook"))}
        try:
            plan = parse(self._task.args.get("plan"))
        except PlanError as err:
            raise AnsibleActionFail(f"the plan cannot be used: {err}") from err
        self.wait_s = min(WAIT_S, plan.limits.lease_s / POLLS_PER_LEASE)
        if name == "snapshot":
            controller = str(self._task.args.get("controller") or "somebody by playbook")
            facts = self.open(plan.run, controller)
            self.show(f"run {plan.run} open, epoch {facts['epoch']}")
            return {**result, "changed": True, "ansible_facts": {"trial_epoch": facts["epoch"]}, **facts}
        epoch = int(self._task.args.get("epoch") or 0)
        try:
            self.verb("advance", run=plan.run, epoch=epoch, phase=self._task.args.get("advance") or name)
        except AnsibleActionFail as err:
            # Refused because the host is being restored, or is back: the journal has the outcome of the phase.
            if err.result.get("rc") != STALE:
                raise
            return {**result, **self.explain(plan.run, epoch, name, err)}
        return {**result, **self.watch(plan.run, epoch, name)}

    def open(self, run: str, controller: str) -> dict[str, Any]:
        """Open the trial; if the program was killed meanwhile, ask the host to undo what it has begun."""
        try:
            return self.verb("open", run=run, controller=controller)
        except AnsibleActionFail as err:
            code = err.result.get("rc", REFUSALS[0])
            if code not in REFUSALS:
                self.show(f"the opening was cut off (exit code {code}); the host undoes what it has begun")
                with contextlib.suppress(AnsibleActionFail):
                    self.command(shlex.join([PROGRAM, "restore", "--by=playbook", "--no-wait"]))
            raise

    def explain(self, run: str, epoch: int, name: str, refusal: AnsibleActionFail) -> dict[str, Any]:
        """Return the phase's result if it has ended meanwhile; else fail with what ended the run, or the refusal."""
        try:
            return self.watch(run, epoch, name)
        except AnsibleActionFail as err:
            if err.result.get("event"):
                raise
            # It was raised while the refusal was handled: Ansible would report each as the other's cause, ten times.
            raise refusal from None

    def show(self, text: str) -> None:
        """Show one line to the person who watches."""
        # It may quote a model or a tenant.
        self._display.display(f"  {self.host} | {printable(text)}")

    def execute(self, command: str, again: bool = True) -> dict[str, Any]:
        """Run a command on the host, and retry through a cut network or a reboot.

        A host that can't be reached restores itself. Giving up is an ordinary failure, not "unreachable": that would
        keep the play from proof and harvest when the host is back.
        """

        def ask() -> dict[str, Any]:
            done: dict[str, Any] = self._low_level_execute_command(command, sudoable=True)
            return done

        return patiently(ask, self._connection, self.show, AWAY_TODO, limit_s=AWAY_S if again else 0.0)

    def verb(self, verb: str, **options: Any) -> dict[str, Any]:
        """Run a verb of the host program and return its answer."""
        words = [f"--{key}={value}" for key, value in options.items()]
        # Opening twice would be two trials; everything else may be asked again.
        done = self.execute(shlex.join([PROGRAM, verb, *words]), again=verb != "open")
        if done["rc"] != 0:
            raise AnsibleActionFail(f"model-trial {verb}: {words_of(done)}", result={"rc": done["rc"]})
        return answer_of(verb, done)

    def tell(self, event: dict[str, Any]) -> None:
        """Show an event, if it is one of those to show."""
        text = SHOWN.get(event["event"])
        if text:
            try:
                containers = counted(event.get("count", 0), "container")
                self.show(f"{event['by']}: {text.format(**{'containers': containers, **event})}")
            except (KeyError, TypeError, ValueError):
                self.show(f"{event['by']}: {event['event']}")

    def polls(self, run: str, epoch: int, first: str, since: int = 0) -> Iterator[dict[str, Any]]:
        """Poll without end; yields every answer with its new events.

        Events are shown from ``first`` on (``phase_started window``): the host may be a phase ahead of the play, and
        every event belongs to one task.
        """
        shown, progress = False, ""
        # Tasks run in a worker process in its own Unix session. It would outlive a killed ansible-playbook and renew
        # the lease. Compare with the parent at the time of the fork: it may be gone already.
        controller = multiprocessing.parent_process()
        while True:
            if controller and os.getppid() != controller.pid:
                raise AnsibleActionFail("ansible-playbook is gone: the lease will lapse, and the host restores itself")
            found = self.verb("poll", run=run, epoch=epoch, since=since, wait=self.wait_s)
            for event in found["events"]:
                since = event["seq"]
                shown = shown or f"{event['event']} {event.get('phase', '')}".strip() == first
                if shown or event["event"] == "phase_failed":
                    self.tell(event)
            newest = found["samples"][-1:]
            line = "".join(
                f"{s['name']}: {s['n']} replies, " + ("none good" if s["p50_ms"] is None else f"p50 {s['p50_ms']} ms")
                for s in newest
            )
            if line and line != progress:
                progress = line
                self.show(
                    f"{found['phase']}, {found['window_s']} s since the first stop, "
                    f"{found['remaining_s']:.0f} s left; {line}"
                )
            yield found

    def watch(self, run: str, epoch: int, name: str) -> dict[str, Any]:
        """Wait until the phase has ended, well or not."""
        events: list[dict[str, Any]] = []
        for found in self.polls(run, epoch, f"phase_started {name}"):
            events += [e for e in found["events"] if e["event"] in ("phase_done", "phase_failed", "restore_started")]
            for event in events:
                if event["event"] == "phase_done" and event["phase"] == name:
                    return {"changed": True, "duration_s": event["duration_s"], "samples": found["samples"]}
                if event["event"] == "phase_failed":
                    raise AnsibleActionFail(printable(SHOWN["phase_failed"].format(**event)), result={"event": event})
                if event["event"] == "restore_started":
                    raise AnsibleActionFail(
                        f"phase {name} did not end: the host is being restored by {event['restored_by']}; "
                        "the runner was stopped from outside (see the journal and: journalctl -u mt-run)"
                    )
            if not found["open"]:
                raise AnsibleActionFail(f"run {run} is no longer open on this host: it has been restored")
        raise AssertionError("polls never ends")

    def restore(self, by: str) -> dict[str, Any]:
        """Ask for the restore (systemd merges callers) and wait until the open run is closed."""
        standing = self.command(STANDING).split()[-1:]
        if standing == ["free"]:
            self.show(f"nothing to restore: {PROGRAM} is not installed, so no trial holds this host")
            return {"changed": False, "run": None, "restored_by": None}
        if standing != ["installed"]:
            raise AnsibleActionFail(
                f"expected {PROGRAM}, which alone restores this host; found the open mark of a trial without it "
                f"({MARK}). Install it again (benchmark-e4b.yml --tags acquire), then run restore.yml"
            )
        status = self.status()
        held = status["open"]
        if not held:
            last = (
                f"run {status['last_run']} was the last one" if status["last_run"] else "no trial was opened here yet"
            )
            who = f", restored by {status['restored_by']}" if status["restored_by"] else ""
            self.show(f"nothing to restore: no trial holds this host; {last}{who}")
            return {"changed": False, "run": status["last_run"], "restored_by": status["restored_by"]}
        if self._task.check_mode:
            return {"changed": True, "skipped_in_check_mode": True, "run": held["run"], "restored_by": None}
        since = status["attempt_seq"]
        self.command(shlex.join([PROGRAM, "restore", f"--by={by}", "--no-wait"]))
        failures: list[str] = []
        restored: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        heard_s = time.monotonic()
        for found in self.polls(held["run"], status["epoch"], "restore_started", since):
            done = [e for e in found["events"] if e["event"] == "restored"]
            failures += [e["reason"] for e in found["events"] if e["event"] == "restore_failed"]
            restored += done
            events += found["events"]
            # The mark decides: it is removed last, after all checks have passed.
            if not found["open"]:
                if not restored:
                    self.expect_nobody_down()
                event = restored[-1] if restored else {}
                again = second_tries(events)
                for words in again:
                    self._display.warning(printable(f"{self.host} did not come back at the first try: {words}"))
                return {
                    "second_tries": again,
                    "changed": True,
                    "run": held["run"],
                    "restored_by": event.get("restored_by"),
                    "down": event.get("down"),
                    "impacts": event.get("impacts"),
                    "times": event.get("times"),
                }
            # The host keeps trying; the playbook reports after the second failure.
            if len(failures) >= 2:
                words = f"the host could NOT be restored yet; it keeps trying. {failures[-1]}"
                raise AnsibleActionFail(printable(words))
            if found["events"]:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > MUTE_S:
                raise AnsibleActionFail(
                    f"expected news of the restore, found an open mark and no event for {MUTE_S / 60:.0f} minutes: "
                    "perhaps the disk is full. On the host: df /var/lib/model-trial; journalctl -u mt-restore"
                )
        raise AssertionError("polls never ends")

    def expect_nobody_down(self) -> None:
        """Fail if no restore says that the host is back and the journal has tenants that are down."""
        now = self.status()
        down = {} if now["restored_by"] else now.get("down") or {}
        if down:
            words = ", ".join(f"{name} since {since}" for name, since in down.items())
            raise AnsibleActionFail(
                printable(
                    f"expected a restore that ends well; found the open mark ({MARK}) removed by another party, and "
                    f"down, by the journal: {words}. On the host: sudo model-trial status; start what does not run"
                )
            )

    def status(self) -> dict[str, Any]:
        """Who holds the host."""
        return answer_of("status", {"rc": 0, "stdout": self.command(f"{PROGRAM} status --json")})

    def command(self, command: str) -> str:
        """Run a command on the host; raises with its words when it fails."""
        done = self.execute(command)
        if done["rc"] != 0:
            raise AnsibleActionFail(f"{command}: {words_of(done)}")
        return str(done["stdout"])
