# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rounds and drills: the moment of a strike, what a failure says, and that each drill judges what it should."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Tenant
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import proving, twins
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.outcome import Case, Section, junit, page, put

RESTORED = [{"event": "tenant_stopped"}, {"event": "restored"}]
RETRIED = [{"event": "tenant_retry", "tenant": "db", "attempt": 1, "reason": "exit code 7"}, *RESTORED]
FAILED = [{"event": "restore_failed", "reason": "api is not healthy"}, *RESTORED]


class Here(proving.Ground):
    """This machine as a ground: commands run here, on a state folder of the test's own."""

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


def faults(**changes: Any) -> dict[str, proving.Fault]:
    """A start of db, and the health of api, as a twin makes them fail."""
    twin = proving.Twin([], "here", "pr-here")
    tenants = {
        kind: Tenant(name, "systemd", unit=f"{name}.service") for kind, name in (("start", "db"), ("health", "api"))
    }
    found = {kind: twin.fault(kind, tenant) for kind, tenant in tenants.items()}
    return {kind: dataclasses.replace(fault, **changes) for kind, fault in found.items() if fault is not None}


class Stage:
    """A proof whose plays are a script: how each ends, and what its journal has."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.ends, self.journal = folder, 0, list(RESTORED)
        self.killed: list[str] = []
        self.after: dict[str, str] = {}
        self.ground = Here(folder / "state")
        (folder / "state").mkdir()
        self.shown: list[str] = []
        self.proof = proving.Proof(self.ground, folder / "rounds", {}, faults(), 0.1, 0.2, self.shown.append)
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


@pytest.mark.parametrize(
    ("journal", "result"), [(RESTORED, "passed"), ([], "failure"), ([{"event": "tenant_stopped"}], "failure")]
)
def test_a_rehearsal_without_its_journal_proves_nothing(
    stage: Stage, journal: list[dict[str, Any]], result: str
) -> None:
    stage.journal = journal
    found, said = outcome(stage, proving.Proof.contracts_and_rehearsal)
    assert found == result
    assert said == ("" if result == "passed" else "the journal does not say that the host was restored")


def test_a_message_is_a_line_and_nothing_is_lost(stage: Stage) -> None:
    def refused(_proof: Any) -> None:
        raise proving.Failed("docker run: no space left\nSee 'docker run --help'.", "more")

    assert outcome(stage, refused) == ("failure", "docker run: no space left")
    assert stage.proof.cases[-1].text == "See 'docker run --help'.\nmore"


def test_what_could_not_be_tried_is_an_error_and_no_failure(stage: Stage) -> None:
    def broken(_proof: Any) -> None:
        raise twins.TwinError("docker exec failed:\nno such container")

    assert outcome(stage, broken) == ("error", "docker exec failed:")
    assert "no such container" in stage.proof.cases[-1].text


def test_a_round_finds_the_collections_of_this_play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an ansible.cfg names them."""
    monkeypatch.setattr(proving.constants, "COLLECTIONS_PATHS", ["/of/the/settings"])
    first, *others = proving.environment()["ANSIBLE_COLLECTIONS_PATH"].split(":")
    assert (Path(first) / "ansible_collections").is_dir()
    assert others == ["/of/the/settings"]


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


REFUSED = "ssh: connect to host shop port 22: Connection refused"
AWAY = f"""[ERROR]: Task failed: Failed to connect to the host via ssh: {REFUSED}
Origin: <adhoc 'ansible.builtin.command' task>

{{'action': 'ansible.builtin.command'}}

shop | UNREACHABLE! => {{
    "changed": false
}}"""
DENIED = """[WARNING]: something else
[ERROR]: Task failed: Failed to connect to the host via ssh: Warning: Permanently added 'shop' to the known hosts.
ops@shop: Permission denied (publickey).
Origin: <adhoc 'ansible.builtin.command' task>
"""
# What the program ansible prints, and its exit code: the command's, its output and the reason in a line.
PRINTED = [
    ("shop | CHANGED | rc=0 >>\nheld", 0, 0, "held", "held"),
    ("shop | FAILED | rc=9 >>\nnon-zero return code", 2, 9, "", "exit code 9"),
    ("shop | FAILED | rc=1 >>\nno such unitnon-zero return code", 2, 1, "no such unit", "no such unit"),
    (AWAY, 4, 4, None, f"Failed to connect to the host via ssh: {REFUSED}"),
    (DENIED, 4, 4, None, "ops@shop: Permission denied (publickey)."),
    (f"[ERROR]: Task failed: {'x' * 900}", 4, 4, None, "x" * proving.TOLD),
    ("", 4, 4, None, "exit code 4"),
]


@pytest.mark.parametrize(("printed", "code", "of_command", "output", "reason"), PRINTED)
def test_a_host_tells_a_commands_own_exit_code_or_why_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, code: int, of_command: int, output: str | None,
    reason: str,
) -> None:  # fmt: skip
    (tmp_path / "said").write_text(printed)
    programs(tmp_path, ansible=f"cat {tmp_path}/said; exit {code}")
    monkeypatch.setattr(proving, "tool", lambda name: str(tmp_path / name))
    done = proving.Host([], "shop", [], []).run(["true"])
    assert (done.returncode, proving.reason_of(done)) == (of_command, reason)
    assert output is None or done.stdout == output


