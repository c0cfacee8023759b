"""The ND-JSON protocol: one JSON object per line, in both directions, in three dialects.

* *plain*: `{"type":"generate","id":...,"prompt":...}`; `token`..., then exactly one `done` or `error`, with the id.
* *session*: `create_session`, `generate` with `session_id`, `abort`, `close_session`; `token`..., `stop`, `done`, or
  the one error `{"ok":false,...}`.
* *action*: `{"action":"ask","action_id":...,"input":...}`; one `{"action":"done",...}` with the whole reply, whose
  `source` is `error` when it failed.

The keys of a line determine its dialect (`action`, `session_id`, `id`). The published schemas are `worker-request` and
`worker-reply`. This module turns lines into requests and events into lines; it has no state.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from trialbench.engines.contract import Constraint, Label, Request, Token
from trialbench.engines.failures import Failure
from trialbench.files import encodable
from trialbench.worker.dispatch import Outcome

Id: TypeAlias = str | int
_MAX_ID = 128
# The actions of existing clients that ask the model something. `shell` and the like are refused: the worker never
# executes anything.
ASKING = frozenset({"ask", "plan", "research", "observe"})
REFUSED_ACTIONS = frozenset({"shell", "toolSpec", "commitKB"})
VERBS = ("status", "generate", "abort", "close", "create_session", "close_session")


@dataclass(frozen=True, slots=True)
class Status:
    """`status`; `id` is echoed."""

    id: Id | None = None


@dataclass(frozen=True, slots=True)
class CreateSession:
    """`create_session`; `wanted` holds the worker session's parameters, without a prompt."""

    wanted: Request


@dataclass(frozen=True, slots=True)
class CloseSession:
    """`close_session`."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Generate:
    """`generate` or an asking action.

    Attributes:
        key: identifies it among its client's requests: id, session id or action id, with the dialect.
        given: names of the request's fields and deadlines that the line sets; they take precedence over the
            session's parameters.
    """

    dialect: str
    key: tuple[str, Id]
    wanted: Request
    stream: bool
    action: str = ""
    given: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Abort:
    """`abort` of one's own request."""

    key: tuple[str, Id]


@dataclass(frozen=True, slots=True)
class Close:
    """`close`: abort running requests, answer, end the connection."""


Line: TypeAlias = Status | CreateSession | CloseSession | Generate | Abort | Close


@dataclass(frozen=True, slots=True)
class Identity:
    """What an answer needs from a line, even if the rest of it is wrong."""

    dialect: str = "session"
    id: Id | None = None
    action: str = ""


