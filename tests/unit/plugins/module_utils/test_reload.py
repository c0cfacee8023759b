# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which containers another program's reload of systemd would take the GPU from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import reload

GPUS = [{"Driver": "", "Capabilities": [["gpu"]], "DeviceIDs": None}]
CDI = [{"Driver": "cdi", "Capabilities": None, "DeviceIDs": ["nvidia.com/gpu=all"]}]
NUMBERS = {"nvidiactl": "195:255", "nvidia-uvm": "510:0", "nvidia0": "195:0"}


def line(
    requests: Any = None, runtime: Any = "runc", devices: Any = None, env: Any = None, name: str = "/voice"
) -> str:
    """What docker says of a container."""
    return json.dumps([name, requests, runtime, devices, env])


@pytest.mark.parametrize(
    ("said", "uses"),
    [
        (line(GPUS), True),
        (line(CDI), True),
        (line([{"Driver": "nvidia", "Capabilities": None, "DeviceIDs": None}]), True),
        (line([{"Driver": "cdi", "Capabilities": None, "DeviceIDs": ["amd.com/gpu=all"]}]), False),
        (line([{"Driver": "", "Capabilities": [["tpu", "compute"]], "DeviceIDs": None}]), False),
        (line(devices=[{"PathOnHost": "/dev/nvidia0"}]), True),
        (line(devices=[{"PathOnHost": "/dev/snd"}]), False),
        (line(runtime="nvidia", env=["A=b", "NVIDIA_VISIBLE_DEVICES=all"]), True),
        (line(runtime="nvidia", env=["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"]), False),
        (line(runtime="nvidia", env=["NVIDIA_VISIBLE_DEVICES=none"]), False),
        (line(runtime="nvidia", env=None), False),
        (line(runtime="runc", env=["NVIDIA_VISIBLE_DEVICES=all"]), False),
        (line(runtime=None), False),
        ("not JSON", False),
        ('{"a": 1}', False),
        ('["/voice", 1, 2, 3, 4]', False),
        ("[]", False),
    ],
)
def test_a_container_that_uses_a_gpu_is_known_however_it_got_it(said: str, uses: bool) -> None:
    assert reload.gpu_containers(f"{line(name='/other')}\n{said}\n") == (["voice"] if uses else [])


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The devices of a card; they are plain files here, whose numbers are made up."""
    (tmp_path / "char").mkdir()
    for name in (*NUMBERS, "nvidia-caps", "null"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(reload, "_number", lambda node: NUMBERS.get(node.name, ""))
    return tmp_path


@pytest.mark.parametrize(
    ("linked", "missing"),
    [
        ((), ["nvidiactl", "nvidia-uvm", "nvidia0"]),
        (("195:255", "510:0"), ["nvidia0"]),
        (("195:255", "510:0", "195:0"), []),
    ],
)
def test_devices_without_a_link_are_named(dev: Path, linked: tuple[str, ...], missing: list[str]) -> None:
    for number in linked:
        (dev / "char" / number).symlink_to("../null")
    assert reload.unlinked(dev) == missing


def test_a_link_that_leads_nowhere_is_none(dev: Path) -> None:
    (dev / "char" / "195:255").symlink_to("../gone")
    assert "nvidiactl" in reload.unlinked(dev)


def test_only_a_character_device_has_a_number(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert reload._number(Path("/dev/null")) == "1:3"
    assert [reload._number(path) for path in (tmp_path, tmp_path / "file", tmp_path / "gone")] == ["", "", ""]


@pytest.mark.parametrize(
    ("driver", "containers", "linked", "warns"),
    [
        ("systemd", ["voice", "eyes"], False, True),
        ("cgroupfs", ["voice", "eyes"], False, False),
        (None, ["voice"], False, False),
        ("systemd", [], False, False),
        ("systemd", ["voice"], True, False),
    ],
)
def test_who_would_go_deaf_is_named_with_the_cure(
    dev: Path, driver: str | None, containers: list[str], linked: bool, warns: bool
) -> None:
    for number in NUMBERS.values() if linked else ():
        (dev / "char" / number).symlink_to("../null")
    words = reload.warning({"CgroupDriver": driver} if driver else {}, containers, dev)
    assert bool(words) is warns
    if warns:
        assert "voice, eyes" in words
        assert f"{dev / 'char'} has no link to nvidiactl, nvidia-uvm, nvidia0" in words
        assert "nvidia-ctk system create-dev-char-symlinks" in words
