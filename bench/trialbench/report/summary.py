"""The `summary.json` of a trial, from samples, journal and VRAM series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trialbench import __version__
from trialbench.files import write_json
from trialbench.measure.sample import wall_clock
from trialbench.report.comparison import comparisons
from trialbench.report.folder import Folder, read_folder
from trialbench.report.restore import down_seconds, outcome, restore_facts
from trialbench.report.taints import differing, taints
from trialbench.report.telemetry import telemetry
from trialbench.report.windows import still_down, windows

MIB_PER_GB = 1024
# Phases of the VRAM series in which the candidate is loaded.
_LOADED = ("candidate", "measure")


def write_summary(path: Path) -> Path:
    """Summarise the result folder `path` into its summary.json; returns that path."""
    target = path / "summary.json"
    write_json(target, summarise_folder(read_folder(path)))
    return target


def summarise_folder(folder: Folder) -> dict[str, Any]:
    """The summary of a trial (`trialbench schema summary`)."""
    segments = folder.segments()
    failures = folder.events("phase_failed")
    # The newest one: earlier failures were followed by another attempt.
    failure = (
        {name: getattr(failures[-1], name) for name in ("phase", "reason", "expected", "found", "todo")}
        if failures
        else None
    )
    lost = still_down(folder)
    return {
        "format": 1,
        "trialbench": __version__,
        "created": wall_clock(),
        "run": folder.run,
        "host": folder.plan.host,
        "model_label": folder.plan.candidate_label,
        "baseline_label": folder.plan.baseline_label,
        "outcome": outcome(folder),
        "failure": failure,
        "restore_failure": _restore_failure(folder),
        "a2_skipped": next((event.reason for event in reversed(folder.events("a2_skipped"))), None),
        "taints": taints(folder, segments),
        "partial": [f"{name}: {why}" for name, segment in segments.items() for why in segment["partial"]],
        "comparisons": comparisons(folder.samples, _differs(segments)),
        "segments": segments,
        "phases": _phases(folder),
        "vram": _vram(folder),
        "telemetry": telemetry(folder),
        "calibration": folder.calibration,
        "down_s": down_seconds(folder),
        "windows": windows(folder),
        "still_down": lost,
        "restore": restore_facts(folder, failure, lost),
    }


def _differs(segments: dict[str, dict[str, Any]]) -> str | None:
    """How the requests to baseline and candidate differ; None if the clients report no difference."""
    return "; ".join(text for name, text in differing(segments)) or None


def _restore_failure(folder: Folder) -> str | None:
    """Why the newest restore did not succeed; None once the run is closed."""
    failed = folder.events("restore_failed")
    if not failed or folder.events("closed"):
        return None
    return str(failed[-1].reason or "without a reason")


def _phases(folder: Folder) -> list[dict[str, Any]]:
    """Phases in the order they ended, with durations; the restore's duration comes from its last event."""
    started = {event.phase: event for event in folder.events("phase_started")}
    found = []
    for event in folder.journal:
        name = event.event
        if name in ("phase_done", "phase_failed"):
            phase = event.phase
            begun = started.get(phase, event)
            # The clock restarts at a reboot, so a phase that a reboot interrupted has no duration.
            same = event.boot_id == begun.boot_id
            duration = round(event.t_s - begun.t_s, 3) if same else None
            took = duration if event.duration_s is None else event.duration_s
            found.append({"phase": phase, "ok": name == "phase_done", "duration_s": took})
        elif name == "restored":
            found.append({"phase": "restore", "ok": True, "duration_s": event.duration_s})
    return found


def _vram(folder: Folder) -> dict[str, Any]:
    """VRAM in MiB, and the candidate's footprint above the drained level in GB of 1024 MiB."""
    drained = [event.used_mib for event in folder.events("drained")]
    # Lines lack a reading while the driver does not respond.
    readings = [reading for reading in folder.vram if reading.get("used_mib") is not None]
    loaded = [reading["used_mib"] for reading in readings if reading.get("phase") in _LOADED]
    peak = max(loaded, default=None)
    return {
        "drained_mib": drained[0] if drained else None,
        "peak_mib": peak,
        "peak_footprint_gb": round((peak - drained[0]) / MIB_PER_GB, 3) if drained and peak is not None else None,
        "last_mib": readings[-1]["used_mib"] if readings else None,
        "total_mib": readings[-1].get("total_mib") if readings else None,
        "readings": len(readings),
        "gates": [
            {name: getattr(event, name) for name in ("name", "ok", "footprint_gb", "band")}
            for event in folder.events("gate")
        ],
    }
