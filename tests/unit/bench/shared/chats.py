"""The reply "left large" as servers send it, whole or as a stream, for tests to change it."""

from __future__ import annotations

import json
from typing import Any

Chunk = dict[str, Any]


def chunk(content: Any = None, finish: Any = None, **more: Any) -> Chunk:
    """A chunk of a chat completion."""
    delta = {} if content is None else {"content": content}
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def data(*events: Chunk | str) -> bytes:
    """Events as the standard writes them."""
    return "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in events).encode()


ROLE, LEFT, LARGE, STOP = chunk(""), chunk("left"), chunk(" large"), chunk(finish="stop")
USAGE: Chunk = {"model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
HEAD, TAIL = data(ROLE, LEFT), data(LARGE, STOP, USAGE, "[DONE]")
GOOD = HEAD + TAIL


def completion(content: Any = "left large", finish: Any = "stop", **message: Any) -> Chunk:
    """A whole chat completion; `message`: more fields of the message."""
    said = {"role": "assistant", "content": content, **message}
    return {"model": "m", "choices": [{"index": 0, "message": said, "finish_reason": finish}], "usage": USAGE["usage"]}
