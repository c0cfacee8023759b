"""The real gemma.cpp, where there is one: `GEMMA_CPP_BINARY`, `GEMMA_CPP_WEIGHTS`, optional `GEMMA_CPP_TOKENIZER`.

What the stand-in claims about the binary is checked here against the binary itself. Without the two variables every
test says that it was skipped. `GEMMA_CPP_FORMAT` (f32, bf16, sfp, i8, nuq) declares the weights' format.

Nothing is assumed of the model: the smallest may answer with nothing, with bytes that are no text, or be through within
a millisecond. Nothing is assumed of the machine either: where something has to be slow, it is stopped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from trialbench.cli import main
from trialbench.engines import proc
from trialbench.engines.contract import (
    Constraint,
    Deadlines,
    Done,
    Event,
    Failed,
    Generation,
    Refused,
    Request,
    Token,
)
from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions, GemmaText, _environment
from trialbench.engines.process import ProcessGeneration, classify
from trialbench.engines.supervisor import Command, Ending

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
            Path(os.environ[NEEDED[0]]).absolute(),
            Path(os.environ[NEEDED[1]]).absolute(),
            tokenizer=Path(tokenizer).absolute() if tokenizer else None,
            weight_format=os.environ.get("GEMMA_CPP_FORMAT"),
            scratch=tmp_path,
        )
    )
    yield engine
    engine.close()
    # Whatever the test did: no process, no prompt is left. Orphans would be our children: we are their subreaper.
    needle = f"{proc.BRAND}=".encode()
    ours = [one.pid for one in proc.table() if one.parent == os.getpid()]
    assert [pid for pid in ours if needle in proc._environment(pid)] == []
    assert not list(tmp_path.glob("trialbench-gemma-*"))


def outcome(generation: Generation) -> tuple[str, Event]:
    """The text of all tokens, and the last event."""
    events = list(generation.events())
    return "".join(event.text for event in events if isinstance(event, Token)), events[-1]


def answered(generation: Generation) -> str:
    """The text of a complete reply, whatever the model says."""
    text, last = outcome(generation)
    if isinstance(last, Failed):
        assert last.failure.failure_class.name in ("empty_output", "replacement_characters"), last
    assert generation.result().clean
    return text


def failure_of(generation: Generation) -> str:
    _, last = outcome(generation)
    assert isinstance(last, Failed), last
    return last.failure.failure_class.name


def plain(gemma: GemmaCpp, *more: str) -> tuple[str, Ending]:
    """The binary under the supervisor with a command line of its own."""
    files = ["--weights", str(gemma.options.weights)]
    if gemma.options.tokenizer is not None:
        files += ["--tokenizer", str(gemma.options.tokenizer)]
    command = Command([str(gemma.options.binary), *files, *more], _environment())
    running = gemma.supervisor.spawn(command, PATIENCE, GemmaText())
    text = "".join(text for text, _ in running.chunks())
    assert running.ending is not None
    return text, running.ending


def stop(generation: Generation) -> None:
    """Have it say nothing more, however quick it is."""
    assert isinstance(generation, ProcessGeneration)
    os.killpg(generation.pid, signal.SIGSTOP)


def test_probe(gemma: GemmaCpp) -> None:
    probe = gemma.probe()
    assert probe.failure is None
    assert probe.usable
    assert set(probe.hashes) >= {"binary", "weights"}
    assert not probe.constrained_decoding
    print(probe.as_dict())


def test_a_greedy_reply_and_its_repetition(gemma: GemmaCpp) -> None:
    request = Request(prompt="Name three colors.", max_tokens=24, temperature=0, deadlines=PATIENCE)
    generation = gemma.start(request)
    text = answered(generation)
    result = generation.result()
    assert result.failure is not None or result.finish_reason in ("stop", "length")
    assert result.usage.prompt_tokens
    assert result.usage.completion_tokens
    assert result.usage.completion_tokens <= 24
    # A token may reach us together with its neighbor, never in parts.
    assert result.usage.chunks <= result.usage.completion_tokens + 1
    # None: gone before anybody could look. With weights larger than we are the kernel says it afterwards.
    assert result.peak_mib is None or result.peak_mib > 1
    assert result.peak_mib is not None or gemma.options.weights.stat().st_size < 256 << 20
    print(result.as_dict())
    assert answered(gemma.start(request)) == text


def test_the_reply_is_what_the_binary_prints_without_a_frame(gemma: GemmaCpp, tmp_path: Path) -> None:
    """With verbosity 0 it prints the reply and a blank line; with 1, dots and a blank line before it."""
    prompt = tmp_path / "asked"
    prompt.write_text("Name three colors.", encoding="utf-8")
    request = Request(prompt=prompt.read_text(encoding="utf-8"), max_tokens=24, temperature=0, deadlines=PATIENCE)
    text = answered(gemma.start(request))
    for verbosity, frame in ((0, rb"(.*)\n\n"), (1, rb"\.+\n\n(?:(.*)\n\n)?")):
        argv = gemma._arguments(request, prompt)
        argv[argv.index("--verbosity") + 1] = str(verbosity)
        ran = subprocess.run(argv, env=_environment(), capture_output=True, check=True, timeout=PATIENCE.total_s)
        found = re.fullmatch(frame, ran.stdout, re.DOTALL)
        assert found is not None, ran.stdout
        assert (found[1] or b"").decode("utf-8", "replace") == text
        assert (b"[ Timing info ] Generate: " in ran.stderr) == (verbosity == 1)


def test_sampling_repeats_when_it_is_deterministic(gemma: GemmaCpp) -> None:
    request = Request(
        prompt="Invent a name.", max_tokens=16, top_k=40, temperature=1.0, deterministic=True, deadlines=PATIENCE
    )
    assert answered(gemma.start(request)) == answered(gemma.start(request))


@pytest.mark.parametrize("limit", [1, 8])
def test_the_limit_of_tokens_is_kept_and_told(gemma: GemmaCpp, limit: int) -> None:
    generation = gemma.start(Request(prompt=STORY, max_tokens=limit, deadlines=PATIENCE))
    answered(generation)
    result = generation.result()
    assert result.usage.completion_tokens is not None
    # Whatever the model does, the first token is the last one where one is allowed.
    assert 1 <= result.usage.completion_tokens <= limit
    if result.failure is None:
        assert (result.finish_reason == "length") == (result.usage.completion_tokens == limit)


@pytest.mark.parametrize("prompt", ["--weights", "--help", "-", "%q", "a\nb\n\nc", "ñ 漢字 🙂"])
def test_prompts_that_would_confuse_a_command_line(gemma: GemmaCpp, prompt: str) -> None:
    generation = gemma.start(Request(prompt=prompt, max_tokens=8, deadlines=PATIENCE))
    # What it answers is its own business, as long as it was asked.
    answered(generation)
    assert generation.result().usage.prompt_tokens


def test_cancel_twenty_times(gemma: GemmaCpp) -> None:
    quiet = []
    for number in range(20):
        # Before its first token, and after one to four; a quick model may be through by then.
        after = number % 5
        generation = gemma.start(Request(prompt=STORY, max_tokens=2000, deadlines=PATIENCE))
        tokens = 0
        for event in generation.events():
            tokens += isinstance(event, Token)
            if tokens == after and not isinstance(event, Done | Failed):
                generation.cancel()
        result = generation.result()
        assert result.clean
        if after == 0:
            assert result.finish_reason == "cancelled"
        if result.finish_reason == "cancelled":
            assert result.failure is None
            assert result.quiet_ms is not None
            quiet.append(result.quiet_ms)
    median_ms = sorted(quiet)[len(quiet) // 2]
    print(f"{len(quiet)} canceled; time to quiet ms: median {median_ms:.0f}, most {max(quiet):.0f}")
    # SIGTERM is enough for it: nobody had to wait for the grace of 2 s and SIGKILL.
    assert median_ms < 2000
    answered(gemma.start(Request(prompt="Hello", max_tokens=4, deadlines=PATIENCE)))


def test_the_deadline_of_the_first_token(gemma: GemmaCpp) -> None:
    generation = gemma.start(Request(prompt=STORY, deadlines=Deadlines(first_s=0.5, total_s=300.0)))
    stop(generation)
    assert failure_of(generation) == "timeout"
    result = generation.result()
    assert result.failure is not None
    assert result.failure.detail == "no first token within 0.5 s"
    assert result.clean


def test_the_total_deadline(gemma: GemmaCpp) -> None:
    generation = gemma.start(Request(prompt=STORY, max_tokens=4000, deadlines=Deadlines(total_s=1.0)))
    stop(generation)
    assert failure_of(generation) == "timeout"
    result = generation.result()
    assert result.failure is not None
    assert result.failure.detail == "not complete within 1 s"
    assert result.clean


def test_a_prompt_that_does_not_fit(gemma: GemmaCpp) -> None:
    gemma.options = replace(gemma.options, seq_len=64)
    assert failure_of(gemma.start(Request(prompt="word " * 500, deadlines=PATIENCE))) == "prompt_too_long"


def test_a_full_context_ends_the_reply(gemma: GemmaCpp) -> None:
    gemma.options = replace(gemma.options, seq_len=128)
    generation = gemma.start(Request(prompt="Count to one thousand.", max_tokens=1000, deadlines=PATIENCE))
    answered(generation)
    result = generation.result()
    assert result.usage.prompt_tokens is not None
    assert result.usage.completion_tokens is not None
    used = result.usage.prompt_tokens + result.usage.completion_tokens
    # The token that ends the prompt takes a place and is not reported.
    assert used <= 127
    if result.failure is None and used == 127:
        assert result.finish_reason == "length"


@pytest.mark.parametrize(
    ("arguments", "words", "name"),
    [
        (["--prompt", "x", "--max_generated_tokens", "many"], "stoi", "bad_arguments"),
        (["--prompt", "x", "--temperature"], "Missing value", "bad_arguments"),
        (["--prompt", "x", "--weights", "/nowhere/none.sbs"], "Failed to open", "bad_weights"),
    ],
)
def test_every_failure_is_an_abort_and_its_words_tell_which(
    gemma: GemmaCpp, arguments: list[str], words: str, name: str
) -> None:
    if "--weights" in arguments:
        gemma.options = replace(gemma.options, weights=Path("/nowhere/none.sbs"))
        arguments = arguments[:2]
    text, ending = plain(gemma, *arguments)
    assert ending.status == -signal.SIGABRT
    assert words in ending.errors
    failure = classify(ending, text, PATIENCE)
    assert failure is not None
    assert failure.failure_class.name == name


def test_a_flag_that_it_does_not_know_is_passed_over(gemma: GemmaCpp) -> None:
    _, ending = plain(gemma, "--prompt", "x", "--max_generated_tokens", "2", "--no_such_flag", "1")
    assert ending.status == 0


def test_weights_that_are_none(gemma: GemmaCpp, tmp_path: Path) -> None:
    bad = tmp_path / "bad.sbs"
    bad.write_bytes(b"no weights at all" * 1000)
    gemma.options = replace(gemma.options, weights=bad)
    assert failure_of(gemma.start(Request(prompt="x", deadlines=PATIENCE))) in (
        "bad_weights",
        "unknown_abort",
        "crashed",
    )
    gemma.options = replace(gemma.options, weights=tmp_path / "none.sbs")
    assert failure_of(gemma.start(Request(prompt="x", deadlines=PATIENCE))) == "bad_weights"


def test_damaged_weights_are_found_by_their_hash_alone(gemma: GemmaCpp, tmp_path: Path) -> None:
    """The binary itself exits 0 with another text."""
    good = gemma.probe().hashes["weights"]
    copy = tmp_path / "copy.sbs"
    shutil.copyfile(gemma.options.weights, copy)
    gemma.options = replace(gemma.options, weights=copy, weights_sha256=good)
    answered(gemma.start(Request(prompt="x", max_tokens=4, deadlines=PATIENCE)))
    with copy.open("r+b") as stream:
        stream.seek(copy.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 0xFF]))
    assert failure_of(gemma.start(Request(prompt="x", max_tokens=4, deadlines=PATIENCE))) == "bad_weights"


def test_a_constraint_is_refused_by_name(gemma: GemmaCpp) -> None:
    with pytest.raises(Refused, match="does not support constrained decoding by grammar"):
        gemma.start(Request(prompt="x", constraint=Constraint(grammar="root ::= [0-9]")))


def test_a_crowd_leaves_no_descriptor_behind(gemma: GemmaCpp) -> None:
    answered(gemma.start(Request(prompt="first", max_tokens=2, deadlines=PATIENCE)))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        answered(gemma.start(Request(prompt="again", max_tokens=2, deadlines=PATIENCE)))
    assert len(os.listdir("/proc/self/fd")) == before
    assert gemma.supervisor.running == 0


def test_the_worker_and_the_command(gemma: GemmaCpp, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same through `trialbench oneshot` and through a worker on its standard input and output."""
    options = gemma.options
    engine = ["--engine", "gemma-cpp", "--binary", str(options.binary), "--weights", str(options.weights)]
    if options.tokenizer is not None:
        engine += ["--tokenizer", str(options.tokenizer)]
    text = answered(gemma.start(Request(prompt="Name a fruit.", max_tokens=8, temperature=0, deadlines=PATIENCE)))
    asked = ["--max-tokens", "8", "--temperature", "0", "--timeout", "300", "Name a fruit."]
    assert main(["oneshot", *engine, *asked]) in (0, 3)
    assert capfd.readouterr().out == text
    patience = dict.fromkeys(("timeout_s", "first_token_timeout_s", "token_timeout_s"), PATIENCE.total_s)
    lines = [
        {"type": "status"},
        {"type": "generate", "id": 1, "prompt": "Name a fruit.", "max_tokens": 8, "temperature": 0, **patience},
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "trialbench.verbs.worker", "worker", *engine],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE.total_s,
    )
    replies = [json.loads(line) for line in ran.stdout.splitlines()]
    assert replies[0]["model_info"]["usable"]
    assert "".join(one["text"] for one in replies if one["type"] == "token") == text
    assert [one["type"] for one in replies[1:]].count("done") + (replies[-1]["type"] == "error") == 1
    assert replies[-1]["source"] == "gemma_local"
