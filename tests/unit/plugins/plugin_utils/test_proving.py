# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rounds and drills: the moment of a strike, what a failure says, and that each drill judges what it should."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import proving, twins
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.outcome import Case, Section, junit, page, put

RESTORED = [{"event": "tenant_stopped"}, {"event": "restored"}]
RETRIED = [{"event": "tenant_retry", "tenant": "db", "attempt": 1, "reason": "exit code 7"}, *RESTORED]
FAILED = [{"event": "restore_failed", "reason": "api is not healthy"}, *RESTORED]


class Here(proving.Ground):
    """This machine as a ground: commands run here, on a state folder of the test's own."""

    has_faults = True
    can_reboot = True

    def __init__(self, state: Path) -> None:
        super().__init__([], "here", [])
        self.state, self.commands, self.reboots = state, [], 0

    def run(self, command: Sequence[str], limit_s: float = 5.0) -> subprocess.CompletedProcess[str]:
        words = [word.replace(proving.STATE, str(self.state)) for word in command]
        self.commands.append(words)
        if words[0] in ("touch", "rm") or words[0].startswith("/usr/local/sbin"):
            return subprocess.CompletedProcess(words, 0, "held", "")
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    def reboot(self) -> None:
        self.reboots += 1


class Stage:
    """A proof whose plays are a script: how each ends, and what its journal has."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.ends, self.journal = folder, 0, list(RESTORED)
        self.killed: list[str] = []
        self.after: dict[str, str] = {}
        self.ground = Here(folder / "state")
        (folder / "state").mkdir()
        self.shown: list[str] = []
        self.proof = proving.Proof(
            self.ground, folder / "rounds", {}, {"start": "db", "health": "api"}, 0.1, 0.2, self.shown.append
        )
        stage = self

        class Play(proving.Round):
            def __init__(self, _ground: Any, playbook: str, run: str, place: Path, _variables: Any) -> None:
                self.playbook, self.run, self.folder = playbook, run, place
                place.mkdir(parents=True)
                self.log = place / "play.log"
                self.log.write_text("what the play said")
                runs = stage.folder / "state" / "runs" / run
                runs.mkdir(parents=True, exist_ok=True)
                (runs / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in stage.journal))
                self.process = type("Process", (), {"returncode": stage.ends})
                if playbook == "check" and stage.after:
                    (place / "failed.json").write_text(json.dumps(stage.after))

            def wait(self, _limit_s: float = 0) -> int:
                return (1 if stage.after else 0) if self.playbook == "check" else stage.ends

            def kill(self) -> None:
                stage.killed.append(self.run)

            def events(self) -> list[dict[str, Any]]:
                return stage.journal

        monkeypatch.setattr(proving, "Round", Play)
        monkeypatch.setattr(proving, "MOMENT_S", 0.3)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def outcome(stage: Stage, prove: Callable[[proving.Proof], None]) -> tuple[str, str]:
    stage.proof.case("it", lambda: prove(stage.proof))
    return stage.proof.cases[-1].result, stage.proof.cases[-1].message


# Drill, how its play ends, its journal: the result and the words in the reason.
TABLE = [
    ("controller-killed", 0, RESTORED, "passed", ""),
    ("controller-killed", 0, [{"event": "tenant_stopped"}], "failure", "does not say that the host was restored"),
    ("controller-killed", 0, [], "failure", "the run did not reach tenant_stopped"),
    ("runner-killed", 2, RESTORED, "passed", ""),
    ("runner-killed", 0, RESTORED, "failure", "the play ended well although the runner was killed"),
    ("reboot", 2, RESTORED, "passed", ""),
    ("reboot", 0, RESTORED, "failure", "the play ended well although the host rebooted"),
    ("start-fails-once", 0, RETRIED, "passed", ""),
    (
        "start-fails-once",
        0,
        RESTORED,
        "failure",
        "the first start of db should have failed, but the journal has no second start",
    ),
    ("start-fails-once", 2, RETRIED, "failure", "the play ended with 2"),
    ("health-never", 2, FAILED, "passed", ""),
    ("health-never", 2, RESTORED, "failure", "the run did not reach restore_failed"),
    ("health-never", 2, [{"event": "restore_failed", "reason": "docker"}, *RESTORED], "failure", "does not name api"),
]


@pytest.mark.parametrize(("name", "ends", "journal", "result", "words"), TABLE)
def test_each_drill_judges_what_it_should(
    stage: Stage, name: str, ends: int, journal: list[dict[str, Any]], result: str, words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The runner is no unit of this machine.
    monkeypatch.setattr(proving, "STRIKE", proving.STRIKE.replace('eval "$4"', "true"))
    stage.ends, stage.journal = ends, journal
    found, said = outcome(stage, proving.DRILLS[name].play)
    assert found == result, said
    assert words in said
    if name == "controller-killed":
        assert stage.killed
    if name == "reboot" and journal:
        assert stage.ground.reboots == 1
    if name == "health-never" and result == "passed":
        # However the drill ends, the fault does not stay.
        assert ["rm", "-f", "/run/twin/faults/health-api"] in stage.ground.commands


def test_a_host_that_is_not_as_before_fails_with_the_check_that_says_so(stage: Stage) -> None:
    stage.after = {"task": "The checks", "message": "Check 3, api is healthy: failed"}
    assert outcome(stage, proving.Proof.controller_killed) == (
        "failure", "The checks: Check 3, api is healthy: failed",
    )  # fmt: skip


def test_a_host_that_stays_held_fails(stage: Stage) -> None:
    (stage.folder / "state" / "open").touch()
    assert outcome(stage, proving.Proof.controller_killed)[1].startswith("the host did not come back by itself")


def test_a_rehearsal_that_needed_a_second_try_is_red(stage: Stage) -> None:
    stage.journal = RETRIED
    result, said = outcome(stage, proving.Proof.contracts_and_rehearsal)
    assert result == "failure"
    assert said == "the host did not come back at the first try: db: start 1 failed and was tried again: exit code 7"


def test_what_could_not_be_tried_is_an_error_and_no_failure(stage: Stage) -> None:
    def broken(_proof: Any) -> None:
        raise twins.TwinError("docker exec failed:\nno such container")

    assert outcome(stage, broken) == ("error", "docker exec failed:")
    assert "no such container" in stage.proof.cases[-1].text


def test_a_strike_waits_for_its_moment(tmp_path: Path) -> None:
    ground = Here(tmp_path)
    journal = tmp_path / "runs" / "r" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    mark = tmp_path / "struck"
    script = proving.STRIKE.replace(proving.STATE, str(tmp_path))
    with subprocess.Popen(["sh", "-c", script, "sh", "r", "tenant_stopped", "600", f"touch {mark}"]) as striking:
        time.sleep(0.3)
        assert not mark.exists()
        journal.write_text(json.dumps({"event": "tenant_stopped", "tenant": "db"}) + "\n")
        assert striking.wait(20) == 0
    assert mark.exists()
    missed = ground.run(["sh", "-c", proving.STRIKE, "sh", "r", "restored", "1", "true"])
    assert missed.returncode == proving.MISSED


BROKEN = """Contract 6, every tenant is healthy: broken.
  expected: healthy
  found: db: no process
  why it matters: x
  what to do: y

