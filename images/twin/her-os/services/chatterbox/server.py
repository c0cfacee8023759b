"""Stand-in of the Chatterbox text-to-speech server: the same interface, and real speech by espeak-ng.

    GET  /health       {"status": "ok", "model_loaded": bool}
    POST /synthesize   {"text": "..."} -> audio/wav

Loading takes a moment, as it does with a real model. A file in ``/run/twin/faults/`` makes it misbehave; the names
are in ``FAULTS`` and are looked up at each request.
"""

from __future__ import annotations

import http.server
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import wave

PORT = 8772
LOAD_S = 1.0
FAULT_FOLDER = pathlib.Path(os.environ.get("TWIN_FAULTS", "/run/twin/faults"))
FAULTS = {
    "chatterbox-refuse-start": "ends at once with status 1",
    "chatterbox-slow-load": "loading takes as many seconds as the file says (default 30)",
    "chatterbox-late-listen": "listens only after as many seconds as the file says (default 5)",
    "chatterbox-slow-stop": "serves on for as many seconds as the file says after SIGTERM (default 5)",
    "chatterbox-dies-after": "dies as many seconds after it has loaded as the file says (default 5)",
    "chatterbox-flaps": "model_loaded is true in one second and false in the next",
    "chatterbox-never-loaded": "model_loaded stays false",
    "chatterbox-empty": "synthesis answers 200 with nothing",
    "chatterbox-silence": "synthesis answers a well-formed WAV of silence",
    "chatterbox-html": "synthesis answers 200 with an HTML page",
    "chatterbox-500": "synthesis answers 500",
    "chatterbox-hang": "synthesis does not answer while the file is there",
}


def fault(name: str) -> bool:
    return (FAULT_FOLDER / f"chatterbox-{name}").exists()


def fault_number(name: str, default: float) -> float:
    """Return the number in a fault's file, ``default`` when there is none in it."""
    try:
        return float((FAULT_FOLDER / f"chatterbox-{name}").read_text().strip())
    except (OSError, ValueError):
        return default


def speak(text: str) -> bytes:
    """Return ``text`` spoken, as a WAV whose header tells its true length."""
    # Written to a pipe, espeak-ng can't know the length beforehand and puts a placeholder there.
    raw = subprocess.run(
        ["espeak-ng", "-s", "150", "--stdin", "--stdout"], input=text.encode(), capture_output=True, check=True
    ).stdout
    with wave.open(io.BytesIO(raw)) as reader:
        rate_hz, width, channels = reader.getframerate(), reader.getsampwidth(), reader.getnchannels()
    return wav(raw[raw.index(b"data") + 8 :], rate_hz, width, channels)


def wav(pcm: bytes, rate_hz: int, width: int = 2, channels: int = 1) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as writer:
        writer.setframerate(rate_hz)
        writer.setsampwidth(width)
        writer.setnchannels(channels)
        writer.writeframes(pcm)
    return target.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    loaded = threading.Event()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/health":
            self._send(404, b'{"error": "no such page"}', "application/json")
            return
        loaded = self.loaded.is_set() and not fault("never-loaded")
        loaded = loaded and not (fault("flaps") and int(time.monotonic()) % 2)
        self._send(200, json.dumps({"status": "ok", "model_loaded": loaded}).encode(), "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if self.path != "/synthesize" or not isinstance(text, str) or not text.strip():
            self._send(400, b'{"error": "expected POST /synthesize with a text"}', "application/json")
            return
        while fault("hang"):
            time.sleep(0.05)
        if not self.loaded.is_set():
            self._send(503, b'{"error": "the model is loading"}', "application/json")
        elif fault("500"):
            self._send(500, b'{"error": "CUDA error: an illegal memory access was encountered"}', "application/json")
        elif fault("html"):
            self._send(200, b"<!doctype html><title>502</title><h1>Bad Gateway</h1>", "text/html")
        elif fault("empty"):
            self._send(200, b"", "audio/wav")
        elif fault("silence"):
            self._send(200, wav(bytes(2 * 22050), 22050), "audio/wav")
        else:
            self._send(200, speak(text), "audio/wav")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """A sentence a second would fill the log."""


def load() -> None:
    time.sleep(fault_number("slow-load", 30.0) if fault("slow-load") else LOAD_S)
    Handler.loaded.set()
    if fault("dies-after"):
        time.sleep(fault_number("dies-after", 5.0))
        os._exit(1)


def stop(server: http.server.ThreadingHTTPServer) -> None:
    """Shut down, at the pace of a program that has much to put away."""
    if fault("slow-stop"):
        time.sleep(fault_number("slow-stop", 5.0))
    server.shutdown()


def main() -> int:
    if fault("refuse-start"):
        print("Chatterbox: refusing to start", file=sys.stderr)
        return 1
    if fault("late-listen"):
        time.sleep(fault_number("late-listen", 5.0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop, args=(server,)).start())
    threading.Thread(target=load, daemon=True).start()
    server.serve_forever(poll_interval=0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
