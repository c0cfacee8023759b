# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``model-trial`` on a tried host: verbs for the controller, for people, and for its units.

The controller opens a trial, lets it advance, polls; people ask for status, restore or abort; the units ``mt-run``,
``mt-restore``, ``mt-recover`` and ``mt-watch`` run the verbs ``run``, ``restore-now``, ``recover`` and ``watch``.
Answers to the controller are one JSON object on one line. Exit codes: 0 done, 1 failed (the message says why and what
to do), 2 wrong usage, 3 the host is held by another trial, or the caller's epoch is stale.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import (
    checks,
    containers,
    contracts,
    gpu,
    hook,
    install,
    kept,
    plan,
    planfile,
    rehearsal,
    restorer,
    run,
    runner,
    services,
    sessions,
    tenants,
    watch,
)
from .journal import PHASES, Held, Journal, Mark, State, awake_s, read, read_json, seconds, stamp
from .probes import dig, printable

POLL_S = 0.05
# Verbs about an open run: the program that the run keeps answers them.
KEPT_VERBS = ("status", "restore", "abort", "advance", "poll", "run", "restore-now", "recover", "watch")
# How long `model-trial restore` waits; the restore itself goes on.
RESTORE_WAIT_S = 3600.0
# An incomplete restore is retried after 1, 2, 4 ... seconds, and finally every minute.
RETRY_MAX_S = 60.0
# How long a boot waits for docker; its start has no limit of its own, and may hang.
DOCKER_UP_S, DOCKER_POLL_S = 120.0, 0.5
# How often a host without room for a process is asked again.
ROOM_PAUSE_S = 1.0
# More doublings than this reach the maximum anyway; after a night of attempts they would overflow a float.
RETRY_DOUBLINGS = 6


def _say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def _complain(text: object) -> None:
    sys.stderr.write(f"{printable(str(text))}\n")


def _systemctl(*args: str, limit_s: float = services.SYSTEMD_S) -> int:
    """Exit status of systemctl, whose errors are passed on; 124 where it did not end in time."""
    try:
        done = run.command(["systemctl", *args], limit_s)
    except TimeoutError as err:
        _complain(err)
        return 124
    if done.err:
        _complain(done.err.rstrip())
    return done.rc


def _load(state: State, run: str) -> plan.Plan:
    return planfile.load(state.run_dir(run) / "plan.json")


def _cap_s(state: State, run: str) -> float:
    """The cap of a run, even of a finished run whose plan has a format that this program does not know."""
    try:
        return _load(state, run).limits.cap_s
    except planfile.PlanError:
        found = dig(read_json(state.run_dir(run) / "plan.json"), "limits.cap_s")
        if isinstance(found, (int, float)):
            return float(found)
        raise


def unit_states() -> dict[str, str]:
    """ActiveState of the runner's and the restorer's unit."""
    reply = run.command(
        ["systemctl", "show", "--property", "ActiveState", "--value", *services.UNITS], services.SYSTEMD_S
    )
    return dict(zip(services.UNITS, reply.out.split(), strict=False))


def samples(run_dir: Path) -> list[dict[str, Any]]:
    """Progress by sample file, the newest last: replies, good replies, their median latency in ms."""
    found = []
    for path in sorted((run_dir / "samples").glob("*.jsonl"), key=lambda p: p.lstat().st_mtime):
        rows = sessions.replies(path)
        good = [row["latency_ms"] for row in rows if row.get("ok") and isinstance(row.get("latency_ms"), (int, float))]
        p50 = round(statistics.median(good), 2) if good else None
        found.append({"name": path.stem, "n": len(rows), "ok": len(good), "p50_ms": p50})
    return found


def _card(trial: plan.Plan) -> gpu.Card | None:
    return gpu.Card(trial.gpu.index) if trial.gpu else None


