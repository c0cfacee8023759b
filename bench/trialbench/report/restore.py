"""How the host was restored after a run, or why it was not, and the next steps.

All of it comes from the journal, which the host writes on its own, so it also holds if the controller died.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from trialbench.report.journal import Event
from trialbench.report.review.pairs import pairs
from trialbench.report.run import Run
from trialbench.report.windows import StillDown

# The end of the host program's message about a tenant that does not start.
_BY_HAND = re.compile(r"^to start it by hand: (.+)$", re.MULTILINE)
_PLAY = "ansible-playbook {} -i INVENTORY"
_RESTORE = f"{_PLAY.format('restore.yml')}, or on the host: sudo model-trial restore"


Outcome = Literal["completed", "rehearsed", "rolled_back", "open", "untouched"]


@dataclass(frozen=True)
class Failure:
    """The phase that failed, and what its program said about it."""

    phase: str
    reason: str | None
    expected: str | None
    found: str | bool | None
    todo: str | None

    @classmethod
    def of(cls, event: Event) -> Failure:
        """The failure that an event `phase_failed` tells of."""
        return cls(event.phase, event.reason, event.expected, event.found, event.todo)

    def __str__(self) -> str:
        """Phase and reason."""
        return f"{self.phase}: {self.reason or 'failed without a reason'}"

    @property
    def details(self) -> dict[str, str]:
        """What it says about `expected`, `found` and `todo`."""
        told = {"expected": self.expected, "found": self.found, "todo": self.todo}
        return {name: str(value) for name, value in told.items() if value}


@dataclass(frozen=True)
class Retry:
    """A start of a tenant that failed and was tried again after `wait_s` seconds."""

    tenant: str
    attempt: int | None
    wait_s: float | None
    reason: str | None


@dataclass(frozen=True)
class Restore:
    """How the host came back, or why it has not, as `summary.json` has it.

    Attributes:
        restored: None for a run that never held the host.
        by: who asked for it: playbook, host, boot or hand.
        at: wall clock, ISO 8601 in UTC.
        why: what ended the run.
        after: what `after_s` counts from, in words; it is the time from the end of the window to the restored host.
        attempts: how often a restore was begun.
        failures: why attempts were not complete, oldest first.
        gone: what ran beside the tenants before the trial but not at the end, for a reason unrelated to the trial.
        times: seconds of stops, starts and drains (`stop_s`, `start_s`, `drain_s`) by name.
        kept: samples by segment.
        next: what a person does next, a step each.
    """

    restored: bool | None
    by: str | None
    at: str | None
    why: str
    after: str | None
    after_s: float | None
    attempts: int
    failures: Sequence[str]
    gone: Sequence[str]
    retries: Sequence[Retry]
    times: Mapping[str, Mapping[str, float]] | None
    kept: Mapping[str, int]
    files: Sequence[str]
    next: Sequence[str]


def outcome(run: Run) -> Outcome:
    """How a run ended: `completed`, `rehearsed`, `rolled_back`, `open`, `untouched`.

    `rolled_back` was restored after a failure, `open` is not known to be restored, `untouched` never held the host.
    """
    if not run.events("tenant_stopping") and not run.events("opened"):
        return "untouched"
    if not run.events("closed"):
        return "open"
    done = {event.phase for event in run.events("phase_done")}
    if run.events("phase_failed") or ("window" if run.rehearsal else "measure") not in done:
        return "rolled_back"
    if run.rehearsal and second_tries(run):
        # It is the way back that a rehearsal is about.
        return "rolled_back"
    return "rehearsed" if run.rehearsal else "completed"


def second_tries(run: Run) -> list[str]:
    """What did not succeed at the first try of the restore, in words, oldest first; empty if everything did.

    These are starts of a tenant that were tried again, and restores that were not complete, or were cut off and begun
    again. A restore that waited until the host could start processes again does not count.
    """
    found, restores, begun = [], 0, False
    for event in run.journal:
        why = (event.reason or "without a reason").split("\n", 1)[0]
        if event.event == "tenant_retry":
            found.append(f"{event.tenant}: start {event.attempt} failed and was tried again: {why}")
        elif event.event == "restore_started":
            if begun:
                found.append(f"restore {restores} was cut off and begun again")
            restores, begun = restores + 1, True
        elif event.event == "restore_failed":
            found.append(f"restore {max(restores, 1)} was not complete: {why}")
        if event.event in ("restore_failed", "restore_waits"):
            begun = False
    return found


def seconds_between(earlier: Event, later: Event) -> float | None:
    """Seconds between two events; across a reboot by wall clock, None if that is unusable too."""
    if earlier.boot_id == later.boot_id:
        return round(later.t_s - earlier.t_s, 3)
    try:
        walls = [datetime.fromisoformat(event.wall) for event in (earlier, later)]
        return round((walls[1] - walls[0]).total_seconds(), 3)
    except (ValueError, TypeError):
        return None


def down_seconds(run: Run) -> dict[str, float]:
    """Downtime of each restored tenant: the host's own figure, else from its stop to its last healthy event."""
    for event in reversed(run.events("restored")):
        if event.down:
            return dict(event.down)
    found: dict[str, float] = {}
    healthy = {event.tenant: event for event in run.events("tenant_healthy")}
    for event in run.events("tenant_stopping"):
        name = event.tenant
        took = seconds_between(event, healthy[name]) if name in healthy else None
        if name not in found and took is not None and took > 0:
            found[name] = took
    return found


