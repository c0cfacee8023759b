"""The proofs of engines beside a trial, and the three answers behind its verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench import schemas
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.report import run as reading
from trialbench.report.decide import decide_folder, evidence_of
from trialbench.report.evidence import Evidence, attested
from trialbench.report.export import write_exports
from trialbench.report.html.proofcharts import shown
from trialbench.report.html.report import report_html
from trialbench.report.proofs import contradiction, figure, in_order, read_proof, take_proofs
from trialbench.report.run import Attestation, read_run
from trialbench.report.summary import summarize_run
from trialbench.report.table import folder_table
from trialbench.worker.proof import Check, Expectation, Proof


def document(*checks: Check, name: str = "cold-start", **changes: Any) -> dict[str, Any]:
    """A proof as `trialbench proof` writes it."""
    engine = {"source": "gemma_local", "model": "m", "bits": 8}
    found = Proof(name, engine, list(checks), began="2026-11-21T06:00:00+00:00").as_dict() | changes
    assert schemas.validate(found, "proof") == []
    return json.loads(json.dumps(found))  # type: ignore[no-any-return] # what it was


FAST = Check("cold_start_s", 0.5, "s", Expectation("<", 2), "from the start")
SLOW = Check("tokens_per_s", 3.25, "/s", Expectation(">", 10))


def answers(path: Path) -> dict[str, Evidence]:
    folder = read_run(path)
    return {one.question: one for one in evidence_of(folder, summarize_run(folder))}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_proof_is_told_by_its_numbers() -> None:
    one = read_proof("a.json", document(FAST, Check("told", 7.0, "ms")))
    assert (
        one.line
        == "Cold start passed: cold_start_s 0.5 s; 1 of 1 numbers as expected (gemma_local m, 8 bits, 2026-11-21)"
    )
    one = read_proof("a.json", document(FAST, SLOW))
    assert one.line == "Cold start FAILED: tokens_per_s 3.25 /s, expected > 10 (gemma_local m, 8 bits, 2026-11-21)"
    assert [number.word for number in one.numbers] == ["ok", "FAILED"]
    one = read_proof("a.json", document(Check("x", None, "s", Expectation("<", 2), "off", skipped=True), FAST))
    assert [(number.found, number.word, number.holds) for number in one.numbers] == [
        ("-", "skipped", True),
        ("0.5 s", "ok", True),
    ]


def test_proofs_stand_by_engine_and_in_their_order() -> None:
    documents = [
        document(FAST, name="cancel"),
        document(FAST, name="cold-start", source="llama_server", model=None, bits=None),
        document(FAST, name="timeout-retry"),
        document(FAST, name="cold-start"),
    ]
    found = in_order([read_proof("a.json", one) for one in documents])
    assert [(one.name, one.engine) for one in found] == [
        ("cold-start", "gemma_local m, 8 bits"),
        ("timeout-retry", "gemma_local m, 8 bits"),
        ("cancel", "gemma_local m, 8 bits"),
        ("cold-start", "llama_server model unknown"),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ok": True}, "says it passed, and its numbers say otherwise"),
        ({"checks": [FAST.as_dict()], "ok": False}, "says it failed, and its numbers say otherwise"),
        ({"checks": [], "ok": True}, "says it passed, and its numbers say otherwise"),
        ({"checks": [FAST.as_dict() | {"ok": False}]}, "says FAILED of cold_start_s, and the number says otherwise"),
        ({"checks": [SLOW.as_dict() | {"ok": True}]}, "says ok of tokens_per_s, and the number says otherwise"),
    ],
)
def test_a_proof_whose_numbers_say_otherwise_is_none(
    changes: dict[str, Any], says: str, folders: ModuleType, tmp_path: Path
) -> None:
    run = folders.finished(tmp_path / "run")
    (run / "proofs").mkdir()
    wrong = document(FAST, SLOW) | changes
    assert contradiction(wrong) == says
    (run / "proofs" / "x.json").write_text(json.dumps(wrong))
    folder = read_run(run)
    assert folder.proofs == []
    assert folder.unread == [f"proofs/x.json: {says}"]
    assert answers(run)["engines"].finding == "none"


@given(
    st.floats(-1e6, 1e6),
    st.sampled_from(["<", "<=", ">", ">=", "="]),
    st.floats(-1e6, 1e6).map(lambda limit: round(limit, 3)),
)
def test_what_a_proof_writes_never_contradicts_itself(value: float, relation: str, limit: float) -> None:
    assert contradiction(document(Check("x", value, "s", Expectation(relation, limit)))) == ""


def test_files_that_are_no_proofs_are_named(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folders.finished(tmp_path / "run")
    (run / "proofs").mkdir()
    (run / "proofs" / "a.json").write_text("[]")
    (run / "proofs" / "b.json").write_text('{"proof":')
    (run / "proofs" / "c.json").write_text(json.dumps(document(FAST)) + " " * 5000)
    (run / "proofs" / "d.json").write_text(json.dumps(document(FAST)))
    (run / "proofs" / "e.json").write_text(json.dumps(document(FAST)))
    monkeypatch.setattr(reading, "MAX_BYTES", 5000)
    monkeypatch.setattr(reading, "MAX_FILES", 4)
    folder = read_run(run)
    assert [proof.file for proof in folder.proofs] == ["d.json"]
    assert ["proofs/a.json" in folder.unread[0], "is not JSON" in folder.unread[1]] == [True, True]
    assert folder.unread[2:] == ["proofs/c.json: is larger than any proof (5000 bytes)", "proofs: 1 more files than 4"]
    assert "proofs/a.json" in report_html(run)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (2, "2"), (0.72134, "0.7213"), (2500.4, "2500"), (1e-3, "0.001")]
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


# --- into the run ----------------------------------------------------------------------------------------------------


@pytest.mark.prove
def test_proofs_are_taken_into_the_run(folders: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, source = folders.finished(tmp_path / "run"), tmp_path / "proofs"
    source.mkdir()
    (source / "cold-start.json").write_text(json.dumps(document(FAST)))
    (source / "cold-start.xml").write_text("<testsuites/>")
    assert main(["verdict", str(run), "--proofs", str(source)]) == 0
    assert [file.name for file in (run / "proofs").iterdir()] == ["cold-start.json"]
    decision = json.loads((run / "verdict.json").read_text())
    assert schemas.validate(decision, "verdict") == []
    assert decision["verdict"] == "PENDING_REVIEW", "proofs decide nothing"
    assert decision["evidence"]["engines"]["finding"] == "open"
    assert decision["evidence"]["engines"]["lines"][1] == (
        "Not tried: Timeout and retry, Cancel in the middle (gemma_local m, 8 bits)"
    )
    # Newer ones replace those of the same name.
    (source / "cold-start.json").write_text(json.dumps(document(SLOW)))
    (source / "cancel.json").write_text(json.dumps(document(FAST, name="cancel")))
    assert main(["report", str(run), "--proofs", str(source)]) == 0
    assert answers(run)["engines"].finding == "failed"
    assert len(read_run(run).proofs) == 2
    capsys.readouterr()


def test_where_there_are_no_proofs_nothing_is_taken(
    folders: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folders.finished(tmp_path / "run")
    for source in (tmp_path / "nowhere", tmp_path):
        assert main(["verdict", str(run), "--proofs", str(source)]) == 2
        assert "expected a folder with proofs" in capsys.readouterr().err
    assert not (run / "proofs").exists()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "x.json").write_text("{}")
    assert main(["report", str(tmp_path / "some"), "--proofs", str(tmp_path / "some")]) == 2
    assert not (tmp_path / "some" / "proofs").exists()
    with pytest.raises(UsageError):
        take_proofs(run, tmp_path / "nowhere")


# --- three answers ---------------------------------------------------------------------------------------------------


def test_without_anything_it_says_none(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    found = answers(run)
    assert list(found) == ["trial", "ground_truth", "engines"]
    assert (found["ground_truth"].finding, found["engines"].finding) == ("none", "none")
    assert found["ground_truth"].lines == [
        "none: not required, and there is no verdict of `trialbench check` for these files"
    ]
    assert found["engines"].lines == ["none: this run has no proofs (`trialbench proof` makes them)"]
    text = folder_table(run)
    assert "Evidence" in text
    assert "Proofs\n" not in text
    assert 'id="proofs"' not in report_html(run)


@pytest.mark.prove
def test_the_trial_is_judged_by_its_own_rules(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    assert answers(run)["trial"].finding == "open"
    decide_folder(run, judged={"describe": "better"}, ground_truth="failed")
    assert read_run(run).verdict.verdict == "REJECT"  # type: ignore[union-attr] # it was just written
    found = answers(run)
    assert found["trial"].finding == "passed"
    assert found["trial"].lines[0] == "adherent, within VRAM, and judged better than the baseline"
    assert "memory of the candidate 6.15 GB, healthy 5.5-7.5 GB" in found["trial"].lines
    assert any(line.startswith("latency 1.90 times") and line.endswith("NOISY") for line in found["trial"].lines)
    assert found["ground_truth"].finding == "failed"
    assert "as set by" in found["ground_truth"].lines[0]
    decide_folder(run, judged={"describe": "worse"})
    assert answers(run)["trial"].finding == "failed"
    decide_folder(run, ground_truth="missing")
    found = answers(run)
    assert found["ground_truth"].finding == "none"
    assert "it is required" in found["ground_truth"].lines[0]


def test_a_run_that_measured_nothing_has_no_trial(folders: ModuleType, tmp_path: Path) -> None:
    assert answers(folders.rehearsal(tmp_path / "a"))["trial"].lines == ["none: a rehearsal measures nothing"]
    assert answers(folders.untouched(tmp_path / "b"))["trial"].finding == "none"
    assert answers(folders.rolled_back(tmp_path / "c"))["trial"].finding == "open"


@pytest.mark.parametrize(
    ("status", "required", "finding", "counts", "verdict"),
    [
        ("passed", False, "passed", "not_required", "ADOPT"),
        ("passed", True, "passed", "passed", "ADOPT"),
        ("failed", False, "failed", "failed", "REJECT"),
        ("failed", True, "failed", "failed", "REJECT"),
        ("open", True, "open", "missing", "INCONCLUSIVE"),
        ("missing", True, "open", "missing", "INCONCLUSIVE"),
        ("missing", False, "open", "not_required", "ADOPT"),
    ],
)
def test_ground_truth_counts_as_it_was_attested(
    status: str, required: bool, finding: str, counts: str, verdict: str, folders: ModuleType, tmp_path: Path
) -> None:
    run = folders.attested(folders.finished(tmp_path / "run"), status, required=required)
    decision = decide_folder(run, judged={"describe": "better"})
    assert (decision["facts"]["ground_truth"], decision["verdict"]) == (counts, verdict)
    assert decision["evidence"]["ground_truth"] == {
        "finding": finding,
        "lines": ["e4b model: passed", f"e4b projector: {status}"],
    }
    assert schemas.validate(decision, "verdict") == []
    document = report_html(run)
    assert 'id="attested"' in document


def test_what_was_missing_may_be_there_by_now(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    assert decide_folder(run, ground_truth="missing")["facts"]["ground_truth"] == "missing"
    folders.attested(run)
    assert decide_folder(run)["facts"]["ground_truth"] == "passed"
    # And what somebody said stays said.
    folders.attested(run, "failed")
    assert decide_folder(run)["facts"]["ground_truth"] == "passed"
    assert decide_folder(run, ground_truth="not_required")["facts"]["ground_truth"] == "not_required"


def test_an_attestation_of_no_files_says_nothing(folders: ModuleType, tmp_path: Path) -> None:
    empty = {"format": 1, "made": "now", "required": True, "files": []}
    assert schemas.validate(empty, "attestation") == []
    assert attested(Attestation(True, ())) == "missing"
    assert attested(Attestation(False, ())) == "not_required"
    assert attested(None) == "not_required"
    run = folders.finished(tmp_path / "run")
    (run / "attestation.json").write_text(json.dumps(empty))
    assert answers(run)["ground_truth"].finding == "none"
    assert 'id="attested"' not in report_html(run)


def test_all_three_proofs_of_every_engine_are_a_pass(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.rich(tmp_path / "run")
    assert answers(run)["engines"].finding == "failed"
    (run / "proofs" / "cold-start-slow.json").unlink()
    found = answers(run)["engines"]
    assert (found.finding, len(found.lines)) == ("passed", 6)


# --- shown -----------------------------------------------------------------------------------------------------------


def test_the_table_for_people_has_every_number(folders: ModuleType, tmp_path: Path) -> None:
    text = folder_table(folders.rich(tmp_path / "run"))
    assert max(len(line) for line in text.splitlines()) <= 100
    part = text[text.index("Proofs\n") : text.index("Evidence\n")]
    assert "Cold start, gemma_local slow, 16 bits: FAILED" in part
    assert "cold_start_s  2.613 s    < 2   FAILED" in part
    assert "quiet_max_ms     233.9 ms  < 2500  ok" in part
    assert "fallback_s  -        < 10  skipped" in part
    assert "engines (Does it survive?) failed" in text


def test_junit_and_metrics_know_the_proofs(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.attested(folders.rich(tmp_path / "run"), "failed")
    write_exports(run, ["junit", "openmetrics"])
    root = ElementTree.parse(run / "exports" / "junit.xml").getroot()
    suites: dict[str | None, ElementTree.Element] = {suite.get("name"): suite for suite in root}
    proved = suites["proofs"]
    assert (proved.get("tests"), proved.get("failures"), proved.get("skipped")) == ("31", "2", "3")
    failed = [case for case in proved if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == [
        "cold-start gemma_local slow, 16 bits: cold_start_s",
        "cold-start gemma_local slow, 16 bits: tokens_per_s",
    ]
    message = failed[0].find("failure").get("message")  # type: ignore[union-attr] # it is there
    assert message == "expected < 2 s, found 2.613 s"
    truth = suites["ground_truth"]
    assert [(case.get("name"), case.find("failure") is None) for case in truth if case.tag == "testcase"] == [
        ("same model", True),
        ("same model #2", False),
    ]
    folders.attested(run, "missing")
    write_exports(run, ["junit"])
    assert '<skipped message="e4b projector: missing" />' in (run / "exports" / "junit.xml").read_text()
    lines = [line for line in (run / "exports" / "metrics.prom").read_text().splitlines() if "proof_passed{" in line]
    assert len(lines) == 7
    assert sum(line.endswith(" 0") for line in lines) == 1


def test_bars_are_drawn_where_there_is_a_bound(make_drawn: Callable[..., str]) -> None:
    low = make_drawn(FAST, Check("failed", 0.0, "of 3", Expectation("=", 0)))
    assert "cold_start_s 0.5 s, expected &lt; 2" in low
    assert "failed 0 of 3" not in low, "a count of nothing needs no bar"
    assert "FAILED" not in low
    bad = make_drawn(
        SLOW, Check("failed", 2.0, "of 3", Expectation("=", 0)), Check("none", None, "s", Expectation("<", 1))
    )
    for told in ("FAILED tokens_per_s 3.25 /s", "FAILED failed 2 of 3", "FAILED none -"):
        assert told in bad
    assert bad.count('class="fill failed"') == 2 * 3


@pytest.fixture
def make_drawn() -> Callable[..., str]:
    def drawn(*checks: Check) -> str:
        (one,), hidden = shown([read_proof("a.json", document(*checks))])
        assert hidden == 0
        assert one.figure is not None
        for drawing in (one.figure.wide, one.figure.narrow):
            ElementTree.fromstring(drawing)
        return str(one.figure.wide) + str(one.figure.narrow)

    return drawn


def test_what_has_no_bound_is_a_table_alone_and_too_many_are_counted() -> None:
    (one,), _ = shown([read_proof("a.json", document(Check("failed", 0.0, "of 3", Expectation("=", 0))))])
    assert one.figure is None
    assert one.tables[0].rows == [["failed", "0 of 3", "= 0", "ok", "-"]]
    many = [read_proof(f"{at:02}.json", document(FAST, model=f"m{at:02}")) for at in range(20)]
    engines, hidden = shown(many)
    assert (len(engines), hidden) == (12, 8)


def test_what_an_engine_says_of_itself_is_provenance(folders: ModuleType, tmp_path: Path) -> None:
    document = report_html(folders.rich(tmp_path / "run"))
    assert "Proved: gemma_local stand-in, 8 bits" in document
    assert "SHA-256 of weights" in document
    proof = json.loads((folders.PROOFS / "cancel.json").read_text()) | {"engine": {"hashes": 1}}
    assert read_proof("a.json", proof).about.keys() == {"trialbench"}
