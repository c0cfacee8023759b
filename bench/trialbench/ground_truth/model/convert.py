"""Hugging Face folder -> GGUF (float32 or float16), and back.

Upstream's converter would pull in torch and transformers; this one needs numpy and `gguf`, knows three architectures
and byte-level BPE tokenizers, and refuses everything else by name. The same input always gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialbench.errors import UsageError
from trialbench.files import write_json
from trialbench.ground_truth.model.layouts import Rule, Shape, rules, shape_of
from trialbench.ground_truth.model.weights import Gguf, Safetensors, hf_json, need_numpy, understood, write_safetensors

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FLOAT_QUANTS = ("f32", "f16")
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_QWEN2_DIGITS = r"|\p{N}|"


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


def canonical(folder: Path) -> Iterator[tuple[str, Floats]]:
    """All tensors of a Hugging Face folder under their GGUF names and in GGUF order of rows, as float32.

    Raises:
        UsageError: an architecture or a file that is not understood, or a tensor is missing.
    """
    shape = read_shape(folder)
    files = Safetensors(folder)
    for rule in rules(shape):
        yield rule.gguf, rule.to_gguf(files.read(_stored(rule, files)))


def _stored(rule: Rule, files: Safetensors) -> str:
    """The published GPT-2 files leave out the prefix that the library puts before every name."""
    short = rule.hf.removeprefix("transformer.")
    return short if rule.hf not in files and short in files else rule.hf


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


def to_gguf(folder: Path, target: Path, quant: str, *, name: str | None = None, changes: Changes = _NONE) -> None:
    """Write `target` from a Hugging Face folder; it appears only when it is complete.

    Args:
        folder: with config.json, tokenizer.json, tokenizer_config.json and safetensors.
        target: the file to write.
        quant: `f32` or `f16` (matrices; vectors are always float32).
        name: `general.name`; default: the folder's.
        changes: deliberate damage.

    Raises:
        UsageError: something in the folder is missing or not understood.
    """
    need_numpy()
    if quant not in FLOAT_QUANTS:
        raise UsageError(f"convert: expected one of {', '.join(FLOAT_QUANTS)}, found {quant!r}; llama-quantize does it")
    with understood(folder):
        _to_gguf(folder, target, quant, name or folder.name, changes)


def _to_gguf(folder: Path, target: Path, quant: str, name: str, changes: Changes) -> None:
    import gguf
    import numpy as np

    shape = read_shape(folder)
    _check_vocabulary(folder, shape)
    partial = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, shape.architecture)
    try:
        changed = replace(shape, rope_theta=changes.rope_theta or shape.rope_theta, heads=changes.heads or shape.heads)
        _add_shape(writer, changed, name)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32 if quant == "f32" else gguf.LlamaFileType.MOSTLY_F16)
        _add_tokenizer(writer, folder, shape, changes)
        for tensor, value in canonical(folder):
            # As upstream does: positions of gpt2 stay float32, like all vectors.
            keep = quant == "f32" or value.ndim < 2 or tensor == "position_embd.weight"
            written = changes.tensor(tensor, value).astype(np.float32 if keep else np.float16)
            writer.add_tensor(tensor, np.ascontiguousarray(written))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _check_vocabulary(folder: Path, shape: Shape) -> None:
    """Refuse absurd vocabulary sizes in `config.json` before generating a name for every row."""
    files = Safetensors(folder)
    name = _stored(next(iter(rules(shape))), files)
    rows = files.shape(name)[0] if name in files else shape.vocabulary
    if rows != shape.vocabulary:
        raise UsageError(f"{folder}: vocab_size: expected {rows}, the rows of {name}, found {shape.vocabulary}")


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


def pre_tokenizer(tokenizer: dict[str, Any], where: str) -> str:
    """llama.cpp's name for the way a `tokenizer.json` cuts text into words.

    Raises:
        UsageError: one that is none of the three known here; a wrong guess would shift token ids silently.
    """
    found = tokenizer.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", []) if found.get("type") == "Sequence" else [found]
    kinds = [str(step.get("type")) for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    # Other models of this family differ in how many digits make a word.
    digits = _QWEN2_DIGITS in str((steps[0].get("pattern") or {}).get("Regex", ""))
    if kinds == ["Split", "ByteLevel"] and digits and not steps[1].get("use_regex", True):
        return "qwen2"
    raise UsageError(
        f"{where}: pre_tokenizer: expected that of gpt-2, smollm or qwen2, found {json.dumps(found)[:200]}; "
        "convert this model with llama.cpp's own convert_hf_to_gguf.py"
    )


def _add_tokenizer(writer: GGUFWriter, folder: Path, shape: Shape, changes: Changes) -> None:
    where = str(folder / "tokenizer.json")
    tokenizer = hf_json(folder / "tokenizer.json")
    try:
        model = tokenizer["model"]
        if model["type"] != "BPE":
            raise UsageError(f"{where}: expected a byte-level BPE tokenizer, found {model['type']}")
        texts = {int(number): str(text) for text, number in model["vocab"].items()}
        kinds = dict.fromkeys(texts, _NORMAL)
        for added in tokenizer.get("added_tokens", []):
            texts[int(added["id"])] = str(added["content"])
            kinds[int(added["id"])] = _CONTROL if added.get("special") else _USER_DEFINED
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{where}: is not a tokenizer of the library `tokenizers`: {error}") from error
    if texts and max(texts) >= shape.vocabulary:
        raise UsageError(f"{where}: a token id of {max(texts)}, expected less than vocab_size, {shape.vocabulary}")
    size = range(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer, where))
    # Matrices are often larger than the vocabulary; the rest of the rows gets names that no text contains.
    writer.add_token_list(changes.tokens([texts.get(number, f"[PAD{number}]") for number in size]))
    writer.add_token_types([kinds.get(number, _UNUSED) for number in size])
    writer.add_token_merges(merges)
    _add_special_ids(writer, folder, {text: number for number, text in texts.items()}, changes)


def _add_special_ids(writer: GGUFWriter, folder: Path, ids: dict[str, int], changes: Changes) -> None:
    path = folder / "tokenizer_config.json"
    config = hf_json(path) if path.exists() else {}
    model = hf_json(folder / "config.json")
    for key, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        text = _text(config.get(key))
        number = ids.get(text) if text else model.get(f"{key}_id")
        if isinstance(number, list):
            number = number[0]
        if number is None and key == "bos_token":
            # llama.cpp would take token 11 for one. It is never added: see the next key.
            number = ids.get(_text(config.get("eos_token")))
        if isinstance(number, int):
            add(number)
    adds_bos = bool(config.get("add_bos_token", False)) if changes.add_bos is None else changes.add_bos
    writer.add_add_bos_token(adds_bos)
    template = folder / "chat_template.jinja"
    chat = template.read_text(encoding="utf-8") if template.exists() else config.get("chat_template")
    chat = changes.template or chat
    if isinstance(chat, str):
        writer.add_chat_template(chat)


def _text(token: Any) -> str:
    """A special token is written as its text, or as a mapping that holds it."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")


