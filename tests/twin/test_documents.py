"""Trials that write into the user's documents, and everything else that a finished run leaves beside its numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.twin

SAMPLES = Path(__file__).resolve().parents[2] / "images" / "twin" / "her-os"
RESEARCH = "docs/RESEARCH-GEMMA4-E4B-QUANTIZATIONS.md"
REGISTRY = "docs/RESOURCE-REGISTRY.md"
MEMORY = "MEMORY.md"
NAMES = (RESEARCH, REGISTRY, MEMORY)
LABEL = "gemma-4-E4B-it-Q4_K_M"


def texts(root):
    return {name: (root / name).read_text(encoding="utf-8") for name in NAMES}


def said(played):
    """What became of each document, as the play shows it."""
    return dict(re.findall(rf"^({'|'.join(map(re.escape, NAMES))}): (.+)$", played.text, re.MULTILINE))


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """A copy of the twin's own documents."""
    root = tmp_path_factory.mktemp("her-os")
    (root / "docs").mkdir()
    for name in NAMES:
        shutil.copy(SAMPLES / name, root / name)
    return root


@pytest.fixture(scope="module")
def tried(host, docs):
    """A trial that writes into them: what it said, the texts before, and its folder."""
    before = texts(docs)
    played = host.play("benchmark-e4b.yml", "-e", f"docs_root={docs}")
    assert played.code == 0, played.text
    return played, before, host.latest()


def test_the_trial_is_in_all_three(docs, tried):
    played, before, folder = tried
    assert said(played) == dict.fromkeys(NAMES, "written")
    after = texts(docs)
    assert "no benchmarks exist yet" not in after[RESEARCH]
    assert f"| nav | {LABEL} | gemma-4-E2B-it before | gemma-4-E2B-it after |" in after[RESEARCH]
    assert re.search(rf"^\| {LABEL} \| 11437 \| 6\.\d \| PENDING REVIEW \|$", after[REGISTRY], re.MULTILINE)
    assert "\nSteady-state peak: 12.8 GB\n" in after[REGISTRY]
    assert after[REGISTRY].count(folder.name) == 1
    assert after[MEMORY].startswith(before[MEMORY])
    assert folder.name in after[MEMORY]
    assert f"The report: {folder}/report.html" in played.text


def test_the_run_has_report_and_exports(tried):
    folder = tried[2]
    assert (folder / "report.html").stat().st_size > 10_000
    suites = ElementTree.parse(folder / "exports" / "junit.xml").getroot()
    assert suites.attrib["failures"] == "0"
    assert len((folder / "exports" / "samples.csv").read_text(encoding="utf-8").splitlines()) > 300
    assert (folder / "exports" / "metrics.prom").read_text(encoding="utf-8").endswith("# EOF\n")


def test_the_same_run_again_changes_nothing(host, docs, tried):
    before = texts(docs)
    played = host.play("harvest.yml", "-e", f"docs_root={docs}")
    assert played.code == 0, played.text
    assert said(played) == dict.fromkeys(NAMES, "unchanged")
    assert texts(docs) == before


def test_check_and_diff_show_and_write_nothing(host, docs, tried):
    before = texts(docs)
    judged = host.play("harvest.yml", "-e", "verdict_describe=better")
    assert judged.code == 0, judged.text
    assert texts(docs) == before, "without a root nobody's documents are touched"
    played = host.play("harvest.yml", "--check", "--diff", "-e", f"docs_root={docs}")
    assert played.code == 0, played.text
    assert said(played) == dict.fromkeys(NAMES, "would be written")
    assert re.search(rf"^\+\| {LABEL} \| 11437 \| 6\.\d \| ADOPT \|$", played.text, re.MULTILINE)
    assert re.search(r"^twin +: .*\bchanged=[1-9]", played.text, re.MULTILINE)
    assert texts(docs) == before
    written = host.play("harvest.yml", "-e", f"docs_root={docs}")
    assert said(written) == dict.fromkeys(NAMES, "written")
    after = texts(docs)
    assert "| ADOPT |" in after[REGISTRY]
    assert after[REGISTRY].count(tried[2].name) == 1


def test_a_trial_that_is_only_checked_has_nothing_to_write(host, docs, tried):
    before = texts(docs)
    played = host.play("benchmark-e4b.yml", "--check", "--diff", "-e", f"docs_root={docs}")
    assert played.code == 0, played.text
    assert texts(docs) == before


def test_a_document_without_a_place_stops_the_writing_and_nothing_else(host, docs, tried, tmp_path):
    broken = shutil.copytree(docs, tmp_path / "broken")
    (broken / REGISTRY).write_text("# Nothing here\n", encoding="utf-8")
    before = texts(broken)
    played = host.play("harvest.yml", "-e", f"docs_root={broken}")
    assert played.code != 0
    assert f'{REGISTRY}: expected one heading "Active Models", found none' in played.text
    assert texts(broken) == before


def test_a_trial_that_was_turned_away_is_remembered_and_counts_nowhere(host, docs, tried):
    before = texts(docs)
    played = host.play("benchmark-e4b.yml", "-e", "@candidates/twin-violating.yml", "-e", f"docs_root={docs}")
    assert played.code != 0
    after = texts(docs)
    assert [name for name in NAMES if after[name] != before[name]] == [MEMORY]
    assert f"run {host.latest().name}: " in after[MEMORY]
    assert "rolled back, **INCONCLUSIVE**" in after[MEMORY]
    cases = ElementTree.parse(host.latest() / "exports" / "junit.xml").getroot()
    assert int(cases.attrib["failures"]) >= 2


def test_a_pipeline_that_insists_gets_everything_first(host, docs, tried):
    (host.results / "latest").unlink()
    run = tried[2].name
    played = host.play(
        "harvest.yml", "-e", f"verdict_run={run}", "-e", "verdict_describe=same", "-e", "verdict_require=adopt"
    )
    assert played.code != 0
    assert host.latest().name == run
    assert "The report: " in played.text
