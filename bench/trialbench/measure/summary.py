"""From samples to the numbers of one segment. Works on sample objects as read from a file, so that the client in
the container and the report on the controller count the same way."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trialbench import stats
from trialbench.show.terminal import line

# The user's decision: this share of the samples keeps the contract.
ADHERENCE_LIMIT = 0.95
# Replies slower than usual by this factor are more than drift; besides the halves, the last samples are checked.
SLOWED, _LAST = 1.5, 6
LOST = ("connect", "dropped")
# How much of a server's text is kept in a taint.
_WORDS = 120
_CUT_SHORT = {
    "server": "the server died or can not be reached",
    "signal": "ended by a signal",
    "time_limit": "its time was up",
    "busy": "others kept the server at work",
    "gate": "no answer at the gate",
    "thinking": "a reply was thinking",
    "smoke": "the smoke test failed",
}


@dataclass(frozen=True)
class SegmentFacts:
    """Facts about a segment that its samples do not contain.

    `request`: hashes of what every sample sent (`body_sha256`, `prompt_sha256`, `image_sha256`). `neighbours`: whether
    others used the server meanwhile. Both as in `trialbench schema summary`, None where the client did not say.
    `ended`: False when the client left no end of its own, as one that was killed.
    """

    workload: str
    requested: int
    contract: bool
    cache_prompt: bool
    stopped: str | None = None
    request: dict[str, Any] | None = None
    neighbours: dict[str, Any] | None = None
    ended: bool = True


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
        "cached_tokens": _cached_tokens(samples),
        "adherence": _adherence(samples, len(cut_off)) if facts.contract else None,
        "partial": partial(samples, facts),
        "taints": taints(samples, warmups, cache_prompt=facts.cache_prompt),
        "request": _request(_models([*warmups, *samples]), facts.request),
        "neighbours": facts.neighbours,
    }


def partial(samples: Sequence[dict[str, Any]], facts: SegmentFacts) -> list[str]:
    """Why the segment is incomplete, by name; empty for a complete one.

    `cut short`: samples are missing. `lost` and `stalled`: samples without a reply. `slowed`: no one number describes
    the replies before and after.
    """
    found = []
    done = sum(sample["error_class"] != "cut_off" for sample in samples)
    if not facts.ended:
        found.append(f"cut short after {done} samples: the client did not end in order")
    elif done < facts.requested or facts.stopped not in (None, "smoke", "thinking"):
        why = _CUT_SHORT.get(facts.stopped or "")
        found.append(f"cut short at {done} of {facts.requested} samples" + (f": {why}" if why else ""))
    lost = sum(sample["error_class"] in LOST for sample in samples)
    if lost:
        found.append(f"lost: {lost} samples found no server, or one that hung up")
    stalled = sum(sample["error_class"] == "timeout" for sample in samples)
    if stalled:
        found.append(f"stalled: {stalled} samples had no whole reply in time")
    times = slowed([sample["latency_ms"] for sample in samples if sample["ok"]])
    if times is not None:
        found.append(f"slowed: its later replies took {times:.1f} times as long as its first ones")
    return found


def slowed(latencies: Sequence[float]) -> float | None:
    """The factor by which a server slowed down, if at least `SLOWED`; None for a steady one.

    Compares the two halves by their exact intervals, and the last few samples with the first half, because a server
    that slows down near the end hardly changes the median of the second half. Samples are in the order of measuring.
    """
    if len(latencies) < 2 * _LAST:
        return None
    drift = stats.drift(latencies)
    usual = statistics.median(latencies[: len(latencies) // 2])
    times = min(latencies[-_LAST:]) / usual if usual else 0.0
    if drift is not None and drift.drifted and drift.first:
        times = max(times, drift.second / drift.first)
    return round(times, 2) if times >= SLOWED else None


def taints(samples: Sequence[dict[str, Any]], warmups: Sequence[dict[str, Any]], *, cache_prompt: bool) -> list[str]:
    """What makes a segment unfit for a decision, each as `name: observation`; empty for a clean one.

    Names: `cache`, `thinking`, `finish_reason`, `model_changed`, `server_restarted`, `server_hung_up`. A cache that was
    asked for and not used is none: some models cannot reuse their prompt cache.
    """
    answered = [*warmups, *samples]
    found = []
    hits = _cache(samples, cache_prompt)["hits"]
    if hits and not cache_prompt:
        found.append(f"cache: {hits} replies came from the prompt cache, which was to be off")
    thinking = sum("thinking" in sample["flags"] for sample in answered)
    if thinking:
        found.append(f"thinking: thinking seen in {thinking} replies")
    odd = [str(sample["finish_reason"]) for sample in answered if "finish_reason" in sample["flags"]]
    if odd:
        reasons = line(", ".join(dict.fromkeys(odd)), _WORDS)
        found.append(f"finish_reason: {len(odd)} replies ended with {reasons}, expected stop or length")
    models = _models(answered)
    if len(models) > 1:
        found.append(f"model_changed: the server named itself {line(', then '.join(models), _WORDS)}")
    return [*found, *interruptions(answered)]


def interruptions(samples: Sequence[dict[str, Any]]) -> list[str]:
    """The taints `server_restarted` and `server_hung_up` of samples in the order they were taken."""
    again = sum("restarted" in sample["flags"] for sample in samples)
    if again:
        return [f"server_restarted: the server was started anew {again} times"]
    last = max((at for at, sample in enumerate(samples) if sample["ok"]), default=0)
    lost = Counter(sample["error_class"] for sample in samples[:last] if sample["error_class"] in LOST)
    if lost["connect"]:
        return [f"server_restarted: {lost.total()} requests found no server, then one answered again"]
    return [f"server_hung_up: on {lost.total()} requests, then it answered again"] if lost else []


def _models(samples: Sequence[dict[str, Any]]) -> list[str]:
    """All model names that the server reported, in order."""
    return list(dict.fromkeys(str(sample["model"]) for sample in samples if sample.get("model") is not None))


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
    """Median of completion tokens over total latency: what a caller gets, including prefill."""
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


def _cached_tokens(samples: Sequence[dict[str, Any]]) -> int | None:
    counts = _present(samples, "cache_n")
    return int(sum(counts)) if counts else None


def _request(models: list[str], written: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was asked, and which model answered. The client's own record applies if the samples do not name models."""
    if written is None and not models:
        return None
    names = ("body_sha256", "prompt_sha256", "image_sha256")
    return {name: (written or {}).get(name) for name in names} | {"models": models or (written or {}).get("models", [])}


def _adherence(samples: Sequence[dict[str, Any]], cut_off: int) -> dict[str, Any]:
    strategies = Counter(sample["strategy"] for sample in samples)
    counted = stats.share(strategies[1] + strategies[2], len(samples) - cut_off)
    limit = stats.threshold(counted.k, counted.n, ADHERENCE_LIMIT)
    return {
        **{name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(counted).items()},
        "strategies": {
            "1": strategies[1],
            "2": strategies[2],
            "3": strategies[3],
            "none": strategies[None] - cut_off,
        },
        "threshold": asdict(limit),
    }
