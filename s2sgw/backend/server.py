"""The leg to the existing server, in both directions.

The server opens streams for peers at the inner listener. We open streams to its own s2s port in the name of proven peers
(docs/decisions.md#dns-view, #bounces, #pairs). To the server we are the peer: each remote domain proves itself by a certificate
minted from the private CA, or by dialback closed through the DNS view.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator

from s2sgw.backend.private_ca import PrivateCA
from s2sgw.ingress.pair_ingress import refusal_elsewhere
from s2sgw.net.certificates import Credential
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Dialler
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.fair_slots import Owner
from s2sgw.net.requester import Requester
from s2sgw.net.tls import ClientTLS, ServerTLS
from s2sgw.s2s.owners import owner_by_name
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.dialback_authorization import PAIRS
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    Method,
    Permission,
    Refusal,
    ResolutionNeeded,
    StartTLS,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.trust.evidence import Attempt, Evidence, Role
from s2sgw.trust.path import Anchors
from s2sgw.trust.proofs import prove_pkix
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.host_port import S2S_PORT, HostPort
from s2sgw.xmpp.jid import Domain, Pair

BackendEncryption = Literal["required", "optional", "never"]


@dataclass(frozen=True)
class BackendServer:
    """The existing server: its own s2s address, its domains, the protocol to it, and the proof of its identity."""

    host: str
    port: int
    domains: frozenset[Domain]
    tls: BackendEncryption
    authority: PrivateCA
    keys: DialbackKeys
    anchors: Callable[[], Anchors]
    now: Callable[[], datetime]
    lookup: Callable[[str], Awaitable[Sequence[str]]]
    #: whether the server is asked for acknowledgements (XEP-0198)
    managed: Callable[[Domain], bool] = lambda domain: True
    #: the largest stanza that it accepts; 0: as announced
    stanza_bytes: int = 0
    #: seconds for which a stream that broke off can be resumed; 0: never
    resume: Callable[[Domain], int] = lambda domain: 0
    #: the receiver of the outcomes of streams in both directions (`backend.health`)
    outcomes: StreamOutcomes = field(default_factory=StreamOutcomes)

    def prove(self, connection: StreamConnection, domain: Domain, role: Role) -> Attempt:
        """Return whether the certificate on `connection` proves that the server is `domain`'s."""
        evidence = Evidence(
            domain=domain, role=role, at=self.now(), chain=connection.chain, tls_version=connection.tls_version,
            address=connection.peer_address,
        )
        return prove_pkix(evidence, self.anchors())


@dataclass(eq=False)
class BackendReceiving:
    """A `ReceivingLeg` (see `s2s.legs`): the inner listener, where the server brings stanzas for peers."""

    server: BackendServer
    is_local: Callable[[Domain], bool]
    verify_key: Callable[[DialbackNeeded, Requester | None], Awaitable[DialbackOutcome]]
    admit_pair: Callable[[Pair], Awaitable[Ending | None]]
    stream_id: Callable[[], str]
    #: called with the peer that the server is about to write to, so that look-ups run during the handshake
    expect: Callable[[Domain], object] = lambda peer: None
    #: returns why this node is not the home of a pair (`ingress.homes`). Asked before each pair is proven, so that no stanza is
    #: read in vain. None: there is no other node
    claim: Callable[[Pair], Awaitable[Ending | None]] | None = None
    leg: Literal["backend"] = field(default="backend", init=False)

    @property
    def outcomes(self) -> StreamOutcomes:
        return self.server.outcomes

    @cached_property
    def server_tls(self) -> ServerTLS:
        """Return the TLS opener with a certificate minted for the domain that the server asks for."""
        return ServerTLS(self._leaf)

    def _leaf(self, domain: Domain | None) -> Credential | None:
        return self.server.authority.leaf(domain) if domain is not None and self._remote(domain) else None

    def engine(self, direct_tls: bool) -> ReceivingStream:
        return ReceivingStream(self._options(direct_tls), self.stream_id)

    def _options(self, direct_tls: bool) -> ReceivingOptions:
        return ReceivingOptions(
            serves=self._remote, refuses_sender=self._refuses, tls=lambda _: self.server.tls, keys=self.server.keys,
            answers_verify=self._remote, pre_1_0=True, resolve=False, direct_tls=direct_tls, claims_waiting=PAIRS,
        )

    def _remote(self, domain: Domain) -> bool:
        """Return whether the server does not serve the domain. Domains of other backends are remote to it too."""
        return domain not in self.server.domains

    def _refuses(self, sender: Domain) -> Refusal | None:
        if sender in self.server.domains:
            return None
        text = f"{sender} is not a domain of the server that this listener is for"
        condition = StreamCondition.INVALID_FROM
        return Refusal(condition, text, Ending(Cause.INVALID_FROM, text, condition=condition.value))

    def tls(self, order: StartTLS | None) -> IOpenSSLServerConnectionCreator:
        if order is not None and not self.is_local(order.local):
            self.expect(order.local)
        return self.server_tls.for_domain(None if order is None else order.local)

    def identify(self, connection: StreamConnection) -> tuple[Domain, ...]:
        """Return no peer: streams of a backend are always negotiated."""
        return ()

    async def resolve(self, connection: StreamConnection, question: ResolutionNeeded) -> Refusal | None:
        """Return at once: the server's domains are ours by configuration."""
        return None

    async def judge(self, connection: StreamConnection, question: JudgementNeeded) -> tuple[Permission, tuple[str, ...]]:
        """Judge by the server's certificate, or by dialback to its own port: any local process can reach this listener."""
        attempt = self.server.prove(connection, question.peer, "initiating")
        resume = self.server.resume(question.peer)
        if attempt.proven and self.claim is not None:
            elsewhere = await self.claim(Pair(question.peer, question.local))
            if elsewhere is not None:
                return Permission(refusal=refusal_elsewhere(elsewhere)), attempt.reasons
        return Permission(external=attempt.proven, dialback=True, management=True, resume=resume), attempt.reasons

    async def verify(self, connection: StreamConnection, question: DialbackNeeded) -> DialbackOutcome:
        outcome = await self.verify_key(question, None)
        refusal = self._refuses(question.pair.sender)  # a reload may have taken the domain meanwhile
        ending = None if refusal is None else refusal.ending
        if ending is None and self.claim is not None and outcome.type == "valid":
            ending = await self.claim(question.pair)
        return outcome if ending is None else DialbackOutcome("error", ending)

    async def reconsider(self, connection: StreamConnection, pair: Pair, method: str) -> None:
        """Return None: our own servers have no policy."""

    def policy(self, peer: Domain) -> None:
        """Return None: our own servers have no policy."""

    def excess(self, connection: StreamConnection, pair: Pair) -> Refusal | None:
        """Return why the domain is not the server's any more: a reload took it during the negotiation.

        There is no other limit.
        """
        return self._refuses(pair.sender)

    def proven(self, connection: StreamConnection, pair: Pair, method: Method) -> None:
        """Do nothing: nothing is remembered of our own servers."""

    async def admit(self, pair: Pair) -> Ending | None:
        """Return the federation leg's answer about a peer, or None for another backend's domain."""
        return None if self.is_local(pair.recipient) else await self.admit_pair(pair)


