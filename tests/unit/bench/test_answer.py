"""Should I switch? The sentence of facts: each fact in the word of its own finding, the same in every output."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sample_lines import compared, made
from trialbench import schemas
from trialbench.cli import main
from trialbench.measure.sample import Sample
from trialbench.report.answer import answer
from trialbench.report.compare import compare_table
from trialbench.report.comparison import Comparison
from trialbench.report.correctness import correctness
from trialbench.report.decide import answer_of, decide_folder
from trialbench.report.export import write_exports
from trialbench.report.html.report import report_html
from trialbench.report.plan import Workload
from trialbench.report.run import Run, read_run
from trialbench.report.summary import summarize_run
from trialbench.report.table import folder_table
from trialbench.verdict import Facts, Gate, Level, Review, Rules, reviewed

GATES = (Gate("start", 6.0), Gate("end", 6.2))
FACTS = Facts(n=4, adherent=4, gates=GATES, judged={"describe": None})
SLOWER = compared(1.65, 1.6, 1.7, finding="different")
RIGHT, WRONG = ["left", "large"], ["right", "large"]


def asked(rights: Sequence[bool | None], *, label: bool = True) -> list[Sample]:
    """A reply to each scene: right, wrong, or (None) not by the contract."""
    return [
        made(
            at,
            float(at),
            scene=f"s{at}",
            parsed=None if right is None else RIGHT if right else WRONG,
            strategy=None if right is None else 1,
            expected=RIGHT if label else None,
        )
        for at, right in enumerate(rights, 1)
    ]


def said(
    path: Path,
    facts: Facts = FACTS,
    candidate: Sequence[Sample] = (),
    baseline: Sequence[Sample] = (),
    comparison: Comparison | None = SLOWER,
) -> str:
    segments: Any = {
        name: SimpleNamespace(samples=tuple(samples))
        for name, samples in {
            "nav-candidate": candidate,
            "nav-baseline-a1": baseline,
            "describe-candidate": [made(1, 0.0)],
        }.items()
    }
    run = Run(path=path, segments=segments)
    summary: Any = SimpleNamespace(
        comparisons=[comparison] if comparison else [], correctness=correctness(run.samples, Workload("nav"))
    )
    return answer(run, summary, facts, Rules())


def test_the_whole_sentence(tmp_path: Path) -> None:
    (tmp_path / "review.html").touch()
    assert said(tmp_path, FACTS, asked([True, True, True, False]), asked([True, False, True, True])) == (
        "fits: 6.2 of 5.5-7.5 GB; 65 % slower; obeys in 4 of 4 scenes;"
        " agrees with today's model in 2 of 4 scenes and is right where they differ in 1 of 2, today's in 1"
        " (right more often: not shown); not reviewed yet: open review.html"
    )


def test_a_page_of_review_is_named_only_where_it_is(tmp_path: Path) -> None:
    assert said(tmp_path).endswith("; not reviewed yet")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gates": ()}, "memory not measured"),
        ({"gates": (Gate("start", 6.0), Gate("end", 7.504))}, "does not fit: 7.50 GB, healthy 5.5-7.5 GB"),
        ({"gates": (Gate("start", 4.1), Gate("end", 4.2))}, "not all of it on the card: 4.10 GB, healthy 5.5-7.5 GB"),
        ({"gates": (Gate("start", 4.1), Gate("end", 8.2))}, "does not fit: 8.20 GB"),
        # The host's own finding counts, whatever its rounded figure says.
        ({"gates": (Gate("end", 7.5, "too_large"),)}, "does not fit: 7.50 GB"),
        ({"rolled_back": "measure: no room"}, "the trial was not completed; fits"),
        ({"taints": ("cache: 3 replies",)}, "the numbers are tainted; fits"),
        ({"thinking": 1}, "thinking in 1 reply; fits"),
        ({"ground_truth": "failed"}, "not the same model (ground truth)"),
        ({"ground_truth": "missing"}, "ground truth is required and missing"),
        ({"silent": ("nav-baseline-a1",)}, "no good reply of today's model in nav-baseline-a1"),
        ({"judged": {"describe": "worse"}}, "describe judged worse"),
        ({"judged": {"describe": None, "obstacle": "same"}}, "obstacle judged same; describe not reviewed yet"),
        ({"levels": (Level("p95", "FAIL", "p95 of at most 30 ms: missed (41 ms)"),)}, "p95 of at most 30 ms: missed;"),
        ({"levels": (Level("rate", "INCONCLUSIVE", "at least 9 Hz: not shown (-)"),)}, "at least 9 Hz: not shown;"),
    ],
)
def test_what_else_has_to_be_known(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in said(tmp_path, replace(FACTS, **changes))


@pytest.mark.parametrize(
    ("counts", "also", "words"),
    [
        # Judged, and nothing shown: that is not the same as not judged.
        ((4, 3, 13, 20), {}, "describe better or worse: not shown by 20 pairs"),
        ((3, 0, 13, 20), {}, "describe better or worse: not shown by 16 of 20 pairs: open review.html"),
        ((0, 0, 1, 1), {}, "describe better or worse: not shown by 1 pair"),
        ((4, 3, 13, 20), {"obstacle": "same"}, "obstacle judged same; describe better or worse: not shown by 20 pairs"),
        ((4, 3, 13, 20), {"describe": "same"}, "describe judged same"),
    ],
)
def test_a_review_that_shows_nothing_is_called_that(
    tmp_path: Path, counts: tuple[int, int, int, int], also: dict[str, Any], words: str
) -> None:
    (tmp_path / "review.html").touch()
    review = Review("r", ("ann",), {"describe": reviewed(*counts, None)})
    found = said(tmp_path, replace(FACTS, judged={"describe": None, **also}, review=review))
    assert found.endswith(f"; {words}")


def test_what_was_never_measured_waits_for_nobody(tmp_path: Path) -> None:
    assert "review" not in said(tmp_path, replace(FACTS, judged={"obstacle": None}))


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (None, "speed not compared"),
        (SLOWER, "; 65 % slower;"),
        (replace(SLOWER, noisy=True), "; 65 % slower, NOISY;"),
        (replace(SLOWER, ratio=0.5), "; 50 % faster;"),
        (
            replace(SLOWER, ratio=0.5, failed_candidate=40, failed_baseline=1),
            "; 50 % faster, leaving out 40 failed requests of the candidate and 1 failed request of the baseline;",
        ),
        # "Not shown" is not "no difference".
        (replace(SLOWER, finding="not_shown"), "; slower or faster: not shown;"),
        (replace(SLOWER, finding="not_comparable"), "; slower or faster: not comparable;"),
    ],
)
def test_speed_in_the_word_of_its_finding(tmp_path: Path, comparison: Comparison | None, words: str) -> None:
    found = said(tmp_path, comparison=comparison)
    assert words in found
    assert "no difference" not in found


@pytest.mark.parametrize(
    ("candidate", "baseline", "label", "words"),
    [
        ([True, None], [True, True], True, "obeys in 1 of 2 scenes"),
        ([True] * 3, [True] * 3, True, "agrees with today's model in all 3 scenes, both right in 3 of 3"),
        ([True] * 3, [True] * 3, False, "agrees with today's model in all 3 scenes;"),
        ([True], [True], True, "agrees with today's model in the one scene, both right in 1 of 1"),
        ([True, False], [True] * 2, False, "in 1 of 2 scenes, and which is right where they differ is not known"),
        ([True] * 6, [False] * 6, True, "in 0 of 6 scenes and is right where they differ in 6 of 6, today's in 0"),
        ([True] * 6, [False] * 6, True, "(right more often)"),
        ([False] * 6, [True] * 6, True, "(right less often)"),
        ([True] * 5, [False] * 5, True, "(right more often: not shown)"),
    ],
)
def test_what_scenes_say(
    tmp_path: Path, candidate: list[bool | None], baseline: list[bool | None], label: bool, words: str
) -> None:
    found = said(tmp_path, FACTS, asked(candidate, label=label), asked(baseline, label=label))
    assert words in found


def test_scenes_without_a_label_are_counted_apart(tmp_path: Path) -> None:
    candidate, baseline = asked([True, False, False]), asked([False, True, True])
    unknown = [replace(one, expected=None) if one.scene == "s3" else one for one in candidate]
    also = [replace(one, expected=None) if one.scene == "s3" else one for one in baseline]
    found = said(tmp_path, FACTS, unknown, also)
    assert "right where they differ in 1 of 2, today's in 1" in found
    assert "the right answer to 1 more is not known" in found


def test_one_question_says_so_and_proves_nothing(tmp_path: Path) -> None:
    found = said(tmp_path, FACTS, [made(at, float(at)) for at in range(1, 5)])
    assert "obeys in 4 of 4 replies to one question, which says nothing about other pictures" in found
    assert not re.search("prove|scenes", found)


@pytest.mark.parametrize("facts", [Facts(n=0, adherent=0, gates=())])
def test_without_a_candidate_there_is_nothing_to_say(tmp_path: Path, facts: Facts) -> None:
    assert said(tmp_path, facts) == ""


# --- in every output -------------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(folders: ModuleType, tmp_path: Path) -> Path:
    run: Path = folders.scenes(tmp_path / "run")
    decide_folder(run)
    return run


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_output_says_which_requests_the_speed_leaves_out(scenes: Path) -> None:
    path = scenes / "samples" / "nav-candidate.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[:3]:
        line.update(ok=False, error_class="http_503", latency_ms=None, content=None, parsed=None, strategy=None)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    left_out = "3 failed requests of the candidate"
    told = f"leaving out {left_out};"
    verdict = decide_folder(scenes)
    assert told in verdict["answer"]
    assert any(line.endswith(told[:-1]) for line in verdict["evidence"]["trial"]["lines"])
    assert told in flat(folder_table(scenes))
    assert f"the medians leave out {left_out}" in flat(folder_table(scenes))
    assert f"the medians leave out {left_out}" in flat(compare_table([scenes]))
    page = report_html(scenes)
    # The sentence, the figure below it, the line about latency and the evidence.
    assert page.count(told[:-1]) == 4
    exported = {path.name: path.read_text(encoding="utf-8") for path in write_exports(scenes)}
    assert told in exported["junit.xml"]
    assert told in exported["metrics.prom"]
    summary = json.loads((scenes / "summary.json").read_text())
    assert schemas.validate(summary, "summary") == []
    assert f"; leaves out {left_out})" in summary["comparisons"][0]["text"]


@pytest.mark.prove
def test_every_output_has_the_same_sentence(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = read_run(scenes)
    told = answer_of(run, summarize_run(run))
    assert "obeys in 60 of 60 scenes; agrees with today's model in 54 of 60 scenes" in told
    assert "is right where they differ in 4 of 6, today's in 1 (right more often: not shown)" in told
    verdict = json.loads((scenes / "verdict.json").read_text())
    assert schemas.validate(verdict, "verdict") == []
    assert verdict["answer"] == told
    shown = folder_table(scenes)
    assert told in flat(shown)
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown.splitlines()
    assert lines[:2] == ["Verdict", "  PENDING REVIEW"]
    labels = f"{run.plan.candidate_label} instead of {run.plan.baseline_label}:"
    assert flat(shown).startswith(f"Verdict PENDING REVIEW {labels} {told[:40]}")
    page = report_html(scenes)
    # An apostrophe is escaped there, and no line breaks between a number and its unit.
    escaped = told.replace("'", "&#39;").replace("7.5 GB", "7.5\N{NO-BREAK SPACE}GB")
    assert f'<p class="lead" dir="auto">{escaped}</p>' in page
    exported = {path.name: path.read_text(encoding="utf-8") for path in write_exports(scenes)}
    assert f'name="answer" value="{told}"' in exported["junit.xml"]
    assert f'answer="{told}"' in exported["metrics.prom"]


def test_an_earlier_verdict_has_none_and_is_read(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    assert "answer" not in json.loads((run / "verdict.json").read_text())
    assert "fits: 6.2 of 5.5-7.5 GB" in flat(folder_table(run))
    assert "proved" not in folder_table(run)


@pytest.mark.parametrize("kind", ["rehearsal", "untouched"])
def test_a_run_without_a_candidate_has_none_anywhere(folders: ModuleType, tmp_path: Path, kind: str) -> None:
    run = folders.ALL[kind](tmp_path / "run")
    for text in (folder_table(run), report_html(run), *(path.read_text() for path in write_exports(run))):
        assert "fits:" not in text
        assert "answer=" not in text
    assert main(["show", str(run)]) == 0
