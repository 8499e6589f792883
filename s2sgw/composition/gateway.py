"""The parts of a gateway, built from one configuration and joined to each other (`service` opens them)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from random import SystemRandom
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from s2sgw.admin.queue_verbs import QueueVerbs
from s2sgw.admin.server import Verb
from s2sgw.admin.trust_verbs import trust_verbs
from s2sgw.admin.views import GatewayViews
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import Judge
from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.authentication.posh_documents import documents
from s2sgw.authentication.trust_files import TrustFiles
from s2sgw.composition.backends import Backends
from s2sgw.config import Config
from s2sgw.config.cross_checks import certificate_files
from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.acknowledgements import Acks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.holds import OperatorHolds
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.outbound_stream import StreamProvider
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.filtering import StanzaFilters
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.addresses import HostPort, is_this_machine
from s2sgw.net.certificates import CertificateDirectory, Credential
from s2sgw.net.certificates import read as read_credential
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Dialler, DirectDialler
from s2sgw.net.discovery import Discovery, Resolution
from s2sgw.net.resolver import Resolver
from s2sgw.net.socks import SocksDialler
from s2sgw.net.tls import ClientTLS, ServerTLS
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.entries import HoldTimes
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.metrics import Metrics
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime.rediscovery import Rediscovery
from s2sgw.runtime.state_directory import keep_secret, prepare_state
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices, InitiatedStream
from s2sgw.s2s.destinations import BACK_OFF, Destinations, Extra
from s2sgw.s2s.dialback_verifier import DialbackVerifier
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.federation_receiving import FederationReceiving
from s2sgw.s2s.keepalive import KeepAlive
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.spool.interface import Spool
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.spool.sqlite_spool import SQLiteSpool
from s2sgw.stream.dialback import DialbackKeys, derive
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.trust.anchors import Anchors
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair


class GatewayParts:
    """Everything that one configuration comes to, each part built at its first use. Only the spool's file is opened here."""

    log = Logger("s2sgw")

    def __init__(self, config: Config, reactor: Any) -> None:
        self.config = config
        self.reactor = reactor
        self.random = SystemRandom()
        self.started = reactor.seconds()
        #: the ports of our own listeners, to which no peer's DNS may lead
        self.ports: set[int] = set()

    # --- what is ours ---

    @cached_property
    def state(self) -> Path:
        return prepare_state(self.config.gateway.state)

    @cached_property
    def secret(self) -> bytes:
        """What dialback keys derive from (XEP-0185)."""
        return keep_secret(self.state / "secret")

    @cached_property
    def certificates(self) -> CertificateDirectory:
        return CertificateDirectory(self.config.tls.certificates)

    @cached_property
    def local_domains(self) -> frozenset[Domain]:
        return frozenset(self.config.gateway.domains)

    def is_local(self, domain: Domain) -> bool:
        return domain in self.local_domains

    @cached_property
    def policies(self) -> PeerPolicies:
        """The policies of all peers, which a reload changes in place."""
        return self.config.policies

    def adopt(self, config: Config, certificates: CertificateDirectory) -> None:
        """Hold another configuration from now on: whatever may change without a restart (`config.changes`)."""
        self.config = config
        self.policies.adopt(config.policies)
        self.certificates.adopt(certificates)
        self._special_credentials.clear()
        self.material.look_again()

    # --- what all streams share ---

    @cached_property
    def record(self) -> EventRecord:
        return EventRecord(self.reactor.seconds, self.log, self.peer_records.refusals.keep, self.peer_records.refusals.past())

    @cached_property
    def queues(self) -> DeliveryQueues:
        return DeliveryQueues(
            self.reactor, self.record, self.config.queue.memory, self._holds, self.is_local, self._next_hop, self.spool,
            window=self.config.queue.window, spools=self.config.queue.disk > 0, operator_holds=OperatorHolds(self.state,
            self._report),
            restore=self.config.queue.restore,
        )

    @cached_property
    def spool(self) -> Spool:
        """The file is opened here; raises `SpoolBroken` where that cannot be."""
        queue, deliver = self.config.queue, self.reactor.callFromThread
        if not queue.disk:
            return MemorySpool(0, deliver)
        return SQLiteSpool(self.state / "spool.db", queue.disk, deliver, durability=queue.durability, report=self._report)

    def _report(self, text: str) -> None:
        self.reactor.callFromThread(self.log.critical, event="spool", detail=text)

    @cached_property
    def accepted(self) -> AcceptedStreams:
        return AcceptedStreams(self.ingress_services, self._incoming, self._woken)

    @cached_property
    def ingress_services(self) -> IngressServices:
        return IngressServices(self.queues, self.record, StanzaFilters(self.policies, self.reactor.seconds))

    def _woken(self, domain: Domain) -> None:
        self.destinations.wake(domain.ascii, lambda: self.queues.contact(domain))

    @cached_property
    def client_tls(self) -> ClientTLS:
        return ClientTLS()

    @cached_property
    def connect_services(self) -> ConnectServices:
        return ConnectServices(
            self._outgoing, self.reactor, self.destinations, self.metrics.handshake, self.accepted.pair_stream,
            self._carried_back,
            room=self.room, missed=self._missed,
        )

    def _missed(self, pair: Pair, known: Resolution) -> None:
        if not self.is_local(pair.recipient):
            self.rediscovery.missed(pair.recipient, known)

    @cached_property
    def rediscovery(self) -> Rediscovery:
        return Rediscovery(self.reactor, self.queues, self._whereabouts_of, self.random.random)

    def _whereabouts_of(self, peer: Domain) -> Deferred[Resolution]:
        return self.discovery.resolve(peer, self.policies.policy(peer).route)

    @cached_property
    def room(self) -> StreamLimit:
        return StreamLimit(self.reactor, self.config.queue.streams)

    def _carried_back(self, stream: InitiatedStream) -> StreamIngress:
        """What comes on a stream of ours to a peer that may send on it (XEP-0288)."""
        facts = {"method": "bidi", "address": stream.connection.peer_address}
        self.record.standing("stream carries back", "inbound", stream.side.leg, stream.pair.inverse, **facts)
        return StreamIngress(
            self.ingress_services, stream.connection, stream.engine, stream.side.leg,
            lambda pair: self.outbound.admit(pair.inverse),
            lambda: [stream.pair.recipient],
        )

    @cached_property
    def destinations(self) -> Destinations:
        return Destinations(self.reactor, self.random.random, told=self._left_out)

    def _left_out(self, peer: str, extra: Extra, ending: Ending) -> None:
        self.log.warn(
            event="extension left out for a day", peer=peer, extension=extra, layer=ending.layer.value, cause=ending.cause.value,
            detail=ending.detail,
        )

    @cached_property
    def direct(self) -> DirectDialler:
        return DirectDialler(self.reactor, sources=self.config.gateway.source_addresses)

    def _relayed(self, peer: Domain) -> bool:
        return self.policies.policy(peer).proxy != "none"

    def _dialling(self, peer: Domain) -> Dialler:
        proxy = self.policies.policy(peer).proxy
        if proxy == "none":
            return self.direct
        return SocksDialler(self.reactor, HostPort(proxy.host, proxy.port), user=proxy.user, password=proxy.password)

    @cached_property
    def resolver(self) -> Resolver:
        dns = self.config.dns
        return Resolver(self.reactor, [str(server) for server in dns.servers], trust_ad=dns.trust_ad)

    @cached_property
    def discovery(self) -> Discovery:
        dns = self.config.dns
        return Discovery(
            self.reactor, self.resolver, static={name: str(place) for name, place in dns.static.items()},
            private_addresses=dns.private_addresses, own_addresses=self._is_own, relayed=self._relayed, random=self.random,
        )

    def stream_id(self) -> str:
        return secrets.token_hex(16)

    # --- what operators see ---

    @cached_property
    def views(self) -> GatewayViews:
        return GatewayViews(
            self.config, self.queues, self.accepted, self.record, self.certificates, self.started, self.room, self._without,
            self.backends.links.values,
        )

    def _without(self) -> Iterator[tuple[str, tuple[Extra, ...]]]:
        """Peers alone: a server of ours is no news here."""
        return ((name, extras) for name, extras in self.destinations.without() if not self.is_local(Domain.parse(name)))

    @cached_property
    def audit(self) -> AuditLog:
        return AuditLog(self.state, self.reactor.seconds)

    @cached_property
    def queue_verbs(self) -> QueueVerbs:
        return QueueVerbs(self.queues, self.is_local, self.audit)

    @cached_property
    def trust_verbs(self) -> dict[str, Verb]:
        """What is asked and decided about peers."""
        return trust_verbs(
            self.reactor, lambda: self.config, self.policies, self.peer_records, self.audit, judge=self.judge,
            proving=self.proving,
            discovery=self.discovery, record=self.record, queues=self.queues, accepted=self.accepted, credential=self._credential,
        )

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.views.sources())

    # --- the federation leg ---

    @cached_property
    def judge(self) -> Judge:
        private = self.config.dns.private_addresses == "allow"
        posh = documents(private, self.reactor, self.resolver, self.anchors)
        look_ups = EvidenceLookups(self.reactor, self.discovery, posh, self._relayed)
        return Judge(self.policies, self.proving, look_ups, self.peer_records, lambda: datetime.now(UTC))

    @cached_property
    def proving(self) -> ProofRunner:
        return ProofRunner(self.material.anchors, self.material.revocations)

    @cached_property
    def material(self) -> TrustFiles:
        """Trust anchors and revocation lists."""
        return TrustFiles(self.reactor)

    def anchors(self) -> Anchors:
        """Whom `[tls]` trusts."""
        return self.material.anchors(PeerPolicy(trust_anchors=self.config.tls.trust_anchors))

    @cached_property
    def peer_records(self) -> PeerRecords:
        """What is remembered of peers."""
        return PeerRecords.at(self.state)

    @cached_property
    def federation_keys(self) -> DialbackKeys:
        return DialbackKeys(derive(self.secret, "federation"))

    @cached_property
    def outbound(self) -> FederationInitiating:
        return FederationInitiating(
            self.policies, self.discovery, self.judge, self.federation_keys, self._credential, self.client_tls,
            self._dialling, self.ack_selection.managed, self.ack_selection.resumes,
            lambda peer: self.destinations.bears(peer.ascii, "bidi"),
        )

    @cached_property
    def inbound(self) -> FederationReceiving:
        return FederationReceiving(
            self.is_local, self.policies, self.discovery, self.judge, self.federation_keys,
            self._server_tls, DialbackVerifier(self.outbound, self.connect_services, self.reactor).verify, self.accepted.count,
            self.stream_id,
            self._credential,
        )

    @cached_property
    def _server_tlses(self) -> dict[tuple[str, bool], ServerTLS]:
        return {}

    def _server_tls(self, direct: bool) -> ServerTLS:
        """What opens TLS on STARTTLS or direct TLS listeners, with the least version of now."""
        minimum = self.config.tls.minimum
        if (minimum, direct) not in self._server_tlses:
            self._server_tlses[minimum, direct] = ServerTLS(self.certificates.for_domain, minimum, direct=direct)
        return self._server_tlses[minimum, direct]

    def _credential(self, local: Domain, peer: Domain) -> Credential | None:
        special = self.policies.policy(peer).certificate
        return self.certificates.for_domain(local) if special is None else self._special(special)

    @cached_property
    def _special_credentials(self) -> dict[Path, Credential]:
        return {}

    def _special(self, path: Path) -> Credential:
        if path not in self._special_credentials:
            self._special_credentials[path] = read_credential(path.name, *certificate_files(path))
        return self._special_credentials[path]

    @cached_property
    def backends(self) -> Backends:
        """The existing servers."""
        return Backends(self)

    # --- lanes ---

    def _holds(self, pair: Pair) -> HoldTimes:
        queue = self.config.queue
        peer = pair.sender if self.is_local(pair.recipient) else pair.recipient
        return HoldTimes(self.policies.policy(peer).hold, queue.iq_hold)

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if self.is_local(queue.pair.recipient):
            return self.backends.next_hop(queue)
        return self.agent(queue, PeerStreamProvider(self.outbound, self.connect_services))

    def agent(self, queue: DeliveryQueue, way: StreamProvider) -> DeliveryAgent:
        """What brings the stanzas of a lane to the next server."""
        return DeliveryAgent(queue, way, self.record, BACK_OFF, self.random.random, self.reactor, self.ack_selection.of)

    @cached_property
    def ack_selection(self) -> AckSelection:
        return AckSelection(self._acks, lambda: self.queues, self.destinations, self.reactor)

    def _acks(self, domain: Domain) -> Acks:
        return self.backends.acks(domain) if self.is_local(domain) else "auto"

    # --- connections ---

    @cached_property
    def keeper(self) -> KeepAlive:
        return KeepAlive(self.reactor)

    def _incoming(self, engine: Any, owner: Any, **options: Any) -> StreamConnection:
        return self.keeper.keep(StreamConnection(engine, owner, clock=self.reactor, **options))

    def _outgoing(self, engine: InitiatingStream, owner: InitiatedStream) -> StreamConnection:
        return self.keeper.keep(StreamConnection(
            engine, owner, clock=self.reactor, role="initiating", tls=lambda _: owner.side.tls(owner.pair, owner.target),
            direct_tls=owner.target.direct_tls,
        ))

    def _is_own(self, host: str, port: int) -> bool:
        return port in self.ports and is_this_machine(host)
