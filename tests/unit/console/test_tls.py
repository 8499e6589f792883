"""Tests of TLS on the console's port."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from s2sgw.console import tls as tls_module
from s2sgw.console.tls import LOOK_SECONDS, READ_BYTES, ConsoleTLS, ConsoleTLSFactory
from s2sgw.net import http_server
from s2sgw.net.certificates import UnusableCertificate
from s2sgw.net.http_server import BoundedSite
from tests.support.certificates import shared_root


class TCPTransport(StringTransport):
    """A transport with the methods that TLS needs of TCP."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""


class TLSCase(SynchronousTestCase):
    """Base class with a certificate in a folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.clock = Clock()
        self.path = self.folder / "console"
        self.issue("admin.example.org", "*.admin.example.org")

    def issue(self, *names: str) -> None:
        issued = shared_root().issue(dns=names)
        (self.folder / "console.crt").write_bytes(issued.pem_chain)
        key = self.folder / "console.key"
        key.write_bytes(issued.key_pem)
        key.chmod(0o600)


class TLSTests(TLSCase):
    def test_names(self) -> None:
        """The names of the certificate are read. A certificate that cannot be read is refused."""
        self.assertEqual(("admin.example.org", "*.admin.example.org"), ConsoleTLS(self.path, self.clock.seconds).names)
        self.assertRaises(UnusableCertificate, ConsoleTLS, self.folder / "other", self.clock.seconds)

    def test_renewal(self) -> None:
        """A renewed certificate is used within a minute. One that cannot be read changes nothing."""
        tls = ConsoleTLS(self.path, self.clock.seconds)
        first = tls.credential
        self.issue("new.example.org")
        tls.serverConnectionForTLS(None)
        self.assertIs(first, tls.credential)
        self.clock.advance(LOOK_SECONDS)
        tls.serverConnectionForTLS(None)
        self.assertEqual(("new.example.org",), tls.names)
        for text in ("nonsense", None):
            if text is None:
                (self.folder / "console.crt").unlink()
            else:
                (self.folder / "console.crt").write_text(text)
            self.clock.advance(LOOK_SECONDS)
            tls.serverConnectionForTLS(None)
            self.assertEqual(("new.example.org",), tls.names)

    def test_alert(self) -> None:
        """A changed certificate that cannot be used is an alert within a minute, without a connection, until it is mended."""
        tls = ConsoleTLS(self.path, self.clock.seconds)
        (self.folder / "console.crt").write_text("nonsense")
        self.assertEqual([], tls.alerts())
        self.clock.advance(LOOK_SECONDS)
        (alert,) = tls.alerts()
        self.assertIn("console.crt: holds no certificate in PEM", alert)
        self.assertEqual([alert], tls.alerts())
        self.issue("new.example.org")
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual([], tls.alerts())

    def test_any_error_is_an_alert(self) -> None:
        """An unknown kind of key, or a file that is removed at that moment, is an alert too. The question about the alerts does not fail."""
        tls = ConsoleTLS(self.path, self.clock.seconds)
        for error in (UnsupportedAlgorithm("curve 1.2.3"), FileNotFoundError(2, "No such file"), ValueError("no key"), SSL.Error()):
            self.issue("new.example.org")
            self.patch(tls_module, "read", Mock(side_effect=error))
            self.clock.advance(LOOK_SECONDS)
            (alert,) = tls.alerts()
            self.assertIn(str(error) or "Error", alert)
            self.assertEqual([alert], tls.alerts())

    def test_full(self) -> None:
        """A connection that the site refuses is refused. One that does not complete the handshake is closed. Few bytes are read at once."""
        site = BoundedSite(Resource(), self.clock)
        factory: Any = ConsoleTLSFactory(ConsoleTLS(self.path, self.clock.seconds), site, self.clock)
        protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        transport: Any = TCPTransport()
        protocol.makeConnection(transport)
        self.assertEqual((1, READ_BYTES), (len(site), transport.bufferSize))
        self.clock.advance(http_server.REQUEST_SECONDS)
        self.assertTrue(transport.disconnected or transport.disconnecting)
        protocol.wrappedProtocol.trusted = True
        self.patch(http_server, "CONNECTIONS", 1)
        self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "192.0.2.2", 1)))
