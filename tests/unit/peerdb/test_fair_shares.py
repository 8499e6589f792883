"""Tests of the choice of names that give way to others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.peerdb.fair_shares import FairShares

NAMES = st.tuples(st.sampled_from("abcde"), st.sampled_from(("one.example", "two.example", "three.co.uk", "four.org"))).map(".".join)


class FairSharesTests(SynchronousTestCase):
    def test_sub_domains_push_out_each_other(self) -> None:
        """A million names under one domain do not displace those of other domains."""
        shares = FairShares(100, 1 << 30)
        for number in range(20):
            shares.put(f"friend{number}.example", 10)
        gone = [name for number in range(2000) for name in shares.put(f"a{number}.evil.example", 10)]
        self.assertEqual((len(shares), len(gone), [name for name in gone if "friend" in name]), (100, 1920, []))
        self.assertEqual(gone, [f"a{number}.evil.example" for number in range(1920)])

    def test_a_newcomer_has_room(self) -> None:
        """If no room is left, the domain with the most names gives one up for another domain's."""
        shares = FairShares(10, 1 << 30)
        for number in range(10):
            shares.put(f"{number}.large.example", 1)
        self.assertEqual([shares.put(f"{number}.other.example", 1) for number in range(3)], [[f"{number}.large.example"] for number in range(3)])
        self.assertEqual(shares.put("0.other.example", 1), [])

    def test_by_size(self) -> None:
        """The sizes count together. A name that is used again is the newest."""
        shares = FairShares(100, 100)
        self.assertEqual([shares.put("a.x.example", 40), shares.put("b.x.example", 40), shares.put("a.x.example", 40)], [[], [], []])
        self.assertEqual((shares.put("c.x.example", 40), shares.size), (["b.x.example"], 80))
        self.assertEqual(shares.put("d.y.example", 500), ["d.y.example"])
        for name in ("a.x.example", "c.x.example", "unknown.example"):
            shares.forget(name)
        self.assertEqual((len(shares), shares.size), (0, 0))

    @given(st.lists(st.tuples(NAMES, st.integers(0, 30)), max_size=60))
    def test_any_life(self, steps: list[tuple[str, int]]) -> None:
        """In any order of events the limits hold, and exactly the reported names are gone."""
        shares = FairShares(6, 60)
        held: dict[str, int] = {}
        for name, size in steps:
            held[name] = size
            for each in shares.put(name, size):
                del held[each]
            self.assertEqual((len(shares), shares.size), (len(held), sum(held.values())))
            self.assertTrue(len(held) <= 6 and sum(held.values()) <= 60)
