"""Tests of the metrics: the documented names with the numbers of their sources, and the page that serves them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from s2sgw.net.http_server import BoundedSite
from s2sgw.reporting.metrics import (
    OUTCOMES,
    STEPS,
    BuildInfo,
    HandshakeTimes,
    MetricNumbers,
    Metrics,
    MetricsPage,
    ReloadOutcomes,
)
from s2sgw.xmpp.ending import ACCOUNTS

T = TypeVar("T")

NUMBERS = MetricNumbers(
    streams={("federation", "inbound"): 3},
    stanzas={("inbound", "message", "passed"): 7},
    refusals={("pkix", "self-signed", "us"): 2},
    queue=(5, 12.5),
    restoring=8,
    waiting=9,
    expiries={"example.org": 86400.0},
    resumptions={("receiving", "resumed"): 4},
    broken=6,
    connections={"unproven": 11, "proven": 12},
    limit_hits={"unproven_per_site": 13},
    descriptors=(14, 1024),
    authenticated={("inbound", "EXTERNAL", "TLSv1.3"): 15},
    expirations={"example.org": 1_800_000_000.0},
    backends={"127.0.0.1:15269": "down", "127.0.0.1:15268": "up", "127.0.0.1:15267": "unknown"},
)


class Source:
    """A gateway with these numbers."""

    def __init__(self) -> None:
        self.counted: Deferred[Any] = succeed(None)
        self.counts = self.reads = 0

    def numbers(self) -> MetricNumbers:
        self.reads += 1
        return NUMBERS

    def count(self) -> Deferred[Any]:
        self.counts += 1
        return self.counted

    def run(self, work: Generator[None, None, T]) -> Deferred[T]:
        """Do the work as slices do."""
        self.steps = 0
        while True:
            try:
                next(work)
            except StopIteration as end:
                return succeed(end.value)
            self.steps += 1


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.times = HandshakeTimes()
        self.metrics = Metrics(Source(), self.times)

    def test_the_contract(self) -> None:
        """Each documented name is there with the value of its source."""
        lines = self.metrics.text()[0].decode().splitlines()
        for line in (
            's2sgw_streams{direction="inbound",leg="federation"} 3.0',
            's2sgw_stanzas_total{direction="inbound",kind="message",outcome="passed"} 7.0',
            's2sgw_refusals_total{by="us",cause="self-signed",layer="pkix"} 2.0',
            's2sgw_resumptions_total{outcome="resumed",role="receiving"} 4.0',
            "s2sgw_broken_streams 6.0",
            's2sgw_backend_up{backend="127.0.0.1:15269"} 0.0',
            's2sgw_backend_up{backend="127.0.0.1:15268"} 1.0',
            "s2sgw_queue_stanzas 5.0",
            "s2sgw_queue_oldest_seconds 12.5",
            "s2sgw_queue_restoring_lanes 8.0",
            "s2sgw_streams_waiting 9.0",
            's2sgw_connections{state="unproven"} 11.0',
            's2sgw_connections{state="proven"} 12.0',
            's2sgw_limit_hits_total{limit="unproven_per_site"} 13.0',
            "s2sgw_descriptors 14.0",
            "s2sgw_descriptors_limit 1024.0",
            's2sgw_certificate_expiry_seconds{domain="example.org"} 86400.0',
            's2sgw_certificate_expiration_timestamp_seconds{domain="example.org"} 1.8e+09',
            's2sgw_authenticated_streams_total{direction="inbound",method="EXTERNAL",tls="TLSv1.3"} 15.0',
        ):
            name, value = line.rsplit(" ", 1)
            labels = sorted(name.partition("{")[2].rstrip("}").split(","))
            found = [
                row for row in lines
                if row.startswith(name.partition("{")[0]) and row.endswith(" " + value)
                and sorted(row.partition("{")[2].partition("}")[0].split(",")) == labels
            ]
            self.assertEqual(1, len(found), line)

    def test_zero_series(self) -> None:
        """Every series of a counter exists before its first event. Each has its own number."""
        lines = self.metrics.text()[0].decode().splitlines()
        stanzas = [line for line in lines if line.startswith("s2sgw_stanzas_total{")]
        refusals = [line for line in lines if line.startswith("s2sgw_refusals_total{")]
        self.assertEqual((2 * 3 * len(OUTCOMES), 3 * len(ACCOUNTS)), (len(stanzas), len(refusals)))
        self.assertEqual((1, 1), tuple(sum(not line.endswith(" 0.0") for line in each) for each in (stanzas, refusals)))
        for line in ('s2sgw_streams{direction="outbound",leg="backend"} 0.0', 's2sgw_resumptions_total{outcome="expired",role="initiating"} 0.0'):
            name, _, rest = line.partition("{")
            labels = set(rest.partition("}")[0].split(","))
            found = [each for each in lines if each.startswith(f"{name}{{") and set(each.partition("{")[2].partition("}")[0].split(",")) == labels]
            self.assertEqual(["0.0"], [each.rpartition(" ")[2] for each in found])

    def test_convention(self) -> None:
        """The metrics of a process are there. There are no `_created` series."""
        self.times.took("dns", 1)
        text = self.metrics.text()[0].decode()
        self.assertIn("process_resident_memory_bytes", text)
        self.assertNotIn("_created", text)

    def test_open_metrics(self) -> None:
        """A scraper that accepts OpenMetrics gets it."""
        text, content_type = self.metrics.text("application/openmetrics-text; version=1.0.0")
        self.assertTrue(content_type.startswith("application/openmetrics-text"))
        self.assertTrue(text.endswith(b"# EOF\n"))
        self.assertTrue(self.metrics.text("text/html")[1].startswith("text/plain"))

    def test_step_by_step(self) -> None:
        """Text written step by step equals text written at once, in either format."""
        source = Source()
        metrics = Metrics(source, self.times)
        process = next(each for each in metrics.registry._collector_to_names if isinstance(each, ProcessCollector))
        metrics.registry.unregister(process)
        for accept in ("", "application/openmetrics-text; version=1.0.0"):
            self.assertEqual(self.successResultOf(metrics.written(choose_encoder(accept)[0])), metrics.text(accept)[0])
            self.assertGreater(source.steps, 10)

    def test_build_info(self) -> None:
        """One series with the value 1 has the versions."""
        metrics = Metrics(Source(), HandshakeTimes(), [BuildInfo(version="1.2.3", python="3.11")])
        self.assertIn('s2sgw_build_info{python="3.11",version="1.2.3"} 1.0', metrics.text()[0].decode())

    def test_reload(self) -> None:
        """After a refused reload the value is 0 until the next good one. The time is that of the current configuration."""
        clock = Clock()
        outcomes = ReloadOutcomes(clock)
        metrics = Metrics(Source(), HandshakeTimes(), [outcomes])
        for ok, at, shown in ((False, 5.0, 0.0), (True, 7.0, 7.0), (False, 9.0, 7.0)):
            clock.advance(at - clock.seconds())
            outcomes.reloaded(ok)
            text = metrics.text()[0].decode()
            self.assertIn(f"s2sgw_config_last_reload_successful {float(ok)}", text)
            self.assertIn(f"s2sgw_config_last_reload_success_timestamp_seconds {shown}", text)

    def test_handshake(self) -> None:
        """Each step exists from the start, and has the observed times."""
        self.times.took("tls", 0.04)
        text = self.metrics.text()[0].decode()
        self.assertIn('s2sgw_handshake_seconds_count{step="tls"} 1.0', text)
        self.assertIn('s2sgw_handshake_seconds_bucket{le="0.05",step="tls"} 1.0', text)
        for step in STEPS:
            self.assertIn(f'step="{step}"', text)

    def test_labels_are_bounded(self) -> None:
        """A step that is not in the list makes no new label."""
        self.assertRaises(ValueError, self.times.took, "evil.example", 1.0)
        self.assertNotIn("evil", self.metrics.text()[0].decode())

    def test_two_gateways_in_one_process(self) -> None:
        """The registry belongs to one gateway, not to the process."""
        other = HandshakeTimes()
        Metrics(Source(), other)
        other.took("dns", 1)
        self.assertIn('s2sgw_handshake_seconds_count{step="dns"} 0.0', self.metrics.text()[0].decode())


class PageTests(SynchronousTestCase):
    """Tests of the page, whose numbers are counted for each request."""

    def setUp(self) -> None:
        self.source = Source()

        root = Resource()
        root.putChild(b"metrics", MetricsPage(Metrics(self.source, HandshakeTimes())))
        self.site = BoundedSite(root, Clock())

    def send(self, request: bytes) -> tuple[Any, StringTransport]:
        channel = self.site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(request + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return channel, transport

    def ask(self, request: bytes) -> bytes:
        written: bytes = self.send(request)[1].value()
        return written

    def test_metrics(self) -> None:
        """GET /metrics returns the text format."""
        head, _, body = self.ask(b"GET /metrics HTTP/1.1").partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"))
        self.assertIn(b"text/plain", head)
        self.assertIn(b"s2sgw_queue_stanzas 5.0", body)

    def test_accept(self) -> None:
        """The header `Accept` chooses the format."""
        head, _, body = self.ask(b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text").partition(b"\r\n\r\n")
        self.assertIn(b"application/openmetrics-text", head)
        self.assertTrue(body.endswith(b"# EOF\n"))

    def test_head(self) -> None:
        """HEAD returns the same without the body."""
        head, _, body = self.ask(b"HEAD /metrics HTTP/1.1").partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"))
        self.assertEqual(body, b"")

    def test_counting_takes_long(self) -> None:
        """The answer waits for the count."""
        self.source.counted = Deferred()
        self.assertEqual(self.ask(b"GET /metrics HTTP/1.1"), b"")
        self.source.counted.callback(None)

    def test_many_at_once(self) -> None:
        """Requests at the same time share one count and one text for each format. The next request has its own."""
        self.source.counted = Deferred()
        accept = b"\r\nAccept: application/openmetrics-text"
        crowd = [self.send(b"GET /metrics HTTP/1.1" + accept * (number % 2))[1] for number in range(20)]
        self.source.counted.callback(None)
        answers = [transport.value() for transport in crowd]
        self.assertEqual([b"text/plain" in answer for answer in answers], [number % 2 == 0 for number in range(20)])
        self.assertEqual((1, 2), (self.source.counts, self.source.reads))
        self.assertTrue(self.ask(b"GET /metrics HTTP/1.1").startswith(b"HTTP/1.1 200"))
        self.assertEqual((2, 3), (self.source.counts, self.source.reads))

    def test_another_format(self) -> None:
        """A request for another format while the text is written gets the next count."""
        writing: Deferred[Any] = Deferred()
        self.patch(self.source, "run", lambda work: writing)
        first = self.send(b"GET /metrics HTTP/1.1")[1]
        second = self.send(b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text")[1]
        self.patch(self.source, "run", lambda work: succeed(b"second"))
        writing.callback(b"first")
        self.assertTrue(first.value().endswith(b"first"))
        self.assertTrue(second.value().endswith(b"second"))

    def test_some_leave(self) -> None:
        """A client that disconnects does not affect the others. Once all have disconnected the count ends, and the next request is answered."""
        cancelled: list[object] = []
        self.source.counted = Deferred(cancelled.append)
        first, second = (self.send(b"GET /metrics HTTP/1.1")[0] for _ in range(2))
        first.connectionLost()
        self.assertEqual([], cancelled)
        second.connectionLost()
        self.assertEqual(1, len(cancelled))
        self.source.counted = succeed(None)
        self.assertTrue(self.ask(b"GET /metrics HTTP/1.1").startswith(b"HTTP/1.1 200"))

    def test_counting_breaks(self) -> None:
        """An internal error is logged and reported."""
        self.source.counted = fail(ValueError("broken"))
        self.assertTrue(self.ask(b"GET /metrics HTTP/1.1").startswith(b"HTTP/1.1 500"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_nothing_else(self) -> None:
        """Other pages and other methods are refused."""
        self.assertTrue(self.ask(b"GET / HTTP/1.1").startswith(b"HTTP/1.1 404"))
        self.assertTrue(self.ask(b"POST /metrics HTTP/1.1").startswith(b"HTTP/1.1 405"))
