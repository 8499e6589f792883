"""Tests of the metrics of calls that share slots."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.slot_metrics import SlotMetrics


class SlotMetricsTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Each kind of call has its gauge by state and its counter by reason."""
        registry = CollectorRegistry()
        slots = SimpleNamespace(in_flight=3, in_line=5, given_up={"displaced": 2})
        registry.register(SlotMetrics({"lookups": slots, "posh_fetches": slots}))
        text = generate_latest(registry).decode()
        for line in (
            's2sgw_lookups{state="in-flight"} 3.0', 's2sgw_lookups{state="in-line"} 5.0',
            's2sgw_lookups_given_up_total{reason="displaced"} 2.0', 's2sgw_lookups_given_up_total{reason="line-full"} 0.0',
            's2sgw_posh_fetches{state="in-line"} 5.0',
        ):
            self.assertIn(line, text)
