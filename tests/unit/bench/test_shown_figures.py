"""No claim that no rule makes, a direction for each difference, and figures that belong together."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from sample_lines import compared, made
from trialbench import stats
from trialbench.measure.summary import SegmentFacts, summarize
from trialbench.report import measured
from trialbench.report import table as terminal
from trialbench.report.compare import compare_table, run_row
from trialbench.report.comparison import WORDS, Comparison, Finding, Metric, compare, direction
from trialbench.report.documents import research
from trialbench.report.evidence import QUESTIONS
from trialbench.report.html import charts, hostcharts
from trialbench.report.html.comparison import write_comparison
from trialbench.report.html.page import Page, page
from trialbench.report.html.report import report_html
from trialbench.report.measured import comparison_table, remarks
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.report.table import folder_table
from trialbench.report.telemetry import joined
from trialbench.show import figures, svg
from trialbench.show.text import counted, number, ratio_text
from trialbench.verdict import reviewed

pytestmark = pytest.mark.usefixtures("few_resamples")

REAL = Path(__file__).resolve().parents[2] / "fixtures" / "runs" / "completed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(REAL, tmp_path / "run")
    return tmp_path / "run"


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def change_lines(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(edit(json.loads(one))) + "\n" for one in path.read_text().splitlines()))


def built(path: Path) -> Page:
    folder = read_run(path)
    return page(folder, summarize_run(folder), joined(folder))


# --- what is claimed -------------------------------------------------------------------------------------------------


def test_the_question_asks_what_the_rules_decide() -> None:
    assert QUESTIONS["trial"][1] == "Good enough here?"
    assert not any("fast" in asked for _name, asked in QUESTIONS.values())


DIRECTIONS: list[tuple[Metric, float | None, Finding, str]] = [
    ("latency_ms", 1.219, "different", "22 % slower"),
    ("latency_ms", 0.82, "different", "18 % faster"),
    ("server_ms", 2.0, "different", "100 % slower"),
    ("ttft_ms", 0.5, "different", "50 % faster"),
    ("tokens_per_s", 0.82, "different", "18 % slower"),
    ("tokens_per_s", 1.22, "different", "22 % faster"),
    ("latency_ms", 300.2, "different", "300 times as slow"),
    ("latency_ms", 0.004, "different", "250 times as fast"),
    ("tokens_per_s", 0.004, "different", "250 times as slow"),
    ("latency_ms", 1.219, "not_shown", ""),
    ("latency_ms", 1.219, "not_comparable", ""),
    ("latency_ms", None, "not_comparable", ""),
]


@pytest.mark.parametrize(("metric", "ratio", "finding", "words"), DIRECTIONS)
def test_a_difference_has_its_direction_in_words(
    metric: Metric, ratio: float | None, finding: Finding, words: str
) -> None:
    low, high = (None, None) if ratio is None else (ratio * 0.99, ratio * 1.01)
    one = replace(compared(ratio, low, high, finding=finding), metric=metric)
    assert direction(one) == words
    drawn = charts.ratios([("x", one)], title="t")
    if drawn is None:
        return
    for drawing in (drawn.wide, drawn.narrow):
        assert (words or WORDS[finding]) in str(drawing)
    # Its color is not the only sign: the shape differs, too.
    shapes = {"slower": "worse", "slow": "worse", "faster": "better", "fast": "better"}
    kind = shapes.get(words.split(" ")[-1], "b")
    assert f'class="fill {kind}"' in str(drawn.wide)
    assert (words or finding.replace("_", " ")) in comparison_table([one])


def test_slower_faster_and_neither_differ_in_their_shape() -> None:
    cases = {"slower": compared(1.5, 1.4, 1.6, finding="different"), "none": compared(1.0, 0.9, 1.1)}
    cases["faster"] = compared(0.5, 0.4, 0.6, finding="different")

    def shape(one: Comparison) -> str:
        root = ElementTree.fromstring(charts.ratios([("x", one)], title="t").wide)  # type: ignore[union-attr] # drawn
        [mark] = [element for element in root.iter() if (element.get("class") or "").startswith("fill ")]
        return mark.tag + re.sub(r"[\d., -]+", "", mark.get("d") or "")

    assert len({shape(one) for one in cases.values()}) == 3


@pytest.mark.prove
def test_the_first_screen_names_the_live_model_and_how_much_slower(run: Path) -> None:
    head = report_html(run).split('<dl class="facts"')[0].replace("\xa0", " ")
    assert "beside the live model gemma-4-E2B-it" in head
    assert "fits: 6.2 of 5.5-7.5 GB; 34 % slower, NOISY; obeys in 100 of 100 replies to one question" in head
    rest = report_html(run).split('<dl class="facts"')[1]
    assert "Latency: 34 % slower, NOISY (p50 11.6 ms, live model gemma-4-E2B-it 8.7 ms)" in rest
    assert "It does not affect the verdict." in rest
    found = built(run)
    # The next step is on the page, and no file or DIR.
    assert [(step.href, step.link) for step in found.steps] == [("#shown-describe", "Describe")]
    assert found.first == found.steps[0]
    assert '<a href="#shown-describe">Describe</a></p>' in head
    assert f'id="{found.first.href[1:]}"' in report_html(run)
    # What the reasons say is not said again.
    assert not {*found.reasons} & {line for panel in found.evidence for line in panel.lines}


def text_only(plan: dict[str, Any]) -> None:
    plan["workload_texts"] = {"describe": "messages: [{role: user, content: 'What is a ball?'}]"}


def nothing(_plan: dict[str, Any]) -> None:
    pass


CLAIMS: list[tuple[Callable[[dict[str, Any]], Any], bool, str, str]] = [
    (nothing, False, "It does not affect the verdict.", "by the declared levels"),
    (lambda plan: plan.update(slo={"p95_ms": 0, "hz": 0}), False, "It does not affect the verdict.", "by the declared"),
    (lambda plan: plan.update(slo={"p95_ms": 9}), False, "by the declared levels alone.", "does not affect"),
    (lambda plan: plan.update(slo={"hz": 30}), False, "by the declared levels alone.", "does not affect the verdict"),
    (nothing, False, ": measured completely, and", "it ended as planned"),
    (nothing, True, ": it ended as planned, and", "measured completely"),
    (nothing, False, 'alt="The camera image that was asked about"', "both models were shown"),
    (text_only, False, "What is a ball?", "camera image"),
]


@pytest.mark.parametrize(("edit", "short", "said", "unsaid"), CLAIMS)
def test_the_page_claims_what_holds_for_this_run(
    run: Path, edit: Callable[[dict[str, Any]], Any], short: bool, said: str, unsaid: str
) -> None:
    change(run / "plan.json", edit)
    if short:
        path = run / "samples" / "nav-baseline-a2.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    # What stands below says where files come from, and nothing of models.
    document = report_html(run).split('<section id="provenance"')[0]
    assert said in document
    assert unsaid not in document


@pytest.mark.prove
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({}, None),
        ({"body_sha256": "c" * 64, "prompt_sha256": "d" * 64}, "Different requests (prompt), by SHA-256: "),
        ({"body_sha256": "c" * 64, "image_sha256": "d" * 64}, "Different requests (image), by SHA-256: "),
        ({"body_sha256": "c" * 64}, "Different requests (settings), by SHA-256: "),
        ({"body_sha256": None}, None),
    ],
)
def test_compare_says_that_other_things_were_asked(tmp_path: Path, edit: dict[str, Any], said: str | None) -> None:
    asked = {"body_sha256": "a" * 64, "prompt_sha256": "b" * 64, "image_sha256": None, "models": ["m"]}
    runs = []
    for name, more in (("one", {}), ("two", edit), ("three", {})):
        shutil.copytree(REAL, tmp_path / name)
        change(tmp_path / name / "plan.json", lambda plan, name=name: plan.update(host=name))

        def edit_summary(summary: dict[str, Any], more: dict[str, Any] = more) -> None:
            summary["segments"]["nav-candidate"]["request"] = asked | more

        change(tmp_path / name / "samples" / "summary-smoke-candidate.json", edit_summary)
        runs.append(tmp_path / name)
    assert run_row(runs[0]).asked is not None
    text = " ".join(compare_table(runs).split())
    document = write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")
    for shown in (text, document):
        assert shown.count("Different requests") == (said is not None)
        assert said is None or f"{said}aaaaaaaaaaaa in one, three; cccccccccccc in two." in shown


# --- figures that belong together ------------------------------------------------------------------------------------


def test_a_ratio_stands_beside_the_two_medians_that_it_is_of(run: Path) -> None:
    """The baseline is A1 and A2 together; A1 alone says something else."""
    change_lines(
        run / "samples" / "nav-baseline-a2.jsonl", lambda line: line | {"latency_ms": line["latency_ms"] * 1.5}
    )
    [row] = [one for one in summarize_run(read_run(run)).comparisons if one.metric == "latency_ms"]
    assert row.a1 != pytest.approx(row.baseline, rel=0.02)
    shown = f"{row.baseline:.1f}"
    [fact] = [fact for fact in built(run).facts if fact.name == "latency p50"]
    assert (fact.value, fact.note.split(",")[0]) == (f"{row.candidate:.1f}", f"baseline {shown} ms")
    assert run_row(run).baseline == shown
    cells = re.split(" {2,}", comparison_table([row]).split("\n")[1])
    assert cells[1:4] == [f"{row.candidate:.1f}", shown, f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]"]


def test_a_page_has_one_precision_for_ratios_and_no_interval_from_one_question(run: Path) -> None:
    document = report_html(run)
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>|(?:[\w-]+=\"[^\"]*\")", "", document, flags=re.DOTALL)
    ratios = re.findall(r"(\d+\.\d+) \[(\d+\.\d+), (\d+\.\d+)\]", text)
    assert len(ratios) > 10
    assert {len(one.split(".")[1]) for found in ratios for one in found} <= {1, 2}
    assert {found[0] for found in ratios if found[0].startswith("1.3")} == {"1.34"}
    assert "one question asked 100 times" in text
    assert "97.4" not in text
    assert "96.3" not in text


RATIOS = [
    ((1.2189, 1.2, 1.25), "1.22 [1.20, 1.25]"),
    ((1.2189, None, None), "1.22"),
    ((0.0042, 0.0040, 0.0044), "0.0042 [0.0040, 0.0044]"),
    ((300.2, 290.0, 310.0), "300 [290, 310]"),
    ((0.0, 0.0, 0.0), "-"),
    ((None, None, None), "-"),
    ((float("inf"), 1.0, 2.0), "-"),
]


@pytest.mark.parametrize(("given", "text"), RATIOS)
def test_a_ratio_has_digits_that_fit(given: tuple[float | None, float | None, float | None], text: str) -> None:
    assert ratio_text(*given) == text


@pytest.mark.parametrize(("factor", "digits"), [(1 / 3000, "0.00"), (1.0, ""), (5000.0, ""), (50000.0, "")])
def test_digits_fit_from_microseconds_to_minutes(run: Path, factor: float, digits: str) -> None:
    for name in ("nav-candidate", "nav-baseline-a1", "nav-baseline-a2"):
        change_lines(
            run / "samples" / f"{name}.jsonl", lambda line: line | {"latency_ms": round(line["latency_ms"] * factor, 9)}
        )
    summary = summarize_run(read_run(run))
    text = folder_table(run) + "\n".join(remark for one in summary.segments.values() for remark in remarks(one))
    assert "0.0 [0.0, 0.0]" not in text
    assert digits in text
    assert not re.search(r"\d{4,}\.\d", text), "a digit too many"
    found = built(run)
    for figure in (found.ratios, found.distribution, found.timeline):
        assert figure is not None
        for width, drawing in ((figures.WIDE, figure.wide), (figures.NARROW, figure.narrow)):
            assert_labels_fit(drawing, width)


def assert_labels_fit(drawing: str, width: float) -> None:
    """Tick labels, which are numbers, lie within the drawing in a wide font, and apart."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for label in ElementTree.fromstring(drawing).iter("text"):
        if not re.fullmatch(r"[\d.]+(?: %)?", label.text or ""):
            continue
        x, wide = float(label.attrib["x"]), 7.6 * len(label.text or "")
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[label.attrib["text-anchor"]]
        assert left >= 0, label.text
        assert left + wide <= width + 0.5, label.text
        taken.setdefault(label.attrib["y"], []).append((left, left + wide))
    for row in taken.values():
        row.sort()
        assert all(before[1] <= after[0] + 0.5 for before, after in pairwise(row)), row


