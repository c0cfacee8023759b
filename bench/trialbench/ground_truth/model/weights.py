"""Tensors in files: `model.safetensors` of a Hugging Face folder and GGUF, read as float32 one at a time.

The safetensors format is eight bytes of length, a JSON header and raw numbers, so it is read here without its
library; GGUF through the package `gguf`, whose numpy de-quantizers share no code with the C++ ones they check.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialbench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_MAX_HEADER_BYTES = 100_000_000
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_EXTRA = "expected the packages numpy and gguf: install the extra, pip install 'edgelab-trialbench[ground-truth]'"


def need_numpy() -> None:
    """Say what to install where tensors cannot be read.

    Raises:
        UsageError: numpy or gguf is missing.
    """
    try:
        import gguf  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise UsageError(f"{error}; {_EXTRA}") from error


# Exceptions raised by files that violate their format.
_GARBLED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError, struct.error)


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Wraps all code that parses untrusted files.

    Raises:
        UsageError: the file does not keep it.
    """
    try:
        yield
    except _GARBLED as error:
        text = f"{type(error).__name__}: {str(error)[:200]}"
        raise UsageError(f"{path}: lacks or garbles something that is needed: {text}") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def hf_json(path: Path) -> Any:
    """A JSON file of a Hugging Face folder, which may hold larger numbers than our own files.

    Raises:
        UsageError: not there or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error


# Everything in a folder that decides what the model says; not its README and not other formats of the same weights.
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a Hugging Face folder that belongs to the model, by name."""
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    return {path.name: sha256(path) for path in files}


class Safetensors:
    """The tensors of a folder: one `model.safetensors`, or several with an index."""

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            UsageError: no such file, or one that contradicts itself (cut, overlapping, of an unknown type).
        """
        need_numpy()
        self._places: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UsageError(f"{folder}: expected model.safetensors, found none: fetch it with `trialbench pull`")
        index = folder / "model.safetensors.index.json"
        if index.exists():
            with understood(index):
                files = sorted({folder / Path(name).name for name in hf_json(index)["weight_map"].values()})
        elif len(files) > 1:
            raise UsageError(f"{folder}: expected one model.safetensors or an index, found {len(files)} files")
        for path in files:
            with understood(path):
                self._read_header(path)

    def _read_header(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                    raise UsageError(f"{path}: is not a safetensors file: a header of {length} bytes in {size}")
                header = json.loads(stream.read(length))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: is not a safetensors file: {error}") from error
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            try:
                kind, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
                start, end = (int(n) for n in entry["data_offsets"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UsageError(f"{path}: the tensor {name!r} has no proper entry in the header") from error
            if kind not in _BYTES:
                raise UsageError(f"{path}: the tensor {name!r} is {kind}, expected one of {', '.join(_BYTES)}")
            if end - start != math.prod(shape) * _BYTES[kind] or not 0 <= start <= end <= size - 8 - length:
                raise UsageError(
                    f"{path}: the tensor {name!r} of shape {list(shape)} should end at byte {8 + length + end}; "
                    f"the file has {size}: it is cut or damaged, fetch it again"
                )
            self._places[name] = (path, kind, shape, 8 + length + start)

    def names(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def dtype(self, name: str) -> str:
        """`F32`, `F16` or `BF16`."""
        return self._places[name][1]

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's own shape."""
        return self._places[name][2]

    def read(self, name: str) -> Floats:
        """The tensor as float32, in its own shape.

        Raises:
            UsageError: there is no such tensor.
        """
        import numpy as np

        if name not in self._places:
            raise UsageError(f"expected a tensor {name!r}, found {', '.join(self.names()[:5])} and others")
        path, kind, shape, offset = self._places[name]
        count = math.prod(shape)
        with path.open("rb") as stream:
            stream.seek(offset)
            raw = stream.read(count * _BYTES[kind])
        if kind == "BF16":
            # bfloat16 is the upper half of a float32.
            wide = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
            return wide.view(np.float32).reshape(shape)
        values = np.frombuffer(raw, dtype={"F64": "<f8", "F32": "<f4", "F16": "<f2"}[kind])
        return values.astype(np.float32).reshape(shape)


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


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF: `shape` is numpy's (rows first), the reverse of the file's."""

    name: str
    type: str
    shape: tuple[int, ...]


class Gguf:
    """A GGUF file: metadata, and tensors as float32."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            UsageError: no such file, no GGUF, or a cut one.
        """
        need_numpy()
        self.path = path
        self._reader = _reader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        try:
            # Read everything now, so that an unreadable key does not fail in the middle of a check.
            self._metadata: dict[str, Any] = {
                name: field.contents() for name, field in self._reader.fields.items() if not name.startswith("GGUF.")
            }
        except _DAMAGE as error:
            raise _incomplete(path, error) from error
        self._check_extent()

    def _check_extent(self) -> None:
        size = self.path.stat().st_size
        for tensor in self._reader.tensors:
            end = int(tensor.data_offset) + int(tensor.n_bytes)
            if end > size:
                raise UsageError(
                    f"{self.path}: the tensor {tensor.name!r} should end at byte {end}, the file has {size}"
                )

    @property
    def metadata(self) -> dict[str, Any]:
        """All keys but the file's own counts, as plain Python values."""
        return dict(self._metadata)

    def key(self, name: str, default: Any = None) -> Any:
        """One key of the metadata."""
        return self._metadata.get(name, default)

    @property
    def architecture(self) -> str:
        """`llama`, `qwen2`, `gpt2`, ..."""
        return str(self.key("general.architecture", ""))

    def tensors(self) -> Iterator[GgufTensor]:
        """All tensors, in the file's order."""
        for tensor in self._reader.tensors:
            shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
            yield GgufTensor(tensor.name, tensor.tensor_type.name, shape)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def offset(self, name: str) -> int:
        """Where a tensor's bytes start in the file."""
        return int(self._tensors[name].data_offset)

    def read(self, name: str) -> Floats:
        """A tensor as float32, de-quantized where it is quantized, rows first."""
        import numpy as np
        from gguf.quants import dequantize

        if name not in self._tensors:
            raise UsageError(f"{self.path}: expected a tensor {name!r}, found none of that name")
        tensor = self._tensors[name]
        shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UsageError(f"{self.path}: the tensor {name!r} is {tensor.tensor_type.name}: {error}") from error
        except _DAMAGE as error:
            raise _incomplete(self.path, error) from error
        return np.asarray(values, dtype=np.float32).reshape(shape)


# The reader checks little before it maps: a damaged file ends in whatever numpy or a codec says.
_DAMAGE = (ValueError, KeyError, IndexError, OverflowError, MemoryError, OSError, AttributeError, TypeError)


def _incomplete(path: Path, error: BaseException) -> UsageError:
    return UsageError(f"{path}: is not a complete GGUF file: {str(error)[:200] or type(error).__name__}")


def _reader(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    if not path.is_file():
        raise UsageError(f"{path}: expected a GGUF file, found none: make it with `trialbench convert`")
    try:
        return GGUFReader(path)
    except _DAMAGE as error:
        raise _incomplete(path, error) from error
