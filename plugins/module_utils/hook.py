# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the user's own command when a trial opens, closes or is decided, and when a restore failed.

It runs as its own user in a unit of its own. It is never waited for and its result is ignored: a notification must not
delay a restore. It gets its information through its environment.
"""

from __future__ import annotations

import secrets

from . import run
from .journal import Journal
from .plan import Plan
from .probes import printable

OPENED, CLOSED, RESTORE_FAILED, DECIDED = "opened", "closed", "restore_failed", "decided"
LIMIT_S = 60
# How long a hook that ignores SIGTERM may live on; systemd's default is a minute and a half.
END_S = 2
_START_S = 10.0
# The sentence of facts behind a verdict is longer than a reason, and ends with what people judged.
_REASON_CHARS = {DECIDED: 1000}
_SHORT_CHARS = 200


def call(plan: Plan, journal: Journal, event: str, reason: str = "") -> None:
    """Start the hook, if the inventory has one. A failed start is noted in the journal and has no other effect.

    Args:
        plan: the run's plan.
        journal: where a failure is noted.
        event: ``opened``, ``closed``, ``restore_failed`` or ``decided``.
        reason: why, by whom, or the verdict with its facts; only its first line is passed on, because every user can
            read a process list.
    """
    if plan.hook is None:
        return
    line = printable(reason.split("\n", 1)[0])[: _REASON_CHARS.get(event, _SHORT_CHARS)]
    told = {"EVENT": event, "RUN": plan.run, "HOST": plan.host, "REASON": line}
    argv = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--no-block",
        f"--unit=mt-hook-{secrets.token_hex(4)}",
        f"--uid={plan.hook.user}",
        f"--property=RuntimeMaxSec={LIMIT_S}",
        f"--property=TimeoutStopSec={END_S}",
        *(f"--setenv=MODEL_TRIAL_{name}={value}" for name, value in told.items()),
        "--",
        # systemd would expand variables in a command's words, as it does in a unit file.
        *(word.replace("$", "$$") for word in plan.hook.command),
    ]
    try:
        done = run.command(argv, _START_S)
        error = done.err.strip() if done.rc else ""
    except OSError as err:
        error = str(err)
    if error:
        journal.write("hook_failed", hook_event=event, reason=error)
