"""Other clients of the measured server: wait for them, never displace them, and flag samples that they overlapped.

A live model has callers. Before a request its slots must be idle; after it they show whether another client was served
meanwhile. A request that came and went between two looks is detected by llama-server's task numbers: every task, every
step of work and every look takes one number. So the difference between the numbers of two of our own tasks is known in
advance; a larger difference comes from another client.

All of this happens between requests, outside every measured time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trialbench.engines.llama.slots import Look, Slots, SlotsError

FOREIGN, RESTARTED = "foreign", "restarted"
# A look this recent still describes the moment before the next request, so one look per sample is enough.
_FRESH_S = 0.005
_POLL_S = 0.02
# A busy server answers between two steps; a prompt with an image can be a long step.
_LOOK_S = 1.0
_LOSE_AFTER = 3
# One number is another client's query of slots or metrics; a reply takes at least two.
_OTHERS_LOOKS = 1


@dataclass
class Overlaps:
    """Observations in one segment. `flagged` counts samples without warm-ups; `waited_s` is the wait for idle slots."""

    flagged: int = 0
    waited_s: float = 0.0


class Neighbors:
    """Watches one server.

    Args:
        slots: reads the slots.
        wait_s: maximum wait for idle slots, per segment.
        stopped: whether a signal came; ends every wait.
    """

    def __init__(self, slots: Slots, *, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._slots = slots
        self._wait_s = wait_s
        self._stopped = stopped
        self._last: Look | None = None
        # Task numbers between two of our own tasks that are not steps of a reply; learned, and certain once seen twice.
        self._overhead: int | None = None
        self._sure = False
        self._own: tuple[int, int] | None = None
        self._looks_since_own = 0
        self._lost = 0
        self._unanswered = False
        self.why: str | None = None
        self.seen = Overlaps()
        self.cache_replaced = False
        self.cache_tokens = 0

    def close(self) -> None:
        """Close the connection."""
        self._slots.close()

    def facts(self) -> dict[str, Any]:
        """The segment's `neighbours` in its summary."""
        watched = self.why is None and self._last is not None
        return {
            "watched": watched,
            "overlapped": self.seen.flagged if watched else None,
            "why": None if watched else self.why or "no request was sent",
        }

    def begin(self) -> None:
        """A segment begins: learn again how many task numbers a request takes."""
        self.seen = Overlaps()
        self._overhead, self._sure, self._own = None, False, None

    def idle(self, until_s: float) -> bool:
        """Wait until all slots are idle; False if that took too long. True if the server does not show its slots.

        Args:
            until_s: CLOCK_MONOTONIC that bounds the wait, whatever is left of the segment's own.
        """
        last = self._last
        if last is not None and not last.busy and time.monotonic() - last.at_s < _FRESH_S:
            return True
        began_s = time.monotonic()
        until_s = min(until_s, began_s + self._wait_s - self.seen.waited_s)
        waited = False
        while (look := self._look()) is not None and look.busy:
            # The busy slot may serve our own request that had no complete reply: then the next one reports the problem.
            if self._stopped() or time.monotonic() >= until_s:
                self.seen.waited_s += time.monotonic() - began_s
                return self._unanswered
            waited = True
            time.sleep(_POLL_S)
        if waited:
            self.seen.waited_s += time.monotonic() - began_s
        if look is not None and self._own is not None and look.newest != self._own[0]:
            # Another client came and went while nothing was measured: our own number is no longer the last one.
            self._own = None
        return True

    def settle(self, tokens: int | None, *, answered: bool) -> list[str]:
        """The flags of the request that just ended: `foreign`, `restarted`, both, or none.

        Args:
            tokens: what it generated; None if the server did not say.
            answered: whether a whole reply came. Where it did not, the server may still be at work on it.
        """
        self._unanswered = not answered
        before, look = self._last, self._look()
        if look is None:
            return []
        flags: list[str] = []
        newest = look.newest
        if before is not None and before.newest is not None and (newest is None or newest < before.newest):
            # Numbers only grow while a server lives.
            flags.append(RESTARTED)
        elif answered and (look.busy or self._others_ran(before, look) or self._jumped(look)):
            flags.append(FOREIGN)
        # If another client may have run last, the number is not ours and says nothing about the next one.
        known = answered and not flags and tokens is not None and newest is not None
        self._own = (newest, tokens) if known and newest is not None and tokens is not None else None
        self._looks_since_own = 1
        return flags

    def count(self, flags: list[str]) -> None:
        """A measured sample with these flags was kept."""
        self.seen.flagged += FOREIGN in flags

    @staticmethod
    def _others_ran(before: Look | None, look: Look) -> bool:
        """Whether more than one slot ran a new task; one of them was ours."""
        return before is not None and sum(before.tasks.get(slot) != task for slot, task in look.tasks.items()) > 1

    def _jumped(self, look: Look) -> bool:
        """Whether more task numbers were given out since our last own task than our own work explains."""
        if look.newest is None or self._own is None:
            return False
        number, tokens = self._own
        # The look just made came after the task whose number it shows.
        overhead = look.newest - number - tokens - (self._looks_since_own - 1)
        known, self._overhead = self._overhead, overhead
        if known is None:
            return False
        if overhead == known:
            self._sure = True
        else:
            # While it is not sure which of two is the plain one, it is the smaller.
            self._overhead = known if self._sure else min(known, overhead)
        return overhead > known + _OTHERS_LOOKS

    def _look(self) -> Look | None:
        if self.why is not None:
            return None
        try:
            look = self._slots.look(_LOOK_S)
        except SlotsError as error:
            self._lost += 1
            # A look without an answer may have taken a number.
            self._own = None
            if error.off or self._lost >= _LOSE_AFTER:
                self.why = str(error)
            return None
        if self._last is None:
            # Our prompt replaces what is in the slots now; only the first look shows that.
            self.cache_tokens = look.tokens
            self.cache_replaced = bool(look.tasks)
        self._lost = 0
        self._last = look
        self._looks_since_own += 1
        return look
