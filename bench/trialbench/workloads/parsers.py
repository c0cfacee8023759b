"""Reads a reply against a contract, with three strategies of decreasing strictness.

1 *exact*: the reply consists of the words of the contract and nothing else (surrounding whitespace is ignored).
2 *tolerant*: case, punctuation and text around the words are ignored, as long as everything is on one line.
3 *loose*: the words occur somewhere, in any order, possibly on several lines.

Strategies 1 and 2 are adherent. In all of them the reply must be unambiguous: a reply with both `left` and `right` made
no choice, and matches no strategy.

Production's own parser can replace the strategies (`OwnParser`): then only its result counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

# Production may not split lines at U+2028; here "one line" means no line break of any kind.
_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WORD = re.compile(r"\w+(?:-\w+)*")


@dataclass(frozen=True)
class Contract:
    """One word of each list, in order, joined by `separator`."""

    words: tuple[tuple[str, ...], ...]
    separator: str = " "


@dataclass(frozen=True)
class OwnParser:
    """Production's own function: takes a reply and returns its meaning, or None (or raises) if it can't read it.

    A result may have a `strategy` of 1, 2 or 3, as an attribute or a key; otherwise strategy 1 applies.
    """

    name: str
    function: Callable[[str], object]


@dataclass(frozen=True)
class Parsed:
    """The meaning of a reply. `strategy` is 1, 2 or 3; if no strategy reads it, `strategy` and `words` are None."""

    strategy: int | None
    words: tuple[str, ...] | None

    @property
    def adherent(self) -> bool:
        """Whether production could use the reply unchanged."""
        return self.strategy in (1, 2)


def parse(content: str, contract: Contract | OwnParser) -> Parsed:
    """The first strategy that reads `content`, and the words it found."""
    if isinstance(contract, OwnParser):
        return _by_production(content, contract)
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


def _by_production(content: str, parser: OwnParser) -> Parsed:
    """The result of production's parser for `content`, as text."""
    try:
        result = parser.function(content)
    except Exception:
        # If the parser fails on a reply, production could not use it; that is what is measured.
        return Parsed(None, None)
    if not result:
        return Parsed(None, None)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields: dict[str, object] = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    elif isinstance(result, dict):
        fields = {str(key): value for key, value in result.items()}
    elif isinstance(result, (list, tuple)):
        names = getattr(result, "_fields", None) or [str(i) for i in range(len(result))]
        fields = dict(zip(names, result, strict=True))
    else:
        fields = {"reply": result}
    strategy = fields.pop("strategy", 1)
    if strategy not in (1, 2, 3):
        return Parsed(None, None)
    return Parsed(int(strategy), tuple(str(value) for value in fields.values()))


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
    """Whether `words` are adjacent and in order in `tokens`."""
    width = len(words)
    return any(tuple(tokens[at : at + width]) == words for at in range(len(tokens) - width + 1))
