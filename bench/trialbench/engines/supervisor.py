"""One supervised process per generation: deadlines, limits on output and memory, and a complete cleanup.

Every generation ends the same way: SIGTERM to the group, `grace_s`, then SIGKILL. Processes that left the group are
found and killed, pipes are drained meanwhile (so that no process blocks in a write), all children are reaped, and
temporary files are removed. A cancel, a passed deadline and a normal exit only enter this sequence at different points.

The caller's thread reads the output; there is no reader thread in between. A caller that stops reading can't keep a
process alive: `cancel` sends SIGTERM itself, and a timer kills a process that exceeds its total deadline.
"""

from __future__ import annotations

import codecs
import errno
import math
import os
import select
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from trialbench.engines import proc
from trialbench.engines.cgroup import Cgroup, CgroupHome, find_home
from trialbench.engines.contract import Deadlines
from trialbench.engines.lifeline import Lifeline
from trialbench.engines.memory import MemoryWatch, own_peak_mib

_CHUNK = 1 << 16
_MEMORY_EVERY_S = 0.05
# Time for a process to exit after it closed its output: freeing gigabytes takes a moment.
_LINGER_S = 2.0
_FOREVER = float("inf")
# A shell that waits for a line from us, enters the cgroup named in it (an empty line: none) and becomes the program.
# The brand is set and the lifeline is informed before that, so no child can escape. If we die first, no line arrives
# and the program never starts.
_STARTER = 'read -r cgroup && { [ -z "$cgroup" ] || echo $$ >"$cgroup"; } && exec "$0" "$@" </dev/null'
# Formats that the kernel executes itself. A shell would run anything else as a shell script.
_EXECUTABLE = (b"\x7fELF", b"#!")

Why = Literal["exited", "cancelled", "first", "between", "total", "output_limit", "memory_limit", "lingering"]


class TextFilter(Protocol):
    """Extracts the reply from the output of a process."""

    def feed(self, text: str) -> str:
        """The part of the reply in `text`; may hold back some of it."""

    def finish(self) -> str:
        """At the end: what was held back and belongs to the reply."""


class Verbatim:
    """The filter that changes nothing."""

    def feed(self, text: str) -> str:
        """All of it."""
        return text

    def finish(self) -> str:
        """Nothing was held back."""
        return ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a process.

    Args:
        grace_s: between SIGTERM and SIGKILL.
        output_bytes: of standard output; more ends the generation.
        error_bytes: how much of the end of standard error is kept.
        memory_mib: more ends the generation; by the cgroup where there is one, else by looking every 50 ms.
    """

    grace_s: float = 2.0
    output_bytes: int = 4 << 20
    error_bytes: int = 1 << 16
    memory_mib: float | None = None


@dataclass(slots=True)
class Ending:
    """How a process ended.

    Attributes:
        why: what ended it; the deadlines are called `first`, `between` and `total`.
        status: as in `subprocess`: the exit code, or minus the signal's number.
        errors: the end of standard error.
        quiet_ms: from the reason to end it until nothing was left; None if it ended by itself.
        leftovers: processes that it left behind and that were killed.
        clean: nothing is left: no process, no temporary file, no cgroup.
        oom_killed: the kernel killed in its cgroup because memory ran out.
        escalated: SIGKILL was necessary.
    """

    why: Why
    status: int
    errors: str
    ended_s: float
    quiet_ms: float | None = None
    peak_mib: float | None = None
    leftovers: int = 0
    clean: bool = True
    oom_killed: bool = False
    escalated: bool = False


class SpawnError(Exception):
    """The program could not be started."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run.

    Args:
        argv: the first is an absolute path; PATH is never searched.
        env: all of the environment.
        scratch: a folder of this one generation; removed at its end.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    scratch: Path | None = None


