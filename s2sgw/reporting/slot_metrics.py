"""Metrics of bounded slots: DNS look-ups, dialback verifications, POSH fetches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

#: Reasons of failed calls that a higher bound would avoid.
WANTING = ("displaced", "line-full", "not-asked")
#: Reasons for which every kind of call can fail: these series are there from the start.
_REASONS = ("displaced", "line-full", "rate")


class Slots(Protocol):
    """Calls that share slots: how many hold one, how many wait, and how many failed since the start, by reason."""

    @property
    def in_flight(self) -> int: ...
    @property
    def in_line(self) -> int: ...
    @property
    def given_up(self) -> Mapping[str, int]: ...


class SlotMetrics(Collector):
    """For each name in `slots` a gauge by state, `s2sgw_NAME`, and a counter by reason, `s2sgw_NAME_given_up_total`."""

    def __init__(self, slots: Mapping[str, Slots]) -> None:
        self._slots = slots

    def describe(self) -> list[Metric]:
        """Return nothing: the slots are read at each scrape only."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of each kind of call."""
        for name, slots in self._slots.items():
            called = name.replace("_", " ")
            text = f"The {called} under way, and those that wait for a slot."
            gauge = GaugeMetricFamily(f"s2sgw_{name}", text, labels=("state",))
            gauge.add_metric(("in-flight",), slots.in_flight)
            gauge.add_metric(("in-line",), slots.in_line)
            yield gauge
            counter = CounterMetricFamily(f"s2sgw_{name}_given_up", f"The {called} that failed.", labels=("reason",))
            for reason, number in {**dict.fromkeys(_REASONS, 0), **slots.given_up}.items():
                counter.add_metric((reason,), number)
            yield counter
