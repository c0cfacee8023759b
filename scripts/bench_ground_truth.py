#!/usr/bin/env python3
"""How the time of a check grows with the number of prompts: one tiny file on the real llama.cpp, loaded once.

Usage: ``python3 scripts/bench_ground_truth.py``, after ``make ground-truth``; the tools are taken from LLAMA_CPP_BIN or
LLAMA_CPP_IMAGE, else from the project's own image. Prints one line for each number of prompts, with how many times as
long as half of them it took, and the straight line through all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from ground_truth import ROSTER, WORK, tools_image
from trialbench.ground_truth.cli import llama_cpp
from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.evidence.oracle_files import oracle_path, read_oracle, write_oracle
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import PromptText, load_roster

COUNTS = (4, 8, 16, 32, 64)


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Time of a check against the number of prompts.")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts")
    options = parser.parse_args()
    roster = load_roster(str(ROSTER))
    model = roster.models[0]
    work = options.work.resolve()
    copies = work / "bench" / "oracle"
    prompts = []
    for number in range(max(COUNTS)):
        one = roster.prompts.prompts[number % len(roster.prompts.prompts)]
        name = f"{one.name}-{number}"
        oracle = read_oracle(oracle_path(roster.oracle, model.slug, one.name))
        write_oracle(oracle_path(copies, model.slug, name), replace(oracle, prompt_file=f"prompts/{name}.txt"))
        prompts.append(PromptText(name, one.text))
    times: list[float] = []
    workspace = Workspace(work, roster)
    if not (os.environ.get("LLAMA_CPP_BIN") or os.environ.get("LLAMA_CPP_IMAGE")):
        os.environ["LLAMA_CPP_IMAGE"] = tools_image()
    runtime = llama_cpp(workspace, threads=1)
    try:
        for count in COUNTS:
            asked = replace(roster, oracle=copies, prompts=replace(roster.prompts, prompts=tuple(prompts[:count])))
            fastest = float("inf")
            for _ in range(options.repeat):
                evidence = Evidence(Workspace(work, asked), runtime)
                started = time.perf_counter()
                seen = evidence.seen(model, "Q4_K_M")
                fastest = min(fastest, time.perf_counter() - started)
                if seen.trouble is not None or evidence.loads != 1:
                    print(f"not measured: {seen.trouble}", file=sys.stderr)
                    return 1
            times.append(fastest)
            ratio = f"  {fastest / times[-2]:5.2f} times as long" if len(times) > 1 else ""
            print(f"{count:4d} prompts  {fastest:7.3f} s{ratio}")
    finally:
        runtime.close()
    slope, intercept = statistics.linear_regression(COUNTS, times)
    correlation = statistics.correlation(COUNTS, times)
    share = times[-1] / times[0]
    print(f"{COUNTS[-1] // COUNTS[0]} times the prompts took {share:.1f} times as long")
    print(f"loading {intercept:.3f} s, {slope * 1000:.1f} ms for each prompt, correlation {correlation:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
