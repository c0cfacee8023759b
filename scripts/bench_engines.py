#!/usr/bin/env python3
"""What the supervisor costs: a process that prints a token each millisecond, read raw and read under supervision.

The two take turns, so that a busy machine disturbs both alike. For each token the writer's own clock (CLOCK_MONOTONIC
is one for all processes) stands in the token, so the delay is measured from the write and not from its schedule. The
figure is the difference of the medians, in microseconds per token.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from trialbench.engines.contract import Deadlines
from trialbench.engines.supervisor import Command, Supervisor
from trialbench.files import write_json

ROOT = Path(__file__).resolve().parents[1]
# One write per token, as gemma.cpp does it: its time in nanoseconds, a line each.
WRITER = """
import os, sys, time
count, period = int(sys.argv[1]), int(sys.argv[2])
due = time.monotonic_ns()
for _ in range(count):
    due += period
    while time.monotonic_ns() < due:
        time.sleep(max(0, (due - time.monotonic_ns() - 50000) / 1e9))
    os.write(1, b"%d\\n" % time.monotonic_ns())
"""
PERIOD_NS = 1_000_000
LIMIT_US = 50.0


def main() -> int:
    """Measure, print, write; exit 1 when the added median is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2000, help="tokens a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-engines.json")
    options = parser.parse_args()
    supervisor = Supervisor()
    raw: list[float] = []
    supervised: list[float] = []
    added = []
    for number in range(options.rounds):
        order = (read_raw, read_supervised) if number % 2 == 0 else (read_supervised, read_raw)
        found = {one: one(supervisor, options.n) for one in order}
        raw += found[read_raw]
        supervised += found[read_supervised]
        added.append(statistics.median(found[read_supervised]) - statistics.median(found[read_raw]))
    supervisor.close()
    report = {
        "tokens": len(raw),
        "period_us": PERIOD_NS / 1000,
        "raw_us": summary(raw),
        "supervised_us": summary(supervised),
        "added_p50_us": round(statistics.median(supervised) - statistics.median(raw), 1),
        "added_p50_us_by_round": [round(one, 1) for one in added],
        "limit_us": LIMIT_US,
    }
    report["ok"] = report["added_p50_us"] <= LIMIT_US
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, report)
    print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


def read_raw(_supervisor: Supervisor, count: int) -> list[float]:
    """Blocking reads of the pipe, and nothing else."""
    delays = []
    with subprocess.Popen(command(count), stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout is not None
        descriptor = child.stdout.fileno()
        while data := os.read(descriptor, 1 << 16):
            delays += delayed(data.decode(), time.monotonic_ns())
    return delays


def read_supervised(supervisor: Supervisor, count: int) -> list[float]:
    """The same through the supervisor: deadlines, memory, decoding."""
    delays = []
    deadlines = Deadlines(first_s=30.0, between_s=30.0, total_s=600.0)
    for text, _ in supervisor.spawn(Command(command(count)), deadlines).chunks():
        delays += delayed(text, time.monotonic_ns())
    return delays


def command(count: int) -> list[str]:
    """The writer's command line."""
    return [sys.executable, "-IS", "-c", WRITER, str(count), str(PERIOD_NS)]


def delayed(text: str, now_ns: int) -> list[float]:
    """Microseconds from the write of each token in `text` to now."""
    return [(now_ns - int(line)) / 1000 for line in text.split()]


def summary(values: list[float]) -> dict[str, float]:
    """Median and p99 in microseconds."""
    ordered = sorted(values)
    return {"p50": round(statistics.median(ordered), 1), "p99": round(ordered[int(len(ordered) * 0.99)], 1)}


if __name__ == "__main__":
    sys.exit(main())
