"""Half precision against float32: oracles against oracles."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.controls import llama_cpp
from trialbench.ground_truth.controls.run import run_controls
from trialbench.ground_truth.evidence.oracle_files import Oracle, oracle_path, read_oracle, write_oracle
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Roster, Tolerance, load_roster
from trialbench.ground_truth.runtimes.base import Candidate, Trouble, TroubleKind
from trialbench.ground_truth.suites.case import Case
from trialbench.ground_truth.suites.precision import judge, rows
from trialbench.ground_truth.suites.results import Row, Status

FULL = 0.9


def top(share: float, length: int) -> tuple[tuple[Candidate, ...], ...]:
    row = (Candidate(1, math.log(share)), Candidate(2, math.log(1 - share)))
    return (row,) * length


@pytest.fixture
def roster(roster_file: Path) -> Roster:
    bounds = {f"{one}-vs-{two}": 1.0 for one, two in (("bf16", "fp32"), ("fp16", "fp32"), ("bf16", "fp16"))}
    tolerances = {name: Tolerance(name, value, "mismatches", "because") for name, value in bounds.items()}
    return replace(load_roster(str(roster_file)), precisions=("bf16", "fp16"), tolerances=tolerances)


def put(roster: Roster, precision: str, tokens: tuple[int, ...] = (1, 2, 3), share: float = FULL, **more: Any) -> None:
    """Write the oracles of one precision for the first model."""
    for prompt in roster.prompts.prompts:
        slug = roster.models[0].slug
        one = Oracle("m", slug, prompt.text, f"prompts/{prompt.name}.txt", "5", "2", tokens, "t", 8,
                     precision=precision, prompt_ids=(7,), top=top(share, len(tokens)))  # fmt: skip
        write_oracle(oracle_path(roster.oracle, slug, prompt.name, precision=precision), replace(one, **more))


@pytest.fixture
def case(roster: Roster) -> Any:
    def make(quant: str, other: str, prompt: str = "one") -> Case:
        model = roster.models[0]

        def oracle(_model: Any, name: str, *, precision: str = "fp32") -> Any:
            try:
                return read_oracle(oracle_path(roster.oracle, model.slug, name, precision=precision))
            except UsageError as error:
                return Trouble(TroubleKind.ABSENT, str(error))

        evidence: Any = SimpleNamespace(roster=roster, oracle=oracle)
        return Case(Row("precision", model.slug, quant, other, prompt), model, evidence)

    put(roster, "fp32")
    return make


def test_rows_are_declared_for_the_precisions_of_a_roster(roster: Roster) -> None:
    found = list(rows(roster, "llama.cpp"))
    assert len(found) == 2 * (3 * 2 + 1)
    assert found[0].label == "precision m-llama bf16/fp32 one"
    assert found[6].label == "precision m-llama fp16/bf16"
    assert len(list(rows(replace(roster, precisions=("bf16",)), "llama.cpp"))) == 2 * 2
    assert not list(rows(replace(roster, precisions=()), "llama.cpp"))
    assert not list(rows(roster, "apr"))


def test_the_bounds(case: Any, roster: Roster) -> None:
    put(roster, "bf16", (1, 2, 9))
    found = judge(case("bf16", "fp32"))
    assert (found.status, found.evidence["mismatches"], found.evidence["first"]) == (Status.PASS, 1, 2)
    put(roster, "bf16", (1, 8, 9))
    found = judge(case("bf16", "fp32"))
    assert found.status is Status.FAIL
    assert found.says == "2 of 3 tokens differ, at most 1 allowed"
    assert (found.expected, found.got) == ("[1, 2, 3]", "[1, 8, 9]")
    put(roster, "fp16", (1, 8, 9))
    assert judge(case("bf16", "fp16")).status is Status.PASS


def test_an_absent_precision_is_named(case: Any, roster: Roster) -> None:
    found = judge(case("bf16", "fp32"))
    assert found.status is Status.INCONCLUSIVE
    assert "oracle-gpu/m-llama/bf16/one.json: expected an oracle file, found none" in found.says
    assert judge(case("fp16", "bf16", "")).status is Status.INCONCLUSIVE


@pytest.mark.parametrize("other", [{"prompt": "x"}, {"prompt_ids": (8,)}, {"files": {"a": "2" * 64}}])
def test_oracles_of_different_things_are_not_compared(case: Any, roster: Roster, other: dict[str, Any]) -> None:
    put(roster, "fp32", files={"a": "1" * 64})
    put(roster, "bf16", **{"files": {"a": "1" * 64}, **other})
    assert judge(case("bf16", "fp32")).status is Status.INCONCLUSIVE
    put(roster, "bf16", prompt_ids=None, files={})
    assert judge(case("bf16", "fp32")).status is Status.PASS


@pytest.mark.parametrize(
    ("fine", "coarse", "status"),
    [(0.89, 0.8, Status.PASS), (0.8, 0.89, Status.FAIL), (FULL, FULL, Status.PASS)],
)
def test_the_true_order(case: Any, roster: Roster, fine: float, coarse: float, status: Status) -> None:
    put(roster, "fp16", share=fine)
    # From the second token on it continues another text: the rest says nothing about precision.
    put(roster, "bf16", (1, 9, 3), share=coarse)
    found = judge(case("fp16", "bf16", ""))
    assert (found.status, found.evidence["positions"]) == (status, 2 * 2)
    assert "mean KL divergence from float32 over 4 positions: fp16 " in found.says


def test_an_order_needs_distributions(case: Any, roster: Roster) -> None:
    put(roster, "bf16")
    put(roster, "fp16", top=None)
    found = judge(case("fp16", "bf16", ""))
    assert (found.status, "no log-probabilities" in found.says) == (Status.INCONCLUSIVE, True)


def test_its_control_is_caught_where_there_are_precisions(
    case: Any, roster: Roster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert case
    put(roster, "bf16")
    put(roster, "fp16")
    only = tuple(one for one in llama_cpp.CONTROLS if one.oracle is not None)
    monkeypatch.setattr(llama_cpp, "CONTROLS", only)
    runtime: Any = SimpleNamespace(
        identity=SimpleNamespace(name="llama.cpp", detail={}, environment={}), declined=lambda *_: None
    )
    [caught] = run_controls(Workspace(tmp_path / "w", roster), runtime, roster.models[0])
    assert (caught.good, caught.by, caught.trouble) == (True, ("precision",), "")
    plain = replace(roster, precisions=())
    assert run_controls(Workspace(tmp_path / "w", plain), runtime, plain.models[0]) == []
    # Without the oracles it cannot be made, and is not taken for caught.
    oracle_path(roster.oracle, roster.models[0].slug, "one", precision="bf16").unlink()
    [lost] = run_controls(Workspace(tmp_path / "w", roster), runtime, roster.models[0])
    assert not lost.good
    assert "could not be made" in lost.trouble
