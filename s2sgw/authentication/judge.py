"""The judge: gathers the evidence of a connection, tries each proof, and asks the policy for the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, succeed

from s2sgw.authentication.assessment import Assessment, ProofRunner
from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.authentication.refusals import refusal_of_unproven
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.net.requester import Requester
from s2sgw.peerdb.keys import key_of
from s2sgw.peerdb.peer_records import KnownFacts, PeerRecords
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.stream.events import JudgementNeeded, Method, Permission, Refusal
from s2sgw.trust.evidence import Evidence, ProofMethod, Role
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.wall_clock import WallClock, date_of

#: Attempts to judge a first use that is lost to another node.
JUDGED = 3
#: Handshakes that are recorded of one stream.
HANDSHAKES_PER_STREAM = 64


def _at_once() -> Deferred[None]:
    return succeed(None)


class Judge:
    """Judges peers of the federation leg, in either role.

    `time_to_judge` returns a Deferred that fires when the reactor has time for the work of a peer's certificate (`net.turns`).
    """

    def __init__(
        self, peers: PeerPolicies, proving: ProofRunner, look_ups: EvidenceLookups, peer_records: PeerRecords, clock: WallClock,
        time_to_judge: Callable[[], Deferred[None]] = _at_once,
    ) -> None:
        self._peers = peers
        self._proving = proving
        self._look_ups = look_ups
        self._peer_records = peer_records
        self._clock = clock
        self._time_to_judge = time_to_judge
        #: the peers of each stream whose key becomes a first use by dialback (R20)
        self._first_uses: WeakKeyDictionary[StreamConnection, set[Domain]] = WeakKeyDictionary()

    def begin(
        self, peer: Domain, role: Role, target: Target | None = None, *, requester: Requester | None = None,
    ) -> Deferred[None]:
        """Start the look-ups for a verdict while the handshake goes on. Cancelling the result abandons them.

        Call it when the peer is asserted, or when its `target` is about to be dialled. A POSH document is fetched now only for
        a peer that one has proven lately. For most other peers the certificate will show that none is needed.
        """
        policy = self._peers.policy(peer)
        if policy.bar is not None:
            return succeed(None)
        posh = "posh" in policy.proofs and self._remembered(peer, policy) == "posh"
        return self._look_ups.begin(peer, policy.route, target, requester, dane="dane" in policy.proofs, posh=posh)

    def knows(self, peer: Domain) -> bool:
        """Return whether the configuration names the peer, or its certificate proved it lately."""
        return self._peers.lists(peer) or self._remembered(peer, self._peers.policy(peer)) is not None

    def _remembered(self, peer: Domain, policy: PeerPolicy) -> ProofMethod | None:
        return self._peer_records.remembered(peer, policy, self._clock.seconds())

    def proven(self, connection: StreamConnection, peer: Domain, method: Method) -> None:
        """Note that an inbound peer has authenticated by `method`: by dialback, its key may be a first use (R20)."""
        if method == "dialback":
            self._peer_records.proven(peer, method, connection.chain, self._clock.seconds())
        waiting = self._first_uses.get(connection, set())
        if peer in waiting:
            waiting.remove(peer)
            if method == "dialback":
                self._peer_records.learn(peer, connection.chain, self._clock.seconds(), "proven by dialback")

    async def verdict(
        self, connection: StreamConnection, question: JudgementNeeded, role: Role, target: Target | None = None,
        requester: Requester | None = None,
    ) -> Verdict:
        """Return the verdict on `question.peer`, which plays `role` on `connection`.

        `target` is the place that we connected to. None: the peer connected to us. The look-ups are made for `requester`. None:
        for the gateway itself.
        """
        evidence, found = await self._agreed(connection, question.peer, role, target, requester)
        targets: tuple[Target, ...] = (target,) if target else ()
        if found.verdict.hold:
            targets = await self._look_ups.targets(question.peer, found.policy.route, requester)
        handshake = self._is_news(connection, question.peer, found.verdict)
        self._peer_records.record_verdict(
            evidence, question.local, found.verdict, targets, handshake=handshake, verifying=question.verifying,
        )
        if found.verdict.learn == "with-dialback":
            self._first_uses.setdefault(connection, set()).add(question.peer)
        return found.verdict

    async def _agreed(
        self, connection: StreamConnection, peer: Domain, role: Role, target: Target | None, requester: Requester | None,
    ) -> tuple[Evidence, Assessment]:
        """Return the evidence and an assessment that other nodes agree with: a first use rests on what all of them know (R20)."""
        for _ in range(JUDGED):
            evidence, found = await self._found(connection, peer, role, target, requester, self._time_to_judge)
            if found.verdict.learn != "now":
                return evidence, found
            try:
                if await self._peer_records.agree(evidence, found.verdict, found.keys):
                    return evidence, found
                why = "other nodes learn other keys"
            except OSError as error:
                why = str(error)
                break
        reasons = (*found.verdict.reasons, f"the key cannot be remembered: {why}")
        return evidence, replace(found, verdict=Verdict(ending=Ending(Cause.NO_NODE), reasons=reasons))

    def agreed(self, connection: StreamConnection) -> tuple[Domain, ...]:
        """Return the peers that have agreed on a zero handshake, and whose key the other end has presented (XEP-0361)."""
        return self._peers.agreed(str(key_of(connection.chain) or ""))

    def permission(self, verdict: Verdict, connection: StreamConnection, peer: Domain) -> Permission:
        """Return what a verdict allows `peer`, which has proven nothing if the verdict refuses it."""
        return permission(verdict, None if verdict.ending is None else self.refusal(verdict.ending, connection, peer))

    def refusal(self, ending: Ending, connection: StreamConnection, peer: Domain) -> Refusal:
        """Return the refusal for the other side of `connection`, which claims to be `peer` and has proven nothing."""
        return refusal_of_unproven(ending, peer, connection.chain, date_of(self._clock))

    def _is_news(self, connection: StreamConnection, peer: Domain, verdict: Verdict) -> bool:
        """Return whether the handshake is to be recorded for `peer` too.

        If the handshakes of several sub-domains of one registered domain end alike on one stream, they are one record.
        """
        recorded = connection.recorded
        fact = (registered_domain(peer.ascii), verdict.proven_by, verdict.ending.cause if verdict.ending else None)
        if fact in recorded or len(recorded) >= HANDSHAKES_PER_STREAM:
            return False
        connection.recorded = (*recorded, fact)
        return True

    async def opinion(self, connection: StreamConnection, peer: Domain, role: Role, target: Target | None = None) -> Verdict:
        """Return the present verdict on an open stream. It is not recorded."""
        return (await self.examine(connection, peer, role, target))[1].verdict

    async def examine(
        self, connection: StreamConnection, peer: Domain, role: Role, target: Target | None = None,
    ) -> tuple[Evidence, Assessment]:
        """Return the evidence of an open stream and its present assessment. Nothing is recorded."""
        return await self._found(connection, peer, role, target, None)

    async def verdict_as_initiator(self, evidence: Evidence) -> Verdict:
        """Return the verdict if the peer opened a stream to us with the certificate of `evidence`."""
        policy = self._peers.policy(evidence.domain)
        theirs = replace(evidence, role="initiating", target=None, target_secure=False, tlsa=(), posh=None)
        standing = self._peer_records.standing(evidence.domain, policy, evidence.at.timestamp())
        return (await self.gather(policy, theirs, standing, None))[1].verdict

    async def _found(
        self, connection: StreamConnection, peer: Domain, role: Role, target: Target | None, requester: Requester | None,
        time_to_judge: Callable[[], Deferred[None]] = _at_once,
    ) -> tuple[Evidence, Assessment]:
        policy = self._peers.policy(peer)
        evidence = Evidence(
            domain=peer, role=role, at=date_of(self._clock), chain=connection.chain, tls_version=connection.tls_version,
            cipher=connection.cipher, address=connection.peer_address, target=target.host if target else None,
            target_secure=target.secure if target else False,
        )
        standing = self._peer_records.standing(peer, policy, evidence.at.timestamp())
        return await self.gather(policy, evidence, standing, target, requester, time_to_judge)

    async def gather(
        self, policy: PeerPolicy, evidence: Evidence, standing: KnownFacts, target: Target | None,
        requester: Requester | None = None, time_to_judge: Callable[[], Deferred[None]] = _at_once,
    ) -> tuple[Evidence, Assessment]:
        """Return all evidence and the verdict. The DNS is always asked, because it may veto. The web is asked only if needed."""
        shown = evidence.tls_version is not None and bool(evidence.chain)
        if shown and "dane" in policy.proofs and policy.bar is None:
            tlsa = await self._look_ups.dane(evidence.domain, policy.route, target, requester)
            evidence = replace(evidence, tlsa=tlsa)
        if shown:
            await time_to_judge()
        found = self._proving.found(policy, evidence, standing)
        if shown and "posh" in policy.proofs and policy.bar is None and not (found.proven or found.vetoed):
            evidence = replace(evidence, posh=await self._look_ups.posh(evidence.domain, requester))
            await time_to_judge()
            found = self._proving.found(policy, evidence, standing)
        return evidence, found


def permission(verdict: Verdict, refusal: Refusal | None) -> Permission:
    """Return the verdict in the form of the engine. `refusal` is sent to the other side if the verdict refuses it."""
    if verdict.ending is not None:
        return Permission(refusal=refusal)
    proven = verdict.proven_by not in (None, "dns", "secret")
    pinned = verdict.proven_by == "pin"
    return Permission(external=verdict.external, dialback=verdict.dialback, proven=proven, pinned=pinned)
