"""A forward pass in numpy and float64, for the architectures that are converted: a check that needs no torch.

It shares no code with the converter: names, configuration and the two ways to rotate are written down here once more,
and the bytes of a folder are read as the judge reads them. A folder and the GGUF made of it must give the same logits;
and both what the shipped oracles of transformers say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trialbench.ground_truth.model.origin import stored

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A model's numbers. `tensors` have the names of a GGUF, matrices as (out, in); `neighbors` is how pairs rotate."""

    kind: str
    layers: int
    heads: int
    kv_heads: int
    epsilon: float
    theta: float
    neighbors: bool
    tensors: Mapping[str, Doubles]
    activation: str = ""

    def logits(self, ids: Sequence[int]) -> Doubles:
        """Shape (tokens, vocabulary)."""
        t, n = self.tensors, len(ids)
        x = t["token_embd.weight"][list(ids)]
        if self.kind == "gpt2":
            x = x + t["position_embd.weight"][:n]
        for layer in range(self.layers):
            block = f"blk.{layer}."
            x = x + self._linear(self._attention(self._norm(x, f"{block}attn_norm"), block), f"{block}attn_output")
            x = x + self._feed_forward(self._norm(x, f"{block}ffn_norm"), block)
        return self._norm(x, "output_norm") @ t.get("output.weight", t["token_embd.weight"]).T

    def greedy(self, ids: Sequence[int], ends: Sequence[int], most: int) -> list[int]:
        """The continuation, its end included."""
        found: list[int] = []
        while len(found) < most and not (found and found[-1] in ends):
            found.append(int(np.argmax(self.logits([*ids, *found])[-1])))
        return found

    def _linear(self, x: Doubles, name: str) -> Doubles:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", np.zeros(1))

    def _norm(self, x: Doubles, name: str) -> Doubles:
        centered = x - x.mean(-1, keepdims=True) if self.kind == "gpt2" else x
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + self.epsilon)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors.get(f"{name}.bias", np.zeros(1))

    def _attention(self, x: Doubles, block: str) -> Doubles:
        n = len(x)
        if self.kind == "gpt2":
            q, k, v = np.split(self._linear(x, f"{block}attn_qkv"), 3, axis=-1)
        else:
            q, k, v = (self._linear(x, f"{block}attn_{letter}") for letter in "qkv")
        q, k, v = (one.reshape(n, -1, q.shape[1] // self.heads).swapaxes(0, 1) for one in (q, k, v))
        if self.kind != "gpt2":
            q, k = self._rotated(q), self._rotated(k)
        k, v = (np.repeat(one, self.heads // self.kv_heads, axis=0) for one in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).swapaxes(0, 1).reshape(n, -1)

    def _rotated(self, x: Doubles) -> Doubles:
        """Shape (heads, tokens, width); pairs are the two halves of a head, or neighbors."""
        width = x.shape[-1]
        angles = np.arange(x.shape[1])[:, None] * self.theta ** (-np.arange(0, width, 2) / width)
        first, second = (x[..., ::2], x[..., 1::2]) if self.neighbors else np.split(x, 2, axis=-1)
        turned = (first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles))
        return np.stack(turned, axis=-1).reshape(x.shape) if self.neighbors else np.concatenate(turned, axis=-1)

    def _feed_forward(self, x: Doubles, block: str) -> Doubles:
        up = self._linear(x, f"{block}ffn_up")
        act = _ACTIVATIONS[self.activation or ("gelu_new" if self.kind == "gpt2" else "silu")]
        inner = act(up) if self.kind == "gpt2" else act(self._linear(x, f"{block}ffn_gate")) * up
        return self._linear(inner, f"{block}ffn_down")


def _silu(x: Doubles) -> Doubles:
    return x / (1 + np.exp(-x))


def _gelu(x: Doubles) -> Doubles:
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _relu(x: Doubles) -> Doubles:
    return np.maximum(x, 0)


_ACTIVATIONS = {
    **dict.fromkeys(("silu", "swish"), _silu),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"), _gelu),
    "relu": _relu,
}


_NAMES = (
    (r"model\.embed_tokens\.", "token_embd."),
    (r"model\.norm\.", "output_norm."),
    (r"lm_head\.", "output."),
    (r"model\.layers\.(\d+)\.input_layernorm\.", r"blk.\1.attn_norm."),
    (r"model\.layers\.(\d+)\.post_attention_layernorm\.", r"blk.\1.ffn_norm."),
    (r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"blk.\1.attn_\2."),
    (r"model\.layers\.(\d+)\.self_attn\.o_proj\.", r"blk.\1.attn_output."),
    (r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.", r"blk.\1.ffn_\2."),
    (r"(?:transformer\.)?wte\.", "token_embd."),
    (r"(?:transformer\.)?wpe\.", "position_embd."),
    (r"(?:transformer\.)?ln_f\.", "output_norm."),
    (r"(?:transformer\.)?h\.(\d+)\.ln_1\.", r"blk.\1.attn_norm."),
    (r"(?:transformer\.)?h\.(\d+)\.ln_2\.", r"blk.\1.ffn_norm."),
    (r"(?:transformer\.)?h\.(\d+)\.attn\.c_attn\.", r"blk.\1.attn_qkv."),
    (r"(?:transformer\.)?h\.(\d+)\.attn\.c_proj\.", r"blk.\1.attn_output."),
    (r"(?:transformer\.)?h\.(\d+)\.mlp\.c_fc\.", r"blk.\1.ffn_up."),
    (r"(?:transformer\.)?h\.(\d+)\.mlp\.c_proj\.", r"blk.\1.ffn_down."),
)


def from_folder(folder: Path) -> Network:
    """A Hugging Face folder; tensors of other names take no part, as in transformers."""
    config = json.loads((folder / "config.json").read_bytes())
    kind = config["model_type"]
    tensors: dict[str, Doubles] = {}
    for name, one in stored(folder).items():
        for pattern, ours in _NAMES:
            if re.match(pattern, name):
                value = one.read().astype(np.float64)
                stored_transposed = kind == "gpt2" and re.search(r"c_(attn|proj|fc)\.weight$", name)
                tensors[re.sub(pattern, ours, name)] = value.T if stored_transposed else value
    # The one matrix of a tied model may be there as either.
    tensors.setdefault("token_embd.weight", tensors.get("output.weight", np.zeros((0, 0))))
    if kind == "gpt2":
        # transformers takes both spellings.
        layers = config["n_layer"] if "n_layer" in config else config["num_hidden_layers"]
        heads = config["n_head"] if "n_head" in config else config["num_attention_heads"]
        sizes = (layers, heads, heads, config.get("layer_norm_epsilon", 1e-5))
        act = config.get("activation_function", "")
        return Network(kind, *sizes, theta=1.0, neighbors=False, tensors=tensors, activation=act)
    heads, rope = config["num_attention_heads"], config.get("rope_scaling") or config.get("rope_parameters") or {}
    sizes = (config["num_hidden_layers"], heads, config.get("num_key_value_heads") or heads, config["rms_norm_eps"])
    rope = rope.get("full_attention", rope)
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    act = config.get("hidden_act", "")
    return Network(kind, *sizes, theta=theta, neighbors=False, tensors=tensors, activation=act)


def from_gguf(path: Path) -> Network:
    """A GGUF, of which llama.cpp rotates neighbors for llama and halves for qwen2."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    keys: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    kind = keys["general.architecture"]
    tensors = {}
    for one in reader.tensors:
        values = np.asarray(dequantize(one.data, one.tensor_type), np.float64)
        tensors[one.name] = values.reshape(one.shape[::-1].tolist())
    heads = keys[f"{kind}.attention.head_count"]
    norm = "layer_norm_epsilon" if kind == "gpt2" else "layer_norm_rms_epsilon"
    sizes = (keys[f"{kind}.block_count"], heads, keys.get(f"{kind}.attention.head_count_kv", heads))
    return Network(
        kind, *sizes, keys[f"{kind}.attention.{norm}"], keys.get(f"{kind}.rope.freq_base", 10000.0),
        neighbors=kind == "llama", tensors=tensors,
    )  # fmt: skip
