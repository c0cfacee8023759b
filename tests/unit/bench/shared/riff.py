"""WAVs, put together by hand, with whatever is wrong with them."""

from __future__ import annotations

import math
import struct

RATE = 24000


def tone(seconds: float = 1.0) -> bytes:
    """16-bit samples of a tone, a third of full scale."""
    count = int(RATE * seconds)
    return struct.pack(f"<{count}h", *(int(9830 * math.sin(2 * math.pi * 220 * at / RATE)) for at in range(count)))


def part(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    """A chunk; `size` is what it claims."""
    return kind + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def form(encoding: int = 1, bits: int = 16, channels: int = 1, rate: int = RATE, extra: bytes = b"") -> bytes:
    """The chunk that tells how the audio is written."""
    block = channels * bits // 8
    return part(b"fmt ", struct.pack("<HHIIHH", encoding, channels, rate, rate * block, block, bits) + extra)


def wav(*parts: bytes, size: int | None = None, head: bytes = b"RIFF") -> bytes:
    """A WAV of these chunks; `size` is what it claims."""
    body = b"WAVE" + b"".join(parts)
    return head + struct.pack("<I", len(body) if size is None else size) + body
