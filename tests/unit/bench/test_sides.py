"""Who answered in a segment is known by its place in the segment's name, whatever the workloads are called."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from trialbench.report.decide import decide_folder
from trialbench.report.export import FORMATS
from trialbench.report.html.described import Picture
from trialbench.report.html.provenance import provenance
from trialbench.report.plan import Named, Side
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.report.telemetry import telemetry

pytestmark = pytest.mark.usefixtures("few_resamples")

REAL = Path(__file__).resolve().parents[2] / "fixtures" / "runs" / "completed"
NAMES: list[tuple[str, str, Side | None, str]] = [
    ("nav-candidate", "nav", "candidate", ""),
    ("nav-candidate-cached", "nav", "candidate", "cached"),
    ("nav-baseline-a1", "nav", "baseline", "a1"),
    ("nav-baseline-tenants", "nav", "baseline", "tenants"),
    ("describe-baseline", "describe", "baseline", ""),
    ("smoke-candidate", "smoke", "candidate", ""),
    ("phone-intent-baseline-a2", "phone-intent", "baseline", "a2"),
    ("baseline-x-candidate", "baseline-x", "candidate", ""),
    ("baseline-x-baseline-a1", "baseline-x", "baseline", "a1"),
    ("candidate-x-baseline", "candidate-x", "baseline", ""),
    ("nav-baseline-candidate-cached", "nav-baseline", "candidate", "cached"),
    ("nav-baseline-a1-candidate", "nav-baseline-a1", "candidate", ""),
    ("nav-candidate-cached-baseline-a1", "nav-candidate-cached", "baseline", "a1"),
    ("candidate-candidate", "candidate", "candidate", ""),
    ("baseline-candidate-baseline", "baseline-candidate", "baseline", ""),
    ("candidates-baseline", "candidates", "baseline", ""),
    ("smoke", "smoke", None, ""),
    ("candidate", "candidate", None, ""),
    ("baselines-x", "baselines-x", None, ""),
    ("", "", None, ""),
]


@pytest.mark.parametrize(("name", "work", "side", "part"), NAMES)
def test_what_a_name_says(name: str, work: str, side: Side | None, part: str) -> None:
    assert Named.of(name) == Named(work, side, part)


def renamed(to: Path, decider: str, shown: str) -> Path:
    """The real run, whose workloads were called so from the beginning; its candidate was thinking once."""
    shutil.copytree(REAL, to)
    for name in ("summary.json", "verdict.json", "report.html"):
        (to / name).unlink(missing_ok=True)
    samples = to / "samples"
    lines = (samples / "nav-candidate.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["flags"] = ["thinking"]
    (samples / "nav-candidate.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    (samples / "describe-candidate-warmup.jsonl").write_text("\n".join(lines[1:3]) + "\n")
    plan = json.loads((to / "plan.json").read_text())
    texts = plan.pop("workload_texts", {})
    plan["workloads"] = [
        {"name": decider, "role": "decides", "n": 100} | ({"text": texts["nav"]} if "nav" in texts else {}),
        {"name": shown, "role": "shown", "n": 5} | ({"text": texts["describe"]} if "describe" in texts else {}),
    ]
    (to / "plan.json").write_text(json.dumps(plan))
    for path in sorted(samples.glob("summary-*.json")):
        document = json.loads(path.read_text())
        document["segments"] = {
            real_name(name, decider, shown): one | {"workload": real_name(one["workload"], decider, shown)}
            for name, one in document["segments"].items()
        }
        path.write_text(json.dumps(document))
    for path in sorted(samples.glob("*.jsonl")):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
        path.rename(path.with_name(real_name(path.name, decider, shown)))
    return to


def real_name(name: str, decider: str, shown: str) -> str:
    return re.sub(r"^(nav|describe)(?=-|$)", lambda found: {"nav": decider, "describe": shown}[found[0]], name)


def told(run_path: Path) -> dict[str, Any]:
    """What depends on who answered: by segment in the run's order, so that names do not count."""
    decided = decide_folder(run_path)
    run = read_run(run_path)
    summary = summarize_run(run)
    texts = {name: export.write(run, summary) for name, export in FORMATS.items()}
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    series = re.findall(
        r'model_trial_samples\{host="[^"]*",model="([^"]*)",segment="[^"]*",state="ok"', texts["openmetrics"]
    )
    groups = {group.name: dict(group.rows).get("says it is") for group in provenance(run, summary, Picture())}
    found = telemetry(run)
    return {
        "verdict": (decided["verdict"], decided["facts"]["thinking"]),
        "taints": len(summary.taints),
        "labels": [row["label"] for row in rows],
        "series": series,
        "junit": re.findall(r'<testcase [^>]*name="([^"]*)"[^>]*>\s*<(\w+)', texts["junit"]),
        "says": (groups["Candidate"], groups["Baseline"]),
        "disturbed": [one.disturbed for one in found.segments.values()],
    }


WORKLOADS = [("baseline-x", "candidate-x"), ("nav-candidate-cached", "nav-baseline-a1")]


@pytest.mark.prove
def test_nothing_depends_on_what_a_workload_is_called(tmp_path: Path) -> None:
    usual = told(renamed(tmp_path / "usual", "nav", "describe"))
    assert usual["says"] == ("/models/candidate-f16.gguf", "/home/panda/models/baseline-f16.gguf")
    assert usual["verdict"][1] == 1
    assert len(set(usual["labels"])) == len(set(usual["series"])) == 2
    for decider, shown in WORKLOADS:
        assert told(renamed(tmp_path / decider, decider, shown)) == usual
