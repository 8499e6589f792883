"""The receiving half of the federation leg: streams that peers open towards us."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime

from s2sgw.authentication.judge import Judge
from s2sgw.authentication.refusals import barred, refusal
from s2sgw.authentication.shared_secrets import SharedSecrets
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Discovery, Resolution
from s2sgw.net.requester import QUESTIONS, Requester
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.record import Leg
from s2sgw.s2s.accepted_limit import AcceptedStreamLimit
from s2sgw.s2s.claims import ADDRESS_MATCH_QUESTIONS, Claims
from s2sgw.s2s.identity import Identity, KeyVerifier, new_stream_id
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    Method,
    Permission,
    Refusal,
    ResolutionNeeded,
    StartTLS,
    TLSUse,
)
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.framing import FramingLimits
from s2sgw.xmpp.host_port import S2S_PORT, HostPort, canonical, is_address
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.mechanisms import BY_SECRET, LEGACY, MECHANISMS

#: Different limits of peers that are kept for their streams.
LIMITS = 64


@dataclass(frozen=True)
class FederationReceiving:
    """A `ReceivingLeg` (see `s2s.legs`). `stream_limit` bounds the streams of one peer."""

    identity: Identity
    peers: PeerPolicies
    discovery: Discovery
    judge_of: Judge
    keys: DialbackKeys
    verifier: KeyVerifier
    stream_limit: AcceptedStreamLimit
    #: the requester of each claimed name
    claims: Claims
    clock: IReactorTime
    #: bounds of what one stream may claim
    claims_per_second: float = 10.0
    domains_per_stream: int = 64
    #: no negotiation on this listener: a zero handshake is agreed with each peer that may connect there (XEP-0361)
    zero_handshake: bool = False
    leg: Leg = field(default="federation", init=False)
    outcomes: StreamOutcomes = field(default_factory=StreamOutcomes, kw_only=True)
    #: returns why this node is not the home of a pair (`ingress.homes`). Asked before each pair of a stream is proven
    claim: Callable[[Pair], Awaitable[Ending | None]] | None = field(default=None, kw_only=True)

    @cached_property
    def secrets(self) -> SharedSecrets:
        """The secrets that are shared with peers (R26)."""
        return SharedSecrets(self.peers)

    def engine(self, direct_tls: bool) -> ReceivingStream:
        options = self._options[direct_tls]
        if self.zero_handshake:  # the local domains may change
            options = replace(options, zero_handshake=tuple(sorted(self.identity.local_domains, key=str)))
        return ReceivingStream(options, new_stream_id)

    @cached_property
    def _options(self) -> Mapping[bool, ReceivingOptions]:
        """The options that all streams share: without direct TLS, and with it."""
        options = ReceivingOptions(
            serves=self.identity.is_local, refuses_sender=self.refuses_sender, tls=self._tls, keys=self.keys,
            answers_verify=self.identity.is_own, claims_per_second=self.claims_per_second,
            domains=self.domains_per_stream, seconds=self.clock.seconds,
            serves_spelling=self.identity.may_be_local,
        )
        return {False: options, True: replace(options, direct_tls=True)}

    def _tls(self, peer: Domain | None) -> TLSUse:
        return "required" if peer is None else self.peers.policy(peer).encryption

    def refuses_sender(self, peer: Domain) -> Refusal | None:
        """Return why the sender is refused (R14): its name cannot be a peer's, or the policy does not allow it."""
        if self.identity.is_local(peer):
            return _invalid_from("the domain is served here: it cannot be a peer")
        if peer.is_address and not self.peers.lists(peer):
            return _invalid_from("an IP address is no domain")
        if peer.is_single_label and not self.peers.lists(peer):
            return _invalid_from("a single label is no domain of the public DNS")
        bar = self.peers.policy(peer).bar
        return None if bar is None else barred(bar)

    def tls(self, order: StartTLS | None) -> IOpenSSLServerConnectionCreator:
        """Return our certificate: by SNI, by the domain that was asked for, or as the policy for the asserted peer says."""
        connect_services = self.identity.server_tls(order is None)
        if order is None:
            return connect_services.for_domain(None)
        special = order.peer is not None and self.peers.policy(order.peer).certificate is not None
        credential = self.identity.credential(order.local, order.peer) if special and order.peer is not None else None
        return connect_services.for_domain(order.local) if credential is None else connect_services.for_credential(credential)

    async def resolve(self, connection: StreamConnection, question: ResolutionNeeded) -> Refusal | None:
        requester = self._requester(connection, question.peer)
        resolution = await self._resolution(question.peer, requester)
        if resolution.ending is None:  # the evidence is looked up during the handshake, and no longer
            begun = self.judge_of.begin(question.peer, "initiating", requester=requester)
            if not begun.called:
                _end_with(begun, connection)
        return _unresolved(resolution)

    def identify(self, connection: StreamConnection) -> tuple[Domain, ...]:
        """Return the peers with whom a zero handshake is agreed and whose key the other end has presented (XEP-0361)."""
        return self.judge_of.agreed(connection)

    def _requester(self, connection: StreamConnection, peer: Domain) -> Requester:
        policy = self.peers.policy(peer)
        return self.claims.requester(connection, peer, questions_for(policy))

    async def _resolution(self, peer: Domain, requester: Requester) -> Resolution:
        return await self.discovery.resolve(peer, self.peers.policy(peer).route, requester)

    async def judge(self, connection: StreamConnection, question: JudgementNeeded) -> tuple[Permission, tuple[str, ...]]:
        peer, policy = question.peer, self.peers.policy(question.peer)
        requester = self._requester(connection, peer)
        resolution = await self._resolution(peer, requester)
        ending = resolution.ending
        if ending is None and policy.resolve == "address-match":
            ending = await self._elsewhere(resolution, connection.peer_address, requester)
        if ending is not None:
            return Permission(refusal=self.judge_of.refusal(ending, connection, peer)), ()
        verdict = await self.judge_of.verdict(connection, question, "initiating", requester=requester)
        if verdict.external:
            excess = await self.stream_limit.room(peer, policy.limits.streams, connection)
            if excess is not None:
                return Permission(refusal=refusal(excess)), verdict.reasons
        limits = _framing_limits(policy.limits.stanza_bytes)
        features = policy.features
        permission = self.judge_of.permission(verdict, connection, peer)
        granted = replace(
            self.secrets.granted(permission, verdict, peer, connection), limits=limits, announced=features.limits,
            domains=policy.limits.domains,
            management=features.sm, resume=int(policy.resume),
            bidi=features.bidi and verdict.external and not verdict.contradicted,
        )
        if verdict.external and granted.refusal is None:
            elsewhere = await self._claim(Pair(peer, question.local))
            granted = granted if elsewhere is None else replace(granted, refusal=refusal(elsewhere))
        if not self.identity.is_local(question.local):  # given up: a peer can only verify our keys here (R27)
            granted = replace(granted, external=False, secret=None, bidi=False)
            if not granted.dialback and granted.refusal is None:
                granted = replace(granted, refusal=_not_served(question.local))
        alone = granted.refusal is not None or granted.secret is not None
        return granted if alone else _shared(granted), verdict.reasons

    async def reconsider(self, connection: StreamConnection, pair: Pair, method: str) -> Refusal | None:
        """Return why the policy now in force refuses an open stream. `method` proved it; "": it is not proven yet."""
        peer = pair.sender
        barred_now = self.refuses_sender(peer)
        if barred_now is not None or not method:
            return barred_now
        if self.peers.policy(peer).resolve == "address-match":
            requester = Requester.ourselves(peer.ascii)
            resolution = await self._resolution(peer, requester)
            if resolution.ending is None:
                elsewhere = await self._elsewhere(resolution, connection.peer_address, requester)
                if elsewhere is not None:
                    return refusal(elsewhere)
        verdict = await self.judge_of.opinion(connection, peer, "initiating")
        if method in BY_SECRET and self.secrets.suffices(verdict, peer, method):
            return None
        if verdict.ending is not None:
            return refusal(verdict.ending)
        if method in (*MECHANISMS, LEGACY) and method not in self.peers.policy(peer).sasl:
            return refusal(Ending(Cause.NOT_PROVEN, f"{method} is not among the mechanisms of the policy any more"))
        if method == "zero-handshake" and not (self.peers.policy(peer).zero_handshake and verdict.proven_by == "pin"):
            return refusal(Ending(Cause.NOT_PROVEN, "no zero handshake is agreed any more, or no pinned key proves the peer"))
        certified = method in ("EXTERNAL", "certificate") or method in BY_SECRET
        if (certified and not verdict.external) or (method == "dialback" and not verdict.dialback):
            return refusal(Ending(Cause.NOT_PROVEN, f"{method} is not enough any more: {'; '.join(verdict.reasons)}"))
        return None

    async def _elsewhere(self, resolution: Resolution, address: str, requester: Requester) -> Ending | None:
        """Return the ending of a stream that comes from no address of the peer's targets (`resolve = "address-match"`).

        The targets are looked up one after another until one has the address.
        """
        host = canonical(HostPort.parse(address, S2S_PORT).host)
        for target in resolution.targets:
            for located in await self.discovery.locate([target], requester):
                if host in {canonical(each) for each in located.addresses if is_address(each)}:
                    return None
        return Ending(Cause.ADDRESS_MISMATCH, f"{address} is not an address that the DNS gives for the domain's server")

    async def verify(self, connection: StreamConnection, question: DialbackNeeded) -> DialbackOutcome:
        peer = question.pair.sender
        outcome = await self.verifier.verify(question, self._requester(connection, peer))
        if not self.identity.is_local(question.pair.recipient):  # a reload has given it up meanwhile
            return DialbackOutcome("error", _not_served(question.pair.recipient).ending)
        if outcome.type == "valid":
            excess = await self.stream_limit.room(peer, self.peers.policy(peer).limits.streams, connection)
            outcome = outcome if excess is None else DialbackOutcome("error", excess)
        if outcome.type == "valid":
            elsewhere = await self._claim(question.pair)
            outcome = outcome if elsewhere is None else DialbackOutcome("error", elsewhere)
        return outcome

    async def _claim(self, pair: Pair) -> Ending | None:
        """Return why a pair has its home elsewhere, without the name of a node: the peer is told.

        It is asked before the pair is proven, so that no stanza is read that would be lost with the stream.
        """
        if self.claim is None:
            return None
        ending = await self.claim(pair)
        return None if ending is None else replace(ending, detail="")

    def policy(self, peer: Domain) -> PeerPolicy:
        return self.peers.policy(peer)

    def excess(self, connection: StreamConnection, pair: Pair) -> Refusal | None:
        """Check again what may have changed during the negotiation: the local domains, and the number of the peer's streams."""
        if not self.identity.is_local(pair.recipient):
            return _not_served(pair.recipient)
        excess = self.stream_limit.excess(pair.sender, self.peers.policy(pair.sender).limits.streams, connection)
        return None if excess is None else refusal(excess)

    def proven(self, connection: StreamConnection, pair: Pair, method: Method) -> None:
        self.judge_of.proven(connection, pair.sender, method)
        self.claims.forget(connection, pair.sender)

    async def admit(self, pair: Pair) -> Ending | None:
        """Return None: a proven pair was resolved and allowed before it was proven."""
        return None


