"""A network in memory for DNS: a clock that is a reactor with UDP and TCP, and name servers with scripted answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.task import Clock
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure

Place = tuple[str, int]


class FakeReactor(Clock):
    """A reactor with IReactorTime, IReactorUDP and IReactorTCP. Sent data arrives at the next `settle()`.

    An address without a listener refuses: by closing the socket, as on epoll, or with `tells_refusal` as on other reactors. An address in
    `silent` drops every datagram; one in `deaf` accepts no connection; `broken` makes sockets unusable.
    """

    def __init__(self) -> None:
        super().__init__()
        self.udp: dict[Place, FakeUDPPort] = {}
        self.tcp: dict[Place, FakeTCPPort] = {}
        self.silent: set[Place] = set()
        self.broken = False
        self.tells_refusal = False
        self.pieces = 0  # bytes that arrive at once over TCP; 0: all
        self.deaf: set[Place] = set()
        self.connections: list[FakeStream] = []
        self.connectors: list[FakeConnector] = []
        self._next_port = 40000

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(1000):
            if not any(call.getTime() <= self.seconds() for call in self.calls):
                return
            self.advance(0)
        raise AssertionError("it never comes to rest")

    def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Let `seconds` pass. Everything due happens at its time."""
        for _ in range(round(seconds / step)):
            self.settle()
            self.advance(step)
        self.settle()

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> FakeUDPPort:
        if self.broken:
            raise OSError("no buffer space")
        return FakeUDPPort(self, protocol, (interface, port or self.free_port()))

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> FakeTCPPort:
        return FakeTCPPort(self, factory, (interface, port or self.free_port()))

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> FakeConnector:
        connector = FakeConnector(host, port)
        self.connectors.append(connector)
        factory.startedConnecting(connector)
        if (host, port) not in self.deaf:
            self.callLater(0, self._connect, connector, factory)
        return connector

    def _connect(self, connector: FakeConnector, factory: Any) -> None:
        listening = self.tcp.get(connector.place)
        if listening is None:
            factory.clientConnectionFailed(connector, Failure(Refused()))
            return
        source = ("::1" if ":" in connector.place[0] else "127.0.0.1", self.free_port())
        connect(self, source, factory, connector.place, listening.factory)


def connect(reactor: FakeReactor, source: Place, client: Any, place: Place, server: Any) -> FakeStream:
    """Open a TCP connection between two factories; return the client's end."""
    ours, theirs = FakeStream(reactor, source, place), FakeStream(reactor, place, source)
    ours.other, theirs.other = theirs, ours
    for stream, factory in ((theirs, server), (ours, client)):
        stream.protocol = factory.buildProtocol(address(stream.peer))
        if stream.protocol is None:
            stream.abortConnection()
        elif not stream.closed:
            stream.protocol.makeConnection(stream)
    reactor.connections.append(ours)
    return ours


def address(place: Place) -> IPv4Address | IPv6Address:
    return (IPv6Address if ":" in place[0] else IPv4Address)("TCP", *place)


class FakeConnector:
    def __init__(self, host: str, port: int) -> None:
        self.place = (host, port)
        self.stopped = False

    def getDestination(self) -> Any:
        return address(self.place)

    def stopConnecting(self) -> None:
        self.stopped = True


class FakeUDPPort:
    """A bound socket, connected or not."""

    def __init__(self, reactor: FakeReactor, protocol: Any, place: Place) -> None:
        assert place not in reactor.udp, "address already in use"
        self.reactor, self.protocol, self.place = reactor, protocol, place
        self.peer: Place | None = None
        self.sent: list[tuple[bytes, Place]] = []
        reactor.udp[place] = self
        protocol.makeConnection(self)

    @property
    def source(self) -> Place:
        return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.place[0], self.place[0]), self.place[1])

    def getHost(self) -> Any:
        return IPv4Address("UDP", *self.place)

    def connect(self, host: str, port: int) -> None:
        self.peer = (host, port)

    def write(self, data: bytes, addr: Place | None = None) -> None:
        destination = addr or self.peer
        assert destination is not None
        self.sent.append((data, destination))
        if destination not in self.reactor.silent:
            self.reactor.callLater(0, self._deliver, data, destination)

    def _deliver(self, data: bytes, destination: Place) -> None:
        wild = ("::" if ":" in destination[0] else "0.0.0.0", destination[1])
        there = self.reactor.udp.get(destination) or self.reactor.udp.get(wild)
        if there is not None:
            there.protocol.datagramReceived(data, self.source)
        elif self.peer is not None and self.protocol.transport is not None:
            self.protocol.connectionRefused() if self.reactor.tells_refusal else self.stopListening()

    def stopListening(self) -> None:
        if self.reactor.udp.pop(self.place, None) is not None:
            self.protocol.doStop()


class FakeTCPPort:
    def __init__(self, reactor: FakeReactor, factory: Any, place: Place) -> None:
        self.reactor, self.factory, self.place = reactor, factory, place
        reactor.tcp[place] = self

    def getHost(self) -> Any:
        return address(self.place)

    def stopListening(self) -> None:
        self.reactor.tcp.pop(self.place, None)


