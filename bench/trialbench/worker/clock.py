"""The worker's clock: injectable, so that tests of back-off and breaker need not wait."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """CLOCK_MONOTONIC seconds, and waiting that an event ends early."""

    def now_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` have passed; whether it is set."""


class SystemClock:
    """The real one."""

    def now_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """`event.wait`."""
        return event.wait(max(0.0, seconds))
