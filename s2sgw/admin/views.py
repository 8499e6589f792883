"""The rows that operators see, read off the gateway's parts at the moment of the question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

from s2sgw import __version__
from s2sgw.admin.verbs import CertificateRow, LaneRow, RefusalRow, StatusReport, StreamRow, Views
from s2sgw.backend.jabberd2_router import RouterLink
from s2sgw.config import Config
from s2sgw.delivery.next_hop import StreamFacts
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.net.certificates import CertificateDirectory
from s2sgw.net.connection import StreamConnection
from s2sgw.reporting.metrics import MetricSources
from s2sgw.reporting.record import EventRecord
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.stream.management import Managed
from s2sgw.xmpp.host_port import HostPort


class _User(NamedTuple):
    """A queue that sends on a stream, since when, and what is known of the stream."""

    queue: DeliveryQueue
    since: float
    stream: StreamFacts


class GatewayViews:
    """Answers `Views` and the metrics' `MetricSources` from the parts of one running gateway."""

    def __init__(
        self, config: Config, queues: DeliveryQueues, accepted: AcceptedStreams, record: EventRecord,
        certificates: CertificateDirectory, started: float, room: StreamLimit,
        without: Callable[[], Iterable[tuple[str, tuple[str, ...]]]] = tuple,
        links: Callable[[], Iterable[RouterLink]] = tuple, alerts: Callable[[], list[str]] = list,
    ) -> None:
        self._alerts = alerts
        self._links = links
        self._config = config
        self._queues = queues
        self._accepted = accepted
        self._record = record
        self._certificates = certificates
        self._started = started
        self._room = room
        self._without = without

    def views(self) -> Views:
        return Views(self.status, self.streams, self.queues, self.refusals, self.certificates, self._without)

    def sources(self) -> MetricSources:
        """What the metrics read."""
        return MetricSources(
            self.stream_counts, lambda: self._record.stanzas, lambda: self._record.refusals, self.queue,
            lambda: len(self._queues.backlog), lambda: len(self._room), self.expiries,
            lambda: self._record.resumptions, lambda: len(self._accepted.sessions),
        )

    def now(self) -> float:
        return self._queues.clock.seconds()

    # --- rows ---

    def streams(self) -> Iterator[StreamRow]:
        for connection, owner in self._accepted:
            yield self._accepted_row(connection, owner)
        for link in self._links():
            yield self._link_row(link)
        users: dict[object, list[_User]] = {}
        for queue in self._queues:
            status = queue.next_hop.status()
            if status.stream is not None:
                same = status.stream.connection if status.stream.ours else queue
                users.setdefault(same, []).append(_User(queue, status.since, status.stream))
        yield from map(self._outgoing_row, users.values())

    def _link_row(self, link: RouterLink) -> StreamRow:
        """What is for peers comes by the link itself; what is for the domains that it serves has rows of its own."""
        domains = sorted(str(domain) for domain in link.router.domains)
        unserved = [f"no part of jabberd2 serves {domain}" for domain in domains if domain not in map(str, link.served)]
        bound = link.bound
        return StreamRow(
            leg="backend", direction="outbound", peer="", local=", ".join(domains), state="proven" if bound else link.state,
            method="router" if bound else None, pairs=[], tls=None, cipher=None,
            address=str(HostPort(link.router.host, link.router.port)), age=self.now() - link.since if bound else 0.0,
            reasons=unserved if bound else [link.ending.detail] if link.ending else [], resumption=None,
        )

    def _accepted_row(self, connection: StreamConnection, owner: AcceptedStream) -> StreamRow:
        federation = owner.side.leg == "federation"
        sender, recipient = str(owner.peer or ""), str(owner.local or "")
        return StreamRow(
            leg=owner.side.leg, direction="inbound" if federation else "outbound", peer=sender if federation else recipient,
            local=recipient if federation else sender, state="proven" if owner.methods else "negotiating",
            method=next(iter(owner.methods.values()), None), pairs=[[str(a), str(b)] for a, b in owner.methods],
            tls=connection.tls_version, cipher=connection.cipher, address=connection.peer_address,
            age=self.now() - owner.since, reasons=list(owner.reasons), resumption=_resumption(connection),
        )

    def _outgoing_row(self, users: list[_User]) -> StreamRow:
        """One stream, whose users are the lanes that share it: the first since when it is theirs speaks for all."""
        queue, since, stream = min(users, key=lambda user: user.since)
        sender, recipient = str(queue.pair.sender), str(queue.pair.recipient)
        inbound = queue.direction == "inbound"
        return StreamRow(
            leg=stream.leg, direction=queue.direction, peer=sender if inbound else recipient,
            local=recipient if inbound else sender, state="proven", method=stream.method,
            pairs=[[str(user.queue.pair.sender), str(user.queue.pair.recipient)] for user in users],
            tls=stream.tls, cipher=stream.cipher, address=stream.address, age=self.now() - since, reasons=list(stream.reasons),
            resumption=stream.resumption,
        )

    def queues(self) -> Iterator[LaneRow]:
        now = self.now()
        for queue in self._queues:
            status = queue.next_hop.status()
            oldest = queue.pair_queue.oldest
            yield LaneRow(
                sender=str(queue.pair.sender), recipient=str(queue.pair.recipient), direction=queue.direction,
                state="held" if queue.held else status.state,
                stanzas=len(queue.pair_queue), bytes=queue.pair_queue.bytes, oldest=0.0 if oldest is None else now - oldest,
                cause=None if status.cause is None else status.cause.value,
                retry=None if status.retry_at is None else status.retry_at - now,
            )

    def refusals(self) -> Iterator[RefusalRow]:
        for refused in self._record.list():
            yield cast(RefusalRow, refused.row())

    def certificates(self) -> Iterator[CertificateRow]:
        for domain in self._config.gateway.domains:
            credential = self._certificates.for_domain(domain)
            expires = credential.not_after.timestamp() if credential else None
            yield CertificateRow(
                domain=str(domain), name=credential.name if credential else None,
                names=[str(name) for name in credential.names.presented] if credential else [],
                expires=expires, left=None if expires is None else expires - self._queues.wall(),
                fingerprint=credential.fingerprint if credential else None,
            )

    def status(self) -> StatusReport:
        stanzas, oldest = self.queue()
        return StatusReport(
            version=__version__, config=str(self._config.path), uptime=self.now() - self._started,
            domains=[str(domain) for domain in self._config.gateway.domains], listeners=list(self.listeners()),
            streams=[{"leg": leg, "direction": way, "number": number} for (leg, way), number in self.stream_counts().items()],
            stanzas=[
                {"direction": way, "kind": kind, "outcome": outcome, "number": number}
                for (way, kind, outcome), number in sorted(self._record.stanzas.items())
            ],
            waiting={"stanzas": stanzas, "bytes": self._queues.budget.used, "oldest": oldest},
            refusals=sum(self._record.refusals.values()), broken=len(self._accepted.sessions),
            alerts=self._alerts(),
        )

    def listeners(self) -> Iterator[dict[str, str]]:
        """What is open, and for whom."""
        for listener in self._config.listen:
            yield {"purpose": f"federation ({listener.tls})", "endpoint": listener.endpoint}
        for backend in self._config.backends:
            if backend.kind == "s2s":
                yield {"purpose": "backend", "endpoint": backend.listen}
            if backend.kind == "s2s" and backend.dns_view is not None:
                yield {"purpose": "DNS view", "endpoint": str(backend.dns_view)}

    # --- numbers ---

    def stream_counts(self) -> Counter[tuple[str, str]]:
        return Counter((row["leg"], row["direction"]) for row in self.streams())

    def queue(self) -> tuple[int, float]:
        """Stanzas that wait, and the age of the oldest."""
        oldest = [queue.pair_queue.oldest for queue in self._queues if queue.pair_queue.oldest is not None]
        return sum(len(queue.pair_queue) for queue in self._queues), self.now() - min(oldest) if oldest else 0.0

    def expiries(self) -> dict[str, float]:
        return {row["domain"]: row["left"] for row in self.certificates() if row["left"] is not None}


def _resumption(connection: StreamConnection) -> str | None:
    engine = cast(Managed, connection.engine)
    return "resumed" if engine.continues else None if engine.resumption is None else "possible"

