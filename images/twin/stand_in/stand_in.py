"""A stand-in for one tenant of an inventory: its ports, health, speech and words, and nothing of its work.

    stand_in.py NAME [WORD...]     be the tenant, in the foreground; the words are there to be found in the process list
    stand_in.py --start NAME       start it in the background, as a start script does; --wait: until it is up
    stand_in.py --stop NAME        end it
    stand_in.py --containers       make and start the containers of the tenants that are some
    stand_in.py --well SECONDS     wait until all are well; prints what is not, as JSON

What each is to be is in ``/etc/twin-tenants.json``. One that is up holds a lock, by which those that need it know:
they end when it is gone. Faults are files in ``/run/twin/faults``: ``start-once-NAME`` (the next start ends with 7),
``health-NAME`` (its health says no while the file is there). Standard library only; runs in a twin.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import io
import json
import math
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import wave
from typing import Any

TENANTS = pathlib.Path(os.environ.get("TWIN_TENANTS", "/etc/twin-tenants.json"))
RUN = pathlib.Path(os.environ.get("TWIN_RUN", "/run/twin"))
ME = str(pathlib.Path(__file__).resolve())
# A start script returns at once; a program that ends within this time has not started.
ENDS_AT_ONCE_S = 0.3
LOOK_S = 0.2
STOP_S = 10.0
RATE_HZ = 22050
REFUSED = 7
IMAGE = "twin-stand-in"
# A container of a twin borrows the twin's programs.
MOUNTS = ("/usr:/usr:ro", "/etc:/etc:ro", f"{RUN}:{RUN}")


def tenants() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(TENANTS.read_text())
    return found


def lock_of(name: str) -> pathlib.Path:
    return RUN / "up" / name


def is_up(name: str) -> bool:
    """Whether a tenant holds its lock."""
    try:
        with lock_of(name).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def fault(kind: str, name: str) -> pathlib.Path:
    return RUN / "faults" / f"{kind}-{name}"


def turned(value: Any) -> Any:
    """An answer that says no: what is true is false and the other way round, at every depth."""
    if isinstance(value, dict):
        return {key: turned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [turned(one) for one in value]
    return not value if isinstance(value, bool) else value


def speech(least_bytes: int) -> bytes:
    """A tone as WAV, of one second or of as many bytes as are asked for."""
    frames = max(RATE_HZ, least_bytes)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(i * 0.08))) for i in range(frames)))
    return sound.getvalue()


class Tenant:
    """One tenant that runs."""

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self.name, self.facts = name, facts
        self.began_s = time.monotonic()

    @property
    def healthy(self) -> bool:
        """Whether its health says yes."""
        loaded = time.monotonic() - self.began_s >= float(self.facts["after_s"])
        return loaded and not fault("health", self.name).exists()

    def reply(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path in self.facts["speech"]:
            return 200, "audio/wav", speech(int(self.facts["speech"][path]))
        page = self.facts["pages"].get(path)
        if page is None:
            return 404, "text/plain", b"no such page\n"
        body, status = page["body"], int(page["status"])
        if not self.healthy:
            no = turned(body)
            # Where nothing in it can say no, the status does.
            body, status = no, status if no != body else 503
        return status, "application/json", json.dumps(body).encode()

    def serve(self) -> None:
        """Listen on its ports."""
        tenant = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind, body = tenant.reply(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  # the base class's name

            def log_message(self, *_args: Any) -> None:
                return

        for port in self.facts["ports"]:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def missing(self) -> list[str]:
        """What it needs and is not up."""
        return [need for need in self.facts["needs"] if not is_up(need)]

    def run(self) -> int:
        """Be there until a signal comes or what it needs is gone."""
        with contextlib.suppress(OSError):
            fault("start-once", self.name).unlink()
            print(f"{self.name}: this start fails, as it was asked to", file=sys.stderr)
            return REFUSED
        if self.missing():
            print(f"{self.name}: needs {', '.join(self.missing())}, which is down", file=sys.stderr)
            return 1
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        with open(lock_of(self.name), "w", opener=lambda path, flags: os.open(path, flags, 0o666)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(str(os.getpid()))
            file.flush()
            self.serve()
            ready()
            while not self.missing():
                time.sleep(LOOK_S)
        print(f"{self.name}: {', '.join(self.missing())} went down; it ends", file=sys.stderr)
        return 1


def ready() -> None:
    """Tell systemd that it is up; nothing elsewhere."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.connect(f"\0{place[1:]}" if place.startswith("@") else place)
            speaker.send(b"READY=1")


