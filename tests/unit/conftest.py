"""The fast tier keeps to itself: no Docker, no tried host, nothing beyond this machine's loopback.

How much its property tests and exhaustive tests try is set here, for all of them: ``shared/profiles.py``.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Tests are imported by path and so can't import each other: what they share lies in a folder of its own.
sys.path.insert(0, str(Path(__file__).resolve().parent / "shared"))

import profiles  # found only now

LOOPBACK = ("127.", "::1", "localhost")

# On a busy machine any single example may be slow: time is no property that these tests are about. The short profile
# tries the same examples on every run, so that a landing fails only for what it changes; the long one looks for new.
settings.register_profile(
    profiles.PROFILE, max_examples=profiles.examples(), deadline=None, derandomize=not profiles.LONG
)
settings.load_profile(profiles.PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks of unit tests here: this file travels with the collection, pyproject.toml doesn't."""
    config.addinivalue_line("markers", "prove: takes a second or more, so that `make prove` alone runs it")
    config.addinivalue_line("markers", "profiled: tries more in the long profile, as property tests do")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what `coverage` measured here before the controlling process ends this one, which it does after 10 s."""
    if not hasattr(session.config, "workerinput"):
        return  # the controlling one, which runs no test and so has measured nothing
    measuring = sys.modules.get("coverage")
    current = measuring.Coverage.current() if measuring else None
    if current is not None:
        current.stop()
        current.save()


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave the machine, so that a test which needs one fails at its first run."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"a unit test may not connect to {address!r}: use a server on 127.0.0.1")
        if self.family == socket.AF_UNIX and "docker.sock" in str(address):
            raise OSError("a unit test may not talk to Docker: give it a fake command line")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
