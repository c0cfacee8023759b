"""The blind review: its pairs, its key, the page that does not tell, and what judgments come to."""

from __future__ import annotations

import html
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jinja2 import Template
from published import accept
from scipy import stats as oracle
from trialbench import stats
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.report.decide import decide_folder
from trialbench.report.html.report import report_html
from trialbench.report.review.judgments import review
from trialbench.report.review.key import NAME, Key, draw, earlier, keep, read
from trialbench.report.review.page import write_review
from trialbench.report.review.pairs import NO_REPLY, pairs
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.verdict import Facts, Gate, Review, Rules, decide, reviewed

ROOT = Path(__file__).resolve().parents[3]
ONE = "20260102T030400Z-gemma-4-E4B-it-Q4_K_M"
Give = Callable[[Path, dict[str, str]], dict[str, Any]]


# ---- numbers ----


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (6, 0), (12, 2), (20, 10), (60, 41), (300, 250)])
def test_the_sign_test_is_the_binomial_one(wins: int, losses: int) -> None:
    expected = oracle.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert stats.sign_test(wins, losses) == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (3, 1), (2, 3), (20, 10), (10, 20), (55, 45), (501, 499)])
def test_so_many_decide_at_this_share_and_fewer_do_not(wins: int, losses: int) -> None:
    needed = stats.sign_test_needs(wins, losses)
    assert needed is not None

    def p(asked: int) -> float:
        # The binomial tail is that of a beta distribution, which takes parts of a loss, too.
        lost = asked * min(wins, losses) / (wins + losses)
        return float(2 * oracle.beta.cdf(0.5, asked - lost, lost + 1))

    assert p(needed) < 0.05 <= p(needed - 1)


@pytest.mark.parametrize(("wins", "losses", "needed"), [(0, 0, None), (4, 4, None), (1, 0, 6), (6, 0, 6), (12, 2, 14)])
def test_no_number_decides_what_is_even(wins: int, losses: int, needed: int | None) -> None:
    assert stats.sign_test_needs(wins, losses) == needed


def spread(**counts: int) -> list[str]:
    return [word for word, count in counts.items() for _ in range(count)]


# Worked examples of the two statistics.
COHEN = [spread(yes=25, no=25), spread(yes=20, no=5) + spread(yes=10, no=15)]
FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def test_kappa_of_two_is_cohens_and_of_more_is_fleiss() -> None:
    two = stats.agreement(COHEN)
    assert (two.raters, two.n, two.share, two.kappa) == (2, 50, pytest.approx(0.7), pytest.approx(0.4))
    answers = [[str(word) for word, count in enumerate(counts) for _ in range(count)] for counts in FLEISS]
    many = stats.agreement([list(one) for one in zip(*answers, strict=True)])
    assert (many.raters, many.n, many.share, many.kappa) == (
        14, 10, pytest.approx(0.378, abs=5e-4), pytest.approx(0.210, abs=5e-4),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratings", "share", "kappa"),
    [
        ([[], []], None, None),
        ([["a", "a"], ["a", "a"]], 1.0, None),
        ([["a", "b"], ["a", "b"]], 1.0, 1.0),
        ([["a", "b"], ["b", "a"]], 0.0, -1.0),
        ([["a", "b"], ["a", "b"], ["a", "b"]], 1.0, 1.0),
    ],
)
def test_agreement_at_its_edges(ratings: list[list[str]], share: float | None, kappa: float | None) -> None:
    found = stats.agreement(ratings)
    assert (found.share, found.kappa) == (share, kappa)


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "pairs", "margin", "finding", "more"),
    [
        # 12 against 2 are shown, 20 against 10 are not, whatever the ties.
        (12, 2, 86, 100, None, "better", None),
        (2, 12, 86, 100, None, "worse", None),
        (20, 10, 70, 100, None, "not_shown", 34),
        (20, 10, 0, 30, None, "not_shown", 10),
        (6, 0, 0, 6, None, "better", None),
        (5, 0, 0, 20, None, "not_shown", 1),
        (0, 0, 20, 20, None, "not_shown", None),
        (3, 3, 14, 20, None, "not_shown", None),
        # "The same" takes a margin, and that it is shown.
        (0, 0, 20, 20, 60, "same", None),
        (2, 1, 17, 20, 60, "same", None),
        (2, 2, 16, 20, 60, "not_shown", 1),
        (0, 0, 3, 20, 60, "not_shown", 3),
        # More ties would show it, where no number of them would show a difference.
        (0, 0, 20, 20, 90, "not_shown", 9),
        (0, 0, 29, 29, 90, "same", None),
        (0, 0, 20, 20, 100, "not_shown", None),
        (5, 0, 15, 20, 60, "not_shown", 4),
        (12, 2, 186, 200, 60, "better", None),
        (0, 0, 0, 20, 60, "not_shown", None),
        (0, 0, 1, 1, 1, "not_shown", 1),
    ],
)
def test_judgments_are_better_worse_same_or_not_shown(
    wins: int, losses: int, ties: int, pairs: int, margin: float | None, finding: str, more: int | None
) -> None:
    found = reviewed(wins, losses, ties, pairs, margin)
    assert (found.finding, found.more) == (finding, more)
    if found.finding == "same":
        low = oracle.binomtest(ties, wins + losses + ties, alternative="greater").proportion_ci(0.95).low
        assert margin is not None
        assert low * 100 >= margin
    for part in (f"{wins} better, {losses} worse, {ties} the same", "p = ", "pair"):
        assert part in found.text
    assert "no difference" not in found.text


