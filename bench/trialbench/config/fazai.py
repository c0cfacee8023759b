"""Reads `fazai.conf` into the options of worker and engines; errors name file, line and allowed values.

The file may hold sections of other programs: a section or key that is not read here only causes a warning. A value that
can't be used is an error, and all errors of a file are reported together.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from trialbench.config.ini import Entry, Section, read_ini
from trialbench.config.settings import (
    DEFAULT_DEADLINES,
    DEFAULT_GEMMA,
    MODES,
    OWN_ENGINE,
    DispatcherSettings,
    Fallback,
    Limits,
    Settings,
    WorkerSettings,
)
from trialbench.credentials import is_key, remember
from trialbench.engines.contract import Deadlines
from trialbench.engines.endpoint import EndpointOptions
from trialbench.engines.gemma_cpp import WEIGHT_FORMATS
from trialbench.errors import UsageError
from trialbench.urls import is_loopback, parse, server

# Linux's sun_path has 108 bytes; the last is the terminator.
_MAX_SOCKET_BYTES = 107
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True)
class Note:
    """A warning or an error about one line of the file."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def load(path: Path) -> tuple[Settings, list[Note]]:
    """The settings in `path`, and warnings.

    Raises:
        UsageError: the file is not readable or has wrong values; lists all of them with their lines.
    """
    settings, warnings, errors = check(path)
    if errors:
        raise UsageError("\n".join(str(error) for error in errors))
    return settings, warnings


def check(path: Path) -> tuple[Settings, list[Note], list[Note]]:
    """Like `load`, but lists wrong values instead of raising; a wrong value keeps its default in the settings.

    Raises:
        UsageError: the file is not readable, or is not an INI file.
    """
    return _Reader(path, read_ini(path)).settings()


class _WrongError(Exception):
    """A value can't be used; the text says what was expected."""


_Parser = Callable[[str], Any]


def _text(pattern: str, expected: str) -> _Parser:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _WrongError(expected)
        return text

    return parse


def _choice(*allowed: str) -> _Parser:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise _WrongError("one of " + ", ".join(allowed))
        return text.lower()

    return parse


def _switch(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise _WrongError("true or false (or yes, no, on, off, 1, 0)")
    return text.lower() in _TRUE


def _tristate(text: str) -> str:
    if text.lower() in ("auto", "-1"):
        return "auto"
    try:
        return "on" if _switch(text) else "off"
    except _WrongError:
        raise _WrongError("auto, on or off") from None


def _whole(low: int, high: int) -> _Parser:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise _WrongError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _number(low: float, high: float, unit: str = "") -> _Parser:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # Underscores are Python syntax, not INI.
        if not low <= value <= high or "_" in text:
            raise _WrongError(f"a number{unit} from {low:g} to {high:g}")
        return value

    return parse


def _path(text: str) -> Path:
    if not text.startswith("/") or "\0" in text or "\n" in text:
        raise _WrongError("an absolute path")
    return Path(text)


def _optional_path(text: str) -> Path | None:
    # Existing files leave `tokenizer =` empty for weights that contain their tokenizer.
    return _path(text) if text else None


def _socket(text: str) -> Path:
    if len(text.encode()) > _MAX_SOCKET_BYTES:
        raise _WrongError(f"a path of at most {_MAX_SOCKET_BYTES} bytes, which is all that a Unix socket can have")
    return _path(text)


_SHA256 = _text("[0-9a-fA-F]{64}", "a SHA-256: 64 hexadecimal digits")
_NAME = _text(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}", "a name of letters, digits and . _ : / @ + -")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", name):
            raise _WrongError("names separated by commas")
    if len(set(names)) != len(names):
        raise _WrongError("each name once")
    return names


