"""All streams and lanes of one peer: what waits for it, and what an operator's word about its key does to them."""

from __future__ import annotations

from collections.abc import Iterator

from s2sgw.gateway.courier import Courier
from s2sgw.gateway.keys import key_of
from s2sgw.gateway.lanes import Lanes
from s2sgw.gateway.streams import AcceptedStreams
from s2sgw.net.connection import StreamConnection
from s2sgw.stream.events import Refusal
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain


class PeerStreams:
    """Finds them at the moment of the question."""

    def __init__(self, lanes: Lanes, accepted: AcceptedStreams) -> None:
        self._lanes = lanes
        self._accepted = accepted

    def waiting(self, peer: Domain) -> int:
        """Stanzas that wait for the peer, in memory or on disk."""
        return sum(len(flow.lane) for flow in self._lanes if flow.pair.recipient == peer)

    def wake(self, peer: Domain) -> None:
        """Try again at once to reach the peer, whatever is known of it."""
        self._lanes.contact(peer, urged=True)

    def close(self, peer: Domain, key: Fingerprint) -> int:
        """Close what the peer's key had opened; how many streams."""
        text = "the approval of this key was revoked here"
        condition = StreamCondition.POLICY_VIOLATION
        closed = [each for each in dict.fromkeys(self._connections(peer)) if key_of(each.chain) == key and each.ending is None]
        for connection in closed:
            connection.fail(Refusal(condition, text, Ending(Cause.KEY_REVOKED, text, condition=condition.value)))
        return len(closed)

    def _connections(self, peer: Domain) -> Iterator[StreamConnection]:
        for connection, owner in self._accepted:
            if owner.peer == peer and owner.side.leg == "federation":
                yield connection
        for flow in self._lanes:
            stream = flow.hop.stream if isinstance(flow.hop, Courier) else None
            if stream is not None and stream.side.leg == "federation" and flow.pair.recipient == peer:
                yield stream.connection
