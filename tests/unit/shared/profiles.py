# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much property tests and exhaustive tests try: a fair part of it (short, the default), or all of it (long).

``MT_PROFILE=long`` chooses the long profile. Where the variable does not arrive, as under ``ansible-test``, the short
one holds. Both make the same claims about the same code; the long one makes them about more cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

PROFILE = os.environ.get("MT_PROFILE") or "short"
if PROFILE not in ("short", "long"):
    raise ValueError(f"MT_PROFILE: expected short or long, found {PROFILE!r}")
LONG = PROFILE == "long"

# Below that, a property is hardly tried at all.
_FEWEST = 20
_PART = 6


def examples(long: int = 100) -> int:
    """How many examples a property is tried with: so many in the long profile, a sixth of them in the short one."""
    return long if LONG else min(long, max(_FEWEST, long // _PART))


def some(things: Iterable[T], short: int, always: Iterable[T] = ()) -> list[T]:
    """All things in the long profile; in the short one about so many of them, the same ones on every run.

    They lie evenly spread, the first and the last are among them, and so is each of ``always``.
    """
    everything: Sequence[T] = list(things)
    if LONG or len(everything) <= short:
        return list(everything)
    last = len(everything) - 1
    chosen = {round(at * last / (short - 1)) for at in range(short)}
    wanted = list(always)
    return [thing for at, thing in enumerate(everything) if at in chosen or thing in wanted]
