"""The bounds on the streams that one peer, and one registered domain, may have open towards us.

The bound of a peer is `limits.streams` of its policy. A registered domain, with all peers below it, may have `SHARE` of
`limits.connections`, and at most as many as are free for the others. So one party, who can prove any number of names from any
number of addresses, cannot take the connections of all: there is always room for one more domain.

Only proven streams count. The limit is checked when the peer has proven itself, or is about to by a certificate that proves it.
Claims of strangers change nothing (`net.admission` bounds them). After a restart of its machine, a peer may have streams open
that only we still hold. Before the peer is refused, these streams are asked for a sign of life, and the stalest without one is
ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from operator import attrgetter
from typing import Protocol

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
#: Seconds that a stream has to give a sign of life, and seconds between two looks whether it has.
PING_SECONDS = 2.0
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

    def excess(self, peer: Domain, limit: int, besides: StreamConnection) -> Ending | None:
        """Return why `peer` may have no stream more besides the one on this connection; None where it may."""
        number = len(self._others(peer, besides))
        if number >= limit:
            return Ending(Cause.TOO_MANY_STREAMS, f"{number} streams are open, all of them proven; at most {limit} at a time")
        return self._excess_of_all(registered_domain(peer.ascii), besides)

    def _excess_of_all(self, registered: str, besides: StreamConnection) -> Ending | None:
        """Return why a registered domain may have no connection more."""
        total = self._connections.limits.total
        share = max(1, min(total // SHARE, total - self._connections.proven))
        streams = self._streams.below(registered)
        if not total or len(streams) < share or sum(stream.connection is not besides for stream in streams) < share:
            return None
        self._on_limit("connections")
        text = f"{len(streams)} connections of {registered}, with all its sub-domains, are open; their share is {share} at a time"
        return Ending(Cause.TOO_MANY_STREAMS, text)

    async def room(self, peer: Domain, limit: int, besides: StreamConnection) -> Ending | None:
        """Do as `excess`, but first end the stalest streams that give no sign of life, until there is room."""
        if len(self._others(peer, besides)) >= limit:
            dead = await self._silent(peer, limit, besides)
            too_many = len(self._others(peer, besides)) - limit + 1
            for stream in sorted(dead, key=attrgetter("connection.last_received"))[: max(0, too_many)]:
                text = f"it gave no sign of life for {PING_SECONDS:g} s, and its peer has opened another stream"
                stream.connection.abort(Ending(Cause.UNRESPONSIVE, text, "them"))
        return self.excess(peer, limit, besides)

    async def _silent(self, peer: Domain, limit: int, besides: StreamConnection) -> list[ProvenStream]:
        """Return the streams of `peer` that answer nothing; none once there is room, since some have ended."""
        asked = {stream: self._clock.seconds() for stream in self._others(peer, besides)}
        for stream in asked:
            stream.connection.keep_alive(REQUEST if stream.managed else b" ")
        for _ in range(int(PING_SECONDS / LOOK)):
            await deferLater(self._clock, LOOK)
            silent = [stream for stream, at in asked.items() if _is_silent(stream, at)]
            if not silent or len(self._others(peer, besides)) < limit:
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
