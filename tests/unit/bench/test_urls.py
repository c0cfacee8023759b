"""A URL has one meaning or is refused: the same way by each verb and file, and never with a password of it shown."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench import hub
from trialbench.cli import main
from trialbench.config.fazai import check
from trialbench.engines.contract import Refused
from trialbench.engines.endpoint import EndpointOptions
from trialbench.engines.openai import OpenAICompatible
from trialbench.errors import UsageError
from trialbench.urls import parse, server
from trialbench.worker.stall import Relay

WORD = """
name: word
title: one word
messages: [{role: user, content: Say forward.}]
limits: {max_tokens: 20, temperature: 0.0, timeout_s: 5}
samples: {n: 1, warmup: 0}
"""
SECRET = "s3cret-in-a-url"

REFUSED = [
    # (URL, what is said about it)
    ("", "found nothing"),
    ("   ", "found nothing"),
    ("http://", "found no host"),
    ("http:///v1", "found no host"),
    ("http://:8080", "found no host"),
    ("http://:", "found no host"),
    ("127.0.0.1:8080", "found no http:// or https:// at its beginning"),
    ("localhost", "found no http:// or https:// at its beginning"),
    ("//127.0.0.1:8080", "found no http:// or https:// at its beginning"),
    ("http:/127.0.0.1", "found no http:// or https:// at its beginning"),
    ("http:127.0.0.1", "found no http:// or https:// at its beginning"),
    ("ftp://127.0.0.1", "found ftp://"),
    ("unix:///run/x.sock", "found unix://"),
    ("http://http://127.0.0.1", "found a colon and no port"),
    ("http://127.0.0.1:", "found a colon and no port"),
    ("http://127.0.0.1:0", "found a port that is not a number"),
    ("http://127.0.0.1:65536", "found a port that is not a number"),
    ("http://127.0.0.1:73728", "found a port that is not a number"),
    ("http://127.0.0.1:4294967376", "found a port that is not a number"),
    (f"http://127.0.0.1:{'9' * 5000}", "found a port that is not a number"),
    ("http://127.0.0.1:-80", "found a port that is not a number"),
    ("http://127.0.0.1:+80", "found a port that is not a number"),
    ("http://127.0.0.1:8_0", "found a port that is not a number"),
    ("http://127.0.0.1:80a", "found a port that is not a number"),
    ("http://127.0.0.1:$PORT", "found a port that is not a number"),
    ("http://127.0.0.1:\u0668\u0660", "found a character that a URL can't contain"),
    ("http://127.0.0.1:80:90", "found an IPv6 address without [ and ]"),
    ("http://::1:8080", "found an IPv6 address without [ and ]"),
    ("http://[::1", "found brackets without an IPv6 address"),
    ("http://[]:80", "found brackets without an IPv6 address"),
    ("http://[::1]80", "found brackets without an IPv6 address"),
    ("http://[127.0.0.1]:80", "found brackets without an IPv6 address"),
    ("http://[::1]]:80", "found brackets without an IPv6 address"),
    ("http://[fe80::1%25eth0]:80", "found an IPv6 address with a zone"),
    ("http://[::1]:99999", "found a port that is not a number"),
    ("http://256.1.1.1", "found a host that is not an IPv4 address"),
    ("http://127.1:80", "found a host that is not an IPv4 address"),
    ("http://2130706433", "found a host that is not an IPv4 address"),
    ("http://0x7f000001", "found a host that is not an IPv4 address"),
    ("http://010.0.0.1", "found a host that is not an IPv4 address"),
    ("http://.", "found a host that is neither a name"),
    ("http://a..b", "found a host that is neither a name"),
    ("http://-a", "found a host that is neither a name"),
    (f"http://{'a' * 64}.b", "found a host that is neither a name"),
    (f"http://{'a.' * 130}b", "found a host that is neither a name"),
    ("http://127.0.0.1%2f", "found a host that is neither a name"),
    ("http://h\u00f6st", "found a character that a URL can't contain"),
    ("http://my host", "found a character that a URL can't contain"),
    ("http://127.0.0.1\\v1", "found a character that a URL can't contain"),
    ("http://127.0.0.1/\x00", "found a character that a URL can't contain"),
    ("http://127.0.0.1/a\nb", "found a character that a URL can't contain"),
    ("http://127.0.0.1/\udcff", "found a character that a URL can't contain"),
    ("http://127.0.0.1/a/../b", "found a path that servers read differently"),
    ("http://127.0.0.1/%2e%2E/b", "found a path that servers read differently"),
    ("http://127.0.0.1/a%2f../b", "found a path that servers read differently"),
    ("http://127.0.0.1/v1/chat/completions/v1", "found more after /chat/completions"),
    ("http://127.0.0.1/%zz", "found a path that servers read differently"),
    (f"http://me:{SECRET}@127.0.0.1", "found one with a user or password"),
    (f"http://{SECRET}@127.0.0.1", "found one with a user or password"),
    ("http://@127.0.0.1", "found one with a user or password"),
    (f"http://me:{SECRET}/x@127.0.0.1", "found one with a user or password"),
    (f"http://127.0.0.1/{SECRET}@x", "found one with a user or password"),
    (f"me:{SECRET}@127.0.0.1:80", "found one with a user or password"),
    (f"http://me:{SECRET}%40127.0.0.1", "found a port that is not a number"),
    (f"http://127.0.0.1:{SECRET}", "found a port that is not a number"),
    (f"http://127.0.0.1/v1?key={SECRET}", "found one with a query"),
    (f"http://127.0.0.1?{SECRET}", "found one with a query"),
    ("http://127.0.0.1/v1?", "found one with a query"),
    (f"http://127.0.0.1#{SECRET}", "found one with a fragment"),
    ("http://127.0.0.1/chat/completions", "found /chat/completions without /v1"),
    ("http://127.0.0.1/v1/completions", "found another endpoint, /v1/completions"),
    ("http://127.0.0.1/v1/models/", "found another endpoint, /v1/models"),
]
ACCEPTED = [
    ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    (" http://127.0.0.1:8080\r\n", "http://127.0.0.1:8080"),
    ("HTTP://LocalHost:8080/V2", "http://localhost:8080/V2"),
    ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:8080/v1//", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:8080//v1", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:8080/api/v1", "http://127.0.0.1:8080/api"),
    ("http://127.0.0.1:8080/v1/v1", "http://127.0.0.1:8080/v1"),
    ("http://127.0.0.1:8080/v1/chat/completions", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:8080/api/v1/chat/completions/", "http://127.0.0.1:8080/api"),
    ("http://127.0.0.1:08080", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:65535", "http://127.0.0.1:65535"),
    ("https://box", "https://box"),
    ("https://my_box.example.:8443/a%20b", "https://my_box.example.:8443/a%20b"),
    ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ("http://[::FFFF:127.0.0.1]", "http://[::ffff:127.0.0.1]"),
]


@pytest.mark.parametrize(("url", "found"), REFUSED)
def test_what_names_no_server_is_refused_and_not_shown(url: str, found: str) -> None:
    with pytest.raises(UsageError) as caught:
        server(url, "--url")
    said = str(caught.value)
    assert said.startswith("--url: expected http://HOST:PORT")
    assert found in said
    assert SECRET not in said
    assert said.isprintable()
    with pytest.raises(Refused, match="bad_arguments: url: expected"):
        OpenAICompatible(EndpointOptions(url, allowed_hosts=frozenset({"127.0.0.1"})))


@pytest.mark.parametrize(("url", "named"), ACCEPTED)
def test_what_names_one_does_so_in_one_way(url: str, named: str) -> None:
    assert server(url, "--url") == named
    assert server(named, "--url") == named or named.endswith("/v1")
    assert str(httpx.URL(named)) == named


@given(st.text(st.sampled_from("htps:/[].@?#%v1 0aé\n\x00"), max_size=30))
def test_no_text_ends_in_another_error(text: str) -> None:
    for url in (text, f"http://{text}", f"http://127.0.0.1:{text}", f"http://[{text}]:1", f"http://a/{text}"):
        try:
            found = parse(url, "--url")
        except UsageError:
            continue
        read = httpx.URL(str(found))
        assert (read.scheme, read.host) == (found.scheme, found.host)
        assert read.port in (found.port, None)
        found.host.encode("idna")


VERBS = [
    ["run", "--workload", "{word}", "--url", "{url}", "--summary", "{tmp}/out.json"],
    ["run", "--workload", "{word}", "--url", "{url}", "--idle-wait-s", "1", "--summary", "{tmp}/out.json"],
    ["run", "--workload", "{word}", "--url", "{url}", "--engine", "openai", "--summary", "{tmp}/out.json"],
    ["run", "--workload", "{word}", "--url", "{url}", "--engine", "gemma-cpp", "--summary", "{tmp}/out.json"],
    ["oneshot", "--engine", "openai", "--url", "{url}", "--result", "{tmp}/out.json", "hi"],
    ["oneshot", "--engine", "llama-server", "--url", "{url}", "--result", "{tmp}/out.json", "hi"],
    ["worker", "--engine", "openai", "--url", "{url}"],
    ["proof", "cancel", "--engine", "openai", "--url", "{url}", "--json", "{tmp}/out.json"],
    ["session", "{session}"],
]


@pytest.mark.parametrize(
    "url",
    [f"http://me:{SECRET}@127.0.0.1:1", f"http://127.0.0.1:1/v1?key={SECRET}", "http://:1", "http://127.0.0.1:65537"],
)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb[:1] + verb[5:7]))
def test_every_verb_refuses_it(tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: list[str], url: str) -> None:
    word, session = tmp_path / "word.yml", tmp_path / "session.json"
    word.write_text(WORD, encoding="utf-8")
    entries = [{"id": "a", "workload": str(word), "n": 1}]
    session.write_text(json.dumps({"url": url, "out_dir": str(tmp_path), "segments": entries}), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    places = {"word": str(word), "session": str(session), "tmp": str(tmp_path), "url": url}
    assert main([one.format(**places) for one in verb]) == 2
    shown = capfd.readouterr()
    assert "expected http://HOST:PORT, found" in shown.err
    assert SECRET not in shown.out + shown.err
    assert "Traceback" not in shown.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "url", ["{url}/v1/", "{url}/v1/chat/completions", "{url}//v1", "HTTP://LOCALHOST:{port}", "{url}/api/v1"]
)
@pytest.mark.parametrize("verb", ["run", "oneshot"])
def test_what_is_accepted_is_what_is_asked(server: Any, acts: Any, tmp_path: Path, url: str, verb: str) -> None:
    (tmp_path / "word.yml").write_text(WORD, encoding="utf-8")
    given = url.format(url=server.url, port=server.url.rpartition(":")[2])
    if verb == "run":
        summary = tmp_path / "out.json"
        arguments = ["--workload", str(tmp_path / "word.yml"), "--summary", str(summary)]
        assert main(["run", "--url", given, *arguments]) == 0
        named = given.lower().partition("/v1")[0].rstrip("/")
        assert json.loads(summary.read_text(encoding="utf-8"))["url"] == named
    else:
        server.script = [acts.recorded("good.sse")]
        assert main(["oneshot", "--engine", "openai", "--url", given, "hi"]) == 0
    path = "/api/v1/chat/completions" if "api" in url else "/v1/chat/completions"
    assert [head.split()[1] for head in server.headers] == [path]


def test_an_ipv6_server_is_asked(tmp_path: Path) -> None:
    asked: list[bytes] = []
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        (tmp_path / "word.yml").write_text(WORD, encoding="utf-8")
        url = f"http://[::1]:{listener.getsockname()[1]}/v1"
        assert main(["run", "--workload", str(tmp_path / "word.yml"), "--url", url]) == 3
        thread.join()
    assert b"\r\nHost: [::1]:" in asked[0]


@pytest.mark.parametrize("url", [url for url, _ in REFUSED if url.strip() and "\n" not in url and url.isprintable()])
def test_a_configuration_refuses_it(tmp_path: Path, url: str) -> None:
    path = tmp_path / "fazai.conf"
    path.write_text(
        f"[dispatcher]\nfallback_order = a\nfallback_hosts = 127.0.0.1\n[a]\nendpoint = {url}\n", encoding="utf-8"
    )
    _, _, errors = check(path)
    assert [(error.line, error.text.startswith("[a] endpoint: expected http://HOST:PORT")) for error in errors] == [
        (5, True)
    ]
    assert SECRET not in str(errors)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://hub.example/", "http://hub.example"),
        (" https://hub.example/mirror/\n", "https://hub.example/mirror"),
        ("", None),
        (" ", None),
        (f"https://me:{SECRET}@hub.example", UsageError),
        (f"https://hub.example?token={SECRET}", UsageError),
        ("hub.example", UsageError),
        ("ftp://hub.example", UsageError),
        ("https://hub.example:77777", UsageError),
    ],
)
def test_the_hub_s_own(monkeypatch: pytest.MonkeyPatch, given: str, found: object) -> None:
    monkeypatch.setenv("HF_ENDPOINT", given)
    if found is not UsageError:
        assert hub.endpoint() == found
        return
    with pytest.raises(UsageError, match="HF_ENDPOINT: expected https://HOST, found") as caught:
        hub.endpoint()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"), [(" ", "https://"), ("http://[::1", "HF_ENDPOINT: expected https://HOST, found brackets")]
)
def test_the_hub_s_own_where_its_library_reads_it_too(given: str, said: str) -> None:
    """When it is imported, which happens once in a process."""
    code = "from trialbench import errors, hub\ntry: print(hub.api().endpoint)\nexcept errors.UsageError as e: print(e)"
    environment = {**os.environ, "HF_ENDPOINT": given}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=600
    )
    assert done.stdout.startswith(said)


def test_what_has_no_tls_says_so(tmp_path: Path) -> None:
    """Instead of asking port 80 of the same host."""
    with pytest.raises(UsageError, match="as the relay speaks no TLS, found https://"):
        Relay("https://127.0.0.1:1")
    (tmp_path / "word.yml").write_text(WORD, encoding="utf-8")
    session = {
        "url": "https://127.0.0.1:1",
        "out_dir": str(tmp_path),
        "segments": [{"id": "a", "workload": "word.yml", "n": 1}],
        "calibrate": {},
    }
    (tmp_path / "session.json").write_text(json.dumps(session), encoding="utf-8")
    assert main(["session", str(tmp_path / "session.json")]) == 2
