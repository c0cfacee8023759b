"""What every engine promises, and what is refused before one is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trialbench.engines.contract import (
    Capability,
    Constraint,
    Deadlines,
    Engine,
    Label,
    Probe,
    Refused,
    Request,
    Result,
    Usage,
    require,
)
from trialbench.engines.failures import FAILURES, TIMEOUT, Failure
from trialbench.engines.prompts import prompt_text


class _Engine:
    label = Label("gemma_local", "m", 8)

    def __init__(self, *capabilities: Capability) -> None:
        self.capabilities = frozenset(capabilities)


def engine(*capabilities: Capability) -> Engine:
    return _Engine(*capabilities)  # type: ignore[return-value] # as much of one as `require` looks at


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Request(), "expected exactly one of prompt, messages, prompt_ids, found none"),
        (Request(prompt="a", messages=[]), "found prompt, messages"),
        (Request(prompt_ids=[1]), "does not support prompts as token ids; besides text it supports: none"),
        (Request(prompt="a", constraint=Constraint(grammar="x")), "constrained decoding by grammar"),
        (Request(prompt="a", constraint=Constraint(json_schema={})), "constrained decoding by json_schema"),
        (Request(prompt="a", constraint=Constraint(allowed_tokens=[1])), "constrained decoding by allowed_tokens"),
        (Request(prompt="a", constraint=Constraint()), "exactly one kind, found none"),
        (Request(prompt="a", constraint=Constraint(grammar="x", json_schema={})), "found grammar, json_schema"),
        (Request(prompt="a", seed=1), "does not support a seed"),
        (Request(prompt="a", max_tokens=0), "max_tokens: expected a whole number from 1 to"),
        (Request(prompt="a", temperature=float("nan")), "temperature: expected 0 to 100, found nan"),
        (
            Request(prompt="a", deadlines=Deadlines(total_s=0)),
            "deadlines.total_s: expected seconds above 0 and below 1e+09, found 0",
        ),
        # More than a socket's time-out can hold.
        (Request(prompt="a", deadlines=Deadlines(total_s=1e10)), "deadlines.total_s: expected"),
        (Request(prompt="a", deadlines=Deadlines(first_s=-1)), "deadlines.first_s"),
    ],
)
def test_what_is_refused(asked: Request, words: str) -> None:
    with pytest.raises(Refused, match=r"bad_arguments|unsupported") as caught:
        require(engine(), asked)
    assert words in caught.value.failure.detail
    assert caught.value.exit_code == 2


def test_what_is_not() -> None:
    able = engine("grammar", "json_schema", "allowed_tokens", "token_ids", "seed")
    require(able, Request(prompt_ids=[1], seed=3, constraint=Constraint(grammar="x")))
    require(engine(), Request(messages=[{"role": "user", "content": "a"}], temperature=0, max_tokens=1))


def test_the_table_of_failures_is_whole() -> None:
    assert len({failure.name for failure in FAILURES}) == len(FAILURES)
    codes: dict[str, set[int]] = {}
    for row in FAILURES:
        codes.setdefault(row.kind, set()).add(row.code)
        assert row.meaning
        assert row.advice
        assert row.recoverable == (row.kind == "recoverable")
    assert codes == {
        "recoverable": {504, 503, 502, 429},
        "fatal": {500, 400, 413, 403},
        "indeterminate": {520},
    }
    assert [row.name for row in FAILURES if row.restart] == ["crashed"]
    assert Failure(TIMEOUT, "x").as_dict() == {"class": "timeout", "code": 504, "kind": "recoverable", "detail": "x"}


def test_results_and_probes_are_json_and_say_whose_they_are() -> None:
    label = Label("llama_server", "m", 4)
    result = Result(label, "t", None, Failure(TIMEOUT, "x"), Usage(2), 1.0, 1.5, 2.0, facts={"a": 1})
    assert (result.ttft_ms, result.total_ms) == (500.0, 1000.0)
    document: dict[str, Any] = json.loads(json.dumps(result.as_dict()))
    assert (document["source"], document["model"], document["bits"]) == ("llama_server", "m", 4)
    assert document["error"]["code"] == 504
    assert Result(label, "", "stop", None, Usage(), 1.0, None, 2.0).ttft_ms is None
    probe = Probe(True, label, capabilities=frozenset({"grammar", "seed"}))
    document = json.loads(json.dumps(probe.as_dict()))
    assert document["constrained_decoding"] is True
    assert document["capabilities"] == ["grammar", "seed"]
    assert not Probe(True, label, capabilities=frozenset({"seed"})).constrained_decoding


def test_messages_become_a_text() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    asked = Request(messages=[{"role": "system", "content": "a"}, {"role": "user", "content": parts}])
    assert prompt_text(asked) == "a\n\nb\nc"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "expected a text, found none"),
        ([{"role": "assistant", "content": "a"}], "takes system and user, found 'assistant'"),
        ([{"role": "user", "content": 3}], "expected a text or a list of parts"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "takes text only, found 'image_url'"),
        ([{"role": "user", "content": ["a"]}], "takes text only, found None"),
    ],
)
def test_messages_that_are_no_text(messages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(Refused) as caught:
        prompt_text(Request(messages=messages))
    assert words in caught.value.failure.detail
