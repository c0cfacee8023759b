"""fazai.conf: what is read, what warns, what fails, and on which line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from trialbench.config import fazai as config
from trialbench.config.ini import parse_ini, read_ini
from trialbench.config.settings import Limits, Settings
from trialbench.engines.contract import Deadlines
from trialbench.engines.gemma_cpp import GemmaOptions
from trialbench.errors import UsageError
from trialbench.urls import is_loopback
from trialbench.worker import build


def conf(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "fazai.conf"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_an_empty_file_gives_the_documented_defaults(tmp_path: Path) -> None:
    settings_, warnings = config.load(conf(tmp_path, ""))
    assert settings_ == Settings()
    assert warnings == []
    assert str(settings_.gemma.weights) == "/opt/fazai/models/gemma/2.0-2b-it-sfp.sbs"
    assert settings_.gemma.model == "gemma2-2b-it"
    assert settings_.deadlines == Deadlines(first_s=20, between_s=20, total_s=60)
    assert (settings_.dispatcher.gemma_enabled, settings_.dispatcher.fallback_timeout_s) == (True, 30)
    assert (settings_.dispatcher.fallback, settings_.dispatcher.mode) == ((), "smart")
    assert str(settings_.worker.unix_socket) == "/run/fazai/gemma.sock"
    assert settings_.gemma.bits is None


FULL = """\
# the whole of it
[gemma_cpp]
weights = /w/model.sbs
default_model = gemma3-1b
tokenizer =
max_tokens = 128
temperature: 0.2
top_k = 40
deterministic = yes
num_threads = 4
seq_len = 4096
pin = -1
map = on
generation_timeout = 90
first_token_timeout = 5
token_timeout = 2.5
binary = /w/gemma
binary_sha256 = {a}
weights_sha256 = {b}
weight_format = sfp

[dispatcher]
gemma_enabled = True
fallback_timeout = 12
fallback_order = lan, here
fallback_hosts = gpu.lan
mode = SMART
retries = 0
reconnect_wait = 45
breaker_failures = 5
breaker_open = 10

[gemma_worker]
unix_socket = /run/x/y.sock
slots = 2

[lan]
endpoint = http://gpu.lan:8080/v1
default_model = big

