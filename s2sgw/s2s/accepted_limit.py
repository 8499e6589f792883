"""The bounds on the streams that one peer, and one registered domain, may have open towards us.

The bound of a peer is `limits.streams` of its policy. A registered domain, with all peers below it, may have `SHARE` of
`limits.connections`, and at most as many as are free for the others. So one party, who can prove any number of names from any
number of addresses, cannot take the connections of all: there is always room for one more domain.

Only proven streams count. The limit is checked when the peer has proven itself, or is about to by a certificate that proves it.
Claims of strangers change nothing (`net.admission` bounds them). After a restart of its machine, a peer may have streams open
that only we still hold. Before the peer is refused, these streams are asked for a sign of life, and the stalest without one is
ended. The same holds for a registered domain, of whose streams a few are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from heapq import nsmallest
from math import inf
from operator import attrgetter
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from s2sgw.net.admission import ConnectionLimits
from s2sgw.net.connection import StreamConnection
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain

#: The part of all connections that the peers of one registered domain may have: one of so many.
SHARE = 4
#: Streams of a registered domain that are asked for a sign of life at once: those that were silent longest, of perhaps thousands.
ASKED = 16
#: Seconds that a stream has to give a sign of life, and seconds between two looks whether it has.
PING_SECONDS = 2.0
#: Seconds for which a newcomer is expected to prove itself, after room was made for it.
PROOF_SECONDS = 10.0
LOOK = 0.1


class ProvenStream(Protocol):
    """The facts about a stream on which a peer has proven itself."""

    @property
    def connection(self) -> StreamConnection: ...

    @property
    def managed(self) -> bool:
        """The other side acknowledges stanzas, and so answers `<r/>` (XEP-0198)."""


class ProvenStreams(Protocol):
    """The open streams of the federation leg."""

    def of_peer(self, peer: Domain) -> Collection[ProvenStream]:
        """Return those on which `peer` has proven itself."""

    def below(self, registered: str) -> Collection[ProvenStream]:
        """Return those on which any peer of this registered domain has proven itself."""


class OpenConnections(Protocol):
    """The number of connections, and its limit (`net.admission`)."""

    @property
    def limits(self) -> ConnectionLimits: ...

    @property
    def proven(self) -> int:
        """Return how many connections have proven a peer. The others give way to newcomers."""


class _Newcomer(NamedTuple):
    """The peer that a connection is about to prove, its registered domain, and until when that is waited for."""

    peer: Domain
    registered: str
    until: float


class AcceptedStreamLimit:
    """The limit of streams that are open at once. `on_limit` is called with the key of a limit of all connections that is hit."""

    def __init__(
        self, clock: IReactorTime, streams: ProvenStreams, connections: OpenConnections,
        on_limit: Callable[[str], None] = lambda limit: None,
    ) -> None:
        self._clock = clock
        self._streams = streams
        self._connections = connections
        self._on_limit = on_limit
        #: when streams were asked for a sign of life last
        self._asked: WeakKeyDictionary[ProvenStream, float] = WeakKeyDictionary()
        #: the newcomers for whom room was made
        self._expected: WeakKeyDictionary[StreamConnection, _Newcomer] = WeakKeyDictionary()

    def excess(self, peer: Domain, limit: int, besides: StreamConnection) -> Ending | None:
        """Return why `peer` may have no stream more besides the one on this connection; None where it may."""
        self._expected.pop(besides, None)
        number = len(self._others(peer, besides))
        if number >= limit:
            return Ending(Cause.TOO_MANY_STREAMS, f"{number} streams are open, all of them proven; at most {limit} at a time")
        registered = registered_domain(peer.ascii)
        if not self._share_is_full(registered, self._is_counted(registered, besides)):
            return None
        self._on_limit("connections")
        number = len(self._streams.below(registered))
        text = f"{number} connections of {registered}, with all its sub-domains, are open; their share is {self._share} at a time"
        return Ending(Cause.TOO_MANY_STREAMS, text)

    @property
    def _share(self) -> int:
        """Return how many connections a registered domain may have at present."""
        total = self._connections.limits.total
        return max(1, min(total // SHARE, total - self._connections.proven))

    def _share_is_full(self, registered: str, counted: bool, expected: int = 0) -> bool:
        """Return whether a registered domain may have no connection more, if so many are expected.

        `counted`: one of its streams is on the connection that asks. This is asked often, so the streams are not gone through.
        """
        number = len(self._streams.below(registered)) - counted
        return bool(self._connections.limits.total) and number + expected >= self._share

    def _is_counted(self, registered: str, besides: StreamConnection) -> bool:
        """Return whether a stream of a registered domain is on this connection."""
        return any(stream.connection is besides for stream in self._streams.below(registered))

    def _last_asked(self, stream: ProvenStream) -> float:
        """Return when the stream was asked for a sign of life, or when it last gave one: so all are asked, in turns."""
        return max(self._asked.get(stream, -inf), stream.connection.last_received)

    def _peer_has_no_room(self, peer: Domain, limit: int, besides: StreamConnection) -> bool:
        return len(self._others(peer, besides)) + sum(each.peer == peer for each in self._expected.values()) >= limit

    def _share_has_no_room(self, registered: str, counted: bool) -> bool:
        return self._share_is_full(registered, counted, sum(each.registered == registered for each in self._expected.values()))

    async def room(self, peer: Domain, limit: int, besides: StreamConnection) -> Ending | None:
        """Do as `excess`, but first end the stalest streams that give no sign of life, until there is room."""
        self._forget_newcomers(besides)
        registered = registered_domain(peer.ascii)
        peer_is_full = partial(self._peer_has_no_room, peer, limit, besides)
        share_is_full = partial(self._share_has_no_room, registered, self._is_counted(registered, besides))
        made = False
        if peer_is_full():
            made = True
            await self._make_room(peer_is_full, self._others(peer, besides), peer.ascii)
        if share_is_full() and not (made and peer_is_full()):  # nothing has changed if no room was made
            made = True
            others = (stream for stream in self._streams.below(registered) if stream.connection is not besides)
            await self._make_room(share_is_full, nsmallest(ASKED, others, key=self._last_asked), registered)
        excess = self.excess(peer, limit, besides)
        if made and excess is None:  # until it has proven the peer, others must not take its place
            self._expected[besides] = _Newcomer(peer, registered, self._clock.seconds() + PROOF_SECONDS)
        return excess

    def _forget_newcomers(self, besides: StreamConnection) -> None:
        """Forget those that have ended, or had their time to prove themselves, and `besides`, which asks again."""
        if not self._expected:
            return
        now = self._clock.seconds()
        for connection, newcomer in list(self._expected.items()):
            if connection is besides or connection.ending is not None or newcomer.until <= now:
                del self._expected[connection]

    async def _make_room(self, is_full: Callable[[], bool], streams: Collection[ProvenStream], owner: str) -> None:
        """End those of `streams`, all of `owner`, that give no sign of life, the stalest first, while `is_full` is true."""
        for stream in sorted(await self._silent(is_full, streams), key=attrgetter("connection.last_received")):
            if not is_full():
                return
            text = f"it gave no sign of life for {PING_SECONDS:g} s, and {owner} has opened another stream"
            stream.connection.abort(Ending(Cause.UNRESPONSIVE, text, "them"))

    async def _silent(self, is_full: Callable[[], bool], streams: Collection[ProvenStream]) -> list[ProvenStream]:
        """Return those of `streams` that answer nothing; none once there is room, since some have ended."""
        asked = {stream: self._clock.seconds() for stream in streams}
        self._asked.update(asked)
        for stream in asked:
            stream.connection.keep_alive(REQUEST if stream.managed else b" ")
        for _ in range(int(PING_SECONDS / LOOK)):
            await deferLater(self._clock, LOOK)
            silent = [stream for stream, at in asked.items() if _is_silent(stream, at)]
            if not silent or not is_full():
                return []
        return silent

    def _others(self, peer: Domain, besides: StreamConnection) -> list[ProvenStream]:
        return [stream for stream in self._streams.of_peer(peer) if stream.connection is not besides]


def _is_silent(stream: ProvenStream, asked: float) -> bool:
    """Return whether an open stream has answered nothing since it was asked.

    Where it acknowledges stanzas it must answer in XMPP, if we read the stream. Else nothing in XMPP must be answered, since
    stanzas go one way on it, or is not seen: then the other machine must have acknowledged what was sent.
    """
    connection = stream.connection
    if connection.ending is not None or connection.last_received > asked:
        return False
    must_answer = stream.managed and connection.read_since <= asked
    return must_answer or connection.unacknowledged_bytes != 0
