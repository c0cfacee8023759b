# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's units, and how the runner's is made: for one run, without a file, so that systemd is never reloaded.

A reload of systemd takes the GPU from containers that are running (Docker's systemd cgroup driver). So what differs
from run to run, the cap, is a property of a transient unit, and the files of the other units do not change.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import run
from .journal import State

RUNNER, RESTORER = "mt-run.service", "mt-restore.service"
UNITS = (RUNNER, RESTORER)
# How long systemd may take to answer, or to start a unit whose end it does not wait for.
SYSTEMD_S = 60.0
# A unit of the run before is forgotten a moment after its end, and a restore that has removed its mark ends a moment
# later; until then a new one is refused.
FORGOTTEN_S, POLL_S = 10.0, 0.2


def runner_command(program: Path, max_s: float) -> list[str]:
    """What starts ``mt-run`` as a transient unit.

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
        # A runner that stands still gives no sign of life; it is ended, and the host comes back.
        "NotifyAccess": "main",
        "WatchdogSec": "30",
        "WatchdogSignal": "SIGKILL",
        # Only questions to docker can be left of a runner. The restore waits for their end, so they are killed at once.
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
        epoch: the run's; a restore raises it, and then nothing is started any more.
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