[here]
endpoint = http://127.0.0.1:11434
timeout = 7
""".format(a="a" * 64, b="b" * 64)


def test_every_key_is_read(tmp_path: Path) -> None:
    settings_, warnings = config.load(conf(tmp_path, FULL))
    assert warnings == []
    gemma, dispatcher = settings_.gemma, settings_.dispatcher
    assert gemma == GemmaOptions(
        weights=Path("/w/model.sbs"),
        model="gemma3-1b",
        tokenizer=None,
        max_tokens=128,
        temperature=0.2,
        top_k=40,
        deterministic=True,
        num_threads=4,
        seq_len=4096,
        pin="auto",
        map="on",
        binary=Path("/w/gemma"),
        binary_sha256="a" * 64,
        weights_sha256="b" * 64,
        weight_format="sfp",
    )
    assert gemma.bits == 8
    assert settings_.deadlines == Deadlines(first_s=5, between_s=2.5, total_s=90)
    assert [(one.name, one.endpoint.url, one.endpoint.model, one.timeout_s) for one in dispatcher.fallback] == [
        ("lan", "http://gpu.lan:8080", "big", None),
        ("here", "http://127.0.0.1:11434", None, 7.0),
    ]
    built = build.dispatcher(dispatcher, None, log=lambda event, fields: None)
    assert [one.limit_s for one in built.router.fallbacks] == [None, 7.0]
    assert (dispatcher.mode, dispatcher.retries, dispatcher.breaker_failures) == ("smart", 0, 5)
    assert settings_.worker.unix_socket == Path("/run/x/y.sock")
    assert settings_.worker.limits == Limits(slots=2)


def test_the_documented_keys_are_the_spec_s_and_more() -> None:
    wanted = "weights default_model tokenizer max_tokens temperature top_k deterministic num_threads seq_len pin map"
    assert {*wanted.split(), "generation_timeout"} <= set(config.keys()["gemma_cpp"])
    assert {"gemma_enabled", "fallback_timeout", "fallback_order", "mode"} <= set(config.keys()["dispatcher"])


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("[gemma_cpp]\nmax_tokens = many", 2, "max_tokens: expected a whole number from 1 to 131072, found 'many'"),
        ("[gemma_cpp]\n\nmax_tokens = 0", 3, "from 1 to 131072, found '0'"),
        ("[gemma_cpp]\nmax_tokens = 9000", 2, "expected less than seq_len (8192)"),
        ("[gemma_cpp]\nseq_len = 100", 1, "expected less than seq_len (100), which holds the prompt as well"),
        ("[gemma_cpp]\ntemperature = nan", 2, "a number from 0 to 10"),
        ("[gemma_cpp]\ntemperature = 1_0", 2, "a number from 0 to 10"),
        ("[gemma_cpp]\ndeterministic = maybe", 2, "true or false (or yes, no, on, off, 1, 0)"),
        ("[gemma_cpp]\npin = maybe", 2, "auto, on or off"),
        ("[gemma_cpp]\nweights = model.sbs", 2, "weights: expected an absolute path, found 'model.sbs'"),
        ("[gemma_cpp]\nweight_format = q4", 2, "one of f32, bf16, sfp, i8, nuq"),
        ("[gemma_cpp]\nbinary_sha256 = ABC", 2, "64 hexadecimal digits"),
        ("[gemma_cpp]\ndefault_model = a b", 2, "default_model: expected a name"),
        ("[gemma_cpp]\ngeneration_timeout = 0", 2, "a number of seconds from 0.1 to 86400"),
        ("[dispatcher]\nmode = clever", 2, "mode: expected one of smart, force_local, force_fallback, found 'clever'"),
        ("[dispatcher]\nmode = force_fallback", 2, "force_fallback needs a fallback"),
        ("[dispatcher]\ngemma_enabled = off", 2, "leaves no engine to answer"),
        ("[dispatcher]\nreconnect_wait = 5", 2, "from 30 to 60"),
        ("[dispatcher]\nfallback_order = a b", 2, "names separated by commas"),
        ("[dispatcher]\nfallback_order = a, a\n[a]\nendpoint=http://[::1]", 2, "each name once"),
        ("[dispatcher]\nfallback_order = local\n[local]\nendpoint = http://[::1]", 2, "the worker's own engine"),
        ("[dispatcher]\nfallback_order = openai", 2, "needs a section [openai]"),
        ("[dispatcher]\nfallback_order = a\n[a]\nmodel = x", 3, "[a] endpoint: expected http://HOST:PORT"),
        ("[dispatcher]\nfallback_order = a\n[a]\nendpoint = ftp://localhost", 4, "expected http://HOST:PORT"),
        ("[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://localhost:99999", 4, "expected http://HOST:PORT"),
        (
            "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://u:p@localhost",
            4,
            "found one with a user or password",
        ),
        ("[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://localhost:0", 4, "expected http://HOST:PORT"),
        ("[dispatcher]\nfallback_order = a\n[a]\nendpoint = https://api.example.com/v1", 4, "is another machine"),
        ("[gemma_worker]\nunix_socket = /" + "x" * 110, 2, "at most 107 bytes"),
    ],
)
def test_wrong_values_fail_with_their_line(tmp_path: Path, text: str, line: int, found: str) -> None:
    path = conf(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        config.load(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert found in str(caught.value)
    assert caught.value.exit_code == 2


def test_force_local_without_a_local_engine(tmp_path: Path) -> None:
    text = "[dispatcher]\ngemma_enabled=0\nmode=force_local\nfallback_order=a\n[a]\nendpoint=http://127.0.0.1:1"
    with pytest.raises(UsageError, match=r":3: mode: force_local needs the local engine"):
        config.load(conf(tmp_path, text))


def test_all_errors_are_told_at_once_in_order(tmp_path: Path) -> None:
    path = conf(tmp_path, "[dispatcher]\nmode = x\n[gemma_cpp]\ntop_k = 0\npin = x\n")
    with pytest.raises(UsageError) as caught:
        config.load(path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{path}:{n}" for n in (2, 4, 5)]


def test_unknown_keys_and_sections_warn(tmp_path: Path) -> None:
    text = "[gemma_cpp]\nmax_token = 3\nmultiturn = 1\n[gemma_worker]\nport = 5556\n[qdrant]\nhost = x\n"
    text += "[dispatcher]\nfallback_order = a\n[a]\nendpoint = http://localhost:1\nmodels = x, y\n"
    settings_, warnings = config.load(conf(tmp_path, text))
    assert [(note.line, note.text) for note in warnings] == [
        (2, "the key max_token is not read in [gemma_cpp]; did you mean max_tokens?"),
        (3, "the key multiturn is not read in [gemma_cpp]"),
        (5, "port is not read: the worker listens on a Unix socket and never on TCP"),
        (6, "the section [qdrant] is not read here"),
        (12, "the key models is not read in [a]; did you mean model?"),
    ]
    assert settings_.dispatcher.fallback[0].endpoint.url == "http://localhost:1"


FALLBACK = "[dispatcher]\nfallback_order = a\nfallback_hosts = api.example.com\n[a]\nendpoint = {url}\n{key}\n"


def test_keys_of_an_endpoint(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret\n", encoding="ascii")
    secret.chmod(0o600)
    text = FALLBACK.format(url="https://api.example.com/v1", key=f"api_key_file = {secret}")
    settings_, warnings = config.load(conf(tmp_path, text))
    assert (settings_.dispatcher.fallback[0].endpoint.api_key, warnings) == ("s3cret", [])
    assert "s3cret" not in repr(settings_)

    secret.chmod(0o644)
    assert "chmod o-r" in config.load(conf(tmp_path, text))[1][0].text
    inline = FALLBACK.format(url="https://api.example.com/v1", key="api_key = abc")
    assert config.load(conf(tmp_path, inline))[0].dispatcher.fallback[0].endpoint.api_key == "abc"
    assert "use api_key_file" in config.load(conf(tmp_path, inline, 0o644))[1][0].text


@pytest.mark.parametrize(
    ("url", "key", "found"),
    [
        ("https://api.example.com", "api_key = a\napi_key_file = /x", "api_key is set as well"),
        ("https://api.example.com", "api_key_file = /nowhere/at/all", "cannot be read: No such file"),
        ("https://api.example.com", "api_key_file = {two}", "expected one key of printable characters"),
        ("https://api.example.com", "api_key_file = {bytes}", "cannot be read: not ASCII"),
        ("https://api.example.com", "api_key = a\n  b", "api_key: expected one key of printable"),
        ("https://api.example.com", "api_key = schlüssel", "api_key: expected one key of printable"),
        ("https://api.example.com", "api_key_file = here", "an absolute path"),
        ("http://api.example.com", "api_key = abc", "an API key goes over https"),
    ],
)
def test_wrong_keys(tmp_path: Path, url: str, key: str, found: str) -> None:
    (tmp_path / "two").write_text("a\nb\n", encoding="ascii")
    (tmp_path / "bytes").write_bytes(b"\xff")
    key = key.format(two=tmp_path / "two", bytes=tmp_path / "bytes")
    with pytest.raises(UsageError, match=found):
        config.load(conf(tmp_path, FALLBACK.format(url=url, key=key)))


def test_loopback_is_this_machine_and_nothing_else() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "localhost.evil.com", "10.0.0.1", "", "127.0.0.1.nip.io")))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1", "f:1: expected a \\[SECTION\\] before"),
        ("[a]\nno separator", "f:2: expected KEY = VALUE"),
        ("[a]\n= 3", "f:2: expected KEY = VALUE"),
        ("[a\nx=1", "f:1: expected \\[SECTION\\]"),
        ("[]\nx=1", "f:1: expected \\[SECTION\\]"),
        ("[a]\nx=1\n[a]", "f:3: the section \\[a\\] is defined twice"),
        ("[a]\nx=1\nX = 2", "f:3: x was set on line 2 already"),
    ],
)
def test_what_is_no_ini_file(text: str, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        parse_ini(text, "f")


def test_continued_lines_comments_and_separators() -> None:
    found = parse_ini("; c\n[s]\nKey : a = b\nlist =\n  one,\n  # not me\n  two\n\nlast=1", "f")["s"].entries
    assert (found["key"].value, found["list"].value, found["last"].line) == ("a = b", "one,\ntwo", 9)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_ini(tmp_path / "none.conf")
    path = tmp_path / "f"
    path.write_bytes(b"[a]\nx = \xe9\n")
    with pytest.raises(UsageError, match=r"f:2: expected UTF-8, found the byte 0xe9"):
        read_ini(path)
    path.write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(UsageError, match="at most 1 MiB"):
        read_ini(path)


@settings(max_examples=examples(200))
@given(st.text(alphabet="[]=:#; \n\tabmode\0\x85\u2028", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        sections = parse_ini(text, "f")
    except UsageError:
        with pytest.raises(UsageError, match=r"\Af:[0-9]+: "):
            parse_ini(text, "f")
        return
    lines = text.split("\n")
    for section in sections.values():
        for key, entry in section.entries.items():
            assert lines[entry.line - 1].strip().lower().startswith(key)
