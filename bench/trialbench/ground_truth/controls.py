"""Negative controls: deliberately wrong files and runtimes that the suites must reject, or their passes mean nothing.

A control is caught when the suite it is aimed at says FAIL of it and PASS of the intact file, on the same row.
INCONCLUSIVE, or a crash of ours, is no catch. Each applicable suite is the aim of at least one control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trialbench.errors import TrialbenchError
from trialbench.ground_truth.controls_base import Bench, Control, Lying, LyingSession, Spoilt, changed
from trialbench.ground_truth.ladder import Ladder, Step, climb
from trialbench.ground_truth.observe import Evidence
from trialbench.ground_truth.oracle_files import oracle_path, read_oracle, write_oracle
from trialbench.ground_truth.results import Result, Row, Status
from trialbench.ground_truth.roster import Model
from trialbench.ground_truth.runtimes.base import (
    Artefact,
    Capability,
    Conversion,
    Runtime,
    Session,
)
from trialbench.ground_truth.suites import declared, judge, suite
from trialbench.ground_truth.workspace import Workspace

_JUDGED, _OTHER = "Q8_0", "Q4_0"


@dataclass(frozen=True)
class Caught:
    """What became of one control.

    Attributes:
        by: suites that caught it.
        missed: suites it was aimed at that did not, and what they said.
        untried: suites it was aimed at that do not pass the intact file either: nothing can be seen to turn.
        trouble: why it could not be made; nothing is proved then.
        blamed: the ladder of the wrong file, as far as its guilty step.
    """

    control: Control
    by: tuple[str, ...]
    missed: Mapping[str, str]
    trouble: str = ""
    blamed: Ladder | None = None
    untried: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Every suite it was aimed at caught it that could, and the ladder names the step that is wrong."""
        return bool(self.by) and not self.missed and not self.trouble and self.rightly

    @property
    def tried(self) -> bool:
        """There was a suite that could have caught it."""
        return bool(self.by or self.missed or self.trouble)

    @property
    def rightly(self) -> bool:
        """The ladder names the step that was made to be wrong, and none where none was."""
        return (None if self.blamed is None else self.blamed.guilty) is self.control.guilty


# --- Wrong files -----------------------------------------------------------------------------------------------------


def _converted(**changes: Any) -> Callable[[Bench], Spoilt]:
    """Converted anew with something changed, then quantised as the intact file was."""

    def spoil(bench: Bench) -> Spoilt:
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
        return Spoilt(done.artefact, bad)

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


