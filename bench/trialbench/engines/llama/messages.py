"""Reads chat completions, complete or streamed, for measuring and for generating: one reader for both.

A reply is untrusted data: fields of an unexpected type are left out where the reply is readable without them; where it
is not, the reply has a `fault` that says what was expected. A stream is read as the event-stream standard and OpenAI's
own client read it: unknown events and fields are skipped, and an error that the server reports is the outcome.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from trialbench.engines import thinking
from trialbench.engines.llama.events import Event, EventStream, is_done
from trialbench.engines.message import Call, Fault, FaultKind, Message

# Once a reply is whole, its usage, its timings and [DONE] are waited for this long, and never counted as latency.
REST_S = 0.5
# A page, or the words of an error status, end where nothing more of them comes for so long.
QUIET_S = 2.0
# A text without a length may be complete after any of its pieces; this is how often we try.
_MAX_TRIES = 64
# Blanks and marks before a page, or behind it, are expected within so many characters.
_PAGE_HEAD = 200
_NO_WORDS = re.compile(r"(?is)<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^>]*(?:>|\Z)")
# Errors of `json.loads`, and errors of reading a document with the wrong shape.
JSON_ERRORS = (ValueError, RecursionError)
_SHAPE_ERRORS = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
# Larger numbers are ignored, `Infinity`, `NaN` and 1e999 among them.
_MAX_NUMBER = 1e12
_DETAIL = 300
# Where the usage counts the tokens from a cache: (object in the usage or None, name).
_CACHED = (
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    (None, "cached_tokens"),
    (None, "prompt_cache_hit_tokens"),
)
# What compressed bodies begin with, and what others do; words of Content-Encoding that name no compression.
_PACKED = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
_PLAIN = (b"{", b"[", b"data", b"even", b"id:", b"retr", b":")
_NOT_PACKED = frozenset({"", "identity", "none", "utf-8", "utf8", "binary", "chunked", "aws-chunked"})
_MAX_DEPTH = 8
# Where an error has its message, in this order; names without regard to case and `_`.
_MESSAGE_KEYS = (
    "message", "msg", "detail", "errormessage", "errormsg", "errordescription", "error", "errors", "err", "description",
    "reason", "statusmsg",
)  # fmt: skip
# In a document without choices: fields whose word ends in "error" in an error, fields that only an error has, and
# fields that hold the message of an error, or of something else.
_NAMES_ERROR = ("object", "type", "status", "code")
_IS_ERROR = ("errormessage", "errormsg", "errors", "err")
_SAYS_ERROR = ("message", "msg", "detail")
# MiniMax's place for an error: {"status_code": 1004, "status_msg": "..."}, beside choices that are null.
_STATUS = "baseresp"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event adds to a reply: whole characters, never both texts empty."""

    text: str = ""
    thought: str = ""
    ids: tuple[int, ...] = ()


class _ShapeError(Exception):
    """The reply is readable JSON and no reply; the text says what was expected and found."""


class _CallPiece(NamedTuple):
    """A call of a function, or in a stream a part of one; the first part has the name."""

    place: object
    name: str
    arguments: str


class _Calls:
    """Calls of functions, made of their parts."""

    def __init__(self) -> None:
        self._found: list[Call] = []
        self._at: dict[int, int] = {}

    @property
    def whole(self) -> tuple[Call, ...]:
        return tuple(self._found)

    def add(self, pieces: Sequence[_CallPiece]) -> None:
        """Begin calls, or go on with those of the same index; without an index, with the last one."""
        for piece in pieces:
            index = piece.place if isinstance(piece.place, int) else None
            if index is not None:
                at = self._at.get(index)
            else:
                at = None if piece.name else len(self._found) - 1
            # Some servers repeat the name in every part.
            if piece.name and (at is None or self._found[at].name != piece.name):
                if index is not None:
                    self._at[index] = len(self._found)
                self._found.append(Call(piece.name, piece.arguments))
            elif at is not None and at >= 0:
                call = self._found[at]
                self._found[at] = Call(call.name, call.arguments + piece.arguments)


