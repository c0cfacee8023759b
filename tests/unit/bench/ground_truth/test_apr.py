"""apr on recorded runs of the real 0.72.3: every row gets the status that a careful person would give it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from by_path import load
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples, some
from trialbench.cli import main
from trialbench.ground_truth.attribution.ladder import Step, climb
from trialbench.ground_truth.controls import apr as controls_apr
from trialbench.ground_truth.controls.run import run_controls, uncovered
from trialbench.ground_truth.evidence.observe import Evidence, own_perplexity
from trialbench.ground_truth.evidence.oracle_files import Oracle, oracle_path, write_oracle
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import PromptText, Roster, load_roster
from trialbench.ground_truth.model.weights import sha256
from trialbench.ground_truth.output.table import controls_table
from trialbench.ground_truth.runtimes.apr import Apr
from trialbench.ground_truth.runtimes.base import Answer, Artifact, Call, Capability, Prompt, Trouble, TroubleKind
from trialbench.ground_truth.runtimes.json_words import find_json, plain
from trialbench.ground_truth.runtimes.tools import RuntimeMissing
from trialbench.ground_truth.suites.results import Result, Row, Status
from trialbench.ground_truth.suites.table import declared, judge, suite

GROUND = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth"
STAND_IN = GROUND / "apr" / "apr"
PASS, FAIL, OPEN = Status.PASS, Status.FAIL, Status.INCONCLUSIVE
SUM, HELLO = "What is 2+2? Answer:", "Hello, my name is"


REPLAY = load(GROUND / "apr" / "replay.py")


def replayed(argv: Sequence[str], timeout_s: float) -> Call:
    """As the stand-in, without starting a process for it."""
    code, out, error = REPLAY.replay(list(argv[1:]))
    return Call(tuple(argv), code, out, error, 0.01)


class Bench:
    """Judges a row about a recorded file as if it were the roster's."""

    def __init__(self, work: Path) -> None:
        self.work = work
        base = load_roster(str(GROUND / "roster.yml"))
        # The recorded models are others than ours, of the same families.
        models = tuple(replace(one, heads=8, quants={"apr": ("int4", "int8", "f32")}) for one in base.models)
        self.roster = replace(base, models=models, oracle=work / "oracle")
        self.apr = Apr("apr", run=replayed)
        self.written: dict[str, Any] = {}

    def file(self, name: str, quant: str, slug: str) -> Artifact:
        """The recorded file `name`."""
        path = self.work / Path(name).name
        path.write_text(f"recorded: {name}\n")
        return Artifact(path, slug, path.suffix[1:], quant, parents=("hf", f"apr {quant}"))

    def rostered(self, line: str, oracle: str, count: int, **change: Any) -> Roster:
        """A roster of one prompt, and its oracle: what the recorded run `oracle` said, as far as `count` tokens."""
        said = json.loads(REPLAY.recorded(oracle)["stdout"])
        prompts = replace(self.roster.prompts, prompts=(PromptText("one", line),))
        wanted = {"line": line, "oracle": oracle, "count": count, **change}
        if self.written == wanted:
            return replace(self.roster, prompts=prompts)
        self.written = wanted
        for model in self.roster.models:
            golden = Oracle(
                model=model.name, model_slug=model.slug, prompt=line, prompt_file="one.txt", transformers_version="5",
                torch_version="2", tokens=tuple(said["tokens"][:count]), text=said["text"], max_new_tokens=count,
                prompt_ids=tuple(range(said["prompt_tokens"])), eos_ids=(508,),
            )  # fmt: skip
            write_oracle(oracle_path(self.work / "oracle", model.slug, "one"), replace(golden, **change))
        return replace(self.roster, prompts=prompts)

    def judge(
        self,
        name: str,
        file: str,
        *,
        other: str = "",
        line: str = SUM,
        oracle: str = "run-f32",
        count: int = 32,
        quant: str = "int8",
        apr: Apr | None = None,
        slug: str = "",
        was: str = "",
        **change: Any,
    ) -> Result:
        """One row about `file` (and `other`, as int4), whose hash `was` this when it was made."""
        slug = slug or next((f"tiny-{kind}" for kind in ("qwen2", "gpt2") if kind in file), "tiny-llama")
        roster = self.rostered(line, oracle, count, **change)
        replaced = {(slug, quant): replace(self.file(file, quant, slug), sha256=was)}
        if other:
            replaced[slug, "int4"] = self.file(other, "int4", slug)
        by_prompt = name in ("canary", "token", "drift")
        row = Row(name, slug, quant, "int4" if other else "", "one" if by_prompt else "")
        evidence = Evidence(Workspace(self.work / "w", roster), apr or self.apr, replaced=replaced)
        return judge(row, evidence)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- Every recorded run ---

EXPECTED: dict[str, list[str]] = yaml.safe_load((GROUND / "apr" / "expected.yml").read_text(encoding="utf-8"))
# The oracle of a recorded continuation: which run said it, and how many tokens of it were asked for.
ORACLES = {
    "run-f32-hello": ("run-f32-hello", 32), "run-f32-stream": ("run-f32-hello", 32), "tty-run": ("run-f32", 8),
    "corrupt-run": ("run-f32", 16), "run-chat-apr": ("run-f32", 8), "trunc-run": ("run-f32", 4),
    **{f"qwen2-run-{kind}": ("qwen2-run-int8", 8) for kind in ("int8", "int4", "rt")},
    **{f"gpt2-run-{kind}": ("qwen2-run-int8", 8) for kind in ("int8", "int4", "rt")},
}  # fmt: skip
FLOATS = ("run-f32", "run-f32-hello", "run-f32-stream")


