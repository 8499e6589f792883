"""Tests of the metrics of a node of a cluster."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.cluster_metrics import ClusterMetrics, ClusterNumbers


class ClusterMetricsTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        """Each number has its metric. A node without an acknowledged heartbeat shows an infinite age."""
        registry = CollectorRegistry()
        numbers = ClusterNumbers(3, 2, 5, 6, 7, {"alive": 1, "silent": 0}, 2.5, float("inf"), False)
        registry.register(ClusterMetrics(SimpleNamespace(numbers=lambda: numbers)))
        text = generate_latest(registry).decode()
        for line in (
            "s2sgw_cluster_homes 3.0", "s2sgw_cluster_takeovers_total 2.0", 's2sgw_cluster_nodes{state="alive"} 1.0',
            "s2sgw_cluster_new_homes_refused_total 5.0", "s2sgw_cluster_old_homes_deleted_total 6.0",
            "s2sgw_cluster_failures_total 7.0",
            's2sgw_cluster_nodes{state="silent"} 0.0', "s2sgw_cluster_lease_seconds 2.5",
            "s2sgw_cluster_heartbeat_age_seconds +Inf", "s2sgw_cluster_engine_connected 0.0",
        ):
            self.assertIn(line, text.splitlines())
