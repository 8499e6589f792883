"""Tests that the reactor's timers do not follow the wall clock."""

from __future__ import annotations

from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime.monotonic_clock import use_monotonic_clock


class MonotonicClockTests(SynchronousTestCase):
    """Tests with a reactor of Twisted's that does not run, and two clocks that the test sets."""

    def setUp(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 50.0
        self.reactor = SelectReactor()
        self.addCleanup(self.reactor.removeAll)
        self.reactor.seconds = lambda: self.wall
        self.fired: list[str] = []

    def now(self) -> float:
        return self.monotonic

    def pass_time(self, seconds: float, step: float = 0.0) -> list[str]:
        """Let `seconds` pass, and the wall clock step by `step` beside them; return the calls made."""
        self.monotonic += seconds
        self.wall += seconds + step
        self.reactor.runUntilCurrent()
        fired = list(self.fired)
        self.fired.clear()
        return fired

    def test_steps(self) -> None:
        """A step of an hour, back or forward, neither delays a call nor makes it early."""
        use_monotonic_clock(self.reactor, self.now)
        for step in (-3600.0, 3600.0):
            self.reactor.callLater(10, self.fired.append, "due")
            self.assertEqual(self.pass_time(9, step), [])
            self.assertAlmostEqual(self.reactor.timeout() or 0.0, 1.0)
            self.assertEqual(self.pass_time(1.5), ["due"])

    def test_wall_clock(self) -> None:
        """With the wall clock a step back stops every call."""
        self.reactor.callLater(10, self.fired.append, "due")
        self.assertEqual(self.pass_time(1000, -3600.0), [])

    def test_calls_that_wait(self) -> None:
        """Earlier calls keep their remaining time, and can be reset, delayed and cancelled like any other."""
        calls = [self.reactor.callLater(seconds, self.fired.append, str(seconds)) for seconds in (5, 10, 15, 20)]
        calls[1].delay(2)
        self.pass_time(1)
        use_monotonic_clock(self.reactor, self.now)
        use_monotonic_clock(self.reactor, self.now)
        calls[2].reset(3)
        calls[3].cancel()
        self.assertEqual(self.pass_time(3.5, -3600.0), ["15"])
        self.assertEqual(self.pass_time(1, -3600.0), ["5"])
        self.assertEqual(self.pass_time(7), ["10"])
