"""Reads from a GGUF file the few header keys that a label needs."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from trialbench.errors import UsageError

_MAGIC = b"GGUF"
# Type number of a value to its struct format; 8 is a text, 9 an array.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MAX_KEYS, _MAX_TEXT, _MAX_ITEMS = 4096, 64 << 20, 64 << 20

# `general.file_type` (llama.cpp's LLAMA_FTYPE) to nominal bits per weight.
BITS: dict[int, int] = {
    **dict.fromkeys((0,), 32),
    **dict.fromkeys((1, 32), 16),
    **dict.fromkeys((7,), 8),
    **dict.fromkeys((18,), 6),
    **dict.fromkeys((8, 9, 16, 17), 5),
    **dict.fromkeys((2, 3, 14, 15, 25, 30, 38), 4),
    **dict.fromkeys((11, 12, 13, 22, 23, 26, 27), 3),
    **dict.fromkeys((10, 19, 20, 21, 28, 29, 37), 2),
    **dict.fromkeys((24, 31, 36), 1),
}


# What llama.cpp calls these types: `all F32`, `BF16`, `Q4_K - Medium`, `IQ2_XXS - 2.0625 bpw`, `MXFP4 MoE`.
_NAME = re.compile(r"\A(?:all )?(?:F|BF|I?Q|TQ|MXFP|NVFP)(\d+)(?:_|\b)")


def named_bits(name: str) -> int | None:
    """Bits per weight of a file type by llama.cpp's name for it; None where the name is unknown or was guessed."""
    found = _NAME.match(name)
    return int(found[1]) if found else None


def file_type_bits(path: Path) -> int | None:
    """Bits per weight by the file's own `general.file_type`; None where it has none, or one that is not known here.

    Raises:
        UsageError: it can't be read, or is not a GGUF.
    """
    value = header(path).get("general.file_type")
    return BITS.get(value) if isinstance(value, int) else None


def header(path: Path) -> dict[str, object]:
    """The keys of the header and their values; arrays are skipped.

    Raises:
        UsageError: it can't be read, or is not a GGUF.
    """
    try:
        with path.open("rb") as stream:
            return _header(stream)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (struct.error, ValueError) as error:
        raise UsageError(f"{path}: expected a GGUF file, found {error}") from error


def _header(stream: BinaryIO) -> dict[str, object]:
    if stream.read(4) != _MAGIC:
        raise ValueError("other first bytes")
    version, _tensors, count = _unpack(stream, "<IQQ")
    if version not in (2, 3) or count > _MAX_KEYS:
        raise ValueError(f"version {version} and {count} keys")
    found: dict[str, object] = {}
    for _ in range(count):
        name = _text(stream)
        (kind,) = _unpack(stream, "<I")
        value = _value(stream, kind)
        if value is not None:
            found[name] = value
    return found


def _value(stream: BinaryIO, kind: int) -> object:
    if kind == _TEXT:
        return _text(stream)
    if kind in _FIXED:
        value: object = _unpack(stream, "<" + _FIXED[kind])[0]
        return value
    if kind != _ARRAY:
        raise ValueError(f"a value of type {kind}")
    inner, size = _unpack(stream, "<IQ")
    if size > _MAX_ITEMS:
        raise ValueError(f"an array of {size} items")
    if inner in _FIXED:
        stream.seek(size * struct.calcsize("<" + _FIXED[inner]), 1)
    else:
        for _ in range(size):
            _value(stream, inner)
    return None


def _text(stream: BinaryIO) -> str:
    (size,) = _unpack(stream, "<Q")
    if size > _MAX_TEXT:
        raise ValueError(f"a text of {size} bytes")
    raw = stream.read(size)
    if len(raw) != size:
        raise ValueError("its end in the middle of a text")
    return raw.decode("utf-8", "replace")


def _unpack(stream: BinaryIO, form: str) -> tuple[int, ...]:
    size = struct.calcsize(form)
    raw = stream.read(size)
    if len(raw) != size:
        raise ValueError("its end in the middle of the header")
    return struct.unpack(form, raw)