def open_trial(
    state: State, run: str, controller: str, undisturbed: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Prepare and open a trial, arm the cap, start the runner, which then waits until it is advanced.

    Args:
        state: where the marks are.
        run: its name; its plan is there already.
        controller: who opens it.
        undisturbed: called when the trial is open, or before what was done is taken back: from then on nothing
            interrupts this.

    Raises:
        Held: the host is not free.
        runner.PhaseFailed: the trial could not be prepared; its containers are removed, no tenant was touched.
    """
    trial = _load(state, run)
    with state.lock(f"run {run} (from {controller})"):
        mark = state.mark()
        if mark:
            raise Held(f"this host is held by run {mark.run} since {mark.since} (from {mark.controller})")
        if any(e["event"] == "opened" for e in read(state.journal_path(run))):
            raise Held(
                f"run {run} was opened before: its samples and signals would be taken for new ones; name another run"
            )
        journal = Journal(state.journal_path(run), run, state.epoch(), "program", required=True)
        try:
            trial, unbounded = contracts.bounded(trial, contracts.Host())
            if unbounded:
                raise runner.PhaseFailed(
                    "a restore would have no bound", "stops that end in time", "; ".join(unbounded), "see contract 6"
                )
            lost = services.unfit()
            if lost:
                raise runner.PhaseFailed(
                    "nobody would bring this host back", "the units that phase 1 installed", "; ".join(lost),
                    "unmask them, or play phase 1 again (--tags acquire); nothing was touched",
                )  # fmt: skip
            runner.prepare(trial, state, journal)
            # Before the mark, so that every mark is watched.
            if _systemctl("start", watch.TIMER) != 0:
                raise OSError(f"{watch.TIMER} does not start; install the program again (phase 1)")
            copy = _keep(state, run)
            epoch = runner.open_trial(trial, state, _card(trial), controller)
        except BaseException as err:
            undisturbed()
            facts = err.facts if isinstance(err, runner.PhaseFailed) else {"reason": str(err) or "interrupted"}
            state.close()
            stop_watching()
            with contextlib.suppress(containers.DockerError):
                containers.remove(run=run)
            with contextlib.suppress(OSError):
                journal.write("phase_failed", phase="snapshot", **{"expected": "", "found": "", "todo": "", **facts})
            raise
    try:
        start_runner(trial, state, epoch, copy)
    except (OSError, KeyboardInterrupt) as err:
        undisturbed()
        restore(state, "host", wait=True)
        if isinstance(err, KeyboardInterrupt):
            raise
        raise runner.PhaseFailed(
            "the runner did not start", "mt-run.service active", str(err), "no tenant was touched"
        ) from err
    undisturbed()
    return {"run": run, "epoch": epoch}


def stop_watching() -> None:
    """End ``mt-watch``, without waiting: no trial holds the host."""
    _systemctl("stop", "--no-block", watch.TIMER)


@contextlib.contextmanager
def _deaf_to_hangups() -> Iterator[None]:
    # Ansible's commands run on a terminal that vanishes with the connection.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class _Late(KeyboardInterrupt):
    """The opening has used up its time. Like a person's interrupt, it passes whatever handles errors on its way."""


@contextlib.contextmanager
def _whole_opening(limit_s: float) -> Iterator[Callable[[], None]]:
    # An interrupted opening would leave containers, or a mark without a runner; a complete one ends when its
    # lease lapses. One that is asked to end, or takes too long, takes back what it has done, once and undisturbed.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}

    def undisturbed() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    def end(number: int, _frame: object) -> None:
        undisturbed()
        if number == signal.SIGALRM:
            raise _Late(f"the opening did not end within {limit_s:.0f} s")
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, end)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        with _deaf_to_hangups():
            yield undisturbed
    except _Late as err:
        raise runner.PhaseFailed(
            str(err),
            f"prompt, containers, samples of the live model and snapshot within {limit_s:.0f} s",
            "what was under way, see: journalctl -t model-trial, docker ps --all",
            "no tenant was touched; find out what is slow (docker, systemd, the disk), or raise limits.measure_s",
        ) from err
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def tidy(state: State) -> int:
    """Remove what a killed opening has left on a host that no trial holds; returns the number of containers."""
    # Held: a trial is being prepared right now, and the containers belong to it. Without docker there are none.
    with contextlib.suppress(Held, OSError, containers.DockerError), state.lock("removing an opening's containers"):
        if state.mark() is None:
            return containers.remove()
    return 0


def _keep(state: State, run: str) -> Path:
    try:
        return kept.keep(state, run)
    except OSError as err:
        raise runner.PhaseFailed(
            "no copy of the program could be kept for the restore", "a file beside the plan", str(err),
            "nothing was touched",
        ) from err  # fmt: skip


