"""The adapter of gemma.cpp against the stand-in, which behaves as the real binary was seen to behave."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench.engines.contract import Constraint, Deadlines, Done, Failed, Refused, Request, Started, Token
from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions, GemmaText, _told
from trialbench.engines.hashing import Hashes
from trialbench.engines.memory import LeakWatch
from trialbench.engines.supervisor import Bounds, Supervisor

Does = Callable[..., str]


def test_a_reply_event_by_event(gemma: GemmaCpp) -> None:
    generation = gemma.start(Request(prompt="tell me more", max_tokens=5))
    events = list(generation.events())
    assert isinstance(events[0], Started)
    assert all(isinstance(event, Token) and event.text for event in events[1:-1])
    last = events[-1]
    assert isinstance(last, Done)
    assert last.finish_reason == "length"
    result = generation.result()
    assert result.text == "w0 w1 w2 w3 w"[: len(result.text)]
    assert result.text == "".join(event.text for event in events if isinstance(event, Token))
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 5)
    assert result.label.as_dict() == {"source": "gemma_local", "model": "gemma2-2b-it", "bits": 8}
    assert result.clean
    assert result.ttft_ms is not None
    assert result.facts["engine_ttft_ms"] >= 0


def test_end_and_limit_are_told_apart_by_the_count(gemma: GemmaCpp, does: Does) -> None:
    assert gemma.start(Request(prompt=does(text="short"))).result().finish_reason == "stop"
    # Its end is a token too: where that is the last one allowed, nobody can tell.
    long = does(tokens=6)
    counts = {limit: gemma.start(Request(prompt=long, max_tokens=limit)).result() for limit in (5, 8)}
    assert [(one.finish_reason, one.usage.completion_tokens) for one in counts.values()] == [("length", 5), ("stop", 7)]


def test_a_full_context_is_told_from_an_end(gemma: GemmaCpp, does: Does) -> None:
    gemma.options = replace(gemma.options, seq_len=10)
    # With its beginning the prompt has seven tokens, of which six are reported: three are left.
    result = gemma.start(Request(prompt=does("a b c d e f", text="long enough"))).result()
    assert (result.finish_reason, result.usage.prompt_tokens, result.usage.completion_tokens) == ("length", 6, 3)
    assert gemma.start(Request(prompt=does("a b c d e f", text="ok"))).result().finish_reason == "stop"
    # The model's own cap counts, not what was asked for.
    errors = (
        "Warn at gemma.cc:480: prefill 7 + max_gen_steps 512 > seq_len 9, truncating.\n"
        "[ Timing info ] Prefill: 2 ms for 6 prompt tokens (1.0 tokens / sec); Time to first token: 2 ms\n"
        "[ Timing info ] Generate: 3 ms for 2 tokens (1.0 tokens / sec)\n"
    )
    assert _told(errors, 2, 512, 8192).finish_reason == "length"


def test_what_it_writes_is_read_to_the_letter(gemma: GemmaCpp, does: Does) -> None:
    text = "...and\n\n1. añ\n漢字 🙂\n\n.\n"
    assert gemma.start(Request(prompt=does(text=text, split=True))).result().text == text


def test_greedy_repeats(gemma: GemmaCpp) -> None:
    first, second = (gemma.start(Request(prompt="again", temperature=0)).result() for _ in range(2))
    assert first.text == second.text


@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        ({"abort": "open"}, "bad_weights", "Failed to open"),
        ({"abort": "header"}, "bad_weights", "Failed to read BlobStore header"),
        ({"abort": "value"}, "bad_arguments", "Missing value"),
        ({"abort": "invalid"}, "bad_arguments", "Invalid value"),
        ({"abort": "prompt"}, "prompt_too_long", "increase --seq_len"),
        ({"abort": "alloc"}, "allocation_failed", "std::bad_alloc"),
        ({"abort": "stoi"}, "bad_arguments", "stoi"),
        ({"abort": "unknown"}, "unknown_abort", "assertion x == y failed"),
        ({"simd": True}, "simd_fallback", "SIMD target AVX3"),
        ({"exit": 127}, "missing_binary", "shared libraries"),
        ({"exit": 126}, "missing_binary", "exit 126"),
        ({"exit": 9}, "server_error", "exit 9"),
        ({"exit": 139}, "crashed", "signal 11"),
        ({"signal": signal.SIGSEGV}, "crashed", "signal 11"),
        ({"signal": signal.SIGILL}, "crashed", "signal 4"),
        ({"signal": signal.SIGKILL}, "killed", "signal 9"),
        ({"signal": signal.SIGUSR1}, "server_error", "signal 10"),
        ({"empty": True}, "empty_output", "no text"),
        ({"text": ""}, "empty_output", "no text"),
        ({"garbage": True}, "replacement_characters", "U+FFFD 2 times"),
        ({"text": "a\N{REPLACEMENT CHARACTER}b"}, "replacement_characters", "U+FFFD 1 times in 3 characters"),
        ({"leak_mib": 64, "tokens": 100}, "out_of_memory", "memory limit"),
    ],
)
def test_each_way_to_fail_has_its_class(
    gemma: GemmaCpp, does: Does, what: dict[str, Any], name: str, words: str
) -> None:
    generation = gemma.start(Request(prompt=does(**what)))
    last = list(generation.events())[-1]
    assert isinstance(last, Failed)
    assert last.failure.failure_class.name == name
    assert words in last.failure.detail
    result = generation.result()
    assert result.finish_reason is None
    assert result.clean


@pytest.mark.parametrize(
    ("what", "deadlines", "words"),
    [
        ({"stall_after": 0}, Deadlines(first_s=0.4), "no first token within 0.4 s"),
        ({"stall_after": 2}, Deadlines(between_s=0.2), "no further token within 0.2 s"),
        ({"stall_after": 2}, Deadlines(total_s=0.5), "not complete within 0.5 s"),
    ],
)
def test_deadlines(gemma: GemmaCpp, does: Does, what: dict[str, Any], deadlines: Deadlines, words: str) -> None:
    result = gemma.start(Request(prompt=does(**what), deadlines=deadlines)).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "timeout"
    assert result.failure.detail == words
    assert result.quiet_ms is not None


def test_a_process_that_stays_after_its_reply(gemma: GemmaCpp, does: Does, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialbench.engines.supervisor._LINGER_S", 0.05)
    result = gemma.start(Request(prompt=does(close=True))).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "unknown_abort"


def test_output_without_end(gemma: GemmaCpp, does: Does, supervisor: Supervisor) -> None:
    supervisor.bounds = Bounds(output_bytes=50_000)
    result = gemma.start(Request(prompt=does(flood=True))).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "output_limit"


@pytest.mark.parametrize("what", [{}, {"ignore_term": True}, {"child": "session"}, {"child": "group"}])
def test_cancel_mid_stream(gemma: GemmaCpp, does: Does, what: dict[str, Any]) -> None:
    if "ignore_term" in what:
        gemma.supervisor.bounds = Bounds(grace_s=0.2)
    generation = gemma.start(Request(prompt=does(rate_hz=50, tokens=1000, **what)))
    last = None
    for event in generation.events():
        last = event
        if isinstance(event, Token):
            generation.cancel()
    assert isinstance(last, Done)
    assert last.finish_reason == "cancelled"
    result = generation.result()
    assert result.failure is None
    assert result.clean
    assert result.quiet_ms is not None
    assert result.facts["escalated"] == ("ignore_term" in what)
    assert gemma.start(Request(prompt="next")).result().failure is None


def test_leaving_early_is_a_cancel(gemma: GemmaCpp, does: Does) -> None:
    generation = gemma.start(Request(prompt=does(rate_hz=50, tokens=1000)))
    events = generation.events()
    for event in events:
        if isinstance(event, Token):
            break
    events.close()  # type: ignore[attr-defined] # a generator, here and in practice
    assert generation.result().finish_reason == "cancelled"
    never = gemma.start(Request(prompt=does(rate_hz=50, tokens=1000)))
    never.events().close()  # type: ignore[attr-defined] # before its first event
    assert never.result().finish_reason == "cancelled"


def test_the_prompt_travels_in_a_private_file_and_leaves_nothing(
    gemma: GemmaCpp, does: Does, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = gemma.options.scratch
    assert scratch is not None
    generation = gemma.start(Request(prompt=does("--weights", rate_hz=20)))
    (folder,) = scratch.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "prompt").stat().st_mode) == 0o600
    assert (folder / "prompt").read_text().endswith("\n--weights")
    assert generation.result().failure is None
    assert list(scratch.iterdir()) == []


def test_a_disk_without_room_for_the_prompt(gemma: GemmaCpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, _mode: str) -> None:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        generation = gemma.start(Request(prompt="secret"))
    failure = generation.result().failure
    assert failure is not None
    assert (failure.failure_class.name, failure.detail) == (
        "server_error",
        "the prompt's file: No space left on device",
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    gemma.options = replace(gemma.options, scratch=tmp_path / "none")
    failure = gemma.start(Request(prompt="secret")).result().failure
    assert failure is not None
    assert failure.detail == "the prompt's file: No such file or directory"


def test_the_engine_gets_nothing_of_our_environment(
    supervisor: Supervisor, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "shows"
    binary.write_text('#!/bin/sh\n[ "$1" != --help ] || exec echo "  --weights"\nenv; echo "$@"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("TRIALBENCH_API_KEY", "secret")
    options = GemmaOptions(
        binary, weights, tokenizer=weights, top_k=40, temperature=0.5, num_threads=3, pin="on", map="off"
    )
    engine = GemmaCpp(options, supervisor)
    asked = Request(prompt="--pin", deterministic=True, top_p=0.5, repeat_penalty=1.1, max_tokens=7)
    result = engine.start(asked).result()
    assert "secret" not in result.text
    assert "--top_k 40" in result.text
    assert "--temperature 0.5" in result.text
    assert f"--tokenizer {weights}" in result.text
    assert "--deterministic 1" in result.text
    assert "--num_threads 3 --pin 1 --map 0" in result.text
    assert "--max_generated_tokens 7" in result.text
    assert result.finish_reason == "unknown"
    assert result.facts["ignored"] == ["top_p", "repeat_penalty"]
    for greedy in (Request(prompt="x", temperature=0), Request(prompt="x", temperature=0, top_k=0)):
        assert "--top_k 1 --det" in engine.start(greedy).result().text
    # Dividing by a temperature of 0 is nobody's wish, whether it stands in the request or in the configuration.
    engine.options = replace(options, temperature=0.0)
    text = engine.start(Request(prompt="x", top_k=40)).result().text
    assert "--top_k 1 --det" in text
    assert "--temperature" not in text


@pytest.mark.prove
def test_a_leak_over_many_requests_is_seen(gemma: GemmaCpp, does: Does, tmp_path: Path) -> None:
    watch = LeakWatch()
    for _ in range(6):
        result = gemma.start(Request(prompt=does(grow_mib=8, rate_hz=50, state=str(tmp_path / "runs")))).result()
        assert result.peak_mib is not None
        watch.add(result.peak_mib)
    growth = watch.growth()
    assert growth.leaking
    assert growth.slope_mib is not None
    assert 6 < growth.slope_mib < 10


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Request(prompt="a", constraint=Constraint(grammar="g")), "does not support constrained decoding by grammar"),
        (Request(prompt="a", seed=1), "a seed"),
        # A workload may say anything.
        (Request(prompt="a", top_k="many"), "top_k: expected a whole number from 0 to 1048576, found 'many'"),  # type: ignore[arg-type]
        (Request(prompt="a", max_tokens=2.5), "max_tokens: expected a whole number"),  # type: ignore[arg-type]
        (Request(prompt="a", temperature="warm"), "temperature: expected 0 to 100, found 'warm'"),  # type: ignore[arg-type]
        (Request(prompt="a", cache_prompt=True), "does not support a prompt cache"),
        (Request(prompt=" \n"), "expected a text"),
        (Request(prompt="a", top_k=0), "top_k: gemma_local takes 1 or more"),
        (Request(prompt="a\0b"), "NUL"),
        (Request(prompt="a", extra={"min_p": 1}), "min_p"),
    ],
)
def test_what_it_refuses_by_name(gemma: GemmaCpp, asked: Request, words: str) -> None:
    with pytest.raises(Refused, match=r"bad_arguments|unsupported") as caught:
        gemma.start(asked)
    assert words in caught.value.failure.detail
    assert gemma.supervisor.running == 0


@pytest.mark.parametrize(("field", "value"), [("weight_format", "q4"), ("pin", "yes"), ("map", "1")])
def test_options_that_are_none(weights: Path, field: str, value: str) -> None:
    with pytest.raises(Refused, match=field):
        GemmaOptions(weights, weights, **{field: value})  # type: ignore[arg-type] # names and values of a table


def test_probe(gemma: GemmaCpp, weights: Path, stand_in: Path) -> None:
    probe = gemma.probe()
    assert probe.usable
    assert probe.failure is None
    assert not probe.constrained_decoding
    assert probe.hashes == {
        "binary": hashlib.sha256(stand_in.read_bytes()).hexdigest(),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    assert probe.facts["seq_len"] == 8192
    assert probe.facts["num_threads"] == os.cpu_count()
    assert isinstance(probe.facts["cpu"], list)
    assert gemma.healthy() is None
    assert gemma.probe(hashes=False).hashes == {}


def test_another_program_of_the_same_name(supervisor: Supervisor, weights: Path, tmp_path: Path) -> None:
    """Debian's `gemma` is a genomics tool."""
    binary = tmp_path / "gemma"
    binary.write_text("#!/bin/sh\necho 'GEMMA Version 0.98.5, genome-wide association'\n")
    binary.chmod(0o755)
    engine = GemmaCpp(GemmaOptions(binary, weights), supervisor)
    assert engine.healthy() is None, "nobody has asked it yet"
    probe = engine.probe()
    assert probe.failure is not None
    assert "does not name --weights" in probe.failure.detail
    assert engine.healthy() == probe.failure, "known, without being asked again"
    generation = GemmaCpp(GemmaOptions(binary, weights), supervisor).start(Request(prompt="a"))
    assert generation.result().failure == probe.failure, "what it says is no reply"
    binary.write_text("#!/bin/sh\nkill -SEGV $$\n")
    probe = GemmaCpp(GemmaOptions(binary, weights), supervisor).probe()
    assert probe.failure is not None
    assert probe.failure.failure_class.name == "crashed"
    binary.write_text("no program at all")
    probe = GemmaCpp(GemmaOptions(binary, weights), supervisor).probe()
    assert probe.failure is not None
    assert "Exec format error" in probe.failure.detail
    result = GemmaCpp(GemmaOptions(binary, weights), supervisor).start(Request(prompt="a")).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "missing_binary"


