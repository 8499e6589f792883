"""Tests of the metrics of the queue's space."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.spool_metrics import CommitTimes, QueueSpace


class SpoolMetricsTests(SynchronousTestCase):
    def test_space(self) -> None:
        """Bytes and limits are read at each scrape, for memory and disk."""
        memory = SimpleNamespace(used=1, limit=100, queues=3)
        registry = CollectorRegistry()
        registry.register(QueueSpace(memory, SimpleNamespace(used=5, limit=500)))
        memory.used = 7
        text = generate_latest(registry).decode()
        for line in ('s2sgw_queue_bytes{where="memory"} 7.0', 's2sgw_queue_limit_bytes{where="memory"} 100.0',
                     's2sgw_queue_bytes{where="disk"} 5.0', 's2sgw_queue_limit_bytes{where="disk"} 500.0',
                     's2sgw_queue_bytes{where="queues"} 3.0'):
            self.assertIn(line, text)

    def test_commits(self) -> None:
        """Each commit is counted in its bucket."""
        times, registry = CommitTimes(), CollectorRegistry()
        registry.register(times.histogram)
        times.took(0.002)
        times.took(3.0)
        text = generate_latest(registry).decode()
        self.assertIn('s2sgw_spool_commit_seconds_bucket{le="0.0025"} 1.0', text)
        self.assertIn("s2sgw_spool_commit_seconds_count 2.0", text)
