"""The numbers of the queue's space for Prometheus: used memory and disk, their limits, and the time of commits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

#: Buckets of `s2sgw_spool_commit_seconds`: from a fast disk up to one that hangs.
COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class CommitTimes:
    """The duration of each commit of the spool (`s2sgw_spool_commit_seconds`). May be called from any thread."""

    def __init__(self) -> None:
        text = "Time that a commit of the spool took, up to its sync to the disk."
        self.histogram = Histogram("s2sgw_spool_commit_seconds", text, buckets=COMMIT_BUCKETS, registry=None)

    def took(self, seconds: float) -> None:
        """Count a commit that took `seconds`."""
        self.histogram.observe(seconds)


class Space(Protocol):
    """Room for stanzas: the memory of the queues, or the spool."""

    @property
    def used(self) -> int:
        """Return the bytes in use."""

    @property
    def limit(self) -> int:
        """Return the bytes that may be used."""


class QueueMemory(Space, Protocol):
    """The memory of the queues."""

    @property
    def queues(self) -> int:
        """Return the bytes for queues that wait, besides their stanzas."""


class QueueSpace(Collector):
    """The bytes of the queue, in memory and on disk."""

    def __init__(self, memory: QueueMemory, disk: Space) -> None:
        self._memory = memory
        self._sources: dict[str, Space] = {"memory": memory, "disk": disk}

    def describe(self) -> list[Metric]:
        """Return nothing: the sources are read at each scrape only."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the bytes in use in memory and on disk, and their limits, and the bytes of the queues that wait."""
        used = GaugeMetricFamily("s2sgw_queue_bytes", "Bytes that the delivery queues take.", labels=("where",))
        limits = GaugeMetricFamily("s2sgw_queue_limit_bytes", "Bytes that the delivery queues may take.", labels=("where",))
        for where, source in self._sources.items():
            used.add_metric((where,), source.used)
            limits.add_metric((where,), source.limit)
        used.add_metric(("queues",), self._memory.queues)
        yield from (used, limits)
