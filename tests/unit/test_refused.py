# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that fails before anything is stopped leaves JUnit with the reason, and stays a failure: by real Ansible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"


def played(playbook: str, results: Path, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """A playbook for the real host's inventory, which fails on the controller, before that host is asked anything."""
    given = {"verdict_results_dir": str(results), **variables}
    return subprocess.run(
        [
            *(Path(sys.executable).parent / "ansible-playbook", "-i", "panda", playbook),
            *("-e", json.dumps(given), *options),
        ],
        cwd=PLAYBOOKS,
        env={**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def image(folder: Path) -> str:
    """The description of an image that has none of the inventory's workloads."""
    path = folder / "bench-image.json"
    path.write_text(json.dumps({"id": "sha256:0", "workloads": ["another"]}))
    return str(path)


@pytest.mark.parametrize("playbook", ["rehearse.yml", pytest.param("benchmark-e4b.yml", marks=pytest.mark.prove)])
@pytest.mark.parametrize(
    ("options", "named", "reason"),
    [
        pytest.param([], True, "the plan cannot be used: stop_order", id="a wrong order"),
        pytest.param(
            ["--tags", "preflight"],
            True,
            "the plan cannot be used: stop_order",
            id="its contracts alone",
            marks=pytest.mark.prove,
        ),
        # There is no plan yet, and so no name from it.
        pytest.param(
            [], False, "Expected a file with every workload but another", id="before the plan", marks=pytest.mark.prove
        ),
    ],
)
def test_what_is_refused_is_on_record(
    tmp_path: Path, playbook: str, options: list[str], named: bool, reason: str
) -> None:
    wrong = {"trial_stop_order": ["nobody"]} if named else {"trial_image_file": image(tmp_path)}
    results = tmp_path / "results"
    done = played(playbook, results, *options, **wrong)
    assert done.returncode == 2, done.stdout + done.stderr
    assert reason in " ".join(done.stdout.split())
    [folder] = results.iterdir()
    assert ("refused" in folder.name) is not named
    assert (folder / "plan.json").exists() is named
    assert (folder / "report.html").exists()
    first = next(ElementTree.parse(folder / "exports" / "junit.xml").getroot().iter("failure"))
    assert str(first.get("message")).startswith("untouched: preflight: ")
    assert reason in str(first.get("message"))
    # No task was rescued into a success.
    recap = done.stdout.partition("PLAY RECAP")[2]
    assert "failed=1" in recap
    assert "unreachable=0" in recap


@pytest.mark.prove
def test_what_is_only_checked_leaves_nothing(tmp_path: Path) -> None:
    done = played("rehearse.yml", tmp_path / "results", "--check", trial_stop_order=["nobody"])
    assert done.returncode == 2, done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