def test_equal_models_are_called_different_in_one_review_of_twenty() -> None:
    rng, wrong = random.Random(1), 0
    for _ in range(2000):
        wins = sum(rng.random() < 0.5 for _ in range(24))
        wrong += reviewed(wins, 24 - wins, 6, 30, None).finding != "not_shown"
    assert wrong / 2000 <= 0.05


# ---- the verdict ----


def a_review(**found: Any) -> Review:
    return Review("0" * 16, ("ann",), {name: reviewed(*counts) for name, counts in found.items()})


@pytest.mark.parametrize(
    ("judged", "counts", "verdict", "words"),
    [
        (None, (9, 6, 5, 20, None), "PENDING_REVIEW", ["describe not shown by 20 pairs (9 better, 6 worse, 5 the same",
                                                       "more judgments like these would decide", "all of its pairs"]),
        (None, (3, 3, 2, 20, None), "PENDING_REVIEW", ["8 of 20 pairs", "no number of judg", "12 of its pairs wait"]),
        ("better", (12, 2, 6, 20, None), "ADOPT", ["judged better"]),
        ("worse", (2, 12, 6, 20, None), "REJECT", ["describe judged worse"]),
        ("same", (1, 1, 38, 40, 60), "REJECT", ["describe judged same"]),
    ],
)  # fmt: skip
def test_the_verdict_of_a_review(judged: Any, counts: tuple[Any, ...], verdict: str, words: list[str]) -> None:
    facts = Facts(100, 100, (Gate("end", 6.1),), judged={"describe": judged}, review=a_review(describe=counts))
    decision = decide(facts, Rules())
    assert decision.verdict == verdict
    for word in words:
        assert word in decision.reasons[0]
    told = " ".join(decision.reasons)
    assert told.count("the same, p = ") == 1
    assert "not materially better" not in told or verdict == "REJECT"


# ---- pairs and key ----


@pytest.fixture
def run(folders: ModuleType, tmp_path: Path) -> Path:
    return folders.compared(tmp_path / ONE)


def answers(key: Key, better: Callable[[int, str], str], only: str = "") -> dict[str, str]:
    """What a reviewer says who thinks `better(at, workload)` - `candidate`, `baseline` or `same` - of each pair."""
    said = {}
    for at, turn in enumerate(key.pairs):
        word = better(at, turn.workload)
        if not only or turn.workload == only:
            said[turn.id] = "same" if word == "same" else "first" if word == turn.first else "second"
    return said


