"""The client for servers that speak OpenAI's chat completions: llama-server above all.

One request gives one `Reply`, never an exception: whatever goes wrong is named in `error_class` and stays a sample.
"""

from __future__ import annotations

import contextlib
import gc
import http.cookiejar
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from trialbench.engines import sse
from trialbench.engines.transport import DeadlineError, Wire, WireTransport
from trialbench.errors import UsageError
from trialbench.workloads import Workload

# Sent beside the standard fields, and what not every server knows; each can be left out (`--omit`).
EXTENSIONS: Mapping[str, Any] = {"cache_prompt": False, "chat_template_kwargs": {"enable_thinking": False}}
# Error classes that say "nobody answers there": enough of them in a row and the server counts as broken.
CONNECTION_ERRORS = frozenset({"connect", "dropped", "timeout"})
# A reply is data of a stranger: more than any answer needs is not read, and numbers beyond this are none.
MAX_REPLY_BYTES = 4 << 20
_MAX_NUMBER = 1e12
_MAX_NAME = 300
# How the hint begins that is put behind what such a server says.
REFUSED_FIELD = "(the server refuses a field of the request"


@dataclass
class Reply:
    """What came back. Times: `started_s` CLOCK_MONOTONIC, the rest milliseconds; None where the server says nothing.

    `error_class`: None, `connect`, `dropped` (closed within the reply), `timeout`, `cut_off` (ended by us: time limit
    or signal), `http_<status>`, `server_error` (an error event within a stream), `bad_json`, `bad_reply`.
    """

    started_s: float
    latency_ms: float | None = None
    ttft_ms: float | None = None
    error_class: str | None = None
    error_detail: str | None = None
    content: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    completion_tokens: int | None = None
    server_ms: float | None = None
    prompt_n: int | None = None
    cache_n: int | None = None
    model: str | None = None
    reconnected: bool = False


