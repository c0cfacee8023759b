# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles and modules used one by one, without a trial: what their pages say is what they take."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.edgelab.model_trial.plugins.doc_fragments import attributes, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils import checks, contracts, planfile
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Site, Tenant

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "edgelab.model_trial."
ALONE = ("tenant", "gpu_info", "gpu_drain", "speech_check", "contracts", "checks")
GROUPS = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]
# Roles that say what lives on a host, and where each says it.
DESCRIBING = ("trial", "preflight", "verify")
Options = dict[str, Any]


def options(role: str) -> Options:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
    found: Options = specs["argument_specs"]["main"]["options"]
    return found


def plain(listed: Options, *, described: bool) -> Options:
    """Options as a specification has them, whether they came from one or from a page."""
    found = {}
    for name, given in listed.items():
        one = {key: value for key, value in given.items() if described or key != "description"}
        # On a host a page's path would be the module's user's; of a role nothing is converted.
        one["type"] = "str" if one["type"] == "path" else one["type"]
        inner = one.pop("suboptions", None) or one.pop("options", None)
        if isinstance(one.get("description"), list):
            [one["description"]] = one["description"]
        if described:
            one["description"] = " ".join(one["description"].split())
        found[name] = {**one, "options": plain(inner, described=described)} if inner else one
    return found


def of_page(fragment: str, name: str) -> Options:
    found: Options = yaml.safe_load(fragment)["options"][name]["suboptions"]
    return found


TENANT = of_page(tenants.ModuleDocFragment.DOCUMENTATION, "tenants")
SITE = of_page(tenants.ModuleDocFragment.SITE, "site")


def test_the_page_lists_every_field_of_a_tenant_and_of_a_host() -> None:
    assert plain(TENANT, described=False) == planfile.arguments(Tenant)
    assert plain(SITE, described=False) == planfile.arguments(Site)
    assert SITE["tenants"]["suboptions"] == TENANT


@pytest.mark.parametrize("role", DESCRIBING)
def test_a_role_takes_the_same_fields_in_the_same_words(role: str) -> None:
    assert plain(options(role)["trial_tenants"]["options"], described=True) == plain(TENANT, described=True)
    gpu = plain(SITE["gpu"]["suboptions"], described=True)
    assert plain(options(role)["trial_gpu"]["options"], described=True) == gpu
    if role != "verify":
        wanted = plain(SITE["contracts"]["suboptions"], described=True)
        # It is a variable of its own.
        del wanted["operator_confirms_idle"]
        taken = plain(options(role)["trial_contracts"]["options"], described=True)
        assert {name: one for name, one in taken.items() if name in wanted} == wanted
        assert set(taken) - set(wanted) == {"prompt", "parser", "camera"}


@pytest.mark.parametrize("role", ["trial", "preflight", "verify", "restore"])
def test_the_readme_of_a_role_has_each_of_its_variables(role: str) -> None:
    page = (ROOT / "roles" / role / "README.md").read_text()
    parts = page.split("\n## Variables\n")[1].split("\n## Example")[0].split("\n### ")[1:]
    shown = {part.split("\n", 1)[0]: part for part in parts}
    assert list(shown) == list(options(role))
    for name, one in options(role).items():
        kind = f"list of {one['elements']}" if one["type"] == "list" else one["type"]
        assert f"\n*{kind}, " in shown[name], name
        assert ("required*" in shown[name]) == bool(one.get("required")), name


@pytest.mark.parametrize("name", ALONE)
def test_a_page_lists_exactly_the_options_that_a_module_takes(name: str) -> None:
    module, declared = page_of(name)
    page = yaml.safe_load(module.DOCUMENTATION)
    told = dict(page.get("options") or {})
    fragments: Any = {"attributes": attributes, "tenants": tenants}
    for used in page["extends_documentation_fragment"]:
        of, _dot, part = used.removeprefix(PREFIX).partition(".")
        text = getattr(fragments[of].ModuleDocFragment, part.upper() or "DOCUMENTATION")
        told |= yaml.safe_load(text).get("options") or {}
    taken = {key: dict(one) for key, one in declared["argument_spec"].items()}
    for one in (*told.values(), *taken.values()):
        one.setdefault("required", False)
    assert {**plain(told, described=False)} == {**plain(taken, described=False)}