class Supervisor:
    """Starts processes, also concurrently, and ensures that all of them end.

    Args:
        home: the cgroup to divide; default: the one delegated to this process, if any. False: none.
        mortal: end all of them when this process dies for any reason. Costs one sleeping shell.
    """

    def __init__(
        self, bounds: Bounds | None = None, *, home: CgroupHome | Literal[False] | None = None, mortal: bool = True
    ) -> None:
        self.bounds = bounds or Bounds()
        self.home = (find_home() if home is None else home) or None
        self.subreaper = proc.become_subreaper()
        self._lifeline = Lifeline() if mortal else None
        self._running: set[Supervised] = set()
        self._lock = threading.Lock()

    def spawn(self, command: Command, deadlines: Deadlines, text_filter: TextFilter | None = None) -> Supervised:
        """Start `command`.

        Raises:
            SpawnError: it is not there, or can't be executed; its scratch folder is gone.
        """
        try:
            running = Supervised(self, command, deadlines, text_filter or Verbatim())
        except (OSError, RuntimeError) as error:
            # RuntimeError: no further thread can be started.
            self.sweep_up(command.scratch)
            raise SpawnError(f"{command.argv[0]}: {getattr(error, 'strerror', None) or error}") from error
        with self._lock:
            self._running.add(running)
        return running

    @property
    def running(self) -> int:
        """How many have not ended yet."""
        with self._lock:
            return len(self._running)

    def close(self) -> None:
        """End everything that still runs, and wait for it."""
        with self._lock:
            running = list(self._running)
        for one in running:
            one.kill()
        for one in running:
            one.close()
        if self._lifeline is not None:
            self._lifeline.close()

    def expect(self, brand: str, scratch: Path | None) -> None:
        """A process with `brand` is about to start; for `Supervised` only."""
        if self._lifeline is not None:
            if scratch is not None:
                self._lifeline.keep(scratch)
            self._lifeline.expect(brand)

    def sweep_up(self, scratch: Path | None) -> bool:
        """Remove a generation's folder; whether it is gone."""
        if scratch is None:
            return True
        shutil.rmtree(scratch, ignore_errors=True)
        gone = not scratch.exists()
        if gone and self._lifeline is not None:
            self._lifeline.drop(scratch)
        return gone

    def renounce(self, brand: str) -> None:
        """It did not start; for `Supervised` only."""
        if self._lifeline is not None:
            self._lifeline.remove(brand)

    def register(self, group: int) -> None:
        """A process group runs; for `Supervised` only."""
        if self._lifeline is not None:
            self._lifeline.add(group)

    def forget(self, one: Supervised, group: int) -> None:
        """It has ended and is not reaped yet; for `Supervised` only."""
        if self._lifeline is not None:
            self._lifeline.remove(one.brand, group)
        with self._lock:
            self._running.discard(one)


