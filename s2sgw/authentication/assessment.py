"""The assessment of a peer: the proofs that its policy asks for are tried on the evidence, and the policy decides.

No look-up is made here. The judge, `explain` and `replay` all use this assessment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from s2sgw.peerdb.keys import KnownKeys, key_of
from s2sgw.peerdb.peer_records import KnownFacts
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.verdict import Verdict, accepts, decide
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.dane import prove_dane
from s2sgw.trust.evidence import Attempt, Evidence
from s2sgw.trust.path import RecentChains
from s2sgw.trust.pins import Fingerprint
from s2sgw.trust.posh import prove_posh
from s2sgw.trust.proofs import prove_pin, prove_pkix
from s2sgw.trust.revocation import RevocationLists


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict and what led to it."""

    verdict: Verdict
    attempts: tuple[Attempt, ...]
    policy: PeerPolicy
    #: the keys of the peer that were known
    keys: KnownKeys = field(default_factory=KnownKeys)

    @property
    def proven(self) -> bool:
        """Whether a proof that counts succeeded. Dialback and first use do not count."""
        return any(each.proven for each in self.attempts if each.method in accepts(self.policy))

    @property
    def vetoed(self) -> bool:
        return any(each.veto for each in self.attempts)


class PolicyFiles(Protocol):
    """The files that policies name (`authentication.trust_files`)."""

    def anchors(self, policy: PeerPolicy) -> Anchors:
        """Return the trust anchors of a policy."""

    def revocations(self, path: Path | None) -> RevocationLists | None:
        """Return the revocation lists of a policy. None: it names none."""


@dataclass(frozen=True, slots=True)
class ProofRunner:
    """The proofs, with the anchors and revocation lists that each policy names."""

    files: PolicyFiles
    #: paths that were found: one search serves all proofs of a handshake, and all domains of a stream
    recent: RecentChains = field(default_factory=RecentChains)

    def found(self, policy: PeerPolicy, evidence: Evidence, standing: KnownFacts) -> Assessment:
        """Return the verdict on the peer of `evidence`."""
        secured = evidence.tls_version is not None
        keys = standing.keys.under(policy)
        attempts = tuple(self._attempts(policy, evidence, keys)) if secured else ()
        verdict = decide(
            policy, attempts, role=evidence.role, secured=secured, tls_version=evidence.tls_version,
            key=keys.standing(evidence.chain), remembered=standing.remembered,
        )
        return Assessment(verdict, attempts, policy, standing.keys)

    def _attempts(self, policy: PeerPolicy, evidence: Evidence, keys: KnownKeys) -> Iterator[Attempt]:
        presented = self.recent.presented(evidence.chain)
        pins = [Fingerprint.parse(pin) for pin in policy.pins] if "pin" in policy.proofs else []
        if pins or keys.approved:
            yield prove_pin(evidence, {*pins, *keys.approved})
        if keys.first_use:
            yield _first_use(evidence, keys)
        # the fault of the chain tells a stranger's certificate from a bad one (R19, R20)
        if "pkix" in policy.proofs or policy.unknown_issuer != "reject":
            yield prove_pkix(
                evidence, self.files.anchors(policy), revocations=self.files.revocations(policy.crl),
                secure_delegation=policy.secure_delegation, insist_on_xmpp_addr=policy.insist_on_xmpp_addr, presented=presented,
            )
        if "dane" in policy.proofs and evidence.tlsa:
            anchors, revocations = self.files.anchors(policy), self.files.revocations(policy.crl)
            yield prove_dane(evidence, anchors, revocations=revocations, presented=presented)
        if "posh" in policy.proofs and evidence.posh is not None:
            yield prove_posh(evidence)


def _first_use(evidence: Evidence, keys: KnownKeys) -> Attempt:
    key = key_of(evidence.chain)
    if key in keys.first_use:
        return Attempt("trust-first-use", True, reasons=(f"the key {key} was remembered at its first use",))
    return Attempt("trust-first-use", False, reasons=(f"{key or 'no key'} is not the one that was remembered at its first use",))
