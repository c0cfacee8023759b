"""Exports of a run: JUnit for CI, CSV for tables, OpenMetrics for monitoring; and a schema for every file of a run."""

from __future__ import annotations

import csv
import fnmatch
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas
import pytest
from acting import acting
from hypothesis import example, given, settings
from hypothesis import strategies as st
from profiles import examples
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics
from published import accept
from trialbench import schemas
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.files import read_json, read_json_lines
from trialbench.report.export import FORMATS, write_exports
from trialbench.report.export.openmetrics import Family
from trialbench.report.export.table import columns, rows
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run

# A whole trial of the digital twin, as it was harvested; of its logs one is kept.
REAL = Path(__file__).resolve().parents[2] / "fixtures" / "runs" / "completed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the real run that may be changed."""
    shutil.copytree(REAL, tmp_path / "run")
    return tmp_path / "run"


def change(path: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit one JSON document of the run."""
    document = read_json(path / name)
    edit(document)
    (path / name).write_text(json.dumps(document))


def change_lines(path: Path, name: str, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Edit the lines of a JSON-lines file of the run."""
    lines, bad = read_json_lines(path / name)
    assert bad == 0
    edit(lines)
    (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def junit(path: Path) -> dict[str, ElementTree.Element]:
    """The test cases by `suite: name`."""
    write_exports(path, ["junit"])
    root = ElementTree.parse(path / "exports" / "junit.xml").getroot()
    suites = root.findall("testsuite")
    cases = {f"{suite.get('name')}: {case.get('name')}": case for suite in suites for case in suite.findall("testcase")}
    # Counted right, and no case hides another.
    assert len(cases) == int(root.attrib["tests"]) == sum(int(suite.attrib["tests"]) for suite in suites)
    # Jenkins' schema knows no `skipped` of the root.
    assert set(root.attrib) == {"name", "tests", "failures", "errors", "time"}
    assert int(root.attrib["failures"]) == len(root.findall(".//failure"))
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        assert all(int(suite.attrib[attribute]) == len(suite.findall(f".//{tag}")) for suite in suites)
    return cases


def failures(path: Path) -> dict[str, str]:
    """The failed cases and their messages."""
    found = {name: case.find("failure") for name, case in junit(path).items()}
    return {name: str(failure.get("message")) for name, failure in found.items() if failure is not None}


# --- schemas ----------------------------------------------------------------------------------------------------------

# The files of a run, and which schema holds for the whole of a `.json`, for each line of a `.jsonl`, for each row of a
# `.csv`. The first pattern that fits counts.
FILES = {
    "plan.json": "plan",
    "snapshot.json": "snapshot",
    "summary.json": "summary",
    "verdict.json": "verdict",
    "verification.json": "verification",
    "rehearsal.json": "rehearsal",
    "attestation.json": "attestation",
    "review-key.json": "review-key",
    "proofs/*.json": "proof",
    "journal.jsonl": "journal",
    "vram.jsonl": "vram",
    "samples/calibration.json": "calibration",
    "samples/summary-*.json": "summary",
    "samples/at-*": "hold",
    "samples/*.jsonl": "sample",
    "inputs/session-*.json": "session",
    "inputs/scenes.json": "scenes",
    "inputs/pictures.json": "scenes",
    "control/*": "sign",
    "exports/samples.csv": "row",
}


def schema_of(path: str) -> str | None:
    """Which schema holds for the file at `path`, relative to a run's folder; None where it holds no JSON or rows."""
    return next((name for pattern, name in FILES.items() if fnmatch.fnmatchcase(path, pattern)), None)


@pytest.mark.prove
def test_every_file_of_a_real_run_has_a_schema_and_fits(run: Path) -> None:
    write_exports(run)
    checked: dict[str, int] = {}
    for path in sorted(run.rglob("*")):
        if path.is_dir():
            continue
        name = schema_of(str(path.relative_to(run)))
        if name is None:
            # What has none is no JSON: signs, prompt, source, image, logs, and the two exports with formats of others.
            assert not path.name.endswith((".json", ".jsonl", ".csv")), path
            continue
        if path.suffix == ".jsonl":
            values, bad = read_json_lines(path)
            assert bad == 0
        elif path.suffix == ".csv":
            values = typed_rows(path)
        else:
            values = [read_json(path)]
        for value in values:
            assert schemas.validate(value, name) == [], path
            accept(value, name)
        checked[name] = checked.get(name, 0) + len(values)
    assert set(checked) >= {
        *("plan", "snapshot", "summary", "verdict", "verification", "journal", "vram", "hold", "sample", "session"),
        *("sign", "row", "calibration"),
    }
    assert checked["sample"] >= 300


def typed_rows(path: Path) -> list[dict[str, Any]]:
    """The CSV's rows with the types that their schema gives them."""

    def typed(name: str, text: str) -> Any:
        schema = schemas.load("row")["properties"][name]
        types = schema.get("type", ["integer", "null"])
        if text == "" and "null" in types:
            return None
        if "boolean" in types:
            return {"true": True, "false": False}[text]
        return int(text) if "integer" in types else float(text) if "number" in types else text

    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: typed(name, text) for name, text in row.items()} for row in csv.DictReader(stream)]


