"""The `summary.json` of a trial, from samples, journal and VRAM series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench import __version__
from trialbench.files import write_json
from trialbench.measure.sample import wall_clock
from trialbench.measure.summary import SegmentSummary, plain
from trialbench.report.comparison import Comparison, comparisons
from trialbench.report.correctness import Correctness, correctness
from trialbench.report.restore import Failure, Outcome, Restore, down_seconds, outcome, restore_facts
from trialbench.report.run import Run, Segment, read_run
from trialbench.report.taints import differing, taints
from trialbench.report.telemetry import Telemetry, telemetry
from trialbench.report.windows import StillDown, Window, still_down, windows
from trialbench.show.text import counted

MIB_PER_GB = 1024
# Phases of the VRAM series in which the candidate is loaded.
_LOADED = ("candidate", "measure")


@dataclass(frozen=True)
class Phase:
    """A phase that ended; `duration_s` is None if a reboot interrupted it."""

    phase: str
    ok: bool
    duration_s: float | None


@dataclass(frozen=True)
class GateFound:
    """VRAM of the candidate above the drained level at a gate, in GB of 1024 MiB, and its band."""

    name: str | None
    ok: bool | None
    footprint_gb: float | None
    band: str | None


@dataclass(frozen=True)
class Vram:
    """VRAM of the card in MiB, and the candidate's footprint above the drained level in GB of 1024 MiB."""

    drained_mib: float | None
    peak_mib: float | None
    peak_footprint_gb: float | None
    last_mib: float | None
    total_mib: float | None
    readings: int
    gates: Sequence[GateFound]


@dataclass(frozen=True)
class Void:
    """How many samples and warm-ups of a segment do not count, and why."""

    samples: int
    warmups: int
    why: str


@dataclass(frozen=True)
class Summary:
    """The numbers of a trial; `trialbench schema summary` documents each. The order is that of `summary.json`.

    Attributes:
        created: ISO 8601 in UTC.
        failure: of the newest phase that failed.
        taints, partial: each as `name: what was seen`.
        segments: their numbers by name, in the order measured.
        correctness: None for a trial of one question.
        void: by segment, where samples do not count; `summary.json` has it only where there are any.
        calibration: the document `samples/calibration.json`.
        down_s: seconds by tenant.
        windows: by impact.
    """

    format: int
    trialbench: str
    created: str
    run: str
    host: str | None
    model_label: str | None
    baseline_label: str | None
    outcome: Outcome
    failure: Failure | None
    restore_failure: str | None
    a2_skipped: str | None
    taints: Sequence[str]
    partial: Sequence[str]
    comparisons: Sequence[Comparison]
    correctness: Correctness | None
    segments: Mapping[str, SegmentSummary]
    phases: Sequence[Phase]
    vram: Vram
    telemetry: Telemetry
    calibration: Mapping[str, Any] | None
    down_s: Mapping[str, float]
    windows: Mapping[str, Window]
    still_down: Sequence[StillDown]
    restore: Restore
    void: Mapping[str, Void]


def write_summary(path: Path) -> Path:
    """Summarize the result folder `path` into its summary.json; returns that path."""
    target = path / "summary.json"
    document = plain(summarize_run(read_run(path)))
    if not document["void"]:
        del document["void"]
    write_json(target, document)
    return target


def summarize_run(run: Run) -> Summary:
    """The summary of a trial."""
    segments = run.in_order()
    failures = run.events("phase_failed")
    # The newest one: earlier failures were followed by another attempt.
    failure = Failure.of(failures[-1]) if failures else None
    lost = still_down(run)
    return Summary(
        format=1,
        trialbench=__version__,
        created=wall_clock(),
        run=run.id,
        host=run.plan.host,
        model_label=run.plan.candidate_label,
        baseline_label=run.plan.baseline_label,
        outcome=outcome(run),
        failure=failure,
        restore_failure=_restore_failure(run),
        a2_skipped=next((event.reason for event in reversed(run.events("a2_skipped"))), None),
        taints=taints(run, segments),
        partial=[f"{one.name}: {why}" for one in segments for why in [*_void(one), *one.summary.partial]],
        # Where requests differ, no difference of the numbers is reported.
        comparisons=comparisons(
            run.samples, run.plan.decider, "; ".join(text for _name, text in differing(run.plan, segments)) or None
        ),
        correctness=correctness(run.samples, run.plan.decider),
        segments={one.name: one.summary for one in segments},
        phases=_phases(run),
        vram=_vram(run),
        telemetry=telemetry(run),
        calibration=run.calibration,
        down_s=down_seconds(run),
        windows=windows(run),
        still_down=lost,
        restore=restore_facts(run, failure, lost),
        void={
            one.name: Void(len(one.void), len(one.void_warmups), one.void_why)
            for one in segments
            if one.void or one.void_warmups
        },
    )


def _void(segment: Segment) -> list[str]:
    """The sentence about samples that do not count; none where all do."""
    if not segment.void and not segment.void_warmups:
        return []
    lost = [counted(len(segment.void), "sample")]
    lost += [counted(len(segment.void_warmups), "warm-up")] if segment.void_warmups else []
    verb = "does" if len(segment.void) == len(lost) == 1 else "do"
    return [f"void: {' and '.join(lost)} {verb} not count: {segment.void_why}"]


def _restore_failure(run: Run) -> str | None:
    """Why the newest restore did not succeed; None once the run is closed."""
    failed = run.events("restore_failed")
    if not failed or run.events("closed"):
        return None
    return str(failed[-1].reason or "without a reason")


def _phases(run: Run) -> list[Phase]:
    """Phases in the order they ended, with durations; the restore's duration comes from its last event."""
    started = {event.phase: event for event in run.events("phase_started")}
    found = []
    for event in run.journal:
        name = event.event
        if name in ("phase_done", "phase_failed"):
            phase = event.phase
            begun = started.get(phase, event)
            # The clock restarts at a reboot, so a phase that a reboot interrupted has no duration.
            same = event.boot_id == begun.boot_id
            duration = round(event.t_s - begun.t_s, 3) if same else None
            took = duration if event.duration_s is None else event.duration_s
            found.append(Phase(phase, name == "phase_done", took))
        elif name == "restored":
            found.append(Phase("restore", True, event.duration_s))
    if _restore_failure(run):
        found.append(Phase("restore", False, None))
    return found


def _vram(run: Run) -> Vram:
    drained = next((event.used_mib for event in run.events("drained")), None)
    # Lines lack a reading while the driver does not respond.
    readings = [reading for reading in run.readings if reading.used_mib is not None]
    peak = max((one.used_mib for one in readings if one.used_mib is not None and one.phase in _LOADED), default=None)
    return Vram(
        drained_mib=drained,
        peak_mib=peak,
        peak_footprint_gb=None if drained is None or peak is None else round((peak - drained) / MIB_PER_GB, 3),
        last_mib=readings[-1].used_mib if readings else None,
        total_mib=readings[-1].total_mib if readings else None,
        readings=len(readings),
        gates=[GateFound(event.name, event.ok, event.footprint_gb, event.band) for event in run.events("gate")],
    )
