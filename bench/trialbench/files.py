"""Small file helpers: atomic writes, and reading JSON lines of which the last may be cut short."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError

_MAX_NUMBER, _MAX_DIGITS = 1e15, 18


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
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not _encodable(text):
        # Half a surrogate pair, which JSON can escape and UTF-8 can't hold.
        text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text + "\n")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_json(path: Path) -> Any:
    """The JSON document in `path`.

    Raises:
        UsageError: not readable or no JSON; says where.
    """
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error


def _decoded(raw: bytes) -> Any:
    """Strict JSON: Python would also read `NaN` and `Infinity`, and numbers that are infinite or endless."""
    return json.loads(raw, parse_constant=_refused, parse_float=_finite, parse_int=_whole)


def _refused(text: str) -> float:
    raise ValueError(f"{text[:20]} is no number that can be counted with")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) < _MAX_NUMBER else _refused(text)


def _whole(text: str) -> int:
    return int(text) if len(text) < _MAX_DIGITS else int(_refused(text))


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
            value = _decoded(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            bad += 1
    return found, bad
