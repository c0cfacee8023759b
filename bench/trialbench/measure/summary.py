"""From samples to the numbers of one segment. The client in the container and the report on the controller count the
same way."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from trialbench import stats
from trialbench.measure.sample import Sample
from trialbench.show.terminal import line
from trialbench.show.text import counted, number

# The user's decision: this share of the samples keeps the contract.
ADHERENCE_LIMIT = 0.95
# Replies slower than usual by this factor are more than drift; besides the halves, the last samples are checked.
SLOWED, _LAST = 1.5, 6
LOST = ("connect", "dropped")
UNANSWERED = (*LOST, "timeout")
# How much of a server's text is kept in a taint.
_WORDS = 120
_CUT_SHORT = {
    "server": "the server died or cannot be reached",
    "signal": "ended by a signal",
    "time_limit": "its time limit was reached",
    "busy": "other clients kept the server busy",
    "gate": "no answer at the hold point",
    "thinking": "a reply was thinking",
    "smoke": "the smoke test failed",
    "halt": "another process may be answering",
}


@dataclass(frozen=True)
class Request:
    """What every sample of a segment asked, as SHA-256 in hex, and the distinct models that answered, in order.

    `image_sha256` is None without an image; all three are None where the client left no record.
    """

    body_sha256: str | None
    prompt_sha256: str | None
    image_sha256: str | None
    models: Sequence[str]


@dataclass(frozen=True)
class Watched:
    """Whether others used the server meanwhile: how many samples overlapped, or why it was not watched."""

    watched: bool
    overlapped: int | None
    why: str | None


@dataclass(frozen=True)
class SegmentFacts:
    """Facts about a segment that its samples do not contain.

    `request` and `neighbours` are None where the client did not say. `ended`: False when the client left no end of its
    own, as one that was killed.
    """

    workload: str
    requested: int
    contract: bool
    cache_prompt: bool
    stopped: str | None = None
    request: Request | None = None
    neighbors: Watched | None = None
    ended: bool = True


@dataclass(frozen=True)
class Warmup:
    """The samples before the first one that counts."""

    sent: int
    failed: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds at the socket, of the ok samples; None without any. `first` is that of the first one sent."""

    first: float | None
    min: float | None
    p50: stats.Quantile
    p95: stats.Quantile
    p99: stats.Quantile
    max: float | None


@dataclass(frozen=True)
class Rate:
    """Replies a second: 1 / median latency, and ok samples over the time from first request to last reply."""

    from_p50: float | None
    from_wall: float | None


@dataclass(frozen=True)
class Cache:
    """Whether the server's prompt cache was used as asked; None where the server does not report it.

    `hits` counts samples, `max_cache_n` is the most prompt tokens of one that came from the cache.
    """

    asked: bool
    hits: int | None
    max_cache_n: int | None
    as_asked: bool | None


@dataclass(frozen=True)
class Questions:
    """What the samples are evidence of: distinct questions, each asked once or more.

    Attributes:
        asked: distinct questions.
        repeats: how often the one that was asked most often was.
        distinct_replies: different texts among the good replies.
        repeatability: chance that two good replies to one question are the same text; None where none has two.
    """

    asked: int
    repeats: int
    distinct_replies: int
    repeatability: float | None


@dataclass(frozen=True)
class Adherence(stats.Share):
    """The share of adherent samples; `strategies` counts samples by `1`, `2`, `3`, `none`, `cut` (by max_tokens)."""

    strategies: Mapping[str, int]
    threshold: stats.Threshold


@dataclass(frozen=True)
class SegmentSummary:
    """The numbers of one segment; `trialbench schema summary` documents each. The order is that of `summary.json`.

    Attributes:
        sent: requests: ok, failed and cut off.
        errors, flags: samples by name.
        ttft_ms, server_ms: medians.
        tokens_per_s: median of completion tokens over latency, prefill included.
        first_request_s, last_reply_s: CLOCK_MONOTONIC of the machine that measured; `wall_s` lies between them.
        outliers: `seq` of samples.
        adherence: None for a workload without a contract.
    """

    workload: str
    requested: int
    stopped: str | None
    sent: int
    ok: int
    failed: int
    timed_out: int
    cut_off: int
    errors: Mapping[str, int]
    flags: Mapping[str, int]
    thinking: int
    warmup: Warmup
    latency_ms: Latency
    ttft_ms: stats.Quantile
    server_ms: stats.Quantile
    tokens_per_s: float | None
    effective_hz: Rate
    first_request_s: float | None
    last_reply_s: float | None
    wall_s: float | None
    outliers: Sequence[int]
    drift: stats.Drift | None
    cache: Cache
    cached_tokens: int | None
    questions: Questions
    adherence: Adherence | None
    partial: Sequence[str]
    taints: Sequence[str]
    request: Request | None
    neighbours: Watched | None  # a key of finished results

    @property
    def unanswered(self) -> int:
        """How many requests had no whole reply, and so no latency; those that we ended ourselves are not counted."""
        return sum(self.errors.get(name, 0) for name in UNANSWERED)


