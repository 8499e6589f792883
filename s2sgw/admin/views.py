"""The rows for operators, made from the gateway's state on request."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s2sgw import __version__
from s2sgw.admin.spool_summaries import by_pair, spool_summaries, unspooled_bytes
from s2sgw.admin.verbs import (
    CertificateRow,
    LaneRow,
    PeerRow,
    RefusalRow,
    RefusalsAsked,
    StatusReport,
    StreamRow,
    Views,
)
from s2sgw.backend.jabberd2_router import RouterLink
from s2sgw.config import Config
from s2sgw.delivery.custody import Custody
from s2sgw.delivery.next_hop import StreamFacts
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.net.certificates import CertificateDirectory
from s2sgw.net.connection import StreamConnection
from s2sgw.net.slices import SlicedWork, Slices, in_order
from s2sgw.peerdb.past_proofs import LastProof
from s2sgw.queue.evidence import LABELS
from s2sgw.reporting.metrics import MetricNumbers
from s2sgw.reporting.record import EventRecord, RefusalRecord, direction_of
from s2sgw.runtime.live_check import VISITOR
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.spool.interface import LaneSummary
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain

#: Items that are examined in one step of the work, if they make no row.
AT_ONCE = 100


class _User(NamedTuple):
    """A queue that sends on a stream, the time since when, and the facts of the stream."""

    queue: DeliveryQueue
    since: float
    stream: StreamFacts


class _PeerSums:
    """The sums of one peer. There may be very many, so it is small."""

    __slots__ = ("disabled", "inbound", "last_refusal", "methods", "outbound", "proof", "refusals", "waiting")

    def __init__(self) -> None:
        self.inbound = self.outbound = self.waiting = self.refusals = 0
        self.methods: tuple[str, ...] = ()
        self.last_refusal: RefusalRecord | None = None
        self.disabled: tuple[str, ...] = ()
        self.proof: LastProof | None = None

    def add_stream(self, stream: StreamRow) -> None:
        """Count an open stream."""
        if stream["direction"] == "inbound":
            self.inbound += 1
        else:
            self.outbound += 1
        if stream["method"] and stream["method"] not in self.methods:
            self.methods = (*self.methods, stream["method"])

    def row(self, name: str) -> PeerRow:
        """Return the row of the peer called `name`."""
        last, refusal, proof = self.last_refusal, None, self.proof
        if last is not None:
            refusal = {"at": last.at, "layer": last.ending.layer.value, "cause": last.ending.cause.value}
        return PeerRow(
            peer=name, inbound=self.inbound, outbound=self.outbound, methods=list(self.methods), waiting=self.waiting,
            refusals=self.refusals, last_refusal=refusal, disabled=list(self.disabled), without=list(self.disabled),
            last_seen=proof.last if proof else None, last_method=proof.method if proof else None,
            certificate_until=proof.expires if proof else None,
        )


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers that are counted over all streams and lanes: open streams by (leg, direction), and waiting stanzas."""

    streams: Counter[tuple[str, str]] = field(default_factory=Counter)
    waiting: int = 0
    oldest: float = inf  # by the clock of the queues; inf: none waits


