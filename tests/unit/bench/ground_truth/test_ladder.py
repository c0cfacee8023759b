"""The ladder names the lowest step that is broken, and says what it could not compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from trialbench.ground_truth.attribution.ladder import Ladder, Step, climb, ladders
from trialbench.ground_truth.attribution.neighbors import Neighbors
from trialbench.ground_truth.evidence.observe import Evidence, Seen
from trialbench.ground_truth.evidence.oracle_files import Oracle
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.convert import Changes, to_gguf
from trialbench.ground_truth.model.roster import Roster, Tolerance, load_roster
from trialbench.ground_truth.output import table as outputs
from trialbench.ground_truth.runtimes.base import (
    Artifact,
    Call,
    Capability,
    Conversion,
    Generation,
    Identity,
    Position,
    Prompt,
    Score,
    Trouble,
    TroubleKind,
)
from trialbench.ground_truth.suites.results import Result, Row, Status

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

    def declined(self, capability: Capability, artifact: Artifact | None = None) -> str | None:
        return self.refused.get(capability)

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        return self.made or Conversion(Artifact(target, source.model, "apr", quant), Call())

    def open(self, artifact: Artifact, *, kv_type: str = "f32") -> Runtime:
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
    changed: str | None = None
    ending: str = "gguf"
    text: str = "x"
    scores: dict[str, Score] = field(default_factory=dict)

    def seen(self, model: Any, quant: str, *, kv_type: str = "f32") -> Seen:
        if quant in self.lost or kv_type in self.lost:
            return Seen(LOST)
        said = self.said.get((quant, kv_type)) or self.said.get(quant, GOOD)
        return Seen(None, {prompt.name: said for prompt in self.roster.prompts.prompts}, self.scores)

    def oracle(self, model: Any, prompt: str, *, quant: str | None = None) -> Oracle | Trouble:
        if not self.oracles or (quant is not None and self.second is None):
            return LOST
        tokens = TOKENS if quant is None or self.second is None else self.second.tokens or ()
        return Oracle(
            "m", "m", prompt, f"{prompt}.txt", "5", "2", tokens, self.text, 4, prompt_ids=(1, 2, 3), files={"m": "ab"}
        )

    def artifact(self, model: Any, quant: str) -> Artifact:
        return Artifact(self.workspace.root / f"x.{self.ending}", model.slug, self.ending, quant, self.digest)

    def altered(self, model: Any, quant: str) -> str | None:
        return self.changed


@pytest.fixture
def found(roster_file: Path, tmp_path: Path) -> Found:
    roster = load_roster(str(roster_file))
    for ending in ("gguf", "apr"):
        (tmp_path / f"x.{ending}").write_text("a file")
    return Found(roster, Workspace(tmp_path, roster), second=GOOD)


def row(suite: str, quant: str, status: Status, says: str = "says") -> Result:
    return Result(Row(suite, "m-llama", quant), status, says)


def ladder(found: Found, *rows: Result, quant: str = "Q8_0", **more: Any) -> Ladder:
    def ask(asked: Row) -> Result:
        # Tokenizers and templates are right unless the test says otherwise; nothing else is known.
        return Result(asked, PASS if asked.suite in ("tokenizer", "template") else OPEN, "asked")

    return climb(rows, found, found.roster.models[0], quant, **{"ask": ask, **more})  # type: ignore[arg-type]


def test_nothing_is_guilty_of_a_good_file(found: Found) -> None:
    found.digest = "ab"
    one = ladder(found, row("weights", "f32", PASS), row("second", "Q8_0", PASS), row("roundtrip", "Q8_0", PASS))
    assert (one.guilty, one.sure) == (None, True)
    assert [rung.step for rung in one.rungs] == list(Step)
    assert outputs.guilty(one.as_dict()) == "no step is shown to be at fault"


def test_each_step_can_be_guilty(found: Found) -> None:
    found.digest = "ab"
    fine = [row("weights", "f32", PASS), row("second", "Q8_0", PASS)]
    found.changed = "x.gguf was changed"
    assert ladder(found, *fine).guilty is Step.FILE
    assert [rung.step for rung in ladder(found, *fine, whole=False).rungs] == [Step.FILE]
    found.changed = None
    found.said["Q8_0"] = replace(GOOD, prompt_tokens=4)
    assert ladder(found, *fine).guilty is Step.PROMPT
    found.said["Q8_0"] = replace(GOOD, prompt_tokens=3, prompt_ids=(1, 2, 4))
    assert ladder(found, *fine).guilty is Step.PROMPT
    del found.said["Q8_0"]
    for suite in ("tokenizer", "template"):
        assert ladder(found, row(suite, "Q8_0", FAIL), *fine).guilty is Step.PROMPT
    # The same tokens, and another text: the tokenizer again, unless tokens differ elsewhere.
    found.text = " x"
    assert ladder(found, *fine).guilty is Step.PROMPT
    found.text = "x"
    one = ladder(found, row("weights", "f32", FAIL, "rows not permuted"), fine[1])
    assert (one.guilty, outputs.guilty(one.as_dict())) == (Step.IMPORT, "import: f32: rows not permuted")
    found.second = WRONG
    one = ladder(found, *fine)
    assert (one.guilty, one.sure) == (Step.QUANTIZATION, True)
    assert "up to 2 tokens of a prompt, 0 allowed" in outputs.guilty(one.as_dict())
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
    found.second, found.digest = None, "ab"
    found.lost = {"f16"}
    one = ladder(found, row("second", "Q8_0", FAIL), quant="Q8_0")
    assert (one.guilty, one.sure) == (Step.RUNTIME, False)
    assert outputs.guilty(one.as_dict()) == "runtime (or, not compared: quantization): says"
    # Without a second oracle, or with one of another file, the tensors tell.
    found.second, found.digest = WRONG, "cd"
    assert ladder(found, row("weights", "Q8_0", PASS), row("second", "Q8_0", FAIL)).guilty is Step.RUNTIME
    # By elimination: the tensors are right, and what is said is not.
    found.said["Q8_0"] = WRONG
    one = ladder(found, row("weights", "f32", PASS), row("weights", "Q8_0", PASS))
    assert one.guilty is Step.RUNTIME
    assert "the runtime's arithmetic for Q8_0" in outputs.guilty(one.as_dict())
    # Each divergence is within the noise that this file shows everywhere.
    noisy = replace(row("token", "Q8_0", FAIL), evidence={"cause": "drift"})
    assert ladder(found, row("weights", "f32", PASS), row("weights", "Q8_0", PASS), noisy).guilty is Step.QUANTIZATION
    del found.said["Q8_0"]
    found.second, found.digest = None, ""
    far = replace(row("weights", "Q8_0", FAIL), evidence={"tensors": []})
    assert ladder(found, far).guilty is Step.QUANTIZATION
    found.lost = {"Q8_0", "f32", "f16"}
    one = ladder(found)
    assert one.guilty is None
    missing = "file, prompt or tokenizer, import, quantization, runtime, cache precision"
    assert outputs.guilty(one.as_dict()) == f"no step is shown to be at fault; not compared: {missing}"
    found.lost, found.oracles = set(), False
    assert [rung.good for rung in ladder(found).rungs[1:3]] == [None, None]
    found.oracles = True
    found.said["Q8_0"] = replace(GOOD, prompt_tokens=None)
    assert ladder(found).rungs[1].good is None


def test_a_float_file_is_the_models_own_weights(found: Found) -> None:
    found.said["f32"] = WRONG
    one = ladder(found, row("weights", "f32", PASS), row("second", "f32", OPEN), quant="f32")
    assert one.guilty is Step.RUNTIME
    assert Step.QUANTIZATION not in [rung.step for rung in one.rungs]
    # Tokens decide where the tensors cannot be read; a wrapped prompt or a refusal decides nothing.
    assert ladder(found, quant="f32").guilty is Step.IMPORT
    found.said["f32"] = replace(GOOD, trouble=LOST)
    assert ladder(found, quant="f32").guilty is None


def test_an_export_is_not_to_blame_for_a_file_that_says_nothing(found: Found) -> None:
    found.runtime.refused[Capability.KV_TYPE] = "no choice"
    found.said["Q8_0"] = replace(GOOD, trouble=LOST)
    assert ladder(found, row("roundtrip", "Q8_0", FAIL, "one: refused")).rungs[-1].good is None
    assert ladder(found, row("roundtrip", "Q8_0", FAIL, "export: refused")).rungs[-1].good is False
    assert Step.EXPORT not in [
        rung.step for rung in ladder(found, row("roundtrip", "Q8_0", Status.NOT_APPLICABLE)).rungs
    ]


def test_only_files_with_a_symptom_get_a_ladder(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("token", "Q8_0", FAIL), row("lint", "f16", FAIL), row("token", "f32", PASS)]
    monkeypatch.setattr(
        "trialbench.ground_truth.attribution.ladder.judge", lambda asked, _evidence: Result(asked, OPEN, "asked")
    )
    made = ladders(rows, found, found.roster.models)  # type: ignore[arg-type]
    assert [(one.model, one.quant) for one in made] == [("m-llama", "Q8_0")]


def test_a_file_of_which_no_hash_is_known(found: Found) -> None:
    broken = replace(row("weights", "Q8_0", FAIL, "is not a complete GGUF file"), evidence={})
    assert ladder(found, broken).guilty is Step.FILE
    spoilt = replace(broken, evidence={"tensors": [], "not_finite": ["blk.0.ffn_up.weight"]})
    one = ladder(found, spoilt)
    assert (one.guilty, "blk.0.ffn_up.weight are not numbers" in one.rungs[0].says) == (Step.FILE, True)
    assert ladder(found, replace(spoilt, evidence={"tensors": []})).rungs[0].good is True
    # A format of the runtime's own: what it says of the file itself.
    found.ending = "apr"
    found.runtime.made = Conversion(None, Call(), LOST)
    assert ladder(found, row("validate", "Q8_0", FAIL), whole=False).guilty is Step.FILE
    assert ladder(found, row("validate", "Q8_0", PASS), whole=False).rungs[0].good is None
    (found.workspace.root / "x.apr").unlink()
    assert "no such file" in ladder(found).rungs[0].says


def test_what_only_a_conversion_does_is_the_imports(found: Found) -> None:
    found.digest = "ab"
    fine = row("weights", "f32", PASS)
    for key in ("layout", "missing", "extra", "reshaped", "strangers", "numbers"):
        bad = replace(row("weights", "Q8_0", FAIL), evidence={"tensors": [], key: ["blk.0.attn_q.weight"]})
        assert ladder(found, fine, bad).guilty is Step.IMPORT
    found.second = None
    bad = replace(row("weights", "Q8_0", FAIL), evidence={"tensors": []})
    assert ladder(found, fine, bad).guilty is Step.QUANTIZATION


def test_a_runtime_that_contradicts_itself_or_crashes_is_guilty(found: Found) -> None:
    found.digest, found.said["Q8_0"] = "ab", WRONG
    fine = [row("weights", "f32", PASS), row("second", "Q8_0", OPEN)]
    for chosen, step in ((7, Step.RUNTIME), (9, None)):
        # Position 2 is the first that differs; there it said 9.
        positions = tuple(Position(token, ()) for token in (5, 6, chosen, 8))
        found.scores = {prompt.name: Score(positions, WRONG) for prompt in found.roster.prompts.prompts}
        assert ladder(found, *fine).guilty is step
    found.said, found.scores = {}, {}
    crash = replace(row("ppl", "Q8_0", FAIL, "panicked"), cause="panic: x")
    assert ladder(found, *fine, crash).guilty is Step.RUNTIME
    # It was made well and the runtime will not run it.
    found.said["Q8_0"] = replace(GOOD, tokens=None, trouble=Trouble(TroubleKind.REFUSED, "no kernel"))
    one = ladder(found, *fine)
    assert (one.guilty, "no kernel" in outputs.guilty(one.as_dict())) == (Step.RUNTIME, True)


def test_what_is_lost_on_the_way_back_in_is_the_imports(found: Found) -> None:
    found.digest = "ab"
    same, other = {"identical": True, "compared": 3}, {"identical": False, "compared": 3, "worst": "t"}
    fine = [row("weights", "f32", PASS), row("second", "Q8_0", PASS)]
    for tensors, step in (({"exported": same, "imported": other}, Step.IMPORT),
                          ({"exported": other, "imported": same}, Step.EXPORT), ({}, Step.EXPORT)):  # fmt: skip
        bad = replace(row("roundtrip", "Q8_0", FAIL), evidence={"tensors": tensors})
        assert ladder(found, *fine, bad).guilty is step


# --- A runtime whose format is its own --------------------------------------------------------------------------------


class Beside:
    """Neighbors that say what the test wants."""

    def __init__(self, **change: Any) -> None:
        self.first = self.second = self.again = Artifact(Path("n.apr"), "m-llama", "apr", "f32")
        self.says: dict[str, Seen] = {}
        self.near: list[bool | None] = []
        self.__dict__.update(change)

    def imported(self) -> Any:
        return self.first

    def imported_from_gguf(self) -> Any:
        return self.second

    def exported(self, artifact: Artifact) -> Artifact:
        return artifact

    def back(self, artifact: Artifact) -> Any:
        return self.again

    def said(self, artifact: Artifact) -> Seen:
        return self.says[artifact.quant]

    def apart(self, *_: Any) -> tuple[bool | None, str]:
        return self.near.pop(0), "tensors compared"


def seen(found: Found, said: Generation) -> Seen:
    return Seen(None, {prompt.name: said for prompt in found.roster.prompts.prompts})


@pytest.fixture
def own(found: Found) -> Found:
    found.ending, found.digest, found.second = "apr", "ab", None
    found.runtime.refused[Capability.KV_TYPE] = "no choice"
    bounds = {name: Tolerance(name, value, "", "") for name, value in (("token-int4", 1), ("tensor-int4", 0.2))}
    found.roster = replace(found.roster, tolerances=bounds)
    return found


def other(name: str) -> Artifact:
    return Artifact(Path(f"{name}.apr"), "m-llama", "apr", name)


def test_the_import_is_judged_by_what_it_says_and_by_its_tensors(own: Found) -> None:
    good, bad = seen(own, GOOD), seen(own, WRONG)

    def rung(beside: Beside) -> Any:
        return next(one for one in ladder(own, quant="int4", neighbors=beside, whole=False).rungs
                    if one.step is Step.IMPORT)  # fmt: skip

    assert rung(Beside(first="not imported")).says == "no float file to compare: not imported"
    own.said["int4"] = WRONG
    assert rung(Beside(says={"f32": good}, near=[None], again="no way back")).good is True
    # The tensors are the model's: whatever it says, the import is not to blame.
    assert rung(Beside(says={"f32": bad}, near=[True, None], again="no")).good is True
    # Then it is the runtime.
    assert ladder(own, quant="int4", neighbors=Beside(says={"f32": bad}, near=[True])).guilty is Step.RUNTIME
    # They cannot be read: the same model imported from a GGUF tells.
    two = {"f32": bad, "gguf": good}
    assert rung(Beside(says=two, second=other("gguf"), near=[None])).good is False
    same = Beside(says={"f32": bad, "gguf": bad}, second=other("gguf"), near=[None])
    assert ladder(own, quant="int4", neighbors=same).guilty is Step.RUNTIME
    assert "the same" in rung(Beside(says={"f32": bad, "gguf": bad}, second=other("gguf"), near=[None])).says
    alone = Beside(says={"f32": bad}, second="none", near=[None])
    assert outputs.guilty(ladder(own, quant="int4", neighbors=alone).as_dict()).startswith(
        "runtime (or, not compared: import, quantization): f32: up to 2 tokens"
    )
    assert rung(Beside(says={"f32": bad}, second="none", near=[False])).good is False
    lost = {"f32": bad, "gguf": Seen(LOST)}
    assert rung(Beside(says=lost, second=other("gguf"), near=[False])).good is False
    assert rung(Beside(says=lost, second=other("gguf"), near=[None])).good is None
    mute = {"f32": Seen(LOST), "gguf": good}
    assert rung(Beside(says=mute, second=other("gguf"), near=[None, None])).good is None


def test_quantized_numbers_are_told_from_quantized_arithmetic(own: Found) -> None:
    own.said["int4"] = WRONG
    says = {"f32": seen(own, GOOD), "back": seen(own, WRONG)}
    # The same numbers as floats say the same: it is in the numbers.
    assert ladder(own, quant="int4", neighbors=Beside(says=says, again=other("back"), near=[True])).guilty is (
        Step.QUANTIZATION
    )
    says["back"] = seen(own, GOOD)
    beside = Beside(says=says, again=other("back"), near=[True])
    assert ladder(own, quant="int4", neighbors=beside).guilty is Step.RUNTIME
    assert ladder(own, quant="int4", neighbors=Beside(says=says, near=[False])).guilty is Step.QUANTIZATION
    assert ladder(own, quant="int4", neighbors=Beside(first="none")).guilty is Step.RUNTIME
    own.said["int4"] = GOOD
    one = ladder(own, quant="int4", neighbors=Beside(says=says, again=other("back"), near=[True]))
    assert (one.guilty, one.sure) == (None, True)
    own.lost = {"int4"}
    one = ladder(own, quant="int4", neighbors=Beside(says=says, again="none", near=[None]))
    assert one.guilty is Step.RUNTIME
    assert "it does not run the file: not there" in outputs.guilty(one.as_dict())


# --- Neighbors -------------------------------------------------------------------------------------------------------


class Maker(Runtime):
    """Copies what it is to convert, and counts."""

    identity = Identity("apr", "1")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Capability, str]] = []

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        self.asked.append((capability, source.path.name))
        if self.made is not None:
            return self.made
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.path.is_file():
            target.write_bytes(source.path.read_bytes())
        ending = "gguf" if capability is Capability.EXPORT else "apr"
        return Conversion(Artifact(target, source.model, ending, quant), Call())


def test_neighbors_are_made_once_and_say_why_they_are_not(found: Found, tmp_path: Path) -> None:
    model, maker = found.roster.models[0], Maker()
    evidence = Evidence(found.workspace, maker)  # type: ignore[arg-type]
    beside = Neighbors(evidence, model)
    first = beside.imported()
    assert not isinstance(first, str)
    assert beside.imported() is first
    again = beside.imported_from_gguf()
    assert not isinstance(again, str)
    # What was copied is the GGUF that we made: the same tensors as the Hugging Face files'.
    ours = Artifact(again.path.with_name("ours.gguf"), "m", "gguf", "f32")
    assert beside.exported(ours) is ours
    same, says = beside.apart(ours, found.workspace.folder(model), 0.0)
    assert (same, "tensors, the worst" in says) == (True, True)
    out = beside.exported(first)
    assert not isinstance(out, str)
    back = beside.back(first)
    assert not isinstance(back, str)
    assert [capability for capability, _ in maker.asked] == [
        Capability.IMPORT_HF, Capability.IMPORT_GGUF, Capability.EXPORT, Capability.IMPORT_GGUF,
    ]  # fmt: skip
    assert beside.said(first) is beside.said(first)
    # Not to be read, not made, not offered.
    junk = Artifact(tmp_path / "junk.gguf", "m", "gguf", "f32")
    junk.path.write_text("junk")
    assert beside.apart(junk, ours, 0.0)[0] is None
    assert beside.apart("no export", ours, 0.0) == (None, "no export")
    assert beside.apart(ours, "no reference", 0.0) == (None, "no reference")
    maker.made = Conversion(None, Call(), LOST)
    other_one = replace(first, path=tmp_path / "other.apr")
    assert beside.exported(other_one) == "not there"
    assert beside.back(other_one) == "not there"
    maker.refused[Capability.IMPORT_HF] = "no such command"
    assert Neighbors(evidence, model).imported() == "no such command"
    (found.workspace.folder(model) / "config.json").unlink()
    assert "config.json" in str(Neighbors(evidence, model).imported_from_gguf())


def test_other_tensors_are_seen_for_what_they_are(found: Found, tmp_path: Path) -> None:
    model = found.roster.models[0]
    folder = found.workspace.folder(model)
    beside = Neighbors(Evidence(found.workspace, Maker()), model)  # type: ignore[arg-type]

    def apart(**changes: Any) -> tuple[bool | None, str]:
        to_gguf(folder, tmp_path / "m.gguf", "f32", changes=Changes(**changes))
        return beside.apart(Artifact(tmp_path / "m.gguf", "m", "gguf", "f32"), folder, 0.1)

    assert apart(tensor=lambda name, value: value * 3 if name == "output_norm.weight" else value)[0] is False
    turned = apart(tensor=lambda name, value: value.T if name == "blk.0.ffn_up.weight" else value)
    assert (turned[0], "1 do not compare: of another shape" in turned[1]) == (False, True)
