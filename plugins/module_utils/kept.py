# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of the program that an open run keeps beside its plan, and is restored by.

Another version may be installed while a trial holds the host; it need not understand the plan of that trial. So the
file ``kept`` names the copy and its hash from the opening to the end, in the words that ``sha256sum --check`` reads:
the units look there, before they take the installed program. Every program that is asked about an open run looks there
as well, and goes on as that copy.
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
    """Lay a copy of this program beside the plan of a run, durable, and name it in ``kept``; returns where it is.

    Raises:
        OSError: it can't be written, or this process is not the program in one file.
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
        Its path, or None and why it can't be used. The reason is empty where none was kept: no run is open, or it was
        opened by a program that kept none.
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
    """Go on as the copy that the open run keeps, with the same words, where this is another program.

    Returns:
        Only where this program itself has to go on; why, where a copy was kept and can't be used.
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
        # Who has been replaced or removed meanwhile is another one.
        pass
    try:
        # By the interpreter: the folder of the state may lie on a file system without programs (noexec).
        os.execv(sys.executable, [sys.executable, str(copy), *words])
    except OSError as err:
        return f"{copy}: {err}"
