"""Every accepted stream that is open, for operators and for the limits of each peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from s2sgw.gateway.accepted import AcceptedStream
from s2sgw.gateway.entry import Entrance
from s2sgw.gateway.lending import Lent
from s2sgw.gateway.sides import ReceivingSide
from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.jid import Domain, Pair


class AcceptedStreams:
    """Makes the connection for each accepted transport, and knows all that are open."""

    def __init__(self, entrance: Entrance, connection: Callable[..., StreamConnection], woken: Callable[[Domain], None]) -> None:
        """`woken` hears of every domain that proves itself, before the lanes to it do."""
        self._entrance = entrance
        self._woken = woken
        self._connection = connection
        self._open: dict[StreamConnection, AcceptedStream] = {}

    def __iter__(self) -> Iterator[tuple[StreamConnection, AcceptedStream]]:
        return iter(list(self._open.items()))

    def accept(self, side: ReceivingSide, direct_tls: bool = False) -> StreamConnection:
        """The protocol for one accepted transport."""
        engine = side.engine(direct_tls)
        owner = AcceptedStream(side, engine, self._entrance, self._proven, self._gone)
        connection = self._connection(engine, owner, role="receiving", tls=side.tls, direct_tls=direct_tls)
        self._open[connection] = owner
        return connection

    def count(self, peer: Domain) -> int:
        """How many open streams of the federation leg `peer` claims or has proven."""
        return sum(owner.peer == peer and owner.side.leg == "federation" for owner in self._open.values())

    def ends(self, pair: Pair) -> tuple[str, str] | None:
        """The addresses, theirs and ours, of an open stream on which `pair` was proven."""
        for connection, owner in self._open.items():
            if pair in owner.methods:
                return connection.peer_address, connection.local_address
        return None

    def _proven(self, side: ReceivingSide, pair: Pair) -> None:
        self._woken(pair.sender)
        self._entrance.lanes.contact(pair.sender)

    def lent(self, pair: Pair) -> Lent | None:
        """A stream of theirs that may carry `pair` back and does not yet (XEP-0288)."""
        found = (owner.lending.of(pair) for owner in self._open.values() if owner.side.leg == "federation" and owner.reachable)
        return next((lent for lent in found if lent is not None), None)

    def _gone(self, connection: StreamConnection) -> None:
        self._open.pop(connection, None)
