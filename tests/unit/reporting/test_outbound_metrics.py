"""Tests of the metrics of outbound activities."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.outbound_metrics import OutboundMetrics


class Counts:
    """Numbers, and how often they were requested."""

    def __init__(self, **numbers: Any) -> None:
        self.numbers = numbers
        self.asked = 0

    def counts(self) -> dict[str, Any]:
        self.asked += 1
        return self.numbers


class OutboundMetricsTests(SynchronousTestCase):
    def test_samples(self) -> None:
        """Each purpose has its running and waiting attempts, each state its bytes. Nothing is counted before a scrape."""
        handshakes, unsent = Counts(backend=(3, 1)), Counts(proven=70, unproven=7)
        registry = CollectorRegistry()
        registry.register(OutboundMetrics(handshakes, unsent))
        self.assertEqual(handshakes.asked, 0)
        text = generate_latest(registry).decode()
        for line in (
            's2sgw_handshakes{purpose="backend",state="in-flight"} 3.0', 's2sgw_handshakes{purpose="backend",state="in-line"} 1.0',
            's2sgw_unsent_bytes{state="proven"} 70.0', 's2sgw_unsent_bytes{state="unproven"} 7.0',
        ):
            self.assertIn(line, text)
