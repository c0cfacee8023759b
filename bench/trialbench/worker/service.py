"""The worker: clients, their worker sessions, queue and slots. It owns no sockets: it gets channels.

Every request ends in exactly one `done` or `error`, on the channel it came from. If the bounded queue is full, a
request fails with `busy` at once. The worker never executes the output of a model.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from trialbench import __version__
from trialbench.config.settings import Limits
from trialbench.engines.contract import Label, Probe, Request, Token
from trialbench.engines.failures import BUSY, UNAVAILABLE, Failure
from trialbench.engines.memory import LeakWatch
from trialbench.worker import protocol
from trialbench.worker.channel import Channel, StalledError, TooLong
from trialbench.worker.dispatch import CallerGoneError, Dispatcher, Job, Outcome
from trialbench.worker.protocol import Generate, ProtocolError

_MAX_SESSIONS = 16
# How often a half-closed client is checked while its last requests run.
_HANGUP_POLL_S = 0.1
_GROWTH_EVERY = 8
# How soon a second signal ends the grace period.
_STOP_POLL_S = 0.1


@dataclass(eq=False)
class _Client:
    name: str
    channel: Channel
    sessions: dict[str, Request] = field(default_factory=dict)
    running: dict[tuple[str, protocol.Id], _Entry] = field(default_factory=dict)
    gone: bool = False


@dataclass(eq=False)
class _Entry:
    """One waiting or running request."""

    client: _Client
    request: Generate
    job: Job
    name: str
    parts: list[str] = field(default_factory=list)


class Worker:
    """Serves clients until it is stopped.

    Args:
        probe: the engine's probe at start-up, for `status`.
        log: receives events as `(event, fields)`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        limits: Limits | None = None,
        defaults: protocol.Defaults | None = None,
        probe: Probe | None = None,
        log: Callable[[str, dict[str, Any]], None] = lambda event, fields: None,  # noqa: ARG005 - it has to take them
    ) -> None:
        self._dispatcher = dispatcher
        self._limits = limits or Limits()
        self._defaults = defaults or protocol.Defaults()
        self._probe = probe
        self._log = log
        self._clock = dispatcher.clock
        self._started_s = self._clock.now_s()
        # Guards everything below; never held while sending, starting or waiting.
        self._lock = threading.Condition()
        self._clients: set[_Client] = set()
        self._queue: collections.deque[_Entry] = collections.deque()
        self._running: set[_Entry] = set()
        self._stopping = False
        self._numbers = itertools.count(1)
        self._session_numbers = itertools.count(1)
        self._ends: collections.Counter[str] = collections.Counter()
        self._leaks = LeakWatch()
        self._growth = self._leaks.growth()
        self._peak_mib: float | None = None
        router = dispatcher.router
        waits = router.local is not None and bool(router.fallbacks)
        kinds = [False] * self._limits.slots + [True] * (self._limits.slots if waits else 0)
        self._threads = [
            threading.Thread(target=self._slot, args=(late,), name=f"slot-{number}", daemon=True)
            for number, late in enumerate(kinds)
        ]
        for thread in self._threads:
            thread.start()

    # --- clients -----------------------------------------------------------------------------------------------------

    def serve(self, channel: Channel) -> None:
        """Serve one client until all its requests have ended. Call it in one thread per client."""
        client = _Client(f"client-{next(self._numbers)}", channel)
        with self._lock:
            refused = self._stopping or len(self._clients) >= self._limits.clients
            if not refused:
                self._clients.add(client)
        if refused:
            self._answer(client, protocol.error_line(ProtocolError("busy", "too many clients, or stopping")))
            channel.close()
            return
        try:
            for line in channel.lines():
                if not self._take(client, line):
                    break
            else:
                self._wait_for_the_rest(client)
        finally:
            self._leave(client)

    def _take(self, client: _Client, line: bytes | TooLong) -> bool:
        """Serve one line; returns whether the client continues."""
        if isinstance(line, TooLong):
            error = ProtocolError("line_too_long", "the line is longer than this worker reads; it was skipped")
            self._answer(client, protocol.error_line(error))
            return not client.gone
        if not line.strip():
            return not client.gone
        try:
            request = protocol.parse(line, self._defaults)
            if isinstance(request, protocol.Close):
                self._abort_all(client)
                self._wait_for_the_rest(client)
                self._answer(client, protocol.encode({"type": "closed", "ok": True}))
                return False
            self._handle(client, request)
        except ProtocolError as error:
            self._answer(client, protocol.error_line(error))
        except Exception as error:  # a bug must end neither the worker nor other clients' requests
            self._log("internal_error", {"error": f"{type(error).__name__}: {error}"})
            self._answer(client, protocol.error_line(ProtocolError("internal_error", "see the worker's log")))
        return not client.gone

    def _handle(self, client: _Client, request: protocol.Line) -> None:
        match request:
            case protocol.Status():
                self._answer(client, protocol.encode(self._status(request)))
            case protocol.CreateSession():
                self._create_session(client, request)
            case protocol.CloseSession():
                self._close_session(client, request)
            case protocol.Abort():
                self._abort(client, request)
            case Generate():
                self._generate(client, request)

    def _answer(self, client: _Client, data: bytes) -> bool:
        """Send `data`; False if the client is gone or stalled, which ends all its requests."""
        try:
            client.channel.send(data)
        except StalledError:
            self._lost(client)
            return False
        return True

    def _lost(self, client: _Client) -> None:
        if not client.gone:
            client.gone = True
            self._log("client_gone", {"client": client.name})
        client.channel.close()
        self._abort_all(client)

    def _leave(self, client: _Client) -> None:
        client.gone = True
        self._abort_all(client)
        with self._lock:
            while client.running:
                self._lock.wait()
            self._clients.discard(client)
            self._lock.notify_all()
        client.channel.close()

    def _wait_for_the_rest(self, client: _Client) -> None:
        """The client closed its sending half; its requests may finish while it still reads."""
        while True:
            with self._lock:
                if not client.running or client.gone:
                    return
            if client.channel.hung_up(_HANGUP_POLL_S):
                self._lost(client)
                return

    # --- requests ----------------------------------------------------------------------------------------------------

    def _create_session(self, client: _Client, request: protocol.CreateSession) -> None:
        with self._lock:
            if len(client.sessions) >= _MAX_SESSIONS:
                raise ProtocolError("too_many_sessions", f"a client has at most {_MAX_SESSIONS}; close one")
            session_id = f"sess_{next(self._session_numbers)}"
            client.sessions[session_id] = request.wanted
        self._answer(client, protocol.encode({"ok": True, "session_id": session_id}))

    def _session(self, client: _Client, session_id: protocol.Id) -> Request:
        """Finds sessions only among the client's own: other clients' sessions are unknown to it."""
        wanted = client.sessions.get(str(session_id))
        if wanted is None:
            identity = protocol.Identity("session", session_id)
            raise ProtocolError("unknown_session", "no such session of this connection; create_session first", identity)
        return wanted

    def _close_session(self, client: _Client, request: protocol.CloseSession) -> None:
        self._session(client, request.session_id)
        self._cancel(client, ("session", request.session_id))
        with self._lock:
            while ("session", request.session_id) in client.running:
                self._lock.wait()
            client.sessions.pop(request.session_id, None)
        self._answer(client, protocol.encode({"ok": True, "session_id": request.session_id, "closed": True}))

    def _abort(self, client: _Client, request: protocol.Abort) -> None:
        dialect, key = request.key
        if dialect == "session":
            self._session(client, key)
        found = self._cancel(client, request.key)
        name = "id" if dialect == "plain" else "session_id"
        self._answer(client, protocol.encode({"type": "aborted", "ok": True, name: key, "found": found}))

    def _cancel(self, client: _Client, key: tuple[str, protocol.Id]) -> bool:
        with self._lock:
            entry = client.running.get(key)
            # A waiting request ends here; a running one is ended by its slot.
            waiting = entry is not None and entry in self._queue
            if entry is not None and waiting:
                self._queue.remove(entry)
        if entry is None:
            return False
        entry.job.cancel()
        if waiting:
            self._end(entry, Outcome(None, finish_reason="cancelled"))
        return True

    def _abort_all(self, client: _Client) -> None:
        with self._lock:
            keys = list(client.running)
        for key in keys:
            self._cancel(client, key)

    def _generate(self, client: _Client, request: Generate) -> None:
        wanted = request.wanted
        dialect, key = request.key
        if dialect == "session":
            wanted = protocol.behind(wanted, request.given, self._session(client, key))
        entry = self._entry(client, request, wanted)
        failure: Failure | None = None
        with self._lock:
            if request.key in client.running:
                what = "this session is generating already" if dialect == "session" else "this id is in use already"
                identity = protocol.Identity(dialect, key, request.action)
                raise ProtocolError("busy" if dialect == "session" else "duplicate_id", what, identity)
            if self._stopping:
                failure = Failure(UNAVAILABLE, "the worker is stopping")
            elif len(client.running) >= self._limits.per_client:
                failure = Failure(BUSY, f"this client has {len(client.running)} requests already; wait for one to end")
            elif len(self._queue) >= self._limits.queue and not self._idle():
                failure = Failure(BUSY, f"{len(self._queue)} requests are waiting already; try again later")
            else:
                client.running[request.key] = entry
                self._queue.append(entry)
                self._lock.notify_all()
        if failure is not None:
            self._count(failure.failure_class.name)
            self._answer(client, protocol.end_lines(request, Outcome(None, failure=failure), ""))

    def _idle(self) -> bool:
        return len(self._running) + len(self._queue) < self._limits.slots

    def _entry(self, client: _Client, request: Generate, wanted: Request) -> _Entry:
        def deliver(token: Token, label: Label) -> None:
            if client.gone:
                raise CallerGoneError
            if not request.stream:
                entry.parts.append(token.text)
                return
            if request.dialect == "action":
                entry.parts.append(token.text)
            if not self._answer(client, protocol.token_line(request, token, label)):
                raise CallerGoneError

        name = f"{client.name}/{next(self._numbers)}"
        entry = _Entry(client, request, Job(wanted, self._clock.now_s(), deliver), name)
        return entry

    def _slot(self, late: bool) -> None:
        """A thread that serves requests one by one; `late`: only those that have waited too long."""
        while True:
            with self._lock:
                entry = self._next(late)
                while entry is None:
                    if self._stopping and not self._queue:
                        return
                    # Late requests become due without a notification.
                    self._lock.wait(self._due_s() if late else None)
                    entry = self._next(late)
                self._running.add(entry)
            outcome = self._dispatcher.serve(entry.job, name=entry.name)
            with self._lock:
                self._running.discard(entry)
            if outcome.result is not None and outcome.result.peak_mib is not None:
                self._weigh(outcome.result.peak_mib)
            self._end(entry, outcome)

    def _next(self, late: bool) -> _Entry | None:
        if not self._queue or (late and self._due_s() > 0):
            return None
        return self._queue.popleft()

    def _due_s(self) -> float:
        """Seconds until the first waiting request has waited too long for the local engine."""
        if not self._queue:
            # A new request wakes the slots anyway.
            return 3600.0
        waited_s = self._clock.now_s() - self._queue[0].job.arrived_s
        return max(0.0, self._dispatcher.policy.fallback_timeout_s - waited_s)

    def _end(self, entry: _Entry, outcome: Outcome) -> None:
        """The one place where a request ends."""
        failure = outcome.failure
        self._count(failure.failure_class.name if failure else outcome.finish_reason or "caller_gone")
        with self._lock:
            # Before the answer is sent: a client may reuse the id as soon as it sees the end.
            entry.client.running.pop(entry.request.key, None)
            self._lock.notify_all()
        if not entry.client.gone:
            self._answer(entry.client, protocol.end_lines(entry.request, outcome, "".join(entry.parts)))

    def _weigh(self, peak_mib: float) -> None:
        """The memory watch: does the engine's memory grow over many requests?"""
        with self._lock:
            self._peak_mib = max(peak_mib, self._peak_mib or 0.0)
            self._leaks.add(peak_mib)
            was = self._growth
            # The slope over all pairs costs milliseconds, so it is not computed after every request.
            if was.readings >= _GROWTH_EVERY and (was.readings + 1) % _GROWTH_EVERY:
                self._growth = replace(was, readings=was.readings + 1, last_mib=peak_mib)
            else:
                self._growth = self._leaks.growth()
            growth = self._growth
        if growth.leaking and not was.leaking:
            self._log("memory_grows", growth.as_dict())

    def _count(self, end: str) -> None:
        with self._lock:
            self._ends[end] += 1

    # --- status and end ----------------------------------------------------------------------------------------------

    def _status(self, request: protocol.Status) -> dict[str, Any]:
        router = self._dispatcher.router
        backends = [backend for backend in (router.local, *router.fallbacks) if backend is not None]
        first = backends[0].engine.label if backends else None
        info = self._probe.as_dict() if self._probe else (first.as_dict() if first else {})
        with self._lock:
            growth, peak_mib = self._growth, self._peak_mib
            counts = {
                "clients": len(self._clients),
                "waiting": len(self._queue),
                "running": len(self._running),
                "ends": dict(sorted(self._ends.items())),
                "stopping": self._stopping,
            }
        health = {}
        for backend in backends:
            failure = backend.health()
            health[backend.name] = {
                "healthy": failure is None,
                "error": failure.as_dict() if failure else None,
                "breaker": backend.breaker.as_dict(),
                **backend.engine.label.as_dict(),
            }
        answer: dict[str, Any] = {
            "type": "status",
            "ok": True,
            "status": "stopping" if counts["stopping"] else "running",
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(self._clock.now_s() - self._started_s, 3),
            "mode": router.mode,
            "model_info": info,
            "backends": health,
            "limits": {
                "clients": self._limits.clients,
                "queue": self._limits.queue,
                "per_client": self._limits.per_client,
                "slots": self._limits.slots,
            },
            "memory": {"peak_mib": peak_mib, **growth.as_dict()},
            **counts,
        }
        if request.id is not None:
            answer["id"] = request.id
        return answer

    def stop(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Accept nothing new, let running requests finish within `grace_s`, end the rest, and disconnect the clients.

        Waiting requests fail at once, because the worker stops.

        Args:
            hurry: polled; True ends the grace period.
        """
        with self._lock:
            self._stopping = True
            waiting = list(self._queue)
            self._queue.clear()
            self._lock.notify_all()
        for entry in waiting:
            self._end(entry, Outcome(None, failure=Failure(UNAVAILABLE, "the worker is stopping")))
        until_s = self._clock.now_s() + grace_s
        with self._lock:
            while self._running and self._clock.now_s() < until_s and not hurry():
                self._lock.wait(_STOP_POLL_S)
            running = list(self._running)
        for entry in running:
            entry.job.cancel()
        for thread in self._threads:
            thread.join()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.channel.close()
