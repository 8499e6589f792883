"""The listener for other nodes, and the door before the listeners for peers and servers (docs/cluster.md).

A connection whose peer has its home on another node is handed on to the listener for nodes there. What comes there is served, and
never handed on again. A node that stops asks the homes to close the streams that it has handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, Protocol
from weakref import WeakSet

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocol
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.door import HandOn, Placement, peer_of
from s2sgw.net.admission import Admission
from s2sgw.net.dialing import ClosedAtOnce, DirectDialler
from s2sgw.net.door import DoorFactory, HandedOn
from s2sgw.net.fair_slots import FairSlots, SlotLost
from s2sgw.net.listening import BuildStream, OnRefused, SilentConnection, listen
from s2sgw.net.node_header import NodeHeaders
from s2sgw.net.proxy_protocol import Network, ProxyFactory, ProxyHeader
from s2sgw.net.site_rates import SiteRates
from s2sgw.net.sites import site_path
from s2sgw.reporting.record import Leg
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Seconds in which another node must accept a connection.
CONNECT_SECONDS = 3.0
#: Look-ups of homes under way at once, those of one address, and those that wait for a slot.
LOOK_UPS, PER_ADDRESS, LINE = 64, 8, 5000
#: Look-ups that one address of a peer may cause in a second, and at once. Beyond that its connections are served here.
RATE, BURST = 20.0, 200.0
#: Seconds for which a home on another node is remembered, and the number of peers. That a peer has none is not remembered: it
#: gets one with its first stanza.
REMEMBERED_SECONDS, REMEMBERED = 1.0, 4096

#: Seconds in which a warning of one kind is logged once, and the warnings that are logged in this time.
LOGGED_SECONDS, LOGGED = 60.0, 20
#: The remedy if nodes do not connect from, or do not accept, the addresses that they should.
MEMBERS = "cluster.members of each node must hold the address in cluster.listen of every other node"

#: The purpose in a node's header, behind the name of the door: a leg (the backend's with one of its domains), or that the streams
#: from this door should be closed.
FEDERATION, BACKEND, LEAVE = "federation", "backend ", "leave"
#: The addresses in a header that hands no connection on.
NOWHERE = HostPort("127.0.0.1", 0)
#: Streams that are closed, and connections that are reset, in one turn of the reactor.
CLOSED_PER_TURN = 50
RESET_PER_TURN = 200
#: The end of streams whose connections the other node does not hand on any more.
LEAVING = Ending(Cause.CLOSED, "the node of the gateway that took the connection stops")


class RareWarnings:
    """Logs a warning of each kind once in `LOGGED_SECONDS`, and `LOGGED` in all. The next line has the number of the others."""

    log = Logger("s2sgw")

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._ends = 0.0
        self._kinds: set[str] = set()
        self._others = 0

    def warn(self, kind: str, event: str, **facts: Any) -> None:
        """Log the event with these facts, or count it."""
        now = self._clock.seconds()
        if now >= self._ends:
            self._ends = now + LOGGED_SECONDS
            self._kinds.clear()
        if kind in self._kinds or len(self._kinds) >= LOGGED:
            self._others += 1
            return
        self._kinds.add(kind)
        others, self._others = self._others, 0
        if others:
            facts["not_logged"] = others
        self.log.warn(event=event, **facts)


class HomeLocator(Protocol):
    """Finds the homes of peers (`cluster.homes.ClusterHomes`)."""

    async def locate(self, peer: Domain) -> Placement | Ending:
        """Return where a new connection of `peer` goes. It may wait for a silent node."""


class NodeDoor:
    """Hands connections on. `key` is the secret of the nodes, `local_domains` the domains of the gateway.

    It connects from the address `source`, by which the other nodes know this one; "": the system chooses.
    Connections that are handed on end if bytes come while `may_copy` is false: this node has no lease.
    """

    def __init__(
        self, reactor: Any, homes: HomeLocator, local_domains: Container[Domain], key: bytes,
        may_copy: Callable[[], bool] = lambda: True, source: str = "",
    ) -> None:
        self._may_copy = may_copy
        #: the connections that are still to be reset since the last `close`
        self._resetting: set[HandedOn] = set()
        self.headers = NodeHeaders(key)
        #: the name of this door, by which the homes know its connections
        self.name = token_hex(8)
        #: connections that were handed on since the start, and attempts that failed
        self.number = self.failed = 0
        self._reactor = reactor
        self._homes = homes
        self._local_domains = local_domains
        self._warnings = RareWarnings(reactor)
        self._dialler = DirectDialler(reactor, timeout=CONNECT_SECONDS, sources=(source,) if source else ())
        self._slots: FairSlots[Placement | Ending] = FairSlots(
            reactor, LOOK_UPS, per_owner=PER_ADDRESS, per_line=LINE, waiting=LINE,
        )
        self._rates = SiteRates(reactor, RATE, BURST)
        #: where the connections of a peer go, and until when this is believed
        self._found: BoundedDict[Domain, tuple[float, HostPort]] = BoundedDict(REMEMBERED)
        self._nodes: dict[HostPort, str] = {}
        #: the connections that are handed on, each with its place and its peer
        self._open: dict[HandedOn, tuple[HostPort, Domain | None]] = {}
        self._left: Deferred[None] | None = None

    def may_copy(self) -> bool:
        """Return whether bytes may be copied: not after the lease, and not before the connections of that time are reset."""
        return not self._resetting and self._may_copy()

    @property
    def open(self) -> int:
        """The number of connections that are handed on and open."""
        return len(self._open)

    def factory(self, leg: Leg, build: BuildStream, admission: Admission, refused: OnRefused) -> ServerFactory:
        """Return the factory of a listener whose connections begin in clear."""
        return DoorFactory(build, admission, refused, LegPlacing(self, leg), self._dialler, self._reactor)

    def node_ended(self, node: str) -> None:
        """End the connections that were handed on to `node`, which is dead: their peers connect again at once."""
        self._found.clear()
        self._reset([each for each, (place, _) in self._open.items() if self._nodes.get(place) == node])

    def _reset(self, connections: list[HandedOn]) -> None:
        """Reset these connections, some in each turn of the reactor."""
        for connection in connections[:RESET_PER_TURN]:
            self._resetting.discard(connection)
            if connection in self._open:
                connection.abort()
        if rest := connections[RESET_PER_TURN:]:
            self._reactor.callLater(0, self._reset, rest)

    def leave(self) -> Deferred[None]:
        """Ask the homes to close the streams that were handed on. Fires when none is left; the caller bounds the time."""
        self._left = Deferred()
        if not self._open:
            self._left.callback(None)
        header = self.headers.write(NOWHERE, NOWHERE, f"{self.name} {LEAVE}")
        for place in {place for place, _ in self._open.values()}:
            self._dialler(place.host, place.port, partial(_Farewell, header)).addErrback(_not_told)
        return self._left

    def close(self) -> None:
        """End all connections that were handed on. Until then nothing is copied."""
        connections = list(self._open)
        self._resetting.update(connections)
        self._reset(connections)

    # --- for the connections ---

    def peer(self, leg: Leg, header: Header) -> Domain | None:
        """Return the peer of a stream; None: it is served here."""
        own = header.to if leg == "federation" else header.from_
        try:
            if own is None or Domain.claimed(own) not in self._local_domains:
                return None
        except InvalidJID:
            return None
        return peer_of(header, self._local_domains)

    async def look_up(self, leg: Leg, peer: Domain, address: str) -> HostPort | None:
        """Return the listener of the home of `peer`; None: the connection is served here."""
        found = self._found.get(peer)
        if found is not None and self._reactor.seconds() < found[0]:
            return found[1]
        site = site_path(address)
        if leg == "federation" and not self._rates.take(site):
            return None
        try:
            placement = await self._slots.run(site, partial(self._locate, peer))
        except SlotLost:
            return None
        if not isinstance(placement, HandOn):
            return None
        place = HostPort.parse(placement.listener, 0)
        self._nodes[place] = placement.node
        self._found[peer] = (self._reactor.seconds() + REMEMBERED_SECONDS, place)
        return place

    def _locate(self, peer: Domain) -> Deferred[Placement | Ending]:
        return Deferred.fromCoroutine(self._homes.locate(peer))

    def not_answered(self, place: HostPort) -> None:
        """Count and log a connection that was handed on to `place`, which closed it before it sent anything."""
        why = f"the node closed the connection before it sent anything: its log says why. {MEMBERS}"
        self._attempt_failed(place, why)

    def _attempt_failed(self, place: HostPort, why: str) -> None:
        self.failed += 1
        node = self._nodes.get(place, "")
        self._warnings.warn(f"{place} {why}", event="not handed on", node=node, address=str(place), detail=why)

    def forget(self, peer: Domain | None, place: HostPort, why: str) -> None:
        """Forget that the connections of `peer` go to `place`, which cannot be connected to."""
        self._attempt_failed(place, why)
        if peer is not None:
            self._found.pop(peer, None)

    def opened(self, connection: HandedOn, place: HostPort, peer: Domain | None) -> None:
        """Note a connection that is handed on."""
        self.number += 1
        self._open[connection] = place, peer

    def gone(self, connection: HandedOn) -> None:
        """Note that it is closed. The home may have given the peer up, so the next connection is looked up again."""
        place, peer = self._open.pop(connection, (None, None))
        found = None if peer is None else self._found.get(peer)
        if peer is not None and found is not None and found[1] == place:
            del self._found[peer]
        self._resetting.discard(connection)
        if self._left is not None and not self._open and not self._left.called:
            self._left.callback(None)


class _Farewell(TwistedProtocol):
    """Sends the header of a node that stops, and closes."""

    def __init__(self, header: bytes) -> None:
        self._header = header

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._header)
        self.transport.loseConnection()


def _not_told(failure: Failure) -> None:
    """Go on: the node does not answer, so its connections are over."""


class LegPlacing:
    """The places of the connections of one leg (`net.door.Placing`)."""

    def __init__(self, door: NodeDoor, leg: Leg) -> None:
        self._door = door
        self._leg = leg
        self.gone, self.may_copy, self.not_answered = door.gone, door.may_copy, door.not_answered

    def place(self, header: Header, address: str) -> Deferred[HostPort | None]:
        """Return the listener of the home of the peer; None: this node serves the stream."""
        return Deferred.fromCoroutine(self._place(header, address))

    async def _place(self, header: Header, address: str) -> HostPort | None:
        peer = self._door.peer(self._leg, header)
        return None if peer is None else await self._door.look_up(self._leg, peer, address)

    def greeting(self, header: Header, source: HostPort, destination: HostPort) -> bytes:
        """Return the PROXY header for the other node."""
        leg = FEDERATION if self._leg == "federation" else f"{BACKEND}{Domain.claimed(header.from_ or '').ascii}"
        return self._door.headers.write(source, destination, f"{self._door.name} {leg}")

    def handed_on(self, connection: HandedOn, place: HostPort, header: Header) -> None:
        """Note a connection that is handed on."""
        self._door.opened(connection, place, self._door.peer(self._leg, header))

    def not_reached(self, header: Header, place: HostPort, why: str) -> None:
        """Forget the place."""
        self._door.forget(self._door.peer(self._leg, header), place, why)


class NodeFactory(ProxyFactory):
    """Builds the connections that nodes hand on: `federation` those of peers, `backend` those of the server of a domain.

    All other connections are refused. The log names the address and the reason, for the administrator of the nodes.
    """

    unlisted = f"it is not in cluster.members. If a node connects from this address: {MEMBERS}"

    def __init__(
        self, federation: ServerFactory, backend: Callable[[Domain], ServerFactory | None], members: Sequence[Network],
        headers: NodeHeaders, clock: Any,
    ) -> None:
        super().__init__(federation, members, clock, self._log_refused)
        self._warnings = RareWarnings(clock)
        self._backend = backend
        self._headers = headers
        #: whether the gateway stops: new connections are refused, as at its other listeners
        self.stopping = False
        #: the connections of each door
        self._handed_on: dict[str, WeakSet[SilentConnection]] = {}

    def _log_refused(self, address: str, ending: Ending) -> None:
        self._warnings.warn(f"{address} {ending.detail}", event="node refused", address=address, detail=ending.detail)

    def factory_for(self, header: ProxyHeader) -> ServerFactory | None:
        """Return the factory of the leg in the header; None: no node has written it."""
        door, _, purpose = (self._headers.leg(header) or "").partition(" ")
        if purpose == LEAVE:
            self._wind_down(list(self._handed_on.pop(door, ())))
            return Factory.forProtocol(ClosedAtOnce)  # type: ignore[return-value]
        if self.stopping:
            return None
        if purpose == FEDERATION:
            return self.factory
        if not purpose.startswith(BACKEND):
            return None
        try:
            return self._backend(Domain.parse(purpose.removeprefix(BACKEND)))
        except InvalidJID:
            return None

    def built(self, header: ProxyHeader, connection: IProtocol) -> None:
        """Note the connection of a door."""
        if isinstance(connection, SilentConnection):
            door = (self._headers.leg(header) or "").partition(" ")[0]
            if door not in self._handed_on:
                for name in [name for name, streams in self._handed_on.items() if not streams]:
                    del self._handed_on[name]
            self._handed_on.setdefault(door, WeakSet()).add(connection)

    def _wind_down(self, connections: list[SilentConnection]) -> None:
        """Close the streams of these connections, some in each turn of the reactor."""
        for connection in connections[:CLOSED_PER_TURN]:
            connection.wind_down(LEAVING)
        if rest := connections[CLOSED_PER_TURN:]:
            self.clock.callLater(0, self._wind_down, rest)


class NodeListener:
    """The listener of `[cluster].listen`. It is opened before the node joins, and closed last."""

    def __init__(self, reactor: Any, endpoint: str, factory: NodeFactory) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = factory
        self.ports: list[IListeningPort] = []

    async def open(self) -> None:
        """Listen. Raises Twisted's `CannotListenError`, or `ValueError`."""
        for listening in listen(self._reactor, self._endpoint, self._factory):
            self.ports.append(await listening)

    def refuse(self) -> None:
        """Take no connections that are handed on, and still listen: a port that is closed makes a node look dead."""
        self._factory.stopping = True

    def close(self) -> Deferred[Any]:
        """Listen no more."""
        ports, self.ports = self.ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)
