"""Every suite against the real apr, on the project's tiny models. APR_BINARY names the program.

APR_BINARY=~/.cargo/bin/apr pytest tests/live/test_apr.py -rs

What holds for any version is asserted for all; what 0.72.3 is known to do is asserted for that version alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from trialbench import schemas
from trialbench.cli import main
from trialbench.files import read_json
from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import load_roster
from trialbench.ground_truth.runtimes.apr import KNOWN_VERSION, Apr
from trialbench.ground_truth.runtimes.base import Artifact, Capability
from trialbench.ground_truth.suites.results import Row, Status
from trialbench.ground_truth.suites.table import declared, judge, suite

BINARY = os.environ.get("APR_BINARY", "")
ROSTER = Path(__file__).resolve().parents[1] / "fixtures" / "ground_truth" / "roster.yml"
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not BINARY, reason="APR_BINARY is not set: the real apr (crate apr-cli) was not asked"),
]
# Trouble that is the adapter's: it did not understand the program, or the program did not understand it.
MISREAD = ("unreadable", "missing-field", "answer:", "timeout", "oracle without", "changed since")


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which everything was converted and checked once."""
    folder = tmp_path_factory.mktemp("apr")
    code = main(["ci", "--runtime", "apr", "--roster", str(ROSTER), "--work", str(folder),
                 "--html", str(folder / "report.html"), "--junit", str(folder / "junit.xml")])  # fmt: skip
    assert code in (0, 1, 3)
    return folder


@pytest.fixture(scope="session")
def verdict(work: Path) -> dict[str, Any]:
    found = read_json(work / "verdict-apr.json")
    jsonschema.validate(found, schemas.load("ground-truth"))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def apr() -> Iterator[Apr]:
    runtime = Apr(BINARY)
    yield runtime
    runtime.close()


@pytest.fixture
def known(verdict: dict[str, Any]) -> None:
    version = verdict["runtime"]["version"].split()[0]
    if version != KNOWN_VERSION:
        pytest.skip(f"apr {version}: what is known of {KNOWN_VERSION} says nothing about it")


def rows_of(verdict: dict[str, Any], name: str, slug: str = "") -> list[dict[str, Any]]:
    """The rows of a suite (about one model); there are some."""
    found = [row for row in verdict["results"] if row["suite"] == name and slug in ("", row["model"])]
    assert found, name
    return found


def test_every_declared_row_was_answered(verdict: dict[str, Any]) -> None:
    rows = declared(load_roster(str(ROSTER)), "apr")
    assert verdict["counts"]["declared"] == len(verdict["results"]) == len(rows) == 139
    assert verdict["counts"]["declared"] - verdict["counts"]["probative"] == 7


def test_every_file_was_made(verdict: dict[str, Any]) -> None:
    missing = [f"{file['model']} {file['quant']}" for file in verdict["files"] if not file["sha256"]]
    assert not missing
    assert len({file["sha256"] for file in verdict["files"]}) == 6


def test_the_adapter_understood_every_answer(verdict: dict[str, Any]) -> None:
    misread = [row for row in verdict["results"] if row["cause"].startswith(MISREAD)]
    assert not misread, misread[:3]
    refused = [
        row for row in verdict["results"] if "unexpected argument" in row["says"] or "unrecognized" in row["says"]
    ]
    assert not refused, refused[:3]


