"""Pages hold everywhere: without a style, in forced colors, on paper, and with replies of any length."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from itertools import combinations
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from trialbench import stats
from trialbench.report.html.comparison import write_comparison
from trialbench.report.html.report import report_html
from trialbench.show import figures, html, svg
from trialbench.show.text import cells

pytestmark = pytest.mark.usefixtures("few_resamples")

REAL = Path(__file__).resolve().parents[2] / "fixtures" / "runs" / "completed"
STYLE = (Path(html.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
SHAPES = {"path", "rect", "circle", "line"}


def painted(drawing: str) -> list[tuple[str, str, dict[str, str]]]:
    """Tag, class and paint of each shape and text, with what it inherits, as without a style."""
    found = []

    def walk(element: ElementTree.Element, inherited: dict[str, str]) -> None:
        own = {name: element.attrib[name] for name in ("fill", "stroke", "fill-opacity") if name in element.attrib}
        paint = inherited | own
        if element.tag in SHAPES | {"text"}:
            found.append((element.tag, element.get("class", ""), paint))
        for child in element:
            walk(child, paint)

    walk(ElementTree.fromstring(drawing), {})
    return found


PAGES = ("rich", "rolled_back", "still_open", "compare")


@pytest.fixture(scope="module")
def drawn(folders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The drawings of each of the pages."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "median_ratio", partial(stats.median_ratio, resamples=400))
        for kind in PAGES:
            root = tmp_path_factory.mktemp(kind)
            if kind == "compare":
                runs = [long_names(folders.finished(root / name), name) for name in "ab"]
                document = write_comparison(runs, root / "compare.html").read_text(encoding="utf-8")
            else:
                run = folders.ALL[kind](root / "run")
                document = report_html(long_names(run, "x") if kind == "rich" else run)
            found[kind] = re.findall(r"<svg.*?</svg>", document, re.DOTALL)
    return found


def long_names(run: Path, quantized: str) -> Path:
    """`run` with a model, a host and a loss whose names are long; the models differ in a letter."""
    plan = json.loads((run / "plan.json").read_text())
    plan["candidate"]["label"] = f"unsloth-gemma-4-E4B-it-qat-UD-Q4_{quantized.upper()}_XL-imatrix-WWWWWWWW"
    plan["host"] = "edge-node-17.rack-042.datacenter-frankfurt-3.internal.example.org"
    for tenant in plan.get("tenants") or []:
        tenant["impact"] = "everybody in the WORKSHOP and in the house loses " + 3 * "the voice and the picture and "
    (run / "plan.json").write_text(json.dumps(plan))
    return run


@pytest.mark.parametrize("kind", PAGES)
def test_charts_are_drawn_without_a_style(kind: str, drawn: dict[str, list[str]]) -> None:
    assert drawn[kind]
    for drawing in drawn[kind]:
        root = ElementTree.fromstring(drawing)
        # A size of its own: without one it fills the page.
        assert float(root.attrib["width"]) <= figures.WIDE
        assert float(root.attrib["height"]) > 0
        # Its texts are black, so it needs a ground where the page is dark.
        if root.attrib["class"].startswith("chart"):
            ground = root.find("rect[@class='ground']")
            assert ground is not None
            assert (ground.attrib["width"], ground.attrib["height"]) == (root.attrib["width"], root.attrib["height"])
        # Of the two drawings of a chart one is seen.
        assert (root.get("display") == "none") == ("narrow" in root.attrib["class"])
        for tag, kind_of, paint in painted(drawing):
            if tag == "line":
                assert paint.get("stroke", "none") != "none", kind_of
            elif tag != "text":
                # A shape without paint is a black area.
                assert "fill" in paint, kind_of
                assert paint["fill"] != "none" or paint.get("stroke", "none") != "none", kind_of
            if "on" in kind_of.split():
                assert paint["fill"] == "#ffffff"


# Of any common font of a system, in em: the widest digits, letters and bold letters on average, and the highest lines.
DIGIT, LETTER, BOLD, UP, DOWN = 0.64, 0.6, 0.69, 1.16, 0.29


def boxes(drawing: str) -> list[tuple[str, float, float, float, float]]:
    """Text, left, top, right and bottom of each label."""
    root = ElementTree.fromstring(drawing)
    found = []
    for one in root.iter("text"):
        classes, said = (one.get("class") or "").split(), one.text or ""
        size = 11.0 if "on" in classes else 11.5 if "narrow" in root.attrib["class"] else 12.5
        em = DIGIT if re.fullmatch(r"[\d. %e-]+", said) else BOLD if {"strong", "on"} & set(classes) else LETTER
        wide = cells(said) * em * size
        x, y = float(one.attrib["x"]), float(one.attrib["y"])
        left = x - {"middle": wide / 2, "end": wide}.get(one.get("text-anchor", "start"), 0.0)
        found.append((said, left, y - UP * size, left + wide, y + DOWN * size))
    return found


@pytest.mark.parametrize("kind", PAGES)
def test_labels_do_not_touch_in_any_font(kind: str, drawn: dict[str, list[str]]) -> None:
    charts = [one for one in drawn[kind] if 'class="chart' in one]
    assert charts
    for chart in charts:
        root, found = ElementTree.fromstring(chart), boxes(chart)
        for said, left, top, right, bottom in found:
            assert left >= -1, said
            assert top >= -1, said
            assert right <= float(root.attrib["width"]) + 1, said
            assert bottom <= float(root.attrib["height"]), said
        ticks = [mark for group in root.iter("g") if group.get("class") == "tick" for mark in group.iter("line")]
        for said, left, top, right, bottom in found:
            crossed = [
                x
                for mark in ticks
                if left < (x := float(mark.attrib["x1"])) < right
                and float(mark.attrib["y1"]) < bottom - 1
                and float(mark.attrib["y2"]) > top + 1
            ]
            assert crossed == [], said
        for one, other in combinations(found, 2):
            apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
            assert apart, (one, other, root.attrib["class"])


def test_every_class_of_a_drawing_has_the_paint_that_the_style_gives_it() -> None:
    """A class that the style paints, and the attributes do not, is a black area again."""
    painting = set()
    for selector, body in re.findall(r"^((?:\.[\w.]+)+) \{ ([^}]*) \}", STYLE, re.MULTILINE):
        if re.search(r"(?:^|\s)(?:fill|stroke): (?!none)", body):
            painting.add(selector[1:].replace(".", " "))
    assert {"fill", "curve", "healthy", "gate", "p1"} <= painting
    for kind in painting - {"t"}:
        attributes = str(svg.element("path", class_=f"{kind} a1"))
        assert "fill=" in attributes or "stroke=" in attributes, kind


def block(start: str) -> str:
    """The text of the rule or group that begins with `start`."""
    at = STYLE.index(start)
    depth, end = 0, at
    for end in range(at, len(STYLE)):
        depth += {"{": 1, "}": -1}.get(STYLE[end], 0)
        if depth == 0 and STYLE[end] == "}":
            break
    return STYLE[at : end + 1]


def inks(text: str) -> dict[str, str]:
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", text))


def luminance(color: str) -> float:
    color = color if len(color) == 7 else "#" + "".join(2 * one for one in color[1:])
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("start", "least"), [("@media (forced-colors: active)", 4.5), ("@media print", 4.5)])
def test_inks_on_white_can_be_read_whatever_the_scheme(start: str, least: float) -> None:
    found = inks(block(start))
    assert "background: #fff" in block(start) or found["--paper"] == "#fff"
    words = ("ink", "muted", "a1", "b", "a2", "good", "bad", "warn", *(f"p{at}" for at in range(1, 7)))
    for name in words:
        assert contrast(found[f"--{name}"], "#ffffff") >= least, name


def test_the_paints_of_the_attributes_are_those_of_the_light_scheme() -> None:
    light = set(inks(block(":root")).values())
    used = {value for kind in (svg._INKS, svg._TOGETHER) for one in kind.values() for value in one.values()}
    used |= set(svg._COLORS.values())
    assert {value for value in used if isinstance(value, str) and value.startswith("#")} <= light


def test_a_style_of_the_page_overrides_the_attributes() -> None:
    """Presentation attributes count less than any rule, so the dark scheme and phones are as before."""
    assert "svg.narrow { display: none; }" in STYLE
    assert "svg.narrow { display: block; }" in block("@media (max-width: 40rem)")
    assert "style=" not in str(svg.element("path", class_="fill a1"))


# --- long replies ----------------------------------------------------------------------------------------------------

TEXTS = [
    ("short", 5, False),
    ("word " * 100, 500, False),
    ("word " * 2000, 4000, True),
    ("x" * 10000, 4000, True),
    ("line\n" * 2000, 4000, True),
    ("\n" * 30, 30, True),
    ("日本語" * 600, 1800, True),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467" * 300, 1500, True),
    ("e\u0301" * 500, 1000, True),
]


@pytest.mark.parametrize(("text", "least", "folds"), TEXTS)
def test_a_long_text_folds_and_loses_nothing(text: str, least: int, folds: bool) -> None:
    start, rest = html.fold(text)
    assert start + rest == text
    assert bool(rest) == folds
    assert len(start) <= 1000
    assert start.count("\n") <= 12
    # Nothing is cut within a letter or an emoji.
    assert not rest.startswith(("\u0301", "\u200d", "\ufe0f"))
    assert not start.endswith("\u200d") or not rest
    assert len(html.shown(text)) >= least


@pytest.mark.parametrize("place", ["content", "error_detail", "question"])
def test_the_next_command_stays_in_reach(tmp_path: Path, place: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(REAL, run)
    long = "The ball is white and lies on the left of the car, next to the wall. " * 140
    if place == "question":
        plan = json.loads((run / "plan.json").read_text())
        plan["workload_texts"] = {"describe": f"messages: [{{role: user, content: '{long}'}}]"}
        (run / "plan.json").write_text(json.dumps(plan))
    for name in ("describe-candidate", "describe-baseline"):
        path = run / "samples" / f"{name}.jsonl"
        lines = [json.loads(one) for one in path.read_text().splitlines()]
        for at, line in enumerate(lines):
            if place == "content":
                line["content"] = f"{at} {long}"
            elif place == "error_detail":
                line |= {"ok": False, "error_class": "empty", "content": None, "error_detail": f"{at} {long}"}
                line |= {"strategy": None, "parsed": None}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = re.sub(r'src="[^"]*"', "", report_html(run))
    section = re.search(r'<section id="shown-describe".*?--judge describe=better', document, re.DOTALL)
    assert section is not None
    folded = re.sub(r"<details.*?</details>", "", section[0], flags=re.DOTALL)
    # Ten replies of 600 characters, and not ten of 4,000.
    assert len(folded) < 14_000
    assert len(section[0]) > len(folded) + 2_000
    # On paper everything is there.
    assert "details:not(.rest)" in block("@media print")
    assert ".rest::details-content { content-visibility: visible" in block("@media print")


def test_on_paper_no_cell_asks_for_room() -> None:
    paper = block("@media print")
    assert "min-width: 0" in paper
    assert "white-space: normal" in paper
    wide = re.findall(r"min-width: (?!0)[^;]+", paper)
    assert wide == []
