"""URLs that a person gives: of servers, hubs, registries and proxies. One set of rules for every verb and file.

Libraries differ in what they make of a doubtful URL: another port, another path, an error of their own. Here a URL has
one meaning or is refused. What is refused is not shown: a part of it may be a password.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote

from trialbench.errors import UsageError

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_NAME_CHARACTERS = 253
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:/-]|%[0-9A-Fa-f]{2})*")
_CHAT = "/chat/completions"
_ENDPOINTS = ("completions", "chat", "embeddings", "messages", "models", "responses")


@dataclass(frozen=True)
class Address:
    """A URL in parts: `scheme` and `host` in lower case, the host without brackets, `path` without a slash at its end.

    `port` None: the one of the scheme.
    """

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def origin(self) -> str:
        """`scheme://host[:port]`."""
        return f"{self.scheme}://{self.place}"

    @property
    def place(self) -> str:
        """`host[:port]`, as URLs write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.origin + self.path


def server(text: str, name: str) -> str:
    """The server that `text` names, as `http://HOST[:PORT][/PREFIX]`, less `/v1` or `/v1/chat/completions` at its end.

    Raises:
        UsageError: it names none; the error calls it `name` and does not show it.
    """
    expected = "http://HOST:PORT"
    address = parse(text, name, expected=expected)
    path = address.path.removesuffix(_CHAT)
    if path != address.path and path.rpartition("/")[2] != "v1":
        raise UsageError(f"{name}: expected {expected} or its /v1{_CHAT}, found {_CHAT} without /v1")
    last = path.rsplit("/", 2)
    if len(last) == 3 and last[1] == "v1" and last[2] in _ENDPOINTS:
        raise UsageError(f"{name}: expected {expected} or its /v1{_CHAT}, found another endpoint, /v1/{last[2]}")
    path = path.removesuffix("/v1").rstrip("/")
    if path.endswith(_CHAT):
        raise UsageError(f"{name}: expected {expected} or its /v1{_CHAT}, found more after {_CHAT}")
    return address.origin + path


def parse(
    text: str, name: str, *, expected: str = "http://HOST:PORT", schemes: tuple[str, ...] = ("http", "https")
) -> Address:
    """The parts of `text`.

    Raises:
        UsageError: it is no such URL; the error calls it `name` and says which part is wrong.
    """
    try:
        return _parse(text.strip(), schemes)
    except ValueError as found:
        raise UsageError(f"{name}: expected {expected}, found {found}") from None


def split_place(place: str) -> tuple[str, int | None]:
    """Host and port of `HOST[:PORT]`; the host in lower case and without brackets.

    Raises:
        ValueError: there is no host, or one of the two can't be; says which, without showing it.
    """
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("brackets without an IPv6 address")
        _check_ipv6(host)
        return host.lower(), _port(rest[1:]) if rest else None
    if place.count(":") > 1:
        raise ValueError("an IPv6 address without [ and ]")
    host, colon, port = place.partition(":")
    _check_host(host)
    return host.lower(), _port(port) if colon else None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine: a loopback address or the name localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _parse(text: str, schemes: tuple[str, ...]) -> Address:
    if "@" in text:
        raise ValueError("one with a user or password in it")
    if not text.isascii() or not text.isprintable() or re.search(r'[\\ "<>^`{|}]', text):
        raise ValueError("a character that a URL can't contain")
    scheme, separator, rest = text.partition("://")
    if not text or not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,20}", scheme):
        raise ValueError(f"no {' or '.join(one + '://' for one in schemes)} at its beginning" if text else "nothing")
    if scheme.lower() not in schemes:
        raise ValueError(f"{scheme.lower()}://")
    for mark, what in (("?", "a query"), ("#", "a fragment")):
        if mark in rest:
            raise ValueError(f"one with {what}: leave out everything from {mark} on")
    place, slash, path = rest.partition("/")
    host, port = split_place(place)
    path = re.sub("/+", "/", slash + path).rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(unquote(path).split("/")):
        raise ValueError("a path that servers read differently")
    return Address(scheme.lower(), host, port, path)


def _port(text: str) -> int:
    if not re.fullmatch("0{0,5}[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("a port that is not a number from 1 to 65535" if text else "a colon and no port")
    return int(text)


def _check_ipv6(host: str) -> None:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError("brackets without an IPv6 address") from None
    if address.scope_id is not None:
        raise ValueError("an IPv6 address with a zone")


def _check_host(host: str) -> None:
    if not host:
        raise ValueError("no host")
    labels = host.removesuffix(".").split(".")
    if len(host) > _NAME_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("a host that is neither a name nor an address")
    if _NUMBER.fullmatch(labels[-1]):
        # `127.1` and `0x7f000001` are addresses for some programs, and names for others.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("a host that is not an IPv4 address of four numbers") from None
