"""Reads a result folder, complete or not: a trial that failed early leaves few files and is reported too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import read_json, read_json_lines
from trialbench.measure.summary import SegmentFacts, summarise
from trialbench.report import proofs
from trialbench.report.journal import Check, Event, read_checks, read_event
from trialbench.report.plan import Plan, read_plan


@dataclass
class Folder:
    """The files of a run. `samples` and `warmups` by segment; missing files are empty.

    `attestation` is what ground truth says of the candidate's files, `proofs` what was proved of engines, by file.
    `logs` are file names. `bad_lines` and `unread` record what could not be used.
    """

    path: Path
    plan: Plan = field(default_factory=Plan)
    journal: list[Event] = field(default_factory=list)
    vram: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warmups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    logs: list[str] = field(default_factory=list)
    verification: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None
    attestation: dict[str, Any] | None = None
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    bad_lines: int = 0
    unread: list[str] = field(default_factory=list)

    @property
    def run(self) -> str:
        """The run's id."""
        named = self.plan.run or next((event.run for event in self.journal if event.run), None)
        return str(named or self.path.resolve().name)

    @property
    def rehearsal(self) -> bool:
        """Whether this is a rehearsal: tenants are stopped and restored, no candidate is tried, nothing is measured."""
        return self.plan.rehearsal

    def events(self, name: str) -> list[Event]:
        """All events of that name, oldest first."""
        return [event for event in self.journal if event.event == name]

    def checks(self) -> tuple[Sequence[Check], str | None] | None:
        """The checks that closed the run; without them the newest that the host made itself, with their wall clock.

        None where no checks were made.
        """
        if self.verification is not None:
            return read_checks(self.verification["checks"]), None
        made = [event for event in self.events("checks") if event.checks is not None]
        return (made[-1].checks or (), made[-1].wall) if made else None

    def segments(self) -> dict[str, dict[str, Any]]:
        """The numbers of each segment, recomputed from its samples, in the order they were measured."""
        in_order = sorted(self.samples.items(), key=lambda item: item[1][0]["t_start_s"] if item[1] else 0.0)
        return {
            name: summarise(samples, self.warmups.get(name, []), self._facts(name, samples))
            for name, samples in in_order
        }

    def _facts(self, name: str, samples: list[dict[str, Any]]) -> SegmentFacts:
        """What was requested: from the session's own summary or, if that was never written, from the segment's name."""
        asked = self.asked.get(name)
        if asked is not None:
            return SegmentFacts(
                asked["workload"],
                asked["requested"],
                asked["adherence"] is not None,
                asked["cache"]["asked"],
                asked["stopped"],
                # Older clients do not write these two.
                asked.get("request"),
                asked.get("neighbours"),
            )
        contract = name.startswith(("nav", "smoke")) or any(sample["strategy"] for sample in samples)
        return SegmentFacts(name.split("-")[0], len(samples), contract, name.endswith("-cached"), ended=False)


def read_folder(path: Path) -> Folder:
    """Read the result folder `path`; content that does not fit its schema is recorded and skipped.

    The files were written on another machine, partly from a model's replies, perhaps while a disk was filling up, so no
    bad file may hide the rest.

    Raises:
        UsageError: there is no such folder, or nothing of a run in it.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: expected a result folder, found nothing there")
    folder = Folder(path)
    folder.plan = read_plan(_document(folder, "plan.json", "plan") or {})
    folder.verification = _document(folder, "verification.json", "verification")
    folder.verdict = _document(folder, "verdict.json", "verdict")
    folder.attestation = _document(folder, "attestation.json", "attestation")
    folder.proofs = _proofs(folder)
    lines, bad = read_json_lines(path / "journal.jsonl")
    folder.journal = [event for event in map(read_event, lines) if event is not None]
    readings, bad_vram = read_json_lines(path / "vram.jsonl")
    folder.vram = [reading for reading in readings if not schemas.validate(reading, "vram")]
    folder.bad_lines = bad + bad_vram + len(lines) - len(folder.journal) + len(readings) - len(folder.vram)
    for file in sorted((path / "samples").glob("*.jsonl")):
        lines, bad = read_json_lines(file)
        samples = [line for line in lines if _countable(line)]
        folder.bad_lines += bad + len(lines) - len(samples)
        if file.stem.endswith("-warmup"):
            folder.warmups[file.stem.removesuffix("-warmup")] = samples
        else:
            folder.samples[file.stem] = samples
    for file in sorted((path / "samples").glob("summary-*.json")):
        folder.asked |= (_document(folder, f"samples/{file.name}", "summary") or {}).get("segments", {})
    folder.calibration = _document(folder, "samples/calibration.json", "calibration")
    folder.logs = sorted(file.name for file in (path / "logs").glob("*") if file.is_file())
    if not folder.journal and not folder.samples:
        raise UsageError(f"{path}: expected journal.jsonl or samples/*.jsonl of a run, found neither")
    return folder


def _proofs(folder: Folder) -> dict[str, dict[str, Any]]:
    """The proofs whose verdicts match their numbers, by file name."""
    found = {}
    files = sorted((folder.path / "proofs").glob("*.json"))
    for file in files[: proofs.MAX_FILES]:
        name = f"proofs/{file.name}"
        if file.stat().st_size > proofs.MAX_BYTES:
            folder.unread.append(f"{name}: is larger than any proof ({proofs.MAX_BYTES} bytes)")
            continue
        document = _document(folder, name, "proof")
        if document is None:
            continue
        wrong = proofs.contradiction(document)
        if wrong:
            folder.unread.append(f"{name}: {wrong}")
        else:
            found[file.name] = document
    if len(files) > proofs.MAX_FILES:
        folder.unread.append(f"proofs: {len(files) - proofs.MAX_FILES} more files than {proofs.MAX_FILES}")
    return found


def _countable(sample: dict[str, Any]) -> bool:
    return not schemas.validate(sample, "sample") and not (sample["ok"] and sample["latency_ms"] is None)


def _document(folder: Folder, name: str, schema: str) -> dict[str, Any] | None:
    path = folder.path / name
    if not path.exists():
        return None
    try:
        value: dict[str, Any] = read_json(path)
        trouble = next(iter(schemas.validate(value, schema)), None)
    except UsageError as error:
        folder.unread.append(str(error).replace(str(path), name))
        return None
    if trouble:
        folder.unread.append(f"{name}: {trouble}")
        return None
    return value
