"""What both benchmarks share: one real llama-server with a tiny model, and what passes on the wire to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "fixtures" / "models"
CAMERA = MODELS / "camera" / "car-view.jpg"
NAV_PROMPT = (
    "You steer a small robot with four wheels. Answer with a direction and a size. "
    "The direction is left, forward or right. The size is small, medium or large. Goal: something interesting"
)
_START_LIMIT_S = 30.0
# <linux/if_ether.h>, <linux/if_packet.h>, <asm-generic/socket.h>: names that Python's socket module lacks.
_ETH_P_IP, _HOST, _SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 0x0800, 0, 35, 33
_SERVER_MS = re.compile(rb'"(?:prompt|predicted)_ms": *([0-9.eE+-]+)')


class BenchError(Exception):
    """It can't be measured here; the text says why and what to do."""


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def told(document: dict[str, Any], out: Path, width: int) -> int:
    """Write a benchmark's document, print its targets, the names `width` wide; returns the exit code."""
    from trialbench.files import write_json

    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, document)
    for row in document["targets"]:
        word = "ok    " if row["ok"] else "MISSED"
        print(f"  {word} {row['what']:<{width}} {row['found']:>7} (limit {row['limit']:g})")
    print(f"\n{out}")
    return 0 if all(row["ok"] for row in document["targets"]) else 1


def image_id() -> str:
    """The bench image that `make image` built."""
    path = ROOT / "build" / "bench-image.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError):
        raise BenchError(f"{path}: expected what `make image` writes, found no image there; run it first") from None


def free_port() -> int:
    """A port of the loopback where nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def end_in_order() -> None:
    """SIGTERM ends the program as Ctrl-C does: its containers go with it."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def split_cpus() -> tuple[set[int], set[int]]:
    """(clients, server): the last CPU for the server, the others for the clients; one for both if there is but one."""
    cpus = sorted(os.sched_getaffinity(0))
    return (set(cpus[:-1]), {cpus[-1]}) if len(cpus) > 1 else (set(cpus), set(cpus))


class Server:
    """A llama-server in a container, on the loopback, for as long as the `with` block lasts.

    Args:
        model: `baseline` or `candidate`, of tests/fixtures/models.
    """

    def __init__(self, model: str = "candidate") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._model = model
        self._name = f"mt-bench-{os.getpid()}-{self.port}"

    def __enter__(self) -> Server:
        _, cpus = split_cpus()
        command = ["docker", "run", "--detach", "--rm", "--name", self._name, "--network=host", "--read-only"]
        command += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001", "--memory=1g"]
        command += [f"--cpuset-cpus={','.join(map(str, sorted(cpus)))}", f"--volume={MODELS}:/models:ro", image_id()]
        command += ["llama-server", "--host", "127.0.0.1", "--port", str(self.port), "--jinja", "-np", "1"]
        command += ["-fit", "off", "-c", "4096", "-t", "1", "-tb", "1", "-m", f"/models/{self._model}-f16.gguf"]
        command += ["--mmproj", f"/models/mmproj-{self._model}-f16.gguf"]
        started = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if started.returncode != 0:
            raise BenchError(f"llama-server could not be started: {started.stderr.strip()[-300:]}")
        try:
            self._wait()
            self._renice()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self) -> None:
        until_s = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < until_s:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        words = subprocess.run(
            ["docker", "logs", "--tail", "5", self._name], capture_output=True, text=True, check=False
        )
        raise BenchError(f"llama-server was not healthy within {_START_LIMIT_S:g} s: {words.stderr.strip()[-300:]}")

    def _renice(self) -> None:
        """`nice -n -10 make bench` means the server as well, which the engine starts."""
        command = ["docker", "inspect", "--format", "{{.State.Pid}}", self._name]
        pid = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), os.getpriority(os.PRIO_PROCESS, 0))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        subprocess.run(
            ["docker", "rm", "--force", self._name], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )


@dataclass(frozen=True)
class Packet:
    """Payload that passed the loopback. `at_s` is the kernel's own time stamp, good for differences."""

    at_s: float
    client: int
    to_server: bool
    payload: bytes


@dataclass(frozen=True)
class Exchange:
    """A chat request as seen on the wire: first byte of it to last byte of its reply, and the server's own time."""

    total_ms: float
    server_ms: float | None


class Wire:
    """Listens on the loopback without taking part: what each client's request really took.

    Packets wait in the kernel's buffer, with their time stamps, until they are asked for between two requests; nothing
    runs beside a request. Needs the right to open packet sockets (root); without it `why` says so.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self.why: str | None = None
        try:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
            tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
            tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            tap.bind(("lo", _ETH_P_IP))
            tap.setblocking(False)
            self._socket = tap
        except OSError as error:
            self.why = f"the wire can't be listened to: {error} (needs root)"

    def close(self) -> None:
        """Stop listening."""
        if self._socket is not None:
            self._socket.close()

    def packets(self) -> Iterator[Packet]:
        """All packets with payload between the server and its clients since the last call, in order."""
        while self._socket is not None:
            try:
                data, ancillary, _, address = self._socket.recvmsg(1 << 17, 128)
            except BlockingIOError:
                return
            # As it arrives, which on the loopback is when it leaves.
            if address[2] == _HOST and data[9:10] == b"\x06":
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
                tcp = data[(data[0] & 15) * 4 : int.from_bytes(data[2:4], "big")]
                source, target = struct.unpack("!HH", tcp[:4])
                payload = tcp[(tcp[12] >> 4) * 4 :]
                if payload and self._port in (source, target):
                    to_server = target == self._port
                    yield Packet(seconds + nanoseconds / 1e9, source if to_server else target, to_server, payload)

    def exchanges(self) -> list[Exchange]:
        """The chat requests since the last call, and their replies, by every client."""
        open_: dict[int, list[Packet]] = {}
        done: list[list[Packet]] = []
        for packet in self.packets():
            sofar = open_.get(packet.client)
            if packet.to_server and (sofar is None or not sofar[-1].to_server):
                open_[packet.client] = [packet]
                done.append(open_[packet.client])
            elif sofar is not None:
                sofar.append(packet)
        return [_exchange(one) for one in done if b"completions" in one[0].payload[:200] and not one[-1].to_server]


def _exchange(packets: list[Packet]) -> Exchange:
    reply = b"".join(packet.payload for packet in packets if not packet.to_server)
    spent = [float(found) for found in _SERVER_MS.findall(reply)]
    return Exchange((packets[-1].at_s - packets[0].at_s) * 1000, sum(spent[-2:]) if len(spent) >= 2 else None)
