"""Past proofs: the methods that proved each peer, with times. A peer that proved itself well before is not accepted on less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import Literal, NamedTuple, cast

from s2sgw.peerdb.database import Content, PeerDatabase, Statement
from s2sgw.peerdb.fair_shares import FairShares
from s2sgw.policy.verdict import ProvenBy
from s2sgw.trust.evidence import ProofMethod
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.xmpp.jid import Domain

#: The proofs that are strong enough to be required again.
REMEMBERED: tuple[ProofMethod, ...] = ("pkix", "dane", "posh")
#: Peers whose proofs are kept. Of the registered domain with the most, those not renewed for longest go first.
NAMES = 50_000
#: Bytes of a proof, approximately.
OVERHEAD = 300
#: Seconds for which the same proof is not written again.
FRESH = 300.0

_COLUMNS = "domain, method, first, last, times, key"
_TABLES = """
CREATE TABLE IF NOT EXISTS proofs (
    domain TEXT NOT NULL, method TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    key TEXT NOT NULL, PRIMARY KEY (domain, method)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS proofs_by_last ON proofs (last);
"""
#: The expiry of the last certificate that a peer presented.
_EXPIRY_TABLE = "CREATE TABLE IF NOT EXISTS expiry (domain TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;"


#: Different keys of which one object is kept for all of their proofs.
KEYS = 256


@lru_cache(KEYS)
def _kept(key: str) -> str:
    """Return one object for equal keys: one key may prove thousands of sub-domains.

    `sys.intern` would keep each key for ever in Python 3.12.
    """
    return key


class PastProof(NamedTuple):
    """A proof by `method`, at least `times` times, from `first` until `last` (seconds since the epoch).

    `key` was the last one presented.
    """

    domain: str
    method: str
    first: float
    last: float
    times: int
    key: str

    def row(self) -> dict[str, object]:
        """Return the JSON row for operators."""
        return {"method": self.method, "first": self.first, "last": self.last, "times": self.times, "key": self.key}


class LastProof(NamedTuple):
    """The last proof of a peer, and its time. `expires`: the expiry of its certificate. Times are seconds since the epoch."""

    domain: str
    method: str
    last: float
    expires: float | None


class PastProofs:
    """A `ProofStore` (see `peerdb.stores`): in memory, and in a `PeerDatabase`."""

    def __init__(self, database: PeerDatabase) -> None:
        self._database = database
        self._proofs: dict[str, dict[str, PastProof]] = {}
        self._expiries: dict[str, float] = {}
        self._shares = FairShares(NAMES, database.room // 8)
        database.define(_TABLES, self._content)
        database.define(_EXPIRY_TABLE, self._expiry_content)
        for row in database.rows(f"SELECT {_COLUMNS} FROM proofs ORDER BY last"):
            self._proofs.setdefault(row[0], {})[row[1]] = PastProof(*row)._replace(key=_kept(row[5]))
        self._expiries = {domain: at for domain, at in database.rows("SELECT domain, at FROM expiry") if domain in self._proofs}
        gone = self._shares.fill({name: OVERHEAD * len(proofs) for name, proofs in self._proofs.items()})
        database.write(*(statement for domain in gone for statement in self._drop(domain)))

    def _expiry_content(self) -> Content:
        return Content("expiry", list(self._expiries.items()), _put_expiry)

    def _take(self, proof: PastProof) -> list[str]:
        """Keep a proof in memory. Return the domains that give way."""
        proofs = self._proofs.setdefault(proof.domain, {})
        proofs[proof.method] = proof
        return self._shares.put(proof.domain, OVERHEAD * len(proofs))

    def _drop(self, domain: str) -> list[Statement]:
        """Forget the proofs of a domain. Return the statements that delete them."""
        del self._proofs[domain]
        self._expiries.pop(domain, None)
        return [("DELETE FROM proofs WHERE domain = ?", (domain,)), ("DELETE FROM expiry WHERE domain = ?", (domain,))]

    def _content(self) -> Content:
        return Content("proofs", [proof for proofs in self._proofs.values() for proof in proofs.values()], _put)

    def proven(
        self, domain: Domain, method: ProvenBy | Literal["dialback"], key: str, at: float, certificate: bytes = b"",
    ) -> bool:
        known = self._proofs.get(domain.ascii, {}).get(method)
        if known is not None and known.key == key and known.last <= at < known.last + FRESH:
            return False
        first, times = (at, 0) if known is None else (known.first, known.times)
        is_new = domain.ascii not in self._proofs
        proof = PastProof(domain.ascii, method, first, at, times + 1, _kept(key))
        gone = self._take(proof)
        more = [statement for name in gone for statement in self._drop(name)]
        expires = expiry(certificate)
        if expires is not None and domain.ascii in self._proofs:
            self._expiries[domain.ascii] = expires
            more.append(_put_expiry((domain.ascii, expires)))
        self._database.write(_put(proof), *more)
        return is_new

    def is_proven(self, name: str) -> bool:
        return name in self._proofs

    def latest(self) -> Iterator[LastProof]:
        for domain, proofs in list(self._proofs.items()):
            last = max(proofs.values(), key=attrgetter("last"))
            yield LastProof(domain, last.method, last.last, self._expiries.get(domain))

    def last(self, domain: Domain) -> LastProof | None:
        return next((LastProof(*proof[:2], proof.last, self._expiries.get(domain.ascii)) for proof in self.of(domain)), None)

    async def forget(self, domain: Domain) -> bool:
        if domain.ascii not in self._proofs:
            return False
        self._shares.forget(domain.ascii)
        await self._database.write_durably(*self._drop(domain.ascii))
        return True

    def of(self, domain: Domain) -> list[PastProof]:
        return sorted(self._proofs.get(domain.ascii, {}).values(), key=lambda proof: -proof.last)

    def remembered(self, domain: Domain, at: float, within: float, methods: Iterable[str]) -> ProofMethod | None:
        return remembered_method(self.of(domain), at, within, methods)


def remembered_method(proofs: Iterable[PastProof], at: float, within: float, methods: Iterable[str]) -> ProofMethod | None:
    """Return the method among `methods` of the first proof, at most `within` seconds before `at`."""
    wanted = set(methods)
    found = (each.method for each in proofs if each.method in wanted and at - each.last < within)
    return cast("ProofMethod | None", next(found, None))


def expiry(certificate: bytes) -> float | None:
    """Return when a certificate expires; None: there is none, or it cannot be parsed."""
    with suppress(ValueError):
        return ParsedCertificate(certificate).certificate.not_valid_after_utc.timestamp()
    return None


def _put_expiry(row: tuple[str, float]) -> Statement:
    return "INSERT OR REPLACE INTO expiry VALUES (?, ?)", row


def _put(proof: PastProof) -> Statement:
    return f"INSERT OR REPLACE INTO proofs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", proof
