"""The page of a ground-truth verdict as people open it; every text in it is a stranger's."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from trialbench.ground_truth.check import as_dict
from trialbench.ground_truth.output.page import page
from trialbench.ground_truth.suites.results import Result, Row, Status

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
VIEWS = ("light", "dark", "phone", "double", "forced dark")
QUANTS = {"f16": (2_000_000, 0.0, None), "Q8_0": (1_100_000, 0.002, None), "Q4_0": (500_000, 0.4, 1)}


def verdict(evil: str) -> dict[str, Any]:
    """Three files with curves, a claim, a ladder, and rows of every status; `evil` wherever a text may be."""
    results, files = [], []
    for quant, (size, kl, wrong) in QUANTS.items():
        evidence: dict[str, Any] = {"agreement": 0.5, "kl_mean": kl, "kl_by_position": {"one": [0.0, kl]}}
        evidence["disagreements"] = {"one": [] if wrong is None else [wrong]}
        told = {"compared": 2, "mismatches": int(wrong is not None), "first_divergence": wrong}
        results += [
            Result(Row("forced", "m", quant), Status.PASS, evil, evidence=evidence),
            Result(Row("token", "m", quant, prompt="one"), Status.PASS, evil, evidence=told),
            Result(Row("ppl", "m", quant), Status.PASS, evil, evidence={"perplexity": 2.0}),
        ]
        files.append({"model": "m", "quant": quant, "bytes": size, "tokens_per_s": 10.0 * kl + 5, "sha256": "ab" * 32})
    for at, status in enumerate((Status.FAIL, Status.INCONCLUSIVE, Status.NOT_APPLICABLE)):
        row = Row("token", "m", "Q4_0", prompt=f"{evil}{at}")
        results.append(Result(row, status, evil, expected=evil, got=evil, cause=evil, reproduce=evil))
    rungs = [
        {"step": step, "good": good, "says": evil}
        for step, good in (("prompt or tokenizer", True), ("import", None), ("quantization", False))
    ]
    standing = {"standing": evil, "amended": True, "amendments": 1, "status": "FAIL", "found": 1.0, "says": evil}
    bound = {"metric": "kl_mean", "direction": "at most", "bound": 0.1}
    return {
        "schema_version": 1,
        "verdict": "FAIL",
        "made": "2026-11-21T04:00:00+00:00",
        "trialbench": "0",
        "roster": {"name": evil, "path": evil},
        "runtime": {"name": "llama.cpp", "version": evil},
        "machine": {"system": evil, "processor": evil, "cores": 2},
        "seconds": 1.0,
        "loads": 3,
        "counts": {"declared": 12, "probative": 12, "PASS": 9, "FAIL": 1, "INCONCLUSIVE": 1, "NOT APPLICABLE": 1},
        "files": files,
        "claims": [{"name": evil, "statement": evil, **standing, **bound}],
        "ladders": [{"model": "m", "quant": "Q4_0", "rungs": rungs, "guilty": "quantization", "sure": False}],
        "results": [as_dict(one) for one in results],
    }


@pytest.fixture(scope="module", params=["tame", "hostile"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folders: ModuleType) -> Path:
    path: Path = tmp_path_factory.mktemp("ground-truth") / f"{request.param}.html"
    path.write_text(page(verdict("says so" if request.param == "tame" else folders.HOSTILE)), encoding="utf-8")
    return path


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_is_silent_fits_and_can_be_read_by_everybody(file: Path, opened: Any, view: str) -> None:
    assert file.stat().st_size < 2_000_000
    found = opened(file, view)
    found.page.wait_for_load_state("networkidle")
    found.assert_silent()
    SCREENS.mkdir(parents=True, exist_ok=True)
    found.page.screenshot(path=SCREENS / f"ground-truth-{file.stem}-{view}.png", full_page=file.stem == "tame")
    assert found.page.evaluate("document.documentElement.scrollWidth") <= found.page.viewport_size["width"]
    found.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    response = Axe().run(found.page).response
    assert [(rule["id"], [node["target"] for node in rule["nodes"]][:5]) for rule in response["violations"]] == []
    assert view == "forced dark" or "color-contrast" in {rule["id"] for rule in response["passes"]}


def test_its_headings_charts_and_tables_are_named_and_strangers_stay_text(file: Path, opened: Any) -> None:
    found = opened(file)
    page = found.page
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    charts = page.query_selector_all("svg.chart")
    assert charts
    for chart in charts:
        names = chart.get_attribute("aria-labelledby").split()
        assert all(page.locator(f"[id='{name}']").count() == 1 for name in names)
    assert all(table.query_selector("caption").text_content().strip() for table in page.query_selector_all("table"))
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.scripts.length") == 1
    assert page.title() != "owned"
    handlers = (
        "all => all.flatMap(one => one.getAttributeNames()).filter(name => name.startsWith('on') || name === 'style')"
    )
    assert page.eval_on_selector_all("*", handlers) == []
    assert not set(page.evaluate("document.documentElement.textContent")) & {"\x00", "\x1b", "\u202e"}
