"""What makes a sample valid: the rules of the spec, one case each, on recorded and made replies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import accept
from trialbench import schemas
from trialbench.engines.llama.messages import StreamedReply, read_document
from trialbench.engines.message import Call
from trialbench.measure.client import ChatClient, Reply
from trialbench.measure.sample import Sample, judge
from trialbench.workloads import Workload, load_workload
from trialbench.workloads.parsers import Calls, Matches

# Spellings of a thought, a row for each of the table's marks and for what varies within one.
THINKING = [
    "<think>Hm.</think>left large", "<THINK>Hm.</THINK>left large", "<think>", "Hm.</think>left large",
    "<think type='x'>Hm.</think>left large", "< think >Hm.</ think >left large", "<thinking>Hm.</thinking>left large",
    "<thoughts>Hm.</thoughts>left large", "<reasoning>Hm.</reasoning>left large", "<seed:think>Hm.</seed:think>left",
    "<longcat_think>Hm.</longcat_think>left", "<inner_thoughts>Hm.</inner_thoughts>left",
    "&lt;think&gt;Hm.&lt;/think&gt;left large",
    "\N{FULLWIDTH LESS-THAN SIGN}think\N{FULLWIDTH GREATER-THAN SIGN}Hm.", "<antThinking>Hm.</antThinking>left",
    "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>left", "Hm.<|END_THINKING|>left",
    "<|think|>Hm.<|/think|>left large",
    "<|begin_of_thought|>Hm.<|end_of_thought|>left", "[THINK]Hm.[/THINK]left large", "Hm.[/THINK]left large",
    "\u25c1think\u25b7Hm.\u25c1/think\u25b7left large", "Hm.\u25c1/think\u25b7left large",
    "<|channel>thought\nHm.<channel|>left large", "<|channel>thought\nHm.", "Hm.<channel|>left large",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>left large",
    "analysisHm.assistantfinalleft large", "<unused94>thought\nHm.<unused95>left large", "Hm.<unused95>left large",
    "<|inner_prefix|>Hm.<|inner_suffix|>left large", "```thinking\nHm.\n```\nleft large",
    "Here is my thought process:\nHm.\nHere is my response:\nleft large",
    # One that is empty hides none that is not.
    "<think></think><think>Hm.</think>left large", "<think></think>Hm.</think>left large",
]  # fmt: skip
EMPTY = [
    "<think></think>left large", "<think>\n\n</think>\n\nleft large", "<THINK> </THINK>left large",
    "<think>\u200b</think>left large", "<think/>left large", "<think type='x'></think>left large",
    "<think></think><think>\n</think>left large", "</think>left large", "\n</think>\n\nleft large",
    "left large<think></think>", "<seed:think>\n</seed:think>left large", "[THINK][/THINK]left large",
    "\u25c1think\u25b7\u25c1/think\u25b7left large", "<|START_THINKING|><|END_THINKING|>left large",
    "<|think|>\n<|/think|>left large", "<|channel>thought\n<channel|>left large", "<channel|>left large",
    "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>left large",
    "analysisassistantfinalleft large", "<unused94>thought\n<unused95>left large",
    "<|inner_prefix|><|inner_suffix|>left large", "```thinking\n```\nleft large",
    "Here is my thought process:\nHere is my response:\nleft large",
]  # fmt: skip
NO_THOUGHT = [
    "I think left large", "a thought: left large", "<b>left</b> large", "<thinker>left</thinker> large",
    "think> left large",
    "the analysis says left, the assistant is large", "<|channel|>final<|message|>left large", "```\nleft large\n```",
]  # fmt: skip
# A message or a delta, and whether it holds a thought.
FIELDS: list[tuple[dict[str, Any], bool]] = [
    ({"reasoning_content": "Hm."}, True),
    ({"reasoning": "Hm."}, True),
    ({"reasoning": {"text": "Hm."}}, True),
    ({"reasoning": ["Hm."]}, True),
    ({"reasoning": {"summary": [{"type": "summary_text", "text": "Hm."}]}}, True),
    ({"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}, True),
    ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "3q2+7w=="}]}, True),
    ({"reasoning_text": "Hm."}, True),
    ({"reasoningContent": "Hm."}, True),
    ({"thinking": "Hm."}, True),
    ({"thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]}, True),
    ({"thoughts": ["Hm."]}, True),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"text": "left large"}]}, True),
    ({"content": [{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": "left large"}]}, True),
    ({"content": [{"text": "Hm.", "thought": True}, {"text": "left large"}]}, True),
    ({"content": [{"type": "redacted_thinking", "data": "3q2+7w=="}, {"type": "text", "text": "left large"}]}, True),
    ({"content": [{"type": "text", "text": "left "}, {"type": "text", "text": "large"}]}, False),
    ({"content": {"text": "left large"}}, False),
    ({"content": ["left large"]}, False),
    ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "left large"}]}, False),
    ({"reasoning_content": ""}, False),
    ({"reasoning_content": " \n"}, False),
    ({"reasoning": None}, False),
    ({"reasoning": {}}, False),
    ({"reasoning_details": []}, False),
    ({"reasoning_details": [{"type": "reasoning.text", "text": ""}]}, False),
    ({"reasoning": {"effort": "none", "summary": None}}, False),
    ({"reasoning_effort": "none", "reasoning_format": "none", "reasoning_tokens": 7}, False),
    ({"thought_signature": "3q2+7w=="}, False),
]

GOOD = Reply(1.0, latency_ms=9.0, content="left large", finish_reason="stop", completion_tokens=3, cache_n=0)


def judged(workload: Workload, *, cache_prompt: bool = False, **changes: Any) -> Sample:
    sample = judge(replace(GOOD, **changes), 1, workload, cache_prompt=cache_prompt, wall="2026-01-02T03:04:05.678Z")
    accept(sample.as_dict(), "sample")
    assert schemas.validate(sample.as_dict(), "sample") == []
    return sample


@pytest.mark.parametrize(
    ("changes", "error_class", "flags"),
    [
        ({}, None, []),
        ({"content": ""}, "empty", ["empty"]),
        ({"content": " \n"}, "empty", ["empty"]),
        ({"content": None}, "empty", ["empty"]),
        ({"reasoning": "Let me look."}, "thinking", ["thinking"]),
        ({"reasoning": " \n"}, None, []),
        ({"content": "<think>Hm.</think>left large"}, "thinking", ["thinking"]),
        ({"content": "<think>"}, "thinking", ["thinking"]),
        # The opening mark may be part of the prompt.
        ({"content": "Hm.</think>left large"}, "thinking", ["thinking"]),
        ({"content": "<|channel>thought\nleft"}, "thinking", ["thinking"]),
        # All tokens went into the thought: empty, and to be called by its cause.
        (
            {"content": "", "reasoning": "I look", "finish_reason": "length"},
            "thinking",
            ["thinking", "empty", "length"],
        ),
        ({"finish_reason": None}, "finish_reason", ["finish_reason"]),
        ({"finish_reason": "tool_calls"}, "finish_reason", ["finish_reason"]),
        ({"finish_reason": "length"}, None, ["length"]),
        ({"error_class": "http_500", "content": None}, "http_500", []),
        ({"error_class": "dropped", "content": "left large"}, "dropped", []),
    ],
)
def test_validity(nav: Workload, changes: dict[str, Any], error_class: str | None, flags: list[str]) -> None:
    sample = judged(nav, **changes)
    assert (sample.error_class, sample.ok, sample.flags) == (error_class, error_class is None, flags)
    # An invalid reply is never adherent, whatever its words, nor is one that was cut.
    assert sample.strategy == (1 if sample.ok and "length" not in flags else None)
    assert sample.adherent is (sample.strategy == 1)


def test_a_reply_that_was_cut_is_good_where_no_contract_is_asked(nav: Workload) -> None:
    free = judged(replace(nav, contract=None), finish_reason="length")
    assert (free.ok, free.flags, free.adherent) == (True, ["length"], False)
    # Samples of older clients have the strategy of what was there.
    assert not replace(judged(nav), finish_reason="length").adherent


def test_a_call_of_a_tool_is_an_answer_where_the_contract_asks_for_it(nav: Workload) -> None:
    asking = replace(nav, contract=Calls("go"))
    for reason in ("tool_calls", "stop", "function_call"):
        sample = judged(asking, content=None, tool_calls=(Call("go", '{"m": 3}'),), finish_reason=reason)
        assert (sample.ok, sample.flags, sample.parsed) == (True, [], ["go", '{"m":3}'])
    assert judged(asking, content=None).error_class == "empty"
    assert judged(asking, content="left large", finish_reason="tool_calls").error_class == "finish_reason"
    assert judged(asking).strategy is None


def test_an_expression_that_takes_too_long_has_not_read_the_reply(nav: Workload) -> None:
    asking = replace(nav, contract=Matches(re.compile("(a+)+b")))
    sample = judged(asking, content="a" * 60)
    assert (sample.ok, sample.flags, sample.strategy) == (True, ["contract_timeout"], None)


def test_failures_say_why(nav: Workload) -> None:
    assert "I look" in str(judged(nav, reasoning="I look").error_detail)
    assert "length, stop" in str(judged(nav, finish_reason="tool_calls").error_detail)
    assert judged(nav).error_detail is None


def test_echo_of_an_empty_think_block_is_no_thinking(nav: Workload) -> None:
    sample = judged(nav, content="<think>\n\n</think>\n\nleft large")
    assert (sample.ok, sample.flags, sample.parsed) == (True, ["think_echo"], ["left", "large"])
    # Production would have to read around it.
    assert sample.strategy == 2
    assert sample.content == "<think>\n\n</think>\n\nleft large"


def test_echo_does_not_hide_a_thought_or_an_empty_reply(nav: Workload) -> None:
    assert judged(nav, content="<think></think><think>Hm.</think>left large").error_class == "thinking"
    assert judged(nav, content="<think>\n</think>").error_class == "empty"
    assert judged(nav, content="<think>\n</think><think>\n</think>left").flags == ["think_echo"]


@pytest.mark.parametrize("row", THINKING, ids=repr)
def test_every_spelling_of_a_thought(nav: Workload, row: str) -> None:
    sample = judged(nav, content=row)
    assert (sample.error_class, sample.flags[-1]) == ("thinking", "thinking")


@pytest.mark.parametrize("row", EMPTY, ids=repr)
def test_an_empty_thought_in_every_spelling_is_none(nav: Workload, row: str) -> None:
    sample = judged(nav, content=row)
    assert (sample.error_class, sample.flags, sample.strategy) == (None, ["think_echo"], 2)
    assert sample.parsed == ["left", "large"]


@pytest.mark.parametrize("row", NO_THOUGHT, ids=repr)
def test_words_that_are_no_mark(nav: Workload, row: str) -> None:
    assert judged(nav, content=row).flags == []


@pytest.mark.parametrize(("message", "thought"), FIELDS, ids=[str(message) for message, _ in FIELDS])
def test_every_field_of_a_thought(nav: Workload, message: dict[str, Any], thought: bool) -> None:
    choice = {"message": {"content": "left large", **message}, "finish_reason": "stop"}
    reply = Reply(1.0, latency_ms=9.0)
    reply.take(read_document(json.dumps({"choices": [choice]}).encode()))
    streamed = StreamedReply()
    choice["delta"] = choice.pop("message")
    streamed.feed(f"data: {json.dumps({'choices': [choice]})}\n\n".encode(), 1.0)
    streamed.end()
    again = Reply(1.0, latency_ms=9.0)
    again.take(streamed.message)
    for one in (reply, again):
        sample = judge(one, 1, nav, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
        assert ("thinking" in sample.flags, sample.content) == (thought, "left large")


@pytest.mark.parametrize(
    ("usage", "thought"),
    [
        ({"completion_tokens_details": {"reasoning_tokens": 57}}, True),
        ({"output_tokens_details": {"reasoning_tokens": 57}}, True),
        ({"reasoning_tokens": 57}, True),
        ({"completion_tokens_details": {"reasoning_tokens": 0}}, False),
        ({"completion_tokens_details": {"reasoning_tokens": None}}, False),
        ({"completion_tokens_details": None}, False),
        ({"completion_tokens_details": [57]}, False),
        ({"completion_tokens_details": {"reasoning_tokens": True}}, False),
        ({"completion_tokens_details": {"reasoning_tokens": -1}}, False),
    ],
    ids=str,
)
def test_tokens_of_hidden_thoughts(nav: Workload, usage: dict[str, Any], thought: bool) -> None:
    reply = Reply(1.0, latency_ms=9.0)
    choice = {"message": {"content": "left large"}, "finish_reason": "stop"}
    reply.take(read_document(json.dumps({"choices": [choice], "usage": usage}).encode()))
    sample = judge(reply, 1, nav, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
    assert sample.error_class == ("thinking" if thought else None)
    assert not thought or "57 tokens" in str(sample.error_detail)


def test_a_call_of_a_tool_is_named(nav: Workload) -> None:
    called = judged(nav, content=None, tool_calls=(Call("go"),), finish_reason="tool_calls")
    assert (called.error_class, called.flags) == ("tool_calls", ["tool_calls", "empty", "finish_reason"])
    assert called.error_detail == "expected an answer, found a call of go"
    assert judged(nav, content=None, tool_calls=()).error_class == "tool_calls"


def test_a_refusal_says_its_words(nav: Workload) -> None:
    refused = judged(nav, content=None, refusal="I can not")
    assert (refused.error_class, refused.error_detail) == ("empty", "the model refuses to answer: 'I can not'")


def test_cache_is_flagged_when_it_is_not_as_asked(nav: Workload) -> None:
    assert judged(nav, cache_n=98).flags == ["cached", "cache_not_as_asked"]
    assert judged(nav, cache_n=98, cache_prompt=True).flags == ["cached"]
    assert judged(nav, cache_n=None).flags == []


def test_reconnection_is_flagged(nav: Workload) -> None:
    assert judged(nav, reconnected=True).flags == ["reconnected"]


def test_free_text_has_no_strategy(image: Path) -> None:
    sample = judged(load_workload("describe", image=image), content="A white ball on the left.")
    assert (sample.ok, sample.strategy, sample.parsed) == (True, None, None)


@pytest.mark.parametrize(
    ("name", "error_class", "strategy"),
    [
        ("good.json", None, 1),
        ("good.sse", None, 1),
        ("think-echo.json", None, 2),
        ("thinking-hidden.json", "thinking", None),
        ("thinking-hidden.sse", "thinking", None),
        ("thinking-visible.json", "thinking", None),
    ],
)
def test_recorded_replies(
    server: Any, nav: Workload, acts: Any, name: str, error_class: str | None, strategy: int | None
) -> None:
    server.script = [acts.recorded(name)]
    client = ChatClient(server.url, stream=name.endswith(".sse"))
    reply = client.send(client.encode(nav, cache_prompt=False), timeout_s=10, connect_timeout_s=5)
    client.close()
    sample = judge(reply, 1, nav, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
    assert (sample.error_class, sample.strategy) == (error_class, strategy)
    assert json.loads(json.dumps(sample.as_dict())) == sample.as_dict()


@pytest.mark.parametrize(
    "said",
    [
        {"finish_reason": "s3cret-of-n0body"},
        {"model": "s3cret-of-n0body"},
        {"content": "", "refusal": "No: s3cret-of-n0body"},
        {"content": "", "reasoning": "x" * 195 + "s3cret-of-n0body"},
        {"content": "", "tool_calls": (Call("s3cret-of-n0body", "{}"),), "finish_reason": "tool_calls"},
        {"error_class": "http_401", "error_detail": "bad key s3cret-of-n0body"},
    ],
)
def test_a_server_that_shows_its_key_is_not_repeated(
    nav: Workload, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    monkeypatch.setenv("TRIALBENCH_API_KEY", "s3cret-of-n0body")
    sample = judge(replace(GOOD, **said), 1, nav, cache_prompt=False, wall="2026-01-02T03:04:05.678Z")
    shown = json.dumps([sample.error_detail, sample.finish_reason, sample.model])
    assert "s3cr" not in shown
