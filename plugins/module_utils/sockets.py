# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find which sockets listen on a few ports and which processes hold them, cheaply enough for many times a second.

The kernel is asked for listening sockets only. The tables in ``/proc/net`` list every connection as well, and on a
machine with much memory one reading takes 5 to 40 ms of a core: they are read only where the kernel cannot be asked.
Finding the holder of a socket takes a walk over the descriptors of all processes, some 30 ms for a hundred of them;
checking that a known process still holds it takes microseconds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# The kernel answers at once, or not at all.
_ANSWER_S = 1.0
# From linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP, _ERROR, _DONE = 4, 20, 0x301, 2, 3
_LISTEN = 10
# In a question, this port stands for any.
_ALL = 0
_HEADER = struct.Struct("=IHHII")
# Family, protocol, states; then the port, and 46 zero bytes that stand for any address.
_QUESTION = struct.Struct("=BBxxI2s46x")
# Offsets in the answer: the port; the user and the inode, which follow the addresses and the queues.
_PORT_AT, _USER_AT = 4, 64


@dataclass(frozen=True)
class Socket:
    """A listening TCP socket: ``inode`` identifies it while it exists; ``uid`` is the user whose process opened it."""

    port: int
    inode: int
    uid: int


@dataclass(frozen=True)
class Holder:
    """A process that holds a socket, and the descriptor with which it does."""

    inode: int
    pid: int
    fd: str


def listening(ports: Collection[int] | None, proc: Path = PROC) -> list[Socket]:
    """The sockets that listen on any of these ports, on any address; None means all ports."""
    if proc == PROC:
        # A kernel may be built without this interface, or a sandbox may forbid it.
        with contextlib.suppress(OSError):
            found = {item for port in ([_ALL] if ports is None else ports) for item in _asked(port)}
            return sorted(found, key=lambda item: (item.port, item.inode))
    return [item for item in _table(proc) if ports is None or item.port in ports]


def _asked(port: int) -> list[Socket]:
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_S)
        for family in (socket.AF_INET, socket.AF_INET6):
            question = _QUESTION.pack(family, socket.IPPROTO_TCP, 1 << _LISTEN, struct.pack(">H", port))
            header = _HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST_DUMP, family, 0)
            kernel.send(header + question)
            found += _answer(kernel)
    # A kernel that ignores the port in the question returns all listening sockets.
    return [item for item in found if port in (_ALL, item.port)]


def _answer(kernel: socket.socket) -> list[Socket]:
    found: list[Socket] = []
    while True:
        raw, at = kernel.recv(1 << 16), 0
        while at + _HEADER.size <= len(raw):
            size, kind, _flags, _seq, _pid = _HEADER.unpack_from(raw, at)
            body = at + _HEADER.size
            if kind == _DONE:
                return found
            if kind == _ERROR:
                code = -struct.unpack_from("=i", raw, body)[0]
                raise OSError(code, os.strerror(code))
            (port,) = struct.unpack_from(">H", raw, body + _PORT_AT)
            uid, inode = struct.unpack_from("=II", raw, body + _USER_AT)
            found.append(Socket(port, inode, uid))
            at += max(size, _HEADER.size) + 3 & ~3


def _table(proc: Path) -> list[Socket]:
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[3], 16) == _LISTEN:
                found.append(Socket(int(fields[1].rsplit(":", 1)[1], 16), int(fields[9]), int(fields[7])))
    return found


def holders(inodes: Collection[int], proc: Path = PROC) -> list[Holder]:
    """Find who holds these sockets, as far as the caller may see; this walks the descriptors of all processes."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found = []
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        folder = f"{entry.path}/fd"
        # Processes and descriptors come and go during the walk.
        with contextlib.suppress(OSError):
            for fd in os.listdir(folder):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(f"{folder}/{fd}"))
                    if inode is not None:
                        found.append(Holder(inode, int(entry.name), fd))
    return sorted(found, key=lambda item: (item.inode, item.pid, item.fd))


def holds(item: Holder, proc: Path = PROC) -> bool:
    """Whether the process still holds exactly this socket."""
    try:
        return os.readlink(proc / str(item.pid) / "fd" / item.fd) == f"socket:[{item.inode}]"
    except OSError:
        return False
