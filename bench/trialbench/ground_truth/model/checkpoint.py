"""The tensors of a Hugging Face folder, from the files that transformers would load, as float32 one at a time.

The safetensors format is eight bytes of length, a JSON header and raw numbers, so it is read here without its library.
What that library refuses is refused here too: gaps, overlaps and bytes after the last tensor.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialbench.errors import UsageError
from trialbench.ground_truth.model.weights import hf_json, need_numpy, pointer, understood

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
_FLOATS = ("F64", "F32", "F16", "BF16")
# All types of the format, in bits. Only the floats are read; of the others the places are checked.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
# Weights in formats that are not read here, and how they get into one that is.
_OTHERS = (
    (r"pytorch_model.*\.bin|.*\.(pt|pth|ckpt)", "a pickle", "save the model again with safe_serialization=True"),
    (
        r"tf_model.*\.h5|flax_model.*\.msgpack|.*\.onnx|openvino_model.*",
        "weights of another framework",
        "save the model again from PyTorch",
    ),
    (r".*\.(incomplete|part|partial|crdownload|aria2)", "an unfinished download", "fetch the model again"),
    (r".*\.gguf", "a GGUF", "name it under `files` of the roster"),
    (r".*-\d+-of-\d+\.safetensors", "one shard of several", f"fetch {INDEX}, which says what is in which"),
    (r"consolidated.*\.safetensors", "weights under names of another library", f"fetch {WEIGHTS} or its shards"),
    (r".*\.safetensors", "safetensors that transformers does not load without an index", f"name it {WEIGHTS}"),
)


def not_a_model(folder: Path) -> str | None:
    """Why a folder is not that of a whole model, in words; None when nothing speaks against it."""
    if not folder.is_dir():
        return f"{folder}: expected a folder with a model's Hugging Face files, found none"
    adapter = next((name for name in _ADAPTER if (folder / name).is_file()), None)
    if adapter is not None:
        base = _base_of(folder)
        return (
            f"{folder}: expected a whole model, found {adapter}, an adapter that is not merged: "
            f"merge it into {base} and save that"
        )
    if not (folder / "config.json").is_file():
        return f"{folder}: expected the model's Hugging Face files, found no config.json"
    return None


_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")


def _base_of(folder: Path) -> str:
    try:
        config = hf_json(folder / _ADAPTER[0])
    except UsageError:
        return "its base model"
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return str(name or "its base model")


@dataclass(frozen=True)
class _Place:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class Safetensors:
    """The tensors of a folder: `model.safetensors`, else the shards that an index assigns them to.

    Attributes:
        place: the folder.
        notes: other files there, which were not used, in words.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            UsageError: no such file, or one that contradicts itself (cut, overlapping, of an unknown type).
        """
        need_numpy()
        self.notes: tuple[str, ...] = ()
        self.place = folder
        # As transformers does it: one file of all tensors comes before any index.
        if (folder / WEIGHTS).is_file():
            self._places = _header(folder / WEIGHTS)
        elif (folder / INDEX).is_file():
            self._places = self._assigned(folder)
        else:
            raise UsageError(f"{folder}: expected {WEIGHTS}, found {_instead(folder)}")

    def _assigned(self, folder: Path) -> dict[str, _Place]:
        index = folder / INDEX
        with understood(index):
            shard_of = hf_json(index)["weight_map"]
            if not isinstance(shard_of, dict) or not shard_of:
                raise UsageError(f"{index}: weight_map: expected a shard for each tensor, found {shard_of!r:.60}")
            outside = [name for name in shard_of.values() if Path(str(name)).name != name]
            if outside:
                raise UsageError(f"{index}: weight_map: expected names of files beside it, found {outside[0]!r}")
        shards = {name: _header(folder / name) for name in sorted(set(shard_of.values()))}
        for tensor, shard in shard_of.items():
            if tensor not in shards[shard]:
                raise UsageError(f"{index}: weight_map: expected {tensor!r} in {shard}, found none of that name there")
        spare = [(name, shard) for shard, places in shards.items() for name in places if shard_of.get(name) != shard]
        unnamed = [f"{name!r} in {shard}" for name, shard in spare if name not in shard_of]
        if unnamed:
            raise UsageError(f"{index}: weight_map: expected every tensor of its shards, found none for {unnamed[0]}")
        self.notes = tuple(f"{shard}: its copy of {name} is not used: {INDEX} names another" for name, shard in spare)
        return {tensor: shards[shard][tensor] for tensor, shard in shard_of.items()}

    def names(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def dtype(self, name: str) -> str:
        """`F32`, `F16`, `BF16`, `I32`, ..."""
        return self._places[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's own shape."""
        return self._places[name].shape

    def where(self, name: str) -> str:
        """The file that holds a tensor."""
        return str(self._places[name].path)

    def read(self, name: str) -> Floats:
        """The tensor as float32, in its own shape.

        Raises:
            UsageError: there is no such tensor, or it holds no floating-point numbers.
        """
        import numpy as np

        if name not in self._places:
            raise UsageError(f"expected a tensor {name!r}, found {', '.join(self.names()[:5])} and others")
        place = self._places[name]
        if place.dtype not in _FLOATS:
            raise UsageError(
                f"{place.path}: the tensor {name!r} is {place.dtype}, expected one of {', '.join(_FLOATS)}"
            )
        count = math.prod(place.shape)
        with place.path.open("rb") as stream:
            stream.seek(place.start)
            raw = stream.read(count * _BITS[place.dtype] // 8)
        if place.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            wide = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
            return wide.view(np.float32).reshape(place.shape)
        values = np.frombuffer(raw, dtype={"F64": "<f8", "F32": "<f4", "F16": "<f2"}[place.dtype])
        with np.errstate(over="ignore"):
            return values.astype(np.float32).reshape(place.shape)


def _instead(folder: Path) -> str:
    """What is there in place of the weights, and what to do about it."""
    for link in (WEIGHTS, INDEX):
        if (folder / link).is_symlink():
            return f"{link}, a link to a file that is not there: fetch the model again"
        if (folder / link).exists():
            return f"{link}, which is a folder or a pipe: fetch the model again"
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for pattern, what, remedy in _OTHERS:
        name = next((name for name in names if re.fullmatch(pattern, name)), None)
        if name is not None:
            return f"{name}, {what}: {remedy}"
    return "no weights"


def _header(path: Path) -> dict[str, _Place]:
    """The place of each tensor in one file.

    Raises:
        UsageError: the file cannot be read, is of another format, or its tensors do not fill it exactly.
    """
    with understood(path):
        return _places(path)


def _places(path: Path) -> dict[str, _Place]:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            first = stream.read(256)
            _refuse_disguises(path, first)
            length = int.from_bytes(first[:8], "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise UsageError(f"{path}: is not a safetensors file: a header of {length} bytes in {size}")
            stream.seek(8)
            header = json.loads(stream.read(length), object_pairs_hook=_once)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise UsageError(f"{path}: is not a safetensors file: expected a mapping, found {type(header).__name__}")
    said = header.pop("__metadata__", None)
    # The format's library takes null for none.
    if said is not None and not (isinstance(said, dict) and all(isinstance(one, str) for one in said.values())):
        raise UsageError(f"{path}: is not a safetensors file: __metadata__: expected texts, found {said!r:.80}")
    places, data = {}, 8 + length
    entries = {name: _entry(path, name, entry) for name, entry in header.items()}
    at = 0
    for name, (dtype, shape, start, end) in sorted(entries.items(), key=lambda one: one[1][2:]):
        bits = math.prod(shape) * _BITS[dtype]
        if (end - start) * 8 != bits or end > size - data:
            raise UsageError(
                f"{path}: the tensor {name!r} of shape {list(shape)} should end at byte {data + start + bits // 8}, "
                f"its entry says {data + end} and the file has {size}: it is cut or damaged, fetch it again"
            )
        if start != at:
            what = "overlaps the one before it" if start < at else f"leaves {start - at} bytes before it unused"
            raise UsageError(f"{path}: the tensor {name!r} {what}: it is damaged, fetch it again")
        at, places[name] = end, _Place(path, dtype, shape, data + start)
    if data + at != size:
        raise UsageError(f"{path}: expected {data + at} bytes, found {size - data - at} more after the last tensor")
    return places


def _refuse_disguises(path: Path, first: bytes) -> None:
    """Refuse other kinds of files that often have the name of a safetensors file."""
    found = pointer(first)
    if first[:2] in (b"PK", b"\x80\x02"):
        found = "is a pickle, not a safetensors file: save the model again with safe_serialization=True"
    if first[:4] == b"GGUF":
        found = "is a GGUF, not a safetensors file"
    if found:
        raise UsageError(f"{path}: {found}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping whose names are unique.

    Raises:
        ValueError: one of them is not.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, and the first and last place of a tensor's bytes."""
    improper = UsageError(f"{path}: the tensor {name!r} has no proper entry in the header")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise improper
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        whole = isinstance(numbers, list) and all(type(one) is int and 0 <= one < 2**63 for one in numbers)
        if not whole:
            raise improper
    if len(offsets) != 2:
        raise improper
    if kind not in _BITS:
        raise UsageError(f"{path}: the tensor {name!r} is {kind}, expected one of {', '.join(_FLOATS)}")
    return str(kind), tuple(shape), offsets[0], offsets[1]


def write_safetensors(path: Path, tensors: Mapping[str, Floats]) -> None:
    """Write float32 tensors; the file appears only when it is complete."""
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(len(raw).to_bytes(8, "little") + raw)
            for value in tensors.values():
                stream.write(np.ascontiguousarray(value, dtype="<f4").tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