# Key in the file -> attribute of the options and parser. Times have no unit in the file; ours have.
_GEMMA: Mapping[str, tuple[str, _Parser]] = {
    "weights": ("weights", _path),
    "default_model": ("model", _NAME),
    "tokenizer": ("tokenizer", _optional_path),
    "max_tokens": ("max_tokens", _whole(1, 131072)),
    "temperature": ("temperature", _number(0, 10)),
    "top_k": ("top_k", _whole(1, 1000)),
    "deterministic": ("deterministic", _switch),
    "num_threads": ("num_threads", _whole(0, 4096)),
    "seq_len": ("seq_len", _whole(16, 1048576)),
    "pin": ("pin", _tristate),
    "map": ("map", _tristate),
    "generation_timeout": ("total_s", _number(0.1, 86400, " of seconds")),
    "first_token_timeout": ("first_s", _number(0.1, 86400, " of seconds")),
    "token_timeout": ("between_s", _number(0.1, 86400, " of seconds")),
    "binary": ("binary", _path),
    "binary_sha256": ("binary_sha256", _SHA256),
    "weights_sha256": ("weights_sha256", _SHA256),
    "weight_format": ("weight_format", _choice(*WEIGHT_FORMATS)),
}
_DISPATCHER: Mapping[str, tuple[str, _Parser]] = {
    "gemma_enabled": ("gemma_enabled", _switch),
    "fallback_timeout": ("fallback_timeout_s", _number(0.1, 86400, " of seconds")),
    "fallback_order": ("fallback_order", _names),
    "fallback_hosts": ("fallback_hosts", _names),
    "mode": ("mode", _choice(*MODES)),
    "retries": ("retries", _whole(0, 10)),
    "reconnect_wait": ("reconnect_wait_s", _number(30, 60, " of seconds")),
    "breaker_failures": ("breaker_failures", _whole(1, 1000)),
    "breaker_open": ("breaker_open_s", _number(0.1, 3600, " of seconds")),
}
_WORKER: Mapping[str, tuple[str, _Parser]] = {
    "unix_socket": ("unix_socket", _socket),
    "max_clients": ("clients", _whole(1, 1000)),
    "queue_limit": ("queue", _whole(1, 10000)),
    "client_limit": ("per_client", _whole(1, 1000)),
    "slots": ("slots", _whole(1, 64)),
    "max_line_bytes": ("max_line_bytes", _whole(1024, 64 << 20)),
    "send_timeout": ("send_timeout_s", _number(0.1, 600, " of seconds")),
    "stop_grace": ("stop_grace_s", _number(0, 600, " of seconds")),
}
_SECTIONS = {"gemma_cpp": _GEMMA, "dispatcher": _DISPATCHER, "gemma_worker": _WORKER}
# A fallback's section, as in existing files. A key in a separate file stays out of backups of the configuration.
_ENDPOINT_KEYS = ("endpoint", "default_model", "model", "api_key", "api_key_file", "timeout")


def keys() -> dict[str, list[str]]:
    """All sections and keys that are read, for the documentation and the role's template."""
    return {section: list(table) for section, table in _SECTIONS.items()}


