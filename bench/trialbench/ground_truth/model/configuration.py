"""What `config.json` of a Hugging Face folder says: one table of the keys that decide what a model computes.

A key goes into the GGUF, or only those of its values pass that llama.cpp's graph of the architecture computes. What
transformers does not read for an architecture decides nothing; it is noted by name, unless it is known bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trialbench.errors import UsageError

ARCHITECTURES = ("llama", "qwen2", "gpt2")
_ROTATING = ("llama", "qwen2")


@dataclass(frozen=True)
class Shape:
    """What a configuration says about a model's size. `heads` and `kv_heads` count attention heads.

    `biased` are the projections that have a bias (`q`, `k`, `v`, `o`, `gate`, `up`, `down`); gpt2's all have one.
    `notes` are what was seen in it and decides nothing, in words.
    """

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
    biased: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Key:
    """One key of `config.json`.

    Attributes:
        name: as it is written; for gpt2 also as transformers calls it for all families, in `alias`.
        of: the architectures for which transformers reads it.
        passes: whether a value is understood; every other one is refused.
        expected: those values, in words.
        to: the attribute of `Shape` it goes to; none when only the values pass that llama.cpp takes for granted.
        default: what transformers takes where there is no such key; `_NEEDED` when a folder without it is refused.
    """

    name: str
    of: tuple[str, ...]
    passes: Callable[[Any], bool]
    expected: str
    to: str = ""
    default: Any = None
    alias: str = ""


_NEEDED = object()


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


# What float32 holds with all its digits, as a GGUF does: a smaller number would become 0 there, a larger one infinite.
_LEAST, _MOST = 2.0**-126, 2.0**128 * (1 - 2.0**-25)
_POSITIVE = "a number above 0 that float32 holds"


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and _LEAST <= value < _MOST


def _optional(passes: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or passes(value)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def _nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, dict | list | str) and not value)


def _flag(value: Any) -> bool:
    return type(value) is bool


def _counted(to: str, of: tuple[str, ...], name: str, **more: Any) -> Key:
    return Key(name, of, _count, "a whole number above 0", to, **{"default": _NEEDED, **more})


# All of these compute the same: the tanh approximation.
_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh")
_ALL = ARCHITECTURES
KEYS: tuple[Key, ...] = (
    _counted("layers", _ROTATING, "num_hidden_layers"),
    _counted("heads", _ROTATING, "num_attention_heads"),
    Key("num_key_value_heads", ("llama",), _optional(_count), "a whole number above 0", "kv_heads"),
    Key("num_key_value_heads", ("qwen2",), _optional(_count), "a whole number above 0", "kv_heads", default=32),
    _counted("hidden", _ROTATING, "hidden_size"),
    _counted("inner", _ROTATING, "intermediate_size"),
    _counted("vocabulary", _ALL, "vocab_size"),
    _counted("positions", _ROTATING, "max_position_embeddings"),
    Key("rms_norm_eps", _ROTATING, _positive, _POSITIVE, "norm_epsilon", default=_NEEDED),
    Key("tie_word_embeddings", _ROTATING, _flag, "true or false", "tied", default=False),
    Key("hidden_act", _ROTATING, _one_of("silu", "swish"), "silu", default="silu"),
    Key("attention_bias", ("llama",), _optional(_flag), "true or false", "attention_bias", default=False),
    Key("mlp_bias", ("llama",), _optional(_flag), "true or false", "mlp_bias", default=False),
    _counted("layers", ("gpt2",), "n_layer", alias="num_hidden_layers"),
    _counted("heads", ("gpt2",), "n_head", alias="num_attention_heads"),
    _counted("hidden", ("gpt2",), "n_embd", alias="hidden_size"),
    _counted("positions", ("gpt2",), "n_positions", alias="max_position_embeddings"),
    Key("n_inner", ("gpt2",), _optional(_count), "a whole number above 0", "inner"),
    Key("layer_norm_epsilon", ("gpt2",), _positive, _POSITIVE, "norm_epsilon", default=1e-5),
    Key("tie_word_embeddings", ("gpt2",), _flag, "true or false", "tied", default=True),
    Key("activation_function", ("gpt2",), _one_of(*_GELU), "gelu_new", default="gelu_new"),
    Key("scale_attn_weights", ("gpt2",), _one_of(True), "true", default=True),
    Key("scale_attn_by_inverse_layer_idx", ("gpt2",), _nothing, "false"),
    Key("add_cross_attention", ("gpt2",), _nothing, "false"),
    Key("quantization_config", _ALL, _nothing, "weights that are not quantized"),
    Key("compression_config", _ALL, _nothing, "weights that are not compressed"),
    Key("pruned_heads", _ALL, _nothing, "none"),
    Key("is_encoder_decoder", _ALL, _nothing, "false"),
    Key("configuration_files", _ALL, _nothing, "none: config.json itself"),
    Key("transformers_weights", _ALL, _optional(_one_of("model.safetensors")), "model.safetensors"),
    # What masks and cache of transformers read for every architecture, whether its own code knows the key or not.
    Key("is_causal", _ALL, _one_of(True), "true", default=True),
    Key("per_layer_config", _ALL, _nothing, "the same for all layers"),
    Key("kv_sharing_modes", _ALL, _nothing, "none"),
)
# Read by `_rope`, `_refuse_windows` and `_check_heads`, which look at several keys together.
_TOGETHER = {
    **dict.fromkeys(("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "head_dim"), _ROTATING),
    **dict.fromkeys(("use_sliding_window", "max_window_layers"), ("qwen2",)),
    **dict.fromkeys(("layer_types", "sliding_window", "attention_chunk_size"), _ALL),
}
# What a configuration says of training, of saving and of other tasks; special ids are read with the tokenizer.
_WORDS = """
    model_type architectures transformers_version torch_dtype dtype _name_or_path name_or_path use_cache
    initializer_range attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout classifier_dropout
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    reorder_and_upcast_attn n_ctx pretraining_tp bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id
    task_specific_params id2label label2id num_labels problem_type output_attentions output_hidden_states return_dict
    torchscript chunk_size_feed_forward is_decoder is_llama_config transformers.js_config unsloth_version
    unsloth_fixed _attn_implementation attn_implementation _attn_implementation_autoset finetuning_task prefix
    gradient_checkpointing max_length min_length do_sample temperature top_k top_p typical_p repetition_penalty
    length_penalty num_beams num_return_sequences tokenizer_class
    """
_BOOKKEEPING = frozenset(_WORDS.split())


def shape_of(config: Mapping[str, Any], where: str) -> Shape:
    """Read `config.json` of a Hugging Face folder.

    Raises:
        UsageError: an architecture that is not converted here, a key is missing, or it has a value that llama.cpp does
            not compute; names key and value.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UsageError(f"{where}: model_type: expected one of {', '.join(ARCHITECTURES)}, found {kind!r}")
    found = {key.to: value for key, value in _read(config, str(kind), where) if key.to}
    heads, hidden = found["heads"], found["hidden"]
    found["kv_heads"] = found.get("kv_heads") or heads
    found["inner"] = found.get("inner") or 4 * hidden
    biased = biased_parts(str(kind), bool(found.pop("attention_bias", None)), bool(found.pop("mlp_bias", None)))
    _check_heads(config, where, heads, found["kv_heads"], hidden)
    notes = list(_unread(config, str(kind), where))
    theta = None
    if kind in _ROTATING:
        theta = _rope(config, where, notes)
    _refuse_windows(config, where, str(kind), found["layers"], found["positions"])
    _check_class(config, where, str(kind), notes)
    found["norm_epsilon"] = float(found["norm_epsilon"])
    return Shape(architecture=str(kind), rope_theta=theta, biased=biased, notes=tuple(notes), **found)


