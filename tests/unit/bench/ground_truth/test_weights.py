"""Reading tensors: safetensors by hand, GGUF through its library, and files that lie."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from profiles import examples
from trialbench.errors import UsageError
from trialbench.ground_truth.model import weights
from trialbench.ground_truth.model.checkpoint import Safetensors, write_safetensors
from trialbench.ground_truth.model.convert import to_gguf
from trialbench.ground_truth.model.weights import Gguf, folder_hashes, sha256


def raw_file(path: Path, header: Any, body: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path.parent


def entry(kind: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def test_every_type_is_read_as_float32(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0], dtype=np.float32)
    half = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    body = values.tobytes() + values.astype("<f2").tobytes() + half + values.astype("<f8").tobytes()
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2], 0, 8),
        "b": entry("F16", [2, 1], 8, 12),
        "c": entry("BF16", [1, 2], 12, 16),
        "d": entry("F64", [2], 16, 32),
    }
    files = Safetensors(raw_file(tmp_path / "model.safetensors", header, body))
    assert files.names() == ["a", "b", "c", "d"]
    assert files.dtype("c") == "BF16"
    assert "a" in files
    assert "z" not in files
    for name in files.names():
        assert files.read(name).dtype == np.float32
        assert files.read(name).reshape(-1).tolist() == [1.5, -2.0]
    assert files.read("b").shape == (2, 1)
    with pytest.raises(UsageError, match="expected a tensor 'z', found a, b, c, d"):
        files.read("z")


@pytest.mark.parametrize(
    ("header", "body", "said"),
    [
        ({"a": entry("F32", [4], 0, 16)}, b"\0" * 15, "cut or damaged"),
        ({"a": entry("F32", [2], 0, 16)}, b"\0" * 16, "cut or damaged"),
        ({"a": entry("F32", [1], -4, 0)}, b"", "no proper entry"),
        ({"a": entry("F33", [1], 0, 4)}, b"\0" * 4, "is F33, expected one of F64, F32, F16, BF16"),
        ({"a": {"dtype": "F32"}}, b"", "no proper entry"),
        ({"a": entry("F32", [True], 0, 4)}, b"\0" * 4, "no proper entry"),
        ({"a": entry("F32", ["1"], 0, 4)}, b"\0" * 4, "no proper entry"),
        ({"a": entry("F32", [2**62, 2**62], 0, 4)}, b"\0" * 4, "cut or damaged"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, b"\0" * 4, "'b' overlaps the one before it"),
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, b"\0" * 8, "'b' overlaps the one before it"),
        ({"a": entry("F32", [1], 4, 8)}, b"\0" * 8, "'a' leaves 4 bytes before it unused"),
        ({"a": entry("F32", [1], 0, 4)}, b"\0" * 9, "found 5 more after the last tensor"),
        ({}, b"\0", "found 1 more after the last tensor"),
        (b'{"a": {}, "a": {}}', b"", "'a' is there twice"),
        ("a", b"", "expected a mapping, found str"),
        ({"a": 5}, b"", "no proper entry"),
        (b"{not json", b"", "is not a safetensors file"),
        (b"[" * 100_000, b"", "is not a safetensors file"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, header: Any, body: bytes, said: str) -> None:
    folder = raw_file(tmp_path / "model.safetensors", header, body)
    with pytest.raises(UsageError, match=said):
        Safetensors(folder)


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    with pytest.raises(UsageError, match="a header of 1000000000 bytes in 10"):
        Safetensors(tmp_path)


def test_only_floats_are_read(tmp_path: Path) -> None:
    header = {"a": entry("I8", [4], 0, 4), "b": entry("BOOL", [1], 4, 5)}
    files = Safetensors(raw_file(tmp_path / "model.safetensors", header, b"\0" * 5))
    assert files.names() == ["a", "b"]
    with pytest.raises(UsageError, match="'a' is I8, expected one of F64, F32, F16, BF16"):
        files.read("a")


def test_written_tensors_are_read_back(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.array([], dtype=np.float32)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    files = Safetensors(tmp_path)
    assert {name: files.read(name).tolist() for name in files.names()} == {"a": [[0, 1, 2], [3, 4, 5]], "b.c": []}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("of no matter")
    digest = hashlib.sha256(b"{}").hexdigest()
    assert sha256(tmp_path / "config.json") == digest
    assert folder_hashes(tmp_path) == {"config.json": digest}
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        sha256(tmp_path / "nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        weights.hf_json(tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        weights.hf_json(tmp_path / "bad.json")


def test_without_numpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "gguf":
            raise ImportError("No module named 'gguf'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'edgelab-trialbench\[ground-truth\]'"):
        weights.need_numpy()


@pytest.fixture
def gguf_file(tmp_path: Path, folder_of: Callable[..., Path]) -> Path:
    to_gguf(folder_of(tmp_path / "hf"), tmp_path / "m.gguf", "f32")
    return tmp_path / "m.gguf"


def test_a_gguf_is_read(gguf_file: Path) -> None:
    file = Gguf(gguf_file)
    assert file.architecture == "llama"
    assert file.key("llama.block_count") == 2
    assert file.key("nothing", 5) == 5
    assert file.metadata["general.name"] == "hf"
    assert not any(name.startswith("GGUF.") for name in file.metadata)
    first = next(file.tensors())
    assert (first.name, first.type, first.shape) == ("token_embd.weight", "F32", (12, 8))
    assert file.read("token_embd.weight").shape == (12, 8)
    assert "token_embd.weight" in file
    with pytest.raises(UsageError, match="expected a tensor 'x'"):
        file.read("x")


def test_a_gguf_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a GGUF file, found none"):
        Gguf(tmp_path / "m.gguf")


def test_a_type_that_numpy_cannot_read_is_named(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError("Dequantization for TQ9_9 is not yet implemented")

    monkeypatch.setattr("gguf.quants.dequantize", refuse)
    with pytest.raises(UsageError, match="is F32: Dequantization for TQ9_9"):
        Gguf(gguf_file).read("token_embd.weight")


def test_every_cut_of_a_gguf_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    raw = gguf_file.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [0, 3, 8, 23, 100, len(raw) // 2, len(raw) * 3 // 4, len(raw) - 400]:
        cut.write_bytes(raw[:length])
        with pytest.raises(UsageError, match=r"complete GGUF|should end at byte"):
            Gguf(cut)


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), min_size=1, max_size=5))
@example(where=[(64, 255)])
@example(where=[(8, 255), (9, 255)])
def test_a_damaged_gguf_never_escapes_as_another_error(
    where: list[tuple[int, int]], tmp_path: Path, gguf_bytes: bytes
) -> None:
    raw = bytearray(gguf_bytes)
    for place, value in where:
        raw[place] = value
    path = tmp_path / "d.gguf"
    path.write_bytes(bytes(raw))
    try:
        file = Gguf(path)
        assert file.architecture is not None
        assert file.metadata is not None
        for tensor in file.tensors():
            file.read(tensor.name)
    except UsageError:
        pass
