"""Per-tensor errors, and the signature of each defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.model import convert, layouts
from trialbench.ground_truth.model.convert import to_gguf
from trialbench.ground_truth.model.tensors import compare
from trialbench.ground_truth.runtimes.base import Capability
from trialbench.ground_truth.runtimes.gguf_file import answer

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, folder_of: Folder) -> Path:
    return folder_of(tmp_path / "hf")


def made(folder: Path, path: Path, change: Callable[[str, Any], Any] | None = None, quant: str = "f32") -> Path:
    """A GGUF of the folder, with tensors changed on the way."""
    original = convert.Source.tensors
    if change is None:
        to_gguf(folder, path, quant, name="m")
        return path

    def changed(source: convert.Source) -> Any:
        for name, value in original(source):
            other = change(name, value.copy())
            if other is not None:
                yield name, other

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert.Source, "tensors", changed)
        # What is not a number would not be written.
        patch.setattr(convert, "_check_finite", lambda *_: None)
        to_gguf(folder, path, quant, name="m")
    return path


def test_float32_is_identical_and_float16_nearly(tmp_path: Path, folder: Path) -> None:
    exact = compare(made(folder, tmp_path / "a.gguf"), folder)
    assert exact.identical
    assert exact.worst is not None
    half = compare(made(folder, tmp_path / "b.gguf", quant="f16"), folder)
    assert not half.identical
    assert half.worst is not None
    assert 1e-5 < half.worst.relative < 5e-4
    assert half.worst.type == "F16"
    assert half.worst.hint == ""
    assert compare(tmp_path / "a.gguf", tmp_path / "a.gguf").identical


def test_each_defect_has_a_signature(tmp_path: Path, folder_of: Folder) -> None:
    # One head of eight rows: with four, both ways of ordering them are the same.
    folder = folder_of(tmp_path / "one-head", num_attention_heads=1)
    heads = {"blk.0.attn_q.weight": 1, "blk.1.attn_k.weight": 1}
    defects: dict[str, Callable[[str, Any], Any]] = {
        "rows not permuted": lambda name, v: layouts.separate(v, heads[name]) if name in heads else v,
        "rows permuted that should not be": lambda name, v: (
            layouts.interleave(v, 1) if name == "blk.0.attn_q.weight" else v
        ),
        "transposed": lambda name, v: np.ascontiguousarray(v.T) if name == "blk.0.attn_output.weight" else v,
        "4 of 12 rows differ": lambda name, v: (
            np.concatenate([v[:8], v[8:] * -2]) if name == "blk.1.ffn_up.weight" else v
        ),
        "1 values are not finite": lambda name, v: (
            np.where(np.arange(v.size).reshape(v.shape) == 3, np.nan, v) if name == "token_embd.weight" else v
        ),
    }
    for hint, change in defects.items():
        found = compare(made(folder, tmp_path / "d.gguf", change), folder)
        assert found.worst is not None
        assert hint in found.worst.hint, hint
        assert not found.identical
        others = [one for one in found.errors if one.max_abs > 0]
        assert len(others) in (0, 1, 2)
    noise = compare(made(folder, tmp_path / "n.gguf", lambda name, v: -v if "ffn_up" in name else v), folder)
    assert noise.worst is not None
    assert noise.worst.hint == ""
    assert noise.worst.relative == pytest.approx(2.0)


def test_missing_extra_and_reshaped(tmp_path: Path, folder: Path) -> None:
    whole = made(folder, tmp_path / "whole.gguf")
    less = made(folder, tmp_path / "less.gguf", lambda name, v: None if name == "output_norm.weight" else v)
    assert compare(less, folder).missing == ("output_norm.weight",)
    assert compare(whole, less).extra == ("output_norm.weight",)
    flat = made(folder, tmp_path / "flat.gguf", lambda name, v: v.T if name == "blk.0.ffn_up.weight" else v)
    assert compare(flat, folder).reshaped == ("blk.0.ffn_up.weight: [8, 12], expected [12, 8]",)


def test_a_tensor_of_zeros(tmp_path: Path, folder: Path) -> None:
    zero = made(folder, tmp_path / "zero.gguf", lambda name, v: v * 0 if name == "output_norm.weight" else v)
    intact = made(folder, tmp_path / "whole.gguf")
    assert compare(zero, zero).identical
    back = compare(intact, zero)
    assert back.worst is not None
    assert back.worst.relative == 1.0


def test_answers_about_a_file(tmp_path: Path, folder: Path) -> None:
    file = made(folder, tmp_path / "a.gguf")
    seen = answer(Capability.INSPECT, file)
    assert (seen["architecture"], seen["num_layers"], seen["num_heads"], seen["num_kv_heads"]) == ("llama", 2, 2, 1)
    assert (seen["hidden_size"], seen["vocab_size"]) == (8, 12)
    assert seen["metadata"]["llama.block_count"] == "2"
    assert "tokenizer.ggml.tokens" not in seen["metadata"]
    assert answer(Capability.VALIDATE, file)["passed"] is True
    listing = answer(Capability.TENSORS, file)
    assert listing["tensor_count"] == len(listing["tensors"]) == 20
    (row,) = answer(Capability.HEX, file, tensor="blk.0.attn_q.weight")
    assert row["stats"]["std"] > 0
    assert row["stats"]["min"] < row["stats"]["mean"] < row["stats"]["max"]
    assert len(row["sample_values"]) == 64
    with pytest.raises(UsageError, match="expected a tensor 'x'"):
        answer(Capability.HEX, file, tensor="x")
    with pytest.raises(UsageError, match="diff: expected a second file"):
        answer(Capability.DIFF, file)


def test_answers_about_two_files(tmp_path: Path, folder: Path) -> None:
    file = made(folder, tmp_path / "a.gguf")
    assert answer(Capability.DIFF, file, file) == {"identical": True, "difference_count": 0, "differences": []}
    bad = made(folder, tmp_path / "b.gguf", lambda name, v: v * np.nan if name == "token_embd.weight" else v)
    assert answer(Capability.VALIDATE, bad)["passed"] is False
    found = answer(Capability.DIFF, file, bad)
    assert (found["identical"], found["difference_count"]) == (False, 1)
    assert answer(Capability.ROSETTA_DIFF, file, bad)["layout_mismatches"] == 1
    less = made(folder, tmp_path / "c.gguf", lambda name, v: None if name == "output_norm.weight" else v)
    assert answer(Capability.ROSETTA_DIFF, file, less)["missing_in_b"] == 1
    assert answer(Capability.ROSETTA_DIFF, less, file)["missing_in_a"] == 1
    assert answer(Capability.DIFF, file, less)["differences"][0]["type"] == "missing"
    other = tmp_path / "d.gguf"
    other.write_bytes(file.read_bytes().replace(b"smollm", b"martha"))
    assert answer(Capability.DIFF, file, other)["differences"][0]["field"] == "tokenizer.ggml.pre"
    flat = made(folder, tmp_path / "e.gguf", lambda name, v: v.T if name == "blk.0.ffn_up.weight" else v)
    assert [one["type"] for one in answer(Capability.DIFF, file, flat)["differences"]] == ["shape"]
    assert answer(Capability.DIFF, less, file)["differences"][0]["type"] == "extra"
