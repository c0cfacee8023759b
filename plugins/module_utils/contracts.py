# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contracts of phase 0: what must hold on a host before a trial may touch anything.

All contracts are evaluated concurrently, in bounded time. None of them raises, and none changes anything. They run
as the login user and read through ``sudo -n`` what only root may see. Each answer says what was expected, what was
found, why it matters and what to do.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from . import (
    checks,
    gpu,
    pictures,
    probes,
    production,
    rehearsal,
    reload,
    run,
    scenes,
    surroundings,
    tenants,
    upgrades,
)
from .plan import MIB_PER_GB, SLO_SAMPLES, Gpu, Http, Plan, Site, Tenant
from .run import Ran
from .words import counted

T = TypeVar("T")

# Limits for one question and for all of them together, so that a dead tenant does not make phase 0 slow.
QUESTION_S = 2.5
TOGETHER_S = 2.9
MAX_IMAGE_BYTES = 64 << 20
# The first version with OnSuccess=; what later ones brought is used only where it is there.
SYSTEMD_MIN = 249
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_IMAGE = re.compile(r"(.+@)?sha256:[0-9a-f]{64}\Z")
_REVISION = re.compile(r"[0-9a-f]{40}\Z")
_SHOW_MARK = 'test ! -e "$1" || { stat -c %Y "$1" && cat "$1"; }'


@dataclass(frozen=True)
class Contract:
    """One evaluated contract; ``ok`` is the result, the rest is for people.

    ``spared`` means that it holds only because this is a rehearsal: a trial would find it broken, and ``todo`` says
    what to do about it. ``warning`` is what a person should know about the host although the contract holds.
    ``labels`` are right answers, each with its ``place``, for the controller: it knows how replies are read.
    """

    id: int
    name: str
    expected: str
    found: str
    ok: bool
    why: str
    todo: str
    spared: bool = False
    warning: str = ""
    labels: list[dict[str, str]] = field(default_factory=list)


def run_command(argv: Sequence[str]) -> Ran:
    """Run a read-only command; a slow or missing command counts as failed (126, 127) and never raises."""
    try:
        return run.command(argv, QUESTION_S)
    except TimeoutError:
        return Ran(126, "", f"{argv[0]} did not end within {QUESTION_S:g} s")
    except OSError as err:
        return Ran(127, "", f"{argv[0]}: {err.strerror or err}")


@dataclass(frozen=True)
class Host:
    """Where the contracts look; tests use other places.

    ``as_root`` means that privileged facts need no sudo; ``card`` opens the GPU. ``program`` is the SHA-256 of the
    program that the trial brings to the host; empty means the one that is installed there.
    """

    proc: Path = Path("/proc")
    state_dir: Path = Path("/var/lib/model-trial")
    storage: Path = Path("/var/lib")
    dev: Path = Path("/dev")
    cdi_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))
    as_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    run: Callable[[Sequence[str]], Ran] = run_command
    card: Callable[[int], gpu.Card] = gpu.Card
    program: str = ""

    def root(self, *argv: str) -> Ran:
        """Run a command as root.

        Raises:
            NoSudo: sudo itself refused.
        """
        if self.as_root:
            return self.run(argv)
        ran = self.run(("sudo", "-n", *argv))
        # sudo-rs has a name of its own.
        if ran.rc and ran.err.startswith(("sudo:", "sudo-rs:")):
            raise NoSudo(ran.err.strip().splitlines()[0])
        return ran


class NoSudo(Exception):
    """sudo refused; the message is its own."""


class NoSuchContract(ValueError):
    """A chosen contract does not exist or can't be evaluated; the message lists the possible ones."""


@dataclass(frozen=True)
class _Finding:
    """What was found; ``trial_only`` means that the defect affects only the candidate."""

    ok: bool
    found: str
    todo: str = ""
    trial_only: bool = False
    warning: str = ""
    labels: list[dict[str, str]] = field(default_factory=list)


def _together(jobs: Sequence[Callable[[], T]], limit_s: float) -> list[T | Exception]:
    """Run all jobs at once; return the result of each, its exception, or a TimeoutError if it takes too long.

    The threads are daemons, so a hung one does not delay the exit.
    """
    results: list[T | Exception] = [TimeoutError(f"no answer within {limit_s:g} s") for _unused in jobs]

    def target(i: int) -> None:
        try:
            results[i] = jobs[i]()
        except Exception as err:
            # A contract that cannot be evaluated is a broken contract, not a crash.
            results[i] = err

    threads = [threading.Thread(target=target, args=(i,), daemon=True) for i in range(len(jobs))]
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(results)


def _ask(question: Http) -> probes.ProbeResult:
    return probes.ask(dataclasses.replace(question, timeout_s=min(question.timeout_s, QUESTION_S)))


def _answer(result: probes.ProbeResult | Exception) -> probes.ProbeResult:
    return probes.ProbeResult(False, str(result)) if isinstance(result, Exception) else result


# 1: sudo


def _sudo(_plan: Site, host: Host) -> _Finding:
    if host.as_root:
        return _Finding(True, "running as root")
    ran = host.root("true")
    return _Finding(ran.rc == 0, "sudo -n works" if ran.rc == 0 else ran.first_line())


