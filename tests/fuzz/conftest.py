"""Random bytes and structures for as long as MT_FUZZ_S says: seconds for all targets together, 20 if it is not set."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
# What these targets build as unit tests do.
sys.path[:0] = [str(TESTS / "unit" / "bench" / "shared"), str(TESTS / "unit" / "shared")]


@pytest.fixture
def for_its_share(request: pytest.FixtureRequest) -> Callable[[Callable[[], None]], int]:
    """Runs a property again and again, with other examples each time, until its share of the seconds is used."""
    share_s = float(os.environ.get("MT_FUZZ_S") or "20") / request.session.testscollected

    def run(check: Callable[[], None]) -> int:
        until_s, rounds = time.monotonic() + share_s, 0
        while not rounds or time.monotonic() < until_s:
            check()
            rounds += 1
        return rounds

    return run


@pytest.fixture(autouse=True)
def nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no proxy and no hub of the user's."""
    for name in ("TRIALBENCH_API_KEY", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
