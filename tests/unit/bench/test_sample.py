"""What makes a sample valid: the rules of the spec, one case each, on recorded and made replies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import accept
from trialbench import schemas
from trialbench.measure.client import ChatClient, Reply
from trialbench.measure.sample import Sample, judge
from trialbench.workloads import Workload, load_workload

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
    # An invalid reply is never adherent, whatever its words.
    assert sample.strategy == (1 if sample.ok else None)


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
    assert judged(nav, content="left large <think></think>").error_class == "thinking"


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
