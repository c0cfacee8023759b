"""The Hugging Face folder as the judge reads it: once more, by name and number, without the converter's eyes.

Nothing here is shared with `configuration`, `checkpoint`, `layouts` or `convert`: a tensor that the converter
overlooks, a shard that it takes instead of another or a key that it does not read must show up as a difference, and
would not if both looked through the same code. So some of what they know is written down here a second time.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialbench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trialbench.ground_truth.model.weights import Gguf

    Floats = NDArray[np.float32]

_ROTATED = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")
# The name in a GGUF for each name of a checkpoint, as upstream has them; in any layer, however many there should be.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"model\.embed_tokens\.weight|(?:transformer\.)?wte\.weight", "token_embd.weight"),
    (r"(?:transformer\.)?wpe\.weight", "position_embd.weight"),
    (r"lm_head\.(weight|bias)", r"output.\1"),
    (r"(?:model\.norm|(?:transformer\.)?ln_f)\.(weight|bias)", r"output_norm.\1"),
    (r"model\.layers\.(\d+)\.input_layernorm\.(weight|bias)", r"blk.\1.attn_norm.\2"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm\.(weight|bias)", r"blk.\1.ffn_norm.\2"),
    (r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"blk.\1.attn_\2.\3"),
    (r"model\.layers\.(\d+)\.self_attn\.o_proj\.(weight|bias)", r"blk.\1.attn_output.\2"),
    (r"model\.layers\.(\d+)\.self_attn\.([qk])_norm\.(weight|bias)", r"blk.\1.attn_\2_norm.\3"),
    (r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.(weight|bias)", r"blk.\1.ffn_\2.\3"),
    (r"(?:transformer\.)?h\.(\d+)\.ln_1\.(weight|bias)", r"blk.\1.attn_norm.\2"),
    (r"(?:transformer\.)?h\.(\d+)\.ln_2\.(weight|bias)", r"blk.\1.ffn_norm.\2"),
    (r"(?:transformer\.)?h\.(\d+)\.attn\.c_attn\.(weight|bias)", r"blk.\1.attn_qkv.\2"),
    (r"(?:transformer\.)?h\.(\d+)\.attn\.c_proj\.(weight|bias)", r"blk.\1.attn_output.\2"),
    (r"(?:transformer\.)?h\.(\d+)\.mlp\.c_fc\.(weight|bias)", r"blk.\1.ffn_up.\2"),
    (r"(?:transformer\.)?h\.(\d+)\.mlp\.c_proj\.(weight|bias)", r"blk.\1.ffn_down.\2"),
)
_RECOMPUTED = re.compile(r".*\.rotary_emb\.inv_freq|(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint and its place; `kind` is the file's word for the type of its numbers."""

    name: str
    path: Path
    kind: str
    shape: tuple[int, ...]
    first: int
    last: int

    def read(self) -> Floats:
        """The numbers as float32, in their own shape.

        Raises:
            UsageError: they are not floating-point numbers.
        """
        import numpy as np

        if self.kind not in _TYPES:
            raise UsageError(f"{self.path}: the tensor {self.name!r} is {self.kind}: these numbers cannot be compared")
        with self.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            values = np.frombuffer(raw[self.first : self.last], _TYPES[self.kind])
        if self.kind == "BF16":
            values = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
        with np.errstate(over="ignore"):
            return np.asarray(values, dtype=np.float32).reshape(self.shape)


