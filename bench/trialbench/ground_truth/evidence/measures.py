"""Measures between what an oracle says and what a runtime says. Pure arithmetic on token ids and log-probabilities.

KL divergence is in nats, of the oracle against the runtime. Only the most probable tokens of either side are known;
the rest is one bucket. Merging tokens never enlarges the divergence, so what is computed is a lower bound, and with a
few dozen tokens it is close.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from trialbench.ground_truth.evidence.oracle_files import Oracle
from trialbench.ground_truth.runtimes.base import Candidate, Position

_TINY = 1e-12


@dataclass(frozen=True)
class TokenComparison:
    """Two greedy continuations, token by token.

    Attributes:
        mismatches: positions that differ; a position that only one side has counts.
        compared: positions of the longer side.
        first: the first position that differs, from 0; None when they are the same.
        dropped_eos: on which sides a trailing end-of-sequence token was left out: `oracle`, `runtime`.
        got, expected: what was compared.
    """

    mismatches: int
    compared: int
    first: int | None
    dropped_eos: tuple[str, ...]
    got: tuple[int, ...]
    expected: tuple[int, ...]

    @property
    def identical(self) -> bool:
        """No position differs, and there is at least one."""
        return self.mismatches == 0 and self.compared > 0


def compare_tokens(got: Sequence[int], expected: Sequence[int], eos_ids: Sequence[int] = ()) -> TokenComparison:
    """Compare after dropping at most one trailing end-of-sequence token on either side.

    Runtimes differ in whether they return that token. It is dropped only where the other side does not have it in
    that place, so that a real difference stays one.
    """
    mine, theirs = tuple(got), tuple(expected)
    dropped = []
    if len(theirs) == len(mine) + 1 and theirs[-1] in eos_ids:
        theirs, dropped = theirs[:-1], ["oracle"]
    elif len(mine) == len(theirs) + 1 and mine[-1] in eos_ids:
        mine, dropped = mine[:-1], ["runtime"]
    compared = max(len(mine), len(theirs))
    wrong = [
        position
        for position in range(compared)
        if position >= len(mine) or position >= len(theirs) or mine[position] != theirs[position]
    ]
    return TokenComparison(len(wrong), compared, wrong[0] if wrong else None, tuple(dropped), mine, theirs)


# The bounds on tokens are stated for continuations of this length.
STATED_FOR = 32


def allowed(bound: float, compared: int) -> int:
    """How many of `compared` tokens may differ by a bound that was stated for 32 of them; part of a token counts as
    one. Five of 32 are not five of eight.
    """
    return math.ceil(bound * min(1.0, compared / STATED_FOR))


def kl(oracle: Sequence[Candidate], runtime: Sequence[Candidate]) -> float:
    """KL divergence of two distributions whose most probable tokens are known: a lower bound, in nats.

    A token that only the oracle lists has, in the runtime, at most the probability of the runtime's last listed one;
    all such tokens and the rest share one bucket.
    """
    theirs = {one.id: one.logprob for one in runtime}
    total = p_rest = 0.0
    p_known = q_known = 0.0
    for one in oracle:
        p = math.exp(one.logprob)
        if one.id in theirs:
            total += p * (one.logprob - theirs[one.id])
            p_known += p
            q_known += math.exp(theirs[one.id])
    p_rest, q_rest = max(0.0, 1.0 - p_known), max(0.0, 1.0 - q_known)
    if p_rest > _TINY:
        total += p_rest * math.log(p_rest / max(q_rest, _TINY))
    # Rounded log-probabilities of nearly certain tokens may sum to a hair below zero.
    return max(0.0, total)


@dataclass(frozen=True)
class Fidelity:
    """Teacher forcing along one oracle.

    Attributes:
        kl: at each position, in nats.
        shifts: at each position, how far the lead of the oracle's token over its runner-up moved (log-probability).
        disagreements: positions at which it would choose another token.
    """

    kl: tuple[float, ...]
    shifts: tuple[float, ...]
    disagreements: tuple[int, ...]

    @property
    def kl_mean(self) -> float:
        """Mean over the positions."""
        return sum(self.kl) / len(self.kl)

    @property
    def kl_max(self) -> float:
        """The worst position."""
        return max(self.kl)


def fidelity(oracle: Oracle, positions: Sequence[Position]) -> Fidelity:
    """Compare the distributions along the oracle's continuation.

    Raises:
        ValueError: the oracle has no log-probabilities, or the number of positions differs.
    """
    if oracle.top is None:
        raise ValueError("the oracle has no log-probabilities (it was made by the original tool)")
    if len(positions) != len(oracle.top) or not positions:
        raise ValueError(f"expected {len(oracle.top)} positions, found {len(positions)}")
    wrong = tuple(
        number
        for number, (position, token) in enumerate(zip(positions, oracle.tokens, strict=True))
        if position.chosen != token
    )
    return Fidelity(
        kl=tuple(kl(row, position.top) for row, position in zip(oracle.top, positions, strict=True)),
        shifts=tuple(_shift(row, position.top) for row, position in zip(oracle.top, positions, strict=True)),
        disagreements=wrong,
    )


def _shift(oracle: Sequence[Candidate], runtime: Sequence[Candidate]) -> float:
    """How far the lead of the oracle's best token over its second moved; unlisted tokens count as the last listed."""
    if len(oracle) < 2:
        return 0.0
    theirs = {one.id: one.logprob for one in runtime}
    floor = min((one.logprob for one in runtime), default=0.0)
    lead = theirs.get(oracle[0].id, floor) - theirs.get(oracle[1].id, floor)
    return lead - (oracle[0].logprob - oracle[1].logprob)