def saved(run: Path, said: dict[str, str], name: str = "judgements.json", /, **changes: Any) -> Path:
    key = read(run / NAME)
    document = {
        "format": 1,
        "run": key.run,
        "review": key.review,
        "reviewer": "ann",
        "saved": "2026-11-30T12:00:00.000Z",
        "judgments": [{"pair": pair, "answer": answer} for pair, answer in said.items()],
    }
    path = run.parent / name
    path.write_text(json.dumps(document | changes), encoding="utf-8")
    return path


def test_a_pair_a_question_and_of_what_decides_the_disagreements(run: Path, folders: ModuleType) -> None:
    found = pairs(read_run(run))
    assert [one.workload for one in found] == ["describe"] * folders.SCENES + ["nav"] * len(folders.APART)
    assert [one.scene for one in found if one.identical] == [f"picture-{at + 1}" for at in folders.ALIKE]
    nav = [one for one in found if one.workload == "nav"]
    assert {(one.scene, one.baseline, one.candidate) for one in nav} == {
        (f"s{at}", "left large", "right small") for at in folders.APART
    }


def test_a_pair_has_the_replies_that_count(folders: ModuleType, tmp_path: Path) -> None:
    """The baseline was asked twice as often; its further replies are no part of the comparison."""
    found = {one.scene: one for one in pairs(read_run(folders.varied(tmp_path / ONE)))}
    assert (found["scene-01"].baseline, found["scene-01"].candidate) == ("left large", "right large")


