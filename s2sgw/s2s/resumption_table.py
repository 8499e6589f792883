"""Streams of the other side that broke off, ended by neither side, and may be resumed (XEP-0198 §5).

They are kept for a while. To resume one, the other side names the id that it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.outbound_stream import BIDI_RESUME_SECONDS
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.reporting.record import EventRecord, Leg
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.stream.management import Counters, Resumption
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.timer import cancel

#: Streams that broke off and are kept, in all and of one peer: the oldest gives way, and in all the oldest of the registered
#: domain that has the most. The same number of past ones is remembered.
MAX_SUSPENDED = 1000
MAX_SUSPENDED_OF_PEER = 8


class ResumableOwner(Protocol):
    """The owner of a stream of the other side."""

    incoming: StreamIngress
    shared_stream: SharedStream

    @property
    def leg(self) -> Leg: ...

    @property
    def senders(self) -> Collection[Domain]:
        """The domains whose stanzas come on the stream."""

    @property
    def pairs(self) -> frozenset[Pair]:
        """The pairs that are proven, in both directions."""

    def displace(self) -> None:
        """End the connection: the other side resumes the stream on another one."""


def proven_on(owner: ResumableOwner) -> frozenset[Pair]:
    """Return the pairs that the other side has proven on a stream, without those whose stanzas go back on it (XEP-0288)."""
    return _proven_of(owner.pairs, owner.senders)


def _proven_of(pairs: frozenset[Pair], senders: Collection[Domain]) -> frozenset[Pair]:
    return frozenset(pair for pair in pairs if pair.sender in senders)


class PastStream:
    """The last count of a stream that can no longer be resumed, and the pairs that were proven on it."""

    def __init__(self, resumption: Resumption, leg: Leg, pairs: frozenset[Pair], peers: Collection[Domain]) -> None:
        """Keep the facts. `peers`: the domains that the other side has proven. Each pair has one of them."""
        self.resumption = resumption
        self.leg = leg
        self.pairs = pairs
        self.peers = frozenset(peers)
        #: the registered domain of the other side; if it has several, the first in alphabetical order
        self.registered = min((registered_domain(peer.ascii) for peer in peers), default="")

    @cached_property
    def proven(self) -> frozenset[Pair]:
        """The pairs that the other side has proven. Stanzas of the other pairs went back (XEP-0288)."""
        return _proven_of(self.pairs, self.peers)

    def is_of(self, owner: ResumableOwner) -> bool:
        """Return whether everything that was proven on this stream is proven on that of `owner` (R35)."""
        return self.leg == owner.leg and self.proven <= owner.pairs

    def can_go_on(self, owner: ResumableOwner) -> bool:
        """Return whether the stream of `owner` carries all pairs of this one, also those whose stanzas went back on it."""
        return self.is_of(owner) and self.pairs <= owner.pairs


def _owner_of(id: str, past: PastStream) -> str:
    """Return the party that may cause any number of past streams."""
    return past.registered


class SuspendedStream(PastStream):
    """A stream that broke off and may be resumed."""

    def __init__(self, resumption: Resumption, owner: ResumableOwner) -> None:
        super().__init__(resumption, owner.leg, owner.pairs, owner.senders)
        self.incoming = owner.incoming
        self.shared_stream = owner.shared_stream
        self.timer: IDelayedCall | None = None

    def involves(self, domain: Domain) -> bool:
        """Return whether one of its pairs has `domain` as the other side of its peers."""
        return any(Pair(peer, domain) in self.pairs or Pair(domain, peer) in self.pairs for peer in self.peers)


class ResumptionTable:
    """The streams of all peers and backends that may be resumed, by id: open ones, those that broke off, and past ones.

    A stream may have 64,000 pairs, of few peers. So what broke off is found by its peers, and not by its pairs.
    """

    def __init__(self, clock: IReactorTime, record: EventRecord) -> None:
        self._clock = clock
        self._record = record
        self._open: dict[str, ResumableOwner] = {}
        self._suspended: dict[str, SuspendedStream] = {}
        self._past: FairDict[str, PastStream] = FairDict(MAX_SUSPENDED, _owner_of)
        #: a domain that the other side has proven -> the streams that broke off, by id
        self._of_peer: dict[Domain, dict[str, SuspendedStream]] = {}

    def __len__(self) -> int:
        return len(self._suspended)

    def end(self, concerns: Callable[[Pair], bool], abandoned: bool) -> None:
        """End the streams that broke off and had one of the pairs that `concerns` is true for: another node gets these pairs.

        `abandoned`: it has them already. Nothing that came for them is passed on any more.
        """
        for session in [each for each in self._suspended.values() if any(map(concerns, each.pairs))]:
            if abandoned:
                session.incoming.abandon(concerns)
            self._expire(session)

    def involves(self, domain: Domain) -> bool:
        """Return whether a stream that broke off had a pair with `domain`."""
        return domain in self._of_peer or any(session.involves(domain) for session in self._suspended.values())

    def awaits(self, pair: Pair) -> bool:
        """Return whether a stream of `pair` broke off and may still be resumed."""
        return any(pair in session.pairs for domain in pair for session in self._of_peer.get(domain, {}).values())

    def opened(self, id: str, owner: ResumableOwner) -> None:
        """Note that the stream of `owner` may be resumed from now on, if it breaks off."""
        self._open[id] = owner

    def closed(self, id: str) -> None:
        """Forget a stream that has ended for good."""
        self._open.pop(id, None)

    def keep(self, resumption: Resumption, owner: ResumableOwner, ending: Ending) -> bool:
        """Keep a stream that broke off. Return False if the stanzas that were sent on it cannot be sent again in their order.

        The stanzas that it brought are passed on last, so that no answer to them is written on this stream. The progress of the
        stream that it resumed is remembered: the other side may ask for it before it sends stanzas again.
        """
        if not owner.shared_stream.resumable:
            self._past[resumption.id] = PastStream(resumption, owner.leg, owner.pairs, owner.senders)
            return False
        session = self._suspended[resumption.id] = SuspendedStream(resumption, owner)
        for peer in session.peers:
            self._of_peer.setdefault(peer, {})[resumption.id] = session
        owner.incoming.suspend(resumption.counters)
        seconds = min(resumption.seconds, BIDI_RESUME_SECONDS) if owner.shared_stream.suspend(ending) else resumption.seconds
        session.timer = self._clock.callLater(seconds, self._expire, session)
        for excess in list(self._excess(session.peers)):
            self._expire(excess)
        owner.incoming.pass_on()
        return True

    def _excess(self, peers: frozenset[Domain]) -> Iterator[SuspendedStream]:
        """Yield the streams that give way: the oldest of each peer that has too many, and of the domain that has most in all."""
        number: Counter[Domain] = Counter(peer for each in self._suspended.values() for peer in each.peers & peers)
        for session in self._suspended.values():
            crowding = [peer for peer in session.peers if number[peer] > MAX_SUSPENDED_OF_PEER]
            if crowding:
                number.subtract(crowding)
                yield session
        if len(self._suspended) > MAX_SUSPENDED:
            numbers = Counter(each.registered for each in self._suspended.values())
            most = max(numbers.values())
            yield next(each for each in self._suspended.values() if numbers[each.registered] == most)

    def _expire(self, session: SuspendedStream) -> None:
        """End a stream that was not resumed. Only its progress is remembered."""
        self._take(session.resumption.id)
        self._past[session.resumption.id] = PastStream(session.resumption, session.leg, session.pairs, session.peers)
        self._record.resumption("receiving", "expired")
        session.incoming.forget()
        session.shared_stream.lost(Ending(Cause.CONNECTION_LOST, "the stream was not resumed in time"))

    def claim(self, id: str, owner: ResumableOwner) -> tuple[Resumption | None, Counters | None]:
        """Return the stream that `owner` resumes as `id`; if it cannot be resumed, its progress, where that is known.

        A stream that is still open is taken over (XEP-0198 §5). `resumed` follows in the same turn of the reactor.
        """
        session = self._find(id, owner)
        # a user left it, and what is in doubt went another way; or stanzas went back on it, and cannot on the new one
        if session is not None and not (session.shared_stream.resumable and session.can_go_on(owner)):
            self._expire(session)
            session = None
        if session is not None:
            return session.resumption, None
        self._record.resumption("receiving", "refused")
        past = self._past.get(id)
        return None, past.resumption.counters if past is not None and past.is_of(owner) else None

    def _find(self, id: str, owner: ResumableOwner) -> SuspendedStream | None:
        former = self._open.get(id)
        if former is not None and former.leg == owner.leg and proven_on(former) <= owner.pairs:
            former.displace()
        session = self._suspended.get(id)
        return session if session is not None and session.is_of(owner) else None

    def resumed(self, id: str, owner: ResumableOwner, count: int) -> None:
        """Note that the stream goes on with `owner`. The other side has `count` more of the stanzas that were sent back on it."""
        session = self._take(id)
        self._open[id] = owner
        self._record.resumption("receiving", "resumed")
        owner.incoming.continue_from(session.incoming)
        owner.shared_stream.continue_from(session.shared_stream.hand_over(count))

    def _take(self, id: str) -> SuspendedStream:
        session = self._suspended.pop(id)
        for peer in session.peers:
            streams = self._of_peer[peer]
            del streams[id]
            if not streams:
                del self._of_peer[peer]
        cancel(session.timer)
        session.timer = None  # it refers back to the session
        return session
