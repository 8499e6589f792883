"""Metrics for Prometheus, under the contract's names, and the page /metrics.

No number is kept twice: the gateway's own counts are read at a scrape. Every label comes from a list of our own (directions,
kinds, causes) or from the configuration (local domains), never from a stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol, TypeVar, get_args

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from s2sgw.xmpp.ending import ACCOUNTS, By
from s2sgw.xmpp.wall_clock import WallClock

#: Buckets of `s2sgw_handshake_seconds`: from a look-up on loopback up to the time limit of a negotiation.
HANDSHAKE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: The outcomes of a stanza.
OUTCOMES = ("passed", "bounced", "dropped", "refused", "resent", "duplicate")
#: Every series of the counters, from the start: an alert on a rate also sees the first event.
_STANZA_SERIES = tuple(product(("inbound", "outbound"), ("message", "presence", "iq"), OUTCOMES))
_RESUMPTION_SERIES = tuple(product(("receiving", "initiating"), ("resumed", "refused", "expired")))
_REFUSAL_SERIES = tuple((account.layer.value, cause.value, by) for cause, account in ACCOUNTS.items() for by in get_args(By))
#: Every series of `s2sgw_streams`: without streams it is 0, not absent.
_STREAM_SERIES = tuple(product(("federation", "backend"), ("inbound", "outbound")))
#: The last line of OpenMetrics.
_LAST_LINE = b"# EOF\n"
#: The steps of a handshake.
STEPS = ("dns", "tcp", "tls", "auth", "total")

T = TypeVar("T")
Encoder = Callable[[CollectorRegistry], bytes]


@dataclass(frozen=True, slots=True)
class MetricNumbers:
    """The gateway's own counts, at the moment of one scrape."""

    #: (leg, direction) -> open streams
    streams: Mapping[tuple[str, str], int]
    #: (direction, kind, outcome) -> stanzas since the start
    stanzas: Mapping[tuple[str, str, str], int]
    #: (layer, cause, by) -> refusals since the start; `by` ended it: "us", "them" or "network"
    refusals: Mapping[tuple[str, str, str], int]
    #: waiting stanzas, and the age of the oldest in seconds (0: none waits)
    queue: tuple[int, float]
    #: queues of the last start that have not had their turn
    restoring: int
    #: queues that wait for room for another stream of ours
    waiting: int
    #: local domain -> seconds until its certificate expires
    expiries: Mapping[str, float]
    #: (role, outcome) -> streams that broke off and could be resumed, since the start
    resumptions: Mapping[tuple[str, str], int]
    #: streams towards us that broke off and may be resumed now
    broken: int
    #: "unproven" and "proven" -> accepted connections of the federation leg
    connections: Mapping[str, int] = field(default_factory=dict)
    #: limit, by the name of its key -> how often it kept something out or ended it, since the start
    limit_hits: Mapping[str, int] = field(default_factory=dict)
    #: file descriptors that are open, and how many may be
    descriptors: tuple[int, int] = (0, 0)
    #: local domain -> the expiry of its certificate, in seconds since the epoch
    expirations: Mapping[str, float] = field(default_factory=dict)
    #: evidence -> receipts that it settled, since the start
    receipts: Mapping[str, int] = field(default_factory=dict)
    #: (direction, method, version of TLS) -> streams with peers that were authenticated, since the start
    authenticated: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    #: address of a backend -> "up", "down", or "unknown" (it was not tried yet)
    backends: Mapping[str, str] = field(default_factory=dict)


class MetricSource(Protocol):
    """The source of the numbers at a scrape."""

    def numbers(self) -> MetricNumbers:
        """Return the numbers. Those that take long to count are from the last `count`."""

    def count(self) -> Deferred[Any]:
        """Count the numbers that take long. Fires when that is done."""

    def run(self, work: Generator[None, None, T]) -> Deferred[T]:
        """Do `work` step by step, with other work in between. Fires with its result. It can be cancelled."""