def only(name: str) -> Apr:
    """apr that answers everything but its version with one recorded run."""
    run = REPLAY.recorded(name)

    def answer(argv: Sequence[str], timeout_s: float) -> Call:
        if "--version" in argv:
            return replayed(argv, timeout_s)
        if "-o" in argv and run["rc"] == 0:
            Path(argv[list(argv).index("-o") + 1]).write_text(f"recorded: {name}")
        return Call(tuple(argv), run["rc"], run["stdout"], run["stderr"], 0.01)

    return Apr("apr", run=answer)


def status_of(trouble: Trouble | None) -> tuple[Status, str]:
    """What trouble means, by the rule that all suites share."""
    if trouble is None:
        return PASS, ""
    failed = trouble.kind in (TroubleKind.PANIC, TroubleKind.REFUSED, TroubleKind.EMPTY)
    return FAIL if failed else OPEN, trouble.text


def recorded_status(bench: Bench, name: str, question: str) -> tuple[Status, str, bool]:
    """Status, reason, and whether it proves anything, of one recorded run."""
    apr, words = only(name), REPLAY.recorded(name)["argv"]
    if question == "version":
        return PASS, apr.identity.version, False
    if question == "make":
        source = Artifact(GROUND / "models" / "tiny-llama", "tiny-llama", "hf", "hf")
        made = apr.convert(Capability.IMPORT_HF, source, bench.work / "made.apr", "int8")
        assert (made.artifact is None) is not (bench.work / "made.apr").exists()
        return *status_of(made.trouble), False
    if question == "ask":
        return *status_of(apr.ask(words[1:], ("architecture",), 1.0).trouble), False
    if question == "list":
        roster = bench.rostered(SUM, "run-f32", 32)
        found = judge(Row("list", "tiny-llama"), Evidence(Workspace(bench.work / "w", roster), apr))
        return found.status, found.says, found.proves_nothing
    names = [word for word in words if word.endswith((".apr", ".gguf", ".safetensors"))] or ["m-int8.apr"]
    file = names[0].replace(".safetensors", ".apr").replace("/hf/", "/")
    # The family goes by the name; a second file is asked about as int4.
    file = file if words[0] == "apr" else "m-int8.apr"
    oracle, count = ORACLES.get(name, ("run-f32", 32))
    more: dict[str, Any] = {"oracle": oracle, "count": count, "quant": "f32" if name in FLOATS else "int8"}
    more["quant"] = "int4" if "int4" in name or name.endswith("-rt") or "q4" in name else more["quant"]
    if question in ("diff", "rosetta-diff"):
        more |= {"other": names[1], "quant": "int8"}
    if name.startswith(("trunc", "corrupt")):
        more["was"] = "0" * 64
    slug = next((f"tiny-{kind}" for kind in ("qwen2", "gpt2") if name.startswith(kind)), "tiny-llama")
    found = bench.judge(question, file, apr=only(name), slug=slug, **more)
    return found.status, found.says, found.proves_nothing


def test_the_table_has_every_recorded_run_once() -> None:
    assert list(EXPECTED) == [run["name"] for run in REPLAY.runs()]
    assert len(EXPECTED) == 151


@pytest.mark.parametrize("name", EXPECTED)
def test_each_recorded_run_gets_the_status_of_a_careful_person(bench: Bench, name: str) -> None:
    question, expected, words = EXPECTED[name]
    status, says, silent = recorded_status(bench, name, question)
    assert (status, words in says) == (Status(expected), True), says
    assert silent is (question in ("debug", "list"))


def test_a_damaged_file_passes_no_suite_that_proves_anything() -> None:
    damaged = {name: row for name, row in EXPECTED.items() if name.startswith(("trunc", "corrupt", "zero", "junk"))}
    assert len(damaged) == 21
    assert {row[0] for row in damaged.values() if row[1] == "PASS"} == {"debug"}


# What apr itself sees of damage, where nobody wrote down the file's hash: the suites that pass do not claim integrity.
SEEN: list[tuple[str, str, Status]] = [
    ("validate", "trunc.apr", FAIL),
    ("tensors", "trunc.apr", FAIL),
    ("selftest", "trunc.apr", FAIL),
    ("inspect", "trunc.apr", PASS),
    ("lint", "trunc.apr", PASS),
    ("selftest", "corrupt.apr", FAIL),
    ("validate", "corrupt.apr", PASS),
    ("inspect", "corrupt.apr", PASS),
    ("lint", "corrupt.apr", PASS),
    # What was not recorded is not known.
    ("validate", "never.apr", OPEN),
]


@pytest.mark.parametrize(("name", "file", "expected"), SEEN, ids=[f"{row[0]}-{row[1]}" for row in SEEN])
def test_without_a_hash_only_suites_that_vouch_for_nothing_pass_a_damaged_file(
    bench: Bench, name: str, file: str, expected: Status
) -> None:
    assert bench.judge(name, file).status is expected
    assert expected is not PASS or not suite(name).integrity or "apr" in suite(name).blind
    # The same suite with a runtime that looks at every value does vouch.
    assert suite("validate").integrity
    assert "llama.cpp" not in suite("validate").blind


def test_the_parity_of_a_file_of_its_own_needs_an_export(bench: Bench) -> None:
    assert "cuda feature required" in bench.judge("parity-gpu", "m-int8.apr").says
    found = bench.judge("parity-gpu", "gpt2-int4.apr")
    assert (found.status, "parity asks for a GGUF, and there is none" in found.says) == (OPEN, True)


