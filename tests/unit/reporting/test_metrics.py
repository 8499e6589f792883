"""The metrics: the contract's names with the numbers of their sources, and the page that serves them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from s2sgw.net.http_server import BoundedSite
from s2sgw.reporting.metrics import STEPS, HandshakeTimes, MetricNumbers, Metrics, MetricsPage

NUMBERS = MetricNumbers(
    streams={("federation", "inbound"): 3},
    stanzas={("inbound", "message", "passed"): 7},
    refusals={("pkix", "self-signed"): 2},
    queue=(5, 12.5),
    restoring=8,
    waiting=9,
    expiries={"example.org": 86400.0},
    resumptions={("receiving", "resumed"): 4},
    broken=6,
    connections={"unproven": 11, "proven": 12},
    limit_hits={"unproven_per_site": 13},
    descriptors=(14, 1024),
)


class Source:
    """A gateway with these numbers."""

    def __init__(self) -> None:
        self.counted: Deferred[Any] = succeed(None)

    def numbers(self) -> MetricNumbers:
        return NUMBERS

    def count(self) -> Deferred[Any]:
        return self.counted


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.times = HandshakeTimes()
        self.metrics = Metrics(Source(), self.times)

    def test_the_contract(self) -> None:
        """Each name of the contract stands there with the value of its source."""
        lines = self.metrics.text().decode().splitlines()
        for line in (
            's2sgw_streams{direction="inbound",leg="federation"} 3.0',
            's2sgw_stanzas_total{direction="inbound",kind="message",outcome="passed"} 7.0',
            's2sgw_refusals_total{cause="self-signed",layer="pkix"} 2.0',
            's2sgw_resumptions_total{outcome="resumed",role="receiving"} 4.0',
            "s2sgw_broken_streams 6.0",
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
        ):
            name, value = line.rsplit(" ", 1)
            labels = sorted(name.partition("{")[2].rstrip("}").split(","))
            found = [
                row for row in lines
                if row.startswith(name.partition("{")[0]) and row.endswith(" " + value)
                and sorted(row.partition("{")[2].partition("}")[0].split(",")) == labels
            ]
            self.assertEqual(1, len(found), line)

    def test_handshake(self) -> None:
        """Each step is there from the start, and counts what it is told."""
        self.times.took("tls", 0.04)
        text = self.metrics.text().decode()
        self.assertIn('s2sgw_handshake_seconds_count{step="tls"} 1.0', text)
        self.assertIn('s2sgw_handshake_seconds_bucket{le="0.05",step="tls"} 1.0', text)
        for step in STEPS:
            self.assertIn(f'step="{step}"', text)

    def test_labels_are_bounded(self) -> None:
        """A step that is not of the list makes no new label."""
        self.assertRaises(ValueError, self.times.took, "evil.example", 1.0)
        self.assertNotIn("evil", self.metrics.text().decode())

    def test_two_gateways_in_one_process(self) -> None:
        """The registry is of one gateway, not of the process."""
        other = HandshakeTimes()
        Metrics(Source(), other)
        other.took("dns", 1)
        self.assertIn('s2sgw_handshake_seconds_count{step="dns"} 0.0', self.metrics.text().decode())


class PageTests(SynchronousTestCase):
    """The page, whose numbers are counted when it is asked for."""

    def setUp(self) -> None:
        self.source = Source()

    def ask(self, request: bytes) -> bytes:
        root = Resource()
        root.putChild(b"metrics", MetricsPage(Metrics(self.source, HandshakeTimes())))
        site = BoundedSite(root, Clock())
        channel = site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(request + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        written: bytes = transport.value()
        return written

    def test_metrics(self) -> None:
        """GET /metrics gives the text format."""
        head, _, body = self.ask(b"GET /metrics HTTP/1.1").partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"))
        self.assertIn(b"text/plain", head)
        self.assertIn(b"s2sgw_queue_stanzas 5.0", body)

    def test_head(self) -> None:
        """HEAD gives the same without its body."""
        head, _, body = self.ask(b"HEAD /metrics HTTP/1.1").partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"))
        self.assertEqual(body, b"")

    def test_counting_takes_long(self) -> None:
        """The answer waits for the count."""
        self.source.counted = Deferred()
        self.assertEqual(self.ask(b"GET /metrics HTTP/1.1"), b"")
        self.source.counted.callback(None)

    def test_counting_breaks(self) -> None:
        """A mistake of ours is logged and told."""
        self.source.counted = fail(ValueError("broken"))
        self.assertTrue(self.ask(b"GET /metrics HTTP/1.1").startswith(b"HTTP/1.1 500"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_nothing_else(self) -> None:
        """Other pages and other methods are refused."""
        self.assertTrue(self.ask(b"GET / HTTP/1.1").startswith(b"HTTP/1.1 404"))
        self.assertTrue(self.ask(b"POST /metrics HTTP/1.1").startswith(b"HTTP/1.1 405"))
