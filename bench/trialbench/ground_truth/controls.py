"""Negative controls: deliberately wrong files and runtimes that the suites must reject, or their passes mean nothing.

A control is caught when the suite it is aimed at says FAIL of it and PASS of the intact file, on the same row.
INCONCLUSIVE, or a crash of ours, is no catch. Each applicable suite is the aim of at least one control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trialbench.errors import TrialbenchError
from trialbench.ground_truth.observe import Evidence
from trialbench.ground_truth.results import Result, Row, Status
from trialbench.ground_truth.roster import Model
from trialbench.ground_truth.runtimes.base import (
    Answer,
    Artefact,
    Capability,
    Conversion,
    Generation,
    Perplexity,
    Prompt,
    Runtime,
    Score,
    Session,
)
from trialbench.ground_truth.suites import declared, judge
from trialbench.ground_truth.workspace import Workspace

_JUDGED, _OTHER = "Q8_0", "Q4_0"


@dataclass(frozen=True)
class Bench:
    """What a wrong file is made of, and where: in `folder`."""

    workspace: Workspace
    runtime: Runtime
    model: Model
    intact: Artefact
    folder: Path


@dataclass(frozen=True)
class Control:
    """Something wrong on purpose.

    Attributes:
        name: short, for the table.
        wrong: what is wrong, in words.
        aimed: the suites that must catch it.
        spoil: makes the wrong file; None when it is the runtime that is wrong.
        lie: wraps the runtime; None when it is the file that is wrong.
        open_is_enough: nothing is said, so nothing can be wrong: what passes of the intact file must not pass.
    """

    name: str
    wrong: str
    aimed: tuple[str, ...]
    spoil: Callable[[Bench], Artefact] | None = None
    lie: Callable[[Runtime], Runtime] | None = None
    open_is_enough: bool = False


@dataclass(frozen=True)
class Caught:
    """What became of one control.

    Attributes:
        by: suites that caught it.
        missed: suites it was aimed at that did not, and what they said.
        trouble: why it could not be made; nothing is proved then.
    """

    control: Control
    by: tuple[str, ...]
    missed: Mapping[str, str]
    trouble: str = ""

    @property
    def good(self) -> bool:
        """Every suite it was aimed at caught it."""
        return bool(self.by) and not self.missed and not self.trouble


# --- Wrong files -----------------------------------------------------------------------------------------------------


def _converted(**changes: Any) -> Callable[[Bench], Artefact]:
    """Converted anew with something changed, then quantised as the intact file was."""

    def spoil(bench: Bench) -> Artefact:
        from trialbench.ground_truth.convert import Changes, to_gguf
        from trialbench.ground_truth.weights import sha256

        slug, quant = bench.model.slug, bench.intact.quant
        base = bench.folder / "bad-f32.gguf"
        source = bench.workspace.folder(bench.model)
        to_gguf(source, base, "f32", name=slug, changes=Changes(**changes))
        bad = Artefact(base, slug, "gguf", "f32", sha256(base), ("hf", "gguf f32"))
        done = bench.runtime.convert(Capability.QUANTIZE, bad, bench.folder / f"bad-{quant}.gguf", quant)
        if done.artefact is None:
            raise TrialbenchError(done.trouble.text if done.trouble else "it could not be quantised")
        return done.artefact

    return spoil


def _not_permuted(name: str, value: Any) -> Any:
    from trialbench.ground_truth.layouts import separate

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


def _truncated(bench: Bench) -> Artefact:
    target = bench.folder / "cut.gguf"
    raw = bench.intact.path.read_bytes()
    target.write_bytes(raw[: len(raw) * 3 // 4])
    return replace(bench.intact, path=target, sha256="")


def _not_finite(bench: Bench) -> Artefact:
    """A scale of one block set to NaN, in the file's own bytes."""
    from trialbench.ground_truth.weights import Gguf

    target = bench.folder / "nan.gguf"
    raw = bytearray(bench.intact.path.read_bytes())
    place = Gguf(bench.intact.path).offset("blk.0.ffn_up.weight")
    raw[place : place + 2] = b"\x00\x7e"
    target.write_bytes(bytes(raw))
    return replace(bench.intact, path=target, sha256="")


def _same_file(bench: Bench) -> Artefact:
    return bench.workspace.artefact(bench.model, bench.runtime.identity.name, _OTHER)


# --- Wrong runtimes --------------------------------------------------------------------------------------------------


