# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's record of a trial: the journal, the epoch, the open mark, the lease.

Everything that a host must remember about a trial is in one root-owned folder. A power cut leaves either the old text
or the new one: files are replaced by write, fsync, rename and fsync of the folder; the journal is appended and fsynced.
Readers tolerate a torn last line.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .plan import NAME
from .probes import identify, soft_reboots

ROOT = Path("/var/lib/model-trial")
# Under the root: the hash and the path of the program that the open run keeps beside its plan.
KEPT = "kept"
PHASES = ("snapshot", "window", "candidate", "measure")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# A run's journal takes 10 to 20 KiB, and each restore that was not complete some 6 KiB more: if the disk stays
# full, the first forty attempts are recorded and later ones go unrecorded.
RESERVED_BYTES = 256 * 1024
# Linux: allocate space without changing the size, so that readers see only what was written.
_KEEP_SIZE = 1


def wall() -> str:
    """Now, in UTC, ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def awake_s() -> float:
    """Seconds since boot including suspend: a lease must also lapse on a suspended machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """A name for this boot: the kernel's, and the start of process 1, which changes where only a container reboots.

    After a soft reboot, which ends every process but keeps both, its number is part of the name.
    """
    init, soft = identify(1), soft_reboots()
    name = f"{_BOOT_ID.read_text().strip()}.{init.start_ticks if init else 0}"
    return f"{name}.{soft}" if soft else name


def stamp() -> dict[str, Any]:
    """This moment in the form of a journal entry: ``{"wall", "t_s", "boot_id"}``."""
    return {"wall": wall(), "t_s": round(time.monotonic(), 4), "boot_id": boot_id()}


def seconds(earlier: dict[str, Any], later: dict[str, Any]) -> float:
    """Time between two stamps or entries; the steady clock does not survive a reboot, the wall clock does."""
    if earlier["boot_id"] == later["boot_id"]:
        return float(later["t_s"]) - float(earlier["t_s"])
    walls = [datetime.fromisoformat(e["wall"].replace("Z", "+00:00")) for e in (earlier, later)]
    # After a boot the wall clock may not be set yet.
    return max(0.0, (walls[1] - walls[0]).total_seconds())


def _epoch(found: Any) -> int:
    epoch = found.get("epoch") if isinstance(found, dict) else None
    return epoch if isinstance(epoch, int) else 0


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file so that readers and power cuts see the old text or the new one, never a part."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_bytes(path: Path, raw: bytes, mode: int) -> None:
    """`write_atomic` of bytes."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    _sync_folder(path.parent)


def private(path: str, flags: int) -> int:
    """Opener of files that only root can read, for ``open(..., opener=private)``."""
    return os.open(path, flags, 0o600)


def read_json(path: Path) -> Any:
    """Decoded JSON of a file, or None when it is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read(path: Path, since: int = 0) -> list[dict[str, Any]]:
    """Journal entries with ``seq`` greater than ``since``; torn lines, and lines that are not entries, are left out."""
    try:
        return _entries(path.read_bytes(), since)
    except OSError:
        return []


