"""Tests of rates by site."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.site_rates import SiteRates
from s2sgw.net.sites import site_path


class SiteRatesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.rates = SiteRates(self.clock, rate=2, burst=5)

    def taken(self, address: str, times: int = 1000) -> int:
        """Return how many of this many requests pass."""
        return sum(self.rates.take(site_path(address)) for _ in range(times))

    def test_burst_and_rate(self) -> None:
        """A burst passes, then the rate applies. Unused tokens add up to the burst again, and no further."""
        self.assertEqual(self.taken("192.0.2.1"), 5)
        self.clock.advance(1)
        self.assertEqual(self.taken("192.0.2.1"), 2)
        self.clock.advance(1000)
        self.assertEqual(self.taken("192.0.2.1"), 5)

    def test_neighbours(self) -> None:
        """An IPv4 address is not limited by its neighbours."""
        self.assertEqual([self.taken(f"192.0.2.{host}", 20) for host in range(200)], [5] * 200)

    def test_ipv6(self) -> None:
        """65,536 networks of one IPv6 customer may send sixteen times as many requests as one of them. Others are not affected."""
        self.assertEqual(sum(self.taken(f"2001:db8:1:{net:x}::1", 10) for net in range(1000)), 80)
        self.assertEqual(self.taken("2001:db8:2::1"), 5)

    def test_refusals_cost_nothing(self) -> None:
        """A request that is refused takes no token of the networks around it."""
        self.taken("2001:db8:1::1")
        self.assertEqual(self.taken("2001:db8:1:1::1"), 5)

    def test_bounded(self) -> None:
        """The number of remembered sites is bounded."""
        self.rates._buckets.limit = 50
        for host in range(1000):
            self.rates.take((f"site {host}",))
        self.assertEqual(len(self.rates._buckets), 50)

    def test_one_customer_with_many(self) -> None:
        """The networks of one IPv6 customer do not make the gateway forget what others, or the customer itself, have used up."""
        self.rates._buckets.limit = 50
        self.taken("192.0.2.1")
        self.assertEqual(sum(self.taken(f"2001:db8:1:{net:x}::1", 10) for net in range(1000)), 80)
        self.assertEqual((self.taken("192.0.2.1"), self.taken("2001:db8:1:ffff::1")), (0, 0))

    def test_refused_by_a_wider_network(self) -> None:
        """A request that a wider network may not make takes no memory for a narrower one."""
        for net in range(1000):
            self.taken(f"2001:db8:1:{net:x}::1", 10)
        self.assertLess(len(self.rates._buckets), 50)