class StreamedReply:
    """A reply that comes as a stream of events.

    Args:
        read: takes the document of one event into the reply; the default reads a chat completion.

    Attributes:
        message: the reply so far; texts are joined by `feed` and `end`.
        first_s: when the first text came, a thought or a tool call included.
        whole_s: when the reply was whole: it has said why it ended, or that it is done. None before.
        done: nothing that follows belongs to it.
        answered: an event of a reply has come, whatever it held.
        choice: the index of the choice that is read: 0, or another one where that never comes.
        in_deltas: a delta has had a text or a call: a message in place of a delta repeats what came.
    """

    def __init__(self, read: Read | None = None) -> None:
        self.message = Message()
        self.first_s: float | None = None
        self.whole_s: float | None = None
        self.done = False
        self.answered = False
        self.choice: int | None = None
        self.in_deltas = self._in_pieces = False
        self._read = read or read_chunk
        self._events = EventStream()
        self._texts: dict[str, list[str]] = {}
        self._calls = _Calls()
        # Half of a surrogate pair, which the next event may complete.
        self._half = {"content": "", "reasoning": ""}
        self._at_s = 0.0
        self._pieces: list[Piece] = []
        self._said = ""
        self._went_on = False
        # When a whole document had come outside of any event; what came then, and how often that was looked at.
        self._answered_s: float | None = None
        self._outside, self._tries = "", 0
        # Choices other than 0, and when they came, as long as 0 has not come; whether each of them goes on, whether one
        # did so behind a finish reason, and when the last of them came where none goes on.
        self._others: list[tuple[float, str, dict[str, Any]]] = []
        self._goes_on: dict[int, bool] = {}
        self._others_went_on = False
        self._others_s: float | None = None

    @property
    def until_s(self) -> float:
        """How long the rest is waited for, as CLOCK_MONOTONIC seconds: without limit while the reply is not whole.

        Nor where a text or a call followed a finish reason: some servers put one into every chunk. Where all choices
        that came have ended and 0 is not among them, it may still begin.
        """
        whole_s = self._answered_s if self.whole_s is None or self._went_on else self.whole_s
        if whole_s is None and self._others_s is not None and self.first_s is None:
            return self._others_s + QUIET_S
        return float("inf") if whole_s is None else whole_s + REST_S

    def feed(self, data: bytes, at_s: float) -> list[Piece]:
        """The pieces that `data`, which came at `at_s`, adds."""
        self._at_s = at_s
        pieces = self._take(self._events.feed(data))
        if not self.done:
            self._look_outside()
        return pieces

    def end(self, *, kind: str = "", closed: bool = True) -> list[Piece]:
        """The pieces that the end of the stream completes; afterwards `message` is final.

        Args:
            kind: the content type of the answer.
            closed: whether the server ended the answer; False if the connection broke or we gave up.
        """
        pieces = [] if self.done else self._take(self._events.end())
        pieces += self._other_choice()
        for name, half in self._half.items():
            if half:
                self._keep(name, clean(half))
                pieces.append(Piece(clean(half)) if name == "content" else Piece(thought=clean(half)))
        message = self.message
        message.content = self._joined("content")
        message.reasoning = self._joined("reasoning")
        message.refusal = self._joined("refusal")
        if self.whole_s is None and message.fault is None:
            closed = closed or self._answered_s is not None
            message.fault = self._no_stream(kind.partition(";")[0].strip().lower(), closed=closed)
        return pieces

    def add(self, name: str, text: str) -> str:
        """Add to one of the texts; returns what is certain of it: half of a surrogate pair waits for the rest."""
        if not text:
            return ""
        self._goes()
        if name in self._half:
            text = self._half[name] + text
            self._half[name] = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
            text = text.removesuffix(self._half[name])
        text = clean(text)
        self._keep(name, text)
        return text

    def rest_of(self, content: str, *, ended: bool) -> str:
        """What of the content of a message, which came in place of a delta, has not come yet.

        Each message has all of the reply so far, or its next piece.
        """
        have = self._joined("content") or ""
        if not self._in_pieces and content.startswith(have) and (len(content) > len(have) or ended):
            return content[len(have) :]
        self._in_pieces = True
        return content

    def call(self, pieces: Sequence[_CallPiece]) -> None:
        """The model calls functions, or goes on with a call."""
        self._calls.add(pieces)
        self.message.tool_calls = self._calls.whole
        self._goes()

    def _goes(self) -> None:
        if self.first_s is None:
            self.first_s = self._at_s
        if self.whole_s is not None:
            self.whole_s, self._went_on = self._at_s, True

    def leaves(self, choice: dict[str, Any], place: str) -> bool:
        """Whether `choice` is not the one that is read. With several of them, the reply is the one of index 0.

        The others are kept while that one has not come.
        """
        index = choice.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            return False
        if self.choice is None and index != 0:
            self._others.append((self._at_s, place, choice))
            goes_on = self._goes_on.get(index, True)
            self._others_went_on = self._others_went_on or (not goes_on and _brings(choice))
            self._goes_on[index] = goes_on and not choice.get("finish_reason")
            self._others_s = None if self._others_went_on or any(self._goes_on.values()) else self._at_s
            return True
        if self.choice is None:
            self.choice, self._others_s = 0, None
            self._others.clear()
        return index != self.choice

    def _other_choice(self) -> list[Piece]:
        """The pieces of the first of the other choices, where no other has come: some servers count from 1."""
        others, self._others = self._others, []
        read = self.choice is not None or self.first_s is not None or self.message.finish_reason is not None
        if read or not others or self.message.fault is not None:
            return []
        self.choice = min(choice["index"] for _, _, choice in others)
        pieces: list[Piece] = []
        done_s, self.whole_s = self.whole_s, None
        for self._at_s, place, choice in others:
            if choice["index"] == self.choice:
                try:
                    pieces.append(_take_choice(choice, place, self))
                except (_ShapeError, *_SHAPE_ERRORS) as error:
                    self._broken("bad_reply", f"{place}: {error}")
        self.whole_s = done_s if self.whole_s is None else self.whole_s
        return [piece for piece in pieces if piece.text or piece.thought]

    def ended(self, reason: str | None) -> None:
        """The reply says why it ended; None: it does not say."""
        if reason is not None:
            self.message.finish_reason = reason
            if self.whole_s is None:
                self.whole_s = self._at_s

    def last(self) -> None:
        """Nothing more belongs to the reply."""
        self.done = True
        if self.whole_s is None:
            self.whole_s = self._at_s

    def fail(self, fault: Fault) -> None:
        """It is not a reply."""
        self.message.fault, self.done = fault, True

    def noted(self, document: Mapping[str, Any]) -> None:
        """A document that belongs to no reply: if the stream breaks off, the user may want to know it."""
        if document:
            self._said = _dump(document)

    def _unfinished(self) -> str:
        said = self._said or self._events.stray.strip()
        told = f"; its last words: {said[:_DETAIL]!r}" if said else ""
        return f"the stream ended before the reply did: no finish reason, no [DONE]{told}"

    def _keep(self, name: str, text: str) -> None:
        self._texts.setdefault(name, []).append(text)

    def _joined(self, name: str) -> str | None:
        return "".join(self._texts[name]) if name in self._texts else None

    def _take(self, events: list[Event]) -> list[Piece]:
        pieces = []
        for event in events:
            if self.done:
                break
            try:
                piece = self._one(event)
            except _ShapeError as error:
                self._broken("bad_reply", f"{error}: {event.data[:80]!r}")
            except _SHAPE_ERRORS as error:
                self._broken("bad_reply", f"{type(error).__name__} {error}: {event.data[:80]!r}")
            else:
                if piece is not None and (piece.text or piece.thought or piece.ids):
                    pieces.append(piece)
        return pieces

    def _one(self, event: Event) -> Piece | None:
        data, name = event.data.strip(), event.name.strip().lower()
        if is_done(data):
            self.last()
            return None
        known = name in ("", "message")
        try:
            document = _unlisted(json.loads(data))
        except JSON_ERRORS as error:
            if name.endswith("error"):
                self._broken("server_error", data[:_DETAIL])
            elif known and not event.cut and (self.whole_s is None or data.startswith("{")):
                # Behind a whole reply some servers say in a word that it is.
                self._broken("bad_json", f"{type(error).__name__} {error}: {data[:80]!r}")
            return None
        if name.endswith("error"):
            self._failed(document)
            return None
        if document is None or (not known and not isinstance(document, dict)):
            return None
        if not isinstance(document, dict):
            raise _ShapeError(f"expected an event that is a JSON object, found {_kind(document)}")
        fault = error_in(document, whole=False)
        if fault is not None:
            self.fail(fault)
            return None
        return self._read(document, self)

    def _failed(self, document: object) -> None:
        said = document.get("error") if isinstance(document, Mapping) else None
        self.fail(_fault_of(said or document, beside=document if isinstance(document, dict) else None))

    def _look_outside(self) -> None:
        """See whether a whole answer that is not a stream, or an error, has come outside of any event."""
        outside = self._events.outside.strip()
        if outside == self._outside:
            return
        self._outside, self._answered_s = outside, None
        if not self.answered and is_page(outside):
            self._answered_s = self._at_s + (0.0 if page_is_whole(outside) else QUIET_S - REST_S)
        if outside.endswith(("}", "]")) and self._tries < _MAX_TRIES:
            self._tries += 1
            found = _documents(outside)
            if any(error_in(one, whole=True) is not None or ("choices" in one and not self.answered) for one in found):
                self._answered_s = self._at_s

    def _broken(self, kind: FaultKind, detail: str) -> None:
        self.fail(Fault(kind, detail))

    def _no_stream(self, kind: str, *, closed: bool) -> Fault | None:
        """What an answer is that has no whole reply: an error outside of any event, or no stream at all."""
        stray = self._events.stray.strip()
        documents = _documents(stray)
        for document in documents:
            fault = error_in(document, whole=True)
            if fault is not None:
                return fault
        if not closed:
            return None
        if self.answered:
            return Fault("dropped", self._unfinished())
        expected = "expected a stream of events (text/event-stream), found"
        if any("choices" in document for document in documents):
            return Fault(
                "bad_reply", f"{expected} a whole reply ({kind or 'no content type'}): the server did not stream"
            )
        if self._said:
            return Fault(
                "bad_reply", f"expected chunks of a chat completion, found events without choices: {self._said}"
            )
        if stray or (kind and kind != "text/event-stream"):
            what = kind if kind and kind != "text/event-stream" else "something else"
            return Fault("bad_reply", f"{expected} {what}: {stray[:80]!r}")
        return Fault("dropped", self._unfinished())


