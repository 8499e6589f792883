"""The verdict: what a peer's policy makes of the proofs. One pure function, tested over the full product of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s2sgw.policy.model import PeerPolicy
from s2sgw.trust.evidence import Attempt, ProofMethod, Role
from s2sgw.xmpp.ending import Cause, Ending

#: "dns": an outbound stream went to where the DNS led, and nothing else proves the peer.
ProvenBy = ProofMethod | Literal["dns"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the stream goes on, and how.

    `external` and `dialback` are the ways in which the initiating side may authenticate. `proven_by` is what proves the
    peer so far; an inbound peer that has yet to do dialback is proven by nothing (None). `ending` is the refusal, and
    `reasons` says in words what was tried and why it failed, whatever the outcome.
    """

    external: bool = False
    dialback: bool = False
    proven_by: ProvenBy | None = None
    ending: Ending | None = None
    reasons: tuple[str, ...] = ()


def decide(
    policy: PeerPolicy,
    attempts: Sequence[Attempt],
    *,
    role: Role,
    secured: bool,
    tls_version: str | None = None,
    unresolved: Ending | None = None,
) -> Verdict:
    """The verdict on a peer that plays `role` on the stream, `attempts` being every proof that was tried.

    `secured`: TLS is on, of `tls_version` ("TLSv1.2", …) where known. `unresolved` is how resolving the peer's hostname
    ended, if it failed (R2). Without TLS there is no certificate, so no attempt counts.
    """
    refusal = unresolved or _barred(policy, role, secured, tls_version)
    if refusal is not None:
        return Verdict(ending=refusal, reasons=(refusal.detail or refusal.cause,))
    proof = next((each.method for each in _accepted(policy, attempts) if each.proven), None) if secured else None
    fallback = policy.dialback == "always" or (policy.dialback == "with-tls" and secured)
    reasons = _reasons(policy, attempts, secured)
    if proof is None and not fallback:
        return Verdict(ending=Ending(_cause(policy, attempts, role, secured), "; ".join(reasons)), reasons=reasons)
    if role == "initiating":
        return Verdict(external=proof is not None, dialback=fallback, proven_by=proof, reasons=reasons)
    # We initiate: dialback proves us to the peer and nothing of the peer, so it is ours to use whenever the stream goes on.
    return Verdict(external=secured, dialback=True, proven_by=proof or "dns", reasons=reasons)


def _barred(policy: PeerPolicy, role: Role, secured: bool, tls_version: str | None) -> Ending | None:
    """What no proof can make good."""
    if policy.bar is not None:
        return policy.bar
    if not secured and policy.tls == "required":
        return Ending(_unencrypted(role), "the policy for this peer requires TLS, and the stream has none")
    if secured and tls_version is not None and tls_version < "TLSv" + policy.minimum:
        return Ending(Cause.TLS_TOO_OLD, f"the stream has {tls_version}, the policy for this peer requires TLS {policy.minimum}")
    return None


def _accepted(policy: PeerPolicy, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts by methods that the policy accepts, in the policy's order."""
    return [each for method in policy.proofs for each in attempts if each.method == method]


def _cause(policy: PeerPolicy, attempts: Sequence[Attempt], role: Role, secured: bool) -> Cause:
    """The one cause of a refusal: a pin that differs says most, then the first method that failed for a cause of its own."""
    if not secured:
        return _unencrypted(role)
    causes = [each.cause for each in _accepted(policy, attempts) if each.cause not in (None, Cause.NOT_PROVEN)]
    return Cause.PIN_MISMATCH if Cause.PIN_MISMATCH in causes else causes[0] if causes else Cause.NOT_PROVEN


def _unencrypted(role: Role) -> Cause:
    return Cause.ENCRYPTION_REQUIRED if role == "initiating" else Cause.TLS_NOT_OFFERED


def _reasons(policy: PeerPolicy, attempts: Sequence[Attempt], secured: bool) -> tuple[str, ...]:
    if not secured:
        return ("no certificate is seen without TLS", f'dialback = "{policy.dialback}"')
    told = [_told(each, each.method in policy.proofs) for each in attempts]
    return (*told, f'dialback = "{policy.dialback}"')


def _told(attempt: Attempt, accepted: bool) -> str:
    outcome = "proven" if attempt.proven else "not proven"
    why = ", ".join(attempt.reasons)
    aside = "" if accepted else " (not among the proofs that the policy accepts)"
    return f"{attempt.method}: {outcome}{aside}" + (f": {why}" if why else "")
