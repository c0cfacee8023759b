"""The list of banned turns of phrase bites, across line ends and comment signs, and on whole words alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import language


@pytest.mark.parametrize(
    "text", ["Whoever asks", "it waits for\n    # ever", "was  in vain.", "not somebody\n* else's"]
)
def test_a_banned_turn_is_found(text: str) -> None:
    assert language.found(f"fine\n{text}\n", language.expression(language.turns()))[0][0] == 2


@pytest.mark.parametrize("text", ["forever", "a byright", "for every host", "somebody elsewhere", "in vaining"])
def test_other_words_are_not(text: str) -> None:
    assert language.found(text, language.expression(language.turns())) == []
