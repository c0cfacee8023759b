"""How models and servers spell thinking: one table for the fields of a reply, one for the marks in its text.

A new spelling is a new row. An *empty* thought, in whatever spelling, is not thinking: chat templates insert one where
thinking is switched off; it was not generated and cost no time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

# Fields of a message or a delta whose texts are thoughts, by the beginning of their names without `_` and capitals:
# reasoning_content (llama-server, vLLM, DeepSeek), reasoning (vLLM, Ollama, OpenRouter), reasoning_details
# (OpenRouter), thinking (Ollama), thinking_blocks (LiteLLM), thoughts, reasoningContent.
_FIELDS = ("reasoning", "thinking", "thought", "chainofthought", "cot")
# ... and fields that only say something about a thought.
_ABOUT = (
    "budget", "duration", "durationms", "effort", "enabled", "finished", "format", "id", "index", "language", "level",
    "mode", "model", "parser", "finishreason", "seconds", "signature", "status", "time", "timems", "tokens", "type",
)  # fmt: skip
# Parts of a content that are thoughts, by a word in their `type`: thinking (Mistral, Anthropic), redacted_thinking,
# reasoning, reasoning.text, thought.
_PART_TYPES = ("think", "thought", "reason")
# Where such a field or part has its text. `data` is what the server shows only encrypted: a thought nevertheless.
_TEXT_KEYS = ("text", "content", "thinking", "reasoning", "thought", "summary", "value", "encrypted_content", "data")
# Where the usage counts the tokens of thoughts that may be hidden: (object in the usage or None, name).
_TOKENS = (
    ("completion_tokens_details", "reasoning_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
    ("completion_tokens_details", "thinking_tokens"),
    (None, "reasoning_tokens"),
    (None, "thinking_tokens"),
    (None, "thoughts_token_count"),
)
_MAX_DEPTH = 8


class Mark(NamedTuple):
    """The marks around a thought in the text, as regular expressions without regard to case.

    `alone`: whether a closing mark without an opening one tells a thought: the opening one may be part of the prompt.
    """

    who: str
    opening: str
    closing: str
    alone: bool = True


_WORD = (
    r"(?:\w{1,24}[:_])?(?:think|thinking|thoughts?|reasoning|antthinking|scratchpad|cot_budget_reflect|monologue)"
    r"(?:_(?:process|start|begin|end|block|content))?"
)
_PLAIN_WORD = r"(?:think|thinking|thoughts?|reasoning)"
_LEFT, _RIGHT = "(?:[<\N{FULLWIDTH LESS-THAN SIGN}]|&lt;)", "(?:[>\N{FULLWIDTH GREATER-THAN SIGN}]|&gt;)"
_PIPE, _JOIN = "[|\N{FULLWIDTH VERTICAL LINE}]", "[_ \N{LOWER ONE EIGHTH BLOCK}]"
_SPACE = "[\\s\N{ZERO WIDTH SPACE}]*"
MARKS = (
    Mark(
        "<think>, <thinking>, <thought>, <reasoning>, <seed:think>, <longcat_think>: Qwen, DeepSeek, Seed, EXAONE, ...",
        rf"{_LEFT}\s*{_WORD}(?:\s[^<>&]{{0,200}})?{_RIGHT}",
        rf"{_LEFT}\s*/\s*{_WORD}\s*{_RIGHT}",
    ),
    Mark(
        "<|START_THINKING|>, <|begin_of_thought|>, <|think|>: Cohere, OpenThinker, Solar",
        rf"<{_PIPE}\s*(?:(?:start|begin)(?:{_JOIN}of)?{_JOIN})?{_PLAIN_WORD}(?:{_JOIN}(?:start|begin))?\s*{_PIPE}>",
        rf"<{_PIPE}\s*(?:(?:/|end(?:{_JOIN}of)?{_JOIN}){_PLAIN_WORD}|{_PLAIN_WORD}{_JOIN}end)\s*{_PIPE}>",
    ),
    Mark("<think_start>", rf"{_LEFT}{_PLAIN_WORD}_(?:start|begin){_RIGHT}", rf"{_LEFT}{_PLAIN_WORD}_end{_RIGHT}"),
    Mark(
        "[THINK]: Mistral; [BEGIN_THINK]",
        rf"\[(?:(?:start|begin)_)?{_PLAIN_WORD}\]",
        rf"\[(?:/|end_){_PLAIN_WORD}\]",
    ),
    Mark(
        "triangles: Kimi",
        "\N{WHITE LEFT-POINTING TRIANGLE}\\s*think\\s*\N{WHITE RIGHT-POINTING TRIANGLE}",
        "\N{WHITE LEFT-POINTING TRIANGLE}\\s*/\\s*think\\s*\N{WHITE RIGHT-POINTING TRIANGLE}",
    ),
    Mark(
        "harmony, the channel analysis: gpt-oss",
        r"<\|channel\|>\s*analysis\b[^<]{0,80}(?:<\|message\|>)?",
        r"<\|end\|>\s*(?:<\|start\|>\s*assistant\s*)?(?:<\|channel\|>\s*final\s*(?:<\|message\|>)?)?",
        alone=False,
    ),
    Mark(
        "harmony without its special tokens",
        r"\A\s*analysis(?=.*assistant\s?final)",
        r"assistant\s?final",
        alone=False,
    ),
    Mark("the channel thought: Gemma 4", rf"<\|?channel\|?>\s*{_PLAIN_WORD}\b(?:<\|message\|>)?", r"<channel\|>"),
    Mark("unused tokens: Gemma 3", r"<unused94>(?:\s*thought\b)?", r"<unused95>"),
    Mark("<|inner_prefix|>: Apertus", r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    Mark(
        "in words: Granite 3",
        r"\A\s*here(?: is|'s) my thought process:",
        r"here(?: is|'s) my response:",
        alone=False,
    ),
    Mark("a fenced block", rf"```\s*{_PLAIN_WORD}\b", r"```", alone=False),
)
_FLAGS = re.IGNORECASE | re.DOTALL
_EMPTY = [re.compile(f"(?:{mark.opening}){_SPACE}(?:{mark.closing}){_SPACE}", _FLAGS) for mark in MARKS]
_EMPTY += [
    # The opening mark was in the prompt, and nothing was thought.
    *(re.compile(rf"\A{_SPACE}(?:{mark.closing}){_SPACE}", _FLAGS) for mark in MARKS if mark.alone),
    re.compile(rf"{_LEFT}\s*{_WORD}\s*/\s*{_RIGHT}{_SPACE}", _FLAGS),
]
_THOUGHT = [re.compile(mark.opening, _FLAGS) for mark in MARKS]
_THOUGHT += [re.compile(mark.closing, _FLAGS) for mark in MARKS if mark.alone]


def without_empty(content: str) -> str:
    """`content` without its empty thoughts; the same text if it has none."""
    for pattern in _EMPTY:
        content = pattern.sub("", content)
    return content


def in_text(content: str) -> bool:
    """Whether `content`, which has no empty thoughts, holds a mark of thinking."""
    return any(pattern.search(content) for pattern in _THOUGHT)


def in_fields(message: Mapping[str, object]) -> str:
    """The thought in the fields of a message or a delta; empty if there is none.

    Servers that spell it in two fields at once repeat the same text, so the first one that has a text counts.
    """
    for name, value in message.items():
        if _is_field(name) and (found := text_of(value)):
            return found
    return ""


def is_part(part: Mapping[str, object]) -> bool:
    """Whether a part of a content is a thought: by its type, or by Gemini's `thought: true`."""
    kind = part.get("type")
    return part.get("thought") is True or (isinstance(kind, str) and any(word in kind.lower() for word in _PART_TYPES))


def text_of(value: object, depth: int = 0) -> str:
    """The text in `value`: a text, a list of texts or parts, or an object with one of the known keys."""
    if isinstance(value, str):
        return value
    if depth >= _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return "".join(text_of(one, depth + 1) for one in value)
    if isinstance(value, Mapping):
        return next((found for key in _TEXT_KEYS if (found := text_of(value.get(key), depth + 1))), "")
    return ""


def tokens(usage: Mapping[str, object]) -> object:
    """What the usage says about the tokens of thinking; None if it says nothing."""
    for group, name in _TOKENS:
        inside = usage if group is None else usage.get(group)
        if isinstance(inside, Mapping) and inside.get(name) is not None:
            found: object = inside[name]
            return found
    return None


def _is_field(name: str) -> bool:
    plain = name.replace("_", "").replace("-", "").lower()
    return plain.startswith(_FIELDS) and not (plain.endswith(_ABOUT) and plain not in _FIELDS)
