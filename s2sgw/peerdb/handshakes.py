"""The handshakes that were judged in the last days: the evidence of each and the verdict, for `explain` and `replay`.

One that says nothing new (the same peer with the same evidence and verdict) is counted, not kept again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2sgw.peerdb.database import PeerDatabase
from s2sgw.peerdb.evidence_json import evidence_json, evidence_of
from s2sgw.policy.verdict import Verdict
from s2sgw.trust.evidence import Evidence
from s2sgw.xmpp.jid import Domain

#: Handshakes that are kept, in all and of one peer, and for how many seconds.
KEPT = 5000
PER_PEER = 16
SECONDS = 7 * 86400.0
#: Handshakes that may be judged beyond the bounds of all until they are looked to.
TRIM_EVERY = 64

_TABLES = """
CREATE TABLE IF NOT EXISTS handshakes (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    domain TEXT NOT NULL, role TEXT NOT NULL, local TEXT NOT NULL, evidence TEXT NOT NULL, verdict TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS handshakes_by_domain ON handshakes (domain, last);
CREATE INDEX IF NOT EXISTS handshakes_by_last ON handshakes (last);
"""
_PUT = """
INSERT INTO handshakes (digest, first, last, times, domain, role, local, evidence, verdict) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET last = excluded.last, times = times + 1, evidence = excluded.evidence
"""
_COLUMNS = "first, last, times, local, evidence, verdict"


@dataclass(frozen=True, slots=True)
class Handshake:
    """One judged handshake; `outcome` is the verdict in a word each (`outcome_of`). Times are seconds since the epoch."""

    first: float
    last: float
    times: int
    local: str
    evidence: Evidence
    outcome: Mapping[str, Any]


def outcome_of(verdict: Verdict) -> dict[str, Any]:
    """What a verdict comes to: whether the stream goes on, by what, or the cause why not."""
    return {
        "accepted": verdict.ending is None, "proven_by": verdict.proven_by, "external": verdict.external,
        "dialback": verdict.dialback, "cause": verdict.ending.cause.value if verdict.ending else None,
    }


class Handshakes:
    """Judged handshakes, in a `PeerDatabase`."""

    def __init__(self, store: PeerDatabase) -> None:
        self._store = store
        self._writes = 0
        store.define(_TABLES)

    def judged(self, evidence: Evidence, local: Domain, verdict: Verdict) -> None:
        """One more was judged."""
        written, outcome = evidence_json(evidence), json.dumps(outcome_of(verdict))
        passing = {"at": 0, "address": "", "cipher": "", "posh": written["posh"] and {**written["posh"], "expires": 0}}
        same = [evidence.domain.ascii, evidence.role, local.ascii, written | passing, outcome]
        digest = hashlib.sha256(json.dumps(same).encode()).digest()
        at, domain = evidence.at.timestamp(), evidence.domain.ascii
        trim = _trim(at) if self._writes % TRIM_EVERY == 0 else ()
        self._writes += 1
        self._store.note(
            (_PUT, (digest, at, at, domain, evidence.role, local.ascii, json.dumps(written), outcome)), _own(domain), *trim,
        )

    def list(self, domain: Domain | None = None, since: float = 0.0) -> list[Handshake]:
        """What is remembered, the latest last; of one peer if it is named."""
        chosen, parameters = ("", ()) if domain is None else ("AND domain = ? ", (domain.ascii,))
        query = f"SELECT {_COLUMNS} FROM handshakes WHERE last >= ? {chosen}ORDER BY last"
        return [_handshake(row) for row in self._store.rows(query, (since, *parameters))]


def _own(domain: str) -> tuple[str, tuple[Any, ...]]:
    """Within the bound of one peer."""
    excess = "SELECT id FROM handshakes WHERE domain = ? ORDER BY last DESC LIMIT -1 OFFSET ?"
    return f"DELETE FROM handshakes WHERE id IN ({excess})", (domain, PER_PEER)


def _trim(at: float) -> list[tuple[str, tuple[Any, ...]]]:
    """Within the bounds of all, which is a walk over them."""
    excess = "SELECT id FROM handshakes ORDER BY last DESC LIMIT -1 OFFSET ?"
    return [
        ("DELETE FROM handshakes WHERE last < ?", (at - SECONDS,)),
        (f"DELETE FROM handshakes WHERE id IN ({excess})", (KEPT,)),
    ]


def _handshake(row: tuple[Any, ...]) -> Handshake:
    first, last, times, local, evidence, outcome = row
    return Handshake(first, last, times, local, evidence_of(json.loads(evidence)), json.loads(outcome))
