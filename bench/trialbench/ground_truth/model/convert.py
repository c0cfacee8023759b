"""Hugging Face folder -> GGUF (float32 or float16), and back.

Upstream's converter would pull in torch and transformers; this one needs numpy and `gguf`, knows three architectures
and byte-level BPE tokenizers, and refuses everything else by name: every tensor and every key that decides what a model
says is used, or is an error. The same input always gives the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialbench.errors import UsageError
from trialbench.files import write_json
from trialbench.ground_truth.model.by_text import CONTROL, NORMAL, USER_DEFINED, changes_tokens
from trialbench.ground_truth.model.checkpoint import WEIGHTS, Safetensors, not_a_model, write_safetensors
from trialbench.ground_truth.model.configuration import ARCHITECTURES, Shape, biased_parts, shape_of
from trialbench.ground_truth.model.layouts import EMBEDDING, HEAD, Rule, head, is_buffer, rules, what
from trialbench.ground_truth.model.tokenizer import (
    BYTE_LEVEL,
    PRE_TOKENIZERS,
    Tokenizer,
    read_tokenizer,
)
from trialbench.ground_truth.model.weights import Gguf, hf_json, need_numpy, understood

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FLOAT_QUANTS = ("f32", "f16")
_MOST_NAMED = 4


@dataclass(frozen=True)
class Changes:
    """Departures from the source, for negative controls: each makes a file that is wrong in one way.

    Attributes:
        tensor: gets each tensor's GGUF name and values, and gives those that are written.
        tokens: gets the vocabulary's texts, and gives those that are written.
        rope_theta, heads, add_bos, template: take the place of the source's.
    """

    tensor: Callable[[str, Floats], Floats] = lambda _name, value: value
    tokens: Callable[[list[str]], list[str]] = lambda texts: texts
    rope_theta: float | None = None
    heads: int | None = None
    add_bos: bool | None = None
    template: str | None = None


_NONE = Changes()


@dataclass(frozen=True)
class Source:
    """A folder of which every tensor has its place.

    Attributes:
        places: each rule with the name under which the checkpoint has its tensor.
        notes: what was seen and is not used, in words.
    """

    shape: Shape
    files: Safetensors
    places: tuple[tuple[Rule, str], ...]
    notes: tuple[str, ...]

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """All tensors under their GGUF names and in GGUF order of rows, as float32.

        Raises:
            UsageError: a value is NaN or infinite.
        """
        for rule, name in self.places:
            value = self.files.read(name)
            _check_finite(value, f"{self.files.where(name)}: the tensor {name!r}", "")
            yield rule.gguf, rule.to_gguf(value)


def read_source(folder: Path) -> Source:
    """Find a place for every tensor of a Hugging Face folder, or the first reason why there is none.

    Raises:
        UsageError: it is not a folder of a model, of another architecture, or a tensor is missing, of another shape, or
            one that no rule names.
    """
    why = not_a_model(folder)
    if why is not None:
        raise UsageError(why)
    shape = read_shape(folder)
    files = Safetensors(folder)
    places, notes = [], [*shape.notes, *files.notes]
    for rule in rules(shape):
        name = _stored(rule.hf, files)
        if name not in files and rule.gguf == EMBEDDING and shape.tied and HEAD in files:
            # Tied either way: transformers takes the one that is there for both.
            name = HEAD
        _check_tensor(files, name, rule)
        places.append((rule, name))
    if shape.tied and HEAD in files and places[0][1] != HEAD:
        _check_tensor(files, HEAD, head(shape))
        if not _equal(files, HEAD, places[0][1]):
            # As in transformers: what a file has twice and differently is not tied.
            places.append((head(shape), HEAD))
            notes.append(
                f"{files.where(HEAD)}: {HEAD} differs from the embedding: kept, although config.json ties them"
            )
    _refuse_strangers(files, {name for _, name in places}, shape)
    return Source(shape, files, tuple(places), tuple(notes))


def _stored(name: str, files: Safetensors) -> str:
    """The published GPT-2 files leave out the prefix that the library puts before every name."""
    short = name.removeprefix("transformer.")
    return short if name not in files and short in files else name


def _check_tensor(files: Safetensors, name: str, rule: Rule) -> None:
    if name not in files:
        module = name.rpartition(".")[0]
        near = [
            one for one in files.names() if one.endswith(name) or name.endswith(one) or one.startswith(f"{module}.")
        ]
        instead = ", ".join((near or files.names())[:5]) or "none"
        raise UsageError(f"{files.place}: expected a tensor {name!r}, found {instead}{'' if near else ' and others'}")
    if files.shape(name) == rule.shape:
        return
    found = list(files.shape(name))
    if rule.gguf == EMBEDDING and len(found) == 2 and found[0] != rule.shape[0]:
        raise UsageError(
            f"{files.where(name)}: vocab_size: expected {found[0]}, the rows of {name}, found {rule.shape[0]}"
        )
    raise UsageError(
        f"{files.where(name)}: the tensor {name!r}: expected the shape {list(rule.shape)} by config.json, found {found}"
    )


def _equal(files: Safetensors, name: str, other: str) -> bool:
    import numpy as np

    return bool(np.array_equal(files.read(name), files.read(other)))


def _refuse_strangers(files: Safetensors, used: set[str], shape: Shape) -> None:
    """A tensor that no rule names would be dropped, and its part of the model with it."""
    tied = {HEAD} if shape.tied else set()
    left = [name for name in files.names() if name not in used | tied and not is_buffer(name)]
    if left:
        named = "; ".join(f"{name} ({what(name, shape)})" for name in left[:_MOST_NAMED])
        more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        raise UsageError(
            f"{files.where(left[0])}: expected the tensors of a {shape.architecture} model alone, found {named}{more}: "
            "transformers would leave them out, and a GGUF of this architecture has no place for them here"
        )


def _check_finite(value: NDArray[Any], what: str, why: str) -> None:
    import numpy as np

    bad = int(value.size - np.isfinite(value).sum())
    if bad:
        raise UsageError(f"{what}: {bad} of {value.size} values are NaN or infinite{why}")


def read_shape(folder: Path) -> Shape:
    """What `config.json` of a folder says.

    Raises:
        UsageError: no such file, or an architecture that is not converted here.
    """
    path = folder / "config.json"
    config = hf_json(path)
    if not isinstance(config, dict):
        raise UsageError(f"{path}: expected a mapping, found {type(config).__name__}")
    return shape_of(config, str(path))


def to_gguf(
    folder: Path, target: Path, quant: str, *, name: str | None = None, changes: Changes = _NONE
) -> tuple[str, ...]:
    """Write `target` from a Hugging Face folder; it appears only when it is complete.

    Args:
        folder: with config.json, tokenizer.json, tokenizer_config.json and safetensors.
        target: the file to write.
        quant: `f32` or `f16` (matrices; vectors are always float32).
        name: `general.name`; default: the folder's.
        changes: deliberate damage.

    Returns:
        What was seen in the folder and is not in the file, in words, one each.

    Raises:
        UsageError: something in the folder is missing or not understood.
    """
    need_numpy()
    if quant not in FLOAT_QUANTS:
        raise UsageError(f"convert: expected one of {', '.join(FLOAT_QUANTS)}, found {quant!r}; llama-quantize does it")
    called = name or folder.name
    if changes_tokens(called):
        raise UsageError(
            f"general.name: expected one that changes no tokens, found {called!r}: llama.cpp cuts the blanks beside "
            "special tokens of a model of this name: give it another one in the roster"
        )
    with understood(folder):
        source = read_source(folder)
        tokenizer = read_tokenizer(folder, source.shape)
        _write(source, tokenizer, target, quant, called, changes)
    return (*source.notes, *tokenizer.notes)


def _write(source: Source, tokenizer: Tokenizer, target: Path, quant: str, name: str, changes: Changes) -> None:
    import gguf
    import numpy as np

    shape = source.shape
    partial = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, shape.architecture)
    try:
        changed = replace(shape, rope_theta=changes.rope_theta or shape.rope_theta, heads=changes.heads or shape.heads)
        _add_shape(writer, changed, name)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32 if quant == "f32" else gguf.LlamaFileType.MOSTLY_F16)
        _add_tokenizer(writer, tokenizer, changes)
        for tensor, value in source.tensors():
            # As upstream does: positions of gpt2 stay float32, like all vectors.
            keep = quant == "f32" or value.ndim < 2 or tensor == "position_embd.weight"
            with np.errstate(over="ignore"):
                written = changes.tensor(tensor, value).astype(np.float32 if keep else np.float16)
            _check_finite(written, f"{target}: the tensor {tensor!r}", ": float16 ends at 65504, make f32")
            writer.add_tensor(tensor, np.ascontiguousarray(written))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _add_shape(writer: GGUFWriter, shape: Shape, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    if shape.rope_theta is None:
        writer.add_layer_norm_eps(shape.norm_epsilon)
        return
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_rope_freq_base(shape.rope_theta)
    if shape.architecture == "llama":
        writer.add_rope_dimension_count(shape.hidden // shape.heads)
        writer.add_vocab_size(shape.vocabulary)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, changes: Changes) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(changes.tokens([*tokenizer.texts]))
    writer.add_token_types([*tokenizer.kinds])
    writer.add_token_merges([*tokenizer.merges])
    writer.add_bos_token_id(tokenizer.bos)
    ends = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, number in zip(ends, tokenizer.ends, strict=False):
        add(number)
    if tokenizer.pad is not None:
        writer.add_pad_token_id(tokenizer.pad)
    writer.add_add_bos_token(tokenizer.adds_bos if changes.add_bos is None else changes.add_bos)
    if tokenizer.adds_eos:
        writer.add_add_eos_token(True)
    templates = dict(tokenizer.templates) if changes.template is None else {"default": changes.template}
    default = templates.pop("default", None)
    if templates:
        writer.add_array("tokenizer.chat_templates", sorted(templates))
    for name, text in sorted(templates.items()):
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise UsageError(f"chat template {name!r}: expected a name of letters, digits and _, as a GGUF needs it")
        writer.add_string(f"tokenizer.chat_template.{name}", text)
    if default is not None:
        writer.add_chat_template(default)


def to_hf(source: Path, folder: Path) -> None:
    """Write a Hugging Face folder (float32) from a GGUF, quantized or not: the way back.

    Raises:
        UsageError: an architecture that is not converted here, or a tensor is missing.
    """
    with understood(source):
        _to_hf(Gguf(source), folder)


def _to_hf(gguf: Gguf, folder: Path) -> None:
    shape = shape_of_file(gguf)
    placed, tensors = set(), {}
    for rule in rules(shape):
        placed.add(rule.gguf)
        tensors[rule.hf] = rule.to_hf(gguf.read(rule.gguf))
    strangers = [tensor.name for tensor in gguf.tensors() if tensor.name not in placed]
    if strangers:
        raise UsageError(
            f"{gguf.path}: expected the tensors of a {shape.architecture} model alone, found {', '.join(strangers[:4])}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, tensors)
    write_json(folder / "config.json", _config(shape, gguf))
    write_json(folder / "tokenizer.json", _tokenizer(gguf))
    tokens = gguf.key("tokenizer.ggml.tokens")
    special = {
        f"{key}_token": tokens[number]
        for key, field in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id"))
        if (number := gguf.key(f"tokenizer.ggml.{field}")) is not None
    }
    templates = {"default": gguf.key("tokenizer.chat_template")}
    templates |= {
        name: gguf.key(f"tokenizer.chat_template.{name}") for name in gguf.key("tokenizer.chat_templates", ())
    }
    named = [{"name": name, "template": text} for name, text in templates.items() if text is not None]
    chat = named if len(templates) > 1 else templates["default"]
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
            **({"chat_template": chat} if chat is not None else {}),
        },
    )


def shape_of_file(gguf: Gguf) -> Shape:
    """What the metadata of a GGUF say.

    Raises:
        UsageError: an architecture that is not converted here, or a number is missing.
    """
    with understood(gguf.path):
        return _shape_of_file(gguf)


def _shape_of_file(gguf: Gguf) -> Shape:
    kind = gguf.architecture
    where = str(gguf.path)
    if kind not in ARCHITECTURES:
        raise UsageError(f"{where}: general.architecture: expected one of {', '.join(ARCHITECTURES)}, found {kind!r}")
    heads = _number(gguf, "attention.head_count")
    norm = "attention.layer_norm_epsilon" if kind == "gpt2" else "attention.layer_norm_rms_epsilon"
    return Shape(
        architecture=kind,
        layers=_number(gguf, "block_count"),
        heads=heads,
        kv_heads=int(gguf.key(f"{kind}.attention.head_count_kv", heads)),
        hidden=_number(gguf, "embedding_length"),
        inner=_number(gguf, "feed_forward_length"),
        vocabulary=len(gguf.key("tokenizer.ggml.tokens", ())),
        positions=_number(gguf, "context_length"),
        norm_epsilon=_decimal(gguf.key(f"{kind}.{norm}", 1e-5)),
        rope_theta=None if kind == "gpt2" else _decimal(gguf.key(f"{kind}.rope.freq_base", 10000.0)),
        tied="output.weight" not in gguf,
        # A file that has some of a group's biases lacks the others by name.
        biased=biased_parts(kind, "blk.0.attn_q.bias" in gguf, "blk.0.ffn_up.bias" in gguf),
    )


def _decimal(value: float) -> float:
    """The short number that was meant: 1e-5, where float32 has 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def _number(gguf: Gguf, key: str) -> int:
    value = gguf.key(f"{gguf.architecture}.{key}")
    if not isinstance(value, int):
        raise UsageError(f"{gguf.path}: {gguf.architecture}.{key}: expected a whole number, found {value!r}")
    return value


