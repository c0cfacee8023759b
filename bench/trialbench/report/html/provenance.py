"""Provenance of a run: model, files, hashes, versions, flags and host, enough to repeat it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trialbench.report.html.described import Picture
from trialbench.report.plan import Side
from trialbench.report.run import Run
from trialbench.report.summary import Summary
from trialbench.show.text import number, ratio_text

_MOST_ROWS = 60


@dataclass(frozen=True)
class Group:
    """A part of the provenance: rows of name and value."""

    name: str
    rows: list[tuple[str, str]]


def provenance(run: Run, summary: Summary, picture: Picture) -> list[Group]:
    """The provenance of the numbers, enough to repeat the run."""
    plan, snapshot = run.plan.document, run.snapshot
    candidate, baseline = _mapping(plan.get("candidate")), _mapping(plan.get("baseline"))
    groups = [
        Group(
            "Candidate",
            [
                ("model", _text(candidate.get("label"))),
                ("repository", _text(candidate.get("repo"))),
                ("revision", _text(candidate.get("revision"))),
                *[
                    (f"file {_text(_mapping(file).get('name'))}", f"sha256 {_text(_mapping(file).get('sha256'))}")
                    for file in _listing(candidate.get("files"))
                ],
                ("image", _text(plan.get("image"))),
                ("built on", _text(plan.get("base_image")) or _text(plan.get("image_base"))),
                ("base digest", _text(plan.get("base_digest"))),
                ("flags of llama-server", " ".join(_text(flag) for flag in _listing(candidate.get("server_args")))),
                ("says it is", _models(run, "candidate")),
            ],
        ),
        Group(
            "Baseline",
            [
                ("model", _text(baseline.get("label"))),
                ("tenant", _text(baseline.get("tenant"))),
                ("address", _text(baseline.get("url"))),
                ("command", _live_command(baseline, snapshot)),
                ("says it is", _models(run, "baseline")),
            ],
        ),
        Group("Asked", _asked(run, summary, picture)),
        Group("Calibration", _calibration(summary)),
        Group(
            "Host",
            [
                ("host", _text(plan.get("host"))),
                ("card", _text(_mapping(snapshot.get("gpu")).get("name"))),
                ("driver", _text(_mapping(snapshot.get("gpu")).get("driver"))),
                *[(_text(name), _text(value)) for name, value in list(_mapping(snapshot.get("system")).items())[:12]],
                ("memory of the card", _mib(summary.vram.total_mib)),
                ("opened by", next((event.controller for event in run.events("opened")), "")),
            ],
        ),
        Group(
            "Run",
            [
                ("run", summary.run),
                ("began", run.began),
                ("trialbench", summary.trialbench),
                (
                    "to repeat",
                    f"ansible-playbook {'rehearse.yml' if run.rehearsal else 'benchmark-e4b.yml'} -i INVENTORY",
                ),
            ],
        ),
        *_proved(run),
    ]
    shown = [Group(group.name, [(name, value) for name, value in group.rows if value][:_MOST_ROWS]) for group in groups]
    return [group for group in shown if group.rows]


def _proved(run: Run) -> list[Group]:
    """One group for each engine with proofs, as described by its newest proof."""
    newest = {one.engine: one for one in sorted(run.proofs, key=lambda one: one.made)}
    return [
        Group(f"Proved: {engine}", [("made", one.made), ("file", f"proofs/{one.file}"), *one.about.items()])
        for engine, one in list(newest.items())[:12]
    ]


def _asked(run: Run, summary: Summary, picture: Picture) -> list[tuple[str, str]]:
    rows = []
    try:
        rows.append(
            ("prompt", f"sha256 {hashlib.sha256((run.path / 'inputs' / 'prompt.txt').read_bytes()).hexdigest()}")
        )
    except OSError:
        pass
    made = run.events("prompt")
    if made:
        rows.append(("made by production's function", f"sha256 {made[-1].function_sha256}"))
    if picture.sha256:
        rows.append(("camera image", f"sha256 {picture.sha256}"))
    for name, segment in list(summary.segments.items())[:_MOST_ROWS]:
        if segment.request and segment.request.body_sha256:
            rows.append((f"request of {name}", f"sha256 {segment.request.body_sha256}"))
    return rows


def _calibration(summary: Summary) -> list[tuple[str, str]]:
    modes = _mapping((summary.calibration or {}).get("modes"))
    rows = []
    for mode, found in list(modes.items())[:4]:
        if isinstance(found, dict) and isinstance(found.get("ratio"), (int, float)):
            ours, raw = _ms(found, "ours_p50_ms"), _ms(found, "raw_p50_ms")
            ratio = ratio_text(found["ratio"], found["ratio_low"], found["ratio_high"])
            count = _text(found.get("n"))
            rows.append((f"client, {mode}", f"p50 {ours} against {raw} of a raw socket, ratio {ratio} (n={count})"))
    return rows


def _ms(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return f"{number(value)} ms" if isinstance(value, (int, float)) else "-"


def _models(run: Run, side: Side) -> str:
    asked = [segment.summary.request for segment in run.answered_by(side)]
    names = [model for request in asked if request for model in request.models]
    return ", ".join(dict.fromkeys(names))


def _live_command(baseline: Mapping[str, Any], snapshot: Mapping[str, Any]) -> str:
    """The command line of the live model's process, from the list of GPU processes before the run."""
    tenant = _mapping(_mapping(snapshot.get("tenants")).get(_text(baseline.get("tenant"))))
    pids = [*_listing(tenant.get("vram_pids")), tenant.get("pid")]
    holders = [_mapping(holder) for holder in _listing(snapshot.get("holders"))]
    return next((_text(holder.get("command")) for holder in holders if holder.get("pid") in pids), "")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _listing(value: Any) -> list[Any]:
    return value[:_MOST_ROWS] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value / 1024:.1f} GB ({value:g} MiB)"
