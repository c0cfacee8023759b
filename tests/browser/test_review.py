"""review.html, as people judge on it: by keyboard, by finger on a phone, over a reload; its file decides."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from trialbench.cli import main

VIEWS = ("light", "dark", "phone", "zoomed")
PAIRS = 21


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, folders: ModuleType) -> Path:
    folder: Path = folders.compared(tmp_path_factory.mktemp("results") / "run")
    assert main(["report", str(folder)]) == 0
    return folder


def done(page: Any) -> str:
    return str(page.locator("#done").inner_text())


def current(page: Any) -> str:
    """The pair that is seen, of which there is one."""
    seen = page.locator("section.pair:visible")
    assert seen.count() == 1
    return str(seen.get_attribute("data-pair"))


def save(page: Any, to: Path) -> dict[str, Any]:
    with page.expect_download() as caught:
        page.get_by_role("button", name="Save judgements.json").click()
    assert caught.value.suggested_filename == "judgements.json"
    caught.value.save_as(to)
    found: dict[str, Any] = json.loads(to.read_text())
    return found


def test_keys_judge_pair_by_pair_and_the_file_decides(
    run: Path, opened: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = opened(run / "review.html")
    page = found.page
    key = json.loads((run / "review-key.json").read_text())
    assert done(page) == f"0 of {PAIRS} pairs judged"
    for at, pair in enumerate(key["pairs"], 1):
        assert current(page) == pair["id"] == str(at)
        assert page.locator("section.pair:visible img").evaluate("one => one.complete && one.naturalWidth") == 4
        page.keyboard.press("1" if pair["first"] == "candidate" else "2")
        assert done(page) == f"{at} of {PAIRS} pairs judged"
        if at < PAIRS:
            # Who listens to the page hears what was judged, and stands at the next pair.
            assert page.locator("#told").inner_text().endswith(f"{at} of {PAIRS} pairs judged.")
            assert page.evaluate("document.activeElement.textContent").startswith(f"Pair {at + 1} of {PAIRS}")
    assert page.evaluate("document.activeElement.id") == "h-save"
    saved = save(page, tmp_path / "judgements.json")
    assert len(saved["judgments"]) == PAIRS
    found.assert_silent()
    capsys.readouterr()
    assert main(["verdict", str(run), "--review", str(tmp_path / "judgements.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("ADOPT")
    assert "blind review: describe better by 20 pairs (18 better, 0 worse, 2 the same, p =" in said


def test_a_judgment_can_be_changed_and_outlives_a_reload(run: Path, opened: Any, tmp_path: Path) -> None:
    page = opened(run / "review.html").page
    for one in ("1", "2", "0"):
        page.keyboard.press(one)
    page.keyboard.press("ArrowLeft")
    assert current(page) == "3"
    pressed = page.locator("section.pair:visible [aria-pressed=true]")
    assert pressed.inner_text().split(maxsplit=1)[-1] == "No difference"
    page.keyboard.press("2")
    page.get_by_label("Your name").press_sequentially("ann 120")
    # A digit in a name judges nothing.
    assert done(page) == f"3 of {PAIRS} pairs judged"
    page.reload()
    assert done(page) == f"3 of {PAIRS} pairs judged"
    assert page.locator("progress").evaluate("one => one.value") == 3
    assert current(page) == "4"
    assert page.get_by_label("Your name").input_value() == "ann 120"
    saved = save(page, tmp_path / "judgements.json")
    assert saved["reviewer"] == "ann 120"
    assert [(one["pair"], one["answer"]) for one in saved["judgments"]] == [
        ("1", "first"), ("2", "second"), ("3", "second"),
    ]  # fmt: skip
    # A second press starts over, as another reviewer.
    again = page.locator("#again")
    again.click()
    assert done(page) == f"3 of {PAIRS} pairs judged"
    again.click()
    assert done(page) == f"0 of {PAIRS} pairs judged"
    page.keyboard.press("0")
    names = [save(page, tmp_path / f"{at}.json")["reviewer"] for at in range(2)]
    assert names[0] == names[1]
    assert names[0].startswith("reviewer-")


def test_a_review_of_other_replies_starts_empty(run: Path, opened: Any, tmp_path: Path) -> None:
    page = opened(run / "review.html").page
    page.keyboard.press("1")
    text = (run / "review.html").read_text(encoding="utf-8")
    other = run / "other.html"
    other.write_text(text.replace('data-review="', 'data-review="0'), encoding="utf-8")
    page.goto(other.as_uri())
    assert done(page) == f"0 of {PAIRS} pairs judged"
    other.unlink()
    # What another page left in its place is not obeyed.
    page.goto((run / "review.html").as_uri())
    page.evaluate(
        "Object.keys(localStorage).forEach(name => localStorage.setItem(name,"
        " JSON.stringify({name: 1, at: 99, made: '<b>', answers: {1: 'left', 99: 'first', 2: 'second'}})))"
    )
    page.reload()
    assert done(page) == f"1 of {PAIRS} pairs judged"
    assert current(page) == "1"


def test_a_browser_that_keeps_nothing_says_so_and_saves_all_the_same(run: Path, opened: Any, tmp_path: Path) -> None:
    page = opened(run / "review.html").page
    page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    page.reload()
    page.keyboard.press("1")
    assert "save before you close it" in page.locator("#kept").inner_text()
    assert len(save(page, tmp_path / "judgements.json")["judgments"]) == 1


def test_on_a_phone_replies_lie_below_each_other_and_fingers_judge(run: Path, opened: Any) -> None:
    page = opened(run / "review.html", "phone", has_touch=True).page
    above, below = (page.locator("section.pair:visible .side").nth(at).bounding_box() for at in (0, 1))
    assert above["y"] + above["height"] <= below["y"]
    for name in ("Reply 1 is better", "No difference", "Reply 2 is better"):
        button = page.locator("section.pair:visible").get_by_role("button", name=name)
        assert button.bounding_box()["height"] >= 44
        button.tap()
    assert done(page) == f"3 of {PAIRS} pairs judged"


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_is_silent_fits_and_breaks_no_rule(run: Path, opened: Any, view: str) -> None:
    found = opened(run / "review.html", view)
    page = found.page
    page.keyboard.press("1")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    found.assert_silent()
    broken = Axe().run(page).response
    assert [(rule["id"], rule["help"]) for rule in broken["violations"]] == []
    assert "color-contrast" in {rule["id"] for rule in broken["passes"]}


def test_in_forced_colors_what_is_chosen_is_seen(run: Path, opened: Any) -> None:
    page = opened(run / "review.html", forced_colors="active").page
    page.keyboard.press("1")
    page.keyboard.press("ArrowLeft")
    grounds = page.locator("section.pair:visible [data-answer]").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert grounds[0] != grounds[1] == grounds[2]
    assert Axe().run(page).response["violations"] == []


def test_everything_is_reached_by_the_keyboard_alone(run: Path, opened: Any) -> None:
    page = opened(run / "review.html").page
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if "again" in reached:
            break
    choices = ["1 Reply 1 is better", "0 No difference", "2 Reply 2 is better"]
    at = reached.index(choices[0])
    assert reached[at : at + 3] == choices
    assert reached[at + 3 :] == ["on", "open", "reviewer", "write", "again"]
    page.keyboard.press("Shift+Tab")
    with page.expect_download() as caught:
        page.keyboard.press("Enter")
    assert caught.value.suggested_filename == "judgements.json"