def test_the_line_at_one_and_the_titles_run_through_no_label() -> None:
    rows = [(f"model {at}", compared(1.0 + at / 10, 0.9, 1.9)) for at in range(3)]
    drawn = charts.ratios(rows, title="t")
    assert drawn is not None
    root = ElementTree.fromstring(drawn.narrow)
    labels = [float(one.attrib["y"]) for one in root.iter("text") if "strong" in one.attrib["class"]]
    for one in root.iter("line"):
        if one.attrib["class"] == "one":
            top, bottom = sorted((float(one.attrib["y1"]), float(one.attrib["y2"])))
            assert not any(top < y - 4 < bottom for y in labels)
    scale = svg.Scale(0, 100, 300, 34)
    axis = ElementTree.fromstring(f"<g>{figures.y_axis(scale, 60, 700, 'share', suffix=' %')}</g>")
    [title] = [one for one in axis.iter("text") if one.text == "share"]
    highest = min(float(one.attrib["y"]) for one in axis.iter("text") if one is not title)
    # A line of 12.5 pixels, whatever the font, fits between their baselines.
    assert highest - float(title.attrib["y"]) >= 18
    assert float(title.attrib["y"]) >= 14


ALIKE = "unsloth-gemma-4-E4B-it-qat-UD-Q{}_K_XL-imatrix-calibrated-2026-11-29-by-somebody-of-the-house"
LABELS = [
    ([ALIKE.format(4), ALIKE.format(5)], [": 1.34, 34 % slower", ": 0.98, not shown"]),
    ([ALIKE.format(4), ALIKE.format(5)], [": 0.00123, 813 times as fast", ": not comparable"]),
    ([f"{'W' * 40}{at}{'M' * 40}" for at in range(4)], [": 14.7 s"] * 4),
    ([f"{'node.' * 20}{'W' * at}" for at in range(3)], []),
    (["everybody", "日本語" * 20 + "4" + "日本語" * 20, "日本語" * 20 + "5" + "日本語" * 20], [": 3.2 s"] * 3),
    ([], []),
]


