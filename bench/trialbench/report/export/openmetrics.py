"""A run as OpenMetrics for node exporter's textfile collector, in base units (seconds, bytes).

The collector reads Prometheus' own text format and rejects timestamps. So all metrics are gauges, which both formats
write the same way; the older format treats `# UNIT` and `# EOF` as comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from trialbench.report.decide import answer_of
from trialbench.report.run import Run
from trialbench.report.summary import Summary
from trialbench.show.terminal import screen

_PREFIX = "model_trial"
_MIB, _MIB_PER_GB = 1 << 20, 1024
_VERDICTS = ("ADOPT", "REJECT", "INCONCLUSIVE", "PENDING_REVIEW")


@dataclass
class Family:
    """One metric with its samples: labels to value. `unit` ends the name where there is one."""

    name: str
    help: str
    unit: str = ""
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: object) -> None:
        """Add a sample, unless it was not measured."""
        if value is not None:
            self.samples.append(({name: str(text) for name, text in labels.items()}, float(value)))

    def text(self, common: dict[str, str]) -> str:
        """The family as lines, the labels that all samples share included."""
        name = "_".join(part for part in (_PREFIX, self.name, self.unit) if part)
        lines = [f"# HELP {name} {self.help}", f"# TYPE {name} gauge"]
        if self.unit:
            lines.append(f"# UNIT {name} {self.unit}")
        # One that stands twice makes a reader refuse the whole file; the last counts.
        series = {
            ",".join(f'{key}="{_label(text)}"' for key, text in {**common, **labels}.items()): value
            for labels, value in self.samples
        }
        lines += [f"{name}{{{shown}}} {_value(value)}" for shown, value in series.items()]
        return "\n".join(lines)


def openmetrics(run: Run, summary: Summary) -> str:
    """The metrics. Only `model_trial_info` names the run, so that the other series continue in the next run.

    `model` is the candidate's name, but the baseline's in the series of the segments in which it answered.
    """
    common = {"host": summary.host or "", "model": summary.model_label or ""}
    families = [
        *_about(run, summary),
        *_segments(run, summary),
        *_comparisons(summary),
        *_vram(summary),
        *_times(summary),
        *_checks(run),
        *_proofs(run),
    ]
    return "".join(f"{family.text(common)}\n" for family in families if family.samples) + "# EOF\n"


def _about(run: Run, summary: Summary) -> list[Family]:
    info = Family("info", "The run that the other series belong to; always 1.")
    baseline = summary.baseline_label or ""
    told = answer_of(run, summary)
    answer = {"answer": told} if told else {}
    info.add(1, run=summary.run, baseline=baseline, outcome=summary.outcome, version=summary.trialbench, **answer)
    began = Family("start_timestamp", "When the run began, as Unix time.", "seconds")
    began.add(_unix(run.began))
    completed = Family("completed", "Whether the run ended as planned.")
    completed.add(summary.outcome in ("completed", "rehearsed"))
    restored = Family("host_restored", "Whether the host is back; absent for a run that never held it.")
    restored.add(summary.restore.restored)
    tainted = Family("taints", "What makes the numbers unfit for a decision.")
    tainted.add(len(summary.taints))
    verdict = Family("verdict", "1 for the verdict that was reached, 0 for the others.")
    if run.verdict:
        for word in _VERDICTS:
            verdict.add(run.verdict.verdict == word, verdict=word)
    return [info, began, completed, restored, tainted, verdict]


def _segments(run: Run, summary: Summary) -> list[Family]:
    latency = Family("latency", "Latency at the socket; quantiles that the samples can't bound are absent.", "seconds")
    interval = Family("latency_interval", "Ends of the exact 95 % interval of a quantile.", "seconds")
    first = Family("first_token", "Median time to the first token, where replies were streamed.", "seconds")
    server = Family("server_time", "Median of the server's own time.", "seconds")
    rate = Family("effective_rate", "1 / median latency.", "hertz")
    tokens = Family("tokens_per_second", "Median of completion tokens over latency.")
    samples = Family("samples", "Requests by outcome.")
    adherence = Family("adherence", "Share of replies that keep the contract.", "ratio")
    proved = Family("adherence_bound", "One-sided 95 % bounds of that share, by distinct questions.", "ratio")
    asked = Family("questions", "Distinct questions that were asked.")
    replies = Family("distinct_replies", "Different texts among the good replies.")
    alike = Family("repeatability", "Chance that two good replies to one question are the same text.", "ratio")
    thinking = Family("thinking_replies", "Replies that were thinking.")
    energy = Family("energy_per_reply", "Median of the card's energy over a reply.", "joules")
    for name, segment in summary.segments.items():
        of = {"segment": name, "model": run.model(run.segments[name].side) or ""}
        for found in (segment.latency_ms.p50, segment.latency_ms.p95, segment.latency_ms.p99):
            # `quantile` is a label of summaries alone.
            q = f"{found.q:g}"
            # Where there is only the largest value, that is what it is, and no 99th percentile.
            if found.kind != "max":
                latency.add(_seconds(found.value), **of, q=q)
            interval.add(_seconds(found.low), **of, q=q, end="low")
            interval.add(_seconds(found.high), **of, q=q, end="high")
        latency.add(_seconds(segment.latency_ms.max), **of, q="1")
        first.add(_seconds(segment.ttft_ms.value), **of)
        server.add(_seconds(segment.server_ms.value), **of)
        rate.add(segment.effective_hz.from_p50, **of)
        tokens.add(segment.tokens_per_s, **of)
        for state, count in (("ok", segment.ok), ("failed", segment.failed), ("cut_off", segment.cut_off)):
            samples.add(count, **of, state=state)
        counted = segment.adherence
        if counted and counted.n:
            adherence.add(counted.k / counted.n, **of)
            proved.add(counted.one_sided_low, **of, end="low")
            proved.add(counted.one_sided_high, **of, end="high")
        asked.add(segment.questions.asked, **of)
        replies.add(segment.questions.distinct_replies, **of)
        alike.add(segment.questions.repeatability, **of)
        thinking.add(segment.thinking, **of)
        measured = summary.telemetry.segments[name].energy_per_reply_j
        energy.add(measured.p50 if measured else None, **of)
    shares = [adherence, proved, asked, replies, alike]
    return [latency, interval, first, server, rate, tokens, samples, *shares, thinking, energy]


def _comparisons(summary: Summary) -> list[Family]:
    ratio = Family("baseline", "Median of the candidate over the baseline's, by metric.", "ratio")
    ends = Family("baseline_interval", "Ends of its 95 % interval.", "ratio")
    differs = Family("baseline_different", "Whether the ratio lies outside the baseline's own variation.")
    for found in summary.comparisons:
        ratio.add(found.ratio, metric=found.metric)
        ends.add(found.low, metric=found.metric, end="low")
        ends.add(found.high, metric=found.metric, end="high")
        if found.finding != "not_comparable":
            differs.add(found.finding == "different", metric=found.metric)
    return [ratio, ends, differs]


def _vram(summary: Summary) -> list[Family]:
    vram = summary.vram
    used = Family("vram_used", "VRAM of the whole card: drained, at its peak, at the end.", "bytes")
    for state, mib in (("drained", vram.drained_mib), ("peak", vram.peak_mib), ("last", vram.last_mib)):
        used.add(_bytes(mib), state=state)
    total = Family("vram_total", "Total VRAM of the card.", "bytes")
    total.add(_bytes(vram.total_mib))
    footprint = Family(
        "vram_footprint", "VRAM of the candidate above the drained level, at each gate and at its peak.", "bytes"
    )
    gates = {str(gate.name): gate.footprint_gb for gate in vram.gates}
    for name, size in {**gates, "peak": vram.peak_footprint_gb}.items():
        footprint.add(None if size is None else _bytes(size * _MIB_PER_GB), gate=name)
    return [used, total, footprint]


def _times(summary: Summary) -> list[Family]:
    down = Family("tenant_down", "How long each tenant was down.", "seconds")
    for tenant, value in summary.down_s.items():
        down.add(value, tenant=tenant)
    window = Family("window", "How long people lost a service.", "seconds")
    overhead = Family("window_overhead", "The part of it that was neither drain, nor starts, nor measuring.", "seconds")
    for impact, found in summary.windows.items():
        window.add(found.total_s, impact=impact)
        overhead.add(found.overhead_s, impact=impact)
    phase = Family("phase_duration", "How long each phase took, the newest of each.", "seconds")
    for name, took in {one.phase: one.duration_s for one in summary.phases}.items():
        phase.add(took, phase=name)
    return [down, window, overhead, phase]


def _checks(run: Run) -> list[Family]:
    passed = Family("check_passed", "The checks at the end of a run.")
    for check in run.verification or ():
        passed.add(check.ok, id=check.id, title=check.title)
    return [passed]


def _proofs(run: Run) -> list[Family]:
    passed = Family("proof_passed", "The proofs of engines in the run, the newest of each.")
    newest = {(one.name, one.engine): one.ok for one in run.proofs}
    for (name, engine), ok in newest.items():
        passed.add(ok, proof=name, engine=engine)
    return [passed]


def _seconds(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms / 1000, 9)


def _bytes(value_mib: float | None) -> float | None:
    return None if value_mib is None else round(value_mib * _MIB)


def _unix(wall: object) -> float | None:
    try:
        return datetime.fromisoformat(str(wall)).timestamp()
    except ValueError:
        return None


def _value(value: float) -> str:
    """A number that both formats read, with all its digits."""
    return str(int(value)) if value == int(value) else repr(value)


def _label(text: str) -> str:
    """Untrusted text as a label value."""
    return re.sub(r'[\\"]', r"\\\g<0>", screen(text)).replace("\n", r"\n")
