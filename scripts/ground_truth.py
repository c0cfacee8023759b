#!/usr/bin/env python3
"""The ground truth of the tiny models, for real: oracle, conversions, every suite on llama.cpp, negative controls.

Usage: ``python3 scripts/ground_truth.py`` (or ``make ground-truth``). Builds the tools' image once, and once an
environment with torch and transformers (build/oracle-venv, minutes). ``--shipped`` leaves that out and judges by the
oracles in the fixtures, which need neither torch nor a network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "ground_truth"
ROSTER = FIXTURES / "roster.yml"
BUILD = ROOT / "build"
WORK = BUILD / "ground-truth"
ORACLE_VENV = BUILD / "oracle-venv"
# What makes the same oracle: these keys do not depend on the machine's last bit.
SAME = ("model", "prompt", "prompt_ids", "tokens", "text", "eos_ids", "files")


def say(text: str) -> None:
    """A line of progress."""
    print(f"[ground-truth] {text}", file=sys.stderr, flush=True)


def tools_image() -> str:
    """The image with llama.cpp's tools, built if it is not there."""
    command = [sys.executable, str(ROOT / "images" / "oracle" / "build.py"), "tools"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def oracle_python() -> Path:
    """The interpreter of an environment with the extra `oracle`, made when pyproject.toml changed."""
    python, stamp = ORACLE_VENV / "bin" / "python", ORACLE_VENV / ".stamp"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        say("installing torch and transformers into build/oracle-venv (once; minutes)")
        if not python.exists():
            venv.create(ORACLE_VENV, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--editable", f"{ROOT}[oracle]"], check=True, stdin=subprocess.DEVNULL)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def differences(fresh: Path, shipped: Path) -> list[str]:
    """Where a fresh oracle says something else than the shipped one."""
    found = []
    for path in sorted(shipped.rglob("*.json")):
        other = fresh / path.relative_to(shipped)
        if not other.exists():
            found.append(f"{other}: not made")
            continue
        mine, theirs = (json.loads(one.read_text(encoding="utf-8")) for one in (other, path))
        found += [f"{path.relative_to(FIXTURES)}: {key} differs" for key in SAME if mine.get(key) != theirs.get(key)]
    return found


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="The ground truth of the tiny models, for real.")
    parser.add_argument("--shipped", action="store_true", help="judge by the oracles in the fixtures: no torch needed")
    options = parser.parse_args()
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bench")}
    if not (environment.get("LLAMA_CPP_BIN") or environment.get("LLAMA_CPP_IMAGE")):
        environment["LLAMA_CPP_IMAGE"] = tools_image()
    common = ["--roster", str(ROSTER), "--work", str(WORK)]
    python = sys.executable

    def trialbench(verb: str, *more: str, interpreter: str = python) -> int:
        command = [interpreter, "-m", "trialbench", verb, *common, *more]
        return subprocess.run(command, env=environment, check=False).returncode

    maker = "" if options.shipped else str(oracle_python())
    if maker:
        common += ["--oracle", str(WORK / "oracle")]
        if trialbench("oracle", interpreter=maker) != 0:
            return 1
        changed = differences(WORK / "oracle", FIXTURES / "oracle")
        if changed:
            say("the oracle does not say what the shipped files say:\n  " + "\n  ".join(changed))
            return 1
        say("the fresh oracle says what the shipped files say")
    if trialbench("convert") != 0:
        return 1
    if maker and trialbench("oracle", "--second", interpreter=maker) != 0:
        return 1
    reports = ["--junit", str(WORK / "junit.xml"), "--html", str(WORK / "report.html")]
    code = trialbench("check", "--controls", *reports)
    say(f"{time.monotonic() - started:.0f} s in all; verdict, JUnit and page lie in {WORK.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