# 2, 5: production's code


def _clauses(plan: Site, _host: Host) -> _Finding:
    found = [production.find_clause(Path(c.file).expanduser(), c) for c in plan.contracts.clauses]
    texts = [f"{Path(c.file).name}: {f.found}" for c, f in zip(plan.contracts.clauses, found, strict=True)]
    return _Finding(all(f.ok for f in found), "; ".join(texts) or "the inventory names no clause")


def _prompt(plan: Plan, _host: Host) -> _Finding:
    prompt = plan.contracts.prompt
    path = Path(prompt.file).expanduser()
    found = production.find_function(path, prompt.function)
    production.extract(path, prompt.function)
    parser = plan.contracts.parser
    if parser:
        production.extract(Path(parser.file).expanduser(), parser.function)
    text = f"{prompt.function} at lines {found.first_line}-{found.last_line}, sha256 {found.sha256}"
    if prompt.lines and [found.first_line, found.last_line] != prompt.lines:
        text += f" (it was at {prompt.lines[0]}-{prompt.lines[1]})"
    if prompt.sha256 and prompt.sha256 != found.sha256:
        return _Finding(
            False, text, "read the new prompt; if the change is intended, pin its hash (contracts.prompt.sha256)"
        )
    return _Finding(True, text)


# 3, 4: ports


def _port_of(local: str) -> int:
    port = local.rsplit(":", 1)[-1]
    return int(port) if port.isdigit() else 0


def _listeners(host: Host, ports: set[int]) -> list[probes.Listener]:
    """Find the listeners on ``ports``; root looks up those that the login user may not see.

    Raises:
        NoSudo: a holder is a process of another user, and sudo refused.
    """
    own = probes.listeners(host.proc, ports)
    if all(item.pid for item in own):
        return own
    ran = host.root("ss", "-H", "-ltnp")
    seen = []
    for line in ran.out.splitlines():
        fields = line.split()
        port = _port_of(fields[3]) if len(fields) > 3 else 0
        if port in ports:
            pids = sorted({int(pid) for pid in re.findall(r"pid=(\d+)", line)}) or [0]
            seen += [probes.Listener(port, pid, probes.command(pid, host.proc) if pid else "") for pid in pids]
    return seen or own


def _holder(item: probes.Listener) -> str:
    return f"PID {item.pid} {item.command or '(gone)'}" if item.pid else "a process that cannot be seen"


def _free_port(plan: Plan, host: Host) -> _Finding:
    port = plan.candidate.port
    try:
        held = _listeners(host, {port})
    except NoSudo as err:
        return _Finding(False, f"the port is in use; only root may see by whom, and sudo does not work: {err}")
    who = ", ".join(sorted({_holder(item) for item in held}))
    return _Finding(not held, f"port {port} is held by {who}" if held else f"nobody listens on {port}")


def _held_ports(plan: Site, host: Host) -> _Finding:
    holders = [t for t in plan.tenants if t.port and t.process]
    held = _listeners(host, {port for t in plan.tenants for port in tenants.ports(t)})
    found = [(t.name, tenants.strangers(t, held, host)) for t in plan.tenants]
    texts = [f"{who}, which does not belong to the tenant {name}" for name, who in found if who]
    broken = [name for name, who in found if who]
    for tenant in holders:
        wanted = {p.pid for p in tenants.of(tenant).matches(host.proc)}
        mine = [item for item in held if item.port == tenant.port]
        if not any(item.pid in wanted for item in mine):
            broken.append(tenant.name)
        who = ", ".join(_holder(item) for item in mine) or "nobody"
        texts.append(f"{tenant.port} ({tenant.name}) by {who}")
    return _Finding(not broken, "; ".join(texts) or "no tenant names both port and process")


# 6: health


def _tenant_state(tenant: Tenant, host: Host) -> probes.ProbeResult:
    """Whether a tenant is healthy: its manager says that it runs, its process exists, its health page answers well."""
    managed = tenants.of(tenant).state(host)
    if managed.ok:
        # A container that has lost access to the card still answers its health page.
        seen = tenants.of(tenant).sees_gpu(host)
        managed = managed if seen.ok else seen
    if not managed.ok:
        return managed
    notes = [managed.found] if managed.found else []
    if tenant.process:
        pids = [str(p.pid) for p in tenants.of(tenant).matches(host.proc)]
        if not pids:
            return probes.ProbeResult(False, f"no process {tenant.process!r}")
        notes.append(f"PID {', '.join(pids)}")
    if tenant.health:
        answer = _ask(tenant.health)
        if not answer.ok:
            return probes.ProbeResult(False, f"{tenant.health.url}: {answer.found}")
        notes.append(answer.found)
    return probes.ProbeResult(True, ", ".join(notes) or "nothing to ask")


def _stop_limit_s(tenant: Tenant, host: Host) -> float | None:
    try:
        return tenants.of(tenant).stop_limit_s(host)
    except ValueError:
        return None


