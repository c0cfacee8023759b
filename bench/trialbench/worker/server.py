"""The worker's process: Unix socket, standard input and output, signals, systemd notifications."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from trialbench.errors import UsageError
from trialbench.worker.channel import Channel, SocketChannel
from trialbench.worker.service import Worker

_BACKLOG = 64


class UnixListener:
    """A listening Unix socket with mode 0600: only its owner and root can connect.

    A socket file of a dead worker is replaced; one with a listener is not.

    Raises:
        UsageError: the folder is missing, the path is taken, or it is too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _alone_in(path.parent):
            self._bind()

    def _bind(self) -> None:
        path = self.path
        self._remove_stale()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Created with its final mode: if it were changed afterwards, others could connect in between.
        umask = os.umask(0o177)
        try:
            self.socket.bind(str(path))
        except OSError as error:
            self.socket.close()
            raise UsageError(_why_not(path, error)) from error
        finally:
            os.umask(umask)
        self.socket.listen(_BACKLOG)
        self.socket.setblocking(False)
        self._inode = path.lstat().st_ino

    def _remove_stale(self) -> None:
        try:
            kind = self.path.lstat().st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(kind):
            raise UsageError(f"{self.path}: expected no file or a socket, found something else; name another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink(missing_ok=True)
                return
            except OSError:
                pass
        raise UsageError(f"{self.path}: another worker listens there; stop it first, or name another path")

    def close(self) -> None:
        """Stop listening and remove the file, if it is still ours."""
        self.socket.close()
        try:
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        except OSError:
            pass


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Serializes workers that start over the same stale socket: the second must not remove the first's socket."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # `bind` will report why the folder can't be read
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _why_not(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{path}: the folder {path.parent} is not there; make it, or let the unit have RuntimeDirectory="
    return f"{path}: cannot create a socket there: {error.strerror or error}"


class Server:
    """Accepts clients and serves each in its own thread, until a signal or the end of input.

    Args:
        listener: where clients connect; None: no socket.
        stdio: descriptors of standard input and output, served as one client; None: not served.
        log: receives events as `(event, fields)`.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        listener: UnixListener | None = None,
        stdio: tuple[int, int] | None = None,
        max_line_bytes: int = 1 << 20,
        send_timeout_s: float = 10.0,
        log: Callable[[str, dict[str, Any]], None] = lambda event, fields: None,  # noqa: ARG005 - it has to take them
    ) -> None:
        self._worker = worker
        self._listener = listener
        self._stdio = stdio
        self._max_line_bytes = max_line_bytes
        self._send_timeout_s = send_timeout_s
        self._log = log
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        self._wake_lock = threading.Lock()
        self._signals = 0
        self._threads: set[threading.Thread] = set()

    def run(self, grace_s: float) -> None:
        """Serve until SIGTERM, SIGINT or (without a socket) the end of standard input; then stop within `grace_s`.

        A second signal ends the grace period. Call it in the main thread.
        """
        before = {number: signal.signal(number, self._signaled) for number in (signal.SIGTERM, signal.SIGINT)}
        # A signal that another thread takes, or that comes just before `poll`, does not interrupt `poll`: Python's own
        # handler would run when the next client connects. So the signal itself writes into the pipe.
        wakeup = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            if self._stdio is not None:
                self._start_stdio(self._stdio)
            notify("READY=1")
            self._log("ready", {"socket": str(self._listener.path) if self._listener else None})
            self._accept()
            notify("STOPPING=1")
            self._log("stopping", {"grace_s": grace_s})
            if self._listener is not None:
                self._listener.close()
            self._worker.stop(grace_s, lambda: self._signals > 1)
            for thread in list(self._threads):
                # Clients with closed channels end at once; a client that reads from a terminal never does.
                thread.join(timeout=1)
            self._log("stopped", {})
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            with self._wake_lock:
                # Both under the lock: a wake between the two would write into a broken pipe.
                os.close(self._wake_r)
                os.close(self._wake_w)
                self._wake_w = -1

    def wake(self) -> None:
        """End `run` like a signal; does nothing after its end."""
        with self._wake_lock:
            if self._wake_w < 0:
                return  # the descriptor may already be reused
            try:
                os.write(self._wake_w, b"x")
            except BlockingIOError:
                pass

    def _signaled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _start_stdio(self, stdio: tuple[int, int]) -> None:
        channel = Channel(*stdio, max_line_bytes=self._max_line_bytes, send_timeout_s=self._send_timeout_s)

        def serve() -> None:
            self._worker.serve(channel)
            if self._listener is None:
                self.wake()

        threading.Thread(target=serve, name="stdio", daemon=True).start()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener.socket, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake_r in ready:
                return
            assert self._listener is not None
            try:
                connection, _ = self._listener.socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # Out of descriptors: connected clients continue, and this one may retry.
                self._log("accept_failed", {"error": error.strerror})
                select.select([self._wake_r], [], [], 0.1)
                continue
            connection.setblocking(True)
            thread = threading.Thread(target=self._serve, args=(connection,), name="client", daemon=True)
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError as error:
                # Out of threads: connected clients continue, and this one has to retry.
                self._threads.discard(thread)
                connection.close()
                self._log("accept_failed", {"error": str(error)})
                select.select([self._wake_r], [], [], 0.1)

    def _serve(self, connection: socket.socket) -> None:
        channel = SocketChannel(connection, max_line_bytes=self._max_line_bytes, send_timeout_s=self._send_timeout_s)
        try:
            self._worker.serve(channel)
        finally:
            channel.release()
            self._threads.discard(threading.current_thread())


def keep_stderr() -> None:
    """Reserve descriptor 2 if standard error was closed at the start; call it before anything is opened.

    Otherwise the first socket or pipe would get it, and with it everything written to standard error.
    """
    if sys.stderr is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def claim_stdout() -> int:
    """A descriptor for the protocol; other output goes to standard error from now on."""
    sys.stdout.flush()
    out_fd = os.dup(1)
    os.set_inheritable(out_fd, False)
    os.dup2(2, 1)
    return out_fd


def notify(state: str) -> None:
    """Notify systemd (sd_notify); does nothing outside a notify service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)
    except OSError:
        # The service works without it; systemd will time out and report it.
        pass
