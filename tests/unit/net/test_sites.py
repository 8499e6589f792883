"""Tests of the networks that an address belongs to."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.sites import site_path


class SiteTests(SynchronousTestCase):
    """Tests of an address's sites, from the widest to the narrowest."""

    def test_ipv4(self) -> None:
        """An IPv4 address counts with its /24, in any spelling."""
        for spelled in ("192.0.2.77", "::ffff:192.0.2.77"):
            self.assertEqual(site_path(spelled), ("192.0.2.0/24", "192.0.2.77/32"))

    def test_ipv6(self) -> None:
        """An IPv6 address counts by its /64, and with the /56 and the /48 around that."""
        path = ("2001:db8:1::/48", "2001:db8:1:200::/56", "2001:db8:1:234::/64")
        self.assertEqual(site_path("2001:db8:1:234::5"), path)
        self.assertEqual(site_path("fe80::1%eth0")[-1], "fe80::/64")

    def test_no_address(self) -> None:
        """Any other text is a site of its own."""
        self.assertEqual(site_path("a socket"), ("a socket",))
