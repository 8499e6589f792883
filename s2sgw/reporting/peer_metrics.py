"""The numbers of the peer database for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class PeerRecordNumbers:
    """Bytes of the file, bytes that it may have (`limits.peer_records`), and records that could not be written."""

    bytes: int
    limit: int
    given_up: int


class PeerRecordMetrics(Collector):
    """The numbers of `source` at each scrape."""

    def __init__(self, source: Callable[[], PeerRecordNumbers]) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Return nothing: the source is read at each scrape only."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the size of the file, its limit, and the number of failed writes."""
        numbers = self._source()
        yield GaugeMetricFamily("s2sgw_peer_records_bytes", "Bytes of the peer database.", value=numbers.bytes)
        yield GaugeMetricFamily("s2sgw_peer_records_limit_bytes", "Bytes that the peer database may have.", value=numbers.limit)
        text = "Records of peers that the disk did not take at once."
        yield CounterMetricFamily("s2sgw_peer_records_given_up", text, value=numbers.given_up)
