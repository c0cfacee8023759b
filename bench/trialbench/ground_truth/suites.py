"""The suites: which rows each declares for a roster and a runtime, and how a row is judged.

A suite knows capabilities, not runtimes. Rows are declared before anything is asked, so their number is computed and
cannot depend on what was found. The rules all judgements share:

* A runtime that crashed, or refuses a file it should read, failed. A missing model, oracle, runtime or GPU, a timeout,
  an unreadable or incomplete answer is inconclusive. Neither is ever a pass.
* Continuations are compared only when the prompt's token ids (or their number) are the oracle's.
* Tokens come first, text is never stripped, and at most one trailing end-of-sequence token is dropped.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.measures import classify, compare_tokens
from trialbench.ground_truth.observe import Evidence, prompts_of
from trialbench.ground_truth.oracle_files import Oracle
from trialbench.ground_truth.results import Result, Row, Status
from trialbench.ground_truth.roster import Model, Roster
from trialbench.ground_truth.runtimes.base import Artefact, Capability, Generation, Runtime, Trouble, TroubleKind

_FAILURES = (TroubleKind.PANIC, TroubleKind.REFUSED)
# The pairs of neighbouring precisions, finer first: drift and gap compare them.
_PAIRS = (("int8", "int4"), ("Q8_0", "Q4_0"))
# Files whose text is to be the oracle's, character by character.
_EXACT = ("int8", "f32", "f16", "Q8_0")
_BACK_AND_FORTH = ("int4", "int8", "f32", "f16")
_FLOATS = ("f32", "f16")


@dataclass(frozen=True)
class Case:
    """One row with everything needed to judge it."""

    row: Row
    model: Model
    evidence: Evidence

    @property
    def roster(self) -> Roster:
        """The roster."""
        return self.evidence.roster

    def answer(self, status: Status, says: str, **more: Any) -> Result:
        """A result for this row."""
        return Result(self.row, status, says, **more)

    def troubled(self, trouble: Trouble, *, what: str = "") -> Result:
        """The result for trouble: a failure of the runtime, or nothing to judge."""
        status = Status.FAIL if trouble.kind in _FAILURES else Status.INCONCLUSIVE
        words = f"{what}: " if what else ""
        cause = f"{trouble.kind.value}: {_defect(trouble.text)}"
        return self.answer(status, f"{words}{trouble.text}", got=trouble.kind.value, cause=cause)


_PLACES = re.compile(r"(?<![\w.])(?:/[^\s:'\"]+)+/([^\s:'\"/]+)")


def _defect(text: str) -> str:
    """Words of a failure without what is another in each file: paths and numbers. The same defect, the same words."""
    # Numbers that stand alone; those in the name of a file or of a version tell defects apart.
    return re.sub(r"(?<![\w.:])\d+(?![\w.:]*\w)", "N", _PLACES.sub(r"\1", text))[:160]


@dataclass(frozen=True)
class Suite:
    """A kind of check.

    Attributes:
        name: as on the command line.
        title: what a pass means.
        needs: what a runtime must be able to do; declined means not applicable.
        rows: the declared rows of a roster for a runtime's name.
        judge: the answer to one row.
        integrity: a pass says that the file is whole; a damaged one must not get it.
        blind: why a pass does not say so after all, by runtime name.
        constant: why the answer proves nothing, by runtime name.
        either: of these, a runtime must be able to do one.
    """

    name: str
    title: str
    needs: tuple[Capability, ...]
    rows: Callable[[Roster, str], Iterator[Row]]
    judge: Callable[[Case], Result]
    integrity: bool = True
    blind: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)
    either: tuple[Capability, ...] = ()

    def vouches(self, runtime: str) -> bool:
        """Whether a pass, with this runtime, says that the file is whole."""
        return self.integrity and runtime not in self.blind

    def declined(self, runtime: Runtime, artefact: Artefact | None) -> str | None:
        """Why it is not applicable, as the runtime declared beforehand; None: it is asked."""
        answers = [runtime.declined(capability, artefact) for capability in self.needs]
        choice = [runtime.declined(capability, artefact) for capability in self.either]
        if choice and None not in choice:
            answers += choice
        return next((why for why in answers if why is not None), None)


def quants(model: Model, runtime: str) -> tuple[str, ...]:
    """The files the roster wants of a runtime."""
    return tuple(model.quants.get(runtime, ()))


def _each_file(name: str, only: Sequence[str] | None = None) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            for quant in quants(model, runtime):
                if only is None or quant in only:
                    yield Row(name, model.slug, quant)

    return rows


def _each_prompt(name: str, only: Sequence[str] | None = None) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for row in _each_file(name, only)(roster, runtime):
            for prompt in prompts_of(roster):
                yield replace(row, prompt=prompt)

    return rows


def _each_pair(name: str, *, by_prompt: bool = False) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            there = quants(model, runtime)
            for fine, coarse in _PAIRS:
                if fine in there and coarse in there:
                    for prompt in prompts_of(roster) if by_prompt else ("",):
                        yield Row(name, model.slug, fine, coarse, prompt)

    return rows


def _each_model(name: str) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            there = quants(model, runtime)
            if there:
                # The most exact file: what is judged does not depend on the precision of the weights.
                yield Row(name, model.slug, next((one for one in (*_FLOATS, "int8") if one in there), there[0]))

    return rows


def _ppl_rows(roster: Roster, runtime: str) -> Iterator[Row]:
    yield from _each_file("ppl")(roster, runtime)
    yield from _each_pair("ppl")(roster, runtime)


def _diff_rows(name: str) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            there = quants(model, runtime)
            if len(there) > 1:
                pair = next((pair for pair in _PAIRS if set(pair) <= set(there)), (there[0], there[1]))
                if name == "rosetta-diff" and "f32" in there:
                    # A layout is compared against the most exact file.
                    pair = ("f32", next(quant for quant in (*pair, *there) if quant != "f32"))
                yield Row(name, model.slug, *pair)

    return rows


def _one(name: str) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        if any(quants(model, runtime) for model in roster.models):
            yield Row(name, roster.models[0].slug)

    return rows


def _chat_rows(roster: Roster, runtime: str) -> Iterator[Row]:
    for row in _each_model("template")(roster, runtime):
        for chat in roster.prompts.chats:
            yield replace(row, prompt=chat.name)


# --- Continuations ---------------------------------------------------------------------------------------------------


def _comparable(case: Case, quant: str) -> tuple[Oracle, Generation] | Result:
    """The oracle and the continuation of a row, if they continue the same prompt."""
    oracle = case.evidence.oracle(case.model, case.row.prompt)
    if isinstance(oracle, Trouble):
        return case.troubled(oracle)
    seen = case.evidence.seen(case.model, quant)
    if seen.trouble is not None:
        return case.troubled(seen.trouble)
    got = seen.generations[case.row.prompt]
    if got.trouble is not None:
        return case.troubled(got.trouble)
    if not got.tokens:
        return case.answer(Status.INCONCLUSIVE, "no tokens in the answer", cause="no tokens")
    expected = oracle.prompt_ids
    if expected is None:
        says = "the oracle does not say which token ids its prompt has: make it again with `trialbench oracle`"
        return case.answer(Status.INCONCLUSIVE, says, cause="oracle without prompt ids")
    if got.prompt_ids is not None and got.prompt_ids != expected:
        return _another_prompt(case, f"{len(got.prompt_ids)} tokens", f"{len(expected)} tokens")
    if got.prompt_ids is None and got.prompt_tokens is None:
        return case.answer(Status.INCONCLUSIVE, "the answer does not say how many tokens the prompt had")
    if got.prompt_tokens is not None and got.prompt_tokens != len(expected):
        return _another_prompt(case, f"{got.prompt_tokens} tokens", f"{len(expected)} tokens")
    return oracle, got


def _another_prompt(case: Case, got: str, expected: str) -> Result:
    says = f"not the same prompt: the runtime continued one of {got}, the oracle's has {expected}"
    return case.answer(
        Status.INCONCLUSIVE,
        says,
        expected=expected,
        got=got,
        cause=f"another prompt: {case.row.model} {case.row.quant}",
    )


def _canary(case: Case) -> Result:
    found = _comparable(case, case.row.quant)
    if isinstance(found, Result):
        return found
    oracle, got = found
    tokens = compare_tokens(got.tokens or (), oracle.tokens, oracle.eos_ids)
    more = {"expected": oracle.text, "got": got.text or "", "evidence": {"first_divergence": tokens.first}}
    if got.text is None:
        return case.answer(Status.INCONCLUSIVE, "no text in the answer", **more)
    if got.text == oracle.text and tokens.identical:
        return case.answer(Status.PASS, "the same text, from the same tokens", **more)
    if tokens.identical and got.text == oracle.text.lstrip():
        says = "the tokens are the oracle's, but the text lost its leading white space"
        return case.answer(Status.FAIL, says, cause="text loses leading white space", **more)
    if tokens.identical:
        return case.answer(Status.FAIL, "the tokens are the oracle's, but the text is another", cause="text", **more)
    says = f"another text; the tokens part at position {tokens.first}"
    return case.answer(Status.FAIL, says, cause=_cause(case, tokens.first), **more)


def _token(case: Case) -> Result:
    found = _comparable(case, case.row.quant)
    if isinstance(found, Result):
        return found
    oracle, got = found
    bound = case.roster.tolerance(f"token-{case.row.quant}")
    tokens = compare_tokens(got.tokens or (), oracle.tokens, oracle.eos_ids)
    evidence = {
        "mismatches": tokens.mismatches,
        "compared": tokens.compared,
        "first_divergence": tokens.first,
        "dropped_eos": list(tokens.dropped_eos),
        "got": list(tokens.got),
        "expected": list(tokens.expected),
        **_why(case, tokens.first),
    }
    status = Status.PASS if tokens.mismatches <= bound.value else Status.FAIL
    says = f"{tokens.mismatches} of {tokens.compared} tokens differ, at most {bound.value:g} may"
    if tokens.first is not None:
        says += f"; the first at position {tokens.first}" + (f" ({evidence['cause']})" if "cause" in evidence else "")
    return case.answer(
        status,
        says,
        expected=f"at most {bound.value:g}",
        got=str(tokens.mismatches),
        evidence=evidence,
        cause=_cause(case, tokens.first) if status is Status.FAIL else "",
    )


def _cause(case: Case, first: int | None) -> str:
    why = _why(case, first).get("cause", "other tokens")
    return f"{why}: {case.row.model} {case.row.quant}"


def _why(case: Case, first: int | None) -> dict[str, Any]:
    """Near tie, drift or defect, where the runtime gives what tells them apart."""
    oracle = case.evidence.oracle(case.model, case.row.prompt)
    score = case.evidence.seen(case.model, case.row.quant).scores.get(case.row.prompt)
    if first is None or isinstance(oracle, Trouble) or score is None or score.positions is None:
        return {}
    if first >= len(score.positions):
        return {}
    found = classify(oracle, score.positions, first, float_shifts=case.evidence.float_shifts(case.model))
    return {
        "cause": found.cause.value,
        "margin": found.margin,
        "float_noise": found.float_noise,
        "file_noise": found.file_noise,
    }


def _drift(case: Case) -> Result:
    fine = _token(replace(case, row=replace(case.row, suite="token", other="")))
    coarse = _token(replace(case, row=replace(case.row, suite="token", quant=case.row.other, other="")))
    for one in (fine, coarse):
        # A drift between two wrong files is no drift: it needs the token check of its row.
        if one.status is not Status.PASS:
            says = f"{one.row.label} is {one.status.value}: {one.says}"
            return case.answer(Status.INCONCLUSIVE, says, cause=one.cause)
    bound = case.roster.tolerance("drift")
    mine, theirs = int(fine.evidence["mismatches"]), int(coarse.evidence["mismatches"])
    status = Status.PASS if mine <= theirs + bound.value else Status.FAIL
    says = f"{case.row.quant} differs in {mine} tokens, {case.row.other} in {theirs}"
    return case.answer(status, says, expected=f"at most {theirs + bound.value:g}", got=str(mine), cause="drift")


def _forced(case: Case) -> Result:
    seen = case.evidence.seen(case.model, case.row.quant)
    if seen.trouble is not None:
        return case.troubled(seen.trouble)
    rows = {}
    for prompt in prompts_of(case.roster):
        oracle, score = case.evidence.oracle(case.model, prompt), seen.scores.get(prompt)
        if isinstance(oracle, Trouble):
            return case.troubled(oracle)
        if score is None:
            says = f"the oracle of {prompt!r} has no log-probabilities: make it again with `trialbench oracle`"
            return case.answer(Status.INCONCLUSIVE, says)
        if score.trouble is not None:
            return case.troubled(score.trouble)
        found = case.evidence.fidelity(case.model, case.row.quant, prompt)
        assert found is not None
        rows[prompt] = found
    positions = sum(len(one.kl) for one in rows.values())
    wrong = sum(len(one.disagreements) for one in rows.values())
    agreement, kl = 1 - wrong / positions, sum(sum(one.kl) for one in rows.values()) / positions
    least = case.roster.tolerance(f"agreement-{case.row.quant}")
    most = case.roster.tolerance(f"kl-{case.row.quant}")
    good = agreement >= least.value and kl <= most.value
    return case.answer(
        Status.PASS if good else Status.FAIL,
        f"{positions - wrong} of {positions} positions agree, KL {kl:.2g} nats",
        expected=f"at least {least.value:.0%} agree, KL at most {most.value:g}",
        got=f"{agreement:.1%}, KL {kl:.3g}",
        cause="" if good else f"distribution: {case.row.model} {case.row.quant}",
        evidence={
            "agreement": agreement,
            "kl_mean": kl,
            "kl_max": max(one.kl_max for one in rows.values()),
            "kl_by_position": {prompt: [round(value, 7) for value in one.kl] for prompt, one in rows.items()},
            "disagreements": {prompt: list(one.disagreements) for prompt, one in rows.items()},
        },
    )


def _second(case: Case) -> Result:
    """The runtime against transformers on the same quantised file: quantisation is on both sides and drops out."""
    found = _comparable(case, case.row.quant)
    if isinstance(found, Result):
        return found
    _, got = found
    oracle = case.evidence.oracle(case.model, case.row.prompt, quant=case.row.quant)
    if isinstance(oracle, Trouble):
        return case.troubled(oracle, what="second oracle")
    artefact = case.evidence.artefact(case.model, case.row.quant)
    if artefact.sha256 and artefact.sha256 not in oracle.files.values():
        says = "the second oracle was made of another file: `trialbench oracle --second`"
        return case.answer(Status.INCONCLUSIVE, says, cause="second oracle of another file")
    tokens = compare_tokens((got.tokens or ())[: len(oracle.tokens)], oracle.tokens, oracle.eos_ids)
    bound = case.roster.tolerance("second")
    evidence = {"mismatches": tokens.mismatches, "first_divergence": tokens.first}
    margins = oracle.margins()
    # The runtime multiplies quantised activations, transformers float ones: near ties fall either way.
    if tokens.first is not None and margins is not None and margins[tokens.first] <= bound.value:
        says = f"parts at position {tokens.first} from transformers on the same file, at a near tie"
        return case.answer(Status.PASS, says, evidence={**evidence, "margin": margins[tokens.first]})
    if tokens.identical:
        return case.answer(Status.PASS, "the same tokens as transformers on the same file", evidence=evidence)
    says = f"{tokens.mismatches} tokens differ from transformers on the same file, the first at {tokens.first}"
    cause = f"runtime: {case.row.model} {case.row.quant}"
    return case.answer(Status.FAIL, says, evidence=evidence, cause=cause, expected=oracle.text, got=got.text or "")


# --- Tokenizer and template ------------------------------------------------------------------------------------------


def _tokenizer(case: Case) -> Result:
    golden = case.evidence.tokenizer(case.model)
    if isinstance(golden, Trouble):
        return case.troubled(golden)
    seen = case.evidence.seen(case.model, case.row.quant)
    if seen.trouble is not None:
        return case.troubled(seen.trouble)
    place = f"{case.evidence.runtime.identity.name}/{case.model.slug}"
    known = {text.name for text in case.roster.prompts.tokenizer if place in text.known}
    wrong: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for answers, expected, kind in (
        (seen.tokens, golden.ids, ""),
        (seen.tokens_special, golden.ids_special, "+special"),
    ):
        for name, ids in expected.items():
            answer = answers[name]
            if answer.trouble is not None:
                return case.troubled(answer.trouble, what=name)
            if tuple(answer.payload or ()) == ids:
                continue
            if name in known:
                shown[name] = next(text.known[place] for text in case.roster.prompts.tokenizer if text.name == name)
            else:
                wrong[f"{name}{kind}"] = {"expected": list(ids), "got": answer.payload}
    total = len(golden.ids) + len(golden.ids_special)
    says = f"{total - len(wrong) - len(shown)} of {total} texts have the oracle's token ids"
    if shown:
        says += f"; known to differ: {', '.join(sorted(shown))}"
    return case.answer(
        Status.FAIL if wrong else Status.PASS,
        says + (f"; wrong: {', '.join(list(wrong)[:4])}" if wrong else ""),
        expected="the oracle's ids",
        got=", ".join(list(wrong)[:4]),
        cause=f"tokenizer: {case.row.model}" if wrong else "",
        evidence={"wrong": wrong, "known": shown},
    )


def _template(case: Case) -> Result:
    golden = case.evidence.tokenizer(case.model)
    if isinstance(golden, Trouble):
        return case.troubled(golden)
    if case.row.prompt not in golden.chats:
        return case.answer(Status.NOT_APPLICABLE, f"{case.model.slug} has no chat template")
    seen = case.evidence.seen(case.model, case.row.quant)
    if seen.trouble is not None:
        return case.troubled(seen.trouble)
    answer = seen.chats[case.row.prompt]
    if answer.trouble is not None:
        return case.troubled(answer.trouble)
    expected = golden.chats[case.row.prompt]
    if answer.payload == expected:
        return case.answer(Status.PASS, "the chat template makes the oracle's prompt")
    says = "the chat template makes another prompt"
    cause = f"chat template: {case.row.model}"
    return case.answer(Status.FAIL, says, expected=expected, got=str(answer.payload), cause=cause)


# --- Files -----------------------------------------------------------------------------------------------------------


def _roundtrip(case: Case) -> Result:
    """Export, import again, and ask the same: identical tokens, and there must be some."""
    evidence, quant = case.evidence, case.row.quant
    before = evidence.seen(case.model, quant)
    if before.trouble is not None:
        return case.troubled(before.trouble)
    source = evidence.artefact(case.model, quant)
    base = evidence.workspace.path(case.model, evidence.runtime.identity.name, quant)
    folder = base.with_name(f"{base.stem}-roundtrip")
    folder.mkdir(parents=True, exist_ok=True)
    exported = evidence.runtime.convert(Capability.EXPORT, source, folder / "exported", quant)
    if exported.artefact is None:
        return case.troubled(exported.trouble or Trouble(TroubleKind.REFUSED, "nothing was exported"), what="export")
    kind = Capability.IMPORT_HF if exported.artefact.format == "hf" else Capability.IMPORT_GGUF
    back = evidence.runtime.convert(kind, exported.artefact, folder / f"imported{base.suffix}", quant)
    if back.artefact is None:
        return case.troubled(back.trouble or Trouble(TroubleKind.REFUSED, "nothing was imported"), what="import")
    again = Evidence(evidence.workspace, evidence.runtime, replaced={(case.model.slug, quant): back.artefact})
    after = again.seen(case.model, quant)
    if after.trouble is not None:
        return case.troubled(after.trouble, what="the file that came back")
    compared = 0
    for prompt in prompts_of(case.roster):
        first, second = before.generations[prompt], after.generations[prompt]
        for one in (first, second):
            if one.trouble is not None:
                return case.troubled(one.trouble, what=prompt)
        if not first.tokens or not second.tokens:
            return case.answer(Status.INCONCLUSIVE, f"{prompt}: no tokens to compare")
        if first.prompt_tokens != second.prompt_tokens:
            says = f"{prompt}: not the same prompt: {first.prompt_tokens} and {second.prompt_tokens} tokens"
            return case.answer(Status.INCONCLUSIVE, says)
        if first.tokens != second.tokens:
            says = f"{prompt}: the file that came back says something else"
            cause = f"round trip: {case.row.model} {quant}"
            return case.answer(Status.FAIL, says, expected=str(first.text), got=str(second.text), cause=cause)
        compared += len(first.tokens)
    return case.answer(Status.PASS, f"{compared} tokens are the same after export and import")


def _tensor_errors(case: Case) -> Result:
    from trialbench.ground_truth.tensors import compare

    artefact = case.evidence.artefact(case.model, case.row.quant)
    if not artefact.path.exists():
        return case.troubled(Trouble(TroubleKind.ABSENT, f"{artefact.path}: no such file: `trialbench convert`"))
    folder = case.evidence.workspace.folder(case.model)
    if not (folder / "config.json").exists():
        return case.troubled(Trouble(TroubleKind.ABSENT, f"{folder}: no such folder: `trialbench pull`"))
    try:
        found = compare(artefact.path, folder)
    except UsageError as error:
        return case.answer(Status.FAIL, str(error), cause=f"unreadable: {case.row.model} {case.row.quant}")
    bound = case.roster.tolerance(f"tensor-{case.row.quant}")
    evidence = {
        "tensors": [
            {"name": one.name, "type": one.type, "relative": one.relative, "max_abs": one.max_abs, "hint": one.hint}
            for one in found.errors
        ],
        "missing": list(found.missing),
        "extra": list(found.extra),
        "reshaped": list(found.reshaped),
    }
    worst = found.worst
    if found.missing or found.reshaped or worst is None:
        says = f"tensors missing: {list(found.missing)[:3]}, of another shape: {list(found.reshaped)[:3]}"
        return case.answer(Status.FAIL, says, evidence=evidence, cause=f"conversion: {case.row.model}")
    bad = [one for one in found.errors if one.not_finite or not one.relative <= bound.value]
    says = f"{len(found.errors)} tensors, the worst {worst.name} ({worst.type}) off by {worst.relative:.2g}"
    hints = sorted({one.hint for one in bad if one.hint})
    return case.answer(
        Status.FAIL if bad else Status.PASS,
        says + (f"; {len(bad)} beyond the bound" if bad else "") + (f": {', '.join(hints)}" if hints else ""),
        expected=f"at most {bound.value:g} relative error",
        got=f"{worst.relative:.3g} ({worst.name})",
        cause=f"{hints[0] if hints else 'tensors'}: {case.row.model} {case.row.quant}" if bad else "",
        evidence=evidence,
    )


def _ppl(case: Case) -> Result:
    if case.row.other:
        return _gap(case)
    found = case.evidence.perplexity(case.model, case.row.quant)
    if found.trouble is not None or found.value is None:
        return case.troubled(found.trouble or Trouble(TroubleKind.MISSING_FIELD, "no perplexity"))
    ceiling = case.model.perplexity_ceiling
    spread = f" ± {found.uncertainty:.2g}" if found.uncertainty is not None else ""
    kl = "" if found.kl_mean is None else f", KL {found.kl_mean:.2g}, {found.same_top or 0:.1%} same top"
    return case.answer(
        Status.PASS if found.value < ceiling else Status.FAIL,
        f"perplexity {found.value:.4g}{spread} over {found.tokens} tokens{kl}",
        expected=f"below {ceiling:g}",
        got=f"{found.value:.4g}",
        cause="" if found.value < ceiling else f"perplexity: {case.row.model} {case.row.quant}",
        evidence={
            "perplexity": found.value,
            "uncertainty": found.uncertainty,
            "tokens": found.tokens,
            "kl_mean": found.kl_mean,
            "kl_uncertainty": found.kl_uncertainty,
            "same_top": found.same_top,
        },
    )


def _gap(case: Case) -> Result:
    first = case.evidence.perplexity(case.model, case.row.quant)
    second = case.evidence.perplexity(case.model, case.row.other)
    for one in (first, second):
        if one.trouble is not None or one.value is None:
            return case.troubled(one.trouble or Trouble(TroubleKind.MISSING_FIELD, "no perplexity"))
    assert first.value is not None
    assert second.value is not None
    if first.tokens is None or first.tokens != second.tokens:
        says = f"not the same tokens: {first.tokens} and {second.tokens} were evaluated"
        return case.answer(Status.INCONCLUSIVE, says)
    bound, gap = case.roster.tolerance("ppl-gap"), abs(first.value - second.value)
    return case.answer(
        Status.PASS if gap < bound.value else Status.FAIL,
        f"{first.value:.4g} and {second.value:.4g} over {first.tokens} tokens",
        expected=f"less than {bound.value:g} apart",
        got=f"{gap:.3g}",
        cause="" if gap < bound.value else f"perplexity gap: {case.row.model}",
    )


def _probing(capability: Capability, read: Callable[[Case, Any], Result], **more: str) -> Callable[[Case], Result]:
    """A suite of one question: trouble is judged here, the payload by `read`, and a missing key is inconclusive."""

    def judge(case: Case) -> Result:
        row = case.row
        answer = case.evidence.probe(capability, case.model, row.quant, row.other, **more)
        if answer.trouble is not None and (answer.payload is None or answer.trouble.kind is TroubleKind.PANIC):
            return case.troubled(answer.trouble)
        try:
            result = read(case, answer.payload)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
            says = f"the answer lacks or garbles what was asked for: {type(error).__name__}: {error}"
            return case.answer(Status.INCONCLUSIVE, says, cause=f"answer: {capability.value}")
        if answer.trouble is not None and result.status is Status.PASS:
            says = f"the answer says yes, the exit code no: {answer.trouble.text}"
            return case.answer(Status.FAIL, says, cause=f"exit code: {capability.value}")
        return result

    return judge


def _yes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, found {value!r:.40}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"expected a number, found {value!r:.40}")
    return float(value)


def _decided(case: Case, good: bool, says: str, **more: Any) -> Result:
    # By model, not by file: what is wrong about one quant of it is most often wrong about all.
    cause = "" if good else f"{case.row.suite}: {case.row.model}"
    return case.answer(Status.PASS if good else Status.FAIL, says, cause=cause, **more)


def _inspect(case: Case, payload: Any) -> Result:
    metadata = payload.get("metadata") or {}
    kind = str(payload["architecture"]).lower()

    def key(name: str, gguf: str) -> int:
        value = payload.get(name)
        return int(str(metadata[f"{kind}.{gguf}"] if value is None else value))

    model = case.model
    expected = {"architecture": model.architecture, "layers": model.layers, "heads": model.heads}
    expected["hidden"] = model.hidden
    found = {
        "architecture": kind,
        "layers": key("num_layers", "block_count"),
        "heads": key("num_heads", "attention.head_count"),
        "hidden": key("hidden_size", "embedding_length"),
    }
    if payload.get("vocab_size") is not None:
        expected["vocabulary"], found["vocabulary"] = model.vocabulary, int(payload["vocab_size"])
    says = ", ".join(f"{name} {value}" for name, value in found.items())
    return _decided(case, found == expected, says, expected=str(expected), got=str(found))


def _validate(case: Case, payload: Any) -> Result:
    checks = payload["checks"]
    bad = [check["name"] for check in checks if check["status"] == "FAIL"]
    good = _yes(payload["passed"]) and not bad and bool(checks)
    return _decided(case, good, f"{len(checks)} checks, failed: {', '.join(bad[:3]) or 'none'}")


def _tensors(case: Case, payload: Any) -> Result:
    names = [tensor["name"] for tensor in payload["tensors"]]
    good = len(names) == int(payload["tensor_count"]) and len(set(names)) == len(names) > case.model.layers
    return _decided(case, good, f"{len(names)} tensors, {payload['tensor_count']} counted")


def _lint(case: Case, payload: Any) -> Result:
    errors = int(payload["error_count"])
    return _decided(case, errors == 0 and _yes(payload["passed"]), f"{errors} errors, {payload['warn_count']} warnings")


def _selftest(case: Case, payload: Any) -> Result:
    stages = payload["stages"]
    passed = [stage["name"] for stage in stages if stage["status"] == "PASS"]
    # A stage that could not run is none that failed. The bound alone would pass a file of which a quarter is there:
    # seven stages only look for names.
    failed = [str(stage["name"]) for stage in stages if stage["status"] == "FAIL"]
    bound = case.roster.tolerance("selftest-stages")
    says = f"{len(passed)} of {len(stages)} stages passed, failed: {', '.join(failed[:4]) or 'none'}"
    return _decided(case, len(passed) >= bound.value and not failed, says)


def _tree(case: Case, payload: Any) -> Result:
    names: list[str] = []
    waiting = [payload]
    while waiting and len(names) < 1_000_000:
        node = waiting.pop()
        names.append(str(node["name"]))
        waiting += node.get("children") or []
    layers = {name for name in names if name.isdigit()}
    good = len(layers) == case.model.layers
    return _decided(case, good, f"{len(layers)} layers in a tree of {len(names)} nodes, expected {case.model.layers}")


def _oracle_id(case: Case, payload: Any) -> Result:
    nested = payload.get("format")
    found = str((nested if isinstance(nested, dict) else payload)["architecture"]).lower()
    return _decided(case, found == case.model.architecture, f"taken for {found}, is {case.model.architecture}")


def _hex(case: Case, payload: Any) -> Result:
    std = _number(payload[0]["stats"]["std"])
    bound = case.roster.tolerance("hex-std")
    return _decided(case, std > bound.value, f"{payload[0]['name']}: standard deviation {std:.3g}")


def _debug(case: Case, payload: Any) -> Result:
    return _decided(case, payload["health"] == "OK", f"health: {payload['health']}")


def _bench(case: Case, payload: Any) -> Result:
    speed = _number(payload["tokens_per_second"])
    bound = case.roster.tolerance("bench-speed")
    return _decided(case, speed > bound.value, f"{speed:.1f} tokens per second")


def _qa(case: Case, payload: Any) -> Result:
    gates = payload["gates"]
    ran = [gate for gate in gates if not _yes(gate["skipped"])]
    failed = [gate["name"] for gate in ran if not _yes(gate["passed"])]
    bound = case.roster.tolerance("qa-gates")
    good = not failed and len(ran) >= bound.value
    says = f"{len(ran) - len(failed)} gates passed, {len(gates) - len(ran)} were skipped, failed: {failed or 'none'}"
    return _decided(case, good, says)


def _diff(case: Case, payload: Any) -> Result:
    # Two precisions of one model are different files: a tool that sees no difference is blind.
    identical, count = _yes(payload["identical"]), int(payload["difference_count"])
    good = not identical and count > 0
    return _decided(case, good, f"{count} differences between {case.row.quant} and {case.row.other}")


def _rosetta(case: Case, payload: Any) -> Result:
    numbers = {key: int(payload[key]) for key in ("layout_mismatches", "missing_in_a", "missing_in_b")}
    return _decided(case, not any(numbers.values()), ", ".join(f"{key} {value}" for key, value in numbers.items()))


def _parity(case: Case, payload: Any) -> Result:
    return _decided(case, _yes(payload["passed"]), "CPU and GPU agree" if payload["passed"] else "they do not agree")


def _list(case: Case, payload: Any) -> Result:
    models = payload["models"]
    if not isinstance(models, list):
        raise TypeError("models is no list")
    return _decided(case, len(models) == int(payload["total"]), f"{len(models)} models listed, {payload['total']} said")


def _hex_judge(case: Case) -> Result:
    name = "blk.0.attn_qkv.weight" if case.model.architecture == "gpt2" else "blk.0.attn_q.weight"
    if case.evidence.artefact(case.model, case.row.quant).format != "gguf":
        # .apr files have one naming for all families, gpt2's fused matrix included.
        name = "layers.0.self_attn.q_proj.weight"
    return _probing(Capability.HEX, _hex, tensor=name)(case)


_GENERATE = (Capability.GENERATE,)

SUITES: tuple[Suite, ...] = (
    Suite("canary", "the text is the oracle's", _GENERATE, _each_prompt("canary", _EXACT), _canary),
    Suite("token", "the tokens are the oracle's, within the bound", _GENERATE, _each_prompt("token"), _token),
    Suite("drift", "more bits drift no further", _GENERATE, _each_pair("drift", by_prompt=True), _drift),
    Suite(
        "roundtrip",
        "export and import change nothing",
        (Capability.EXPORT, *_GENERATE),
        _each_file("roundtrip", _BACK_AND_FORTH),
        _roundtrip,
        # A damaged file comes back as damaged as it was.
        integrity=False,
    ),
    Suite(
        "ppl", "perplexity is below the ceiling", (), _ppl_rows, _ppl, either=(Capability.PERPLEXITY, Capability.EVAL)
    ),
    Suite("forced", "the distributions are the oracle's", (Capability.SCORE,), _each_file("forced"), _forced),
    Suite("second", "the runtime computes what the file says", _GENERATE, _each_prompt("second"), _second),
    Suite("tokenizer", "the same token ids", (Capability.TOKENIZE,), _each_model("tokenizer"), _tokenizer),
    Suite("template", "the same chat prompt", (Capability.TEMPLATE,), _chat_rows, _template),
    Suite("weights", "every tensor is within the bound", (), _each_file("weights"), _tensor_errors),
    Suite(
        "inspect",
        "the file says what it is",
        (Capability.INSPECT,),
        _each_file("inspect"),
        _probing(Capability.INSPECT, _inspect),
        integrity=False,
    ),
    Suite(
        "validate", "it finds itself valid", (Capability.VALIDATE,), _each_file("validate"),
        _probing(Capability.VALIDATE, _validate),
        blind={"apr": "`apr validate` looks at the header and at the file's length, and finds damaged values valid"},
    ),
    Suite(
        "tensors", "its tensors are listed", (Capability.TENSORS,), _each_file("tensors"),
        _probing(Capability.TENSORS, _tensors), blind={"apr": "`apr tensors` lists names and shapes, not values"},
    ),
    Suite(
        "lint", "no errors of form", (Capability.LINT,), _each_file("lint"), _probing(Capability.LINT, _lint),
        integrity=False,
    ),
    Suite(
        "selftest", "its stages run", (Capability.SELFTEST,), _each_file("selftest"),
        _probing(Capability.SELFTEST, _selftest),
        blind={"apr": "`apr check` sees damage only where it makes values that are no numbers"},
    ),
    Suite(
        "tree", "as many layers as the model has", (Capability.TREE,), _each_file("tree"),
        _probing(Capability.TREE, _tree), integrity=False,
    ),
    Suite(
        "oracle-id", "its family is recognised", (Capability.ORACLE_ID,), _each_file("oracle-id"),
        _probing(Capability.ORACLE_ID, _oracle_id), integrity=False,
    ),
    Suite("hex", "a matrix is not constant", (Capability.HEX,), _each_file("hex"), _hex_judge, integrity=False),
    Suite(
        "debug", "health is OK", (Capability.DEBUG,), _each_file("debug"), _probing(Capability.DEBUG, _debug),
        integrity=False, constant={"apr": "`apr debug` says OK of truncated and damaged files too"},
    ),
    Suite(
        "bench", "it generates", (Capability.BENCH,), _each_file("bench"), _probing(Capability.BENCH, _bench),
        integrity=False,
    ),
    Suite("qa", "its gates pass", (Capability.QA,), _each_file("qa"), _probing(Capability.QA, _qa)),
    Suite(
        "diff", "two precisions are told apart", (Capability.DIFF,), _diff_rows("diff"),
        _probing(Capability.DIFF, _diff), integrity=False,
    ),
    Suite(
        "rosetta-diff", "the layout is the same", (Capability.ROSETTA_DIFF,), _diff_rows("rosetta-diff"),
        _probing(Capability.ROSETTA_DIFF, _rosetta), integrity=False,
    ),
    Suite(
        "parity-gpu", "the GPU computes the same", (Capability.PARITY_GPU,), _each_model("parity-gpu"),
        _probing(Capability.PARITY_GPU, _parity),
    ),
    Suite(
        "list", "its cache is listed", (Capability.LIST,), _one("list"), _probing(Capability.LIST, _list),
        integrity=False, constant={"apr": "`apr list` lists its own cache, in which no file that is judged lies"},
    ),
)  # fmt: skip

# What only llama.cpp is asked: they came with this harness, and the original's 139 are counted without them.
NEW = ("forced", "second", "tokenizer", "template", "weights")


def suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        UsageError: there is none; lists those there are.
    """
    for one in SUITES:
        if one.name == name:
            return one
    raise UsageError(f"--suite: no suite {name!r}; there are: {', '.join(one.name for one in SUITES)}")