def test_a_command_on_a_host_has_no_terminal_to_ask_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, ansible="awk '{ print $6 }' /proc/self/stat")
    monkeypatch.setattr(proving, "tool", lambda name: str(tmp_path / name))
    session = int(proving.Host([], "shop", [], []).run(["true"]).stdout)
    assert session != os.getsid(0)


def test_a_host_that_never_answers_is_named_without_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, ansible="exec sleep 60")
    monkeypatch.setattr(proving, "tool", lambda name: str(tmp_path / name))
    with pytest.raises(twins.TwinError, match=r"^shop did not answer within 0 s$"):
        proving.Host([], "shop", [], []).run(["true"], 0.2)


def test_a_play_that_ends_without_a_record_says_the_last_error(tmp_path: Path) -> None:
    play = proving.Round.__new__(proving.Round)
    play.folder, play.log = tmp_path, tmp_path / "play.log"
    play.process = type("Process", (), {"returncode": 4})
    play.log.write_text(f"TASK [x]\n{AWAY}\nPLAY RECAP\nshop : ok=0 unreachable=1\n")
    assert str(play.failure()) == f"the play ended with 4: Failed to connect to the host via ssh: {REFUSED}"
    assert "PLAY RECAP" in play.failure().text


class Away(Here):
    """A ground that stops answering."""

    def run(self, command: Sequence[str], limit_s: float = 5.0) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(list(command), 4, "", AWAY)


def test_a_host_that_stays_away_is_not_said_to_be_held(stage: Stage) -> None:
    stage.proof.ground = Away(stage.folder)
    result, said = outcome(stage, lambda proof: proof.closed())
    assert (result, said.partition(": ")[0]) == ("failure", "the host did not come back by itself")
    assert said.endswith(REFUSED)


def test_a_play_does_not_go_on_without_its_strike(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_unused: Any, **_options: Any) -> Any:
        raise twins.TwinError("shop did not answer within 300 s")

    monkeypatch.setattr(stage.ground, "run", silent)
    assert outcome(stage, proving.Proof.runner_killed) == ("error", "shop did not answer within 300 s")
    assert len(stage.killed) == 1


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


UNIT = {"name": "db", "kind": "systemd", "unit": "db.service", "port": 5001}
BOX = {"name": "cache", "kind": "container", "container": "cache-box", "health": {"url": "http://127.0.0.1:1/"}}
SCRIPTS = {"name": "voice", "kind": "script", "user": "root", "directory": "/srv", "start": "./a", "stop": "./b",
           "process": "voice", "health": {"url": "http://127.0.0.1:2/"}}  # fmt: skip
TIMER = {"name": "nightly", "kind": "systemd", "unit": "nightly.timer"}
HEARD = {**UNIT, "name": "api", "unit": "api.service", "health": {"url": "http://127.0.0.1:3/"}}
ODD = {**HEARD, "name": "odd", "unit": "odd\\x2dname.service"}


def can(ground: proving.Ground, plan_data: dict[str, Any], *tenants: dict[str, Any]) -> dict[str, str]:
    """Whom each drill would strike that the ground can have; empty for nobody."""
    names = [str(tenant["name"]) for tenant in tenants]
    data = {**plan_data, "tenants": [*plan_data["tenants"], *tenants], "stop_order": names, "restore_order": names}
    found = proving.faults(planfile.parse(data), ground)
    proof = proving.Proof(ground, Path("/nowhere"), {}, found, 1.0, 1.0, print)
    drills = {name: drill for name, drill in proving.DRILLS.items() if not proving.why_not(drill, proof)}
    return {name: found[drill.fault].tenant if drill.fault else "" for name, drill in drills.items()}


