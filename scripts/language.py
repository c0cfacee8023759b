"""Find the turns of phrase of .config/banned-turns.txt in every tracked text of the checkout.

    python scripts/language.py

Prints ``path:line: turn`` for each; exit code 1 when there is one. A turn is found across a line end, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ".config/banned-turns.txt"
# Texts of others, what a finished run wrote, and the list itself.
EXEMPT = re.compile(rf"LICENSE|tests/fixtures/(runs|replies|models)/.*|{re.escape(LIST)}|tests/unit/test_language\.py")


def turns() -> list[str]:
    """Return the banned turns."""
    lines = (ROOT / LIST).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def expression(banned: list[str]) -> re.Pattern[str]:
    """Make one regular expression of them: whole words, any blanks or comment signs between them."""
    between = r"(?:\s|[#*/\"'>|])+"
    each = (between.join(re.escape(word) for word in turn.split()) for turn in banned)
    return re.compile(rf"\b(?:{'|'.join(each)})\b", re.IGNORECASE)


def found(text: str, pattern: re.Pattern[str]) -> list[tuple[int, str]]:
    """Return (line number, turn) of each banned turn in a text."""
    return [(text.count("\n", 0, hit.start()) + 1, " ".join(hit[0].split())) for hit in pattern.finditer(text)]


def main() -> int:
    """The command; returns the exit code."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pattern, bad = expression(turns()), 0
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if EXEMPT.fullmatch(name) or not path.is_file() or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for line, turn in found(text, pattern):
            bad += 1
            print(f"{name}:{line}: {turn!r} is on the list of {LIST}: say who does what")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
