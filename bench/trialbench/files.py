"""Small file helpers: atomic writes of one file or several, and reading JSON lines whose last one may be cut off."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from trialbench.errors import UsageError

# What `-` names as an output, also where there is no such file.
STDOUT = Path("/dev/stdout")
# How many links in a row the kernel follows; how long a pipe may wait for its reader.
_MAX_LINKS, _READER_S = 40, 10.0
# How much of a file's name its temporary name contains: a name may be as long as the file system allows.
_PREFIX = 50
# From here on a number is refused, whole or not.
MAX_NUMBER, _MAX_DIGITS = 1e15, 18


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` with `text`: a reader sees the old content or the new, never a part.

    A link stays one: the file behind it is replaced, beside itself, and keeps its mode and owner. What is no regular
    file (a pipe, a device, an open descriptor such as /dev/stdout) stays what it is, and `text` is written to it.

    Raises:
        UsageError: `path` is not a regular file, and can't be written to.
        BrokenPipeError: it is standard output, whose reader wants no more.
        OSError: the folder is not there or not writable.
    """
    content = text.encode()
    place = destination(path)
    if isinstance(place, int) or not is_file(place):
        _pour(content, path)
        return
    temporary = _stage(place, content)
    try:
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def destination(path: Path) -> Path | int:
    """Where a write to `path` goes: to the file behind all links, or to a descriptor that is already open.

    Raises:
        UsageError: the links lead nowhere.
    """
    if path == STDOUT:
        return 1
    place = _in_folder(str(path.absolute()))
    for _ in range(_MAX_LINKS):
        # Reopened, it would start at the beginning; if we replaced its file, the descriptor would keep the old one.
        found = re.fullmatch(rf"/proc/(?:self|{os.getpid()})/fd/(\d{{1,9}})", place)
        if found:
            return int(found[1])
        if not os.path.islink(place):
            return Path(place)
        place = _in_folder(os.path.join(os.path.dirname(place), os.readlink(place)))
    raise UsageError(f"{path}: expected a file, found links that lead to each other")


def _in_folder(place: str) -> str:
    """`place` without links in what is before its name."""
    return os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))


def is_file(path: Path) -> bool:
    """Whether `path` is a regular file, or becomes one when it is written."""
    place = destination(path)
    return isinstance(place, Path) and (not place.exists() or place.is_file())


def open_output(path: Path) -> TextIO:
    """`path`, open for writing from its beginning as UTF-8: a file, a pipe, a device, or a copy of an open descriptor.

    Raises:
        UsageError: it is of another kind, can't be opened, or nobody reads the pipe.
    """
    place = destination(path)
    try:
        if isinstance(place, int):
            if place == 1:
                sys.stdout.flush()
            return os.fdopen(os.dup(place), "w", encoding="utf-8")
        mode = place.stat().st_mode if place.exists() else stat.S_IFREG
        if stat.S_ISREG(mode):
            return place.open("w", encoding="utf-8")
        if stat.S_ISFIFO(mode):
            return os.fdopen(_open_pipe(place), "w", encoding="utf-8")
        if stat.S_ISCHR(mode):
            return os.fdopen(os.open(place, os.O_WRONLY | os.O_NOCTTY), "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    raise UsageError(f"{path}: expected a file, a pipe or a terminal, found {_kind(mode)}")


def writable_kind(path: Path) -> str | None:
    """Why `path` can't be written, as text; None if nothing speaks against it beforehand."""
    place = destination(path)
    if isinstance(place, int):
        try:
            reads_only = fcntl.fcntl(place, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        except OSError:
            return "it is not open"
        return "it is open for reading only" if reads_only else None
    if place.is_dir():
        return "is a folder"
    if place.exists() and not place.is_file():
        mode = place.stat().st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            return f"is {_kind(mode)}"
        return None if os.access(place, os.W_OK) else "may not be written by this user"
    return None if _takes_files(place.parent) else f"there is no writable folder {place.parent}"


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made in `folder`; its mode alone does not show a kernel file system or a full disk."""
    try:
        # The file has no name, if the file system supports that.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a disk"), (stat.S_ISDIR, "a folder"))
    return next((name for test, name in kinds if test(mode)), "something else")


def _open_pipe(place: Path) -> int:
    """The pipe's descriptor, once it has a reader."""
    until_s = time.monotonic() + _READER_S
    while True:
        try:
            handle = os.open(place, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until_s:
                raise UsageError(
                    f"{place}: expected a reader of this pipe within {_READER_S:g} s, found none"
                ) from None
            time.sleep(0.02)
        else:
            os.set_blocking(handle, True)
            return handle


def _pour(content: bytes, path: Path) -> None:
    """Write `content` to what is not a regular file."""
    with open_output(path) as stream:
        view = memoryview(content)
        try:
            while view:
                # Past the stream's buffer, whose rest would fail a second time when it is closed.
                view = view[os.write(stream.fileno(), view) :]
        except OSError as error:
            if isinstance(error, BrokenPipeError) and destination(path) == 1:
                raise  # `... --out - | head` has read enough, as of all that is printed
            raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


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
            staged.append((one, target, _stage(target, one.after, as_owner=True)))
        for one, target, _ in staged:
            if target.read_bytes() != one.before:
                raise UsageError(
                    f"{one.path}: was changed by another program while it was read. Nothing was written; try again"
                )
        done: list[tuple[Path, Path]] = []
        try:
            for one, target, temporary in staged:
                back = _stage(target, one.before, as_owner=True)
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


def _stage(target: Path, content: bytes, *, as_owner: bool = False) -> Path:
    """`content` in a file beside `target`, with its mode and owner; 0644 where there is none yet.

    Raises:
        PermissionError: `as_owner`, and the owner is another one that this user can't give files to.
    """
    status = target.stat() if target.exists() else None
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:_PREFIX]}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            # Before the mode: a change of owner clears set-user bits.
            if status is not None and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(*(() if as_owner else (PermissionError,))):
                    os.fchown(stream.fileno(), status.st_uid, status.st_gid)
            os.fchmod(stream.fileno(), 0o644 if status is None else stat.S_IMODE(status.st_mode))
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not encodable(text):
        # Half a surrogate pair, which JSON can escape and UTF-8 can't hold.
        text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text + "\n")


def encodable(text: str) -> bool:
    """Whether UTF-8 can encode `text`; it can't encode half a surrogate pair."""
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
    """All objects of a JSON-lines file and the number of lines that hold no object.

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
