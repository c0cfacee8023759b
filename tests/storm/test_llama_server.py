"""The contract against a real llama-server: what the scripted one of the unit tests claims, checked."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from trialbench.cli import main
from trialbench.engines.contract import Constraint, Deadlines, Done, Failed, Request
from trialbench.engines.llama.slots import Slots
from trialbench.engines.openai import EndpointOptions, LlamaServer

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "models" / "baseline-f16.gguf"
ASK = "Describe what you see."


@pytest.fixture
def llama(llama_url: str) -> LlamaServer:
    return LlamaServer(EndpointOptions(llama_url))


def test_it_says_what_it_is(llama: LlamaServer) -> None:
    probe = llama.probe()
    assert probe.usable
    assert probe.version
    assert probe.label.as_dict() == {"source": "llama_server", "model": "baseline-f16.gguf", "bits": 16}
    assert LlamaServer(llama.options, gguf=MODEL).label.bits == 16


def test_the_cache_is_used_as_asked(llama: LlamaServer) -> None:
    requests = [Request(prompt=ASK, max_tokens=8, temperature=0, cache_prompt=cache) for cache in (True, True, False)]
    cached = [llama.start(request).result().usage.cached_tokens for request in requests]
    assert cached[1]
    assert cached[2] == 0


def test_constraints_are_kept(llama: LlamaServer) -> None:
    def said(constraint: Constraint) -> str:
        result = llama.start(Request(prompt=ASK, max_tokens=500, temperature=0, constraint=constraint)).result()
        assert result.failure is None, result.failure
        return result.text

    assert said(Constraint(grammar='root ::= "left " ("large" | "small")')) in ("left large", "left small")
    schema = {
        "type": "object",
        "properties": {"side": {"enum": ["left", "right"]}},
        "required": ["side"],
        "additionalProperties": False,
    }
    assert json.loads(said(Constraint(json_schema=schema)))["side"] in ("left", "right")
    allowed = llama.encode("large")
    result = llama.start(
        Request(prompt=ASK, max_tokens=6, temperature=0, constraint=Constraint(allowed_tokens=allowed))
    ).result()
    assert set(llama.encode(result.text)) <= set(allowed)


def test_a_grammar_that_is_none(llama: LlamaServer) -> None:
    last = list(llama.start(Request(prompt=ASK, constraint=Constraint(grammar="root ::= ("))).events())[-1]
    assert isinstance(last, Failed)
    assert last.failure.failure_class.name == "bad_arguments"


def test_ids_in_ids_out(llama: LlamaServer) -> None:
    ids = llama.encode("I see a large", special=True)
    assert llama.decode(ids).strip() == "I see a large"
    generation = llama.start(Request(prompt_ids=ids, max_tokens=4, temperature=0, top_k=1))
    events = list(generation.events())
    assert isinstance(events[-1], Done)
    told = [event.id for event in events if hasattr(event, "id")]
    assert len(told) == 4
    assert all(isinstance(one, int) for one in told)


def test_a_prompt_that_does_not_fit(llama: LlamaServer) -> None:
    failure = llama.start(Request(prompt="long " * 20_000, max_tokens=4)).result().failure
    assert failure is not None
    assert failure.failure_class.name == "prompt_too_long"


def test_a_deadline_frees_the_slot(llama: LlamaServer, llama_url: str) -> None:
    request = Request(prompt=ASK, max_tokens=4000, deadlines=Deadlines(total_s=0.3), extra={"ignore_eos": True})
    result = llama.start(request).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "timeout"
    assert result.clean
    with contextlib.closing(Slots(llama_url)) as slots:
        assert slots.look(1.0).busy == 0


def test_cache_on_cache_off_and_a_process_in_one_table(
    llama_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wide enough for whole names.
    monkeypatch.setenv("COLUMNS", "140")
    stand_in = MODEL.parents[1] / "engines" / "gemma"
    weights, workload = tmp_path / "weights.sbs", tmp_path / "short.yml"
    weights.write_text("{}")
    workload.write_text(
        f"name: short\nmessages: [{{role: user, content: {ASK}}}]\n"
        "limits: {max_tokens: 8, temperature: 0.0, timeout_s: 30}\nsamples: {n: 10, warmup: 1}\n"
    )
    server = ["--engine", "llama-server", "--url", llama_url]
    process = ["--engine", "gemma-cpp", "--binary", str(stand_in), "--weights", str(weights), "--weight-format", "sfp"]
    runs = {"off": server, "on": [*server, "--cache-prompt"], "cpu": process}
    files = []
    for name, arguments in runs.items():
        files.append(str(tmp_path / f"{name}.json"))
        assert main(["run", *arguments, "--workload", str(workload), "--summary", files[-1]]) == 0
    capsys.readouterr()
    assert main(["engines", *files]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 3
    assert all("10/10" in row for row in rows)
    assert "(llama_server, 16 bit)  short     off " in rows[0]
    assert "(llama_server, 16 bit)  short     on " in rows[1]
    assert "(gemma_local, 8 bit)" in rows[2]
