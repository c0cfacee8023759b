"""Lets a measurement use any engine as its client, with the same workloads, samples and statistics as llama-server.

What a server says becomes the same `Reply` as with `ChatClient`, so that the same judge gives the same sample. An
engine's own failure becomes `connect`, `timeout` or `http_<status>`; without a status the code of the failure table
stands for it, and the detail begins with the name of the failure class.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from trialbench.engines.contract import Deadlines, Engine, Generation, Label, Refused, Request, Result
from trialbench.engines.failures import (
    BAD_REPLY,
    CONNECTION,
    EMPTY_OUTPUT,
    REPLACEMENT_CHARACTERS,
    TIMEOUT,
    Failure,
)
from trialbench.errors import TrialbenchError
from trialbench.measure.client import Reply
from trialbench.workloads import Workload

_SAME = {CONNECTION.name: "connect", TIMEOUT.name: "timeout", BAD_REPLY.name: "bad_reply"}
# Complete replies that a worker does not pass on; a measurement judges them itself.
_COMPLETE = (EMPTY_OUTPUT, REPLACEMENT_CHARACTERS)


class MixedSourcesError(TrialbenchError):
    """A reply came from a source other than the measured engine."""


class EngineClient:
    """Takes the place of `ChatClient` in a measurement.

    Args:
        engine: closed by `close`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._source = engine.label.source
        self._lock = threading.RLock()
        self._generation: Generation | None = None
        self._interrupted_s = float("inf")

    def encode(self, workload: Workload, *, cache_prompt: bool) -> bytes:
        """The request as JSON, the same for every sample of a segment."""
        body: dict[str, Any] = {"messages": workload.messages, "max_tokens": workload.limits.max_tokens}
        body |= {"temperature": workload.limits.temperature, "cache_prompt": cache_prompt}
        return json.dumps({**body, "request": dict(workload.request)}).encode()

    def interrupt(self, grace_s: float) -> None:
        """From a signal handler: the request in flight may take `grace_s` more seconds."""
        with self._lock:
            self._interrupted_s = min(self._interrupted_s, time.monotonic() + grace_s)
            generation = self._generation
        if generation is not None:
            _after(grace_s, generation)

    def send(self, body: bytes, *, timeout_s: float, connect_timeout_s: float, until_s: float = float("inf")) -> Reply:  # noqa: ARG002 - as `ChatClient` has it
        """One request and its reply; see `ChatClient.send`."""
        asked = json.loads(body)
        now_s = time.monotonic()
        own_s = min(until_s, self._interrupted_s)
        left_s = max(min(timeout_s, own_s - now_s), 0.001)
        request = asked["request"]
        request = Request(
            messages=asked["messages"],
            max_tokens=asked["max_tokens"],
            temperature=asked["temperature"],
            cache_prompt=asked["cache_prompt"],
            deadlines=Deadlines(total_s=left_s),
            **{name: request.pop(name) for name in ("top_k", "top_p", "seed", "repeat_penalty") if name in request},
            extra=request,
        )
        try:
            generation = self._engine.start(request)
        except Refused as error:
            return Reply(now_s, error_class=f"http_{error.failure.failure_class.code}", error_detail=str(error))
        with self._lock:
            self._generation = generation
        try:
            result = generation.result()
        finally:
            with self._lock:
                self._generation = None
        if result.label.source != self._source:
            raise MixedSourcesError(
                f"a benchmark never mixes sources: expected replies of {self._source}, found one of "
                f"{result.label.source}: switch the fallback off"
            )
        return _reply(result, cut_off=time.monotonic() >= min(until_s, self._interrupted_s))

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def label_text(label: Label) -> str:
    """A label in one line: `gemma2-2b-it (gemma_local, 8 bit)`."""
    bits = "bits unknown" if label.bits is None else f"{label.bits} bit"
    return f"{label.model or 'unnamed'} ({label.source}, {bits})"


def _after(grace_s: float, generation: Generation) -> None:
    timer = threading.Timer(grace_s, generation.cancel)
    timer.daemon = True
    timer.start()


def _reply(result: Result, *, cut_off: bool) -> Reply:
    failure = result.failure
    reply = Reply(result.started_s, ttft_ms=result.ttft_ms)
    reply.take(result.message)
    if result.finish_reason == "cancelled" or (failure is not None and failure.failure_class is TIMEOUT and cut_off):
        reply.error_class, reply.error_detail = "cut_off", "ended by the time limit or a signal"
    elif reply.error_class is not None:
        return reply
    elif failure is None or failure.failure_class in _COMPLETE:
        reply.latency_ms = result.total_ms
    else:
        reply.error_class = _error_class(failure)
        reply.error_detail = f"{failure.failure_class.name}: {failure.detail}"
    return reply


def _error_class(failure: Failure) -> str:
    row = failure.failure_class
    return f"http_{failure.status}" if failure.status is not None else _SAME.get(row.name, f"http_{row.code}")
