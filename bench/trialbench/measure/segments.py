"""Runs segments of samples, one request at a time, and writes each sample when it arrives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from trialbench.files import is_file, open_output
from trialbench.measure.client import CONNECTION_ERRORS, REFUSED_FIELD, Reply
from trialbench.measure.neighbors import FOREIGN, RESTARTED, Neighbors
from trialbench.measure.request import fingerprint
from trialbench.measure.sample import Sample, judge, wall_clock, why
from trialbench.measure.summary import Request, SegmentFacts, SegmentSummary, Watched, latencies_ms, slowed, summarize
from trialbench.show.terminal import line
from trialbench.show.text import counted
from trialbench.workloads import Workload
from trialbench.workloads.scenes import Scene

# After this many connection errors in a row the server counts as broken: waiting longer is pointless.
BROKEN_AFTER = 5
# After SIGTERM the request in flight has this long to finish.
TERM_GRACE_S = 2.0
_POLL_S = 0.02
# With this file in its control folder a session sends nothing more: another process may be answering.
HALT = "halt"

EXIT_OK, EXIT_FAILED, EXIT_SERVER = 0, 3, 4


class Client(Protocol):
    """The client under measurement: `ChatClient`, or any engine as `EngineClient`."""

    def encode(self, workload: Workload, *, cache_prompt: bool) -> bytes:
        """The request of every sample of a segment."""

    def interrupt(self, grace_s: float) -> None:
        """From a signal handler: the request in flight may take `grace_s` more seconds."""

    def send(self, body: bytes, *, timeout_s: float, connect_timeout_s: float, until_s: float = float("inf")) -> Reply:
        """One request and its reply; never raises for what the server does."""


class Progress(Protocol):
    """Receives progress; called between requests, never during one."""

    def start(self, segment: str, total: int) -> None:
        """A segment begins, or is extended to a new `total`."""

    def sample(self, sample: Sample) -> None:
        """A measured sample has arrived."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def close(self) -> None:
        """The end of progress."""


@dataclass(frozen=True)
class HoldPoint:
    """Asked after the first `n` samples of a segment: may it continue to `extend_to`? If that is n, it only waits."""

    name: str
    extend_to: int


@dataclass(frozen=True)
class Segment:
    """One run of samples of one workload.

    `smoke`: a sample that is not adherent ends the session. `stop_on_thinking`: a thinking sample prevents the
    extension, or ends it, and with it the session. `time_limit_s` counts from the first request of the segment, warm-up
    included. `rate_hz` bounds the requests a second, for a server that others use meanwhile. `path` None: the samples
    are not kept.
    """

    id: str
    workload: Workload
    n: int
    path: Path | None
    warmup: int = 0
    cache_prompt: bool = False
    smoke: bool = False
    hold: HoldPoint | None = None
    stop_on_thinking: bool = False
    time_limit_s: float | None = None
    rate_hz: float | None = None


@dataclass
class _State:
    samples: list[Sample] = field(default_factory=list)
    warmups: list[Sample] = field(default_factory=list)
    total: int = 0
    stopped: str | None = None
    models: list[str] = field(default_factory=list)
    neighbors: Watched | None = None

    @property
    def slowed(self) -> float | None:
        """The factor by which the server slowed down during the segment, if it did."""
        return slowed(latencies_ms(self.samples))

    @property
    def thinking(self) -> int:
        return sum("thinking" in sample.flags for sample in [*self.samples, *self.warmups])