def test_what_was_found_can_be_handed_on(
    work: Path, verdict: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ticket", str(work / "verdict-apr.json")]) == 0
    out = capsys.readouterr().out
    assert verdict["runtime"]["version"].split()[0] in out
    assert (work / "junit.xml").stat().st_size > 1000
    assert "<h1" in (work / "report.html").read_text(encoding="utf-8")


# Of these the answer about a good file was recorded; the others are judged as they come.
RECORDED: dict[str, dict[str, tuple[str, ...]]] = {
    "tiny-llama": {
        "int8": ("inspect", "validate", "tensors", "lint", "tree", "oracle-id", "hex", "debug"),
        "int4": ("inspect", "validate", "tensors", "lint", "oracle-id"),
    },
    "tiny-qwen2": {"int8": ("inspect", "validate", "tensors", "lint", "oracle-id", "hex", "debug")},
    "tiny-gpt2": {"int8": ("inspect", "validate", "tensors", "lint", "oracle-id", "hex", "debug")},
}


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("slug", RECORDED)
def test_questions_about_a_good_file(verdict: dict[str, Any], slug: str) -> None:
    asked = [
        row
        for quant, names in RECORDED[slug].items()
        for name in names
        for row in rows_of(verdict, name, slug)
        if row["quant"] == quant
    ]
    assert len(asked) == sum(len(names) for names in RECORDED[slug].values())
    assert [(row["suite"], row["quant"], row["says"]) for row in asked if row["status"] != "PASS"] == []


@pytest.mark.usefixtures("known")
def test_known_panics_are_failures(verdict: dict[str, Any]) -> None:
    for name, quants in (("ppl", ("int8", "int4")), ("bench", ("int8", "int4")), ("qa", ("int8",))):
        for row in rows_of(verdict, name, "tiny-llama"):
            if row["quant"] in quants:
                assert (row["status"], "panicked at" in row["says"]) == ("FAIL", True), row


@pytest.mark.usefixtures("known")
def test_known_refusals_are_failures(verdict: dict[str, Any]) -> None:
    for name in ("token", "canary", "roundtrip", "selftest"):
        rows = [row for row in rows_of(verdict, name, "tiny-gpt2") if name != "selftest" or row["quant"] == "int8"]
        assert {row["status"] for row in rows} == {"FAIL"}


@pytest.mark.usefixtures("known")
def test_a_build_without_a_gpu_decides_nothing_about_one(verdict: dict[str, Any]) -> None:
    for row in rows_of(verdict, "parity-gpu"):
        assert row["status"] != "NOT APPLICABLE"
        if "Feature not enabled" in row["says"]:
            assert row["status"] == "INCONCLUSIVE"


def test_tokens_are_compared_only_for_the_same_prompt(verdict: dict[str, Any]) -> None:
    for row in rows_of(verdict, "token"):
        if row["status"] in ("PASS", "FAIL") and "expected" in row["evidence"]:
            assert row["evidence"]["got"]
            assert row["evidence"]["compared"] >= len(row["evidence"]["got"])
        elif row["status"] == "INCONCLUSIVE":
            assert "not the same prompt" in row["says"] or "no tokens" in row["says"], row


def test_the_same_question_gets_the_same_tokens(work: Path, apr: Apr) -> None:
    roster = load_roster(str(ROSTER))
    space, model = Workspace(work, roster), roster.model("tiny-llama")
    first, second = (Evidence(space, apr).seen(model, "int8").generations for _ in range(2))
    assert {name: one.tokens for name, one in first.items()} == {name: one.tokens for name, one in second.items()}


def cut(intact: Artifact, target: Path) -> Artifact:
    """The first quarter."""
    raw = intact.path.read_bytes()
    target.write_bytes(raw[: len(raw) // 4])
    return replace(intact, path=target, sha256="")


def overwritten(intact: Artifact, target: Path) -> Artifact:
    """A tenth of the file, in its middle, all ones."""
    raw = bytearray(intact.path.read_bytes())
    start, size = len(raw) // 2, len(raw) // 10
    raw[start : start + size] = b"\xff" * size
    target.write_bytes(bytes(raw))
    return replace(intact, path=target, sha256="")


@pytest.mark.parametrize("damage", [cut, overwritten])
def test_no_suite_that_vouches_for_a_file_passes_a_damaged_one(
    damage: Any, work: Path, apr: Apr, tmp_path: Path
) -> None:
    roster = load_roster(str(ROSTER))
    space, model = Workspace(work, roster), roster.model("tiny-llama")
    bad = damage(space.artifact(model, "apr", "int8"), tmp_path / "tiny-llama-int8.apr")
    evidence = Evidence(space, apr, replaced={("tiny-llama", "int8"): bad})
    rows = [row for row in declared(roster, "apr", (), ["tiny-llama"]) if "int8" in (row.quant, row.other)]
    vouch = [row for row in rows if suite(row.suite).integrity and "apr" not in suite(row.suite).blind]
    passed = [row.label for row in vouch if judge(row, evidence).status is Status.PASS]
    # A matrix may be read from elsewhere, or saturate: what passes must then say exactly what the intact file says.
    intact = Evidence(space, apr)
    for label in list(passed):
        row = next(one for one in rows if one.label == label)
        if row.prompt and judge(row, evidence).evidence.get("got") == judge(row, intact).evidence.get("got"):
            passed.remove(label)
    assert passed == []


def test_a_file_that_is_not_there_is_named(work: Path, apr: Apr, tmp_path: Path) -> None:
    roster = load_roster(str(ROSTER))
    lost = Artifact(tmp_path / "lost.apr", "tiny-llama", "apr", "int8")
    evidence = Evidence(Workspace(work, roster), apr, replaced={("tiny-llama", "int8"): lost})
    for name in ("token", "inspect", "ppl", "roundtrip"):
        found = judge(Row(name, "tiny-llama", "int8", "", "greeting" if name == "token" else ""), evidence)
        assert (found.status, "lost.apr: no such file" in found.says) == (Status.INCONCLUSIVE, True)


def test_a_file_that_was_changed_passes_nothing(work: Path, apr: Apr, tmp_path: Path) -> None:
    roster = load_roster(str(ROSTER))
    space, model = Workspace(work, roster), roster.model("tiny-llama")
    intact = space.artifact(model, "apr", "int8")
    bad = replace(overwritten(intact, tmp_path / "tiny-llama-int8.apr"), sha256=intact.sha256)
    evidence = Evidence(space, apr, replaced={("tiny-llama", "int8"): bad})
    for name in ("inspect", "validate", "tensors", "lint", "tree", "oracle-id", "hex"):
        found = judge(Row(name, "tiny-llama", "int8"), evidence)
        assert found.status is not Status.PASS, found
    found = judge(Row("debug", "tiny-llama", "int8"), evidence)
    assert found.proves_nothing


def test_the_ladders_have_their_rungs(verdict: dict[str, Any]) -> None:
    # gpt2 is refused, so there is at least one.
    assert verdict["ladders"]
    for ladder in verdict["ladders"]:
        steps = [rung["step"] for rung in ladder["rungs"]]
        assert steps[:5] == ["file", "prompt or tokenizer", "import", "quantization", "runtime"], steps
        assert ladder["rungs"][0]["good"] is True


def test_the_controls_are_tried(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "--runtime", "apr", "--roster", str(ROSTER), "--work", str(work), "--suite", "list"]
    assert main([*words, "--model", "tiny-llama", "--controls"]) in (0, 1, 3)
    out = capsys.readouterr().out
    for name in (
        "truncated file",
        "blind comparison",
        "wrong metadata",
        "ignores --json",
        "yes, and a failing exit code",
    ):
        assert f"caught {name}" in out, out


def test_gguf_and_back(work: Path, apr: Apr, tmp_path: Path) -> None:
    roster = load_roster(str(ROSTER))
    space = Workspace(work, roster)
    intact = space.artifact(roster.model("tiny-llama"), "apr", "int8")
    made = apr.convert(Capability.EXPORT, intact, tmp_path / "out", "int8")
    assert made.artifact is not None, made.trouble
    back = apr.convert(Capability.IMPORT_GGUF, made.artifact, tmp_path / "back.apr", "int8")
    assert back.artifact is not None, back.trouble
    assert back.artifact.parents == ("hf", "apr int8", "gguf exported", "apr int8")
    names = apr.probe(Capability.TENSORS, back.artifact).payload
    assert names is not None
    assert names["tensor_count"] > 0
