"""Generations that run in their own process: turns the output of any supervised program into events."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trialbench.engines.contract import (
    Deadlines,
    Done,
    Event,
    Failed,
    FinishReason,
    Label,
    Result,
    Started,
    Token,
    Usage,
)
from trialbench.engines.failures import (
    ALLOCATION_FAILED,
    BAD_ARGUMENTS,
    BAD_WEIGHTS,
    CRASHED,
    EMPTY_OUTPUT,
    KILLED,
    MISSING_BINARY,
    OUT_OF_MEMORY,
    OUTPUT_LIMIT,
    PROMPT_TOO_LONG,
    REPLACEMENT_CHARACTERS,
    SERVER_ERROR,
    SIMD_FALLBACK,
    TIMEOUT,
    UNKNOWN_ABORT,
    Failure,
    FailureClass,
)
from trialbench.engines.message import Fault, Message
from trialbench.engines.supervisor import Ending, Supervised

# SIGILL, SIGBUS, SIGFPE, SIGSEGV; SIGABRT; signals from outside: HUP, INT, KILL, TERM.
_CRASHES, _ABORT, _SENT = frozenset({4, 7, 8, 11}), 6, frozenset({1, 2, 9, 15})
_DETAIL = 300
# Messages that a program prints before it aborts, and the failure they mean. The first match counts.
_WORDS: tuple[tuple[str, FailureClass], ...] = (
    ("increase --seq_len", PROMPT_TOO_LONG),
    ("max_prompt_size", PROMPT_TOO_LONG),
    ("bad_alloc", ALLOCATION_FAILED),
    ("Cannot allocate memory", ALLOCATION_FAILED),
    ("Failed to allocate", ALLOCATION_FAILED),
    ("BlobStore", BAD_WEIGHTS),
    ("Failed to open", BAD_WEIGHTS),
    ("Failed to load", BAD_WEIGHTS),
    ("stoi", BAD_ARGUMENTS),
    ("stof", BAD_ARGUMENTS),
    ("invalid_argument", BAD_ARGUMENTS),
    ("Missing value", BAD_ARGUMENTS),
    ("Invalid value", BAD_ARGUMENTS),
    ("Invalid args", BAD_ARGUMENTS),
    ("error while loading shared libraries", MISSING_BINARY),
    ("SIMD target", SIMD_FALLBACK),
    ("software requires", SIMD_FALLBACK),
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the program reported in addition to the reply."""

    finish_reason: FinishReason = "unknown"
    usage: Usage = field(default_factory=Usage)
    facts: Mapping[str, Any] = field(default_factory=dict)


class ProcessGeneration:
    """One supervised process as a `Generation`.

    Args:
        read: makes finish reason, usage and facts of the standard error and the number of chunks.
    """

    def __init__(
        self,
        label: Label,
        running: Supervised,
        deadlines: Deadlines,
        read: Callable[[str, int], Told],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._label = label
        self._running = running
        self._deadlines = deadlines
        self._read = read
        self._facts = dict(facts or {})
        self._texts: list[str] = []
        self._first_s: float | None = None
        self._result: Result | None = None
        self._events = self._make()

    @property
    def pid(self) -> int:
        """The process, which leads a group of its own."""
        return self._running.pid

    def events(self) -> Generator[Event, None, None]:
        """Started, tokens as they come, then exactly one Done or Failed."""
        return self._events

    def cancel(self) -> None:
        """End it soon."""
        self._running.cancel()

    def result(self) -> Result:
        """The outcome; waits for the end."""
        for _ in self._events:
            pass
        if self._result is None:
            # The iterator was closed early, or never begun before it was closed.
            self._running.close()
            self._settle()
        assert self._result is not None
        return self._result

    def _make(self) -> Generator[Event, None, None]:
        try:
            yield Started(self._running.started_s)
            for text, t_s in self._running.chunks():
                if self._first_s is None:
                    self._first_s = t_s
                self._texts.append(text)
                yield Token(text, t_s)
        finally:
            # Also if the caller leaves early: closing cancels, and nothing is left running.
            self._running.close()
            last = self._settle()
        yield last

    def _settle(self) -> Done | Failed:
        ending = self._running.ending
        assert ending is not None
        text = "".join(self._texts)
        told = self._read(ending.errors, len(self._texts))
        usage = told.usage
        failure = None if ending.why == "cancelled" else classify(ending, text, self._deadlines)
        finish: FinishReason | None = "cancelled" if ending.why == "cancelled" else None
        if failure is None and finish is None:
            finish = told.finish_reason
        facts = {**self._facts, **told.facts, "status": ending.status, "escalated": ending.escalated}
        facts["leftovers"] = ending.leftovers
        self._result = Result(
            label=self._label,
            text=text,
            finish_reason=finish,
            failure=failure,
            usage=usage,
            started_s=self._running.started_s,
            first_token_s=self._first_s,
            ended_s=ending.ended_s,
            quiet_ms=ending.quiet_ms,
            clean=ending.clean,
            peak_mib=ending.peak_mib,
            facts=facts,
            message=_message(text, told, failure),
        )
        if failure is not None:
            return Failed(failure, ending.ended_s)
        assert finish is not None
        return Done(finish, usage, ending.ended_s)


def _message(text: str, told: Told, failure: Failure | None) -> Message:
    usage = told.usage
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        # All of them: there is no cache.
        "prompt_n": usage.prompt_tokens,
        "prompt_ms": usage.prompt_ms,
        "predicted_ms": usage.predicted_ms,
    }
    fault, finish = None, None if told.finish_reason == "unknown" else told.finish_reason
    if failure is not None and failure.failure_class is EMPTY_OUTPUT:
        # It ended by itself and reports success.
        finish = finish or "stop"
    if failure is not None and failure.failure_class is REPLACEMENT_CHARACTERS:
        # The program wrote bytes that are not text; a server sends this character as a text of its own.
        fault = Fault("bad_reply", f"{failure.failure_class.name}: {failure.detail}")
    return Message(
        content=text,
        finish_reason=finish,
        counts={name: float(value) for name, value in counts.items() if value is not None},
        fault=fault,
    )


