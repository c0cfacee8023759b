"""How a Hugging Face model and a GGUF name and order the same numbers, in both directions.

Three architectures: `llama` (rows of the query and key matrices reordered: one library rotates the halves of a head
against each other, the other neighbors), `qwen2` (same names, no reordering, biases on q, k, v) and `gpt2` (one
matrix for q, k and v, stored transposed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialbench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

ARCHITECTURES = ("llama", "qwen2", "gpt2")


def interleave(weight: Floats, heads: int) -> Floats:
    """Rows of a query or key matrix from halves (Hugging Face) to neighbors (GGUF). Shape (heads * width, ...)."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def separate(weight: Floats, heads: int) -> Floats:
    """The inverse of `interleave`."""
    rows = weight.shape[0]
    pairs = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _as_is(weight: Floats) -> Floats:
    return weight


def _transposed(weight: Floats) -> Floats:
    return weight.T


@dataclass(frozen=True)
class Rule:
    """One tensor in both worlds, and how its numbers get from one to the other."""

    hf: str
    gguf: str
    to_gguf: Callable[[Floats], Floats] = _as_is
    to_hf: Callable[[Floats], Floats] = _as_is
    optional: bool = False


@dataclass(frozen=True)
class Shape:
    """What a configuration says about a model's size. `heads` and `kv_heads` count attention heads."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    inner: int
    vocabulary: int
    positions: int
    norm_epsilon: float
    rope_theta: float | None
    tied: bool


def shape_of(config: dict[str, Any], where: str) -> Shape:
    """Read `config.json` of a Hugging Face folder.

    Raises:
        UsageError: an architecture that is not converted here, or a key is missing.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UsageError(f"{where}: model_type: expected one of {', '.join(ARCHITECTURES)}, found {kind!r}")
    try:
        if kind == "gpt2":
            hidden = int(config["n_embd"])
            return Shape(
                architecture=kind,
                layers=int(config["n_layer"]),
                heads=int(config["n_head"]),
                kv_heads=int(config["n_head"]),
                hidden=hidden,
                inner=int(config.get("n_inner") or 4 * hidden),
                vocabulary=int(config["vocab_size"]),
                positions=int(config["n_positions"]),
                norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
                rope_theta=None,
                tied=bool(config.get("tie_word_embeddings", True)),
            )
        # Newer libraries nest it; a scaled rotation would need keys that are not written here.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if str(rope.get("rope_type", rope.get("type", "default"))) != "default":
            raise UsageError(f"{where}: rope_parameters: expected rope_type default, found {rope}")
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        if int(config.get("head_dim") or hidden // heads) * heads != hidden:
            raise UsageError(f"{where}: head_dim: expected {hidden // heads}, found {config['head_dim']}")
        return Shape(
            architecture=kind,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            hidden=hidden,
            inner=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            norm_epsilon=float(config["rms_norm_eps"]),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta", 10000.0)),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{where}: the configuration of a {kind} model lacks or garbles a key: {error}") from error


def rules(shape: Shape) -> Iterator[Rule]:
    """All tensors of a model, in the order in which they are written."""
    yield from _gpt2(shape) if shape.architecture == "gpt2" else _llama(shape)


def _llama(shape: Shape) -> Iterator[Rule]:
    yield Rule("model.embed_tokens.weight", "token_embd.weight")
    yield Rule("model.norm.weight", "output_norm.weight")
    if not shape.tied:
        yield Rule("lm_head.weight", "output.weight")
    rotates = shape.architecture == "llama"
    for layer in range(shape.layers):
        hf, gguf = f"model.layers.{layer}.", f"blk.{layer}."
        yield Rule(f"{hf}input_layernorm.weight", f"{gguf}attn_norm.weight")
        for letter, heads in (("q", shape.heads), ("k", shape.kv_heads)):
            for part in ("weight", "bias"):
                if part == "bias" and rotates:
                    continue
                yield Rule(
                    f"{hf}self_attn.{letter}_proj.{part}",
                    f"{gguf}attn_{letter}.{part}",
                    *((_interleaver(heads), _separator(heads)) if rotates else ()),
                )
        yield Rule(f"{hf}self_attn.v_proj.weight", f"{gguf}attn_v.weight")
        if not rotates:
            yield Rule(f"{hf}self_attn.v_proj.bias", f"{gguf}attn_v.bias")
        yield Rule(f"{hf}self_attn.o_proj.weight", f"{gguf}attn_output.weight")
        yield Rule(f"{hf}post_attention_layernorm.weight", f"{gguf}ffn_norm.weight")
        for part in ("gate", "up", "down"):
            yield Rule(f"{hf}mlp.{part}_proj.weight", f"{gguf}ffn_{part}.weight")


def _interleaver(heads: int) -> Callable[[Floats], Floats]:
    return lambda weight: interleave(weight, heads)


def _separator(heads: int) -> Callable[[Floats], Floats]:
    return lambda weight: separate(weight, heads)


def _gpt2(shape: Shape) -> Iterator[Rule]:
    yield Rule("transformer.wte.weight", "token_embd.weight")
    yield Rule("transformer.wpe.weight", "position_embd.weight")
    for part in ("weight", "bias"):
        yield Rule(f"transformer.ln_f.{part}", f"output_norm.{part}")
    for layer in range(shape.layers):
        hf, gguf = f"transformer.h.{layer}.", f"blk.{layer}."
        for theirs, ours, matrix in (
            ("ln_1", "attn_norm", False),
            ("attn.c_attn", "attn_qkv", True),
            ("attn.c_proj", "attn_output", True),
            ("ln_2", "ffn_norm", False),
            ("mlp.c_fc", "ffn_up", True),
            ("mlp.c_proj", "ffn_down", True),
        ):
            turn = (_transposed, _transposed) if matrix else ()
            yield Rule(f"{hf}{theirs}.weight", f"{gguf}{ours}.weight", *turn)
            yield Rule(f"{hf}{theirs}.bias", f"{gguf}{ours}.bias")
