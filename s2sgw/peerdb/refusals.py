"""Refusals on disk, within bounds, so that they survive a restart. A repeated refusal is counted, not stored again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from s2sgw.peerdb.database import PeerDatabase, Statement
from s2sgw.peerdb.fair_rows import trim, trim_name
from s2sgw.reporting.record import PER_NAME, RefusalRecord
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.registered_domain import registered_domain

#: Refusals that are kept in all, and that may be added before the table is trimmed.
KEPT = 20_000
TRIM_EVERY = 64
#: Refusals that a start reads: those of known peers first, then the newest.
READ = 4000
#: Bytes of a row beside its text, approximately.
OVERHEAD = 250

_TABLES = """
CREATE TABLE IF NOT EXISTS refusal (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, peer TEXT NOT NULL, site TEXT NOT NULL, known INTEGER NOT NULL,
    last REAL NOT NULL, size INTEGER NOT NULL, content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS refusal_by_peer ON refusal (peer, last);
CREATE INDEX IF NOT EXISTS refusal_by_last ON refusal (known, last);
"""
_PUT = """
INSERT INTO refusal (digest, peer, site, known, last, size, content) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET known = max(known, excluded.known), last = excluded.last, size = excluded.size,
    content = excluded.content
"""
#: Refusals of our own attempts go first: strangers cause the others.
_ORDER = "instr(content, '\"direction\": \"outbound\"') = 0, last DESC"
_KINDS = "json_extract(content, '$.direction'), json_extract(content, '$.cause')"


class StoredRefusals:
    """Refusals, in a `PeerDatabase`. `is_known` returns whether a name is that of a proven or configured peer."""

    def __init__(self, database: PeerDatabase, is_known: Callable[[str], bool] = lambda name: False) -> None:
        self._database = database
        self._is_known = is_known
        self._writes = 0
        database.define(_TABLES)
        self._past = self._of_the_first_version() or self._read_past()

    def _of_the_first_version(self) -> list[RefusalRecord]:
        """Return the newest refusals of a file of the first version. They are written to the new table."""
        if not self._database.rows("SELECT 1 FROM sqlite_master WHERE name = 'refusals'"):
            return []
        rows = self._database.rows("SELECT refusal FROM refusals ORDER BY last DESC LIMIT ?", (READ,))
        refusals = [_read(json.loads(text)).clipped() for (text,) in rows][::-1]
        self._database.write(*map(self._put, refusals), ("DROP TABLE refusals", ()))
        return refusals

    def keep(self, refused: RefusalRecord) -> None:
        """Store a refusal. A repeated refusal replaces the stored one, and wakes no thread: it has only a new time and number."""
        over = (trim("refusal", KEPT, self._database.room // 4, order=_ORDER),) if self._writes % TRIM_EVERY == 0 else ()
        self._writes += 1
        own = trim_name("refusal", "peer", refused.peer, PER_NAME, _KINDS, _ORDER)
        write = self._database.write if refused.times == 1 else self._database.write_later
        write(self._put(refused), own, *over)

    def forget(self, peer: str) -> None:
        """Forget the refusals of a peer."""
        self._database.write(("DELETE FROM refusal WHERE peer = ?", (peer,)))

    def is_known(self, refused: RefusalRecord) -> bool:
        """Return whether a refusal is of a peer that was proven, is configured, or that we want to reach."""
        return refused.direction == "outbound" or self._is_known(refused.peer)

    def now_known(self, name: str) -> None:
        """Note that the peer of this name has proven itself."""
        self._database.write(("UPDATE refusal SET known = 1 WHERE peer = ?", (name,)))

    def past(self) -> list[RefusalRecord]:
        """Return the refusals of earlier runs, as of the opening of the file, oldest first. They are returned once."""
        past, self._past = self._past, []
        return past

    def _read_past(self) -> list[RefusalRecord]:
        """Read the refusals for a start: those of known peers first, then others. Registered domains take turns in both."""
        turn = "row_number() OVER (PARTITION BY known, site ORDER BY last DESC)"
        rows = self._database.rows(f"SELECT content FROM refusal ORDER BY known DESC, {turn}, last DESC LIMIT ?", (READ,))
        return sorted((_read(json.loads(text)) for (text,) in rows), key=attrgetter("at"))

    def _put(self, refused: RefusalRecord) -> Statement:
        content = json.dumps(_written(refused))
        size = OVERHEAD + len(content)
        site = registered_domain(refused.peer)
        return _PUT, (_digest(refused), refused.peer, site, self.is_known(refused), refused.at, size, content)


def _digest(refused: RefusalRecord) -> bytes:
    return hashlib.sha256(json.dumps(refused.sameness).encode()).digest()


def _written(refused: RefusalRecord) -> dict[str, Any]:
    ending = refused.ending
    return {
        "at": refused.at, "direction": refused.direction, "leg": refused.leg, "peer": refused.peer, "local": refused.local,
        "address": refused.address, "cause": ending.cause.value, "detail": ending.detail, "by": ending.by,
        "condition": ending.condition, "reasons": refused.reasons, "times": refused.times, "first": refused.first,
    }


def _read(row: dict[str, Any]) -> RefusalRecord:
    ending = Ending(Cause(row["cause"]), row["detail"], row["by"], row["condition"])
    return RefusalRecord(
        row["at"], row["direction"], row["leg"], row["peer"], row["local"], row["address"], ending, tuple(row["reasons"]),
        row["times"], row["first"],
    )
