"""A whole check on the stand-ins: from the verbs to the verdict, the outputs and the negative controls."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import accept
from trialbench.cli import main
from trialbench.errors import TrialbenchError
from trialbench.ground_truth import check
from trialbench.ground_truth.attribution.ladder import Step
from trialbench.ground_truth.attribution.neighbors import Neighbors, other_numbers
from trialbench.ground_truth.controls import llama_cpp
from trialbench.ground_truth.controls import run as controls
from trialbench.ground_truth.controls.base import Bench, changed, damaged
from trialbench.ground_truth.controls.run import run_controls
from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.evidence.oracle_files import Oracle, oracle_path, write_oracle
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.convert import Changes, to_gguf
from trialbench.ground_truth.model.roster import load_roster
from trialbench.ground_truth.output import table as outputs
from trialbench.ground_truth.output.junit import junit
from trialbench.ground_truth.output.page import page
from trialbench.ground_truth.output.ticket import fingerprint
from trialbench.ground_truth.output.ticket import ticket as ticket_of
from trialbench.ground_truth.runtimes.base import Candidate, Capability, Prompt
from trialbench.ground_truth.runtimes.llama_cpp import LlamaCpp
from trialbench.ground_truth.runtimes.tools import LocalTools
from trialbench.ground_truth.suites.results import Result, Row, Status
from trialbench.ground_truth.suites.table import judge

EVIL = "</script>\x1b[31m<b>*[x](http://y)* @all"


def chain(start: int, count: int) -> tuple[int, ...]:
    """What the stand-in's model says: 7 t + 3 modulo 50."""
    tokens: list[int] = []
    while len(tokens) < count:
        start = (7 * start + 3) % 50
        tokens.append(start)
    return tuple(tokens)


@pytest.fixture
def tolerant(roster_file: Path) -> Path:
    """The small roster with every bound a check asks for, and oracles that the stand-in agrees with."""
    rows = [f"  {kind}-{quant}: {{value: {value}, unit: some, why: because of the test}}"
            for quant in ("f32", "f16", "Q8_0")
            for kind, value in (("token", 0), ("kl", 1), ("agreement", 0), ("tensor", 0.01))]  # fmt: skip
    rows += [
        f"  {name}: {{value: 1, unit: some, why: because of the test}}" for name in ("ppl-gap", "second", "hex-std")
    ]
    path = roster_file.parent / "tolerances.yml"
    path.write_text("---\ntolerances:\n" + "\n".join(rows).replace("hex-std: {value: 1", "hex-std: {value: 0") + "\n")
    text = roster_file.read_text().replace("perplexity_ceiling: 3", "perplexity_ceiling: 5")
    roster_file.write_text(text.replace("oracle: oracle", "oracle: oracle\nclaims: claims"))
    claims = roster_file.parent / "claims"
    claims.mkdir()
    roster = load_roster(str(roster_file))
    for model in roster.models:
        for prompt in roster.prompts.prompts:
            tokens = chain(3, 8)
            oracle = Oracle(
                model.name, model.slug, prompt.text, f"{prompt.name}.txt", "5", "2", tokens,
                " ".join(f"t{token}" for token in tokens), 8, prompt_ids=(1, 2, 3), eos_ids=(49,),
                top=tuple((Candidate(token, -0.105), Candidate((token + 1) % 50, -6.2)) for token in tokens),
            )  # fmt: skip
            write_oracle(oracle_path(roster.oracle, model.slug, prompt.name), oracle)
    (claims / "exact.yml").write_text(
        "---\nstatement: They are the same, token for token.\nmetric: token-mismatches\nat_most: 0\n"
        "quants: [f16, Q8_0]\nfalsified_by: One token that is another.\n"
    )
    return roster_file


