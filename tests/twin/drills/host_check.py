"""Runs on the twin, as root, from standard input: the eight checks and what is left lying about, as one JSON object.

Shares no code with the collection, and asks other programs: nvidia-smi, /proc, systemctl, docker.
Argument: the run whose samples are counted.
"""

from __future__ import annotations

import array
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave

STATE = pathlib.Path("/var/lib/model-trial")
BAND_MIB = (13312, 14131)
HOLDERS = ("llama-server", "chatterbox/server.py", "phone_call.py")
HEALTH = {
    "2 live model": ("http://127.0.0.1:11435/health", "status", "ok"),
    "3 navigation": ("http://127.0.0.1:11436/health", "status", "ok"),
    "5 voice": ("http://127.0.0.1:8772/health", "model_loaded", True),
    "6 phone API": ("http://127.0.0.1:8770/health", "status", "ok"),
}
UNITS = {"panda-llamacpp": "panda-llamacpp", "panda-nav": "panda-nav", "phone": "phone-daemon"}
OURS = ("/usr/local/sbin/model-trial", "trialbench", "mt-client", "mt-hook")
# A drill's own tenant.
BOX = "drill-box"
VOICE_MIN_BYTES = 5 * 1024
# A spoken sentence is far louder; digital silence and hum are far softer (of 32767).
VOICE_MIN_RMS = 200


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def processes() -> dict[int, list[str]]:
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue
            if words:
                found[int(folder.name)] = words
    return found


def status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name; empty when the process is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return stat[stat.rindex(")") + 2 :].split()


def identity(pid: int) -> list[int] | None:
    """PID and start time in clock ticks."""
    fields = status(pid)
    return [pid, int(fields[19])] if fields else None


def parent(pid: int) -> int:
    """PID of the parent, 0 when the process is gone."""
    fields = status(pid)
    return int(fields[1]) if fields else 0


def vram() -> str:
    """Empty when the card is as it should be."""
    used = output("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    holders = output("nvidia-smi", "--query-compute-apps=process_name", "--format=csv,noheader").splitlines()
    if not used.isdigit() or not BAND_MIB[0] <= int(used) <= BAND_MIB[1]:
        return f"{used or 'no answer'} MiB, held by {holders}"
    strange = [one for one in holders if not any(word in one for word in HOLDERS)]
    missing = [word for word in HOLDERS if not any(word in one for one in holders)]
    return f"missing {missing}, strange {strange}" if strange or missing else ""


def health(url: str, field: str, wanted: object) -> str:
    try:
        with urllib.request.urlopen(url, timeout=3) as reply:
            found = json.loads(reply.read()).get(field)
    except (OSError, ValueError) as error:
        return str(error)
    return "" if found == wanted else f"{field} is {found!r}"


def refused(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return f"somebody listens on {port}"
    except ConnectionRefusedError:
        return ""
    except OSError as error:
        return str(error)


def voice() -> str:
    request = urllib.request.Request(
        "http://127.0.0.1:8772/synthesize",
        json.dumps({"text": "test one two"}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            content = reply.read()
        with wave.open(io.BytesIO(content)) as sound:
            frames, rate_hz, width = sound.getnframes(), sound.getframerate(), sound.getsampwidth()
            samples = array.array("h", sound.readframes(frames))
    except (OSError, ValueError, EOFError, wave.Error) as error:
        return f"no WAV: {error}"
    rms = (sum(one * one for one in samples) / max(1, len(samples))) ** 0.5
    good = len(content) > VOICE_MIN_BYTES and width == 2 and frames / rate_hz > 0.3 and rms > VOICE_MIN_RMS
    return "" if good else f"{len(content)} bytes, {frames / rate_hz:.2f} s, RMS {rms:.0f}"


def checks(running: dict[int, list[str]]) -> dict[str, str]:
    """Each check's trouble; an empty text is a passed check."""
    phones = [pid for pid, words in running.items() if words[-2:] == ["phone_call.py", "auto"]]
    # What has just been loaded may still be filling its memory.
    deadline = time.monotonic() + 2
    card = vram()
    while card and time.monotonic() < deadline:
        time.sleep(0.1)
        card = vram()
    found = {"1 VRAM": card, "4 candidate's port": refused(11437), "7 speech": voice()}
    found |= {name: health(*question) for name, question in HEALTH.items()}
    found["8 phone process"] = "" if len(phones) == 1 else f"{len(phones)} processes"
    return dict(sorted(found.items()))


def tenants(running: dict[int, list[str]]) -> dict[str, list[int] | None]:
    """Each tenant's process: PID and start time, or None."""
    found = {}
    for name, unit in UNITS.items():
        found[name] = identity(int(output("systemctl", "show", "-p", "MainPID", "--value", unit) or 0))
    voices = [pid for pid, words in running.items() if words[-1].endswith("services/chatterbox/server.py")]
    # The server speaks through a child, which bears its name between fork and exec.
    servers = [who for pid in voices if parent(pid) not in voices and (who := identity(pid))]
    found["chatterbox"] = servers[0] if len(servers) == 1 else None
    return found


def left_over(running: dict[int, list[str]]) -> dict[str, object]:
    """What a trial leaves behind that it must not: containers, processes, files, units, timers."""
    units = output("systemctl", "list-units", "--all", "--plain", "--no-legend", "mt-*.service", "run-*.service")
    timers = output("systemctl", "list-timers", "--all", "--plain", "--no-legend", "mt-*", "run-*")
    names = sorted(path.name for path in STATE.iterdir()) if STATE.exists() else []
    states = {
        unit: output("systemctl", "show", "-p", "ActiveState", "--value", unit) for unit in ("mt-run", "mt-restore")
    }
    own = {os.getpid(), os.getppid()}
    return {
        "containers": [name for name in output("docker", "ps", "-a", "--format", "{{.Names}}").split() if name != BOX],
        "processes": [" ".join(w) for p, w in running.items() if p not in own and any(o in " ".join(w) for o in OURS)],
        "files": [name for name in names if name not in ("epoch", "lock", "models", "runs")],
        "units": [f"{name} {state}" for name, state in states.items() if state != "inactive"],
        "services": [line.split()[0] for line in units.splitlines() if not line.startswith(tuple(KNOWN_UNITS))],
        "timers": timers.splitlines(),
        "failed": [line.split()[0] for line in output("systemctl", "--failed", "--plain", "--no-legend").splitlines()],
    }


KNOWN_UNITS = ("mt-run.service", "mt-restore.service", "mt-recover.service", "mt-watch.service")


def samples(run: str) -> dict[str, int]:
    """Complete lines of each sample file of a run."""
    return {path.stem: path.read_bytes().count(b"\n") for path in sorted(STATE.glob(f"runs/{run}/samples/*.jsonl"))}


def main() -> None:
    running = processes()
    facts = {
        "checks": {name: trouble for name, trouble in checks(running).items() if trouble},
        "tenants": tenants(running),
        "left": {name: found for name, found in left_over(running).items() if found},
        "mark": (STATE / "open").exists(),
        "samples": samples(sys.argv[1]) if len(sys.argv) > 1 else {},
    }
    print(json.dumps(facts))


main()
