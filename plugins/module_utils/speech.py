# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a speech service speaks: it must answer with a WAV that is complete and not silent.

Sources: "Multimedia Programming Interface and Data Specifications 1.0" (IBM, Microsoft, 1991) for RIFF and
PCM, and Microsoft's WAVEFORMATEXTENSIBLE for the format that carries its encoding in a GUID.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from dataclasses import dataclass

from . import probes
from .plan import Speech
from .words import counted

MAX_WAV_BYTES = 64 << 20
# A sentence of three words is longer than this in any voice.
MIN_DURATION_S = 0.2
# A peak below -40 dB of full scale, or an RMS below -60 dB, is inaudible on a phone.
SILENT_PEAK = 0.01
SILENT_RMS = 0.001
# Beside RIFF, the two that keep large sizes in a chunk of their own; for audio they give the largest number.
_HEADS = (b"RIFF", b"RF64", b"BW64")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WIDTHS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}
# More samples than this do not change the loudness.
_RMS_SAMPLES = 200_000


class WavError(ValueError):
    """The bytes are not a usable WAV; the message says what is wrong with them."""


@dataclass(frozen=True)
class Wav:
    """A parsed WAV; ``peak`` and ``rms`` are shares of full scale, without the constant offset."""

    rate_hz: int
    channels: int
    bits: int
    duration_s: float
    bytes: int
    peak: float
    rms: float

    @property
    def silent(self) -> bool:
        """Whether there is nothing to hear."""
        return self.peak < SILENT_PEAK or self.rms < SILENT_RMS


@dataclass(frozen=True)
class Spoken:
    """What a tenant returned when it was asked to speak; ``found`` is for people."""

    ok: bool
    found: str
    duration_s: float = 0.0
    rate_hz: int = 0
    bytes: int = 0


def _chunks(raw: bytes) -> dict[bytes, bytes]:
    if len(raw) < 12 or raw[:4] not in _HEADS or raw[8:12] != b"WAVE":
        raise WavError(f"no RIFF/WAVE header but {raw[:12]!r}")
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(raw) and b"data" not in found:
        kind, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        at += 8
        # A program that writes to a pipe does not know the size yet, and gives 0 or any large number (2 GiB, 100 MB).
        # A size beyond the largest answer that is read is no real size: the audio continues to the end.
        if kind == b"data" and (size == 0 or at + size > MAX_WAV_BYTES):
            size = len(raw) - at
        if at + size > len(raw):
            label = kind.decode("ascii", "replace")
            raise WavError(f"truncated: chunk {label!r} promises {size} bytes, {len(raw) - at} arrived")
        found.setdefault(kind, raw[at : at + size])
        at += size + size % 2
    for kind in (b"fmt ", b"data"):
        if kind not in found:
            raise WavError(f"no chunk {kind.decode()!r}: the WAV ends before it")
    return found


def _format(fmt: bytes) -> tuple[int, int, int, int]:
    if len(fmt) < 16:
        raise WavError(f"the format chunk has {len(fmt)} bytes instead of at least 16")
    encoding, channels, rate_hz, byte_rate, block, bits = struct.unpack("<HHIIHH", fmt[:16])
    if encoding == _EXTENSIBLE and len(fmt) >= 40:
        encoding = int.from_bytes(fmt[24:26], "little")
    if (encoding, bits) not in _WIDTHS:
        raise WavError(f"encoding {encoding} with {bits} bits: only PCM of 8, 16, 24, 32 bits and float of 32, 64 bits")
    if not channels or not rate_hz or block != channels * bits // 8 or byte_rate != rate_hz * block:
        raise WavError(
            f"contradictory format: {counted(channels, 'channel')}, {rate_hz} Hz, {block} bytes a frame,"
            f" {byte_rate} B/s"
        )
    return encoding, channels, rate_hz, bits


