# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a trial: what lives on the host, what stops, what is tried, and within which limits.

The plan is inventory data. A role sends it as JSON, this module turns it into frozen dataclasses and refuses
anything it does not know, naming the place (``tenants[2].health.url``), what was expected and what was found.
Every number has its unit in its name; 1 GB = 1024 MiB, as nvidia-smi shows it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB_PER_GB = 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
KINDS = ("systemd", "script", "container", "process")
ADHERENCE_RULES = ("share", "proved")
WORKLOADS = ("nav", "describe")
GPU_ACCESS = ("cdi", "gpus", "none")
ATTESTED = ("passed", "failed", "open", "missing")
# A2 ends by itself within its limit; this is what its client's own start and end may take beyond.
A2_GRACE_S = 5.0
# Polls come every third of a lease; below this even a loaded controller's would come too late.
LEASE_MIN_S = 5.0
MAX_PORT = 65535
# Figures that must be more than nothing: in no time nothing starts, stops or answers, and a session without samples is
# none. Who finds that out in the window has stopped the tenants for it. No other figure may be negative.
MORE_THAN_NOTHING = (
    "cap_s",
    "describe_n",
    "drain_limit_s",
    "measure_s",
    "nav_cached",
    "nav_extended",
    "nav_first",
    "pids",
    "request_timeout_s",
    "start_timeout_s",
    "stop_timeout_s",
    "tenants_n",
    "timeout_s",
)
# Decisions of the trial, not of an inventory: the server listens on loopback because its endpoint has no
# authentication, and renders its chat template so that the thinking switch is honoured.
RESERVED_SERVER_ARGS = ("--host", "--port", "--jinja", "--no-jinja", "-m", "--model", "--mmproj", "-mm")


class PlanError(ValueError):
    """The plan is not usable; the message says where, what was expected, what was found."""


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
    """How to make a tenant speak: ``POST url`` with ``body`` answers with a WAV larger than ``min_bytes``."""

    url: str
    body: dict[str, Any] = field(default_factory=lambda: {"text": "test one two"})
    min_bytes: int = 5 * 1024
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Tenant:
    """One service that lives on the host.

    ``process`` is a sequence of argv words that identifies the tenant's process; ``watch_process`` asks for a
    check of its own that this process lives (and is the same one as before, where the trial did not stop it);
    ``vram_process`` is a word in the command line of the process that holds its VRAM; ``impact`` what people
    lose while it is down (blind, mute).
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
    unit: str = ""
    container: str = ""
    user: str = ""
    directory: str = ""
    start: str = ""
    stop: str = ""
    boot: str = ""
    start_timeout_s: float = 120.0
    expected_start_s: float = 10.0
    stop_timeout_s: float = 20.0


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
    """The live model that the candidate is held against: a tenant, and where it answers."""

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


@dataclass(frozen=True)
class Contracts:
    """What must hold on the host before anything is touched, beyond what tenants and candidate imply."""

    prompt: Prompt
    camera: str
    parser: Parser | None = None
    clauses: list[Clause] = field(default_factory=list)
    quiet: list[Quiet] = field(default_factory=list)
    operator_confirms_idle: bool = False
    disk_gb_min: float = 2.0
    ram_gb_min: float = 2.0


@dataclass(frozen=True)
class Workloads:
    """Sample counts; ``nav_first`` is the gate's base, ``nav_extended`` the statistical refinement."""

    tenants_n: int = 20
    nav_first: int = 20
    nav_extended: int = 100
    nav_cached: int = 20
    describe_n: int = 5
    warmup: int = 3
    request_timeout_s: float = 30.0
    expected_reply_s: float = 0.05


@dataclass(frozen=True)
class Hook:
    """A command that is told when a trial opens or closes and when a restore failed: argv, never a shell's line."""

    command: list[str]
    user: str = "nobody"


