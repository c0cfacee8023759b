# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's units. The runner's unit is created for one run and without a file, so that systemd is never reloaded.

A reload of systemd takes the GPU from running containers (Docker's systemd cgroup driver). So the cap, which differs
from run to run, is a property of a transient unit, and the files of the other units do not change.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import run, units
from .journal import State

RUNNER, RESTORER = "mt-run.service", "mt-restore.service"
UNITS = (RUNNER, RESTORER)
# They ask for the restore after a boot, and where nobody is at work on it.
RECOVER, LOOK = "mt-recover.service", "mt-watch.service"
# How long systemd may take to answer, or to start a unit without waiting for its end.
SYSTEMD_S = 60.0
# systemd forgets the previous run's unit a moment after its end, and a restore ends a moment after it has removed the
# mark; until then, systemd refuses a new unit.
FORGOTTEN_S, POLL_S = 10.0, 0.2


def unfit() -> list[str]:
    """Why nobody would bring the host back, because a unit is gone or masked; empty where somebody would.

    systemd would start the runner all the same, and tell nobody that its `OnFailure=` leads nowhere.

    Raises:
        OSError: systemd did not answer.
    """
    known = units.show(lambda argv: run.command(argv, SYSTEMD_S), [RESTORER, RECOVER, LOOK])
    found = []
    for name in (RESTORER, RECOVER, LOOK):
        unit = known.get(name)
        state = unit.facts.get("LoadState", "unknown") if unit else "unknown"
        if state != "loaded":
            found.append(f"{name} is {state}")
    return found


def runner_command(program: Path, max_s: float) -> list[str]:
    """The command that starts ``mt-run`` as a transient unit.

    Args:
        program: the copy that the run keeps.
        max_s: how long it may live, in seconds: the cap minus the bound of a restore.
    """
    properties = {
        "After": "docker.service",
        # However the runner ends, systemd brings the host back; no controller is needed.
        "OnSuccess": RESTORER,
        "OnFailure": RESTORER,
        "RuntimeMaxSec": f"{max_s:.0f}",
        "TimeoutStopSec": "2",
        # A runner that stands still sends no heartbeat; systemd ends it, and the host comes back.
        "NotifyAccess": "main",
        "WatchdogSec": "30",
        "WatchdogSignal": "SIGKILL",
        # A runner can leave only docker commands behind. The restore waits for their end, so they are killed at once.
        "KillMode": "mixed",
    }
    return [
        "systemd-run",
        "--quiet",
        f"--unit={RUNNER}",
        "--description=Model trial: the window between the first stop and the last sample",
        "--service-type=exec",
        *(f"--property={name}={value}" for name, value in properties.items()),
        "--",
        sys.executable,
        str(program),
        "run",
    ]


def start_runner(state: State, epoch: int, program: Path, max_s: float) -> None:
    """Start the runner of the open run, with its cap.

    Args:
        state: where the mark is.
        epoch: the run's; a restore raises it, and after that nothing is started.
        program: the copy that the run keeps.
        max_s: how long it may live, in seconds.

    Raises:
        OSError: it does not run.
    """
    argv, deadline = runner_command(program, max_s), time.monotonic() + FORGOTTEN_S
    while True:
        done = run.command(argv, SYSTEMD_S)
        if done.rc == 0:
            return
        if state.epoch() != epoch or time.monotonic() > deadline:
            raise OSError(f"systemd-run: {done.first_line()}; see: journalctl -u {RUNNER.removesuffix('.service')}")
        time.sleep(POLL_S)
