"""Negative controls for llama.cpp: files that were converted wrongly or damaged, and a runtime that errs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trialbench.errors import TrialbenchError
from trialbench.ground_truth.attribution.ladder import Step
from trialbench.ground_truth.controls.base import Bench, Control, Lying, Spoilt, damaged, misspeaking
from trialbench.ground_truth.evidence.oracle_files import oracle_path, read_oracle, write_oracle
from trialbench.ground_truth.runtimes.base import Artifact, Capability, Conversion

JUDGED, _OTHER = "Q8_0", "Q4_0"


# --- Wrong files -----------------------------------------------------------------------------------------------------


def _converted(**changes: Any) -> Callable[[Bench], Spoilt]:
    """Convert again with a change, then quantize as for the intact file."""

    def spoil(bench: Bench) -> Spoilt:
        from trialbench.ground_truth.model.convert import Changes, to_gguf
        from trialbench.ground_truth.model.weights import sha256

        slug, quant = bench.model.slug, bench.intact.quant
        base = bench.folder / "bad-f32.gguf"
        source = bench.workspace.folder(bench.model)
        to_gguf(source, base, "f32", name=slug, changes=Changes(**changes))
        bad = Artifact(base, slug, "gguf", "f32", sha256(base), ("hf", "gguf f32"))
        done = bench.runtime.convert(Capability.QUANTIZE, bad, bench.folder / f"bad-{quant}.gguf", quant)
        if done.artifact is None:
            raise TrialbenchError(done.trouble.text if done.trouble else "it could not be quantized")
        return Spoilt(done.artifact, bad)

    return spoil


def _not_permuted(name: str, value: Any) -> Any:
    from trialbench.ground_truth.model.layouts import separate

    # Rows as Hugging Face has them; 4 and 2 heads of the tiny llama, told by the number of rows.
    return separate(value, value.shape[0] // 64) if name.endswith(("attn_q.weight", "attn_k.weight")) else value


def _noisy(name: str, value: Any) -> Any:
    import numpy as np

    if name != "blk.0.ffn_down.weight":
        return value
    return np.random.default_rng(0).normal(0, value.std() * 3, value.shape).astype(np.float32)


def _constant(name: str, value: Any) -> Any:
    return value * 0 + 0.5 if name == "blk.0.attn_q.weight" else value


def _swapped(texts: list[str]) -> list[str]:
    # The two commonest words of the tiny world, each with its leading blank.
    first, second = texts.index("Ġthe"), texts.index("Ġof")
    texts[first], texts[second] = texts[second], texts[first]
    return texts


def _not_finite(bench: Bench, raw: bytes) -> bytes:
    """A scale of one block set to NaN, in the file's own bytes."""
    from trialbench.ground_truth.model.weights import Gguf

    place = Gguf(bench.intact.path).offset("blk.0.ffn_up.weight")
    return raw[:place] + b"\x00\x7e" + raw[place + 2 :]


def _same_file(bench: Bench) -> Spoilt:
    other = bench.workspace.artifact(bench.model, bench.runtime.identity.name, _OTHER)
    if not other.path.exists():
        raise TrialbenchError(f"expected {other.path}, found no such file")
    return Spoilt(other)


# --- Wrong runtimes --------------------------------------------------------------------------------------------------


class _Forgets(Lying):
    """What it exports has lost the first block's feed-forward."""

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        done = self.inner.convert(capability, source, target, quant)
        if capability is Capability.EXPORT and done.artifact is not None:
            from trialbench.ground_truth.model.checkpoint import Safetensors, write_safetensors

            files = Safetensors(done.artifact.path)
            tensors = {name: files.read(name) for name in files.names()}
            for name in tensors:
                if "down_proj" in name or "mlp.c_proj.weight" in name:
                    tensors[name] = tensors[name] * -3
            write_safetensors(done.artifact.path / "model.safetensors", tensors)
        return done


