"""Tests of the numbers of the last hour."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.console.history import SAMPLE_SECONDS, SAMPLES, History, Sample


class HistoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.passed = {"inbound": 0, "outbound": 0}
        self.waiting = 0
        self.history = History(self.status, self.clock.seconds)

    async def status(self) -> dict[str, Any]:
        rows = [{"direction": way, "kind": kind, "outcome": "passed", "number": number} for way, number in self.passed.items() for kind in ("message", "iq")]
        return {"stanzas": [*rows, {"direction": "inbound", "kind": "iq", "outcome": "bounced", "number": 1000}], "waiting": {"stanzas": self.waiting}}

    def sample(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.history.sample()))

    def test_rates(self) -> None:
        """A sample has the stanzas per second since the one before. Stanzas that were not passed on do not count."""
        self.sample()
        self.clock.advance(10)
        self.passed, self.waiting = {"inbound": 50, "outbound": 5}, 7
        self.sample()
        self.clock.advance(3)
        self.assertEqual([(3.0, Sample(10.0, 10.0, 1.0, 7))], self.history.ages())

    def test_an_hour(self) -> None:
        """The history is limited to an hour."""
        for _ in range(SAMPLES + 50):
            self.sample()
            self.clock.advance(SAMPLE_SECONDS)
        self.assertEqual(SAMPLES, len(self.history.ages()))
        self.clock.advance(1800)
        self.assertEqual(SAMPLES / 2, len(self.history.ages()))
