"""The GPU of the digital twin: a ledger of who holds how much memory, derived from live processes.

Nothing reports to this daemon. It looks at ``/proc`` (nested containers included): a process that has mapped a model
file holds what that model would take on the card, two Python programs hold what their table entry says, and all of it
is keyed by PID *and* start time. Memory ramps up while a model loads, lingers after its process died, and a load that
does not fit kills the newcomer. The result is ``/run/twin-gpu/ledger``, which ``libnvidia-ml.so.1`` reads.

Standard library only; runs in the twin as ``twin-gpu.service``. See ``README.md`` for how honest this is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

# NVML's bits for why clocks are not higher.
REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
# What a driver may be unable to tell, and with it the calls that then say "not supported".
TELEMETRY = ("clocks", "power", "energy", "temperature", "utilization", "reasons")
IDLE_MHZ, BUSY_MHZ, THROTTLED_SHARE = 1200, 2452, 0.6
IDLE_MW, PER_HOLDER_MW, PER_PERCENT_MW = 18_000, 2_500, 2_200
# The card warms toward this temperature and so many degrees for each W, by two thirds of the way in so many seconds.
COOL_C, PER_W_C, WARMING_S = 34.0, 0.15, 20.0
LOADING_PERCENT = 45.0
# CPU time is counted in ticks of 10 ms: over a shorter time a share would be noise.
ACTIVITY_S = 0.2
GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
# A process is looked at in every round while it is young, and then only now and again: programs load early. As long as
# its command line stays the same even a young one's memory map is read less often: that costs most, and the plays of a
# trial start so many short programs that the observer would take more of the machine than the tenants.
YOUNG_S = 4.0
LOOK_AGAIN_S = 1.0
READ_AGAIN_S = 0.1
READ_BYTES = 1 << 16
# States of a process that is no more than an entry in the table.
GONE = {"Z", "X"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the card behaves. Sizes in MiB, times in seconds."""

    total_mib: int = 16303
    reserved_mib: int = 347
    base_mib: int = 420
    ramp_s: float = 0.6
    linger_s: float = 0.6
    # A tiny model is loaded 35 ms after its server was executed; the server must be seen before that.
    round_s: float = 0.01
    write_s: float = 0.05
    # While its memory ramps up, a loading process stands still: on a real card no server is healthy before its
    # weights are there, and a tiny model would otherwise answer before the ledger has moved.
    stall: bool = True
    kv_mib_per_1024: int = 16
    reference_context: int = 4096
    layers: int = 36
    cpu_only_mib: int = 400
    models: dict[str, int] = dataclasses.field(default_factory=dict)
    programs: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: pathlib.Path) -> Settings:
        """Read settings from JSON: the fields of this class.

        ``models`` is {sha256: MiB}, ``programs`` {"script [argument]": MiB}. Raises ValueError for an unknown field.
        """
        content = json.loads(path.read_text())
        unknown = sorted(set(content) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"{path}: unknown settings {unknown}")
        return cls(**content)


