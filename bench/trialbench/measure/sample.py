"""One sample: a judged reply. Nothing is dropped: an invalid reply is a failed sample, whatever its latency.

**Thinking** is a thought in a field, a part or a mark of the text, or tokens of thinking in the usage;
`engines/thinking.py` has the table of all spellings. The one exception is an *empty* block: servers with reasoning
format `none` and thinking switched off insert it themselves; it was not generated and cost no time. Such a sample is
valid, has the flag `think_echo`, and is read without the block. Because production would have to skip the block, the
sample is adherent by strategy 2 at best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from trialbench.credentials import redact
from trialbench.engines import thinking
from trialbench.measure.client import Reply
from trialbench.show.terminal import line
from trialbench.workloads import Workload
from trialbench.workloads.parsers import Calls, Parsed, parse
from trialbench.workloads.scenes import ANY, Scene

# `length` is valid: the workload sets the token limit. `content_filter` is no answer; a call of a tool is one only
# where the contract asks for it.
KNOWN_FINISH_REASONS = frozenset({"stop", "length"})
_CALL_FINISH_REASONS = frozenset({"tool_calls", "function_call", "tool_use"})
# The order matters: thinking that used up all tokens leaves the content empty, and so does a call of a tool.
_INVALID = ("thinking", "tool_calls", "empty", "finish_reason")


@dataclass(frozen=True)
class Sample:
    """One request, a line of a samples file; `trialbench schema sample` documents each field.

    Attributes:
        seq: from 1 within its file.
        t_start_s: CLOCK_MONOTONIC seconds of the machine that measured.
        latency_ms: first byte written to last byte read, at the socket; None without a whole reply.
        ttft_ms: to the first token; None unless the reply was streamed.
        server_ms: the server's own time.
        prompt_n, cache_n, completion_tokens: tokens.
        strategy: 1 to 3; None where no strategy read the reply, where it was cut off, and for free text.
        scene: which question it answers; None where the segment has only one.
        group: of the scene.
        expected: what a right reply means by the contract; None where that is not known.
    """

    seq: int
    t_start_s: float
    wall: str
    ok: bool
    error_class: str | None
    latency_ms: float | None
    ttft_ms: float | None
    server_ms: float | None
    prompt_n: int | None
    cache_n: int | None
    completion_tokens: int | None
    finish_reason: str | None
    strategy: int | None
    parsed: list[str] | None
    content: str | None
    flags: list[str] = field(default_factory=list)
    error_detail: str | None = None
    model: str | None = None
    scene: str | None = None
    group: str | None = None
    expected: list[str] | None = None

    @property
    def t_end_s(self) -> float:
        """When the last byte was read; the start for a sample without a whole reply."""
        return self.t_start_s + (self.latency_ms or 0.0) / 1000

    @property
    def cut(self) -> bool:
        """Whether the limit of tokens cut the reply: it is part of an answer, whatever it has of the contract."""
        return self.finish_reason == "length"

    @property
    def adherent(self) -> bool:
        """Whether production could use the reply: read by strategy 1 or 2, and whole."""
        return self.strategy in (1, 2) and not self.cut

    @property
    def right(self) -> bool | None:
        """Whether it is the right answer, in a form that production could use; None where that is not known."""
        if self.expected is None or self.error_class == "cut_off":
            return None
        found = self.parsed or []
        same = len(found) == len(self.expected) and all(
            word in (ANY, said) for word, said in zip(self.expected, found, strict=True)
        )
        return self.adherent and same

    @property
    def tokens_per_s(self) -> float | None:
        """Completion tokens over the whole latency; None where either is unknown or 0."""
        return self.completion_tokens / self.latency_ms * 1000 if self.completion_tokens and self.latency_ms else None

    def as_dict(self) -> dict[str, Any]:
        """The sample as a JSON object."""
        return asdict(self)


def why(sample: Sample) -> str:
    """Error class and detail of a failed sample, as readable text."""
    return line(f"{sample.error_class}: {sample.error_detail}" if sample.error_detail else f"{sample.error_class}", 200)


def wall_clock() -> str:
    """Now as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def judge(
    reply: Reply,
    seq: int,
    workload: Workload,
    *,
    cache_prompt: bool,
    wall: str,
    others: Sequence[str] = (),
    scene: Scene | None = None,
) -> Sample:
    """The sample for `reply` to `scene`; `others`: flags of other clients' requests (`neighbors`)."""
    flags: list[str] = []
    error_class, content = reply.error_class, reply.content or ""
    parsed = Parsed(None, None)
    if error_class is None:
        text = thinking.without_empty(content)
        echo = text != content
        if echo:
            flags.append("think_echo")
        if (reply.reasoning or "").strip() or reply.thinking_tokens or thinking.in_text(text):
            flags.append("thinking")
        called = isinstance(workload.contract, Calls) and reply.tool_calls
        if reply.tool_calls is not None and not called:
            flags.append("tool_calls")
        if not text.strip() and not called:
            flags.append("empty")
        if reply.finish_reason not in KNOWN_FINISH_REASONS | (_CALL_FINISH_REASONS if called else frozenset()):
            flags.append("finish_reason")
        if reply.finish_reason == "length":
            flags.append("length")
        error_class = next((name for name in _INVALID if name in flags), None)
        if error_class is None and workload.contract is not None and reply.finish_reason != "length":
            parsed = parse(text, workload.contract, reply.tool_calls or ())
            if not parsed.in_time:
                flags.append("contract_timeout")
            if echo and parsed.strategy == 1:
                parsed = replace(parsed, strategy=2)
    if reply.cache_n:
        flags.append("cached")
        if not cache_prompt:
            flags.append("cache_not_as_asked")
    if reply.reconnected:
        flags.append("reconnected")
    flags += others
    return Sample(
        seq=seq,
        t_start_s=round(reply.started_s, 6),
        wall=wall,
        ok=error_class is None,
        error_class=error_class,
        latency_ms=reply.latency_ms,
        ttft_ms=reply.ttft_ms,
        server_ms=reply.server_ms,
        prompt_n=reply.prompt_n,
        cache_n=reply.cache_n,
        completion_tokens=reply.completion_tokens,
        finish_reason=_told(reply.finish_reason),
        strategy=parsed.strategy,
        parsed=list(parsed.words) if parsed.words else None,
        content=reply.content,
        flags=flags,
        error_detail=_told(reply.error_detail) or _detail(error_class, reply),
        model=_told(reply.model),
        scene=scene.id if scene else None,
        group=scene.group if scene else None,
        expected=list(scene.expected) if scene and scene.expected is not None else None,
    )


def _told(text: str | None) -> str | None:
    """A server's own words. One that is sent a key may show it in any of them."""
    return redact(text) if text else text


def _detail(error_class: str | None, reply: Reply) -> str | None:
    if error_class == "thinking":
        said = redact((reply.reasoning or "").strip())
        if not said and reply.thinking_tokens:
            return f"thought: {reply.thinking_tokens} tokens that the usage counts and the reply does not show"
        return f"thought: {(said or redact((reply.content or '').strip()))[:200]!r}"
    if error_class == "tool_calls":
        called = ", ".join(call.name for call in reply.tool_calls or ()) or "a function without a name"
        return redact(f"expected an answer, found a call of {called}")[:200]
    if error_class == "empty" and reply.refusal:
        return f"the model refuses to answer: {redact(reply.refusal.strip())[:200]!r}"
    if error_class == "finish_reason":
        return f"expected one of {', '.join(sorted(KNOWN_FINISH_REASONS))}, found {_told(reply.finish_reason)!r}"
    return None
