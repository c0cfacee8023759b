"""The three proofs with the stand-in and a server of our own; what they say when it is not as it should be."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from trialbench import schemas
from trialbench.cli import main
from trialbench.errors import ServerError, UsageError
from trialbench.worker.launch import Launched
from trialbench.worker.proof import Check, Expectation, Proof, expectations, junit
from trialbench.worker.stall import Relay, StoppingEngine

STAND_IN = Path(__file__).resolve().parents[3] / "fixtures" / "engines" / "gemma"
SERVER = """
import http.server, json, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.whole(b'{"status": "ok"}' if self.path == "/health" else b"[]" if self.path == "/slots" else b"{}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for number in range(body.get("max_tokens", 20)):
                delta = {"choices": [{"delta": {"content": f"w{number} "}, "finish_reason": None}]}
                self.wfile.write(b"data: " + json.dumps(delta).encode() + b"\\n\\n")
                time.sleep(0.002)
            last = {"choices": [{"delta": {}, "finish_reason": "length"}]}
            self.wfile.write(b"data: " + json.dumps(last).encode() + b"\\n\\ndata: [DONE]\\n\\n")
        except OSError:
            pass

    def whole(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.sbs"
    path.write_text('{"rate_hz": 300, "tokens": 400}', encoding="utf-8")
    return path


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(SERVER, encoding="utf-8")
    return path


@pytest.fixture
def served(script: Path) -> Iterator[str]:
    found: dict[str, Any] = {"__name__": "served"}
    exec(script.read_text(encoding="utf-8"), found)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), found["Handler"])
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def prove(tmp_path: Path, name: str, *arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and document of one proof; what is written is checked on the way."""
    out = tmp_path / "proof.json"
    out.unlink(missing_ok=True)
    files = ["--json", str(out), "--junit", str(tmp_path / "proof.xml")]
    code = main(["proof", name, *map(str, arguments), *files])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert schemas.validate(document, "proof") == []
    suite = ElementTree.parse(tmp_path / "proof.xml").getroot()[0]
    assert (suite.get("failures") == "0") == document["ok"] == (code == 0)
    return code, document


def numbers(document: dict[str, Any]) -> dict[str, Any]:
    return {check["name"]: check["value"] for check in document["checks"]}


def gemma(weights: Path) -> list[object]:
    return ["--binary", STAND_IN, "--weights", weights, "--weight-format", "sfp", "--model", "stand-in"]


def test_cold_start(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slack = ["--expect", "cold_start_s=60", "--expect", "tokens_per_s=1"]
    code, document = prove(tmp_path, "cold-start", *gemma(weights), "-n", 2, *slack)
    assert code == 0, document
    assert (document["source"], document["model"], document["bits"]) == ("gemma_local", "stand-in", 8)
    found = numbers(document)
    assert 0 < found["cold_start_s"] < 60
    assert 1 < found["tokens_per_s"] <= 330
    assert found["failed"] == 0
    assert found["peak_mib"] > 1
    assert len(document["runs"]) == 2
    assert "PASSED" in capsys.readouterr().out


def test_cold_start_says_what_is_too_slow(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.write_text('{"load_s": 0.2, "rate_hz": 300}', encoding="utf-8")
    code, document = prove(tmp_path, "cold-start", *gemma(weights), "-n", 1, "--expect", "cold_start_s=0.1")
    assert code == 1
    assert [check["name"] for check in document["checks"] if not check["ok"]] == ["cold_start_s"]
    assert "FAILED" in capsys.readouterr().out


def test_an_engine_that_fails_has_proved_nothing(tmp_path: Path, weights: Path) -> None:
    weights.write_text('{"abort": "alloc"}', encoding="utf-8")
    for name in ("cold-start", "cancel", "timeout-retry"):
        code, document = prove(tmp_path, name, *gemma(weights), "-n", 1)
        assert code == 1, name
        assert "allocation_failed" in json.dumps(document["checks"]), name


def test_an_engine_that_can_not_be_used_is_a_failed_proof_that_says_so(tmp_path: Path, weights: Path) -> None:
    missing = ["--binary", tmp_path / "nowhere", "--weights", weights, "--model", "m"]
    for name in ("cold-start", "cancel", "timeout-retry"):
        code, document = prove(tmp_path, name, *missing, "-n", 1)
        (check,) = document["checks"]
        assert (code, check["name"], check["value"], check["expected"]) == (1, "usable", 0, "= 1")
        assert check["detail"].startswith("missing_binary: ")
        assert document["runs"] == []


def test_a_server_that_does_not_answer_proves_nothing(
    tmp_path: Path, dead_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cold-start", "cancel", "timeout-retry"):
        out = tmp_path / f"{name}.json"
        assert main(["proof", name, "--engine", "llama-server", "--url", dead_url, "-n", "1", "--json", str(out)]) == 4
        assert "nothing was proved: connection: " in capsys.readouterr().err
        assert not out.exists()


def test_numbers_that_would_have_nowhere_to_go_are_not_measured(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--json", "--junit"):
        assert main(["proof", "cold-start", *map(str, gemma(weights)), option, str(tmp_path / "no" / "x")]) == 2
        assert f"{option} {tmp_path}/no/x: expected a file that can be written" in capsys.readouterr().err


def test_tokens_a_second() -> None:
    from trialbench.worker.proofs import _rate

    assert _rate(11, [1.0, 1.5, 3.0], 5000.0) == 5.0
    assert _rate(1, [1.0], 100.0) is None, "one token has no rate"
    # All of it was heard at once: over the whole time, which can't be too fast.
    assert _rate(13, [1.0, 1.0], 500.0) == 26.0
    assert _rate(13, [], 500.0) == 26.0
    assert _rate(13, [1.0], 0.0) is None


def test_cancel(tmp_path: Path, weights: Path) -> None:
    code, document = prove(tmp_path, "cancel", *gemma(weights), "-n", 3, "--expect", "quiet_max_ms=30000")
    assert code == 0, document
    found = numbers(document)
    assert (found["hangs"], found["unclean"], found["left_processes"], found["next_failed"]) == (0, 0, 0, 0)
    assert found["cancelled_share"] == 1
    assert all(run["finish_reason"] == "cancelled" for run in document["runs"])


def test_a_generation_that_hangs_is_counted_and_ends_the_proof(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trialbench.engines.gemma_cpp import GemmaCpp
    from trialbench.worker import proofs

    released = threading.Event()
    start = GemmaCpp.start

    def hanging(self: Any, request: Any) -> Any:
        if request.max_tokens != 8:
            released.wait(30)
        return start(self, request)

    monkeypatch.setattr(GemmaCpp, "start", hanging)
    monkeypatch.setattr(proofs, "_HANG_S", -59.9)
    code, document = prove(tmp_path, "cancel", *gemma(weights), "-n", 5)
    released.set()
    assert code == 1
    assert numbers(document)["hangs"] == 1
    assert len(document["runs"]) == 1


@pytest.mark.prove
def test_timeout_and_retry(tmp_path: Path, weights: Path) -> None:
    code, document = prove(tmp_path, "timeout-retry", *gemma(weights), "-n", 1, "--expect-any", "recovery_s=60")
    assert code == 0, document
    (run,) = document["runs"]
    assert (run["stalled"], run["attempts"], run["end"], run["behind"], run["after"]) == (1, 2, "done", "done", "done")
    found = numbers(document)
    assert (found["lost"], found["doubled"], found["state_lost"]) == (0, 0, 0)
    assert found["recovery_s"] > 0
    assert [check["name"] for check in document["checks"] if check["skipped"]] == ["fallback_s"]


@pytest.mark.prove
def test_timeout_and_retry_over_http_with_a_fallback(tmp_path: Path, served: str, weights: Path) -> None:
    conf = tmp_path / "fazai.conf"
    conf.write_text(
        f"[dispatcher]\nfallback_order = other\n[other]\nendpoint = {served}\ndefault_model = other\n",
        encoding="utf-8",
    )
    engine = ["--engine", "llama-server", "--url", served, "--config", conf]
    code, document = prove(
        tmp_path, "timeout-retry", *engine, "-n", 1, "--expect-any", "recovery_s=60", "--expect", "fallback_s=60"
    )
    assert code == 0, document
    assert numbers(document)["fallback_s"] is not None
    assert document["runs"][0]["retried_after"] == ["timeout"], "silence, and no closed connection"
    check = next(check for check in document["checks"] if check["name"] == "fallback_s")
    assert "answered by openai_compatible other" in check["detail"]


@pytest.mark.prove
def test_a_fallback_that_does_not_answer(tmp_path: Path, weights: Path, dead_url: str) -> None:
    conf = tmp_path / "fazai.conf"
    conf.write_text(f"[dispatcher]\nfallback_order = other\n[other]\nendpoint = {dead_url}\n", encoding="utf-8")
    weights.write_text('{"tokens": 5}', encoding="utf-8")
    slack = ["--expect", "recovery_s=60"]
    code, document = prove(tmp_path, "timeout-retry", *gemma(weights), "--config", conf, "-n", 1, *slack)
    assert code == 1
    assert "expected a labeled answer of the fallback" in document["checks"][-1]["detail"]


def test_a_server_is_launched_for_the_cold_start(
    tmp_path: Path, script: Path, dead_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = f"{sys.executable} {script} {dead_url.rpartition(':')[2]}"
    engine = ["--engine", "llama-server", "--url", dead_url, "--launch", launch]
    slack = ["--expect", "cold_start_s=60", "--expect", "tokens_per_s=1"]
    code, document = prove(tmp_path, "cold-start", *engine, "-n", 2, *slack)
    assert code == 0, document
    assert all(run["load_s"] < run["cold_start_s"] for run in document["runs"])
    assert numbers(document)["peak_mib"] > 1
    code, document = prove(tmp_path, "cancel", *engine, "-n", 2, "--expect", "quiet_max_ms=30000")
    assert numbers(document)["hangs"] == 0
    assert code == 0, document


def test_a_server_that_runs_already_is_not_cold(tmp_path: Path, served: str) -> None:
    engine = ["--engine", "llama-server", "--url", served]
    code, document = prove(tmp_path, "cold-start", *engine, "-n", 1, "--expect", "tokens_per_s=1")
    assert code == 0, document
    cold = document["checks"][0]
    assert (cold["skipped"], cold["value"]) == (True, None)
    assert "--launch starts it" in cold["detail"]


def test_wrong_use(tmp_path: Path, served: str, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: object) -> str:
        assert main(["proof", "cold-start", *map(str, arguments)]) in (2, 4)
        return capsys.readouterr().err

    assert "--launch: expected --url as well" in fails(*gemma(weights), "--launch", "x")
    assert "a server already answers at --url" in fails("--engine", "llama-server", "--url", served, "--launch", "x")
    dead = ["--engine", "llama-server", "--url", "http://127.0.0.1:9"]
    assert "cannot be started: No such file" in fails(*dead, "--launch", "/no/such/server")
    assert "--launch: expected a command line, found none" in fails(*dead, "--launch", " ")
    assert "No closing quotation" in fails(*dead, "--launch", "'llama-server")
    assert "ended with status 3" in fails(*dead, "--launch", f"{sys.executable} -c 'raise SystemExit(3)'")
    assert "expected NAME=NUMBER" in fails(*gemma(weights), "--expect", "cold_start_s=soon")
    assert "expected one of cold_start_s, tokens_per_s, failed" in fails(*gemma(weights), "--expect", "x=1")
    assert "found 'nonsense'" in fails(*gemma(weights), "--expect-any", "nonsense=1")
    for proof in ("cold-start", "cancel", "timeout-retry"):
        assert main(["proof", proof, *map(str, gemma(weights)), "--prompt", " "]) == 2
        assert "prompt: expected a text, found none" in capsys.readouterr().err
    for number in ("0", "many"):
        with pytest.raises(SystemExit):
            main(["proof", "cancel", "-n", number])
        assert f"argument -n: expected a whole number, at least 1, found {number}" in capsys.readouterr().err
    conf = tmp_path / "f.conf"
    conf.write_text("[unread]\n", encoding="utf-8")
    assert "the section [unread] is not read here" in fails(
        "--engine", "openai", "--url", "http://127.0.0.1:9", "--config", conf, "-n", "1", "--launch", "/no/such"
    )


@pytest.mark.prove
def test_a_server_that_ignores_term_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stubborn = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    stubborn += "open(sys.argv[1], 'w').close(); time.sleep(60)"
    with Launched([sys.executable, "-c", stubborn, str(ready)], ready.exists) as launched:
        pass
    assert launched._process.returncode == -9


def test_a_server_that_never_gets_well_is_ended() -> None:
    with pytest.raises(ServerError, match=r"not healthy within 0\.3 s"):
        Launched([sys.executable, "-c", "import time; time.sleep(60)"], lambda: False, limit_s=0.3)


def test_a_stopping_engine_is_the_inner_one_otherwise(weights: Path) -> None:
    from trialbench.engines.contract import Deadlines, Request
    from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions

    inner = GemmaCpp(GemmaOptions(STAND_IN, weights))
    engine = StoppingEngine(inner)
    assert (engine.label, engine.capabilities, engine.healthy()) == (inner.label, inner.capabilities, None)
    assert engine.probe(hashes=False).usable
    engine.stalls = 1
    generation = engine.start(Request(prompt="x", deadlines=Deadlines(first_s=0.3, total_s=20)))
    assert (engine.stalls, engine.stalled) == (0, 1)
    failure = generation.result().failure
    assert failure is not None
    assert failure.failure_class.name == "timeout"
    engine.close()


def test_a_relay_without_a_server_closes(dead_url: str) -> None:
    import socket

    with Relay(dead_url) as relay:
        host, _, port = relay.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            assert client.recv(10) == b""


def test_the_words_of_a_proof() -> None:
    proof = Proof("cancel", {"source": "gemma_local", "model": "\x1b[2J"})
    assert not proof.ok, "nothing was judged, nothing is proved"
    proof.checks = [
        Check("a", 1.0, "s", Expectation("<", 2)),
        Check("told", 3.25),
        Check("missing", None, "s", Expectation("<", 2), "why \x00 not"),
        Check("left out", None, "", Expectation("<", 2), "off", skipped=True),
    ]
    assert not proof.ok
    table = proof.table()
    assert "\x1b" not in table
    assert table.endswith("FAILED")
    suite = ElementTree.fromstring(junit([proof]).encode())[0]
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["3", "1", "0", "1"]
    assert len(suite.get("timestamp", "")) == 19
    told = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert told == {"source": "gemma_local", "model": "\\x1b[2J"}
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "expected < 2 s, found no number; why \\x00 not"
    assert [one.text for one in suite.iter("system-out")] == ["expected < 2 s, found 1 s"]
    proof.checks.pop(2)
    assert proof.ok
    assert proof.table().endswith("PASSED")


def test_what_is_judged_is_what_is_told() -> None:
    almost = Check("a", 1.9996, "s", Expectation("<", 2))
    assert (almost.told, almost.ok) == (2.0, False)
    assert almost.as_dict()["value"] == 2.0
    assert str(Expectation("<", 1234567.5)) == "< 1234567.5"


def test_expectations_keep_their_relation() -> None:
    changed = expectations({"x": Expectation("<", 1)}, ["x=5"])
    assert changed == {"x": Expectation("<", 5)}
    assert not changed["x"].holds(5)
    with pytest.raises(UsageError):
        expectations({}, ["x=nan"])
