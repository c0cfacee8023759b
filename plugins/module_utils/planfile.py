# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a plan: JSON in, checked dataclasses out.

Anything unknown is refused, with its place (``tenants[2].health.url``), what was expected and what was found.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .plan import COUNTS, NAME, PLAN_FORMAT, SESSION_SHARE, SHOWN_SCENES, Plan, Scenes, Site, Tenant, Workload
from .tenants import KINDS

ADHERENCE_RULES = ("share", "proved")
GPU_ACCESS = ("cdi", "gpus", "none")
# Hexadecimal digits at the end of these fields are a hash or a commit; none is deeper in a plan.
_HASHES = ("sha256", "revision", "image", "image_base", "base_digest")
_HASH = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{40}(?:[0-9A-Fa-f]{24})?\Z")
_HASHES_DEPTH = 4
ATTESTED = ("passed", "failed", "open", "missing")
# As in a workload's file. It names segments and files, so it must leave room for their suffixes.
WORKLOAD_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
# The sides of a trial in its segments' names: NAME-baseline, NAME-candidate; smoke-candidate is the smoke test.
SIDES = ("baseline", "candidate")
SMOKE = "smoke"
# Polls come every third of a lease; below this a busy controller's polls would come too late.
LEASE_MIN_S = 5.0
MAX_PORT = 65535
# Larger ones are mistakes: no clock holds so many seconds, and 64 bits no such whole number.
MAX_NUMBER, MAX_WHOLE = 1e15, 10**18
# One picture is no evidence about others; more than that nobody waits for in a window.
MIN_SCENES, MAX_SCENES = 2, 500
# A template with text around it, and `-e KEY=VALUE`, give texts. A whole number has at most 18 digits: 64 bits hold it.
WHOLE = re.compile(r"[+-]?[0-9]{1,18}\Z", re.ASCII)
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z", re.ASCII)
TRUTHS = {"true": True, "false": False}
# Figures that must be positive: nothing starts, stops or answers in 0 s, and a session needs samples. If such a mistake
# were found only in the window, it would cost down time. No other figure may be negative.
MORE_THAN_NOTHING = (
    "cap_s",
    "drain_limit_s",
    "measure_s",
    "n",
    "pids",
    "request_timeout_s",
    "start_timeout_s",
    "stop_timeout_s",
    "timeout_s",
)
# Decisions of the trial, not of an inventory: the server listens on loopback because its endpoint has no
# authentication, and renders its chat template so that the thinking switch is honored.
RESERVED_SERVER_ARGS = ("--host", "--port", "--jinja", "--no-jinja", "-m", "--model", "--mmproj", "-mm")


class PlanError(ValueError):
    """The plan is not usable; the message says where, what was expected, what was found."""


def _fail(where: str, expected: str, found: object) -> typing.NoReturn:
    raise PlanError(f"{where or 'plan'}: expected {expected}, found {found!r}")


def _from_text(kind: Any, text: str) -> Any:
    """A text as the number or truth value that it spells, or the text itself where it spells none."""
    if kind is bool:
        return TRUTHS.get(text.lower(), text)
    if kind is int and WHOLE.match(text):
        return int(text)
    if kind is float and NUMBER.match(text):
        return float(text)
    return text


def _check_number(value: float, where: str, limit: float) -> None:
    # By comparison: NaN is in no order, and a whole number may be too large for a float.
    if not -limit < value < limit:
        finite = isinstance(value, int) or math.isfinite(value)
        _fail(where, f"a number below {limit:g}" if finite else "a finite number", value)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, str):
        value = _from_text(kind, value)
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
        _check_number(value, where, MAX_NUMBER)
        return float(value)
    if kind is int and isinstance(value, bool):
        _fail(where, "a whole number", value)
    if kind is not float and isinstance(value, kind):
        return value
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    _fail(where, names.get(kind, str(kind)), value)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        _fail(where, f"a mapping with the fields of {cls.__name__}", data)
    hints = _hints(cls)
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
    kind = KINDS.get(tenant.kind)
    if kind is None:
        _fail(f"{where}.kind", f"one of {', '.join(KINDS)}", tenant.kind)
    for name, expected in kind.lacks(tenant, moved):
        _fail(f"{where}.{name}", expected, getattr(tenant, name))
    if tenant.watch_process and not tenant.process:
        _fail(f"{where}.process", "the argv words to look for, because watch_process is set", tenant.process)
    if moved and not (tenant.health or tenant.process or kind.tells_its_state):
        _fail(f"{where}.health", "a way to see that the tenant is back (health or process)", None)