class Origin:
    """A folder's tensors under their GGUF names and in GGUF order of rows.

    Attributes:
        config: `config.json`.
        strangers: tensors that have no name in a GGUF: no file of the folder can be whole.
    """

    def __init__(self, folder: Path) -> None:
        """Read headers and configuration.

        Raises:
            UsageError: a file is not there, or not what its name says.
        """
        self.config = _json(folder / "config.json")
        self._stored = stored(folder)
        self._names: dict[str, str] = {}
        self.strangers: tuple[str, ...] = ()
        for name in self._stored:
            ours = next((re.sub(pattern, to, name) for pattern, to in _NAMES if re.fullmatch(pattern, name)), None)
            if ours is not None and ours not in self._names:
                self._names[ours] = name
            elif not _RECOMPUTED.fullmatch(name):
                self.strangers += (name,)

    def tensors(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Callable[[], Floats]]]:
        """Each tensor's GGUF name, and how to read it; `wanted` says whether the judged file has one of that name."""
        head, embedding = self._names.get("output.weight"), self._names.get("token_embd.weight")
        tied = bool(self.config.get("tie_word_embeddings", self.config.get("model_type") == "gpt2"))
        for ours, name in self._names.items():
            if (
                ours == "output.weight"
                and tied
                and not wanted(ours)
                and (embedding is None or self._same(name, embedding))
            ):
                continue
            yield ours, self._reader(ours, name)
        # The one matrix is both; a file may have it twice.
        if tied and embedding is None and head is not None:
            yield "token_embd.weight", self._reader("token_embd.weight", head)
        if tied and head is None and embedding is not None and wanted("output.weight"):
            yield "output.weight", self._reader("output.weight", embedding)

    def _same(self, name: str, other: str) -> bool:
        import numpy as np

        return bool(np.array_equal(self._stored[name].read(), self._stored[other].read()))

    def _reader(self, ours: str, name: str) -> Callable[[], Floats]:
        return lambda: self._placed(ours, self._stored[name].read())

    def _placed(self, ours: str, value: Floats) -> Floats:
        kind, rotated = self.config.get("model_type"), _ROTATED.fullmatch(ours)
        if kind == "gpt2" and ours.startswith("blk.") and value.ndim == 2:
            return value.T
        if kind != "llama" or rotated is None:
            return value
        heads = self.config["num_attention_heads"]
        heads = heads if rotated[1] == "q" else self.config.get("num_key_value_heads") or heads
        width = len(value) // heads
        if width * heads != len(value) or width % 2:
            return value
        return value[neighboring(len(value), heads)]


