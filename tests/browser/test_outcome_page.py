"""The page that prove_rollback leaves, as people open it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.outcome import Case, Section, page
from axe_playwright_python.sync_playwright import Axe


@pytest.mark.parametrize("view", ["light", "dark", "phone", "double", "forced dark"])
def test_the_page_fits_and_can_be_read_by_everybody(tmp_path: Path, opened: Any, view: str) -> None:
    cases = [Case(result, result, f"{result}: <b>\u202e", "word " * 60) for result in ("failure", "error", "skipped")]
    (tmp_path / "index.html").write_text(page("Does it come back?", [Case("a"), *cases], [Section("Hosts", ["one"])]))
    found = opened(tmp_path / "index.html", view)
    found.assert_silent()
    assert found.page.evaluate("document.documentElement.scrollWidth") <= found.page.viewport_size["width"]
    response = Axe().run(found.page).response
    assert [(rule["id"], [node["target"] for node in rule["nodes"]][:5]) for rule in response["violations"]] == []