def command(name: str) -> list[str]:
    return [sys.executable, ME, name, *tenants()[name]["words"]]


def start(name: str, wait: bool) -> int:
    """Start a tenant in the background; a second one is not started."""
    if is_up(name):
        print(f"{name} runs already")
        return 0
    process = subprocess.Popen(command(name), stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(ENDS_AT_ONCE_S)
    except subprocess.TimeoutExpired:
        pass
    while wait and not is_up(name):
        if process.poll() is not None:
            return process.returncode
        time.sleep(LOOK_S)
    return 0


def stop(name: str) -> int:
    """End a tenant and wait until it is gone."""
    deadline = time.monotonic() + STOP_S
    number = signal.SIGTERM
    while is_up(name):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(lock_of(name).read_text()), number)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        time.sleep(0.05)
    return 0


def containers() -> int:
    """Make the containers of the tenants that are some, from an image with nothing in it, and start them."""
    mine = {name: facts for name, facts in tenants().items() if facts["kind"] == "container"}
    if not mine:
        return 0
    there = subprocess.run(["docker", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True)
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        # The folders that the mounts want, and the links that programs expect beside /usr.
        folders = "mkdir -p usr etc run tmp proc dev sys; for one in bin sbin lib lib64; do ln -s usr/$one $one; done"
        script = f"cd $(mktemp -d) && {folders} && tar c . | docker import - {IMAGE}"
        subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)
    for name, facts in mine.items():
        if facts["container"] not in there.stdout.split():
            options = ["--network=host", "--restart=unless-stopped", f"--name={facts['container']}"]
            volumes = [f"--volume={mount}" for mount in MOUNTS]
            subprocess.run(["docker", "create", *options, *volumes, IMAGE, *command(name)], check=True)
            subprocess.run(["docker", "start", facts["container"]], check=True)
    return 0


def trouble(name: str, facts: dict[str, Any]) -> str:
    """Why a tenant is not well; empty when it is."""
    if facts["kind"] == "timer":
        done = subprocess.run(["systemctl", "is-active", facts["unit"]], capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else f"{facts['unit']} is {done.stdout.strip()}"
    if not is_up(name):
        return "it does not run"
    for port in facts["ports"]:
        for path, page in facts["pages"].items():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
                    status, body = reply.status, json.loads(reply.read())
            except urllib.error.HTTPError as error:
                status, body = error.code, page["body"]
            except (OSError, ValueError) as error:
                return f"port {port}: {error}"
            if (status, body) != (page["status"], page["body"]):
                return f"port {port}{path} answers {status}, {json.dumps(body)}"
    return ""


def system_trouble() -> str:
    state = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    if state.stdout.strip() != "running":
        failed = subprocess.run(
            ["systemctl", "--failed", "--plain", "--no-legend"], capture_output=True, text=True, check=False
        )
        names = ", ".join(line.split()[0] for line in failed.stdout.splitlines() if line.strip())
        return f"systemd is {state.stdout.strip() or 'silent'}{f' ({names} failed)' if names else ''}"
    return ""


def docker_trouble() -> str:
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "docker does not answer"


def well(limit_s: float) -> int:
    """Wait until everything is as it should be."""
    deadline = time.monotonic() + limit_s
    while True:
        found = {"systemd": system_trouble(), "docker": docker_trouble()}
        found.update({name: trouble(name, facts) for name, facts in tenants().items()})
        found = {name: words for name, words in found.items() if words}
        if not found or time.monotonic() > deadline:
            print(json.dumps(found))
            return 1 if found else 0
        time.sleep(LOOK_S)


def main(words: list[str]) -> int:
    if words[:1] == ["--start"]:
        return start(words[1], "--wait" in words)
    if words[:1] == ["--stop"]:
        return stop(words[1])
    if words[:1] == ["--containers"]:
        return containers()
    if words[:1] == ["--well"]:
        return well(float(words[1]))
    if not words or words[0] not in tenants():
        print(f"usage: {ME} NAME, one of {', '.join(tenants())}", file=sys.stderr)
        return 2
    return Tenant(words[0], tenants()[words[0]]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
