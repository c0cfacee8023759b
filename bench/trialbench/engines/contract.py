"""The engine contract: one interface for everything that turns a prompt into a stream of tokens.

    engine.probe()                       whether it is usable, its version and hashes
    generation = engine.start(request)
    for event in generation.events():    Started, Token..., then exactly one Done or Failed
        ...
    generation.cancel()                  from any thread, at any moment; ends in Done("cancelled")
    generation.result()                  text, usage, times, memory, and the engine and model they come from

An engine raises nothing once `start` has returned: a failure is the last event. `start` itself raises `Refused` if the
request asks for something that the engine can't do; nothing has begun then. Times are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from trialbench.engines.failures import BAD_ARGUMENTS, UNSUPPORTED, Failure
from trialbench.engines.message import Message
from trialbench.errors import TrialbenchError

Source = Literal["gemma_local", "llama_server", "openai_compatible", "apr", "transformers"]
# Why a reply ended: the model ended it, the token limit, our cancel, or "unknown" if the engine does not say.
FinishReason = Literal["stop", "length", "cancelled", "unknown"]
# Optional features of an engine; `Probe.capabilities` lists those of one engine.
Capability = Literal["grammar", "json_schema", "allowed_tokens", "messages", "token_ids", "tokenize", "seed", "cache"]

DEFAULT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Label:
    """The origin of a result. `bits` is None if it was not declared; it is never guessed."""

    source: Source
    model: str | None = None
    bits: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """`source`, `model`, `bits`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: to the first byte of the reply, between two tokens, and over the whole generation. None: no bound but
    the total, which always counts."""

    first_s: float | None = None
    between_s: float | None = None
    total_s: float = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the reply may consist of; exactly one is given. `allowed_tokens` are ids or pieces of text."""

    grammar: str | None = None
    json_schema: Mapping[str, Any] | None = None
    allowed_tokens: Sequence[int | str] | None = None

    @property
    def needs(self) -> Capability:
        """The capability that an engine needs for it.

        Raises:
            Refused: not exactly one is given.
        """
        given: list[Capability] = []
        if self.grammar is not None:
            given.append("grammar")
        if self.json_schema is not None:
            given.append("json_schema")
        if self.allowed_tokens is not None:
            given.append("allowed_tokens")
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise Refused(Failure(BAD_ARGUMENTS, f"constraint: expected exactly one kind, found {found}"))
        return given[0]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. A value of None leaves the choice to the engine.

    Exactly one of `prompt` (a text), `messages` (OpenAI's form; engines without `messages` get their text joined) and
    `prompt_ids` (token ids; only engines with `token_ids`). `extra` holds further fields for engines that take a JSON
    body; a name the engine does not know is refused.
    """

    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    prompt_ids: Sequence[int] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    deterministic: bool | None = None
    cache_prompt: bool = False
    constraint: Constraint | None = None
    deadlines: Deadlines = Deadlines()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has the request. `t_s`: when its process ran or the request's first byte left."""

    t_s: float


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the reply, never empty; whole characters. `id` where the engine tells it."""

    text: str
    t_s: float
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and the engine's own times in milliseconds; None where it does not say. `chunks`: `Token` events."""

    chunks: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_ms: float | None = None
    predicted_ms: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Done:
    """The reply is complete, or was canceled by us. The engine is quiet: no process, no busy slot is left."""

    finish_reason: FinishReason
    usage: Usage
    t_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The reply failed; the engine is quiet anyway."""

    failure: Failure
    t_s: float


Event: TypeAlias = Started | Token | Done | Failed


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a generation.

    `quiet_ms`: from the cancel or the passed deadline until nothing of it was left; None where it ended by itself.
    `clean`: whether that was proved (no process of the group left, pipes drained; the server's slot seen free).
    `peak_mib`: the engine's peak memory, where it is ours to see.
    `message`: the reply in the engine's own words, with everything that a judge needs.
    """

    label: Label
    text: str
    finish_reason: FinishReason | None
    failure: Failure | None
    usage: Usage
    started_s: float
    first_token_s: float | None
    ended_s: float
    quiet_ms: float | None = None
    clean: bool = True
    peak_mib: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    message: Message = field(default_factory=Message)

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token in milliseconds."""
        return None if self.first_token_s is None else round((self.first_token_s - self.started_s) * 1000, 3)

    @property
    def total_ms(self) -> float:
        """From the start to the end in milliseconds."""
        return round((self.ended_s - self.started_s) * 1000, 3)

    def as_dict(self) -> dict[str, Any]:
        """A JSON object with `source`, `model` and `bits` at the top level."""
        return {
            **self.label.as_dict(),
            "text": self.text,
            "finish_reason": self.finish_reason,
            "error": self.failure.as_dict() if self.failure else None,
            "usage": self.usage.as_dict(),
            "ttft_ms": self.ttft_ms,
            "total_ms": self.total_ms,
            "quiet_ms": self.quiet_ms,
            "clean": self.clean,
            "peak_mib": self.peak_mib,
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether an engine is usable, and what it is.

    `facts`: threads, seq_len, pin, map, CPU features, whatever it says about itself.
    `hashes`: name to SHA-256 of binary, weights and tokenizer, for engines whose files are ours to read.
    """

    usable: bool
    label: Label
    failure: Failure | None = None
    version: str | None = None
    capabilities: frozenset[Capability] = frozenset()
    hashes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def constrained_decoding(self) -> bool:
        """Whether any kind of constraint is supported."""
        return bool(self.capabilities & {"grammar", "json_schema", "allowed_tokens"})

    def as_dict(self) -> dict[str, Any]:
        """A JSON object with `source`, `model` and `bits` at the top level."""
        return {
            **self.label.as_dict(),
            "usable": self.usable,
            "error": self.failure.as_dict() if self.failure else None,
            "version": self.version,
            "capabilities": sorted(self.capabilities),
            "constrained_decoding": self.constrained_decoding,
            "hashes": dict(self.hashes),
            "facts": dict(self.facts),
        }


class Refused(TrialbenchError):
    """Nothing was started: the request can't be served by this engine. `failure` says why, as `Failed` would."""

    exit_code = 2

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.failure_class.name}: {failure.detail}")
        self.failure = failure


