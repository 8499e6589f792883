"""Tests of the duration of each step of one attempt."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.handshake_timer import HandshakeTimer


class Times:
    """Keeps the times."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float]] = []

    def took(self, step: str, seconds: float) -> None:
        self.found.append((step, seconds))


class HandshakeTimerTests(SynchronousTestCase):
    """Tests of an attempt whose steps take 1, 2 and 4 seconds."""

    def steps(self, times: Times | None) -> float:
        clock = Clock()
        clock.advance(100)
        timer = HandshakeTimer(clock, times)
        for name, seconds in (("dns", 1), ("tcp", 2), ("tls", 4)):
            clock.advance(seconds)
            timer.step(name)
        timer.stop()
        return timer.elapsed

    def test_steps(self) -> None:
        """Each step is measured from the end of the one before, and the total from the beginning."""
        times = Times()
        self.assertEqual(7, self.steps(times))
        self.assertEqual([("dns", 1), ("tcp", 2), ("tls", 4), ("total", 7)], times.found)

    def test_without_times(self) -> None:
        """An attempt whose times are not kept works all the same."""
        self.assertEqual(7, self.steps(None))
