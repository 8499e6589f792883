"""Tests of the notifications to systemd, on a socket of the test."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.systemd import ServiceNotifications


class ServiceNotificationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = f"/tmp/s2sgw-test-{os.getpid()}-{id(self)}"
        self.addCleanup(lambda: Path(self.path).unlink(missing_ok=True))

    def listen(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(address)
        listener.setblocking(False)
        return listener

    def test_messages(self) -> None:
        """Each message is spelled as in sd_notify(3). A status is one line."""
        heard = self.listen(self.path)
        it = ServiceNotifications({"NOTIFY_SOCKET": self.path}, lambda: 17)
        it.ready("2 streams,\n0 waiting")
        it.reloading()
        it.status("x")
        it.alive()
        it.stopping()
        self.assertEqual(
            [b"READY=1\nSTATUS=2 streams, 0 waiting", b"RELOADING=1\nMONOTONIC_USEC=17", b"STATUS=x", b"WATCHDOG=1", b"STOPPING=1\nSTATUS=stopping"],
            [heard.recv(1000) for _ in range(5)],
        )

    def test_abstract_socket(self) -> None:
        """A name with @ is in the abstract namespace."""
        name = f"s2sgw-{os.getpid()}-{id(self)}"
        heard = self.listen("\0" + name)
        ServiceNotifications({"NOTIFY_SOCKET": "@" + name}).alive()
        self.assertEqual(b"WATCHDOG=1", heard.recv(1000))

    def test_no_listener(self) -> None:
        """Without systemd, or if it does not listen, nothing happens."""
        ServiceNotifications({}).ready("")
        ServiceNotifications({"NOTIFY_SOCKET": self.path}).ready("")

    def test_watchdog(self) -> None:
        """The interval is half of systemd's timeout, if that is meant for this process."""
        for environ, seconds in (
            ({}, None), ({"WATCHDOG_USEC": "30000000"}, 15.0), ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None), ({"WATCHDOG_USEC": "x"}, None), ({"WATCHDOG_USEC": "0"}, None),
        ):
            self.assertEqual(seconds, ServiceNotifications(environ).watchdog_interval)
