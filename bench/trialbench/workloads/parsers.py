"""Reads a reply against a contract, with three strategies of falling strictness.

1 *exact*: the reply is the words of the contract and nothing else (white space at its ends is free).
2 *tolerant*: case, punctuation and text around the words are forgiven, as long as all of it is one line.
3 *loose*: the words occur somewhere, in any order, perhaps over several lines.

Strategies 1 and 2 are adherent. In all of them the reply must be unambiguous: a reply that names both `left` and
`right` chose nothing, and gets no strategy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Lines as production splits them would differ for U+2028; "one line" here means: no line break of any kind within.
_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WORD = re.compile(r"\w+(?:-\w+)*")


@dataclass(frozen=True)
class Contract:
    """One word of each list, in order, joined by `separator`."""

    words: tuple[tuple[str, ...], ...]
    separator: str = " "


@dataclass(frozen=True)
class Parsed:
    """What a reply meant. `strategy` 1, 2 or 3; None where no strategy reads it, and then `words` is None too."""

    strategy: int | None
    words: tuple[str, ...] | None

    @property
    def adherent(self) -> bool:
        """Whether production could use the reply as it is."""
        return self.strategy in (1, 2)


def parse(content: str, contract: Contract) -> Parsed:
    """The first strategy that reads `content`, and the words it found."""
    text = content.strip()
    exact = tuple(text.split(contract.separator))
    if len(exact) == len(contract.words) and all(
        word in allowed for word, allowed in zip(exact, contract.words, strict=True)
    ):
        return Parsed(1, exact)
    tokens = _WORD.findall(text.casefold())
    found = _choose(tokens, contract)
    if found is None:
        return Parsed(None, None)
    in_order = _adjacent(tokens, tuple(word.casefold() for word in found))
    if in_order and not _LINE_BREAK.search(text):
        return Parsed(2, found)
    return Parsed(3, found)


def _choose(tokens: list[str], contract: Contract) -> tuple[str, ...] | None:
    """The one word of each list that occurs in `tokens`; None when a list has none or several."""
    chosen = []
    for allowed in contract.words:
        present = [word for word in allowed if word.casefold() in tokens]
        if len(present) != 1:
            return None
        chosen.append(present[0])
    return tuple(chosen)


def _adjacent(tokens: list[str], words: tuple[str, ...]) -> bool:
    """Whether `words` stand in `tokens` side by side and in order."""
    width = len(words)
    return any(tuple(tokens[at : at + width]) == words for at in range(len(tokens) - width + 1))
