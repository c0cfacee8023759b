"""Makes engines from their options: the one that a worker or a proof uses, and those of its fallbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trialbench.config.settings import Settings
from trialbench.engines.contract import Engine
from trialbench.engines.endpoint import EndpointOptions
from trialbench.engines.gemma_cpp import GemmaOptions


@dataclass(frozen=True)
class EngineChoice:
    """The engine that was chosen, and everything read on the way.

    Attributes:
        make: makes another one of the same kind; with a URL, one that asks there instead.
        warnings: about the configuration, for people.
    """

    settings: Settings
    make: Callable[[str | None], Engine]
    warnings: tuple[str, ...] = ()


def gemma_engine(options: GemmaOptions, *, memory_mib: float | None = None) -> Engine:
    """gemma.cpp with a supervisor of its own, which ends a generation that takes more than `memory_mib`."""
    from trialbench.engines.gemma_cpp import GemmaCpp
    from trialbench.engines.supervisor import Bounds, Supervisor

    engine = GemmaCpp(options, Supervisor(Bounds(memory_mib=memory_mib)))
    engine.owns_supervisor = True
    return engine


def http_engine(name: str, endpoint: EndpointOptions, *, gguf: Path | None = None) -> Engine:
    """The engine `llama-server` or `openai`; httpx is imported with the first one made.

    Raises:
        Refused: the URL is no URL, or its host is not allowed.
    """
    from trialbench.engines.openai import LlamaServer, OpenAICompatible

    return LlamaServer(endpoint, gguf=gguf) if name == "llama-server" else OpenAICompatible(endpoint)
