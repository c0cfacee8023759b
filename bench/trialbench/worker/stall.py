"""Deliberate stalls, for the proof that the worker survives them: the engine is real, and it is really silent.

An engine process is stopped with SIGSTOP. A server is reached through a relay on the loopback that holds back its
reply.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from trialbench.engines.contract import Engine, Generation, Probe, Request
from trialbench.engines.failures import Failure
from trialbench.urls import parse

_CHUNK = 1 << 16


class StoppingEngine:
    """An engine whose first generations are stopped as soon as they have begun. Only for process engines.

    Args:
        inner: its generations have a `pid` that leads a process group.
    """

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.stalls = 0
        self.stalled = 0

    @property
    def label(self) -> Any:
        """The inner engine's."""
        return self._inner.label

    @property
    def capabilities(self) -> Any:
        """The inner engine's."""
        return self._inner.capabilities

    def probe(self, *, hashes: bool = True) -> Probe:
        """The inner engine's."""
        return self._inner.probe(hashes=hashes)

    def healthy(self) -> Failure | None:
        """The inner engine's."""
        return self._inner.healthy()

    def start(self, request: Request) -> Generation:
        """Like the inner engine, but stopped while there are `stalls` left."""
        generation = self._inner.start(request)
        pid = getattr(generation, "pid", None)
        with self._lock:
            stall = self.stalls > 0 and pid is not None
            self.stalls -= stall
            self.stalled += stall
        if stall:
            assert pid is not None
            # Only the reader of its events reaps it, so the group id can't have been reused.
            os.killpg(pid, signal.SIGSTOP)
        return generation

    def close(self) -> None:
        """The inner engine's."""
        self._inner.close()


class Relay:
    """A TCP relay on 127.0.0.1 in front of a server: while `stalls` are left, it holds back the reply to a POST.

    Use as a context manager; clients connect to `url`.

    Raises:
        UsageError: the server is reached over TLS.
    """

    def __init__(self, url: str) -> None:
        address = parse(url, "--url", expected="http://HOST:PORT, as the relay speaks no TLS", schemes=("http",))
        self._target = (address.host, address.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{address.path}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.stalls = 0
        self.stalled = 0
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and stop listening."""
        with self._lock:
            ending = [self._listener, *self._open]
        for one in ending:
            _shut(one)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        held = threading.Event()
        ended = threading.Semaphore(0)

        def asked(data: bytes) -> bytes:
            if data.startswith(b"POST "):
                with self._lock:
                    stall = self.stalls > 0
                    self.stalls -= stall
                    self.stalled += stall
                if stall:
                    held.set()
            return data

        def answered(data: bytes) -> bytes:
            return b"" if held.is_set() else data

        def pump(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
            try:
                while data := source.recv(_CHUNK):
                    target.sendall(change(data))
            except OSError:
                pass
            # If one side closes, both are closed: a server must see that its client is gone. But a stall is silent: the
            # client must not see that the server closed after the held-back reply.
            if source is client or not held.is_set():
                _shut(source)
                _shut(target)
            ended.release()

        def sweep() -> None:
            ended.acquire()
            ended.acquire()
            with self._lock:
                self._open -= {client, server}
            client.close()
            server.close()

        for work in (lambda: pump(client, server, asked), lambda: pump(server, client, answered), sweep):
            threading.Thread(target=work, name="relay", daemon=True).start()


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
