"""Programs of a runtime, wherever they are: in a folder or on the PATH, or in a container image.

In a container, one container serves all calls (starting one takes longer than a whole check); it shares this
machine's loopback and sees the folders it was given, under their own names. It ends with us, however we end: its main
process reads from a pipe that we hold.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from trialbench.errors import TrialbenchError
from trialbench.ground_truth.runtimes.base import Call

# What is kept of a program's output as evidence: the beginning says what it was, the end why it stopped.
_KEPT = 200_000
_STOP_S = 5.0


class RuntimeMissing(TrialbenchError):
    """The runtime's programs are not there: nothing was checked, and that is not a success."""

    exit_code = 4


class Process:
    """A program that runs until it is stopped; its output goes to a file."""

    def __init__(
        self, argv: Sequence[str], popen: subprocess.Popen[bytes], log: IO[bytes], end: Callable[[Process], None]
    ) -> None:
        self.argv = tuple(argv)
        self.popen = popen
        self.pid_inside: int | None = None
        self._log, self._end = log, end

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.popen.poll()

    def output(self) -> str:
        """What it has printed so far."""
        self._log.flush()
        return clipped(Path(self._log.name).read_bytes())

    def stop(self) -> None:
        """End it and wait until it has ended."""
        if self.popen.poll() is None:
            self._end(self)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)


class Tools(Protocol):
    """A place that has programs."""

    @property
    def place(self) -> str:
        """For people and records: a folder, `PATH`, or an image."""

    @property
    def environment(self) -> dict[str, str]:
        """The variable that makes the command line take the programs from here."""

    def has(self, program: str) -> bool:
        """Whether the program is there."""

    def run(self, program: str, *arguments: str, timeout_s: float) -> Call:
        """Run to the end. A timeout gives exit code None."""

    def start(self, program: str, *arguments: str) -> Process:
        """Start and return at once."""

    def close(self) -> None:
        """Nothing of ours is left running."""


def clipped(raw: bytes) -> str:
    """Output as text: undecodable bytes as U+FFFD, the middle of a long one left out."""
    if len(raw) > _KEPT:
        half = _KEPT // 2
        raw = raw[:half] + b"\n[... %d bytes left out ...]\n" % (len(raw) - 2 * half) + raw[-half:]
    return raw.decode(errors="replace")


def call(argv: Sequence[str], timeout_s: float, environment: dict[str, str] | None = None) -> Call:
    """Run a command to its end, with no input."""
    started = time.monotonic()
    code: int | None = None
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, env=environment
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        out, err = expired.stdout or b"", expired.stderr or b""
    except OSError as error:
        code, out, err = 127, b"", f"{argv[0]}: {error.strerror}".encode(errors="replace")
    return Call(tuple(argv), code, clipped(out), clipped(err), time.monotonic() - started)


