# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machinery of every twin, with a docker that is a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import bases, twins


class Docker:
    """A docker on PATH that keeps what it was asked, and answers by its first two words."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.asked = folder / "asked"
        self.asked.touch()
        script = f'#!/bin/sh\necho "$*" >>{self.asked}\ntest -e "{folder}/$1-$2" || exit 1\n. "{folder}/$1-$2"\n'
        (folder / "bin" / "docker").write_text(script)
        (folder / "bin" / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")

    def says(self, verb: str, script: str) -> None:
        (self.folder / verb).write_text(script)

    @property
    def commands(self) -> list[str]:
        return self.asked.read_text().splitlines()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    return Docker(tmp_path, monkeypatch)


def test_a_twin_is_never_privileged() -> None:
    assert "--privileged" not in twins.RUN_OPTIONS
    assert "--cap-drop=SYS_TIME" in twins.RUN_OPTIONS


@pytest.mark.parametrize(
    ("state", "why"),
    [("echo 'exited (exit code 255) no init'", "exited (exit code 255) no init"), ("exit 1", "gone")],
)
def test_a_twin_that_does_not_boot_says_why_before_it_is_removed(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, state: str, why: str
) -> None:
    monkeypatch.setattr(twins.time, "sleep", lambda _s: None)
    docker.says("inspect---type=container", state)
    docker.says("logs---tail=20", "echo 'Failed to mount cgroup' >&2")
    with pytest.raises(twins.TwinError) as raised:
        twins.wait_for_exec("pr-shop-1")
    assert str(raised.value) == f"systemd did not come up in pr-shop-1: its container is {why}\nFailed to mount cgroup"


def test_the_digest_of_a_tree_follows_names_modes_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = twins.digest_tree(tmp_path)
    (tmp_path / "a").chmod(0o755)
    second = twins.digest_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    third = twins.digest_tree(tmp_path)
    (tmp_path / "b").write_text("y")
    assert len({first, second, third, twins.digest_tree(tmp_path)}) == 4


def test_an_image_is_built_once_and_follows_what_is_in_it(docker: Docker, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Containerfile").write_text("FROM x\n")
    docker.says("build---quiet", "true")
    names = {
        twins.build_image(context, "Containerfile", "a/b", base, "none", *words)
        for base, words in (("x", ()), ("y", ()), ("x", ("CARD=yes",)))
    }
    assert len(names) == 3
    assert len([one for one in docker.commands if one.startswith("build")]) == 3
    docker.says("image-inspect", "true")
    assert twins.build_image(context, "Containerfile", "a/b", "x", "none") in names
    assert len([one for one in docker.commands if one.startswith("build")]) == 3
    assert any("--build-arg=CARD=yes" in one for one in docker.commands)


def test_a_docker_that_fails_is_quoted_and_none_is_told(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.says("restart---time=20", "echo no such container >&2; exit 1")
    with pytest.raises(twins.TwinError, match=r"docker restart --time=20 failed: no such container"):
        twins.restart("pr-x")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(twins.TwinError, match="expected the docker CLI, found none on PATH"):
        twins.docker("ps")


def test_a_docker_that_hangs_is_given_up(docker: Docker) -> None:
    docker.says("info---format", "sleep 60")
    with pytest.raises(twins.TwinError, match="docker info --format did not end within 0 s"):
        twins.docker("info", "--format", limit_s=0.3)


# Which images there are, which a registry gives, what the builder says: the base, or the reason why there is none.
BASES: list[tuple[str, dict[str, str], Any]] = [
    ("mine:1", {"image-inspect": "true"}, "mine:1"),
    ("mine:1", {"pull---quiet": "true"}, "mine:1"),
    ("mine:1", {}, r"the image mine:1 is not here, and no registry gave it \(no answer\)\Z"),
    ("", {"image-inspect": "true"}, bases.DEBIAN),
    ("", {"pull---quiet": "true"}, bases.DEBIAN),
    (
        "",
        {"pull---quiet": "echo timeout >&2; exit 1"},
        r"no registry gave it \(timeout\); none could be made .*mmdebstrap",
    ),
]


@pytest.mark.parametrize(("wanted", "there", "found"), BASES)
def test_a_base_is_the_users_a_registrys_or_made(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, wanted: str, there: dict[str, str], found: str
) -> None:
    for verb, script in there.items():
        docker.says(verb, script)
    shown: list[str] = []
    # The builder of this machine must neither build nor find a mirror.
    (docker.folder / "build.py").write_text(
        "import sys; sys.exit('[cpu-base] error: expected the program mmdebstrap, not found')"
    )
    monkeypatch.setattr(bases, "BUILDER", docker.folder / "build.py")
    if " " in found:
        with pytest.raises(twins.TwinError, match=found):
            bases.base(wanted, shown.append)
        return
    assert bases.base(wanted, shown.append) == found
