"""A reader for INI files that remembers the line of every value.

It accepts the syntax of Python's `configparser` (sections, `key = value` or `key: value`, `#` and `;` comments,
indented continuation lines), without interpolation. `configparser` does not keep line numbers, which errors need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trialbench.errors import UsageError

# Configurations are written by hand: a longer file is something else.
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One value and its (first) line."""

    value: str
    line: int


@dataclass(frozen=True)
class Section:
    """One section: its first line, and its entries by lower-case key."""

    line: int
    entries: Mapping[str, Entry]


def read_ini(path: Path) -> dict[str, Section]:
    """The sections of `path` by name.

    Raises:
        UsageError: not readable, not UTF-8, too long, or a line that is not INI; says where.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: expected a configuration of at most {MAX_BYTES >> 20} MiB, found a longer file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: expected UTF-8, found the byte 0x{raw[error.start]:02x}") from None
    return parse_ini(text, str(path))


def parse_ini(text: str, name: str) -> dict[str, Section]:
    """Like `read_ini`, for a text; errors call it `name`."""
    sections: dict[str, tuple[int, dict[str, Entry]]] = {}
    entries: dict[str, Entry] | None = None
    last: str | None = None
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip()
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        where = f"{name}:{number}"
        if line[0].isspace() and last is not None and entries is not None:
            entry = entries[last]
            entries[last] = Entry(f"{entry.value}\n{stripped}".lstrip("\n"), entry.line)
            continue
        if stripped.startswith("["):
            if not stripped.endswith("]") or not stripped[1:-1].strip():
                raise UsageError(f"{where}: expected [SECTION], found {stripped[:60]!r}")
            title = stripped[1:-1].strip()
            if title in sections:
                raise UsageError(f"{where}: the section [{title}] is defined twice; merge the two")
            entries, last = {}, None
            sections[title] = (number, entries)
            continue
        key, separator, value = _split(stripped)
        if entries is None:
            found = f"the key {key[:60]!r}" if separator else "something else"
            raise UsageError(f"{where}: expected a [SECTION] before the first value, found {found}")
        if not separator or not key:
            # Not shown: it may be a key for a server that slipped onto a line of its own.
            raise UsageError(f"{where}: expected KEY = VALUE, found a line with no {'key' if separator else '= in it'}")
        if key in entries:
            raise UsageError(f"{where}: {key} was set on line {entries[key].line} already; keep one of the two")
        entries[key] = Entry(value, number)
        last = key
    return {title: Section(line, found) for title, (line, found) in sections.items()}


def _split(line: str) -> tuple[str, str, str]:
    """Key, separator and value, split at the first `=` or `:`."""
    positions = [position for position in (line.find("="), line.find(":")) if position >= 0]
    if not positions:
        return line, "", ""
    at = min(positions)
    return line[:at].strip().lower(), line[at], line[at + 1 :].strip()
