"""The federation leg: discovery and judgement of peers, and the streams of both roles."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from s2sgw.authentication.judge import Judge
from s2sgw.composition.agents import AgentBuilder
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.addresses import is_this_machine
from s2sgw.net.dialing import Dialler, DirectDialler
from s2sgw.net.discovery import Discovery, Resolution, is_onion
from s2sgw.net.http_connect import HTTPConnectDialler
from s2sgw.net.resolver import Resolver
from s2sgw.net.socks import SocksDialler
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime.rediscovery import Rediscovery
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.connecting import ConnectServices, InitiatedStream
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import Extension
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.s2s.federation_receiving import FederationReceiving
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, Pair

log = Logger("s2sgw")


class OwnPorts:
    """The ports of our own listeners. No peer's DNS may lead there."""

    def __init__(self) -> None:
        self._ports: set[int] = set()

    def replace(self, ports: Iterable[int]) -> None:
        """Take these as the ports of the open listeners."""
        self._ports = set(ports)

    def reached_at(self, host: str, port: int) -> bool:
        """Return whether a connection to `port` of the address `host` would reach one of our listeners."""
        return port in self._ports and is_this_machine(host)


class PeerDiallers:
    """The diallers to peers: directly, or through the proxy of a peer's policy."""

    def __init__(self, reactor: Any, policies: PeerPolicies, source_addresses: tuple[str, ...]) -> None:
        self._reactor = reactor
        self._policies = policies
        self._direct = DirectDialler(reactor, sources=source_addresses)

    def relayed(self, peer: Domain) -> bool:
        """Return whether a proxy reaches the peer by its own name, so that it is not looked up.

        An onion service is not in the DNS (RFC 7686), so it is never looked up.
        """
        policy = self._policies.policy(peer)
        return policy.proxy != "none" and (policy.proxy_lookup == "remote" or is_onion(peer.ascii))

    def dials_names(self, peer: Domain) -> bool:
        """Return whether a proxy is given the names of the hosts that the DNS gives for `peer`, instead of addresses."""
        return self._policies.policy(peer).proxy != "none" and not self.relayed(peer)

    def dialler(self, peer: Domain) -> Dialler:
        """Return the dialler to `peer`."""
        proxy = self._policies.policy(peer).proxy
        if proxy == "none":
            return self._direct
        dialler = SocksDialler if proxy.scheme == "socks5" else HTTPConnectDialler
        return dialler(self._reactor, HostPort(proxy.host, proxy.port), user=proxy.user, password=proxy.password)


def log_disabled_extension(peer: str, extension: Extension, ending: Ending) -> None:
    """Log that an extension is not used with `peer` for a day."""
    log.warn(
        event="extension disabled", peer=peer, extension=extension, layer=ending.layer.value, cause=ending.cause.value,
        detail=ending.detail,
    )


@dataclass(frozen=True, slots=True)
class ContactWake:
    """Lets a peer that proved itself on its own stream be tried again at once (`Destinations.contacted`)."""

    destinations: Destinations
    queues: DeliveryQueues

    def contacted(self, peer: Domain) -> None:
        """Note that `peer` has proven itself."""
        self.destinations.contacted(peer.ascii, lambda: self.queues.retry_now(peer))


@dataclass(frozen=True, slots=True)
class KnownPeers:
    """The peers that are no strangers: named by the configuration, proven lately, or proven on an open stream."""

    judge: Judge
    accepted: AcceptedStreams

    def knows(self, peer: Domain) -> bool:
        """Return whether `peer` is looked up on our own account, from whatever connection the claim comes."""
        return bool(self.accepted.of_peer(peer)) or self.judge.knows(peer)


@dataclass(frozen=True, slots=True)
class BidiIngress:
    """Takes the stanzas on a stream of ours to a peer that may send on it (XEP-0288)."""

    ingress_services: IngressServices
    record: EventRecord
    initiating: FederationInitiating

    def ingress(self, stream: InitiatedStream) -> StreamIngress:
        """Return the ingress for the stanzas of `stream`."""
        facts = {"method": "bidi", "address": stream.connection.peer_address}
        self.record.standing("stream carries back", "inbound", stream.side.leg, stream.pair.inverse, **facts)
        return StreamIngress(
            self.ingress_services, stream.connection, stream.engine, stream.side.leg, self,
            (stream.pair.recipient,),
        )

    async def admit(self, pair: Pair) -> Ending | None:
        """Return why stanzas of `pair` are refused. The peer is the one to which we opened the stream."""
        return await self.initiating.admit(pair.inverse)


@dataclass(frozen=True, slots=True)
class PeerLocations:
    """Locates peers for rediscovery, by the route of their policy. Local domains are never looked up."""

    running: RunningConfiguration
    discovery: Discovery

    def resolve(self, peer: Domain) -> Deferred[Resolution]:
        """Return where `peer` is."""
        return self.discovery.resolve(peer, self.running.policies.policy(peer).route)


@dataclass(frozen=True, slots=True)
class MissedPeers:
    """Passes peers that could not be reached to rediscovery. Local domains are never looked up."""

    local_domains: Set[Domain]
    rediscovery: Rediscovery

    def missed(self, pair: Pair, known: Resolution) -> None:
        """Note that an attempt to reach the recipient of `pair` at `known` failed."""
        if pair.recipient not in self.local_domains:
            self.rediscovery.missed(pair.recipient, known)


@dataclass(frozen=True, slots=True)
class Federation:
    """The parts of the federation leg."""

    initiating: FederationInitiating
    receiving: FederationReceiving
    connect_services: ConnectServices
    agents: AgentBuilder

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for a queue to a peer."""
        return self.agents.agent(queue, PeerStreamProvider(self.initiating, self.connect_services))


def discovery_of(
    reactor: Any, running: RunningConfiguration, resolver: Resolver, own: OwnPorts, diallers: PeerDiallers, random: Random,
) -> Discovery:
    """Build the discovery of `[dns]`."""
    dns = running.config.dns
    return Discovery(
        reactor, resolver, static={name: str(place) for name, place in dns.static.items()},
        private_addresses=dns.private_addresses, own_addresses=own.reached_at, relayed=diallers.relayed, random=random,
    )
