"""The stores of records about peers, by kind: the protocols that `PeerRecords` uses.

On one machine each is a table of the peer database (`peerdb.keys`, `.pending`, `.past_proofs`). Nodes that share their records
can use another store for each (docs/decisions.md#nodes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from s2sgw.peerdb.keys import KnownKeys, RememberedKey
from s2sgw.peerdb.past_proofs import LastProof, PastProof
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.policy.verdict import ProvenBy
from s2sgw.trust.evidence import ProofMethod
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain


class KeyStore(Protocol):
    """Keys of peers: approved, remembered at first use, revoked (R20)."""

    def known(self, domain: Domain, at: float) -> KnownKeys:
        """Return the keys that are valid at `at`."""

    def of(self, domain: Domain | None = None) -> list[RememberedKey]:
        """Return all remembered keys (of one domain), also those that are no longer valid."""

    async def approve(self, key: RememberedKey) -> None:
        """Remember a key that the operator approved. Raises `OSError`."""

    async def revoke(self, domain: Domain, key: Fingerprint, at: float) -> bool:
        """Revoke a key. Return whether there was such a key. Raises `OSError`."""

    async def forget(self, domain: Domain, key: Fingerprint) -> bool:
        """Forget a key, as if it had never been seen. Return whether there was such a key. Raises `OSError`."""

    def learn(self, key: RememberedKey) -> bool:
        """Remember the key of a first use, in place of earlier ones. Return whether it could be remembered."""

    async def learn_if(self, key: RememberedKey, judged_with: KnownKeys) -> bool:
        """Agree with other nodes on the key of a first use, before a verdict rests on it. Then `learn` remembers it.

        `judged_with`: what was known when it was judged. Return False if something else is known by now, and nothing is
        remembered. Raises `OSError` if the other nodes cannot be asked.
        """


class PendingStore(Protocol):
    """Certificates that wait for an operator's approval."""

    def hold(self, pending: PendingCertificate) -> bool:
        """Store one. Return whether it is new."""

    def list(self, domain: Domain | None = None) -> list[PendingCertificate]:
        """Return the pending certificates (of one domain), the newest last."""

    def find(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        """Return the certificate with this key; None: it is not pending."""

    async def take(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        """Remove the certificate with this key, and return it. Raises `OSError`."""


class ProofStore(Protocol):
    """The methods that proved each peer, with times."""

    def proven(
        self, domain: Domain, method: ProvenBy | Literal["dialback"], key: str, at: float, certificate: bytes = b"",
    ) -> bool:
        """Remember that `method` proved the peer at `at`. `key` and `certificate` (DER) were presented, if any.

        Return whether it is the first proof of the peer.
        """

    def latest(self) -> Iterator[LastProof]:
        """Return an iterator over the last proof of each peer."""

    def last(self, domain: Domain) -> LastProof | None:
        """Return the last proof of a peer."""

    async def forget(self, domain: Domain) -> bool:
        """Forget the proofs of a peer. Return whether there were any. Raises `OSError`."""

    def is_proven(self, name: str) -> bool:
        """Return whether the peer with these A-labels was ever proven."""

    def of(self, domain: Domain) -> list[PastProof]:
        """Return all past proofs of a peer, the latest first."""

    def remembered(self, domain: Domain, at: float, within: float, methods: Iterable[str]) -> ProofMethod | None:
        """Return the method among `methods` that proved the peer last, at most `within` seconds before `at`."""
