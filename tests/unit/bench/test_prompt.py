"""Production's prompt, run from an extracted source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.workloads.prompt import evaluate_prompt

SOURCE = """\
WORDS = ("left", "right")


def build_vlm_prompt(goal: str, times: int = 1) -> str:
    return f"Goal: {goal}\\n{', '.join(WORDS)}\\n" * times


def helpless() -> str:
    return MISSING


def odd() -> str:
    return "\\ufeff\\r\\n one\\rtwo \\u2028 \\u00e9\\r\\n\\r"


def half() -> str:
    return "\\ud800"


def number() -> int:
    return 5


if __name__ == "__main__":
    raise SystemExit("the main part must not run")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "extracted.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_prompt_is_what_production_returns(source: Path) -> None:
    assert evaluate_prompt(source, 'build_vlm_prompt(goal="something interesting")') == (
        "Goal: something interesting\nleft, right\n"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("helpless()", "'MISSING' is missing from the extracted source"),
        ("absent()", "'absent' is missing"),
        ("build_vlm_prompt", "expected one call"),
        ("build_vlm_prompt(", "not a Python expression"),
        ("build_vlm_prompt()", "TypeError"),
        ("half()", "text that UTF-8 can hold, found half a surrogate pair"),
        ("number()", "expected number\\(\\) to return a text, found int 5"),
        ('build_vlm_prompt("x", times=0)', "to return a text"),
    ],
)
def test_what_cannot_be_made_fails_by_name(source: Path, call: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate_prompt(source, call)


def test_a_prompt_is_written_byte_for_byte(source: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["prompt", "--source", str(source), "--call", "odd()"]) == 0
    assert capfdbinary.readouterr().out == "\ufeff\r\n one\rtwo \u2028 \u00e9\r\n\r".encode()


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        evaluate_prompt(tmp_path / "none.py", "f()")
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    with pytest.raises(UsageError, match="not a Python source"):
        evaluate_prompt(tmp_path / "broken.py", "f()")


def test_several_calls_come_from_one_file(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = tmp_path / "calls.json"
    calls.write_text(json.dumps(["odd()", "odd()"]), encoding="utf-8")
    assert main(["prompt", "--source", str(source), "--calls-file", str(calls)]) == 0
    assert json.loads(capsys.readouterr().out) == [evaluate_prompt(source, "odd()")] * 2


@pytest.mark.parametrize("text", ['"odd()"', '["odd()", 1]', "{}"])
def test_what_is_no_list_of_calls_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    calls = tmp_path / "calls.json"
    calls.write_text(text, encoding="utf-8")
    assert main(["prompt", "--source", str(source), "--calls-file", str(calls)]) == 2
    assert "calls.json: expected a list of calls" in capsys.readouterr().err
