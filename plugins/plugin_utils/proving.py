# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearsals and drills on a ground: a twin, or a disposable host.

Every round is a play of its own, so that its controller can be killed. A drill strikes on the ground itself: one
command there waits for the moment in the journal and acts, since a poll over the network would come too late.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Plan, Tenant
from ansible_collections.edgelab.model_trial.plugins.module_utils.rehearsal import second_tries
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import twins
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.outcome import Case, faulty, words_of

ROUNDS = Path(__file__).resolve().parents[2] / "playbooks" / "rounds"
STATE = "/var/lib/model-trial"
PROGRAM = "/usr/local/sbin/model-trial"
# Much longer than any round takes; what limits a round is the plan's own limits.
ROUND_S, COMMAND_S = 900.0, 120.0
# The moment of a strike must come within this time after the play began.
MOMENT_S = 180
# So long after its start was asked for, a tenant has a process that can be killed; so long at most one stands still.
KILLED_S, STILL_S = 10, 1800
# A restore ends within the plan's bound; a host that was struck tries again after at most this long besides.
NEXT_TRY_S = 90.0
# Runs on the ground: waits until the journal of run $1 has an event $2, of tenant $5 if that is given, or for $3 tenths
# of a second, then runs $4.
STRIKE = """i=0
of="${5:+\\"tenant\\": \\"$5\\"}"
until grep "\\"event\\": \\"$2\\"" {state}/runs/"$1"/journal.jsonl 2>/dev/null | grep -q "$of"; do
    i=$((i + 1)); test $i -lt $3 || exit 9; sleep 0.1
done
eval "$4" """.replace("{state}", STATE)
# Exit codes of a strike: its moment did not come; no process was there to be killed.
MISSED, NOBODY = 9, 8
# How the program ansible begins to tell what a command printed.
RAN = re.compile(r"^\S.* \| (?:CHANGED|SUCCESS|FAILED) \| rc=(?P<code>\d+) >>\n", re.MULTILINE)
# Of a reason that Ansible printed, so much goes into a message.
TOLD = 300
# A real unit or container is struck by signals: nothing of its definition changes, and systemd reloads nothing. The
# first process of a start is killed; a process that stands still does not answer.
KILL_UNIT = """i=0
while [ $i -lt {tenths}0 ]; do
    for pid in $(systemctl show -p MainPID -p ControlPID {name} | sed -n 's/^[A-Za-z]*PID=\\([1-9][0-9]*\\)$/\\1/p'); do
        kill -KILL "$pid" && exit 0
    done
    i=$((i + 1)); sleep 0.01
done
exit 8"""
KILL_BOX = """i=0
until docker kill --signal=KILL {name} >/dev/null 2>&1; do
    i=$((i + 1)); test $i -lt {tenths} || exit 8; sleep 0.1
done"""
# The fault is a unit of its own: however the drill ends, it goes by itself, and lets everything run again.
STAND_STILL = (
    "systemd-run --quiet --collect --unit={unit} --property=RuntimeMaxSec={limit_s} "
    "--property=ExecStopPost='-/bin/sh -c \"{signal}=CONT {name}\"' "
    "/bin/sh -c 'while :; do {signal}=STOP {name} >/dev/null 2>&1; sleep 0.2; done'"
)
# A name that a shell and systemd both take as it is.
PLAIN = re.compile(r"[A-Za-z0-9@._:-]+")
SIGNALS = {"systemd": "systemctl kill --signal", "container": "docker kill --signal"}


class Failed(Exception):
    """A proof that failed; the message is the reason, ``text`` has more about it."""

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


@dataclass(frozen=True)
class Fault:
    """How a tenant is made to fail on a ground.

    Attributes:
        tenant: whom it strikes.
        event: the moment in the journal; ``of_tenant``: of this tenant alone.
        command: what the ground runs then, in a shell; nothing of it outlives ``undo``.
        undo: what ends it, as words of a command; empty where it ends by itself.
        tried_again: whether the restore itself must have tried again; a real unit may be started again by systemd.
    """

    tenant: str
    event: str
    command: str
    undo: Sequence[str] = ()
    of_tenant: bool = False
    tried_again: bool = True


