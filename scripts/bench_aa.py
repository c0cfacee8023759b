"""How often does the comparison report a false difference, or miss a real one? One model against itself.

Usage (`make bench-aa` does it)::

    python scripts/bench_aa.py [--runs 20] [--scenes] [--out build/bench-aa.json]

Each run is what a trial does: a server starts and is measured (A1), another takes its place (B), the first one starts
again (A2); a hundred nav samples each, taken by `trialbench session`, judged by the trial's own comparison. Both
servers hold the same model, so "different" is a false alarm. Then the same again with a relay between client and
server that answers a tenth later while B is measured: there "different" is the right word. The relay's samples are
discarded, as is the relay.

With `--scenes` the samples ask the twin's forty labeled scenes in turns, and the comparison is by scene.

A run whose A1-A2 band exceeds 5 % is shown as NOISY and repeated, ten times at most in all.

Exit code 0 when every target holds, 1 when one is missed, 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_server import CAMERA, MODELS, NAV_PROMPT, ROOT, BenchError, Server, end_in_order, say, split_cpus, told

if TYPE_CHECKING:
    from trialbench.measure.sample import Sample
    from trialbench.report.comparison import Comparison

SLOWER = 0.10
MAX_FALSE, MIN_TRUE, MAX_REPEATS, LIMIT_S = 1, 19, 10, 900.0
SAMPLES, WARMUP = 100, 3
SESSION_LIMIT_S = 60.0


class Relay:
    """Passes bytes between clients and a server, and holds the first bytes of each reply back by a share of its time.

    Args:
        slower: 0.1 answers a tenth later than the server does; 0.0 only relays.
    """

    def __init__(self, port: int, slower: float) -> None:
        self._target = ("127.0.0.1", port)
        self._slower = slower
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        asked_s: list[float] = []
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def there() -> None:
                with contextlib.suppress(OSError):
                    while data := client.recv(1 << 16):
                        if not asked_s:
                            asked_s.append(time.monotonic())
                        server.sendall(data)
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=there, daemon=True).start()
            while data := server.recv(1 << 16):
                if asked_s:
                    time.sleep(self._slower * (time.monotonic() - asked_s.pop()))
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Accept no further clients; open connections end with their clients."""
        self._listener.close()


@contextmanager
def address(server: Server, slower: float | None) -> Iterator[str]:
    """Where the client asks: the server itself, or a relay in front of it."""
    if slower is None:
        yield server.url
        return
    relay = Relay(server.port, slower)
    try:
        yield relay.url
    finally:
        relay.close()


def put_scenes(folder: Path) -> dict[str, str]:
    """Write the twin's scenes for a session in `folder`; what its segment needs to ask them."""
    with (MODELS / "scenes" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            {
                "id": Path(row["image"]).stem,
                "image": str(MODELS / "scenes" / row["image"]),
                "expected": row["expected"],
                "group": row["group"],
            }
            for row in csv.DictReader(file)
        ]
    (folder / "scenes.json").write_text(json.dumps(rows), encoding="utf-8")
    return {"scenes": "scenes.json"}


def session(name: str, slower: float | None, *, scenes: bool = False) -> list[Sample]:
    """The samples of one session against a server that was just started."""
    with Server("candidate") as server, ExitStack() as stack:
        url = stack.enter_context(address(server, slower))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-aa-")))
        (folder / "prompt.txt").write_text(NAV_PROMPT, encoding="utf-8")
        document = {
            "url": url,
            "model_label": name,
            "out_dir": str(folder),
            "image": str(CAMERA),
            "prompt_file": "prompt.txt",
            "timeout_s": 10,
            "idle_wait_s": 10,
            "time_limit_s": SESSION_LIMIT_S,
            "segments": [
                {
                    "id": name,
                    "workload": "nav",
                    **(put_scenes(folder) if scenes else {}),
                    "warmup": WARMUP,
                    "n": SAMPLES,
                }
            ],
        }
        (folder / "session.json").write_text(json.dumps(document), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-IB", "-m", "trialbench", "session", str(folder / "session.json")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * SESSION_LIMIT_S,
            check=False,
        )
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() if done.returncode in (0, 3) else []
    from trialbench.measure.sample import Sample

    samples = [Sample(**json.loads(line)) for line in lines]
    if len(samples) < SAMPLES:
        raise BenchError(
            f"{name}: {len(samples)} of {SAMPLES} samples, exit code {done.returncode}: {done.stdout[-300:]}"
        )
    return samples


