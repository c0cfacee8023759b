"""When a failed request is sent again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from trialbench.engines.failures import Failure

# Beyond this, 2^n overflows a float.
_MAX_EXPONENT = 30


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off: `base_s` * 2^n, spread by jitter, never above `cap_s`.

    Attributes:
        retries: how often a request is retried after the first attempt.
        base_s: pause before the first retry, before jitter.
        cap_s: maximum pause, including jitter.
        jitter: share by which a pause varies, so that clients that failed together do not retry together.
    """

    retries: int = 2
    base_s: float = 1.0
    cap_s: float = 30.0
    jitter: float = 0.2

    def may_retry(self, failure: Failure, *, attempt: int, delivered: bool) -> bool:
        """Whether attempt number `attempt` (from 0) may be followed by another.

        Never after a token was delivered: the caller would get the beginning again.
        """
        return failure.failure_class.recoverable and not delivered and attempt < self.retries

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """The pause after attempt number `attempt` (from 0)."""
        spread = 1 + self.jitter * rng.uniform(-1, 1)
        return min(self.cap_s, self.base_s * float(1 << min(attempt, _MAX_EXPONENT)) * spread)
