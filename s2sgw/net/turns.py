"""Shares the reactor's time among the streams that have input: each reads a little, then the next one does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import thread_time
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

#: Seconds of one turn of the reactor for all streams together; what is left is read in the next one.
TURN_SECONDS = 0.01
#: Of these, the most for all streams that are still negotiated: a message of a peer needs a few turns.
NEGOTIATING_SECONDS = 0.005
#: Beside these, the most for sending what the streams have written.
SENDING_SECONDS = 0.005
#: A stream that took more than so many seconds the last time is busy: those that are not come before it.
BUSY_SECONDS = 0.002


class Reader(Protocol):
    """A stream that has input to read. `busy` belongs to `Turns`."""

    established: bool
    busy: bool

    def take_turn(self) -> None:
        """Read a part of the input."""


class Turns:
    """Gives each stream that was added a part of the next turn of the reactor: established ones first, busy ones behind them.

    After `seconds` in one turn the rest waits for the next, so that sockets, timers and newcomers are served between. Those
    that are not established have `NEGOTIATING_SECONDS` of that. At least one that is busy and one that is not established have
    a turn each time. `stopwatch` returns seconds of CPU.
    """

    def __init__(
        self, clock: IReactorTime, seconds: float = TURN_SECONDS, stopwatch: Callable[[], float] = thread_time,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        #: seconds of CPU, by which turns are measured
        self.stopwatch = stopwatch
        self._established: deque[Reader] = deque()
        self._busy: deque[Reader] = deque()
        self._negotiating: deque[Reader] = deque()
        self._outputs: deque[Callable[[], None]] = deque()
        self._is_due = self._is_running = self._in_round = False

    def send_soon(self, send: Callable[[], None]) -> None:
        """Call `send` once, at the end of this turn, or of the next one where none is under way."""
        self._outputs.append(send)
        if not self._is_running:
            self._schedule()

    def add(self, reader: Reader) -> None:
        """Give `reader` one turn, soon. It may add itself again."""
        (self._established if reader.established else self._negotiating).append(reader)
        self._schedule()

    @property
    def negotiating(self) -> int:
        """How many that are not established wait to be called."""
        return len(self._negotiating)

    def begin_round(self) -> None:
        """The reactor reads its sockets: what is added now is called when the round ends (`net.fair_poll`)."""
        self._in_round = True

    def end_round(self) -> None:
        """Call what waits."""
        self._in_round = False
        self._run_if_due()

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            if not self._in_round:
                self._clock.callLater(0, self._run_if_due)

    def _run_if_due(self) -> None:
        if self._is_due:
            self._run()

    def _run(self) -> None:
        """Call those that wait now, and send what they write. What they add waits for the next turn."""
        self._is_due, self._is_running = False, True
        for _ in range(len(self._established)):  # whether a stream is busy is known when its last turn is over
            reader = self._established.popleft()
            (self._busy if reader.busy else self._established).append(reader)
        waiting = [(readers, len(readers)) for readers in (self._established, self._busy, self._negotiating)]
        end = self.stopwatch() + self._seconds
        try:
            for readers, number in waiting:
                if readers is self._negotiating:
                    end = min(end, self.stopwatch() + NEGOTIATING_SECONDS)
                self._call(readers, number, end)
        finally:
            try:
                self._send()
            finally:
                self._is_running = False
                if self._established or self._busy or self._negotiating or self._outputs:
                    self._schedule()

    def _send(self) -> None:
        """Send what was written, as far as there is time. The rest, and what is behind one that breaks, is sent next."""
        end = self.stopwatch() + SENDING_SECONDS
        for _ in range(len(self._outputs)):
            self._outputs.popleft()()
            if self.stopwatch() > end:
                return

    def _call(self, readers: deque[Reader], number: int, end: float) -> None:
        """Call so many, but only one after the time `end`."""
        began = self.stopwatch()
        for _ in range(number):
            reader = readers.popleft()
            reader.take_turn()
            now = self.stopwatch()
            reader.busy = now - began > BUSY_SECONDS
            if now > end:
                return
            began = now