Read: TypeAlias = Callable[[Mapping[str, Any], StreamedReply], Piece | None]


def read_chunk(document: Mapping[str, Any], reply: StreamedReply) -> Piece | None:
    """Take one chunk of a chat completion into `reply`: one choice of it, its counts, the model's name."""
    message = reply.message
    message.model = text(document.get("model")) or message.model
    message.counts.update(_counts(document))
    choices = document.get("choices")
    if not choices and not isinstance(choices, list):
        if "usage" not in document and "timings" not in document:
            reply.noted(document)
        return None
    if not isinstance(choices, list):
        raise _ShapeError(f"choices: expected a list, found {_kind(choices)}")
    content = thought = ""
    for at, choice in enumerate(choices):
        if choice is None:
            continue
        reply.answered = True
        if not isinstance(choice, dict):
            raise _ShapeError(f"choices[{at}]: expected an object, found {_kind(choice)}")
        place = f"choices[{at}]"
        if not reply.leaves(choice, place):
            piece = _take_choice(choice, place, reply)
            content, thought = content + piece.text, thought + piece.thought
    return Piece(content, thought)


def _take_choice(choice: dict[str, Any], place: str, reply: StreamedReply) -> Piece:
    """Take what one chunk has of a choice, which errors call `place`, into `reply`."""
    delta = choice.get("delta")
    said = choice.get("message") if delta is None and not reply.in_deltas else None
    if delta is None and isinstance(choice.get("text"), str):
        raise _ShapeError(f"{place}: expected a delta of a chat completion, found the text of a completion")
    found = _Texts()
    if delta:
        if not isinstance(delta, dict):
            raise _ShapeError(f"{place}.delta: expected an object, found {_kind(delta)}")
        found.read(delta)
        reply.in_deltas = reply.in_deltas or found.any
    elif isinstance(said, dict):
        found.read(said)
        found.content = reply.rest_of(found.content, ended=bool(choice.get("finish_reason")))
        found.calls = None if reply.message.tool_calls else found.calls
    piece = Piece(reply.add("content", found.content), reply.add("reasoning", found.thought))
    reply.add("refusal", found.refusal)
    if found.calls is not None:
        reply.call(found.calls)
    reply.ended(_reason(choice.get("finish_reason")))
    return piece


