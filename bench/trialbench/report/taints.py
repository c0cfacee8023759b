"""Taints: named reasons why a run's numbers cannot support a decision, each with what was seen and where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trialbench.measure.summary import interruptions
from trialbench.report.comparison import A1, A2, CANDIDATE
from trialbench.report.folder import Folder
from trialbench.show.terminal import line

# Pairs whose requests must be identical; the left one is the baseline.
_ALIKE = ((A1, CANDIDATE), (A2, CANDIDATE), (A1, A2), ("describe-baseline", "describe-candidate"))
# Maximum length of a server's model name in messages.
_WORDS = 60

Segments = dict[str, dict[str, Any]]


def taints(folder: Folder, segments: Segments) -> list[str]:
    """The part `taints` of a summary: `name: segment: what was seen`, empty for a clean run.

    Names: those of `trialbench.measure.summary.taints`, and `model_changed`, `server_restarted`, `prompt_differs`,
    `image_differs`, `request_differs`, `rebooted`, `plan_unreadable` of what several segments or the journal show.
    """
    found = []
    for segment, numbers in segments.items():
        for taint in numbers["taints"]:
            name, _, seen = taint.partition(": ")
            found.append(f"{name}: {segment}: {seen}")
    found += [*_models(segments), *_restarts(folder, segments)]
    found += [f"{name}: {text}" for name, text in differing(segments)]
    if len({event.boot_id for event in folder.journal if event.boot_id}) > 1:
        found.append("rebooted: the host was rebooted during the run")
    # Without it, the defaults would stand in for its bands and sample counts.
    found += [f"plan_unreadable: {problem}" for problem in folder.unread if problem.startswith("plan.json")]
    return found


def _models(segments: Segments) -> Iterable[str]:
    """Servers that reported different model names in different segments, such as A1 and A2."""
    for side in ("baseline", "candidate"):
        first: tuple[str, str] | None = None
        for name, segment in segments.items():
            models = (segment["request"] or {}).get("models", [])
            if side not in name or not models:
                continue
            if first is not None and models[0] != first[1]:
                named = f"{line(first[1], _WORDS)} in {first[0]}, {line(models[0], _WORDS)} in {name}"
                yield f"model_changed: the server named itself {named}"
            first = name, models[-1]


def differing(segments: Segments) -> Iterable[tuple[str, str]]:
    """(taint, what was seen) where the requests to baseline and candidate differ, according to the clients."""
    for left, right in _ALIKE:
        asked = [(segments.get(name) or {}).get("request") or {} for name in (left, right)]
        # A client that ended abnormally left no hashes.
        if not all(one.get("body_sha256") for one in asked):
            continue
        parts = [part for part in ("prompt", "image") if len({one[f"{part}_sha256"] for one in asked}) > 1]
        for part in parts:
            hashes = ", ".join((one[f"{part}_sha256"] or "none")[:12] for one in asked)
            yield f"{part}_differs", f"{left} and {right} were given different {part}s ({hashes})"
        if not parts and len({one["body_sha256"] for one in asked}) > 1:
            yield "request_differs", f"{left} and {right} were asked with different settings"


def _restarts(folder: Folder, segments: Segments) -> Iterable[str]:
    """Servers that were not a single process from a session's first request to its last reply."""
    started = {event.process for event in folder.events("candidate_started")}
    if len(started) > 1:
        yield f"server_restarted: the candidate was started {len(started)} times"
    for names in _sessions(segments):
        samples = [sample for name in names for sample in [*folder.warmups.get(name, []), *folder.samples[name]]]
        seen = _processes(folder, names, samples)
        if seen and not seen[0] & seen[-1]:
            pids = ", then ".join("/".join(map(str, sorted(one))) for one in (seen[0], seen[-1]))
            yield f"server_restarted: {', '.join(names)}: its process was PID {pids}"
        # Restarts within one segment are reported with that segment.
        elif not any(taint.startswith("server_") for name in names for taint in segments[name]["taints"]):
            for taint in interruptions(samples):
                name, _, text = taint.partition(": ")
                yield f"{name}: {', '.join(names)}: {text}"


def _sessions(segments: Segments) -> list[list[str]]:
    """Segments that one server process should have answered, in order; the live model restarts before A2."""
    candidate = [name for name in segments if "candidate" in name]
    before = [name for name in segments if name in (A1, "describe-baseline")]
    rest = [[name] for name in segments if name not in (*candidate, *before)]
    return [names for names in (before, candidate, *rest) if names]


def _processes(folder: Folder, names: list[str], samples: list[dict[str, Any]]) -> list[set[int]]:
    """By the VRAM series: PIDs of the server in every reading between the first request and the last reply."""
    if not samples:
        return []
    begin = min(sample["t_start_s"] for sample in samples)
    end = max(sample["t_start_s"] + (sample["latency_ms"] or 0.0) / 1000 for sample in samples)
    mark = _mark(folder, names[0])
    found = (
        {
            int(holder["pid"])
            for holder in reading.get("processes", [])
            if holder.get("pid") is not None and mark and mark in f"{holder.get('command', '')} "
        }
        for reading in folder.vram
        if begin <= reading["t_s"] <= end
    )
    return [pids for pids in found if pids]


def _mark(folder: Folder, name: str) -> str | None:
    """Text that identifies the server of segment `name` by its command line; None if the plan does not name any."""
    if "candidate" in name:
        port = folder.plan.candidate_port
        return f"--port {port} " if port else None
    tenant = folder.plan.tenant(folder.plan.baseline_tenant)
    return (tenant.vram_process or None) if tenant else None