def _stops(plan: Site, host: Host, trouble: list[str]) -> list[Tenant]:
    """The tenants with the limits of their stops, as their managers say; ``trouble`` gets those without one."""
    moved = []
    for tenant in plan.tenants:
        limit_s = _stop_limit_s(tenant, host) if tenant.name in plan.stop_order else 0.0
        if limit_s is None:
            trouble.append(f"systemd does not say how long {tenant.name} may take to stop")
        elif math.isinf(limit_s):
            trouble.append(f"the stop of {tenant.name} has no limit (TimeoutStopSec=infinity in its unit)")
        # Phase 0 refuses a trial without a limit.
        bound_s = tenant.stop_limit_s if limit_s is None or math.isinf(limit_s) else max(limit_s, tenant.stop_limit_s)
        moved.append(dataclasses.replace(tenant, stop_limit_s=bound_s))
    return moved


def _dependents_s(plan: Plan, host: Host, trouble: list[str]) -> float:
    try:
        return surroundings.starts_bound_s(surroundings.unlisted(plan, host.run))
    except OSError as err:
        trouble.append(f"systemd does not say which units go down with a tenant: {err}")
        return 0.0


def bounded(plan: Plan, host: Host) -> tuple[Plan, list[str]]:
    """Ask how long each tenant's stop may take, as its manager says, and whether units outside the plan come back.

    Returns:
        The plan with these limits, and why they leave the trial without a bound; empty where they do not.
    """
    trouble: list[str] = []
    moved = _stops(plan, host, trouble)
    found = dataclasses.replace(plan, tenants=moved, dependents_s=_dependents_s(plan, host, trouble))
    if found.run_max_s <= 0:
        beside_s = found.dependents_s
        beside = f" and {beside_s:.0f} s for units that go down with a tenant" if beside_s else ""
        trouble.append(
            f"limits.cap_s of {plan.limits.cap_s:g} s leaves no time for the window: "
            f"a restore may take {found.restore_bound_s:.0f} s, including the longest stop in the stop order{beside}"
        )
    return found, trouble


def _unbounded(plan: Site, host: Host) -> list[str]:
    """Why what is to stop may never be down, or a restore never end."""
    if isinstance(plan, Plan):
        return bounded(plan, host)[1]
    trouble: list[str] = []
    _stops(plan, host, trouble)
    return trouble


def _healthy(plan: Site, host: Host) -> _Finding:
    def job(tenant: Tenant) -> Callable[[], probes.ProbeResult]:
        return lambda: _tenant_state(tenant, host)

    jobs: list[Callable[[], Any]] = [job(t) for t in plan.tenants]
    *results, way = _together([*jobs, lambda: _way_back(plan, host)], QUESTION_S + 0.2)
    if isinstance(way, NoSudo):
        raise way
    if isinstance(way, Exception):
        way = _Finding(False, f"it is unknown which tenants could be started again: {way}")
    answers = [_answer(result) for result in results]
    texts = [f"{t.name}: {a.found}" for t, a in zip(plan.tenants, answers, strict=True)]
    well = all(answer.ok for answer in answers)
    todo = way.todo if well or not way.todo else f"repair the named tenant; {way.todo}"
    return _Finding(well and way.ok, "; ".join(filter(None, [*texts, way.found])), todo)


def _too_old(host: Host) -> str:
    """Why this systemd could not bring the host back; empty if it could, or if its version is unknown."""
    told = re.match(r"systemd (\d+)", host.run(("systemctl", "--version")).out)
    if told is None or int(told.group(1)) >= SYSTEMD_MIN:
        return ""
    return (
        f"systemd {told.group(1)} is too old: the restore is started by OnSuccess= of the runner's unit, "
        f"which came with {SYSTEMD_MIN}"
    )


def _way_back(plan: Site, host: Host) -> _Finding:
    """Check that everything that a trial stops, and everything that goes down with it, could be started again.

    A tenant that could not be started must be found now, not when it is already down.
    """
    ways = tenants.ways_back([t for t in plan.tenants if t.start or t.name in plan.stop_order], host)
    lost = [f"{name} could not be brought back: {why}" for name, way in ways.items() for why in way.lost]
    warned = [f"warning: {name}: {words}" for name, way in ways.items() for words in way.warned]
    lost += filter(None, [_too_old(host)])
    lost += _unbounded(plan, host)
    for tenant in plan.tenants:
        twins = tenants.of(tenant).twins(host)
        if twins and tenant.name in plan.stop_order:
            lost.append(f"{tenant.name} could not be stopped alone: {twins}")
        elif twins:
            warned.append(f"warning: {tenant.name} cannot be told apart from others: {twins}")
    beside = surroundings.judge(plan, host.run)
    lost += beside.broken
    return _Finding(not lost, "; ".join([*lost, *beside.told, *warned]), "\n    ".join(beside.todo))


# 7: room


