"""Checks the workloads of a plan as its clients will read them, so that a mistake is found before a tenant stops."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import read_text
from trialbench.workloads import Workload, load_workload, packaged, parse_document
from trialbench.workloads.parsers import Contract
from trialbench.workloads.scenes import meaning

# The trial gives a workload these two; for this check any value will do.
_PROMPT, _PICTURE = "prompt.txt", "camera.gif"


def problems(listed: Sequence[Any], *, labels: Sequence[Any] = (), judged: bool = False) -> list[str]:
    """What keeps a trial from sending the workloads of its plan, or from reading their replies, a sentence each.

    Args:
        listed: `workloads` of a plan. One without a text is packaged; one that is not packaged here is left to
            the image, which may be of another version.
        labels: right answers of the host's scenes, each with its `place` and its `label`.
        judged: whether right answers judge the candidate, which only the workload that decides may have.
    """
    found: list[str] = []
    for entry in listed:
        name = str(entry.get("name")) if isinstance(entry, dict) else ""
        text = entry.get("text") if isinstance(entry, dict) else None
        if text is None and name not in packaged():
            continue
        try:
            work = _as_sent(name, text)
        except UsageError as error:
            found.append(str(error))
            continue
        if entry.get("role") != "decides":
            continue
        if work.contract is None:
            found.append(f"{name}.yml: expected a contract, because this workload decides, found none")
            continue
        found += _unread(labels, work.contract)
        if judged and not any(scene.expected for scene in work.scenes):
            scenes = f"none in its {len(work.scenes)}" if work.scenes else "no scenes"
            found.append(
                f"{name}.yml: expected scenes with the right answer, because accuracy_not_worse_by is decided by them, "
                f"found {scenes}"
            )
    return found


def _unread(labels: Sequence[Any], contract: Contract) -> list[str]:
    """The labels that no reply could equal, a sentence each."""
    found = []
    for one in labels:
        try:
            meaning(one["label"], contract, one["place"])
        except UsageError as error:
            found.append(str(error))
    return found


def _as_sent(name: str, text: str | None) -> Workload:
    """A workload with its request, made from what its container will hold: its text, the prompt and the picture.

    Raises:
        UsageError: it can't be sent; names the file as it is called there, `NAME.yml`.
    """
    with tempfile.TemporaryDirectory(prefix="trialbench-") as folder:
        inside = Path(folder)
        (inside / _PROMPT).write_text("prompt", encoding="utf-8")
        (inside / _PICTURE).write_bytes(b"GIF89a")
        path = inside / f"{Path(name).name}.yml"
        try:
            if text is not None:
                if not str(text).strip():
                    raise UsageError(
                        f"{path}: expected a workload, found nothing: its file is missing, unreadable or empty"
                    )
                path.write_text(str(text), encoding="utf-8", errors="surrogateescape")
                _stands_alone(path)
            work = load_workload(
                name if text is None else str(path), image=inside / _PICTURE, prompt_file=inside / _PROMPT
            )
            json.dumps([work.messages, work.request])
        except UsageError as error:
            raise UsageError(str(error).replace(f"{folder}/", "")) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{path.name}: expected values that JSON can hold, found others: {error}") from None
    return work


def _stands_alone(path: Path) -> None:
    """Refuse variables whose values only a caller or another file could give: neither is in the container."""
    document, line_of = parse_document(read_text(path, "workload"), path)
    listed = document.get("scenes")
    beside = isinstance(listed, str) or any(isinstance(one, dict) and one.get("image") for one in listed or ())
    if beside:
        raise UsageError(
            f"{path}{line_of(('scenes',))}: scenes: expected them in this file and without pictures, because a trial "
            "takes pictures from its host (trial_scenes), found others"
        )
    variables = document.get("variables")
    for name, value in variables.items() if isinstance(variables, dict) else ():
        if isinstance(value, dict) or (value is None and name != "prompt"):
            given = "a file" if isinstance(value, dict) else "null"
            raise UsageError(
                f"{path}{line_of(('variables', name))}: variables.{name}: expected its value in this file, because a "
                f"trial gives prompt and image alone, found {given}"
            )
