"""`trialbench` against a real llama-server that goes wrong in mid-run: a partial result, said so, and never a hang.

Needs the bench image, and no twin: server and client run from it, as in a trial.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "fixtures" / "models"
FAULTY = ROOT / "tests" / "fixtures" / "faulty_server" / "llama-server"
PROMPT = "Answer with a direction and a size. Goal: something interesting"
GOOD = 12
# Far beyond what forty requests or five timeouts of two seconds take on a busy machine.
HANGS_S = 180


@contextlib.contextmanager
def faulty(mode: str | None) -> Iterator[str]:
    """A server's address; from the request after the twelfth good one on it is at fault (None: never)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    image = json.loads((ROOT / "build" / "bench-image.json").read_text(encoding="utf-8"))["id"]
    name = f"mt-faulty-{os.getpid()}-{port}"
    command = ["docker", "run", "--detach", "--rm", "--name", name, "--network=host", "--user=10001:10001"]
    command += [
        f"--volume={MODELS}:/models:ro",
        f"--volume={FAULTY}:/faulty:ro",
        "--entrypoint=/usr/bin/python3",
        image,
    ]
    command += ["-IB", "/faulty", "--host", "127.0.0.1", "--port", str(port), "--jinja", "-np", "1", "-fit", "off"]
    command += [
        "-c",
        "4096",
        "-t",
        "1",
        "-m",
        "/models/baseline-f16.gguf",
        "--mmproj",
        "/models/mmproj-baseline-f16.gguf",
    ]
    command += ["--misbehave", f"{mode}:{GOOD + 1}"] if mode else []
    subprocess.run(command, check=True, capture_output=True)
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
                if reply.status == 200:
                    break
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.05)
        yield url
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)


def measure(url: str, tmp_path: Path, *options: str) -> tuple[int, list[dict[str, Any]], dict[str, Any], str]:
    """(exit code, samples, summary of the segment, what was said). A client that hangs is a failure."""
    command = [
        sys.executable,
        "-m",
        "trialbench",
        "run",
        "--url",
        url,
        "--workload",
        "nav",
        "--set",
        f"prompt={PROMPT}",
    ]
    command += ["--image", str(MODELS / "camera" / "car-view.jpg"), "-n", "40", "--warmup", "0"]
    command += [
        "--idle-wait-s",
        "2",
        "--out",
        str(tmp_path / "s.jsonl"),
        "--summary",
        str(tmp_path / "s.json"),
        *options,
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    samples = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    return done.returncode, samples, summary["segments"]["nav"], done.stdout + done.stderr


def test_a_good_server_for_comparison(tmp_path: Path) -> None:
    with faulty(None) as url:
        code, samples, nav, said = measure(url, tmp_path)
    # A machine that gets other work in mid-run slows a good server down, and that is said.
    assert code == (3 if "the server slowed down" in said else 0), said
    assert (len(samples), nav["ok"], nav["stopped"]) == (40, 40, None)
    assert nav["neighbours"] == {"watched": True, "overlapped": 0, "why": None}
    assert nav["request"]["models"] == ["/models/baseline-f16.gguf"]


@pytest.mark.parametrize(
    ("mode", "code", "error"), [("dies", 4, "connect"), ("stalls", 4, "timeout"), ("drips", 4, "timeout")]
)
def test_a_server_that_is_lost_on_the_way(tmp_path: Path, mode: str, code: int, error: str) -> None:
    with faulty(mode) as url:
        found, samples, nav, said = measure(url, tmp_path, "--timeout-s", "2")
    assert found == code, said
    # What was good before is kept; what failed is there by name, and nothing else is said of it.
    assert [sample["ok"] for sample in samples[:GOOD]] == [True] * GOOD
    assert len(samples) == GOOD + 5
    assert all(not sample["ok"] and sample["latency_ms"] is None for sample in samples[GOOD:])
    assert samples[-1]["error_class"] == error
    assert (nav["ok"], nav["failed"], nav["stopped"], nav["requested"]) == (GOOD, 5, "server", 40)
    assert "the server is broken or unreachable" in said


def test_a_server_that_slows_down(tmp_path: Path) -> None:
    with faulty("slow") as url:
        code, samples, nav, said = measure(url, tmp_path)
    assert (code, len(samples), nav["ok"]) == (3, 40, 40)
    assert "the server slowed down" in said


def test_a_server_that_is_always_just_in_time(tmp_path: Path) -> None:
    with faulty("slow") as url:
        code, samples, nav, said = measure(url, tmp_path, "--time-limit-s", "4")
    assert (code, nav["stopped"]) == (3, "time_limit"), said
    assert 0 < len(samples) < 40
    assert "its results are partial" in said


@pytest.mark.parametrize(("mode", "error"), [("500", "http_500"), ("garbage", "bad_json"), ("thinks", "thinking")])
def test_a_server_that_answers_badly(tmp_path: Path, mode: str, error: str) -> None:
    with faulty(mode) as url:
        code, samples, nav, _ = measure(url, tmp_path)
    assert (code, len(samples), nav["ok"]) == (3, 40, GOOD)
    assert nav["errors"] == {error: 40 - GOOD}
    assert nav["latency_ms"]["p50"]["n"] == GOOD