def _available_mib(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise ValueError(f"{proc}/meminfo has no MemAvailable")


_TODO_STEADY = (
    "correct gpu.steady_gb and the tenants' vram_process, or see who uses the card. A model server that unloads its "
    "model while it is idle is not supported: switch that off (OLLAMA_KEEP_ALIVE=-1, llama-server without "
    "--sleep-idle-seconds)"
)


def _vram(plan: Site, wanted: Gpu, host: Host) -> tuple[bool, str, str]:
    """Whether the card is as large as it must be, and used as the inventory says; what was found, and what to do."""
    card = host.card(wanted.index)
    try:
        vram = card.read()
    finally:
        card.close()
    vram_gb = vram.total_mib / MIB_PER_GB
    # The trial ends with this same check: a host that fails it now could never pass as restored.
    steady, now = checks.judge_vram(plan, wanted, vram)
    todo = "" if steady else _TODO_STEADY
    return steady and vram_gb >= wanted.total_gb_min, f"VRAM {vram_gb:.2f} GB ({card.name}), used: {now}", todo


def _room(plan: Site, host: Host) -> _Finding:
    wanted = plan.contracts
    disk_gb = shutil.disk_usage(host.storage).free / (1 << 30)
    ram_gb = _available_mib(host.proc) / MIB_PER_GB
    card_ok, of_the_card, todo = True, f"VRAM does not apply: {gpu.NONE}", ""
    if plan.gpu:
        card_ok, of_the_card, todo = _vram(plan, plan.gpu, host)
    found = f"disk {disk_gb:.1f} GB free, RAM {ram_gb:.1f} GB available, {of_the_card}"
    room = disk_gb >= wanted.disk_gb_min and ram_gb >= wanted.ram_gb_min
    # Disk and RAM are for the candidate's files and its container.
    return _Finding(room and card_ok, found, todo, trial_only=card_ok, warning=_may_take_more(plan, ram_gb))


_SIZES_GB = {"b": 1 / (1 << 30), "k": 1 / (1 << 20), "m": 1 / (1 << 10), "g": 1.0}


def _may_take_more(plan: Site, ram_gb: float) -> str:
    """A warning that the candidate may take more memory than there is; the kernel might then kill a tenant instead."""
    if not isinstance(plan, Plan) or plan.rehearsal:
        return ""
    size = re.fullmatch(r"(\d+)([bkmg]?)", plan.candidate.memory.lower())
    wanted_gb = int(size.group(1)) * _SIZES_GB[size.group(2) or "b"] if size else 0.0
    if wanted_gb <= ram_gb:
        return ""
    return (
        f"the candidate may take {wanted_gb:.1f} GB of RAM (candidate.memory), and {ram_gb:.1f} GB are available; "
        "llama-server's prompt cache alone takes up to 8 GB: lower candidate.memory, or bound it with --cache-ram"
    )


# 8: Docker


def _gpu_for_docker(access: str, info: dict[str, Any], cdi_dirs: Sequence[Path]) -> str:
    """Why containers would not see the GPU; empty when they would."""
    if access == "none":
        return ""
    # Newer versions of Docker find devices by CDI themselves, and serve --gpus with them.
    if any(str(one.get("ID", "")).startswith("nvidia.com/gpu") for one in info.get("DiscoveredDevices") or []):
        return ""
    if access == "gpus":
        return "" if "nvidia" in (info.get("Runtimes") or {}) else "docker has no runtime called nvidia"
    # An empty list means that CDI is off; older versions of Docker omit the field.
    if info.get("CDISpecDirs") == []:
        return "CDI is off in docker's configuration (features.cdi)"
    folders = [Path(folder) for folder in info.get("CDISpecDirs") or cdi_dirs]
    for folder in folders:
        for path in sorted(folder.glob("*")):
            if path.suffix in (".json", ".yaml", ".yml") and re.search(
                r"""["']?kind["']?\s*:\s*["']?nvidia\.com/gpu\b""", path.read_text(errors="replace")
            ):
                return ""
    return f"no CDI specification of kind nvidia.com/gpu in {', '.join(str(f) for f in folders)}"


def _docker(plan: Plan, host: Host) -> _Finding:
    ran = host.root("docker", "info", "--format", "{{json .}}")
    try:
        info = json.loads(ran.out)
    except ValueError:
        info = {}
    if ran.rc or not info.get("ServerVersion"):
        errors = "; ".join(info.get("ServerErrors") or []) or ran.first_line()
        return _Finding(False, f"docker does not answer: {errors}", "start docker; see: systemctl status docker")
    unfit, todo = _unfit(info)
    if unfit:
        return _Finding(False, unfit, todo, trial_only=True)
    live_restore = "on" if info.get("LiveRestoreEnabled") else "off"
    names = host.root("docker", "ps", "--quiet").out.split()
    found = f"docker {info['ServerVersion']}, live-restore {live_restore}, {_restart_policies(names, host)}"
    warning = "; ".join(filter(None, [_open_to_reload(info, names, host), _other_store(info)]))
    blind = _gpu_for_docker(plan.candidate.gpu_access, info, host.cdi_dirs)
    if blind:
        # A restore needs docker to remove containers; only a candidate needs the GPU in them.
        return _Finding(False, f"{found}; {blind}", trial_only=True, warning=warning)
    astray = _docker_of_units(host)
    if astray:
        todo = 'link it into one of these folders: sudo ln -s "$(command -v docker)" /usr/local/bin/docker'
        return _Finding(False, f"{found}; {astray}", todo, warning=warning)
    return _Finding(True, f"{found}; GPU access by {plan.candidate.gpu_access}", warning=warning)


def _unfit(info: dict[str, Any]) -> tuple[str, str]:
    """Why the candidate's container can't be made with this docker, and what to do; empty where it can."""
    if str(info.get("DockerRootDir", "")).startswith("/var/snap/"):
        return (
            "docker is a snap, which sees another /var/lib than the host: the candidate would get empty folders",
            "install docker from Docker's or the distribution's packages",
        )
    if any("name=userns" in str(one) for one in info.get("SecurityOptions") or []):
        why = "docker remaps the users of containers (userns-remap), and then refuses them the host's network"
        return why, "try the candidate on a host without userns-remap"
    return "", ""


def _other_store(info: dict[str, Any]) -> str:
    """A warning that images may have IDs here that differ from those where they were built."""
    if not any("io.containerd.snapshotter" in str(row) for row in info.get("DriverStatus") or []):
        return ""
    return (
        "docker keeps images in containerd's store, where an image has another ID than in docker's own: build the "
        "bench image on a controller with the same store (features.containerd-snapshotter), or phase 1 will not find it"
    )


def _open_to_reload(info: dict[str, Any], names: Sequence[str], host: Host) -> str:
    """Name the containers that lose the GPU if another program reloads systemd; a trial itself never reloads it."""
    if not names or info.get("CgroupDriver") != "systemd":
        return ""
    inspected = host.root("docker", "inspect", "--format", reload.INSPECT, *names).out
    return reload.warning(info, reload.gpu_containers(inspected), host.dev)


def _docker_of_units(host: Host) -> str:
    """Why runner and restorer would not find docker although a login does; empty when they would, or when unknown."""
    told = host.run(("systemctl", "show-environment")).out.splitlines()
    path = next((line.removeprefix("PATH=") for line in told if line.startswith("PATH=")), "")
    if not path or host.root("sh", "-c", 'PATH="$1"; export PATH; command -v docker', "sh", path).rc == 0:
        return ""
    return f"docker is in none of the folders on the PATH of the trial's units ({path})"


def _restart_policies(names: Sequence[str], host: Host) -> str:
    if not names:
        return "no running containers"
    form = "{{.Name}} {{.HostConfig.RestartPolicy.Name}}"
    lines = host.root("docker", "inspect", "--format", form, *names).out.splitlines()
    return "restart policies: " + ", ".join(
        line.strip().lstrip("/").replace(" ", "=") for line in lines if line.strip()
    )


# 9: other trials


def _alone(_plan: Site, host: Host) -> _Finding:
    mark = host.state_dir / "open"
    ran = host.root("sh", "-c", _SHOW_MARK, "sh", str(mark))
    if ran.rc:
        return _Finding(False, f"{mark} cannot be read: {ran.first_line()}")
    if ran.out:
        time_s, _unused, text = ran.out.partition("\n")
        since = datetime.fromtimestamp(int(time_s), timezone.utc).isoformat().replace("+00:00", "Z")
        try:
            facts = json.loads(text)
            run, since = facts["run"], facts.get("since") or since
        except (ValueError, KeyError, TypeError, AttributeError):
            run = "(the mark cannot be read)"
        return _Finding(False, f"run {run} has held this host since {since} (open mark {mark})")
    for unit in ("mt-run", "mt-restore"):
        state = host.run(("systemctl", "is-active", unit)).out.strip()
        if state in ("active", "activating", "deactivating", "reloading"):
            return _Finding(False, f"no open mark, but {unit}.service is {state}")
    return _Finding(True, "no open mark, no running trial")


# 10: the camera image


def _camera(plan: Plan, _host: Host) -> _Finding:
    found = dataclasses.replace(_camera_image(plan), warning=_too_few(plan))
    if not found.ok or plan.scenes is None:
        return found
    folder = Path(plan.scenes.folder).expanduser()
    try:
        drawn = scenes.find(plan.scenes, folder)
        scenes.check(drawn)
        for scene in drawn:
            scenes.call(plan.contracts.prompt.call, scene.arguments)
    except scenes.ScenesError as err:
        return _Finding(False, str(err))
    labeled = sum(bool(scene.expected) for scene in drawn)
    if plan.accuracy_not_worse_by is not None and not labeled:
        # After the window nothing else could be said than that it is not known.
        needed = "accuracy_not_worse_by needs scenes with the right answer"
        return _Finding(False, f"{needed}, found none in {len(drawn)} scenes of {folder}")
    text = f"{found.found}; {len(drawn)} scenes of {folder}, {labeled} of them with the right answer"
    labels = [
        {"place": f"{scene.place}: scene {scene.id}: expected", "label": scene.expected}
        for scene in drawn
        if scene.expected and not plan.rehearsal
    ]
    return _Finding(True, text, warning=found.warning, labels=labels)


def _too_few(plan: Plan) -> str:
    """Which declared levels of service this trial can't show as kept, whatever it measures."""
    work = plan.decider
    return "; ".join(
        f"slo.{name} can't be shown as kept by {counted(work.n, 'sample')} of {work.name}, and then "
        f"the candidate is not adopted: it takes {least} (n in trial_workloads)"
        for name, least in SLO_SAMPLES.items()
        if plan.slo and getattr(plan.slo, name) and work.n < least and not plan.rehearsal
    )


def _camera_image(plan: Plan) -> _Finding:
    path = Path(plan.contracts.camera).expanduser()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_IMAGE_BYTES)
        picture = pictures.parse(raw)
    except OSError as err:
        return _Finding(False, f"{path}: {err.strerror or err}")
    except pictures.PictureError as err:
        return _Finding(False, f"{path}: {err}")
    return _Finding(True, f"{path}: {picture.kind}, {picture.width} x {picture.height} pixels, {len(raw)} bytes")


