"""Why a generation failed: one table of failure classes, each with an HTTP-style code and what may be done about it.

*Recoverable*: the same request may succeed when it is sent again. *Fatal*: it won't, until a person or a restart
changes something. *Indeterminate*: the engine says that all went well, and what it delivered says otherwise.
A user's cancel is none of these: it ends as `Done("cancelled")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from trialbench.credentials import redact

Kind = Literal["recoverable", "fatal", "indeterminate"]


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One row of the table.

    Attributes:
        name: what `error.class` says.
        code: HTTP-style.
        restart: whether a long-lived engine has to be started again before anything can be asked of it.
        meaning: what was seen, for a person.
        advice: what to do about it.
    """

    name: str
    code: int
    kind: Kind
    meaning: str
    advice: str
    restart: bool = False

    @property
    def recoverable(self) -> bool:
        """Whether the same request may be sent again, as long as no token was delivered."""
        return self.kind == "recoverable"


TIMEOUT = FailureClass(
    "timeout",
    504,
    "recoverable",
    "no first byte, no further token or no end within its deadline; the generation was ended and is gone",
    "raise the deadline that the detail names, or ask for fewer tokens",
)
OUT_OF_MEMORY = FailureClass(
    "out_of_memory",
    503,
    "recoverable",
    "the kernel killed the engine because its memory limit was reached",
    "raise the memory limit, or use smaller weights or a shorter context",
)
ALLOCATION_FAILED = FailureClass(
    "allocation_failed",
    503,
    "recoverable",
    "the engine asked for memory and got none (std::bad_alloc)",
    "free memory, or lower seq_len",
)
KILLED = FailureClass(
    "killed",
    503,
    "recoverable",
    "the engine was ended by a signal from outside",
    "find out what sent it; nothing is wrong with the request",
)
UNAVAILABLE = FailureClass(
    "unavailable",
    503,
    "recoverable",
    "the engine answers 503: it is loading its model, or has no capacity left",
    "wait until it is healthy",
)
CONNECTION = FailureClass(
    "connection",
    502,
    "recoverable",
    "the connection was refused, reset or ended within the reply",
    "see whether the server runs",
)
BUSY = FailureClass("busy", 429, "recoverable", "the engine or its queue is full", "ask again later")
SIMD_FALLBACK = FailureClass(
    "simd_fallback",
    503,
    "recoverable",
    "the engine gave up a SIMD target this CPU lacks and fell back to another",
    "nothing, or build the engine for this CPU",
)
MISSING_BINARY = FailureClass(
    "missing_binary",
    500,
    "fatal",
    "the engine's binary or a library it needs is missing or not executable (exit 126 or 127)",
    "install it, and name it by absolute path",
)
BAD_WEIGHTS = FailureClass(
    "bad_weights",
    500,
    "fatal",
    "weights or tokenizer are missing, corrupt, or not what their SHA-256 says",
    "fetch the files again and compare their SHA-256",
)
CRASHED = FailureClass(
    "crashed",
    500,
    "fatal",
    "the engine was ended by SIGSEGV, SIGILL, SIGBUS or SIGFPE",
    "use a binary built for this CPU; a long-lived engine is started again",
    restart=True,
)
SERVER_ERROR = FailureClass(
    "server_error",
    500,
    "fatal",
    "the engine reports an error of its own, or ends with a status that says failure",
    "read the detail and the engine's log",
)
BAD_ARGUMENTS = FailureClass(
    "bad_arguments", 400, "fatal", "a value of the request or the configuration is not accepted", "correct it"
)
UNSUPPORTED = FailureClass(
    "unsupported",
    400,
    "fatal",
    "the request asks for what this engine can't do, such as constrained decoding; refused instead of ignored",
    "leave it out, or use an engine whose probe lists it",
)
PROMPT_TOO_LONG = FailureClass(
    "prompt_too_long",
    413,
    "fatal",
    "the prompt does not fit into the context",
    "shorten it, or raise seq_len",
)
NOT_ALLOWED = FailureClass(
    "not_allowed",
    403,
    "fatal",
    "the endpoint refuses us (401, 403), or its host is not on the allow-list",
    "check key and allow-list",
)
EMPTY_OUTPUT = FailureClass(
    "empty_output",
    520,
    "indeterminate",
    "success was reported and there is no text",
    "look at prompt, template and weights",
)
REPLACEMENT_CHARACTERS = FailureClass(
    "replacement_characters",
    520,
    "indeterminate",
    "success was reported and the text holds U+FFFD: bytes were lost or the weights are damaged",
    "compare the weights' SHA-256; byte-fallback tokens give this too",
)
UNKNOWN_ABORT = FailureClass(
    "unknown_abort",
    520,
    "indeterminate",
    "the engine aborted for an unknown reason",
    "read the engine's words in the detail",
)
BAD_REPLY = FailureClass(
    "bad_reply",
    520,
    "indeterminate",
    "the answer is not a reply in the engine's protocol",
    "check that the right program answers there",
)
OUTPUT_LIMIT = FailureClass(
    "output_limit",
    520,
    "indeterminate",
    "the engine wrote more than any reply needs and was ended",
    "lower max_tokens, or raise the limit",
)

FAILURES: tuple[FailureClass, ...] = (
    TIMEOUT,
    OUT_OF_MEMORY,
    ALLOCATION_FAILED,
    KILLED,
    UNAVAILABLE,
    CONNECTION,
    BUSY,
    SIMD_FALLBACK,
    MISSING_BINARY,
    BAD_WEIGHTS,
    CRASHED,
    SERVER_ERROR,
    BAD_ARGUMENTS,
    UNSUPPORTED,
    PROMPT_TOO_LONG,
    NOT_ALLOWED,
    EMPTY_OUTPUT,
    REPLACEMENT_CHARACTERS,
    UNKNOWN_ABORT,
    BAD_REPLY,
    OUTPUT_LIMIT,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure class and the details. `detail` contains untrusted text: sanitize it before display.

    A server that refuses a key may show it, so secrets in `detail` are masked. `status`: the HTTP status of the answer,
    if it was not 200.
    """

    failure_class: FailureClass
    detail: str
    status: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", redact(self.detail))

    def as_dict(self) -> dict[str, Any]:
        """`class`, `code`, `kind` and `detail` as a JSON object."""
        row = self.failure_class
        return {"class": row.name, "code": row.code, "kind": row.kind, "detail": self.detail}
