"""Accepted streams on which stanzas may go back (XEP-0288): what a courier sees of them, one part for each pair (R36)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from twisted.internet.defer import Deferred

from s2sgw.gateway.openstream import Listener
from s2sgw.gateway.sides import ReceivingSide
from s2sgw.net.connection import StreamConnection
from s2sgw.stream.events import Acknowledged, Event
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Pair


class CarryingEngine(Protocol):
    """What is needed of the engine."""

    @property
    def managed(self) -> bool: ...

    def sent(self, number: int) -> None: ...


class Lent:
    """The part of an accepted stream that carries `pair` back: an `OpenStream`."""

    largest: int | None = None
    target = incoming = outcome = broken = holds = None
    asking = False
    method = "bidi"

    def __init__(self, lending: Lending, pair: Pair) -> None:
        self._lending = lending
        self.pair = pair
        self.side = lending.side
        self.connection = lending.connection
        self.reasons: tuple[str, ...] = ()
        self.listener: Listener | None = None

    @property
    def engine(self) -> Lent:
        """Counts by itself, for the acknowledgements of all pairs come in one count."""
        return self

    @property
    def managed(self) -> bool:
        return self._lending.engine.managed

    @property
    def unacknowledged(self) -> int:
        return self._lending.unacknowledged(self)

    def sent(self, number: int) -> None:
        self._lending.sent(self, number)

    def write(self, stanzas: Sequence[bytes]) -> None:
        """Send these."""
        self.connection.write(b"".join(stanzas))

    def close(self, ending: Ending) -> Deferred[None]:
        """Close the stream, for all of its pairs."""
        self.connection.close(ending)
        return self.connection.when_closed()


class Lending:
    """The pairs that one accepted stream may carry back, and whose courier uses it."""

    def __init__(self, side: ReceivingSide, connection: StreamConnection, engine: CarryingEngine) -> None:
        self.side = side
        self.connection = connection
        self.engine = engine
        self._lent: dict[Pair, Lent] = {}
        self._written: deque[tuple[Lent, int]] = deque()  # what is unacknowledged, in order

    def allow(self, pair: Pair) -> None:
        """`pair` may be sent."""
        self._lent.setdefault(pair, Lent(self, pair))

    def of(self, pair: Pair) -> Lent | None:
        """The part for `pair`, unless it is in use."""
        lent = self._lent.get(pair)
        return lent if lent is not None and lent.listener is None and self.connection.ending is None else None

    def sent(self, lent: Lent, number: int) -> None:
        """`number` stanzas of one pair are being written."""
        if self.engine.managed:
            self._written.append((lent, number))
            self.engine.sent(number)

    def unacknowledged(self, lent: Lent) -> int:
        """Of what was written of one pair, and counted."""
        return sum(number for each, number in self._written if each is lent)

    def event(self, event: Event) -> None:
        """What the other side has, told to those who sent it; anything else concerns all."""
        if isinstance(event, Acknowledged):
            self._acknowledged(event.count)
            return
        for listener in self._listeners():
            listener.stream_event(event)

    def _acknowledged(self, count: int) -> None:
        while count:
            lent, number = self._written.popleft()
            part = min(count, number)
            count -= part
            if part < number:
                self._written.appendleft((lent, number - part))
            if lent.listener is not None:
                lent.listener.stream_event(Acknowledged(part))

    def slow(self) -> None:
        """The other side takes nothing at present."""
        for listener in self._listeners():
            listener.stream_slow()

    def free(self) -> None:
        """It takes again."""
        for listener in self._listeners():
            listener.stream_free()

    def lost(self, ending: Ending) -> None:
        """The stream is gone."""
        for listener in self._listeners():
            listener.stream_lost(ending)

    # --- resumption (XEP-0198 §5) ---

    @property
    def resumable(self) -> bool:
        """What is unacknowledged can be sent again as it was."""
        return all(lent.listener is not None and lent.listener.holds(number) for lent, number in self._owed().items())

    def _owed(self) -> Counter[Lent]:
        owed: Counter[Lent] = Counter()
        for lent, number in self._written:
            owed[lent] += number
        return owed

    def suspend(self, ending: Ending) -> bool:
        """The stream broke off: whose stanzas are unacknowledged waits for it, if anybody; all others go another way."""
        owed = self._owed()
        for lent in self._lent.values():
            if lent.listener is not None and not owed[lent]:
                listener, lent.listener = lent.listener, None
                listener.stream_lost(ending)
        for listener in self._listeners():
            listener.stream_broken(ending)
        return bool(owed)

    def go_on(self, former: Lending, count: int) -> None:
        """Stanzas go back here from where `former` broke off; the other side has `count` more of them."""
        former._acknowledged(count)
        waiting = {lent: lent.listener for lent in former._lent.values() if lent.listener is not None}
        again = {lent: iter(listener.again()) for lent, listener in waiting.items()}
        data: list[bytes] = []
        for lent, number in former._written:
            data += islice(again[lent], number)
            self._written.append((self._lent[lent.pair], number))
        if data:
            self.connection.write(b"".join(data))
        for lent, listener in waiting.items():
            listener.stream_resumed(self._lent[lent.pair])

    def _listeners(self) -> list[Listener]:
        return [lent.listener for lent in self._lent.values() if lent.listener is not None]
