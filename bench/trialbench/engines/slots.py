"""What llama-server tells of its slots (`GET /slots`): whether they are at work, and the number of their last task.

A look costs the server one entry in its queue, and no slot: no reply waits for it longer than for itself.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

from trialbench.engines.transport import DeadlineError, WireTransport

_MAX_BYTES = 1 << 20


class SlotsError(Exception):
    """There is no such look; the text says why. `off`: this server will never give one."""

    def __init__(self, why: str, *, off: bool = False) -> None:
        super().__init__(why)
        self.off = off


@dataclass(frozen=True)
class Look:
    """The slots at one moment.

    `tasks`: slot to the number of the task that it ran last; slots that never ran one, or do not tell, are left out.
    `tokens`: tokens of the prompts that lie in the slots' caches, 0 where the server does not tell.
    """

    at_s: float
    busy: int = 0
    tasks: dict[int, int] = field(default_factory=dict)
    tokens: int = 0

    @property
    def newest(self) -> int | None:
        """The highest task number: the task that was posted last of those that were run."""
        return max(self.tasks.values(), default=None)


class Slots:
    """Looks at the slots of one server, over a connection of its own: the measured one stays as it is.

    Args:
        url: the server, with or without a trailing `/v1`.
        api_key: sent as bearer token.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self._transport = WireTransport(keep_alive=True)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx.Client(transport=self._transport, headers=headers, trust_env=False)
        self._url = url.rstrip("/").removesuffix("/v1") + "/slots"

    def look(self, limit_s: float) -> Look:
        """One look, over within `limit_s`.

        Raises:
            SlotsError: none to be had.
        """
        for fresh in (False, True):
            try:
                return self._look(limit_s)
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                # A kept connection may be closing just now; a new one tells.
                if fresh:
                    raise SlotsError(f"GET /slots: {error or type(error).__name__}") from None
        raise AssertionError("unreachable")

    def _look(self, limit_s: float) -> Look:
        self._transport.wire.deadline_s = time.monotonic() + limit_s
        try:
            with contextlib.closing(
                self._client.send(self._client.build_request("GET", self._url), stream=True)
            ) as got:
                body = b""
                for chunk in got.iter_raw():
                    body += chunk
                    if len(body) > _MAX_BYTES:
                        raise SlotsError("GET /slots: a reply longer than 1 MiB", off=True)
        except (DeadlineError, httpcore.TimeoutException):
            raise SlotsError(f"GET /slots: no answer within {limit_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SlotsError(f"GET /slots: {type(error).__name__}: {error}", off=True) from None
        if got.status_code != 200:
            # 501 is llama-server started with --no-slots, 404 another program. One that still loads says 503.
            raise SlotsError(f"GET /slots answers {got.status_code}", off=got.status_code not in (429, 503))
        return _read(body)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _read(body: bytes) -> Look:
    try:
        slots = json.loads(body)
        states: list[dict[str, Any]] = [dict(slot) for slot in slots]
        busy = sum(slot["is_processing"] is True for slot in states)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise SlotsError(f"GET /slots is no list of slots: {type(error).__name__} {error}"[:200], off=True) from None
    tasks, tokens = {}, 0
    for place, slot in enumerate(states):
        task, held = slot.get("id_task"), slot.get("n_prompt_tokens")
        if isinstance(task, int) and task >= 0:
            tasks[place] = task
        if isinstance(held, int):
            tokens += max(0, held)
    return Look(time.monotonic(), busy, tasks, tokens)
