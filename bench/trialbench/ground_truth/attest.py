"""Before a trial: is there a ground-truth verdict for exactly this file, and what does it say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import TrialbenchError, UsageError
from trialbench.hub import SHA256
from trialbench.show.text import counted
from trialbench.verdict import AttestedFile, FileStatus


class NotAttested(TrialbenchError):
    """There is no verdict for a file, or its verdict does not allow a trial."""

    exit_code = 3


def attest(sha256: str, verdicts: Sequence[Path]) -> AttestedFile:
    """What the newest of the verdicts says about the file with this hash.

    Raises:
        UsageError: the hash is not a SHA-256, or a file is not a verdict.
    """
    wanted = sha256.lower()
    if not SHA256.match(wanted):
        raise UsageError(f"--sha256: expected 64 hexadecimal digits, found {sha256!r}")
    found: list[AttestedFile] = []
    for path in verdicts:
        data = schemas.read(path, "ground-truth", "a verdict of `trialbench check`")
        found += [_about(file, data) for file in data["files"] if file["sha256"] == wanted]
    if found:
        # Of two that are as new, or of one file under two names, the worse one.
        return max(found, key=lambda one: (str(one.made), one.status == "failed", one.status == "open"))
    where = ", ".join(str(path) for path in verdicts) or "no verdict at all"
    says = (
        f"no ground-truth verdict for the file with SHA-256 {wanted[:12]}...; looked in {where}. "
        "Make one with `trialbench check`, from the original model and its oracle"
    )
    return AttestedFile(wanted, "missing", None, 0, 0, 0, None, None, says)


def attestation(hashes: Sequence[str], verdicts: Sequence[Path], *, required: bool) -> dict[str, Any]:
    """What is said about all these files, as it goes into the plan of a trial (schema `attestation`).

    Raises:
        UsageError: as `attest`.
    """
    return {
        "format": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "required": required,
        "files": [asdict(attest(sha256, verdicts)) for sha256 in dict.fromkeys(hashes)],
    }


def _about(file: dict[str, Any], data: dict[str, Any]) -> AttestedFile:
    rows = [
        row
        for row in data["results"]
        if row["model"] == file["model"] and file["quant"] in (row["quant"], row["other"]) and not row["proves_nothing"]
    ]
    about = {"model": file["model"], "quant": file["quant"]}
    broken = sum(claim["status"] == "FAIL" and about in claim.get("broken_by", []) for claim in data["claims"])
    label, runtime = f"{file['model']} {file['quant']}", f"{data['runtime']['name']} {data['runtime']['version']}"
    passed, failed, undecided = (
        sum(row["status"] == status for row in rows) for status in ("PASS", "FAIL", "INCONCLUSIVE")
    )
    failed += broken
    # Some suites can pass although the file was never asked for a token.
    compared = any(row["suite"] == "token" and row["status"] == "PASS" for row in rows)
    status: FileStatus = "failed" if failed else "open" if undecided or not compared else "passed"
    word = "the same model" if status == "passed" else "NOT PROVED the same model"
    says = (
        f"{label}: {word}: {counted(passed, 'check')} passed, {failed} failed, {undecided} could not be decided"
        f"{'' if compared or failed else '; its tokens were not compared'} ({runtime}, {data['made']})"
    )
    return AttestedFile(file["sha256"], status, label, passed, failed, undecided, data["made"], runtime, says)
