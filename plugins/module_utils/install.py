# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase 1 on the host: program and units are installed by one at a time, and only while no trial holds the host.

Nothing here reloads systemd: that takes the GPU from containers that are running. systemd reads a
file when its unit is first named, and forgets a unit by itself that is inactive and that nobody refers to. So a unit's
file is replaced only then.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from . import kept, run, services, watch
from .journal import Held, Mark, State, write_bytes

PROGRAM = Path("/usr/local/sbin/model-trial")
UNIT_DIR = Path("/etc/systemd/system")
RECOVERER = "mt-recover.service"
# Under the state's root: what a controller has brought, each in a folder that is named by its program's hash.
INCOMING = "incoming"
# What root runs is written by root alone.
PROGRAM_MODE, UNIT_MODE = 0o755, 0o644
# Of earlier versions: the runner's unit was a file, its cap a drop-in. Either would be in the way of today's.
EARLIER = (UNIT_DIR / services.RUNNER, Path("/run/systemd/system", f"{services.RUNNER}.d"))
# systemd forgets a unit within moments of its end.
FORGET_S, POLL_S = 5.0, 0.1
# A download of gigabytes over a slow line.
HOLD_S = 86_400.0


def _held(mark: Mark) -> Held:
    return Held(
        f"this host is held by run {mark.run} since {mark.since} (from {mark.controller}), which is restored by what "
        "is there now. Wait for its end (sudo model-trial status), or bring the host back first: ansible-playbook "
        "restore.yml"
    )


@contextlib.contextmanager
def alone(state: State, who: str) -> Iterator[None]:
    """Nobody else prepares, opens or installs anything meanwhile.

    Raises:
        Held: another installation is in progress, or a trial holds the host; the message says who, and how to go on.
    """
    with state.lock(who):
        mark = state.mark()
        if mark:
            raise _held(mark)
        yield


def hold(state: State, who: str, words: list[str]) -> run.Ran:
    """Run a command `alone`; returns its exit status and what it printed.

    Raises:
        Held: as `alone`.
        OSError: it can't be started, or took longer than a day.
    """
    with alone(state, who):
        return run.command(words, HOLD_S)


def _differs(path: Path, raw: bytes) -> bool:
    try:
        return path.is_symlink() or path.read_bytes() != raw
    except OSError:
        return True


def _loaded(unit: str) -> str:
    """What systemd has in memory of a unit; empty if nothing."""
    argv = ["systemctl", "list-units", "--all", "--plain", "--no-legend", unit]
    return " ".join(run.command(argv, services.SYSTEMD_S).out.split())


def _await_forgotten(unit: str) -> None:
    """Wait until systemd has forgotten a unit, so that its file is read when it is named the next time.

    Raises:
        OSError: it does not.
    """
    # No trial holds the host: nobody needs the watch, which names its units itself.
    run.command(["systemctl", "stop", watch.TIMER, watch.LOOK], services.SYSTEMD_S)
    run.command(["systemctl", "reset-failed", *services.UNITS, watch.LOOK], services.SYSTEMD_S)
    deadline = time.monotonic() + FORGET_S
    found = _loaded(unit)
    while found:
        if time.monotonic() > deadline:
            raise OSError(
                f"{unit}: expected systemd to have forgotten it, so that its new file is read, found: {found}. Nothing "
                f"was replaced. See who uses it (systemctl status {unit}), or restart the host, and try again"
            )
        time.sleep(POLL_S)
        found = _loaded(unit)


def _install_unit(source: Path) -> bool:
    """Whether it was changed. ``mt-recover`` is started by a boot alone, which reads every file."""
    target, raw = UNIT_DIR / source.name, source.read_bytes()
    if not _differs(target, raw):
        return False
    if source.name != RECOVERER:
        _await_forgotten(source.name)
    write_bytes(target, raw, UNIT_MODE)
    return True


def _enable() -> bool:
    if (UNIT_DIR / "multi-user.target.wants" / RECOVERER).is_symlink():
        return False
    # Asked over its bus, systemd would take every unit of the host for one that needs a reload; a root makes systemctl
    # set the link itself.
    done = run.command(["systemctl", "enable", "--no-reload", "--root=/", RECOVERER], services.SYSTEMD_S)
    if done.rc:
        raise OSError(f"{RECOVERER} could not be enabled: {done.first_line()}")
    return True


def _remove_earlier() -> list[str]:
    found = [path for path in EARLIER if path.exists()]
    if found:
        _await_forgotten(services.RUNNER)
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [str(path) for path in found]


def install(state: State, who: str) -> list[str]:
    """Install this program and the units beside it, from the folder of the state that a controller has laid them in.

    That folder is gone afterwards, whatever came of it. Where a trial holds the host and its program can't be run any
    more, only that is put back, because people and plays ask it.

    Returns:
        What was changed.

    Raises:
        Held: as `alone`.
        OSError: something can't be written, or this program does not run from such a folder.
    """
    folder = kept.own().resolve().parent
    raw = kept.own().read_bytes()
    if folder.parent != (state.root / INCOMING).resolve() or folder.name != hashlib.sha256(raw).hexdigest():
        raise OSError(
            f"expected to be run from a folder of {state.root / INCOMING} that bears its hash, found {folder}"
        )
    try:
        with state.lock(who):
            mark = state.mark()
            if mark:
                if not zipfile.is_zipfile(PROGRAM):
                    write_bytes(PROGRAM, raw, PROGRAM_MODE)
                    raise Held(f"{PROGRAM} was missing or damaged and is there again. But {_held(mark)}")
                raise _held(mark)
            changed = _remove_earlier()
            changed += [path.name for path in sorted(folder.glob("mt-*")) if _install_unit(path)]
            # The units first: a program that finds itself installed has them.
            if _differs(PROGRAM, raw):
                write_bytes(PROGRAM, raw, PROGRAM_MODE)
                changed.append(str(PROGRAM))
            if _enable():
                changed.append(f"{RECOVERER} enabled")
            return changed
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # Another controller's may lie there.
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
