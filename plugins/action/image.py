# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings a container image from the controller to the host by ``docker save`` and ``docker load``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """The image is named by its ID, so what arrives is what was built."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Load the image unless the host has it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        image, tag = str(self._task.args.get("id") or ""), str(self._task.args.get("tag") or "")
        if not image.startswith("sha256:"):
            raise AnsibleActionFail(f"id: expected an image ID (sha256:...), found {image!r}; do: make image")
        docker = shlex.split(str(self._task.args.get("docker") or "docker"))
        if self.execute([*docker, "image", "inspect", "--format={{.Id}}", image])["rc"] == 0:
            return {**result, "changed": False, "id": image}
        if self._task.check_mode:
            return {**result, "changed": True, "id": image}
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "image.tar"
            self.save(image, tag, archive)
            self._display.display(f"  shipping the image {tag or image} ({archive.stat().st_size >> 20} MiB)")
            # Ansible has made one folder for this task already; a second one would stay on the host.
            folder_there = self._connection._shell.tmpdir or self._make_tmp_path()
            remote = self._connection._shell.join_path(folder_there, "image.tar")
            self._transfer_file(str(archive), remote)
        loaded = self.execute([*docker, "load", "--quiet", "--input", remote])
        self._remove_tmp_path(self._connection._shell.tmpdir)
        if loaded["rc"] != 0:
            raise AnsibleActionFail(f"docker load failed on the host: {loaded['stderr'].strip()}")
        if self.execute([*docker, "image", "inspect", "--format={{.Id}}", image])["rc"] != 0:
            raise AnsibleActionFail(
                f"docker load answered {loaded['stdout'].strip()!r}, but {image} is not there; an image has another ID "
                "in containerd's image store than in docker's own: use the same one here and there"
            )
        return {**result, "changed": True, "id": image}

    def execute(self, argv: list[str]) -> dict[str, Any]:
        """Run a command on the host."""
        done: dict[str, Any] = self._low_level_execute_command(shlex.join(argv), sudoable=True)
        return done

    def save(self, image: str, tag: str, archive: Path) -> None:
        """Write the controller's image to a file."""
        try:
            import docker
            import docker.errors
        except ImportError as err:
            raise AnsibleActionFail(
                f"expected the package docker in the Python that runs ansible-playbook ({sys.executable}), found none; "
                f"do: {sys.executable} -m pip install docker"
            ) from err
        try:
            client = docker.from_env()
            found = client.images.get(image)
            with archive.open("wb") as file:
                for chunk in found.save(named=tag if tag in found.tags else False):
                    file.write(chunk)
        except docker.errors.DockerException as err:
            raise AnsibleActionFail(f"the image {image} is not on the controller ({err}); do: make image") from err
