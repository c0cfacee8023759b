"""The plan of a run, `plan.json`, as typed values. Older plans lack some of them; a run may have no readable plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trialbench.verdict import AdherenceRule, Rules


@dataclass(frozen=True)
class Tenant:
    """A tenant of the plan; `vram_process` identifies its process on the card. Missing values are empty."""

    name: str
    impact: str
    vram_process: str


@dataclass(frozen=True)
class Plan:
    """What was planned.

    Attributes:
        document: the whole plan, for pages that print it; empty without a readable plan.
        attended: None for plans that do not say.
        abort_above_gb: None for plans without this band.
        describe_text: the run's own describe workload, None if it used the packaged one.
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
    nav_extended: int | None = None
    adherence_rule: AdherenceRule | None = None
    drain_min_s: float = 5.0
    tenants: tuple[Tenant, ...] = ()
    describe_text: str | None = None

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
    bands, limits = _part(document, "bands"), _part(document, "limits")
    port, describe = candidate.get("port"), _part(document, "workload_texts").get("describe")
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
        nav_extended=_part(document, "workloads").get("nav_extended"),
        adherence_rule=document.get("adherence_rule"),
        drain_min_s=float(limits.get("drain_min_s", Plan.drain_min_s)),
        tenants=tuple(
            Tenant(*(_text(tenant.get(name)) for name in ("name", "impact", "vram_process")))
            for tenant in document.get("tenants") or ()
        ),
        describe_text=describe if isinstance(describe, str) else None,
    )


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return "" if value is None else str(value)
