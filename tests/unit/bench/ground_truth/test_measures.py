"""Token comparison, KL divergence, and why a divergence happened."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench.ground_truth.evidence.measures import Cause, classify, compare_tokens, fidelity, kl, noise_floor
from trialbench.ground_truth.evidence.oracle_files import Oracle
from trialbench.ground_truth.runtimes.base import Candidate, Position


def test_same_tokens() -> None:
    same = compare_tokens([1, 2], [1, 2])
    assert same.identical
    assert (same.mismatches, same.compared, same.first, same.dropped_eos) == (0, 2, None, ())
    assert not compare_tokens([], []).identical


def test_one_end_of_sequence_token_is_dropped_where_the_other_side_lacks_it() -> None:
    assert compare_tokens([1, 2], [1, 2, 9], [9]).dropped_eos == ("oracle",)
    assert compare_tokens([1, 2, 9], [1, 2], [9]).identical
    assert compare_tokens([1, 2, 9], [1, 2, 9], [9]).dropped_eos == ()
    # Ending early is no missing end-of-sequence token; nor is any other token one.
    assert compare_tokens([1], [1, 2, 9], [9]).mismatches == 2
    assert compare_tokens([1, 2], [1, 2, 8], [9]).mismatches == 1
    assert compare_tokens([1, 2], [1, 2, 9, 9], [9]).mismatches == 2
    assert compare_tokens([9], [], [9]).mismatches == 0
    assert not compare_tokens([9], [], [9]).identical


def test_every_position_counts() -> None:
    found = compare_tokens([1, 5, 3, 4], [1, 2, 3])
    assert (found.mismatches, found.compared, found.first) == (2, 4, 1)


def row(*probabilities: float, start: int = 0) -> tuple[Candidate, ...]:
    return tuple(Candidate(start + number, math.log(share)) for number, share in enumerate(probabilities))


def test_kl_of_known_distributions() -> None:
    assert kl(row(0.5, 0.5), row(0.5, 0.5)) == 0
    assert kl(row(0.5, 0.5), row(0.25, 0.75)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    # A token the runtime does not list shares the bucket with the rest.
    assert kl(row(0.5, 0.3, 0.2), row(0.5)) == pytest.approx(0)
    assert kl(row(0.5, 0.5), row(0.999999, 1e-6, start=5)) == 0
    assert kl(row(0.9, 0.1), row(0.1, 0.9)) > 1


simplex = st.lists(st.floats(0.01, 1), min_size=2, max_size=8).map(lambda w: [x / sum(w) for x in w])


@given(simplex, simplex, st.integers(1, 8), st.integers(1, 8))
def test_kl_of_parts_is_a_lower_bound(p: list[float], q: list[float], first: int, second: int) -> None:
    size = min(len(p), len(q))
    p, q = [x / sum(p[:size]) for x in p[:size]], [x / sum(q[:size]) for x in q[:size]]
    whole = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    by_p = sorted(row(*p), key=lambda one: -one.logprob)[:first]
    by_q = sorted(row(*q), key=lambda one: -one.logprob)[:second]
    assert 0 <= kl(by_p, by_q) <= whole + 1e-9


def oracle(*rows: tuple[Candidate, ...]) -> Oracle:
    return Oracle(
        model="m", model_slug="m", prompt="p", prompt_file="p.txt", transformers_version="5", torch_version="2",
        tokens=tuple(one[0].id for one in rows), text="", max_new_tokens=32, top=rows,
    )  # fmt: skip


SURE = row(0.99, 0.01)
TIE = row(0.5001, 0.4999)


def said(*rows: tuple[Candidate, ...]) -> list[Position]:
    return [Position(max(one, key=lambda c: c.logprob).id, one) for one in rows]


def test_fidelity() -> None:
    found = fidelity(oracle(SURE, SURE, TIE, SURE), said(SURE, row(0.01, 0.99), TIE, SURE))
    assert found.disagreements == (1,)
    assert found.kl_max == found.kl[1] > 4
    assert found.kl_mean == pytest.approx(found.kl[1] / 4)
    assert found.shifts[0] == 0
    assert found.shifts[1] == pytest.approx(-2 * math.log(99))
    one = fidelity(oracle(row(1.0)), said(row(1.0)))
    assert one.shifts == (0,)
    with pytest.raises(ValueError, match="expected 2 positions, found 1"):
        fidelity(oracle(SURE, SURE), said(SURE))
    bare = Oracle("m", "m", "p", "p.txt", "5", "2", (1,), "", 32)
    with pytest.raises(ValueError, match="no log-probabilities"):
        fidelity(bare, said(SURE))


def test_noise_floor() -> None:
    assert noise_floor([]) == noise_floor([0.0]) == 1e-4
    assert noise_floor([-0.5, 0.1]) == 0.5
    assert noise_floor([0.01] * 99 + [50]) == 0.01


def test_why_a_divergence_happened() -> None:
    steady = [SURE] * 20
    tie = classify(oracle(*steady, TIE), said(*steady, row(0.4999, 0.5001)), 20, float_shifts=[0.001])
    assert tie.cause is Cause.NEAR_TIE
    assert tie.margin == pytest.approx(0.0004, rel=0.01)
    # This file's leads move by 1.5 everywhere: losing one of 1.2 is that noise.
    rough = [row(0.9566, 0.0434)] * 20
    leading = row(0.77, 0.23)
    drift = classify(oracle(*steady, leading), said(*rough, row(0.4, 0.6)), 20, float_shifts=[0.001])
    assert drift.cause is Cause.DRIFT
    assert drift.float_noise < drift.margin < 2 * drift.file_noise
    # A steady file that suddenly prefers another token, or one whose every lead is gone, is broken.
    jump = classify(oracle(*steady, SURE), said(*steady, row(0.01, 0.99)), 20, float_shifts=[0.001])
    assert jump.cause is Cause.DEFECT
    lost = [row(0.01, 0.99)] * 21
    assert classify(oracle(*steady, SURE), said(*lost), 0, float_shifts=[0.001]).cause is Cause.DEFECT
    alone = classify(oracle(SURE), said(row(0.01, 0.99)), 0, float_shifts=[])
    assert alone.cause is Cause.DEFECT
