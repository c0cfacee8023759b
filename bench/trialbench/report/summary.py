"""`summary.json` of a trial: samples, journal and VRAM series, brought together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trialbench import __version__
from trialbench.files import write_json
from trialbench.measure.sample import wall_clock
from trialbench.report.folder import Folder, read_folder
from trialbench.report.restore import down_seconds, outcome, restore_facts
from trialbench.report.windows import still_down, windows

MIB_PER_GB = 1024
# In which of the VRAM series' phases the candidate is loaded.
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
    # The newest: an earlier one was followed by another attempt.
    failure = (
        {name: failures[-1].get(name) for name in ("phase", "reason", "expected", "found", "todo")}
        if failures
        else None
    )
    lost = still_down(folder)
    return {
        "format": 1,
        "trialbench": __version__,
        "created": wall_clock(),
        "run": folder.run,
        "host": folder.plan.get("host"),
        "model_label": folder.plan.get("candidate", {}).get("label"),
        "baseline_label": folder.plan.get("baseline", {}).get("label"),
        "outcome": outcome(folder),
        "failure": failure,
        "restore_failure": _restore_failure(folder),
        "a2_skipped": next((event.get("reason") for event in reversed(folder.events("a2_skipped"))), None),
        "taints": _taints(folder, segments),
        "segments": segments,
        "phases": _phases(folder),
        "vram": _vram(folder),
        "down_s": down_seconds(folder),
        "windows": windows(folder),
        "still_down": lost,
        "restore": restore_facts(folder, failure, lost),
    }


def _restore_failure(folder: Folder) -> str | None:
    """Why the newest restore did not succeed; None once the run is closed."""
    failed = folder.events("restore_failed")
    if not failed or folder.events("closed"):
        return None
    return str(failed[-1].get("reason") or "without a reason")


def _taints(folder: Folder, segments: dict[str, dict[str, Any]]) -> list[str]:
    """What makes the numbers of a run unfit for a decision.

    A cache that was asked for and not used is none: some models cannot reuse their prompt cache, and the cached
    segment is only reported beside the others.
    """
    found = [
        f"{name}: {segment['cache']['hits']} replies came from the prompt cache, which was to be off"
        for name, segment in segments.items()
        if not segment["cache"]["asked"] and segment["cache"]["as_asked"] is False
    ]
    boots = {event["boot_id"] for event in folder.journal if event.get("boot_id")}
    if len(boots) > 1:
        found.append("the host was rebooted during the run")
    # Its bands and sample counts would be taken for the defaults.
    found += [problem for problem in folder.unread if problem.startswith("plan.json")]
    return found


def _phases(folder: Folder) -> list[dict[str, Any]]:
    """Phases in the order they ended, with seconds; the restore's own time comes from its last event."""
    started = {event["phase"]: event for event in folder.events("phase_started")}
    found = []
    for event in folder.journal:
        name = event.get("event")
        if name in ("phase_done", "phase_failed"):
            phase = event["phase"]
            begun = started.get(phase, event)
            # The clock starts anew at a boot: a phase that a reboot ended has no duration.
            same = event.get("boot_id") == begun.get("boot_id")
            duration = round(event["t_s"] - begun["t_s"], 3) if same else None
            found.append({"phase": phase, "ok": name == "phase_done", "duration_s": event.get("duration_s", duration)})
        elif name == "restored":
            found.append({"phase": "restore", "ok": True, "duration_s": event.get("duration_s")})
    return found


def _vram(folder: Folder) -> dict[str, Any]:
    """VRAM in MiB, and the candidate's footprint above the drained level in GB of 1024 MiB."""
    drained = [event["used_mib"] for event in folder.events("drained")]
    # While the driver is silent there may be lines without a reading.
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
            {name: event.get(name) for name in ("name", "ok", "footprint_gb", "band")}
            for event in folder.events("gate")
        ],
    }
