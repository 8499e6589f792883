"""The numbers of a node of a cluster for Prometheus. A gateway that is alone has none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ClusterNumbers(NamedTuple):
    """The numbers of this node.

    `homes_refused`: admissions of peers that are too many new sub-domains. `homes_deleted`: old home records.
    `failures`: unexpected failures of work that was tried again.
    `nodes`: the others by state, "alive" and "silent". `lease`, `heartbeat`: seconds; infinite if no heartbeat was acknowledged.
    """

    homes: int
    takeovers: int
    homes_refused: int
    homes_deleted: int
    failures: int
    nodes: Mapping[str, int]
    lease: float
    heartbeat: float
    connected: bool


class ClusterNumberSource(Protocol):
    """A node of a cluster."""

    def numbers(self) -> ClusterNumbers:
        """Return the numbers now."""


class ClusterMetrics(Collector):
    """The homes, the lease, the other nodes and the engine."""

    def __init__(self, source: ClusterNumberSource) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Return nothing: the numbers are read at each scrape only."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        numbers = self._source.numbers()
        yield GaugeMetricFamily("s2sgw_cluster_homes", "Peers whose home this node is.", value=numbers.homes)
        text = "Peers with stanzas in the engine that this node took over."
        yield CounterMetricFamily("s2sgw_cluster_takeovers", text, value=numbers.takeovers)
        text = "Streams and queues that were refused, because the peers are too many new sub-domains of one domain."
        yield CounterMetricFamily("s2sgw_cluster_new_homes_refused", text, value=numbers.homes_refused)
        text = "Old home records of peers that this node deleted from the engine."
        yield CounterMetricFamily("s2sgw_cluster_old_homes_deleted", text, value=numbers.homes_deleted)
        text = "Unexpected failures of this node's work for the cluster, which was tried again. The log has each."
        yield CounterMetricFamily("s2sgw_cluster_failures", text, value=numbers.failures)
        nodes = GaugeMetricFamily("s2sgw_cluster_nodes", "The other nodes that were not declared dead.", labels=("state",))
        for state, number in numbers.nodes.items():
            nodes.add_metric((state,), number)
        yield nodes
        text = "Seconds for which this node may still send to other servers; 0: it may not."
        yield GaugeMetricFamily("s2sgw_cluster_lease_seconds", text, value=numbers.lease)
        text = "Seconds since this node sent the last heartbeat that the engine has acknowledged."
        yield GaugeMetricFamily("s2sgw_cluster_heartbeat_age_seconds", text, value=numbers.heartbeat)
        text = "Whether this node is connected to a server of the engine."
        yield GaugeMetricFamily("s2sgw_cluster_engine_connected", text, value=float(numbers.connected))