@dataclasses.dataclass(frozen=True)
class Faults:
    """The switches of ``faults.json``; an absent one is off."""

    nvml: str = "none"  # "error", "init_error", "hang"
    nvml_code: int = 0
    unavailable: bool = False  # the memory of a process can't be told (None in pynvml, N/A in nvidia-smi)
    stuck: bool = False  # memory of dead processes stays until this is switched off
    linger_s: float | None = None  # slow drain
    ramp_s: float | None = None  # slow load
    foreign: tuple[tuple[str, int, str], ...] = ()  # (command, MiB, "C" | "G" | "C+G"): a live helper process each
    model_mib: tuple[tuple[str, int], ...] = ()  # (piece of a model's file name, MiB): overrides the table
    throttle: tuple[str, ...] = ()  # reasons why clocks are low, by name
    unsupported: tuple[str, ...] = ()  # what the driver can't tell, of `TELEMETRY`

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read the switches from JSON text (the README lists them). Raises ValueError when they make no sense."""
        content = json.loads(text or "{}")
        if not isinstance(content, dict):
            raise ValueError("faults: expected an object")
        unknown = sorted(set(content) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"faults: unknown switches {unknown}")
        nvml = content.get("nvml", "none")
        if nvml not in {"none", "error", "init_error", "hang"}:
            raise ValueError(f"faults: nvml is {nvml!r}, expected none, error, init_error or hang")
        named = {}
        for switch, known in (("throttle", tuple(REASONS)), ("unsupported", TELEMETRY)):
            named[switch] = tuple(str(name) for name in content.get(switch, ()))
            strange = sorted(set(named[switch]) - set(known))
            if strange:
                raise ValueError(f"faults: {switch} names {strange}, expected some of {', '.join(known)}")
        default_code = {"error": GPU_IS_LOST, "init_error": DRIVER_NOT_LOADED}.get(nvml, 0)
        foreign = [
            (str(one.get("command", "foreign")), int(one["mib"]), str(one.get("type", "C")))
            for one in content.get("foreign", ())
        ]
        return cls(
            nvml=nvml,
            nvml_code=int(content.get("nvml_code", default_code)),
            unavailable=bool(content.get("unavailable", False)),
            stuck=bool(content.get("stuck", False)),
            linger_s=None if content.get("linger_s") is None else float(content["linger_s"]),
            ramp_s=None if content.get("ramp_s") is None else float(content["ramp_s"]),
            foreign=tuple(foreign),
            model_mib=tuple((str(name), int(mib)) for name, mib in dict(content.get("model_mib", {})).items()),
            throttle=named["throttle"],
            unsupported=named["unsupported"],
        )


@dataclasses.dataclass(frozen=True)
class Identity:
    """A process, not just a number: its PID and its start time in clock ticks since boot."""

    pid: int
    start: int


@dataclasses.dataclass
class Holder:
    """A process with memory on the card. Times on the monotonic clock; ``died_s`` is None while it lives."""

    who: Identity
    command: str
    target_mib: int
    kind: str
    born_s: float
    ramp_s: float
    died_s: float | None = None
    held_at_death_mib: int = 0

    def mib(self, now: float) -> int:
        """Return what it holds now: a ramp up to its target, and what it held when it died."""
        if self.died_s is not None:
            return self.held_at_death_mib
        share = 1.0 if self.ramp_s <= 0 else min(1.0, max(0.0, (now - self.born_s) / self.ramp_s))
        return int(self.target_mib * share)

    def loading(self, now: float) -> bool:
        return self.died_s is None and now - self.born_s < self.ramp_s


@dataclasses.dataclass
class Vitals:
    """What the card does besides holding memory. Work is the CPU time of the processes that hold memory on it.

    Attributes:
        percent: share of the time in which one of them was at work (all cores of them together count as one card).
        celsius, milliwatt, energy_mj: temperature, power, and the energy since this daemon began.
    """

    percent: float = 0.0
    celsius: float = COOL_C
    milliwatt: float = float(IDLE_MW)
    energy_mj: float = 0.0
    _seen_s: float | None = None
    _counted_s: float | None = None
    _ticks: dict[Identity, int] = dataclasses.field(default_factory=dict)

    def advance(self, now: float, ticks: dict[Identity, int], live: int, loading: int) -> None:
        """Go on to ``now``.

        Args:
            now: seconds, monotonic.
            ticks: CPU time of each living holder so far, in clock ticks.
            live: number of living holders.
            loading: how many of them are loading.
        """
        if self._counted_s is None or now - self._counted_s >= ACTIVITY_S:
            spent = sum(count - self._ticks.get(who, count) for who, count in ticks.items())
            span_s = now - self._counted_s if self._counted_s is not None else 0.0
            share = 100.0 * spent / os.sysconf("SC_CLK_TCK") / span_s if span_s else 0.0
            self.percent = min(100.0, max(0.0, share))
            self._counted_s, self._ticks = now, ticks
        if loading:
            self.percent = max(self.percent, LOADING_PERCENT)
        elapsed_s = max(0.0, now - self._seen_s) if self._seen_s is not None else 0.0
        self.energy_mj += self.milliwatt * elapsed_s
        self.milliwatt = IDLE_MW + PER_HOLDER_MW * live + PER_PERCENT_MW * self.percent
        goal = COOL_C + PER_W_C * self.milliwatt / 1000
        self.celsius += (goal - self.celsius) * min(1.0, elapsed_s / WARMING_S)
        self._seen_s = now

    def lines(self, faults: Faults) -> list[str]:
        """Return the ledger's lines about this."""
        names = [*faults.throttle, *([] if self.percent else ["gpu_idle"])]
        mhz = BUSY_MHZ if self.percent else IDLE_MHZ
        slowed = any("slowdown" in name for name in faults.throttle)
        return [
            f"temperature_c {round(self.celsius)}",
            f"power_mw {round(self.milliwatt)}",
            f"energy_mj {round(self.energy_mj)}",
            f"utilization_percent {round(self.percent)}",
            f"sm_mhz {round(mhz * (THROTTLED_SHARE if slowed else 1))}",
            "memory_mhz 13801",
            "fan_percent 30",
            f"throttle_reasons {sum({REASONS[name] for name in names}):x}",
            f"unsupported {','.join(faults.unsupported) or 'nothing'}",
        ]


