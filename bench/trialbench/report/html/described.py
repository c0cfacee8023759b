"""The replies of both models to what is shown, side by side with the camera image, for a person to judge."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from trialbench.measure.sample import Sample
from trialbench.report.plan import Workload
from trialbench.report.run import Run

# Keeps a report below 2 MB: base64 adds a third.
MAX_IMAGE_BYTES = 700_000
_MOST_REPLIES = 12
IMAGES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Reply:
    """A reply, and how often it was given out of `total`; `trouble` if there was none, `scene` if there are several."""

    text: str
    count: int
    total: int
    trouble: str = ""
    scene: str = ""


@dataclass(frozen=True)
class Shown:
    """The replies to one workload side by side; `command` records a person's judgment.

    `id` is the section's, `title` the workload's name for people; `pictured` tells whether it asks about a picture;
    `reviewed` is what a blind review found that decides nothing.
    """

    id: str
    title: str
    question: str
    pictured: bool
    baseline: list[Reply]
    candidate: list[Reply]
    judged: str | None
    reviewed: str
    command: str
    hidden: int


@dataclass(frozen=True)
class Picture:
    """The camera image as a data URI, or why it is not shown."""

    uri: str = ""
    why: str = ""
    sha256: str = ""


def command_path(path: Path) -> str:
    """`path` for a command line: from the working folder if it lies below, its links resolved, quoted."""
    real = path.resolve()
    here = Path.cwd()
    return shlex.quote(str(real.relative_to(here) if real.is_relative_to(here) else real))


def shown(run: Run) -> list[Shown]:
    """The distinct replies to every workload that is shown and was measured."""
    found = (_shown(run, work) for work in run.plan.shown)
    return [one for one in found if one is not None]


def _shown(run: Run, work: Workload) -> Shown | None:
    sides = [run.samples(name) for name in (work.baseline, work.candidate)]
    if not any(sides):
        return None
    replies = [_replies(side) for side in sides]
    reviewed = run.verdict.review.workloads.get(work.name) if run.verdict and run.verdict.review else None
    return Shown(
        id=f"shown-{work.name}",
        title=work.name.capitalize(),
        question=question(work),
        # Where nobody can tell what was asked, the picture is there.
        pictured=asks_picture(work) or not _parts(work),
        baseline=replies[0][:_MOST_REPLIES],
        candidate=replies[1][:_MOST_REPLIES],
        judged=run.judged[work.name],
        reviewed=reviewed.word if reviewed else "",
        command=f"trialbench verdict {command_path(run.path)} --judge {work.name}=better",
        hidden=sum(max(0, len(side) - _MOST_REPLIES) for side in replies),
    )


def _replies(samples: Sequence[Sample]) -> list[Reply]:
    """The distinct replies, with their counts; by scene, so that both sides have them in the same order."""
    found: dict[tuple[str, str, str], int] = {}
    asked = Counter(sample.scene or "" for sample in samples)
    for sample in samples:
        trouble = "" if sample.ok else f"{sample.error_class or 'failed'}: {sample.error_detail or 'no valid reply'}"
        key = (sample.scene or "", sample.content or "", trouble)
        found[key] = found.get(key, 0) + 1
    in_turns = sorted(found.items(), key=lambda one: list(asked).index(one[0][0]))
    return [Reply(text, count, asked[scene], trouble, scene) for (scene, text, trouble), count in in_turns]


def question(work: Workload) -> str:
    """What a workload asks: by the run's own text, else by the packaged one; empty where neither can be read."""
    texts = [part if isinstance(part, str) else part.get("text") for part in _parts(work)]
    return " ".join(str(one) for one in texts if one)


def asks_picture(work: Workload) -> bool:
    """Whether a workload sends a picture with its question."""
    return any(isinstance(part, dict) and part.get("image") for part in _parts(work))


def _parts(work: Workload) -> list[str | dict[str, Any]]:
    """The parts of a workload's messages; none where neither its text nor the packaged one can be read."""
    import yaml

    import trialbench.workloads

    packaged = Path(trialbench.workloads.__file__).parent / f"{work.name}.yml"
    try:
        text = packaged.read_text(encoding="utf-8") if work.text is None else work.text
        contents = [message["content"] for message in yaml.safe_load(text)["messages"]]
        parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return parts if all(isinstance(part, str | dict) for part in parts) else []


def camera(run: Run) -> Picture:
    """The camera image, if it is what both models were shown."""
    if any(sample.scene for work in run.plan.shown for sample in run.samples(work.baseline)):
        return Picture(why="both models were shown the pictures in inputs/scenes; each reply names its own")
    return picture(run.path / "inputs" / "camera.jpg")


def picture(path: Path) -> Picture:
    """The image in `path`, if it is a supported image and small enough to embed."""
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            return Picture(
                why=f"inputs/camera.jpg is too large to embed ({size} bytes, at most {MAX_IMAGE_BYTES});"
                " it is in the run's folder"
            )
        raw = path.read_bytes()
    except OSError:
        return Picture(why="the run's folder holds no camera image (inputs/camera.jpg)")
    kind = next((kind for start, kind in IMAGES.items() if raw.startswith(start)), None)
    sha256 = hashlib.sha256(raw).hexdigest()
    if kind is None:
        return Picture(why="inputs/camera.jpg is not a JPEG, PNG or WebP", sha256=sha256)
    # Markup: text would be truncated, and base64 needs no escaping.
    return Picture(uri=Markup(f"data:{kind};base64,{base64.b64encode(raw).decode()}"), sha256=sha256)
