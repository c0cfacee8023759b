"""A key that can't stand in a header is refused before a library meets it, and no message shows one in any form."""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench import credentials
from trialbench.cli import main
from trialbench.config.fazai import check
from trialbench.credentials import environment_key, redact, remember
from trialbench.engines.failures import SERVER_ERROR, Failure
from trialbench.errors import TrialbenchError, UsageError
from trialbench.options import Parser
from trialbench.show.terminal import ended, line, say
from trialbench.worker.build import stderr_log

WORD = """
name: word
title: one word
messages: [{role: user, content: Say forward.}]
limits: {max_tokens: 20, temperature: 0.0, timeout_s: 5}
samples: {n: 2, warmup: 0}
contract: {words: [[forward, left, right]]}
"""
TOKEN = "hf_S3cretS3cretS3cret"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIALBENCH_API_KEY", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(credentials, "_remembered", set())


def test_the_line_end_that_a_file_gives_it_is_not_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_key() is None
    monkeypatch.setenv("TRIALBENCH_API_KEY", " \n")
    assert environment_key() is None
    monkeypatch.setenv("TRIALBENCH_API_KEY", "s3cret\r\n")
    assert environment_key() == "s3cret"


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("s3cret\nX-More: 1", "one that is a control character (number 7 of 16)"),
        ("s3cret two", "one that is a blank (number 7 of 10)"),
        ("s3cretü", "one that is not ASCII (number 7 of 7)"),
        ("\ufeffs3cret", "one that is not ASCII (number 1 of 7)"),
        ("s3cret\x7f", "one that is a control character (number 7 of 7)"),
        ("s3cret\udcff", "one that is not ASCII (number 7 of 7)"),
        ("s" * 5000, "5000 of them"),
    ],
)
@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("TRIALBENCH_API_KEY", ["oneshot", "--engine", "llama-server", "--url", "http://127.0.0.1:9", "hi"]),
        ("TRIALBENCH_API_KEY", ["run", "--workload", "{tmp}/word.yml", "--url", "http://127.0.0.1:9"]),
        ("HF_TOKEN", ["pin", "--repo", "a/b", "--include", "*", "--out", "{tmp}/pins.yml"]),
        ("HF_TOKEN", ["fetch", "--repo", "a/b", "--include", "*", "--dest", "{tmp}", "--revision", "0" * 40]),
    ],
)
def test_no_key_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    variable: str,
    arguments: list[str],
    key: str,
    found: str,
) -> None:
    (tmp_path / "word.yml").write_text(WORD, encoding="utf-8")
    monkeypatch.setenv(variable, key)
    assert main([one.replace("{tmp}", str(tmp_path)) for one in arguments]) == 2
    shown = capsys.readouterr()
    expected = f"{variable}: expected one key of printable ASCII characters without blanks, found {found}"
    assert shown.err == f"trialbench: {expected}\n"
    assert shown.out == ""


WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "repr of a repr": lambda text: repr(repr(text)),
    "JSON": json.dumps,
    "URL": lambda text: quote(text, safe=""),
    "path of a URL": quote,
    "form": quote_plus,
    "lower-case URL": lambda text: re.sub("%..", lambda one: one[0].lower(), quote(text, safe="")),
    "URL in a URL": lambda text: quote(quote(text, safe="")),
    "Basic": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "Basic of another user": lambda text: base64.b64encode(f"me2:{text}:x".encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(f"a{text}".encode()).decode(),
    "JSON of PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "JSON of PHP in JSON": lambda text: json.dumps(json.dumps(text).replace("/", "\\/")),
    "JSON for pages": lambda text: re.sub("[^A-Za-z0-9_-]", lambda one: f"\\u{ord(one[0]):04X}", text),
    "page with numbers": lambda text: re.sub("[^A-Za-z0-9_-]", lambda one: f"&#{ord(one[0])};", text),
    "page with other numbers": lambda text: re.sub("[^A-Za-z0-9_-]", lambda one: f"&#x{ord(one[0]):x};", text),
    "bytes": lambda text: "".join(f"\\x{ord(one):02x}" for one in text),
    "URL, each character": lambda text: "".join(f"%{ord(one):02X}" for one in text),
    "hexadecimal": lambda text: text.encode().hex(),
    "cut": lambda text: f"{text[:12]} (cut)",
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("secret", [TOKEN, "sk-+/='\"\\%?&~!S3cret", "k" * 4096])
def test_each_form_of_a_secret_is_masked(monkeypatch: pytest.MonkeyPatch, secret: str, form: str) -> None:
    written = WRITTEN[form](secret)
    monkeypatch.setenv("HF_TOKEN", f" {secret}\r\n")
    shown = redact(f"before {written}, {written} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert written not in shown
    assert "***" in shown
    # Not even a part of it; the ends belong to what is encoded together with it.
    assert not [place for place in range(4, len(written) - 11) if written[place : place + 8] in shown]


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60),
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
)
def test_no_encoding_gives_a_secret_away(secret: str, before: bytes, after: bytes) -> None:
    credentials._remembered.clear()
    remember(secret)
    for text in (
        secret,
        repr(secret),
        json.dumps(secret),
        quote(secret, safe=""),
        base64.b64encode(before + secret.encode() + after).decode(),
        base64.urlsafe_b64encode(before + secret.encode() + after).decode(),
    ):
        assert "***" in redact(text)
        assert secret not in redact(text)


