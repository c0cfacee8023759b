"""Engines behind HTTP: any OpenAI-compatible endpoint, and llama-server, which can more.

`ChatClient` (openai_http.py) measures; these generate: token by token, cancellable, with the contract's deadlines.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from trialbench.engines.contract import (
    Capability,
    FinishReason,
    Generation,
    Label,
    Probe,
    Refused,
    Trial,
    require,
)
from trialbench.engines.endpoint import EndpointOptions, is_loopback
from trialbench.engines.failures import BAD_ARGUMENTS, NOT_ALLOWED, SERVER_ERROR, TIMEOUT, UNSUPPORTED, Failure
from trialbench.engines.gguf import file_type_bits, named_bits
from trialbench.engines.hashing import Hashes
from trialbench.engines.http_stream import (
    CallError,
    HttpGeneration,
    Piece,
    Server,
    clean_text,
    count,
    error_event,
    milliseconds,
)

# How long a disconnected request may occupy the server: llama-server notices between two batches of a prefill.
_SLOT_LIMIT_S = 5.0
_SLOT_POLL_S = 0.01
_HEALTH_S = 1.0
# Added to the logit of each allowed token: what is not allowed then has a probability of e^-1000.
_ALLOW = 1000.0
_FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "limit": "length", "eos": "stop"}
_PRESETS = ("temperature", "top_p", "seed", "max_tokens")
# An underscore stands in no host name, and in the service names of containers.
_HOST = re.compile(r"\A[A-Za-z0-9._\-:\[\]]+\Z")


class OpenAICompatible:
    """The engine `openai_compatible`: prompts leave this process, and with `allowed_hosts` this machine.

    Raises:
        Refused: `url` is no URL, or its host is neither the loopback nor allowed.
    """

    def __init__(self, options: EndpointOptions) -> None:
        self.options = options
        self.label = Label("openai_compatible", options.model, options.bits)
        self.capabilities: frozenset[Capability] = frozenset({"messages", "seed"})
        if options.json_schema:
            self.capabilities |= {"json_schema"}
        self._server = Server(_checked(options.url, options.allowed_hosts), options.api_key)

    def probe(self, *, hashes: bool = True) -> Probe:  # noqa: ARG002 - the contract has it; there are no files here
        """Whether it lists its models."""
        try:
            models = self._server.call("GET", "/v1/models", timeout_s=_HEALTH_S * 5)
        except CallError as error:
            return Probe(False, self.label, error.failure, capabilities=self.capabilities)
        names = [clean_text(one.get("id")) for one in _list(models, "data") if isinstance(one, Mapping)]
        return Probe(True, self.label, capabilities=self.capabilities, facts={"models": names[:20]})

    def healthy(self) -> Failure | None:
        """Whether it lists its models within a second."""
        try:
            self._server.call("GET", "/v1/models", timeout_s=_HEALTH_S)
        except CallError as error:
            return error.failure
        return None

    def start(self, trial: Trial) -> Generation:
        """Begin; the request leaves with the first event that is asked for.

        Raises:
            Refused: a grammar, allowed tokens, token ids, or a value out of range.
        """
        require(self, trial)
        body = self._chat_body(trial)
        if trial.constraint is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": trial.constraint.json_schema},
            }
        # As with gemma.cpp: existing clients send them always, so they are passed over, and the result names them.
        ignored = [name for name in ("top_k", "repeat_penalty", "deterministic") if getattr(trial, name)]
        return HttpGeneration(
            self._server,
            self.label,
            "/v1/chat/completions",
            {**body, **trial.extra},
            trial.deadlines,
            read_chat,
            facts={"ignored": ignored} if ignored else {},
        )

    def close(self) -> None:
        """Nothing is kept open."""

    def _chat_body(self, trial: Trial) -> dict[str, Any]:
        messages = trial.messages
        if messages is None:
            messages = [{"role": "user", "content": trial.prompt}]
        body: dict[str, Any] = {"messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if self.options.model is not None:
            body["model"] = self.options.model
        body |= {name: getattr(trial, name) for name in _PRESETS if getattr(trial, name) is not None}
        return body


class LlamaServer(OpenAICompatible):
    """The engine `llama_server`.

    `gguf`: the model's file, where this machine has it: its header gives the bits, its SHA-256 goes into the probe.
    """

    def __init__(self, options: EndpointOptions, *, gguf: Path | None = None) -> None:
        super().__init__(options)
        bits = options.bits
        if bits is None and gguf is not None:
            bits = file_type_bits(gguf)
        self.label = Label("llama_server", options.model, bits)
        self.capabilities = frozenset(
            {"grammar", "json_schema", "allowed_tokens", "messages", "token_ids", "tokenize", "seed", "cache"}
        )
        self._gguf = gguf
        self._identified = False
        self._hashes = Hashes()
        self._running = 0
        self._lock = threading.Lock()

    def probe(self, *, hashes: bool = True) -> Probe:
        """Health, build, slots and context; where the model's file is ours to read also its bits and its hash."""
        failure = self.healthy()
        props: Mapping[str, Any] = {}
        if failure is None:
            try:
                props = self._identify()
            except CallError as error:
                failure = error.failure
        settings = props.get("default_generation_settings")
        sums: dict[str, str] = {}
        if self._gguf is not None and hashes:
            try:
                sums["weights"] = self._hashes.sha256(self._gguf)
            except OSError as error:
                failure = failure or Failure(SERVER_ERROR, f"{self._gguf}: {error.strerror}")
        return Probe(
            usable=failure is None,
            label=self.label,
            failure=failure,
            version=clean_text(props.get("build_info")) or None,
            capabilities=self.capabilities,
            hashes=sums,
            facts={
                "engine": "llama-server",
                "slots": count(props.get("total_slots")),
                "seq_len": count(settings.get("n_ctx")) if isinstance(settings, Mapping) else None,
                "model_path": clean_text(props.get("model_path")) or None,
            },
        )

    def healthy(self) -> Failure | None:
        """What `/health` says within a second."""
        try:
            self._server.call("GET", "/health", timeout_s=_HEALTH_S)
        except CallError as error:
            return error.failure
        return None

    def start(self, trial: Trial) -> Generation:
        """Begin. A text or messages go through the model's chat template, token ids as they are.

        Raises:
            Refused: a value out of range, or an allowed token that is none.
        """
        require(self, trial)
        if not self._identified:
            try:
                self._identify()
            except CallError:
                pass  # the request itself will say what is wrong
        if trial.prompt_ids is not None:
            path, read = "/completion", read_completion
            body: dict[str, Any] = {"prompt": list(trial.prompt_ids), "stream": True, "return_tokens": True}
            body |= {name: getattr(trial, name) for name in ("temperature", "top_p", "seed") if _has(trial, name)}
            if trial.max_tokens is not None:
                body["n_predict"] = trial.max_tokens
        else:
            path, read = "/v1/chat/completions", read_chat
            body = self._chat_body(trial)
            body["chat_template_kwargs"] = {"enable_thinking": False}
        body["cache_prompt"] = trial.cache_prompt
        body |= {name: getattr(trial, name) for name in ("top_k", "repeat_penalty") if _has(trial, name)}
        if trial.deterministic and trial.seed is None:
            body["seed"] = 0
        body |= self._constrained(trial)
        return HttpGeneration(
            self._server,
            self.label,
            path,
            {**body, **trial.extra},
            trial.deadlines,
            read,
            quiet=self._await_slot,
            track=self._track,
        )

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of `text`.

        Raises:
            CallError: the server does not say.
        """
        found = self._server.call("POST", "/tokenize", {"content": text, "add_special": special})
        return [number for one in _list(found, "tokens") if (number := count(one)) is not None]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`.

        Raises:
            CallError: the server does not say.
        """
        found = self._server.call("POST", "/detokenize", {"tokens": list(ids)})
        return clean_text(found.get("content") if isinstance(found, Mapping) else None)

    def busy_slots(self) -> int | None:
        """How many slots work on something; None where the server does not show them.

        Raises:
            CallError: it does not answer.
        """
        try:
            slots = self._server.call("GET", "/slots", timeout_s=_HEALTH_S)
        except CallError as error:
            if error.failure.detail.startswith(("HTTP 501", "HTTP 404")):
                return None
            raise
        if not isinstance(slots, list):
            return None
        return sum(isinstance(slot, Mapping) and slot.get("is_processing") is True for slot in slots)

    def _identify(self) -> Mapping[str, Any]:
        """Ask the server what it is, and put onto the label what nobody has declared.

        Raises:
            CallError: it does not say.
        """
        props = self._server.call("GET", "/props")
        props = props if isinstance(props, Mapping) else {}
        name = clean_text(props.get("model_alias")).rpartition("/")[2]
        bits = named_bits(clean_text(props.get("model_ftype")))
        self.label = replace(self.label, model=self.label.model or name or None, bits=self.label.bits or bits)
        self._identified = True
        return props

    def _constrained(self, trial: Trial) -> dict[str, Any]:
        constraint = trial.constraint
        if constraint is None:
            return {}
        if constraint.grammar is not None:
            return {"grammar": constraint.grammar}
        if constraint.json_schema is not None:
            return {"json_schema": constraint.json_schema}
        ids: set[int] = set()
        try:
            for one in constraint.allowed_tokens or ():
                ids.update([one] if isinstance(one, int) else self.encode(one))
            props = self._server.call("GET", "/props")
            # Without its end it would have to go on until the limit.
            end = props.get("eos_token") if isinstance(props, Mapping) else None
            if isinstance(end, str) and end:
                found = self._server.call("POST", "/tokenize", {"content": end, "parse_special": True})
                ids.update(number for one in _list(found, "tokens") if (number := count(one)) is not None)
        except CallError as error:
            raise Refused(Failure(UNSUPPORTED, f"allowed_tokens can't be looked up: {error}")) from error
        if not ids:
            raise Refused(Failure(BAD_ARGUMENTS, "allowed_tokens: expected at least one token"))
        return {"logit_bias": [[number, _ALLOW] for number in sorted(ids)]}

    def _track(self, step: int) -> None:
        with self._lock:
            self._running += step

    def _await_slot(self) -> tuple[bool, Mapping[str, Any]]:
        """Wait until the server works on no more than our other requests."""
        until_s = time.monotonic() + _SLOT_LIMIT_S
        while True:
            with self._lock:
                others = self._running - 1
            try:
                busy = self.busy_slots()
            except CallError as error:
                if error.failure.failure_class is TIMEOUT and time.monotonic() < until_s:
                    continue  # a busy machine answers late
                # A server that is gone works on nothing any more; whether it is gone is for `healthy` to say.
                return False, {"slot": f"unknown: {error.failure.failure_class.name}"}
            if busy is None:
                return False, {"slot": "not shown by the server"}
            if busy <= others:
                return True, {"slot": "free"}
            if time.monotonic() >= until_s:
                return False, {"slot": f"{busy} busy, {others} of them ours"}
            time.sleep(_SLOT_POLL_S)


