"""The operator's side: the views, the metrics, and the verbs of the admin socket."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from s2sgw import __version__
from s2sgw.admin.answer_types import ClusterAnswer, SpreadAnswer
from s2sgw.admin.event_watch import EventWatch
from s2sgw.admin.peer_certificates import PeerChain, ending_soon
from s2sgw.admin.peer_verbs import PeerServices, PeerVerbs
from s2sgw.admin.queue_verbs import QueueVerbs
from s2sgw.admin.server import Arguments, Verb, VerbError
from s2sgw.admin.trust_verbs import trust_verbs
from s2sgw.admin.verbs import verbs
from s2sgw.admin.views import GatewayViews
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import Judge
from s2sgw.composition.backends import Backends
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.reconfiguration import Reconfiguration
from s2sgw.config import Config
from s2sgw.delivery.custody import Custody
from s2sgw.net.admission import Admission
from s2sgw.net.discovery import Discovery
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.net.threads import Threads
from s2sgw.peerdb.past_proofs import LastProof
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.cluster_metrics import ClusterMetrics, ClusterNumberSource
from s2sgw.reporting.metrics import BuildInfo, HandshakeTimes, MetricNumbers, Metrics, ReloadOutcomes
from s2sgw.reporting.outbound_metrics import OutboundMetrics
from s2sgw.reporting.peer_metrics import PeerRecordMetrics, PeerRecordNumbers
from s2sgw.reporting.record import EventRecord
from s2sgw.reporting.slot_metrics import WANTING, SlotMetrics, Slots
from s2sgw.reporting.spool_metrics import CommitTimes, QueueSpace
from s2sgw.runtime import descriptors
from s2sgw.runtime.own_certificates import OwnCertificates
from s2sgw.runtime.periodic_jobs import PeriodicJobs
from s2sgw.runtime.policy_change import PeerStreams
from s2sgw.runtime.secret_watch import SecretWatch
from s2sgw.runtime.turn_watch import TurnWatch
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.extensions import Extension, ExtensionMemory
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.s2s.stream_outcomes import StreamCounts
from s2sgw.xmpp.jid import Domain

#: The answer to the verbs of a cluster, without one.
ALONE = "this gateway is alone: its configuration has no section [cluster]"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OperatorServices:
    """The sources of the operator's views."""

    clock: IReactorTime
    slices: Slices
    threads: Threads
    wall: Callable[[], float]
    running: RunningConfiguration
    record: EventRecord
    audit: AuditLog
    handshake_times: HandshakeTimes
    commit_times: CommitTimes
    jobs: PeriodicJobs
    custody: Custody
    accepted: AcceptedStreams
    initiated: InitiatedStreams
    stream_limit: StreamLimit
    extensions: ExtensionMemory
    backends: Backends
    discovery: Discovery
    peer_records: PeerRecords
    judge: Judge
    proof_runner: ProofRunner
    admission: Admission
    turn_watch: TurnWatch
    own_certificates: OwnCertificates
    secret_watch: SecretWatch
    stream_counts: StreamCounts
    reload_outcomes: ReloadOutcomes
    reconfiguration: Reconfiguration
    #: slots for work at the request of peers, by the name of their metric
    slots: Mapping[str, Slots]
    outbound_metrics: OutboundMetrics
    #: this node of a cluster; None: the gateway is alone
    cluster: ClusterSource | None = None


class ClusterSource(ClusterNumberSource, Protocol):
    """The view of a node of a cluster (`composition.cluster_view`)."""

    def status(self) -> ClusterAnswer:
        """Return the answer to `cluster status`."""

    def alerts(self) -> list[str]:
        """Return a sentence for each problem that an operator should look into."""


def build_info() -> BuildInfo:
    """Return the release, and the versions that it runs on."""
    return BuildInfo(
        version=__version__, python=platform.python_version(), twisted=version("Twisted"), cryptography=version("cryptography"),
        openssl=SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace").split()[1],
    )