class FakeStream:
    """One end of a TCP connection."""

    other: FakeStream

    def __init__(self, reactor: FakeReactor, host: Place, peer: Place) -> None:
        self.reactor, self.host, self.peer = reactor, host, peer
        self.protocol: Any = None
        self.producer: Any = None
        self.closed = False
        self.disconnecting = False

    def getPeer(self) -> Any:
        return address(self.peer)

    def getHost(self) -> Any:
        return address(self.host)

    def write(self, data: bytes) -> None:
        size = self.reactor.pieces or len(data) or 1
        for start in range(0, 0 if self.closed else len(data), size):
            self.reactor.callLater(0, self.other.receive, data[start : start + size])

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def receive(self, data: bytes) -> None:
        if not self.closed:
            self.protocol.dataReceived(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...

    def loseConnection(self) -> None:
        self.reactor.callLater(0, self.abortConnection)

    def abortConnection(self) -> None:
        for end, reason in ((self, ConnectionDone()), (self.other, ConnectionLost())):
            if not end.closed:
                end.closed = True
                self.reactor.callLater(0, end.gone, Failure(reason))

    def gone(self, reason: Failure) -> None:
        if self.protocol is not None and self.protocol.transport is not None:
            self.protocol.connectionLost(reason)


# --- name servers ----------------------------------------------------------------------------------------------------

Script = Callable[[dns.message.Message], Any]


class FakeServer:
    """A recursive resolver at `place`, over UDP and TCP.

    `add` gives it records. An unknown name is NXDOMAIN; a known name with another type has no data. `rcodes` and
    `mute` are by (name, type), with (name, "*") for all. `scripts` may return a message, bytes, a list of both, or None.
    """

    def __init__(self, reactor: FakeReactor, place: Place = ("127.0.0.1", 53)) -> None:
        self.reactor, self.place = reactor, place
        self.records: dict[tuple[str, str], list[dns.rrset.RRset]] = {}
        self.rcodes: dict[tuple[str, str], dns.rcode.Rcode] = {}
        self.mute: set[tuple[str, str]] = set()
        self.truncated: set[tuple[str, str]] = set()
        self.delays: dict[tuple[str, str], float] = {}
        self.scripts: dict[tuple[str, str], Script] = {}
        self.insecure: set[tuple[str, str]] = set()
        self.secure = False
        self.cut: bytes | None = None  # the bytes that it sends over TCP before it closes, for any question
        self.soa: str | None = "ns.example. admin.example. 1 3600 600 86400 60"
        self.asked: list[tuple[str, str, str]] = []
        self.queries: list[dns.message.Message] = []
        self.port = reactor.listenUDP(place[1], _UDPServer(self), interface=place[0])
        self.stream = reactor.listenTCP(place[1], _TCPServers(self), interface=place[0])

    def add(self, name: str, rdtype: str, *data: str, ttl: int = 300) -> None:
        self.records.setdefault((name, rdtype), []).append(dns.rrset.from_text(name + ".", ttl, "IN", rdtype, *data))

    def srv(self, domain: str, *data: str, service: str = "_xmpp-server", ttl: int = 300) -> None:
        self.add(f"{service}._tcp.{domain}", "SRV", *data, ttl=ttl)

    def stop(self) -> None:
        self.port.stopListening()
        self.stream.stopListening()

    def count(self, name: str, rdtype: str) -> int:
        return sum((asked, kind) == (name, rdtype) for asked, kind, _ in self.asked)

    def ask(self, wire: bytes, how: str, send: Callable[[bytes], None]) -> None:
        query = dns.message.from_wire(wire)
        self.queries.append(query)
        question = query.question[0]
        key = (question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype))
        self.asked.append((*key, how))
        if key in self.mute or (key[0], "*") in self.mute:
            return
        reply = self.scripts[key](query) if key in self.scripts else self.reply(query, key, how)
        for each in reply if isinstance(reply, list) else [reply]:
            if each is not None:
                limit = (query.payload or 512) if how == "udp" else 65535
                wire = each if isinstance(each, bytes) else each.to_wire(max_size=limit, prefer_truncation=True)
                self.reactor.callLater(self.delays.get(key, 0), send, wire)

    def reply(self, query: dns.message.Message, key: tuple[str, str], how: str) -> dns.message.Message:
        reply = dns.message.make_response(query, recursion_available=True)
        if self.secure and key not in self.insecure:
            reply.flags |= dns.flags.AD
        if key in self.truncated and how == "udp":
            reply.flags |= dns.flags.TC
            return reply
        rcode = self.rcodes.get(key, self.rcodes.get((key[0], "*")))
        if rcode is not None:
            reply.set_rcode(rcode)
            return reply
        self._fill(reply, *key)
        return reply

    def _fill(self, reply: dns.message.Message, name: str, rdtype: str) -> None:
        while (name, "CNAME") in self.records and rdtype != "CNAME":
            alias = self.records[name, "CNAME"][0]
            reply.answer.append(alias)
            name = str(alias[0].target).removesuffix(".")
        reply.answer.extend(self.records.get((name, rdtype), []))
        if (name, rdtype) not in self.records:
            if not any(known == name for known, _ in self.records):
                reply.set_rcode(dns.rcode.NXDOMAIN)
            if self.soa:
                reply.authority.append(dns.rrset.from_text("example.", 900, "IN", "SOA", self.soa))


class _UDPServer(DatagramProtocol):
    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        transport: Any = self.transport
        self.server.ask(datagram, "udp", lambda reply: transport.write(reply, addr))


class _TCPServer(Int16StringReceiver):
    server: FakeServer

    def stringReceived(self, string: bytes) -> None:
        if self.server.cut is not None:
            transport: Any = self.transport
            transport.write(self.server.cut)
            transport.loseConnection()
        else:
            self.server.ask(string, "tcp", self.sendString)


class _TCPServers(Factory):
    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def buildProtocol(self, addr: Any) -> _TCPServer:
        protocol = _TCPServer()
        protocol.server = self.server
        return protocol