def _check_workload(work: Workload, where: str) -> None:
    if not WORKLOAD_NAME.match(work.name):
        _fail(f"{where}.name", "a-z, 0-9, - and _, 40 at most (it names segments and files)", work.name)
    if work.name == SMOKE or any(side in work.name for side in SIDES):
        said = f"a name other than {SMOKE}, without {' and '.join(SIDES)}: segments have names with these"
        _fail(f"{where}.name", said, work.name)
    if work.role not in COUNTS:
        _fail(f"{where}.role", f"one of {', '.join(COUNTS)}", work.role)
    decides = work.role == "decides"
    for name in ("first_n", "cached_n", "tenants_n"):
        count = getattr(work, name)
        if decides and count < 1:
            _fail(f"{where}.{name}", "more than 0", count)
        if not decides and count:
            _fail(f"{where}.{name}", "nothing: only the workload that decides has this count; leave it out", count)
    if decides and work.n < work.first_n:
        _fail(f"{where}.n", f"at least first_n ({work.first_n})", work.n)


def _check_workloads(works: list[Workload]) -> None:
    for i, work in enumerate(works):
        _check_workload(work, f"workloads[{i}]")
    names = [work.name for work in works]
    if len(set(names)) != len(names):
        _fail("workloads", "every name once, because its samples are kept under it; rename one", names)
    deciding = [work.name for work in works if work.role == "decides"]
    if len(deciding) != 1:
        _fail("workloads", "exactly one with the role decides; give every other one the role shown", deciding)


def _check_scenes(scenes: Scenes) -> None:
    if not scenes.folder:
        _fail("scenes.folder", "a folder of pictures on the host", scenes.folder)
    if "/" in scenes.pattern or not scenes.pattern:
        _fail("scenes.pattern", "a pattern of file names, such as *.jpg", scenes.pattern)
    if not MIN_SCENES <= scenes.limit <= MAX_SCENES:
        _fail("scenes.limit", f"from {MIN_SCENES} to {MAX_SCENES} pictures", scenes.limit)


def _check_figures(item: Any, where: str) -> None:
    if dataclasses.is_dataclass(item):
        for part in dataclasses.fields(item):
            _check_figures(getattr(item, part.name), f"{where}.{part.name}".lstrip("."))
    elif isinstance(item, list):
        for i, part in enumerate(item):
            _check_figures(part, f"{where}[{i}]")
    elif isinstance(item, dict):
        # It is sent or compared as it stands, so any number of JSON may be meant.
        try:
            json.dumps(item, allow_nan=False)
        except ValueError:
            _fail(where, "finite numbers", item)
    elif isinstance(item, (int, float)):
        _check_number(item, where, MAX_WHOLE if isinstance(item, int) else MAX_NUMBER)
        name = where.rsplit(".", 1)[-1]
        if item < 0 or (item == 0 and name in MORE_THAN_NOTHING):
            _fail(where, "more than 0" if name in MORE_THAN_NOTHING else "0 or more", item)
        if name == "port" and item > MAX_PORT:
            _fail(where, f"at most {MAX_PORT}", item)


def check_figures(arguments: Mapping[str, Any]) -> None:
    """Check the figures of a module as those of a plan.

    Raises:
        PlanError: one is below 0, or 0 or no number where that can't be meant.
    """
    for name, value in arguments.items():
        _check_figures(value, name)


def _check_names(names: list[str], where: str) -> None:
    if len(set(names)) != len(names):
        _fail(where, "every name once", names)


