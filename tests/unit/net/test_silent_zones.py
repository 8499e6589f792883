"""Tests of zones whose name servers do not answer."""

from __future__ import annotations

import dns.name
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net import silent_zones
from s2sgw.net.silent_zones import SILENT_SECONDS, SilentZones


class SilentZonesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.zones = SilentZones(self.clock)

    def silent(self, *names: str, site: str = "here") -> None:
        for name in names:
            self.zones.silent(dns.name.from_text(name), site)

    def holds(self, name: str, site: str = "here") -> bool:
        return self.zones.is_silent(dns.name.from_text(name), site)

    def test_few_names(self) -> None:
        """Four different silent names below one domain make it silent for a minute. One name asked often does not."""
        self.silent(*["_xmpp-server._tcp.a.zone.example"] * 9, "b.zone.example", "c.zone.example", "A.ZONE.example")
        self.assertFalse(self.holds("x.zone.example"))
        self.silent("d.zone.example")
        self.assertTrue(self.holds("x.zone.example") and self.holds("_xmpp-server._tcp.y.zone.EXAMPLE"))
        self.assertTrue(self.holds("deep.er.zone.example"))
        self.assertFalse(self.holds("zone.example") or self.holds("other.example"))
        self.clock.advance(SILENT_SECONDS)
        self.assertFalse(self.holds("x.zone.example"))
        self.silent("d.zone.example")
        self.assertFalse(self.holds("x.zone.example"))

    def test_each_its_own_parent(self) -> None:
        """Names that are each below a different parent are still below one domain."""
        self.silent(*(f"x.y{number}.zone.example" for number in range(4)))
        self.assertTrue(self.holds("x.y9.zone.example"))

    def test_answer(self) -> None:
        """One answer for a name below it ends the silence."""
        self.silent(*(f"x{number}.zone.example" for number in range(4)))
        self.zones.answered(dns.name.from_text("_xmpp-server._tcp.good.zone.example"))
        self.assertFalse(self.holds("x9.zone.example"))

    def test_others_are_not_decided_for(self) -> None:
        """The owner of some domains cannot make others below the same public suffix silent."""
        self.silent(*(f"bad{number}.example" for number in range(9)), *(f"bad{number}.co.uk" for number in range(9)))
        self.assertFalse(self.holds("good.example") or self.holds("good.co.uk"))
        self.silent(*(f"x{number}.bad.co.uk" for number in range(4)))
        self.assertTrue(self.holds("y.bad.co.uk"))
        self.assertFalse(self.holds("y.good.co.uk"))

    def test_other_networks(self) -> None:
        """A network without an unanswered question may ask once. If that one gets no answer either, it may not ask again."""
        self.silent(*(f"x{number}.zone.example" for number in range(9)))
        self.assertFalse(self.holds("healthy.zone.example", "there"))
        self.silent("y.zone.example", site="there")
        self.assertTrue(self.holds("z.zone.example", "there"))
        self.assertFalse(self.holds("z.zone.example", "elsewhere"))

    def test_odd_names(self) -> None:
        """Names without a domain above them do not count."""
        self.silent(".", "com", "_tcp", "_a._b.com", "a\\.b.c\\255.d.example")
        self.assertFalse(self.holds("com") or self.holds("."))

    def test_bounded(self) -> None:
        """The number of remembered domains is bounded, and so are the levels of one name."""
        self.zones._zones.limit = 10
        self.silent(*(f"x.zone{number}.example" for number in range(100)), ".".join(["a"] * 100) + ".example")
        self.assertEqual(len(self.zones._zones), 10)
        self.patch(silent_zones, "SITES", 5)
        for number in range(100):
            self.silent("x.zone.example", site=f"site {number}")
        self.assertEqual([len(zone.sites) for zone in self.zones._zones.values()][-1], 5)

    def test_one_network_with_many(self) -> None:
        """A network that asks for names below many silent domains does not make the gateway forget those that others asked for."""
        self.zones._zones.limit = 10
        self.silent(*(f"x{number}.zone.example" for number in range(4)), site="there")
        for number in range(100):
            self.silent(*(f"x{each}.zone{number}.example" for each in range(4)))
        self.assertTrue(self.holds("y.zone.example", "there"))
        self.assertTrue(self.holds("y.zone99.example"))
        self.assertFalse(self.holds("y.zone0.example"))
