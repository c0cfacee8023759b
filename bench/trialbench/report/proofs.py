"""Engine proofs stored with a run (`trialbench proof`): copied in, judged again by their own numbers, and reported."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import write_atomic
from trialbench.show.terminal import line

# Display names of the proofs, in display order.
NAMES = {"cold-start": "Cold start", "timeout-retry": "Timeout and retry", "cancel": "Cancel in the middle"}
# Limits; there are three proofs per engine of a few kilobytes each.
MAX_FILES, MAX_BYTES = 60, 4 << 20
_MOST_SINGLES = 200
_RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
# Names in single repetitions that differ from the overall number's name.
_SINGLES = {"quiet_max_ms": "quiet_ms"}
# The engine facts that explain its numbers.
_FACTS = {"engine": "engine", "num_threads": "threads", "seq_len": "context", "weight_format": "weights' format"}


@dataclass(frozen=True)
class Number:
    """One number of a proof.

    Attributes:
        value: None if it could not be measured.
        relation, limit: the expectation, such as `<` and 2; None if the number is shown without being judged.
        singles: the value of each repetition, if recorded.
    """

    name: str
    value: float | None
    unit: str
    relation: str | None
    limit: float | None
    ok: bool
    skipped: bool
    detail: str
    singles: list[float]

    @property
    def judged(self) -> bool:
        """Whether it counts."""
        return self.relation is not None and not self.skipped

    @property
    def holds(self) -> bool:
        """Whether the value meets the expectation, recomputed."""
        if self.relation is None or self.limit is None or self.skipped:
            return True
        return self.value is not None and bool(_RELATIONS[self.relation](self.value, self.limit))

    @property
    def word(self) -> str:
        """`ok`, `FAILED`, `skipped`, or nothing where nothing was expected."""
        if self.skipped:
            return "skipped"
        if not self.judged:
            return ""
        return "ok" if self.ok else "FAILED"

    @property
    def found(self) -> str:
        """Value and unit; `-` where there is none."""
        return "-" if self.value is None else f"{figure(self.value)} {self.unit}".rstrip()

    @property
    def expected(self) -> str:
        """Such as `< 2`; nothing where nothing was expected."""
        return "" if self.relation is None or self.limit is None else f"{self.relation} {figure(self.limit)}"


@dataclass(frozen=True)
class Proof:
    """One proof about one engine.

    Attributes:
        file: its name in the run's folder `proofs`.
        name: `cold-start`, `timeout-retry` or `cancel`.
        engine: source, model and bits, for people.
        made: when, ISO 8601 in UTC.
    """

    file: str
    name: str
    ok: bool
    source: str
    engine: str
    made: str
    numbers: list[Number]
    about: dict[str, str]

    @property
    def title(self) -> str:
        """Its name for people."""
        return NAMES[self.name]

    @property
    def judged(self) -> list[Number]:
        """The numbers that count."""
        return [number for number in self.numbers if number.judged]

    @property
    def line(self) -> str:
        """The proof in one line: its result and the numbers behind it."""
        failed = [number for number in self.judged if not number.ok]
        if failed:
            told = [f"{number.name} {number.found}, expected {number.expected}" for number in failed[:3]]
        else:
            # Counts that must be 0 say least.
            told = [f"{number.name} {number.found}" for number in self.judged if number.relation != "="]
            told += [f"{len(self.judged)} of {len(self.judged)} numbers as expected"]
        word = "passed" if self.ok else "FAILED"
        return f"{self.title} {word}: {'; '.join(told)} ({self.engine}, {self.made[:10]})"


def in_order(proofs: Sequence[Proof]) -> list[Proof]:
    """Proofs in the order they are shown: by engine, then in the order of `NAMES`."""
    order = list(NAMES)
    return sorted(proofs, key=lambda one: (one.source, one.engine, order.index(one.name), one.made))


def contradiction(document: Mapping[str, Any]) -> str:
    """Where a proof's claims contradict its numbers; empty if they agree.

    Args:
        document: valid by schema `proof`.
    """
    numbers = [_number(check, []) for check in document["checks"]]
    wrong = next((number for number in numbers if number.judged and number.ok != number.holds), None)
    if wrong is not None:
        return f"says {wrong.word} of {line(wrong.name, 60)}, and the number says otherwise"
    judged = [number for number in numbers if number.judged]
    if document["ok"] != (bool(judged) and all(number.ok for number in judged)):
        return f"says it {'passed' if document['ok'] else 'failed'}, and its numbers say otherwise"
    return ""


def take_proofs(run: Path, source: Path) -> list[Path]:
    """Copy the proofs in the folder `source` into the run, replacing files of the same name.

    Files are copied unchanged and validated when the run is read.

    Raises:
        UsageError: no such folder, or no proof in it.
        OSError: not readable, or the run is not writable.
    """
    files = [file for file in sorted(source.glob("*.json")) if file.is_file() and file.stat().st_size <= MAX_BYTES]
    if not files:
        raise UsageError(
            f"{source}: expected a folder with proofs (NAME.json of `trialbench proof NAME --json`), found none"
        )
    target = run / "proofs"
    target.mkdir(exist_ok=True)
    for file in files[:MAX_FILES]:
        write_atomic(target / file.name, file.read_text(encoding="utf-8", errors="replace"))
    return [target / file.name for file in files[:MAX_FILES]]


def figure(value: float) -> str:
    """A number with four significant digits, without trailing zeros or exponents."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def read_proof(file: str, document: Mapping[str, Any]) -> Proof:
    """The proof in `document`, valid by schema `proof`, of the file called `file`."""
    engine = document["engine"]
    bits = f", {document['bits']} bits" if document["bits"] is not None else ""
    about = {"trialbench": str(document["trialbench"])}
    if isinstance(engine.get("version"), str):
        about["version"] = engine["version"]
    hashes = engine.get("hashes")
    if isinstance(hashes, dict):
        about |= {f"SHA-256 of {name}": str(value) for name, value in list(hashes.items())[:6]}
    facts = engine.get("facts")
    if isinstance(facts, dict):
        about |= {shown: str(facts[name]) for name, shown in _FACTS.items() if facts.get(name) is not None}
    return Proof(
        file=file,
        name=document["proof"],
        ok=document["ok"],
        source=document["source"],
        engine=f"{document['source']} {line(document['model'] or 'model unknown', 60)}{bits}",
        made=document["began"],
        numbers=[_number(check, document["runs"]) for check in document["checks"]],
        about=about,
    )


def _number(check: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Number:
    relation, _space, limit = (check["expected"] or "").partition(" ")
    name = check["name"]
    told = [run.get(_SINGLES.get(name, name)) for run in runs[:_MOST_SINGLES]]
    singles = [
        float(one) for one in told if isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
    ]
    return Number(
        name=name,
        value=check["value"],
        unit=check["unit"],
        relation=relation or None,
        limit=float(limit) if limit else None,
        ok=check["ok"],
        skipped=check["skipped"],
        detail=check["detail"],
        singles=singles,
    )