@pytest.mark.parametrize("room", [315.0, 326.0, 725.0])
@pytest.mark.parametrize(("names", "says"), LABELS)
def test_a_chart_keeps_names_apart_and_what_it_says_of_them_whole(
    names: list[str], says: list[str], room: float
) -> None:
    shown = figures.labels(names, room, says=says, kind="t strong")
    parts = [label.removesuffix(said) for label, said in zip(shown, says or [""] * len(names), strict=True)]
    assert len(set(parts)) == len(names)
    for label, said in zip(shown, says, strict=False):
        assert label.endswith(said)
    # A letter is 8.6 pixels wide on average, which are fewer on a phone; W and M are wider.
    letter = 8.6 * (0.92 if room < figures.NARROW else 1.0)
    assert all(figures._letters(label) * letter <= room for label in shown)


def test_tenants_and_losses_of_long_names_are_told_apart(run: Path) -> None:
    def edit(plan: dict[str, Any]) -> None:
        for at, tenant in enumerate(plan["tenants"]):
            tenant["impact"] = f"{'everybody in the house loses ' * 3}voice {at}{' and the picture' * 4}"

    change(run / "plan.json", edit)
    drawn = built(run).downtime
    assert drawn is not None
    for drawing in (drawn.wide, drawn.narrow):
        told = re.findall(r'class="t strong"[^>]*>([^<]*)', drawing)
        assert len({label.partition(":")[0] for label in told}) == len(told) >= 2
        assert all(re.search(r": [\d.]+ s$", label) for label in told)


