"""Small pictures for a page: of every kind that a camera makes, and of files that are none."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from trialbench.report.html import thumbnail as thumbnails
from trialbench.report.html.report import report_html
from trialbench.report.html.thumbnail import Thumbnail


def drawn(mode: str = "RGB", size: tuple[int, int] = (640, 480), color: Any = "red", **options: Any) -> Any:
    return Image.new(mode, size, color, **options)


def written(path: Path, image: Any, kind: str = "JPEG", **options: Any) -> Path:
    image.save(path, kind, **options)
    return path


def decoded(found: Thumbnail) -> Any:
    assert found.why == ""
    raw = base64.b64decode(found.uri.removeprefix("data:image/jpeg;base64,"))
    assert len(raw) <= thumbnails.MAX_BYTES
    return Image.open(io.BytesIO(raw))


def noise(size: tuple[int, int], seed: int = 1) -> Any:
    """The worst that a camera can see."""
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_becomes_small_and_keeps_its_shape(tmp_path: Path, kind: str) -> None:
    small = decoded(thumbnails.thumbnail(written(tmp_path / "x", drawn(), kind)))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (320, 240))
    red, green, blue = small.getpixel((10, 10))
    assert (red > 240, green < 20, blue < 20) == (True, True, True)


def test_a_small_picture_is_not_made_larger(tmp_path: Path) -> None:
    assert decoded(thumbnails.thumbnail(written(tmp_path / "x", drawn(size=(32, 24))))).size == (32, 24)


def test_noise_takes_no_more_than_any_other(tmp_path: Path) -> None:
    decoded(thumbnails.thumbnail(written(tmp_path / "x", noise((1920, 1080)), quality=95)))


@pytest.mark.parametrize(
    ("mode", "color", "kind"),
    [("CMYK", (0, 255, 255, 0), "JPEG"), ("L", 128, "JPEG"), ("P", 1, "PNG"), ("LA", (200, 0), "PNG"), ("1", 1, "PNG")],
)
def test_every_mode_of_color_is_shown(tmp_path: Path, mode: str, color: Any, kind: str) -> None:
    assert decoded(thumbnails.thumbnail(written(tmp_path / "x", drawn(mode, color=color), kind))).mode == "RGB"


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    path = written(tmp_path / "x", drawn("RGBA", color=(0, 0, 0, 0)), "PNG")
    assert min(decoded(thumbnails.thumbnail(path)).getpixel((5, 5))) > 240


def test_of_an_animation_the_first_frame_is_shown_and_named_so(tmp_path: Path) -> None:
    path = written(tmp_path / "x", drawn(), "PNG", save_all=True, append_images=[drawn(color="blue")])
    found = thumbnails.thumbnail(path)
    assert decoded(found).getpixel((5, 5))[0] > 240
    assert found.note == "the first of 2 frames"


def test_a_turned_picture_is_shown_as_stored_and_named_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = thumbnails.thumbnail(written(tmp_path / "x", drawn(), exif=exif.tobytes()))
    small = decoded(found)
    assert small.size == (320, 240)
    assert "viewers turn it" in found.note
    assert not dict(small.getexif())


def test_what_a_file_says_besides_its_pixels_stays_behind(tmp_path: Path) -> None:
    path = written(tmp_path / "x", drawn(), comment=b"the owner's name" * 4000, icc_profile=b"p" * 30_000)
    assert b"owner" not in base64.b64decode(thumbnails.thumbnail(path).uri.partition(",")[2])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "can't be read"),
        (b"no picture", "can't be read"),
        (b"<svg onload='alert(1)'/>", "can't be read"),
        (b"GIF89a" + bytes(100), "can't be read"),
        (b"\xff\xd8\xff" + bytes(100), "can't be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "can't be read"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, raw: bytes, why: str) -> None:
    (tmp_path / "x").write_bytes(raw)
    assert why in thumbnails.thumbnail(tmp_path / "x").why


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_that_was_cut_off_is_named(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "x", noise((640, 480)), kind)
    path.write_bytes(path.read_bytes()[:20_000])
    assert "can't be read" in thumbnails.thumbnail(path).why


def claiming(side: int) -> bytes:
    """A PNG of a few bytes that claims so many pixels a side."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 20_000, 2**31 - 1])
def test_a_bomb_is_not_unpacked(tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(claiming(side))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("was unpacked"))
    assert "too large to show" in thumbnails.thumbnail(path).why


def test_a_file_of_a_gigabyte_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 30)
    assert "more than 32 MiB" in thumbnails.thumbnail(tmp_path / "x").why


def test_links_folders_and_odd_names_are_no_pictures(tmp_path: Path) -> None:
    real = written(tmp_path / "real", drawn())
    (tmp_path / "link").symlink_to(real)
    for path in (tmp_path / "link", tmp_path, tmp_path / "none", tmp_path / ("x" * 5000), tmp_path / "a\0b"):
        assert thumbnails.thumbnail(path).why


@pytest.mark.prove
def test_sixty_pictures_of_a_camera_stay_below_4_mb(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.scenes(tmp_path / "run")
    path = run / "samples" / "nav-candidate.jsonl"
    lines = [
        json.loads(line) | {"parsed": ["right", "large"], "content": "x" * 4000}
        for line in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "inputs" / "scenes").mkdir()
    for at in range(60):
        written(run / "inputs" / "scenes" / f"scene-{at:02d}.jpg", noise((1280, 720), at), quality=90)
    page = report_html(run)
    assert page.count('<img class="thumb"') == 60
    assert len(page.encode()) < 4_000_000
