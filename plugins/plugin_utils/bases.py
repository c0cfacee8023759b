# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a twin is built on: the user's image, Debian's from a registry, or one made from Debian's packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ansible_collections.edgelab.model_trial.plugins.plugin_utils import twins

DEBIAN = "debian:trixie-slim"
BUILDER = Path(__file__).resolve().parents[2] / "images" / "base" / "build.py"
# A registry that does not answer must not hold up the proof.
PULL_S, BUILD_S = 300, 900


def base(wanted: str, say: Callable[[str], None]) -> str:
    """The image that a twin is built on.

    Args:
        wanted: the user's; empty where none was named.
        say: shows a line to the person who watches.

    Raises:
        TwinError: there is none; with everything that was tried.
    """
    if wanted:
        if twins.image_exists(wanted):
            return wanted
        return _pulled(wanted, say)
    if twins.image_exists(DEBIAN):
        return DEBIAN
    try:
        return _pulled(DEBIAN, say)
    except twins.TwinError as pulled:
        try:
            return _made(say)
        except twins.TwinError as made:
            raise twins.TwinError(f"no base for the twin: {pulled}; {made}. Name one: prove_rollback_image") from None


def _pulled(name: str, say: Callable[[str], None]) -> str:
    say(f"pulling {name}")
    done = twins.docker("pull", "--quiet", name, check=False, limit_s=PULL_S)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no answer"]
        raise twins.TwinError(f"the image {name} is not here, and no registry gave it ({words[-1]})")
    return name


def _made(say: Callable[[str], None]) -> str:
    say("making a base from Debian's packages")
    command = [sys.executable, str(BUILDER), "--plain"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=BUILD_S
    )
    if done.returncode:
        words = [line for line in done.stderr.strip().splitlines() if "error" in line] or ["no answer"]
        raise twins.TwinError(f"none could be made from Debian's packages ({words[-1]})")
    return done.stdout.strip().splitlines()[-1]
