# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a host without touching it: HTTP answers, listening ports, processes.

Sources are ``/proc``, plain HTTP and systemd's properties of itself; nothing here starts, stops or writes anything.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import http.client
import io
import json
import os
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import run, sockets
from .plan import Http
from .words import ACTS

# A tenant's answer is untrusted: read no more of it than a health page can need.
MAX_BODY_BYTES = 1 << 20
# A socket refuses a time that does not fit into its clock.
_LONGEST_S = 86_400.0
_PART_BYTES = 1 << 16
# A question to systemd may take this long.
_QUESTION_S = 5.0


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found: ``ok``, and ``found`` in words for people."""

    ok: bool
    found: str
    status: int = 0


@dataclass(frozen=True)
class ProcessId:
    """A process, safe against PID reuse: number and start time in clock ticks since boot."""

    pid: int
    start_ticks: int


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket; ``pid`` is 0 and ``command`` empty where the holder may not be seen."""

    port: int
    pid: int
    command: str


def printable(text: str) -> str:
    """Untrusted text (of a model, a tenant, a log) made safe for a terminal: what would act on it is replaced."""
    return ACTS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """`printable` text of one line: a name with a line end in it must not look like two of them."""
    return printable(text.replace("\n", "\N{REPLACEMENT CHARACTER}").replace("\t", "\N{REPLACEMENT CHARACTER}"))


def log_end(text: str, question: Http | None, lines: int) -> list[str]:
    """The last lines of a log; what it tells of our own question again and again is one line, with how often.

    A health page is asked many times a second: the answers would be all that is left of the log. Lines with its address
    that differ in digits alone (times, ports) are taken for the same.
    """
    path = urllib.parse.urlsplit(question.url).path or "/" if question else ""
    asked = re.compile(rf"(?<![\w/.-]){re.escape(path)}(?![\w/.-])")
    counts: collections.Counter[str] = collections.Counter()
    kept = []
    for line in reversed(text.splitlines()):
        shape = re.sub(r"\d+", "0", line) if path and "GET" in line and asked.search(line) else ""
        if shape:
            counts[shape] += 1
        if counts[shape] <= 1:
            kept.append((line, shape))
    return [f"{line} ({counts[shape]} times)" if counts[shape] > 1 else line for line, shape in kept[:lines][::-1]]


def expected(question: Http) -> str:
    """The wanted answer in words, for messages."""
    conditions = ", ".join(f"{k} = {json.dumps(v)}" for k, v in question.json.items())
    return f"{question.url} answers {question.status}" + (f" with {conditions}" if conditions else "")


def dig(body: Any, path: str) -> Any:
    """The value at a dotted path (``slots.0.state``), or None where the path ends early."""
    for key in path.split("."):
        if isinstance(body, dict) and key in body:
            body = body[key]
        elif isinstance(body, list) and key.isdigit() and int(key) < len(body):
            body = body[int(key)]
        else:
            return None
    return body


class _Stay(urllib.request.HTTPRedirectHandler):
    """Does not follow redirects: the holder of a port does not choose which address is asked next."""

    def redirect_request(self, *_args: Any) -> None:
        return None


class _Hurried(io.RawIOBase):
    """What a server sends, until a deadline.

    A socket's timeout bounds one read: a server that sends a byte now and then, even of its headers, would block us
    for hours.
    """

    def __init__(self, line: socket.socket, deadline: float, timeout_s: float) -> None:
        self._line, self._raw = line, line.makefile("rb", buffering=0)
        self._deadline, self._timeout_s, self._begun = deadline, timeout_s, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        late = f"the answer did not end within {self._timeout_s:g} s"
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(late)
        self._line.settimeout(left_s)
        try:
            found = self._raw.readinto(buffer)
        except TimeoutError as err:
            raise TimeoutError(late if self._begun else str(err)) from err
        self._begun = True
        return found

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that has to come whole, headers and body, within the timeout of its connection."""

    def __init__(self, line: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(line, *args, **options)
        timeout_s = line.gettimeout() or 0.0
        unhurried, hurried = self.fp, _Hurried(line, time.monotonic() + timeout_s, timeout_s)
        self.fp = io.BufferedReader(hurried)
        unhurried.close()


class _Plain(http.client.HTTPConnection):
    response_class = _Answer


class _Secure(http.client.HTTPSConnection):
    response_class = _Answer


class _OverHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Plain, req)


class _OverHttps(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Secure, req)


# Health pages are on the host itself: never go through a proxy from the environment.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay, _OverHttp, _OverHttps)


def _body(reply: Any, limit: int) -> bytes:
    parts, left = [], limit
    while left > 0:
        part = reply.read1(min(left, _PART_BYTES))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def fetch(
    url: str, timeout_s: float, body: dict[str, Any] | None = None, limit: int = MAX_BODY_BYTES
) -> tuple[int, bytes]:
    """GET (or POST ``body`` as JSON), whatever the status.

    Returns:
        The HTTP status and at most ``limit`` bytes of the body.

    Raises:
        OSError: nothing answered in time, or not in HTTP.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        try:
            request = urllib.request.Request(url, data=data, headers=headers)
            with _DIRECT.open(request, timeout=min(timeout_s, _LONGEST_S)) as reply:
                return reply.status, _body(reply, limit)
        except urllib.error.HTTPError as err:
            # An error status is an answer like any other; reading its body may fail, too.
            with err:
                return err.code, _body(err, limit)
    except (http.client.HTTPException, ValueError) as err:
        raise OSError(f"{type(err).__name__}: {err}") from err


