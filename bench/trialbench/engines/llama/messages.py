"""Parses chat completions, complete or streamed, for measuring and for generating.

A reply is untrusted data. The parser keeps fields of the right type and raises Python's own errors for a wrong shape
(`PARSE_ERRORS`). It does not clean texts: an unpaired surrogate may be completed by the next event, so only the caller
knows when to clean them (`clean`).

Lines of a stream end only at the byte `\\n`. Text splitters such as `httpx.Response.iter_lines` also split at U+0085
and U+2028, which may appear unescaped in the JSON of an event, and so break valid replies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# Errors of `json.loads`, and errors of reading a document with the wrong shape.
JSON_ERRORS = (ValueError, RecursionError)
PARSE_ERRORS = (*JSON_ERRORS, LookupError, TypeError, AttributeError)
# Larger numbers are ignored, `Infinity`, `NaN` and 1e999 among them.
_MAX_NUMBER = 1e12


@dataclass(slots=True)
class Message:
    """A complete reply, or what one event of a stream adds to it.

    Attributes:
        texts: by the server's names: `content`, `reasoning_content` or `reasoning`, and others.
        counts: tokens and times, if the server reports them: `prompt_tokens` and `completion_tokens` of the usage,
            `prompt_n` (tokens that were processed), `cached_tokens`, `prompt_ms` and `predicted_ms`.
        error: the server's error in place of a reply; None: no error.
        last: no further event is needed.
    """

    texts: dict[str, str] = field(default_factory=dict)
    ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    counts: dict[str, float] = field(default_factory=dict)
    model: str | None = None
    error: object = None
    last: bool = False

    @property
    def content(self) -> str | None:
        """The text of the reply, if there is one."""
        return self.texts.get("content")

    @property
    def reasoning(self) -> str | None:
        """The thinking before it, if any: llama-server names it `reasoning_content`, others `reasoning`."""
        return self.texts.get("reasoning_content") or self.texts.get("reasoning")


def events(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(field, value) of every non-empty line, both `data` and `error`; comments are skipped.

    Each event of this protocol is one line, so lines are yielded as they complete. An incomplete last line is not
    yielded: the connection broke inside it.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").decode("utf-8", "replace").partition(":")
            if name:
                yield name, value.removeprefix(" ")


def read_document(body: bytes, message: Message) -> None:
    """Read a complete chat completion into `message`.

    Raises:
        PARSE_ERRORS: it is not a chat completion; `message` keeps the fields found so far.
    """
    document = json.loads(body)
    choice = document["choices"][0]
    _add_texts(message, choice["message"])
    message.finish_reason = text(choice.get("finish_reason"))
    message.model = _model(document)
    message.counts = _counts(document)


def read_event(name: str, value: str, *, strict: bool) -> Message:
    """One line of a chat completion's stream.

    `strict`: a line that is not an event of a chat completion is an error. A measurement must understand everything it
    counts; a generation skips what it does not need.

    Raises:
        PARSE_ERRORS: it can't be read.
    """
    if value == "[DONE]":
        return Message(last=True)
    if not strict and name not in ("data", "error"):
        return Message()
    event = json.loads(value)
    # Some servers send a null error with every event.
    if name == "error" or ("error" in event if strict else event.get("error") is not None):
        return Message(error=value if strict else event.get("error") or event)
    message = Message(counts=_counts(event), model=_model(event))
    for choice in event["choices"] if strict else event.get("choices") or ():
        _add_texts(message, choice["delta"] if strict else choice.get("delta") or {})
        message.finish_reason = text(choice.get("finish_reason")) or message.finish_reason
    return message


def read_completion_event(name: str, value: str) -> Message:
    """One line of the stream of llama-server's own `/completion`.

    Raises:
        PARSE_ERRORS: it can't be read.
    """
    if value == "[DONE]":
        return Message(last=True)
    if name not in ("data", "error"):
        return Message()
    event = json.loads(value)
    if name == "error" or "error" in event:
        return Message(error=event.get("error") or event)
    message = Message(ids=tuple(one for raw in event.get("tokens") or () if (one := count(raw)) is not None))
    if isinstance(event.get("content"), str):
        message.texts["content"] = event["content"]
    if event.get("stop") is True:
        message.last = True
        message.finish_reason = text(event.get("stop_type")) or ("length" if event.get("stopped_limit") else "stop")
        message.counts = _counts(event)
        # The usage has different names here than in a chat.
        for ours, theirs in (("prompt_tokens", "tokens_evaluated"), ("completion_tokens", "tokens_predicted")):
            if (number := count(event.get(theirs))) is not None:
                message.counts[ours] = number
    return message


def text(value: object) -> str | None:
    """`value`, cleaned, if it is a text."""
    return clean(value) if isinstance(value, str) else None


def clean(value: str) -> str:
    """Replace unpaired surrogates, which JSON allows but no file can hold, with U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count(value: object) -> int | None:
    """`value` if it is a count."""
    number = _number(value)
    return None if number is None else int(number)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= _MAX_NUMBER else None


def _add_texts(message: Message, delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        if isinstance(value, str) and key != "role":
            message.texts[key] = message.texts.get(key, "") + value


def _model(document: Mapping[str, Any]) -> str | None:
    return text(document.get("model"))


def _counts(document: Mapping[str, Any]) -> dict[str, float]:
    usage, timings = document.get("usage") or {}, document.get("timings") or {}
    details = usage.get("prompt_tokens_details") or {}
    found = {
        "prompt_tokens": count(usage.get("prompt_tokens")),
        "completion_tokens": count(usage.get("completion_tokens")),
        "prompt_n": count(timings.get("prompt_n")),
        # Without timings, OpenAI's own field reports the cache.
        "cached_tokens": count(timings.get("cache_n", details.get("cached_tokens"))),
        "prompt_ms": _number(timings.get("prompt_ms")),
        "predicted_ms": _number(timings.get("predicted_ms")),
    }
    return {name: value for name, value in found.items() if value is not None}