def start_runner(trial: plan.Plan, state: State, epoch: int, copy: Path) -> None:
    """Start ``mt-run`` with its cap, from the run's copy of the program; it waits until it is advanced.

    Raises:
        OSError: it does not run.
    """
    if not trial.attended:
        state.advance(PHASES[-1])
    # If an earlier run failed, its unit still exists and blocks the name.
    _systemctl("reset-failed", *services.UNITS)
    services.start_runner(state, epoch, copy, trial.run_max_s)


def look(state: State, run: str, since: int) -> dict[str, Any]:
    """What a controller shows: new events, progress, budget. This only reads files: it runs during a measurement."""
    run_dir = state.run_dir(run)
    entries = read(state.journal_path(run))
    mark = state.mark()
    stopped = [e for e in entries if e["event"] == "tenant_stopping"]
    cap_s = _cap_s(state, run)
    elapsed = seconds(stopped[0], stamp()) if stopped else 0.0
    phases = [e["phase"] for e in entries if e["event"] == "phase_started"]
    return {
        "run": run,
        "open": bool(mark and mark.run == run),
        "phase": "restore" if any(e["event"] == "restore_started" for e in entries) else (phases or [""])[-1],
        "events": [e for e in entries if e["seq"] > since],
        "samples": samples(run_dir),
        "window_s": round(elapsed, 1),
        "remaining_s": round(cap_s - elapsed, 1),
    }


def poll(state: State, run: str, epoch: int, since: int, wait_s: float) -> dict[str, Any]:
    """Renew the lease and look; answers when something new happens, or after ``wait_s``.

    The lease is renewed when the call comes in, not while it waits: a controller that died meanwhile must not keep it
    alive. A stale caller renews nothing, but may look: it learns who restored the host.
    """
    deadline = time.monotonic() + wait_s
    # A lease that cannot be written lapses; the caller may still look.
    with contextlib.suppress(Held, OSError):
        state.guard(run, epoch)
        state.renew()
    journal, size = state.journal_path(run), -1
    while True:
        now = journal.stat().st_size if journal.exists() else 0
        if now != size:
            size = now
            found = look(state, run, since)
            if found["events"]:
                return found
        if time.monotonic() >= deadline:
            return look(state, run, since)
        time.sleep(POLL_S)


def _attempts(entries: list[dict[str, Any]]) -> tuple[int, str]:
    """How many restores in a row were incomplete, and who asked for one that was interrupted."""
    ends = [e for e in entries if e["event"] in ("restore_started", "restore_failed", "restored")]
    failed = 0
    for entry in reversed(ends):
        if entry["event"] == "restored":
            break
        failed += entry["event"] == "restore_failed"
    # It was killed, perhaps between its last entry and the removal of the mark.
    cut_off = bool(ends) and ends[-1]["event"] != "restore_failed"
    return failed, ends[-1]["restored_by"] if cut_off else ""


def _is_back(entries: list[dict[str, Any]]) -> bool:
    ends = [e["event"] for e in entries if e["event"] in ("restore_started", "restore_failed", "restored")]
    return ends[-1:] == ["restored"]


def pause_s(failed: int) -> float:
    """How long to wait after this many incomplete restores in a row."""
    return min(RETRY_MAX_S, 2.0 ** min(failed - 1, RETRY_DOUBLINGS)) if failed else 0.0


def _reason(err: Exception) -> str:
    known = isinstance(err, (restorer.RestoreFailed, planfile.PlanError, OSError))
    return str(err) if known else f"{type(err).__name__}: {err}"


def _with_room(trial: plan.Plan, state: State, journal: Journal, by: str) -> list[checks.CheckResult]:
    """Restore; an attempt for which the host had no processes does not count as failed, and is repeated once it has.

    Raises:
        Exception: as `Restorer.restore`, from an attempt that had all its processes.
    """
    while True:
        refused = run.refused()
        try:
            return restorer.Restorer(trial, state, gpu.Opening(trial.gpu.index if trial.gpu else None), by).restore()
        except Exception as err:
            if not run.no_room(err) and run.refused() == refused:
                raise
            reason = f"this host can't start another process; the restore continues as soon as it can: {_reason(err)}"
        journal.write("restore_waits", restored_by=by, reason=reason)
        _complain(f"restore of {trial.run}: {reason}")
        time.sleep(ROOM_PAUSE_S)
        while not run.room():
            time.sleep(ROOM_PAUSE_S)


