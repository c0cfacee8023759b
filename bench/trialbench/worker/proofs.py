"""The three proofs: cold start, timeout and retry, cancel. Real engines, real time, a limit for every number.

`cold-start` and `cancel` use the engine directly; `timeout-retry` uses a complete worker with two clients, because the
worker implements recovery.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import socket
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from trialbench.config.engine import EngineChoice
from trialbench.config.settings import DispatcherSettings, Limits
from trialbench.engines import proc
from trialbench.engines.contract import Deadlines, Done, Engine, Failed, Request, Result, Token
from trialbench.errors import ServerError, UsageError
from trialbench.worker.build import dispatcher
from trialbench.worker.channel import SocketChannel
from trialbench.worker.launch import Launched
from trialbench.worker.proof import Check, Expectation, Proof, expectations
from trialbench.worker.protocol import Defaults
from trialbench.worker.service import Worker
from trialbench.worker.stall import Relay, StoppingEngine

# A proof that something ends must end itself: anything that takes longer than this hangs.
_HANG_S = 30.0
_EXPECTED: Mapping[str, Mapping[str, Expectation]] = {
    "cold-start": {
        "cold_start_s": Expectation("<", 2),
        "tokens_per_s": Expectation(">", 10),
        "failed": Expectation("=", 0),
    },
    "timeout-retry": {
        "recovery_s": Expectation("<", 10),
        "lost": Expectation("=", 0),
        "doubled": Expectation("=", 0),
        "state_lost": Expectation("=", 0),
        "fallback_s": Expectation("<", 10),
    },
    "cancel": {
        "hangs": Expectation("=", 0),
        "quiet_max_ms": Expectation("<", 2500),
        "unclean": Expectation("=", 0),
        "left_processes": Expectation("=", 0),
        "next_failed": Expectation("=", 0),
        "cancelled_share": Expectation(">=", 0.5),
    },
}
_DEFAULT_N = {"cold-start": 3, "timeout-retry": 3, "cancel": 20}
# Greedy, so that a reply can be compared with the one before it.
_GREEDY = Request(temperature=0.0, top_k=1)


def run(
    name: str,
    choice: EngineChoice,
    *,
    url: str | None = None,
    launch: str | None = None,
    n: int | None = None,
    prompt: str = "Count from one to one thousand.",
    max_tokens: int | None = None,
    expect: Sequence[str] = (),
    expect_any: Sequence[str] = (),
) -> Proof:
    """Run the proof `name` on the chosen engine.

    Args:
        launch: a command line that starts the server at `url`.
        expect: `NAME=NUMBER`, other limits.
        expect_any: the same, for all three proofs: names that this one does not have are ignored.

        An engine whose files can't be used gets a failed proof that says why.

    Raises:
        UsageError: wrong options.
        ServerError: the server can't be started, or does not answer.
    """
    known = {limit for limits in _EXPECTED.values() for limit in limits}
    own = [one for one in expect_any if one.partition("=")[0] in _EXPECTED[name] or one.partition("=")[0] not in known]
    limits = expectations(_EXPECTED[name], [*expect, *own])
    count = n or _DEFAULT_N[name]
    argv = None if launch is None else _command_line(launch)
    if argv and url is None:
        raise UsageError("--launch: expected --url as well, where the started server answers")
    request = replace(_GREEDY, prompt=prompt, deadlines=choice.settings.deadlines)
    engine = choice.make(None)
    try:
        if argv is None:
            unusable = _unusable(name, engine)
            if unusable is not None:
                return unusable
        if name == "cold-start":
            return _cold_start(engine, replace(request, max_tokens=max_tokens or 32), count, argv, limits)
        with ExitStack() as stack:
            if argv:
                stack.enter_context(_launched(engine, argv))
            if name == "cancel":
                return _cancel(engine, replace(request, max_tokens=max_tokens or 1024), count, limits)
            return _timeout_retry(choice, engine, url, replace(request, max_tokens=max_tokens or 32), count, limits)
    finally:
        engine.close()


def _command_line(launch: str) -> list[str]:
    try:
        argv = shlex.split(launch)
    except ValueError as error:
        raise UsageError(f"--launch: expected a command line, found {launch!r}: {error}") from error
    if not argv:
        raise UsageError("--launch: expected a command line, found none")
    return argv


def _unusable(name: str, engine: Engine) -> Proof | None:
    """The proof that failed before it began; None if it can begin."""
    if engine.label.source != "gemma_local":
        failure = engine.healthy()
        if failure is not None:
            raise ServerError(f"nothing was proved: {failure.failure_class.name}: {failure.detail}")
        return None
    probe = engine.probe()
    if probe.failure is None:
        return None
    detail = f"{probe.failure.failure_class.name}: {probe.failure.detail}"
    return Proof(name, probe.as_dict(), [Check("usable", 0, "", Expectation("=", 1), detail)])


def _launched(engine: Engine, argv: Sequence[str]) -> Launched:
    if engine.healthy() is None:
        raise UsageError("--launch: a server already answers at --url; stop it, or leave --launch out")
    return Launched(argv, lambda: engine.healthy() is None)


# --- cold start ------------------------------------------------------------------------------------------------------


def _cold_start(
    engine: Engine, request: Request, n: int, argv: Sequence[str] | None, limits: Mapping[str, Expectation]
) -> Proof:
    proof: Proof | None = None
    runs: list[dict[str, Any]] = []
    for _ in range(n):
        if argv is None:
            probe = engine.probe()
            proof = proof or Proof("cold-start", probe.as_dict())
            runs.append(_one_start(engine, request, None))
            continue
        with _launched(engine, argv) as launched:
            proof = proof or Proof("cold-start", engine.probe().as_dict())
            runs.append(_one_start(engine, request, launched))
    assert proof is not None
    proof.runs = runs
    # A server that was started before has its model in memory, so its start is not cold.
    cold = [one["cold_start_s"] for one in runs if one["cold_start_s"] is not None]
    warm = proof.engine.get("source") != "gemma_local" and argv is None
    proof.checks = [
        Check(
            "cold_start_s",
            max(cold) if len(cold) == n else None,
            "s",
            limits["cold_start_s"],
            "the server was running already; --launch starts it for the proof"
            if warm
            else f"from the process's start to the first token, longest of {n}; files may be in the page cache",
            skipped=warm,
        ),
        Check(
            "tokens_per_s",
            _least(one["tokens_per_s"] for one in runs),
            "/s",
            limits["tokens_per_s"],
            f"after the first token, slowest of {n}; of a reply that came in one piece over its whole time"
            if all(one["tokens_per_s"] is not None or one["error"] for one in runs)
            else "a reply of a single token has no rate: ask with another --prompt",
        ),
        Check("ttft_ms", _median(one["ttft_ms"] for one in runs), "ms", detail="median, from the request"),
        Check("peak_mib", _most(one["peak_mib"] for one in runs), "MiB"),
        Check("failed", sum(one["error"] is not None for one in runs), f"of {n}", limits["failed"], _first_error(runs)),
    ]
    return proof


def _one_start(engine: Engine, request: Request, launched: Launched | None) -> dict[str, Any]:
    times: list[float] = []
    result = _generate(engine, request, times)
    if launched is not None:
        launched.memory.look()
    # An engine process starts with the request; a launched server started before its first request.
    began_s = launched.started_s if launched else result.started_s
    own = launched is not None or result.label.source == "gemma_local"
    count = result.usage.completion_tokens or result.usage.chunks
    return {
        "cold_start_s": round(times[0] - began_s, 4) if times and own else None,
        "load_s": round(launched.healthy_s - launched.started_s, 4) if launched else None,
        "ttft_ms": result.ttft_ms,
        "tokens": count,
        "tokens_per_s": _rate(count, times, result.total_ms),
        "total_ms": result.total_ms,
        "peak_mib": launched.memory.peak_mib if launched else result.peak_mib,
        "error": result.failure.as_dict() if result.failure else None,
    }


def _rate(tokens: int, times: Sequence[float], total_ms: float) -> float | None:
    """Tokens per second after the first; for a reply that arrived all at once, over its total time, which is lower."""
    if tokens < 2:
        return None
    span_s = times[-1] - times[0] if times else 0.0
    if span_s > 0:
        return round((tokens - 1) / span_s, 3)
    return round(tokens / total_ms * 1000, 3) if total_ms > 0 else None


def _generate(engine: Engine, request: Request, times: list[float]) -> Result:
    generation = engine.start(request)
    times.extend(event.t_s for event in generation.events() if isinstance(event, Token))
    return generation.result()


# --- cancel ----------------------------------------------------------------------------------------------------------


def _cancel(engine: Engine, request: Request, n: int, limits: Mapping[str, Expectation]) -> Proof:
    proof = Proof("cancel", engine.probe().as_dict())
    before = _children()
    dice = random.Random(0)
    for _ in range(n):
        one = _one_cancel(engine, request, dice.randrange(0, 12))
        proof.runs.append(one)
        if one["hang"]:
            # Stop here, so that more failures of the same kind do not hide it.
            break
        following = _generate(engine, replace(request, max_tokens=8), [])
        one["next"] = "ok" if following.failure is None else following.failure.failure_class.name
    runs = proof.runs
    ended = [one for one in runs if one["finish_reason"] == "cancelled"]
    quiet = [one["quiet_ms"] for one in ended if one["quiet_ms"] is not None]
    left = _children() - before
    proof.checks = [
        Check("hangs", sum(one["hang"] for one in runs), f"of {n}", limits["hangs"], f"longer than {_HANG_S:g} s"),
        Check(
            "cancelled_share",
            len(ended) / n,
            "",
            limits["cancelled_share"],
            "the others had ended by themselves before the cancel came, or failed",
        ),
        Check("quiet_p50_ms", _median(quiet), "ms", detail="from the cancel until nothing of it was left"),
        Check("quiet_max_ms", _most(quiet), "ms", limits["quiet_max_ms"]),
        Check(
            "unclean",
            sum(not one["clean"] for one in runs),
            f"of {n}",
            limits["unclean"],
            "process group gone and pipes drained; a server's slot seen free",
        ),
        Check("left_processes", len(left), "", limits["left_processes"], "children of this process afterwards"),
        Check(
            "next_failed",
            sum(one.get("next") != "ok" for one in runs),
            f"of {n}",
            limits["next_failed"],
            _first_error(runs) or "a short request right after each cancel",
        ),
    ]
    return proof


def _one_cancel(engine: Engine, request: Request, after_tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "after_tokens": after_tokens,
        "hang": True,
        "finish_reason": None,
        "quiet_ms": None,
        "clean": False,
        "error": None,
    }
    raised: list[Exception] = []

    def work() -> None:
        try:
            canceled()
        except Exception as error:
            raised.append(error)

    def canceled() -> None:
        generation = engine.start(request)
        seen, canceled_s = 0, None
        for event in generation.events():
            seen += isinstance(event, Token)
            if seen >= after_tokens and canceled_s is None and not isinstance(event, Done | Failed):
                canceled_s = time.monotonic()
                generation.cancel()
        quiet_ms = None if canceled_s is None else (time.monotonic() - canceled_s) * 1000
        result = generation.result()
        found["finish_reason"] = result.finish_reason
        found["quiet_ms"] = None if quiet_ms is None else round(quiet_ms, 1)
        found["clean"] = result.clean
        found["error"] = result.failure.as_dict() if result.failure else None
        found["hang"] = False

    thread = threading.Thread(target=work, name="cancel", daemon=True)
    thread.start()
    thread.join(request.deadlines.total_s + _HANG_S)
    if raised:
        # Usually a refusal; it ended at once and did not hang.
        raise raised[0]
    return found


def _children() -> set[tuple[int, int]]:
    """Direct children of this process except zombies, by pid and start."""
    own = os.getpid()
    return {(one.pid, one.start) for one in proc.table() if one.parent == own and not one.dead}


# --- timeout and retry -----------------------------------------------------------------------------------------------


class _Caller:
    """A client of a worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_HANG_S * 4)
        self._stream = self._socket.makefile("rb")
        channel = SocketChannel(theirs, max_line_bytes=1 << 20, send_timeout_s=10)

        def serve() -> None:
            worker.serve(channel)
            channel.release()

        threading.Thread(target=serve, name="proof-client", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> dict[str, Any]:
        """The next message; empty if the worker sends nothing more."""
        try:
            line = self._stream.readline()
        except OSError:
            return {}
        message: dict[str, Any] = json.loads(line) if line else {}
        return message

    def reply(self) -> tuple[str, float | None, list[dict[str, Any]]]:
        """Text, CLOCK_MONOTONIC seconds of the first token, and all end messages of the running request."""
        text, first_s = "", None
        while message := self.read():
            if message.get("type") == "token":
                first_s = first_s or time.monotonic()
                text += message["text"]
            elif message.get("type") in ("done", "error") or message.get("ok") is False:
                return text, first_s, [message]
        return text, first_s, []

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def _timeout_retry(
    choice: EngineChoice, engine: Engine, url: str | None, request: Request, n: int, limits: Mapping[str, Expectation]
) -> Proof:
    proof = Proof("timeout-retry", engine.probe().as_dict())
    plain = _generate(engine, request, [])
    if plain.failure is not None:
        detail = f"without any stall: {plain.failure.failure_class.name}: {plain.failure.detail}"
        proof.checks = [Check("recovery_s", None, "s", limits["recovery_s"], detail)]
        return proof
    # Long enough that a healthy reply never counts as a stall, short enough to wait for.
    deadline_s = max(1.0, 3 * (plain.ttft_ms or 0.0) / 1000)
    with ExitStack() as stack:
        injector: Relay | StoppingEngine
        if url is None:
            injector = StoppingEngine(engine)
            stalling: Engine = injector
        else:
            injector = stack.enter_context(Relay(url))
            stalling = choice.make(injector.url)
            stack.callback(stalling.close)
        request = replace(request, deadlines=Deadlines(first_s=deadline_s, total_s=request.deadlines.total_s))
        settings = replace(choice.settings.dispatcher, fallback=(), mode="force_local")
        with _worker(stalling, settings, request) as (worker, retried):
            proof.runs = [_one_stall(worker, retried, injector, request.prompt or "", deadline_s) for _ in range(n)]
        checks = _recovery(proof.runs, plain.text, n, limits)
        proof.checks = [*checks, _fallback(choice, stalling, injector, request, deadline_s, limits)]
    return proof


class _worker:  # noqa: N801 - used as a function: `with _worker(...) as (worker, retried)`
    """A worker for the duration of a proof."""

    def __init__(self, engine: Engine, settings: DispatcherSettings, request: Request) -> None:
        self.retried: list[str] = []

        def log(event: str, fields: dict[str, Any]) -> None:
            if event == "retry":
                self.retried.append(fields["after"])

        self._worker = Worker(
            dispatcher(settings, engine, log=log),
            limits=Limits(),
            defaults=Defaults(replace(request, prompt=None)),
        )

    def __enter__(self) -> tuple[Worker, list[str]]:
        """The worker, and the reasons of its retries."""
        return self._worker, self.retried

    def __exit__(self, *_unused: object) -> None:
        self._worker.stop(0)


def _one_stall(
    worker: Worker, retried: list[str], injector: Relay | StoppingEngine, prompt: str, deadline_s: float
) -> dict[str, Any]:
    """One stalled request, with a session used before and after it, and another client's request waiting behind it."""
    first, second = _Caller(worker), _Caller(worker)
    try:
        first.send({"type": "create_session", "params": {"max_tokens": 16}})
        session = first.read().get("session_id", "")
        injector.stalls = 1
        stalled_before = injector.stalled
        retried.clear()
        asked_s = time.monotonic()
        first.send({"type": "generate", "session_id": session, "prompt": prompt})
        while injector.stalled == stalled_before and time.monotonic() - asked_s < _HANG_S:
            time.sleep(0.005)
        second.send({"type": "generate", "id": "behind", "prompt": prompt})
        text, first_s, ends = first.reply()
        _, _, behind = second.reply()
        # The session is unchanged: its id is known, and its parameters still apply.
        first.send({"type": "generate", "session_id": session, "prompt": prompt})
        again, _, after = first.reply()
        first.send({"type": "status"})
        second.send({"type": "status"})
        extra = [message for message in (first.read(), second.read()) if message.get("type") != "status"]
    finally:
        first.close()
        second.close()
    end = ends[0] if ends else {}
    return {
        "stalled": injector.stalled - stalled_before,
        "deadline_s": round(deadline_s, 3),
        "recovery_s": round(first_s - asked_s - deadline_s, 4) if first_s else None,
        "attempts": end.get("attempts"),
        "retried_after": list(retried),
        "end": end.get("type") or end.get("error"),
        "behind": behind[0].get("type") if behind else None,
        "after": after[0].get("type") if after else None,
        "same_text": text == again,
        "extra": len(extra),
    }


def _recovery(runs: Sequence[Mapping[str, Any]], plain: str, n: int, limits: Mapping[str, Expectation]) -> list[Check]:
    good = [one for one in runs if one["end"] == "done" and one["stalled"] == 1 and one["retried_after"] == ["timeout"]]
    recoveries = [one["recovery_s"] for one in good if one["recovery_s"] is not None]
    lost = sum((one["end"] != "done") + (one["behind"] != "done") for one in runs)
    return [
        Check(
            "recovery_s",
            max(recoveries) if len(recoveries) == n else None,
            "s",
            limits["recovery_s"],
            f"from the passed deadline ({runs[0]['deadline_s']} s without a token) to the retry's first token, "
            f"longest of {n}",
        ),
        Check(
            "retried",
            len(good),
            f"of {n}",
            detail="stalled once, ended by its deadline, answered by the second attempt",
        ),
        Check("lost", lost, f"of {2 * n}", limits["lost"], "the stalled request, and one that waited behind it"),
        Check("doubled", sum(one["extra"] for one in runs), "", limits["doubled"], "messages after the one end"),
        Check("state_lost", sum(one["after"] != "done" for one in runs), f"of {n}", limits["state_lost"], "sessions"),
        Check(
            "same_text",
            sum(one["same_text"] for one in runs),
            f"of {n}",
            detail=f"the retry's reply equals an undisturbed one ({len(plain)} characters)",
        ),
    ]


def _fallback(
    choice: EngineChoice,
    engine: Engine,
    injector: Relay | StoppingEngine,
    request: Request,
    deadline_s: float,
    limits: Mapping[str, Expectation],
) -> Check:
    settings = choice.settings.dispatcher
    if not settings.fallback:
        return Check("fallback_s", None, "s", limits["fallback_s"], "no fallback is configured: off", skipped=True)
    settings = replace(settings, mode="smart", fallback_timeout_s=deadline_s)
    with _worker(engine, settings, request) as (worker, _):
        caller = _Caller(worker)
        injector.stalls = 1000
        asked_s = time.monotonic()
        caller.send({"type": "generate", "id": "elsewhere", "prompt": request.prompt})
        _, first_s, ends = caller.reply()
        injector.stalls = 0
        caller.close()
    end = ends[0] if ends else {}
    answered = end.get("type") == "done" and end.get("fallback") is True and first_s is not None
    detail = f"after {deadline_s:g} s without a token; answered by {end.get('source')} {end.get('model')}"
    if not answered:
        detail = f"expected a labeled answer of the fallback, found {end.get('error') or end or 'nothing'}"
    value = first_s - asked_s - deadline_s if answered and first_s is not None else None
    return Check("fallback_s", value, "s", limits["fallback_s"], detail)


# --- small things ----------------------------------------------------------------------------------------------------


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _median(values: Any) -> float | None:
    known = _known(values)
    return statistics.median(known) if known else None


def _least(values: Any) -> float | None:
    """None if any value is missing: the unknown one may be the slowest."""
    known = list(values)
    return None if not known or None in known else min(known)


def _most(values: Any) -> float | None:
    return max(_known(values), default=None)


def _first_error(runs: Sequence[Mapping[str, Any]]) -> str:
    return next((f"{one['error']['class']}: {one['error']['detail']}" for one in runs if one.get("error")), "")
