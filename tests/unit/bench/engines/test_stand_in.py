"""The stand-in behaves as the binary of gemma.cpp was seen to, byte for byte; the live suite asks the binary itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ask = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def ask(stand_in: Path, weights: Path) -> Ask:
    """Runs it with `arguments`, after weights that tell it what to do."""

    def run(*arguments: str, **what: Any) -> subprocess.CompletedProcess[bytes]:
        weights.write_text(json.dumps(what), encoding="utf-8")
        command = [str(stand_in), "--weights", str(weights), *arguments]
        return subprocess.run(command, capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL)

    return run


def test_dots_a_blank_line_the_reply_a_blank_line(ask: Ask) -> None:
    loud = ask("--prompt", "one two three", text="hello there")
    assert loud.returncode == 0
    # The prompt's tokens and the one that begins the sequence.
    assert loud.stdout == b"....\n\nhello there\n\n"
    assert ask("--prompt", "one two three", "--verbosity", "0", text="hello there").stdout == b"hello there\n\n"
    assert b"Timing" not in ask("--prompt", "x", "--verbosity", "0").stderr
    lines = re.findall(rb"^\[ Timing info \] (.*)$", loud.stderr, re.MULTILINE)
    prefill = rb"Prefill: \d+ ms for 3 prompt tokens \(\d+\.\d\d tokens / sec\); Time to first token: \d+ ms"
    assert re.fullmatch(prefill, lines[0])
    assert re.fullmatch(rb"Generate: \d+ ms for \d+ tokens \(\d+\.\d\d tokens / sec\)", lines[1])
    # Its first word has no blanks before it; a reply that is none leaves the frame empty.
    assert ask("--prompt", "x", text="  hi").stdout == b"..\n\nhi\n\n"
    assert ask("--prompt", "x", text="").stdout == b"..\n\n"


def test_two_or_three_bytes_at_a_time_one_flush_each(stand_in: Path, weights: Path) -> None:
    weights.write_text('{"text": "some words and ñ more", "rate_hz": 100}', encoding="utf-8")
    command = [str(stand_in), "--weights", str(weights), "--prompt", "x", "--verbosity", "0"]
    pieces = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout is not None
        while piece := child.stdout.read(4096):
            pieces.append(piece)
    # On a busy machine two may arrive as one; none is cut.
    assert 1 < len(pieces) <= 12
    assert all(piece.decode() for piece in pieces)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "x", "--weights"], b"Missing value for weights"),
        (["--prompt", "x", "--top_k", "few"], b"std::invalid_argument'\n  what():  stoi"),
        (["--prompt", "x", "--temperature", "warm"], b"what():  stof"),
        (["--prompt", "x", "--deterministic", "2"], b"Invalid value for deterministic, got 2"),
        (["--prompt_file", "/nowhere/prompt"], b"Failed to open /nowhere/prompt"),
        (["--prompt", "a b c d e f g", "--seq_len", "8"], b"max_prompt_size = 8, increase --seq_len"),
    ],
)
def test_every_failure_is_an_abort(ask: Ask, arguments: list[str], words: bytes) -> None:
    done = ask(*arguments)
    assert done.returncode == -signal.SIGABRT
    assert words in done.stderr
    assert done.stdout == b""


def test_weights_that_are_missing_or_damaged(stand_in: Path, weights: Path) -> None:
    for text, words in ((None, b"Failed to open"), ("no weights", b"Failed to read BlobStore header")):
        weights.unlink()
        if text is not None:
            weights.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [stand_in, "--weights", weights, "--prompt", "x"], capture_output=True, timeout=30, check=False
        )
        assert done.returncode == -signal.SIGABRT
        assert words in done.stderr
        weights.touch()


def test_unknown_flags_are_passed_over_and_a_prompt_may_be_taken_for_a_flag(ask: Ask) -> None:
    assert ask("--prompt", "x", "--timeout", "5", "--seed", "1").returncode == 0
    # The prompt `--top_k` stands before a flag, which is no number.
    taken = ask("--prompt", "--top_k", "--verbosity", "0")
    assert taken.returncode == -signal.SIGABRT
    assert b"stoi" in taken.stderr
    assert b"--weights" in ask("--help").stderr


def test_corrupt_weights_exit_0_with_another_text(ask: Ask) -> None:
    good, bad = ask("--prompt", "x", text="hello"), ask("--prompt", "x", text="hello", corrupt=True)
    assert (good.returncode, bad.returncode) == (0, 0)
    assert good.stdout != bad.stdout
    nothing = ask("--prompt", "x", empty=True)
    assert (nothing.returncode, nothing.stdout) == (0, b"")


def test_end_and_limit_look_the_same_but_for_the_count(ask: Ask) -> None:
    cut = ask("--prompt", "x", "--max_generated_tokens", "2", "--verbosity", "0", text="some words")
    assert cut.returncode == 0
    assert cut.stdout.endswith(b"\n\n")
    assert b"some words".startswith(cut.stdout.removesuffix(b"\n\n"))
    full = ask("--prompt", "a b c", "--seq_len", "6", text="some words")
    assert b"prefill 4 + max_gen_steps 4096 > seq_len 6, truncating" in full.stderr
    assert b"for 2 tokens" in full.stderr


def test_greedy_repeats_and_so_does_sampling_when_it_is_deterministic(ask: Ask) -> None:
    for flags in (["--top_k", "1"], ["--top_k", "40", "--deterministic", "1"]):
        assert ask("--prompt", "x", *flags).stdout == ask("--prompt", "x", *flags).stdout


def test_a_reader_that_is_gone_ends_it_at_the_next_token(stand_in: Path, weights: Path) -> None:
    weights.write_text('{"tokens": 5000, "rate_hz": 50}', encoding="utf-8")
    command = [str(stand_in), "--weights", str(weights), "--prompt", "x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        child.stdout.close()
        assert child.wait(30) == -signal.SIGPIPE
