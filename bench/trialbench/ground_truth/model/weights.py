"""Files of a model: what they are, their hashes, and the tensors of a GGUF as float32, one at a time.

A GGUF is read through the package `gguf`, whose numpy de-quantizers share no code with the C++ ones they check.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
from collections.abc import Iterator
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
        raise UsageError(f"{path}: a part that is needed is missing or damaged: {text}") from error


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
        # As transformers reads it: UTF-8 alone; what a byte order mark adds changes nothing.
        return json.loads(file_of(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error


def file_of(path: Path) -> bytes:
    """The bytes of a small file of a Hugging Face folder.

    Raises:
        UsageError: it is missing, is not a file (reading a pipe would block), or is only a pointer to another file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: expected a file, found a folder, a pipe or a device")
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    found = pointer(raw)
    if found:
        raise UsageError(f"{path}: {found}")
    return raw


_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "Git LFS pointer, not the file itself: `git lfs pull` fetches that",
    b"version https://hawser.github.com/spec/": "Git LFS pointer, not the file itself: `git lfs pull` fetches that",
    b"/annex/objects/": "git-annex pointer, not the file itself: `git annex get` fetches that",
    b"# xet version": "git-xet pointer, not the file itself: `git xet checkout` fetches that",
    b"<!doctype html": "web page, not the file itself: fetch it again",
    b"<html": "web page, not the file itself: fetch it again",
}


def pointer(raw: bytes) -> str:
    """Which kind of pointer to another file this is, by its first bytes; empty if it is none."""
    first = raw[:200].lstrip().lower()
    return next((f"is a {what}" for start, what in _POINTERS.items() if first.startswith(start)), "")


# Everything in a folder that decides what the model says; not its README and not other formats of the same weights.
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "additional_chat_templates/*.jinja")


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a Hugging Face folder that belongs to the model, by name."""
    # A link to a missing file: the caller that needs it reports that it is missing.
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


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
