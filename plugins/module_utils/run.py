# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a program: in the C locale, within a time limit, with bounded output and nothing on its standard input.

This is the only module of the package that starts processes. An exit status other than 0 is a value. A program that
cannot be started, or does not end in time, is an ``OSError``.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

# Bytes kept of each output stream. The rest is read and dropped, so that the program does not block on a full pipe.
MAX_BYTES = 4 << 20
NOWHERE = subprocess.DEVNULL
_CHUNK_BYTES = 1 << 16
# Who waits for a command wakes now and then: standing still is how a hanging program is known (see `pulse`).
_WAKE_S = 1.0
# A killed program is gone at once, unless it hangs in the kernel: then it goes when the kernel lets it.
_KILLED_S = 1.0
_abandoned: list[subprocess.Popen[Any]] = []
_abandoning = threading.Lock()


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


def _read(child: subprocess.Popen[bytes], deadline: float) -> tuple[str, str]:
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
    out, err = (_text(bytes(raw)) for raw in kept.values())
    return out, err


def command(
    argv: Sequence[str],
    limit_s: float,
    *,
    cwd: str | None = None,
    into: IO[bytes] | int | None = None,
    c_locale: bool = True,
) -> Ran:
    """Run a command to its end.

    Args:
        argv: the program and its arguments.
        limit_s: seconds after which it is killed.
        cwd: its working directory.
        into: a file (or `NOWHERE`) for both output streams; the texts of the result are empty then.
        c_locale: False leaves the locale as it is, for a command whose environment a tenant inherits.

    Raises:
        TimeoutError: it did not end within ``limit_s``.
        OSError: it could not be started.
    """
    deadline = time.monotonic() + limit_s
    stream = subprocess.PIPE if into is None else into
    env = {**os.environ, "LC_ALL": "C"} if c_locale else None
    child = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        out, err = _read(child, deadline) if into is None else ("", "")
        rc = child.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        abandon(child, _KILLED_S)
        raise TimeoutError(f"{shlex.join(argv)} timed out after {limit_s:g} s") from None
    except BaseException:
        abandon(child, _KILLED_S)
        raise
    _close(child)
    return Ran(rc, out, err)


def _close(child: subprocess.Popen[Any]) -> None:
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream:
            stream.close()


def abandon(child: subprocess.Popen[Any], wait_s: float = 0.0) -> None:
    """Kill a program and wait for its end, at most ``wait_s`` seconds: one that hangs in the kernel stays longer."""
    child.kill()
    _close(child)
    with _abandoning:
        _abandoned.append(child)
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        pass
    with _abandoning:
        # What has ended meanwhile leaves no zombie.
        _abandoned[:] = [one for one in _abandoned if one.poll() is None]


def helper(argv: Sequence[str], lanes: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a program that works for this one until it is abandoned, or until this one has ended.

    It inherits ``lanes``, is out of reach of the terminal's signals, and reads the end of this program from its
    standard input.

    Raises:
        OSError: it could not be started.
    """
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=lanes,
        start_new_session=True,
    )


def background(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command and return at once; its standard output can be read from the result, its errors are dropped."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
