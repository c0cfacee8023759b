# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of a process: user, groups, slice, limits, priority and environment, from ``/proc`` and its cgroup.

A tenant that a trial stops must come back with the same identity. The snapshot records the identity of every tenant
that a command of the inventory starts; a restore starts the tenant with it, and the checks compare the two.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import probes
from .plan import Tenant
from .probes import ProcessId

CGROUPS = Path("/sys/fs/cgroup")
# logind keeps a user's sockets here while the user has a session or lingers.
RUNTIME = Path("/run/user")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOCALE = re.compile(r"LANG|LANGUAGE|LC_[A-Z]+|TZ")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Variables of a session, of an invocation, or of the shell that reads the environment: they are not the tenant's.
_PASSING = re.compile(
    r"SSH_.*|XDG_SESSION_.*|XDG_SEAT.*|XDG_VTNR|SUDO_.*|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|MANAGERPID"
    r"|MAINPID|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|MEMORY_PRESSURE_.*|PWD|OLDPWD|SHLVL|_|UID|EUID|PPID|BASHOPTS"
    r"|SHELLOPTS"
)
# Resource limits: the kernel's name for each, and prlimit's.
_LIMITS = {
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max core file size": "core",
    "Max resident set": "rss",
    "Max processes": "nproc",
    "Max open files": "nofile",
    "Max locked memory": "memlock",
    "Max address space": "as",
    "Max pending signals": "sigpending",
    "Max msgqueue size": "msgqueue",
    "Max nice priority": "nice",
    "Max realtime priority": "rtprio",
    "Max realtime timeout": "rttime",
}
# Control group files that hold a number or "max", and the systemd property for each.
_AMOUNTS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_WEIGHTS = {"cpu.weight": "CPUWeight", "io.weight": "IOWeight"}
# Defaults of a scope, which need not be set. TasksMax is always set: its default is a limit of systemd's own.
_USUAL = ("infinity", "100")

# What a process looks like: its program, its working directory, its argv.
Kin = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True)
class Identity:
    """The identity of a process.

    ``groups`` are the supplementary groups, sorted. ``limits`` maps prlimit's names to ``soft:hard``. ``cgroup`` maps
    systemd's property names to the limits of the control group, as far as they can be read. ``environment`` has the
    names of variables only, without those of the session and the invocation; it is None where the process has
    overwritten them. ``umask`` is None where the kernel does not report it.
    """

    uid: int
    gid: int
    groups: list[int]
    slice: str
    nice: int
    oom_score_adj: int
    limits: dict[str, str]
    cgroup: dict[str, str]
    environment: list[str] | None
    umask: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return the identity as JSON data, for the snapshot."""
        return asdict(self)


@dataclass(frozen=True)
class Before:
    """What is known about a tenant from before the trial.

    ``process`` and ``family`` (the process and its descendants) belong to this boot; they are empty after a reboot.
    ``kin`` says what its process looked like: program, working directory, argv; ``others`` are processes that looked
    the same and did not belong to the tenant. ``output`` is the file that it printed to. ``substate`` is systemd's
    second word for the state of its unit. ``environment`` includes values, so it must never be shown.
    """

    process: ProcessId | None = None
    family: tuple[ProcessId, ...] = ()
    identity: Identity | None = None
    kin: Kin | None = None
    others: tuple[ProcessId, ...] = ()
    output: str = ""
    substate: str = ""
    environment: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Known(Tenant):
    """A tenant, with what is known about it from before the trial."""

    before: Before = Before()


def before(tenant: Tenant) -> Before:
    """Return what is known about the tenant from before the trial; an empty record where there is no snapshot."""
    return tenant.before if isinstance(tenant, Known) else Before()


def _status(pid: int, proc: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in (proc / str(pid) / "status").read_text(errors="replace").splitlines():
        name, _colon, rest = line.partition(":")
        if name in ("Uid", "Gid", "Groups"):
            found[name] = [int(word) for word in rest.split()]
    return found


def _umask(pid: int, proc: Path) -> int | None:
    for line in (proc / str(pid) / "status").read_text(errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return None


def _nice(pid: int, proc: Path) -> int:
    return int((proc / str(pid) / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()[16])


def _limits(pid: int, proc: Path) -> dict[str, str]:
    found = {}
    for line in (proc / str(pid) / "limits").read_text().splitlines():
        name = next((word for word in _LIMITS if line.startswith(word)), "")
        if name:
            soft, hard = line[len(name) :].split()[:2]
            found[_LIMITS[name]] = f"{soft}:{hard}"
    return found


def _cgroup_path(pid: int, proc: Path) -> str:
    # Under cgroup v1, systemd's own hierarchy; under v2, the only one.
    paths = {}
    for line in (proc / str(pid) / "cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        paths[controllers] = path
    return paths.get("name=systemd") or paths.get("") or ""


def _slice(path: str) -> str:
    """Return the innermost slice of the system manager; slices of a user's manager are below it."""
    found = ""
    for part in path.strip("/").split("/"):
        if not part.endswith(".slice"):
            break
        found = part
    return found


