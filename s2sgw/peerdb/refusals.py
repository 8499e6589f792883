"""The record of refusals on disk: bounded, and there again after a restart. The same refusal again is counted, not kept twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from s2sgw.peerdb.database import PeerDatabase
from s2sgw.reporting.record import PER_NAME, RefusalRecord
from s2sgw.xmpp.ending import Cause, Ending

#: Refusals that are kept in all, and how many more there may be until that is looked to, which is a walk over them.
KEPT = 20_000
TRIM_EVERY = 64

_TABLES = """
CREATE TABLE IF NOT EXISTS refusals (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, peer TEXT NOT NULL, last REAL NOT NULL, refusal TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS refusals_by_peer ON refusals (peer, last);
CREATE INDEX IF NOT EXISTS refusals_by_last ON refusals (last);
"""
_OWN = "SELECT id FROM refusals WHERE peer = ? ORDER BY last DESC LIMIT -1 OFFSET ?"
_EVERY = "SELECT id FROM refusals ORDER BY last DESC LIMIT -1 OFFSET ?"


class StoredRefusals:
    """Refusals, in a `PeerDatabase`."""

    def __init__(self, store: PeerDatabase) -> None:
        self._store = store
        self._writes = 0
        store.define(_TABLES)

    def keep(self, refused: RefusalRecord) -> None:
        """Write down a refusal; one that was kept already and has happened again takes its own place."""
        over = [(f"DELETE FROM refusals WHERE id IN ({_EVERY})", (KEPT,))] if self._writes % TRIM_EVERY == 0 else []
        self._writes += 1
        self._store.note(
            ("INSERT OR REPLACE INTO refusals (digest, peer, last, refusal) VALUES (?, ?, ?, ?)",
             (_digest(refused), refused.peer, refused.at, json.dumps(_written(refused)))),
            (f"DELETE FROM refusals WHERE id IN ({_OWN})", (refused.peer, PER_NAME)),
            *over,
        )

    def past(self) -> list[RefusalRecord]:
        """All that is kept, oldest first."""
        return [_read(json.loads(text)) for (text,) in self._store.rows("SELECT refusal FROM refusals ORDER BY last")]


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
