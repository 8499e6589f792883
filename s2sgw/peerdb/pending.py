"""The inbox of certificates that wait for the operator: refused ones of unknown issuers, and keys that have changed (R20)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from s2sgw.peerdb.database import PeerDatabase
from s2sgw.reporting.record import Direction
from s2sgw.trust.certificate import summarise
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain

#: Certificates that wait, in all and for one peer: those that came inbound alone go first, then those not seen for longest.
KEPT = 1000
PER_PEER = 8
#: Of a chain: so many certificates, so many bytes each.
CHAIN_CERTIFICATES = 8
CERTIFICATE_BYTES = 16384

_TABLES = """
CREATE TABLE IF NOT EXISTS pending (
    domain TEXT NOT NULL, key TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    direction TEXT NOT NULL, local TEXT NOT NULL, address TEXT NOT NULL, cause TEXT NOT NULL, reasons TEXT NOT NULL,
    dns TEXT NOT NULL, chain TEXT NOT NULL, PRIMARY KEY (domain, key)
) WITHOUT ROWID;
"""
_PUT = """
INSERT INTO pending VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (domain, key) DO UPDATE SET
    last = excluded.last, times = times + 1, local = excluded.local, address = excluded.address, cause = excluded.cause,
    reasons = excluded.reasons, dns = excluded.dns, chain = excluded.chain,
    direction = CASE WHEN direction = 'outbound' THEN direction ELSE excluded.direction END
"""
_ORDER = "ORDER BY direction = 'outbound', last"


@dataclass(frozen=True, slots=True)
class PendingCertificate:
    """A certificate that waits. `direction` is "outbound" if we ever met it on a stream of our own; `cause`: why it was refused,
    "" if it was not (dialback went on in its stead); `dns`: what was looked up of the peer. Times are seconds since the epoch.
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
        """The JSON row that operators see."""
        return {
            "peer": self.domain, "key": str(self.key), "first": self.first, "last": self.last, "times": self.times,
            "direction": self.direction, "local": self.local, "address": self.address, "cause": self.cause,
            "reasons": list(self.reasons), "dns": self.dns, "chain": [summarise(each).row() for each in self.chain],
        }


class PendingCertificates:
    """A `PendingStore` (see `peerdb.stores`) in a `PeerDatabase`."""

    def __init__(self, store: PeerDatabase) -> None:
        self._store = store
        store.define(_TABLES)

    def hold(self, pending: PendingCertificate) -> bool:
        """One more came; whether it is new here."""
        new = self.find(Domain.parse(pending.domain), pending.key) is None
        self._store.note((_PUT, (
            pending.domain, str(pending.key), pending.first, pending.last, pending.direction, pending.local, pending.address,
            pending.cause, json.dumps(pending.reasons), json.dumps(pending.dns), _encoded(pending.chain),
        )), *(self._over(pending.domain) if new else ()))
        return new

    def _over(self, domain: str) -> list[tuple[str, Sequence[Any]]]:
        """What makes room, once a new one is in."""
        excess = "LIMIT max(0, (SELECT count(*) FROM pending"
        own = f"SELECT key FROM pending WHERE domain = ? {_ORDER} {excess} WHERE domain = ?) - ?)"
        every = f"SELECT domain, key FROM pending {_ORDER} {excess}) - ?)"
        return [
            (f"DELETE FROM pending WHERE domain = ? AND key IN ({own})", (domain, domain, domain, PER_PEER)),
            (f"DELETE FROM pending WHERE (domain, key) IN ({every})", (KEPT,)),
        ]

    def list(self, domain: Domain | None = None) -> list[PendingCertificate]:
        """What waits, the last to come last; of one peer if it is named."""
        chosen = "" if domain is None else "WHERE domain = ? "
        parameters = () if domain is None else (domain.ascii,)
        return [_pending(row) for row in self._store.rows(f"SELECT * FROM pending {chosen}ORDER BY last", parameters)]

    def find(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        """One that waits."""
        rows = self._store.rows("SELECT * FROM pending WHERE domain = ? AND key = ?", (domain.ascii, str(key)))
        return _pending(rows[0]) if rows else None

    def take(self, domain: Domain, key: Fingerprint) -> PendingCertificate | None:
        """One that waits no longer. Raises `OSError`."""
        found = self.find(domain, key)
        if found is not None:
            self._store.decide(("DELETE FROM pending WHERE domain = ? AND key = ?", (domain.ascii, str(key))))
        return found


def _encoded(chain: Sequence[bytes]) -> str:
    kept = [each for each in chain[:CHAIN_CERTIFICATES] if len(each) <= CERTIFICATE_BYTES]
    return json.dumps([base64.b64encode(each).decode("ascii") for each in kept])


def _pending(row: tuple[Any, ...]) -> PendingCertificate:
    domain, key, first, last, times, direction, local, address, cause, reasons, dns, chain = row
    return PendingCertificate(
        domain, Fingerprint.parse(key), first, last, times, direction, local, address, cause, tuple(json.loads(reasons)),
        json.loads(dns), tuple(base64.b64decode(each) for each in json.loads(chain)),
    )
