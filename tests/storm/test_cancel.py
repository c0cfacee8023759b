"""The cancel storm: generations canceled at random moments. Nothing hangs, nothing stays, and the next one answers.

Processes are the stand-in's, some of which ignore SIGTERM or leave children that do; the server is a real llama-server.
`MT_STORM_SEED` repeats a run; the figures go to build/storm.json. `MT_SLACK=3` is for a machine that is not idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.engines import proc
from trialbench.engines.contract import Deadlines, Done, Engine, Failed, Request, Result, Token
from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions
from trialbench.engines.llama.slots import Slots
from trialbench.engines.openai import EndpointOptions, LlamaServer
from trialbench.engines.supervisor import Bounds, Supervisor
from trialbench.files import write_json

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "fixtures" / "engines" / "gemma"
SEED = int(os.environ.get("MT_STORM_SEED", str(random.SystemRandom().randrange(1 << 31))))
TOTAL, IGNORING, SERVER = 500, 50, 150
AT_ONCE = 4
GRACE_S = 2.0
# What may be missed beyond the physical by this factor, on a machine that is shared with others (`make test`).
SLACK = float(os.environ.get("MT_SLACK", "1"))
QUIET_S, QUIET_IGNORING_S = 0.5 * SLACK, GRACE_S + 0.5 * SLACK
# No generation may take longer, whatever happens to it: this is what a hang is measured against.
HANG_S = 30.0
LONG = {"rate_hz": 100, "tokens": 3000}


@dataclass(frozen=True)
class Shot:
    """One generation and the moment of its cancel, in seconds after its start, or after its first token."""

    kind: str
    engine: Engine
    request: Request
    after_s: float
    after_token: bool = False


@dataclass(frozen=True)
class Hit:
    """Its outcome."""

    kind: str
    result: Result
    ends: int
    took_s: float


def fire(shot: Shot) -> Hit:
    began_s = time.monotonic()
    generation = shot.engine.start(shot.request)
    timer = threading.Timer(shot.after_s, generation.cancel)
    if not shot.after_token:
        timer.start()
    ends = 0
    for event in generation.events():
        assert ends == 0, "an event after the end"
        ends += isinstance(event, Done | Failed)
        if shot.after_token and isinstance(event, Token) and timer.ident is None:
            timer.start()
    timer.cancel()
    if timer.ident is not None:
        timer.join()
    return Hit(shot.kind, generation.result(), ends, time.monotonic() - began_s)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def left() -> list[proc.Process]:
    """Every process of ours that has a generation's brand or is dead. Orphans are ours too: we are their subreaper."""
    needle = f"{proc.BRAND}=".encode()
    ours = [one for one in proc.table() if one.parent == os.getpid()]
    return [one for one in ours if one.dead or needle in proc._environment(one.pid)]


def figures(hits: Sequence[Hit]) -> dict[str, Any]:
    quiet = [hit.result.quiet_ms for hit in hits if hit.result.quiet_ms is not None]
    return {
        "n": len(hits),
        "cancelled": sum(hit.result.finish_reason == "cancelled" for hit in hits),
        "before_first_token": sum(hit.result.first_token_s is None for hit in hits),
        "quiet_ms": {name: round(percentile(quiet, share), 1) for name, share in (("p50", 0.5), ("p99", 0.99))},
        "quiet_max_ms": max(quiet),
        "longest_s": round(max(hit.took_s for hit in hits), 3),
        "killed": sum(hit.result.facts.get("escalated", False) for hit in hits),
    }


