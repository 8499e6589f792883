"""Tests of copying between two sockets, on real sockets."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import cast

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.handover import RelayedTransport
from s2sgw.net.relay import HALF_CLOSED_SECONDS, READ_BYTES, Relay, can_be_relayed
from tests.support.socket_reactor import SocketReactor, connected, serve

MUCH = bytes(range(256)) * 40_000
RESET = struct.pack("ii", 1, 0)


class Side(Protocol):
    """The protocol of one transport."""

    reason: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class RelayTests(SynchronousTestCase):
    """`client` is connected to the relay, and the relay to `home`."""

    def setUp(self) -> None:
        self.reactor = SocketReactor()
        self.addCleanup(self.reactor.close)
        self.client, accepted = connected()
        made, self.home = connected()
        self.sides = (Side(), Side())
        self.near, self.far = serve(self.reactor, accepted, self.sides[0]), serve(self.reactor, made, self.sides[1])
        for end in (self.client, self.home):
            end.setblocking(False)
            self.addCleanup(end.close)
        self.may_copy = True
        self.relay = Relay(self.near, self.far, lambda: self.may_copy)
        self.relay.begin(b"greeting ")

    def read(self, end: socket.socket) -> bytes | None:
        """Return all that comes; None: the end alone."""
        data = b""
        while True:
            self.reactor.settle()
            try:
                part = end.recv(1_000_000)
            except BlockingIOError:
                return data
            if not part:
                return data or None
            data += part

    def test_both_ways(self) -> None:
        """The greeting comes first, then all bytes are copied."""
        self.client.send(b"one")
        self.home.send(b"two")
        self.assertEqual((self.read(self.home), self.read(self.client)), (b"greeting one", b"two"))

    def test_back_pressure(self) -> None:
        """A side that reads nothing stops the other one. When it reads again, everything comes, unchanged."""
        for source, target in ((self.client, self.home), (self.home, self.client)):
            self.read(target)
            sent = 0
            while True:
                try:
                    sent += source.send(MUCH[sent % len(MUCH) :])
                except BlockingIOError:
                    before = sent
                    self.reactor.settle()
                    try:
                        sent += source.send(MUCH[sent % len(MUCH) :])
                    except BlockingIOError:
                        self.assertEqual(sent, before)
                        break
            waiting = [len(end._pending) for end in (self.relay.near, self.relay.far)]
            self.assertLessEqual(max(waiting), READ_BYTES)
            self.assertGreater(max(waiting), 0)
            got = self.read(target)
            assert got is not None
            self.assertEqual(len(got), sent)
            self.assertEqual(got[:1000], MUCH[:1000])

    def test_without_lease(self) -> None:
        """Without the lease nothing is copied: both connections end when bytes come, from either side."""
        self.read(self.home)
        self.may_copy = False
        self.client.send(b"late")
        self.reactor.settle()
        for side in self.sides:
            assert side.reason is not None
            side.reason.trap(ConnectionAborted)
        self.assertRaises(ConnectionResetError, self.home.recv, 100)

    def test_without_lease_what_waits(self) -> None:
        """Bytes that wait for one side are not sent without the lease."""
        while True:
            try:
                self.client.send(MUCH)
            except BlockingIOError:
                self.reactor.settle()
                if self.relay.far._pending:
                    break
        self.may_copy = False
        before = 0
        while self.sides[1].reason is None:
            before += len(self.home.recv(1_000_000))
            self.reactor.settle()
        self.assertGreater(before, 0)
        self.sides[1].reason.trap(ConnectionAborted)

    def test_without_lease_one_that_takes_again(self) -> None:
        """Nothing is sent without the lease when a side takes data again: its connection ends."""
        far = self.relay.far
        while not far._pending:
            try:
                self.client.send(MUCH)
            except BlockingIOError:
                self.reactor.settle()
        self.may_copy = False
        sent: list[bytes] = []

        def send(data: bytes) -> int:
            sent.append(data)
            return len(data)

        far._socket = cast(socket.socket, SimpleNamespace(send=send))
        self.assertIsNone(far.doWrite())
        self.assertEqual([], sent)
        self.assertAborted()

    def test_half_close(self) -> None:
        """The end of one direction is passed on behind all data; the other direction goes on until its own end."""
        self.client.send(b"last")
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(self.read(self.home), b"greeting last")
        self.assertIsNone(self.read(self.home))
        self.home.send(b"answer")
        self.assertEqual(self.read(self.client), b"answer")
        self.home.shutdown(socket.SHUT_WR)
        self.assertIsNone(self.read(self.client))
        for side in self.sides:
            assert side.reason is not None
            side.reason.trap(ConnectionDone)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_half_close_behind_what_waits(self) -> None:
        """The end of the input of a side is passed on when everything before it was sent."""
        sent = 0
        while True:
            try:
                sent += self.client.send(MUCH)
            except BlockingIOError:
                self.reactor.settle()
                if len(self.relay.far._pending):
                    break
        self.client.shutdown(socket.SHUT_WR)
        got = self.read(self.home)
        assert got is not None
        self.assertEqual(len(got), sent + len(b"greeting "))
        self.assertIsNone(self.read(self.home))

    def test_half_closed_for_ever(self) -> None:
        """A connection of which one direction is over is ended after a while."""
        self.client.shutdown(socket.SHUT_WR)
        self.reactor.settle()
        self.reactor.advance(HALF_CLOSED_SECONDS)
        self.assertAborted()

    def test_reset(self) -> None:
        """The loss of one side resets the other one."""
        self.read(self.home)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.client.close()
        self.reactor.settle()
        self.assertAborted()
        self.assertRaises(ConnectionResetError, self.home.recv, 100)

    def test_reset_of_a_side_that_is_not_read(self) -> None:
        """A side that breaks while data waits for it ends the other one too."""
        while not len(self.relay.near._pending):
            try:
                self.home.send(MUCH)
            except BlockingIOError:
                self.reactor.settle()
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.client.close()
        self.reactor.settle()
        self.assertAborted()

    def test_abort(self) -> None:
        """An abort ends both connections, once."""
        self.relay.abort()
        self.relay.abort()
        self.assertAborted()
        self.assertRaises(ConnectionResetError, self.client.recv, 100)

    def assertAborted(self) -> None:
        for side in self.sides:
            assert side.reason is not None
            side.reason.trap(ConnectionAborted)
        self.assertEqual((self.reactor.getReaders(), self.reactor.getWriters(), self.reactor.getDelayedCalls()), ([], [], []))

    def test_transports(self) -> None:
        """Only a TCP transport can be relayed, also with other ends than those of its socket."""
        relayed = RelayedTransport(self.near, self.near.getPeer(), self.near.getHost())
        self.assertEqual([True, True, False], [can_be_relayed(each) for each in (self.near, relayed, StringTransport())])
