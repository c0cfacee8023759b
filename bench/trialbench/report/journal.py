"""The lines of `journal.jsonl` as typed events, checked once when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trialbench import schemas

# The fields an event needs to be counted; a line without them is as bad as one that is cut short.
_NEEDED = {
    "phase_started": ("phase",),
    "phase_done": ("phase",),
    "phase_failed": ("phase",),
    "tenant_stopping": ("tenant",),
    "tenant_starting": ("tenant",),
    "tenant_healthy": ("tenant", "duration_s"),
    "tenant_retry": ("tenant", "attempt"),
    "candidate_healthy": ("duration_s",),
    "drained": ("used_mib",),
    "samples_void": ("segments", "since_s"),
}
# Fields of the schema whose names and types are the event's own.
_PLAIN = (
    "t_s", "boot_id", "wall", "run", "event", "name", "ok", "impact", "duration_s", "used_mib", "footprint_gb", "band",
    "reason", "expected", "found", "todo", "restored_by", "down", "times", "attempt", "wait_s", "since_s",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One of the checks that close a run."""

    id: int
    title: str
    expected: str
    found: str
    ok: bool


@dataclass(frozen=True)
class Event:
    """One line of the journal. A field that the line lacks is None; `phase` and `tenant` are empty then.

    Attributes:
        event: what happened, such as `phase_done`.
        name: of a gate, which one.
        down: of a restore, how long each tenant was down, in seconds.
        times: of a restore, seconds of stops, starts and drains by name.
        checks: None where none were made.
        segments: whose samples are void if they ended after `since_s`, CLOCK_MONOTONIC seconds of the host.
        gone: what ran beside the tenants before the trial, and did not at its end, a text each.
        process: PID and start time of a candidate, as text; `pid` is None unless it is a number.
    """

    event: str
    t_s: float
    boot_id: str
    wall: str = ""
    run: str = ""
    phase: str = ""
    tenant: str = ""
    impact: str | None = None
    name: str | None = None
    ok: bool | None = None
    duration_s: float | None = None
    used_mib: float | None = None
    footprint_gb: float | None = None
    band: str | None = None
    reason: str | None = None
    expected: str | None = None
    found: str | bool | None = None
    todo: str | None = None
    restored_by: str | None = None
    down: Mapping[str, float] | None = None
    times: Mapping[str, Mapping[str, float]] | None = None
    attempt: int | None = None
    wait_s: float | None = None
    segments: tuple[str, ...] = ()
    since_s: float | None = None
    checks: tuple[Check, ...] | None = None
    gone: tuple[str, ...] = ()
    pid: int | None = None
    process: str = ""
    controller: str = ""
    function_sha256: str = ""


def read_event(line: Mapping[str, Any]) -> Event | None:
    """The event of a line; None for a line that does not fit the schema or lacks what its event needs."""
    needed = _NEEDED.get(str(line.get("event")), ())
    if schemas.validate(line, "journal") or any(line.get(name) is None for name in needed):
        return None
    pid, checks = line.get("pid"), line.get("checks")
    return Event(
        **{name: line[name] for name in _PLAIN if name in line},
        phase=line.get("phase") or "",
        tenant=line.get("tenant") or "",
        segments=tuple(line.get("segments") or ()),
        checks=None if checks is None else read_checks(checks),
        gone=tuple(line.get("gone") or ()),
        pid=pid if isinstance(pid, int) else None,
        process=f"{pid} {line.get('start_ticks')}",
        controller=_text(line.get("controller")),
        function_sha256=_text(line.get("function_sha256")),
    )


def read_checks(checks: Sequence[Mapping[str, Any]]) -> tuple[Check, ...]:
    """Checks that fit the schema."""
    return tuple(Check(**{name: one[name] for name in Check.__dataclass_fields__}) for one in checks)


def _text(value: object) -> str:
    return "" if value is None else str(value)
