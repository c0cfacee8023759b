#!/usr/bin/env python3
"""How long `trialbench report` takes, and how large the page becomes, for a run of many samples a segment.

The run is the recorded golden trial, its three compared segments made longer. The command runs as a process of its own,
as users run it. Its time on the CPU counts, so that a busy machine changes little; the clock on the wall is told, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trialbench.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "tests" / "fixtures" / "runs" / "completed"
SEGMENTS = ("nav-baseline-a1", "nav-candidate", "nav-baseline-a2")
LIMIT_S, LIMIT_BYTES = 7.0, 600_000


def main() -> int:
    """Measure, print, write; exit 1 when time or size is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5000, help="samples a segment (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-report.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(RUN, Path(folder) / "run"))
        for name in SEGMENTS:
            lengthen(run / "samples" / f"{name}.jsonl", options.n)
        page = run / "report.html"
        page.unlink(missing_ok=True)
        before, begun = os.times(), time.monotonic()
        subprocess.run([sys.executable, "-m", "trialbench", "report", str(run)], check=True, stdout=subprocess.DEVNULL)
        took_s, after = time.monotonic() - begun, os.times()
        size = page.stat().st_size
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    report = {
        "samples_per_segment": options.n,
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(took_s, 2),
        "bytes": size,
        "limit_s": LIMIT_S,
        "limit_bytes": LIMIT_BYTES,
        "ok": cpu_s < LIMIT_S and size < LIMIT_BYTES,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, report)
    print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


def lengthen(path: Path, count: int) -> None:
    """Repeat the samples of `path`, spread over the same time and each a little slower, until there are `count`."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    first_s, last_s = lines[0]["t_start_s"], lines[-1]["t_start_s"]
    with path.open("w", encoding="utf-8") as stream:
        for at in range(count):
            line = dict(lines[at % len(lines)])
            latency_ms = line["latency_ms"] and round(line["latency_ms"] * (1 + at * 7919 % 1000 / 5000), 3)
            start_s = round(first_s + (last_s - first_s) * at / count, 6)
            line |= {"seq": at + 1, "t_start_s": start_s, "latency_ms": latency_ms}
            stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