def declared(roster: Roster, runtime: str, names: Sequence[str] = (), models: Sequence[str] = ()) -> list[Row]:
    """All rows, before anything is asked."""
    chosen = [suite(name) for name in names] if names else [one for one in SUITES if _asked(one, runtime)]
    return [row for one in chosen for row in one.rows(roster, runtime) if not models or row.model in models]


def _asked(one: Suite, runtime: str) -> bool:
    return runtime == "llama.cpp" or one.name not in NEW


def judge(row: Row, evidence: Evidence) -> Result:
    """The answer to one row. Whatever goes wrong while asking is an answer too, and never a pass."""
    chosen, model = suite(row.suite), evidence.roster.model(row.model)
    runtime: Runtime = evidence.runtime
    case = Case(row, model, evidence)
    artefact = evidence.artefact(model, row.quant) if row.quant else None
    constant = runtime.identity.name in chosen.constant
    why = chosen.declined(runtime, artefact)
    if why is not None:
        return Result(row, Status.NOT_APPLICABLE, why, proves_nothing=constant)
    result = chosen.judge(case)
    return replace(result, proves_nothing=constant, reproduce=_reproduce(row, evidence))


def _reproduce(row: Row, evidence: Evidence) -> str:
    words = ["trialbench", "check", "--roster", str(evidence.roster.path), "--work", str(evidence.workspace.root)]
    words += ["--runtime", evidence.runtime.identity.name, "--suite", row.suite, "--model", row.model]
    return shlex.join(words)