class Asked(Exception):
    """The arguments with which a module was made."""


def page_of(name: str) -> tuple[Any, dict[str, Any]]:
    """A module and how it was declared."""
    module = importlib.import_module(f"ansible_collections.edgelab.model_trial.plugins.modules.{name}")

    class Declared:
        def __init__(self, **declared: Any) -> None:
            raise Asked(declared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AnsibleModule", Declared)
        with pytest.raises(Asked) as caught:
            module.main()
    return module, caught.value.args[0]


def tasks_of(text: str) -> Iterator[dict[str, Any]]:
    """The tasks of a text, those of plays, blocks and of `always` too."""
    waiting = list(yaml.safe_load(text) or [])
    while waiting:
        task = waiting.pop(0)
        waiting += [one for part in ("tasks", "block", "rescue", "always") for one in task.get(part) or []]
        yield task


def filled(spec: Options, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments without what only a play could fill in."""
    template = {"dict": {}, "list": []}
    return {
        name: template.get(spec[name]["type"], value) if str(value).startswith("{{") and name in spec else value
        for name, value in given.items()
    }


def judge(name: str, given: dict[str, Any]) -> None:
    """Whether the module ``name`` takes these arguments."""
    _module, declared = page_of(name)
    rest = {key: declared[key] for key in ("mutually_exclusive", "required_one_of") if key in declared}
    params = filled(declared["argument_spec"], given)
    found = ArgumentSpecValidator(declared["argument_spec"], **rest).validate(params)
    assert found.error_messages == [], (name, given)
    if name == "tenant":
        started = found.validated_parameters["state"] == "started"
        planfile.parse_tenants(found.validated_parameters["tenants"], "tenants", started=started)
    site = found.validated_parameters.get("site")
    if site:
        core: Any = contracts if name == "contracts" else checks
        core.chosen(planfile.parse_site(site), found.validated_parameters["only"])


@pytest.mark.parametrize("name", ALONE)
def test_the_examples_of_a_page_are_taken(name: str) -> None:
    module, _declared = page_of(name)
    used = []
    for task in tasks_of(module.EXAMPLES):
        for key, given in task.items():
            if key.startswith(PREFIX):
                used.append(key.removeprefix(PREFIX))
                judge(used[-1], given or {})
    assert used.count(name) >= 2 or name == "gpu_drain"


def test_a_wrong_example_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="unit_name"):
        judge("tenant", {"state": "stopped", "tenants": [{"name": "x", "kind": "systemd", "unit_name": "x"}]})
    with pytest.raises(planfile.PlanError):
        judge("tenant", {"state": "stopped", "tenants": [{"name": "x", "kind": "systemd"}]})
    with pytest.raises(contracts.NoSuchContract):
        judge("contracts", {"site": {"tenants": []}, "only": [77]})


@pytest.mark.parametrize("name", ALONE)
def test_a_page_says_what_check_mode_diff_and_a_second_run_do(name: str) -> None:
    module, declared = page_of(name)
    page = yaml.safe_load(module.DOCUMENTATION)
    told = dict(page.get("attributes") or {})
    for used in page["extends_documentation_fragment"]:
        _collection, _dot, rest = used.removeprefix(PREFIX).partition(".")
        if used.startswith(f"{PREFIX}attributes"):
            part = getattr(attributes.ModuleDocFragment, rest.upper() or "DOCUMENTATION")
            told = {**(yaml.safe_load(part).get("attributes") or {}), **told}
    assert {"check_mode", "diff_mode", "idempotent"} <= set(told)
    assert (told["check_mode"]["support"], told["idempotent"]["support"]) == ("full", "full")
    # Who changes something shows it.
    assert told["diff_mode"]["support"] == ("full" if name == "tenant" else "none")
    assert declared["supports_check_mode"]
    groups = [group for group, members in GROUPS.items() if name in members]
    assert (told["action_group"]["membership"] if "action_group" in told else []) == [
        f"{PREFIX}{group}" for group in groups
    ]


@pytest.mark.parametrize(("group", "shared"), [("gpu", {"index"}), ("host", {"site", "plan", "only"})])
def test_the_modules_of_a_group_share_the_options_it_is_for(group: str, shared: set[str]) -> None:
    specs = [set(page_of(name)[1]["argument_spec"]) for name in GROUPS[group]]
    assert set.intersection(*specs) == shared


def test_every_group_has_its_test() -> None:
    assert set(GROUPS) == {"gpu", "host"}


def test_the_tables_of_checks_name_every_kind() -> None:
    """The code says which kinds there are; the page has a row for each."""
    kinds = re.search(r"``kind`` is (.+?)\.\n", checks.Check.__doc__ or "", re.DOTALL)
    assert kinds
    named = re.findall(r"``(\w+)``", kinds[1])
    page = (ROOT / "docs/adding-a-check.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(named)


# docs/reuse.md, and the scenario that ships with it

REUSE = ROOT / "docs/reuse"
SHOWN = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/reuse.md").read_text(), re.MULTILINE | re.DOTALL)
PLAYED = [task for name in ("converge", "side_effect") for task in tasks_of((REUSE / f"{name}.yml").read_text())]


def test_what_the_page_shows_is_what_the_scenario_plays() -> None:
    # An inventory is no list of tasks.
    read = [yaml.safe_load(text) for text in SHOWN]
    shown = [task for tasks in read if isinstance(tasks, list) for task in tasks]
    assert [task["name"] for task in shown if task not in PLAYED] == ["The second card"]
    assert len(shown) >= 6


def test_the_scenario_uses_each_part_alone() -> None:
    """Modules by their arguments, roles by their variables, none with the plan of a trial."""
    used = set()
    inventory = yaml.safe_load((REUSE / "hosts.yml").read_text())["shop"]["vars"]
    for task in [*PLAYED, *tasks_of((REUSE / "verify.yml").read_text())]:
        for key, given in task.items():
            if key.startswith(PREFIX):
                used.add(key.removeprefix(PREFIX))
                text = json.dumps(given or {}).replace('"{{ trial_tenants }}"', json.dumps(inventory["trial_tenants"]))
                # That an unknown number is an error is what the scenario shows.
                judge(key.removeprefix(PREFIX), {**json.loads(text), **({"only": []} if '"only"' in text else {})})
        role = task.get("ansible.builtin.import_role", {}).get("name", "")
        if role:
            used.add(role.removeprefix(PREFIX))
            assert set(task.get("vars") or {}) <= set(options(role.removeprefix(PREFIX)))
    assert used == {*ALONE, "preflight", "verify", "restore"} - {"contracts"}
    described = {name for name in inventory if name.startswith("trial_")}
    assert described <= set(options("preflight"))
    site = {name.removeprefix("trial_"): inventory[name] for name in described}
    assert [term.id for term in contracts.chosen(planfile.parse_site(site), [1, 4, 6, 7, 9])] == [1, 4, 6, 7, 9]
    assert [c.id for c in checks.chosen(planfile.parse_site(site))] == [1, 2, 3, 4, 5, 6]


def test_the_scenario_brings_its_own_create_and_destroy_and_knows_nothing_of_the_checkout() -> None:
    files = {path.name for path in REUSE.iterdir()}
    assert {"molecule.yml", "create.yml", "prepare.yml", "converge.yml", "verify.yml", "destroy.yml"} <= files
    for path in REUSE.iterdir():
        assert "../" not in path.read_text(), path
    assert yaml.safe_load((REUSE / "molecule.yml").read_text())["scenario"]["test_sequence"].count("idempotence") == 1