def read_chat(name: str, value: str) -> Piece:
    """One line of a chat completion's stream."""
    if value == "[DONE]":
        return Piece(last=True)
    if name not in ("data", "error"):
        return Piece()
    event = json.loads(value)
    # Some say with each piece that there is no error.
    if name == "error" or event.get("error") is not None:
        return Piece(error=error_event(event.get("error", event)))
    piece = Piece(usage=_usage(event))
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        piece.text += clean_text(delta.get("content"))
        piece.thinking += clean_text(delta.get("reasoning_content") or delta.get("reasoning"))
        piece.finish_reason = _finish(choice.get("finish_reason")) or piece.finish_reason
    return piece


def read_completion(name: str, value: str) -> Piece:
    """One line of the stream of llama-server's own `/completion`."""
    if value == "[DONE]":
        return Piece(last=True)
    if name not in ("data", "error"):
        return Piece()
    event = json.loads(value)
    if name == "error" or "error" in event:
        return Piece(error=error_event(event.get("error", event)))
    piece = Piece(text=clean_text(event.get("content")))
    piece.ids = tuple(number for one in event.get("tokens") or () if (number := count(one)) is not None)
    if event.get("stop") is True:
        piece.last = True
        piece.finish_reason = _finish(event.get("stop_type")) or ("length" if event.get("stopped_limit") else "stop")
        piece.usage = _usage(event)
        # What a chat reports as usage is told under names of its own here.
        for ours, theirs in (("prompt_tokens", "tokens_evaluated"), ("completion_tokens", "tokens_predicted")):
            if (number := count(event.get(theirs))) is not None:
                piece.usage = {**piece.usage, ours: number}
    return piece


