# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phases 2 to 5 on the host: prepare and open a trial, then run its window.

``prepare`` and ``open_trial`` touch no tenant. ``Runner`` acts in the window, as the unit ``mt-run``: it enters a
phase only when the controller has advanced to it, checks the fence (lease, abort, epoch, VRAM, revived tenants)
while it waits for anything, and ends when something is wrong. It never restores: systemd starts ``mt-restore``
when it has ended, however it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import (
    containers,
    contracts,
    definitions,
    gpu,
    hook,
    owners,
    probes,
    production,
    scenes,
    sessions,
    snapshot,
    standstill,
    tenants,
    upgrades,
)
from .journal import (
    PHASES,
    RESERVED_BYTES,
    Held,
    Journal,
    Mark,
    State,
    boot_id,
    read_json,
    reserve,
    wall,
    write_atomic,
)
from .plan import MIB_PER_GB, Candidate, Http, Plan, Scenes, Tenant
from .planfile import to_json
from .probes import ProcessId

POLL_S = 0.05
# Looking at units and processes costs more than a poll may; once a second is enough to catch a watchdog.
REVIVED_EVERY_S = 1.0
# VRAM counts as settled when it moves by less than this between readings: the model has loaded.
SETTLED_MIB, SETTLE_S, SETTLE_LIMIT_S = 64, 0.15, 5.0
SMOKE_LIMIT_S = 60.0
# A candidate runs at most this long without a reading of its VRAM.
BLIND_S = 1.5
# What a driver usually needs to answer; a preparation waits no longer for it.
SEE_S = 0.05
# A process may end this long after its connection broke.
DEATH_S = 1.0


class PhaseFailed(RuntimeError):
    """A phase can't continue: what was expected, what was found, what to do next."""

    def __init__(self, reason: str, expected: str = "", found: str = "", todo: str = "") -> None:
        super().__init__(reason)
        self.facts = {"reason": reason, "expected": expected, "found": found, "todo": todo}


class TookTooLong(PhaseFailed):
    """What was waited for did not come within its limit."""


def _folders(state: State, plan: Plan) -> Path:
    run_dir = state.run_dir(plan.run)
    (run_dir / "vram.jsonl").unlink(missing_ok=True)
    for name in ("inputs", "control", "samples", "logs"):
        # Signs and samples of an attempt that failed to open would be taken for this one's.
        shutil.rmtree(run_dir / name, ignore_errors=True)
        (run_dir / name).mkdir(mode=0o700, parents=True)
    for folder in (state.root, state.root / "runs", run_dir, run_dir / "logs"):
        folder.chmod(0o700)
    # A container sees only the folders mounted into it; its user may read inputs and signals, and write samples.
    for name in ("inputs", "control"):
        os.chown(run_dir / name, 0, containers.CONTAINER_UID)
        (run_dir / name).chmod(0o750)
    os.chown(run_dir / "samples", containers.CONTAINER_UID, containers.CONTAINER_UID)
    (run_dir / "samples").chmod(0o700)
    return run_dir


def _of_login(path: str) -> Path:
    """A path of the inventory; ``~`` is the login user's home, as in the contracts, not root's."""
    home = os.path.expanduser(f"~{os.environ.get('SUDO_USER', '')}")
    return Path(home, path[2:]) if path.startswith("~/") else Path(path)


def _write_inputs(plan: Plan, run_dir: Path) -> dict[str, str]:
    source, prompt_file = run_dir / "inputs" / "prompt_source.py", _of_login(plan.contracts.prompt.file)
    found = production.find_function(prompt_file, plan.contracts.prompt.function)
    write_atomic(source, production.extract(prompt_file, plan.contracts.prompt.function), 0o644)
    prompt = containers.extract_prompt(plan, source)
    write_atomic(run_dir / "inputs" / "prompt.txt", prompt, 0o644)
    parser = plan.contracts.parser
    if parser:
        text = production.extract(_of_login(parser.file), parser.function)
        write_atomic(run_dir / "inputs" / "parser_source.py", text, 0o644)
    shutil.copyfile(_of_login(plan.contracts.camera), run_dir / "inputs" / "camera.jpg")
    (run_dir / "inputs" / "camera.jpg").chmod(0o644)
    if plan.scenes:
        _write_scenes(plan, plan.scenes, run_dir / "inputs", source)
    for work in plan.workloads:
        if work.text is not None:
            write_atomic(run_dir / "inputs" / f"{work.name}.yml", work.text, 0o644)
    for name, session in sessions.build(plan).items():
        write_atomic(run_dir / "inputs" / f"session-{name}.json", json.dumps(session, indent=1), 0o644)
    return {"prompt": prompt, "function_sha256": found.sha256}