def _entries(raw: bytes, since: int = 0) -> list[dict[str, Any]]:
    entries = []
    for line in raw.split(b"\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not (isinstance(entry, dict) and isinstance(entry.get("event"), str) and isinstance(entry.get("seq"), int)):
            continue
        if entry["seq"] > since:
            entries.append(entry)
    return entries


class Journal:
    """Appends one JSON object a line, durable when ``write`` returns.

    With ``required`` a failed write stops the owner: a trial without a record must not continue. Without it the entry
    is lost and the owner continues: a restore must not wait for a full disk. Then ``lost`` is true.
    """

    def __init__(self, path: Path, run: str, epoch: int, by: str, *, required: bool) -> None:
        self.path, self.run, self.epoch, self.by, self.required = path, run, epoch, by, required
        self.lost = False

    def write(self, event: str, **facts: Any) -> None:
        """Append one event.

        Raises:
            OSError: the entry could not be made durable, and the journal is required.
        """
        try:
            self._append(event, facts)
        except OSError:
            if self.required:
                raise
            self.lost = True

    def _append(self, event: str, facts: dict[str, Any]) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(fd, "r+b") as file:
            # Runner and restorer never write at the same time, but a verb may: number and line go together.
            fcntl.flock(file, fcntl.LOCK_EX)
            raw = file.read()
            seq = max((e["seq"] for e in _entries(raw)), default=0) + 1
            entry = {
                "seq": seq,
                **stamp(),
                "run": self.run,
                "epoch": self.epoch,
                "by": self.by,
                "event": event,
                **facts,
            }
            torn = b"\n" if raw and not raw.endswith(b"\n") else b""
            file.write(torn + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def reserve(path: Path, size: int = RESERVED_BYTES) -> None:
    """Reserve ``size`` bytes of the disk for a file's growth, so that it can be appended to when the disk is full.

    A file system that does not support this is left alone.

    Raises:
        OSError: there is not that much space.
    """
    with open(path, "ab", opener=private) as file:
        if ctypes.CDLL(None, use_errno=True).fallocate64(
            file.fileno(), _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)
        ):
            code = ctypes.get_errno()
            if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(code, os.strerror(code), str(path))


@dataclass(frozen=True)
class Mark:
    """The open mark: a trial holds this host."""

    run: str
    epoch: int
    boot_id: str
    since: str
    controller: str


class Held(RuntimeError):
    """The host is not free, or the caller's epoch is stale; the message says by whom and since when."""


class State:
    """The folder that holds epoch, mark, lease and runs."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def run_dir(self, run: str) -> Path:
        """Folder of one run: plan, snapshot, journal, samples, logs.

        Raises:
            ValueError: not the name of a run; a caller's text must not lead to another folder.
        """
        if run and not NAME.match(run):
            raise ValueError(f"expected the name of a run (letters, digits, dot, dash, underscore), found {run!r}")
        return self.root / "runs" / run

    def newest_run(self) -> str:
        """The run that was opened last, by the epoch of its snapshot; empty on a host that never opened one."""
        paths = self.root.glob("runs/*/snapshot.json")
        found = [(_epoch(read_json(path)), path.stat().st_mtime, path.parent.name) for path in paths]
        return max(found)[-1] if found else ""

    def last_run(self) -> str:
        """The run that acted last, by the epochs in its journal, not by the clock; empty where there is none.

        A run that was not opened has the epoch in which the previous run ended, and started in it.
        """
        found = []
        for path in self.root.glob("runs/*/journal.jsonl"):
            epochs = [_epoch(entry) for entry in read(path)]
            if epochs:
                found.append((max(epochs), epochs[0], path.stat().st_mtime, path.parent.name))
        return max(found)[-1] if found else ""

    @property
    def definitions(self) -> Path:
        """The folder with the definitions of the open trial's tenants. They include secrets, so it is outside the
        run's folder, which is harvested."""
        return self.root / "definitions"

    def journal_path(self, run: str) -> Path:
        """The journal of a run."""
        return self.run_dir(run) / "journal.jsonl"

    @contextlib.contextmanager
    def lock(self, who: str) -> Iterator[None]:
        """Let one caller at a time prepare a trial; a refused caller is told ``who`` holds the lock.

        Raises:
            Held: another caller is opening a trial right now; the message says who and since when.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.root / "lock", "a+", encoding="utf-8", opener=private) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                file.seek(0)
                words = f"another trial is being prepared on this host right now: {file.read()}"
                raise Held(f"{words}; nothing was touched, try again when that has ended") from err
            file.truncate(0)
            file.write(f"{who} since {wall()}")
            file.flush()
            yield

    def epoch(self) -> int:
        """The current epoch; 0 on a host that never ran a trial."""
        found = read_json(self.root / "epoch")
        return found if isinstance(found, int) else 0

    def raise_epoch(self) -> int:
        """Make every holder of the old epoch stale; return the new one."""
        epoch = self.epoch() + 1
        path, text = self.root / "epoch", f"{epoch:>20}\n"
        try:
            write_atomic(path, text)
        except OSError:
            # A full disk has no room for a new file, but the old one can be overwritten in place: same length, and a
            # line this short reaches the disk whole or not at all.
            with path.open("r+", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        return epoch

    def mark(self) -> Mark | None:
        """The open mark, or None when no trial holds the host; one that can't be read marks the run opened last."""
        found = read_json(self.root / "open")
        run = found.get("run") if isinstance(found, dict) else None
        if not (isinstance(run, str) and NAME.match(run)):
            # A needless restore is better than a missing one.
            return Mark(self.newest_run(), 0, "", "?", "?") if (self.root / "open").exists() else None
        return Mark(**{f.name: found.get(f.name, "") for f in dataclasses.fields(Mark)})

    def open(self, mark: Mark) -> None:
        """Set the mark, durable on return; requests left for an earlier run are removed first."""
        self._forget_words()
        write_atomic(self.root / "open", json.dumps(dataclasses.asdict(mark)) + "\n")

    def close(self) -> None:
        """Remove the mark, durable on return: the host is free again."""
        self._forget_words()
        (self.root / "environments").unlink(missing_ok=True)
        # Remove the tenants' secrets before the mark: without it, nothing would ever remove them.
        shutil.rmtree(self.definitions, ignore_errors=True)
        (self.root / "open").unlink(missing_ok=True)
        # Last: while there is a mark, the host must know which program restores it.
        (self.root / KEPT).unlink(missing_ok=True)
        _sync_folder(self.root)

    def keep_environments(self, run: str, values: dict[str, dict[str, str]]) -> None:
        """Keep the environments of tenants while the mark exists: only root can read them; no harvest fetches them."""
        write_atomic(self.root / "environments", json.dumps({"run": run, "tenants": values}) + "\n")

    def environments(self, run: str) -> dict[str, dict[str, str]]:
        """The environments that tenants had when the run was opened; empty where they are not known."""
        found = read_json(self.root / "environments")
        known = found.get("tenants") if isinstance(found, dict) and found.get("run") == run else None
        return known if isinstance(known, dict) else {}

    def _forget_words(self) -> None:
        for name in ("lease", "furthest", "abort", "asked", "early"):
            (self.root / name).unlink(missing_ok=True)

    def guard(self, run: str, epoch: int) -> Mark:
        """The mark, if this run and epoch hold the host.

        Raises:
            Held: they don't; the message tells who restored the host, or who holds it.
        """
        mark = self.mark()
        if mark and mark.run == run and mark.epoch == epoch == self.epoch():
            return mark
        done = [e for e in read(self.journal_path(run)) if e["event"] in ("restore_started", "restored")]
        if done:
            raise Held(f"run {run}, epoch {epoch} is over: restored by {done[-1]['restored_by']} at {done[-1]['wall']}")
        if mark:
            raise Held(f"this host is held by run {mark.run} since {mark.since} (from {mark.controller})")
        raise Held(f"run {run}, epoch {epoch} is not open on this host")

    def renew(self) -> None:
        """Renew the lease. Not fsynced: no lease is valid after a power cut anyway.

        Raises:
            OSError: the disk is full; the lease will lapse.
        """
        path = self.root / "lease"
        fresh = path.with_name(f".lease.{os.getpid()}")
        try:
            with open(fresh, "w", encoding="ascii", opener=private) as file:
                file.write(f"{awake_s():.3f}\n")
            fresh.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise

    def lease_age_s(self) -> float:
        """Seconds since the lease was last renewed."""
        found = read_json(self.root / "lease")
        return awake_s() - float(found) if isinstance(found, (int, float)) else float("inf")

    def advance(self, phase: str) -> None:
        """Let the run enter ``phase``; permission for a later phase is never withdrawn."""
        if PHASES.index(phase) > PHASES.index(self.furthest()):
            write_atomic(self.root / "furthest", json.dumps(phase) + "\n")

    def furthest(self) -> str:
        """The furthest phase the run may enter."""
        found = read_json(self.root / "furthest")
        return found if found in PHASES else PHASES[0]

    def ask(self, what: str, who: str) -> None:
        """Leave a request for the units.

        Args:
            what: ``abort`` (with a reason), ``asked`` (who wants a restore), ``early`` (who asked before any failed).
            who: the reason, or the name.
        """
        write_atomic(self.root / what, json.dumps(who) + "\n")

    def asked(self, what: str) -> str:
        """The request left under ``what``, or an empty text."""
        found = read_json(self.root / what)
        return found if isinstance(found, str) else ""

    def take(self, what: str) -> str:
        """Remove the request under ``what`` and return it; an empty text if there is none."""
        found = self.asked(what)
        with contextlib.suppress(OSError):
            (self.root / what).unlink(missing_ok=True)
        return found
