"""Hugging Face folder -> GGUF -> folder, for the three architectures, and what is refused on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.model.checkpoint import Safetensors, write_safetensors
from trialbench.ground_truth.model.configuration import shape_of
from trialbench.ground_truth.model.convert import read_source, to_gguf, to_hf
from trialbench.ground_truth.model.layouts import interleave, separate
from trialbench.ground_truth.model.tokenizer import pre_tokenizer
from trialbench.ground_truth.model.weights import Gguf
from trialbench.ground_truth.runtimes.base import Capability
from trialbench.ground_truth.runtimes.gguf_file import answer

Folder = Callable[..., Path]


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("qwen2", {}),
        ("gpt2", {}),
    ],
)
def test_there_and_back_gives_the_same_bytes(
    tmp_path: Path, folder_of: Folder, architecture: str, keys: dict[str, bool]
) -> None:
    source = folder_of(tmp_path / "hf", architecture, **keys)
    to_gguf(source, tmp_path / "a.gguf", "f32", name="m")
    to_hf(tmp_path / "a.gguf", tmp_path / "back")
    to_gguf(tmp_path / "back", tmp_path / "b.gguf", "f32", name="m")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    before, after = Safetensors(source), Safetensors(tmp_path / "back")
    assert before.names() == after.names()
    assert all(np.array_equal(before.read(name), after.read(name)) for name in before.names())
    assert not list(tmp_path.glob("*.part"))


def test_float16_rounds_matrices_alone(tmp_path: Path, folder_of: Folder) -> None:
    to_gguf(folder_of(tmp_path / "hf", "gpt2"), tmp_path / "m.gguf", "f16")
    types = {tensor.name: tensor.type for tensor in Gguf(tmp_path / "m.gguf").tensors()}
    assert types["blk.0.attn_qkv.weight"] == "F16"
    assert types["blk.0.attn_qkv.bias"] == types["output_norm.weight"] == types["position_embd.weight"] == "F32"


def test_the_metadata(tmp_path: Path, folder_of: Folder) -> None:
    to_gguf(folder_of(tmp_path / "hf"), tmp_path / "m.gguf", "f16")
    keys = Gguf(tmp_path / "m.gguf").metadata
    assert keys["general.name"] == "hf"
    assert keys["general.file_type"] == 1
    assert keys["llama.attention.head_count_kv"] == 1
    assert keys["llama.rope.freq_base"] == 10000.0
    assert keys["llama.rope.dimension_count"] == 4
    assert keys["tokenizer.ggml.pre"] == "smollm"
    assert keys["tokenizer.ggml.tokens"][8:] == ["<|end|>", "<think>", "[PAD10]", "[PAD11]"]
    assert keys["tokenizer.ggml.token_type"] == [1] * 8 + [3, 4, 5, 5]
    assert keys["tokenizer.ggml.merges"] == ["a b", "b c", "Ġ a"]
    # Without an id of its own a beginning-of-sequence token would be guessed; it is never added.
    assert keys["tokenizer.ggml.bos_token_id"] == keys["tokenizer.ggml.eos_token_id"] == 8
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.chat_template"] == "{{ messages }}"


def test_special_ids_come_from_config_where_the_tokenizer_has_none(tmp_path: Path, folder_of: Folder) -> None:
    folder = folder_of(tmp_path / "hf", bos_token_id=3, eos_token_id=[5, 6])
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").write_text("from a file")
    to_gguf(folder, tmp_path / "m.gguf", "f32")
    keys = Gguf(tmp_path / "m.gguf").metadata
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (3, 5)
    assert "tokenizer.ggml.padding_token_id" not in keys
    assert keys["tokenizer.chat_template"] == "from a file"


def test_published_gpt2_files_lack_the_prefix(tmp_path: Path, folder_of: Folder) -> None:
    folder = folder_of(tmp_path / "hf", "gpt2")
    whole = dict(read_source(folder).tensors())
    files = Safetensors(folder)
    tensors = {name.removeprefix("transformer."): files.read(name) for name in files.names()}
    write_safetensors(folder / "model.safetensors", tensors)
    assert all(np.array_equal(value, whole[name]) for name, value in read_source(folder).tensors())


def test_rows_of_a_head_are_interleaved() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert interleave(rows, 2).reshape(-1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert separate(interleave(rows, 2), 2).tolist() == rows.tolist()
    bias = np.arange(4, dtype=np.float32)
    assert separate(interleave(bias, 1), 1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba"}, "model_type: expected one of llama, qwen2, gpt2, found 'mamba'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "expected rope_type default"),
        ({"head_dim": 16}, "head_dim: expected 4, found 16"),
        ({"hidden_size": "wide"}, "hidden_size: expected a whole number above 0, found 'wide'"),
        ({"rms_norm_eps": None}, "rms_norm_eps: expected a number above 0 that float32 holds, found None"),
    ],
)
def test_a_configuration_that_is_not_understood(
    tmp_path: Path, folder_of: Folder, changes: dict[str, Any], said: str
) -> None:
    folder = folder_of(tmp_path / "hf")
    edit(folder / "config.json", **changes)
    with pytest.raises(UsageError, match=said):
        to_gguf(folder, tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()
    assert not list(tmp_path.glob(".*"))


def test_refusals(tmp_path: Path, folder_of: Folder) -> None:
    folder = folder_of(tmp_path / "hf")
    with pytest.raises(UsageError, match="expected one of f32, f16, found 'Q8_0'"):
        to_gguf(folder, tmp_path / "m.gguf", "Q8_0")
    (folder / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="expected a mapping, found list"):
        to_gguf(folder, tmp_path / "m.gguf", "f32")
    assert shape_of({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 4, "n_positions": 4},
                    "x").inner == 32  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pre_tokenizer": {"type": "Metaspace"}}, "expected that of gpt-2, smollm or qwen2"),
        ({"pre_tokenizer": None}, "expected that of gpt-2"),
        ({"model": {"type": "Unigram"}}, "expected a byte-level BPE tokenizer, found Unigram"),
        ({"model": 5}, "is not a tokenizer of the library"),
        ({"model": {"type": "BPE", "vocab": {"a": 12}, "merges": []}}, "a token id of 12, expected less than"),
    ],
)
def test_a_tokenizer_that_is_not_understood(
    tmp_path: Path, folder_of: Folder, changes: dict[str, Any], said: str
) -> None:
    folder = folder_of(tmp_path / "hf")
    edit(folder / "tokenizer.json", **changes)
    with pytest.raises(UsageError, match=said):
        to_gguf(folder, tmp_path / "m.gguf", "f32")


def test_digits_in_threes_are_not_qwen2() -> None:
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}}
    steps = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]}
    with pytest.raises(UsageError, match=r"convert_hf_to_gguf\.py"):
        pre_tokenizer({"pre_tokenizer": steps}, "tokenizer.json")


@pytest.fixture
def writable(tmp_path: Path) -> Callable[..., Path]:
    """A GGUF with chosen keys and no tensors."""

    def write(architecture: str, **keys: Any) -> Path:
        import gguf

        path = tmp_path / "odd.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for name, value in keys.items():
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(name.replace("__", "."), value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_the_way_back_refuses_what_it_does_not_know(tmp_path: Path, writable: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="expected one of llama, qwen2, gpt2, found 'bert'"):
        to_hf(writable("bert"), tmp_path / "back")
    with pytest.raises(UsageError, match=r"llama\.attention\.head_count: expected a whole number, found None"):
        to_hf(writable("llama"), tmp_path / "back")


def test_the_way_back_needs_a_tokenizer_it_knows(tmp_path: Path, folder_of: Folder) -> None:
    to_gguf(folder_of(tmp_path / "hf"), tmp_path / "m.gguf", "f32")
    raw = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(raw.replace(b"smollm", b"martha"))
    with pytest.raises(UsageError, match=r"tokenizer\.ggml\.pre: expected one of gpt-2, smollm, qwen2.*'martha'"):
        to_hf(tmp_path / "other.gguf", tmp_path / "back")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"rope_scaling": "yarn"}),
        ("config.json", {"num_hidden_layers": -1}),
        ("config.json", {"max_position_embeddings": 10**20}),
        # It would make up a name for each of them.
        ("config.json", {"vocab_size": 10**12}),
        ("tokenizer.json", {"pre_tokenizer": [1]}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}),
        ("tokenizer.json", {"added_tokens": [{"id": 8, "content": "\ud800"}]}),
        ("tokenizer_config.json", []),
        ("tokenizer_config.json", {"chat_template": "\ud800"}),
    ],
)
def test_a_folder_that_garbles_something_is_refused(tmp_path: Path, folder_of: Folder, name: str, content: Any) -> None:
    source = folder_of(tmp_path / "hf")
    path = source / name
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **content} if isinstance(content, dict) else content))
    with pytest.raises(UsageError):
        to_gguf(source, tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize("header", [[1], "a", {"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}}])
def test_a_header_that_garbles_something_is_refused(tmp_path: Path, folder_of: Folder, header: Any) -> None:
    source = folder_of(tmp_path / "hf")
    raw = json.dumps(header).encode()
    (source / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(UsageError, match=r"model\.safetensors: "):
        Safetensors(source)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.tokens", 5),
        ("tokenizer.ggml.token_type", None),
        ("tokenizer.ggml.merges", None),
        ("tokenizer.ggml.eos_token_id", 4_000_000_000),
        ("tokenizer.ggml.pre", ["gpt-2"]),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", [1, 1]),
        ("llama.attention.layer_norm_rms_epsilon", "small"),
    ],
)
def test_metadata_that_garble_something_are_refused(
    tmp_path: Path, folder_of: Folder, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    to_gguf(folder_of(tmp_path / "hf"), tmp_path / "m.gguf", "f16")
    whole = Gguf.key
    monkeypatch.setattr(Gguf, "key", lambda file, name, more=None: value if name == key else whole(file, name, more))
    with pytest.raises(UsageError, match=r"m\.gguf: "):
        to_hf(tmp_path / "m.gguf", tmp_path / "back")
    if key == "tokenizer.ggml.tokens":
        with pytest.raises(UsageError, match="needed is missing or damaged"):
            answer(Capability.INSPECT, tmp_path / "m.gguf")
