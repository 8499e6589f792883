"""The time that a loop over many peers may take of one turn of the reactor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import thread_time

from twisted.internet.defer import Deferred

#: Seconds of CPU of one turn.
SLICE_SECONDS = 0.005


class TurnSlice:
    """Begins now. A loop asks `is_over` after each step, and awaits `pause` then. `soon` makes a call in a later turn."""

    def __init__(self, soon: Callable[[Callable[[], None]], None]) -> None:
        self._soon = soon
        self._end = thread_time() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Return whether the time is used up."""
        return thread_time() >= self._end

    async def pause(self) -> None:
        """Wait for one of the next turns of the reactor, and begin anew."""
        turn: Deferred[None] = Deferred()
        self._soon(partial(turn.callback, None))
        await turn
        self._end = thread_time() + SLICE_SECONDS