def test_tokens(bench: Bench) -> None:
    same = bench.judge("token", "m-f32.apr", quant="f32")
    assert (same.status, same.evidence["mismatches"], same.evidence["compared"]) == (PASS, 0, 32)
    assert bench.judge("canary", "m-f32.apr", quant="f32").status is PASS
    four = bench.judge("token", "m-int4.apr", quant="int4")
    assert (four.status, four.evidence["first_divergence"]) == (FAIL, 5)
    # Sixteen times the same token, where the intact file says something: tokens, not a crash.
    broken = bench.judge("token", "corrupt.apr", count=16)
    assert (broken.status, broken.evidence["mismatches"]) == (FAIL, 16)
    refused = bench.judge("token", "gpt2-int8.apr", line=HELLO, oracle="run-f32-hello", count=8)
    assert refused.status is FAIL
    assert "not a dense float type" in refused.says


def test_text_without_its_white_space_says_so(bench: Bench) -> None:
    said = json.loads(REPLAY.recorded("run-f32-hello")["stdout"])["text"]
    more: dict[str, Any] = {"line": HELLO, "oracle": "run-f32-hello", "quant": "f32"}
    assert bench.judge("canary", "m-f32.apr", **more).status is PASS
    found = bench.judge("canary", "m-f32.apr", **more, text=f" {said}")
    assert (found.status, found.cause) == (FAIL, "text loses leading white space")


def test_a_missing_end_of_sequence_token_is_no_mismatch(bench: Bench) -> None:
    said = json.loads(REPLAY.recorded("run-int4")["stdout"])["tokens"]
    found = bench.judge("token", "m-int4.apr", quant="int4", tokens=(*said, 508))
    assert (found.status, found.evidence["dropped_eos"]) == (PASS, ["oracle"])
    # Any other token in its place is one.
    assert bench.judge("token", "m-int4.apr", quant="int4", tokens=(*said, 9)).evidence["mismatches"] == 1


@pytest.mark.parametrize("file", ["tiny/c1-f32.gguf", "tiny/c1-Q8_0.gguf"])
def test_a_wrapped_prompt_is_another_prompt(bench: Bench, file: str) -> None:
    for name in ("token", "canary"):
        found = bench.judge(name, file)
        assert found.status is OPEN
        assert "34 tokens, the oracle's has 14" in found.says


def test_pairs(bench: Bench) -> None:
    # Both differ from the oracle further than they may: nothing can be said about drift.
    assert bench.judge("drift", "m-int8.apr", other="m-int4.apr").status is OPEN
    assert bench.judge("ppl", "m-int8.apr", other="m-int4.apr").status is FAIL
    told = bench.judge("diff", "m-int8.apr", other="m-int4.apr")
    assert (told.status, "18 differences" in told.says) == (PASS, True)
    # A tool that finds two files the same where one is damaged.
    assert bench.judge("rosetta-diff", "m-int8.apr", other="m-int4.apr").status is PASS
    for kind in ("qwen2", "gpt2"):
        assert bench.judge("diff", f"{kind}-int8.apr", other=f"{kind}-int4.apr").status is PASS
        assert bench.judge("rosetta-diff", f"{kind}-int8.apr", other=f"{kind}-int4.apr").status is PASS
    assert bench.judge("diff", "corrupt.apr", other="m-f32.apr").status is FAIL
    assert bench.judge("diff", "m-int8.apr", other="m-int8.apr").status is FAIL


def test_round_trips(bench: Bench) -> None:
    found = bench.judge("roundtrip", "m-int4.apr", quant="int4")
    assert (found.status, found.says) == (PASS, "10 tokens are the same after export and import"), found.says
    more: dict[str, Any] = {"line": HELLO, "oracle": "qwen2-run-int4", "count": 8, "quant": "int4"}
    # The re-import of this one was recorded under another name of the same file.
    found = bench.judge("roundtrip", "qwen2-int4.apr", **more)
    assert found.status is OPEN
    assert "not recorded" in found.says
    found = bench.judge("roundtrip", "gpt2-int4.apr", **more)
    assert (found.status, "dtype" in found.says or "ffn_gate" in found.says) == (FAIL, True)


def test_the_ladder_of_a_recorded_file(bench: Bench) -> None:
    def guilty(file: str, quant: str, was: str | None = None) -> tuple[Step | None, str]:
        slug = "tiny-gpt2" if "gpt2" in file else "tiny-llama"
        artifact = bench.file(file, quant, slug)
        artifact = replace(artifact, sha256=sha256(artifact.path) if was is None else was)
        evidence = Evidence(Workspace(bench.work / "w", roster), bench.apr, replaced={(slug, quant): artifact})
        model = roster.model(slug)
        rows = [judge(Row("token", slug, quant, prompt="one"), evidence)]
        assert rows[0].status is FAIL
        found = climb(rows, evidence, model, quant)
        return found.guilty, next((one.says for one in found.rungs if one.step is found.guilty), "")

    roster = bench.rostered(SUM, "run-f32", 32)
    # The float import says what the oracle says; as floats again, the four-bit numbers say the same as before.
    step, says = guilty("m-int4.apr", "int4")
    assert (step, "differ from the oracle's, 27 once its numbers are floats again" in says) == (Step.QUANTIZATION, True)
    roster = bench.rostered(SUM, "run-f32", 4)
    assert guilty("trunc.apr", "int8", "0" * 64)[0] is Step.FILE
    assert guilty("trunc.apr", "int8", "")[0] is Step.FILE
    roster = bench.rostered(HELLO, "qwen2-run-int8", 8)
    step, says = guilty("gpt2-int8.apr", "int8")
    assert (step, "it does not run the file" in says and "not a dense float type" in says) == (Step.RUNTIME, True)


