# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is this file a whole picture, and how large? Markers of a JPEG, chunks of a PNG; no pixel is decoded.

Sources: ITU-T T.81 (JPEG), annex B; the W3C's PNG specification, section 5.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

MAX_SIDE = 20_000


class PictureError(ValueError):
    """The bytes are not a whole JPEG or PNG; the message says what is wrong with them."""


@dataclass(frozen=True)
class Picture:
    """What a picture file says about itself."""

    kind: str
    width: int
    height: int


def _jpeg(raw: bytes) -> Picture:
    at, size = 2, None
    while True:
        if at + 2 > len(raw) or raw[at] != 0xFF:
            raise PictureError(f"the JPEG has no marker at byte {at}")
        marker = raw[at + 1]
        if marker == 0xFF:
            # Fill bytes may stand before a marker.
            at += 1
            continue
        if marker == 0xD9:
            raise PictureError("the JPEG ends before its picture begins")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = int.from_bytes(raw[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(raw):
            raise PictureError(f"the JPEG is cut off in the segment at byte {at}")
        if marker in (0xC0, 0xC1, 0xC2) and length >= 8:
            size = Picture(
                "JPEG",
                int.from_bytes(raw[at + 7 : at + 9], "big"),
                int.from_bytes(raw[at + 5 : at + 7], "big"),
            )
        at += 2 + length
        if marker == 0xDA:
            break
    if size is None:
        raise PictureError("the JPEG does not say how large it is")
    end = raw.rfind(b"\xff\xd9")
    if end < at:
        raise PictureError("the JPEG has no end: it is cut off")
    if end == at:
        raise PictureError("the JPEG holds no picture data")
    return size


def _png(raw: bytes) -> Picture:
    at, size, data = 8, None, bytearray()
    while True:
        length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        if at + 12 + length > len(raw):
            raise PictureError(f"the PNG is cut off in the chunk at byte {at}")
        body = raw[at + 8 : at + 8 + length]
        if zlib.crc32(kind + body) != int.from_bytes(raw[at + 8 + length : at + 12 + length], "big"):
            raise PictureError(f"the PNG's chunk at byte {at} has a wrong checksum")
        if kind == b"IHDR" and length == 13:
            size = Picture("PNG", int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"))
        elif kind == b"IDAT":
            data += body
        elif kind == b"IEND":
            break
        at += 12 + length
    if size is None:
        raise PictureError("the PNG does not say how large it is")
    try:
        # Only a little is unpacked: a few bytes can claim to be gigabytes.
        if not zlib.decompressobj().decompress(bytes(data), 1 << 16):
            raise PictureError("the PNG holds no picture data")
    except zlib.error as err:
        raise PictureError(f"the PNG's picture cannot be unpacked: {err}") from err
    return size


def parse(raw: bytes) -> Picture:
    """Kind and size of a JPEG or PNG that is whole: every segment up to the picture, its end, a sane size.

    Raises:
        PictureError: it is neither, cut off, damaged, or of no sane size.
    """
    if raw.startswith(b"\xff\xd8"):
        picture = _jpeg(raw)
    elif raw.startswith(b"\x89PNG\r\n\x1a\n"):
        picture = _png(raw)
    else:
        raise PictureError(f"neither JPEG nor PNG: it begins with {raw[:8]!r}" if raw else "the file is empty")
    if not (0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE):
        raise PictureError(f"the {picture.kind} claims {picture.width} x {picture.height} pixels")
    return picture
