"""Makes engines from their options, for workers, proofs and fallbacks."""

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
    """The chosen engine, and the configuration it comes from.

    Attributes:
        make: makes another engine of the same kind; with a URL, one for that server.
        warnings: about the configuration, as readable text.
    """

    settings: Settings
    make: Callable[[str | None], Engine]
    warnings: tuple[str, ...] = ()


def gemma_engine(options: GemmaOptions, *, memory_mib: float | None = None) -> Engine:
    """gemma.cpp with its own supervisor, which ends a generation that exceeds `memory_mib`."""
    from trialbench.engines.gemma_cpp import GemmaCpp
    from trialbench.engines.supervisor import Bounds, Supervisor

    engine = GemmaCpp(options, Supervisor(Bounds(memory_mib=memory_mib)))
    engine.owns_supervisor = True
    return engine


def http_engine(name: str, endpoint: EndpointOptions, *, gguf: Path | None = None) -> Engine:
    """The engine `llama-server` or `openai`; httpx is imported with the first one made.

    Raises:
        Refused: the URL is invalid, or its host is not allowed.
    """
    from trialbench.engines.openai import LlamaServer, OpenAICompatible

    return LlamaServer(endpoint, gguf=gguf) if name == "llama-server" else OpenAICompatible(endpoint)
