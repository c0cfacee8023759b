"""A trial never reloads systemd: that takes the GPU from containers that are running.

A reload hides in more than its own word: Ansible's module that enables a unit asks for one, and so does plain
``systemctl enable``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("roles", "playbooks", "molecule", "plugins", "bench", "collection")
FORBIDDEN = {
    "the word itself": re.compile(r"daemon[-_]re(?:load|exec)"),
    "a field of Ansible's module": re.compile(r"^\s*(?:-\s+)?(?:enabled|masked)\s*:", re.MULTILINE),
    "the same in a mapping": re.compile(r"systemd(?:_service)?:\s*\{[^}]*\b(?:enabled|masked)\b"),
    # systemctl enable, disable, mask, preset, link, edit, revert: as a command line and as a list of words.
    "a command of systemctl": re.compile(
        r"systemctl[\"', ]+(?!--no-reload)(?:(?:re)?enable|disable|mask|unmask|preset|preset-all|link|revert|edit|"
        r"add-wants|add-requires|set-default)\b(?![\"', ]+--no-reload)"
    ),
}


def files(*places: str) -> list[Path]:
    found = [path for place in places for path in sorted((ROOT / place).rglob("*")) if path.is_file()]
    own = [p for p in found if "__pycache__" not in p.parts and "ansible_collections" not in p.relative_to(ROOT).parts]
    return [path for path in own if path.suffix in (".yml", ".yaml", ".py", ".j2", ".sh", ".cfg", "")]


def reloads(text: str) -> list[str]:
    return [f"{what}: {found[0]}" for what, pattern in FORBIDDEN.items() for found in pattern.finditer(text)]


def test_nothing_of_the_product_reloads() -> None:
    looked = files(*PLACES)
    assert {path.relative_to(ROOT).parts[0] for path in looked} >= {"roles", "playbooks", "molecule", "plugins"}
    found = {
        str(path.relative_to(ROOT)): words
        for path in looked
        if (words := reloads(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ansible.builtin.systemd_service:\n    daemon_reload: true\n", True),
        ("ansible.builtin.systemd_service:\n    name: x\n    enabled: true\n", True),
        ("ansible.builtin.systemd_service:\n    name: x\n    enabled: false\n", True),
        ("ansible.builtin.systemd: {name: x, enabled: true}", True),
        ("ansible.builtin.systemd_service:\n    name: x\n    state: started\n", False),
        ('    _systemctl("daemon-reload")', True),
        ("systemctl daemon-reexec", True),
        ("systemctl enable x", True),
        ("argv: [systemctl, enable, x]", True),
        ("argv: [systemctl, enable, --no-reload, x]", False),
        ('["systemctl", "enable", "x"]', True),
        ('["systemctl", "enable", "--no-reload", "x"]', False),
        ("systemctl disable x", True),
        ("systemctl mask x", True),
        ("systemctl --no-reload enable x", False),
        ("systemctl status x; systemctl show --property=NeedDaemonReload x", False),
        ("gemma_cpp_enabled: true", False),
    ],
)
def test_what_would_reload_is_found(text: str, found: bool) -> None:
    assert bool(reloads(text)) is found
