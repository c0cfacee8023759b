# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that the connection to a host is clean: what is sent arrives, and exactly that comes back.

A login that prints a greeting, or reads input that is not its own, would otherwise be found only after the window, when
the results are fetched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import one_line

# Every byte, and text that a careless connection changes: line ends of other systems, text that is not ASCII.
BYTES = bytes(range(256)) * 16 + b"\r\n\n\r" + "größer 🤖\n".encode()
TEXT = "a\tb\n\n größer 🤖 $HOME `id` 'x' \"y\" \\ %s\n"
# The results contain times of both clocks; the controller's names the run.
CLOCK_S = 3600.0
EARLIEST = datetime(2026, 1, 1, tzinfo=timezone.utc)
# A run's archive has some megabytes.
ROOM_BYTES = 64 << 20
SHOWN_CHARS = 200


@dataclass(frozen=True)
class Fault:
    """A fault in words, with the texts that a broken contract has."""

    name: str
    expected: str
    found: str
    why: str
    todo: str


GREETING = "what a login prints or reads gets into commands and files; after the window, the results would not arrive"
MEND = "let the shell's files of the login user (.bashrc, .profile, /etc/profile.d) print and read only in a terminal"


def message(faults: list[Fault]) -> str:
    """All faults in words, a paragraph each."""
    return "\n\n".join(
        f"The connection to the host, {one.name}: broken.\n  expected: {one.expected}\n  found: {one.found}"
        f"\n  why it matters: {one.why}\n  what to do: {one.todo}"
        for one in faults
    )


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Leaves nothing on either side."""

    # The folder on the host is created when it is needed.
    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run all checks; fail with every fault."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        faults = [*self.clock(), *self.words()]
        room = self.room()
        faults += room
        if not room:
            with tempfile.TemporaryDirectory() as folder:
                faults += self.files(Path(folder))
        if faults:
            raise AnsibleActionFail(message(faults), result={"broken": [one.name for one in faults]})
        return {**result, "changed": False, "broken": []}

    def words(self) -> list[Fault]:
        """A command's output, as login user and as root; its input; and the host's clock."""
        login, root = secrets.token_hex(16), secrets.token_hex(16)
        # Contract 1 checks whether sudo works.
        ask = f"echo {login}; date +%s; sudo -n echo {root} 2>/dev/null || true"
        faults: list[Fault] = []
        try:
            lines = str(self._low_level_execute_command(ask, sudoable=False)["stdout"]).splitlines()
            echo = str(self._low_level_execute_command("cat", in_data=TEXT.encode(), sudoable=False)["stdout"])
        except AnsibleError as err:
            return [Fault("commands", "a command that runs", one_line(str(err)), GREETING, MEND)]
        clock = [line for line in lines if line.isdigit()]
        others = [line for line in lines if line not in (login, root) and line not in clock[:1]]
        if others or login not in lines:
            found = _shown("\n".join(others)) if others else "no output of the command"
            faults.append(Fault("what a command says", "only its own output", found, GREETING, MEND))
        if echo != TEXT:
            found = _shown(echo.replace(TEXT, "...")) or "nothing"
            faults.append(Fault("what a command reads", "the same text back, byte for byte", found, GREETING, MEND))
        if clock and abs(int(clock[0]) - time.time()) > CLOCK_S:
            apart_s = int(clock[0]) - time.time()
            faults.append(
                Fault(
                    "the clocks",
                    f"less than {CLOCK_S:.0f} s between controller and host",
                    f"the host's clock is {abs(apart_s):.0f} s {'ahead' if apart_s > 0 else 'behind'}",
                    "the controller's clock names the runs, and their journal has the host's times",
                    "correct the wrong clock: timedatectl",
                )
            )
        return faults

    def clock(self) -> list[Fault]:
        """The controller's own clock."""
        now = datetime.now(timezone.utc)
        if now >= EARLIEST:
            return []
        return [
            Fault(
                "the controller's clock",
                f"a time after {EARLIEST:%Y-%m-%d}",
                f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "it names the runs, and at that time no certificate is valid yet",
                "set this machine's clock: timedatectl",
            )
        ]

    def room(self) -> list[Fault]:
        """The controller's folder for temporary files."""
        try:
            folder = tempfile.gettempdir()
            with tempfile.TemporaryFile() as file:
                file.write(BYTES)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                kept = file.read(len(BYTES) + 1) == BYTES
            free = shutil.disk_usage(folder).free
            found = "" if kept else f"{folder} does not keep what is written"
            if kept and free < ROOM_BYTES:
                found = f"{folder} has {free >> 20} MiB free"
        except OSError as err:
            found = str(err)
        if not found:
            return []
        return [
            Fault(
                "the controller's temporary folder",
                f"one that can be written, with {ROOM_BYTES >> 20} MiB free",
                found,
                "after the window, the results pass through it",
                "make room there, or name another one: export TMPDIR=...",
            )
        ]

    def files(self, folder: Path) -> list[Fault]:
        """Send a file to the host and back, in the way that results are fetched."""
        sent, back = folder / "sent", folder / "back"
        sent.write_bytes(BYTES)
        found = ""
        try:
            there = self._connection._shell.tmpdir or self._make_tmp_path()
            remote = self._connection._shell.join_path(there, "channel")
            try:
                self._connection.put_file(str(sent), remote)
                self._connection.fetch_file(remote, str(back))
            finally:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        except AnsibleError as err:
            found = one_line(str(err))
        raw = back.read_bytes() if back.exists() else b""
        if not found and raw != BYTES:
            more = raw.replace(BYTES, b"...")
            found = f"{len(raw)} bytes of {len(BYTES)}: {_shown(more.decode('utf-8', 'replace'))}"
        return [Fault("files", "a file to the host and back, byte for byte", found, GREETING, MEND)] if found else []


def _shown(text: str) -> str:
    """Untrusted text, on one line."""
    return one_line(text.strip())[:SHOWN_CHARS]
