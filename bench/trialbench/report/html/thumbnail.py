"""Small copies of a run's pictures, for a page that holds dozens of them; made by Pillow, which only a controller has.

The pictures come from another machine. Whatever one of them is, the page gets a small JPEG or the reason why not.
"""

from __future__ import annotations

import base64
import importlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from PIL.Image import Image

# What a thumbnail may take, and the sizes and qualities that are tried for it: noise takes more than a room does.
MAX_BYTES = 20_000
_TRIES = ((320, 70), (240, 60), (160, 50), (96, 40))
# A picture of more bytes or pixels is not opened: no camera makes it, and unpacked it would take gigabytes.
_MOST_BYTES, _MOST_PIXELS = 32 << 20, 40_000_000
_ORIENTATION, _UPRIGHT = 0x0112, 1
NEEDED = "small pictures need Pillow, which is not installed here (do: pip install 'edgelab-trialbench[controller]')"


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URI, or `why` there is none; `note` must be known beside it."""

    uri: str = ""
    why: str = ""
    note: str = ""


def available() -> bool:
    """Whether Pillow is here."""
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        return False
    return True


def thumbnail(path: Path) -> Thumbnail:
    """The picture in `path`, small, its pixels as they are stored."""
    from PIL import Image

    try:
        if path.is_symlink() or not path.is_file():
            return Thumbnail(why="its picture is not in the run's folder")
        if path.stat().st_size > _MOST_BYTES:
            return Thumbnail(why=f"its picture is too large to show: more than {_MOST_BYTES >> 20} MiB")
        with warnings.catch_warnings():
            # What Pillow warns of, the limits below decide.
            warnings.simplefilter("ignore")
            # No other formats: fewer decoders see a stranger's bytes.
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > _MOST_PIXELS:
                    return Thumbnail(why=f"its picture is too large to show: {image.width} x {image.height} pixels")
                note = _note(image)
                # A JPEG is decoded small at once.
                image.draft("RGB", (_TRIES[0][0], _TRIES[0][0]))
                raw = _small(_plain(image))
    except Image.DecompressionBombError:
        return Thumbnail(why=f"its picture is too large to show: more than {_MOST_PIXELS // 1_000_000} megapixels")
    except Exception:
        # A decoder may fail on a damaged file in any way; the page shows the rest.
        return Thumbnail(why="its picture can't be read as a JPEG or PNG")
    return Thumbnail(Markup(f"data:image/jpeg;base64,{base64.b64encode(raw).decode()}"), note=note)


def _plain(image: Image) -> Image:
    """The first frame in RGB; what is transparent in it is white."""
    import PIL.Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", shown.size, "white"), shown).convert("RGB")


def _small(image: Image) -> bytes:
    """A JPEG of at most `MAX_BYTES`, without what the file said besides its pixels."""
    raw = b""
    for side, quality in _TRIES:
        small = image.copy()
        # A comment would be written again.
        small.info = {}
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality, optimize=True)
        raw = out.getvalue()
        if len(raw) <= MAX_BYTES:
            break
    return raw


def _note(image: Image) -> str:
    """What a person would not see: that viewers turn the picture, that there are further frames."""
    said = []
    if image.getexif().get(_ORIENTATION, _UPRIGHT) not in (0, _UPRIGHT):
        said.append("shown as it is stored: viewers turn it (EXIF orientation), most engines do not")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        said.append(f"the first of {frames} frames")
    return "; ".join(said)
