"""The keys that are remembered for each peer: approved by the operator, or by their first use, or revoked (R20)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from s2sgw.peerdb.database import Content, PeerDatabase, Statement
from s2sgw.peerdb.fair_shares import FairShares
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.verdict import KeyStanding
from s2sgw.trust.certificate import Summary, summarise
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain

Origin = Literal["operator", "first-use"]
#: Keys remembered for one peer, and peers remembered by their first use. Beyond that, those of the domain with the most go first.
PER_PEER = 16
FIRST_USES = 20_000
#: Bytes of a key beside its certificate, approximately, and of a certificate that is kept with it.
OVERHEAD = 300
CERTIFICATE_BYTES = 16_384

_TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    domain TEXT NOT NULL, key TEXT NOT NULL, origin TEXT NOT NULL, at REAL NOT NULL, expires REAL, revoked REAL,
    note TEXT NOT NULL, certificate BLOB NOT NULL, PRIMARY KEY (domain, key)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class RememberedKey:
    """One key of a peer. `certificate` is the one that showed it (DER; b"": never seen). Times are seconds since the epoch."""

    domain: str
    key: Fingerprint
    origin: Origin
    at: float
    expires: float | None = None
    revoked: float | None = None
    note: str = ""
    certificate: bytes = b""

    def counts(self, at: float) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or at < self.expires)

    @property
    def is_first_use(self) -> bool:
        """Whether the key was remembered by its first use, and not revoked since."""
        return self.origin == "first-use" and self.revoked is None

    @property
    def summary(self) -> Summary | None:
        return summarise(self.certificate) if self.certificate else None

    def row(self) -> dict[str, object]:
        """Return the JSON row for operators."""
        summary = self.summary
        return {
            "peer": self.domain, "key": str(self.key), "origin": self.origin, "at": self.at, "expires": self.expires,
            "revoked": self.revoked, "note": self.note, "certificate": summary.row() if summary else None,
        }


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The keys of one peer that are valid at one moment."""

    approved: frozenset[Fingerprint] = field(default_factory=frozenset)
    first_use: frozenset[Fingerprint] = field(default_factory=frozenset)
    revoked: frozenset[Fingerprint] = field(default_factory=frozenset)

    def under(self, policy: PeerPolicy) -> KnownKeys:
        """Return the keys that count under a policy: approved ones if it accepts pins, first uses if it accepts strangers."""
        asks = policy.unknown_issuer != "reject"
        heard = asks or "pin" in policy.proofs
        none: frozenset[Fingerprint] = frozenset()
        return KnownKeys(self.approved if heard else none, self.first_use if asks else none, self.revoked if heard else none)

    def standing(self, chain: Sequence[bytes]) -> KeyStanding:
        """Return the standing of the key in the presented certificate."""
        remembered = self.approved | self.first_use
        key = key_of(chain)
        if key is None:
            return "absent" if remembered else "unknown"
        if key in self.revoked:
            return "revoked"
        return "known" if key in remembered else "changed" if remembered else "unknown"


def key_of(chain: Sequence[bytes]) -> Fingerprint | None:
    """Return the key of the leaf; None: there is none, or it cannot be parsed."""
    try:
        return Fingerprint.of(chain[0]) if chain else None
    except ValueError:
        return None


def known_keys(keys: Collection[RememberedKey], at: float) -> KnownKeys:
    """Return which of the keys of a peer are valid at `at`."""
    live = [each for each in keys if each.counts(at)]
    return KnownKeys(
        frozenset(each.key for each in live if each.origin == "operator"),
        frozenset(each.key for each in live if each.origin == "first-use"),
        frozenset(each.key for each in keys if each.revoked is not None),
    )


def age(key: RememberedKey) -> tuple[float, str]:
    """Return the order of the keys of one peer."""
    return key.at, str(key.key)


