# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of docker's command line as a trial uses, with its state in a folder: one JSON file per container.

It is strict: an option it does not know is refused, as docker does, so a misspelled fence is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Completed = tuple[int, str, str]
Container = dict[str, Any]

CREATE_FLAGS = ("--read-only",)
CREATE_OPTIONS = (
    "--name",
    "--label",
    "--network",
    "--restart",
    "--tmpfs",
    "--cap-drop",
    "--security-opt",
    "--user",
    "--memory",
    "--memory-swap",
    "--pids-limit",
    "--volume",
    "--device",
    "--gpus",
    "--entrypoint",
    "--env",
)


class FakeDocker:
    """The daemon and its client.

    Files in ``folder`` that make trouble: ``down`` (no daemon answers), ``refuse-<verb>`` (that verb fails with the
    file's text), ``pid-<name>`` (the main process of a container that is started; without it, it ends at once).
    With ``shared=False`` containers and calls stay in this process, which is faster where nobody else looks.
    """

    def __init__(self, folder: Path, *, shared: bool = True) -> None:
        self.folder, self.shared = folder, shared
        self._containers: dict[str, Container] = {}
        self._calls: list[list[str]] = []
        self.on_start: Callable[[Container], int] = self._pid
        self.on_end: Callable[[Container], None] = lambda _container: None
        (folder / "containers").mkdir(parents=True, exist_ok=True)

    def _pid(self, container: Container) -> int:
        path = self.folder / f"pid-{container['name']}"
        return int(path.read_text()) if path.exists() else 0

    # What tests look at.

    def all(self) -> list[Container]:
        """All containers, oldest first."""
        found = list(self._containers.values())
        if self.shared:
            found = [json.loads(p.read_text()) for p in (self.folder / "containers").glob("*.json")]
        return sorted(found, key=lambda c: int(c["number"]))

    def get(self, name: str) -> Container | None:
        """The container with a name or an ID."""
        return next((c for c in self.all() if name in (c["name"], c["id"])), None)

    def put(self, container: Container) -> None:
        """Write a container's state."""
        self._containers[container["id"]] = container
        if self.shared:
            # Replaced whole: a test looks at it while a start in the background writes it.
            path = self.folder / "containers" / f"{container['id']}.json"
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(container))
            draft.replace(path)

    def add(self, name: str, label: str, run: str, status: str = "created", **facts: Any) -> Container:
        """Put a container there without the command line."""
        container: Container = {
            "number": len(self.calls()) + len(self.all()) + 1,
            "id": hashlib.sha256(name.encode()).hexdigest(),
            "name": name,
            "labels": {label: run},
            "options": {},
            "image": "",
            "command": [],
            "status": status,
            "pid": 0,
            "code": 0,
            "oom": False,
            "logs": "",
            **facts,
        }
        self.put(container)
        return container

    def end(self, name: str, code: int, logs: str = "", *, oom: bool = False) -> None:
        """Let a container end by itself."""
        container = self.get(name)
        assert container, name
        container.update(status="exited", pid=0, code=code, oom=oom, logs=container["logs"] + logs)
        self.put(container)

    def calls(self) -> list[list[str]]:
        """Every command line so far."""
        path = self.folder / "calls.jsonl"
        if not self.shared:
            return self._calls
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # The command line.

    def main(self, argv: list[str]) -> Completed:
        """Run one docker command; returns exit code, standard output, standard error."""
        self._calls.append(argv)
        if self.shared:
            with (self.folder / "calls.jsonl").open("a") as file:
                file.write(json.dumps(argv) + "\n")
        if (self.folder / "down").exists():
            return 1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?\n"
        verb = argv[0]
        refusal = self.folder / f"refuse-{verb}"
        if refusal.exists():
            return 1, "", refusal.read_text()
        act: Callable[[list[str]], Completed] | None = getattr(self, f"_{verb}", None)
        if act is None:
            return 125, "", f"docker: '{verb}' is not a docker command.\n"
        return act(argv[1:])

    def _create(self, args: list[str]) -> Completed:
        options: dict[str, list[str]] = {}
        while args and args[0].startswith("-"):
            key, sep, value = args.pop(0).partition("=")
            if key in CREATE_FLAGS and not sep:
                options[key] = [""]
            elif key in CREATE_OPTIONS and sep:
                options.setdefault(key, []).append(value)
            else:
                return 125, "", f"unknown flag: {key}\n"
        name = options["--name"][0]
        if self.get(name):
            return 125, "", f'Conflict. The container name "/{name}" is already in use.\n'
        label, _unused, run = options["--label"][0].partition("=")
        found = self.add(name, label, run, options=options, image=args[0], command=args[1:])
        return 0, found["id"] + "\n", ""

    def _start(self, args: list[str]) -> Completed:
        name = args[-1]
        found = self.get(name)
        if found is None:
            return 1, "", f"Error: No such container: {name}\n"
        if "--attach" in args:
            return self._attached(found)
        if found["status"] != "running":
            found["pid"] = self.on_start(found)
            found["status"] = "running" if found["pid"] else "exited"
            self.put(found)
        return 0, name + "\n", ""

    def _attached(self, found: Container) -> Completed:
        # The one attached start of a trial: production's prompt function runs over the mounted source.
        source = Path(found["options"]["--volume"][0].split(":")[0])
        if "raise" in source.read_text():
            self.end(found["name"], 1)
            return 1, "", "ValueError: no prompt today\n"
        self.end(found["name"], 0)
        call = Path(found["options"]["--volume"][1].split(":")[0])
        if "--calls-file" in found["command"]:
            return 0, json.dumps([f"prompt of {one}" for one in json.loads(call.read_text())]) + "\n", ""
        return 0, f"prompt of {call.read_text()}\n", ""

    def _stop(self, args: list[str]) -> Completed:
        found = self.get(args[-1])
        if found is None:
            return 1, "", f"Error: No such container: {args[-1]}\n"
        self._finish(found, 0)
        return 0, args[-1] + "\n", ""

    def _kill(self, args: list[str]) -> Completed:
        for name in args:
            found = self.get(name)
            if found is None or found["status"] != "running":
                return 1, "", f"Error: cannot kill container: {name}: is not running\n"
            self._finish(found, 137)
        return 0, "", ""

    def _finish(self, found: Container, code: int) -> None:
        if found["status"] == "running":
            self.on_end(found)
            found.update(status="exited", pid=0, code=code)
            self.put(found)

    def _rm(self, args: list[str]) -> Completed:
        names = [a for a in args if not a.startswith("-")]
        for name in names:
            found = self.get(name)
            if found is None:
                return 1, "", f"Error: No such container: {name}\n"
            if found["status"] == "running" and "--force" not in args:
                return 1, "", f"Error: You cannot remove a running container {name}\n"
            self._finish(found, 137)
            self._containers.pop(found["id"], None)
            (self.folder / "containers" / f"{found['id']}.json").unlink(missing_ok=True)
        return 0, "\n".join(names) + "\n", ""

    def _wait(self, args: list[str]) -> Completed:
        found = self.get(args[0])
        if found is None:
            return 1, "", f"Error: No such container: {args[0]}\n"
        return 0, f"{found['code']}\n", ""

    def _ps(self, args: list[str]) -> Completed:
        template = args[args.index("--format") + 1]
        labels = re.findall(r'\{\{json \(\.Label "([^"]+)"\)\}\}', template)
        fields = ["{{json .ID}}", *(["{{json .Names}}"] if ".Names" in template else [])]
        known = ",".join([*fields, *(f'{{{{json (.Label "{label}")}}}}' for label in labels)])
        if template != f"[{known}]":
            return 1, "", f"template parsing error: {template}\n"
        listed = [c for c in self.all() if "--all" in args or c["status"] == "running"]
        end = None if "--no-trunc" in args else 12
        names = [[c["name"]] if len(fields) > 1 else [] for c in listed]
        rows = [
            [c["id"][:end], *name, *(c["labels"].get(label, "") for label in labels)]
            for c, name in zip(listed, names, strict=True)
        ]
        return 0, "".join(json.dumps(row) + "\n" for row in rows), ""

    def _inspect(self, args: list[str]) -> Completed:
        template, out = args[args.index("--format") + 1], ""
        # Asked for containers alone, docker's daemon answers instead of its client.
        unknown = "Error response from daemon: No such container" if "--type" in args else "Error: No such object"
        for name in args[args.index("--format") + 2 :]:
            found = self.get(name)
            if found is None:
                return 1, out, f"{unknown}: {name}\n"
            out += self._shown(found, template) + "\n"
        return 0, out, ""

    def _shown(self, found: Container, template: str) -> str:
        state = {
            "Status": found["status"],
            "Running": found["status"] == "running",
            "Pid": found["pid"],
            "ExitCode": found["code"],
            "OOMKilled": found["oom"],
        }
        values = {
            "{{json .State}}": json.dumps(state),
            "{{.State.Pid}}": str(found["pid"]),
            "{{.State.Running}}": str(state["Running"]).lower(),
            "{{json .LogPath}}": json.dumps(found.get("log_path", "")),
            "{{json .Name}}": json.dumps(f"/{found['name']}"),
            "{{.Name}}": f"/{found['name']}",
        }
        for key, value in values.items():
            template = template.replace(key, value)
        assert "{{" not in template, f"the fake docker does not know {template}"
        return template

    def _logs(self, args: list[str]) -> Completed:
        found = self.get(args[-1])
        if found is None:
            return 1, "", f"Error: No such container: {args[-1]}\n"
        lines = str(found["logs"]).splitlines(keepends=True)
        if "--tail" in args:
            lines = lines[-int(args[args.index("--tail") + 1]) :]
        return 0, "".join(lines), ""