class Ground:
    """Where it is proved."""

    # Whether a reboot command was given.
    can_reboot = False

    def fault(self, kind: str, tenant: Tenant) -> Fault | None:
        """How a ``start`` of a tenant is made to fail once, or its ``health``; None where that can't be done here."""
        raise NotImplementedError

    def __init__(self, sources: Sequence[str], host: str, options: Sequence[str]) -> None:
        self.sources, self.host, self.options = list(sources), host, list(options)

    def run(self, command: Sequence[str], limit_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a command as root on the ground."""
        words = ["-b", "-m", "ansible.builtin.command", "-a", json.dumps({"argv": list(command)})]
        try:
            done = subprocess.run(
                [tool("ansible"), self.host, *self.inventory, *self.options, *words],
                env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                # Without a terminal, as a round is: ssh would ask there for a passphrase, and wait.
                timeout=limit_s, check=False, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # The command line is no reason.
            raise twins.TwinError(f"{self.host} did not answer within {limit_s:.0f} s") from None
        ran = RAN.search(done.stdout)
        if ran is None:
            return done
        # Ansible's own exit code says only that a command failed.
        output = done.stdout[ran.end() :].removesuffix("\n").removesuffix("non-zero return code")
        return subprocess.CompletedProcess(done.args, int(ran["code"]), output, "")

    def reboot(self) -> None:
        """Reboot it."""
        raise NotImplementedError

    @property
    def inventory(self) -> list[str]:
        """The options of Ansible that name its inventory."""
        return [word for source in self.sources for word in ("-i", source)]


class Host(Ground):
    """A disposable host, reached as the inventory says."""

    def __init__(self, sources: Sequence[str], host: str, options: Sequence[str], reboot: Sequence[str]) -> None:
        super().__init__(sources, host, options)
        self._reboot = list(reboot)
        self.can_reboot = bool(reboot)

    def fault(self, kind: str, tenant: Tenant) -> Fault | None:
        """By signals; a tenant of scripts has no name that a signal could be sent to, and a timer no process."""
        signals, name = SIGNALS.get(tenant.kind), tenant.container or tenant.unit
        if signals is None or not (tenant.port or tenant.health) or not PLAIN.fullmatch(name):
            return None
        if kind == "start":
            script = (KILL_BOX if tenant.container else KILL_UNIT).format(name=name, tenths=KILLED_S * 10)
            return Fault(tenant.name, "tenant_starting", script, of_tenant=True, tried_again=False)
        unit = f"prove-rollback-{re.sub(r'[^A-Za-z0-9]+', '-', tenant.name)}"
        script = STAND_STILL.format(unit=unit, limit_s=STILL_S, signal=signals, name=name)
        # Not before it has stopped: what stands still does not stop well.
        undo = f"systemctl stop {unit}.service 2>/dev/null || ! systemctl is-active --quiet {unit}.service"
        return Fault(tenant.name, "tenant_stopped", script, ("sh", "-c", undo), of_tenant=True)

    def reboot(self) -> None:
        """Run the command of the user, on the controller."""
        done = subprocess.run(self._reboot, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"reboot: {shlex.join(self._reboot)} ended with {done.returncode}", words_of(done.stderr))


class Twin(Ground):
    """A twin's container."""

    can_reboot = True

    def __init__(self, sources: Sequence[str], host: str, container: str) -> None:
        super().__init__(sources, host, [])
        self.container = container

    def fault(self, kind: str, tenant: Tenant) -> Fault | None:
        """As the stand-ins have them, switched by files."""
        file = f"/run/twin/faults/{'start-once' if kind == 'start' else 'health'}-{tenant.name}"
        undo = () if kind == "start" else ("rm", "-f", file)
        return Fault(tenant.name, "tenant_stopped", f"touch {file}", undo)

    def run(self, command: Sequence[str], limit_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a command as root in it."""
        return twins.docker("exec", self.container, *command, check=False, limit_s=limit_s)

    def reboot(self) -> None:
        """As far as a container reboots."""
        twins.restart(self.container)


def tool(name: str) -> str:
    """A program of this Ansible, or whichever is on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def environment() -> dict[str, str]:
    """The environment of a round: the one of this play, without colors, and finding this collection."""
    found = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_RETRY_FILES_ENABLED": "0"}
    # Settings may ask a person, who is not there; on a twin no password is needed.
    found.update(dict.fromkeys(("ANSIBLE_ASK_PASS", "ANSIBLE_BECOME_ASK_PASS", "ANSIBLE_ASK_VAULT_PASS"), "0"))
    found["PATH"] = f"{Path(sys.executable).parent}:{found.get('PATH', os.defpath)}"
    # Known hosts are the user's business on a host; a twin's inventory brings its own options.
    roots = [str(parent) for parent in Path(__file__).parents if parent.name == "ansible_collections"]
    if roots:
        # Of an ansible.cfg, too: the connection of a host may be a plugin of another collection.
        paths = [str(Path(roots[-1]).parent), *map(str, constants.COLLECTIONS_PATHS)]
        found["ANSIBLE_COLLECTIONS_PATH"] = ":".join(dict.fromkeys(paths))
    return found


class Round:
    """A play under way, in a process group of its own."""

    def __init__(self, ground: Ground, playbook: str, run: str, folder: Path, variables: Mapping[str, Any]) -> None:
        self.run, self.folder = run, folder
        folder.mkdir(parents=True, exist_ok=True)
        # The program is built beside the rounds, wherever Ansible was started.
        given = {**variables, "trial_run": run, "round_folder": str(folder), "acquire_build_dir": str(folder.parent)}
        asked = folder / "variables.json"
        asked.write_text(json.dumps(given), encoding="utf-8")
        self.asked = f"@{asked}"
        self.log = folder / "play.log"
        with self.log.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                [tool("ansible-playbook"), str(ROUNDS / f"{playbook}.yml"), *ground.inventory, "--limit", ground.host,
                 *ground.options, "-e", self.asked],
                env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, limit_s: float = ROUND_S) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"the play did not end within {limit_s:.0f} s", self.said()) from None

    def kill(self) -> None:
        """Kill the play with all that it started, as a machine that loses its power does."""
        mine = processes_of(self.asked)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in mine:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        """The end of what it printed."""
        return words_of(self.log.read_text(encoding="utf-8", errors="replace"))

    def failure(self) -> Failed:
        """Why it failed, by its record or by its last words."""
        try:
            found = json.loads((self.folder / "failed.json").read_text(encoding="utf-8"))
            message = str(found["message"])
            return Failed(f"{found['task']}: {first_reason(message)}", message)
        except (OSError, ValueError, KeyError):
            # Where the host can't be reached any more, a play has no say in its end.
            said = self.said()
            return Failed(": ".join(filter(None, (f"the play ended with {self.process.returncode}", told(said)))), said)

    def events(self) -> list[dict[str, Any]]:
        """The journal of the run, as far as it was fetched."""
        found = []
        with contextlib.suppress(OSError):
            for line in (self.folder / "run" / "journal.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found


def processes_of(word: str) -> list[int]:
    """PIDs of the processes that have a word in their command line: workers of a play have left its group."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if word.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def told(output: str) -> str:
    """The last error that Ansible printed; of several lines the last one, which is ssh's or sudo's own reason."""
    errors = re.findall(r"^\[ERROR\]: (.*?)(?=\nOrigin: |\n\n|\Z)", output, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in errors[-1].splitlines() if line.strip()] if errors else []
    return lines[-1].removeprefix("Task failed: ")[:TOLD] if lines else ""


def reason_of(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command on the ground failed, in a line."""
    words = words_of(done.stdout + done.stderr)
    last = next(reversed(words.splitlines()), "")
    return told(words) or last[:TOLD] or f"exit code {done.returncode}"


def first_reason(message: str) -> str:
    """The line of a message that says most: of a broken contract what was found, else its first line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    found = [line for line in lines if line.startswith("found: ")]
    if lines and lines[0].startswith("Contract ") and found:
        return f"{lines[0].removesuffix(' broken.').rstrip(':')}: {found[0]}"
    return lines[0] if lines else "no reason"


@dataclass
class Proof:
    """Everything that was found so far, case by case.

    Attributes:
        faults: of a ``start``, and of ``health``; one that is missing strikes nobody.
    """

    ground: Ground
    folder: Path
    variables: Mapping[str, Any]
    faults: Mapping[str, Fault]
    lease_s: float
    bound_s: float
    show: Callable[[str], None]
    cases: list[Case] = field(default_factory=list)

    def case(self, name: str, prove: Callable[[], None]) -> bool:
        """Prove one thing, and keep how it ended; returns whether it holds."""
        self.show(f"{name} ...")
        began = time.monotonic()
        try:
            prove()
            found = Case(name)
        except Failed as err:
            # The reason is a line; what follows it is told below.
            message, _end, rest = str(err).partition("\n")
            found = Case(name, "failure", message, "\n".join(filter(None, (rest, err.text))))
        except Exception as err:  # it is told as a case, and what rests on it is skipped
            found = faulty(name, err)
        found = Case(found.name, found.result, found.message, found.text, round(time.monotonic() - began, 3))
        self.cases.append(found)
        self.show(f"{name}: {found.result} after {found.time_s:.1f} s{f': {found.message}' if found.message else ''}")
        return not found.bad

    def skip(self, name: str, why: str) -> None:
        """Keep that something was not proved."""
        self.cases.append(Case(name, "skipped", why))
        self.show(f"{name}: skipped: {why}")

    def begin(self, name: str, first: bool = False) -> Round:
        """Start a rehearsal."""
        run = f"prove-{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        return Round(self.ground, "rehearsal", run, self.folder / name, {**self.variables, "round_first": first})

    def contracts_and_rehearsal(self) -> None:
        """A rehearsal that goes well at the first try."""
        play = self.begin("rehearsal", first=True)
        if play.wait():
            raise play.failure()
        again = second_tries(play.events())
        if again:
            raise Failed(f"the host did not come back at the first try: {again[0]}", "\n".join(again))
        # Without a journal nobody knows how often it was tried.
        self.restored(play)

    # What the drills are made of.

    def strike(self, play: Round, event: str, command: str, tenant: str = "", more_s: float = 0.0) -> None:
        """Run a shell command on the ground at an event of the play's journal, of one tenant if it is named.

        Args:
            more_s: how long the event may take besides `MOMENT_S`.
        """
        moment_s = MOMENT_S + more_s
        words = ["sh", "-c", STRIKE, "sh", play.run, event, str(int(moment_s * 10)), command, tenant]
        try:
            done = self.ground.run(words, limit_s=moment_s + COMMAND_S)
        except (OSError, twins.TwinError, subprocess.SubprocessError):
            play.kill()
            raise
        if done.returncode:
            play.kill()
            known = {
                MISSED: f"the run did not reach {event}",
                NOBODY: f"the start of {tenant} had no process to kill within {KILLED_S} s",
            }
            missed = known.get(done.returncode) or f"the strike failed: {reason_of(done)}"
            failure = play.failure()
            raise Failed(f"{missed}: {failure}", failure.text or words_of(done.stdout + done.stderr))

    def closed(self, more_s: float = 0.0) -> None:
        """Wait until no trial holds the ground any more."""
        deadline = time.monotonic() + self.lease_s + self.bound_s + more_s
        while True:
            with contextlib.suppress(OSError, twins.TwinError, subprocess.SubprocessError):
                if self.ground.run(["test", "!", "-e", f"{STATE}/open"]).returncode == 0:
                    return
            if time.monotonic() > deadline:
                shown = self.ground.run([PROGRAM, "status"])
                why = reason_of(shown) if shown.returncode else "a trial still holds it"
                raise Failed(f"the host did not come back by itself: {why}", words_of(shown.stdout + shown.stderr))
            time.sleep(0.5)

    def as_before(self, play: Round, name: str) -> Round:
        """Check that the ground is as before the run; returns the round, with the run's journal."""
        check = Round(self.ground, "check", play.run, self.folder / f"{name}-after", self.variables)
        if check.wait():
            raise check.failure()
        self.restored(check)
        return check

    def restored(self, play: Round) -> None:
        """Expect the journal of a round's run to say that the host is back."""
        events = [str(entry.get("event")) for entry in play.events()]
        if "restored" not in events:
            found = " ".join(events) or "no journal: it could not be fetched"
            raise Failed("the journal does not say that the host was restored", f"{found}\n{play.said()}")

    def put(self, play: Round, fault: Fault) -> None:
        """Make a tenant fail, at the moment for it."""
        self.strike(play, fault.event, fault.command, fault.tenant if fault.of_tenant else "")

    def drop(self, fault: Fault) -> None:
        """End a fault."""
        if fault.undo:
            done = self.ground.run(fault.undo)
            if done.returncode:
                words = words_of(done.stdout + done.stderr)
                raise Failed(f"the fault of {fault.tenant} could not be ended: {reason_of(done)}", words)

    # The drills.

    def controller_killed(self) -> None:
        """The controller dies in the window: the lease lapses, and the host restores itself."""
        play = self.begin("controller-killed")
        self.strike(play, "tenant_stopped", "true")
        play.kill()
        self.closed()
        self.as_before(play, "controller-killed")

    def runner_killed(self) -> None:
        """The program that does the work on the host is killed in the window."""
        play = self.begin("runner-killed")
        self.strike(play, "tenant_stopped", "systemctl kill --signal=KILL mt-run.service")
        if not play.wait():
            raise Failed("the play ended well although the runner was killed in its window", play.said())
        self.closed()
        self.as_before(play, "runner-killed")

    def rebooted(self) -> None:
        """The host reboots in the window."""
        play = self.begin("reboot")
        self.strike(play, "tenant_stopped", "true")
        self.ground.reboot()
        if not play.wait():
            raise Failed("the play ended well although the host rebooted in its window", play.said())
        self.closed(NEXT_TRY_S)
        self.as_before(play, "reboot")

    def start_fails_once(self) -> None:
        """The first start of a tenant in the restore fails; the second must do."""
        fault = self.faults["start"]
        play = self.begin("start-fails-once")
        self.put(play, fault)
        code = play.wait()
        self.closed()
        if code:
            raise play.failure()
        if fault.tried_again and not any(entry.get("event") == "tenant_retry" for entry in play.events()):
            raise Failed(
                f"the first start of {fault.tenant} should have failed, but the journal has no second start",
                play.said(),
            )
        self.as_before(play, "start-fails-once")

    def health_never(self) -> None:
        """A tenant does not become healthy: the failure names it, and the host stays held until the tenant is back."""
        fault = self.faults["health"]
        play = self.begin("health-never")
        try:
            self.put(play, fault)
            self.strike(play, "restore_failed", "true", more_s=self.bound_s)
        finally:
            self.drop(fault)
        play.wait()
        self.closed(NEXT_TRY_S)
        check = self.as_before(play, "health-never")
        told = [str(e.get("reason", "")) for e in check.events() if e.get("event") == "restore_failed"]
        if not any(fault.tenant in reason for reason in told):
            raise Failed(f"the failed restore does not name {fault.tenant}", "\n".join(told))


@dataclass(frozen=True)
class Drill:
    """A drill: what it is called in JUnit, how it is played, and what it needs: a fault, a reboot."""

    title: str
    play: Callable[[Proof], None]
    fault: str = ""
    reboots: bool = False


DRILLS: Mapping[str, Drill] = {
    "controller-killed": Drill("the controller is killed in the window", Proof.controller_killed),
    "runner-killed": Drill("the runner is killed in the window", Proof.runner_killed),
    "reboot": Drill("the host reboots in the window", Proof.rebooted, reboots=True),
    "start-fails-once": Drill("a start fails once", Proof.start_fails_once, fault="start"),
    "health-never": Drill("health that never answers", Proof.health_never, fault="health"),
}


def faults(plan: Plan, ground: Ground) -> dict[str, Fault]:
    """Whom faults strike: the first tenant that is started and can fail, the last one whose health is asked."""
    moved = [plan.tenant(name) for name in plan.restore_order]
    starts = (ground.fault("start", tenant) for tenant in moved if not tenant.unit.endswith(".timer"))
    asked = (ground.fault("health", tenant) for tenant in reversed(moved) if tenant.health)
    found = {"start": next(filter(None, starts), None), "health": next(filter(None, asked), None)}
    return {kind: fault for kind, fault in found.items() if fault is not None}


def why_not(drill: Drill, proof: Proof) -> str:
    """Why a ground can't have a drill; empty where it can."""
    if drill.fault and drill.fault not in proof.faults:
        where = (
            "" if isinstance(proof.ground, Twin) else " here; on a real host, only a unit or a container can be struck"
        )
        return f"no tenant that stops has a {drill.fault} that could fail{where}"
    if drill.reboots and not proof.ground.can_reboot:
        return "name the command that reboots the host, run on the controller: prove_rollback_reboot"
    return ""


def yaml_of(value: Any) -> str:
    """A value as YAML in which no text is a template: what is rendered already stays what it is."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {yaml_of(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(yaml_of(one) for one in value) + "]"
    text = json.dumps(value, ensure_ascii=False)
    return f"!unsafe {text}" if isinstance(value, str) and re.search(r"\{[{%#]", value) else text
