"""Two ends and a wire in memory: toy engines, a recording owner, and real TLS over `iosim`, on a `Clock`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.test import iosim

from s2sgw.net.certificates import Credential
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.tls import ClientTLS, ServerTLS
from s2sgw.stream.events import Ended, Event, JudgementNeeded, PairProven, Refusal, StanzasReceived, StartTLS
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.certificates import NOT_AFTER, NOT_BEFORE, Issued, leaf_for

LOCAL = Domain.parse("example.org")
PEER = Domain.parse("peer.example")
PAIR = Pair(PEER, LOCAL)
DEFAULTS = ConnectionOptions()


def credential(issued: Issued, name: str = "test") -> Credential:
    return Credential(name, issued.der_chain, issued.key, NOT_BEFORE, NOT_AFTER)


class ToyEngine:
    """Lines for commands: STARTTLS, PROCEED, BYE; anything else is a stanza. It records how it was fed."""

    def __init__(self) -> None:
        self.fed: list[bytes] = []
        self.log: list[object] = []
        self.out = b""
        self.greets_after_tls = b""

    def begin(self) -> list[Event]:
        self.out += b"STARTTLS\n"
        return []

    def receive(self, data: bytes) -> list[Event]:
        self.fed.append(data)
        events: list[Event] = []
        for line in data.splitlines(keepends=True):
            events += self.line(line)
        return events

    def line(self, line: bytes) -> list[Event]:
        if line == b"STARTTLS\n":
            self.out += b"PROCEED\n"
            return [StartTLS(LOCAL, PEER)]
        if line == b"PROCEED\n":
            return [StartTLS(LOCAL, PEER)]
        if line == b"BYE\n":
            return self.close(Ending(Cause.CLOSED, by="them"))
        if line == b"CRASH\n":
            raise RuntimeError("a mistake")
        if line == b"PROVE\n":
            return [PairProven(PAIR, "EXTERNAL")]
        return [StanzasReceived(PAIR, [Stanza("message", line, "", "")])]

    def data_to_send(self) -> bytes:
        data, self.out = self.out, b""
        return data

    def tls_established(self) -> list[Event]:
        self.log.append("tls")
        self.out += self.greets_after_tls
        return [JudgementNeeded(PEER, LOCAL, True)]

    def close(self, ending: Ending) -> list[Event]:
        self.out += b"CLOSE\n"
        return [Ended(ending)]

    def fail(self, refusal: Refusal) -> list[Event]:
        self.out += b"ERROR " + refusal.condition.encode() + b"\nCLOSE\n"
        return [Ended(refusal.ending)]


class Recorder:
    """An owner that notes every call and may answer with `on_event`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.events: list[Event] = []
        self.on_connected: Callable[[StreamConnection], None] = lambda connection: None
        self.on_event: Callable[[StreamConnection, Event], None] = lambda connection, event: None

    def connected(self, connection: StreamConnection) -> None:
        self.calls.append("connected")
        self.on_connected(connection)

    def event(self, connection: StreamConnection, event: Event) -> None:
        self.events.append(event)
        self.on_event(connection, event)

    def paused(self, connection: StreamConnection) -> None:
        self.calls.append("paused")

    def resumed(self, connection: StreamConnection) -> None:
        self.calls.append("resumed")

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        self.calls.append(ending)

    @property
    def endings(self) -> list[Ending]:
        return [call for call in self.calls if isinstance(call, Ending)]


class WireTransport(iosim.FakeTransport):
    """A simulated transport with the calls of a TCP one that iosim leaves out, noting them."""

    def __init__(self, protocol: Any, isServer: bool) -> None:
        super().__init__(protocol, isServer, IPv4Address("TCP", "127.0.0.1", 5269), IPv4Address("TCP", "192.0.2.7", 4000))
        self.noted: list[str] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.noted.append("nodelay")

    def pauseProducing(self) -> None:
        self.noted.append("pause")

    def resumeProducing(self) -> None:
        self.noted.append("resume")

    def abortConnection(self) -> None:
        self.noted.append("abort")
        self.stream = []
        super().abortConnection()

    def loseConnection(self) -> None:
        if "lose" not in self.noted:
            self.noted.append("lose")
        super().loseConnection()


class CountingTransport(StringTransport):
    """A transport that goes nowhere, with the TCP calls."""

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...


def server_context_of(domain: str = "example.org") -> ServerTLS:
    held = credential(leaf_for(domain))
    return ServerTLS(lambda name: held)


class Ends:
    """A receiving and an initiating `StreamConnection` on one wire."""

    def __init__(
        self, *, server_tls: Any = None, client_tls: Any = None, direct: bool = False,
        options: ConnectionOptions = DEFAULTS,
    ) -> None:
        self.clock = Clock()
        self.server_engine, self.client_engine = ToyEngine(), ToyEngine()
        self.server_owner, self.client_owner = Recorder(), Recorder()
        self.server = StreamConnection(
            self.server_engine, self.server_owner, clock=self.clock, role="receiving", direct_tls=direct, options=options,
            tls=server_tls or (lambda order: server_context_of().for_domain(order.local if order else None)),
        )
        mine = credential(leaf_for("peer.example"))
        self.client = StreamConnection(
            self.client_engine, self.client_owner, clock=self.clock, role="initiating", direct_tls=direct, options=options,
            tls=client_tls or (lambda order: ClientTLS().for_peer(LOCAL, mine)),
        )
        self.server_wire = WireTransport(self.server, True)
        self.client_wire = WireTransport(self.client, False)
        self.pump = iosim.connect(
            self.server, self.server_wire, self.client, self.client_wire, greet=False, clock=self.clock
        )

    def start_tls(self) -> Ends:
        """The toy STARTTLS exchange and the handshake, to its end."""
        self.client.step(self.client_engine.begin)
        self.pump.flush()
        return self


class RawTLS:
    """The other side played by hand: an OpenSSL connection over `wire`, the transport of the side under test."""

    def __init__(self, context: SSL.Context, *, server: bool) -> None:
        self.connection = SSL.Connection(context, None)
        (self.connection.set_accept_state if server else self.connection.set_connect_state)()
        self.plain = b""

    def feed(self, data: bytes) -> None:
        if data:
            self.connection.bio_write(data)

    def handshake(self) -> bool:
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def output(self) -> bytes:
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def read(self) -> bytes:
        try:
            return self.connection.recv(1 << 16)
        except SSL.WantReadError:
            return b""