@dataclass(frozen=True)
class Attested:
    """What the ground truth says of one file: ``passed``, ``failed``, ``open`` or ``missing``.

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


@dataclass(frozen=True)
class Plan:
    """Everything the host needs to run one trial and to come back from it."""

    run: str
    host: str
    image: str
    gpu: Gpu
    tenants: list[Tenant]
    baseline: Baseline
    candidate: Candidate
    contracts: Contracts
    stop_order: list[str]
    restore_order: list[str]
    # What the bench image was built on, and what it must be built on: a name, and the digest that the pins give it.
    image_base: str = ""
    base_image: str = ""
    base_digest: str = ""
    # Workloads of the user's own, as text by name (nav, describe); without one the packaged workload is taken.
    workload_texts: dict[str, str] = field(default_factory=dict)
    adherence_rule: str = "share"
    bands: Bands = field(default_factory=Bands)
    limits: Limits = field(default_factory=Limits)
    workloads: Workloads = field(default_factory=Workloads)
    attended: bool = True
    # Stop, drain, restore, check, without a candidate and without measuring.
    rehearsal: bool = False
    hook: Hook | None = None
    ground_truth: GroundTruth | None = None

    def tenant(self, name: str) -> Tenant:
        """The tenant called ``name``."""
        return next(t for t in self.tenants if t.name == name)

    @property
    def restore_bound_s(self) -> float:
        """Upper bound of a restore: the drain's limit, the start limits of what was stopped, A2."""
        starts = sum(self.tenant(name).start_timeout_s for name in self.restore_order)
        return self.limits.drain_limit_s + starts + self.limits.a2_s + A2_GRACE_S

    @property
    def run_max_s(self) -> float:
        """How long the runner may live, so that the host is *back* when the cap is reached."""
        return self.limits.cap_s - self.restore_bound_s

    @property
    def impacts(self) -> dict[str, list[str]]:
        """What people lose in this trial, with the stopped tenants that take it away."""
        found: dict[str, list[str]] = {}
        for name in self.stop_order:
            impact = self.tenant(name).impact
            if impact:
                found.setdefault(impact, []).append(name)
        return found


