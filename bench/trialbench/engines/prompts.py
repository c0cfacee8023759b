"""The text of a prompt, for engines that accept only text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trialbench.engines.contract import Refused, Request
from trialbench.engines.failures import BAD_ARGUMENTS, UNSUPPORTED, Failure


def prompt_text(request: Request) -> str:
    """`prompt`, or the texts of `messages`: what the system says, a blank line, what the user says.

    Raises:
        Refused: there is no text, there is an image or another part that is not text, or there is an earlier answer of
            the model, which this engine can't mark as such.
    """
    if request.prompt is not None:
        text = request.prompt
    else:
        text = "\n\n".join(_message_text(message, index) for index, message in enumerate(request.messages or ()))
    if not text.strip():
        raise Refused(Failure(BAD_ARGUMENTS, "prompt: expected a text, found none"))
    return text


def _message_text(message: Mapping[str, Any], index: int) -> str:
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user"):
        raise Refused(
            Failure(UNSUPPORTED, f"messages[{index}].role: this engine takes system and user, found {role!r:.40}")
        )
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(Failure(BAD_ARGUMENTS, f"messages[{index}].content: expected a text or a list of parts"))
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind != "text" or not isinstance(part.get("text"), str):
            raise Refused(Failure(UNSUPPORTED, f"messages[{index}]: this engine takes text only, found {kind!r:.40}"))
        texts.append(part["text"])
    return "\n".join(texts)
