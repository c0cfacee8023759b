# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech: WAVs made here (the standard library's wave module is the oracle), and services that say less."""

from __future__ import annotations

import contextlib
import io
import math
import random
import struct
import sys
import wave
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import speech
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Speech
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

Tone = Callable[..., bytes]


def chunk(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    """A RIFF chunk; ``size`` lies about it."""
    return kind + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def wav(
    data: bytes,
    bits: int = 16,
    rate: int = 22050,
    channels: int = 1,
    encoding: int = 1,
    extra: bytes = b"",
    before: bytes = b"",
    data_size: int | None = None,
    **lies: int,
) -> bytes:
    """A WAV put together by hand."""
    block = lies.get("block", channels * bits // 8)
    byte_rate = lies.get("byte_rate", rate * block)
    fmt = struct.pack("<HHIIHH", encoding, channels, rate, byte_rate, block, bits) + extra
    body = b"WAVE" + chunk(b"fmt ", fmt) + before + chunk(b"data", data, data_size)
    return b"RIFF" + struct.pack("<I", lies.get("riff", len(body))) + body


SINE = [0.5 * math.sin(i * 0.06) for i in range(22050)]


def packed(bits: int, encoding: int = 1) -> bytes:
    """One second of tone, half of full scale."""
    if encoding == 3:
        return struct.pack(f"<{len(SINE)}f", *SINE)
    if bits == 8:
        return bytes(128 + round(127 * value) for value in SINE)
    top = (1 << (bits - 1)) - 1
    return b"".join(round(top * value).to_bytes(bits // 8, "little", signed=True) for value in SINE)


# Parsing


@pytest.mark.parametrize(("bits", "encoding"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3)])
def test_every_width_is_understood(bits: int, encoding: int) -> None:
    found = speech.parse(wav(packed(bits, encoding), bits, encoding=encoding))
    assert (found.rate_hz, found.channels, found.bits, found.duration_s) == (22050, 1, bits, 1.0)
    assert found.peak == pytest.approx(0.5, abs=0.01)
    assert found.rms == pytest.approx(0.5 / math.sqrt(2), abs=0.01)
    assert not found.silent


def test_what_the_standard_library_writes_is_read_back(tone: Tone) -> None:
    raw = tone(seconds=0.5, rate=48000, channels=2)
    with wave.open(io.BytesIO(raw)) as oracle:
        expected = (oracle.getframerate(), oracle.getnchannels(), oracle.getnframes() / oracle.getframerate())
    found = speech.parse(raw)
    assert (found.rate_hz, found.channels, found.duration_s) == expected
    assert found.bytes == len(raw)


STREAMED = [
    0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0xFFFFFFFE, 0x80000000, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000, 0x7FFFF000 - 36,
    2_000_000_000, 1_999_999_964, 1 << 30, 1_000_000_000, 0x0FFFFFFF, 100_000_000, speech.MAX_WAV_BYTES + 36,
    speech.MAX_WAV_BYTES, speech.MAX_WAV_BYTES - 43,
]  # fmt: skip


@pytest.mark.parametrize("size", STREAMED)
@pytest.mark.parametrize(("bits", "encoding"), [(8, 1), (16, 1), (32, 3)])
def test_sizes_that_a_streaming_writer_could_not_know_are_tolerated(size: int, bits: int, encoding: int) -> None:
    raw = wav(packed(bits, encoding), bits, encoding=encoding, data_size=size, riff=min(size + 36, 0xFFFFFFFF))
    assert speech.parse(raw).duration_s == 1.0
    assert speech.judge(200, raw, 1000).ok


@settings(max_examples=examples(60), deadline=None)
@given(size=st.integers(speech.MAX_WAV_BYTES, 0xFFFFFFFF), before=st.binary(max_size=9))
def test_no_size_that_can_not_be_sent_makes_a_voice_mute(size: int, before: bytes) -> None:
    raw = wav(packed(16), before=chunk(b"LIST", before), data_size=size, riff=size)
    assert speech.judge(200, raw, 1000).ok


def test_a_size_that_could_have_been_sent_is_a_promise() -> None:
    raw = wav(packed(16), data_size=speech.MAX_WAV_BYTES - 44)
    assert "truncated: chunk 'data' promises 67108820 bytes" in speech.judge(200, raw, 1000).found


@pytest.mark.parametrize("head", [b"RF64", b"BW64"])
def test_the_variants_for_large_sizes_are_read(head: bytes) -> None:
    sizes = chunk(b"ds64", struct.pack("<QQQI", 44_100 + 72, 44_100, 22_050, 0))
    assert speech.parse(head + wav(packed(16), before=sizes, data_size=0xFFFFFFFF)[4:]).duration_s == 1.0


def test_the_extensible_format_is_looked_through() -> None:
    guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    extra = struct.pack("<HHI", 22, 16, 4) + guid
    assert speech.parse(wav(packed(16), encoding=0xFFFE, extra=extra)).duration_s == 1.0


def test_other_chunks_are_skipped_odd_ones_too() -> None:
    assert speech.parse(wav(packed(16), before=chunk(b"LIST", b"abc"))).duration_s == 1.0


def test_bytes_after_the_audio_do_not_matter() -> None:
    assert speech.parse(wav(packed(16)) + b"rest").duration_s == 1.0


def test_a_part_of_a_frame_at_the_end_is_left_out() -> None:
    found = speech.parse(wav(packed(16), data_size=0) + b"\x01")
    assert found.duration_s == 1.0


LARGE = b"\x00\x20" * 100
BROKEN = [
    (b"", "no RIFF/WAVE header"),
    (b"RIFF\x00\x00\x00\x00WAV", "no RIFF/WAVE header"),
    (b"RIFX" + wav(LARGE)[4:], "no RIFF/WAVE header"),
    (wav(LARGE)[:12], "no chunk 'fmt '"),
    (wav(LARGE)[:36], "no chunk 'data'"),
    (wav(LARGE)[:30], "chunk 'fmt ' promises 16 bytes, 10 arrived"),
    (wav(LARGE)[:-50], "truncated: chunk 'data' promises 200 bytes, 150 arrived"),
    (b"RIFF\x00\x00\x00\x00WAVE" + chunk(b"data", LARGE), "no chunk 'fmt '"),
    (b"RIFF\x00\x00\x00\x00WAVE" + chunk(b"fmt ", b"\1\0") + chunk(b"data", LARGE), "2 bytes instead of"),
    (wav(b""), "holds no audio"),
    (wav(b"\x01"), "holds no audio"),
    (wav(LARGE, encoding=7, bits=8), "encoding 7 with 8 bits"),
    (wav(LARGE, encoding=3, bits=16), "encoding 3 with 16 bits"),
    (wav(LARGE, bits=12), "encoding 1 with 12 bits"),
    (wav(LARGE, encoding=0xFFFE), "encoding 65534"),
    (wav(LARGE, channels=0, block=2), "contradictory format: 0 channels"),
    (wav(LARGE, rate=0), "contradictory format: 1 channel, 0 Hz"),
    (wav(LARGE, block=4), "contradictory format"),
    (wav(LARGE, byte_rate=1), "contradictory format"),
    (wav(struct.pack("<2f", 0.5, math.nan), 32, encoding=3), "not a finite number"),
    (wav(struct.pack("<2f", math.inf, -math.inf), 32, encoding=3), "not a finite number"),
]


@pytest.mark.parametrize(("raw", "message"), BROKEN, ids=[message for _unused, message in BROKEN])
def test_what_is_wrong_with_a_wav_is_said(raw: bytes, message: str) -> None:
    with pytest.raises(speech.WavError) as caught:
        speech.parse(raw)
    assert message in str(caught.value)


@settings(max_examples=examples(300))
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    with contextlib.suppress(speech.WavError):
        speech.parse(raw)


@settings(max_examples=examples(300))
@given(st.data())
def test_no_damage_crashes_the_parser(data: st.DataObject) -> None:
    raw = bytearray(wav(LARGE, bits=data.draw(st.sampled_from([8, 16, 24, 32]))))
    for at in data.draw(st.lists(st.integers(0, 60), max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        found = speech.parse(bytes(raw[:cut]))
    except speech.WavError:
        return
    assert found.rate_hz > 0
    assert found.duration_s > 0


# Loudness


def test_silence_is_heard_as_silence() -> None:
    assert speech.parse(wav(b"\0" * 40_000)).silent
    assert speech.parse(wav(b"\x80" * 40_000, bits=8)).silent


def test_a_constant_offset_is_silence_too() -> None:
    assert speech.parse(wav(b"\x00\x40" * 20_000)).silent


def test_faint_noise_is_silence() -> None:
    noise = random.Random(1)
    assert speech.parse(wav(struct.pack("<20000h", *(noise.randint(-30, 30) for _unused in range(20_000))))).silent


def test_the_byte_order_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = wav(packed(16))
    swapped = wav(b"".join(raw[i + 1 : i + 2] + raw[i : i + 1] for i in range(44, len(raw), 2)))
    expected = speech.parse(raw)
    monkeypatch.setattr(sys, "byteorder", "big" if sys.byteorder == "little" else "little")
    assert speech.parse(swapped) == expected


def test_one_click_is_not_speech() -> None:
    assert speech.parse(wav(b"\xff\x10" + b"\0" * 200_000)).silent


def test_quiet_speech_is_speech(tone: Tone) -> None:
    assert not speech.parse(tone(level=0.02)).silent


def test_a_long_recording_is_judged_by_a_part_of_its_samples(tone: Tone) -> None:
    found = speech.parse(tone(seconds=25))
    assert found.rms == pytest.approx(0.354, abs=0.01)


# Asking a service


def test_a_service_that_speaks(server: Any, reply: Any, tone: Tone) -> None:
    raw = tone()
    server.routes["/synthesize"] = reply(raw)
    spoken = speech.listen(Speech(f"{server.url}/synthesize"))
    assert spoken.ok
    assert spoken.found == f"WAV, 1.00 s, 22050 Hz, 1 channel, {len(raw)} bytes"
    assert (spoken.duration_s, spoken.rate_hz, spoken.bytes) == (1.0, 22050, len(raw))
    assert server.asked == [("POST", "/synthesize", b'{"text": "test one two"}')]


def test_nobody_there(free_port: int) -> None:
    spoken = speech.listen(Speech(f"http://127.0.0.1:{free_port}/synthesize"))
    assert not spoken.ok
    assert "no answer" in spoken.found
    assert "refused" in spoken.found


def test_a_service_that_never_ends(server: Any, reply: Any, tone: Tone) -> None:
    server.routes["/synthesize"] = reply(tone(), drip_s=0.05)
    spoken = speech.listen(Speech(f"{server.url}/synthesize", timeout_s=0.2))
    assert not spoken.ok
    assert "did not end within 0.2 s" in spoken.found


OTHER = [
    (500, b"CUDA out of memory", "HTTP 500: 'CUDA out of memory'"),
    (503, b"", "HTTP 503"),
    (200, b"", "HTTP 200 with an empty body"),
    (
        200,
        b"<!DOCTYPE html><title>Hi</title>",
        "an HTML page instead of audio: '<!DOCTYPE html><title>Hi</title>'",
    ),
    (200, b"\n <html>", "an HTML page instead of audio"),
    (200, b'{"error": "no model"}', 'JSON instead of audio: \'{"error": "no model"}\''),
    (200, b"ID3\x04rest", "audio, but not a WAV"),
    (200, b"\xff\xfbrest", "audio, but not a WAV"),
    (200, b"OggS", "audio, but not a WAV"),
    (200, b"hello", "5 bytes that are not a valid WAV: no RIFF/WAVE header but b'hello'"),
    (
        200,
        wav(packed(16))[:-1000],
        "not a valid WAV: truncated: chunk 'data' promises 44100 bytes, 43100 arrived",
    ),
    (200, wav(b"\0" * 44_100), "silence (peak 0.0000, RMS 0.0000 of full scale)"),
    (200, wav(packed(16)[:2000]), "too small, more than 5120 bytes are expected"),
    (200, wav(packed(16), rate=192_000), "shorter than 0.2 s"),
]


@pytest.mark.parametrize(("status", "raw", "message"), OTHER, ids=[message for _unused, _unused, message in OTHER])
def test_what_came_instead_is_said(server: Any, reply: Any, status: int, raw: bytes, message: str) -> None:
    server.routes["/synthesize"] = reply(raw, status)
    spoken = speech.listen(Speech(f"{server.url}/synthesize"))
    assert not spoken.ok
    assert message in spoken.found
    assert spoken.bytes == len(raw)


def test_the_size_limit_is_exclusive(tone: Tone) -> None:
    raw = tone()
    assert speech.judge(200, raw, len(raw) - 1).ok
    assert not speech.judge(200, raw, len(raw)).ok


def test_what_stands_in_place_of_an_answer_can_not_act_on_a_terminal(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise OSError("BadStatusLine: \x1b]0;title\x07")

    monkeypatch.setattr(speech.probes, "fetch", fail)
    spoken = speech.listen(Speech(f"{server.url}/synthesize"))
    assert not spoken.ok
    assert spoken.found == "no answer: BadStatusLine: \ufffd]0;title\ufffd"


@pytest.mark.parametrize("status", [200, 500])
def test_words_in_place_of_a_wav_can_not_act_on_a_terminal(server: Any, reply: Any, status: int) -> None:
    server.routes["/synthesize"] = reply(b"\x1b[2J\x07 {error} \xff", status)
    assert speech.listen(Speech(f"{server.url}/synthesize")).found.isprintable()


def test_a_speaker_does_not_send_us_elsewhere(server: Any, serve: Callable[[], Any], reply: Any, tone: Tone) -> None:
    other = serve()
    other.routes["/wav"] = reply(tone())
    server.routes["/synthesize"] = reply(b"", 307, headers=(("Location", f"{other.url}/wav"),))
    spoken = speech.listen(Speech(f"{server.url}/synthesize"))
    assert (spoken.ok, other.asked) == (False, [])
    assert "HTTP 307" in spoken.found