class Cause(StrEnum):
    """What a first divergence is."""

    NEAR_TIE = "near tie"  # the oracle itself hardly preferred its token: float arithmetic alone may turn it
    DRIFT = "drift"  # within the noise this file shows everywhere: quantization
    DEFECT = "defect"  # neither explains it


@dataclass(frozen=True)
class Divergence:
    """A position at which the runtime left the oracle.

    Attributes:
        margin: the oracle's lead of its token over its runner-up there (log-probability).
        float_noise: how far leads move in a float file of the same model and runtime.
        file_noise: how far they move in this file, at its other positions.
    """

    margin: float
    float_noise: float
    file_noise: float
    cause: Cause


def noise_floor(shifts: Sequence[float]) -> float:
    """How far a lead moves without anything being wrong: the 95th percentile of what was seen, at least 1e-4.

    With few positions the largest one is taken. Two leads that come within it are a tie for this arithmetic.
    """
    sizes = sorted(abs(shift) for shift in shifts)
    if not sizes:
        return 1e-4
    return max(1e-4, sizes[min(len(sizes) - 1, math.ceil(0.95 * len(sizes)) - 1)])


def classify(
    oracle: Oracle, positions: Sequence[Position], number: int, *, float_shifts: Sequence[float]
) -> Divergence:
    """Why the runtime left the oracle at position `number`.

    Args:
        oracle: with log-probabilities.
        positions: along the oracle's tokens (teacher forcing).
        number: the position, from 0.
        float_shifts: `Fidelity.shifts` of a float file of the same model and runtime, all prompts together.

    Raises:
        ValueError: as `fidelity`.
    """
    shifts = fidelity(oracle, positions).shifts
    margins = oracle.margins()
    assert margins is not None
    # The position under explanation must not count as its own explanation.
    others = [shift for at, shift in enumerate(shifts) if at != number]
    float_noise, file_noise = noise_floor(float_shifts), noise_floor(others)
    margin = margins[number]
    if margin <= 2 * float_noise:
        cause = Cause.NEAR_TIE
    elif margin <= 2 * file_noise and median(abs(shift) for shift in others or [0.0]) < 3.0:
        # A file whose leads move by whole powers of e at most positions is not noisy, it is broken.
        cause = Cause.DRIFT
    else:
        cause = Cause.DEFECT
    return Divergence(
        margin=margin,
        float_noise=float_noise,
        file_noise=file_noise,
        cause=cause,
    )