def restore_now(state: State) -> int:
    """The body of ``mt-restore``: restore the open run, if there is one.

    systemd starts it again until it succeeds. The pause between two attempts is here, so that a request from a playbook
    or a person ends it.
    """
    mark = state.mark()
    if mark is None:
        left = tidy(state)
        removed = f"; {left} containers that an opening has left were removed" if left else ""
        _say(f"nothing to restore: no trial holds this host{removed}")
        return 0
    name = mark.run
    failed, cut_off_by = _attempts(read(state.journal_path(name)))
    # systemd counts, too, in case the journal cannot be written; an interrupted restore continues at once.
    with contextlib.suppress(Exception):
        failed = max(failed, int(tenants.unit_facts(services.RESTORER)["NRestarts"]))
    deadline = time.monotonic() + (0.0 if cut_off_by else pause_s(failed))
    while time.monotonic() < deadline and not state.asked("asked"):
        time.sleep(POLL_S)
    by = state.asked("asked") or cut_off_by or "host"
    journal = Journal(state.journal_path(name), name, state.epoch(), "restorer", required=False)
    trial: plan.Plan | None = None
    try:
        trial = _load(state, name)
        results = _with_room(trial, state, journal, by)
    except Exception as err:
        # Any failure is reported, counted and retried, even a bug in this program.
        failed += 1
        reason = _reason(err)
        if trial and state.mark() is None and not _is_back(read(state.journal_path(name))):
            # Without it nobody would restore what is missing.
            with contextlib.suppress(OSError):
                state.open(mark)
            reason += "; the open mark had been removed meanwhile, and was put back"
        if trial is None:
            reason += f"; put the plan back, or start the tenants by hand and then remove {state.root / 'open'}"
        journal.write("restore_failed", restored_by=by, reason=reason, next_try_s=pause_s(failed))
        _complain(f"restore of {name} is not complete: {reason}")
        # Notify at the first failure and then less and less often: a message every minute is soon ignored.
        if trial and failed & (failed - 1) == 0:
            hook.call(trial, journal, hook.RESTORE_FAILED, reason)
        return 1
    stop_watching()
    # The failed runner has been handled; systemd must not report the host as degraded because of it.
    _systemctl("reset-failed", services.RUNNER)
    for check in results:
        _say(f"check {check.id} ok: {check.title}: {check.found}")
    if trial.rehearsal:
        _remember(state, trial, journal)
    _say(f"run {name} restored and closed by {by}")
    return 0


def _remember(state: State, trial: plan.Plan, journal: Journal) -> None:
    """Leave the record of a passed rehearsal; without one, the next trial is warned."""
    why = rehearsal.passed(read(state.journal_path(trial.run)))
    if not why:
        try:
            rehearsal.keep(trial, state, tenants.HERE, rehearsal.of_program(kept.own()))
        except Exception as err:
            # The host is back, so an error here is no failed restore.
            why = str(err)
    journal.write("rehearsed", ok=not why, reason=why)
    if why:
        _say(f"this rehearsal is not recorded as passed: {why}")


def run_window(state: State) -> int:
    """The body of ``mt-run``: the window of the open trial."""
    mark = state.mark()
    if mark is None:
        _complain("no trial is open")
        return 1
    trial = _load(state, mark.run)
    if any(e["by"] == "runner" for e in read(state.journal_path(mark.run))):
        # A person started the unit again. Tenants are down and there are samples already: a second window would
        # measure a host without tenants, into the first window's files. The end of this process restores the host.
        _complain(f"run {mark.run} has already run, and a run runs once; when the host is restored, open another run")
        return 1
    try:
        runner.Runner(trial, state, mark.epoch, _card(trial)).run()
    except runner.PhaseFailed as err:
        _complain(f"trial {mark.run}: {err}; {err.facts}")
        return 1
    return 0


def restore(state: State, by: str, *, wait: bool) -> int:
    """Ask for a restore by starting ``mt-restore``; systemd merges callers."""
    mark = state.mark()
    if mark is not None:
        # On a full disk the request cannot be written; the restore itself needs no space.
        with contextlib.suppress(OSError):
            _note_what_was_seen(state, mark, by)
            state.ask("asked", by)
    if wait:
        return 1 if _systemctl("start", services.RESTORER, limit_s=RESTORE_WAIT_S) else 0
    return 1 if _systemctl("start", "--no-block", services.RESTORER) else 0