def biased_parts(architecture: str, attention: bool, mlp: bool) -> tuple[str, ...]:
    """The projections that have a bias: qwen2 always has three; of llama, both groups are optional."""
    if architecture != "llama":
        return ("q", "k", "v") if architecture == "qwen2" else ()
    return (*(("q", "k", "v", "o") if attention else ()), *(("gate", "up", "down") if mlp else ()))


def _read(config: Mapping[str, Any], kind: str, where: str) -> Iterator[tuple[Key, Any]]:
    """Each key of an architecture with its value, which is understood."""
    for key in KEYS:
        if kind not in key.of:
            continue
        value = config.get(key.name, config.get(key.alias, key.default) if key.alias else key.default)
        if key.alias and config.get(key.alias, value) != value:
            raise UsageError(f"{where}: {key.alias}: expected {value}, that of {key.name}, found {config[key.alias]!r}")
        if value is _NEEDED:
            raise UsageError(f"{where}: {key.name}: expected {key.expected}, found no such key")
        if not key.passes(value):
            raise UsageError(f"{where}: {key.name}: expected {key.expected}, found {_shown(value)}")
        yield key, value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_heads(config: Mapping[str, Any], where: str, heads: int, kv_heads: int, hidden: int) -> None:
    rotating = config["model_type"] in _ROTATING
    if hidden % heads or (rotating and hidden // heads % 2):
        raise UsageError(f"{where}: expected heads of a whole, even width, found {heads} of {hidden} together")
    if heads % kv_heads:
        raise UsageError(f"{where}: num_key_value_heads: expected a divisor of {heads}, found {kv_heads}")
    width = config.get("head_dim")
    if rotating and width is not None and width != hidden // heads:
        raise UsageError(f"{where}: head_dim: expected {hidden // heads}, found {_shown(width)}")


def _rope(config: Mapping[str, Any], where: str, notes: list[str]) -> float:
    """The base of the rotation. Older files say it beside `rope_scaling`, newer ones inside of `rope_parameters`; like
    transformers, an older `rope_scaling` comes before `rope_parameters`, and what is inside before what is beside.
    """
    theta: Any = config.get("rope_theta", 10000.0)
    for name in ("rope_parameters", "rope_scaling"):
        inside = config.get(name)
        if _nothing(inside):
            continue
        if not isinstance(inside, dict):
            raise UsageError(f"{where}: {name}: expected a mapping, found {_shown(inside)}")
        if config["model_type"] == "qwen2" and isinstance(inside.get("full_attention"), dict):
            # By type of layer; `_refuse_windows` refuses a model that has layers of another type.
            inside = inside["full_attention"]
        if any(isinstance(value, dict) or str(key).endswith("_attention") for key, value in inside.items()):
            raise UsageError(f"{where}: {name}: expected one rotation for all layers, found {_shown(inside)}")
        if any(inside.get(key, "default") not in ("default", None) for key in ("rope_type", "type")):
            raise UsageError(f"{where}: {name}: expected rope_type default, found {_shown(inside)}")
        _check_whole(inside.get("partial_rotary_factor"), f"{where}: {name}")
        theta = inside.get("rope_theta", config.get("rope_theta", 10000.0))
        unread = sorted(inside.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
        if unread:
            notes.append(f"{where}: {name}: {', '.join(unread)}: not used, its type is default")
    _check_whole(config.get("partial_rotary_factor"), where)
    if not _positive(theta):
        raise UsageError(f"{where}: rope_theta: expected {_POSITIVE}, found {_shown(theta)}")
    return float(theta)


def _check_whole(factor: Any, where: str) -> None:
    if factor is not None and factor != 1:
        raise UsageError(f"{where}: partial_rotary_factor: expected 1, found {_shown(factor)}")


def _refuse_windows(config: Mapping[str, Any], where: str, kind: str, layers: int, positions: int) -> None:
    """Attention that does not reach all the way back, in any layer."""
    types = config.get("layer_types") or []
    if not isinstance(types, list) or any(one != "full_attention" for one in types):
        raise UsageError(f"{where}: layer_types: expected full_attention alone, found {_shown(types)}")
    if types and len(types) != layers:
        raise UsageError(f"{where}: layer_types: expected {layers}, one for each layer, found {len(types)}")
    if types:
        return
    if kind != "qwen2":
        # Their own code knows no window, but the cache keeps no more than one has of what was said.
        for key in ("sliding_window", "attention_chunk_size"):
            if not _reaches(config.get(key), positions):
                raise UsageError(
                    f"{where}: {key}: expected none that is shorter than the {positions} positions, found "
                    f"{_shown(config[key])}: the cache of transformers forgets what is further back"
                )
        return
    if _nothing(config.get("use_sliding_window")):
        return
    window, first = config.get("sliding_window", 4096), config.get("max_window_layers", 28)
    if not _reaches(window, positions) and not (type(first) is int and first >= layers):
        raise UsageError(
            f"{where}: use_sliding_window: expected false, found {_shown(config['use_sliding_window'])}: a window of "
            f"{_shown(window)} from layer {_shown(first)} on"
        )


def _reaches(window: Any, positions: int) -> bool:
    """Whether a window hides nothing: there is none, or it is as long as the longest text."""
    return window is None or (_count(window) and window >= positions)


def _check_class(config: Mapping[str, Any], where: str, kind: str, notes: list[str]) -> None:
    """The class in `architectures`; transformers decides by model_type, and only a head for text generates text."""
    classes = config.get("architectures")
    if _nothing(classes):
        return
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise UsageError(f"{where}: architectures: expected a list of classes, found {_shown(classes)}")
    usual = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "gpt2": "GPT2LMHeadModel"}[kind]
    if usual in classes:
        return
    bare = usual.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "Model"
    if not any(one == bare or one.endswith(("ForCausalLM", "LMHeadModel")) for one in classes):
        raise UsageError(f"{where}: architectures: expected {usual}, a language model, found {', '.join(classes)}")
    notes.append(f"{where}: architectures: {', '.join(classes)}: read as {usual}, by its model_type")


def _unread(config: Mapping[str, Any], kind: str, where: str) -> Iterator[str]:
    """Keys that say something, and that transformers does not read for this architecture."""
    read = {name for key in KEYS if kind in key.of for name in (key.name, key.alias)}
    read |= {name for name, of in _TOGETHER.items() if kind in of}
    for name, value in config.items():
        if name not in read and name not in _BOOKKEEPING and not _nothing(value):
            yield f"{where}: {name}: {_shown(value)}: not used, transformers reads no such key for {kind}"
