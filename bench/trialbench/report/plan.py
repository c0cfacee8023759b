"""The plan of a run, `plan.json`, as typed values. Older plans lack some of them; a run may have no readable plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from trialbench.verdict import AdherenceRule, Rules


@dataclass(frozen=True)
class Tenant:
    """A tenant of the plan; `vram_process` identifies its process on the card. Missing values are empty."""

    name: str
    impact: str
    vram_process: str


Side = Literal["baseline", "candidate"]
# The host builds a segment's name from the left, and a workload may be called anything: the last side in it counts.
_SEGMENT = re.compile(r"(?P<work>.+)-(?P<side>baseline|candidate)(?:-(?P<part>[^-]+))?")


@dataclass(frozen=True)
class Named:
    """What the name of a segment says: its workload, who answers, and which of that side's segments it is.

    `side` is None where the name does not say; `part` is empty, or such as `a1` and `cached`.
    """

    work: str
    side: Side | None = None
    part: str = ""

    @classmethod
    def of(cls, segment: str) -> Named:
        """What the name `segment` says."""
        found = _SEGMENT.fullmatch(segment)
        return cls(found["work"], cast("Side", found["side"]), found["part"] or "") if found else cls(segment)


@dataclass(frozen=True)
class Workload:
    """A workload of the plan: `text` is the run's own YAML, None for the packaged one of that name.

    `n` is how many samples were planned, None for plans that do not say.
    """

    name: str
    text: str | None = None
    n: int | None = None

    @property
    def candidate(self) -> str:
        """The candidate's segment."""
        return f"{self.name}-candidate"

    @property
    def cached(self) -> str:
        """The candidate's segment with the prompt cache; of the workload that decides."""
        return f"{self.candidate}-cached"

    @property
    def a1(self) -> str:
        """The baseline before the candidate; of the workload that decides."""
        return f"{self.name}-baseline-a1"

    @property
    def a2(self) -> str:
        """The baseline after the candidate; of the workload that decides."""
        return f"{self.name}-baseline-a2"

    @property
    def baseline(self) -> str:
        """The baseline's segment; of a workload that is shown."""
        return f"{self.name}-baseline"


@dataclass(frozen=True)
class Plan:
    """What was planned.

    Attributes:
        document: the whole plan, for pages that print it; empty without a readable plan.
        attended: None for plans that do not say.
        abort_above_gb: None for plans without this band.
        accuracy_not_worse_by: points by which the candidate may be right less often; None: no gate.
        review_ties_percent: the share of ties by which a blind review says *same*; None: by none.
        p95_ms, hz: declared levels of service; None: not declared.
        request_timeout_ms: how long a request may take; None for plans that do not say.
        decider: the workload that decides. Runs without a list of workloads are earlier ones: nav decided.
        shown: the workloads whose replies are shown side by side; in earlier runs it was describe.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    host: str | None = None
    rehearsal: bool = False
    attended: bool | None = None
    candidate_label: str | None = None
    candidate_port: int | None = None
    baseline_label: str | None = None
    baseline_tenant: str = ""
    low_below_gb: float | None = None
    healthy_to_gb: float | None = None
    abort_above_gb: float | None = None
    adherence_rule: AdherenceRule | None = None
    accuracy_not_worse_by: float | None = None
    review_ties_percent: float | None = None
    p95_ms: float | None = None
    hz: float | None = None
    request_timeout_ms: float | None = None
    drain_min_s: float = 5.0
    tenants: tuple[Tenant, ...] = ()
    decider: Workload = Workload("nav")
    shown: tuple[Workload, ...] = (Workload("describe"),)

    @property
    def low_gb(self) -> float:
        """Lower end of the healthy band."""
        return Rules.low_gb if self.low_below_gb is None else self.low_below_gb

    @property
    def high_gb(self) -> float:
        """Upper end of the healthy band."""
        return Rules.high_gb if self.healthy_to_gb is None else self.healthy_to_gb

    def tenant(self, name: str) -> Tenant | None:
        """The tenant called `name`."""
        return next((one for one in self.tenants if one.name == name), None) if name else None


def read_plan(document: Mapping[str, Any]) -> Plan:
    """The plan in a document that fits the schema `plan`."""
    candidate, baseline = _part(document, "candidate"), _part(document, "baseline")
    bands, limits, slo = _part(document, "bands"), _part(document, "limits"), _part(document, "slo")
    port = candidate.get("port")
    decider, shown = _workloads(document)
    return Plan(
        document=document,
        run=document.get("run") or "",
        host=document.get("host"),
        rehearsal=document.get("rehearsal") is True,
        attended=document.get("attended"),
        candidate_label=candidate.get("label"),
        candidate_port=port if type(port) is int else None,
        baseline_label=baseline.get("label"),
        baseline_tenant=_text(baseline.get("tenant")),
        low_below_gb=_number(bands.get("low_below_gb")),
        healthy_to_gb=_number(bands.get("healthy_to_gb")),
        abort_above_gb=_number(bands.get("abort_above_gb")),
        adherence_rule=document.get("adherence_rule"),
        accuracy_not_worse_by=_number(document.get("accuracy_not_worse_by")),
        review_ties_percent=_number(document.get("review_ties_percent")),
        p95_ms=_number(slo.get("p95_ms")) or None,
        hz=_number(slo.get("hz")) or None,
        request_timeout_ms=None if (limit_s := _number(limits.get("request_timeout_s"))) is None else limit_s * 1000,
        drain_min_s=float(limits.get("drain_min_s", Plan.drain_min_s)),
        tenants=tuple(
            Tenant(*(_text(tenant.get(name)) for name in ("name", "impact", "vram_process")))
            for tenant in document.get("tenants") or ()
        ),
        decider=decider,
        shown=shown,
    )


def _workloads(document: Mapping[str, Any]) -> tuple[Workload, tuple[Workload, ...]]:
    """The workload that decides, and those that are shown."""
    listed = document.get("workloads")
    if isinstance(listed, list):
        found = [(one["role"], Workload(one["name"], one.get("text"), one.get("n"))) for one in listed]
        deciding = [work for role, work in found if role == "decides"]
        return (deciding or [Plan.decider])[0], tuple(work for role, work in found if role == "shown")
    # An earlier run: nav and describe, their counts and texts under names of their own.
    counts, texts = _part(document, "workloads"), _part(document, "workload_texts")
    return (
        Workload("nav", texts.get("nav"), counts.get("nav_extended")),
        (Workload("describe", texts.get("describe"), counts.get("describe_n")),),
    )


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return "" if value is None else str(value)
