"""The verdict of a peer's policy on the proofs: one pure function, tested over the full product of its inputs.

docs/policy.md has all of it as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s2sgw.policy.model import PeerPolicy
from s2sgw.trust.evidence import Attempt, ProofMethod, Role
from s2sgw.xmpp.ending import Cause, Ending

#: "dns": an outbound stream went to the place in the DNS, and nothing else proves the peer. "secret": no other proof is needed,
#: because the stream goes on only by SCRAM with channel binding, in which the peer proves itself.
ProvenBy = ProofMethod | Literal["dns", "secret"]
#: The standing of the presented key: never remembered for this peer; remembered, by approval or first use; different from those
#: remembered; revoked by the operator; or "absent": none was presented, though one is remembered (R20).
KeyStanding = Literal["unknown", "known", "changed", "revoked", "absent"]
#: Whether this is the first use that is remembered: at once, or if dialback proves the same domain on this stream (R20).
Learn = Literal["no", "now", "with-dialback"]

#: Cases 2 and 3 of RFC 6120 §13.7.2, if nothing worse is wrong with the certificate.
UNKNOWN = (Cause.SELF_SIGNED, Cause.UNKNOWN_ISSUER)

_BARRED_KEYS = {
    "changed": (Cause.PIN_MISMATCH, "the key is none of those that are remembered for this peer"),
    "revoked": (Cause.KEY_REVOKED, "the approval of this key was revoked here"),
    "absent": (Cause.NO_CERTIFICATE, "a key is remembered for this peer, and none was presented"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision whether and how the stream goes on.

    `external` and `dialback` are the ways in which the initiating side may authenticate. `proven_by` is the proof of the peer so
    far; an inbound peer that must still do dialback has none (None). `ending` is the refusal, and `reasons` has the attempts and
    their failures in words, for every outcome.

    `hold`: the certificate is to be stored for the operator's approval. `learn`: its key is to be remembered as a first use.
    `report`: with `lost_proof = "refuse"` this would have been the ending. `secret`: a shared secret is a way to authenticate too
    (R26). `contradicted`: an inbound peer goes on although secured TLSA records name another key, which outbound would be a veto
    (R22). So nothing of ours may be sent on its stream.
    """

    external: bool = False
    dialback: bool = False
    proven_by: ProvenBy | None = None
    ending: Ending | None = None
    reasons: tuple[str, ...] = ()
    hold: bool = False
    learn: Learn = "no"
    report: Ending | None = None
    secret: bool = False
    contradicted: bool = False


def decide(
    policy: PeerPolicy,
    attempts: Sequence[Attempt],
    *,
    role: Role,
    secured: bool,
    tls_version: str | None = None,
    unresolved: Ending | None = None,
    key: KeyStanding = "unknown",
    remembered: ProofMethod | None = None,
) -> Verdict:
    """Return the verdict on a peer that has `role` on the stream. `attempts`: every proof that was tried.

    `secured`: TLS is on, of `tls_version` ("TLSv1.2", …) if known. `unresolved` is the failure of resolving the peer's hostname,
    if it failed (R2). Without TLS there is no certificate, so no attempt counts. `remembered` is the proof of the peer within the
    policy's `remember_proof`, if any.
    """
    refusal = unresolved or _barred(policy, role, secured, tls_version)
    if refusal is not None:
        return Verdict(ending=refusal, reasons=(refusal.detail or refusal.cause,))
    return _Case(policy, tuple(attempts), role, secured, key, remembered).verdict()


def _barred(policy: PeerPolicy, role: Role, secured: bool, tls_version: str | None) -> Ending | None:
    """Return the ending for a fault that no proof can heal; None: there is none."""
    if policy.bar is not None:
        return policy.bar
    if not secured and policy.tls == "required":
        return Ending(_unencrypted(role), "the policy for this peer requires TLS, and the stream has none")
    if secured and tls_version is not None and tls_version < "TLSv" + policy.minimum:
        return Ending(Cause.TLS_TOO_OLD, f"the stream has {tls_version}, the policy for this peer requires TLS {policy.minimum}")
    return None


def _unencrypted(role: Role) -> Cause:
    return Cause.ENCRYPTION_REQUIRED if role == "initiating" else Cause.TLS_NOT_OFFERED


def accepts(policy: PeerPolicy) -> tuple[ProofMethod, ...]:
    """Return the methods that may prove the peer, in their order. An approval counts if it can be requested."""
    methods: list[ProofMethod] = list(policy.proofs)
    if policy.unknown_issuer != "reject" and "pin" not in methods:
        methods.append("pin")
    if policy.unknown_issuer == "trust-first-use":
        methods.append("trust-first-use")
    return tuple(methods)