class ChatClient:
    """Sends one workload's request again and again over one connection.

    Args:
        url: the server, with or without a trailing `/v1`.
        stream: ask for a stream, which gives `ttft_ms` and takes a new connection for each request.
        model: sent as `model`; llama-server does not need it.
        omit: names of body fields to leave out, for servers that refuse them.
        api_key: sent as bearer token.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: bool = False,
        model: str | None = None,
        omit: frozenset[str] = frozenset(),
        api_key: str | None = None,
    ) -> None:
        self._url = _endpoint(url)
        self._stream = stream
        self._model = model
        self._omit = omit
        self._transport = WireTransport(keep_alive=not stream)
        self.wire = self._transport.wire
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            # Nothing is ever unpacked: a few bytes of a compressed reply could fill the memory.
            "Accept-Encoding": "identity",
        }
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # trust_env off: proxies and .netrc of the environment must not come between client and server.
        # No cookies either: every request sends the same bytes, whatever was answered before.
        cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.Client(transport=self._transport, headers=headers, cookies=cookies, trust_env=False)
        self._interrupted_s = float("inf")

    def encode(self, workload: Workload, *, cache_prompt: bool) -> bytes:
        """The body of the request, the same for every sample of a segment."""
        body: dict[str, Any] = {"messages": workload.messages, "max_tokens": workload.limits.max_tokens}
        if workload.limits.temperature is not None:
            body["temperature"] = workload.limits.temperature
        if self._model is not None:
            body["model"] = self._model
        body |= {**EXTENSIONS, "cache_prompt": cache_prompt}
        body |= {"stream": True, "stream_options": {"include_usage": True}} if self._stream else {"stream": False}
        body |= workload.request
        return json.dumps({key: value for key, value in body.items() if key not in self._omit}).encode()

    def interrupt(self, grace_s: float) -> None:
        """From a signal handler: the request in flight may take `grace_s` more seconds."""
        self._interrupted_s = min(self._interrupted_s, time.monotonic() + grace_s)
        self.wire.deadline_s = min(self.wire.deadline_s, self._interrupted_s)

    def send(self, body: bytes, *, timeout_s: float, connect_timeout_s: float, until_s: float = float("inf")) -> Reply:
        """One request and its reply.

        Args:
            timeout_s: bound of the whole request; passing it is the server's failure (`timeout`).
            until_s: CLOCK_MONOTONIC at which we give up for reasons of our own (`cut_off`).
        """
        with _undisturbed():
            reply = self._attempt(body, timeout_s, connect_timeout_s, until_s)
            if reply.error_class == "dropped" and self._reused and self.wire.bytes_read == 0:
                # A kept-alive connection that the server was just closing: it has read nothing of this request. Once
                # more on a new connection; where the server is really gone this fails too.
                reply = self._attempt(body, timeout_s, connect_timeout_s, until_s)
                reply.reconnected = True
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _attempt(self, body: bytes, timeout_s: float, connect_timeout_s: float, until_s: float) -> Reply:
        wire = self.wire
        wire.reset()
        connects = wire.connects
        started_s = time.monotonic()
        own_limit_s = min(until_s, self._interrupted_s)
        wire.deadline_s = min(started_s + timeout_s, own_limit_s)
        reply = Reply(started_s)
        try:
            request = self._client.build_request(
                "POST", self._url, content=body, timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s)
            )
            with contextlib.closing(self._client.send(request, stream=True)) as response:
                self._read(response, reply)
        except DeadlineError:
            own = time.monotonic() >= min(until_s, self._interrupted_s)
            reply.error_class, reply.error_detail = (
                ("cut_off", "ended by the time limit or a signal")
                if own
                else ("timeout", f"no complete reply within {timeout_s:g} s")
            )
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            reply.error_class, reply.error_detail = "connect", str(error) or f"not within {connect_timeout_s:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            reply.error_class, reply.error_detail = "dropped", str(error) or type(error).__name__
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # httpx looks at headers that nobody here asks for, such as where a redirect would lead.
            reply.error_class, reply.error_detail = "bad_reply", f"{type(error).__name__}: {error}"
        except _TooLongError:
            reply.error_class, reply.error_detail = "bad_reply", f"longer than {MAX_REPLY_BYTES >> 20} MiB"
        self._reused = wire.connects == connects
        if wire.first_write_s is not None:
            reply.started_s = wire.first_write_s
        end_s = wire.last_read_s or time.monotonic()
        if reply.error_class in (None, "bad_json", "bad_reply") or (reply.error_class or "").startswith("http_"):
            reply.latency_ms = _ms(end_s - reply.started_s)
        return reply

    def _read(self, response: httpx.Response, reply: Reply) -> None:
        if response.status_code != 200:
            text = b"".join(_bounded(response)).decode("utf-8", "replace")
            reply.error_class, reply.error_detail = f"http_{response.status_code}", self._explain(response, text)
        elif self._stream:
            _read_stream(_bounded(response), reply, self.wire)
        else:
            _read_document(b"".join(_bounded(response)), reply)

    def _explain(self, response: httpx.Response, text: str) -> str:
        detail = text.strip()[:300] or "no text"
        if response.status_code in (400, 422):
            named = [name for name in (*EXTENSIONS, "stream_options", "temperature") if name in text]
            if named:
                options = " ".join(f"--omit {name}" for name in named)
                detail += f" {REFUSED_FIELD}; leave it out with {options})"
        return detail


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile: it takes milliseconds, at times of its own."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _TooLongError(Exception):
    """More than `MAX_REPLY_BYTES` came."""


def _bounded(response: httpx.Response) -> Iterator[bytes]:
    """The body as it came over the wire, as long as it is no longer than a reply may be."""
    size = 0
    for chunk in response.iter_raw():
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            raise _TooLongError
        yield chunk


def _endpoint(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url: expected http://HOST:PORT, found {url!r}")
    return url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _read_document(body: bytes, reply: Reply) -> None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        reply.error_class, reply.error_detail = "bad_json", f"{error}: {body[:80]!r}"
        return
    try:
        choice = document["choices"][0]
        message = choice["message"]
        _set_text(reply, message)
        reply.finish_reason = _text(choice.get("finish_reason"))
        _set_counts(reply, document)
    except (LookupError, TypeError, AttributeError) as error:
        reply.error_class = "bad_reply"
        reply.error_detail = f"no chat completion: {type(error).__name__} {error}: {body[:80]!r}"


def _read_stream(chunks: Iterator[bytes], reply: Reply, wire: Wire) -> None:
    """Read to the end first, noting when each piece came, and look into it afterwards.

    A client that parses between two reads falls behind a fast server, and measures itself.
    """
    pieces = [(wire.last_read_s, chunk) for chunk in chunks]
    came_s: float | None = None

    def replayed() -> Iterator[bytes]:
        nonlocal came_s
        for came_s, chunk in pieces:  # noqa: B007 - read by the loop below, event by event
            yield chunk

    texts: dict[str, str] = {}
    complete = False
    for name, value in sse.events(replayed()):
        if value == "[DONE]":
            complete = True
            continue
        try:
            event = json.loads(value)
            if name == "error" or "error" in event:
                reply.error_class, reply.error_detail = "server_error", value[:300]
                return
            _set_counts(reply, event)
            for choice in event["choices"]:
                for key, text in choice["delta"].items():
                    if isinstance(text, str) and key != "role":
                        texts[key] = texts.get(key, "") + text
                        if text and reply.ttft_ms is None and came_s is not None and wire.first_write_s is not None:
                            reply.ttft_ms = _ms(came_s - wire.first_write_s)
                reply.finish_reason = _text(choice.get("finish_reason")) or reply.finish_reason
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reply.error_class = "bad_json" if isinstance(error, ValueError) else "bad_reply"
            reply.error_detail = f"{error}: {value[:80]!r}"
            return
    if not complete:
        reply.error_class, reply.error_detail = "dropped", "the stream ended before [DONE]"
    _set_text(reply, texts)


def _text(value: object) -> str | None:
    """`value` if it is a text. Half a surrogate pair, which JSON can hold and no file can, becomes U+FFFD."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(value: object) -> float | None:
    """`value` if it is a number that can be counted with: `Infinity`, `NaN` and 1e999 are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _MAX_NUMBER else None


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else int(number)


def _set_text(reply: Reply, message: Mapping[str, Any]) -> None:
    reply.content = _text(message.get("content"))
    # llama-server says `reasoning_content`, others `reasoning`.
    reply.reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))


def _set_counts(reply: Reply, document: Mapping[str, Any]) -> None:
    usage = document.get("usage") or {}
    timings = document.get("timings") or {}
    model = _text(document.get("model"))
    if model:
        reply.model = model[:_MAX_NAME]
    if "completion_tokens" in usage:
        reply.completion_tokens = _count(usage["completion_tokens"])
    spent = [_number(timings.get(name)) for name in ("prompt_ms", "predicted_ms")]
    if None not in spent:
        reply.server_ms = round(sum(part or 0.0 for part in spent), 3)
    for name in ("prompt_n", "cache_n"):
        if name in timings:
            setattr(reply, name, _count(timings[name]))
    # Where a server has no timings, OpenAI's own field tells of the cache.
    details = usage.get("prompt_tokens_details") or {}
    if reply.cache_n is None and "cached_tokens" in details:
        reply.cache_n = _count(details["cached_tokens"])
