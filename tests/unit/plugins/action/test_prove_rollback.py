# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that proves a rollback: what is refused, what is skipped, and that JUnit and page come of everything."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible.cli.arguments import option_helpers
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible_collections.edgelab.model_trial.plugins.action import check_host, prove_rollback
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import bases, outcome, proving, twins

DB = {"name": "db", "kind": "systemd", "unit": "db", "port": 5001, "health": {"url": "http://127.0.0.1:5001/"}}
API = {"name": "api", "kind": "systemd", "unit": "api", "needs": ["db"], "health": {"url": "http://127.0.0.1:5002/"}}
SHOP = {
    "trial_gpu": {"steady_gb": [2.0, 3.0]},
    "trial_tenants": [DB, API],
    "trial_stop_order": ["api", "db"],
    "trial_restore_order": ["db", "api"],
}


class Vault(dict[str, Any]):
    """Variables of a host of which one can't be rendered."""

    def __getitem__(self, name: str) -> Any:
        if name.startswith("secret") or super().__getitem__(name) == "undefined":
            raise AnsibleError(f"{name} can't be rendered")
        return super().__getitem__(name)


def prove(stage: Any, folder: Path, hosts: dict[str, dict[str, Any]], **options: Any) -> dict[str, Any]:
    action = stage.action(prove_rollback, hosts=list(hosts), dest=str(folder), **options)
    return dict(action.run(None, {"hostvars": {name: Vault(facts) for name, facts in hosts.items()}}))


