"""Tests of timers that may have run already."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.timer import cancel


class CancelTests(SynchronousTestCase):
    """Tests of `cancel`."""

    def test_cancelled(self) -> None:
        """A pending call is cancelled. One that was made or cancelled already, or None, is no error."""
        clock, made = Clock(), list[str]()
        done, open_ = clock.callLater(1, made.append, "done"), clock.callLater(2, made.append, "open")
        clock.advance(1)
        for timer in (done, open_, open_, None):
            cancel(timer)
        clock.advance(1)
        self.assertEqual((["done"], []), (made, clock.getDelayedCalls()))