@pytest.mark.parametrize(
    "places",
    [[], [100.0], [10.0, 12.0, 300.0], [10.0, 300.0, 739.0, 740.0, 741.0], [735.0, 738.0, 739.0, 741.0]],
)
def test_the_numbers_of_short_phases_stand_apart(places: list[float]) -> None:
    found = hostcharts._apart(places, 742.0)
    assert len(found) == len(places)
    assert all(later - earlier >= 17 for earlier, later in pairwise(found))
    assert max(found, default=0.0) <= 742


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ["outlier"], "0 outliers"),
        (1, ["outlier"], "1 outlier"),
        (2, ["outlier"], "2 outliers"),
        (1, ["reply", "replies"], "1 reply"),
        (2, ["reply", "replies"], "2 replies"),
    ],
)
def test_what_is_counted_is_one_or_many(count: int, words: list[str], text: str) -> None:
    assert counted(count, *words) == text


NUMBERS = [
    (None, "-"), (0.0, "0.0"), (-0.0, "0.0"), (0.004, "0.0040"), (0.0949, "0.095"), (0.0996, "0.10"), (0.949, "0.95"),
    (0.951, "1.0"), (1.25, "1.2"), (99.94, "99.9"), (99.96, "100"), (100.4, "100"), (63015.0, "63015"),
    (380000.0, "380000"), (-0.004, "-0.0040"), (-12.34, "-12.3"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "decimals", "kept"),
    [(11.5812, 3, 11.581), (0.91234, 3, 0.912), (0.0038603, 3, 0.00386), (0.0026316, 3, 0.00263), (0.0, 3, 0.0),
     (0.00033124, 4, 0.000331), (380000.12345, 3, 380000.123), (-0.0012345, 2, -0.00123), (math.inf, 2, math.inf)],
)  # fmt: skip
def test_a_number_that_is_kept_has_digits_that_fit(value: float, decimals: int, kept: float) -> None:
    assert stats.rounded(value, decimals) == kept


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_a_number_has_digits_that_fit(value: float | None, text: str) -> None:
    assert number(value) == text


