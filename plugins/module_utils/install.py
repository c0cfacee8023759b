# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase 1 on the host: install program and units, one controller at a time, and only while no trial holds the host.

Nothing here reloads systemd: that takes the GPU from running containers. systemd reads a unit's file when the unit is
first named, and unloads a unit that is inactive and that nothing refers to. So a unit's file is replaced only while
systemd has not loaded the unit.
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
# Under the state's root: a folder for each upload of a controller, named after the hash of its program.
INCOMING = "incoming"
# Only root may write what root runs.
PROGRAM_MODE, UNIT_MODE = 0o755, 0o644
# Files of earlier versions: the runner's unit, and the drop-in with its cap. Either would conflict with today's unit.
EARLIER = (UNIT_DIR / services.RUNNER, Path("/run/systemd/system", f"{services.RUNNER}.d"))
# systemd forgets a unit within moments of its end.
FORGET_S, POLL_S = 5.0, 0.1
# A download of gigabytes over a slow line.
HOLD_S = 86_400.0


def _held(mark: Mark) -> Held:
    return Held(
        f"this host is held by run {mark.run} since {mark.since} (from {mark.controller}), and what is installed must "
        "stay until it is restored. Wait for its end (sudo model-trial status), or bring the host back first: "
        "ansible-playbook restore.yml"
    )


@contextlib.contextmanager
def alone(state: State, who: str) -> Iterator[None]:
    """Keep every other caller from preparing, opening or installing anything meanwhile.

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
        OSError: the command could not be started, or took longer than a day.
    """
    with alone(state, who):
        return run.command(words, HOLD_S)


def _differs(path: Path, raw: bytes) -> bool:
    try:
        return path.is_symlink() or path.read_bytes() != raw
    except OSError:
        return True


def _loaded(unit: str) -> str:
    """What systemd has in memory about a unit; empty if nothing."""
    argv = ["systemctl", "list-units", "--all", "--plain", "--no-legend", unit]
    return " ".join(run.command(argv, services.SYSTEMD_S).out.split())


def _await_forgotten(unit: str) -> None:
    """Wait until systemd has forgotten a unit, so that it reads the file when the unit is named the next time.

    Raises:
        OSError: systemd did not forget it in time.
    """
    # No trial holds the host, so nothing needs the watch; it would name the units itself.
    run.command(["systemctl", "stop", watch.TIMER, watch.LOOK], services.SYSTEMD_S)
    run.command(["systemctl", "reset-failed", *services.UNITS, watch.LOOK], services.SYSTEMD_S)
    deadline = time.monotonic() + FORGET_S
    found = _loaded(unit)
    while found:
        if time.monotonic() > deadline:
            raise OSError(
                f"{unit}: expected systemd to have unloaded it, so that its new file is read, found: {found}. Nothing "
                f"was replaced. See what uses it (systemctl status {unit}), or restart the host, and try again"
            )
        time.sleep(POLL_S)
        found = _loaded(unit)


def _install_unit(source: Path) -> bool:
    """Install ``mt-recover`` and return whether it changed. Only a boot starts it, and a boot reads every file."""
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
    # Asked over the bus, systemd would report every unit of the host as outdated; with --root, systemctl sets the link
    # itself.
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
    """Install this program and its units from the folder where a controller has put them.

    That folder is removed afterwards in any case. If a trial holds the host and the installed program can't run any
    more, only the program is put back, because people and plays need it.

    Returns:
        What was changed.

    Raises:
        Held: as `alone`.
        OSError: something could not be written, or this program does not run from such a folder.
    """
    folder = kept.own().resolve().parent
    raw = kept.own().read_bytes()
    if folder.parent != (state.root / INCOMING).resolve() or folder.name != hashlib.sha256(raw).hexdigest():
        raise OSError(
            f"expected to be run from a folder of {state.root / INCOMING} named after its hash, found {folder}"
        )
    try:
        with state.lock(who):
            mark = state.mark()
            if mark:
                if not zipfile.is_zipfile(PROGRAM):
                    write_bytes(PROGRAM, raw, PROGRAM_MODE)
                    raise Held(f"{PROGRAM} was missing or damaged and has been put back. But {_held(mark)}")
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
        # Another controller's folder may be there.
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
