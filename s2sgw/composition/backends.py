"""The existing servers behind the gateway, each by its kind: what is opened for it, and the next hops to its domains."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from s2sgw.backend.echo import EchoNextHop
from s2sgw.backend.jabberd2_router import Router, RouterLink, RouterServices
from s2sgw.backend.private_ca import PrivateCA
from s2sgw.backend.server import BackendInitiating, BackendReceiving, BackendServer
from s2sgw.composition.agents import AgentBuilder
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.connections import ConnectionBuilder
from s2sgw.config import Backend, Config
from s2sgw.config.secret_file import read_secret
from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.acknowledgements import Acks
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.outbound_stream import StreamProvider
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.dialing import Build, DialFailed, Dialler, DirectDialler
from s2sgw.net.proxy_protocol import LOCAL, announcing, write
from s2sgw.net.resolver import Resolver
from s2sgw.net.tls import ClientTLS
from s2sgw.queue.backoff import BackOff
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.dialback_verifier import DialbackVerifier
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.identity import new_stream_id
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, Pair


@dataclass(frozen=True, slots=True)
class ConfiguredAcks:
    """How the server of each domain acknowledges: as configured for a backend, by the best way there is for a peer."""

    config: Config

    def of_domain(self, domain: Domain) -> Acks:
        """Return the way for one domain. A jabberd2 part that answers no ping is asked again."""
        backend = self.config.backend_for(domain)
        if backend is None:
            return "auto"
        return "ping" if backend.kind == "jabberd2-router" and backend.acks == "auto" else backend.acks


@dataclass(frozen=True, slots=True)
class BackendServices:
    """What the backends need of the gateway."""

    reactor: Any
    random: Random
    state: Path
    running: RunningConfiguration
    dialback_keys: DialbackKeys
    resolver: Resolver
    client_tls: ClientTLS
    connections: ConnectionBuilder
    ingress_services: IngressServices
    accepted: AcceptedStreams
    connect_services: ConnectServices
    federation: FederationInitiating
    ack_selection: AckSelection
    agents: AgentBuilder


class Backends:
    """All backends of a configuration. The constructor connects to none; `start` does."""

    def __init__(self, config: Config, services: BackendServices) -> None:
        self._config = config
        self._services = services
        ca = PrivateCA(services.state) if any(backend.kind == "s2s" for backend in config.backends) else None
        #: by the index of the backend in the configuration
        self._servers: dict[int, BackendInitiating] = {}
        self.links: dict[int, RouterLink] = {}
        for index, backend in enumerate(config.backends):
            if backend.kind == "jabberd2-router":
                self.links[index] = self._link(backend)
            elif ca is not None and backend.kind == "s2s":
                dialling = partial(self.dialler, backend)
                self._servers[index] = BackendInitiating(
                    self._server(backend, ca), services.client_tls, dialling, services.accepted.owner, self._owner_domains,
                )

    def _owner_domains(self, pair: Pair) -> int:
        """Return how many pairs one peer, or whoever owns its certificate, may have sent to a server at a time."""
        policy = self._services.running.policies.policy(pair.sender)
        return max(self._config.limits.domains_per_stream, policy.limits.domains)

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for a queue to a local domain."""
        backend, services = self._config.backend_for(queue.pair.recipient), self._services
        assert backend is not None  # the configuration has one for each local domain
        if backend.kind == "echo":
            return EchoNextHop(queue.pair, services.ingress_services.queues)
        return services.agents.agent(queue, self._provider(backend))

    def _provider(self, backend: Backend) -> StreamProvider:
        index = self._config.backends.index(backend)
        if backend.kind == "jabberd2-router":
            return self.links[index]
        return PeerStreamProvider(self._servers[index], self._services.connect_services)

    # --- an XMPP server, by its own s2s ---

    def _server(self, backend: Backend, ca: PrivateCA) -> BackendServer:
        services, acks = self._services, self._services.ack_selection
        return BackendServer(
            backend.address.host, backend.address.port, frozenset(self._config.domains_of(backend)), backend.tls, ca,
            services.dialback_keys, services.running.anchors, _now, services.resolver.addresses,
            managed=acks.use_stream_management, stanza_bytes=backend.stanza_bytes,
            resume=lambda domain: int(backend.resume) if acks.use_resumption(domain) else 0,
        )

    def dialler(self, backend: Backend, pair: Pair) -> Dialler:
        """Return what connects to the server; with `proxy_protocol` the server is told the address of the peer's stream."""
        plain = DirectDialler(self._services.reactor)
        if not backend.proxy_protocol:
            return plain
        ends = self._services.accepted.ends(pair)
        source, destination = (HostPort.parse(end, 0) for end in ends) if ends else (None, None)
        return announcing(plain, write(source, destination) if source and destination else LOCAL)

    def receiving(self, backend: Backend) -> BackendReceiving:
        """Return the leg of the inner listener of `backend`."""
        services, initiating = self._services, self._servers[self._config.backends.index(backend)]
        verifier = DialbackVerifier(initiating, services.connect_services, services.reactor)
        peers = services.federation
        return BackendReceiving(
            initiating.server, services.running.is_local, verifier.verify, peers.admit, new_stream_id, peers.expect,
        )

    # --- jabberd2, by its router ---

    def _link(self, backend: Backend) -> RouterLink:
        services, path = self._services, backend.secret_file
        assert path is not None  # the configuration requires it
        router = Router(
            backend.address.host, backend.address.port, backend.user, partial(read_secret, path),
            frozenset(self._config.domains_of(backend)), backend.stanza_bytes,
        )
        return RouterLink(router, RouterServices(
            services.ingress_services, services.connections.link, self._dial, self._admit, services.reactor,
            services.random, partial(secrets.token_urlsafe, 24),
        ), BackOff(first=1, longest=30))

    async def _admit(self, pair: Pair) -> Ending | None:
        return None if self._services.running.is_local(pair.recipient) else await self._services.federation.admit(pair)

    async def _dial(self, host: str, port: int, build: Build) -> None:
        failed = DialFailed(Ending(Cause.UNREACHABLE, f"the address of {host} is not known"))
        for address in ["127.0.0.1", "::1"] if host == "localhost" else [host]:
            try:
                return await DirectDialler(self._services.reactor)(address, port, build)
            except DialFailed as problem:
                failed = problem
        raise failed

    def ingresses(self) -> list[StreamIngress]:
        """Return where stanzas come in by a router link."""
        return [link.incoming for link in self.links.values() if link.incoming is not None]

    def start(self) -> None:
        """Connect to the routers, and stay connected."""
        for link in self.links.values():
            link.start()

    def stop(self) -> Deferred[list[None]]:
        """Close the router links in order."""
        return gatherResults([link.stop() for link in self.links.values()])


def _now() -> datetime:
    return datetime.now(UTC)
