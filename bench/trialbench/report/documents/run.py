"""The facts of a run that the documents use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.report.folder import Folder, read_folder
from trialbench.report.summary import summarise_folder


@dataclass(frozen=True)
class Run:
    """A trial. Its texts are untrusted and unescaped; `begun` is `2026-01-02 03:04` in UTC."""

    id: str
    label: str
    host: str
    begun: str
    verdict: str
    reasons: list[str]
    port: int | None
    summary: dict[str, Any]

    @property
    def date(self) -> str:
        """The UTC date on which it began."""
        return self.begun[:10]

    @property
    def outcome(self) -> str:
        """How it ended (`trialbench schema summary`)."""
        return str(self.summary["outcome"])

    @property
    def footprint_gb(self) -> float | None:
        """The candidate's peak above the drained level."""
        found: float | None = self.summary["vram"]["peak_footprint_gb"]
        return found


def read_run(path: Path) -> Run:
    """The facts to document about the run in the result folder `path`.

    Raises:
        UsageError: no run, a rehearsal, or no verdict.
    """
    folder = read_folder(path)
    if folder.rehearsal:
        raise UsageError(f"{path}: is a rehearsal: no candidate was tried, so no document tells of it")
    if not folder.plan.document:
        raise UsageError(f"{path}: expected a plan.json that names the candidate, found none that can be used")
    if folder.verdict is None:
        raise UsageError(f"{path}: expected a verdict.json, found none that can be used (do: trialbench verdict DIR)")
    summary = summarise_folder(folder)
    return Run(
        id=folder.run,
        label=str(summary["model_label"] or "unnamed candidate"),
        host=str(summary["host"] or "unnamed host"),
        begun=_begun(folder),
        verdict=str(folder.verdict["verdict"]).replace("_", " "),
        reasons=[str(reason) for reason in folder.verdict["reasons"]],
        port=folder.plan.candidate_port,
        summary=summary,
    )


def _begun(folder: Folder) -> str:
    """The wall clock of the first event that has one."""
    for event in folder.journal:
        try:
            wall = datetime.fromisoformat(event.wall)
        except ValueError:
            continue
        return wall.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    raise UsageError(f"{folder.path}: expected a journal that says when the run began, found none")