# 11: pins


def _pins(plan: Plan, _host: Host) -> _Finding:
    candidate = plan.candidate
    bad = []
    if not _IMAGE.match(plan.image):
        bad.append(f"image is {plan.image or 'unset'} (`make image` builds it, trial_image_file names what it wrote)")
    if plan.base_image and not _IMAGE.match(plan.base_digest):
        bad.append(f"digest of {plan.base_image} is {plan.base_digest or 'unset'}")
    elif plan.base_image and not plan.image_base.endswith(f"@{plan.base_digest}"):
        bad.append(
            f"the image is built on {plan.image_base or 'an unknown base'} (`make image HOST={plan.host}` fixes it)"
        )
    if candidate.repo and not _REVISION.match(candidate.revision):
        bad.append(f"revision of {candidate.repo} is {candidate.revision or 'unset'}")
    if not any(file.role == "model" for file in candidate.files):
        bad.append("no file of the candidate has the role model")
    bad += [f"sha256 of {f.name} is {f.sha256 or 'unset'}" for f in candidate.files if not _SHA256.match(f.sha256)]
    files = counted(len(candidate.files), "file")
    return _Finding(not bad, "; ".join(bad) or f"image, revision and {files} are pinned")


# 12: quiet


def _quiet(plan: Site, host: Host) -> _Finding:
    wanted = plan.contracts

    def job(question: Http) -> Callable[[], probes.ProbeResult]:
        return lambda: _ask(question)

    upgrading = upgrades.at_work(host.storage, host.proc)
    if upgrading:
        return _Finding(
            False, upgrading, "wait until it has ended: an upgrade may replace the driver, docker or a tenant"
        )
    answers = [_answer(r) for r in _together([job(q.http) for q in wanted.quiet], QUESTION_S + 0.2)]
    texts = [f"{q.name}: {a.found}" for q, a in zip(wanted.quiet, answers, strict=True)]
    if wanted.operator_confirms_idle:
        return _Finding(True, "; ".join(["the operator says that the host is idle", *texts]))
    if not answers:
        return _Finding(False, "the inventory has no quiet probe, and operator_confirms_idle is not set")
    return _Finding(all(a.ok for a in answers), "; ".join(texts))


