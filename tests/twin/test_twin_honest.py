"""Is the twin honest? What it shows must follow from what lives in it, and it must come back by itself.

Slow, needs Docker. Runs on a twin of its own (``MT_TWIN_HONEST`` names another), because it kills and reboots.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "images" / "twin" / "twin.py"
NAME = os.environ.get("MT_TWIN_HONEST", "mt-honest")
STEADY_MIB = 13520


def program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False)


class Twin:
    """A live twin: commands as root, and commands over SSH as its user."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts = json.loads((ROOT / "build" / "twin" / f"{name}.json").read_text())

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["docker", "exec", self.name, "sh", "-c", command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def ssh(self, command: str) -> str:
        options = [f"UserKnownHostsFile={self.facts['known_hosts']}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
        words = ["ssh", "-i", self.facts["key"], "-p", str(self.facts["port"])]
        for option in options:
            words += ["-o", option]
        words += [f"{self.facts['user']}@{self.facts['host']}", command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def used_mib(self) -> int:
        return int(self.run("nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits"))

    def processes(self) -> dict[str, int]:
        text = self.run("nvidia-smi --query-compute-apps=process_name,used_memory --format=csv,noheader,nounits")
        return {name: int(mib) for name, mib in (line.rsplit(", ", 1) for line in text.splitlines())}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("cat /run/twin-gpu/events.jsonl").splitlines()]

    def gpu_fault(self, **switches: object) -> None:
        words = ["gpu-fault", "--name", self.name]
        done = program(*words, json.dumps(switches)) if switches else program(*words, "--off")
        assert done.returncode == 0, done.stderr
        time.sleep(0.3)


def wait(condition: Callable[[], bool], limit_s: float = 15.0) -> float:
    """Wait for a condition; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    """A twin of this module's own, removed afterwards."""
    done = program("up", "--name", NAME)
    assert done.returncode == 0, done.stderr
    yield Twin(NAME)
    assert program("down", "--name", NAME).returncode == 0


@pytest.fixture(autouse=True)
def well(twin: Twin) -> Iterator[None]:
    """Every test finds a healthy twin, and leaves no fault behind."""
    program("fault", "--name", NAME, "--clear")
    twin.run("systemctl reset-failed; systemctl start panda-llamacpp phone-daemon panda-nav")
    twin.run("sudo -u panda /home/panda/workplace/her/her-os/services/chatterbox/start.sh")
    done = program("up", "--name", NAME)
    assert done.returncode == 0, done.stderr
    yield
    program("fault", "--name", NAME, "--clear")


def test_up_again_is_quick_and_changes_nothing(twin: Twin) -> None:
    before = twin.run("systemctl show -p MainPID --value panda-llamacpp phone-daemon panda-nav")
    began = time.monotonic()
    assert program("up", "--name", NAME).returncode == 0
    assert time.monotonic() - began < 2.0
    assert twin.run("systemctl show -p MainPID --value panda-llamacpp phone-daemon panda-nav") == before


def test_steady_state_over_ssh(twin: Twin) -> None:
    assert twin.ssh("sudo -n id -u") == "0"
    assert twin.ssh("systemctl is-system-running") == "running"
    assert twin.used_mib() == STEADY_MIB
    assert sorted(twin.processes().values()) == [3900, 4300, 4900]


def test_answers_come_from_the_real_model(twin: Twin) -> None:
    answer = json.loads(
        twin.run("curl -s -X POST -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:11436/navigate")
    )
    assert answer["blind"] is False
    twin.run("systemctl stop panda-llamacpp")
    answer = json.loads(
        twin.run("curl -s -X POST -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:11436/navigate")
    )
    assert answer["action"] == "stop"
    assert answer["blind"] is True


def test_kill_dash_nine_lowers_nvidia_smi_after_a_linger(twin: Twin) -> None:
    # Measured inside, so that the time of `docker exec` doesn't count.
    script = (
        "kill -9 $(systemctl show -p MainPID --value panda-llamacpp); t0=$(date +%s%N);"
        " while [ $(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits) -gt 9000 ]; do sleep 0.01; done;"
        " echo $((($(date +%s%N) - t0) / 1000000))"
    )
    assert 500 <= int(twin.run(script)) <= 1500
    assert twin.used_mib() == STEADY_MIB - 4900
    assert sorted(twin.processes().values()) == [3900, 4300]


def test_memory_ramps_up_and_health_comes_after_it(twin: Twin) -> None:
    twin.run("systemctl stop panda-llamacpp")
    wait(lambda: twin.used_mib() == STEADY_MIB - 4900)
    script = (
        "systemctl start panda-llamacpp; t0=$(date +%s%N);"
        " until curl -sf -m 5 http://127.0.0.1:11435/health >/dev/null; do sleep 0.01; done;"
        " nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits;"
        " echo $((($(date +%s%N) - t0) / 1000000))"
    )
    used, took_ms = (int(line) for line in twin.run(script).splitlines())
    assert used == STEADY_MIB
    assert 500 <= took_ms <= 3000


def test_a_quick_restart_works(twin: Twin) -> None:
    twin.run("systemctl restart panda-llamacpp")
    wait(lambda: twin.used_mib() == STEADY_MIB)
    assert twin.run("systemctl is-active panda-llamacpp") == "active"


def test_a_load_that_does_not_fit_is_killed(twin: Twin) -> None:
    command = (
        "llama-server --host 127.0.0.1 --port 11499 -fit off --no-warmup -m "
        "/srv/hub/twin/tiny-nvfp4-GGUF/tiny-nvfp4.gguf; true"
    )
    twin.run(f"timeout 20 sh -c '{command}' >/dev/null 2>&1")
    event = [one for one in twin.events() if one["event"] == "out_of_memory"][-1]
    assert event["wanted_mib"] == 10240
    wait(lambda: twin.used_mib() == STEADY_MIB)
    assert sorted(twin.processes().values()) == [3900, 4300, 4900]


def test_stuck_memory_stays_until_the_fault_is_gone(twin: Twin) -> None:
    twin.gpu_fault(stuck=True)
    twin.run("systemctl stop panda-llamacpp")
    time.sleep(2)
    assert twin.used_mib() == STEADY_MIB
    assert sorted(twin.processes().values()) == [3900, 4300]
    twin.gpu_fault()
    wait(lambda: twin.used_mib() == STEADY_MIB - 4900)


def test_a_foreign_process_is_listed_and_alive(twin: Twin) -> None:
    twin.gpu_fault(foreign=[{"command": "python3 train.py", "mib": 900}])
    wait(lambda: twin.used_mib() == STEADY_MIB + 900)
    assert twin.processes()["python3 train.py"] == 900
    assert twin.run("pgrep -f '^python3 train.py'")
    twin.gpu_fault()
    wait(lambda: twin.used_mib() == STEADY_MIB)


def test_nvml_errs_and_hangs(twin: Twin) -> None:
    twin.gpu_fault(nvml="error")
    assert twin.run("nvidia-smi -L || echo status $?").endswith("status 15")
    twin.gpu_fault(nvml="hang")
    assert twin.run("timeout 1 nvidia-smi -L || echo status $?").endswith("status 124")


def test_the_phone_goes_mute_and_comes_back_with_the_voice(twin: Twin) -> None:
    folder = "/home/panda/workplace/her/her-os/services/chatterbox"
    pid = twin.run("systemctl show -p MainPID --value phone-daemon")
    twin.run(f"sudo -u panda {folder}/stop.sh")
    status = "curl -s http://127.0.0.1:8770/status"
    wait(lambda: bool(json.loads(twin.run(status))["muted"]))
    twin.run(f"sudo -u panda {folder}/start.sh")
    wait(lambda: not json.loads(twin.run(status))["muted"])
    assert twin.run("systemctl show -p MainPID --value phone-daemon") == pid
    lines = [json.loads(line) for line in twin.run("tail -n 2 /var/log/phone/mute.jsonl").splitlines()]
    assert [line["event"] for line in lines] == ["mute_begin", "mute_end"]
    assert lines[1]["t_s"] > lines[0]["t_s"]


def test_faults_of_the_voice_are_switched_from_outside(twin: Twin) -> None:
    assert program("fault", "--name", NAME, "chatterbox-500").returncode == 0
    ask = "curl -s -o /dev/null -w '%{http_code}' -d '{\"text\": \"hello\"}' http://127.0.0.1:8772/synthesize"
    assert twin.run(ask) == "500"
    assert program("fault", "--name", NAME, "chatterbox-500", "--off").returncode == 0
    assert twin.run(ask) == "200"


def test_a_reboot_brings_everything_back(twin: Twin) -> None:
    port = twin.facts["port"]
    done = program("reboot", "--name", NAME)
    assert done.returncode == 0, done.stderr
    assert twin.used_mib() == STEADY_MIB
    assert Twin(NAME).facts["port"] == port
    assert twin.ssh("curl -s http://127.0.0.1:8772/health") == '{"status": "ok", "model_loaded": true}'