TICKS = [
    ([0.0, 5.0, 10.0], ["0", "5", "10"]),
    ([0.0, 0.002, 0.004], ["0", "0.002", "0.004"]),
    ([100000.0, 200000.0], ["100000", "200000"]),
    ([1234.0, 1234.5, 1235.0], ["1234", "1234.5", "1235"]),
    ([63015.0, 63015.2, 63015.4], ["63015", "63015.2", "63015.4"]),
    ([0.99999, 1.00001], ["0.99999", "1.00001"]),
    ([99999.5, 100000.5], ["99999.5", "100000.5"]),
    ([7.0], ["7"]),
    ([], []),
]


@pytest.mark.parametrize(("ticks", "labels"), TICKS)
def test_ticks_that_differ_have_labels_that_differ(ticks: list[float], labels: list[str]) -> None:
    assert svg.tick_texts(ticks) == labels


def test_the_ticks_of_any_scale_differ() -> None:
    for low, spread in ((0.0, 1.0), (1234.0, 2.0), (63015.0, 1.0), (380000.0, 0.3), (0.0031, 0.0002), (8.0, 900.0)):
        for count in (2, 5, 8):
            ticks = svg.value_scale([low, low + spread], 0, 700).ticks(count)
            labels = svg.tick_texts(ticks)
            assert len(set(labels)) == len(ticks) > 0
            assert not any("e" in label for label in labels)


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1 / 3000, "latency: 1.34 x [1.31, 1.37] the baseline's (0.0039 against 0.0029 ms)"),
        (5000.0, "latency: 1.34 x [1.31, 1.37] the baseline's (57905 against 43309 ms)"),
    ],
)
def test_the_line_of_a_comparison_has_digits_that_fit(factor: float, said: str) -> None:
    sides = [[made(at, 1.0 * at, value * factor) for at in range(1, 13)] for value in (11.581, 8.6618, 8.6618)]
    [found] = [one for one in compare(*sides) if one.metric == "latency_ms"]
    text = re.sub(r"\d\.\d\d x \[.*?\]", "1.34 x [1.31, 1.37]", found.text)
    assert text.startswith(said)


@pytest.mark.parametrize(
    ("kept", "n", "text"), [(100, 100, "100/100, 100 %"), (1999, 2000, "1999/2000, 99.9 %"), (99, 100, "99/100, 99 %"),
                            (0, 7, "0/7, 0 %"), (0, 0, "-")]
)  # fmt: skip
def test_a_share_with_a_failure_is_not_all(kept: int, n: int, text: str) -> None:
    samples = [made(at, 1.0 * at, 10.0, strategy=1 if at <= kept else 3) for at in range(1, n + 1)]
    assert research._adherence(summarize(samples, [], SegmentFacts("nav", n, True, False))) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, 100), (0.0, 0), (0.9983, 99), (0.002, 1), (0.29, 29), (0.57, 57), (0.675, 68), (0.9949, 99)],
)
def test_a_percentage_is_all_or_none_where_the_share_is(share: float, text: int) -> None:
    assert stats.percent(share) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.9983, 1.0, "99-100 %"),
        (0.946, 0.9998, "95-100 %"),
        (0.0002, 0.054, "0-5 %"),
        (0.0, 0.0017, "0-1 %"),
        (1.0, 1.0, "100-100 %"),
    ],
)
def test_an_interval_reaches_all_or_none_where_its_end_does(run: Path, low: float, high: float, text: str) -> None:
    found = summarize_run(read_run(run)).segments["nav-candidate"].adherence
    assert found is not None
    assert measured._interval(replace(found, low=low, high=high)) == text


