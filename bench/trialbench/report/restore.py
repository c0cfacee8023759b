"""How the host was restored after a run, or why it was not, and the next steps.

All of it comes from the journal, which the host writes on its own, so it also holds if the controller died.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from trialbench.report.folder import Folder
from trialbench.report.journal import Event

# The end of the host program's message about a tenant that does not start.
_BY_HAND = re.compile(r"^to start it by hand: (.+)$", re.MULTILINE)
_PLAY = "ansible-playbook {} -i INVENTORY"
_RESTORE = f"{_PLAY.format('restore.yml')}, or on the host: sudo model-trial restore"


def outcome(folder: Folder) -> str:
    """How a run ended: `completed`, `rehearsed`, `rolled_back`, `open`, `untouched`.

    `rolled_back` was restored after a failure, `open` is not known to be restored, `untouched` never held the host.
    """
    if not folder.events("tenant_stopping") and not folder.events("opened"):
        return "untouched"
    if not folder.events("closed"):
        return "open"
    done = {event.phase for event in folder.events("phase_done")}
    if folder.events("phase_failed") or ("window" if folder.rehearsal else "measure") not in done:
        return "rolled_back"
    return "rehearsed" if folder.rehearsal else "completed"


def seconds_between(earlier: Event, later: Event) -> float | None:
    """Seconds between two events; across a reboot by wall clock, None if that is unusable too."""
    if earlier.boot_id == later.boot_id:
        return round(later.t_s - earlier.t_s, 3)
    try:
        walls = [datetime.fromisoformat(event.wall) for event in (earlier, later)]
        return round((walls[1] - walls[0]).total_seconds(), 3)
    except (ValueError, TypeError):
        return None


def down_seconds(folder: Folder) -> dict[str, float]:
    """Downtime of each restored tenant: the host's own figure, else from its stop to its last healthy event."""
    for event in reversed(folder.events("restored")):
        if event.down:
            return dict(event.down)
    found: dict[str, float] = {}
    healthy = {event.tenant: event for event in folder.events("tenant_healthy")}
    for event in folder.events("tenant_stopping"):
        name = event.tenant
        took = seconds_between(event, healthy[name]) if name in healthy else None
        if name not in found and took is not None and took > 0:
            found[name] = took
    return found


def restore_facts(folder: Folder, failure: dict[str, Any] | None, still_down: list[dict[str, Any]]) -> dict[str, Any]:
    """The part `restore` of a summary (`trialbench schema summary`)."""
    how = outcome(folder)
    restored = folder.events("restored")
    started = folder.events("restore_started")
    asked = [*started, *restored][-1:]
    end = _end(folder)
    after_s = seconds_between(end[0], restored[-1]) if end and restored else None
    return {
        "restored": None if how == "untouched" else how != "open",
        "by": asked[0].restored_by if asked else None,
        "at": restored[-1].wall if restored else None,
        "why": _why(folder, how, failure),
        "after": end[1] if end and after_s is not None else None,
        "after_s": after_s,
        "attempts": len(started),
        "failures": [str(event.reason or "without a reason") for event in folder.events("restore_failed")],
        "retries": [
            {name: getattr(event, name) for name in ("tenant", "attempt", "wait_s", "reason")}
            for event in folder.events("tenant_retry")
        ],
        "times": restored[-1].times if restored else None,
        "kept": {name: len(samples) for name, samples in folder.samples.items() if samples},
        "files": [
            *(["journal.jsonl"] if folder.journal else []),
            *(["vram.jsonl"] if folder.vram else []),
            *(f"logs/{name}" for name in folder.logs),
        ],
        "next": _next(folder, how, failure, still_down),
    }


def _why(folder: Folder, how: str, failure: dict[str, Any] | None) -> str:
    """Why the run ended."""
    if how in ("completed", "rehearsed"):
        return how
    if failure:
        return f"{failure['phase']}: {failure['reason'] or 'failed without a reason'}"
    if how == "untouched":
        return "it ended before anything was stopped"
    if how == "open" and not folder.events("restore_started"):
        return "it has not ended, as far as the journal was fetched"
    return "it ended early, and the journal does not say why"


def _end(folder: Folder) -> tuple[Event, str] | None:
    """The event that ended the window, and its description."""
    for event in reversed(folder.journal):
        if event.event == "phase_failed":
            return event, f"{event.phase} failed"
        if event.event == "phase_done" and event.phase != "snapshot":
            return event, f"{event.phase} ended"
    return None


def _next(folder: Folder, how: str, failure: dict[str, Any] | None, still_down: list[dict[str, Any]]) -> list[str]:
    if how == "open":
        return _while_open(folder, still_down)
    if how == "rehearsed":
        return [f"the trial itself: {_PLAY.format('benchmark-e4b.yml')}"]
    if how == "completed":
        replies = folder.samples.get("describe-candidate")
        judged = folder.verdict is not None and folder.verdict["facts"]["describe"] is not None
        if not replies or judged:
            return []
        return [
            "read samples/describe-candidate.jsonl beside samples/describe-baseline.jsonl",
            "then say which is better: trialbench verdict DIR --describe better (or same, or worse)",
        ]
    steps = [f"fix: {failure['todo']}"] if failure and failure["todo"] else []
    if not steps:
        steps = ["see what ended it: journal.jsonl and logs/ of this folder; on the host: journalctl -u mt-run"]
    play = "rehearse.yml" if folder.rehearsal else "benchmark-e4b.yml"
    return [*steps, f"then again: {_PLAY.format(play)}"]


def _while_open(folder: Folder, still_down: list[dict[str, Any]]) -> list[str]:
    """The steps that restore a host that is not known to be restored."""
    if not folder.events("restore_failed"):
        look = "look at it on the host: sudo model-trial status"
        if folder.plan.attended is False:
            return [f"it runs unattended; after it ends: {_PLAY.format('harvest.yml')}", look]
        return [look, f"bring it back now: {_RESTORE}", f"fetch its end: {_PLAY.format('harvest.yml')}"]
    # Only the newest attempt counts: earlier failures may have been fixed since.
    begun = max((at for at, event in enumerate(folder.journal) if event.event == "restore_started"), default=0)
    attempt = folder.journal[begun:]
    steps = []
    for event in attempt:
        if event.event == "tenant_failed" and event.tenant:
            command = _BY_HAND.search(event.reason or "")
            steps.append(f"{event.tenant} does not start" + (f"; by hand: {command[1]}" if command else ""))
    named = {event.tenant for event in attempt if event.event == "tenant_failed"}
    for entry in still_down:
        steps += [f"{name} is down, and was not started yet" for name in entry["tenants"] if name not in named]
    made = [event.checks for event in attempt if event.event == "checks" and event.checks]
    for check in made[-1] if made else []:
        if not check.ok:
            steps.append(f"check {check.id}, {check.title}: expected {check.expected}, found {check.found}")
    if not steps:
        steps = [f"fix: {folder.events('restore_failed')[-1].reason or 'see journalctl -u mt-restore'}"]
    return [*steps, f"the host keeps retrying; once fixed, restore at once with: {_RESTORE}"]
