"""Runs the declared rows and gathers everything that an output needs into one document."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trialbench import __version__, schemas
from trialbench.errors import UsageError
from trialbench.files import MAX_NUMBER, write_json
from trialbench.ground_truth.attribution.ladder import Ladder, ladders
from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Model
from trialbench.ground_truth.runtimes.base import Runtime
from trialbench.ground_truth.suites.claims import Judged, beforehand, judge_claims
from trialbench.ground_truth.suites.results import Result, Row, Status, count, exit_code
from trialbench.ground_truth.suites.table import declared, judge

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Checked:
    """A finished check.

    Attributes:
        results: one for each declared row, in order.
        claims: the pre-registered claims with their findings.
        evidence: for more questions (the report) without loading anything again.
        seconds: wall time; `loads`: how many times a model was loaded.
        ladders: for each file with a failure, the guilty step.
    """

    results: tuple[Result, ...]
    claims: tuple[Judged, ...]
    evidence: Evidence
    seconds: float
    ladders: tuple[Ladder, ...] = ()

    @property
    def code(self) -> int:
        """The exit code: the rows' and the claims', the worse of both."""
        broken = any(one.status is Status.FAIL for one in self.claims)
        open_ones = any(one.status is Status.INCONCLUSIVE for one in self.claims)
        return 1 if broken else exit_code(self.results) or (3 if open_ones else 0)


def run_check(
    workspace: Workspace,
    runtime: Runtime,
    models: Sequence[Model],
    *,
    suites: Sequence[str] = (),
    progress: Callable[[int, int, Result], None] = lambda _done, _total, _result: None,
    tell: Tell = lambda _text: None,
) -> Checked:
    """Judge every declared row of the models, and the roster's claims.

    Args:
        suites: only these; all when empty.
        progress: called after each row with how many are done, how many there are, and its result.
        tell: a line for each file that is asked.
    """
    started = time.monotonic()
    # First, so that a missing claim or an edited chain fails before the work.
    claims = [] if suites else beforehand(workspace.root, workspace.roster.claims)
    rows = declared(workspace.roster, runtime.identity.name, suites, [model.slug for model in models])
    evidence = Evidence(workspace, runtime, tell=tell)
    results = []
    for number, row in enumerate(by_file(rows), 1):
        results.append(judge(row, evidence))
        progress(number, len(rows), results[-1])
    order = {row: number for number, row in enumerate(rows)}
    results.sort(key=lambda one: order[one.row])
    judged = judge_claims(claims, evidence, models)
    guilt = ladders(results, evidence, models)
    return Checked(tuple(results), tuple(judged), evidence, time.monotonic() - started, tuple(guilt))


def by_file(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order in which files are loaded, so that progress comes model by model."""
    models: dict[str, int] = {}
    for row in rows:
        models.setdefault(row.model, len(models))
    return sorted(rows, key=lambda row: models[row.model])


def document(checked: Checked, models: Sequence[Model]) -> dict[str, Any]:
    """The verdict as published (schema `ground-truth`)."""
    evidence = checked.evidence
    runtime, roster = evidence.runtime, evidence.roster
    counts = count(checked.results)
    overall = {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[checked.code]
    return {
        "schema_version": 1,
        "verdict": overall,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "trialbench": __version__,
        "roster": {"name": roster.name, "path": str(roster.path)},
        "runtime": {"name": runtime.identity.name, "version": runtime.identity.version, **_flat(runtime)},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count() or 0},
        "seconds": round(checked.seconds, 3),
        "loads": evidence.loads,
        "counts": {
            "declared": counts.declared,
            "probative": counts.probative,
            **{status.value: counts.of(status) for status in Status},
        },
        "files": [_file(evidence, model, quant) for model in models for quant in model.wanted(runtime.identity.name)],
        "claims": [_clean(one.as_dict()) for one in checked.claims],
        "ladders": [one.as_dict() for one in checked.ladders],
        "results": [as_dict(one) for one in checked.results],
    }


def _flat(runtime: Runtime) -> dict[str, str]:
    return {key.replace(" ", "_"): value for key, value in runtime.identity.detail.items()}


def _file(evidence: Evidence, model: Model, quant: str) -> dict[str, Any]:
    artifact = evidence.artifact(model, quant)
    there = artifact.path.exists()
    seen = evidence.seen(model, quant) if there and evidence.loads else None
    speeds = [one.tokens_per_s for one in seen.generations.values() if one.tokens_per_s] if seen else []
    return {
        "model": model.slug,
        "quant": quant,
        "format": artifact.format,
        "path": str(artifact.path),
        # The current hash, not the recorded one: a verdict is about the current bytes.
        "sha256": evidence.digest(model, quant) or None,
        "bytes": artifact.path.stat().st_size if there else None,
        "parents": list(artifact.parents),
        "tokens_per_s": round(sum(speeds) / len(speeds), 2) if speeds else None,
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    lines = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return lines[0] if lines else platform.machine()


def as_dict(result: Result) -> dict[str, Any]:
    """A result as published. Numbers that are not JSON become null: an answer may hold anything."""
    names = ("says", "expected", "got", "cause", "proves_nothing", "reproduce")
    return {
        **asdict(result.row),
        "status": result.status.value,
        **{name: getattr(result, name) for name in names},
        "evidence": _clean(result.evidence),
    }


def _clean(value: Any) -> Any:
    """Replace numbers that are not finite, or that `read_json` would refuse, with null: a verdict must be readable.

    Perplexity and tensor errors of a damaged file are unbounded; sentences still show them.
    """
    if isinstance(value, Mapping):
        return {str(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    if isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
        return None
    return value


def status_path(workspace: Workspace, runtime: Runtime) -> Path:
    """The path of the last verdict for a runtime; `recheck` compares with it."""
    return workspace.root / f"verdict-{runtime.identity.name}.json"


def keep(path: Path, verdict: dict[str, Any]) -> None:
    """Write the verdict, and a dated copy next to it, because a status belongs to a version and a day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, verdict)
    stamp = verdict["made"].replace(":", "").replace("+0000", "Z").replace("-", "")
    history = path.with_name("history")
    history.mkdir(exist_ok=True)
    write_json(history / f"{path.stem}-{stamp}.json", verdict)


def changes(before: dict[str, Any] | None, after: dict[str, Any], *, part: bool = False) -> list[str]:
    """What is different from the last verdict, one line each; with `part`, not what was not asked for this time."""
    if before is None:
        return ["there is no earlier verdict to compare with"]
    lines = []
    if before["runtime"]["version"] != after["runtime"]["version"]:
        lines.append(f"{after['runtime']['name']}: {before['runtime']['version']} -> {after['runtime']['version']}")

    def rows(verdict: dict[str, Any]) -> dict[str, dict[str, Any]]:
        keys = ("suite", "model", "quant", "other", "prompt")
        return {" ".join(str(one[key]) for key in keys if one[key]): one for one in verdict["results"]}

    old, new = rows(before), rows(after)
    for label, row in new.items():
        if label not in old:
            lines.append(f"{label}: new, {row['status']}")
        elif old[label]["status"] != row["status"]:
            lines.append(f"{label}: {old[label]['status']} -> {row['status']}: {row['says']}")
    if not part:
        lines += [f"{label}: gone (was {row['status']})" for label, row in old.items() if label not in new]
    return lines or ["nothing changed"]


def read_verdict(path: Path) -> dict[str, Any] | None:
    """The verdict in `path`; None if there is none, or if it can't be compared."""
    try:
        return schemas.read(path, "ground-truth", "a verdict of `trialbench check`")
    except UsageError:
        return None
