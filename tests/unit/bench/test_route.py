"""The environment's proxies and certificates: used as they are meant, or named and refused, and never a traceback."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub import Answer, Asked, Stub
from trialbench.cli import main
from trialbench.errors import ServerError, TrialbenchError, UsageError
from trialbench.hub.registry import image_digest
from trialbench.hub.route import Route, is_direct, proxy_for

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir", "request_method")
PASSWORD = "pr0xy-s3cret"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Proxy(Stub):
    """A proxy that has nothing of what it is asked for."""

    status = 404

    def answer(self, asked: Asked) -> Answer:
        return Answer(self.status)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        yield server


DIRECT = [
    # (NO_PROXY, URL, whether it is asked directly)
    ("", "http://hub.example", False),
    ("*", "http://hub.example", True),
    ("other, *", "http://hub.example", True),
    ("hub.example", "http://hub.example", True),
    ("HUB.Example", "http://hub.example", True),
    ("example", "http://hub.example", True),
    (".example", "http://hub.example", True),
    ("*.example", "http://hub.example", True),
    ("ample", "http://hub.example", False),
    ("hub.example.", "http://hub.example", True),
    ("hub.example", "http://hub.example.", True),
    ("a,b  hub.example", "http://hub.example", True),
    ("hub.example:80", "http://hub.example", True),
    ("hub.example:443", "https://hub.example", True),
    ("hub.example:8080", "http://hub.example", False),
    ("hub.example:99999", "http://hub.example", False),
    ("http://hub.example", "http://hub.example", True),
    ("http://hub.example", "https://hub.example", False),
    ("all://hub.example", "https://hub.example", True),
    ("localhost", "http://localhost:8080", True),
    ("127.0.0.1", "http://127.0.0.1:8080", True),
    ("127.0.0.0/8", "http://127.0.0.1:8080", True),
    ("127.0.0.1/8", "http://127.3.0.1:8080", True),
    ("10.0.0.0/8,fd00::/8", "http://127.0.0.1:8080", False),
    ("0.0.1", "http://127.0.0.1", False),
    ("::1", "http://[::1]:8080", True),
    ("[::1]", "http://[::1]:8080", True),
    ("[::1]:8080", "http://[::1]:8080", True),
    ("[::1]:80", "http://[::1]:8080", False),
    ("0:0:0:0:0:0:0:1", "http://[::1]", True),
    ("fd00::/8", "http://[fd12::5]", True),
    ("[fd00::]/8", "http://[fd12::5]", True),
    ("fe80::/10", "http://[fd12::5]", False),
    ("fd00::/999", "http://[fd12::5]", False),
    ("[::1,]::1[,:,::,//,/8,*:,%,\x00,fd00::/8/8", "http://[::1]", False),
]


@pytest.mark.parametrize(("no_proxy", "url", "direct"), DIRECT)
def test_what_goes_around_the_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, direct: bool) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    if "\x00" not in no_proxy:
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert (proxy_for(httpx.URL(url)) is None) is direct
    parts = httpx.URL(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    assert is_direct(parts.scheme, parts.host, port, no_proxy) is direct


@given(
    st.text(st.sampled_from("[]:/.*, 01fae%@-"), max_size=30) | st.text(max_size=10),
    st.sampled_from(["a.b", "127.0.0.1", "::1"]),
)
def test_no_list_ends_in_an_error(no_proxy: str, host: str) -> None:
    assert is_direct("http", host, 80, no_proxy) in (True, False)


@pytest.mark.parametrize(
    ("environment", "url", "found"),
    [
        ({"HTTP_PROXY": "http://a:1"}, "http://hub", "http://a:1"),
        ({"HTTP_PROXY": "http://a:1"}, "https://hub", None),
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:2"}, "https://hub", "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:2"}, "http://hub", "http://b:2"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}, "https://hub", "http://b:2"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": " "}, "https://hub", None),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": ""}, "https://hub", None),
        ({"HTTPS_PROXY": "a:1\n"}, "https://hub", "http://a:1"),
        ({"HTTPS_PROXY": "HTTPS://A"}, "https://hub", "https://a"),
        ({"HTTPS_PROXY": "http://[::1]:3128/"}, "https://hub", "http://[::1]:3128"),
        ({"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, "http://hub", None),
    ],
)
def test_which_proxy_serves(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, found: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = proxy_for(httpx.URL(url))
    assert (None if chosen is None else str(chosen.url)) == found


def test_its_password_may_have_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:p%40/s@s%2F#1@proxy:1")
    chosen = proxy_for(httpx.URL("http://hub"))
    assert chosen is not None
    assert chosen.raw_auth == (b"me", b"p@/s@s/#1")
    assert str(chosen.url) == "http://proxy:1"


BAD_PROXIES = [
    (f"socks5://me:{PASSWORD}@127.0.0.1:1080", "expected an http:// or https:// proxy, found SOCKS"),
    ("SOCKS5H://127.0.0.1:1080", "expected an http:// or https:// proxy, found SOCKS"),
    ("socks4://127.0.0.1", "expected an http:// or https:// proxy, found SOCKS"),
    (f"ftp://me:{PASSWORD}@proxy:3128", "expected an http:// or https:// proxy, found ftp://"),
    ("://proxy", "expected an http:// or https:// proxy, found no http:// or https:// at its beginning"),
    ("http://", "expected an http:// or https:// proxy, found no host"),
    (f"http://me:{PASSWORD}@:3128", "expected an http:// or https:// proxy, found no host"),
    (f"http://me:{PASSWORD}@proxy:99999", "found a port that is not a number"),
    (f"http://proxy:{PASSWORD}", "found a port that is not a number"),
    ("http://[::1", "found brackets without an IPv6 address"),
    ("http://pr\u00f6xy", "found a character that a URL can't contain"),
    ("http://pro xy:1", "found a character that a URL can't contain"),
]


@pytest.mark.parametrize(("value", "found"), BAD_PROXIES)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_none_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    name: str,
    value: str,
    found: str,
) -> None:
    """By fetch and by pin, hub and registry; where no request needs it, it does not matter."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    hub = ["--repo", "a/b", "--include", "*"]
    assert main(["pin", *hub, "--out", str(tmp_path / "pins.yml")]) == 2
    assert main(["fetch", *hub, "--revision", "0" * 40, "--dest", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.count(f"trialbench: {name}: ") == shown.count(found) == 2
    assert PASSWORD not in shown
    with pytest.raises(UsageError, match=name):
        image_digest("127.0.0.1:1/a/b")
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    with pytest.raises(ServerError, match="does not answer"):
        image_digest("127.0.0.1:1/a/b")


@pytest.mark.parametrize("user", ["", f"me:{PASSWORD}@"])
def test_a_proxy_is_asked(monkeypatch: pytest.MonkeyPatch, proxy: Proxy, user: str, tmp_path: Any) -> None:
    monkeypatch.setenv("http_proxy", f"http://{user}{proxy.place}")
    monkeypatch.setenv("https_proxy", f"{user}{proxy.place}")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert main(["pin", "--repo", "a/b", "--include", "*", "--out", str(tmp_path / "pins.yml")]) == 4
    with pytest.raises(ServerError, match="does not answer") as caught:
        image_digest("reg.invalid/a/b")
    assert PASSWORD not in str(caught.value)
    basic = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}" if user else None
    direct, tunnel = proxy.asked
    path = direct.path.partition("?")[0]
    assert (direct.method, path) == ("GET", "http://hub.invalid/api/models/a/b/revision/main")
    assert (tunnel.method, tunnel.path) == ("CONNECT", "reg.invalid:443")
    assert [one.headers.get("Proxy-Authorization") for one in proxy.asked] == [basic, basic]


@pytest.mark.parametrize("status", [403, 407, 502, None], ids=["403", "407", "502", "nobody there"])
@pytest.mark.parametrize(
    ("variable", "url"), [("HTTPS_PROXY", "https://hub.invalid"), ("all_proxy", "http://hub.invalid")]
)
def test_a_proxy_that_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    proxy: Proxy,
    tmp_path: Any,
    dead_url: str,
    variable: str,
    url: str,
    status: int | None,
) -> None:
    """With its variable and without its password; other answers to a plain request may be those of the hub."""
    place = dead_url.removeprefix("http://") if status is None else proxy.place
    proxy.status = status or 0
    monkeypatch.setenv(variable, f"http://me:{PASSWORD}@{place}")
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert main(["pin", "--repo", "a/b", "--include", "*", "--out", str(tmp_path / "pins.yml")]) == 4
    shown = capsys.readouterr().err
    if variable == "HTTPS_PROXY":
        with pytest.raises(ServerError, match="does not answer") as caught:
            image_digest("reg.invalid/a/b")
        shown += str(caught.value)
    if variable == "HTTPS_PROXY" or status in (407, None):
        assert shown.count(f"(by the proxy http://{place} of {variable})") == (2 if variable == "HTTPS_PROXY" else 1)
        assert str(status or "refused") in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, name: str) -> None:
    monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(UsageError, match=f"{name}: expected a .*none"):
        image_digest("reg.invalid/a/b")
    # A registry without TLS needs none.
    with pytest.raises(ServerError, match="does not answer"):
        image_digest("127.0.0.1:1/a/b")
    (tmp_path / "none").write_text("no certificate", encoding="utf-8")
    with pytest.raises(TrialbenchError, match=name):
        image_digest("reg.invalid/a/b")


def test_no_step_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []

    def answer(_self: object, request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with httpx.Client(transport=Route(), trust_env=False) as client:
        client.get("http://hub", timeout=None)
        client.get("http://hub", timeout=3.0)
    assert [set(one.values()) for one in seen] == [{30.0}, {3.0}]


def test_the_environment_is_read_for_each_request(monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    """One client serves the whole process."""
    with httpx.Client(transport=Route(), trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            client.get("http://127.0.0.1:1")
        monkeypatch.setitem(os.environ, "http_proxy", proxy.place)
        assert client.get("http://127.0.0.1:1").status_code == 404
