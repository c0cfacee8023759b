"""The way to hub and registry: the proxies and certificates that the environment names.

httpx reads the same variables, and ends in a traceback for a network in NO_PROXY or a proxy that it does not speak to,
even one that no request of ours would use. Here a variable is looked at when a request needs it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from urllib.parse import unquote

import httpx

from trialbench.errors import UsageError
from trialbench.urls import parse, split_place

_PORTS = {"http": 80, "https": 443}
_TIMEOUT_S = 30.0
# Proxy Authentication Required: only a proxy says so.
_PROXY_LOGIN = 407


class Route(httpx.BaseTransport):
    """A transport that takes the environment's proxy for each request, or none.

    Raises, with a request:
        UsageError: the proxy or the certificates it needs can't be used; names the variable and shows no password.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str | None, bool], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; no step of it takes longer than half a minute, whatever the caller allows."""
        steps = request.extensions.get("timeout", {})
        limits = {step: steps.get(step) or _TIMEOUT_S for step in ("connect", "read", "write", "pool")}
        request.extensions = {**request.extensions, "timeout": limits}
        proxy = proxy_for(request.url)
        tls = request.url.scheme == "https" or (proxy is not None and proxy.url.scheme == "https")
        # With what the client shows to the proxy: another password is another proxy.
        key = (None if proxy is None else f"{proxy.url} {proxy.raw_auth}", tls)
        if key not in self._open:
            verified = _verified() if tls else False
            if proxy is not None and isinstance(verified, ssl.SSLContext):
                proxy.ssl_context = verified if proxy.url.scheme == "https" else None
            self._open[key] = httpx.HTTPTransport(verify=verified, proxy=proxy, trust_env=False)
        if proxy is None:
            return self._open[key].handle_request(request)
        named = f"the proxy {proxy.url} of {_named(request.url.scheme)[0]}"
        try:
            reply = self._open[key].handle_request(request)
        except httpx.TransportError as error:
            raise type(error)(f"{error or type(error).__name__} (by {named})") from error
        if reply.status_code == _PROXY_LOGIN:
            reply.close()
            raise httpx.ProxyError(f"{reply.status_code} {reply.reason_phrase} (by {named})")
        return reply

    def close(self) -> None:
        """Close all connections."""
        for transport in self._open.values():
            transport.close()
        self._open.clear()


def proxy_for(url: httpx.URL) -> httpx.Proxy | None:
    """The proxy that `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY` names for `url`, unless `NO_PROXY` has its host.

    Raises:
        UsageError: the value can't be used.
    """
    port = url.port or _PORTS.get(url.scheme, 0)
    name, value = _named(url.scheme)
    if not value or is_direct(url.scheme, url.host, port, _variable("no_proxy")[1]):
        return None
    return _proxy(name, value)


def is_direct(scheme: str, host: str, port: int, no_proxy: str) -> bool:
    """Whether `no_proxy` names `host`: as a name or the end of one, an address, a network, with or without a port."""
    return any(_names(entry.lower(), scheme, host.lower().rstrip("."), port) for entry in re.split(r"[,\s]+", no_proxy))


def _named(scheme: str) -> tuple[str, str]:
    """The variable that names the proxy for URLs of `scheme`, and its value; two empty texts where none does."""
    found = (_variable(f"{kind}_proxy") for kind in (scheme, "all"))
    return next((one for one in found if one[1]), ("", ""))


def _variable(name: str) -> tuple[str, str]:
    """The name that is set and its value; lower case goes before upper case, as everywhere."""
    for one in (name, name.upper()):
        # A web server sets HTTP_PROXY to what a header of its client says.
        if one in os.environ and not (one == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
            return one, os.environ[one].strip()
    return name, ""


def _proxy(name: str, value: str) -> httpx.Proxy:
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    user, at, place = rest.rpartition("@")
    expected = "an http:// or https:// proxy"
    if scheme.lower().startswith("socks"):
        raise UsageError(
            f"{name}: expected {expected}, found SOCKS: set it to one, or add the host that is asked to NO_PROXY"
        )
    address = parse(f"{scheme}://{place}", name, expected=expected)
    account, _, password = user.partition(":")
    return httpx.Proxy(address.origin, auth=(unquote(account), unquote(password)) if at else None)


def _names(entry: str, scheme: str, host: str, port: int) -> bool:
    kind, separator, rest = entry.partition("://")
    if separator:
        if kind not in (scheme, "all"):
            return False
        entry = rest
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(host, entry)
    try:
        # An IPv6 address may have brackets there.
        named, wanted = (entry, None) if entry.count(":") > 1 and "[" not in entry else split_place(entry.lstrip("*."))
    except ValueError:
        return False
    if wanted not in (None, port):
        return False
    address, other = _address(host), _address(named)
    if address is not None or other is not None:
        return address == other
    named = named.rstrip(".")
    return host == named or host.endswith(f".{named}")


def _in_network(host: str, entry: str) -> bool:
    try:
        network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    address = _address(host)
    return address is not None and address in network


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _verified() -> ssl.SSLContext:
    """What servers are checked against.

    Raises:
        UsageError: SSL_CERT_FILE or SSL_CERT_DIR names nothing that can be used.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if file:
            return ssl.create_default_context(cafile=file)
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"SSL_CERT_FILE: expected a readable file of certificates, found {file!r}: {why}") from None
    if folder and not os.path.isdir(folder):
        raise UsageError(f"SSL_CERT_DIR: expected a folder of certificates, found {folder!r}")
    return ssl.create_default_context(capath=folder) if folder else httpx.create_ssl_context(trust_env=False)
