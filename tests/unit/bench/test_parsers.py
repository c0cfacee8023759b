"""The three strategies, by a table written from the spec."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
from trialbench.workloads.parsers import Contract, OwnParser, Parsed, parse

NAV = Contract((("forward", "left", "right"), ("small", "medium", "large")))


@pytest.mark.parametrize(
    ("content", "strategy"),
    [
        ("left large", 1),
        ("left large\n", 1),
        ("  forward small", 1),
        # case, punctuation, text around it on one line
        ("Left Large", 2),
        ("left  large", 2),
        ("left, large.", 2),
        ("**left large**", 2),
        ("I would go right large because I see it.", 2),
        ("Action: LEFT, small!", 2),
        # words, but not as a contract: several lines, another order, something between
        ("left\nlarge", 3),
        ("left\u2028large", 3),
        ("Sure!\nleft large", 3),
        ("large left", 3),
        ("go left, it is a large thing", 3),
        # no reading at all
        ("left", None),
        ("LARGE", None),
        ("left right large", None),
        ("left small large", None),
        ("leftlarge", None),
        ("leftmost large", None),
        ("left-large", None),
        ("", None),
        ("stop medium", None),
    ],
)
def test_strategy(content: str, strategy: int | None) -> None:
    assert parse(content, NAV).strategy == strategy


def test_words_are_the_contract_s_own() -> None:
    assert parse("RIGHT, Medium", NAV).words == ("right", "medium")
    assert parse("nothing", NAV).words is None


@pytest.mark.parametrize(("content", "adherent"), [("left large", True), ("Left Large", True), ("large left", False)])
def test_strategies_1_and_2_are_adherent(content: str, adherent: bool) -> None:
    assert parse(content, NAV).adherent is adherent


def test_another_contract_with_its_own_separator() -> None:
    contract = Contract((("GO", "STOP"), ("10", "20")), separator="/")
    assert parse("GO/10", contract).strategy == 1
    assert parse("go 10", contract).strategy == 2
    assert parse("GO 10", contract).strategy == 2


@dataclasses.dataclass
class Reply:
    action: str
    size: str
    strategy: int


class Pair(NamedTuple):
    action: str
    size: str


def fall(_text: str) -> object:
    raise ValueError("no such word")


@pytest.mark.parametrize(
    ("result", "strategy", "words"),
    [
        (Reply("left", "large", 2), 2, ("left", "large")),
        ({"action": "left", "strategy": 3}, 3, ("left",)),
        (Pair("left", "large"), 1, ("left", "large")),
        (("left", 30), 1, ("left", "30")),
        ("left", 1, ("left",)),
        (None, None, None),
        ("", None, None),
        ({"action": "left", "strategy": 7}, None, None),
    ],
)
def test_productions_own_parser(result: object, strategy: int | None, words: tuple[str, ...] | None) -> None:
    heard: list[str] = []

    def own(text: str) -> object:
        heard.append(text)
        return result

    assert parse(" Left ", OwnParser("own", own)) == Parsed(strategy, words)
    assert heard == [" Left "]


def test_a_parser_that_falls_over_a_reply_could_not_use_it() -> None:
    assert parse("left", OwnParser("fall", fall)) == Parsed(None, None)