@lru_cache(LIMITS)
def _framing_limits(stanza_bytes: int) -> FramingLimits:
    """Return the limits of a stream. A peer with thousands of sub-domains has one object of them."""
    return FramingLimits(stanza_bytes=stanza_bytes)


def questions_for(policy: PeerPolicy) -> int:
    """Return how many DNS questions a claim may cause."""
    return ADDRESS_MATCH_QUESTIONS if policy.resolve == "address-match" else QUESTIONS


def _end_with(look_ups: Deferred[None], connection: StreamConnection) -> None:
    """Cancel `look_ups` when the connection is gone. The connection keeps nothing of them when they are over."""
    closed = connection.when_closed()

    def end(_: object) -> None:
        look_ups.cancel()
        closed.cancel()

    closed.addCallbacks(end, end)
    look_ups.addBoth(end)


@lru_cache(maxsize=64)
def _shared(permission: Permission) -> Permission:
    """Return the first permission that was equal: a stream keeps its own, and nearly all streams have one of a few."""
    return permission


def _unresolved(resolution: Resolution) -> Refusal | None:
    return None if resolution.ending is None else refusal(resolution.ending)


def _not_served(domain: Domain) -> Refusal:
    condition, text = StreamCondition.HOST_UNKNOWN, f"{domain} is not served here any more"
    return Refusal(condition, text, Ending(Cause.HOST_UNKNOWN, text, condition=condition.value))


def _invalid_from(text: str) -> Refusal:
    condition = StreamCondition.INVALID_FROM
    return Refusal(condition, text, Ending(Cause.INVALID_FROM, text, condition=condition.value))
