"""Shares the reactor's time among the streams that have input: each reads a little, then the next one does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter

from twisted.internet.interfaces import IReactorTime

#: Seconds of one turn of the reactor for all streams together; what is left is read in the next one.
TURN_SECONDS = 0.02
#: Of these, the most for all streams that are still negotiated: a message of a peer needs a few turns.
NEGOTIATING_SECONDS = 0.005


class Turns:
    """Calls what was added in the next turn of the reactor: streams that are established first, each in its order.

    After `seconds` in one turn the rest waits for the next, so that sockets, timers and newcomers are served between. Those
    that are not established have `NEGOTIATING_SECONDS` of that, and at least one of them is called in each turn. `stopwatch`
    gives seconds that never run backwards.
    """

    def __init__(
        self, clock: IReactorTime, seconds: float = TURN_SECONDS, stopwatch: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._stopwatch = stopwatch
        self._established: deque[Callable[[], None]] = deque()
        self._negotiating: deque[Callable[[], None]] = deque()
        self._is_due = False

    def add(self, turn: Callable[[], None], established: bool) -> None:
        """Call `turn` once, soon. It may add itself again."""
        (self._established if established else self._negotiating).append(turn)
        self._schedule()

    @property
    def negotiating(self) -> int:
        """How many that are not established wait to be called."""
        return len(self._negotiating)

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        """Call those that wait now. What they add waits for the next turn."""
        self._is_due = False
        began = self._stopwatch()
        negotiating = len(self._negotiating)
        try:
            for _ in range(len(self._established)):
                self._established.popleft()()
                if self._stopwatch() - began > self._seconds:
                    break
            end = min(began + self._seconds, self._stopwatch() + NEGOTIATING_SECONDS) if negotiating else 0.0
            for number in range(negotiating):
                if number and self._stopwatch() > end:
                    break
                self._negotiating.popleft()()
        finally:
            if self._established or self._negotiating:
                self._schedule()
