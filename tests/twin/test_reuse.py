# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario that ships with the collection, as an outsider plays it: an empty folder, the installed tarball, Docker.

The twin lends nothing but the Debian base of its image, which has systemd, sshd and Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
BASE = "edgelab/twin-base"


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with nothing in its environment that could lead back to the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MT_", "MOLECULE_"))}
    kept.pop("PYTHONPATH", None)
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PATH": path, "ANSIBLE_NOCOLOR": "1", **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Against a program that hangs.
        timeout=600,
    )


@pytest.fixture
def base(tmp_path: Path) -> str:
    """An image that has all that the scenario's Containerfile would install."""
    found = run(tmp_path, "docker", "image", "ls", "--format={{.Repository}}:{{.Tag}}", BASE).stdout.split()
    assert found, f"expected an image {BASE}, found none: `make twin-up` builds it"
    return found[0]


@pytest.fixture
def name(tmp_path: Path) -> Iterator[str]:
    """Name of container and image; both are gone afterwards, however the scenario ended."""
    chosen = f"reuse-{os.getpid()}"
    yield chosen
    run(tmp_path, "docker", "rm", "--force", "--volumes", chosen)
    run(tmp_path, "docker", "image", "rm", "--force", chosen)


def test_an_outsider_copies_the_scenario_and_plays_it(tmp_path: Path, base: str, name: str) -> None:
    shop, collections = tmp_path / "shop", tmp_path / "shop" / "collections"
    shop.mkdir()
    built = run(ROOT, "ansible-galaxy", "collection", "build", f"--output-path={tmp_path}")
    assert built.returncode == 0, built.stdout
    [tarball] = tmp_path.glob("edgelab-model_trial-*.tar.gz")
    done = run(shop, "ansible-galaxy", "collection", "install", "--offline", "-p", str(collections), str(tarball))
    assert done.returncode == 0, done.stdout
    installed = collections / "ansible_collections/edgelab/model_trial"
    shutil.copytree(installed / "docs/reuse", shop / "molecule/default")
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*") if path.is_file()}

    done = run(
        shop,
        *("molecule", "test"),
        ANSIBLE_COLLECTIONS_PATH=str(collections),
        MOLECULE_EPHEMERAL_DIRECTORY=str(tmp_path / "state"),
        # Borders would break lines.
        MOLECULE_COMMAND_BORDERS="false",
        REUSE_IMAGE=base,
        REUSE_NAME=name,
    )
    assert done.returncode == 0, done.stdout
    # Each play of it ran, and the second run of the first one changed nothing.
    for task in (
        "preflight : Contracts, all of them",
        "Stop them, those that need others first",
        "Nothing was left down",
    ):
        assert task in done.stdout, done.stdout
    assert done.stdout.count("nothing to restore: /usr/local/sbin/model-trial is not installed") == 1
    # Nothing was written into the installed collection, and nothing was left behind.
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*") if path.is_file()} == before
    assert run(shop, "docker", "ps", "--all", "--quiet", f"--filter=name=^{name}$").stdout == ""
