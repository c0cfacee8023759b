"""The drawing of the layers in CONTRIBUTING.md is the contract that import-linter checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {
    contract["containers"][0].replace(".", "/"): contract["layers"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
}
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
DRAWN = {
    path.removeprefix("bench/"): drawing.splitlines()
    for path, drawing in re.findall(r"`([\w/]+)/`:\n\n```\n(.*?)\n```", PAGE, re.DOTALL)
}


@pytest.mark.parametrize("room", LAYERS)
def test_each_contract_is_drawn_as_it_is(room: str) -> None:
    assert DRAWN[room] == LAYERS[room]


def test_nothing_else_is_drawn() -> None:
    assert list(DRAWN) == ["trialbench", "plugins/module_utils", "trialbench/ground_truth"]
