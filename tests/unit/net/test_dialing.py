"""Tests of connecting to one address."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dialing import CONNECT_TIMEOUT, DialFailed, DirectDialler
from s2sgw.xmpp.ending import Cause


class DialTests(SynchronousTestCase):
    """Tests of `DirectDialler` on a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.protocol = Protocol()

    def dial(self, address: str = "192.0.2.1", timeout: float = CONNECT_TIMEOUT, sources: Sequence[str] = ()) -> Deferred[None]:
        return DirectDialler(self.reactor, timeout=timeout, sources=sources)(address, 5269, lambda: self.protocol)

    def connect(self) -> StringTransport:
        factory = self.reactor.tcpClients[0][2]
        built = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5269))
        transport = StringTransport()
        assert built is not None
        built.makeConnection(transport)
        return transport

    def fail_with(self, problem: Exception) -> None:
        self.reactor.tcpClients[0][2].clientConnectionFailed(self.reactor.connectors[0], Failure(problem))

    def test_connected(self) -> None:
        """The given protocol is connected, and the result comes when it has its transport."""
        result = self.dial()
        transport = self.connect()
        self.assertNoResult(result)
        self.reactor.advance(0)
        self.assertIsNone(self.successResultOf(result))
        self.assertIs(self.protocol.transport, transport)

    def test_where_and_how_long(self) -> None:
        """Address, port, timeout and source address are those requested."""
        self.dial(timeout=7.0, sources=("198.51.100.1",)).addErrback(lambda _: None)
        host, port, _factory, timeout, bind = self.reactor.tcpClients[0]
        self.assertEqual((host, port, timeout, bind), ("192.0.2.1", 5269, 7.0, ("198.51.100.1", 0)))

    def test_failures(self) -> None:
        """Each failure has its cause, and names the address."""
        for problem, cause in (
            (error.ConnectionRefusedError(), Cause.CONNECTION_REFUSED),
            (error.TimeoutError(), Cause.CONNECTION_TIMEOUT),
            (error.TCPTimedOutError(), Cause.CONNECTION_TIMEOUT),
            (error.NoRouteError(), Cause.UNREACHABLE),
            (error.ConnectError(101, "Network is unreachable"), Cause.UNREACHABLE),
            (error.ConnectBindError(99, "Cannot assign requested address"), Cause.UNREACHABLE),
        ):
            self.setUp()
            result = self.dial("2001:db8::1")
            self.fail_with(problem)
            failure = self.failureResultOf(result, DialFailed)
            self.assertEqual((failure.value.ending.cause, failure.value.address), (cause, "2001:db8::1"))
            self.assertIn("[2001:db8::1]:5269", failure.value.ending.detail)
        self.assertEqual(failure.value.ending.detail, "[2001:db8::1]:5269: Cannot assign requested address")

    def test_names_are_not_resolved(self) -> None:
        """A host name is an error of the caller: a look-up here would bypass the rules for addresses."""
        self.assertRaises(ValueError, self.dial, "peer.example")
        self.assertEqual(self.reactor.tcpClients, [])

    def test_cancelled_while_connecting(self) -> None:
        """Cancelling ends the attempt. Its late failure is ignored."""
        result = self.dial()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(self.reactor.connectors[0]._disconnected)
        self.fail_with(error.UserError())

    def test_cancelled_when_connected(self) -> None:
        """Cancelling between the connection and its result closes the connection."""
        result = self.dial()
        self.connect()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(self.reactor.connectors[0]._disconnected)
        self.reactor.advance(0)


class DiallerTests(SynchronousTestCase):
    """Tests of `DirectDialler`: its source addresses, and connections that are no longer needed."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def test_sources(self) -> None:
        """Of several source addresses the first of the family is used. If there is none, the system chooses."""
        dialler = DirectDialler(self.reactor, sources=("198.51.100.1", "198.51.100.2", "2001:db8::9"))
        plain = DirectDialler(self.reactor)
        for each, address in ((dialler, "192.0.2.1"), (dialler, "2001:db8::1"), (plain, "192.0.2.1")):
            each(address, 5269, Protocol).addErrback(lambda _: None)
        self.assertEqual([client[4] for client in self.reactor.tcpClients], [("198.51.100.1", 0), ("2001:db8::9", 0), None])

    def test_no_longer_wanted(self) -> None:
        """A connection that opens when it is no longer needed is closed, and the result says so."""
        result = DirectDialler(self.reactor)("192.0.2.1", 5269, lambda: None)
        self.assertIsNone(self.reactor.tcpClients[0][2].buildProtocol(None))
        self.reactor.advance(0)
        self.failureResultOf(result, DialFailed)

    def test_not_built_after_cancelling(self) -> None:
        """A connection that opens after the attempt was cancelled is closed without building a protocol."""
        result = DirectDialler(self.reactor)("192.0.2.1", 5269, lambda: self.fail("built"))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertIsNone(self.reactor.tcpClients[0][2].buildProtocol(None))
        self.reactor.advance(0)
