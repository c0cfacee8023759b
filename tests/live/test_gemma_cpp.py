"""The real gemma.cpp, where there is one: `GEMMA_CPP_BINARY`, `GEMMA_CPP_WEIGHTS`, optional `GEMMA_CPP_TOKENIZER`.

What the stand-in claims about the binary is checked here against the binary itself. Without the two variables every
test says that it was skipped. `GEMMA_CPP_FORMAT` (f32, bf16, sfp, i8, nuq) declares the weights' format.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from trialbench.engines import proc
from trialbench.engines.contract import Deadlines, Done, Event, Failed, Generation, Token, Trial
from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions

NEEDED = ("GEMMA_CPP_BINARY", "GEMMA_CPP_WEIGHTS")
MISSING = [name for name in NEEDED if not os.environ.get(name)]
STORY = "Tell me a very long story about a lighthouse, a storm and a ship. Write as much as you can."
# Loading takes its time on a cold disk.
PATIENCE = Deadlines(total_s=300.0)

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(MISSING), reason=f"the real gemma.cpp is not here: set {' and '.join(MISSING)}"),
]


@pytest.fixture
def gemma(tmp_path: Path) -> Iterator[GemmaCpp]:
    tokenizer = os.environ.get("GEMMA_CPP_TOKENIZER")
    engine = GemmaCpp(
        GemmaOptions(
            Path(os.environ[NEEDED[0]]),
            Path(os.environ[NEEDED[1]]),
            tokenizer=Path(tokenizer) if tokenizer else None,
            weight_format=os.environ.get("GEMMA_CPP_FORMAT"),
            scratch=tmp_path,
        )
    )
    yield engine
    engine.close()
    # Whatever the test did: no process, no prompt is left. Orphans would be our children: we are their subreaper.
    needle = f"{proc.MARK}=".encode()
    ours = [one.pid for one in proc.table() if one.parent == os.getpid()]
    assert [pid for pid in ours if needle in proc._environment(pid)] == []
    assert not list(tmp_path.glob("trialbench-gemma-*"))


def outcome(generation: Generation) -> tuple[str, Event]:
    """The text of all tokens, and the last event."""
    events = list(generation.events())
    return "".join(event.text for event in events if isinstance(event, Token)), events[-1]


def failure_of(generation: Generation) -> str:
    _, last = outcome(generation)
    assert isinstance(last, Failed), last
    return last.failure.failure_class.name


def test_probe(gemma: GemmaCpp) -> None:
    probe = gemma.probe()
    assert probe.failure is None
    assert probe.usable
    assert set(probe.hashes) >= {"binary", "weights"}
    assert not probe.constrained_decoding
    print(probe.as_dict())


def test_a_greedy_reply_and_its_repetition(gemma: GemmaCpp) -> None:
    trial = Trial(prompt="Name three colours.", max_tokens=24, temperature=0, deadlines=PATIENCE)
    generation = gemma.start(trial)
    text, last = outcome(generation)
    assert isinstance(last, Done), last
    assert text.strip()
    assert not text.startswith(".."), "dots of the prefill in the reply"
    assert not text.endswith("\n\n"), "the binary's own blank line in the reply"
    result = generation.result()
    assert result.finish_reason in ("stop", "length")
    assert result.usage.prompt_tokens
    assert result.usage.completion_tokens
    assert result.usage.completion_tokens <= 24
    # A token may reach us together with its neighbour, never in parts.
    assert result.usage.chunks <= result.usage.completion_tokens + 1
    assert result.peak_mib is not None
    assert result.peak_mib > 50
    print(result.as_dict())
    assert outcome(gemma.start(trial))[0] == text


def test_sampling_repeats_when_it_is_deterministic(gemma: GemmaCpp) -> None:
    trial = Trial(
        prompt="Invent a name.", max_tokens=16, top_k=40, temperature=1.0, deterministic=True, deadlines=PATIENCE
    )
    assert outcome(gemma.start(trial))[0] == outcome(gemma.start(trial))[0]


def test_the_limit_of_tokens_is_kept_and_told(gemma: GemmaCpp) -> None:
    generation = gemma.start(Trial(prompt=STORY, max_tokens=8, deadlines=PATIENCE))
    outcome(generation)
    result = generation.result()
    assert result.finish_reason == "length"
    assert result.usage.completion_tokens == 8


@pytest.mark.parametrize("prompt", ["--weights", "--help", "-", "%q", "a\nb\n\nc", "ñ 漢字 🙂"])
def test_prompts_that_would_confuse_a_command_line(gemma: GemmaCpp, prompt: str) -> None:
    generation = gemma.start(Trial(prompt=prompt, max_tokens=8, deadlines=PATIENCE))
    _, last = outcome(generation)
    # What it answers is its own business, as long as it was asked.
    assert isinstance(last, Done) or last.failure.failure_class.kind == "indeterminate", last
    assert generation.result().usage.prompt_tokens


def test_cancel_mid_stream_twenty_times(gemma: GemmaCpp) -> None:
    quiet = []
    for number in range(20):
        generation = gemma.start(Trial(prompt=STORY, max_tokens=2000, deadlines=PATIENCE))
        tokens = 0
        for event in generation.events():
            tokens += isinstance(event, Token)
            if tokens == 1 + number % 5:
                generation.cancel()
        result = generation.result()
        assert result.finish_reason == "cancelled"
        assert result.clean
        assert result.quiet_ms is not None
        quiet.append(result.quiet_ms)
    print(f"time to quiet ms: median {sorted(quiet)[10]:.0f}, longest {max(quiet):.0f}")
    assert max(quiet) < 2500
    assert outcome(gemma.start(Trial(prompt="Hello", max_tokens=4, deadlines=PATIENCE)))[0].strip()


def test_deadlines(gemma: GemmaCpp) -> None:
    assert failure_of(gemma.start(Trial(prompt=STORY, deadlines=Deadlines(first_s=0.001)))) == "timeout"
    began_s = time.monotonic()
    generation = gemma.start(Trial(prompt=STORY, max_tokens=4000, deadlines=Deadlines(total_s=1.0)))
    outcome(generation)
    assert time.monotonic() - began_s < 1.0 + 2.0 + 5.0
    assert generation.result().clean


def test_a_prompt_that_does_not_fit(gemma: GemmaCpp) -> None:
    gemma.options = replace(gemma.options, seq_len=64)
    assert failure_of(gemma.start(Trial(prompt="word " * 500, deadlines=PATIENCE))) == "prompt_too_long"


def test_weights_that_are_none(gemma: GemmaCpp, tmp_path: Path) -> None:
    bad = tmp_path / "bad.sbs"
    bad.write_bytes(b"no weights at all" * 1000)
    gemma.options = replace(gemma.options, weights=bad)
    assert failure_of(gemma.start(Trial(prompt="x", deadlines=PATIENCE))) in ("bad_weights", "unknown_abort")
    gemma.options = replace(gemma.options, weights=tmp_path / "none.sbs")
    assert failure_of(gemma.start(Trial(prompt="x", deadlines=PATIENCE))) == "bad_weights"


def test_damaged_weights_are_found_by_their_hash_alone(gemma: GemmaCpp, tmp_path: Path) -> None:
    """The binary itself exits 0 with another text."""
    good = gemma.probe().hashes["weights"]
    copy = tmp_path / "copy.sbs"
    shutil.copyfile(gemma.options.weights, copy)
    gemma.options = replace(gemma.options, weights=copy, weights_sha256=good)
    assert gemma.start(Trial(prompt="x", max_tokens=4, deadlines=PATIENCE)).result().text
    with copy.open("r+b") as stream:
        stream.seek(copy.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 0xFF]))
    assert failure_of(gemma.start(Trial(prompt="x", max_tokens=4, deadlines=PATIENCE))) == "bad_weights"
