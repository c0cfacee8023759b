"""Random bytes and structures for whatever comes from outside: the targets of `targets.py`, for as long as is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_no_traceback_no_secret_no_lost_byte_no_hang(
    target: Callable[[], None], for_its_share: Callable[[Callable[[], None]], int]
) -> None:
    assert for_its_share(target) > 0
