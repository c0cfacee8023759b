"""One request from its arrival to its end: routing, attempts, back-off, reconnection, fallback.

This module uses no threads, no sockets and no real time: clock and random numbers are passed in, and tokens go to a
function. All guarantees of the worker about retries are implemented here.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from trialbench.engines.contract import (
    Deadlines,
    Done,
    Failed,
    FinishReason,
    Generation,
    Label,
    Refused,
    Request,
    Result,
    Token,
    Usage,
)
from trialbench.engines.failures import SERVER_ERROR, TIMEOUT, UNAVAILABLE, Failure
from trialbench.worker.breaker import is_engines_fault
from trialbench.worker.clock import Clock
from trialbench.worker.retry import RetryPolicy
from trialbench.worker.routing import Backend, Route, Router

# How often an engine that must recover is checked.
_RECONNECT_POLL_S = 0.5
# With less time than this, a deadline would pass before an engine could reply.
_LEAST_S = 0.05


class CallerGoneError(Exception):
    """Raised by a `deliver` whose caller is gone: the generation is ended without a reply."""


@dataclass
class Job:
    """An incoming request. `cancel` may be called from any thread, at any time.

    Attributes:
        arrived_s: by the dispatcher's clock; what `fallback_timeout_s` counts from.
        deliver: takes each token and its label; raises `CallerGoneError` when the caller is gone.
    """

    request: Request
    arrived_s: float
    deliver: Callable[[Token, Label], None]
    canceled: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _generation: Generation | None = None

    def cancel(self) -> None:
        """End it soon in any state: in the queue, in a pause, during a generation."""
        self.canceled.set()
        with self._lock:
            generation = self._generation
        if generation is not None:
            generation.cancel()

    def attach(self, generation: Generation | None) -> None:
        """Set what `cancel` ends from now on."""
        with self._lock:
            self._generation = generation
        # A cancel between the start and this line saw no generation.
        if generation is not None and self.canceled.is_set():
            generation.cancel()


@dataclass(frozen=True)
class Outcome:
    """The one end of a request. Exactly one of `finish_reason` and `failure` is set, or neither: the caller is gone.

    `label` names its origin; None if no engine was asked. `route`: each decision with its reason, in order.
    """

    label: Label | None
    finish_reason: FinishReason | None = None
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    attempts: int = 0
    fallback: bool = False
    route: tuple[str, ...] = ()
    result: Result | None = None


@dataclass(frozen=True)
class Policy:
    """How requests are handled.

    Attributes:
        retry: when to retry.
        fallback_timeout_s: without a token for this long after its arrival, a request goes to a fallback, if any.
        reconnect_wait_s: maximum wait for an engine to recover.
        patience: the configured deadlines; None: unknown. A timeout of a caller with shorter deadlines says nothing
            about the engine, and must not open the breaker for other callers.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    fallback_timeout_s: float = 30.0
    reconnect_wait_s: float = 30.0
    patience: Deadlines | None = None


@dataclass
class _State:
    """The state of one request."""

    attempts: int = 0
    delivered: bool = False
    # When a request without a token goes to a fallback; infinite if there is none.
    fallback_at_s: float = float("inf")
    route: list[str] = field(default_factory=list)


