"""Names the guilty step: the file itself, the prompt, the import, the quantization, the runtime, the export.

A file is one end of a chain. Each rung compares two neighbors of it, so that what both have in common drops out: the
file and the hash it had when it was made, the float file and the Hugging Face files, the quantized file and the float
file, the runtime and transformers on the same file. The lowest rung that is broken is the guilty one; what is above it
inherits the fault. Files are compared tensor by tensor where they can be read, else by what they continue; the files of
a runtime whose format is its own are exported for that, and imported a second time from a GGUF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.attribution.neighbors import Neighbors, other_numbers
from trialbench.ground_truth.evidence.measures import Cause, TokenComparison, allowed, compare_tokens
from trialbench.ground_truth.evidence.observe import Evidence, Seen, prompts_of
from trialbench.ground_truth.model.roster import Model
from trialbench.ground_truth.runtimes.base import Artifact, Capability, Trouble, TroubleKind
from trialbench.ground_truth.suites.results import Result, Row, Status
from trialbench.ground_truth.suites.table import declared, judge

_FLOATS = ("f32", "f16")
# What may fail because of any step; other suites ask the file about itself.
_SYMPTOMS = (
    *("canary", "token", "drift", "forced", "second", "tokenizer", "template", "roundtrip", "weights", "ppl"),
    *("validate", "tensors", "selftest"),
)
_CACHES = ("f16",)
Ask = Callable[[Row], Result]


class Step(StrEnum):
    """The steps between a checkpoint and a continuation, in the order in which a fault is inherited."""

    FILE = "file"  # it is not what was made: cut, overwritten
    PROMPT = "prompt or tokenizer"
    IMPORT = "import"
    QUANTIZATION = "quantization"
    RUNTIME = "runtime"
    EXPORT = "export"
    CACHE = "cache precision"  # last: all suites ask with the exact one, so it explains what nothing else does


@dataclass(frozen=True)
class Rung:
    """One comparison of two neighbors.

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
    """A ladder for each file with a failure that any step could have caused."""
    found = []
    for model in models:
        neighbors = Neighbors(evidence, model)
        for quant in model.wanted(evidence.runtime.identity.name):
            mine = [one for one in results if one.row.model == model.slug and quant in (one.row.quant, one.row.other)]
            if any(one.status is Status.FAIL and one.row.suite in _SYMPTOMS for one in mine):
                found.append(climb(results, evidence, model, quant, neighbors=neighbors))
    return found


def climb(
    results: Sequence[Result],
    evidence: Evidence,
    model: Model,
    quant: str,
    *,
    neighbors: Neighbors | None = None,
    ask: Ask | None = None,
    whole: bool = True,
) -> Ladder:
    """Compare the neighbors of one file. What the rows have found is used; the rest is asked, loading as little as
    can be.

    Args:
        ask: judges a row that `results` lack; the default asks the evidence.
        whole: also the rungs above the guilty one, for the reader.
    """
    step = _Climber(results, evidence, model, quant, neighbors or Neighbors(evidence, model),
                    ask or (lambda row: judge(row, evidence)))  # fmt: skip
    rungs: list[Rung] = []
    for compare in (step.file, step.prompt, step.imported, step.quantized, step.run, step.exported, step.cached):
        rung = compare()
        if rung is not None:
            rungs.append(rung)
            if rung.good is False and not whole:
                break
    guilty = next((rung for rung in rungs if rung.good is False), None)
    below = rungs[: rungs.index(guilty)] if guilty is not None else rungs
    sure = all(rung.good is not None for rung in below)
    return Ladder(model.slug, quant, tuple(rungs), None if guilty is None else guilty.step, sure)


