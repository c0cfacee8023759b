"""The settings of a configuration file, as options of the parts that use them, with defaults; `fazai.py` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trialbench.engines.contract import Deadlines, Request
from trialbench.engines.endpoint import EndpointOptions
from trialbench.engines.gemma_cpp import GemmaOptions

DEFAULT_SOCKET = Path("/run/fazai/gemma.sock")
# The name of the worker's own engine in status and log; no fallback may have it.
OWN_ENGINE = "local"
MODES = ("smart", "force_local", "force_fallback")
DEFAULT_GEMMA = GemmaOptions(
    binary=Path("/opt/fazai/bin/gemma"),
    weights=Path("/opt/fazai/models/gemma/2.0-2b-it-sfp.sbs"),
    model="gemma2-2b-it",
    temperature=1.0,
    top_k=1,
)
DEFAULT_DEADLINES = Deadlines(first_s=20.0, between_s=20.0, total_s=60.0)


@dataclass(frozen=True)
class Fallback:
    """One fallback, from the section that `fallback_order` names.

    `timeout_s`: maximum time for one of its replies; None: what the request allows.
    """

    name: str
    endpoint: EndpointOptions
    timeout_s: float | None = None


@dataclass(frozen=True)
class DispatcherSettings:
    """`[dispatcher]`: which engine answers. Without `fallback_order`, no prompt leaves the local engine."""

    gemma_enabled: bool = True
    fallback_timeout_s: float = 30.0
    fallback: tuple[Fallback, ...] = ()
    mode: str = "smart"
    retries: int = 2
    reconnect_wait_s: float = 30.0
    breaker_failures: int = 3
    breaker_open_s: float = 30.0


@dataclass(frozen=True)
class Limits:
    """The capacity of one worker.

    Attributes:
        clients: concurrent connections.
        queue: waiting requests of all clients.
        per_client: waiting and running requests of one client.
        slots: concurrent generations.
    """

    clients: int = 32
    queue: int = 16
    per_client: int = 4
    slots: int = 1


@dataclass(frozen=True)
class WorkerSettings:
    """`[gemma_worker]`: the socket and the bounds of the service."""

    unix_socket: Path = DEFAULT_SOCKET
    limits: Limits = Limits()
    max_line_bytes: int = 1 << 20
    send_timeout_s: float = 10.0
    stop_grace_s: float = 10.0


@dataclass(frozen=True)
class Settings:
    """Everything read from one file, or the defaults.

    `gemma` and `deadlines` are the two parts of `[gemma_cpp]`: the engine, and how long it may take.
    """

    gemma: GemmaOptions = DEFAULT_GEMMA
    deadlines: Deadlines = DEFAULT_DEADLINES
    dispatcher: DispatcherSettings = DispatcherSettings()
    worker: WorkerSettings = WorkerSettings()

    @property
    def defaults(self) -> Request:
        """The defaults of a request."""
        gemma = self.gemma
        return Request(
            max_tokens=gemma.max_tokens,
            temperature=gemma.temperature,
            top_k=gemma.top_k,
            deterministic=gemma.deterministic,
            deadlines=self.deadlines,
        )