# 13: ground truth


def _ground_truth(plan: Plan, _host: Host) -> _Finding:
    """What the controller knows about exactly the pinned model file."""
    truth = plan.ground_truth
    if truth is None:
        return _Finding(True, "not requested")
    known = {file.sha256: file for file in truth.files}
    texts, good, failed = [], True, False
    for file in (file for file in plan.candidate.files if file.role == "model"):
        attested = known.get(file.sha256)
        says = attested.says if attested else "no verdict about this file was looked up"
        good = good and attested is not None and attested.status == "passed"
        failed = failed or (attested is not None and attested.status == "failed")
        texts.append(f"{file.name}: {says}")
    good, found = good and bool(texts), "; ".join(texts) or "the candidate has no model file"
    if good or not truth.required:
        return _Finding(True, found if good else f"{found} (not required)")
    todo = "try another file; `trialbench ticket` shows what failed" if failed else ""
    return _Finding(False, found, todo, trial_only=True)


# 14: a rehearsal


def _rehearsed(plan: Plan, host: Host) -> _Finding:
    if plan.rehearsal:
        return _Finding(True, "this is a rehearsal")
    return _Finding(*rehearsal.judge(plan, host, host.state_dir, host.program))


_OF_A_TRIAL = "the plan of a trial"


@dataclass(frozen=True)
class _Term:
    """A contract before it is evaluated."""

    id: int
    name: str
    # These functions take a Site where `lacks` lets one pass, and else a Plan.
    expected: Callable[[Any], str]
    why: str
    todo: Callable[[Any], str]
    look: Callable[[Any, Host], _Finding]
    # What a host where nothing is tried would have to name besides, so that it can be evaluated there; empty: nothing.
    lacks: Callable[[Site], str] = lambda _: _OF_A_TRIAL
    # Whether it concerns only the candidate and its measurement; a rehearsal continues without it.
    trial_only: bool = False
    # Whether the inventory requires it; otherwise a broken contract is a warning.
    required: Callable[[Any], bool] = lambda _: True


def _nothing(_site: Site) -> str:
    return ""


def _tenants(site: Site) -> str:
    return "" if site.tenants else "tenants"


