"""Which engine a worker or a proof uses: options on the command line, over `fazai.conf`, over the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trialbench.engines.contract import Deadlines, Engine, Trial
from trialbench.engines.select import find_config, make_engine
from trialbench.worker.config import Endpoint, Settings, load

if TYPE_CHECKING:
    from trialbench.worker.config import Note


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


def choose(options: argparse.Namespace) -> Choice:
    """The engine that `options` (see `engines.select.add_options`) and the configuration describe.

    `--engine` may be left out: gemma-cpp. So may its `--config`, for the file in its usual place, if there is one.

    Raises:
        UsageError: a wrong configuration, or an option that the engine needs and that is missing.
        Refused: the URL's host is not allowed.
    """
    found = argparse.Namespace(**vars(options))
    found.engine = options.engine or "gemma-cpp"
    find_config(found)
    settings: Settings = Settings()
    notes: list[Note] = []
    if found.config is not None:
        settings, notes = load(found.config)

    def make(url: str | None) -> Engine:
        return make_engine(argparse.Namespace(**{**vars(found), "url": url or found.url}))

    return Choice(settings, make, tuple(str(note) for note in notes))


def fallback(endpoint: Endpoint, hosts: frozenset[str]) -> Engine:
    """The engine of one fallback."""
    from trialbench.engines.openai_stream import EndpointOptions, OpenAICompatible

    return OpenAICompatible(
        EndpointOptions(endpoint.url, model=endpoint.model, api_key=endpoint.api_key, allowed_hosts=hosts)
    )