def test_files_are_checked_before_anything_runs(gemma: GemmaCpp, weights: Path, tmp_path: Path) -> None:
    good, name = gemma.options, hashlib.sha256(weights.read_bytes()).hexdigest()
    gemma.options = replace(good, weights_sha256=name.upper())
    assert gemma.start(Request(prompt="a")).result().failure is None
    # One bit of the weights is another: the binary itself would exit 0 with another text.
    weights.write_text('{"corrupt":1}')
    generation = gemma.start(Request(prompt="a"))
    generation.cancel()
    (event,) = generation.events()
    assert isinstance(event, Failed)
    assert event.failure.failure_class.name == "bad_weights"
    assert f"expected SHA-256 {name}, found" in event.failure.detail
    assert generation.result().failure == event.failure
    # What was seen once is not forgotten: an engine that can answer nothing is not well. Another file may be.
    assert gemma.healthy() == event.failure
    os.utime(weights, (1, 1))
    assert gemma.healthy() is None
    for options, words in (
        (replace(good, binary=Path("gemma")), "expected an absolute path"),
        (replace(good, binary=tmp_path), "does not exist, or is not a file"),
        (replace(good, binary=weights), "not executable"),
        (replace(good, tokenizer=tmp_path / "none"), "tokenizer: "),
    ):
        gemma.options = options
        failure = gemma.healthy()
        assert failure is not None
        assert words in failure.detail
        probe = gemma.probe()
        assert not probe.usable


