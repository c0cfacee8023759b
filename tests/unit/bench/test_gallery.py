"""Where the models differ: a card for each scene, with both replies, and no text of a stranger that acts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trialbench.report.html import gallery as room
from trialbench.report.html.gallery import Gallery, gallery
from trialbench.report.html.report import report_html
from trialbench.report.html.thumbnail import Thumbnail
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run

RTL = "\u05e9\u05dc\u05d5\u05dd \u202eevil"


def built(run: Path) -> Gallery:
    read = read_run(run)
    found = gallery(read, summarize_run(read))
    assert found is not None
    return found


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller without Pillow."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)


def change(run: Path, **texts: Any) -> None:
    """Let the candidate say something else in the scenes in which it is wrong or alone."""
    path = run / "samples" / "nav-candidate.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line | texts if line["parsed"] != ["left", "large"] else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.usefixtures("without")
def test_both_replies_stand_beside_the_expected_one(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Commands in the report name the folder as it is seen from here.
    monkeypatch.chdir(tmp_path)
    run = folders.scenes(tmp_path / "run")
    found = built(run)
    assert [card.scene for card in found.cards] == [f"scene-{at:02d}" for at in (2, 5, 11, 17, 23, 31)]
    neither, won, *_rest, lost = found.cards
    assert (neither.baseline.text, neither.candidate.text) == ("center large", "right large")
    assert (neither.baseline.right, neither.candidate.right, neither.expected) == (False, False, "left large")
    assert (won.baseline.right, won.candidate.right) == (False, True)
    assert (lost.baseline.right, lost.candidate.right) == (True, False)
    page = report_html(run)
    assert page.count('<ul class="gallery">') == 1
    assert '<a href="#differ">' in page
    # No path of this machine, and none of the host.
    assert str(tmp_path) not in page
    assert "scenes/scene-" not in page


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(
    ("words", "told", "right"),
    [
        (["left", "left", "right"], "2 of 3 replies", True),
        # The right answer comes first among equals, and is not that of most.
        (["left", "right", "center"], "1 of 3 replies", False),
        (["right", "left", "right"], "2 of 3 replies", False),
        (["left"] * 3, "", True),
    ],
)
def test_replies_that_vary_are_counted(
    folders: ModuleType, tmp_path: Path, words: list[str], told: str, right: bool
) -> None:
    run = folders.varied(tmp_path / "run")
    for name, said in {"candidate": words, "baseline-a1": ["up"] * 3}.items():
        path, left = run / "samples" / f"nav-{name}.jsonl", list(said)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["scene"] == "scene-01":
                word = left.pop(0)
                line.update(parsed=[word, "large"], content=f"{word} large")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = next(card for card in built(run).cards if card.scene == "scene-01")
    assert (card.candidate.text, card.candidate.right) == (f"{max(words, key=words.count)} large", right)
    section = report_html(run).partition("<h3>scene-01</h3>")[2].partition("</li>")[0]
    assert section.count(" replies</p>") == bool(told)
    assert told in section


@pytest.mark.usefixtures("without")
def test_without_pillow_scenes_are_named_and_the_page_says_why(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.scenes(tmp_path / "run")
    (run / "inputs" / "scenes").mkdir()
    found = built(run)
    assert all(card.picture is None for card in found.cards)
    assert "pip install" in found.hint
    assert "small pictures need Pillow" in report_html(run)
    # Text alone needs no pictures, so nothing is missing.
    (run / "inputs" / "scenes.json").unlink()
    assert built(run).hint == ""


def test_a_picture_that_is_not_there_leaves_its_scene(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(room, "available", lambda: True)
    monkeypatch.setattr(room, "thumbnail", lambda path: (seen.append(path), Thumbnail(why="not there"))[1])
    run = folders.scenes(tmp_path / "run")
    page = report_html(run)
    assert page.count("not there") == 6
    assert [path.relative_to(run).as_posix() for path in seen][:2] == [
        "inputs/scenes/scene-02.jpg",
        "inputs/scenes/scene-05.jpg",
    ]


@pytest.mark.parametrize("image", ["../plan.json", "/etc/passwd", "scenes/../x.jpg", "scenes/..", "other/x.jpg", "x"])
def test_no_name_leads_out_of_the_folder_of_the_pictures(folders: ModuleType, tmp_path: Path, image: str) -> None:
    run = folders.scenes(tmp_path / "run")
    (run / "inputs" / "scenes.json").write_text(json.dumps([{"id": "scene-02", "image": image}]))
    assert read_run(run).pictures == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '[{"id": 1}]', '{"id": "x"}', "null"])
def test_a_list_of_scenes_that_is_none_is_reported_and_the_rest_is_shown(
    folders: ModuleType, tmp_path: Path, text: str
) -> None:
    run = folders.scenes(tmp_path / "run")
    (run / "inputs" / "scenes.json").write_text(text)
    read = read_run(run)
    assert read.pictures == {}
    assert any("inputs/scenes.json" in one for one in read.unread)
    assert len(built(run).cards) == 6


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(
    ("texts", "there", "gone"),
    [
        ({"content": "<script>alert(1)</script>", "strategy": None}, "&lt;script&gt;alert(1)", "<script>alert"),
        ({"content": RTL, "strategy": None}, "\\u202eevil", "\u202e"),
        ({"content": "word " * 5000, "strategy": None}, "more characters</summary>", "word " * 2000),
        ({"content": "", "ok": False, "error_class": "empty", "strategy": None}, "empty: no valid reply", "\0"),
        ({"content": "left", "finish_reason": "length"}, "cut by max_tokens", "\0"),
        ({"content": "a shrug", "strategy": 3}, "not by the contract", "\0"),
    ],
)
def test_what_models_reply_is_text(
    folders: ModuleType, tmp_path: Path, texts: dict[str, Any], there: str, gone: str
) -> None:
    run = folders.scenes(tmp_path / "run")
    change(run, **texts)
    section = report_html(run).partition('<ul class="gallery">')[2].partition("</ul>")[0]
    assert there in section
    assert gone not in section


@pytest.mark.prove
@pytest.mark.usefixtures("without")
def test_of_hundreds_of_disagreements_the_first_are_shown(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST", 2)
    run = folders.scenes(tmp_path / "run")
    found = built(run)
    assert (len(found.cards), found.hidden) == (2, 4)
    assert "4 more in summary.json" in report_html(run)


@pytest.mark.usefixtures("without")
def test_one_question_has_no_gallery(folders: ModuleType, tmp_path: Path) -> None:
    run = read_run(folders.completed(tmp_path / "run"))
    assert gallery(run, summarize_run(run)) is None


@pytest.mark.usefixtures("without")
def test_cards_show_the_replies_that_count(folders: ModuleType, tmp_path: Path) -> None:
    """The baseline was asked twice as often; its further replies are no part of the comparison."""
    card = next(one for one in built(folders.varied(tmp_path / "run")).cards if one.scene == "scene-01")
    assert (card.baseline.text, card.baseline.right) == ("left large", True)
    assert (card.candidate.text, card.candidate.right) == ("right large", False)
