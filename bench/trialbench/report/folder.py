"""A result folder, read: whatever of it is there. A trial that failed early leaves few files, and is shown as well."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import read_json, read_json_lines
from trialbench.measure.summary import SegmentFacts, summarise


@dataclass
class Folder:
    """The files of a run. `samples` and `warmups` by segment; missing files are empty."""

    path: Path
    plan: dict[str, Any] = field(default_factory=dict)
    journal: list[dict[str, Any]] = field(default_factory=list)
    vram: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warmups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    verification: dict[str, Any] | None = None
    bad_lines: int = 0

    @property
    def run(self) -> str:
        """The run's id."""
        named = self.plan.get("run") or next((event["run"] for event in self.journal if event.get("run")), None)
        return str(named or self.path.resolve().name)

    def events(self, name: str) -> list[dict[str, Any]]:
        """All events of that name, oldest first."""
        return [event for event in self.journal if event.get("event") == name]

    def segments(self) -> dict[str, dict[str, Any]]:
        """The numbers of each segment, counted anew from its samples, in the order they were measured."""
        in_order = sorted(self.samples.items(), key=lambda item: item[1][0]["t_start_s"] if item[1] else 0.0)
        return {
            name: summarise(samples, self.warmups.get(name, []), self._facts(name, samples))
            for name, samples in in_order
        }

    def _facts(self, name: str, samples: list[dict[str, Any]]) -> SegmentFacts:
        """What was asked: from the session's own summary; if it was never written, from what the name says."""
        asked = self.asked.get(name)
        if asked is not None:
            return SegmentFacts(
                asked["workload"],
                asked["requested"],
                asked["adherence"] is not None,
                asked["cache"]["asked"],
                asked["stopped"],
            )
        contract = name.startswith(("nav", "smoke")) or any(sample["strategy"] for sample in samples)
        return SegmentFacts(name.split("-")[0], len(samples), contract, name.endswith("-cached"))


def read_folder(path: Path) -> Folder:
    """Read the result folder `path`.

    Raises:
        UsageError: there is no such folder, or nothing of a run in it.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: expected a result folder, found nothing there")
    folder = Folder(path)
    folder.plan = _object(path / "plan.json") or {}
    folder.verification = _object(path / "verification.json")
    folder.journal, bad = read_json_lines(path / "journal.jsonl")
    folder.vram, bad_vram = read_json_lines(path / "vram.jsonl")
    folder.bad_lines = bad + bad_vram
    for file in sorted((path / "samples").glob("*.jsonl")):
        lines, bad = read_json_lines(file)
        folder.bad_lines += bad
        if file.stem.endswith("-warmup"):
            folder.warmups[file.stem.removesuffix("-warmup")] = lines
        else:
            folder.samples[file.stem] = lines
    for file in sorted((path / "samples").glob("summary-*.json")):
        folder.asked |= (_object(file) or {}).get("segments", {})
    if not folder.journal and not folder.samples:
        raise UsageError(f"{path}: expected journal.jsonl or samples/*.jsonl of a run, found neither")
    return folder


def _object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected an object, found {type(value).__name__}")
    return value