def _circle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Tenants that need each other in a circle, from one of them back to it; empty where none do."""
    sound: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        for other in needs.get(name, ()) if name not in sound else ():
            found = walk(other, [*path, name])
            if found:
                return found
        sound.add(name)
        return []

    return next(filter(None, (walk(name, []) for name in needs)), [])


def _check_needs(members: Sequence[Tenant], where: str, known: Sequence[str] | None = None) -> None:
    """Check what tenants need of each other; names outside ``known`` are refused where it is given."""
    for i, tenant in enumerate(members):
        _check_names(tenant.needs, f"{where}[{i}].needs")
        for name in tenant.needs:
            if known is not None and name not in known:
                _fail(f"{where}[{i}].needs", f"names of tenants ({', '.join(known)})", name)
    circle = _circle({tenant.name: tenant.needs for tenant in members})
    if circle:
        _fail(where, "needs without a circle; otherwise no tenant could be the first to start", " needs ".join(circle))


def _check_order(members: Sequence[Tenant], where: str, order: list[str], word: str) -> None:
    """Check that a tenant stops ``before`` the tenants that it needs, or starts ``after`` them.

    A tenant without what it needs is broken, so what others need stops only together with them.
    """
    for tenant in members:
        for name in tenant.needs:
            at = order.index(tenant.name) if tenant.name in order else -1
            if name in order and (at < 0 or (at < order.index(name)) != (word == "before")):
                _fail(where, f"{tenant.name} {word} {name}, because {tenant.name} needs {name}", order)


def _check_site(site: Site) -> None:
    names = [t.name for t in site.tenants]
    _check_names(names, "tenants")
    for i, tenant in enumerate(site.tenants):
        _check_tenant(tenant, f"tenants[{i}]", tenant.name in site.stop_order)
    for where in ("stop_order", "restore_order"):
        for name in getattr(site, where):
            if name not in names:
                _fail(where, f"names of tenants ({', '.join(names)})", name)
    if len(set(site.stop_order)) != len(site.stop_order):
        _fail("stop_order", "every tenant once", site.stop_order)
    if sorted(site.stop_order) != sorted(site.restore_order):
        _fail("restore_order", f"the tenants of stop_order ({', '.join(site.stop_order)})", site.restore_order)
    _check_needs(site.tenants, "tenants", names)
    _check_order(site.tenants, "stop_order", site.stop_order, "before")
    _check_order(site.tenants, "restore_order", site.restore_order, "after")
    for i, clause in enumerate(site.contracts.clauses):
        if len(clause.lines) != 2 or clause.lines[0] > clause.lines[1]:
            _fail(f"contracts.clauses[{i}].lines", "[first, last]", clause.lines)
    if site.gpu and (len(site.gpu.steady_gb) != 2 or site.gpu.steady_gb[0] >= site.gpu.steady_gb[1]):
        _fail("gpu.steady_gb", "[low, high] in GB", site.gpu.steady_gb)


def _check_time(plan: Plan) -> None:
    """Refuse more questions than a session has time for: it would end early, while the tenants are down."""
    limit_s, needed_s = SESSION_SHARE * plan.limits.measure_s, plan.candidate_replies_s
    if needed_s <= limit_s:
        return
    asked = ", ".join(
        f"{one.name} {one.n} x {one.expected_reply_s:g} s" for one in sorted(plan.workloads, key=lambda one: -one.n)
    )
    _fail(
        "workloads",
        f"replies that take at most {limit_s:.1f} s of the {plan.limits.measure_s:g} s of limits.measure_s, so that "
        "every reply is waited for; ask less (n, trial_scenes), raise measure_s (and cap_s with it), or correct "
        "expected_reply_s",
        f"about {needed_s:.1f} s: {asked}",
    )


def _check(plan: Plan) -> None:
    if not NAME.match(plan.run):
        # Its default name holds time, host and the candidate's label: each may be valid and the whole too long.
        _fail("run", "letters, digits, dot, dash, underscore, 100 at most (it names a folder)", plan.run)
    if not NAME.match(plan.host):
        _fail("host", "letters, digits, dot, dash, underscore (it may name a folder)", plan.host)
    _check_site(plan)
    if plan.gpu is None and not plan.rehearsal:
        expected = (
            "the card that the tenants share (trial_gpu): a trial measures its memory; only a rehearsal works without"
        )
        _fail("gpu", expected, None)
    if plan.rehearsal and not plan.stop_order:
        # Its baseline may be a placeholder, the first tenant that stops.
        _fail("stop_order", "a tenant that a rehearsal stops; the role verify checks a host where none stops", [])
    names = [t.name for t in plan.tenants]
    if plan.baseline.tenant not in names:
        _fail("baseline.tenant", f"one of {', '.join(names)}", plan.baseline.tenant)
    if plan.adherence_rule not in ADHERENCE_RULES:
        _fail("adherence_rule", f"one of {', '.join(ADHERENCE_RULES)}", plan.adherence_rule)
    _check_workloads(plan.workloads)
    if plan.scenes:
        _check_scenes(plan.scenes)
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
    if plan.contracts.prompt.lines and len(plan.contracts.prompt.lines) != 2:
        _fail("contracts.prompt.lines", "[first, last], or nothing", plan.contracts.prompt.lines)
    bands = plan.bands
    if not 0 < bands.low_below_gb < bands.healthy_to_gb <= bands.abort_above_gb:
        _fail("bands", "low_below_gb < healthy_to_gb <= abort_above_gb", dataclasses.asdict(bands))
    if plan.hook:
        words = [plan.hook.user, *plan.hook.command]
        if not plan.hook.command or not all(word and word.isprintable() for word in words):
            _fail("hook", "a command of one or more words, and the user who runs it", dataclasses.asdict(plan.hook))
    if plan.limits.lease_s < LEASE_MIN_S:
        _fail(
            "limits.lease_s",
            f"at least {LEASE_MIN_S:g} s, so that a slow poll does not end the lease",
            plan.limits.lease_s,
        )
    if plan.run_max_s <= 0:
        _fail(
            "limits.cap_s",
            f"more than the restore bound of {plan.restore_bound_s:.0f} s (docker, stops, drain limit, "
            "starts, A2, settle period, health answers, checks)",
            plan.limits.cap_s,
        )
    _check_figures(plan, "")
    _check_time(plan)
    ties = plan.review_ties_percent
    if ties is not None and not 0 < ties <= 100:
        _fail("review_ties_percent", "more than 0, and at most 100", ties)
    points = plan.accuracy_not_worse_by
    if points is not None and points > 100:
        _fail("accuracy_not_worse_by", "percentage points, at most 100", points)
    if not plan.candidate.port:
        _fail("candidate.port", "the port it listens on", plan.candidate.port)
    limits = plan.limits
    if limits.drain_min_s > limits.drain_limit_s:
        _fail("limits.drain_limit_s", f"at least drain_min_s ({limits.drain_min_s:g})", limits.drain_limit_s)


def _fold_pins(data: Any) -> Any:
    # Pins are a file of their own in the inventory, because a program writes them; in the plan they belong to
    # the candidate. A file without a pin keeps an empty hash, which contract 11 then names.
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
    # Anything but a list of mappings is left to the parser, which names its place.
    if isinstance(files, list) and all(isinstance(f, dict) for f in files):
        candidate["files"] = [{"sha256": hashes.get(f.get("name"), ""), **f} for f in files]
    return {**data, "candidate": candidate}


def _lower_hashes(data: Any, depth: int = 0) -> Any:
    # Hashes are compared as texts, and some programs print them in capitals.
    if isinstance(data, list) and depth < _HASHES_DEPTH:
        return [_lower_hashes(one, depth + 1) for one in data]
    if not isinstance(data, dict) or depth >= _HASHES_DEPTH:
        return data
    return {
        name: _HASH.sub(lambda found: found[0].lower(), value)
        if name in _HASHES and isinstance(value, str)
        else _lower_hashes(value, depth + 1)
        for name, value in data.items()
    }


def _fill_counts(data: Any) -> Any:
    # A workload's counts follow from its role. Anything but a list of mappings is left to the parser.
    if not isinstance(data, dict) or not isinstance(data.get("workloads"), list):
        return data
    counts = {**COUNTS, "shown": {"n": _shown_n(data.get("scenes"))}}
    filled = [
        {**counts.get(str(one.get("role")), {}), **one} if isinstance(one, dict) else one for one in data["workloads"]
    ]
    return {**data, "workloads": filled}


def _shown_n(scenes: Any) -> int:
    """How many replies are shown: with scenes one to each of so many, but to no more than there may be."""
    if not isinstance(scenes, dict):
        return COUNTS["shown"]["n"]
    limit = scenes.get("limit", Scenes.limit)
    limit = _from_text(int, limit) if isinstance(limit, str) else limit
    # What is not a number is refused where the limit itself is read.
    counts = isinstance(limit, int) and not isinstance(limit, bool) and limit > 0
    return min(SHOWN_SCENES, limit) if counts else SHOWN_SCENES


def _check_format(data: Any) -> None:
    # Before anything else: in another format any field may be unknown, and an error about a field would not say why.
    found = data.get("format", PLAN_FORMAT) if isinstance(data, dict) else PLAN_FORMAT
    if isinstance(found, bool) or found != PLAN_FORMAT:
        raise PlanError(
            f"format: expected {PLAN_FORMAT}, found {found!r}: another version of the collection wrote this plan. "
            "An open run is restored by the program beside its plan; for a new run, play phase 1 with the version that "
            "plays the trial (benchmark-e4b.yml --tags acquire)"
        )


def parse(data: Any) -> Plan:
    """Turn decoded JSON into a checked plan.

    ``pins`` (``{revision, files: [{name, sha256}]}``), where given, are folded into the candidate; counts that a
    workload does not name are those of its role.

    Raises:
        PlanError: the plan's format is another one; or names the first field that is missing, unknown, of the wrong
            type or contradictory.
    """
    _check_format(data)
    plan: Plan = _build(Plan, _fill_counts(_lower_hashes(_fold_pins(data))), "")
    _check(plan)
    return plan


def parse_site(data: Any) -> Site:
    """Turn what an inventory says about a host, where nothing is tried, into a checked `Site`.

    The tenants of ``restore_order`` may be left out: then they come back in the opposite order of their stop.

    Raises:
        PlanError: as `parse`.
    """
    if isinstance(data, dict) and not data.get("restore_order") and isinstance(data.get("stop_order"), list):
        data = {**data, "restore_order": data["stop_order"][::-1]}
    site: Site = _build(Site, data, "")
    _check_site(site)
    _check_figures(site, "")
    return site


def parse_tenant(data: Any, where: str) -> Tenant:
    """Turn one decoded tenant into a checked `Tenant` that can be stopped and started.

    Raises:
        PlanError: as `parse`.
    """
    tenant: Tenant = _build(Tenant, data, where)
    _check_tenant(tenant, where, moved=True)
    _check_figures(tenant, where)
    return tenant


def parse_tenants(items: Sequence[Any], where: str, *, started: bool) -> list[Tenant]:
    """`parse_tenant` for each of several tenants, whose results are told apart by their names.

    Args:
        items: the tenants, decoded, in the order in which they are to be started or stopped.
        where: what they are called in a message.
        started: whether they are to be started. What a tenant needs need not be among them.

    Raises:
        PlanError: as `parse`, two of them have one name, or their order is against what one needs of another.
    """
    found = [parse_tenant(item, f"{where}[{i}]") for i, item in enumerate(items)]
    names = [tenant.name for tenant in found]
    _check_names(names, where)
    _check_needs(found, where)
    _check_order(found, where, names, "after" if started else "before")
    return found


def _argument(kind: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _argument(next(a for a in args if a is not type(None)))
    if dataclasses.is_dataclass(kind):
        return {"type": "dict", "options": arguments(kind)}
    if origin is list:
        inner = _argument(args[0])
        return {"type": "list", "elements": inner.pop("type"), **inner}
    return {"type": "dict" if origin is dict else kind.__name__}


def arguments(cls: Any) -> dict[str, dict[str, Any]]:
    """The fields of a part of a plan as the options of a module, so that its page can list them.

    What `parse_site` and `parse_tenants` check beyond names and types, they check afterwards.
    """
    spec = {}
    for item in dataclasses.fields(cls):
        one = _argument(_hints(cls)[item.name])
        if cls is Tenant and item.name == "kind":
            one["choices"] = list(KINDS)
        if item.default is not dataclasses.MISSING:
            one.update({} if item.default is None else {"default": item.default})
        elif item.default_factory is dataclasses.MISSING:
            one["required"] = True
        else:
            made = item.default_factory()
            one["default"] = {} if dataclasses.is_dataclass(made) else made
        spec[item.name] = one
    return spec


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
