"""What is written down of each peer: its keys, the certificates that wait, past proofs, and the handshakes judged.

The judge reads its standing before a verdict, and the verdict is entered here: a first use is remembered, a certificate that
the operator is to see is held, and what should alarm somebody is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.logger import Logger

from s2sgw.gateway.handshakes import Handshakes
from s2sgw.gateway.inbox import Inbox, Pending
from s2sgw.gateway.keys import Keys, RememberedKey, key_of
from s2sgw.gateway.memory import REMEMBERED, Memory
from s2sgw.gateway.proving import Found, Standing
from s2sgw.gateway.record import Direction
from s2sgw.gateway.refusals import Refusals
from s2sgw.gateway.store import FILE, Store
from s2sgw.net.discovery import Target
from s2sgw.policy.model import PeerPolicy
from s2sgw.trust.certificate import summarise
from s2sgw.trust.evidence import Evidence, ProofMethod
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

#: Characters of the reasons that are kept with a certificate.
_REASON = 500


class PeerBook:
    """Everything that one state directory remembers of peers."""

    log = Logger("s2sgw")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.keys = Keys(store)
        self.inbox = Inbox(store)
        self.memory = Memory(store)
        self.handshakes = Handshakes(store)
        self.refusals = Refusals(store)

    @classmethod
    def at(cls, state: Path) -> PeerBook:
        """The book in a state directory. Raises `StoreUnusable`."""
        return cls(Store(state / FILE, lambda text: cls.log.error(event="memory not written", detail=text)))

    def standing(self, domain: Domain, policy: PeerPolicy, at: float) -> Standing:
        """What is remembered of a peer now."""
        return Standing(self.keys.known(domain, at), self.remembered(domain, policy, at))

    def remembered(self, domain: Domain, policy: PeerPolicy, at: float) -> ProofMethod | None:
        """By what it was proven last, within the policy's `remember_proof`."""
        within = policy.remember_proof
        return self.memory.remembered(domain, at, within, REMEMBERED) if within > 0 else None

    def enter(self, evidence: Evidence, local: Domain, found: Found, targets: Sequence[Target]) -> None:
        """A verdict was reached."""
        verdict, at = found.verdict, evidence.at.timestamp()
        if evidence.tls_version is not None:
            self.handshakes.judged(evidence, local, verdict)
        if verdict.proven_by in REMEMBERED:
            self.memory.proven(evidence.domain, verdict.proven_by, str(key_of(evidence.chain) or ""), at)
        if verdict.learn == "now":
            self.learn(evidence.domain, evidence.chain, at, f"proven by {verdict.proven_by}")
        new = self._hold(evidence, local, found, targets) if verdict.hold else False
        if verdict.ending is not None and verdict.ending.cause is Cause.PIN_MISMATCH:
            self._alarm(evidence, new)
        if verdict.report is not None:
            self.log.warn(
                event="proof lost", direction=_direction(evidence), leg="federation", peer=str(evidence.domain), local=str(local),
                address=evidence.address, cause=verdict.report.cause.value, detail=verdict.report.detail,
            )

    def learn(self, domain: Domain, chain: Sequence[bytes], at: float, how: str) -> None:
        """The first use of a key (R20)."""
        key = key_of(chain)
        if key is None or self.keys.known(domain, at).standing(chain) in ("known", "revoked"):
            return
        if self.keys.learn(RememberedKey(domain.ascii, key, "first-use", at, note=how, certificate=chain[0])):
            self.log.warn(event="key remembered", peer=str(domain), leg="federation", detail=f"first use, {how}: {key}")

    def _hold(self, evidence: Evidence, local: Domain, found: Found, targets: Sequence[Target]) -> bool:
        key = key_of(evidence.chain)
        if key is None:
            return False
        at, ending = evidence.at.timestamp(), found.verdict.ending
        new = self.inbox.hold(Pending(
            evidence.domain.ascii, key, at, at, 1, _direction(evidence), local.ascii, evidence.address,
            ending.cause.value if ending else "", tuple(each[:_REASON] for each in found.verdict.reasons),
            _facts(evidence, targets), evidence.chain,
        ))
        if new:
            self.log.warn(
                event="certificate waits", direction=_direction(evidence), leg="federation", peer=str(evidence.domain),
                local=str(local), address=evidence.address, detail=str(summarise(evidence.chain[0])),
            )
        return new

    def _alarm(self, evidence: Evidence, new: bool) -> None:
        """A changed key: critical when it is first seen, a warning each time after."""
        emit = self.log.critical if new or self.inbox.find(evidence.domain, _key(evidence)) is None else self.log.warn
        old = [str(each.key) for each in self.keys.of(evidence.domain) if each.counts(evidence.at.timestamp())]
        emit(
            event="key changed", direction=_direction(evidence), leg="federation", peer=str(evidence.domain),
            address=evidence.address, old=old, new=str(_key(evidence)), detail=str(summarise(evidence.chain[0])),
        )


def _key(evidence: Evidence) -> Fingerprint:
    return key_of(evidence.chain) or Fingerprint(b"")


def _direction(evidence: Evidence) -> Direction:
    return "inbound" if evidence.role == "initiating" else "outbound"


def _facts(evidence: Evidence, targets: Sequence[Target]) -> dict[str, object]:
    """What the DNS, and the web, said of the peer."""
    return {
        "targets": [
            {"host": each.host, "port": each.port, "addresses": list(each.addresses), "secure": each.secure} for each in targets
        ],
        "tlsa": [
            {"target": each.target, "records": list(map(str, each.records)), "secure": each.secure, "failure": each.failure}
            for each in evidence.tlsa
        ],
        "posh": None if evidence.posh is None else evidence.posh.failure or f"{len(evidence.posh.fingerprints)} certificates",
    }