def test_139_rows_and_seven_of_them_prove_nothing() -> None:
    rows = declared(load_roster("original"), "apr")
    silent = [row for row in rows if "apr" in suite(row.suite).constant]
    assert (len(rows), len(silent)) == (139, 7)
    assert {row.suite for row in silent} == {"debug", "list"}


def test_list_and_debug_prove_nothing(bench: Bench) -> None:
    assert bench.judge("debug", "m-int8.apr").proves_nothing
    roster = bench.rostered(SUM, "run-f32", 32)
    found = judge(Row("list", "tiny-llama"), Evidence(Workspace(bench.work / "w", roster), bench.apr))
    assert (found.status, found.proves_nothing) == (PASS, True)


# --- A runtime that does not keep to what was agreed ------------------------------------------------------------------


def lying(change: Callable[[Call], Call]) -> Apr:
    """apr with its answers changed; its version it says as ever."""

    def run(argv: Sequence[str], timeout_s: float) -> Call:
        call = replayed(argv, timeout_s)
        return call if "--version" in argv else change(call)

    return Apr("apr", run=run)


def test_colors_and_progress_before_the_json_do_not_matter(bench: Bench) -> None:
    noise = "\x1b[2K\x1b]0;title\x07\x1b[1;36mLoading {50%}\x1b[0m [1/2]\n"
    loud = lying(lambda call: replace(call, stdout=noise + call.stdout.replace("{", "\x1b[0m{")))
    for name in ("inspect", "validate", "selftest", "hex", "token"):
        assert bench.judge(name, "m-int8.apr", apr=loud).status is bench.judge(name, "m-int8.apr").status
    # As on a terminal: progress and payload in one stream.
    tty = REPLAY.recorded("tty-run")["stdout"]
    found, _ = find_json(tty, ("tokens",))
    assert found is not None
    assert found["tokens_generated"] == 8


