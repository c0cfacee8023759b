# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a trial: what lives on the host, what stops, what is tried, and within which limits.

The plan is inventory data. A role sends it as JSON, and `planfile` turns it into the dataclasses of this module.
Every number has its unit in its name; 1 GB = 1024 MiB, as nvidia-smi shows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

MIB_PER_GB = 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
# Incremented when a field is added, removed or gets another meaning: an older program would not understand the plan.
PLAN_FORMAT = 1
# A2 ends within its limit; its client's own start and end may take this much more.
A2_GRACE_S = 5.0
# The time that a whole restore gives docker: listing the containers, reading their output, removing them.
DOCKER_S = 35.0
# One question to systemd or docker may take this long.
QUESTION_S = 10.0
# What the checks may take besides the tenants' answers: a card that does not answer, VRAM that settles, a port.
CHECKS_S = 15.0
# A stop that reaches its limit is ended by signal; this is the time for that, for docker's answer, and for seeing it.
STOP_GRACE_S = 15.0
# So often a restore asks a tenant's health page outside its start limit, each time for as long as an answer may take:
# who is missing, at the end of a start (twice), and at the end of the settle period.
LOOKS = 4
# A tenant that has had its time to load, and is found ill, gets so long to think better of it; and so does a manager
# that does not report its tenant's state.
PATIENCE_S = 3.0
# What an opening may take besides measuring the live model: prompt, containers, snapshot, marks, the runner's start.
OPEN_S = 120.0
# All starts together of the units that went down with tenants: sockets, timers and targets start at once. A service or
# a mount may take longer: as long as systemd lets it, and where systemd gives it no limit, as it does for one-shots,
# this much longer.
DEPENDENTS_S = 10.0
UNLIMITED_START_S = 90.0


@dataclass(frozen=True)
class Http:
    """A question over HTTP and the answer that counts as yes.

    ``json`` maps dotted paths to the values they must have: ``{"model_loaded": true}``.
    """

    url: str
    status: int = 200
    json: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 3.0


@dataclass(frozen=True)
class Quiet:
    """A condition under which the host may be disturbed (no call in progress, car parked)."""

    name: str
    http: Http


@dataclass(frozen=True)
class Speech:
    """The request that makes a tenant speak: ``POST url`` with ``body`` returns a WAV larger than ``min_bytes``."""

    url: str
    body: dict[str, Any] = field(default_factory=lambda: {"text": "test one two"})
    min_bytes: int = 5 * 1024
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Tenant:
    """One service that lives on the host.

    ``process`` is a sequence of argv words that identifies the tenant's process; ``watch_process`` asks for a
    check of its own that this process lives (and is the same one as before, where the trial did not stop it);
    ``vram_process`` is a word in the command line of the process that holds its VRAM; ``listener`` is a word in that
    of the program that listens on its ports, if another program does; ``impact`` is what people lose while it is down
    (blind, mute); ``needs`` names the tenants without which it can't work: it stops before them, and starts after them.
    ``stop_limit_s`` is how long a stop may continue after the program that asked for it has ended: for
    units, the host looks it up when a trial opens; 0 means ``stop_timeout_s``.
    """

    name: str
    kind: str
    title: str = ""
    impact: str = ""
    port: int = 0
    health: Http | None = None
    speech: Speech | None = None
    process: str = ""
    watch_process: bool = False
    vram_process: str = ""
    listener: str = ""
    unit: str = ""
    container: str = ""
    user: str = ""
    directory: str = ""
    start: str = ""
    stop: str = ""
    boot: str = ""
    needs: list[str] = field(default_factory=list)
    start_timeout_s: float = 120.0
    expected_start_s: float = 10.0
    stop_timeout_s: float = 20.0
    stop_limit_s: float = 0.0

    @property
    def stop_wait_s(self) -> float:
        """How long a restore waits for the end of a stop that was begun before it."""
        return max(self.stop_limit_s, self.stop_timeout_s)

    @property
    def end_bound_s(self) -> float:
        """Upper bound of ending it before it is started again: its stop, and signals where that fails."""
        return self.stop_wait_s + STOP_GRACE_S

    @property
    def looks_bound_s(self) -> float:
        """Upper bound of looking at it in a restore, outside its own limits; docker may be silent each time.

        The last look, after the checks, asks a silent manager again.
        """
        answers = LOOKS * self.health.timeout_s if self.health else 0.0
        last = {"systemd": PATIENCE_S, "container": PATIENCE_S + QUESTION_S}.get(self.kind, 0.0)
        return answers + last + (2 * QUESTION_S + PATIENCE_S if self.kind == "container" else 0.0)

    @property
    def checks_bound_s(self) -> float:
        """Upper bound of its checks: each is asked once, and docker is asked whose the answer was."""
        asked = [one.timeout_s for one in (self.health, self.speech) if one]
        if self.kind != "container":
            return sum(asked)
        # Two programs may tell whether a container can open the card. One that no check asks is looked at once.
        return sum(asked) + QUESTION_S * (len(asked) + (2 if self.vram_process else 0) or 1)


