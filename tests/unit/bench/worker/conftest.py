"""A scripted engine and a clock that only moves when somebody waits: what the worker's tests share."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from trialbench.config.settings import Limits
from trialbench.engines import failures
from trialbench.engines.contract import (
    Done,
    Event,
    Failed,
    Label,
    Probe,
    Refused,
    Request,
    Result,
    Started,
    Token,
    Usage,
    require,
)
from trialbench.worker.breaker import Breaker
from trialbench.worker.channel import SocketChannel
from trialbench.worker.dispatch import Dispatcher, Policy
from trialbench.worker.protocol import Defaults
from trialbench.worker.retry import RetryPolicy
from trialbench.worker.routing import Backend, Router
from trialbench.worker.service import Worker

# What an engine does with one generation: pieces of text, seconds to spend (a number), a failure class, "hang", or an
# exception to raise.
Act = Sequence[Any]


class ManualClock:
    """Moves when somebody waits or a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def now_s(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        self.waits.append(seconds)
        self.move(max(0.0, seconds))
        return event.is_set()


class ScriptedGeneration:
    def __init__(self, engine: ScriptedEngine, request: Request, act: Act) -> None:
        self.engine, self.request, self.act = engine, request, act
        self.canceled = threading.Event()
        self.text = ""
        self.chunks = 0
        self.end: Done | Failed | None = None
        self._events = self._run()

    def events(self) -> Iterator[Event]:
        return self._events

    def _run(self) -> Iterator[Event]:
        clock = self.engine.clock
        began = clock.now_s()
        yield Started(began)
        try:
            for step in self.act:
                if self.canceled.is_set():
                    break
                if isinstance(step, str) and step == "hang":
                    self.canceled.wait(60)
                elif isinstance(step, str):
                    self.text += step
                    self.chunks += 1
                    yield Token(step, clock.now_s())
                elif isinstance(step, int | float):
                    first_s = self.request.deadlines.first_s or self.request.deadlines.total_s
                    if not self.text and clock.now_s() - began + step > first_s:
                        clock.move(max(0.0, began + first_s - clock.now_s()))
                        yield self._fail(failures.TIMEOUT)
                        return
                    clock.move(step)
                elif isinstance(step, failures.FailureClass):
                    yield self._fail(step)
                    return
                elif isinstance(step, Exception):
                    raise step
                else:
                    step(self)
            reason = "cancelled" if self.canceled.is_set() else "stop"
            self.end = Done(reason, Usage(chunks=self.chunks), clock.now_s())
            yield self.end
        finally:
            self.engine.ended += 1

    def _fail(self, row: failures.FailureClass) -> Failed:
        self.end = Failed(failures.Failure(row, "scripted"), self.engine.clock.now_s())
        return self.end

    def cancel(self) -> None:
        self.canceled.set()

    def result(self) -> Result:
        for _ in self._events:
            pass
        failure = self.end.failure if isinstance(self.end, Failed) else None
        reason = self.end.finish_reason if isinstance(self.end, Done) else None
        usage, peak = Usage(chunks=self.chunks), self.engine.peak_mib
        return Result(self.engine.label, self.text, reason, failure, usage, 0.0, None, 0.0, peak_mib=peak)


class ScriptedEngine:
    """Does one act after another; the last is repeated. `health` is what `healthy` says."""

    def __init__(self, *acts: Act, source: str = "gemma_local", model: str = "gemma2-2b-it") -> None:
        self.acts: list[Act] = list(acts) or [["Hel", "lo"]]
        self.label = Label(source, model, 8)
        self.capabilities: frozenset[Any] = frozenset({"seed"})
        self.health: list[failures.Failure | None] = [None]
        self.health_asked = 0
        self.requests: list[Request] = []
        self.generations: list[ScriptedGeneration] = []
        self.clock: Any = ManualClock()
        self.ended = 0
        self.peak_mib: float | None = 100.0
        self._lock = threading.Lock()

    def probe(self, *, hashes: bool = True) -> Probe:
        return Probe(True, self.label, version="scripted", capabilities=self.capabilities)

    def healthy(self) -> failures.Failure | None:
        self.health_asked += 1
        return self.health.pop(0) if len(self.health) > 1 else self.health[0]

    def start(self, request: Request) -> ScriptedGeneration:
        require(self, request)
        with self._lock:
            act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
            self.requests.append(request)
        if act == ["refuse"]:
            raise Refused(failures.Failure(failures.BAD_ARGUMENTS, "scripted"))
        generation = ScriptedGeneration(self, request, act)
        self.generations.append(generation)
        return generation

    def close(self) -> None:
        pass


class Bench:
    """Builds a dispatcher or a worker around scripted engines."""

    ManualClock = ManualClock
    Engine = ScriptedEngine

    def __init__(self) -> None:
        self.clock: Any = ManualClock()
        self.logged: list[tuple[str, dict[str, Any]]] = []

    def log(self, event: str, fields: dict[str, Any]) -> None:
        json.dumps(fields)
        self.logged.append((event, fields))

    def backend(self, engine: ScriptedEngine, name: str = "local", *, local: bool = True, **options: Any) -> Backend:
        engine.clock = self.clock
        return Backend(name, engine, Breaker(self.clock, **options), self.clock, local=local)

    def dispatcher(
        self,
        local: ScriptedEngine | None,
        *fallbacks: ScriptedEngine,
        mode: str = "smart",
        retries: int = 2,
        failures_to_open: int = 3,
        **policy: Any,
    ) -> Dispatcher:
        first = None if local is None else self.backend(local, failures=failures_to_open)
        others = [self.backend(one, f"fallback{i}", local=False) for i, one in enumerate(fallbacks)]
        return Dispatcher(
            Router(first, others, mode),
            Policy(retry=RetryPolicy(retries=retries), **policy),
            clock=self.clock,
            rng=random.Random(1),
            log=self.log,
        )

    def worker(self, dispatcher: Dispatcher, **limits: int) -> Worker:
        return Worker(dispatcher, limits=Limits(**limits), defaults=Defaults(), log=self.log)


class Caller:
    """One client of a worker, over a socket pair."""

    def __init__(self, worker: Worker, *, max_line_bytes: int = 1 << 20, send_timeout_s: float = 5.0) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self._stream = self.socket.makefile("rb")
        channel = SocketChannel(theirs, max_line_bytes=max_line_bytes, send_timeout_s=send_timeout_s)

        def serve() -> None:
            worker.serve(channel)
            channel.release()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()

    def send(self, *messages: Any) -> None:
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.socket.sendall(data + b"\n")

    def read(self) -> Any:
        try:
            line = self._stream.readline()
        except ConnectionResetError:
            # The worker ended the connection while lines of ours were still unread: also an end, after its last word.
            return None
        return json.loads(line) if line else None

    def ask(self, *messages: Any) -> Any:
        self.send(*messages)
        return self.read()

    def until(self, *types: str) -> list[Any]:
        """Messages up to the first of one of `types` (or with `ok` false for "refused")."""
        found = []
        while True:
            message = self.read()
            assert message is not None, found
            found.append(message)
            kind = message.get("type") or ("refused" if message.get("ok") is False else message.get("action"))
            if kind in types:
                return found

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


def eventually(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Wait until `condition` holds; fails after `limit_s`."""
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, "did not come true"
        time.sleep(0.002)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return eventually


@pytest.fixture
def serve(bench: Bench) -> Iterator[Callable[..., Callable[..., Caller]]]:
    """`serve(dispatcher, slots=1)` gives a function that connects clients; everything is ended afterwards."""
    workers: list[Worker] = []
    callers: list[Caller] = []

    def start(dispatcher: Dispatcher, **limits: int) -> Callable[..., Caller]:
        from trialbench.worker.clock import SystemClock

        # Slots wait for real; what the dispatcher waits for is scripted.
        assert SystemClock
        worker = bench.worker(dispatcher, **limits)
        workers.append(worker)

        def connect(**options: Any) -> Caller:
            caller = Caller(worker, **options)
            callers.append(caller)
            return caller

        connect.worker = worker  # type: ignore[attr-defined]
        return connect

    yield start
    for caller in callers:
        caller.close()
    for worker in workers:
        worker.stop(0)
    for caller in callers:
        caller.thread.join(timeout=30)
        assert not caller.thread.is_alive()
