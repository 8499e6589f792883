"""Tests of accepting connections, up to their limits."""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct
import subprocess
import sys
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest import SkipTest

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import listening
from s2sgw.net.admission import CROWD, Admission, AdmittedConnection, ConnectionLimits
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.listening import ACCEPT_SECONDS, ACCEPTS, StreamFactory, bound_accepts, handed_over, has_ipv6, listen, trouble
from s2sgw.net.socket_transport import SocketTransport
from s2sgw.net.turns import Turns
from s2sgw.xmpp.ending import Cause, Ending
from tests.lab.lab import free_ports
from tests.support.certificates import leaf_for
from tests.support.socket_reactor import SocketReactor, client_handshake, connected, serve
from tests.support.wires import LOCAL, CountingTransport, Recorder, ToyEngine, raw_context, server_context_of


def peer(host: str) -> IAddress:
    return IPv6Address("TCP", host, 4000) if ":" in host else IPv4Address("TCP", host, 4000)


class FakePort:
    """A listening port as Twisted's, at which connections wait. Each takes so many seconds."""

    def __init__(self, waiting: int, seconds: float) -> None:
        self.numberAccepts = 1000
        self.waiting = waiting
        self.now = 0.0
        self._seconds = seconds

    def doRead(self) -> None:
        accepted = min(self.waiting, self.numberAccepts)
        self.waiting -= accepted
        self.now += accepted * self._seconds
        self.numberAccepts = self.numberAccepts + 20 if accepted == self.numberAccepts else max(1, accepted)


class AbortableTransport(CountingTransport):
    aborted = False

    def fileno(self) -> int:
        return 77

    def abortConnection(self) -> None:
        self.aborted = True


