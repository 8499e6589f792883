"""Certificates that wait for the operator's approval: refused ones of unknown issuers, and changed keys (R20)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from s2sgw.peerdb.database import Content, PeerDatabase, Statement
from s2sgw.peerdb.fair_shares import FairShares
from s2sgw.reporting.record import Direction
from s2sgw.trust.certificate import summarise
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain

#: Certificates of one peer that wait, and peers with such certificates. Peers that we opened a stream to have the same number
#: again. Of the registered domain with the most, those not seen for longest go first.
PER_PEER = 8
PEERS = 1000
#: The bounds of a chain: certificates, and bytes of them.
CHAIN_CERTIFICATES = 8
CHAIN_BYTES = 16384
#: Bytes of one beside its chain and its reasons, approximately.
OVERHEAD = 1000

_TABLES = """
CREATE TABLE IF NOT EXISTS pending (
    domain TEXT NOT NULL, key TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    direction TEXT NOT NULL, local TEXT NOT NULL, address TEXT NOT NULL, cause TEXT NOT NULL, reasons TEXT NOT NULL,
    dns TEXT NOT NULL, chain TEXT NOT NULL, PRIMARY KEY (domain, key)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class PendingCertificate:
    """A certificate that waits. Times are seconds since the epoch.

    `direction` is "outbound" if we ever saw it while we had stanzas for the peer. `cause`: why it was refused; "": it was not,
    because dialback was used instead. `dns`: the results of look-ups for the peer.
    """

    domain: str
    key: Fingerprint
    first: float
    last: float
    times: int
    direction: Direction
    local: str
    address: str
    cause: str
    reasons: tuple[str, ...] = ()
    dns: dict[str, Any] = field(default_factory=dict)
    chain: tuple[bytes, ...] = ()

    def row(self) -> dict[str, object]:
        """Return the JSON row for operators."""
        return {
            "peer": self.domain, "key": str(self.key), "first": self.first, "last": self.last, "times": self.times,
            "direction": self.direction, "local": self.local, "address": self.address, "cause": self.cause,
            "reasons": list(self.reasons), "dns": self.dns, "chain": [summarise(each).row() for each in self.chain],
        }


class PendingCertificates:
    """A `PendingStore` (see `peerdb.stores`): in memory, and in a `PeerDatabase`."""

    def __init__(self, database: PeerDatabase) -> None:
        self._database = database
        self._pending: dict[str, dict[Fingerprint, PendingCertificate]] = {}
        #: peers that we never had stanzas for, and the others. Each kind gives way only to its own
        self._inbound, self._outbound = (FairShares(PEERS, database.room // 16) for _ in range(2))
        database.define(_TABLES, self._content)
        for row in database.rows("SELECT * FROM pending ORDER BY last"):
            self._take(_pending(row))

    def _content(self) -> Content:
        return Content("pending", self.list(), _put)

    def _take(self, pending: PendingCertificate) -> list[tuple[str, Fingerprint]]:
        """Keep one in memory. Return the domain and the key of those that give way."""
        rows = self._pending.setdefault(pending.domain, {})
        rows.pop(pending.key, None)
        rows[pending.key] = pending
        gone = []
        if len(rows) > PER_PEER:
            others = [row for row in rows.values() if row is not pending]
            oldest = min(others, key=lambda row: (row.direction == "outbound", row.last))
            gone.append((oldest.domain, oldest.key))
            del rows[oldest.key]
        wanted = any(row.direction == "outbound" for row in rows.values())
        shares, other_shares = (self._outbound, self._inbound) if wanted else (self._inbound, self._outbound)
        other_shares.forget(pending.domain)
        for domain in shares.put(pending.domain, sum(map(_size, rows.values()))):
            gone += [(domain, key) for key in self._pending.pop(domain)]
        return gone

    def hold(self, pending: PendingCertificate) -> bool:
        before = self._pending.get(pending.domain, {}).get(pending.key)
        pending = replace(pending, chain=kept_chain(pending.chain))
        if before is not None:
            direction = before.direction if before.direction == "outbound" else pending.direction
            pending = replace(pending, first=before.first, times=before.times + 1, direction=direction)
        gone = self._take(pending)
        put = [] if (pending.domain, pending.key) in gone else [_put(pending)]
        self._database.write(*put, *(_delete(domain, key) for domain, key in gone))
        return before is None

    def list(self, domain: Domain | None = None) -> list[PendingCertificate]:
        names = self._pending if domain is None else [domain.ascii]
        rows = [row for name in names for row in self._pending.get(name, {}).values()]
        return sorted(rows, key=attrgetter("last"))

    def find(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        return self._pending.get(domain.ascii, {}).get(key)

    async def take(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        found = self.find(domain, key)
        if found is None:
            return None
        await self._database.write_durably(_delete(domain.ascii, key))
        rows = self._pending.get(domain.ascii, {})
        rows.pop(key, None)
        if not rows:
            self._pending.pop(domain.ascii, None)
            self._inbound.forget(domain.ascii)
            self._outbound.forget(domain.ascii)
        return found


def _size(pending: PendingCertificate) -> int:
    return OVERHEAD + sum(map(len, pending.chain)) * 4 // 3 + sum(map(len, pending.reasons))


def _put(pending: PendingCertificate) -> Statement:
    values = (
        pending.domain, str(pending.key), pending.first, pending.last, pending.times, pending.direction, pending.local,
        pending.address, pending.cause, json.dumps(pending.reasons), json.dumps(pending.dns), _encoded(pending.chain),
    )
    return "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values


def _delete(domain: str, key: Fingerprint) -> Statement:
    return "DELETE FROM pending WHERE domain = ? AND key = ?", (domain, str(key))


def kept_chain(chain: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the part of a chain that is kept: the leaf, and others as far as there is room."""
    kept: list[bytes] = []
    for each in chain[:CHAIN_CERTIFICATES]:
        if len(each) <= CHAIN_BYTES - sum(map(len, kept)):
            kept.append(each)
    return tuple(kept)


def _encoded(chain: Sequence[bytes]) -> str:
    return json.dumps([base64.b64encode(each).decode("ascii") for each in chain])


def _pending(row: tuple[Any, ...]) -> PendingCertificate:
    domain, key, first, last, times, direction, local, address, cause, reasons, dns, chain = row
    return PendingCertificate(
        domain, Fingerprint.parse(key), first, last, times, direction, local, address, cause, tuple(json.loads(reasons)),
        json.loads(dns), tuple(base64.b64decode(each) for each in json.loads(chain)),
    )
