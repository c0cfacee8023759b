# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU's driver, queried in a separate process.

An NVML call may hang inside the kernel, where no signal ends it, and then its process can't be reaped. If the runner
hung like that, systemd would never see its end, and nothing would restore the host. So a separate process queries the
driver. It is started once and answers over sockets, which keeps a reading cheap. If it hangs, it is abandoned and never
waited for.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import probes, run, telemetry

BYTES_PER_MIB = 1 << 20
# Without persistence mode, the first call loads the driver's state, which takes seconds.
OPEN_TIMEOUT_S = 15.0
# Nothing waits for telemetry; its own thread gives up after this.
VITALS_TIMEOUT_S = 15.0
# A process that ended (killed, or crashed in the driver's library) is started again, but not more often than this.
AGAIN_S = 1.0
HANGS = "the GPU's driver still hangs in an earlier call"
_CHUNK_BYTES = 1 << 16
# Finds this module in the new process, whether a folder, a zipapp or Ansible's zip brought it into this one.
_BOOT = (
    "import importlib, json, sys; told = json.loads(sys.argv[1]); sys.path[:] = told['path']; "
    "sys.pycache_prefix = told['cache']; importlib.import_module(told['module']).serve(told['index'], told['lanes'])"
)


_SHARED = "a card that shares the machine's memory (GB10, Jetson) is not supported"


class GpuError(Exception):
    """The GPU cannot be read; the message says which call failed and why."""


class _Gone(Exception):
    """The process that queries the driver has ended."""


# In the separate process: the card, through NVML or nvidia-smi.


def _text(value: Any) -> str:
    # Older releases of pynvml answer with bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _reading(used_mib: int, total_mib: int, listed: Iterable[tuple[int, int | None, str]]) -> dict[str, Any]:
    # A process that both computes and draws is listed twice with the same figure: take the larger one, never the sum.
    # Its command line is read here, because reading it may hang as well if that process hangs in the kernel.
    merged: dict[int, tuple[int | None, str]] = {}
    for pid, mib, name in listed:
        known = merged.get(pid)
        sizes = [m for m in (mib, known[0] if known else None) if m is not None]
        merged[pid] = (max(sizes, default=None), known[1] if known else probes.command(pid) or name)
    holders = [[pid, *merged[pid]] for pid in sorted(merged)]
    return {"t_s": time.monotonic(), "used_mib": used_mib, "total_mib": total_mib, "holders": holders}


