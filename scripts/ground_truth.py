#!/usr/bin/env python3
"""The ground truth of the tiny models, for real: oracle, conversions, every suite on llama.cpp, negative controls.

Usage: ``python3 scripts/ground_truth.py`` (or ``make ground-truth``). Builds the tools' image once, and once an
environment with torch and transformers (build/oracle-venv, minutes). ``--shipped`` leaves that out and judges by the
oracles in the fixtures, which need neither torch nor a network. ``--fresh N`` trains three other models of the kind,
every seed N further (minutes), and judges them by the same locked claims: models that nobody knew when they were made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
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
HALVES = ("bf16", "fp16")
SAME = ("model", "prompt", "prompt_ids", "tokens", "text", "eos_ids", "files")


def say(text: str) -> None:
    """A line of progress."""
    print(f"[ground-truth] {text}", file=sys.stderr, flush=True)


def tools_image() -> str:
    """The image with llama.cpp's tools, built if it is not there."""
    command = [sys.executable, str(ROOT / "images" / "oracle" / "build.py"), "tools"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def oracle_python() -> Path:
    """The interpreter of an environment with the extra `oracle`, made when a pin changed."""
    python, stamp = ORACLE_VENV / "bin" / "python", ORACLE_VENV / ".stamp"
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    wanted = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        say("installing torch and transformers into build/oracle-venv (once; minutes)")
        if not python.exists():
            venv.create(ORACLE_VENV, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--constraint", str(ROOT / "constraints.txt")]
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


class Run:
    """One roster and its work folder, and how trialbench is called on it.

    Args:
        maker: an interpreter with torch; empty: the oracles that are there are taken.
    """

    def __init__(self, roster: Path, work: Path, oracle: Path, maker: str) -> None:
        self.roster, self.work, self.oracle, self.maker = roster, work, oracle, maker
        self._common = ["--roster", str(roster), "--work", str(work), "--oracle", str(oracle)]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT / "bench")}
        if not (self._environment.get("LLAMA_CPP_BIN") or self._environment.get("LLAMA_CPP_IMAGE")):
            self._environment["LLAMA_CPP_IMAGE"] = tools_image()

    def trialbench(self, verb: str, *more: str, torch: bool = False) -> int:
        """Call a verb; returns its exit code."""
        command = [self.maker if torch else sys.executable, "-m", "trialbench", verb, *self._common, *more]
        return subprocess.run(command, env=self._environment, check=False).returncode

    def make_oracles(self) -> bool:
        """The reference, and what is left of it in half precision."""
        made = [self.trialbench("oracle", "--precision", name, torch=True) for name in ("fp32", *HALVES)]
        return not any(made)

    def check(self, *more: str) -> int:
        """Convert, make the second oracles where torch is there, and check."""
        if self.trialbench("convert") != 0 or (self.maker and self.trialbench("oracle", "--second", torch=True) != 0):
            return 1
        return self.trialbench(
            "check", *more, "--junit", str(self.work / "junit.xml"), "--html", str(self.work / "report.html")
        )


def fresh_models(number: int, python: Path) -> Path:
    """A roster beside this one with models that were trained now; returns its file. What was trained once is kept."""
    folder = BUILD / f"ground-truth-fresh-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("roster.yml", "prompts.yml", "tolerances.yml"):
        shutil.copyfile(FIXTURES / name, folder / name)
    shutil.copytree(FIXTURES / "claims", folder / "claims", dirs_exist_ok=True)
    if not (folder / "SHA256SUMS").exists():
        say(f"training three models, seeds {number} further (minutes)")
        command = [str(python), str(FIXTURES / "make_models.py"), "--fresh", str(number), "--out", str(folder)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(FIXTURES)}, check=True)
    return folder / "roster.yml"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="The ground truth of the tiny models, for real.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shipped", action="store_true", help="judge by the oracles in the fixtures: no torch needed")
    which.add_argument(
        "--fresh", type=int, metavar="N", help="train other models, every seed N further, and judge them"
    )
    options = parser.parse_args(arguments)
    started = time.monotonic()
    python = None if options.shipped else oracle_python()
    if python is None:
        run = Run(ROSTER, WORK, FIXTURES / "oracle", "")
    elif options.fresh is not None:
        roster = fresh_models(options.fresh, python)
        run = Run(roster, roster.parent / "work", roster.parent / "oracle", str(python))
    else:
        run = Run(ROSTER, WORK, WORK / "oracle", str(python))
    if python is not None and not run.make_oracles():
        return 1
    if python is not None and options.fresh is None:
        changed = differences(run.oracle, FIXTURES / "oracle")
        if changed:
            say("the oracle does not say what the shipped files say:\n  " + "\n  ".join(changed))
            return 1
        say("the fresh oracle says what the shipped files say")
    code = run.check("--controls") if options.fresh is None else run.check()
    say(f"{time.monotonic() - started:.0f} s in all; verdict, JUnit and page are in {run.work.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
