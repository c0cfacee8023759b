"""Converter and shipped oracles against a forward pass in float64 that neither of them knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import forward
import numpy as np
import pytest
from trialbench.ground_truth.evidence.oracle_files import Oracle, oracle_path, read_oracle
from trialbench.ground_truth.model.convert import to_gguf
from trialbench.ground_truth.model.roster import load_roster

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth"
ROSTER = load_roster(str(FIXTURES / "roster.yml"))
# What float32 sums in another order, and five decimals in the file, may make of a log-probability.
_MOST = 1e-3


def apart(network: forward.Network, oracle: Oracle) -> float:
    """The largest difference of a log-probability; infinite where another token is in front."""
    assert oracle.prompt_ids is not None
    assert oracle.top is not None
    logits = network.logits([*oracle.prompt_ids, *oracle.tokens][:-1])[len(oracle.prompt_ids) - 1 :]
    logits = logits - logits.max(-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    if logprobs.argmax(-1).tolist() != list(oracle.tokens):
        return float("inf")
    return float(max(abs(logprobs[at][one.id] - one.logprob) for at, row in enumerate(oracle.top) for one in row))


@pytest.mark.parametrize("slug", [model.slug for model in ROSTER.models])
def test_folder_file_and_oracle_are_one_model(slug: str, tmp_path: Path) -> None:
    folder = ROSTER.model(slug).folder
    assert folder is not None
    notes = to_gguf(folder, tmp_path / "m.gguf", "f32", name=slug)
    # No file says that <|im_end|> is no end, nor that qwen2 composes characters.
    assert len(notes) == (2 if slug == "tiny-qwen2" else 1), notes
    networks = (forward.from_folder(folder), forward.from_gguf(tmp_path / "m.gguf"))
    for prompt in ROSTER.prompts.prompts:
        oracle = read_oracle(oracle_path(ROSTER.oracle, slug, prompt.name))
        assert [apart(network, oracle) < _MOST for network in networks] == [True, True], prompt.name
    # It can tell: the other way to rotate, or the last layer left out, is another model.
    other = replace(networks[1], neighbors=not networks[1].neighbors)
    assert (apart(other, oracle) > _MOST) is (slug != "tiny-gpt2")
    assert apart(replace(networks[1], layers=1), oracle) > _MOST
