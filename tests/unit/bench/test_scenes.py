"""Scenes: distinct questions that samples ask in turns, in the same order for every model."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from published import accept
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.measure.request import fingerprint
from trialbench.measure.session import run_session
from trialbench.report.compare import compare_table
from trialbench.report.decide import decide_folder
from trialbench.report.export import write_exports
from trialbench.report.html.report import report_html
from trialbench.report.summary import write_summary
from trialbench.report.table import folder_table
from trialbench.workloads import Workload, load_workload
from trialbench.workloads.parsers import Calls, Contract, Fits, Matches, OwnParser, Words
from trialbench.workloads.scenes import meaning

PNG = b"\x89PNG\r\n\x1a\n"
WORKLOAD: dict[str, Any] = {
    "name": "where",
    "messages": [{"role": "user", "content": [{"image": True}, {"text": "{{ goal }}?"}]}],
    "variables": {"goal": "something"},
    "limits": {"max_tokens": 5},
    "contract": {"words": [["left", "right"], ["small", "large"]]},
}
SCENES: list[dict[str, Any]] = [
    {"id": "ball", "image": "ball.png", "expected": "left large", "group": "near"},
    {"id": "cup", "image": "cup.png", "variables": {"goal": "a cup"}, "expected": "right *"},
    {"id": "door"},
]
TABLE = (
    "\ufeffid,image,goal,expected,group\n"
    "ball,ball.png,something,left large,near\n"
    "cup,cup.png,a cup,right *,\n"
    "door,,something,,\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ball", "cup", "car-view"):
        (tmp_path / f"{name}.png").write_bytes(PNG + name.encode())
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def loaded(folder: Path, document: dict[str, Any], scenes: Path | None = None) -> Workload:
    path = write(folder, "where.json", json.dumps(document))
    return load_workload(str(path), image=folder / "car-view.png", scenes_file=scenes)


def asked(work: Workload) -> list[tuple[str, str]]:
    """Of each scene the end of its picture, and its text."""
    parts = [scene.messages[0]["content"] for scene in work.scenes]
    return [(picture["image_url"]["url"][-8:], text["text"]) for picture, text in parts]


def test_scenes_of_every_form_are_the_same(folder: Path) -> None:
    accept(SCENES, "scenes")
    inline = loaded(folder, WORKLOAD | {"scenes": SCENES})
    write(folder, "scenes.csv", TABLE)
    write(folder, "scenes.json", json.dumps(SCENES))
    write(folder, "scenes.yml", "\n".join(f"- {json.dumps(scene)}" for scene in SCENES))
    pictures = [url for url, _ in asked(inline)]
    assert len(set(pictures)) == 3
    assert [text for _, text in asked(inline)] == ["something?", "a cup?", "something?"]
    assert [(scene.id, scene.expected, scene.group) for scene in inline.scenes] == [
        ("ball", ("left", "large"), "near"),
        ("cup", ("right", "*"), None),
        ("door", None, None),
    ]
    assert inline.messages == inline.scenes[0].messages
    for name in ("scenes.csv", "scenes.json", "scenes.yml"):
        for other in (loaded(folder, WORKLOAD | {"scenes": name}), loaded(folder, WORKLOAD, folder / name)):
            assert asked(other) == asked(inline)
            assert [scene.expected for scene in other.scenes] == [scene.expected for scene in inline.scenes]


def test_a_workload_without_scenes_has_none(folder: Path) -> None:
    assert loaded(folder, WORKLOAD).scenes == ()


def test_text_alone_needs_no_picture(folder: Path) -> None:
    document = WORKLOAD | {"messages": [{"role": "user", "content": "{{ goal }}?"}], "variables": {"goal": None}}
    scenes = [{"id": name, "variables": {"goal": name}} for name in "ab"]
    work = load_workload(str(write(folder, "text.json", json.dumps(document | {"scenes": scenes}))))
    assert [scene.messages[0]["content"] for scene in work.scenes] == ["a?", "b?"]


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        ([], ["scenes", "at least 1"]),
        ([{"image": "ball.png"}], ["[0]", "a key 'id'"]),
        ([{"id": "a b"}], ["[0].id", "text like"]),
        ([{"id": "a"}, {"id": "a", "image": "cup.png"}], ["every scene's id once", "twice: a"]),
        ([{"id": "a", "image": "none.png"}], ["none.png", "cannot be read"]),
        ([{"id": "a"}, {"id": "b"}], ["the same question in a and b"]),
        ([{"id": "a", "variables": {"gaol": "x"}}], ["gaol, which no message uses"]),
        (
            [{"id": "a", "expected": "up large"}],
            ["scene a: expected", "keeps the contract exactly", "(one of left, ", "'up large'"],
        ),
        ([{"id": "a", "expected": "left"}], ["keeps the contract exactly"]),
        ("none.csv", ["none.csv", "cannot be read"]),
        ("bad.csv", ["bad.csv:3", "expected 2 cells"]),
        ("empty.csv", ["at least 1 entries"]),
        ("semicolons.csv", ["columns between commas", "'id;image'"]),
        ("twice.csv", ["each once", "'id, expected, expected'"]),
        ("itself.yml", ["itself.yml", "one that is within itself"]),
    ],
)
def test_scenes_that_can_not_be_asked_are_refused(folder: Path, scenes: Any, words: list[str]) -> None:
    write(folder, "bad.csv", "id,image\na,ball.png\nb,cup.png,x\n")
    write(folder, "empty.csv", "id,image\n")
    write(folder, "semicolons.csv", "id;image\na;ball.png\n")
    write(folder, "twice.csv", "id,expected,expected\na,left large,right large\n")
    write(folder, "itself.yml", "- &a {id: a, expected: {x: *a}}\n")
    with pytest.raises(UsageError) as caught:
        loaded(folder, WORKLOAD | {"scenes": scenes})
    for word in words:
        assert word in str(caught.value)


GO = {"type": "object", "required": ["go"], "properties": {"go": {"type": "string"}}}


@pytest.mark.parametrize(
    ("label", "contract", "expected"),
    [
        ("left large", Words((("left",), ("large",))), ("left", "large")),
        ("* large", Words((("left",), ("large",))), ("*", "large")),
        ({"go": "left"}, Fits(GO), ('{"go":"left"}',)),
        ('{ "go": "left" }', Fits(GO), ('{"go":"left"}',)),
        (3, Fits({"type": "integer"}), ("3",)),
        (3.0, Fits({"type": "integer"}), ("3",)),
        ("left", Fits({"enum": ["left"]}), ('"left"',)),
        ('"left"', Fits({"enum": ["left"]}), ('"left"',)),
        ("3", Fits({"type": "string"}), ('"3"',)),
        ({"go": "left"}, Calls("drive", GO), ("drive", '{"go":"left"}')),
        ("go 3 m", Matches(re.compile(r"go (\d) m")), ("3",)),
        ("x", OwnParser("own", lambda text: text.upper()), ("X",)),
        (None, None, None),
    ],
)
def test_a_right_answer_is_read_as_a_reply_is(
    label: object, contract: Contract | None, expected: tuple[str, ...] | None
) -> None:
    assert meaning(label, contract, "here") == expected


@pytest.mark.parametrize(
    ("label", "contract", "words"),
    [
        ("left", None, "expected no right answer without a contract"),
        (True, Words((("yes", "no"),)), "found 'True', a truth value as YAML reads it: quote the word"),
        ({"day": datetime.date(2026, 1, 2)}, Fits({"type": "object"}), "expected a value that JSON can hold"),
        ("no", Fits({"const": datetime.date(2026, 1, 2)}), 'JSON that fits {"const": "2026-01-02"}'),
        ({}, Calls("book", {"enum": [datetime.date(2026, 1, 2)]}), 'book that fit {"enum": \\["2026-01-02"\\]}'),
    ],
)
def test_an_answer_that_no_reply_can_give_is_refused(label: object, contract: Contract | None, words: str) -> None:
    with pytest.raises(UsageError, match=f"here: .*{words}"):
        meaning(label, contract, "here")


def session(server: Any, folder: Path, segments: list[dict[str, Any]]) -> Path:
    scenes, work = write(folder, "scenes.json", json.dumps(SCENES)), write(folder, "where.json", json.dumps(WORKLOAD))
    document = {
        "url": server.url,
        "out_dir": str(folder),
        "image": "car-view.png",
        "segments": [{"workload": work.name, "scenes": scenes.name, **segment} for segment in segments],
    }
    return write(folder, "session.json", json.dumps(document))


class Quiet:
    def __getattr__(self, _name: str) -> Any:
        return lambda *_args: None


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_samples_ask_the_scenes_in_turns_and_name_them(server: Any, folder: Path) -> None:
    segments = [
        {"id": "where-baseline-a1", "n": 5, "warmup": 1},
        {"id": "where-candidate", "n": 7},
        {"id": "where-candidate-cached", "n": 2, "cache_prompt": True},
    ]
    assert run_session(session(server, folder, segments), Quiet()) == 0
    first, second, cached = (lines(folder / f"{one['id']}.jsonl") for one in segments)
    turns = ["ball", "cup", "door"] * 3
    assert [line["scene"] for line in first] == turns[:5]
    assert [line["scene"] for line in second] == turns[:7]
    # Another question each time would leave the cache nothing to reuse.
    assert [line["scene"] for line in cached] == ["ball", "ball"]
    sent = [json.dumps(body["messages"]) for body in server.bodies]
    assert len(set(sent)) == 3
    assert sent[:6] == [sent[0], *(sent[0], sent[2], sent[3]), *(sent[0], sent[2])]
    assert [(line["expected"], line["group"]) for line in first[:3]] == [
        (["left", "large"], "near"),
        (["right", "*"], None),
        (None, None),
    ]
    for line in [*first, *second, *cached]:
        accept(line, "sample")
    summary = json.loads((folder / "summary-where-baseline-a1.json").read_text(encoding="utf-8"))
    accept(summary, "summary")
    found = summary["segments"]["where-candidate"]
    assert found["questions"] == {"asked": 3, "repeats": 3, "distinct_replies": 1, "repeatability": 1.0}
    # The same questions in the same order have the same hashes, whatever their number of samples.
    assert found["request"] == summary["segments"]["where-baseline-a1"]["request"] | {"models": []}


def test_the_hash_of_one_request_is_its_own() -> None:
    one, other = (json.dumps({"messages": [{"role": "user", "content": text}]}).encode() for text in "ab")
    assert fingerprint([one]) != fingerprint([other])
    assert fingerprint([one, other]) != fingerprint([other, one])
    assert fingerprint([one, other])["image_sha256"] is None


def test_run_asks_the_scenes_of_a_file(server: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "scenes.csv", TABLE)
    work = write(folder, "where.json", json.dumps(WORKLOAD))
    common = ["run", "--url", server.url, "--workload", str(work), "--image", str(folder / "car-view.png")]
    assert main([*common, "-n", "6", "--scenes", str(folder / "scenes.csv"), "--out", str(folder / "out.jsonl")]) == 0
    assert [line["scene"] for line in lines(folder / "out.jsonl")] == ["ball", "cup", "door"] * 2
    shown = capsys.readouterr().out
    assert " 3 " in shown.split("questions")[1]


@pytest.mark.parametrize(
    ("words", "right"),
    [(["left", "large"], True), (["left", "small"], False), (["right", "large"], False), (None, False)],
)
def test_a_reply_is_right_by_its_words(words: list[str] | None, right: bool) -> None:
    from sample_lines import made

    strategy = 1 if words else None
    found = made(1, 0.0, parsed=words, strategy=strategy, expected=["left", "large"])
    assert found.right is right
    assert made(1, 0.0, parsed=words, strategy=strategy, expected=["left", "*"]).right is (
        words is not None and words[0] == "left"
    )
    assert made(1, 0.0, parsed=words, strategy=strategy).right is None
    # Not in a form that production could use, or cut, or failed.
    assert made(1, 0.0, parsed=words, strategy=3, expected=["left", "large"]).right is False
    assert (
        made(1, 0.0, parsed=words, strategy=strategy, expected=["left", "large"], finish_reason="length").right is False
    )


# What a trial of one question, and one of several, say in every output.


def outputs(run: Path) -> dict[str, str]:
    """Every output about a run, by name."""
    decide_folder(run)
    found = {path.name: path.read_text(encoding="utf-8") for path in (write_summary(run), *write_exports(run))}
    found["verdict.json"] = (run / "verdict.json").read_text(encoding="utf-8")
    found["show"] = " ".join(folder_table(run).split())
    found["compare"] = compare_table([run])
    found["report.html"] = report_html(run)
    return found


def test_one_question_proves_nothing_in_any_output(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    found = outputs(run)
    for name, text in found.items():
        assert not re.search(r"\bproved\b|\brefuted\b|would decide", text), name
    told = "one question asked 100 times; says nothing about other pictures"
    assert [name for name in ("verdict.json", "show", "report.html") if told not in found[name]] == []
    assert "100/100, 1 question" in found["compare"]
    assert "Answers by scene" not in found["show"]
    assert json.loads(found["summary.json"])["correctness"] is None


def with_scenes(run: Path) -> Path:
    """Twenty scenes, asked in turns; the candidate is wrong in two of them, the baseline in one."""
    for path in (run / "samples").glob("*.jsonl"):
        rows = lines(path)
        for at, line in enumerate(rows):
            scene = at % 20
            line["scene"], line["group"] = f"s{scene}", "near" if scene < 5 else "far"
            if path.stem.startswith("nav-"):
                line["expected"] = line["parsed"]
                wrong = {"nav-candidate": (1, 2), "nav-baseline-a1": (7,), "nav-baseline-a2": (7,)}.get(path.stem, ())
                if scene in wrong:
                    line["parsed"] = ["forward", "small"]
        path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return run


@pytest.mark.prove
def test_several_questions_are_told_in_every_output(folders: ModuleType, tmp_path: Path) -> None:
    run = with_scenes(folders.finished(tmp_path / "run"))
    found = outputs(run)
    summary = json.loads(found["summary.json"])
    accept(summary, "summary")
    asked = summary["segments"]["nav-candidate"]["questions"]
    assert (asked["asked"], asked["repeats"]) == (20, 5)
    correct = summary["correctness"]
    assert (correct["scenes"], correct["agree"]) == (20, 17)
    assert correct["labeled"]["all"] | {"p": 1} == {
        "scenes": 20, "candidate": 18, "baseline": 19, "wins": 1, "losses": 2, "p": 1,
    }  # fmt: skip
    assert set(correct["labeled"]["groups"]) == {"near", "far"}
    # Repeats are identical, so they are worth twenty questions, which prove no 95 %.
    assert "not proved by 20 questions" in found["verdict.json"]
    assert "59 at this share would decide" in found["verdict.json"]
    sentence = "right in 18 of 20 scenes, the baseline in 19: not shown (1 win, 2 losses"
    for name in ("summary.json", "verdict.json", "show", "report.html"):
        assert sentence in found[name], name
    assert "Answers by scene" in found["show"]
    assert "inputs/scenes" in found["report.html"]
    assert "100/100, 20 questions" in found["compare"]
    assert "s19" in found["samples.csv"]


def test_a_gate_of_right_answers_is_on_record(folders: ModuleType, tmp_path: Path) -> None:
    run = with_scenes(folders.finished(tmp_path / "run"))
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8")) | {"accuracy_not_worse_by": 3}
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    decided = decide_folder(run, judged={"describe": "better"})
    accept(decided, "verdict")
    assert decided["verdict"] == "INCONCLUSIVE"
    assert decided["reasons"][0].startswith(
        "right at most 3 points less often than the baseline: not shown (18 against 19"
    )
    write_exports(run)
    assert 'name="accuracy"' in (run / "exports" / "junit.xml").read_text(encoding="utf-8")
