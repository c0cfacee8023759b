# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of the program that an open run keeps beside its plan, and that restores it.

While a trial holds the host, another version may be installed that does not understand that trial's plan. So from the
opening to the end, the file ``kept`` names the copy and its hash in the format of ``sha256sum --check``. The units read
it before they fall back to the installed program. Any other program that is asked about an open run reads it, too, and
continues as that copy.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .journal import KEPT, State, write_atomic, write_bytes

NAME = "model-trial"


def own() -> Path:
    """The program that this process is."""
    return Path(sys.argv[0])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep(state: State, run: str) -> Path:
    """Put a durable copy of this program beside a run's plan and name it in ``kept``; returns its path.

    Raises:
        OSError: it could not be written, or this process does not run from the program's single file.
    """
    source = own()
    if not zipfile.is_zipfile(source):
        raise OSError(f"{source}: expected the program as one file, which could be kept for the restore")
    path = state.run_dir(run) / NAME
    write_bytes(path, source.read_bytes(), 0o600)
    write_atomic(state.root / KEPT, f"{_sha256(path)}  {path.relative_to(state.root)}\n")
    return path


def find(state: State, run: str) -> tuple[Path | None, str]:
    """The copy that a run keeps, if it is whole.

    Returns:
        Its path, or None and why it can't be used. The reason is empty where there is no copy: no run is open, or the
        program that opened it kept none.
    """
    path = state.run_dir(run) / NAME
    try:
        wanted, name = (state.root / KEPT).read_text(encoding="utf-8").split()
        if state.root / name != path:
            return None, f"{state.root / KEPT} names {name}, and not {path}"
        found = _sha256(path)
    except FileNotFoundError as err:
        return None, "" if err.filename == str(state.root / KEPT) else str(err)
    except (OSError, ValueError) as err:
        return None, f"{state.root / KEPT}: {err}"
    return (path, "") if found == wanted else (None, f"{path}: expected sha256 {wanted}, found {found}")


def go_on(state: State, words: Sequence[str]) -> str:
    """Continue as the copy that the open run keeps, with the same arguments, if this is another program.

    Returns:
        Only if this program itself must continue: why the copy can't be used, or an empty text where there is none.
    """
    mark = state.mark()
    if mark is None or not mark.run:
        return ""
    copy, why = find(state, mark.run)
    if copy is None:
        return why
    try:
        if own().resolve() == copy.resolve() or _sha256(own()) == _sha256(copy):
            return ""
    except OSError:
        # If this program's file was replaced or removed meanwhile, it is another program.
        pass
    try:
        # Through the interpreter: the state's folder may be on a file system that is mounted noexec.
        os.execv(sys.executable, [sys.executable, str(copy), *words])
    except OSError as err:
        return f"{copy}: {err}"
