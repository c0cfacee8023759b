"""Is the host as it was? Eight checks on Panda; on another host as many as its inventory implies."""

from __future__ import annotations

import array
import base64
import io
import json
import shlex
import wave
from typing import Any

import pytest

CURL_NOT_CONNECTED = 7
MIB_PER_GB = 1024
# Where a candidate listens unless the inventory says otherwise.
CANDIDATE_PORT = 11437
QUIETEST_SPEECH = 300  # root mean square of 16-bit samples; silence is 0, a spoken sentence some thousands


def ask(host: Any, url: str, *, timeout_s: float = 5, body: Any = None) -> tuple[int, bytes]:
    """Send a request from the host itself and return its HTTP status and body."""
    words = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        str(timeout_s),
        "--write-out",
        "\\n%{http_code}",
    ]
    if body is not None:
        words += ["--header", "Content-Type: application/json", "--data-binary", json.dumps(body)]
    # Base64, because not every connection carries binary output unharmed.
    done = host.run(f"{shlex.join([*words, url])} | base64 -w0")
    text, _line, status = base64.b64decode(done.stdout).rpartition(b"\n")
    assert status != b"000", f"{url} does not answer: {done.stderr.strip()}"
    return int(status), text


def at(document: Any, path: str) -> Any:
    """Look up a dotted path: ``call.state`` or ``models.0.name``."""
    for part in path.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def command_lines(host: Any) -> dict[int, list[str]]:
    """Return the argv of every process, without this very question and the shells that carry it."""
    # /proc keeps the words apart, which ps does not: "phone_call.py auto" as one quoted word is somebody's search.
    script = 'for f in /proc/[0-9]*/cmdline; do printf "%s " "$f"; base64 -w0 "$f" 2>/dev/null; echo; done'
    found = {}
    for line in host.check_output(script).splitlines():
        path, _blank, encoded = line.partition(" ")
        words = base64.b64decode(encoded).decode("utf-8", "replace").rstrip("\0").split("\0")
        if encoded and not any("/proc/[0-9]*/cmdline" in word for word in words):
            found[int(path.split("/")[2])] = words
    return found


def runs_as(words: list[str], pattern: str) -> bool:
    """Say whether an argv holds the pattern's words one after the other, the first perhaps with a path before it."""
    wanted = pattern.split()
    for start in range(len(words) - len(wanted) + 1):
        window = words[start : start + len(wanted)]
        if window[1:] == wanted[1:] and (window[0] == wanted[0] or window[0].endswith("/" + wanted[0])):
            return True
    return False


def gpu(host: Any, index: int, query: str) -> list[list[str]]:
    """Ask nvidia-smi and return its rows."""
    text = host.check_output(f"nvidia-smi --id={index} {query} --format=csv,noheader,nounits")
    return [[cell.strip() for cell in row.split(",")] for row in text.splitlines() if row.strip()]


def test_vram_is_in_its_steady_band_and_held_by_the_tenants(host: Any, inventory: dict[str, Any]) -> None:
    """Used memory in total, as nvidia-smi shows it; 1 GB = 1024 MiB."""
    if not inventory.get("trial_gpu"):
        pytest.skip("the inventory names no GPU (trial_gpu)")
    low, high = inventory["trial_gpu"]["steady_gb"]
    index = inventory["trial_gpu"].get("index", 0)
    [[used_mib]] = gpu(host, index, "--query-gpu=memory.used")
    everyone = command_lines(host)
    pids = [int(row[0]) for row in gpu(host, index, "--query-compute-apps=pid,used_memory")]
    holders = {pid: " ".join(everyone.get(pid, ["?"])) for pid in pids}
    used_gb = int(used_mib) / MIB_PER_GB
    assert low <= used_gb <= high, f"{used_gb:.2f} GB used, expected {low} to {high}; held by {holders}"
    for tenant in inventory["trial_tenants"]:
        word = tenant.get("vram_process")
        assert not word or any(word in line for line in holders.values()), f"{word} holds none; held by {holders}"


@pytest.mark.each_tenant_with("health")
def test_tenant_is_healthy(host: Any, tenant: dict[str, Any]) -> None:
    """The health address answers with its status and every value the inventory asks for."""
    health = tenant["health"]
    status, body = ask(host, health["url"], timeout_s=health.get("timeout_s", 5))
    assert status == health.get("status", 200), f"HTTP {status}: {body[:200]!r}"
    for path, expected in health.get("json", {}).items():
        found = at(json.loads(body), path)
        assert found == expected, f"{path} is {found!r}, expected {expected!r}"


def test_candidate_port_is_closed(host: Any, inventory: dict[str, Any]) -> None:
    """Nothing listens where the candidate was, and a connection is refused rather than lost."""
    if not inventory.get("trial_candidate"):
        pytest.skip("the inventory names no candidate (trial_candidate)")
    port = inventory["trial_candidate"].get("port", CANDIDATE_PORT)
    listening = host.check_output("ss --listening --tcp --numeric --no-header")
    assert not [line for line in listening.splitlines() if line.split()[3].endswith(f":{port}")], listening
    done = host.run(f"curl --silent --max-time 3 --output /dev/null http://127.0.0.1:{port}/health")
    assert done.rc == CURL_NOT_CONNECTED, f"curl ended with {done.rc}, expected {CURL_NOT_CONNECTED} (refused)"


@pytest.mark.each_tenant_with("speech")
def test_tenant_speaks(host: Any, tenant: dict[str, Any]) -> None:
    """A sentence comes back as a WAV that a person would hear."""
    speech = tenant["speech"]
    body = speech.get("body", {"text": "test one two"})
    status, data = ask(host, speech["url"], timeout_s=speech.get("timeout_s", 30), body=body)
    assert status == 200, f"HTTP {status}: {data[:200]!r}"
    minimum = speech.get("min_bytes", 5 * 1024)
    assert len(data) > minimum, f"{len(data)} bytes, expected more than {minimum}"
    assert data[:4] == b"RIFF", f"no RIFF file: begins with {data[:16]!r}"
    assert data[8:12] == b"WAVE", f"no WAV file: begins with {data[:16]!r}"
    with wave.open(io.BytesIO(data)) as sound:
        rate, width, frames = sound.getframerate(), sound.getsampwidth(), sound.readframes(sound.getnframes())
        seconds = len(frames) / (rate * width * sound.getnchannels())
    assert rate >= 8000, f"{rate} Hz"
    assert width == 2, f"{8 * width} bits a sample, expected 16"
    assert seconds > 0.3, f"{seconds:.2f} s of sound"
    samples = array.array("h", frames)
    loudness = (sum(value * value for value in samples) / len(samples)) ** 0.5
    assert loudness > QUIETEST_SPEECH, f"loudness {loudness:.0f}: this is silence"


@pytest.mark.each_tenant_with("watch_process")
def test_tenant_process_lives(host: Any, tenant: dict[str, Any]) -> None:
    """A process with exactly this argv lives; a shell that only mentions it does not count."""
    lives = [pid for pid, words in command_lines(host).items() if runs_as(words, tenant["process"])]
    assert lives, f"no process runs {tenant['process']!r}"
