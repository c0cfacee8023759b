"""The pages that say how to add something: a newcomer finds each from the README, and its diff still applies."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Page and what its diff must change at least: a page that explains nothing is no page.
PAGES = {
    "adding-a-tenant-kind": "plugins/module_utils/tenants.py",
    "adding-a-check": "plugins/module_utils/checks.py",
    "adding-a-workload": "playbooks/workloads/obstacle.yml",
    "adding-an-engine": "bench/trialbench/engines/openai.py",
    "adding-a-suite": "bench/trialbench/ground_truth/suites/table.py",
}


def diff_of(page: str) -> str:
    [shown] = re.findall(r"^```diff\n(.*?)^```", (ROOT / f"docs/{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(shown)


@pytest.mark.parametrize(("page", "changed"), PAGES.items(), ids=str)
def test_the_diff_of_a_page_still_applies(page: str, changed: str) -> None:
    shown = diff_of(page)
    assert f"+++ b/{changed}\n" in shown
    done = subprocess.run(["git", "apply", "--check", "-"], cwd=ROOT, input=shown, capture_output=True, text=True)
    assert done.returncode == 0, f"make the change of docs/{page}.md again, test it, show it:\n{done.stderr}"


def test_the_example_of_a_kind_names_it_wherever_kinds_are_listed() -> None:
    """A role or a module that does not list the new kind refuses it."""
    listed = re.compile(r"^ +choices: \[systemd, script, ", re.MULTILINE)
    files = [*(ROOT / "roles").glob("*/meta/argument_specs.yml"), *(ROOT / "plugins").glob("*/*.py")]
    lists = {str(path.relative_to(ROOT)) for path in files if listed.search(path.read_text())}
    changed = set(re.findall(r"^\+\+\+ b/(\S+)$", diff_of("adding-a-tenant-kind"), re.MULTILINE))
    assert len(lists) == 4
    assert lists <= changed


@pytest.mark.parametrize("page", PAGES)
def test_the_readme_leads_to_each_page(page: str) -> None:
    section = (ROOT / "README.md").read_text().split("\n## Where to add things\n")[1].split("\n## ")[0]
    assert f"](docs/{page}.md)" in section


def test_a_diff_that_does_not_fit_is_refused() -> None:
    wrong = diff_of("adding-a-check").replace("\n def _one(", "\n def _two(")
    done = subprocess.run(["git", "apply", "--check", "-"], cwd=ROOT, input=wrong, capture_output=True, text=True)
    assert done.returncode != 0
