"""The phone daemon: answers calls, and talks.

    phone_call.py auto

In the digital twin there is no telephone line, but the voice is real: one sentence every second goes through
Chatterbox, so that an operator who stops Chatterbox learns how long the line was mute. The beginning and the end of
each silence are written to ``/var/log/phone/mute.jsonl`` with wall-clock time and CLOCK_MONOTONIC seconds.

API on 127.0.0.1:8770
    GET  /health   {"status": "ok"}
    GET  /status   {"call_active": bool, "muted": bool, ...}
    POST /call     {"active": bool}: begin or end a call (there is no line, so tests do it)
"""

from __future__ import annotations

import asyncio
import datetime
import http.server
import json
import logging
import os
import pathlib
import signal
import sys
import threading
import time

from chatterbox_tts import ChatterboxTTSService, TTSAudioRawFrame

API_PORT = 8770
LOG = pathlib.Path(os.environ.get("PHONE_LOG", "/var/log/phone/mute.jsonl"))
# Loading speech recognition takes this long before the daemon takes calls.
LOAD_S = 0.8
SENTENCE_EVERY_S = 1.0
# Shorter than the pause between two sentences: a slow voice must not delay the next one.
SENTENCE_TIMEOUT_S = 0.9
SENTENCES = ("I am here.", "Please go on.", "One moment.", "I am listening.", "Yes, I can hear you.")

log = logging.getLogger("phone_call")


class MuteLog:
    """Remembers whether the line is mute, and writes down when that changes. Times on the monotonic clock."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.muted = False
        self.since_s: float | None = None
        self.last_heard_s: float | None = None

    def note(self, heard: bool, at_s: float, reason: str | None = None) -> None:
        """Take note of one sentence that began at ``at_s`` and was heard, or was not."""
        if not heard and not self.muted:
            self.muted, self.since_s = True, at_s
            self._write("mute_begin", at_s, reason=reason, last_heard_t_s=self.last_heard_s)
        elif heard and self.muted:
            silent_s = at_s - self.since_s if self.since_s is not None else None
            self._write("mute_end", at_s, muted_s=silent_s, last_heard_t_s=self.last_heard_s)
            self.muted, self.since_s = False, None
        if heard:
            self.last_heard_s = at_s

    def _write(self, event: str, at_s: float, **facts: object) -> None:
        wall = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"event": event, "wall": wall, "t_s": round(at_s, 3), **facts}
        log.warning("%s", line)
        try:
            with self.path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            # A full disk is no reason to hang up.
            log.error("mute log: %s", error)


class Phone:
    """The state of the line; read by the API's threads, written by the voice loop and POST /call."""

    def __init__(self, mute_log: MuteLog) -> None:
        self.mute_log = mute_log
        self.call_active = False
        self.spoken = 0
        self.silent = 0

    def status(self) -> dict[str, object]:
        return {
            "call_active": self.call_active,
            "muted": self.mute_log.muted,
            "muted_since_t_s": self.mute_log.since_s,
            "spoken": self.spoken,
            "silent": self.silent,
            "pid": os.getpid(),
        }

    async def speak(self, voice: ChatterboxTTSService, sentence: str) -> None:
        """Say one sentence; without a single piece of sound it was silent."""
        began_s = time.monotonic()
        heard = False
        async for frame in voice.run_tts(sentence):
            heard = heard or isinstance(frame, TTSAudioRawFrame)
        self.spoken += heard
        self.silent += not heard
        self.mute_log.note(heard, began_s, voice.metrics.last_error)

    async def talk(self, voice: ChatterboxTTSService, stop: asyncio.Event) -> None:
        """Say a sentence every second, on a steady beat, until told to stop."""
        beat_s = time.monotonic()
        number = 0
        while not stop.is_set():
            await self.speak(voice, SENTENCES[number % len(SENTENCES)])
            number += 1
            beat_s = max(beat_s + SENTENCE_EVERY_S, time.monotonic())
            try:
                await asyncio.wait_for(stop.wait(), beat_s - time.monotonic())
            except TimeoutError:
                continue


def make_handler(phone: Phone) -> type[http.server.BaseHTTPRequestHandler]:
    """Return the request handler of the API."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            pages: dict[str, dict[str, object]] = {
                "/": {"service": "phone"},
                "/health": {"status": "ok"},
                "/status": phone.status(),
            }
            if self.path in pages:
                self._send(200, pages[self.path])
            else:
                self._send(404, {"error": "no such page"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                active = json.loads(body)["active"]
            except (ValueError, KeyError, TypeError):
                active = None
            if self.path != "/call" or not isinstance(active, bool):
                self._send(400, {"error": 'expected POST /call {"active": true|false}'})
                return
            phone.call_active = active
            self._send(200, phone.status())

        def _send(self, code: int, page: dict[str, object]) -> None:
            content = json.dumps(page).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Probes ask often; their lines are noise."""

    return Handler


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("chatterbox_tts").setLevel(logging.ERROR)
    await asyncio.sleep(LOAD_S)
    phone = Phone(MuteLog(LOG))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", API_PORT), make_handler(phone))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    voice = ChatterboxTTSService(timeout_s=SENTENCE_TIMEOUT_S)
    await phone.talk(voice, stop)
    await voice.close()
    server.shutdown()


if __name__ == "__main__":
    if sys.argv[1:] != ["auto"]:
        sys.exit("usage: phone_call.py auto")
    asyncio.run(main())
