"""Tests of the metrics of the peer database."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.peer_metrics import PeerRecordMetrics, PeerRecordNumbers


class PeerRecordMetricsTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        """Size, limit and failed writes are read at each scrape."""
        numbers = [PeerRecordNumbers(1, 100, 0)]
        registry = CollectorRegistry()
        registry.register(PeerRecordMetrics(lambda: numbers[-1]))
        numbers.append(PeerRecordNumbers(7, 100, 3))
        text = generate_latest(registry).decode()
        for line in ("s2sgw_peer_records_bytes 7.0", "s2sgw_peer_records_limit_bytes 100.0", "s2sgw_peer_records_given_up_total 3.0"):
            self.assertIn(line, text)
