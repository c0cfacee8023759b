"""A scripted chat server on the loopback, and the small things the bench's tests share."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trialbench import stats
from trialbench.workloads import Workload, load_workload

# Tests are imported by path and so can't import each other: what they share lies in a folder of its own.
sys.path.insert(0, str(Path(__file__).resolve().parent / "shared"))

REPLIES = Path(__file__).resolve().parents[2] / "fixtures" / "replies"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out for the width of a pipe, whatever terminal or test runner is around."""
    monkeypatch.setenv("COLUMNS", "100")


def http(body: bytes, *, status: int = 200, kind: str = "application/json", length: int | None = None) -> bytes:
    """A whole response; `length` lies about its size."""
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def chat(content: str | None = "left large", finish_reason: str | None = "stop", **message: Any) -> bytes:
    """A whole good response, or one that differs in what is given."""
    return http(
        json.dumps(
            {
                "choices": [{"message": {"content": content, **message}, "finish_reason": finish_reason}],
                "usage": {"completion_tokens": 3},
                "timings": {"prompt_n": 99, "prompt_ms": 8.0, "predicted_ms": 0.5, "cache_n": 0},
            }
        ).encode()
    )


def recorded(name: str) -> bytes:
    """A reply of a real llama-server."""
    kind = "text/event-stream" if name.endswith(".sse") else "application/json"
    return http((REPLIES / name).read_bytes(), kind=kind)


class Scripted:
    """Answers each request by the next act of its script; the last act is repeated.

    An act is the bytes to send, or a function `(server, socket) -> keep`: it sends what it likes and says whether
    the connection stays open.
    """

    def __init__(self) -> None:
        self.script: list[bytes | Callable[[Scripted, socket.socket], bool]] = [chat()]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.connections = 0
        self.released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Close everything; a client that waits sees the connection end."""
        self.released.set()
        for one in [self._listener, *self._open]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
        for thread in self._threads:
            thread.join(timeout=30)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while self._one(connection, stream):
                    pass
            # The stream holds the socket open until it is closed as well.
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()

    def _one(self, connection: socket.socket, stream: Any) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return False
            head += line
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        self.bodies.append(json.loads(stream.read(length)))
        self.headers.append(head.decode())
        act = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(act, bytes):
            connection.sendall(act)
            return True
        return act(self, connection)


def closes_after(reply: bytes) -> Callable[[Scripted, socket.socket], bool]:
    """Answers, promises to keep the connection, and closes it."""

    def act(_server: Scripted, connection: socket.socket) -> bool:
        connection.sendall(reply)
        return False

    return act


def hangs_up(_server: Scripted, _connection: socket.socket) -> bool:
    """Reads the request and closes without a word."""
    return False


def stalls(server: Scripted, _connection: socket.socket) -> bool:
    """Says nothing until the test is over."""
    server.released.wait(60)
    return False


def dribbles(server: Scripted, connection: socket.socket) -> bool:
    """A byte now and then: never silent for long, never done."""
    connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
    while not server.released.wait(0.05):
        try:
            connection.sendall(b" ")
        except OSError:
            break
    return False


@pytest.fixture(autouse=True)
def nobodys_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real binary that is named for the live suite is not used by the others."""
    for name in ("BINARY", "WEIGHTS", "TOKENIZER", "FORMAT"):
        monkeypatch.delenv(f"GEMMA_CPP_{name}", raising=False)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 place the ends of an interval well enough to count by, in a fifth of the time."""
    monkeypatch.setattr(stats, "median_ratio", partial(stats.median_ratio, resamples=400))


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def dead_url() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="session")
def folders() -> ModuleType:
    """tests/fixtures/results/folders.py."""
    return importlib.import_module("folders")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "car-view.png"
    path.write_bytes(PNG)
    return path


@pytest.fixture
def nav(image: Path) -> Workload:
    return load_workload("nav", settings={"prompt": "Where to?"}, image=image)


@pytest.fixture
def acts() -> Any:
    """What a scripted server can do, for tests: they cannot import this file."""

    class Acts:
        pass

    for act in (http, chat, recorded, closes_after, hangs_up, stalls, dribbles):
        setattr(Acts, act.__name__, staticmethod(act))
    return Acts
