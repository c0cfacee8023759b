# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles expect of a host's own words before they act on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.edgelab.model_trial.plugins.module_utils import plan, planfile, services

ROLES = Path(__file__).resolve().parents[2] / "roles"


def tasks(role: str, name: str = "main") -> list[dict[str, Any]]:
    """The tasks of a file of a role."""
    found: list[dict[str, Any]] = yaml.safe_load((ROLES / role / "tasks" / f"{name}.yml").read_text())
    return found


def holds(task: dict[str, Any], **variables: Any) -> bool:
    """Whether what a task asserts holds, by the filters and tests that Ansible has."""
    jinja = jinja2.Environment(autoescape=True)
    jinja.filters["regex_findall"] = lambda text, pattern: re.findall(pattern, text)
    jinja.tests["match"] = lambda text, pattern: bool(re.match(pattern, text))
    return bool(jinja.compile_expression(task["ansible.builtin.assert"]["that"])(**variables))


def variable(role: str, name: str, folder: Path, **given: Any) -> Any:
    """What a variable of a role's vars is, as Ansible itself templates it, lookups too."""
    (folder / "given.json").write_text(json.dumps(given))
    files = (ROLES / role / "vars" / "main.yml", folder / "given.json")
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "ansible", "localhost", "-i", "localhost,", "-m", "ansible.builtin.debug"),
            *("-a", f"msg={{{{ {name} | to_json }}}}"),
            *(word for file in files for word in ("-e", f"@{file}")),
        ],
        cwd=folder,
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(json.loads(done.stdout.partition("=>")[2])["msg"])


@pytest.mark.prove
def test_a_workloads_own_file_travels_as_text_and_its_fields_as_they_are(tmp_path: Path) -> None:
    """The host has no file of the controller's; a template in the text is the workload's, not Ansible's."""
    text = "name: phone-intent\nmessages: [{role: user, content: '{{ prompt }}'}]\n"
    (tmp_path / "phone-intent.yml").write_text(text)
    listed = [
        {"name": "phone-intent", "role": "decides", "file": str(tmp_path / "phone-intent.yml"), "n": 30},
        {"name": "describe", "role": "shown", "file": ""},
        {"name": "obstacle", "role": "shown"},
    ]
    assert variable("trial", "_trial_workloads", tmp_path, trial_workloads=listed) == [
        {"name": "phone-intent", "role": "decides", "n": 30, "text": text},
        {"name": "describe", "role": "shown"},
        {"name": "obstacle", "role": "shown"},
    ]


def test_the_plan_of_a_play_has_the_programs_own_format() -> None:
    assert (
        yaml.safe_load((ROLES / "trial" / "vars" / "main.yml").read_text())["_trial_plan"]["format"] == plan.PLAN_FORMAT
    )


SHOP = {
    "trial_tenants": [
        {"name": name, "kind": "systemd", "unit": f"{name}.service", "health": {"url": "http://127.0.0.1:1/"}}
        for name in ("db", "api", "voice")
    ],
    "trial_stop_order": ["api", "db"],
    "trial_restore_order": ["db", "api"],
}


def defaults(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    return found


@pytest.mark.prove
@pytest.mark.parametrize(
    "more", [{}, {"trial_contracts": {"disk_gb_min": 0.5}}, {"trial_candidate": {"label": "e4b", "container": "c"}}]
)
def test_a_rehearsal_needs_the_tenants_and_their_orders_and_no_model(tmp_path: Path, more: dict[str, Any]) -> None:
    """The host's own reader takes the plan that a play makes of them."""
    given = {**defaults("trial"), **SHOP, **more, "trial_rehearsal": True, "trial_run": "r", "trial_lease": "on"}
    given |= {"trial_image_file": "/nowhere", "ansible_play_hosts_all": ["localhost"], "inventory_hostname": "shop1"}
    read = planfile.parse(variable("trial", "_trial_plan", tmp_path, **given))
    assert [tenant.name for tenant in read.tenants] == ["db", "api", "voice"]
    assert (read.rehearsal, read.gpu, read.stop_order) == (True, None, ["api", "db"])
    assert read.candidate.label == more.get("trial_candidate", {"label": "none"})["label"]
    assert read.contracts.disk_gb_min == more.get("trial_contracts", {"disk_gb_min": 2.0})["disk_gb_min"]
    label = ["e4b"] if "trial_candidate" in more else []
    assert variable("trial", "_trial_label", tmp_path, **more) == label


@pytest.mark.prove
@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ({}, ["trial_baseline", "trial_candidate", "trial_workloads", "trial_contracts"]),
        (
            {"trial_baseline": {}, "trial_candidate": {}, "trial_workloads": [], "trial_contracts": {"camera": "/c"}},
            ["trial_contracts.prompt"],
        ),
    ],
)
def test_a_trial_names_what_it_asks_beyond_that(tmp_path: Path, more: dict[str, Any], missing: list[str]) -> None:
    assert variable("trial", "_trial_missing", tmp_path, **SHOP, **more) == missing
    [said] = [task for task in tasks("trial") if task["name"] == "Expect what a trial asks"]
    assert said["when"] == "not trial_rehearsal | bool"
    assert not holds(said, _trial_missing=missing)


