"""Metrics of the gateway's own actions: handshakes that it began, and answers that the other side does not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class HandshakeCounts(Protocol):
    """The handshakes that the gateway begins."""

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return how many run and how many wait, by purpose."""


class UnsentCounts(Protocol):
    """The bytes in full transports."""

    def counts(self) -> Mapping[str, int]:
        """Return the waiting bytes, by the state of their stream."""


class OutboundMetrics(Collector):
    """The numbers of handshakes and of unsent bytes."""

    def __init__(self, handshakes: HandshakeCounts, unsent: UnsentCounts) -> None:
        self._handshakes = handshakes
        self._unsent = unsent

    def describe(self) -> list[Metric]:
        """Return nothing: the numbers are read at each scrape only."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        text = "Handshakes that the gateway began, and those that wait for one to end."
        handshakes = GaugeMetricFamily("s2sgw_handshakes", text, labels=("purpose", "state"))
        for purpose, (running, waiting) in self._handshakes.counts().items():
            handshakes.add_metric((purpose, "in-flight"), running)
            handshakes.add_metric((purpose, "in-line"), waiting)
        yield handshakes
        text = "Bytes that wait to be sent on streams whose other side does not read."
        unsent = GaugeMetricFamily("s2sgw_unsent_bytes", text, labels=("state",))
        for state, number in self._unsent.counts().items():
            unsent.add_metric((state,), number)
        yield unsent
