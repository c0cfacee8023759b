"""What do several questions cost in the window? The same number of samples of 60 scenes and of one.

Usage (`make bench-scenes` does it)::

    python scripts/bench_scenes.py [--scenes 60] [--reply-ms 40] [--out build/bench-scenes.json]

A run is the session of a trial's candidate, with the real measuring client: it loads, says that it is ready, gets its
start signal, sends its requests, and ends. The time from the signal to the end is its share of the window. The server
answers on the loopback after a fixed time, so that only the client's own time can differ; pictures are as large as a
camera's. Runs take turns, and the median counts. Descriptions come beside that and are left out. The processor time of
the client in the window is told as well: a busy machine stretches seconds, and hardly that.

Exit code 0 when the target holds, 1 when it is missed, 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_server import NAV_PROMPT, ROOT, BenchError, end_in_order, say, told

RUNS, SCENES, REPLY_MS = 3, 60, 40.0
SAMPLES, WARMUP, CACHED = 100, 3, 20
# A picture of a camera, 640 x 480.
PICTURE_BYTES = 60_000
MAX_SHARE, MAX_S = 0.05, 0.5
LIMIT_S = 120.0
START = "start"


def answer(reply_ms: float) -> bytes:
    """What a llama-server says about a request."""
    body = {
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "left large"}},
        ],
        "usage": {"prompt_tokens": 99, "completion_tokens": 3, "total_tokens": 102},
        "timings": {
            "cache_n": 0,
            "prompt_n": 99,
            "prompt_ms": 0.8 * reply_ms,
            "predicted_n": 3,
            "predicted_ms": 0.2 * reply_ms,
        },
    }
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw)


def serve(client: socket.socket, reply_ms: float) -> None:
    """Answer each request of a connection `reply_ms` after its last byte."""
    reply = answer(reply_ms)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, ValueError), client, client.makefile("rb") as stream:
        while stream.readline():
            length = 0
            while line := stream.readline().strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            while length > 0 and (read := stream.read(min(length, 1 << 20))):
                length -= len(read)
            time.sleep(reply_ms / 1000)
            client.sendall(reply)


@contextmanager
def stand_in(reply_ms: float) -> Iterator[str]:
    """The address of a server that answers after a fixed time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve, args=(client, reply_ms), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def inputs(folder: Path, scenes: int) -> None:
    """The prompt, the pictures, and the scenes, as a host lays them out."""
    draw = random.Random(1)
    (folder / "prompt.txt").write_text(NAV_PROMPT, encoding="utf-8")
    rows = []
    for at in range(scenes):
        # The client sends what it is given; nobody looks at it.
        (folder / f"view-{at}.jpg").write_bytes(b"\xff\xd8\xff" + draw.randbytes(PICTURE_BYTES))
        rows.append({"id": f"view-{at}", "image": f"view-{at}.jpg", "expected": "left large"})
    (folder / "scenes.json").write_text(json.dumps(rows), encoding="utf-8")


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended_cpu_s() -> float:
    """Processor time of all programs that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def window_s(url: str, folder: Path, *, scenes: bool) -> tuple[float, float]:
    """Seconds that one session takes from its start signal to its end, and the client's processor time meanwhile."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        asked = {"workload": "nav", **({"scenes": "scenes.json"} if scenes else {})}
        session = {
            "url": url,
            "out_dir": out,
            "control_dir": out,
            "start_file": START,
            "image": "view-0.jpg",
            "prompt_file": "prompt.txt",
            "time_limit_s": LIMIT_S,
            "segments": [
                {"id": "nav-candidate", **asked, "warmup": WARMUP, "n": SAMPLES},
                {"id": "nav-candidate-cached", **asked, "warmup": 1, "n": CACHED, "cache_prompt": True},
            ],
        }
        path = folder / "session.json"
        path.write_text(json.dumps(session), encoding="utf-8")
        command = [sys.executable, "-IB", "-m", "trialbench", "session", str(path)]
        before_s = ended_cpu_s()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as client:
            until_s = time.monotonic() + LIMIT_S
            while not (Path(out) / f"ready-{START}").exists():
                if client.poll() is not None or time.monotonic() > until_s:
                    client.kill()
                    raise BenchError(f"the session was not ready: {client.communicate()[0][-300:]}")
                time.sleep(0.01)
            ready_cpu_s, began_s = cpu_s(client.pid), time.monotonic()
            (Path(out) / START).touch()
            try:
                said, _ = client.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                client.kill()
                raise BenchError(f"the session did not end within {LIMIT_S:g} s") from None
            took_s = time.monotonic() - began_s
        lines = (Path(out) / "nav-candidate.jsonl").read_text(encoding="utf-8").splitlines()
        # 3: a busy machine slowed down meanwhile; all samples are there.
        good = sum(json.loads(line)["ok"] for line in lines)
        if client.returncode not in (0, 3) or good != SAMPLES:
            raise BenchError(
                f"{good} good samples of {SAMPLES}, exit code {client.returncode}; it can't be compared: {said[-300:]}"
            )
    return took_s, ended_cpu_s() - before_s - ready_cpu_s


def target(one_s: list[float], many_s: list[float], scenes: int) -> dict[str, Any]:
    """The medians against the limit: 5 % or half a second above that of one scene, whichever is more."""
    one, many = statistics.median(one_s), statistics.median(many_s)
    limit = one + max(MAX_SHARE * one, MAX_S)
    return {
        "what": f"window, {scenes} scenes; of one: {one:.2f} s",
        "found": round(many, 3),
        "limit": round(limit, 3),
        "ok": many <= limit,
    }


def measure(runs: int, scenes: int, reply_ms: float) -> dict[str, Any]:
    """The document."""
    one: list[tuple[float, float]] = []
    many: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-scenes-") as name, stand_in(reply_ms) as url:
        folder = Path(name)
        inputs(folder, scenes)
        for number in range(1, runs + 1):
            one.append(window_s(url, folder, scenes=False))
            many.append(window_s(url, folder, scenes=True))
            last = [f"{took:.2f} s (processor {cpu:.2f} s)" for took, cpu in (one[-1], many[-1])]
            say(f"{number}/{runs}: one scene {last[0]}, {scenes} scenes {last[1]}")
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "scenes": scenes,
        "samples": SAMPLES,
        "reply_ms": reply_ms,
        "one_s": [round(took, 3) for took, _ in one],
        "many_s": [round(took, 3) for took, _ in many],
        "one_cpu_s": [round(cpu, 3) for _, cpu in one],
        "many_cpu_s": [round(cpu, 3) for _, cpu in many],
        "targets": [target([took for took, _ in one], [took for took, _ in many], scenes)],
    }


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kind (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=SCENES, help="distinct questions (default: %(default)s)")
    parser.add_argument("--reply-ms", type=float, default=REPLY_MS, help="time of a reply (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-scenes.json")
    options = parser.parse_args()
    end_in_order()
    try:
        document = measure(options.runs, options.scenes, options.reply_ms)
    except BenchError as error:
        say(f"bench-scenes: {error}")
        return 2
    return told(document, options.out, 40)


if __name__ == "__main__":
    sys.exit(main())
