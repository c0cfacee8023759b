"""Tests on a live twin, over SSH: one twin for the session, playbooks run as a person runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TWIN = ROOT / "images" / "twin" / "twin.py"
NAME = os.environ.get("MT_TWIN_TESTS", "mt-tests")
UNITS = ("panda-llamacpp", "panda-nav", "phone-daemon")
PLAY_TIMEOUT_S = 240


@dataclass(frozen=True)
class Played:
    """What a playbook said and how it ended."""

    code: int
    text: str

    def tasks(self) -> list[str]:
        """Names of the tasks in their order."""
        return [line[6:].split("]")[0] for line in self.text.splitlines() if line.startswith("TASK [")]


class Host:
    """The live twin: commands as root from beside, playbooks over SSH."""

    def __init__(self, name: str, results: Path) -> None:
        self.name, self.results = name, results

    def run(self, command: str, check: bool = True) -> str:
        """Run a shell command as root in the twin."""
        done = subprocess.run(
            ["docker", "exec", self.name, "sh", "-c", command], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start_play(self, playbook: str, *args: str) -> subprocess.Popen[str]:
        """Start a playbook of the checkout against this twin."""
        # Without blanks, so that a value is one word for whoever reads the command.
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
        text, _ = process.communicate(timeout=PLAY_TIMEOUT_S)
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
        used = int(self.run("nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits"))
        assert 13.0 * 1024 <= used <= 13.8 * 1024, used
        assert '"model_loaded": true' in self.run("curl -s http://127.0.0.1:8772/health").replace('":true', '": true')
        assert self.run("curl -s -o /dev/null http://127.0.0.1:11437/ && echo answers || true") == ""
        if phone_pid is not None:
            assert self.phone_pid() == phone_pid


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A healthy twin of the tests' own, removed at the end unless it was there before."""
    existed = subprocess.run(["docker", "inspect", NAME], capture_output=True, check=False).returncode == 0
    subprocess.run([sys.executable, str(TWIN), "up", "--name", NAME], check=True)
    yield Host(NAME, tmp_path_factory.mktemp("results"))
    if not existed:
        subprocess.run([sys.executable, str(TWIN), "down", "--name", NAME], check=True)
