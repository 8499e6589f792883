"""The memory of past proof: by what each peer was proven, and when last. Who once proved itself well is not accepted on less."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from s2sgw.peerdb.database import PeerDatabase
from s2sgw.trust.evidence import ProofMethod
from s2sgw.xmpp.jid import Domain

#: What is strong enough to be missed when it is no longer there.
REMEMBERED: tuple[ProofMethod, ...] = ("pkix", "dane", "posh")
#: Proofs (of one peer by one method) that are kept; those not renewed for longest go first.
KEPT = 100_000
#: Seconds in which the same proof is not written again.
FRESH = 300.0
_TRIM_EVERY = 256

_TABLES = """
CREATE TABLE IF NOT EXISTS proofs (
    domain TEXT NOT NULL, method TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    key TEXT NOT NULL, PRIMARY KEY (domain, method)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS proofs_by_last ON proofs (last);
"""


@dataclass(frozen=True, slots=True)
class PastProof:
    """By `method`, `times` at least, from `first` until `last` (seconds since the epoch); `key` was the last one presented."""

    domain: str
    method: ProofMethod
    first: float
    last: float
    times: int
    key: str

    def row(self) -> dict[str, object]:
        return {"method": self.method, "first": self.first, "last": self.last, "times": self.times, "key": self.key}


class PastProofs:
    """A `ProofStore` (see `peerdb.stores`) in a `PeerDatabase`."""

    def __init__(self, store: PeerDatabase) -> None:
        self._store = store
        self._writes = 0
        store.define(_TABLES)

    def proven(self, domain: Domain, method: ProofMethod, key: str, at: float) -> None:
        """The peer was proven now."""
        known = next((each for each in self.of(domain) if each.method == method), None)
        if known is not None and known.key == key and known.last <= at < known.last + FRESH:
            return
        self._store.note((
            "INSERT INTO proofs VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT (domain, method) "
            "DO UPDATE SET last = excluded.last, times = times + 1, key = excluded.key",
            (domain.ascii, method, at, at, key),
        ))
        self._writes += 1
        if self._writes % _TRIM_EVERY == 0:
            self.trim()

    def trim(self, kept: int = KEPT) -> None:
        """Forget what was not renewed for longest."""
        excess = self._store.rows("SELECT count(*) FROM proofs")[0][0] - kept
        if excess > 0:
            oldest = "SELECT domain, method FROM proofs ORDER BY last LIMIT ?"
            self._store.note((f"DELETE FROM proofs WHERE (domain, method) IN ({oldest})", (excess,)))

    def of(self, domain: Domain) -> list[PastProof]:
        """All that is remembered of a peer, the latest first."""
        rows = self._store.rows("SELECT * FROM proofs WHERE domain = ? ORDER BY last DESC", (domain.ascii,))
        return [PastProof(name, cast(ProofMethod, method), *rest) for name, method, *rest in rows]

    def remembered(self, domain: Domain, at: float, within: float, methods: Iterable[str]) -> ProofMethod | None:
        """The method among `methods` that proved the peer last, within so many seconds."""
        wanted = set(methods)
        return next((each.method for each in self.of(domain) if each.method in wanted and at - each.last < within), None)
