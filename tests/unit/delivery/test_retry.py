"""Tests of the time of a delivery agent's next attempt."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.retry import ISOLATING_SECONDS, MAX_ISOLATIONS, RetrySchedule
from s2sgw.queue.backoff import BackOff
from tests.support.fakes import FixedRandom


class RetryScheduleTests(SynchronousTestCase):
    """Tests with a back-off of 2, 4, 8 and then 10 seconds, without jitter."""

    def setUp(self) -> None:
        self.schedule = RetrySchedule(BackOff(first=2, factor=2, longest=10, jitter=0), FixedRandom(0.5))

    def test_attempts(self) -> None:
        """Each failed attempt waits longer. A server's own back-off takes precedence, and the failure counts all the same."""
        self.assertEqual([2, 4], [self.schedule.after_attempt(None) for _ in range(2)])
        self.assertEqual(30, self.schedule.after_attempt(30))
        self.assertEqual(10, self.schedule.after_attempt(None))

    def test_stream_that_worked(self) -> None:
        """The end of a stream that worked is no failure, and resets the number of failures."""
        self.schedule.after_attempt(None)
        self.assertEqual(0, self.schedule.after_stream(worked=True, isolating=False))
        self.assertEqual(2, self.schedule.after_attempt(None))

    def test_stream_that_failed(self) -> None:
        """The early end of a stream counts as a failed attempt does."""
        self.assertEqual([2, 4], [self.schedule.after_stream(worked=False, isolating=False) for _ in range(2)])

    def test_isolating(self) -> None:
        """While a stanza is isolated the next attempt comes soon, but only a limited number of times in a row."""
        soon = [self.schedule.after_stream(worked=False, isolating=True) for _ in range(MAX_ISOLATIONS)]
        self.assertEqual({ISOLATING_SECONDS * 1.5}, set(soon))
        self.assertEqual([2, 4], [self.schedule.after_stream(worked=False, isolating=True) for _ in range(2)])
        self.schedule.after_stream(worked=True, isolating=False)
        self.assertEqual(ISOLATING_SECONDS * 1.5, self.schedule.after_stream(worked=False, isolating=True))