def neighboring(count: int, heads: int) -> list[int]:
    """For each row of a query or key matrix in a GGUF, that of the checkpoint: two that rotate against each other are
    neighbors in the one, half a head apart in the other.
    """
    width = count // heads
    # Row 2i + j of a head is row j * width / 2 + i of the checkpoint.
    return [head * width + (row % 2) * (width // 2) + row // 2 for head in range(heads) for row in range(width)]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a mapping, found {type(found).__name__}")
    return found


def stored(folder: Path) -> dict[str, Stored]:
    """Every tensor that transformers would load, by name.

    Raises:
        UsageError: a file is not there, or not what its name says.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    config = folder / "config.json"
    said = str(_json(config).get("transformers_weights") or "") if config.is_file() else ""
    if said and not said.endswith(".index.json"):
        return _listed(folder / said)
    if said:
        index = folder / said
    elif whole.exists() or not index.exists():
        return _listed(whole)
    files: dict[str, dict[str, Stored]] = {}
    found = {}
    for name, shard in _json(index)["weight_map"].items():
        if shard not in files:
            files[shard] = _listed(folder / Path(shard).name)
        if name not in files[shard]:
            raise UsageError(f"{index}: {name!r} is not in {shard}")
        found[name] = files[shard][name]
    # What no entry names is loaded all the same.
    spare = {name: one for listed in files.values() for name, one in listed.items() if name not in found}
    return {**found, **spare}


def _listed(path: Path) -> dict[str, Stored]:
    try:
        with path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if not 10 <= start <= path.stat().st_size:
                raise UsageError(f"{path}: is not a safetensors file")
            entries = json.loads(stream.read(start - 8))
        entries.pop("__metadata__", None)
        return {
            name: Stored(
                name, path, str(one["dtype"]), tuple(one["shape"]), *(start + at for at in one["data_offsets"])
            )
            for name, one in entries.items()
        }
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path}: is not a safetensors file: {error}") from error


def departures(file: Gguf, folder: Path) -> list[str]:
    """Where the metadata of a GGUF depart from a folder's configuration in what the model computes, in words.

    Raises:
        UsageError: the configuration cannot be read.
    """
    config = _json(folder / "config.json")
    kind = str(config.get("model_type"))
    try:
        found = [*_numbers(config, file, kind), *_unsayable(config, file, kind)]
        if kind != "gpt2":
            found += _rotation(config, file)
    except (TypeError, AttributeError, KeyError, ArithmeticError) as err:
        raise UsageError(f"{folder / 'config.json'}: a value is missing or of the wrong type: {err}") from err
    return found


def ends_elsewhere(file: Gguf, folder: Path) -> list[str]:
    """Whether a GGUF ends a sequence at none of the tokens at which transformers ends it, in words."""
    found: Any = None
    for name in ("generation_config.json", "config.json"):
        if found in (None, -1, []) and (folder / name).is_file():
            found = _json(folder / name).get("eos_token_id")
    wanted = {one for one in (found if isinstance(found, list) else [found]) if isinstance(one, int) and one >= 0}
    ours = {file.key(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
    if not wanted or wanted & ours:
        return []
    return [
        f"end of sequence {file.key('tokenizer.ggml.eos_token_id')}, expected {', '.join(map(str, sorted(wanted)))}"
    ]


# Keys of config.json, those of gpt2, and the key of the GGUF after the architecture's name, that are the same number.
_SAME = (
    ("layers", ("num_hidden_layers",), ("n_layer", "num_hidden_layers"), "block_count"),
    ("heads", ("num_attention_heads",), ("n_head", "num_attention_heads"), "attention.head_count"),
    ("hidden", ("hidden_size",), ("n_embd", "hidden_size"), "embedding_length"),
    ("inner", ("intermediate_size",), ("n_inner",), "feed_forward_length"),
)


def _numbers(config: Mapping[str, Any], file: Gguf, kind: str) -> Iterator[str]:
    ours = file.architecture
    if ours != kind:
        yield f"architecture {ours}, expected {kind}"
    wanted: dict[str, Any] = {}
    for name, most, gpt2, key in _SAME:
        keys = gpt2 if kind == "gpt2" else most
        wanted[name] = next((config[one] for one in keys if config.get(one) is not None), None)
        if name == "inner" and wanted[name] is None and kind == "gpt2":
            wanted[name] = 4 * wanted["hidden"]
        if file.key(f"{ours}.{key}") != wanted[name]:
            yield f"{name} {file.key(f'{ours}.{key}')}, expected {wanted[name]}"
    # gpt2 knows no groups, whatever its configuration says about them.
    groups = (config.get("num_key_value_heads") if kind != "gpt2" else None) or wanted["heads"]
    found = file.key(f"{ours}.attention.head_count_kv", file.key(f"{ours}.attention.head_count"))
    if found != groups:
        yield f"kv heads {found}, expected {groups}"
    tokens = len(file.key("tokenizer.ggml.tokens", ()))
    if tokens != config.get("vocab_size"):
        yield f"vocabulary {tokens}, expected {config.get('vocab_size')}"
    epsilon = config.get("layer_norm_epsilon", 1e-5) if kind == "gpt2" else config.get("rms_norm_eps", 1e-6)
    norm = "layer_norm_epsilon" if kind == "gpt2" else "layer_norm_rms_epsilon"
    yield from _near("norm epsilon", file.key(f"{ours}.attention.{norm}"), epsilon)


def _near(name: str, found: Any, wanted: Any) -> Iterator[str]:
    numbers = isinstance(found, int | float) and isinstance(wanted, int | float)
    if not numbers or not math.isclose(found, wanted, rel_tol=1e-5):
        yield f"{name} {found}, expected {wanted}"


def _rotation(config: Mapping[str, Any], file: Gguf) -> Iterator[str]:
    """The base of the rotation and how it is scaled."""
    ours = file.architecture
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    types = config.get("layer_types") or ["full_attention"]
    every = {name: one for name, one in said.items() if isinstance(one, dict)}
    nested = [every[name] for name in types if name in every] or [*every.values()]
    if len({json.dumps(one, sort_keys=True) for one in nested}) > 1:
        yield f"one rotation for all layers, expected {said}"
        return
    said = nested[0] if nested else said
    base = said.get("rope_theta", config.get("rope_theta", 10000.0))
    yield from _near("rope theta", file.key(f"{ours}.rope.freq_base", 10000.0), base)
    scaled = str(said.get("rope_type") or said.get("type") or "default")
    found = str(file.key(f"{ours}.rope.scaling.type", "none"))
    if scaled == "llama3":
        if "rope_freqs.weight" not in file:
            yield "no scaled frequencies, expected those of llama3"
    elif found != {"default": "none"}.get(scaled, scaled):
        yield f"rope scaling {found}, expected {scaled}"
    elif scaled != "default":
        yield from _near("rope scaling factor", file.key(f"{ours}.rope.scaling.factor"), said.get("factor"))
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    plain = file.key(f"{ours}.embedding_length", 0) // max(1, file.key(f"{ours}.attention.head_count", 1))
    if file.key(f"{ours}.attention.key_length", plain) != width:
        yield f"width of a head {file.key(f'{ours}.attention.key_length', plain)}, expected {width}"
    partial = said.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1
    if file.key(f"{ours}.rope.dimension_count", width) != int(width * partial):
        yield f"rotated dimensions {file.key(f'{ours}.rope.dimension_count', width)}, expected {int(width * partial)}"


# What llama.cpp computes for an architecture, by the key that can say otherwise.
_FIXED: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("llama qwen2", "hidden_act", ("silu", "swish")),
    ("gpt2", "activation_function", ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh")),
    ("gpt2", "scale_attn_weights", (True,)),
    ("gpt2", "scale_attn_by_inverse_layer_idx", (False,)),
    ("gpt2", "add_cross_attention", (False,)),
    ("llama qwen2 gpt2", "is_causal", (True,)),
)


def _window(config: Mapping[str, Any], kind: str) -> int | None:
    """The window in tokens, where one hides anything; only qwen2 says it layer by layer."""
    types = config.get("layer_types") or []
    if kind != "qwen2":
        longest = config.get("n_positions") or config.get("max_position_embeddings") or 0
        windows = [] if types else [config.get(key) for key in ("sliding_window", "attention_chunk_size")]
        return next((int(one) for one in windows if one is not None and one < longest), None)
    window = config.get("sliding_window", 4096)
    named = "sliding_attention" in types
    if window is None or not (named or (config.get("use_sliding_window") and not types)):
        return None
    first = config.get("max_window_layers", 28)
    if not named and first is not None and first >= config.get("num_hidden_layers", 0):
        return None
    # One as long as the longest text hides nothing.
    return int(window) if window < config.get("max_position_embeddings", 32768) else None


def _unsayable(config: Mapping[str, Any], file: Gguf, kind: str) -> Iterator[str]:
    for kinds, key, usual in _FIXED:
        said = config.get(key)
        if kind in kinds.split() and said is not None and said not in usual:
            yield f"no {key}, which stands for {usual[0]}, expected {said}"
    if config.get("quantization_config"):
        yield "weights that are not quantized, expected quantized ones"
    if config.get("configuration_files"):
        yield f"what config.json says, expected what one of {config['configuration_files']} says"
    if config.get("per_layer_config"):
        yield f"the same for all layers, expected {config['per_layer_config']}"
    window = _window(config, kind)
    if window is not None and not file.key(f"{file.architecture}.attention.sliding_window"):
        yield f"no window, expected one of {window} tokens"
