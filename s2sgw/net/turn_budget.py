"""The CPU time of one turn of the reactor, which everything in the turn shares (docs/decisions.md#turns).

Each kind of work has a share of a turn, and none goes on when the turn is over. The rest waits for the next turn. Under load a
turn may be over before some kind has had its share. So in each turn another kind may still do one piece of work.

Times are CPU times: if other programs keep the processor busy, a turn does as much as before.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from math import inf
from time import thread_time

#: Seconds of CPU of one turn. A piece of work is always finished, so a turn may take longer by the longest piece.
TURN_SECONDS = 0.02


class TurnPart(IntEnum):
    """The kinds of work that may find the turn over."""

    BUSY_STREAMS = 0
    NEGOTIATIONS = auto()
    JUDGEMENTS = auto()


class TurnBudget:
    """Says whether there is time left in this turn.

    If `begin` is not called (a reactor other than Twisted's epoll reactor), a turn is never over.
    """

    def __init__(self, seconds: float = TURN_SECONDS, stopwatch: Callable[[], float] = thread_time) -> None:
        """Take the clock. `stopwatch` returns seconds of CPU of the calling thread."""
        self.stopwatch = stopwatch
        #: the end of the turn, by `stopwatch`
        self.end = inf
        self._seconds = seconds
        self._turn = 0

    def begin(self) -> float:
        """Note that a turn of the reactor begins. Return the time, by `stopwatch`."""
        self._turn += 1
        now = self.stopwatch()
        self.end = now + self._seconds
        return now

    @property
    def is_over(self) -> bool:
        """Return whether the turn has used up its time."""
        return self.stopwatch() >= self.end

    @property
    def used(self) -> float:
        """Return the seconds that the turn has used; less than 0 if a turn is never over."""
        return self.stopwatch() - (self.end - self._seconds)

    def end_of(self, seconds: float) -> float:
        """Return when a share of this many seconds ends, if it begins now: at the end of the turn at the latest."""
        return min(self.stopwatch() + seconds, self.end)

    def allows(self, part: TurnPart) -> bool:
        """Return whether a piece of work of this kind may begin: there is time left, or it is this kind's turn."""
        return self._turn % len(TurnPart) == part or not self.is_over