class LocalTools:
    """Programs in `folder`, or on the PATH."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """The folder, or `PATH`."""
        return str(self._folder) if self._folder is not None else "PATH"

    @property
    def environment(self) -> dict[str, str]:
        """`LLAMA_CPP_BIN`, for a folder."""
        return {} if self._folder is None else {"LLAMA_CPP_BIN": str(self._folder)}

    def _path(self, program: str) -> str | None:
        return shutil.which(program, path=None if self._folder is None else str(self._folder))

    def has(self, program: str) -> bool:
        """Whether the program is there and can be run."""
        return self._path(program) is not None

    def _argv(self, program: str, arguments: Sequence[str]) -> list[str]:
        return [self._path(program) or program, *arguments]

    def run(self, program: str, *arguments: str, timeout_s: float) -> Call:
        """Run to the end."""
        return call(self._argv(program, arguments), timeout_s)

    def start(self, program: str, *arguments: str) -> Process:
        """Start in a Unix session of its own, so that a Ctrl-C here is ours to handle."""
        log = tempfile.NamedTemporaryFile(prefix="trialbench-", suffix=".log", delete=False)  # noqa: SIM115 (kept open)
        argv = self._argv(program, arguments)
        try:
            popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            log.close()
            Path(log.name).unlink(missing_ok=True)
            raise RuntimeMissing(f"{argv[0]}: cannot be started: {error.strerror}") from error
        return Process(argv, popen, log, self._end)

    @staticmethod
    def _end(process: Process) -> None:
        """Send SIGTERM, then SIGKILL."""
        process.popen.terminate()
        try:
            process.popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()

    def close(self) -> None:
        """Nothing outlives its process."""


class ContainerTools:
    """Programs in a container image, run by the docker command line.

    Args:
        image: the image; never pulled.
        folders: what the container sees, under the same names; `True` for writable.
    """

    def __init__(self, image: str, folders: dict[Path, bool]) -> None:
        self._image, self._folders = image, folders
        self._holder: subprocess.Popen[bytes] | None = None
        self._exchange: Path | None = None
        self._name = f"trialbench-tools-{os.getpid()}-{time.monotonic_ns()}"

    @property
    def place(self) -> str:
        """The image."""
        return self._image

    @property
    def environment(self) -> dict[str, str]:
        """`LLAMA_CPP_IMAGE`."""
        return {"LLAMA_CPP_IMAGE": self._image}

    def _open(self) -> None:
        if self._holder is not None:
            return
        argv = ["docker", "run", "--rm", "--interactive", "--name", self._name, "--pull", "never", "--network", "host"]
        argv += ["--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp"]
        self._exchange = Path(tempfile.mkdtemp(prefix="trialbench-tools-"))
        for folder, writable in {**self._folders, self._exchange: True}.items():
            source = str(folder.resolve())
            argv += ["--volume", f"{source}:{source}" + ("" if writable else ":ro")]
        # `read` of a shell ends at the end of its input: when we close the pipe, or are gone.
        argv += ["--entrypoint", "/bin/sh", self._image, "-c", "echo ready; read line"]
        try:
            holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise RuntimeMissing(f"docker: cannot be started: {error.strerror}") from error
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != b"ready":
            _, errors = holder.communicate()
            raise RuntimeMissing(
                f"{self._image}: no container could be started: {clipped(errors).strip() or 'docker says nothing'}. "
                "Build the image with images/oracle/build.py tools, or name a folder with LLAMA_CPP_BIN"
            )
        self._holder = holder

    def has(self, program: str) -> bool:
        """Whether the image has the program."""
        return self.run("sh", "-c", f"command -v {program}", timeout_s=60).exit_code == 0

    def _argv(self, program: str, arguments: Sequence[str]) -> list[str]:
        self._open()
        return ["docker", "exec", self._name, program, *arguments]

    def run(self, program: str, *arguments: str, timeout_s: float) -> Call:
        """Run to the end. On a timeout the program inside is ended too.

        The output goes through files: `docker exec` may lose the last lines of a program that ends quickly.
        """
        self._open()
        assert self._exchange is not None
        out, err = self._exchange / "out", self._exchange / "err"
        script = 'out=$1 err=$2; shift 2; exec "$@" >"$out" 2>"$err"'
        bounded = ("--signal=KILL", f"{timeout_s:.0f}", "sh", "-c", script, "sh", str(out), str(err))
        answer = call(self._argv("timeout", (*bounded, program, *arguments)), timeout_s + _STOP_S)
        texts = [clipped(path.read_bytes()) if path.exists() else "" for path in (out, err)]
        for path in (out, err):
            path.unlink(missing_ok=True)
        # 137: `timeout` killed it.
        ended = answer.exit_code == 137 and answer.seconds >= timeout_s - 1
        return Call(
            (program, *arguments),
            None if ended else answer.exit_code,
            texts[0],
            texts[1] + answer.stderr,
            answer.seconds,
        )

    def start(self, program: str, *arguments: str) -> Process:
        """Start; its process id inside is learned, since ending `docker exec` does not end what it started."""
        argv = self._argv("sh", ("-c", 'echo "$$"; exec "$0" "$@"', program, *arguments))
        log = tempfile.NamedTemporaryFile(prefix="trialbench-", suffix=".log", delete=False)  # noqa: SIM115 (kept open)
        popen = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        process = Process((program, *arguments), popen, log, self._end)
        assert popen.stdout is not None
        first = popen.stdout.readline().strip()
        process.pid_inside = int(first) if first.isdigit() else None
        return process

    def _end(self, process: Process) -> None:
        """Send both signals inside the container; the client outside then ends by itself."""
        for signal in ("TERM", "KILL"):
            if process.pid_inside is not None:
                # The shell's own: a small image has no program `kill`.
                call(["docker", "exec", self._name, "sh", "-c", f"kill -{signal} {process.pid_inside}"], 30)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(_STOP_S)
                return
        process.popen.kill()
        process.popen.wait()

    def close(self) -> None:
        """End the container."""
        if self._holder is None:
            return
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        try:
            self._holder.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            call(["docker", "rm", "--force", self._name], 30)
            self._holder.kill()
            self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()
        if self._exchange is not None:
            shutil.rmtree(self._exchange, ignore_errors=True)
        self._holder = self._exchange = None
