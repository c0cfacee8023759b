# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a program: in the C locale, with a time limit, bounded output, and the caller's data on its standard input.

This is the only module of the package that starts processes. An exit status other than 0 is a value. A program that
cannot be started, or does not end in time, raises an ``OSError``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

# Bytes kept of each output stream. The rest is read and dropped, so that the program does not block on a full pipe.
MAX_BYTES = 4 << 20
NOWHERE = subprocess.DEVNULL
# A host that has used up its processes or its memory starts no program. As other processes end, it may again: a command
# waits this long for that, within its own limit.
ROOM_S, ROOM_POLL_S = 5.0, 0.1
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM)
_CHUNK_BYTES = 1 << 16
# A wait for a command wakes up now and then: a main thread that never does counts as hanging (see `watch`).
_WAKE_S = 1.0
# A killed program ends at once, unless it hangs in the kernel.
_KILLED_S = 1.0
_abandoned: list[subprocess.Popen[Any]] = []
_abandoning = threading.Lock()


class NoRoom(OSError):
    """This host can't start another process: the command itself has not failed."""


class _Refused:
    """How often this program was refused a process or a thread."""

    count = 0


def refused() -> int:
    """How often this host has refused this program a process or a thread; a failure meanwhile proves nothing else."""
    return _Refused.count


def no_room(err: BaseException) -> bool:
    """Whether an error is the host's refusal to start a process or a thread; such errors are counted."""
    thread = isinstance(err, RuntimeError) and "start new thread" in str(err)
    if thread or (isinstance(err, OSError) and not isinstance(err, NoRoom) and err.errno in _NO_ROOM):
        _Refused.count += 1
        return True
    return isinstance(err, NoRoom)


def room() -> bool:
    """Whether this host can start a process and a thread now."""
    try:
        subprocess.run(["true"], stdin=subprocess.DEVNULL, check=False)
        thread = threading.Thread(target=int, daemon=True)
        thread.start()
        thread.join()
    except (OSError, RuntimeError):
        return False
    return True


def _popen(argv: Sequence[str], deadline: float, **options: Any) -> subprocess.Popen[Any]:
    """Start a process, as soon as the host has room for one.

    Raises:
        NoRoom: the host had no room for `ROOM_S`.
        OSError: the process could not be started.
    """
    until = min(deadline, time.monotonic() + ROOM_S)
    while True:
        try:
            return subprocess.Popen(argv, **options)
        except OSError as err:
            if not no_room(err):
                raise
            if time.monotonic() >= until:
                raise NoRoom(
                    err.errno,
                    f"{argv[0]}: this host can't start another process ({os.strerror(err.errno or 0)}); "
                    "see which programs have so many: systemd-cgtop, ps -eLf",
                ) from None
        time.sleep(ROOM_POLL_S)


@dataclass(frozen=True)
class Ran:
    """A finished command: exit status, standard output and error."""

    rc: int
    out: str
    err: str

    def first_line(self) -> str:
        """The first line that it printed, errors before output; its exit status where it printed nothing."""
        return next(iter((self.err or self.out).strip().splitlines()), f"exit status {self.rc}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _exactly(raw: bytes, argv: Sequence[str]) -> str:
    if len(raw) >= MAX_BYTES:
        raise ValueError(f"{argv[0]}: expected fewer than {MAX_BYTES >> 20} MiB of output, found more")
    try:
        return raw.decode()
    except UnicodeDecodeError as err:
        raise ValueError(f"{argv[0]}: expected UTF-8, found something else at byte {err.start} of its output") from err


def _read(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Read standard output and error until both are closed.

    Raises:
        TimeoutError: they are still open at the deadline.
    """
    streams = [stream for stream in (child.stdout, child.stderr) if stream]
    kept = {stream.fileno(): bytearray() for stream in streams}
    with selectors.DefaultSelector() as still_open:
        for fd in kept:
            still_open.register(fd, selectors.EVENT_READ)
        while still_open.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            for key, _events in still_open.select(min(left_s, _WAKE_S)):
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    still_open.unregister(key.fd)
                kept[key.fd] += chunk[: MAX_BYTES - len(kept[key.fd])]
    out, err = (bytes(raw) for raw in kept.values())
    return out, err


@contextlib.contextmanager
def _input(feed: bytes) -> Iterator[IO[bytes] | int]:
    if not feed:
        yield NOWHERE
        return
    # In memory: the data reaches no disk, and a program that reads none of it does not block this one.
    with open(os.memfd_create("input"), "w+b", buffering=0) as file:
        file.write(feed)
        file.seek(0)
        yield file


def command(
    argv: Sequence[str],
    limit_s: float,
    *,
    cwd: str | None = None,
    into: IO[bytes] | int | None = None,
    feed: bytes = b"",
    verbatim: bool = False,
) -> Ran:
    """Run a command to its end.

    Args:
        argv: the program and its arguments.
        limit_s: seconds after which it is killed.
        cwd: its working directory.
        into: a file (or `NOWHERE`) for both output streams; the texts of the result are empty then.
        feed: what it can read from its standard input.
        verbatim: its standard output as it is, line ends included; else each line end becomes a line feed.

    Raises:
        ValueError: with ``verbatim``, an output that is not UTF-8 or has `MAX_BYTES` and more.
        TimeoutError: it did not end within ``limit_s``.
        NoRoom: the host can't start another process.
        OSError: it could not be started.
    """
    deadline = time.monotonic() + limit_s
    stream = subprocess.PIPE if into is None else into
    env = {**os.environ, "LC_ALL": "C"}
    with _input(feed) as given:
        child = _popen(argv, deadline, cwd=cwd, env=env, stdin=given, stdout=stream, stderr=stream)
    try:
        out, err = _read(child, deadline) if into is None else (b"", b"")
        rc = child.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        abandon(child, _KILLED_S)
        raise TimeoutError(f"{shlex.join(argv)} timed out after {limit_s:g} s") from None
    except BaseException:
        abandon(child, _KILLED_S)
        raise
    _close(child)
    return Ran(rc, _exactly(out, argv) if verbatim else _text(out), _text(err))


def _close(child: subprocess.Popen[Any]) -> None:
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream:
            stream.close()


def abandon(child: subprocess.Popen[Any], wait_s: float = 0.0) -> None:
    """Kill a program and wait for its end, at most ``wait_s`` seconds, because it may hang in the kernel."""
    child.kill()
    _close(child)
    with _abandoning:
        _abandoned.append(child)
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        pass
    with _abandoning:
        # Reap abandoned programs that have ended meanwhile.
        _abandoned[:] = [one for one in _abandoned if one.poll() is None]


def helper(argv: Sequence[str], lanes: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a helper program that runs until it is abandoned, or until this program has ended.

    It inherits ``lanes``, does not get the terminal's signals, and sees the end of this program as the end of its
    standard input.

    Raises:
        NoRoom: the host can't start another process.
        OSError: it could not be started.
    """
    return _popen(
        argv,
        time.monotonic() + ROOM_S,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=lanes,
        start_new_session=True,
    )


def background(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command and return at once; its standard output can be read from the result, its errors are dropped."""
    return _popen(
        argv,
        time.monotonic() + ROOM_S,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
