"""What comes in on a stream, whoever opened it: its stanzas on their way to their lanes, and which of them are safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall

from s2sgw.ingress.duplicates import RecentStanzas
from s2sgw.ingress.pair_ingress import HeldBytes, IngressServices, PairAdmission, PairIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.queue.entries import UpstreamAck
from s2sgw.reporting.record import Direction, Leg
from s2sgw.stream.events import Event
from s2sgw.stream.management import Counters
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: Seconds within which what came on a stream must be in safe hands, once the other side has closed it, to be acknowledged.
PARTING = 2.0


class AcknowledgingEngine(Protocol):
    """What is needed of the engine."""

    def handled(self, number: int) -> list[Event]: ...


class StreamIngress:
    """The stanzas of one stream on `leg`.

    `admission` says whether those of a pair may enter a queue. `senders` are the domains that send here; its owner adds to it.
    """

    def __init__(
        self, ingress_services: IngressServices, connection: StreamConnection, engine: AcknowledgingEngine, leg: Leg,
        admission: PairAdmission, senders: Collection[Domain],
    ) -> None:
        self._ingress_services = ingress_services
        self._connection = connection
        self._engine = engine
        self._leg: Leg = leg
        self._admission_of = admission
        self._senders = senders
        self._entries: dict[Pair, PairIngress] = {}
        self._waiting = HeldBytes()
        self._handled: HandledPrefix | None = None
        self._tail: RecentStanzas | None = None
        self._late: IDelayedCall | None = None

    def stanzas(self, pair: Pair, stanzas: list[Stanza]) -> None:
        """A run of stanzas of a proven pair."""
        entry = self._entries.get(pair)
        if entry is None:
            entry = self._entries[pair] = PairIngress(
                self._ingress_services, self._connection, self._leg, pair, self._admission_of, self._senders, self._waiting,
            )
        upstream_ack = None if self._handled is None else self._handled.upstream_ack(len(stanzas))
        fresh = self._ingress_services.duplicates.fresh(pair.sender, stanzas)
        if len(fresh) < len(stanzas):
            self._again(stanzas, len(stanzas) - len(fresh), upstream_ack)
        if self._tail is not None:
            self._tail.note(fresh)
        if fresh:
            entry.accept(fresh, upstream_ack)

    def _again(self, stanzas: list[Stanza], number: int, upstream_ack: UpstreamAck | None) -> None:
        """So many of `stanzas` had come before their sender lost its stream: they are not passed on twice."""
        self._ingress_services.record.counted(self._direction, "duplicate", stanzas[:number])
        if upstream_ack is not None:
            upstream_ack.settle(number)

    @property
    def _direction(self) -> Direction:
        return "inbound" if self._leg == "federation" else "outbound"

    def managed(self) -> None:
        """From now on the other side hears which of its stanzas are in safe hands (XEP-0198)."""
        self._tail = RecentStanzas()
        self._handled = HandledPrefix(self._tell)

    def _tell(self, number: int) -> None:
        self._connection.step(self._engine.handled, number)

    def part(self, ending: Ending) -> None:
        """The other side has closed the stream, and hears which of its stanzas are in safe hands before we do so too."""
        self._late = self._ingress_services.queues.clock.callLater(PARTING, self._connection.close, ending)

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
        if self._handled is not None:
            self._handled.tell = _tell_nobody  # it refers back here

    def _leave(self) -> None:
        for entry in self._entries.values():
            entry.close()

    # --- resumption (XEP-0198 §5) ---

    def suspend(self, counters: Counters) -> None:
        """The stream broke off and may be resumed: what becomes of that which came on it is counted on all the same."""
        if self._handled is not None:
            self._handled.tell = lambda number: counters.handle(number, 0)
        self._leave()

    def inherit(self, former: StreamIngress) -> None:
        """This stream goes on with the one of `former`."""
        self._handled, self._tail = former._handled, former._tail
        if self._handled is not None:
            self._handled.tell = self._tell

    def forget(self) -> None:
        """Whatever came and was not acknowledged may come again on any stream."""
        if self._tail is not None:
            for sender in self._senders:
                self._ingress_services.duplicates.lost(sender, self._tail)


def _tell_nobody(number: int) -> None:
    """The stream is gone: nobody is there to be acknowledged to."""


# What of an accepted stream is in safe hands: the longest prefix over all its pairs, however their runs settle (R35).
class HandledPrefix:
    """Gives out a receipt for each run of stanzas; `tell(number)` hears how many more, from the first on, are settled."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self.tell = tell
        self._open: deque[UpstreamAck] = deque()

    @property
    def open(self) -> bool:
        """Some are not settled, so that their sender does not know what became of them."""
        return bool(self._open)

    def upstream_ack(self, total: int) -> UpstreamAck:
        """For the next `total` stanzas of the stream."""
        upstream_ack = UpstreamAck(total, self._settled)
        self._open.append(upstream_ack)
        return upstream_ack

    def _settled(self) -> None:
        number = 0
        while self._open and not self._open[0].left:
            number += self._open.popleft().total
        if number:
            self.tell(number)
