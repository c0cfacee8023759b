# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a twin is made of, from an inventory: a stand-in for each tenant, the card, and what is not the host's own.

Each tenant keeps its name, kind, unit or container, user, folder, ports, health, speech, words and needs. What does its
work is replaced by ``images/twin/stand_in/stand_in.py``, and every replacement is told: it is not proved.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import shlex
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import MIB_PER_GB, Gpu, Tenant

PARTS = Path(__file__).resolve().parents[2] / "images" / "twin"
STAND_IN = "/usr/local/lib/twin/stand_in.py"
PYTHON = "/usr/bin/python3"
LOOPBACK = ("127.0.0.1", "localhost")
# What a twin's card holds without tenants, and what is free beside them. A band below that is all the card's own.
CARD_MIB, FREE_MIB = 420, 1024
# How long a stand-in takes to become healthy. A host's own times would make a proof as long as the host's starts.
HEALTHY_AFTER_S = 0.5
SETTLE_S = 1.0
LIMITS: Mapping[str, Any] = {
    # More than the bound of any restore within the other limits.
    "cap_s": 1000, "drain_min_s": 3, "drain_limit_s": 20, "lease_s": 10, "a2_s": 5, "measure_s": 30,
    "request_timeout_s": 5,
}  # fmt: skip
# Kinds of units that stand-ins can be, and the kinds of tenants that commands of the inventory start.
UNITS = (".service", ".timer")
COMMANDS = ("script", "process")


class NoStandIn(ValueError):
    """The twin has no stand-in for a part of the inventory; the text says for which."""


