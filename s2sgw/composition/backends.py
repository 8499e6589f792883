"""The existing servers behind the gateway, by their kinds: the next hops to their domains, and the changes of a reload."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.backend.dns_view import DNSView
from s2sgw.backend.echo import EchoNextHop
from s2sgw.backend.health import BackendHealth, BackendIdentity
from s2sgw.backend.jabberd2_router import Router, RouterLink, RouterServices
from s2sgw.backend.private_ca import CERTIFICATE_FILE, PrivateCA, PrivateCAError
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.server_leg import BackendServices, ServerLeg
from s2sgw.config import Backend, Config
from s2sgw.config.secret_file import read_secret
from s2sgw.delivery.acknowledgements import Acks
from s2sgw.delivery.agent_states import BackingOff, Connecting
from s2sgw.delivery.next_hop import NextHop, NextHopLimits
from s2sgw.delivery.outbound_stream import OutboundStream, ResumableStream, StreamProvider, StreamUnavailable
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import CONNECT_TIMEOUT, Build, ClosedAtOnce, DialFailed, DirectDialler
from s2sgw.queue.backoff import BackOff
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.connecting import InitiatedStream
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.events import NotResumed, Resumed
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, Pair

#: Queues that are looked at, from any one on, for an attempt at a server that took no stream.
LOOKED_AT = 1000
#: Seconds in which a server must accept a connection during a check.
KNOCK_SECONDS = 5.0
#: The ending of streams to a server that lost its domain.
RECONFIGURED = Ending(Cause.RECONFIGURED, "another server has the domain now, or none")
#: Why stanzas to a domain that was given up are bounced.
GIVEN_UP = Ending(Cause.HOST_UNKNOWN, "the domain was given up")

log = Logger("s2sgw")


@dataclass(frozen=True, slots=True)
class ConfiguredAcks:
    """The acknowledgements of the server of each domain: as configured for a backend, by the best available way for a peer."""

    running: RunningConfiguration

    def of_domain(self, domain: Domain) -> Acks:
        """Return the way for one domain. A jabberd2 component that does not answer a ping is asked again."""
        backend = self.running.config.backend_for(domain)
        if backend is None:
            return "auto"
        return "ping" if backend.kind == "jabberd2-router" and backend.acks == "auto" else backend.acks


def _echoing(config: Config) -> frozenset[Domain]:
    """Return the domains of the built-in echo."""
    return frozenset(domain for each in config.backends if each.kind == "echo" for domain in config.domains_of(each))


def _address(source: ServerLeg | RouterLink) -> HostPort:
    return HostPort(source.router.host, source.router.port) if isinstance(source, RouterLink) else source.backend.address


def _log_removed(health: BackendHealth) -> None:
    log.info(event="backend removed", backend=health.identity.address, domains=list(health.identity.domains))


def _not_closed(failure: Failure) -> None:
    log.failure("the connection to a router that was removed could not be closed gracefully", failure)


def identity_of(config: Config, backend: Backend) -> BackendIdentity:
    """Return the name of a backend for operators."""
    view, authority = backend.dns_view, config.identity_folder / CERTIFICATE_FILE
    domains = tuple(map(str, config.domains_of(backend)))
    return BackendIdentity(str(backend.address), backend.kind, domains, str(authority), None if view is None else str(view))


class Backends:
    """All backends of a configuration. The constructor makes no connection; `start` does.

    A reload may add, change and remove backends. `prepare` builds what is new, `adopt` uses it, `abandon` drops it. A domain that
    was given up keeps its server until the gateway has no stanzas of it (`composition.former_domains`).
    """

    def __init__(self, config: Config, services: BackendServices) -> None:
        self._services = services
        self._authority: PrivateCA | None = None
        #: the XMPP servers by their inner listeners, and those of the configuration for the next `adopt`
        self.legs: dict[str, ServerLeg] = {}
        self._new: dict[str, ServerLeg] = {}
        #: the routers by their addresses, and those that were removed and are not closed yet
        self.links: dict[HostPort, RouterLink] = {}
        self._link_health: dict[HostPort, BackendHealth] = {}
        self._leaving: set[RouterLink] = set()
        self._started = False
        #: the servers of domains that were given up, and those of these domains for which nothing waits any more
        self._former: dict[Domain, ServerLeg | RouterLink] = {}
        self._ended: set[Domain] = set()
        for backend in config.backends:
            if backend.kind == "jabberd2-router":
                self._add_link(config, backend)
            elif backend.kind == "s2s":
                self.legs[backend.listen] = self._leg(config, backend)
        self._echoing = _echoing(config)

    @property
    def _config(self) -> Config:
        return self._services.running.config

    @property
    def health(self) -> list[BackendHealth]:
        """Return the state of each server."""
        return [*self._link_health.values(), *(leg.health for leg in self.legs.values())]

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for a queue to a local domain."""
        services = self._services
        if queue.pair.recipient in self._echoing:
            return EchoNextHop(queue.pair, services.ingress_services.queues)
        return services.agents.agent(queue, ServerStreamProvider(self))

    @property
    def leaving(self) -> list[RouterLink]:
        """Return the links of removed routers that are not closed yet: they still bring stanzas."""
        return list(self._leaving)

    # --- their health ---

    def _health(self, config: Config, backend: Backend) -> BackendHealth:
        identity, services = identity_of(config, backend), self._services
        health = BackendHealth(identity, services.wall, lambda: self._recovered(health), self._attempt, services.reactor)
        return health

    def _recovered(self, health: BackendHealth) -> None:
        """Retry at once what waits for a server that is up again."""
        for domain in health.identity.domains:
            self._retry_now(Domain.parse(domain))

    def _attempt(self, health: BackendHealth) -> bool:
        """Retry one of the queues that wait for a server that took no stream. If it takes one, the others are tried.

        Return whether one tries now.
        """
        towards = self._services.ingress_services.queues.towards
        queues = [queue for domain in health.identity.domains for queue in towards(Domain.parse(domain))]
        start, connecting = secrets.randbelow(len(queues) or 1), False
        for queue in islice(chain(queues[start:], queues[:start]), LOOKED_AT):
            state = queue.next_hop.state if queue.wants_stream else ""
            if state == BackingOff.word:  # one on hold is idle
                self._services.connect_services.destinations.retry_now(queue.pair.recipient.ascii)
                queue.retry_now()
                return True
            connecting = connecting or state == Connecting.word
        return connecting

    def _retry_now(self, domain: Domain) -> None:
        self._services.connect_services.destinations.retry_now(domain.ascii)
        self._services.ingress_services.queues.retry_now(domain)

    async def check(self) -> None:
        """Check the servers that no stream shows to be up, and log the refusals that were only counted."""
        for leg in list(self.legs.values()):
            leg.health.tell_repeated()
            await leg.health.check(partial(self._knock, leg.backend.address))
        for address, health in list(self._link_health.items()):
            health.tell_repeated()
            await health.check(partial(self._knock, address))

    async def _knock(self, address: HostPort) -> None:
        """Connect to the server's port and close again. Raises `DialFailed`."""
        await self._dial(address.host, address.port, ClosedAtOnce, KNOCK_SECONDS)

    # --- a reload ---

    def prepare(self, config: Config) -> str:
        """Build the legs to the servers that are new in `config`. Return why they cannot be built, or "". Nothing changes yet."""
        self.abandon()
        try:
            for backend in config.backends:
                if backend.kind == "s2s" and backend.listen not in self.legs:
                    self._new[backend.listen] = self._leg(config, backend)
        except (PrivateCAError, OSError) as error:
            self.abandon()
            return str(error)
        return ""

    def abandon(self) -> None:
        """Drop what `prepare` has built."""
        self._new = {}

    def adopt(self, config: Config) -> None:
        """Use the servers of `config`, which is in force, from the next stream on.

        If a server lost its domain, to another server or because it was removed, its streams are closed gracefully:
        `stale_streams` and `retire_stale`.
        """
        former = self._services.running.former_domains
        sources = {domain: self.source_of(domain) for domain in former}
        echoing, self._echoing = self._echoing, _echoing(config)
        moved = [*self._adopt_legs(config), *self._adopt_links(config, former), *sorted(self._echoing - echoing, key=str)]
        self._former = {domain: source for domain, source in sources.items() if source is not None}
        self._ended &= former
        self.retire_stale()  # first: a stream that is retired is not ready any more
        for domain in moved:
            self._forget(domain)
        for domain in echoing - self._echoing:
            for queue in self._services.ingress_services.queues.towards(domain):
                self._services.ingress_services.queues.change_next_hop(queue)
        for domain in moved:
            self._retry_now(domain)

    def _adopt_legs(self, config: Config) -> list[Domain]:
        """Use the XMPP servers of `config`. Return the domains that another server, or another address, serves now."""
        new, self._new = self._new, {}
        old, self.legs = self.legs, {}
        moved: list[Domain] = []
        for backend in config.backends:
            if backend.kind != "s2s":
                continue
            domains, leg = config.domains_of(backend), old.get(backend.listen)
            if leg is None:
                leg = self.legs[backend.listen] = new.get(backend.listen) or self._leg(config, backend)
                log.info(event="backend added", backend=str(backend.address), domains=list(map(str, domains)))
                moved += domains
            else:
                elsewhere = backend.address != leg.backend.address  # what is known of the old address says nothing about it
                moved += [domain for domain in domains if elsewhere or not leg.serves(domain)]
                leg.adopt(backend, domains)
                leg.health.adopt(identity_of(config, backend))
                self.legs[backend.listen] = leg
        for listen, leg in old.items():
            if listen not in self.legs:
                leg.retire()
                _log_removed(leg.health)
        return moved

    def _adopt_links(self, config: Config, former: Collection[Domain]) -> list[Domain]:
        """Do the same with the routers."""
        old = dict(self.links)
        self.links.clear()  # the same object: others read it
        moved: list[Domain] = []
        for backend in config.backends:
            if backend.kind != "jabberd2-router":
                continue
            domains, link = config.domains_of(backend), old.pop(backend.address, None)
            if link is None:
                moved += domains
                log.info(event="backend added", backend=str(backend.address), domains=list(map(str, domains)))
                self._add_link(config, backend)
                continue
            moved += [domain for domain in domains if domain not in link.router.domains]
            self.links[backend.address] = link
            self._link_health[backend.address].adopt(identity_of(config, backend))
            link.adopt(self._router(config, backend), former)
        for address, link in old.items():
            health = self._link_health.pop(address)
            health.retire()
            _log_removed(health)
            self._leaving.add(link)
            link.retire(RECONFIGURED).addErrback(_not_closed).addCallback(self._has_left, link)
        return moved

    def _has_left(self, _: None, link: RouterLink) -> None:
        self._leaving.discard(link)

    def end_former(self, domain: Domain) -> None:
        """Close our streams to the server of `domain`, which was given up. What comes now and cannot be delivered is bounced."""
        self._ended.add(domain)
        source = self._former.get(domain)
        if isinstance(source, RouterLink):
            source.end_parts(domain, RECONFIGURED)
        for stream in self._services.connect_services.initiated:
            if isinstance(stream, InitiatedStream) and stream.leg == "backend" and stream.pair.recipient == domain:
                stream.retire(RECONFIGURED)

    def _forget(self, domain: Domain) -> None:
        """Forget what is known of the server of `domain`: it is about another server. A stream in use keeps its limits."""
        services = self._services
        services.connect_services.extensions.forget(domain.ascii)
        services.connect_services.destinations.forget_failures(domain.ascii)
        services.ack_selection.forget(domain.ascii)
        for queue in services.ingress_services.queues.towards(domain):
            if not queue.next_hop.ready:
                queue.limits_changed(NextHopLimits())

    def retire_stale(self) -> None:
        """Close our streams to servers that do not serve their domain any more. Stanzas in flight have some seconds to settle."""
        for stream in self._services.connect_services.initiated:
            if isinstance(stream, InitiatedStream) and stream.leg == "backend" and self._is_stale(stream):
                stream.retire(RECONFIGURED)

    def _is_stale(self, stream: InitiatedStream) -> bool:
        """Return whether the stream leads to another server than the one that serves its domain, or to an old address of it."""
        source = self.source_of(stream.pair.recipient)
        if not isinstance(source, ServerLeg) or stream.side is not source.initiating:
            return True
        address = source.backend.address
        return (stream.target.host, stream.target.port) != (address.host, address.port)

    def stale_streams(self) -> list[tuple[StreamConnection, AcceptedStream]]:
        """Return the accepted streams of servers that do not serve all of the domains that send on them any more."""
        sides = {id(leg.receiving): leg for leg in self.legs.values()}
        found = []
        for connection, owner in self._services.accepted:
            if owner.side.leg == "backend":
                leg = sides.get(id(owner.side))
                if leg is None or not all(map(leg.serves, owner.senders)):
                    found.append((connection, owner))
        return found

    def leg_of(self, domain: Domain) -> ServerLeg | None:
        """Return the leg to the server that serves `domain` now; None: no XMPP server does."""
        return next((leg for leg in self.legs.values() if leg.serves(domain)), None)

    def source_of(self, domain: Domain) -> ServerLeg | RouterLink | None:
        """Return the server of `domain`: the one that serves it now, else the one that did when it was given up.

        None: the built-in echo serves it, or no server.
        """
        if domain in self._echoing:
            return None
        link = next((link for link in self.links.values() if domain in link.router.domains), None)
        return self.leg_of(domain) or link or self._former.get(domain)

    def leg_at(self, listen: str) -> ServerLeg:
        """Return the leg of an inner listener, of this configuration or of the one that is prepared."""
        return self._new[listen] if listen in self._new else self.legs[listen]

    def forwarders(self, backend: Backend, config: Config | None = None) -> list[str]:
        """Return the name servers for the DNS view of `backend`."""
        return [str(server) for server in backend.forward or (config or self._config).nameservers]

    def serves(self, listen: str, name: str) -> bool:
        """Return whether `name`, in A-labels, is now a domain of the backend with that inner listener."""
        config = self._config
        return any(
            domain.ascii == name for each in config.backends if each.listen == listen for domain in config.domains_of(each)
        )

    def use_view(self, listen: str, view: DNSView | None) -> None:
        """Use `view` as the DNS view of the backend with that inner listener."""
        self.legs[listen].use_view(view)

    # --- an XMPP server, through its own s2s ---

    def _leg(self, config: Config, backend: Backend) -> ServerLeg:
        if self._authority is None:
            self._authority = PrivateCA(config.identity_folder, create=config.cluster.shared is None)
        health = self._health(config, backend)
        return ServerLeg(
            backend, config.domains_of(backend), self._authority, health, self._services, self._owner_domains,
        )

    def _owner_domains(self, pair: Pair) -> int:
        """Return how many streams to a server the owner of `pair` may have at a time (`s2s.owners`)."""
        policy = self._services.running.policies.policy(pair.sender)
        return max(self._config.limits.domains_per_stream, policy.limits.domains)

    async def find(self, pair: Pair, broken: ResumableStream | None, alone: bool) -> OutboundStream:
        """Return a stream to the server that serves the recipient of `pair`.

        If a reload moves the domain meanwhile, nothing is written to the old server: its stream is left, and the new server is
        asked. Raises `StreamUnavailable`.
        """
        answer: Resumed | NotResumed | None = None
        while True:
            source = self.source_of(pair.recipient)
            if source is None:
                return await self._without_server(pair)
            address = _address(source)
            try:
                found = await self.streams(source).find(pair, broken, alone)
            except StreamUnavailable:
                if self.source_of(pair.recipient) is source and _address(source) == address:
                    if pair.recipient in self._ended:
                        raise StreamUnavailable(GIVEN_UP) from None
                    raise
                self._forget(pair.recipient)  # the failure is the old server's: it bounces nothing, and the new one is asked
                self._retry_now(pair.recipient)
                continue
            if self.source_of(pair.recipient) is source and _address(source) == address:
                if answer is not None:
                    found.answered_before(NotResumed(answer.count))
                return found
            if broken is not None and found.outcome is not None:
                broken, answer = None, found.outcome  # the old server said which stanzas it has: these are not in doubt
            found.leave(RECONFIGURED)
            self._services.reactor.callLater(0, self.retire_stale)

    def streams(self, source: ServerLeg | RouterLink) -> StreamProvider:
        """Return the streams to a server."""
        if isinstance(source, RouterLink):
            return source
        return PeerStreamProvider(source.initiating, self._services.connect_services)

    async def _without_server(self, pair: Pair) -> OutboundStream:
        """End an attempt of a queue that has no server: the echo takes its stanzas, or the domain was given up."""
        if pair.recipient not in self._echoing:
            raise StreamUnavailable(GIVEN_UP)
        self._services.reactor.callLater(0, self._change_next_hop, pair)
        return await Deferred[OutboundStream]()  # cancelled when the next hop is changed

    def _change_next_hop(self, pair: Pair) -> None:
        queue = self._services.ingress_services.queues.find(pair)
        if queue is not None:
            self._services.ingress_services.queues.change_next_hop(queue)

    def urge(self, recipient: Domain) -> None:
        """Try to reach the server of `recipient` again at once, by an operator's order."""
        self._services.connect_services.destinations.retry_now(recipient.ascii)

    def forget_former(self, domain: Domain) -> None:
        """Forget the server of `domain`, which was given up: the gateway has no stanzas of it any more."""
        self._former.pop(domain, None)
        self._ended.discard(domain)

    # --- jabberd2, through its router ---

    def _add_link(self, config: Config, backend: Backend) -> None:
        services, health = self._services, self._health(config, backend)
        link = self.links[backend.address] = RouterLink(self._router(config, backend), RouterServices(
            services.ingress_services, services.connections.link, self._dial, self._admit, services.reactor,
            services.random, partial(secrets.token_urlsafe, 24), health,
        ), BackOff(first=1, longest=30))
        self._link_health[backend.address] = health
        if self._started:
            link.start()

    def _router(self, config: Config, backend: Backend) -> Router:
        path = backend.secret_file
        assert path is not None  # the configuration requires it
        return Router(
            backend.address.host, backend.address.port, backend.user, partial(read_secret, path),
            frozenset(config.domains_of(backend)), backend.stanza_bytes,
        )

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
        """Return the ingresses of stanzas from router links."""
        return [link.incoming for link in self.links.values() if link.incoming is not None]

    def start(self) -> None:
        """Connect to the routers, and stay connected."""
        self._started = True
        for link in self.links.values():
            link.start()

    def stop(self) -> Deferred[list[None]]:
        """Close the router links gracefully."""
        return gatherResults([link.stop() for link in [*self.links.values(), *self._leaving]])


@dataclass(frozen=True, slots=True)
class ServerStreamProvider:
    """The streams to servers behind the gateway, each to the server that now serves the domain: a `StreamProvider`."""

    backends: Backends

    @property
    def leg(self) -> Literal["backend"]:
        """Return the leg of these streams."""
        return "backend"

    def place(self, pair: Pair) -> Deferred[None] | None:
        """Return the wait for a place; None: `find` may be called now."""
        source = self.backends.source_of(pair.recipient)
        return None if source is None else self.backends.streams(source).place(pair)

    def find(
        self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False,
    ) -> Coroutine[Any, Any, OutboundStream]:
        """Return a stream for `pair`. Raises `StreamUnavailable`."""
        return self.backends.find(pair, broken, alone)

    def urge(self, recipient: Domain) -> None:
        """Try again at once."""
        self.backends.urge(recipient)
