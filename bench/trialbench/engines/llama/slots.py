"""Reads llama-server's slots (`GET /slots`): whether they are busy, and the number of their last task.

A look takes one entry in the server's queue but no slot, so it hardly delays replies.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from trialbench.engines.llama.wire import Answer, Connection, WireError
from trialbench.urls import server

_MAX_BYTES = 1 << 20


class SlotsError(Exception):
    """The slots can't be read; the text says why.

    Attributes:
        off: this server will never show them.
        hidden: it answers, but does not show slots.
        timed_out: it did not answer in time.
        status: the HTTP status of its answer, if there was one.
    """

    def __init__(
        self, why: str, *, off: bool = False, hidden: bool = False, timed_out: bool = False, status: int | None = None
    ) -> None:
        super().__init__(why)
        self.off = off
        self.hidden = hidden
        self.timed_out = timed_out
        self.status = status


@dataclass(frozen=True)
class Look:
    """The slots at one moment.

    `tasks`: slot to the number of its last task; slots that never ran one, or do not report it, are left out.
    `tokens`: tokens of the prompts in the slots' caches, 0 if the server does not report them.
    """

    at_s: float
    busy: int = 0
    tasks: dict[int, int] = field(default_factory=dict)
    tokens: int = 0

    @property
    def newest(self) -> int | None:
        """The highest task number: of the tasks that ran, the one that was posted last."""
        return max(self.tasks.values(), default=None)


class Slots:
    """Looks at the slots of one server, over a separate connection: the measured one is not affected.

    Args:
        url: the server, with or without a trailing `/v1`.
        api_key: sent as bearer token.

    Raises:
        UsageError: `url` names no server.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self._connection = Connection(
            server(url, "url"), api_key=api_key, keep_alive=True, headers={"Accept": "application/json"}
        )

    def look(self, limit_s: float) -> Look:
        """One look, within `limit_s`.

        Raises:
            SlotsError: the slots can't be read.
        """
        try:
            answer = self._fetch(limit_s)
        except WireError as error:
            if error.timed_out:
                raise SlotsError(f"GET /slots: no answer within {limit_s:g} s", timed_out=True) from None
            detail = f"a reply {error}" if error.kind == "too_long" else error
            raise SlotsError(f"GET /slots: {detail}", off=error.kind in ("unusable", "too_long")) from None
        status = answer.status
        if status != 200:
            # 501: llama-server with --no-slots; 404: another program; 503: a llama-server that is still loading.
            off = status not in (429, 503)
            raise SlotsError(f"GET /slots answers {status}", off=off, hidden=status in (404, 501), status=status)
        return _read(bytes(answer.body))

    def _fetch(self, limit_s: float) -> Answer:
        try:
            return self._connection.fetch("GET", "/slots", timeout_s=limit_s, limit=_MAX_BYTES)
        except WireError as error:
            if error.timed_out or error.kind not in ("connect", "dropped"):
                raise
            # The server may just be closing a kept connection: try again on a new one.
            return self._connection.fetch("GET", "/slots", timeout_s=limit_s, limit=_MAX_BYTES)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _read(body: bytes) -> Look:
    is_json = False
    try:
        slots = json.loads(body)
        is_json = True
        states: list[dict[str, Any]] = [dict(slot) for slot in slots]
        busy = sum(slot["is_processing"] is True for slot in states)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        why = f"GET /slots is not a list of slots: {type(error).__name__} {error}"[:200]
        raise SlotsError(why, off=True, hidden=is_json, status=200) from None
    tasks, tokens = {}, 0
    for place, slot in enumerate(states):
        task, held = slot.get("id_task"), slot.get("n_prompt_tokens")
        if isinstance(task, int) and task >= 0:
            tasks[place] = task
        if isinstance(held, int):
            tokens += max(0, held)
    return Look(time.monotonic(), busy, tasks, tokens)
