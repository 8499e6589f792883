"""The bound on the streams that one peer may have open towards us (`limits.streams`).

Only proven streams count. The limit is checked when the peer has proven itself, or is about to by a certificate that proves it.
Claims of strangers change nothing (`net.admission` bounds them). After a restart of its machine, a peer may have streams open
that only we still hold. Before the peer is refused, these streams are asked for a sign of life, and the stalest without one is
ended.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from s2sgw.net.connection import StreamConnection
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

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


class AcceptedStreamLimit:
    """The limit of streams of one peer that are open at once."""

    def __init__(self, clock: IReactorTime, streams: ProvenStreams) -> None:
        self._clock = clock
        self._streams = streams

    def excess(self, peer: Domain, limit: int, besides: StreamConnection) -> Ending | None:
        """Return why `peer` may have no stream more besides the one on this connection; None where it may."""
        number = len(self._others(peer, besides))
        if number < limit:
            return None
        return Ending(Cause.TOO_MANY_STREAMS, f"{number} streams are open, all of them proven; at most {limit} at a time")

    async def room(self, peer: Domain, limit: int, besides: StreamConnection) -> Ending | None:
        """Do as `excess`, but first end the stalest streams that give no sign of life, until there is room."""
        if self.excess(peer, limit, besides) is not None:
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
            if not silent or self.excess(peer, limit, besides) is None:
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
