# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenes of a host: pictures in a folder, and what a table says about them.

The table is CSV with a column ``image`` (a file name in the folder) and, optionally, ``id``, ``expected`` (the right
answer) and ``group``; every other column is an argument of production's prompt function. Nothing is sent from here.
"""

from __future__ import annotations

import ast
import csv
import fnmatch
import hashlib
import io
import keyword
import math
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import pictures
from .plan import Scenes

_COLUMNS = ("image", "id", "expected", "group")
# What a harvest brings home, with room for the folders above.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,149}\Z")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
# All pictures together: every request of a session is held in memory, so that the window waits for no file.
MAX_BYTES = 64 << 20
MAX_TABLE_BYTES = 4 << 20


class ScenesError(ValueError):
    """The scenes are not usable; the message names the file, what was expected and what was found."""


@dataclass(frozen=True)
class Scene:
    """One question: a picture, the arguments of the prompt function that it changes, and what is known about it.

    ``place`` is its file and line in the table, empty without a row.
    """

    id: str
    image: Path
    arguments: dict[str, Any] = field(default_factory=dict)
    expected: str = ""
    group: str = ""
    place: str = ""


def find(wanted: Scenes, folder: Path) -> list[Scene]:
    """The scenes of ``folder`` that the seed draws, in the order in which they are asked.

    Raises:
        ScenesError: the folder or its table can't be read, or there are fewer than two scenes.
    """
    images = _images(folder, wanted.pattern)
    # A pattern such as * fits the table, too.
    images.pop(wanted.labels, None)
    rows = _table(folder / wanted.labels, images) if wanted.labels else []
    named = {row["image"] for _unused, row in rows}
    found = [_scene(row, images[row["image"]], place) for place, row in rows]
    found += [Scene(_name(path), path) for name, path in images.items() if name not in named]
    if len(found) < 2:
        raise ScenesError(f"{folder}: expected at least two pictures like {wanted.pattern}, found {len(found)}")
    names = [scene.id for scene in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScenesError(f"{folder}: expected names that differ, found twice: {', '.join(twice)}; give each row an id")
    return sorted(found, key=lambda scene: _drawn(wanted.seed, scene.id))[: wanted.limit]


def sha256(scene: Scene) -> str:
    """The hash of its picture."""
    return hashlib.sha256(scene.image.read_bytes()).hexdigest()


def copied(scene: Scene) -> str:
    """The name of its picture among the inputs of a run: its own, or by its hash where a harvest would leave it out."""
    return scene.image.name if _PLAIN.match(scene.image.name) else f"picture-{sha256(scene)[:16]}"


def check(found: list[Scene]) -> list[pictures.Picture]:
    """What the pictures of scenes say about themselves.

    Raises:
        ScenesError: one can't be read, is cut off, asks the same as another, or all of them are too large;
            names the first.
    """
    said: list[pictures.Picture] = []
    seen: dict[tuple[bytes, str], str] = {}
    size = 0
    for scene in found:
        try:
            with scene.image.open("rb") as file:
                raw = file.read(MAX_BYTES - size + 1)
        except OSError as err:
            raise ScenesError(f"{scene.image}: {err.strerror or err}") from err
        size += len(raw)
        if size > MAX_BYTES:
            raise ScenesError(
                f"{scene.image}: expected at most {MAX_BYTES >> 20} MiB of pictures, found more: "
                "fewer or smaller ones fit"
            )
        try:
            said.append(pictures.parse(raw))
        except pictures.PictureError as err:
            raise ScenesError(f"{scene.image}: {err}") from err
        asks = hashlib.sha256(raw).digest(), repr(scene.arguments)
        other = seen.setdefault(asks, scene.id)
        if other != scene.id:
            raise ScenesError(
                f"{scene.image}: expected scenes that differ, found the same picture and arguments in {other} and "
                f"{scene.id}"
            )
    return said


def call(of_inventory: str, arguments: dict[str, Any]) -> str:
    """The call of the prompt function with a scene's arguments in place of those of the same names.

    Raises:
        ScenesError: the inventory's own is not a plain call.
    """
    try:
        parsed = ast.parse(of_inventory, mode="eval").body
    except SyntaxError as err:
        raise ScenesError(f"contracts.prompt.call: expected one call, found {of_inventory!r}: {err.msg}") from err
    if not isinstance(parsed, ast.Call):
        raise ScenesError(f"contracts.prompt.call: expected one call, found {of_inventory!r}")
    if not arguments:
        return of_inventory
    kept = [word for word in parsed.keywords if word.arg not in arguments]
    # Built from values, never from text: a cell can be no code.
    own = [ast.keyword(arg=name, value=ast.Constant(value)) for name, value in arguments.items()]
    return ast.unparse(ast.Call(func=parsed.func, args=parsed.args, keywords=[*kept, *own]))


def _drawn(seed: int, name: str) -> str:
    # By hash and not by a generator: the same on every version of Python.
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _images(folder: Path, pattern: str) -> dict[str, Path]:
    try:
        listed = sorted(folder.iterdir())
    except OSError as err:
        raise ScenesError(f"{folder}: {err.strerror or err}") from err
    # A link could lead root to a file that its owner may not read.
    return {
        path.name: path
        for path in listed
        if fnmatch.fnmatchcase(path.name, pattern) and path.is_file() and not path.is_symlink()
    }


def _table(path: Path, images: dict[str, Path]) -> list[tuple[str, dict[str, str]]]:
    """The rows of the table, each with its place."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TABLE_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as err:
        raise ScenesError(f"{path}: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise ScenesError(f"{path}: expected UTF-8, found {err.object[int(err.start) : int(err.end)]!r}") from err
    if len(raw) > MAX_TABLE_BYTES:
        raise ScenesError(f"{path}: expected at most {MAX_TABLE_BYTES >> 20} MiB, found more")
    rows = []
    # A name with accents can be spelled in two ways that look alike.
    spelled = {unicodedata.normalize("NFC", name): name for name in images}
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        if "image" not in columns:
            raise ScenesError(
                f"{path}: expected a column image with file names, found {', '.join(columns) or 'nothing'}"
            )
        bad = [name for name in columns if name not in _COLUMNS and not _is_argument(name)]
        if bad:
            raise ScenesError(f"{path}: expected columns named as arguments of the prompt function, found {bad[0]!r}")
        twice = [name for name in columns if columns.count(name) > 1]
        if twice:
            raise ScenesError(f"{path}: expected every column once, found {twice[0]!r} again")
        for row in reader:
            if None in row or None in row.values():
                raise ScenesError(f"{path}:{reader.line_num}: expected {len(columns)} cells, found others")
            image = row["image"]
            if image not in images:
                image = spelled.get(unicodedata.normalize("NFC", image), "")
            if not image:
                raise ScenesError(
                    f"{path}:{reader.line_num}: expected a picture of its folder that fits the pattern, "
                    f"found {row['image']!r}"
                )
            rows.append((f"{path}:{reader.line_num}", {**row, "image": image}))
    except csv.Error as err:
        raise ScenesError(f"{path}:{reader.line_num}: is not CSV: {err}") from err
    return rows


def _is_argument(name: str) -> bool:
    # Image or Expected with a capital is one of our own, misspelled.
    return name.isidentifier() and not keyword.iskeyword(name) and name.lower() not in _COLUMNS


def _scene(row: dict[str, str], image: Path, place: str) -> Scene:
    name = row.get("id") or _name(image)
    if _ODD.search(name) or not name[:1].isalnum():
        raise ScenesError(f"{place}: expected ids of letters, digits, dot, dash, underscore, found {name!r}")
    arguments = {column: _literal(cell) for column, cell in row.items() if column not in _COLUMNS and cell != ""}
    return Scene(name, image, arguments, row.get("expected") or "", row.get("group") or "", place)


def _name(image: Path) -> str:
    """A picture's name as a scene's id."""
    return _ODD.sub("-", image.stem).strip("-._") or "picture"


def _literal(cell: str) -> Any:
    """A number, a truth value, None or a quoted text as Python writes them; any other cell is the text itself."""
    try:
        found = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    if isinstance(found, float) and not math.isfinite(found):
        return cell
    return found if isinstance(found, (str, int, float, type(None))) else cell