@pytest.mark.parametrize("overhead_s", [-0.04, -0.0, 0.04])
def test_what_rounds_to_nothing_has_no_sign(run: Path, overhead_s: float) -> None:
    summary = summarize_run(read_run(run))
    windows = {name: replace(one, overhead_s=overhead_s) for name, one in summary.windows.items()}
    changed = replace(summary, windows=windows)
    folder = read_run(run)
    found = page(folder, changed, joined(folder))
    assert found.windows is not None
    shown = [*(fact.note for fact in found.facts), *(cell for row in found.windows.rows for cell in row)]
    assert "of it overhead 0.0 s" in shown
    assert "-0.0" not in " ".join(shown) + terminal._windows(changed)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((1, 0, 0, 1, None), "not shown by 1 pair (1 better"),
        ((0, 0, 0, 1, None), "not shown by 0 of 1 pair (0 better"),
        ((2, 0, 0, 2, None), "not shown by 2 pairs (2 better"),
        ((1, 0, 0, 2, None), "not shown by 1 of 2 pairs (1 better"),
    ],
)
def test_pairs_are_counted(given: tuple[int, int, int, int, None], text: str) -> None:
    assert reviewed(*given).text.startswith(text)


def test_remarks_count_in_the_singular() -> None:
    samples = [made(at, 1.0 * at, 10.0 + at % 5) for at in range(1, 61)] + [made(61, 61.0, 900.0)]
    segment = summarize(samples, [], SegmentFacts("nav", 61, True, False))
    assert "1 outlier (kept)" in remarks(segment)


@pytest.mark.prove
@pytest.mark.parametrize(("count", "title"), [(9, "9 checks"), (8, "8 checks"), (1, "1 check"), (0, "Checks")])
def test_checks_are_counted(run: Path, count: int, title: str) -> None:
    def edit(found: dict[str, Any]) -> None:
        more = [dict(found["checks"][-1], id=at, title=f"check {at}") for at in range(9, 20)]
        found["checks"] = [*found["checks"], *more][:count]

    change(run / "verification.json", edit)
    found = built(run)
    assert found.checks_title == title
    document = report_html(run)
    assert document.count(f">{title}</h2>") == document.count(f'#checks">{title}</a>') == 1
    assert "Eight" not in document


@pytest.mark.parametrize("kind", ["completed", "no vram", "rehearsal", "no plan", "checks alone", "failure"])
def test_the_gigabyte_is_said_once_where_it_is_first_used(
    run: Path, tmp_path: Path, folders: ModuleType, kind: str
) -> None:
    if kind == "rehearsal":
        run = folders.rehearsal(tmp_path / "rehearsal")
    elif kind == "no vram":
        (run / "vram.jsonl").unlink()
    elif kind == "no plan":
        (run / "plan.json").unlink()
    elif kind == "checks alone":
        for name in ("vram.jsonl", "verdict.json"):
            (run / name).unlink()
    elif kind == "failure":
        run = folders.rolled_back(tmp_path / "failed")
        path = run / "journal.jsonl"
        change_lines(path, lambda one: one | ({"found": "13.2 GB"} if one["event"] == "phase_failed" else {}))
    table = folder_table(run).split("\n\n")
    sizes = [at for at, part in enumerate(table) if re.search(r"\bGB\b", part)]
    assert [at for at, part in enumerate(table) if "1 GB is 1024 MiB" in part] == sizes[:1]
    document = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", report_html(run), flags=re.DOTALL)
    body = document.split("<main")[1]
    first = re.search(r"[\d.] (?:<small>)?GB", body)
    said = [found.start() for found in re.finditer("1 GB is 1024 MiB", body)]
    assert first is not None
    assert len(said) == 1
    # Within the same part of the page.
    assert "<section" not in body[first.start() : said[0]]
    assert "<h3" not in body[first.start() : said[0]]


def fewer(run: Path) -> None:
    path = run / "samples" / "nav-candidate.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def other(run: Path) -> None:
    path = run / "samples" / "nav-candidate.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"strategy": 3})
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.prove
@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda run: None, None),
        (fewer, "it rests on 100 adherent of 100 replies, this folder has 99 of 99"),
        (other, "it rests on 100 adherent of 100 replies, this folder has 99 of 100"),
        (lambda run: shutil.rmtree(run / "samples"), "this folder has 0 of 0"),
        (lambda run: (run / "verdict.json").unlink(), None),
    ],
)
def test_a_verdict_older_than_its_samples_is_remarked(run: Path, edit: Callable[[Path], Any], told: str | None) -> None:
    edit(run)
    views = [folder_table(run), compare_table([run]), re.sub(r"<svg.*?</svg>", "", report_html(run), flags=re.DOTALL)]
    for text in (" ".join(view.split()) for view in views):
        assert text.count("the verdict is older than the samples") == (told is not None)
        assert told is None or told in text
