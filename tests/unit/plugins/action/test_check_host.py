# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that runs the independent suite: whatever comes of it, a JUnit file of this run lies there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import check_host
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import outcome

GOOD = '<testsuites><testsuite><testcase name="test_a"/><testcase name="test_b"/></testsuite></testsuites>'
BAD = GOOD.replace('"test_b"/>', '"test_b"><failure message="no"/></testcase>')
OLD = '<testsuites><testsuite><testcase name="of an earlier run"/></testsuite></testsuites>'


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "build" / "check-host.xml"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


def run(stage: Any, report: Path, hosts: list[str], written: str | None, code: int) -> Any:
    """Play the action with a pytest that leaves ``written`` and ends with ``code``."""

    def pytest_of(self: Any, names: list[str], path: Path) -> subprocess.CompletedProcess[str]:
        assert names == [f"ansible://{host}" for host in hosts]
        # Nobody finds the old file meanwhile.
        assert "it did not finish" in report.read_text()
        if written is not None:
            path.write_text(written)
        return subprocess.CompletedProcess([], code, "what pytest said\n", None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_host.ActionModule, "_pytest", pytest_of)
        return stage.play(check_host, hosts=hosts, junit=str(report))


def test_a_suite_that_passes(stage: Any, report: Path) -> None:
    found = run(stage, report, ["panda"], GOOD, 0)
    assert (found["tests"], found["failed_tests"], found["changed"]) == (2, [], False)
    assert report.read_text() == GOOD
    assert "what pytest said" in stage.shown
    assert [path.name for path in report.parent.iterdir()] == [report.name]


@pytest.mark.parametrize(
    ("hosts", "written", "code", "message", "kept"),
    [
        (["a", "b"], BAD, 1, "1 of 2 checks failed: test_b", "failure"),
        ([], None, 0, "expected a host in the group trial_hosts .*, found none: the inventory has no host", "error"),
        (["panda"], None, 4, "the suite ended with 4 and no test", "error"),
        (["panda"], "<testsuites/>", 5, "the suite ended with 5 and no test", "error"),
        (["panda"], "<testsui", 3, "the suite ended with 3 and no test", "error"),
    ],
)
def test_each_failure_is_in_junit_and_never_the_old_file(
    stage: Any, report: Path, hosts: list[str], written: str | None, code: int, message: str, kept: str
) -> None:
    with pytest.raises(AnsibleActionFail, match=message):
        run(stage, report, hosts, written, code)
    assert ElementTree.parse(report).getroot().find(f".//{kept}") is not None
    assert "of an earlier run" not in report.read_text()


def test_a_controller_without_testinfra_is_told_what_to_install(
    stage: Any, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_host.importlib.util, "find_spec", lambda name: None if name == "testinfra" else True)
    with pytest.raises(AnsibleActionFail, match="expected testinfra in Ansible's Python"):
        stage.play(check_host, hosts=["panda"], junit=str(report))
    assert "pytest-testinfra" in report.read_text()


def test_a_tag_is_refused_and_that_is_in_junit(stage: Any, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome.context, "CLIARGS", {"tags": ("all",)})
    assert stage.play(check_host, hosts=[], only_tags=True, junit=str(report))["changed"] is False
    assert report.read_text() == OLD
    monkeypatch.setattr(outcome.context, "CLIARGS", {"tags": ("typo",)})
    with pytest.raises(AnsibleActionFail, match="expected no tags: this playbook has none, found typo"):
        stage.play(check_host, hosts=[], only_tags=True, junit=str(report))
    assert "found typo" in report.read_text()


def test_a_question_to_a_person_is_refused_and_what_needs_none_is_passed_on(
    stage: Any, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome.context, "CLIARGS", {"become_ask_pass": True})
    with pytest.raises(AnsibleActionFail, match=r"found --ask-become-pass .*Use instead: --become-password-file=FILE"):
        stage.play(check_host, hosts=["panda"], junit=str(report))
    assert "--become-password-file" in report.read_text()
    given = {"become_password_file": "/one", "remote_user": "ops", "timeout": 30, "ssh_common_args": ""}
    monkeypatch.setattr(outcome.context, "CLIARGS", given)
    found = check_host.environment([], [])
    assert [found.get(name) for name in check_host.PASSED_ON.values()] == [
        "ops", None, None, "30", None, "/one", *[None] * 5,
    ]  # fmt: skip


def test_a_junit_file_is_asked_for(stage: Any) -> None:
    with pytest.raises(AnsibleActionFail, match="junit: expected a file"):
        stage.play(check_host, hosts=["panda"])


def test_the_suite_asks_the_plays_own_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = check_host.environment([check_host.absolute("one,two"), check_host.absolute("inv")], ["dev@/secret"])
    assert found["ANSIBLE_INVENTORY"] == f"one,two,{tmp_path}/inv"
    assert found["ANSIBLE_VAULT_IDENTITY_LIST"] == "dev@/secret"
    assert Path(found["PATH"].split(":")[0], "python3").exists()
    assert "ANSIBLE_VAULT_IDENTITY_LIST" not in check_host.environment([], [])
