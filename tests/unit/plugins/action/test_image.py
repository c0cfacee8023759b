# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that ships an image by its ID."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.action import image

ID = "sha256:" + "0123456789abcdef" * 4


class Host:
    """A host's docker: which images it has, and what it says to a load."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        self.load_rc = 0
        self.loads = ID

    def __call__(self, argv: list[str]) -> dict[str, Any]:
        if "inspect" in argv:
            return {"rc": 0 if argv[-1] in self.images else 1, "stdout": "", "stderr": ""}
        assert "load" in argv
        assert Path(argv[-1]).read_bytes() == b"layers"
        self.images.add(self.loads)
        return {"rc": self.load_rc, "stdout": f"Loaded image ID: {self.loads}\n", "stderr": "no space left"}


@pytest.fixture
def host(stage: Any) -> Host:
    """A host without the image."""
    stage.answer = Host()
    return stage.answer


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The controller's docker with the image; remembers by which name it was saved."""
    found = SimpleNamespace(named=[], tags=["model-trial-bench:0.1.0"])

    class DockerException(Exception):
        pass

    def save(named: Any) -> list[bytes]:
        found.named.append(named)
        return [b"lay", b"ers"]

    def get(name: str) -> Any:
        if name != ID:
            raise DockerException("404: no such image")
        return SimpleNamespace(tags=found.tags, save=save)

    errors = SimpleNamespace(DockerException=DockerException)
    client = SimpleNamespace(images=SimpleNamespace(get=get))
    monkeypatch.setitem(sys.modules, "docker", SimpleNamespace(from_env=lambda: client, errors=errors))
    monkeypatch.setitem(sys.modules, "docker.errors", errors)
    return found


def test_what_the_host_has_is_not_shipped(stage: Any, host: Host) -> None:
    host.images.add(ID)
    assert stage.play(image, id=ID) == {"changed": False, "id": ID}
    assert stage.commands == [["docker", "image", "inspect", "--format={{.Id}}", ID]]


def test_an_image_is_shipped_and_looked_at(stage: Any, host: Host, controller: Any) -> None:
    assert stage.play(image, id=ID, tag="model-trial-bench:0.1.0") == {"changed": True, "id": ID}
    assert [c[1] for c in stage.commands] == ["image", "load", "image"]
    assert controller.named == ["model-trial-bench:0.1.0"]
    assert stage.removed == [str(stage.remote)]
    assert "shipping the image model-trial-bench:0.1.0" in stage.shown[0]


def test_a_tag_the_image_does_not_have_is_not_shipped_with_it(stage: Any, host: Host, controller: Any) -> None:
    stage.play(image, id=ID, tag="somebody-elses:latest")
    assert controller.named == [False]


def test_the_hosts_docker_may_be_called_otherwise(stage: Any, host: Host) -> None:
    host.images.add(ID)
    stage.play(image, id=ID, docker="sudo -n docker")
    assert stage.commands[0][:3] == ["sudo", "-n", "docker"]


@pytest.mark.parametrize("name", ["", "bench:latest", "0123"])
def test_an_image_is_named_by_its_id(stage: Any, host: Host, name: str) -> None:
    with pytest.raises(AnsibleActionFail, match="id: expected an image ID"):
        stage.play(image, id=name)


def test_check_mode_ships_nothing(stage: Any, host: Host, controller: Any) -> None:
    assert stage.play(image, check_mode=True, id=ID) == {"changed": True, "id": ID}
    assert controller.named == []
    assert host.images == set()


def test_a_load_that_fails(stage: Any, host: Host, controller: Any) -> None:
    host.load_rc = 1
    with pytest.raises(AnsibleActionFail, match="docker load failed on the host: no space left"):
        stage.play(image, id=ID)
    assert stage.removed == [str(stage.remote)]


def test_a_load_that_brought_something_else(stage: Any, host: Host, controller: Any) -> None:
    host.loads = "sha256:other"
    with pytest.raises(AnsibleActionFail, match=r"sha256:other.*is not there"):
        stage.play(image, id=ID)


def test_a_controller_without_the_image(stage: Any, host: Host, controller: Any) -> None:
    with pytest.raises(AnsibleActionFail, match=r"is not on the controller .404: no such image.; do: make image"):
        stage.play(image, id="sha256:unknown")


def test_a_controller_without_the_docker_package(stage: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(AnsibleActionFail, match="pip install docker"):
        stage.play(image, id=ID)
