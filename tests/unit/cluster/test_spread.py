"""Tests of the plan by which homes are spread."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.spread import Moves, spread


class SpreadTests(SynchronousTestCase):
    def test_plan(self) -> None:
        """A node that came back gets its part of each other one. Homes that are even stay where they are."""
        self.assertEqual([Moves("a", "c", 3), Moves("b", "c", 3)], spread({"a": 9, "b": 9, "c": 0}))
        self.assertEqual([Moves("a", "b", 1), Moves("a", "c", 1)], sorted(spread({"a": 4, "b": 1, "c": 1})))
        for even in ({}, {"a": 7}, {"a": 0, "b": 0}, {"a": 3, "b": 4, "c": 3}):
            self.assertEqual([], spread(even))

    @given(some.dictionaries(some.text("abcdef", min_size=1, max_size=3), some.integers(0, 50), max_size=8))
    def test_even(self, homes: dict[str, int]) -> None:
        """After the moves any two nodes differ by one at most, no home moves more often than needed, and no node gives and takes."""
        moves = spread(homes)
        after = dict(homes)
        for each in moves:
            self.assertGreater(each.homes, 0)
            after[each.giver] -= each.homes
            after[each.taker] += each.homes
        self.assertLessEqual(max(after.values(), default=0) - min(after.values(), default=0), 1)
        self.assertEqual(set(), {each.giver for each in moves} & {each.taker for each in moves})
        if homes:
            share = sum(homes.values()) // len(homes)
            self.assertLessEqual(sum(each.homes for each in moves), sum(max(number - share, 0) for number in homes.values()))
            self.assertTrue(all(after[node] >= share for node in homes))
        self.assertEqual([], spread(after))
