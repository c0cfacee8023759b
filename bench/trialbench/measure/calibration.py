"""How close to the wire our client measures, on the measured server itself, compared with a raw socket.

The requests come in pairs, one per client, back to back and in alternating order, so that other load affects both. The
calibration runs streaming and non-streaming, in phase 2, with all tenants up, at a limited rate, never in the window.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trialbench import __version__, stats
from trialbench.credentials import redact
from trialbench.measure.client import ChatClient
from trialbench.measure.neighbors import FOREIGN, Neighbors
from trialbench.measure.raw import RawClient, RawError
from trialbench.measure.sample import judge, wall_clock, why
from trialbench.show.text import ratio_text
from trialbench.workloads import Workload

MODES = ("plain", "stream")
# Time limit of one request; the server has just shown that it answers.
_TIMEOUT_S = 10.0
# After this many pairs without a good reply the calibration gives up.
_GIVE_UP = 3


@dataclass(frozen=True)
class Calibration:
    """Settings: `n` pairs per mode, at most `rate_hz` requests per second, at most `time_limit_s` in total."""

    n: int
    rate_hz: float | None = None
    time_limit_s: float = 30.0


@dataclass
class _Times:
    total_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)

    def add(self, total_ms: float, ttft_ms: float | None, server_ms: float | None) -> None:
        self.total_ms.append(total_ms)
        if ttft_ms is not None:
            self.ttft_ms.append(ttft_ms)
        if server_ms is not None:
            self.server_ms.append(server_ms)
            self.gap_ms.append(total_ms - server_ms)


@dataclass
class _Mode:
    ours: _Times = field(default_factory=_Times)
    raw: _Times = field(default_factory=_Times)
    failed: int = 0
    foreign: int = 0
    why: str | None = None

    def as_dict(self) -> dict[str, Any]:
        ours, raw = self.ours, self.raw
        interval = stats.median_ratio(ours.total_ms, raw.total_ms)
        return {
            "n": len(ours.total_ms),
            "failed": self.failed,
            "foreign": self.foreign,
            "why": self.why,
            "ours_p50_ms": _median(ours.total_ms),
            "raw_p50_ms": _median(raw.total_ms),
            "ratio": _ratio(ours.total_ms, raw.total_ms),
            "ratio_low": None if interval is None else round(interval.low, 4),
            "ratio_high": None if interval is None else round(interval.high, 4),
            "server_p50_ms": _median(ours.server_ms),
            "ours_gap_ms": _median(ours.gap_ms),
            "raw_gap_ms": _median(raw.gap_ms),
            "ttft_ratio": _ratio(ours.ttft_ms, raw.ttft_ms),
        }


def calibrate(
    url: str,
    workload: Workload,
    asked: Calibration,
    *,
    model: str | None = None,
    api_key: str | None = None,
    neighbors: Neighbors | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure; returns the document `calibration.json`. Failures are counted in it and not raised."""
    until_s = time.monotonic() + asked.time_limit_s
    modes: dict[str, _Mode] = {name: _Mode() for name in MODES}
    ended: str | None = None
    for name, mode in modes.items():
        stream = name == "stream"
        client = ChatClient(url, stream=stream, model=model, api_key=api_key)
        body = client.encode(workload, cache_prompt=False)
        raw = RawClient(url, body, stream=stream, api_key=api_key)
        if neighbors is not None:
            neighbors.begin()
        try:
            pairs = _Pairs(client, raw, body, workload, asked, neighbors, stopped, until_s)
            ended = pairs.run(mode)
        finally:
            client.close()
            raw.close()
        if ended is not None:
            break
    return {
        "format": 1,
        "trialbench": __version__,
        "created": wall_clock(),
        "url": url,
        "stopped": ended,
        "modes": {name: mode.as_dict() for name, mode in modes.items()},
    }


class _Stop(Exception):
    """Ends the calibration; the text says why."""


@dataclass
class _Pairs:
    client: ChatClient
    raw: RawClient
    body: bytes
    workload: Workload
    asked: Calibration
    neighbors: Neighbors | None
    stopped: Callable[[], bool]
    until_s: float
    next_s: float = 0.0

    def run(self, mode: _Mode) -> str | None:
        """Take all pairs of a mode, after one that is discarded; returns why they ended early."""
        try:
            self.pair(_Mode(), 0)
            for number in range(self.asked.n):
                self.pair(mode, number)
                if mode.failed >= _GIVE_UP:
                    return "server"
        except _Stop as stop:
            return str(stop)
        return None

    def pair(self, mode: _Mode, number: int) -> None:
        """One request per client; kept only if both had a good reply and no other client was served meanwhile."""
        found: dict[str, tuple[float, float | None, float | None]] = {}
        flags: list[str] = []
        steps: list[tuple[str, Callable[[], tuple[float, float | None, float | None]]]] = [
            ("ours", self.ours),
            ("raw", self.by_socket),
        ]
        for name, step in steps if number % 2 == 0 else reversed(steps):
            self.turn()
            try:
                found[name] = step()
            except RawError as error:
                mode.why = mode.why or redact(f"{name}: {error}")
            if self.neighbors is not None:
                flags += self.neighbors.settle(None, answered=name in found)
        if len(found) < len(steps):
            mode.failed += 1
        elif FOREIGN in flags:
            mode.foreign += 1
        else:
            mode.ours.add(*found["ours"])
            mode.raw.add(*found["raw"])

    def turn(self) -> None:
        """Wait until the next request may be sent."""
        time.sleep(max(0.0, min(self.next_s, self.until_s) - time.monotonic()))
        if self.asked.rate_hz is not None:
            self.next_s = time.monotonic() + 1 / self.asked.rate_hz
        idle = self.neighbors is None or self.neighbors.idle(self.until_s)
        if self.stopped():
            raise _Stop("signal")
        if time.monotonic() >= self.until_s:
            raise _Stop("time_limit")
        if not idle:
            raise _Stop("busy")

    def ours(self) -> tuple[float, float | None, float | None]:
        reply = self.client.send(
            self.body, timeout_s=_TIMEOUT_S, connect_timeout_s=self.workload.limits.connect_timeout_s
        )
        sample = judge(reply, 1, self.workload, cache_prompt=False, wall="")
        if sample.latency_ms is None or not sample.ok:
            raise RawError(why(sample))
        return sample.latency_ms, sample.ttft_ms, sample.server_ms

    def by_socket(self) -> tuple[float, float | None, float | None]:
        reply = self.raw.send(_TIMEOUT_S)
        return reply.latency_ms, reply.ttft_ms, reply.server_ms


def line(document: dict[str, Any]) -> str:
    """A readable line: `client against a raw socket: 1.01 x plain, 1.02 x streaming (20 pairs each)`."""
    found = {name: document["modes"][name] for name in MODES}
    words = [
        f" x {name} ".join(ratio_text(mode["ratio"], mode["ratio_low"], mode["ratio_high"]).split(" ", 1))
        + f" (n={mode['n']})"
        if mode["ratio"] is not None and mode["ratio_low"] is not None
        else f"{name} unknown ({mode['why'] or document['stopped'] or 'too few pairs'})"
        for name, mode in found.items()
    ]
    return f"calibration, our client against a raw socket: {', '.join(words)}"


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 3) if values else None


def _ratio(ours: list[float], raw: list[float]) -> float | None:
    return round(statistics.median(ours) / statistics.median(raw), 4) if ours and raw else None
