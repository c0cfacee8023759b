"""Negative controls for apr: damaged files, and a program that gives wrong or malformed answers.

If the output of a program can't be parsed (it ignores `--json`), no suite can fail it: there it is enough that none
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from trialbench.ground_truth.attribution.ladder import Step
from trialbench.ground_truth.controls.base import Bench, Control, Lying, LyingModel, damaged, misspeaking
from trialbench.ground_truth.runtimes.apr import Apr
from trialbench.ground_truth.runtimes.base import (
    Answer,
    Artifact,
    Call,
    Capability,
    Generation,
    LoadedModel,
    Runtime,
    Trouble,
    TroubleKind,
)

JUDGED = "int8"


def _overwritten(_bench: Bench, raw: bytes) -> bytes:
    start = len(raw) // 4
    end = min(len(raw), start + max(1, len(raw) // 2))
    return raw[:start] + b"\x7f" * (end - start) + raw[end:]


Change = Callable[[Answer], Answer]


def _says(**changes: Any) -> Change:
    """The answer with some of its values changed."""

    def change(answer: Answer) -> Answer:
        payload = answer.payload
        if isinstance(payload, list) and payload and isinstance(payload[0], dict):
            return replace(answer, payload=[{**payload[0], **changes}, *payload[1:]])
        return replace(answer, payload={**payload, **changes}) if isinstance(payload, dict) else answer

    return change


def _without_a_layer(answer: Answer) -> Answer:
    """A tree in which no node is a layer any more."""

    def renamed(node: Any, depth: int) -> Any:
        if not isinstance(node, dict) or depth == 0:
            return node
        name = "layer" if str(node.get("name")).isdigit() else node.get("name")
        return {**node, "name": name, "children": [renamed(one, depth - 1) for one in node.get("children") or []]}

    return replace(answer, payload=renamed(answer.payload, 64))


def _gate_failed(answer: Answer) -> Answer:
    """The first gate that ran has failed."""
    if not isinstance(answer.payload, dict) or not answer.payload.get("gates"):
        return answer
    first, *others = answer.payload["gates"]
    return replace(answer, payload={**answer.payload, "gates": [{**first, "passed": False, "skipped": False}, *others]})


def _failing(answer: Answer) -> Answer:
    return replace(answer, trouble=Trouble(TroubleKind.REFUSED, "exit code 5"))


def _speechless(answer: Answer) -> Answer:
    return Answer(None, answer.call, Trouble(TroubleKind.UNREADABLE, "expected JSON, found 'All is well.'"))


class _Answering(Lying):
    """Some of its questions get changed answers; `everything` changes all of them, continuations too."""

    def __init__(self, inner: Runtime, changes: Mapping[Capability, Change], everything: Change | None = None) -> None:
        super().__init__(inner)
        self._changes, self._everything = changes, everything

    def probe(self, capability: Capability, artifact: Artifact, other: Artifact | None = None, **more: Any) -> Answer:
        answer = self.inner.probe(capability, artifact, other, **more)
        change = self._everything or self._changes.get(capability)
        return answer if change is None else change(answer)

    def open(self, artifact: Artifact, *, kv_type: str = "f32") -> LoadedModel:
        loaded = self.inner.open(artifact, kv_type=kv_type)
        change = self._everything
        if change is None:
            return loaded

        def mute(got: Generation) -> Generation:
            answer = change(Answer({}, got.call, got.trouble))
            return Generation(None, None, call=got.call, trouble=answer.trouble)

        return LyingModel(loaded, mute)


def _rewired(change: Callable[[Call], Call]) -> Callable[[Runtime], Runtime]:
    """A program that prints something else: what reads its output is in between."""

    def lie(runtime: Runtime) -> Runtime:
        assert isinstance(runtime, Apr)
        return runtime.rewired(change)

    return lie


_GREEN = "\x1b[2K\x1b]0;apr\x07\x1b[1;32m\u2713 passed: true\x1b[0m {\x1b[32mOK\x1b[0m}\n"


def _lie(changes: Mapping[Capability, Change], everything: Change | None = None) -> Callable[[Runtime], Runtime]:
    return lambda runtime: _Answering(runtime, changes, everything)


_ASKED = ("inspect", "validate", "tensors", "lint", "selftest", "tree", "oracle-id", "hex")
CONTROLS: tuple[Control, ...] = (
    Control(
        "truncated file", "a quarter of it is there", ("validate", "tensors", "selftest"),
        damaged(lambda _bench, raw: raw[: len(raw) // 4]),
        guilty=Step.FILE, damaged=True,
    ),
    Control(
        "overwritten half", "half of its bytes are the same", ("token",), damaged(_overwritten),
        guilty=Step.FILE, damaged=True,
    ),
    Control(
        "blind comparison", "two precisions are found to be one file", ("diff",),
        lie=_lie({Capability.DIFF: _says(identical=True, difference_count=0)}),
    ),
    Control(
        "wrong metadata", "the program takes it for another model", ("inspect", "oracle-id", "tree"),
        lie=_lie({
            Capability.INSPECT: _says(num_heads=3),
            Capability.ORACLE_ID: _says(format={"architecture": "bert"}),
            Capability.TREE: _without_a_layer,
        }),
    ),
    Control("an error of form", "the program finds one", ("lint",), lie=_lie({Capability.LINT: _says(error_count=1)})),
    Control(
        "constant tensor", "a matrix holds a single value", ("hex",),
        lie=_lie({Capability.HEX: _says(stats={"std": 0.0})}),
    ),
    Control(
        "another layout", "one tensor lies transposed", ("rosetta-diff",),
        lie=_lie({Capability.ROSETTA_DIFF: _says(layout_mismatches=1)}),
    ),
    Control(
        "no speed", "it never generates a token", ("bench",),
        lie=_lie({Capability.BENCH: _says(tokens_per_second=0.0)}),
    ),
    Control("a failed gate", "one of its gates fails", ("qa",), lie=_lie({Capability.QA: _gate_failed})),
    Control(
        "a GPU that computes otherwise", "the program finds a difference", ("parity-gpu",),
        lie=_lie({Capability.PARITY_GPU: _says(passed=False)}),
    ),
    Control(
        "surprised by everything", "a perplexity of a million", ("ppl",),
        lie=_lie({Capability.EVAL: _says(perplexity=1e6)}),
    ),
    Control(
        "other first tokens", "the program starts every continuation wrongly", ("canary", "token"),
        lie=misspeaking(lambda size: range(min(6, size))), guilty=Step.RUNTIME,
    ),
    Control(
        "stumbling program", "the finer file loses two tokens at the end", ("drift",),
        lie=misspeaking(lambda size: range(size - 2, size), only=lambda artifact: artifact.quant == JUDGED),
    ),
    Control(
        "lossy way back", "what was exported comes back as another model", ("roundtrip",),
        lie=misspeaking(
            lambda size: range(size - 1, size), only=lambda artifact: "gguf exported" in artifact.parents
        ),
    ),
    Control(
        "yes, and a failing exit code", "valid JSON that passes, exit code 5", _ASKED,
        lie=_lie({}, _failing),
    ),
    Control(
        "prints ANSI", "colors and a title, and no JSON between them", (*_ASKED, "token", "canary"),
        lie=_rewired(lambda call: replace(call, exit_code=0, stdout=_GREEN)), open_is_enough=True,
    ),
    Control(
        "exits 0 on failure", "an error on standard error alone", (*_ASKED, "token", "canary"),
        lie=_rewired(lambda call: replace(call, exit_code=0, stdout="", stderr="error: Inference failed: no memory\n")),
    ),
    Control(
        "ignores --json", "the program prints sentences", (*_ASKED, "token", "canary"), lie=_lie({}, _speechless),
        open_is_enough=True,
    ),
)  # fmt: skip
