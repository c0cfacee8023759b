# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machinery of every twin: the docker CLI, images that are built once, a container that boots systemd.

A twin is a container with systemd, dockerd and sshd in the place of a host. ``images/twin/twin.py`` makes Panda's of
it, the action ``prove_rollback`` one from any inventory. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Sequence
from typing import Any

# `--privileged` fails where root lacks CAP_SYS_RESOURCE; this works there and elsewhere. CAP_SYS_TIME is dropped
# because the clock of a container is the clock of the machine.
RUN_OPTIONS = (
    "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--cap-drop=SYS_TIME",
    "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--security-opt=systempaths=unconfined",
    "--device-cgroup-rule=a *:* rwm", "--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    "--tmpfs=/run:exec,mode=755", "--tmpfs=/tmp:exec,mode=1777", "--volume=/var/lib/docker",
    "--stop-signal=SIGRTMIN+3", "--env=container=docker",
)  # fmt: skip
LABEL = "edgelab.model_trial.twin"
STOP_LIMIT_S = 20
# A build may install packages; everything else answers in seconds.
BUILD_S, COMMAND_S = 900, 120


class TwinError(Exception):
    """Something about a twin is not as it must be; the text says what to do."""


def docker(*words: str, check: bool = True, limit_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
    """Run the docker CLI and return what it said.

    Raises:
        TwinError: it is not there, took too long or, with ``check``, failed; with its own words.
    """
    # The classic builder: a twin's own docker has no other, and its images are the same everywhere.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    try:
        done = subprocess.run(
            ["docker", *words], capture_output=True, text=True, check=False, env=environment, timeout=limit_s,
            stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        raise TwinError("expected the docker CLI, found none on PATH. Install Docker") from None
    except subprocess.TimeoutExpired:
        raise TwinError(f"docker {' '.join(words[:2])} did not end within {limit_s:.0f} s") from None
    if check and done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()[-30:]
        # The last line has the reason, except for a build, where it names the failed step.
        reasons = [line for line in lines if not line.startswith("The command ")] or [f"exit code {done.returncode}"]
        told = "\n".join([reasons[-1], *lines])
        raise TwinError(f"docker {' '.join(words[:2])} failed: {told}")
    return done


def engine() -> dict[str, Any]:
    """What ``docker info`` says of the engine that a twin is to run in.

    Raises:
        TwinError: it does not answer, or is of a kind in which systemd can't be process 1 of a container with
            control groups of its own.
    """
    done = docker("info", "--format", "{{json .}}", check=False)
    try:
        info = json.loads(done.stdout)
    except ValueError:
        info = {}
    if done.returncode != 0 or not info.get("ServerVersion"):
        errors = "; ".join(info.get("ServerErrors") or []) or done.stderr.strip() or "no answer"
        raise TwinError(f"expected a Docker engine, found: {errors}. Start it, or set DOCKER_HOST")
    if any("rootless" in str(option) for option in info.get("SecurityOptions") or []):
        raise TwinError(
            "expected an engine that runs as root, found rootless Docker: in it a twin has neither systemd's limits "
            "nor a Docker of its own. Use the ordinary engine (docker context use default)"
        )
    if info.get("OSType", "linux") != "linux":
        raise TwinError(f"expected an engine for Linux containers, found {info['OSType']}")
    return dict(info)


def digest_tree(folder: pathlib.Path) -> str:
    """Return 12 hexadecimal digits over names, modes and contents of everything below ``folder``."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            head = f"{path.relative_to(folder)}\0{path.stat().st_mode & 0o777:o}\0"
            total.update(head.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def normalize_modes(folder: pathlib.Path) -> None:
    """Give everything the rights it has in a fresh clone: a strict umask must not end up in the image."""
    for path in (folder, *folder.rglob("*")):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)


def image_exists(name: str) -> bool:
    """Whether the engine has an image of this name."""
    return docker("image", "inspect", name, check=False).returncode == 0


def build_image(context: pathlib.Path, recipe: str, repository: str, base: str, network: str, *arguments: str) -> str:
    """Build an image from a folder if it is not there.

    Args:
        context: the folder, with nothing in it that the image does not need.
        recipe: the Containerfile's name in it.
        repository: the image's name without its tag, which is computed from folder, base and arguments.
        base: the image that it is built on.
        network: ``none``; ``host`` where packages are installed, since the machine's own apt sources may be
            reachable from nowhere else.
        arguments: further ``NAME=VALUE`` of the build.

    Returns:
        The image's name.
    """
    words = "\0".join((digest_tree(context), base, *arguments))
    name = f"{repository}:{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    if not image_exists(name):
        given = [f"--build-arg={one}" for one in (f"BASE_IMAGE={base}", *arguments)]
        docker("build", "--quiet", f"--network={network}", *given, f"--tag={name}", f"--file={context / recipe}",
               str(context), limit_s=BUILD_S)  # fmt: skip
    return name


def run(name: str, image: str, hostname: str, options: Sequence[str] = ()) -> str:
    """Create and start a container that boots; returns why that failed, empty where it did not."""
    done = docker("run", "--detach", f"--name={name}", f"--label={LABEL}={name}", f"--hostname={hostname}", *options,
                  *RUN_OPTIONS, image, "/lib/systemd/systemd", check=False)  # fmt: skip
    return "" if done.returncode == 0 else done.stderr.strip()


def remove(name: str) -> None:
    """Remove a twin with its volumes; nothing where there is none."""
    docker("rm", "--force", "--volumes", name, check=False)


def wait_for_exec(name: str) -> None:
    """Wait until systemd answers: before that, ``docker exec`` can be refused.

    Raises:
        TwinError: it does not; with the container's state and its last words.
    """
    for _try in range(100):
        if docker("exec", name, "test", "-S", "/run/systemd/private", check=False).returncode == 0:
            return
        time.sleep(0.1)
    # It may be removed before anybody can look.
    form = "{{.State.Status}} (exit code {{.State.ExitCode}}) {{.State.Error}}"
    state = docker("inspect", "--type=container", f"--format={form}", name, check=False).stdout.strip()
    said = docker("logs", "--tail=20", name, check=False)
    words = (said.stdout + said.stderr).strip()
    raise TwinError(f"systemd did not come up in {name}: its container is {state or 'gone'}\n{words}".strip())


def restart(name: str) -> None:
    """Reboot a twin, as far as a container can: the same kernel, ``boot_id`` and clock."""
    docker("restart", f"--time={STOP_LIMIT_S}", name)
    wait_for_exec(name)
