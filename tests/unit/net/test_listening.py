"""Accepting connections, as many as there may be."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any
from unittest import SkipTest

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import listening
from s2sgw.net.connection import StreamConnection
from s2sgw.net.listening import AcceptanceLimits, Admission, StreamFactory, has_ipv6, listen, site_of
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.wires import CountingTransport, Recorder, ToyEngine


def peer(host: str) -> IAddress:
    return IPv6Address("TCP", host, 4000) if ":" in host else IPv4Address("TCP", host, 4000)


class AcceptanceTests(SynchronousTestCase):
    """R37 and decision 13: everything is bounded, connections too."""

    def factory(self, total: int = 3, per_address: int = 2) -> StreamFactory:
        self.refused: list[tuple[str, Ending]] = []
        self.admission = Admission(AcceptanceLimits(total, per_address))
        return StreamFactory(self.build, self.admission, lambda address, ending: self.refused.append((address, ending)))

    def build(self) -> StreamConnection:
        return StreamConnection(ToyEngine(), Recorder(), clock=Clock(), role="receiving", tls=lambda order: None)

    def test_each_connection_is_its_own(self) -> None:
        """Every transport gets a connection of its own."""
        factory = self.factory()
        one, two = (factory.buildProtocol(peer("192.0.2.1")) for _ in range(2))
        self.assertIsInstance(one, StreamConnection)
        self.assertIsNot(one, two)
        self.assertEqual(self.admission.total, 2)

    def test_per_address(self) -> None:
        """An address has so many, and others are not concerned; who is refused is told."""
        factory = self.factory()
        for _ in range(2):
            factory.buildProtocol(peer("192.0.2.1"))
        self.assertIsNone(factory.buildProtocol(peer("192.0.2.1")))
        self.assertIsNotNone(factory.buildProtocol(peer("192.0.2.2")))
        ((address, ending),) = self.refused
        self.assertEqual((address, ending.cause, self.admission.refused), ("192.0.2.1", Cause.TOO_MANY_STREAMS, 1))

    def test_in_all(self) -> None:
        """All addresses together have so many."""
        factory = self.factory()
        for number in range(3):
            factory.buildProtocol(peer(f"192.0.2.{number}"))
        self.assertIsNone(factory.buildProtocol(peer("192.0.2.9")))
        self.assertIn("3 connections are open", self.refused[0][1].detail)

    def test_released_with_the_transport(self) -> None:
        """Room is made when the transport is gone, not when the stream has ended."""
        factory = self.factory(per_address=1)
        connection = factory.buildProtocol(peer("192.0.2.1"))
        connection.makeConnection(CountingTransport())
        connection.close(Ending(Cause.CLOSED))
        self.assertIsNone(factory.buildProtocol(peer("192.0.2.1")))
        connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.admission.total, self.admission._open), (0, {}))
        self.assertIsNotNone(factory.buildProtocol(peer("192.0.2.1")))

    def test_one_of_several_released(self) -> None:
        """What is left of an address stays counted."""
        admission = Admission(AcceptanceLimits(0, 2))
        for _ in range(2):
            self.assertIsNone(admission.admit("192.0.2.1"))
        admission.release("192.0.2.1")
        self.assertIsNone(admission.admit("192.0.2.1"))
        self.assertIsNotNone(admission.admit("192.0.2.1"))

    def test_no_limit(self) -> None:
        """Nought is no limit."""
        admission = Admission(AcceptanceLimits(0, 0))
        self.assertEqual([admission.admit("192.0.2.1") for _ in range(1000)], [None] * 1000)

    def test_what_has_no_address(self) -> None:
        """Transports without an address, as of a socket in the file system, count together."""
        factory = self.factory()
        for _ in range(2):
            self.assertIsNotNone(factory.buildProtocol(UNIXAddress("/run/socket")))
        self.assertIsNone(factory.buildProtocol(None))

    def test_sites(self) -> None:
        """An IPv6 /64 is one site, a mapped address is its IPv4 one, a zone does not count."""
        self.assertEqual(site_of("2001:db8:0:1:a::1"), site_of("2001:db8:0:1:ffff::2"))
        self.assertNotEqual(site_of("2001:db8:0:1::1"), site_of("2001:db8:0:2::1"))
        self.assertEqual(site_of("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(site_of("fe80::1%eth0"), site_of("fe80::2"))
        self.assertEqual(site_of("somewhere"), "somewhere")

    def test_listen(self) -> None:
        """A TCP port with an interface is one port of that family."""
        reactor = MemoryReactor()
        (listening,) = listen(reactor, "tcp:5269:interface=127.0.0.1:backlog=7", self.factory())
        self.successResultOf(listening)
        port, _factory, backlog, interface = reactor.tcpServers[0]
        self.assertEqual((port, backlog, interface), (5269, 7, "127.0.0.1"))
        self.assertRaises(ValueError, listen, reactor, "nonsense:1", self.factory())

    def test_both_families(self) -> None:
        """A TCP port without an interface listens on IPv4 and on IPv6, each with a socket of its own; without IPv6, on IPv4 alone."""
        for available in (True, False):
            self.patch(listening, "has_ipv6", lambda available=available: available)
            adopted: list[int] = []
            self.patch(listening, "_adopt_tcp6", lambda reactor, place, factory, adopted=adopted: adopted.append(place.port))
            reactor = MemoryReactor()
            self.assertEqual(2 if available else 1, len(listen(reactor, "tcp:5269", self.factory())))
            self.assertEqual([5269] if available else [], adopted)
            self.assertEqual([(5269, "0.0.0.0")], [(each[0], each[3]) for each in reactor.tcpServers])

    def test_ipv6_alone(self) -> None:
        """An IPv6 socket takes no connection of IPv4 (IPV6_V6ONLY), whatever the system's default is."""
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


class SystemdTests(SynchronousTestCase):
    """Sockets that systemd holds."""

    def test_not_handed_over(self) -> None:
        """An endpoint whose socket was not handed over is a failure in words, by index or by name."""
        for endpoint in ("systemd:domain=INET:index=0", "systemd:domain=INET6:name=s2sgw.socket"):
            failure = self.failureResultOf(listen(MemoryReactor(), endpoint, ServerFactory())[0], ValueError)
            self.assertIn("no such socket", str(failure.value))