class Operator:
    """The views, the metrics and the verbs of one gateway. Each reads its source when it is asked."""

    def __init__(self, services: OperatorServices) -> None:
        self._services = services
        running = services.running
        self.views = GatewayViews(
            running.config, services.custody, services.accepted, services.record, running.certificates, services.clock.seconds(),
            services.stream_limit, services.slices, self._disabled_extensions, services.backends.links.values,
            alerts=self._alerts, backends=lambda: [health.row() for health in services.backends.health],
            proofs=self._proofs,
        )
        queue_space = QueueSpace(services.custody.services.relief.memory, services.custody.services.spool)
        collectors = (
            services.jobs, queue_space, services.commit_times.histogram, SlotMetrics(services.slots), services.outbound_metrics,
            services.turn_watch, PeerRecordMetrics(self._peer_records), services.reload_outcomes, build_info(),
        )
        cluster = () if services.cluster is None else (ClusterMetrics(services.cluster),)
        self.metrics = Metrics(self, services.handshake_times, (*collectors, *cluster))

    def _peer_records(self) -> PeerRecordNumbers:
        database = self._services.peer_records.database
        return PeerRecordNumbers(database.bytes, database.limit, database.given_up)

    async def status(self) -> dict[str, Any]:
        """Return the answer to `s2sgw status`."""
        ending = await self._services.slices.run(ending_soon(self._presented_chains(), self._services.wall()))
        return {**await self.views.status(), "peer_certificates": ending}

    def _presented_chains(self) -> Iterator[PeerChain]:
        """Return the certificates of peers on the open streams of both directions."""
        for connection, owner in self._services.accepted:
            if owner.side.leg == "federation" and owner.peer is not None and owner.methods:
                yield PeerChain(str(owner.peer), connection.chain)
        for stream in self._services.initiated:
            if stream.leg == "federation":
                yield PeerChain(str(stream.pair.recipient), stream.connection.chain)

    def numbers(self) -> MetricNumbers:
        """Return the numbers of the metrics (`reporting.metrics.MetricSource`)."""
        return replace(
            self.views.numbers(), connections=self._connections(), limit_hits=self._limit_hits(),
            descriptors=(descriptors.number_open(), descriptors.limit()),
            authenticated=self._services.stream_counts.counts,
            backends={health.identity.address: health.state for health in self._services.backends.health},
        )

    def count(self) -> Deferred[Any]:
        """Count streams and queues, in slices."""
        return self.views.count()

    def run(self, work: SlicedWork[T]) -> Deferred[T]:
        """Do `work` in slices."""
        return self._services.slices.run(work)

    def _limit_hits(self) -> Counter[str]:
        """Return how often each limit was hit. Calls without a slot count under the key that bounds the slots."""
        total = Counter(self._services.record.limit_hits)
        for name, slots in self._services.slots.items():
            total[name] += sum(slots.given_up.get(reason, 0) for reason in WANTING)
        total["lookups_per_second"] += self._services.slots["lookups"].given_up.get("rate", 0)
        return total

    def _connections(self) -> dict[str, int]:
        admission = self._services.admission
        return {"unproven": admission.unproven, "proven": admission.proven}

    def verbs(self) -> dict[str, Verb]:
        """Return the verbs of the admin socket, except those that stop or change the gateway."""
        services, running = self._services, self._services.running
        queue_verbs = QueueVerbs(services.custody, running.is_local, services.audit, services.slices, running.is_own)
        trust = trust_verbs(
            services.slices, services.threads, services.wall, self._config, running.policies, services.peer_records,
            services.audit, judge=services.judge, proving=services.proof_runner, discovery=services.discovery,
            record=services.record, queues=services.custody.queues, accepted=services.accepted, initiated=services.initiated,
            credential=running.credential,
        )
        peers = PeerVerbs(PeerServices(
            PeerStreams(services.custody.queues, services.accepted, services.initiated), services.reconfiguration.denials,
            services.reconfiguration.apply_bars, services.peer_records, services.record, services.extensions, running.is_local,
        ), services.audit)
        watch = EventWatch(services.record.live)
        return {
            **verbs(self.views.views()), "status": lambda _: self.status(), **queue_verbs.verbs(), **trust, **peers.verbs(),
            "watch": watch.watch, "cluster status": self._cluster_status, "cluster spread": self._cluster_spread,
        }

    def _cluster_status(self, arguments: Arguments) -> ClusterAnswer:
        if self._services.cluster is None:
            raise VerbError(ALONE, "usage")
        return self._services.cluster.status()

    def _cluster_spread(self, arguments: Arguments) -> SpreadAnswer:
        """Refuse: a node of a cluster has its own (`composition.home_spread`)."""
        raise VerbError(ALONE, "usage")

    def _proofs(self, peer: Domain | None) -> Iterable[LastProof]:
        """Return how each peer, or one, was authenticated last."""
        proofs = self._services.peer_records.past_proofs
        if peer is None:
            return proofs.latest()
        last = proofs.last(peer)
        return () if last is None else (last,)

    def _alerts(self) -> list[str]:
        """Return a sentence for each problem that an operator should look into."""
        services = self._services
        spool = services.custody.services.spool
        alerts = [alert for health in services.backends.health for alert in health.alerts()]
        alerts += [*services.own_certificates.alerts(), *services.secret_watch.alerts(), *services.running.trust_files.alerts()]
        alerts += [*services.reconfiguration.deny_lists.alerts(), *services.jobs.alerts(), *spool.alerts()]
        alerts += [*services.peer_records.database.alerts(), *services.threads.alerts()]
        alerts += services.reconfiguration.reload.alerts()
        return alerts if services.cluster is None else [*alerts, *services.cluster.alerts()]

    def _config(self) -> Config:
        return self._services.running.config

    def _disabled_extensions(self) -> Iterator[tuple[str, tuple[Extension, ...]]]:
        """Return the extensions that are switched off, by peer. Local servers are left out."""
        for name, extensions in self._services.extensions.disabled():
            if not self._services.running.is_local(Domain.parse(name)):
                yield name, extensions