@dataclass
class Layout:
    """The files and users of a twin that is to be built.

    Attributes:
        files: text files by their path in the image; one whose text begins with ``#!`` is executable.
        owners: folders and files of the image, with their users.
        users: to be made where they are missing.
        at_boot: units that start at boot.
        hosts: names that mean the twin itself.
        tenants: the inventory's own, as they are on the twin.
        replaced: what is not the host's own, and so is not proved; a line each.
    """

    files: dict[str, str] = field(default_factory=dict)
    owners: list[tuple[str, str]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    at_boot: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    tenants: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def _asked(tenant: Tenant) -> list[tuple[str, str]]:
    """Its addresses, each with the field's name."""
    found = [("health.url", tenant.health.url)] if tenant.health else []
    return found + ([("speech.url", tenant.speech.url)] if tenant.speech else [])


def _place(tenant: Tenant, name: str, url: str) -> tuple[str, int, str]:
    """Host, port and path of an address."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 80
    except ValueError as err:
        raise NoStandIn(f"tenant {tenant.name}, {name}: {url}: {err}") from err
    if parts.scheme != "http" or not parts.hostname:
        raise NoStandIn(f"tenant {tenant.name}, {name}: expected http:// on a twin, found {url}: it has no TLS")
    if parts.hostname not in LOOPBACK and parts.hostname.replace(".", "").isdigit():
        raise NoStandIn(f"tenant {tenant.name}, {name}: expected 127.0.0.1 or a host name on a twin, found {url}")
    return parts.hostname, port, parts.path or "/"


def body_of(wanted: Mapping[str, Any]) -> Any:
    """The JSON that has these values at these dotted paths: numbers are places in a list."""
    root: dict[str, Any] = {}
    for path, value in wanted.items():
        at = root
        *above, last = path.split(".")
        for name in above:
            at = at.setdefault(name, {})
        at[last] = value
    return _with_lists(root)


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_with_lists(value.get(str(i))) for i in range(max(map(int, value)) + 1)]
    return {key: _with_lists(one) for key, one in value.items()}


def words_of(tenant: Tenant) -> list[str]:
    """The words of its process by which the trial finds it, its listener and what holds its VRAM."""
    found = tenant.process.split()
    for word in (tenant.vram_process, tenant.listener):
        if word and not any(word in one for one in found):
            found.append(word)
    return found


def facts_of(tenant: Tenant, layout: Layout) -> dict[str, Any]:
    """What its stand-in is configured to be."""
    ports, pages, speech = ({tenant.port} if tenant.port else set()), {}, {}
    for name, url in _asked(tenant):
        host, port, path = _place(tenant, name, url)
        ports.add(port)
        if host not in LOOPBACK and host not in layout.hosts:
            layout.hosts.append(host)
        if name == "health.url" and tenant.health:
            pages[path] = {"status": tenant.health.status, "body": body_of(tenant.health.json)}
        elif tenant.speech:
            speech[path] = tenant.speech.min_bytes
    return {
        "kind": "timer" if tenant.unit.endswith(".timer") else tenant.kind,
        "unit": tenant.unit,
        "container": tenant.container,
        "ports": sorted(ports),
        "pages": pages,
        "speech": speech,
        "needs": list(tenant.needs),
        "after_s": min(tenant.expected_start_s, HEALTHY_AFTER_S),
        "words": words_of(tenant),
    }


def unit_name(name: str) -> str:
    """A unit's name with its suffix."""
    return name if "." in name else f"{name}.service"


def _systemd_words(words: Sequence[str]) -> str:
    """Words of a command as a unit file wants them."""
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") for word in words)
    return " ".join(f'"{word}"' for word in quoted)


def _unit(description: str, service: Mapping[str, str], after: Sequence[str], requires: Sequence[str] = ()) -> str:
    lines = [
        "[Unit]",
        f"Description={description}",
        f"After={' '.join(['network.target', 'twin-gpu.service', *after])}",
    ]
    lines += [f"Requires={name}" for name in requires]
    lines += ["", "[Service]", *(f"{key}={value}" for key, value in service.items())]
    return "\n".join([*lines, "", "[Install]", "WantedBy=multi-user.target", ""])


def starters(plan_tenants: Sequence[Tenant]) -> dict[str, str]:
    """The unit that starts each tenant at boot, by name."""
    found = {}
    for tenant in plan_tenants:
        named = [word for word in tenant.boot.split() if word.endswith(".service")]
        if tenant.kind == "systemd":
            found[tenant.name] = unit_name(tenant.unit)
        elif tenant.kind == "container":
            found[tenant.name] = "twin-containers.service"
        else:
            found[tenant.name] = named[0] if named else f"twin-start-{tenant.name}.service"
    return found


def _stand_for_unit(tenant: Tenant, layout: Layout, boots: Mapping[str, str], members: Sequence[Tenant]) -> None:
    unit = unit_name(tenant.unit)
    if not unit.endswith(UNITS):
        raise NoStandIn(f"tenant {tenant.name}: a twin has stand-ins for {' and '.join(UNITS)} units, found {unit}")
    if unit.endswith(".timer"):
        text = f"[Unit]\nDescription={tenant.name}\n[Timer]\nOnActiveSec=1d\n[Install]\nWantedBy=multi-user.target\n"
        layout.files[f"/etc/systemd/system/{unit}"] = text
        service = unit.removesuffix(".timer") + ".service"
        layout.files[f"/etc/systemd/system/{service}"] = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
    else:
        own = {"Type": "notify", "ExecStart": _systemd_words([PYTHON, STAND_IN, tenant.name, *words_of(tenant)])}
        own |= {"User": tenant.user} if tenant.user else {}
        own |= {"WorkingDirectory": tenant.directory} if tenant.directory else {}
        kinds = {one.name: one.kind for one in members}
        needed = [boots[name] for name in tenant.needs]
        requires = [boots[name] for name in tenant.needs if kinds[name] == "systemd"]
        layout.files[f"/etc/systemd/system/{unit}"] = _unit(f"Stand-in: {tenant.name}", own, needed, requires)
    layout.at_boot.append(unit)


def _command(tenant: Tenant, given: str, verb: str, layout: Layout) -> str:
    """The command of the inventory with a stand-in behind it, or one of our own where it is no file of the tenant's."""
    try:
        words = shlex.split(given) if given else []
    except ValueError as err:
        raise NoStandIn(f"tenant {tenant.name}, {verb}: expected a shell's command, found {given!r}: {err}") from err
    foreground = tenant.kind == "process" and verb == "start"
    own = [PYTHON, STAND_IN, *([tenant.name, *words_of(tenant)] if foreground else [f"--{verb}", tenant.name])]
    if words and "/" in words[0]:
        path = PurePosixPath(tenant.directory or "/") / words[0]
        layout.files[str(path)] = f"#!/bin/sh\nexec {shlex.join(own)}\n"
        layout.replaced.append(
            f"{tenant.name}: the effect of its {verb} command ({given}); the command itself is yours"
        )
        if tenant.user:
            layout.owners.append((tenant.user, str(path)))
        return given
    layout.replaced.append(f"{tenant.name}: its {verb} command ({given}) is one of the twin's")
    return shlex.join(own)


def _stand_for_command(tenant: Tenant, layout: Layout, boots: Mapping[str, str]) -> dict[str, str]:
    """Lay out a script or process; returns the fields that differ from the inventory."""
    changed = {verb: _command(tenant, given, verb, layout)
               for verb, given in (("start", tenant.start), ("stop", tenant.stop)) if given}  # fmt: skip
    service = {
        "Type": "oneshot",
        "RemainAfterExit": "yes",
        # It is left in the background, and belongs to nobody's unit from then on.
        "KillMode": "process",
        "ExecStart": _systemd_words([PYTHON, STAND_IN, "--start", tenant.name, "--wait"]),
    }
    service |= {"User": tenant.user} if tenant.user else {}
    unit = boots[tenant.name]
    text = _unit(f"Start {tenant.name} after a boot", service, [boots[name] for name in tenant.needs])
    layout.files[f"/etc/systemd/system/{unit}"] = text
    layout.at_boot.append(unit)
    return changed


def _stand_for_containers(members: Sequence[Tenant], layout: Layout, boots: Mapping[str, str]) -> None:
    needed = sorted({boots[name] for tenant in members if tenant.kind == "container" for name in tenant.needs})
    service = {
        "Type": "oneshot",
        "RemainAfterExit": "yes",
        "ExecStart": _systemd_words([PYTHON, STAND_IN, "--containers"]),
    }
    unit = "twin-containers.service"
    layout.files[f"/etc/systemd/system/{unit}"] = _unit(
        "Containers of the twin", service, ["docker.service", *(one for one in needed if one != unit)]
    )
    layout.at_boot.append(unit)


def shares(gpu: Gpu, members: Sequence[Tenant]) -> tuple[int, dict[str, int]]:
    """What the card holds by itself, and what each holder of VRAM holds, in MiB: together the middle of the band."""
    middle = int(sum(gpu.steady_gb) / 2 * MIB_PER_GB)
    holders = [tenant.name for tenant in members if tenant.vram_process]
    if not holders or middle <= CARD_MIB:
        return middle, dict.fromkeys(holders, 0)
    return CARD_MIB, dict.fromkeys(holders, (middle - CARD_MIB) // len(holders))


def _card(gpu: Gpu, members: Sequence[Tenant], layout: Layout) -> None:
    base, held = shares(gpu, members)
    total = max(int(gpu.total_gb_min * MIB_PER_GB) + 1, base + sum(held.values()) + FREE_MIB)
    programs = {f"stand_in.py {name}": mib for name, mib in held.items() if mib}
    settings = {"total_mib": total, "base_mib": base, "programs": programs, "stall": False}
    layout.files["/etc/twin-gpu/settings.json"] = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    told = ", ".join(f"{name} {mib} MiB" for name, mib in held.items()) or "nobody"
    layout.replaced.append(f"the GPU: a ledger of {total} MiB that follows the processes; it is held by {told}")


def lay_out(members: Sequence[Tenant], gpu: Gpu | None, login: str, start_limit_s: float) -> Layout:
    """Make a twin's files of an inventory.

    Args:
        members: the tenants, as the inventory has them.
        gpu: the card; None where the inventory names none.
        login: the user as whom Ansible logs in.
        start_limit_s: how long a stand-in may take to become healthy.

    Raises:
        NoStandIn: the twin can't stand in for something.
    """
    layout, boots = Layout(), starters(members)
    facts = {}
    for tenant in members:
        facts[tenant.name] = facts_of(tenant, layout)
        changed: dict[str, Any] = {"start_timeout_s": start_limit_s, "stop_limit_s": 0.0}
        if tenant.directory:
            layout.owners.append((tenant.user or "root", tenant.directory))
        if tenant.kind == "systemd":
            _stand_for_unit(tenant, layout, boots, members)
            layout.replaced.append(f"{tenant.name}: the unit {tenant.unit}, its program, its limits and its drop-ins")
        elif tenant.kind == "container":
            layout.replaced.append(f"{tenant.name}: the container {tenant.container}, its image and its options")
        elif tenant.kind not in COMMANDS:
            raise NoStandIn(f"tenant {tenant.name}: a twin has no stand-in for the kind {tenant.kind}")
        else:
            layout.replaced.append(f"{tenant.name}: its program, and what starts it at boot")
            changed |= _stand_for_command(tenant, layout, boots)
        layout.tenants.append({**_plain(tenant), **changed})
    if any(tenant.kind == "container" for tenant in members):
        _stand_for_containers(members, layout, boots)
    if gpu:
        _card(gpu, members, layout)
    wanted = [login, *(tenant.user for tenant in members)]
    layout.users = [name for name in dict.fromkeys(wanted) if name and name != "root"]
    layout.files["/etc/twin-tenants.json"] = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    layout.replaced += [
        f"times: a stand-in is healthy after {HEALTHY_AFTER_S:g} s and has {start_limit_s:g} s for it",
        f"limits: the settle period is {SETTLE_S:g} s, and the window's limits are the twin's own",
        "users of the host: their groups, limits and environment; logind keeps their shared memory (RemoveIPC=no)",
    ]
    return layout


def _plain(tenant: Tenant) -> dict[str, Any]:
    """A tenant as an inventory has it: without what is not set."""
    defaults = {one.name: one.default for one in dataclasses.fields(Tenant)}
    found = dataclasses.asdict(tenant)
    return {name: value for name, value in found.items() if value not in (defaults[name], None, [])}


def _below_root(path: str) -> str:
    """A path of the image below its root, above which ``..`` does not lead."""
    return posixpath.normpath(f"/{path}").lstrip("/")


def write(layout: Layout, folder: Path, login: str) -> None:
    """Write the build context of a twin's own image: ``stage/`` is what is copied over the root of the image."""
    shutil.rmtree(folder, ignore_errors=True)
    stage = folder / "stage"
    files = {
        **layout.files,
        "/opt/twin/users": "".join(f"{name}\n" for name in layout.users),
        "/opt/twin/owners": "".join(f"{owner} {path}\n" for owner, path in layout.owners),
        "/opt/twin/at_boot": "".join(f"{name}\n" for name in layout.at_boot),
        "/opt/twin/login": f"{login}\n",
    }
    for name, text in files.items():
        path = stage / _below_root(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for owner_path in (path for _owner, path in layout.owners):
        if owner_path not in files:
            (stage / _below_root(owner_path)).mkdir(parents=True, exist_ok=True)
    (stage / "opt/twin").mkdir(parents=True, exist_ok=True)
    for name in ("tenants.sh", "login.sh"):
        shutil.copy(PARTS / "stand_in" / name, stage / "opt/twin" / name)
    shutil.copy(PARTS / "stand_in" / "Containerfile", folder)


def write_parts(folder: Path, card: bool) -> None:
    """Write the build context of what all twins from inventories have."""
    shutil.rmtree(folder, ignore_errors=True)
    stage = folder / "stage"
    shutil.copytree(PARTS / "common", stage)
    programs = stage / "usr/local/lib/twin"
    programs.mkdir(parents=True)
    shutil.copy(PARTS / "stand_in" / "stand_in.py", programs)
    own = stage / "opt/twin"
    own.mkdir(parents=True)
    shutil.copy(PARTS / "common.sh", own)
    shutil.copy(PARTS / "stand_in" / "parts.sh", own)
    if card:
        shutil.copy(PARTS / "gpu" / "observer.py", programs)
        (own / "gpu").mkdir()
        for name in ("compile.sh", "nvml.c", "nvidia-smi.c"):
            shutil.copy(PARTS / "gpu" / name, own / "gpu")
    else:
        (stage / "etc/systemd/system/twin-gpu.service").unlink()
    shutil.copy(PARTS / "stand_in" / "Containerfile.parts", folder)


def variables(plan: Mapping[str, Any], layout: Layout, gpu: Gpu | None) -> dict[str, Any]:
    """The inventory's variables as the twin has them; what a rehearsal does not read is left out.

    Args:
        plan: the inventory's own ``trial_*`` variables, as far as it has them.
        layout: of the twin.
        gpu: the card, None where there is none.
    """
    limits = dict(LIMITS)
    tolerance = (plan.get("trial_limits") or {}).get("drain_tolerance_mib")
    limits |= {"drain_tolerance_mib": tolerance} if tolerance is not None else {}
    found = {
        "trial_tenants": layout.tenants,
        "trial_stop_order": plan["trial_stop_order"],
        "trial_restore_order": plan["trial_restore_order"],
        "trial_limits": limits,
        "trial_settle_s": SETTLE_S,
        "trial_lease": "on",
        **fillings(plan),
    }
    if gpu:
        found["trial_gpu"] = {**dataclasses.asdict(gpu), "index": 0}
    return found


def fillings(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Placeholders that a rehearsal's plan must have but never uses: the candidate, and what production asks it."""
    order, candidate = plan["trial_stop_order"], plan.get("trial_candidate") or {}
    first = order[0] if isinstance(order, list) and order else ""
    # A candidate or an order of another type is left as it is: the plan refuses it.
    if isinstance(candidate, Mapping):
        kept = {name: candidate[name] for name in ("label", "container", "port") if name in candidate}
        candidate = {"label": "none", "container": "none", "gpu_access": "none", **kept}
    return {
        "trial_baseline": {"tenant": first, "url": "http://127.0.0.1:1", "label": "none"},
        "trial_candidate": candidate,
        "trial_contracts": {
            "prompt": {"file": "/nowhere", "function": "none", "call": "none()"},
            "camera": "/nowhere",
            "disk_gb_min": 0,
            "ram_gb_min": 0,
        },
        "trial_workloads": [{"name": "nav", "role": "decides"}],
        "trial_operator_confirms_idle": True,
    }


def unproved(plan: Mapping[str, Any]) -> list[str]:
    """The parts of an inventory, besides its tenants, that a twin leaves out; a line each."""
    contracts = plan.get("trial_contracts") or {}
    found = [f"the quiet probe {one.get('name', '?')!r}" for one in contracts.get("quiet") or []]
    found += [f"the exception clause in {one.get('file', '?')}" for one in contracts.get("clauses") or []]
    if plan.get("trial_hook"):
        found.append("the hook (trial_hook)")
    return [*found, "disk and memory of the host; the machine is that of the engine", "candidate, prompt and camera"]