class Card:
    """The ledger: who holds what. Knows no process table and no clock; both come in with each call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.holders: dict[Identity, Holder] = {}
        self.vitals = Vitals()

    def admit(self, who: Identity, command: str, mib: int, now: float, *, kind: str = "C", ramp_s: float) -> Holder:
        """Let a process begin to load; a process already there keeps what it has."""
        return self.holders.setdefault(who, Holder(who, command, mib, kind, now, ramp_s))

    def used_mib(self, now: float) -> int:
        return self.settings.base_mib + sum(holder.mib(now) for holder in self.holders.values())

    def advance(self, now: float, alive: Callable[[Identity], bool], faults: Faults) -> list[Holder]:
        """Bury the dead, free what lingered long enough, and return the loading processes that don't fit.

        A victim's memory counts as held until it is gone, so the caller must end it.
        """
        linger_s = self.settings.linger_s if faults.linger_s is None else faults.linger_s
        for holder in list(self.holders.values()):
            if holder.died_s is None and not alive(holder.who):
                holder.held_at_death_mib = holder.mib(now)
                holder.died_s = now
            if holder.died_s is not None and now - holder.died_s >= linger_s and not faults.stuck:
                del self.holders[holder.who]
        capacity = self.settings.total_mib - self.settings.reserved_mib
        # An allocation waits for memory that the driver is giving back anyway, or no quick restart would ever succeed.
        # It does not wait for memory that stays longer than usual.
        returning = sum(
            holder.held_at_death_mib
            for holder in self.holders.values()
            if holder.died_s is not None and now - holder.died_s < self.settings.linger_s and not faults.stuck
        )
        excess = self.used_mib(now) - returning - capacity
        victims = []
        # The youngest load is the one whose allocation fails.
        for holder in sorted(self.holders.values(), key=lambda one: -one.born_s):
            if excess > 0 and holder.loading(now):
                victims.append(holder)
                excess -= holder.mib(now)
        return victims

    def render(self, now: float, faults: Faults) -> str:
        """Return the ledger as the library reads it: one fact a line. Only the living are listed as processes."""
        live = [holder for holder in self.holders.values() if holder.died_s is None]
        capacity = self.settings.total_mib - self.settings.reserved_mib
        lines = [
            "version 1",
            f"total_mib {self.settings.total_mib}",
            f"reserved_mib {self.settings.reserved_mib}",
            f"used_mib {min(self.used_mib(now), capacity)}",
            *self.vitals.lines(faults),
            f"fault {faults.nvml} {faults.nvml_code}",
        ]
        for holder in sorted(live, key=lambda one: one.who.pid):
            mib = -1 if faults.unavailable else holder.mib(now)
            if mib != 0:
                lines.append(f"process {holder.who.pid} {mib} {holder.kind} {holder.command}")
        return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a llama.cpp program was started, as far as it decides the memory it takes: model file, layers, tokens."""

    model: str | None = None
    gpu_layers: int | None = None
    context: int | None = None


