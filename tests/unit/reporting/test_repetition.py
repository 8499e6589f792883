"""Tests of repeated events: the first is reported, the others are counted."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting import repetition
from s2sgw.reporting.repetition import EVERY, RepeatedEvents


class RepetitionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events = RepeatedEvents(self.clock)

    def told(self, *kinds: str) -> list[bool]:
        return [self.events.is_news(kind, f"{kind}{number}") for number, kind in enumerate(kinds)]

    def test_first(self) -> None:
        """The first of each kind is reported, the others are counted."""
        self.assertEqual([True, False, True, False], self.told("a", "a", "b", "a"))

    def test_once_a_minute(self) -> None:
        """Each minute the last event is reported with their number, as long as there are any. Then the next one counts as the first."""
        self.told("a", "a", "a", "b")
        self.clock.advance(EVERY - 1)
        self.assertEqual([], self.events.due())
        self.clock.advance(1)
        self.assertEqual([("a2", 2)], self.events.due())
        self.assertEqual([True, False], self.told("b", "a"))
        self.clock.advance(EVERY)
        self.assertEqual([("a1", 1)], self.events.due())
        self.clock.advance(EVERY)
        self.assertEqual([], self.events.due())
        self.assertEqual([True], self.told("a"))

    def test_several_at_first(self) -> None:
        """A given number of a kind may be reported one by one."""
        self.events = RepeatedEvents(self.clock, 3)
        self.assertEqual([True, True, True, False], self.told(*"aaaa"))
        self.clock.advance(EVERY)
        self.assertEqual([("a3", 1)], self.events.due())
        self.assertEqual([False], self.told("a"))

    def test_at_once(self) -> None:
        """At the end all counted events are reported."""
        self.told("a", "a")
        self.assertEqual([("a1", 1)], self.events.due(at_once=True))
        self.assertEqual([], self.events.due(at_once=True))

    def test_bounded(self) -> None:
        """Above the limit of kinds all others count as one kind, and are not reported one by one."""
        self.patch(repetition, "KINDS", 2)
        self.assertEqual([True, True, False, False, False], self.told("a", "b", "c", "d", "c"))
        self.clock.advance(EVERY)
        self.assertEqual([("c4", 3)], self.events.due())

    def test_very_many_kinds(self) -> None:
        """Each call reports some kinds only, so that none is long. The oldest come first; at the end all are reported."""
        self.patch(repetition, "AT_ONCE", 2)
        self.told(*"aabbccdd")
        self.clock.advance(EVERY)
        found = [[event[0] for event, _ in self.events.due()] for _ in range(3)]
        self.assertEqual([["a", "b"], ["c", "d"], []], found)
        self.told(*"abcd")
        self.assertEqual(4, len(self.events.due(at_once=True)))

    def test_clock_set_back(self) -> None:
        """If the clock is set back, the minute of the counted events ends."""
        self.clock.advance(1000)
        self.told("a", "a")
        self.clock.rightNow = 10.0
        self.assertEqual([("a1", 1)], self.events.due())