def _samples(data: bytes, encoding: int, bits: int) -> tuple[array[int] | array[float], float]:
    """The samples as numbers, and the value of full scale."""
    if bits == 24:
        # As the upper three bytes of 32 bits.
        wide = bytearray(len(data) // 3 * 4)
        for byte in range(3):
            wide[byte + 1 :: 4] = data[byte::3]
        data, bits = bytes(wide), 32
    if bits == 8:
        return array("h", (value - 128 for value in data)), 128.0
    kind = (
        ("f" if bits == 32 else "d")
        if encoding == _FLOAT
        else next(code for code in "hil" if array(code).itemsize * 8 == bits)
    )
    samples: array[int] | array[float] = array(kind)
    samples.frombytes(data)
    if sys.byteorder == "big":
        samples.byteswap()
    return samples, 1.0 if encoding == _FLOAT else float(1 << (bits - 1))


def parse(raw: bytes) -> Wav:
    """Parse a WAV strictly; sizes that a streaming writer could not know are tolerated.

    Raises:
        WavError: no RIFF/WAVE, a chunk is missing or cut off, the format is unknown or contradicts itself,
            there is no audio, or a sample is not a number.
    """
    chunks = _chunks(raw)
    encoding, channels, rate_hz, bits = _format(chunks[b"fmt "])
    frame = channels * bits // 8
    frames = len(chunks[b"data"]) // frame
    if not frames:
        raise WavError("the WAV holds no audio")
    samples, scale = _samples(chunks[b"data"][: frames * frame], encoding, bits)
    if encoding == _FLOAT and not all(map(math.isfinite, samples)):
        raise WavError("a sample of the WAV is not a finite number")
    mean = math.fsum(samples) / len(samples)
    some = samples[:: len(samples) // _RMS_SAMPLES + 1]
    peak = max(max(samples) - mean, mean - min(samples)) / scale
    rms = math.sqrt(math.fsum((value - mean) ** 2 for value in some) / len(some)) / scale
    return Wav(rate_hz, channels, bits, frames / rate_hz, len(raw), peak, rms)


def _looks_like(raw: bytes) -> str:
    start = raw[:200].lstrip().lower()
    text = raw[:80].decode("utf-8", "replace").strip()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"an HTML page instead of audio: {text!r}"
    if start.startswith((b"{", b"[")):
        return f"JSON instead of audio: {text!r}"
    if start.startswith((b"id3", b"oggs", b"flac")) or raw[:2] in (b"\xff\xfb", b"\xff\xf3"):
        return f"audio, but not a WAV: {raw[:4]!r}"
    return ""


def judge(status: int, raw: bytes, min_bytes: int) -> Spoken:
    """Judge an answer of a speech service: HTTP status, size, and what the WAV holds."""
    size = len(raw)
    if status != 200:
        text = raw[:120].decode("utf-8", "replace").strip()
        return Spoken(False, f"HTTP {status}" + (f": {text!r}" if text else ""), bytes=size)
    if not raw:
        return Spoken(False, "HTTP 200 with an empty body")
    other = _looks_like(raw)
    if other:
        return Spoken(False, other, bytes=size)
    try:
        wav = parse(raw)
    except WavError as err:
        return Spoken(False, f"{size} bytes that are not a valid WAV: {err}", bytes=size)
    text = f"WAV, {wav.duration_s:.2f} s, {wav.rate_hz} Hz, {counted(wav.channels, 'channel')}, {size} bytes"
    if size <= min_bytes:
        return Spoken(
            False,
            f"{text}: too small, more than {min_bytes} bytes are expected",
            wav.duration_s,
            wav.rate_hz,
            size,
        )
    if wav.duration_s < MIN_DURATION_S:
        return Spoken(False, f"{text}: shorter than {MIN_DURATION_S} s", wav.duration_s, wav.rate_hz, size)
    if wav.silent:
        text += f": silence (peak {wav.peak:.4f}, RMS {wav.rms:.4f} of full scale)"
        return Spoken(False, text, wav.duration_s, wav.rate_hz, size)
    return Spoken(True, text, wav.duration_s, wav.rate_hz, size)


def listen(speech: Speech) -> Spoken:
    """Make a tenant speak and judge what comes back; never raises for anything the tenant does."""
    try:
        status, raw = probes.fetch(speech.url, speech.timeout_s, speech.body, MAX_WAV_BYTES)
    except OSError as err:
        return Spoken(False, probes.printable(f"no answer: {getattr(err, 'reason', err)}"))
    return judge(status, raw, speech.min_bytes)
