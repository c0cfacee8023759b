"""Oracle files: ours, those of the original tool, and what is neither."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import accept
from trialbench.errors import UsageError
from trialbench.ground_truth.evidence.oracle_files import (
    Oracle,
    TokenizerOracle,
    oracle_path,
    read_oracle,
    read_tokenizer,
    tokenizer_path,
    write_oracle,
    write_tokenizer,
)
from trialbench.ground_truth.runtimes.base import Candidate, Prompt

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth"
ORACLE = Oracle(
    model="owner/name", model_slug="m", prompt="2 + 2 =", prompt_file="prompts/arithmetic.txt",
    transformers_version="5", torch_version="2", tokens=(5, 6), text=" 4\u2028", max_new_tokens=32,
    revision="sha256:00", prompt_ids=(1, 2), eos_ids=(9,),
    top=((Candidate(5, -0.1), Candidate(7, -2.6)), (Candidate(6, 0.0),)), files={"config.json": "0" * 64},
)  # fmt: skip
# What the original tool wrote for the CPU, key by key; its GPU files have the other keys as well.
ORIGINAL: dict[str, Any] = {
    "model": "openai-community/gpt2", "model_slug": "gpt2-124m", "prompt": "Hello", "prompt_file": "greeting.txt",
    "runtime": "transformers", "format": "float32", "transformers_version": "4.48", "torch_version": "2.5",
    "tokens": [11, 12], "text": ", I", "token_count": 2, "max_new_tokens": 32, "do_sample": False,
}  # fmt: skip


def test_ours_is_read_back_and_fits_the_published_schema(tmp_path: Path) -> None:
    path = oracle_path(tmp_path / "oracle", "m", "arithmetic")
    write_oracle(path, ORACLE)
    assert read_oracle(path) == ORACLE
    accept(json.loads(path.read_text()), "oracle")
    assert ORACLE.as_prompt == Prompt("arithmetic", "2 + 2 =", (1, 2))
    assert ORACLE.margins() == (pytest.approx(2.5), float("inf"))
    # The original tool's keys come first, in its order, so that its own reader finds what it knows.
    keys = list(json.loads(path.read_text()))
    assert keys[:15] == [
        "model", "model_slug", "prompt", "prompt_file", "runtime", "format", "transformers_version", "torch_version",
        "device", "precision", "tokens", "text", "token_count", "max_new_tokens", "do_sample",
    ]  # fmt: skip


def test_the_original_tools_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "greeting.json"
    path.write_text(json.dumps(ORIGINAL))
    oracle = read_oracle(path)
    assert (oracle.device, oracle.precision, oracle.prompt_name) == ("cpu", "fp32", "greeting")
    assert oracle.prompt_ids is oracle.top is oracle.margins() is None
    assert oracle.tokens == (11, 12)
    gpu = {**ORIGINAL, "device": "cuda", "precision": "bf16", "cuda_version": "12.8", "gpu_name": "x"}
    path.write_text(json.dumps({**gpu, "kernels_enabled": True, "something": "new"}))
    assert read_oracle(path).gpu == {"cuda_version": "12.8", "gpu_name": "x", "kernels_enabled": True}
    write_oracle(path, read_oracle(path))
    assert read_oracle(path).gpu["gpu_name"] == "x"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": []}, "tokens: expected at least 1 entries, found 0"),
        ({"tokens": ["a"]}, "expected integer"),
        ({"tokens": [-1]}, "at least 0"),
        ({"token_count": 3}, "token_count: expected 2, the number of tokens, found 3"),
        ({"do_sample": True}, "do_sample: expected false"),
        ({"model_slug": "../x"}, "model_slug: expected text like"),
        ({"top_logprobs": [[[1, 0.0]]]}, "expected 2 positions, one for each token, found 1"),
        ({"text": None}, "text: expected string"),
    ],
)
def test_what_is_no_oracle_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "o.json"
    path.write_text(json.dumps({**ORIGINAL, **change}))
    with pytest.raises(UsageError) as caught:
        read_oracle(path)
    assert said in str(caught.value)


def test_a_missing_oracle_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found none: make it with `trialbench oracle`"):
        read_oracle(tmp_path / "o.json")


def test_the_layout(tmp_path: Path) -> None:
    base = tmp_path / "oracle"
    assert oracle_path(base, "m", "code") == base / "m" / "code.json"
    assert oracle_path(base, "m", "code", precision="bf16") == tmp_path / "oracle-gpu" / "m" / "bf16" / "code.json"
    assert oracle_path(base, "m", "code", quant="Q2_K") == tmp_path / "oracle-gguf" / "m" / "Q2_K" / "code.json"
    assert tokenizer_path(base, "m") == tmp_path / "oracle-tokenizer" / "m.json"


def test_a_tokenizers_oracle(tmp_path: Path) -> None:
    oracle = TokenizerOracle("m", "5", {"a": "\ud83d"}, {"a": (1,)}, {"a": (0, 1)}, {"c": "<u>"}, {"x": "0" * 64})
    write_tokenizer(tmp_path / "t" / "m.json", oracle)
    assert read_tokenizer(tmp_path / "t" / "m.json") == oracle
    accept(json.loads((tmp_path / "t" / "m.json").read_text()), "tokenizer-oracle")
    write_tokenizer(tmp_path / "t" / "m.json", replace(oracle, ids_special={}))
    with pytest.raises(UsageError, match="ids_special: expected the same names as in texts, found none"):
        read_tokenizer(tmp_path / "t" / "m.json")
    (tmp_path / "t" / "m.json").write_text("[]")
    with pytest.raises(UsageError, match="expected an oracle"):
        read_tokenizer(tmp_path / "t" / "m.json")


def test_the_shipped_oracles_belong_to_the_shipped_models() -> None:
    from trialbench.ground_truth.model.roster import load_roster
    from trialbench.ground_truth.model.weights import folder_hashes

    roster = load_roster(str(FIXTURES / "roster.yml"))
    for model in roster.models:
        assert model.folder is not None
        hashes = folder_hashes(model.folder)
        for prompt in roster.prompts.prompts:
            oracle = read_oracle(oracle_path(roster.oracle, model.slug, prompt.name))
            assert (oracle.prompt, oracle.files, oracle.model) == (prompt.text, hashes, model.name)
            assert oracle.top is not None
            # Greedy: each token is the most probable one.
            assert [row[0].id for row in oracle.top] == list(oracle.tokens)
        tokenizer = read_tokenizer(tokenizer_path(roster.oracle, model.slug))
        assert tokenizer.files == hashes
        assert tokenizer.texts == roster.prompts.tokenized()
        for prompt in roster.prompts.prompts:
            ids = read_oracle(oracle_path(roster.oracle, model.slug, prompt.name)).prompt_ids
            assert tokenizer.ids_special[f"prompt/{prompt.name}"] == ids
        assert bool(tokenizer.chats) == (model.architecture != "gpt2")