@dataclass(frozen=True)
class Gpu:
    """The card: which one, how big it must be, and its used memory while every tenant is up."""

    steady_gb: list[float]
    index: int = 0
    total_gb_min: float = 0.0


@dataclass(frozen=True)
class Bands:
    """VRAM footprint of a candidate, in GB above the drained level."""

    low_below_gb: float = 5.5
    healthy_to_gb: float = 7.5
    abort_above_gb: float = 8.0

    def name(self, footprint_mib: float) -> str:
        """The band a footprint falls in: ``low``, ``healthy``, ``warning`` or ``abort``."""
        gb = footprint_mib / MIB_PER_GB
        if gb < self.low_below_gb:
            return "low"
        if gb <= self.healthy_to_gb:
            return "healthy"
        return "warning" if gb <= self.abort_above_gb else "abort"


@dataclass(frozen=True)
class Limits:
    """Bounds of the window, in seconds unless the name says otherwise."""

    cap_s: float = 1500.0
    drain_min_s: float = 5.0
    drain_limit_s: float = 30.0
    drain_tolerance_mib: int = 300
    lease_s: float = 60.0
    a2_s: float = 15.0
    measure_s: float = 600.0
    request_timeout_s: float = 30.0


@dataclass(frozen=True)
class File:
    """A file of the candidate; ``role`` is ``model``, ``mmproj``, ``chat_template`` or ``other``."""

    name: str
    role: str
    sha256: str = ""


@dataclass(frozen=True)
class Candidate:
    """The model under trial and the container that serves it."""

    label: str
    container: str
    repo: str = ""
    revision: str = ""
    include: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    endpoint: str = ""
    port: int = 11437
    model_dir: str = ""
    server_args: list[str] = field(default_factory=list)
    gpu_access: str = "cdi"
    memory: str = "12g"
    pids: int = 512
    start_timeout_s: float = 180.0
    expected_start_s: float = 20.0

    def file(self, role: str) -> str:
        """Name of the file that plays ``role``, or an empty string."""
        return next((f.name for f in self.files if f.role == role), "")


@dataclass(frozen=True)
class Baseline:
    """The live model that the candidate is compared with: a tenant, and where it answers."""

    tenant: str
    url: str
    label: str


@dataclass(frozen=True)
class Prompt:
    """Where production builds its prompt, and the call that yields it."""

    file: str
    function: str
    call: str
    lines: list[int] = field(default_factory=list)
    sha256: str = ""


@dataclass(frozen=True)
class Parser:
    """Production's own function that reads a reply: a text in, what it means out, or None."""

    file: str
    function: str