def _other_halves(bench: Bench) -> Path:
    """Oracles; those in half precision have their tokens and distributions in reverse order."""
    there, made = bench.workspace.roster.oracle, bench.folder / "oracle"
    for prompt in bench.workspace.roster.prompts.prompts:
        write_oracle(
            oracle_path(made, bench.model.slug, prompt.name),
            read_oracle(oracle_path(there, bench.model.slug, prompt.name)),
        )
        for precision in bench.workspace.roster.precisions:
            one = read_oracle(oracle_path(there, bench.model.slug, prompt.name, precision=precision))
            wrong = replace(one, tokens=one.tokens[::-1], top=None if one.top is None else one.top[::-1])
            write_oracle(oracle_path(made, bench.model.slug, prompt.name, precision=precision), wrong)
    return made


CONTROLS: tuple[Control, ...] = (
    Control(
        "rows not permuted",
        "query and key rows in the order of the Hugging Face files",
        ("canary", "token", "forced", "ppl", "weights", "rosetta-diff"),
        _converted(tensor=_not_permuted), guilty=Step.IMPORT,
    ),
    Control(
        "corrupted tensor", "one matrix replaced by noise", ("canary", "token", "forced", "ppl", "weights"),
        _converted(tensor=_noisy), guilty=Step.IMPORT,
    ),
    Control(
        "NaN in a block", "one scale is not a number", ("validate", "weights"), damaged(_not_finite),
        guilty=Step.FILE, damaged=True,
    ),
    Control(
        "constant tensor", "one matrix holds a single value", ("hex", "weights"), _converted(tensor=_constant),
        guilty=Step.IMPORT,
    ),
    Control(
        "shifted BOS", "a beginning-of-sequence token that the model was not trained with", ("tokenizer",),
        _converted(add_bos=True), guilty=Step.PROMPT,
    ),
    Control(
        "swapped tokens", "two words have each other's ids", ("tokenizer", "canary"), _converted(tokens=_swapped),
        guilty=Step.PROMPT,
    ),
    Control(
        "wrong RoPE base", "10 instead of 10000", ("canary", "token", "forced", "ppl"), _converted(rope_theta=10.0),
        guilty=Step.IMPORT,
    ),
    Control(
        "truncated file", "the last quarter is missing",
        ("canary", "token", "forced", "ppl", "weights", "inspect", "validate", "tensors", "hex"),
        damaged(lambda _bench, raw: raw[: len(raw) * 3 // 4]),
        guilty=Step.FILE, damaged=True,
    ),
    Control(
        "wrong chat template", "another family's", ("template",),
        _converted(template="{% for message in messages %}[INST] {{ message.content }} [/INST]{% endfor %}"),
        guilty=Step.PROMPT,
    ),
    Control(
        "wrong head count", "the metadata says 2 heads instead of 4", ("inspect", "token"), _converted(heads=2),
        guilty=Step.IMPORT,
    ),
    Control(
        "oracle of another text", "the half-precision oracles have their tokens in reverse order", ("precision",),
        oracle=_other_halves,
    ),
    Control(
        "same file twice", "one precision passed off as another", ("diff",), _same_file, guilty=Step.QUANTIZATION,
    ),
    Control(
        "stumbling runtime", "the finer file loses two tokens at the end", ("drift",),
        # Within its bound, and beyond what its coarser neighbor has.
        lie=misspeaking(lambda size: range(size - 2, size), only=lambda artifact: artifact.quant == JUDGED),
        guilty=Step.RUNTIME,
    ),
    Control(
        "other first token", "the runtime starts every continuation wrongly", ("canary", "token", "second"),
        lie=misspeaking(lambda _size: range(1)), guilty=Step.RUNTIME,
    ),
    Control(
        "lossy export", "what is exported is not what was loaded", ("roundtrip",), lie=_Forgets, guilty=Step.EXPORT,
    ),
)  # fmt: skip