def test_the_binary_is_asked_for_its_help_once_for_each_version(gemma: GemmaCpp, tmp_path: Path) -> None:
    binary, asked = tmp_path / "gemma", tmp_path / "asked"
    script = f'#!/bin/sh\n[ "$1" != --help ] || {{ echo once >>{asked}; exec echo "  --weights"; }}\necho word\n'
    binary.write_text(script)
    binary.chmod(0o755)
    gemma.options = replace(gemma.options, binary=binary)
    for _ in range(2):
        assert gemma.start(Request(prompt="a")).result().failure is None
    assert asked.read_text() == "once\n"
    binary.write_text(script.replace("--weights", "--other"))
    failure = gemma.start(Request(prompt="a")).result().failure
    assert failure is not None
    assert "does not name --weights" in failure.detail
    binary.unlink()
    failure = gemma._accept()
    assert failure is not None
    assert failure.failure_class.name == "missing_binary"


def test_hashes_are_computed_once_for_each_version_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, hashes, computed = tmp_path / "file", Hashes(), []
    digest = hashlib.file_digest

    def counted(stream: Any, name: str) -> Any:
        computed.append(name)
        return digest(stream, name)

    monkeypatch.setattr("hashlib.file_digest", counted)
    file.write_text("a")
    assert hashes.sha256(file) == hashes.sha256(file) == hashlib.sha256(b"a").hexdigest()
    assert len(computed) == 1
    os.utime(file, (1, 1))
    assert hashes.sha256(file) == hashlib.sha256(b"a").hexdigest()
    assert len(computed) == 2


