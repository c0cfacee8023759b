"""Engines behind HTTP: any OpenAI-compatible endpoint, and llama-server with its extensions.

They generate token by token, can be canceled, and keep the contract's deadlines. `measure.client` measures over the
same wire.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trialbench.engines.contract import (
    Capability,
    Generation,
    Label,
    Probe,
    Refused,
    Request,
    require,
)
from trialbench.engines.endpoint import EndpointOptions
from trialbench.engines.failures import (
    BAD_ARGUMENTS,
    BAD_REPLY,
    CONNECTION,
    NOT_ALLOWED,
    SERVER_ERROR,
    TIMEOUT,
    UNSUPPORTED,
    Failure,
    FailureClass,
)
from trialbench.engines.gguf import file_type_bits, named_bits
from trialbench.engines.hashing import Hashes
from trialbench.engines.llama.generation import CallError, HttpGeneration, Server, by_status
from trialbench.engines.llama.messages import count, read_chunk, read_completion, text
from trialbench.engines.llama.slots import Slots, SlotsError
from trialbench.errors import UsageError
from trialbench.urls import is_loopback, parse, server

# How long a disconnected request may occupy the server: llama-server notices it between two batches of a prefill.
_SLOT_LIMIT_S = 5.0
_SLOT_POLL_S = 0.01
_HEALTH_S = 1.0
# Added to the logit of each allowed token: other tokens then have a probability of e^-1000.
_ALLOW = 1000.0
_PRESETS = ("temperature", "top_p", "seed", "max_tokens")


class OpenAICompatible:
    """The engine `openai_compatible`: prompts leave this process, and with `allowed_hosts` this machine.

    Raises:
        Refused: `url` is invalid, or its host is neither the loopback nor allowed.
    """

    # Answered only by a server that is up.
    _page = "/v1/models"
    # ... and these statuses are an answer: not every server has that page.
    _missing = frozenset({404, 405, 501})

    def __init__(self, options: EndpointOptions) -> None:
        self.options = options
        self.label = Label("openai_compatible", options.model, options.bits)
        self.capabilities: frozenset[Capability] = frozenset({"messages", "seed"})
        if options.json_schema:
            self.capabilities |= {"json_schema"}
        self._server = Server(_checked(options.url, options.allowed_hosts), options.api_key)

    def probe(self, *, hashes: bool = True) -> Probe:  # noqa: ARG002 - the contract has it; there are no files here
        """Whether it lists its models, or has no such list."""
        models = None
        try:
            models = self._server.call("GET", "/v1/models", timeout_s=_HEALTH_S * 5)
        except CallError as error:
            if not self._lacks_page(error):
                return Probe(False, self.label, error.failure, capabilities=self.capabilities)
        return Probe(True, self.label, capabilities=self.capabilities, facts={"models": _models(models)[:20]})

    def healthy(self) -> Failure | None:
        """Whether its page answers within a second."""
        try:
            self._server.call("GET", self._page, timeout_s=_HEALTH_S)
        except CallError as error:
            return None if self._lacks_page(error) else error.failure
        return None

    def _lacks_page(self, error: CallError) -> bool:
        # In JSON: a proxy whose server is gone has the same statuses, with a page or a word.
        return error.in_json and error.failure.status in self._missing

    def start(self, request: Request) -> Generation:
        """Begin; the request is sent when the first event is requested.

        Raises:
            Refused: a grammar, allowed tokens, token ids, or a value out of range.
        """
        require(self, request)
        body = self._chat_body(request)
        if request.constraint is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": request.constraint.json_schema},
            }
        # As with gemma.cpp: existing clients always send these, so they are ignored, and the result lists them.
        ignored = [name for name in ("top_k", "repeat_penalty", "deterministic") if getattr(request, name)]
        return HttpGeneration(
            self._server,
            self.label,
            "/v1/chat/completions",
            {**body, **request.extra},
            request.deadlines,
            read_chunk,
            facts={"ignored": ignored} if ignored else {},
        )

    def close(self) -> None:
        """Nothing is kept open."""

    def _chat_body(self, request: Request) -> dict[str, Any]:
        messages = request.messages
        if messages is None:
            messages = [{"role": "user", "content": request.prompt}]
        body: dict[str, Any] = {"messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if self.options.model is not None:
            body["model"] = self.options.model
        body |= {name: getattr(request, name) for name in _PRESETS if getattr(request, name) is not None}
        return body


class LlamaServer(OpenAICompatible):
    """The engine `llama_server`.

    `gguf`: the model file, if it is on this machine: its header gives the bits, and the probe has its SHA-256.
    """

    _page = "/health"
    _missing = frozenset()

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
        """Health, build, slots and context; with the model file also its bits and its hash."""
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
            version=text(props.get("build_info")) or None,
            capabilities=self.capabilities,
            hashes=sums,
            facts={
                "engine": "llama-server",
                "slots": count(props.get("total_slots")),
                "seq_len": count(settings.get("n_ctx")) if isinstance(settings, Mapping) else None,
                "model_path": text(props.get("model_path")) or None,
            },
        )

    def start(self, request: Request) -> Generation:
        """Begin. A text or messages go through the model's chat template; token ids are sent unchanged.

        Raises:
            Refused: a value out of range, or an invalid allowed token.
        """
        require(self, request)
        if not self._identified:
            try:
                self._identify()
            except CallError:
                pass  # the request itself will report the problem
        if request.prompt_ids is not None:
            path, read = "/completion", read_completion
            body: dict[str, Any] = {"prompt": list(request.prompt_ids), "stream": True, "return_tokens": True}
            body |= {name: getattr(request, name) for name in ("temperature", "top_p", "seed") if _has(request, name)}
            if request.max_tokens is not None:
                body["n_predict"] = request.max_tokens
        else:
            path, read = "/v1/chat/completions", read_chunk
            body = self._chat_body(request)
            body["chat_template_kwargs"] = {"enable_thinking": False}
        body["cache_prompt"] = request.cache_prompt
        body |= {name: getattr(request, name) for name in ("top_k", "repeat_penalty") if _has(request, name)}
        if request.deterministic and request.seed is None:
            body["seed"] = 0
        body |= self._constrained(request)
        return HttpGeneration(
            self._server,
            self.label,
            path,
            {**body, **request.extra},
            request.deadlines,
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
        return (text(found.get("content")) if isinstance(found, Mapping) else None) or ""

    def _slots(self) -> Slots:
        return Slots(self._server.url, api_key=self._server.api_key)

    def _identify(self) -> Mapping[str, Any]:
        """Ask the server for its properties, and complete the label with what was not declared.

        Raises:
            CallError: it does not say.
        """
        props = self._server.call("GET", "/props")
        props = props if isinstance(props, Mapping) else {}
        name = (text(props.get("model_alias")) or "").rpartition("/")[2]
        bits = named_bits(text(props.get("model_ftype")) or "")
        self.label = replace(self.label, model=self.label.model or name or None, bits=self.label.bits or bits)
        self._identified = True
        return props

    def _constrained(self, request: Request) -> dict[str, Any]:
        constraint = request.constraint
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
            # Without an allowed end token, the reply would continue until the limit.
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
        """Wait until the server works only on our other requests."""
        until_s = time.monotonic() + _SLOT_LIMIT_S
        with contextlib.closing(self._slots()) as slots:
            while True:
                with self._lock:
                    others = self._running - 1
                try:
                    busy = slots.look(_HEALTH_S).busy
                except SlotsError as error:
                    if error.hidden:
                        return False, {"slot": "not shown by the server"}
                    if error.timed_out and time.monotonic() < until_s:
                        continue  # a busy machine answers late
                    # A server that is gone has no busy slot; `healthy` will find out whether it is gone.
                    return False, {"slot": f"unknown: {_why_no_slots(error).name}"}
                if busy <= others:
                    return True, {"slot": "free"}
                if time.monotonic() >= until_s:
                    return False, {"slot": f"{busy} busy, {others} of them ours"}
                time.sleep(_SLOT_POLL_S)


def _why_no_slots(error: SlotsError) -> FailureClass:
    if error.timed_out:
        return TIMEOUT
    if error.status is None:
        return CONNECTION
    return BAD_REPLY if error.status == 200 else by_status(error.status, "").failure_class


def _models(document: object) -> list[str]:
    """The names in a list of models: OpenAI's form, Ollama's, or the list alone."""
    entries = document if isinstance(document, list) else _list(document, "data") or _list(document, "models")
    said = (next((one[key] for key in ("id", "name") if one.get(key)), None) if isinstance(one, Mapping) else one
            for one in entries)  # fmt: skip
    return [name for one in said if (name := text(one))]


def _list(document: object, name: str) -> list[Any]:
    found = document.get(name) if isinstance(document, Mapping) else None
    return found if isinstance(found, list) else []


def _has(request: Request, name: str) -> bool:
    return getattr(request, name) is not None


def _checked(url: str, allowed_hosts: frozenset[str]) -> str:
    """The server that `url` names, if its host may be asked."""
    try:
        checked = server(url, "url")
    except UsageError as error:
        raise Refused(Failure(BAD_ARGUMENTS, str(error))) from None
    host = parse(checked, "url").host
    if not is_loopback(host) and host not in {one.lower().strip("[]") for one in allowed_hosts}:
        allowed = ", ".join(sorted(allowed_hosts)) or "none"
        raise Refused(
            Failure(NOT_ALLOWED, f"{host} is neither this machine's loopback nor an allowed host (allowed: {allowed})")
        )
    return checked
