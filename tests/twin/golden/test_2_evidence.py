"""What lies in the folder of the golden trial: every listed file, its schema, exports, report, and three answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from attachments import PROOFS, model_hash
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from trialbench import schemas

pytestmark = pytest.mark.twin

SCENES = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "scenes"
SEGMENTS = (
    "nav-candidate",
    "nav-candidate-cached",
    "nav-baseline-a1",
    "nav-baseline-a2",
    "nav-baseline-tenants",
    "describe-candidate",
    "describe-baseline",
    "smoke-candidate",
)
# Schema by file of the run.
DOCUMENTS = {
    "verdict.json": "verdict",
    "summary.json": "summary",
    "verification.json": "verification",
    "plan.json": "plan",
    "snapshot.json": "snapshot",
    "attestation.json": "attestation",
    "samples/calibration.json": "calibration",
    **{f"proofs/{name}.json": "proof" for name in PROOFS},
}
LINES = {"journal.jsonl": "journal", "vram.jsonl": "vram", **{f"samples/{name}.jsonl": "sample" for name in SEGMENTS}}
SUITES = {"trial", "phases", "gates", "candidate", "checks", "ground_truth", "proofs"}
SAME_MODEL = "tiny-e4b f16: the same model: 2 checks passed, 0 failed, 0 could not be decided"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_there_and_keeps_its_schema(golden, name):
    assert schemas.validate(golden.document(name), DOCUMENTS[name]) == []


@pytest.mark.parametrize("name", LINES)
def test_a_file_of_lines_is_there_and_keeps_its_schema(golden, name):
    lines = golden.lines(name)
    assert lines
    assert [problem for line in lines for problem in schemas.validate(line, LINES[name])] == []


def test_inputs_and_logs_are_there_to_ask_again(golden):
    assert {"prompt.txt", "prompt_source.py", "camera.jpg"} <= {p.name for p in (golden.folder / "inputs").iterdir()}
    for path in (golden.folder / "inputs").glob("session-*.json"):
        assert schemas.validate(json.loads(path.read_text(encoding="utf-8")), "session") == []
    with (SCENES / "labels.csv").open(encoding="utf-8", newline="") as lines:
        labels = {row["image"]: row for row in csv.DictReader(lines)}
    asked = json.loads((golden.folder / "inputs" / "scenes.json").read_text(encoding="utf-8"))
    assert sorted(Path(scene["image"]).name for scene in asked) == sorted(labels)
    for scene in asked:
        picture = Path(scene["image"])
        assert (golden.folder / "inputs" / picture).read_bytes() == (SCENES / picture.name).read_bytes()
        row = labels[picture.name]
        assert (scene["expected"], scene["group"]) == (row["expected"], row["group"])
        # Production's own prompt, for the scene's own goal.
        assert f"Goal: {row['goal']}\n" in scene["variables"]["prompt"]
    # What is only shown has no right answer and no prompt.
    shown = json.loads((golden.folder / "inputs" / "pictures.json").read_text(encoding="utf-8"))
    assert {tuple(sorted(one)) for one in shown} == {("id", "image")}
    assert list((golden.folder / "logs").iterdir())
    assert list((golden.folder / "samples").glob("summary-*.json"))


def test_the_report_is_one_page_with_all_three_answers(golden):
    report = (golden.folder / "report.html").read_text(encoding="utf-8")
    assert len(report) > 10_000
    assert 'id="proofs"' in report
    assert SAME_MODEL in report


def test_junit_has_every_suite_and_no_failure(golden):
    root = ElementTree.parse(golden.folder / "exports" / "junit.xml").getroot()
    assert root.attrib["failures"] == "0"
    suites = {suite.attrib["name"]: suite for suite in root}
    assert set(suites) == SUITES
    # A person has yet to judge.
    assert suites["trial"].attrib["skipped"] == "1"
    for name in ("ground_truth", "proofs"):
        assert int(suites[name].attrib["tests"]) >= 1


def test_the_table_has_a_row_for_each_request(golden):
    with (golden.folder / "exports" / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    requests = [path.read_bytes().count(b"\n") for path in (golden.folder / "samples").glob("*.jsonl")]
    assert len(rows) == sum(requests) > 300
    assert {"run", "segment", "warmup", "latency_ms", "content"} <= set(rows[0])
    assert {row["run"] for row in rows} == {golden.folder.name}


def test_the_metrics_are_gauges_that_monitoring_can_read(golden):
    text = (golden.folder / "exports" / "metrics.prom").read_text(encoding="utf-8")
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {family.type for family in families.values()} == {"gauge"}
    assert {"model_trial_info", "model_trial_latency_seconds"} <= set(families)
    (about,) = families["model_trial_info"].samples
    assert about.labels["run"] == golden.folder.name


def test_three_questions_are_answered_side_by_side(golden):
    evidence = golden.document("verdict.json")["evidence"]
    assert list(evidence) == ["trial", "ground_truth", "engines"]
    # Nobody has judged the replies yet: the trial's own answer is open, whatever the other two say.
    assert [evidence[name]["finding"] for name in evidence] == ["open", "passed", "passed"]
    said = " ".join(golden.text.split())
    for question in ("Good enough here?", "Still the same model?", "Does it survive?"):
        assert question in said


def test_the_required_ground_truth_travels_with_the_run(golden):
    assert SAME_MODEL in golden.text
    assert golden.document("plan.json")["ground_truth"]["required"] is True
    found = golden.document("attestation.json")
    assert found["required"] is True
    assert (found["files"][0]["sha256"], found["files"][0]["status"]) == (model_hash(), "passed")
    assert golden.document("verdict.json")["facts"]["ground_truth"] == "passed"


def test_the_six_proofs_of_the_engines_travel_with_the_run(golden):
    assert {path.stem for path in (golden.folder / "proofs").iterdir()} == set(PROOFS)
    assert len(golden.document("verdict.json")["evidence"]["engines"]["lines"]) == len(PROOFS)
