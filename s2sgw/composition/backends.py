"""The existing servers behind the gateway, each by its kind: what is opened for it, and the next hops to its domains."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from s2sgw.backend.dns_view import DNSView
from s2sgw.backend.echo import EchoNextHop
from s2sgw.backend.health import BackendHealth, BackendIdentity
from s2sgw.backend.jabberd2_router import Router, RouterLink, RouterServices
from s2sgw.backend.private_ca import CERTIFICATE_FILE, PrivateCA
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
from s2sgw.net.dialing import CONNECT_TIMEOUT, Build, ClosedAtOnce, DialFailed, Dialler, DirectDialler
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
from s2sgw.xmpp.wall_clock import WallClock

#: Seconds that a server has to accept a connection when it is only looked for.
KNOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ConfiguredAcks:
    """How the server of each domain acknowledges: as configured for a backend, by the best way there is for a peer."""

    running: RunningConfiguration

    def of_domain(self, domain: Domain) -> Acks:
        """Return the way for one domain. A jabberd2 part that answers no ping is asked again."""
        backend = self.running.config.backend_for(domain)
        if backend is None:
            return "auto"
        return "ping" if backend.kind == "jabberd2-router" and backend.acks == "auto" else backend.acks


@dataclass(frozen=True, slots=True)
class BackendServices:
    """What the backends need of the gateway."""

    reactor: Any
    random: Random
    wall: WallClock
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


def identity_of(config: Config, backend: Backend) -> BackendIdentity:
    """Return how a backend is called towards operators."""
    view, authority = backend.dns_view, config.gateway.state / CERTIFICATE_FILE
    domains = tuple(map(str, config.domains_of(backend)))
    return BackendIdentity(str(backend.address), backend.kind, domains, str(authority), None if view is None else str(view))


class Backends:
    """All backends of a configuration. The constructor connects to none; `start` does."""

    def __init__(self, config: Config, services: BackendServices) -> None:
        self._services = services
        ca = PrivateCA(services.state) if any(backend.kind == "s2s" for backend in config.backends) else None
        #: by the index of the backend in the configuration
        self._servers: dict[int, BackendInitiating] = {}
        self.links: dict[int, RouterLink] = {}
        self._receiving: dict[int, BackendReceiving] = {}
        self._views: dict[int, DNSView] = {}
        self.health: dict[int, BackendHealth] = {
            index: self._health(backend) for index, backend in enumerate(config.backends) if backend.kind != "echo"
        }
        for index, backend in enumerate(config.backends):
            if backend.kind == "jabberd2-router":
                self.links[index] = self._link(backend, self.health[index])
            elif ca is not None and backend.kind == "s2s":
                self._servers[index] = BackendInitiating(
                    self._server(backend, ca, self.health[index]), services.client_tls, partial(self.dialler, index),
                    services.accepted.owner, self._owner_domains,
                )

    @property
    def _config(self) -> Config:
        return self._services.running.config

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

    # --- whether they answer ---

    def _health(self, backend: Backend) -> BackendHealth:
        recovered = partial(self._recovered, self._config.domains_of(backend))
        return BackendHealth(identity_of(self._config, backend), self._services.wall, recovered)

    def _recovered(self, domains: Sequence[Domain]) -> None:
        """Try at once what waits for a server that is up again."""
        for domain in domains:
            self._services.connect_services.destinations.retry_now(domain.ascii)
            self._services.ingress_services.queues.retry_now(domain)

    def watch_view(self, backend: Backend, view: DNSView) -> None:
        """Take the DNS view of `backend` as what shows whether the server asks it."""
        index = self._config.backends.index(backend)
        self._views[index] = view
        self.health[index].questions = lambda: view.questions

    async def check(self) -> None:
        """Look whether the servers that no stream shows to be up answer, and log what was only counted."""
        for index, backend in enumerate(self._config.backends):
            health = self.health.get(index)
            if health is not None:
                health.tell_repeated()
                await health.check(partial(self._knock, backend))

    async def _knock(self, backend: Backend) -> None:
        """Connect to the server's port and close again. Raises `DialFailed`."""
        await self._dial(backend.address.host, backend.address.port, ClosedAtOnce, KNOCK_SECONDS)

    def adopt(self, config: Config) -> None:
        """Speak with the servers as `config` says from the next stream on. Backends are as many as before, of the same kinds."""
        for index, backend in enumerate(config.backends):
            side = self._servers.get(index)
            if side is not None:
                health = self.health[index]
                health.adopt(identity_of(config, backend))
                side.server = self._server(backend, side.server.authority, health)
                if index in self._receiving:
                    self._receiving[index].server = side.server
                if index in self._views:
                    self._views[index].forward_to(self.forwarders(backend))

    def forwarders(self, backend: Backend) -> list[str]:
        """Return the name servers that the DNS view of `backend` asks."""
        return [str(server) for server in backend.forward or self._config.nameservers]

    def serves(self, listen: str, name: str) -> bool:
        """Return whether `name`, in A-labels, is a domain of the backend with that inner listener now."""
        config = self._config
        return any(
            domain.ascii == name for each in config.backends if each.listen == listen for domain in config.domains_of(each)
        )

    # --- an XMPP server, by its own s2s ---

    def _server(self, backend: Backend, ca: PrivateCA, health: BackendHealth) -> BackendServer:
        services, acks = self._services, self._services.ack_selection
        return BackendServer(
            backend.address.host, backend.address.port, frozenset(self._config.domains_of(backend)), backend.tls, ca,
            services.dialback_keys, services.running.anchors, _now, services.resolver.addresses,
            managed=acks.use_stream_management, stanza_bytes=backend.stanza_bytes,
            resume=lambda domain: int(backend.resume) if acks.use_resumption(domain) else 0, outcomes=health,
        )

    def dialler(self, index: int, pair: Pair) -> Dialler:
        """Return what connects to the server; with `proxy_protocol` the server is told the address of the peer's stream."""
        plain = DirectDialler(self._services.reactor)
        if not self._config.backends[index].proxy_protocol:
            return plain
        ends = self._services.accepted.ends(pair)
        source, destination = (HostPort.parse(end, 0) for end in ends) if ends else (None, None)
        return announcing(plain, write(source, destination) if source and destination else LOCAL)

    def receiving(self, backend: Backend) -> BackendReceiving:
        """Return the leg of the inner listener of `backend`."""
        services, initiating = self._services, self._servers[self._config.backends.index(backend)]
        verifier = DialbackVerifier(initiating, services.connect_services, services.reactor)
        peers = services.federation
        leg = self._receiving[self._config.backends.index(backend)] = BackendReceiving(
            initiating.server, services.running.is_local, verifier.verify, peers.admit, new_stream_id, peers.expect,
        )
        return leg

    # --- jabberd2, by its router ---

    def _link(self, backend: Backend, health: BackendHealth) -> RouterLink:
        services, path = self._services, backend.secret_file
        assert path is not None  # the configuration requires it
        router = Router(
            backend.address.host, backend.address.port, backend.user, partial(read_secret, path),
            frozenset(self._config.domains_of(backend)), backend.stanza_bytes,
        )
        return RouterLink(router, RouterServices(
            services.ingress_services, services.connections.link, self._dial, self._admit, services.reactor,
            services.random, partial(secrets.token_urlsafe, 24), health,
        ), BackOff(first=1, longest=30))

    async def _admit(self, pair: Pair) -> Ending | None:
        return None if self._services.running.is_local(pair.recipient) else await self._services.federation.admit(pair)

    async def _dial(self, host: str, port: int, build: Build, seconds: float = CONNECT_TIMEOUT) -> None:
        """Connect to one of the addresses of `host`, within `seconds` each. Raises `DialFailed`."""
        failed = DialFailed(Ending(Cause.UNREACHABLE, f"the address of {host} is not known"))
        for address in await self._services.resolver.addresses(host):
            try:
                return await DirectDialler(self._services.reactor, timeout=seconds)(address, port, build)
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