Contract 9, alone: broken.
  found: an open mark"""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (BROKEN, "Contract 6, every tenant is healthy: found: db: no process"),
        ("stop_order: expected api before db\nmore", "stop_order: expected api before db"),
        ("", "no reason"),
    ],
)
def test_a_reason_is_a_line(message: str, reason: str) -> None:
    assert proving.first_reason(message) == reason


def test_texts_with_braces_stay_what_they_are() -> None:
    value = {"start": "docker inspect -f '{{.State}}' x", "n": [1, 2.5, None, True], "größe": 'a"b: {c} 🤖'}
    text = proving.yaml_of(value)
    assert '!unsafe "docker inspect' in text
    assert yaml.safe_load(text.replace("!unsafe ", "")) == value


def can(ground: proving.Ground, targets: dict[str, str]) -> list[str]:
    proof = proving.Proof(ground, Path("/nowhere"), {}, targets, 1.0, 1.0, print)
    return [name for name, drill in proving.DRILLS.items() if not proving.why_not(drill, proof)]


def test_a_ground_has_the_drills_that_it_can_have() -> None:
    host = proving.Host(["inv"], "shop", ["-e", "x=1"], [])
    assert host.inventory == ["-i", "inv"]
    both = {"start": "db", "health": "db"}
    assert can(host, both) == ["controller-killed", "runner-killed"]
    assert can(proving.Host([], "shop", [], ["reboot"]), both) == ["controller-killed", "runner-killed", "reboot"]
    twin = proving.Twin(["inv"], "shop", "pr-shop")
    assert can(twin, both) == list(proving.DRILLS)
    # A timer has nothing that could fail to start, and nothing to ask.
    assert can(twin, {}) == ["controller-killed", "runner-killed", "reboot"]
    with pytest.raises(proving.Failed, match="false ended with 1"):
        proving.Host([], "shop", [], ["false"]).reboot()


def test_junit_and_page_hold_what_a_terminal_and_xml_can_not() -> None:
    acts = "\x1b[31m \x9b \u202e \ud800"
    cases = [Case("one"), Case("two", "failure", f"a{acts}<b>", "more & more"), Case("three", "skipped", "no ground")]
    text = junit("prove_rollback", cases)
    assert 'tests="3" failures="1" errors="0"' in text
    assert 'classname="prove_rollback.unknown"' in text
    assert 'classname="prove_rollback.shop"' in junit("prove_rollback", cases, "shop")
    shown = page("Does <x> come back?", cases, [Section("Replaced", ["db: <unit>"]), Section("Nothing", [])])
    assert "two: a" in shown.partition("<table>")[0]
    for written in (text, shown):
        assert "\\x1b[31m \\x9b \\u202e \\ud800" in written
        assert not set(acts.replace(" ", "")) - set("[31m") & set(written)
    assert "&lt;unit&gt;" in shown
    assert "<b>" not in shown
    assert "Nothing" not in shown
    assert "passed, 1 check<" in page("x", [Case("one")])


def test_a_link_and_a_pipe_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("data/file")
    put(tmp_path / "link", "new \ud800")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "data" / "file").read_text() == "new \\ud800"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        put(tmp_path / "pipe", "nobody reads it")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    put(tmp_path / "pipe", "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    put(Path("/dev/null"), "new")
    assert not Path("/dev/null").is_file()


def test_faults_strike_who_can_have_them(plan_data: dict[str, Any]) -> None:
    plan_data.update(stop_order=["chatterbox", "llamacpp"], restore_order=["llamacpp", "chatterbox"])
    assert proving.targets(planfile.parse(plan_data)) == {"start": "llamacpp", "health": "chatterbox"}
    plan_data["tenants"].append({"name": "nightly", "kind": "systemd", "unit": "nightly.timer"})
    plan_data.update(stop_order=["nightly"], restore_order=["nightly"])
    assert proving.targets(planfile.parse(plan_data)) == {}
