"""Reads a reply against a contract, with three strategies of decreasing strictness.

* `Words`: 1 *exact*, the words, joined by the separator; 2 *tolerant*, on one line, whatever the case, punctuation and
  text around them; 3 *loose*, somewhere, in any order.
* `Fits`: 1 one JSON value that fits its schema, formatted in any way; 2 the same in a code fence; 3 with other text.
* `Matches`: 1 the regular expression matches all of it; 2 a part of one line, in any case; 3 a part.
* `Calls`: 1 one call of the function, whose arguments fit; 2 the same with other text.

Surrounding whitespace is ignored. Strategies 1 and 2 are adherent. In all of them the reply must be unambiguous: a
reply with both `left` and `right` made no choice, and matches no strategy.

Production's own parser can replace the strategies (`OwnParser`): then only its result counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import signal
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn, TypeAlias

from trialbench import schemas

# Production may not split lines at U+2028; here "one line" means no line break of any kind.
_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# With the sign and the point of a number: "-1" and "1.5" are no "1". Not with the underscores of _emphasis_.
_WORD = re.compile(r"(?:(?<![\w.])-(?=\d))?[^\W_]+(?:(?:[-_'\u2019]|(?<=\d)\.(?=\d))[^\W_]+)*")
_FENCE = re.compile(r"```[\w-]*\s*\n(.*)\n\s*```", re.DOTALL)
_JSON_STARTS = re.compile(r"[\[{]")
# A reply with more beginnings of JSON than this holds no one value.
_MOST_STARTS = 20
# Processor time for one regular expression on one reply; usual ones take microseconds.
MATCH_S = 0.05
# And for production's parser, which may import on its first call.
OWN_S = 1.0


@dataclass(frozen=True)
class Words:
    """One word of each list, in order, joined by `separator`; a word may have blanks in it."""

    words: tuple[tuple[str, ...], ...]
    separator: str = " "


@dataclass(frozen=True)
class Fits:
    """One JSON value that fits `schema`."""

    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Matches:
    """A text that the regular expression matches; its groups are the meaning, the whole match where none takes part."""

    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Calls:
    """One call of the function `name`, with arguments that fit `schema`; None: any JSON object."""

    name: str
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class OwnParser:
    """Production's own function: takes a reply and returns its meaning, or None (or raises) if it can't read it.

    A result may have a `strategy` of 1, 2 or 3, as an attribute or a key; otherwise strategy 1 applies.
    """

    name: str
    function: Callable[[str], object]


Contract: TypeAlias = Words | Fits | Matches | Calls | OwnParser


@dataclass(frozen=True)
class Parsed:
    """The meaning of a reply. `strategy` is 1, 2 or 3; if no strategy reads it, `strategy` and `words` are None.

    `in_time`: False where a regular expression or production's parser took longer than it may.
    """

    strategy: int | None
    words: tuple[str, ...] | None
    in_time: bool = True

    @property
    def adherent(self) -> bool:
        """Whether production could use the reply unchanged."""
        return self.strategy in (1, 2)


_NOT_READ = Parsed(None, None)


def parse(content: str, contract: Contract, calls: Sequence[tuple[str, str]] = ()) -> Parsed:
    """The first strategy that reads `content`, and what it found.

    Args:
        calls: the reply's calls of functions, each with its name and the text of its arguments.
    """
    if isinstance(contract, OwnParser):
        return _by_production(content, contract)
    text = content.strip()
    if isinstance(contract, Fits):
        return _by_schema(text, contract.schema)
    if isinstance(contract, Calls):
        return _by_call(text, contract, calls)
    if isinstance(contract, Matches):
        return _by_pattern(text, contract.pattern)
    return _by_words(text, contract)


def _by_words(text: str, contract: Words) -> Parsed:
    exact = _exact(text, contract)
    if exact is not None:
        return Parsed(1, exact)
    tokens = _tokens(text)
    found = [_only(tokens, allowed) for allowed in contract.words]
    chosen = tuple(word for word in found if word is not None)
    if len(chosen) < len(found):
        return _NOT_READ
    in_order = _adjacent(tokens, tuple(token for word in chosen for token in _tokens(word)))
    return Parsed(2 if in_order and not _LINE_BREAK.search(text) else 3, chosen)


def _exact(text: str, contract: Words) -> tuple[str, ...] | None:
    """The words that make `text`, joined by the separator; None where none do."""
    ways: dict[int, tuple[str, ...]] = {0: ()}
    for at, allowed in enumerate(contract.words):
        lead = contract.separator if at else ""
        ways = {
            end: (*chosen, word)
            for begin, chosen in ways.items()
            for word in allowed
            if text.startswith(lead + word, begin) and (end := begin + len(lead + word))
        }
    return ways.get(len(text))


@lru_cache(maxsize=256)
def _tokens(text: str) -> tuple[str, ...]:
    """The words of a reply, or of a word of the contract, which is read in the same way."""
    # Letters with accents can be spelled in two ways.
    return tuple(_WORD.findall(unicodedata.normalize("NFC", text.casefold())))


def _only(tokens: tuple[str, ...], allowed: Iterable[str]) -> str | None:
    """The one word of a list that occurs in `tokens`; None when none or several do.

    Of two words at one place the longer one counts: `turn left` is no `left`.
    """
    # What is made of signs alone can only be matched exactly.
    longest_first = sorted(filter(_tokens, allowed), key=lambda word: -len(_tokens(word)))
    present: set[str] = set()
    at = 0
    while at < len(tokens):
        here = [word for word in longest_first if tokens[at : at + len(_tokens(word))] == _tokens(word)]
        width = len(_tokens(here[0])) if here else 1
        present |= {word for word in here if len(_tokens(word)) == width}
        at += width
    return present.pop() if len(present) == 1 else None


def _adjacent(tokens: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """Whether `words` are adjacent and in order in `tokens`."""
    width = len(words)
    return any(tokens[at : at + width] == words for at in range(len(tokens) - width + 1))


def _by_schema(text: str, schema: Mapping[str, Any]) -> Parsed:
    fence = _FENCE.fullmatch(text)
    for strategy, part in ((1, text), (2, fence[1] if fence else "")):
        found = _fitting(part, schema)
        if found is not None:
            return Parsed(strategy, (found,))
    inside = _inside(text, schema)
    return Parsed(3, tuple(inside)) if len(inside) == 1 else _NOT_READ


def _fitting(text: str, schema: Mapping[str, Any]) -> str | None:
    """The JSON value that `text` is, in one spelling, if it fits the schema."""
    try:
        value = _DECODER.decode(text)
        return canonical(value) if schemas.fits(value, schema) else None
    except (ValueError, RecursionError):
        return None


def _inside(text: str, schema: Mapping[str, Any]) -> set[str]:
    """The JSON objects and lists within `text` that fit the schema, in one spelling."""
    found: set[str] = set()
    at = 0
    for _ in range(_MOST_STARTS):
        start = _JSON_STARTS.search(text, at)
        if start is None:
            break
        at = start.start() + 1
        try:
            value, at = _DECODER.raw_decode(text, start.start())
            if schemas.fits(value, schema):
                found.add(canonical(value))
        except (ValueError, RecursionError):
            continue
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _number(text: str) -> float:
    """A number with a point or an exponent; a whole one as such, because 3.0 and 3 are equal."""
    value = float(text)
    return int(value) if value.is_integer() else value if math.isfinite(value) else _refuse(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that occurs twice has no one value")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_number, object_pairs_hook=_object)


def canonical(value: object) -> str:
    """A JSON value in one spelling, so that equal values are equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _by_call(text: str, contract: Calls, calls: Sequence[tuple[str, str]]) -> Parsed:
    if len(calls) != 1 or calls[0][0] != contract.name:
        return _NOT_READ
    # Servers leave the arguments of a function that takes none empty.
    arguments = _fitting(calls[0][1].strip() or "{}", contract.schema or {"type": "object"})
    return _NOT_READ if arguments is None else Parsed(2 if text else 1, (contract.name, arguments))