class AcceptanceTests(SynchronousTestCase):
    """R37: everything is bounded, also connections (docs/decisions.md#bounds)."""

    def factory(self, **limits: int) -> StreamFactory:
        self.refused: list[tuple[str, Ending]] = []
        self.built: list[StreamConnection] = []
        self.clock = Clock()
        self.admission = Admission(ConnectionLimits(**{"total": 3, "per_address": 2, **limits}), self.clock)
        return StreamFactory(self.build, self.admission, lambda address, ending: self.refused.append((address, ending)))

    def build(self, admitted: AdmittedConnection) -> StreamConnection:
        self.built.append(StreamConnection(ToyEngine(), Recorder(), clock=self.clock, role="receiving", tls=lambda order: None))
        return self.built[-1]

    def accept(self, factory: StreamFactory, host: str = "192.0.2.1", data: bytes = b"") -> Any:
        """Return a connection that has sent `data`."""
        protocol = factory.buildProtocol(peer(host))
        protocol.makeConnection(AbortableTransport())
        if data:
            protocol.dataReceived(data)
            self.clock.advance(0)
        return protocol

    def test_built_at_the_first_byte(self) -> None:
        """A connection gets a stream at its first byte. Its input is processed from the first byte on."""
        factory = self.factory()
        one, two = self.accept(factory), self.accept(factory, data=b"a\n")
        self.assertEqual(1, len(self.built))
        two.dataReceived(b"b\n")
        one.dataReceived(b"c\n")
        self.clock.advance(0)
        self.assertEqual([[b"a\n", b"b\n"], [b"c\n"]], [cast(ToyEngine, each.engine).fed for each in self.built])
        self.assertEqual(2, self.admission.total)

    def test_closed_before_the_first_byte(self) -> None:
        """A connection that closes before its first byte (a health check) is no refusal, and makes room."""
        factory = self.factory()
        self.accept(factory).connectionLost(Failure(ConnectionDone()))
        self.assertEqual(([], [], 0), (self.refused, self.built, self.admission.total))

    def test_stranger(self) -> None:
        """The descriptor of a connection counts as a stranger's until the connection has proven a pair or has ended."""
        factory = self.factory()
        first = self.accept(factory, data=b"a\n")
        self.assertEqual([77], list(self.admission.strangers))
        first._admitted.prove()
        self.assertEqual({}, self.admission.strangers)
        self.accept(factory).connectionLost(Failure(ConnectionDone()))
        self.assertEqual({}, self.admission.strangers)

    def test_silent_for_too_long(self) -> None:
        """A silent connection is ended after the time of a negotiation, and is reported without a name."""
        factory = self.factory()
        silent = self.accept(factory)
        self.clock.advance(31)
        self.assertTrue(silent.transport.aborted)
        self.assertEqual([("192.0.2.1", Cause.NEGOTIATION_TIMEOUT)], [(who, ending.cause) for who, ending in self.refused])

    def test_late_in_its_negotiation(self) -> None:
        """A connection that has sent something gets the reason of its end, and its transport waits for nothing."""
        factory = self.factory()
        late = self.accept(factory, data=b"a\n")
        self.clock.advance(31)
        self.assertIn(b"ERROR connection-timeout", late.transport.value())
        self.assertTrue(late.transport.disconnecting)
        self.assertEqual([], self.refused)
        self.assertEqual(Cause.NEGOTIATION_TIMEOUT, self.built[0].ending and self.built[0].ending.cause)

    def test_gives_way(self) -> None:
        """The oldest connection of an address over its limit makes room, whether it has sent something or not."""
        factory = self.factory()
        silent, said = self.accept(factory), self.accept(factory, data=b"a\n")
        self.accept(factory)
        self.assertTrue(silent.transport.aborted)
        silent.connectionLost(Failure(ConnectionDone()))
        self.accept(factory)
        self.assertIn(b"ERROR resource-constraint", said.transport.value())

    def test_refused(self) -> None:
        """If the limits are reached and no connection can give way, Twisted is told to close the transport, and the refusal is recorded."""
        factory = self.factory()
        for _ in range(2):
            protocol = factory.buildProtocol(peer("192.0.2.1"))
            protocol._admitted.prove()
        self.assertIsNone(factory.buildProtocol(peer("192.0.2.1")))
        self.assertIsNotNone(factory.buildProtocol(peer("192.0.2.2")))
        ((address, ending),) = self.refused
        self.assertEqual((address, ending.cause), ("192.0.2.1", Cause.TOO_MANY_CONNECTIONS))

    def test_released_with_the_transport(self) -> None:
        """Room is made when the transport has ended, not when the stream has."""
        factory = self.factory()
        protocol = self.accept(factory, data=b"BYE\n")
        self.assertIsNotNone(self.built[0].ending)
        self.assertEqual(1, self.admission.total)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(0, self.admission.total)

    def test_what_has_no_address(self) -> None:
        """Transports without an address, for example from a socket in the file system, count together."""
        factory = self.factory()
        for address in (UNIXAddress("/run/socket"), None):
            factory.buildProtocol(address)._admitted.prove()
        self.assertIsNone(factory.buildProtocol(None))

    def test_listen(self) -> None:
        """A TCP port with an interface is one port of that family."""
        reactor = MemoryReactor()
        (listening,) = listen(reactor, "tcp:5269:interface=127.0.0.1:backlog=7", self.factory())
        self.successResultOf(listening)
        port, _factory, backlog, interface = reactor.tcpServers[0]
        self.assertEqual((port, backlog, interface), (5269, 7, "127.0.0.1"))
        self.assertRaises(ValueError, listen, reactor, "nonsense:1", self.factory())

    def test_accepts(self) -> None:
        """However many connections wait, one turn of the reactor accepts a limited number of them, for a limited time."""
        for waiting, seconds, each_time in ((1000, 0.0, ACCEPTS), (10, 0.0, 10), (8, 0.0, 8), (0, 0.0, 0), (1000, ACCEPT_SECONDS / 10, 12), (1000, 1.0, 4)):
            port = FakePort(waiting, seconds)
            bound_accepts(port, partial(getattr, port, "now"))
            for turn in range(1, 4):
                port.doRead()
                self.assertEqual(waiting - port.waiting, min(waiting, turn * each_time), (waiting, seconds))
        self.assertEqual("socket", bound_accepts("socket"))

    def test_both_families(self) -> None:
        """A TCP port without an interface listens on IPv4 and on IPv6, with a socket each. Without IPv6, it listens on IPv4 alone."""
        for available in (True, False):
            self.patch(listening, "has_ipv6", lambda available=available: available)
            adopted: list[int] = []
            self.patch(listening, "_adopt_tcp", lambda reactor, place, factory, family, adopted=adopted: adopted.append(place.port))
            reactor = MemoryReactor()
            self.assertEqual(2 if available else 1, len(listen(reactor, "tcp:5269", self.factory())))
            self.assertEqual([5269] if available else [], adopted)
            self.assertEqual([(5269, "0.0.0.0")], [(each[0], each[3]) for each in reactor.tcpServers])

    def test_ipv6_alone(self) -> None:
        """An IPv6 socket accepts no IPv4 connection (IPV6_V6ONLY), whatever the system's default."""
        if not has_ipv6():
            raise SkipTest("this host has no IPv6")
        taken: list[bool] = []

        def adopt(fileno: int, family: int, factory: Any) -> Any:
            with socket.socket(fileno=os.dup(fileno)) as copy:
                taken.append(bool(copy.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)))
            return object()

        (found,) = listen(SimpleNamespace(adoptStreamPort=adopt), "tcp6:0:interface=\\:\\:1", self.factory())
        self.successResultOf(found)
        self.assertEqual([True], taken)

    def test_shared_port(self) -> None:
        """A port is shared by those who say so, in both families. Who does not say so gets no share, and gives none."""
        reactor = SimpleNamespace(adoptStreamPort=lambda fileno, family, factory: socket.socket(fileno=os.dup(fileno)))

        def opened(port: int, family: str, shared: str = ":reuseport=yes") -> Any:
            interface = "\\:\\:1" if family == "tcp6" else "127.0.0.1"
            (found,) = listen(reactor, f"{family}:{port}:interface={interface}{shared}", self.factory())
            results: list[Any] = []
            found.addBoth(results.append)
            if isinstance(results[0], socket.socket):
                self.addCleanup(results[0].close)
            return results[0]  # the socket, or the failure

        for family in ("tcp", "tcp6") if has_ipv6() else ("tcp",):
            address = "::1" if family == "tcp6" else "127.0.0.1"
            port = next(free_ports())
            first, second = opened(port, family), opened(port, family)
            self.assertEqual([port, port], [each.getsockname()[1] for each in (first, second)])
            self.assertEqual([1, 1], [each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in (first, second)])
            with socket.socket(first.family) as other:
                self.assertRaises(OSError, other.bind, (address, port))
        with socket.socket() as alone:
            alone.bind(("127.0.0.1", 0))
            alone.listen()
            self.assertIsInstance(opened(alone.getsockname()[1], "tcp"), Failure)
        if has_ipv6():
            self.assertEqual(0, opened(0, "tcp6", "").getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))

    def test_trouble(self) -> None:
        """A port in use and a missing privilege are reported with the remedy. Other errors have their own text."""
        for number, word in ((errno.EADDRINUSE, "ss -ltnp"), (errno.EACCES, "CAP_NET_BIND_SERVICE"), (errno.EMFILE, "too many")):
            error = CannotListenError(None, 5269, OSError(number, "too many"))
            self.assertIn(word, trouble(Failure(error)))
        self.assertEqual("no such socket", trouble(Failure(ValueError("no such socket"))))

    def test_port_in_use(self) -> None:
        """A port in use is `CannotListenError` in both families."""
        if not has_ipv6():
            raise SkipTest("this host has no IPv6")
        with socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", 0))
            other.listen()
            endpoint = f"tcp6:{other.getsockname()[1]}:interface=\\:\\:1"
            (found,) = listen(SimpleNamespace(), endpoint, self.factory())
            self.failureResultOf(found, CannotListenError)