class GatewayViews:
    """Answers `Views` and the metrics' `MetricNumbers` from the parts of one running gateway.

    A view of very many streams or lanes takes long. So it is an iterator, which yields None where the work can be interrupted.
    Its items are those at the beginning; some may be gone when their row is made.
    """

    def __init__(
        self, config: Config, custody: Custody, accepted: AcceptedStreams, record: EventRecord,
        certificates: CertificateDirectory, started: float, room: StreamLimit, slices: Slices,
        disabled_extensions: Callable[[], Iterable[tuple[str, tuple[str, ...]]]] = tuple,
        links: Callable[[], Iterable[RouterLink]] = tuple, alerts: Callable[[], list[str]] = list,
        backends: Callable[[], list[dict[str, Any]]] = list,
        proofs: Callable[[Domain | None], Iterable[LastProof]] = lambda peer: (),
    ) -> None:
        """Take the parts.

        `backends`: the health of each backend. `proofs` returns how each peer, or one, was authenticated last.
        """
        self._backends = backends
        self._proofs = proofs
        self._alerts = alerts
        #: returns the alerts of the console, which is built later
        self.console_alerts: Callable[[], list[str]] = list
        #: returns why the listeners of a purpose are closed now; "": they are open. Those of a node of a cluster may be closed
        self.why_closed: Callable[[str], str] = lambda purpose: ""
        self._links = links
        self._config = config
        self._custody = custody
        self._queues = custody.queues
        self._accepted = accepted
        self._record = record
        self._certificates = certificates
        self._started = started
        self._room = room
        self._slices = slices
        self._disabled_extensions = disabled_extensions
        self._numbers = Numbers()
        self._counting: list[Deferred[Numbers]] = []

    def adopt(self, config: Config) -> None:
        """Use another configuration from now on."""
        self._config = config

    def views(self) -> Views:
        """Return the sources of the verbs."""
        return Views(self.status, self.streams, self.queues, self.refusals, self.certificates, self.peers, self.names)

    def numbers(self) -> MetricNumbers:
        """Return the numbers for the metrics. Those of `count` are from its last call."""
        return MetricNumbers(
            self._numbers.streams, self._record.stanzas, self._record.refusals, self._waiting(), len(self._custody.restore),
            len(self._room), self.expiries(), self._record.resumptions, len(self._accepted.sessions), receipts=self.receipts(),
            expirations=self.expirations(),
        )

    def now(self) -> float:
        """Return the time that ages refer to. It is not a date."""
        return self._custody.services.clock.seconds()

    # --- rows ---

    def streams(self, peer: Domain | None = None) -> Iterator[StreamRow | None]:
        """Yield a row for each open stream, or those of one peer."""
        for number, (connection, owner) in enumerate(self._accepted):
            if connection.ending is None and (peer is None or peer == _peer_of(owner)):
                yield self._accepted_row(connection, owner)
            elif number % AT_ONCE == 0:
                yield None
        if peer is None:
            yield from map(self._link_row, self._links())
        yield from self._outgoing_rows(peer)

    def _outgoing_rows(self, peer: Domain | None) -> Iterator[StreamRow | None]:
        users: dict[object, list[_User]] = {}
        for number, queue in enumerate(self._queues):
            if number % AT_ONCE == 0:
                yield None
            if peer is None or peer == queue.peer:
                status = queue.next_hop.status()
                if status.stream is not None:
                    same = status.stream.connection if status.stream.ours else queue
                    users.setdefault(same, []).append(_User(queue, status.since, status.stream))
        yield from map(self._outgoing_row, users.values())

    def _link_row(self, link: RouterLink) -> StreamRow:
        """Return the row of a router connection.

        It carries stanzas to peers; stanzas to its own domains have rows of their own.
        """
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
            age=self.now() - owner.since, reasons=list(owner.reasons), resumption=_resumption(owner),
        )

    def _outgoing_row(self, users: list[_User]) -> StreamRow:
        """Return the row of one stream. `users` are the lanes that share it; the row has the facts of the oldest user."""
        queue, since, stream = min(users, key=attrgetter("since"))
        sender, recipient = str(queue.pair.sender), str(queue.pair.recipient)
        inbound = queue.direction == "inbound"
        return StreamRow(
            leg=stream.leg, direction=queue.direction, peer=sender if inbound else recipient,
            local=recipient if inbound else sender, state="proven", method=stream.method,
            pairs=[[str(user.queue.pair.sender), str(user.queue.pair.recipient)] for user in users],
            tls=stream.tls, cipher=stream.cipher, address=stream.address, age=self.now() - since, reasons=list(stream.reasons),
            resumption=stream.resumption,
        )

    async def queues(self, peer: Domain | None = None) -> Iterator[LaneRow | None]:
        """Return an iterator over a row for each lane, or those to and from one domain."""
        return self._lane_rows(peer, await spool_summaries(self._custody.services))

    def _lane_rows(self, peer: Domain | None, found: Sequence[LaneSummary]) -> Iterator[LaneRow | None]:
        summaries = yield from by_pair(found)
        for number, queue in enumerate(self._queues):
            if peer is None or peer in queue.pair:
                summary = summaries.get(queue.pair)
                unspooled = yield from unspooled_bytes(queue)
                yield self._lane_row(queue, unspooled + (summary.bytes if summary else 0), self.now())
            elif number % AT_ONCE == 0:
                yield None

    def _lane_row(self, queue: DeliveryQueue, size: int, now: float) -> LaneRow:
        status, oldest = queue.next_hop.status(), queue.pair_queue.oldest
        return LaneRow(
            sender=str(queue.pair.sender), recipient=str(queue.pair.recipient), direction=queue.direction,
            state="held" if queue.held else status.state,
            stanzas=len(queue.pair_queue), bytes=size, oldest=0.0 if oldest is None else now - oldest,
            cause=None if status.cause is None else status.cause.value,
            retry=None if status.retry_at is None else status.retry_at - now, blocked=queue.waits_for(),
            full=queue.full_bounds(),
        )

    def refusals(self, asked: RefusalsAsked) -> Iterator[RefusalRow | None]:
        """Yield the last refusals, oldest first. A peer is found by either form of the name that it claimed."""
        names = None if asked.peer is None else (asked.peer.ascii, asked.peer.text)
        found: list[RefusalRecord] = []
        for refused in islice(self._record.newest(names), asked.limit):
            found.append(refused)
            if len(found) % AT_ONCE == 0:
                yield None
        for refused in reversed(found):
            yield cast(RefusalRow, refused.row(asked.letters))

    def certificates(self) -> Iterator[CertificateRow]:
        """Yield a row for each local domain."""
        for domain in self._config.gateway.domains:
            credential = self._certificates.for_domain(domain)
            expires = credential.not_after.timestamp() if credential else None
            yield CertificateRow(
                domain=str(domain), name=credential.name if credential else None,
                names=[str(name) for name in credential.names.presented] if credential else [],
                expires=expires, left=None if expires is None else expires - self._custody.services.wall.seconds(),
                fingerprint=credential.fingerprint if credential else None,
            )

    def peers(self, peer: Domain | None = None) -> Iterator[PeerRow | None]:
        """Yield a row for each peer in the order of their names, or for one. Connections that named no peer have no row."""
        sums: defaultdict[str, _PeerSums] = defaultdict(_PeerSums)
        for stream in self.streams(peer):
            if stream is not None and stream["leg"] == "federation" and stream["peer"]:
                sums[stream["peer"]].add_stream(stream)
            yield None
        for number, queue in enumerate(self._queues):
            if number % AT_ONCE == 0:
                yield None
            if queue.peer != VISITOR and (peer is None or peer == queue.peer):
                sums[str(queue.peer)].waiting += len(queue.pair_queue)
        for name, refusals, last in self._record.summaries():
            if name and (peer is None or name in (peer.ascii, peer.text)):
                sums[name].refusals, sums[name].last_refusal = refusals, last
        for number, proof in enumerate(self._proofs(peer)):
            sums[_shown(proof.domain)].proof = proof
            if number % AT_ONCE == 0:
                yield None
        for name, extensions in self._disabled_extensions():
            domain = Domain.parse(name)
            if peer is None or peer == domain:
                sums[str(domain)].disabled = extensions
        ordered = yield from in_order(sums, str)
        for name in ordered:
            yield sums.pop(name).row(name)

    def names(self, prefix: str) -> Iterator[str | None]:
        """Yield the names of peers that begin with `prefix`, each once, in no order."""
        known: set[str] = set()
        for number, name in enumerate(self._all_names()):
            if name.startswith(prefix) and name not in known:
                known.add(name)
                yield name
            elif number % AT_ONCE == 0:
                yield None

    def _all_names(self) -> Iterator[str]:
        yield from (str(queue.peer) for queue in self._queues)
        yield from (str(_peer_of(owner) or "") for _, owner in self._accepted)
        yield from (_shown(proof.domain) for proof in self._proofs(None))
        yield from (name for name, _, _ in self._record.summaries())

    # --- the overview ---

    async def status(self) -> StatusReport:
        """Return the overview."""
        numbers, memory = await self.count(), self._custody.services.relief.memory
        return StatusReport(
            version=__version__, config=str(self._config.path), uptime=self.now() - self._started,
            domains=[str(domain) for domain in self._config.gateway.domains], listeners=list(self.listeners()),
            streams=[{"leg": leg, "direction": way, "number": number} for (leg, way), number in numbers.streams.items()],
            stanzas=[
                {"direction": way, "kind": kind, "outcome": outcome, "number": number}
                for (way, kind, outcome), number in sorted(self._record.stanzas.items())
            ],
            waiting={
                "stanzas": numbers.waiting, "bytes": memory.used, "disk_bytes": self._custody.services.spool.bytes,
                "oldest": self._waiting()[1],
            },
            refusals=sum(self._record.refusals.values()), broken=len(self._accepted.sessions),
            backends=self._backends(), alerts=[*self._alerts(), *self.console_alerts(), *self._closed_alerts()],
        )

    def _closed_alerts(self) -> list[str]:
        """Return an alert if nothing listens for peers."""
        why = self.why_closed("federation")
        return [f"this gateway takes no connections of peers: {why}"] if why else []

    def listeners(self) -> Iterator[dict[str, str]]:
        """Yield the endpoint and the purpose of each listener, and why it is closed, if it is."""
        for row in self._listeners():
            why = self.why_closed(row["purpose"].partition(" (")[0])
            yield {**row, "closed": why} if why else row

    def _listeners(self) -> Iterator[dict[str, str]]:
        for listener in self._config.listen:
            yield {"purpose": f"federation ({listener.tls})", "endpoint": listener.endpoint}
        for backend in self._config.backends:
            if backend.kind == "s2s":
                yield {"purpose": "backend", "endpoint": backend.listen}
            if backend.kind == "s2s" and backend.dns_view is not None:
                yield {"purpose": "DNS view", "endpoint": str(backend.dns_view)}
        if self._config.console.listen is not None:
            yield {"purpose": "console", "endpoint": self._config.console.listen}

    # --- numbers ---

    def count(self) -> Deferred[Numbers]:
        """Count streams and waiting stanzas, in slices. Requests that arrive meanwhile get the same result."""
        asked: Deferred[Numbers] = Deferred(self._counting.remove)
        self._counting.append(asked)
        if len(self._counting) == 1:
            self._slices.run(self._count()).addBoth(self._counted)
        return asked

    def _counted(self, result: Numbers | Failure) -> None:
        if isinstance(result, Numbers):
            self._numbers = result
        asked, self._counting = self._counting, []
        for each in asked:
            each.callback(result)  # a Failure fails it

    def _count(self) -> SlicedWork[Numbers]:
        streams: Counter[tuple[str, str]] = Counter()
        for number, (connection, owner) in enumerate(self._accepted):
            if number % AT_ONCE == 0:
                yield None
            if connection.ending is None:
                streams[owner.side.leg, direction_of(owner.side.leg)] += 1
        for _ in self._links():
            streams["backend", "outbound"] += 1
        waiting, oldest, ours = 0, inf, set[object]()
        for number, queue in enumerate(self._queues):
            if number % AT_ONCE == 0:
                yield None
            waiting += len(queue.pair_queue)
            oldest = min(oldest, inf if queue.pair_queue.oldest is None else queue.pair_queue.oldest)
            stream = queue.next_hop.status().stream
            if stream is not None and (not stream.ours or stream.connection not in ours):
                ours.add(stream.connection)
                streams[stream.leg, queue.direction] += 1
        return Numbers(streams, waiting, oldest)

    def _waiting(self) -> tuple[int, float]:
        """Return the number of waiting stanzas, and the age of the oldest, from the last count."""
        oldest = self._numbers.oldest
        return self._numbers.waiting, 0.0 if oldest == inf else max(0.0, self.now() - oldest)

    def receipts(self) -> dict[str, int]:
        """Return how many receipts were settled, by evidence."""
        return {label: self._record.receipts[label] for label in LABELS}

    def expirations(self) -> dict[str, float]:
        """Return when the certificate of each local domain expires, in seconds since the epoch."""
        return {row["domain"]: row["expires"] for row in self.certificates() if row["expires"] is not None}

    def expiries(self) -> dict[str, float]:
        """Return the seconds until the certificate of each local domain expires."""
        return {row["domain"]: row["left"] for row in self.certificates() if row["left"] is not None}


def _shown(name: str) -> str:
    """Return the name of a peer as it is shown, from its A-labels."""
    return str(Domain.parse(name)) if "xn--" in name else name


def _peer_of(owner: AcceptedStream) -> Domain | None:
    """Return the remote domain of an accepted stream, as claimed or proven."""
    return owner.peer if owner.side.leg == "federation" else owner.local


def _resumption(owner: AcceptedStream) -> str | None:
    return "resumed" if owner.engine.continues else None if owner.engine.resumption is None else "possible"