def restore_facts(run: Run, failure: Failure | None, still_down: Sequence[StillDown]) -> Restore:
    """The part `restore` of a summary."""
    how = outcome(run)
    restored = run.events("restored")
    started = run.events("restore_started")
    asked = [*started, *restored][-1:]
    end = _end(run)
    after_s = seconds_between(end[0], restored[-1]) if end and restored else None
    return Restore(
        restored=None if how == "untouched" else how != "open",
        by=asked[0].restored_by if asked else None,
        at=restored[-1].wall if restored else None,
        why=_why(run, how, failure),
        after=end[1] if end and after_s is not None else None,
        after_s=after_s,
        attempts=len(started),
        failures=[str(event.reason or "without a reason") for event in run.events("restore_failed")],
        gone=_gone(run),
        retries=[
            Retry(event.tenant, event.attempt, event.wait_s, event.reason) for event in run.events("tenant_retry")
        ],
        times=restored[-1].times if restored else None,
        kept={name: len(one.samples) + len(one.void) for name, one in run.segments.items() if one.samples or one.void},
        files=[
            *(["journal.jsonl"] if run.journal else []),
            *(["vram.jsonl"] if run.readings else []),
            *(f"logs/{name}" for name in run.logs),
        ],
        next=_next(run, how, failure, still_down),
    )


def _gone(run: Run) -> Sequence[str]:
    """What the newest attempt missed beside the tenants."""
    begun = max((at for at, event in enumerate(run.journal) if event.event == "restore_started"), default=0)
    found = [event.gone for event in run.journal[begun:] if event.event == "gone"]
    return list(found[-1]) if found else []


def _why(run: Run, how: str, failure: Failure | None) -> str:
    """Why the run ended."""
    if how in ("completed", "rehearsed"):
        return how
    if failure:
        return str(failure)
    again = second_tries(run)
    if again:
        return f"the host {'is not back' if how == 'open' else 'did not come back at the first try'}: {again[-1]}"
    if how == "untouched":
        return "it ended before anything was stopped"
    if how == "open" and not run.events("restore_started"):
        return "it has not ended, as far as the journal was fetched"
    return "it ended early, and the journal does not say why"


def _end(run: Run) -> tuple[Event, str] | None:
    """The event that ended the window, and its description."""
    for event in reversed(run.journal):
        if event.event == "phase_failed":
            return event, f"{event.phase} failed"
        if event.event == "phase_done" and event.phase != "snapshot":
            return event, f"{event.phase} ended"
    return None


def _next(run: Run, how: str, failure: Failure | None, still_down: Sequence[StillDown]) -> list[str]:
    if how == "open":
        return _while_open(run, still_down)
    if how == "rehearsed":
        return [f"the trial itself: {_PLAY.format('benchmark-e4b.yml')}"]
    if how == "completed":
        return _to_judge(run)
    steps = [f"fix: {failure.todo}"] if failure and failure.todo else []
    if not failure:
        steps += [f"fix: {words}" for words in second_tries(run)]
    if not steps:
        steps = ["see what ended it: journal.jsonl and logs/ of this folder; on the host: journalctl -u mt-run"]
    play = "rehearse.yml" if run.rehearsal else "benchmark-e4b.yml"
    return [*steps, f"then again: {_PLAY.format(play)}"]


def _to_judge(run: Run) -> list[str]:
    """What a person has to read and judge before the run can be decided."""
    waiting = [work for work in run.plan.shown if run.judged[work.name] is None and run.samples(work.candidate)]
    if not waiting:
        return []
    options = " ".join(f"--judge {work.name}=better" for work in waiting)
    blind = [
        "judge blind: open review.html, which `trialbench report DIR` writes",
        "then: trialbench verdict DIR --review judgements.json",
    ]
    if not run.unreviewed:
        blind = ["the blind review decides nothing, and all of its pairs are judged; a greater `n` asks about more"]
    if all(one.identical for one in pairs(run)):
        blind = ["there is no pair of different replies to judge blind"]
    return [
        *blind,
        *(f"or read samples/{work.candidate}.jsonl beside samples/{work.baseline}.jsonl" for work in waiting),
        f"and say which is better: trialbench verdict DIR {options} (or same, or worse)",
    ]


def _while_open(run: Run, still_down: Sequence[StillDown]) -> list[str]:
    """The steps that restore a host that is not known to be restored."""
    if not run.events("restore_failed"):
        look = "look at it on the host: sudo model-trial status"
        if run.plan.attended is False:
            return [f"it runs unattended; after it ends: {_PLAY.format('harvest.yml')}", look]
        return [look, f"bring it back now: {_RESTORE}", f"fetch the rest: {_PLAY.format('harvest.yml')}"]
    # Only the newest attempt counts: earlier failures may have been fixed since.
    begun = max((at for at, event in enumerate(run.journal) if event.event == "restore_started"), default=0)
    attempt = run.journal[begun:]
    steps = []
    for event in attempt:
        if event.event == "tenant_failed" and event.tenant:
            command = _BY_HAND.search(event.reason or "")
            steps.append(f"{event.tenant} does not start" + (f"; by hand: {command[1]}" if command else ""))
    named = {event.tenant for event in attempt if event.event == "tenant_failed"}
    for entry in still_down:
        steps += [f"{name} is down, and was not started yet" for name in entry.tenants if name not in named]
    made = [event.checks for event in attempt if event.event == "checks" and event.checks]
    for check in made[-1] if made else []:
        if not check.ok:
            steps.append(f"check {check.id}, {check.title}: expected {check.expected}, found {check.found}")
    if not steps:
        steps = [f"fix: {run.events('restore_failed')[-1].reason or 'see journalctl -u mt-restore'}"]
    return [*steps, f"the host keeps retrying; once fixed, restore at once with: {_RESTORE}"]