class _Reader(Collector):
    """Turns the numbers of a source into samples at each scrape."""

    def __init__(self, source: MetricSource) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Return nothing: the source is read at each scrape only."""
        return []

    def collect(self) -> Iterator[Metric]:
        numbers = self._source.numbers()
        streams = {**dict.fromkeys(_STREAM_SERIES, 0), **numbers.streams}
        yield _gauge("s2sgw_streams", "Open streams.", ("leg", "direction"), streams)
        stanzas = {**dict.fromkeys(_STANZA_SERIES, 0), **numbers.stanzas}
        yield _counter("s2sgw_stanzas", "Stanzas by their outcome.", ("direction", "kind", "outcome"), stanzas)
        refusals = {**dict.fromkeys(_REFUSAL_SERIES, 0), **numbers.refusals}
        text = "Refused handshakes and deliveries, by the side that ended them."
        yield _counter("s2sgw_refusals", text, ("layer", "cause", "by"), refusals)
        text = "Streams with peers that were authenticated, by how, and by their TLS."
        yield _counter("s2sgw_authenticated_streams", text, ("direction", "method", "tls"), numbers.authenticated)
        text = "Streams that broke off and could be resumed (XEP-0198), by their outcome."
        resumptions = {**dict.fromkeys(_RESUMPTION_SERIES, 0), **numbers.resumptions}
        yield _counter("s2sgw_resumptions", text, ("role", "outcome"), resumptions)
        text = "Streams towards us that broke off and may be resumed."
        yield GaugeMetricFamily("s2sgw_broken_streams", text, value=numbers.broken)
        yield from _limits(numbers)
        text = "Whether the server behind the gateway takes streams: 1 yes, 0 no. Absent until it was tried."
        known = {(backend,): float(state == "up") for backend, state in numbers.backends.items() if state != "unknown"}
        yield _gauge("s2sgw_backend_up", text, ("backend",), known)
        receipts = {(label,): number for label, number in numbers.receipts.items()}
        text = "Stanzas whose receipts were settled, by the evidence that they are safe."
        yield _counter("s2sgw_receipts_settled", text, ("evidence",), receipts)
        number, oldest = numbers.queue
        yield GaugeMetricFamily("s2sgw_queue_stanzas", "Stanzas that wait in the lanes.", value=number)
        yield GaugeMetricFamily("s2sgw_queue_oldest_seconds", "Age of the stanza that waits longest.", value=oldest)
        restoring = "Lanes that the last start found in the spool, and whose turn has not come."
        yield GaugeMetricFamily("s2sgw_queue_restoring_lanes", restoring, value=numbers.restoring)
        waiting = "Lanes that wait until there is room for another stream."
        yield GaugeMetricFamily("s2sgw_streams_waiting", waiting, value=numbers.waiting)
        ends = {(domain,): at for domain, at in numbers.expirations.items()}
        text = "When the certificate of a local domain expires, in seconds since the epoch."
        yield _gauge("s2sgw_certificate_expiration_timestamp_seconds", text, ("domain",), ends)
        expiries = {(domain,): seconds for domain, seconds in numbers.expiries.items()}
        text = "Former name, for one release: seconds until the certificate of a local domain expires."
        yield _gauge("s2sgw_certificate_expiry_seconds", text, ("domain",), expiries)


def _limits(numbers: MetricNumbers) -> Iterator[Metric]:
    connections = {(state,): number for state, number in numbers.connections.items()}
    yield _gauge("s2sgw_connections", "Accepted connections of peers.", ("state",), connections)
    hits = {(limit,): number for limit, number in numbers.limit_hits.items()}
    text = "How often a limit kept something out, or ended it."
    yield _counter("s2sgw_limit_hits", text, ("limit",), hits)
    number, limit = numbers.descriptors
    yield GaugeMetricFamily("s2sgw_descriptors", "Open file descriptors.", value=number)
    yield GaugeMetricFamily("s2sgw_descriptors_limit", "File descriptors that the process may have.", value=limit)


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


class HandshakeTimes:
    """The duration of each step of opening a stream (`s2sgw_handshake_seconds`)."""

    def __init__(self) -> None:
        text = "Time that a step of opening a stream took."
        self.histogram = Histogram("s2sgw_handshake_seconds", text, ("step",), buckets=HANDSHAKE_BUCKETS, registry=None)
        self._steps = {step: self.histogram.labels(step) for step in STEPS}

    def took(self, step: str, seconds: float) -> None:
        """Count a step of `STEPS` that took `seconds`. Raises `ValueError` for any other step."""
        if step not in STEPS:
            raise ValueError(f"{step!r} is no step of a handshake: {', '.join(STEPS)}")
        self._steps[step].observe(seconds)


class BuildInfo(Collector):
    """The release and the versions that it runs on (`s2sgw_build_info`)."""

    def __init__(self, **facts: str) -> None:
        self._facts = facts

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics are named by `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the one series, whose value is 1."""
        family = GaugeMetricFamily("s2sgw_build_info", "The release that runs, and what it runs on.", labels=tuple(self._facts))
        family.add_metric(tuple(self._facts.values()), 1)
        yield family


