"""Starts a server for a proof, waits until it is healthy, and ends it completely.

Used for the cold start of a server engine: from the start of its process to the first token.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from trialbench.engines.memory import MemoryWatch
from trialbench.errors import ServerError, UsageError

_POLL_S = 0.01
_GRACE_S = 2.0


class Launched:
    """A server process in a group of its own; a context manager that ends it.

    Args:
        argv: program and arguments; the program by absolute path or from PATH, as a shell would.
        healthy: whether the server is ready.
        limit_s: maximum time until it is.

    Raises:
        UsageError: it can't be started.
        ServerError: it ended, or was not healthy in time.
    """

    def __init__(self, argv: Sequence[str], healthy: Callable[[], bool], limit_s: float = 60.0) -> None:
        self.started_s = time.monotonic()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(f"{argv[0]}: cannot be started: {error.strerror}") from error
        self.memory = MemoryWatch(self._process.pid)
        try:
            while not healthy():
                if self._process.poll() is not None:
                    raise ServerError(
                        f"{argv[0]}: expected a server, but it ended with status {self._process.returncode}; "
                        "run the command by hand to see why"
                    )
                if time.monotonic() - self.started_s > limit_s:
                    raise ServerError(f"{argv[0]}: not healthy within {limit_s:g} s; run the command by hand")
                time.sleep(_POLL_S)
        except BaseException:
            self.close()
            raise
        self.healthy_s = time.monotonic()

    def __enter__(self) -> Launched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """SIGTERM to the group, 2 s, SIGKILL; reaped."""
        self.memory.look()
        self.memory.close()
        for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
            if self._process.poll() is not None:
                break
            # Not reaped yet, so the group id can't have been reused.
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                continue
