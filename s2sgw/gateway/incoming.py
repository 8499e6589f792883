"""What comes in on a stream, whoever opened it: its stanzas on their way to their lanes, and which of them are safe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall

from s2sgw.gateway.duplicates import Tail
from s2sgw.gateway.entry import Entrance, Entry, Waiting
from s2sgw.gateway.handled import HandledStanzas
from s2sgw.gateway.record import Direction, Leg
from s2sgw.net.connection import StreamConnection
from s2sgw.queue.held import Receipt
from s2sgw.stream.events import Event
from s2sgw.stream.management import Counters
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: Seconds within which what came on a stream must be in safe hands, once the other side has closed it, to be acknowledged.
PARTING = 2.0


class Acknowledging(Protocol):
    """What is needed of the engine."""

    def handled(self, number: int) -> list[Event]: ...


class Incoming:
    """The stanzas of one stream on `leg`. `admit` says why those of a pair must not reach a lane, `senders` who sends here."""

    def __init__(
        self, entrance: Entrance, connection: StreamConnection, engine: Acknowledging, leg: Leg,
        admit: Callable[[Pair], Awaitable[Ending | None]], senders: Callable[[], Collection[Domain]],
    ) -> None:
        self._entrance = entrance
        self._connection = connection
        self._engine = engine
        self._leg: Leg = leg
        self._admit = admit
        self._senders = senders
        self._entries: dict[Pair, Entry] = {}
        self._waiting = Waiting()
        self._handled: HandledStanzas | None = None
        self._tail: Tail | None = None
        self._late: IDelayedCall | None = None

    def stanzas(self, pair: Pair, stanzas: list[Stanza]) -> None:
        """A run of stanzas of a proven pair."""
        entry = self._entries.get(pair)
        if entry is None:
            entry = self._entries[pair] = Entry(
                self._entrance, self._connection, self._leg, pair, self._admit, self._alone, self._waiting,
            )
        receipt = None if self._handled is None else self._handled.receipt(len(stanzas))
        fresh = self._entrance.duplicates.fresh(pair.sender, stanzas)
        if len(fresh) < len(stanzas):
            self._again(stanzas, len(stanzas) - len(fresh), receipt)
        if self._tail is not None:
            self._tail.note(fresh)
        if fresh:
            entry.accept(fresh, receipt)

    def _again(self, stanzas: list[Stanza], number: int, receipt: Receipt | None) -> None:
        """So many of `stanzas` had come before their sender lost its stream: they are not passed on twice."""
        self._entrance.record.counted(self._direction, "duplicate", stanzas[:number])
        if receipt is not None:
            receipt.settle(number)

    @property
    def _direction(self) -> Direction:
        return "inbound" if self._leg == "federation" else "outbound"

    def _alone(self) -> bool:
        """No stream but of one sender: slowing it slows nobody else."""
        return len(self._senders()) == 1

    def managed(self) -> None:
        """From now on the other side hears which of its stanzas are in safe hands (XEP-0198)."""
        self._tail = Tail()
        self._handled = HandledStanzas(self._tell)

    def _tell(self, number: int) -> None:
        self._connection.step(self._engine.handled, number)

    def part(self, ending: Ending) -> None:
        """The other side has closed the stream, and hears which of its stanzas are in safe hands before we do so too."""
        self._late = self._entrance.lanes.clock.callLater(PARTING, self._connection.close, ending)

    def reconsider(self) -> None:
        """The policy has changed: pairs are admitted anew."""
        for entry in self._entries.values():
            entry.reconsider()

    def forget_resting(self, before: float) -> None:
        """On a stream that lasts: pairs of which nothing has come since `before` are admitted anew when they come again."""
        for pair in [pair for pair, entry in self._entries.items() if entry.rests(before)]:
            self._entries.pop(pair).close()

    def close(self, ending: Ending) -> None:
        """The stream is gone."""
        self._leave()
        if self._late is not None and self._late.active():
            self._late.cancel()
        if not ending.in_order or (self._handled is not None and self._handled.open):
            self.forget()

    def _leave(self) -> None:
        for entry in self._entries.values():
            entry.close()

    # --- resumption (XEP-0198 §5) ---

    def suspend(self, counters: Counters) -> None:
        """The stream broke off and may be resumed: what becomes of that which came on it is counted on all the same."""
        if self._handled is not None:
            self._handled.tell = lambda number: counters.handle(number, 0)
        self._leave()

    def inherit(self, former: Incoming) -> None:
        """This stream goes on with the one of `former`."""
        self._handled, self._tail = former._handled, former._tail
        if self._handled is not None:
            self._handled.tell = self._tell

    def forget(self) -> None:
        """Whatever came and was not acknowledged may come again on any stream."""
        if self._tail is not None:
            for sender in self._senders():
                self._entrance.duplicates.lost(sender, self._tail)