class Runner:
    """Runs segments in order until one of them ends the session.

    Args:
        segments: their requests are encoded here, before anything is measured.
        control_dir, out_dir, wait_s: where a hold point asks and is answered, and the longest wait for an answer.
        neighbors: watches for other clients of the server; None: not watched.
        limit_s: bound of the whole run, from its first request on. Unlike a segment's own `time_limit_s`, which may be
            meant to be reached, this one ends the run early: a server that answers each request just in time is
            as good as a hanging one.
    """

    def __init__(
        self,
        client: Client,
        segments: list[Segment],
        progress: Progress,
        *,
        out_dir: Path | None = None,
        control_dir: Path | None = None,
        wait_s: float = 120.0,
        neighbors: Neighbors | None = None,
        limit_s: float | None = None,
    ) -> None:
        self._neighbors = neighbors
        self._limit_s = limit_s
        self._until_s = float("inf")
        self._client = client
        self._segments = segments
        self._progress = progress
        self._out_dir = out_dir
        self._control_dir = control_dir
        self._wait_s = wait_s
        self._questions = {segment.id: _questions(client, segment) for segment in segments}
        self._states: dict[str, _State] = {}
        self._lost_in_a_row = 0
        self._answered = False
        self._hinted = False
        self._first_error: str | None = None
        self._signaled = False
        self.stopped: str | None = None

    def stop(self) -> None:
        """From a signal handler: finish the request in flight within a limit, then end."""
        self._signaled = True
        self._client.interrupt(TERM_GRACE_S)

    def wait_for_start(self, name: str) -> None:
        """Report that everything is ready, then wait for the start file. A timeout ends the session (`gate`)."""
        assert self._out_dir is not None
        assert self._control_dir is not None
        (self._out_dir / f"ready-{name}").write_text("ready\n", encoding="utf-8")
        if not self._wait((self._control_dir / name).exists):
            self._progress.note(f"the start file {name} did not appear within {self._wait_s:g} s")
            self.stopped = "signal" if self._signaled else "gate"

    @property
    def signaled(self) -> bool:
        """Whether a signal came."""
        return self._signaled

    def run(self) -> None:
        """Run the segments; afterwards `stopped`, `summaries()` and `exit_code()` describe the outcome."""
        if self._limit_s is not None:
            self._until_s = time.monotonic() + self._limit_s
        for segment in self._segments:
            if self.stopped is not None:
                break
            state = self._states[segment.id] = _State(total=segment.n)
            self._run_segment(segment, state)
            # A time limit of its own ends a segment, everything else the session.
            if state.stopped != "time_limit" or time.monotonic() >= self._until_s:
                self.stopped = state.stopped
        if not self._answered and self._lost_in_a_row and not self._signaled:
            # Only connection errors, although fewer than BROKEN_AFTER: the server is unreachable. A request that we
            # ended ourselves says nothing about it.
            self.stopped = "server"

    def summaries(self) -> dict[str, SegmentSummary]:
        """The numbers of each segment that was begun."""
        return {
            segment.id: summarize(
                state.samples,
                state.warmups,
                SegmentFacts(
                    workload=segment.workload.name,
                    requested=state.total,
                    contract=segment.workload.contract is not None,
                    cache_prompt=segment.cache_prompt,
                    stopped=state.stopped,
                    request=Request(
                        **fingerprint([body for _, body in self._questions[segment.id]]), models=state.models
                    ),
                    neighbors=state.neighbors,
                ),
            )
            for segment in self._segments
            if (state := self._states.get(segment.id)) is not None
        }

    def samples(self) -> dict[str, list[Sample]]:
        """The measured samples of each segment that was begun."""
        return {name: state.samples for name, state in self._states.items()}

    def exit_code(self) -> int:
        """0 all samples are good, 3 some failed or the session was ended early, 4 the server is broken or unreachable.

        3 as well for a server that slowed down or was restarted meanwhile: no single number describes it. A segment's
        time limit is not a failure by itself; a segment that it left without any good sample is.
        """
        if self.stopped == "server":
            return EXIT_SERVER
        states = self._states.values()
        failed = any(not sample.ok and sample.error_class != "cut_off" for state in states for sample in state.samples)
        empty = any(not any(sample.ok for sample in state.samples) for state in states)
        changed = any(state.slowed or _restarts(state) for state in states)
        return EXIT_FAILED if self.stopped is not None or failed or empty or changed or not states else EXIT_OK

    def closing(self) -> list[str]:
        """What the user must know at the end besides the numbers: why it ended early, and the first error."""
        lines = []
        if self.stopped == "server":
            what = f"{self._lost_in_a_row} requests in a row" if self._answered else "all requests"
            lines.append(
                f"the server is broken or unreachable: {what} found no connection or no complete reply in time"
            )
        elif self.stopped is not None:
            lines.append(f"ended early: {_ENDED.get(self.stopped, self.stopped)}")
        lines += self.notes()
        if self._first_error is not None:
            lines.append(f"first error: {self._first_error}")
        return lines

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, one sentence each."""
        watch, lines = self._neighbors, []
        if watch is not None:
            if watch.cache_replaced:
                held = f" ({counted(watch.cache_tokens, 'token')})" if watch.cache_tokens else ""
                lines.append(
                    f"the prompt cache of the server's slots{held} was replaced by this session's prompts: the next "
                    "request of another client computes its prompt again, once"
                )
            if watch.why is not None:
                lines.append(f"requests of other clients could not be detected: {watch.why}")
        for name, state in self._states.items():
            overlapped = sum(FOREIGN in sample.flags for sample in state.samples)
            if overlapped:
                done = counted(len(state.samples), "sample")
                lines.append(f"{name}: other clients' requests overlapped {overlapped} of {done}")
            if _restarts(state):
                again = counted(_restarts(state), "time")
                lines.append(f"{name}: the server was restarted {again} while it was measured")
            if state.slowed:
                lines.append(f"{name}: the server slowed down: its later replies took {state.slowed} times the usual")
            if len(state.models) > 1:
                lines.append(f"{name}: replies came from different models: {line(', '.join(state.models), 200)}")
        return lines

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Poll `condition` until it holds (True), or until the wait times out or a signal arrives (False)."""
        until = time.monotonic() + self._wait_s
        while not condition():
            if self._signaled or time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        return True

    def _run_segment(self, segment: Segment, state: _State) -> None:
        until_s = self._until_s
        if segment.time_limit_s is not None:
            until_s = min(until_s, time.monotonic() + segment.time_limit_s)
        if self._neighbors is not None:
            self._neighbors.begin()
        self._progress.start(segment.id, segment.n)
        with _Lines(_warmup_path(segment.path) if segment.warmup else None) as lines:
            self._take(segment, state, state.warmups, segment.warmup, lines, until_s, warmup=True)
        with _Lines(segment.path) as lines:
            self._take(segment, state, state.samples, segment.n, lines, until_s)
            if state.stopped is None and segment.hold is not None and self._may_extend(segment, state, segment.hold):
                state.total = segment.hold.extend_to
                self._progress.start(segment.id, state.total)
                self._take(segment, state, state.samples, state.total, lines, until_s, extending=True)
        if self._neighbors is not None:
            state.neighbors = Watched(**self._neighbors.facts())

    def _take(
        self,
        segment: Segment,
        state: _State,
        samples: list[Sample],
        total: int,
        lines: _Lines,
        until_s: float,
        *,
        warmup: bool = False,
        extending: bool = False,
    ) -> None:
        """Take samples until there are `total`, or until something ends the segment (`state.stopped` names it)."""
        limits = segment.workload.limits
        next_s = 0.0
        while len(samples) < total and state.stopped is None:
            if self._signaled or time.monotonic() >= until_s:
                state.stopped = "signal" if self._signaled else "time_limit"
                return
            if self._control_dir is not None and (self._control_dir / HALT).exists():
                state.stopped = HALT
                return
            if segment.rate_hz is not None:
                time.sleep(max(0.0, next_s - time.monotonic()))
                next_s = time.monotonic() + 1 / segment.rate_hz
            watch = self._neighbors
            if watch is not None and not watch.idle(until_s):
                # Another client keeps the server busy: give up.
                state.stopped = "signal" if self._signaled else "time_limit" if time.monotonic() >= until_s else "busy"
                return
            wall = wall_clock()
            # In turns, in the same order for every model that is asked.
            scene, body = self._questions[segment.id][len(samples) % len(self._questions[segment.id])]
            reply = self._client.send(
                body,
                timeout_s=limits.timeout_s,
                connect_timeout_s=limits.connect_timeout_s,
                until_s=until_s,
            )
            others = watch.settle(reply.completion_tokens, answered=reply.latency_ms is not None) if watch else []
            sample = judge(
                reply,
                len(samples) + 1,
                segment.workload,
                cache_prompt=segment.cache_prompt,
                wall=wall,
                others=others,
                scene=scene,
            )
            if watch is not None and not warmup:
                watch.count(others)
            if sample.model is not None and sample.model not in state.models:
                state.models.append(sample.model)
            samples.append(sample)
            lines.write(sample.as_dict())
            state.stopped = self._reason_to_stop(segment, sample, warmup=warmup, extending=extending)
            self._tell(segment, sample, warmup=warmup)

    def _reason_to_stop(self, segment: Segment, sample: Sample, *, warmup: bool, extending: bool) -> str | None:
        if sample.error_class in CONNECTION_ERRORS:
            self._lost_in_a_row += 1
        elif sample.error_class != "cut_off":
            self._lost_in_a_row, self._answered = 0, True
        if self._lost_in_a_row >= BROKEN_AFTER:
            return "server"
        if sample.error_class == "cut_off":
            return "signal" if self._signaled else "time_limit"
        if segment.smoke and not warmup:
            adherent = segment.workload.contract is None or sample.adherent
            if not (sample.ok and adherent):
                return "smoke"
        if segment.stop_on_thinking and extending and "thinking" in sample.flags:
            return "thinking"
        return None

    def _may_extend(self, segment: Segment, state: _State, hold: HoldPoint) -> bool:
        """Ask at the hold point. A thinking sample prevents the extension, whatever the answer."""
        assert self._out_dir is not None
        assert self._control_dir is not None
        samples = state.samples
        ok = sum(sample.ok for sample in samples)
        question = {"segment": segment.id, "sent": len(samples), "ok": ok, "failed": len(samples) - ok}
        question["thinking"] = state.thinking
        # Written to a temporary name and renamed: the other side polls, and must not read a partial file.
        ready = self._out_dir / f"at-{hold.name}"
        beside = ready.with_name(f".{ready.name}.part")
        beside.write_text(json.dumps(question) + "\n", encoding="utf-8")
        beside.replace(ready)
        reply = self._control_dir / hold.name
        answer: dict[str, Any] = {}

        def answered() -> bool:
            try:
                answer.update(json.loads(reply.read_text(encoding="utf-8")))
            except (FileNotFoundError, ValueError):
                return False  # not there yet, or still being written
            return True

        if not self._wait(answered):
            self._progress.note(f"no answer at the hold point {hold.name} within {self._wait_s:g} s")
            state.stopped = "signal" if self._signaled else "gate"
            return False
        if segment.stop_on_thinking and state.thinking:
            self._progress.note(f"{segment.id}: {state.thinking} thinking samples: no extension")
            state.stopped = "thinking"
            return False
        self._progress.note(
            f"hold point {hold.name}: extend={answer.get('extend')} {answer.get('reason', '')}".rstrip()
        )
        return answer.get("extend") is True

    def _tell(self, segment: Segment, sample: Sample, *, warmup: bool) -> None:
        if not warmup:
            self._progress.sample(sample)
        if sample.ok or sample.error_class == "cut_off":
            return
        if self._first_error is None:
            where = f"{segment.id}{' warm-up' if warmup else ''} {sample.seq}"
            self._first_error = f"{where}: {why(sample)}"
            self._progress.note(f"first error: {self._first_error}")
        # Added separately: the hint follows the server's message, which is truncated.
        _, hint, rest = (sample.error_detail or "").rpartition(REFUSED_FIELD)
        if hint and not self._hinted:
            self._hinted = True
            self._progress.note(line(hint + rest, 200))