@pytest.fixture
def options(tolerant: Path, tmp_path: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LLAMA_CPP_BIN", str(stand_ins))
    return ["--roster", str(tolerant), "--work", str(tmp_path / "w")]


@pytest.fixture
def few(tolerant: Path, options: list[str]) -> list[str]:
    """The options for tests in which the number of files says nothing: one model in two formats is loaded quickly."""
    head, _, models = tolerant.read_text().partition("models:\n")
    llama = models[: models.index("  - slug: m-gpt2")]
    tolerant.write_text(f"{head}models:\n{llama.replace('[f32, f16, Q8_0]', '[f16, Q8_0]')}")
    return options


def test_from_folder_to_verdict(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml, html = tmp_path / "j.xml", tmp_path / "p.html"
    assert main(["claims", "--roster", options[1], "--lock"]) == 0
    # No second oracle and no oracle of the tokenizer: not all could be decided, and the exit code says so.
    code = main(["ci", *options, "--junit", str(xml), "--html", str(html)])
    out = capsys.readouterr().out
    assert code == 3, out
    assert re.search(r"^token +12 +0 +0 +0$", out, re.MULTILINE)
    assert re.search(r"^second +0 +0 +12 +0$", out, re.MULTILINE)
    assert re.search(r"^lint +0 +0 +0 +6$", out, re.MULTILINE)
    assert "pass exact (locked" in out
    assert "INCONCLUSIVE: " in out
    verdict = json.loads((tmp_path / "w" / "verdict-llama.cpp.json").read_text())
    accept(verdict, "ground-truth")
    assert verdict["counts"]["declared"] == len(verdict["results"])
    assert verdict["loads"] == 6
    assert all(file["sha256"] and file["tokens_per_s"] == 123.5 for file in verdict["files"])
    assert len(list((tmp_path / "w" / "history").iterdir())) == 1
    root = ET.parse(xml).getroot()
    assert {suite.get("name") for suite in root} >= {"token", "claims"}
    assert "KL divergence by position" in html.read_text()


@pytest.mark.prove
def test_only_what_was_asked_for(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", *options])
    assert main(["check", *options, "--suite", "token", "--model", "m-gpt2"]) == 0
    out = capsys.readouterr().out
    assert "PASS: 6 checks declared: 6 PASS" in out
    # A part of the suites is no status of the runtime.
    assert not (tmp_path / "w" / "verdict-llama.cpp.json").exists()
    assert main(["check", *options, "--suite", "token", "--json", str(tmp_path / "v.json")]) == 0
    capsys.readouterr()
    assert main(["ticket", str(tmp_path / "v.json")]) == 0
    assert "Nothing failed." in capsys.readouterr().out
    (tmp_path / "v.json").write_text("{}")
    assert main(["ticket", str(tmp_path / "v.json")]) == 2
    assert main(["check", *options, "--suite", "nothing"]) == 2
    capsys.readouterr()
    assert main(["check", *options, *["--suite", "token"] * 2, *["--model", "m-gpt2"] * 2]) == 0
    assert "PASS: 6 checks declared: 6 PASS" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    options: list[str], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, why in ((tmp_path / "none" / "x", "there is no writable folder"), (tmp_path, "is a folder")):
        assert main(["check", *options, option, str(path)]) == 2
        err = capsys.readouterr().err
        assert f"{option} {path}: expected a file that can be written, but {why}" in err
    assert main(["attest", "--sha256", "a" * 64, "--json", str(tmp_path / "none" / "x")]) == 2
    assert "--json" in capsys.readouterr().err
    for more in (["--controls", "--model", "m-gpt2"], ["--work", options[1]]):
        assert main(["check", *options, *more]) == 2
        told = capsys.readouterr()
        # Not one row was judged.
        assert told.out == ""
        assert "asked in" not in told.err


@pytest.mark.parametrize("number", ["0", "-3", "x", "1.5"])
def test_threads_are_counted(options: list[str], number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", *options, "--threads", number])
    assert caught.value.code == 2
    assert f"argument --threads: expected a whole number, at least 1, found {number}" in capsys.readouterr().err


def test_a_model_that_was_not_converted_is_named_and_not_passed(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *options, "--suite", "token", "--model", "m-llama"]) == 3
    out = capsys.readouterr().out
    assert "6 checks declared: 0 PASS, 0 FAIL, 6 INCONCLUSIVE" in out
    assert "token m-llama f32 one: no such file, make it with `trialbench convert`: /" in out


@pytest.mark.prove
def test_a_wrong_file_fails_and_gets_a_ticket(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["convert", *options])
    path = tmp_path / "w" / "m-llama" / "llama.cpp" / "m-llama-Q8_0.gguf"
    path.write_text(json.dumps({"wrong": {"24": 30}}))
    assert main(["check", *options, "--suite", "token", "--json", str(tmp_path / "v.json")]) == 1
    capsys.readouterr()
    assert main(["ticket", str(tmp_path / "v.json")]) == 0
    text = capsys.readouterr().out
    assert "2 checks failed" in text
    assert "m-llama Q8\\_0 (2 checks)" in text
    assert re.search(
        r"^    LLAMA_CPP_BIN=\S+ trialbench ci --roster .* --suite token --model m-llama$", text, re.MULTILINE
    )
    assert "SHA-256" in text


@pytest.mark.prove
def test_recheck_shows_what_changed(few: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["ci", *few])
    capsys.readouterr()
    main(["recheck", *few])
    out = capsys.readouterr().out
    assert "Since the last verdict:\n  nothing changed" in out


def test_changes() -> None:
    row = {"suite": "token", "model": "m", "quant": "f16", "other": "", "prompt": "one", "status": "PASS", "says": "x"}
    before = {"runtime": {"name": "r", "version": "1"}, "results": [row, {**row, "prompt": "two"}]}
    after = {"runtime": {"name": "r", "version": "2"}, "results": [{**row, "status": "FAIL"}, {**row, "prompt": "new"}]}
    assert check.changes(before, after) == [
        "r: 1 -> 2",
        "token m f16 one: PASS -> FAIL: x",
        "token m f16 new: new, PASS",
        "token m f16 two: gone (was PASS)",
    ]
    assert check.changes(None, after) == ["there is no earlier verdict to compare with"]


def test_a_verdict_that_cannot_be_compared_with_is_none(tmp_path: Path) -> None:
    assert check.read_verdict(tmp_path / "v.json") is None
    for text in ("[]", "{}", "{", '{"results": 1}'):
        (tmp_path / "v.json").write_text(text)
        assert check.read_verdict(tmp_path / "v.json") is None


def test_a_verdict_that_was_written_can_be_read(tmp_path: Path) -> None:
    # A perplexity and a tensor's error of a damaged file, a token id of a stranger.
    row = failing(1, evidence={"perplexity": 5.2e21, "tensors": [{"max_abs": -3e38}], "got": [10**17], "fine": 9e14})
    path = tmp_path / "v.json"
    check.keep(path, verdict(row))
    found = check.read_verdict(path)
    assert found is not None
    assert found["results"][0]["evidence"] == {
        "perplexity": None,
        "tensors": [{"max_abs": None}],
        "got": [None],
        "fine": 9e14,
    }
    assert main(["ticket", str(path)]) == 0


def test_what_was_not_asked_this_time_is_not_gone() -> None:
    row = {"suite": "token", "model": "m", "quant": "f16", "other": "", "prompt": "one", "status": "PASS", "says": "x"}
    before = {"runtime": {"name": "r", "version": "1"}, "results": [row, {**row, "model": "other"}]}
    assert check.changes(before, {**before, "results": [row]}, part=True) == ["nothing changed"]


@pytest.mark.prove
def test_claims_decide_too(few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", *few])
    # Not locked: nothing was stated beforehand.
    main(["check", *few])
    assert "exact (NOT LOCKED)" in capsys.readouterr().out
    main(["claims", "--roster", few[1], "--lock"])
    assert "exact: locked" in capsys.readouterr().out
    main(["claims", "--roster", few[1], "--lock"])
    assert "nothing to lock" in capsys.readouterr().out
    assert main(["claims"]) == 2
    assert "names no folder of claims" in capsys.readouterr().err
    path = tmp_path / "w" / "m-llama" / "llama.cpp" / "m-llama-f16.gguf"
    path.write_text(json.dumps({"wrong": {"24": 30}}))
    assert main(["check", *few]) == 1
    assert "FAIL exact" in capsys.readouterr().out


def test_an_oracle_folder_of_ones_own(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", *options])
    assert main(["check", *options, "--suite", "token", "--oracle", str(tmp_path / "none")]) == 3
    assert "12 INCONCLUSIVE" in capsys.readouterr().out


# --- Controls --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tolerant: Path, tmp_path: Path, stand_ins: Path) -> tuple[Workspace, LlamaCpp]:
    workspace = Workspace(tmp_path / "w", load_roster(str(tolerant)))
    runtime = LlamaCpp(LocalTools(stand_ins))
    models = tuple(replace(one, quants={"llama.cpp": ("f32", "f16", "Q8_0")}) for one in workspace.roster.models)
    workspace.roster = replace(workspace.roster, models=models)
    workspace.convert(runtime, models, lambda _text: None)
    return workspace, runtime


def only(monkeypatch: pytest.MonkeyPatch, *names: str, **change: Any) -> None:
    chosen = tuple(replace(one, **change) for one in llama_cpp.CONTROLS if one.name in names)
    monkeypatch.setattr(llama_cpp, "CONTROLS", chosen)


@pytest.mark.prove
def test_a_control_is_caught_only_by_a_fail_beside_a_pass(
    bench: tuple[Workspace, LlamaCpp], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    only(monkeypatch, "other first token")
    (one,) = run_controls(workspace, runtime, model)
    assert set(one.by) == {"canary", "token"}
    # It contradicts its own distributions.
    assert one.rightly
    # There is no second oracle here: inconclusive on both sides is no catch.
    assert list(one.untried) == ["second"]
    assert "INCONCLUSIVE" in one.untried["second"]
    assert one.good
    uncovered = controls.uncovered([one], runtime, workspace, model)
    assert "token" not in uncovered
    assert "weights" in uncovered
    assert "lint" not in uncovered
    text = outputs.controls_table([one], uncovered)
    assert "caught other first token" in text
    assert "second could not: it does not pass the intact file either: INCONCLUSIVE" in text
    assert "weights: it caught no control" in text
    assert "1 of 1 controls rejected" in text
    missed = outputs.controls_table([replace(one, by=(), missed={"token": "PASS"})], [])
    assert "MISSED other first token" in missed
    assert "token did not: PASS" in missed
    assert "0 of 1 controls rejected" in missed


@pytest.mark.prove
def test_wrong_files_are_caught_by_what_reads_them(
    bench: tuple[Workspace, LlamaCpp], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    told: list[str] = []
    only(monkeypatch, "truncated file", aimed=("weights", "inspect", "validate", "tensors", "hex"))
    (cut,) = run_controls(workspace, runtime, model, tell=told.append)
    assert cut.good, cut.missed
    assert told == ["control truncated file: caught by weights, inspect, validate, tensors, hex"]
    only(monkeypatch)
    heads = replace(CONTROL["wrong head count"], spoil=llama_cpp._converted(heads=1))
    for name, one, aimed in (
        ("constant tensor", CONTROL["constant tensor"], "weights"),
        ("wrong head count", heads, "inspect"),
        ("corrupted tensor", CONTROL["corrupted tensor"], "weights"),
    ):
        monkeypatch.setattr(llama_cpp, "CONTROLS", (replace(one, aimed=(aimed,)),))
        (caught,) = run_controls(workspace, runtime, model)
        assert caught.by == (aimed,), (name, caught)
        # The ladder names the step that was made to be wrong, and the table says so.
        assert (caught.rightly, caught.good) == (True, True), caught.blamed
        assert f"guilty step: {one.guilty}: " in outputs.controls_table([caught], [])
    assert cut.blamed is not None
    assert cut.blamed.guilty is Step.FILE
    wrong = replace(cut, control=replace(cut.control, guilty=Step.RUNTIME))
    assert not wrong.good
    assert "guilty step: WRONG, it is runtime: file: " in outputs.controls_table([wrong], [])


@pytest.mark.prove
def test_the_reference_logits_are_of_this_file_and_this_text(bench: tuple[Workspace, LlamaCpp]) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    target = workspace.reference(model, "llama.cpp")

    def is_made() -> bool:
        before = target.stat().st_mtime_ns if target.exists() else 0
        for quant in ("f16", "Q8_0"):
            assert Evidence(workspace, runtime).perplexity(model, quant).kl_mean is not None
        return target.stat().st_mtime_ns != before

    assert is_made()
    assert not is_made()
    # A process that was ended while it made it left a part, and nothing that says of what.
    target.with_suffix(".json").unlink()
    assert is_made()
    assert workspace.roster.prompts.perplexity_text is not None
    workspace.roster.prompts.perplexity_text.write_text("another text")
    assert is_made()
    workspace.roster = replace(workspace.roster, perplexity_context=128)
    assert is_made()
    target.with_suffix(".json").write_text("{")
    assert is_made()


def test_nothing_is_written_beside_somebody_elses_file(bench: tuple[Workspace, LlamaCpp], tmp_path: Path) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    given = tmp_path / "downloads" / "model.bin"
    given.parent.mkdir()
    shutil.copy(workspace.path(model, "llama.cpp", "f32"), given)
    model = replace(model, files=dict.fromkeys(("f32", "f16"), given))
    workspace.roster = replace(workspace.roster, models=(model,))
    workspace.convert(runtime, [model], lambda _text: None)
    evidence = Evidence(workspace, runtime)
    result = judge(Row("roundtrip", model.slug, "f32"), evidence)
    assert result.status is Status.PASS, result.says
    assert judge(Row("tensors", model.slug, "f16"), evidence).status is Status.PASS
    Neighbors(evidence, model).imported()
    assert list(given.parent.iterdir()) == [given]


def test_other_numbers_of_a_configuration_are_the_imports(bench: tuple[Workspace, LlamaCpp], tmp_path: Path) -> None:
    workspace, _ = bench
    folder = workspace.folder(workspace.roster.models[0])
    for changes, says in (({}, []), ({"rope_theta": 10.0}, ["rope theta 10.0, expected 10000.0"]),
                          ({"heads": 1}, ["heads 1, expected 2", "width of a head 8, expected 4",
                                          "rotated dimensions 8, expected 4"])):  # fmt: skip
        to_gguf(folder, tmp_path / "m.gguf", "f32", changes=Changes(**changes))
        assert other_numbers(tmp_path / "m.gguf", folder) == says


def test_each_control_has_its_guilty_step() -> None:
    assert {one.name: one.guilty for one in llama_cpp.CONTROLS} == {
        "rows not permuted": Step.IMPORT, "corrupted tensor": Step.IMPORT, "NaN in a block": Step.FILE,
        "constant tensor": Step.IMPORT, "shifted BOS": Step.PROMPT, "swapped tokens": Step.PROMPT,
        "wrong RoPE base": Step.IMPORT, "truncated file": Step.FILE, "wrong chat template": Step.PROMPT,
        "wrong head count": Step.IMPORT, "same file twice": Step.QUANTIZATION, "stumbling runtime": Step.RUNTIME,
        "other first token": Step.RUNTIME, "lossy export": Step.EXPORT,
        # No file and no runtime is wrong there.
        "oracle of another text": None,
    }  # fmt: skip


CONTROL = {one.name: one for one in llama_cpp.CONTROLS}


@pytest.mark.prove
def test_a_control_that_cannot_be_made_proves_nothing(
    bench: tuple[Workspace, LlamaCpp], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, runtime = bench
    monkeypatch.setattr(
        llama_cpp, "CONTROLS", (CONTROL["swapped tokens"], CONTROL["lossy export"], CONTROL["same file twice"])
    )
    swapped, lossy, same = run_controls(workspace, runtime, workspace.roster.models[0])
    assert "could not be made" in swapped.trouble
    assert not swapped.good
    # The stand-in says the same whatever the file holds: the round trip sees nothing, and that is reported.
    assert not lossy.good
    assert list(lossy.missed) == ["roundtrip"]
    assert "could not be made: expected" in same.trouble
    assert "could not be made" in outputs.controls_table([swapped], [])
    monkeypatch.setattr(llama_cpp, "CONTROLS", (CONTROL["wrong RoPE base"],))

    def refuses(*_: Any) -> Any:
        from trialbench.ground_truth.runtimes.base import Call, Conversion

        return Conversion(None, Call())

    monkeypatch.setattr(runtime, "convert", refuses)
    (one,) = run_controls(workspace, runtime, workspace.roster.models[0])
    assert "it could not be quantized" in one.trouble


def test_damage_is_what_it_says() -> None:
    import numpy as np

    value = np.arange(256 * 4, dtype=np.float32).reshape(256, 4)
    moved = llama_cpp._not_permuted("blk.0.attn_q.weight", value)
    assert not np.array_equal(moved, value)
    assert np.array_equal(llama_cpp._not_permuted("blk.0.attn_v.weight", value), value)
    assert np.array_equal(llama_cpp._noisy("blk.1.ffn_down.weight", value), value)
    assert llama_cpp._swapped(["a", "\u0120the", "\u0120of"]) == ["a", "\u0120of", "\u0120the"]


def test_a_scale_that_is_not_a_number_is_in_the_files_bytes(bench: tuple[Workspace, LlamaCpp], tmp_path: Path) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    intact = workspace.artifact(model, "llama.cpp", "f16")
    bad = damaged(llama_cpp._not_finite)(Bench(workspace, runtime, model, intact, tmp_path)).artifact
    assert runtime.probe(Capability.VALIDATE, bad).payload["passed"] is False


def test_the_other_file_of_a_model_must_be_there(bench: tuple[Workspace, LlamaCpp], tmp_path: Path) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    one = Bench(workspace, runtime, model, workspace.artifact(model, "llama.cpp", "f16"), tmp_path)
    other = workspace.artifact(model, "llama.cpp", "Q4_0")
    with pytest.raises(TrialbenchError, match=r"m-llama-Q4_0\.gguf, found no such file"):
        llama_cpp._same_file(one)
    other.path.write_bytes(b"GGUF")
    assert llama_cpp._same_file(one).artifact.quant == "Q4_0"


def test_each_suite_is_the_aim_of_a_control() -> None:
    aimed = {name for one in llama_cpp.CONTROLS for name in one.aimed}
    assert aimed >= {
        "canary", "token", "drift", "roundtrip", "ppl", "forced", "second", "tokenizer", "template", "weights",
        "inspect", "validate", "tensors", "hex", "diff", "rosetta-diff",
    }  # fmt: skip


@pytest.mark.prove
def test_lies_are_told_about_one_thing(bench: tuple[Workspace, LlamaCpp]) -> None:
    workspace, runtime = bench
    model = workspace.roster.models[0]
    for name, quant, wrong in (("stumbling runtime", "Q8_0", [6, 7]), ("stumbling runtime", "f16", []),
                               ("other first token", "f16", [0])):  # fmt: skip
        lie = CONTROL[name].lie
        assert lie is not None
        evidence = Evidence(workspace, lie(runtime))
        got = evidence.seen(model, quant).generations["one"].tokens
        assert got is not None
        assert [at for at, (mine, theirs) in enumerate(zip(got, chain(3, 8), strict=True)) if mine != theirs] == wrong
    lie = CONTROL["stumbling runtime"].lie
    assert lie is not None
    liar = lie(runtime)
    artifact = workspace.artifact(model, "llama.cpp", "Q8_0")
    assert liar.perplexity(artifact, Path("text"), context=8).value == 3.6037
    assert liar.probe(Capability.TENSORS, artifact).payload["tensor_count"] == 20
    with liar.open(artifact) as session:
        assert session.trouble is None
        generated = session.generate(Prompt("p", "abc", (1, 2, 3)), max_new_tokens=4)
        assert generated.tokens is not None
        assert generated.tokens[:2] == chain(3, 4)[:2]
        assert session.tokenize("a", add_special=False).payload == [48]
        assert session.render([]).payload == ""
    assert changed(replace(generated, tokens=None), range).tokens is None
    liar.close()


@pytest.mark.prove
def test_the_controls_of_the_command_line(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The one that the controls are tried on.
    llama = [*options, "--model", "m-llama"]
    main(["convert", *llama])
    monkeypatch.setattr(llama_cpp, "CONTROLS", (replace(CONTROL["other first token"], aimed=("token",)),))
    monkeypatch.setattr(controls, "uncovered", lambda *_: [])
    assert main(["check", *llama, "--suite", "token", "--controls"]) == 0
    assert "1 of 1 controls rejected" in capsys.readouterr().out
    # There is no second oracle: whether it would be caught could not be tried, and that is no success.
    monkeypatch.setattr(llama_cpp, "CONTROLS", (replace(CONTROL["other first token"], aimed=("token", "second")),))
    assert main(["check", *llama, "--suite", "token", "--controls"]) == 3
    assert "second could not: it does not pass the intact file either" in capsys.readouterr().out
    monkeypatch.setattr(controls, "uncovered", lambda *_: ["x"])
    assert main(["check", *llama, "--suite", "token", "--controls"]) == 1
    assert main(["check", *options, "--suite", "token", "--controls", "--model", "m-gpt2"]) == 2


# --- Outputs ---------------------------------------------------------------------------------------------------------


def verdict(*results: Result, **more: Any) -> dict[str, Any]:
    return {
        "schema_version": 1, "verdict": "FAIL", "made": "2026-11-21T04:00:00+00:00", "trialbench": "0",
        "roster": {"name": "r", "path": "p"}, "runtime": {"name": "r", "version": EVIL},
        "machine": {"system": "s", "processor": EVIL, "cores": 2}, "seconds": 1.0, "loads": 1,
        "counts": {"declared": 3, "probative": 2, "PASS": 0, "FAIL": 1, "INCONCLUSIVE": 1, "NOT APPLICABLE": 0},
        "files": [], "claims": [], "results": [check.as_dict(one) for one in results], **more,
    }  # fmt: skip


def failing(number: int, **more: Any) -> Result:
    row = Row("token", "m", "f16", prompt=f"p{number}")
    return Result(row, Status.FAIL, f"says {EVIL}", expected=EVIL, got=EVIL + "\n```\nx", cause="c", **more)


def test_what_a_runtime_said_is_never_obeyed() -> None:
    data = verdict(
        *(failing(number, evidence={"a": float("nan"), "b": [(1, float("inf"))]}) for number in range(45)),
        replace(failing(99), status=Status.INCONCLUSIVE, proves_nothing=True, row=Row("debug", "m")),
        claims=[{"name": "c", "statement": EVIL, "standing": "NOT LOCKED", "status": "FAIL", "says": EVIL}],
    )
    json.dumps(data, allow_nan=False)
    text = outputs.table(data)
    assert "\x1b" not in text
    assert "and 5 more" in text
    assert "1 of them prove nothing" in text
    assert "debug" in text.split("proves nothing")[0]
    ticket = ticket_of(data)
    assert "\x1b" not in ticket
    # What is not in an indented block is escaped.
    prose = "\n".join(one for one in ticket.splitlines() if not one.startswith("    "))
    assert "@all" not in prose
    assert not re.search(r"(?<!\\)\]\(http", prose)
    assert not re.search(r"(?<!\\)<b", prose)
    assert "and 35 more" in ticket
    assert "* claim c (NOT LOCKED): FAIL: " in ticket
    xml = ET.fromstring(junit(data))
    numbers = {suite.get("name"): suite.attrib for suite in xml}
    assert numbers["token"] | {"tests": "45", "failures": "45", "errors": "0", "skipped": "0"} == numbers["token"]
    # What proves nothing is no success, whatever it says.
    assert numbers["debug"]["skipped"] == "1"
    assert numbers["claims"]["failures"] == "1"
    html = page(data)
    assert "<b>" not in html
    assert "&lt;/script&gt;" in html
    # The page's own one, whose hash its policy names.
    assert html.count("<script") == 1
    assert "http://y" not in html.replace("(http://y)", "")


@pytest.mark.parametrize(
    "said", ["http://y", "HTTPS://y/z", "www.y", "&commat;all", "&#35;1", "~~x~~", "$$x$$", "a@y.z"]
)
def test_a_ticket_has_no_links_and_no_entities(said: str) -> None:
    ticket = ticket_of(verdict(replace(failing(1), says=said, cause=said)))
    prose = "\n".join(one for one in ticket.splitlines() if not one.startswith("    "))
    # What a tracker acts on by itself: an address, an entity that stands for a mark, a mail, other marks.
    assert not re.search(r"://|www\.|(?<!\\)[&~$]|@\w", prose, re.IGNORECASE)


def test_no_name_ends_its_code_span() -> None:
    row = Row("token", "m` <b> @all `", "f16", prompt="p` @all")
    prose = ticket_of(verdict(replace(failing(1), row=row)))
    assert "`token m' <b> @all ' f16`" in prose
    assert "(`token m' <b> @all ' f16 p' @all`)" in prose


def test_a_broken_claim_is_not_nothing() -> None:
    claim = {"name": "c", "statement": "s", "standing": "locked", "status": "FAIL", "says": "3, claimed at most 0"}
    ticket = ticket_of(verdict(claims=[claim]))
    assert ": 0 defects, 0 checks failed, 1 claim broken\n" in ticket
    assert "No check failed; the broken claims are listed above. 1 check could not be decided." in ticket


def test_a_claims_standing_is_in_every_output() -> None:
    amended = "locked 2026-11-21, AMENDED once (2026-11-22)"
    claim = {"name": "c", "statement": "s", "standing": amended, "status": "PASS", "says": "found 0"}
    data = verdict(claims=[claim])
    root = ET.fromstring(junit(data))
    assert [one.text for one in root.iter("system-out")] == [f"{amended}: found 0\ns"]
    assert amended in outputs.table(data)
    assert f"claim c ({amended}): PASS" in ticket_of(data)
    assert amended in page(data)


def test_characters_that_xml_cannot_hold_are_spelt_out() -> None:
    ugly = "".join(chr(number) for number in range(32)) + "\x7f\ufffe\ud800\u202e\U000e0001]]>&<"
    row = replace(failing(1), says=ugly, row=Row("token", ugly, "f16", prompt=ugly))
    root = ET.fromstring(junit(verdict(row)).encode())
    (message,) = (one.get("message") for one in root.iter("failure"))
    assert message is not None
    assert message.endswith("\\x7f\\ufffe\\ud800\\u202e\U000e0001]]>&<")


class Screen(io.StringIO):
    """A stream that is a terminal, or not."""

    def __init__(self, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live


def test_progress_is_one_line_on_a_terminal_and_nothing_in_a_log() -> None:
    screen, log = Screen(True), Screen(False)
    for stream in (screen, log):
        live = outputs.Progress(stream)
        live(1, 139, replace(failing(1), row=Row("token", "m\x1b[31m", "f16")))
        live.tell("m f16: asked in 0.1 s")
        live(2, 139, replace(failing(2), status=Status.PASS))
        live.end()
    assert "1/139 token m\\x1b[31m f16: FAIL (1 FAIL)" in screen.getvalue()
    assert "2/139 token m f16 p2: PASS (1 pass, 1 FAIL)" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[2K")
    assert log.getvalue() == "m f16: asked in 0.1 s\n"


def test_a_page_without_anything_to_plot() -> None:
    file = {"model": "m", "quant": "f16", "bytes": None, "tokens_per_s": None, "sha256": None}
    html = page(verdict(files=[file]))
    assert "<svg" not in html
    assert "m f16" in html
    assert "not there" in html


def judged_file(quant: str, size: int, kl: float, wrong: int | None) -> tuple[dict[str, Any], list[Result]]:
    """A file, and rows about it: one position of two is another token when `wrong` says so."""
    evidence = {
        "agreement": 0.5, "kl_mean": kl, "kl_by_position": {"one": [0.0, kl]},
        "disagreements": {"one": [] if wrong is None else [wrong]},
    }  # fmt: skip
    told = {"compared": 2, "mismatches": int(wrong is not None), "first_divergence": wrong}
    rows = [
        Result(Row("forced", "m", quant), Status.PASS, "x", evidence=evidence),
        Result(Row("token", "m", quant, prompt="one"), Status.PASS, "x", evidence=told),
        Result(Row("ppl", "m", quant), Status.PASS, "x", evidence={"perplexity": 2.0}),
    ]
    return {"model": "m", "quant": quant, "bytes": size, "tokens_per_s": 10.0, "sha256": "ab"}, rows


def test_curves_rings_and_lanes() -> None:
    first, exact = judged_file("f16", 2_000_000, 0.0, None)
    second, coarse = judged_file("Q4_0", 500_000, 5.0, 1)
    html = page(verdict(*exact, *coarse, files=[first, second]))
    assert "50.0%" in html
    for title in ("Fidelity against size", "Fidelity against speed", "m: KL divergence by position"):
        assert title in html
    # In the wide drawing and in the narrow one.
    assert html.count("Q4_0, position 1: another token") == 2
    assert html.count("one: the same to the end") == 2
    assert html.count("one: from position 1 on, x") == 2
    # Without distributions the tokens tell the distance.
    alone = page(verdict(exact[1], coarse[1], files=[first, second]))
    assert "tokens that differ, %" in alone
    assert "KL divergence by position" not in alone
    # One file is no comparison.
    assert "fidelity-size" not in page(verdict(*exact, files=[first]))


def test_the_guilty_step_is_shown_everywhere() -> None:
    rungs = [
        {"step": "prompt or tokenizer", "good": True, "says": "fine"},
        {"step": "import", "good": None, "says": "unknown"},
        {"step": "quantization", "good": False, "says": EVIL},
    ]
    ladder = {"model": "m", "quant": "f16", "rungs": rungs, "guilty": "quantization", "sure": False}
    data = verdict(failing(1), ladders=[ladder])
    assert "m f16: quantization (or, not compared: import): " in outputs.table(data)
    assert "* guilty step of m f16: quantization (or, not compared: import): " in ticket_of(data)
    html = page(data)
    assert "Guilty step" in html
    assert "broken" in html
    assert "<b>" not in html


def test_the_same_defect_is_one_section() -> None:
    rows = [failing(number) for number in range(3)]
    other = [replace(one, row=replace(one.row, model=f"m{number}"), cause="another") for number, one in enumerate(rows)]
    ticket = ticket_of(verdict(*rows, *other))
    assert "2 defects, 6 checks failed" in ticket
    assert "Met by `token m f16` (p0, p1, p2)." in ticket
    assert ticket.count("Fingerprint: `gt-") == 2
    assert fingerprint("apr", "c") != fingerprint("llama.cpp", "c")
    # The same in the next version and on another machine.
    assert f"`{fingerprint('r', 'another')}`" in ticket


def test_the_processor_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert check._processor()
    monkeypatch.setattr(Path, "read_text", lambda *_a, **_k: "nothing")
    assert check._processor() == os.uname().machine

    def gone(*_a: Any, **_k: Any) -> str:
        raise OSError("no /proc")

    monkeypatch.setattr(Path, "read_text", gone)
    assert isinstance(check._processor(), str)
