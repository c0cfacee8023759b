"""Builds a worker's dispatcher from the configuration: backends with their breakers, router, policy."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from trialbench.config.engine import http_engine
from trialbench.config.settings import OWN_ENGINE, DispatcherSettings
from trialbench.credentials import redact
from trialbench.engines.contract import Deadlines, Engine
from trialbench.worker.breaker import Breaker
from trialbench.worker.clock import SystemClock
from trialbench.worker.dispatch import Dispatcher, Policy
from trialbench.worker.retry import RetryPolicy
from trialbench.worker.routing import Backend, Router

Log = Callable[[str, dict[str, Any]], None]


def dispatcher(
    settings: DispatcherSettings,
    local: Engine | None,
    *,
    log: Log,
    patience: Deadlines | None = None,
) -> Dispatcher:
    """The dispatcher that `[dispatcher]` describes, around `local`, which is None if it is switched off.

    `patience`: the default deadlines of a request.
    """
    clock = SystemClock()

    def backend(name: str, engine: Engine, *, own: bool, limit_s: float | None = None) -> Backend:
        breaker = Breaker(clock, failures=settings.breaker_failures, open_s=settings.breaker_open_s)
        return Backend(name, engine, breaker, clock, local=own, limit_s=limit_s)

    others = [
        backend(one.name, http_engine("openai", one.endpoint), own=False, limit_s=one.timeout_s)
        for one in settings.fallback
    ]
    router = Router(None if local is None else backend(OWN_ENGINE, local, own=True), others, settings.mode)
    policy = Policy(
        retry=RetryPolicy(retries=settings.retries),
        fallback_timeout_s=settings.fallback_timeout_s,
        reconnect_wait_s=settings.reconnect_wait_s,
        patience=patience,
    )
    return Dispatcher(router, policy, clock=clock, log=log)


def stderr_log(event: str, fields: dict[str, Any]) -> None:
    """Log one JSON object per line to standard error, where systemd's journal reads it; never a prompt or a reply.

    A log that can't be written must not stop the worker: such lines are lost.
    """
    line = json.dumps({"t": round(time.time(), 3), "event": event, **fields}, ensure_ascii=True, default=str)
    if sys.stderr is None:
        return  # closed from the start
    try:
        os.write(sys.stderr.fileno(), redact(line).encode() + b"\n")
    except OSError:
        pass
