"""Is the twin as it should be? Prints one JSON line; ``--wait SECONDS`` waits until it is, and tells what is missing.

Exit status 0 when everything is well, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

LEDGER = pathlib.Path("/run/twin-gpu/ledger")
BAND_MIB = (13312, 14131)
PROCESSES = 3


def answer(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=2) as reply:
        content = json.loads(reply.read())
    return content if isinstance(content, dict) else {}


def ok_at(url: str, field: str = "status", expected: object = "ok") -> Callable[[], bool]:
    return lambda: answer(url).get(field) == expected


def system_running() -> bool:
    state = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    return state.stdout.strip() == "running"


def docker_up() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def sshd_up() -> bool:
    return subprocess.run(["systemctl", "is-active", "-q", "ssh"], check=False).returncode == 0


def vram_steady() -> bool:
    facts = LEDGER.read_text().splitlines()
    used = int(next(line.split()[1] for line in facts if line.startswith("used_mib ")))
    processes = sum(line.startswith("process ") for line in facts)
    return BAND_MIB[0] <= used <= BAND_MIB[1] and processes == PROCESSES


CHECKS: dict[str, Callable[[], bool]] = {
    "systemd": system_running,
    "sshd": sshd_up,
    "docker": docker_up,
    "panda-llamacpp": ok_at("http://127.0.0.1:11435/health"),
    "panda-nav": ok_at("http://127.0.0.1:11436/health"),
    "chatterbox": ok_at("http://127.0.0.1:8772/health", "model_loaded", True),
    "phone-daemon": ok_at("http://127.0.0.1:8770/health"),
    "hub": ok_at("http://127.0.0.1:8800/health"),
    "vram": vram_steady,
}


def passes(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (OSError, ValueError, StopIteration, urllib.error.URLError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the twin's health.")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    arguments = parser.parse_args()
    began = time.monotonic()
    missing = set(CHECKS)
    while missing:
        # A check that passed is asked again at the end: things may fall over while others come up.
        for name in sorted(missing):
            if passes(CHECKS[name]):
                missing.discard(name)
                print(f"{time.monotonic() - began:5.1f} s  {name}", file=sys.stderr, flush=True)
        if not missing:
            missing = {name for name in CHECKS if not passes(CHECKS[name])}
        if time.monotonic() - began > arguments.wait:
            break
        if missing:
            time.sleep(0.1)
    print(json.dumps({"ok": not missing, "missing": sorted(missing), "after_s": round(time.monotonic() - began, 1)}))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
