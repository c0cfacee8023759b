"""Folders that were reported to become a wrong model without a word: each is converted rightly, or named and refused.

One row a mechanism, with its siblings. What is made is held against a forward pass that shares no code with the
converter.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import forward
import numpy as np
import pairs
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from profiles import examples
from trialbench.errors import UsageError
from trialbench.ground_truth.attribution.neighbors import other_numbers
from trialbench.ground_truth.model.checkpoint import Safetensors, write_safetensors
from trialbench.ground_truth.model.convert import to_gguf
from trialbench.ground_truth.model.origin import departures, stored
from trialbench.ground_truth.model.tensors import compare
from trialbench.ground_truth.model.weights import Gguf

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abcd\nsize 12\n"
DROPPED = object()
Tensors = dict[str, Any]


class Draft:
    """A folder that is changed before it is converted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def json(self, name: str, change: Callable[[dict[str, Any]], Any] | None = None, **keys: Any) -> Draft:
        """Change a file by a function, or by keys of which some are dropped."""
        path = self.path / name
        content = json.loads(path.read_text()) if path.exists() else {}
        content = {key: value for key, value in {**content, **keys}.items() if value is not DROPPED}
        if change is not None:
            change(content)
        path.write_text(json.dumps(content))
        return self

    def config(self, **keys: Any) -> Draft:
        return self.json("config.json", **keys)

    def settings(self, **keys: Any) -> Draft:
        return self.json("tokenizer_config.json", **keys)

    def tokenizer(self, change: Callable[[dict[str, Any]], Any]) -> Draft:
        return self.json("tokenizer.json", change)

    def tensors(self, change: Callable[[Tensors], Any]) -> Draft:
        path = self.path / "model.safetensors"
        tensors = self.read()
        change(tensors)
        write_safetensors(path, {name: np.asarray(value, np.float32) for name, value in tensors.items()})
        return self

    def read(self) -> Tensors:
        files = Safetensors(self.path)
        return {name: files.read(name) for name in files.names()}

    def text(self, name: str, content: str | bytes) -> Draft:
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return self

    def gone(self, *names: str) -> Draft:
        for name in names:
            (self.path / name).unlink()
        return self


Change = Callable[[Draft], Any]
# A refusal that says this, or what must hold for the file that is made.
Outcome = str | Callable[[Gguf, tuple[str, ...]], bool]
Row = tuple[Change, Outcome]


# What every file of qwen2 lacks.
COMPOSED = "llama.cpp does not compose characters"


def same(_file: Gguf, notes: tuple[str, ...]) -> bool:
    """Made, without a word about this folder; the forward pass is compared for all that are made."""
    return all(COMPOSED in note for note in notes)


def noted(text: str) -> Outcome:
    """Made, with words that hold this."""
    return lambda _file, notes: any(text in note for note in notes)


def keyed(key: str, value: Any) -> Outcome:
    return lambda file, _notes: file.key(key) == value


def added(name: str, *shape: int) -> Change:
    return lambda draft: draft.tensors(lambda t: t.update({name: np.ones(shape)}))


def reshaped(name: str, *shape: int) -> Change:
    return lambda draft: draft.tensors(lambda t: t.update({name: np.ones(shape)}))


def renamed(old: str, new: str) -> Change:
    return lambda draft: draft.tensors(lambda t: t.update({new: t.pop(old)}))


def config(**keys: Any) -> Change:
    return lambda draft: draft.config(**keys)


def settings(**keys: Any) -> Change:
    return lambda draft: draft.settings(**keys)


def tokenizer(**keys: Any) -> Change:
    return lambda draft: draft.tokenizer(lambda t: t.update(keys))


def model(**keys: Any) -> Change:
    return lambda draft: draft.tokenizer(lambda t: t["model"].update(keys))


def token(number: int, text: str, **flags: Any) -> dict[str, Any]:
    return {"id": number, "content": text, "special": True, **flags}


def with_tokens(*tokens: dict[str, Any]) -> Change:
    return lambda draft: draft.tokenizer(lambda t: t["added_tokens"].extend(tokens))


def placing(*single: str, ids: dict[str, list[int]] | None = None) -> Change:
    """A post-processor that puts tokens around the text, `A`."""
    known = {"<|end|>": [8], "<think>": [9], **(ids or {})}
    parts = [
        {"Sequence": {"id": "A", "type_id": 0}} if one == "A" else {"SpecialToken": {"id": one, "type_id": 0}}
        for one in single
    ]
    special = {one: {"id": one, "ids": known[one], "tokens": [one]} for one in single if one != "A"}
    return tokenizer(post_processor={"type": "TemplateProcessing", "single": parts, "special_tokens": special})


def in_sequence(draft: Draft) -> None:
    """The post-processor after one that changes no ids, as many files have it."""
    draft.tokenizer(
        lambda t: t.update(
            post_processor={"type": "Sequence", "processors": [{"type": "ByteLevel"}, t["post_processor"]]}
        )
    )


def both(*changes: Change) -> Change:
    def change(draft: Draft) -> None:
        for one in changes:
            one(draft)

    return change


def sharded(draft: Draft, *, spare: Tensors | None = None, listed: Iterable[str] = (), **index: Any) -> None:
    """Two shards and an index; `spare` lies in the second one on top of its own."""
    tensors = draft.read()
    draft.gone("model.safetensors")
    first = dict(list(tensors.items())[::2])
    second = {**dict(list(tensors.items())[1::2]), **(spare or {})}
    write_safetensors(draft.path / "a.safetensors", first)
    write_safetensors(draft.path / "b.safetensors", {k: np.asarray(v, np.float32) for k, v in second.items()})
    shard_of = {name: "a.safetensors" if name in first else "b.safetensors" for name in [*tensors, *listed]}
    (draft.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**shard_of, **index}}))


def with_stale_shards(draft: Draft) -> None:
    tensors = draft.read()
    sharded(draft)
    for path in draft.path.glob("?.safetensors"):
        path.write_bytes(b"older")
    write_safetensors(draft.path / "consolidated.safetensors", {"tok_embeddings.weight": np.ones(1, np.float32)})
    write_safetensors(draft.path / "model.safetensors", tensors)


def stored_raw(name: str, kind: str, values: bytes, shape: list[int]) -> Change:
    """A tensor of another type beside the others."""

    def change(draft: Draft) -> None:
        path = draft.path / "model.safetensors"
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header, body = {}, b""
        for other, entry in json.loads(raw[8:start]).items():
            if other not in (name, "__metadata__"):
                first, last = (start + place for place in entry["data_offsets"])
                header[other] = {**entry, "data_offsets": [len(body), len(body) + last - first]}
                body += raw[first:last]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(values)]}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body + values)

    return change


def with_biases(*parts: str) -> Change:
    """Biases of both layers of llama; a half-width `k` and `v`, a wider `gate` and `up`."""
    widths = {"q": 8, "k": 4, "v": 4, "o": 8, "gate": 12, "up": 12, "down": 8}
    names = {part: f"{'self_attn' if part in 'qkvo' else 'mlp'}.{part}_proj.bias" for part in parts}
    biases = {
        f"model.layers.{layer}.{name}": np.arange(1, widths[part] + 1) / (layer + 8)
        for layer in range(2)
        for part, name in names.items()
    }
    return lambda draft: draft.tensors(lambda t: t.update(biases))


def one_shard(draft: Draft) -> None:
    tensors = draft.read()
    name = "model-00001-of-00001.safetensors"
    (draft.path / "model.safetensors").rename(draft.path / name)
    draft.json("model.safetensors.index.json", weight_map=dict.fromkeys(tensors, name))


def moved(name: str) -> Change:
    return lambda draft: (draft.path / "model.safetensors").rename(draft.path / name)


def linked_to_nowhere(draft: Draft) -> None:
    draft.gone("model.safetensors")
    (draft.path / "model.safetensors").symlink_to("../../blobs/gone")


def spoilt(name: str, value: float) -> Change:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].flat[1] = value

    return lambda draft: draft.tensors(change)


def pipe(name: str) -> Change:
    def change(draft: Draft) -> None:
        (draft.path / name).unlink(missing_ok=True)
        os.mkfifo(draft.path / name)

    return change


def other_weights(name: str) -> Change:
    """Other numbers of the same names and shapes, in a file beside."""

    def change(draft: Draft) -> None:
        write_safetensors(draft.path / name, {key: value * 2 for key, value in draft.read().items()})

    return change


def with_metadata(said: Any) -> Change:
    """A header of the weights that says something of the whole file."""

    def change(draft: Draft) -> None:
        path = draft.path / "model.safetensors"
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        text = json.dumps({**json.loads(raw[8:start]), "__metadata__": said}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[start:])

    return change


def in_vocabulary(number: int, text: str) -> Change:
    """Another text for a token that no merge makes."""

    def change(said: dict[str, Any]) -> None:
        vocabulary = said["model"]["vocab"]
        said["model"]["vocab"] = {text if one == number else old: one for old, one in vocabulary.items()}

    return lambda draft: draft.tokenizer(change)


def kind_of(number: int, kind: int) -> Outcome:
    """What a token is: 1 a plain one, 3 one that is found in a text before it is cut."""
    return lambda file, _notes: file.key("tokenizer.ggml.token_type")[number] == kind


def linked_elsewhere(name: str) -> Change:
    return lambda draft: (draft.path / name).symlink_to("nowhere")


EOS, PRE, BASE = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre", "llama.rope.freq_base"
ROPE = {"rope_type": "default", "rope_theta": 5.0}
LAYER = "model.layers.0."
UP, DOWN, Q = f"{LAYER}mlp.up_proj.weight", f"{LAYER}mlp.down_proj.weight", f"{LAYER}self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
DIGITS_FIRST = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}| ?x"}, "behavior": "Isolated", "invert": False}


