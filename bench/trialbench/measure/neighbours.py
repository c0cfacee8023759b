"""Others who use the measured server: waited for, never pushed aside, and named where they overlapped a sample.

A live model has callers. Before a request its slots must be idle; after it they tell whether somebody else was at work
meanwhile. A request that came and went between two looks is known by the numbers that llama-server gives its tasks:
every task takes one, so does every step of work, and so does a look. What is between the numbers of two of our own
tasks is therefore known in advance; more than that was somebody else's.

All of it happens between requests, outside of every measured time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trialbench.engines.llama.slots import Look, Slots, SlotsError

FOREIGN, RESTARTED = "foreign", "restarted"
# A look so recent still describes the moment before the next request: one look a sample is enough.
_FRESH_S = 0.005
_POLL_S = 0.02
# A server at work answers between two steps; a prompt with an image can be a long one.
_LOOK_S = 1.0
_LOSE_AFTER = 3
# One number is somebody's look at the slots or the metrics; a reply takes two at least.
_OTHERS_LOOKS = 1


@dataclass
class Overlaps:
    """What was seen within one segment. `flagged` counts samples, not warm-ups; `waited_s` is time for idle slots."""

    flagged: int = 0
    waited_s: float = 0.0


class Neighbours:
    """Watches one server.

    Args:
        slots: how to look.
        wait_s: how long to wait for idle slots, in all, for each segment.
        stopped: whether a signal came; ends every wait.
    """

    def __init__(self, slots: Slots, *, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._slots = slots
        self._wait_s = wait_s
        self._stopped = stopped
        self._last: Look | None = None
        # Task numbers between two of our own tasks that are no step of a reply; learned, and sure once seen twice.
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
        """A segment begins: what a request costs in task numbers is learned anew."""
        self.seen = Overlaps()
        self._overhead, self._sure, self._own = None, False, None

    def idle(self, until_s: float) -> bool:
        """Wait until no slot is at work; False if that did not come in time. True where nobody can tell.

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
            # What is at work may be our own request that had no whole reply: then the next one names what is wrong.
            if self._stopped() or time.monotonic() >= until_s:
                self.seen.waited_s += time.monotonic() - began_s
                return self._unanswered
            waited = True
            time.sleep(_POLL_S)
        if waited:
            self.seen.waited_s += time.monotonic() - began_s
        if look is not None and self._own is not None and look.newest != self._own[0]:
            # Somebody came and went while nothing was measured: our own number is no longer the last one.
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
        # Where somebody else may have run last the number is not ours, and says nothing of the next.
        known = answered and not flags and tokens is not None and newest is not None
        self._own = (newest, tokens) if known and newest is not None and tokens is not None else None
        self._looks_since_own = 1
        return flags

    def count(self, flags: list[str]) -> None:
        """A measured sample with these flags was kept."""
        self.seen.flagged += FOREIGN in flags

    @staticmethod
    def _others_ran(before: Look | None, look: Look) -> bool:
        """Whether more than one slot ran something new; one of them was ours."""
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
            # A look that got lost may have taken a number.
            self._own = None
            if error.off or self._lost >= _LOSE_AFTER:
                self.why = str(error)
            return None
        if self._last is None:
            # Whatever lies in the slots now gives way to our prompt: true of the first look only.
            self.cache_tokens = look.tokens
            self.cache_replaced = bool(look.tasks)
        self._lost = 0
        self._last = look
        self._looks_since_own += 1
        return look