def _write_scenes(plan: Plan, wanted: Scenes, inputs: Path, source: Path) -> None:
    """Copy the pictures of the scenes, and write what is asked about each: production's prompt with its arguments."""
    found = scenes.find(wanted, _of_login(wanted.folder))
    scenes.check(found)
    own = [scenes.call(plan.contracts.prompt.call, scene.arguments) for scene in found]
    # Without arguments the prompt of the workload is that of every scene.
    different = list(dict.fromkeys(own)) if any(scene.arguments for scene in found) else []
    prompts = (
        dict(zip(different, containers.extract_prompts(plan, source, different), strict=True)) if different else {}
    )
    (inputs / "scenes").mkdir()
    (inputs / "scenes").chmod(0o755)
    asked: list[dict[str, Any]] = []
    # By what they hold: two names of one picture are one picture to what is only shown.
    images: dict[str, str] = {}
    for scene, one in zip(found, own, strict=True):
        copy = images.setdefault(scenes.sha256(scene), f"scenes/{scenes.copied(scene)}")
        shutil.copyfile(scene.image, inputs / copy)
        (inputs / copy).chmod(0o644)
        known = {"expected": scene.expected, "group": scene.group}
        entry: dict[str, Any] = {"id": scene.id, "image": copy, **{name: text for name, text in known.items() if text}}
        asked.append(entry | ({"variables": {"prompt": prompts[one]}} if prompts else {}))
    shown = [{"id": f"picture-{at}", "image": copy} for at, copy in enumerate(images.values(), 1)]
    for name, rows in ((sessions.SCENES, asked), (sessions.PICTURES, shown)):
        write_atomic(inputs / name, json.dumps(rows, indent=1), 0o644)


def prepare(plan: Plan, state: State, journal: Journal) -> None:
    """Phase 2, first half: folders, prompt, containers, and a short sample of the live model with all tenants up.

    A rehearsal measures nothing and needs the folders only.

    Raises:
        PhaseFailed: something that the window needs is not available; no tenant was touched.
    """
    run_dir = _folders(state, plan)
    write_atomic(run_dir / "plan.json", to_json(plan))
    journal.write("phase_started", phase="snapshot")
    began = time.monotonic()
    if not plan.rehearsal:
        _prepare_measuring(plan, run_dir, journal)
    journal.write("phase_done", phase="snapshot", duration_s=round(time.monotonic() - began, 3))


def _health(candidate: Candidate) -> Http:
    return Http(url=f"http://127.0.0.1:{candidate.port}/health", timeout_s=1.0)


@contextlib.contextmanager
def _watched(opening: gpu.Opening, run_dir: Path) -> Iterator[None]:
    """Sample the card meanwhile, if it could be opened; a preparation does not wait for it."""
    card = opening.card(SEE_S)
    if card is None:
        yield
        return
    with gpu.Sampler(card, run_dir / "vram.jsonl", phase="snapshot"):
        yield


def _no_stranger(watched: owners.Ports) -> None:
    change = watched.look(sure=True)
    if change:
        raise PhaseFailed(
            f"another party listens on the port of {change.owner}",
            f"port {change.port} belongs to {change.owner} alone",
            change.found,
            "find out who that is; nothing was touched",
        )


