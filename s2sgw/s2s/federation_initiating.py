"""The initiating half of the federation leg: streams that we open towards peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from weakref import WeakSet

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from s2sgw.authentication.judge import Judge
from s2sgw.authentication.refusals import barred, refusal
from s2sgw.authentication.shared_secrets import SharedSecrets
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Dialler
from s2sgw.net.discovery import Discovery, Resolution, Target
from s2sgw.net.fair_slots import Owner
from s2sgw.net.requester import Requester
from s2sgw.net.tls import ClientTLS
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.reporting.record import Leg
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.s2s.identity import AckPreferences, Identity, PeerRoutes
from s2sgw.s2s.owners import owner_by_name
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import JudgementNeeded, Permission, Refusal
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import is_address, is_host
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.limits import FramingLimits


@dataclass(frozen=True)
class FederationInitiating:
    """An `InitiatingLeg` (see `s2s.legs`)."""

    peers: PeerPolicies
    discovery: Discovery
    judge_of: Judge
    keys: DialbackKeys
    identity: Identity
    client_tls: ClientTLS
    routes: PeerRoutes
    acks: AckPreferences
    extensions: ExtensionMemory
    leg: Leg = field(default="federation", init=False)
    outcomes: StreamOutcomes = field(default_factory=StreamOutcomes, kw_only=True)
    #: the streams on which the peer had to prove itself by the shared secret
    _mutual: WeakSet[StreamConnection] = field(default_factory=WeakSet, init=False, repr=False)

    @cached_property
    def secrets(self) -> SharedSecrets:
        """The secrets that are shared with peers (R26)."""
        return SharedSecrets(self.peers)

    async def resolve(self, pair: Pair, requester: Requester | None = None) -> Resolution:
        """Return where the peer is. For one that the policy bars that is nowhere: no connection is made, and nothing looked up.

        What waits for it may be from before a restart.
        """
        policy = self.peers.policy(pair.recipient)
        if policy.bar is not None:
            return Resolution(pair.recipient, (), policy.bar)
        return await self.discovery.resolve(pair.recipient, policy.route, requester)

    async def locate(self, pair: Pair, targets: Sequence[Target], requester: Requester | None = None) -> Sequence[Target]:
        return await self.discovery.locate(targets, requester or Requester.ourselves(pair.recipient.ascii))

    def dial_targets(self, pair: Pair, targets: Sequence[Target]) -> Sequence[Target]:
        """Return `targets`. Where a zero handshake is agreed, they use TLS from the first byte (XEP-0361).

        With `proxy_lookup = "local"` the proxy is given each host by its name, if it is the name of a host.

        A name in an SRV record may hold any characters, which a proxy could misread.
        """
        if self.peers.policy(pair.recipient).zero_handshake:
            targets = [replace(target, direct_tls=True) for target in targets]
        if not self.routes.dials_names(pair.recipient):
            return targets
        named = [target for target in targets if is_host(target.host) or is_address(target.host)]
        return [replace(target, addresses=(target.host,)) for target in named]

    async def admit(self, pair: Pair) -> Ending | None:
        """Return why stanzas to this peer may not enter a queue: it is not allowed, or its hostname does not resolve (R2)."""
        return (await self.resolve(pair)).ending

    def expect(self, peer: Domain) -> None:
        """Look the peer up early: something is about to be written to it."""
        policy = self.peers.policy(peer)
        if policy.bar is None:
            self.discovery.resolve(peer, policy.route)

    def engine(self, pair: Pair, target: Target, verifying: bool) -> InitiatingStream:
        self.judge_of.begin(pair.recipient, "receiving", target)
        policy, credential = self.peers.policy(pair.recipient), self.identity.credential(pair.sender, pair.recipient)
        return InitiatingStream(InitiatingOptions(
            local=pair.sender, peer=pair.recipient, purpose="verify" if verifying else "stanzas", tls=policy.encryption,
            direct_tls=target.direct_tls, external=credential is not None, keys=self.keys,
            management=policy.features.sm and self.acks.use_stream_management(pair.recipient),
            resume=int(policy.resume) if self.acks.use_resumption(pair.recipient) else 0,
            zero_handshake=policy.zero_handshake and not verifying,
            bidi=(
                policy.features.bidi and self.identity.is_local(pair.sender)
                and self.extensions.usable(pair.recipient.ascii, "bidi")
            ),
        ))

    def shown(self, pair: Pair) -> str | None:
        """Return our certificate. None: the stream is not shared.

        A peer with a shared secret gets one stream for each pair, and each is proven by the secret. A domain that was given up
        does not use the streams of others: these may carry stanzas back (XEP-0288).
        """
        policy = self.peers.policy(pair.recipient)
        if not self.identity.is_local(pair.sender) or not policy.features.multiplexing or policy.secret_file is not None:
            return None
        credential = self.identity.credential(pair.sender, pair.recipient)
        return "" if credential is None else credential.fingerprint

    def owner(self, pair: Pair) -> Owner:
        return owner_by_name(pair.recipient)

    def owner_streams(self, pair: Pair) -> int:
        return 0

    def streams(self, pair: Pair) -> int:
        return self.peers.policy(pair.recipient).limits.streams

    def largest(self, pair: Pair) -> int | None:
        return None

    def dialler(self, pair: Pair, target: Target) -> Dialler:
        return self.routes.dialler(pair.recipient)

    def tls(self, pair: Pair, target: Target) -> IOpenSSLClientConnectionCreator:
        policy = self.peers.policy(pair.recipient)
        credential = self.identity.credential(pair.sender, pair.recipient)
        return self.client_tls.for_peer(pair.recipient, credential, minimum=policy.minimum, direct=target.direct_tls)

    def policy(self, peer: Domain) -> PeerPolicy:
        return self.peers.policy(peer)

    async def judge(
        self, connection: StreamConnection, question: JudgementNeeded, target: Target,
    ) -> tuple[Permission, tuple[str, ...]]:
        verdict = await self.judge_of.verdict(connection, question, "receiving", target)
        return self.granted(verdict, connection, question.peer)

    def granted(self, verdict: Verdict, connection: StreamConnection, peer: Domain) -> tuple[Permission, tuple[str, ...]]:
        """Return what a verdict allows on a stream of ours to `peer`, and the reasons."""
        policy = self.peers.policy(peer)
        limits = FramingLimits(stanza_bytes=policy.limits.stanza_bytes)
        permission = self.judge_of.permission(verdict, connection, peer)
        granted = self.secrets.granted(permission, verdict, peer, connection)
        granted = replace(granted, bidi=verdict.proven_by not in (None, "dns"), limits=limits)
        if granted.mutual:
            self._mutual.add(connection)
        return granted, (f"proven by {verdict.proven_by or 'nothing'}", *verdict.reasons)

    async def reconsider(self, connection: StreamConnection, pair: Pair, target: Target) -> Refusal | None:
        """Return why the policy now in force refuses a stream that is open to `target`."""
        bar = self.peers.policy(pair.recipient).bar
        if bar is not None:
            return barred(bar)
        verdict = await self.judge_of.opinion(connection, pair.recipient, "receiving", target)
        if verdict.proven_by == "secret" and connection not in self._mutual:
            why = f"only the shared secret proves the peer now, and did not here: {'; '.join(verdict.reasons)}"
            return refusal(Ending(Cause.NOT_PROVEN, why))
        return None if verdict.ending is None else refusal(verdict.ending)
