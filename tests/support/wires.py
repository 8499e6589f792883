"""Two ends and a wire in memory: toy engines, a recording owner, and real TLS over `iosim`, on a `Clock`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.test import iosim

from s2sgw.net.certificates import Credential, PrivateKey
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.tls import ClientTLS, ServerTLS
from s2sgw.net.turn_budget import TurnBudget
from s2sgw.net.turns import Turns
from s2sgw.stream.events import Ended, Event, JudgementNeeded, PairProven, Refusal, StanzasReceived, StartTLS
from s2sgw.trust.evidence import Role
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.certificates import NOT_AFTER, NOT_BEFORE, Issued, leaf_for
from tests.support.turn_clock import TurnClock

LOCAL = Domain.parse("example.org")
PEER = Domain.parse("peer.example")
PAIR = Pair(PEER, LOCAL)
DEFAULTS = ConnectionOptions()


def credential(issued: Issued, name: str = "test") -> Credential:
    assert isinstance(issued.key, PrivateKey)
    return Credential(name, issued.der_chain, issued.key, NOT_BEFORE, NOT_AFTER)


class ToyEngine:
    """An engine with lines as commands: STARTTLS, PROCEED, BYE; any other line is a stanza. It records its input."""

    parting: Ending | None = None
    leaving: Ending | None = None
    unheard = False
    backlogged = lasting = one_way = False
    silence_limit: int | None = None
    probe = b""

    def __init__(self) -> None:
        self.fed: list[bytes] = []
        self.log: list[object] = []
        self.out = b""
        self.greets_after_tls = b""
        self._answers = False

    def begin(self) -> list[Event]:
        self.out += b"STARTTLS\n"
        return []

    def receive(self, data: bytes) -> list[Event]:
        self.fed.append(data)
        events: list[Event] = []
        for line in data.splitlines(keepends=True):
            events += self.line(line)
        return events

    def proceed(self) -> list[Event]:
        return []

    def line(self, line: bytes) -> list[Event]:
        if line in (b"STARTTLS\n", b"PROCEED\n"):
            self._answers = line == b"STARTTLS\n"
            return [StartTLS(LOCAL, PEER)]
        if line == b"BYE\n":
            return self.close(Ending(Cause.CLOSED, by="them"))
        if line == b"CRASH\n":
            raise RuntimeError("a mistake")
        if line == b"PROVE\n":
            return [PairProven(PAIR, "EXTERNAL")]
        return [StanzasReceived(PAIR, [Stanza("message", line, "", "")])]

    @property
    def unsent(self) -> int:
        return len(self.out)

    def data_to_send(self) -> bytes:
        data, self.out = self.out, b""
        return data

    def tls_ready(self) -> list[Event]:
        self.out += b"PROCEED\n" if self._answers else b""
        return []

    def tls_unavailable(self, ending: Ending) -> list[Event]:
        self.out += b"FAILURE\n" if self._answers else b""
        return [Ended(ending)]

    def tls_established(self) -> list[Event]:
        self.log.append("tls")
        self.out += self.greets_after_tls
        return [JudgementNeeded(PEER, LOCAL, True)]

    def close(self, ending: Ending) -> list[Event]:
        self.out += b"CLOSE\n"
        return [Ended(ending)]

    def wind_down(self, ending: Ending) -> list[Event]:
        self.out += b"CLOSE\n"
        self.leaving = ending
        return []

    def rest(self) -> None:
        self.log.append("rest")

    def release(self) -> None:
        """Do nothing: it has no references."""

    def fail(self, refusal: Refusal) -> list[Event]:
        self.out += b"ERROR " + refusal.condition.encode() + b"\nCLOSE\n"
        return [Ended(refusal.ending)]


class Recorder:
    """An owner that records every call and may answer with `on_event`."""

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
    """A simulated transport with the TCP calls that iosim does not have. It records them."""

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
    """A transport without another end, with the TCP calls."""

    no_delay = False

    def __init__(self, host: Any = None, peer: Any = None) -> None:
        super().__init__(host, peer)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None: ...


def server_context_of(domain: str = "example.org") -> ServerTLS:
    held = credential(leaf_for(domain))
    return ServerTLS(lambda name: held)


class Ends:
    """A receiving and an initiating `StreamConnection` on one wire."""

    def __init__(
        self, *, server_tls: Any = None, client_tls: Any = None, direct: bool = False,
        options: ConnectionOptions = DEFAULTS, engines: tuple[Any, Any] | None = None,
    ) -> None:
        self.clock = Clock()
        pair: tuple[Any, Any] = engines or (ToyEngine(), ToyEngine())
        self.server_engine, self.client_engine = pair
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
        """Do the toy STARTTLS exchange and the handshake."""
        self.client.step(self.client_engine.begin)
        self.pump.flush()
        return self


class Solo:
    """One `StreamConnection` on a transport without another end, fed by hand."""

    def __init__(
        self, *, role: Role = "receiving", tls: Any = None, direct: bool = False, options: ConnectionOptions = DEFAULTS,
        engine: ToyEngine | None = None, owner: Recorder | None = None,
    ) -> None:
        self.clock = TurnClock()
        self.turns = Turns(self.clock, TurnBudget(stopwatch=self.clock.seconds))
        self.engine = engine or ToyEngine()
        self.owner = owner or Recorder()
        self.connection = StreamConnection(
            self.engine, self.owner, clock=self.clock, role=role, direct_tls=direct, options=options,
            turns=self.turns, tls=tls or (lambda order: server_context_of().for_domain(order.local if order else None)),
        )
        self.transport = CountingTransport(
            IPv4Address("TCP", "127.0.0.1", 5269), IPv4Address("TCP", "192.0.2.7", 4000)
        )
        self.connection.makeConnection(self.transport)

    def receive(self, *pieces: bytes) -> bytes:
        """Receive each piece in one read, then do the turn. Return the data written meanwhile."""
        for piece in pieces:
            self.connection.dataReceived(piece)
        self.clock.advance(0)
        self.clock.advance(0)
        return self.written()

    @property
    def tap(self) -> Any:
        """Return the producer that the transport pauses and resumes."""
        return self.transport.producer

    def written(self) -> bytes:
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def lose(self, reason: BaseException | None = None) -> None:
        self.connection.connectionLost(Failure(reason or ConnectionDone()))

    @property
    def ending(self) -> Ending | None:
        return self.connection.ending


class RawTLS:
    """The other side of a `Solo`, played by hand with a separate OpenSSL connection."""

    def __init__(self, solo: Solo, context: SSL.Context, *, server: bool = False, server_name: bytes | None = None) -> None:
        self.solo = solo
        self.connection = SSL.Connection(context, None)
        if server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        if server_name is not None:
            self.connection.set_tlsext_host_name(server_name)
        self.plain = b""
        self.problem: SSL.Error | None = None
        self.done = False

    def run(self, first: bytes = b"") -> RawTLS:
        """Carry records in both directions until both sides are done. `first` was written by the other side before."""
        arrived = first
        for _ in range(20):
            self._take(arrived)
            out = self._output()
            arrived = self.solo.receive(out) if out else self.solo.receive()
            if not out and not arrived:
                break
        return self

    def send(self, *records: bytes) -> bytes:
        """Send each of `records` as a TLS record; all arrive in one read. Return the other side's output."""
        for record in records:
            self.connection.send(record)
        return self.solo.receive(self._output())

    def renegotiate(self) -> bytes:
        """Ask for a new handshake (TLS 1.2), up to its first record."""
        self.connection.renegotiate()
        with suppress(SSL.Error):
            self.connection.do_handshake()
        return self._output()

    def _take(self, data: bytes) -> None:
        if data:
            self.connection.bio_write(data)
        try:
            if not self.done:
                self.connection.do_handshake()
                self.done = True
            while True:
                self.plain += self.connection.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.problem = error

    def _output(self) -> bytes:
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""


def raw_context(
    issued: Issued | None = None, *, highest: int = SSL.TLS1_3_VERSION, ciphers: bytes = b"DEFAULT:@SECLEVEL=0",
    alpn: list[bytes] | None = None,
) -> SSL.Context:
    """Return a context without the gateway's settings, which verifies nothing."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_max_proto_version(highest)
    context.set_cipher_list(ciphers)
    context.set_verify(SSL.VERIFY_PEER, lambda *ignored: True)
    if alpn is not None:
        context.set_alpn_protos(alpn)
    if issued is not None:
        context.use_certificate(issued.certificate)
        for extra in issued.chain[1:]:
            context.add_extra_chain_cert(extra)
        context.use_privatekey(issued.key)
    return context