def cases(folder: Path) -> dict[str, tuple[str, str]]:
    """The cases of the JUnit file in their order: how each ended, and why."""
    found = {}
    for case in ElementTree.parse(folder / "junit.xml").getroot().iter("testcase"):
        ends = [child for child in case if child.tag in ("failure", "error", "skipped")]
        found[case.get("name", "")] = (ends[0].tag, ends[0].get("message", "")) if ends else ("passed", "")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an earlier run has left its files."""
    place = tmp_path / "prove"
    place.mkdir()
    for name in ("junit.xml", "index.html"):
        (place / name).write_text("of an earlier run")
    return place


WRONG = [
    ({}, {}, "expected a host in the group trial_hosts (trial_group names it), found none: the inventory has no host"),
    ({"a": SHOP, "b": SHOP}, {}, "expected prove_rollback_host, because the group trial_hosts has 2 hosts: a, b"),
    ({"a": SHOP}, {"host": "c"}, "prove_rollback_host: expected a host in the group trial_hosts (a), found 'c'"),
    ({"a": SHOP}, {"drills": None}, "prove_rollback_drills: expected a value, or [] to play no drill, found null"),
    ({"a": SHOP}, {"drills": ""}, "prove_rollback_drills: expected a value, or [] to play no drill, found ''"),
    ({"a": SHOP}, {"ground": ""}, "prove_rollback_ground: expected a value, found ''"),
    ({"a": SHOP}, {"ground": None}, "prove_rollback_ground: expected a value, found null"),
    ({"a": SHOP}, {"reboot": None}, "prove_rollback_reboot: expected a value, found null"),
    ({"a": SHOP}, {"group": ""}, "trial_group: expected a value, found ''"),
    ({"a": SHOP}, {"ground": "moon"}, "prove_rollback_ground: expected one of twin, host, found 'moon'"),
    ({"a": SHOP}, {"drills": "reboot,flood"}, "prove_rollback_drills: expected some of controller-killed, "),
    (
        {"a": SHOP},
        {"start_limit_s": "soon"},
        "prove_rollback_start_s: expected a number of seconds above 0, found 's",
    ),
    ({"a": SHOP}, {"start_limit_s": "nan"}, "expected a number of seconds above 0, found 'nan'"),
    ({"a": SHOP}, {"start_limit_s": "inf"}, "expected a number of seconds above 0, found 'inf'"),
    ({"a": SHOP}, {"start_limit_s": -1}, "expected a number of seconds above 0, found -1"),
    ({"a": SHOP}, {"start_limit_s": 0}, "expected a number of seconds above 0, found 0"),
    ({"a": SHOP}, {"start_limit_s": [5]}, "expected a number of seconds above 0, found [5]"),
    ({"a": SHOP}, {"drills": 7}, "prove_rollback_drills: expected a list, or names with commas, found 7"),
    ({"a": SHOP}, {"drills": {"reboot": 1}}, "expected a list, or names with commas, found {'reboot': 1}"),
    ({"a": SHOP}, {"keep": "maybe"}, "prove_rollback_keep: expected true or false, found 'maybe'"),
    ({"a": SHOP}, {"reboot": "it's"}, 'prove_rollback_reboot: expected a command, found "it\'s": No closing'),
    ({"a": SHOP}, {"reboot": 7}, "prove_rollback_reboot: expected a command, found 7"),
    ({"a": {**SHOP, "trial_gpu": ""}}, {}, "gpu: expected a mapping with the fields of Gpu, found ''"),
    ({"a": {**SHOP, "trial_gpu": {}}}, {}, "gpu.steady_gb: "),
    ({"a": {**SHOP, "trial_limits": []}}, {}, "limits: expected a mapping with the fields of Limits, found []"),
    ({"a": {**SHOP, "trial_candidate": "label"}}, {}, "candidate: expected a mapping with the fields of Candidate"),
    ({"a": {**SHOP, "trial_contracts": [1]}}, {}, "contracts: expected a mapping with the fields of Contracts"),
    ({"a": {**SHOP, "trial_contracts": {"quiet": ["x"]}}}, {}, "contracts.quiet[0]: expected a mapping"),
    ({"a": {**SHOP, "trial_stop_order": {"api": 1}}}, {}, "stop_order: expected a list, found {'api': 1}"),
    (
        {"a": {**SHOP, "trial_stop_order": [], "trial_restore_order": []}},
        {},
        "stop_order: expected a tenant that a rehearsal stops; ",
    ),
    (
        {"läd chen": SHOP},
        {},
        "host: expected letters, digits, dot, dash, underscore (it may name a folder), found 'läd chen'",
    ),
    ({"a": {}}, {}, "a: expected trial_tenants, trial_stop_order, trial_restore_order in the inventory, found no "),
    ({"a": {**SHOP, "trial_tenants": "undefined"}}, {}, "a, trial_tenants: trial_tenants can't be rendered"),
    (
        {"a": {**SHOP, "trial_restore_order": ["api", "db"]}},
        {},
        "restore_order: expected api after db, because api needs",
    ),
    ({"a": {**SHOP, "trial_tenants": [{**DB, "kind": "cron"}]}}, {}, "tenants[0].kind: expected one of systemd"),
    ({"a": {**SHOP, "trial_stop_order": 7}}, {}, "stop_order: expected a list, found 7"),
    ({"a": SHOP}, {"ground": "host"}, "expected trial_disposable: true of a in the inventory, found None"),
    ({"a": {**SHOP, "trial_disposable": "yes"}}, {"ground": "host"}, "found 'yes': drills stop and kill"),
]


@pytest.mark.parametrize(("hosts", "options", "message"), WRONG, ids=[message[:40] for *_unused, message in WRONG])
def test_what_is_wrong_is_the_first_case_and_nothing_is_played(
    stage: Any, folder: Path, hosts: dict[str, Any], options: dict[str, Any], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(proving.subprocess, "Popen", None)
    monkeypatch.setattr(twins.subprocess, "run", None)
    with pytest.raises(AnsibleActionFail, match="the inventory: "):
        prove(stage, folder, hosts, **options)
    found = cases(folder)
    assert list(found) == ["the inventory"]
    result, said = found["the inventory"]
    assert result == "failure"
    assert message in said
    for left in ("junit.xml", "index.html"):
        assert "of an earlier run" not in (folder / left).read_text()
    assert result in (folder / "index.html").read_text()


@pytest.mark.parametrize("variable", prove_rollback.VARIABLES.values())
@pytest.mark.parametrize(("value", "why"), [("undefined", "can't be rendered"), (None, "found null")])
def test_an_option_that_is_set_to_nothing_is_never_taken_for_its_default(
    stage: Any, folder: Path, variable: str, value: Any, why: str
) -> None:
    options = {"variables_of": "here", "hosts": ["a"]}
    action = stage.action(prove_rollback, dest=str(folder), **options)
    with pytest.raises(AnsibleActionFail, match=f"the inventory: {variable}: .*{why}"):
        action.run(None, {"hostvars": {"a": Vault(SHOP), "here": Vault({variable: value})}})
    assert cases(folder)["the inventory"][0] == "failure"


GROUPS = {"all": ["a", "b", "w"], "ungrouped": [], "shop": ["a", "b"], "web": ["w"]}


@pytest.mark.parametrize(
    ("options", "limit", "message"),
    [
        (
            {"group": "shops"},
            "",
            "a host in the group shops (trial_group names it), found none: the inventory has shop (a, b), web (w)",
        ),
        ({"group": "shop", "members": ["a", "b"]}, "w", "group shop, found none within --limit w: the group has a, b"),
        ({"group": "shops"}, "w", "group shops (trial_group names it), found none within --limit w: the inventory has"),
        (
            {"group": "shop", "members": ["a", "b"], "hosts": ["a"], "host": "b"},
            "a",
            "prove_rollback_host: expected a host in the group shop within --limit a (a), found 'b'",
        ),
        (
            {"members": [f"h{n}" for n in range(12)]},
            "w",
            "the group has h0, h1, h2, h3, h4, h5, h6, h7, h8, h9 and 2 more",
        ),
    ],
)
def test_where_no_host_is_left_the_group_the_limit_and_the_hosts_are_named(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], limit: str, message: str
) -> None:
    monkeypatch.setattr(outcome.context, "CLIARGS", {"subset": limit or None})
    action = stage.action(prove_rollback, dest=str(folder), **{"hosts": [], **options})
    with pytest.raises(AnsibleActionFail, match="the inventory: "):
        action.run(None, {"hostvars": {}, "groups": GROUPS})
    assert message in cases(folder)["the inventory"][1]


def test_a_secret_that_nobody_needs_is_not_looked_at(stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "engine", lambda: (one for one in ()).throw(twins.TwinError("expected a Docker engine")))
    with pytest.raises(AnsibleActionFail, match="the ground: expected a Docker engine"):
        prove(stage, folder, {"shop": {**SHOP, "secret_of_the_shop": "x"}})
    found = cases(folder)
    assert found.pop("the inventory") == ("passed", "")
    assert found.pop("the ground") == ("error", "expected a Docker engine")
    assert {result for result, _why in found.values()} == {"skipped"}
    assert len(found) == 1 + len(proving.DRILLS)
    # What the twin would have replaced is not told of one that never was.
    assert "Replaced" not in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ('{"ServerVersion": "26.1", "SecurityOptions": ["name=seccomp", "name=rootless"]}', "found rootless Docker"),
        ('{"ServerErrors": ["permission denied"]}', "expected a Docker engine, found: permission denied"),
        ('{"ServerVersion": "26.1", "OSType": "windows"}', "an engine for Linux containers, found windows"),
        ("oops", "expected a Docker engine, found: "),
    ],
)
def test_an_engine_that_can_hold_no_twin_is_refused_by_name(
    stage: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, message: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    with pytest.raises(AnsibleActionFail, match="the ground: "):
        prove(stage, folder, {"shop": SHOP}, drills=[])
    assert message in cases(folder)["the ground"][1]


def test_a_tenant_without_a_stand_in_is_told_and_no_twin_is_built(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "engine", dict)
    monkeypatch.setattr(twins, "remove", lambda _name: None)
    odd = {**SHOP, "trial_tenants": [{**DB, "unit": "db.socket"}, API]}
    with pytest.raises(AnsibleActionFail, match=r"the ground: tenant db: a twin has stand-ins for"):
        prove(stage, folder, {"shop": odd}, drills=[])


class Played:
    """Stands in for what is played on a ground: which case fails, and why."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.played: list[str] = []
        self.failing = failing
        self.variables: dict[str, Any] = {}
        self.inventory = ""
        answers = {"returncode": 0, "stdout": "", "stderr": ""}
        monkeypatch.setattr(proving.Host, "run", lambda *_unused: type("Done", (), answers))
        monkeypatch.setattr(proving.Proof, "contracts_and_rehearsal", self.case("rehearsal"))
        table = {
            name: proving.Drill(drill.title, self.case(name), drill.fault, drill.reboots)
            for name, drill in proving.DRILLS.items()
        }
        monkeypatch.setattr(proving, "DRILLS", table)

    def case(self, name: str) -> Any:
        def play(proof: Any) -> None:
            self.played.append(name)
            self.variables = dict(proof.variables)
            sources = [Path(one) for one in proof.ground.sources]
            self.inventory = "".join(one.read_text() for one in sources if one.is_file())
            if name == self.failing:
                raise proving.Failed("why not", "more about it")

        return play


