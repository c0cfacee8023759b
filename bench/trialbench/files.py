"""Small file helpers: atomic writes of one file or several, and reading JSON lines of which the last may be cut."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError

# From here on a number is refused, whole or not.
MAX_NUMBER, _MAX_DIGITS = 1e15, 18


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


@dataclass(frozen=True)
class Replacement:
    """A file that another program owns, what is expected in it, and what replaces it."""

    path: Path
    before: bytes
    after: bytes


def replace_all(replacements: Sequence[Replacement]) -> None:
    """Replace all these files or none: each atomically, with its mode and owner; a link stays one, its target changes.

    Raises:
        UsageError: a file is no longer what it was when it was read.
        OSError: one can't be written; those replaced before it hold what they held.
    """
    staged: list[tuple[Replacement, Path, Path]] = []
    try:
        for one in replacements:
            target = Path(os.path.realpath(one.path))
            staged.append((one, target, _stage(target, one.after)))
        for one, target, _ in staged:
            if target.read_bytes() != one.before:
                raise UsageError(
                    f"{one.path}: was changed by another program while it was read. Nothing was written; try again"
                )
        done: list[tuple[Path, Path]] = []
        try:
            for one, target, temporary in staged:
                back = _stage(target, one.before)
                done.append((target, back))
                os.replace(temporary, target)
        except BaseException:
            for target, back in done:
                os.replace(back, target)
            raise
        for _, back in done:
            back.unlink()
    finally:
        for _, _, temporary in staged:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one writer of this machine at a time; leaves nothing behind."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _stage(target: Path, content: bytes) -> Path:
    """`content` in a file beside `target`, with its mode and owner."""
    status = target.stat()
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            # Before the mode: a change of owner takes set-user bits away.
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(stream.fileno(), status.st_uid, status.st_gid)
            os.fchmod(stream.fileno(), stat.S_IMODE(status.st_mode))
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON. NaN and infinity are refused: they are no JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not encodable(text):
        # Half a surrogate pair, which JSON can escape and UTF-8 can't hold.
        text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text + "\n")


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold `text`: half a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path, what: str, *, max_bytes: int | None = None) -> str:
    """`read_verbatim`, with a line feed for each line end."""
    return read_verbatim(path, what, max_bytes=max_bytes).replace("\r\n", "\n").replace("\r", "\n")


def read_verbatim(path: Path, what: str, *, max_bytes: int | None = None) -> str:
    """The text of `path`, which errors call `what`, line ends and byte order mark included.

    Raises:
        UsageError: not readable, longer than `max_bytes`, or not UTF-8; says where.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the {what} cannot be read: {error.strerror}") from error
    if max_bytes is not None and len(raw) > max_bytes:
        raise UsageError(f"{path}: the {what} has {len(raw)} bytes, expected at most {max_bytes}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the {what} is not UTF-8 text: byte {error.start}") from error


def yaml_line(text: str, where: tuple[str | int, ...]) -> int:
    """The line of the deepest place of `where` that the YAML document `text` has; only errors need it."""
    import yaml

    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    line: int = node.start_mark.line
    for part in where:
        match: list[tuple[Any, Any]] = []
        if isinstance(node, yaml.MappingNode):
            match = [(key, value) for key, value in node.value if key.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            match = [(node.value[part], node.value[part])]
        if not match:
            break
        line, node = match[0][0].start_mark.line, match[0][1]
    return line + 1


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
        raise UsageError(f"{path}: is not JSON: {error}") from error


def _decoded(raw: bytes) -> Any:
    """Strict JSON: Python would also read `NaN` and `Infinity`, and numbers that are infinite or endless."""
    return json.loads(raw, parse_constant=_refused, parse_float=_finite, parse_int=_whole)


def _refused(text: str) -> float:
    raise ValueError(f"{text[:20]} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) < MAX_NUMBER else _refused(text)


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
