"""The existing servers behind the gateway, each by its kind: what is opened for it, and where the lanes to its domains lead."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults

from s2sgw.backend.echo import EchoNextHop
from s2sgw.backend.jabberd2_router import Router, RouterLink, RouterServices
from s2sgw.backend.private_ca import PrivateCA
from s2sgw.backend.server import BackendInitiating, BackendReceiving, BackendServer
from s2sgw.config import Backend
from s2sgw.config.secret_file import read_secret
from s2sgw.delivery.acknowledgements import Acks
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.outbound_stream import StreamProvider
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.addresses import HostPort
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Build, DialFailed, Dialler, DirectDialler
from s2sgw.net.proxy_protocol import LOCAL, announcing, write
from s2sgw.queue.backoff import BackOff
from s2sgw.s2s.dialback_verifier import DialbackVerifier
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.dialback import DialbackKeys, derive
from s2sgw.stream.jabberd2_router import RouterStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair

if TYPE_CHECKING:
    from s2sgw.composition.gateway import GatewayParts


class Backends:
    """All of them, built from the configuration of `parts`."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts

    # --- where lanes lead ---

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """The hop of a lane to a local domain."""
        backend = self._of(queue.pair.recipient)
        if backend.kind == "echo":
            return EchoNextHop(queue.pair, lambda pair, stanzas: self._parts.queues.queue(pair).accept(stanzas))
        return self._parts.agent(queue, self._way(backend))

    def _way(self, backend: Backend) -> StreamProvider:
        if backend.kind == "jabberd2-router":
            return self.links[self._parts.config.backends.index(backend)]
        return PeerStreamProvider(self._to_server(backend), self._parts.connect_services)

    def acks(self, domain: Domain) -> Acks:
        """How the receipts of a server are had, by one of its domains; a router's part that answers none is asked again."""
        backend = self._of(domain)
        return "ping" if backend.kind == "jabberd2-router" and backend.acks == "auto" else backend.acks

    def _of(self, local: Domain) -> Backend:
        backend = self._parts.config.backend_for(local)
        assert backend is not None
        return backend

    # --- an XMPP server, by its own s2s ---

    @cached_property
    def authority(self) -> PrivateCA:
        return PrivateCA(self._parts.state)

    @cached_property
    def keys(self) -> DialbackKeys:
        return DialbackKeys(derive(self._parts.secret, "backend"))

    def server(self, backend: Backend) -> BackendServer:
        parts = self._parts
        return BackendServer(
            backend.address.host, backend.address.port, frozenset(parts.config.domains_of(backend)), backend.tls, self.authority,
            self.keys, parts.anchors, lambda: datetime.now(UTC), parts.resolver.addresses,
            managed=parts.ack_selection.managed,
            stanza_bytes=backend.stanza_bytes,
            resume=lambda domain: int(backend.resume) if parts.ack_selection.resumes(domain) else 0,
        )

    def _to_server(self, backend: Backend) -> BackendInitiating:
        return BackendInitiating(self.server(backend), self._parts.client_tls, partial(self._dialler, backend))

    def _dialler(self, backend: Backend, pair: Pair) -> Dialler:
        plain = DirectDialler(self._parts.reactor)
        if not backend.proxy_protocol:
            return plain
        ends = self._parts.accepted.ends(pair)
        source, destination = (HostPort.parse(end, 0) for end in ends) if ends else (None, None)
        return announcing(plain, write(source, destination) if source and destination else LOCAL)

    def inbound(self, backend: Backend) -> BackendReceiving:
        """The side of its inner listener."""
        parts, server = self._parts, self.server(backend)
        verifier = DialbackVerifier(self._to_server(backend), parts.connect_services, parts.reactor)
        peers = parts.outbound
        return BackendReceiving(server, parts.is_local, verifier.verify, peers.admit, parts.stream_id, peers.expect)

    # --- jabberd2, by its router ---

    @cached_property
    def links(self) -> dict[int, RouterLink]:
        """By the place of the backend in the configuration."""
        rows = enumerate(self._parts.config.backends)
        return {index: self._link(backend) for index, backend in rows if backend.kind == "jabberd2-router"}

    def _link(self, backend: Backend) -> RouterLink:
        parts, path = self._parts, backend.secret_file
        assert path is not None  # or the configuration would not do
        router = Router(
            backend.address.host, backend.address.port, backend.user, partial(read_secret, path),
            frozenset(parts.config.domains_of(backend)), backend.stanza_bytes,
        )
        return RouterLink(router, RouterServices(
            parts.ingress_services, self._connection, self._dial, self._admit, parts.reactor, parts.random.random,
            lambda: secrets.token_urlsafe(24),
        ), BackOff(first=1, longest=30))

    async def _admit(self, pair: Pair) -> Ending | None:
        return None if self._parts.is_local(pair.recipient) else await self._parts.outbound.admit(pair)

    def _connection(self, engine: RouterStream, link: RouterLink) -> StreamConnection:
        connection = StreamConnection(
            engine, link, clock=self._parts.reactor, role="initiating", tls=lambda _: None, shared=True,
        )
        return self._parts.keeper.keep(connection)

    async def _dial(self, host: str, port: int, build: Build) -> None:
        failed = DialFailed(Ending(Cause.UNREACHABLE, f"the address of {host} is not known"))
        for address in ["127.0.0.1", "::1"] if host == "localhost" else [host]:
            try:
                return await DirectDialler(self._parts.reactor)(address, port, build)
            except DialFailed as problem:
                failed = problem
        raise failed

    def incoming(self) -> list[StreamIngress]:
        """Where stanzas come in by a link."""
        return [link.incoming for link in self.links.values() if link.incoming is not None]

    def start(self) -> None:
        """Connect to what is connected to for good."""
        for link in self.links.values():
            link.start()

    def stop(self) -> Deferred[list[None]]:
        """Close that in order."""
        return gatherResults([link.stop() for link in self.links.values()])