def test_a_disposable_host_has_the_drills_that_it_can_have(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(monkeypatch)
    found = prove(stage, folder, {"shop": {**SHOP, "trial_disposable": True}}, ground="host")
    assert played.played == ["rehearsal", "controller-killed", "runner-killed", "start-fails-once", "health-never"]
    skipped = {name: why for name, (result, why) in cases(folder).items() if result == "skipped"}
    assert "prove_rollback_reboot" in skipped["the host reboots in the window"]
    assert len(skipped) == 1
    assert [case["result"] for case in found["cases"]].count("passed") == 7
    again = prove(stage, folder, {"shop": {**SHOP, "trial_disposable": True}}, ground="host", reboot="docker restart x")
    assert again["cases"][5]["result"] == "passed"
    # In an inventory in INI form it is a text.
    prove(stage, folder, {"shop": {**SHOP, "trial_disposable": "True"}}, ground="host")


def test_a_disposable_host_that_does_not_answer_says_why_in_the_message(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Played(monkeypatch)
    said = "[ERROR]: Task failed: Failed to connect to the host via ssh: ssh: connect to host x: No route to host\n"
    done = {"returncode": 4, "stdout": "", "stderr": said}
    monkeypatch.setattr(proving.Host, "run", lambda *_unused: type("Done", (), done))
    with pytest.raises(AnsibleActionFail, match="No route to host"):
        prove(stage, folder, {"shop": {**SHOP, "trial_disposable": True}}, ground="host")
    result, why = cases(folder)["the ground"]
    assert result == "failure"
    assert why.startswith("shop does not answer, or sudo does not work there: Failed to connect to the host via ssh: ")
    assert why.endswith("No route to host")


def raises(err: BaseException) -> Any:
    """Something that raises it, whatever it is called with."""

    def fail(*_unused: Any, **_options: Any) -> None:
        raise err

    return fail


@pytest.mark.parametrize(
    ("place", "name", "raised", "case", "why"),
    [
        (prove_rollback.stand_ins, "lay_out", KeyError("odd"), "the ground", "'odd'"),
        (prove_rollback.stand_ins, "lay_out", ValueError(), "the ground", "ValueError"),
        (prove_rollback.stand_ins, "unproved", TypeError("odd"), "the ground #2", "odd"),
        (proving, "faults", IndexError("odd"), "the inventory #2", "odd"),
        (proving.Twin, "fault", ZeroDivisionError("odd"), "the inventory #2", "odd"),
    ],
)
def test_a_fault_of_our_own_is_a_case_and_never_a_pass(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch,
    place: Any, name: str, raised: Exception, case: str, why: str,
) -> None:  # fmt: skip
    Played(monkeypatch)
    monkeypatch.setattr(twins, "engine", dict)
    monkeypatch.setattr(twins, "remove", lambda _name: None)
    monkeypatch.setattr(prove_rollback.ActionModule, "build", lambda *_unused: None)
    monkeypatch.setattr(place, name, raises(raised))
    with pytest.raises(AnsibleActionFail, match=why):
        prove(stage, folder, {"shop": SHOP})
    assert cases(folder)[case] == ("error", why)


def test_a_proof_that_is_ended_from_outside_never_passes(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline may kill the job at any moment, and collects what lies there."""
    played = Played(monkeypatch)
    host = {"shop": {**SHOP, "trial_disposable": True}}
    seen: list[list[str]] = []

    def look(*_unused: Any) -> None:
        seen.append([result for result, _why in cases(folder).values()])

    for name, drill in proving.DRILLS.items():
        monkeypatch.setitem(proving.DRILLS, name, dataclasses.replace(drill, play=look))
    monkeypatch.setattr(proving.Proof, "contracts_and_rehearsal", look)
    prove(stage, folder, host, ground="host")
    assert seen[0] == ["passed", "passed", "error"]
    assert len(seen) == 5
    assert all(results[-1] == "error" for results in seen)
    monkeypatch.setattr(proving.Proof, "contracts_and_rehearsal", raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        prove(stage, folder, host, ground="host")
    assert cases(folder)["a rehearsal"] == ("error", outcome.UNFINISHED)
    assert not played.played


@pytest.mark.parametrize(
    ("options", "made", "removed"),
    [({}, True, True), ({"keep": "false"}, True, True), ({"keep": "true"}, True, False), ({}, False, False)],
)
def test_a_twin_is_removed_unless_it_is_kept_or_never_was(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], made: bool, removed: bool
) -> None:
    """``-e prove_rollback_keep=false`` gives a text."""
    Played(monkeypatch)
    gone: list[str] = []
    monkeypatch.setattr(twins, "remove", gone.append)
    monkeypatch.setattr(prove_rollback.ActionModule, "build", lambda *_unused: None)
    if made:
        monkeypatch.setattr(twins, "engine", dict)
        prove(stage, folder, {"shop": SHOP}, **options)
    else:
        monkeypatch.setenv("PATH", str(folder))
        with pytest.raises(AnsibleActionFail, match="the ground: expected the docker CLI, found none on PATH"):
            prove(stage, folder, {"shop": SHOP})
    assert bool(gone) is removed
    assert any("kept: " in line for line in stage.shown) is (options == {"keep": "true"})


def test_a_folder_that_can_not_be_written_is_said(stage: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AnsibleActionFail, match=r"junit.xml: expected a file that can be written here, found: "):
        prove(stage, tmp_path / "file", {"shop": SHOP})


def test_a_round_on_a_host_gets_what_this_play_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "extra_vars": ("a=1",),
        "vault_ids": ("dev@one",),
        "vault_password_files": ("/two",),
        "become_password_file": "/three",
        "ssh_common_args": "-o Port=2222",
        "connection": "ssh",
        "remote_user": "ops",
    }
    monkeypatch.setattr(prove_rollback.context, "CLIARGS", given)
    assert prove_rollback.options() == [
        "-e", "a=1", "--vault-id", "dev@one", "--vault-password-file=/two", "--user=ops",
        "--become-password-file=/three", "--ssh-common-args=-o Port=2222",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "settings", "ground", "what", "instead"),
    [
        ({"become_ask_pass": True}, [], "host", "--ask-become-pass (-K, ", "--become-password-file=FILE"),
        ({"ask_pass": True}, [], "host", "--ask-pass (-k, ", "--connection-password-file=FILE"),
        ({"ask_vault_pass": True}, [], "host", "--ask-vault-pass (-J, ", "--vault-password-file=FILE"),
        ({"vault_ids": ("a@/f", "dev@prompt")}, [], "host", "the vault identity dev@prompt", "--vault-id dev@FILE"),
        ({"vault_ids": ("prompt",)}, [], "host", "the vault identity prompt", "--vault-id default@FILE"),
        ({}, ["dev@prompt"], "host", "the vault identity dev@prompt", "--vault-id dev@FILE"),
        # Settings reach every round; of the command line, a round on a twin gets nothing.
        ({}, ["dev@prompt"], "twin", "the vault identity dev@prompt", "--vault-id dev@FILE"),
        ({"ask_vault_pass": True, "become_ask_pass": True, "vault_ids": ("dev@prompt",)}, [], "twin", "", ""),
    ],
)
def test_a_question_to_a_person_is_refused_before_anything_starts(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any], settings: list[str], ground: str, what: str, instead: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(outcome.context, "CLIARGS", given)
    monkeypatch.setattr(outcome.constants, "DEFAULT_VAULT_IDENTITY_LIST", settings)
    assert bool(outcome.questions_refused(ours=ground == "host")) is bool(what)
    if not what:
        return
    monkeypatch.setattr(proving.subprocess, "Popen", None)
    monkeypatch.setattr(twins.subprocess, "run", None)
    with pytest.raises(AnsibleActionFail, match="the inventory: expected passwords in files"):
        prove(stage, folder, {"shop": {**SHOP, "trial_disposable": True}}, ground=ground)
    result, said = cases(folder)["the inventory"]
    assert result == "failure"
    for words in (f"found {what}", f"Use instead: {instead}"):
        assert words in said
        assert words in (folder / "index.html").read_text()


def test_no_option_of_a_connection_is_lost_on_the_way_to_a_round() -> None:
    """Each is passed on, or refused because it asks a person."""
    parser = argparse.ArgumentParser()
    for add in (option_helpers.add_connect_options, option_helpers.add_runas_options, option_helpers.add_vault_options):
        add(parser)
    there_are = {action.dest for action in parser._actions} - {"help"}
    # Rounds become root by themselves.
    needless = {"become", "become_user"}
    vault = {"vault_ids", "vault_password_files"}
    asked = set(outcome._ASKED)
    assert there_are == {*prove_rollback.PASSED_ON, *asked, *vault, *needless}
    assert there_are - set(prove_rollback.PASSED_ON) == there_are - set(check_host.PASSED_ON)


def test_a_round_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this play's settings ask."""
    for name in ("ANSIBLE_ASK_PASS", "ANSIBLE_BECOME_ASK_PASS", "ANSIBLE_ASK_VAULT_PASS"):
        monkeypatch.setenv(name, "true")
        assert proving.environment()[name] == "0"


BARE = {name: value for name, value in SHOP.items() if name != "trial_gpu"}


def test_a_disposable_host_without_a_gpu_and_without_a_model(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services and their orders are enough: what a trial asks besides is filled, and no card is."""
    played = Played(monkeypatch)
    prove(stage, folder, {"shop": {**BARE, "trial_disposable": True}}, ground="host")
    assert played.played[0] == "rehearsal"
    assert {result for result, _why in cases(folder).values()} == {"passed", "skipped"}
    assert "trial_gpu" not in played.variables
    assert {"trial_candidate", "trial_baseline", "trial_workloads", "trial_contracts"} <= set(played.variables)
    assert prove_rollback.plan_of(BARE, "shop").gpu is None


@pytest.mark.parametrize(("facts", "card"), [(BARE, "no"), (SHOP, "yes")])
def test_a_twin_has_a_card_where_the_host_has_one(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], card: str
) -> None:
    played, built = Played(monkeypatch), []
    done = SimpleNamespace(returncode=0, stdout="", stderr="")
    monkeypatch.setattr(twins, "engine", dict)
    monkeypatch.setattr(bases, "base", lambda *_unused: "debian")
    monkeypatch.setattr(twins, "build_image", lambda place, *words: built.append((place, words)) or "image")
    monkeypatch.setattr(twins, "docker", lambda *_unused, **_options: done)
    for name in ("run", "remove", "wait_for_exec"):
        monkeypatch.setattr(twins, name, lambda *_unused: "")
    prove(stage, folder, {"shop": facts})
    assert {result for result, _why in cases(folder).values()} == {"passed"}
    parts, words = built[0]
    assert words[-1] == f"CARD={card}"
    assert (parts.name, ("trial_gpu" in played.inventory)) == ("parts", card == "yes")


@pytest.mark.parametrize(
    ("failing", "drills", "played"),
    [
        ("rehearsal", ["runner-killed"], ["rehearsal"]),
        ("controller-killed", ["controller-killed", "runner-killed"], ["rehearsal", "controller-killed"]),
    ],
)
def test_what_rests_on_a_failure_is_skipped(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str, drills: list[str], played: list[str]
) -> None:
    """And each red run plays no more than it was asked for."""
    stand_in = Played(monkeypatch, failing)
    with pytest.raises(AnsibleActionFail, match="why not"):
        prove(stage, folder, {"shop": {**SHOP, "trial_disposable": True}}, ground="host", drills=drills)
    assert stand_in.played == played
    results = [result for result, _why in cases(folder).values()]
    assert results[-1] in ("skipped", "failure")
    assert results.count("failure") == 1
    assert "more about it" in (folder / "junit.xml").read_text()


def test_check_mode_does_nothing(stage: Any, folder: Path) -> None:
    action = stage.action(prove_rollback, check_mode=True, hosts=["a"], dest=str(folder))
    assert action.run(None, {})["skipped_in_check_mode"] is True
    assert (folder / "junit.xml").read_text() == "of an earlier run"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"tags": ("typo",)}, "typo"),
        ({"tags": ("all",), "skip_tags": ("typo", "notest")}, "typo"),
        ({"tags": ("all",), "skip_tags": ("molecule-notest",)}, ""),
        ({"tags": ("a", "b")}, "a, b"),
    ],
)
def test_a_tag_is_refused_and_that_is_in_junit(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], found: str
) -> None:
    monkeypatch.setattr(outcome.context, "CLIARGS", options)
    judged = {"only_tags": True, "dest": str(folder), "hosts": []}
    if not found:
        assert stage.play(prove_rollback, **judged)["changed"] is False
        # Nothing is refused, and nothing is proved yet.
        assert (folder / "junit.xml").read_text() == "of an earlier run"
        return
    for arguments in (judged, {"hosts": ["a"], "dest": str(folder)}):
        (folder / "junit.xml").write_text("of an earlier run")
        with pytest.raises(AnsibleActionFail, match=f"the inventory: expected no tags: .*, found {found}"):
            stage.play(prove_rollback, **arguments)
        assert cases(folder)["the inventory"][0] == "failure"
    (folder / "junit.xml").write_text("of an earlier run")
    with pytest.raises(AnsibleActionFail, match="expected no tags"):
        stage.action(prove_rollback, check_mode=True, **judged).run(None, {})
    assert (folder / "junit.xml").read_text() == "of an earlier run"


def test_the_files_of_an_earlier_run_go_once_a_refusal_is_certain_or_the_proof_begins(
    stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows from the options alone is refused in one step; a look at variables may take long, or never end."""
    left: list[str] = []
    monkeypatch.setattr(prove_rollback, "put", lambda path, text: left.append(text) if path.suffix == ".xml" else None)
    with pytest.raises(AnsibleActionFail):
        prove(stage, folder, {"a": SHOP}, ground="moon")
    assert ["expected one of twin, host" in text for text in left] == [True]
    left.clear()
    with pytest.raises(AnsibleActionFail):
        prove(stage, folder, {"a": {}})
    assert [outcome.UNFINISHED in text for text in left] == [True, False]


def test_an_option_that_there_is_not_is_refused(stage: Any, folder: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="expected dest and some of hosts"):
        stage.play(prove_rollback, dest=str(folder), hots=[])


def test_a_twin_is_reached_through_docker_and_no_port() -> None:
    found = prove_rollback.reach("pr-shop-1", Path("/tmp/id"), "ops")
    assert "docker exec -i pr-shop-1 " in found["ansible_ssh_common_args"]
    assert "sshd -i" in found["ansible_ssh_common_args"]
    assert "ansible_port" not in found
    assert json.loads(json.dumps(found))["ansible_user"] == "ops"
