"""Tests of the bound of new home records."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import new_homes
from s2sgw.cluster.new_homes import DAY, NewHomes
from s2sgw.xmpp.jid import Domain


def domain(name: str) -> Domain:
    return Domain.parse(name)


class NewHomesTests(SynchronousTestCase):
    def taken(self, homes: NewHomes, site: str, number: int, now: float) -> int:
        return sum(homes.take(domain(f"d{each}.{site}"), now) for each in range(number))

    def test_bound(self) -> None:
        """Sub-domains of one domain share the bound, at any depth. It is there again a day later, and other domains have their own."""
        homes = NewHomes(5)
        self.assertEqual(3, self.taken(homes, "one.example", 3, 0.0))
        self.assertEqual(2, self.taken(homes, "deep.one.example", 9, 0.0))
        self.assertEqual(0, self.taken(homes, "one.example", 9, DAY / 6))
        self.assertEqual(1, self.taken(homes, "one.example", 9, DAY / 5 + 1))
        self.assertEqual(5, self.taken(homes, "two.example", 9, 0.0))
        self.assertEqual(5, self.taken(homes, "one.example", 9, 3 * DAY))

    def test_addresses(self) -> None:
        """Each address is a site of its own."""
        homes = NewHomes(1)
        self.assertEqual([True, True, False], [homes.take(domain(name), 0.0) for name in ("[::1]", "[::2]", "[::1]")])

    def test_given_back(self) -> None:
        """A record that was not made is not counted, and the bound is not exceeded by that."""
        homes = NewHomes(2)
        homes.give_back(domain("a.one.example"), 0.0)
        homes.take(domain("a.one.example"), 0.0)
        homes.give_back(domain("a.one.example"), 0.0)
        homes.give_back(domain("a.one.example"), 0.0)
        self.assertEqual(2, self.taken(homes, "one.example", 9, 0.0))

    def test_remembered(self) -> None:
        """The memory is bounded: the domain that was not used for the longest is forgotten."""
        with mock.patch.object(new_homes, "REMEMBERED", 2):
            homes = NewHomes(1)
        for site in ("one.example", "two.example", "one.example", "three.example"):
            self.taken(homes, site, 1, 0.0)
        self.assertEqual([0, 0], [self.taken(homes, site, 1, 0.0) for site in ("one.example", "three.example")])
        self.assertEqual(1, self.taken(homes, "two.example", 1, 0.0))