def test_each_schema_holds_for_something_that_exists() -> None:
    # What comes in, what a command prints, and the other two questions' own files (tests of their rooms).
    others = {"workload", "documents", "proof", "worker-reply", "worker-request"}
    # What a browser saves for a person.
    others |= {"judgments"}
    others |= {"claim", "ground-truth", "oracle", "prompts", "roster", "tokenizer-oracle", "tolerances"}
    assert {*FILES.values()} | others == set(schemas.names())


@pytest.mark.parametrize("path", ["logs/x.log", "inputs/prompt.txt", "samples/ready-start-a1", "exports/junit.xml"])
def test_what_is_no_json_has_no_schema(path: str) -> None:
    assert schema_of(path) is None


# --- JUnit ------------------------------------------------------------------------------------------------------------


def test_a_pending_verdict_is_skipped(run: Path) -> None:
    cases = junit(run)
    assert failures(run) == {}
    skipped = cases["trial: verdict"].find("skipped")
    assert skipped is not None
    assert str(skipped.get("message")).startswith("PENDING_REVIEW: nobody has judged")
    assert [name for name in cases if name.startswith("gates")] == [
        "gates: VRAM at start",
        "gates: VRAM at extend",
        "gates: VRAM at end",
    ]
    assert len([name for name in cases if name.startswith("checks")]) == 8
    assert {"trial: ended as planned", "trial: host is back", "phases: restore", "candidate: adherence"} <= set(cases)
    assert float(cases["phases: restore"].attrib["time"]) > 5
    suite = ElementTree.parse(run / "exports" / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    properties = {one.get("name"): one.get("value") for one in suite.findall("properties/property")}
    assert properties["outcome"] == "completed"


@pytest.mark.parametrize(
    ("judged", "failed"), [("better", []), ("same", ["trial: verdict"]), ("worse", ["trial: verdict"])]
)
def test_a_verdict_passes_only_as_adopt(run: Path, judged: str, failed: list[str], capsys: Any) -> None:
    assert main(["verdict", str(run), "--judge", f"describe={judged}"]) == 0
    found = failures(run)
    assert list(found) == failed
    assert all(
        message == f"REJECT: describe judged {judged}: not materially better than the baseline"
        for message in found.values()
    )


def test_no_verdict_is_no_failure(run: Path) -> None:
    (run / "verdict.json").unlink()
    skipped = junit(run)["trial: verdict"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "not decided: trialbench verdict DIR"


def test_a_gate_outside_its_band_fails(run: Path) -> None:
    def higher(lines: list[dict[str, Any]]) -> None:
        gates = [line for line in lines if line["event"] == "gate"]
        gates[1] |= {"footprint_gb": 7.6, "band": "warning", "ok": True}
        gates[2] |= {"footprint_gb": None, "band": None}

    change_lines(run, "journal.jsonl", higher)
    assert failures(run)["gates: VRAM at extend"] == "expected 5.5 to 7.5 GB, found 7.6 GB (warning)"
    assert junit(run)["gates: VRAM at end"].find("skipped") is not None


def test_adherence_thinking_and_taints_fail(run: Path) -> None:
    def spoiled(lines: list[dict[str, Any]]) -> None:
        for line in lines[:6]:
            line |= {"strategy": 3, "cache_n": 9}
        lines[7] |= {"flags": ["thinking"], "ok": False, "error_class": "thinking", "strategy": None}

    change_lines(run, "samples/nav-candidate.jsonl", spoiled)
    found = failures(run)
    assert found["candidate: adherence"].startswith("adherence 93/100 (one question asked 100 times; ")
    assert found["candidate: no reply was thinking"] == "1 reply was thinking"
    assert found["candidate: numbers are untainted"].startswith("tainted: ")


@pytest.mark.prove
def test_the_rule_of_adherence_is_the_verdicts(run: Path, capsys: Any) -> None:
    change_lines(run, "samples/nav-candidate.jsonl", lambda lines: [line.update(strategy=3) for line in lines[:2]])
    assert main(["verdict", str(run)]) == 0
    assert "candidate: adherence" not in failures(run)
    assert main(["verdict", str(run), "--adherence-rule", "proved"]) == 0
    assert "says nothing about other pictures" in failures(run)["candidate: adherence"]


def test_a_failed_check_fails(run: Path) -> None:
    change(
        run, "verification.json", lambda found: found["checks"][6].update(ok=False, expected="a voice", found="silence")
    )
    assert failures(run) == {'checks: Chatterbox TTS speaks "test one two"': "expected a voice, found silence"}
    # Without checks from outside, those of the host.
    (run / "verification.json").unlink()
    assert len([name for name in junit(run) if name.startswith("checks")]) == 8


def test_a_trial_that_was_rolled_back_fails(run: Path) -> None:
    def failed(lines: list[dict[str, Any]]) -> None:
        [at] = [at for at, line in enumerate(lines) if line["event"] == "phase_done" and line["phase"] == "measure"]
        lines[at] |= {"event": "phase_failed", "reason": "broke", "expected": "x", "found": None, "todo": "mend it"}

    change_lines(run, "journal.jsonl", failed)
    assert main(["verdict", str(run)]) == 0
    found = failures(run)
    assert found["trial: ended as planned"] == "rolled_back: measure: broke"
    assert found["phases: measure"] == "the phase failed"
    assert found["trial: verdict"].startswith("INCONCLUSIVE: ")
    case = junit(run)["trial: ended as planned"].find("failure")
    assert case is not None
    assert (case.get("type"), case.text) == ("rolled_back", "rolled_back: measure: broke\nexpected: x\ntodo: mend it")


def test_a_host_that_is_not_back_fails(run: Path) -> None:
    change_lines(run, "journal.jsonl", lambda lines: lines.__delitem__(slice(-3, None)))
    found = failures(run)
    assert found["trial: host is back"] == "not known to be restored"
    assert found["trial: ended as planned"].startswith("open: ")


def test_a_run_that_never_began(run: Path) -> None:
    shutil.rmtree(run / "samples")
    for name in ("vram.jsonl", "verification.json"):
        (run / name).unlink()
    change_lines(run, "journal.jsonl", lambda lines: lines.__delitem__(slice(1, None)))
    cases = junit(run)
    assert cases["trial: host is back"].find("skipped") is not None
    assert not [name for name in cases if name.startswith(("candidate", "gates", "checks"))]
    write_exports(run)
    assert len((run / "exports" / "samples.csv").read_text().splitlines()) == 1
    assert "latency" not in (run / "exports" / "metrics.prom").read_text()


def test_a_rehearsal_has_no_verdict(run: Path) -> None:
    change(run, "plan.json", lambda plan: plan.update(rehearsal=True))
    assert "trial: verdict" not in junit(run)


def ids(path: Path) -> list[tuple[str, str]]:
    """Class name and name of each case, in order: what CI systems know a case by."""
    write_exports(path, ["junit"])
    cases = ElementTree.parse(path / "exports" / "junit.xml").getroot().iter("testcase")
    return [(case.attrib["classname"], case.attrib["name"]) for case in cases]


def other_titles(path: Path, **titles: str) -> None:
    """Other titles of checks, by `c` and their place."""

    def edit(found: dict[str, Any]) -> None:
        for place, title in titles.items():
            found["checks"][int(place[1:])]["title"] = title

    change(path, "verification.json", edit)


def attest(path: Path, *files: tuple[str, str | None]) -> None:
    """Ground truth of files: the first letter of each hash, and its label."""
    found = {"status": "passed", "passed": 1, "failed": 0, "open": 0, "made": None, "runtime": None, "says": "proved"}
    told = [found | {"sha256": letter * 64, "label": label} for letter, label in files]
    document = {"format": 1, "made": "2026-11-20T21:59:00+00:00", "required": False, "files": told}
    (path / "attestation.json").write_text(json.dumps(document))


# What differs between two runs of one pipeline, and whether their cases are the same ones.
@pytest.mark.parametrize(
    ("edit", "same"),
    [
        (lambda path: None, True),
        (lambda path: change(path, "plan.json", lambda plan: plan.update(host="other")), False),
        (lambda path: change(path, "plan.json", lambda plan: plan["candidate"].update(label="other-Q5_K_XL")), False),
        (lambda path: other_titles(path, c0="VRAM is back in its steady band of 2-2.25 GB"), True),
        (lambda path: other_titles(path, c3="nobody listens on the candidate's port 18000"), True),
        (
            lambda path: change(
                path,
                "verification.json",
                lambda found: found["checks"].insert(
                    0, {"id": 1, "title": "x", "expected": "", "found": "", "ok": True}
                ),
            ),
            None,
        ),
        (lambda path: attest(path, ("b", None)), True),
    ],
)
def test_a_case_has_a_history_and_runs_of_a_pipeline_stay_apart(
    run: Path, edit: Callable[[Path], Any], same: bool | None
) -> None:
    attest(run, ("a", "gemma-4"))
    before = ids(run)
    edit(run)
    after = ids(run)
    assert len(after) == len(set(after))
    if same is None:
        # One more; those that were there before are the same.
        assert set(before) < set(after)
    elif same:
        assert after == before
    else:
        assert not set(before) & set(after)


def test_cases_of_one_name_are_numbered(run: Path) -> None:
    other_titles(run, c0="nobody listens on port 1", c1="nobody listens on port 2")
    attest(run, ("a", None), ("b", None), ("c", "gemma-4"))
    names = [name for _class, name in ids(run)]
    assert "nobody listens on port" in names
    assert "nobody listens on port #2" in names
    assert [name for name in names if "same model" in name] == ["same model", "same model #2", "same model #3"]


def test_a_run_without_a_plan_has_cases_too(run: Path) -> None:
    (run / "plan.json").unlink()
    assert all(name.startswith("trial.unknown.unknown.") for name, _case in ids(run))


def test_what_xml_can_not_hold_is_escaped(run: Path) -> None:
    change(run, "plan.json", lambda plan: plan["candidate"].update(label="a\x00\x1b[31m<&>\ufffe\ud800"))
    write_exports(run)
    root = ElementTree.parse(run / "exports" / "junit.xml").getroot()
    labels = {one.get("value") for one in root.iter("property") if one.get("name") == "model_label"}
    assert labels == {"a\\x00\\x1b[31m<&>\\ufffe\\ud800"}


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_samples_load_into_pandas_in_one_line(run: Path) -> None:
    write_exports(run, ["csv"])
    frame = pandas.read_csv(run / "exports" / "samples.csv")
    assert list(frame.columns) == columns()
    assert frame["ok"].dtype == bool
    assert frame["warmup"].dtype == bool
    assert frame["latency_ms"].dtype == float
    measured = frame[~frame.warmup]
    medians = measured.groupby("segment")["latency_ms"].median().round(6).to_dict()
    segments = summarize_run(read_run(run)).segments
    assert medians == {name: round(one.latency_ms.p50.value or 0.0, 6) for name, one in segments.items()}
    assert measured.groupby("segment").size().to_dict() == {name: one.sent for name, one in segments.items()}
    assert set(frame[frame.segment.str.contains("baseline")]["label"]) == {"gemma-4-E2B-it"}
    assert set(frame[frame.segment == "nav-candidate"]["label"]) == {"gemma-4-E4B-it-Q4_K_M"}
    # What the series of the card says of a reply stands beside it; of a warm-up it says nothing.
    assert frame[frame.segment == "nav-candidate"]["power_w"].notna().sum() == segments["nav-candidate"].sent
    assert not frame[frame.warmup]["power_w"].notna().any()
    # One file of raw samples does, too.
    lines = pandas.read_json(run / "samples" / "nav-candidate.jsonl", lines=True)
    assert len(lines) == segments["nav-candidate"].sent


REPLIES = [
    "None",
    "NA",
    "null",
    "nan",
    "N/A",
    "007",
    "1.50",
    "1e5",
    "true",
    "2026-01-02",
    " left ",
    "a,b",
    'a "b"',
    "-0",
    "<NA>",
]


def test_pandas_reads_each_text_as_it_is(run: Path) -> None:
    """With the call of the documentation, which is run here as it stands there."""
    name = "samples/nav-candidate.jsonl"

    def told(lines: list[dict[str, Any]]) -> None:
        for line, content in zip(lines, REPLIES, strict=False):
            line |= {"content": content, "error_detail": content, "model": content, "finish_reason": content}

    change_lines(run, name, told)
    write_exports(run, ["csv"])
    text = (Path(__file__).resolve().parents[3] / "docs" / "results.md").read_text(encoding="utf-8")
    [call] = re.findall(r"```python\n(TEXTS = .*?)```", text, re.DOTALL)
    found: dict[str, Any] = {"pandas": pandas}
    exec(call.replace("exports/samples.csv", str(run / "exports" / "samples.csv")), found)
    frame = found["samples"]
    types = {field: one.get("type") for field, one in schemas.load("row")["properties"].items()}
    assert set(found["TEXTS"]) == {field for field, kind in types.items() if "string" in (kind or [])}
    shown = frame[(frame.segment == "nav-candidate") & ~frame.warmup].head(len(REPLIES))
    # What begins as a formula has an apostrophe in front, as the documentation says.
    expected = [f"'{content}" if content.startswith("-") else content for content in REPLIES]
    for column in ("content", "error_detail", "model", "finish_reason"):
        assert list(shown[column]) == expected
    assert frame["latency_ms"].dtype == float
    assert frame["ok"].dtype == bool
    lines = pandas.read_json(run / name, lines=True, dtype=False)
    assert list(lines["content"].head(len(REPLIES))) == REPLIES


def test_negative_times_and_counts_are_unknown(run: Path) -> None:
    def negative(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            line |= {"server_ms": -4.0, "prompt_n": -1, "cache_n": -1, "completion_tokens": -3}

    change_lines(run, "samples/nav-candidate.jsonl", negative)
    write_exports(run, ["csv"])
    frame = pandas.read_csv(run / "exports" / "samples.csv")
    segment = summarize_run(read_run(run)).segments["nav-candidate"]
    assert (segment.server_ms.value, segment.tokens_per_s) == (None, None)
    assert frame[(frame.segment == "nav-candidate") & ~frame.warmup]["server_ms"].isna().all()


def test_rows_stand_in_the_order_of_the_requests(run: Path) -> None:
    folder = read_run(run)
    found = rows(folder, summarize_run(folder))
    assert [row["t_start_s"] for row in found] == sorted(row["t_start_s"] for row in found)
    assert found[0]["warmup"] is True


@pytest.mark.parametrize(
    ("content", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@x", "'@x"),
        # Signs of other widths and heights, as spreadsheets of East Asia read them.
        *((f"{sign}x", f"'{sign}x") for sign in "＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋−"),
        # What stands before them and is not seen.
        (" =x", "' =x"),
        ("\u3000＝x", "'\u3000＝x"),
        ("\u00a0=x", "'\u00a0=x"),
        ("\u200b\ufeff=x", "'\u200b\ufeff=x"),
        ("\n=x", "'\n'=x"),
        # A tab is written as blanks.
        ("\t=x", f"'{' ' * 8}=x"),
        ("a\t=x", f"a{' ' * 7}=x"),
        # A carriage return is written as a backslash and a letter.
        ("\r=x", "\\r=x"),
        # Quotes are taken away where they stand around a cell.
        ('"=x', "'\"=x"),
        ('"" =x"', '\'"" =x"'),
        # Other locales separate cells by other signs than the comma, and some readers end a row within quotes.
        ("a;=x", "a;'=x"),
        ("a; \u00a0＋x;b;-1", "a;' \u00a0＋x;b;'-1"),
        (';;"@x', ";;'\"@x"),
        ("a|=x", "a|'=x"),
        *((f"a{sign}＝x", f"a{sign}'＝x") for sign in "；｜\u037e"),
        ("a\n-x\n\n=y", "a\n'-x\n\n'=y"),
        ("a,=x", "a,=x"),
        ("1 - 2; 3 + 4", "1 - 2; 3 + 4"),
        ("\ufe0f=x", "'\ufe0f=x"),
        ("\n", "'\n"),
        ("5 - 3", "5 - 3"),
        ("“=”", "“=”"),
        ('a, "b"\nc', 'a, "b"\nc'),
        ("\x1b[31m\x00\ud800", "\\x1b[31m\\x00\\ud800"),
        ("", ""),
        (None, ""),
        ("größer 🤖", "größer 🤖"),
    ],
)
def test_a_reply_is_text_in_a_cell(run: Path, content: str | None, cell: str) -> None:
    change_lines(
        run, "samples/nav-candidate.jsonl", lambda lines: lines[0].update(content=content, parsed=None, strategy=None)
    )
    write_exports(run, ["csv"])
    with (run / "exports" / "samples.csv").open(newline="", encoding="utf-8") as stream:
        found = [
            row for row in csv.DictReader(stream) if row["segment"] == "nav-candidate" and row["warmup"] == "false"
        ]
    assert found[0]["content"] == cell
    assert found[0]["parsed"] == ""
    assert len(found) == 100


# --- OpenMetrics ------------------------------------------------------------------------------------------------------


def parsed(path: Path) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Metrics by name, samples by labels, as both parsers read them alike."""
    write_exports(path, ["openmetrics"])
    text = (path / "exports" / "metrics.prom").read_text()
    found: list[dict[str, dict[tuple[tuple[str, str], ...], float]]] = []
    for parse in (openmetrics.text_string_to_metric_families, prometheus.text_string_to_metric_families):
        families = {}
        for family in parse(text):
            assert family.type == "gauge"
            assert family.documentation.endswith(".")
            samples = {}
            for one in family.samples:
                assert one.timestamp is None
                samples[tuple(sorted(one.labels.items()))] = one.value
            assert len(samples) == len(family.samples), "each series stands once"
            families[family.name] = samples
        found.append(families)
    assert found[0] == found[1]
    return found[0]


def test_both_formats_read_the_same(run: Path) -> None:
    metrics = parsed(run)
    common = (("host", "twin"), ("model", "gemma-4-E4B-it-Q4_K_M"))
    summary = summarize_run(read_run(run))
    p50 = summary.segments["nav-candidate"].latency_ms.p50.value
    assert metrics["model_trial_latency_seconds"][*common, ("q", "0.5"), ("segment", "nav-candidate")] == pytest.approx(
        (p50 or 0.0) / 1000
    )
    assert not any(("q", "0.99") in labels for labels in metrics["model_trial_latency_seconds"])
    assert metrics["model_trial_vram_footprint_bytes"][(("gate", "peak"), *common)] == pytest.approx(
        (summary.vram.peak_footprint_gb or 0.0) * 2**30, abs=1
    )
    verdicts = {dict(labels)["verdict"]: value for labels, value in metrics["model_trial_verdict"].items()}
    assert verdicts == {"ADOPT": 0, "REJECT": 0, "INCONCLUSIVE": 0, "PENDING_REVIEW": 1}
    assert metrics["model_trial_host_restored"][common] == 1
    [began] = metrics["model_trial_start_timestamp_seconds"].values()
    wall = read_run(run).journal[0].wall
    assert datetime.fromtimestamp(began, UTC) == datetime.fromisoformat(wall)
    assert sum(metrics["model_trial_check_passed"].values()) == 8


# The workload's name, and which of its segments the live model answered.
NAMED = [
    ("nav", ["nav-baseline-a1", "nav-baseline-a2", "nav-baseline-tenants"]),
    ("baseline-check", ["baseline-check-baseline-a1", "baseline-check-baseline-a2", "baseline-check-baseline-tenants"]),
    ("candidate", ["candidate-baseline-a1", "candidate-baseline-a2", "candidate-baseline-tenants"]),
]


@pytest.mark.parametrize(("name", "live"), NAMED)
def test_a_series_of_the_baseline_has_the_baselines_model(run: Path, name: str, live: list[str]) -> None:
    for file in sorted((run / "samples").glob("nav-*")):
        file.rename(file.with_name(f"{name}{file.name.removeprefix('nav')}"))
    listed = [{"name": name, "role": "decides", "n": 100}, {"name": "describe", "role": "shown"}]
    change(run, "plan.json", lambda plan: plan.update(workloads=listed))
    for file in (run / "samples").glob("summary-*.json"):
        file.unlink()
    write_exports(run)
    models: dict[str, set[str]] = {}
    for family in parsed(run).values():
        for labels in map(dict, family):
            if "segment" in labels:
                models.setdefault(labels["segment"], set()).add(labels["model"])
    with (run / "exports" / "samples.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            models.setdefault(row["segment"], set()).add(row["label"])
    ours = [segment for segment, found in models.items() if found == {"gemma-4-E4B-it-Q4_K_M"}]
    theirs = [segment for segment, found in models.items() if found == {"gemma-4-E2B-it"}]
    assert sorted([*ours, *theirs]) == sorted(models)
    assert f"{name}-candidate" in ours
    assert set(theirs) == {*live, "describe-baseline"} & set(models)


def test_no_label_is_reserved_for_another_type(run: Path) -> None:
    """`quantile` is a summary's, `le` a histogram's; both gather errors elsewhere."""
    for name, family in parsed(run).items():
        for labels in map(dict, family):
            assert not {"quantile", "le"} & set(labels), name
        assert not name.endswith(("_total", "_bucket", "_count", "_sum"))


def test_a_series_stands_once(run: Path) -> None:
    """Or a reader refuses all of them: two checks of one name, and names that differ only in what is escaped."""

    def twice(document: dict[str, Any]) -> None:
        document["checks"] += [{**document["checks"][0], "ok": False}, {**document["checks"][0], "title": "a\x07"}]
        document["checks"] += [{**document["checks"][0], "title": "a\\x07"}]

    change(run, "verification.json", twice)
    found = parsed(run)["model_trial_check_passed"]
    assert len(found) == 9
    assert sorted(found.values())[:2] == [0, 1]


def test_units_end_the_names(run: Path) -> None:
    write_exports(run)
    text = (run / "exports" / "metrics.prom").read_text()
    units = re.findall(r"^# UNIT (\S+) (\S+)$", text, re.MULTILINE)
    assert {unit for _, unit in units} == {"seconds", "bytes", "ratio", "hertz", "joules"}
    assert all(name.endswith(f"_{unit}") for name, unit in units)
    assert text.endswith("\n# EOF\n")
    assert "_ms" not in re.sub(r'"[^"]*"', "", text)


def test_what_is_not_known_is_absent(run: Path) -> None:
    (run / "verdict.json").unlink()
    (run / "vram.jsonl").unlink()
    change_lines(run, "journal.jsonl", lambda lines: [line.update(wall="noon") for line in lines])
    metrics = parsed(run)
    assert "model_trial_verdict" not in metrics
    assert "model_trial_start_timestamp_seconds" not in metrics
    assert not any(("state", "peak") in labels for labels in metrics["model_trial_vram_used_bytes"])


@settings(max_examples=examples(200))
@given(text=st.text(max_size=30))
@example(text='a"b\\c\nd} 1\n# EOF')
@example(text="\\n")
def test_labels_are_escaped(text: str) -> None:
    family = Family("x", "Help.")
    family.add(1, label=text)
    written = family.text({"host": "h"}) + "\n# EOF\n"
    for parse in (openmetrics.text_string_to_metric_families, prometheus.text_string_to_metric_families):
        [found] = parse(written)
        [one] = found.samples
        assert set(one.labels) == {"host", "label"}
        if not acting(text):
            assert one.labels["label"] == text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run)]) == 0
    files = [run / "exports" / export.file for export in FORMATS.values()]
    assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
    again = [file.read_bytes() for file in files]
    assert main(["export", str(run), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(files[1])]
    assert [file.read_bytes() for file in files] == again
    with pytest.raises(SystemExit):
        main(["export", str(run), "--format", "xls"])


def test_no_folder_no_export(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a result folder"):
        write_exports(tmp_path / "none")


def test_who_insists_is_told_what_was_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verdict", str(run), "--require", "adopt"]) == 1
    assert "expected the verdict ADOPT, found PENDING_REVIEW: nobody has judged" in capsys.readouterr().err
    assert main(["verdict", str(run), "--require", "adopt", "--judge", "describe=better"]) == 0