@pytest.mark.parametrize(
    ("key", "text", "shown"),
    [
        # What servers are given that want no key stands in many messages.
        ("none", "limit: none", "limit: none"),
        ("EMPTY", "EMPTY reply", "EMPTY reply"),
        ("1234", "1234 tokens", "1234 tokens"),
        ("sk-1", "sk-1 or sk-12 or xsk-1", "*** or sk-12 or xsk-1"),
        ("s3cret", "the key 's3cret' is wrong", "the key '***' is wrong"),
    ],
)
def test_short_keys(monkeypatch: pytest.MonkeyPatch, key: str, text: str, shown: str) -> None:
    monkeypatch.setenv("TRIALBENCH_API_KEY", key)
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host/v1", "http://***@host/v1"),
        ("'http://me@host'", "'http://***@host'"),
        ("http://me:p@ss@host", "http://***@host"),
        ("http://me:p/w@host", "http://***@host"),
        ("http://me:p?w#x@host", "http://***@host"),
        ("see https://host/@x and a@b", "see https://host/@x and a@b"),
        ("git+https://host:8080/x@v1", "git+https://host:8080/x@v1"),
    ],
)
def test_users_of_urls(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://me:p4ss%2Fword1@proxy:3128", "me:p4ss%2Fword1@proxy"])
def test_the_password_of_a_proxy(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    basic = base64.b64encode(b"me:p4ss/word1").decode()
    assert redact(f"p4ss/word1 p4ss%2Fword1 Basic {basic}") in ("*** *** Basic ***==", "*** *** Basic ***Q==")


def test_every_exit_is_clean(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Terminal, traceback, log, command line, failures: each place where words leave."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    say(f"out {TOKEN}")

    def usage() -> int:
        raise TrialbenchError(f"the server says {TOKEN!r}")

    def bug() -> int:
        raise ValueError(f"Illegal header value b'Bearer {TOKEN}'")

    def stopped() -> int:
        raise KeyboardInterrupt

    assert [ended("x", act) for act in (usage, bug, stopped)] == [1, 1, 130]
    stderr_log("probe", {"error": f"Bearer {TOKEN}"})
    with pytest.raises(SystemExit):
        Parser(prog="x").parse_args([f"--hub-token={TOKEN}", "--hub=http://me:pw@host"])
    with pytest.raises(SystemExit):
        main(["workloads", "-", "--api-key", "sk-given-here", "--Token=t0ken-given-here"])
    shown = capfd.readouterr()
    assert "given-here" not in shown.err
    both = shown.out + shown.err
    assert TOKEN not in both
    assert "me:pw" not in both
    assert both.count("***") >= 6
    assert "this is a bug" in both
    assert json.loads(next(one for one in shown.err.splitlines() if '"probe"' in one))["error"] == "Bearer ***"
    assert Failure(SERVER_ERROR, f"HTTP 401: {TOKEN[:15]}").detail == "HTTP 401: ***"
    assert line(f"wrong key {TOKEN}", 20) == "wrong key ***"


def test_the_log_of_the_hub_s_library_is_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trialbench import hub

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.api()
    log = logging.getLogger("huggingface_hub")
    (handler,) = [one for one in log.handlers if isinstance(one, logging.StreamHandler)]
    monkeypatch.setattr(handler, "stream", sys.stderr)
    log.warning("Error while downloading %s", f"http://hub/?token={TOKEN}")
    assert capsys.readouterr().err.endswith("Error while downloading http://hub/?token=***\n")


@pytest.mark.parametrize(
    "text",
    [
        "[a]\n{key}\n",
        "{key}\n",
        "{key} = 1\n[a]\n".replace("{key} =", "api_key {key} ="),
        "[a]\n= {key}\n",
        "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://127.0.0.1:1\napi_key_file = {key}\n",
        "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://127.0.0.1:1\napi_key = {key}\n  more\n",
        "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://me:{key}@127.0.0.1:1\n",
        "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://127.0.0.1:1?key={key}\n",
        "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://127.0.0.1:{key}\n",
    ],
)
def test_a_key_in_the_wrong_place_of_a_file_is_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fazai.conf"
    path.write_text(text.replace("{key}", TOKEN), encoding="utf-8")
    try:
        said = "\n".join(str(note) for notes in check(path)[1:] for note in notes)
    except UsageError as error:
        said = str(error)
    assert "expected" in said
    assert TOKEN not in said


def test_a_key_of_a_file_is_known(tmp_path: Path) -> None:
    path = tmp_path / "fazai.conf"
    path.write_text(
        "[dispatcher]\nfallback_order = a, b\n[a]\nendpoint = http://127.0.0.1:1\napi_key = sk-inline-1\n"
        f"[b]\nendpoint = http://127.0.0.1:1\napi_key_file = {path}.key\n",
        encoding="utf-8",
    )
    path.with_name("fazai.conf.key").write_text("sk-in-a-file\n", encoding="utf-8")
    assert check(path)[2] == []
    assert redact("sk-inline-1 sk-in-a-file") == "*** ***"
