#!/usr/bin/env python3
"""What the worker itself adds: a round trip over its Unix socket, with an engine that answers at once.

Two questions, each asked one after another by one client: `status`, and `generate` with a reply of one token (from the
line that is sent to the `done` that is read). Expected: below 1 ms at the median. Used by ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from trialbench.config.settings import DispatcherSettings  # noqa: E402
from trialbench.engines.contract import (  # noqa: E402 - the checkout's own, whatever is installed
    Capability,
    Done,
    Event,
    Label,
    Probe,
    Request,
    Result,
    Started,
    Token,
    Usage,
)
from trialbench.engines.failures import Failure  # noqa: E402
from trialbench.files import write_json  # noqa: E402
from trialbench.worker.build import dispatcher  # noqa: E402
from trialbench.worker.server import Server, UnixListener  # noqa: E402
from trialbench.worker.service import Worker  # noqa: E402

LIMIT_MS = 1.0


class Instant:
    """An engine that says one word and takes no time."""

    label = Label("gemma_local", "instant", 8)
    capabilities: frozenset[Capability] = frozenset()

    def probe(self, *, hashes: bool = True) -> Probe:  # noqa: ARG002 - the contract has it
        """Always usable."""
        return Probe(True, self.label)

    def healthy(self) -> Failure | None:
        """Always."""
        return None

    def start(self, request: Request) -> Instant:  # noqa: ARG002 - the contract has it
        """Its own generation: there is nothing to keep."""
        return self

    def events(self) -> Iterator[Event]:
        """One token."""
        now_s = time.monotonic()
        yield Started(now_s)
        yield Token("word", now_s)
        yield Done("stop", Usage(chunks=1), now_s)

    def cancel(self) -> None:
        """It is over already."""

    def result(self) -> Result:
        """The word."""
        return Result(self.label, "word", "stop", None, Usage(chunks=1), 0.0, 0.0, 0.0)

    def close(self) -> None:
        """Nothing is open."""


def unheard(_event: str, _fields: dict[str, Any]) -> None:
    """A log that nobody reads: the benchmark does not measure writing it."""


def main() -> int:
    """Measure and print; exit code 1 where it takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2000, help="round trips of each kind (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-worker.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "worker.sock")
        worker = Worker(dispatcher(DispatcherSettings(), Instant(), log=unheard))
        server = Server(worker, listener=UnixListener(path))
        found: dict[str, list[float]] = {}

        def client() -> None:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.connect(str(path))
                    stream = connection.makefile("rb")
                    found["status"] = trips(connection, stream, {"type": "status"}, "status", options.n)
                    asked = {"type": "generate", "id": 1, "prompt": "x"}
                    found["generate"] = trips(connection, stream, asked, "done", options.n)
            finally:
                server.wake()

        thread = threading.Thread(target=client)
        thread.start()
        server.run(0)
        thread.join()
    report: dict[str, Any] = {name: summary(values) for name, values in found.items()}
    report["limit_ms"] = LIMIT_MS
    report["ok"] = all(report[name]["p50_ms"] < LIMIT_MS for name in ("status", "generate"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, report)
    print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


def trips(connection: socket.socket, stream: Any, message: dict[str, Any], last: str, n: int) -> list[float]:
    """Milliseconds of `n` round trips, after a tenth of them as warm-up."""
    line = json.dumps(message).encode() + b"\n"
    end = f'"type":"{last}"'.encode()
    spent = []
    for number in range(n + n // 10):
        began_s = time.perf_counter()
        connection.sendall(line)
        while end not in stream.readline():
            pass
        if number >= n // 10:
            spent.append((time.perf_counter() - began_s) * 1000)
    return spent


def summary(values: list[float]) -> dict[str, float]:
    """Median and p99 in milliseconds."""
    ordered = sorted(values)
    return {"p50_ms": round(statistics.median(ordered), 4), "p99_ms": round(ordered[int(len(ordered) * 0.99)], 4)}


if __name__ == "__main__":
    sys.exit(main())