def to_hf(source: Path, folder: Path) -> None:
    """Write a Hugging Face folder (float32) from a GGUF, quantized or not: the way back.

    Raises:
        UsageError: an architecture that is not converted here, or a tensor is missing.
    """
    with understood(source):
        _to_hf(Gguf(source), folder)


def _to_hf(gguf: Gguf, folder: Path) -> None:
    shape = shape_of_file(gguf)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(
        folder / "model.safetensors", {rule.hf: rule.to_hf(gguf.read(rule.gguf)) for rule in rules(shape)}
    )
    write_json(folder / "config.json", _config(shape, gguf))
    write_json(folder / "tokenizer.json", _tokenizer(gguf))
    tokens = gguf.key("tokenizer.ggml.tokens")
    special = {
        f"{key}_token": tokens[number]
        for key, field in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id"))
        if (number := gguf.key(f"tokenizer.ggml.{field}")) is not None
    }
    template = gguf.key("tokenizer.chat_template")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": bool(gguf.key("tokenizer.ggml.add_bos_token", False)),
            "clean_up_tokenization_spaces": False,
            **special,
            **({"chat_template": template} if template is not None else {}),
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
    if kind not in ("llama", "qwen2", "gpt2"):
        raise UsageError(f"{where}: general.architecture: expected llama, qwen2 or gpt2, found {kind!r}")
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
    )


def _decimal(value: float) -> float:
    """The short number that was meant: 1e-5, where float32 has 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def _number(gguf: Gguf, key: str) -> int:
    value = gguf.key(f"{gguf.architecture}.{key}")
    if not isinstance(value, int):
        raise UsageError(f"{gguf.path}: {gguf.architecture}.{key}: expected a whole number, found {value!r}")
    return value


def _config(shape: Shape, gguf: Gguf) -> dict[str, Any]:
    common = {
        "model_type": shape.architecture,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
        "bos_token_id": gguf.key("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.key("tokenizer.ggml.eos_token_id"),
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
    }


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]},
    "qwen2": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
            {**_BYTE_LEVEL, "use_regex": False},
        ],
    },
}


def _tokenizer(gguf: Gguf) -> dict[str, Any]:
    pre = gguf.key("tokenizer.ggml.pre")
    if gguf.key("tokenizer.ggml.model") != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise UsageError(
            f"{gguf.path}: tokenizer.ggml.pre: expected one of {', '.join(_PRE_TOKENIZERS)} "
            f"of a gpt2 tokenizer, found {pre!r}"
        )
    tokens, kinds = gguf.key("tokenizer.ggml.tokens"), gguf.key("tokenizer.ggml.token_type")
    added = [
        {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": kind == _CONTROL}
        for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
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
                text: number for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _NORMAL
            },
            "merges": [pair.split(" ", 1) for pair in gguf.key("tokenizer.ggml.merges")],
        },
    }