class ProtocolError(Exception):
    """A line that can't be served. `code` is for programs, `detail` says what was expected."""

    def __init__(self, code: str, detail: str, identity: Identity | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.identity = identity or Identity()


@dataclass(frozen=True)
class Defaults:
    """The configured defaults of a request."""

    request: Request = field(default_factory=Request)
    max_total_s: float = 3600.0


def parse(line: bytes, defaults: Defaults) -> Line:
    """The request in `line`.

    Raises:
        ProtocolError: it is not a valid request; says why, and for which request the answer is.
    """
    message = _object(line)
    identity = _identity(message)
    verb = message.get("type")
    if "action" in message and verb is None:
        action = message["action"]
        # Some clients of the session dialect name the verb `action`.
        if action not in VERBS:
            return _action(message, identity, defaults)
        verb = action
    if not isinstance(verb, str):
        raise ProtocolError("invalid_request", 'expected a text as "type", one of ' + ", ".join(VERBS), identity)
    match verb:
        case "status":
            return Status(message["id"] if _is_id(message.get("id")) else None)
        case "create_session":
            return CreateSession(_wanted(_params(message, identity), defaults, identity)[0])
        case "close_session":
            return CloseSession(_session_id(message))
        case "generate":
            return _generate(message, identity, defaults)
        case "abort":
            return Abort(_key(message))
        case "close":
            return Close()
    shown = verb[:40].encode("unicode_escape").decode()
    raise ProtocolError("unknown_type", f"expected one of {', '.join(VERBS)}, found {shown}", identity)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _object(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ProtocolError("invalid_request", f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ProtocolError("invalid_request", "nested too deeply") from None
    except ValueError as error:
        raise ProtocolError("invalid_request", f"not JSON: {str(error)[:200]}") from None
    if not isinstance(message, dict):
        raise ProtocolError("invalid_request", f"expected a JSON object, found {_kind(message)}")
    return message


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if type(value) in (int, float):
        return "a number"
    return names.get(type(value), "null")


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _MAX_ID and encodable(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _identity(message: Mapping[str, Any]) -> Identity:
    """What the answer belongs to, as far as the line is readable, in the line's dialect."""
    if "action" in message and message.get("type") is None and message["action"] not in VERBS:
        action, value = message["action"], message.get("action_id")
        return Identity("action", value if _is_id(value) else None, action if isinstance(action, str) else "")
    for key, dialect in (("session_id", "session"), ("id", "plain")):
        value = message.get(key)
        if _is_id(value):
            return Identity(dialect, value)
    return Identity()


def _own_id(message: Mapping[str, Any]) -> Id:
    value = message.get("id")
    if not _is_id(value):
        raise ProtocolError("invalid_request", f'expected "id": a text of 1 to {_MAX_ID} characters, or a number')
    assert isinstance(value, str | int)
    return value


def _key(message: Mapping[str, Any]) -> tuple[str, Id]:
    """The id of a request outside the action dialect; the session's if a line has both ids."""
    if "id" in message and "session_id" not in message:
        return "plain", _own_id(message)
    return "session", _session_id(message)


def _session_id(message: Mapping[str, Any]) -> str:
    value = message.get("session_id")
    if value is None:
        raise ProtocolError("missing_session_id", 'expected "session_id" (or "id" for a request without a session)')
    if not isinstance(value, str) or not _is_id(value):
        raise ProtocolError("invalid_request", f'expected "session_id": a text of 1 to {_MAX_ID} characters')
    return value


def _params(message: Mapping[str, Any], identity: Identity) -> Mapping[str, Any]:
    params = message.get("params", {})
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise ProtocolError("invalid_request", f'expected "params": an object, found {_kind(params)}', identity)
    return params


def _generate(message: Mapping[str, Any], identity: Identity, defaults: Defaults) -> Generate:
    key = _key(message)
    prompt = _prompt(message, "prompt", identity)
    wanted, given = _wanted({**_params(message, identity), **message}, defaults, identity)
    stream = _flag(message, "stream", True, identity)
    return Generate(key[0], key, replace(wanted, prompt=prompt), stream, given=given)


def _action(message: Mapping[str, Any], identity: Identity, defaults: Defaults) -> Generate:
    action = message["action"]
    action_id = message.get("action_id")
    if not _is_id(action_id):
        raise ProtocolError("invalid_request", f'expected "action_id": a text of 1 to {_MAX_ID} characters', identity)
    assert isinstance(action_id, str | int)
    if isinstance(action, str) and action in REFUSED_ACTIONS:
        raise ProtocolError("unsupported_action", f"{action}: nothing is executed or stored here", identity)
    if not isinstance(action, str) or action not in ASKING:
        allowed = ", ".join(sorted(ASKING))
        raise ProtocolError("unknown_action", f'expected "action": one of {allowed}', identity)
    metadata = message.get("metadata")
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise ProtocolError("invalid_request", f'expected "metadata": an object, found {_kind(metadata)}', identity)
    wanted, given = _wanted(metadata, defaults, identity)
    prompt = _prompt(message, "input", identity)
    # Existing clients print every line other than `done` separately, so tokens are sent only on request.
    stream = _flag(metadata, "stream", False, identity)
    return Generate("action", ("action", action_id), replace(wanted, prompt=prompt), stream, action, given)


def _prompt(message: Mapping[str, Any], key: str, identity: Identity) -> str:
    prompt = message.get(key)
    if prompt is None or prompt == "":
        raise ProtocolError("missing_prompt", f'expected "{key}": the text to answer', identity)
    if not isinstance(prompt, str):
        raise ProtocolError("invalid_request", f'expected "{key}": a text, found {_kind(prompt)}', identity)
    if not encodable(prompt) or "\0" in prompt:
        raise ProtocolError("invalid_request", f'"{key}" holds a NUL or half of a surrogate pair', identity)
    return prompt


def _flag(message: Mapping[str, Any], key: str, default: bool, identity: Identity) -> bool:
    value = message.get(key, default)
    if not isinstance(value, bool):
        raise ProtocolError("invalid_request", f'expected "{key}": true or false, found {_kind(value)}', identity)
    return value


_WHOLE = ("max_tokens", "top_k", "seed")
_NUMBERS = ("temperature", "top_p", "repeat_penalty")
_TIMES = {"timeout_s": "total_s", "first_token_timeout_s": "first_s", "token_timeout_s": "between_s"}


def _wanted(fields: Mapping[str, Any], defaults: Defaults, identity: Identity) -> tuple[Request, frozenset[str]]:
    """The request that `fields` describe, without its prompt, and the names they set."""
    values: dict[str, Any] = {}
    for key in (*_WHOLE, *_NUMBERS):
        value = fields.get(key)
        if value is None:
            continue
        whole = key in _WHOLE
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or abs(value) > 1e12:
            kind = "a whole number" if whole else "a number"
            raise ProtocolError("invalid_request", f'expected "{key}": {kind}, found {_kind(value)}', identity)
        values[key] = value
    if fields.get("deterministic") is not None:
        values["deterministic"] = _flag(fields, "deterministic", False, identity)
    if fields.get("accept") is not None:
        values["constraint"] = _constraint(fields["accept"], identity)
    times: dict[str, float] = {}
    for key, name in _TIMES.items():
        value = fields.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= defaults.max_total_s:
            limit = f"seconds above 0, at most {defaults.max_total_s:g}"
            raise ProtocolError("invalid_request", f'expected "{key}": {limit}', identity)
        times[name] = float(value)
    wanted = replace(defaults.request, deadlines=replace(defaults.request.deadlines, **times), **values)
    return wanted, frozenset((*values, *times))


def _constraint(value: object, identity: Identity) -> Constraint:
    expected = 'expected "accept": one of {"grammar": text}, {"json_schema": object}, {"allowed_tokens": list}'
    if not isinstance(value, dict) or len(value) != 1:
        raise ProtocolError("invalid_request", expected, identity)
    match value:
        case {"grammar": str() as grammar}:
            return Constraint(grammar=grammar)
        case {"json_schema": dict() as schema}:
            return Constraint(json_schema=schema)
        case {"allowed_tokens": list() as tokens} if tokens and all(
            isinstance(token, str) or (isinstance(token, int) and not isinstance(token, bool)) for token in tokens
        ):
            return Constraint(allowed_tokens=tokens)
    raise ProtocolError("invalid_request", expected, identity)


def behind(wanted: Request, given: frozenset[str], session: Request) -> Request:
    """`wanted` with a session's parameters where its own line names none."""
    times = {name: getattr(wanted.deadlines, name) for name in given.intersection(_TIMES.values())}
    values = {name: getattr(wanted, name) for name in given.difference(times)}
    return replace(session, prompt=wanted.prompt, deadlines=replace(session.deadlines, **times), **values)


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. ASCII only, so that no client mistakes a character of a reply for a line end."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def error_line(error: ProtocolError) -> bytes:
    """The answer to a line that can't be served."""
    identity = error.identity
    if identity.dialect == "action":
        metadata = {"error": error.code, "code": 400, "detail": error.detail}
        return encode(_action_reply("done", identity.id, "", "error", None, metadata, ""))
    if identity.dialect == "plain":
        body = {"class": error.code, "code": 400, "kind": "fatal", "detail": error.detail}
        return encode({"type": "error", "id": identity.id, "error": body})
    reply = {"ok": False, "error": error.code, "detail": error.detail}
    return encode(reply if identity.id is None else {**reply, "session_id": identity.id})


def token_line(request: Generate, token: Token, label: Label) -> bytes:
    """One piece of a reply."""
    if request.dialect == "action":
        return encode(
            _action_reply(request.action, request.key[1], token.text, _source(label), label.model, {"stream": True}, "")
        )
    key = "id" if request.dialect == "plain" else "session_id"
    return encode({"type": "token", key: request.key[1], "text": token.text})


def end_lines(request: Generate, outcome: Outcome, text: str) -> bytes:
    """The end of a request: `done` or `error`, in its dialect.

    Args:
        text: the complete reply, for requests without a stream.
    """
    label = outcome.label.as_dict() if outcome.label else {"source": None, "model": None, "bits": None}
    facts = {**label, "attempts": outcome.attempts, "fallback": outcome.fallback}
    body = {"finish_reason": outcome.finish_reason, "usage": outcome.usage.as_dict(), **facts}
    if request.dialect == "action":
        return _action_end(request, outcome, text, body)
    key, name = request.key[1], "id" if request.dialect == "plain" else "session_id"
    if outcome.failure is not None:
        return encode(_failure_message(request.dialect, key, outcome.failure, facts))
    done = {"type": "done", name: key, **body}
    if not request.stream:
        done["text"] = text
    if request.dialect == "plain":
        return encode(done)
    # One write for both lines: an existing client that reads up to `stop` finds `done` right after it.
    return encode({"type": "stop", "session_id": key, "finish_reason": outcome.finish_reason}) + encode(done)


def _failure_message(dialect: str, key: Id, failure: Failure, facts: Mapping[str, Any]) -> dict[str, Any]:
    if dialect == "plain":
        return {"type": "error", "id": key, "error": failure.as_dict(), **facts}
    body = failure.as_dict()
    return {"ok": False, "error": body.pop("class"), **body, "session_id": key, **facts}


def _action_end(request: Generate, outcome: Outcome, text: str, body: dict[str, Any]) -> bytes:
    metadata = {**body, "action": request.action}
    model = outcome.label.model if outcome.label else None
    source = _source(outcome.label, fallback=outcome.fallback) if outcome.label else "error"
    if outcome.failure is not None:
        failure = outcome.failure.as_dict()
        metadata |= {"error": failure.pop("class"), **failure}
        source, text = "error", ""
    prompt = request.wanted.prompt or ""
    return encode(_action_reply("done", request.key[1], text, source, model, metadata, prompt))


def _source(label: Label, *, fallback: bool = False) -> str:
    """The dialect's term: existing clients know gemma_local, fallback and error."""
    return "fallback" if fallback or label.source == "openai_compatible" else label.source


def _action_reply(
    action: str, key: Id | None, result: str, source: str, model: str | None, metadata: Mapping[str, Any], prompt: str
) -> dict[str, Any]:
    return {
        "action": action,
        "action_id": key,
        "input": prompt,
        "result": result,
        "metadata": metadata,
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "source": source,
        "model": model,
    }
