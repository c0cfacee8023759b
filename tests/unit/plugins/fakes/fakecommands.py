# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fake docker, systemctl, systemd-run and journalctl as real executables; their state is in the folder FAKE_HOST.

``install(bin, state)`` writes them. Each call is one line of ``calls-<program>.jsonl``. ``answers.json`` maps the
beginning of a command line to ``{"rc", "out", "err", "sleep_s"}``; the longest one that fits is used.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
# Each call of a fake is a process of its own, and imports are most of it: what needs more imports it locally.
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

# A unit that systemd knows and that does not run.
STOPPED = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nMainPID=0\nResult=success\nNRestarts=0\nJob=\n"
PROGRAMS = ("docker", "systemctl", "systemd-run", "journalctl")


class Commands:
    """The fake programs of one test: what they shall answer, and what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.state = folder / "bin", folder / "state"
        self.bin.mkdir()
        self.state.mkdir()
        for name in PROGRAMS:
            path = self.bin / name
            # Isolated and without site: a start costs a hundredth of a second.
            path.write_text(
                f'#!/bin/sh\nFAKE_HOST="{self.state}" exec "{sys.executable}" -IS "{__file__}" {name} "$@"\n'
            )
            path.chmod(0o755)

    def answer(self, line: str, rc: int = 0, out: str = "", err: str = "", sleep_s: float = 0.0) -> None:
        """Make every command line that begins with ``line`` answer so."""
        path = self.state / "answers.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known[line] = {"rc": rc, "out": out, "err": err, "sleep_s": sleep_s}
        path.write_text(json.dumps(known))

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of every call of a program so far."""
        path = self.state / f"calls-{program}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _scripted(state: str, line: str) -> dict[str, Any] | None:
    known: dict[str, dict[str, Any]] = {}
    if os.path.exists(f"{state}/answers.json"):
        with open(f"{state}/answers.json", encoding="utf-8") as file:
            known = json.load(file)
    fits = [key for key in known if line.startswith(key)]
    return known[max(fits, key=len)] if fits else None


def main(program: str, args: list[str]) -> int:
    """Be one of the programs."""
    state = os.environ["FAKE_HOST"]
    with open(f"{state}/calls-{program}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(args) + "\n")
    scripted = _scripted(state, " ".join([program, *args]))
    if scripted:
        time.sleep(scripted["sleep_s"])
        rc, out, err = scripted["rc"], scripted["out"], scripted["err"]
    elif program == "docker":
        sys.path.insert(0, os.path.dirname(__file__))
        from pathlib import Path

        from fakedocker import FakeDocker

        rc, out, err = FakeDocker(Path(state)).main(args)
    elif program == "systemd-run":
        import subprocess

        # A scope: the command runs here and now, and may leave something in the background.
        rc, out, err = subprocess.run(args[args.index("/bin/sh") :], check=False).returncode, "", ""
    else:
        rc, out, err = 0, STOPPED if [program, *args][:2] == ["systemctl", "show"] else "", ""
    sys.stdout.write(out)
    sys.stderr.write(err)
    return int(rc)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
