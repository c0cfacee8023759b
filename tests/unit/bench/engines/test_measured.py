"""Engines where a measurement has its client, on the command line, and in one table."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trialbench.cli import main
from trialbench.engines.contract import Label
from trialbench.engines.gemma_cpp import GemmaCpp
from trialbench.measure.engine_client import EngineClient, MixedSourcesError, label_text
from trialbench.workloads import Limits, Workload

Does = Callable[..., str]
GEMMA = ["oneshot", "--engine", "gemma-cpp", "--binary", "/x", "--weights", "/y", "x"]
# Nobody answers there.
SERVED = ["oneshot", "--engine", "llama-server", "--url", "http://127.0.0.1:9", "x"]


def workload(prompt: str, **request: Any) -> Workload:
    return Workload("short", [{"role": "user", "content": prompt}], Limits(max_tokens=8), request=request)


def ask(engine: GemmaCpp, prompt: str, **more: Any) -> Any:
    client = EngineClient(engine)
    body = client.encode(workload(prompt, **more.pop("request", {})), cache_prompt=False)
    return client.send(body, timeout_s=more.pop("timeout_s", 20.0), connect_timeout_s=1.0, **more)


def test_a_reply_as_a_sample(gemma: GemmaCpp) -> None:
    reply = ask(gemma, "one two", request={"top_k": 3})
    assert reply.error_class is None
    assert reply.finish_reason == "length"
    assert (reply.completion_tokens, reply.prompt_n) == (8, 2)
    assert reply.latency_ms > reply.ttft_ms > 0
    assert reply.server_ms is not None


@pytest.mark.parametrize(
    ("what", "error_class", "words"),
    [
        ({"abort": "alloc"}, "http_503", "allocation_failed: "),
        ({"garbage": True}, "bad_reply", "replacement_characters: "),
        ({"stall_after": 1}, "timeout", "timeout: not complete"),
    ],
)
def test_failures_as_samples(gemma: GemmaCpp, does: Does, what: dict[str, Any], error_class: str, words: str) -> None:
    reply = ask(gemma, does(**what), timeout_s=0.5 if "stall_after" in what else 20.0)
    assert reply.error_class == error_class
    assert reply.error_detail.startswith(words)
    assert reply.latency_ms is None


def test_an_empty_reply_is_judged_by_the_measurement(gemma: GemmaCpp, does: Does) -> None:
    reply = ask(gemma, does(empty=True))
    assert (reply.error_class, reply.content, reply.finish_reason) == (None, "", "stop")


def test_what_the_engine_refuses_is_a_failed_sample(gemma: GemmaCpp) -> None:
    reply = ask(gemma, "x", request={"grammar": "root ::= x"})
    assert reply.error_class == "http_400"
    assert "grammar" in reply.error_detail


def test_time_limit_and_signal_cut_off(gemma: GemmaCpp, does: Does) -> None:
    assert ask(gemma, does(stall_after=1), until_s=time.monotonic() + 0.3).error_class == "cut_off"
    client = EngineClient(gemma)
    body = client.encode(workload(does(stall_after=1)), cache_prompt=False)
    threading.Timer(0.3, client.interrupt, (0.05,)).start()
    assert client.send(body, timeout_s=20.0, connect_timeout_s=1.0).error_class == "cut_off"
    client.interrupt(0.0)
    client.close()


def test_sources_are_never_mixed(gemma: GemmaCpp) -> None:
    client = EngineClient(gemma)
    body = client.encode(workload("x"), cache_prompt=False)
    gemma.label = Label("openai_compatible")
    with pytest.raises(MixedSourcesError, match="expected replies of gemma_local, found one of openai_compatible"):
        client.send(body, timeout_s=20.0, connect_timeout_s=1.0)


def test_labels() -> None:
    assert label_text(Label("gemma_local", "m", 8)) == "m (gemma_local, 8 bit)"
    assert label_text(Label("llama_server")) == "unnamed (llama_server, bits unknown)"


@pytest.fixture
def options(stand_in: Path, weights: Path) -> list[str]:
    return ["--engine", "gemma-cpp", "--binary", str(stand_in), "--weights", str(weights)]


def test_run_and_one_table(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, summary = tmp_path / "w.yml", tmp_path / "s.json"
    file.write_text("name: short\nmessages: [{role: user, content: hello}]\nlimits: {max_tokens: 4}\nsamples: {n: 3}\n")
    more = ["--weight-format", "sfp", "--model", "g"]
    assert main(["run", *options, *more, "--workload", str(file), "--summary", str(summary)]) == 0
    capsys.readouterr()
    assert main(["engines", str(summary), str(summary)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["engine", "workload", "cache", "ok/sent"]
    assert lines[1].startswith("g (gemma_local, 8 bit)  short     off    3/3")
    assert lines[1] == lines[2]
    (tmp_path / "x.json").write_text("{}")
    assert main(["engines", str(tmp_path / "x.json")]) == 2
    assert "expected a summary of `trialbench run`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--workload", "nav"], "expected --url http://HOST:PORT or --engine"),
        (["run", "--workload", "nav", "--engine", "openai"], "expected --url"),
        (["run", "--workload", "nav", "--engine", "openai", "--stream"], "--stream"),
        (["run", "--workload", "nav", "--engine", "openai", "--omit", "x"], "--omit"),
        (
            [
                "run",
                "--workload",
                "nav",
                "--cache-prompt",
                "--engine",
                "gemma-cpp",
                "--binary",
                "/x",
                "--weights",
                "/y",
            ],
            "--cache-prompt: leave it out: gemma-cpp has no prompt cache",
        ),
        (["oneshot", "--engine", "gemma-cpp", "x"], "expected --binary FILE"),
        (["oneshot", "--engine", "gemma-cpp", "--binary", "/x", "x"], "expected --weights FILE"),
        (["oneshot", "--engine", "gemma-cpp", "--binary", "/x", "--weights", "/y", "--bits", "4", "x"], "--bits"),
        (["oneshot", "--engine", "openai", "--url", "http://example.org", "x"], "not_allowed"),
        (["oneshot", "--engine", "llama-server", "--url", "ftp://x", "x"], "expected http://HOST:PORT"),
        (
            ["oneshot", "--engine", "llama-server", "--url", "http://127.0.0.1:9/\x7f", "x"],
            "found a character that a URL can't contain",
        ),
        (["oneshot", "--engine", "openai"], "exactly one of PROMPT and --prompt-file"),
        ([*GEMMA, "--num-threads", "-3"], "num_threads: expected 0 to 4096, found -3"),
        ([*GEMMA, "--seq-len", "0"], "seq_len: expected 1 to 1048576, found 0"),
        ([*GEMMA, "--memory-mib", "0"], "--memory-mib: expected MiB above 0, found 0"),
        ([*GEMMA, "--memory-mib", "-5"], "--memory-mib: expected MiB above 0, found -5"),
        ([*GEMMA, "--memory-mib", "nan"], "--memory-mib: expected MiB above 0, found nan"),
        ([*GEMMA, "--result", "/nowhere/r.json"], "--result /nowhere/r.json: expected a file that can be written"),
        ([*GEMMA, "--result", "/"], "--result /: expected a file that can be written, but is a folder"),
        ([*SERVED, "--bits", "-3"], "--bits: expected 1 to 64, found -3"),
        ([*SERVED, "--grammar", "/nowhere/g"], "No such file"),
    ],
)
def test_wrong_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEMMA_CPP_BINARY", "GEMMA_CPP_WEIGHTS", "GEMMA_CPP_TOKENIZER"):
        monkeypatch.delenv(name, raising=False)
    image = ["--image", "/nowhere.png", "--set", "prompt=x"] if arguments[0] == "run" else []
    code = main([*arguments, *image]) if not image else _run_usage(arguments, monkeypatch)
    assert code == 2
    assert words in capsys.readouterr().err


def _run_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("trialbench.workloads.load_workload", lambda *_, **__: workload("x"))
    return main(arguments)


def test_oneshot(options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "r.json"
    assert main(["oneshot", *options, "hello", "--max-tokens", "3", "--result", str(result)]) == 0
    document = json.loads(result.read_text())
    assert capfd.readouterr().out == document["text"]
    assert document["source"] == "gemma_local"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ({"empty": True}, 3, "empty_output (520)"),
        ({"abort": "prompt"}, 2, "prompt_too_long (413)"),
        ({"abort": "alloc"}, 4, "allocation_failed (503)"),
    ],
)
def test_oneshot_failures(
    options: list[str], does: Does, what: dict[str, Any], code: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["oneshot", *options, does(**what)]) == code
    assert words in capfd.readouterr().err


def test_oneshot_refuses_a_constraint(options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "s.json"
    schema.write_text("{}")
    assert main(["oneshot", *options, "--json-schema", str(schema), "x"]) == 2
    assert main(["oneshot", *options, "--grammar", str(schema), "x"]) == 2
    assert main(["oneshot", *options, "--allowed-token", "5", "--allowed-token", "yes", "x"]) == 2
    assert "constrained decoding by allowed_tokens" in capfd.readouterr().err


def test_oneshot_with_files_that_are_no_constraint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\xff\xfe")
    assert main([*SERVED, "--grammar", str(file)]) == 2
    assert f"{file}: expected UTF-8 text, found something else at byte 0" in capfd.readouterr().err
    file.write_text("[1]")
    assert main([*SERVED, "--json-schema", str(file)]) == 2
    assert f"{file}: expected a JSON schema, an object" in capfd.readouterr().err
    # A numeral that is no id is a text; nobody is there to translate it.
    assert main([*SERVED, "--allowed-token", "²"]) == 2
    assert "allowed_tokens can't be looked up" in capfd.readouterr().err


def test_oneshot_is_canceled_by_a_signal(
    options: list[str], does: Does, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_text: str, _stream: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("trialbench.verbs.oneshot._write", write)
    assert main(["oneshot", *options, does(rate_hz=20, tokens=2000)]) == 130
    assert "canceled by signal 2" in capfd.readouterr().err


def test_a_signal_before_the_engine_has_begun(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start = GemmaCpp.start

    def signaled(self: GemmaCpp, request: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return start(self, request)

    monkeypatch.setattr(GemmaCpp, "start", signaled)
    assert main(["oneshot", *options, "x"]) == 143


def test_oneshot_reads_its_prompt(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def typed(raw: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    file = tmp_path / "p"
    file.write_text("from a file")
    assert main(["oneshot", *options, "--prompt-file", str(file)]) == 0
    typed("ñ".encode())
    assert main(["oneshot", *options, "-"]) == 0
    typed(b"\xff")
    assert main(["oneshot", *options, "-"]) == 2
    assert "expected UTF-8" in capfd.readouterr().err
    monkeypatch.setattr("trialbench.verbs.oneshot._MAX_PROMPT", 4)
    typed(b"too long")
    assert main(["oneshot", *options, "-"]) == 2
    assert "found more" in capfd.readouterr().err


def test_oneshot_shows_a_terminal_no_escapes(
    options: list[str], does: Does, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["oneshot", *options, does(text="\x1b[2Jred")]) == 0
    assert capfd.readouterr().out == "\\x1b[2Jred\n"


def test_oneshot_by_configuration_and_environment(
    tmp_path: Path, stand_in: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "r.json"
    config = tmp_path / "fazai.conf"
    config.write_text(f"[gemma_cpp]\nbinary = {stand_in}\nweights = {weights}\nmax_tokens = 3\nweight_format = nuq\n")
    assert main(["oneshot", "--engine", "gemma-cpp", "--config", str(config), "x", "--result", str(result)]) == 0
    document = json.loads(result.read_text())
    assert (document["model"], document["bits"], document["usage"]["completion_tokens"]) == ("gemma2-2b-it", 4, 3)
    monkeypatch.setenv("GEMMA_CPP_BINARY", str(stand_in))
    monkeypatch.setenv("GEMMA_CPP_WEIGHTS", str(weights))
    assert main(["oneshot", "--engine", "gemma-cpp", "x"]) == 0