class _Climber:
    """The comparisons for one file."""

    def __init__(
        self,
        results: Sequence[Result],
        evidence: Evidence,
        model: Model,
        quant: str,
        neighbors: Neighbors,
        ask: Ask,
    ) -> None:
        self._results, self._evidence, self._model, self._quant = list(results), evidence, model, quant
        self._neighbors, self._ask = neighbors, ask
        # The finding if the float file has the model's numbers but a different continuation.
        self._float_astray = ""

    # --- What is known ---

    def _rows(self, suite: str, quant: str | None = None) -> list[Result]:
        wanted = (self._model.slug, self._quant if quant is None else quant)
        return [one for one in self._results if one.row.suite == suite and (one.row.model, one.row.quant) == wanted]

    def _asked(self, suite: str, quant: str | None = None) -> list[Result]:
        """The rows of a suite about a file; rows not judged yet are judged now."""
        found = self._rows(suite, quant)
        if not found:
            name, quant = self._evidence.runtime.identity.name, self._quant if quant is None else quant
            rows = declared(self._evidence.roster, name, [suite], [self._model.slug])
            if suite in ("tokenizer", "template"):
                # They are declared for one file of a model; this one has a tokenizer of its own.
                rows = [Row(suite, self._model.slug, quant, prompt=row.prompt) for row in rows]
            found = [self._ask(row) for row in rows if (row.quant, row.other) == (quant, "")]
            self._results += found
        return found

    def _artifact(self, quant: str | None = None) -> Artifact:
        return self._evidence.artifact(self._model, self._quant if quant is None else quant)

    def _can(self, capability: Capability) -> bool:
        return self._evidence.runtime.declined(capability, self._artifact()) is None

    def _readable(self) -> bool:
        return self._artifact().format == "gguf"

    def _base(self) -> str | None:
        """The most exact file that the roster wants."""
        there = self._model.wanted(self._evidence.runtime.identity.name)
        return next((quant for quant in _FLOATS if quant in there), None)

    def _seen(self, quant: str) -> Seen | None:
        seen = self._evidence.seen(self._model, quant)
        return None if seen.trouble is not None else seen

    def _bound(self, name: str = "token") -> float:
        found = self._evidence.roster.tolerances.get(f"{name}-{self._quant}")
        return 0.0 if found is None else found.value

    def _compared(self, seen: Seen | None) -> dict[str, TokenComparison]:
        """Each prompt's continuation against the oracle's, where both continue the same prompt."""
        found: dict[str, TokenComparison] = {}
        if seen is None or seen.trouble is not None:
            return found
        for prompt in prompts_of(self._evidence.roster):
            oracle, got = self._evidence.oracle(self._model, prompt), seen.generations[prompt]
            if isinstance(oracle, Trouble) or got.trouble is not None or not got.tokens or oracle.prompt_ids is None:
                continue
            if got.prompt_ids in (None, oracle.prompt_ids) and got.prompt_tokens in (None, len(oracle.prompt_ids)):
                found[prompt] = compare_tokens(got.tokens, oracle.tokens, oracle.eos_ids)
        return found

    def _worst(self, seen: Seen | None) -> int | None:
        """The most tokens of a prompt that differ from the oracle's; None when no prompt could be compared."""
        return max((one.mismatches for one in self._compared(seen).values()), default=None)

    def _within(self, seen: Seen | None) -> bool:
        """Whether no prompt's continuation differs further than it may."""
        found = self._compared(seen).values()
        return all(one.mismatches <= allowed(self._bound(), one.compared) for one in found)

    def _by_tokens(self, step: Step, quant: str, seen: Seen | None) -> Rung:
        if seen is None:
            return Rung(step, None, f"{quant}: the file could not be loaded")
        worst = self._worst(seen)
        if worst is None:
            return Rung(step, None, f"{quant}: no prompt could be compared")
        return Rung(step, worst == 0, f"{quant}: up to {worst} tokens of a prompt differ from the oracle's")

    # --- The rungs ---

    def file(self) -> Rung:
        """The file as it is now, and as it was made."""
        artifact = self._artifact()
        if not artifact.path.exists():
            return Rung(Step.FILE, None, f"{artifact.path}: no such file")
        altered = self._evidence.altered(self._model, self._quant)
        if altered is not None:
            return Rung(Step.FILE, False, altered)
        if artifact.sha256:
            return Rung(Step.FILE, True, "it has the hash it had when it was made")
        if self._readable():
            return self._read()
        for suite in ("validate", "tensors"):
            bad = next((one for one in self._asked(suite) if one.status is Status.FAIL), None)
            if bad is not None:
                return Rung(Step.FILE, False, f"{suite}: {bad.says}")
        return Rung(Step.FILE, None, "its hash was not recorded when it was made")

    def _read(self) -> Rung:
        """A GGUF without a recorded hash: whether it is complete and its values are numbers."""
        weights = self._asked("weights")
        for one in weights:
            spoilt = one.evidence.get("not_finite") or []
            if spoilt:
                return Rung(Step.FILE, False, f"values of {', '.join(spoilt[:3])} are not numbers")
            if one.status is Status.FAIL and "tensors" not in one.evidence:
                return Rung(Step.FILE, False, one.says)
        read = _any(weights, Status.PASS, Status.FAIL)
        says = "it can be read to its end" if read else "its hash was not recorded, and it was not read"
        return Rung(Step.FILE, True if read else None, says)

    def prompt(self) -> Rung:
        """The oracle's prompt and tokens, and the runtime's: the tokenizer's rows, and what each continuation says."""
        seen = self._seen(self._quant)
        if seen is None:
            return Rung(Step.PROMPT, None, "the file could not be loaded")
        for suite, capability in (("tokenizer", Capability.TOKENIZE), ("template", Capability.TEMPLATE)):
            rows = self._asked(suite) if self._can(capability) else []
            bad = next((one for one in rows if one.status is Status.FAIL), None)
            if bad is not None:
                return Rung(Step.PROMPT, False, bad.says)
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
            return Rung(Step.PROMPT, None, "the runtime does not report how it read the prompts")
        return self._spelt(seen) or Rung(Step.PROMPT, True, f"{known} prompts are the oracle's")

    def _spelt(self, seen: Seen) -> Rung | None:
        """The same tokens with a different text: detokenization is wrong."""
        compared = self._compared(seen)
        if not compared or any(one.mismatches for one in compared.values()):
            return None
        other = []
        for prompt in compared:
            oracle, text = self._evidence.oracle(self._model, prompt), seen.generations[prompt].text
            # A text that ends where an end-of-sequence token was left out on one side is the same one.
            if not isinstance(oracle, Trouble) and text is not None and not compared[prompt].dropped_eos:
                other += [prompt] if text != oracle.text else []
        if not other:
            return None
        return Rung(Step.PROMPT, False, f"the tokens are the oracle's, and their text is not: {', '.join(other)}")

    def imported(self) -> Rung:
        """The float file and the Hugging Face files."""
        return self._imported_gguf() if self._readable() else self._imported_own()

    def _imported_gguf(self) -> Rung:
        """Tensor by tensor, and number by number of the configuration."""
        step, base = Step.IMPORT, self._quant if self._quant in _FLOATS else self._base()
        # It shows faults of the import, too: no quantization moves rows, loses tensors or writes other numbers.
        for quant in dict.fromkeys(quant for quant in (base, self._quant) if quant is not None):
            try:
                wrong = other_numbers(self._artifact(quant).path, self._evidence.workspace.folder(self._model))
            except UsageError:
                wrong = []
            if wrong:
                return Rung(step, False, f"{quant}: the file says {'; '.join(wrong)}")
            for one in self._asked("weights", quant):
                kinds = ("layout", "missing", "extra", "reshaped", "strangers", "numbers")
                moved = [name for kind in kinds for name in one.evidence.get(kind, [])]
                intact = self._evidence.altered(self._model, quant) is None
                if one.status is Status.FAIL and (moved or (quant == base and intact)):
                    return Rung(step, False, f"{quant}: {one.says}")
        rows = [] if base is None else self._asked("weights", base)
        if _any(rows, Status.PASS):
            return Rung(step, True, f"{base}: {rows[0].says}")
        if base is None:
            return Rung(step, None, "no float file to compare: the roster has none")
        return self._by_tokens(step, base, self._seen(base))

    def _imported_own(self) -> Rung:
        """By what the float import continues; where that is not the oracle's, by its tensors, and by the same model
        imported from a GGUF.
        """
        step, first = Step.IMPORT, self._neighbors.imported()
        if isinstance(first, str):
            return Rung(step, None, f"no float file to compare: {first}")
        seen = self._neighbors.said(first)
        rung = self._by_tokens(step, "f32", None if seen.trouble else seen)
        if rung.good:
            return rung
        folder = self._evidence.workspace.folder(self._model)
        same, says = self._neighbors.apart(self._neighbors.exported(first), folder, 1e-6)
        if same:
            says = f"tensor by tensor as in the Hugging Face files, once exported: {says}"
            self._float_astray = f"{rung.says}; {says}" if rung.good is False else ""
            return Rung(step, True, says)
        if same is False:
            return Rung(step, False, f"{rung.says}; {says}")
        second = self._neighbors.imported_from_gguf()
        other = None if isinstance(second, str) else self._neighbors.said(second)
        if rung.good is False and self._worst(other) == 0:
            return Rung(step, False, f"{rung.says}; imported from a GGUF it gives the oracle's tokens")
        if rung.good is False:
            # Both imports are wrong, or there is only one: tokens alone can't tell bad numbers from bad arithmetic.
            tokens = {prompt: one.got for prompt, one in self._compared(seen).items()}
            if tokens == {prompt: one.got for prompt, one in self._compared(other).items()}:
                rung = replace(rung, says=f"{rung.says}; imported from a GGUF it says the same")
            self._float_astray = rung.says
        return Rung(step, None, rung.says)

    def quantized(self) -> Rung | None:
        """The quantized file and the float file: transformers on both, else the tensors, else what both continue."""
        step = Step.QUANTIZATION
        if self._quant in _FLOATS:
            return None
        known = [one for one in map(self._second_drift, prompts_of(self._evidence.roster)) if one is not None]
        if known:
            worst, bound = max(known), self._bound()
            says = f"transformers on this file differs from the float32 oracle in up to {worst} tokens of a prompt"
            return Rung(step, worst <= bound, f"{says}, {bound:g} allowed")
        return self._quantized_gguf() if self._readable() else self._quantized_own()

    def _quantized_gguf(self) -> Rung:
        step, weights = Step.QUANTIZATION, self._asked("weights")
        if not _any(weights, Status.FAIL, Status.PASS):
            return Rung(step, None, "no second oracle, and the file's tensors cannot be read")
        causes = {one.evidence.get("cause") for one in self._rows("token") if one.status is Status.FAIL} - {None}
        if not _any(weights, Status.FAIL) and causes and Cause.DEFECT not in causes:
            # Each tensor is as near as it may be, and the leads that turned are no larger than what moved everywhere.
            return Rung(
                step, False, f"every tensor is within its bound, but the noise changes tokens: {weights[0].says}"
            )
        return Rung(step, not _any(weights, Status.FAIL), weights[0].says)

    def _quantized_own(self) -> Rung:
        """The same numbers as floats, by way of an export: what they say too is in the numbers, not in the runtime."""
        step, bound, mine = Step.QUANTIZATION, self._bound(), self._worst(self._seen(self._quant))
        floats = self._neighbors.imported()
        if isinstance(floats, str):
            return Rung(step, None, f"no float file to compare: {floats}")
        if self._float_astray:
            return Rung(step, None, "the float file does not give the oracle's tokens either")
        reference = self._neighbors.exported(floats)
        within = self._bound("tensor")
        same, says = self._neighbors.apart(self._neighbors.exported(self._artifact()), reference, within)
        if same is False and within:
            return Rung(step, False, f"against the float import, both exported: {says}")
        back = self._neighbors.back(self._artifact())
        seen = None if isinstance(back, str) else self._neighbors.said(back)
        theirs = self._worst(seen)
        if mine is None or theirs is None:
            return Rung(step, same, says)
        if not self._within(self._seen(self._quant)):
            found = f"{mine} tokens of a prompt differ from the oracle's, {theirs} once its numbers are floats again"
            return Rung(step, self._within(seen), f"{found}, {bound:g} of 32 allowed")
        return Rung(step, True, f"up to {mine} tokens of a prompt differ from the oracle's, {bound:g} allowed")

    def _second_drift(self, prompt: str) -> int | None:
        first = self._evidence.oracle(self._model, prompt)
        second = self._evidence.oracle(self._model, prompt, quant=self._quant)
        if isinstance(first, Trouble) or isinstance(second, Trouble):
            return None
        made_of = self._artifact().sha256
        if made_of and second.files and made_of not in second.files.values():
            # It is about another file.
            return None
        return compare_tokens(second.tokens, first.tokens, first.eos_ids).mismatches

    def run(self) -> Rung:
        """The runtime and transformers on the same file; the oracle will do for a float file, whose weights are its."""
        step, seen = Step.RUNTIME, self._seen(self._quant)
        against = self._against_itself(seen) or self._crashed() or self._float_astray
        if against:
            return Rung(step, False, against)
        rows = self._asked("second") if self._readable() else []
        if _any(rows, Status.FAIL, Status.PASS):
            bad = next((one for one in rows if one.status is Status.FAIL), None)
            return Rung(step, bad is None, (bad or rows[0]).says)
        if self._quant in _FLOATS:
            return self._by_tokens(step, self._quant, seen)
        worst = self._worst(seen)
        if worst is not None and self._within(seen):
            return Rung(step, True, f"up to {worst} tokens of a prompt differ from the oracle's, which is allowed")
        if worst is not None and (not self._readable() or _any(self._asked("weights"), Status.PASS)):
            # Neither the prompt nor the numbers of the file explain it.
            says = f"up to {worst} tokens of a prompt differ, and neither the prompt nor the file's numbers explain it"
            return Rung(step, False, f"{says}: the runtime's arithmetic for {self._quant}")
        if seen is None or (worst is None and any(one.trouble for one in seen.generations.values())):
            words = self._words(seen)
            return Rung(step, None if not self._whole() else False, f"it does not run the file: {words}")
        return Rung(step, None, "transformers has not read this file")

    def _crashed(self) -> str | None:
        """A question about this file that crashed the runtime. No file justifies a crash."""
        mine = [one for one in self._results if (one.row.model, one.row.quant) == (self._model.slug, self._quant)]
        crash = next((one for one in mine if one.cause.startswith(TroubleKind.PANIC.value)), None)
        return None if crash is None else f"{crash.row.suite}: {crash.says}"

    def _whole(self) -> bool:
        """Whether the file is known to be what was made."""
        return bool(self._artifact().sha256) and self._evidence.altered(self._model, self._quant) is None

    def _words(self, seen: Seen | None) -> str:
        if seen is None:
            trouble = self._evidence.seen(self._model, self._quant).trouble
        else:
            trouble = next((one.trouble for one in seen.generations.values() if one.trouble), None)
        return "no answer" if trouble is None else trouble.text

    def _against_itself(self, seen: Seen | None) -> str | None:
        """A free continuation that is not what the runtime's own distributions along the oracle's would choose."""
        for prompt, one in self._compared(seen).items():
            score = None if seen is None else seen.scores.get(prompt)
            if score is None or score.positions is None or one.first is None or one.first >= len(score.positions):
                continue
            chosen = score.positions[one.first].chosen
            if one.first < len(one.got) and chosen != one.got[one.first]:
                return (
                    f"{prompt}: at position {one.first} it says token {one.got[one.first]}, and its own distribution "
                    f"there prefers {chosen}"
                )
        return None

    def cached(self) -> Rung | None:
        """The same file with a cache of half precision; None where the runtime gives no choice."""
        evidence, quant = self._evidence, self._quant
        if not self._can(Capability.KV_TYPE):
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
        row, good = rows[0], {Status.PASS: True, Status.FAIL: False}.get(rows[0].status)
        seen = self._seen(self._quant)
        if good is False and (seen is None or any(one.trouble for one in seen.generations.values())):
            # The export is not to blame if the file does not even continue a prompt.
            good = None if "export" not in row.says else False
        tensors = row.evidence.get("tensors") or {}
        out, back = tensors.get("exported"), tensors.get("imported")
        if good is False and out is not None and out["identical"] and back is not None and not back["identical"]:
            says = f"the exported tensors have the file's numbers, the imported ones do not: {back['worst']}"
            return Rung(Step.IMPORT, False, f"{row.says}; {says}")
        more = "" if out is None else f"; {out['compared']} tensors exported, "
        more += "" if out is None else "all the same" if out["identical"] else f"{out['worst']} differs"
        return Rung(Step.EXPORT, good, row.says + more)


def _any(results: Iterable[Result], *wanted: Status) -> bool:
    return any(one.status in wanted for one in results)
