"""What is printed for people, and how a command ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trialbench.errors import ServerError
from trialbench.show.terminal import ended


def test_a_command_ends_with_words_and_a_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(error: BaseException) -> Callable[[], int]:
        def act() -> int:
            raise error

        return act

    assert ended("tool", lambda: 3) == 3
    assert ended("tool", fails(ServerError("nobody\x1b[31m answers"))) == 4
    assert ended("tool", fails(KeyboardInterrupt())) == 130
    assert ended("tool", fails(FileNotFoundError(2, "No such file", "a.yml"))) == 2
    assert ended("tool", fails(OSError("odd"))) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tool: nobody\\x1b[31m answers",
        "tool: interrupted",
        "tool: a.yml: No such file",
        "tool: input/output: odd",
    ]
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert ended("tool", fails(BrokenPipeError())) == 0
        # What is still written goes nowhere, and raises nothing.
        print("more", file=out, flush=True)
    assert (tmp_path / "out").read_text(encoding="utf-8") == ""
    assert capsys.readouterr().err == ""
