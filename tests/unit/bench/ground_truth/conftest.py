"""Models of a few hundred numbers, a roster around them, and stand-ins of llama.cpp's programs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trialbench.ground_truth.model import yaml_files
from trialbench.ground_truth.model.checkpoint import write_safetensors
from trialbench.ground_truth.model.configuration import shape_of
from trialbench.ground_truth.model.convert import to_gguf
from trialbench.ground_truth.model.layouts import rules

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# Each of the ways to cut text into words, written down here once more.
PRE: dict[str, Any] = {
    "llama": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "qwen2": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {
                    "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
                    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                },
                "behavior": "Isolated",
                "invert": False,
            },
            {**BYTE_LEVEL, "use_regex": False},
        ],
    },
    "gpt2": BYTE_LEVEL,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "vocab_size": 12,
    },
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": False,
        "vocab_size": 12,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": None, "n_positions": 16,
        "layer_norm_epsilon": 1e-5, "vocab_size": 12,
    },
}  # fmt: skip


def make_folder(path: Path, architecture: str = "llama", **changes: Any) -> Path:
    """A Hugging Face folder with random weights; the vocabulary has ten entries, the matrix twelve rows."""
    path.mkdir(parents=True, exist_ok=True)
    config = {**CONFIGS[architecture], **changes}
    (path / "config.json").write_text(json.dumps(config))
    shape = shape_of(config, "config")
    rng = np.random.default_rng(7)
    tensors = {}
    for rule in rules(shape):
        tensors[rule.hf] = rng.normal(size=rule.shape).astype(np.float32)
    write_safetensors(path / "model.safetensors", tensors)
    vocabulary = {text: number for number, text in enumerate(["a", "b", "c", "ab", "Ġ", "Ġa", "bc", "d"])}
    tokenizer = {
        "added_tokens": [
            {"id": 8, "content": "<|end|>", "special": True},
            {"id": 9, "content": "<think>", "special": False},
        ],
        "pre_tokenizer": PRE[architecture],
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], "b c", ["Ġ", "a"]]},
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"eos_token": {"content": "<|end|>"}, "model_max_length": 10**30, "chat_template": "{{ messages }}"}
    # The classes of these two name tokens of their own where the settings do not.
    settings |= dict.fromkeys(
        {"qwen2": ("unk_token", "pad_token"), "gpt2": ("unk_token", "bos_token")}.get(architecture, ()), "<|end|>"
    )
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


PROMPTS = """---
prompts:
  - {name: one, text: "abc"}
  - {name: two, text: "ba"}
tokenizer:
  - {name: blank, text: " a"}
chats:
  - {name: hello, messages: [{role: user, content: "abc"}]}
perplexity_text: text.txt
"""
TOLERANCES = """---
tolerances:
  token-f16: {value: 0, unit: mismatches, why: "Float16 holds these weights exactly."}
"""
MODEL = """  - slug: {slug}
    name: edgelab/{slug}
    source: {{folder: {slug}}}
    architecture: {architecture}
    layers: 2
    heads: 2
    kv_heads: 1
    hidden: 8
    vocabulary: 12
    perplexity_ceiling: 3
    quants: {{llama.cpp: [f32, f16, Q8_0]}}
"""


@pytest.fixture(autouse=True)
def nothing_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle switches the hub off for its own process; here other tests follow in the same one."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")


@pytest.fixture(autouse=True, scope="session")
def no_text_is_parsed_twice() -> Iterator[None]:
    """The same few rosters are read in every test, some for each row; PyYAML takes half of a test's time for it."""
    parse = yaml_files._parse
    known: dict[str, Any] = {}

    def remembered(text: str, path: Path) -> Any:
        if text not in known:
            # An error names the path, and is raised again each time.
            known[text] = parse(text, path)
        return copy.deepcopy(known[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_files, "_parse", remembered)
        yield


@pytest.fixture
def folder_of() -> Callable[..., Path]:
    return make_folder


@pytest.fixture
def roster_file(tmp_path: Path) -> Path:
    """A roster of two models with everything it names."""
    base = tmp_path / "roster"
    base.mkdir()
    (base / "prompts.yml").write_text(PROMPTS)
    (base / "tolerances.yml").write_text(TOLERANCES)
    (base / "text.txt").write_text("a text\n" * 10)
    head = "---\nname: small\nprompts: prompts.yml\ntolerances: tolerances.yml\noracle: oracle\nmodels:\n"
    models = "".join(MODEL.format(slug=f"m-{kind}", architecture=kind) for kind in ("llama", "gpt2"))
    (base / "roster.yml").write_text(head + models)
    for kind in ("llama", "gpt2"):
        make_folder(base / f"m-{kind}", kind)
    return base / "roster.yml"


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole, small GGUF."""
    folder = tmp_path_factory.mktemp("gguf")
    to_gguf(make_folder(folder / "hf"), folder / "m.gguf", "f16")
    return (folder / "m.gguf").read_bytes()


@pytest.fixture
def stand_ins() -> Path:
    return FIXTURES / "stand_ins"
