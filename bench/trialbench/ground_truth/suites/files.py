"""Suites about a whole file: export and re-import, tensors, perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.evidence.observe import Evidence, prompts_of
from trialbench.ground_truth.runtimes.base import Capability, Trouble, TroubleKind
from trialbench.ground_truth.suites.case import Case
from trialbench.ground_truth.suites.results import Result, Status


def roundtrip(case: Case) -> Result:
    """Export, import again, and ask the same: identical tokens, and there must be some."""
    evidence, quant = case.evidence, case.row.quant
    before = evidence.seen(case.model, quant)
    if before.trouble is not None:
        return case.troubled(before.trouble)
    source = evidence.artifact(case.model, quant)
    # Always in the work folder: nothing is written next to third-party files.
    record = evidence.workspace.record(case.model, evidence.runtime.identity.name, quant)
    folder = record.with_name(f"{record.stem}-roundtrip")
    folder.mkdir(parents=True, exist_ok=True)
    exported = evidence.runtime.convert(Capability.EXPORT, source, folder / "exported", quant)
    if exported.artifact is None:
        return case.troubled(exported.trouble or Trouble(TroubleKind.REFUSED, "nothing was exported"), what="export")
    kind = Capability.IMPORT_HF if exported.artifact.format == "hf" else Capability.IMPORT_GGUF
    back = evidence.runtime.convert(kind, exported.artifact, folder / f"imported{source.path.suffix}", quant)
    if back.artifact is None:
        return case.troubled(back.trouble or Trouble(TroubleKind.REFUSED, "nothing was imported"), what="import")
    tensors = {
        "exported": distance(source.path, exported.artifact.path),
        "imported": distance(back.artifact.path, exported.artifact.path),
    }
    again = Evidence(evidence.workspace, evidence.runtime, replaced={(case.model.slug, quant): back.artifact})
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
        if None in (first.prompt_tokens, second.prompt_tokens):
            return case.answer(Status.INCONCLUSIVE, f"{prompt}: an answer does not say how many tokens the prompt had")
        if first.prompt_tokens != second.prompt_tokens:
            says = f"{prompt}: not the same prompt: {first.prompt_tokens} and {second.prompt_tokens} tokens"
            return case.answer(Status.INCONCLUSIVE, says)
        if first.tokens != second.tokens:
            says = f"{prompt}: the file that came back says something else"
            cause = f"round trip: {case.row.model} {quant}"
            texts = {"expected": str(first.text), "got": str(second.text)}
            return case.answer(Status.FAIL, says, **texts, cause=cause, evidence={"tensors": tensors})
        compared += len(first.tokens)
    says = f"{compared} tokens are the same after export and import"
    return case.answer(Status.PASS, says, evidence={"tensors": tensors})


def distance(judged: Path, reference: Path) -> dict[str, Any] | None:
    """How far two files are apart, tensor by tensor; None where one of them cannot be read here."""
    from trialbench.ground_truth.model.tensors import compare

    if judged.suffix != ".gguf" or not (reference.is_dir() or reference.suffix == ".gguf"):
        return None
    try:
        found = compare(judged, reference)
    except UsageError:
        return None
    worst = found.worst
    if worst is None:
        return None
    return {
        "compared": len(found.errors),
        "unpaired": list(found.unpaired),
        "identical": found.identical,
        "worst": worst.name,
        "relative": worst.relative,
        "not_finite": worst.not_finite,
        "hints": sorted({one.hint for one in found.errors if one.hint}),
    }


def weights(case: Case) -> Result:
    """Each tensor and number of the file against the Hugging Face files, read without the converter's rules."""
    from trialbench.ground_truth.model.origin import departures
    from trialbench.ground_truth.model.tensors import LAYOUTS, compare
    from trialbench.ground_truth.model.weights import Gguf, understood

    artifact = case.evidence.artifact(case.model, case.row.quant)
    if not artifact.path.exists():
        return case.troubled(
            Trouble(TroubleKind.ABSENT, f"no such file, make it with `trialbench convert`: {artifact.path}")
        )
    folder = case.evidence.workspace.folder(case.model)
    if not (folder / "config.json").exists():
        return case.troubled(Trouble(TroubleKind.ABSENT, f"{folder}: expected the model's files, found no config.json"))
    try:
        found = compare(artifact.path, folder)
        with understood(folder):
            numbers = departures(Gguf(artifact.path), folder)
    except UsageError as error:
        return case.answer(Status.FAIL, str(error), cause=f"unreadable: {case.row.model} {case.row.quant}")
    bound = case.roster.tolerance(f"tensor-{case.row.quant}")
    evidence = {
        "tensors": [
            {"name": one.name, "type": one.type, "relative": one.relative, "max_abs": one.max_abs, "hint": one.hint}
            for one in found.errors
        ],
        "layout": [one.name for one in found.errors if one.hint in LAYOUTS],
        "not_finite": [one.name for one in found.errors if one.not_finite],
        "missing": list(found.missing),
        "extra": list(found.extra),
        "reshaped": list(found.reshaped),
        "strangers": list(found.strangers),
        "numbers": numbers,
    }
    worst = found.worst
    if found.unpaired or numbers or worst is None:
        says = "; ".join([*found.unpaired[:4], *numbers]) or "there are no tensors"
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


def ppl(case: Case) -> Result:
    """Below the ceiling; or two files close enough to each other."""
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
