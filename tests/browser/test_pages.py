"""report.html and the page of `compare`, as people open them: at a desk by day and night, on a phone, by keyboard."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from trialbench.cli import main

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
KINDS = (
    "finished",
    "rich",
    "scenes",
    "rehearsal",
    "rolled_back",
    "still_open",
    "partial",
    "untouched",
    "rebooted",
    "hostile",
)
VIEWS = ("light", "dark", "phone", "double", "zoomed")
FORCED = ("forced", "forced dark")
MAX_BYTES = 2_000_000


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory, folders: ModuleType) -> dict[str, Path]:
    """The report of each kind of run, written by the command; and the comparison of all of them."""
    root = tmp_path_factory.mktemp("results")
    runs = [folders.ALL[kind](root / kind) for kind in KINDS]
    for run in runs:
        assert main(["report", str(run)]) == 0
    page = root / "compare.html"
    assert main(["compare", *map(str, runs), "--without", "gone=failed before it began", "--html", str(page)]) == 0
    return {"compare": page} | {run.name: run / "report.html" for run in runs}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", [*KINDS, "compare"])
def test_a_page_is_silent_small_and_fits(reports: dict[str, Path], opened: Any, kind: str, view: str) -> None:
    file = reports[kind]
    assert file.stat().st_size < MAX_BYTES
    found = opened(file, view)
    found.page.wait_for_load_state("networkidle")
    found.assert_silent()
    SCREENS.mkdir(parents=True, exist_ok=True)
    found.page.screenshot(path=SCREENS / f"{kind}-{view}.png", full_page=kind != "hostile")
    assert found.page.evaluate("document.documentElement.scrollWidth") <= found.page.viewport_size["width"]
    # Every chart is drawn in the variant that is meant for this width, and has a size.
    shown, hidden = ("narrow", "wide") if view in ("phone", "double", "zoomed") else ("wide", "narrow")
    assert all(chart.is_visible() for chart in found.page.query_selector_all(f"svg.{shown}"))
    assert not any(chart.is_visible() for chart in found.page.query_selector_all(f"svg.{hidden}"))


@pytest.mark.parametrize("view", [*VIEWS, *FORCED])
@pytest.mark.parametrize("kind", ["rich", "scenes", "rolled_back", "still_open", "hostile", "compare"])
def test_no_rule_of_accessibility_is_broken(reports: dict[str, Path], opened: Any, kind: str, view: str) -> None:
    page = opened(reports[kind], view).page
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = Axe().run(page).response
    broken = [
        (rule["id"], rule["help"], [node["target"] for node in rule["nodes"]][:5]) for rule in found["violations"]
    ]
    assert broken == []
    # Contrast was really looked at, and found good; in forced colors it is the system's.
    assert view in FORCED or "color-contrast" in {rule["id"] for rule in found["passes"]}


@pytest.mark.parametrize("kind", KINDS)
def test_headings_landmarks_and_charts_are_named(reports: dict[str, Path], opened: Any, kind: str) -> None:
    page = opened(reports[kind]).page
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert [page.locator(name).count() for name in ("main", "header.top", "footer")] == [1, 1, 1]
    for chart in page.query_selector_all("svg.chart"):
        assert chart.get_attribute("role") == "img"
        names = chart.get_attribute("aria-labelledby").split()
        assert all(page.locator(f"[id='{name}']").count() == 1 for name in names)
        assert page.locator(f"[id='{names[0]}']").text_content().strip()
    tables = page.query_selector_all("table")
    assert all(table.query_selector("caption").text_content().strip() for table in tables)
    assert all(
        cell.get_attribute("scope") in ("col", "row") for table in tables for cell in table.query_selector_all("th")
    )
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    for link in page.eval_on_selector_all("a[href^='#']", "all => all.map(one => one.getAttribute('href').slice(1))"):
        assert link in ids


def test_the_verdict_and_its_reasons_stand_first(reports: dict[str, Path], opened: Any) -> None:
    page = opened(reports["rich"]).page
    first = page.query_selector("main > *")
    assert first.get_attribute("id") == "verdict"
    assert "PENDING REVIEW" in first.query_selector("h2").inner_text()
    assert first.bounding_box()["y"] < 300
    order = page.eval_on_selector_all("main > section", "all => all.map(one => one.id)")
    host = ["vram", "card", "down", "shown-describe", "checks"]
    assert order == ["verdict", "numbers", "samples", *host, "attested", "proofs", "provenance"]


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("kind", ["rich", "scenes", "rolled_back", "still_open"])
def test_the_first_screen_answers_should_i_switch(
    reports: dict[str, Path], opened: Any, kind: str, width: int, height: int
) -> None:
    page = opened(reports[kind]).page
    page.set_viewport_size({"width": width, "height": height})
    # The names of both models, the word, the sentence, the next step, and the figures behind the sentence.
    seen = ["h1", ".beside", "#verdict h2", "#verdict .lead", "#verdict .next a"]
    ends = {name: page.locator(name).first.bounding_box() for name in seen}
    ends |= {f"tile {at}": box.bounding_box() for at, box in enumerate(page.locator(".facts > div").all()[:4])}
    below = {name: box for name, box in ends.items() if box["y"] + box["height"] > height}
    assert below == {}
    assert "fits: 6.2 of 5.5-7.5\N{NO-BREAK SPACE}GB" in page.locator("#verdict .lead").inner_text()
    target = page.locator("#verdict .next a").get_attribute("href")
    # What is judged is judged on the page beside the report.
    assert target == "review.html" or page.locator(target).count() == 1


def test_the_gallery_shows_where_they_differ(reports: dict[str, Path], opened: Any) -> None:
    page = opened(reports["scenes"]).page
    cards = page.locator("#differ .gallery > li")
    assert cards.count() == 6
    first = cards.first.inner_text()
    assert all(words in first for words in ("scene-02", "left large", "center large", "right large"))
    assert page.locator("#differ .tag.good").count() == 5
    phone = opened(reports["scenes"], "phone").page
    boxes = [card.bounding_box() for card in phone.locator("#differ .gallery > li").all()]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]


def test_the_three_answers_stand_below_the_verdict_and_lead_to_more(reports: dict[str, Path], opened: Any) -> None:
    desk = opened(reports["rich"]).page
    answers = desk.query_selector_all("#verdict .answers > li")
    assert [one.query_selector("h4").inner_text() for one in answers] == [
        "Good enough here?",
        "Still the same model?",
        "Does it survive?",
    ]
    assert [one.query_selector(".tag").inner_text().split()[-1] for one in answers] == ["open", "passed", "failed"]
    boxes = [one.bounding_box() for one in answers]
    assert boxes[0]["y"] == boxes[1]["y"] == boxes[2]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    for one, target in zip(answers, ("numbers", "attested", "proofs"), strict=True):
        one.query_selector("a").click()
        assert desk.evaluate("location.hash") == f"#{target}"
        assert desk.locator(f"#{target}").is_visible()
    phone = opened(reports["rich"], "phone").page
    boxes = [one.bounding_box() for one in phone.query_selector_all("#verdict .answers > li")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    # Where one has nothing to show, that is said.
    bare = opened(reports["finished"]).page
    assert bare.locator("#verdict .answers .tag", has_text="none").count() == 2
    assert bare.locator("#proofs, #attested").count() == 0


def test_each_bar_of_a_proof_ends_on_its_side_of_the_bound(reports: dict[str, Path], opened: Any) -> None:
    page = opened(reports["rich"]).page
    drawn = page.locator("#proofs svg.wide.chart")
    assert drawn.count() == 3
    found = drawn.evaluate_all(
        """all => { const right = one => one.x.baseVal.value + one.width.baseVal.value; return all.map(chart => ({
            bars: Array.from(chart.querySelectorAll("rect.fill"), one => [one.className.baseVal, right(one)]),
            bounds: Array.from(chart.querySelectorAll("line.one"), one => one.x1.baseVal.value),
            words: Array.from(chart.querySelectorAll("text.strong"), one => one.textContent),
        })); }"""
    )
    for chart in found:
        assert len(chart["bars"]) == len(chart["bounds"]) == len(chart["words"]) > 0
        for (kind, end), bound, words in zip(chart["bars"], chart["bounds"], chart["words"], strict=True):
            below = "expected <" in words
            assert ("kept" in kind) == ((end < bound) if below else (end > bound)), words
            assert ("missed" in kind) == words.startswith("FAILED"), words
    # Every number of every proof stands in a table.
    rows = page.locator("#proofs tbody tr")
    proofs = [json.loads(file.read_text()) for file in (reports["rich"].parent / "proofs").glob("*.json")]
    assert rows.count() == sum(len(proof["checks"]) for proof in proofs)
    assert rows.filter(has=page.get_by_text("FAILED", exact=True)).count() == 2


def test_replies_stand_side_by_side_under_the_image_and_below_each_other_on_a_phone(
    reports: dict[str, Path], opened: Any
) -> None:
    desk = opened(reports["rich"]).page
    image = desk.locator("img.camera")
    assert image.evaluate("one => one.complete && one.naturalWidth > 0")
    left, right = desk.locator(".side.baseline").bounding_box(), desk.locator(".side.candidate").bounding_box()
    assert image.bounding_box()["y"] < left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert "5" in desk.locator(".side.candidate figcaption").first.inner_text()
    phone = opened(reports["rich"], "phone").page
    above, below = phone.locator(".side.baseline").bounding_box(), phone.locator(".side.candidate").bounding_box()
    assert above["y"] + above["height"] <= below["y"]


def test_the_command_can_be_copied_and_decides(reports: dict[str, Path], opened: Any) -> None:
    found = opened(reports["finished"], permissions=["clipboard-read", "clipboard-write"])
    button = found.page.locator("button.copy")
    button.focus()
    found.page.keyboard.press("Enter")
    found.page.wait_for_function("document.querySelector('button.copy').textContent === 'Copied'")
    copied = found.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("trialbench verdict ")
    assert copied.endswith(" --judge describe=better")
    assert main(copied.split()[1:]) == 0
    verdict = json.loads((reports["finished"].parent / "verdict.json").read_text())
    assert verdict["facts"]["describe"] == "better"
    found.assert_silent()


def test_everything_that_reacts_is_reached_by_the_keyboard_and_shows_it(reports: dict[str, Path], opened: Any) -> None:
    page = opened(reports["rich"]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator("a.skip").bounding_box()["x"] >= 0
    wanted = page.locator("a[href], button, summary, [tabindex='0']").count()
    seen = set()
    for _ in range(wanted + 5):
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        name = page.evaluate(
            "Array.from(document.querySelectorAll(\"a[href], button, summary, [tabindex='0']\"))"
            ".indexOf(document.activeElement)"
        )
        if name >= 0:
            assert outline != "none", name
            seen.add(name)
        page.keyboard.press("Tab")
    # What lies in closed details is reached once they are open.
    closed = page.locator("details [tabindex='0']").count()
    assert len(seen) == wanted - closed


def test_what_strangers_wrote_is_text(reports: dict[str, Path], opened: Any) -> None:
    for kind in ("hostile", "compare"):
        found = opened(reports[kind])
        found.page.wait_for_load_state("networkidle")
        found.assert_silent()
        page = found.page
        assert "owned" not in page.title().replace("document.title='owned'", "")
        assert page.evaluate("document.scripts.length") == 1
        assert page.evaluate("document.styleSheets.length") == 1
        # The icon is a data URI; whatever else refers to something refers to this page or to a report beside it.
        refers = page.eval_on_selector_all(
            "[href], [src], [action], [formaction], [data], [srcdoc]",
            "all => all.map(one => one.getAttribute('href') ?? one.getAttribute('src') ?? 'other')",
        )
        assert [
            one for one in refers if not one.startswith(("#", "data:image/")) and not one.endswith("/report.html")
        ] == []
        handlers = "name => name.startsWith('on') || name === 'style'"
        handlers = f"all => all.flatMap(one => one.getAttributeNames()).filter({handlers})"
        assert page.eval_on_selector_all("*", handlers) == []
        text = page.evaluate("document.documentElement.textContent")
        assert not set(text) & {"\x00", "\x1b", "\u202e", "\u2066"}
        assert "\\u202e" in text
        assert "{{ 7 * 7 }}" in text


def test_the_policy_of_the_page_would_stop_a_script_that_got_in(reports: dict[str, Path], opened: Any) -> None:
    found = opened(reports["finished"])
    found.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"document.title=1\">')")
    script = "const one = document.createElement('script'); one.textContent = 'document.title = 1';"
    found.page.evaluate(f"{{ {script} document.body.append(one); }}")
    found.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert found.page.title() != "1"
    assert any("Content Security Policy" in line for line in found.told)


def test_on_paper_it_is_dark_on_white_and_whole(reports: dict[str, Path], opened: Any) -> None:
    page = opened(reports["rich"], "dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator("nav.toc").is_visible()
    assert page.locator("svg.wide").first.is_visible()
    assert page.locator("#verdict .answers").is_visible()
    assert page.locator("#proofs table").first.is_visible()
    assert len(page.pdf()) > 20_000


# CSS pixels between margins of 10 mm.
@pytest.mark.parametrize(("paper", "width"), [("A4", 718), ("Letter", 740)])
@pytest.mark.parametrize("kind", ["rich", "hostile", "compare"])
def test_paper_is_not_made_smaller_for_a_table(
    reports: dict[str, Path], opened: Any, kind: str, paper: str, width: int
) -> None:
    page = opened(reports[kind]).page
    page.set_viewport_size({"width": width, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # No number and no word of a head is broken: each of a cell's words is on one line.
    broken = """all => all.filter(cell => { const found = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        for (let node; (node = found.nextNode()); ) for (const word of node.data.matchAll(/[^\\s-]+/g)) {
            const range = document.createRange();
            range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
            if (word[0].length < 20 && range.getClientRects().length > 1) return true; }
        return false; }).map(one => one.textContent.slice(0, 60))"""
    assert page.eval_on_selector_all(".scroll thead th, .scroll td.n", broken) == []
    wide = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 60))"
    assert page.eval_on_selector_all(".scroll", wide) == []
    assert len(page.pdf(format=paper)) > 10_000


# Fonts of other systems: how much wider than this one's, and how high above and below the baseline, in percent.
FONTS = {"Noto Sans": (96, 107, 29), "Noto Sans CJK": (93, 116, 29), "Verdana": (100, 101, 21), "wide": (104, 110, 28)}
TOUCHING = """() => [...document.querySelectorAll("svg.chart")].filter(one => one.getBoundingClientRect().width)
    .flatMap(chart => {
        const boxes = [...chart.querySelectorAll("text")].map(one => [one.textContent, one.getBBox()]);
        const size = chart.viewBox.baseVal, found = [];
        boxes.forEach(([name, a], at) => {
            if (a.x < -1 || a.x + a.width > size.width + 1) found.push(`${name} leaves the chart`);
            for (const [other, b] of boxes.slice(at + 1))
                if (a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height)
                    found.push(`${name} touches ${other}`);
        });
        return found;
    })"""


@pytest.mark.parametrize("font", FONTS)
def test_labels_of_charts_do_not_touch_in_the_fonts_of_other_systems(
    reports: dict[str, Path], opened: Any, font: str
) -> None:
    wider, up, down = FONTS[font]
    like = "local('DejaVu Sans'), local('Liberation Sans'), local('Arial')"
    style = (
        f"@font-face {{ font-family: other; src: {like}; size-adjust: {wider}%;"
        f" ascent-override: {up}%; descent-override: {down}%; line-gap-override: 0%; }}"
        " :root { --sans: other !important; }"
    )
    for kind, view in (("rich", "light"), ("rich", "phone"), ("compare", "light"), ("compare", "phone")):
        page = opened(reports[kind], view, bypass_csp=True).page
        page.add_style_tag(content=style)
        page.evaluate("document.fonts.load('12px other')")
        assert page.evaluate("document.fonts.check('12px other')")
        assert page.evaluate(TOUCHING) == []


# Every paint of the charts' texts and shapes that is seen; a shape is painted by what fills it, or else by its outline.
PAINTS = """() => { const seen = one => one.getBoundingClientRect().width + one.getBoundingClientRect().height > 0;
    const all = (what, paint) => [...new Set([...document.querySelectorAll(what)].filter(seen).map(paint))];
    const outlined = one => { const style = getComputedStyle(one);
        return one.tagName === "line" || style.fill === "none" ? style.stroke : style.fill; };
    return { texts: all("svg.chart text", one => getComputedStyle(one).fill),
        shapes: all("svg.chart :is(path, rect, circle, line)", outlined),
        charts: [...document.querySelectorAll("svg.chart")].filter(seen).map(one => one.className.baseVal),
        keys: all("svg.key", one => one.getBoundingClientRect().width) }; }"""


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("view", FORCED)
def test_charts_can_be_read_in_forced_colors(reports: dict[str, Path], opened: Any, view: str) -> None:
    page = opened(reports["rich"], view).page
    ground = page.evaluate("getComputedStyle(document.querySelector('svg.chart')).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    found = page.evaluate(PAINTS)
    # White is what stands on the discs of the phases.
    for color in set(found["texts"]) - {ground}:
        assert 1.05 / (luminance(color) + 0.05) >= 4.5, color
    assert Axe().run(page).response["violations"] == []


def test_charts_are_no_black_areas_where_a_policy_forbids_styles(
    reports: dict[str, Path], opened: Any, tmp_path: Path
) -> None:
    bare = re.sub(r"<style>.*?</style>", "", reports["rich"].read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "bare.html").write_text(bare, encoding="utf-8")
    found = opened(tmp_path / "bare.html").page.evaluate(PAINTS)
    assert not {"rgb(0, 0, 0)", "none"} & set(found["shapes"])
    assert found["charts"]
    assert all("wide" in name for name in found["charts"])
    assert max(found["keys"]) < 40


def test_who_wants_no_motion_gets_none(reports: dict[str, Path], opened: Any) -> None:
    motions = [
        opened(reports["finished"], reduced_motion=wish).page.evaluate(
            "getComputedStyle(document.documentElement).scrollBehavior"
        )
        for wish in ("no-preference", "reduce")
    ]
    assert motions == ["smooth", "auto"]
