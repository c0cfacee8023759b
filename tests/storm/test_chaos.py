"""A thousand requests with faults of every class, through a whole worker: each ends once, as it should, and is whole.

Engines and clients are real: stand-in processes under the supervisor, an HTTP server that misbehaves, socket pairs.
Injected is the time of the back-off alone. `MT_CHAOS_SEED` repeats a run; every failure names its seed.
"""

from __future__ import annotations

import http.server
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from trialbench import schemas
from trialbench.config.settings import Limits
from trialbench.engines import failures, proc
from trialbench.engines.contract import Capability, Deadlines, Engine, Generation, Probe, Request
from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions
from trialbench.engines.openai import EndpointOptions, OpenAICompatible
from trialbench.engines.supervisor import Bounds, Supervisor
from trialbench.worker.breaker import Breaker
from trialbench.worker.channel import SocketChannel
from trialbench.worker.dispatch import Dispatcher, Policy
from trialbench.worker.protocol import Defaults
from trialbench.worker.retry import RetryPolicy
from trialbench.worker.routing import Backend, Router
from trialbench.worker.service import Worker

FAILURES = {failure.name: failure for failure in failures.FAILURES}
STAND_IN = Path(__file__).resolve().parents[1] / "fixtures" / "engines" / "gemma"
REQUESTS = int(os.environ.get("MT_CHAOS_REQUESTS", "1000"))
SEED = int(os.environ.get("MT_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 31))))
CLIENTS, IN_FLIGHT, SLOTS, RETRIES = 8, 3, 4, 2
TEXT = "une réponse entière, avec des accents é à ü et un 😀 dedans"
# Long enough that a starved machine is not taken for a stall.
FIRST_S = BETWEEN_S = float(os.environ.get("MT_CHAOS_PATIENCE_S", "4"))


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and how such a request has to end.

    Attributes:
        asks: for the stand-in, or for the HTTP server under `http`.
        ends: a failure class, or "done".
        times: how many attempts fail before one works; None: all.
        delivers: tokens come before it fails, so it must not be tried again.
        weight: how often it is drawn.
    """

    name: str
    asks: dict[str, Any]
    ends: str
    times: int | None = None
    delivers: bool = False
    weight: int = 4
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def attempts(self) -> int:
        if self.ends == "done":
            return (self.times or 0) + 1
        row = FAILURES[self.ends]
        return RETRIES + 1 if row.recoverable and not self.delivers else 1


FAULTS = [
    Fault("good", {}, "done", weight=30),
    Fault("good, byte by byte", {"split": True}, "done"),
    Fault("good, over HTTP", {"http": "good"}, "done", weight=15),
    Fault("stalls before the first token", {"stall_after": 0}, "timeout", weight=1),
    Fault("stalls once", {"stall_after": 0}, "done", times=1, weight=2),
    Fault("stalls between tokens", {"stall_after": 5}, "timeout", delivers=True, weight=2),
    Fault("weights gone", {"abort": "open"}, "bad_weights"),
    Fault("weights corrupt", {"abort": "header"}, "bad_weights"),
    Fault("flag without a value", {"abort": "value"}, "bad_arguments"),
    Fault("no number", {"abort": "stoi"}, "bad_arguments"),
    Fault("prompt too long", {"abort": "prompt"}, "prompt_too_long"),
    Fault("no memory", {"abort": "alloc"}, "allocation_failed"),
    Fault("no memory twice", {"abort": "alloc"}, "done", times=2),
    Fault("aborts for reasons of its own", {"abort": "unknown"}, "unknown_abort"),
    Fault("segmentation fault", {"signal": 11}, "crashed"),
    Fault("illegal instruction", {"signal": 4}, "crashed"),
    Fault("killed", {"signal": 9}, "killed"),
    Fault("killed once", {"signal": 9}, "done", times=1),
    Fault("killed within the reply", {"signal": 9, "stall_after": 4}, "killed", delivers=True),
    Fault("library missing", {"exit": 127}, "missing_binary"),
    Fault("exit 3", {"exit": 3}, "server_error"),
    Fault("SIMD target", {"simd": True}, "simd_fallback"),
    Fault("SIMD target once", {"simd": True}, "done", times=1),
    Fault("nothing", {"empty": True}, "empty_output"),
    Fault("damaged text", {"corrupt": True}, "replacement_characters", delivers=True),
    Fault("no end", {"flood": True}, "output_limit", delivers=True, weight=1),
    Fault("too much memory", {"leak_mib": 50, "tokens": 40, "rate_hz": 20}, "out_of_memory", delivers=True, weight=2),
    Fault("refused as unsupported", {}, "unsupported", extra={"accept": {"grammar": "root ::= [0-9]"}}),
    Fault("503", {"http": 503}, "unavailable"),
    Fault("503 once", {"http": 503}, "done", times=1),
    Fault("429", {"http": 429}, "busy"),
    Fault("429 twice", {"http": 429}, "done", times=2),
    Fault("403", {"http": 403}, "not_allowed"),
    Fault("connection closed", {"http": "drop"}, "connection"),
    Fault("connection closed once", {"http": "drop"}, "done", times=1),
    Fault("connection closed within the reply", {"http": "half"}, "connection", delivers=True),
    Fault("no SSE", {"http": "garbage"}, "bad_reply"),
]


def test_every_class_has_its_fault() -> None:
    assert {fault.ends for fault in FAULTS} - {"done"} == {row.name for row in failures.FAILURES}


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """OpenAI's chat completions, as the prompt's first line asks for them."""

    protocol_version = "HTTP/1.1"
    seen: Counter[str]
    lock: threading.Lock

    def do_GET(self) -> None:
        self._whole(200, b'{"data":[]}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asks = json.loads(body["messages"][0]["content"].split("\n")[0])
        with self.lock:
            self.seen[asks["key"]] += 1
            turn = self.seen[asks["key"]]
        kind = asks["http"]
        if asks["times"] is not None and turn > asks["times"]:
            kind = "good"
        if isinstance(kind, int):
            self._whole(kind, b'{"error":{"message":"as asked"}}')
        elif kind == "garbage":
            self._whole(200, b"data: {]\n\n", "text/event-stream")
        elif kind == "drop":
            self.close_connection = True
        else:
            self._stream(half=kind == "half")

    def _whole(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, *, half: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        pieces = [TEXT[start : start + 5] for start in range(0, len(TEXT), 5)]
        for piece in pieces[:4] if half else pieces:
            event = {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if not half:
            event = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


class Mixed:
    """Two engines behind one: whose turn it is stands in the prompt."""

    def __init__(self, gemma: Engine, remote: Engine) -> None:
        self._gemma, self._remote = gemma, remote
        self.label = gemma.label
        self.capabilities: frozenset[Capability] = frozenset()

    def probe(self, *, hashes: bool = True) -> Probe:
        return self._gemma.probe(hashes=hashes)

    def healthy(self) -> failures.Failure | None:
        return None

    def start(self, request: Request) -> Generation:
        assert request.prompt is not None
        return (self._remote if request.prompt.startswith('{"http"') else self._gemma).start(request)

    def close(self) -> None:
        self._gemma.close()
        self._remote.close()


class SkippingClock:
    """Real time, and waits that take none: they are counted instead."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now_s(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        return event.is_set()


@pytest.fixture
def remote() -> Iterator[str]:
    handler = type("Handler", (Misbehaving,), {"seen": Counter(), "lock": threading.Lock()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def make_worker(folder: Path, url: str, clock: Any, **options: Any) -> tuple[Worker, Mixed]:
    weights = folder / "weights.sbs"
    weights.write_text(json.dumps({"text": TEXT}), encoding="utf-8")
    supervisor = Supervisor(Bounds(grace_s=0.5, output_bytes=1 << 19, memory_mib=400))
    gemma = GemmaCpp(GemmaOptions(STAND_IN, weights, model="stand-in", weight_format="sfp", scratch=folder), supervisor)
    gemma.owns_supervisor = True
    engine = Mixed(gemma, OpenAICompatible(EndpointOptions(url)))
    # Breakers have their own tests; here each request meets its own fault and no other's.
    backend = Backend("local", engine, Breaker(clock, failures=1 << 30), clock, local=True)
    dispatcher = Dispatcher(
        Router(backend, [], "force_local"),
        Policy(retry=RetryPolicy(retries=RETRIES)),
        clock=clock,
        rng=random.Random(SEED),
    )
    defaults = Defaults(Request(max_tokens=512, top_k=1, deadlines=Deadlines(FIRST_S, BETWEEN_S, 20)))
    return Worker(dispatcher, limits=Limits(CLIENTS, 1000, 1000, SLOTS), defaults=defaults, **options), engine


class Client:
    """Keeps a few requests going, takes note of everything that comes back."""

    def __init__(self, worker: Worker, number: int, tasks: list[tuple[str, Fault, bool]], folder: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(120)
        self._stream = self._socket.makefile("rb")
        self._tasks, self._folder, self.number = tasks, folder, number
        self.texts: dict[str, str] = {}
        self.ends: dict[str, list[dict[str, Any]]] = {}
        self.late: list[dict[str, Any]] = []
        self.aborted: set[str] = set()
        channel = SocketChannel(theirs, max_line_bytes=1 << 20, send_timeout_s=30)

        def serve() -> None:
            worker.serve(channel)
            channel.release()

        self._server = threading.Thread(target=serve, daemon=True)
        self._server.start()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _ask(self, key: str, fault: Fault) -> None:
        if "http" in fault.asks:
            prompt = json.dumps({**fault.asks, "key": key, "times": fault.times}) + "\nhello"
        else:
            asks = dict(fault.asks)
            if fault.times is not None:
                asks |= {"fail_times": fault.times, "state": str(self._folder / f"state-{key}")}
            if "tokens" not in asks:
                asks |= {"text": TEXT, "tokens": 1000}
            prompt = "#stand-in " + json.dumps(asks) + "\nhello"
        self._send({"type": "generate", "id": key, "prompt": prompt, **fault.extra})

    def _work(self) -> None:
        try:
            waiting = list(self._tasks)
            running: dict[str, bool] = {}
            while waiting or running:
                while waiting and len(running) < IN_FLIGHT:
                    key, fault, abort = waiting.pop()
                    running[key] = abort
                    self._ask(key, fault)
                self._take(running)
            self._send({"type": "close"})
            while line := self._stream.readline():
                self.late.append(json.loads(line))
            self._server.join(10)
        except BaseException as error:
            self.error = error
        finally:
            self._stream.close()
            self._socket.close()

    def _take(self, running: dict[str, bool]) -> None:
        message = json.loads(self._stream.readline())
        if message["type"] == "aborted":
            return
        key = message["id"]
        if message["type"] == "token":
            self.texts[key] = self.texts.get(key, "") + message["text"]
            if running.get(key):
                running[key] = False
                self.aborted.add(key)
                self._send({"type": "abort", "id": key})
            return
        assert schemas.validate(message, "worker-reply") == [], message
        self.ends.setdefault(key, []).append(message)
        running.pop(key, None)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_chaos(tmp_path: Path, remote: str) -> None:
    dice = random.Random(SEED)
    clock = SkippingClock()
    files_before, threads_before = _open_files(), threading.active_count()
    worker, engine = make_worker(tmp_path, remote, clock)
    # Each fault at least twice, the rest by weight.
    drawn = FAULTS * min(2, REQUESTS // len(FAULTS))
    drawn += dice.choices(FAULTS, [fault.weight for fault in FAULTS], k=REQUESTS - len(drawn))
    dice.shuffle(drawn)
    tasks: dict[str, tuple[str, Fault, bool]] = {
        f"r{number}": (f"r{number}", fault, dice.random() < 0.05) for number, fault in enumerate(drawn)
    }
    keys = list(tasks)
    clients = [Client(worker, one, [tasks[key] for key in keys[one::CLIENTS]], tmp_path) for one in range(CLIENTS)]
    for client in clients:
        client.thread.join(280)
        assert not client.thread.is_alive(), f"a client still waits: a request never ended (MT_CHAOS_SEED={SEED})"
        assert client.error is None, f"{client.error!r} (MT_CHAOS_SEED={SEED})"
    worker.stop(0)
    engine.close()

    wrong = [text for client in clients for text in _wrong(client, tasks)]
    assert not wrong, f"MT_CHAOS_SEED={SEED}: {len(wrong)} wrong, first: {wrong[:5]}"
    assert sum(len(client.ends) for client in clients) == REQUESTS, f"lost (MT_CHAOS_SEED={SEED})"
    # Back-off as promised: 1 s and 2 s, a fifth either way.
    assert {round(wait_s) for wait_s in clock.waits} <= {0, 1, 2}
    _nothing_is_left(tmp_path, files_before, threads_before)
    ends = Counter(_name(end) for client in clients for (end,) in client.ends.values())
    print(f"\nchaos: {REQUESTS} requests, seed {SEED}: " + ", ".join(f"{name} {n}" for name, n in sorted(ends.items())))


def _name(end: dict[str, Any]) -> str:
    return str(end["finish_reason"] if end["type"] == "done" else end["error"]["class"])


def _wrong(client: Client, tasks: dict[str, tuple[str, Fault, bool]]) -> Iterator[str]:
    """Everything about a client's requests that is not as it should be."""
    if [one["type"] for one in client.late] != ["closed"]:
        yield f"client {client.number} heard after its last end: {client.late}"
    for key, ends in client.ends.items():
        fault = tasks[key][1]
        if len(ends) != 1:
            yield f"{key} ({fault.name}) ended {len(ends)} times"
        end, text = ends[0], client.texts.get(key, "")
        if key in client.aborted and _name(end) == "cancelled":
            if fault.ends == "done" and not TEXT.startswith(text):
                yield f"{key} ({fault.name}) was canceled, its text is no beginning: {text!r}"
            continue
        found = "done" if end["type"] == "done" else end["error"]["class"]
        if found != fault.ends:
            yield f"{key} ({fault.name}): expected {fault.ends}, found {end}"
            continue
        if end["attempts"] != fault.attempts:
            yield f"{key} ({fault.name}): expected {fault.attempts} attempts, found {end['attempts']}"
        if fault.ends == "done" and text != TEXT:
            yield f"{key} ({fault.name}): expected the whole text once, found {text!r}"
        if fault.ends != "done" and bool(text) != fault.delivers:
            yield f"{key} ({fault.name}): tokens came: {bool(text)}, expected {fault.delivers}"
        if end["type"] == "error" and end["error"]["code"] != FAILURES[fault.ends].code:
            yield f"{key} ({fault.name}): code {end['error']['code']}"


def _nothing_is_left(folder: Path, files_before: int, threads_before: int) -> None:
    until_s = time.monotonic() + 10
    while True:
        own = [one for one in proc.table() if one.parent == os.getpid()]
        scratch = [path for path in folder.iterdir() if path.is_dir()]
        files, threads = _open_files(), threading.active_count()
        if not own and not scratch and files <= files_before and threads <= threads_before:
            return
        assert time.monotonic() < until_s, f"left: {own} {scratch} files +{files - files_before} threads {threads}"
        time.sleep(0.05)


@pytest.mark.parametrize(("grows", "leaking"), [(3, True), (0, False)])
def test_the_memory_watch_sees_a_leak(tmp_path: Path, remote: str, grows: int, leaking: bool) -> None:
    told: list[str] = []
    worker, engine = make_worker(tmp_path, remote, SkippingClock(), log=lambda event, fields: told.append(event))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = SocketChannel(theirs, max_line_bytes=1 << 20, send_timeout_s=10)
    thread = threading.Thread(target=lambda: (worker.serve(channel), channel.release()), daemon=True)
    thread.start()
    asks = {"grow_mib": grows, "state": str(tmp_path / "runs"), "tokens": 20, "rate_hz": 200}
    with ours, ours.makefile("rb") as stream:
        ours.settimeout(60)
        for key in range(24):
            prompt = "#stand-in " + json.dumps(asks) + "\nhello"
            ours.sendall(json.dumps({"type": "generate", "id": key, "prompt": prompt}).encode() + b"\n")
            while json.loads(stream.readline())["type"] != "done":
                pass
        ours.sendall(b'{"type":"status"}\n')
        memory = json.loads(stream.readline())["memory"]
    thread.join(10)
    worker.stop(0)
    engine.close()
    assert memory["leaking"] is leaking, memory
    assert ("memory_grows" in told) is leaking
    if leaking:
        assert memory["slope_mib"] == pytest.approx(grows, rel=0.3)
