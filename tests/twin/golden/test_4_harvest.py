"""The golden trial brought home again: the same, judged, shown, and with documents that have no place for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from attachments import DOCUMENTS, REGISTRY, said, texts

pytestmark = pytest.mark.twin

LABEL = "gemma-4-E4B-it-Q4_K_M"


def judge_better(folder):
    """A person's judgment, by hand; a judgment that is there already stays."""
    judged = ("verdict", str(folder), "--judge", "describe=better")
    subprocess.run([sys.executable, "-m", "trialbench", *judged], check=True)


def harvest(golden, *args):
    return golden.host.play("harvest.yml", *args)


def test_a_pipeline_that_insists_gets_everything_first_and_nothing_changes(golden):
    """Another controller harvests after a lost one: it knows no more than the host does."""
    before, attested = texts(golden.docs), golden.document("attestation.json")
    (golden.folder / "attestation.json").unlink()
    (golden.host.results / "latest").unlink()
    played = harvest(golden, "-e", f"docs_root={golden.docs}", "-e", "verdict_require=adopt")
    # Nobody has judged it yet, and that is the one thing that fails.
    assert played.code != 0
    assert "Insist on the verdict" in played.tasks()[-1]
    assert golden.host.latest() == golden.folder
    assert "The report: " in played.text
    assert golden.document("attestation.json") == attested
    assert golden.document("verdict.json")["facts"]["ground_truth"] == "passed"
    assert said(played.text) == dict.fromkeys(DOCUMENTS, "unchanged")
    assert texts(golden.docs) == before


def test_a_document_without_a_place_stops_the_writing_and_nothing_else(golden, tmp_path):
    broken, before = shutil.copytree(golden.docs, tmp_path / "broken"), texts(golden.docs)
    (broken / REGISTRY).write_text("# Nothing here\n", encoding="utf-8")
    (golden.folder / "report.html").unlink()
    named = ("-e", f"verdict_run={golden.folder.name}")
    played = harvest(golden, *named, "-e", "verdict_judge=describe=better", "-e", f"docs_root={broken}")
    assert played.code != 0
    assert f'{REGISTRY}: expected one heading "Active Models", found none' in played.text
    assert texts(broken) == {**before, REGISTRY: "# Nothing here\n"}
    assert golden.document("verdict.json")["verdict"] == "ADOPT"
    assert (golden.folder / "report.html").exists()
    assert texts(golden.docs) == before, "documents that nobody named are not touched"


def test_a_judgment_reaches_the_documents_when_it_is_written_and_not_when_it_is_shown(golden):
    judge_better(golden.folder)
    docs, before = golden.docs, texts(golden.docs)
    shown = harvest(golden, "--check", "--diff", "-e", f"docs_root={docs}")
    assert shown.code == 0, shown.text
    assert said(shown.text) == dict.fromkeys(DOCUMENTS, "would be written")
    assert re.search(rf"^\+\| {LABEL} \| 11437 \| 6\.\d \| ADOPT \|$", shown.text, re.MULTILINE)
    assert re.search(r"^twin +: .*\bchanged=[1-9]", shown.text, re.MULTILINE)
    assert texts(docs) == before
    written = harvest(golden, "-e", f"docs_root={docs}", "-e", "verdict_require=adopt")
    assert written.code == 0, written.text
    assert said(written.text) == dict.fromkeys(DOCUMENTS, "written")
    after = texts(docs)
    assert "| ADOPT |" in after[REGISTRY]
    assert after[REGISTRY].count(golden.folder.name) == 1
