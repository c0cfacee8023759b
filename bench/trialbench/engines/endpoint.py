"""The options of an HTTP endpoint; importing them loads no HTTP client."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EndpointOptions:
    """An endpoint and its declared properties.

    Args:
        url: `http://HOST:PORT`, with or without a trailing `/v1`.
        model: sent as `model` and put on the label.
        bits: declared; None: unknown.
        allowed_hosts: names and addresses that may be asked besides the loopback. Empty: only the loopback.
        json_schema: whether the endpoint supports `response_format: json_schema`; refused unless declared.
    """

    url: str
    model: str | None = None
    bits: int | None = None
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: frozenset[str] = frozenset()
    json_schema: bool = False
