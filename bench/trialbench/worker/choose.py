"""The engine that a worker or a proof uses, and the engines of its fallbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trialbench.engines.contract import Deadlines, Engine, Trial
from trialbench.worker.config import Endpoint, Settings


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, and everything read on the way.

    Attributes:
        make: makes another one of the same kind; with a URL, one that asks there instead.
        warnings: about the configuration, for people.
    """

    settings: Settings
    make: Callable[[str | None], Engine]
    warnings: tuple[str, ...] = ()

    @property
    def defaults(self) -> Trial:
        """What a request gets that names nothing."""
        gemma = self.settings.gemma
        deadlines = Deadlines(
            first_s=min(gemma.first_token_timeout_s, gemma.generation_timeout_s),
            between_s=gemma.token_timeout_s,
            total_s=gemma.generation_timeout_s,
        )
        return Trial(
            max_tokens=gemma.max_tokens,
            temperature=gemma.temperature,
            top_k=gemma.top_k,
            deterministic=gemma.deterministic,
            deadlines=deadlines,
        )


def fallback(endpoint: Endpoint, hosts: frozenset[str]) -> Engine:
    """The engine of one fallback."""
    from trialbench.engines.openai_stream import EndpointOptions, OpenAICompatible

    return OpenAICompatible(
        EndpointOptions(endpoint.url, model=endpoint.model, api_key=endpoint.api_key, allowed_hosts=hosts)
    )
