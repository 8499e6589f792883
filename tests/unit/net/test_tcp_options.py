"""Tests of the state of a connection that TCP reports."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.tcp_options import unacknowledged_bytes, unread_bytes


class BytesTests(SynchronousTestCase):
    """Tests of the number of sent bytes that the other machine has not acknowledged, and of bytes that were not read."""

    def setUp(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.near = socket.create_connection(listener.getsockname())
        self.far, _ = listener.accept()
        for each in (listener, self.near, self.far):
            self.addCleanup(each.close)

    def test_acknowledged(self) -> None:
        """Bytes that have arrived are acknowledged, whether they were read or not."""
        self.near.send(b" ")
        self.assertEqual(b" ", self.far.recv(1, socket.MSG_PEEK))
        self.assertEqual(0, unacknowledged_bytes(SimpleNamespace(socket=self.near)))

    def test_not_acknowledged(self) -> None:
        """Bytes that the other machine has no room for are not acknowledged."""
        self.near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.near.send(b"x" * 65536)
        self.assertGreater(unacknowledged_bytes(SimpleNamespace(socket=self.near)), 0)

    def test_unread(self) -> None:
        """Bytes that have arrived count until they are read."""
        transport = SimpleNamespace(socket=self.far)
        self.near.send(b"ab")
        self.far.recv(1, socket.MSG_PEEK)
        self.assertEqual(2, unread_bytes(transport))
        self.far.recv(2)
        self.assertEqual(0, unread_bytes(transport))

    def test_unknown(self) -> None:
        """For a transport without a socket, or with a closed one, the number is unknown."""
        self.near.close()
        for transport in (SimpleNamespace(), SimpleNamespace(socket=self.near)):
            self.assertEqual((0, 0), (unacknowledged_bytes(transport), unread_bytes(transport)))