class Supervised:
    """One running process. `chunks` is for one thread; `cancel` and `kill` for any."""

    def __init__(self, supervisor: Supervisor, command: Command, deadlines: Deadlines, text_filter: TextFilter) -> None:
        self._supervisor = supervisor
        self._bounds = supervisor.bounds
        self._deadlines = deadlines
        self._filter = text_filter
        self._scratch = command.scratch
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # A signal's handler may cancel while the main thread holds it.
        self._lock = threading.RLock()
        self._end_lock = threading.Lock()
        self._gone = threading.Event()
        self._reaped = False
        self._overdue = False
        self._killed = False
        self._canceled_s: float | None = None
        self._errors = bytearray()
        self._size = 0
        self._timers: list[threading.Timer] = []
        self._pidfd = -1
        self.memory: MemoryWatch | None = None
        self.ending: Ending | None = None
        # A number, because a resource limit carries it as well: 62 unique bits.
        self.brand = str(uuid.uuid4().int >> 66)
        _check_executable(command.argv[0])
        self._cgroup = self._make_cgroup()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        supervisor.expect(self.brand, command.scratch)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _STARTER, *command.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd=command.cwd,
                env={proc.BRAND: self.brand, **command.env},
                bufsize=0,
            )
        except BaseException:
            supervisor.renounce(self.brand)
            os.close(self._wake)
            if self._cgroup is not None:
                self._cgroup.remove()
            raise
        self.pid = self._process.pid
        supervisor.register(self.pid)
        try:
            self._watch()
        except BaseException:
            # Out of descriptors or threads: what was just started must not stay unwatched.
            self._undo()
            raise

    def _watch(self) -> None:
        leader = proc.look(self.pid)
        assert leader is not None, "an unreaped child still exists"
        self._leader = leader
        proc.put_brand(self.pid, self.brand)
        self._pidfd = os.pidfd_open(self.pid)
        self.memory = MemoryWatch(self.pid)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._err = self._process.stdout.fileno(), self._process.stderr.fileno()
        os.set_blocking(self._out, False)
        os.set_blocking(self._err, False)
        self._stream = self._read()
        # Ends the generation even if the reader no longer reads.
        self._later(self._deadlines.total_s + self._bounds.grace_s, self._give_up)
        self.started_s = time.monotonic()
        self._release()

    def _release(self) -> None:
        starter = self._process.stdin
        assert starter is not None
        try:
            starter.write(f"{'' if self._cgroup is None else self._cgroup.procs}\n".encode())
        except BrokenPipeError:
            pass  # it was ended from outside, which the reader notices
        starter.close()

    def _undo(self) -> None:
        """End what was started and could not be watched."""
        proc.signal_group(self.pid, signal.SIGKILL)
        self._supervisor.forget(self, self.pid)
        self._process.communicate()
        os.close(self._wake)
        if self._pidfd >= 0:
            os.close(self._pidfd)
        if self.memory is not None:
            self.memory.close()
        if self._cgroup is not None:
            self._cgroup.remove()

    def chunks(self) -> Generator[tuple[str, float], None, None]:
        """(text, CLOCK_MONOTONIC seconds) as it comes; afterwards `ending` is set. Closing the generator cancels."""
        return self._stream

    def cancel(self) -> None:
        """End it soon; may be called from any thread, more than once."""
        with self._lock:
            if self._reaped or self._canceled_s is not None:
                return
            self._canceled_s = time.monotonic()
            proc.ask_group(self.pid)
            os.eventfd_write(self._wake, 1)
            # Enforces the grace period even if the output is not read.
            self._later(self._bounds.grace_s, self.kill)

    def kill(self) -> None:
        """SIGKILL to the group, now; the reader does the rest of the cleanup."""
        with self._lock:
            if not self._reaped:
                self._killed = True
                proc.signal_group(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Cancel if it still runs, and wait until it is gone."""
        if self.ending is None:
            self.cancel()
            try:
                for _ in self._stream:
                    pass
            except ValueError:
                self._gone.wait()  # another thread is reading, and finishes it

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), act)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _give_up(self) -> None:
        """The total deadline and the grace period are over, and the reader has not ended it."""
        self.kill()
        self._overdue = True
        try:
            self._stream.close()
        except ValueError:
            return  # a reader is active after all, and sees the end
        self._end("total")  # reading never began

    def _make_cgroup(self) -> Cgroup | None:
        home = self._supervisor.home
        if home is None:
            return None
        try:
            return home.make(self.brand, memory_max_mib=self._bounds.memory_mib)
        except OSError:
            return None

    def _read(self) -> Generator[tuple[str, float], None, None]:
        why: Why = "cancelled"
        try:
            why = yield from self._pump()
            if why in ("exited", "lingering"):
                rest = self._filter.feed(self._decoder.decode(b"", final=True)) + self._filter.finish()
                if rest:
                    yield rest, time.monotonic()
        finally:
            self._end("total" if self._overdue else why)

    def _pump(self) -> Generator[tuple[str, float], None, Why]:
        """Yield output until something ends it; returns the reason."""
        if self.ending is not None:
            return self.ending.why
        memory = self.memory
        assert memory is not None
        poll = select.poll()
        for fd in (self._out, self._err, self._pidfd, self._wake):
            poll.register(fd, select.POLLIN)
        total_s = self.started_s + self._deadlines.total_s
        limit_s, name = _sooner(self.started_s, self._deadlines.first_s, "first", total_s)
        look_s = self.started_s
        closed = False
        while True:
            now_s = time.monotonic()
            if now_s >= look_s:
                look_s = now_s + _MEMORY_EVERY_S
                if memory.look() > (self._bounds.memory_mib or _FOREVER):
                    return "memory_limit"
            ready = [fd for fd, _ in poll.poll(max(0, math.ceil((min(limit_s, look_s) - now_s) * 1000)))]
            if self._canceled_s is not None:
                return "cancelled"
            # What has come counts, however late it is taken; the total counts in any case.
            now_s = time.monotonic()
            if now_s >= limit_s and (now_s >= total_s or not ready):
                return name
            if self._err in ready and not self._take_errors():
                poll.unregister(self._err)
            exited = self._pidfd in ready
            # If it has ended, the pipe also holds what it wrote between the two calls of `poll`.
            while not closed and (exited or self._out in ready):
                data = _read(self._out)
                if data is None:
                    break
                if not self._size:
                    # A reading during start-up says nothing about the program. The kernel keeps the peak for later.
                    memory.peak_mib = 0.0
                if not self._size or not data:
                    # The weights are loaded, or it is just ending: memory peaks at these moments.
                    memory.look()
                if not data:
                    closed = True
                    poll.unregister(self._out)
                    limit_s, name = _sooner(now_s, _LINGER_S, "lingering", total_s)
                    break
                self._size += len(data)
                if self._size > self._bounds.output_bytes:
                    return "output_limit"
                text = self._filter.feed(self._decoder.decode(data))
                if text:
                    yield text, time.monotonic()
                    # From here on and not from the token's arrival: a slow reader is not the engine's fault.
                    limit_s, name = _sooner(time.monotonic(), self._deadlines.between_s, "between", total_s)
                if not exited:
                    break
                # It has ended: no deadline any more, just what is still in the pipe. A child that holds the pipe open
                # may keep writing, but not faster than the limit of the output is reached.
            if exited:
                return "exited"

    def _take_errors(self) -> bool:
        """Read standard error and keep its end; False at its end."""
        data = _read(self._err)
        if data:
            self._errors += data
            del self._errors[: -self._bounds.error_bytes]
        return data != b""

    def _end(self, why: Why) -> None:
        with self._end_lock:
            if self.ending is None:
                try:
                    self.ending = self._finish(why)
                finally:
                    self._gone.set()

    def _finish(self, why: Why) -> Ending:
        """End it in any state, and verify that nothing is left."""
        began_s = None if why == "exited" else time.monotonic()
        if why == "cancelled" and self._canceled_s is not None:
            began_s = self._canceled_s
        if began_s is not None:
            with self._lock:
                if why == "memory_limit":
                    proc.signal_group(self.pid, signal.SIGKILL)
                else:
                    proc.ask_group(self.pid)
            if not self._await_exit(began_s + self._bounds.grace_s):
                self.kill()
                self._await_exit(time.monotonic() + proc.SWEEP_LIMIT_S)
        self._take_errors()
        peak_mib, oom_killed, leftovers, clean = self._sweep()
        self._supervisor.forget(self, self.pid)
        with self._lock:
            self._reaped = True
            pid, raw, usage = os.wait4(self.pid, os.WNOHANG)
            clean = clean and pid != 0
            status = os.waitstatus_to_exitcode(raw) if pid else -signal.SIGKILL
            if pid:
                # Otherwise it sleeps where no signal reaches it: once dead, `subprocess` reaps it with its next start.
                self._process.returncode = status
            os.close(self._wake)
        for timer in self._timers:
            timer.cancel()
        memory = self.memory
        assert memory is not None
        memory.close()
        os.close(self._pidfd)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        clean = self._supervisor.sweep_up(self._scratch) and clean
        hindsight_mib = usage.ru_maxrss / 1024
        if peak_mib is None:
            # What ended it is the program's in any case.
            seen_mib = memory.peak_mib or None if self._size or why == "memory_limit" else None
            peak_mib = hindsight_mib if hindsight_mib > own_peak_mib() else seen_mib
        ended_s = time.monotonic()
        return Ending(
            why=why,
            status=status,
            errors=self._errors.decode("utf-8", "replace"),
            ended_s=ended_s,
            quiet_ms=None if began_s is None else round((ended_s - began_s) * 1000, 3),
            peak_mib=None if peak_mib is None else round(peak_mib, 3),
            leftovers=leftovers,
            clean=clean,
            oom_killed=oom_killed,
            escalated=self._killed,
        )

    def _await_exit(self, until_s: float) -> bool:
        """Wait until the leader has ended, and drain its pipes meanwhile; False where it has not by `until_s`."""
        poll = select.poll()
        for fd in (self._out, self._err, self._pidfd):
            poll.register(fd, select.POLLIN)
        while True:
            left_s = until_s - time.monotonic()
            ready = [fd for fd, _ in poll.poll(max(0, math.ceil(left_s * 1000)))]
            if self._pidfd in ready:
                return True
            if left_s <= 0:
                return False
            if self._out in ready and _read(self._out) == b"":
                poll.unregister(self._out)
            if self._err in ready and not self._take_errors():
                poll.unregister(self._err)

    def _sweep(self) -> tuple[float | None, bool, int, bool]:
        """Peak memory and an out-of-memory kill, as far as a cgroup tells; how much was left; whether it is gone."""
        if self._cgroup is None:
            return None, False, *proc.sweep(self._leader, self.brand)
        left = [pid for pid in self._cgroup.pids() if pid != self.pid]
        if left and not self._cgroup.kill():
            for pid in left:
                proc.signal_process(pid, signal.SIGKILL)
        others, clean = proc.sweep(self._leader, self.brand)
        peak_mib, oom_killed = self._cgroup.peak_mib(), self._cgroup.oom_kills() > 0
        return peak_mib, oom_killed, max(len(left), others), self._cgroup.remove() and clean


def _check_executable(program: str) -> None:
    """Raise what the kernel would say to a program that it can't execute.

    Raises:
        OSError: it is not there, not executable for us, or no program.
    """
    if not os.access(program, os.X_OK) or os.path.isdir(program):
        number = errno.EACCES if os.path.exists(program) else errno.ENOENT
        raise OSError(number, os.strerror(number), program)
    try:
        with open(program, "rb") as stream:
            start = stream.read(max(map(len, _EXECUTABLE)))
    except PermissionError:
        return  # executable and not readable: the kernel knows
    if not start.startswith(_EXECUTABLE):
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), program)


def _sooner(now_s: float, span_s: float | None, name: Why, total_s: float) -> tuple[float, Why]:
    """Which of two deadlines comes first, and what it is called."""
    at_s = _FOREVER if span_s is None else now_s + span_s
    return (at_s, name) if at_s < total_s else (total_s, "total")


def _read(fd: int) -> bytes | None:
    """What is there: bytes, nothing at the end, None where there is nothing yet."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