class _Nvml:
    """NVML through pynvml, initialized once and kept open."""

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._call("nvmlInit")
        self._handle = self._call("nvmlDeviceGetHandleByIndex", index)
        self.name = _text(self._call("nvmlDeviceGetName", self._handle))
        self.driver = _text(self._call("nvmlSystemGetDriverVersion"))
        self._tells_processes()
        self.telemetry = telemetry.FromNvml(nvml, self._handle)

    def _call(self, name: str, *args: Any) -> Any:
        try:
            return getattr(self._nvml, name)(*args)
        except self._nvml.NVMLError as err:
            raise GpuError(f"NVML's {name} failed: {err}") from err

    def _tells_processes(self) -> None:
        # What else goes wrong shows at the first reading.
        with contextlib.suppress(self._nvml.NVMLError):
            try:
                self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
            except getattr(self._nvml, "NVMLError_FunctionNotFound", ()) as err:
                raise GpuError(f"this driver's NVML is too old to list processes: {err}") from err

    def _processes(self, kind: str) -> Any:
        try:
            return getattr(self._nvml, f"nvmlDeviceGet{kind}RunningProcesses")(self._handle)
        except self._nvml.NVMLError_NotSupported:
            # Some cards cannot draw and some drivers cannot tell; the rest is still worth knowing.
            return []
        except self._nvml.NVMLError as err:
            raise GpuError(f"NVML's list of processes failed: {err}") from err

    def _memory(self) -> Any:
        # The second structure is what nvidia-smi shows; the first one counts the driver's own reserve as used.
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        if version is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                return self._nvml.nvmlDeviceGetMemoryInfo(self._handle, version=version)
        try:
            return self._call("nvmlDeviceGetMemoryInfo", self._handle)
        except GpuError as err:
            if isinstance(err.__cause__, self._nvml.NVMLError_NotSupported):
                raise GpuError(f"the driver does not report how much memory is used: {_SHARED}") from err
            raise

    def read(self) -> dict[str, Any]:
        memory = self._memory()
        listed = []
        for kind in ("Compute", "Graphics"):
            for process in self._processes(kind):
                used = process.usedGpuMemory
                listed.append((int(process.pid), None if used is None else used // BYTES_PER_MIB, ""))
        return _reading(memory.used // BYTES_PER_MIB, memory.total // BYTES_PER_MIB, listed)


class _Smi:
    """nvidia-smi's CSV, for hosts without pynvml or NVML's library; it lists what computes, not what only draws."""

    def __init__(self, index: int) -> None:
        self._index = index
        self.name, self.driver, *_unused = self._card()
        self.telemetry = telemetry.FromSmi(lambda fields: self._query("gpu", fields))

    def _query(self, what: str, fields: str) -> list[list[str]]:
        call = [
            "nvidia-smi",
            f"--id={self._index}",
            f"--query-{what}={fields}",
            "--format=csv,noheader,nounits",
        ]
        try:
            done = run.command(call, OPEN_TIMEOUT_S)
        except FileNotFoundError:
            raise GpuError("neither NVML nor nvidia-smi is there: is the NVIDIA driver installed?") from None
        except OSError as err:
            raise GpuError(f"nvidia-smi did not answer: {err}") from err
        if done.rc != 0:
            raise GpuError(f"nvidia-smi ended with {done.rc}: {(done.err or done.out).strip()}")
        return [[cell.strip() for cell in row] for row in csv.reader(done.out.splitlines()) if row]

    def _card(self) -> tuple[str, str, int, int]:
        rows = self._query("gpu", "name,driver_version,memory.used,memory.total")
        try:
            name, driver, used, total = rows[0]
            return name, driver, int(used), int(total)
        except (IndexError, ValueError) as err:
            why = f"; {_SHARED}" if rows and "[N/A]" in rows[0] else ""
            raise GpuError(f"nvidia-smi's answer is not name, driver, used and total: {rows!r}{why}") from err

    def read(self) -> dict[str, Any]:
        *_unused, used_mib, total_mib = self._card()
        listed = [
            (int(row[0]), int(row[1]) if row[1].isdigit() else None, row[2])
            for row in self._query("compute-apps", "pid,used_memory,process_name")
            if len(row) == 3 and row[0].isdigit()
        ]
        return _reading(used_mib, total_mib, listed)


def _source(index: int) -> _Nvml | _Smi:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return _Smi(index)
    try:
        return _Nvml(nvml, index)
    except GpuError as err:
        # The program brings pynvml, Ansible's modules do not: what one of them reads, the other can read as well.
        # And an old driver's library lacks functions that pynvml asks for.
        lacking = [getattr(nvml, f"NVMLError_{name}", None) for name in ("LibraryNotFound", "FunctionNotFound")]
        if isinstance(err.__cause__, tuple(filter(None, lacking))):
            return _Smi(index)
        raise


class Answers:
    """The separate process: it answers questions about one card, over lanes.

    Args:
        index: the card's number.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._source: _Nvml | _Smi | None = None

    def _do(self, word: str) -> dict[str, Any]:
        if word == "open" or self._source is None:
            self._source = _source(self._index)
        if word == "open":
            source = self._source
            return {"name": source.name, "driver": source.driver, "every_s": source.telemetry.every_s}
        if word == "vitals":
            reading = self._source.telemetry.read()
            return {"values": reading.values, "missing": reading.missing}
        return self._source.read()

    def lane(self, lane: socket.socket) -> None:
        """Answer every line of one lane with a line of JSON, until the other side is gone."""
        with lane, contextlib.suppress(OSError), lane.makefile("rb") as words:
            for word in words:
                try:
                    said: dict[str, Any] = {"is": self._do(word.decode().strip())}
                except Exception as err:
                    # Told to who asked: this process answers the next question all the same.
                    said = {"error": str(err) if isinstance(err, GpuError) else f"the GPU's answer: {err!r}"}
                lane.sendall(json.dumps(said).encode() + b"\n")


def serve(index: int, lanes: list[int], lifeline: int = 0) -> None:
    """Serve the lanes of the separate process until the process that started it is gone, however that ended."""
    answers = Answers(index)
    for fd in lanes:
        # Each lane in a thread, so that hanging telemetry does not delay a reading of the memory.
        threading.Thread(target=answers.lane, args=(socket.socket(fileno=fd),), daemon=True).start()
    while os.read(lifeline, _CHUNK_BYTES):
        pass
    os._exit(0)


# In the process that asks.


class _Lane:
    """One connection to the separate process: one question at a time, with a time limit for the answer."""

    def __init__(self, near: socket.socket) -> None:
        self._near, self._owed, self._read = near, 0, b""
        self._lock = threading.Lock()

    def ask(self, word: str, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise GpuError(HANGS)
        try:
            while self._owed:
                # An abandoned call is still running: another one would only queue up behind it.
                self._answer(deadline, HANGS)
            with _reachable():
                self._near.sendall(f"{word}\n".encode())
            self._owed += 1
            said = self._answer(deadline, f"the GPU's driver did not answer within {timeout_s:g} s")
        finally:
            self._lock.release()
        if "error" in said:
            raise GpuError(said["error"])
        found: dict[str, Any] = said["is"]
        return found

    def _answer(self, deadline: float, late: str) -> dict[str, Any]:
        while b"\n" not in self._read:
            with _reachable():
                self._near.settimeout(max(1e-3, deadline - time.monotonic()))
                try:
                    part = self._near.recv(_CHUNK_BYTES)
                except TimeoutError:
                    raise GpuError(late) from None
            if not part:
                raise _Gone
            self._read += part
        line, _end, self._read = self._read.partition(b"\n")
        self._owed -= 1
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        # Wakes the one that waits for an answer.
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)
        self._near.close()


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise _Gone from err


def _let_go(child: Any, lanes: list[_Lane]) -> None:
    for lane in lanes:
        lane.close()
    run.abandon(child)


def boot(index: int, lanes: list[int]) -> list[str]:
    """The command of the separate process, with the fastest start that Python has: no site, no environment."""
    depth = len(__name__.split("."))
    root = str(Path(__file__).parents[depth - 1])
    told = {
        "path": [root, *sys.path],
        "cache": sys.pycache_prefix,
        "module": __name__,
        "index": index,
        "lanes": lanes,
    }
    return [sys.executable, "-I", "-S", "-B", "-c", _BOOT, json.dumps(told)]


class Driver:
    """The driver of one card, queried through a separate process.

    Args:
        index: the card's number.
        timeout_s: seconds for the first answer.

    Raises:
        GpuError: there is no such card, or the driver does not answer.
    """

    def __init__(self, index: int, timeout_s: float) -> None:
        self._index, self._lock, self._closed = index, threading.Lock(), False
        try:
            facts = self._start(timeout_s)
        except (GpuError, _Gone) as err:
            self.close()
            raise (self._ended() if isinstance(err, _Gone) else err) from None
        self.name, self.version, self.every_s = str(facts["name"]), str(facts["driver"]), float(facts["every_s"])

    @staticmethod
    def _ended() -> GpuError:
        return GpuError("the process that asks the GPU's driver has ended")

    def _start(self, timeout_s: float) -> dict[str, Any]:
        pairs = [socket.socketpair(), socket.socketpair()]
        far = [there for _here, there in pairs]
        try:
            child = run.helper(boot(self._index, [one.fileno() for one in far]), [one.fileno() for one in far])
        except OSError as err:
            for here, _there in pairs:
                here.close()
            raise GpuError(f"the process that asks the GPU's driver can't be started: {err}") from err
        finally:
            for one in far:
                one.close()
        self._memory, self._vitals = lanes = [_Lane(here) for here, _there in pairs]
        self._started_s = time.monotonic()
        # Also if nobody closes it, and when the program ends.
        self._end, self._anew = weakref.finalize(self, _let_go, child, lanes), False
        return self._memory.ask("open", timeout_s)

    def _ask(self, lane: str, word: str, timeout_s: float) -> dict[str, Any]:
        asked: _Lane = getattr(self, lane)
        deadline = time.monotonic() + timeout_s
        try:
            return asked.ask(word, timeout_s)
        except _Gone:
            self._start_anew(lane, asked, timeout_s)
        try:
            again: _Lane = getattr(self, lane)
            return again.ask(word, max(0.0, deadline - time.monotonic()))
        except _Gone:
            raise self._ended() from None

    def _start_anew(self, lane: str, asked: _Lane, timeout_s: float) -> None:
        if not self._lock.acquire(timeout=timeout_s):
            raise GpuError(HANGS)
        try:
            # Another caller may have been faster.
            if getattr(self, lane) is not asked:
                return
            # When the program ends, the process is abandoned as well, and is not started again.
            over = self._closed or not (self._end.alive or self._anew)
            if over or time.monotonic() - self._started_s < AGAIN_S:
                raise self._ended() from None
            self._anew = True
            self._end()
            with contextlib.suppress(_Gone):
                self._start(timeout_s)
        finally:
            self._lock.release()

    def read(self, timeout_s: float) -> dict[str, Any]:
        """The card's memory and who holds it: ``{"t_s", "used_mib", "total_mib", "holders": [[pid, mib, command]]}``.

        Raises:
            GpuError: the driver erred, or did not answer in time.
        """
        return self._ask("_memory", "read", timeout_s)

    def vitals(self) -> telemetry.Reading:
        """Telemetry of this moment.

        Raises:
            GpuError: the driver erred, or did not answer in time.
        """
        found = self._ask("_vitals", "vitals", VITALS_TIMEOUT_S)
        return telemetry.Reading(found["values"], found["missing"])

    def close(self) -> None:
        """Abandon the process, without waiting for one that hangs in the kernel."""
        self._closed = True
        end = getattr(self, "_end", None)
        if end:
            end()
