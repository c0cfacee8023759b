# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a card and its host do besides holding memory: clocks, power, temperature, throttling, load, energy.

Gates depend on the VRAM figures only, so nothing here may lose or delay one of those: a function that the driver lacks
is called only once, and a call that hangs does so in its own thread. Unknown values are None, and `Reading.missing`
says why.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Of the card. Clocks in MHz, power in W as the driver averages it, energy in J since the driver was loaded.
CARD_KEYS = (
    "sm_mhz",
    "mem_mhz",
    "power_w",
    "temp_c",
    "util_percent",
    "mem_util_percent",
    "throttle",
    "energy_j",
)
HOST_KEYS = ("load1", "cpu_percent")
# NVML's bits for why clocks are not higher, in nvidia-smi's words.
REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
# Without an answer for this long the driver counts as hanging; until then it is only slow.
LATE_S = 1.0
_MILLI = 1000
_GPU_SENSOR, _SM_CLOCK, _MEMORY_CLOCK = 0, 1, 2
# What a driver answers about a function that it will lack at the next tick, too.
_NEVER = ("NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission")
_NO_SUCH_FIELD = re.compile(r'Field "([\w.]+)" is not a valid field')


@dataclass(frozen=True)
class Reading:
    """Telemetry of one moment: every key of `CARD_KEYS`, None where unknown; ``missing`` is why, by key."""

    values: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(CARD_KEYS))
    missing: dict[str, str] = field(default_factory=dict)


