# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the acting side share: a plan like a real host's, and tiny real HTTP servers."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import socket
import struct
import threading
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args


@dataclass
class Reply:
    """What a route answers; ``drip_s`` sends the body byte by byte, with that pause between."""

    body: bytes = b""
    status: int = 200
    delay_s: float = 0.0
    drip_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()


class Server:
    """A real HTTP server on a free port of 127.0.0.1; ``routes`` may change while it runs."""

    def __init__(self) -> None:
        self.routes: dict[str, Reply] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            # Clients that give up early are part of the tests.
            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        self._httpd = Quiet(("127.0.0.1", 0), Handler)
        self.port: int = self._httpd.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        self.asked.append((handler.command, handler.path, handler.rfile.read(length)))
        reply = self.routes.get(handler.path, Reply(b"no such page", 404))
        self.closing.wait(reply.delay_s)
        handler.send_response(reply.status)
        for name, value in reply.headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        if not reply.drip_s:
            handler.wfile.write(reply.body)
            return
        for i in range(len(reply.body)):
            handler.wfile.write(reply.body[i : i + 1])
            handler.wfile.flush()
            if self.closing.wait(reply.drip_s):
                return

    def json(self, path: str, body: Any, status: int = 200) -> None:
        """Answer ``path`` with JSON."""
        self.routes[path] = Reply(json.dumps(body).encode(), status)

    def close(self) -> None:
        """Stop serving and free the port."""
        self.closing.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[], Server]]:
    """Makes servers, and closes them at the end."""
    servers: list[Server] = []

    def make() -> Server:
        servers.append(Server())
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(serve: Callable[[], Server]) -> Server:
    """One server."""
    return serve()


@pytest.fixture
def reply() -> type[Reply]:
    """The class of answers, for tests that need more than JSON."""
    return Reply


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives to connections and to other tests' servers."""
    while True:
        port = random.SystemRandom().randint(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def tone() -> Callable[..., bytes]:
    """Makes a 16-bit WAV with a tone: ``tone(seconds=1.0, rate=22050, level=0.5, channels=1)``."""

    def make(seconds: float = 1.0, rate: int = 22050, level: float = 0.5, channels: int = 1) -> bytes:
        values = [int(level * 32767 * math.sin(i * 0.06)) for i in range(int(seconds * rate))]
        data = b"".join(struct.pack("<h", value) * channels for value in values)
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(data)
        return file.getvalue()

    return make


@pytest.fixture
def plan_data() -> dict[str, Any]:
    """A plan like the one of a host with four tenants, as decoded JSON; tests change what they need."""
    digest = "0123456789abcdef" * 4
    return {
        "run": "e4b-20260501-120000",
        "settle_s": 1,
        "host": "panda",
        "image": f"sha256:{digest}",
        "gpu": {"steady_gb": [13.0, 13.8], "total_gb_min": 15.5},
        "tenants": [
            {
                "name": "llamacpp",
                "title": "Gemma 4 E2B",
                "kind": "systemd",
                "unit": "panda-llamacpp",
                "impact": "blind",
                "port": 11435,
                "process": "llama-server",
                "vram_process": "llama-server",
                "health": {"url": "http://127.0.0.1:11435/health", "json": {"status": "ok"}},
            },
            {
                "name": "nav",
                "title": "panda-nav",
                "kind": "process",
                "impact": "blind",
                "port": 11436,
                "process": "uvicorn",
                "health": {"url": "http://127.0.0.1:11436/health", "json": {"status": "ok"}},
            },
            {
                "name": "chatterbox",
                "title": "Chatterbox TTS",
                "kind": "script",
                "impact": "mute",
                "port": 8772,
                "user": "panda",
                "directory": "/home/panda/chatterbox",
                "start": "./start.sh",
                "stop": "./stop.sh",
                "vram_process": "chatterbox",
                "health": {"url": "http://127.0.0.1:8772/health", "json": {"model_loaded": True}},
                "speech": {"url": "http://127.0.0.1:8772/synthesize"},
            },
            {
                "name": "phone",
                "title": "phone daemon",
                "kind": "process",
                "port": 8770,
                "process": "phone_call.py auto",
                "watch_process": True,
                "vram_process": "phone_call.py",
                "health": {"url": "http://127.0.0.1:8770/status"},
            },
        ],
        "baseline": {"tenant": "llamacpp", "url": "http://127.0.0.1:11435", "label": "gemma-4-E2B"},
        "candidate": {
            "label": "gemma-4-E4B-it-Q4_K_M",
            "container": "panda-llamacpp-e4b",
            "repo": "unsloth/gemma-4-E4B-it-GGUF",
            "revision": "0123456789" * 4,
            "files": [
                {"name": "gemma-4-E4B-it-Q4_K_M.gguf", "role": "model", "sha256": digest},
                {"name": "mmproj-F16.gguf", "role": "mmproj", "sha256": digest},
            ],
        },
        "workloads": [{"name": "nav", "role": "decides"}, {"name": "describe", "role": "shown"}],
        "contracts": {
            "prompt": {
                "file": "/home/panda/her-os/services/panda_nav/server.py",
                "function": "build_vlm_prompt",
                "call": 'build_vlm_prompt(goal="something interesting")',
                "lines": [131, 145],
            },
            "camera": "/home/panda/car-view.jpg",
            "clauses": [
                {
                    "file": "/home/panda/her-os/services/annie-voice/chatterbox_tts.py",
                    "lines": [159, 161],
                    "catches": ["httpx.TimeoutException", "httpx.HTTPError"],
                    "yields": "TTSStoppedFrame()",
                    "why": "it makes calls mute instead of crashing them",
                }
            ],
            "quiet": [
                {
                    "name": "no call in progress",
                    "http": {"url": "http://127.0.0.1:8770/status", "json": {"in_call": False}},
                }
            ],
        },
        "stop_order": ["chatterbox", "llamacpp"],
        "restore_order": ["llamacpp", "chatterbox"],
    }


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], None]:
    """Waits until something is true, at most half a minute: machines that others share stand still for seconds."""

    def wait(condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it never became true"
            time.sleep(0.01)

    return wait


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a module's ``main`` as Ansible does: ``invoke(main, args, check_mode=False)`` gives its result.

    ``failed`` is always in it.
    """

    def run(main: Callable[[], None], args: dict[str, Any], check_mode: bool = False) -> dict[str, Any]:
        with patch_module_args({**args, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit) as end:
            main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert result.setdefault("failed", False) is (end.value.code != 0)
        return result

    return run