class Generation(Protocol):
    """One running reply. `events` is for one thread; `cancel` for any."""

    def events(self) -> Iterator[Event]:
        """Started, tokens as they come, then exactly one Done or Failed, after which nothing of it is left running.

        Leaving the loop early and closing the iterator cancels.
        """

    def cancel(self) -> None:
        """End it soon; returns at once, may be called again, and after the end does nothing."""

    def result(self) -> Result:
        """The outcome; consumes the remaining events, so it waits for the end."""


class Engine(Protocol):
    """Something that generates. May be used by several threads, a generation each."""

    @property
    def label(self) -> Label:
        """The origin of its results."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Features besides text in, text out."""

    def probe(self, *, hashes: bool = True) -> Probe:
        """Check whether it is usable; never raises for what it finds. `hashes` False: skip checks that take seconds."""

    def healthy(self) -> Failure | None:
        """A quick check, a second at most: None, or why it can't be used now."""

    def start(self, request: Request) -> Generation:
        """Begin.

        Raises:
            Refused: the engine can't do what the request asks; nothing was begun.
        """

    def close(self) -> None:
        """Close connections."""


def require(engine: Engine, request: Request) -> None:
    """Refuse a request that is contradictory or asks for what `engine` can't do.

    Raises:
        Refused: names what.
    """
    given = [name for name in ("prompt", "messages", "prompt_ids") if getattr(request, name) is not None]
    if len(given) != 1:
        found = ", ".join(given) or "none"
        raise Refused(Failure(BAD_ARGUMENTS, f"expected exactly one of prompt, messages, prompt_ids, found {found}"))
    if request.prompt_ids is not None:
        _need(engine, "token_ids", "prompts as token ids")
    if request.constraint is not None:
        need = request.constraint.needs
        _need(engine, need, f"constrained decoding by {need}")
    if request.seed is not None:
        _need(engine, "seed", "a seed")
    if request.cache_prompt:
        _need(engine, "cache", "a prompt cache")
    _check_numbers(request)


def _need(engine: Engine, capability: Capability, what: str) -> None:
    if capability not in engine.capabilities:
        can = ", ".join(sorted(engine.capabilities)) or "none"
        raise Refused(
            Failure(UNSUPPORTED, f"{engine.label.source} does not support {what}; besides text it supports: {can}")
        )


# Sockets accept no timeout that is much longer.
_FOREVER_S = 1e9
# Name to (lowest, highest); what lies outside is refused before an engine turns it into an abort. Where these are whole
# numbers the value has to be one.
_RANGES: Mapping[str, tuple[float, float]] = {
    "max_tokens": (1, 1 << 20),
    "temperature": (0.0, 100.0),
    "top_k": (0, 1 << 20),
    "top_p": (0.0, 1.0),
    "repeat_penalty": (0.0, 100.0),
    "seed": (0, (1 << 32) - 1),
}


def _check_numbers(request: Request) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(request, name)
        kind = int if isinstance(low, int) else int | float
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high):
            what = "a whole number from " if kind is int else ""
            raise Refused(Failure(BAD_ARGUMENTS, f"{name}: expected {what}{low:g} to {high:.10g}, found {value!r:.40}"))
    for name in ("first_s", "between_s", "total_s"):
        value = getattr(request.deadlines, name)
        if value is not None and not 0 < value < _FOREVER_S:
            what = f"expected seconds above 0 and below {_FOREVER_S:g}"
            raise Refused(Failure(BAD_ARGUMENTS, f"deadlines.{name}: {what}, found {value}"))