ROWS = (
    "inspect",
    "validate",
    "tensors",
    "lint",
    "selftest",
    "tree",
    "oracle-id",
    "hex",
    "token",
    "canary",
    "roundtrip",
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda call: replace(call, stdout="All is well.\n"), OPEN),
        (lambda call: replace(call, stdout=""), OPEN),
        (lambda call: replace(call, stdout='{"status": "ok"}'), OPEN),
        (lambda call: replace(call, stdout=call.stdout[: len(call.stdout) // 2]), OPEN),
        (lambda call: replace(call, exit_code=None), OPEN),
        (lambda call: replace(call, exit_code=9, stdout=""), OPEN),
        (lambda call: replace(call, exit_code=-11, stdout=""), FAIL),
        (lambda call: replace(call, exit_code=8, stdout=""), FAIL),
        (lambda call: replace(call, stderr="\x1b[1mthread 'worker-1' (7) panicked at a.rs:1:2:\nno\n"), FAIL),
        (lambda call: replace(call, exit_code=9, stderr="thread 'main' panicked at a.rs:1:2:\nno\n"), FAIL),
    ],
    ids=[
        "ignores --json",
        "prints nothing",
        "another document",
        "cut",
        "hangs",
        "not built",
        "crashes",
        "refuses",
        "loses a thread",
        "calls a panic a missing feature",
    ],
)
def test_bad_manners_are_never_a_pass(bench: Bench, change: Callable[[Call], Call], expected: Status) -> None:
    for name in ROWS:
        if name == "roundtrip" and expected is OPEN:
            assert bench.judge(name, "m-int4.apr", quant="int4", apr=lying(change)).status is not PASS
            continue
        found = bench.judge(name, "m-int8.apr", apr=lying(change))
        assert found.status is expected, (name, found.says)


def test_yes_with_a_failing_exit_code_is_a_failure(bench: Bench) -> None:
    found = bench.judge("validate", "m-int8.apr", apr=lying(lambda call: replace(call, exit_code=5)))
    assert (found.status, "the exit code no" in found.says) == (FAIL, True)
    assert (
        bench.judge("token", "m-f32.apr", quant="f32", apr=lying(lambda call: replace(call, exit_code=5))).status
        is FAIL
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": "error"}, FAIL),
        ({"error": "out of memory"}, FAIL),
        ({"refusal": "no"}, FAIL),
        ({"tokens": []}, OPEN),
        ({"tokens": [], "tokens_generated": 0}, OPEN),
        ({"tokens": None}, OPEN),
        ({"tokens": [True] * 32}, OPEN),
        ({"tokens": [-1] * 32}, OPEN),
        ({"tokens": [10**400] * 32}, OPEN),
        ({"tokens": ["259"] * 32}, OPEN),
        ({"text": None}, OPEN),
        ({"tokens_generated": 31}, OPEN),
        ({"prompt_tokens": None}, OPEN),
        ({"prompt_tokens": 15}, OPEN),
        ({"tok_per_sec": 1e999, "finish_reason": 5}, PASS),
        ({"tok_per_sec": "fast"}, PASS),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_run_may_say(bench: Bench, change: dict[str, Any], expected: Status) -> None:
    def changed(call: Call) -> Call:
        return replace(call, stdout=json.dumps({**json.loads(call.stdout), **change}).replace("Infinity", "1e999"))

    found = bench.judge("token", "m-f32.apr", quant="f32", apr=lying(changed))
    assert found.status is expected, found.says


def test_own_perplexity() -> None:
    def read(payload: Any, trouble: Trouble | None = None) -> Any:
        return own_perplexity(Answer(payload, Call(), trouble))

    said = Trouble(TroubleKind.REFUSED, "over the threshold")
    good = {"perplexity": 7, "tokens_evaluated": 5, "passed": False}
    assert (read(good, said).value, read(good, said).tokens) == (7.0, 5)
    assert read({**good, "passed": True}, said).trouble is said
    for empty in ({"perplexity": None}, {"tokens_evaluated": None}, {"perplexity": ""}, {"tokens_evaluated": ""}):
        assert read({**good, **empty}).trouble.kind is TroubleKind.EMPTY
    for key, values in (("perplexity", (True, 0.5, 10**400)), ("tokens_evaluated", (0, "5", True, 10**400))):
        for value in values:
            assert read({**good, key: value}).trouble.kind is TroubleKind.UNREADABLE
    assert read(None).trouble.kind is TroubleKind.MISSING_FIELD
    assert read(good, Trouble(TroubleKind.PANIC, "x")).value is None


def test_the_controls_are_rejected(bench: Bench) -> None:
    models = tuple(replace(one, quants={"apr": ("int4", "int8")}) for one in bench.roster.models)
    roster = replace(bench.rostered(SUM, "run-int8", 32), models=models)
    space = Workspace(bench.work / "w", roster)
    model = roster.model("tiny-llama")
    for quant in ("int8", "int4"):
        target = space.path(model, "apr", quant)
        made = bench.apr.convert(Capability.IMPORT_HF, space.source(model), target, quant)
        assert made.artifact is not None
        record = {"sha256": made.artifact.sha256, "parents": ["hf"]}
        target.with_suffix(".json").write_text(json.dumps(record))
    caught = run_controls(space, bench.apr, model)
    # What the real one says after damage to other bytes than the recorded ones is not known.
    assert {one.control.name for one in caught if one.tried and not one.good} == {"overwritten half"}
    # These suites do not pass the intact file either: panics, a build without a GPU, a coarse file far off.
    assert {one.control.name: tuple(one.untried) for one in caught if not one.tried} == {
        "no speed": ("bench",), "a failed gate": ("qa",), "a GPU that computes otherwise": ("parity-gpu",),
        "surprised by everything": ("ppl",), "stumbling program": ("drift",),
    }  # fmt: skip
    by = {one.control.name: one.by for one in caught}
    assert by["truncated file"] == ("validate", "tensors", "selftest")
    everything = {"inspect", "validate", "tensors", "lint", "selftest", "tree", "oracle-id", "hex"}
    for name in ("ignores --json", "prints ANSI", "exits 0 on failure"):
        assert set(by[name]) == everything | {"token", "canary"}, name
    assert set(by["yes, and a failing exit code"]) == everything
    blamed = {one.control.name: one.blamed.guilty for one in caught if one.blamed is not None}
    assert blamed == {"truncated file": Step.FILE, "other first tokens": Step.RUNTIME}
    assert uncovered(caught, bench.apr, space, model) == []
    told = controls_table(caught, [])
    assert "-      no speed (it never generates a token): by no suite" in told
    assert "bench could not: it does not pass the intact file either: FAIL: thread 'main' panicked" in told
    assert "12 of 18 controls rejected, 5 could not be tried" in told


def test_lies_that_no_recorded_answer_could_be_spoilt_by(bench: Bench) -> None:
    lies = {one.name: one.lie for one in controls_apr.CONTROLS}
    file, floats = bench.file("m-int8.apr", "int8", "tiny-llama"), bench.file("m-f32.apr", "f32", "tiny-llama")

    def told(name: str, capability: Capability, artifact: Artifact = floats) -> Any:
        lie = lies[name]
        assert lie is not None
        return lie(bench.apr).probe(capability, artifact).payload

    assert told("no speed", Capability.BENCH)["tokens_per_second"] == 0.0
    assert told("surprised by everything", Capability.EVAL)["perplexity"] == 1e6
    gates = told("a failed gate", Capability.QA)["gates"]
    assert (gates[0]["passed"], gates[0]["skipped"], len(gates)) == (False, False, 13)
    assert told("a failed gate", Capability.QA, file) is None
    stumbling = lies["stumbling program"]
    assert stumbling is not None
    for artifact, wrong in ((file, 2), (floats, 0)):
        with bench.apr.open(artifact) as right, stumbling(bench.apr).open(artifact) as loaded:
            words = Prompt("one", SUM)
            mine, theirs = (one.generate(words, max_new_tokens=32).tokens for one in (loaded, right))
        assert mine is not None
        assert theirs is not None
        assert sum(one != other for one, other in zip(mine, theirs, strict=True)) == wrong


# --- The words ------------------------------------------------------------------------------------------------------


def test_the_last_value_with_the_keys_counts() -> None:
    assert find_json('{"a": 1}\n{"a": 2}\n{"b": 3}', ("a",)) == ({"a": 2}, "")
    assert find_json('loading {x} 5%\r done {"a": [1, {"a": 9}]} bye', ("a",))[0] == {"a": [1, {"a": 9}]}
    assert find_json('[{"a": 1}, 5]', ("a",))[0] == [{"a": 1}, 5]
    assert find_json('{"b": 1, "c": 2}', ("a",)) == (None, "it has b, c")
    assert find_json("{}", ("a",)) == (None, "it has no keys")
    assert find_json("[1] []", ("a",)) == (None, "")
    assert find_json('{"a": "\\ud800x"}', ("a",))[0] == {"a": "?x"}
    assert find_json('{"a": NaN}', ("a",)) == (None, "")
    assert find_json('{"a": ' + "[" * 70 + "]" * 70 + "}", ("a",))[0] is None
    assert find_json("[" * 100_000, ("a",)) == (None, "")
    assert find_json('{"a": ' + "9" * 5000 + "}", ("a",)) == (None, "")
    # An inner value of a document that broke off is no answer; what follows it in a line of its own may be one.
    assert find_json('{"b": [\n  {"a": 1},\n', ("a",)) == (None, "")
    assert find_json('{"b": [{"a": 1}, {"a": 2}', ("a",)) == (None, "")
    assert find_json('{"b": [\n  {"a": 1},\n{"a": 3}\n', ("a",))[0] == {"a": 3}
    assert plain("\x1b[31mred\x1b]8;;http://x\x1b\\y\x1b7") == "redy"


@settings(max_examples=examples(150))
@given(
    st.one_of(
        st.text(),
        st.binary().map(lambda raw: raw.decode(errors="replace")),
        st.from_regex(r"[\[\]{}\":,a0-9\x1b]{0,300}"),
    )
)
def test_nothing_that_is_printed_crashes_the_reader(text: str) -> None:
    value, near = find_json(text, ("tokens", "text"))
    assert value is None or "tokens" in (value[0] if isinstance(value, list) else value)
    assert isinstance(near, str)


PROBED = {
    "inspect": "inspect-int8", "validate": "validate-int8", "tensors": "tensors-int8", "lint": "lint-int8",
    "selftest": "check-int8", "tree": "tree-int8", "oracle-id": "oracle-int8", "hex": "hex-int8",
    "bench": "bench-f32", "qa": "qa-f32", "token": "run-f32", "ppl": "eval-f32", "diff": "diff",
    "rosetta-diff": "rosetta-diff",
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


# What each suite judges by.
JUDGED_BY = {
    "inspect": ("architecture", "num_layers", "num_heads", "hidden_size", "vocab_size"),
    "validate": ("checks", "passed"), "tensors": ("tensors", "tensor_count"), "lint": ("error_count", "passed"),
    "selftest": ("stages",), "tree": ("name", "children"), "oracle-id": ("format",), "hex": ("name", "stats"),
    "bench": ("tokens_per_second", "passed"), "qa": ("gates",), "token": ("tokens", "text", "tokens_generated"),
    "ppl": ("perplexity", "tokens_evaluated"), "diff": ("identical", "difference_count"),
    "rosetta-diff": ("layout_mismatches", "missing_in_a", "missing_in_b"),
}  # fmt: skip
RUBBISH = (
    "null", "NaN", "Infinity", "-Infinity", "1e999", "-1", "9" * 400, "9" * 5000, '"\\ud800"', '"x"', '""', "[]", "{}",
    "[null]", '[{"name": null}]', '[{"name": "a"}]', "true", "false", "0.5", "[" * 5000 + "]" * 5000, "{", "\x00",
)  # fmt: skip


@pytest.mark.profiled
@pytest.mark.parametrize("name", JUDGED_BY)
def test_no_field_may_hold_rubbish(bench: Bench, name: str) -> None:
    good = json.loads(REPLAY.recorded(PROBED[name])["stdout"])
    holder = good[0] if isinstance(good, list) else good
    if name == "ppl":
        holder |= {"perplexity": 3.5, "passed": True}
    if name == "qa":
        for gate in holder["gates"]:
            gate["passed"] = True
    pair = "m-int4.apr" if name in ("diff", "rosetta-diff") else ""

    def status(text: str) -> Status:
        apr = lying(lambda call: replace(call, exit_code=0, stdout=text, stderr=""))
        return bench.judge(name, "m-f32.apr", other=pair, quant="f32", apr=apr).status

    assert status(json.dumps(good)) is PASS
    for at, key in enumerate(JUDGED_BY[name]):
        kept = holder[key]
        # Each field begins elsewhere: together they hold all of it in the short profile, too.
        for rubbish in some(RUBBISH[at * 4 :] + RUBBISH[: at * 4], 7):
            if json.dumps(kept) == rubbish or (key, rubbish) in ALLOWED:
                continue
            holder[key] = "@"
            assert status(json.dumps(good).replace('"@"', rubbish)) is not PASS, (key, rubbish)
            holder[key] = kept
    for end in some(range(0, len(json.dumps(good)) - 1, 97), 8):
        assert status(json.dumps(good)[:end]) is not PASS


# Half a token per second is slow. Text is not what `token` judges by, only that there is one; the name of a tree's root
# is not judged at all.
ALLOWED = {
    ("tokens_per_second", "0.5"),
    ("text", '"x"'),
    ("text", '""'),
    ("text", '"\\ud800"'),
    ("name", '"x"'),
    ("name", '"\\ud800"'),
}


@settings(max_examples=examples(60))
@given(data=st.data())
def test_fuzzed_answers_never_crash_and_rubbish_never_passes(data: st.DataObject, tmp_path_factory: Any) -> None:
    bench = Bench(tmp_path_factory.mktemp("fuzz"))
    name = data.draw(st.sampled_from(sorted(PROBED)))
    good = REPLAY.recorded(PROBED[name])["stdout"]
    kind = data.draw(st.sampled_from(["bytes", "cut", "value"]))
    if kind == "bytes":
        text = data.draw(st.binary(max_size=200)).decode(errors="replace")
    elif kind == "cut":
        text = good[: data.draw(st.integers(0, max(0, len(good.rstrip()) - 1)))]
    else:
        payload = json.loads(good)
        holder = payload[0] if isinstance(payload, list) else payload
        for key in holder:
            holder[key] = data.draw(JSON)
        text = json.dumps(payload)
    apr = lying(lambda call: replace(call, exit_code=0, stdout=text, stderr=""))
    pair = "m-int4.apr" if name in ("diff", "rosetta-diff") else ""
    found = bench.judge(name, "m-f32.apr", other=pair, quant="f32", apr=apr)
    if kind != "value":
        assert found.status is not PASS, (name, text)


# --- The program itself -----------------------------------------------------------------------------------------------


def test_the_real_thing_is_told_from_its_namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apr = Apr(str(STAND_IN))
    assert (apr.identity.name, apr.identity.version) == ("apr", "0.72.3 (9c34b9a91)")
    assert "declared for" not in apr.identity.detail
    with pytest.raises(RuntimeMissing, match=r"expected 'apr VERSION \(COMMIT\)', found .*No such file.*APR_BINARY"):
        Apr(str(tmp_path / "none")).identity  # noqa: B018
    with pytest.raises(RuntimeMissing, match=r"found 'APR library 1\.7\.6'.*other programs named apr"):
        Apr("apr", run=lambda argv, timeout_s: Call((), 0, "APR library 1.7.6\n")).identity  # noqa: B018
    with pytest.raises(RuntimeMissing, match="found 'exit 3'"):
        Apr("apr", run=lambda argv, timeout_s: Call((), 3)).identity  # noqa: B018
    older = Apr("apr", run=lambda argv, timeout_s: Call((), 0, "\x1b[1mapr 0.2.16\x1b[0m\n")).identity
    assert (older.version, older.detail["declared for"]) == ("0.2.16", "0.72.3")


def test_a_process_with_a_home_of_its_own(tmp_path: Path) -> None:
    program = tmp_path / "apr"
    program.write_text(
        '#!/bin/sh\necho "{\\"models\\": [], \\"total\\": 0, \\"home\\": \\"$HOME\\", \\"c\\": \\"$NO_COLOR\\"}"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    apr = Apr(str(program))
    file = Artifact(tmp_path / "none.apr", "m", "apr", "int8")
    first, second = (apr.probe(Capability.LIST, file).payload or {} for _ in range(2))
    assert first["home"] == second["home"] != os.environ.get("HOME")
    assert first["c"] == "1"
    assert Path(first["home"]).is_dir()
    apr.close()
    apr.close()
    assert not Path(first["home"]).exists()


def test_a_file_is_made_whole_or_not_at_all(bench: Bench, tmp_path: Path) -> None:
    source = Artifact(GROUND / "models" / "tiny-llama", "tiny-llama", "hf", "hf", parents=("hf",))
    made = bench.apr.convert(Capability.IMPORT_HF, source, tmp_path / "out" / "m.apr", "int8")
    assert made.artifact is not None
    assert made.artifact.path.read_text().startswith("recorded: m-int8.apr\n")
    assert (made.artifact.parents, made.artifact.format) == (("hf", "apr int8"), "apr")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["m.apr"]
    out = bench.apr.convert(Capability.EXPORT, made.artifact, tmp_path / "out" / "exported", "int8")
    assert out.artifact is not None
    assert (out.artifact.path.name, out.artifact.format) == ("exported.gguf", "gguf")
    back = bench.apr.convert(Capability.IMPORT_GGUF, out.artifact, tmp_path / "out" / "back.apr", "int8")
    assert back.artifact is not None
    assert back.artifact.parents == ("hf", "apr int8", "gguf exported", "apr int8")


def test_what_cannot_be_made_says_why(bench: Bench, tmp_path: Path) -> None:
    source = Artifact(GROUND / "models" / "tiny-llama", "tiny-llama", "hf", "hf")
    target = tmp_path / "m.apr"

    def kind(apr: Apr, capability: Capability, what: Artifact = source, quant: str = "int8") -> TroubleKind:
        made = apr.convert(capability, what, target, quant)
        assert made.artifact is None
        assert made.trouble is not None
        assert not target.exists()
        return made.trouble.kind

    assert kind(bench.apr, Capability.IMPORT_HF, quant="Q2_K") is TroubleKind.NOT_BUILT
    assert kind(bench.apr, Capability.QUANTIZE) is TroubleKind.NOT_BUILT
    assert kind(bench.apr, Capability.IMPORT_HF, replace(source, path=tmp_path)) is TroubleKind.ABSENT
    gone = Artifact(tmp_path / "x.gguf", "m", "gguf", "f16")
    assert kind(bench.apr, Capability.IMPORT_GGUF, gone) is TroubleKind.ABSENT
    silent = Apr("apr", run=lambda argv, timeout_s: Call((), 0, '{"status": "ok"}'))
    assert kind(silent, Capability.IMPORT_HF) is TroubleKind.REFUSED
    quiet = Apr("apr", run=lambda argv, timeout_s: Call((), 0, "Import successful"))
    assert kind(quiet, Capability.IMPORT_HF) is TroubleKind.REFUSED
    sorry = Apr("apr", run=lambda argv, timeout_s: Call((), 0, '{"status": "failed"}'))
    assert kind(sorry, Capability.IMPORT_HF) is TroubleKind.REFUSED

    def warns(argv: Sequence[str], timeout_s: float) -> Call:
        Path(argv[list(argv).index("-o") + 1]).write_text("made")
        return Call(tuple(argv), 0, '{"status": "warnings", "score": null, "grade": "N/A"}')

    # As the real one says of every GGUF it imports: it has no checks of its own for them.
    made = Apr("apr", run=warns).convert(Capability.IMPORT_HF, source, target, "int8")
    assert made.trouble is None
    target.unlink()
    crash = Apr("apr", run=lambda argv, timeout_s: Call((), 101, "", "thread 'main' (5) panicked at a.rs:1:2:\nno\n"))
    assert crash.convert(Capability.IMPORT_HF, source, target, "f32").trouble == Trouble(
        TroubleKind.PANIC, "thread 'main' panicked at a.rs:1:2: no"
    )


@pytest.mark.parametrize("text", ["a\0b", "a\ud800"])
def test_a_prompt_that_no_command_line_holds(bench: Bench, text: str) -> None:
    with bench.apr.open(bench.file("m-int8.apr", "int8", "tiny-llama")) as loaded:
        got = loaded.generate(Prompt("odd", text), max_new_tokens=4)
    assert got.trouble == Trouble(TroubleKind.NOT_BUILT, "no argument can hold a NUL, or half a character")


def test_what_apr_cannot_do_is_declared(bench: Bench, tmp_path: Path) -> None:
    apr, file = bench.apr, bench.file("m-int8.apr", "int8", "tiny-llama")
    for capability in (Capability.SCORE, Capability.TOKENIZE, Capability.TEMPLATE, Capability.PERPLEXITY):
        assert apr.declined(capability, file)
    assert apr.declined(Capability.GENERATE, replace(file, format="onnx")) == "apr does not read onnx"
    assert apr.declined(Capability.GENERATE, file) is None
    with apr.open(file) as loaded:
        prompt = Prompt("one", SUM)
        for answer in (loaded.tokenize("x", add_special=True), loaded.render([])):
            assert answer.trouble is not None
            assert answer.trouble.kind is TroubleKind.NOT_BUILT
        assert loaded.score(prompt, [1], top=3).trouble is not None
        odd = loaded.generate(Prompt("one", "a\0b"), max_new_tokens=4)
        assert odd.trouble is not None
        assert odd.trouble.kind is TroubleKind.NOT_BUILT
        assert loaded.generate(Prompt("one", "-x"), max_new_tokens=4).call.argv[3] == "-p-x"
    assert apr.perplexity(file, tmp_path, context=5).trouble is not None
    assert apr.probe(Capability.KL, file).trouble is not None
    lost = replace(file, path=tmp_path / "lost.apr")
    assert apr.probe(Capability.INSPECT, lost).trouble == apr.open(lost).trouble
    assert apr.open(lost).trouble is not None
    late = Apr("apr", run=lambda argv, timeout_s: Call((), None, seconds=600))
    assert late.probe(Capability.INSPECT, file).trouble == Trouble(TroubleKind.TIMEOUT, "no end after 600 s")
    dead = Apr("apr", run=lambda argv, timeout_s: Call((), 101))
    assert dead.probe(Capability.INSPECT, file).trouble == Trouble(TroubleKind.PANIC, "it crashed (exit 101)")
    mute = Apr("apr", run=lambda argv, timeout_s: Call((), 4))
    assert mute.probe(Capability.INSPECT, file).trouble == Trouble(TroubleKind.REFUSED, "exit 4 without output")


def test_the_stand_in_is_a_program(bench: Bench) -> None:
    assert os.access(STAND_IN, os.X_OK)
    apr = Apr(str(STAND_IN))
    found = bench.judge("token", "m-f32.apr", quant="f32", apr=apr)
    apr.close()
    assert found.status is PASS


@pytest.mark.prove
def test_from_the_verb_to_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    work, options = tmp_path / "w", ["--runtime", "apr", "--roster", str(GROUND / "roster.yml")]
    monkeypatch.setenv("APR_BINARY", str(STAND_IN))
    arguments = [*options, "--work", str(work), "--model", "tiny-llama"]
    assert main(["convert", *arguments]) == 0
    files = ["--json", str(tmp_path / "v.json"), "--html", str(tmp_path / "v.html")]
    suites = ["list", "validate", "bench"]
    assert main(["check", *arguments, *files, *(word for name in suites for word in ("--suite", name))]) == 1
    out = capsys.readouterr().out
    assert "apr 0.72.3 (9c34b9a91), roster tiny" in out
    assert "FAIL: 5 checks declared, 1 of them prove nothing: 2 PASS, 2 FAIL" in out
    assert main(["ticket", str(tmp_path / "v.json")]) == 0
    assert "1 defect, 2 checks failed" in capsys.readouterr().out
    # No GPU: named, not passed, and the exit code says so.
    assert main(["check", *arguments, "--suite", "parity-gpu", "--json", str(tmp_path / "g.json")]) == 3
    assert "parity-gpu tiny-llama int8: error: Feature not enabled: cuda feature required" in capsys.readouterr().out
    # No model, either.
    (work / "tiny-llama" / "apr" / "tiny-llama-int4.apr").unlink()
    assert main(["check", *arguments, "--suite", "diff", "--json", str(tmp_path / "g.json")]) == 3
    assert "no such file, make it with `trialbench convert --runtime apr`:" in " ".join(capsys.readouterr().out.split())
    # Not there: named, and its own exit code.
    monkeypatch.setenv("APR_BINARY", str(tmp_path / "nowhere"))
    assert main(["check", *arguments]) == 4
    assert "set APR_BINARY" in capsys.readouterr().err