def _questions(client: Client, segment: Segment) -> list[tuple[Scene | None, bytes]]:
    """The requests of a segment in the order they are asked, each with its scene.

    With the prompt cache it is one: a server that is asked something else each time has nothing to reuse.
    """
    work, cached = segment.workload, segment.cache_prompt
    if not work.scenes:
        return [(None, client.encode(work, cache_prompt=cached))]
    asked = max(segment.n, segment.warmup, segment.hold.extend_to if segment.hold else 0)
    scenes = work.scenes[: 1 if cached else asked]
    return [(scene, client.encode(replace(work, messages=scene.messages), cache_prompt=cached)) for scene in scenes]


# Why a run ended early, where the keyword alone does not explain it.
_ENDED = {
    "busy": "busy: other clients kept the server busy; measuring would have competed with them",
    HALT: "halt: another process may be answering; nothing more was sent",
    "time_limit": "time_limit: the run exceeded its time limit; its results are partial",
}


def _restarts(state: _State) -> int:
    return sum(RESTARTED in sample.flags for sample in [*state.samples, *state.warmups])


def _warmup_path(path: Path | None) -> Path | None:
    """Beside the samples, where these are in a file."""
    return path.with_name(f"{path.stem}-warmup{path.suffix}") if path and is_file(path) else None


class _Lines:
    """A JSON-lines file that is complete after every line; None as path keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._stream: TextIO | None = open_output(path) if path else None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def write(self, value: dict[str, Any]) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(value, ensure_ascii=False) + "\n")
            self._stream.flush()
