"""Writes a run into the user's three Markdown documents; everything else in them stays byte for byte.

| document | what is written | when |
|---|---|---|
| research | a marked block of numbers, in place of the sentence "no benchmarks exist yet" | completed trials |
| registry | the model's row under Active Models, the steady-state peak, a line of the Change Log | completed trials |
| memory | a line about the run, in a marked block | trials that held the host and are over |

A trial that was rolled back has no valid numbers, so only the memory mentions it. All edits are planned before anything
is written: if one document lacks its place, none of the three is changed. Writing a run a second time changes nothing,
and an older run never replaces what a newer one has written.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import Replacement, locked, replace_all
from trialbench.report.documents.markdown import Edit, Page
from trialbench.report.documents.memory import memory_edits
from trialbench.report.documents.registry import registry_edits
from trialbench.report.documents.research import research_edits, shown_run
from trialbench.report.documents.trial import Trial, read_trial
from trialbench.show.terminal import screen

RESEARCH = "docs/RESEARCH-GEMMA4-E4B-QUANTIZATIONS.md"
REGISTRY = "docs/RESOURCE-REGISTRY.md"
MEMORY = "MEMORY.md"
# Larger than any hand-written document; bounds the Markdown parser's input.
_MAX_MIB = 16

Make = Callable[[Page, Trial], list[Edit]]


@dataclass(frozen=True)
class Document:
    """One document: its text before and after, and why it is left alone if it is."""

    name: str
    path: Path
    before: str
    after: str
    left_alone: str | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after

    def line(self, *, check: bool) -> str:
        """One line that says what happens to the document."""
        if self.left_alone:
            return f"{self.name}: left alone, {self.left_alone}"
        if not self.changed:
            return f"{self.name}: unchanged"
        return f"{self.name}: {'would be written' if check else 'written'}"


def write_documents(folder: Path, root: Path, *, check: bool = False, research: str = RESEARCH) -> list[Document]:
    """Write the run in `folder` into the documents below `root`; with `check` only find out what would be written.

    Args:
        folder: a result folder with a verdict.
        root: the folder that holds MEMORY.md and docs/.
        check: write nothing.
        research: the research document, relative to `root`.

    Raises:
        UsageError: no such run, not decided yet, or a rehearsal; no such root; a document that is not there, or
            (`Refused`) that lacks its place. Nothing was written then.
        OSError: a document can't be written; those that were replaced before it are as they were.
    """
    trial = read_trial(folder)
    root = root.expanduser()
    if not root.is_dir():
        raise UsageError(f"{root}: expected the folder that holds {MEMORY} and docs/, found no folder")
    # Several hosts of one play may finish at the same time and write to the same documents.
    with locked(root):
        documents = _documents(trial, root, research)
        if not check:
            replace_all([Replacement(one.path, _raw(one.before), _raw(one.after)) for one in documents if one.changed])
    return documents


def diff(documents: list[Document]) -> str:
    """A unified diff of the changes, safe for a terminal; empty if nothing changes."""
    lines: list[str] = []
    for one in documents:
        # Split at "\n" only, so that other line ends show up in the diff.
        before, after = (text.split("\n") for text in (one.before, one.after))
        before, after = (
            [f"{line}\n" for line in text[:-1]] + ([text[-1]] if text[-1] else []) for text in (before, after)
        )
        for line in difflib.unified_diff(before, after, f"{one.name} (before)", f"{one.name} (after)"):
            lines.append(screen(line.removesuffix("\n")))
            if not line.endswith("\n"):
                lines.append("\\ No newline at end of file")
    return "\n".join(lines)


def told(documents: list[Document], shown: str, *, check: bool) -> dict[str, Any]:
    """The result for programs (`trialbench schema documents`)."""
    return {
        "changed": any(one.changed for one in documents),
        "documents": [{"name": one.name, "changed": one.changed, "left_alone": one.left_alone} for one in documents],
        "lines": [one.line(check=check) for one in documents],
        "diff": shown,
    }


def _documents(trial: Trial, root: Path, research: str) -> list[Document]:
    """The three documents with their planned changes."""
    reasons = {"untouched": "the trial ended before it held the host", "open": "the trial is not known to be over"}
    over = reasons.get(trial.outcome)
    numbers = over or (None if trial.outcome == "completed" else "the trial was rolled back: its numbers don't count")
    pages = {name: _page(root, name) for name in (research, REGISTRY, MEMORY)}
    newer = shown_run(pages[research], trial)
    if newer and not numbers:
        numbers = f"the documents show the newer run {newer} of this model"
    plans: dict[str, tuple[Make, str | None]] = {
        research: (research_edits, numbers),
        REGISTRY: (registry_edits, numbers),
        MEMORY: (memory_edits, over),
    }
    found = []
    for name, (make, left_alone) in plans.items():
        page = pages[name]
        after = page.text if left_alone else _settled(page, trial, make)
        found.append(Document(name, root / name, page.text, after, left_alone))
    return found


def _page(root: Path, name: str) -> Page:
    try:
        raw = (root / name).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{name}: expected a document in {root}, found none ({error.strerror}). None of the documents was touched"
        ) from error
    if len(raw) > _MAX_MIB << 20:
        raise UsageError(f"{name}: expected at most {_MAX_MIB} MiB, found more. None of the documents was touched")
    # Invalid UTF-8 round-trips as the same bytes.
    return Page(name, raw.decode("utf-8", "surrogateescape"))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _settled(page: Page, trial: Trial, make: Make) -> str:
    """The text after the edits, verified to be unchanged by a second run."""
    after = page.edited(make(page, trial))
    again = Page(page.name, after)
    if again.edited(make(again, trial)) != after:
        raise page.refused(
            "a place where the next run finds the text again",
            "one that swallows it (a code fence or a comment that is not closed?)",
        )
    return after
