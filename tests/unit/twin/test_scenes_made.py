"""The twin's labeled scenes: made by their script, small, usable as its inventory names them, asked by production.

What the models say of them is in tests/twin/golden.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.edgelab.model_trial.plugins.module_utils import pictures, production, scenes
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Scenes
from by_path import load
from trialbench.workloads import load_workload
from trialbench.workloads.prompt import evaluate_prompt

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "tests" / "fixtures" / "models"
FOLDER = MODELS / "scenes"
SERVER = ROOT / "images" / "twin" / "her-os" / "services" / "panda_nav" / "server.py"
MAX_BYTES = 400_000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load(MODELS / "make_scenes.py")


@pytest.fixture(scope="module")
def inventory() -> dict[str, Any]:
    path = ROOT / "playbooks" / "twin" / "group_vars" / "trial_hosts" / "host.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def drawn(inventory: dict[str, Any]) -> list[scenes.Scene]:
    """The scenes of a trial on the twin, in their order."""
    wanted = inventory["trial_scenes"]
    assert wanted["folder"] == "{{ trial_home }}/scenes"
    return scenes.find(Scenes(**{**wanted, "folder": str(FOLDER)}), FOLDER)


@pytest.mark.prove
def test_the_script_makes_the_very_files(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "left-over.png").touch()
    assert script.main(["--out", str(tmp_path)]) == 0
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert sorted(made) == sorted(kept)
    assert [name for name in made if made[name] != kept[name]] == []
    assert sum(map(len, kept.values())) <= MAX_BYTES


def test_another_seed_makes_others(script: ModuleType) -> None:
    first, other = script.make(1, 1), script.make(2, 1)
    assert sorted(first) == sorted(other)
    # What is right takes turns, whatever the seed.
    assert [name for name in first if first[name] == other[name]] == ["labels.csv"]


def test_each_group_has_as_many_and_every_answer_occurs(script: ModuleType) -> None:
    rows = list(csv.DictReader(io.StringIO((FOLDER / "labels.csv").read_text(encoding="utf-8"), newline="")))
    assert Counter(row["group"] for row in rows) == dict.fromkeys(script.GROUPS, script.EACH)
    first, second = zip(*(row["expected"].split() for row in rows), strict=True)
    assert (set(first), set(second)) == (set(script.DIRECTIONS), set(script.SIZES))
    assert {row["goal"] for row in rows} == set(script.GOALS)


def test_pictures_are_whole_and_as_large_as_the_models_look(script: ModuleType) -> None:
    for path in FOLDER.glob("*.png"):
        raw = path.read_bytes()
        assert pictures.parse(raw) == pictures.Picture("PNG", script.SIDE, script.SIDE)
        # Every row is there: one byte for its filter, and a byte for two pixels.
        at = raw.index(b"IDAT")
        body = raw[at + 4 : at + 4 + int.from_bytes(raw[at - 4 : at], "big")]
        assert len(zlib.decompress(body)) == script.SIDE * (1 + script.SIDE // 2)


@pytest.mark.parametrize(
    ("x", "half", "move"),
    [
        (0.1, 0.08, "left small"),
        (0.33, 0.16, "left medium"),
        (0.34, 0.3, "forward large"),
        (0.66, 0.124, "forward small"),
        (0.67, 0.126, "right medium"),
        (0.9, 0.226, "right large"),
    ],
)
def test_what_is_right_follows_from_the_drawing(script: ModuleType, x: float, half: float, move: str) -> None:
    assert script.Thing(x, 0.5, half, (255, 255, 255), False).move == move


def test_the_inventory_draws_them_all_and_contract_10_takes_them(drawn: list[scenes.Scene]) -> None:
    assert len(drawn) == len({scene.id for scene in drawn}) == 40
    assert all(scene.expected and scene.group for scene in drawn)
    scenes.check(drawn)


def test_the_first_one_shows_a_violating_model_for_what_it_is(drawn: list[scenes.Scene]) -> None:
    """The smoke test asks the first scene alone, and that model leaves the size out for medium things only."""
    assert drawn[0].group == "clear"
    assert drawn[0].expected.endswith(" medium")


def test_production_asks_about_each_with_its_own_goal(
    drawn: list[scenes.Scene], inventory: dict[str, Any], tmp_path: Path
) -> None:
    prompt = inventory["trial_contracts"]["prompt"]
    source = tmp_path / "prompt_source.py"
    source.write_bytes(production.extract(SERVER, prompt["function"]).encode())
    calls = {scene.id: scenes.call(prompt["call"], scene.arguments) for scene in drawn}
    asked = {call: evaluate_prompt(source, call) for call in set(calls.values())}
    assert len(asked) == len(set(asked.values())) == 4
    rows = [
        {
            "id": scene.id,
            "image": str(scene.image),
            "expected": scene.expected,
            "group": scene.group,
            "variables": {"prompt": asked[calls[scene.id]]},
        }
        for scene in drawn
    ]
    listed = tmp_path / "scenes.yml"
    listed.write_text(yaml.safe_dump(rows), encoding="utf-8")
    work = load_workload("nav", settings={"prompt": "none"}, image=drawn[0].image, base=tmp_path, scenes_file=listed)
    assert [scene.id for scene in work.scenes] == [scene.id for scene in drawn]
    for scene, one in zip(work.scenes, drawn, strict=True):
        assert scene.expected == tuple(one.expected.split())
        assert f"Goal: {one.arguments['goal']}\n" in str(scene.messages[0]["content"][1]["text"])
    digests = {hashlib.sha256(str(scene.messages).encode()).hexdigest() for scene in work.scenes}
    assert len(digests) == 40
