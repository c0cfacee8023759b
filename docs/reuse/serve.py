"""A stand-in for a service: a health page, and for the voice a spoken answer. It is replaced by yours."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import urllib.request
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORTS = {"db": 5432, "api": 8080, "voice": 8772}
RATE_HZ = 16000


def tone() -> bytes:
    """Half a second of a tone, as a WAV."""
    frames = b"".join(struct.pack("<h", int(9000 * math.sin(i / 6))) for i in range(RATE_HZ // 2))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE_HZ)
        sound.writeframes(frames)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers for one of the services."""

    def do_GET(self) -> None:
        """The health page."""
        self.answer("application/json", json.dumps({"status": "ok"}).encode())

    def do_POST(self) -> None:
        """What the voice says."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer("audio/wav", tone())

    def answer(self, kind: str, body: bytes) -> None:
        """Send a whole answer."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    name = sys.argv[1]
    if name == "api":
        # It needs the database, and ends without it.
        urllib.request.urlopen(f"http://127.0.0.1:{PORTS['db']}/health", timeout=2).close()
    ThreadingHTTPServer(("127.0.0.1", PORTS[name]), Handler).serve_forever()
