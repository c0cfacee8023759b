"""apr on recorded runs of the real 0.72.3: every row gets the status that a careful person would give it."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trialbench.cli import main
from trialbench.ground_truth.controls import run_controls
from trialbench.ground_truth.observe import Evidence, own_perplexity
from trialbench.ground_truth.oracle_files import Oracle, oracle_path, write_oracle
from trialbench.ground_truth.results import Result, Row, Status
from trialbench.ground_truth.roster import PromptText, Roster, load_roster
from trialbench.ground_truth.runtimes.apr import Apr
from trialbench.ground_truth.runtimes.base import Answer, Artefact, Call, Capability, Prompt, Trouble, TroubleKind
from trialbench.ground_truth.runtimes.json_words import find_json, plain
from trialbench.ground_truth.runtimes.tools import RuntimeMissing
from trialbench.ground_truth.suites import declared, judge, suite
from trialbench.ground_truth.workspace import Workspace

GROUND = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth"
STAND_IN = GROUND / "apr" / "apr"
PASS, FAIL, OPEN = Status.PASS, Status.FAIL, Status.INCONCLUSIVE
SUM, HELLO = "What is 2+2? Answer:", "Hello, my name is"


def _replayer() -> Any:
    spec = importlib.util.spec_from_file_location("apr_replay", GROUND / "apr" / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPLAY = _replayer()


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

    def file(self, name: str, quant: str, slug: str) -> Artefact:
        """The recorded file `name`."""
        path = self.work / Path(name).name
        path.write_text(f"recorded: {name}\n")
        return Artefact(path, slug, path.suffix[1:], quant, parents=("hf", f"apr {quant}"))

    def rostered(self, line: str, oracle: str, count: int, **change: Any) -> Roster:
        """A roster of one prompt, and its oracle: what the recorded run `oracle` said, as far as `count` tokens."""
        said = json.loads(REPLAY.recorded(oracle)["stdout"])
        prompts = replace(self.roster.prompts, prompts=(PromptText("one", line),))
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
        **change: Any,
    ) -> Result:
        """One row about `file` (and `other`, as int4)."""
        slug = next((f"tiny-{kind}" for kind in ("qwen2", "gpt2") if kind in file), "tiny-llama")
        roster = self.rostered(line, oracle, count, **change)
        replaced = {(slug, quant): self.file(file, quant, slug)}
        if other:
            replaced[slug, "int4"] = self.file(other, "int4", slug)
        by_prompt = name in ("canary", "token", "drift")
        row = Row(name, slug, quant, "int4" if other else "", "one" if by_prompt else "")
        evidence = Evidence(Workspace(self.work / "w", roster), apr or self.apr, replaced=replaced)
        return judge(row, evidence)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# The status of each recorded file in each suite that asks about the file alone, and why.
TABLE: list[tuple[str, str, Status, str]] = [
    # A good file of eight bits, and of four.
    ("inspect", "m-int8.apr", PASS, "layers 2"),
    ("inspect", "m-int4.apr", PASS, "layers 2"),
    ("inspect", "tiny/c1-Q8_0.gguf", PASS, "layers 2, heads 8, hidden 256"),
    ("inspect", "qwen2-int8.apr", PASS, "architecture qwen2"),
    ("inspect", "gpt2-int8.apr", PASS, "architecture gpt2"),
    ("validate", "m-int8.apr", PASS, "5 checks"),
    ("validate", "m-int4.apr", PASS, "5 checks"),
    ("validate", "qwen2-int8.apr", PASS, "5 checks"),
    ("validate", "gpt2-int8.apr", PASS, "5 checks"),
    ("tensors", "m-int8.apr", PASS, "21 tensors"),
    ("tensors", "m-int4.apr", PASS, "21 tensors"),
    ("tensors", "qwen2-int8.apr", PASS, "27 tensors"),
    ("tensors", "gpt2-int8.apr", PASS, "37 tensors"),
    ("lint", "m-int8.apr", PASS, "0 errors, 3 warnings"),
    ("lint", "m-int4.apr", PASS, "0 errors"),
    ("lint", "gpt2-int8.apr", PASS, "0 errors"),
    ("selftest", "m-int8.apr", PASS, "10 of 10"),
    ("selftest", "m-int4.apr", PASS, "10 of 10"),
    ("selftest", "qwen2-int8.apr", PASS, "10 of 10"),
    ("selftest", "gpt2-int8.apr", FAIL, "6 of 10 stages passed, failed: Tokenizer"),
    ("tree", "m-int8.apr", PASS, "2 layers"),
    ("oracle-id", "m-int8.apr", PASS, "llama"),
    ("oracle-id", "m-int4.apr", PASS, "llama"),
    ("oracle-id", "qwen2-int8.apr", PASS, "qwen2"),
    ("oracle-id", "gpt2-int8.apr", PASS, "gpt2"),
    ("hex", "m-int8.apr", PASS, "standard deviation 0.0542"),
    ("hex", "qwen2-int8.apr", PASS, "standard deviation"),
    ("hex", "gpt2-int8.apr", PASS, "standard deviation"),
    ("hex", "tiny/c1-Q8_0.gguf", PASS, "blk.0.attn_q.weight"),
    ("debug", "m-int8.apr", PASS, "OK"),
    # A panic is a failure, with its message.
    ("ppl", "m-int8.apr", FAIL, "range end index 256 out of range"),
    ("ppl", "m-int4.apr", FAIL, "panicked at"),
    ("bench", "m-int8.apr", FAIL, "range end index 256 out of range"),
    ("bench", "m-int4.apr", FAIL, "panicked at"),
    ("bench", "gpt2-int8.apr", FAIL, "panicked at"),
    ("qa", "m-int8.apr", FAIL, "panicked at"),
    ("qa", "gpt2-int8.apr", FAIL, ""),
    # Exit 5 after valid JSON: the number is judged by our bound, not by its.
    ("ppl", "m-f32.apr", FAIL, "perplexity 1035 over 409 tokens"),
    ("ppl", "tiny/c1-Q8_0.gguf", FAIL, "perplexity 1616 over 410 tokens"),
    ("bench", "m-f32.apr", PASS, "3239.2 tokens per second"),
    ("bench", "tiny/c1-Q8_0.gguf", PASS, "tokens per second"),
    # One gate failed, seven were skipped; a skipped one is no failed one.
    ("qa", "m-f32.apr", FAIL, "5 gates passed, 7 were skipped, failed: ['golden_output']"),
    # No GPU in this build: nothing is decided. For gpt2 there is not even a file to ask about.
    ("parity-gpu", "m-int8.apr", OPEN, "cuda feature required"),
    ("parity-gpu", "gpt2-int4.apr", OPEN, "parity asks for a GGUF, and there is none"),
    # A file cut to a quarter. Whoever says of itself that it looks at the file sees it.
    ("validate", "trunc.apr", FAIL, "failed: Data section within file"),
    ("tensors", "trunc.apr", FAIL, "Truncated APR v2"),
    # Seven of ten stages pass, as many as the original bound asks for: three failed all the same.
    ("selftest", "trunc.apr", FAIL, "7 of 10 stages passed, failed: Tokenizer, Logits"),
    # These see nothing, and do not say that they would.
    ("inspect", "trunc.apr", PASS, "layers 2"),
    ("lint", "trunc.apr", PASS, "0 errors"),
    ("debug", "trunc.apr", PASS, "OK"),
    # 40000 bytes of a tensor overwritten.
    ("selftest", "corrupt.apr", FAIL, "8 of 10 stages passed, failed: Logits"),
    ("validate", "corrupt.apr", PASS, "5 checks"),
    ("inspect", "corrupt.apr", PASS, "layers 2"),
    ("lint", "corrupt.apr", PASS, "0 errors"),
    ("debug", "corrupt.apr", PASS, "OK"),
    # No model at all.
    ("selftest", "zero.apr", FAIL, "failed to fill whole buffer"),
    ("debug", "zero.apr", FAIL, "file too small"),
    ("debug", "junk.apr", FAIL, "error:"),
    # What was not recorded is not known.
    ("validate", "never.apr", OPEN, "not recorded"),
]


@pytest.mark.parametrize(("name", "file", "expected", "says"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_each_recorded_file_gets_its_status(bench: Bench, name: str, file: str, expected: Status, says: str) -> None:
    found = bench.judge(name, file)
    assert (found.status, says in found.says) == (expected, True), found.says


def test_no_suite_that_vouches_for_a_file_passes_a_damaged_one(bench: Bench) -> None:
    passed = [
        (name, file) for name, file, status, _ in TABLE if status is PASS and file in ("trunc.apr", "corrupt.apr")
    ]
    assert len(passed) == 7
    assert not [pair for pair in passed if suite(pair[0]).vouches("apr")]
    # The same suites with a runtime that looks at every value do vouch.
    assert suite("validate").vouches("llama.cpp")
    for file, count, oracle in (("trunc.apr", 4, "run-f32"), ("corrupt.apr", 16, "run-f32")):
        for name in ("canary", "token"):
            assert bench.judge(name, file, count=count, oracle=oracle).status is FAIL


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


def test_colours_and_progress_before_the_json_do_not_matter(bench: Bench) -> None:
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
    ],
    ids=["ignores --json", "prints nothing", "another document", "cut", "hangs", "not built", "crashes", "refuses"],
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
    for bad in ({"perplexity": None}, {"perplexity": True}, {"perplexity": 0.5}, {"perplexity": 10**400},
                {"tokens_evaluated": 0}, {"tokens_evaluated": "5"}, {"tokens_evaluated": True}):  # fmt: skip
        assert read({**good, **bad}).trouble.kind is TroubleKind.UNREADABLE
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
        assert made.artefact is not None
        record = {"sha256": made.artefact.sha256, "parents": ["hf"]}
        target.with_suffix(".json").write_text(json.dumps(record))
    caught = run_controls(space, bench.apr, model)
    # What the real one says after damage to other bytes than the recorded ones is not known.
    assert {one.control.name for one in caught if not one.good} == {"overwritten half"}
    by = {one.control.name: one.by for one in caught}
    assert by["truncated file"] == ("validate", "tensors", "selftest")
    assert set(by["ignores --json"]) >= {"inspect", "token", "canary"}
    assert {"token", "canary"} == {
        name for one in caught if one.control.name == "overwritten half" for name in one.missed
    }


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


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=60, deadline=None)
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
    file = Artefact(tmp_path / "none.apr", "m", "apr", "int8")
    first, second = (apr.probe(Capability.LIST, file).payload or {} for _ in range(2))
    assert first["home"] == second["home"] != os.environ.get("HOME")
    assert first["c"] == "1"
    assert Path(first["home"]).is_dir()
    apr.close()
    apr.close()
    assert not Path(first["home"]).exists()


def test_a_file_is_made_whole_or_not_at_all(bench: Bench, tmp_path: Path) -> None:
    source = Artefact(GROUND / "models" / "tiny-llama", "tiny-llama", "hf", "hf", parents=("hf",))
    made = bench.apr.convert(Capability.IMPORT_HF, source, tmp_path / "out" / "m.apr", "int8")
    assert made.artefact is not None
    assert made.artefact.path.read_text().startswith("recorded: m-int8.apr\n")
    assert (made.artefact.parents, made.artefact.format) == (("hf", "apr int8"), "apr")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["m.apr"]
    out = bench.apr.convert(Capability.EXPORT, made.artefact, tmp_path / "out" / "exported", "int8")
    assert out.artefact is not None
    assert (out.artefact.path.name, out.artefact.format) == ("exported.gguf", "gguf")
    back = bench.apr.convert(Capability.IMPORT_GGUF, out.artefact, tmp_path / "out" / "back.apr", "int8")
    assert back.artefact is not None
    assert back.artefact.parents == ("hf", "apr int8", "gguf exported", "apr int8")


def test_what_cannot_be_made_says_why(bench: Bench, tmp_path: Path) -> None:
    source = Artefact(GROUND / "models" / "tiny-llama", "tiny-llama", "hf", "hf")
    target = tmp_path / "m.apr"

    def kind(apr: Apr, capability: Capability, what: Artefact = source, quant: str = "int8") -> TroubleKind:
        made = apr.convert(capability, what, target, quant)
        assert made.artefact is None
        assert made.trouble is not None
        assert not target.exists()
        return made.trouble.kind

    assert kind(bench.apr, Capability.IMPORT_HF, quant="Q2_K") is TroubleKind.NOT_BUILT
    assert kind(bench.apr, Capability.QUANTIZE) is TroubleKind.NOT_BUILT
    assert kind(bench.apr, Capability.IMPORT_HF, replace(source, path=tmp_path)) is TroubleKind.ABSENT
    gone = Artefact(tmp_path / "x.gguf", "m", "gguf", "f16")
    assert kind(bench.apr, Capability.IMPORT_GGUF, gone) is TroubleKind.ABSENT
    silent = Apr("apr", run=lambda argv, timeout_s: Call((), 0, '{"status": "ok"}'))
    assert kind(silent, Capability.IMPORT_HF) is TroubleKind.REFUSED
    quiet = Apr("apr", run=lambda argv, timeout_s: Call((), 0, "Import successful"))
    assert kind(quiet, Capability.IMPORT_HF) is TroubleKind.REFUSED
    sorry = Apr("apr", run=lambda argv, timeout_s: Call((), 0, '{"status": "failed"}'))
    assert kind(sorry, Capability.IMPORT_HF) is TroubleKind.REFUSED
    crash = Apr("apr", run=lambda argv, timeout_s: Call((), 101, "", "thread 'main' (5) panicked at a.rs:1:2:\nno\n"))
    assert crash.convert(Capability.IMPORT_HF, source, target, "f32").trouble == Trouble(
        TroubleKind.PANIC, "thread 'main' panicked at a.rs:1:2: no"
    )


def test_what_apr_cannot_do_is_declared(bench: Bench, tmp_path: Path) -> None:
    apr, file = bench.apr, bench.file("m-int8.apr", "int8", "tiny-llama")
    for capability in (Capability.SCORE, Capability.TOKENIZE, Capability.TEMPLATE, Capability.PERPLEXITY):
        assert apr.declined(capability, file)
    assert apr.declined(Capability.GENERATE, replace(file, format="onnx")) == "apr does not read onnx"
    assert apr.declined(Capability.GENERATE, file) is None
    with apr.open(file) as session:
        prompt = Prompt("one", SUM)
        for answer in (session.tokenize("x", add_special=True), session.render([])):
            assert answer.trouble is not None
            assert answer.trouble.kind is TroubleKind.NOT_BUILT
        assert session.score(prompt, [1], top=3).trouble is not None
        odd = session.generate(Prompt("one", "a\0b"), max_new_tokens=4)
        assert odd.trouble is not None
        assert odd.trouble.kind is TroubleKind.NOT_BUILT
        assert session.generate(Prompt("one", "-x"), max_new_tokens=4).call.argv[3] == "-p-x"
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
    assert mute.probe(Capability.INSPECT, file).trouble == Trouble(TroubleKind.REFUSED, "exit 4 without a word")


def test_the_stand_in_is_a_program(bench: Bench) -> None:
    assert os.access(STAND_IN, os.X_OK)
    apr = Apr(str(STAND_IN))
    found = bench.judge("token", "m-f32.apr", quant="f32", apr=apr)
    apr.close()
    assert found.status is PASS


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
    # Not there: named, and its own exit code.
    monkeypatch.setenv("APR_BINARY", str(tmp_path / "nowhere"))
    assert main(["check", *arguments]) == 4
    assert "set APR_BINARY" in capsys.readouterr().err
