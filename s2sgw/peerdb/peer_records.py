"""The records of each peer: its keys, pending certificates, past proofs, and judged handshakes.

The judge reads these facts before a verdict. The verdict is recorded here: a first use is remembered, a certificate for the
operator's approval is stored, and alarming changes are logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twisted.logger import Logger

from s2sgw.peerdb.database import FILE, Deliver, PeerDatabase
from s2sgw.peerdb.evidence_json import LocatedTarget, lookups_json
from s2sgw.peerdb.handshakes import Handshakes
from s2sgw.peerdb.keys import KnownKeys, PeerKeys, RememberedKey, key_of
from s2sgw.peerdb.past_proofs import REMEMBERED, PastProofs
from s2sgw.peerdb.pending import PendingCertificate, PendingCertificates
from s2sgw.peerdb.refusals import StoredRefusals
from s2sgw.peerdb.stores import KeyStore, PendingStore, ProofStore
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.verdict import ProvenBy, Verdict
from s2sgw.reporting.record import Direction
from s2sgw.trust.certificate import summarise
from s2sgw.trust.evidence import Evidence, ProofMethod
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

#: Internationalised names of proven peers that are kept in memory.
KNOWN_TEXTS = 10_000
#: Characters of the reasons that are stored with a certificate.
_REASON = 500


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """The facts about a peer at one moment: its keys, and the method that proved it within the policy's `remember_proof`."""

    keys: KnownKeys
    remembered: ProofMethod | None = None


@dataclass(frozen=True, slots=True)
class SharedStores:
    """The stores that all nodes of a cluster share. `keep_in` takes a copy of the decisions on keys, for a start without them.

    The other stores of the state directory are not used then.
    """

    keys: KeyStore
    keep_in: Callable[[PeerKeys], object]
    pending: PendingStore
    proofs: ProofStore


