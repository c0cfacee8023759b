"""Twins for the drills, one for each worker, and what a person sees while they run.

`make drills` is how to run all of them; ``--part=2/10`` takes every tenth case, from the second on (`make prove`).
A case's play, journal and notes stay in build/drills/<case>/.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# The table, the faults and the world are files beside this one; tests here are no package.
sys.path.insert(0, str(HERE))

from cases import CASES, Case  # noqa: E402
from faults import (  # noqa: E402
    API,
    AT_THE_DOOR,
    BOOT_DROP_IN,
    BOX,
    BOX_IMAGE,
    DB,
    DOOR,
    EYES,
    HELD,
    HELD_FLAG,
    KEPT_MODEL,
    KEPT_PROGRAM,
    LATE,
    MODE,
    MODEL,
    PROGRAM,
    ROOTS_FILE,
    STUCK_MOUNT,
    STUCK_UNIT,
    TIMED,
    VOICE_DROP_IN,
    VOICE_FOLDER,
)
from world import STATE, Drill  # noqa: E402

ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "drills"
FAULTY = ROOT / "tests" / "fixtures" / "faulty_server"
# On the twin: the hash of what phase 1 brought to it.
ACQUIRED = "/root/acquired"
BENCH_IMAGE = ROOT / "build" / "bench-image.json"
# Repairs whatever a drill may have broken, in the necessary order.
CLEAN = f"""
rm -f /run/twin/faults/* /run/twin-gpu/faults.json /run/twin/clock
rm -f /run/systemd/system/mt-run.service.d/drill-clock.conf /run/systemd/system/docker.service.d/drill.conf
rm -f /run/systemd/system/panda-llamacpp.service.d/drill.conf {BOOT_DROP_IN} {LATE} {HELD_FLAG}
for unit in {MODE} {TIMED} {HELD} {API} {DB}; do
    systemctl stop $unit.timer $unit.service 2>/dev/null
    systemctl reset-failed $unit.service 2>/dev/null
    rm -f /run/systemd/system/$unit.timer /run/systemd/system/$unit.service
done
systemctl stop {EYES} 2>/dev/null; rm -f /run/systemd/system/{EYES}
docker rm --force {BOX} 2>/dev/null; docker image rm {BOX_IMAGE} 2>/dev/null
[ -e /root/sudoers-panda ] && mv /root/sudoers-panda /etc/sudoers.d/panda
umount --lazy {STUCK_MOUNT} 2>/dev/null
rm -f {DOOR} {AT_THE_DOOR}
systemctl stop stranger {STUCK_UNIT} 2>/dev/null
kill -CONT $(systemctl show -p MainPID --value docker)
docker rm --force drill-stranger 2>/dev/null
while mountpoint -q {STATE}; do umount {STATE} || umount --lazy {STATE}; done
[ -e {KEPT_MODEL} ] && mv {KEPT_MODEL} {MODEL}
[ -e {KEPT_PROGRAM} ] && mv {KEPT_PROGRAM} {PROGRAM}
rm -f {VOICE_DROP_IN} {VOICE_FOLDER}/probe.txt
systemctl daemon-reload
systemctl start ssh.service docker.service
if [ -e {ROOTS_FILE} ]; then
    rm {ROOTS_FILE}
    runuser -u panda -- {VOICE_FOLDER}/stop.sh
    systemctl restart chatterbox-boot
fi
rm -rf {STATE}/runs/*
[ ! -e {STATE}/open ]
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="N/M", help="drills: every M-th case of the table, from the N-th on")


def case_of(item: pytest.Item) -> Case | None:
    """The case that a test plays."""
    call = getattr(item, "callspec", None)
    return call.params.get("case") if call else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--part"):
        part, _, parts = str(config.getoption("--part")).partition("/")
        if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
            raise pytest.UsageError(f"--part: expected N/M with 1 <= N <= M, found {config.getoption('--part')}")
        cases = [item for item in items if case_of(item) is not None]
        kept = cases[int(part) - 1 :: int(parts)]
        out = [item for item in cases if item not in kept]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


# ---- twins ----


@pytest.fixture(scope="session")
def twin(lend_twin: Callable[[str, Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The twin that this worker's drills strike: the one that MT_TWIN_TESTS names, or one of their own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    base = os.environ.get("MT_TWIN_TESTS") or "mt-drills"
    yield from lend_twin("-".join(filter(None, (base, worker))), tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def provided(twin: Any) -> Iterator[Any]:
    """The twin with everything that a trial brings to its host; it is repaired when the drills are over."""
    make_well(twin)
    acquire(twin)
    yield twin
    make_well(twin)


def acquired_key() -> str:
    """A hash of what phase 1 brings to a host: the collection and the image."""
    total = hashlib.sha256(BENCH_IMAGE.read_bytes())
    for folder in ("plugins", "roles", "playbooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def acquire(twin: Any) -> None:
    """Play phase 1, once for all drills of a twin: it changes nothing the second time, so most of them leave it out.

    The twin remembers what it was given, so that the next session does not play it again either.
    """
    key, image = acquired_key(), json.loads(BENCH_IMAGE.read_text(encoding="utf-8"))["id"]
    there = f"[ -x /usr/local/sbin/model-trial ] && [ -s {MODEL} ] && docker image inspect {image} >/dev/null"
    if twin.run(f"{there} && cat {ACQUIRED}", check=False) == key:
        return
    played = twin.play("benchmark-e4b.yml", "--tags", "acquire")
    assert played.code == 0, played.text
    twin.run(f"echo {key} >{ACQUIRED}")


def make_well(twin: Any) -> None:
    """The twin as a trial must find it; one that can't be mended is replaced."""
    cleaned = subprocess.run(["docker", "exec", twin.name, "sh", "-c", CLEAN], capture_output=True, check=False)
    if cleaned.returncode != 0 or twin.program("up").returncode != 0:
        twin.program("down")
        twin.up()
        acquire(twin)


@pytest.fixture
def drill(provided: Any) -> Iterator[Callable[[str, dict[str, Any]], Drill]]:
    """Makes the drill of a case: a healthy twin, an empty folder, a run of its own."""
    make_well(provided)
    made: list[Drill] = []
    control = Path(tempfile.mkdtemp(prefix="mtd-"))

    def make(name: str, variables: dict[str, Any]) -> Drill:
        folder = BUILD / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run = f"{name}-{time.time_ns() // 1_000_000}"
        made.append(Drill(provided, run, folder, control, variables))
        return made[-1]

    yield make
    for one in made:
        one.close()
    shutil.rmtree(control, ignore_errors=True)


@pytest.fixture(scope="session")
def faulty_image() -> str:
    """The description of the bench image whose server misbehaves when asked to, built when it is not there."""
    bench = json.loads(BENCH_IMAGE.read_text(encoding="utf-8"))
    digest = hashlib.sha256(bench["id"].encode())
    for path in sorted(FAULTY.iterdir()):
        digest.update(path.read_bytes())
    tag = f"edgelab/bench-faulty:{digest.hexdigest()[:12]}"
    argument = f"--build-arg=BASE_IMAGE={bench['id']}"
    command = ["docker", "build", "--quiet", "--network=none", argument, f"--tag={tag}"]
    command += [f"--file={FAULTY / 'Containerfile'}", str(FAULTY)]
    built = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "DOCKER_BUILDKIT": "0"}
    )
    assert built.returncode == 0, built.stderr
    facts = {**bench, "id": built.stdout.split()[-1], "tag": tag}
    path = BUILD / f"faulty-image-{os.getpid()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts), encoding="utf-8")
    return str(path)


# ---- what a person sees, and build/drills.json ----


class Board:
    """Lives in the process that talks to the terminal: a line for each finished case, the table at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.total = 0
        self.number = itertools.count(1)
        self.rows: list[dict[str, Any]] = []

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.total = sum("[" in one for one in ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.total = sum(case_of(item) is not None for item in session.items) or self.total

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots: each case has a line of its own."""
        return (report.outcome, "", "") if report.when == "call" else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "[" not in report.nodeid or (report.when != "call" and not report.failed):
            return
        facts = dict(report.user_properties)
        phase, _, name = report.nodeid.split("[")[1].rstrip("]").partition("-")
        row = {
            "case": name,
            "phase": phase,
            "restored_by": facts.get("restored_by", "-"),
            "seconds": facts.get("seconds", 0.0),
            "at_most_s": facts.get("at_most_s"),
            "slowness": facts.get("slowness"),
            "ok": report.passed,
        }
        self.rows.append(row)
        mark = f"[{next(self.number)}/{self.total}]"
        self.say(f"{mark:>8} {self.line(row)}   ({report.duration:.0f} s in all)")
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            self.say(f"{'':9}{' '.join(crash.message.split())[:400]}")

    @staticmethod
    def line(row: dict[str, Any]) -> str:
        """A row of the table."""
        word = "ok" if row["ok"] else "FAILED"
        limit = f"  of {row['at_most_s']:4.1f} s" if row["at_most_s"] is not None else ""
        if limit and row["slowness"] > 1:
            limit += f" (machine {row['slowness']:.1f} x slower)"
        return f"{word:6}  {row['case']:24}  {row['phase']:9}  {row['restored_by']:8}  {row['seconds']:5.1f} s{limit}"

    def say(self, text: str) -> None:
        """A line on the terminal."""
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(text)

    def pytest_terminal_summary(self) -> None:
        if not self.rows:
            return
        order = {phase: number for number, phase in enumerate(PHASES)}
        rows = sorted(self.rows, key=lambda row: (order[row["phase"]], row["case"]))
        self.say("\n        case                      phase      restored   fault to healthy, and the bound")
        for row in rows:
            self.say(self.line(row))
        good = sum(row["ok"] for row in rows)
        self.say(f"{good} of {len(rows)} drills: the host came back as it should")
        keep_rows(ROOT / "build" / "drills.json", rows)


def keep_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows into build/drills.json in place of those of the same cases: parts of the table may run side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            old = []
        kept = {(row["phase"], row["case"]): row for row in [*old, *rows]}
        known = {(case.phase, case.name) for case in CASES}
        order = {phase: number for number, phase in enumerate(PHASES)}
        table = [kept[one] for one in sorted(kept, key=lambda one: (order[one[0]], one[1])) if one in known]
        part = path.with_suffix(".part")
        part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        part.replace(path)


PHASES = ("preflight", "acquire", "snapshot", "window", "candidate", "measure", "restore", "verify", "verdict")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Board(config), "drill-board")
