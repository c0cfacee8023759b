"""The suites' rows are counted, and every way of answering a row has its status."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.evidence.oracle_files import (
    Oracle,
    TokenizerOracle,
    oracle_path,
    read_tokenizer,
    tokenizer_path,
    write_oracle,
    write_tokenizer,
)
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Chat, PromptText, Roster, Tolerance, load_roster
from trialbench.ground_truth.model.weights import folder_hashes, sha256
from trialbench.ground_truth.runtimes.base import (
    Answer,
    Artifact,
    Call,
    Candidate,
    Capability,
    Conversion,
    Generation,
    Identity,
    Perplexity,
    Position,
    Prompt,
    Score,
    Trouble,
    TroubleKind,
)
from trialbench.ground_truth.suites.results import Row, Status, count, exit_code
from trialbench.ground_truth.suites.table import SUITES, declared, judge, suite

TINY = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth" / "roster.yml"
ORIGINAL = {
    "canary": 12, "token": 24, "drift": 12, "roundtrip": 6, "ppl": 9, "inspect": 6, "validate": 6, "tensors": 6,
    "lint": 6, "selftest": 6, "tree": 6, "oracle-id": 6, "hex": 6, "debug": 6, "bench": 6, "qa": 6, "diff": 3,
    "rosetta-diff": 3, "parity-gpu": 3, "list": 1,
}  # fmt: skip


def test_the_original_roster_and_runtime_declare_139_rows() -> None:
    rows = declared(load_roster("original"), "apr")
    assert Counter(row.suite for row in rows) == ORIGINAL
    assert len(rows) == len(set(rows)) == 139


def test_the_tiny_roster_declares_its_rows_before_anything_is_asked() -> None:
    rows = declared(load_roster(str(TINY)), "llama.cpp")
    numbers = Counter(row.suite for row in rows)
    assert (numbers["token"], numbers["canary"], numbers["drift"], numbers["ppl"]) == (72, 36, 12, 21)
    assert (numbers["forced"], numbers["second"], numbers["tokenizer"], numbers["template"]) == (18, 72, 3, 9)
    assert len(rows) == len(set(rows))
    assert {row.model for row in declared(load_roster(str(TINY)), "llama.cpp", ["token"], ["tiny-gpt2"])} == {
        "tiny-gpt2"
    }
    with pytest.raises(UsageError, match="--suite: no suite 'x'; there are: canary, token"):
        declared(load_roster(str(TINY)), "llama.cpp", ["x"])


def test_a_roster_with_one_file_has_no_pairs() -> None:
    roster = load_roster("original")
    lonely = replace(roster, models=tuple(replace(model, quants={"apr": ("fp16",)}) for model in roster.models))
    numbers = Counter(row.suite for row in declared(lonely, "apr"))
    assert numbers["drift"] == numbers["diff"] == 0
    assert numbers["tree"] == 3
    assert declared(replace(roster, models=tuple(replace(m, quants={}) for m in roster.models)), "apr") == []


# --- A runtime whose every answer is set by the test ------------------------------------------------------------------

SURE = (Candidate(1, math.log(0.98)), Candidate(2, math.log(0.02)))
TOKENS = (1,) * 8
GOOD = Generation(TOKENS, " text", prompt_tokens=3, positions=(Position(1, SURE),) * 8, call=Call(), tokens_per_s=5.0)


class LoadedModel:
    def __init__(self, runtime: Fake, artifact: Artifact) -> None:
        self.runtime, self.artifact = runtime, artifact
        self.trouble: Trouble | None = runtime.load_trouble

    def __enter__(self) -> LoadedModel:
        self.runtime.opened.append(self.artifact.quant)
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:
        return self.runtime.said(self.artifact)

    def score(self, prompt: Prompt, forced: Any, *, top: int) -> Score:
        got = self.runtime.said(self.artifact)
        trouble = got.trouble or self.runtime.score_trouble
        return Score(None if trouble else got.positions, got, trouble=trouble)

    def tokenize(self, text: str, *, add_special: bool) -> Answer:
        return self.runtime.tokens(text, add_special)

    def render(self, messages: Any) -> Answer:
        return self.runtime.rendered


class Fake:
    identity = Identity("llama.cpp", "1")
    formats = frozenset({"gguf"})

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.load_trouble: Trouble | None = None
        self.score_trouble: Trouble | None = None
        self.by_quant: dict[str, Generation] = {}
        self.generation = GOOD
        self.rendered = Answer("rendered", Call())
        self.tokens: Callable[[str, bool], Answer] = lambda text, special: Answer([len(text)], Call())
        self.answer = Answer(None, Call())
        self.over: dict[str, Perplexity] = {}
        self.perplexities = Perplexity(2.0, 0.1, 100, kl_mean=0.01, same_top=0.99)
        self.refused: dict[Capability, str] = {}
        self.conversions: dict[Capability, Conversion] = {}

    def said(self, artifact: Artifact) -> Generation:
        return self.by_quant.get(artifact.quant, self.generation)

    def declined(self, capability: Capability, artifact: Artifact | None = None) -> str | None:
        return self.refused.get(capability)

    def open(self, artifact: Artifact, *, kv_type: str = "f32") -> LoadedModel:
        return LoadedModel(self, artifact)

    def probe(self, capability: Capability, artifact: Artifact, other: Any = None, **more: Any) -> Answer:
        return self.answer

    def perplexity(self, artifact: Artifact, text: Path, *, context: int, reference: Any = None) -> Perplexity:
        return self.over.get(artifact.quant, self.perplexities)

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        made = Artifact(target, source.model, "hf" if capability is Capability.EXPORT else "gguf", quant)
        return self.conversions.get(capability, Conversion(made, Call()))

    def close(self) -> None:
        pass


class Table:
    """A roster with its oracles on disk, a runtime, and `status(row)`."""

    def __init__(self, roster: Roster, work: Path) -> None:
        names = ("f16", "f32", "Q8_0", "Q4_0")
        # Stated for 32 tokens; of the eight of this test, two may differ.
        bounds = {f"token-{name}": Tolerance(f"token-{name}", 8, "", "") for name in names}
        for name in names:
            bounds[f"agreement-{name}"] = Tolerance("", 0.9, "", "")
            bounds[f"kl-{name}"] = Tolerance("", 0.1, "", "")
            bounds[f"tensor-{name}"] = Tolerance("", 0.001, "", "")
        for name, value in (("drift", 1), ("ppl-gap", 0.5), ("hex-std", 0), ("selftest-stages", 2), ("bench-speed", 0),
                            ("qa-gates", 2), ("second", 1.0)):  # fmt: skip
            bounds[name] = Tolerance(name, value, "", "")
        models = tuple(replace(one, quants={"llama.cpp": ("f32", "f16", "Q8_0", "Q4_0")}) for one in roster.models)
        self.roster = replace(roster, tolerances=bounds, models=models)
        self.workspace = Workspace(work, self.roster)
        self.runtime = Fake()
        self.replaced: dict[tuple[str, str], Artifact] = {}
        for model in models:
            for prompt in roster.prompts.prompts:
                self.oracle(model.slug, prompt.name)
        write_tokenizer(
            tokenizer_path(roster.oracle, models[0].slug),
            TokenizerOracle(
                models[0].slug, "5", {"one": "abc", "blank": " a"}, {"one": (3,), "blank": (2,)},
                {"one": (3,), "blank": (2,)}, {"hello": "rendered"}, {},
            ),
        )  # fmt: skip

    def oracle(self, slug: str, prompt: str, /, *, quant: str | None = None, **change: Any) -> None:
        base = Oracle(
            model=slug, model_slug=slug, prompt="abc", prompt_file=f"{prompt}.txt", transformers_version="5",
            torch_version="2", tokens=TOKENS, text=" text", max_new_tokens=8, prompt_ids=(7, 8, 9), eos_ids=(99,),
            top=(SURE,) * 8,
        )  # fmt: skip
        write_oracle(oracle_path(self.roster.oracle if hasattr(self, "roster") else Path(), slug, prompt, quant=quant),
                     replace(base, **change))  # fmt: skip

    def judge(self, name: str, quant: str = "f16", other: str = "", prompt: str = "one", model: int = 0) -> Any:
        prompt = prompt if name in ("canary", "token", "drift", "second", "template") else ""
        row = Row(name, self.roster.models[model].slug, quant, other, prompt)
        return judge(row, Evidence(self.workspace, self.runtime, replaced=self.replaced))

    def status(self, name: str, **more: Any) -> Status:
        found: Status = self.judge(name, **more).status
        return found


@pytest.fixture
def on(tmp_path: Path, roster_file: Path) -> Table:
    return Table(load_roster(str(roster_file)), tmp_path / "work")


TROUBLES = [
    (TroubleKind.PANIC, Status.FAIL),
    (TroubleKind.REFUSED, Status.FAIL),
    (TroubleKind.EMPTY, Status.FAIL),
    (TroubleKind.ABSENT, Status.INCONCLUSIVE),
    (TroubleKind.TIMEOUT, Status.INCONCLUSIVE),
    (TroubleKind.UNREADABLE, Status.INCONCLUSIVE),
    (TroubleKind.MISSING_FIELD, Status.INCONCLUSIVE),
    (TroubleKind.NOT_BUILT, Status.INCONCLUSIVE),
]


def test_a_good_answer_passes(on: Table) -> None:
    for name in ("canary", "token", "forced", "template", "tokenizer"):
        assert on.status(name, prompt="hello" if name == "template" else "one") is Status.PASS, name
    assert on.status("drift", quant="Q8_0", other="Q4_0") is Status.PASS
    assert on.status("roundtrip") is Status.PASS


@pytest.mark.parametrize(("kind", "expected"), TROUBLES)
def test_trouble_is_never_a_pass(on: Table, kind: TroubleKind, expected: Status) -> None:
    trouble = Trouble(kind, "why")
    on.runtime.load_trouble = trouble
    for name in ("canary", "token", "forced", "roundtrip", "tokenizer"):
        assert on.status(name) is expected
    assert on.status("template", prompt="hello") is expected
    assert on.status("drift", quant="Q8_0", other="Q4_0") is Status.INCONCLUSIVE
    on.runtime.load_trouble = None
    on.runtime.generation = Generation(None, None, trouble=trouble)
    for name in ("canary", "token", "forced", "roundtrip"):
        assert on.status(name) is expected
    on.runtime.generation = GOOD
    on.runtime.score_trouble = trouble
    assert on.status("forced") is expected
    on.runtime.tokens = lambda text, special: Answer(None, Call(), trouble)
    on.runtime.rendered = Answer(None, Call(), trouble)
    assert on.status("tokenizer") is expected
    assert on.status("template", prompt="hello") is expected
    on.runtime.perplexities = Perplexity(None, trouble=trouble)
    assert on.status("ppl") is on.status("ppl", quant="Q8_0", other="Q4_0") is expected
    on.runtime.answer = Answer(None, Call(), trouble)
    for one in ("inspect", "validate", "tensors", "hex", "diff", "rosetta-diff"):
        assert on.status(one, other="Q4_0") is expected
    on.runtime.conversions = {Capability.EXPORT: Conversion(None, Call(), trouble)}
    assert on.status("roundtrip") is expected
    on.runtime.conversions = {Capability.IMPORT_HF: Conversion(None, Call(), trouble)}
    assert on.status("roundtrip") is expected


def test_tokens_within_and_beyond_the_bound(on: Table) -> None:
    on.runtime.generation = replace(GOOD, tokens=(1, 1, 1, 1, 1, 1, 5, 5))
    close = on.judge("token")
    assert (close.status, close.evidence["mismatches"], close.evidence["first_divergence"]) == (Status.PASS, 2, 6)
    assert on.status("canary") is Status.FAIL
    on.runtime.generation = replace(GOOD, tokens=(1, 1, 5, 5, 5, 5, 5, 5))
    far = on.judge("token")
    assert far.status is Status.FAIL
    # The distributions are the oracle's, so what was generated is neither a tie nor drift.
    assert far.cause.startswith("defect: m-llama f16")
    assert "--suite token --model m-llama" in far.reproduce
    on.runtime.generation = replace(GOOD, tokens=(*TOKENS, 99))
    dropped = on.judge("token")
    assert (dropped.status, dropped.evidence["dropped_eos"]) == (Status.PASS, ["runtime"])
    on.runtime.generation = replace(GOOD, tokens=(*TOKENS, 5, 5, 5, 5))
    assert on.status("token") is Status.FAIL
    on.runtime.generation = replace(GOOD, tokens=())
    assert on.status("token") is on.status("canary") is on.status("roundtrip") is Status.INCONCLUSIVE


def test_a_wrapped_prompt_is_inconclusive(on: Table) -> None:
    on.runtime.generation = replace(GOOD, prompt_tokens=34, tokens=(5,) * 8)
    found = on.judge("token")
    assert found.status is Status.INCONCLUSIVE
    assert "not the same prompt: the runtime continued one of 34 tokens" in found.says
    on.runtime.generation = replace(GOOD, prompt_ids=(7, 8, 8))
    assert on.status("canary") is Status.INCONCLUSIVE
    on.runtime.generation = replace(GOOD, prompt_ids=(7, 8, 9), prompt_tokens=None)
    assert on.status("canary") is Status.PASS
    on.runtime.generation = replace(GOOD, prompt_tokens=None)
    assert on.status("token") is Status.INCONCLUSIVE
    on.runtime.generation = GOOD
    on.oracle("m-llama", "one", prompt="unheard of", prompt_ids=None)
    assert on.status("token") is on.status("forced") is Status.INCONCLUSIVE


def test_an_oracle_of_the_original_tool_compares_once_the_tokenizer_knows_its_prompt(on: Table) -> None:
    on.oracle("m-llama", "one", prompt_ids=None, eos_ids=(), top=None, tokens=(*TOKENS, 99))
    on.runtime.generation = replace(GOOD, prompt_tokens=1)
    # Nothing says yet that 99 ends a sequence.
    assert on.judge("token").evidence["mismatches"] == 1
    config = on.workspace.folder(on.roster.models[0]) / "config.json"
    config.write_text(config.read_text().replace("{", '{"eos_token_id": 99, ', 1))
    found = on.judge("token")
    assert (found.evidence["mismatches"], found.evidence["dropped_eos"]) == (0, ["oracle"])
    on.runtime.generation = GOOD
    assert "not the same prompt" in on.judge("token").says
    tokenizer_path(on.roster.oracle, "m-llama").unlink()
    assert "does not say which token ids its prompt has" in on.judge("token").says


def test_text_and_tokens_are_told_apart(on: Table) -> None:
    for text, says in (("text", "lost its leading white space"), (" text ", "the text is another")):
        on.runtime.generation = replace(GOOD, text=text)
        found = on.judge("canary")
        assert found.status is Status.FAIL
        assert says in found.says
    on.runtime.generation = replace(GOOD, text=None)
    assert on.status("canary") is Status.INCONCLUSIVE


def test_a_missing_oracle_is_inconclusive(on: Table) -> None:
    oracle_path(on.roster.oracle, "m-llama", "one").unlink()
    for name in ("canary", "token", "forced"):
        found = on.judge(name)
        assert found.status is Status.INCONCLUSIVE
        assert "trialbench oracle" in found.says
    assert on.status("tokenizer", model=1) is on.status("template", model=1) is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("change", "said"), [({"precision": "bf16"}, "m-llama in bf16"), ({"model_slug": "x"}, "x in")]
)
def test_an_oracle_in_the_wrong_place_is_none(on: Table, change: dict[str, Any], said: str) -> None:
    on.oracle("m-llama", "one", **change)
    found = on.judge("token")
    assert found.status is Status.INCONCLUSIVE
    assert f"one.json: expected an oracle of m-llama in fp32, found {said}" in found.says


def test_an_oracle_of_another_model_is_none(on: Table) -> None:
    folder = on.workspace.folder(on.roster.models[0])
    on.oracle("m-llama", "one", files=folder_hashes(folder))
    assert on.status("token") is Status.PASS
    # What has no say in a continuation may change.
    (folder / "README.json").write_text("{}")
    assert on.status("token") is Status.PASS
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("10000.0", "500000.0"))
    found = on.judge("token")
    assert found.status is Status.INCONCLUSIVE
    assert "one.json: was made from other files (config.json) than " in found.says


def test_an_oracle_is_used_only_for_the_files_that_it_was_made_of(on: Table) -> None:
    folder = on.workspace.folder(on.roster.models[0])
    made_of = folder_hashes(folder)
    intact = {path.name: path.read_bytes() for path in folder.iterdir()}
    golden = tokenizer_path(on.roster.oracle, "m-llama")
    for kind, files, other, told in (
        (
            "token",
            made_of,
            ("model.safetensors", "weights.safetensors"),
            "other files (model.safetensors, weights.safetensors)",
        ),
        ("token", made_of, ("generation_config.json", ""), "other files (generation_config.json)"),
        ("token", {**made_of, "special_tokens_map.json": "a" * 64}, (), "other files (special_tokens_map.json)"),
        ("tokenizer", made_of, ("tokenizer_config.json", ""), "other files (tokenizer_config.json)"),
        ("template", made_of, ("chat_template.jinja", ""), "other files (chat_template.jinja)"),
        ("tokenizer", made_of, ("model.safetensors", "weights.safetensors"), ""),
        ("token", made_of, ("chat_template.jinja", ""), ""),
    ):
        on.oracle("m-llama", "one", files=files)
        write_tokenizer(golden, replace(read_tokenizer(golden), files=files))
        if other:
            old, new = other
            (folder / new).write_bytes(intact[old]) if new else (folder / old).write_bytes(b"{}")
            (folder / old).unlink() if new else None
        found = on.judge(kind, prompt="hello" if kind == "template" else "one")
        assert found.status is (Status.INCONCLUSIVE if told else Status.PASS), (kind, other, found.says)
        assert told in found.says
        for path in folder.iterdir():
            path.unlink()
        for name, content in intact.items():
            (folder / name).write_bytes(content)


def test_two_float_files_are_not_told_apart(on: Table) -> None:
    """They may hold the same numbers: those of a model that was published in half precision."""

    def pairs(*quants: str) -> list[tuple[str, str]]:
        models = tuple(replace(one, quants={"llama.cpp": quants}) for one in on.roster.models[:1])
        rows = declared(replace(on.roster, models=models), "llama.cpp", ["diff", "rosetta-diff"])
        return [(row.quant, row.other) for row in rows]

    assert pairs("f32", "f16", "Q8_0") == [("f16", "Q8_0"), ("f32", "f16")]
    assert pairs("f32", "f16") == [("f32", "f16")]
    assert pairs("Q8_0", "f32") == [("f32", "Q8_0"), ("f32", "Q8_0")]
    assert pairs("f16", "Q8_0", "Q4_0") == [("Q8_0", "Q4_0")] * 2
    assert pairs("Q4_K_M", "Q8_0") == [("Q4_K_M", "Q8_0")] * 2
    assert pairs("f16") == []


def test_drift_needs_its_token_checks(on: Table) -> None:
    on.runtime.by_quant["Q8_0"] = replace(GOOD, tokens=(1, 1, 1, 1, 1, 1, 5, 5))
    found = on.judge("drift", quant="Q8_0", other="Q4_0")
    assert found.status is Status.FAIL
    on.runtime.by_quant["Q4_0"] = replace(GOOD, tokens=(1, 1, 1, 1, 1, 1, 1, 5))
    assert on.status("drift", quant="Q8_0", other="Q4_0") is Status.PASS
    # There, drift passed twelve times while every token was wrong.
    on.runtime.generation = replace(GOOD, tokens=(5,) * 8)
    on.runtime.by_quant = {}
    assert on.status("drift", quant="Q8_0", other="Q4_0") is Status.INCONCLUSIVE


def test_distributions(on: Table) -> None:
    other = (Candidate(2, math.log(0.9)), Candidate(1, math.log(0.1)))
    on.runtime.generation = replace(GOOD, positions=(Position(2, other),) * 8)
    found = on.judge("forced")
    assert found.status is Status.FAIL
    assert found.evidence["agreement"] == 0
    assert found.evidence["disagreements"]["one"] == list(range(8))
    # Enough agreement and too much divergence is no pass either.
    vague = (Candidate(1, math.log(0.51)), Candidate(2, math.log(0.49)))
    on.runtime.generation = replace(GOOD, positions=(Position(1, vague),) * 8)
    assert on.status("forced") is Status.FAIL
    on.oracle("m-llama", "one", top=None)
    assert on.status("forced") is Status.INCONCLUSIVE


def test_the_second_oracle(on: Table) -> None:
    artifact = on.workspace.path(on.roster.models[0], "llama.cpp", "f16")
    assert on.status("second") is Status.INCONCLUSIVE
    on.oracle("m-llama", "one", quant="f16", files={"m.gguf": "a" * 64})
    assert on.status("second") is Status.PASS
    on.replaced["m-llama", "f16"] = Artifact(artifact, "m-llama", "gguf", "f16", "b" * 64)
    assert on.status("second") is Status.INCONCLUSIVE
    on.replaced["m-llama", "f16"] = Artifact(artifact, "m-llama", "gguf", "f16", "a" * 64)
    on.runtime.generation = replace(GOOD, tokens=(1, 1, 5, 5, 5, 5, 5, 5))
    found = on.judge("second")
    assert (found.status, found.evidence["first_divergence"]) == (Status.FAIL, 2)
    tie = (Candidate(1, math.log(0.51)), Candidate(2, math.log(0.49)))
    on.oracle("m-llama", "one", quant="f16", files={"m.gguf": "a" * 64}, top=(SURE, SURE, tie, *(SURE,) * 5))
    assert "at a near tie" in on.judge("second").says
    on.runtime.load_trouble = Trouble(TroubleKind.PANIC, "x")
    assert on.status("second") is Status.FAIL


def test_a_second_oracle_of_another_file_without_a_record(on: Table) -> None:
    path = on.workspace.path(on.roster.models[0], "llama.cpp", "f16")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a file that was copied here")
    on.oracle("m-llama", "one", quant="f16", files={"m.gguf": "a" * 64})
    assert "made of another file" in on.judge("second").says
    on.oracle("m-llama", "one", quant="f16", files={"m.gguf": sha256(path)})
    assert on.status("second") is Status.PASS


def test_texts_that_the_tokenizers_oracle_does_not_know_are_not_passed(on: Table) -> None:
    assert on.status("tokenizer") is Status.PASS
    prompts = on.roster.prompts
    more = (*prompts.tokenizer, PromptText("emoji", "x"), PromptText("blank", "another"))
    chats = (*prompts.chats, Chat("new", prompts.chats[0].messages))
    on.roster = replace(on.roster, prompts=replace(prompts, tokenizer=more, chats=chats))
    on.workspace.roster = on.roster
    found = on.judge("tokenizer")
    assert (found.status, found.says) == (
        Status.INCONCLUSIVE,
        "the tokenizer's oracle does not know the texts that are asked (emoji, blank): `trialbench oracle`",
    )
    assert on.status("template", prompt="hello") is Status.PASS
    assert "does not know the chat new" in on.judge("template", prompt="new").says
    # Whatever it does not know, what is wrong is wrong.
    on.runtime.tokens = lambda text, special: Answer([9], Call())
    assert on.status("tokenizer") is Status.FAIL


def test_known_differences_of_a_tokenizer_are_shown_and_not_judged(on: Table) -> None:
    on.runtime.tokens = lambda text, special: Answer([2] if text == " a" else [4], Call())
    found = on.judge("tokenizer")
    assert (found.status, list(found.evidence["wrong"])) == (Status.FAIL, ["one", "one+special"])
    on.runtime.tokens = lambda text, special: Answer([3] if text == "abc" else [4], Call())
    assert on.status("tokenizer") is Status.FAIL
    texts = tuple(replace(one, known={"llama.cpp/m-llama": "because"}) for one in on.roster.prompts.tokenizer)
    on.workspace.roster = replace(on.roster, prompts=replace(on.roster.prompts, tokenizer=texts))
    found = on.judge("tokenizer")
    assert found.status is Status.PASS
    assert found.evidence["known"] == {"blank": "because"}
    assert "known to differ: blank" in found.says


def test_templates(on: Table) -> None:
    on.runtime.rendered = Answer("[INST]", Call())
    assert on.status("template", prompt="hello") is Status.FAIL
    assert on.status("template", prompt="unheard") is Status.INCONCLUSIVE
    path = tokenizer_path(on.roster.oracle, "m-llama")
    write_tokenizer(path, replace(read_tokenizer(path), chats={}))
    assert on.status("template", prompt="hello") is Status.NOT_APPLICABLE


def test_round_trips(on: Table) -> None:
    class Forgetful(Fake):
        def said(self, artifact: Artifact) -> Generation:
            return GOOD if "imported" not in artifact.path.name else self.generation

    on.runtime = Forgetful()
    for bad, expected in (
        (replace(GOOD, tokens=(2,) * 8), Status.FAIL),
        (replace(GOOD, tokens=None), Status.INCONCLUSIVE),
        (replace(GOOD, prompt_tokens=9), Status.INCONCLUSIVE),
        (replace(GOOD, prompt_tokens=None), Status.INCONCLUSIVE),
        (Generation(None, None, trouble=Trouble(TroubleKind.PANIC, "x")), Status.FAIL),
    ):
        on.runtime.generation = bad
        assert on.status("roundtrip") is expected
    # Neither says what it continued: the same tokens, and nothing that says of the same prompt.
    on.runtime = Fake()
    on.runtime.generation = replace(GOOD, prompt_tokens=None)
    assert on.status("roundtrip") is Status.INCONCLUSIVE

    class Unloadable(Fake):
        def open(self, artifact: Artifact, *, kv_type: str = "f32") -> LoadedModel:
            loaded = LoadedModel(self, artifact)
            if "imported" in artifact.path.name:
                loaded.trouble = Trouble(TroubleKind.REFUSED, "not this one")
            return loaded

    on.runtime = Unloadable()
    assert on.judge("roundtrip").says == "the file that came back: not this one"


def test_perplexity(on: Table) -> None:
    assert on.status("ppl") is Status.PASS
    on.runtime.perplexities = Perplexity(3.0, None, 100)
    assert on.status("ppl") is Status.FAIL
    on.runtime.perplexities = Perplexity(2.0, 0.1, 100)
    on.runtime.over = {"Q4_0": Perplexity(2.4, 0.1, 100)}
    assert on.status("ppl", quant="Q8_0", other="Q4_0") is Status.PASS
    on.runtime.over = {"Q4_0": Perplexity(2.6, 0.1, 100)}
    assert on.status("ppl", quant="Q8_0", other="Q4_0") is Status.FAIL
    on.runtime.over = {"Q4_0": Perplexity(2.0, 0.1, 99)}
    assert on.status("ppl", quant="Q8_0", other="Q4_0") is Status.INCONCLUSIVE
    on.runtime.perplexities = Perplexity(None)
    assert on.status("ppl") is Status.INCONCLUSIVE
    on.workspace.roster = replace(on.roster, prompts=replace(on.roster.prompts, perplexity_text=None))
    assert on.status("ppl") is Status.INCONCLUSIVE


def test_weights(on: Table, tmp_path: Path) -> None:
    from trialbench.ground_truth.model.convert import Changes, to_gguf

    model = on.roster.models[0]
    path = on.workspace.path(model, "llama.cpp", "f16")
    assert on.status("weights") is Status.INCONCLUSIVE
    assert model.folder is not None
    to_gguf(model.folder, path, "f16")
    good = on.judge("weights")
    assert good.status is Status.PASS
    assert len(good.evidence["tensors"]) == 20
    damaged = Changes(tensor=lambda name, value: value * 2 if name == "blk.0.ffn_up.weight" else value)
    to_gguf(model.folder, path, "f16", changes=damaged)
    bad = on.judge("weights")
    assert bad.status is Status.FAIL
    assert "blk.0.ffn_up.weight (F16) off by 1; 1 beyond the bound" in bad.says
    path.write_bytes(path.read_bytes()[:-2000])
    assert on.status("weights") is Status.FAIL
    reshaped = Changes(tensor=lambda name, value: value.T if name == "blk.0.ffn_up.weight" else value)
    to_gguf(model.folder, path, "f16", changes=reshaped)
    assert "of another shape" in on.judge("weights").says
    (model.folder / "config.json").unlink()
    assert on.status("weights") is Status.INCONCLUSIVE


INSPECTED = {"architecture": "Llama", "num_layers": 2, "num_heads": 2, "hidden_size": 8, "vocab_size": 12}
BY_KEY = {"llama.block_count": "2", "llama.attention.head_count": "2", "llama.embedding_length": "8"}
CHECKS = [{"name": "a", "status": "PASS"}]
STAGES = [{"name": "a", "status": "PASS"}, {"name": "b", "status": "PASS"}, {"name": "c", "status": "SKIP"}]
GATE = {"name": "g", "passed": True, "skipped": False}
SKIPPED = {"name": "s", "passed": False, "skipped": True}
TREE = {"name": "m", "children": [{"name": "0", "children": []}, {"name": "1", "children": [{"name": "q"}]}]}
NAMES = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
ROSETTA = {"layout_mismatches": 0, "missing_in_a": 0, "missing_in_b": 0}


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ("inspect", INSPECTED, Status.PASS),
        ("inspect", {"architecture": "llama", "metadata": BY_KEY}, Status.PASS),
        ("inspect", {**INSPECTED, "num_heads": 4}, Status.FAIL),
        ("inspect", {**INSPECTED, "vocab_size": 0}, Status.FAIL),
        ("inspect", {"architecture": "llama"}, Status.INCONCLUSIVE),
        ("inspect", {**INSPECTED, "num_layers": []}, Status.INCONCLUSIVE),
        ("validate", {"checks": CHECKS, "passed": True}, Status.PASS),
        ("validate", {"checks": [], "passed": True}, Status.FAIL),
        ("validate", {"checks": [{"name": "a", "status": "FAIL"}], "passed": True}, Status.FAIL),
        ("validate", {"checks": CHECKS, "passed": "yes"}, Status.INCONCLUSIVE),
        ("tensors", {"tensors": NAMES, "tensor_count": 3}, Status.PASS),
        ("tensors", {"tensors": NAMES, "tensor_count": 4}, Status.FAIL),
        ("tensors", {"tensors": [], "tensor_count": 0}, Status.FAIL),
        ("tensors", {"tensors": [], "tensor_count": "0"}, Status.INCONCLUSIVE),
        ("tensors", {"tensors": NAMES, "tensor_count": True}, Status.INCONCLUSIVE),
        # A field that is there and empty was promised and not given; one that is missing was not promised.
        ("tensors", {"tensors": None, "tensor_count": 0}, Status.FAIL),
        ("inspect", {**INSPECTED, "architecture": ""}, Status.FAIL),
        ("inspect", {**INSPECTED, "num_heads": None}, Status.FAIL),
        ("inspect", {**INSPECTED, "checksum_valid": False}, Status.FAIL),
        ("inspect", {**INSPECTED, "valid": False}, Status.FAIL),
        ("validate", {"checks": CHECKS, "passed": None}, Status.FAIL),
        ("validate", {"checks": CHECKS, "passed": True, "content_total_nan": 3}, Status.FAIL),
        ("validate", {"checks": CHECKS, "passed": True, "content_passed": False}, Status.FAIL),
        ("validate", {"checks": {"a": 1}, "passed": True}, Status.INCONCLUSIVE),
        ("hex", [{"name": "blk.0.attn_q.weight", "stats": {"std": None}}], Status.FAIL),
        ("bench", {"tokens_per_second": None}, Status.FAIL),
        ("bench", {"tokens_per_second": 5.0, "passed": False}, Status.FAIL),
        ("qa", {"gates": [GATE, {**GATE, "passed": None}]}, Status.FAIL),
        ("diff", {"identical": False, "difference_count": True}, Status.INCONCLUSIVE),
        ("lint", {"error_count": 0, "warn_count": 3, "passed": True}, Status.PASS),
        ("lint", {"error_count": 1, "warn_count": 0, "passed": True}, Status.FAIL),
        ("selftest", {"stages": STAGES}, Status.PASS),
        ("selftest", {"stages": STAGES[1:]}, Status.FAIL),
        # A stage that did not run is none that failed; one that failed is, however many passed.
        ("selftest", {"stages": [*STAGES, {"name": "z", "status": "SKIP"}]}, Status.PASS),
        ("selftest", {"stages": [*STAGES, {"name": "z", "status": "FAIL"}]}, Status.FAIL),
        ("bench", {"tokens_per_second": 10**400}, Status.INCONCLUSIVE),
        ("bench", {"tokens_per_second": 1e308}, Status.INCONCLUSIVE),
        ("tree", TREE, Status.PASS),
        ("tree", {"name": "m"}, Status.FAIL),
        ("tree", {"name": "m", "children": [{"name": "0"}, {"name": "5"}]}, Status.FAIL),
        ("tree", {"name": "m", "children": {"0": 1}}, Status.INCONCLUSIVE),
        ("tree", {"children": []}, Status.INCONCLUSIVE),
        ("oracle-id", {"format": {"architecture": "LLAMA"}}, Status.PASS),
        ("oracle-id", {"architecture": "bert"}, Status.FAIL),
        ("hex", [{"name": "blk.0.attn_q.weight", "stats": {"std": 0.1}}], Status.PASS),
        ("hex", [{"name": "blk.0.attn_q.weight", "stats": {"std": 0}}], Status.FAIL),
        ("hex", [{"name": "blk.0.attn_q.weight", "stats": {"std": float("nan")}}], Status.INCONCLUSIVE),
        # An answer about another tensor than the one that was asked about.
        ("hex", [{"name": "blk.1.attn_q.weight", "stats": {"std": 0.1}}], Status.INCONCLUSIVE),
        ("hex", [], Status.INCONCLUSIVE),
        ("debug", {"health": "OK"}, Status.PASS),
        ("debug", {"health": "bad"}, Status.FAIL),
        ("bench", {"tokens_per_second": 5.0}, Status.PASS),
        ("bench", {"tokens_per_second": 0}, Status.FAIL),
        ("bench", {"tokens_per_second": True}, Status.INCONCLUSIVE),
        ("qa", {"gates": [GATE, GATE, SKIPPED]}, Status.PASS),
        ("qa", {"gates": [GATE, SKIPPED, SKIPPED]}, Status.FAIL),
        ("qa", {"gates": [GATE, GATE, {**GATE, "passed": False}]}, Status.FAIL),
        ("diff", {"identical": False, "difference_count": 2}, Status.PASS),
        ("diff", {"identical": True, "difference_count": 0}, Status.FAIL),
        ("rosetta-diff", ROSETTA, Status.PASS),
        ("rosetta-diff", {**ROSETTA, "layout_mismatches": 1}, Status.FAIL),
        ("parity-gpu", {"passed": True}, Status.PASS),
        ("parity-gpu", {"passed": False}, Status.FAIL),
        ("list", {"models": [], "total": 0}, Status.PASS),
        ("list", {"models": [], "total": 1}, Status.FAIL),
        ("list", {"models": []}, Status.INCONCLUSIVE),
        ("list", {"models": 5}, Status.INCONCLUSIVE),
    ],
)
def test_answers_about_files(on: Table, name: str, payload: Any, expected: Status) -> None:
    on.runtime.answer = Answer(payload, Call())
    assert on.status(name, other="Q4_0") is expected
    # A payload that says yes does not outweigh an exit code that says no.
    on.runtime.answer = Answer(payload, Call(), Trouble(TroubleKind.REFUSED, "exit code 5"))
    if expected is Status.PASS:
        assert on.status(name, other="Q4_0") is Status.FAIL
    on.runtime.answer = Answer(payload, Call(), Trouble(TroubleKind.PANIC, "exit code 101"))
    assert on.status(name, other="Q4_0") is Status.FAIL


@pytest.mark.parametrize("payload", [None, 5, "x", [], {}, [None], {"checks": 5}])
def test_no_answer_about_a_file_passes_by_being_odd(on: Table, payload: Any) -> None:
    on.runtime.answer = Answer(payload, Call())
    for one in SUITES:
        if one.name in ("inspect", "validate", "tensors", "lint", "selftest", "tree", "oracle-id", "hex", "debug",
                        "bench", "qa", "diff", "rosetta-diff", "parity-gpu", "list"):  # fmt: skip
            assert on.status(one.name, other="Q4_0") is Status.INCONCLUSIVE, one.name


def test_what_a_runtime_declines_is_not_applicable_by_name(on: Table) -> None:
    on.runtime.refused = {Capability.LINT: "no such command", Capability.SCORE: "gives no log-probabilities"}
    assert (on.judge("lint").status, on.judge("lint").says) == (Status.NOT_APPLICABLE, "no such command")
    assert on.status("forced") is Status.NOT_APPLICABLE
    # Without scores the continuation is asked for by itself.
    assert on.status("token") is Status.PASS
    on.runtime.refused = dict.fromkeys(Capability, "nothing at all")
    assert all(on.status(one.name) is Status.NOT_APPLICABLE for one in SUITES if one.needs)


def test_rows_that_prove_nothing_are_counted_apart(on: Table) -> None:
    assert "apr" in suite("debug").constant
    on.runtime.identity = Identity("apr", "1")
    on.runtime.answer = Answer({"health": "OK"}, Call())
    silent = on.judge("debug")
    assert silent.proves_nothing
    good = on.judge("token")
    counts = count([silent, good])
    assert (counts.declared, counts.probative, counts.of(Status.PASS)) == (2, 1, 1)
    # Nothing proved is no success.
    assert exit_code([silent]) == exit_code([]) == 3
    assert exit_code([silent, good]) == 0
    assert exit_code([good, replace(good, status=Status.INCONCLUSIVE)]) == 3
    assert exit_code([replace(good, status=Status.INCONCLUSIVE), replace(good, status=Status.FAIL)]) == 1


def test_a_file_is_loaded_once_for_all_its_rows(on: Table) -> None:
    evidence = Evidence(on.workspace, on.runtime)
    rows = declared(on.roster, "llama.cpp", ["canary", "token", "drift", "forced"])
    assert len(rows) == 40
    for row in rows:
        judge(row, evidence)
    assert len(on.runtime.opened) == evidence.loads == 8


def test_hex_asks_for_the_tensor_by_the_formats_own_name(on: Table) -> None:
    asked: list[str] = []

    class Noting(Fake):
        def probe(self, capability: Capability, artifact: Artifact, other: Any = None, **more: Any) -> Answer:
            asked.append(more["tensor"])
            return Answer([{"name": "x", "stats": {"std": 1}}], Call())

    on.runtime = Noting()
    for model in (0, 1):
        on.judge("hex", model=model)
    on.replaced = {(slug, "f16"): Artifact(Path("x.apr"), slug, "apr", "f16") for slug in ("m-llama", "m-gpt2")}
    for model in (0, 1):
        on.judge("hex", model=model)
    assert asked == [
        "blk.0.attn_q.weight",
        "blk.0.attn_qkv.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.q_proj.weight",
    ]
    assert json.dumps(asked)


def test_nothing_passes_that_is_said_of_a_file_that_was_changed(on: Table, tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_text("whole")
    slug = on.roster.models[0].slug
    made = Artifact(path, slug, "gguf", "f16", sha256(path))
    on.replaced = {(slug, "f16"): made}
    assert on.status("token") is on.status("canary") is Status.PASS
    path.write_text("damaged")
    for name in ("token", "canary", "forced", "ppl", "tokenizer"):
        found = on.judge(name)
        assert (found.status, "file.gguf was changed after it was made" in found.says) == (Status.FAIL, True)
        assert found.cause == f"changed since it was made: {slug} f16"
        # Converting again would fix it.
        assert "trialbench check" in found.reproduce
    # As the second of two files, too; what failed or could not be decided stays what it was.
    assert on.status("drift", quant="Q8_0", other="f16") is Status.FAIL
    on.runtime.load_trouble = Trouble(TroubleKind.TIMEOUT, "late")
    assert on.judge("token").says == "late"
    # Nothing was written down about it: nothing is known.
    on.runtime.load_trouble = None
    on.replaced = {(slug, "f16"): replace(made, sha256="")}
    assert on.status("token") is Status.PASS


def test_one_command_reproduces_a_row(on: Table) -> None:
    on.runtime.identity = Identity("llama.cpp", "1", {}, {"LLAMA_CPP_BIN": "/a b"})
    words = on.judge("token").reproduce
    assert words.startswith("LLAMA_CPP_BIN='/a b' trialbench ci --roster ")
    assert words.endswith(f"--work {on.workspace.root} --runtime llama.cpp --suite token --model m-llama")
    # Another folder of oracles than the roster's, and a roster that comes with the package.
    on.workspace.roster = replace(on.roster, oracle=Path("/elsewhere"))
    assert "--oracle /elsewhere --runtime" in on.judge("token").reproduce
    on.workspace.roster = replace(on.roster, path=load_roster("original").path)
    assert "ci --roster original --work" in on.judge("token").reproduce
    on.workspace.roster = replace(on.roster, path=Path("/gone.yml"))
    assert "ci --roster /gone.yml --work" in on.judge("token").reproduce


def test_what_was_printed_is_kept(on: Table) -> None:
    ran = Call(("apr", "inspect"), 5, "o" * 30_000, "error: no", 0.12345)
    on.runtime.answer = Answer(None, ran, Trouble(TroubleKind.REFUSED, "no"))
    kept = on.judge("inspect").evidence["call"]
    assert (kept["argv"], kept["exit_code"], kept["stderr"]) == (["apr", "inspect"], 5, "error: no")
    assert (len(kept["stdout"]), kept["seconds"]) == (20_000, 0.123)
    asked = Call(("llama-server",), request={"prompt": [1]})
    on.runtime.generation = replace(GOOD, call=asked)
    # A server's answer that passed is not kept: there are hundreds of them.
    assert "call" not in on.judge("token").evidence
    on.runtime.generation = replace(GOOD, call=asked, tokens=(5,) * 8)
    assert on.judge("token").evidence["call"]["argv"] == ["llama-server"]