class ReloadOutcomes(Collector):
    """The outcome of the last reload, and the time when the configuration in use was loaded."""

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._good = True
        self._loaded_at = wall.seconds()

    def reloaded(self, ok: bool) -> None:
        """Note a reload: it has changed the configuration in use, or was refused."""
        self._good = ok
        if ok:
            self._loaded_at = self._wall.seconds()

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics are named by `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the two gauges."""
        text = "Whether the last reload of the configuration was successful (1), or was refused (0)."
        yield GaugeMetricFamily("s2sgw_config_last_reload_successful", text, value=float(self._good))
        text = "When the configuration in use was loaded, in seconds since the epoch."
        yield GaugeMetricFamily("s2sgw_config_last_reload_success_timestamp_seconds", text, value=self._loaded_at)


class Metrics:
    """The registry of one gateway: the `source` and the `collectors`, read at each scrape, and the times of handshakes.

    With the usual metrics of a process (`process_*`), without the `_created` series of histograms.
    """

    def __init__(self, source: MetricSource, handshake_times: HandshakeTimes, collectors: Iterable[Collector] = ()) -> None:
        self._source = source
        self.registry = CollectorRegistry()
        disable_created_metrics()
        ProcessCollector(registry=self.registry)
        for collector in (_Reader(source), handshake_times.histogram, *collectors):
            self.registry.register(collector)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page with the last count, and its content type: OpenMetrics, if the header `Accept` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def count(self) -> Deferred[Any]:
        """Count again. Many streams and queues are counted in slices, so the Deferred may fire later."""
        return self._source.count()

    def written(self, encode: Encoder) -> Deferred[bytes]:
        """Return the result of `text` in the format of `encode`, written one metric after another with other work in between."""
        return self._source.run(self._lines(encode))

    def _lines(self, encode: Encoder) -> Generator[None, None, bytes]:
        written = []
        for metric in self.registry.collect():
            written.append(encode(_One(metric)).removesuffix(_LAST_LINE))
            yield
        return b"".join((*written, encode(CollectorRegistry())))  # OpenMetrics has a last line


class _One(CollectorRegistry):
    """A registry with one metric."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _encoder(request: Request) -> tuple[Encoder, str]:
    """Return the encoder for the format of a request, and its content type."""
    return choose_encoder(request.getHeader("accept") or "")


class MetricsPage(Resource):
    """/metrics."""

    isLeaf = True
    log = Logger("s2sgw")

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics
        #: the requests that wait for the count under way
        self._waiting: dict[Request, None] = {}
        self._counting: Deferred[Any] | None = None

    def render_GET(self, request: Request) -> int:
        """Answer with the present numbers (HEAD gives the same without its body).

        Requests that come while numbers are counted share that count.
        """
        self._waiting[request] = None
        request.notifyFinish().addErrback(lambda _: self._leave(request))
        if self._counting is None:
            self._count()
        return NOT_DONE_YET

    def _count(self) -> None:
        self._counting = counting = Deferred.fromCoroutine(self._texts())
        counting.addCallback(self._answer).addErrback(self._failed)

    async def _texts(self) -> dict[str, bytes]:
        """Return the present page for each content type, in the formats of the requests."""
        await self._metrics.count()
        formats = {content_type: encode for encode, content_type in map(_encoder, self._waiting)}
        return {content_type: await self._metrics.written(encode) for content_type, encode in formats.items()}

    def _leave(self, request: Request) -> None:
        """Forget the request of a client that is gone. End the count if no other request waits."""
        self._waiting.pop(request, None)
        if not self._waiting and self._counting is not None:
            self._counting.cancel()

    def _answer(self, texts: dict[str, bytes]) -> None:
        """Answer the requests. A late request for another format gets the next count."""
        for request in self._counted():
            content_type = _encoder(request)[1]
            text = texts.get(content_type)
            if text is None:
                self._waiting[request] = None
                continue
            request.setHeader(b"content-type", content_type.encode("ascii"))
            request.setHeader(b"content-length", str(len(text)).encode("ascii"))
            if request.method != b"HEAD":
                request.write(text)
            request.finish()
        if self._waiting and self._counting is None:
            self._count()

    def _failed(self, failure: Failure) -> None:
        """Answer that the count failed. If it was cancelled, no request waits."""
        waiting = self._counted()
        if not failure.check(CancelledError):
            self.log.failure("the metrics could not be read", failure)
        for request in waiting:
            request.setResponseCode(500)
            request.finish()

    def _counted(self) -> list[Request]:
        """Return the requests that waited. The next request begins a new count."""
        waiting, self._counting = list(self._waiting), None
        self._waiting.clear()
        return waiting
