"""Every accepted stream that is open, for operators and for the limits of each peer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic, Protocol, TypeVar

from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.net.admission import AdmittedConnection
from s2sgw.net.connection import StreamConnection
from s2sgw.net.fair_slots import Owner
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.legs import ReceivingLeg
from s2sgw.s2s.owners import owner_by_name
from s2sgw.s2s.resumption_table import ResumptionTable
from s2sgw.s2s.shared_stream import PairStream
from s2sgw.stream.receiving import ReceivingStream
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain


class AcceptedConnections(Protocol):
    """Makes connections."""

    def accept(self, engine: ReceivingStream, owner: AcceptedStream, **options: Any) -> StreamConnection:
        """Return the connection of a stream that is opened towards us. It has no transport yet."""


class PeerContact(Protocol):
    """The receiver of news about peers that proved themselves. It is called before the queues to these peers are."""

    def contacted(self, peer: Domain) -> None:
        """`peer` proved itself."""


class AcceptedStreams:
    """Makes the connection for each accepted transport, and lists all that are open."""

    def __init__(
        self, ingress_services: IngressServices, connections: AcceptedConnections, contact: PeerContact,
    ) -> None:
        """Take the services. `woken` is called for every domain that proves itself, before the queues to it are."""
        self._ingress_services = ingress_services
        self._peer_contact = contact
        self._connections = connections
        self._open: dict[StreamConnection, AcceptedStream] = {}
        #: those that broke off and may be resumed
        self.sessions = ResumptionTable(ingress_services.clock, ingress_services.record)
        # a new stream or queue must not cost a walk over all open streams; of the federation leg
        self._of_peer: Index[Domain] = Index()
        self._of_registered: Index[str] = Index()
        self._proven: Index[Pair] = Index()
        self._carrying: Index[Pair] = Index()
        #: those of both legs by home, if there are several nodes (`index_by`)
        self._home: Callable[[Pair], Domain] | None = None
        self._of_home: Index[Domain] = Index()
        self._closing: dict[Domain, dict[StreamConnection, None]] = {}

    def index_by(self, home: Callable[[Pair], Domain]) -> None:
        """List the streams by `home` of their pairs from now on (`of_home`). Call this before the first stream."""
        self._home = home

    def of_home(self, home: Domain) -> Collection[AcceptedStream]:
        """Return the open streams of both legs on which a pair with this home is proven, or goes back."""
        return self._of_home.get(home)

    def closing_of_home(self, home: Domain) -> Collection[StreamConnection]:
        """Return the connections of streams on which pairs with this home went back, and that are being closed."""
        return self._closing.get(home, {})

    def __iter__(self) -> Iterator[tuple[StreamConnection, AcceptedStream]]:
        return iter(list(self._open.items()))

    def accept(
        self, side: ReceivingLeg, direct_tls: bool = False, admitted: AdmittedConnection | None = None,
    ) -> StreamConnection:
        """Return the protocol for one accepted transport; `admitted` is told of what its stream claims and proves."""
        engine = side.engine(direct_tls)
        owner = AcceptedStream(side, engine, self._ingress_services, self, admitted)
        connection = self._connections.accept(engine, owner, role="receiving", tls=side.tls, direct_tls=direct_tls)
        self._open[connection] = owner
        return connection

    def of_peer(self, peer: Domain) -> Collection[AcceptedStream]:
        """Return the open streams of the federation leg on which `peer` has proven itself, the first proof first."""
        return self._of_peer.get(peer)

    def below(self, registered: str) -> Collection[AcceptedStream]:
        """Return the open streams of the federation leg on which any peer of a registered domain has proven itself."""
        return self._of_registered.get(registered)

    def ends(self, pair: Pair) -> tuple[str, str] | None:
        """Return the addresses, theirs and ours, of an open stream on which `pair` was proven."""
        connection = next((stream.shared_stream.connection for stream in self._proven.get(pair)), None)
        return None if connection is None else (connection.peer_address, connection.local_address)

    def owner(self, pair: Pair) -> Owner:
        """Return the owner of `pair`: by what was proven first on the newest open stream of it, else by the sender's name."""
        stream = next(reversed(list(self._proven.get(pair))), None)
        return owner_by_name(pair.sender if stream is None else next(iter(stream.methods)).sender)

    def pair_stream(self, pair: Pair, alone: bool = False) -> PairStream | None:
        """Return the newest stream of theirs that may carry `pair` back and does not yet (XEP-0288): older ones may be dead.

        `alone`: only one that carries no other pair.
        """
        awaited = self.sessions.awaits(pair)  # then what was lent by a stream that broke off goes first
        newest = reversed(list(self._carrying.get(pair)))
        found = (owner.shared_stream.for_pair(pair, alone) for owner in newest if owner.engine.managed or not awaited)
        return next((pair_stream for pair_stream in found if pair_stream is not None), None)

    # --- reports of the streams (`s2s.accepted_stream.Register`) ---

    def proves(self, stream: AcceptedStream, connection: StreamConnection, pair: Pair) -> None:
        """Retry what waits for the peer: it has contacted us, so it is there."""
        if stream.side.leg == "federation":
            self._proven.add(pair, stream)
            self._of_peer.add(pair.sender, stream)
            self._of_registered.add(registered_domain(pair.sender.ascii), stream)
        if self._home is not None:
            self._of_home.add(self._home(pair), stream)
        self._contact(pair.sender)

    def carries(self, stream: AcceptedStream, pair: Pair) -> None:
        """Use the stream for stanzas of `pair` that go back."""
        if stream.side.leg == "federation":
            self._carrying.add(pair, stream)
        if self._home is not None:
            self._of_home.add(self._home(pair), stream)
        self._contact(pair.recipient)

    def resumes(self, stream: AcceptedStream) -> None:
        """Note that the stream goes on with one that broke off."""
        for pair in stream.carried:
            self._contact(pair.recipient)

    def gone(self, stream: AcceptedStream, connection: StreamConnection) -> None:
        """Forget the stream."""
        self._open.pop(connection, None)
        for pair in stream.methods:
            self._proven.discard(pair, stream)
            self._of_peer.discard(pair.sender, stream)
            self._of_registered.discard(registered_domain(pair.sender.ascii), stream)
        for pair in stream.carried:
            self._carrying.discard(pair, stream)
        if self._home is not None:
            for pair in (*stream.methods, *stream.carried):
                self._of_home.discard(self._home(pair), stream)
            for home in {self._home(pair) for pair in stream.carried}:
                self._closing.setdefault(home, {})[connection] = None
                connection.when_closed().addCallback(self._closed, connection, home)

    def _closed(self, _: None, connection: StreamConnection, home: Domain) -> None:
        closing = self._closing[home]
        closing.pop(connection, None)
        if not closing:
            del self._closing[home]

    def _contact(self, peer: Domain) -> None:
        self._peer_contact.contacted(peer)
        self._ingress_services.queues.retry_now(peer)


IndexKey = TypeVar("IndexKey", Domain, Pair, str)


class Index(Generic[IndexKey]):
    """The streams of each key, in the order in which they were added. A key without streams is forgotten.

    A peer may prove thousands of pairs, each on one stream. So a key with one stream has no table.
    """

    def __init__(self) -> None:
        self._streams: dict[IndexKey, AcceptedStream | dict[AcceptedStream, None]] = {}

    def get(self, key: IndexKey) -> Collection[AcceptedStream]:
        """Return the streams of `key`."""
        found = self._streams.get(key, {})
        return found if isinstance(found, dict) else (found,)

    def add(self, key: IndexKey | None, stream: AcceptedStream) -> None:
        """Enter `stream` under `key`."""
        if key is None:
            return
        found = self._streams.setdefault(key, stream)
        if isinstance(found, dict):
            found[stream] = None
        elif found is not stream:
            self._streams[key] = {found: None, stream: None}

    def discard(self, key: IndexKey | None, stream: AcceptedStream) -> None:
        """Remove it, if it is there."""
        found = None if key is None else self._streams.get(key)
        if key is None or found is None:
            return
        if isinstance(found, dict):
            found.pop(stream, None)
        if found is stream or not found:
            del self._streams[key]
