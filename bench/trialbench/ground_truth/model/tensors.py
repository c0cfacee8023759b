"""The differences between the tensors of two artifacts, one by one, and known patterns among them.

Two files of the same model are brought to the same names and the same order of rows first, a folder by a reader that
shares nothing with the converter; what is left is quantization, or a defect. Typical defects have a signature that is
tested for and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trialbench.ground_truth.model.origin import Origin, neighboring
from trialbench.ground_truth.model.weights import Gguf, understood

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# A relative error of 1 is what two unrelated tensors of the same size have; no quantization in use comes near.
_SUSPICIOUS = 0.5
# Hints of the right numbers in other places: no quantization does that, only a conversion.
LAYOUTS = ("rows not permuted", "rows permuted that should not be", "transposed")
_EXPLAINED = 0.25


@dataclass(frozen=True)
class TensorError:
    """One tensor of two artifacts.

    Attributes:
        name: the GGUF name.
        type: storage type in the judged file (`F16`, `Q4_K`, ...).
        max_abs: largest absolute difference.
        relative: root of the mean squared difference over that of the reference; 0 means equal.
        not_finite: how many values of the judged file are NaN or infinite.
        hint: what the difference looks like (`rows not permuted`, `transposed`, ...), empty when nothing fits.
    """

    name: str
    type: str
    max_abs: float
    relative: float
    not_finite: int = 0
    hint: str = ""


@dataclass(frozen=True)
class Comparison:
    """All tensors of two artifacts.

    Attributes:
        errors: of the tensors both have, in the reference's order.
        missing: names only the reference has.
        extra: names only the judged file has.
        reshaped: names whose shapes differ, with both shapes.
        strangers: tensors of the reference that no GGUF has a name for.
    """

    errors: tuple[TensorError, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: tuple[str, ...]
    strangers: tuple[str, ...] = ()

    @property
    def unpaired(self) -> tuple[str, ...]:
        """What only one of the two has, or in another shape, in words."""
        return (
            *(f"{name} is missing" for name in (*self.missing, *self.strangers)),
            *(f"{name} is not in the reference" for name in self.extra),
            *(f"of another shape: {one}" for one in self.reshaped),
        )

    @property
    def worst(self) -> TensorError | None:
        """The tensor with the largest relative error."""
        return max(self.errors, key=lambda one: (one.not_finite > 0, one.relative), default=None)

    @property
    def identical(self) -> bool:
        """Every tensor is there and has the same numbers."""
        return not self.unpaired and all(one.max_abs == 0.0 and not one.not_finite for one in self.errors)


def compare(judged: Path, reference: Path) -> Comparison:
    """Compare a GGUF with a Hugging Face folder or another GGUF, tensor by tensor.

    Raises:
        UsageError: one of them cannot be read.
    """
    with understood(judged):
        return _compare(judged, reference)


def _compare(judged: Path, reference: Path) -> Comparison:
    file = Gguf(judged)
    types = {tensor.name: tensor for tensor in file.tensors()}
    heads = _heads(file)
    errors, missing, reshaped, seen = [], [], [], set()
    pairs, strangers = _reference(reference, file)
    for name, read in pairs:
        seen.add(name)
        if name not in types:
            missing.append(name)
            continue
        expected = read()
        if types[name].shape != expected.shape:
            reshaped.append(f"{name}: {list(types[name].shape)}, expected {list(expected.shape)}")
            continue
        errors.append(_error(name, types[name].type, file.read(name), expected, heads))
    extra = [name for name in types if name not in seen and name not in _COMPUTED]
    return Comparison(tuple(errors), tuple(missing), tuple(extra), tuple(reshaped), strangers)


# Not a tensor of the checkpoint: upstream computes it from the configuration.
_COMPUTED = ("rope_freqs.weight",)


def _reference(path: Path, judged: Gguf) -> tuple[Iterable[tuple[str, Callable[[], Floats]]], tuple[str, ...]]:
    """Each tensor's name and how to read it, and what has no name in a GGUF."""
    if path.is_dir():
        folder = Origin(path)
        return folder.tensors(judged.__contains__), folder.strangers
    file = Gguf(path)
    return [(tensor.name, _reading(file, tensor.name)) for tensor in file.tensors()], ()


def _reading(file: Gguf, name: str) -> Callable[[], Floats]:
    return lambda: file.read(name)


def _heads(file: Gguf) -> dict[str, int]:
    """Attention heads behind the rows of the query and the key matrices."""
    query = file.key(f"{file.architecture}.attention.head_count")
    key = file.key(f"{file.architecture}.attention.head_count_kv", query)
    return {"attn_q": query if isinstance(query, int) else 0, "attn_k": key if isinstance(key, int) else 0}


def _error(name: str, kind: str, found: Floats, expected: Floats, heads: dict[str, int]) -> TensorError:
    import numpy as np

    not_finite = int(found.size - np.isfinite(found).sum())
    clean = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64)
    wide = expected.astype(np.float64)
    relative = _relative(clean, wide)
    return TensorError(
        name=name,
        type=kind,
        max_abs=float(np.max(np.abs(clean - wide), initial=0.0)),
        relative=relative,
        not_finite=not_finite,
        hint=_hint(name, clean, wide, heads, not_finite) if relative > _SUSPICIOUS or not_finite else "",
    )


def _relative(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    import numpy as np

    scale = float(np.sqrt(np.mean(expected**2))) if expected.size else 0.0
    distance = float(np.sqrt(np.mean((found - expected) ** 2))) if expected.size else 0.0
    if scale == 0.0:
        return 0.0 if distance == 0.0 else 1.0
    return distance / scale


def _hint(
    name: str, found: NDArray[np.float64], expected: NDArray[np.float64], heads: dict[str, int], not_finite: int
) -> str:
    import numpy as np

    if not_finite:
        return f"{not_finite} values are not finite: damaged"
    part = name.split(".")[-2] if "." in name else name
    count = heads.get(part, 0)
    if count and found.shape[0] % (2 * count) == 0:
        order = neighboring(found.shape[0], count)
        if _relative(found[order], expected) < _EXPLAINED:
            return LAYOUTS[0]
        if _relative(found[np.argsort(order)], expected) < _EXPLAINED:
            return LAYOUTS[1]
    if found.ndim == 2 and found.shape[0] == found.shape[1] and _relative(found.T, expected) < _EXPLAINED:
        return LAYOUTS[2]
    rows = found.reshape(found.shape[0], -1)
    wanted = expected.reshape(rows.shape)
    wrong = np.linalg.norm(rows - wanted, axis=1) > _SUSPICIOUS * (np.linalg.norm(wanted, axis=1) + 1e-12)
    if 0 < int(wrong.sum()) < len(wrong):
        return f"{int(wrong.sum())} of {len(wrong)} rows differ: damaged or in another order"
    return ""