def test_a_ground_has_the_drills_that_it_can_have(plan_data: dict[str, Any]) -> None:
    host = proving.Host(["inv"], "shop", ["-e", "x=1"], [])
    assert host.inventory == ["-i", "inv"]
    always = {"controller-killed": "", "runner-killed": ""}
    assert can(host, plan_data, UNIT, HEARD) == {**always, "start-fails-once": "db", "health-never": "api"}
    assert can(host, plan_data, SCRIPTS, BOX) == {**always, "start-fails-once": "cache", "health-never": "cache"}
    # No signal finds a script's tenant by name, a timer has no process, and a name with signs is no word of a shell.
    assert can(host, plan_data, SCRIPTS, TIMER, ODD) == always
    assert can(proving.Host([], "shop", [], ["reboot"]), plan_data, TIMER) == {**always, "reboot": ""}
    twin = proving.Twin(["inv"], "shop", "pr-shop")
    every = {**always, "reboot": "", "start-fails-once": "db", "health-never": "voice"}
    assert can(twin, plan_data, UNIT, SCRIPTS) == every
    # A timer has nothing that could fail to start, and nothing to ask.
    assert can(twin, plan_data, TIMER) == {**always, "reboot": ""}
    proof = proving.Proof(host, Path("/nowhere"), {}, {}, 1.0, 1.0, print)
    assert "only a unit or a container can be struck" in proving.why_not(proving.DRILLS["health-never"], proof)
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
    with pytest.raises(AnsibleActionFail, match="expected a file that can be written here, found: No such device"):
        put(tmp_path / "pipe", "nobody reads it")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    put(tmp_path / "pipe", "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    put(Path("/dev/null"), "new")
    assert not Path("/dev/null").is_file()


def programs(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which these programs are shell scripts."""
    for name, text in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def on_host(kind: str, data: dict[str, Any], plan_data: dict[str, Any]) -> proving.Fault:
    plan_data["tenants"].append(data)
    tenant = planfile.parse(plan_data).tenant(data["name"])
    fault = proving.Host([], "shop", [], []).fault(kind, tenant)
    assert fault is not None
    return fault


def test_the_first_process_of_a_real_start_is_killed(plan_data: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the unit does then: the start that was asked for has failed once."""
    fault = on_host("start", HEARD, plan_data)
    assert (fault.event, fault.of_tenant, fault.undo, fault.tried_again) == ("tenant_starting", True, (), False)
    mark = tmp_path / "starting"
    with subprocess.Popen(["sleep", "60"]) as started:
        said = f"test -e {mark} && echo MainPID={started.pid} || echo MainPID=0\necho ControlPID=0; touch {mark}"
        environment = programs(tmp_path, systemctl=said)
        done = subprocess.run(["sh", "-c", fault.command], env=environment, timeout=60, check=False)
        assert (done.returncode, started.wait(10)) == (0, -signal.SIGKILL)


def test_a_start_without_a_process_is_missed(
    plan_data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "KILLED_S", 1)
    environment = programs(tmp_path, systemctl="echo MainPID=0", docker="exit 1", sleep="exit 0")
    for data in (HEARD, BOX):
        script = on_host("start", data, plan_data).command
        assert subprocess.run(["sh", "-c", script], env=environment, check=False).returncode == proving.NOBODY


@pytest.mark.parametrize(
    ("data", "stop", "go_on"),
    [
        (HEARD, "systemctl kill --signal=STOP api.service", "systemctl kill --signal=CONT api.service"),
        (BOX, "docker kill --signal=STOP cache-box", "docker kill --signal=CONT cache-box"),
    ],
)
def test_a_real_health_page_stands_still_until_it_is_let_go(
    plan_data: dict[str, Any], tmp_path: Path, data: dict[str, Any], stop: str, go_on: str
) -> None:
    fault = on_host("health", data, plan_data)
    # Only when it has stopped: it would not stop well otherwise.
    assert (fault.event, fault.of_tenant) == ("tenant_stopped", True)
    told = tmp_path / "told"
    words = f'for one; do echo "$one"; done >>{told}'
    environment = programs(tmp_path, systemd_run=words, systemctl=f"echo systemctl $* >>{told}")
    subprocess.run(["sh", "-c", fault.command], env=environment, check=True)
    asked = told.read_text().splitlines()
    unit = f"prove-rollback-{data['name']}"
    assert f"--unit={unit}" in asked
    # It ends by itself, and however it ends the tenant runs again.
    assert any(word.startswith("--property=RuntimeMaxSec=") for word in asked)
    assert f'--property=ExecStopPost=-/bin/sh -c "{go_on}"' in asked
    assert asked[-1] == f"while :; do {stop} >/dev/null 2>&1; sleep 0.2; done"
    subprocess.run(fault.undo, env=environment, check=True)
    assert told.read_text().splitlines()[-1] == f"systemctl stop {unit}.service"


def test_a_fault_that_can_not_be_ended_is_told(stage: Stage) -> None:
    with pytest.raises(proving.Failed, match="the fault of api could not be ended"):
        stage.proof.drop(dataclasses.replace(faults()["health"], undo=("false",)))
    # Who was never struck has nothing to be ended; a unit that is not there is not one that still strikes.
    stage.proof.drop(faults()["start"])


def test_a_strike_waits_for_its_tenant(tmp_path: Path) -> None:
    ground = Here(tmp_path)
    journal = tmp_path / "runs" / "r" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"event": "tenant_stopped", "tenant": "db-2"}) + "\n")
    words = ["sh", "-c", proving.STRIKE, "sh", "r", "tenant_stopped", "1", "true"]
    assert ground.run([*words, "db"]).returncode == proving.MISSED
    assert ground.run([*words, ""]).returncode == ground.run([*words, "db-2"]).returncode == 0


def test_a_real_unit_that_systemd_started_again_is_no_second_try_of_ours(stage: Stage) -> None:
    stage.proof.faults = {"start": dataclasses.replace(faults()["start"], tried_again=False, command="true")}
    assert outcome(stage, proving.Proof.start_fails_once) == ("passed", "")