class _TooSlow(BaseException):
    """A regular expression or production's parser took longer than it may; no `except Exception` of theirs stops it."""


@contextlib.contextmanager
def _bounded(limit_s: float) -> Iterator[None]:
    """Raise `_TooSlow` once the block has taken `limit_s` of processor time; in the main thread only.

    By processor time, because a machine that is busy otherwise says nothing about the expression. The matcher of `re`
    looks for signals while it tries.
    """

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _by_pattern(text: str, pattern: re.Pattern[str]) -> Parsed:
    try:
        with _bounded(MATCH_S):
            whole = pattern.fullmatch(text)
            if whole:
                return Parsed(1, _meaning(whole))
            anywhere = re.compile(pattern.pattern, pattern.flags | re.IGNORECASE)
            found = {_meaning(match) for match in anywhere.finditer(text) if match[0]}
    except _TooSlow:
        return Parsed(None, None, in_time=False)
    if len(found) != 1:
        return _NOT_READ
    return Parsed(3 if _LINE_BREAK.search(text) else 2, found.pop())


def _meaning(match: re.Match[str]) -> tuple[str, ...]:
    # Folded, because a reply may be in any case: "Left" and "left" are one answer.
    groups = match.groups()
    # Where no group takes part, as in "(left)|stop|wait", the whole match tells them apart.
    told = [group or "" for group in groups] if any(group is not None for group in groups) else [match[0]]
    return tuple(group.casefold() for group in told)


def _by_production(content: str, parser: OwnParser) -> Parsed:
    """The result of production's parser for `content`, as text."""
    try:
        with _bounded(OWN_S):
            return _result(parser.function(content))
    except _TooSlow:
        return Parsed(None, None, in_time=False)
    except (Exception, SystemExit):
        # If the parser fails on a reply, production could not use it; that is what is measured.
        return _NOT_READ


def _result(result: object) -> Parsed:
    # 0 is a value, such as an angle; what is empty or False is no meaning.
    if result is False or (not result and not isinstance(result, (int, float))):
        return _NOT_READ
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
        return _NOT_READ
    return Parsed(int(strategy), tuple(str(value) for value in fields.values()))