class PeerKeys:
    """A `KeyStore` (see `peerdb.stores`): in memory, and in a `PeerDatabase`."""

    def __init__(self, database: PeerDatabase) -> None:
        self._database = database
        self._keys: dict[str, dict[Fingerprint, RememberedKey]] = {}
        self._first_uses = FairShares(FIRST_USES, database.room // 4)
        database.define(_TABLES, self._content)
        for name, key, *rest in database.rows("SELECT * FROM keys ORDER BY domain, at, key"):
            found = RememberedKey(name, Fingerprint.parse(key), *rest)
            self._keys.setdefault(name, {})[found.key] = found
        rows = [key for keys in self._keys.values() for key in keys.values() if key.is_first_use]
        gone = self._first_uses.fill({key.domain: _size(key) for key in sorted(rows, key=age)})
        database.write(*(_delete(domain, key) for domain in gone for key in self._drop_first_uses(domain)))

    def _take(self, key: RememberedKey) -> list[str]:
        """Keep a key in memory. Return the domains whose first uses give way."""
        self._keys.setdefault(key.domain, {})[key.key] = key
        return self._first_uses.put(key.domain, _size(key)) if key.is_first_use else []

    def _content(self) -> Content:
        return Content("keys", [key for keys in self._keys.values() for key in keys.values()], _put)

    def known(self, domain: Domain, at: float) -> KnownKeys:
        return known_keys(self._keys.get(domain.ascii, {}).values(), at)

    def of(self, domain: Domain | None = None) -> list[RememberedKey]:
        names = sorted(self._keys) if domain is None else [domain.ascii]
        return [key for name in names for key in sorted(self._keys.get(name, {}).values(), key=age)]

    async def approve(self, key: RememberedKey) -> None:
        others = self._keys.get(key.domain, {}).keys() - {key.key}
        if len(others) >= PER_PEER:
            raise OSError(f"{PER_PEER} keys are remembered for {key.domain} already; revoked ones go with `pins revoke --forget`")
        await self._database.write_durably(_put(key))
        self._forget_first_use(key.domain, key.key)
        self._take(key)

    async def revoke(self, domain: Domain, key: Fingerprint, at: float) -> bool:
        found = self._keys.get(domain.ascii, {}).get(key)
        if found is None or found.revoked is not None:
            return False
        revoked = replace(found, revoked=at)
        await self._database.write_durably(_put(revoked))
        self._forget_first_use(domain.ascii, key)
        self._take(revoked)
        return True

    async def forget(self, domain: Domain, key: Fingerprint) -> bool:
        if key not in self._keys.get(domain.ascii, {}):
            return False
        await self._database.write_durably(_delete(domain.ascii, key))
        self._forget_first_use(domain.ascii, key)
        self._drop(domain.ascii, key)
        return True

    def mirror(self, domain: str, keys: Collection[RememberedKey]) -> None:
        """Keep exactly these keys of a domain: they are those of a store that nodes share."""
        if set(self._keys.get(domain, {}).values()) == set(keys):
            return
        self._keys.pop(domain, None)
        self._first_uses.forget(domain)
        for key in keys:
            self._take(key)
        self._database.write(("DELETE FROM keys WHERE domain = ?", (domain,)), *map(_put, keys))

    async def learn_if(self, key: RememberedKey, judged_with: KnownKeys) -> bool:
        return True  # nothing has changed since, and `learn` remembers it

    def learn(self, key: RememberedKey) -> bool:
        if len(key.certificate) > CERTIFICATE_BYTES:
            key = replace(key, certificate=b"")
        statements = [_delete(key.domain, each) for each in self._drop_first_uses(key.domain)]
        gone = self._take(key)
        for domain in gone:
            statements += [_delete(domain, each) for each in self._drop_first_uses(domain)]
        if key.domain in gone:
            self._database.write(*statements)
            return False
        self._database.write(*statements, _put(key))
        return True

    def _drop_first_uses(self, domain: str) -> list[Fingerprint]:
        """Forget the first uses of a domain that were not revoked. Return their keys."""
        keys = self._keys.get(domain, {})
        gone = [key for key, each in keys.items() if each.is_first_use]
        for key in gone:
            self._drop(domain, key)
        return gone

    def _forget_first_use(self, domain: str, key: Fingerprint) -> None:
        found = self._keys.get(domain, {}).get(key)
        if found is not None and found.origin == "first-use":
            self._first_uses.forget(domain)

    def _drop(self, domain: str, key: Fingerprint) -> None:
        keys = self._keys[domain]
        del keys[key]
        if not keys:
            del self._keys[domain]


def _size(key: RememberedKey) -> int:
    return OVERHEAD + len(key.certificate)


def _put(key: RememberedKey) -> Statement:
    values = (key.domain, str(key.key), key.origin, key.at, key.expires, key.revoked, key.note, key.certificate)
    return "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values


def _delete(domain: str, key: Fingerprint) -> Statement:
    return "DELETE FROM keys WHERE domain = ? AND key = ?", (domain, str(key))
