"""What the playbooks refuse before they touch anything: tags that no task has, an inventory without hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
HELPERS = {"require_hosts.yml", "require_tags.yml"}
NAMES = sorted(path.name for path in PLAYBOOKS.glob("*.yml") if path.name not in HELPERS)


def plays(name: str) -> list[dict[str, Any]]:
    """The plays of a playbook."""
    found: list[dict[str, Any]] = yaml.safe_load((PLAYBOOKS / name).read_text(encoding="utf-8"))
    return found


def tags(found: Any) -> Iterator[str]:
    """Every tag that a tree of plays, blocks and tasks has; a role that is imported as a whole brings its own."""
    if isinstance(found, list):
        for one in found:
            yield from tags(one)
    elif isinstance(found, dict):
        yield from found.get("tags", [])
        for key in ("tasks", "block", "rescue", "always", "pre_tasks", "post_tasks"):
            yield from tags(found.get(key))
        for one in found.get("roles", []):
            role = one["role"].rsplit(".", 1)[-1]
            yield from tags(yaml.safe_load((ROOT / "roles" / role / "tasks" / "main.yml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", NAMES)
def test_each_playbook_first_names_the_tags_that_it_has(name: str) -> None:
    first = plays(name)[0]
    assert first["ansible.builtin.import_playbook"] == "require_tags.yml"
    known = first["vars"]["require_tags_known"]
    assert sorted(known) == sorted({*tags(plays(name))} - {"always", "never"})


def played(known: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """The check alone, by the real Ansible."""
    return subprocess.run(
        [
            *(Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "require_tags.yml"),
            *("-e", json.dumps({"require_tags_known": known}), *options),
        ],
        cwd=PLAYBOOKS,
        env={**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("known", "options", "found"),
    [
        (["preflight", "acquire"], ["--tags", "typo"], "typo"),
        (["preflight", "acquire"], ["--tags", "preflight,measure"], "measure"),
        (["preflight", "acquire"], ["--skip-tags", "measure"], "measure"),
        # Molecule skips these in every play.
        ([], ["--skip-tags", "molecule-notest,notest"], ""),
        ([], ["--skip-tags", "molecule-notest,notest,molecule-idempotence-notest"], ""),
        (["preflight", "acquire"], ["--skip-tags", "all"], "all"),
        ([], ["--tags", "always"], "always"),
        (["preflight", "acquire"], ["--tags", "acquire", "--skip-tags", "preflight"], ""),
        ([], [], ""),
    ],
)
def test_tags_that_no_task_has_are_refused(known: list[str], options: list[str], found: str) -> None:
    """Ansible alone would do nothing, or all, and end with 0."""
    done = played(known, *options)
    assert (done.returncode != 0) is bool(found), done.stdout + done.stderr
    if found:
        words = " ".join(done.stdout.split())
        assert ("Expected tags of acquire, preflight" if known else "Expected no tags: this playbook has none") in words
        assert f"found {found}. Nothing was done." in words
