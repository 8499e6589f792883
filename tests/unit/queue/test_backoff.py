"""Tests of the time of the next attempt."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.backoff import BackOff
from tests.support.fakes import FixedRandom


class BackOffTests(SynchronousTestCase):
    """Tests of the schedule of attempts."""

    def test_grows_to_its_bound(self) -> None:
        """Each failure doubles the wait, up to the longest."""
        it = BackOff(first=2, factor=2, longest=10, jitter=0)
        self.assertEqual([it.delay(n, FixedRandom(0.5)) for n in (1, 2, 3, 4, 1000)], [2, 4, 8, 10, 10])

    def test_jitter(self) -> None:
        """Jitter shortens a wait by at most its fraction."""
        it = BackOff(first=8, jitter=0.25)
        self.assertEqual((it.delay(1, FixedRandom()), it.delay(1, FixedRandom(1.0))), (8, 6))