class BrokenGeneration:
    """A generation that failed before anything ran: a file is missing or not what it should be."""

    def __init__(self, label: Label, failure: Failure) -> None:
        self._now_s = time.monotonic()
        self._label = label
        self._failure = failure
        self._events: Generator[Event, None, None] = self._make()

    def events(self) -> Generator[Event, None, None]:
        """The one Failed."""
        return self._events

    def cancel(self) -> None:
        """Nothing runs."""

    def result(self) -> Result:
        """The failure."""
        return Result(self._label, "", None, self._failure, Usage(), self._now_s, None, self._now_s)

    def _make(self) -> Generator[Event, None, None]:
        yield Failed(self._failure, self._now_s)


def classify(ending: Ending, text: str, deadlines: Deadlines) -> Failure | None:
    """The failure that an ending means, or None for a good reply. Not for canceled generations."""
    said = _last_words(ending.errors)
    if ending.why in ("first", "between", "total"):
        return timeout(ending.why, deadlines)
    if ending.why == "output_limit":
        return Failure(OUTPUT_LIMIT, "more output than any reply needs")
    if ending.oom_killed or ending.why == "memory_limit":
        peak = "" if ending.peak_mib is None else f", peak {ending.peak_mib:.0f} MiB"
        return Failure(OUT_OF_MEMORY, f"ended because its memory limit was reached{peak}")
    if ending.why == "lingering":
        return Failure(UNKNOWN_ABORT, f"closed its output and did not end by itself{said}")
    if ending.status != 0:
        return _failed(ending.status, ending.errors, said)
    if not text.strip():
        return Failure(EMPTY_OUTPUT, f"exit 0 and no text{said}")
    if "\N{REPLACEMENT CHARACTER}" in text:
        count = text.count("\N{REPLACEMENT CHARACTER}")
        return Failure(REPLACEMENT_CHARACTERS, f"exit 0, and U+FFFD {count} times in {len(text)} characters")
    return None


def timeout(which: str, deadlines: Deadlines) -> Failure:
    """The failure of a passed deadline, `first`, `between` or `total`."""
    if which == "first":
        return Failure(TIMEOUT, f"no first token within {deadlines.first_s:g} s")
    if which == "between":
        return Failure(TIMEOUT, f"no further token within {deadlines.between_s:g} s")
    return Failure(TIMEOUT, f"not complete within {deadlines.total_s:g} s")


def _failed(status: int, errors: str, said: str) -> Failure:
    """The failure for a nonzero status. A shell in between reports 128 + n for signal n, `subprocess` reports -n."""
    signal = -status if status < 0 else status - 128 if 128 < status < 160 else 0
    if signal in _CRASHES:
        return Failure(CRASHED, f"ended by signal {signal}{said}")
    if signal in _SENT:
        return Failure(KILLED, f"ended from outside by signal {signal}{said}")
    known = next((row for words, row in _WORDS if words in errors), None)
    if known is not None:
        return Failure(known, f"status {status}{said}")
    if status in (126, 127):
        return Failure(MISSING_BINARY, f"exit {status}{said}")
    if signal == _ABORT:
        return Failure(UNKNOWN_ABORT, f"aborted{said}")
    return Failure(SERVER_ERROR, f"exit {status}{said}" if signal == 0 else f"ended by signal {signal}{said}")


def _last_words(errors: str) -> str:
    """The last lines of standard error that are not timing, cut."""
    lines = [line.strip() for line in errors.split("\n") if line.strip() and not line.lstrip().startswith("[ ")]
    return f": {' | '.join(lines[-2:])[-_DETAIL:]}" if lines else ""
