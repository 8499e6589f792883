"""Connections that one node hands on to another, over TCP on loopback."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.internet import reactor as running_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from s2sgw.cluster.door import HandOn, Placement, ServeHere
from s2sgw.composition.node_listener import NodeDoor, NodeFactory, NodeListener
from s2sgw.net.admission import Admission, AdmittedConnection, ConnectionLimits
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.listening import StreamFactory, listen
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.wires import Recorder, ToyEngine

reactor: Any = running_reactor
HOST = "127.0.0.1"
KEY = b"the secret of the nodes"
HEADER = (
    b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='peer.example' to='example.org' "
    b"version='1.0'>\n"
)
STANZAS = b"".join(b"%07d %s\n" % (number, b"x" * 400) for number in range(10_000))


class Client(Protocol):
    """A peer. `lost` fires with the class of the reason."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Deferred[Any] = Deferred()
        self._awaited: tuple[bytes, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self._awaited is not None and self.data.endswith(self._awaited[0]):
            (_, done), self._awaited = self._awaited, None
            done.callback(None)

    def until(self, end: bytes) -> Deferred[None]:
        """Fire when the data ends with `end`."""
        done: Deferred[None] = Deferred()
        self._awaited = (end, done)
        self.dataReceived(b"")
        return done

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.type)


class Answering(ToyEngine):
    """An engine that answers each portion of input with the same bytes."""

    def receive(self, data: bytes) -> Any:
        self.out += data
        return super().receive(data)


class Homes:
    """All peers have their home at `listener`; "": at the node itself."""

    listener = ""

    async def locate(self, peer: Domain) -> Placement | Ending:
        return HandOn("b", self.listener) if self.listener else ServeHere()


class NodesTests(TestCase):
    """Two nodes. Peers connect to the first one."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        self.homes = Homes()
        self.door = NodeDoor(reactor, self.homes, {Domain.parse("example.org")}, KEY)
        self.first = self.door.factory("federation", self.build, self.admission(), self.refused)
        self.streams: list[StreamConnection] = []
        self.engines: list[Answering] = []
        self.second_admission = self.admission()
        handed_on = StreamFactory(self.build, self.second_admission, self.refused)
        self.factory = factory = NodeFactory(handed_on, self.no_server, [ip_network("127.0.0.0/8")], self.door.headers, reactor)
        self.listener = NodeListener(reactor, f"tcp:0:interface={HOST}", factory)
        await self.listener.open()
        (self.port,) = [await each for each in listen(reactor, f"tcp:0:interface={HOST}", self.first)]
        place: Any = self.listener.ports[0].getHost()
        self.homes.listener = f"{place.host}:{place.port}"
        self.endings: list[Ending] = []
        self.clients: list[Client] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        self.door.close()
        for stream in self.streams:
            if stream.ending is None:
                stream.abort(Ending(Cause.SHUTDOWN))
        for client in self.clients:
            assert client.transport is not None
            client.transport.loseConnection()
            await client.lost
        for stream in self.streams:
            await stream.when_closed()
        port: Any = self.port
        await port.stopListening()
        await self.listener.close()

    def admission(self) -> Admission:
        return Admission(ConnectionLimits(), reactor)

    def refused(self, address: str, ending: Ending) -> None:
        self.endings.append(ending)

    def no_server(self, domain: Domain) -> ServerFactory | None:
        return None

    def build(self, admitted: AdmittedConnection) -> StreamConnection:
        self.engines.append(Answering())
        stream = StreamConnection(
            self.engines[-1], Recorder(), clock=reactor, role="receiving", tls=lambda order: None,
            options=ConnectionOptions(negotiation_timeout=None),
        )
        stream.negotiated()
        self.streams.append(stream)
        return stream

    async def connect(self) -> Client:
        address: Any = self.port.getHost()
        client: Client = await connectProtocol(TCP4ClientEndpoint(reactor, HOST, address.port), Client())
        self.clients.append(client)
        return client

    async def test_both_ways(self) -> None:
        """A handed-on stream carries much data both ways, in order, while the peer does not read all the time."""
        client = await self.connect()
        transport: Any = client.transport
        transport.write(HEADER)
        await client.until(HEADER)
        transport.write(STANZAS)
        transport.pauseProducing()
        reactor.callLater(0.1, transport.resumeProducing)
        await client.until(STANZAS[-409:])
        self.assertEqual(client.data == HEADER + STANZAS, True)
        self.assertEqual((len(self.streams), self.door.open, self.endings), (1, 1, []))
        self.assertEqual(self.streams[0].peer_address, f"{HOST}:{transport.getHost().port}")
        self.assertEqual(self.streams[0].local_address, f"{HOST}:{transport.getPeer().port}")

    async def test_closed_by_the_home(self) -> None:
        """An orderly close at the home is an orderly close for the peer, behind all data."""
        client = await self.connect()
        transport: Any = client.transport
        transport.write(HEADER + STANZAS + b"BYE\n")
        reason = await client.lost
        self.assertEqual(reason, ConnectionDone)
        self.assertEqual(client.data.startswith(HEADER + STANZAS + b"BYE\n"), True)

    async def test_orderly_stop(self) -> None:
        """When the first node stops, the home closes the streams from it in order: what the peer sends until its end is read."""
        client = await self.connect()
        transport: Any = client.transport
        transport.write(HEADER)
        await client.until(HEADER)
        leaving = self.door.leave()
        await client.until(b"CLOSE\n")
        self.assertEqual((leaving.called, self.streams[0].ending, self.streams[0].retiring), (False, None, True))
        transport.write(STANZAS + b"BYE\n")
        await client.lost
        await leaving
        self.assertEqual(b"".join(self.engines[0].fed), HEADER + STANZAS + b"BYE\n")

    async def test_not_a_member(self) -> None:
        """A home that does not know the address of the first node refuses its connections. Both nodes log it."""
        self.factory._trusted = ()
        with capturedLogs() as logged:
            client = await self.connect()
            transport: Any = client.transport
            transport.write(HEADER)
            await client.lost
        self.assertEqual({"node refused", "not handed on"}, {line["event"] for line in logged if line["log_level"] is LogLevel.warn})
        self.assertEqual([], self.streams)

    async def test_dead_home(self) -> None:
        """The end of the other node ends its connections. The next one is served where the homes say."""
        client = await self.connect()
        transport: Any = client.transport
        transport.write(HEADER)
        await client.until(HEADER)
        self.homes.listener = ""
        self.door.node_ended("b")
        await client.lost
        again = await self.connect()
        again_transport: Any = again.transport
        again_transport.write(HEADER)
        await again.until(HEADER)
        self.assertEqual((self.door.open, len(self.streams)), (0, 2))
