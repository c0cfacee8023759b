"""A circuit breaker: an engine that fails repeatedly gets no requests for a while, then a single test request."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from trialbench.engines.failures import Failure
from trialbench.worker.clock import Clock

State = Literal["closed", "open", "half_open"]
# Failures caused by the request, which say nothing about the engine.
_CALLERS_FAULT = frozenset({"bad_arguments", "unsupported", "prompt_too_long"})


def is_engines_fault(failure: Failure) -> bool:
    """Whether `failure` counts against the engine."""
    return failure.failure_class.name not in _CALLERS_FAULT


@dataclass(frozen=True, slots=True)
class Pass:
    """A request was admitted. `decides`: its outcome decides whether a half-open breaker closes."""

    decides: bool


class Breaker:
    """Counts consecutive failures. Thread-safe.

    Call `admit` before a request, and pass its result to exactly one of `succeeded`, `failed`, `withdrew` afterwards.

    Args:
        clock: the source of time.
        failures: how many consecutive failures open it.
        open_s: how long it stays open before one test request.
    """

    def __init__(self, clock: Clock, *, failures: int = 3, open_s: float = 30.0) -> None:
        self._clock = clock
        self._limit = failures
        self._open_s = open_s
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_s: float | None = None
        self._trying = False
        self._last: Failure | None = None

    @property
    def state(self) -> State:
        """`half_open`: the pause is over, the next request decides."""
        with self._lock:
            return self._state()

    def _state(self) -> State:
        if self._opened_s is None:
            return "closed"
        return "half_open" if self._clock.now_s() - self._opened_s >= self._open_s else "open"

    def admit(self) -> Pass | str:
        """A pass if the request may proceed; else why not."""
        with self._lock:
            state = self._state()
            if state == "closed":
                return Pass(decides=False)
            if state == "half_open" and not self._trying:
                self._trying = True
                return Pass(decides=True)
            last = self._last.failure_class.name if self._last else "none"
            count = f"{self._failures} failures in a row, last {last}"
            if state == "half_open":
                return f"circuit breaker half open ({count}): one request is trying it"
            assert self._opened_s is not None
            left_s = self._open_s - (self._clock.now_s() - self._opened_s)
            return f"circuit breaker open for another {left_s:.1f} s ({count})"

    def succeeded(self) -> None:
        """The engine answered: closed again."""
        with self._lock:
            self._failures, self._opened_s, self._trying, self._last = 0, None, False, None

    def failed(self, admitted: Pass, failure: Failure) -> None:
        """The engine failed; failures caused by the caller do not count."""
        if not is_engines_fault(failure):
            self.withdrew(admitted)
            return
        with self._lock:
            self._failures += 1
            self._last = failure
            if admitted.decides:
                self._trying = False
            # A request that was admitted before the breaker opened does not extend the pause when it fails.
            if admitted.decides or (self._opened_s is None and self._failures >= self._limit):
                self._opened_s = self._clock.now_s()

    def withdrew(self, admitted: Pass) -> None:
        """The request ended without information about the engine (canceled, refused)."""
        if admitted.decides:
            with self._lock:
                self._trying = False

    def as_dict(self) -> dict[str, object]:
        """For `status`."""
        with self._lock:
            last = self._last.failure_class.name if self._last else None
            return {"state": self._state(), "failures": self._failures, "last": last}
