"""Scenes of a workload: distinct questions, each with its own picture or values, and perhaps the right answer.

They are a list in YAML or JSON, or a table in CSV whose further columns are variables. `trialbench schema scenes` is
the reference.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import read_text
from trialbench.workloads.parsers import Calls, Contract, Fits, Matches, Parsed, Words, canonical, parse

# In place of a word that may be any.
ANY = "*"
_COLUMNS = ("id", "image", "expected", "group")
# How much of a contract an error shows.
_MOST_TOLD = 200


@dataclass(frozen=True)
class Scene:
    """One question of a workload: its rendered messages.

    Attributes:
        label: the right answer as it was written; None where there is none.
        expected: what a right reply means by the contract; `ANY` stands for any word.
        group: what its results are counted with, besides all.
    """

    id: str
    messages: list[dict[str, Any]]
    label: object = None
    expected: tuple[str, ...] | None = None
    group: str | None = None


@dataclass(frozen=True)
class Described:
    """A scene as its file describes it; `image` is None for that of the workload."""

    id: str
    image: Path | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    label: object = None
    group: str | None = None


def read(path: Path, parsed: Any) -> list[Described]:
    """The scenes of a file; paths of pictures are relative to it.

    Args:
        parsed: gives the document in a YAML or JSON text.

    Raises:
        UsageError: it can't be read, or has no scenes that fit.
    """
    text = read_text(path, "scenes").removeprefix("\ufeff")
    rows = _table(text, path) if path.suffix.lower() == ".csv" else parsed(text, path)
    return described(rows, path)


def described(rows: object, path: Path) -> list[Described]:
    """The scenes in a list, as a workload or a file of its own has it."""
    problems = schemas.validate(rows, "scenes")
    if problems:
        lines = "\n  ".join(f"{path}: scenes: {problem}" for problem in problems)
        raise UsageError(f"the scenes do not fit their schema (see `trialbench schema scenes`):\n  {lines}")
    assert isinstance(rows, list)
    found = [
        Described(
            id=row["id"],
            image=path.parent / Path(row["image"]).expanduser() if row.get("image") else None,
            variables=row.get("variables", {}),
            label=row.get("expected"),
            group=row.get("group"),
        )
        for row in rows
    ]
    names = [scene.id for scene in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{path}: expected every scene's id once, found twice: {', '.join(twice)}")
    return found


def _table(text: str, path: Path) -> list[dict[str, Any]]:
    import csv
    import io

    rows = []
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or ())
        if "id" not in columns or len(set(columns)) < len(columns):
            raise UsageError(
                f"{path}: expected columns between commas, each once, one of them id, found {', '.join(columns)!r:.80}"
            )
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(
                    f"{path}:{reader.line_num}: expected {len(columns)} cells as in the first line, found others"
                )
            known = {name: row[name] for name in _COLUMNS if row.get(name)}
            variables = {name: value for name, value in row.items() if name not in _COLUMNS}
            rows.append(known | ({"variables": variables} if variables else {}))
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: is not CSV: {error}") from error
    return rows


def meaning(label: object, contract: Contract | None, where: str) -> tuple[str, ...] | None:
    """What a right answer means by the contract; None without an answer.

    Raises:
        UsageError: the contract can't read it, so that no reply could ever be right.
    """
    if label is None:
        return None
    if contract is None:
        raise UsageError(
            f"{where}: expected no right answer without a contract that reads the replies, found {label!r}"
        )
    text = label if isinstance(label, str) else _text(label, contract, where)
    if isinstance(contract, Words):
        contract = Words(tuple((*words, ANY) for words in contract.words), contract.separator)
    found = _parsed(text, contract)
    if found.strategy != 1 and isinstance(contract, Words):
        found = _spelled(text, contract)
    if found.strategy != 1 and isinstance(label, str) and isinstance(contract, Fits):
        # A text may be JSON, as every cell of a table is, or the value itself.
        found = _parsed(canonical(label), contract)
    if found.strategy != 1 or found.words is None:
        unquoted = ", a truth value as YAML reads it: quote the word" if isinstance(label, bool) else ""
        raise UsageError(
            f"{where}: expected an answer that keeps the contract exactly ({accepts(contract)}), "
            f"found {text!r:.80}{unquoted}"
        )
    return found.words


def _spelled(text: str, contract: Words) -> Parsed:
    """What a label means whose letters with accents are spelled in the other of two ways that look alike."""
    own = {_nfc(word): word for words in contract.words for word in words}
    found = parse(
        _nfc(text), Words(tuple(tuple(map(_nfc, words)) for words in contract.words), _nfc(contract.separator))
    )
    return found if found.words is None else Parsed(found.strategy, tuple(own[word] for word in found.words))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def accepts(contract: Contract) -> str:
    """What keeps a contract exactly, in words."""
    if isinstance(contract, Words):
        told = ", then ".join(f"one of {', '.join(words)}" for words in contract.words)
        told += f", between them {contract.separator!r}" if len(contract.words) > 1 else ""
    elif isinstance(contract, Fits):
        told = f"JSON that fits {_shown(contract.schema)}"
    elif isinstance(contract, Matches):
        told = f"all of it like {contract.pattern.pattern}"
    elif isinstance(contract, Calls):
        told = f"arguments of {contract.name}" + (f" that fit {_shown(contract.schema)}" if contract.schema else "")
    else:
        told = f"what {contract.name} reads"
    return told if len(told) <= _MOST_TOLD else f"{told[: _MOST_TOLD - 3]}..."


def _shown(schema: object) -> str:
    # YAML has dates, JSON does not.
    return json.dumps(schema, default=str)


def _text(label: object, contract: Contract, where: str) -> str:
    if not isinstance(contract, Fits | Calls):
        return str(label)
    try:
        return canonical(label)
    except (TypeError, ValueError, RecursionError) as error:
        # A date, say, or an anchor within itself.
        raise UsageError(f"{where}: expected a value that JSON can hold, found another: {error}") from error


def _parsed(text: str, contract: Contract) -> Parsed:
    return parse("", contract, [(contract.name, text)]) if isinstance(contract, Calls) else parse(text, contract)


def same_question(scenes: Sequence[Scene]) -> tuple[str, str] | None:
    """The ids of two scenes that ask the same; None where all differ."""
    seen: dict[bytes, str] = {}
    for scene in scenes:
        # By hash: the messages hold whole pictures.
        first = seen.setdefault(hashlib.sha256(json.dumps(scene.messages).encode()).digest(), scene.id)
        if first != scene.id:
            return first, scene.id
    return None