def altered(step: dict[str, Any], at: int, **keys: Any) -> dict[str, Any]:
    found = deepcopy(step)
    found["pretokenizers"][at].update(keys)
    return found


def _pre(architecture: str, at: int, **keys: Any) -> Change:
    return lambda draft: draft.tokenizer(lambda t: t.update(pre_tokenizer=altered(t["pre_tokenizer"], at, **keys)))


TENSORS: dict[str, tuple[str, list[Row]]] = {
    "tensors that no rule names": (
        "llama",
        [
            (added(f"{LAYER}self_attn.q_proj.bias", 8), "q_proj.bias (a bias)"),
            (added(f"{LAYER}mlp.down_proj.bias", 8), "down_proj.bias (a bias)"),
            (added("model.norm.bias", 8), "model.norm.bias (a norm of another family)"),
            (added("lm_head.bias", 12), "lm_head.bias (an output matrix"),
            (added(f"{LAYER}self_attn.q_norm.weight", 4), "q_norm.weight (a norm of another family)"),
            (added(f"{LAYER}pre_feedforward_layernorm.weight", 8), "(a norm of another family)"),
            (added(f"base_model.model.{Q.replace('weight', 'lora_A.weight')}", 2, 8), "an adapter that is not merged"),
            (added(f"{UP}_scale_inv", 1, 1), "(part of quantized weights)"),
            (added(f"{LAYER}mlp.up_proj.scales", 1, 12), "(part of quantized weights)"),
            (added("score.weight", 1, 8), "score.weight (a head for another task)"),
            (added("v_head.summary.weight", 1, 8), "(a head for another task)"),
            (added(f"{LAYER}mlp.experts.0.up_proj.weight", 12, 8), "(of a mixture of experts)"),
            (added("model.layers.2.mlp.up_proj.weight", 12, 8), "(of a layer beyond the 2 of config.json)"),
            (config(num_hidden_layers=1), "(of a layer beyond the 1 of config.json)"),
            (added("vision_tower.proj.weight", 1, 1), "(of another kind of input)"),
            (added("something.weight", 1), "something.weight (no tensor of this architecture)"),
            (added(f"{Q.replace('weight', 'lora_magnitude_vector')}", 8), "(part of an adapter that is not merged)"),
            (renamed(Q, Q.replace("weight", "base_layer.weight")), f"'{Q}', found {LAYER}self_attn.q_proj.base_layer"),
            (added("model.layers.0.self_attn.modules_to_save.default.weight", 8), "(part of an adapter"),
            (added("medusa_head.0.0.linear.weight", 8, 8), "medusa_head.0.0.linear.weight (no tensor"),
            (added("model.mtp.fc.weight", 8, 16), "model.mtp.fc.weight (no tensor"),
            (added(f"{LAYER}self_attn.k_scale"), "k_scale (part of quantized weights)"),
            (added(f"{UP}_scale_2"), "(part of quantized weights)"),
            (added(f"{LAYER}block_sparse_moe.gate.weight", 2, 8), "(of a mixture of experts)"),
            (added(f"{LAYER}post_feedforward_layernorm.weight", 8), "transformers would leave them out"),
        ],
    ),
    "biases of llama": (
        "llama",
        [
            (both(with_biases(*"qkvo"), config(attention_bias=True)), same),
            (both(with_biases("gate", "up", "down"), config(mlp_bias=True)), same),
            (both(with_biases(*"qkvo", "gate", "up", "down"), config(attention_bias=True, mlp_bias=True)), same),
            (config(attention_bias=True), f"expected a tensor '{LAYER}self_attn.q_proj.bias'"),
            (both(with_biases(*"qkv"), config(attention_bias=True)), f"a tensor '{LAYER}self_attn.o_proj.bias'"),
            (config(mlp_bias=True), f"expected a tensor '{LAYER}mlp.gate_proj.bias'"),
            (with_biases(*"qkvo"), "self_attn.k_proj.bias (a bias)"),
            (both(with_biases(*"qkvo"), config(mlp_bias=True)), "expected a tensor"),
            (both(with_biases(*"qkvo"), added(f"{LAYER}self_attn.k_proj.bias", 8), config(attention_bias=True)),
             "k_proj.bias': expected the shape [4] by config.json, found [8]"),
            (config(attention_bias="yes"), "attention_bias: expected true or false, found 'yes'"),
            (config(attention_bias=None, mlp_bias=False), same),
        ],
    ),
    "weights that are quantized, whatever the configuration says": (
        "llama",
        [
            (both(renamed(UP, UP.replace("weight", "qweight")), added(UP.replace("weight", "scales"), 1, 12)),
             f"'{UP}', found {LAYER}mlp.up_proj.qweight"),
            (renamed(UP, UP.replace("weight", "weight_packed")), f"'{UP}', found {LAYER}mlp.up_proj.weight_packed"),
            (renamed(UP, UP.replace("weight", "W_q")), f"'{UP}', found {LAYER}mlp.up_proj.W_q"),
            (stored_raw(UP, "I8", b"\1" * 96, [12, 8]), f"'{UP}' is I8, expected one of F64, F32, F16, BF16"),
            (stored_raw(UP, "F8_E4M3", b"\1" * 96, [12, 8]), "is F8_E4M3, expected one of"),
            (stored_raw(UP, "U8", b"\1" * 48, [48, 1]), f"'{UP}': expected the shape [12, 8]"),
            (both(stored_raw(UP, "U32", b"\1" * 48, [12, 1]), config(quantization={"bits": 4})),
             f"'{UP}': expected the shape [12, 8]"),
        ],
    ),
    "layers of other families": (
        "llama",
        [
            *((config(model_type=kind), f"expected one of llama, qwen2, gpt2, found '{kind}'") for kind in (
                "qwen3", "qwen2_moe", "gemma2", "gemma3_text", "phi3", "mistral", "mixtral", "glm4", "deepseek_v3")),
            (config(model_type=None), "found None"),
            (renamed(Q, Q.replace("q_proj", "qkv_proj")), f"expected a tensor '{Q}'"),
            (renamed(UP, UP.replace("up_proj", "gate_up_proj")), f"expected a tensor '{UP}'"),
            (config(sliding_window=64, architectures=["MistralForCausalLM"]), noted("read as LlamaForCausalLM")),
            (config(embedding_multiplier=12.0), noted("embedding_multiplier: 12.0: not used")),
            (config(auto_map={"AutoModelForCausalLM": "modeling_other.Other"}), noted("auto_map")),
        ],
    ),
    "buffers and heads that change nothing": (
        "llama",
        [
            (added(f"{LAYER}self_attn.rotary_emb.inv_freq", 2), same),
            (added("model.rotary_emb.inv_freq", 2), same),
            (stored_raw(f"{LAYER}self_attn.rotary_emb.inv_freq", "BOOL", b"\1\1", [2]), same),
            (lambda d: d.tensors(lambda t: t.update({HEAD: t[EMBEDDING]})), same),
            (lambda d: d.tensors(lambda t: t.update({HEAD: t[EMBEDDING][::-1]})), noted("differs from the embedding")),
            (renamed(EMBEDDING, HEAD), same),
            (both(renamed(EMBEDDING, HEAD), config(tie_word_embeddings=False)), f"expected a tensor '{EMBEDDING}'"),
            (config(tie_word_embeddings=False), f"expected a tensor '{HEAD}'"),
            (added(HEAD, 13, 8), "'lm_head.weight': expected the shape [12, 8]"),
        ],
    ),
    "the same of gpt2": (
        "gpt2",
        [
            (stored_raw("transformer.h.0.attn.bias", "U8", b"\1" * 4, [1, 1, 2, 2]), same),
            (stored_raw("h.0.attn.masked_bias", "BOOL", b"\1", []), same),
            (lambda d: d.tensors(lambda t: t.update({HEAD: t["transformer.wte.weight"]})), same),
            (added(HEAD, 12, 8), noted("differs from the embedding")),
            (both(added(HEAD, 12, 8), config(tie_word_embeddings=False)), same),
            (lambda d: d.tensors(lambda t: t.update({k[12:]: t.pop(k) for k in [*t]})), same),
            (lambda d: d.tensors(lambda t: t.update({"wte.weight": t["transformer.wte.weight"]})),
             "wte.weight (no tensor"),
            (added("transformer.h.0.crossattention.c_attn.weight", 8, 16), "crossattention.c_attn.weight"),
        ],
    ),
    "tensors that are not there": (
        "llama",
        [
            (lambda d: d.tensors(lambda t: t.pop(UP)), f"expected a tensor '{UP}'"),
            (renamed(UP, UP.replace("up_", "upper_")), f"expected a tensor '{UP}'"),
            (renamed(UP, UP.replace("weight", "qweight")), f"'{UP}', found {LAYER}mlp.up_proj.qweight"),
            (lambda d: d.tensors(lambda t: t.update({f"base_model.model.{k}": t.pop(k) for k in [*t]})),
             "expected a tensor"),
            (lambda d: d.tensors(lambda t: t.update({k[6:]: t.pop(k) for k in [*t]})), "expected a tensor"),
        ],
    ),
    "shapes": (
        "llama",
        [
            (reshaped(f"{LAYER}self_attn.k_proj.weight", 8, 4), "k_proj.weight': expected the shape [4, 8]"),
            (reshaped(f"{LAYER}self_attn.q_proj.weight", 16, 8), "q_proj.weight': expected the shape [8, 8]"),
            (reshaped("model.norm.weight", 1, 8), "model.norm.weight': expected the shape [8]"),
            (reshaped(UP, 96), "up_proj.weight': expected the shape [12, 8]"),
            (config(intermediate_size=24), "mlp.gate_proj.weight': expected the shape [24, 8]"),
            (config(num_key_value_heads=DROPPED), "k_proj.weight': expected the shape [8, 8]"),
            (config(vocab_size=13), "vocab_size: expected 12, the rows of model.embed_tokens.weight, found 13"),
            (reshaped(EMBEDDING, 12, 9), "expected the shape [12, 8]"),
            (added(HEAD, 8, 12), "expected the shape [12, 8]"),
        ],
    ),
    "numbers that are none": (
        "llama",
        [
            (spoilt(DOWN, np.nan), f"'{DOWN}': 1 of 96 values are NaN or infinite"),
            (spoilt("model.norm.weight", np.inf), "1 of 8 values are NaN or infinite"),
            (spoilt(EMBEDDING, -np.inf), "NaN or infinite"),
            (stored_raw("model.norm.weight", "F64", np.full(8, 1e300).tobytes(), [8]), "NaN or infinite"),
        ],
    ),
}  # fmt: skip
CONFIGURATION: dict[str, tuple[str, list[Row]]] = {
    "what changes the arithmetic": (
        "llama",
        [
            (config(hidden_act="relu"), "hidden_act: expected silu, found 'relu'"),
            (config(hidden_act="gelu"), "hidden_act"),
            (config(hidden_act="swish"), same),
            (config(attention_bias=False, mlp_bias=False, hidden_act="silu"), same),
            (config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantization_config"),
            (config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), "quantization_config"),
            (config(quantization_config=None, compression_config={}), same),
            (config(compression_config={"format": "int-quantized"}), "compression_config"),
            (config(pruned_heads={"0": [1]}), "pruned_heads"),
            (config(head_dim=16), "head_dim: expected 4, found 16"),
            (config(head_dim=None), same),
            (config(tie_word_embeddings="yes"), "tie_word_embeddings: expected true or false, found 'yes'"),
            (config(rms_norm_eps="1e-5"), "rms_norm_eps"),
            (config(rms_norm_eps=float("nan")), "rms_norm_eps"),
            (config(rms_norm_eps=DROPPED), "expected a number above 0 that float32 holds, found no such key"),
            (config(num_hidden_layers=True), "num_hidden_layers"),
            (config(num_attention_heads=3), "found 3 of 8 together"),
            (config(num_key_value_heads=0), "num_key_value_heads"),
            (config(num_attention_heads=8, num_key_value_heads=8), "even width"),
            (config(logits_scaling=8.0), noted("logits_scaling: 8.0: not used")),
            (config(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
            (config(architectures=["LlamaForSequenceClassification"]), "expected LlamaForCausalLM, a language model"),
            (config(architectures=["LlamaModel"]), noted("read as LlamaForCausalLM")),
            (config(architectures=[]), same),
            (config(model_type="Llama"), "found 'Llama'"),
            (config(rms_norm_eps=1e-50), "rms_norm_eps: expected a number above 0 that float32 holds, found 1e-50"),
            (config(rms_norm_eps=10**400), "rms_norm_eps: expected a number above 0 that float32 holds"),
            (config(rms_norm_eps=2.0**-126), same),
            (config(configuration_files=["config.4.0.0.json"]), "expected none: config.json itself"),
            (both(other_weights("more.safetensors"), config(transformers_weights="more.safetensors")),
             "transformers_weights: expected model.safetensors, found 'more.safetensors'"),
            (config(transformers_weights="model.safetensors", configuration_files=[]), same),
            (lambda d: d.text("config.json", (d.path / "config.json").read_text().encode("utf-16")),
             "is not JSON: 'utf-8'"),
        ],
    ),
    "rope in all its spellings": (
        "llama",
        [
            (config(rope_theta=5.0), keyed(BASE, 5.0)),
            (config(rope_theta=DROPPED), keyed(BASE, 10000.0)),
            (config(rope_parameters={"rope_type": "default", "rope_theta": 5.0}), keyed(BASE, 5.0)),
            (config(rope_parameters={"rope_theta": 5.0}, rope_theta=DROPPED), keyed(BASE, 5.0)),
            (config(rope_parameters={"rope_type": "default"}, rope_theta=5), keyed(BASE, 5.0)),
            (config(rope_scaling={"type": "default"}, rope_theta=5), keyed(BASE, 5.0)),
            (config(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling: expected rope_type default"),
            (config(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "rope_scaling: expected rope_type default"),
            (config(rope_scaling={"rope_type": "default", "type": "dynamic"}),
             "rope_scaling: expected rope_type default"),
            *((config(**{key: {"rope_type": kind, "factor": 4.0, "rope_theta": 5.0}}), f"{key}: expected rope_type")
              for key in ("rope_scaling", "rope_parameters")
              for kind in ("llama3", "yarn", "longrope", "su", "dynamic", "mrope", "linear")),
            (config(rope_scaling={"rope_type": None, "type": "linear", "factor": 2.0}), "expected rope_type default"),
            (config(rope_scaling={"type": "default", "factor": 2.0}, rope_theta=5.0), keyed(BASE, 5.0)),
            (config(rope_parameters={"rope_theta": 5.0}, rope_scaling={"type": "default"}, rope_theta=7.0),
             keyed(BASE, 7.0)),
            (config(rope_parameters={"rope_theta": 5.0}, rope_theta=7.0), keyed(BASE, 5.0)),
            (config(rope_parameters={"rope_theta": 5.0}, rope_scaling={"type": "yarn"}),
             "rope_scaling: expected rope_type"),
            (config(rope_parameters={"full_attention": {"rope_theta": 5.0}}), "expected one rotation for all layers"),
            (config(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (config(partial_rotary_factor=0.25), "partial_rotary_factor: expected 1, found 0.25"),
            (config(rope_scaling={"factor": 4.0}), noted("rope_scaling: factor: not used")),
            (config(rope_theta=None), "rope_theta: expected a number above 0 that float32 holds, found None"),
            (config(rope_theta="10000"), "rope_theta"),
            (config(rope_theta=-1.0), "rope_theta"),
            (config(rope_theta=1e39), "rope_theta: expected a number above 0 that float32 holds, found 1e+39"),
            (config(rope_theta=10**400), "rope_theta: expected a number above 0 that float32 holds"),
            (config(rope_scaling="linear"), "rope_scaling: expected a mapping"),
            (config(rope_scaling=None), same),
        ],
    ),
    "what masks and cache read of every architecture": (
        "llama",
        [
            (config(is_causal=True), same),
            (config(is_causal=False), "is_causal: expected true, found False"),
            (config(is_causal=None), "is_causal: expected true, found None"),
            (config(sliding_window=4), "sliding_window: expected none that is shorter than the 64 positions, found 4"),
            (config(sliding_window=0), "sliding_window: expected none that is shorter"),
            (config(sliding_window=64), same),
            (config(sliding_window=None), same),
            (config(sliding_window=4, layer_types=["full_attention"] * 2), same),
            (config(attention_chunk_size=8), "attention_chunk_size: expected none that is shorter"),
            (config(attention_chunk_size=8192), same),
            (config(per_layer_config={"1": {"sliding_window": 4}}), "per_layer_config: expected the same for all"),
            (config(per_layer_config={}), same),
            (config(kv_sharing_modes=["store", "reuse"]), "kv_sharing_modes: expected none"),
        ],
    ),
    "what they read of gpt2": (
        "gpt2",
        [
            (config(is_causal=False), "is_causal: expected true"),
            (config(sliding_window=4), "sliding_window: expected none that is shorter than the 16 positions"),
            (config(sliding_window=16), same),
            (config(layer_types=["full_attention", "sliding_attention"]), "layer_types: expected full_attention alone"),
            (config(layer_types=["full_attention"] * 2), same),
        ],
    ),
    "rope by type of layer": (
        "qwen2",
        [
            (config(rope_parameters={"full_attention": ROPE}), keyed("qwen2.rope.freq_base", 5.0)),
            (config(rope_parameters={"full_attention": ROPE, "sliding_attention": {"rope_theta": 1.0}}),
             keyed("qwen2.rope.freq_base", 5.0)),
            (config(rope_parameters={"full_attention": {"rope_type": "default"}}, rope_theta=7.0),
             keyed("qwen2.rope.freq_base", 7.0)),
            (config(rope_parameters={"full_attention": ROPE}, layer_types=["full_attention"]), same),
            (config(rope_parameters={"full_attention": ROPE}, layer_types=["sliding_attention"]), "layer_types"),
            (config(rope_parameters={"full_attention": {**ROPE, "rope_type": "yarn", "factor": 4.0}}),
             "rope_parameters: expected rope_type default"),
            (config(rope_parameters={"sliding_attention": ROPE}), "expected one rotation for all layers"),
            (config(rope_parameters={"full_attention": None}), "expected one rotation for all layers"),
        ],
    ),
    "windows of qwen2": (
        "qwen2",
        [
            (config(is_causal=False), "is_causal: expected true"),
            (config(use_sliding_window=True, sliding_window=4, max_window_layers=0), "use_sliding_window"),
            (config(use_sliding_window=True, sliding_window=4, max_window_layers=1), same),
            (config(use_sliding_window=True, sliding_window=64, max_window_layers=0), same),
            (config(use_sliding_window=True, sliding_window=None), same),
            (config(use_sliding_window=False, sliding_window=4), same),
            (config(layer_types=["sliding_attention"]), "layer_types: expected full_attention alone"),
            (config(layer_types=["full_attention"], use_sliding_window=False), same),
            (config(layer_types=["full_attention"] * 3), "layer_types: expected 1, one for each layer, found 3"),
            (config(num_key_value_heads=DROPPED), "num_key_value_heads: expected a divisor of 2, found 32"),
            (added(f"{LAYER}self_attn.o_proj.bias", 8), "o_proj.bias (a bias)"),
            (added(f"{LAYER}self_attn.q_norm.weight", 4), "q_norm.weight (a norm of another family)"),
            (lambda d: d.tensors(lambda t: t.pop(f"{LAYER}self_attn.k_proj.bias")), "expected a tensor"),
            (config(attention_bias=False), same),
            (config(use_mrope=False), same),
            (config(rope_scaling={"type": "mrope", "mrope_section": [1, 1]}), "expected rope_type default"),
            (config(tie_word_embeddings=True), noted("differs from the embedding")),
            (both(config(tie_word_embeddings=True), lambda d: d.tensors(lambda t: t.pop(HEAD))), same),
            (config(hidden_act="gelu"), "hidden_act: expected silu"),
        ],
    ),
    "flags of gpt2": (
        "gpt2",
        [
            (config(activation_function="relu"), "activation_function: expected gelu_new, found 'relu'"),
            (config(activation_function="gelu"), "activation_function"),
            (config(activation_function="gelu_fast"), same),
            (config(scale_attn_weights=False), "scale_attn_weights: expected true, found False"),
            (config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
            (config(add_cross_attention=True), "add_cross_attention"),
            (config(reorder_and_upcast_attn=True), same),
            (config(n_inner=16), "mlp.c_fc.weight': expected the shape [8, 16]"),
            (config(n_positions=8), "wpe.weight': expected the shape [8, 8]"),
            (config(n_embd=DROPPED, hidden_size=8), same),
            (config(hidden_size=16), "hidden_size: expected 8, that of n_embd, found 16"),
            (config(layer_norm_epsilon=0), "layer_norm_epsilon"),
            (config(intermediate_size=64), noted("intermediate_size: 64: not used")),
        ],
    ),
}  # fmt: skip
FILES: dict[str, tuple[str, list[Row]]] = {
    "the files that transformers would load": (
        "llama",
        [
            (sharded, same),
            (with_stale_shards, same),
            (lambda d: sharded(d, spare={EMBEDDING: np.ones((12, 8))}), noted("its copy of")),
            (lambda d: sharded(d, spare={"extra.weight": np.ones(1)}),
             "expected every tensor of its shards, found none for"),
            (lambda d: sharded(d, listed=["lost.weight"]), "expected 'lost.weight' in b.safetensors"),
            (lambda d: sharded(d, spare={"more.weight": np.ones(1)}, listed=["more.weight"]), "more.weight (no tensor"),
            (lambda d: sharded(d, **{UP: "../b.safetensors"}), "expected names of files beside it"),
            (lambda d: sharded(d, **{UP: 5}), "expected names of files beside it"),
            (both(sharded, lambda d: d.gone("b.safetensors")), "b.safetensors: cannot be read"),
            (both(sharded, lambda d: d.gone("model.safetensors.index.json")), "found a.safetensors, safetensors that"),
            (one_shard, same),
            (both(one_shard, lambda d: d.gone("model.safetensors.index.json")),
             "model-00001-of-00001.safetensors, one shard of several: fetch model.safetensors.index.json"),
            (moved("consolidated.00.safetensors"), "weights under names of another library: fetch model.safetensors"),
            (linked_to_nowhere, "found model.safetensors, a link to a file that is not there: fetch the model again"),
            (both(sharded, lambda d: d.text("a.safetensors", POINTER)), "a.safetensors: is a Git LFS pointer"),
            (both(sharded, lambda d: d.text("model.safetensors.index.json", POINTER)), "is a Git LFS pointer"),
            (both(sharded, lambda d: d.text("model.safetensors.index.json", "{}")), "'weight_map'"),
            (lambda d: d.text("vocab.json", "{}").text("merges.txt", "").text("tokenizer.model", b"\0"), same),
            (both(sharded, lambda d: d.json("model.safetensors.index.json", weight_map={})),
             "weight_map: expected a shard"),
            (moved("pytorch_model.bin"), "pytorch_model.bin, a pickle"),
            (moved("model.pt"), "model.pt, a pickle"),
            (moved("weights.gguf"), "weights.gguf, a GGUF"),
            (moved("x.safetensors"), "name it model.safetensors"),
            (moved("model.onnx"), "model.onnx, weights of another framework"),
            (moved("model.safetensors.incomplete"), "an unfinished download: fetch the model again"),
            (lambda d: d.text("adapters.safetensors", b""), "found adapters.safetensors, an adapter"),
            (lambda d: d.text("model.safetensors", "# xet version 0\nfilesize = 1\n"), "is a git-xet pointer"),
            (lambda d: d.text("model.safetensors", "<!DOCTYPE html><html>Log in</html>"), "is a web page"),
            (lambda d: d.text("tokenizer.json", "\n<html>"), "tokenizer.json: is a web page, not the file"),
            (with_metadata({"format": 1}), "__metadata__: expected texts"),
            (with_metadata([]), "__metadata__: expected texts"),
            (with_metadata(None), same),
            (with_metadata({"format": "mlx"}), same),
            *((pipe(name), f"{name}: expected a file, found a folder, a pipe or a device") for name in (
                "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")),
            (pipe("config.json"), "found no config.json"),
            (pipe("model.safetensors"), "found model.safetensors, which is a folder or a pipe"),
            (moved("model.fp16.safetensors"), "name it model.safetensors"),
            (lambda d: d.gone("model.safetensors"), "expected model.safetensors, found no weights"),
            (lambda d: d.text("model.safetensors", POINTER), "is a Git LFS pointer"),
            (lambda d: d.text("model.safetensors", "/annex/objects/SHA256E-s1--ab\n"), "is a git-annex pointer"),
            (lambda d: d.text("model.safetensors", b"PK\3\4" + b"\0" * 40), "is a pickle, not a safetensors file"),
            (lambda d: d.text("model.safetensors", b"GGUF" + b"\0" * 40), "is a GGUF, not a safetensors file"),
            (lambda d: d.text("model.safetensors", b""), "is not a safetensors file"),
            (lambda d: d.text("tokenizer.json", POINTER), "tokenizer.json: is a Git LFS pointer"),
            (lambda d: d.text("config.json", POINTER), "config.json: is a Git LFS pointer"),
            (lambda d: d.text("chat_template.jinja", POINTER), "chat_template.jinja: is a Git LFS pointer"),
            (lambda d: d.text("adapter_config.json", '{"base_model_name_or_path": "some/base"}'),
             "merge it into some/base"),
            (lambda d: d.text("adapter_model.safetensors", b""), "an adapter that is not merged"),
            (both(lambda d: d.text("adapter_config.json", "{}"), lambda d: d.gone("config.json")), "an adapter"),
            (lambda d: d.gone("config.json"), "found no config.json"),
            (lambda d: d.gone("tokenizer.json"), "tokenizer.json: cannot be read"),
            (linked_elsewhere("notes.txt"), same),
            (linked_elsewhere("generation_config.json"), "generation_config.json: cannot be read"),
            (lambda d: d.text("config.json", b"\xef\xbb\xbf" + (d.path / "config.json").read_bytes()), same),
        ],
    ),
}  # fmt: skip
TOKENIZER: dict[str, tuple[str, list[Row]]] = {
    "steps before the words": (
        "llama",
        [
            (tokenizer(normalizer={"type": "Lowercase"}), "normalizer: expected none"),
            (tokenizer(normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": " "}), "normalizer"),
            (tokenizer(normalizer={"type": "Prepend", "prepend": "_"}), "normalizer"),
            (tokenizer(normalizer={"type": "NFC"}), "normalizer"),
            (tokenizer(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}), "normalizer"),
            (tokenizer(normalizer={"type": "Sequence", "normalizers": []}), same),
            (tokenizer(decoder={"type": "Metaspace"}), "decoder: expected ByteLevel, found Metaspace"),
            (tokenizer(decoder=None), "decoder: expected ByteLevel, found none"),
            (settings(add_prefix_space=True), "add_prefix_space: expected false, found True"),
            (settings(split_special_tokens=True), "split_special_tokens"),
            (tokenizer(truncation={"max_length": 4}), noted("truncation: not in the file")),
            (settings(tokenizer_truncation={"max_length": 4}), noted("tokenizer_truncation: not in the file")),
            (settings(fast_tokenizer_files=["tokenizer.4.0.0.json"]), "expected tokenizer.json alone"),
            (settings(fast_tokenizer_files=["tokenizer.json"]), same),
            (settings(auto_map={"AutoTokenizer": ["other.Other", None]}), noted("that comes with the model: not run")),
            (settings(tokenizer_class="GPT2Tokenizer"), noted("GPT2Tokenizer cuts text as gpt-2")),
            (config(tokenizer_class="GPT2TokenizerFast"), noted("GPT2Tokenizer cuts text as gpt-2")),
            (settings(tokenizer_class="Qwen2TokenizerFast"), "expected that of qwen2, which transformers takes"),
            *((settings(tokenizer_class=kind), same) for kind in (
                "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "TokenizersBackend", None)),
            (settings(tokenizer_class="CodeLlamaTokenizer"), noted("CodeLlamaTokenizer: not used: text is cut as")),
            (tokenizer(normalizer={"type": "Prepend"}, pre_tokenizer=None), "expected that of gpt-2"),
        ],
    ),
    "a class of its own, by the architecture": (
        "gpt2",
        [
            (tokenizer(pre_tokenizer=DIGITS_FIRST), noted("GPT2Tokenizer cuts text as gpt-2")),
            (both(tokenizer(pre_tokenizer=DIGITS_FIRST), settings(tokenizer_class="PreTrainedTokenizerFast")),
             keyed(PRE, "smollm")),
            (settings(added_tokens_decoder={"8": token(8, "<|end|>")}), "added_tokens_decoder: expected '<think>' of"),
            (both(in_vocabulary(7, "<|endoftext|>"), settings(unk_token=DROPPED)), kind_of(7, 3)),
            (both(in_vocabulary(7, "<|endoftext|>"), settings(bos_token=None)), kind_of(7, 1)),
            (both(in_vocabulary(7, "<|endoftext|>"),
                  settings(unk_token=DROPPED, tokenizer_class="PreTrainedTokenizerFast")), kind_of(7, 1)),
            (settings(bos_token=DROPPED), noted("bos_token: '<|endoftext|>' is no token of tokenizer.json")),
            (settings(bos_token=None), same),
            (both(settings(added_tokens_decoder={"8": token(8, "<|end|>")}),
                  settings(tokenizer_class="PreTrainedTokenizerFast")), same),
        ],
    ),
    "how text is cut into words": (
        "llama",
        [
            (_pre("llama", 0, individual_digits=False), "expected that of gpt-2, smollm or qwen2"),
            (_pre("llama", 1, add_prefix_space=True), "expected that of gpt-2"),
            (_pre("llama", 1, use_regex=False), "expected that of gpt-2"),
            (_pre("llama", 1, trim_offsets=False), same),
            (tokenizer(pre_tokenizer=SPLIT), "expected that of gpt-2"),
            (tokenizer(pre_tokenizer={"type": "Whitespace"}), "expected that of gpt-2"),
            (tokenizer(pre_tokenizer=None), "expected that of gpt-2"),
            (tokenizer(pre_tokenizer=BYTE_LEVEL), keyed(PRE, "gpt-2")),
            (tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}), keyed(PRE, "gpt-2")),
            (tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": DIGITS_FIRST["pretokenizers"][::-1]}),
             "expected that of gpt-2"),
            (tokenizer(pre_tokenizer={"type": "Metaspace", "replacement": "\u2581"}), "expected that of gpt-2"),
            (tokenizer(pre_tokenizer={"type": "ByteLevel"}), "expected that of gpt-2"),
        ],
    ),
    "the pattern of qwen2": (
        "qwen2",
        [
            (_pre("qwen2", 0, behavior="Removed"), "expected that of gpt-2"),
            (_pre("qwen2", 0, invert=True), "expected that of gpt-2"),
            (_pre("qwen2", 0, pattern={"Regex": r"\p{L}+|\p{N}|\s+"}), "expected that of gpt-2"),
            (_pre("qwen2", 0, pattern={"String": " "}), "expected that of gpt-2"),
            (_pre("qwen2", 1, use_regex=True), "expected that of gpt-2"),
            (tokenizer(pre_tokenizer=BYTE_LEVEL), "expected that of qwen2"),
            (tokenizer(normalizer={"type": "NFC"}), noted(COMPOSED)),
            (tokenizer(normalizer=None), noted(COMPOSED)),
            (tokenizer(normalizer={"type": "NFKC"}), "normalizer: expected none"),
        ],
    ),
    "the vocabulary and its merges": (
        "llama",
        [
            *((model(type=kind), f"expected a byte-level BPE tokenizer, found {kind}")
              for kind in ("Unigram", "WordPiece", "WordLevel")),
            (lambda d: d.tokenizer(lambda t: t["model"].pop("type")), same),
            (model(ignore_merges=True), "model.ignore_merges: expected none, found True"),
            (model(end_of_word_suffix="</w>"), "model.end_of_word_suffix"),
            (model(continuing_subword_prefix="##"), "model.continuing_subword_prefix"),
            (model(byte_fallback=True), "model.byte_fallback"),
            (model(dropout=0.1), "model.dropout"),
            (model(unk_token="a"), "model.unk_token"),
            (model(ignore_merges=False, dropout=None, end_of_word_suffix="", unk_token=None), same),
            (model(merges=[]), "model.merges: expected some, found none"),
            (model(merges=["a b", "b c", "a b"]), "expected each pair once, found 'a b' twice"),
            (model(merges=["a d"]), "'a d': expected 'ad' in the vocabulary"),
            (model(merges=["z a"]), "'z a': expected 'z' in the vocabulary"),
            (model(merges=["a b c"]), "expected two texts without blanks"),
            (model(merges=[["a b", "c"]]), "expected two texts without blanks"),
            (model(merges=["#version: 0.2", "a b"]), keyed("tokenizer.ggml.merges", ["a b"])),
            (lambda d: d.tokenizer(lambda t: (t.update(added_tokens=[]), t["model"].update(
                vocab={"a": 0, "#version": 1, "#versiona": 2, "<|end|>": 3}, merges=[["#version", "a"]]))),
             keyed("tokenizer.ggml.merges", ["#version a"])),
            (lambda d: d.tokenizer(lambda t: t["model"]["vocab"].update(e=7)), "the id 7 is that of 'd' and of 'e'"),
            (lambda d: d.tokenizer(lambda t: t["model"]["vocab"].update(e=-1)), "expected a text and its id"),
            (lambda d: d.tokenizer(lambda t: t["model"]["vocab"].update(e="7")), "expected a text and its id"),
            (lambda d: d.tokenizer(lambda t: t["model"]["vocab"].update(e=12)), "a token id of 12, expected less than"),
            (with_tokens(token(10, "[PAD11]")), lambda file, _: (
                file.key("tokenizer.ggml.tokens")[10:] == ["[PAD11]", "[[PAD11]]"])),
        ],
    ),
    "added tokens, wherever they are declared": (
        "llama",
        [
            (with_tokens(token(10, "a")), "'a': expected the id 0, as the library counts, found 10"),
            (with_tokens(token(10, "<think>")), "'<think>': expected the id 9"),
            (with_tokens(token(11, "<x>")), "'<x>': expected the id 10, as the library counts, found 11"),
            (with_tokens(token(10, "<x>")), same),
            (with_tokens(token(10, "<x>"), token(11, "<y>"), token(12, "<z>")), "a token id of 12, expected less than"),
            (with_tokens(token(10, "")), "added_tokens: expected a text, found ''"),
            (with_tokens(token(10, "<x>", lstrip=True)), "'<x>': lstrip: expected false"),
            (with_tokens(token(10, "<x>", rstrip=True)), "'<x>': rstrip: expected false"),
            (with_tokens(token(10, "<x>", single_word=True)), "'<x>': single_word: expected false"),
            (lambda d: d.text("added_tokens.json", '{"<x>": 10}'),
             "added_tokens.json: '<x>' with the id 10: expected it in"),
            (lambda d: d.text("added_tokens.json", '{"<think>": 9}'), same),
            (settings(added_tokens_decoder={"10": token(10, "<x>")}),
             "'<x>' with the id 10: expected it in tokenizer.json"),
            (settings(added_tokens_decoder={"8": token(8, "<think>")}), "'<think>' with the id 8"),
            (settings(added_tokens_decoder={"9": {"content": "<think>", "rstrip": True}}), "'<think>': rstrip"),
            (settings(added_tokens_decoder={"9": {"content": "<think>", "special": True}}), lambda file, _: (
                file.key("tokenizer.ggml.token_type")[8:10] == [3, 3])),
            (settings(extra_special_tokens=["<think>"]), lambda file, _: file.key("tokenizer.ggml.token_type")[9] == 3),
            (settings(additional_special_tokens=["<none>"]), noted("'<none>' is no token of tokenizer.json")),
            (settings(pad_token="[PAD]"), noted("pad_token: '[PAD]' is no token of tokenizer.json")),
            (settings(eos_token=8), "eos_token: expected a token, found 8"),
            (settings(pad_token=["<|end|>"]), "pad_token: expected a token, found ['<|end|>']"),
            (settings(add_bos_token=False, sep_token=None), same),
            (settings(mask_token="d"), lambda file, _: file.key("tokenizer.ggml.token_type")[7] == 3),
            (settings(image_token="<think>"), lambda file, _: file.key("tokenizer.ggml.token_type")[9] == 3),
            (settings(image_token={"content": "d", "__type": "AddedToken"}), kind_of(7, 3)),
            # A bare mapping is a token only under a key that every class has.
            (settings(image_token={"content": "d"}), kind_of(7, 1)),
            (settings(mask_token={"content": "d"}), kind_of(7, 3)),
            (settings(extra_special_tokens={"x_token": "d"}), kind_of(7, 3)),
            (settings(model_specific_special_tokens={"x_token": "d"}), kind_of(7, 3)),
            (settings(model_specific_special_tokens={"x_token": "d"}, y_token="c"), kind_of(7, 1)),
            (settings(extra_special_tokens=["c"], additional_special_tokens=["d"]), lambda file, _: (
                file.key("tokenizer.ggml.token_type")[2] == 3 and file.key("tokenizer.ggml.token_type")[7] == 1)),
            (both(settings(extra_special_tokens=["c"]),
                  lambda d: d.text("special_tokens_map.json", '{"extra_special_tokens": ["d"]}')), lambda file, _: (
                file.key("tokenizer.ggml.token_type")[2] == file.key("tokenizer.ggml.token_type")[7] == 3)),
            (lambda d: d.text("special_tokens_map.json", '{"additional_special_tokens": ["d"]}'), kind_of(7, 3)),
            (lambda d: d.text("special_tokens_map.json", '{"sep_token": {"content": "d"}}'), kind_of(7, 3)),
            (both(settings(added_tokens_decoder={}),
                  lambda d: d.text("special_tokens_map.json", '{"sep_token": "d"}')), kind_of(7, 1)),
            (settings(image_token="<image>"), noted("image_token: '<image>' is no token of tokenizer.json")),
            (settings(mask_token={"content": "d", "lstrip": True}), "mask_token: 'd': lstrip: expected false"),
            (settings(mask_token={"content": "<think>", "lstrip": True}), lambda file, _: (
                file.key("tokenizer.ggml.token_type")[9] == 3)),
            (with_tokens(token(9, "<think>")), lambda file, _: file.key("tokenizer.ggml.token_type")[9] == 3),
        ],
    ),
    "texts that llama.cpp knows by heart": (
        "llama",
        [
            *((with_tokens(token(10, text)), noted(f"eos_token_id: llama.cpp also ends at {text}, by the text"))
              for text in ("</s>", "[PAD]", "<PAD>", "<eos>", "<|file_sep|>", "<|repo_name|>", "<|fim_pad|>")),
            (both(with_tokens(token(10, "</s>")), config(eos_token_id=[8, 10])), same),
            (both(with_tokens(token(10, "[PAD]")), config(eos_token_id=[8, 10])),
             keyed("tokenizer.ggml.eot_token_id", 10)),
            (with_tokens(token(10, "<|repo_name|>", special=False)), noted("takes such a text for a control token")),
            (with_tokens(token(10, "<|fim_prefix|>", special=False)), noted("<|fim_prefix|>: llama.cpp takes such a")),
            (with_tokens(token(10, "<|fim_prefix|>")), same),
            (in_vocabulary(7, "</s>"), noted("</s>: llama.cpp takes such a text for a control token, which it finds")),
            (with_tokens(token(10, "<|channel|>")), noted("<|channel|>: llama.cpp takes such a text for a token that")),
            (with_tokens(token(10, "<|channel|>", special=False)), same),
            (in_vocabulary(7, "\u65e5\u672c"), noted("characters that stand for no byte in '\u65e5\u672c'")),
            (in_vocabulary(7, "two words"), noted("no byte in 'two words' (1 such tokens in all): llama")),
            (with_tokens(token(10, "\u65e5\u672c")), same),
        ],
    ),
    "added tokens that overlap": (
        "llama",
        [
            (with_tokens(token(10, "xy"), token(11, "yzz")), noted("llama.cpp finds other ones in 'xyzz'")),
            (with_tokens(token(10, "xy"), token(11, "yz")), noted("llama.cpp finds other ones in 'xyz'")),
            (with_tokens(token(10, "xxy"), token(11, "yz")), same),
            (with_tokens(token(10, "  "), token(11, "   ")), same),
            (with_tokens(token(10, "<a"), token(11, "<a>")), same),
            (with_tokens(token(10, "<a>"), token(11, "x<a>", normalized=True)), noted("other ones in 'x<a>'")),
            (with_tokens(token(10, "<a>", normalized=True), token(11, "x<a>")), same),
            (with_tokens(token(10, "<a>"), token(11, "x<a>")), same),
        ],
    ),
    "tokens around each text": (
        "llama",
        [
            (tokenizer(post_processor={"type": "ByteLevel", "trim_offsets": False}), same),
            (placing("A"), keyed("tokenizer.ggml.add_bos_token", False)),
            (placing("<|end|>", "A"), lambda file, _: (
                file.key("tokenizer.ggml.add_bos_token") is True and file.key("tokenizer.ggml.bos_token_id") == 8)),
            (both(placing("<think>", "A"), settings(bos_token="<think>")), keyed("tokenizer.ggml.bos_token_id", 9)),
            (both(placing("<think>", "A"), settings(bos_token="a")), "expected the bos_token, token 0, found 9"),
            (placing("A", "<|end|>"), keyed("tokenizer.ggml.add_eos_token", True)),
            (placing("A", "<think>"), "post_processor: expected the end, token 8, found 9 after each"),
            (placing("<think>", "<|end|>", "A"), "expected at most one token before and after each text"),
            (placing("<think>"), "expected at most one token before and after each text"),
            (placing("<|end|>", "A", ids={"<|end|>": [7]}), "expected one token of the vocabulary"),
            (tokenizer(post_processor={"type": "BertProcessing", "sep": ["a", 0]}), "expected TemplateProcessing"),
            (tokenizer(post_processor={"type": "RobertaProcessing", "sep": ["a", 0]}), "expected TemplateProcessing"),
            (both(placing("<|end|>", "A"), in_sequence), lambda file, _: (
                file.key("tokenizer.ggml.add_bos_token") is True and file.key("tokenizer.ggml.bos_token_id") == 8)),
            (both(placing("<|end|>", "A", "<|end|>"), settings(bos_token="<|end|>")), lambda file, _: (
                file.key("tokenizer.ggml.add_bos_token") is True and file.key("tokenizer.ggml.add_eos_token") is True)),
            (settings(bos_token="<think>", add_bos_token=True), lambda file, notes: (
                file.key("tokenizer.ggml.add_bos_token") is False and "add_bos_token: not used" in notes[0])),
            (settings(add_eos_token=True), same),
        ],
    ),
    "what ends a sequence": (
        "llama",
        [
            (config(eos_token_id=5), keyed(EOS, 5)),
            (config(eos_token_id=[5, 6]), lambda file, _: (
                [file.key(f"tokenizer.ggml.{one}_token_id") for one in ("eos", "eot", "eom")] == [5, 6, None])),
            (config(eos_token_id=[5, 6, 7, 4]), "eos_token_id: expected at most three ends"),
            (config(eos_token_id=[8, 5]), same),
            (config(eos_token_id=5), noted("eos_token_id: llama.cpp also ends at <|end|>, by the text")),
            (both(in_vocabulary(7, "<|im_end|>"), lambda d: d.json("generation_config.json", eos_token_id=[5, 6])),
             noted("generation_config.json: eos_token_id: llama.cpp also ends at <|end|>, <|im_end|>, by the text")),
            (config(eos_token_id=-1), keyed(EOS, 8)),
            (config(eos_token_id=[]), keyed(EOS, 8)),
            (config(eos_token_id=[-1, 5]), keyed(EOS, 5)),
            (config(eos_token_id=12), "eos_token_id: expected ids below vocab_size, 12, found 12"),
            (config(eos_token_id="5"), "eos_token_id: expected ids"),
            (config(eos_token_id=True), "eos_token_id: expected ids"),
            (both(config(eos_token_id=5), lambda d: d.json("generation_config.json", eos_token_id=6)),
             keyed(EOS, 6)),
            (both(config(eos_token_id=5), lambda d: d.json("generation_config.json", eos_token_id=None)),
             keyed(EOS, 5)),
            (both(settings(eos_token=None), config(eos_token_id=None),
             lambda d: d.json("generation_config.json", eos_token_id=[4])),
             keyed(EOS, 4)),
            (both(settings(eos_token="<none>"), config(eos_token_id=5)), keyed(EOS, 5)),
            (both(settings(eos_token=None), config(eos_token_id=None)), "expected an end of sequence"),
            (both(settings(eos_token=DROPPED), config(eos_token_id=None),
                  lambda d: d.text("special_tokens_map.json", '{"eos_token": "<think>"}')),
             keyed(EOS, 9)),
            (config(pad_token_id=-1), lambda file, _: "tokenizer.ggml.padding_token_id" not in file.metadata),
            (config(pad_token_id=12), lambda file, _: "tokenizer.ggml.padding_token_id" not in file.metadata),
            (config(pad_token_id=3), keyed("tokenizer.ggml.padding_token_id", 3)),
            (config(bos_token_id=-1), keyed("tokenizer.ggml.bos_token_id", 8)),
        ],
    ),
}  # fmt: skip
NAMED = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D\r\n"}]
TEMPLATES: dict[str, tuple[str, list[Row]]] = {
    "templates": (
        "llama",
        [
            (settings(chat_template="one\r\ntwo\rthree"), keyed("tokenizer.chat_template", "one\ntwo\nthree")),
            (lambda d: d.text("chat_template.jinja", b"file\r\nhere"), keyed("tokenizer.chat_template", "file\nhere")),
            (settings(chat_template=NAMED), lambda file, notes: (
                file.key("tokenizer.chat_template") == "D\n" and file.key("tokenizer.chat_template.rag") == "R"
                and file.key("tokenizer.chat_templates") == ["rag"] and "rag, default" in notes[0])),
            (settings(chat_template=NAMED[:1]), lambda file, notes: (
                "tokenizer.chat_template" not in file.metadata and "no default" in notes[0])),
            (lambda d: d.text("additional_chat_templates/rag.jinja", "R").text("chat_template.jinja", "D"),
             keyed("tokenizer.chat_template.rag", "R")),
            (lambda d: d.text("additional_chat_templates/rag.jinja", "R"),
             lambda file, _: "tokenizer.chat_template" not in file.metadata),
            (both(settings(chat_template=DROPPED), lambda d: d.text("chat_template.json", "{}")),
             noted("is a processor's")),
            (settings(chat_template=[{"name": "default"}]), "chat_template: expected a text, or a list of names"),
            (settings(chat_template=5), "chat_template: expected a text, or a list of names"),
            (settings(chat_template=[{"name": "a b", "template": "x"}]), "expected a name of letters, digits and _"),
            (lambda d: d.text("chat_template.jinja", b"caf\xe9"),
             "chat_template.jinja: expected UTF-8, found byte 0xe9 at 3"),
            (settings(chat_template=None), lambda file, _: "tokenizer.chat_template" not in file.metadata),
            *((change, lambda file, notes: (
                "tokenizer.chat_template" not in file.metadata and "default: empty" in notes[0]))
              for change in (settings(chat_template=""), lambda d: d.text("chat_template.jinja", ""))),
            (settings(chat_template=[*NAMED, {"name": "tool", "template": ""}]), lambda file, notes: (
                file.key("tokenizer.chat_templates") == ["rag"] and "tool: empty" in notes[0])),
        ],
    ),
}  # fmt: skip
ROWS = {**TENSORS, **CONFIGURATION, **FILES, **TOKENIZER, **TEMPLATES}


@pytest.mark.parametrize("mechanism", ROWS)
def test_a_folder_is_converted_rightly_or_refused_by_name(
    mechanism: str, tmp_path: Path, folder_of: Callable[..., Path]
) -> None:
    architecture, rows = ROWS[mechanism]
    for number, (change, outcome) in enumerate(rows):
        draft = Draft(folder_of(tmp_path / str(number), architecture, eos_token_id=8))
        change(draft)
        target = tmp_path / f"{number}.gguf"
        at = f"{mechanism}, row {number}"
        if isinstance(outcome, str):
            with pytest.raises(UsageError) as caught:
                to_gguf(draft.path, target, "f32")
            assert outcome in str(caught.value), at
            assert not target.exists(), at
            continue
        notes = to_gguf(draft.path, target, "f32")
        assert outcome(Gguf(target), notes), f"{at}: {notes}"
        expected = forward.from_folder(draft.path)
        assert np.allclose(forward.from_gguf(target).logits([1, 2, 3]), expected.logits([1, 2, 3]), atol=1e-4), at
    assert not list(tmp_path.glob(".*")), mechanism


def test_a_cast_that_makes_infinity_is_refused(tmp_path: Path, folder_of: Callable[..., Path]) -> None:
    draft = Draft(folder_of(tmp_path / "hf", eos_token_id=8))
    spoilt(UP, 70000.0)(draft)
    with pytest.raises(UsageError, match=r"'blk\.0\.ffn_up\.weight': 1 of 96 values are NaN or infinite: float16 ends"):
        to_gguf(draft.path, tmp_path / "m.gguf", "f16")
    assert to_gguf(draft.path, tmp_path / "m.gguf", "f32") == ()


@pytest.mark.parametrize("name", ["Phi-3-mini-llamafied", "some/phi3", "ModernBERT", "Modern-BERT"])
def test_a_name_that_changes_tokens_is_refused(name: str, tmp_path: Path, folder_of: Callable[..., Path]) -> None:
    folder = folder_of(tmp_path / "hf", eos_token_id=8)
    if name == "ModernBERT":
        assert to_gguf(folder, tmp_path / "m.gguf", "f32", name=name) == ()
        return
    with pytest.raises(UsageError, match=r"general\.name: expected one that changes no tokens"):
        to_gguf(folder, tmp_path / "m.gguf", "f32", name=name)
    assert not (tmp_path / "m.gguf").exists()


# --- The judge ---


def _bits(draft: Draft) -> None:
    draft.tensors(lambda t: t.update({UP: t[UP] + 1e-3}))


# What a converter could overlook: the file is made of the folder as it was, and judged against the folder as it is.
OVERLOOKED: dict[str, list[tuple[Change, str]]] = {
    "llama": [
        (added(f"{LAYER}self_attn.q_proj.bias", 8), "blk.0.attn_q.bias is missing"),
        (added("model.layers.2.mlp.up_proj.weight", 12, 8), "blk.2.ffn_up.weight is missing"),
        (added("score.weight", 1, 8), "score.weight is missing"),
        (added(f"{LAYER}self_attn.q_proj.lora_A.weight", 1, 8), "lora_A.weight is missing"),
        (added(HEAD, 12, 8), "output.weight is missing"),
        (lambda d: d.tensors(lambda t: t.pop(UP)), "blk.0.ffn_up.weight is not in the reference"),
        (reshaped(UP, 24, 8), "of another shape: blk.0.ffn_up.weight"),
        (_bits, "blk.0.ffn_up.weight is off"),
        (lambda d: sharded(d, spare={EMBEDDING: np.ones((12, 8))}), ""),
        (with_stale_shards, ""),
        (added("model.rotary_emb.inv_freq", 2), ""),
        (lambda d: d.tensors(lambda t: t.update({HEAD: t[EMBEDDING]})), ""),
        (renamed(EMBEDDING, HEAD), ""),
        (config(hidden_act="relu"), "no hidden_act, which stands for silu, expected relu"),
        (config(rope_theta=5.0), "rope theta 10000.0, expected 5.0"),
        (config(rope_parameters={"rope_theta": 5.0}), "rope theta 10000.0, expected 5.0"),
        (config(rope_scaling={"type": "linear", "factor": 2.0}), "rope scaling none, expected linear"),
        (config(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "no scaled frequencies"),
        (config(rope_parameters={"a": {"rope_theta": 1.0}, "b": {"rope_theta": 2.0}}), "one rotation for all layers"),
        (config(partial_rotary_factor=0.5), "rotated dimensions 4, expected 2"),
        (config(is_causal=False), "no is_causal, which stands for True, expected False"),
        (config(sliding_window=4), "no window, expected one of 4 tokens"),
        (config(sliding_window=64), ""),
        (config(attention_chunk_size=8), "no window, expected one of 8 tokens"),
        (config(per_layer_config={"0": {"rms_norm_eps": 1.0}}), "the same for all layers, expected"),
        (config(head_dim=16), "width of a head 4, expected 16"),
        (config(num_key_value_heads=2), "kv heads 1, expected 2"),
        (config(rms_norm_eps=1e-6), "norm epsilon"),
        (config(quantization_config={"bits": 4}), "weights that are not quantized"),
        (config(configuration_files=["config.4.0.0.json"]), "what config.json says, expected what one of"),
        (config(eos_token_id=[5, 6]), "end of sequence 8, expected 5, 6"),
        (
            both(other_weights("more.safetensors"), config(transformers_weights="more.safetensors")),
            "ffn_up.weight is off",
        ),
        (
            both(
                sharded,
                lambda d: (d.path / "model.safetensors.index.json").rename(d.path / "m.safetensors.index.json"),
                config(transformers_weights="m.safetensors.index.json"),
            ),
            "",
        ),
        (lambda d: d.json("generation_config.json", eos_token_id=6), "end of sequence 8, expected 6"),
    ],
    "qwen2": [
        (config(use_sliding_window=True, sliding_window=4, max_window_layers=0), "no window, expected one of 4 tokens"),
        (config(layer_types=["sliding_attention"], sliding_window=4), "no window, expected one of 4 tokens"),
        (
            config(rope_parameters={"full_attention": ROPE, "sliding_attention": {}}),
            "rope theta 1000000.0, expected 5.0",
        ),
    ],
    "gpt2": [
        (config(activation_function="relu"), "no activation_function"),
        (config(scale_attn_by_inverse_layer_idx=True), "no scale_attn_by_inverse_layer_idx"),
        (config(scale_attn_weights=False), "no scale_attn_weights"),
        (added(HEAD, 12, 8), "output.weight is missing"),
        (config(intermediate_size=64), ""),
        (config(sliding_window=4), "no window, expected one of 4 tokens"),
        (config(n_inner=64), "inner 32, expected 64"),
        (lambda d: d.tensors(lambda t: t.update({k[12:]: t.pop(k) for k in [*t]})), ""),
    ],
}


@pytest.mark.parametrize("architecture", OVERLOOKED)
def test_the_judge_sees_what_the_converter_overlooks(
    architecture: str, tmp_path: Path, folder_of: Callable[..., Path]
) -> None:
    target = tmp_path / "m.gguf"
    to_gguf(folder_of(tmp_path / "intact", architecture, eos_token_id=8), target, "f32")
    for number, (change, said) in enumerate(OVERLOOKED[architecture]):
        draft = Draft(folder_of(tmp_path / str(number), architecture, eos_token_id=8))
        change(draft)
        found = compare(target, draft.path)
        off = [f"{one.name} is off" for one in found.errors if one.max_abs]
        seen = [*found.unpaired, *off, *other_numbers(target, draft.path)]
        assert any(said in one for one in seen) if said else seen == [], (number, said, seen)


# --- By chance ---

_VALUES = (
    *(None, True, False, 0, 1, 2, 4, -1, 0.5, 1e-3, "relu", "gelu_fast", "x", "", [], {}, [1], {"a": 1}),
    *({"rope_type": "default", "rope_theta": 7.0}, {"type": "linear", "factor": 2.0}, {"rope_theta": 3}),
    *({"full_attention": {"rope_theta": 7.0}}, {"full_attention": {"type": "linear"}}, {"sliding_attention": {}}),
    *(["sliding_attention"] * 2, ["full_attention"] * 2, ["full_attention"]),
)
_KEYS = (
    *(
        "hidden_act",
        "activation_function",
        "attention_bias",
        "mlp_bias",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
    ),
    *(
        "partial_rotary_factor",
        "head_dim",
        "num_key_value_heads",
        "sliding_window",
        "use_sliding_window",
        "layer_types",
        "is_causal",
        "attention_chunk_size",
        "per_layer_config",
    ),
    *("max_window_layers", "tie_word_embeddings", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "n_inner"),
    *(
        "num_hidden_layers",
        "num_attention_heads",
        "n_head",
        "n_layer",
        "rms_norm_eps",
        "layer_norm_epsilon",
        "hidden_size",
    ),
    *("quantization_config", "architectures", "add_cross_attention", "residual_multiplier", "anything"),
    *("configuration_files", "transformers_weights", "intermediate_size"),
)
_NAMES = (
    "lm_head.weight",
    "lm_head.bias",
    "score.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "h.0.attn.bias",
    "x",
)
_TENSORS = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 40)),
    st.tuples(st.just("rename"), st.integers(0, 40), st.one_of(st.sampled_from(_NAMES), st.integers(0, 40))),
    st.tuples(st.just("reshape"), st.integers(0, 40), st.sampled_from(["T", "flat", "half", "twice"])),
    st.tuples(st.just("add"), st.sampled_from(_NAMES), st.sampled_from([(8,), (12, 8), (8, 8), (1, 8), ()])),
    st.tuples(st.just("spoil"), st.integers(0, 40), st.sampled_from([np.nan, np.inf])),
)
_CONFIG = st.one_of(
    st.tuples(st.just("drop key"), st.integers(0, 20)),
    st.tuples(st.just("rename key"), st.integers(0, 20), st.sampled_from(_KEYS)),
    st.tuples(st.just("set key"), st.sampled_from(_KEYS), st.sampled_from(_VALUES)),
    st.tuples(st.just("set key"), st.integers(0, 20), st.sampled_from(_VALUES)),
)


def _applied(draft: Draft, change: tuple[Any, ...]) -> None:
    kind, at, more = change[0], change[1], change[2] if len(change) > 2 else None
    if kind.endswith("key"):
        config = json.loads((draft.path / "config.json").read_text())
        name = at if isinstance(at, str) else sorted(config)[at % len(config)]
        value = config.pop(name, None)
        if kind == "rename key":
            config[more] = value
        if kind == "set key":
            config[name] = more
        (draft.path / "config.json").write_text(json.dumps(config))
        return

    def tensors(found: Tensors) -> None:
        names = sorted(found)
        name = at if isinstance(at, str) else names[at % len(names)]
        value = found.pop(name, None)
        if kind == "rename":
            found[more if isinstance(more, str) else names[more % len(names)]] = value
        elif kind == "add":
            found[name] = np.full(more, 0.5)
        elif kind == "spoil":
            found[name] = value * more
        elif kind == "reshape":
            value = value if value.ndim else value.reshape(1)
            shapes = {"T": value.T, "flat": value.reshape(-1), "half": value[: len(value) // 2]}
            found[name] = shapes.get(more, np.concatenate([value, value]))

    draft.tensors(tensors)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@budget(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.one_of(_TENSORS, _CONFIG), min_size=1, max_size=3))
@example(changes=[("set key", "max_window_layers", None)])
@example(changes=[("set key", "use_sliding_window", True), ("set key", "max_window_layers", None)])
@example(changes=[("set key", "use_sliding_window", True), ("set key", "sliding_window", None)])
@example(changes=[("set key", "use_sliding_window", True), ("set key", "sliding_window", 1 << 20)])
@example(changes=[("rename key", 0, "num_key_value_heads")])
@example(changes=[("set key", "num_key_value_heads", 1)])
@example(changes=[("rename key", 15, "num_hidden_layers")])
def test_no_folder_becomes_a_wrong_model_without_a_word(
    architecture: str, changes: list[tuple[Any, ...]], tmp_path: Path, folder_of: Callable[..., Path]
) -> None:
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)
    draft, target = Draft(folder_of(tmp_path / "hf", architecture, eos_token_id=8)), tmp_path / "m.gguf"
    target.unlink(missing_ok=True)
    for change in changes:
        _applied(draft, change)
    try:
        to_gguf(draft.path, target, "f32")
    except UsageError:
        assert not target.exists()
        return
    # Whatever was made, the judge finds the folder in it, and so does a forward pass.
    assert compare(target, draft.path).identical
    assert departures(Gguf(target), draft.path) == []
    found, expected = forward.from_gguf(target), forward.from_folder(draft.path)
    assert np.allclose(found.logits([1, 2, 3]), expected.logits([1, 2, 3]), atol=1e-4)


_FLAGS = ("id", "content", "special", "lstrip", "rstrip", "single_word", "normalized")
_TEXTS = ("a", "d", "ab", "<think>", "<|end|>", "<x>", "")
_PLACED = {
    "type": "TemplateProcessing",
    "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [8], "tokens": ["<|end|>"]}},
}
_END, _TEXT = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
_STEPS: dict[str, tuple[Any, ...]] = {
    "normalizer": (
        None, {"type": "Lowercase"}, {"type": "NFC"}, {"type": "NFKC"}, {"type": "Sequence", "normalizers": []},
    ),
    "pre_tokenizer": (
        None, BYTE_LEVEL, {**BYTE_LEVEL, "add_prefix_space": True}, {**BYTE_LEVEL, "use_regex": False}, DIGITS_FIRST,
        {"type": "Sequence", "pretokenizers": [BYTE_LEVEL, BYTE_LEVEL]}, SPLIT, {"type": "Metaspace"},
    ),
    "post_processor": (
        None, {"type": "ByteLevel"}, {**_PLACED, "single": [_END, _TEXT]}, {**_PLACED, "single": [_TEXT, _END]},
        {**_PLACED, "single": [_END, _END, _TEXT]}, {"type": "BertProcessing"},
    ),
    "decoder": (None, {"type": "ByteLevel"}, {"type": "Metaspace"}),
}  # fmt: skip
_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE", "Unigram", None),
    "merges": (
        [],
        ["a b"],
        [["b", "c"], ["a", "b"]],
        ["a b", "b c", "ab c"],
        ["a d"],
        ["a b", "a b"],
        None,
    ),
    **dict.fromkeys(("ignore_merges", "byte_fallback", "fuse_unk", "dropout"), (None, True, False)),
    **dict.fromkeys(("unk_token", "end_of_word_suffix", "continuing_subword_prefix"), (None, "", "a", "</w>")),
}
_TOKENIZERS = st.one_of(
    st.sampled_from([("step", key, value) for key, values in _STEPS.items() for value in values]),
    st.sampled_from([("model", key, value) for key, values in _MODEL.items() for value in values]),
    st.tuples(
        st.just("added"), st.integers(0, 2), st.sampled_from(_FLAGS), st.sampled_from((*_TEXTS, True, 0, 9, 10, 12))
    ),
    st.tuples(st.just("drop added"), st.integers(0, 1)),
    st.tuples(
        st.just("vocab"), st.sampled_from((*_TEXTS, "abc", "ba")), st.sampled_from((0, 3, 7, 8, 10, 11, 12, None))
    ),
    st.sampled_from([
        ("settings", key, value)
        for key in (
            "tokenizer_class", "add_prefix_space", "split_special_tokens", "add_bos_token", "bos_token", "mask_token",
            "image_token",
        )
        for value in (None, True, "<think>", "d", "GPT2Tokenizer", "Qwen2Tokenizer", {"content": "d", "rstrip": True})
    ]),
)  # fmt: skip
_SAMPLES = ("", "a", "abc", "ab abc  a", " a", "  ab  ", "cab<|end|> a<think>b", "a<x>b", "<|end|>", "dab bad", "AB ab")


def _changed(draft: Draft, change: tuple[Any, ...]) -> None:
    kind, *more = change

    def tokenizer(said: dict[str, Any]) -> None:
        added, vocabulary = said["added_tokens"], said["model"]["vocab"]
        if kind == "step":
            said[more[0]] = more[1]
        elif kind == "model":
            said["model"][more[0]] = more[1]
        elif kind == "added":
            if more[0] >= len(added):
                added.append(token(10, "<x>"))
            added[min(more[0], len(added) - 1)][more[1]] = more[2]
        elif kind == "drop added" and added:
            added.pop(more[0] % len(added))
        elif kind == "vocab":
            vocabulary.pop(more[0], None)
            if more[1] is not None:
                vocabulary[more[0]] = more[1]

    if kind == "settings":
        draft.settings(**{more[0]: more[1]})
    else:
        draft.tokenizer(tokenizer)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@budget(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(_TOKENIZERS, min_size=1, max_size=3))
def test_no_tokenizer_becomes_another_one_without_a_word(
    architecture: str, changes: list[tuple[Any, ...]], tmp_path: Path, folder_of: Callable[..., Path]
) -> None:
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)
    draft, target = Draft(folder_of(tmp_path / "hf", architecture, eos_token_id=8)), tmp_path / "m.gguf"
    target.unlink(missing_ok=True)
    for change in deepcopy(changes):
        _changed(draft, change)
    try:
        notes = to_gguf(draft.path, target, "f32")
    except UsageError:
        assert not target.exists()
        return
    if not same(Gguf(target), notes):
        return
    meant, made = pairs.from_folder(draft.path), pairs.from_gguf(target)
    assert [made.encode(text) for text in _SAMPLES] == [meant.encode(text) for text in _SAMPLES]


def _index(names: dict[str, str]) -> bytes:
    return json.dumps({"weight_map": names}).encode()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "model.safetensors: cannot be read: No such file"),
        ({"model.safetensors": b""}, "is not a safetensors file"),
        ({"model.safetensors": b"\xff" * 8}, "is not a safetensors file"),
        ({"model.safetensors": b"\x04" + bytes(7) + b"[1]x"}, "is not a safetensors file"),
        ({"model.safetensors": b"\x0b" + bytes(7) + b'{"a": {}}   '}, "is not a safetensors file"),
        ({"model.safetensors.index.json": b"[]"}, "expected a mapping, found list"),
        ({"model.safetensors.index.json": b"{"}, "is not JSON"),
        ({"model.safetensors.index.json": _index({"x": "a.safetensors"})}, "a.safetensors: cannot be read"),
        (
            {
                "model.safetensors.index.json": _index({"x": "a.safetensors"}),
                "a.safetensors": b"\x02" + bytes(7) + b"{}",
            },
            "'x' is not in a.safetensors",
        ),
    ],
)
def test_the_judge_names_a_file_that_it_cannot_read(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        stored(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ({}, {"num_hidden_layers": None}, "layers"),
        ({}, {"model_type": "qwen2"}, "architecture llama, expected qwen2"),
        ({}, {"vocab_size": 99}, "vocabulary 12, expected 99"),
        ({}, {"num_attention_heads": "four"}, "a value is missing or of the wrong type"),
    ],
)
def test_the_judge_tells_where_a_file_departs(
    tmp_path: Path, folder_of: Callable[..., Path], was: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    folder = folder_of(tmp_path / "hf", "llama", **was)
    to_gguf(folder, tmp_path / "m.gguf", "f32")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **now}))
    try:
        found = "; ".join(departures(Gguf(tmp_path / "m.gguf"), folder))
    except UsageError as err:
        found = str(err)
    assert words in found