def ask(question: Http) -> ProbeResult:
    """Ask over HTTP and judge the answer; never raises."""
    try:
        status, raw = fetch(question.url, question.timeout_s)
    except OSError as err:
        return ProbeResult(False, printable(f"no answer: {getattr(err, 'reason', err)}"))
    if status != question.status:
        return ProbeResult(False, f"HTTP {status}", status)
    if not question.json:
        return ProbeResult(True, f"HTTP {status}", status)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return ProbeResult(False, f"HTTP {status}, but the body is not JSON", status)
    seen = {path: dig(body, path) for path in question.json}
    text = ", ".join(f"{k} = {json.dumps(v)[:80]}" for k, v in seen.items())
    return ProbeResult(seen == question.json, text, status)


def _argv(pid: int, proc: Path) -> list[str]:
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode("utf-8", "replace") for word in raw.rstrip(b"\0").split(b"\0")]


def command(pid: int, proc: Path = Path("/proc")) -> str:
    """Command line of a process as one text, fit for a terminal; empty when it is gone."""
    return printable(" ".join(_argv(pid, proc)))


def _stat(pid: int, proc: Path) -> list[str]:
    # The second field (the name) may hold spaces and parentheses: split after its closing parenthesis.
    # The name may be in no valid encoding.
    try:
        return (proc / str(pid) / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def identify(pid: int, proc: Path = Path("/proc")) -> ProcessId | None:
    """The process with its start time, or None when it is gone or a zombie."""
    fields = _stat(pid, proc)
    if len(fields) < 20 or fields[0] == "Z":
        return None
    return ProcessId(pid, int(fields[19]))


@functools.cache
def soft_reboots() -> int:
    """The number of soft reboots since the kernel booted; 0 where systemd does not report it.

    No process survives a soft reboot, so one question is enough.
    """
    try:
        found = run.command(["systemctl", "show", "--property", "SoftRebootsCount", "--value"], _QUESTION_S).out.strip()
    except OSError:
        return 0
    return int(found) if found.isdigit() else 0


def age_s(pid: int, proc: Path = Path("/proc")) -> float:
    """For how many seconds a process has lived, suspend included; 0 when it is gone."""
    fields = _stat(pid, proc)
    if len(fields) < 20:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def stopped(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process was stopped by a signal and waits for SIGCONT."""
    return _stat(pid, proc)[:1] == ["T"]


def state(pid: int, proc: Path = Path("/proc")) -> str:
    """The kernel's letter for what a process does (R, S, D, T, ...); empty when it is gone."""
    return next(iter(_stat(pid, proc)), "")


def alive(process: ProcessId, proc: Path = Path("/proc")) -> bool:
    """Whether this very process (not a later one with the same number) still runs."""
    return identify(process.pid, proc) == process


def ancestors(pid: int, proc: Path = Path("/proc")) -> set[int]:
    """The process and all its parents."""
    seen: set[int] = set()
    while pid > 0 and pid not in seen:
        seen.add(pid)
        fields = _stat(pid, proc)
        pid = int(fields[1]) if len(fields) > 1 else 0
    return seen


def _matches(argv: list[str], words: list[str]) -> bool:
    for start in range(len(argv) - len(words) + 1):
        part = argv[start : start + len(words)]
        if part == words or [os.path.basename(part[0]), *part[1:]] == words:
            return True
    return False


def processes(pattern: str, proc: Path = Path("/proc")) -> list[ProcessId]:
    """Processes whose argv holds the words of ``pattern`` one after another.

    A shell that merely mentions the pattern inside one argument does not match, nor does the asking process
    or any of its ancestors. The first word may be given without its folder. An empty pattern matches nothing.
    """
    own, words = ancestors(os.getpid(), proc), pattern.split()
    found = []
    for entry in proc.iterdir():
        if not (words and entry.name.isdigit()) or int(entry.name) in own:
            continue
        process = identify(int(entry.name), proc) if _matches(_argv(int(entry.name), proc), words) else None
        if process:
            found.append(process)
    return sorted(found, key=lambda p: p.pid)


def heads(found: list[ProcessId], proc: Path = Path("/proc")) -> list[ProcessId]:
    """The processes among these that descend from none of the others."""
    pids = {process.pid for process in found}
    return [process for process in found if not (pids - {process.pid}) & ancestors(process.pid, proc)]


def uid(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The user a process belongs to, or None when it is gone."""
    try:
        return (proc / str(pid)).stat().st_uid
    except OSError:
        return None


def units(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """The system units whose control groups a process lives in, from the outside in.

    Empty for a process of a user's own manager: there, users can give their units any name.
    """
    found: list[str] = []
    with contextlib.suppress(OSError):
        for line in (proc / str(pid) / "cgroup").read_text().splitlines():
            parts = line.split(":", 2)[-1].split("/")
            if not any(part.startswith("user@") for part in parts):
                found += [part for part in parts if part]
    return found


def _of_the_system(pid: int, proc: Path) -> list[str]:
    """The outermost units of a process, one for each of its control group hierarchies.

    In a container with its own systemd, the container's root can give units any name. Those units are inside the
    container's control group and do not belong to this system.
    """
    tops = {line.split(":", 1)[0]: line.split(":", 2)[-1] for line in _lines(proc / "1" / "cgroup")}
    found = []
    for line in _lines(proc / str(pid) / "cgroup"):
        # If this system is a container that sees the groups around it, its own groups begin at those of PID 1.
        top = tops.get(line.split(":", 1)[0], "").removesuffix("/init.scope")
        parts = line.split(":", 2)[-1].removeprefix(f"{top}/" if top.strip("/") else "/").split("/")
        found += [part for part in parts if part and not part.endswith(".slice")][:1]
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _is_nested(pid: int, proc: Path) -> bool:
    """Whether a process lives in a PID namespace within this one, as those of containers do."""
    return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in _lines(proc / str(pid) / "status"))


def members(pattern: str, proc: Path = Path("/proc")) -> dict[str, list[int]]:
    """Living processes in the system's units whose whole name matches a regular expression, by unit, as of now.

    systemd reports an end a few milliseconds after the last process has ended. A ``systemd-run`` of root's that still
    waits for its unit counts as well: its command will run.
    """
    found: dict[str, list[int]] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        own = set(_of_the_system(pid, proc))
        names = [name for name in units(pid, proc) if name in own and re.fullmatch(pattern, name)]
        if not names:
            argv = _argv(pid, proc)
            asks = os.path.basename(argv[0] if argv else "") == "systemd-run"
            if asks and uid(pid, proc) == 0 and not _is_nested(pid, proc):
                wanted = [word.removeprefix("--unit=") for word in argv if word.startswith("--unit=")]
                names = [name for name in wanted if re.fullmatch(pattern, name)]
        if names and identify(pid, proc):
            found.setdefault(names[-1], []).append(pid)
    return found


def inhabited(unit: str, proc: Path = Path("/proc")) -> bool:
    """Whether a process lives in the control group of a unit of the system, as of this moment."""
    return bool(members(re.escape(unit), proc))


def listeners(proc: Path = Path("/proc"), ports: Collection[int] | None = None) -> list[Listener]:
    """Listening TCP sockets of the host with their holders, as far as the caller may see.

    Args:
        proc: where the processes are.
        ports: only these ports. Where nobody listens on them, this is cheap; otherwise the descriptors of all
            processes have to be read.
    """
    here = {item.inode: item.port for item in sockets.listening(ports, proc)}
    if not here:
        return []
    held = sockets.holders(here, proc)
    named = {holder.inode for holder in held}
    found = {Listener(here[holder.inode], holder.pid, command(holder.pid, proc)) for holder in held}
    found |= {Listener(port, 0, "") for inode, port in here.items() if inode not in named}
    return sorted(found, key=lambda item: (item.port, item.pid))
