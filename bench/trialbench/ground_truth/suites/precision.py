"""Precision loss of oracles in half precision: oracles are compared with oracles, without a runtime.

The original bounds are kept as they are named: bfloat16 against float32, float16 against float32, the two halves
against each other. A row of its own tests the true order: float16 has eleven significant bits and bfloat16 eight, so
float16's distributions must be closer to float32's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trialbench.ground_truth.evidence.measures import allowed, compare_tokens, kl
from trialbench.ground_truth.evidence.observe import prompts_of
from trialbench.ground_truth.evidence.oracle_files import Oracle
from trialbench.ground_truth.model.roster import Roster
from trialbench.ground_truth.runtimes.base import Trouble
from trialbench.ground_truth.suites.case import Case
from trialbench.ground_truth.suites.results import Result, Row, Status

NAME = "precision"
_FULL = "fp32"
_PAIRS = (("bf16", _FULL), ("fp16", _FULL), ("bf16", "fp16"))
# The finer first: the order that is stated.
_ORDER = ("fp16", "bf16")


def rows(roster: Roster, runtime: str) -> Iterator[Row]:
    """Each pair of the roster's precisions on each prompt, and the order once for each model."""
    there = {_FULL, *roster.precisions}
    for model in roster.models:
        if not model.wanted(runtime):
            continue
        for coarse, fine in _PAIRS:
            if coarse in there and fine in there:
                for prompt in prompts_of(roster):
                    yield Row(NAME, model.slug, coarse, fine, prompt)
        if there.issuperset(_ORDER):
            yield Row(NAME, model.slug, *_ORDER)


def judge(case: Case) -> Result:
    """One row."""
    return _pair(case) if case.row.prompt else _order(case)


def _oracle(case: Case, precision: str, prompt: str) -> Oracle | Trouble:
    return case.evidence.oracle(case.model, prompt, precision=precision)


def _pair(case: Case) -> Result:
    row = case.row
    mine, theirs = (_oracle(case, precision, row.prompt) for precision in (row.quant, row.other))
    for one in (mine, theirs):
        if isinstance(one, Trouble):
            return case.troubled(one)
    assert isinstance(mine, Oracle)
    assert isinstance(theirs, Oracle)
    if _another_prompt(mine, theirs):
        return case.answer(Status.INCONCLUSIVE, "the two oracles were not made from the same prompt and model")
    bound = case.roster.tolerance(f"{row.quant}-vs-{row.other}")
    found = compare_tokens(mine.tokens, theirs.tokens, theirs.eos_ids)
    most = allowed(bound.value, found.compared)
    says = f"{found.mismatches} of {found.compared} tokens differ, at most {most} allowed"
    return case.answer(
        Status.PASS if found.mismatches <= most else Status.FAIL,
        says,
        expected=str(list(found.expected)),
        got=str(list(found.got)),
        cause=f"{row.quant} leaves {row.other}",
        evidence={"mismatches": found.mismatches, "compared": found.compared, "first": found.first,
                  "devices": [mine.device, theirs.device]},
    )  # fmt: skip


def _another_prompt(mine: Oracle, theirs: Oracle) -> bool:
    """Whether they cannot be compared; what one of them does not say (the original tool's files) is not held
    against it.
    """
    if mine.prompt != theirs.prompt:
        return True
    pairs = ((mine.prompt_ids, theirs.prompt_ids), (mine.files, theirs.files))
    return any(one and other and one != other for one, other in pairs)


def _order(case: Case) -> Result:
    """Mean KL divergence from float32 at the positions at which all three follow the same text."""
    sums = dict.fromkeys(_ORDER, 0.0)
    positions = 0
    for prompt in prompts_of(case.roster):
        found: dict[str, Oracle] = {}
        for precision in (_FULL, *_ORDER):
            one = _oracle(case, precision, prompt)
            if isinstance(one, Trouble):
                return case.troubled(one)
            if one.top is None or _another_prompt(one, found.get(_FULL, one)):
                return case.answer(Status.INCONCLUSIVE, f"{precision}/{prompt}: the oracle has no log-probabilities")
            found[precision] = one
        together = _together([one.tokens for one in found.values()])
        positions += together
        for precision in _ORDER:
            full, half = found[_FULL].top, found[precision].top
            assert full is not None
            assert half is not None
            sums[precision] += sum(kl(full[at], half[at]) for at in range(together))
    means = {precision: total / positions for precision, total in sums.items()}
    fine, coarse = _ORDER
    return case.answer(
        Status.PASS if means[fine] <= means[coarse] else Status.FAIL,
        f"mean KL divergence from float32 over {positions} positions: "
        f"{fine} {means[fine]:.2g}, {coarse} {means[coarse]:.2g} nats",
        expected=f"{fine} <= {coarse}",
        got=f"{means[fine]:.6g}, {means[coarse]:.6g}",
        cause="the order of precisions is reversed",
        evidence={"kl_mean": means, "positions": positions},
    )


def _together(tokens: Sequence[Sequence[int]]) -> int:
    """How many positions were computed on the same text: up to the first at which they part, that one included."""
    shortest = min(len(one) for one in tokens)
    for at in range(shortest):
        if len({one[at] for one in tokens}) > 1:
            return at + 1
    return shortest
