# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role acquire asks of a host before it installs anything there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "acquire"


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
    assert "OnSuccess=mt-restore.service" in (ROLE / "templates" / "mt-run.service.j2").read_text()
    ask, expect = yaml.safe_load((ROLE / "tasks" / "main.yml").read_text())[:2]
    assert ask["ansible.builtin.command"]["argv"] == ["systemctl", "--version"]
    jinja = jinja2.Environment(autoescape=True)
    jinja.filters["regex_findall"] = lambda text, pattern: re.findall(pattern, text)
    holds = jinja.compile_expression(expect["ansible.builtin.assert"]["that"])
    assert holds(**{ask["register"]: SimpleNamespace(stdout=version)}) is fit
