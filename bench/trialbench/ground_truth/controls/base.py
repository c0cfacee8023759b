"""Shared parts of the negative controls: their definition, their inputs, and a runtime that forwards everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trialbench.ground_truth.attribution.ladder import Step
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Model
from trialbench.ground_truth.runtimes.base import (
    Artifact,
    Generation,
    LoadedModel,
    Prompt,
    Runtime,
    Score,
)


@dataclass(frozen=True)
class Bench:
    """What a wrong file is made of, and where: in `folder`."""

    workspace: Workspace
    runtime: Runtime
    model: Model
    intact: Artifact
    folder: Path


@dataclass(frozen=True)
class Spoilt:
    """A wrong file; `floats` is the float file it was quantized from, if that is wrong too."""

    artifact: Artifact
    floats: Artifact | None = None


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

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def close(self) -> None:
        """The inner one is not ours to close."""


class LyingModel:
    """A loaded model whose free continuations are changed."""

    def __init__(self, inner: LoadedModel, change: Callable[[Generation], Generation]) -> None:
        self._inner, self._change = inner, change

    def __enter__(self) -> LyingModel:
        self._inner.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        self._inner.__exit__(*what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:
        """Changed."""
        return self._change(self._inner.generate(prompt, max_new_tokens=max_new_tokens, top=top))

    def score(self, prompt: Prompt, forced: Sequence[int], *, top: int) -> Score:
        """The distributions as they are, the continuation changed."""
        found = self._inner.score(prompt, forced, top=top)
        return replace(found, generation=self._change(found.generation))


def damaged(change: Callable[[Bench, bytes], bytes]) -> Callable[[Bench], Spoilt]:
    """A copy of the intact file with other bytes, whose hash nobody wrote down."""

    def spoil(bench: Bench) -> Spoilt:
        target = bench.folder / f"bad-{bench.intact.path.name}"
        target.write_bytes(change(bench, bench.intact.path.read_bytes()))
        return Spoilt(replace(bench.intact, path=target, sha256=""))

    return spoil


def changed(got: Generation, where: Callable[[int], range]) -> Generation:
    """A continuation with other tokens at the positions that `where` gives for its length."""
    if not got.tokens:
        return got
    tokens = list(got.tokens)
    for number in where(len(tokens)):
        tokens[number] = tokens[number] + 1 if tokens[number] else 2
    return replace(got, tokens=tuple(tokens))


def misspeaking(
    where: Callable[[int], range], *, only: Callable[[Artifact], bool] = lambda _artifact: True
) -> Callable[[Runtime], Runtime]:
    """A runtime whose continuations of the files that `only` is true of are `changed`."""

    class Misspeaking(Lying):
        def open(self, artifact: Artifact, *, kv_type: str = "f32") -> LoadedModel:
            loaded = self.inner.open(artifact, kv_type=kv_type)
            return LyingModel(loaded, lambda got: changed(got, where)) if only(artifact) else loaded

    return Misspeaking
