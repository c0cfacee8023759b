"""Reports of runs whose plan lists other workloads than the usual ones, and of plans without a list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folders
import pytest
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.files import read_json
from trialbench.report.decide import decide_folder
from trialbench.report.html.report import write_report
from trialbench.report.plan import Plan, Workload, read_plan
from trialbench.report.summary import write_summary
from trialbench.report.table import folder_table

Document = dict[str, Any]


def summary_of(run: Path) -> Document:
    """The summary of a run, written again."""
    found: Document = read_json(write_summary(run))
    return found


def listed(run: Path, *workloads: Document) -> Path:
    """`run` with these workloads in its plan."""
    plan = read_json(run / "plan.json")
    (run / "plan.json").write_text(json.dumps(plan | {"workloads": workloads}))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return folders.three(tmp_path / "run")


BLIND = [
    "judge blind: open review.html, which `trialbench report DIR` writes",
    "then: trialbench verdict DIR --review judgements.json",
]
BOTH = "--judge describe=better --judge obstacle=better"
NAV, DESCRIBE = Workload("nav"), Workload("describe")


@pytest.mark.parametrize(
    ("document", "decider", "shown"),
    [
        ({}, NAV, (DESCRIBE,)),
        ({"workload_texts": {}}, NAV, (DESCRIBE,)),
        (
            {"workload_texts": {"nav": "a", "describe": "b"}, "workloads": {"nav_extended": 40, "describe_n": 3}},
            Workload("nav", "a", 40),
            (Workload("describe", "b", 3),),
        ),
        (
            {"workloads": folders.THREE},
            Workload("phone-intent", folders.THREE[0]["text"], 100),
            (Workload("describe", None, 5), Workload("obstacle", folders.THREE[2]["text"], 5)),
        ),
        ({"workloads": [{"name": "x", "role": "decides"}]}, Workload("x"), ()),
    ],
)
def test_workloads_of_plans_with_and_without_a_list(
    document: Document, decider: Workload, shown: tuple[Workload, ...]
) -> None:
    plan = read_plan(document)
    assert (plan.decider, plan.shown) == (decider, shown)


def test_a_run_without_a_plan_has_the_usual_workloads() -> None:
    assert (Plan().decider, Plan().shown) == (NAV, (DESCRIBE,))


def test_numbers_do_not_depend_on_names(run: Path, tmp_path: Path) -> None:
    usual, other = summary_of(folders.completed(tmp_path / "usual")), summary_of(run)
    renamed = json.loads(json.dumps(usual["segments"]).replace("nav", "phone-intent"))
    assert [name for name in other["segments"] if not name.startswith("obstacle")] == list(renamed)
    assert {name: one for name, one in other["segments"].items() if not name.startswith("obstacle")} == renamed
    assert other["comparisons"] == usual["comparisons"] != []
    assert (other["taints"], other["partial"]) == (usual["taints"], usual["partial"])


def test_what_decides_decides_and_everything_shown_is_to_be_judged(run: Path) -> None:
    found = decide_folder(run)
    assert (found["verdict"], found["facts"]["nav_n"], found["facts"]["adherent"]) == ("PENDING_REVIEW", 100, 100)
    assert (found["facts"]["describe"], found["facts"]["judgments"]) == (None, {"obstacle": None})
    assert found["reasons"][0] == (
        "nobody has judged the describe and obstacle replies yet:"
        " `trialbench verdict DIR --judge describe=... --judge obstacle=...`"
    )
    assert summary_of(run)["restore"]["next"] == [
        *BLIND,
        "or read samples/describe-candidate.jsonl beside samples/describe-baseline.jsonl",
        "or read samples/obstacle-candidate.jsonl beside samples/obstacle-baseline.jsonl",
        f"and say which is better: trialbench verdict DIR {BOTH} (or same, or worse)",
    ]


def test_judgments_hold_until_they_are_replaced(run: Path) -> None:
    assert decide_folder(run, judged={"obstacle": "better"})["verdict"] == "PENDING_REVIEW"
    assert summary_of(run)["restore"]["next"][2].startswith("or read samples/describe-candidate.jsonl")
    assert main(["verdict", str(run), "--judge", "describe=same"]) == 0
    found = read_json(run / "verdict.json")
    assert (found["verdict"], found["facts"]["describe"]) == ("ADOPT", "same")
    assert found["facts"]["judgments"] == {"obstacle": "better"}
    assert summary_of(run)["restore"]["next"] == []
    assert decide_folder(run, judged={"obstacle": "worse"})["verdict"] == "REJECT"


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        ("phone-intent=better", r"expected a workload that this run shows \(describe, obstacle\), found phone-intent"),
        ("obstacle=good", r"--judge obstacle=good: expected better, same, worse, found 'good'"),
        ("obstacle", "--judge: expected NAME=better|same|worse, found 'obstacle'"),
    ],
)
def test_a_judgment_that_says_nothing_is_refused(
    run: Path, judged: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verdict", str(run), "--judge", judged]) == 2
    assert message.replace("\\", "") in capsys.readouterr().err
    assert not (run / "verdict.json").exists()


def test_with_nothing_to_show_nobody_is_asked(run: Path) -> None:
    listed(run, folders.THREE[0])
    found = decide_folder(run)
    assert (found["verdict"], found["reasons"][0]) == (
        "ADOPT",
        "adherent and within VRAM; no replies are shown for a person to judge",
    )
    assert not {"describe", "judgments"} & set(found["facts"])
    with pytest.raises(UsageError, match="it shows none"):
        decide_folder(run, judged={"describe": "better"})
    assert "side by side</h2>" not in write_report(run).read_text(encoding="utf-8")


@pytest.mark.prove
def test_every_workload_that_is_shown_has_its_section(run: Path) -> None:
    decide_folder(run, judged={"obstacle": "worse"})
    page = write_report(run).read_text(encoding="utf-8")
    assert [name for name in ("Describe", "Obstacle") if f"{name}, side by side</h2>" in page] == [
        "Describe",
        "Obstacle",
    ]
    assert "A table, and a &lt;cat&gt;." in page
    assert "What is in the way?" in page
    assert page.count("A person judged the candidate <b>worse</b>") == 1
    for option in ("--judge describe=better", "--judge obstacle=better"):
        assert option in page


@pytest.mark.prove
def test_charts_and_facts_are_of_what_decides(run: Path) -> None:
    decide_folder(run)
    page = write_report(run).read_text(encoding="utf-8")
    for drawn in ("Latency distribution", "Every sample, in order", "latency p50", "adherence"):
        assert drawn in page
    text = folder_table(run)
    assert "phone-intent-candidate" in text
    assert "nav-" not in text + page


def test_requests_that_differ_are_found_in_every_pair(run: Path) -> None:
    summary = run / "samples" / "summary-smoke-candidate.json"
    document = read_json(summary)
    for name in ("obstacle-candidate", "phone-intent-candidate"):
        request = document["segments"][name]["request"]
        request["prompt_sha256"] = request["body_sha256"] = "0" * 64
    summary.write_text(json.dumps(document))
    taints = [taint.partition(" were")[0] for taint in summary_of(run)["taints"]]
    assert "prompt_differs: obstacle-baseline and obstacle-candidate" in taints
    assert "prompt_differs: phone-intent-baseline-a1 and phone-intent-candidate" in taints
