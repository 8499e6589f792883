"""The time that a loop over many peers may take of one turn of the reactor."""

from __future__ import annotations

from time import thread_time

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

#: Seconds of CPU of one turn.
SLICE_SECONDS = 0.005


class TurnSlice:
    """Begins now. A loop asks `is_over` after each step, and awaits `pause` then."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._end = thread_time() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Return whether the time is used up."""
        return thread_time() >= self._end

    async def pause(self) -> None:
        """Wait for the next turn of the reactor, and begin anew."""
        await deferLater(self._clock, 0, _nothing)
        self._end = thread_time() + SLICE_SECONDS


def _nothing() -> None: ...