def test_a_file_that_goes_away_while_it_is_read(gemma: GemmaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_self: Hashes, _path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Hashes, "sha256", gone)
    gemma.options = replace(gemma.options, weights_sha256="0" * 64)
    probe = gemma.probe()
    assert probe.failure is not None
    assert "Input/output error" in probe.failure.detail
    assert probe.hashes == {}


def test_an_engine_of_its_own_supervisor(weights: Path, stand_in: Path) -> None:
    engine = GemmaCpp(GemmaOptions(stand_in, weights))
    assert engine.start(Request(prompt="a", max_tokens=2)).result().finish_reason == "length"
    engine.close()


@given(
    st.integers(0, 5),
    st.text(alphabet=st.sampled_from("a.\n ñ"), max_size=12),
    st.lists(st.integers(1, 4), max_size=20),
)
def test_the_reply_is_found_however_it_is_cut(dots: int, reply: str, cuts: list[int]) -> None:
    # The binary itself takes blanks and line ends off the first token.
    reply = "x" + reply
    printed = "." * dots + "\n\n" + reply + "\n\n"
    found, text = GemmaText(), ""
    for cut in [*cuts, len(printed)]:
        text += found.feed(printed[:cut])
        printed = printed[cut:]
    assert text + found.finish() == reply


def test_without_dots_nothing_is_taken_off() -> None:
    found = GemmaText()
    assert found.feed("...and so on\n\n") + found.finish() == "...and so on"
