"""Tests of endpoint strings and their error texts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.endpoint_strings import EndpointString


class EndpointStringTests(SynchronousTestCase):
    def test_taken_apart(self) -> None:
        """Ports, interfaces and families are read in every notation."""
        for text, kind, port, interface, families in (
            ("tcp:5269", "tcp", 5269, "", {4, 6}),
            ("tcp:port=5269:interface=127.0.0.1", "tcp", 5269, "127.0.0.1", {4}),
            ("tcp:5269:interface=0.0.0.0:backlog=9", "tcp", 5269, "0.0.0.0", {4}),
            ("tcp4:5269", "tcp4", 5269, "", {4}),
            ("tcp6:5269", "tcp6", 5269, "", {6}),
            ("tcp6:5269:interface=\\:\\:1", "tcp6", 5269, "::1", {6}),
            ("tcp:5269:\\:\\:1", "tcp", 5269, "::1", {6}),
            ("unix:/run/s2sgw/x", "unix", None, "", set()),
            ("systemd:domain=INET6:index=0", "systemd", None, "", set()),
            ("systemd:INET:name=s2sgw.socket", "systemd", None, "", set()), ("systemd:name=s2sgw", "systemd", None, "", set()),
        ):
            found = EndpointString.parse(text)
            self.assertEqual((kind, port, interface, families), (found.kind, found.port, found.interface, set(found.families)), text)

    def test_direct_tls_is_no_endpoint(self) -> None:
        """Twisted's `ssl:` and `tls:` are refused with the correct alternative: they would not open the port that they seem to name."""
        for text in ("ssl:5270", "tls:5270", "ssl:5270:privateKey=x.pem"):
            complaint = str(self.assertRaises(ValueError, EndpointString.parse, text))
            self.assertIn('for direct TLS write endpoint = "tcp:5270" and tls = "direct"', complaint)

    def test_shared(self) -> None:
        """A TCP port may be shared with other processes. Only "yes" says so, and the port must be known."""
        for text in ("tcp:5269:reuseport=yes", "tcp6:5269:reuseport=yes", "tcp4:5269:interface=192.0.2.1:reuseport=yes"):
            self.assertTrue(EndpointString.parse(text).reuses_port, text)
        self.assertFalse(EndpointString.parse("tcp:5269").reuses_port)
        for text, words in (
            ("tcp:5269:reuseport=no", "write reuseport=yes, or leave it out"), ("tcp:0:reuseport=yes", "reuseport needs a port"),
            ("tcp:5269:reuseport", "write reuseport=yes"), ("unix:/run/x:reuseport=yes", "unix: has no parameter reuseport"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, EndpointString.parse, text)), text)

    def test_refused(self) -> None:
        """Everything else is refused with its reason."""
        for text, words in (
            ("5269", 'write "tcp:5269"'), ("", "is not an endpoint"), ("tcp", "has no port"), ("tcp:x", 'port must be a number, not "x"'),
            ("tcp:-1", "port must be a number"), ("tcp:99999", "there is no port 99999 (0 to 65535)"),
            ("tcp:1:bogus=2", "has no parameter bogus; it has port, interface, backlog, reuseport"), ("tcp:1:a:2:yes:b", "has too many parts"),
            ("systemd:domain=INET6", "write name= or index="), ("systemd:domain=INET6:index=0:name=x", "write name= or index="), ("systemd:domain=INET6:index=x", "index must be a number"),
            ("unix:", "has no address"), ("udp:53", "is not an endpoint"),
            *((f"tcp:5269:interface={each}", "write \\\\: for each colon of an IPv6 address") for each in ("::1", "[::1]", "2001:db8::1", "::")),
            ("haproxy:tcp:5269", "is not an endpoint"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, EndpointString.parse, text)), text)
