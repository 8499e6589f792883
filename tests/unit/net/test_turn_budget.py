"""Tests of the CPU time of a turn of the reactor."""

from __future__ import annotations

from math import inf

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.turn_budget import TurnBudget, TurnPart


class TurnBudgetTests(SynchronousTestCase):
    """Tests of a turn of ten seconds, on a stopwatch that the test moves."""

    def setUp(self) -> None:
        self.now = 5.0
        self.budget = TurnBudget(10, lambda: self.now)

    def test_no_turn(self) -> None:
        """If no turn has begun, none is over, and each share ends on its own."""
        self.now = 1e9
        self.assertFalse(self.budget.is_over)
        self.assertEqual((self.budget.end_of(3), self.budget.end_of(inf)), (1e9 + 3, inf))

    def test_shares(self) -> None:
        """A share ends with the turn at the latest."""
        self.assertEqual(5.0, self.budget.begin())
        self.now = 9.0
        self.assertEqual((self.budget.end_of(3), self.budget.end_of(7), self.budget.end_of(inf)), (12.0, 15.0, 15.0))
        self.assertFalse(self.budget.is_over)
        self.now = 15.0
        self.assertTrue(self.budget.is_over)
        self.budget.begin()
        self.assertEqual((self.budget.is_over, self.budget.end), (False, 25.0))

    def test_kinds_that_may_begin(self) -> None:
        """While there is time, each kind may begin. Later only one kind may, a different one in each turn."""
        allowed = []
        for _ in TurnPart:
            self.budget.begin()
            self.assertEqual([*map(self.budget.allows, TurnPart)], [True] * len(TurnPart))
            self.now += 10
            [one] = filter(self.budget.allows, TurnPart)
            allowed.append(one)
        self.assertEqual(sorted(allowed), sorted(TurnPart))
