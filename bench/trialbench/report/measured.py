"""Measured numbers on a terminal: segments, candidate against baseline, telemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trialbench.measure.sample import Sample
from trialbench.measure.summary import Adherence, SegmentSummary
from trialbench.report.comparison import Comparison, Metric, finding_noisy
from trialbench.report.correctness import Correctness
from trialbench.report.telemetry import Range, Telemetry
from trialbench.show.text import cells as columns_of
from trialbench.show.text import columns, counted, number, ratio_text, room, sparkline, wrap
from trialbench.stats import Quantile, Threshold, percent

_SPARK_WIDTH = 56
# With fewer samples, a sparkline adds nothing to the numbers.
_SPARK_MIN = 8
# Columns around a sparkline: between the parts, and for the smallest and the largest value.
_SPARK_GAP, _SPARK_END = 2, 6

Segments = Mapping[str, SegmentSummary]
Samples = Mapping[str, Sequence[Sample]]


# What the samples of a segment are evidence of: the heads of these columns.
EVIDENCE = ("segment", "questions", "repeats", "distinct replies", "repeatable", "adherent", "95 % interval", ">= 95 %")
_ROWS = (
    ("segment", "ok/sent", "p50 ms [95 %]", "p95 ms [95 %]", "tok/s", "Hz", "adherent"),
    ("segment", "warm-up", "first", "p99 ms", "server", "ttft", "Hz wall"),
    EVIDENCE,
)


def segments_table(segments: Segments, samples: Samples | None = None, *, alone: bool = True) -> str:
    """Three rows of numbers per segment, remarks, and a sparkline of its latencies.

    Args:
        samples: by segment; without them no sparklines are drawn.
        alone: name taints and what is partial; the head of a whole trial lists them.
    """
    parts = [*(_table(segments, heads) for heads in _ROWS), *_notes(segments, alone=alone)]
    lines = _sparklines(segments, samples or {})
    if lines:
        parts += ["", wrap("latency, every sample in its order (ms, log scale, x failed)"), lines]
    return "\n".join(parts)


def _table(segments: Segments, heads: Sequence[str]) -> str:
    found = [cells(name, segment) for name, segment in segments.items()]
    return columns([heads, *([one[head] for head in heads] for one in found)])


def cells(name: str, segment: SegmentSummary) -> dict[str, str]:
    """The cells of a segment's row, on a terminal or a page, by column head."""
    latency, adherence = segment.latency_ms, segment.adherence
    tail = quantile_text(latency.p99)
    if latency.p99.kind == "interval":
        tail = f"{number(latency.p99.value)}, max {number(latency.max)}"
    return {
        "segment": name,
        "ok/sent": f"{segment.ok}/{segment.sent}",
        "p50 ms [95 %]": quantile_text(latency.p50),
        "p95 ms [95 %]": quantile_text(latency.p95),
        "p99 ms": tail,
        "max ms": number(latency.max),
        "first": number(latency.first),
        "server": number(segment.server_ms.value),
        "ttft": number(segment.ttft_ms.value),
        "tok/s": number(segment.tokens_per_s),
        "Hz": number(segment.effective_hz.from_p50),
        "Hz wall": number(segment.effective_hz.from_wall),
        "warm-up": str(segment.warmup.sent),
        "adherent": f"{adherence.k}/{adherence.n}" if adherence else "-",
        "questions": str(segment.questions.asked),
        "repeats": str(segment.questions.repeats),
        "distinct replies": str(segment.questions.distinct_replies),
        "repeatable": _percent(segment.questions.repeatability),
        "95 % interval": _interval(adherence) if adherence else "-",
        # One question says nothing about others, so there is nothing to decide and no number that would.
        ">= 95 %": _threshold(adherence.threshold) if adherence and adherence.effective_n else "-",
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{percent(share)} %"


def _interval(found: Adherence) -> str:
    if found.low is None or found.high is None:
        return "-"
    # Neither end is rounded into the interval as far as all or none.
    low, high = min(round(found.low * 100), percent(found.low)), max(round(found.high * 100), percent(found.high))
    return f"{low}-{high} %"


def quantile_text(quantile: Quantile) -> str:
    """A quantile in at most 18 characters for values below 100 000."""
    value, low, high = quantile.value, quantile.low, quantile.high
    if quantile.kind == "interval":
        return f"{number(value)} [{number(low)}, {number(high)}]"
    if quantile.kind == "at_least":
        return f">= {number(low)}"
    return f"~max {number(value)}" if quantile.kind == "max" else number(value)


def _threshold(found: Threshold) -> str:
    if found.finding != "INCONCLUSIVE":
        return found.finding
    return f"? at {found.needed_n}" if found.needed_n else "?"


def _notes(segments: Segments, *, alone: bool) -> list[str]:
    notes = []
    for name, segment in segments.items():
        if alone:
            notes += [wrap(f"TAINTED {name}: {text}") for text in segment.taints]
            notes += [wrap(f"PARTIAL {name}: {text}") for text in segment.partial]
        found = remarks(segment)
        if found:
            notes.append(wrap(f"{name}: {', '.join(found)}"))
    return notes


def _sparklines(segments: Segments, samples: Samples) -> str:
    drawn = {name: one for name, one in segments.items() if len(samples.get(name, [])) >= _SPARK_MIN}
    rows = []
    for name, segment in drawn.items():
        ends = [number(segment.latency_ms.min), number(segment.latency_ms.max)]
        bars = min(_SPARK_WIDTH, room() - max(map(columns_of, drawn)) - 3 * _SPARK_GAP - 2 * _SPARK_END)
        line = sparkline([one.latency_ms if one.ok else None for one in samples[name]], max(bars, _SPARK_MIN))
        rows.append((name, ends[0], line, ends[1]))
    return columns(rows) if rows else ""


def remarks(segment: SegmentSummary) -> list[str]:
    """Remarks on a segment's numbers."""
    found = [f"{count} {name}" for name, count in segment.errors.items()]
    if segment.unanswered:
        found.append(f"the latencies leave out {counted(segment.unanswered, 'request')} without a whole reply")
    if segment.stopped:
        found.append(f"stopped: {segment.stopped}")
    cut = segment.flags.get("length")
    if cut:
        found.append(f"{cut} cut by max_tokens" + (", not adherent" if segment.adherence else ""))
    slow = segment.flags.get("contract_timeout")
    if slow:
        found.append(f"{slow} not read: the contract's regular expression, or production's parser, took too long")
    if segment.cut_off:
        found.append(f"{segment.cut_off} cut off by the time limit or a signal")
    if segment.cache.as_asked is False:
        found.append(f"cache asked {segment.cache.asked}, hits {segment.cache.hits}")
    elif segment.cache.asked and segment.cache.max_cache_n:
        found.append(f"{counted(segment.cache.max_cache_n, 'prompt token')} from the cache")
    if segment.drift and segment.drift.drifted:
        found.append(f"drift: p50 {number(segment.drift.first)} then {number(segment.drift.second)} ms")
    if segment.outliers:
        found.append(f"{counted(len(segment.outliers), 'outlier')} (kept)")
    watched = segment.neighbours  # a key of finished results
    if watched and watched.overlapped:
        overlapped = counted(watched.overlapped, "sample")
        found.append(f"{overlapped} overlapped other clients' requests (flagged, kept)")
    return found


_METRICS: dict[Metric, str] = {
    "latency_ms": "latency ms",
    "server_ms": "server ms",
    "ttft_ms": "first token ms",
    "tokens_per_s": "tokens/s",
}


def comparison_table(found: Sequence[Comparison]) -> str:
    """Candidate and baseline by metric, with their ratio, and A1 and A2 alone; empty without a comparison."""
    if not found:
        return ""
    rows: list[tuple[str, ...]] = [
        ("median of", "candidate", "baseline", "ratio [95 %]", "A1", "A2", "A1-A2 band", "finding")
    ]
    notes: list[str] = []
    for one in found:
        rows.append(
            (
                _METRICS[one.metric],
                *(number(value) for value in (one.candidate, one.baseline)),
                ratio_text(one.ratio, one.low, one.high),
                *(number(value) for value in (one.a1, one.a2)),
                f"{one.band.percent:.1f} %" if one.band else "-",
                finding_noisy(one),
            )
        )
        if one.finding == "not_comparable" and one.why not in notes:
            notes.append(one.why)
    left_out = next((one.left_out for one in found if one.left_out), "")
    if left_out:
        notes.append(f"the medians leave out {left_out}")
    if any(one.noisy for one in found):
        notes.append("NOISY: the baseline varies by more than 5 %; measure again on a quieter host")
    return "\n".join([columns(rows), *(wrap(note) for note in notes)])


# Of a list of disagreements; summary.json has them all.
_MOST_DISAGREEMENTS = 20


def correctness_table(found: Correctness | None) -> str:
    """Right answers of both models by group, and the scenes that they answer differently; empty for one question."""
    if found is None:
        return ""
    parts = [wrap(found.text)]
    if found.labeled:
        groups = {"all": found.labeled.all, **found.labeled.groups}
        rows = [
            (
                name,
                f"{one.candidate}/{one.scenes}",
                f"{one.baseline}/{one.scenes}",
                str(one.wins),
                str(one.losses),
                f"{one.p:.2g}",
            )
            for name, one in groups.items()
        ]
        parts.append(columns([("scenes", "candidate right", "baseline right", "wins", "losses", "p"), *rows]))
    if found.disagreements:
        heads = ("scene", "baseline", "candidate", "right answer")
        parts.append(columns([heads, *disagreement_rows(found)[:_MOST_DISAGREEMENTS]]))
    more = len(found.disagreements) - _MOST_DISAGREEMENTS
    if more > 0:
        parts.append(f"and {more} more: correctness in summary.json")
    return "\n".join(parts)


def disagreement_rows(found: Correctness) -> list[tuple[str, ...]]:
    """Scene, both answers and the right one, a row for each scene that the models answer differently."""
    return [
        (
            one.scene,
            _answer(one.baseline, one.baseline_right),
            _answer(one.candidate, one.candidate_right),
            " ".join(one.expected) if one.expected else "-",
        )
        for one in found.disagreements
    ]


def _answer(words: Sequence[str] | None, right: bool | None) -> str:
    return (" ".join(words) if words else "none") + (" (right)" if right else "")


def calibration_text(found: Mapping[str, Any] | None) -> str:
    """The client's overhead over a raw socket, in one line; empty if not measured."""
    parts = []
    for name, mode in ((found or {}).get("modes") or {}).items():
        if mode.get("ratio") is not None:
            low, high = mode.get("ratio_low"), mode.get("ratio_high")
            ratio, *interval = ratio_text(mode["ratio"], low, high).split(" ", 1)
            parts.append(" ".join([name, ratio, "x", *interval, f"(n={mode['n']})"]))
    return wrap(f"client against a raw socket: {', '.join(parts)}") if parts else ""


def telemetry_table(found: Telemetry) -> str:
    """Ranges of clocks, power, temperature and load by segment, and why some are missing."""
    rows: list[tuple[str, ...]] = [
        ("segment", "clock MHz", "power W", "temp C", "util %", "J/reply", "load", "flagged")
    ]
    notes = []
    for name, one in found.segments.items():
        energy = one.energy_per_reply_j
        flags = {"throttled": one.throttled, "disturbed": one.disturbed}
        flagged = [f"{count} {flag}" for flag, count in flags.items() if count]
        cells = (
            *(_span(values) for values in (one.sm_mhz, one.power_w, one.temp_c, one.util_percent)),
            number(energy.p50) if energy else "-",
            number(one.load1_max),
            ", ".join(flagged) or "-",
        )
        # A row without values adds nothing to the reasons below.
        if set(cells) != {"-"}:
            rows.append((name, *cells))
        if one.throttle:
            notes.append(f"{name}: the card was held back by {', '.join(one.throttle)}")
    reasons: dict[str, list[str]] = {}
    for key, why in found.why.items():
        reasons.setdefault(why, []).append(key)
    notes += [f"{', '.join(keys)}: {why}" for why, keys in reasons.items()]
    return "\n".join([*([columns(rows)] if len(rows) > 1 else []), *(wrap(note) for note in notes)])


def _span(values: Range | None) -> str:
    """The range of a series, such as `210-2850`; `-` where it was not read."""
    return "-" if values is None else f"{number(values.min)}-{number(values.max)}"
