# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures: whole ones, cut ones, damaged ones, and bytes that are none."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(width: int = 640, height: int = 480, frame: int = 0xC0, data: bytes = b"\x12\x34") -> bytes:
    """The bones of a JPEG."""
    size = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + data
    return b"\xff\xd8" + segment(0xE0, b"JFIF\0") + segment(frame, size) + scan + b"\xff\xd9"


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int = 4, height: int = 2, data: bytes | None = None) -> bytes:
    """A gray PNG."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress(b"\0" * (width + 1) * height) if data is None else data
    half = len(pixels) // 2
    return SIGNATURE + header + chunk(b"IDAT", pixels[:half]) + chunk(b"IDAT", pixels[half:]) + chunk(b"IEND", b"")


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC2])
def test_a_jpeg_says_its_size(frame: int) -> None:
    assert pictures.parse(jpeg(frame=frame)) == pictures.Picture("JPEG", 640, 480)


def test_fill_bytes_and_lonely_markers_are_skipped() -> None:
    raw = jpeg()
    assert pictures.parse(raw[:2] + b"\xff\xff\xff\x01\xff" + raw[2:]).width == 640


def test_a_thumbnail_inside_is_not_the_picture() -> None:
    raw = jpeg()
    assert pictures.parse(raw[:2] + segment(0xE1, jpeg(64, 48)) + raw[2:]).width == 640


def test_a_png_says_its_size() -> None:
    assert pictures.parse(png()) == pictures.Picture("PNG", 4, 2)


BROKEN = [
    (b"", "the file is empty"),
    (b"GIF89a..", "neither JPEG nor PNG: it begins with b'GIF89a..'"),
    (b"<html></html>", "neither JPEG nor PNG"),
    (jpeg()[:1], "neither JPEG nor PNG"),
    (jpeg()[:2], "no marker at byte 2"),
    (jpeg()[:20], "cut off in the segment at byte 11"),
    (jpeg()[:-2], "no end: it is cut off"),
    (jpeg(data=b""), "holds no picture data"),
    (b"\xff\xd8\xff\xd9", "ends before its picture begins"),
    (b"\xff\xd8\xff\xe0\x00\x01", "cut off in the segment at byte 2"),
    (b"\xff\xd8rest", "no marker at byte 2"),
    (jpeg(frame=0xC4), "does not say how large it is"),
    (jpeg(width=0), "claims 0 x 480 pixels"),
    (jpeg(height=60_000), "claims 640 x 60000 pixels"),
    (png()[:30], "cut off in the chunk at byte 8"),
    (png()[:-12], "cut off in the chunk at byte"),
    (
        png().replace(b"\x00\x00\x00\x04\x00", b"\x00\x00\x00\x05\x00", 1),
        "chunk at byte 8 has a wrong checksum",
    ),
    (png(data=b"no deflate"), "cannot be unpacked"),
    (png(data=b""), "holds no picture data"),
    (SIGNATURE + chunk(b"IDAT", zlib.compress(b"x")) + chunk(b"IEND", b""), "does not say how large it is"),
    (png(width=1 << 30, height=1, data=zlib.compress(b"x")), "claims 1073741824 x 1 pixels"),
]


@pytest.mark.parametrize(("raw", "message"), BROKEN, ids=[message for _unused, message in BROKEN])
def test_what_is_wrong_with_a_picture_is_said(raw: bytes, message: str) -> None:
    with pytest.raises(pictures.PictureError) as caught:
        pictures.parse(raw)
    assert message in str(caught.value)


@settings(max_examples=examples(300))
@given(st.sampled_from([b"", b"\xff\xd8", SIGNATURE]), st.binary(max_size=200))
def test_no_bytes_crash_the_parser(head: bytes, rest: bytes) -> None:
    with contextlib.suppress(pictures.PictureError):
        pictures.parse(head + rest)


@settings(max_examples=examples(300))
@given(st.sampled_from([jpeg(), png()]), st.data())
def test_no_damage_crashes_the_parser(whole: bytes, data: st.DataObject) -> None:
    raw = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(pictures.PictureError):
        picture = pictures.parse(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
        assert 0 < picture.width <= pictures.MAX_SIDE