def recover(state: State) -> int:
    """The body of ``mt-recover``: after a reboot, watch the open trial and ask for a restore, when docker is up."""
    deadline = time.monotonic() + DOCKER_UP_S
    # Behind a docker that hangs, the tenants come back without it, and the restore goes on until it answers.
    while time.monotonic() < deadline and _docker_comes_up():
        time.sleep(DOCKER_POLL_S)
    _systemctl("start", "--no-block", watch.TIMER)
    return restore(state, "boot", wait=False)


def _docker_comes_up() -> bool:
    try:
        facts = tenants.unit_facts("docker.service")
    except OSError:
        return False
    return facts["ActiveState"] == "activating" or facts.get("Job", "").strip() not in ("", "0")


def _note_what_was_seen(state: State, mark: Mark, by: str) -> None:
    # Who asks after a failed restore has seen to what was broken. A play asks at the end of its own trial, before the
    # host has tried at all.
    if by in restorer.UNATTENDED:
        return
    if any(e["event"] == "restore_failed" for e in read(state.journal_path(mark.run))):
        state.take("early")
    else:
        state.ask("early", by)


def watch_over(state: State) -> int:
    """The body of ``mt-watch``: restore when a trial holds the host and neither runner nor restorer works on it."""
    mark = state.mark()
    if mark is None:
        # While a trial is being opened, the mark is about to appear.
        with contextlib.suppress(Held), state.lock("mt-watch"):
            if state.mark() is None:
                stop_watching()
        return 0
    why = watch.lasting_trouble()
    if not why or state.mark() is None:
        return 0
    _say(f"run {mark.run} holds this host and nobody is at work on it: {why}")
    if not state.asked("asked"):
        with contextlib.suppress(OSError):
            state.ask("asked", "watch")
    # This also ends units that stand still, and the runner (Conflicts=), whatever their processes wait for.
    code = _systemctl("restart", "--no-block", services.RESTORER)
    journal = Journal(state.journal_path(mark.run), mark.run, state.epoch(), "program", required=False)
    journal.write("nobody_at_work", reason=why)
    return 1 if code else 0


def decided(state: State, name: str, words: str) -> int:
    """Tell the hook of a finished run what was decided about it; without a hook, nothing."""
    trial = _load(state, name)
    journal = Journal(state.journal_path(name), name, state.epoch(), "program", required=False)
    hook.call(trial, journal, hook.DECIDED, words)
    return 0


def abort(state: State, run: str, by: str) -> int:
    """Make the run end at its next check of the fence; without a runner, restore the host at once."""
    heard = False
    with contextlib.suppress(OSError):
        state.ask("abort", by)
        heard = unit_states().get(services.RUNNER) == "active" and not watch.trouble()
    if heard:
        _say(f"run {run} will end and the host will restore itself; see: model-trial status")
        return 0
    _say(f"run {run} has no runner left; the host restores itself now, see: model-trial status")
    return restore(state, by, wait=False)


def hold(state: State, by: str, words: list[str]) -> int:
    """Run a command while no trial is being prepared and none holds the host; returns its exit status."""
    argv = words[1:] if words[:1] == ["--"] else words
    if not argv:
        _complain("hold: expected a command, found none")
        return 2
    done = install.hold(state, by, argv)
    if done.err.strip():
        _complain(done.err.rstrip())
    if done.out.strip():
        _say(done.out.rstrip())
    return done.rc