class FirstByteTests(SynchronousTestCase):
    """Tests of an accepted connection on a real socket, until its stream is built."""

    def setUp(self) -> None:
        self.reactor = SocketReactor()
        self.addCleanup(self.reactor.close)
        self.turns = Turns(self.reactor)
        self.admission = Admission(ConnectionLimits(), self.reactor)
        self.refused: list[Ending] = []
        self.built: list[StreamConnection] = []

    def accept(self, *, direct_tls: bool = False, first: bytes = b"", crowd: int = 0) -> tuple[socket.socket, Any]:
        """Connect and send `first` before it is accepted; return the client's socket, and our protocol."""
        for number in range(crowd):
            self.admission.admit(f"198.51.100.{number}")

        def build(admitted: AdmittedConnection) -> StreamConnection:
            tls: Any = lambda order: server_context_of().for_domain(LOCAL)  # noqa: E731
            stream = StreamConnection(
                ToyEngine(), Recorder(), clock=self.reactor, role="receiving", tls=tls, direct_tls=direct_tls, turns=self.turns,
                options=ConnectionOptions(negotiation_timeout=None),
            )
            self.built.append(stream)
            return stream

        factory = StreamFactory(build, self.admission, lambda address, ending: self.refused.append(ending), direct_tls=direct_tls)
        near, far = connected()
        self.addCleanup(near.close)
        near.sendall(first)
        near.setblocking(False)
        protocol = factory.buildProtocol(peer("192.0.2.1"))
        serve(self.reactor, far, protocol)
        return near, protocol

    def shake(self, near: socket.socket) -> SSL.Connection:
        """Do the client's part of a TLS handshake."""
        return client_handshake(self.reactor, near)

    def test_read_as_it_is_accepted(self) -> None:
        """Input that has already arrived is read at once, without waiting for the reactor. In a crowd it waits for its turn."""
        self.accept(first=b"a\n")
        self.assertEqual(1, len(self.built))
        self.accept(first=b"a\n", crowd=CROWD)
        self.assertEqual(1, len(self.built))
        self.reactor.settle()
        self.assertEqual([[b"a\n"], [b"a\n"]], [cast(ToyEngine, each.engine).fed for each in self.built])

    def test_direct_tls(self) -> None:
        """XEP-0368: OpenSSL reads the socket from the first byte of TLS, whether that arrives before the accept or later."""
        for crowd in (0, CROWD):
            near, _ = self.accept(direct_tls=True, crowd=crowd)
            self.reactor.settle()
            self.assertEqual([], self.built)
            tls = self.shake(near)
            tls.send(b"inside\n")
            self.reactor.settle()
            (stream,) = self.built
            engine = cast(ToyEngine, stream.engine)
            self.assertEqual((engine.log, engine.fed), (["tls"], [b"inside\n"]))
            self.assertIsInstance(stream._transport, SocketTransport)
            stream.write(b"answer\n")
            self.reactor.settle()
            self.assertEqual(b"answer\n", tls.recv(99))
            self.built.clear()

    def test_direct_tls_in_pieces(self) -> None:
        """The handshake succeeds however few bytes arrive at once."""
        client = SSL.Connection(raw_context(leaf_for("peer.example")), None)
        client.set_connect_state()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        hello = client.bio_read(65536)
        near, _ = self.accept(direct_tls=True, first=hello[:1])
        self.assertEqual(1, len(self.built))
        for at in range(1, len(hello)):
            near.sendall(hello[at : at + 1])
            self.reactor.settle()
        client.bio_write(near.recv(65536))
        client.do_handshake()
        near.sendall(client.bio_read(65536))
        self.reactor.settle()
        self.assertEqual(["tls"], cast(ToyEngine, self.built[0].engine).log)

    def test_no_tls(self) -> None:
        """R7: input that is not TLS ends the connection with OpenSSL's text, without a stream error."""
        near, _ = self.accept(direct_tls=True, first=b"<stream:stream>")
        self.reactor.settle()
        ending = self.built[0].ending
        assert ending is not None
        self.assertEqual((Cause.TLS_FAILED, 0), (ending.cause, self.admission.total))
        self.assertNotIn(b"<", near.recv(99))

    def test_gone_without_a_byte(self) -> None:
        """R37: a connection that is closed or reset before its first byte is no refusal, makes room, and leaves memory at once."""
        for direct_tls in (False, True):
            for reset in (False, True):
                for early in (False, True):
                    near, protocol = self.accept(direct_tls=direct_tls)
                    if not early:
                        self.reactor.settle()
                    if reset:
                        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    near.close()
                    left = weakref.ref(protocol)
                    gc.disable()
                    try:
                        del protocol
                        self.reactor.settle()
                        self.assertEqual((None, 0, [], []), (left(), self.admission.total, self.refused, self.built))
                    finally:
                        gc.enable()

    def test_gone_unread(self) -> None:
        """R37: after a crowd has closed, its sockets are not read for a first byte (`net.fair_poll`). They leave memory at once too."""
        _, protocol = self.accept(direct_tls=True)
        transport, left = protocol.transport, weakref.ref(protocol)
        gc.disable()
        try:
            del protocol
            self.reactor.removeReader(transport)
            transport.connectionLost(Failure(ConnectionDone()))
            del transport
            self.assertEqual((None, 0), (left(), self.admission.total))
        finally:
            gc.enable()

    def test_silent_for_too_long(self) -> None:
        """R37: a connection that is silent under direct TLS is ended after the time of a negotiation, and leaves memory at once."""
        near, protocol = self.accept(direct_tls=True)
        left = weakref.ref(protocol)
        gc.disable()
        try:
            del protocol
            self.reactor.advance(31)
            self.reactor.settle()
            self.assertIsNone(left())
        finally:
            gc.enable()
        self.assertEqual(([Cause.NEGOTIATION_TIMEOUT], 0), ([ending.cause for ending in self.refused], self.admission.total))
        self.assertRaises(ConnectionResetError, near.recv, 1)

    def test_leaves_memory(self) -> None:
        """A stream of direct TLS that has ended is in no reference cycle."""
        near, protocol = self.accept(direct_tls=True)
        self.shake(near)
        left = [weakref.ref(protocol), weakref.ref(self.built.pop())]
        near.close()
        gc.disable()
        try:
            del protocol
            self.reactor.settle()
            self.assertEqual([None, None], [reference() for reference in left])
        finally:
            gc.enable()