def _expected_room(plan: Site) -> str:
    room = f"disk {plan.contracts.disk_gb_min:g} GB, RAM {plan.contracts.ram_gb_min:g} GB"
    if plan.gpu is None:
        return f"{room}; VRAM does not apply: {gpu.NONE}"
    low, high = plan.gpu.steady_gb
    return f"{room}, VRAM {plan.gpu.total_gb_min:g} GB in total, {low:g}-{high:g} GB used"


def _expected_clauses(plan: Site) -> str:
    texts = [
        f"{c.file} lines {c.lines[0]}-{c.lines[1]}: except ({', '.join(c.catches)}) -> yield {c.yields}"
        for c in plan.contracts.clauses
    ]
    return "; ".join(texts) or "nothing"


def _expected_ground_truth(plan: Plan) -> str:
    if plan.ground_truth is None or not plan.ground_truth.required:
        return "nothing: ground truth is not required"
    return "a good verdict of `trialbench check` about exactly the pinned model file"


def _expected_camera(plan: Plan) -> str:
    text = f"{plan.contracts.camera} is a complete JPEG or PNG"
    if plan.scenes is None:
        return text
    table = f", and {plan.scenes.labels} describes them" if plan.scenes.labels else ""
    return f"{text}; so is every scene, {plan.scenes.pattern} in {plan.scenes.folder}{table}"


def _expected_quiet(plan: Site) -> str:
    texts = [f"{q.name} ({probes.expected(q.http)})" for q in plan.contracts.quiet]
    return "; ".join(texts) or "a quiet probe, or the operator's word (operator_confirms_idle)"


def _why_clauses(plan: Site) -> str:
    return "; ".join(c.why for c in plan.contracts.clauses if c.why)


TERMS = (
    _Term(
        1,
        "sudo without a password",
        lambda _: "`sudo -n true` works",
        "the trial stops and starts services; without root it could not put them back",
        lambda _: "give the login user passwordless sudo on this host, or log in as root",
        _sudo,
        lacks=_nothing,
    ),
    _Term(
        2,
        "production survives the window",
        _expected_clauses,
        "this clause turns a missing tenant into silence; without it production may crash in the window",
        lambda _: "read the code again; if it still protects production, put the new lines into contracts.clauses",
        _clauses,
        lacks=lambda site: "" if site.contracts.clauses else "contracts.clauses",
    ),
    _Term(
        3,
        "the candidate's port is free",
        lambda plan: f"nobody listens on {plan.candidate.port}",
        "the candidate could not listen there, or another server would be measured",
        lambda plan: f"end what listens on {plan.candidate.port}, or choose another candidate.port",
        _free_port,
    ),
    _Term(
        4,
        "ports are held by their tenants",
        lambda plan: "; ".join(f"{t.port} by {t.process}" for t in plan.tenants if t.port and t.process) or "nothing",
        "another program on a tenant's port makes every later check meaningless",
        lambda _: "start the tenant, or correct port, process, user and listener in the inventory",
        _held_ports,
        lacks=_tenants,
    ),
    _Term(
        5,
        "production's prompt can be extracted",
        lambda plan: (
            f"{plan.contracts.prompt.function} in {plan.contracts.prompt.file}"
            + (f" with sha256 {plan.contracts.prompt.sha256}" if plan.contracts.prompt.sha256 else "")
        ),
        "the candidate is asked what production asks, word for word",
        lambda _: "correct contracts.prompt in the inventory",
        _prompt,
        trial_only=True,
    ),
    _Term(
        6,
        "every tenant is healthy",
        lambda plan: (
            "healthy, able to stop in bounded time and to start again, with all that goes down with them: "
            + ", ".join(t.name for t in plan.tenants)
        ),
        "a defect from before the trial could not be told apart from one that the trial caused",
        lambda _: "repair the named tenant first",
        _healthy,
        lacks=_tenants,
    ),
    _Term(
        7,
        "there is room",
        _expected_room,
        "a trial that runs out of room in the window costs the tenants their service for nothing",
        lambda _: "free room, or correct gpu.total_gb_min, contracts.disk_gb_min and contracts.ram_gb_min",
        _room,
        lacks=_nothing,
    ),
    _Term(
        8,
        "docker works and sees the GPU",
        lambda plan: f"docker answers, GPU access by {plan.candidate.gpu_access}",
        "the candidate runs in a container",
        lambda plan: (
            "start docker, and install the NVIDIA container toolkit"
            + (" (nvidia-ctk cdi generate)" if plan.candidate.gpu_access == "cdi" else "")
        ),
        _docker,
    ),
    _Term(
        9,
        "no other trial holds this host",
        lambda _: "no open mark, no running trial",
        "two trials would stop and restore each other's tenants",
        lambda _: "ask the host (sudo model-trial status); to end it and put everything back, run restore.yml",
        _alone,
        lacks=_nothing,
    ),
    _Term(
        10,
        "the camera image exists and is complete",
        _expected_camera,
        "both models are asked about this picture",
        lambda plan: (
            "put a camera image there, or correct contracts.camera" + (" or trial_scenes" if plan.scenes else "")
        ),
        _camera,
        trial_only=True,
    ),
    _Term(
        11,
        "everything is pinned",
        lambda _: "the image by sha256, the candidate's revision by 40 hex digits, every file by sha256",
        "an unpinned part may differ from what was reviewed, and nobody could repeat the result",
        lambda _: "run `make pin` and commit what it writes",
        _pins,
        trial_only=True,
    ),
    _Term(
        12,
        "the host is quiet",
        _expected_quiet,
        "people would lose a service while they use it",
        lambda _: "wait until the host is idle, or say so yourself: -e operator_confirms_idle=true",
        _quiet,
        lacks=lambda site: "" if site.contracts.quiet else "contracts.quiet",
    ),
    _Term(
        13,
        "it is still the model it was made from",
        _expected_ground_truth,
        "a conversion may have changed the model; the tenants would be stopped to measure the wrong one",
        lambda _: (
            "produce a verdict with `trialbench check` and name its file in ground_truth_verdicts, or go without one: "
            "-e ground_truth_required=false"
        ),
        _ground_truth,
        trial_only=True,
    ),
    _Term(
        14,
        "this host has come back before",
        lambda _: "a passed rehearsal here, of the same tenants, order, units, containers, scripts and program",
        "no run has shown yet that this host comes back; a rehearsal shows it without a candidate",
        lambda _: "rehearse first: ansible-playbook rehearse.yml (make rehearse); it takes as long as stop and start",
        _rehearsed,
        trial_only=True,
        required=lambda plan: plan.require_rehearsal,
    ),
)


