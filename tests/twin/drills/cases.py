"""The table: every drill, mechanism by phase.

A case says when which fault strikes, what the play must say of it, how it must end, and who brings the host back. What
holds for every case (the host is as before, within its bound, with every sample kept and nothing left over) is in
test_drills.py and is not repeated here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import faults
from faults import Fault, controller_gets, gpu
from world import Drill, inventory

KILL = controller_gets(signal.SIGKILL)
When = Callable[[Drill], None]

# ---- how long things take in a drill ----

LIMITS = {
    # More than the bound of a restore with a tenant or two besides.
    "cap_s": 900,
    "drain_min_s": 1,
    "drain_limit_s": 8,
    "drain_tolerance_mib": 300,
    # A play that shares two cores with another needs up to 6 s from one phase to the next.
    "lease_s": 10,
    "a2_s": 2,
    "measure_s": 60,
    "request_timeout_s": 3,
}


def asked(**counts: int) -> dict[str, Any]:
    """The workloads of a drill, as a variable of the play; ``counts`` are of the one that decides."""
    few = {"n": 60, "first_n": 20, "cached_n": 5, "tenants_n": 3, "warmup": 1, **counts}
    # A plan is refused if its replies are expected to take longer than the measuring may: the endless ones understate.
    expected_s = 0.03 if sum(few.values()) < 1000 else 0.003
    nav = {"name": "nav", "role": "decides", "expected_reply_s": expected_s, **few}
    return {"trial_workloads": [nav, {"name": "describe", "role": "shown", "expected_reply_s": 0.03, "n": 1}]}


SHORT: Mapping[str, Any] = {"trial_limits": LIMITS, **asked()}
# Phases made long by data, so that a fault surely finds them under way: replies come every 5 to 20 ms, cached ones from
# 2 ms on.
LONG_SNAPSHOT = asked(tenants_n=40)
LONG_WINDOW = asked(n=400)
LONG_MEASURE = asked(cached_n=4000)
# Longer than any lease: the run can't end by itself before.
ENDLESS_WINDOW = asked(n=4000)
ENDLESS_MEASURE = asked(cached_n=12000)
LONG_RESTORE = {"trial_limits": {"drain_min_s": 2}}
# For a network that returns before the lease lapses, however busy the machine is: the lease of a real host.
LONG_LEASE = {"trial_limits": {"lease_s": 60}}
# Seconds by which a slow card stretches the candidate's start; the faults switch it off where it would go on.
SLOW_CARD_S = 3.0
# An orderly restart waits for containers to end; after a power cut there is only the boot.
RESTART_S, BOOT_S = 30.0, 15.0


def faulty_server(mode: str, first: int) -> dict[str, Any]:
    """The candidate's server misbehaves from its ``first`` chat request on (tests/fixtures/faulty_server)."""
    candidate = inventory("trial_candidate")
    words = [*candidate["server_args"], "--misbehave", f"{mode}:{first}"]
    return {"trial_candidate": {**candidate, "server_args": words}}


def candidate(**changes: Any) -> dict[str, Any]:
    """The inventory's candidate with some of its fields changed."""
    return {"trial_candidate": {**inventory("trial_candidate"), **changes}}