@dataclass(frozen=True, slots=True)
class _Case:
    """One peer at the moment of its verdict, without a bar."""

    policy: PeerPolicy
    attempts: tuple[Attempt, ...]
    role: Role
    secured: bool
    key: KeyStanding
    remembered: ProofMethod | None

    def verdict(self) -> Verdict:
        proof = self.proof()
        if self.veto is not None:
            return self.refused(Cause.DANE_MISMATCH)
        if proof is not None:
            return self.going(proof, learn="now" if self.learns_by(proof) else "no")
        if self.key in _BARRED_KEYS:
            return self.refused(_BARRED_KEYS[self.key][0])
        return self.unproven()

    def unproven(self) -> Verdict:
        """Decide without a proof: a first use or dialback may prove the peer, unless it has proven itself better before."""
        first_use = self.first_use and self.role == "receiving"
        if not first_use and not self.fallback:
            return self.sharing(self.refused(self.cause()))
        lost = self.lost
        if lost is not None and self.policy.lost_proof == "refuse":
            return self.sharing(self.refused(lost.cause))
        if first_use:
            return self.going("trust-first-use", learn="now", report=lost)
        return self.going(None, learn="with-dialback" if self.first_use else "no", report=lost)

    def sharing(self, refusal: Verdict) -> Verdict:
        """Go on by the shared secret alone instead of `refusal`, which is for lack of proof, if there is a secret."""
        if not self.secret or any(Cause.REVOKED in each.causes for each in self.attempts):
            return refusal
        return Verdict(proven_by="secret" if self.role == "receiving" else None, reasons=refusal.reasons, secret=True)

    def refused(self, cause: Cause) -> Verdict:
        reasons = self.reasons()
        return Verdict(ending=Ending(cause, "; ".join(reasons)), reasons=reasons, hold=self.hold)

    def going(self, proof: ProofMethod | None, *, learn: Learn, report: Ending | None = None) -> Verdict:
        hold, reasons = proof is None and self.hold, self.reasons()
        if self.role == "initiating":
            contradicted = any(Cause.DANE_MISMATCH in each.causes for each in self.accepted)
            return Verdict(proof is not None, self.fallback, proof, None, reasons, hold, learn, report, self.secret, contradicted)
        # We initiate: dialback proves us to the peer, not the peer to us, so we may use it whenever the stream goes on.
        return Verdict(self.secured, True, proof or "dns", None, reasons, hold, learn, report, self.secret)

    # --- facts ---

    @property
    def accepted(self) -> list[Attempt]:
        """Return the attempts that count, in the policy's order."""
        if not self.secured:
            return []
        return [each for method in accepts(self.policy) for each in self.attempts if each.method == method]

    @property
    def veto(self) -> Attempt | None:
        return next((each for each in self.accepted if each.veto), None)

    def proof(self) -> ProofMethod | None:
        return next((each.method for each in self.accepted if each.proven), None)

    @property
    def fallback(self) -> bool:
        return self.policy.dialback == "always" or (self.policy.dialback == "with-tls" and self.secured)

    @property
    def secret(self) -> bool:
        return self.secured and self.policy.secret_file is not None

    @property
    def stranger(self) -> Attempt | None:
        """Return the PKIX attempt if its only fault is an unknown issuer; the name may be wrong too."""
        return next((a for a in self.attempts if self.secured and a.method == "pkix" and a.cause in UNKNOWN), None)

    @property
    def hold(self) -> bool:
        """Whether the operator may want to approve the certificate."""
        asking = self.policy.unknown_issuer != "reject" and self.key in ("changed", "revoked")
        return asking or (self.policy.unknown_issuer == "ask" and self.stranger is not None)

    @property
    def first_use(self) -> bool:
        """Whether this key could be a first use: a stranger's with the right name, and no other is remembered."""
        clean = self.stranger is not None and not set(self.stranger.causes).difference(UNKNOWN)
        return clean and self.policy.unknown_issuer == "trust-first-use" and self.key == "unknown"

    def learns_by(self, proof: ProofMethod) -> bool:
        """Return how a stranger's key is remembered that the DNS or the web vouches for. It replaces the one before."""
        learns = self.policy.unknown_issuer == "trust-first-use" and self.key in ("unknown", "changed")
        return learns and proof in ("dane", "posh") and self.stranger is not None

    @property
    def lost(self) -> Ending | None:
        """Return the ending of dialback, or of a first use, for a peer that has proven itself better before."""
        if self.remembered is None or self.remembered not in self.policy.proofs:
            return None
        return Ending(Cause.PROOF_LOST, f"this peer was proven by {self.remembered} before, and now by nothing of the kind")

    def cause(self) -> Cause:
        """Return the cause of a refusal: a different pin first, then the first method that failed for a cause of its own."""
        if not self.secured:
            return _unencrypted(self.role)
        causes = [each.cause for each in self.accepted if each.cause not in (None, Cause.NOT_PROVEN)]
        if Cause.PIN_MISMATCH in causes:
            return Cause.PIN_MISMATCH
        if self.hold:
            return Cause.AWAITING_APPROVAL
        return causes[0] if causes else Cause.NOT_PROVEN

    # --- in words ---

    def reasons(self) -> tuple[str, ...]:
        told = [_told(each, each.method in accepts(self.policy)) for each in self.attempts]
        if not self.secured:
            told = ["no certificate is seen without TLS"]
        if self.key in _BARRED_KEYS:
            told.append(_BARRED_KEYS[self.key][1])
        if self.lost is not None and self.proof() is None:
            told.append(self.lost.detail)
        return (*told, f'dialback = "{self.policy.dialback}"')


def _told(attempt: Attempt, accepted: bool) -> str:
    outcome = "proven" if attempt.proven else "not proven"
    why = ", ".join(attempt.reasons)
    aside = "" if accepted else " (not among the proofs that the policy accepts)"
    return f"{attempt.method}: {outcome}{aside}" + (f": {why}" if why else "")
