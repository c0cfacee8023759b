"""How a Hugging Face model and a GGUF name and order the same numbers, in both directions, and of which shape they are.

Three architectures: `llama` (rows of the query and key matrices reordered: one library rotates the halves of a head
against each other, the other neighbors; biases where the configuration says so), `qwen2` (same names, no reordering,
biases on q, k, v) and `gpt2` (one matrix for q, k and v, stored transposed).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trialbench.ground_truth.model.configuration import Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Number = TypeVar("Number", bound="np.floating[Any]")


def interleave(weight: NDArray[Number], heads: int) -> NDArray[Number]:
    """Rows of a query or key matrix from halves (Hugging Face) to neighbors (GGUF). Shape (heads * width, ...)."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def separate(weight: NDArray[Number], heads: int) -> NDArray[Number]:
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
    """One tensor in both worlds, and how its numbers get from one to the other. `shape` is that of the checkpoint."""

    hf: str
    gguf: str
    shape: tuple[int, ...]
    to_gguf: Callable[[Floats], Floats] = _as_is
    to_hf: Callable[[Floats], Floats] = _as_is


EMBEDDING = "token_embd.weight"
HEAD = "lm_head.weight"


def rules(shape: Shape) -> Iterator[Rule]:
    """All tensors of a model, in the order in which they are written; the head of a tied one is not among them."""
    yield from _gpt2(shape) if shape.architecture == "gpt2" else _llama(shape)


def head(shape: Shape) -> Rule:
    """The output matrix."""
    return Rule(HEAD, "output.weight", (shape.vocabulary, shape.hidden))


def _llama(shape: Shape) -> Iterator[Rule]:
    hidden, inner, width = shape.hidden, shape.inner, shape.hidden // shape.heads
    yield Rule("model.embed_tokens.weight", EMBEDDING, (shape.vocabulary, hidden))
    yield Rule("model.norm.weight", "output_norm.weight", (hidden,))
    if not shape.tied:
        yield head(shape)
    rotates = shape.architecture == "llama"
    for layer in range(shape.layers):
        hf, gguf = f"model.layers.{layer}.", f"blk.{layer}."
        yield Rule(f"{hf}input_layernorm.weight", f"{gguf}attn_norm.weight", (hidden,))
        for letter, heads in (("q", shape.heads), ("k", shape.kv_heads)):
            turns = (_interleaver(heads), _separator(heads)) if rotates else ()
            yield from _projection(shape, letter, f"{hf}self_attn.", f"{gguf}attn_", (heads * width, hidden), *turns)
        yield from _projection(shape, "v", f"{hf}self_attn.", f"{gguf}attn_", (shape.kv_heads * width, hidden))
        yield from _projection(shape, "o", f"{hf}self_attn.", f"{gguf}attn_", (hidden, shape.heads * width))
        yield Rule(f"{hf}post_attention_layernorm.weight", f"{gguf}ffn_norm.weight", (hidden,))
        for name, size in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            yield from _projection(shape, name, f"{hf}mlp.", f"{gguf}ffn_", size)


def _projection(
    shape: Shape, name: str, hf: str, gguf: str, size: tuple[int, int], *turns: Callable[[Floats], Floats]
) -> Iterator[Rule]:
    """A matrix, and its bias where it has one: the bias has the matrix's rows, in their order."""
    ours = f"{gguf}{'output' if name == 'o' else name}"
    yield Rule(f"{hf}{name}_proj.weight", f"{ours}.weight", size, *turns)
    if name in shape.biased:
        yield Rule(f"{hf}{name}_proj.bias", f"{ours}.bias", size[:1], *turns)


def _interleaver(heads: int) -> Callable[[Floats], Floats]:
    return lambda weight: interleave(weight, heads)


def _separator(heads: int) -> Callable[[Floats], Floats]:
    return lambda weight: separate(weight, heads)


def _gpt2(shape: Shape) -> Iterator[Rule]:
    hidden, inner = shape.hidden, shape.inner
    yield Rule("transformer.wte.weight", EMBEDDING, (shape.vocabulary, hidden))
    yield Rule("transformer.wpe.weight", "position_embd.weight", (shape.positions, hidden))
    for part in ("weight", "bias"):
        yield Rule(f"transformer.ln_f.{part}", f"output_norm.{part}", (hidden,))
    if not shape.tied:
        yield head(shape)
    for layer in range(shape.layers):
        hf, gguf = f"transformer.h.{layer}.", f"blk.{layer}."
        for theirs, ours, size in (
            ("ln_1", "attn_norm", (hidden,)),
            ("attn.c_attn", "attn_qkv", (hidden, 3 * hidden)),
            ("attn.c_proj", "attn_output", (hidden, hidden)),
            ("ln_2", "ffn_norm", (hidden,)),
            ("mlp.c_fc", "ffn_up", (hidden, inner)),
            ("mlp.c_proj", "ffn_down", (inner, hidden)),
        ):
            turn = (_transposed, _transposed) if len(size) == 2 else ()
            yield Rule(f"{hf}{theirs}.weight", f"{gguf}{ours}.weight", size, *turn)
            yield Rule(f"{hf}{theirs}.bias", f"{gguf}{ours}.bias", size[-1:])


# Numbers that a library keeps beside the weights and computes itself, of whatever type.
_BUFFERS = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
)
# What a tensor is that no rule names, by the first of these that its name holds.
_STRANGERS = (
    (r"lora_|\.adapter|modules_to_save|base_layer", "part of an adapter that is not merged"),
    (r"qweight|qzeros|g_idx|\.scales$|_scale(_inv|_\d)?$|weight_shape|\.SCB$|absmax|quant_map|quant_state|zero_point",
     "part of quantized weights"),
    (r"^(score|classifier|qa_outputs|v_head|value_head|regression_head|multiple_choice_head|reward)",
     "a head for another task"),
    (r"(q|k|query|key)_(layer)?norm|pre_feedforward|post_feedforward|_norm\.|\bnorm", "a norm of another family"),
    (r"experts|\.gate\.weight$|router", "of a mixture of experts"),
    (r"vision|image|audio|multi_modal|mm_projector", "of another kind of input"),
    (r"lm_head", "an output matrix of another shape or with a bias"),
    (r"bias$", "a bias"),
)  # fmt: skip


def is_buffer(name: str) -> bool:
    """Whether transformers computes a tensor of this name itself, whatever a file says."""
    return _BUFFERS.fullmatch(name) is not None


def what(name: str, shape: Shape) -> str:
    """What a tensor is that no rule names, in words."""
    layer = re.search(r"\b(?:layers|h)\.(\d+)\.", name)
    if layer is not None and int(layer[1]) >= shape.layers:
        return f"of a layer beyond the {shape.layers} of config.json"
    return next((words for pattern, words in _STRANGERS if re.search(pattern, name)), "no tensor of this architecture")
