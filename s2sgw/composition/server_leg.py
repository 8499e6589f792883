"""The leg to one XMPP server behind the gateway: its two sides, its state, and the changes of a reload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from s2sgw.backend.dns_view import DNSView
from s2sgw.backend.health import BackendHealth
from s2sgw.backend.private_ca import PrivateCA
from s2sgw.backend.server import BackendInitiating, BackendReceiving, BackendServer
from s2sgw.composition.agents import AgentBuilder
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.connections import ConnectionBuilder
from s2sgw.config import Backend
from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.net.dialing import Dialler, DirectDialler
from s2sgw.net.proxy_protocol import LOCAL, announcing, write
from s2sgw.net.resolver import Resolver
from s2sgw.net.tls import ClientTLS
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.dialback_verifier import DialbackVerifier
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.identity import new_stream_id
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.wall_clock import WallClock


@dataclass(frozen=True, slots=True)
class BackendServices:
    """The services of the gateway that the backends use."""

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


class ServerLeg:
    """One backend of kind "s2s". Its inner listener identifies it: a backend with another listener is another backend.

    `owner_domains`: the most pairs of one owner that may be sent to the server at a time.
    """

    def __init__(
        self, backend: Backend, domains: Sequence[Domain], authority: PrivateCA, health: BackendHealth, services: BackendServices,
        owner_domains: Callable[[Pair], int],
    ) -> None:
        self.backend = backend
        self.health = health
        self.authority = authority
        #: its DNS view, if it has one
        self.view: DNSView | None = None
        self._services = services
        server = self._server(domains)
        self.initiating = BackendInitiating(server, services.client_tls, self.dialler, services.accepted.owner, owner_domains)
        verifier = DialbackVerifier(self.initiating, services.connect_services, services.reactor)
        peers = services.federation
        self.receiving = BackendReceiving(
            server, services.running.is_local, verifier.verify, peers.admit, new_stream_id, peers.expect,
            services.ingress_services.claim,
        )

    def adopt(self, backend: Backend, domains: Sequence[Domain]) -> None:
        """Use the settings of `backend` from the next stream on."""
        self.backend = backend
        self._use(self._server(domains))

    def retire(self) -> None:
        """Accept no more streams: the backend was removed from the configuration. Open streams are not touched."""
        self._use(replace(self.initiating.server, domains=frozenset()))
        self.health.retire()

    def serves(self, domain: Domain) -> bool:
        """Return whether the server is the one of `domain`."""
        return domain in self.initiating.server.domains

    def use_view(self, view: DNSView | None) -> None:
        """Count the questions to the DNS view `view`, to find out whether the server uses it."""
        self.view = view
        self.health.questions = None if view is None else lambda: view.questions

    def dialler(self, pair: Pair) -> Dialler:
        """Return the dialler to the server. With `proxy_protocol` the server gets the address of the peer's stream."""
        plain = DirectDialler(self._services.reactor)
        if not self.backend.proxy_protocol:
            return plain
        ends = self._services.accepted.ends(pair)
        source, destination = (HostPort.parse(end, 0) for end in ends) if ends else (None, None)
        return announcing(plain, write(source, destination) if source and destination else LOCAL)

    def _use(self, server: BackendServer) -> None:
        self.initiating.server = self.receiving.server = server

    def _server(self, domains: Sequence[Domain]) -> BackendServer:
        services, backend, acks = self._services, self.backend, self._services.ack_selection
        return BackendServer(
            backend.address.host, backend.address.port, frozenset(domains), backend.tls, self.authority,
            services.dialback_keys, services.running.anchors, _now, services.resolver.addresses,
            managed=acks.use_stream_management, stanza_bytes=backend.stanza_bytes,
            resume=lambda domain: int(backend.resume) if acks.use_resumption(domain) else 0, outcomes=self.health,
        )


def _now() -> datetime:
    return datetime.now(UTC)
