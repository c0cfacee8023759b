# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU's memory: how much is used, by whom, and whether it has drained.

Figures are whole MiB as nvidia-smi shows them (NVML's second memory structure; where a driver knows only the first
one, its own reserve counts as used), read on the host: inside a container process lists are empty or show numbers that
mean nothing there. The driver may fail or hang; both end in a `GpuError` within a bounded time (see `driver`).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import driver, telemetry

GpuError = driver.GpuError

OPEN_TIMEOUT_S = driver.OPEN_TIMEOUT_S
READ_TIMEOUT_S = 3.0
# Without a target a level counts as drained when it has stayed within this much for this long.
STABLE_MIB = 64
STABLE_S = 0.5
POLL_S = 0.075
# How long the end of a sampler waits for the reading under way.
_STOP_GRACE_S = 0.1
# The share of its interval for which a sampler waits for the telemetry that goes with a reading.
_TELEMETRY_SHARE = 0.3
# A series ends here, after three hours where a line has 600 bytes, as on the twin: a restore may fail for days.
SERIES_BYTES = 64 << 20
_COMMAND_CHARS = 60
# Why nothing can be read where an inventory names no card.
NONE = "the inventory names no card (trial_gpu)"


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of the GPU; ``mib`` is None where the driver does not report it."""

    pid: int
    mib: int | None
    command: str


@dataclass(frozen=True)
class Vram:
    """Memory of one card at one moment; ``t_s`` is CLOCK_MONOTONIC."""

    t_s: float
    used_mib: int
    total_mib: int
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True)
class Drained:
    """How a drain ended; ``holders`` are those still there, ``error`` why the last reading failed, if it did.

    ``used_mib`` is 0 when no reading succeeded at all; then ``ok`` is false and ``error`` says why.
    """

    ok: bool
    used_mib: int
    target_mib: int | None
    duration_s: float
    holders: tuple[Holder, ...] = ()
    error: str = ""


def describe(holders: Iterable[Holder]) -> str:
    """The holders in words: ``PID 812 llama-server --port 11435 4900 MiB``; ``nobody`` when there is none."""
    parts = []
    for holder in holders:
        command = holder.command or "(unknown command)"
        if len(command) > _COMMAND_CHARS:
            command = command[: _COMMAND_CHARS - 1] + "…"
        size = "size unknown" if holder.mib is None else f"{holder.mib} MiB"
        parts.append(f"PID {holder.pid} {command} {size}")
    return ", ".join(parts) or "nobody"


class Card:
    """One NVIDIA card, kept open so that ten readings a second cost nothing.

    Raises:
        GpuError: there is no such card, or the driver does not answer.
    """

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self._asked = driver.Driver(index, OPEN_TIMEOUT_S)
        self.name, self.driver = self._asked.name, self._asked.version

    def read(self, timeout_s: float = READ_TIMEOUT_S) -> Vram:
        """Used and total memory with the processes that hold it.

        Raises:
            GpuError: the driver erred, or did not answer within ``timeout_s``.
        """
        found = self._asked.read(timeout_s)
        holders = tuple(Holder(*one) for one in found["holders"])
        return Vram(found["t_s"], found["used_mib"], found["total_mib"], holders)

    def vitals(self) -> telemetry.Background:
        """Clocks, power and so on, read in a thread of their own, so that a hanging driver delays no `read`."""
        return telemetry.Background(self._asked.vitals, self._asked.every_s)

    def close(self) -> None:
        """Close the driver, without waiting for one that hangs."""
        self._asked.close()


class Opening:
    """A card that is being opened in the background: a driver that is slow, fails or hangs does not block the caller.

    Args:
        index: the card's number; None on a host without a card; then nothing waits.
    """

    def __init__(self, index: int | None) -> None:
        self._card: Card | None = None
        self._error = "" if index is not None else NONE
        self._thread = threading.Thread(target=self._open, args=(index,), name="gpu-opening", daemon=True)
        self._thread.start()

    def _open(self, index: int | None) -> None:
        if index is None:
            return
        try:
            self._card = Card(index)
        except GpuError as err:
            self._error = str(err)

    @property
    def error(self) -> str:
        """Why there is no card, as far as that is known yet."""
        return self._error or ("" if self._card else "the GPU's driver has not answered yet")

    def card(self, wait_s: float) -> Card | None:
        """The card, or None while it cannot be read; waits at most ``wait_s`` seconds for it."""
        self._thread.join(max(0.0, wait_s))
        return self._card


class Sampler:
    """Reads the card continuously in the background, and writes ``vram.jsonl``.

    A line: ``{"t_s", "used_mib", "total_mib", "processes": [{"pid", "mib", "command"}], "phase"}``, and the keys of
    `telemetry.CARD_KEYS` and `telemetry.HOST_KEYS`, null where unknown; ``missing`` says why, by key, in the first
    line and wherever that changes. The file grows to `SERIES_BYTES` at most. Trouble with the card or the file is kept
    in `error` and tried again at the next tick: a gap in the series is visible, a dead thread is not. Telemetry is read
    after the memory, and waited for at most a fraction of the interval.

    Args:
        card: what to read; it is not closed here.
        path: file to append to.
        interval_s: seconds between readings.
        phase: name of the first segment.
    """

    def __init__(self, card: Card, path: Path, interval_s: float = 0.1, phase: str = "") -> None:
        self._card, self._path, self.interval_s = card, path, interval_s
        self._lock = threading.Lock()
        self._phase, self._peak_mib = phase, -1
        self._last: Vram | None = None
        self._error = ""
        self._stopping = threading.Event()
        self._load, self._telemetry = telemetry.HostLoad(), card.vitals()
        self._missing: dict[str, str] = {}
        self._thread = threading.Thread(target=self._loop, name="vram-sampler", daemon=True)
        self._thread.start()

    @property
    def peak_mib(self) -> int:
        """Largest used memory of the current segment; reads the card now if the segment has no reading yet.

        Raises:
            GpuError: there is no reading yet, and the card does not answer.
        """
        with self._lock:
            peak_mib = self._peak_mib
        return peak_mib if peak_mib >= 0 else self._card.read().used_mib

    @property
    def last(self) -> Vram | None:
        """The latest reading; its ``t_s`` says how old it is."""
        with self._lock:
            return self._last

    @property
    def error(self) -> str:
        """Why the latest tick failed, empty when it did not."""
        with self._lock:
            return self._error

    def segment(self, name: str) -> None:
        """Begin a new segment: lines carry ``name`` as phase, and the maximum is reset."""
        with self._lock:
            self._phase, self._peak_mib = name, -1

    def stop(self) -> None:
        """End the thread without waiting for a hanging reading: the caller has tenants to start."""
        self._stopping.set()
        self._telemetry.stop()
        self._thread.join(self.interval_s + _STOP_GRACE_S)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            self._tick()
            due = max(due + self.interval_s, time.monotonic())
            self._stopping.wait(due - time.monotonic())

    def _tick(self) -> None:
        with self._lock:
            phase = self._phase
        error = ""
        try:
            vram = self._card.read()
            with self._lock:
                self._last = vram
                # A reading begun before the segment changed belongs to the old one.
                if self._phase == phase:
                    self._peak_mib = max(self._peak_mib, vram.used_mib)
            self._write(vram, phase)
        except (GpuError, OSError) as err:
            error = str(err)
        with self._lock:
            self._error = error

    def _write(self, vram: Vram, phase: str) -> None:
        line: dict[str, Any] = {
            "t_s": round(vram.t_s, 4),
            "used_mib": vram.used_mib,
            "total_mib": vram.total_mib,
            "processes": [{"pid": h.pid, "mib": h.mib, "command": h.command} for h in vram.holders],
            "phase": phase,
            **self._load.read(),
        }
        reading = self._telemetry.take(self.interval_s * _TELEMETRY_SHARE)
        line.update((reading or telemetry.Reading()).values)
        if reading and reading.missing != self._missing:
            self._missing = line["missing"] = reading.missing
        # Reopened each time: a full or missing disk must cost single lines, not the rest of the series.
        with open(self._path, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            if file.tell() < SERIES_BYTES:
                file.write(json.dumps(line) + "\n")


class _Stillness:
    """How long a level has stayed within `STABLE_MIB`."""

    def __init__(self) -> None:
        self._low = self._high = 0
        self._since_s: float | None = None

    def reached(self, now_s: float, used_mib: int) -> bool:
        low, high = min(self._low, used_mib), max(self._high, used_mib)
        if self._since_s is None or high - low > STABLE_MIB:
            low = high = used_mib
            self._since_s = now_s
        self._low, self._high = low, high
        return now_s - self._since_s >= STABLE_S


def drain(
    card: Card,
    target_mib: int | None,
    *,
    tolerance_mib: int = 300,
    min_s: float = 0.0,
    limit_s: float = 30.0,
    blind_s: float | None = None,
    pids: Collection[int] = (),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_sample: Callable[[Vram], None] | None = None,
) -> Drained:
    """Wait until memory has been given back; never ends a process.

    Drained means: none of ``pids`` holds memory any more, and the used memory is at most ``target_mib`` +
    ``tolerance_mib``; without a target, it has stayed within `STABLE_MIB` for `STABLE_S`.

    Args:
        card: the card to read, every `POLL_S`.
        target_mib: the level to fall to, None where it is not known.
        tolerance_mib: how far above the target still counts.
        min_s: wait at least this long, however fast memory falls.
        limit_s: give up after this long.
        blind_s: give up when no reading has succeeded for this long, but not before ``min_s``.
        pids: the processes that must hold nothing.
        clock: seconds, monotonic.
        sleep: waits that many seconds.
        on_sample: called with each reading.

    Returns:
        How it ended. A failed reading alone is no reason to give up.
    """
    began_s = clock()
    stillness, vram, error = _Stillness(), None, ""
    seen_s = began_s
    while True:
        done, error = False, ""
        try:
            vram = card.read() if blind_s is None else card.read(blind_s)
        except GpuError as err:
            error = str(err)
        else:
            seen_s = clock()
            if on_sample:
                on_sample(vram)
            free = not {h.pid for h in vram.holders} & set(pids)
            still = stillness.reached(clock(), vram.used_mib)
            done = free and (still if target_mib is None else vram.used_mib <= target_mib + tolerance_mib)
        duration_s = clock() - began_s
        blind = bool(error) and blind_s is not None and clock() - seen_s >= blind_s
        if ((done or blind) and duration_s >= min_s) or duration_s >= limit_s:
            ok = done and duration_s >= min_s
            used_mib, holders = (vram.used_mib, vram.holders) if vram else (0, ())
            return Drained(ok, used_mib, target_mib, duration_s, holders, error)
        sleep(min(POLL_S, limit_s - duration_s))


def undrained(drained: Drained, tolerance_mib: int) -> str:
    """A failed drain in words: what was expected, what is left, and who holds it."""
    if drained.target_mib is None:
        wanted = "a constant level, and nothing held by the given processes"
    else:
        wanted = f"at most {drained.target_mib} + {tolerance_mib} MiB, and nothing held by the given processes"
    found = f"{drained.used_mib} MiB, held by {describe(drained.holders)}"
    if drained.error:
        found = f"{found}; the last reading failed: {drained.error}"
    return f"GPU memory did not drain in {drained.duration_s:.1f} s: expected {wanted}; found {found}"