def read_completion(document: Mapping[str, Any], reply: StreamedReply) -> Piece | None:
    """Take one event of llama-server's own `/completion` into `reply`."""
    message = reply.message
    ids = tuple(one for raw in document.get("tokens") or () if (one := count(raw)) is not None)
    content = document.get("content")
    reply.answered = reply.answered or isinstance(content, str)
    piece = Piece(reply.add("content", content) if isinstance(content, str) else "", ids=ids)
    if document.get("stop") is True:
        # The usage has different names here than in a chat.
        message.counts.update(_counts(document))
        for ours, theirs in (("prompt_tokens", "tokens_evaluated"), ("completion_tokens", "tokens_predicted")):
            if (number := count(document.get(theirs))) is not None:
                message.counts[ours] = number
        reply.ended(text(document.get("stop_type")) or ("length" if document.get("stopped_limit") else "stop"))
        reply.last()
    return piece


def read_document(body: bytes) -> Message:
    """A complete chat completion. What is not one has a `fault`, and the fields that were found before it."""
    message = Message()
    try:
        document = _unlisted(json.loads(body))
    except JSON_ERRORS as error:
        message.fault = _not_json(body, error)
        return message
    try:
        if not isinstance(document, dict):
            raise _ShapeError(f"expected a chat completion, a JSON object, found {_kind(document)}")
        message.fault = error_in(document, whole=True)
        message.model = text(document.get("model"))
        message.counts = _counts(document)
        if "choices" in document:
            _read_choice(document["choices"], message)
        elif message.fault is None:
            raise _ShapeError("expected a chat completion, found a document without choices")
    except _ShapeError as error:
        message.fault = message.fault or Fault("bad_reply", f"{error}: {body[:80]!r}")
    except _SHAPE_ERRORS as error:
        detail = f"not a chat completion: {type(error).__name__} {error}: {body[:80]!r}"
        message.fault = message.fault or Fault("bad_reply", detail)
    return message