def _ends_of(gguf: Gguf) -> int | list[int] | None:
    keys = [gguf.key(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    found = [number for number in keys if number is not None]
    return found if len(found) > 1 else next(iter(found), None)


def _config(shape: Shape, gguf: Gguf) -> dict[str, Any]:
    common = {
        "model_type": shape.architecture,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
        "bos_token_id": gguf.key("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends_of(gguf),
    }
    if shape.architecture == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            **common,
            "n_positions": shape.positions,
            "n_embd": shape.hidden,
            "n_layer": shape.layers,
            "n_head": shape.heads,
            "n_inner": shape.inner,
            "layer_norm_epsilon": shape.norm_epsilon,
        }
    return {
        "architectures": ["LlamaForCausalLM" if shape.architecture == "llama" else "Qwen2ForCausalLM"],
        **common,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        **{key: True for key, part in (("attention_bias", "o"), ("mlp_bias", "up")) if part in shape.biased},
    }


def _post_processor(gguf: Gguf, tokens: list[str]) -> dict[str, Any] | None:
    """What puts the tokens around each text that the file says; None when it says none."""
    ids = {end: gguf.key(f"tokenizer.ggml.{end}_token_id") for end in ("bos", "eos")}
    around = {end: tokens[ids[end]] for end in ids if gguf.key(f"tokenizer.ggml.add_{end}_token")}
    if not around:
        return None
    text: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    before, after = (
        [{"SpecialToken": {"id": token, "type_id": 0}} for at, token in around.items() if at == end]
        for end in ("bos", "eos")
    )
    return {
        "type": "TemplateProcessing",
        "single": [*before, *text, *after],
        "pair": [*before, *text, {"Sequence": {"id": "B", "type_id": 1}}, *after],
        "special_tokens": {token: {"id": token, "ids": [ids[end]], "tokens": [token]} for end, token in around.items()},
    }


def _tokenizer(gguf: Gguf) -> dict[str, Any]:
    pre = gguf.key("tokenizer.ggml.pre")
    if gguf.key("tokenizer.ggml.model") != "gpt2" or pre not in PRE_TOKENIZERS:
        raise UsageError(
            f"{gguf.path}: tokenizer.ggml.pre: expected one of {', '.join(PRE_TOKENIZERS)} "
            f"of a gpt2 tokenizer, found {pre!r}"
        )
    tokens, kinds = gguf.key("tokenizer.ggml.tokens"), gguf.key("tokenizer.ggml.token_type")
    added = [
        {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": kind == CONTROL}
        for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": _post_processor(gguf, tokens),
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {
                # The library gives an added token the id that its text has here, else the next number.
                text: number
                for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
                if kind in (NORMAL, CONTROL, USER_DEFINED)
            },
            "merges": [pair.split(" ", 1) for pair in gguf.key("tokenizer.ggml.merges")],
        },
    }
