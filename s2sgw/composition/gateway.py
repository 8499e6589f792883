"""`build_gateway`: every object of a gateway, built once, in a written order. `service` opens and closes them.

Each step uses the results of earlier steps. One binding is late, since streams feed queues and queues feed streams:
`queues.attach(Transports(…))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Protocol

from twisted.logger import Logger

from s2sgw.admin.live_verbs import LiveVerbs
from s2sgw.admin.report_verb import ReportVerb
from s2sgw.admin.server import Verb
from s2sgw.admin.views import GatewayViews
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import Judge
from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.authentication.posh_documents import documents
from s2sgw.composition.agents import AgentBuilder
from s2sgw.composition.backends import Backends, ConfiguredAcks
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.connections import ConnectionBuilder
from s2sgw.composition.custody import SpoolLog, build_running_custody, build_spool
from s2sgw.composition.federation import (
    BidiIngress,
    ContactWake,
    Federation,
    KnownPeers,
    MissedPeers,
    OwnPorts,
    PeerDiallers,
    PeerLocations,
    discovery_of,
    log_disabled_extension,
)
from s2sgw.composition.former_domains import FormerDomains, FormerDomainServices
from s2sgw.composition.limits import federation_admission, possible_streams
from s2sgw.composition.live_check import LiveChecks
from s2sgw.composition.operator import ClusterSource, Operator, OperatorServices
from s2sgw.composition.probe import gateway_probes
from s2sgw.composition.reconfiguration import Reconfiguration, ReconfigurationServices
from s2sgw.composition.server_leg import BackendServices
from s2sgw.composition.transports import Transports
from s2sgw.config import Config
from s2sgw.config.cross_checks import SHARED_SECRET
from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.custody import Custody
from s2sgw.ingress.filtering import StanzaFilters
from s2sgw.ingress.homes import SingleNode
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.net.admission import Admission
from s2sgw.net.buffering import UnsentBytes
from s2sgw.net.discovery import Discovery
from s2sgw.net.resolver import Resolver
from s2sgw.net.sites import narrowest_site
from s2sgw.net.slices import Slices
from s2sgw.net.threads import ReactorThreads, Threads
from s2sgw.net.tls import ClientTLS
from s2sgw.net.turns import Turns
from s2sgw.peerdb.peer_records import PeerRecords, SharedStores
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.daily_report import DailyReport
from s2sgw.reporting.live_events import LiveEvents
from s2sgw.reporting.metrics import HandshakeTimes, Metrics, ReloadOutcomes
from s2sgw.reporting.outbound_metrics import OutboundMetrics
from s2sgw.reporting.record import EventRecord
from s2sgw.reporting.spool_metrics import CommitTimes
from s2sgw.runtime.domain_file import DomainFile
from s2sgw.runtime.live_check import VISITOR
from s2sgw.runtime.operator_denials import OperatorDenials
from s2sgw.runtime.own_certificates import OwnCertificates
from s2sgw.runtime.periodic_jobs import PeriodicJobs
from s2sgw.runtime.policy_change import PolicyChange
from s2sgw.runtime.rediscovery import Rediscovery
from s2sgw.runtime.secret_watch import SecretWatch
from s2sgw.runtime.state_directory import existing_secret, keep_secret, prepare_state
from s2sgw.runtime.stream_closing import BringingStream
from s2sgw.runtime.system_clock import SYSTEM_CLOCK
from s2sgw.runtime.turn_watch import TurnWatch
from s2sgw.s2s.accepted_limit import AcceptedStreamLimit
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.claims import Claims
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import BACK_OFF, Destinations
from s2sgw.s2s.dialback_verifier import DialbackVerifier
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.federation_receiving import FederationReceiving
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.s2s.keepalive import KeepAlive
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.s2s.stream_outcomes import StreamCounts
from s2sgw.spool.interface import Spool
from s2sgw.stream.dialback import DialbackKeys, derive
from s2sgw.xmpp.wall_clock import WallClock

if TYPE_CHECKING:  # imported only with the section [cluster]
    from s2sgw.composition.cluster import ClusterParts, EngineParts

log = Logger("s2sgw")


class UsedStream(Protocol):
    """A stream on which stanzas of ours may be in flight."""

    @property
    def busy(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class GatewayComponents:
    """The objects of one gateway, for opening, closing, verbs and tests. The objects themselves do not use it for look-ups."""

    reactor: Any
    slices: Slices
    threads: Threads
    state: Path
    running: RunningConfiguration
    own_ports: OwnPorts
    record: EventRecord
    audit: AuditLog
    spool: Spool
    custody: Custody
    admission: Admission
    resolver: Resolver
    discovery: Discovery
    diallers: PeerDiallers
    peer_records: PeerRecords
    judge: Judge
    keepalive: KeepAlive
    ingress_services: IngressServices
    accepted: AcceptedStreams
    destinations: Destinations
    extensions: ExtensionMemory
    federation: Federation
    backends: Backends
    rediscovery: Rediscovery
    reconfiguration: Reconfiguration
    former_domains: FormerDomains
    views: GatewayViews
    turns: Turns
    turn_watch: TurnWatch
    own_certificates: OwnCertificates
    secret_watch: SecretWatch
    reports: ReportVerb
    jobs: PeriodicJobs
    metrics: Metrics
    verbs: dict[str, Verb]
    #: the secret from which keys are derived
    secret: bytes
    #: None: the gateway is alone
    cluster: ClusterParts | None

    @property
    def admitting(self) -> bool:
        """Whether some stanzas were read and are in no queue yet."""
        return self.ingress_services.admitting

    def bringing_streams(self) -> list[BringingStream]:
        """Return the open streams of others."""
        return [BringingStream(connection, owner.engine) for connection, owner in self.accepted]

    def streams_to_former_domains(self) -> list[tuple[BringingStream, UsedStream]]:
        """Return the open streams with peers that bring stanzas to domains that were given up, and what tells their use."""
        former = self.running.former_domains
        found: list[tuple[BringingStream, UsedStream]] = [
            (BringingStream(connection, owner.engine), owner) for connection, owner in self.accepted
            if owner.side.leg == "federation" and any(pair.recipient in former for pair in owner.methods)
        ]
        found += [
            (BringingStream(stream.connection, stream.engine), stream) for stream in self.federation.connect_services.initiated
            if stream.leg == "federation" and stream.incoming is not None
            and any(pair.sender in former for pair in (stream.pair, *stream.shared_stream.pairs))
        ]
        return [(stream, used) for stream, used in found if not stream.connection.retiring]

    def own_bringing_streams(self) -> list[BringingStream]:
        """Return the open streams of ours on which the other side also sends (XEP-0288)."""
        initiated = self.federation.connect_services.initiated
        return [BringingStream(stream.connection, stream.engine) for stream in initiated if stream.incoming is not None]


def build_gateway(config: Config, reactor: Any, wall: WallClock = SYSTEM_CLOCK) -> GatewayComponents:
    """Build every object for a checked configuration. No port is opened and no connection is made.

    `reactor.seconds` measures delays, and should be monotonic (`use_monotonic_clock`). `wall` returns the date.
    The state directory, the peer database and the spool are opened. Raises `OSError`, `ValueError`, `SpoolBroken` or
    `PrivateCAError` if one of them cannot be used.
    """
    # 1. clock, turns, random numbers, state directory, certificates, policies
    random = SystemRandom()
    turns = Turns(reactor)
    slices, threads = Slices(reactor, budget=turns.budget), ReactorThreads(reactor)
    state = prepare_state(config.gateway.state)
    secret = secret_of(config, state)  # XEP-0185: dialback keys derive from it
    running = RunningConfiguration(config, reactor, threads)
    own_ports = OwnPorts()

    engine = engine_of(running, reactor, wall, secret)

    # 2. the record, the log, and the records of peers
    shared = None if engine is None else stores_of(engine)
    peer_records = PeerRecords.at(state, reactor.callFromThread, config.limits.peer_records, running.policies.lists, shared)
    record = EventRecord(
        wall, log, peer_records.refusals, narrowest_site, LiveEvents(reactor.callFromThread), unrecorded={VISITOR.text},
    )
    audit = AuditLog(state, wall)
    if engine is not None:
        engine.book.keys.audit = audit.note_or_log
    report = record.report = DailyReport(state, wall, threads, running)
    handshake_times = HandshakeTimes()
    jobs, reload_outcomes = PeriodicJobs(reactor), ReloadOutcomes(wall)
    turn_watch = TurnWatch()

    # 3. custody
    commit_times = CommitTimes()
    spool = build_spool(running, state, reactor, wall, commit_times) if engine is None else engine.spool
    holds = None if engine is None else engine.book.holds
    custody = build_running_custody(running, state, reactor, wall, record, spool, slices, holds)
    queues = custody.queues
    filters = StanzaFilters(running.policies, reactor)
    ingress_services = IngressServices(
        queues, custody.services.bounces, reactor, record, filters, SingleNode(), running.local_domains, slices.call,
    )

    # 4. resolver and discovery
    resolver = Resolver(
        reactor, [str(server) for server in config.dns.servers], trust_ad=config.dns.trust_ad,
        lookups=config.limits.lookups, questions_per_second=config.limits.lookups_per_second,
    )
    diallers = PeerDiallers(reactor, running.policies, config.gateway.source_addresses)
    discovery = discovery_of(reactor, running, resolver, own_ports, diallers, random)

    # 5. authentication
    posh = documents(running, reactor, wall, resolver, config.limits.posh_fetches)
    proof_runner = ProofRunner(running.trust_files)
    look_ups = EvidenceLookups(reactor, discovery, posh, diallers)
    judge = Judge(running.policies, proof_runner, look_ups, peer_records, wall, turns.time_to_judge)

    # 6. streams of both roles, and the leg to the peers
    keepalive = KeepAlive(reactor)
    unsent = UnsentBytes(custody.services.relief.memory, partial(record.limit_hit, "memory"))
    connections = ConnectionBuilder(reactor, keepalive, turns, unsent, None if engine is None else engine.lease)
    admission = federation_admission(config, reactor, record, turns.budget)
    destinations = Destinations(
        reactor, random, handshakes=config.limits.handshakes, on_limit=partial(record.limit_hit, "handshakes"),
    )
    extensions = ExtensionMemory(reactor, log_disabled_extension)
    accepted = AcceptedStreams(ingress_services, connections, ContactWake(destinations, queues))
    ack_selection = AckSelection(ConfiguredAcks(running).of_domain, queues, extensions, reactor)
    agents = AgentBuilder(record, BACK_OFF, random, reactor, ack_selection)
    stream_limit = StreamLimit(reactor, possible_streams(config), record.limit_hit)
    client_tls = ClientTLS()
    keys, stream_counts = DialbackKeys(derive(secret, "federation")), StreamCounts(report)
    initiating = FederationInitiating(
        running.policies, discovery, judge, keys, running, client_tls, diallers, ack_selection, extensions,
        outcomes=stream_counts,
    )
    locations = PeerLocations(running, discovery)
    rediscovery = Rediscovery(reactor, queues, locations, random)
    bidi_ingress = BidiIngress(ingress_services, record, initiating)
    connect_services = ConnectServices(
        connections, reactor, destinations, extensions, handshake_times, accepted, bidi_ingress, room=stream_limit,
        watcher=MissedPeers(running.local_domains, rediscovery), record=record,
    )
    verifier = DialbackVerifier(initiating, connect_services, reactor, config.limits.verifications)
    receiving = FederationReceiving(
        running, running.policies, discovery, judge, keys, verifier,
        AcceptedStreamLimit(reactor, accepted, admission, record.limit_hit),
        Claims(reactor, KnownPeers(judge, accepted)), reactor, config.limits.claims_per_second,
        config.limits.domains_per_stream, outcomes=stream_counts, claim=ingress_services.claim,
    )
    federation = Federation(initiating, receiving, connect_services, agents)

    # 7. the existing servers
    backends = Backends(config, BackendServices(
        reactor, random, wall, state, running, DialbackKeys(derive(secret, "backend")), resolver, client_tls, connections,
        ingress_services, accepted, connect_services, initiating, ack_selection, agents,
    ))

    # 8. the one late binding: from here on queues can be created
    queues.attach(Transports(running, backends, federation))
    former_domains = FormerDomains(DomainFile(state), FormerDomainServices(
        reactor, running, slices, threads, queues, backends, connect_services.initiated,
    ))

    cluster = None if engine is None else cluster_of(
        engine, custody, ingress_services, accepted, connect_services.initiated, reactor,
    )

    # 9. parts that change while the gateway runs
    policy_change = PolicyChange(
        running.policies, accepted, connect_services.initiated, queues, receiving, initiating, slices, backends,
    )
    reconfiguration = Reconfiguration(ReconfigurationServices(
        reactor, wall, state, running, resolver, audit, policy_change, admission, slices, threads,
        reload_outcomes, former_domains,
    ))
    if engine is not None:
        share_denials(engine, reconfiguration.denials)

    own_certificates = OwnCertificates(running, threads, wall, audit)
    secret_watch = SecretWatch(running, threads)

    # 10. the operator
    operator = Operator(OperatorServices(
        reactor, slices, threads, wall.seconds, running, record, audit, handshake_times, commit_times, jobs, custody, accepted,
        connect_services.initiated, stream_limit, extensions, backends, discovery, peer_records, judge, proof_runner, admission,
        turn_watch, own_certificates, secret_watch, stream_counts, reload_outcomes, reconfiguration,
        {"lookups": resolver, "verifications": verifier.slots, "posh_fetches": posh.slots},
        OutboundMetrics(destinations, unsent), view_of(cluster, reactor),
    ))
    reconfiguration.adopters += [
        lambda new: resolver.configure([str(server) for server in new.nameservers], new.dns.trust_ad),
        lambda new: discovery.configure({name: str(place) for name, place in new.dns.static.items()}, new.dns.private_addresses),
        backends.adopt, former_domains.adopt, operator.views.adopt, stream_limit.reconsider,
        lambda _: own_certificates.reloaded(), lambda _: secret_watch.reloaded(),
    ]
    probes = gateway_probes(reactor, wall, running, resolver, discovery, judge, diallers, keys, client_tls)
    checks = LiveChecks(running, reactor, resolver, own_certificates, operator.status)
    reports = ReportVerb(report, queues, slices, reactor)
    live = LiveVerbs(probes.probe, checks.check, running, reactor.seconds)
    return GatewayComponents(
        reactor, slices, threads, state, running, own_ports, record, audit, spool, custody, admission,
        resolver, discovery, diallers, peer_records, judge,
        keepalive, ingress_services, accepted, destinations, extensions, federation, backends, rediscovery, reconfiguration,
        former_domains,
        operator.views, turns, turn_watch, own_certificates, secret_watch, reports, jobs,
        operator.metrics, {**operator.verbs(), **live.verbs(), "report": reports.report, "reload": reconfiguration.reload.verb,
        "reload plan": reconfiguration.reload.plan},
        secret, cluster,
    )


def secret_of(config: Config, state: Path) -> bytes:
    """Return the secret of this gateway, or that of all nodes of its cluster. Raises `OSError` or `ValueError`."""
    if config.cluster.shared is None:
        return keep_secret(state / "secret")
    return existing_secret(config.cluster.shared / SHARED_SECRET, "copy it from another node")


def engine_of(running: RunningConfiguration, reactor: Any, wall: WallClock, secret: bytes) -> EngineParts | None:
    """Return the engine of `[cluster]` and what rests on it; None: the gateway is alone."""
    if running.config.cluster.node is None:
        return None
    from s2sgw.composition.cluster import build_engine

    return build_engine(running.config, running.local_domains, reactor, wall, secret, SpoolLog(reactor).report)


def stores_of(engine: EngineParts) -> SharedStores:
    """Return the records of peers that the nodes of a cluster share."""
    book = engine.book
    return SharedStores(book.keys, book.keys.keep_in, book.pending, book.proofs)


def share_denials(engine: EngineParts, denials: OperatorDenials) -> None:
    """Share the names that operators deny with all nodes."""
    shared = denials.shared = engine.book.denials
    shared.kept, shared.apply = (lambda: denials.kept), denials.take


def view_of(cluster: ClusterParts | None, reactor: Any) -> ClusterSource | None:
    """Return the view of this node of a cluster; None: the gateway is alone."""
    if cluster is None:
        return None
    from s2sgw.composition.cluster_view import ClusterView

    return ClusterView(cluster, reactor)


def cluster_of(
    engine: EngineParts, custody: Custody, ingress_services: IngressServices, accepted: AcceptedStreams,
    initiated: InitiatedStreams, reactor: Any,
) -> ClusterParts:
    """Return the parts of this node of a cluster."""
    from s2sgw.composition.cluster import build_cluster

    return build_cluster(engine, custody, ingress_services, accepted, initiated, reactor)