class PeerRecords:
    """All records of one state directory. `is_listed` returns whether the configuration names a peer."""

    log = Logger("s2sgw")

    def __init__(
        self, database: PeerDatabase, is_listed: Callable[[Domain], bool] = lambda domain: False,
        shared: SharedStores | None = None,
    ) -> None:
        self.database = database
        self._is_listed = is_listed
        #: internationalised names of proven peers in their display form
        self._known_texts: set[str] = set()
        self.keys: KeyStore = PeerKeys(database) if shared is None else shared.keys
        self.pending_certificates: PendingStore = PendingCertificates(database) if shared is None else shared.pending
        self.past_proofs: ProofStore = PastProofs(database) if shared is None else shared.proofs
        if shared is not None:
            shared.keep_in(PeerKeys(database))
        self.handshakes = Handshakes(database, self.is_known)
        self.refusals = StoredRefusals(database, self.is_known)
        database.begin()

    @classmethod
    def at(
        cls, state: Path, deliver: Deliver, limit: int, is_listed: Callable[[Domain], bool], shared: SharedStores | None = None,
    ) -> PeerRecords:
        """Open the records of a state directory. `limit`: their bytes. Raises `DatabaseUnusable`."""
        database = PeerDatabase(state / FILE, cls._complain, deliver, limit)
        return cls(database, is_listed, shared)

    @classmethod
    def _complain(cls, text: str) -> None:
        cls.log.error(event="peer database", detail=text)

    def is_known(self, name: str) -> bool:
        """Return whether a name is that of a peer that was ever proven, or that the configuration names.

        Records of other names get a small part of the room, because strangers can make these names up.
        """
        lower = name.lower()
        return self.past_proofs.is_proven(lower) or lower in self._known_texts or self._is_listed(Domain(lower, lower))

    def standing(self, domain: Domain, policy: PeerPolicy, at: float) -> KnownFacts:
        """Return the present facts about a peer."""
        return KnownFacts(self.keys.known(domain, at), self.remembered(domain, policy, at))

    def remembered(self, domain: Domain, policy: PeerPolicy, at: float) -> ProofMethod | None:
        """Return the method that proved a peer last, within the policy's `remember_proof`."""
        within = policy.remember_proof
        return self.past_proofs.remembered(domain, at, within, REMEMBERED) if within > 0 else None

    def record_verdict(
        self, evidence: Evidence, local: Domain, verdict: Verdict, targets: Sequence[LocatedTarget], *, handshake: bool = True,
        verifying: bool = False,
    ) -> None:
        """Record a verdict. `handshake`: with its evidence, for `explain` and `replay`.

        `verifying`: the stream is to verify a dialback key. A stranger caused it, and chose the name.
        """
        at = evidence.at.timestamp()
        wanted = evidence.role == "receiving" and not verifying
        if handshake and evidence.tls_version is not None:
            self.handshakes.judged(evidence, local, verdict, wanted)
        if verdict.proven_by is not None and (verdict.proven_by != "dns" or evidence.role == "receiving"):
            self.proven(evidence.domain, verdict.proven_by, evidence.chain, at)
        if verdict.learn == "now":
            self.learn(evidence.domain, evidence.chain, at, f"proven by {verdict.proven_by}")
        new = self._hold(evidence, local, verdict, targets, wanted) if verdict.hold else False
        if verdict.ending is not None and verdict.ending.cause is Cause.PIN_MISMATCH:
            self._alarm(evidence, new)
        if verdict.report is not None:
            self.log.warn(
                event="proof lost", direction=direction_seen(evidence), leg="federation", peer=str(evidence.domain),
                local=str(local), address=evidence.address, cause=verdict.report.cause.value, detail=verdict.report.detail,
            )

    def proven(self, domain: Domain, method: ProvenBy | Literal["dialback"], chain: Sequence[bytes], at: float) -> None:
        """Remember that `method` proved a peer, which is known from now on. `chain`: the certificates that it presented."""
        if domain.text != domain.ascii and len(self._known_texts) < KNOWN_TEXTS:
            self._known_texts.add(domain.text)
        if self.past_proofs.proven(domain, method, str(key_of(chain) or ""), at, chain[0] if chain else b""):
            for name in {domain.ascii, domain.text}:
                self.handshakes.now_known(name)
                self.refusals.now_known(name)

    async def forget(self, domain: Domain) -> bool:
        """Forget the proofs and handshakes of a peer. Return whether it was ever proven. Raises `OSError`."""
        self._known_texts.discard(domain.text)
        self.handshakes.forget(domain)
        return await self.past_proofs.forget(domain)

    async def agree(self, evidence: Evidence, verdict: Verdict, judged_with: KnownKeys) -> bool:
        """Agree with other nodes on the first use that a verdict rests on. Return False if it must be judged again.

        `judged_with`: the keys that were known when it was judged. Raises `OSError` if the other nodes cannot be asked.
        """
        at, how = evidence.at.timestamp(), f"proven by {verdict.proven_by}"
        key = self._new_key(evidence.domain, evidence.chain, at, how)
        if key is None:
            return True
        if not await self.keys.learn_if(key, judged_with):
            return False
        if key.key in self.keys.known(evidence.domain, at).first_use:
            self._tell_learnt(evidence.domain, key)
        return True

    def learn(self, domain: Domain, chain: Sequence[bytes], at: float, how: str) -> None:
        """Remember the key of a first use (R20)."""
        key = self._new_key(domain, chain, at, how)
        if key is not None and self.keys.learn(key):
            self._tell_learnt(domain, key)

    def _new_key(self, domain: Domain, chain: Sequence[bytes], at: float, how: str) -> RememberedKey | None:
        key = key_of(chain)
        if key is None or self.keys.known(domain, at).standing(chain) in ("known", "revoked"):
            return None
        return RememberedKey(domain.ascii, key, "first-use", at, note=how, certificate=chain[0])

    def _tell_learnt(self, domain: Domain, key: RememberedKey) -> None:
        detail = f"first use, {key.note}: {key.key}"
        self.log.warn(event="key remembered", peer=str(domain), leg="federation", detail=detail)

    def _hold(
        self, evidence: Evidence, local: Domain, verdict: Verdict, targets: Sequence[LocatedTarget], wanted: bool,
    ) -> bool:
        key = key_of(evidence.chain)
        if key is None:
            return False
        at, ending = evidence.at.timestamp(), verdict.ending
        direction: Direction = "outbound" if wanted else "inbound"
        new = self.pending_certificates.hold(PendingCertificate(
            evidence.domain.ascii, key, at, at, 1, direction, local.ascii, evidence.address,
            ending.cause.value if ending else "", tuple(each[:_REASON] for each in verdict.reasons),
            lookups_json(evidence, targets), evidence.chain,
        ))
        if new:
            self.log.warn(
                event="certificate waits", direction=direction, leg="federation", peer=str(evidence.domain),
                local=str(local), address=evidence.address, detail=str(summarise(evidence.chain[0])),
            )
        return new

    def _alarm(self, evidence: Evidence, new: bool) -> None:
        """Log a changed key: as critical the first time, then as a warning."""
        first = new or self.pending_certificates.find(evidence.domain, _key(evidence)) is None
        emit = self.log.critical if first else self.log.warn
        old = [str(each.key) for each in self.keys.of(evidence.domain) if each.counts(evidence.at.timestamp())]
        emit(
            event="key changed", direction=direction_seen(evidence), leg="federation", peer=str(evidence.domain),
            address=evidence.address, old=old, new=str(_key(evidence)), detail=str(summarise(evidence.chain[0])),
        )


def _key(evidence: Evidence) -> Fingerprint:
    return key_of(evidence.chain) or Fingerprint(b"")


def direction_seen(evidence: Evidence) -> Direction:
    """Return the direction of the stanzas on the stream of `evidence`."""
    return "inbound" if evidence.role == "initiating" else "outbound"
