"""How close to the wire does trialbench measure, and what does it cost? One real llama-server, clients in turns.

Usage (`make bench` does it)::

    python scripts/bench_client.py [--rounds 5] [--requests 40] [--out build/benchmarks.json]

Compared are trialbench's client, a raw socket (trialbench/measure/raw.py) and plain httpx, timed around its call as
everybody does it. They are processes of their own that send one request when told to, one after the other in changing
order: whatever the machine does meanwhile meets all of them. What passed on the loopback is listened to from outside,
so that no client is taken at its word.

Exit code 0 when every target holds, 1 when one is missed, 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_server import CAMERA, NAV_PROMPT, ROOT, BenchError, Server, Wire, end_in_order, say, split_cpus

CLIENTS = ("trialbench", "raw", "httpx")
MODES = ("plain", "stream")
TIMEOUT_S = 30.0
# The targets: ratios to the raw socket of the same round, medians over the rounds; milliseconds, seconds, megabytes.
PLAIN_RATIO, STREAM_RATIO, GAP_MS, FIRST_S, RSS_MB = 1.05, 1.10, 0.4, 0.3, 45.0


# --- a client, as a process of its own -------------------------------------------------------------------------------


def _body(url: str, stream: bool) -> tuple[Any, Any, bytes]:
    """(client, workload, body): what trialbench would send; every client sends these bytes."""
    from trialbench.measure.client import ChatClient
    from trialbench.workloads import load_workload

    client = ChatClient(url, stream=stream)
    # A stream of eleven tokens has something to stream; two words come in one piece.
    workload = (
        load_workload("describe", image=CAMERA)
        if stream
        else load_workload("nav", settings={"prompt": NAV_PROMPT}, image=CAMERA)
    )
    return client, workload, client.encode(workload, cache_prompt=False)


def _trialbench(url: str, stream: bool) -> Callable[[], dict[str, float | None]]:
    from trialbench.measure.sample import judge, wall_clock, why

    client, workload, body = _body(url, stream)

    def once() -> dict[str, float | None]:
        reply = client.send(body, timeout_s=TIMEOUT_S, connect_timeout_s=5.0)
        sample = judge(reply, 1, workload, cache_prompt=False, wall=wall_clock())
        if not sample.ok:
            raise BenchError(f"trialbench: {why(sample)}")
        return {"total_ms": sample.latency_ms, "ttft_ms": sample.ttft_ms, "server_ms": sample.server_ms}

    return once


def _raw(url: str, stream: bool) -> Callable[[], dict[str, float | None]]:
    from trialbench.measure.raw import RawClient

    client = RawClient(url, _body(url, stream)[2], stream=stream)

    def once() -> dict[str, float | None]:
        reply = client.send(TIMEOUT_S)
        return {"total_ms": reply.latency_ms, "ttft_ms": reply.ttft_ms, "server_ms": reply.server_ms}

    return once


def _httpx(url: str, stream: bool) -> Callable[[], dict[str, float | None]]:
    import httpx

    body = _body(url, stream)[2]
    # llama-server closes a streamed connection that it announced to keep: without this httpx fails now and then.
    limits = httpx.Limits(max_keepalive_connections=0) if stream else httpx.Limits()
    client = httpx.Client(timeout=TIMEOUT_S, limits=limits, trust_env=False)
    headers = {"Content-Type": "application/json"}
    target = f"{url}/v1/chat/completions"

    def once() -> dict[str, float | None]:
        began_s = time.monotonic()
        if not stream:
            document = client.post(target, content=body, headers=headers).raise_for_status().json()
            total_ms, ttft_ms = (time.monotonic() - began_s) * 1000, None
        else:
            document, ttft_ms = {}, None
            with client.stream("POST", target, content=body, headers=headers) as response:
                response.raise_for_status()
                for line in response.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    document = json.loads(line[6:])
                    if ttft_ms is None and any(c["delta"].get("content") for c in document["choices"]):
                        ttft_ms = (time.monotonic() - began_s) * 1000
            total_ms = (time.monotonic() - began_s) * 1000
        timings = document["timings"]
        return {"total_ms": total_ms, "ttft_ms": ttft_ms, "server_ms": timings["prompt_ms"] + timings["predicted_ms"]}

    return once


def work(name: str, url: str, stream: bool) -> int:
    """The process: a request for every line that comes, a line of JSON for every reply."""
    once = {"trialbench": _trialbench, "raw": _raw, "httpx": _httpx}[name](url, stream)
    print("ready", flush=True)
    for _ in sys.stdin:
        try:
            print(json.dumps(once()), flush=True)
        except Exception as error:
            # Whatever it is: the other side must hear of it instead of waiting.
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            return 1
    return 0


class Client:
    """The process's other end."""

    def __init__(self, name: str, url: str, stream: bool) -> None:
        self.name = name
        command = [sys.executable, __file__, "--work", name, "--url", url, *(["--stream"] if stream else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise BenchError(f"the client {name} did not start")

    def once(self) -> dict[str, float | None]:
        """One request; returns {total_ms, ttft_ms, server_ms} as the client reports them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("once\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in found:
            raise BenchError(f"the client {self.name}: {found['error']}")
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


# --- rounds ----------------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """What one client saw in one round, in milliseconds. `wire_ms` is what passed on the loopback."""

    total_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)
    wire_ms: list[float] = field(default_factory=list)

    def add(self, found: dict[str, float | None], wire_ms: float | None) -> None:
        """One request more."""
        total_ms, server_ms, ttft_ms = found["total_ms"], found["server_ms"], found["ttft_ms"]
        if total_ms is None or server_ms is None:
            raise BenchError(f"expected a total and the server's own time, found {found}")
        self.total_ms.append(total_ms)
        self.gap_ms.append(total_ms - server_ms)
        if ttft_ms is not None:
            self.ttft_ms.append(ttft_ms)
        if wire_ms is not None:
            self.wire_ms.append(wire_ms)


@contextmanager
def clients(url: str, stream: bool) -> Iterator[list[Client]]:
    """The three processes."""
    with ExitStack() as stack:
        found = []
        for name in CLIENTS:
            found.append(Client(name, url, stream))
            stack.callback(found[-1].close)
        yield found


def one_round(url: str, mode: str, requests: int, wire: Wire) -> dict[str, Times]:
    """`requests` requests by each client, request by request in changing order; new processes every round."""
    times = {name: Times() for name in CLIENTS}
    with clients(url, mode == "stream") as found:
        for number in range(-3, requests):
            turn = number % len(found)
            for client in (*found[turn:], *found[:turn]):
                wire.exchanges()
                reply = client.once()
                seen = wire.exchanges()
                # The first three of each are warm-up.
                if number >= 0:
                    times[client.name].add(reply, seen[-1].total_ms if seen else None)
    return times


# --- the program as it is: start and memory --------------------------------------------------------------------------

# The real command line, and the peak of what its process took.
_RUN = """
import sys
from trialbench.cli import main
code = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("VmHWM", peak.split()[1], file=sys.stderr)
sys.exit(code)
"""


def program(url: str, mode: str, requests: int) -> tuple[float, float]:
    """(seconds from the start of a `trialbench run` to its first request, its largest memory in MB)."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        samples = Path(name) / "samples.jsonl"
        arguments = ["run", "--url", url, "--workload", "nav", "--set", f"prompt={NAV_PROMPT}", "--image", str(CAMERA)]
        arguments += ["-n", str(requests), "--warmup", "0", "--out", str(samples)]
        arguments += ["--stream"] if mode == "stream" else []
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-IB", "-c", _RUN, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 3):
            raise BenchError(f"trialbench run ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        first = json.loads(samples.read_text(encoding="utf-8").splitlines()[0])
    peak_kib = next(int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("VmHWM"))
    return first["t_start_s"] - began_s, peak_kib * 1024 / 1e6


# --- numbers ---------------------------------------------------------------------------------------------------------


def _over(values: list[float]) -> dict[str, Any]:
    """Median over the rounds, with the range they span."""
    return {
        "p50": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "rounds": [round(value, 4) for value in values],
    }


def compare(rounds: list[dict[str, Times]]) -> dict[str, Any]:
    """A mode's numbers by client: medians, and ratios to the raw socket of the same round."""
    found: dict[str, Any] = {}
    for name in CLIENTS:
        mine, raw = [one[name] for one in rounds], [one["raw"] for one in rounds]
        pairs = list(zip(mine, raw, strict=True))
        entry: dict[str, Any] = {
            "reported_p50_ms": _over([statistics.median(one.total_ms) for one in mine]),
            "gap_p50_ms": _over([statistics.median(one.gap_ms) for one in mine]),
            "ratio": _over([statistics.median(a.total_ms) / statistics.median(b.total_ms) for a, b in pairs]),
            "gap_above_raw_ms": _over([statistics.median(a.gap_ms) - statistics.median(b.gap_ms) for a, b in pairs]),
        }
        if all(a.ttft_ms and b.ttft_ms for a, b in pairs):
            entry["ttft_p50_ms"] = _over([statistics.median(one.ttft_ms) for one in mine])
            entry["ttft_ratio"] = _over([statistics.median(a.ttft_ms) / statistics.median(b.ttft_ms) for a, b in pairs])
        if all(a.wire_ms and b.wire_ms for a, b in pairs):
            entry["wire_p50_ms"] = _over([statistics.median(one.wire_ms) for one in mine])
            entry["wire_ratio"] = _over([statistics.median(a.wire_ms) / statistics.median(b.wire_ms) for a, b in pairs])
            entry["reported_above_wire_ms"] = _over(
                [statistics.median(one.total_ms) - statistics.median(one.wire_ms) for one in mine]
            )
        found[name] = entry
    return found


def targets(modes: dict[str, Any], first_s: list[float], rss_mb: list[float]) -> list[dict[str, Any]]:
    """Every target with what was found: by the median over the rounds; memory by the largest."""
    plain, stream = modes["plain"]["trialbench"], modes["stream"]["trialbench"]
    rows = [
        ("p50, plain: trialbench / raw socket", "x", plain["ratio"]["p50"], PLAIN_RATIO),
        ("gap to the server's own time, plain: above raw", "ms", plain["gap_above_raw_ms"]["p50"], GAP_MS),
        ("p50, streaming: trialbench / raw socket", "x", stream["ratio"]["p50"], STREAM_RATIO),
        ("TTFT, streaming: trialbench / raw socket", "x", stream["ttft_ratio"]["p50"], STREAM_RATIO),
        ("gap to the server's own time, streaming: above raw", "ms", stream["gap_above_raw_ms"]["p50"], GAP_MS),
        ("first request after the start of the process", "s", statistics.median(first_s), FIRST_S),
        ("largest memory (RSS)", "MB", max(rss_mb), RSS_MB),
    ]
    return [
        {"what": what, "unit": unit, "found": round(found, 4), "limit": limit, "ok": found <= limit}
        for what, unit, found, limit in rows
    ]


# --- for people ------------------------------------------------------------------------------------------------------


def _cell(entry: dict[str, Any] | None, digits: int) -> str:
    if entry is None:
        return "-"
    return f"{entry['p50']:.{digits}f} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def table(document: dict[str, Any]) -> str:
    """The document on a terminal."""
    lines = []
    columns = "{:<12} {:>22} {:>22} {:>22} {:>22} {:>22}"
    for mode in MODES:
        lines += ["", f"{mode} (p50 over the rounds [range])"]
        lines.append(
            columns.format("client", "reported ms", "x raw socket", "TTFT x raw", "gap to server ms", "on the wire ms")
        )
        for name, entry in document["modes"][mode].items():
            lines.append(
                columns.format(
                    name,
                    _cell(entry["reported_p50_ms"], 3),
                    _cell(entry["ratio"], 3),
                    _cell(entry.get("ttft_ratio"), 3),
                    _cell(entry["gap_p50_ms"], 3),
                    _cell(entry.get("wire_p50_ms"), 3),
                )
            )
    if document["wire"] is not None:
        lines += ["", document["wire"]]
    lines += ["", "targets"]
    for row in document["targets"]:
        word = "ok    " if row["ok"] else "MISSED"
        lines.append(f"  {word} {row['what']:<52} {row['found']:>8.3f} {row['unit']:<3} (at most {row['limit']:g})")
    return "\n".join(lines)


# --- the whole -------------------------------------------------------------------------------------------------------


def measure(rounds: int, requests: int) -> dict[str, Any]:
    """The document (docs: bench/README.md)."""
    taken: dict[str, list[dict[str, Times]]] = {mode: [] for mode in MODES}
    first_s: list[float] = []
    rss_mb: list[float] = []
    began_s = time.monotonic()
    ours, _ = split_cpus()
    os.sched_setaffinity(0, ours)
    with Server() as server, ExitStack() as stack:
        wire = Wire(server.port)
        stack.callback(wire.close)
        for number in range(1, rounds + 1):
            for mode in MODES:
                taken[mode].append(one_round(server.url, mode, requests, wire))
                start_s, memory_mb = program(server.url, mode, 20)
                first_s.append(start_s)
                rss_mb.append(memory_mb)
                found = {name: statistics.median(one.total_ms) for name, one in taken[mode][-1].items()}
                shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
                say(
                    f"round {number}/{rounds} {mode}: p50 ms {shown}; first request {start_s:.2f} s, {memory_mb:.0f} MB"
                )
    modes = {mode: compare(found) for mode, found in taken.items()}
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "duration_s": round(time.monotonic() - began_s, 1),
        "machine": {
            "cpus": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "python": platform.python_version(),
            "load1": round(os.getloadavg()[0], 2),
        },
        "rounds": rounds,
        "requests": requests,
        "wire": wire.why,
        "modes": modes,
        "first_request_s": _over(first_s),
        "rss_mb": _over(rss_mb),
        "targets": targets(modes, first_s, rss_mb),
    }


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="how many; use 5 or more (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=40, help="of each client in a round (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks.json")
    parser.add_argument("--work", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.url, options.stream)
    from trialbench.files import write_json

    end_in_order()
    try:
        document = measure(options.rounds, options.requests)
    except BenchError as error:
        say(f"bench: {error}")
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, document)
    print(table(document))
    print(f"\n{options.out}")
    return 0 if all(row["ok"] for row in document["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
