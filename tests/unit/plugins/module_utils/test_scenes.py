# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenes of a host: which pictures are drawn, what a table says about them, and what is asked."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import scenes
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Scenes

# Start, size (640 x 480), start of the picture, one byte of it, end.
JPEG = (
    b"\xff\xd8\xff\xc0\x00\x0b\x08\x01\xe0\x02\x80\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00\xff\xd9"
)
CALL = 'build_vlm_prompt(goal="something interesting")'


def picture(at: int) -> bytes:
    """One that differs from the others."""
    return JPEG[:-3] + bytes([at]) + JPEG[-2:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at in range(1, 6):
        (tmp_path / f"view {at}.jpg").write_bytes(picture(at))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def found(folder: Path, table: str | None = None, **changes: Any) -> list[scenes.Scene]:
    if table is not None:
        (folder / "labels.csv").write_text(table, encoding="utf-8")
        changes["labels"] = "labels.csv"
    return scenes.find(Scenes(str(folder), **changes), folder)


def test_the_seed_draws_the_scenes_and_their_order(folder: Path) -> None:
    names = [scene.id for scene in found(folder)]
    assert sorted(names) == [f"view-{at}" for at in range(1, 6)]
    assert names == [scene.id for scene in found(folder)]
    assert {tuple(scene.id for scene in found(folder, seed=seed)) for seed in range(8)} != {tuple(names)}
    # Fewer are the first ones of them.
    assert [scene.id for scene in found(folder, limit=3)] == names[:3]


def test_a_table_tells_what_the_pictures_are(folder: Path) -> None:
    table = (
        "\ufeffimage,id,goal,m,expected,group\nview 1.jpg,ball,a ball,3,left large,near\nview 1.jpg,cup,'a cup',,,\n"
    )
    told = {scene.id: scene for scene in found(folder, table)}
    assert len(told) == 6, "pictures without a row are scenes, too"
    ball, cup, other = told["ball"], told["cup"], told["view-2"]
    assert (ball.arguments, ball.expected, ball.group) == ({"goal": "a ball", "m": 3}, "left large", "near")
    assert (cup.arguments, cup.expected, cup.image) == ({"goal": "a cup"}, "", ball.image)
    assert (other.arguments, other.expected) == ({}, "")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "expected a column image with file names, found nothing"),
        ("picture\nx\n", "expected a column image with file names, found picture"),
        ("image,the goal\nview 1.jpg,x\n", "arguments of the prompt function, found 'the goal'"),
        ("image,class\nview 1.jpg,x\n", "arguments of the prompt function, found 'class'"),
        ("image,Expected\nview 1.jpg,x\n", "arguments of the prompt function, found 'Expected'"),
        ("image,goal,goal\nview 1.jpg,x,y\n", "every column once, found 'goal' again"),
        ("image;goal\nview 1.jpg;x\n", "a column image with file names, found image;goal"),
        (
            "image\nview 9.jpg\n",
            "labels.csv:2: expected a picture of its folder that fits the pattern, found 'view 9.jpg'",
        ),
        ("image\n../view 1.jpg\n", "found '../view 1.jpg'"),
        ("image\nnotes.txt\n", "found 'notes.txt'"),
        ("image,expected\nview 1.jpg\n", "labels.csv:2: expected 2 cells"),
        ("image,id\nview 1.jpg,a b\n", "found 'a b'"),
        ("image\nview 1.jpg\nview 1.jpg\n", "found twice: view-1; give each row an id"),
        ('image\n"view 1.jpg\n', "is not CSV"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folder: Path, table: str, words: str) -> None:
    with pytest.raises(scenes.ScenesError) as caught:
        found(folder, table)
    assert words in str(caught.value)


def test_a_table_that_is_no_text(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(b"image\n\xff\n")
    with pytest.raises(scenes.ScenesError, match="expected UTF-8"):
        found(folder, labels="labels.csv")


def test_a_name_with_accents_is_found_in_either_spelling(folder: Path) -> None:
    (folder / "tu\u0308r.jpg").write_bytes(picture(6))
    told = {scene.id: scene.expected for scene in found(folder, "image,id,expected\nt\u00fcr.jpg,door,left large\n")}
    assert told["door"] == "left large"
    assert len(told) == 6


def test_the_table_is_no_picture(folder: Path) -> None:
    (folder / "notes.txt").unlink()
    assert len(scenes.check(found(folder, "image\nview 1.jpg\n", pattern="*"))) == 5


def test_one_picture_is_no_scenes(folder: Path) -> None:
    with pytest.raises(scenes.ScenesError, match=r"at least two pictures like view 1\.jpg, found 1"):
        found(folder, pattern="view 1.jpg")
    with pytest.raises(scenes.ScenesError, match="No such file"):
        scenes.find(Scenes("/none"), Path("/none"))


def test_a_link_is_no_picture(folder: Path) -> None:
    """Root copies the pictures: a link could lead to what their owner may not read."""
    (folder / "link.jpg").symlink_to("view 1.jpg")
    (folder / "folder.jpg").mkdir()
    assert len(found(folder)) == 5


def test_every_picture_is_looked_at(folder: Path) -> None:
    assert {(one.width, one.height) for one in scenes.check(found(folder))} == {(640, 480)}
    (folder / "view 3.jpg").write_bytes(JPEG[:-2])
    with pytest.raises(scenes.ScenesError, match=r"view 3\.jpg: the JPEG has no end"):
        scenes.check(found(folder))


def test_one_question_is_no_two_scenes(folder: Path) -> None:
    """A picture under two names, say; with other arguments it is another question."""
    (folder / "view 2.jpg").write_bytes(picture(1))
    with pytest.raises(scenes.ScenesError, match=r"the same picture and arguments in view-[12] and view-[12]"):
        scenes.check(found(folder))
    assert len(scenes.check(found(folder, "image,goal\nview 2.jpg,a cup\n"))) == 5


def test_pictures_that_no_session_can_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "MAX_BYTES", 4 * len(JPEG))
    with pytest.raises(scenes.ScenesError, match="fewer or smaller ones fit"):
        scenes.check(found(folder))


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, CALL),
        ({"goal": "a cup"}, "build_vlm_prompt(goal='a cup')"),
        ({"m": 3}, "build_vlm_prompt(goal='something interesting', m=3)"),
        # A cell can be no code.
        ({"goal": "x') or open('/etc/passwd').read() or ('"}, None),
    ],
)
def test_the_call_has_the_scenes_arguments(arguments: dict[str, Any], asked: str | None) -> None:
    text = scenes.call(CALL, arguments)
    assert asked is None or text == asked
    parsed = ast.parse(text, mode="eval").body
    assert isinstance(parsed, ast.Call)
    assert {word.arg: ast.literal_eval(word.value) for word in parsed.keywords} == {
        "goal": "something interesting"
    } | arguments


@pytest.mark.parametrize("own", ["1 + 1", "f(", "f"])
def test_what_is_no_call_takes_no_arguments(own: str) -> None:
    with pytest.raises(scenes.ScenesError, match="expected one call"):
        scenes.call(own, {"goal": "x"})


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("3", 3), ("0.5", 0.5), ("True", True), ("None", None), ("'3'", "3"), ("a ball", "a ball"), ("[1]", "[1]"),
        ("f(x)", "f(x)"), ("(" * 500, "(" * 500), (" 3 ", 3), ("1e400", "1e400"), ("-1e400", "-1e400"), ("nan", "nan"),
    ],
)  # fmt: skip
def test_cells_are_literals_or_texts(cell: str, value: object) -> None:
    assert scenes._literal(cell) == value
