"""The CPU time of one turn of the reactor, which all that runs in it shares (docs/decisions.md#turns).

Each kind of work has a share of a turn, and none goes on when the turn is over. What is left waits for the next turn. Under load
a turn may be over before some kind has had its share, so in each turn another kind may do one piece of work nevertheless.

Times are CPU times: where other programs keep the processor busy, no less is done in a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from math import inf
from time import thread_time

#: Seconds of CPU of one turn. A piece of work that has begun is finished, so a turn may take as much longer as the longest piece.
TURN_SECONDS = 0.02


class TurnPart(IntEnum):
    """The kinds of work that may find the turn over."""

    BUSY_STREAMS = 0
    NEGOTIATIONS = auto()
    JUDGEMENTS = auto()


class TurnBudget:
    """Says whether there is time left in this turn.

    Where nobody calls `begin` (another reactor than Twisted's epoll reactor), a turn is never over.
    """

    def __init__(self, seconds: float = TURN_SECONDS, stopwatch: Callable[[], float] = thread_time) -> None:
        """`stopwatch` returns seconds of CPU of the calling thread."""
        self.stopwatch = stopwatch
        #: when the turn is over, by `stopwatch`
        self.end = inf
        self._seconds = seconds
        self._turn = 0

    def begin(self) -> None:
        """A turn of the reactor begins."""
        self._turn += 1
        self.end = self.stopwatch() + self._seconds

    @property
    def is_over(self) -> bool:
        """Whether the turn has taken its time."""
        return self.stopwatch() >= self.end

    def end_of(self, seconds: float) -> float:
        """Return when a share of so many seconds, which begins now, ends: with the turn at the latest."""
        return min(self.stopwatch() + seconds, self.end)

    def allows(self, part: TurnPart) -> bool:
        """Return whether a piece of work of this kind may begin: there is time left, or it is the turn of the kind."""
        return self._turn % len(TurnPart) == part or not self.is_over
