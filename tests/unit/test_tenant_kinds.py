# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of tenants, as the registry, the role's arguments and the documentation have them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from ansible_collections.edgelab.model_trial.plugins.module_utils.tenants import KINDS

ROOT = Path(__file__).resolve().parents[2]


def test_the_role_accepts_exactly_the_kinds_that_there_are() -> None:
    specs = yaml.safe_load((ROOT / "roles/trial/meta/argument_specs.yml").read_text())
    kind = specs["argument_specs"]["main"]["options"]["trial_tenants"]["options"]["kind"]
    assert kind["choices"] == list(KINDS)


def test_every_kind_has_its_row() -> None:
    header, *rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/adding-a-tenant.md").read_text(), re.MULTILINE)
    assert header == "kind"
    assert rows == list(KINDS)


def test_the_example_of_the_documentation_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs/adding-a-tenant-kind.md").read_text()
    of_tenants = page.split("+++ b/plugins/module_utils/tenants.py\n")[1].split("\ndiff --git ")[0]
    shown = "\n".join(line[1:] for line in re.findall(r"^\+.*$", of_tenants, re.MULTILINE)).strip()
    tested = (ROOT / "tests/unit/plugins/module_utils/test_tenant_kinds.py").read_text()
    assert f"\n{shown}\n\n\n" in tested
