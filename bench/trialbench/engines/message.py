"""One reply, as its engine gave it: the same type for every engine, so that one judge can read them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

FaultKind = Literal["server_error", "bad_json", "bad_reply", "dropped"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why what came is not a reply.

    Attributes:
        kind: the server reports an error in place of a reply; it sent something that is not JSON, or no reply; or the
            connection ended within it.
        detail: the server's message, or what was expected and found; untrusted text.
        code: the HTTP status that the server's error names, if any.
    """

    kind: FaultKind
    detail: str
    code: int | None = None


class Call(NamedTuple):
    """A function that the model calls; `arguments` is the text as it came, JSON if the model kept to it."""

    name: str
    arguments: str = ""


@dataclass(slots=True)
class Message:
    """A reply, or the part of it that has arrived.

    Attributes:
        content: the text, cleaned; None: there was no such field.
        reasoning: the text of the thinking that came in fields or parts of its own.
        refusal: the words of a model that declines to answer.
        tool_calls: the functions that it calls instead of answering, in order; None: it calls none.
        finish_reason: the engine's own word; None: it said none.
        counts: tokens and times in milliseconds, as far as the engine reports them: `prompt_tokens` and
            `completion_tokens` of the usage, `thinking_tokens` of the completion, `prompt_n` (tokens that were
            processed), `cached_tokens`, `prompt_ms` and `predicted_ms`.
        model: the name that the server gives itself.
        fault: None for a reply.
    """

    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[Call, ...] | None = None
    finish_reason: str | None = None
    counts: dict[str, float] = field(default_factory=dict)
    model: str | None = None
    fault: Fault | None = None