def reasons(bits: int) -> list[str]:
    """Names of the reasons in NVML's bit mask, lowest bit first; a bit without a name is shown as a number."""
    known = [name for bit, name in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return [*known, hex(rest)] if rest else known


def _milli(value: Any) -> dict[str, float]:
    return {"": round(int(value) / _MILLI, 3)}


def _whole(value: Any) -> dict[str, int]:
    return {"": int(value)}


def _rates(value: Any) -> dict[str, int]:
    return {"util_percent": int(value.gpu), "mem_util_percent": int(value.memory)}


def _names(value: Any) -> dict[str, list[str]]:
    return {"": reasons(int(value))}


# Keys, the functions that return them (the first one that the driver has is used), their arguments, and the conversion
# of the answer. A renamed function has several names, and the driver knows one of them.
_CALLS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...], Callable[[Any], dict[str, Any]]], ...] = (
    (("sm_mhz",), ("nvmlDeviceGetClockInfo",), (_SM_CLOCK,), _whole),
    (("mem_mhz",), ("nvmlDeviceGetClockInfo",), (_MEMORY_CLOCK,), _whole),
    (("power_w",), ("nvmlDeviceGetPowerUsage",), (), _milli),
    (("temp_c",), ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"), (_GPU_SENSOR,), _whole),
    (("util_percent", "mem_util_percent"), ("nvmlDeviceGetUtilizationRates",), (), _rates),
    (
        ("throttle",),
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        (),
        _names,
    ),
    (("energy_j",), ("nvmlDeviceGetTotalEnergyConsumption",), (), _milli),
)


class FromNvml:
    """Telemetry through pynvml.

    Args:
        nvml: the module, already initialized.
        handle: the card.
    """

    # Read at every tick: seven calls take a fraction of a millisecond.
    every_s = 0.0

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._never = tuple(getattr(nvml, name) for name in _NEVER if hasattr(nvml, name))
        self._absent: dict[str, str] = {}

    def read(self) -> Reading:
        """All values that the driver has now; it is not asked again for those that it lacks."""
        reading = Reading()
        for keys, functions, arguments, made_of in _CALLS:
            answer, why = self._ask(functions, arguments)
            if not why:
                try:
                    found = made_of(answer)
                    reading.values.update({key or keys[0]: value for key, value in found.items()})
                    continue
                except (AttributeError, TypeError, ValueError) as err:
                    why = f"{functions[0]} returned an unusable answer: {err}"
            reading.missing.update(dict.fromkeys(keys, why))
        return reading

    def _ask(self, functions: tuple[str, ...], arguments: tuple[int, ...]) -> tuple[Any, str]:
        """The answer of the first existing function, and an empty text; or None, and why there is no answer."""
        why = ""
        for name in functions:
            # One function returns several clocks, and may lack one of them.
            known = f"{name}{arguments}"
            if known in self._absent:
                why = why or self._absent[known]
                continue
            try:
                return getattr(self._nvml, name)(self._handle, *arguments), ""
            except AttributeError:
                self._absent[known] = f"{name}: not in this pynvml"
            except Exception as err:
                if not isinstance(err, self._never):
                    # A passing error, or a bug in the library: try again at the next tick.
                    return None, f"{name}: {err}"
                self._absent[known] = f"{name}: {err}"
            why = why or self._absent[known]
        return None, why


# The same for nvidia-smi: key, the fields that may hold it, the conversion of the text. It has no energy counter.
_FIELDS: tuple[tuple[str, tuple[str, ...], Callable[[str], Any]], ...] = (
    ("sm_mhz", ("clocks.sm",), lambda text: int(float(text))),
    ("mem_mhz", ("clocks.mem",), lambda text: int(float(text))),
    ("power_w", ("power.draw",), float),
    ("temp_c", ("temperature.gpu",), lambda text: int(float(text))),
    ("util_percent", ("utilization.gpu",), lambda text: int(float(text))),
    ("mem_util_percent", ("utilization.memory",), lambda text: int(float(text))),
    (
        "throttle",
        ("clocks_event_reasons.active", "clocks_throttle_reasons.active"),
        lambda text: reasons(int(text, 16)),
    ),
)


class FromSmi:
    """Telemetry through nvidia-smi.

    Args:
        query: takes fields, joined by commas, and returns the rows of the answer; raises with nvidia-smi's message.
    """

    # Each question starts a program that loads the driver's library: once a second is affordable.
    every_s = 1.0

    def __init__(self, query: Callable[[str], list[list[str]]]) -> None:
        self._query = query
        self._refused: set[str] = set()

    def read(self) -> Reading:
        """All values that nvidia-smi has now; it is not asked again for a field that it does not know."""
        while True:
            fields = {key: next((n for n in names if n not in self._refused), "") for key, names, _unused in _FIELDS}
            asked = [name for name in fields.values() if name]
            try:
                row = self._query(",".join(asked))[0] if asked else []
            except Exception as err:
                refused = _NO_SUCH_FIELD.search(str(err))
                if refused and refused[1] in asked:
                    # One unknown field makes the whole answer fail: ask again without it.
                    self._refused.add(refused[1])
                    continue
                return Reading(missing=dict.fromkeys(CARD_KEYS, str(err) or "nvidia-smi gave no answer"))
            return self._read(fields, dict(zip(asked, row, strict=False)))

    @staticmethod
    def _read(fields: dict[str, str], row: dict[str, str]) -> Reading:
        reading = Reading(missing={"energy_j": "nvidia-smi has no energy counter; pynvml has"})
        for key, names, made_of in _FIELDS:
            name = fields[key]
            try:
                reading.values[key] = made_of(row[name])
            except (KeyError, ValueError):
                told = repr(row[name]) if name in row else "nothing"
                known = f"nvidia-smi answers {told}" if name else "nvidia-smi does not know this field"
                reading.missing[key] = f"{name or names[-1]}: {known}"
        return reading


class Background:
    """Reads telemetry in its own thread, once per request, and never twice at a time.

    Args:
        read: returns a reading; may be slow, raise, or hang.
        every_s: seconds between two questions, at least.
        clock: seconds, monotonic.
    """

    def __init__(
        self, read: Callable[[], Reading], every_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._every_s, self._clock = read, every_s, clock
        self._changed = threading.Condition()
        self._asked_s: float | None = None
        self._busy = self._ended = False
        self._fresh: Reading | None = None
        self._thread = threading.Thread(target=self._loop, name="gpu-telemetry", daemon=True)
        self._thread.start()

    def take(self, wait_s: float) -> Reading | None:
        """Ask, and wait at most ``wait_s`` for the answer; each answer is returned once.

        Returns:
            A reading; None when none is due or none has come yet. While the driver hangs, an empty reading says so.
        """
        with self._changed:
            now = self._clock()
            due = self._asked_s is None or now - self._asked_s >= self._every_s
            # An answer that missed its tick is returned with this one before the next question is asked; otherwise
            # each answer would carry the time of the next tick.
            if due and not self._busy and self._fresh is None:
                self._busy, self._asked_s = True, now
                self._changed.notify_all()
            if self._busy:
                self._changed.wait_for(lambda: self._fresh is not None or self._ended, wait_s)
            fresh, self._fresh = self._fresh, None
            if fresh is None and self._busy and self._asked_s is not None and now - self._asked_s > LATE_S:
                return Reading(missing=dict.fromkeys(CARD_KEYS, "the driver has not answered yet"))
            return fresh

    def stop(self) -> None:
        """Let the thread end, without waiting for one that hangs."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._busy or self._ended)
                if self._ended:
                    return
            try:
                reading = self._read()
            except Exception as err:
                # A thread that dies would take all later readings with it.
                reading = Reading(missing=dict.fromkeys(CARD_KEYS, str(err) or type(err).__name__))
            with self._changed:
                self._fresh, self._busy = reading, False
                self._changed.notify_all()


class HostLoad:
    """How busy the host is, from ``/proc``.

    Args:
        proc: where that is.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._loadavg, self._stat = proc / "loadavg", proc / "stat"
        self._last: tuple[int, int] | None = None

    def read(self) -> dict[str, float | None]:
        """``load1``: the kernel's load average of a minute; ``cpu_percent``: share of all CPUs' time that was busy
        (or stolen by a hypervisor) since the last reading, None at the first one."""
        return {"load1": self._load1(), "cpu_percent": self._cpu_percent()}

    def _load1(self) -> float | None:
        try:
            return float(self._loadavg.read_text("ascii").split(None, 1)[0])
        except (OSError, ValueError, IndexError):
            return None

    def _cpu_percent(self) -> float | None:
        try:
            with self._stat.open(encoding="ascii") as stream:
                # user nice system idle iowait irq softirq steal; what guests take is in user already.
                ticks = [int(word) for word in stream.readline().split()[1:9]]
            total, idle = sum(ticks), ticks[3] + ticks[4]
        except (OSError, ValueError, IndexError):
            return None
        last, self._last = self._last, (total, total - idle)
        if last is None or total <= last[0]:
            return None
        # The kernel's idle time may run backwards by a tick.
        share = (total - idle - last[1]) / (total - last[0])
        return round(100 * min(1.0, max(0.0, share)), 1)