def _prepare_measuring(plan: Plan, run_dir: Path, journal: Journal) -> None:
    opening = gpu.Opening(plan.gpu.index if plan.gpu else None)
    watched = owners.Ports()
    watched.ask(tenants.watch(watched, plan.tenant(plan.baseline.tenant), plan.baseline.url))
    try:
        containers.remove()
        facts = _write_inputs(plan, run_dir)
        containers.create_server(plan)
        for session in sessions.SESSIONS:
            containers.create_client(plan, session, run_dir)
        journal.write("prompt", **facts)
        name = containers.client_name("tenants")
        _no_stranger(watched)
        with _watched(opening, run_dir):
            containers.docker("start", name)
            code = int(containers.docker("wait", name, timeout_s=plan.limits.measure_s).strip())
    except (containers.DockerError, production.ProductionError, scenes.ScenesError, OSError) as err:
        raise PhaseFailed(
            f"the trial could not be prepared: {err}", todo="nothing was touched; fix it and try again"
        ) from err
    journal.write("segment_done", session="tenants", exit_code=code)
    _no_stranger(watched)
    if code not in (0, 3):
        raise PhaseFailed(
            "the live model could not be sampled",
            expected=f"{plan.baseline.url} answers the workload {plan.decider.name}",
            found=f"client exit code {code}: {containers.tail(name)}",
            todo=f"look at the tenant {plan.baseline.tenant}; nothing was touched",
        )
    lines = sessions.replies(run_dir / "samples" / f"{plan.decider.name}-baseline-tenants.jsonl")
    if not sessions.good(lines):
        raise PhaseFailed(
            "the live model gave no good reply, so there would be nothing to compare with",
            f"at least one good reply of {plan.baseline.url} to the workload {plan.decider.name}",
            sessions.failed(lines),
            f"ask the tenant {plan.baseline.tenant} the same by hand; nothing was touched",
        )


def open_trial(plan: Plan, state: State, card: gpu.Card | None, controller: str) -> int:
    """Phase 2, second half: snapshot and epoch, durable, then the open mark. Returns the epoch.

    Raises:
        Held: another trial holds this host.
        PhaseFailed: a tenant is not healthy, so there would be no state to come back to.
    """
    mark = state.mark()
    if mark:
        raise Held(f"this host is held by run {mark.run} since {mark.since} (from {mark.controller})")
    try:
        found = snapshot.take(plan, card)
    except tenants.TenantError as err:
        raise PhaseFailed(
            "the state of a tenant is unknown", "every tenant healthy", str(err), "nothing was touched"
        ) from err
    ill = [f"{name}: {facts['found']}" for name, facts in found["tenants"].items() if not facts["healthy"]]
    if ill:
        raise PhaseFailed("a tenant is not healthy", "every tenant healthy", "; ".join(ill), "nothing was touched")
    try:
        reserve(state.journal_path(plan.run))
    except OSError as err:
        raise PhaseFailed(
            "no room for the journal", f"{RESERVED_BYTES} bytes", str(err), "nothing was touched"
        ) from err
    try:
        definitions.keep(plan, state, found["surroundings"]["dependents"])
    except (tenants.TenantError, OSError) as err:
        raise PhaseFailed(
            "the definitions of the tenants can't be copied", "copies of units and containers", str(err),
            "nothing was touched",
        ) from err  # fmt: skip
    epoch = state.raise_epoch()
    facts = {"run": plan.run, "epoch": epoch, "boot_id": boot_id(), "wall": wall(), **found}
    write_atomic(state.run_dir(plan.run) / "snapshot.json", json.dumps(facts, indent=1) + "\n")
    state.keep_environments(plan.run, snapshot.environments(plan, found))
    state.open(Mark(plan.run, epoch, boot_id(), wall(), controller))
    state.renew()
    journal = Journal(state.journal_path(plan.run), plan.run, epoch, "program", required=True)
    journal.write("opened", controller=controller, stop_order=plan.stop_order, restore_order=plan.restore_order)
    hook.call(plan, journal, hook.OPENED, f"by {controller}")
    return epoch


def _still(why: str) -> PhaseFailed:
    return PhaseFailed(
        "the candidate stands still",
        "a server that runs",
        why,
        "find out who did that (docker pause, kill -STOP), or look at the driver: journalctl -k",
    )