def _contract(term: _Term, plan: Site, result: _Finding | Exception) -> Contract:
    if isinstance(result, NoSudo):
        text = str(result) if term.id == 1 else f"only root may see this, and sudo does not work (contract 1): {result}"
        result = _Finding(False, text, "" if term.id == 1 else "repair contract 1 first")
    elif isinstance(result, Exception):
        expected = isinstance(result, (production.ProductionError, gpu.GpuError, TimeoutError))
        result = _Finding(False, str(result) if expected else f"cannot be evaluated: {result!r}")
    why = (_why_clauses(plan) if term.id == 2 else "") or term.why
    todo = "" if result.ok else result.todo or term.todo(plan)
    spared = isinstance(plan, Plan) and plan.rehearsal and not result.ok and (term.trial_only or result.trial_only)
    # A contract that the inventory does not require holds with a warning.
    lenient = not result.ok and not spared and not term.required(plan)
    warning = f"{result.found}. What to do: {todo}." if lenient else result.warning
    ok = result.ok or spared or lenient
    found = (term.id, term.name, term.expected(plan), result.found, ok, why, todo, spared, warning)
    return Contract(*found, labels=result.labels)


def _evaluate(terms: Sequence[_Term], plan: Site, host: Host) -> list[Contract]:
    def job(term: _Term) -> Callable[[], _Finding]:
        return lambda: term.look(plan, host)

    results = _together([job(term) for term in terms], TOGETHER_S)
    return [_contract(term, plan, result) for term, result in zip(terms, results, strict=True)]


def _lacks(term: _Term, plan: Site) -> str:
    return "" if isinstance(plan, Plan) else term.lacks(plan)


def chosen(plan: Site, only: Sequence[int] = ()) -> list[_Term]:
    """The contracts with these numbers, or all that the given facts suffice for, ordered by id.

    Raises:
        NoSuchContract: a number that no contract has, or whose contract needs more than is known.
    """
    fit = [term for term in TERMS if not _lacks(term, plan)]
    unfit = sorted(set(only) - {term.id for term in fit})
    if unfit:
        there = ", ".join(f"{term.id} ({term.name})" for term in fit)
        missing = {term.id: f" (it needs {_lacks(term, plan)})" for term in TERMS if _lacks(term, plan)}
        found = ", ".join(f"{number}{missing.get(number, '')}" for number in unfit)
        raise NoSuchContract(f"only: expected numbers of contracts: {there}; found {found}")
    return [term for term in fit if not only or term.id in only]


def evaluate(plan: Site, host: Host | None = None, only: Sequence[int] = ()) -> list[Contract]:
    """Evaluate contracts concurrently, ordered by id; this takes at most about three seconds.

    Args:
        plan: a trial's; or what lives on a host where nothing is tried, and then without what needs more.
        host: where to look.
        only: numbers of contracts; all of them where there are none.

    Raises:
        NoSuchContract: as `chosen`, before anything is looked at.
    """
    return _evaluate(chosen(plan, only), plan, host or Host())


def quiet(plan: Plan, host: Host | None = None) -> list[Contract]:
    """Evaluate the contracts that can break at any moment again, right before the first stop."""
    return _evaluate([term for term in TERMS if term.look is _quiet], plan, host or Host())


def message(broken: Sequence[Contract]) -> str:
    """All broken contracts in words, a paragraph each."""
    parts = [
        f"Contract {c.id}, {c.name}: broken.\n  expected: {c.expected}\n  found: {c.found}"
        f"\n  why it matters: {c.why}\n  what to do: {c.todo}"
        for c in broken
    ]
    return "\n\n".join(parts)