def test_a_workloads_file_that_is_missing_is_an_empty_text(tmp_path: Path) -> None:
    """Phase 0 refuses an empty one; without a text it would be the packaged workload of the same name."""
    listed = [{"name": "nav", "role": "decides", "file": str(tmp_path / "none.yml")}]
    assert variable("trial", "_trial_workloads", tmp_path, trial_workloads=listed) == [
        {"name": "nav", "role": "decides", "text": ""}
    ]


def test_a_role_reads_what_the_client_says() -> None:
    """Whether a task has changed something is read from a sentence, which must stand in the client's source."""
    source = "\n".join(path.read_text() for path in (ROLES.parent / "bench").rglob("*.py"))
    words = re.findall(r"changed_when: \"'(.+?)' not in", "\n".join(path.read_text() for path in ROLES.rglob("*.yml")))
    assert len(words) >= 3
    for said in words:
        parts = re.split(r"\b0\b", said)
        assert re.search(r"\{[^}]+\}".join(map(re.escape, parts)), source), said


@pytest.mark.prove
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("describe=better, obstacle=same", ["describe=better", "obstacle=same"]),
        (["describe=worse"], ["describe=worse"]),
    ],
)
def test_judgments_come_from_a_command_line_or_a_list(tmp_path: Path, given: Any, words: list[str]) -> None:
    assert variable("verdict", "_verdict_judge", tmp_path, verdict_judge=given) == words


@pytest.mark.parametrize(
    ("version", "fit"),
    [
        ("systemd 257 (257.9-1~deb13u1)\n+PAM +AUDIT", True),
        ("systemd 249 (249.11-0ubuntu3)", True),
        ("systemd 247 (247.3-7)", False),
        ("systemctl: unknown", False),
        ("", False),
    ],
)
def test_a_systemd_that_would_not_start_the_restore_is_refused_first(version: str, fit: bool) -> None:
    """OnSuccess= came with 249, and an older systemd passes over what it does not know."""
    assert "--property=OnSuccess=mt-restore.service" in services.runner_command(Path("x"), 1.0)
    ask, expect = tasks("acquire")[:2]
    assert ask["ansible.builtin.command"]["argv"] == ["systemctl", "--version"]
    assert holds(expect, **{ask["register"]: SimpleNamespace(stdout=version)}) is fit


def test_a_restore_waits_for_no_unit_but_the_runners() -> None:
    """An engine that hangs while it starts has a start job without end; a unit ordered after it would never run."""
    unit = (ROLES / "acquire" / "templates" / "mt-restore.service.j2").read_text()
    assert [line for line in unit.splitlines() if line.startswith(("After=", "Requires=", "Wants=", "BindsTo="))] == [
        "After=mt-run.service"
    ]


@pytest.mark.parametrize(
    ("run", "fit"),
    [
        ("20261120T090000Z-e4b", True),
        ("x", True),
        ("x\n", False),
        ("../x", False),
        ("a/b", False),
        (".x", False),
        ("", False),
    ],
)
def test_a_run_that_the_host_names_is_one_plain_name(run: str, fit: bool) -> None:
    """It becomes a folder on the controller."""
    (expect,) = (task for task in tasks("verdict", "harvest") if "ansible.builtin.assert" in task)
    assert holds(expect, _verdict_run=run) is fit


def test_the_folder_of_a_run_is_roots_alone_before_the_trial_is_open() -> None:
    """A second trial that is refused leaves it as the role made it."""
    (made,) = (task["ansible.builtin.file"] for task in tasks("snapshot") if "ansible.builtin.file" in task)
    assert (made["owner"], made["mode"]) == ("root", "0700")


def test_an_option_that_may_be_a_text_is_no_condition_by_itself() -> None:
    """`-e` gives texts, which Ansible checks against the specification and leaves as they are: "0" and "false" hold."""
    seen, bare = set(), []
    for spec in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        points = yaml.safe_load(spec.read_text())["argument_specs"].values()
        options = {name: one["type"] for point in points for name, one in point["options"].items()}
        files = [path for path in spec.parents[1].rglob("*") if path.is_file() and "meta" not in path.parts]
        for path in files:
            if path.suffix == ".md":
                continue
            for option in (name for name, kind in options.items() if kind in ("int", "float", "bool")):
                for found in re.finditer(rf"\b(if|when:|not|and|or) {option}\b(.*)", path.read_text()):
                    seen.add(option)
                    if not re.match(r"(?: \| default\(\w+\))? \| (int|float|bool)\b", found[2]):
                        bare.append(f"{path.relative_to(ROLES)}: {found[0]}")
    assert {"gemma_cpp_memory_max_mib", "gemma_cpp_proof_runs", "preflight_outlook"} <= seen
    assert bare == []