def test_five_hundred_cancels(tmp_path: Path, llama_url: str) -> None:
    draw = random.Random(SEED)
    weights = tmp_path / "weights.sbs"
    weights.write_text(json.dumps(LONG), encoding="utf-8")
    supervisor = Supervisor(Bounds(grace_s=GRACE_S))
    gemma = GemmaCpp(GemmaOptions(STAND_IN, weights, scratch=tmp_path), supervisor)
    llama = LlamaServer(EndpointOptions(llama_url))
    ask = {"gemma": gemma, "llama": llama}
    behave: dict[str, Callable[[], Shot]] = {
        "ignores": lambda: _shot("ignores", gemma, {"ignore_term": True}, draw),
        "quiet": lambda: _shot("quiet", gemma, draw.choice(({}, {"split": True}, {"stall_after": 5})), draw),
        "children": lambda: _shot("children", gemma, {"child": draw.choice(("group", "session"))}, draw),
        "server": lambda: Shot("server", llama, _server_request(), draw.uniform(0, 0.3)),
    }
    kinds = ["ignores"] * IGNORING + ["server"] * SERVER + ["children"] * 50
    kinds += ["quiet"] * (TOTAL - len(kinds))
    draw.shuffle(kinds)
    shots = [behave[kind]() for kind in kinds]
    # Once each, so that what is opened on first use does not count as a leak.
    for engine in ask.values():
        assert engine.start(Request(prompt="first", max_tokens=5)).result().clean
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    began_s = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        hits = list(pool.map(fire, shots, timeout=280))
    took_s = time.monotonic() - began_s
    by_kind = {kind: [hit for hit in hits if hit.kind == kind] for kind in behave}
    report = {"seed": SEED, "took_s": round(took_s, 1)}
    report |= {kind: figures(of_kind) for kind, of_kind in by_kind.items()}
    (ROOT / "build").mkdir(exist_ok=True)
    write_json(ROOT / "build" / "storm.json", report)
    print(json.dumps(report, indent=2))
    assert len(hits) == TOTAL
    assert all(hit.ends == 1 for hit in hits), f"seed {SEED}: not exactly one end"
    failed = [hit.result.failure for hit in hits if hit.result.finish_reason != "cancelled"]
    # A reply may have been complete before its cancel; none may have failed.
    assert not [failure for failure in failed if failure is not None], f"seed {SEED}: {failed}"
    assert all(hit.took_s < HANG_S for hit in hits), f"seed {SEED}: a hang"
    dirty = [(hit.kind, hit.result.facts) for hit in hits if not hit.result.clean]
    assert not dirty, f"seed {SEED}: not proved quiet: {dirty}"
    assert left() == [], f"seed {SEED}: orphans"
    assert supervisor.running == 0
    with contextlib.closing(Slots(llama_url)) as slots:
        assert slots.look(1.0).busy == 0
    assert [path.name for path in tmp_path.iterdir()] == ["weights.sbs"]
    for engine in ask.values():
        answer = engine.start(Request(prompt="and next", max_tokens=5)).result()
        assert answer.failure is None, f"seed {SEED}: the next request does not answer"
    assert len(os.listdir("/proc/self/fd")) == before, f"seed {SEED}: descriptors leak"
    # The timers of the last generation have been told to end, and may just be doing so.
    until_s = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < until_s:
        time.sleep(0.01)
    assert threading.active_count() <= threads, f"seed {SEED}: threads leak"
    supervisor.close()
    quick = [hit.result.quiet_ms or 0.0 for kind in ("quiet", "children", "server") for hit in by_kind[kind]]
    stubborn = [hit.result.quiet_ms or 0.0 for hit in by_kind["ignores"]]
    assert percentile(quick, 0.99) < QUIET_S * 1000
    assert percentile(stubborn, 0.99) < QUIET_IGNORING_S * 1000


def _shot(kind: str, engine: Engine, does: dict[str, Any], draw: random.Random) -> Shot:
    # From before its interpreter runs until well into the reply; who is to ignore SIGTERM needs the time to begin so.
    prompt = f"#stand-in {json.dumps({**LONG, **does})}\ntell me"
    request = Request(prompt=prompt, max_tokens=4000)
    return Shot(kind, engine, request, draw.uniform(0, 0.4), after_token="ignore_term" in does)


def _server_request() -> Request:
    return Request(
        prompt="Describe what you see.", max_tokens=4000, deadlines=Deadlines(total_s=60), extra={"ignore_eos": True}
    )