def _not_json(body: bytes, error: Exception) -> Fault:
    """Why `body` is not a document. It may be a stream that nobody asked for, and may hold the server's error."""
    if not body.lstrip().startswith((b"data:", b"event:", b"error:", b":")):
        return Fault("bad_json", f"{error}: {body[:80]!r}")
    stream = StreamedReply()
    stream.feed(body, 0.0)
    stream.end()
    found = stream.message.fault
    if found is not None and found.kind == "server_error":
        return found
    return Fault("bad_json", f"expected one document, found a stream of events: {body[:80]!r}")


def _read_choice(choices: object, message: Message) -> None:
    if not isinstance(choices, list) or not choices:
        raise _ShapeError(f"choices: expected at least one, found {_kind(choices) if choices != [] else 'none'}")
    objects = [choice for choice in choices if isinstance(choice, dict)]
    if not objects:
        raise _ShapeError(f"choices[0]: expected an object, found {_kind(choices[0])}")
    # The order in the list says nothing.
    choice = min(objects, key=lambda one: one["index"] if isinstance(one.get("index"), int) else 0)
    said = choice.get("message")
    if not isinstance(said, dict):
        raise _ShapeError(f"choices[0].message: expected an object, found {_kind(said)}")
    found = _Texts()
    found.read(said)
    message.content = clean(found.content) if found.content or isinstance(said.get("content"), str) else None
    message.reasoning = clean(found.thought) or None
    message.refusal = clean(found.refusal) or None
    if found.calls is not None:
        calls = _Calls()
        calls.add(found.calls)
        message.tool_calls = calls.whole
    message.finish_reason = _reason(choice.get("finish_reason"))