@dataclass(eq=False)
class BackendInitiating:
    """An `InitiatingLeg` (see `s2s.legs`): streams to the server's own s2s port, each for one peer."""

    server: BackendServer
    client_tls: ClientTLS
    #: the dialler to the server, for a pair
    dialling: Callable[[Pair], Dialler]
    #: the owner of a pair
    owner_of: Callable[[Pair], Owner] = lambda pair: owner_by_name(pair.sender)
    #: the most pairs of one owner that may be sent to the server at a time; 0: any number
    owner_domains: Callable[[Pair], int] = lambda pair: 0
    leg: Literal["backend"] = field(default="backend", init=False)

    @property
    def outcomes(self) -> StreamOutcomes:
        return self.server.outcomes

    async def resolve(self, pair: Pair, requester: Requester | None = None) -> Resolution:
        """Return the configured address."""
        server = self.server
        addresses = tuple(await server.lookup(server.host))
        if not addresses:
            return Resolution(pair.recipient, (), Ending(Cause.UNREACHABLE, f"the backend's address {server.host} is not known"))
        return Resolution(pair.recipient, (Target(server.host, server.port, addresses, 0, 0),), None)

    async def locate(self, pair: Pair, targets: Sequence[Target], requester: Requester | None = None) -> Sequence[Target]:
        """Return `targets`: the addresses are known."""
        return targets

    def dial_targets(self, pair: Pair, targets: Sequence[Target]) -> Sequence[Target]:
        """Return `targets`: no proxy stands between the gateway and its backend."""
        return targets

    def engine(self, pair: Pair, target: Target, verifying: bool) -> InitiatingStream:
        return InitiatingStream(InitiatingOptions(
            local=pair.sender, peer=pair.recipient, purpose="verify" if verifying else "stanzas", tls=self.server.tls,
            direct_tls=False, external=True, keys=self.server.keys, management=self.server.managed(pair.recipient),
            resume=self.server.resume(pair.recipient),
        ))

    def shown(self, pair: Pair) -> str | None:
        """Return None: a stream is not shared, each peer has its own (docs/decisions.md#pairs)."""
        return None

    def owner(self, pair: Pair) -> Owner:
        return self.owner_of(pair)

    def owner_streams(self, pair: Pair) -> int:
        return self.owner_domains(pair)

    def streams(self, pair: Pair) -> int:
        """Return 0: any number, since each peer has its own stream (docs/decisions.md#pairs)."""
        return 0

    def largest(self, pair: Pair) -> int | None:
        return self.server.stanza_bytes or None

    def dialler(self, pair: Pair, target: Target) -> Dialler:
        return self.dialling(pair)

    def tls(self, pair: Pair, target: Target) -> IOpenSSLClientConnectionCreator:
        return self.client_tls.for_peer(pair.recipient, self.server.authority.leaf(pair.sender))

    def policy(self, peer: Domain) -> None:
        """Return None: our own servers have no policy."""

    async def judge(
        self, connection: StreamConnection, question: JudgementNeeded, target: Target,
    ) -> tuple[Permission, tuple[str, ...]]:
        """Judge by the address over loopback; elsewhere by the server's certificate."""
        attempt = self.server.prove(connection, question.peer, "receiving")
        if attempt.proven or _is_loopback(connection.peer_address):
            return Permission(external=True, dialback=True, proven=True), attempt.reasons
        text = "the backend is not on a loopback address, and its certificate does not prove it: " + "; ".join(attempt.reasons)
        ending = Ending(attempt.cause or Cause.NOT_PROVEN, text)
        return Permission(refusal=Refusal(StreamCondition.POLICY_VIOLATION, text, ending)), attempt.reasons


def _is_loopback(address: str) -> bool:
    """Return whether the address of a connection is on this machine. A transport of another kind (a Unix socket) is not."""
    try:
        return HostPort.parse(address, S2S_PORT).is_loopback
    except ValueError:
        return False