def parse_launch(argv: list[str], environment: dict[str, str]) -> Launch:
    """Read ``-m``, ``-ngl`` and ``-c`` from the command line, else from llama.cpp's environment variables."""

    def look(names: tuple[str, ...], variable: str) -> str | None:
        value = environment.get(variable)
        for position, word in enumerate(argv[:-1]):
            if word in names:
                value = argv[position + 1]
        return value

    def number(text: str | None) -> int | None:
        # "auto" and "all" mean every layer, as when nothing is said.
        return int(text) if text is not None and re.fullmatch(r"\d+", text) else None

    return Launch(
        model=look(("-m", "--model"), "LLAMA_ARG_MODEL"),
        gpu_layers=number(look(("-ngl", "--gpu-layers", "--n-gpu-layers"), "LLAMA_ARG_N_GPU_LAYERS")),
        context=number(look(("-c", "--ctx-size"), "LLAMA_ARG_CTX_SIZE")),
    )


def model_mib(settings: Settings, table_mib: int, launch: Launch) -> int:
    """Return the MiB a model takes: its table value holds for all layers and the reference context (tokens)."""
    context = launch.context or settings.reference_context
    cache = settings.kv_mib_per_1024 * (context - settings.reference_context) // 1024
    whole = max(settings.cpu_only_mib, table_mib + cache)
    layers = settings.layers if launch.gpu_layers is None else min(launch.gpu_layers, settings.layers)
    return settings.cpu_only_mib + (whole - settings.cpu_only_mib) * layers // settings.layers


def estimate_mib(size_bytes: int) -> int:
    """Return what a model that is in no table takes: its file, a fifth for buffers, and a context."""
    return size_bytes * 6 // 5 // (1024 * 1024) + 500


@dataclasses.dataclass(slots=True)
class Seen:
    """What was last seen of a PID: start time in clock ticks, command line; times on the monotonic clock."""

    start: int
    first_s: float
    due_s: float = 0.0
    argv: bytes = b""
    read_s: float = float("-inf")