class _Texts:
    """The texts of a message or a delta."""

    def __init__(self) -> None:
        self.content = self.thought = self.refusal = ""
        # None: no call; a call that goes on names no function.
        self.calls: list[_CallPiece] | None = None

    @property
    def any(self) -> bool:
        """Whether there is one, or a call."""
        return bool(self.content or self.thought or self.refusal or self.calls is not None)

    def read(self, delta: Mapping[str, Any]) -> None:
        self.thought = thinking.in_fields(delta)
        content = delta.get("content")
        if content is not None and not isinstance(content, str | list | dict):
            raise _ShapeError(f"content: expected a text or a list of parts, found {_kind(content)}")
        self._part(content)
        self.refusal += thinking.text_of(delta.get("refusal"))
        called = delta.get("tool_calls") or delta.get("function_call") or []
        self._call(called if isinstance(called, list) else [called])

    def _part(self, part: object, depth: int = 0) -> None:
        if isinstance(part, str):
            self.content += part
        elif isinstance(part, list) and depth < _MAX_DEPTH:
            for one in part:
                self._part(one, depth + 1)
        elif isinstance(part, dict):
            kind = part.get("type")
            kind = kind.lower() if isinstance(kind, str) else ""
            if thinking.is_part(part):
                self.thought += thinking.text_of(part)
            elif kind == "refusal":
                self.refusal += thinking.text_of(part.get("refusal"))
            elif kind.startswith(("tool", "function")):
                self._call([part])
            else:
                self.content += thinking.text_of({name: part.get(name) for name in ("text", "content", "value")})

    def _call(self, called: list[Any]) -> None:
        for one in called:
            if not isinstance(one, Mapping):
                continue
            self.calls = self.calls or []
            function = next((one[key] for key in ("function", "custom") if key in one), one)
            if isinstance(function, Mapping):
                said = next((function[key] for key in ("arguments", "input") if function.get(key) is not None), "")
                arguments = clean(said) if isinstance(said, str) else json.dumps(said)
                self.calls.append(_CallPiece(one.get("index"), text(function.get("name")) or "", arguments))


