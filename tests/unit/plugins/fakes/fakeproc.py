# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A made-up ``/proc``: processes with their descriptors, threads and control groups, and the kernel's TCP table."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def fake_process(proc: Path, pid: int, argv: list[str], parent: int = 1, **facts: Any) -> Path:
    """A process in a made-up /proc.

    Args:
        proc: the folder that stands for /proc.
        pid: its number.
        argv: its command line.
        parent: its parent's number.
        facts: ``state``, ``start`` (ticks), ``name`` (bytes), ``inodes`` (sockets it holds), ``cgroup`` (text),
            ``threads`` (thread to its state).
    """
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")
    (folder / "stat").write_bytes(
        stat_line(pid, facts.get("state", "S"), parent, facts.get("start"), facts.get("name", b"a (b) c"))
    )
    (folder / "cgroup").write_text(facts.get("cgroup", ""))
    for thread, state in facts.get("threads", {}).items():
        fake_thread(folder, thread, state)
    for i, inode in enumerate(facts.get("inodes", ())):
        (folder / "fd" / str(i)).symlink_to(f"socket:[{inode}]")
    return folder


def stat_line(pid: int, state: str, parent: int = 1, start: int | None = None, name: bytes = b"x") -> bytes:
    """The text of a ``stat`` file."""
    fields = [state, str(parent), *["0"] * 17, str(100 + pid if start is None else start), "0"]
    return b"%d (%s) %s\n" % (pid, name, " ".join(fields).encode())


def fake_thread(process: Path, thread: int, state: str, switched: int = 1, wchan: str = "0") -> None:
    """A thread of a process, or what has become of it."""
    folder = process / "task" / str(thread)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_bytes(stat_line(thread, state))
    (folder / "status").write_text(f"Name:\tx\nvoluntary_ctxt_switches:\t{switched}\nnonvoluntary_ctxt_switches:\t9\n")
    (folder / "wchan").write_text(wchan)


def fake_net(proc: Path, listening: dict[int, int], uids: dict[int, int] | None = None, name: str = "tcp") -> None:
    """The TCP table of a made-up /proc, inode -> port; 22 is connected, not listening. ``uids`` go by inode."""
    (proc / "net").mkdir(exist_ok=True)
    lines = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"]
    lines.append("   1: 0100007F:0016 0100007F:D431 01 0:0 00:0 0 0 0 999 1 0")
    for inode, port in listening.items():
        lines.append(
            f"   0: 0100007F:{port:04X} 00000000:0000 0A 0:0 00:0 0 {(uids or {}).get(inode, 0)} 0 {inode} 1 0"
        )
    (proc / "net" / name).write_text("\n".join(lines) + "\n")
