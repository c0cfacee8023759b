# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sockets listen and who holds them: of the real kernel, of its tables, and of a made-up /proc."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import sockets
from ansible_collections.edgelab.model_trial.plugins.module_utils.sockets import Holder, Socket
from fakeproc import fake_net, fake_process


@pytest.fixture(params=["the kernel", "its tables"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to learn of sockets; the second one where the first is refused."""

    def refused(_port: int) -> list[Socket]:
        raise PermissionError("no netlink here")

    def unread(_proc: Path) -> list[Socket]:
        raise AssertionError("reading the tables is dear, and was not needed")

    monkeypatch.setattr(sockets, *(("_asked", refused) if request.param == "its tables" else ("_table", unread)))
    return str(request.param)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listening_socket_is_found_and_a_connection_is_none(source: str, family: Any) -> None:
    try:
        server = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server, socket.create_connection(server.getsockname()[:2]):
        port, inode = server.getsockname()[1], os.fstat(server.fileno()).st_ino
        accepted, _peer = server.accept()
        with accepted:
            assert sockets.listening({port, 1}) == [Socket(port, inode, os.getuid())]
        held = sockets.holders([inode])
        assert held == [Holder(inode, os.getpid(), str(server.fileno()))]
        assert sockets.holds(held[0])
    assert sockets.listening({port}) == []
    assert not sockets.holds(held[0])
    assert source


def test_many_sockets_do_not_overflow_the_answer() -> None:
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        port, more = first.getsockname()[1], []
        try:
            for _again in range(600):
                more.append(socket.socket())
                more[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                more[-1].bind(("127.0.0.1", port))
                more[-1].listen()
            inodes = {os.fstat(item.fileno()).st_ino for item in (first, *more)}
            assert {item.inode for item in sockets.listening({port})} == inodes
        finally:
            for item in more:
                item.close()


def test_sockets_of_a_made_up_table(tmp_path: Path) -> None:
    fake_net(tmp_path, {500: 11437, 501: 22, 502: 11437}, {502: 1000})
    fake_net(tmp_path, {503: 11437}, name="tcp6")
    assert sockets.listening({11437}, tmp_path) == [
        Socket(11437, 500, 0),
        Socket(11437, 502, 1000),
        Socket(11437, 503, 0),
    ]
    assert sockets.listening({11436}, tmp_path) == []
    (tmp_path / "net" / "tcp").unlink()
    assert sockets.listening({11437}, tmp_path) == [Socket(11437, 503, 0)]


def test_everybody_who_holds_a_socket_is_told(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, ["master"], inodes=(7, 500))
    fake_process(tmp_path, 11, ["worker"], inodes=(500,))
    fake_process(tmp_path, 12, ["other"], inodes=(8,))
    fake_process(tmp_path, 13, ["gone"])
    (tmp_path / "13" / "fd").rmdir()
    (tmp_path / "uptime").write_text("1 1")
    assert sockets.holders([500, 600], tmp_path) == [Holder(500, 10, "1"), Holder(500, 11, "0")]


@pytest.mark.parametrize(
    ("holder", "holds"),
    [
        (Holder(500, 10, "1"), True),
        (Holder(500, 10, "0"), False),
        (Holder(500, 10, "9"), False),
        (Holder(500, 99, "1"), False),
    ],
    ids=["the same", "another descriptor", "closed", "ended"],
)
def test_whether_a_known_process_still_holds_it(tmp_path: Path, holder: Holder, holds: bool) -> None:
    fake_process(tmp_path, 10, ["server"], inodes=(7, 500))
    assert sockets.holds(holder, tmp_path) is holds