def plain(value: object) -> Any:
    """`value` as JSON has it: dataclasses become objects, their fields in order; quantiles also have a `text`."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        return found | {"text": value.text(number)} if isinstance(value, stats.Quantile) else found
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def summarize(samples: Sequence[Sample], warmups: Sequence[Sample], facts: SegmentFacts) -> SegmentSummary:
    """The segment's part of `summary.json`.

    Latency counts valid samples only. Adherence counts every sample but those we ended ourselves (`cut_off`): a reply
    that failed is a reply production could not use.
    """
    good = [sample for sample in samples if sample.ok]
    cut_off = sum(sample.error_class == "cut_off" for sample in samples)
    failed = [sample for sample in samples if not sample.ok and sample.error_class != "cut_off"]
    latencies = latencies_ms(samples)
    # First request to last reply.
    first_s = min((sample.t_start_s for sample in samples), default=None)
    last_s = max((sample.t_end_s for sample in samples), default=None)
    wall_s = None if first_s is None or last_s is None else round(last_s - first_s, 6)
    p50 = stats.quantile(latencies, 0.5)
    return SegmentSummary(
        workload=facts.workload,
        requested=facts.requested,
        stopped=facts.stopped,
        sent=len(samples),
        ok=len(good),
        failed=len(failed),
        timed_out=sum(sample.error_class == "timeout" for sample in failed),
        cut_off=cut_off,
        errors=_counted(str(sample.error_class) for sample in failed),
        flags=_counted(flag for sample in samples for flag in sample.flags),
        thinking=sum("thinking" in sample.flags for sample in [*samples, *warmups]),
        warmup=Warmup(len(warmups), sum(not sample.ok for sample in warmups)),
        latency_ms=Latency(
            first=latencies[0] if latencies else None,
            min=min(latencies, default=None),
            p50=p50,
            p95=stats.quantile(latencies, 0.95),
            p99=stats.quantile(latencies, 0.99),
            max=max(latencies, default=None),
        ),
        ttft_ms=stats.quantile(_known(sample.ttft_ms for sample in good), 0.5),
        server_ms=stats.quantile(_known(sample.server_ms for sample in good), 0.5),
        tokens_per_s=_tokens_per_s(good),
        effective_hz=Rate(
            stats.rounded(1000 / p50.value, 3) if p50.value else None,
            stats.rounded(len(good) / wall_s, 3) if wall_s else None,
        ),
        first_request_s=first_s,
        last_reply_s=None if last_s is None else round(last_s, 6),
        wall_s=wall_s,
        outliers=[good[at].seq for at in stats.outliers(latencies)],
        drift=stats.drift(latencies),
        cache=_cache(samples, facts.cache_prompt),
        cached_tokens=_cached_tokens(samples),
        questions=questions(samples),
        adherence=_adherence(samples, cut_off) if facts.contract else None,
        partial=partial(samples, facts),
        taints=taints(samples, warmups, cache_prompt=facts.cache_prompt),
        request=_request(_models([*warmups, *samples]), facts.request),
        neighbours=facts.neighbors,  # a key of finished results
    )


def latencies_ms(samples: Iterable[Sample]) -> list[float]:
    """The latencies of the ok samples, in their order."""
    return _known(sample.latency_ms for sample in samples if sample.ok)


def service_ms(samples: Iterable[Sample]) -> list[float]:
    """The latencies as a caller has them: a request without a whole reply took longer than any other."""
    return _known(
        math.inf if sample.error_class in UNANSWERED else sample.latency_ms if sample.ok else None for sample in samples
    )


def partial(samples: Sequence[Sample], facts: SegmentFacts) -> list[str]:
    """Why the segment is incomplete, by name; empty for a complete one.

    `cut short`: samples are missing. `lost` and `stalled`: samples without a reply. `slowed`: no one number describes
    the replies before and after.
    """
    found = []
    done = sum(sample.error_class != "cut_off" for sample in samples)
    if not facts.ended:
        found.append(f"cut short after {counted(done, 'sample')}: the client did not end properly")
    elif done < facts.requested or facts.stopped not in (None, "smoke", "thinking"):
        why = _CUT_SHORT.get(facts.stopped or "")
        found.append(f"cut short at {done} of {counted(facts.requested, 'sample')}" + (f": {why}" if why else ""))
    lost = sum(sample.error_class in LOST for sample in samples)
    if lost:
        found.append(f"lost: {counted(lost, 'sample')} found no server, or one that hung up")
    stalled = sum(sample.error_class == "timeout" for sample in samples)
    if stalled:
        found.append(f"stalled: {counted(stalled, 'sample')} had no whole reply in time")
    times = slowed(latencies_ms(samples))
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


def taints(samples: Sequence[Sample], warmups: Sequence[Sample], *, cache_prompt: bool) -> list[str]:
    """What makes a segment unfit for a decision, each as `name: observation`; empty for a clean one.

    Names: `cache`, `thinking`, `finish_reason`, `model_changed`, `server_restarted`, `server_hung_up`. A cache that was
    asked for and not used is not a taint: some models cannot reuse their prompt cache.
    """
    answered = [*warmups, *samples]
    found = []
    hits = _cache(samples, cache_prompt).hits
    if hits and not cache_prompt:
        found.append(f"cache: {counted(hits, 'reply', 'replies')} came from the prompt cache, which was turned off")
    thinking = sum("thinking" in sample.flags for sample in answered)
    if thinking:
        found.append(f"thinking: thinking in {counted(thinking, 'reply', 'replies')}")
    odd = [str(sample.finish_reason) for sample in answered if "finish_reason" in sample.flags]
    if odd:
        reasons = line(", ".join(dict.fromkeys(odd)), _WORDS)
        found.append(
            f"finish_reason: {counted(len(odd), 'reply', 'replies')} ended with {reasons}, expected stop or length"
        )
    models = _models(answered)
    if len(models) > 1:
        found.append(f"model_changed: the server named itself {line(', then '.join(models), _WORDS)}")
    return [*found, *interruptions(answered)]


def interruptions(samples: Sequence[Sample]) -> list[str]:
    """The taints `server_restarted` and `server_hung_up` of samples in the order they were taken."""
    again = sum("restarted" in sample.flags for sample in samples)
    if again:
        return [f"server_restarted: the server was restarted {counted(again, 'time')}"]
    last = max((at for at, sample in enumerate(samples) if sample.ok), default=0)
    lost = Counter(sample.error_class for sample in samples[:last] if sample.error_class in LOST)
    if lost["connect"]:
        return [f"server_restarted: {counted(lost.total(), 'request')} found no server, then one answered again"]
    return [f"server_hung_up: on {counted(lost.total(), 'request')}, then it answered again"] if lost else []


def _models(samples: Sequence[Sample]) -> list[str]:
    """All model names that the server reported, in order."""
    return list(dict.fromkeys(str(sample.model) for sample in samples if sample.model is not None))


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _tokens_per_s(samples: Sequence[Sample]) -> float | None:
    """Median of completion tokens over total latency: what a caller gets, including prefill."""
    rates = _known(sample.tokens_per_s for sample in samples)
    return stats.rounded(statistics.median(rates), 2) if rates else None


def _cache(samples: Sequence[Sample], asked: bool) -> Cache:
    counts = [sample.cache_n for sample in samples if sample.cache_n is not None]
    hits = sum(count > 0 for count in counts)
    return Cache(
        asked=asked,
        hits=hits if counts else None,
        max_cache_n=max(counts, default=None),
        as_asked=(hits > 0 if asked else hits == 0) if counts else None,
    )


def _cached_tokens(samples: Sequence[Sample]) -> int | None:
    counts = [sample.cache_n for sample in samples if sample.cache_n is not None]
    return sum(counts) if counts else None


def _request(models: list[str], written: Request | None) -> Request | None:
    """What was asked, and which model answered. The client's own record applies if the samples do not name models."""
    if written is None:
        return Request(None, None, None, models) if models else None
    return replace(written, models=models) if models else written