def run(slower: float | None, *, scenes: bool = False) -> Comparison:
    """One A1-B-A2; returns the comparison of latencies. With `slower` the relay stands before all three alike."""
    from trialbench.report.comparison import compare

    plain = None if slower is None else 0.0
    a1 = session("nav-baseline-a1", plain, scenes=scenes)
    b = session("nav-candidate", slower, scenes=scenes)
    a2 = session("nav-baseline-a2", plain, scenes=scenes)
    return next(found for found in compare(b, a1, a2) if found.metric == "latency_ms")


def series(
    title: str, runs: int, slower: float | None, repeats: int, *, scenes: bool = False
) -> tuple[list[Comparison], list[Comparison]]:
    """(runs that count, NOISY ones that were repeated instead); at most `repeats` are repeated."""
    counted: list[Comparison] = []
    noisy: list[Comparison] = []
    while len(counted) < runs:
        found = run(slower, scenes=scenes)
        again = bool(found.noisy) and len(noisy) < repeats
        (noisy if again else counted).append(found)
        word = "NOISY, repeated" if again else "NOISY" if found.noisy else found.finding.replace("_", " ")
        say(
            f"{title} {len(counted):>2}/{runs}: B/A {found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}], "
            f"band {found.band.percent if found.band else 0.0:.1f} %: {word}"
        )
    return counted, noisy


def measure(runs: int, *, scenes: bool = False) -> dict[str, Any]:
    """The document."""
    from trialbench.measure.summary import plain

    ours, _ = split_cpus()
    os.sched_setaffinity(0, ours)
    began_s = time.monotonic()
    same, noisy_same = series("same model", runs, None, MAX_REPEATS, scenes=scenes)
    left_over = MAX_REPEATS - len(noisy_same)
    slowed, noisy_slowed = series(f"{SLOWER:.0%} slower", runs, SLOWER, left_over, scenes=scenes)
    duration_s = round(time.monotonic() - began_s, 1)
    false = sum(one.finding == "different" for one in same)
    true = sum(one.finding == "different" and (one.ratio or 0.0) > 1 for one in slowed)
    repeats = len(noisy_same) + len(noisy_slowed)
    left = sum(bool(one.noisy) for one in [*same, *slowed])
    # Fewer runs than twenty are a smoke test: the limits go with them.
    allowed = [round(limit * runs / 20) for limit in (MAX_FALSE, MIN_TRUE)]
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "duration_s": duration_s,
        "runs": runs,
        "scenes": scenes,
        "slower": SLOWER,
        "same": plain(same),
        "slowed": plain(slowed),
        "noisy": plain([*noisy_same, *noisy_slowed]),
        "targets": [
            {"what": "same model: called different", "found": false, "limit": allowed[0], "ok": false <= allowed[0]},
            {
                "what": f"{SLOWER:.0%} slower: called different",
                "found": true,
                "limit": allowed[1],
                "ok": true >= allowed[1],
            },
            {"what": "NOISY runs repeated", "found": repeats, "limit": MAX_REPEATS, "ok": repeats <= MAX_REPEATS},
            {"what": "NOISY runs left", "found": left, "limit": 0, "ok": left == 0},
            {"what": "seconds in all", "found": duration_s, "limit": LIMIT_S, "ok": duration_s <= LIMIT_S},
        ],
    }


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20, help="of each kind (default: %(default)s)")
    parser.add_argument("--scenes", action="store_true", help="ask the twin's scenes in turns (default: one picture)")
    parser.add_argument(
        "--out", type=Path, help="default: build/bench-aa.json, with --scenes build/bench-aa-scenes.json"
    )
    options = parser.parse_args()
    out = options.out or ROOT / "build" / f"bench-aa{'-scenes' if options.scenes else ''}.json"
    end_in_order()
    try:
        document = measure(options.runs, scenes=options.scenes)
    except (BenchError, subprocess.TimeoutExpired) as error:
        say(f"bench-aa: {error}")
        return 2
    return told(document, out, 32)


if __name__ == "__main__":
    sys.exit(main())
