"""Shares the reactor's time among the streams that have input: each reads a little, then the next one reads.

A party, such as a registered domain, may have any number of streams. So the time is shared among parties, too: when the streams
of one have read for a while in a turn, its other streams come behind those of other parties.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from typing import Protocol
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.net.turn_budget import TurnBudget, TurnPart

#: Seconds of one turn of the reactor for all established streams together, and then for all sending. The rest waits for
#: the next turn.
STREAMS_SECONDS = 0.01
#: Seconds for all streams under negotiation: a message of a peer needs a few turns.
NEGOTIATING_SECONDS = 0.008
#: Seconds for established streams that are not busy, for sending, and for closing lost connections, however long the turn
#: has taken: none of this takes long for one stream.
ESTABLISHED_SECONDS, SENDING_SECONDS, CLOSING_SECONDS = 0.002, 0.002, 0.001
#: A stream that took more seconds than this at its last turn is busy: others come before it. A party is busy whose streams took
#: more in this turn.
BUSY_SECONDS = 0.002


class Party:
    """The owner of streams. `seconds`: the time that these have read in the turn `turn`."""

    __slots__ = ("__weakref__", "seconds", "turn")

    def __init__(self) -> None:
        self.turn = 0
        self.seconds = 0.0


class Reader(Protocol):
    """A stream that has input to read. `busy` belongs to `Turns`. `party` is its owner, if there may be several of it."""

    established: bool
    busy: bool
    party: Party | None

    def take_turn(self) -> None:
        """Read a part of the input."""


class Turns:
    """Gives each stream that was added a part of the next turn of the reactor: established ones first, busy ones behind them.

    When the turn is over (`net.turn_budget`) the rest waits for the next, so that sockets, timers and newcomers are served in
    between. After the streams come judgements, sending and closing. The stopwatch, a system call, is read only where more waits.
    """

    def __init__(self, clock: IReactorTime, budget: TurnBudget | None = None) -> None:
        self.budget = budget or TurnBudget()
        self._clock = clock
        self._established: deque[Reader] = deque()
        self._busy: deque[Reader] = deque()
        self._negotiating: deque[Reader] = deque()
        self._parties: WeakValueDictionary[str, Party] = WeakValueDictionary()
        #: the number of the turns in which streams were called
        self._turn = 0
        self._judgements: OrderedDict[Deferred[None], None] = OrderedDict()
        self._newest_is_next = self._newest_negotiates = False
        self._outputs: deque[Callable[[], None]] = deque()
        self._closings: deque[Callable[[], None]] = deque()
        self._timer: IDelayedCall | None = None
        self._is_running = self._in_round = False
        #: whether a single socket is read now and no stream waits, so that its stream may read at once
        self.alone = False

    def party(self, name: str) -> Party:
        """Return the party of this name. It is kept as long as one of its streams."""
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = Party()
        return party

    # --- waiting ---

    def add(self, reader: Reader) -> None:
        """Give `reader` one turn, soon. It may add itself again."""
        (self._established if reader.established else self._negotiating).append(reader)
        if not (self._in_round or self._is_running):
            self._schedule()

    def send_soon(self, send: Callable[[], None]) -> None:
        """Call `send` once, at the end of this turn, or of the next turn if none is under way."""
        self._outputs.append(send)
        if not (self._in_round or self._is_running):
            self._schedule()

    def close_soon(self, close: Callable[[], None]) -> None:
        """Call `close` once, after the sending, never from within this call."""
        self._closings.append(close)
        self._schedule()

    def time_to_judge(self) -> Deferred[None]:
        """Return a Deferred that fires when there is time for judging a certificate. The judgement follows at once.

        The newest and the oldest waiting judgement take turns: a crowd cannot keep out a newcomer.
        """
        waiter: Deferred[None] = Deferred(self._forget_judgement)
        self._judgements[waiter] = None
        self._schedule()
        return waiter

    def _forget_judgement(self, waiter: Deferred[None]) -> None:
        self._judgements.pop(waiter, None)

    @property
    def negotiating(self) -> int:
        """The number of unestablished streams that wait to be called or judged."""
        return len(self._negotiating) + len(self._judgements)

    # --- rounds ---

    def begin_round(self, alone: bool = False) -> None:
        """Note that the reactor reads its sockets; `alone`: a single one.

        Streams that are added now are called when the round ends (`net.fair_poll`).
        """
        self._in_round = True
        self.alone = alone and not (self._established or self._busy or self._negotiating or self._judgements)

    def end_round(self) -> None:
        """Call the waiting streams."""
        self._in_round = self.alone = False
        if self._established or self._busy or self._negotiating or self._judgements:
            self._run()
        else:
            self._is_running = True
            self._send_and_close()

    def _schedule(self) -> None:
        """Schedule a turn of the reactor soon, by one timer. A second timer would call the waiting streams twice in one turn."""
        if self._timer is None and not self._in_round and not self._is_running:
            self._timer = self._clock.callLater(0, self._timer_is_due)

    def _timer_is_due(self) -> None:
        self._timer = None
        if self.budget.stopwatch() >= self.budget.end:
            self._schedule()
        else:
            self._run()

    def _run(self) -> None:
        """Call the streams that wait now, and send their output. Those that they add wait for the next turn."""
        self._is_running = True
        try:
            if self._established or self._busy or self._negotiating:
                self._call_streams()
            if self._judgements:
                self._judge()
        finally:
            self._send_and_close()

    def _send_and_close(self) -> None:
        try:
            if self._outputs:
                self._call_all(self._outputs, SENDING_SECONDS)
        finally:
            try:
                if self._closings:
                    self._call_all(self._closings, CLOSING_SECONDS)
            finally:
                self._is_running = False
                readers = self._established or self._busy or self._negotiating
                if readers or self._judgements or self._outputs or self._closings:
                    self._schedule()

    # --- the parts of a turn ---

    def _call_streams(self) -> None:
        for _ in range(len(self._established)):  # a stream's last turn decides whether it is busy
            reader = self._established.popleft()
            (self._busy if reader.busy else self._established).append(reader)
        established, negotiating = len(self._established), len(self._negotiating)
        budget = self.budget
        self._turn += 1
        if established or self._busy:
            now = budget.stopwatch()
            end = min(now + STREAMS_SECONDS, budget.end)
            if established:
                self._call(self._established, established, now, max(end, now + ESTABLISHED_SECONDS))
            if self._busy and budget.allows(TurnPart.BUSY_STREAMS):
                self._call(self._busy, len(self._busy), budget.stopwatch(), end)
        if negotiating and budget.allows(TurnPart.NEGOTIATIONS):
            self._negotiate(negotiating)

    def _call(self, readers: deque[Reader], number: int, began: float, end: float) -> None:
        """Call `number` of them, but only one after the time `end`. `began`: the time now.

        Streams of a party that has used much of this turn wait among the busy ones.
        """
        stopwatch, turn, first = self.budget.stopwatch, self._turn, readers is self._established
        for _ in range(number):
            reader = readers.popleft()
            party = reader.party
            if party is not None:
                if party.turn != turn:
                    party.turn, party.seconds = turn, 0.0
                elif first and party.seconds > BUSY_SECONDS:
                    self._busy.append(reader)
                    continue
            reader.take_turn()
            now = stopwatch()
            reader.busy = now - began > BUSY_SECONDS
            if party is not None:
                party.seconds += now - began
            if now > end:
                return
            began = now

    def _negotiate(self, number: int) -> None:
        """Call `number` streams under negotiation, but only one after their time is over: the oldest and the newest in turns."""
        readers, stopwatch = self._negotiating, self.budget.stopwatch
        number = min(number, len(readers))
        end = self.budget.end_of(NEGOTIATING_SECONDS) if number > 1 else inf
        for left in reversed(range(number)):
            (readers.pop if self._newest_negotiates else readers.popleft)().take_turn()
            self._newest_negotiates = not self._newest_negotiates
            if left and stopwatch() > end:
                return

    def _judge(self) -> None:
        """Make the judgements that there is time for."""
        for _ in range(len(self._judgements)):
            if not self._judgements or not self.budget.allows(TurnPart.JUDGEMENTS):
                return
            waiter, _ = self._judgements.popitem(last=self._newest_is_next)
            self._newest_is_next = not self._newest_is_next
            waiter.callback(None)
            if self._judgements and self.budget.is_over:
                return

    def _call_all(self, calls: deque[Callable[[], None]], seconds: float) -> None:
        """Make the waiting calls, as far as there is time. The rest, also after a call that fails, is made next time."""
        if len(calls) == 1:  # the time matters only if more wait
            calls.popleft()()
            return
        stopwatch = self.budget.stopwatch
        now = stopwatch()
        end = max(min(now + STREAMS_SECONDS, self.budget.end), now + seconds)
        for left in reversed(range(len(calls))):
            calls.popleft()()
            if left and stopwatch() > end:
                return
