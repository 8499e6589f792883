"""Tests of the addresses that a stranger's DNS may name, and of our own addresses."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.addresses import is_public, is_this_machine


class PublicTests(SynchronousTestCase):
    """Tests of the special-purpose registries of IANA."""

    def test_public(self) -> None:
        """Ordinary addresses of both families are public."""
        for address in ("8.8.8.8", "172.15.0.1", "172.32.0.1", "223.255.255.255", "2a00:1450::1", "2606:4700::1", "2001:4860::1"):
            self.assertTrue(is_public(address), address)

    def test_not_public(self) -> None:
        """Not public are loopback, private, link-local, shared, mapped, NAT64, 6to4, multicast, unspecified and documentation addresses, and other text."""
        for address in (
            *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.53.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
            *("192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
            *("240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::8.8.8.8", "64:ff9b::808:808"),
            *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "fc00::1", "fd12::1", "fe80::1"),
            *("fe80::1%eth0", "fec0::1", "ff02::1", "host.example", ""),
        ):
            self.assertFalse(is_public(address), address)

    def test_this_machine(self) -> None:
        """An address that a socket can be bound to is ours. A documentation address is not."""
        self.assertTrue(is_this_machine("127.0.0.1"))
        self.assertFalse(is_this_machine("192.0.2.1"))
        self.assertFalse(is_this_machine("2001:db8::1"))
