"""The streams and lanes of two gateways, connected without sockets or TLS. Data can be delivered in pieces of any size, and the
connection can be cut anywhere, so that one end notices before the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.fair_slots import Owner
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.owners import owner_by_name
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import Permission, StartTLS
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import custody_of, ingress_services
from tests.support.fakes import Connections, FakeNextHop, FixedRandom

HERE, ROOMS, THERE = (Domain.parse(name) for name in ("here.example", "rooms.here.example", "there.example"))
KEYS = DialbackKeys(b"k" * 32)
QUICK = BackOff(first=0.01, factor=1.0, jitter=0)


class Link(StreamConnection):
    """A connection on which TLS takes no bytes and no time."""

    def _begin_direct_tls(self) -> None:
        self._open_tls(None)

    def _start_tls(self, order: StartTLS) -> None:
        self._events.extend(self.engine.tls_ready())
        self._open_tls(None)

    def _open_tls(self, creator: object) -> None:
        self._tls_is_news = True
        self._intake.want_turn()


class Wire:
    """The transport of one end. Written data waits until it is carried to the other end."""

    def __init__(self, protocol: StreamConnection) -> None:
        self.protocol = protocol
        self.other: Wire
        self.written = b""
        self.lost = False
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def carry(self, number: int) -> None:
        """Let the first `number` bytes arrive."""
        data, self.written = self.written[:number], self.written[number:]
        if data and not self.other.lost:
            self.other.protocol.dataReceived(data)

    def lose(self, reason: Exception | None = None) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(reason or ConnectionLost()))

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.lose()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 5269)

    getHost = getPeer

    def nothing(self, *ignored: object) -> None: ...

    setTcpNoDelay = setTcpKeepAlive = registerProducer = unregisterProducer = pauseProducing = resumeProducing = nothing

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Sink(FakeNextHop):
    """A next hop that acknowledges when the test says so, and answers pings (R41)."""

    acknowledges = True

    def __init__(self, queue: DeliveryQueue, queues: DeliveryQueues) -> None:
        self.queue = queue
        self.queues = queues
        self.arrived: list[bytes] = []
        self.pings = 0

    def send(self, data: Sequence[bytes]) -> bool:
        self.arrived += [each for each in data if b"<body>" in each]
        back = self.queue.pair.inverse
        for ping in (re.search(b"id='(s2sgw-[^']+)'", each) for each in data):
            if ping is not None:
                self.pings += 1
                id = ping[1].decode()
                answer = f"<iq type='result' id='{id}' from='{back.sender}' to='{back.recipient}'/>".encode()
                self.queues.queue(back).accept([Stanza("iq", answer, back.sender.text, back.recipient.text, "result", id)])
        return False

    def acknowledge(self, number: int) -> None:
        self.queue.acknowledged(min(number, self.queue.pair_queue.in_flight_count))


class Gateway:
    """One of the two gateways; `own` are the domains that it serves."""

    def __init__(self, world: World, own: tuple[Domain, ...]) -> None:
        self.world = world
        self.clock = clock = world.clock
        self.own = own
        self.record = EventRecord(clock, Logger())
        self.destinations = Destinations(clock, FixedRandom(), QUICK)
        self.extensions = ExtensionMemory(clock)
        self.extensions.suspect = lambda *ignored: None  # type: ignore[method-assign]  # that a stream is short-lived means nothing here
        self.sinks: dict[Pair, Sink] = {}
        self.custody = custody_of(clock, self.record, own.__contains__, self._next_hop, memory=1 << 24)
        self.queues = self.custody.queues
        peers = cast(PeerPolicies, SimpleNamespace(policy=lambda peer: PeerPolicy()))
        self.ingress_services = ingress_services(self.custody, peers)
        self.accepted = AcceptedStreams(self.ingress_services, self, self)
        self.ack_selection = AckSelection(lambda domain: "auto", self.queues, self.extensions, clock)
        self.ids = (f"{own[0]}-{number}" for number in count())
        self.leg = "federation"
        self.outcomes = StreamOutcomes()

    def _next_hop(self, queue: DeliveryQueue) -> Any:
        if queue.direction == "inbound":
            self.sinks[queue.pair] = Sink(queue, self.queues)
            return self.sinks[queue.pair]
        connect_services = ConnectServices(
            Connections(self._outgoing), self.clock, self.destinations, self.extensions, carrying_back=self.accepted, bidi=self,
        )
        side = cast(Any, self)
        return DeliveryAgent(queue, PeerStreamProvider(side, connect_services), self.record, QUICK, FixedRandom(), self.clock, self.ack_selection)

    def contacted(self, peer: Domain) -> None: ...

    def accept(self, engine: Any, owner: Any, role: Any = "receiving", **ignored: object) -> StreamConnection:
        return Link(engine, owner, clock=self.clock, role=role, tls=lambda order: None, direct_tls=True)

    def _outgoing(self, engine: Any, owner: Any) -> StreamConnection:
        return self.accept(engine, owner, "initiating")

    def ingress(self, stream: Any) -> StreamIngress:
        return StreamIngress(
            self.ingress_services, stream.connection, stream.engine, "federation", self, [stream.pair.recipient],
        )

    # --- as a sending side ---

    def identify(self, connection: Any) -> tuple[Domain, ...]:
        return ()

    async def resolve(self, pair: Any, requester: Any = None) -> Any:
        if not isinstance(pair, Pair):
            return None
        if not self.world.dials(self):
            return Resolution(pair.recipient, (), Ending(Cause.DNS_UNREACHABLE))
        return Resolution(pair.recipient, (Target("s.example", 5269, ("192.0.2.1",)),), None)

    async def locate(self, pair: Pair, targets: Sequence[Target], requester: Any = None) -> Sequence[Target]:
        return targets

    def dial_targets(self, pair: Pair, targets: Sequence[Target]) -> Sequence[Target]:
        return targets

    def engine(self, pair: Any, target: Any = None, verifying: bool = False) -> Any:
        if isinstance(pair, bool):
            return ReceivingStream(
                ReceivingOptions(KEYS, self.own.__contains__, self.own.__contains__, direct_tls=True), lambda: next(self.ids),
            )
        return InitiatingStream(InitiatingOptions(
            pair.sender, pair.recipient, KEYS, direct_tls=True, management=self.ack_selection.use_stream_management(pair.recipient),
            resume=self.world.resume if self.ack_selection.use_resumption(pair.recipient) else 0, bidi=self.world.bidi,
        ))

    def shown(self, pair: Pair) -> None:
        """Use a separate stream for each pair."""

    def owner(self, pair: Pair) -> Owner:
        return owner_by_name(pair.recipient)

    def owner_streams(self, pair: Pair) -> int:
        return 0

    def streams(self, pair: Pair) -> int:
        return 0

    def largest(self, pair: Pair) -> None:
        return None

    def dialler(self, pair: Pair, target: Target) -> Any:
        return self.dial

    def dial(self, address: str, port: int, build: Callable[[], Any]) -> Deferred[None]:
        protocol = build()
        self.world.connect(self, protocol)
        return succeed(None)

    def tls(self, *ignored: object) -> None: ...

    async def judge(self, *ignored: object) -> tuple[Permission, tuple[str, ...]]:
        permission = Permission(external=True, management=True, resume=self.world.granted, bidi=self.world.bidi)
        return permission, ()

    # --- as a receiving side ---

    async def verify(self, *ignored: object) -> Any: ...

    def proven(self, *ignored: object) -> None: ...

    def policy(self, peer: object) -> None: ...

    async def reconsider(self, *ignored: object) -> None: ...

    def excess(self, *ignored: object) -> None: ...

    async def admit(self, pair: Pair) -> None: ...

    # --- what the tests do ---

    def say(self, text: str, recipient: Domain, sender: Domain | None = None) -> None:
        """Send a message of a local user."""
        pair = Pair(sender or self.own[0], recipient)
        data = f"<message from='{pair.sender}' to='{pair.recipient}'><body>{text}</body></message>".encode()
        self.queues.queue(pair).accept([Stanza("message", data, pair.sender.text, pair.recipient.text, None, None)])

    def heard(self, pair: Pair) -> list[str]:
        """Return the received stanzas of one pair, in order."""
        sink = self.sinks.get(pair)
        return [] if sink is None else [data.split(b"<body>")[1].split(b"<")[0].decode() for data in sink.arrived]


class World:
    """Two gateways: `near` opens streams to `far`. With `bidi` they carry both directions."""

    def __init__(self, *, bidi: bool = False, resume: int = 120, granted: int = 120) -> None:
        self.clock = Clock()
        self.bidi, self.resume, self.granted = bidi, resume, granted
        self.near = Gateway(self, (HERE, ROOMS))
        self.far = Gateway(self, (THERE,))
        #: the two ends of each connection, the near one first
        self.wires: list[tuple[Wire, Wire]] = []

    def dials(self, gateway: Gateway) -> bool:
        """True if a gateway can connect to the other one."""
        return gateway is self.near

    def connect(self, gateway: Gateway, protocol: StreamConnection) -> None:
        accepted = self.far.accepted.accept(cast(Any, self.far), True)
        near, far = Wire(protocol), Wire(accepted)
        near.other, far.other = far, near
        self.wires.append((near, far))
        accepted.makeConnection(cast(Any, far))
        protocol.makeConnection(cast(Any, near))

    def turn(self, seconds: float = 0.0) -> None:
        """Do the reactor's turns."""
        self.clock.advance(seconds)
        for _ in range(4):
            self.clock.advance(0)

    def queue(self, rounds: int = 40) -> None:
        """Carry all written data until both gateways are done."""
        for _ in range(rounds):
            self.turn(0.01)
            for near, far in self.wires:
                for wire in (near, far):
                    wire.carry(len(wire.written))
                    if wire.closing and not wire.lost:
                        wire.lose(ConnectionDone())
                        wire.other.lose(ConnectionDone())

    def calm(self) -> None:
        """Carry all data, and acknowledge every stanza that arrives."""
        for _ in range(6):
            self.queue()
            for gateway in (self.near, self.far):
                for sink in gateway.sinks.values():
                    sink.acknowledge(1 << 20)

    @property
    def link(self) -> tuple[Wire, Wire]:
        """Return the last connection."""
        return self.wires[-1]

    def cut(self, near: bool = True, far: bool = True) -> None:
        """Cut the last connection, as these ends notice it."""
        for wire, sees in zip(self.link, (near, far), strict=True):
            if sees:
                wire.lose()
