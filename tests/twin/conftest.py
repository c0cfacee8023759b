"""Tests on a live twin, over SSH: one twin for the session, playbooks run as a person runs them.

``MT_TWIN_TESTS`` names it; a module that kills and reboots has another for itself. With ``MT_TWINS_KEPT`` set, twins
stay for the next session; the program that set it removes them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TWIN = ROOT / "images" / "twin" / "twin.py"
# Workers of pytest-xdist have twins of their own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NAME = "-".join(filter(None, (os.environ.get("MT_TWIN_TESTS", "mt-tests"), WORKER)))
OWN_NAME = f"{NAME}-own"
UNITS = ("panda-llamacpp", "panda-nav", "phone-daemon")


@dataclass(frozen=True)
class Played:
    """What a playbook said and how it ended."""

    code: int
    text: str

    def tasks(self) -> list[str]:
        """Names of the tasks in their order."""
        return [line[6:].split("]")[0] for line in self.text.splitlines() if line.startswith("TASK [")]


class Twin:
    """A live twin: commands as root from beside, commands and playbooks over SSH."""

    # Against a play that hangs: much longer than the slowest one takes on a busy machine.
    PLAY_TIMEOUT_S = 600

    def __init__(self, name: str, results: Path) -> None:
        self.name, self.results = name, results

    @property
    def connection_file(self) -> Path:
        """Where twin.py wrote how to reach it."""
        return ROOT / "build" / "twin" / f"{self.name}.json"

    def program(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of twin.py on this twin; how it ended is the caller's business."""
        command = [sys.executable, str(TWIN), words[0], "--name", self.name, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def up(self) -> None:
        """Start it if need be, and wait until it is well."""
        done = self.program("up")
        assert done.returncode == 0, done.stderr

    def run(self, command: str, check: bool = True) -> str:
        """Run a shell command as root in the twin."""
        done = subprocess.run(
            ["docker", "exec", self.name, "sh", "-c", command], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def ssh(self, command: str) -> str:
        """Run a command as the twin's user, over SSH."""
        reach = json.loads(self.connection_file.read_text(encoding="utf-8"))
        options = [f"UserKnownHostsFile={reach['known_hosts']}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
        words = ["ssh", "-i", reach["key"], "-p", str(reach["port"])]
        for option in options:
            words += ["-o", option]
        words += [f"{reach['user']}@{reach['host']}", command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def used_mib(self) -> int:
        """Used memory of the card as nvidia-smi shows it."""
        return int(self.run("nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits"))

    def wait(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"the condition did not hold within {limit_s:.0f} s"
            time.sleep(0.02)

    def start_play(self, playbook: str, *args: str) -> subprocess.Popen[str]:
        """Start a playbook of the checkout against this twin."""
        # Without blanks, so that a value is one word of the command.
        results = f"verdict_results_dir={self.results}"
        return subprocess.Popen(
            [shutil.which("ansible-playbook") or "ansible-playbook", playbook, "-i", "twin", "-e", results, *args],
            cwd=ROOT / "playbooks",
            env={**os.environ, "MT_TWIN": self.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def play(self, playbook: str, *args: str) -> Played:
        """Run a playbook to its end."""
        process = self.start_play(playbook, *args)
        text, _ = process.communicate(timeout=self.PLAY_TIMEOUT_S)
        return Played(process.returncode, text)

    def fingerprint(self) -> dict[str, Any]:
        """What must not change when nothing is touched: processes with their start, units, containers, the mark."""
        tenants = "llama-server|uvicorn|chatterbox/server.py|phone_call.py"
        listed = f"ps -eo pid=,lstart=,args= | grep -E '{tenants}' | grep -v grep || true"
        return {
            "processes": self.run(listed),
            "units": self.run(f"systemctl show -p ActiveState,ActiveEnterTimestampMonotonic {' '.join(UNITS)}"),
            "containers": self.run("docker ps -aq"),
            "mark": self.run("cat /var/lib/model-trial/open 2>/dev/null || true"),
            "journals": self.run("ls /var/lib/model-trial/runs/*/journal.jsonl 2>/dev/null || true"),
        }

    def phone_pid(self) -> str:
        """The phone daemon's process."""
        return self.run("systemctl show -p MainPID --value phone-daemon")

    def latest(self) -> Path:
        """The newest harvested run."""
        return (self.results / "latest").resolve()

    def document(self, name: str) -> Any:
        """A JSON document of the newest run."""
        return json.loads((self.latest() / name).read_text(encoding="utf-8"))

    def samples(self, name: str) -> list[dict[str, Any]]:
        """The samples of a segment of the newest run."""
        path = self.latest() / "samples" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def assert_back(self, phone_pid: str | None) -> None:
        """The host is as before: units, ports, VRAM, no container, no mark, and the phone was never restarted."""
        assert self.run(f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * len(UNITS)
        assert self.run("docker ps -aq") == ""
        assert self.run("test -e /var/lib/model-trial/open && echo held || true") == ""
        assert 13.0 * 1024 <= self.used_mib() <= 13.8 * 1024
        assert '"model_loaded": true' in self.run("curl -s http://127.0.0.1:8772/health").replace('":true', '": true')
        assert self.run("curl -s -o /dev/null http://127.0.0.1:11437/ && echo answers || true") == ""
        if phone_pid is not None:
            assert self.phone_pid() == phone_pid


def lend(name: str, results: Path) -> Iterator[Twin]:
    """Lend a healthy twin, and remove it at the end unless it was there before or is kept for the next session."""
    present = subprocess.run(["docker", "inspect", name], capture_output=True, check=False).returncode == 0
    kept = present or bool(os.environ.get("MT_TWINS_KEPT"))
    twin = Twin(name, results)
    twin.up()
    yield twin
    if not kept:
        done = twin.program("down")
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def lend_twin() -> Callable[[str, Path], Iterator[Twin]]:
    """``lend``, for those who need twins under names of their own."""
    return lend


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """The twin that the session's tests share."""
    yield from lend(NAME, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def own_twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin that one module has for itself, to kill and reboot."""
    yield from lend(OWN_NAME, tmp_path_factory.mktemp("own"))
