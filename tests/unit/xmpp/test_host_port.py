"""Tests of hosts, ports and addresses as text."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.host_port import HostPort, canonical, ip_address, is_host, is_loopback


class HostPortTests(SynchronousTestCase):
    """Tests of the values of `route`, `dns.static` and `dns.servers`."""

    def test_spellings(self) -> None:
        """Names, IPv4 and IPv6 addresses are accepted, with and without a port."""
        table = {
            "host.example": ("host.example", 5269),
            "Host.Example:99": ("host.example", 99),
            "192.0.2.1": ("192.0.2.1", 5269),
            "192.0.2.1:5300": ("192.0.2.1", 5300),
            "2001:db8::1": ("2001:db8::1", 5269),
            "[2001:DB8:0::1]": ("2001:db8::1", 5269),
            "[2001:db8::1]:5300": ("2001:db8::1", 5300),
            "::ffff:192.0.2.1": ("192.0.2.1", 5269),
        }
        for text, expected in table.items():
            self.assertEqual(HostPort.parse(text, 5269), expected, text)

    def test_refused(self) -> None:
        """A text that is not a host with an optional port is refused."""
        for text in ("", ":53", "a b", "host:", "host:0", "host:65536", "host:x", "host:٣", "a:b:1", "[::1", "[host]", "[::1]x", "-a", "a/b:1"):
            with self.assertRaises(ValueError, msg=text):
                HostPort.parse(text, 5269)

    def test_ports_are_not_kept(self) -> None:
        """A text with a port takes no room among the addresses that are kept: each connection has another port."""
        HostPort.parse("192.0.2.1", 5269)
        kept = ip_address.cache_info().currsize
        for port in range(1, 9):
            HostPort.parse(f"192.0.2.1:{port}", 5269)
            HostPort.parse(f"[2001:db8::1]:{port}", 5269)
        self.assertEqual(kept, ip_address.cache_info().currsize)

    def test_facts(self) -> None:
        """An address needs no look-up, and is written so that it can be read back."""
        self.assertTrue(HostPort.parse("[::1]:53", 1).is_address)
        self.assertFalse(HostPort.parse("localhost", 1).is_address)
        self.assertTrue(HostPort.parse("127.53.0.1", 1).is_loopback)
        self.assertFalse(HostPort.parse("localhost", 1).is_loopback)
        self.assertEqual(str(HostPort("::1", 53)), "[::1]:53")
        self.assertEqual(str(HostPort("a.example", 53)), "a.example:53")


class AddressTests(SynchronousTestCase):
    """Tests of addresses and their comparison."""

    def test_loopback(self) -> None:
        """127.0.0.0/8, ::1, and mapped forms of them are loopback."""
        for address in ("127.0.0.1", "127.53.0.1", "::1", "::ffff:127.0.0.1"):
            self.assertTrue(is_loopback(address), address)
        for address in ("128.0.0.1", "::2", "::ffff:8.8.8.8", "localhost"):
            self.assertFalse(is_loopback(address), address)

    def test_canonical(self) -> None:
        """An address has one canonical spelling."""
        self.assertEqual(canonical("2001:DB8:0:0::1"), "2001:db8::1")
        self.assertEqual(canonical("::ffff:10.0.0.1"), "10.0.0.1")

    def test_hosts(self) -> None:
        """A host name may have an underscore and a trailing dot, but no white space, escape or leading hyphen."""
        for text in ("a", "a.example.", "_x.example", "xn--bcher-kva.example"):
            self.assertTrue(is_host(text), text)
        for text in (".", "", "a b", "a\\032b.example", "a\n", "-a", "a" * 300):
            self.assertFalse(is_host(text), text)
