"""Names the guilty step: from the prompt over the import, the quantisation, the cache and the runtime to the export.

A file is one end of a chain. Each rung compares two neighbours of it, so that what both have in common drops out: the
float file and the oracle differ by the import alone, the quantised file and the float file by the quantisation alone,
the runtime and transformers on the same file by the runtime alone. The lowest rung that is broken is the guilty one;
what is above it inherits the fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from trialbench.ground_truth.measures import compare_tokens
from trialbench.ground_truth.observe import Evidence, Seen, prompts_of
from trialbench.ground_truth.results import Result, Status
from trialbench.ground_truth.roster import Model
from trialbench.ground_truth.runtimes.base import Artefact, Capability, Trouble

_FLOATS = ("f32", "f16")
# What may fail because of any step; other suites ask the file about itself.
_SYMPTOMS = ("canary", "token", "forced", "second", "tokenizer", "roundtrip", "weights", "ppl")
_CACHES = ("f16",)


class Step(StrEnum):
    """The steps between a checkpoint and a continuation, in the order in which a fault is inherited."""

    PROMPT = "prompt or tokenizer"
    IMPORT = "import"
    QUANTISATION = "quantisation"
    RUNTIME = "runtime"
    CACHE = "cache precision"
    EXPORT = "export"


@dataclass(frozen=True)
class Rung:
    """One comparison of two neighbours.

    Attributes:
        good: None when it could not be made.
        says: what was compared and found.
    """

    step: Step
    good: bool | None
    says: str


@dataclass(frozen=True)
class Ladder:
    """All rungs of one file.

    Attributes:
        guilty: the lowest broken rung; None when no comparison shows one.
        sure: no comparison below the guilty rung is missing.
    """

    model: str
    quant: str
    rungs: tuple[Rung, ...]
    guilty: Step | None
    sure: bool

    def as_dict(self) -> dict[str, Any]:
        """As published."""
        rungs = [{**asdict(one), "step": one.step.value} for one in self.rungs]
        return {"model": self.model, "quant": self.quant, "rungs": rungs, "sure": self.sure,
                "guilty": None if self.guilty is None else self.guilty.value}  # fmt: skip


def ladders(results: Sequence[Result], evidence: Evidence, models: Sequence[Model]) -> list[Ladder]:
    """A ladder for each file of which something failed that any step could be the cause of."""
    found = []
    for model in models:
        for quant in evidence.workspace.quants(model, evidence.runtime.identity.name):
            mine = [one for one in results if one.row.model == model.slug and quant in (one.row.quant, one.row.other)]
            if any(one.status is Status.FAIL and one.row.suite in _SYMPTOMS for one in mine):
                found.append(climb(results, evidence, model, quant))
    return found


def climb(results: Sequence[Result], evidence: Evidence, model: Model, quant: str) -> Ladder:
    """Compare the neighbours of one file. What the rows have found is used; the rest is asked, loading as little as
    can be.
    """
    step = _Climber(results, evidence, model, quant)
    rungs: list[Rung | None] = [step.prompt(), step.imported()]
    if quant not in _FLOATS:
        rungs.append(step.quantised())
    rungs += [step.run(), step.cached(), step.exported()]
    made = tuple(rung for rung in rungs if rung is not None)
    guilty = next((rung for rung in made if rung.good is False), None)
    below = made[: made.index(guilty)] if guilty is not None else made
    return Ladder(
        model.slug, quant, made, None if guilty is None else guilty.step, all(rung.good is not None for rung in below)
    )


class _Climber:
    """The comparisons for one file."""

    def __init__(self, results: Sequence[Result], evidence: Evidence, model: Model, quant: str) -> None:
        self._results, self._evidence, self._model, self._quant = results, evidence, model, quant

    def _rows(self, suite: str, quant: str | None = None) -> list[Result]:
        wanted = (self._model.slug, self._quant if quant is None else quant)
        return [one for one in self._results if one.row.suite == suite and (one.row.model, one.row.quant) == wanted]

    def _can(self, capability: Capability, artefact: Artefact) -> bool:
        return self._evidence.runtime.declined(capability, artefact) is None

    def _base(self) -> str | None:
        """The most exact file that the roster wants."""
        there = self._evidence.workspace.quants(self._model, self._evidence.runtime.identity.name)
        return next((quant for quant in _FLOATS if quant in there), None)

    def prompt(self) -> Rung:
        """The oracle's prompt ids and the runtime's: the tokenizer's rows, and what each continuation says."""
        tokenizer = [one for one in self._results if (one.row.suite, one.row.model) == ("tokenizer", self._model.slug)]
        if _any(tokenizer, Status.FAIL):
            return Rung(Step.PROMPT, False, tokenizer[0].says)
        seen = self._seen(self._quant)
        if seen is None:
            return Rung(Step.PROMPT, None, "the file could not be loaded")
        wrong, known = [], 0
        for prompt in prompts_of(self._evidence.roster):
            oracle, got = self._evidence.oracle(self._model, prompt), seen.generations.get(prompt)
            if isinstance(oracle, Trouble) or oracle.prompt_ids is None or got is None:
                continue
            if got.prompt_ids is None and got.prompt_tokens is None:
                continue
            known += 1
            same = got.prompt_ids in (None, oracle.prompt_ids)
            if not same or got.prompt_tokens not in (None, len(oracle.prompt_ids)):
                wrong.append(prompt)
        if wrong:
            return Rung(Step.PROMPT, False, f"the runtime continued another prompt: {', '.join(wrong)}")
        if not known:
            return Rung(Step.PROMPT, None, "the runtime does not say what it took the prompts for")
        return Rung(Step.PROMPT, True, f"{known} prompts are the oracle's")

    def imported(self) -> Rung:
        """The float file and the oracle: tensor by tensor where the file can be read, else by what it continues."""
        base = self._quant if self._quant in _FLOATS else self._base()
        if base is not None:
            weights = self._rows("weights", base)
            if _any(weights, Status.FAIL, Status.PASS):
                return Rung(Step.IMPORT, not _any(weights, Status.FAIL), f"{base}: {weights[0].says}")
            return self._by_tokens(Step.IMPORT, base, self._seen(base))
        # The roster wants no float file of this runtime: it is made for the comparison.
        made = self._made_float()
        if isinstance(made, str):
            return Rung(Step.IMPORT, None, f"no float file to compare: {made}")
        again = Evidence(self._evidence.workspace, self._evidence.runtime, replaced={(self._model.slug, "f32"): made})
        seen = again.seen(self._model, "f32")
        return self._by_tokens(Step.IMPORT, "f32", None if seen.trouble else seen)

    def _made_float(self) -> Artefact | str:
        evidence, model = self._evidence, self._model
        target = evidence.workspace.path(model, evidence.runtime.identity.name, "f32")
        source = evidence.workspace.source(model)
        done = evidence.runtime.convert(Capability.IMPORT_HF, source, target, "f32")
        if done.artefact is None:
            return done.trouble.text if done.trouble else "nothing was made"
        return done.artefact

    def quantised(self) -> Rung:
        """The quantised file and the float file: transformers on both, else the tensors, else what both continue."""
        drifts = [self._second_drift(prompt) for prompt in prompts_of(self._evidence.roster)]
        known = [one for one in drifts if one is not None]
        bound = self._bound()
        if known:
            worst = max(known)
            says = f"transformers on this file differs from the float32 oracle in up to {worst} tokens of a prompt"
            return Rung(Step.QUANTISATION, worst <= bound, f"{says}, {bound:g} may")
        weights = self._rows("weights")
        if _any(weights, Status.FAIL, Status.PASS):
            return Rung(Step.QUANTISATION, not _any(weights, Status.FAIL), weights[0].says)
        return Rung(Step.QUANTISATION, None, "no second oracle, and the file's tensors cannot be read")

    def _second_drift(self, prompt: str) -> int | None:
        first = self._evidence.oracle(self._model, prompt)
        second = self._evidence.oracle(self._model, prompt, quant=self._quant)
        if isinstance(first, Trouble) or isinstance(second, Trouble):
            return None
        made_of = self._evidence.artefact(self._model, self._quant).sha256
        if made_of and second.files and made_of not in second.files.values():
            # It speaks of another file than this one.
            return None
        return compare_tokens(second.tokens, first.tokens, first.eos_ids).mismatches

    def run(self) -> Rung:
        """The runtime and transformers on the same file; the oracle will do for a float file, whose weights are its."""
        rows = self._rows("second")
        if _any(rows, Status.FAIL, Status.PASS):
            bad = next((one for one in rows if one.status is Status.FAIL), None)
            return Rung(Step.RUNTIME, bad is None, (bad or rows[0]).says)
        if self._quant in _FLOATS:
            return self._by_tokens(Step.RUNTIME, self._quant, self._seen(self._quant))
        seen = self._seen(self._quant)
        worst = None if seen is None else self._worst(seen)
        if worst is not None and worst > self._bound() and _any(self._rows("weights"), Status.PASS):
            # Neither the prompt nor the weights explain it: what is left of the file is its metadata.
            says = f"up to {worst} tokens of a prompt differ, and every tensor is within its bound: the file's metadata"
            return Rung(Step.RUNTIME, False, f"{says}, or the runtime's arithmetic for {self._quant}")
        return Rung(Step.RUNTIME, None, "transformers has not read this file")

    def cached(self) -> Rung | None:
        """The same file with a cache of half precision; None where the runtime gives no choice."""
        evidence, quant = self._evidence, self._quant
        if not self._can(Capability.KV_TYPE, evidence.artefact(self._model, quant)):
            return None
        exact = self._seen(quant)
        if exact is None:
            return Rung(Step.CACHE, None, "the file could not be loaded")
        for kind in _CACHES:
            other = evidence.seen(self._model, quant, kv_type=kind)
            if other.trouble is not None:
                return Rung(Step.CACHE, None, f"{kind}: {other.trouble.text}")
            changed = [
                prompt
                for prompt in prompts_of(evidence.roster)
                if exact.generations[prompt].tokens != other.generations[prompt].tokens
            ]
            if changed:
                return Rung(Step.CACHE, False, f"a cache of {kind} changes {', '.join(changed)}")
        return Rung(Step.CACHE, True, f"a cache of {', '.join(_CACHES)} changes nothing")

    def exported(self) -> Rung | None:
        """The file and itself after export and import; None where no row asks for that."""
        rows = self._rows("roundtrip")
        if not rows or rows[0].status is Status.NOT_APPLICABLE:
            return None
        good = {Status.PASS: True, Status.FAIL: False}.get(rows[0].status)
        seen = self._seen(self._quant)
        if good is False and (seen is None or any(one.trouble for one in seen.generations.values())):
            # It does not even continue a prompt: that is no matter of the export.
            good = None if "export" not in rows[0].says else False
        return Rung(Step.EXPORT, good, rows[0].says)

    def _seen(self, quant: str) -> Seen | None:
        seen = self._evidence.seen(self._model, quant)
        return None if seen.trouble is not None else seen

    def _bound(self) -> float:
        name = f"token-{self._quant}"
        found = self._evidence.roster.tolerances.get(name)
        return 0.0 if found is None else found.value

    def _worst(self, seen: Seen) -> int | None:
        """The most tokens of a prompt that differ from the oracle's; None when no prompt could be compared."""
        worst: int | None = None
        for prompt in prompts_of(self._evidence.roster):
            oracle, got = self._evidence.oracle(self._model, prompt), seen.generations[prompt]
            if isinstance(oracle, Trouble) or got.trouble is not None or not got.tokens:
                continue
            if oracle.prompt_ids is not None and got.prompt_tokens not in (None, len(oracle.prompt_ids)):
                continue
            wrong = compare_tokens(got.tokens, oracle.tokens, oracle.eos_ids).mismatches
            worst = wrong if worst is None else max(worst, wrong)
        return worst

    def _by_tokens(self, step: Step, quant: str, seen: Seen | None) -> Rung:
        if seen is None:
            return Rung(step, None, f"{quant}: the file could not be loaded")
        worst = self._worst(seen)
        if worst is None:
            return Rung(step, None, f"{quant}: no prompt could be compared")
        return Rung(step, worst == 0, f"{quant}: up to {worst} tokens of a prompt differ from the oracle's")


def _any(results: Iterable[Result], *wanted: Status) -> bool:
    return any(one.status in wanted for one in results)
