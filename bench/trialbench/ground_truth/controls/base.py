"""Shared parts of the negative controls: their definition, their inputs, and a runtime that forwards everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trialbench.ground_truth.attribution.ladder import Step
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Model
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


@dataclass(frozen=True)
class Bench:
    """What a wrong file is made of, and where: in `folder`."""

    workspace: Workspace
    runtime: Runtime
    model: Model
    intact: Artefact
    folder: Path


@dataclass(frozen=True)
class Spoilt:
    """A wrong file; `floats` is the float file it was quantised from, if that is wrong too."""

    artefact: Artefact
    floats: Artefact | None = None


@dataclass(frozen=True)
class Control:
    """Something wrong on purpose.

    Without `lie` or `oracle` the file is wrong, and without `damaged` it was made that way.

    Attributes:
        name: short, for the table.
        wrong: what is wrong, in words.
        aimed: the suites that must catch it.
        spoil: makes the wrong file; None when it is the runtime that is wrong.
        lie: wraps the runtime; None when it is the file that is wrong.
        oracle: makes a folder of wrong oracles; None when they are right.
        guilty: the step that the ladder must name; None if no step is to blame.
        damaged: it was a good file when it was made, and its hash was written down.
        open_is_enough: nothing is said, so nothing can be wrong: what passes of the intact file must not pass.
    """

    name: str
    wrong: str
    aimed: tuple[str, ...]
    spoil: Callable[[Bench], Spoilt] | None = None
    lie: Callable[[Runtime], Runtime] | None = None
    oracle: Callable[[Bench], Path] | None = None
    open_is_enough: bool = False
    guilty: Step | None = None
    damaged: bool = False


class Lying:
    """A runtime that forwards everything; the wrong runtimes override one method."""

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


class LyingSession:
    """A session whose free continuations are changed."""

    def __init__(self, inner: Session, change: Callable[[Generation], Generation]) -> None:
        self._inner, self._change = inner, change

    def __enter__(self) -> LyingSession:
        self._inner.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        self._inner.__exit__(*what)

    @property
    def trouble(self) -> Any:
        """Passed on."""
        return self._inner.trouble

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:
        """Changed."""
        return self._change(self._inner.generate(prompt, max_new_tokens=max_new_tokens, top=top))

    def score(self, prompt: Prompt, forced: Sequence[int], *, top: int) -> Score:
        """The distributions as they are, the continuation changed."""
        found = self._inner.score(prompt, forced, top=top)
        return replace(found, generation=self._change(found.generation))

    def tokenize(self, text: str, *, add_special: bool) -> Answer:
        """Passed on."""
        return self._inner.tokenize(text, add_special=add_special)

    def render(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        """Passed on."""
        return self._inner.render(messages)


def changed(got: Generation, where: Callable[[int], range]) -> Generation:
    """A continuation with other tokens at the positions that `where` gives for its length."""
    if not got.tokens:
        return got
    tokens = list(got.tokens)
    for number in where(len(tokens)):
        tokens[number] = tokens[number] + 1 if tokens[number] else 2
    return replace(got, tokens=tuple(tokens))
