"""Tests of the stop of the process: it begins once, whichever requests follow."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.stop_request import StopRequest


class FakeReactor(Clock):
    """A reactor that refuses a second stop, as Twisted's does."""

    stops = 0

    def stop(self) -> None:
        if self.stops:
            raise ReactorNotRunning
        self.stops += 1


class StopRequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = FakeReactor()
        self.stop = StopRequest(self.reactor)

    def test_now(self) -> None:
        """The first request stops the reactor. The second one changes nothing."""
        self.assertFalse(self.stop.made)
        self.stop.make()
        self.stop.make()
        self.assertEqual((1, True), (self.reactor.stops, self.stop.made))

    def test_later(self) -> None:
        """A delayed stop counts as requested from now on. A second request is told that it is not the first."""
        self.assertTrue(self.stop.make_later(2))
        self.assertEqual((0, True), (self.reactor.stops, self.stop.made))
        self.assertFalse(self.stop.make_later(2))
        self.reactor.advance(2)
        self.assertEqual((1, []), (self.reactor.stops, self.reactor.getDelayedCalls()))

    def test_signal_before_the_delay_is_over(self) -> None:
        """A signal stops the reactor while `drain` waits for its answer to be sent. The delayed stop then changes nothing."""
        self.stop.make_later(2)
        self.stop.make()
        self.reactor.advance(2)
        self.assertEqual(1, self.reactor.stops)

    def test_later_than_a_signal(self) -> None:
        """A request for a delayed stop changes nothing while the reactor stops."""
        self.stop.make()
        self.assertFalse(self.stop.make_later(2))
        self.reactor.advance(2)
        self.assertEqual(1, self.reactor.stops)

    def test_stopped_by_other_means(self) -> None:
        """A reactor that something else stopped is not stopped again."""
        self.reactor.stop()
        self.assertTrue(self.stop.make_later(2))
        self.reactor.advance(2)
        self.assertEqual(1, self.reactor.stops)
