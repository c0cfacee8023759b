# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that runs trialbench on the controller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import trialbench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What trialbench answers, and what it was asked."""
    found = SimpleNamespace(rc=0, out="", err="", asked=[], given=[])

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        found.asked.append(command)
        found.given.append(options["input"])
        return subprocess.CompletedProcess(command, found.rc, found.out, found.err)

    monkeypatch.setattr(trialbench.subprocess, "run", run)
    return found


def test_its_lines_are_shown(stage: Any, bench: SimpleNamespace) -> None:
    bench.out = "verdict ADOPT\np50 18 ms\n"
    result = stage.play(trialbench, argv=["verdict", "results/run-1", 3])
    assert bench.asked == [[sys.executable, "-m", "trialbench", "verdict", "results/run-1", "3"]]
    assert stage.shown == ["verdict ADOPT", "p50 18 ms"]
    assert (result["rc"], result["changed"], result["stdout"]) == (0, False, bench.out)


def test_what_it_reads_is_given(stage: Any, bench: SimpleNamespace) -> None:
    stage.play(trialbench, argv=["workloads", "-"], stdin="{}")
    stage.play(trialbench, argv=["show", "x"])
    assert bench.given == ["{}", ""]


def test_a_command_is_needed(stage: Any, bench: SimpleNamespace) -> None:
    with pytest.raises(AnsibleActionFail, match="argv: expected a command"):
        stage.play(trialbench)
    assert bench.asked == []


def test_check_mode_runs_nothing(stage: Any, bench: SimpleNamespace) -> None:
    assert stage.play(trialbench, check_mode=True, argv=["show", "x"])["cmd"][-2:] == ["show", "x"]
    assert bench.asked == []


@pytest.mark.parametrize(
    ("rc", "err", "words"),
    [
        (3, "verdict REJECT is not ADOPT\n", "trialbench verdict: verdict REJECT is not ADOPT"),
        (4, "", "trialbench verdict: 4"),
        (1, "No module named trialbench\n", "expected the distribution edgelab-trialbench in the Python that runs"),
    ],
)
def test_a_failure_is_told(stage: Any, bench: SimpleNamespace, rc: int, err: str, words: str) -> None:
    bench.rc, bench.err = rc, err
    with pytest.raises(AnsibleActionFail, match=words) as caught:
        stage.play(trialbench, argv=["verdict", "x"])
    assert caught.value.result["rc"] == rc


@pytest.mark.parametrize(
    ("err", "owners", "found"),
    [
        ("/usr/bin/python: No module named trialbench\n", [], "found none"),
        ("error: invalid choice\n", ["trialbench"], "found the distribution trialbench, which is another project"),
        ("error: invalid choice\n", ["edgelab-trialbench"], "error: invalid choice"),
        ("error: invalid choice\n", [], "error: invalid choice"),
    ],
)
@pytest.mark.parametrize("argv", [["verdict", "x"], ["attest", "x"]])
def test_a_controller_without_trialbench_is_told_what_to_install(
    stage: Any,
    bench: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    err: str,
    owners: list[str],
    found: str,
) -> None:
    """A package index has another project under the name of the module."""
    bench.rc, bench.err = 1, err
    monkeypatch.setattr(trialbench.importlib.metadata, "packages_distributions", lambda: {"trialbench": owners})
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(trialbench, argv=argv)
    message = str(caught.value)
    assert found in message
    assert ("install PATH/OF/THE/CHECKOUT" in message) == ("found" in found)
    assert "install trialbench" not in message


TOLD = {
    "changed": True,
    "documents": [{"name": "MEMORY.md", "changed": True, "left_alone": None}],
    "lines": ["MEMORY.md: written"],
    "diff": "--- a\n+++ b",
}


@pytest.mark.parametrize(
    ("check", "diff", "options"),
    [(False, False, []), (True, False, ["--check"]), (True, True, ["--check", "--diff"]), (False, True, ["--diff"])],
)
def test_documents_know_check_and_diff_mode(
    stage: Any, bench: SimpleNamespace, check: bool, diff: bool, options: list[str]
) -> None:
    bench.out = json.dumps(TOLD)
    action = stage.action(trialbench, check_mode=check, argv=["documents", "run-1", "--root", "docs"])
    action._task.diff = diff
    result = action.run(None, {})
    assert bench.asked[0][3:] == ["documents", "run-1", "--root", "docs", "--json", *options]
    assert stage.shown == ["MEMORY.md: written"]
    assert (result["changed"], result["documents"]) == (True, TOLD["documents"])
    assert result["diff"] == {"prepared": "--- a\n+++ b"}


def test_a_document_without_a_place_is_named(stage: Any, bench: SimpleNamespace) -> None:
    bench.rc, bench.err = 2, "trialbench: MEMORY.md: expected a document in docs, found none\n"
    with pytest.raises(AnsibleActionFail, match=r"trialbench documents: trialbench: MEMORY.md: expected a document"):
        stage.play(trialbench, argv=["documents", "x", "--root", "docs"])


FOUND = {"format": 1, "required": True, "files": [{"sha256": "a" * 64, "status": "failed", "says": "m: 1 failed"}]}


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("rc", [0, 1, 3])
def test_a_bad_attestation_is_an_answer_in_check_mode_too(
    stage: Any, monkeypatch: pytest.MonkeyPatch, check: bool, rc: int
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        Path(command[-1]).write_text(json.dumps(FOUND), encoding="utf-8")
        return subprocess.CompletedProcess(command, rc, "", "not good")

    monkeypatch.setattr(trialbench.subprocess, "run", run)
    result = stage.play(trialbench, check_mode=check, argv=["attest", "--sha256=aa"])
    assert asked[0][1:6] == ["-m", "trialbench", "attest", "--sha256=aa", "--json"]
    # An exit code in the result would make Ansible fail the task.
    assert "rc" not in result
    assert (result["changed"], result["attestation"]) == (False, FOUND)
    assert stage.shown == ["m: 1 failed"]
    assert not Path(asked[0][-1]).exists()


def test_an_attestation_that_was_not_made_is_told(stage: Any, bench: SimpleNamespace) -> None:
    bench.rc, bench.err = 2, "v.json: is no verdict\n"
    with pytest.raises(AnsibleActionFail, match=r"trialbench attest: v.json: is no verdict"):
        stage.play(trialbench, argv=["attest", "--sha256=aa"])
