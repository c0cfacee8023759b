# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens on the ports of a window: what a look sees in a made-up /proc, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import owners, probes, sockets
from fakeproc import fake_net, fake_process

PORT, SERVER, WORKER, STRANGER = 11437, 100, 101, 666
OWN, SECOND, FOREIGN = 500, 501, 900


class Host:
    """A host with one watched port: the sockets that listen there, and who holds them."""

    def __init__(self, proc: Path, patch: pytest.MonkeyPatch) -> None:
        self.proc, self.now, self.cpu = proc, 1000.0, 0.0
        self.walks: list[list[int]] = []
        self.judged: list[int] = []
        self.broken = False
        self.uids = {SERVER: 0, WORKER: 0, STRANGER: 65534}
        self._listen: dict[int, int] = {}
        patch.setattr(owners, "time", SimpleNamespace(monotonic=lambda: self.now, thread_time=lambda: self.cpu))
        patch.setattr(probes, "uid", lambda pid, proc: self.uids[pid] if (proc / str(pid)).exists() else None)
        walk = sockets.holders

        def walked(inodes: Any, proc: Path) -> Any:
            self.walks.append(sorted(inodes))
            return walk(inodes, proc)

        patch.setattr(sockets, "holders", walked)
        fake_process(proc, SERVER, ["llama-server"])
        fake_process(proc, WORKER, ["worker"], parent=SERVER)
        fake_process(proc, STRANGER, ["python3", "fake.py"])
        self.table()
        self.ports = owners.Ports(proc)
        self.ports.watch({PORT}, "the candidate", self.owns)

    def owns(self, item: probes.Listener) -> bool:
        """Whether a listener is the candidate's."""
        self.judged.append(item.pid)
        if self.broken:
            raise TimeoutError("docker inspect timed out")
        return SERVER in probes.ancestors(item.pid, self.proc)

    def table(self) -> None:
        """Write the kernel's table."""
        fake_net(self.proc, self._listen, {FOREIGN: 65534, OWN: 10001})

    def listen(self, inode: int, *pids: int, port: int = PORT) -> None:
        """A socket appears, in the hands of processes."""
        self._listen[inode] = port
        for pid in pids:
            self.give(inode, pid)
        self.table()

    def give(self, inode: int, pid: int) -> None:
        """A process gets a socket."""
        (self.proc / str(pid) / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")

    def drop(self, inode: int, pid: int) -> None:
        """A process closes a socket, which goes on to listen for another one."""
        (self.proc / str(pid) / "fd" / str(inode)).unlink()

    def close(self, inode: int) -> None:
        """Nobody listens on that socket any more."""
        self._listen.pop(inode)
        for link in self.proc.glob(f"*/fd/{inode}"):
            link.unlink()
        self.table()

    def look(self) -> str:
        """What a look finds, a tenth of a second later; empty while all is well."""
        self.now += 0.1
        change = self.ports.look()
        return change.found if change else ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host where the candidate listens, was judged, and is asked."""
    host = Host(tmp_path, monkeypatch)
    host.listen(OWN, SERVER)
    assert host.look() == ""
    host.ports.ask({PORT})
    return host


def stranger_beside(host: Host) -> None:
    """On another address of the same port, which `localhost` may lead to."""
    host.listen(FOREIGN, STRANGER)


def stranger_instead(host: Host) -> None:
    """The server is gone, and another has bound its port."""
    host.close(OWN)
    host.listen(FOREIGN, STRANGER)


def stranger_with_the_servers_name(host: Host) -> None:
    """Every user names his program as he likes."""
    (host.proc / str(STRANGER) / "cmdline").write_bytes(b"llama-server\0")
    stranger_instead(host)


def socket_in_nobodys_hands(host: Host) -> None:
    """A socket that waits in another one is in no table of descriptors, and still listens."""
    host.listen(FOREIGN)


def handed_to_a_stranger(host: Host) -> None:
    """The same socket, which the server no longer holds."""
    host.give(OWN, STRANGER)
    host.drop(OWN, SERVER)


def closed_and_opened_again(host: Host) -> None:
    """Its own again, but the port was free for a moment: nobody knows who answered in it."""
    host.close(OWN)
    host.listen(SECOND, SERVER)


def its_manager_does_not_answer(host: Host) -> None:
    """Whether it is the owner's can't be told."""
    host.broken = True
    host.listen(SECOND, WORKER)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (stranger_beside, f"port {PORT} is held by PID {STRANGER} (user nobody, python3 fake.py)"),
        (stranger_instead, f"port {PORT} is held by PID {STRANGER} (user nobody, python3 fake.py)"),
        (stranger_with_the_servers_name, f"port {PORT} is held by PID {STRANGER} (user nobody, llama-server)"),
        (socket_in_nobodys_hands, f"port {PORT} is held by a process that can't be seen (user nobody)"),
        (handed_to_a_stranger, f"port {PORT} is held by PID {STRANGER} (user nobody, python3 fake.py)"),
        (closed_and_opened_again, f"closed and reopened in between: port {PORT} is held by PID {SERVER} (user root"),
        (its_manager_does_not_answer, "its owner cannot be determined: docker inspect timed out"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_who_may_answer_in_its_place_is_named(host: Host, act: Callable[[Host], None], words: str) -> None:
    good_s = host.now
    act(host)
    host.now += 0.1
    change = host.ports.look()
    assert change
    assert words in change.found
    assert (change.port, change.owner, change.asked) == (PORT, "the candidate", True)
    # What was measured until the last look at which all was well counts.
    assert change.good_s == good_s
    assert set(change.facts()) == {"port", "owner", "pid", "user", "command", "found"}


def nothing(_host: Host) -> None:
    """All stays as it is."""


def worker_inherits(host: Host) -> None:
    """A worker of the server's has the same socket."""
    host.give(OWN, WORKER)


def its_process_ends(host: Host) -> None:
    """A process that ends gives up its descriptors a moment before the kernel closes its sockets."""
    host.drop(OWN, SERVER)


def second_socket(host: Host) -> None:
    """A worker opens a socket of its own on the same port."""
    host.listen(SECOND, WORKER)


def one_after_the_other(host: Host) -> None:
    """The port is never free."""
    host.listen(SECOND, WORKER)
    assert host.look() == ""
    host.close(OWN)


def handed_to_a_worker(host: Host) -> None:
    """The process that opened it has closed it; a worker goes on with it."""
    host.give(OWN, WORKER)
    host.drop(OWN, SERVER)


def server_gone(host: Host) -> None:
    """Nobody listens, so nobody answers: that the server has ended is seen elsewhere."""
    host.close(OWN)


def stranger_elsewhere(host: Host) -> None:
    """Another port is another matter."""
    host.listen(FOREIGN, STRANGER, port=PORT + 1)


def the_kernels_own(host: Host) -> None:
    """A socket of the kernel's is in no process, and root's."""
    host.listen(SECOND)


@pytest.mark.parametrize(
    "act",
    [
        nothing,
        worker_inherits,
        its_process_ends,
        second_socket,
        one_after_the_other,
        handed_to_a_worker,
        server_gone,
        stranger_elsewhere,
        the_kernels_own,
    ],
)
def test_what_the_owner_does_is_no_change(host: Host, act: Callable[[Host], None]) -> None:
    act(host)
    assert [host.look() for _again in range(3)] == ["", "", ""]


def test_a_port_that_was_free_is_not_good_until_it_is_taken(host: Host) -> None:
    """The last good look is the last one at which its owner was there, however long it is free afterwards."""
    good_s = host.now
    host.close(OWN)
    assert [host.look() for _again in range(5)] == [""] * 5
    assert not host.ports.held(PORT)
    host.listen(FOREIGN, STRANGER)
    host.now += 0.1
    change = host.ports.look()
    assert change
    assert change.good_s == good_s


def test_a_port_that_nothing_is_asked_on_may_be_opened_again_by_its_owner(host: Host) -> None:
    host.ports.ask(())
    closed_and_opened_again(host)
    assert host.look() == ""
    stranger_beside(host)
    change = host.ports.look(sure=True)
    assert change
    assert not change.asked


def test_several_owners_share_a_port(host: Host) -> None:
    host.ports.watch({PORT}, "another tenant", lambda item: item.pid == STRANGER)
    stranger_beside(host)
    assert host.look() == ""


def test_a_process_that_ends_while_it_is_looked_for_is_nobody(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.listen(FOREIGN, STRANGER)
    walk = sockets.holders

    def ends(inodes: Any, proc: Path) -> Any:
        found = walk(inodes, proc)
        if FOREIGN in host._listen:
            host.close(FOREIGN)
            host.uids[STRANGER] = None  # type: ignore[assignment]
        return found

    monkeypatch.setattr(sockets, "holders", ends)
    assert host.look() == ""


# What a look costs.


def test_a_look_at_known_sockets_walks_nowhere(host: Host) -> None:
    """The walk over all descriptors costs some 30 ms: once for a new socket, and never again."""
    assert host.walks == [[OWN]]
    for _again in range(20):
        assert host.look() == ""
    assert host.walks == [[OWN]]
    assert host.judged == [SERVER]
    second_socket(host)
    assert host.look() == host.look() == ""
    assert host.walks == [[OWN], [SECOND]]


def test_a_host_where_looks_are_dear_is_looked_at_less_often(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    listening = sockets.listening

    def dear(ports: Any, proc: Path) -> Any:
        asked.append(round(host.now, 2))
        host.cpu += 0.02
        return listening(ports, proc)

    monkeypatch.setattr(sockets, "listening", dear)
    for _again in range(10):
        assert host.look() == ""
    # 20 ms each, at most a twentieth of a core: every 0.4 s.
    assert len(asked) == 3
    stranger_beside(host)
    assert host.ports.look(sure=True)


def test_nothing_is_looked_at_where_nothing_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sockets, "listening")
    assert owners.Ports(tmp_path).look(sure=True) is None
