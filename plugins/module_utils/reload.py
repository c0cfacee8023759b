# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which running containers would lose the GPU if another program reloaded systemd.

Where Docker leaves control groups to systemd, a reload makes systemd rewrite the list of devices that each container
may open. It finds a device by its link in ``/dev/char``. A device without a link is left out: the container that uses
it loses the GPU, while its health page answers as before. A trial never reloads systemd, but package upgrades do.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The format for `docker inspect`: one JSON list a line.
INSPECT = "[" + ",".join(
    "{{json " + field + "}}"
    for field in (".Name", ".HostConfig.DeviceRequests", ".HostConfig.Runtime", ".HostConfig.Devices", ".Config.Env")
) + "]"  # fmt: skip
_NODES = ("nvidiactl", "nvidia-uvm", "nvidia[0-9]*")
_VISIBLE = "NVIDIA_VISIBLE_DEVICES="
# With these values of that variable, a container of NVIDIA's runtime gets no GPU.
_NONE = ("", "void", "none")
_CURE = "sudo nvidia-ctk system create-dev-char-symlinks --create-all"


def _uses_gpu(requests: Any, runtime: Any, devices: Any, env: Any) -> bool:
    for request in requests or []:
        names = [*(request.get("DeviceIDs") or []), request.get("Driver") or ""]
        if any("nvidia" in name for name in names) or any(
            "gpu" in wanted for wanted in request.get("Capabilities") or []
        ):
            return True
    if any("/dev/nvidia" in device.get("PathOnHost", "") for device in devices or []):
        return True
    seen = [word.removeprefix(_VISIBLE) for word in env or [] if word.startswith(_VISIBLE)]
    return "nvidia" in (runtime or "") and bool(seen) and seen[-1] not in _NONE


def gpu_containers(inspected: str) -> list[str]:
    """Names of the containers that use a GPU, from what ``docker inspect`` printed in the format `INSPECT`."""
    return [name for line in inspected.splitlines() if (name := _with_gpu(line))]


def _with_gpu(line: str) -> str:
    try:
        name, *facts = json.loads(line)
        return str(name).lstrip("/") if _uses_gpu(*facts) else ""
    except (ValueError, TypeError, AttributeError):
        # Any other line describes no container.
        return ""


def _number(node: Path) -> str:
    """``MAJOR:MINOR`` of a character device; empty for anything else."""
    try:
        facts = node.stat()
    except OSError:
        return ""
    return f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}" if stat.S_ISCHR(facts.st_mode) else ""


def unlinked(dev: Path) -> list[str]:
    """Names of NVIDIA's devices without a link in ``/dev/char``."""
    nodes = [(node, _number(node)) for pattern in _NODES for node in sorted(dev.glob(pattern))]
    return [node.name for node, number in nodes if number and not (dev / "char" / number).exists()]


def warning(info: dict[str, Any], containers: Iterable[str], dev: Path) -> str:
    """What a reload by another program would do on this host, in words; empty where it would do nothing.

    Args:
        info: what ``docker info`` says.
        containers: the names of running containers that use a GPU.
        dev: where the devices are.
    """
    names = ", ".join(containers)
    if info.get("CgroupDriver") != "systemd" or not names:
        return ""
    missing = unlinked(dev)
    if not missing:
        return ""
    return (
        f"containers that would lose the GPU at a reload of systemd, such as a package upgrade makes: {names} "
        f"(docker's cgroup driver is systemd, and {dev / 'char'} has no link to {', '.join(missing)}). "
        f"A trial never reloads systemd. To create the links: {_CURE}"
    )