@dataclass(frozen=True)
class Clause:
    """An exception clause that must still stand in production: what it catches, and what it then yields."""

    file: str
    lines: list[int]
    catches: list[str]
    yields: str
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What must hold on the host before anything is touched, whatever is tried there."""

    clauses: list[Clause] = field(default_factory=list)
    quiet: list[Quiet] = field(default_factory=list)
    operator_confirms_idle: bool = False
    disk_gb_min: float = 2.0
    ram_gb_min: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Contracts(Conditions):
    """What must hold on the host before a trial, beyond what tenants and candidate require."""

    prompt: Prompt
    camera: str
    parser: Parser | None = None


@dataclass(frozen=True)
class Workload:
    """What both models are asked, and how often.

    ``role`` is ``decides`` (its adherence makes the verdict, its latency is compared; one workload of a plan) or
    ``shown`` (a person judges the replies of both models side by side). ``text`` is the YAML of the user's
    own file; None: the packaged workload of that name.

    ``n`` counts the samples of the baseline, and of the candidate. The workload that decides has counts of its own
    besides: ``first_n`` samples before the gate, ``cached_n`` with the prompt cache, ``tenants_n`` of the live model
    while every tenant is up; they are 0 for the others.
    """

    name: str
    role: str
    text: str | None = None
    n: int = 0
    warmup: int = 0
    first_n: int = 0
    cached_n: int = 0
    tenants_n: int = 0
    expected_reply_s: float = 0.05


# Counts by role, where the inventory names none.
COUNTS = {
    "decides": {"n": 100, "warmup": 3, "first_n": 20, "cached_n": 20, "tenants_n": 20},
    "shown": {"n": 5},
}
# With scenes each of these samples asks about another picture, as many as a person compares in two minutes.
SHOWN_SCENES = 20
# The part of `measure_s` after which a session ends by itself: a little less than the runner waits, so that it leaves
# its numbers.
SESSION_SHARE = 0.9


@dataclass(frozen=True)
class Scenes:
    """Pictures of the host that the workloads ask about in turns, in place of the one camera picture.

    ``pattern`` is one of file names in ``folder``; ``labels`` a table in CSV, relative to it (see ``scenes``); ``seed``
    draws ``limit`` of them, and their order.
    """

    folder: str
    pattern: str = "*.jpg"
    labels: str = ""
    limit: int = 60
    seed: int = 1


@dataclass(frozen=True)
class Slo:
    """Levels of service that a candidate must keep; 0: not declared."""

    p95_ms: float = 0.0
    hz: float = 0.0


# How many samples it takes to show that such a level is kept: the exact 95 % interval of p95, and that of the median.
SLO_SAMPLES = {"p95_ms": 72, "hz": 6}


@dataclass(frozen=True)
class Hook:
    """A command that runs when a trial opens, closes or is decided, and when a restore fails: argv, no shell line."""

    command: list[str]
    user: str = "nobody"


@dataclass(frozen=True)
class Attested:
    """What the ground truth says about one file: ``passed``, ``failed``, ``open`` or ``missing``.

    The counts are of checks that prove something; ``made`` and ``runtime`` are the verdict's.
    """

    sha256: str
    status: str
    label: str | None = None
    passed: int = 0
    failed: int = 0
    open: int = 0
    made: str | None = None
    runtime: str | None = None
    says: str = ""


@dataclass(frozen=True)
class GroundTruth:
    """Whether the candidate's file is proved to be the model it was made from, looked up on the controller."""

    required: bool = False
    files: list[Attested] = field(default_factory=list)
    format: int = 1
    made: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What lives on a host: all that contracts and checks need where nothing is tried.

    ``gpu`` is None on a host without a card.
    """

    tenants: list[Tenant]
    gpu: Gpu | None = None
    contracts: Conditions = field(default_factory=Conditions)
    stop_order: list[str] = field(default_factory=list)
    restore_order: list[str] = field(default_factory=list)

    def tenant(self, name: str) -> Tenant:
        """The tenant called ``name``."""
        return next(t for t in self.tenants if t.name == name)


@dataclass(frozen=True, kw_only=True)
class Plan(Site):
    """Everything the host needs to run one trial and to come back from it."""

    run: str
    host: str
    image: str
    baseline: Baseline
    candidate: Candidate
    contracts: Contracts
    workloads: list[Workload]
    stop_order: list[str]
    restore_order: list[str]
    # What the bench image was built on, and what it must be built on: a name, and the digest that the pins give it.
    image_base: str = ""
    base_image: str = ""
    base_digest: str = ""
    adherence_rule: str = "share"
    # By how many points the candidate may be right less often than the baseline; None: no gate.
    accuracy_not_worse_by: float | None = None
    # The share of ties by which a blind review says that both models are the same; None: it says so by none.
    review_ties_percent: float | None = None
    slo: Slo | None = None
    bands: Bands = field(default_factory=Bands)
    limits: Limits = field(default_factory=Limits)
    attended: bool = True
    # From the last start until the host counts as restored; no tenant may end, restart or become unhealthy in it.
    settle_s: float = 10.0
    # How long the restore may take to start units that went down with a tenant and are not tenants: when a trial opens,
    # the host looks up whether there are any, and how long systemd lets their starts take.
    dependents_s: float = 0.0
    # Stop, drain, restore, check, without a candidate and without measuring.
    rehearsal: bool = False
    # Whether a trial is refused if it was never rehearsed on the host, or if something has changed since.
    require_rehearsal: bool = False
    hook: Hook | None = None
    scenes: Scenes | None = None
    ground_truth: GroundTruth | None = None
    # A plan without a number has the first format, from before there was a number.
    format: int = PLAN_FORMAT

    @property
    def decider(self) -> Workload:
        """The workload that decides."""
        return next(w for w in self.workloads if w.role == "decides")

    @property
    def shown(self) -> list[Workload]:
        """The workloads whose replies are shown side by side, in the plan's order."""
        return [w for w in self.workloads if w.role == "shown"]

    @property
    def replies_s(self) -> float:
        """How long the replies of a model usually take: of all workloads, once each, with their warm-ups."""
        return sum((one.warmup + one.n) * one.expected_reply_s for one in self.workloads)

    @property
    def candidate_replies_s(self) -> float:
        """The same of the candidate, which is asked the most: the smoke test and replies with the prompt cache, too."""
        return self.replies_s + (self.decider.cached_n + 2) * self.decider.expected_reply_s

    @property
    def restore_bound_s(self) -> float:
        """Upper bound of a restore: docker, stops, drain limit, starts, A2, settle period, health answers, checks.

        The runner stops one tenant after another, so only one stop can be under way when it ends: a unit's is waited
        for, and any other's is asked for again after that. Besides, each tenant that runs and is ill has to be ended
        before its start. A systemd that does not answer has no bound: without it nothing can be started, and the
        restore is repeated until it answers.
        """
        tenants = [self.tenant(name) for name in self.restore_order]
        stops = max((tenant.stop_wait_s for tenant in tenants if tenant.kind != "systemd"), default=0.0)
        stops += sum(tenant.end_bound_s for tenant in tenants)
        starts = sum(tenant.start_timeout_s + tenant.looks_bound_s for tenant in tenants) + self.dependents_s
        moves = stops + self.limits.drain_limit_s + starts + self.limits.a2_s + A2_GRACE_S
        return DOCKER_S + moves + self.settle_s + self.checks_bound_s

    @property
    def checks_bound_s(self) -> float:
        """Upper bound of the checks."""
        return CHECKS_S + sum(tenant.checks_bound_s for tenant in self.tenants)

    @property
    def open_bound_s(self) -> float:
        """Upper bound of an opening; one that takes longer takes back what it has done."""
        return OPEN_S + (0.0 if self.rehearsal else self.limits.measure_s)

    @property
    def run_max_s(self) -> float:
        """How long the runner may live, so that the host is *back* when the cap is reached."""
        return self.limits.cap_s - self.restore_bound_s

    @property
    def impacts(self) -> dict[str, list[str]]:
        """What people lose in this trial, each with the stopped tenants that cause it."""
        found: dict[str, list[str]] = {}
        for name in self.stop_order:
            impact = self.tenant(name).impact
            if impact:
                found.setdefault(impact, []).append(name)
        return found
