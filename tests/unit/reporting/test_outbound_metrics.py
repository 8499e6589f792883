"""Metrics of what the gateway has under way towards others."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.outbound_metrics import OutboundMetrics


class OutboundMetricsTests(SynchronousTestCase):
    def test_samples(self) -> None:
        """Each purpose with what runs and what waits, each state with its bytes; nothing is asked before a scrape."""
        asked: list[str] = []
        registry = CollectorRegistry()
        registry.register(OutboundMetrics(
            lambda: asked.append("handshakes") or {"backend": (3, 1)}, lambda: {"proven": 70, "unproven": 7},  # type: ignore[func-returns-value]
        ))
        self.assertEqual(asked, [])
        text = generate_latest(registry).decode()
        for line in (
            's2sgw_handshakes{purpose="backend",state="in-flight"} 3.0', 's2sgw_handshakes{purpose="backend",state="in-line"} 1.0',
            's2sgw_unsent_bytes{state="proven"} 70.0', 's2sgw_unsent_bytes{state="unproven"} 7.0',
        ):
            self.assertIn(line, text)
