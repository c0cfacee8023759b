"""The lists of banned turns of phrase and of spellings bite: the first on whole words, across line ends and signs of
comments; the second within identifiers, and not on the words of finished results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import language

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "text", ["Whoever asks", "it waits for\n    # ever", "was  in vain.", "not somebody\n* else's"]
)
def test_a_banned_turn_is_found(text: str) -> None:
    assert language.found(f"fine\n{text}\n", language.expression(language.turns()))[0][0] == 2


@pytest.mark.parametrize("text", ["forever", "a byright", "for every host", "somebody elsewhere", "in vaining"])
def test_other_words_are_not(text: str) -> None:
    assert language.found(text, language.expression(language.turns())) == []


def test_what_is_counted_is_one_or_several() -> None:
    """`1 channel(s)` leaves it to the reader; `counted` says which."""
    lazy = re.compile(r"(?:\}|\d) [a-z]+\((?:e?s|ies)\)")
    files = [
        path for room in ("bench", "plugins", "roles", "playbooks", "scripts") for path in (ROOT / room).rglob("*")
    ]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".yml", ".j2", ".sh")}
    assert len(texts) > 200
    assert [path for path, text in texts.items() if lazy.search(text)] == []


def spelling(folder: Path, text: str) -> int:
    """How many words `make lint` finds in a text."""
    (folder / "text.py").write_text(text)
    dictionaries = ["-D", "-", "-D", ".config/us-spelling.txt"]
    command = [sys.executable, "-m", "codespell_lib", *dictionaries, str(folder / "text.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return len(done.stdout.splitlines())


# Put together, so that they do not find themselves.
@pytest.mark.parametrize(
    "text", ["the col" + "our", "QUANTI" + "SED", "new_neighbo" + "urs", "class Beha" + "viour", "te" + "h"]
)
def test_another_spelling_is_found(tmp_path: Path, text: str) -> None:
    assert spelling(tmp_path, text) == 1


@pytest.mark.parametrize("text", ["quantized color", "reply['finish'] = 'cancelled'", 'summary["neighbours"]'])
def test_what_results_say_is_not(tmp_path: Path, text: str) -> None:
    assert spelling(tmp_path, text) == 0