class Runner:
    """Runs window, candidate and measure of an opened trial.

    Args:
        plan: what lives on the host, and what is tried.
        state: where the marks are.
        epoch: the trial's.
        card: the GPU; None on a host without one, where a trial can only be rehearsed.
    """

    def __init__(self, plan: Plan, state: State, epoch: int, card: gpu.Card | None) -> None:
        self.state, self.epoch, self._card = state, epoch, card
        self.run_dir = state.run_dir(plan.run)
        self.journal = Journal(state.journal_path(plan.run), plan.run, epoch, "runner", required=True)
        self.snapshot = read_json(self.run_dir / "snapshot.json") or {}
        self.plan = snapshot.recall(plan, self.snapshot, state)
        self._sampler = gpu.Sampler(card, self.run_dir / "vram.jsonl", phase="snapshot") if card else None
        self.drained_mib = 0
        self.down: list[Tenant] = []
        self.server: ProcessId | None = None
        self.standstill: standstill.Standstill | None = None
        # From the moment on at which the candidate may hold memory.
        self.trying = False
        self.ports = owners.Ports()
        # The session whose samples are being taken.
        self.measuring = ""
        self._looked = 0.0
        self.upgrades: upgrades.Hold | None = None

    @property
    def card(self) -> gpu.Card:
        """The GPU.

        Raises:
            GpuError: the host has none.
        """
        if self._card is None:
            raise gpu.GpuError(gpu.NONE)
        return self._card

    @property
    def sampler(self) -> gpu.Sampler:
        """What reads the GPU all the time.

        Raises:
            GpuError: the host has none.
        """
        if self._sampler is None:
            raise gpu.GpuError(gpu.NONE)
        return self._sampler

    # The fence: checked while waiting for anything.

    def check(self) -> None:
        """Check the fence.

        Raises:
            PhaseFailed: lease lapsed, abort asked for, epoch stale, a stranger on a watched port, VRAM over the limit,
                candidate dead or at a standstill, or a stopped tenant runs again.
        """
        state, plan = self.state, self.plan
        if state.epoch() != self.epoch:
            raise PhaseFailed(
                "this run is stale", f"epoch {self.epoch}", f"epoch {state.epoch()}", "the host is restored"
            )
        if state.mark() is None:
            # Without it a restore would find nothing to do, and the tenants would stay down.
            state.open(Mark(plan.run, self.epoch, boot_id(), wall(), "its own runner"))
            raise PhaseFailed(
                "the open mark was removed by another party", f"{state.root / 'open'} until the host is back",
                "no such file; it is there again", "to end a run: sudo model-trial abort",
            )  # fmt: skip
        who = state.asked("abort")
        if who:
            raise PhaseFailed(f"aborted by {who}")
        if plan.attended and state.lease_age_s() > plan.limits.lease_s:
            raise PhaseFailed(
                "the lease lapsed",
                f"a poll of the controller every {plan.limits.lease_s:.0f} s",
                f"none for {state.lease_age_s():.0f} s",
                "the host restores itself; harvest.yml fetches what was measured",
            )
        # A stranger on its port may be why the candidate has ended.
        self.check_ports()
        if self.trying:
            self._check_vram()
        if self.server is not None:
            self._check_candidate(self.server)
        if time.monotonic() - self._looked > REVIVED_EVERY_S:
            self._looked = time.monotonic()
            self._check_revived()

    def _check_revived(self, newcomers: Sequence[gpu.Holder] = ()) -> None:
        back = tenants.revived(self.down, newcomers)
        if back:
            raise PhaseFailed(
                "a stopped tenant was started again by another party",
                "stopped tenants stay down while a candidate is tried",
                back,
                "find its watchdog (cron, Restart=, a supervisor) and pause it for the trial",
            )

    def check_ports(self, *, sure: bool = False) -> None:
        """Check that nobody else listens on a port of this window; ``sure``: however short ago that was seen.

        Raises:
            PhaseFailed: another party does, or may have done so since the last good look.
        """
        self._judge(self.ports.look(sure=sure))

    def _judge(self, change: owners.Change | None) -> None:
        if change is None:
            return
        self.journal.write("stranger", **change.facts())
        if change.asked:
            self._void(change.good_s, change.found)
        raise PhaseFailed(
            f"another party listens on the port of {change.owner}",
            f"port {change.port} belongs to {change.owner} alone",
            change.found,
            "find out who that is: a program that listens there gets prompt and picture, and can answer in its place",
        )

    def begin(self, session: str, ports: Collection[int]) -> None:
        """Look once more at who will be asked, right before a session gets its start signal."""
        self.ports.ask(ports)
        self.check_ports(sure=True)
        self.measuring = session

    def _void(self, since_s: float, why: str) -> None:
        """Journal that the samples taken since then do not count, where a session is being measured."""
        if self.measuring:
            # First of all: until its container is gone it would send on.
            self.sign(sessions.HALT)
            segments = [segment["id"] for segment in sessions.build(self.plan)[self.measuring]["segments"]]
            facts = {"session": self.measuring, "segments": segments, "since_s": round(since_s, 6)}
            self.journal.write("samples_void", **facts, reason=why)

    def _check_vram(self) -> None:
        plan, last = self.plan, self.sampler.last
        if last and time.monotonic() - last.t_s > BLIND_S:
            raise PhaseFailed(
                "VRAM can no longer be read",
                f"a reading every {self.sampler.interval_s} s",
                f"none for {time.monotonic() - last.t_s:.0f} s: {self.sampler.error}",
                "look at the driver: nvidia-smi, journalctl -k",
            )
        footprint = self.sampler.peak_mib - self.drained_mib
        if plan.bands.name(footprint) == "abort":
            # A revived tenant takes memory too, and then it is the one to report.
            newcomers = self._newcomers()
            self._check_revived(newcomers)
            beside = f", including other processes: {gpu.describe(newcomers)}" if newcomers else ""
            raise PhaseFailed(
                "the candidate takes too much VRAM",
                f"at most {plan.bands.abort_above_gb} GB above the drained level",
                f"{footprint / MIB_PER_GB:.2f} GB{beside}",
                "try a smaller quantization or a shorter context",
            )

    def _check_candidate(self, server: ProcessId) -> None:
        plan = self.plan
        if not probes.alive(server):
            facts: dict[str, Any] = {}
            with contextlib.suppress(containers.DockerError):
                facts = containers.state(plan.candidate.container, containers.WORDS_S)
            words = containers.tail(plan.candidate.container, health=_health(plan.candidate))
            why = (
                "ran out of memory" if facts.get("OOMKilled") else f"ended with code {facts.get('ExitCode', 'unknown')}"
            )
            raise PhaseFailed("the candidate died", "a running server", f"it {why}; last log lines: {words}")
        still = self.standstill.look() if self.standstill else ""
        if self.standstill and still:
            self._void(self.standstill.good_s, still)
            raise _still(still)

    def _newcomers(self) -> list[gpu.Holder]:
        """Processes other than the candidate that hold VRAM now and did not when the trial was opened.

        Without a snapshot there is nothing to compare with, and the list is empty.
        """
        last, before = self.sampler.last, self.snapshot.get("holders")
        if last is None or before is None:
            return []
        known, server = {holder["pid"] for holder in before}, self.server.pid if self.server else 0
        return [h for h in last.holders if h.pid not in known and server not in probes.ancestors(h.pid)]

    def pause(self) -> None:
        """One poll: check the fence, then sleep 50 ms."""
        self.check()
        time.sleep(POLL_S)

    def wait(self, ready: Callable[[], bool], limit_s: float, what: str) -> None:
        """Poll until ``ready``, under the fence, at most ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while not ready():
            if time.monotonic() > deadline:
                raise TookTooLong(f"{what} took too long", f"at most {limit_s:.0f} s", "still not there")
            self.pause()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Enter a phase once the controller has advanced to it; journal its start, end and failure."""
        began = time.monotonic()
        try:
            while PHASES.index(self.state.furthest()) < PHASES.index(name):
                self.pause()
            self.check()
            self.journal.write("phase_started", phase=name)
            if self._sampler:
                self._sampler.segment(name)
            began = time.monotonic()
            yield
        except PhaseFailed as err:
            self.journal.write("phase_failed", phase=name, **err.facts)
            raise
        except (tenants.TenantError, containers.DockerError, gpu.GpuError, OSError) as err:
            self.journal.write("phase_failed", phase=name, reason=str(err), expected="", found="", todo="")
            raise PhaseFailed(str(err)) from err
        self.journal.write("phase_done", phase=name, duration_s=round(time.monotonic() - began, 3))

    def run(self) -> None:
        """The window, from the first stop to the last sample; a rehearsal ends with the drain.

        Raises:
            PhaseFailed: what went wrong; it is journaled, too.
        """
        try:
            with self.phase("window"):
                self.window()
            if self.plan.rehearsal:
                return
            with self.phase("candidate"):
                self.candidate()
            with self.phase("measure"):
                self.measure()
        finally:
            if self._sampler:
                self._sampler.stop()

    # Clients: containers that wait for a start signal, so that their own start-up overlaps with something else.

    def ready(self, session: str) -> bool:
        """Whether a client has loaded everything and waits for its start signal."""
        return (self.run_dir / "samples" / f"ready-start-{session}").exists()

    def sign(self, name: str, **facts: Any) -> None:
        """Give a sign to the client: a small file in its control folder."""
        write_atomic(self.run_dir / "control" / name, json.dumps(facts), 0o644)

    def client(self, session: str) -> contextlib.closing[containers.Client]:
        """Watch a client from before its work begins: a docker that hangs later would not report its end."""
        return contextlib.closing(containers.Client(self.plan, session, self.run_dir))

    def wait_client(self, session: str, client: containers.Client) -> int:
        """Wait under the fence until a client has ended; returns its exit code."""
        self.wait(lambda: client.exit_code() is not None, self.plan.limits.measure_s, f"the session {session}")
        # The last sample counts only if its port was still in the right hands.
        self.check_ports(sure=True)
        self.measuring = ""
        self.ports.ask(())
        code = client.exit_code()
        self.journal.write("segment_done", session=session, exit_code=code)
        return 4 if code is None else code

    # The phases.

    def stop(self, tenant: Tenant) -> None:
        """Stop one tenant, journaled; it counts as down from the first entry on."""
        self.check()
        self.journal.write("tenant_stopping", tenant=tenant.name, impact=tenant.impact)
        try:
            duration = tenants.stop(tenant, self.run_dir / "logs" / f"{tenant.name}.log")
        except tenants.NotBegun as err:
            # Otherwise the stop continues, and the restore completes it.
            self.journal.write("tenant_not_stopped", tenant=tenant.name, reason=str(err), begun=False)
            raise
        self.down.append(tenant)
        self.journal.write("tenant_stopped", tenant=tenant.name, duration_s=round(duration, 3))

    def window(self) -> None:
        """Phase 3: check that the host is still quiet, stop the tenants in order, A1 before its own stop, drain."""
        plan = self.plan
        asked = owners.Ports()
        for tenant in plan.tenants:
            if tenants.ports(tenant) & tenants.ports_of([condition.http.url for condition in plan.contracts.quiet]):
                tenants.watch(asked, tenant)
        self._judge(asked.look(sure=True))
        try:
            # Until the end of this process: an upgrade begun in the window may replace the driver, docker or a tenant.
            self.upgrades = upgrades.Hold()
        except upgrades.Busy as err:
            raise PhaseFailed(
                "the host is not quiet",
                "no package manager at work",
                str(err),
                "nothing was stopped; try when it has ended",
            ) from err
        loud = [c for c in contracts.quiet(plan) if not c.ok]
        self._judge(asked.look(sure=True))
        if loud:
            raise PhaseFailed(
                "the host is not quiet", loud[0].expected, loud[0].found, "nothing was stopped; try when it is idle"
            )
        # While all tenants are up: only what listens on a tenant's ports now may do so after its stop.
        for name in plan.stop_order:
            tenants.watch(self.ports, plan.tenant(name))
        self.check_ports(sure=True)
        measured = plan.rehearsal
        if not measured:
            # The client loads before the first stop, so that its start costs no down time.
            containers.start_in_background(containers.client_name("a1"))
            self.wait(lambda: self.ready("a1"), 30, "the start of the client")
        for name in plan.stop_order:
            if name == plan.baseline.tenant and not measured:
                self.baseline()
                measured = True
            self.stop(plan.tenant(name))
        if not measured:
            self.baseline()
        if self._card:
            self.drain()

    def drain(self) -> None:
        """Wait until the memory of the stopped tenants is free."""
        plan = self.plan
        pids = [pid for name in plan.stop_order for pid in self.snapshot["tenants"][name]["vram_pids"]]
        target = snapshot.drain_target(plan, self.snapshot)
        self.journal.write("drain_started", target_mib=target)
        drained = gpu.drain(
            self.card,
            target_mib=target,
            tolerance_mib=plan.limits.drain_tolerance_mib,
            # Lingering memory is constant, too: without a target only waiting helps.
            min_s=0.0 if target is not None else plan.limits.drain_min_s,
            limit_s=plan.limits.drain_limit_s,
            pids=pids,
            on_sample=lambda _vram: self.check(),
        )
        if not drained.ok:
            self.journal.write("drain_timeout", holders=gpu.describe(drained.holders))
            raise PhaseFailed(
                "VRAM did not drain",
                f"at most {drained.target_mib} MiB used within {plan.limits.drain_limit_s:.0f} s",
                f"{drained.used_mib} MiB, held by {gpu.describe(drained.holders)}",
                "look at the named processes; they were not touched",
            )
        self.drained_mib = drained.used_mib
        self.journal.write("drained", used_mib=drained.used_mib, duration_s=round(drained.duration_s, 3))

    def baseline(self) -> None:
        """A1: the live model, measured as the candidate will be."""
        plan = self.plan
        ports = tenants.watch(self.ports, plan.tenant(plan.baseline.tenant), plan.baseline.url)
        with self.client("a1") as client:
            self.begin("a1", ports)
            self.sign("start-a1")
            code = self.wait_client("a1", client)
        if code not in (0, 3):
            raise PhaseFailed(
                "the baseline could not be measured",
                "a session that runs to its end",
                f"client exit code {code}: {containers.tail(containers.client_name('a1'))}",
            )
        lines = sessions.replies(self.run_dir / "samples" / f"{plan.decider.name}-baseline-a1.jsonl")
        if not sessions.good(lines):
            # Everything after it would cost people their service, and decide nothing.
            raise PhaseFailed(
                "the live model gave no good reply, so there is nothing to compare with",
                f"at least one good reply to the workload {plan.decider.name}",
                sessions.failed(lines),
                f"look at the log of the tenant {plan.baseline.tenant}: it answered before the window",
            )

    def settle(self) -> int:
        """Wait until VRAM has stopped rising; returns the peak of the segment in MiB."""
        deadline = time.monotonic() + SETTLE_LIMIT_S
        since, level = time.monotonic(), self.card.read(BLIND_S).used_mib
        while time.monotonic() - since < SETTLE_S and time.monotonic() < deadline:
            self.pause()
            used = self.card.read(BLIND_S).used_mib
            if abs(used - level) > SETTLED_MIB:
                since, level = time.monotonic(), used
        return self.sampler.peak_mib

    def candidate(self) -> None:
        """Phase 4: start the candidate, health, VRAM gate, smoke test."""
        plan = self.plan
        candidate = plan.candidate
        self.check_free(candidate.port)
        began = time.monotonic()
        self.journal.write("candidate_starting", container=candidate.container)
        self.trying = True
        starting = containers.Starting(candidate.container)
        # A docker that is slow to start it, or hangs, keeps nobody from ending the run.
        while not starting.done:
            self.pause()
        self.server = starting.process()
        if self.server is None:
            # It ends at once where it can't bind its port.
            self.check_free(candidate.port)
            words = containers.tail(candidate.container)
            raise PhaseFailed("the candidate ended at once", "a running server", f"last log lines: {words}")
        self.journal.write("candidate_started", pid=self.server.pid, start_ticks=self.server.start_ticks)
        loading = standstill.Standstill(self.server)
        self.ports.watch({candidate.port}, "the candidate", self._is_candidate)
        self.check_ports(sure=True)
        containers.start_in_background(containers.client_name("candidate"))
        health = _health(candidate)
        # Only its own answer counts: the listener was checked a moment before, and is checked again a moment later.
        try:
            self.wait(
                lambda: self.ports.held(candidate.port) and probes.ask(health).ok,
                candidate.start_timeout_s,
                "the candidate's start",
            )
        except TookTooLong:
            # While it loads, only the limit of its start says that it stands still for too long.
            loading.look()
            if probes.alive(self.server) and loading.why:
                raise _still(loading.why) from None
            raise
        peak = self.settle()
        self.standstill = standstill.Standstill(self.server)
        self.journal.write("candidate_healthy", duration_s=round(time.monotonic() - began, 3))
        self.gate("start", peak)
        self.wait(lambda: self.ready("candidate"), 30, "the start of the client")
        self.begin("candidate", {candidate.port})
        self.sign("start-candidate")
        samples = self.run_dir / "samples"
        smoke = samples / "smoke-candidate.jsonl"
        at_hold, summary = samples / "at-measure", samples / "summary-smoke-candidate.json"
        self.wait(lambda: at_hold.exists() or summary.exists(), SMOKE_LIMIT_S, "the smoke test")
        reply = (sessions.replies(smoke) or [{}])[-1]
        ok = at_hold.exists()
        self.journal.write("smoke", ok=ok, strategy=reply.get("strategy"), content=str(reply.get("content"))[:200])
        if not ok:
            # A server that died during its first request is not a bad reply: wait a moment for its end to show.
            deadline = time.monotonic() + DEATH_S
            while reply.get("error_class") in ("connect", "dropped") and time.monotonic() < deadline:
                self.pause()
            raise PhaseFailed(
                "the smoke test failed",
                "a reply without thinking, parsed by strategy 1 or 2",
                f"strategy {reply.get('strategy')}, {reply.get('error_class') or 'no error'}, "
                f"flags {reply.get('flags')}, content {str(reply.get('content'))[:200]!r}",
                "look at the model, its chat template and the contract of the workload",
            )

    def check_free(self, port: int) -> None:
        """Check that the candidate's port is free.

        Raises:
            PhaseFailed: it is not; names the listeners.
        """
        beside = owners.Ports()
        beside.watch({port}, "the candidate", lambda _item: False)
        change = beside.look(sure=True)
        if change:
            self.journal.write("stranger", **change.facts())
            raise PhaseFailed(
                f"port {port} was taken meanwhile",
                "nothing listens there",
                change.found,
                "find out who uses the candidate's port",
            )

    def _is_candidate(self, item: probes.Listener) -> bool:
        return self.server is not None and self.server.pid in probes.ancestors(item.pid)

    def gate(self, name: str, peak_mib: int) -> str:
        """Journal the VRAM footprint at a gate; returns its band. The fence handles a footprint over the limit."""
        # A gate needs a fresh reading, never one from before the driver stopped answering.
        footprint = max(peak_mib, self.card.read(BLIND_S).used_mib) - self.drained_mib
        band = self.plan.bands.name(footprint)
        self.journal.write(
            "gate", name=name, ok=band == "healthy", band=band, footprint_gb=round(footprint / MIB_PER_GB, 3)
        )
        self.check()
        return band

    def measure(self) -> None:
        """Phase 5: first samples, VRAM gate, extension, then with the prompt cache, then what is shown."""
        at_hold, limit_s = self.run_dir / "samples" / "at-extend", self.plan.limits.measure_s
        with self.client("candidate") as client:
            self.sign("measure", extend=True)
            # A client that ends before the hold point never reaches it.
            self.wait(lambda: at_hold.exists() or client.exit_code() is not None, limit_s, "the first samples")
            if at_hold.exists():
                band = self.gate("extend", self.sampler.peak_mib)
                thinking = (sessions.summary(at_hold) or {}).get("thinking", 0)
                # The extension refines the statistics; it is not a quality gate, so latency never decides it.
                extend = band == "healthy" and not thinking
                reason = "VRAM healthy, no thinking seen" if extend else f"VRAM {band}, {thinking} thinking replies"
                self.journal.write("extension", extend=extend, reason=reason)
                self.sign("extend", extend=extend, reason=reason)
            code = self.wait_client("candidate", client)
        self.gate("end", self.sampler.peak_mib)
        if code not in (0, 3):
            raise PhaseFailed(
                "measuring stopped early",
                "a candidate that answers to the end",
                f"client exit code {code}: {containers.tail(containers.client_name('candidate'))}",
                "what was measured is kept",
            )
