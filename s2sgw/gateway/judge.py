"""The judge: gathers the evidence of a connection, has each proof tried, and asks the policy for the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import Peers
from s2sgw.policy.verdict import Verdict, decide
from s2sgw.stream.events import JudgementNeeded, Method, Permission, Refusal
from s2sgw.trust.evidence import Attempt, Evidence, Role
from s2sgw.trust.path import Anchors
from s2sgw.trust.pins import Fingerprint
from s2sgw.trust.proofs import prove_pin, prove_pkix
from s2sgw.xmpp.ending import Cause, Ending, Layer
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain

_CONDITIONS: dict[Cause, StreamCondition] = {
    Cause.NO_SUCH_DOMAIN: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.DNS_UNREACHABLE: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.PRIVATE_ADDRESS: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.LOOP: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.INTERNAL: StreamCondition.INTERNAL_SERVER_ERROR,
    Cause.TOO_MANY_STREAMS: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.SHUTDOWN: StreamCondition.SYSTEM_SHUTDOWN,
}

#: Where time alone may heal what is wrong; a certificate or a policy wants somebody's hand.
_PASSING = (Layer.DNS, Layer.TCP, Layer.STREAM)


def refusal(ending: Ending) -> Refusal:
    """The stream error that tells the other side of `ending`: what, why, and whether to try again (R2, R15)."""
    condition = _CONDITIONS.get(ending.cause, StreamCondition.POLICY_VIOLATION)
    again = " Trying again later may help." if ending.layer in _PASSING and not ending.final else ""
    detail = f" ({ending.detail})" if ending.detail else ""
    text = f"{ending.layer}: {ending.account.remedy}{detail}{again}"
    return Refusal(condition, text, Ending(ending.cause, ending.detail, ending.by, condition.value))


class Judge:
    """Judges peers of the federation leg, in either role; `anchors` loads a policy's trust anchors (cached)."""

    def __init__(self, peers: Peers, anchors: Callable[[PeerPolicy], Anchors], now: Callable[[], datetime]) -> None:
        self._peers = peers
        self._anchors = anchors
        self._now = now

    def begin(self, peer: Domain, role: Role, target: Target | None = None) -> None:
        """The peer is asserted, or `target` of it is about to be dialled: what has to be looked up is, beside the handshake."""

    def proven(self, connection: StreamConnection, peer: Domain, method: Method) -> None:
        """An inbound peer has authenticated by `method`."""

    async def verdict(
        self, connection: StreamConnection, question: JudgementNeeded, role: Role, target: Target | None = None,
    ) -> Verdict:
        """The verdict on `question.peer`, which plays `role` on `connection`."""
        peer = question.peer
        evidence = Evidence(
            domain=peer, role=role, at=self._now(), chain=connection.chain, tls_version=connection.tls_version,
            cipher=connection.cipher, address=connection.peer_address, target=target.host if target else None,
            target_secure=target.secure if target else False,
        )
        policy = self._peers.policy(peer)
        secured = connection.tls_version is not None
        attempts = self._attempts(policy, evidence) if secured else ()
        return decide(policy, attempts, role=role, secured=secured, tls_version=connection.tls_version)

    def _attempts(self, policy: PeerPolicy, evidence: Evidence) -> Sequence[Attempt]:
        attempts = []
        if "pin" in policy.proofs and policy.pins:
            attempts.append(prove_pin(evidence, [Fingerprint.parse(pin) for pin in policy.pins]))
        if "pkix" in policy.proofs:
            attempts.append(prove_pkix(evidence, self._anchors(policy)))
        return attempts


def permission(verdict: Verdict) -> Permission:
    """The verdict as the engine wants it."""
    if verdict.ending is not None:
        return Permission(refusal=refusal(verdict.ending))
    return Permission(external=verdict.external, dialback=verdict.dialback)