class SystemdTests(SynchronousTestCase):
    """Tests of sockets that systemd passes."""

    def test_not_handed_over(self) -> None:
        """An endpoint whose socket was not passed is a failure with a text, by index or by name."""
        for endpoint in ("systemd:domain=INET:index=0", "systemd:domain=INET6:name=s2sgw.socket"):
            failure = self.failureResultOf(listen(MemoryReactor(), endpoint, ServerFactory())[0], ValueError)
            self.assertIn("no such socket", str(failure.value))

    def test_handed_over(self) -> None:
        """All sockets of a name are found: before Twisted's endpoints are imported, and after they have removed two variables."""
        with socket.socket() as first, socket.socket() as second, socket.socket() as deaf:
            for each in (first, second):
                each.bind(("127.0.0.1", 0))
                each.listen()
            start = max(map(int, os.listdir("/proc/self/fd"))) + 1  # other tests may have left descriptors open
            for at, each in enumerate((first, second, deaf)):
                os.dup2(each.fileno(), start + at)
                self.addCleanup(os.close, start + at)
            names = {"LISTEN_FDNAMES": "s2sgw:s2sgw:deaf:gone"}
            ours = {**names, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "4"}
            for environ in (names, ours):
                self.assertEqual([start, start + 1], handed_over("s2sgw", environ, start))
                self.assertEqual([], handed_over("other", environ, start))
                self.assertEqual([], handed_over("deaf", environ, start))
                self.assertEqual([], handed_over("gone", environ, start))
            self.assertEqual([], handed_over("s2sgw", {**ours, "LISTEN_PID": "1"}, start))
            self.assertEqual([], handed_over("s2sgw", {}, start))

    def test_after_twisted(self) -> None:
        """A new process finds its sockets by name after it has imported Twisted's endpoints."""
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='s2sgw')\n"
            "import twisted.internet.endpoints\nfrom s2sgw.net.listening import handed_over\nprint(handed_over('s2sgw'))"
        )
        with socket.create_server(("127.0.0.1", 0)) as held:
            command = [sys.executable, "-c", program, str(held.fileno())]
            answer = subprocess.run(command, pass_fds=[held.fileno()], capture_output=True, text=True, check=True)
        self.assertEqual("[3]", answer.stdout.strip())