class _Reader:
    def __init__(self, path: Path, sections: dict[str, Section]) -> None:
        self._path = path
        self._sections = sections
        self._warnings: list[Note] = []
        self._errors: list[Note] = []

    def settings(self) -> tuple[Settings, list[Note], list[Note]]:
        gemma = self._values("gemma_cpp")
        deadlines = replace(DEFAULT_DEADLINES, **_taken(gemma, Deadlines))
        dispatcher = self._values("dispatcher")
        worker = self._values("gemma_worker")
        limits = Limits(**_taken(worker, Limits))
        order = dispatcher.pop("fallback_order", ())
        hosts = frozenset(name.lower().strip("[]") for name in dispatcher.pop("fallback_hosts", ()))
        endpoints = [self._endpoint(name, hosts) for name in order]
        for title, section in self._sections.items():
            if title not in _SECTIONS and title not in order:
                self._warn(section.line, f"the section [{title}] is not read here")
        settings = Settings(
            replace(DEFAULT_GEMMA, **gemma),
            replace(deadlines, first_s=min(deadlines.first_s or deadlines.total_s, deadlines.total_s)),
            DispatcherSettings(fallback=tuple(filter(None, endpoints)), **dispatcher),
            WorkerSettings(limits=limits, **worker),
        )
        self._together(settings)
        by_line = sorted(self._warnings, key=lambda note: note.line)
        return settings, by_line, sorted(self._errors, key=lambda note: note.line)

    def _warn(self, line: int, text: str) -> None:
        self._warnings.append(Note(self._path, line, text))

    def _error(self, line: int, text: str) -> None:
        self._errors.append(Note(self._path, line, text))

    def _values(self, title: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        table = _SECTIONS[title]
        section = self._sections.get(title, Section(0, {}))
        for key, entry in section.entries.items():
            if key not in table:
                self._warn(entry.line, _unknown(title, key, table))
                continue
            attribute, parse = table[key]
            value = self._parsed(key, entry, parse)
            if value is not None:
                values[attribute] = value
        return values

    def _parsed(self, key: str, entry: Entry, parse: _Parser) -> Any:
        try:
            return parse(entry.value)
        except _WrongError as expected:
            # Where a file with a key belongs, the key itself may stand.
            found = "something else" if key == "api_key_file" else repr(entry.value[:60])
            self._error(entry.line, f"{key}: expected {expected}, found {found}")
            return None

    def _line(self, title: str, key: str) -> int:
        section = self._sections.get(title)
        if section is None:
            return 1
        entry = section.entries.get(key)
        return section.line if entry is None else entry.line

    def _together(self, settings: Settings) -> None:
        """Check values that are valid individually and conflict with each other."""
        gemma, dispatcher = settings.gemma, settings.dispatcher
        if gemma.max_tokens >= gemma.seq_len:
            self._error(
                self._line("gemma_cpp", "max_tokens"),
                f"max_tokens: expected less than seq_len ({gemma.seq_len}), which holds the prompt as well, "
                f"found {gemma.max_tokens}",
            )
        if dispatcher.mode == "force_fallback" and not dispatcher.fallback and not self._errors:
            self._error(
                self._line("dispatcher", "mode"),
                "mode: force_fallback needs a fallback; name one in fallback_order, or use smart or force_local",
            )
        if not dispatcher.gemma_enabled and not dispatcher.fallback and not self._errors:
            self._error(
                self._line("dispatcher", "gemma_enabled"),
                "gemma_enabled: false leaves no engine to answer; name a fallback in fallback_order",
            )
        if not dispatcher.gemma_enabled and dispatcher.mode == "force_local":
            self._error(
                self._line("dispatcher", "mode"),
                "mode: force_local needs the local engine, but gemma_enabled is false; change one of the two",
            )

    def _endpoint(self, name: str, hosts: frozenset[str]) -> Fallback | None:
        if name == OWN_ENGINE:
            line = self._line("dispatcher", "fallback_order")
            self._error(line, f"fallback_order: {name} is what status and log call the worker's own engine; rename it")
            return None
        section = self._sections.get(name)
        if section is None:
            self._error(
                self._line("dispatcher", "fallback_order"),
                f"fallback_order: {name!r} needs a section [{name}] with `endpoint = http://...`; "
                "leave fallback_order empty to keep every prompt on this machine",
            )
            return None
        entries = section.entries
        for key, entry in entries.items():
            if key not in _ENDPOINT_KEYS:
                self._warn(entry.line, _unknown(name, key, _ENDPOINT_KEYS))
        url = self._url(name, section, hosts)
        api_key = self._api_key(entries)
        if url is None:
            return None
        if api_key and url.startswith("http://") and not is_loopback(parse(url, "endpoint").host):
            line = entries["api_key" if "api_key" in entries else "api_key_file"].line
            self._error(line, "an API key goes over https, or to this machine; the endpoint is http elsewhere")
        model = entries.get("default_model") or entries.get("model")
        timeout = entries.get("timeout")
        endpoint = EndpointOptions(
            url,
            model=self._parsed("default_model", model, _NAME) if model and model.value else None,
            api_key=api_key,
            allowed_hosts=hosts,
        )
        seconds = self._parsed("timeout", timeout, _number(0.1, 86400, " of seconds")) if timeout else None
        return Fallback(name, endpoint, seconds)

    def _url(self, name: str, section: Section, hosts: frozenset[str]) -> str | None:
        entry = section.entries.get("endpoint")
        line = section.line if entry is None else entry.line
        text = "" if entry is None else entry.value
        try:
            url = server(text, f"[{name}] endpoint")
        except UsageError as error:
            more = "; use api_key_file" if "@" in text else ""
            self._error(line, f"{error}{more}")
            return None
        host = parse(url, "endpoint").host
        if not is_loopback(host) and host not in hosts:
            self._error(
                line,
                f"[{name}] endpoint: {host} is another machine, and prompts go there only when fallback_hosts in "
                f"[dispatcher] names it; add `fallback_hosts = {host}`, or take {name} out of fallback_order",
            )
            return None
        return url

    def _api_key(self, entries: Mapping[str, Entry]) -> str | None:
        inline, file = entries.get("api_key"), entries.get("api_key_file")
        if inline and inline.value and file and file.value:
            self._error(file.line, "api_key_file: api_key is set as well; keep one of the two")
            return None
        if inline and inline.value:
            if self._path.stat().st_mode & stat.S_IROTH:
                self._warn(inline.line, f"api_key: everybody can read {self._path}; use api_key_file, or chmod o-r")
            if not is_key(inline.value):
                self._error(inline.line, "api_key: expected one key of printable ASCII characters without blanks")
                return None
            remember(inline.value)
            return inline.value
        if file is None or not file.value:
            return None
        path: Path | None = self._parsed("api_key_file", file, _path)
        if path is None:
            return None
        try:
            with path.open(encoding="ascii") as stream:
                key = stream.read(4097).strip()
            if path.stat().st_mode & stat.S_IROTH:
                self._warn(file.line, f"api_key_file: everybody can read {path}; chmod o-r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not ASCII"
            self._error(file.line, f"api_key_file: {path} cannot be read: {reason}")
            return None
        if not is_key(key):
            self._error(file.line, f"api_key_file: expected one key of printable characters in {path}")
            return None
        remember(key)
        return key


def _taken(values: dict[str, Any], options: Any) -> dict[str, Any]:
    """Remove the fields of `options` from `values`, and return them."""
    return {one.name: values.pop(one.name) for one in fields(options) if one.name in values}


def _unknown(title: str, key: str, known: Any) -> str:
    import difflib

    if title == "gemma_worker" and key in ("host", "port"):
        return f"{key} is not read: the worker listens on a Unix socket and never on TCP"
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"the key {key} is not read in [{title}]" + (f"; did you mean {near[0]}?" if near else "")
