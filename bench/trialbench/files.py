"""Small file helpers: atomic writes, and reading JSON lines of which the last may be cut short."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` with `text`: a reader sees the old content or the new, never a part.

    Raises:
        OSError: the folder is not there or not writable.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON. NaN and infinity are refused: they are no JSON."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document in `path`.

    Raises:
        UsageError: not readable or no JSON; says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All objects of a JSON-lines file and the number of lines that are none.

    A writer that was killed leaves at most one cut line, so a bad line is counted and passed over, not fatal.
    A file that is not there counts as empty: a trial that failed early has few of them.
    """
    # Split on "\n" alone: JSON strings may hold U+2028 and U+0085, which str.splitlines would cut at.
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    found: list[dict[str, Any]] = []
    bad = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            bad += 1
    return found, bad