def _amount(found: str, more: str) -> str:
    """Return the tighter of two limits, each a number or ``infinity``."""
    known = [int(one) for one in (found, more) if one.isdigit()]
    return str(min(known)) if known else "infinity"


def _cgroup_limits(path: str, cgroups: Path) -> dict[str, str]:
    """Return the limits of a control group and its parents below the slice.

    A restored tenant sits directly in the slice, so its scope must have the limits of all of them.
    """
    found: dict[str, str] = {}
    parts = path.strip("/").split("/")
    depth = next((i for i, part in enumerate(parts) if not part.endswith(".slice")), len(parts))
    folders = [cgroups.joinpath(*parts[: i + 1]) for i in range(depth, len(parts))]
    for folder in folders:
        for name, key in _AMOUNTS.items():
            with contextlib.suppress(OSError):
                word = (folder / name).read_text().strip().replace("max", "infinity")
                found[key] = _amount(found.get(key, "infinity"), word)
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            known = found.setdefault("CPUQuota", "infinity")
            if quota != "max":
                percent = 100 * int(quota) / int(period)
                found["CPUQuota"] = f"{min(percent, float(known.removesuffix('%'))):g}%"
    for name, key in _WEIGHTS.items() if folders else ():
        with contextlib.suppress(OSError, IndexError):
            found[key] = (folders[-1] / name).read_text().split()[-1]
    return found


def _contained(pid: int, proc: Path) -> bool:
    """Whether a process lives in a container, with a PID namespace of its own."""
    try:
        return os.readlink(proc / str(pid) / "ns" / "pid") != os.readlink(proc / "self" / "ns" / "pid")
    except OSError:
        return False


