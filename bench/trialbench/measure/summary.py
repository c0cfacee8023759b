"""From samples to the numbers of one segment. Works on sample objects as read from a file, so that the client in
the container and the report on the controller count alike."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trialbench import stats


@dataclass(frozen=True)
class SegmentFacts:
    """What was asked of a segment, which its samples alone do not tell."""

    workload: str
    requested: int
    contract: bool
    cache_prompt: bool
    stopped: str | None = None


def summarise(
    samples: Sequence[dict[str, Any]], warmups: Sequence[dict[str, Any]], facts: SegmentFacts
) -> dict[str, Any]:
    """The segment's part of `summary.json` (`trialbench schema summary`). Times in milliseconds unless named otherwise.

    Latency counts valid samples only. Adherence counts every sample but those we ended ourselves (`cut_off`): a reply
    that failed is a reply production could not use.
    """
    good = [sample for sample in samples if sample["ok"]]
    cut_off = [sample for sample in samples if sample["error_class"] == "cut_off"]
    failed = [sample for sample in samples if not sample["ok"] and sample["error_class"] != "cut_off"]
    latencies = [sample["latency_ms"] for sample in good]
    spread = _spread(samples)
    p50 = stats.quantile(latencies, 0.5)
    drift = stats.drift(latencies)
    return {
        "workload": facts.workload,
        "requested": facts.requested,
        "stopped": facts.stopped,
        "sent": len(samples),
        "ok": len(good),
        "failed": len(failed),
        "timed_out": sum(sample["error_class"] == "timeout" for sample in failed),
        "cut_off": len(cut_off),
        "errors": dict(sorted(Counter(sample["error_class"] for sample in failed).items())),
        "flags": dict(sorted(Counter(flag for sample in samples for flag in sample["flags"]).items())),
        "thinking": sum("thinking" in sample["flags"] for sample in [*samples, *warmups]),
        "warmup": {"sent": len(warmups), "failed": sum(not sample["ok"] for sample in warmups)},
        "latency_ms": {
            "first": latencies[0] if latencies else None,
            "min": min(latencies, default=None),
            "p50": _quantile(p50),
            "p95": _quantile(stats.quantile(latencies, 0.95)),
            "p99": _quantile(stats.quantile(latencies, 0.99)),
            "max": max(latencies, default=None),
        },
        "ttft_ms": _quantile(stats.quantile(_present(good, "ttft_ms"), 0.5)),
        "server_ms": _quantile(stats.quantile(_present(good, "server_ms"), 0.5)),
        "tokens_per_s": _tokens_per_s(good),
        "effective_hz": {
            "from_p50": round(1000 / p50.value, 3) if p50.value else None,
            "from_wall": round(len(good) / spread["wall_s"], 3) if spread["wall_s"] else None,
        },
        **spread,
        "outliers": [good[at]["seq"] for at in stats.outliers(latencies)],
        "drift": asdict(drift) if drift else None,
        "cache": _cache(samples, facts.cache_prompt),
        "adherence": _adherence(samples, len(cut_off)) if facts.contract else None,
    }


def _present(samples: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [sample[name] for sample in samples if sample[name] is not None]


def _quantile(found: stats.Quantile) -> dict[str, Any]:
    return {**asdict(found), "text": found.text()}


def _spread(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """First request to last reply, on the monotonic clock of the machine that measured."""
    if not samples:
        return {"first_request_s": None, "last_reply_s": None, "wall_s": None}
    first = min(sample["t_start_s"] for sample in samples)
    last = max(sample["t_start_s"] + (sample["latency_ms"] or 0.0) / 1000 for sample in samples)
    return {"first_request_s": first, "last_reply_s": round(last, 6), "wall_s": round(last - first, 6)}


def _tokens_per_s(samples: Sequence[dict[str, Any]]) -> float | None:
    """Median of completion tokens over whole latency: what a caller gets, prefill included."""
    rates = [
        sample["completion_tokens"] / sample["latency_ms"] * 1000
        for sample in samples
        if sample["completion_tokens"] and sample["latency_ms"]
    ]
    return round(statistics.median(rates), 2) if rates else None


def _cache(samples: Sequence[dict[str, Any]], asked: bool) -> dict[str, Any]:
    """Whether the server's prompt cache was used as asked; None where the server does not report it."""
    counts = [int(count) for count in _present(samples, "cache_n")]
    hits = sum(count > 0 for count in counts)
    return {
        "asked": asked,
        "hits": hits if counts else None,
        "max_cache_n": max(counts, default=None),
        "as_asked": (hits > 0 if asked else hits == 0) if counts else None,
    }


def _adherence(samples: Sequence[dict[str, Any]], cut_off: int) -> dict[str, Any]:
    strategies = Counter(sample["strategy"] for sample in samples)
    counted = stats.share(strategies[1] + strategies[2], len(samples) - cut_off)
    return {
        **{name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(counted).items()},
        "strategies": {
            "1": strategies[1],
            "2": strategies[2],
            "3": strategies[3],
            "none": strategies[None] - cut_off,
        },
    }