def by_question(samples: Iterable[Sample]) -> dict[str | None, list[Sample]]:
    """The samples of each question, in the order first asked; those that we ended ourselves are left out."""
    found: dict[str | None, list[Sample]] = {}
    for sample in samples:
        if sample.error_class != "cut_off":
            found.setdefault(sample.scene, []).append(sample)
    return found


def questions(samples: Iterable[Sample]) -> Questions:
    """What was asked, and how alike the replies are."""
    asked = by_question(samples)
    replies = [Counter(str(sample.content) for sample in one if sample.ok) for one in asked.values()]
    pairs = sum(texts.total() * (texts.total() - 1) for texts in replies)
    same = sum(count * (count - 1) for texts in replies for count in texts.values())
    return Questions(
        asked=len(asked),
        repeats=max(map(len, asked.values()), default=0),
        distinct_replies=len(set().union(*replies)),
        repeatability=round(same / pairs, 6) if pairs else None,
    )


def _adherence(samples: Sequence[Sample], cut_off: int) -> Adherence:
    cut = sum(sample.ok and sample.cut for sample in samples)
    by = Counter(sample.strategy for sample in samples if not (sample.ok and sample.cut))
    counted = stats.share([(sum(one.adherent for one in asked), len(asked)) for asked in by_question(samples).values()])
    return Adherence(
        k=counted.k,
        n=counted.n,
        share=_rounded(counted.share),
        questions=counted.questions,
        effective_n=_rounded(counted.effective_n),
        low=_rounded(counted.low),
        high=_rounded(counted.high),
        one_sided_low=_rounded(counted.one_sided_low),
        one_sided_high=_rounded(counted.one_sided_high),
        strategies={"1": by[1], "2": by[2], "3": by[3], "none": by[None] - cut_off, "cut": cut},
        threshold=stats.threshold(counted, ADHERENCE_LIMIT),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
