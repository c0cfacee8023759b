"""A small HTTP server on the loopback: notes what it is asked, and answers as its subclass says."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Mapping
from typing import NamedTuple, Self


class Asked(NamedTuple):
    """A request: its method, its path with the query, its headers."""

    method: str
    path: str
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """A status, a body, which a HEAD leaves out, and headers beside the length."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Stub(http.server.ThreadingHTTPServer):
    """Serves within a `with` statement."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.place = f"127.0.0.1:{self.server_address[1]}"
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path, self.headers)
        self.server.asked.append(asked)
        status, body, headers = self.server.answer(asked)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_CONNECT(self) -> None:
        self.do_GET()
