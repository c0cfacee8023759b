"""Suites about what a loaded file says: continuations, distributions, token ids, chat prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trialbench.ground_truth.evidence.measures import Fidelity, allowed, classify, compare_tokens
from trialbench.ground_truth.evidence.observe import prompts_of
from trialbench.ground_truth.evidence.oracle_files import Oracle
from trialbench.ground_truth.runtimes.base import Generation, Trouble, TroubleKind
from trialbench.ground_truth.suites.case import Case
from trialbench.ground_truth.suites.results import Result, Status


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


def canary(case: Case) -> Result:
    """The text, character by character, from the same tokens."""
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


def token(case: Case) -> Result:
    """The tokens, within the bound."""
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
    most = allowed(bound.value, tokens.compared)
    status = Status.PASS if tokens.mismatches <= most else Status.FAIL
    says = f"{tokens.mismatches} of {tokens.compared} tokens differ, at most {most} allowed"
    if tokens.first is not None:
        says += f"; the first at position {tokens.first}" + (f" ({evidence['cause']})" if "cause" in evidence else "")
    return case.answer(
        status,
        says,
        expected=f"at most {most}",
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


def drift(case: Case) -> Result:
    """The finer file differs no more than the coarser one. A drift between two wrong files is not a drift."""
    fine = token(replace(case, row=replace(case.row, suite="token", other="")))
    coarse = token(replace(case, row=replace(case.row, suite="token", quant=case.row.other, other="")))
    for one in (fine, coarse):
        # A drift between two wrong files is not a drift: it needs the token check of its row.
        if one.status is not Status.PASS:
            says = f"{one.row.label} is {one.status.value}: {one.says}"
            return case.answer(Status.INCONCLUSIVE, says, cause=one.cause)
    bound = case.roster.tolerance("drift")
    mine, theirs = int(fine.evidence["mismatches"]), int(coarse.evidence["mismatches"])
    status = Status.PASS if mine <= theirs + bound.value else Status.FAIL
    says = f"{case.row.quant} differs in {mine} tokens, {case.row.other} in {theirs}"
    return case.answer(status, says, expected=f"at most {theirs + bound.value:g}", got=str(mine), cause="drift")


def forced(case: Case) -> Result:
    """The distributions along the oracle's continuations."""
    seen = case.evidence.seen(case.model, case.row.quant)
    if seen.trouble is not None:
        return case.troubled(seen.trouble)
    rows: dict[str, Fidelity] = {}
    undecided: Result | None = None
    for prompt in prompts_of(case.roster):
        oracle, score = case.evidence.oracle(case.model, prompt), seen.scores.get(prompt)
        if isinstance(oracle, Trouble):
            return case.troubled(oracle)
        if score is None:
            says = f"the oracle of {prompt!r} has no log-probabilities: make it again with `trialbench oracle`"
            return case.answer(Status.INCONCLUSIVE, says)
        found = case.evidence.fidelity(case.model, case.row.quant, prompt)
        if score.trouble is not None or found is None:
            missing = Trouble(TroubleKind.MISSING_FIELD, "no distributions")
            undecided = undecided or case.troubled(score.trouble or missing, what=prompt)
        else:
            rows[prompt] = found
    if undecided is not None and (undecided.status is Status.FAIL or not rows):
        return undecided
    positions = sum(len(one.kl) for one in rows.values())
    wrong = sum(len(one.disagreements) for one in rows.values())
    agreement, kl = 1 - wrong / positions, sum(sum(one.kl) for one in rows.values()) / positions
    least = case.roster.tolerance(f"agreement-{case.row.quant}")
    most = case.roster.tolerance(f"kl-{case.row.quant}")
    good = agreement >= least.value and kl <= most.value
    if good and undecided is not None:
        # The other prompts alone would pass. A failure of theirs would outweigh a prompt that could not be decided.
        return undecided
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


def second(case: Case) -> Result:
    """The runtime against transformers on the same quantized file: quantization is on both sides and drops out."""
    found = _comparable(case, case.row.quant)
    if isinstance(found, Result):
        return found
    _, got = found
    oracle = case.evidence.oracle(case.model, case.row.prompt, quant=case.row.quant)
    if isinstance(oracle, Trouble):
        return case.troubled(oracle, what="second oracle")
    artifact = case.evidence.artifact(case.model, case.row.quant)
    # For a file without a record, the current bytes count.
    made = artifact.sha256 or case.evidence.digest(case.model, case.row.quant)
    if made and made not in oracle.files.values():
        says = "the second oracle was made of another file: `trialbench oracle --second`"
        return case.answer(Status.INCONCLUSIVE, says, cause="second oracle of another file")
    tokens = compare_tokens((got.tokens or ())[: len(oracle.tokens)], oracle.tokens, oracle.eos_ids)
    bound = case.roster.tolerance("second")
    evidence = {"mismatches": tokens.mismatches, "first_divergence": tokens.first}
    margins = oracle.margins()
    # The runtime multiplies quantized activations, transformers float ones: near ties fall either way.
    if tokens.first is not None and margins is not None and margins[tokens.first] <= bound.value:
        says = f"parts at position {tokens.first} from transformers on the same file, at a near tie"
        return case.answer(Status.PASS, says, evidence={**evidence, "margin": margins[tokens.first]})
    if tokens.identical:
        return case.answer(Status.PASS, "the same tokens as transformers on the same file", evidence=evidence)
    says = f"{tokens.mismatches} tokens differ from transformers on the same file, the first at {tokens.first}"
    cause = f"runtime: {case.row.model} {case.row.quant}"
    return case.answer(Status.FAIL, says, evidence=evidence, cause=cause, expected=oracle.text, got=got.text or "")


# --- Tokenizer and template ------------------------------------------------------------------------------------------


def tokenizer(case: Case) -> Result:
    """The ids of all texts, with and without special tokens."""
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
    unknown = [text.name for text in case.roster.prompts.tokenizer if golden.texts.get(text.name) != text.text]
    if not wrong and (unknown or not total):
        names = ", ".join(unknown[:4]) or "it has none"
        says = f"the tokenizer's oracle does not know the texts that are asked ({names}): `trialbench oracle`"
        return case.answer(Status.INCONCLUSIVE, says, cause="tokenizer's oracle of other texts")
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


def template(case: Case) -> Result:
    """The prompt that the file's own chat template makes."""
    golden = case.evidence.tokenizer(case.model)
    if isinstance(golden, Trouble):
        return case.troubled(golden)
    if case.row.prompt not in golden.chats and golden.chats:
        says = f"the tokenizer's oracle does not know the chat {case.row.prompt}: `trialbench oracle`"
        return case.answer(Status.INCONCLUSIVE, says, cause="tokenizer's oracle of other texts")
    if not golden.chats:
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