def status(state: State) -> dict[str, Any]:
    """Who holds the host and in which phase, or how the last run ended.

    Returns:
        ``open`` (None, or ``{run, since, controller, phase, window_s, remaining_s, lease_age_s, lease_s}``; times in
        seconds, ``lease_s`` None without a lease), ``epoch``, ``last_run``, ``last_event``, ``attempt_seq`` (journal
        entries after it belong to the restore under way, or to the next), ``restored_by``, ``restored_at``, ``down``
        (tenants that are down, by the journal, with the wall clock of their stop; or how long each was, in seconds),
        ``failure`` (what ended the run), ``restore_failure``, ``next_try_s``, ``gone`` (what else ran before, and did
        not run at the end of the last restore), ``units``, ``nobody_at_work`` (why neither runner nor restorer works on
        an open trial; empty while one does, or when none is open), ``watched``.
    """
    mark = state.mark()
    # The run that holds the host is the last run.
    name = mark.run if mark and mark.run else state.last_run()
    last = read(state.journal_path(name)) if name else []
    restored = [e for e in last if e["event"] == "restored"]
    # Where the current restore (or the next one) begins; earlier failures no longer matter.
    attempts = [e for e in last if e["event"] in ("restore_started", "restore_failed", "restored")]
    under_way = bool(attempts) and attempts[-1]["event"] == "restore_started"
    attempt_seq = attempts[-1]["seq"] - 1 if under_way else last[-1]["seq"] if last else 0
    failures = [e for e in last if e["event"] == "phase_failed"]
    ends = [e for e in attempts if e["event"] != "restore_started"]
    began = max((e["seq"] for e in attempts if e["event"] == "restore_started"), default=0)
    lost = [e["gone"] for e in last if e["event"] == "gone" and e["seq"] > began]
    missing = ends[-1] if ends and ends[-1]["event"] == "restore_failed" else None
    down: dict[str, Any] = {}
    for entry in last:
        if entry["event"] == "tenant_stopping":
            down.setdefault(entry["tenant"], entry["wall"])
        elif entry["event"] == "tenant_healthy":
            down.pop(entry["tenant"], None)
    return {
        "open": None if mark is None else _held(state, mark),
        "epoch": state.epoch(),
        "last_run": last[-1]["run"] if last else None,
        "last_event": last[-1]["event"] if last else None,
        "attempt_seq": attempt_seq,
        "restored_by": restored[-1]["restored_by"] if restored else None,
        "restored_at": restored[-1]["wall"] if restored else None,
        "down": restored[-1]["down"] if restored and mark is None else down,
        "failure": failures[-1] if failures else None,
        "restore_failure": missing["reason"] if missing else None,
        "next_try_s": missing.get("next_try_s") if missing else None,
        "gone": lost[-1] if lost else [],
        "units": unit_states(),
        "nobody_at_work": watch.trouble() if mark else "",
        "watched": watch.looks() if mark else False,
    }


def _held(state: State, mark: Mark) -> dict[str, Any]:
    facts: dict[str, Any] = {"run": mark.run, "since": mark.since, "controller": mark.controller}
    # An unreadable plan or mark must not hide the rest.
    with contextlib.suppress(planfile.PlanError, OSError):
        found, trial = look(state, mark.run, 0), _load(state, mark.run)
        facts |= {name: found[name] for name in ("phase", "window_s", "remaining_s")}
        facts["lease_s"] = trial.limits.lease_s if trial.attended else None
        age_s = state.lease_age_s()
        facts["lease_age_s"] = round(max(0.0, age_s), 1) if -1 < age_s < awake_s() else None
    return facts


def _screen(facts: dict[str, Any]) -> str:
    """The status for people: the state, its reason, and what they can do."""
    held, rows = facts["open"], []
    failure, missing = facts["failure"], facts["restore_failure"]
    if held:
        rows.append(("held by", f"run {held['run']} since {held['since']} (from {held['controller']})"))
        if "phase" in held:
            since = f", {held['window_s']:.0f} s since the first stop" if held["window_s"] else ""
            left = held["remaining_s"]
            back = f"back in at most {left:.0f} s" if left > 0 else f"was due back {-left:.0f} s ago"
            rows.append(("phase", f"{held['phase']}{since}, {back}"))
            if held["lease_s"] is None:
                rows.append(("lease", "none: the run finishes unattended"))
            elif held["lease_age_s"] is not None:
                age = f"renewed {held['lease_age_s']:.0f} s ago, lapses after {held['lease_s']:.0f} s"
                rows.append(("lease", age))
        rows += [("down", f"{name} since {since}") for name, since in facts["down"].items()]
    else:
        rows.append(("held by", "nobody"))
        rows.append(("last run", facts["last_run"] or "none"))
        if facts["restored_by"]:
            rows.append(("restored", f"by {facts['restored_by']} at {facts['restored_at']}"))
            rows += [("was down", f"{name} {took:.1f} s") for name, took in facts["down"].items()]
    if failure:
        rows.append(("why", f"phase {failure['phase']} failed: {failure['reason']}"))
        rows += [(name, failure[name]) for name in ("expected", "found", "todo") if failure.get(name)]
    if missing:
        again = facts["next_try_s"]
        rows.append(("NOT BACK", missing))
        rows.append(("next try", f"by itself, {again:.0f} s after that" if again else "by itself"))
    rows += [("gone", text) for text in facts["gone"]]
    rows.append(
        ("units", ", ".join(f"{name.removesuffix('.service')} {state}" for name, state in facts["units"].items()))
    )
    if facts["nobody_at_work"]:
        rows.append(("STALLED", f"nobody is at work on it: {facts['nobody_at_work']}"))
        soon = "mt-watch restores within a minute" if facts["watched"] else "mt-watch is not running; restore by hand"
        rows.append(("", soon))
    if held:
        rows.append(("you can", "sudo model-trial abort     end the run; the host restores itself"))
        rows.append(("", "sudo model-trial restore   bring the host back now"))
    margin = "\n" + " " * 10
    return "\n".join(f"{name:10}{str(text).replace(chr(10), margin)}" for name, text in rows)