def _brings(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk has a text of its choice, or a call; what cannot be read is told where that choice is read."""
    found, said = _Texts(), choice.get("delta") or choice.get("message")
    with contextlib.suppress(_ShapeError, *_SHAPE_ERRORS):
        found.read(said if isinstance(said, Mapping) else {})
    return found.any


def error_in(document: Mapping[str, Any], *, whole: bool) -> Fault | None:
    """The error that `document` reports in place of a reply, or beside one; None if it reports none.

    Args:
        whole: whether the document is the whole answer: one without choices and with a message is then an error.
    """
    choices = document.get("choices")
    plain = _plain(document) if choices is None else document
    said = plain.get("error")
    if not said and _mapping(plain.get(_STATUS)).get("status_code"):
        said = plain[_STATUS]
    if said:
        return _fault_of(said, beside=document)
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            for place in (choice, choice.get("delta"), choice.get("message")):
                if isinstance(place, dict) and place.get("error"):
                    return _fault_of(place["error"])
    if choices is not None:
        return None
    named = any(isinstance(word := plain.get(name), str) and word.lower().endswith("error") for name in _NAMES_ERROR)
    named = named or any(error_text(plain.get(name)) for name in _IS_ERROR)
    told = any(error_text(plain.get(name)) for name in _SAYS_ERROR)
    if named or (told and (whole or _code(document) or error_text(plain.get("detail")))):
        return _fault_of(document)
    return None


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `document`, their names without regard to case and `_`."""
    return {name.replace("_", "").lower(): value for name, value in document.items()}


def error_text(error: object, depth: int = 0) -> str:
    """The message in an error of any form: a text, an object with a message, a list of either."""
    if isinstance(error, str):
        nested = _loads(error) if error.lstrip().startswith("{") else None
        inside = error_text(nested, depth + 1) if isinstance(nested, dict) and depth < _MAX_DEPTH else ""
        return inside or error
    if isinstance(error, Mapping) and depth < _MAX_DEPTH:
        plain = _plain(error)
        return next((found for name in _MESSAGE_KEYS if (found := error_text(plain.get(name), depth + 1))), "")
    if isinstance(error, list) and depth < _MAX_DEPTH:
        return "; ".join(found for one in error[:_MAX_DEPTH] if (found := error_text(one, depth + 1)))
    return ""


def explain(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """What an answer other than a reply says, for people: the server's own message where it has one."""
    if (packed := compressed(headers, body)) is not None:
        said = packed
    else:
        raw = body.decode("utf-8", "replace").strip()
        document = _loads(body) or _loads(raw)
        said = clean(error_text(document) if isinstance(document, dict | list) else "") or raw
        if len(said) > _DETAIL and is_page(said):
            said = _words_of(said) or said
    said = (said or headers.get("www-authenticate", ""))[:_DETAIL]
    if later := headers.get("retry-after"):
        said = f"{said or 'no text'}; Retry-After: {later[:40]}"
    if 300 <= status < 400 and (target := headers.get("location")):
        moved = f"redirects to {_public(target)}; redirects are not followed: give the server's own URL"
        return f"{moved}; {said}" if said else moved
    return said or "no text"


def compressed(headers: Mapping[str, str], body: bytes) -> str | None:
    """What to say about a body that is compressed, although `identity` was asked for; None if it is not."""
    begins = next((name for magic, name in _PACKED if body.startswith(magic)), None)
    named = [one.strip().lower() for one in headers.get("content-encoding", "").split(",")]
    packed = [one for one in named if one not in _NOT_PACKED]
    if begins is None and (not packed or body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAIN)):
        # Some servers name there what is no compression, or one that another program has undone.
        return None
    shown = ", ".join(packed) or begins or ""
    return f"expected a body as it is (Accept-Encoding: identity), found one compressed with {shown[:40]}"


def text(value: object) -> str | None:
    """`value`, cleaned, if it is a text that is not empty."""
    return clean(value) if isinstance(value, str) and value else None


def clean(value: str) -> str:
    """Replace unpaired surrogates, which JSON allows but no file can hold, with U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count(value: object) -> int | None:
    """`value` if it is a count."""
    number = _number(value)
    return None if number is None else int(number)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= _MAX_NUMBER else None


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def whole(body: bytes) -> bool:
    """Whether `body` is a whole JSON object or list: nothing that belongs to it can follow."""
    return body.rstrip().endswith((b"}", b"]")) and isinstance(_loads(body), dict | list)


def is_page(text: str) -> bool:
    """Whether `text` begins as a page of HTML or XML, of which no reply can come."""
    return text[:_PAGE_HEAD].lstrip("\ufeff \t\r\n").startswith("<")


def page_is_whole(text: str) -> bool:
    """Whether such a page is at its end."""
    return text[-_PAGE_HEAD:].rstrip().lower().endswith("</html>")


def _words_of(page: str) -> str:
    """What a page shows to people, its title first: some begin with more of other things than fits into a message."""
    return " ".join(html.unescape(_NO_WORDS.sub(" ", page)).split())


def _documents(text: str) -> list[dict[str, Any]]:
    """The documents in `text`: all of it, each line, and what begins with a line and goes on to the end."""
    lines = text.split("\n")
    begins = [at for at, line in enumerate(lines) if line.startswith("{")][:_MAX_DEPTH]
    texts = [text, *lines, *("\n".join(lines[at:]) for at in begins if at)]
    return [found for one in texts if isinstance(found := _unlisted(_loads(one)), dict)]


def _unlisted(document: object) -> object:
    """`document`, or the error in it: Gemini's servers put each of theirs into a list."""
    first = document[0] if isinstance(document, list) and document else None
    return first if isinstance(first, dict) and error_in(first, whole=True) is not None else document


def _loads(raw: str | bytes) -> object:
    try:
        found: object = json.loads(raw)
    except JSON_ERRORS:
        return None
    return found


def _reason(value: object) -> str | None:
    """The finish reason as a text. One of another type is told as it is: it names none that is known."""
    if isinstance(value, str) or not value:
        return text(value)
    return _dump(value)


def _dump(value: object) -> str:
    """JSON for people, cut; the nesting of untrusted data may exceed what can be written."""
    try:
        return clean(json.dumps(value, ensure_ascii=False))[:_DETAIL]
    except RecursionError:
        return "nested too deeply"


def _status(value: object) -> int | None:
    """The HTTP status of an error, which may be written as a text."""
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 400 <= value < 600 else None


def _code(error: Mapping[str, Any]) -> int | None:
    return next((found for name in ("code", "status") if (found := _status(error.get(name)))), None)


def _fault_of(error: object, beside: Mapping[str, Any] | None = None) -> Fault:
    said = error_text(error) or (error_text(beside) if beside is not None else "")
    if not said:
        said = _dump(error)
    code = _code(error if isinstance(error, Mapping) else beside or {})
    return Fault("server_error", clean(said)[:_DETAIL], code)


def _public(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is not one"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path or "/"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _usage(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage of `document`; Kimi's servers put that of a stream into its last choice."""
    choices = document.get("choices")
    places = (document, *(choices if isinstance(choices, list) else ()))
    return next((found for one in places if (found := _mapping(_mapping(one).get("usage")))), {})


def _cached(usage: Mapping[str, Any]) -> object:
    found = ((usage if group is None else _mapping(usage.get(group))).get(name) for group, name in _CACHED)
    return next((one for one in found if one is not None), None)


def _counts(document: Mapping[str, Any]) -> dict[str, float]:
    usage, timings = _usage(document), _mapping(document.get("timings"))
    found = {
        "prompt_tokens": count(usage.get("prompt_tokens")),
        "completion_tokens": count(usage.get("completion_tokens")),
        "thinking_tokens": count(thinking.tokens(usage)),
        "prompt_n": count(timings.get("prompt_n")),
        # Without timings, the usage reports the cache.
        "cached_tokens": count(timings.get("cache_n", _cached(usage))),
        "prompt_ms": _number(timings.get("prompt_ms")),
        "predicted_ms": _number(timings.get("predicted_ms")),
    }
    return {name: value for name, value in found.items() if value is not None}