def _fail(where: str, expected: str, found: object) -> typing.NoReturn:
    raise PlanError(f"{where or 'plan'}: expected {expected}, found {found!r}")


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if origin is list:
        if not isinstance(value, list):
            _fail(where, "a list", value)
        return [_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            _fail(where, "a mapping", value)
        return dict(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            _fail(where, "a finite number", value)
        return float(value)
    if kind is int and isinstance(value, bool):
        _fail(where, "a whole number", value)
    if kind is not float and isinstance(value, kind):
        return value
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    _fail(where, names.get(kind, str(kind)), value)


def _build(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        _fail(where, f"a mapping with the fields of {cls.__name__}", data)
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        _fail(f"{where}.{unknown[0]}".lstrip("."), f"one of {', '.join(sorted(hints))}", unknown[0])
    values = {}
    for item in dataclasses.fields(cls):
        path = f"{where}.{item.name}".lstrip(".")
        if item.name in data:
            values[item.name] = _convert(hints[item.name], data[item.name], path)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            _fail(path, "a value (it has no default)", None)
    return cls(**values)


def _check_tenant(tenant: Tenant, where: str, moved: bool) -> None:
    if not NAME.match(tenant.name):
        _fail(f"{where}.name", "letters, digits, dot, dash, underscore", tenant.name)
    if tenant.kind not in KINDS:
        _fail(f"{where}.kind", f"one of {', '.join(KINDS)}", tenant.kind)
    needs = {"systemd": ["unit"], "container": ["container"], "process": ["process"]}.get(tenant.kind, [])
    if tenant.kind == "script" or (tenant.kind == "process" and moved):
        needs = [*needs, "start", "user"]
    if tenant.kind == "script":
        needs = [*needs, "stop", "directory"]
        if not tenant.port and not tenant.process:
            _fail(f"{where}.port", "a port or a process, because nothing else tells whether a script's tenant runs", 0)
    for name in needs:
        if not getattr(tenant, name):
            _fail(f"{where}.{name}", f"a value, because kind is {tenant.kind}", getattr(tenant, name))
    if tenant.watch_process and not tenant.process:
        _fail(f"{where}.process", "the argv words to look for, because watch_process is set", tenant.process)
    if moved and not (tenant.health or tenant.process or tenant.unit):
        _fail(f"{where}.health", "a way to see that the tenant is back (health or process)", None)


def _check_figures(item: Any, where: str) -> None:
    if dataclasses.is_dataclass(item):
        for part in dataclasses.fields(item):
            _check_figures(getattr(item, part.name), f"{where}.{part.name}".lstrip("."))
    elif isinstance(item, list):
        for i, part in enumerate(item):
            _check_figures(part, f"{where}[{i}]")
    elif isinstance(item, (int, float)):
        name = where.rsplit(".", 1)[-1]
        if item < 0 or (item == 0 and name in MORE_THAN_NOTHING):
            _fail(where, "more than 0" if name in MORE_THAN_NOTHING else "0 or more", item)
        if name == "port" and item > MAX_PORT:
            _fail(where, f"at most {MAX_PORT}", item)


def _check(plan: Plan) -> None:
    if not NAME.match(plan.run):
        # Its usual name has the time, the host and the candidate's label in it: all of them right, it may be too long.
        _fail("run", "letters, digits, dot, dash, underscore, 100 at most (it names a folder)", plan.run)
    if not NAME.match(plan.host):
        _fail("host", "letters, digits, dot, dash, underscore (it may name a folder)", plan.host)
    names = [t.name for t in plan.tenants]
    if len(set(names)) != len(names):
        _fail("tenants", "every name once", names)
    for i, tenant in enumerate(plan.tenants):
        _check_tenant(tenant, f"tenants[{i}]", tenant.name in plan.stop_order)
    for where in ("stop_order", "restore_order"):
        for name in getattr(plan, where):
            if name not in names:
                _fail(where, f"names of tenants ({', '.join(names)})", name)
    if len(set(plan.stop_order)) != len(plan.stop_order):
        _fail("stop_order", "every tenant once", plan.stop_order)
    if sorted(plan.stop_order) != sorted(plan.restore_order):
        _fail("restore_order", f"the tenants of stop_order ({', '.join(plan.stop_order)})", plan.restore_order)
    if plan.baseline.tenant not in names:
        _fail("baseline.tenant", f"one of {', '.join(names)}", plan.baseline.tenant)
    if plan.adherence_rule not in ADHERENCE_RULES:
        _fail("adherence_rule", f"one of {', '.join(ADHERENCE_RULES)}", plan.adherence_rule)
    for name in plan.workload_texts:
        if name not in WORKLOADS:
            _fail("workload_texts", f"texts for {', '.join(WORKLOADS)}", name)
    candidate = plan.candidate
    for name in (candidate.label, candidate.container):
        if not NAME.match(name):
            _fail("candidate", "label and container of letters, digits, dot, dash, underscore", name)
    for arg in candidate.server_args:
        if arg.split("=", 1)[0] in RESERVED_SERVER_ARGS:
            _fail("candidate.server_args", f"no {arg}: the trial sets it itself", candidate.server_args)
    if candidate.gpu_access not in GPU_ACCESS:
        _fail("candidate.gpu_access", f"one of {', '.join(GPU_ACCESS)}", candidate.gpu_access)
    for item in candidate.files:
        if "/" in item.name or not NAME.match(item.name):
            _fail("candidate.files", "plain file names", item.name)
    for i, attested in enumerate(plan.ground_truth.files if plan.ground_truth else []):
        if attested.status not in ATTESTED:
            _fail(f"ground_truth.files[{i}].status", f"one of {', '.join(ATTESTED)}", attested.status)
    for i, clause in enumerate(plan.contracts.clauses):
        if len(clause.lines) != 2 or clause.lines[0] > clause.lines[1]:
            _fail(f"contracts.clauses[{i}].lines", "[first, last]", clause.lines)
    if plan.contracts.prompt.lines and len(plan.contracts.prompt.lines) != 2:
        _fail("contracts.prompt.lines", "[first, last], or nothing", plan.contracts.prompt.lines)
    if len(plan.gpu.steady_gb) != 2 or plan.gpu.steady_gb[0] >= plan.gpu.steady_gb[1]:
        _fail("gpu.steady_gb", "[low, high] in GB", plan.gpu.steady_gb)
    bands = plan.bands
    if not 0 < bands.low_below_gb < bands.healthy_to_gb <= bands.abort_above_gb:
        _fail("bands", "low_below_gb < healthy_to_gb <= abort_above_gb", dataclasses.asdict(bands))
    if plan.hook:
        words = [plan.hook.user, *plan.hook.command]
        if not plan.hook.command or not all(word and word.isprintable() for word in words):
            _fail("hook", "a command of one or more words, and the user who runs it", dataclasses.asdict(plan.hook))
    if plan.limits.lease_s < LEASE_MIN_S:
        _fail("limits.lease_s", f"at least {LEASE_MIN_S:g} s, so that a slow poll is no lapse", plan.limits.lease_s)
    if plan.run_max_s <= 0:
        _fail(
            "limits.cap_s",
            f"more than the restore bound of {plan.restore_bound_s:.0f} s (drain limit, start limits, A2)",
            plan.limits.cap_s,
        )
    _check_figures(plan, "")
    if not plan.candidate.port:
        _fail("candidate.port", "the port it listens on", plan.candidate.port)
    limits, work = plan.limits, plan.workloads
    if limits.drain_min_s > limits.drain_limit_s:
        _fail("limits.drain_limit_s", f"at least drain_min_s ({limits.drain_min_s:g})", limits.drain_limit_s)
    if work.nav_extended < work.nav_first:
        _fail("workloads.nav_extended", f"at least nav_first ({work.nav_first})", work.nav_extended)


def _fold_pins(data: Any) -> Any:
    # Pins are a file of their own in an inventory, because a program writes them; in the plan they belong to
    # the candidate. A file without a pin keeps an empty hash, which the contract "pins set" then names.
    if not isinstance(data, dict) or not isinstance(data.get("candidate"), dict):
        return data
    data = dict(data)
    pins = data.pop("pins", None)
    if not isinstance(pins, dict):
        return data
    data.setdefault("base_digest", pins.get("image_digest") or "")
    candidate = {"revision": pins.get("revision") or "", **data["candidate"]}
    hashes = {f.get("name"): f.get("sha256", "") for f in pins.get("files") or [] if isinstance(f, dict)}
    files = candidate.get("files")
    # What is not a list of mappings is left for the parser, which names its place.
    if isinstance(files, list) and all(isinstance(f, dict) for f in files):
        candidate["files"] = [{"sha256": hashes.get(f.get("name"), ""), **f} for f in files]
    return {**data, "candidate": candidate}


def parse(data: Any) -> Plan:
    """Turn decoded JSON into a checked plan.

    ``pins`` (``{revision, files: [{name, sha256}]}``), where given, are folded into the candidate.

    Raises:
        PlanError: names the first field that is missing, unknown, of the wrong type or contradictory.
    """
    plan: Plan = _build(Plan, _fold_pins(data), "")
    _check(plan)
    return plan


def parse_tenant(data: Any, where: str) -> Tenant:
    """Turn one decoded tenant into a checked one that can be stopped and started.

    Raises:
        PlanError: as `parse`.
    """
    tenant: Tenant = _build(Tenant, data, where)
    _check_tenant(tenant, where, moved=True)
    _check_figures(tenant, where)
    return tenant


def load(path: Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        PlanError: the file is absent, no JSON, or not a plan; the message names the file.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as err:
        raise PlanError(f"{path}: {err}") from err


def to_json(plan: Plan) -> str:
    """The plan as JSON text, defaults filled in."""
    return json.dumps(dataclasses.asdict(plan), indent=1, sort_keys=True) + "\n"
