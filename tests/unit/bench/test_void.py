"""Samples that may be another party's answers: kept, marked, counted in the report, and never in a number."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import folders
import pytest
from sample_lines import made
from trialbench import schemas, stats
from trialbench.files import read_json
from trialbench.report.decide import decide_folder
from trialbench.report.export.table import samples_csv
from trialbench.report.html.report import report_html
from trialbench.report.run import Doubt, make_segment, read_run
from trialbench.report.summary import summarize_run, write_summary
from trialbench.report.table import folder_table

NAME, KEPT, ALL = "nav-candidate", 40, 100


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an interval ends hangs on it, and nothing that is looked at here."""
    monkeypatch.setattr(stats, "median_ratio", functools.partial(stats.median_ratio, resamples=20))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that ended because a stranger listened where the candidate is asked; without its series, to be quick."""
    return quick(folders.voided(tmp_path / "run", NAME, KEPT))


def quick(folder: Path) -> Path:
    """The run without the series of the card, most of its lines."""
    (folder / "vram.jsonl").unlink()
    return folder


def test_samples_after_the_last_good_look_do_not_count(run: Path) -> None:
    segment = read_run(run).segments[NAME]
    assert (len(segment.samples), len(segment.void)) == (KEPT, ALL - KEPT)
    assert segment.samples[-1].seq + 1 == segment.void[0].seq
    assert segment.summary.sent == KEPT
    assert segment.summary.adherence
    assert segment.summary.adherence.n == KEPT
    # The others are as they were.
    before = read_run(quick(folders.finished(run.parent / "before")))
    others = {name: one.summary for name, one in read_run(run).segments.items() if name != NAME}
    assert others == {name: one.summary for name, one in before.segments.items() if name != NAME}


def test_no_number_of_a_void_sample_reaches_summary_comparison_or_verdict(run: Path) -> None:
    """Whatever the stranger answered, everything is as if he had not."""
    path = run / "samples" / f"{NAME}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    numbers = []
    for latency_ms, flags, strategy in ((1.0, [], 1), (9_000.0, ["thinking"], 3)):
        changed: list[dict[str, Any]] = [
            line | {"latency_ms": latency_ms, "flags": flags, "strategy": strategy, "model": "stranger"}
            if line["seq"] > KEPT
            else line
            for line in lines
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        document = decide_folder(run)
        summary = read_json(write_summary(run))
        assert document["facts"]["nav_n"] == KEPT
        assert document["verdict"] == "INCONCLUSIVE"
        del summary["created"], summary["windows"], summary["restore"]["next"]
        numbers.append((document, summary))
    assert numbers[0] == numbers[1]


def test_how_many_do_not_count_and_why_is_shown(run: Path) -> None:
    said = f"void: {ALL - KEPT} samples do not count: {folders.WHY_VOID}"
    summary = summarize_run(read_run(run))
    assert f"{NAME}: {said}" in summary.partial
    written = read_json(write_summary(run))
    assert written["void"] == {NAME: {"samples": ALL - KEPT, "warmups": 0, "why": folders.WHY_VOID}}
    assert schemas.validate(written, "summary") == []
    shown = " ".join(folder_table(run).split())
    assert f"PARTIAL {NAME}: {said}" in shown
    assert said in report_html(run)
    assert summary.restore.kept[NAME] == ALL


def test_void_samples_are_marked_in_the_table(run: Path) -> None:
    found = read_run(run)
    rows = csv.DictReader(samples_csv(found, summarize_run(found)).splitlines())
    counted = [row for row in rows if row["segment"] == NAME and row["warmup"] == "false"]
    assert len(counted) == ALL
    assert [int(row["seq"]) for row in counted if "void" in row["flags"].split()] == list(range(KEPT + 1, ALL + 1))


def test_a_run_without_void_samples_does_not_speak_of_them(tmp_path: Path) -> None:
    assert "void" not in read_json(write_summary(quick(folders.finished(tmp_path / "run"))))


@pytest.mark.parametrize(
    ("since_s", "count", "warm"),
    [(0.0, 0, 0), (10.5, 0, 1), (12.019, 1, 2), (12.02, 2, 2), (99.0, 3, 2)],
    ids=["before all", "among warm-ups", "during a reply", "at its end", "after all"],
)
def test_a_sample_counts_if_it_ended_by_the_last_good_look(since_s: float, count: int, warm: int) -> None:
    samples = [made(seq, 10.0 + seq, 20.0) for seq in (1, 2, 3)]
    warmups = [made(seq, 9.5 + seq / 2, 20.0) for seq in (1, 2)]
    segment = make_segment(NAME, samples, warmups, doubt=Doubt(since_s, "a stranger"))
    assert (len(segment.samples), len(segment.warmups)) == (count, warm)
    assert (len(segment.void), len(segment.void_warmups)) == (3 - count, 2 - warm)
    assert segment.void_why == "a stranger"


def test_the_earliest_doubt_holds(run: Path) -> None:
    journal = run / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    (void,) = [line for line in lines if line["event"] == "samples_void"]
    later = void | {"since_s": void["since_s"] + 1, "reason": "later"}
    journal.write_text("".join(json.dumps(line) + "\n" for line in [later, *lines, later]))
    assert len(read_run(run).segments[NAME].samples) == KEPT


@pytest.mark.parametrize("broken", ["segments", "since_s"])
def test_a_line_that_says_not_which_samples_is_a_bad_line(run: Path, broken: str) -> None:
    journal = run / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text(
        "".join(
            json.dumps({k: v for k, v in line.items() if line["event"] != "samples_void" or k != broken}) + "\n"
            for line in lines
        )
    )
    assert read_run(run).bad_lines == 1