def _truncated(bench: Bench) -> Spoilt:
    target = bench.folder / "cut.gguf"
    raw = bench.intact.path.read_bytes()
    target.write_bytes(raw[: len(raw) * 3 // 4])
    return Spoilt(replace(bench.intact, path=target, sha256=""))


def _not_finite(bench: Bench) -> Spoilt:
    """A scale of one block set to NaN, in the file's own bytes."""
    from trialbench.ground_truth.weights import Gguf

    target = bench.folder / "nan.gguf"
    raw = bytearray(bench.intact.path.read_bytes())
    place = Gguf(bench.intact.path).offset("blk.0.ffn_up.weight")
    raw[place : place + 2] = b"\x00\x7e"
    target.write_bytes(bytes(raw))
    return Spoilt(replace(bench.intact, path=target, sha256=""))


def _same_file(bench: Bench) -> Spoilt:
    return Spoilt(bench.workspace.artefact(bench.model, bench.runtime.identity.name, _OTHER))


# --- Wrong runtimes --------------------------------------------------------------------------------------------------


class _Stumbles(Lying):
    """The judged file's last two tokens are wrong: within its bound, and beyond what its coarser neighbour has."""

    def open(self, artefact: Artefact, *, kv_type: str = "f32") -> Session:
        session = self.inner.open(artefact, kv_type=kv_type)
        if artefact.quant != _JUDGED:
            return session
        return LyingSession(session, lambda got: changed(got, lambda size: range(size - 2, size)))


class _Starts(Lying):
    """Every continuation starts with another token."""

    def open(self, artefact: Artefact, *, kv_type: str = "f32") -> Session:
        session = self.inner.open(artefact, kv_type=kv_type)
        return LyingSession(session, lambda got: changed(got, lambda _size: range(1)))


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


def _other_halves(bench: Bench) -> Path:
    """Oracles of which those in half precision tell their tokens and distributions backwards."""
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
        "NaN in a block", "one scale is not a number", ("validate", "weights"), _not_finite,
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
        ("canary", "token", "forced", "ppl", "weights", "inspect", "validate", "tensors", "hex"), _truncated,
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
        "oracle of another text", "half precision tells its tokens backwards", ("precision",), oracle=_other_halves,
    ),
    Control(
        "same file twice", "one precision passed off as another", ("diff",), _same_file, guilty=Step.QUANTISATION,
    ),
    Control(
        "stumbling runtime", "the finer file loses two tokens at the end", ("drift",), lie=_Stumbles,
        guilty=Step.RUNTIME,
    ),
    Control(
        "other first token", "the runtime starts every continuation wrongly", ("canary", "token", "second"),
        lie=_Starts, guilty=Step.RUNTIME,
    ),
    Control(
        "lossy export", "what is exported is not what was loaded", ("roundtrip",), lie=_Forgets, guilty=Step.EXPORT,
    ),
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
        if control.oracle is not None and not workspace.roster.precisions:
            continue
        found.append(_try(control, workspace, runtime, model, intact, folder, judged))
        one = found[-1]
        how = (
            f"caught by {', '.join(one.by)}" if one.good else f"NOT CAUGHT {one.trouble}" if one.tried else "not tried"
        )
        tell(f"control {control.name}: {how}")
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
    as_made: dict[tuple[str, str], Artefact] = {}
    bad: Runtime = runtime
    original = workspace.artefact(model, runtime.identity.name, judged)
    try:
        if control.spoil is not None:
            spoilt = control.spoil(Bench(workspace, runtime, model, original, folder))
            replaced[model.slug, judged] = spoilt.artefact
            if control.damaged:
                as_made[model.slug, judged] = replace(spoilt.artefact, sha256=original.sha256)
            if spoilt.floats is not None:
                as_made[model.slug, spoilt.floats.quant] = spoilt.floats
        if control.lie is not None:
            bad = control.lie(runtime)
        told = workspace
        if control.oracle is not None:
            oracle = control.oracle(Bench(workspace, runtime, model, original, folder))
            told = Workspace(workspace.root, replace(workspace.roster, oracle=oracle))
    except (TrialbenchError, OSError, ValueError) as error:
        return Caught(control, (), {}, f"could not be made: {error}")
    # The suites are not told the hash of a damaged file: they must see the damage themselves.
    spoiled = Evidence(told, bad, replaced=replaced)
    by, missed, untried = [], {}, {}
    failed: list[Result] = []
    for name in control.aimed:
        rows = [
            _aim(row, judged)
            for row in declared(workspace.roster, runtime.identity.name, [name], [model.slug])
            if _meant(row, control, judged)
        ]
        pairs = [(judge(row, intact), judge(row, spoiled)) for row in rows]
        failed += [wrong for good, wrong in pairs if (good.status, wrong.status) == (Status.PASS, Status.FAIL)]
        if _is_caught(pairs, control.open_is_enough):
            by.append(name)
        elif pairs and all(good.status is not Status.PASS for good, _ in pairs):
            untried[name] = f"{pairs[0][0].status.value}: {pairs[0][0].says}"
        else:
            missed[name] = _missed(pairs)
    blamed = _blamed(control, failed, spoiled.with_files(as_made), model, judged) if failed else None
    return Caught(control, tuple(by), missed, blamed=blamed, untried=untried)


def _blamed(control: Control, failed: Sequence[Result], evidence: Evidence, model: Model, judged: str) -> Ladder | None:
    """The ladder of the file in which the control showed; None where nothing is to be blamed."""
    if control.guilty is None:
        return None
    quant = judged if control.lie is None else failed[0].row.quant
    return climb(failed, evidence, model, quant, whole=False)


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
    if control.oracle is not None:
        return True
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
    """Applicable suites that no control was caught by: nobody has seen them fail. Those whose answer is always the same
    could not.
    """
    proved = {name for one in caught for name in (*one.by, *one.untried)}
    rows = declared(workspace.roster, runtime.identity.name, (), [model.slug])
    evidence = Evidence(workspace, runtime)
    constant = {name for name in {row.suite for row in rows} if runtime.identity.name in suite(name).constant}
    asked = {row.suite for row in rows if _applies(row, evidence)} - constant
    return sorted(asked - proved)


def _applies(row: Row, evidence: Evidence) -> bool:
    artefact = evidence.artefact(evidence.roster.model(row.model), row.quant) if row.quant else None
    return suite(row.suite).declined(evidence.runtime, artefact) is None
