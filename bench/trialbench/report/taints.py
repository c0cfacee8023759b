"""Taints: named reasons why a run's numbers cannot support a decision, each with what was seen and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from trialbench.measure.sample import Sample
from trialbench.measure.summary import interruptions
from trialbench.report.plan import Plan, Side
from trialbench.report.run import Run, Segment
from trialbench.show.terminal import line

# Maximum length of a server's model name in messages.
_WORDS = 60

Segments = Sequence[Segment]


def taints(run: Run, segments: Segments) -> list[str]:
    """The part `taints` of a summary: `name: segment: what was seen`, empty for a clean run.

    Names: those of `trialbench.measure.summary.taints`, and `model_changed`, `server_restarted`, `prompt_differs`,
    `image_differs`, `request_differs`, `rebooted`, `plan_unreadable` of what several segments or the journal show.
    """
    found = []
    for segment in segments:
        for taint in segment.summary.taints:
            name, _, seen = taint.partition(": ")
            found.append(f"{name}: {segment.name}: {seen}")
    found += [*_models(segments), *_restarts(run, segments)]
    found += [f"{name}: {text}" for name, text in differing(run.plan, segments)]
    if len({event.boot_id for event in run.journal if event.boot_id}) > 1:
        found.append("rebooted: the host was rebooted during the run")
    # Without it, the defaults would stand in for its bands and sample counts.
    found += [f"plan_unreadable: {problem}" for problem in run.unread if problem.startswith("plan.json")]
    return found


def _models(segments: Segments) -> Iterable[str]:
    """Servers that reported different model names in different segments, such as A1 and A2."""
    for side in get_args(Side):
        first: tuple[str, str] | None = None
        for segment in segments:
            request = segment.summary.request
            if segment.side != side or request is None or not request.models:
                continue
            models = request.models
            if first is not None and models[0] != first[1]:
                named = f"{line(first[1], _WORDS)} in {first[0]}, {line(models[0], _WORDS)} in {segment.name}"
                yield f"model_changed: the server named itself {named}"
            first = segment.name, models[-1]


def _alike(plan: Plan) -> list[tuple[str, str]]:
    """Pairs of segments whose requests must be identical; the left one is the baseline."""
    work = plan.decider
    pairs = [(work.a1, work.candidate), (work.a2, work.candidate), (work.a1, work.a2)]
    return [*pairs, *((shown.baseline, shown.candidate) for shown in plan.shown)]


def differing(plan: Plan, segments: Segments) -> Iterable[tuple[str, str]]:
    """(taint, what was seen) where the requests to baseline and candidate differ, according to the clients."""
    requests = {segment.name: segment.summary.request for segment in segments}
    for left, right in _alike(plan):
        one, other = requests.get(left), requests.get(right)
        # A client that ended abnormally left no hashes.
        if one is None or other is None or not (one.body_sha256 and other.body_sha256):
            continue
        hashes = {
            "prompt": (one.prompt_sha256, other.prompt_sha256),
            "image": (one.image_sha256, other.image_sha256),
        }
        parts = [part for part, (before, after) in hashes.items() if before != after]
        for part in parts:
            shown = ", ".join((sha256 or "none")[:12] for sha256 in hashes[part])
            yield f"{part}_differs", f"{left} and {right} were given different {part}s ({shown})"
        if not parts and one.body_sha256 != other.body_sha256:
            yield "request_differs", f"{left} and {right} were asked with different settings"


def _restarts(run: Run, segments: Segments) -> Iterable[str]:
    """Servers that were not a single process from a session's first request to its last reply."""
    started = {event.process for event in run.events("candidate_started")}
    if len(started) > 1:
        yield f"server_restarted: the candidate was started {len(started)} times"
    for session in _sessions(run.plan, segments):
        names = ", ".join(segment.name for segment in session)
        samples = [sample for segment in session for sample in [*segment.warmups, *segment.samples]]
        seen = _processes(run, session[0], samples)
        if seen and not seen[0] & seen[-1]:
            pids = ", then ".join("/".join(map(str, sorted(one))) for one in (seen[0], seen[-1]))
            yield f"server_restarted: {names}: its process was PID {pids}"
        # Restarts within one segment are reported with that segment.
        elif not any(taint.startswith("server_") for segment in session for taint in segment.summary.taints):
            for taint in interruptions(samples):
                name, _, text = taint.partition(": ")
                yield f"{name}: {names}: {text}"


def _sessions(plan: Plan, segments: Segments) -> list[list[Segment]]:
    """Segments that one server process should have answered, in order; the live model restarts before A2."""
    candidate = [segment for segment in segments if segment.side == "candidate"]
    first = (plan.decider.a1, *(work.baseline for work in plan.shown))
    before = [segment for segment in segments if segment.name in first]
    rest = [[segment] for segment in segments if segment not in (*candidate, *before)]
    return [session for session in (before, candidate, *rest) if session]


def _processes(run: Run, first: Segment, samples: Sequence[Sample]) -> list[set[int]]:
    """By the VRAM series: PIDs of the server in every reading between the first request and the last reply."""
    if not samples:
        return []
    begin, end = min(sample.t_start_s for sample in samples), max(sample.t_end_s for sample in samples)
    needle = _needle(run, first)
    found = (
        {
            holder.pid
            for holder in reading.holders
            if holder.pid is not None and needle and needle in f"{holder.command} "
        }
        for reading in run.readings
        if begin <= reading.t_s <= end
    )
    return [pids for pids in found if pids]


def _needle(run: Run, segment: Segment) -> str | None:
    """Text that identifies the server of `segment` by its command line; None if the plan does not name any."""
    if segment.side == "candidate":
        port = run.plan.candidate_port
        return f"--port {port} " if port else None
    tenant = run.plan.tenant(run.plan.baseline_tenant)
    return (tenant.vram_process or None) if tenant else None