def tenants(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """The inventory's tenants with some fields of some of them changed; two underscores stand for a dash in a name."""
    wanted = {name.replace("__", "-"): fields for name, fields in changes.items()}
    return {"trial_tenants": [{**one, **wanted.get(one["name"], {})} for one in inventory("trial_tenants")]}


def short_starts(**limits: Any) -> dict[str, Any]:
    """Tenants with little time to start and stop, so that a cap of a minute has room for a restore."""
    tenants = [{**one, "start_timeout_s": 6, "stop_timeout_s": 4} for one in inventory("trial_tenants")]
    return {"trial_tenants": tenants, "trial_limits": limits}


# The runner does not wait for this stop to end; the tenant's own manager does.
SHORT_STOP = tenants(panda__llamacpp={"stop_timeout_s": 3})
# A start command that does not check whether the tenant already runs, as most do.
CARELESS_START = tenants(
    chatterbox={"start": "setsid nohup python3 $(pwd)/server.py >>chatterbox.log 2>&1 </dev/null &"}
)
# The start command looks whether it may read what root's group may.
CURIOUS_START = tenants(
    chatterbox={"start": f"(cat {faults.ROOTS_FILE} || echo it reads nothing of roots) >probe.txt 2>&1; ./start.sh"}
)
# Found by its argv, ended by signal; the words are any program's.
VOICE_AS_PROCESS = tenants(
    chatterbox={"kind": "process", "process": "server.py", "start": "exec python3 $(pwd)/server.py", "stop": ""}
)

# A container as a tenant that is stopped first and comes back last.
BOXED = {
    "trial_tenants": [
        *inventory("trial_tenants"),
        {"name": faults.BOX, "kind": "container", "container": faults.BOX, "process": f"sleep {faults.BOX_SLEEPS_S}",
         "start_timeout_s": 10, "stop_timeout_s": 2},
    ],
    "trial_stop_order": [faults.BOX, *inventory("trial_stop_order")],
    "trial_restore_order": [*inventory("trial_restore_order"), faults.BOX],
}  # fmt: skip


def with_units(*names: str, restored: tuple[str, ...] | None = None, **changes: Any) -> dict[str, Any]:
    """Units as tenants that are stopped first, in this order, and come back last, the last stopped one first."""
    own = [{"name": name, "kind": "systemd", "unit": f"{name}.service", "start_timeout_s": 10, "stop_timeout_s": 4}
           for name in names]  # fmt: skip
    return {
        "trial_tenants": [*inventory("trial_tenants"), *own],
        "trial_stop_order": [*names, *inventory("trial_stop_order")],
        "trial_restore_order": [*inventory("trial_restore_order"), *(restored or reversed(names))],
        **changes,
    }


# ---- when ----


def event(name: str, **facts: Any) -> When:
    """As soon as the host's journal has this event."""

    def when(drill: Drill) -> None:
        drill.event(name, alive=True, **facts)

    return when


def task(words: str) -> When:
    """As soon as the play says that it begins a task."""

    def when(drill: Drill) -> None:
        assert drill.play is not None
        drill.play.wait_for(words)

    return when


def sampled(name: str, count: int) -> When:
    """As soon as so many replies have been measured."""
    return lambda drill: drill.sampled(name, count)


def at_once(drill: Drill) -> None:
    """The fault lies in the play's variables."""


OPENED = event("opened")
A1 = event("tenant_stopped", tenant="chatterbox")
DRAIN = event("drain_started", by="runner")
CANDIDATE_STARTS = event("candidate_started")
MEASURE = event("extension")
RESTORE = event("restore_started")
BASELINE_STARTS = event("tenant_starting", tenant="panda-llamacpp")
MODEL_STOPS = event("tenant_stopping", tenant="panda-llamacpp")
VOICE_STOPS = event("tenant_stopping", tenant="chatterbox")
VERIFY = task("TASK [edgelab.model_trial.verify : The checks, from outside]")


# ---- what is expected ----


@dataclass(frozen=True)
class CanNotBeRestored:
    """A fault that no restore survives: what the restore reports, and how it ends once the fault has passed.

    ``says``: patterns of the journal's `restore_failed`. ``mend`` lets the fault pass. ``by``: who then brings the host
    back, "restore.yml" or the host's own "next try". ``tenants_up``: the tenants are back in time anyway.
    """

    why: str
    says: tuple[str, ...]
    mend: Fault = faults.mend
    by: str = "next try"
    tenants_up: bool = True

    @property
    def restored_by(self) -> str:
        """Who stands in the journal; the next try may be one that the failed play has asked for."""
        return "playbook" if self.by == "restore.yml" else "host|playbook"


# The named list. Nothing else may keep a host from coming back; docs/drills.md explains each.
CAN_NOT_BE_RESTORED: Mapping[str, CanNotBeRestored] = {
    "the live model does not start": CanNotBeRestored(
        "its unit refuses every start",
        ("panda-llamacpp", r"sudo systemctl start panda-llamacpp\.service"),
        by="restore.yml",
        tenants_up=False,
    ),
    "the voice does not start": CanNotBeRestored(
        "its program ends at once, every time",
        ("chatterbox", r"sudo -u panda .*\./start\.sh"),
        by="restore.yml",
        tenants_up=False,
    ),
    "the voice is broken": CanNotBeRestored("it answers, but does not speak", ("check 7 .*speaks",)),
    "an untouched tenant died": CanNotBeRestored(
        "no trial starts what it did not stop", ("phone daemon",), faults.phone_started_by_hand, "restore.yml"
    ),
    "a stranger holds the candidate's port": CanNotBeRestored(
        "foreign processes are never ended", ("11437", "python3"), faults.port_given_back
    ),
    "a stranger holds a tenant's port": CanNotBeRestored(
        "foreign processes are never ended, and the tenant can't listen beside it",
        (r"port 8772 is held by PID \d+ \(user nobody, .*python3", r"sudo -u panda .*\./start\.sh"),
        faults.port_given_back,
        tenants_up=False,
    ),
    "memory of the dead": CanNotBeRestored(
        "the driver keeps memory of ended processes; the tenants don't fit beside it",
        ("check 1 VRAM",),
        tenants_up=False,
    ),
    "a stranger holds VRAM": CanNotBeRestored(
        "foreign processes are never ended", ("check 1 VRAM", r"train\.py"), by="restore.yml"
    ),
    "a stopped container was pruned": CanNotBeRestored(
        "docker has lost it; its definition is kept, and a person makes it again",
        (
            r"No such container: drill-box",
            r"its definition is kept in /var/lib/model-trial/definitions/drill-box",
            r"sudo docker start drill-box",
        ),
        faults.box_made_anew,
        # It is another one: only a person can say that it is good.
        by="restore.yml",
        tenants_up=False,
    ),
    "a stopped container was replaced": CanNotBeRestored(
        "it runs, and what was in the former one is missing; only a person can say that it is good",
        ("container drill-box is another one than before", "what was in the former one is missing"),
        by="restore.yml",
    ),
    "the GPU's driver errs": CanNotBeRestored(
        "nobody can see whether VRAM is as it was; the tenants are up anyway", ("check 1 VRAM",)
    ),
    "the GPU's driver hangs": CanNotBeRestored(
        "nobody can see whether VRAM is as it was; the tenants are up anyway", ("check 1 VRAM",)
    ),
    "the GPU's driver sleeps in the kernel": CanNotBeRestored(
        "nobody can see whether VRAM is as it was; the tenants are up anyway",
        ("check 1 VRAM",),
        faults.driver_wakes,
    ),
}


@dataclass(frozen=True)
class Case:
    """One drill.

    Attributes:
        name: what a person calls it.
        mechanism: the kind of fault, as the specification lists it.
        phase: where it strikes.
        at: waits for the moment.
        fault: strikes.
        says: patterns that the play's output must contain; for a controller that is gone, harvest.yml's afterwards.
        ends: how the play ends: "completed" (exit code 0), "failed" (not 0), "gone" (ended from outside).
        by: who brings the host back: host, boot, playbook, hand, several with "|"; "-" where nothing was opened.
        before: what must be in place before the trial begins.
        play: variables of the play, merged over SHORT.
        lease: the host learns of the fault by its lease alone.
        extra_s, why: seconds that the fault itself costs beyond the common bound, and the reason.
        mended: lets the fault pass before the samples are fetched again.
        killed: tenants that the fault itself ends, so that they may have new processes.
        reboots: the fault restarts the host, so that every process is new.
        later_s: so many seconds after the fault the host is looked at again: nothing under way may undo the restore.
        stuck: key of CAN_NOT_BE_RESTORED.
        faulty_server: the trial gets the image whose server can misbehave.
        acquire: the trial plays phase 1, too, as with another image; elsewhere the twin was given everything once.
    """

    name: str
    mechanism: str
    phase: str
    at: When
    fault: Fault
    says: tuple[str, ...] = ()
    ends: str = "failed"
    by: str = "host"
    before: Fault | None = None
    play: Mapping[str, Any] = field(default_factory=dict)
    lease: bool = False
    extra_s: float = 0.0
    why: str = ""
    mended: Fault | None = None
    killed: tuple[str, ...] = ()
    reboots: bool = False
    later_s: float = 0.0
    stuck: str = ""
    faulty_server: bool = False
    acquire: bool = False


LAPSED = "the lease lapsed"
CONTROLLER_KILLED: Mapping[str, Any] = {"mechanism": "controller kill -9", "fault": KILL, "ends": "gone"}
BY_LEASE: Mapping[str, Any] = {"says": (LAPSED, "restored .*by host"), "lease": True}

CASES: tuple[Case, ...] = (
    # ---- the controller dies ----
    Case("killed-in-preflight", phase="preflight", at=task("Contracts, all of them"), by="-",
         acquire=True, says=("Was a trial started here",), **CONTROLLER_KILLED),
    Case("killed-in-acquire", phase="acquire", at=task("Fetch the model files"), by="-",
         acquire=True, says=("Was a trial started here",), **CONTROLLER_KILLED),
    Case("killed-in-snapshot", phase="snapshot", at=event("phase_started", phase="snapshot"),
         play=LONG_SNAPSHOT, **CONTROLLER_KILLED, **BY_LEASE),
    Case("killed-in-window", phase="window", at=A1, play=ENDLESS_WINDOW, **CONTROLLER_KILLED, **BY_LEASE),
    Case("killed-in-candidate", phase="candidate", at=CANDIDATE_STARTS, before=faults.slow_card(SLOW_CARD_S),
         play=ENDLESS_MEASURE, **CONTROLLER_KILLED, **BY_LEASE),
    Case("killed-in-measure", phase="measure", at=MEASURE, play=ENDLESS_MEASURE,
         **CONTROLLER_KILLED, **BY_LEASE),
    Case("killed-between-phases", "controller kill -9, between phases", "measure",
         task("TASK [edgelab.model_trial.measure : Measure]"), KILL, ends="gone", play=ENDLESS_MEASURE, **BY_LEASE),
    Case("killed-in-restore", phase="restore", at=RESTORE, play=LONG_RESTORE, says=("restored .*by host",),
         **CONTROLLER_KILLED),
    Case("killed-in-verify", phase="verify", at=VERIFY, says=("restored .*by host",), **CONTROLLER_KILLED),
    Case("killed-in-verdict", phase="verdict", at=task("verdict : Bring the run here"),
         says=("restored .*by host",), **CONTROLLER_KILLED),
    Case("ctrl-c", "controller Ctrl-C", "measure", MEASURE, faults.ctrl_c, ends="gone", play=ENDLESS_MEASURE,
         **BY_LEASE),
    Case("sigterm", "controller SIGTERM", "candidate", CANDIDATE_STARTS, controller_gets(signal.SIGTERM), ends="gone",
         before=faults.slow_card(SLOW_CARD_S), play=ENDLESS_MEASURE, **BY_LEASE),
    Case("sighup", "controller SIGHUP", "window", A1, controller_gets(signal.SIGHUP), ends="gone",
         play=ENDLESS_WINDOW, **BY_LEASE),
    Case("lease-off", "controller kill -9, lease off", "measure", MEASURE, KILL, ends="gone",
         says=("completed", "PENDING REVIEW|INCONCLUSIVE", "restored .*by host"),
         play={**asked(cached_n=1500), "trial_lease": "off"},
         extra_s=40, why="the run goes on to its end unattended"),
    Case("stale-controller", "stale controller coming back", "window", A1, faults.controller_sleeps_beyond_the_lease,
         says=(LAPSED, "restored by host at .*exit code 3"), play=ENDLESS_WINDOW, lease=True),
    # ---- the network ----
    Case("sshd-gone", "sshd stopped", "measure", MEASURE, faults.sshd_gone_until("closed"),
         says=("cannot be reached; retrying", LAPSED), play=ENDLESS_MEASURE, lease=True),
    Case("sshd-gone-briefly", "sshd stopped", "measure", MEASURE,
         faults.sshd_gone_until("segment_done", session="candidate"), says=("cannot be reached; retrying",),
         ends="completed", play=asked(cached_n=300) | LONG_LEASE),
    Case("sshd-gone", "sshd stopped", "restore", RESTORE, faults.sshd_gone_until("closed"),
         says=("cannot be reached; retrying",), ends="completed", play=LONG_RESTORE),
    Case("packets-dropped", "packets dropped", "window", A1, faults.packets_dropped_until("closed"),
         says=(LAPSED,), play=ENDLESS_WINDOW, lease=True),
    Case("packets-dropped-briefly", "packets dropped", "candidate", CANDIDATE_STARTS,
         faults.packets_dropped_until("candidate_healthy"), ends="completed", before=faults.slow_card(2),
         play=LONG_LEASE),
    Case("packets-dropped-briefly", "packets dropped", "verify", VERIFY, faults.packets_dropped_for(25),
         says=("cannot be reached; retrying",), ends="completed"),
    Case("packets-dropped-briefly", "packets dropped", "verdict", task("verdict : Bring the run here"),
         faults.packets_dropped_for(25), says=("cannot be reached; retrying",), ends="completed",
         before=faults.slow_harvest),
    # ---- the machine ----
    Case("rebooted", "host restarted", "window", A1, faults.rebooted, says=("host was restarted",),
         by="boot|host|playbook", play=LONG_WINDOW, reboots=True, extra_s=RESTART_S, why="the restart"),
    Case("power-cut", "host restarted", "measure", MEASURE, faults.power_cut, says=("host was restarted",),
         by="boot|playbook", play=LONG_MEASURE, reboots=True, extra_s=BOOT_S, why="the boot"),
    Case("rebooted", "host restarted", "restore", BASELINE_STARTS, faults.rebooted, by="boot|host|playbook",
         ends="completed", play=LONG_RESTORE, reboots=True, extra_s=RESTART_S, why="the restart"),
    # ---- the host's own programs ----
    Case("dockerd-killed", "dockerd killed", "measure", MEASURE, faults.dockerd_killed,
         says=("measuring stopped early|the candidate died",), play=LONG_MEASURE, by="host|playbook",
         extra_s=10, why="the engine's own start: containers are removed before anybody is started"),
    Case("dockerd-hangs", "dockerd killed", "measure", MEASURE, faults.dockerd_killed,
         says=("measuring stopped early|the candidate died",), play=ENDLESS_MEASURE, by="host|playbook",
         before=faults.dockerd_that_will_hang,
         extra_s=13, why="a second for last words, ten for the list of containers, an engine that starts beside it"),
    Case("dockerd-killed", "dockerd killed", "restore", RESTORE, faults.dockerd_killed, ends="completed",
         by="host|playbook", extra_s=10, why="the engine's own start"),
    Case("dockerd-restarted", "dockerd restarted", "measure", MEASURE, faults.dockerd_restarted,
         says=("measuring stopped early|the candidate died",), play=ENDLESS_MEASURE, by="host|playbook",
         extra_s=10, why="the engine's own stop"),
    Case("dockerd-restarted", "dockerd restarted", "restore", BASELINE_STARTS, faults.dockerd_restarted,
         ends="completed", by="host|playbook"),
    Case("runner-killed", "runner killed", "window", A1, faults.runner_killed,
         says=(r"runner was ended from outside \(signal\)",), play=LONG_WINDOW),
    Case("runner-killed", "runner killed", "candidate", CANDIDATE_STARTS, faults.runner_killed,
         says=(r"runner was ended from outside \(signal\)",), before=faults.slow_card(SLOW_CARD_S)),
    Case("runner-killed", "runner killed", "measure", MEASURE, faults.runner_killed,
         says=(r"runner was ended from outside \(signal\)",), play=LONG_MEASURE),
    Case("restore-killed-draining", "restore killed half way", "restore", event("containers_removed"),
         faults.restore_killed, ends="completed", by="host|playbook", play=LONG_RESTORE),
    Case("restore-killed-starting", "restore killed half way", "restore", BASELINE_STARTS, faults.restore_killed,
         ends="completed", by="host|playbook"),
    Case("runner-started-again", "runner started again by hand", "measure", MEASURE, faults.runner_started_again,
         says=("runner was ended from outside",), play=LONG_MEASURE),
    # ---- nobody is at work, and systemd does not see it ----
    Case("restore-stopped", "restore stopped by hand", "restore", BASELINE_STARTS, faults.restore_stopped,
         says=("NOBODY was at work on the trial",), ends="completed", by="watch|playbook",
         extra_s=36, why="mt-watch looks every 30 s, and once more 3 s later"),
    Case("restore-stands-still", "restore stopped by a signal", "restore", BASELINE_STARTS, faults.restore_stands_still,
         ends="completed", by="host|watch|playbook",
         extra_s=36, why="no heartbeat for 30 s, or mt-watch; then the restore begins again"),
    Case("runner-stands-still", "runner stopped by a signal", "measure", MEASURE, faults.runner_stands_still,
         says=(r"runner was ended from outside \((watchdog|stopped for this restore)\)",), play=ENDLESS_MEASURE,
         by="host|watch|playbook", extra_s=36, why="no heartbeat for 30 s, or mt-watch"),
    Case("opening-killed", "opening killed before its runner", "snapshot", OPENED,
         faults.opening_killed_before_its_runner, says=("restored .*by watch",), ends="gone", by="watch",
         before=faults.opening_that_waits_for_its_runner),
    # ---- stops and starts that outlive their caller ----
    Case("model-stops-late", "stop longer than its timeout", "window", MODEL_STOPS, faults.nothing,
         says=("still stopping after 3 s", "panda-llamacpp is neither up nor down: its unit is deactivating"),
         before=faults.model_that_stops_slowly, play=SHORT_STOP, later_s=20, extra_s=8, why="the stop itself"),
    Case("voice-stops-late", "stop longer than its timeout", "window", VOICE_STOPS, faults.nothing,
         says=("still stopping after 2 s", "chatterbox is neither up nor down: it was asked to stop"),
         before=faults.voice_that_stops_slowly, play=tenants(chatterbox={"stop_timeout_s": 2}), later_s=20,
         extra_s=8, why="the stop itself, which is repeated"),
    Case("runner-killed-in-a-stop", "runner killed", "window", MODEL_STOPS,
         faults.once_the_model_stops(faults.runner_killed),
         says=(r"runner was ended from outside \(signal\)", "panda-llamacpp is neither up nor down"),
         before=faults.model_that_stops_slowly, later_s=20, extra_s=8, why="the stop itself"),
    Case("runner-killed-in-a-script", "runner killed", "window", VOICE_STOPS,
         faults.once_the_voice_stops(faults.runner_killed),
         says=(r"runner was ended from outside \(signal\)",
               "chatterbox is neither up nor down: its stop command still runs"),
         before=faults.voice_that_stops_slowly, later_s=20, extra_s=8, why="the stop itself"),
    Case("restored-in-a-stop", "restore called meanwhile", "window", MODEL_STOPS,
         faults.once_the_model_stops(faults.restored_by_hand_meanwhile),
         says=("panda-llamacpp is neither up nor down", "restored by hand|restore started by hand"), by="hand|playbook",
         before=faults.model_that_stops_slowly, later_s=20, extra_s=10, why="the stop itself, and the runner's end"),
    Case("restore-killed-loading", "restore killed half way", "restore", RESTORE,
         faults.restore_killed_while_the_voice_loads, says=("the voice was started 1 times",), ends="completed",
         by="host|playbook", before=faults.voice_that_listens_late, play=CARELESS_START, later_s=20,
         extra_s=8, why="the restore goes on after half a second, and drains again"),
    Case("voice-dies-after-7-s", "tenant that does not stay up", "restore", RESTORE,
         faults.until_it_did_not_settle("chatterbox-dies-after", "7"), ends="completed", by="host|playbook",
         says=("chatterbox did NOT stay up",), play={"trial_settle_s": 10}, later_s=30,
         extra_s=13, why="it dies after 7 s, its speech is asked for, and the next try comes a second later"),
    Case("voice-flaps", "tenant that does not stay up", "restore", RESTORE,
         faults.until_it_did_not_settle("chatterbox-flaps"), ends="completed", by="host|playbook",
         says=("chatterbox did NOT stay up",), play={"trial_settle_s": 4}, later_s=20,
         extra_s=8, why="the next try comes a second later, and finds it up"),
    Case("model-dies-at-the-checks", "tenant that does not stay up", "restore", RESTORE,
         faults.model_killed_at_the_checks, ends="completed", by="host|playbook",
         says=("panda-llamacpp (did not stay up|is gone)|check .* panda-llamacpp",), later_s=20,
         extra_s=8, why="the checks, and the next try a second later"),
    Case("voice-is-who-it-was", "identity of a restored tenant", "restore", RESTORE, faults.the_voice_is_who_it_was,
         says=("the voice is another in: nothing", "it reads nothing of roots"), ends="completed",
         before=faults.voice_that_is_somebody, play=CURIOUS_START),
    Case("same-argv-lives-on", "another user's program with a tenant's argv", "window", OPENED,
         faults.the_other_program_lives_on, says=("the other program lives on",), ends="completed",
         before=faults.program_of_the_same_argv, play=VOICE_AS_PROCESS),
    Case("two-restores", "two restores at once", "measure", MEASURE, faults.two_restores_at_once,
         says=("restored by (playbook|hand)|restore started by (playbook|hand)", "restore.yml ended with 0"),
         by="playbook|hand", play=LONG_MEASURE, extra_s=2, why="the runner's time to end"),
    Case("two-trials", "two trials at once", "window", A1, faults.second_trial, ends="completed",
         says=("the second trial ended with 2", "run .* has held this host since 20"),
         play=asked(n=500)),
    Case("second-controller", "another controller's phase 1", "window", A1, faults.second_controller, ends="completed",
         says=("the second controller ended with 2", "this host is held by run .* since 20", "bring the host back"),
         play=asked(n=500)),
    Case("program-replaced", "another version of the program", "window", A1,
         faults.program_of_another_version(faults.runner_killed), says=("the runner was ended from outside",),
         play=LONG_WINDOW),
    Case("program-replaced-rebooted", "another version of the program", "window", A1,
         faults.program_of_another_version(faults.power_cut), says=("host was restarted",), by="boot|playbook",
         play=LONG_WINDOW, reboots=True, extra_s=BOOT_S, why="the boot"),
    Case("program-removed", "the program removed", "window", A1, faults.program_removed,
         says=("which alone restores this host",), play=LONG_WINDOW),
    Case("copy-damaged", "the kept program damaged", "window", A1, faults.copy_damaged,
         says=("the runner was ended from outside", "the program that the run keeps can't be used"), play=LONG_WINDOW),
    Case("late-start", "late docker start after the restore", "restore", event("containers_removed"),
         faults.late_start, says=("No such container",), ends="completed"),
    Case("cap-reached", "cap reached while measuring", "measure", at_once, faults.nothing,
         says=("its time limit was reached",), play=short_starts(cap_s=200) | ENDLESS_MEASURE,
         extra_s=56, why="nothing happens until the cap"),
    # ---- the candidate ----
    Case("out-of-memory", "candidate OOM-killed", "candidate", CANDIDATE_STARTS, faults.nothing,
         says=("the candidate died", "ran out of memory"), play=candidate(memory="16m")),
    Case("out-of-vram", "candidate OOM-killed", "candidate", CANDIDATE_STARTS, faults.nothing,
         says=("the candidate died|takes too much VRAM",), before=lambda d: d.gpu(model_mib={"candidate": 14000})),
    Case("hangs", "candidate hangs", "measure", sampled("nav-candidate", 20), faults.nothing,
         says=("measuring stopped early", "broken or unreachable"), faulty_server=True,
         play={**faulty_server("stalls", 25), "trial_limits": {"request_timeout_s": 1}},
         extra_s=7, why="five requests in a row time out, a second each"),
    Case("stopped", "candidate stands still", "measure", MEASURE, faults.candidate_stopped,
         says=("the candidate stands still", r"is stopped by a signal \(SIGSTOP\)"), play=LONG_MEASURE),
    Case("paused", "candidate stands still", "measure", MEASURE, faults.candidate_paused,
         says=("the candidate stands still", r"is frozen with its control group|has waited in the kernel"),
         play=LONG_MEASURE, extra_s=12,
         why="where its control group can't be looked at, a wait in the kernel counts after ten seconds"),
    Case("docker-stands-still", "docker start that hangs", "window", DRAIN, faults.docker_stands_still_and_abort,
         says=("aborted by hand",), by="host|hand|playbook",
         extra_s=10, why="the rest of the drain, and an engine that answers again a moment after the run's end"),
    # It may be gone before anyone has seen its process.
    Case("exits-at-start", "candidate exits at start", "candidate", event("candidate_starting"), faults.nothing,
         says=("the candidate (died|ended)", "no-such-flag"), play=candidate(server_args=["--no-such-flag"])),
    Case("answers-500", "candidate answers 500", "measure", sampled("nav-candidate", 20), faults.nothing,
         says=("500",), ends="completed", faulty_server=True, play=faulty_server("500", 25)),
    Case("answers-garbage", "candidate answers garbage", "measure", sampled("nav-candidate", 20), faults.nothing,
         says=("bad_json",), ends="completed", faulty_server=True, play=faulty_server("garbage", 25)),
    Case("answers-slowly", "candidate answers slowly", "measure", sampled("nav-candidate", 20), faults.nothing,
         ends="completed", faulty_server=True, play=faulty_server("slow", 60)),
    Case("thinks-at-once", "candidate thinks", "candidate", CANDIDATE_STARTS, faults.nothing,
         says=("the smoke test failed", "thinking"), faulty_server=True, play=faulty_server("thinks", 1)),
    Case("thinks-later", "candidate thinks", "measure", sampled("nav-candidate", 5), faults.nothing,
         says=("INCONCLUSIVE", r"thinking in \d+ replies"), ends="completed",
         faulty_server=True, play=faulty_server("thinks", 12)),
    Case("dies-at-sample-57", "candidate dies at sample 57", "measure", sampled("nav-candidate", 57),
         faults.candidate_dies, says=("the candidate died|measuring stopped early",),
         play=LONG_WINDOW),
    Case("model-truncated", "model file truncated", "snapshot", task("Make the folder of the run"),
         faults.model_truncated, says=("the candidate died",), extra_s=20, why="it is noticed in phase 4"),
    Case("port-stolen", "port 11437 stolen", "snapshot", OPENED, faults.port_stolen_for_a_while,
         says=("port 11437 was taken meanwhile", "python3"), extra_s=20, why="it is noticed in phase 4"),
    Case("port-stolen-for-good", "port 11437 stolen", "window", A1, faults.port_stolen,
         says=("port 11437 was taken meanwhile", "python3"), stuck="a stranger holds the candidate's port",
         extra_s=10, why="it is noticed in phase 4"),
    Case("voices-port-stolen", "stranger on a tenant's port", "window", A1, faults.voices_port_stolen,
         says=(r"port 8772 is held by PID \d+ \(user nobody",), stuck="a stranger holds a tenant's port"),
    Case("port-taken-at-the-start", "stranger where the candidate is asked", "candidate", event("candidate_starting"),
         faults.stranger_gone_once_it_failed, before=faults.stranger_in_wait,
         says=("another party listens on the port of the candidate|port 11437 was taken meanwhile",
               r"port 11437 is held by PID \d+ \(user nobody")),
    Case("stranger-beside", "stranger where the candidate is asked", "measure", MEASURE,
         faults.stranger_beside_the_candidate, play=LONG_MEASURE,
         says=("another party listens on the port of the candidate",
               r"port 11437 is held by PID \d+ \(user nobody")),
    Case("strangers-container", "stranger on a tenant's port", "window", A1, faults.strangers_container,
         says=("another party listens on the port of the tenant chatterbox", r"port 8772 is held by PID \d+"),
         play=LONG_WINDOW, extra_s=4, why="the stranger goes a moment after the run's end"),
    # ---- the GPU ----
    Case("vram-stuck", "VRAM does not drain", "window", A1, faults.gpu_passing("phase_failed", stuck=True),
         says=("VRAM did not drain", "llama-server|held by"), extra_s=15, why="the drain's limit, after A1"),
    Case("vram-stuck", "VRAM does not drain", "restore", RESTORE, gpu(stuck=True), says=("did NOT drain",),
         play=short_starts(), stuck="memory of the dead"),
    Case("vram-slow", "VRAM drains slowly", "window", A1, gpu(linger_s=3.0), ends="completed"),
    Case("vram-grabbed", "VRAM grabbed by a stranger", "window", A1,
         faults.gpu_passing("phase_failed", foreign=[{"command": "python3 train.py", "mib": 2500}]),
         says=("VRAM did not drain", r"train\.py"), extra_s=15, why="the drain's limit, after A1"),
    Case("vram-grabbed", "VRAM grabbed by a stranger", "candidate", event("candidate_starting"),
         faults.gpu_passing("phase_failed", foreign=[{"command": "python3 train.py", "mib": 3000}]),
         says=("the candidate takes too much VRAM", r"train\.py"), before=faults.slow_card(SLOW_CARD_S)),
    Case("vram-grabbed-for-good", "VRAM grabbed by a stranger", "restore", RESTORE,
         gpu(foreign=[{"command": "python3 train.py", "mib": 900}]),
         says=(r"train\.py",), stuck="a stranger holds VRAM", extra_s=8, why="the drain's limit"),
    Case("nvml-errs", "NVML errors", "measure", MEASURE, gpu(nvml="error"), says=("VRAM can no longer be read",),
         play=LONG_MEASURE, stuck="the GPU's driver errs",
         extra_s=2, why="the fence waits so long for a reading"),
    Case("nvml-hangs", "NVML hangs", "measure", MEASURE, gpu(nvml="hang"), says=("VRAM can no longer be read",),
         play=LONG_MEASURE, stuck="the GPU's driver hangs",
         extra_s=3, why="the fence waits two seconds for a reading, and the end of the one under way"),
    Case("nvml-sleeps", "NVML hangs in the kernel", "measure", MEASURE, gpu(nvml="hang", nvml_code=1),
         says=("VRAM can no longer be read",), before=faults.driver_that_can_sleep, play=LONG_MEASURE,
         stuck="the GPU's driver sleeps in the kernel",
         extra_s=8, why="as where it hangs, and systemd waits four seconds for a process that it can't kill"),
    Case("nvml-sleeps", "NVML hangs in the kernel", "restore", RESTORE, gpu(nvml="hang", nvml_code=1),
         before=faults.driver_that_can_sleep, stuck="the GPU's driver sleeps in the kernel"),
    Case("nvml-hangs", "NVML hangs", "restore", RESTORE, gpu(nvml="hang"), stuck="the GPU's driver hangs"),
    # ---- the tenants ----
    Case("e2b-fails-once", "E2B fails to start once", "restore", RESTORE,
         faults.tenant_fault_once("panda-llamacpp-refuse-start", "panda-llamacpp"), ends="completed",
         says=("panda-llamacpp did not start, retrying",)),
    Case("e2b-never-starts", "E2B fails to start always", "restore", RESTORE,
         faults.tenant_fault("panda-llamacpp-refuse-start"), says=("panda-llamacpp FAILED",),
         stuck="the live model does not start"),
    Case("voice-fails-once", "Chatterbox fails to start once", "restore", RESTORE,
         faults.tenant_fault_once("chatterbox-refuse-start", "chatterbox"), ends="completed",
         says=("chatterbox did not start, retrying",)),
    Case("voice-never-starts", "Chatterbox fails to start always", "restore", RESTORE,
         faults.tenant_fault("chatterbox-refuse-start"), says=("chatterbox FAILED",), stuck="the voice does not start"),
    Case("voice-empty", "Chatterbox returns an empty WAV", "restore", RESTORE, faults.tenant_fault("chatterbox-empty"),
         says=("speaks", "0 bytes"), stuck="the voice is broken"),
    Case("voice-silent", "Chatterbox returns silence", "restore", RESTORE, faults.tenant_fault("chatterbox-silence"),
         says=("speaks", "silen"), stuck="the voice is broken"),
    Case("voice-html", "Chatterbox returns HTML", "restore", RESTORE, faults.tenant_fault("chatterbox-html"),
         says=("speaks", "WAV|RIFF"), stuck="the voice is broken"),
    Case("voice-500", "Chatterbox returns 500", "restore", RESTORE, faults.tenant_fault("chatterbox-500"),
         says=("speaks", "500"), stuck="the voice is broken"),
    Case("phone-dies", "phone daemon dies by itself", "window", A1, faults.phone_dies, says=("phone daemon",),
         killed=("phone",), stuck="an untouched tenant died", extra_s=10, why="the trial goes on; the checks find it"),
    Case("cron-revives", "tenant revived by cron", "measure", MEASURE, faults.cron_revives_chatterbox,
         says=("started again by another party", "chatterbox"), play=LONG_MEASURE),
    # ---- what runs beside the tenants, and what a stop would destroy ----
    Case("eyes-unlisted", "unit that needs a tenant", "preflight", at_once, faults.nothing, by="-",
         says=(r"drill-eyes\.service goes down with panda-llamacpp \(RequiredBy",
               "trial_stop_order: add drill-eyes before panda-llamacpp"), before=faults.eyes_that_need_the_model),
    Case("eyes-come-back", "unit that needs a tenant", "snapshot", task("Make the folder of the run"),
         faults.eyes_since_phase_0, ends="completed",
         says=(r"drill-eyes\.service started again", "the eyes are active")),
    Case("rm-container", "container that its stop removes", "preflight", at_once, faults.nothing, by="-",
         says=("drill-box could not be brought back: docker removes it when it stops",),
         before=faults.boxed_tenant("--rm"), play=BOXED),
    Case("box-pruned", "container pruned in the window", "window",
         event("tenant_stopped", tenant=faults.BOX), faults.box_pruned, before=faults.boxed_tenant(), play=BOXED,
         says=("drill-box FAILED", "kept with mode 600"), stuck="a stopped container was pruned"),
    Case("box-replaced", "container replaced in the window", "restore", RESTORE, faults.box_replaced,
         before=faults.boxed_tenant(), play=BOXED, says=("drill-box is another one than before",),
         stuck="a stopped container was replaced"),
    # ---- tenants of other kinds ----
    Case("oneshot-comes-back", "tenant without a process", "restore", RESTORE, faults.unit_is_back(faults.MODE),
         says=("drill-mode is active exited",), ends="completed", before=faults.oneshot_tenant,
         play=with_units(faults.MODE)),
    Case("timer-revives", "tenant revived by a timer", "window", event("tenant_stopped", tenant=faults.TIMED),
         faults.nothing, says=("started again by another party", "drill-timed runs again|drill-timed: it has ended"),
         before=faults.timed_tenant, play=with_units(faults.TIMED) | LONG_WINDOW),
    Case("stop-hook-restarts", "tenant revived by its own stop", "window", event("tenant_stopping", tenant=faults.HELD),
         faults.nothing, says=("drill-held: .*(canceled|started it again|still runs)|drill-held runs again",),
         before=faults.held_by_its_stop, play=with_units(faults.HELD) | LONG_WINDOW,
         extra_s=6, why="the stop is given up after its own limit"),
    Case("restarted-while-it-settles", "unit that systemd starts again", "restore", RESTORE,
         faults.killed_while_it_settles, says=("drill-held did NOT stay up",), ends="completed", by="host|playbook",
         before=faults.held_tenant, play=with_units(faults.HELD, trial_settle_s=10), later_s=30,
         extra_s=8, why="the next try comes a second later, and finds it up"),
    Case("dockerd-down", "container tenant without its engine", "restore", RESTORE,
         faults.dockerd_down_until_it_failed, ends="completed", by="host|playbook", before=faults.boxed_tenant(),
         says=("drill-box",), play=BOXED, extra_s=25,
         why="three seconds of patience, a failed attempt with its checks, and the engine's own stop and start"),
    Case("voice-boots-beside", "tenant that its boot unit starts", "measure", MEASURE, faults.power_cut_and_boot_unit,
         says=("host was restarted", "the restore started the voice 0 times"), by="boot|playbook", play=LONG_MEASURE,
         before=faults.boot_unit_that_waits, reboots=True,
         extra_s=BOOT_S + faults.BOOT_UNIT_WAITS_S, why="the boot, and the unit's own wait"),
    Case("voice-queued-at-boot", "tenant that its boot unit starts", "measure", MEASURE, faults.power_cut_and_boot_unit,
         says=("host was restarted", "the restore started the voice 0 times"), by="boot|playbook", play=LONG_MEASURE,
         before=faults.boot_unit_in_the_queue, reboots=True,
         extra_s=BOOT_S + faults.BOOT_UNIT_WAITS_S, why="the boot, and the unit's turn"),
    Case("api-before-db", "order against systemd's own", "preflight", at_once, faults.rehearsed_too, by="-",
         says=(r"drill-api\.service goes down with drill-db \(RequiredBy",
               "trial_stop_order: put drill-api before drill-db", "trial_restore_order: put drill-api after drill-db",
               "the rehearsal ended with 2"),
         before=faults.api_that_needs_db, play=with_units(faults.DB, faults.API)),
    # ---- disks, rights, clocks ----
    Case("disk-full", "disk full on the host", "window", A1, faults.host_disk_full,
         says=("No space left",), before=faults.disk_that_can_be_filled, play=LONG_WINDOW,
         acquire=True),
    Case("disk-full-at-harvest", "disk full on the controller", "verdict", VERIFY, faults.disk_full_at_harvest,
         says=("No space left",), before=faults.results_on_a_tiny_disk, mended=faults.controller_disk_freed),
    Case("sudo-revoked", "sudo revoked", "window", A1, faults.sudo_revoked_until("closed"),
         says=("sudo", "password"), play=ENDLESS_WINDOW, lease=True),
    Case("wall-clock-jumps", "clock jumps: +2 h and back", "window", A1, faults.wall_clock_jumps_and_back,
         before=faults.jumping_clock, ends="completed", play=LONG_WINDOW),
    Case("machine-slept", "clock jumps: slept an hour", "measure", MEASURE, faults.clock_jumps("boottime", 3600),
         says=(LAPSED,), before=faults.jumping_clock, play=LONG_MEASURE),
)  # fmt: skip