def test_a_question_asked_again_is_one_pair_with_the_usual_reply(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.rich(tmp_path / "run")
    (pair,) = pairs(read_run(run))
    assert (pair.workload, pair.scene, pair.baseline) == ("describe", None, "A large white ball is on the left.")
    assert write_review(run) is not None
    page = (run / "review.html").read_text(encoding="utf-8")
    assert "0 of 1 pair judged" in page
    assert "chance says which stands first" in page
    # A policy that forbids scripts shows no <noscript>: the script takes the words away.
    assert '<p class="warn" id="off">This page needs JavaScript' in page
    assert 'document.getElementById("off").hidden = true' in page
    # A model without a usable reply is compared all the same, and one word does not tell who it is.
    path = run / "samples" / "describe-candidate.jsonl"
    lines = [json.loads(line) | {"ok": False, "error_class": "timeout"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pairs(read_run(run))[0].candidate == NO_REPLY


@pytest.mark.parametrize("kind", ["finished", "rehearsal", "untouched"])
def test_without_two_different_replies_there_is_nothing_to_review(
    folders: ModuleType, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folders.ALL[kind](tmp_path / "run")
    if kind == "finished":
        candidate, baseline = (run / "samples" / f"describe-{side}.jsonl" for side in ("candidate", "baseline"))
        candidate.write_text(baseline.read_text())
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert not (run / NAME).exists()
    assert not (run / "review.html").exists()
    # Nobody is sent to a page that is not there.
    steps = summarize_run(read_run(run)).restore.next
    assert not any("review.html" in step for step in steps)
    assert (kind == "finished") == any("no pair of different replies" in step for step in steps)


def test_the_seed_draws_sides_that_earn_nothing(run: Path) -> None:
    made = read_run(run)
    found = pairs(made)
    first, again, other = draw(made, found, 1), draw(made, found, 1), draw(made, found, 2)
    assert first.pairs == again.pairs != other.pairs
    for key in (first, other):
        sides = Counter((one.workload, one.first) for one in key.pairs)
        assert sides["describe", "baseline"] == sides["describe", "candidate"] == 9
        assert {sides["nav", "baseline"], sides["nav", "candidate"]} == {1, 2}
        assert [one.id for one in key.pairs] == [str(at) for at in range(1, 22)]
        assert [one.workload for one in key.pairs] == ["describe"] * 18 + ["nav"] * 3
        assert len(key.identical) == 2
    # Over many seeds each model stands first in each place as often.
    often = Counter(draw(made, found, seed).pairs[-1].first for seed in range(400))
    assert 150 < often["baseline"] < 250


@pytest.mark.prove
def test_the_key_stays_while_the_replies_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n{run / 'review.html'}\n"
    key, page = (run / NAME).read_text(), (run / "review.html").read_text()
    accept(json.loads(key), "review-key")
    assert main(["report", str(run)]) == 0
    assert (run / NAME).read_text() == key
    assert (run / "review.html").read_text() == page
    # Other replies get a key of their own, and the earlier one is not lost.
    path = run / "samples" / "describe-candidate.jsonl"
    path.write_text(path.read_text().replace("Number 9", "Number nine"))
    assert main(["report", str(run)]) == 0
    assert (run / NAME).read_text() != key
    assert (run / earlier(json.loads(key)["review"])).read_text() == key


def test_a_key_of_all_replies_stays(folders: ModuleType, tmp_path: Path) -> None:
    """Keys were drawn so at first: then nothing differs in `scene-01`."""
    run = folders.varied(tmp_path / ONE)
    keep(read_run(run), [one for one in pairs(read_run(run)) if one.scene != "scene-01"])
    key = (run / NAME).read_text()
    assert write_review(run) is not None
    assert (run / NAME).read_text() == key
    assert (run / "review.html").read_text(encoding="utf-8").count('<section class="pair"') == len(
        read(run / NAME).pairs
    )
    path = saved(run, answers(read(run / NAME), lambda at, work: "same"))
    assert decide_folder(run, judgments=[path])["facts"]["review"]["id"] == read(run / NAME).review
    # One of other replies is replaced by a key of those that count.
    samples = run / "samples" / "nav-candidate.jsonl"
    samples.write_text(samples.read_text().replace('"left large"', '"left huge"'))
    write_review(run)
    assert "scene-01" in {one.scene for one in read(run / NAME).pairs}


def test_a_report_elsewhere_leaves_the_folder_alone(run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    assert main(["report", str(run), "--out", str(tmp_path / "elsewhere.html")]) == 0
    assert sorted(run.rglob("*")) == before


def test_a_file_in_the_place_of_the_key_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / NAME).write_text('{"format": 1, "run"')
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert NAME in said
    assert "is not JSON" in said
    assert (run / NAME).read_text() == '{"format": 1, "run"'
    assert not (run / "review.html").exists()


# ---- the page ----


@pytest.mark.prove
def test_the_page_does_not_tell_who_is_who(run: Path) -> None:
    assert write_review(run) == run / "review.html"
    page = (run / "review.html").read_text(encoding="utf-8")
    key = read(run / NAME)
    plan = json.loads((run / "plan.json").read_text())
    # The style is that of every page, and the run's name has its candidate.
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).replace(key.run, "RUN")
    for word in ("baseline", "candidate", plan["candidate"]["label"], plan["baseline"]["label"], str(key.seed), NAME):
        assert word not in text, word
    assert not any(one.sha256 in page for one in key.pairs)
    # But for the replies, both sides of every pair are the same markup, and pairs differ by their number alone.
    sections = re.findall(r'<section class="pair".*?</div>\n</section>', page, re.DOTALL)
    assert len(sections) == len(key.pairs)
    for number, (section, turn) in enumerate(zip(sections, key.pairs, strict=True), 1):
        sides = re.findall(r'<section class="side".*?</section>', section, re.DOTALL)
        replies = [html.unescape(one) for one in re.findall(r"<blockquote[^>]*>(.*?)</blockquote>", section, re.DOTALL)]
        bare = [re.sub(r"(<blockquote[^>]*>).*?<", r"\1<", side, flags=re.DOTALL) for side in sides]
        assert bare[0].replace(f"h-pair-{number}-1", "ID").replace("Reply 1", "R") == bare[1].replace(
            f"h-pair-{number}-2", "ID"
        ).replace("Reply 2", "R")
        pair = next(one for one in pairs(read_run(run)) if one.sha256 == turn.sha256)
        expected = (pair.baseline, pair.candidate) if turn.first == "baseline" else (pair.candidate, pair.baseline)
        assert tuple(replies) == expected


def test_the_page_shows_each_picture_once_and_what_was_asked(run: Path, folders: ModuleType) -> None:
    write_review(run)
    page = (run / "review.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img class="camera" id="(picture-\d+)" src="data:image/png;base64,', page)
    # The pictures of nav are among those that were described.
    assert len(pictures) == len(set(pictures)) == folders.SCENES - len(folders.ALIKE)
    assert set(re.findall(r'data-picture="(.*?)"', page)) == set(pictures)
    assert "Describe what you see." in page
    assert all(f"Where is it? ({at})" in page for at in folders.APART)
    assert "2 pairs have twice the same text" in page
    assert len(page.encode()) < 4_000_000


@pytest.mark.prove
def test_pictures_without_room_are_shown_small(run: Path, folders: ModuleType) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for at in range(folders.SCENES):
        noise = pillow.effect_noise((800, 450), 90 + at)
        noise.save(run / "inputs" / "scenes" / f"view-{at}.png")
    assert (run / "inputs" / "scenes" / "view-0.png").stat().st_size > 150_000
    write_review(run)
    page = (run / "review.html").read_text(encoding="utf-8")
    kinds = re.findall(r'<img class="camera" id="picture-\d+" src="data:image/(\w+);base64,', page)
    assert set(kinds) == {"png", "jpeg"}
    assert len(kinds) == folders.SCENES - len(folders.ALIKE)
    assert len(page.encode()) < 4_000_000


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda run: (run / "inputs" / "scenes" / "view-9.png").unlink(), "does not hold the picture"),
        (lambda run: (run / "inputs" / "scenes" / "view-9.png").write_bytes(b"GIF89a"), "not a JPEG, PNG or WebP"),
        (lambda run: (run / "inputs" / "scenes" / "view-9.png").write_bytes(b"\x89PNG" * 300_000), "too large"),
        (lambda run: (run / "inputs" / "pictures.json").write_text("[1]"), "does not say which picture"),
        (lambda run: (run / "inputs" / "pictures.json").write_text("[]"), "does not say which picture"),
        (lambda run: (run / "inputs" / "pictures.json").write_text("[{"), "does not say which picture"),
        (lambda run: (run / "inputs" / "pictures.json").write_text('[{"id": "picture-10", "image": "../plan.json"}]'),
         "outside the run"),
    ],
)  # fmt: skip
def test_a_picture_that_is_not_there_is_told(run: Path, spoil: Callable[[Path], object], why: str) -> None:
    spoil(run)
    write_review(run)
    assert why in (run / "review.html").read_text(encoding="utf-8")


def test_a_scene_without_a_prompt_of_its_own_was_asked_the_prompt_of_the_run(run: Path) -> None:
    path = run / "inputs" / "scenes.json"
    path.write_text(json.dumps([{"id": row["id"], "image": row["image"]} for row in json.loads(path.read_text())]))
    (run / "inputs" / "prompt.txt").write_text("Which way is free?")
    write_review(run)
    assert "Which way is free?" in (run / "review.html").read_text(encoding="utf-8")
    (run / "inputs" / "prompt.txt").unlink()
    write_review(run)
    assert "Which way is free?" not in (run / "review.html").read_text(encoding="utf-8")


def test_what_strangers_wrote_is_text(run: Path, folders: ModuleType) -> None:
    path = run / "samples" / "describe-candidate.jsonl"
    lines = [json.loads(line) | {"content": folders.HOSTILE + line[:12]} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_review(run)
    page = (run / "review.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert not {"\x00", "\x1b", "\u202e"} & set(page)


# ---- judgments ----


@pytest.fixture
def give(run: Path) -> Give:
    """Judges the page of the run, and decides."""
    write_review(run)

    def judged(path: Path, said: dict[str, str]) -> dict[str, Any]:
        return decide_folder(path, judgments=[saved(path, said)])

    return judged


@pytest.mark.prove
@pytest.mark.parametrize(
    ("better", "verdict", "describe", "counts"),
    [
        (lambda at, work: "candidate", "ADOPT", "better", (18, 0, 2)),
        (lambda at, work: "baseline", "REJECT", "worse", (0, 18, 2)),
        (lambda at, work: "same", "PENDING_REVIEW", None, (0, 0, 20)),
        (lambda at, work: "candidate" if at < 12 else "baseline" if at < 14 else "same", "ADOPT", "better", (12, 2, 6)),
        (lambda at, work: "candidate" if at % 2 else "baseline", "PENDING_REVIEW", None, (9, 9, 2)),
    ],
)
def test_judgments_decide(
    run: Path, give: Give, better: Callable[[int, str], str], verdict: str, describe: str | None, counts: Any
) -> None:
    found = give(run, answers(read(run / NAME), better))
    accept(found, "verdict")
    assert (found["verdict"], found["facts"]["describe"]) == (verdict, describe)
    told = found["facts"]["review"]
    work = told["workloads"]["describe"]
    assert (work["wins"], work["losses"], work["ties"], work["pairs"]) == (*counts, 20)
    assert (told["reviewers"], told["agreement"]) == (["ann"], None)
    # Three pairs of nav show nothing, so nobody judged it.
    assert told["workloads"]["nav"]["finding"] == "not_shown"
    assert "judgments" not in found["facts"]
    # It holds until it is replaced: by another review, or by a person's word.
    assert decide_folder(run)["facts"]["review"] == told
    assert decide_folder(run)["verdict"] == verdict
    assert decide_folder(run, judged={"describe": "better"})["verdict"] == "ADOPT"


def test_a_margin_of_ties_counts_where_it_was_written_down_before(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text()) | {"review_ties_percent": 60}
    (run / "plan.json").write_text(json.dumps(plan))
    write_review(run)
    said = answers(read(run / NAME), lambda at, work: "same")
    # Who raises or lowers it after the page was made changes nothing.
    (run / "plan.json").write_text(json.dumps(plan | {"review_ties_percent": None}))
    found = decide_folder(run, judgments=[saved(run, said)])
    assert (found["verdict"], found["facts"]["describe"]) == ("REJECT", "same")
    assert "by at least 60 % ties" in " ".join(found["reasons"])


def test_nav_is_judged_where_the_review_shows_something(run: Path, folders: ModuleType) -> None:
    path = run / "samples" / "nav-candidate.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if int(line["scene"][1:]) < 8:
            line.update(parsed=["right", "small"], content="right small")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_review(run)
    said = answers(read(run / NAME), lambda at, work: "candidate" if work == "describe" else "baseline")
    found = decide_folder(run, judgments=[saved(run, said)])
    assert found["facts"]["judgments"] == {"nav": "worse"}
    assert (found["verdict"], found["facts"]["describe"]) == ("REJECT", "better")
    assert decide_folder(run)["facts"]["judgments"] == {"nav": "worse"}


@pytest.mark.prove
def test_several_reviewers_count_by_majority_and_their_agreement_is_told(run: Path, give: Give) -> None:
    key = read(run / NAME)
    files = []
    for name, stop in (("ann", 18), ("bob", 14), ("cat", 4)):
        said = answers(key, lambda at, work, stop=stop: "candidate" if at < stop else "baseline", only="describe")
        files.append(saved(run, said, f"{name}.json", reviewer=name))
    found = decide_folder(run, judgments=files[:2])
    assert found["facts"]["review"]["agreement"] == {
        "raters": 2,
        "n": 18,
        "share": pytest.approx(14 / 18),
        "kappa": 0.0,
    }
    # Where one says either, it is a tie.
    work = found["facts"]["review"]["workloads"]["describe"]
    assert (work["wins"], work["losses"], work["ties"]) == (14, 0, 6)
    found = decide_folder(run, judgments=files)
    work = found["facts"]["review"]["workloads"]["describe"]
    assert (work["wins"], work["losses"], work["ties"]) == (14, 4, 2)
    told = "3 reviewers agree in 48 % of 18 pairs, kappa "
    assert any(told in reason for reason in found["reasons"])


def test_several_reviewers_without_a_pair_in_common(run: Path, give: Give) -> None:
    files = [saved(run, {pair: "same"}, f"{pair}.json", reviewer=pair) for pair in "12"]
    found = decide_folder(run, judgments=files)
    assert "2 reviewers judged no pair in common" in " ".join(found["reasons"])


@pytest.mark.parametrize("option", [["--judge", "describe=same"], []])
def test_who_judges_hears_what_has_to_be_written_again(
    run: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert main(["verdict", str(run), *option]) == 0
    assert "decided before" not in capsys.readouterr().out
    for name in ("report.html", "exports"):
        (run / name).mkdir()
    assert main(["verdict", str(run), *option]) == 0
    told = capsys.readouterr().out
    assert ("report.html still says what was decided before: trialbench report DIR" in told) == bool(option)
    assert ("exports still says what was decided before: trialbench export DIR" in told) == bool(option)


def test_a_word_about_a_workload_replaces_what_the_review_said_of_it(run: Path, give: Give) -> None:
    give(run, answers(read(run / NAME), lambda at, work: "candidate"))
    found = decide_folder(run, judged={"describe": "worse"})
    assert (found["verdict"], list(found["facts"]["review"]["workloads"])) == ("REJECT", ["nav"])
    assert "describe better" not in " ".join([*found["reasons"], found["answer"]])
    assert decide_folder(run)["reasons"] == found["reasons"]


def test_a_play_after_a_review_tells_the_hook_what_was_decided(run: Path, give: Give) -> None:
    give(run, answers(read(run / NAME), lambda at, work: "candidate" if work == "describe" else "same"))
    # As harvest.yml decides again, and makes its words for the hook.
    assert main(["verdict", str(run)]) == 0
    words = yaml.safe_load((ROOT / "roles" / "verdict" / "vars" / "main.yml").read_text())["_verdict_told"]
    told = Template(words).render(_verdict_document=json.loads((run / "verdict.json").read_text()))
    assert told.startswith("ADOPT: fits: ")
    assert told.endswith("; describe judged better")


@pytest.mark.parametrize("pairs_left", [0, 1])
def test_a_review_that_shows_nothing_is_no_missing_one(run: Path, give: Give, pairs_left: int) -> None:
    """Who has judged all pairs is not sent to the page again."""
    said = answers(read(run / NAME), lambda at, work: "same")
    found = give(run, dict(list(said.items())[pairs_left:]))
    assert found["verdict"] == "PENDING_REVIEW"
    assert "not reviewed yet" not in found["answer"]
    assert "describe better or worse: not shown by " in found["answer"]
    page, summary = report_html(run), json.loads((run / "summary.json").read_text())
    assert "The blind review: not shown by " in page
    assert "Not judged yet" not in page
    assert ("Judge the replies without knowing" in page) == bool(pairs_left)
    assert any("judge blind" in step for step in summary["restore"]["next"]) == bool(pairs_left)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run": "another"}, ["expected judgments of the run", ONE, "found those of another", "folder of that run"]),
        ({"review": "f" * 16}, ["expected judgments of the review", "f" * 16, "another key", "beside the key"]),
        ({"judgments": []}, ["at least one judgment, found none", "judge the pairs"]),
        ({"judgments": [{"pair": "22", "answer": "same"}]}, ["judgments[0]", "a pair from 1 to 21", "'22'", "again"]),
        ({"judgments": [{"pair": "1", "answer": "same"}] * 2}, ["judgments[1]", "every pair once", "pair 1 again"]),
        ({"judgments": [{"pair": "1", "answer": "left"}]}, ["judgments[0].answer", "first", "'left'"]),
        ({"judgments": [{"pair": 1, "answer": "same"}]}, ["judgments[0].pair", "expected"]),
        ({"format": 2}, ["format", "expected"]),
        ({"reviewer": " "}, ["reviewer", "expected"]),
        ({"more": 1}, ["more"]),
    ],
)
def test_judgments_that_can_not_be_counted_are_refused_by_name(
    run: Path, give: Give, change: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    good = saved(run, {"1": "same"}, "good.json", reviewer="bob")
    bad = saved(run, {"1": "same"}, "bad.json", **change)
    assert main(["verdict", str(run), "--review", str(good), str(bad)]) == 2
    said = capsys.readouterr().err
    for word in [str(bad), *words]:
        assert word.replace("'", "") in said.replace("'", "").replace('"', "")
    # Nothing is half done.
    assert not (run / "verdict.json").exists()


@pytest.mark.parametrize(
    ("text", "words"), [("", ["is not JSON"]), ("{", ["is not JSON"]), ("[]", ["expected"]), (None, ["cannot be read"])]
)
def test_files_that_are_no_judgments_are_refused(
    run: Path, give: Give, text: str | None, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "other.json"
    if text is not None:
        path.write_text(text)
    assert main(["verdict", str(run), "--review", str(path)]) == 2
    said = capsys.readouterr().err
    for word in (str(path), *words):
        assert word in said


def test_a_reviewer_counts_once(run: Path, give: Give) -> None:
    files = [saved(run, {"1": answer}, f"{answer}.json") for answer in ("first", "second")]
    for twice in (files, [files[0], files[0]]):
        with pytest.raises(UsageError, match=r"one file of each reviewer, found 'ann' here and in .*first\.json"):
            decide_folder(run, judgments=twice)


@pytest.mark.parametrize("name", ["Ren\u00e9e Doe", "Rene\u0301e Doe", " ren\u00e9e  DOE", "Ren\u00e9e\u00a0Doe"])
def test_a_reviewer_counts_once_however_the_name_is_spelled(run: Path, give: Give, name: str) -> None:
    files = [
        saved(run, {"1": "first"}, "one.json", reviewer="Ren\u00e9e Doe"),
        saved(run, {"1": "first"}, "two.json", reviewer=name),
    ]
    with pytest.raises(UsageError, match="one file of each reviewer"):
        decide_folder(run, judgments=files)


@pytest.mark.prove
def test_judgments_need_their_key(run: Path, give: Give) -> None:
    path = saved(run, {"1": "same"})
    key = (run / NAME).read_text()
    (run / NAME).unlink()
    with pytest.raises(UsageError, match=r"review-key\.json: expected the key .* found none: `trialbench report DIR`"):
        decide_folder(run, judgments=[path])
    (run / NAME).write_text(key)
    samples = run / "samples" / "describe-candidate.jsonl"
    samples.write_text(samples.read_text().replace("Number 9", "Number nine"))
    with pytest.raises(UsageError, match="found that of others: they changed after the page was made"):
        decide_folder(run, judgments=[path])
    write_review(run)
    with pytest.raises(UsageError, match="the replies have changed since"):
        decide_folder(run, judgments=[path])


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key["pairs"][0].update(workload="other"),
        lambda key: key["pairs"][0].update(scene="other"),
        lambda key: key["pairs"][0].update(id="2"),
        lambda key: key["identical"].append({name: key["pairs"].pop()[name] for name in key["identical"][0]}),
    ],
)
def test_a_key_that_somebody_changed_is_none(run: Path, give: Give, change: Callable[[Any], object]) -> None:
    path, document = saved(run, {"1": "same"}), json.loads((run / NAME).read_text())
    document["identical"] = document["identical"] or [{"workload": "", "scene": None, "sha256": "0" * 64}]
    change(document)
    (run / NAME).write_text(json.dumps(document))
    with pytest.raises(UsageError, match="expected the key of this run's replies, found that of others"):
        decide_folder(run, judgments=[path])


def test_one_judgment_of_a_workload_is_enough(run: Path, give: Give) -> None:
    with pytest.raises(UsageError, match="--judge describe=better: expected one judgment of describe, found --review"):
        decide_folder(run, judged={"describe": "better"}, judgments=[saved(run, {"1": "same"})])


def test_what_a_key_says_is_by_its_replies(run: Path, give: Give) -> None:
    key = read(run / NAME)
    mirrored = replace(
        key,
        pairs=tuple(replace(one, first="candidate" if one.first == "baseline" else "baseline") for one in key.pairs),
    )
    said = answers(key, lambda at, work: "candidate")
    assert answers(mirrored, lambda at, work: "baseline") == said
    found = review(read_run(run), [saved(run, said)])
    assert found.workloads["describe"].finding == "better"