class Dispatcher:
    """Serves requests, one call each; may be called by several threads.

    Args:
        log: receives each decision as `(event, fields)`; never the prompt or the reply.
    """

    def __init__(
        self,
        router: Router,
        policy: Policy,
        *,
        clock: Clock,
        rng: random.Random | None = None,
        log: Callable[[str, dict[str, Any]], None] = lambda event, fields: None,  # noqa: ARG005 - it has to take them
    ) -> None:
        self.router = router
        self.policy = policy
        self.clock = clock
        self._rng = rng or random.Random()
        self._log = log

    def serve(self, job: Job, *, name: str = "") -> Outcome:
        """Serve `job` to its end; raises nothing.

        Args:
            name: what the log calls it.
        """
        state = _State()
        try:
            outcome = self._serve(job, state)
        except CallerGoneError:
            outcome = Outcome(None)
        except Exception as error:
            outcome = Outcome(None, failure=Failure(SERVER_ERROR, f"{type(error).__name__}: {error}"))
        finally:
            job.attach(None)
        outcome = replace(outcome, attempts=state.attempts, route=tuple(state.route))
        end = outcome.finish_reason or (outcome.failure.failure_class.name if outcome.failure else "caller_gone")
        self._log(
            "end",
            {
                "request": name,
                "end": end,
                "source": outcome.label.source if outcome.label else None,
                "attempts": outcome.attempts,
                "after_s": round(self.clock.now_s() - job.arrived_s, 3),
                "route": outcome.route,
            },
        )
        return outcome

    def _serve(self, job: Job, state: _State) -> Outcome:
        if job.canceled.is_set():
            return Outcome(None, finish_reason="cancelled")
        if self.router.local is not None and self.router.fallbacks:
            state.fallback_at_s = job.arrived_s + self.policy.fallback_timeout_s
        chosen = self._first(state)
        if isinstance(chosen, Failure):
            state.route.append(chosen.detail)
            return Outcome(None, failure=chosen)
        outcome = self._ask(chosen, job, state)
        while True:
            reason = self._why_elsewhere(chosen, outcome, job, state)
            if reason is None:
                return outcome
            following = self._next(chosen, reason)
            if isinstance(following, Failure):
                state.route.append(following.detail)
                return outcome
            chosen = following
            outcome = self._ask(chosen, job, state)

    def _first(self, state: _State) -> Route | Failure:
        if not self._fallback_is_due(state):
            return self.router.first()
        chosen = self.router.fallback(self._late())
        if isinstance(chosen, Failure):
            # Late, but no other engine can answer: the local engine gets the time it needs.
            state.route.append(chosen.detail)
            state.fallback_at_s = float("inf")
            return self.router.first()
        return chosen

    def _next(self, chosen: Route, reason: str) -> Route | Failure:
        """The fallback after the one that was asked last."""
        rest = self.router.fallbacks
        if not chosen.backend.local:
            rest = rest[rest.index(chosen.backend) + 1 :]
        if not rest:
            return Failure(UNAVAILABLE, f"{reason}; no other engine is left to ask")
        return Router(None, rest, "smart").fallback(reason)

    def _late(self) -> str:
        return f"no token within {self.policy.fallback_timeout_s:g} s after the request came in"

    def _fallback_is_due(self, state: _State) -> bool:
        return self.clock.now_s() >= state.fallback_at_s - _LEAST_S

    def _why_elsewhere(self, chosen: Route, outcome: Outcome, job: Job, state: _State) -> str | None:
        """Why the request goes to a fallback after `outcome`, or None when `outcome` is its end."""
        failure = outcome.failure
        if failure is None or state.delivered or job.canceled.is_set() or not self.router.fallbacks:
            return None
        # A wrong request is wrong for every engine; an indeterminate result is not hidden by asking another one.
        if not is_engines_fault(failure) or failure.failure_class.kind == "indeterminate":
            return None
        if chosen.backend.local and self._fallback_is_due(state):
            return self._late()
        return f"{chosen.backend.name} failed: {failure.failure_class.name}"

    def _ask(self, chosen: Route, job: Job, state: _State) -> Outcome:
        """Attempts at one backend, until a result or until another attempt is pointless."""
        backend = chosen.backend
        self._decided(chosen, state)
        attempt = 0
        while True:
            outcome = self._attempt(chosen, job, state)
            failure = outcome.failure
            if failure is None or not self.policy.retry.may_retry(failure, attempt=attempt, delivered=state.delivered):
                return outcome
            pause_s = self.policy.retry.delay_s(attempt, self._rng)
            limit_s = state.fallback_at_s if backend.local else float("inf")
            if self.clock.now_s() + pause_s >= limit_s - _LEAST_S:
                return outcome
            attempt += 1
            self._log("retry", {"after": failure.failure_class.name, "retry": attempt, "pause_s": round(pause_s, 3)})
            state.route.append(f"{backend.name}: {failure.failure_class.name}, again after {pause_s:.2f} s")
            if self.clock.wait(job.canceled, pause_s):
                return Outcome(backend.engine.label, finish_reason="cancelled", fallback=not backend.local)
            admitted = backend.breaker.admit()
            if isinstance(admitted, str):
                state.route.append(f"no further attempt: {admitted}")
                return outcome
            chosen = replace(chosen, admitted=admitted)

    def _attempt(self, chosen: Route, job: Job, state: _State) -> Outcome:
        """One generation; reports its outcome to the breaker."""
        backend, breaker = chosen.backend, chosen.backend.breaker
        told = False
        try:
            outcome = self._back_again(backend, job, state) or self._generate(backend, job, state)
            told = True
            if outcome.failure is not None:
                if self._in_haste(job, outcome.failure):
                    breaker.withdrew(chosen.admitted)
                else:
                    breaker.failed(chosen.admitted, outcome.failure)
                backend.forget()
                row = outcome.failure.failure_class
                if row.restart or row.name in ("connection", "unavailable"):
                    backend.reconnect = True
            elif outcome.finish_reason == "cancelled":
                breaker.withdrew(chosen.admitted)
            else:
                breaker.succeeded()
            return outcome
        finally:
            if not told:
                breaker.withdrew(chosen.admitted)

    def _in_haste(self, job: Job, failure: Failure) -> bool:
        """Whether a timeout is due to the caller, who set a shorter deadline than configured."""
        usual, own = self.policy.patience, job.request.deadlines
        if usual is None or failure.failure_class is not TIMEOUT:
            return False
        pairs = ((own.first_s, usual.first_s), (own.between_s, usual.between_s), (own.total_s, usual.total_s))
        return any(mine is not None and (theirs is None or mine < theirs) for mine, theirs in pairs)

    def _back_again(self, backend: Backend, job: Job, state: _State) -> Outcome | None:
        """Wait until an engine that crashed or was unreachable is healthy; None when it is."""
        if not backend.reconnect:
            return None
        until_s = self.clock.now_s() + self.policy.reconnect_wait_s
        if backend.local:
            until_s = min(until_s, state.fallback_at_s)
        while True:
            failure = backend.health(fresh=True)
            if failure is None:
                return None
            left_s = until_s - self.clock.now_s()
            if left_s <= 0:
                detail = f"not back within {self.policy.reconnect_wait_s:g} s: {failure.detail}"
                away = Failure(failure.failure_class, detail)
                return Outcome(backend.engine.label, failure=away, fallback=not backend.local)
            if self.clock.wait(job.canceled, min(_RECONNECT_POLL_S, left_s)):
                return Outcome(backend.engine.label, finish_reason="cancelled", fallback=not backend.local)

    def _generate(self, backend: Backend, job: Job, state: _State) -> Outcome:
        label = backend.engine.label
        request = replace(job.request, deadlines=self._deadlines(backend, job, state))
        state.attempts += 1
        try:
            generation = backend.engine.start(request)
        except Refused as refused:
            return Outcome(label, failure=refused.failure, fallback=not backend.local)
        job.attach(generation)
        end: Done | Failed | None = None
        try:
            for event in generation.events():
                if isinstance(event, Token):
                    # Set before delivery: a caller that dies while it takes a token may have received it.
                    state.delivered = True
                    job.deliver(event, label)
                elif isinstance(event, Done | Failed):
                    end = event
        except BaseException:
            # The rest is discarded; the engine must be quiet before the next request gets its slot.
            generation.cancel()
            generation.result()
            raise
        finally:
            job.attach(None)
        result = generation.result()
        if end is None:
            failure = Failure(SERVER_ERROR, "the engine's events stopped without Done or Failed")
            return Outcome(label, failure=failure, fallback=not backend.local, result=result)
        if isinstance(end, Failed):
            return Outcome(label, failure=end.failure, usage=result.usage, fallback=not backend.local, result=result)
        return Outcome(
            label, finish_reason=end.finish_reason, usage=end.usage, fallback=not backend.local, result=result
        )

    def _deadlines(self, backend: Backend, job: Job, state: _State) -> Deadlines:
        wanted = job.request.deadlines
        if backend.limit_s is not None:
            wanted = replace(wanted, total_s=min(wanted.total_s, backend.limit_s))
        if not backend.local or state.fallback_at_s == float("inf"):
            return wanted
        left_s = state.fallback_at_s - self.clock.now_s()
        first_s = min(left_s, wanted.total_s if wanted.first_s is None else wanted.first_s)
        return replace(wanted, first_s=max(_LEAST_S, first_s))

    def _decided(self, chosen: Route, state: _State) -> None:
        state.route.append(f"{chosen.backend.name}: {chosen.reason}")
        self._log("route", {"backend": chosen.backend.name, "reason": chosen.reason})
