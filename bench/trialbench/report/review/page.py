"""`review.html`: the pairs of a blind review, one at a time, on a self-contained page that names no model."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from trialbench.errors import UsageError
from trialbench.files import read_json, write_atomic
from trialbench.report.html import thumbnail
from trialbench.report.html.described import IMAGES, MAX_IMAGE_BYTES, asks_picture, command_path, question
from trialbench.report.plan import Workload
from trialbench.report.review.key import Key, keep, listed
from trialbench.report.review.pairs import Pair
from trialbench.report.run import Run, read_run
from trialbench.show.html import render

NAME = "review.html"
_TEMPLATE = Path(__file__).parent / "templates" / "review.html.j2"
_MAX_BYTES = 3_900_000
# Of all pictures together, so that there is room for the replies: base64 adds a third. Those without room get a small
# copy; the second limit holds for all of these, as data URIs.
_MAX_PICTURES_BYTES, _MAX_SMALL_BYTES = 2_000_000, 900_000
_HOST_FILES = {True: "scenes.json", False: "pictures.json"}


@dataclass(frozen=True)
class Shown:
    """A pair as it stands on the page.

    `picture` is the id of its picture on the page; empty, with the reason in `why`, where it has none.
    """

    id: str
    title: str
    question: str
    first: str
    second: str
    picture: str
    why: str


@dataclass(frozen=True)
class Page:
    """The page: `pictures` are data URIs by id; `command` records the judgments."""

    run: str
    review: str
    host: str
    began: str
    pairs: list[Shown]
    identical: int
    pictures: Mapping[str, str]
    command: str


def write_review(path: Path) -> Path | None:
    """Write the page of the run in `path`, and its key if there is none; returns the page's path.

    None, and nothing is written, where there are no two different replies to compare.

    Raises:
        UsageError: no result folder, or a key that cannot be read.
        OSError: not writable.
    """
    run = read_run(path)
    found = listed(run)
    if all(one.identical for one in found):
        return None
    # The key first: judgments on a page without one would be worth nothing.
    key = keep(run, found)
    write_atomic(path / NAME, render(_TEMPLATE, max_bytes=_MAX_BYTES, page=page(run, found, key)))
    return path / NAME


def page(run: Run, found: Iterable[Pair], key: Key) -> Page:
    """The content of the page."""
    replies = {one.sha256: one for one in found}
    works = {work.name: work for work in (*run.plan.shown, run.plan.decider)}
    album = _Album(run)
    shown = []
    for turn in key.pairs:
        pair, work = replies[turn.sha256], works[turn.workload]
        texts = (pair.baseline, pair.candidate) if turn.first == "baseline" else (pair.candidate, pair.baseline)
        picture, why = album.find(work, turn.scene)
        title = work.name.replace("-", " ").replace("_", " ").capitalize()
        shown.append(Shown(turn.id, title, album.question(work, turn.scene), *texts, picture, why))
    return Page(
        run=run.id,
        review=key.review,
        host=run.plan.host or "",
        began=run.began,
        pairs=shown,
        identical=len(key.identical),
        pictures=album.pictures,
        command=f"trialbench verdict {command_path(run.path)} --review judgements.json",
    )


class _Album:
    """The pictures and questions of a run's scenes; each picture once, as long as there is room."""

    def __init__(self, run: Run) -> None:
        self.pictures: dict[str, str] = {}
        self._run = run
        self._inputs = run.path / "inputs"
        self._rows = {decides: _rows(self._inputs / name) for decides, name in _HOST_FILES.items()}
        self._ids: dict[Path, str] = {}
        self._left, self._left_small = _MAX_PICTURES_BYTES, _MAX_SMALL_BYTES

    def _of(self, work: Workload) -> Mapping[str, Mapping[str, Any]] | None:
        return self._rows[work == self._run.plan.decider]

    def _row(self, work: Workload, scene: str | None) -> Mapping[str, Any]:
        return (self._of(work) or {}).get(scene or "", {})

    def question(self, work: Workload, scene: str | None) -> str:
        """What was asked: the prompt that production made for the scene, or the workload's own words."""
        if work != self._run.plan.decider:
            return question(work)
        variables = self._row(work, scene).get("variables")
        own = variables.get("prompt") if isinstance(variables, dict) else None
        if isinstance(own, str):
            return own
        try:
            return (self._inputs / "prompt.txt").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return question(work)

    def find(self, work: Workload, scene: str | None) -> tuple[str, str]:
        """The id of the scene's picture, or why it is not on the page; neither where none was sent."""
        if not asks_picture(work):
            return "", ""
        named = self._row(work, scene).get("image")
        # Scenes of the workload's own file have no pictures of theirs.
        known = isinstance(named, str) or self._of(work) is None or scene is None
        if not known:
            return "", "The run's folder does not say which picture this was."
        place = self._inputs / (named if isinstance(named, str) else "camera.jpg")
        if place not in self._ids:
            uri, why = self._embedded(place)
            if why:
                return "", why
            self._ids[place] = f"picture-{len(self._ids) + 1}"
            self.pictures[self._ids[place]] = uri
        return self._ids[place], ""

    def _embedded(self, place: Path) -> tuple[str, str]:
        try:
            # A host wrote this name: it must not lead out of the folder.
            if not place.resolve().is_relative_to(self._inputs.resolve()):
                return "", "The picture is outside the run's folder."
            size = place.stat().st_size
            if size > min(self._left, MAX_IMAGE_BYTES):
                return self._smaller(place)
            raw = place.read_bytes()
        except (OSError, ValueError):
            return "", "The run's folder does not hold the picture."
        kind = next((kind for start, kind in IMAGES.items() if raw.startswith(start)), None)
        if kind is None:
            return "", "The picture is not a JPEG, PNG or WebP."
        self._left -= len(raw)
        # Markup: text would be truncated, and base64 needs no escaping.
        return Markup(f"data:{kind};base64,{base64.b64encode(raw).decode()}"), ""

    def _smaller(self, place: Path) -> tuple[str, str]:
        """A small copy, where the picture itself has no room."""
        small = thumbnail.thumbnail(place).uri if thumbnail.available() else ""
        if not small or len(small) > self._left_small:
            return "", "The picture is too large for this page; it is in the run's folder, below inputs."
        self._left_small -= len(small)
        return small, ""


def _rows(path: Path) -> dict[str, Mapping[str, Any]] | None:
    """The scenes of a host by id, none where their file is not a list of scenes; None where the host has no scenes."""
    if not path.exists():
        return None
    try:
        rows = read_json(path)
    except UsageError:
        return {}
    fits = isinstance(rows, list) and all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows)
    return {row["id"]: row for row in rows} if fits else {}