def read(pid: int, proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> Identity | None:
    """Return the identity of a process; None where it is gone, or in a container (the container engine sets it)."""
    try:
        if _contained(pid, proc):
            return None
        ids, path = _status(pid, proc), _cgroup_path(pid, proc)
        known = environment(pid, proc)
        return Identity(
            uid=ids["Uid"][1],
            gid=ids["Gid"][1],
            groups=sorted(set(ids["Groups"]) - {ids["Gid"][1]}),
            slice=_slice(path),
            nice=_nice(pid, proc),
            oom_score_adj=int((proc / str(pid) / "oom_score_adj").read_text()),
            limits=_limits(pid, proc),
            cgroup=_cgroup_limits(path, cgroups),
            environment=None if known is None else sorted(known),
            umask=_umask(pid, proc),
        )
    except (OSError, ValueError, KeyError, IndexError):
        return None


def environment(pid: int, proc: Path = Path("/proc")) -> dict[str, str] | None:
    """The environment that a process was started with, without what belongs to its session or invocation.

    None where it cannot be read: the process is another user's, or has overwritten it, as programs do that show their
    state in the process title. Search paths are kept without duplicates: a script that prepends its own folder
    prepends it again at the next start.
    """
    try:
        raw = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    found = {}
    for item in raw.rstrip(b"\0").split(b"\0"):
        name, sign, value = os.fsdecode(item).partition("=")
        if name.startswith("BASH_FUNC_"):
            continue
        if not sign or not _NAME.fullmatch(name):
            return None
        if name.endswith("PATH"):
            value = ":".join(dict.fromkeys(value.split(":")))
        if not _PASSING.fullmatch(name):
            found[name] = value
    return found if "PATH" in found else None


def login_environment(user: str) -> dict[str, str]:
    """Return the environment for a user's command whose earlier environment is unknown.

    It names the user's runtime directory and bus where they exist: while the user has a session or lingers. For an
    unknown user it has only the search path and the locale.
    """
    found = {"PATH": _PATH} | {name: value for name, value in os.environ.items() if _LOCALE.fullmatch(name)}
    with contextlib.suppress(KeyError):
        who = pwd.getpwnam(user)
        found |= {"HOME": who.pw_dir, "SHELL": who.pw_shell or "/bin/sh", "USER": user, "LOGNAME": user}
        runtime = RUNTIME / str(who.pw_uid)
        if runtime.is_dir() and runtime.stat().st_uid == who.pw_uid:
            found["XDG_RUNTIME_DIR"] = str(runtime)
            if (runtime / "bus").exists():
                found["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    return found


def kin(pid: int, proc: Path = Path("/proc")) -> Kin | None:
    """Return what a process looks like; None where it is gone or cannot be read."""
    folder = proc / str(pid)
    try:
        words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return os.readlink(folder / "exe"), os.readlink(folder / "cwd"), tuple(os.fsdecode(word) for word in words)
    except OSError:
        return None


def alike(look: Kin, user: int, proc: Path = Path("/proc")) -> list[ProcessId]:
    """Return the processes of a user (a UID) that look like this."""
    found = []
    for entry in proc.iterdir():
        pid = int(entry.name) if entry.name.isdigit() else 0
        if pid and probes.uid(pid, proc) == user and kin(pid, proc) == look:
            process = probes.identify(pid, proc)
            found += [process] if process else []
    return sorted(found, key=lambda process: process.pid)


def output(pid: int, proc: Path = Path("/proc")) -> str:
    """Return the file that a process prints to, if its own user owns it; empty where it prints elsewhere."""
    link = proc / str(pid) / "fd" / "1"
    try:
        path = os.readlink(link)
        there = os.stat(path, follow_symlinks=False)
        same = os.path.samestat(there, os.stat(link)) and there.st_uid == probes.uid(pid, proc)
    except OSError:
        return ""
    return path if same and path.startswith("/") and os.path.isfile(path) else ""


def as_user(tenant: Tenant, scope: str) -> list[str]:
    """Return the argv prefix that runs a command as the tenant's user, in a scope of its own, as before the trial.

    The command gets the same slice, control group limits, resource limits, priority and OOM score. Its groups are
    those that the user has now. The environment is not on the command line, which every user can read: see
    `environment_script`. No program runs as root with that environment.
    """
    known, own = before(tenant).identity, read(os.getpid())
    argv = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={scope}"]
    nice, oom_score_adj = (known.nice, known.oom_score_adj) if known else (0, 0)
    if known:
        argv += [f"--slice={known.slice}"] if known.slice else []
        asked = {key: one for key, one in known.cgroup.items() if one not in _USUAL or key == "TasksMax"}
        argv += [f"--property={key}={one}" for key, one in sorted(asked.items())]
    if own is None or own.nice != nice:
        argv.append(f"--nice={nice}")
    limits = dict(known.limits) if known else {}
    others = {name: one for name, one in limits.items() if own is None or own.limits.get(name) != one}
    if others:
        argv += ["prlimit", *(f"--{name}={one}" for name, one in sorted(others.items()))]
    if own is None or own.oom_score_adj != oom_score_adj:
        argv += ["choom", "-n", str(oom_score_adj), "--"]
    try:
        group = str(pwd.getpwnam(tenant.user).pw_gid)
    except KeyError:
        group = tenant.user
    argv += ["setpriv", f"--reuid={tenant.user}", f"--regid={group}", "--init-groups"]
    # Start with an empty environment: the caller's is root's.
    return [*argv, "env", "-i"]


def environment_script(tenant: Tenant) -> bytes:
    """Return shell commands that set a tenant's environment and umask: those from before, or its user's at login."""
    known = before(tenant)
    # The environment of another user's process does not apply.
    own = known.identity if known.identity and known.identity.uid == uid_of(tenant.user) else None
    mine = known.environment if own else None
    found = login_environment(tenant.user) if mine is None else mine
    script = b"".join(os.fsencode(f"export {name}={shlex.quote(value)}\n") for name, value in sorted(found.items()))
    umask = own.umask if own else None
    # A program that lifts its own umask must not leave files of its start command that everybody can write.
    return script if umask is None else script + f"umask {umask | 0o002:04o}\n".encode()


def uid_of(user: str) -> int | None:
    """Return a user's number, or None when there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def own_groups(uid: int) -> tuple[int, list[int]] | None:
    """Return a user's primary group and supplementary groups as the host lists them; None for an unknown user."""
    try:
        who = pwd.getpwuid(uid)
    except KeyError:
        return None
    return who.pw_gid, sorted(set(os.getgrouplist(who.pw_name, who.pw_gid)) - {who.pw_gid})


def differences(then: Identity, now: Identity) -> list[str]:
    """Return in words how the identity of a process differs from before; empty where it does not.

    The groups that the user has now are accepted even if the earlier process had others: it may have started before
    the user was added to a group.
    """
    found = [
        f"{name} {getattr(now, key)}, was {getattr(then, key)}"
        for key, name in (("uid", "user"), ("nice", "nice"), ("oom_score_adj", "OOM score"), ("slice", "slice"))
        if getattr(now, key) != getattr(then, key) and getattr(then, key) != ""
    ]
    groups = (now.gid, now.groups)
    if groups not in ((then.gid, then.groups), own_groups(now.uid)):
        found.append(f"groups {[now.gid, *now.groups]}, were {[then.gid, *then.groups]}")
    if then.umask is not None and now.umask is not None and then.umask & ~now.umask:
        found.append(f"umask {now.umask:04o}, was {then.umask:04o}")
    old, new = {**then.limits, **then.cgroup}, {**now.limits, **now.cgroup}
    # Only limits that could be read on both sides are compared.
    others = sorted(key for key in old.keys() & new.keys() if new[key] != old[key])
    found += [f"limit {key} {new[key]}, was {old[key]}" for key in others]
    if then.environment is not None and now.environment is not None:
        lost = sorted(set(then.environment) - set(now.environment))
        more = sorted(set(now.environment) - set(then.environment))
        found += [f"without {', '.join(lost)} in its environment"] if lost else []
        found += [f"with {', '.join(more)} in its environment, which it did not have before"] if more else []
    return found


def recall(facts: Any) -> Identity | None:
    """Return the identity from a snapshot; None where the snapshot has none, or another version wrote it."""
    try:
        return Identity(**facts)
    except TypeError:
        return None