def _finish(value: object) -> FinishReason | None:
    if not isinstance(value, str):
        return None
    return _FINISH.get(value, "stop" if value == "word" else "unknown")


def _usage(event: Mapping[str, Any]) -> dict[str, Any]:
    usage, timings = event.get("usage") or {}, event.get("timings") or {}
    details = usage.get("prompt_tokens_details") or {}
    found = {
        "prompt_tokens": count(usage.get("prompt_tokens")),
        "completion_tokens": count(usage.get("completion_tokens")),
        "cached_tokens": count(timings.get("cache_n", details.get("cached_tokens"))),
        "prompt_ms": milliseconds(timings.get("prompt_ms")),
        "predicted_ms": milliseconds(timings.get("predicted_ms")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _list(document: object, name: str) -> list[Any]:
    found = document.get(name) if isinstance(document, Mapping) else None
    return found if isinstance(found, list) else []


def _has(trial: Trial, name: str) -> bool:
    return getattr(trial, name) is not None


def _checked(url: str, allowed_hosts: frozenset[str]) -> str:
    """`url` without path, when its host may be asked."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(Failure(BAD_ARGUMENTS, f"url: {error}")) from error
    if parts.scheme not in ("http", "https") or not host or not _HOST.match(parts.netloc) or port == 0:
        found = "one with a user or password in it" if "@" in url else repr(url)
        raise Refused(Failure(BAD_ARGUMENTS, f"url: expected http://HOST:PORT, found {found}"))
    if not is_loopback(host) and host not in {one.lower().strip("[]") for one in allowed_hosts}:
        allowed = ", ".join(sorted(allowed_hosts)) or "none"
        raise Refused(
            Failure(NOT_ALLOWED, f"{host} is neither this machine's loopback nor an allowed host (allowed: {allowed})")
        )
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/v1")
    checked = f"{parts.scheme}://{shown}{f':{port}' if port else ''}{path}"
    try:
        httpx.URL(checked)
    except httpx.InvalidURL as error:
        raise Refused(Failure(BAD_ARGUMENTS, f"url: {error}")) from error
    return checked