class Processes:
    """The process table below ``proc`` (a parameter, so that tests can lay one out)."""

    def __init__(self, settings: Settings, proc: pathlib.Path = pathlib.Path("/proc")) -> None:
        self.settings = settings
        self.proc = proc
        self._table = str(proc)
        self._digests: dict[tuple[int, int, int], tuple[str, int]] = {}
        self._seen: dict[int, Seen] = {}
        self.programs = {tuple(name.split()): mib for name, mib in settings.programs.items()}

    def pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._table) if name.isdigit()]

    def _read(self, pid: int, name: str) -> bytes:
        """Return a file of a process, nothing when it is gone.

        Plain descriptors, and no second read to see the end: this runs up to a thousand times a second.
        """
        try:
            file = os.open(f"{self._table}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            whole = part = os.read(file, READ_BYTES)
            while len(part) == READ_BYTES:
                part = os.read(file, READ_BYTES)
                whole += part
            return whole
        except OSError:
            return b""
        finally:
            os.close(file)

    def _stat(self, pid: int) -> list[str] | None:
        """Return the fields of ``/proc/PID/stat`` from the state on (index 0), None when the process is gone."""
        stat = self._read(pid, "stat")
        if not stat:
            return None
        # The command may contain anything; the fields begin after the last parenthesis.
        return stat[stat.rindex(b")") + 2 :].decode("ascii").split()

    def start_time(self, pid: int) -> int | None:
        """Return the start time of a process in clock ticks, None when it is gone or only a zombie is left."""
        fields = self._stat(pid)
        return None if fields is None or fields[0] in GONE else int(fields[19])

    def alive(self, who: Identity) -> bool:
        return self.start_time(who.pid) == who.start

    def cpu_ticks(self, who: Identity) -> int | None:
        """Return the CPU time that a process has used, in clock ticks, None when it is gone."""
        fields = self._stat(who.pid)
        return None if fields is None or int(fields[19]) != who.start else int(fields[11]) + int(fields[12])

    def stopped(self, pid: int) -> bool:
        fields = self._stat(pid)
        return fields is not None and fields[0] == "T"

    def age_s(self, who: Identity) -> float:
        """Return for how long a process has been there, in seconds."""
        up_s = float((self.proc / "uptime").read_text().split()[0])
        return max(0.0, up_s - who.start / os.sysconf("SC_CLK_TCK"))

    def newcomers(self, now: float, known: Iterable[Identity]) -> list[tuple[Identity, str, int, str]]:
        """Return the processes that hold memory and are not ``known``: identity, command, MiB, file or program."""
        held = {who.pid: who.start for who in known}
        found = []
        pids = self.pids()
        for pid in pids:
            seen = self._seen.get(pid)
            if seen is not None and now < seen.due_s:
                continue
            fields = self._stat(pid)
            if fields is None or fields[0] in GONE:
                continue
            start, parent = int(fields[19]), int(fields[1])
            if seen is None or seen.start != start:
                seen = self._seen[pid] = Seen(start, now)
            young = now - seen.first_s < YOUNG_S
            seen.due_s = now if young else now + LOOK_AGAIN_S
            if held.get(pid) == start:
                continue
            argv = self._read(pid, "cmdline")
            if young and argv == seen.argv and now < seen.read_s + READ_AGAIN_S:
                continue
            seen.argv, seen.read_s = argv, now
            claim = self.claim(pid, parent, argv)
            if claim is not None:
                found.append((Identity(pid, start), *claim))
        for pid in self._seen.keys() - set(pids):
            del self._seen[pid]
        return found

    def claim(self, pid: int, parent: int, words: bytes) -> tuple[str, int, str] | None:
        """Return what a process holds: command, MiB and why (file or program), or None when it holds nothing.

        A llama.cpp program is known by its command line from the moment it is executed, before it has opened its
        model; any other program by the model file that it has mapped. Between fork and exec a child wears its parent's
        command line, but has no memory of its own on the card.
        """
        argv = words.decode(errors="replace").split("\0")[:-1]
        # A process may have overwritten its words with a title that no zero byte ends.
        if not argv or words == self._read(parent, "cmdline"):
            return None
        folder = self.proc / str(pid)
        try:
            program = pathlib.PurePath(argv[0]).name
            if program.startswith("llama-"):
                launch = parse_launch(argv, self._environment(folder))
                return self._model_claim(folder, argv, [launch.model] if launch.model else [], launch)
            # The interpreter must be Python: a shell that searches for these words is not the program.
            if program.startswith("python") and len(argv) > 1:
                for name, mib in self.programs.items():
                    if script_matches(argv, name):
                        return f"{argv[0]} {argv[1]}", mib, " ".join(name)
            return self._model_claim(folder, argv, model_files((folder / "maps").read_bytes()), Launch())
        except OSError:
            # It ended while we looked at it.
            return None

    @staticmethod
    def _environment(folder: pathlib.Path) -> dict[str, str]:
        text = (folder / "environ").read_bytes().decode(errors="replace")
        return {name: value for name, _equals, value in (entry.partition("=") for entry in text.split("\0"))}

    def _model_claim(
        self, folder: pathlib.Path, argv: list[str], models: list[str], launch: Launch
    ) -> tuple[str, int, str] | None:
        mib = 0
        for model in models:
            # Through the root of the process: in a container the path means another file.
            path = model if model.startswith("/") else f"{os.readlink(folder / 'cwd')}/{model}"
            known = self.digest(folder / "root" / path.lstrip("/"))
            if known is None:
                continue
            digest, size = known
            table = self.settings.models.get(digest, estimate_mib(size))
            # 0 in the table: part of another file's figure.
            mib += model_mib(self.settings, table, launch) if table else 0
        return (argv[0], mib, pathlib.PurePath(models[0]).name) if mib else None

    def digest(self, path: pathlib.Path) -> tuple[str, int] | None:
        """Return SHA-256 and size of a file, None when it can't be read; digests are remembered by inode and mtime."""
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                key = (status.st_dev, status.st_ino, status.st_mtime_ns)
                if key not in self._digests:
                    self._digests[key] = (hashlib.file_digest(stream, "sha256").hexdigest(), status.st_size)
        except OSError:
            return None
        return self._digests[key]


def model_files(maps: bytes) -> list[str]:
    """Return the paths of mapped ``.gguf`` files in the text of ``/proc/PID/maps``, each once."""
    if b".gguf" not in maps:
        return []
    paths = []
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6:
            path = fields[5].decode(errors="replace").removesuffix(" (deleted)")
            if path.endswith(".gguf") and path not in paths:
                paths.append(path)
    return paths


def script_matches(argv: list[str], name: tuple[str, ...]) -> bool:
    """Tell whether a Python command line runs the script ``name[0]`` (end of its path) with the arguments after it."""
    script = pathlib.PurePath(argv[1])
    wanted = pathlib.PurePath(name[0])
    return script.parts[-len(wanted.parts) :] == wanted.parts and tuple(argv[2 : 1 + len(name)]) == name[1:]


def atomic_write(path: pathlib.Path, text: str) -> None:
    """Replace a file in one step: readers see the old content or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


class Observer:
    """The daemon: rounds of looking, and the ledger written after them."""

    def __init__(self, settings: Settings, folder: pathlib.Path, processes: Processes | None = None) -> None:
        self.settings = settings
        self.folder = folder
        self.processes = processes or Processes(settings)
        self.card = Card(settings)
        self.faults = Faults()
        self._faults_stamp: tuple[int, int] | None = None
        self._helpers: dict[tuple[str, int, str], subprocess.Popen[bytes]] = {}
        self._stalled: set[Identity] = set()

    def say(self, event: str, **facts: Any) -> None:
        """Write one event to the service's log and to ``events.jsonl`` (bounded by the life of /run)."""
        line = json.dumps({"t_s": round(time.monotonic(), 3), "event": event, **facts})
        print(line, flush=True)
        with contextlib.suppress(OSError), (self.folder / "events.jsonl").open("a") as stream:
            stream.write(line + "\n")

    def read_faults(self) -> None:
        """Take over ``faults.json`` when it changed; nonsense in it is reported and switches nothing."""
        path = self.folder / "faults.json"
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            if self._faults_stamp is not None:
                self._faults_stamp, self.faults = None, Faults()
                self.say("faults", switched=[])
            return
        if stamp == self._faults_stamp:
            return
        self._faults_stamp = stamp
        try:
            self.faults = Faults.parse(path.read_text())
            self.say("faults", switched=sorted(json.loads(path.read_text() or "{}")))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self.say("faults_refused", reason=str(error))

    def keep_helpers(self, now: float) -> None:
        """Start the live processes that stand for foreign holders, and end those no longer wanted."""
        for wanted in self.faults.foreign:
            if wanted in self._helpers:
                continue
            command, mib, kind = wanted
            # exec -a: the helper carries the foreign program's name in the process list.
            helper = subprocess.Popen(["/bin/bash", "-c", 'exec -a "$0" sleep infinity', command])
            self._helpers[wanted] = helper
            start = self.processes.start_time(helper.pid)
            if start is not None:
                self.card.admit(Identity(helper.pid, start), command, mib, now, kind=kind, ramp_s=self.settings.ramp_s)
        for wanted in [one for one in self._helpers if one not in self.faults.foreign]:
            helper = self._helpers.pop(wanted)
            helper.kill()
            helper.wait()

    def look(self, now: float) -> None:
        """One round: new holders begin to load, the dead are buried, what does not fit is ended."""
        ramp_s = self.settings.ramp_s if self.faults.ramp_s is None else self.faults.ramp_s
        for who, command, table_mib, source in self.processes.newcomers(now, self.card.holders):
            mib = next((wanted for piece, wanted in self.faults.model_mib if piece in source), table_mib)
            self.card.admit(who, command, mib, now, ramp_s=ramp_s)
            self.say("load", pid=who.pid, mib=mib, source=source)
            if self.settings.stall and ramp_s > 0 and source.endswith(".gguf"):
                self._signal(who, signal.SIGSTOP)
                self._stalled.add(who)
        buried = {who for who, holder in self.card.holders.items() if holder.died_s is not None}
        for victim in self.card.advance(now, self.processes.alive, self.faults):
            self.say("out_of_memory", pid=victim.who.pid, command=victim.command, wanted_mib=victim.target_mib)
            self._signal(victim.who, signal.SIGKILL)
        for who, holder in self.card.holders.items():
            if holder.died_s is not None and who not in buried:
                self.say("death", pid=who.pid, mib=holder.held_at_death_mib)
        loaded = {who for who in self._stalled if not self._loading(who, now)}
        if loaded:
            # First the ledger, then the process: a server that answers has its memory.
            self.write(now)
        for who in loaded:
            self._stalled.discard(who)
            self._signal(who, signal.SIGCONT)

    def _loading(self, who: Identity, now: float) -> bool:
        holder = self.card.holders.get(who)
        return holder is not None and holder.loading(now)

    def _signal(self, who: Identity, number: signal.Signals) -> None:
        # The start time is compared again: a PID may have changed hands since the last look.
        if self.processes.alive(who):
            with contextlib.suppress(OSError):
                os.kill(who.pid, number)

    def write(self, now: float) -> None:
        live = [holder for holder in self.card.holders.values() if holder.died_s is None]
        ticks = {holder.who: self.processes.cpu_ticks(holder.who) for holder in live}
        known = {who: count for who, count in ticks.items() if count is not None}
        self.card.vitals.advance(now, known, len(live), sum(holder.loading(now) for holder in live))
        atomic_write(self.folder / "ledger", self.card.render(now, self.faults))

    def adopt(self, now: float) -> None:
        """After a start of this daemon: processes that are already there began to load when they started."""
        for who, command, mib, source in self.processes.newcomers(now, ()):
            self.card.admit(who, command, mib, now - self.processes.age_s(who), ramp_s=self.settings.ramp_s)
            self.say("adopted", pid=who.pid, mib=mib, source=source)
            # A predecessor may have died while this one was stalled.
            if self.processes.stopped(who.pid):
                self._signal(who, signal.SIGCONT)

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.adopt(time.monotonic())
        next_write = 0.0
        while True:
            now = time.monotonic()
            self.look(now)
            if now >= next_write:
                self.read_faults()
                self.keep_helpers(now)
                self.write(now)
                next_write = now + self.settings.write_s
            time.sleep(max(0.0, self.settings.round_s - (time.monotonic() - now)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep the ledger of the twin's GPU.")
    parser.add_argument("--settings", type=pathlib.Path, default=pathlib.Path("/etc/twin-gpu/settings.json"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("/run/twin-gpu"))
    arguments = parser.parse_args()
    # Helpers of dead faults must not pile up as zombies, and systemd's stop must end the helpers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Observer(Settings.load(arguments.settings), arguments.folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
