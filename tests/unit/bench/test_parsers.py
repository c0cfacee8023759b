"""The three strategies, by a table written from the spec."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from trialbench.engines.message import Call
from trialbench.workloads import parsers
from trialbench.workloads.parsers import Calls, Contract, Fits, Matches, OwnParser, Parsed, Words, parse

NAV = Words((("forward", "left", "right"), ("small", "medium", "large")))


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
    contract = Words((("GO", "STOP"), ("10", "20")), separator="/")
    assert parse("GO/10", contract).strategy == 1
    assert parse("go 10", contract).strategy == 2
    assert parse("GO 10", contract).strategy == 2


TURNS = Words((("turn left", "left", "go straight on"), ("now", "after 10 m")))
GO: dict[str, object] = {
    "type": "object",
    "required": ["go", "m"],
    "additionalProperties": False,
    "properties": {"go": {"enum": ["left", "right"]}, "m": {"type": "integer", "minimum": 1}},
}
PRETTY = '{\n  "m": 3,\n  "go": "left"\n}'
COMPACT = '{"go":"left","m":3}'
METERS = Matches(re.compile(r"(left|right) (\d+) m"))


@pytest.mark.parametrize(
    ("contract", "content", "strategy", "words"),
    [
        (TURNS, "turn left now", 1, ("turn left", "now")),
        (TURNS, "left after 10 m", 1, ("left", "after 10 m")),
        (TURNS, "Turn left, after 10 m!", 2, ("turn left", "after 10 m")),
        (TURNS, "turn  left now", 2, ("turn left", "now")),
        (TURNS, "now turn left", 3, ("turn left", "now")),
        (TURNS, "turn left or left now", None, None),
        (TURNS, "turn now", None, None),
        (Words((("10%", "10"),)), "10%", 1, ("10%",)),
        (Words((("1", "2"),)), "It is 1.5.", None, None),
        (Words((("1", "2"),)), "It is -1.", None, None),
        (Words((("1.5", "2"),)), "It is 1.5.", 2, ("1.5",)),
        (Words((("-1", "1"),)), "It is -1.", 2, ("-1",)),
        (Words((("don't", "do"),)), "Don't.", 2, ("don't",)),
        (Words((("left/right", "left"),)), "Left/right!", 2, ("left/right",)),
        (Words((("left",), ("large",))), "_left large_", 2, ("left", "large")),
        (Words((("gr\u00f6\u00dfer",),)), "Gro\u0308\u00dfer.", 2, ("gr\u00f6\u00dfer",)),
        (Words((("+", "-"),)), "It is +.", None, None),
        (Words((("+", "-"),)), "+", 1, ("+",)),
        (Fits(GO), COMPACT, 1, (COMPACT,)),
        (Fits(GO), PRETTY, 1, (COMPACT,)),
        (Fits(GO), f"\n {PRETTY} \n", 1, (COMPACT,)),
        (Fits(GO), f"```json\n{PRETTY}\n```", 2, (COMPACT,)),
        (Fits(GO), f"```\n{PRETTY}\n```", 2, (COMPACT,)),
        (Fits(GO), f"Sure: {PRETTY} Good luck.", 3, (COMPACT,)),
        (Fits(GO), f"{COMPACT} {COMPACT}", 3, (COMPACT,)),
        (Fits(GO), f"{COMPACT} {COMPACT.replace('left', 'right')}", None, None),
        (Fits(GO), '{"go":"up","m":3}', None, None),
        (Fits(GO), '{"go":"left","m":true}', None, None),
        (Fits(GO), '{"go":"left","m":3,"x":1}', None, None),
        (Fits(GO), '{"go":"left","m":NaN}', None, None),
        (Fits(GO), '{"go":"left","m":', None, None),
        (Fits(GO), "[" * 100_000, None, None),
        (Fits(GO), COMPACT.replace("3", "3.0"), 1, (COMPACT,)),
        (Fits(GO), COMPACT.replace("}", ',"go":"right"}'), None, None),
        (Fits({"type": "number"}), "1e400", None, None),
        (Fits({"type": "number"}), "-0.0", 1, ("0",)),
        (Fits({"type": "object", "anyOf": [{"required": ["a"]}, {}]}), "[1]", None, None),
        (Fits({"required": ["go"], "anyOf": [{"required": ["m"]}]}), '{"m":1}', None, None),
        (Fits({"enum": [1]}), "true", None, None),
        (Fits({"const": [{"a": 1}]}), '[{"a": true}]', None, None),
        (Fits({"type": "string"}), '"left"', 1, ('"left"',)),
        (METERS, "left 3 m", 1, ("left", "3")),
        (METERS, "Go Left 3 m!", 2, ("left", "3")),
        (METERS, "LEFT 3 M, I say left 3 m", 2, ("left", "3")),
        (METERS, "Go\nleft 3 m", 3, ("left", "3")),
        (METERS, "left 3 m, then right 2 m", None, None),
        (METERS, "left", None, None),
        (Matches(re.compile("yes|no")), "yes", 1, ("yes",)),
        # Two answers without a group are two answers.
        (Matches(re.compile("(yes)|no|perhaps")), "no", 1, ("no",)),
        (Matches(re.compile("(yes)|no|perhaps")), "Perhaps", 2, ("perhaps",)),
        (Matches(re.compile("(yes)( sir)?")), "yes", 1, ("yes", "")),
    ],
)
def test_the_other_forms_of_a_contract(
    contract: Contract, content: str, strategy: int | None, words: tuple[str, ...] | None
) -> None:
    assert parse(content, contract) == Parsed(strategy, words)


def test_a_regular_expression_that_never_ends_is_stopped() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    assert parse("a" * 60, Matches(re.compile("(a+)+b"))) == Parsed(None, None, in_time=False)
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


ARGUMENTS = '{"m": 3, "go": "left"}'


@pytest.mark.parametrize(
    ("calls", "content", "strategy", "words"),
    [
        ([Call("go", ARGUMENTS)], "", 1, ("go", COMPACT)),
        ([Call("go", ARGUMENTS)], "I go.", 2, ("go", COMPACT)),
        ([Call("go", '{"go": "up", "m": 3}')], "", None, None),
        ([Call("go", "left")], "", None, None),
        ([Call("go")], "", None, None),
        ([Call("stop", ARGUMENTS)], "", None, None),
        ([Call("go", ARGUMENTS)] * 2, "", None, None),
        ([], ARGUMENTS, None, None),
    ],
)
def test_a_call_of_a_function(
    calls: list[Call], content: str, strategy: int | None, words: tuple[str, ...] | None
) -> None:
    assert parse(content, Calls("go", GO), calls) == Parsed(strategy, words)


def test_a_function_without_arguments() -> None:
    assert parse("", Calls("stop"), [Call("stop")]) == Parsed(1, ("stop", "{}"))


@dataclasses.dataclass
class Reply:
    action: str
    size: str
    strategy: int


class Pair(NamedTuple):
    action: str
    size: str


class Nameless:
    def __str__(self) -> str:
        raise ValueError("has no name")


def fall(_text: str) -> object:
    raise ValueError("no such word")


def leave(_text: str) -> object:
    sys.exit("no such word")


def stay(_text: str) -> object:
    while True:
        with contextlib.suppress(Exception):
            sum(range(1000))


@pytest.mark.parametrize(
    ("result", "strategy", "words"),
    [
        (Reply("left", "large", 2), 2, ("left", "large")),
        ({"action": "left", "strategy": 3}, 3, ("left",)),
        (Pair("left", "large"), 1, ("left", "large")),
        (("left", 30), 1, ("left", "30")),
        ("left", 1, ("left",)),
        (0, 1, ("0",)),
        (0.0, 1, ("0.0",)),
        (None, None, None),
        (False, None, None),
        ("", None, None),
        (Nameless(), None, None),
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


@pytest.mark.parametrize("function", [fall, leave])
def test_a_parser_that_falls_over_a_reply_could_not_use_it(function: Callable[[str], object]) -> None:
    assert parse("left", OwnParser("own", function)) == Parsed(None, None)


def test_a_parser_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "OWN_S", 0.05)
    assert parse("left", OwnParser("stay", stay)) == Parsed(None, None, in_time=False)
