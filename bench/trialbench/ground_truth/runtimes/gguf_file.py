"""Answers about a GGUF file from the file itself, under the keys that `apr` uses for the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.runtimes.base import Capability


def answer(capability: Capability, path: Path, other: Path | None = None, **more: Any) -> Any:
    """The document for one question.

    Args:
        capability: INSPECT, VALIDATE, TENSORS, HEX (`tensor=NAME`), DIFF or ROSETTA_DIFF.
        path: the file asked about.
        other: the second file of DIFF and ROSETTA_DIFF.

    Raises:
        UsageError: the file cannot be read, or the question needs a second file or a tensor's name.
    """
    from trialbench.ground_truth.model.weights import understood

    with understood(path):
        return _answer(capability, path, other, **more)


def _answer(capability: Capability, path: Path, other: Path | None, **more: Any) -> Any:
    if capability is Capability.INSPECT:
        return _inspect(path)
    if capability is Capability.VALIDATE:
        return _validate(path)
    if capability is Capability.TENSORS:
        return _tensors(path)
    if capability is Capability.HEX:
        return _hex(path, str(more.get("tensor", "")))
    if other is None:
        raise UsageError(f"{capability.value}: expected a second file to compare with")
    return _diff(path, other) if capability is Capability.DIFF else _rosetta(path, other)


def _inspect(path: Path) -> dict[str, Any]:
    from trialbench.ground_truth.model.weights import Gguf

    file = Gguf(path)
    kind = file.architecture
    metadata = {name: value for name, value in file.metadata.items() if not isinstance(value, list)}
    return {
        "architecture": kind,
        "num_layers": file.key(f"{kind}.block_count"),
        "num_heads": file.key(f"{kind}.attention.head_count"),
        "num_kv_heads": file.key(f"{kind}.attention.head_count_kv", file.key(f"{kind}.attention.head_count")),
        "hidden_size": file.key(f"{kind}.embedding_length"),
        "vocab_size": len(file.key("tokenizer.ggml.tokens", ())),
        "metadata": {name: str(value) for name, value in metadata.items()},
    }


def _validate(path: Path) -> dict[str, Any]:
    import numpy as np

    from trialbench.ground_truth.model.weights import Gguf

    file = Gguf(path)
    checks = []
    for tensor in file.tensors():
        bad = int((~np.isfinite(file.read(tensor.name))).sum())
        checks.append(
            {
                "id": tensor.name,
                "name": "all values finite",
                "status": "FAIL" if bad else "PASS",
                "detail": f"{bad} of {int(np.prod(tensor.shape))} values are not finite" if bad else "",
            }
        )
    passed = bool(checks) and all(check["status"] == "PASS" for check in checks)
    return {"checks": checks, "checks_ran": len(checks), "passed": passed, "verdict": "PASS" if passed else "FAIL"}


def _tensors(path: Path) -> dict[str, Any]:
    from trialbench.ground_truth.model.weights import Gguf

    file = Gguf(path)
    rows = [{"name": one.name, "shape": list(one.shape), "dtype": one.type} for one in file.tensors()]
    return {"tensors": rows, "tensor_count": len(rows)}


def _hex(path: Path, name: str) -> list[dict[str, Any]]:
    from trialbench.ground_truth.model.weights import Gguf

    file = Gguf(path)
    entry = next((one for one in file.tensors() if one.name == name), None)
    if entry is None:
        raise UsageError(f"{path}: expected a tensor {name!r}, found none of that name")
    values = file.read(name).astype("float64")
    stats = {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "std": float(values.std()),
    }
    return [
        {
            "name": name,
            "shape": list(entry.shape),
            "dtype": entry.type,
            "stats": stats,
            "sample_values": [float(one) for one in values.reshape(-1)[:64]],
        }
    ]


def _diff(path: Path, other: Path) -> dict[str, Any]:
    from trialbench.ground_truth.model.tensors import compare
    from trialbench.ground_truth.model.weights import Gguf

    found = compare(other, path)
    differences = [
        {"field": one.name, "type": "values", "category": "tensor", "detail": f"relative error {one.relative:.3g}"}
        for one in found.errors
        if one.max_abs != 0.0 or one.not_finite
    ]
    differences += [{"field": name, "type": "missing", "category": "tensor"} for name in found.missing]
    differences += [{"field": name, "type": "extra", "category": "tensor"} for name in found.extra]
    differences += [{"field": name, "type": "shape", "category": "tensor"} for name in found.reshaped]
    mine, theirs = Gguf(path).metadata, Gguf(other).metadata
    differences += [
        {"field": name, "type": "values", "category": "metadata"}
        for name in sorted(mine.keys() | theirs.keys())
        # A name and a type say nothing about what the model answers.
        if mine.get(name) != theirs.get(name) and name not in ("general.name", "general.file_type")
    ]
    return {"identical": not differences, "difference_count": len(differences), "differences": differences}


def _rosetta(path: Path, other: Path) -> dict[str, Any]:
    from trialbench.ground_truth.model.tensors import compare

    found = compare(other, path)
    wrong = [one.name for one in found.errors if one.hint]
    return {
        "layout_mismatches": len(wrong) + len(found.reshaped),
        "missing_in_a": len(found.extra),
        "missing_in_b": len(found.missing),
        "diagnosis": [f"{one.name}: {one.hint}" for one in found.errors if one.hint] + list(found.reshaped),
    }
