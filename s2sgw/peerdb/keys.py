"""The keys that are remembered for each peer: approved by the operator, or by their first use, or revoked (R20)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from s2sgw.peerdb.database import PeerDatabase
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.verdict import KeyStanding
from s2sgw.trust.certificate import Summary, summarise
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain

Origin = Literal["operator", "first-use"]
#: Keys remembered for one peer, and by first use in all.
PER_PEER = 16
FIRST_USES = 100_000

_TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    domain TEXT NOT NULL, key TEXT NOT NULL, origin TEXT NOT NULL, at REAL NOT NULL, expires REAL, revoked REAL,
    note TEXT NOT NULL, certificate BLOB NOT NULL, PRIMARY KEY (domain, key)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class RememberedKey:
    """One key of a peer. `certificate` is the one it came in (DER; b"": never seen). Times are seconds since the epoch."""

    domain: str
    key: Fingerprint
    origin: Origin
    at: float
    expires: float | None = None
    revoked: float | None = None
    note: str = ""
    certificate: bytes = b""

    def counts(self, at: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or at < self.expires)

    @property
    def summary(self) -> Summary | None:
        return summarise(self.certificate) if self.certificate else None

    def row(self) -> dict[str, object]:
        """The JSON row that operators see."""
        summary = self.summary
        return {
            "peer": self.domain, "key": str(self.key), "origin": self.origin, "at": self.at, "expires": self.expires,
            "revoked": self.revoked, "note": self.note, "certificate": summary.row() if summary else None,
        }


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The keys of one peer that count at one moment."""

    approved: frozenset[Fingerprint] = field(default_factory=frozenset)
    first_use: frozenset[Fingerprint] = field(default_factory=frozenset)
    revoked: frozenset[Fingerprint] = field(default_factory=frozenset)

    def under(self, policy: PeerPolicy) -> KnownKeys:
        """Those that the policy has an ear for: approvals where pins or approvals count, first uses where strangers may come."""
        asks = policy.unknown_issuer != "reject"
        heard = asks or "pin" in policy.proofs
        none: frozenset[Fingerprint] = frozenset()
        return KnownKeys(self.approved if heard else none, self.first_use if asks else none, self.revoked if heard else none)

    def standing(self, chain: Sequence[bytes]) -> KeyStanding:
        """What the key of the certificate presented is to us."""
        remembered = self.approved | self.first_use
        key = key_of(chain)
        if key is None:
            return "absent" if remembered else "unknown"
        if key in self.revoked:
            return "revoked"
        return "known" if key in remembered else "changed" if remembered else "unknown"


def key_of(chain: Sequence[bytes]) -> Fingerprint | None:
    """The key of the leaf; None where there is none that can be read."""
    try:
        return Fingerprint.of(chain[0]) if chain else None
    except ValueError:
        return None


class PeerKeys:
    """A `KeyStore` (see `peerdb.stores`) in a `PeerDatabase`."""

    def __init__(self, store: PeerDatabase) -> None:
        self._store = store
        store.define(_TABLES)

    def known(self, domain: Domain, at: float) -> KnownKeys:
        rows = self.of(domain)
        live = [each for each in rows if each.counts(at)]
        return KnownKeys(
            frozenset(each.key for each in live if each.origin == "operator"),
            frozenset(each.key for each in live if each.origin == "first-use"),
            frozenset(each.key for each in rows if each.revoked is not None),
        )

    def of(self, domain: Domain | None = None) -> list[RememberedKey]:
        chosen = "" if domain is None else "WHERE domain = ? "
        parameters = () if domain is None else (domain.ascii,)
        rows = self._store.rows(f"SELECT * FROM keys {chosen}ORDER BY domain, at", parameters)
        return [RememberedKey(name, Fingerprint.parse(key), *rest) for name, key, *rest in rows]

    def approve(self, key: RememberedKey) -> None:
        others = len([each for each in self.of(Domain.parse(key.domain)) if each.key != key.key])
        if others >= PER_PEER:
            raise OSError(f"{PER_PEER} keys are remembered for {key.domain} already; revoked ones go with `pins revoke --forget`")
        self._store.decide(_put(key))

    def revoke(self, domain: Domain, key: Fingerprint, at: float) -> bool:
        statement = "UPDATE keys SET revoked = ? WHERE domain = ? AND key = ? AND revoked IS NULL"
        return self._store.decide((statement, (at, domain.ascii, str(key)))) > 0

    def forget(self, domain: Domain, key: Fingerprint) -> bool:
        """As if the key had never been seen. Raises `OSError`."""
        return self._store.decide(("DELETE FROM keys WHERE domain = ? AND key = ?", (domain.ascii, str(key)))) > 0

    def learn(self, key: RememberedKey) -> bool:
        if self._store.rows("SELECT count(*) FROM keys WHERE origin = 'first-use'")[0][0] >= FIRST_USES:
            return False
        earlier = ("DELETE FROM keys WHERE domain = ? AND origin = 'first-use' AND revoked IS NULL", (key.domain,))
        return self._store.note(earlier, _put(key))


def _put(key: RememberedKey) -> tuple[str, tuple[object, ...]]:
    values = (key.domain, str(key.key), key.origin, key.at, key.expires, key.revoked, key.note, key.certificate)
    return "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
