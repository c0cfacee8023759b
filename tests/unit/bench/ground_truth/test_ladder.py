"""The ladder names the lowest step that is broken, and says what it could not compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from trialbench.ground_truth import outputs
from trialbench.ground_truth.ladder import Ladder, Step, climb, ladders
from trialbench.ground_truth.observe import Seen
from trialbench.ground_truth.oracle_files import Oracle, oracle_path, write_oracle
from trialbench.ground_truth.results import Result, Row, Status
from trialbench.ground_truth.roster import Roster, load_roster
from trialbench.ground_truth.runtimes.base import (
    Artefact,
    Call,
    Capability,
    Conversion,
    Generation,
    Identity,
    Prompt,
    Trouble,
    TroubleKind,
)
from trialbench.ground_truth.workspace import Workspace

TOKENS = (5, 6, 7, 8)
GOOD = Generation(TOKENS, "x", prompt_tokens=3)
WRONG = replace(GOOD, tokens=(5, 6, 9, 9))
LOST = Trouble(TroubleKind.ABSENT, "not there")
PASS, FAIL, OPEN = Status.PASS, Status.FAIL, Status.INCONCLUSIVE


class Runtime:
    """Says the same to every prompt; what it says to files made on the way is `fresh`."""

    identity = Identity("llama.cpp", "1")

    def __init__(self) -> None:
        self.fresh = GOOD
        self.refused: dict[Capability, str] = {}
        self.made: Conversion | None = None

    def declined(self, capability: Capability, artefact: Artefact | None = None) -> str | None:
        return self.refused.get(capability)

    def convert(self, capability: Capability, source: Artefact, target: Path, quant: str) -> Conversion:
        return self.made or Conversion(Artefact(target, source.model, "apr", quant), Call())

    def open(self, artefact: Artefact, *, kv_type: str = "f32") -> Runtime:
        return self

    trouble = None

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def generate(self, prompt: Prompt, **_: Any) -> Generation:
        return self.fresh


@dataclass
class Found:
    """What the evidence holds, by quant or by (quant, cache)."""

    roster: Roster
    workspace: Workspace
    runtime: Runtime = field(default_factory=Runtime)
    said: dict[Any, Generation] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    second: Generation | None = None
    oracles: bool = True
    digest: str = ""

    def seen(self, model: Any, quant: str, *, kv_type: str = "f32") -> Seen:
        if quant in self.lost or kv_type in self.lost:
            return Seen(LOST)
        said = self.said.get((quant, kv_type)) or self.said.get(quant, GOOD)
        return Seen(None, {prompt.name: said for prompt in self.roster.prompts.prompts})

    def oracle(self, model: Any, prompt: str, *, quant: str | None = None) -> Oracle | Trouble:
        if not self.oracles or (quant is not None and self.second is None):
            return LOST
        tokens = TOKENS if quant is None or self.second is None else self.second.tokens or ()
        return Oracle(
            "m", "m", prompt, f"{prompt}.txt", "5", "2", tokens, "x", 4, prompt_ids=(1, 2, 3), files={"m": "ab"}
        )

    def artefact(self, model: Any, quant: str) -> Artefact:
        return Artefact(Path("x.gguf"), model.slug, "gguf", quant, self.digest)


@pytest.fixture
def found(roster_file: Path, tmp_path: Path) -> Found:
    roster = load_roster(str(roster_file))
    return Found(roster, Workspace(tmp_path, roster), second=GOOD)


def row(suite: str, quant: str, status: Status, says: str = "says") -> Result:
    return Result(Row(suite, "m-llama", quant), status, says)


def ladder(found: Found, *rows: Result, quant: str = "Q8_0") -> Ladder:
    return climb(rows, found, found.roster.models[0], quant)  # type: ignore[arg-type]


def test_nothing_is_guilty_of_a_good_file(found: Found) -> None:
    one = ladder(found, row("weights", "f32", PASS), row("second", "Q8_0", PASS), row("roundtrip", "Q8_0", PASS))
    assert (one.guilty, one.sure) == (None, True)
    assert [rung.step for rung in one.rungs] == list(Step)
    assert outputs.guilty(one.as_dict()) == "no step is shown to be guilty"


def test_each_step_can_be_guilty(found: Found) -> None:
    fine = [row("weights", "f32", PASS), row("second", "Q8_0", PASS)]
    found.said["Q8_0"] = replace(GOOD, prompt_tokens=4)
    assert ladder(found, *fine).guilty is Step.PROMPT
    found.said["Q8_0"] = replace(GOOD, prompt_tokens=3, prompt_ids=(1, 2, 4))
    assert ladder(found, *fine).guilty is Step.PROMPT
    del found.said["Q8_0"]
    assert ladder(found, row("tokenizer", "f32", FAIL), *fine).guilty is Step.PROMPT
    one = ladder(found, row("weights", "f32", FAIL, "rows not permuted"), fine[1])
    assert (one.guilty, outputs.guilty(one.as_dict())) == (Step.IMPORT, "import: f32: rows not permuted")
    found.second = WRONG
    one = ladder(found, *fine)
    assert (one.guilty, one.sure) == (Step.QUANTISATION, True)
    assert "up to 2 tokens of a prompt, 0 may" in outputs.guilty(one.as_dict())
    found.second = GOOD
    assert ladder(found, fine[0], row("second", "Q8_0", FAIL)).guilty is Step.RUNTIME
    found.said["Q8_0", "f16"] = WRONG
    assert ladder(found, *fine).guilty is Step.CACHE
    found.runtime.refused[Capability.KV_TYPE] = "no choice"
    assert ladder(found, *fine).guilty is None
    assert ladder(found, *fine, row("roundtrip", "Q8_0", FAIL)).guilty is Step.EXPORT


def test_a_lower_step_outweighs_a_higher_one(found: Found) -> None:
    found.second = WRONG
    rows = [row("weights", "f32", FAIL), row("second", "Q8_0", FAIL), row("roundtrip", "Q8_0", FAIL)]
    assert ladder(found, *rows).guilty is Step.IMPORT


def test_what_could_not_be_compared_is_said(found: Found) -> None:
    found.second = None
    found.lost = {"f16"}
    one = ladder(found, row("second", "Q8_0", FAIL), quant="Q8_0")
    assert (one.guilty, one.sure) == (Step.RUNTIME, False)
    assert outputs.guilty(one.as_dict()) == "runtime (or, not compared: quantisation): says"
    # Without a second oracle, or with one of another file, the tensors tell.
    found.second, found.digest = WRONG, "cd"
    assert ladder(found, row("weights", "Q8_0", PASS), row("second", "Q8_0", FAIL)).guilty is Step.RUNTIME
    # By elimination: the tensors are right, and what is said is not.
    found.said["Q8_0"] = WRONG
    one = ladder(found, row("weights", "f32", PASS), row("weights", "Q8_0", PASS))
    assert one.guilty is Step.RUNTIME
    assert "the file's metadata" in outputs.guilty(one.as_dict())
    del found.said["Q8_0"]
    found.second, found.digest = None, ""
    assert ladder(found, row("weights", "Q8_0", FAIL)).guilty is Step.QUANTISATION
    found.lost = {"Q8_0", "f32", "f16"}
    one = ladder(found)
    assert one.guilty is None
    missing = "prompt or tokenizer, import, quantisation, runtime, cache precision"
    assert outputs.guilty(one.as_dict()) == f"no step is shown to be guilty; not compared: {missing}"
    found.lost, found.oracles = set(), False
    assert [rung.good for rung in ladder(found).rungs[:2]] == [None, None]
    found.oracles = True
    found.said["Q8_0"] = replace(GOOD, prompt_tokens=None)
    assert ladder(found).rungs[0].good is None


def test_a_float_file_is_the_models_own_weights(found: Found) -> None:
    found.said["f32"] = WRONG
    one = ladder(found, row("weights", "f32", PASS), row("second", "f32", OPEN), quant="f32")
    assert one.guilty is Step.RUNTIME
    assert Step.QUANTISATION not in [rung.step for rung in one.rungs]
    # Tokens decide where the tensors cannot be read; a wrapped prompt or a refusal decides nothing.
    assert ladder(found, quant="f32").guilty is Step.IMPORT
    found.said["f32"] = replace(GOOD, trouble=LOST)
    assert ladder(found, quant="f32").guilty is None


def test_a_float_file_is_made_where_the_roster_wants_none(found: Found) -> None:
    models = tuple(replace(one, quants={"llama.cpp": ("int4", "int8")}) for one in found.roster.models)
    found.roster = replace(found.roster, models=models)
    found.workspace = Workspace(found.workspace.root, found.roster)
    found.second = None
    write_oracle(oracle_path(found.roster.oracle, "m-llama", "one"), found.oracle(None, "one"))  # type: ignore[arg-type]
    found.runtime.refused = {Capability.SCORE: "no", Capability.TOKENIZE: "no", Capability.TEMPLATE: "no"}
    for said, good in ((GOOD, True), (WRONG, False)):
        found.runtime.fresh = said
        rung = ladder(found, quant="int8").rungs[1]
        assert (rung.good, rung.step) == (good, Step.IMPORT), rung.says
    found.runtime.made = Conversion(None, Call(), LOST)
    assert ladder(found, quant="int8").rungs[1].says == "no float file to compare: not there"
    found.runtime.made = Conversion(None, Call())
    assert ladder(found, quant="int8").rungs[1].says == "no float file to compare: nothing was made"


def test_an_export_is_not_to_blame_for_a_file_that_says_nothing(found: Found) -> None:
    found.runtime.refused[Capability.KV_TYPE] = "no choice"
    found.said["Q8_0"] = replace(GOOD, trouble=LOST)
    assert ladder(found, row("roundtrip", "Q8_0", FAIL, "one: refused")).rungs[-1].good is None
    assert ladder(found, row("roundtrip", "Q8_0", FAIL, "export: refused")).rungs[-1].good is False
    assert Step.EXPORT not in [
        rung.step for rung in ladder(found, row("roundtrip", "Q8_0", Status.NOT_APPLICABLE)).rungs
    ]


def test_only_files_with_a_symptom_get_a_ladder(found: Found) -> None:
    rows = [row("token", "Q8_0", FAIL), row("lint", "f16", FAIL), row("token", "f32", PASS)]
    made = ladders(rows, found, found.roster.models)  # type: ignore[arg-type]
    assert [(one.model, one.quant) for one in made] == [("m-llama", "Q8_0")]
