"""Before a trial: is there a ground-truth verdict for exactly this file, and what does it say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import TrialbenchError, UsageError
from trialbench.files import read_json
from trialbench.hub import SHA256


class NotAttested(TrialbenchError):
    """There is no verdict for the file, or it is none that allows a trial."""

    exit_code = 3


@dataclass(frozen=True)
class Attested:
    """What a verdict says of one file.

    Attributes:
        passed, failed, open: how many probative rows about the file have that status.
        made, runtime: of the verdict.
    """

    label: str
    passed: int
    failed: int
    open: int
    made: str
    runtime: str

    @property
    def good(self) -> bool:
        """Something was proved, and nothing failed or stayed open."""
        return self.passed > 0 and not self.failed and not self.open


def attest(sha256: str, verdicts: Sequence[Path]) -> Attested:
    """The newest verdict about the file with this hash.

    Raises:
        UsageError: the hash or a verdict file is none.
        NotAttested: no verdict knows the file.
    """
    wanted = sha256.lower()
    if not SHA256.match(wanted):
        raise UsageError(f"--sha256: expected 64 hexadecimal digits, found {sha256!r}")
    found: list[tuple[str, Attested]] = []
    for path in verdicts:
        data = read_json(path)
        problems = schemas.validate(data, "ground-truth")
        if problems:
            raise UsageError(f"{path}: is no verdict of `trialbench check`: {problems[0]}")
        found += [(data["made"], _about(file, data)) for file in data["files"] if file["sha256"] == wanted]
    if not found:
        where = ", ".join(str(path) for path in verdicts) or "no verdict"
        raise NotAttested(
            f"no ground-truth verdict for the file with SHA-256 {wanted[:12]}...; looked in {where}. "
            "Make one with `trialbench check`, from the original model and its oracle"
        )
    return max(found, key=lambda one: one[0])[1]


def _about(file: dict[str, Any], data: dict[str, Any]) -> Attested:
    rows = [
        row["status"]
        for row in data["results"]
        if row["model"] == file["model"] and file["quant"] in (row["quant"], row["other"]) and not row["proves_nothing"]
    ]
    return Attested(
        label=f"{file['model']} {file['quant']}",
        passed=rows.count("PASS"),
        failed=rows.count("FAIL"),
        open=rows.count("INCONCLUSIVE"),
        made=data["made"],
        runtime=f"{data['runtime']['name']} {data['runtime']['version']}",
    )
