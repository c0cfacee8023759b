"""Bytes of an event stream into events, as the standard says (WHATWG HTML, "Server-sent events").

Lines end at CR LF, LF or CR and nowhere else: text splitters such as `httpx.Response.iter_lines` also split at U+0085
and U+2028, which may appear unescaped in the JSON of an event. An event ends at an empty line; its data lines are
joined. What the standard would drop is still read where it can only mean one thing: an event that ends with the stream,
and events that no empty line separates.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_DONE = "[DONE]"
_DONE_LINE = re.compile(rb'data:\s*"?\[DONE\]', re.IGNORECASE)
_MAX_PIECES = 16
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
# What a document or a page begins with, or the last line of a document.
_OUTSIDE = (b"{", b"}", b"[", b"]", b"<")
# Lines outside any event are kept so far: a page, or a reply that is no stream, can be told by its beginning.
_MAX_STRAY = 1 << 16


class Event(NamedTuple):
    """`name` is empty unless the server gave one. `cut`: the stream ended before the event did."""

    name: str
    data: str
    cut: bool = False


class EventStream:
    """Takes the bytes of a stream as they come and gives its events.

    Attributes:
        stray: the beginning of the lines that are not fields of an event, each with its line end.
    """

    def __init__(self) -> None:
        self.stray = ""
        self._rest: list[bytes] = []
        self._first = True
        self._after_cr = False
        self._skips_line = False
        self._name = ""
        self._data: list[str] = []
        # The name when the first data line came: the one that counts if no empty line separates two events.
        self._name_before = ""

    @property
    def outside(self) -> str:
        """`stray` and the line that has not ended, where that one is not a field of an event."""
        if len(self._rest) > _MAX_PIECES or len(self.stray) >= _MAX_STRAY:
            return self.stray
        rest = self._begun()
        return self.stray + rest.decode("utf-8", "replace") if rest.lstrip()[:1] in _OUTSIDE else self.stray

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        if not data:
            # Between CR and LF, it must not hide that they are one line end.
            return []
        if self._after_cr:
            data = data.removeprefix(b"\n")
        *lines, rest = _LINE_END.split(data) if b"\r" in data else data.split(b"\n")
        self._after_cr = data.endswith(b"\r")
        found: list[Event] = []
        for line in lines:
            self._rest.append(line)
            whole = b"".join(self._rest)
            self._rest.clear()
            if not self._skips_line:
                self._take(whole, found)
            self._skips_line = False
        if rest and not self._skips_line:
            self._rest.append(rest)
            if len(self._rest) <= _MAX_PIECES and _DONE_LINE.match(self._begun()):
                # Nothing may follow, not even the end of this line.
                self._take(b"".join(self._rest), found)
                self._rest.clear()
                self._skips_line = True
        return found

    def end(self) -> list[Event]:
        """The event that the end of the stream completes, if any."""
        found: list[Event] = []
        if self._rest:
            self._take(b"".join(self._rest), found)
            self._rest.clear()
        self._dispatch(found, cut=True)
        return found

    def _begun(self) -> bytes:
        """What has come of the line that has not ended."""
        return b"".join(self._rest).removeprefix(_BOM if self._first else b"")

    def _take(self, raw: bytes, found: list[Event]) -> None:
        if self._first:
            raw, self._first = raw.removeprefix(_BOM), False
        if not raw:
            self._dispatch(found)
            return
        line = raw.decode("utf-8", "replace")
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and is_done(value):
            # No document goes on with this line, and of the line itself no more may have come than these characters.
            self._dispatch(found)
            found.append(Event("", _DONE))
        elif name == "data":
            if len(self._data) == 1 and _is_whole(self._data[0]):
                found.append(Event(self._name_before, self._data.pop()))
            if not self._data:
                self._name_before = self._name
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "error":
            # llama-server's own way until 2025.
            found.append(Event("error", value))
        elif name not in ("id", "retry", "") and len(self.stray) < _MAX_STRAY:
            self.stray += line[:_MAX_STRAY] + "\n"

    def _dispatch(self, found: list[Event], *, cut: bool = False) -> None:
        data = "\n".join(self._data)
        if data.strip():
            found.append(Event(self._name, data, cut))
        self._name = ""
        self._data.clear()


def is_done(data: str) -> bool:
    """Whether an event says that the stream is at its end."""
    return data.strip().removeprefix('"')[: len(_DONE)].upper() == _DONE


def _is_whole(data: str) -> bool:
    """Whether a data line is an event by itself: more data behind a JSON object would never be JSON."""
    if not (data.startswith("{") and data.rstrip().endswith("}")):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
