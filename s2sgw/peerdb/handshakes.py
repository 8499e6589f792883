"""The handshakes of the last days: the evidence of each and the verdict, for `explain` and `replay`.

A repeated handshake (the same peer with the same evidence and verdict) is counted, not stored again. A chain of certificates is
stored once for all handshakes that showed it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.peerdb.database import PeerDatabase, Statement
from s2sgw.peerdb.evidence_json import evidence_json, evidence_of
from s2sgw.peerdb.fair_rows import trim, trim_name
from s2sgw.policy.verdict import Verdict
from s2sgw.trust.evidence import Evidence
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain

#: Handshakes that are kept, in all and of one peer, and for how many seconds.
KEPT = 5000
PER_PEER = 16
SECONDS = 7 * 86400.0
#: Handshakes that may be added beyond the bounds before the table is trimmed.
TRIM_EVERY = 64
#: Handshakes of one page when all are read.
PAGE = 20
#: Handshakes that are moved from a file of the first version.
MOVED = 1000
#: Bytes of a row beside its texts, approximately.
OVERHEAD = 300

_TABLES = """
CREATE TABLE IF NOT EXISTS chain (digest BLOB PRIMARY KEY, size INTEGER NOT NULL, certificates TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS handshake (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    domain TEXT NOT NULL, site TEXT NOT NULL, known INTEGER NOT NULL, role TEXT NOT NULL, local TEXT NOT NULL,
    size INTEGER NOT NULL, evidence TEXT NOT NULL, verdict TEXT NOT NULL, chain BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS handshake_by_domain ON handshake (domain, last);
CREATE INDEX IF NOT EXISTS handshake_by_last ON handshake (last);
CREATE INDEX IF NOT EXISTS handshake_by_chain ON handshake (chain);
"""
_PUT = """
INSERT INTO handshake (digest, first, last, times, domain, site, known, role, local, size, evidence, verdict, chain)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET last = excluded.last, times = times + 1, evidence = excluded.evidence,
    known = max(known, excluded.known)
"""
#: Rows that proved a peer go first: strangers cannot make these.
_ORDER = "instr(verdict, '\"proven_by\": null') > 0, last DESC"
_SELECT = """
SELECT handshake.id, first, last, times, local, evidence, verdict, certificates FROM handshake
LEFT JOIN chain ON chain.digest = handshake.chain
"""


@dataclass(frozen=True, slots=True)
class Handshake:
    """One judged handshake. `outcome` is the verdict in short (`outcome_of`). Times are seconds since the epoch."""

    first: float
    last: float
    times: int
    local: str
    evidence: Evidence
    outcome: Mapping[str, Any]


def outcome_of(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict in short: the method by which the stream goes on, or the cause of the refusal."""
    return {
        "accepted": verdict.ending is None, "proven_by": verdict.proven_by, "external": verdict.external,
        "dialback": verdict.dialback, "cause": verdict.ending.cause.value if verdict.ending else None,
    }


class Handshakes:
    """Judged handshakes, in a `PeerDatabase`. `is_known` returns whether a name is that of a proven or configured peer."""

    def __init__(self, database: PeerDatabase, is_known: Callable[[str], bool] = lambda name: False) -> None:
        self._database = database
        self._is_known = is_known
        self._writes = 0
        database.define(_TABLES)
        self._move_first_version()

    def _move_first_version(self) -> None:
        """Move the rows of a file of the first version to the new tables."""
        if not self._database.rows("SELECT 1 FROM sqlite_master WHERE name = 'handshakes'"):
            return
        known = "role = 'receiving' OR instr(verdict, '\"proven_by\": null') = 0"
        columns = f"digest, first, last, times, domain, role, local, evidence, verdict, {known}"
        rows = self._database.rows(f"SELECT {columns} FROM handshakes ORDER BY last DESC LIMIT ?", (MOVED,))
        statements = [
            statement for digest, first, last, times, domain, role, local, evidence, verdict, known in rows[::-1]
            for statement in self._put(digest, (first, last, times), (domain, role, local), json.loads(evidence), verdict, known)
        ]
        self._database.write(*statements, ("DROP TABLE handshakes", ()))

    def judged(self, evidence: Evidence, local: Domain, verdict: Verdict, wanted: bool = False) -> None:
        """Record a judged handshake. `wanted`: we have stanzas for the peer."""
        written, outcome = evidence_json(evidence), json.dumps(outcome_of(verdict))
        passing = {"at": 0, "address": "", "cipher": "", "posh": written["posh"] and {**written["posh"], "expires": 0}}
        same = [evidence.domain.ascii, evidence.role, local.ascii, written | passing, outcome]
        digest = hashlib.sha256(json.dumps(same).encode()).digest()
        at, domain = evidence.at.timestamp(), evidence.domain.ascii
        over = _trim(at, self._database.room // 4) if self._writes % TRIM_EVERY == 0 else ()
        self._writes += 1
        known = wanted or verdict.proven_by is not None or (verdict.ending is None and self._is_known(domain))
        put = self._put(digest, (at, at, 1), (domain, evidence.role, local.ascii), written, outcome, known)
        self._database.write(*put, trim_name("handshake", "domain", domain, PER_PEER, "role, verdict", _ORDER), *over)

    def _put(
        self, digest: bytes, times: tuple[float, float, int], whose: tuple[str, str, str], written: dict[str, Any], outcome: str,
        known: bool,
    ) -> list[Statement]:
        """Return the statements that write one handshake.

        `times`: its first and last time, and how often; `whose`: (domain, role, local).
        `known`: it is the peer's own. A claimant that cannot prove the name is a stranger.
        """
        domain, role, local = whose
        certificates = json.dumps(written.pop("chain"))
        chain = hashlib.sha256(certificates.encode()).digest()
        evidence = json.dumps(written)
        size = OVERHEAD + len(evidence) + len(outcome)
        site = registered_domain(domain)
        return [
            ("INSERT OR IGNORE INTO chain VALUES (?, ?, ?)", (chain, len(certificates), certificates)),
            (_PUT, (digest, *times, domain, site, known, role, local, size, evidence, outcome, chain)),
        ]

    def now_known(self, name: str) -> None:
        """Note that the peer of this name has proven itself."""
        self._database.write(("UPDATE handshake SET known = 1 WHERE domain = ?", (name,)))

    def forget(self, domain: Domain) -> None:
        """Forget the handshakes of a peer. Their chains are removed with the next ones that are too old."""
        self._database.write(("DELETE FROM handshake WHERE domain = ?", (domain.ascii,)))

    def of(self, domain: Domain) -> Deferred[list[Handshake]]:
        """Return the handshakes of a peer, the latest last. Fails with `OSError`."""
        found = self._database.ask(f"{_SELECT} WHERE domain = ? ORDER BY last", (domain.ascii,))
        return found.addCallback(_handshakes)

    async def all_since(self, at: float) -> AsyncIterator[Sequence[Handshake]]:
        """Return all handshakes since `at`, a page at a time, in the order of their first occurrence. Raises `OSError`."""
        after = 0
        query = f"{_SELECT} WHERE handshake.id > ? AND last >= ? ORDER BY handshake.id LIMIT ?"
        while True:
            rows = await self._database.ask(query, (after, at, PAGE))
            if not rows:
                return
            after = rows[-1][0]
            yield _handshakes(rows)


def _trim(at: float, size: int) -> list[Statement]:
    """Return the statements that keep the table within its bounds. Handshakes with the same chain share it."""
    sizes = "handshake.size + coalesce(chain.size, 0) / count(*) OVER (PARTITION BY handshake.chain)"
    return [
        ("DELETE FROM handshake WHERE last < ?", (at - SECONDS,)),
        trim("handshake", KEPT, size, sizes, "LEFT JOIN chain ON chain.digest = handshake.chain", _ORDER),
        ("DELETE FROM chain WHERE digest NOT IN (SELECT chain FROM handshake)", ()),
    ]


def _handshakes(rows: Sequence[tuple[Any, ...]]) -> list[Handshake]:
    return [_handshake(row) for row in rows]


def _handshake(row: tuple[Any, ...]) -> Handshake:
    _, first, last, times, local, evidence, outcome, certificates = row
    written = {**json.loads(evidence), "chain": json.loads(certificates or "[]")}
    return Handshake(first, last, times, local, evidence_of(written), json.loads(outcome))