def number_of_seconds(text: str) -> float:
    """A time span; argparse uses this function's name in its error message.

    Raises:
        ValueError: it is not a number of seconds. A wait until "nan" would never end.
    """
    if not 0 <= float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def _close(folder: Path) -> None:
    """Make a folder and everything in it writable by root only."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def unpack(program: Path, folder: Path) -> None:
    """Put the modules of a zipapp into a folder, compiled for this Python; remove other versions beside it.

    The folder appears complete or not at all: a program that finds it takes every module from it.

    Raises:
        OSError: they cannot be written.
        ValueError: the file is not a zipapp.
    """
    # Imported here: only this verb needs them, and every start would pay for them.
    import compileall
    import zipfile

    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        # Independent of root's umask: anyone who can write here acts as root.
        fresh.mkdir(mode=0o700, exist_ok=True)
        with zipfile.ZipFile(program) as packed:
            packed.extractall(fresh)
        # With their final path, for tracebacks.
        compileall.compile_dir(fresh, ddir=str(folder), quiet=2)
        _close(fresh)
        # A power cut must not leave the final folder with empty files: the host could not be restored.
        os.sync()
        try:
            fresh.rename(folder)
        except OSError:
            # Another process was faster, or the folder already existed.
            if not folder.exists():
                raise
    except zipfile.BadZipFile as err:
        raise ValueError(f"{program}: expected a zipapp; {err}") from err
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for other in folder.parent.iterdir():
        # A name with a leading dot belongs to a process that is still unpacking.
        if other != folder and not other.name.startswith("."):
            shutil.rmtree(other, ignore_errors=True)


_OPTIONS = {
    "--by": "who asks, noted in the journal",
    "--controller": "who opens the trial, shown by status",
    "--epoch": "the epoch that open returned",
    "--phase": f"one of {', '.join(PHASES)}",
    "--run": "name of the run",
    "--since": "only events after this number",
    "--wait": "seconds to wait for an event",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="model-trial", description="Runs a trial on this host, and gives the host back."
    )
    parser.add_argument("--root", type=Path, default=None, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, *options: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=text, description=text)
        kinds: dict[str, Callable[[str], object]] = {"--epoch": int, "--since": int, "--wait": number_of_seconds}
        for option in options:
            found.add_argument(
                option,
                type=kinds.get(option, str),
                required=option in ("--run", "--epoch", "--phase"),
                default=None,
                help=_OPTIONS[option],
            )
        return found

    verb("status", "show who holds this host, and how the last run ended").add_argument(
        "--json", action="store_true", help="for programs: one line of JSON"
    )
    asked = verb("restore", "bring the host back now", "--by")
    asked.add_argument("--no-wait", action="store_true", help="return at once; status shows the result")
    verb("abort", "end the running trial; the host restores itself", "--by")
    verb("open", "prepare and open a trial (controller)", "--run", "--controller")
    verb("advance", "let a trial enter a phase (controller)", "--run", "--epoch", "--phase")
    verb("poll", "renew the lease and report new events (controller)", "--run", "--epoch", "--since", "--wait")
    verb("run", "run the window of the open trial (mt-run)")
    verb("restore-now", "restore the open trial (mt-restore)")
    verb("recover", "after a reboot: ask for a restore (mt-recover)")
    verb("watch", "restore where nobody is at work on the open trial (mt-watch)")
    said = verb("decided", "tell the hook of a run what was decided about it (controller)", "--run")
    said.add_argument("words", help="the verdict and its facts, in one line")
    verb("install", "install program and units, unless a trial holds this host (controller)", "--by")
    held = verb("hold", "run a command while no trial is being prepared and none holds this host (controller)", "--by")
    held.add_argument("command", nargs=argparse.REMAINDER)
    verb("unpack", "compile the program for this host's Python (controller)").add_argument("folder", type=Path)
    return parser


def _act(args: argparse.Namespace, state: State) -> int:
    verb = args.verb
    if verb == "status":
        facts = status(state)
        _say(json.dumps(facts) if args.json else _screen(facts))
    elif verb == "restore":
        code = restore(state, args.by or "hand", wait=not args.no_wait)
        if not args.no_wait:
            # systemctl only reports whether the unit failed.
            _say(_screen(status(state)))
        return code
    elif verb == "abort":
        mark = state.mark()
        if mark is None:
            _say("no trial is open on this host")
            return 0
        return abort(state, mark.run, args.by or "hand")
    elif verb == "open":
        controller = args.controller or os.environ.get("SUDO_USER", "unknown")
        with _whole_opening(_load(state, args.run).open_bound_s) as undisturbed:
            opened = open_trial(state, args.run, controller, undisturbed)
        _say(json.dumps(opened))
    elif verb == "advance":
        if args.phase not in PHASES:
            _complain(f"--phase: expected one of {', '.join(PHASES)}, found {args.phase!r}")
            return 2
        state.guard(args.run, args.epoch)
        state.renew()
        state.advance(args.phase)
        _say(json.dumps({"furthest": state.furthest()}))
    elif verb == "poll":
        _say(json.dumps(poll(state, args.run, args.epoch, args.since or 0, args.wait or 0.0)))
    elif verb == "run":
        watch.begin()
        return run_window(state)
    elif verb == "restore-now":
        watch.begin()
        return restore_now(state)
    elif verb == "recover":
        return recover(state)
    elif verb == "watch":
        return watch_over(state)
    elif verb == "decided":
        return decided(state, args.run, args.words)
    elif verb == "install":
        with _deaf_to_hangups():
            _say(json.dumps({"changed": install.install(state, args.by or "somebody")}))
    elif verb == "hold":
        return hold(state, args.by or "somebody", args.command)
    elif verb == "unpack":
        unpack(Path(sys.argv[0]), args.folder)
    return 0


def _say_not_kept(state: State, verb: str, why: str) -> None:
    """Report, once each in the host's journal and the run's, that an open run can't be restored by its own copy."""
    mark = state.mark()
    if not why or mark is None or verb not in ("run", "restore-now", "recover"):
        return
    _complain(f"{verb}: the program that run {mark.run} keeps can't be used, the installed one is used: {why}")
    path = state.journal_path(mark.run)
    if verb == "restore-now" and not any(e["event"] == "copy_not_used" for e in read(path)):
        Journal(path, mark.run, state.epoch(), "restorer", required=False).write("copy_not_used", reason=why)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code."""
    args = _parser().parse_args(argv)
    state = State(args.root) if args.root else State()
    try:
        # An unreadable folder would look like a free host's.
        with contextlib.suppress(FileNotFoundError):
            os.scandir(state.root).close()
        if args.verb in KEPT_VERBS:
            _say_not_kept(state, args.verb, kept.go_on(state, sys.argv[1:] if argv is None else argv))
        return _act(args, state)
    except PermissionError as err:
        _complain(f"{args.verb}: {err}; only root may do this: sudo model-trial {args.verb}")
        return 1
    except KeyboardInterrupt:
        _complain(f"{args.verb}: interrupted; the host completes what it has begun, see: model-trial status")
        return 130
    except Held as err:
        _complain(err)
        return 3
    except runner.PhaseFailed as err:
        facts = {k: v for k, v in err.facts.items() if v}
        _complain("; ".join(f"{k}: {v}" for k, v in facts.items()))
        return 1
    except (ValueError, OSError, gpu.GpuError, containers.DockerError) as err:
        _complain(f"{args.verb}: {err}")
        return 1
