"""Chooses the engine for a request, the local one or a fallback. Every decision has a reason."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from trialbench.engines.contract import Engine
from trialbench.engines.failures import UNAVAILABLE, Failure
from trialbench.worker.breaker import Breaker, Pass
from trialbench.worker.clock import Clock

# How long the result of a health check is valid, so that not every request pays for one.
_HEALTH_TTL_S = 2.0


class Backend:
    """An engine with its breaker and its last known health.

    Args:
        name: its name in logs and `status`.
        local: whether it is the worker's own engine; all others are fallbacks.
        limit_s: maximum time for one of its replies, if a request allows more; None: no limit of its own.
    """

    def __init__(
        self, name: str, engine: Engine, breaker: Breaker, clock: Clock, *, local: bool, limit_s: float | None = None
    ) -> None:
        self.name = name
        self.engine = engine
        self.breaker = breaker
        self.local = local
        self.limit_s = limit_s
        # It crashed or was unreachable: no request goes to it before it is healthy again.
        self.reconnect = False
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[float, Failure | None] | None = None

    def health(self, *, fresh: bool = False) -> Failure | None:
        """None if it is usable now, else why not; at most `_HEALTH_TTL_S` old unless `fresh`."""
        with self._lock:
            now_s = self._clock.now_s()
            if not fresh and self._seen is not None and now_s - self._seen[0] < _HEALTH_TTL_S:
                return self._seen[1]
            failure = self.engine.healthy()
            self._seen = (now_s, failure)
            if failure is None:
                self.reconnect = False
            return failure

    def forget(self) -> None:
        """A request failed: discard the last known health."""
        with self._lock:
            self._seen = None


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen backend, with the breaker's pass and the reason."""

    backend: Backend
    admitted: Pass
    reason: str


class Router:
    """Chooses by mode, health and breaker.

    `smart`: the local engine, and a fallback where the local one can't answer. `force_local`: never a fallback.
    `force_fallback`: never the local engine.

    Args:
        local: the worker's own engine; None when it is switched off.
        fallbacks: in the order in which they are asked.
    """

    def __init__(self, local: Backend | None, fallbacks: Sequence[Backend], mode: str) -> None:
        self.local = None if mode == "force_fallback" else local
        self.fallbacks = () if mode == "force_local" else tuple(fallbacks)
        self.mode = mode

    def first(self) -> Route | Failure:
        """The first backend to ask."""
        if self.mode == "force_fallback":
            return self.fallback("mode is force_fallback")
        if self.local is None:
            return self.fallback("the local engine is switched off")
        if not self.fallbacks:
            return self._admit(self.local, "no fallback is configured" if self.mode == "smart" else "mode force_local")
        # If a fallback could answer, an unhealthy engine is not asked at all.
        failure = self.local.health()
        if failure is not None:
            return self.fallback(f"the local engine is unhealthy: {failure.failure_class.name}")
        chosen = self._admit(self.local, "the local engine is healthy")
        return chosen if isinstance(chosen, Route) else self.fallback(chosen.detail)

    def fallback(self, reason: str) -> Route | Failure:
        """The first fallback that is usable now."""
        reasons = [reason]
        for backend in self.fallbacks:
            failure = backend.health()
            if failure is not None:
                reasons.append(f"{backend.name} is unhealthy: {failure.failure_class.name}")
                continue
            chosen = self._admit(backend, "; ".join(reasons))
            if isinstance(chosen, Route):
                return chosen
            reasons.append(f"{backend.name}: {chosen.detail}")
        if not self.fallbacks:
            reasons.append("no fallback is configured")
        return Failure(UNAVAILABLE, "; ".join(reasons))

    def _admit(self, backend: Backend, reason: str) -> Route | Failure:
        admitted = backend.breaker.admit()
        if isinstance(admitted, str):
            return Failure(UNAVAILABLE, admitted)
        return Route(backend, admitted, reason)
