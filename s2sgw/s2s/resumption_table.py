"""Streams towards us that broke off, ended by neither side, and may be resumed (XEP-0198 §5): they are kept for a while, and
claimed by the id that their peer was given.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.outbound_stream import BIDI_RESUME_SECONDS
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.reporting.record import EventRecord, Leg
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.stream.management import Counters, Resumption
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair

#: Broken streams of peers that are kept, in all and of one peer: the oldest goes first. As many past ones are remembered.
IN_ALL = 1000
PER_PEER = 8


class ResumableOwner(Protocol):
    """Of a stream towards us."""

    incoming: StreamIngress
    shared_stream: SharedStream

    @property
    def leg(self) -> Leg: ...

    @property
    def senders(self) -> set[Domain]:
        """Whose stanzas come here."""

    @property
    def pairs(self) -> frozenset[Pair]:
        """Those proven, in both directions."""

    def displace(self) -> None:
        """The other side goes on with this stream elsewhere: it breaks off now."""


class PastStream:
    """How far a stream had come that can no longer be resumed, and whose it was."""

    def __init__(self, leg: Leg, pairs: frozenset[Pair], resumption: Resumption) -> None:
        self.leg = leg
        self.pairs = pairs
        self.resumption = resumption

    def is_of(self, owner: ResumableOwner) -> bool:
        """Whether `owner` has proven as much as this stream had (R35)."""
        return self.leg == owner.leg and self.pairs <= owner.pairs


class SuspendedStream(PastStream):
    """What a stream that broke off left behind, to be resumed."""

    def __init__(self, resumption: Resumption, owner: ResumableOwner) -> None:
        super().__init__(owner.leg, owner.pairs, resumption)
        self.peers = set(owner.senders)
        self.incoming = owner.incoming
        self.shared_stream = owner.shared_stream
        self.timer: IDelayedCall | None = None


class ResumptionTable:
    """Those of peers and backends, by id."""

    def __init__(self, clock: IReactorTime, record: EventRecord) -> None:
        self._clock = clock
        self._record = record
        self._open: dict[str, ResumableOwner] = {}
        self._broken: OrderedDict[str, SuspendedStream] = OrderedDict()
        self._past: OrderedDict[str, PastStream] = OrderedDict()
        self._awaited: Counter[Pair] = Counter()

    def __len__(self) -> int:
        return len(self._broken)

    def awaits(self, pair: Pair) -> bool:
        """Whether a stream of `pair` broke off, and may still be resumed."""
        return pair in self._awaited

    def opened(self, id: str, owner: ResumableOwner) -> None:
        """A stream may be resumed from now on, should it break off."""
        self._open[id] = owner

    def closed(self, id: str) -> None:
        """It has come to its end."""
        self._open.pop(id, None)

    def keep(self, resumption: Resumption, owner: ResumableOwner, ending: Ending) -> bool:
        """It broke off; False: what was sent on it cannot be sent again in its order, so it is lost."""
        if not owner.shared_stream.resumable:
            return False
        session = self._broken[resumption.id] = SuspendedStream(resumption, owner)
        self._awaited.update(session.pairs)
        owner.incoming.suspend(resumption.counters)
        seconds = min(resumption.seconds, BIDI_RESUME_SECONDS) if owner.shared_stream.suspend(ending) else resumption.seconds
        session.timer = self._clock.callLater(seconds, self._expire, session)
        for excess in list(self._excess(session.peers)):
            self._expire(excess)
        return True

    def _excess(self, peers: set[Domain]) -> Iterator[SuspendedStream]:
        """Those that have to give way: the oldest, of whoever has too many, or of all."""
        number: Counter[Domain] = Counter(peer for each in self._broken.values() for peer in each.peers & peers)
        for session in self._broken.values():
            crowding = [peer for peer in session.peers if number[peer] > PER_PEER]
            if crowding:
                number.subtract(crowding)
                yield session
        if len(self._broken) > IN_ALL:
            yield next(iter(self._broken.values()))

    def _expire(self, session: SuspendedStream) -> None:
        """Nobody came back for it: all that is remembered is how much of it arrived."""
        self._take(session.resumption.id)
        self._past[session.resumption.id] = PastStream(session.leg, session.pairs, session.resumption)
        if len(self._past) > IN_ALL:
            self._past.popitem(last=False)
        self._record.resumption("receiving", "expired")
        session.incoming.forget()
        session.shared_stream.lost(Ending(Cause.CONNECTION_LOST, "the stream was not resumed in time"))

    def claim(self, id: str, owner: ResumableOwner) -> tuple[Resumption | None, Counters | None]:
        """By what `owner`'s stream goes on with the one called `id`; else how far that had come, where it is a past one.

        One that is open still is taken over (XEP-0198 §5).
        """
        session = self._find(id, owner)
        if session is not None:
            return session.resumption, None
        self._record.resumption("receiving", "refused")
        past = self._past.get(id)
        return None, past.resumption.counters if past is not None and past.is_of(owner) else None

    def _find(self, id: str, owner: ResumableOwner) -> SuspendedStream | None:
        former = self._open.get(id)
        if former is not None and former.leg == owner.leg and former.pairs <= owner.pairs:
            former.displace()
        session = self._broken.get(id)
        return session if session is not None and session.is_of(owner) else None

    def resumed(self, id: str, owner: ResumableOwner, count: int) -> None:
        """It goes on with `owner`, and its other side has `count` more of what was sent back there."""
        session = self._take(id)
        self._open[id] = owner
        self._record.resumption("receiving", "resumed")
        owner.incoming.inherit(session.incoming)
        owner.shared_stream.go_on(session.shared_stream, count)

    def _take(self, id: str) -> SuspendedStream:
        session = self._broken.pop(id)
        self._awaited -= Counter(session.pairs)
        if session.timer is not None and session.timer.active():
            session.timer.cancel()
        session.timer = None  # it refers back to the session
        return session