class Lying:
    """A runtime that passes everything on; the wrong ones below change one thing."""

    def __init__(self, inner: Runtime) -> None:
        self.inner = inner
        self.identity, self.formats = inner.identity, inner.formats

    def declined(self, capability: Capability, artefact: Artefact | None = None) -> str | None:
        """Passed on."""
        return self.inner.declined(capability, artefact)

    def open(self, artefact: Artefact, *, kv_type: str = "f32") -> Session:
        """Passed on."""
        return self.inner.open(artefact, kv_type=kv_type)

    def probe(self, capability: Capability, artefact: Artefact, other: Artefact | None = None, **more: Any) -> Answer:
        """Passed on."""
        return self.inner.probe(capability, artefact, other, **more)

    def perplexity(self, artefact: Artefact, text: Path, *, context: int, reference: Path | None = None) -> Perplexity:
        """Passed on."""
        return self.inner.perplexity(artefact, text, context=context, reference=reference)

    def convert(self, capability: Capability, source: Artefact, target: Path, quant: str) -> Conversion:
        """Passed on."""
        return self.inner.convert(capability, source, target, quant)

    def close(self) -> None:
        """The inner one is not ours to close."""


class _LyingSession:
    """A session whose free continuations are changed."""

    def __init__(self, inner: Session, change: Callable[[Generation], Generation]) -> None:
        self._inner, self._change = inner, change

    def __enter__(self) -> _LyingSession:
        self._inner.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        self._inner.__exit__(*what)

    @property
    def trouble(self) -> Any:
        return self._inner.trouble

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:
        return self._change(self._inner.generate(prompt, max_new_tokens=max_new_tokens, top=top))

    def score(self, prompt: Prompt, forced: Sequence[int], *, top: int) -> Score:
        found = self._inner.score(prompt, forced, top=top)
        return replace(found, generation=self._change(found.generation))

    def tokenize(self, text: str, *, add_special: bool) -> Answer:
        return self._inner.tokenize(text, add_special=add_special)

    def render(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        return self._inner.render(messages)


def _changed(got: Generation, where: Callable[[int], range]) -> Generation:
    if not got.tokens:
        return got
    tokens = list(got.tokens)
    for number in where(len(tokens)):
        tokens[number] = tokens[number] + 1 if tokens[number] else 2
    return replace(got, tokens=tuple(tokens))


class _Stumbles(Lying):
    """The judged file's last two tokens are wrong: within its bound, and beyond what its coarser neighbour has."""

    def open(self, artefact: Artefact, *, kv_type: str = "f32") -> Session:
        session = self.inner.open(artefact, kv_type=kv_type)
        if artefact.quant != _JUDGED:
            return session
        return _LyingSession(session, lambda got: _changed(got, lambda size: range(size - 2, size)))


class _Starts(Lying):
    """Every continuation starts with another token."""

    def open(self, artefact: Artefact, *, kv_type: str = "f32") -> Session:
        session = self.inner.open(artefact, kv_type=kv_type)
        return _LyingSession(session, lambda got: _changed(got, lambda _size: range(1)))


class _Forgets(Lying):
    """What it exports has lost the first block's feed-forward."""

    def convert(self, capability: Capability, source: Artefact, target: Path, quant: str) -> Conversion:
        done = self.inner.convert(capability, source, target, quant)
        if capability is Capability.EXPORT and done.artefact is not None:
            from trialbench.ground_truth.weights import Safetensors, write_safetensors

            files = Safetensors(done.artefact.path)
            tensors = {name: files.read(name) for name in files.names()}
            for name in tensors:
                if "down_proj" in name or "mlp.c_proj.weight" in name:
                    tensors[name] = tensors[name] * -3
            write_safetensors(done.artefact.path / "model.safetensors", tensors)
        return done


CONTROLS: tuple[Control, ...] = (
    Control(
        "rows not permuted",
        "query and key rows in the order of the Hugging Face files",
        ("canary", "token", "forced", "ppl", "weights", "rosetta-diff"),
        _converted(tensor=_not_permuted),
    ),
    Control(
        "corrupted tensor", "one matrix replaced by noise", ("canary", "token", "forced", "ppl", "weights"),
        _converted(tensor=_noisy),
    ),
    Control("NaN in a block", "one scale is not a number", ("validate", "weights"), _not_finite),
    Control("constant tensor", "one matrix holds a single value", ("hex", "weights"), _converted(tensor=_constant)),
    Control(
        "shifted BOS", "a beginning-of-sequence token that the model was not trained with", ("tokenizer",),
        _converted(add_bos=True),
    ),
    Control(
        "swapped tokens", "two words have each other's ids", ("tokenizer", "canary"), _converted(tokens=_swapped)
    ),
    Control(
        "wrong RoPE base", "10 instead of 10000", ("canary", "token", "forced", "ppl"), _converted(rope_theta=10.0)
    ),
    Control(
        "truncated file", "the last quarter is missing",
        ("canary", "token", "forced", "ppl", "weights", "inspect", "validate", "tensors", "hex"), _truncated,
    ),
    Control(
        "wrong chat template", "another family's", ("template",),
        _converted(template="{% for message in messages %}[INST] {{ message.content }} [/INST]{% endfor %}"),
    ),
    Control("wrong head count", "the metadata says 2 heads instead of 4", ("inspect", "token"), _converted(heads=2)),
    Control("same file twice", "one precision passed off as another", ("diff",), _same_file),
    Control("stumbling runtime", "the finer file loses two tokens at the end", ("drift",), lie=_Stumbles),
    Control(
        "other first token", "the runtime starts every continuation wrongly", ("canary", "token", "second"),
        lie=_Starts,
    ),
    Control("lossy export", "what is exported is not what was loaded", ("roundtrip",), lie=_Forgets),
)  # fmt: skip


def run_controls(
    workspace: Workspace,
    runtime: Runtime,
    model: Model,
    *,
    tell: Callable[[str], None] = lambda _text: None,
) -> list[Caught]:
    """Try every control on one model: the tiny llama, whose layout has everything that can be got wrong."""
    intact = Evidence(workspace, runtime)
    folder = workspace.root / "controls"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    controls, judged = _set(runtime.identity.name)
    for control in controls:
        found.append(_try(control, workspace, runtime, model, intact, folder, judged))
        one = found[-1]
        tell(f"control {control.name}: {'caught by ' + ', '.join(one.by) if one.good else f'NOT CAUGHT {one.trouble}'}")
    return found


def _try(
    control: Control,
    workspace: Workspace,
    runtime: Runtime,
    model: Model,
    intact: Evidence,
    folder: Path,
    judged: str,
) -> Caught:
    replaced: dict[tuple[str, str], Artefact] = {}
    bad: Runtime = runtime
    try:
        if control.spoil is not None:
            original = workspace.artefact(model, runtime.identity.name, judged)
            replaced[model.slug, judged] = control.spoil(Bench(workspace, runtime, model, original, folder))
        if control.lie is not None:
            bad = control.lie(runtime)
    except (TrialbenchError, OSError, ValueError) as error:
        return Caught(control, (), {}, f"could not be made: {error}")
    spoiled = Evidence(workspace, bad, replaced=replaced)
    by, missed = [], {}
    for name in control.aimed:
        rows = [
            _aim(row, judged)
            for row in declared(workspace.roster, runtime.identity.name, [name], [model.slug])
            if _meant(row, control, judged)
        ]
        pairs = [(judge(row, intact), judge(row, spoiled)) for row in rows]
        if _is_caught(pairs, control.open_is_enough):
            by.append(name)
        else:
            missed[name] = _missed(pairs)
    return Caught(control, tuple(by), missed)


def _set(runtime: str) -> tuple[Sequence[Control], str]:
    """The controls for a runtime, and the quant of the file that is spoiled."""
    if runtime == "apr":
        from trialbench.ground_truth import controls_apr

        return controls_apr.CONTROLS, controls_apr.JUDGED
    return CONTROLS, _JUDGED


def _aim(row: Row, judged: str) -> Row:
    """Suites that judge the most exact file are asked about the spoiled one instead."""
    return replace(row, quant=judged) if row.suite in ("tokenizer", "template") else row


def _meant(row: Row, control: Control, judged: str) -> bool:
    """Rows about the spoiled file; a wrong runtime is wrong about every file."""
    return control.lie is not None or judged in (_aim(row, judged).quant, row.other)


def _is_caught(pairs: Sequence[tuple[Result, Result]], open_is_enough: bool) -> bool:
    if open_is_enough:
        passed = [bad.status for good, bad in pairs if good.status is Status.PASS]
        return bool(passed) and Status.PASS not in passed
    return any(good.status is Status.PASS and bad.status is Status.FAIL for good, bad in pairs)


def _missed(pairs: Sequence[tuple[Result, Result]]) -> str:
    if not pairs:
        return "no row is declared"
    good, bad = pairs[0]
    return f"intact {good.status.value}, wrong {bad.status.value}: {bad.says}"


def uncovered(caught: Sequence[Caught], runtime: Runtime, workspace: Workspace, model: Model) -> list[str]:
    """Applicable suites that no control was caught by: nobody has seen them fail."""
    proved = {name for one in caught for name in one.by}
    rows = declared(workspace.roster, runtime.identity.name, (), [model.slug])
    evidence = Evidence(workspace, runtime)
    asked = {row.suite for row in rows if _applies(row, evidence)}
    return sorted(asked - proved)


def _applies(row: Row, evidence: Evidence) -> bool:
    from trialbench.ground_truth.suites import suite

    artefact = evidence.artefact(evidence.roster.model(row.model), row.quant) if row.quant else None
    return suite(row.suite).declined(evidence.runtime, artefact) is None
