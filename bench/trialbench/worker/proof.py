"""A proof: numbers, their limits, and a result. As table, JSON and JUnit.

A proof that could not run has not passed: a check without a number fails unless it was not requested (`skipped`).
"""

from __future__ import annotations

import datetime
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trialbench import __version__
from trialbench.errors import UsageError
from trialbench.show.junit import Case, Suite, write
from trialbench.show.terminal import line
from trialbench.show.text import columns, section, wrap

_DETAIL = 1000
_RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True)
class Expectation:
    """`value RELATION limit`, as in `< 2`."""

    relation: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether `value` is within the limit."""
        return bool(_RELATIONS[self.relation](value, self.limit))

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:.12g}"


@dataclass(frozen=True)
class Check:
    """One number of a proof.

    Attributes:
        value: None if there is none; `detail` says why.
        expected: None for numbers that are reported but not judged.
        skipped: it was not requested, and is not judged.
    """

    name: str
    value: float | None
    unit: str = ""
    expected: Expectation | None = None
    detail: str = ""
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """Whether it passed; unjudged numbers pass. The rounded number is judged, because it is the one shown."""
        if self.skipped or self.expected is None:
            return True
        return self.told is not None and self.expected.holds(self.told)

    @property
    def told(self) -> float | None:
        """The value as written to the document."""
        return None if self.value is None else round(self.value, 3)

    @property
    def word(self) -> str:
        """`ok`, `FAILED`, `skipped`, or nothing for an unjudged number."""
        if self.skipped:
            return "skipped"
        if self.expected is None:
            return ""
        return "ok" if self.ok else "FAILED"

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "name": self.name,
            "value": self.told,
            "unit": self.unit,
            "expected": None if self.expected is None else str(self.expected),
            "ok": self.ok,
            "skipped": self.skipped,
            "detail": self.detail,
        }


@dataclass
class Proof:
    """One proof about one engine.

    Attributes:
        name: `cold-start`, `timeout-retry` or `cancel`.
        engine: the result of its probe.
        runs: one object per repetition, with the individual numbers.
    """

    name: str
    engine: Mapping[str, Any]
    checks: list[Check] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    began: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    @property
    def ok(self) -> bool:
        """Whether all checks passed, and there was at least one."""
        judged = [check for check in self.checks if check.expected is not None and not check.skipped]
        return bool(judged) and all(check.ok for check in judged)

    def as_dict(self) -> dict[str, Any]:
        """The document of schema `proof`."""
        return {
            "proof": self.name,
            "ok": self.ok,
            "trialbench": __version__,
            "began": self.began,
            "source": self.engine.get("source"),
            "model": self.engine.get("model"),
            "bits": self.engine.get("bits"),
            "engine": dict(self.engine),
            "checks": [check.as_dict() for check in self.checks],
            "runs": self.runs,
        }

    def table(self) -> str:
        """A readable table, no wider than the terminal: one line per number, pass or fail last."""
        title = f"{self.name}: {self.engine.get('source')} {self.engine.get('model') or 'model unknown'}"
        rows = [("", "value", "expected", ""), *(_row(check) for check in self.checks)]
        details = [wrap(f"{check.name}: {line(check.detail, _DETAIL)}") for check in self.checks if check.detail]
        told = "\n".join([columns(rows), *details, "PASSED" if self.ok else "FAILED"])
        return section(wrap(line(title, _DETAIL)), told)


def _row(check: Check) -> tuple[str, str, str, str]:
    value = check.value
    shown = "-" if value is None else f"{value:.0f}" if value == int(value) else f"{value:.4g}"
    return check.name, f"{shown} {check.unit}".rstrip(), str(check.expected or ""), check.word


def junit(proofs: list[Proof]) -> str:
    """The proofs as JUnit XML: a suite each, a case per number that was judged, the engine as properties."""
    return write("trialbench proof", [_suite(proof) for proof in proofs])


def _suite(proof: Proof) -> Suite:
    names = ("source", "model", "bits", "version")
    engine = ".".join(str(proof.engine.get(name) or "unknown") for name in names[:2])
    return Suite(
        f"proof.{proof.name}",
        [_case(check) for check in proof.checks if check.expected is not None or check.skipped],
        classname=f"proof.{engine}.{proof.name}",
        began=proof.began,
        properties={name: str(proof.engine[name]) for name in names if proof.engine.get(name) is not None},
    )


def _case(check: Check) -> Case:
    if check.skipped:
        return Case(check.name, "skipped", check.detail)
    found = "no number" if check.told is None else f"{check.told:g} {check.unit}".rstrip()
    said = f"expected {check.expected} {check.unit}".rstrip() + f", found {found}"
    said = f"{said}; {check.detail}" if check.detail else said
    return Case(check.name, out=said) if check.ok else Case(check.name, "failure", said, kind="expectation")


def expectations(defaults: Mapping[str, Expectation], settings: list[str]) -> dict[str, Expectation]:
    """`defaults` with the changes of `--expect NAME=NUMBER`; the relations stay.

    Raises:
        UsageError: the proof has no such number, or the value is not a number.
    """
    found = dict(defaults)
    for setting in settings:
        name, separator, text = setting.partition("=")
        try:
            limit = float(text)
        except ValueError:
            limit = float("nan")
        if not separator or not abs(limit) < float("inf"):
            raise UsageError(f"--expect: expected NAME=NUMBER, found {setting!r}")
        if name not in found:
            raise UsageError(f"--expect: expected one of {', '.join(found)}, found {name!r}")
        found[name] = Expectation(found[name].relation, limit)
    return found
